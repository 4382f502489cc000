package plan

import (
	"time"

	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Item is one reading: of what class, of which runner, when it is due and by
// when it should have been done.
type Item struct {
	Class    budget.Class
	ID       int64
	Due      time.Time
	Deadline time.Time
}

// Schedule holds the readings that are due or will be, and returns which comes
// next. It is pure (the clock is an argument) and not safe for concurrent use.
// A runner has at most one reading in each stage. The listing is not in here:
// there is one, and it never waits for a turn.
//
// Setting, removing and taking cost O(log n); 100,000 runners in three stages
// take some 30 MB.
type Schedule struct {
	origin time.Time
	items  []entry
	free   []int32
	slots  map[int64]*[snapshot.NumStages]int32 // by runner; index into items, plus one
	stages [snapshot.NumStages]stageHeaps
	turns  budget.Shares[snapshot.Stage]
}

// entry is small on purpose. Times are offsets from origin, which keeps them
// right over a jump of the wall clock.
type entry struct {
	id            int64
	due, deadline time.Duration
	pos           [2]int32 // in waiting or late, and in the class's heap
	class         budget.Class
	ready         bool // known to be due
}

// stageHeaps are the orders in which a stage's entries are wanted. An entry is
// in waiting until it is due, then in late and in its class's heap.
type stageHeaps struct {
	waiting entryHeap                    // by due
	late    entryHeap                    // by due: how late the stage is
	urgent  [budget.NumClasses]entryHeap // by deadline
	turns   budget.Shares[budget.Class]
}

// NewSchedule makes an empty schedule. now should come from time.Now, so that
// later times are compared with it by the monotonic clock.
func NewSchedule(now time.Time) *Schedule {
	s := &Schedule{origin: now, slots: map[int64]*[snapshot.NumStages]int32{}}
	for i := range s.stages {
		st := &s.stages[i]
		st.late.at, st.waiting.at = 0, 0
		for c := range st.urgent {
			st.urgent[c].at = 1
		}
	}
	return s
}

// Set inserts a reading, or moves the one that the runner has in the class's
// stage. It panics on Listing and on a class that does not exist.
func (s *Schedule) Set(c budget.Class, id int64, due, deadline time.Time) {
	if c == budget.Listing || c >= budget.NumClasses {
		panic("plan: not a class of a schedule")
	}
	stage := c.Stage()
	s.RemoveStage(stage, id)
	slot := s.slots[id]
	if slot == nil {
		slot = new([snapshot.NumStages]int32)
		s.slots[id] = slot
	}
	var i int32
	if n := len(s.free); n > 0 {
		i, s.free = s.free[n-1], s.free[:n-1]
	} else {
		i = int32(len(s.items)) //nolint:gosec // memory ends long before 2^31 readings
		s.items = append(s.items, entry{})
	}
	slot[stage] = i + 1
	s.items[i] = entry{id: id, class: c, due: s.offset(due), deadline: s.offset(deadline)}
	s.stages[stage].waiting.push(s.items, i)
}

// Due is when the reading that a runner has in a stage is due; false: it has none.
func (s *Schedule) Due(stage snapshot.Stage, id int64) (time.Time, bool) {
	if slot := s.slots[id]; slot != nil && slot[stage] > 0 {
		return s.origin.Add(s.items[slot[stage]-1].due), true
	}
	return time.Time{}, false
}

// offset bounds a time to a century around origin, so that differences of
// offsets cannot overflow, the zero time's included.
func (s *Schedule) offset(t time.Time) time.Duration {
	const century = 100 * 365 * 24 * time.Hour
	return max(min(t.Sub(s.origin), century), -century)
}

// Remove forgets a runner.
func (s *Schedule) Remove(id int64) {
	for st := range snapshot.Stage(snapshot.NumStages) {
		s.RemoveStage(st, id)
	}
}

// RemoveStage forgets a runner's reading in one stage.
func (s *Schedule) RemoveStage(st snapshot.Stage, id int64) {
	if slot := s.slots[id]; slot != nil && slot[st] > 0 {
		s.take(slot[st] - 1)
	}
}

// take removes an entry and returns what it was.
func (s *Schedule) take(i int32) Item {
	e := s.items[i]
	stage := e.class.Stage()
	st := &s.stages[stage]
	if e.ready {
		st.late.remove(s.items, e.pos[0])
		st.urgent[e.class].remove(s.items, e.pos[1])
	} else {
		st.waiting.remove(s.items, e.pos[0])
	}
	slot := s.slots[e.id]
	slot[stage] = 0
	if *slot == ([snapshot.NumStages]int32{}) {
		delete(s.slots, e.id)
	}
	s.free = append(s.free, i)
	return Item{Class: e.class, ID: e.id, Due: s.origin.Add(e.due), Deadline: s.origin.Add(e.deadline)}
}

// Next removes and returns the most urgent reading that is due at now; false
// if none is. First comes a walk past its deadline: late numbers stretch, lost
// jobs do not come back. Then by class, and in a class by deadline: where the
// budget is too small the readings of a class are late by the same, behind all
// of a more urgent one. So that none starves, each stage with due work gets at
// least a tenth of the turns, and each class a fifth of its stage's.
func (s *Schedule) Next(now time.Time) (Item, bool) {
	t := s.offset(now)
	var with [snapshot.NumStages]snapshot.Stage
	n := 0
	best := int32(-1)
	for stage := range snapshot.Stage(snapshot.NumStages) {
		s.ripen(stage, t)
		if i := s.front(stage); i >= 0 {
			with[n] = stage
			n++
			if best < 0 || s.before(i, best, t) {
				best = i
			}
		}
	}
	if best < 0 {
		return Item{}, false
	}
	stage := s.items[best].class.Stage()
	if n > 1 {
		stage = s.turns.Pick(with[:n], stage, budget.Tenth)
	}
	return s.take(s.turn(stage)), true
}

// First is Next for as long as the first picture of a fleet is not whole: it
// removes and returns the details of a new runner, before machines and jobs
// and without a share for them; false if none are due. Walks past their
// deadline keep their place before all, and leave the details their tenth.
func (s *Schedule) First(now time.Time) (Item, bool) {
	t := s.offset(now)
	s.ripen(snapshot.StageDetails, t)
	s.ripen(snapshot.StageReconcile, t)
	details := s.stages[snapshot.StageDetails].urgent[budget.NewDetails].top()
	walk := s.stages[snapshot.StageReconcile].urgent[budget.Walk].top()
	if walk >= 0 && !s.items[walk].lost(t) {
		walk = -1
	}
	switch {
	case details < 0 && walk < 0:
		return Item{}, false
	case details < 0:
		return s.take(walk), true
	case walk < 0:
		return s.take(details), true
	case s.turns.Pick([]snapshot.Stage{snapshot.StageDetails, snapshot.StageReconcile}, snapshot.StageReconcile, budget.Tenth) == snapshot.StageReconcile:
		return s.take(walk), true
	default:
		return s.take(details), true
	}
}

// turn is the entry whose turn it is in a stage that has due ones.
func (s *Schedule) turn(stage snapshot.Stage) int32 {
	st := &s.stages[stage]
	var with [budget.NumClasses]budget.Class
	n := 0
	for c := range st.urgent {
		if st.urgent[c].top() >= 0 {
			with[n] = budget.Class(c)
			n++
		}
	}
	return st.urgent[st.turns.Pick(with[:n], with[0], budget.Fifth)].top()
}

// ripen moves what has become due.
func (s *Schedule) ripen(stage snapshot.Stage, t time.Duration) {
	st := &s.stages[stage]
	for {
		i := st.waiting.top()
		if i < 0 || s.items[i].due > t {
			return
		}
		st.waiting.remove(s.items, 0)
		s.items[i].ready = true
		st.late.push(s.items, i)
		st.urgent[s.items[i].class].push(s.items, i)
	}
}

// front is the most urgent due entry of a stage; -1: none.
func (s *Schedule) front(stage snapshot.Stage) int32 {
	for c := range s.stages[stage].urgent {
		if i := s.stages[stage].urgent[c].top(); i >= 0 {
			return i
		}
	}
	return -1
}

// before is the order of Next between the fronts of two stages.
func (s *Schedule) before(i, j int32, t time.Duration) bool {
	a, b := &s.items[i], &s.items[j]
	if la, lb := a.lost(t), b.lost(t); la != lb {
		return la
	}
	return a.class < b.class
}

// lost reports a walk past its deadline: what it would find may be gone soon.
func (e *entry) lost(t time.Duration) bool { return e.class == budget.Walk && e.deadline < t }

// Wake is the earliest time after now at which a reading becomes due; false if
// none will. What is due already is Next's.
func (s *Schedule) Wake(now time.Time) (time.Time, bool) {
	t := s.offset(now)
	at, ok := time.Duration(0), false
	for stage := range snapshot.Stage(snapshot.NumStages) {
		s.ripen(stage, t)
		if i := s.stages[stage].waiting.top(); i >= 0 && (!ok || s.items[i].due < at) {
			at, ok = s.items[i].due, true
		}
	}
	if !ok {
		return time.Time{}, false
	}
	return s.origin.Add(at), true
}

// Lag is how late the most overdue reading of a stage is; 0: on time.
func (s *Schedule) Lag(stage snapshot.Stage, now time.Time) time.Duration {
	t, lag := s.offset(now), time.Duration(0)
	for _, h := range []*entryHeap{&s.stages[stage].waiting, &s.stages[stage].late} {
		if i := h.top(); i >= 0 {
			lag = max(lag, t-s.items[i].due)
		}
	}
	return lag
}

// less orders by due (at 0) or by deadline (at 1), then so that the order is total.
func (e *entry) less(o *entry, at uint8) bool {
	x, y := e.due, o.due
	if at == 1 {
		x, y = e.deadline, o.deadline
	}
	if x != y {
		return x < y
	}
	if e.due != o.due {
		return e.due < o.due
	}
	if e.id != o.id {
		return e.id < o.id
	}
	return e.class < o.class
}

// entryHeap is a binary heap of indices that keeps each entry's place in it, so
// that one can be taken from the middle. container/heap would box each index.
type entryHeap struct {
	order []int32
	at    uint8 // which of entry.pos is ours, and which key
}

func (h *entryHeap) top() int32 {
	if len(h.order) == 0 {
		return -1
	}
	return h.order[0]
}

func (h *entryHeap) push(items []entry, i int32) {
	h.order = append(h.order, i)
	h.up(items, len(h.order)-1)
}

func (h *entryHeap) remove(items []entry, pos int32) {
	n := len(h.order) - 1
	moved := h.order[n]
	h.order = h.order[:n]
	if int(pos) == n {
		return
	}
	h.order[pos] = moved
	h.down(items, int(pos))
	h.up(items, int(items[moved].pos[h.at]))
}

func (h *entryHeap) up(items []entry, p int) {
	i := h.order[p]
	for p > 0 {
		parent := (p - 1) / 2
		if !items[i].less(&items[h.order[parent]], h.at) {
			break
		}
		h.put(items, p, h.order[parent])
		p = parent
	}
	h.put(items, p, i)
}

func (h *entryHeap) down(items []entry, p int) {
	i := h.order[p]
	for {
		child := 2*p + 1
		if child >= len(h.order) {
			break
		}
		if r := child + 1; r < len(h.order) && items[h.order[r]].less(&items[h.order[child]], h.at) {
			child = r
		}
		if !items[h.order[child]].less(&items[i], h.at) {
			break
		}
		h.put(items, p, h.order[child])
		p = child
	}
	h.put(items, p, i)
}

func (h *entryHeap) put(items []entry, p int, i int32) {
	h.order[p] = i
	items[i].pos[h.at] = int32(p) //nolint:gosec // as above
}
