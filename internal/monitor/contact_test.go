package monitor

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/test/rig"
)

// A job created before lookback is counted because it was seen executing. The
// number of jobs that the list counted must not hide it for all of its life, also
// where the list is read seldomer than the jobs.
func TestOldJobsAreSeenThoughTheNumberFits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		old := rig.Sized(30, 9) // jobs, one each twenty minutes
		rng := rand.New(rand.NewPCG(1, 2))
		world := gitlabsim.New(gitlabsim.Options{Seed: 9, Token: secret})
		mount(t, world)
		id := world.AddRunner(gitlabsim.RunnerSpec{})
		begin := time.Now()
		for k := range old {
			at := begin.Add(26*time.Hour + time.Duration(k)*20*time.Minute + time.Duration(rng.IntN(60))*time.Second)
			world.CreateJob(gitlabsim.JobSpec{Runner: id, Started: at, Finished: at.Add(4 * time.Minute)})
		}
		s := newScraper()
		_, state := openState(t, "")
		poll := defaultPoll()
		poll.Runners, poll.Staleness = 5*time.Minute, time.Hour
		r := start(t, world, state, s, setup{poll: poll})
		defer r.end(t)
		time.Sleep(25 * time.Hour)
		// One job after the other: one executes at any time, and the old ones beside it.
		for time.Since(begin) < 27*time.Hour+time.Duration(old)*20*time.Minute {
			d := 2*time.Minute + time.Duration(rng.IntN(240))*time.Second
			world.CreateJob(gitlabsim.JobSpec{Runner: id, Finished: time.Now().Add(d)})
			time.Sleep(d)
		}
		time.Sleep(3 * time.Hour)
		check(t, "jobs", finished(s.scrape()), finishedTruth(world.Truth().Finished))
	})
}

// What is met after the list's total was read is not in it: taken for more than
// was met, it made each poll of a busy runner ask for a walk.
func TestBusyRunnersAreNotWalkedForNothing(t *testing.T) {
	t.Parallel()
	for _, graphql := range []bool{false, true} {
		t.Run(fmt.Sprintf("graphql=%t", graphql), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const hours = 1
				runners := rig.Sized(3, 1)
				world := gitlabsim.New(gitlabsim.Options{
					Seed: 9, Token: secret, JobsPerHour: float64(300 * runners), History: time.Minute,
					Shape:   gitlabsim.JobShape{LateShare: -1, MeanDuration: 2 * time.Minute, MaxDuration: 30 * time.Minute},
					Latency: func(string) time.Duration { return 2 * time.Second },
				})
				if graphql {
					mount(t, world)
				}
				for range runners {
					world.AddRunner(gitlabsim.RunnerSpec{})
				}
				s := newScraper()
				_, state := openState(t, "")
				r := start(t, world, state, s, setup{})
				defer r.end(t)
				time.Sleep(3 * time.Hour)
				lists, walks := world.Requests()["GET /runners/:id/jobs"], s.counted("reading reconcile")
				time.Sleep(hours * time.Hour)
				lists, walks = world.Requests()["GET /runners/:id/jobs"]-lists, s.counted("reading reconcile")-walks
				t.Logf("of a runner an hour: %d pages of jobs, %d of them of walks", lists/runners/hours, walks/runners/hours)
				if walks > 40*runners*hours || lists > 230*runners*hours {
					t.Errorf("%d pages of walks, %d of jobs in all", walks, lists)
				}
			})
		})
	}
}

// The proxy that writes Date may be minutes ahead of what writes contacts.
func TestJobsAreCountedThoughTheDateIsAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const skew = 5 * time.Minute
		world := gitlabsim.New(gitlabsim.Options{Seed: 5, Token: secret, Now: func() time.Time { return time.Now().Add(-skew) }})
		mount(t, world)
		for range 20 {
			world.AddRunner(gitlabsim.RunnerSpec{})
		}
		world.AddFault(gitlabsim.Fault{DateSkew: skew})
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{})
		defer r.end(t)
		time.Sleep(3 * time.Hour)
		given := map[int64]bool{}
		for range 4 * 60 { // a short job just after its runner was read
			time.Sleep(20 * time.Second)
			for id, at := range r.readAt() {
				if d := time.Since(at); !given[id] && d > 0 && d < 40*time.Second {
					given[id] = true
					world.CreateJob(gitlabsim.JobSpec{Runner: id, Finished: time.Now().Add(3*time.Second - skew)})
				}
			}
		}
		time.Sleep(10 * time.Minute)
		check(t, "jobs", finished(s.scrape()), finishedTruth(world.Truth().Finished))
		if most, _ := s.longest(); len(given) < 15 || most-skew > 8*time.Minute {
			t.Errorf("%d jobs, counted up to %v after their end", len(given), most-skew)
		}
	})
}
