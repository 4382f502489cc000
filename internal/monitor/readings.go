package monitor

import (
	"context"
	"time"

	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/ledger"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const (
	// activeDetails is how often the details of a runner that executes jobs are
	// read at the least: its contact is what tells a machine dead mid-job.
	activeDetails = 5 * time.Minute
	// idleFactor is how many times jobs_interval an idle runner may wait.
	idleFactor = 5
	// retryFirst and retryMost bound the wait after a failed reading.
	retryFirst = 5 * time.Second
	retryMost  = 15 * time.Minute
	// noManagersAfter is how many 404s prove that a release has no machines endpoint.
	noManagersAfter = 3
	// managersTold marks a release that has told of machines.
	managersTold = -1 << 30
)

// plan sets when a reading is due. What was planned for later and is wanted
// sooner, because the runner began to execute, is due now and not late since
// long ago: poll_lag_seconds would tell a lag that there never was.
func (m *Monitor) plan(class budget.Class, id int64, due, deadline, now time.Time) {
	if old, ok := m.sched.Due(class.Stage(), id); ok && due.Before(now) && due.Before(old) {
		due = old
		if now.Before(old) {
			due = now
		}
	}
	m.sched.Set(class, id, due, deadline)
}

// planDetails sets when a runner's details are read next. The caller holds
// the mutex, as for each plan.
func (m *Monitor) planDetails(id int64, now time.Time) {
	if !m.inv.Has(id) {
		return
	}
	class, interval := budget.Details, m.opts.Poll.DetailsInterval
	delete(m.fast, id)
	if m.busy(id) {
		class, interval = budget.ActiveDetails, min(interval, activeDetails)
		m.fast[id] = true
	}
	at := m.readAt(snapshot.StageDetails, id, m.inv.DetailsAt(id))
	due := m.due(snapshot.StageDetails, id, at, interval, now)
	switch {
	case m.inv.DetailsAt(id).IsZero():
		class = budget.NewDetails
	case m.awaits(snapshot.PartMachines, id):
		class = budget.NewMachines
		if key := (readingKey{snapshot.StageDetails, id}); m.fails[key] == 0 {
			due = now // right behind its details
			if began, ok := m.began[key]; ok {
				due = began
			}
		}
	}
	m.plan(class, id, due, due.Add(interval), now)
}

// hastenDetails brings the details of a runner forward that has begun to
// execute since they were planned. Planned once, they are left alone: each
// call would throw the dice of their jitter anew.
func (m *Monitor) hastenDetails(id int64, now time.Time) {
	if !m.fast[id] && m.busy(id) {
		m.planDetails(id, now)
	}
}

// planJobs sets when a runner's jobs are read next: busy ones at
// jobs_interval, those that went idle the more seldom the longer ago.
func (m *Monitor) planJobs(id int64, now time.Time) {
	listed := m.inv.Has(id)
	if !listed && m.led.Watched(id) == 0 {
		m.sched.Remove(id)
		return
	}
	if listed && !m.inv.TagsKnown(id) {
		return // its tags must be known before a job is counted
	}
	class, interval := budget.ActiveJobs, m.opts.Poll.JobsInterval
	if quiet := m.now().Sub(m.led.LastFinished(id)); !m.busy(id) && quiet/4 > interval && !m.awaits(snapshot.PartJobs, id) {
		class, interval = budget.IdleJobs, min(quiet/4, idleFactor*interval)
	}
	at := m.readAt(snapshot.StageJobs, id, m.led.ReadAt(id))
	if until := m.untouched(id, m.led.ReadAt(id)); !until.IsZero() {
		at = later(at, m.readAt(snapshot.StageDetails, id, until)) // as good as a reading that found nothing
	}
	due := m.due(snapshot.StageJobs, id, at, interval, now)
	if old, ok := m.sched.Due(snapshot.StageJobs, id); ok && class == budget.IdleJobs {
		// It contacted GitLab, so that its reading is due at once: a little later
		// it shows all that this may have been about. Once only, or a runner that
		// contacts GitLab again and again would never be read.
		settled := m.localBy(m.inv.SettledAt(id), now.Add(inventory.SettleTime))
		if old.Before(settled) {
			settled = old
		}
		if settled.After(due) {
			due = settled
		}
	}
	m.plan(class, id, due, due.Add(interval), now)
}

// untouched is until when a runner is known to have done nothing since since;
// zero: nothing is known. The caller holds the mutex.
func (m *Monitor) untouched(id int64, since time.Time) time.Time {
	if m.led.Watched(id) > 0 {
		return time.Time{}
	}
	return m.inv.UntouchedUntil(id, since)
}

// touched plans a runner's jobs anew after its details were read, which may
// tell that there is nothing to read, or that there is. The caller holds the
// mutex.
func (m *Monitor) touched(id int64, now time.Time) {
	if !m.busy(id) {
		m.planJobs(id, now)
		m.planWalk(id, now)
	}
}

// planWalk sets when a runner's jobs are walked next. A walk must end before
// lookback/4 has passed since the last whole one: later, jobs would be lost.
func (m *Monitor) planWalk(id int64, now time.Time) {
	if !m.inv.Has(id) || !m.inv.TagsKnown(id) {
		return
	}
	deep, walked := m.deep[id]
	if !walked {
		deep = m.local(m.led.Deep(id))
	}
	deadline := deep.Add(m.opts.Poll.Lookback / 4)
	due := deep.Add(m.opts.Poll.ReconcileInterval)
	until := m.untouched(id, m.led.Deep(id))
	if !until.IsZero() {
		until = m.readAt(snapshot.StageDetails, id, until)
	}
	if until.After(deep) {
		// A walk would find nothing. Now and then it is done all the same:
		// GitLab might not tell each contact.
		due = until.Add(m.opts.Poll.ReconcileInterval)
		if most := deadline.Add(-m.opts.Poll.Lookback / 20); due.After(most) {
			due = later(most, deep.Add(m.opts.Poll.ReconcileInterval))
		}
	}
	if fails := m.fails[readingKey{snapshot.StageReconcile, id}]; fails > 0 {
		due = m.due(snapshot.StageReconcile, id, time.Time{}, m.opts.Poll.ReconcileInterval, now)
	} else if m.led.WalkWanted(id) && due.After(now) {
		due = now
	}
	m.plan(budget.Walk, id, due, deadline, now)
}

// due is when a reading of a runner is due: an interval after the last one (at),
// later while it fails, at once where it was never read. All times are of the
// local monotonic clock.
func (m *Monitor) due(stage snapshot.Stage, id int64, at time.Time, interval time.Duration, now time.Time) time.Time {
	key := readingKey{stage, id}
	began, tried := m.began[key]
	if fails := m.fails[key]; fails > 0 && m.holdsBack(stage, id) {
		return began.Add(retryWait(fails))
	} else if fails > 0 {
		return began.Add(max(retryWait(fails), min(interval, retryMost)))
	}
	if !at.IsZero() && (!tried || at.After(began)) {
		began, tried = at, true // by GraphQL the details are read with the list
	}
	if !tried {
		if old, ok := m.sched.Due(stage, id); ok && old.Before(now) {
			return old // planned anew it would lose its place, time and again
		}
		return now
	}
	return began.Add(interval + spread(interval))
}

// holdsBack reports whether sums wait for a stage's first reading of a runner:
// those by tag for its details, those of machines and of jobs for theirs.
func (m *Monitor) holdsBack(stage snapshot.Stage, id int64) bool {
	switch stage {
	case snapshot.StageDetails:
		return m.awaits(snapshot.PartMachines, id)
	case snapshot.StageJobs:
		return m.awaits(snapshot.PartJobs, id)
	default:
		return false
	}
}

// readAt is the local time of the last reading of a stage. Only what was read by
// an earlier process (saved, by GitLab's clock) is converted: a clock that was
// wrong for a while would otherwise move readings by as much.
func (m *Monitor) readAt(stage snapshot.Stage, id int64, saved time.Time) time.Time {
	if at, ok := m.good[readingKey{stage, id}]; ok {
		return at
	}
	if saved.IsZero() {
		return time.Time{}
	}
	return m.local(saved)
}

// local converts a past time of GitLab's to ours, which the schedule runs on.
// It is never after now: what is past must not be planned for later than an
// interval from now, whatever any clock did.
func (m *Monitor) local(t time.Time) time.Time { return m.localBy(t, time.Now()) }

func (m *Monitor) localBy(t, most time.Time) time.Time {
	local := time.Now().Add(t.Sub(m.now()))
	if local.After(most) {
		return most
	}
	return local
}

// busy tells whether a runner executes, as far as is known.
func (m *Monitor) busy(id int64) bool { return m.inv.Active(id) || m.led.Watched(id) > 0 }

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

// readDetails reads a runner's details and machines. Where the details were
// never read they come alone: all sums by tag wait for them. The machines are
// then a reading of their own.
func (m *Monitor) readDetails(ctx context.Context, item budget.Item) error {
	client := m.deps.Client.For(m.deps.Budget.Gate(item.Class))
	m.mu.Lock()
	fails := m.fails[readingKey{snapshot.StageDetails, item.ID}]
	// The projects of a runner are read for its owner only; with thousands of
	// them GitLab fails to tell them at all.
	lean := m.inv.HasOwner(item.ID) || fails > 0
	at := m.inv.DetailsAt(item.ID)
	machines := m.noManagers < noManagersAfter && !at.IsZero()
	// The contact of one that executes is not put off for them.
	alone := item.Class == budget.NewMachines && (!m.busy(item.ID) || time.Since(m.local(at)) < activeDetails)
	m.mu.Unlock()

	if alone {
		if !machines {
			return nil // it was found out meanwhile that this GitLab has no such endpoint
		}
		managers, err := client.Managers(ctx, item.ID)
		if gitlab.ReasonOf(err) != gitlab.ReasonNotFound {
			return m.foldMachines(ctx, item.ID, managers, err)
		}
		// No such endpoint, or no such runner: its details tell which.
	}
	began := time.Now()
	details, err := client.Runner(ctx, item.ID, lean)
	var managers []gitlab.Manager
	var merr error
	if err == nil && machines {
		managers, merr = client.Managers(ctx, item.ID)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if gitlab.ReasonOf(err) == gitlab.ReasonNotFound {
		// GitLab itself says that it is gone: it leaves with the next listing
		// that does not show it.
		m.inv.NotFound(item.ID, now)
	}
	known := m.inv.TagsKnown(item.ID)
	if err != nil {
		if !stopping(ctx) {
			m.inv.DetailsFailed(item.ID)
			if !known && m.inv.TagsKnown(item.ID) {
				m.planJobs(item.ID, now)
				m.planWalk(item.ID, now)
			}
		}
		return err
	}
	if !m.led.StartFixed() {
		m.contacts(details.ContactedAt, managers, now)
		m.raise(now)
	}
	m.good[readingKey{snapshot.StageDetails, item.ID}] = began
	m.inv.Details(item.ID, details, managers, m.now())
	m.led.Describe(item.ID, m.inv.TagLabels(item.ID))
	if !known {
		m.planJobs(item.ID, now)
		m.planWalk(item.ID, now)
	} else {
		m.touched(item.ID, now)
	}
	switch {
	case managers != nil:
		m.noManagers = managersTold
	case gitlab.ReasonOf(merr) == gitlab.ReasonNotFound:
		m.noManagers++
		m.inv.MachinesFailed(item.ID, true)
	case merr != nil && !stopping(ctx):
		m.inv.MachinesFailed(item.ID, false)
	}
	if gitlab.ReasonOf(merr) == gitlab.ReasonNotFound {
		return nil
	}
	return merr
}

// foldMachines takes what a reading of a runner's machines alone brought.
func (m *Monitor) foldMachines(ctx context.Context, id int64, managers []gitlab.Manager, err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err == nil:
		m.noManagers = managersTold
		m.inv.Machines(id, managers)
		// The next reading of its details does not wait longer for this one.
		m.began[readingKey{snapshot.StageDetails, id}] = m.readAt(snapshot.StageDetails, id, m.inv.DetailsAt(id))
	case !stopping(ctx):
		m.inv.MachinesFailed(id, false)
	}
	return err
}

// pollJobs polls a runner's jobs.
func (m *Monitor) pollJobs(ctx context.Context, item budget.Item) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := item.ID
	listed := ledger.Listed{Idle: m.inv.Idle(id)}
	// Each number is good for one reading: explained again and again by chance,
	// it could hide a job for all of its life.
	listed.Executing, listed.At = m.inv.Executing(id, m.led.ReadAt(id))
	poll := m.led.Poll(id, m.now(), time.Now(), listed, m.opts.Poll.ReconcileInterval)
	if poll == nil {
		return nil
	}
	if err := m.drive(ctx, item, poll); err != nil {
		return err
	}
	now, o := time.Now(), m.end(id, poll)
	if o.Gone {
		m.noJobs[id] = true
	}
	if !poll.Whole() {
		return o.Err
	}
	delete(m.noJobs, id)
	if o.Deep { // most runners need no other walk
		m.lastGood[snapshot.StageReconcile] = now
	}
	if running, canceling, _, read := m.led.Executing(id); read {
		m.inv.Executed(id, running+canceling, m.now())
		m.hastenDetails(id, now)
	}
	m.planWalk(id, now)
	return o.Err
}

// walkJobs reads one page of a walk of a runner's jobs.
func (m *Monitor) walkJobs(ctx context.Context, item budget.Item) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	walk := m.led.Walk(item.ID, m.now(), time.Now())
	if walk == nil {
		return nil
	}
	if err := m.drive(ctx, item, walk); err != nil {
		return err
	}
	return m.end(item.ID, walk).Err
}

// drive asks GitLab what a reading wants to know, until it wants nothing more.
// The error is that of the time being up. The caller holds the mutex, which is
// released while a request is under way.
func (m *Monitor) drive(ctx context.Context, item budget.Item, r ledger.Reading) error {
	client := m.deps.Client.For(m.deps.Budget.Gate(item.Class))
	for q, more := r.Next(); more; q, more = r.Next() {
		m.mu.Unlock()
		var a ledger.Answer
		var err error
		if q.OneJob() {
			a.Job, err = client.Job(ctx, q.Job.Project, q.Job.Job)
		} else {
			a.Page, err = client.RunnerJobs(ctx, q.Page)
		}
		m.mu.Lock()
		r.Take(a, err)
		if q.OneJob() && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// end ends a reading and notes what it found out about its runner. The caller
// holds the mutex.
func (m *Monitor) end(id int64, r ledger.Reading) ledger.Outcome {
	o := r.End()
	if o.Gone {
		m.doubt(id, time.Now())
	}
	if o.Deep {
		if m.deep[id] = o.Began; o.Began.IsZero() {
			m.deep[id] = m.local(m.led.Deep(id))
		}
	}
	return o
}

// doubt lets a runner's details say whether it was deleted, as its list of jobs
// suggests. The caller holds the mutex.
func (m *Monitor) doubt(id int64, now time.Time) {
	if m.inv.Has(id) && !m.inv.Doubted(id) {
		m.sched.Set(budget.NewDetails, id, now, now.Add(m.opts.Poll.JobsInterval))
	}
}
