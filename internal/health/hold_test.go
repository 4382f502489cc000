package health

import (
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
)

func (s *stage) health(id int64) (Health, Reason) {
	r := s.f.runners[id]
	return r.verdict, r.reason
}

func (s *stage) minutes(n int) {
	for range n {
		s.minute()
	}
}

// TestNobodyIsDownRightAfterAnOutage: what fell silent with GitLab is not down before gitlab-runner could be back.
func TestNobodyIsDownRightAfterAnOutage(t *testing.T) {
	s := newStage(t, 3)
	s.minutes(4 * 24 * 60)
	s.f.ListingFailed(s.now)
	s.f.Judge(s.now)
	s.silent[1] = true
	end := s.now.Add(time.Minute)
	for s.now.Before(end.Add(time.Duration(heldAfter-minute) * time.Second)) {
		s.minute()
		if h, _ := s.health(1); h == Down {
			t.Fatalf("down %s after the trouble", s.now.Sub(end))
		}
		if !s.p.AfterOutage || s.p.Until.Sub(end) > time.Duration(heldAfter)*time.Second {
			t.Fatalf("suspended %t until %s", s.p.AfterOutage, s.p.Until)
		}
	}
	s.minutes(30)
	if h, r := s.health(1); h != Down || s.p.AfterOutage {
		t.Errorf("%s %s after it", h, r)
	}
	if h, _ := s.health(2); h != Alive {
		t.Errorf("a runner that is seen: %s", h)
	}
}

// TestNobodyIsDownWhileTheFleetIsSilent: when most runners whose sign is due are not seen, nobody is down, for two hours at most.
func TestNobodyIsDownWhileTheFleetIsSilent(t *testing.T) {
	s := newStage(t, 6)
	s.minutes(4 * 24 * 60)
	// They are seen each minute, so their limit is the base only with longer gaps in the week.
	for _, r := range s.f.runners {
		for range 2 {
			r.gaps.add(62*minute, r.readAt)
		}
	}
	for _, id := range s.ids {
		s.silent[id] = true
	}
	held, down := 0, 0
	for range 5 * 60 {
		s.minute()
		if s.p.FleetSilent {
			held++
			if h, _ := s.health(1); h == Down {
				t.Fatal("down while the fleet is silent")
			}
		}
		if h, r := s.health(1); h == Down && r == Silent {
			down++
		}
	}
	if held < 5 || held > 125 || down == 0 {
		t.Errorf("held for %d min, down for %d", held, down)
	}
}

// TestOneSilentIsNotTheFleet: the others are seen.
func TestOneSilentIsNotTheFleet(t *testing.T) {
	s := newStage(t, 6)
	s.minutes(4 * 24 * 60)
	s.silent[1] = true
	for range 3 * 60 {
		s.minute()
		if s.p.FleetSilent {
			t.Fatal("the fleet is silent")
		}
	}
	if h, _ := s.health(1); h != Down {
		t.Error(h)
	}
}

// TestLostCacheIsNoSilence: contacts that go back are no silence, and the signs of before count against nobody.
func TestLostCacheIsNoSilence(t *testing.T) {
	s := newStage(t, 6)
	s.minutes(5)
	seen := s.f.LastSeen(1)
	s.now = s.now.Add(time.Minute)
	for _, id := range s.ids[:2] {
		s.read(id, s.now.Add(-40*time.Minute))
	}
	if s.f.Judge(s.now); s.f.lostAt != 0 {
		t.Error("two contacts are no lost cache")
	}
	s.read(3, s.now.Add(-40*time.Minute))
	s.minute()
	if s.f.lostAt == 0 || s.p.CacheLostAt.IsZero() {
		t.Error("three are")
	}
	if got := s.f.LastSeen(1); got.Before(seen) {
		t.Errorf("a sign went back to %s", got)
	}
}

// TestDeadMachineLeavesItsJobBehind: a machine that dies in mid-job leaves its job behind, whatever its runner does.
func TestDeadMachineLeavesItsJobBehind(t *testing.T) {
	f := New()
	start := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
	for m := range 12 {
		now := start.Add(time.Duration(m+1) * time.Minute)
		f.ListingDone(now)
		f.Listed(Row{ID: 1, Executing: true}, now)
		rd := Reading{At: now, ContactedAt: now, Machines: []Machine{{ID: 5, SystemID: "s_5", ContactedAt: now}, {ID: 6, SystemID: "s_6", ContactedAt: start, Executing: true}}}
		if m == 11 {
			rd.Machines = nil // not read: what was known stays
		}
		f.Read(1, rd)
		f.Jobs(1, now, []gitlab.Job{{ID: 1, StartedAt: start, Queued: 1}}, nil)
		_, p := f.Judge(now)
		orphaned := len(p.Ill) == 1 && p.Ill[0].OrphanedJobs == 1 && len(p.Ill[0].Machines) == 1 && p.Ill[0].Machines[0] == 6
		if want := m+1 >= 6; orphaned != want {
			t.Fatalf("minute %d: %+v", m+1, p.Ill)
		}
		if want := m+1 >= 6; want && p.Ill[0].Health != Alive {
			t.Errorf("the runner is %s", p.Ill[0].Health)
		}
	}
	// The same while GitLab is in trouble is no evidence.
	f.ListingFailed(start.Add(13 * time.Minute))
	if _, p := f.Judge(start.Add(13 * time.Minute)); len(p.Ill) != 0 {
		t.Errorf("in trouble: %+v", p.Ill)
	}
}

// TestRemovedRunnersLeaveNothing: nothing stays of runners that are gone.
func TestRemovedRunnersLeaveNothing(t *testing.T) {
	s := newStage(t, 5)
	for range 70 {
		s.minute()
		for _, id := range s.ids {
			s.ran(id, 1, time.Minute/2, "script_failure")
		}
	}
	f := s.f
	for _, id := range s.ids {
		f.Remove(id)
	}
	s.ids = nil
	s.now = s.now.Add(26 * time.Hour)
	s.minute()
	if f.Len() != 0 || len(f.order) != 0 || len(f.users) != 0 || len(f.asks) != 0 || len(f.projects) != 0 || len(f.dues) != 0 || len(s.p.Ill) != 0 {
		t.Errorf("%d runners, %d machines, %d asks, %d projects, %d due, %v", f.Len(), len(f.users), len(f.asks), len(f.projects), len(f.dues), s.p.Ill)
	}
	s.minute()
	if len(f.groups) != 0 {
		t.Errorf("%d groups", len(f.groups))
	}
	f.Read(1, Reading{At: s.now}) // a late answer
	f.Jobs(1, s.now, nil, nil)
	f.ReadFailed(1)
	f.Describe(1, Traits{})
	f.Listed(Row{ID: 0}, s.now)
	if f.Len() != 0 {
		t.Error("a late answer brought one back")
	}
}

func TestReadingsAtOnceAreByRESTOnly(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(r *runner)
		silence int64
		in      int64 // -1: not asked for
	}{
		{"executing, fresh", func(r *runner) { r.executing = true }, 2 * minute, -1},
		{"executing, silent for 3 min", func(r *runner) { r.executing = true }, 3 * minute, 3 * minute},
		{"executing, silent for 7 min", func(r *runner) { r.executing = true }, 7 * minute, minute},
		{"executing, silent for long", func(r *runner) { r.executing = true }, 30 * minute, -1},
		{"idle", nil, 30 * minute, -1},
		{"idle, due soon", nil, 50 * minute, 16 * minute},
		{"idle, due", nil, 65 * minute, minute},
		{"idle, long overdue", nil, 80 * minute, -1},
		{"paused", func(r *runner) { r.paused = true }, 65 * minute, -1},
		{"a moment missed", func(r *runner) { r.missed, r.hits = 1, 20 }, 20 * minute, 2 * minute},
		{"a moment missed, as often", func(r *runner) { r.missed, r.hits, r.misses = 1, 20, 10 }, 20 * minute, -1},
	} {
		for _, dense := range []bool{false, true} {
			f := New()
			f.SetDense(dense)
			now := 100 * day
			r := &runner{id: 1, sign: now - c.silence, readAt: now}
			if c.change != nil {
				c.change(r)
			}
			f.runners[1] = r
			f.ask(r, now)
			if c.in < 0 || dense {
				if len(f.Due(timeOf(now+day))) != 0 {
					t.Errorf("%s: due", c.name)
				}
				continue
			}
			if len(f.Due(timeOf(now+c.in-1))) != 0 || len(f.Due(timeOf(now+c.in))) != 1 {
				t.Errorf("%s: not due in %d s", c.name, c.in)
			}
			f.Remove(1)
			if len(f.Due(timeOf(now+day))) != 0 {
				t.Errorf("%s: due though removed", c.name)
			}
		}
	}
}
