package plan

import (
	"cmp"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Len is how many readings a stage holds.
func (s *Schedule) Len(stage snapshot.Stage) int {
	st := &s.stages[stage]
	return len(st.waiting.order) + len(st.late.order)
}

// DueLen is how many of them are due at now.
func (s *Schedule) DueLen(stage snapshot.Stage, now time.Time) int {
	s.ripen(stage, s.offset(now))
	return len(s.stages[stage].late.order)
}

// model is the Schedule as it is documented, with a plain list.
type model struct {
	items []Item
	turns budget.Shares[snapshot.Stage]
	class [snapshot.NumStages]budget.Shares[budget.Class]
}

func (m *model) set(it Item) {
	m.remove(func(o Item) bool { return o.ID == it.ID && o.Class.Stage() == it.Class.Stage() })
	m.items = append(m.items, it)
}

func (m *model) remove(f func(Item) bool) { m.items = slices.DeleteFunc(m.items, f) }

func (m *model) due(st snapshot.Stage, now time.Time) (due []Item) {
	for _, it := range m.items {
		if it.Class.Stage() == st && !it.Due.After(now) {
			due = append(due, it)
		}
	}
	return due
}

func (m *model) lag(st snapshot.Stage, now time.Time) (lag time.Duration) {
	for _, it := range m.due(st, now) {
		lag = max(lag, now.Sub(it.Due))
	}
	return lag
}

func (m *model) wake(now time.Time) (at time.Time, ok bool) {
	for _, it := range m.items {
		if it.Due.After(now) && (!ok || it.Due.Before(at)) {
			at, ok = it.Due, true
		}
	}
	return at, ok
}

func (m *model) next(now time.Time) (Item, bool) {
	urgent := func(a, b Item) int {
		return cmp.Or(a.Deadline.Compare(b.Deadline), a.Due.Compare(b.Due), cmp.Compare(a.ID, b.ID))
	}
	var stages []snapshot.Stage
	var prefer budget.Class
	late := false
	for st := range snapshot.Stage(snapshot.NumStages) {
		due := m.due(st, now)
		if len(due) == 0 {
			continue
		}
		first := slices.MinFunc(due, func(a, b Item) int { return cmp.Compare(a.Class, b.Class) }).Class
		if len(stages) == 0 || first < prefer {
			prefer = first
		}
		stages = append(stages, st)
		late = late || st == snapshot.StageReconcile && slices.MinFunc(due, urgent).Deadline.Before(now)
	}
	if len(stages) == 0 {
		return Item{}, false
	}
	stage := prefer.Stage()
	if late {
		stage = snapshot.StageReconcile
	}
	if len(stages) > 1 {
		stage = m.turns.Pick(stages, stage, budget.Tenth)
	}
	var classes []budget.Class
	due := m.due(stage, now)
	for c := range budget.NumClasses {
		if slices.ContainsFunc(due, func(it Item) bool { return it.Class == c }) {
			classes = append(classes, c)
		}
	}
	class := m.class[stage].Pick(classes, classes[0], budget.Fifth)
	it := slices.MinFunc(slices.DeleteFunc(due, func(it Item) bool { return it.Class != class }), urgent)
	m.remove(func(o Item) bool { return o == it })
	return it, true
}

// first is next as long as the first picture is not whole.
func (m *model) first(now time.Time) (Item, bool) {
	urgent := func(a, b Item) int {
		return cmp.Or(a.Deadline.Compare(b.Deadline), a.Due.Compare(b.Due), cmp.Compare(a.ID, b.ID))
	}
	details := slices.DeleteFunc(m.due(snapshot.StageDetails, now), func(it Item) bool { return it.Class != budget.NewDetails })
	walks := slices.DeleteFunc(m.due(snapshot.StageReconcile, now), func(it Item) bool { return !it.Deadline.Before(now) })
	from := details
	switch {
	case len(details)+len(walks) == 0:
		return Item{}, false
	case len(details) == 0:
		from = walks
	case len(walks) > 0 && m.turns.Pick([]snapshot.Stage{snapshot.StageDetails, snapshot.StageReconcile}, snapshot.StageReconcile, budget.Tenth) == snapshot.StageReconcile:
		from = walks
	}
	it := slices.MinFunc(from, urgent)
	m.remove(func(o Item) bool { return o == it })
	return it, true
}

func same(a, b Item) bool {
	return a.Class == b.Class && a.ID == b.ID && a.Due.Equal(b.Due) && a.Deadline.Equal(b.Deadline)
}

// drive runs the same steps on Schedule and model and compares all results.
func drive(t *testing.T, step func() (byte, bool)) {
	t.Helper()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s, m := NewSchedule(now), &model{}
	for {
		op, ok := step()
		if !ok {
			return
		}
		id, _ := step()
		a, _ := step()
		b, _ := step()
		switch op % 8 {
		case 0, 1, 2:
			due := now.Add(time.Duration(int(a)-64) * time.Second)
			it := Item{Class: 1 + budget.Class(op/8)%(budget.NumClasses-1), ID: int64(id % 32), Due: due, Deadline: due.Add(time.Duration(b) * time.Second)}
			s.Set(it.Class, it.ID, it.Due, it.Deadline)
			m.set(it)
		case 3:
			s.Remove(int64(id % 32))
			m.remove(func(o Item) bool { return o.ID == int64(id%32) })
		case 4:
			st := snapshot.Stage(a) % snapshot.NumStages
			s.RemoveStage(st, int64(id%32))
			m.remove(func(o Item) bool { return o.ID == int64(id%32) && o.Class.Stage() == st })
		case 5:
			now = now.Add(time.Duration(a) * time.Second / 4)
		case 6:
			got, ok := s.First(now)
			want, wantOK := m.first(now)
			if ok != wantOK || !same(got, want) {
				t.Fatalf("First = %+v %v, want %+v %v", got, ok, want, wantOK)
			}
		default:
			got, ok := s.Next(now)
			want, wantOK := m.next(now)
			if ok != wantOK || !same(got, want) {
				t.Fatalf("Next = %+v %v, want %+v %v", got, ok, want, wantOK)
			}
		}
		for st := range snapshot.Stage(snapshot.NumStages) {
			at, ok := s.Due(st, int64(id%32))
			i := slices.IndexFunc(m.items, func(o Item) bool { return o.ID == int64(id%32) && o.Class.Stage() == st })
			if ok != (i >= 0) || ok && !at.Equal(m.items[i].Due) {
				t.Fatalf("Due(%d, %d) = %v %v", st, id%32, at, ok)
			}
			if got, want := s.Lag(st, now), m.lag(st, now); got != want {
				t.Fatalf("Lag(%d) = %v, want %v", st, got, want)
			}
			n := 0
			for _, it := range m.items {
				if it.Class.Stage() == st {
					n++
				}
			}
			if s.Len(st) != n {
				t.Fatalf("Len(%d) = %d, want %d", st, s.Len(st), n)
			}
			if b%3 == 0 { // not always: it must not matter whether somebody looked
				if got, want := s.DueLen(st, now), len(m.due(st, now)); got != want {
					t.Fatalf("DueLen(%d) = %d, want %d", st, got, want)
				}
			}
		}
		if b%2 == 0 {
			at, ok := s.Wake(now)
			want, wantOK := m.wake(now)
			if ok != wantOK || !at.Equal(want) {
				t.Fatalf("Wake = %v %v, want %v %v", at, ok, want, wantOK)
			}
		}
		if n := len(s.items) - len(s.free); n != len(m.items) {
			t.Fatalf("%d entries in use, want %d", n, len(m.items))
		}
	}
}

func TestScheduleEqualsItsModel(t *testing.T) {
	for seed := range byte(20) {
		var b [4 * 2000]byte
		_, _ = rand.NewChaCha8([32]byte{seed}).Read(b[:])
		left := b[:]
		drive(t, func() (byte, bool) {
			if len(left) == 0 {
				return 0, false
			}
			v := left[0]
			left = left[1:]
			return v, true
		})
	}
}

func FuzzSchedule(f *testing.F) {
	f.Add([]byte{0, 1, 0, 10, 8, 1, 70, 3, 6, 0, 0, 0, 5, 0, 255, 0, 6, 0, 0, 0})
	f.Add([]byte{41, 1, 0, 0, 17, 2, 0, 0, 6, 0, 0, 0, 3, 2, 0, 2, 4, 1, 3, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4000 {
			return
		}
		drive(t, func() (byte, bool) {
			if len(data) == 0 {
				return 0, false
			}
			b := data[0]
			data = data[1:]
			return b, true
		})
	})
}

func TestScheduleTakesUrgentClassesFirst(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := NewSchedule(now)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	soon := now.Add(time.Minute)
	s.Set(budget.Walk, 1, ago(time.Hour), ago(time.Second)) // past its deadline
	s.Set(budget.Details, 2, ago(time.Hour), ago(time.Minute))
	s.Set(budget.IdleJobs, 3, ago(time.Hour), ago(2*time.Minute))
	s.Set(budget.Walk, 4, ago(2*time.Hour), soon)
	s.Set(budget.Details, 5, ago(time.Hour), soon)
	s.Set(budget.IdleJobs, 6, ago(time.Hour), soon)
	s.Set(budget.ActiveDetails, 7, ago(time.Second), soon.Add(time.Hour))
	s.Set(budget.ActiveJobs, 8, ago(time.Second), soon.Add(time.Hour))
	s.Set(budget.NewDetails, 9, now, soon.Add(time.Hour))
	s.Set(budget.ActiveJobs, 10, now.Add(1), now) // not yet due
	s.Set(budget.IdleJobs, 11, ago(0), soon)
	s.Set(budget.ActiveJobs, 11, now.Add(time.Second), soon) // moved, out of the idle ones
	if lag := s.Lag(snapshot.StageReconcile, now); lag != 2*time.Hour {
		t.Errorf("lag of the walks: %v", lag)
	}
	for _, want := range []int64{1, 9, 8, 7, 3, 6, 2, 5, 4} {
		it, ok := s.Next(now)
		if !ok || it.ID != want {
			t.Fatalf("Next = %d %v, want %d", it.ID, ok, want)
		}
	}
	if it, ok := s.Next(now); ok {
		t.Fatalf("nothing is due, got %+v", it)
	}
	if at, ok := s.Wake(now); !ok || at.Sub(now) != 1 {
		t.Errorf("Wake = %v %v", at, ok)
	}
	if n := s.Len(snapshot.StageJobs); n != 2 {
		t.Errorf("%d jobs left, want 2", n)
	}
}

// Before the first picture is whole nothing has a share beside the details that
// it waits for, but walks past their deadline, whose jobs would be lost.
func TestScheduleSharesNothingBeforeTheFirstPicture(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := NewSchedule(now)
	const runners = 200
	for id := range int64(runners) {
		s.Set(budget.NewDetails, id, now, now.Add(time.Minute))
		s.Set(budget.ActiveJobs, id, now, now.Add(-time.Hour))
		s.Set(budget.Walk, id, now, now.Add(time.Hour))
		s.Set(budget.NewMachines, runners+id, now, now.Add(-time.Hour))
	}
	s.Set(budget.NewDetails, 1000, now.Add(time.Second), now) // a retry that is not due yet
	for i := range runners {
		if it, ok := s.First(now); !ok || it.Class != budget.NewDetails {
			t.Fatalf("reading %d: %+v %v", i, it, ok)
		}
	}
	if it, ok := s.First(now); ok {
		t.Errorf("%+v although no details are due", it)
	}
	if it, ok := s.Next(now); !ok || it.Class != budget.ActiveJobs {
		t.Errorf("behind them: %+v %v", it, ok)
	}
	now = now.Add(2 * time.Hour) // the walks are past their deadlines
	for id := range int64(runners) {
		s.Set(budget.NewDetails, id, now, now.Add(time.Minute))
	}
	got := map[budget.Class]int{}
	for range 100 {
		it, _ := s.First(now)
		got[it.Class]++
	}
	if got[budget.Walk] < 85 || got[budget.NewDetails] < 10 || got[budget.Walk]+got[budget.NewDetails] != 100 {
		t.Errorf("of a hundred readings: %v", got)
	}
}

// The zero time must not overflow into "not yet due".
func TestScheduleTakesTheZeroTimeForDue(t *testing.T) {
	now := time.Now()
	s := NewSchedule(now)
	s.Set(budget.IdleJobs, 1, time.Time{}, time.Time{})
	if s.Lag(snapshot.StageJobs, now) <= 0 {
		t.Error("not late")
	}
	if _, ok := s.Next(now); !ok {
		t.Error("not due")
	}
}

// A budget a tenth of the need: in each class every runner's reading is late
// by the same, the more urgent class is read more often, and each stage and
// each class goes on.
func TestScheduleStretchesEvenly(t *testing.T) {
	const (
		runners = 10_000
		pace    = time.Minute / 600
		hours   = 60
	)
	type group struct {
		interval, slack time.Duration
		last            map[int64]time.Time
		least, most     time.Duration
		picks           int
	}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	rng := seeded(1)
	s := NewSchedule(start)
	groups := map[budget.Class]*group{
		budget.ActiveDetails: {interval: 5 * time.Minute, slack: 5 * time.Minute},
		budget.Details:       {interval: 15 * time.Minute, slack: 15 * time.Minute},
		budget.ActiveJobs:    {interval: time.Minute, slack: time.Minute},
		budget.IdleJobs:      {interval: 5 * time.Minute, slack: 5 * time.Minute},
		budget.Walk:          {interval: time.Hour, slack: 5 * time.Hour},
	}
	for class, v := range groups {
		v.last, v.least = map[int64]time.Time{}, 1<<62
		for id := range int64(runners) {
			busy := id%10 == 0
			if class != budget.Walk && busy != (class == budget.ActiveDetails || class == budget.ActiveJobs) {
				continue
			}
			due := start.Add(time.Duration(rng.Int64N(int64(v.interval))))
			s.Set(class, id, due, due.Add(v.slack))
			v.last[id] = start
		}
	}
	total, warm := 0, start.Add(30*time.Hour)
	stages := map[snapshot.Stage]int{}
	now := start
	for ; now.Sub(start) < hours*time.Hour; now = now.Add(pace) {
		it, ok := s.Next(now)
		if !ok {
			continue
		}
		v := groups[it.Class]
		if v.last[it.ID].After(warm) {
			gap := now.Sub(v.last[it.ID])
			v.least, v.most = min(v.least, gap), max(v.most, gap)
		}
		v.last[it.ID] = now
		v.picks++
		stages[it.Class.Stage()]++
		total++
		due := now.Add(v.interval)
		s.Set(it.Class, it.ID, due, due.Add(v.slack))
	}
	for class, v := range groups {
		t.Logf("class %d: %4.1f %% of the turns, between two readings of a runner %v to %v", class,
			100*float64(v.picks)/float64(total), v.least.Round(time.Second), v.most.Round(time.Second))
		if n := stages[class.Stage()]; v.picks*budget.Fifth < n-n/100 || n*budget.Tenth < total-total/100 {
			t.Errorf("class %d got %d of the %d turns of its stage, of %d in all", class, v.picks, n, total)
		}
		for id, last := range v.last {
			if now.Sub(last) > v.most*11/10 {
				t.Errorf("class %d: runner %d starves since %v", class, id, now.Sub(last))
				break
			}
		}
		if float64(v.most) > 1.25*float64(v.least) {
			t.Errorf("class %d: uneven, %v to %v", class, v.least, v.most)
		}
	}
	if groups[budget.ActiveJobs].most > groups[budget.IdleJobs].least/4 || groups[budget.ActiveDetails].most > groups[budget.Details].least/4 {
		t.Error("what executes is not read more often")
	}
}

func BenchmarkSchedule(b *testing.B) {
	const runners = 100_000
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	now := time.Now()
	s := NewSchedule(now)
	rng := seeded(1)
	for id := range int64(runners) {
		for _, c := range []budget.Class{budget.Details, budget.IdleJobs, budget.Walk} {
			due := now.Add(time.Duration(rng.Int64N(int64(time.Hour))))
			s.Set(c, id, due, due.Add(time.Hour))
		}
	}
	now = now.Add(90 * time.Minute)
	var after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportAllocs()
	for b.Loop() {
		it, ok := s.Next(now)
		if !ok {
			b.Fatal("nothing due")
		}
		now = now.Add(10 * time.Millisecond)
		_ = s.Lag(it.Class.Stage(), now)
		s.Set(it.Class, it.ID, now.Add(time.Minute), now.Add(time.Hour))
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB")
}
