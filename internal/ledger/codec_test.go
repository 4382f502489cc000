package ledger

import (
	"bytes"
	"encoding/binary"
	"maps"
	"reflect"
	"slices"
	"testing"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// image is everything of a ledger that must be the same after a restart.
func image(l *Ledger) map[string][]byte {
	d := map[string][]byte{keyMeta: l.encodeMeta()}
	for _, g := range l.types {
		d[string(g.key)] = encodeGroup(g)
	}
	for _, g := range l.tags {
		d[string(g.key)] = encodeGroup(g)
	}
	for _, r := range l.runners {
		d[string(runnerKey(r.id))] = encodeRunner(r)
	}
	for _, w := range l.watch {
		d[string(watchKey(w.id))] = encodeWatched(w)
	}
	return d
}

func same(t *testing.T, a, b *Ledger) {
	t.Helper()
	x, y := image(a), image(b)
	for k := range x {
		if !bytes.Equal(x[k], y[k]) {
			t.Errorf("record %q: %x and %x", k, x[k], y[k])
		}
	}
	if len(x) != len(y) || !maps.Equal(a.settled, b.settled) {
		t.Errorf("%d and %d records, %d and %d settled", len(x), len(y), len(a.settled), len(b.settled))
	}
}

// full is a ledger with something in each record.
func full(tb testing.TB) (*Ledger, disk) {
	tb.Helper()
	l, d := begun(tb)
	l.Listed([]Member{{ID: 10, Type: snapshot.GroupType}, {ID: 11, Type: snapshot.ProjectType}, {ID: 1 << 40, Type: snapshot.InstanceType}}, "groups: a, b", at(1))
	l.Tags([]string{"gpu", "ünïcode", ""})
	l.Describe(10, []string{"gpu", "ünïcode"})
	read(l, 10, at(2), reading{executing: []gitlab.Job{ran(9, "running", 0.7, 0), ran(8, "running", -0.7, 0)}, newest: rows("failed", 5, 3, 0.5), total: 77})
	read(l, 10, at(3), reading{newest: rows("success", 1<<50, 3, 0.5), asked: map[int64]any{8: 404, 9: ran(9, "canceling", 0.7, 0)}, total: 1 << 40})
	l.walk(10, at(4)).page(gitlab.JobsPage{Jobs: rows("canceled", 3, 1, 1), Cursor: "eyJpZCI6IjEyIn0=", Total: -1})
	l.walk(11, at(4)).page(gitlab.JobsPage{Jobs: rows("canceled", 13, 1, 1), Next: 2, Total: 500})
	l.Leave(11, at(5))
	l.Served(1, 1, at(5))
	l.Counters(2, at(5), true, func(int64) bool { return true })
	l.Served(2, 2, at(6))
	l.totals.unresolved = [snapshot.NumUnresolvedReasons]uint64{1, 2, 3, 4}
	l.metaDirty = true
	d.commit(l)
	return l, d
}

func TestRestartKeepsTheLedger(t *testing.T) {
	l, d := full(t)
	l2 := d.open(t, day)
	same(t, l, l2)
	if !reflect.DeepEqual(l.shownTotals, l2.shownTotals) || l.lastListing != l2.lastListing || l.scope != l2.scope || l.topRunner != l2.topRunner || l.floor != l2.floor {
		t.Error("another start, floor or listing")
	}
	if r := l2.runners[10]; r.walk.cursor != "eyJpZCI6IjEyIn0=" || !r.walk.keyset || l2.runners[11].walk.page != 2 || l2.runners[11].walk.total != 500 {
		t.Errorf("walks %+v, %+v", r.walk, l2.runners[11].walk)
	}
	if len(l2.left) != 1 || len(l2.runners[10].watch) != 2 || l2.Batch() != nil {
		t.Error("not tied together")
	}
	same(t, d.open(t, day), l2)
	// Ids go on after the restart, in chunks of their own.
	read(l2, 10, at(9), reading{newest: rows("success", 100, 1, 8)})
	n := len(d)
	d.commit(l2)
	if len(d) != n+1 {
		t.Error("a chunk of before the restart was overwritten")
	}
}

func TestChunkKeepsItsJobs(t *testing.T) {
	jobs := []settledJob{{1 << 60, 5}, {7, -3}, {8, 1 << 45}, {7_000_000, 0}}
	got := decodeChunk(&decoder{b: encodeChunk(jobs)})
	for _, j := range jobs {
		if !slices.Contains(got, j) {
			t.Errorf("%v is not in %v", j, got)
		}
	}
	if len(got) != len(jobs) {
		t.Errorf("%d jobs, want %d", len(got), len(jobs))
	}
}

func TestLoadRefusesDamagedRecords(t *testing.T) {
	_, d := full(t)
	for k, v := range d {
		for n := range v {
			l := New(day)
			if _, err := l.Load([]byte(k), v[:n]); err == nil && k != keyMeta {
				t.Errorf("record %q cut to %d of %d bytes is taken", k, n, len(v))
			}
		}
	}
	for _, k := range []string{"lmx", "lyplanet_type", "lr", "lr1234567", "lw123456789", "ls", "lr\xff\xff\xff\xff\xff\xff\xff\xff"} {
		value := map[string][]byte{
			prefixRun: d[string(runnerKey(10))], prefixJob: d[string(watchKey(9))], prefixDone: d[string(chunkKey(0))],
			prefixType: d[string(typeKey(snapshot.GroupType))], keyMeta: d[keyMeta],
		}[k[:2]]
		if handled, err := New(day).Load([]byte(k), value); !handled || err == nil {
			t.Errorf("key %q: handled %v, %v", k, handled, err)
		}
	}
	for _, k := range []string{"", "l", "x", "inventory", "lx"} {
		if handled, err := New(day).Load([]byte(k), []byte("?")); handled || err != nil {
			t.Errorf("foreign key %q: handled %v, %v", k, handled, err)
		}
	}
	for _, missing := range []string{keyMeta, string(typeKey(snapshot.GroupType))} {
		l := New(day)
		for k, v := range d {
			if k == missing {
				continue
			}
			if _, err := l.Load([]byte(k), v); err != nil {
				t.Fatal(err)
			}
		}
		if l.Finish() == nil {
			t.Errorf("a state without %q is taken", missing)
		}
	}
	if l := New(day); l.Finish() != nil || l.Begun() {
		t.Error("an empty state is not a new one")
	}
}

// A state of a version that knew fewer failure reasons.
func TestStateWithFewerReasonsLoads(t *testing.T) {
	g := newTypeGroup(snapshot.GroupType, 5)
	g.live.counts = g.live.counts[:10]
	g.live.counts[9] = 42
	got := newTypeGroup(snapshot.GroupType, 0)
	d := &decoder{b: encodeGroup(g)}
	decodeGroup(d, got)
	if d.err != nil || got.live.counts[9] != 42 || len(got.live.counts) != typeReasons+snapshot.NumFailureReasons() {
		t.Errorf("%v: %v", d.err, got.live.counts)
	}
}

func FuzzLoad(f *testing.F) {
	_, d := full(f)
	for k, v := range d {
		f.Add([]byte(k), v)
	}
	f.Add(chunkKey(3), binary.AppendUvarint(nil, 1<<62))
	f.Add(runnerKey(3), []byte{1, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		l := New(day)
		handled, err := l.Load(key, value)
		if err != nil || !handled {
			return
		}
		// What is taken must not stand for more than it has bytes for.
		if len(l.settled) > len(value) || len(l.chunks) > 1 || len(l.watch) > 1 || len(l.runners) > 1 {
			t.Errorf("%d bytes became %d settled ids", len(value), len(l.settled))
		}
		for _, r := range l.runners {
			if len(r.tags) > len(value) {
				t.Errorf("%d bytes became %d tags", len(value), len(r.tags))
			}
		}
		// It may be inconsistent with the rest, but then Finish reports it, and
		// what it lets through works.
		if l.Finish() != nil || !l.Begun() {
			return
		}
		l.Counters(1, t0, true, func(int64) bool { return true })
		l.Forget(at(100))
		if b := l.Batch(); b != nil {
			l.Committed(b)
		}
	})
}
