package ledger

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/record"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/test/rig"
)

// crowd is a fleet whose runners come and go, with what must be remembered.
type crowd struct {
	t      *testing.T
	rng    *rand.Rand
	l      *Ledger
	d      disk
	now    time.Time
	listed map[int64]bool
	left   map[int64]time.Time
	old    map[int64]bool // of left: those that once were not among the latest
	job    int64
	jobs   uint64
}

func (c *crowd) list(ids ...int64) {
	for _, id := range ids {
		c.listed[id] = true
		delete(c.left, id)
		delete(c.old, id)
	}
	var m []Member
	for id := range c.listed {
		m = append(m, Member{ID: id, Type: snapshot.GroupType})
	}
	c.l.Listed(m, "instance", c.now)
}

func (c *crowd) leave(id int64) {
	delete(c.listed, id)
	c.left[id] = c.now
	c.l.Leave(id, c.now)
}

func (c *crowd) keep() int { return max(c.l.keepLeft, 5*len(c.listed)) }

// work lets a runner finish a job, or begin one.
func (c *crowd) work(id int64, finish bool) {
	c.job++
	j := gitlab.Job{ID: c.job, Status: "running", CreatedAt: c.now, StartedAt: c.now, Duration: -1, Queued: 1, ProjectID: 5}
	if finish {
		j.Status, j.FinishedAt = "success", c.now
		c.jobs++
	}
	p := c.l.poll(id, c.l.Advance(c.now, c.now))
	if finish {
		p.newest(gitlab.JobsPage{Jobs: []gitlab.Job{j}, Next: 2, Total: -1})
	} else {
		p.executing([]gitlab.Job{j})
	}
	p.done(true)
}

func (c *crowd) judge() {
	c.t.Helper()
	late := slices.SortedFunc(maps.Keys(c.left), func(a, b int64) int {
		return cmp.Or(c.left[b].Compare(c.left[a]), cmp.Compare(b, a))
	})
	for i, id := range late {
		if i >= c.keep() {
			c.old[id] = true
		}
		if !c.old[id] && c.l.runners[id] == nil {
			c.t.Fatalf("runner %d, number %d of those that left last, was forgotten; %d are to be kept", id, i+1, c.keep())
		}
	}
	for id := range c.l.watch {
		if w := c.l.watch[id]; c.l.runners[w.runner] == nil || c.l.runners[w.runner].watch[id] != w {
			c.t.Fatalf("runner %d was forgotten while a job of it is watched", w.runner)
		}
	}
	idle := 0
	for _, r := range c.l.left {
		if len(r.watch) == 0 {
			idle++
		}
	}
	// A quarter more, and as many as are watched, may wait for the next eviction.
	if most := c.keep()*5/4 + 6; idle > most {
		c.t.Fatalf("%d runners that left are kept, more than %d", idle, most)
	}
	if len(c.l.runners) != len(c.l.left)+len(c.listed) {
		c.t.Fatalf("%d runners, %d left, %d listed", len(c.l.runners), len(c.l.left), len(c.listed))
	}
	if n := finished(c.l, snapshot.GroupType); n != c.jobs {
		c.t.Fatalf("%d jobs counted, want %d", n, c.jobs)
	}
}

// commit checks that the disk holds the same runners as the memory.
func (c *crowd) commit() {
	c.t.Helper()
	c.d.commit(c.l)
	onDisk := map[int64]bool{}
	for k := range c.d {
		if strings.HasPrefix(k, prefixRun) {
			onDisk[record.ID([]byte(k))] = true
		}
	}
	if len(onDisk) != len(c.l.runners) {
		c.t.Fatalf("%d runners on disk, %d in memory", len(onDisk), len(c.l.runners))
	}
	for id := range c.l.runners {
		if !onDisk[id] {
			c.t.Fatalf("runner %d is not on disk", id)
		}
	}
}

// TestRunnersThatLeftAreBounded: whatever comes and goes, the latest that left are known, those
// with watched jobs too, the others are bounded in memory and on disk, and what
// they counted stays.
func TestRunnersThatLeftAreBounded(t *testing.T) {
	seed := seedOf()
	for i := range uint64(rig.Sized(60, 20)) {
		l, d := begun(t)
		c := &crowd{
			t: t, rng: rand.New(rand.NewPCG(seed+i, 3)), l: l, d: d, now: t0,
			listed: map[int64]bool{10: true}, left: map[int64]time.Time{}, old: map[int64]bool{}, job: 100,
		}
		l.keepLeft = 8 + c.rng.IntN(30)
		next := int64(11)
		for range 600 {
			c.now = c.now.Add(time.Duration(c.rng.IntN(60)) * time.Second)
			ids := slices.Sorted(maps.Keys(c.listed))
			some := func() int64 { return ids[c.rng.IntN(len(ids))] }
			switch n := c.rng.IntN(20); {
			case n < 7:
				c.list(next)
				next++
			case n < 13 && len(ids) > 1:
				c.leave(some())
			case n < 15:
				c.work(some(), true)
			case n < 16 && len(c.l.watch) < 5:
				c.work(some(), false)
			case n < 17 && len(c.left) > 0: // one that left returns, remembered or not
				gone := slices.Sorted(maps.Keys(c.left))
				c.list(gone[c.rng.IntN(len(gone))])
			case n < 18:
				c.l.Forget(c.l.Advance(c.now, c.now))
			case n < 19:
				c.commit()
			default:
				c.commit()
				keep := c.l.keepLeft
				c.l = c.d.open(t, day)
				c.l.keepLeft = keep
			}
			c.judge()
			if t.Failed() {
				t.Fatalf("to see it again: -args -sim.seed=%d", seed+i)
			}
		}
	}
}

// A fleet that churns through 100,000 ids keeps the latest 20,000. With a sort
// for each that leaves, also where all of them hold jobs, this would not end.
func TestChurnKeepsTheLatestRunners(t *testing.T) {
	for _, watching := range []bool{false, true} {
		l, _ := begun(t)
		const ids = 100_000
		for i := range int64(ids) {
			id := 11 + i
			r := &runner{id: id, known: -1, total: -1}
			if watching {
				r.watch = map[int64]*watched{id: {id: id, runner: id, project: 1, executing: true}}
			}
			l.runners[id] = r
			l.Leave(id, t0.Add(time.Duration(i)*time.Millisecond))
		}
		if n := len(l.left); watching != (n == ids) || !watching && (n < keepLeft || n > keepLeft*5/4) {
			t.Errorf("watching %t: %d runners that left are kept", watching, n)
		}
		if l.runners[11+ids-1] == nil || l.runners[11+ids-keepLeft] == nil {
			t.Error("not the latest are kept")
		}
	}
}

// A runner that was evicted and returns begins anew: its series at 0 with a
// later created timestamp, its old jobs not counted again.
func TestAnEvictedRunnerReturns(t *testing.T) {
	l, d := begun(t)
	l.keepLeft = 4
	old := rows("success", 5, 3, 0.5)
	read(l, 10, at(1), reading{newest: old})
	d.commit(l)
	created := func() (value float64, at time.Time) {
		c := l.Counters(9, at0(l), true, func(int64) bool { return true })
		for _, r := range c.Runners {
			if r.ID == 10 {
				return r.Value, r.Created
			}
		}
		return -1, time.Time{}
	}
	shownOf(l, 1, at(1))
	l.Served(1, 1, at(1))
	d.commit(l)
	value, first := created()
	if value != 3 {
		t.Fatalf("shown %v", value)
	}
	l.Leave(10, at(2))
	for i := range int64(20) {
		l.Listed([]Member{{ID: 20 + i, Type: snapshot.GroupType}}, "instance", at(3+float64(i)))
		l.Leave(20+i, at(4+float64(i)))
	}
	if l.runners[10] != nil {
		t.Fatal("not evicted: the test proves nothing")
	}
	d.commit(l)
	if _, ok := d[string(runnerKey(10))]; ok {
		t.Error("its record is still on disk")
	}
	for range 2 { // as it is, and after a restart
		l.Listed([]Member{{ID: 10, Type: snapshot.GroupType}}, "instance", at(30))
		read(l, 10, at(31), reading{newest: append(rows("success", 50, 1, 30.5), old...)})
		wantFinished(t, l, 4)
		d.commit(l)
		shownOf(l, 10, at(31))
		if v, c := created(); v != 0 || !c.After(first) || !c.After(at(2)) {
			t.Errorf("returned with %v, created %v, first %v", v, c, first)
		}
		l = d.open(t, day)
	}
	shownOf(l, 11, at(32))
	l.Served(11, 11, at(32))
	d.commit(l)
	if v, _ := created(); v != 1 {
		t.Errorf("then shows %v, want 1", v)
	}
}

func at0(l *Ledger) time.Time { return time.UnixMilli(l.now) }

// A record that no commit can hold is left out alone: the rest is committed and
// shown, and a restart goes on without it.
func TestRecordThatNoCommitCanHoldIsLeftOut(t *testing.T) {
	l, d := begun(t)
	long := strings.Repeat("x", 40_000)
	l.Describe(10, []string{"a", long})
	l.Tags([]string{"a", long})
	d.commit(l)
	show := func() (a, b, runner float64) {
		for name, v := range map[string]*float64{"a": &a, long: &b} {
			g := l.tags[name]
			*v = float64(g.shown.counts[countSuccess])
		}
		if f := l.runners[10].finished; f != nil {
			runner = float64(f.shown.counts[countSuccess])
		}
		return a, b, runner
	}
	read(l, 10, at(1), reading{newest: rows("success", 5, 3, 0.5), executing: []gitlab.Job{ran(9, "running", 0.7, 0)}})
	b := l.Batch()
	if b.Drop(map[string]struct{}{string(chunkKey(0)): {}}) || b.Drop(map[string]struct{}{string(runnerKey(10)): {}, keyMeta: {}}) {
		t.Error("what the rest relies on is left out")
	}
	if !b.Drop(map[string]struct{}{string(tagKey(long)): {}, string(runnerKey(10)): {}}) {
		t.Fatal("not left out")
	}
	for _, r := range b.Records {
		if string(r.Key) == string(tagKey(long)) || string(r.Key) == string(runnerKey(10)) {
			t.Errorf("%s is still in the batch", r.Subject())
		}
	}
	d.write(b)
	l.Committed(b)
	if a, b, runner := show(); a != 3 || b != 0 || runner != 0 {
		t.Errorf("shown %v, %v, %v: only what was committed may be", a, b, runner)
	}
	wantFinished(t, l, 3)
	// Its job is still watched after a restart, and counted once.
	delete(d, string(runnerKey(10)))
	l = d.open(t, day)
	if ids := l.LeftWithWatch(); !slices.Equal(ids, []int64{10}) {
		t.Fatalf("runners with watched jobs: %v", ids)
	}
	l.Listed([]Member{{ID: 10, Type: snapshot.GroupType}}, "instance", at(2))
	read(l, 10, at(3), reading{newest: append([]gitlab.Job{ran(9, "success", 0.7, 2)}, rows("success", 5, 3, 0.5)...)})
	wantFinished(t, l, 4)
	for key, want := range map[string]string{
		string(runnerKey(10)): "jobs of runner 10", string(tagKey("gpu")): `jobs of tag "gpu"`, keyMeta: `record "lm"`, "": `record ""`,
	} {
		if got := (record.Record{Key: []byte(key)}).Subject(); got != want {
			t.Errorf("%q is called %s", key, got)
		}
	}
	if s := (record.Record{Key: tagKey(long)}).Subject(); len(s) > 200 {
		t.Error(fmt.Sprint("a name of ", len(s), " bytes in a message"))
	}
}

// A runner that gets series of its own only later (metrics.runners.min_age)
// shows what it counted until then at 0 first, as any new series does.
func TestSeriesThatComeLaterBeginAtZero(t *testing.T) {
	l, d := begun(t)
	exported := false
	shown := func(gen uint64, now time.Time) float64 {
		for _, r := range l.Counters(gen, now, true, func(int64) bool { return exported }).Runners {
			return r.Value
		}
		return -1
	}
	read(l, 10, at(1), reading{newest: rows("success", 5, 3, 0.5)})
	for i := range uint64(20) { // longer than a waiting series waits at the most
		d.commit(l)
		if v := shown(i+1, at(1+float64(i))); v != -1 {
			t.Fatalf("shown %v", v)
		}
		l.Served(i+1, i+1, at(1+float64(i)))
	}
	l = d.open(t, day)
	exported = true
	if v := shown(21, at(21)); v != 0 {
		t.Errorf("first shown at %v, want 0", v)
	}
	d.commit(l)
	if v := shown(22, at(22)); v != 0 {
		t.Errorf("not read at 0 yet, and shown at %v", v)
	}
	l.Served(22, 22, at(22))
	d.commit(l)
	if v := shown(23, at(23)); v != 3 {
		t.Errorf("then shown at %v, want 3", v)
	}
}
