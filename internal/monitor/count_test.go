package monitor

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/test/rig"
)

// TestCountsEveryFinishedJob takes 20,000 jobs (3,000 where that is slow) through client, JSON and store
// in virtual time, with faults, stale replicas, kills and restarts; fewer for
// an old release, whose rows differ, and where GraphQL shows what executes.
func TestCountsEveryFinishedJob(t *testing.T) {
	t.Parallel()
	few := rig.Sized(3_000, 1_500)
	for _, c := range []struct {
		version string
		jobs    int
		runners int // few: each poll brings many jobs; many: hardly any, and is read by a few rows
		graphql bool
	}{{"19.1.0-ee", rig.Sized(20_000, 3_000), 8, false}, {"15.11.0", few, 8, false}, {"17.11.0", few, 60, false}, {"18.2.0", few, 60, true}} {
		t.Run(c.version, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { countEveryJob(t, c.version, c.jobs, c.runners, c.graphql) })
		})
	}
}

func countEveryJob(t *testing.T, version string, atLeast, runners int, graphql bool) {
	t.Helper()
	const seed = 7
	rng := rand.New(rand.NewPCG(seed, seed))
	// Many jobs in a short time: what a run costs is requests, and those go by
	// the hour. All times of a usual GitLab are divided by about twenty.
	world := gitlabsim.New(gitlabsim.Options{
		Seed: seed, Runners: runners, Tags: 12, JobsPerHour: float64(atLeast) * .85, Version: version, Token: secret,
		History: 15 * time.Minute, Shape: gitlabsim.JobShape{
			LateShare: .01, LateMax: 20 * time.Minute, MeanDuration: 40 * time.Second, MaxDuration: 20 * time.Minute, ShortMax: 15 * time.Second,
		},
	})
	if graphql {
		mount(t, world)
	}
	poll := defaultPoll()
	poll.Jobs = 5 * time.Minute
	poll.Details, poll.Reconcile, poll.Lookback = 5*time.Minute, 30*time.Minute, 2*time.Hour
	world.AddFault(gitlabsim.Fault{Probability: 0.02, Status: 502})
	world.AddFault(gitlabsim.Fault{Probability: 0.01, Drop: true})
	// Not at the first start: a job that a stale answer shows executing counts,
	// though it ended just before.
	world.AddFault(gitlabsim.Fault{Probability: 0.05, StaleBy: 45 * time.Second, Route: "/runners/:id/jobs", From: time.Now().Add(time.Minute)})
	dir := memoryDir(t)
	begin := time.Now().Truncate(time.Second)
	s := newScraper()
	// run is one life of the exporter, scraped every 15 s.
	run := func(life time.Duration, end func(r *running)) {
		folder, state := openState(t, dir)
		r := start(t, world, state, s, setup{poll: poll})
		for ; life > 0; life -= 15 * time.Second {
			time.Sleep(15 * time.Second)
			s.scrape()
		}
		end(r)
		if err := folder.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 9 {
		run(3*time.Minute+time.Duration(rng.Int64N(int64(5*time.Minute))), func(r *running) {
			switch i % 3 {
			case 0:
				r.kill(t)
			case 1:
				r.end(t)
			default: // a full disk for a while, then a kill
				r.disk.set(false, true)
				time.Sleep(3 * time.Minute)
				s.scrape()
				r.kill(t)
			}
		})
		if i == 4 {
			time.Sleep(20 * time.Minute) // down
		}
	}
	world.Quiesce()
	run(65*time.Minute, func(r *running) {
		if left := world.Truth(); len(left.Executing)+len(left.Pending) > 0 {
			t.Fatalf("%d jobs execute and %d wait still", len(left.Executing), len(left.Pending))
		}
		r.end(t)
	})
	final := s.scrape()

	var want []gitlabsim.JobTruth
	for _, j := range world.Truth().Finished {
		end := j.Finished
		if version == "15.11.0" && j.Started.IsZero() {
			end = j.Created // it writes no finished_at where a job was refused at its assignment
		}
		if !end.Before(begin) {
			want = append(want, j)
		}
	}
	t.Logf("GitLab %s: %d jobs finished, %d requests, settle delay p50 %v p90 %v p99 %v; found by the walk only: %d, unresolved %v",
		version, len(want), total(world.Requests()), quantile(s.delays, .5), quantile(s.delays, .9), quantile(s.delays, .99),
		final.Self.JobsRecovered, final.Self.JobsUnresolved)
	if len(want) < atLeast {
		t.Errorf("only %d jobs finished: the test proves too little", len(want))
	}
	few := 0
	for _, e := range world.Log() {
		if strings.Contains(e.Path, "per_page=20&") || strings.HasSuffix(e.Path, "per_page=20") {
			few++
		}
	}
	if runners > 8 && few < 100 {
		t.Errorf("only %d readings of a few rows: the test proves too little", few)
	}
	if final.Self.JobsRecovered == 0 {
		t.Error("the walk alone found nothing: late starters were not simulated")
	}
	if d := diff(finished(final), finishedTruth(want)); len(d) > 0 {
		t.Errorf("counted is not true:\n%s", fmt.Sprint(d))
	}
	if len(s.back) > 0 {
		t.Errorf("%d times a series went back, first %s", len(s.back), s.back[0])
	}
	if s.saveErrs == 0 {
		t.Error("no save failed: the full disk was not simulated")
	}
}

func total(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	s := slices.Clone(d)
	slices.Sort(s)
	return s[int(float64(len(s)-1)*q)].Round(time.Second)
}
