package ledger

import (
	"slices"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Counters is what may be published: the sums of the last commit, and 0 for a
// new series until a scrape has read it. gen is the generation that the
// picture will have; rows: its runner_ families are rebuilt with
// it; exported is which runners have series of their own. nil before Begin.
func (l *Ledger) Counters(gen uint64, now time.Time, rows bool, exported func(id int64) bool) *snapshot.Counters {
	if l.t0 == 0 {
		return nil
	}
	at := ms(now)
	c := &snapshot.Counters{}
	for t, g := range l.types {
		kind := snapshot.RunnerType(t).String()
		show := g.show(0, gen, at)
		created := fromMS(g.created)
		add := func(i int, labels ...string) {
			c.JobsFinished = append(c.JobsFinished, snapshot.Counter{Labels: labels, Value: value(show, g.shown.counts[i]), Created: created})
		}
		add(typeSuccess, kind, snapshot.Success.String(), "", "")
		add(typeCanceled, kind, snapshot.Canceled.String(), "", "")
		for i := 1; i < snapshot.NumFailureReasons(); i++ {
			r := snapshot.FailureReason(i)
			add(typeReasons+i, kind, snapshot.Failed.String(), r.Class().String(), r.String())
		}
		for s := range snapshot.NumJobStatuses {
			c.JobDuration = append(c.JobDuration, g.histogram(s, show, kind, snapshot.JobStatus(s).String()))
		}
		c.JobQueued = append(c.JobQueued, g.histogram(typeQueued, show, kind))
	}
	names := make([]string, 0, len(l.tags))
	for name, g := range l.tags {
		if g.ended == 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		g := l.tags[name]
		show := g.show(0, gen, at)
		for i := range numCounts {
			status, class := countLabels(i)
			c.TagJobsFinished = append(c.TagJobsFinished, snapshot.Counter{
				Labels: []string{name, status.String(), class.String()}, Value: value(show, g.shown.counts[i]), Created: fromMS(g.created),
			})
		}
		c.TagJobQueued = append(c.TagJobQueued, g.histogram(0, show, name))
	}
	if rows {
		c.Runners = l.runnerCounters(gen, at, exported)
	}
	return c
}

func (l *Ledger) runnerCounters(gen uint64, at int64, exported func(id int64) bool) []snapshot.RunnerCounter {
	var out []snapshot.RunnerCounter
	for id, r := range l.runners {
		if r.finished == nil || r.leftAt != 0 || !exported(id) {
			continue
		}
		g := r.finished
		for i, n := range g.shown.counts {
			if n == 0 {
				continue
			}
			status, class := countLabels(i)
			out = append(out, snapshot.RunnerCounter{
				ID: id, Status: status, Class: class, Value: value(g.show(i, gen, at), n), Created: fromMS(g.created),
			})
		}
	}
	slices.SortFunc(out, func(a, b snapshot.RunnerCounter) int {
		if a.ID != b.ID {
			if a.ID < b.ID {
				return -1
			}
			return 1
		}
		if a.Status != b.Status {
			return int(a.Status) - int(b.Status)
		}
		return int(a.Class) - int(b.Class)
	})
	return out
}

func countLabels(i int) (snapshot.JobStatus, snapshot.FailureClass) {
	switch i {
	case countSuccess:
		return snapshot.Success, snapshot.NoFailure
	case countCanceled:
		return snapshot.Canceled, snapshot.NoFailure
	default:
		return snapshot.Failed, snapshot.FailureClass(i - countFailed + 1) //nolint:gosec // three classes
	}
}

func value(show bool, n uint64) float64 {
	if !show {
		return 0
	}
	return float64(n)
}

// show reports whether the series of bit may leave 0, and notes when a waiting
// one is first published.
func (g *group) show(bit int, gen uint64, at int64) bool {
	if g.shownExposed&(1<<bit) != 0 {
		return true
	}
	if g.exposure == nil {
		g.exposure = &exposure{}
	}
	if g.exposure.gen[bit] == 0 {
		g.exposure.gen[bit], g.exposure.at[bit] = gen, at
	}
	return false
}

func (g *group) histogram(i int, show bool, labels ...string) snapshot.Histogram {
	h := g.shown.hists[i]
	out := snapshot.Histogram{Labels: labels, Created: fromMS(g.created)}
	if show {
		out.Buckets, out.Sum = slices.Clone(h.buckets), h.sum
	} else {
		out.Buckets = make([]uint64, len(h.buckets))
	}
	return out
}

// Served notes the generations that a scrape has read: of the families in
// general, and of the runner_ ones, which are rebuilt less often. New series
// that were read at 0, or wait for longer than five minutes, leave 0 after
// the next commit: that a scrape saw them at 0 must survive a restart too.
func (l *Ledger) Served(gen, rowsGen uint64, now time.Time) {
	limit := ms(now.Add(-zeroFirst))
	for g := range l.unexposed {
		if g.exposure == nil {
			continue
		}
		served := gen
		if g.key == nil {
			served = rowsGen
		}
		waiting := false
		for bit := range g.exposure.gen {
			first := g.exposure.gen[bit]
			if first == 0 || g.exposed&(1<<bit) != 0 {
				continue
			}
			if first <= served || g.exposure.at[bit] < limit {
				g.exposed |= 1 << bit
				if g.key != nil {
					l.dirtyGroup(g)
				} else if r := l.runners[g.runner]; r != nil {
					l.dirtyRunner(r)
				}
			} else {
				waiting = true
			}
		}
		if !waiting && g.exposed == g.bits() {
			delete(l.unexposed, g)
		}
	}
}

// bits is the exposure that a group needs: a runner's a bit for each counter above 0.
func (g *group) bits() uint8 {
	if g.key != nil {
		return allExposed
	}
	var b uint8
	for i, n := range g.live.counts {
		if n > 0 {
			b |= 1 << i
		}
	}
	return b
}

// Totals is what jobs_recovered_total and jobs_unresolved_total may show.
func (l *Ledger) Totals() (recovered uint64, unresolved [snapshot.NumUnresolvedReasons]uint64) {
	return l.shownTotals.recovered, l.shownTotals.unresolved
}
