package inventory

import (
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// contacted is runner 1's details with a contact some minutes after t0;
// negative: it has none.
func contacted(r gitlab.Runner, minutes float64) gitlab.RunnerDetails {
	d := tagged(r, "a")
	if minutes >= 0 {
		d.ContactedAt = minute(minutes)
	}
	return d
}

func minute(m float64) time.Time { return t0.Add(time.Duration(m * float64(time.Minute))) }

// What a contact proves of the jobs read at minute 60.
func TestContactProvesJobsUntouched(t *testing.T) {
	type reading struct {
		at, contact float64
	}
	active, never := up(1), up(1)
	active.Execution = "active"
	never.Status, never.Online = "never_contacted", nil
	for _, c := range []struct {
		name     string
		row      gitlab.Runner
		readings []reading
		until    float64 // -1: nothing is known
	}{
		{"the contact is older than the jobs", up(1), []reading{{61, 30}}, 61},
		{"the contact is newer", up(1), []reading{{63, 62}}, -1},
		{"so near that the jobs may have come from a replica", up(1), []reading{{61, 58.5}}, -1},
		{"the details are older than the jobs", up(1), []reading{{59, 30}}, -1},
		{"nothing was listed", up(1), []reading{{61, -1}}, -1},
		{"a runner that never contacted GitLab", never, []reading{{61, -1}}, 61},
		{"the list shows it executing", active, []reading{{61, 30}}, -1},
		{"still the same contact", up(1), []reading{{61, 30}, {90, 30}}, 90},
		{"a contact came", up(1), []reading{{61, 30}, {90, 89}}, -1},
		{"the cache was lost after the jobs were read", up(1), []reading{{50, 40}, {90, 10}}, -1},
		{"the cache was lost and is back", up(1), []reading{{50, 40}, {90, 10}, {91, 40}}, -1},
		{"the cache was lost long before", up(1), []reading{{40, 35}, {50, 10}, {90, 10}}, 90},
		{"GitLab's clock is behind: a new contact of long ago", up(1), []reading{{61, 30}, {70, 55}}, -1},
		{"the same contact in whole seconds", up(1), []reading{{50, 40.005}, {61, 40}}, 61},
	} {
		t.Run(c.name, func(t *testing.T) {
			inv := New(options())
			inv.Listed([]gitlab.Runner{c.row}, true, t0)
			for _, r := range c.readings {
				inv.Details(1, contacted(c.row, r.contact), nil, minute(r.at))
			}
			want := time.Time{}
			if c.until >= 0 {
				want = minute(c.until)
			}
			if got := inv.UntouchedUntil(1, minute(60)); !got.Equal(want) {
				t.Errorf("until %v, want %v", got, want)
			}
		})
	}
	inv := New(options())
	if got := inv.UntouchedUntil(1, t0); !got.IsZero() {
		t.Error("a runner that is not there:", got)
	}
	inv.Listed(ups(1), true, t0)
	inv.Details(1, contacted(up(1), 0), nil, minute(1))
	if got := inv.UntouchedUntil(1, time.Time{}); !got.IsZero() {
		t.Error("jobs that were never read:", got)
	}
}

// A reading at SettledAt is the last that a contact asks for.
func TestSettledAtIsTheLastReadingThatAContactAsksFor(t *testing.T) {
	inv := New(options())
	inv.Listed(ups(1), true, t0)
	if at := inv.SettledAt(1); !at.IsZero() {
		t.Error("without a contact:", at)
	}
	inv.Details(1, contacted(up(1), 30), nil, minute(31))
	at := inv.SettledAt(1)
	inv.Details(1, contacted(up(1), 30), nil, minute(90))
	if inv.UntouchedUntil(1, at.Add(-2*time.Second)).After(t0) || !inv.UntouchedUntil(1, at).Equal(minute(90)) {
		t.Errorf("jobs read at %v or just before", at)
	}
}

// The list's number of executing jobs is shown where it is newer than the jobs.
func TestNewerNumberOfTheListIsShown(t *testing.T) {
	for _, c := range []struct {
		name                         string
		listed                       int
		jobs                         Jobs
		running, canceling, of, seen int // of the runner, and what ListedJobs returns
		oldest                       bool
	}{
		{"jobs not read yet", 3, Jobs{}, 3, 0, 3, 3, false},
		{"the list is newer", 3, Jobs{Running: 1, Canceling: 1, Oldest: t0, ReadAt: t0.Add(-time.Second)}, 2, 1, 3, 3, true},
		{"all ended since", 0, Jobs{Running: 1, Canceling: 1, Oldest: t0, ReadAt: t0.Add(-time.Second)}, 0, 0, 0, 0, false},
		{"the jobs are newer", 3, Jobs{Running: 1, Oldest: t0, ReadAt: t0.Add(time.Second)}, 1, 0, 1, 3, true},
		{"the list has no number", -1, Jobs{Running: 1, Oldest: t0, ReadAt: t0.Add(-time.Second)}, 1, 0, 1, -1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			inv := New(options())
			inv.Listed(ups(1), true, t0)
			inv.Details(1, tagged(up(1), "a"), nil, t0)
			if c.listed >= 0 {
				inv.SetListedJobs(1, c.listed)
			}
			f := inv.Fleet(func(int64) Jobs { return c.jobs }, true)
			if got := f.JobsExecuting[snapshot.InstanceType]; got != [2]int{c.running, c.canceling} {
				t.Errorf("executing %v", got)
			}
			if got := tagOf(f, "a").JobsExecuting[snapshot.InstanceType]; got != c.of {
				t.Errorf("of the tag %d", got)
			}
			if row := f.Rows[0]; row.JobsExecuting != c.of || row.OldestJobStart.IsZero() == c.oldest {
				t.Errorf("of the runner %d, oldest %v", row.JobsExecuting, row.OldestJobStart)
			}
			if got, _ := inv.ListedJobs(1, t0.Add(-time.Minute)); got != c.seen {
				t.Errorf("listed %d", got)
			}
			if got, _ := inv.ListedJobs(1, t0); got != -1 {
				t.Errorf("listed %d by a list that is too old", got)
			}
			inv.Listed(ups(1), true, t0.Add(time.Minute)) // by REST
			if got, _ := inv.ListedJobs(1, t0); got != -1 {
				t.Errorf("listed %d by a list without a number", got)
			}
		})
	}
}
