package monitor

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/test/rig"
)

// wallClock is a local wall clock that is wrong for a while. Like a step by NTP
// it does not touch the monotonic clock.
type wallClock struct {
	mu   sync.Mutex
	step time.Duration
}

func (c *wallClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Round(0).Add(c.step)
}

func (c *wallClock) set(step time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.step = step
}

// wrong is how far a clock is off: minutes to days, either way.
func wrong(rng *rand.Rand) time.Duration {
	units := []time.Duration{time.Minute, 10 * time.Minute, time.Hour, 24 * time.Hour}
	d := time.Duration(1+rng.IntN(9)) * units[rng.IntN(len(units))]
	if rng.IntN(2) == 0 {
		return -d
	}
	return d
}

// TestWrongClocksLoseNoJob steps GitLab's Date or the local clock to and fro by
// minutes to days, for up to an hour each time, while the times in GitLab's rows
// stay right. No job may be lost or counted twice, and no reading may wait
// longer than its interval, which poll_lag_seconds must show.
func TestWrongClocksLoseNoJob(t *testing.T) {
	t.Parallel()
	for seed := range rig.Sized(20, 4) {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { clockHistory(t, uint64(seed)) })
		})
	}
}

func clockHistory(t *testing.T, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	world := gitlabsim.New(gitlabsim.Options{
		Seed: seed, Runners: 12, Tags: 4, JobsPerHour: 120, Token: secret, History: 15 * time.Minute, Shape: briskJobs(),
	})
	if seed%4 == 3 {
		mount(t, world)
	}
	wall := &wallClock{}
	s := newScraper()
	dir := memoryDir(t)
	begin := time.Now().Truncate(time.Second)
	var worst [snapshot.NumStages]time.Duration
	scrape := func(d time.Duration) {
		for ; d > 0; d -= 15 * time.Second {
			time.Sleep(15 * time.Second)
			g := s.scrape()
			for stage, st := range g.Self.Stages {
				worst[stage] = max(worst[stage], st.Lag)
			}
		}
	}
	folder, state := openState(t, dir)
	r := start(t, world, state, s, setup{wall: wall.now})
	stop := func(kill bool) {
		if kill {
			r.kill(t)
		} else {
			r.end(t)
		}
		if err := folder.Close(); err != nil {
			t.Fatal(err)
		}
	}
	scrape(5 * time.Minute)
	for end := time.Now().Add(time.Duration(rig.Sized(4, 2)) * time.Hour); time.Now().Before(end); {
		right := func() {}
		switch off := wrong(rng); rng.IntN(3) {
		case 0:
			right = world.AddFault(gitlabsim.Fault{DateSkew: off})
		case 1:
			wall.set(off)
		default: // every other answer, as of two nodes
			right = world.AddFault(gitlabsim.Fault{DateSkew: off, Probability: .5})
		}
		scrape(15*time.Second + time.Duration(rng.Int64N(int64(time.Hour))))
		if rng.IntN(4) == 0 { // while it is wrong
			stop(rng.IntN(2) == 0)
			folder, state = openState(t, dir)
			r = start(t, world, state, s, setup{wall: wall.now})
			scrape(time.Minute)
		}
		right()
		wall.set(0)
		scrape(15*time.Second + time.Duration(rng.Int64N(int64(20*time.Minute))))
	}
	world.Quiesce()
	scrape(settled)
	stop(false)
	final := s.scrape()
	var want []gitlabsim.JobTruth
	for _, j := range world.Truth().Finished {
		if !j.Finished.Before(begin) {
			want = append(want, j)
		}
	}
	t.Logf("%d jobs, worst lag: details %v, jobs %v, walk %v", len(want), worst[snapshot.StageDetails], worst[snapshot.StageJobs], worst[snapshot.StageReconcile])
	if len(want) < rig.Sized(300, 150) {
		t.Errorf("only %d jobs finished: the test proves too little", len(want))
	}
	if d := diff(finished(final), finishedTruth(want)); len(d) > 0 {
		t.Errorf("counted is not true:\n%s", fmt.Sprint(d))
	}
	for stage, lag := range worst {
		if lag > time.Minute {
			t.Errorf("%s: lag %v though each reading could be done at once", snapshot.Stage(stage), lag)
		}
	}
	if len(s.back) > 0 {
		t.Errorf("%d times a series went back, first %s", len(s.back), s.back[0])
	}
}

// A first start behind a wrong Date must not count the history of three days in
// one step: the contacts that the first listing and details show correct it.
func TestFirstStartBehindAWrongDateCountsNoHistory(t *testing.T) {
	t.Parallel()
	for _, graphql := range []bool{false, true} {
		t.Run(fmt.Sprintf("graphql=%t", graphql), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				world := gitlabsim.New(gitlabsim.Options{
					Seed: 11, Runners: 12, Tags: 4, JobsPerHour: 60, Token: secret, History: 6 * time.Hour, Shape: briskJobs(),
				})
				if graphql {
					mount(t, world)
				}
				begin := time.Now()
				world.AddFault(gitlabsim.Fault{DateSkew: -72 * time.Hour, Until: begin.Add(10 * time.Minute)})
				var out lines
				s := newScraper()
				_, state := openState(t, "")
				r := start(t, world, state, s, setup{logger: out.logger()})
				time.Sleep(30 * time.Minute)
				world.Quiesce()
				time.Sleep(settled)
				r.end(t)
				total := 0
				for _, n := range finished(s.scrape()) {
					total += n
				}
				history, least, most := 0, 0, 0
				for _, j := range world.Truth().Finished {
					switch {
					case j.Finished.Before(begin.Add(-2 * time.Minute)):
						history++
						continue
					case !j.Finished.Before(begin.Add(2 * time.Minute)):
						least++
					}
					most++
				}
				if history < 200 {
					t.Fatalf("a history of %d jobs proves too little", history)
				}
				if total < least || total > most {
					t.Errorf("%d jobs counted, %d to %d finished since the first start, %d before it", total, least, most, history)
				}
				if !graphql && len(out.with("behind the times in its rows")) == 0 {
					t.Error("the log does not report that the Date was wrong")
				}
			})
		})
	}
}
