package health

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
)

// stage drives some runners of one group, all of them seen each minute unless
// a test changes that.
type stage struct {
	t      *testing.T
	f      *Fleet
	now    time.Time
	ids    []int64
	silent map[int64]bool
	busy   map[int64]bool
	jobs   int64
	p      *Picture
}

func newStage(t *testing.T, runners int64) *stage {
	t.Helper()
	s := &stage{t: t, f: New(), now: time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC), silent: map[int64]bool{}, busy: map[int64]bool{}}
	s.f.SetDense(true)
	for id := int64(1); id <= runners; id++ {
		s.ids = append(s.ids, id)
	}
	return s
}

func (s *stage) read(id int64, contact time.Time) {
	s.f.Read(id, Reading{At: s.now, ContactedAt: contact, Machines: []Machine{{ID: id, SystemID: fmt.Sprint("s_", id), ContactedAt: contact, Executing: s.busy[id]}}})
}

// minute passes.
func (s *stage) minute() []Change {
	s.now = s.now.Add(time.Minute)
	s.f.ListingDone(s.now)
	for _, id := range s.ids {
		s.f.Listed(Row{ID: id, Executing: s.busy[id]}, s.now)
		s.f.Describe(id, Traits{Tags: []string{"a"}, MaximumTimeout: time.Hour})
		if !s.silent[id] {
			s.read(id, s.now.Add(-5*time.Second))
		} else {
			s.read(id, s.f.LastSeen(id))
		}
	}
	changes, p := s.f.Judge(s.now)
	s.p = p
	return changes
}

// ran is a job that a runner had, and reported just now.
func (s *stage) ran(id, project int64, took time.Duration, reason string) {
	s.jobs++
	j := gitlab.Job{ID: s.jobs, Status: "success", ProjectID: project, StartedAt: s.now.Add(-took), FinishedAt: s.now, Queued: 1}
	if reason != "" {
		j.Status, j.FailureReason = "failed", reason
	}
	s.f.Jobs(id, s.now, nil, []gitlab.Job{j})
}

func (s *stage) suspected(id int64, what Suspicion) *Ill {
	s.t.Helper()
	for i := range s.p.Ill {
		if ill := &s.p.Ill[i]; ill.ID == id && !ill.Suspects[what].IsZero() {
			return ill
		}
	}
	return nil
}

func TestBlackHoleIsSuspected(t *testing.T) {
	for _, c := range []struct {
		name      string
		took      time.Duration
		project   func(i int) int64
		elsewhere string // how the same projects fare elsewhere
		want      bool
	}{
		{"at once, where others succeed", 5 * time.Second, func(i int) int64 { return int64(i % 3) }, "", true},
		{"one project only", 5 * time.Second, func(int) int64 { return 1 }, "", false},
		{"slowly: the jobs' own fault", 5 * time.Minute, func(i int) int64 { return int64(i % 3) }, "", false},
		{"others fail too", 5 * time.Second, func(i int) int64 { return int64(i % 3) }, "script_failure", false},
	} {
		s := newStage(t, 4)
		s.minute()
		named := 0
		for i := range 12 {
			for range 2 {
				s.minute()
				s.ran(1+int64(i%2)+1, c.project(i), time.Minute/2, c.elsewhere)
			}
			s.ran(1, c.project(i), c.took, "script_failure")
			s.minute()
			if s.suspected(1, BlackHole) != nil && named == 0 {
				named = i + 1
			}
		}
		if (named > 0) != c.want {
			t.Errorf("%s: named after %d jobs", c.name, named)
		}
		for id := int64(2); id <= 4; id++ {
			if s.suspected(id, BlackHole) != nil {
				t.Errorf("%s: runner %d is suspected", c.name, id)
			}
		}
		if !c.want {
			continue
		}
		i := s.suspected(1, BlackHole)
		if g := i.Grounds[BlackHole]; g.Jobs < streakLeast || g.Projects != 3 || g.Seconds != 5 || g.Elsewhere < 8 || g.Failed != 0 || i.Usable() || i.ConsecutiveFailed != 12 || i.Health != Alive {
			t.Errorf("%s: %+v", c.name, i)
		}
		s.ran(1, 1, time.Minute, "")
		changes := s.minute()
		if s.suspected(1, BlackHole) != nil || len(changes) != 1 || !slices.Equal(changes[0].Cleared, []Suspicion{BlackHole}) {
			t.Errorf("after a success: %+v", changes)
		}
	}
}

func TestInfrastructureFailuresAreSuspected(t *testing.T) {
	s := newStage(t, 4)
	s.minute()
	named := 0
	for i := range 40 {
		for range 3 {
			s.minute()
			s.ran(2+int64(i%3), int64(i%3), time.Minute/2, "")
		}
		reason := ""
		if i%4 == 0 {
			reason = "runner_system_failure"
		}
		s.ran(1, int64(i%3), time.Minute/2, reason)
		s.minute()
		if s.suspected(1, Infrastructure) != nil && named == 0 {
			named = i + 1
		}
	}
	if named == 0 || named > 40 || s.suspected(1, BlackHole) != nil {
		t.Fatalf("named after %d jobs", named)
	}
	for range infraClean + 1 {
		for id := int64(2); id <= 4; id++ {
			s.minute()
			s.ran(id, 1, time.Minute/2, "")
		}
		s.ran(1, 1, time.Minute/2, "")
	}
	s.minute()
	if s.suspected(1, Infrastructure) != nil {
		t.Error("still suspected after clean jobs")
	}
}

func TestRunnerThatTakesNoJobsIsSuspected(t *testing.T) {
	s := newStage(t, 5)
	take := func(from, to int64, minutes int) (named int) {
		for m := range minutes {
			if m%3 == 0 {
				s.ran(from+int64(m/3)%(to-from+1), 1, time.Minute/2, "")
			}
			s.minute()
			if s.suspected(1, TakesNoJobs) != nil && named == 0 {
				named = m + 1
			}
		}
		return named
	}
	if n := take(1, 5, 4*24*60); n > 0 {
		t.Fatalf("suspected at work, minute %d", n)
	}
	n := take(2, 5, 24*60) // runner 1 is seen, and gets nothing
	if n < 3*5*takesOwed*9/10 || n > 8*60 {
		t.Errorf("suspected after %d minutes", n)
	}
	if i := s.suspected(1, TakesNoJobs); i == nil || !i.Usable() {
		t.Errorf("%+v", i)
	}
	s.ran(1, 1, time.Minute/2, "")
	s.minute()
	if s.suspected(1, TakesNoJobs) != nil {
		t.Error("still suspected after a job")
	}
}

func TestJobOverItsTimeoutIsSuspected(t *testing.T) {
	s := newStage(t, 1)
	s.minute()
	s.busy[1] = true
	j := []gitlab.Job{{ID: 1, Status: "running", StartedAt: s.now, Queued: 1}}
	for m := range 80 {
		s.f.Jobs(1, s.now, j, nil)
		s.minute()
		if is, want := s.suspected(1, OverTimeout) != nil, m+1 > 70; is != want {
			t.Fatalf("minute %d: %t", m+1, is)
		}
	}
	s.f.Jobs(1, s.now, nil, nil)
	s.minute()
	if s.suspected(1, OverTimeout) != nil {
		t.Error("still suspected without a job")
	}
}

// TestOnlyOwnReportsAreSigns: only what the runner itself reported is a sign of it.
func TestOnlyOwnReportsAreSigns(t *testing.T) {
	for _, c := range []struct {
		status, reason string
		want           bool
	}{
		{"success", "", true},
		{"failed", "script_failure", true},
		{"failed", "runner_system_failure", true},
		{"failed", "no_updates_running", false},
		{"failed", "stuck_or_timeout_failure", false},
		{"failed", "server_timeout_running", false},
		{"failed", "job_execution_server_timeout", false},
		{"failed", "runner_unsupported", false},
		{"failed", "", false},
		{"failed", "a_reason_of_tomorrow", false},
		{"canceled", "", false},
		{"skipped", "", false},
	} {
		if got := ownReport(&gitlab.Job{Status: c.status, FailureReason: c.reason}); got != c.want {
			t.Errorf("%s %s: %t", c.status, c.reason, got)
		}
	}
}
