package monitor

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	simgraphql "gitlab-runner-fleet-exporter/internal/gitlabsim/graphql"
	"gitlab-runner-fleet-exporter/internal/queue"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// The queue is read each minute by a request or two, right by tag, and withdrawn
// where it cannot be read any more.
func TestQueueIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Token: secret})
		mount(t, world)
		for range 4 {
			world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"gpu"}, NoJobs: true})
			world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"arm"}, NoJobs: true})
		}
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{queue: queue.Options{Interval: time.Minute}})
		time.Sleep(5 * time.Minute)
		if q := s.scrape().Queue; q == nil || q.Jobs != 0 || q.Truncated {
			t.Fatalf("empty: %+v", q)
		}
		oldest := time.Now()
		for range 3 {
			world.CreateJob(gitlabsim.JobSpec{Tags: []string{"gpu"}})
		}
		before := world.Requests()["POST /graphql"]
		time.Sleep(10 * time.Minute)
		q := s.scrape().Queue
		if q == nil || q.Jobs != 3 || q.Oldest.Sub(oldest).Abs() > 2*time.Second {
			t.Fatalf("three wait since %v: %+v", oldest, q)
		}
		got := map[string]int{}
		for _, tag := range q.Tags {
			got[tag.Name] = tag.Jobs
		}
		if got["gpu"] != 3 || got["arm"] != 0 {
			t.Errorf("by tag: %v", got)
		}
		if n := world.Requests()["POST /graphql"] - before; n > 10+10*3 { // a listing and a survey each minute, and rows
			t.Errorf("%d GraphQL requests in ten minutes", n)
		}
		if st := s.scrape().Self.Stages[snapshot.StageQueue]; st.Interval != time.Minute || st.Lag > time.Minute || st.LastSuccess.IsZero() {
			t.Errorf("stage: %+v", st)
		}
		world.AddFault(gitlabsim.Fault{Route: "POST /graphql", Status: 502})
		time.Sleep(6 * time.Minute)
		if q := s.scrape().Queue; q != nil {
			t.Errorf("not read for six minutes, and shown: %+v", q)
		}
		r.end(t)
	})
}

// Before 18.1 nothing is shown, not 0, and the log has one line.
func TestQueueOfAnOlderReleaseIsAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Runners: 5, Token: secret, Version: "17.11.0-ee"})
		mount(t, world)
		s := newScraper()
		_, state := openState(t, "")
		logs := &lines{}
		r := start(t, world, state, s, setup{queue: queue.Options{Interval: time.Minute}, logger: logs.logger()})
		time.Sleep(30 * time.Minute)
		if q := s.scrape().Queue; q != nil {
			t.Errorf("%+v", q)
		}
		if logged := logs.with("cannot list the jobs that wait"); len(logged) != 1 {
			t.Errorf("logged: %s", strings.Join(logged, ""))
		}
		r.end(t)
	})
}

// A GitLab that cannot list the jobs once, though it answers, is asked again soon, and that is a failure of
// the reading: nothing refuses the token. A limit that is lower than usual is kept at the next reading.
func TestQueueThatFailsOnceIsReadSoon(t *testing.T) {
	for _, message := range []string{
		"Request timed out. Please try a less complex query or a smaller set of records.",
		"Query has complexity of 240, which exceeds max complexity of 200",
		"Internal server error",
	} {
		synctest.Test(t, func(t *testing.T) {
			world := gitlabsim.New(gitlabsim.Options{Seed: 3, Token: secret})
			server, err := simgraphql.Mount(world)
			if err != nil {
				t.Fatal(err)
			}
			world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"gpu"}, NoJobs: true})
			world.CreateJob(gitlabsim.JobSpec{Tags: []string{"gpu"}})
			s, logs := newScraper(), &lines{}
			_, state := openState(t, "")
			r := start(t, world, state, s, setup{queue: queue.Options{Interval: time.Minute}, logger: logs.logger()})
			time.Sleep(5*time.Minute + 30*time.Second)
			failed := 0
			server.SetFault(func(q simgraphql.Query) *simgraphql.Fault {
				if !strings.HasPrefix(q.Document, "query queue") {
					return nil
				}
				failed++
				return &simgraphql.Fault{Raw: `{"data":null,"errors":[{"message":"` + message + `"}]}`}
			})
			time.Sleep(time.Minute)
			server.SetFault(nil)
			time.Sleep(3 * time.Minute)
			if q := s.scrape(); failed == 0 || q.Queue == nil || q.Queue.Jobs != 1 || q.QueueState != snapshot.QueueRead || time.Since(q.QueueAt) > 2*time.Minute {
				t.Errorf("%s, %d times: three minutes later %s %+v, read %s ago", message, failed, q.QueueState, q.Queue, time.Since(q.QueueAt))
			}
			if logged := logs.with("does not let this token"); len(logged) > 0 {
				t.Errorf("%s", strings.Join(logged, ""))
			}
			r.end(t)
		})
	}
}

// A reading that takes longer than its result is shown has a result: it is no missing right.
func TestSlowReadingIsNoMissingRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Token: secret})
		mount(t, world)
		world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"gpu"}, NoJobs: true})
		world.CreateJob(gitlabsim.JobSpec{Tags: []string{"gpu"}})
		s, logs := newScraper(), &lines{}
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{queue: queue.Options{Interval: time.Second}, logger: logs.logger()})
		time.Sleep(5 * time.Minute)
		world.AddFault(gitlabsim.Fault{Route: "POST /graphql", Latency: 4 * time.Second})
		time.Sleep(5 * time.Minute)
		seen := 0
		for range 60 {
			time.Sleep(time.Second)
			g := s.scrape()
			if g.Queue != nil && g.Queue.Jobs == 1 {
				seen++
			}
			if g.QueueState == snapshot.QueueUnproved {
				t.Fatal("a job waits and was read, and the right counts as not proved")
			}
		}
		if seen < 20 {
			t.Errorf("known in %d of 60 seconds", seen)
		}
		if logged := logs.with("is not proved"); len(logged) > 0 {
			t.Errorf("%s", strings.Join(logged, ""))
		}
		r.end(t)
	})
}

// switched sends requests to one of two GitLabs: the same before and after its update.
type switched struct {
	of      [2]http.RoundTripper
	updated atomic.Bool
}

func (s *switched) RoundTrip(r *http.Request) (*http.Response, error) {
	if s.updated.Load() {
		return s.of[1].RoundTrip(r)
	}
	return s.of[0].RoundTrip(r)
}

// GitLab is updated and goes back while the exporter runs: the queue is read within minutes after the new release was
// seen, and withdrawn after three intervals where there is none any more.
func TestQueueFollowsTheRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var worlds [2]*gitlabsim.World
		for i, version := range []string{"17.11.0-ee", "18.2.0-ee"} {
			worlds[i] = gitlabsim.New(gitlabsim.Options{Seed: 3, Token: secret, Version: version})
			mount(t, worlds[i])
			worlds[i].AddRunner(gitlabsim.RunnerSpec{Tags: []string{"gpu"}, NoJobs: true})
			worlds[i].CreateJob(gitlabsim.JobSpec{Tags: []string{"gpu"}})
		}
		to := &switched{of: [2]http.RoundTripper{worlds[0].RoundTripper(), worlds[1].RoundTripper()}}
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, worlds[0], state, s, setup{queue: queue.Options{Interval: time.Minute}, wrap: func(http.RoundTripper) http.RoundTripper { return to }})
		time.Sleep(20 * time.Minute)
		if q := s.scrape(); q.Queue != nil || q.QueueState != snapshot.QueueUnsupported {
			t.Fatalf("17.11: %s %+v", q.QueueState, q.Queue)
		}
		to.updated.Store(true)
		locked(r, func(m *Monitor) struct{} { // as the informer does at its next turn
			m.fleet.version = "18.2.0-ee"
			return struct{}{}
		})
		time.Sleep(4 * time.Minute)
		if q := s.scrape(); q.Queue == nil || q.Queue.Jobs != 1 {
			t.Errorf("18.2: %s %+v", q.QueueState, q.Queue)
		}
		to.updated.Store(false)
		time.Sleep(6 * time.Minute)
		if q := s.scrape(); q.Queue != nil {
			t.Errorf("17.11 again: %s %+v", q.QueueState, q.Queue)
		}
		r.end(t)
	})
}
