package ledger

import (
	"slices"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// group is the counters and histograms that share one record: those of a
// runner type, of a tag, or of a runner. live is what was folded, shown what
// was committed: only that may be published.
type group struct {
	key     []byte // nil: part of a runner's record
	name    string // the tag
	runner  int64  // the runner whose record holds it
	created int64  // ms
	ended   int64  // ms; tags only: since when nothing exports it. 0: exported

	live, shown sums

	// Bits of series that a scrape has read at 0. A runner's counters are
	// born one by one and have a bit each; those of a type or tag appear
	// together and share bit 0.
	exposed, shownExposed uint8
	exposure              *exposure // nil: nothing waits to be exposed
}

type sums struct {
	counts []uint64
	hists  []hist
}

type hist struct {
	buckets []uint64 // not cumulative; the last is +Inf
	sum     float64
}

// exposure is when each waiting series was first shown at 0.
type exposure struct {
	gen [8]uint64
	at  [8]int64
}

const allExposed = 1

// Indexes into a type's counts: success, canceled, then failed by reason.
const (
	typeSuccess = iota
	typeCanceled
	typeReasons // + snapshot.FailureReason
)

// Indexes into a tag's and a runner's counts; failed ones by class.
const (
	countSuccess = iota
	countCanceled
	countFailed // + snapshot.FailureClass - 1
	numCounts   = countFailed + snapshot.NumFailureClasses - 1
)

// typeQueued is the index of a type's queued histogram, after those of its
// durations by status.
const typeQueued = snapshot.NumJobStatuses

func newHist(bounds []float64) hist { return hist{buckets: make([]uint64, len(bounds)+1)} }

func newTypeGroup(t snapshot.RunnerType, created int64) *group {
	g := &group{key: typeKey(t), created: created}
	g.live.counts = make([]uint64, typeReasons+snapshot.NumFailureReasons())
	for range snapshot.NumJobStatuses {
		g.live.hists = append(g.live.hists, newHist(snapshot.JobDurationBounds()))
	}
	g.live.hists = append(g.live.hists, newHist(snapshot.JobQueuedBounds()))
	g.shown = g.live.clone()
	return g
}

func newTagGroup(tag string, created int64) *group {
	g := &group{key: tagKey(tag), name: tag, created: created}
	g.live.counts = make([]uint64, numCounts)
	g.live.hists = []hist{newHist(snapshot.JobQueuedBounds())}
	g.shown = g.live.clone()
	return g
}

func newRunnerGroup(id, created int64) *group {
	g := &group{runner: id, created: created}
	g.live.counts = make([]uint64, numCounts)
	g.shown = g.live.clone()
	return g
}

func (s sums) clone() sums {
	c := sums{counts: slices.Clone(s.counts), hists: make([]hist, len(s.hists))}
	for i, h := range s.hists {
		c.hists[i] = hist{slices.Clone(h.buckets), h.sum}
	}
	return c
}

func (g *group) observe(i int, v float64, bounds []float64) {
	h := &g.live.hists[i]
	b, _ := slices.BinarySearch(bounds, v) // le: v on a bound belongs to it
	h.buckets[b]++
	h.sum += v
}

func (l *Ledger) dirtyGroup(g *group) { l.groupDirty[g] = struct{}{} }

func (l *Ledger) tag(name string) *group {
	g := l.tags[name]
	if g == nil {
		g = newTagGroup(name, max(l.t0, l.now))
		l.tags[name] = g
		l.unexposed[g] = struct{}{}
	}
	l.dirtyGroup(g)
	return g
}

// Tags names the label values that have series now; the others end, and are
// kept for 30 days. Special values never end.
func (l *Ledger) Tags(exported []string) {
	if l.t0 == 0 {
		return
	}
	want := make(map[string]struct{}, len(exported))
	for _, t := range exported {
		want[t] = struct{}{}
		if g := l.tags[t]; g == nil || g.ended != 0 {
			l.tag(t).ended = 0
		}
	}
	for t, g := range l.tags {
		if _, ok := want[t]; !ok && g.ended == 0 && !special(t) {
			g.ended = l.now
			l.dirtyGroup(g)
		}
	}
}

func special(tag string) bool {
	return tag == snapshot.TagOther || tag == snapshot.TagUnknown || tag == snapshot.TagUntagged
}

// count adds a finished job to the counters of its type, tags and runner.
func (l *Ledger) count(r *runner, j *gitlab.Job, status snapshot.JobStatus) {
	ti, ci := typeSuccess, countSuccess
	switch status {
	case snapshot.Canceled:
		ti, ci = typeCanceled, countCanceled
	case snapshot.Failed:
		reason := snapshot.ParseFailureReason(j.FailureReason)
		ti, ci = typeReasons+int(reason), countFailed+int(reason.Class())-1
	case snapshot.Success:
	}
	t := l.types[r.kind]
	t.live.counts[ti]++
	l.dirtyGroup(t)
	for _, name := range r.tags {
		l.tag(name).live.counts[ci]++
	}
	if r.finished == nil {
		r.finished = newRunnerGroup(r.id, r.since)
	}
	r.finished.live.counts[ci]++
	if r.finished.exposed&(1<<ci) == 0 {
		l.unexposed[r.finished] = struct{}{}
	}
	l.dirtyRunner(r)
}

// observeQueued observes a job's time from pending to picked up, once a job.
func (l *Ledger) observeQueued(r *runner, seconds float64) {
	bounds := snapshot.JobQueuedBounds()
	t := l.types[r.kind]
	t.observe(typeQueued, seconds, bounds)
	l.dirtyGroup(t)
	for _, name := range r.tags {
		l.tag(name).observe(0, seconds, bounds)
	}
}
