// Package plan decides what one GitLab is asked next, and why: which readings a
// runner's state makes due, how long a failed one waits, and which of the due
// ones comes first.
//
// It is pure: no network, no disk, no clock. internal/monitor describes each
// runner and passes the local time. A Plan is not safe for concurrent use.
//
// A further kind of reading needs a snapshot.Stage, a budget.Class, a method
// beside Details, Jobs and Walk that sets when it is due, and a reader in
// internal/monitor.
package plan

import (
	"math/rand/v2"
	"time"

	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const (
	// retryFirst and retryMost bound the wait after a failed reading.
	retryFirst = 5 * time.Second
	retryMost  = 15 * time.Minute
	// firstPatience is how long the last details under way hold back machines
	// and jobs: one that hangs must not hold them back for its time-out.
	firstPatience = 10 * time.Second
	// longest is how long Next lets its caller wait at the most.
	longest = time.Minute
)

// Runner is what a runner's readings depend on. Times are of the local clock.
type Runner struct {
	Listed    bool
	TagsKnown bool // or given up: its jobs may be counted
	Executing bool // as far as is known
	Watched   bool // some of its jobs were seen executing and must be met again

	// The last readings that this process does not know of itself, from the saved
	// state; zero: none.
	DetailsAt, JobsAt, WalkedAt time.Time

	AwaitsMachines, AwaitsJobs bool // a first picture waits for them

	Quiet      time.Duration // since its last job ended
	Settled    time.Time     // from when a reading of its jobs shows all that its last contact was about
	WalkWanted bool          // a walk is under way, or its list grew by more than was met

	// Until when it is known to have taken no job since its jobs were read, and
	// since its last walk; zero: nothing is known.
	UntouchedSinceJobs, UntouchedSinceWalk time.Time
}

// Plan is what will be read of one GitLab's runners.
type Plan struct {
	intervals Intervals
	schedule  *Schedule
	underWay  map[reading]struct{} // a runner's jobs (polls and walks together, one at a time) or its details
	state     map[reading]*state
	fails     map[reading]int     // failures in a row; apart, since few have any and each picture asks for all
	walked    map[int64]time.Time // start of the last whole walk of this process, local clock
	fast      map[int64]struct{}  // runners whose details are planned as those of an executing one
}

// reading is what is read of one runner.
type reading struct {
	stage snapshot.Stage
	id    int64
}

// state is how the readings of one stage of a runner went. Times are of the local clock.
type state struct {
	began time.Time // when it was last read or tried; zero: never
	good  time.Time // start of the last reading of this process that succeeded; zero: none
}

// New makes an empty plan.
func New(iv Intervals, now time.Time) *Plan {
	return &Plan{
		intervals: iv, schedule: NewSchedule(now),
		underWay: map[reading]struct{}{}, state: map[reading]*state{}, fails: map[reading]int{},
		walked: map[int64]time.Time{}, fast: map[int64]struct{}{},
	}
}

// look is the state of a reading; zero where it was never tried.
func (p *Plan) look(stage snapshot.Stage, id int64) state {
	if s := p.state[reading{stage, id}]; s != nil {
		return *s
	}
	return state{}
}

// note is the state of a reading, to be changed.
func (p *Plan) note(stage snapshot.Stage, id int64) *state {
	key := reading{stage, id}
	s := p.state[key]
	if s == nil {
		s = &state{}
		p.state[key] = s
	}
	return s
}

// Next is the most urgent reading that is due, or how long to wait for one. As
// long as the first picture awaits details, nothing else is read: awaited are
// the runners whose.
func (p *Plan) Next(now time.Time, awaited map[int64]struct{}) (Item, bool, time.Duration) {
	for {
		item, ok, wait := p.pick(now, awaited)
		if wait > 0 {
			return Item{}, false, wait
		}
		if !ok {
			break
		}
		if _, busy := p.underWay[exclusive(item)]; busy {
			// Its runner's jobs are being read: one reader a runner.
			p.schedule.Set(item.Class, item.ID, now.Add(time.Second), item.Deadline)
			continue
		}
		p.underWay[exclusive(item)] = struct{}{}
		p.note(item.Class.Stage(), item.ID).began = now
		return item, true, 0
	}
	wait := longest
	if at, ok := p.schedule.Wake(now); ok {
		wait = min(wait, max(at.Sub(now), time.Millisecond))
	}
	return Item{}, false, wait
}

// pick takes the most urgent reading that is due, or returns how long to wait
// for one under way first.
func (p *Plan) pick(now time.Time, awaited map[int64]struct{}) (item Item, ok bool, wait time.Duration) {
	if len(awaited) > 0 {
		if item, ok = p.schedule.First(now); ok {
			return item, true, 0
		}
		for key := range p.underWay {
			if _, ok := awaited[key.id]; ok && key.stage == snapshot.StageDetails {
				wait = max(wait, p.state[key].began.Add(firstPatience).Sub(now))
			}
		}
		if wait > 0 {
			return item, false, wait
		}
	}
	item, ok = p.schedule.Next(now)
	return item, ok, 0
}

// exclusive is what only one reader of a runner may read at a time.
func exclusive(item Item) reading {
	if item.Class.Stage() == snapshot.StageDetails {
		return reading{snapshot.StageDetails, item.ID}
	}
	return reading{snapshot.StageJobs, item.ID}
}

// Ended notes that a reading is not under way any more.
func (p *Plan) Ended(item Item) { delete(p.underWay, exclusive(item)) }

// Failed counts a failed reading.
func (p *Plan) Failed(stage snapshot.Stage, id int64) { p.fails[reading{stage, id}]++ }

// Fails is how many readings failed in a row.
func (p *Plan) Fails(stage snapshot.Stage, id int64) int { return p.fails[reading{stage, id}] }

// Succeeded ends a row of failures.
func (p *Plan) Succeeded(stage snapshot.Stage, id int64) {
	delete(p.fails, reading{stage, id})
}

// Recovered forgets the failures of a reading, so that it is due an interval after
// the last one that succeeded.
func (p *Plan) Recovered(stage snapshot.Stage, id int64) {
	delete(p.fails, reading{stage, id})
	if s := p.state[reading{stage, id}]; s != nil {
		s.began = time.Time{}
	}
}

// Read notes when a reading that succeeded began.
func (p *Plan) Read(stage snapshot.Stage, id int64, began time.Time) {
	p.note(stage, id).good = began
}

// Walked notes when a whole walk of a runner, or a poll as deep as one, began.
func (p *Plan) Walked(id int64, began time.Time) { p.walked[id] = began }

// MachinesRead notes that a runner's machines were read alone: the next reading
// of its details does not wait longer for that.
func (p *Plan) MachinesRead(id int64, r Runner) {
	p.note(snapshot.StageDetails, id).began = p.readAt(snapshot.StageDetails, id, r.DetailsAt)
}

// Forget drops all about a runner that left.
func (p *Plan) Forget(id int64) {
	p.schedule.Remove(id)
	for stage := range snapshot.Stage(snapshot.NumStages) {
		delete(p.state, reading{stage, id})
		delete(p.fails, reading{stage, id})
	}
	delete(p.fast, id)
	delete(p.walked, id)
}

// Lag is how late the most overdue reading of a stage is; 0: on time.
func (p *Plan) Lag(stage snapshot.Stage, now time.Time) time.Duration {
	return p.schedule.Lag(stage, now)
}

// Details sets when a runner's details are read next.
func (p *Plan) Details(id int64, r Runner, now time.Time) {
	if !r.Listed {
		return
	}
	class, interval := budget.Details, p.intervals.Details
	delete(p.fast, id)
	if r.Executing {
		class, interval = budget.ActiveDetails, p.intervals.ActiveDetails()
		p.fast[id] = struct{}{}
	}
	due := p.due(snapshot.StageDetails, id, p.readAt(snapshot.StageDetails, id, r.DetailsAt), interval, r.AwaitsMachines, now)
	switch {
	case r.DetailsAt.IsZero():
		class = budget.NewDetails
	case r.AwaitsMachines:
		class = budget.NewMachines
		if p.Fails(snapshot.StageDetails, id) == 0 {
			due = now // right behind its details
			if began := p.look(snapshot.StageDetails, id).began; !began.IsZero() {
				due = began
			}
		}
	}
	p.set(class, id, due, due.Add(interval), now)
}

// Hasten brings the details of a runner forward that has begun to execute since
// they were planned. Planned once, they are left alone: each call would throw
// the dice of their jitter anew.
func (p *Plan) Hasten(id int64, r Runner, now time.Time) {
	if _, fast := p.fast[id]; !fast && r.Executing {
		p.Details(id, r, now)
	}
}

// Doubt reads a runner's details at once, which show whether it was deleted.
func (p *Plan) Doubt(id int64, now time.Time) {
	p.schedule.Set(budget.NewDetails, id, now, now.Add(p.intervals.Jobs))
}

// Hurry reads a runner's details at once, before those of others that are due:
// the next contact decides whether it is down.
func (p *Plan) Hurry(id int64, now time.Time) {
	p.schedule.Set(budget.ActiveDetails, id, now, now.Add(p.intervals.Runners))
}

// Jobs sets when a runner's jobs are read next: those of executing ones at the
// interval, of others the more seldom the longer ago their last job ended.
func (p *Plan) Jobs(id int64, r Runner, now time.Time) {
	if !r.Listed && !r.Watched {
		p.Forget(id)
		return
	}
	if r.Listed && !r.TagsKnown {
		return // its tags must be known before a job is counted
	}
	class, interval := budget.ActiveJobs, p.intervals.Jobs
	if !r.Executing && r.Quiet/4 > interval && !r.AwaitsJobs {
		class, interval = budget.IdleJobs, min(r.Quiet/4, p.intervals.IdleJobs())
	}
	at := p.readAt(snapshot.StageJobs, id, r.JobsAt)
	if !r.UntouchedSinceJobs.IsZero() {
		at = later(at, p.readAt(snapshot.StageDetails, id, r.UntouchedSinceJobs)) // as good as a reading that found nothing
	}
	due := p.due(snapshot.StageJobs, id, at, interval, r.AwaitsJobs, now)
	if old, ok := p.schedule.Due(snapshot.StageJobs, id); ok && class == budget.IdleJobs {
		// It contacted GitLab, so that its reading is due at once: a little later
		// it shows all that this may have been about. Once only, or a runner that
		// contacts GitLab again and again would never be read.
		settled := r.Settled
		if old.Before(settled) {
			settled = old
		}
		due = later(due, settled)
	}
	p.set(class, id, due, due.Add(interval), now)
}

// Walk sets when a runner's jobs are walked next.
func (p *Plan) Walk(id int64, r Runner, now time.Time) {
	if !r.Listed || !r.TagsKnown {
		return
	}
	walked, ok := p.walked[id]
	if !ok {
		walked = r.WalkedAt
	}
	deadline := walked.Add(p.intervals.endOfWalk())
	due := walked.Add(p.intervals.Reconcile)
	until := r.UntouchedSinceWalk
	if !until.IsZero() {
		until = p.readAt(snapshot.StageDetails, id, until)
	}
	if until.After(walked) {
		// A walk would find nothing. Now and then it is done all the same:
		// GitLab might not show each contact.
		due = until.Add(p.intervals.Reconcile)
		if most := deadline.Add(-p.intervals.Lookback / 20); due.After(most) {
			due = later(most, walked.Add(p.intervals.Reconcile))
		}
	}
	if p.Fails(snapshot.StageReconcile, id) > 0 {
		due = p.due(snapshot.StageReconcile, id, time.Time{}, p.intervals.Reconcile, false, now)
	} else if r.WalkWanted && due.After(now) {
		due = now
	}
	p.set(budget.Walk, id, due, deadline, now)
}

// set sets when a reading is due. What was planned for later and is wanted
// sooner, because the runner began to execute, is due now and not late since
// long ago: poll_lag_seconds would show a lag that there never was.
func (p *Plan) set(class budget.Class, id int64, due, deadline, now time.Time) {
	if old, ok := p.schedule.Due(class.Stage(), id); ok && due.Before(now) && due.Before(old) {
		due = old
		if now.Before(old) {
			due = now
		}
	}
	p.schedule.Set(class, id, due, deadline)
}

// due is when a reading of a runner is due: an interval after the last one (at),
// later while it fails, at once where it was never read. One that sums wait for
// (awaited) is tried again sooner.
func (p *Plan) due(stage snapshot.Stage, id int64, at time.Time, interval time.Duration, awaited bool, now time.Time) time.Time {
	tried, fails := p.look(stage, id).began, p.Fails(stage, id)
	switch began := later(tried, at); {
	case fails > 0 && awaited:
		return tried.Add(retryWait(fails))
	case fails > 0:
		return tried.Add(max(retryWait(fails), min(interval, retryMost)))
	case !began.IsZero(): // at is later where the details came with the list
		return began.Add(interval + Spread(interval))
	}
	if old, ok := p.schedule.Due(stage, id); ok && old.Before(now) {
		return old // planned anew it would lose its place, time and again
	}
	return now
}

// readAt is the local time of the last reading of a stage. Only what was read by
// an earlier process (saved, by GitLab's clock) is taken from the caller: a
// clock that was wrong for a while would otherwise move readings by as much.
func (p *Plan) readAt(stage snapshot.Stage, id int64, saved time.Time) time.Time {
	if good := p.look(stage, id).good; !good.IsZero() {
		return good
	}
	return saved
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// retryWait is the pause after a reading failed so many times in a row.
func retryWait(fails int) time.Duration {
	return min(retryFirst<<min(fails-1, 10), retryMost)
}

// Spread varies a due time by up to a tenth of its interval, so that readings
// do not fall into step.
func Spread(interval time.Duration) time.Duration {
	if interval <= 0 {
		return 0
	}
	return time.Duration(rand.Int64N(int64(interval)/5+1)) - interval/10 //nolint:gosec // no secret
}
