package ledger

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

var t0 = time.UnixMilli(simStart)

// at is so many minutes after the first start.
func at(minutes float64) time.Time {
	return t0.Add(time.Duration(minutes * float64(time.Minute)))
}

// disk is committed records.
type disk map[string][]byte

func (d disk) write(b *Batch) {
	for _, r := range b.Records {
		if r.Value == nil {
			delete(d, string(r.Key))
		} else {
			d[string(r.Key)] = r.Value
		}
	}
}

func (d disk) commit(l *Ledger) {
	if b := l.Batch(); b != nil {
		d.write(b)
		l.Committed(b)
	}
}

func (d disk) open(tb testing.TB, o Options) *Ledger {
	tb.Helper()
	l := New(o)
	for k, v := range d {
		if handled, err := l.Load([]byte(k), v); err != nil || !handled {
			tb.Fatalf("load %q: handled %v, %v", k, handled, err)
		}
	}
	if err := l.Finish(); err != nil {
		tb.Fatal(err)
	}
	return l
}

var day = Options{Lookback: 24 * time.Hour}

// begun is a ledger that listed runner 10 at its first start.
func begun(tb testing.TB) (*Ledger, disk) {
	tb.Helper()
	l := New(day)
	l.Begin(l.Advance(t0, t0))
	l.Listed([]Member{{ID: 10, Type: snapshot.GroupType}}, "instance", t0)
	d := disk{}
	d.commit(l)
	return l, d
}

// ran is a row of a job; zero minutes stand for a null time, and the created_at is a minute before the start.
func ran(id int64, status string, started, finished float64) gitlab.Job {
	j := gitlab.Job{ID: id, Status: status, CreatedAt: at(started - 1), Duration: -1, Queued: -1, ProjectID: 5}
	if started != 0 {
		j.StartedAt, j.Queued = at(started), 30
	}
	if finished != 0 {
		j.CreatedAt = at(min(started, finished) - 1)
		j.FinishedAt = at(finished)
		j.Duration = j.FinishedAt.Sub(j.StartedAt).Seconds()
	}
	return j
}

// reading is what a poll of a runner is answered.
type reading struct {
	executing []gitlab.Job
	newest    []gitlab.Job
	total     int
	asked     map[int64]any // gitlab.Job, or 404, or 403
}

func read(l *Ledger, id int64, now time.Time, r reading) {
	l.Works(true) // a listing between two readings
	p := l.poll(id, l.Advance(now, now))
	p.executing(r.executing)
	p.newest(gitlab.JobsPage{Jobs: r.newest, Total: r.total, Next: 0})
	for _, a := range p.missing() {
		switch v := r.asked[a.Job].(type) {
		case gitlab.Job:
			p.asked(v)
		case int:
			p.refused(a.Job, v == 403)
		}
	}
	p.done(true)
}

// finished is all live counts of runner 10's type.
func finished(l *Ledger, kind snapshot.RunnerType) (n uint64) {
	for _, c := range l.types[kind].live.counts {
		n += c
	}
	return n
}

func queuedCount(l *Ledger) (n uint64) {
	for _, c := range l.types[snapshot.GroupType].live.hists[typeQueued].buckets {
		n += c
	}
	return n
}

func durations(l *Ledger) (n uint64) {
	for s := range snapshot.NumJobStatuses {
		for _, c := range l.types[snapshot.GroupType].live.hists[s].buckets {
			n += c
		}
	}
	return n
}

func wantFinished(t *testing.T, l *Ledger, want uint64) {
	t.Helper()
	if n := finished(l, snapshot.GroupType); n != want {
		t.Fatalf("%d jobs counted, want %d", n, want)
	}
}

func TestOnlyWhatEndedAfterTheFirstStartCounts(t *testing.T) {
	l, _ := begun(t)
	read(l, 10, at(1), reading{newest: []gitlab.Job{
		ran(4, "success", -3, 0.01), ran(3, "failed", -5, -0.01), ran(2, "canceled", -9, -8), ran(1, "skipped", -2, 0.5), ran(5, "weird", 0.2, 0.5),
	}})
	wantFinished(t, l, 1)
	if _, ok := l.settled[4]; !ok {
		t.Error("the job that ended after the first start is not settled")
	}
	// Seen executing, a job counts whatever its stamps are.
	read(l, 10, at(2), reading{executing: []gitlab.Job{ran(6, "running", -60, 0)}})
	read(l, 10, at(3), reading{newest: []gitlab.Job{ran(6, "success", -60, -1)}})
	wantFinished(t, l, 2)
}

func TestBeginIsOnceAndNothingComesBefore(t *testing.T) {
	l := New(day)
	if l.Begun() || l.poll(10, t0) != nil || l.walk(10, t0) != nil || l.Batch() != nil {
		t.Error("an empty ledger does something")
	}
	l.Tags([]string{"x"})
	if l.Counters(1, t0, true, func(int64) bool { return true }) != nil {
		t.Error("an empty ledger shows something")
	}
	l.Begin(t0)
	l.Begin(at(5))
	if l.t0 != ms(t0) {
		t.Error("the first start moved")
	}
}

func TestSinceIsWhenARunnerCameIntoView(t *testing.T) {
	type listing struct {
		ids   []int64
		scope string
		at    float64
		leave int64
	}
	for _, c := range []struct {
		name     string
		listings []listing
		runner   int64
		want     float64
	}{
		{"at the first listing", []listing{{ids: []int64{10}}}, 10, 0},
		{"new: above every id", []listing{{ids: []int64{10}}, {ids: []int64{10}, at: 5}, {ids: []int64{10, 11}, at: 9}}, 11, 0},
		{"came into view: below the highest id", []listing{{ids: []int64{10}}, {ids: []int64{10}, at: 5}, {ids: []int64{9, 10}, at: 9}}, 9, 5},
		{"hidden by a shifted page of the first listing", []listing{{ids: []int64{10}}, {ids: []int64{9, 10}, at: 1}}, 9, 0},
		{"another scope: new ids may be old runners", []listing{{ids: []int64{10}}, {ids: []int64{10}, at: 5}, {ids: []int64{10, 11}, at: 9, scope: "wider"}}, 11, 5},
		{"the scope's next listing shows new ones again", []listing{{ids: []int64{10}}, {ids: []int64{10, 11}, at: 9, scope: "wider"}, {ids: []int64{10, 11, 12}, at: 10, scope: "wider"}}, 12, 0},
		{"rejoins in the same scope", []listing{{ids: []int64{9, 10}}, {ids: []int64{10}, at: 5, leave: 9}, {ids: []int64{9, 10}, at: 9}}, 9, 0},
		{"rejoins by another scope", []listing{{ids: []int64{9, 10}}, {ids: []int64{10}, at: 5, leave: 9}, {ids: []int64{9, 10}, at: 9, scope: "wider"}}, 9, 5},
		{"a Date of the past between", []listing{{ids: []int64{10}}, {ids: []int64{10}, at: 5}, {ids: []int64{10}, at: -5000}, {ids: []int64{9, 10}, at: 9}}, 9, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := New(day)
			l.Begin(t0)
			for _, x := range c.listings {
				var m []Member
				for _, id := range x.ids {
					m = append(m, Member{ID: id, Type: snapshot.GroupType})
				}
				l.Listed(m, "instance"+x.scope, at(x.at))
				if x.leave != 0 {
					l.Leave(x.leave, at(x.at))
				}
			}
			if got := l.runners[c.runner].since; got != ms(at(c.want)) {
				t.Errorf("since is %v after the first start, want %v min", rel(got), c.want)
			}
		})
	}
}

func TestJobsBeforeSinceDoNotCount(t *testing.T) {
	l, _ := begun(t)
	l.Listed([]Member{{ID: 10, Type: snapshot.GroupType}}, "instance", at(60))
	l.Listed([]Member{{ID: 9, Type: snapshot.GroupType}, {ID: 10, Type: snapshot.GroupType}}, "instance", at(61))
	read(l, 9, at(62), reading{newest: []gitlab.Job{ran(3, "success", 50, 60.5), ran(2, "success", 50, 59)}})
	wantFinished(t, l, 1) // not its history
}

func TestFloorNeverGoesBack(t *testing.T) {
	l, d := begun(t)
	if now := l.Advance(at(10*24*60), at(1)); now != at(1).Add(clockSlack) {
		t.Errorf("a Date ten days ahead gave %v", now)
	}
	if l.floor != ms(t0) {
		t.Errorf("the floor went to %v", rel(l.floor))
	}
	if now := l.Advance(at(-3*24*60), at(2)); now != at(-3*24*60) || l.floor != ms(t0) {
		t.Error("a Date of the past moved the floor")
	}
	if now := l.Advance(time.Time{}, at(3)); now != at(3).Add(clockSlack) {
		t.Errorf("an answer without a Date gave %v", now)
	}
	l.Advance(at(48*60), at(48*60))
	if l.floor != ms(at(24*60)) {
		t.Errorf("the floor is at %v", rel(l.floor))
	}
	l.opts.Lookback = 72 * time.Hour // a reload
	l.Advance(at(48*60+1), at(48*60+1))
	if l.floor != ms(at(24*60)) {
		t.Error("a longer lookback moved the floor")
	}
	read(l, 10, at(48*60+2), reading{newest: []gitlab.Job{ran(3, "success", 24*60-9, 24*60+0.1), ran(2, "success", 24*60-9, 24*60-0.1)}})
	wantFinished(t, l, 1)
	d.commit(l)
	l = d.open(t, Options{Lookback: 96 * time.Hour})
	l.Advance(at(48*60+3), at(48*60+3))
	if l.floor != ms(at(24*60)) {
		t.Error("the floor was not kept over a restart")
	}
}

// What was forgotten must not be admitted again by a lookback that was raised
// while the process was down: the floor is on disk with the forgetting.
func TestFloorIsOnDiskWithWhatWasForgotten(t *testing.T) {
	l, d := begun(t)
	row := ran(3, "success", 1, 2)
	read(l, 10, at(3), reading{newest: []gitlab.Job{row}})
	d.commit(l)
	l.Advance(at(26*60), at(26*60))
	l.Forget(at(26 * 60))
	if len(l.settled) != 0 {
		t.Fatal("not forgotten")
	}
	d.commit(l)
	l = d.open(t, Options{Lookback: 72 * time.Hour})
	read(l, 10, at(26*60+1), reading{newest: []gitlab.Job{row}})
	wantFinished(t, l, 1)
}

func TestOnlyJobsBelowTheFloorAreForgotten(t *testing.T) {
	l, d := begun(t)
	for i := range 50 {
		read(l, 10, at(float64(i)*60), reading{newest: []gitlab.Job{ran(int64(i+1), "success", float64(i)*60-5, float64(i)*60-1)}})
		d.commit(l)
		l.Forget(at(float64(i) * 60))
		if i > 26 && (len(l.settled) > 26 || len(l.chunks) > 26) {
			t.Fatalf("hour %d: %d ids and %d chunks in memory", i, len(l.settled), len(l.chunks))
		}
	}
	d.commit(l)
	for id := range l.settled {
		if id < 25 {
			t.Errorf("job %d is still known", id)
		}
	}
	// Those of the slack below the floor are still known.
	if _, ok := l.settled[26]; !ok {
		t.Errorf("a job within an hour below the floor was forgotten")
	}
	n := 0
	for k := range d {
		if k[:2] == prefixDone {
			n++
		}
	}
	if n != len(l.chunks) {
		t.Errorf("%d chunks on disk, %d in memory", n, len(l.chunks))
	}
	if wantN, again := finished(l, snapshot.GroupType), d.open(t, day); finished(again, snapshot.GroupType) != wantN || !maps.Equal(again.settled, l.settled) {
		t.Error("a restart remembers another set")
	}
}

func TestWatchedJobIsAskedForUntilItEnds(t *testing.T) {
	l, d := begun(t)
	read(l, 10, at(1), reading{executing: []gitlab.Job{ran(7, "running", 0.5, 0), ran(8, "running", 0.6, 0)}})
	if running, canceling, oldest, ok := l.Executing(10); running != 2 || canceling != 0 || !oldest.Equal(at(0.5)) || !ok {
		t.Errorf("executing %d, %d, %v, %v", running, canceling, oldest, ok)
	}
	if p := l.poll(10, at(2)); !p.needsExecuting(true) {
		t.Error("a watched job does not need the running list")
	}
	d.commit(l)
	l = d.open(t, day) // a restart keeps the watch
	if l.Watched(10) != 2 {
		t.Fatalf("%d watched after a restart", l.Watched(10))
	}
	// Seen nowhere: absence proves nothing.
	read(l, 10, at(2), reading{})
	if n, _, _, _ := l.Executing(10); n != 0 || l.Watched(10) != 2 {
		t.Errorf("executing %d, watched %d", n, l.Watched(10))
	}
	// canceling is executing, and seen only where it is asked for.
	read(l, 10, at(3), reading{asked: map[int64]any{7: ran(7, "canceling", 0.5, 0), 8: ran(8, "success", 0.6, 2.2)}})
	if n, c, _, _ := l.Executing(10); n != 0 || c != 1 {
		t.Errorf("executing %d, canceling %d", n, c)
	}
	wantFinished(t, l, 1)
	read(l, 10, at(4), reading{asked: map[int64]any{7: ran(7, "canceled", 0.5, 3.5)}})
	wantFinished(t, l, 2)
	if l.Watched(10) != 0 || l.types[snapshot.GroupType].live.counts[typeCanceled] != 1 {
		t.Error("the cancelled job was not counted as such")
	}
	if p := l.poll(10, at(5)); p.needsExecuting(true) || !p.needsExecuting(false) {
		t.Error("an idle runner without watched jobs needs the running list")
	}
	if !l.LastFinished(10).Equal(at(3.5)) || !l.ReadAt(10).Equal(at(4)) {
		t.Errorf("last finished %v, read at %v", l.LastFinished(10), l.ReadAt(10))
	}
}

func TestJobIsGivenUpAfterThreeRefusalsInARow(t *testing.T) {
	for code, reason := range map[int]snapshot.UnresolvedReason{404: snapshot.UnresolvedDeleted, 403: snapshot.UnresolvedForbidden} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			l, d := begun(t)
			refuse := reading{asked: map[int64]any{7: code}}
			read(l, 10, at(1), reading{executing: []gitlab.Job{ran(7, "running", 0.5, 0)}})
			read(l, 10, at(2), refuse)
			read(l, 10, at(3), refuse)
			read(l, 10, at(4), reading{executing: []gitlab.Job{ran(7, "running", 0.5, 0)}}) // it was a stale replica
			read(l, 10, at(5), refuse)
			d.commit(l)
			l = d.open(t, day)
			read(l, 10, at(6), refuse)
			if l.Watched(10) != 1 || l.totals.unresolved[reason] != 0 {
				t.Fatal("given up too early")
			}
			read(l, 10, at(7), reading{}) // the request failed: no answer is no refusal
			read(l, 10, at(8), refuse)
			if l.Watched(10) != 0 || l.totals.unresolved[reason] != 1 {
				t.Fatal("not given up")
			}
			if _, unresolved := l.Totals(); unresolved[reason] != 0 {
				t.Error("counted before it was committed")
			}
			d.commit(l)
			if _, unresolved := l.Totals(); unresolved[reason] != 1 {
				t.Error("not counted")
			}
			if _, unresolved := d.open(t, day).Totals(); unresolved[reason] != 1 {
				t.Error("forgotten by a restart")
			}
		})
	}
}

// While the listing does not work, and between two that work, no answer is
// evidence: an outage may answer 404 for all that there is.
func TestAnOutageGivesNothingUp(t *testing.T) {
	l, d := begun(t)
	homeless := ran(8, "running", 0.5, 0)
	homeless.ProjectID = 0
	read(l, 10, at(1), reading{executing: []gitlab.Job{ran(7, "running", 0.5, 0), homeless}})
	refuse := func(minute float64) {
		p := l.poll(10, at(minute))
		p.runnerGone()
		for _, a := range p.missing() {
			p.refused(a.Job, false)
		}
		p.done(false)
	}
	still := func(when string) {
		t.Helper()
		if l.Watched(10) != 2 || l.totals.unresolved != [snapshot.NumUnresolvedReasons]uint64{} {
			t.Fatalf("%s: %d watched, unresolved %v", when, l.Watched(10), l.totals.unresolved)
		}
	}
	for i := range 5 * askLimit {
		refuse(2 + float64(i)/100)
	}
	still("often between two listings")
	l.Works(true)
	refuse(3)
	l.Works(false)
	for i := range 5 * askLimit {
		refuse(4 + float64(i))
		l.Works(false)
	}
	still("while the listing fails")
	l.Works(true)
	refuse(30)
	still("after the outage its answers count no more")
	d.commit(l)
	l = d.open(t, day)
	for i := range 5 * askLimit {
		refuse(31 + float64(i))
	}
	still("before the first listing of a process")
	for i := range askLimit {
		l.Works(true)
		refuse(50 + float64(i))
	}
	if l.Watched(10) != 0 || l.totals.unresolved[snapshot.UnresolvedDeleted] != 1 || l.totals.unresolved[snapshot.UnresolvedRunnerGone] != 1 {
		t.Errorf("while the listing works: %d watched, unresolved %v", l.Watched(10), l.totals.unresolved)
	}
}

// A runner that comes into view with a scope that was new, or refused, may be
// an old one: what it did before the scope was read does not count.
func TestHistoryBehindANewScopeDoesNotCount(t *testing.T) {
	for name, c := range map[string]struct {
		member  Member
		counted uint64
	}{
		"new in a scope that is read":    {Member{ID: 11, Since: at(60)}, 2},
		"in a scope that was refused":    {Member{ID: 11, Since: at(50), Unseen: true}, 1},
		"in a scope that was down":       {Member{ID: 9, Since: at(20)}, 2},
		"older, in a scope that is read": {Member{ID: 9, Since: at(60)}, 0},
		"in a scope just configured":     {Member{ID: 11, Unseen: true}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := begun(t)
			l.Listed([]Member{{ID: 10, Type: snapshot.GroupType}}, "instance", at(60))
			c.member.Type = snapshot.GroupType
			l.Listed([]Member{c.member}, "instance", at(61))
			read(l, c.member.ID, at(62), reading{newest: []gitlab.Job{ran(8, "success", 54, 55), ran(7, "success", 29, 30)}})
			wantFinished(t, l, c.counted)
		})
	}
}

func TestJobsOfADeletedRunnerAreAskedFor(t *testing.T) {
	l, _ := begun(t)
	homeless := ran(8, "running", 0.5, 0)
	homeless.ProjectID = 0
	read(l, 10, at(1), reading{executing: []gitlab.Job{ran(7, "running", 0.5, 0), homeless}})
	l.Leave(10, at(2))
	for i := range askLimit {
		if got := l.LeftWithWatch(); !slices.Equal(got, []int64{10}) {
			t.Fatalf("poll %d: runners that left with a watch: %v", i, got)
		}
		l.Works(true)
		p := l.poll(10, at(float64(3+i)))
		p.runnerGone()
		if asks := p.missing(); len(asks) != 1 || asks[0] != (Ask{5, 7}) {
			t.Fatalf("poll %d asks for %v", i, asks)
		}
		p.asked(ran(7, "running", 0.5, 0))
		p.done(false)
	}
	if l.Watched(10) != 1 || l.totals.unresolved[snapshot.UnresolvedRunnerGone] != 1 {
		t.Errorf("watched %d, unresolved %v", l.Watched(10), l.totals.unresolved)
	}
	p := l.poll(10, at(9))
	p.runnerGone()
	p.asked(ran(7, "success", 0.5, 8))
	p.done(false)
	wantFinished(t, l, 1)
	if len(l.LeftWithWatch()) != 0 {
		t.Error("still asked for")
	}
}

func TestAJobWithoutAProjectIsNotWatchedForEver(t *testing.T) {
	l, d := begun(t)
	homeless := ran(8, "running", 0.5, 0)
	homeless.ProjectID = 0
	read(l, 10, at(1), reading{executing: []gitlab.Job{homeless}})
	l.Forget(at(30 * 60))
	l.Advance(at(30*60), at(30*60))
	l.Forget(at(30 * 60))
	if l.Watched(10) != 1 {
		t.Fatal("given up while it executes")
	}
	read(l, 10, at(30*60), reading{})
	l.Forget(at(30*60 + 1))
	if l.Watched(10) != 0 || l.totals.unresolved[snapshot.UnresolvedTooOld] != 1 {
		t.Errorf("watched %d, unresolved %v", l.Watched(10), l.totals.unresolved)
	}
	d.commit(l)
	d.open(t, day)
}

func TestQueueTimeIsObservedOnce(t *testing.T) {
	running, done := ran(7, "running", 1, 0), ran(7, "success", 1, 5)
	early := func(j gitlab.Job) gitlab.Job { j.StartedAt = at(-1); return j }
	mute := func(j gitlab.Job) gitlab.Job { j.Queued = -1; return j }
	for _, c := range []struct {
		name  string
		polls []reading
		first uint64 // after the first poll
		want  uint64
	}{
		{"never watched: when it is counted", []reading{{newest: []gitlab.Job{done}}, {newest: []gitlab.Job{done}}}, 1, 1},
		{"watched: at its entry", []reading{{executing: []gitlab.Job{running}}, {executing: []gitlab.Job{running}}, {newest: []gitlab.Job{done}}}, 1, 1},
		{"executing at the first start", []reading{{executing: []gitlab.Job{early(running)}}, {newest: []gitlab.Job{early(done)}}}, 0, 0},
		{"ended after the first start, begun before", []reading{{newest: []gitlab.Job{early(done)}}}, 0, 0},
		{"queue time known only at its end", []reading{{executing: []gitlab.Job{mute(running)}}, {newest: []gitlab.Job{done}}}, 0, 1},
		{"queue time known while it executes", []reading{{executing: []gitlab.Job{mute(running)}}, {executing: []gitlab.Job{running}}, {newest: []gitlab.Job{done}}}, 0, 1},
		{"queue time never known", []reading{{executing: []gitlab.Job{mute(running)}}, {newest: []gitlab.Job{mute(done)}}}, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, d := begun(t)
			l.Describe(10, []string{"gpu"})
			for i, r := range c.polls {
				read(l, 10, at(float64(6+i)), r)
				if n := queuedCount(l); i == 0 && n != c.first {
					t.Errorf("%d observed by the first poll, want %d", n, c.first)
				}
				d.commit(l)
				l = d.open(t, day) // the observation and the entry are one record
			}
			if n := queuedCount(l); n != c.want {
				t.Errorf("%d observed, want %d", n, c.want)
			}
			if g := l.tags["gpu"]; g != nil {
				var n uint64
				for _, b := range g.live.hists[0].buckets {
					n += b
				}
				if n != c.want {
					t.Errorf("%d observed under the tag, want %d", n, c.want)
				}
			}
		})
	}
}

func TestJobsWithoutStampsAreCounted(t *testing.T) {
	refused := ran(1, "failed", 0, 0)
	refused.CreatedAt = at(1)
	refusedLate := ran(2, "failed", 0, 0)
	refusedLate.FinishedAt = at(2)
	refusedLate.Duration = 7 // what cannot be must not count either
	refusedLate.Queued = 7
	unfinished := ran(3, "failed", 1, 0)
	before := ran(4, "failed", 0, 0) // created before the first start: nothing shows when it ended
	l, _ := begun(t)
	read(l, 10, at(5), reading{newest: []gitlab.Job{before, unfinished, refusedLate, refused}})
	wantFinished(t, l, 3)
	if n := durations(l); n != 0 {
		t.Errorf("%d durations", n)
	}
	if n := queuedCount(l); n != 1 { // only the one that has a start
		t.Errorf("%d queue times", n)
	}
	if n := l.types[snapshot.GroupType].live.counts[typeReasons+int(snapshot.ParseFailureReason(""))]; n != 3 {
		t.Errorf("%d failed without a reason", n)
	}
}

func TestDurationsFallIntoTheirBuckets(t *testing.T) {
	l, _ := begun(t)
	exact := ran(1, "failed", 1, 2) // 60 s: a bound belongs to its bucket
	exact.FailureReason = "script_failure"
	null := ran(2, "success", 1, 4)
	null.Duration = -1
	read(l, 10, at(5), reading{newest: []gitlab.Job{null, exact}})
	f, s := l.types[snapshot.GroupType].live.hists[snapshot.Failed], l.types[snapshot.GroupType].live.hists[snapshot.Success]
	if f.buckets[2] != 1 || f.sum != 60 || s.buckets[4] != 1 || s.sum != 180 {
		t.Errorf("failed %v, success %v", f, s)
	}
	if l.runners[10].finished.live.counts[countFailed+int(snapshot.Script)-1] != 1 {
		t.Error("the runner's failed job has another class")
	}
}

func TestSettledJobStaysSettled(t *testing.T) {
	l, d := begun(t)
	done, running := ran(7, "success", 1, 2), ran(7, "running", 1, 0)
	read(l, 10, at(3), reading{newest: []gitlab.Job{done, done}})
	d.commit(l)
	l = d.open(t, day)
	read(l, 10, at(4), reading{executing: []gitlab.Job{running}, newest: []gitlab.Job{running, ran(7, "failed", 1, 3)}})
	wantFinished(t, l, 1)
	if l.Watched(10) != 0 || queuedCount(l) != 1 {
		t.Error("a staler answer undid the end")
	}
}

func rows(status string, high, n int64, finishedAt float64) []gitlab.Job {
	var out []gitlab.Job
	for i := range n {
		out = append(out, ran(high-i, status, finishedAt-2, finishedAt))
	}
	return out
}

func TestNewestReadsUntilContiguousAndWithoutNews(t *testing.T) {
	l, _ := begun(t)
	read(l, 10, at(1), reading{newest: rows("success", 100, 1, 0.5)})
	page := func(p *poll, jobs []gitlab.Job) bool {
		return p.newest(gitlab.JobsPage{Jobs: jobs, Next: 9, Total: -1})
	}
	// History brings no news, but the mark is not reached.
	p := l.poll(10, at(30))
	if !page(p, rows("pending", 300, 100, 29)) || !page(p, rows("pending", 200, 50, 29)) || page(p, rows("pending", 150, 51, 29)) {
		t.Error("it must read down to the mark, and no deeper")
	}
	p.done(true)
	if l.runners[10].high != 300 {
		t.Fatalf("the mark is at %d", l.runners[10].high)
	}
	// News at the mark: deeper, until a page has none.
	p = l.poll(10, at(31))
	if !page(p, rows("success", 299, 10, 30.5)) || page(p, rows("pending", 250, 10, 29)) {
		t.Error("it must read on while there is news below the mark, and no further")
	}
	p.done(false)
	// News above it are no reason, unless a watched job may come next.
	p = l.poll(10, at(31))
	if page(p, append(rows("success", 310, 5, 30.5), rows("pending", 300, 5, 29)...)) {
		t.Error("it reads on below the mark for nothing")
	}
	p.executing([]gitlab.Job{ran(50, "running", 31, 0)})
	p.done(false)
	p = l.poll(10, at(32))
	if !page(p, append(rows("success", 320, 5, 31.5), rows("pending", 300, 5, 29)...)) || page(p, rows("pending", 200, 5, 29)) {
		t.Error("it must read on for a watched job while there is news, and no further")
	}
	p.asked(ran(50, "success", 31, 31.5))
	p.done(false)
	// A failed reading does not move the mark.
	p = l.poll(10, at(32))
	page(p, rows("success", 500, 10, 31))
	p.done(false)
	if l.runners[10].high != 300 {
		t.Errorf("a failed reading moved the mark to %d", l.runners[10].high)
	}
	// Nor does what executes: the newest rows may be older than it.
	p = l.poll(10, at(33))
	p.executing([]gitlab.Job{ran(900, "running", 32, 0)})
	page(p, rows("success", 500, 10, 31))
	page(p, rows("pending", 300, 10, 31))
	p.done(true)
	if l.runners[10].high != 500 {
		t.Errorf("the mark is at %d", l.runners[10].high)
	}
}

func TestAPollToTheBottomIsAWalk(t *testing.T) {
	l, d := begun(t)
	if !l.Deep(10).Equal(t0) {
		t.Fatalf("deep is %v", l.Deep(10))
	}
	read(l, 10, at(20), reading{newest: rows("success", 5, 3, 19)})
	if !l.Deep(10).Equal(at(20)) {
		t.Errorf("the rows ended, and deep is %v", l.Deep(10))
	}
	d.commit(l)
	if l2 := d.open(t, day); !l2.Deep(10).Equal(at(20)) {
		t.Error("deep is not on disk")
	}
	// A whole page older than lookback and the slack of their order.
	l.runners[10].deep = ms(at(59 * 60))
	old := func(minutes float64) *poll {
		p := l.poll(10, at(60*60))
		row := ran(5, "success", 1, 2)
		row.CreatedAt = at(35*60 - minutes)
		p.newest(gitlab.JobsPage{Jobs: []gitlab.Job{row}, Next: 2})
		return p
	}
	if old(9).bottomed {
		t.Error("ten minutes of disorder are not allowed for")
	}
	p := old(11)
	if !p.bottomed {
		t.Error("it reads below lookback")
	}
	p.done(false)
	if !l.Deep(10).Equal(at(59 * 60)) {
		t.Error("a failed reading is a whole walk")
	}
}

func TestGrownTotalHintsAtUnseenJobs(t *testing.T) {
	l, _ := begun(t)
	a, b := ran(1, "success", 1, 2), ran(2, "success", 1, 2)
	list := func(total int, jobs ...gitlab.Job) bool {
		p := l.poll(10, at(5))
		p.newest(gitlab.JobsPage{Jobs: jobs, Total: total, Next: 2})
		return p.done(true)
	}
	if list(10, a) {
		t.Error("the first total hints")
	}
	if list(11, a, b) {
		t.Error("grown by what was met, and it hints")
	}
	if !list(12, a, b) {
		t.Error("grown by more than was met, and no hint")
	}
	if list(12, a, b) {
		t.Error("the same again, and another hint")
	}
	w := l.walk(10, at(6))
	w.page(gitlab.JobsPage{Jobs: []gitlab.Job{ran(-5, "success", 1, 2)}, Total: -1})
	if n, _ := l.Totals(); n != 0 || l.totals.recovered != 1 {
		t.Errorf("recovered %d, in the totals %d", l.totals.recovered, n)
	}
	if list(12, a, b) {
		t.Error("explained by the walk, and it hints")
	}
	if list(9, a, b) {
		t.Error("rows were deleted, and it hints")
	}
	if !list(10, a, b) {
		t.Error("grown since the deletion, and no hint")
	}
	if !l.poll(10, at(9)).byKeyset() && list(-1, a, b) {
		t.Error("a withheld total hints")
	}
	if !l.poll(10, at(9)).byKeyset() {
		t.Error("the total was withheld, and it is asked for again")
	}
	w = l.walk(10, at(10))
	w.page(gitlab.JobsPage{Total: -1})
	if l.poll(10, at(11)).byKeyset() {
		t.Error("after a walk the total must be tried again")
	}
}

func TestWalkResumes(t *testing.T) {
	l, d := begun(t)
	w := l.walk(10, at(60))
	if q := w.query(true); q != (gitlab.JobsQuery{RunnerID: 10, Keyset: true}) {
		t.Errorf("the first page: %+v", q)
	}
	if w.page(gitlab.JobsPage{Jobs: rows("success", 500, 100, 50), Cursor: "c1", Keyset: true, Total: -1}) {
		t.Error("whole after a page")
	}
	if !l.Deep(10).Equal(t0) {
		t.Error("an unfinished walk moved deep")
	}
	d.commit(l)
	l = d.open(t, day)
	w = l.walk(10, at(90))
	if q := w.query(true); q.Cursor != "c1" || !q.Keyset {
		t.Errorf("resumed at %+v", q)
	}
	if !w.page(gitlab.JobsPage{Jobs: rows("success", 400, 7, 50), Keyset: true, Total: -1}) {
		t.Error("the rows end, and the walk does not")
	}
	if !l.Deep(10).Equal(at(60)) {
		t.Errorf("deep is %v, want the start of the walk", l.Deep(10))
	}
	wantFinished(t, l, 107)
	if l.totals.recovered != 107 {
		t.Errorf("%d recovered", l.totals.recovered)
	}

	// By number, also where keyset is ignored: pages that lost rows are read again.
	w = l.walk(10, at(120))
	w.query(true)
	w.page(gitlab.JobsPage{Jobs: rows("pending", 1000, 100, 50), Next: 2, Total: 900})
	d.commit(l)
	l = d.open(t, day)
	w = l.walk(10, at(121))
	for _, step := range []struct{ page, total, next int }{{2, 900, 3}, {3, 950, 4}, {4, 949, 4}, {4, 949, 5}, {5, 700, 3}, {3, -1, 4}, {4, 600, 5}} {
		if q := w.query(true); q.Page != step.page || q.Keyset {
			t.Fatalf("page %d: %+v", step.page, q)
		}
		w.page(gitlab.JobsPage{Jobs: rows("pending", 900, 100, 50), Next: step.page + 1, Total: step.total})
		if got := w.query(true).Page; got != step.next {
			t.Fatalf("after page %d of %d rows comes %d, want %d", step.page, step.total, got, step.next)
		}
	}
	w.restart()
	if q := w.query(true); !q.Keyset || q.Cursor != "" {
		t.Errorf("restarted at %+v", q)
	}
}

// A walk reads as deep as when it began, though it takes for hours, and
// lookback deeper than the last whole one: what ended since may have waited.
func TestAWalkKeepsItsBound(t *testing.T) {
	for name, c := range map[string]struct{ deep, began, resumed, bound float64 }{
		"an hour after the last":   {29, 30, 35, 5},
		"after a stop of 9 hours":  {29, 38, 40, 5},
		"not for what is too late": {2, 50, 50, 2},
		"a Date of the past":       {29, 28, 28, 4},
	} {
		t.Run(name, func(t *testing.T) {
			l, d := begun(t)
			l.runners[10].deep = ms(at(c.deep * 60))
			w := l.walk(10, l.Advance(at(c.began*60), at(c.began*60)))
			w.page(gitlab.JobsPage{Jobs: rows("pending", 500, 100, c.deep*60), Cursor: "c1", Total: -1})
			d.commit(l)
			l = d.open(t, day)
			w = l.walk(10, l.Advance(at(c.resumed*60), at(c.resumed*60)))
			old := func(created float64) []gitlab.Job {
				j := ran(3, "success", created+1, 20*60)
				j.CreatedAt = at(created)
				return []gitlab.Job{j}
			}
			if w.page(gitlab.JobsPage{Jobs: old(c.bound*60 - 9), Cursor: "c2", Total: -1}) {
				t.Error("it ends above its bound")
			}
			if !w.page(gitlab.JobsPage{Jobs: old(c.bound*60 - 11), Cursor: "c3", Total: -1}) {
				t.Error("it reads below its bound")
			}
		})
	}
}

func TestTooOldIsReportedOnce(t *testing.T) {
	l, d := begun(t)
	read(l, 10, at(1), reading{newest: rows("success", 5, 1, 0.5)})
	d.commit(l)
	l = d.open(t, day)
	// Away for two days.
	now := 50.0 * 60
	lost := rows("success", 8, 2, 25*60)
	for i := range lost {
		lost[i].CreatedAt = at(now - 60) // so that the page is not below the bound
	}
	l.Advance(at(now), at(now))
	p := l.poll(10, at(now))
	p.newest(gitlab.JobsPage{Jobs: lost, Next: 2, Total: 3})
	p.done(false) // the next reading will show it
	if l.totals.unresolved[snapshot.UnresolvedTooOld] != 0 {
		t.Error("counted by a reading that was not whole")
	}
	p = l.poll(10, at(now+1))
	p.newest(gitlab.JobsPage{Jobs: lost, Next: 2, Total: 3})
	p.newest(gitlab.JobsPage{Jobs: append(lost[1:2:2], rows("success", 5, 1, 0.5)...), Next: 0, Total: 3}) // shifted
	p.done(true)
	if n := l.totals.unresolved[snapshot.UnresolvedTooOld]; n != 2 {
		t.Errorf("%d counted, want 2", n)
	}
	p = l.poll(10, at(now+2))
	p.newest(gitlab.JobsPage{Jobs: lost, Next: 2, Total: 3})
	p.done(true)
	if n := l.totals.unresolved[snapshot.UnresolvedTooOld]; n != 2 {
		t.Errorf("%d counted, want 2", n)
	}
	wantFinished(t, l, 1)
}

func TestDelaysAreReportedOnce(t *testing.T) {
	l, _ := begun(t)
	read(l, 10, at(5), reading{newest: []gitlab.Job{ran(2, "success", 1, 3), ran(1, "success", 1, 5.5)}})
	if d := l.Delays(); len(d) != 1 || d[0] != 2*time.Minute {
		t.Errorf("delays %v", d)
	}
	if d := l.Delays(); len(d) != 0 {
		t.Errorf("drained, and still %v", d)
	}
}

// shownOf is the value of a runner's counter of successes, -1 if it has none.
func shownOf(l *Ledger, gen uint64, now time.Time) float64 {
	c := l.Counters(gen, now, true, func(int64) bool { return true })
	for _, r := range c.Runners {
		if r.ID == 10 && r.Status == snapshot.Success {
			return r.Value
		}
	}
	return -1
}

func typeShown(l *Ledger, gen uint64, now time.Time) float64 {
	return l.Counters(gen, now, false, nil).JobsFinished[int(snapshot.GroupType)*(1+snapshot.NumFailureReasons())].Value
}

func TestANewSeriesIsReadAtZeroFirst(t *testing.T) {
	l, d := begun(t)
	step := func(gen uint64, m float64, wantRunner, wantType float64) {
		t.Helper()
		if v := shownOf(l, gen, at(m)); v != wantRunner {
			t.Errorf("generation %d: the runner shows %v, want %v", gen, v, wantRunner)
		}
		if v := typeShown(l, gen, at(m)); v != wantType {
			t.Errorf("generation %d: the type shows %v, want %v", gen, v, wantType)
		}
	}
	step(1, 1, -1, 0)
	read(l, 10, at(1), reading{newest: rows("success", 5, 3, 0.5)})
	step(2, 1, -1, 0) // not committed
	d.commit(l)
	step(3, 1.1, 0, 0)
	l.Served(0, 0, at(1.2)) // an older picture
	d.commit(l)
	step(4, 1.2, 0, 0)
	l.Served(4, 2, at(1.3)) // the runner_ families of that scrape were of generation 2
	step(5, 1.3, 0, 0)      // that it was read is not on disk yet
	// A restart before that is: 0 again, which is all that was ever shown.
	l2 := d.open(t, day)
	if v := typeShown(l2, 1, at(1.3)); v != 0 {
		t.Errorf("after a restart the type shows %v", v)
	}
	d.commit(l)
	step(6, 1.4, 0, 3)
	l.Served(6, 6, at(1.5))
	d.commit(l)
	step(7, 1.5, 3, 3)
	// A restart after it: the value at once.
	l = d.open(t, day)
	step(1, 2, 3, 3)
	// Another series of the same runner waits by itself.
	read(l, 10, at(3), reading{newest: rows("canceled", 9, 1, 2.5)})
	d.commit(l)
	c := l.Counters(2, at(3), true, func(int64) bool { return true })
	if len(c.Runners) != 2 || c.Runners[0].Value != 3 || c.Runners[1].Value != 0 || c.Runners[1].Status != snapshot.Canceled {
		t.Errorf("%+v", c.Runners)
	}
	// Nobody scrapes: five minutes.
	l.Served(0, 0, at(3+4.9))
	d.commit(l)
	if v := l.Counters(3, at(8), true, func(int64) bool { return true }).Runners[1].Value; v != 0 {
		t.Errorf("shown as %v before five minutes", v)
	}
	l.Served(0, 0, at(3+5.1))
	d.commit(l)
	if v := l.Counters(4, at(9), true, func(int64) bool { return true }).Runners[1].Value; v != 1 {
		t.Errorf("shown as %v after five minutes", v)
	}
	if len(l.unexposed) != 0 {
		t.Errorf("%d groups wait", len(l.unexposed))
	}
}

func tagNames(l *Ledger) (names []string) {
	for _, c := range l.Counters(1, t0, false, nil).TagJobsFinished {
		if len(names) == 0 || names[len(names)-1] != c.Labels[0] {
			names = append(names, c.Labels[0])
		}
	}
	return names
}

func TestTagKeepsItsCountersFor30Days(t *testing.T) {
	l, d := begun(t)
	l.Tags([]string{"a", "b", snapshot.TagOther})
	l.Describe(10, []string{"a", snapshot.TagOther})
	read(l, 10, at(1), reading{newest: rows("success", 5, 3, 0.5)})
	d.commit(l)
	if got := tagNames(l); !slices.Equal(got, []string{snapshot.TagOther, "a", "b"}) {
		t.Errorf("tags %v", got)
	}
	l.Advance(at(60), at(60))
	l.Tags([]string{"b"})
	d.commit(l)
	l = d.open(t, day)
	if got := tagNames(l); !slices.Equal(got, []string{snapshot.TagOther, "b"}) {
		t.Errorf("after one ended: %v", got)
	}
	l.Advance(at(25*24*60), at(25*24*60))
	l.Forget(at(25 * 24 * 60))
	l.Tags([]string{"a", "b"})
	if n := l.tags["a"].live.counts[countSuccess]; n != 3 {
		t.Errorf("returned within 30 days with %d", n)
	}
	if !fromMS(l.tags["a"].created).Equal(t0) {
		t.Error("it has another created stamp")
	}
	l.Tags([]string{"b"})
	l.Advance(at(56*24*60), at(56*24*60))
	l.Forget(at(56 * 24 * 60))
	d.commit(l)
	l = d.open(t, day)
	if _, ok := l.tags["a"]; ok {
		t.Error("kept beyond 30 days")
	}
	l.Advance(at(57*24*60), at(57*24*60))
	l.Tags([]string{"a", "b"})
	if g := l.tags["a"]; g.live.counts[countSuccess] != 0 || !fromMS(g.created).Equal(at(57*24*60)) {
		t.Errorf("returned after 30 days with %v, created %v", g.live.counts, rel(g.created))
	}
	if n := l.tags[snapshot.TagOther].live.counts[countSuccess]; n != 3 {
		t.Errorf("(other) has %d", n)
	}
}

func TestRunnerKeepsItsCountersFor30Days(t *testing.T) {
	members := []Member{{ID: 10, Type: snapshot.GroupType}}
	for _, c := range []struct {
		days float64
		want float64
	}{{29, 4}, {31, 1}} {
		t.Run(fmt.Sprintf("%v days", c.days), func(t *testing.T) {
			l, d := begun(t)
			read(l, 10, at(1), reading{newest: rows("success", 5, 3, 0.5)})
			d.commit(l)
			shownOf(l, 1, at(1))
			l.Served(1, 1, at(1))
			l.Leave(10, at(2))
			d.commit(l)
			if v := shownOf(l, 2, at(2)); v != -1 {
				t.Errorf("gone, and it shows %v", v)
			}
			if typeShown(l, 2, at(2)) != 3 {
				t.Error("the sum of its type went with it")
			}
			l = d.open(t, day)
			back := c.days * 24 * 60
			l.Advance(at(back), at(back))
			l.Forget(at(back))
			d.commit(l)
			l = d.open(t, day)
			l.Listed([]Member{{ID: 11, Type: snapshot.GroupType}}, "instance", at(back))
			l.Listed(members, "instance", at(back))
			read(l, 10, at(back+2), reading{newest: append(rows("success", 6, 1, back+1), rows("success", 5, 3, 0.5)...)})
			d.commit(l)
			shownOf(l, 3, at(back+2))
			l.Served(3, 3, at(back+2))
			d.commit(l)
			if v := shownOf(l, 4, at(back+3)); v != c.want {
				t.Errorf("returned with %v, want %v", v, c.want)
			}
			wantFinished(t, l, 4)
			if len(l.unexposed) > 3 {
				t.Errorf("%d groups wait", len(l.unexposed))
			}
		})
	}
}

func TestRejoinStillAsksForTheTotal(t *testing.T) {
	l, _ := begun(t)
	read(l, 10, at(1), reading{newest: rows("success", 5, 3, 0.5), total: 3})
	l.Leave(10, at(2))
	l.Listed([]Member{{ID: 10, Type: snapshot.GroupType}}, "instance", at(3))
	if l.poll(10, at(4)).byKeyset() {
		t.Error("a runner that returned is read without its total")
	}
}

func TestAFailedBatchIsDeliveredAgain(t *testing.T) {
	l, d := begun(t)
	l.Describe(10, []string{"a"})
	read(l, 10, at(1), reading{executing: []gitlab.Job{ran(9, "running", 0.7, 0), ran(8, "running", 0.7, 0)}, newest: rows("success", 5, 3, 0.5)})
	b := l.Batch()
	read(l, 10, at(2), reading{newest: []gitlab.Job{ran(9, "failed", 0.7, 1.5), ran(4, "success", 0.1, 0.2)}, asked: map[int64]any{8: 404}})
	l.Failed(b)
	if v := typeShown(l, 1, at(2)); v != 0 || l.shownTotals != (totals{}) {
		t.Error("a failed batch is shown")
	}
	b = l.Batch()
	l.Failed(b)
	b = l.Batch()
	d.write(b)
	l.Committed(b)
	if l.Batch() != nil {
		t.Error("something is left over")
	}
	l2 := d.open(t, day)
	wantFinished(t, l2, 4)
	if !maps.Equal(l2.settled, l.settled) || len(l2.watch) != 1 || l2.watch[8].refused != 1 {
		t.Errorf("settled %v, watch %v", l2.settled, l2.watch)
	}
	if n := l2.tags["a"].live.counts[countSuccess]; n != 3 {
		t.Errorf("%d successes under the tag", n)
	}
	same(t, l, l2)
}

// A commit may be reported as failed and yet be on disk.
func TestFailedBatchThatIsOnDiskLeavesNothingOver(t *testing.T) {
	l, d := begun(t)
	read(l, 10, at(1), reading{newest: rows("success", 5, 3, 0.5)})
	b := l.Batch()
	d.write(b)
	l.Failed(b)
	read(l, 10, at(2), reading{newest: rows("success", 6, 1, 1.5)})
	d.commit(l)
	l = d.open(t, day)
	wantFinished(t, l, 4)
	l.Advance(at(26*60), at(26*60))
	l.Forget(at(26 * 60))
	if len(l.settled) != 0 || len(l.chunks) != 0 {
		t.Errorf("%d ids in %d chunks are left", len(l.settled), len(l.chunks))
	}
}

// A record that is to be deleted must not take one with it that came anew.
func TestDeletionSparesWhatReturned(t *testing.T) {
	l, d := begun(t)
	l.Tags([]string{"a"})
	l.Tags(nil)
	l.Leave(10, at(1))
	d.commit(l)
	l.Advance(at(31*24*60), at(31*24*60))
	l.Forget(at(31 * 24 * 60))
	l.Failed(l.Batch())
	l.Listed([]Member{{ID: 10, Type: snapshot.GroupType}}, "instance", at(31*24*60))
	l.Tags([]string{"a"})
	d.commit(l)
	l = d.open(t, day)
	if l.runners[10] == nil || l.tags["a"] == nil {
		t.Error("deleted what had returned")
	}
}

// An idle fleet must not write each second.
func TestNothingNewIsNothingToCommit(t *testing.T) {
	l, d := begun(t)
	read(l, 10, at(1), reading{newest: rows("success", 5, 3, 0.5)})
	d.commit(l)
	for i := range 60 * 30 {
		now := at(2 + float64(i))
		l.Advance(now, now)
		p := l.poll(10, now)
		list := rows("success", 5, 3, 0.5)
		list[0].CreatedAt = now // not the bottom: that is a mark, and is written
		p.newest(gitlab.JobsPage{Jobs: list, Next: 2, Total: 3})
		p.done(true)
		if b := l.Batch(); b != nil {
			for _, r := range b.Records {
				t.Errorf("minute %d: %q is written", i, r.Key)
			}
			l.Committed(b)
		}
	}
}

func TestForgetLeavesNothing(t *testing.T) {
	l, d := begun(t)
	read(l, 10, at(1), reading{newest: rows("success", 5, 3, 0.5)})
	read(l, 10, at(2), reading{executing: []gitlab.Job{ran(9, "running", 1.5, 0)}})
	l.Leave(10, at(3))
	month := 31.0 * 24 * 60
	l.Advance(at(month), at(month))
	l.Forget(at(month))
	if l.runners[10] == nil || len(l.LeftWithWatch()) != 1 {
		t.Fatal("a runner was forgotten whose job is still asked for")
	}
	read(l, 10, at(month), reading{asked: map[int64]any{9: ran(9, "success", 1.5, month-1)}})
	wantFinished(t, l, 4)
	l.Forget(at(month + 1))
	if len(l.runners)+len(l.left)+len(l.unexposed) != snapshot.NumRunnerTypes {
		t.Errorf("left over: %d runners, %d that left, %d groups", len(l.runners), len(l.left), len(l.unexposed))
	}
	d.commit(l)
	same(t, l, d.open(t, day))
}

func TestWalkIsWantedUntilOneIsWhole(t *testing.T) {
	l, d := begun(t)
	list := func(total int) {
		p := l.poll(10, at(5))
		p.newest(gitlab.JobsPage{Jobs: rows("success", 5, 1, 1), Total: total, Next: 2})
		p.done(true)
	}
	if l.WalkWanted(10) || l.WalkWanted(77) {
		t.Error("wanted of the start")
	}
	list(7)
	list(8)
	if !l.WalkWanted(10) {
		t.Error("the list grew by more than was met, and no walk is wanted")
	}
	l.walk(10, at(6)).page(gitlab.JobsPage{Jobs: rows("success", 5, 1, 1), Cursor: "c", Total: -1})
	list(8)
	d.commit(l)
	l = d.open(t, day)
	if !l.WalkWanted(10) {
		t.Error("a walk is under way, and is not wanted")
	}
	l.walk(10, at(7)).page(gitlab.JobsPage{Total: -1})
	if l.WalkWanted(10) {
		t.Error("it is whole, and another is wanted")
	}
}

// A runner that appeared while the exporter was away has news on many pages.
func TestTheFirstReadingGoesOnWhileThereIsNews(t *testing.T) {
	l, _ := begun(t)
	p := l.poll(10, at(30))
	if !p.newest(gitlab.JobsPage{Jobs: rows("success", 300, 100, 29), Next: 2, Total: -1}) {
		t.Error("it stops at the first page")
	}
	if p.newest(gitlab.JobsPage{Jobs: rows("success", 200, 100, -1), Next: 3, Total: -1}) {
		t.Error("it reads through the history")
	}
}

// A poll that had to reach far back would never be whole where requests fail.
func TestAPollLeavesTheRestToAWalk(t *testing.T) {
	l, _ := begun(t)
	read(l, 10, at(1), reading{newest: rows("success", 100, 1, 0.5)})
	p := l.poll(10, at(300))
	high, pages := int64(100_000), 1
	for p.newest(gitlab.JobsPage{Jobs: rows("success", high, 100, 299), Next: 2, Total: -1}) {
		high -= 100
		pages++
	}
	if pages != pollPages {
		t.Errorf("%d pages", pages)
	}
	if l.WalkWanted(10) || !p.done(true) || !l.WalkWanted(10) {
		t.Error("a walk must be wanted, once it is known to be")
	}
	if l.runners[10].high != 100_000 || !l.Deep(10).Equal(at(1)) {
		t.Errorf("the mark is at %d, deep %v", l.runners[10].high, l.Deep(10))
	}
	wantFinished(t, l, 1001)
	// What suggests more below the mark ends there too, and leaves no gap.
	l.runners[10].hinted = false
	p = l.poll(10, at(301))
	for high, pages = 50_000, 1; p.newest(gitlab.JobsPage{Jobs: rows("success", high, 1, 299), Next: 2, Total: -1}); high-- {
		pages++
	}
	if pages != pollPages || p.done(true) || l.WalkWanted(10) {
		t.Errorf("%d pages, or a walk is wanted for nothing", pages)
	}
	w := l.walk(10, at(301))
	if !w.page(gitlab.JobsPage{Jobs: rows("success", 99_000, 100, 299), Total: -1}) {
		t.Error("the walk does not end")
	}
	wantFinished(t, l, 1111)
	if l.WalkWanted(10) {
		t.Error("the walk is whole, and another is wanted")
	}
}

// The running list is left out where the newest rows show as many jobs as the
// list of runners counted, at the time that it counted, and no watched one is missing.
func TestNewestRowsExplainTheNumberOfTheList(t *testing.T) {
	l, _ := begun(t)
	read(l, 10, at(1), reading{newest: []gitlab.Job{ran(8, "running", 0.6, 0), ran(7, "running", 0.5, 0)}})
	for _, c := range []struct {
		name   string
		newest []gitlab.Job
		listed int // at minute 2
		want   bool
	}{
		{"both are shown", []gitlab.Job{ran(8, "running", 0.6, 0), ran(7, "running", 0.5, 0)}, 2, true},
		{"a third one executes somewhere", []gitlab.Job{ran(8, "running", 0.6, 0), ran(7, "running", 0.5, 0)}, 3, false},
		{"one began since, a third one executes somewhere", []gitlab.Job{ran(9, "running", 2.5, 0), ran(8, "running", 0.6, 0), ran(7, "running", 0.5, 0)}, 3, false},
		{"one is missing, another is new", []gitlab.Job{ran(9, "running", 0.9, 0), ran(7, "running", 0.5, 0)}, 2, false},
		{"one ended before the list counted", []gitlab.Job{ran(9, "running", 0.9, 0), ran(8, "success", 0.6, 1.9), ran(7, "running", 0.5, 0)}, 2, true},
		{"one ended since", []gitlab.Job{ran(9, "failed", 0.9, 2.1), ran(7, "running", 0.5, 0)}, 2, true},
		{"all ended", []gitlab.Job{ran(7, "canceled", 0.5, 1.1)}, 0, true},
	} {
		p := l.poll(10, at(3))
		if !p.expects(at(2)) {
			t.Errorf("%s: no rows could explain it", c.name)
		}
		p.newest(gitlab.JobsPage{Jobs: c.newest})
		if got := p.explains(c.listed); got != c.want {
			t.Errorf("%s: %t, %d watched", c.name, got, l.Watched(10))
		}
		p.done(true)
	}
	// A job with an old id: it does not stand among the newest rows.
	read(l, 10, at(4), reading{newest: []gitlab.Job{ran(20, "success", 3.5, 3.7)}})
	read(l, 10, at(5), reading{executing: []gitlab.Job{ran(12, "running", 4.5, 0)}, newest: []gitlab.Job{ran(20, "success", 3.5, 3.7)}})
	if l.poll(10, at(6)).expects(at(5.5)) {
		t.Error("the newest rows are to explain a job that is not among them")
	}
}

// A job that is met after the list's total was read is not in it: the next total
// holds nothing unknown.
func TestJobMetAfterTheTotalWantsNoWalk(t *testing.T) {
	l, _ := begun(t)
	read(l, 10, at(1), reading{newest: []gitlab.Job{ran(7, "success", 0.5, 0.7)}, total: 1})
	for i, total := range []int{1, 2} {
		p := l.poll(10, l.Advance(at(2+float64(i)), at(2+float64(i))))
		rows := []gitlab.Job{ran(7, "success", 0.5, 0.7)}
		if i == 1 {
			rows = append([]gitlab.Job{ran(8, "running", 2, 0)}, rows...)
		}
		p.newest(gitlab.JobsPage{Jobs: rows, Total: total, Next: 2}) // not to the end
		if i == 0 {
			p.executing([]gitlab.Job{ran(8, "running", 2, 0)})
		}
		if p.done(true) || l.WalkWanted(10) {
			t.Errorf("poll %d: a walk is wanted", i)
		}
	}
}

// A few rows are read where a few will do: not at first, not after many, and
// not where a full page may spare a walk.
func TestFewRowsAreReadWhereAFewWillDo(t *testing.T) {
	l, _ := begun(t)
	rows := func(minutes float64) int { return l.poll(10, at(minutes)).rows(time.Hour) }
	if got := rows(1); got != 0 {
		t.Errorf("first: %d", got)
	}
	read(l, 10, at(1), reading{newest: []gitlab.Job{ran(7, "success", 0.5, 0.7)}}) // to the end of the list: a walk
	if got := rows(2); got != fewRows {
		t.Errorf("after one job: %d", got)
	}
	if got := rows(40); got != 0 {
		t.Errorf("the last walk is 39 minutes old: %d", got)
	}
	var many []gitlab.Job
	for id := range int64(fewRows/2 + 1) {
		many = append(many, ran(100-id, "success", 1.5, 1.7))
	}
	read(l, 10, at(3), reading{newest: many})
	if got := rows(4); got != 0 {
		t.Errorf("after %d jobs in a poll: %d", len(many), got)
	}
	read(l, 10, at(4), reading{newest: many})
	if got := rows(5); got != fewRows {
		t.Errorf("after a poll without a new one: %d", got)
	}
	for i := range many {
		many[i] = ran(200-int64(i), "running", 4.5, 0)
	}
	read(l, 10, at(5), reading{executing: many, newest: many})
	read(l, 10, at(6), reading{executing: many, newest: many})
	if got := rows(7); got != 0 {
		t.Errorf("while %d execute: %d", len(many), got)
	}
}
