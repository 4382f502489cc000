package monitor

import (
	"context"
	"math"
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
	if old, ok := m.sched.Due(budget.StageJobs, id); ok && class == budget.IdleJobs {
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
		if old, ok := m.sched.Due(budget.Stage(stage), id); ok && old.Before(now) {
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

// pollJobs is one reading of a runner's jobs (docs/counting.md): what executes
// now, the newest rows, then each watched job that was met in neither.
func (m *Monitor) pollJobs(ctx context.Context, item budget.Item) error {
	client := m.deps.Client.For(m.deps.Budget.Gate(item.Class))
	m.mu.Lock()
	began := time.Now()
	poll := m.led.Poll(item.ID, m.now())
	if poll == nil {
		m.mu.Unlock()
		return nil
	}
	executing := poll.NeedsExecuting(m.inv.Idle(item.ID))
	// Each number is good for one reading: explained again and again by chance,
	// it could hide a job for all of its life.
	told, at := m.inv.Executing(item.ID, m.led.ReadAt(item.ID))
	if told >= 0 && !poll.Told(at) {
		told = -1
	}
	keyset := m.keyset && poll.ByKeyset()
	rows := poll.Rows(m.opts.Poll.ReconcileInterval)
	m.mu.Unlock()

	gone := false
	readExecuting := func() error {
		var all []gitlab.Job
		list := descent{what: "the list of running jobs", most: runningPages, idle: idlePages}
		for page := 1; page != 0; {
			p, err := client.RunnerJobs(ctx, gitlab.JobsQuery{RunnerID: item.ID, Status: "running", Page: page})
			if gone = gitlab.ReasonOf(err) == gitlab.ReasonNotFound; gone {
				return nil
			}
			if err != nil {
				return err
			}
			all = append(all, p.Jobs...)
			if page = p.Next; page != 0 {
				if err := list.page(p.Jobs); err != nil {
					return err
				}
			}
		}
		m.mu.Lock()
		poll.Executing(all) // not before: what an endless list invents is not watched
		m.mu.Unlock()
		return nil
	}
	// Where the list told how many jobs there are, the newest rows mostly show
	// them all.
	if executing && told < 0 {
		if err := readExecuting(); err != nil {
			return err
		}
	}
	q := gitlab.JobsQuery{RunnerID: item.ID, Page: 1, Rows: rows}
	if keyset {
		q = gitlab.JobsQuery{RunnerID: item.ID, Keyset: true}
	}
	newest := descent{what: "the list of the newest jobs", most: math.MaxInt, idle: idlePages} // the ledger bounds its pages
	for more := true; more && !gone; {
		p, err := client.RunnerJobs(ctx, q)
		if gone = gitlab.ReasonOf(err) == gitlab.ReasonNotFound; gone {
			break
		}
		if err != nil {
			return err
		}
		m.mu.Lock()
		more = poll.Newest(p)
		m.heardKeyset(q, p)
		if more && q.Rows > 0 {
			poll.Again()
		}
		m.mu.Unlock()
		switch {
		case q.Rows > 0:
			q.Rows = 0 // a few were too few: from the top, by full pages
			continue
		case more:
			if err := newest.page(p.Jobs); err != nil {
				return err
			}
		}
		q = next(q, p)
	}
	if executing && told >= 0 && !gone {
		m.mu.Lock()
		explained := poll.Explains(told)
		m.mu.Unlock()
		if !explained {
			if err := readExecuting(); err != nil {
				return err
			}
		}
	}
	m.mu.Lock()
	if gone {
		poll.RunnerGone()
	}
	asks := poll.Missing()
	m.mu.Unlock()
	var failure error
	for _, a := range asks[:min(len(asks), asksMost)] {
		job, err := client.Job(ctx, a.Project, a.Job)
		m.mu.Lock()
		switch reason := gitlab.ReasonOf(err); reason {
		case "":
			poll.Asked(job)
		case gitlab.ReasonNotFound, gitlab.ReasonForbidden:
			poll.Refused(a.Job, reason == gitlab.ReasonForbidden)
		default:
			failure = err // the others may still answer
		}
		m.mu.Unlock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if gone {
		m.noJobs[item.ID] = true
		m.doubt(item.ID, now)
		return failure
	}
	deep := m.led.Deep(item.ID)
	poll.Done(true)
	delete(m.noJobs, item.ID)
	if m.led.Deep(item.ID).After(deep) {
		// It read as deep as a walk does: most runners need no other.
		m.deep[item.ID] = began
		m.lastGood[snapshot.StageReconcile] = now
	}
	if running, canceling, _, read := m.led.Executing(item.ID); read {
		m.inv.Executed(item.ID, running+canceling, m.now())
		m.hastenDetails(item.ID, now)
	}
	m.planWalk(item.ID, now)
	return failure
}

// doubt lets a runner's details say whether it was deleted, as its list of jobs
// suggests. The caller holds the mutex.
func (m *Monitor) doubt(id int64, now time.Time) {
	if m.inv.Has(id) && !m.inv.Doubted(id) {
		m.sched.Set(budget.NewDetails, id, now, now.Add(m.opts.Poll.JobsInterval))
	}
}

// heardKeyset notes a server that answers a keyset query by number: it does
// not know the parameter.
func (m *Monitor) heardKeyset(q gitlab.JobsQuery, p gitlab.JobsPage) {
	if q.Keyset && !p.Keyset {
		m.keyset = false
	}
}

// next is the query of the page after p.
func next(q gitlab.JobsQuery, p gitlab.JobsPage) gitlab.JobsQuery {
	if p.Cursor != "" {
		return gitlab.JobsQuery{RunnerID: q.RunnerID, Keyset: true, Cursor: p.Cursor}
	}
	return gitlab.JobsQuery{RunnerID: q.RunnerID, Page: p.Next}
}

// rewalk begins a walk anew. The caller holds the mutex.
func (m *Monitor) rewalk(id int64, walk *ledger.Walk) {
	walk.Restart()
	m.walk(id, walk.Began(), false)
}

// walkJobs reads one page of a walk; the next one is a reading of its own, so
// that a long walk never holds up what is more urgent.
func (m *Monitor) walkJobs(ctx context.Context, item budget.Item) error {
	client := m.deps.Client.For(m.deps.Budget.Gate(budget.Walk))
	m.mu.Lock()
	resumed := m.led.Walking(item.ID)
	walk := m.led.Walk(item.ID, m.now())
	if walk == nil {
		m.mu.Unlock()
		return nil
	}
	q, w := walk.Query(m.keyset), m.walk(item.ID, walk.Began(), resumed)
	m.mu.Unlock()
	p, err := client.RunnerJobs(ctx, q)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch gitlab.ReasonOf(err) {
	case "":
		m.heardKeyset(q, p)
		whole := walk.Page(p)
		if whole {
			m.deep[item.ID] = w.start
			if w.start.IsZero() {
				m.deep[item.ID] = m.local(m.led.Deep(item.ID))
			}
		}
		restart, err := m.walked(item.ID, w, p.Jobs, whole)
		if restart {
			m.rewalk(item.ID, walk)
		}
		return err
	case gitlab.ReasonNotFound:
		m.doubt(item.ID, time.Now())
	case gitlab.ReasonBadRequest:
		if q.Keyset {
			m.keyset = false // not offered here, or the cursor is of another release
		}
		m.rewalk(item.ID, walk)
	default:
	}
	return err
}
