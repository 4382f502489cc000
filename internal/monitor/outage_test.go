package monitor

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// briskJobs end soon, so that a test need not wait for them: settled is how
// long after Quiesce all have ended and were counted.
func briskJobs() gitlabsim.JobShape {
	return gitlabsim.JobShape{MeanDuration: 2 * time.Minute, MaxDuration: 20 * time.Minute, LateMax: 20 * time.Minute}
}

const settled = 2 * time.Hour

// lines is a logger's output.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// with are the lines that hold all of the words.
func (l *lines) with(words ...string) (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
next:
	for line := range strings.Lines(l.buf.String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		out = append(out, line)
	}
	return out
}

func (l *lines) logger() log.Logger { return log.NewLogfmtLogger(l) }

func requests(w *gitlabsim.World, route string) int { return w.Requests()["GET "+route] }

// A revoked token stops all but the listing, is logged once with what to do,
// and a rotated one is taken up without a restart.
func TestRotatedTokenIsTakenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{
			Seed: 4, Runners: 50, Tags: 8, JobsPerHour: 120, Token: secret, Latency: func(string) time.Duration { return 300 * time.Millisecond },
		})
		var mu sync.Mutex
		token := secret
		var out lines
		s := newScraper()
		_, state := openState(t, "")
		poll := defaultPoll()
		poll.Details, poll.Jobs = 4*time.Second, 4*time.Second // many of each are under way
		r := start(t, world, state, s, setup{poll: poll, logger: out.logger(), token: func() string {
			mu.Lock()
			defer mu.Unlock()
			return token
		}})
		time.Sleep(90 * time.Second)
		if g := s.scrape(); !g.Up || g.Fleet == nil || !g.Fleet.Detailed {
			t.Fatalf("not up: %+v", g)
		}
		world.RevokeToken(secret)
		time.Sleep(5 * time.Minute)
		g := s.scrape()
		if g.Up || g.Fleet == nil {
			t.Errorf("5 minutes after the token was revoked: up %t, fleet withdrawn %t", g.Up, g.Fleet == nil)
		}
		jobs, details, lists := requests(world, "/runners/:id/jobs"), requests(world, "/runners/:id"), requests(world, "/runners/all")
		time.Sleep(20 * time.Minute)
		if j, d := requests(world, "/runners/:id/jobs"), requests(world, "/runners/:id"); j != jobs || d != details {
			t.Errorf("with a refused token %d jobs and %d details were asked for", j-jobs, d-details)
		}
		if n := requests(world, "/runners/all") - lists; n < 18 || n > 22 {
			t.Errorf("%d listings in 20 minutes with a refused token", n)
		}
		if g = s.scrape(); g.Fleet != nil || g.Counters == nil {
			t.Errorf("25 minutes without a listing: fleet withdrawn %t, counters withdrawn %t", g.Fleet == nil, g.Counters == nil)
		}
		refused := out.with("reason=unauthorized")
		if len(refused) < 1 || len(refused) > 2 || !strings.Contains(refused[0], "read_api") {
			t.Errorf("logged %d times:\n%s", len(refused), strings.Join(refused, ""))
		}
		const fresh = "glpat-canary-rotated"
		world.AddToken(gitlabsim.TokenSpec{Token: fresh, Username: "root", Admin: true, Everything: true, Scopes: []string{"read_api"}})
		mu.Lock()
		token = fresh
		mu.Unlock()
		time.Sleep(2 * time.Minute)
		if g = s.scrape(); !g.Up || g.Fleet == nil {
			t.Errorf("2 minutes after the rotation: up %t, fleet withdrawn %t", g.Up, g.Fleet == nil)
		}
		check(t, "runners", fleetCounts(g.Fleet), truthCounts(world.Truth()))
		if len(out.with("runners are listed again")) != 1 {
			t.Errorf("its return was not logged once:\n%s", strings.Join(out.with("listed"), ""))
		}
		time.Sleep(time.Minute)
		if requests(world, "/runners/:id/jobs") == jobs || requests(world, "/runners/:id") == details {
			t.Error("jobs or details are not read any more")
		}
		world.RevokeToken(fresh)
		time.Sleep(3 * time.Minute)
		if n := len(out.with("reason=unauthorized")); n <= len(refused) {
			t.Error("the second refusal is news and was not logged")
		}
		r.end(t)
		if leaked := out.with("canary"); len(leaked) > 0 {
			t.Errorf("the token stands in the log: %s", leaked[0])
		}
		for k := range s.counts {
			if strings.Contains(k, "canary") {
				t.Errorf("the token stands in %q", k)
			}
		}
		if len(s.back) > 0 {
			t.Errorf("a series went back: %s", s.back[0])
		}
	})
}

// TestGoneAtTheStartIsLoggedAtOnce: a wrong address is logged within seconds of the
// start, not after the retries, and the error does not speak of last numbers where
// there are none.
func TestGoneAtTheStartIsLoggedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 6, Runners: 12, Tags: 8, Token: secret})
		var out lines
		_, state := openState(t, "")
		remove := world.AddFault(gitlabsim.Fault{Drop: true})
		r := start(t, world, state, newScraper(), setup{logger: out.logger()})
		defer r.end(t)
		const early, failed, kept = "the first requests to GitLab failed", "cannot be listed; it is tried again", "its last numbers are kept"
		time.Sleep(3 * time.Second)
		if logged := out.with(early); len(logged) != 1 || !strings.Contains(logged[0], "reason=connection") || !strings.Contains(logged[0], "remedy=") {
			t.Errorf("within 3 s: %q", logged)
		}
		time.Sleep(10 * time.Minute)
		if n := [3]int{len(out.with(early)), len(out.with(failed)), len(out.with(kept))}; n != [3]int{1, 1, 0} {
			t.Errorf("after ten minutes: %v lines", n)
		}
		remove()
		time.Sleep(3 * time.Minute)
		defer world.AddFault(gitlabsim.Fault{Drop: true})()
		time.Sleep(3 * time.Minute)
		if n := [3]int{len(out.with(early)), len(out.with(failed)), len(out.with(kept))}; n != [3]int{1, 1, 1} {
			t.Errorf("in a later outage: %v lines", n)
		}
	})
}

// While GitLab is down the last numbers stay until staleness, then the gauges
// are withdrawn and the counters stay; afterwards all comes back.
func TestGaugesAreWithdrawnWhileGitLabIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 6, Runners: 12, Tags: 8, JobsPerHour: 300, Shape: briskJobs(), Token: secret})
		var out lines
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{logger: out.logger()})
		for range 60 {
			time.Sleep(10 * time.Second)
			s.scrape()
		}
		counted := sumOf(finished(s.scrape()))
		remove := world.AddFault(gitlabsim.Fault{Drop: true})
		time.Sleep(3 * time.Minute)
		if g := s.scrape(); g.Up || g.Fleet == nil || g.Fleet.Rows == nil {
			t.Errorf("3 minutes down: up %t, fleet kept %t", g.Up, g.Fleet != nil)
		}
		time.Sleep(6*time.Minute - 10*time.Second)
		if g := s.scrape(); g.Fleet == nil {
			t.Error("withdrawn before staleness")
		}
		time.Sleep(2 * time.Minute)
		g := s.scrape()
		if g.Up || g.Fleet != nil {
			t.Errorf("11 minutes down: up %t, fleet kept %t", g.Up, g.Fleet != nil)
		}
		if g.Counters == nil || sumOf(finished(g)) < counted || counted == 0 {
			t.Errorf("counters: %d, were %d", sumOf(finished(g)), counted)
		}
		if g.Self.Stages[snapshot.StageRunners].Lag < 9*time.Minute {
			t.Errorf("the lag of the listing is shown as %v", g.Self.Stages[snapshot.StageRunners].Lag)
		}
		time.Sleep(19 * time.Minute)
		if logged := out.with("cannot be listed"); len(logged) != 1 || !strings.Contains(logged[0], "remedy=") {
			t.Errorf("the outage was logged %d times:\n%s", len(logged), strings.Join(logged, ""))
		}
		remove()
		time.Sleep(3 * time.Minute)
		g = s.scrape()
		if !g.Up || g.Fleet == nil || len(g.Fleet.Rows) == 0 {
			t.Fatalf("3 minutes after it is back: up %t, fleet %t", g.Up, g.Fleet != nil)
		}
		check(t, "runners", fleetCounts(g.Fleet), truthCounts(world.Truth()))
		world.Quiesce()
		time.Sleep(settled)
		check(t, "jobs finished", finished(s.scrape()), finishedTruth(world.Truth().Finished))
		if len(s.back) > 0 {
			t.Errorf("a series went back: %s", s.back[0])
		}
		g = s.scrape()
		for stage := range g.Self.Stages {
			if n := g.Self.Stages[stage].Unread; len(n) > 0 {
				t.Errorf("long after the outage %s has unread runners: %v", snapshot.Stage(stage), n)
			}
		}
		r.end(t)
	})
}

func sumOf(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

func TestStartWhileGitLabIsDownRecovers(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]gitlabsim.Fault{"refused": {Drop: true}, "502": {Status: 502}, "silent": {Latency: time.Hour}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := gitlabsim.New(gitlabsim.Options{Seed: 6, Runners: 6, Tags: 8, JobsPerHour: 200, Shape: briskJobs(), History: 20 * time.Minute, Token: secret})
				remove := world.AddFault(fault)
				s := newScraper()
				_, state := openState(t, "")
				r := start(t, world, state, s, setup{})
				time.Sleep(2 * time.Minute)
				g := s.scrape()
				if g == nil || g.Up || g.Fleet != nil {
					t.Fatalf("a picture of a GitLab that never answered: %+v", g)
				}
				if !r.m.Ready() {
					t.Error("not ready though it was tried")
				}
				time.Sleep(20 * time.Minute)
				remove()
				began := time.Now()
				for !s.scrape().Up {
					time.Sleep(time.Second)
					if time.Since(began) > 2*time.Minute {
						t.Fatal("still not up")
					}
				}
				world.Quiesce()
				time.Sleep(settled)
				check(t, "runners", fleetCounts(s.scrape().Fleet), truthCounts(world.Truth()))
				// The first start is the first answer: what ended before does not count.
				// A proxy's answer is no GitLab's, but its Date is a Date.
				got := sumOf(finished(s.scrape()))
				least, most := 0, 0
				for _, j := range world.Truth().Finished {
					if j.Finished.After(began.Add(time.Minute)) {
						least++
					}
					if !j.Finished.Before(began.Add(-23 * time.Minute)) {
						most++
					}
				}
				if got < least || got > most || least == 0 {
					t.Errorf("%d jobs counted, want %d to %d", got, least, most)
				}
				r.end(t)
			})
		})
	}
}

// A Date that is wrong once by ten days must not move the first start, nor
// throw away or invent a job.
func TestWrongDateLosesNoJob(t *testing.T) {
	t.Parallel()
	for _, skew := range []time.Duration{10 * 24 * time.Hour, -10 * 24 * time.Hour} {
		for _, at := range []time.Duration{0, 2 * time.Minute} {
			t.Run(skew.String()+" after "+at.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					world := gitlabsim.New(gitlabsim.Options{Seed: 8, Runners: 4, Tags: 8, JobsPerHour: 200, Shape: briskJobs(), History: 20 * time.Minute, Token: secret})
					world.AddFault(gitlabsim.Fault{DateSkew: skew, Times: 1, From: time.Now().Add(at)})
					begin := time.Now().Truncate(time.Second)
					s := newScraper()
					_, state := openState(t, "")
					r := start(t, world, state, s, setup{})
					time.Sleep(30 * time.Minute)
					if g := s.scrape(); !g.Up || g.Fleet == nil || time.Until(g.Time).Abs() > 8*time.Second {
						t.Errorf("up %t, fleet %t, time off by %v", g.Up, g.Fleet != nil, time.Until(g.Time))
					}
					world.Quiesce()
					time.Sleep(settled)
					var want []gitlabsim.JobTruth
					for _, j := range world.Truth().Finished {
						if !j.Finished.Before(begin) {
							want = append(want, j)
						}
					}
					check(t, "jobs finished", finished(s.scrape()), finishedTruth(want))
					r.end(t)
				})
			})
		}
	}
}

// Stopping is prompt whatever is under way.
func TestStopsAtOnce(t *testing.T) {
	for i := range 24 {
		synctest.Test(t, func(t *testing.T) {
			world := gitlabsim.New(gitlabsim.Options{
				Seed: 3, Runners: 80, Tags: 8, JobsPerHour: 2000, Token: secret,
				Latency: func(string) time.Duration { return 700 * time.Millisecond },
			})
			if i%3 == 1 {
				world.AddFault(gitlabsim.Fault{Status: 503, RetryAfter: "55", Probability: .3})
			}
			s := newScraper()
			_, state := openState(t, "")
			poll := defaultPoll()
			poll.Runners, poll.Jobs = 5*time.Second, 5*time.Second
			r := start(t, world, state, s, setup{poll: poll, rate: []float64{0, 2}[i%2]})
			time.Sleep(time.Duration(i*i) * 137 * time.Millisecond)
			began := time.Now()
			r.end(t)
			if took := time.Since(began); took > 100*time.Millisecond {
				t.Errorf("life %d took %v to stop", i, took)
			}
		})
	}
}

// After an outage everything is read again within minutes: what failed in it
// must not wait for the pause of a reading that failed many times. A proxy's 404
// slows no request down, so that each reading fails many times in it.
func TestReadingsGoOnAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 5, Runners: 60, Tags: 10, Token: secret, Healthy: true})
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{api: snapshot.APIREST, rate: 10})
		time.Sleep(30 * time.Minute)
		remove := world.AddFault(gitlabsim.Fault{Status: 404, Body: "default backend - 404", ContentType: "text/plain"})
		time.Sleep(2 * time.Hour)
		remove()
		back := time.Now()
		time.Sleep(4 * time.Minute)
		g := s.scrape()
		if g.Fleet == nil {
			t.Fatal("not listed again")
		}
		if len(g.Fleet.Rows) != 60 {
			t.Fatalf("%d rows", len(g.Fleet.Rows))
		}
		for _, row := range g.Fleet.Rows {
			if row.DetailsAt.Before(back.Add(-time.Second)) { // GitLab's clock has whole seconds
				t.Errorf("runner %d: details of %v before GitLab came back", row.ID, back.Sub(row.DetailsAt))
			}
		}
		for stage, st := range g.Self.Stages {
			if st.Lag > 3*time.Minute {
				t.Errorf("%v lags by %v", snapshot.Stage(stage), st.Lag)
			}
		}
		r.end(t)
	})
}
