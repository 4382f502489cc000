package plan

import (
	"math/rand/v2"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

func seeded(seed uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, 1))
}

var start = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func intervals() Intervals {
	return Intervals{
		Runners: time.Minute, Details: 15 * time.Minute, Jobs: time.Minute, Reconcile: time.Hour,
		Lookback: 24 * time.Hour, Staleness: 10 * time.Minute,
	}
}

// due is the class and due time of what a runner has planned in a stage.
func (p *Plan) planned(t *testing.T, stage snapshot.Stage, id int64) Item {
	t.Helper()
	slot := p.schedule.slots[id]
	if slot == nil || slot[stage] == 0 {
		t.Fatalf("nothing is planned of %s", stage)
	}
	e := p.schedule.items[slot[stage]-1]
	return Item{Class: e.class, ID: e.id, Due: start.Add(e.due), Deadline: start.Add(e.deadline)}
}

// What a runner's state makes due: which class, and when, give or take the jitter.
func TestStateOfARunnerDecidesWhatIsDue(t *testing.T) {
	known := Runner{Listed: true, TagsKnown: true, DetailsAt: start, JobsAt: start, WalkedAt: start, Quiet: time.Minute}
	with := func(change func(r *Runner)) Runner { r := known; change(&r); return r }
	now := start.Add(time.Second)
	for name, c := range map[string]struct {
		runner Runner
		stage  snapshot.Stage
		class  budget.Class
		due    time.Duration // after start
	}{
		"details of an idle runner":      {known, snapshot.StageDetails, budget.Details, 15 * time.Minute},
		"details of an executing runner": {with(func(r *Runner) { r.Executing = true }), snapshot.StageDetails, budget.ActiveDetails, 5 * time.Minute},
		"details never read":             {with(func(r *Runner) { r.DetailsAt = time.Time{} }), snapshot.StageDetails, budget.NewDetails, time.Second},
		"machines for the first picture": {with(func(r *Runner) { r.AwaitsMachines = true }), snapshot.StageDetails, budget.NewMachines, time.Second},
		"jobs of an executing runner":    {with(func(r *Runner) { r.Executing, r.Quiet = true, time.Hour }), snapshot.StageJobs, budget.ActiveJobs, time.Minute},
		"jobs of one that just ended":    {known, snapshot.StageJobs, budget.ActiveJobs, time.Minute},
		"jobs of a quiet one":            {with(func(r *Runner) { r.Quiet = 12 * time.Minute }), snapshot.StageJobs, budget.IdleJobs, 3 * time.Minute},
		"jobs of one long quiet":         {with(func(r *Runner) { r.Quiet = 24 * time.Hour }), snapshot.StageJobs, budget.IdleJobs, 5 * time.Minute},
		"jobs that a picture awaits":     {with(func(r *Runner) { r.Quiet, r.AwaitsJobs, r.JobsAt = 24*time.Hour, true, time.Time{} }), snapshot.StageJobs, budget.ActiveJobs, time.Second},
		"a walk":                         {known, snapshot.StageReconcile, budget.Walk, time.Hour},
		"a walk that a poll asks for":    {with(func(r *Runner) { r.WalkWanted = true }), snapshot.StageReconcile, budget.Walk, time.Second},
		"a walk that would find nothing": {
			with(func(r *Runner) { r.UntouchedSinceWalk = start.Add(30 * time.Minute) }), snapshot.StageReconcile, budget.Walk, 90 * time.Minute,
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := New(intervals(), start)
			p.Details(1, c.runner, now)
			p.Jobs(1, c.runner, now)
			p.Walk(1, c.runner, now)
			it := p.planned(t, c.stage, 1)
			if off := it.Due.Sub(start) - c.due; it.Class != c.class || off.Abs() > c.due/10 {
				t.Errorf("class %d due after %v, want %d after %v", it.Class, it.Due.Sub(start), c.class, c.due)
			}
		})
	}
}

// A reading that fails waits longer each time, up to its interval or 15 minutes,
// but for those that sums wait for.
func TestFailedReadingWaitsLongerEachTime(t *testing.T) {
	for name, c := range map[string]struct {
		awaited bool
		want    []time.Duration
	}{
		"of a runner as any":        {false, []time.Duration{15 * time.Minute, 15 * time.Minute, 15 * time.Minute}},
		"of one that sums wait for": {true, []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			p, now := New(intervals(), start), start
			r := Runner{Listed: true, DetailsAt: start.Add(-time.Hour), AwaitsMachines: c.awaited}
			p.Details(1, r, now)
			for i, want := range c.want {
				item, ok, wait := p.Next(now, nil)
				for ; !ok; item, ok, wait = p.Next(now, nil) {
					now = now.Add(wait)
				}
				p.Failed(snapshot.StageDetails, 1)
				p.Ended(item)
				p.Details(1, r, now)
				if got := p.planned(t, snapshot.StageDetails, 1).Due.Sub(now); got != want {
					t.Errorf("failure %d: tried again after %v, want %v", i+1, got, want)
				}
			}
			if p.Succeeded(snapshot.StageDetails, 1); p.Fails(snapshot.StageDetails, 1) != 0 {
				t.Error("a success leaves failures")
			}
		})
	}
}

// A runner's polls and walks are read one at a time; its details beside them.
func TestRunnerHasOneReaderAtATime(t *testing.T) {
	p, now := New(intervals(), start), start.Add(2*time.Hour)
	r := Runner{Listed: true, TagsKnown: true, DetailsAt: start, JobsAt: start, WalkedAt: start}
	p.Details(1, r, now)
	p.Jobs(1, r, now)
	p.Walk(1, r, now)
	stages := map[snapshot.Stage]Item{}
	for item, ok, _ := p.Next(now, nil); ok; item, ok, _ = p.Next(now, nil) {
		stages[item.Class.Stage()] = item
	}
	_, jobs := stages[snapshot.StageJobs]
	_, walk := stages[snapshot.StageReconcile]
	if _, details := stages[snapshot.StageDetails]; !details || jobs == walk {
		t.Fatalf("under way: %v", stages)
	}
	for _, item := range stages {
		p.Ended(item)
	}
	if item, ok, _ := p.Next(now.Add(2*time.Second), nil); !ok || item.Class.Stage() == snapshot.StageDetails {
		t.Errorf("then %v, %t", item, ok)
	}
	if p.Forget(1); len(p.state)+len(p.fails)+len(p.schedule.slots) > 0 {
		t.Error("a runner that left is still planned")
	}
}

// Until the first picture is whole nothing but details is read, and those under
// way hold the rest back for a while, but not for long.
func TestTheFirstPictureComesFirst(t *testing.T) {
	p, now := New(intervals(), start), start
	fresh := Runner{Listed: true}
	known := Runner{Listed: true, TagsKnown: true, DetailsAt: start, JobsAt: start.Add(-time.Hour), WalkedAt: start}
	p.Details(1, fresh, now)
	p.Jobs(2, known, now)
	awaited := map[int64]struct{}{1: {}}
	if item, ok, _ := p.Next(now, awaited); !ok || item.Class != budget.NewDetails {
		t.Fatalf("first %v, %t", item, ok)
	}
	if item, ok, wait := p.Next(now, awaited); ok || wait != firstPatience {
		t.Errorf("while they are under way: %v, wait %v", item, wait)
	}
	if item, ok, _ := p.Next(now.Add(firstPatience), awaited); !ok || item.ID != 2 {
		t.Errorf("while they hang: %v, %t", item, ok)
	}
}
