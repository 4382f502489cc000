package health

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// walker drives a Fleet with a random life of some runners.
type walker struct {
	rnd    *rand.Rand
	f      *Fleet
	disk   map[string][]byte
	now    time.Time
	nextID int64
	job    int64
	lives  map[int64]*life
}

type life struct {
	id      int64
	group   uint8
	contact time.Time
	dead    bool
	paused  bool
	jobs    []gitlab.Job
	failed  bool // this minute had nothing of it but a failed reading
}

func newWalker(seed uint64) *walker {
	w := &walker{rnd: rand.New(rand.NewPCG(seed, 1)), f: New(), disk: map[string][]byte{}, now: time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC), lives: map[int64]*life{}}
	w.f.SetDense(seed%2 == 0)
	for range 14 {
		w.join()
	}
	return w
}

func (w *walker) join() {
	w.nextID++
	w.lives[w.nextID] = &life{id: w.nextID, group: uint8(w.nextID % 3), contact: w.now}
}

func (w *walker) p(p float64) bool { return w.rnd.Float64() < p }

func (w *walker) traits(l *life) Traits {
	return Traits{Type: snapshot.RunnerType(l.group), Tags: []string{fmt.Sprint("g", l.group)}, MaximumTimeout: time.Hour}
}

// minute passes; it returns what Judge did.
func (w *walker) minute() ([]Change, *Picture) {
	w.now = w.now.Add(time.Minute)
	if w.p(0.01) {
		w.now = w.now.Add(time.Duration(w.rnd.IntN(90)) * time.Minute)
	}
	if w.p(0.02) {
		w.f.ListingFailed(w.now)
		for _, l := range w.lives {
			l.failed = true // nothing was read
		}
		return w.f.Judge(w.now)
	}
	w.f.ListingDone(w.now)
	seen := w.p(0.2)
	lost := w.p(0.002)
	for id := int64(1); id <= w.nextID; id++ {
		if l := w.lives[id]; l != nil {
			w.live(l, seen, lost)
		}
	}
	if w.p(0.01) {
		w.join()
	}
	return w.f.Judge(w.now)
}

func (w *walker) live(l *life, seen, lost bool) {
	if w.p(0.0005) {
		w.f.Remove(l.id)
		delete(w.lives, l.id)
		return
	}
	if w.p(0.002) {
		l.dead = !l.dead
	}
	l.failed = w.f.runners[l.id] != nil && w.p(0.2)
	if l.failed {
		w.f.ReadFailed(l.id)
		return
	}
	if w.p(0.002) {
		l.paused = !l.paused
	}
	var ended []gitlab.Job
	if !l.dead {
		if seen && w.p(0.95) || w.p(0.01) || len(l.jobs) > 0 {
			l.contact = w.now.Add(-time.Duration(w.rnd.IntN(50)) * time.Second)
		}
		ended = w.work(l)
	}
	shown := l.contact
	if lost {
		shown = shown.Add(-time.Duration(w.rnd.IntN(55)) * time.Minute)
	}
	if w.p(0.001) {
		shown = w.now.Add(time.Hour) // one bad value
	}
	w.f.Listed(Row{ID: l.id, Type: snapshot.RunnerType(l.group), Paused: l.paused, Executing: len(l.jobs) > 0}, w.now)
	w.f.Describe(l.id, w.traits(l))
	w.f.Jobs(l.id, w.now, l.jobs, ended)
	w.f.Read(l.id, Reading{At: w.now, ContactedAt: shown, Machines: []Machine{{ID: l.id, SystemID: fmt.Sprint("s_", l.id/2), ContactedAt: shown, Executing: len(l.jobs) > 0}}})
}

func (w *walker) work(l *life) (ended []gitlab.Job) {
	if len(l.jobs) > 0 && w.p(0.2) {
		j := l.jobs[0]
		j.FinishedAt, j.Status = w.now, "success"
		if w.p(0.5) {
			j.Status, j.FailureReason = "failed", []string{"script_failure", "runner_system_failure", "no_updates_running"}[w.rnd.IntN(3)]
		}
		l.jobs = l.jobs[1:]
		ended = append(ended, j)
	}
	if !l.paused && w.p(0.05) {
		w.job++
		l.jobs = append(l.jobs, gitlab.Job{ID: w.job, Status: "running", StartedAt: w.now.Add(-10 * time.Second), Queued: 20, ProjectID: int64(w.rnd.IntN(4))})
	}
	return ended
}

func (w *walker) save(now time.Time) {
	for _, rec := range w.f.Records(now) {
		if rec.Value == nil {
			delete(w.disk, string(rec.Key))
		} else {
			w.disk[string(rec.Key)] = rec.Value
		}
	}
}

func (w *walker) restart(t *testing.T) {
	t.Helper()
	f := New()
	f.SetDense(w.f.dense)
	for k, v := range w.disk {
		if _, err := f.Load([]byte(k), v); err != nil {
			t.Fatal(err)
		}
	}
	for id, l := range w.lives {
		f.Describe(id, w.traits(l))
	}
	w.f = f
}

func (w *walker) verdicts() map[int64][2]uint8 {
	m := map[int64][2]uint8{}
	for id, r := range w.f.runners {
		m[id] = [2]uint8{uint8(r.verdict), uint8(r.reason)}
	}
	return m
}

func minutes(t *testing.T) (seeds uint64, each int) {
	t.Helper()
	if testing.Short() {
		return 2, 2000
	}
	return 4, 4000
}

// TestFailedReadingIsNoEvidence: a runner of which nothing came but a failed
// reading gets no worse verdict; unknown at most.
func TestFailedReadingIsNoEvidence(t *testing.T) {
	seeds, each := minutes(t)
	seen := [NumHealths]int{}
	for seed := range seeds {
		w := newWalker(seed)
		for m := range each {
			before := w.verdicts()
			_, p := w.minute()
			for id, l := range w.lives {
				r := w.f.runners[id]
				if r == nil {
					continue
				}
				seen[r.verdict]++
				was, known := before[id]
				if l.failed && known && r.verdict != Unknown && was[0] != uint8(Unknown) && uint8(r.verdict) > was[0] {
					t.Fatalf("seed %d minute %d runner %d: from %s to %s %s by a failed reading", seed, m, id, Health(was[0]), r.verdict, r.reason)
				}
			}
			n := 0
			for _, a := range p.Runners {
				for _, b := range a {
					for _, c := range b {
						n += c[0] + c[1]
					}
				}
			}
			if n != w.f.Len() {
				t.Fatalf("the picture counts %d of %d runners", n, w.f.Len())
			}
		}
	}
	for h, n := range seen {
		if n == 0 {
			t.Errorf("no runner was ever %s", Health(h))
		}
	}
}

// TestSignsNeverGoBack: neither a lost cache nor a restart takes a sign away
// (a restart: up to 5 min of it).
func TestSignsNeverGoBack(t *testing.T) {
	seeds, each := minutes(t)
	losses := 0
	for seed := range seeds {
		w := newWalker(seed)
		last, old := map[int64]time.Time{}, map[int64][]time.Time{} // old: by minute, oldest first
		check := func(what string, least func(id int64) time.Time) {
			t.Helper()
			for id := range w.f.runners {
				at := w.f.LastSeen(id)
				if at.Before(least(id)) {
					t.Fatalf("seed %d %s runner %d: from %s to %s", seed, what, id, least(id), at)
				}
				if at.After(w.now) {
					t.Fatalf("seed %d runner %d: a sign of tomorrow", seed, id)
				}
				last[id] = at
			}
		}
		for range each {
			lost := w.f.lostAt
			w.minute()
			if w.f.lostAt != lost {
				losses++
			}
			check("minute", func(id int64) time.Time { return last[id] })
			w.save(w.now)
			for id := range w.f.runners {
				old[id] = append(old[id], last[id])
				old[id] = old[id][max(0, len(old[id])-6):]
			}
			if w.p(0.001) {
				w.restart(t)
				check("restart", func(id int64) time.Time {
					if len(old[id]) < 6 {
						return time.Time{}
					}
					return old[id][0]
				})
				clear(old)
			}
		}
	}
	if losses == 0 {
		t.Error("no cache was ever lost")
	}
}

// TestRestartKeepsVerdicts: with everything on disk a restart changes no verdict, and no since.
func TestRestartKeepsVerdicts(t *testing.T) {
	seeds, each := minutes(t)
	restarts := 0
	for seed := range seeds {
		w := newWalker(seed)
		for m := range each {
			w.minute()
			if !w.p(0.01) {
				w.save(w.now)
				continue
			}
			w.save(w.now.Add(time.Hour)) // all that waits
			before, since := w.verdicts(), map[int64]int64{}
			for id, r := range w.f.runners {
				since[id] = r.since
			}
			w.restart(t)
			if changes, _ := w.f.Judge(w.now); len(changes) > 0 {
				t.Fatalf("seed %d minute %d: %+v, before %v", seed, m, changes, before[changes[0].ID])
			}
			for id, r := range w.f.runners {
				if since[id] != r.since {
					t.Fatalf("seed %d minute %d runner %d: since %d, was %d", seed, m, id, r.since, since[id])
				}
			}
			if len(before) != w.f.Len() {
				t.Fatalf("%d runners, were %d", w.f.Len(), len(before))
			}
			restarts++
			w.save(w.now)
		}
	}
	if restarts < 10 {
		t.Errorf("%d restarts", restarts)
	}
}
