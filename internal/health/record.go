package health

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"gitlab-runner-fleet-exporter/internal/record"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Record is one key of the state; a nil Value deletes it.
type Record = record.Record

// The records are binary: there is one for each runner, and those of a busy
// fleet are written every few minutes.
const (
	keyMeta       = "hm"
	prefixRunner  = record.RunnerHealth
	recordVersion = 1
	recordUsual   = 192  // bytes, so that most are written without growing
	recordMost    = 1024 // bytes; the longest that this version writes are under 400

	// A sign that changes nothing else waits for so long: with Records each minute
	// it is on disk within 5 min.
	signSaved = 4 * minute
)

func runnerKey(id int64) []byte { return record.Key(prefixRunner, id) }

// Records takes what must outlive a restart and changed since the last call;
// nil if nothing did. What it returned is given back with Failed when it could
// not be committed.
func (f *Fleet) Records(now time.Time) []Record {
	var out []Record
	at := unix(now)
	for id := range f.changed {
		if f.runners[id] == nil {
			out = append(out, Record{Key: runnerKey(id)})
		}
	}
	clear(f.changed)
	f.sort()
	for _, r := range f.order {
		if r.dirty == dirtyNow || r.dirty == dirtySoon && at-r.savedAt >= signSaved {
			c := codec{buf: append(make([]byte, 0, recordUsual), recordVersion)}
			c.runner(r)
			out = append(out, Record{Key: runnerKey(r.id), Value: c.buf})
			r.dirty, r.savedAt = clean, at
		}
	}
	if f.dirtyMeta {
		c := codec{buf: []byte{recordVersion}}
		c.fleet(f)
		out = append(out, Record{Key: []byte(keyMeta), Value: c.buf})
		f.dirtyMeta = false
	}
	return out
}

// Failed marks records as changed again after a commit that failed.
func (f *Fleet) Failed(records []Record) {
	for _, rec := range records {
		switch id := record.ID(rec.Key); {
		case string(rec.Key) == keyMeta:
			f.dirtyMeta = true
		case f.runners[id] != nil:
			f.runners[id].dirty = dirtyNow
		default:
			f.changed[id] = struct{}{}
		}
	}
}

// Load takes one record of the state before anything is noted; handled is
// false for foreign keys. A record that cannot be read leaves its runner
// unknown, and no other.
func (f *Fleet) Load(key, value []byte) (handled bool, err error) {
	switch {
	case string(key) == keyMeta:
		c := codec{decode: true, buf: value}
		g := Fleet{}
		c.version()
		c.fleet(&g)
		if err := c.end(); err != nil {
			return true, fmt.Errorf("health: record of the fleet: %w", err)
		}
		f.trouble, f.lostAt, f.silent, f.silentFrom, f.judgedAt, f.listing = g.trouble, g.lostAt, g.silent, g.silentFrom, g.judgedAt, g.listing
		if f.silent { // who was due is forgotten; the suspension must not be
			f.silentUntil = f.judgedAt + heldAfter
		}
	case len(key) >= len(prefixRunner) && string(key[:len(prefixRunner)]) == prefixRunner:
		id := record.ID(key)
		if id <= 0 {
			return true, fmt.Errorf("health: record %q names no runner", key)
		}
		c := codec{decode: true, buf: value}
		r := &runner{id: id}
		c.version()
		c.runner(r)
		if err := c.end(); err != nil {
			return true, fmt.Errorf("health: runner %d: %w", id, err)
		}
		r.missedBefore, r.momentsFrom = r.missed, r.readAt-(momentBefore-1)*minute
		r.restored = r.lastStart
		r.announce()
		f.runners[id] = r
		f.order = nil
	default:
		return false, nil
	}
	return true, nil
}

var (
	errVersion  = errors.New("written by another version of this program")
	errLength   = errors.New("the record is cut off or too long")
	errTrailing = errors.New("bytes behind the end of the record")
	errValue    = errors.New("a value out of its bounds")
)

// codec writes a record, or reads it: one list of the fields does both, so
// that they cannot differ. The first error stays.
type codec struct {
	buf    []byte
	decode bool
	err    error
}

func (c *codec) version() {
	switch {
	case len(c.buf) == 0 || len(c.buf) > recordMost:
		c.err = errLength
	case c.buf[0] != recordVersion:
		c.err = errVersion
	default:
		c.buf = c.buf[1:]
	}
}

func (c *codec) end() error {
	if c.err == nil && len(c.buf) > 0 {
		c.err = errTrailing
	}
	return c.err
}

func (c *codec) uint(v, most uint64) uint64 {
	if !c.decode {
		c.buf = binary.AppendUvarint(c.buf, v)
		return v
	}
	if c.err != nil {
		return 0
	}
	v, n := binary.Uvarint(c.buf)
	switch {
	case n <= 0:
		c.err = errLength
		return 0
	case v > most:
		c.err = errValue
		return 0
	}
	c.buf = c.buf[n:]
	return v
}

// time is seconds, from 0 to the year 2106.
func (c *codec) time(v *int64) {
	*v = int64(c.uint(uint64(max(0, *v)), math.MaxUint32)) //nolint:gosec // not negative, and bounded
}

func (c *codec) count(v *int) {
	*v = int(c.uint(uint64(max(0, *v)), math.MaxUint32)) //nolint:gosec // not negative, and bounded
}

func (c *codec) uint16(v *uint16) {
	*v = uint16(c.uint(uint64(*v), math.MaxUint16)) //nolint:gosec // bounded
}

func (c *codec) flag(v *bool) {
	n := uint64(0)
	if *v {
		n = 1
	}
	*v = c.uint(n, 1) == 1
}

// float is a finite number that is not negative.
func (c *codec) float(v *float32) {
	if !c.decode {
		c.buf = binary.LittleEndian.AppendUint32(c.buf, math.Float32bits(*v))
		return
	}
	if c.err != nil {
		return
	}
	if len(c.buf) < 4 {
		c.err = errLength
		return
	}
	x := math.Float32frombits(binary.LittleEndian.Uint32(c.buf))
	if !(x >= 0 && x <= 1e9) { // NaN too
		c.err = errValue
		return
	}
	*v, c.buf = x, c.buf[4:]
}

func (c *codec) float64(v *float64) {
	x := float32(*v)
	c.float(&x)
	*v = float64(x)
}

func small[T ~uint8](c *codec, v *T, end T) {
	*v = T(c.uint(uint64(*v), uint64(end)-1))
}

func (c *codec) fleet(f *Fleet) {
	for _, v := range []*int64{&f.trouble, &f.lostAt, &f.silentFrom, &f.judgedAt} {
		c.time(v)
	}
	c.flag(&f.silent)
	c.flag(&f.listing)
}

func (c *codec) runner(r *runner) {
	small(c, &r.kind, snapshot.NumRunnerTypes)
	small(c, &r.verdict, NumHealths)
	small(c, &r.reason, NumReasons)
	small(c, &r.downReason, NumReasons)
	small(c, &r.fails, math.MaxUint8)
	c.flag(&r.paused)
	c.flag(&r.executing)
	c.uint16(&r.streak)
	c.uint16(&r.missed)
	for _, v := range []*int64{
		&r.since, &r.first, &r.readAt, &r.contact, &r.sign, &r.lastStart, &r.lastOwn, &r.pausedAt, &r.downAt,
		&r.wrong[0], &r.wrong[1], &r.sharedAt, &r.neighborAt, &r.clearedAt, &r.gaps.day, &r.take.day, &r.take.seenAt,
	} {
		c.time(v)
	}
	c.float(&r.hits)
	c.float(&r.misses)
	for i := range habitDays {
		c.uint16(&r.gaps.most[i])
		c.uint16(&r.gaps.second[i])
		c.uint16(&r.gaps.long[i])
	}
	for _, v := range []*float64{&r.take.share, &r.take.owed, &r.take.pending} {
		c.float64(v)
	}
	for i := range r.take.most {
		c.float(&r.take.most[i])
	}
	for i := range r.suspectSince {
		c.time(&r.suspectSince[i])
		if r.suspectSince[i] == 0 {
			continue
		}
		if r.suspected == nil {
			r.suspected = new([NumSuspicions]Grounds)
		}
		g := &r.suspected[i]
		for _, v := range []*int{&g.Jobs, &g.Projects, &g.Elsewhere, &g.Failed} {
			c.count(v)
		}
		c.time(&g.Seconds)
		c.float64(&g.Expected)
	}
}
