package monitor

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/test/rig"
)

var budgetedFleet = flag.Int("fleet", 0, "runners of TestLargeFleetOnASmallBudgetLosesNoJob; one in fifty executes, and GitLab allows 6 requests a minute for each 100; 0: 500, or fewer where that is slow")

// A fleet whose budget suffices for the list and for the runners that execute,
// and for little else: these are read as configured, the others late by a
// bounded time that is shown, and no job is lost. By GraphQL, which shows
// each runner whether it did anything, the same budget suffices for all.
// -args -fleet=10000: 10,000 runners, 200 of them execute, 600 requests a minute.
func TestLargeFleetOnASmallBudgetLosesNoJob(t *testing.T) {
	t.Parallel()
	rig.Long(t, "simulates a day of a fleet")
	t.Run("REST", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) { smallBudget(t, false) })
	})
	if !rig.Full() && *budgetedFleet == 0 {
		return // by GraphQL a smaller fleet has too few jobs to prove anything
	}
	t.Run("GraphQL", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) { smallBudget(t, true) })
	})
}

func smallBudget(t *testing.T, graphql bool) {
	t.Helper()
	fleet := *budgetedFleet
	if fleet == 0 {
		fleet = rig.Sized(500, 300)
	}
	active, limit := fleet/50, fleet*6/100
	world := gitlabsim.New(gitlabsim.Options{
		Seed: 17, Token: secret, RateLimit: limit, JobsPerHour: float64(active) * 13,
		Latency: func(string) time.Duration { return 20 * time.Millisecond },
	})
	if graphql {
		mount(t, world)
	}
	for i := range fleet {
		spec := gitlabsim.RunnerSpec{Tags: []string{fmt.Sprintf("tag-%d", i%200)}, RunUntagged: true, Weight: 0.0004}
		if i%50 == 0 {
			spec.Weight = 1 // the idle ones have one job in fifty, together
		}
		world.AddRunner(spec)
	}
	s := newScraper()
	_, state := openState(t, "")
	concurrency := max(1, 8*fleet/10_000) // what waits at the gate must not wait longer in a small one
	// The budget is what GitLab allows: more is not to be had.
	r := start(t, world, state, s, setup{concurrency: concurrency, rate: float64(limit) / 60})
	defer r.end(t)

	time.Sleep(time.Minute)
	refused := world.RequestsByStatus()[429]
	for !s.scrape().Fleet.Detailed {
		time.Sleep(time.Minute)
		if time.Since(r.began) > 3*time.Hour {
			t.Fatal("no complete picture after three hours")
		}
	}
	t.Logf("the first complete picture after %v", time.Since(r.began).Round(time.Second))
	// Machines and jobs come behind it: the first hour shows who waits for them.
	for unread := fleet; unread > 0; time.Sleep(time.Minute) {
		unread = 0
		for _, at := range r.readAt() {
			if at.IsZero() {
				unread++
			}
		}
		if time.Since(r.began) > 6*time.Hour {
			t.Fatalf("the jobs of %d runners were not read within 6 hours", unread)
		}
	}
	if f := s.scrape().Fleet; !f.MachinesWhole || !f.JobsWhole {
		t.Errorf("machines whole %t, jobs whole %t", f.MachinesWhole, f.JobsWhole)
	}
	t.Logf("machines and the jobs of each runner after %v", time.Since(r.began).Round(time.Second))
	time.Sleep(time.Hour)

	var ages, lists []float64
	var lags [snapshot.NumStages]time.Duration
	read := r.readAt()
	requests := world.Requests()
	before := requests
	const minutes = 90
	for i := range minutes {
		time.Sleep(time.Minute)
		if i == minutes/2 {
			world.FlushRedis() // contacts fall back: they prove nothing then
		}
		g, now := s.scrape(), world.Requests()
		lists = append(lists, float64(now[listRoute(graphql)]-before[listRoute(graphql)]))
		before = now
		seen := map[int64]bool{}
		at := r.readAt()
		for _, j := range world.Truth().Executing {
			if time.Since(j.Started) > 3*time.Minute && !seen[j.Runner] {
				seen[j.Runner] = true
				ages = append(ages, time.Since(at[j.Runner]).Seconds())
			}
		}
		for stage := range lags {
			lags[stage] = max(lags[stage], g.Self.Stages[stage].Lag)
		}
	}
	for _, route := range slices.Sorted(maps.Keys(before)) {
		if n := before[route] - requests[route]; n > minutes {
			t.Logf("%-30s %6.1f a minute", route, float64(n)/minutes)
		}
	}
	slices.Sort(ages)
	most := ages[len(ages)-1]
	t.Logf("jobs of a runner that executes were last read: p50 %.0f s, p99 %.0f s, at most %.0f s ago (%d looks)", ages[len(ages)/2], ages[len(ages)*99/100], most, len(ages))
	t.Logf("the longest lag shown: list %v, details %v, jobs %v, reconcile %v", lags[0], lags[1], lags[2], lags[3])
	t.Logf("list requests a minute: %v to %v", slices.Min(lists), slices.Max(lists))
	t.Logf("answers by status: %v, of the 429 in the first minute: %d", world.RequestsByStatus(), refused)
	if n := world.RequestsByStatus()[429]; n > refused {
		t.Errorf("%d answers were 429 after the first minute", n-refused)
	}
	pages := float64((fleet + 99) / 100)
	if got := float64(before[listRoute(graphql)]-requests[listRoute(graphql)]) / minutes; got < 0.9*pages || slices.Max(lists) > 2*pages {
		t.Errorf("the list takes %.1f requests a minute, want %.0f: it is not read each minute", got, pages)
	}
	// One interval with its jitter, and the time of some requests ahead at the gate.
	within := 66 + 20*60/float64(limit)
	if p99 := ages[len(ages)*99/100]; len(ages) < minutes*active/8 || p99 > within || most > 150 {
		t.Errorf("of %d looks at runners that execute, 99 %% were read within %.0f s, want %.0f s", len(ages), p99, within)
	}
	bound := 12 * time.Hour
	if graphql {
		bound = 2 * time.Minute
	}
	unread := 0
	for id, at := range r.readAt() {
		if !graphql && at.Equal(read[id]) && time.Since(at) > bound {
			unread++
		}
	}
	if unread > 0 || max(lags[snapshot.StageDetails], lags[snapshot.StageJobs]) > bound {
		t.Errorf("%d runners starve; lags %v", unread, lags)
	}
	if !graphql && lags[snapshot.StageDetails] < time.Hour {
		t.Errorf("the lag of details is shown as %v: either it is not shown, or the budget is not small", lags[snapshot.StageDetails])
	}

	// Each job is counted in the end.
	world.Quiesce()
	began := time.Now()
	for {
		time.Sleep(10 * time.Minute)
		d := diff(finished(s.scrape()), finishedTruth(world.Truth().Finished))
		if len(d) == 0 {
			break
		}
		if time.Since(began) > 24*time.Hour {
			t.Fatalf("jobs are lost or counted twice: %v", d)
		}
	}
	t.Logf("all of %d jobs are counted %v after the last was created", len(world.Truth().Finished), time.Since(began))
	if len(world.Truth().Finished) < fleet/2 {
		t.Error("too few jobs to prove anything")
	}
}

// A runner that begins to execute after an hour of nothing is read at once: it
// is not late, and must not be shown as late.
func TestBeginningToExecuteIsNotALag(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Runners: 60, Healthy: true, Tags: 3, Token: secret, Latency: func(string) time.Duration { return 200 * time.Millisecond }})
		mount(t, world)
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{})
		defer r.end(t)
		time.Sleep(2 * time.Hour)
		ids := r.readAt()
		for id := range ids {
			world.CreateJob(gitlabsim.JobSpec{Runner: id})
		}
		began := time.Now()
		for range 1500 {
			time.Sleep(100 * time.Millisecond)
			r.m.fleet.mu.Lock()
			for stage, st := range r.m.publisher.self(time.Now()).Stages {
				if st.Lag > 5*time.Second {
					t.Errorf("%v after the jobs began, stage %v is shown to lag by %v", time.Since(began), snapshot.Stage(stage), st.Lag)
				}
			}
			r.m.fleet.mu.Unlock()
			if t.Failed() {
				return
			}
		}
		if n := s.scrape().Fleet.JobsExecuting[snapshot.InstanceType][0]; n == 0 {
			t.Error("nothing executes: the test proves nothing")
		}
		for id, at := range r.readAt() {
			if at.Before(began) {
				t.Errorf("runner %d executes and was last read %v ago", id, time.Since(at))
			}
		}
	})
}

// An idle runner takes jobs that begin and end between two listings, one after
// the other: each contact would put its reading off, and the next comes sooner.
func TestShortJobsOfAnIdleRunnerAreCountedSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Token: secret})
		mount(t, world)
		id := world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"a"}})
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{})
		defer r.end(t)
		time.Sleep(3*time.Hour + 17*time.Second)
		for range 240 {
			now := time.Now()
			world.CreateJob(gitlabsim.JobSpec{Runner: id, Started: now, Finished: now.Add(2 * time.Second)})
			time.Sleep(15 * time.Second)
		}
		time.Sleep(10 * time.Minute)
		check(t, "jobs", finished(s.scrape()), finishedTruth(world.Truth().Finished))
		if most, n := s.longest(); most > 4*time.Minute || n < 230 {
			t.Errorf("%d jobs were counted, up to %v after their end", n, most)
		}
	})
}

func listRoute(graphql bool) string {
	if graphql {
		return "POST /graphql"
	}
	return "GET /runners/all"
}

// readAt is when each runner's jobs were read last.
func (r *running) readAt() map[int64]time.Time {
	r.m.fleet.mu.Lock()
	defer r.m.fleet.mu.Unlock()
	out := map[int64]time.Time{}
	for _, id := range r.m.fleet.inv.IDs() {
		out[id] = r.m.fleet.led.ReadAt(id)
	}
	return out
}
