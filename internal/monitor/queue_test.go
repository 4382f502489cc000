package monitor

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
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
