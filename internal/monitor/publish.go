package monitor

import (
	"time"

	"github.com/go-kit/log/level"

	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const (
	// publishInterval and rowsInterval are how often, at the most, a picture is
	// published and its runner_ families are rebuilt; never less often than the
	// shortest polling interval.
	publishInterval = 5 * time.Second
	rowsInterval    = 15 * time.Second
	// progressInterval is how often the log reports a long first reading.
	progressInterval = time.Minute
	// unreadPending is the reason of runners whose turn has not come yet.
	unreadPending = "pending"
)

// publisher makes pictures of the fleet and publishes them. The caller of its
// methods holds the fleet's mutex.
type publisher struct {
	fleet  *fleet
	scopes *scopes
	first  *first
	queue  *queueReader // nil: the queue is not read
	budget *budget.Budget
	to     Publisher

	generation  uint64 // of the last picture
	pictured    bool   // a picture may be shown: see picture
	rowsAt      time.Time
	rowsGen     uint64
	lastRows    *snapshot.Fleet // nil: the runner_ families must be rebuilt
	lastRunners []snapshot.RunnerCounter

	reported time.Time // when a first reading was last logged
	paused   bool      // it was logged that GitLab asks to wait
}

// every is how often a picture is published, bounded by what can have changed.
func (p *publisher) every(most time.Duration) time.Duration {
	return min(most, p.fleet.opts.Intervals.Shortest())
}

// served notes which of the pictures a scrape has read.
func (p *publisher) served(now time.Time) {
	name := p.fleet.opts.Name
	p.fleet.led.Served(p.to.Served(name), p.to.ServedRows(name), p.fleet.clocks.elapsed(now))
}

// publish makes the present picture visible.
func (p *publisher) publish(now time.Time) {
	f := p.fleet
	f.fresh = false
	p.generation++
	at := f.clocks.now()
	s := &snapshot.GitLab{
		Name: f.opts.Name, URL: f.opts.URL, Version: f.version,
		Generation: p.generation, Time: at, Scopes: p.scopes.states(), Expected: f.opts.Expected,
	}
	rows := p.lastRows == nil || now.Sub(p.rowsAt) >= p.every(rowsInterval)
	s.Fleet, rows = p.picture(at, now, rows)
	if rows {
		p.rowsGen, p.rowsAt = p.generation, now
	}
	s.RowsGeneration = p.rowsGen
	if s.Fleet != nil {
		s.Health = f.health.shown(f.inv, s.Fleet)
	}
	s.Queue = p.queue.picture(now)
	s.QueueState, s.QueueAt = p.queue.state(f.opts, now)
	// Once a picture, not once a reading: it looks at every tag.
	f.led.Tags(f.inv.TagNames())
	s.Counters = f.led.Counters(p.generation, f.clocks.elapsed(now), rows, f.inv.Exported)
	if s.Counters != nil {
		f.inv.Events(s.Counters, p.generation, p.to.Served(f.opts.Name), f.clocks.elapsed(now))
		if rows {
			p.lastRunners = s.Counters.Runners
		} else {
			s.Counters.Runners = p.lastRunners
		}
	}
	switch {
	case s.Fleet != nil && rows:
		p.lastRows = s.Fleet
	case s.Fleet != nil:
		s.Fleet.Rows = p.lastRows.Rows
	case p.lastRows != nil:
		// Withdrawn: the runner_ families must go with it.
		p.lastRows, p.rowsGen, p.rowsAt = nil, p.generation, time.Time{}
		s.RowsGeneration = p.generation
	}
	s.Up = p.scopes.up && s.Fleet != nil // gauges that are withdrawn are not up
	s.Self = p.self(now)
	p.to.Publish(s)
}

// picture is the fleet, with or without its rows; nil where none may be shown.
// A first picture is whole: each scope is tried before it is shown, but it does
// not wait for one that hangs.
func (p *publisher) picture(at, now time.Time, rows bool) (*snapshot.Fleet, bool) {
	f := p.fleet
	p.pictured = p.pictured || p.scopes.tried || !p.scopes.firstListed.IsZero() && now.Sub(p.scopes.firstListed) > f.opts.Intervals.Runners
	if fresh := f.inv.Withdraw(at, now, f.opts.Intervals.Staleness); !fresh || !p.pictured {
		return nil, rows
	}
	before := f.inv.WholeParts()
	picture := f.inv.Fleet(f.jobs, rows)
	if f.inv.WholeParts() != before && !rows {
		// Who waits for a whole picture shall have the runner_ families with it.
		return f.inv.Fleet(f.jobs, true), true
	}
	return picture, rows
}

// arrived notes that a reading of a runner ended, and publishes at once if a
// part of the picture became whole by it.
func (p *publisher) arrived(id int64, now time.Time) {
	p.first.arrived(id)
	p.settle(now)
}

// settle publishes if a part that was awaited became whole, before any further
// reading begins.
func (p *publisher) settle(now time.Time) {
	if !p.pictured && !p.scopes.tried {
		return // there are scopes that were not tried yet
	}
	whole := p.first.complete()
	for _, part := range whole {
		if part == snapshot.PartDetails && p.fleet.inv.Len() > 0 {
			_, failed := p.fleet.inv.Unread()
			level.Info(p.fleet.log).Log("msg", "the first picture is whole: the details of all runners were read", "runners", p.fleet.inv.Len(), "unreadable", failed)
		}
	}
	if len(whole) > 0 {
		p.publish(now)
	}
}

// self is what the exporter shows of its own reading.
func (p *publisher) self(now time.Time) snapshot.Self {
	f, limits := p.fleet, p.budget.State()
	p.logPause(limits.AskedUntil, now)
	s := snapshot.Self{
		RateLimit: limits.RateLimit, RateRemaining: limits.RateRemaining,
		JobsVisible: f.visible, TagsOverLimit: f.inv.TagsOverLimit(), TokenExpiry: f.token.ExpiresAt,
	}
	s.JobsRecovered, s.JobsUnresolved = f.led.Totals()
	listInterval, listLag := p.scopes.lag(f.opts.Intervals.Runners, now)
	if at := f.clocks.gitlab.gitlab(now); !at.IsZero() {
		s.ClockOffset, s.ClockKnown = at.Sub(f.clocks.wall().Round(0)), true
	}
	s.First = p.first.progress(now, limits.Rate)
	intervals := [snapshot.NumStages]time.Duration{
		listInterval, f.opts.Intervals.Details, f.opts.Intervals.Jobs, f.opts.Intervals.Reconcile,
		p.queue.interval(),
	}
	for stage := range s.Stages {
		st, kind := &s.Stages[stage], snapshot.Stage(stage)
		st.LastSuccess, st.Interval, st.Lag = f.failures.lastGood[stage], intervals[stage], f.plan.Lag(kind, now)
		st.Unread = f.failures.counts(kind)
	}
	s.Stages[snapshot.StageRunners].Lag = listLag
	s.Stages[snapshot.StageQueue].Lag = p.queue.lag(now)
	never, failed := f.inv.Unread()
	if pending := max(never-failed, len(p.first.awaited(snapshot.PartMachines))); pending > 0 {
		s.Stages[snapshot.StageDetails].Unread[unreadPending] = pending
	}
	return s
}

// logPause logs once that GitLab asks to wait for so long that a listing is missed.
func (p *publisher) logPause(until, now time.Time) {
	f, wait := p.fleet, until.Sub(now)
	switch {
	case until.IsZero():
		p.paused = false
		return
	case p.paused || wait <= max(f.opts.Intervals.Runners, time.Minute):
		return
	}
	p.paused = true
	kv := []any{"msg", "GitLab limits this user's requests and asks to wait; it is tried again now and then", "wait", wait.Round(time.Second)}
	if listed := f.inv.ListedAt(); !listed.IsZero() {
		left := f.opts.Intervals.Staleness - f.clocks.now().Sub(listed)
		if at := now.Add(left); left > 0 && at.Before(until) {
			kv = append(kv, "gauges_withdrawn_at", at.UTC().Format(time.RFC3339))
		}
	}
	kv = append(kv, "remedy", gitlab.Remedy(gitlab.ReasonRateLimited, nil))
	level.Warn(f.log).Log(kv...)
}

// logProgress logs each minute how far a long first reading has come.
func (p *publisher) logProgress(now time.Time) {
	if now.Sub(p.reported) < progressInterval {
		return
	}
	p.reported = now
	for _, part := range p.first.progress(now, p.budget.State().Rate) {
		left := "not known"
		if part.Left > 0 {
			left = part.Left.String()
		}
		level.Info(p.fleet.log).Log("msg", "the first reading is under way", "reading", part.Part, "read", part.Read, "of", part.Of, "left", left)
		if part.Part == snapshot.PartDetails {
			return // the others come behind it
		}
	}
}
