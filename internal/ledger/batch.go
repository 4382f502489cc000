package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"gitlab-runner-fleet-exporter/internal/record"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Layout is the version of the records below. Another set of bucket bounds is
// another layout too.
const Layout = 2

// Batch is what changed since the last one. It must be committed whole; then
// Committed or Failed is called with it.
type Batch struct {
	Records []record.Record

	groups  []batchGroup
	runners []*runner
	watch   []int64
	settled []settledJob
	chunk   chunk
	gone    [][]byte
	meta    bool
	totals  totals
}

type batchGroup struct {
	g       *group
	sums    sums
	exposed uint8
}

// The kinds of records.
const (
	keyMeta    = "lm"
	prefixType = "ly"
	prefixTag  = record.TagJobs
	prefixRun  = record.RunnerJobs
	prefixJob  = "lw"
	prefixDone = "ls"
)

func typeKey(t snapshot.RunnerType) []byte { return []byte(prefixType + t.String()) }
func tagKey(tag string) []byte             { return []byte(prefixTag + tag) }
func runnerKey(id int64) []byte            { return record.Key(prefixRun, id) }
func watchKey(id int64) []byte             { return record.Key(prefixJob, id) }
func chunkKey(seq uint64) []byte           { return record.Key(prefixDone, int64(seq)) } //nolint:gosec // counted up from 0

// Batch takes what changed; nil if nothing did. Until Committed, nothing of it
// is shown.
func (l *Ledger) Batch() *Batch {
	if !l.metaDirty && len(l.runnerDirty) == 0 && len(l.watchDirty) == 0 && len(l.pending) == 0 && len(l.groupDirty) == 0 && len(l.gone) == 0 {
		return nil
	}
	b := &Batch{meta: l.metaDirty, totals: l.totals}
	put := func(key, value []byte) { b.Records = append(b.Records, record.Record{Key: key, Value: value}) }
	for g := range l.groupDirty {
		c := batchGroup{g: g, sums: g.live.clone(), exposed: g.exposed}
		b.groups = append(b.groups, c)
		put(g.key, encodeGroup(g))
	}
	for _, r := range l.runnerDirty {
		b.runners = append(b.runners, r)
		if r.finished != nil {
			b.groups = append(b.groups, batchGroup{g: r.finished, sums: r.finished.live.clone(), exposed: r.finished.exposed})
		}
		put(runnerKey(r.id), encodeRunner(r))
	}
	for id := range l.watchDirty {
		b.watch = append(b.watch, id)
		if w := l.watch[id]; w != nil {
			put(watchKey(id), encodeWatched(w))
		} else {
			put(watchKey(id), nil)
		}
	}
	if len(l.pending) > 0 {
		b.settled = l.pending
		b.chunk = chunk{seq: l.nextSeq, ids: make([]int64, 0, len(l.pending))}
		l.nextSeq++
		for _, s := range b.settled {
			b.chunk.ids = append(b.chunk.ids, s.id)
			b.chunk.maxEnd = max(b.chunk.maxEnd, s.end)
		}
		put(chunkKey(b.chunk.seq), encodeChunk(b.settled))
	}
	if len(l.gone) > 0 {
		back := make(map[string]bool, len(b.Records)) // a runner or tag may have returned since
		for _, r := range b.Records {
			back[string(r.Key)] = true
		}
		for _, key := range l.gone {
			if !back[string(key)] {
				put(key, nil)
				b.gone = append(b.gone, key)
			}
		}
	}
	if b.meta || len(b.settled) > 0 { // the floor goes along
		put([]byte(keyMeta), l.encodeMeta())
	}
	l.metaDirty = false
	clear(l.groupDirty)
	clear(l.runnerDirty)
	clear(l.watchDirty)
	l.pending, l.gone = nil, nil
	return b
}

// Drop takes records out of a batch that no commit can hold, so that the rest
// can be committed; what they show stays as it was committed last. Where others
// rest upon one of them nothing may be committed: Drop returns false.
func (b *Batch) Drop(keys map[string]struct{}) bool {
	for k := range keys {
		if !strings.HasPrefix(k, prefixRun) && !strings.HasPrefix(k, prefixTag) {
			return false
		}
	}
	dropped := func(key []byte) bool { _, ok := keys[string(key)]; return ok }
	b.Records = slices.DeleteFunc(b.Records, func(r record.Record) bool { return dropped(r.Key) })
	b.groups = slices.DeleteFunc(b.groups, func(c batchGroup) bool {
		if c.g.key == nil {
			return dropped(runnerKey(c.g.runner))
		}
		return dropped(c.g.key)
	})
	b.runners = slices.DeleteFunc(b.runners, func(r *runner) bool { return dropped(runnerKey(r.id)) })
	return true
}

// Committed makes a batch visible.
func (l *Ledger) Committed(b *Batch) {
	for _, c := range b.groups {
		c.g.shown, c.g.shownExposed = c.sums, c.exposed
	}
	if len(b.settled) > 0 {
		l.chunks = append(l.chunks, b.chunk)
	}
	l.shownTotals = b.totals
}

// Failed gives a batch back: nothing of it is lost or shown, it is part of the
// next one.
func (l *Ledger) Failed(b *Batch) {
	l.metaDirty = l.metaDirty || b.meta
	for _, c := range b.groups {
		if c.g.key != nil && (c.g.name == "" || l.tags[c.g.name] == c.g) {
			l.dirtyGroup(c.g)
		}
	}
	for _, r := range b.runners {
		if l.runners[r.id] == r {
			l.dirtyRunner(r)
		}
	}
	for _, id := range b.watch {
		l.watchDirty[id] = struct{}{}
	}
	l.pending = append(slices.Clip(b.settled), l.pending...)
	l.gone = append(l.gone, b.gone...)
}

// Load takes one record of the state, in any order. Foreign keys are not ours
// to judge: handled is false for them. Finish must follow the last one.
func (l *Ledger) Load(key, value []byte) (handled bool, err error) {
	if len(key) < len(keyMeta) {
		return false, nil
	}
	switch string(key[:2]) {
	case keyMeta:
		if len(key) != len(keyMeta) {
			return true, fmt.Errorf("ledger: malformed key %q in the state", key)
		}
	case prefixRun, prefixJob, prefixDone:
		if len(key) != 10 || record.ID(key) < 0 {
			return true, fmt.Errorf("ledger: malformed key %q in the state", key)
		}
	}
	d := &decoder{b: value}
	switch string(key[:2]) {
	case keyMeta:
		l.decodeMeta(d)
	case prefixType:
		t, ok := snapshot.ParseRunnerType(string(key[2:]))
		if !ok {
			return true, fmt.Errorf("ledger: unknown runner type %q in the state", key[2:])
		}
		g := newTypeGroup(t, 0)
		decodeGroup(d, g)
		l.types[t] = g
	case prefixTag:
		g := newTagGroup(string(key[2:]), 0)
		decodeGroup(d, g)
		l.tags[g.name] = g
	case prefixRun:
		r := decodeRunner(d, record.ID(key))
		l.runners[r.id] = r
		if r.leftAt != 0 {
			l.left[r.id] = r
		}
	case prefixJob:
		w := decodeWatched(d, record.ID(key))
		l.watch[w.id] = w
	case prefixDone:
		c := chunk{seq: uint64(record.ID(key))} //nolint:gosec // written by chunkKey
		for _, s := range decodeChunk(d) {
			c.ids = append(c.ids, s.id)
			c.maxEnd = max(c.maxEnd, s.end)
			l.settled[s.id] = struct{}{}
		}
		l.chunks = append(l.chunks, c)
		l.nextSeq = max(l.nextSeq, c.seq+1)
	default:
		return false, nil
	}
	if d.err != nil {
		return true, fmt.Errorf("ledger: record %q: %w", key, d.err)
	}
	return true, nil
}

// Finish ties the loaded records together.
func (l *Ledger) Finish() error {
	slices.SortFunc(l.chunks, func(a, b chunk) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	for id, w := range l.watch {
		r := l.runners[w.runner]
		if r == nil {
			// Its record could not be saved. The job is asked for by its project.
			r = &runner{id: w.runner, kind: snapshot.ProjectType, since: l.lastListing, deep: l.lastListing, known: -1, total: -1, walk: walkState{total: -1}, leftAt: max(1, l.lastListing)}
			l.runners[r.id], l.left[r.id] = r, r
			l.dirtyRunner(r)
		}
		if r.watch == nil {
			r.watch = map[int64]*watched{}
		}
		r.watch[id] = w
	}
	if l.t0 == 0 {
		if len(l.runners)+len(l.settled)+len(l.watch) > 0 {
			return errors.New("ledger: the state has records but no first start")
		}
		return nil
	}
	for t := range l.types {
		if l.types[t] == nil {
			return fmt.Errorf("ledger: the state has no counters of %s", snapshot.RunnerType(t))
		}
		l.restore(l.types[t])
	}
	for _, g := range l.tags {
		l.restore(g)
	}
	for _, r := range l.runners {
		if r.finished != nil {
			l.restore(r.finished)
		}
	}
	l.shownTotals = l.totals
	l.read = true // this process does not know when the first one's answers came
	return nil
}

// restore shows what was committed. A series that no scrape is known to have
// read starts at 0 again, since that is all that was ever shown of it.
func (l *Ledger) restore(g *group) {
	g.shown, g.shownExposed = g.live.clone(), g.exposed
	if g.exposed&g.bits() != g.bits() {
		l.unexposed[g] = struct{}{}
	}
}

// The encoding is varints in the order of the fields; a string is its length
// and its bytes.

type encoder struct{ b []byte }

func (e *encoder) int(v int64)     { e.b = binary.AppendVarint(e.b, v) }
func (e *encoder) uint(v uint64)   { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) float(v float64) { e.b = binary.BigEndian.AppendUint64(e.b, math.Float64bits(v)) }
func (e *encoder) str(s string)    { e.uint(uint64(len(s))); e.b = append(e.b, s...) }

func (e *encoder) bool(v bool) {
	if v {
		e.b = append(e.b, 1)
	} else {
		e.b = append(e.b, 0)
	}
}

var errShort = errors.New("the record is cut short")

type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() { d.b, d.err = nil, errShort }

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// len is a count of things that take at least a byte each.
func (d *decoder) len() int {
	v := d.uint()
	if v > uint64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(v) //nolint:gosec // at most len(d.b)
}

func (d *decoder) float() float64 {
	if len(d.b) < 8 {
		d.fail()
		return 0
	}
	v := math.Float64frombits(binary.BigEndian.Uint64(d.b))
	d.b = d.b[8:]
	return v
}

func (d *decoder) str() string {
	n := d.len()
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) bool() bool {
	if len(d.b) < 1 {
		d.fail()
		return false
	}
	v := d.b[0] != 0
	d.b = d.b[1:]
	return v
}

func (l *Ledger) encodeMeta() []byte {
	e := &encoder{}
	e.int(l.t0)
	e.int(l.floor)
	e.int(l.topRunner)
	e.int(l.lastListing)
	e.str(l.scope)
	e.uint(l.totals.recovered)
	e.uint(uint64(len(l.totals.unresolved)))
	for _, n := range l.totals.unresolved {
		e.uint(n)
	}
	return e.b
}

func (l *Ledger) decodeMeta(d *decoder) {
	l.t0, l.floor, l.topRunner, l.lastListing = d.int(), d.int(), d.int(), d.int()
	l.scope = d.str()
	l.totals.recovered = d.uint()
	for i := range d.len() {
		if n := d.uint(); i < len(l.totals.unresolved) {
			l.totals.unresolved[i] = n
		}
	}
}

func encodeGroup(g *group) []byte {
	e := &encoder{}
	appendGroup(e, g)
	return e.b
}

func appendGroup(e *encoder, g *group) {
	e.int(g.created)
	e.int(g.ended)
	e.uint(uint64(g.exposed))
	e.uint(uint64(len(g.live.counts)))
	for _, n := range g.live.counts {
		e.uint(n)
	}
	e.uint(uint64(len(g.live.hists)))
	for _, h := range g.live.hists {
		e.uint(uint64(len(h.buckets)))
		for _, n := range h.buckets {
			e.uint(n)
		}
		e.float(h.sum)
	}
}

// decodeGroup fills g, whose slices have the lengths of this version: a state
// of fewer failure reasons leaves the newer ones at 0.
func decodeGroup(d *decoder, g *group) {
	g.created, g.ended = d.int(), d.int()
	g.exposed = uint8(d.uint()) //nolint:gosec // written as uint8
	n := d.len()
	if n > len(g.live.counts) {
		d.fail()
		return
	}
	for i := range n {
		g.live.counts[i] = d.uint()
	}
	if d.len() != len(g.live.hists) {
		d.fail()
		return
	}
	for i := range g.live.hists {
		h := &g.live.hists[i]
		if d.len() != len(h.buckets) {
			d.fail()
			return
		}
		for b := range h.buckets {
			h.buckets[b] = d.uint()
		}
		h.sum = d.float()
	}
}

func encodeRunner(r *runner) []byte {
	e := &encoder{}
	e.uint(uint64(r.kind))
	for _, v := range []int64{r.since, r.high, r.readAt, r.deep, r.known, r.total, r.leftAt, r.last} {
		e.int(v)
	}
	e.int(r.walk.started)
	e.bool(r.walk.keyset)
	e.str(r.walk.cursor)
	e.int(int64(r.walk.page))
	e.int(r.walk.total)
	e.uint(uint64(len(r.tags)))
	for _, t := range r.tags {
		e.str(t)
	}
	e.bool(r.finished != nil)
	if r.finished != nil {
		appendGroup(e, r.finished)
	}
	return e.b
}

func decodeRunner(d *decoder, id int64) *runner {
	r := &runner{id: id}
	if k := d.uint(); k < snapshot.NumRunnerTypes {
		r.kind = snapshot.RunnerType(k)
	} else {
		d.fail()
	}
	for _, p := range []*int64{&r.since, &r.high, &r.readAt, &r.deep, &r.known, &r.total, &r.leftAt, &r.last} {
		*p = d.int()
	}
	r.walk.started = d.int()
	r.walk.keyset = d.bool()
	r.walk.cursor = d.str()
	r.walk.page = int(d.int())
	r.walk.total = d.int()
	for range d.len() {
		r.tags = append(r.tags, d.str())
	}
	if d.bool() {
		r.finished = newRunnerGroup(id, 0)
		decodeGroup(d, r.finished)
	}
	return r
}

func encodeWatched(w *watched) []byte {
	e := &encoder{}
	e.int(w.runner)
	e.int(w.project)
	e.int(w.started)
	e.bool(w.queued)
	e.bool(w.canceling)
	e.int(int64(w.refused))
	return e.b
}

func decodeWatched(d *decoder, id int64) *watched {
	return &watched{
		id: id, runner: d.int(), project: d.int(), started: d.int(), queued: d.bool(), canceling: d.bool(), refused: int(d.int()),
		executing: true, // until the next reading
	}
}

// encodeChunk sorts by id: neighbouring ids differ by little, some ten bytes a job.
func encodeChunk(jobs []settledJob) []byte {
	sorted := slices.Clone(jobs)
	slices.SortFunc(sorted, func(a, b settledJob) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	e := &encoder{}
	e.uint(uint64(len(sorted)))
	var id, end int64
	for _, s := range sorted {
		e.int(s.id - id)
		e.int(s.end - end)
		id, end = s.id, s.end
	}
	return e.b
}

func decodeChunk(d *decoder) []settledJob {
	jobs := make([]settledJob, 0, d.len())
	var id, end int64
	for range cap(jobs) {
		id += d.int()
		end += d.int()
		jobs = append(jobs, settledJob{id, end})
	}
	return jobs
}
