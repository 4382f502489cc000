package monitor

import (
	"context"
	"time"

	"github.com/go-kit/log/level"

	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const (
	saveInterval    = time.Second
	saveBackOffMost = 30 * time.Second
	forgetInterval  = time.Minute
	// publishInterval and rowsInterval are how often, at the most, a picture is
	// published and its runner_ families are rebuilt; never seldomer than the
	// shortest polling interval.
	publishInterval = 5 * time.Second
	rowsInterval    = 15 * time.Second
	// unreadPending is the reason of runners whose turn has not come yet.
	unreadPending = "pending"
)

// saveLoop commits, then publishes: a scrape must never show what a crash
// could take back.
func (m *Monitor) saveLoop(ctx context.Context) error {
	ticker := time.NewTicker(saveInterval)
	defer ticker.Stop()
	var trySave, publishAt, forgetAt time.Time
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		now := time.Now()
		m.mu.Lock()
		m.led.Served(m.deps.Publisher.Served(m.opts.Name), m.deps.Publisher.ServedRows(m.opts.Name), m.elapsed(now))
		if now.After(forgetAt) {
			m.led.Forget(m.now())
			forgetAt = now.Add(forgetInterval)
		}
		m.mu.Unlock()
		if !now.Before(trySave) {
			if err := m.save(now); err != nil {
				trySave = now.Add(m.saveWait())
			}
		}
		m.mu.Lock()
		fresh := m.fresh
		m.mu.Unlock()
		if fresh || !now.Before(publishAt) {
			m.publish(now)
			publishAt = now.Add(min(publishInterval, m.opts.Poll.shortest()))
		}
		m.reportProgress(now)
	}
}

func (m *Monitor) saveWait() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return min(saveInterval<<min(m.saveFailures, 10), saveBackOffMost)
}

// save commits everything that a counter is derived from in one batch. Where
// that fails nothing is lost: the changes stay, and the counters stay at what
// was committed last. A record that can never be saved is left out alone.
func (m *Monitor) save(now time.Time) error {
	// One at a time: an older batch must not overwrite a newer one.
	m.saving.Lock()
	defer m.saving.Unlock()
	m.mu.Lock()
	begun := m.led.Begun()
	batch := m.led.Batch()
	records, left := m.inv.Records()
	m.mu.Unlock()
	if batch == nil && len(records)+len(left) == 0 {
		return nil
	}
	b, out, err := storable(records, batch, left)
	if err == nil {
		err = m.deps.State.Commit(b)
	}
	counted := err
	if err == nil && len(out) > 0 {
		counted = out[0].err
	}
	m.deps.Metrics.StateSave(time.Since(now), counted)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.inv.Failed(records)
		if batch != nil {
			m.led.Failed(batch)
		}
		if m.saveFailures++; m.saveFailures == 1 {
			level.Error(m.log).Log("msg", "the state cannot be saved: counters stay at their last saved values until it can, gauges go on", "err", err, "remedy", saveRemedy(err))
		}
		return err
	}
	m.inv.Committed()
	m.nameLeftOut(out, b)
	if m.saveFailures > 0 {
		m.saveFailures = 0
		level.Info(m.log).Log("msg", "the state is saved again")
	}
	if batch != nil {
		m.led.Committed(batch)
	}
	if begun && !m.started {
		m.started = true
		m.wake()
	}
	for _, d := range m.led.Delays() {
		m.deps.Metrics.JobSettleDelay(m.opts.Name, d)
	}
	return nil
}

// publish makes the present picture visible.
func (m *Monitor) publish(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.publishNow(now)
}

// publishNow is publish for a caller that holds the mutex.
func (m *Monitor) publishNow(now time.Time) {
	m.fresh = false
	m.published++
	gen := m.published
	at := m.now()
	s := &snapshot.GitLab{
		Name: m.opts.Name, URL: m.opts.URL, Version: m.version,
		Generation: gen, Time: at, Scopes: m.scopesUp(), Expected: m.opts.Expected,
	}
	rows := m.lastRows == nil || now.Sub(m.rowsAt) >= min(rowsInterval, m.opts.Poll.shortest())
	// A first picture is whole: each scope is tried before it is shown, but it
	// does not wait for one that hangs.
	m.pictured = m.pictured || m.listedAll || !m.firstListed.IsZero() && now.Sub(m.firstListed) > m.opts.Poll.RunnersInterval
	if fresh := m.inv.Withdraw(at, now, m.opts.Poll.Staleness); fresh && m.pictured {
		before := m.inv.WholeParts()
		s.Fleet = m.inv.Fleet(m.jobsOf, rows)
		if m.inv.WholeParts() != before && !rows {
			// Who waits for a whole picture shall have the runner_ families with it.
			rows = true
			s.Fleet = m.inv.Fleet(m.jobsOf, rows)
		}
	}
	if rows {
		m.rowsGen, m.rowsAt = gen, now
	}
	s.RowsGeneration = m.rowsGen
	// Once a picture, not once a reading: it looks at every tag.
	m.led.Tags(m.inv.TagNames())
	s.Counters = m.led.Counters(gen, m.elapsed(now), rows, m.inv.Exported)
	if s.Counters != nil {
		m.inv.Events(s.Counters, gen, m.deps.Publisher.Served(m.opts.Name), m.elapsed(now))
		if rows {
			m.lastRunners = s.Counters.Runners
		} else {
			s.Counters.Runners = m.lastRunners
		}
	}
	switch {
	case s.Fleet != nil && rows:
		m.lastRows = s.Fleet
	case s.Fleet != nil:
		s.Fleet.Rows = m.lastRows.Rows
	case m.lastRows != nil:
		// Withdrawn: the runner_ families must go with it.
		m.lastRows, m.rowsGen, m.rowsAt = nil, gen, time.Time{}
		s.RowsGeneration = gen
	}
	s.Up = m.up && s.Fleet != nil // gauges that are withdrawn are not up
	s.Self = m.self(now)
	m.deps.Publisher.Publish(s)
}

func (m *Monitor) jobsOf(id int64) inventory.Jobs {
	var j inventory.Jobs
	var read bool
	j.Running, j.Canceling, j.Oldest, read = m.led.Executing(id)
	j.LastFinished = m.led.LastFinished(id)
	if read {
		j.ReadAt = m.led.ReadAt(id)
	}
	j.Failed = m.jobsFailed(id)
	return j
}

func (m *Monitor) self(now time.Time) snapshot.Self {
	limits := m.deps.Budget.State()
	m.tellPause(limits.AskedUntil, now)
	s := snapshot.Self{
		RateLimit: limits.RateLimit, RateRemaining: limits.RateRemaining,
		JobsVisible: m.visible, TagsOverLimit: m.inv.TagsOverLimit(), TokenExpiry: m.token.ExpiresAt,
	}
	s.JobsRecovered, s.JobsUnresolved = m.led.Told()
	listInterval, listLag := m.listLag(now)
	if at := m.clock.gitlab(now); !at.IsZero() {
		s.ClockOffset, s.ClockKnown = at.Sub(m.wall().Round(0)), true
	}
	s.First = m.progress(now, limits.Rate)
	intervals := [snapshot.NumStages]time.Duration{
		listInterval, m.opts.Poll.DetailsInterval, m.opts.Poll.JobsInterval, m.opts.Poll.ReconcileInterval,
	}
	lags := [snapshot.NumStages]time.Duration{
		listLag, m.sched.Lag(snapshot.StageDetails, now), m.sched.Lag(snapshot.StageJobs, now), m.sched.Lag(snapshot.StageReconcile, now),
	}
	for stage := range s.Stages {
		st := &s.Stages[stage]
		st.LastSuccess, st.Interval, st.Lag = m.lastGood[stage], intervals[stage], lags[stage]
		st.Unread = make(map[string]int, len(m.unread[stage]))
		for _, reason := range m.unread[stage] {
			st.Unread[reason]++
		}
	}
	never, failed := m.inv.Unread()
	if pending := max(never-failed, len(m.parts[snapshot.PartMachines].awaited)); pending > 0 {
		s.Stages[snapshot.StageDetails].Unread[unreadPending] = pending
	}
	return s
}
