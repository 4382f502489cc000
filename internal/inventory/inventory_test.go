package inventory

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func options() Options {
	return Options{TagLimit: 500, TagRetention: 7 * 24 * time.Hour, RunnersEnabled: true}
}

func matcher(include, exclude string) snapshot.Matcher {
	m, err := snapshot.NewMatcher(include, exclude)
	if err != nil {
		panic(err)
	}
	return m
}

// up is an online instance runner's list row.
func up(id int64) gitlab.Runner {
	return gitlab.Runner{ID: id, Type: "instance_type", Status: "online", Paused: new(false), Online: new(true), Execution: "idle"}
}

func down(id int64) gitlab.Runner {
	r := up(id)
	r.Status, r.Online = "offline", new(false)
	return r
}

func ups(ids ...int64) []gitlab.Runner {
	rows := make([]gitlab.Runner, 0, len(ids))
	for _, id := range ids {
		rows = append(rows, up(id))
	}
	return rows
}

func tagged(r gitlab.Runner, tags ...string) gitlab.RunnerDetails {
	return gitlab.RunnerDetails{Runner: r, Tags: tags, Version: "18.0.0"}
}

func noJobs(int64) Jobs { return Jobs{} }

// tagOf is a tag of a picture; nil: it has no series.
func tagOf(f *snapshot.Fleet, name string) *snapshot.Tag {
	for i := range f.Tags {
		if f.Tags[i].Name == name {
			return &f.Tags[i]
		}
	}
	return nil
}

func tagNames(f *snapshot.Fleet) []string {
	var names []string
	for _, t := range f.Tags {
		names = append(names, t.Name)
	}
	return names
}

// sum is how many runners stand under a tag.
func sum(t *snapshot.Tag) (n int) {
	for _, statuses := range t.Runners {
		if statuses == nil {
			continue
		}
		for _, s := range statuses {
			n += s[0] + s[1]
		}
	}
	return n
}

func TestStatusAndPausedAreReadApart(t *testing.T) {
	yes, no := new(true), new(false)
	for _, c := range []struct {
		name   string
		row    gitlab.Runner
		status snapshot.Status
		paused bool
	}{
		{"online", gitlab.Runner{Status: "online", Active: yes, Paused: no, Online: yes}, snapshot.Online, false},
		{"offline", gitlab.Runner{Status: "offline", Active: yes, Paused: no, Online: no}, snapshot.Offline, false},
		{"stale", gitlab.Runner{Status: "stale", Active: yes, Paused: no, Online: no}, snapshot.Stale, false},
		{"never contacted", gitlab.Runner{Status: "never_contacted", Active: yes, Paused: no}, snapshot.NeverContacted, false},
		{"paused hides online", gitlab.Runner{Status: "paused", Active: no, Paused: yes, Online: yes}, snapshot.Online, true},
		{"paused hides offline", gitlab.Runner{Status: "paused", Active: no, Paused: yes, Online: no}, snapshot.Offline, true},
		{"paused, never contacted", gitlab.Runner{Status: "paused", Active: no, Paused: yes}, snapshot.NeverContacted, true},
		{"paused and stale", gitlab.Runner{Status: "stale", Active: no, Paused: yes, Online: no}, snapshot.Stale, true},
		{"paused and never contacted, so listed", gitlab.Runner{Status: "never_contacted", Paused: yes}, snapshot.NeverContacted, true},
		{"stale beats online", gitlab.Runner{Status: "stale", Paused: no, Online: yes}, snapshot.Stale, false},
		{"never contacted beats online", gitlab.Runner{Status: "never_contacted", Paused: no, Online: yes}, snapshot.NeverContacted, false},
		// GitLab's own sample: impossible, yet it must not break anything.
		{"active, not paused, status paused", gitlab.Runner{Status: "paused", Active: yes, Paused: no, Online: yes}, snapshot.Online, false},
		{"paused contradicts active", gitlab.Runner{Status: "online", Active: yes, Paused: yes, Online: yes}, snapshot.Online, true},
		{"status online, online false", gitlab.Runner{Status: "online", Active: yes, Paused: no, Online: no}, snapshot.Offline, false},
		{"status offline, online true", gitlab.Runner{Status: "offline", Paused: no, Online: yes}, snapshot.Online, false},
		{"a status of the future", gitlab.Runner{Status: "hibernating", Paused: no, Online: no}, snapshot.Offline, false},
		{"no status", gitlab.Runner{Paused: no, Online: yes}, snapshot.Online, false},
		{"before 14.8: no paused key", gitlab.Runner{Status: "online", Active: yes, Online: yes}, snapshot.Online, false},
		{"before 14.8: not active", gitlab.Runner{Status: "paused", Active: no, Online: yes}, snapshot.Online, true},
		{"before 14.8: not active, whatever the status", gitlab.Runner{Status: "offline", Active: no, Online: no}, snapshot.Offline, true},
		{"before 14.8: active, whatever the status", gitlab.Runner{Status: "paused", Active: yes, Online: no}, snapshot.Offline, false},
		{"before 15.0: not_connected", gitlab.Runner{Status: "not_connected", Active: yes}, snapshot.NeverContacted, false},
		{"before 15.0: not_connected and paused", gitlab.Runner{Status: "not_connected", Active: no}, snapshot.NeverContacted, true},
		{"not_connected contradicts online", gitlab.Runner{Status: "not_connected", Active: yes, Online: yes}, snapshot.NeverContacted, false},
		{"status only: paused", gitlab.Runner{Status: "paused"}, snapshot.NeverContacted, true},
		{"status only: stale", gitlab.Runner{Status: "stale"}, snapshot.Stale, false},
		{"status only: online is never contacted by the field online", gitlab.Runner{Status: "online"}, snapshot.NeverContacted, false},
		{"nothing at all", gitlab.Runner{}, snapshot.NeverContacted, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.row.ID, c.row.Type = 7, "group_type"
			inv := New(options())
			inv.Listed([]gitlab.Runner{c.row}, true, t0)
			f := inv.Fleet(noJobs, true)
			p := 0
			if c.paused {
				p = 1
			}
			if n := f.Runners[snapshot.GroupType][c.status][p]; n != 1 {
				t.Errorf("not counted as %s, paused %t: %v", c.status, c.paused, f.Runners)
			}
			if row := f.Rows[0]; row.Status != c.status || row.Paused != c.paused || row.Type != snapshot.GroupType {
				t.Errorf("row %s %t %s, want %s %t", row.Status, row.Paused, row.Type, c.status, c.paused)
			}
			// The details must mean the same.
			inv.Details(7, gitlab.RunnerDetails{Runner: c.row}, nil, t0)
			if row := inv.Fleet(noJobs, true).Rows[0]; row.Status != c.status || row.Paused != c.paused {
				t.Errorf("after its details: row %s %t, want %s %t", row.Status, row.Paused, c.status, c.paused)
			}
		})
	}
}

func TestUnknownTypeIsProjectType(t *testing.T) {
	for word, want := range map[string]snapshot.RunnerType{
		"instance_type": snapshot.InstanceType, "group_type": snapshot.GroupType, "project_type": snapshot.ProjectType,
		"galaxy_type": snapshot.ProjectType, "": snapshot.ProjectType,
	} {
		inv := New(options())
		r := up(1)
		r.Type = word
		inv.Listed([]gitlab.Runner{r}, true, t0)
		if got := inv.Type(1); got != want {
			t.Errorf("%q is %s, want %s", word, got, want)
		}
	}
	// Details that do not name the type keep the one of the list.
	inv := New(options())
	r := up(1)
	r.Type = "group_type"
	inv.Listed([]gitlab.Runner{r}, true, t0)
	r.Type = ""
	inv.Details(1, tagged(r), nil, t0)
	if got := inv.Type(1); got != snapshot.GroupType {
		t.Errorf("details without a type made it %s", got)
	}
	if got := New(options()).Type(99); got != snapshot.ProjectType {
		t.Errorf("a runner nobody knows is %s", got)
	}
}

func TestRunnerLeavesAfterTwoListingsWithoutIt(t *testing.T) {
	inv := New(options())
	if inv.Fleet(noJobs, true) != nil {
		t.Error("a picture before the first listing")
	}
	c := inv.Listed(ups(3, 1, 2, 1, 3), true, t0)
	if !slices.Equal(c.Joined, []int64{1, 2, 3}) || len(c.Left) != 0 {
		t.Errorf("first listing with duplicates: %+v", c)
	}
	if f := inv.Fleet(noJobs, true); f.Runners[snapshot.InstanceType][snapshot.Online][0] != 3 || len(f.Rows) != 3 {
		t.Errorf("duplicates were counted twice: %v", f.Runners)
	}
	if !slices.Equal(inv.IDs(), []int64{1, 2, 3}) {
		t.Errorf("ids %v", inv.IDs())
	}
	at := t0
	list := func(whole bool, ids ...int64) Change {
		at = at.Add(time.Minute)
		return inv.Listed(ups(ids...), whole, at)
	}
	// Once missing is not yet gone, and reappearing starts anew.
	for range 3 {
		if c = list(true, 1, 2); len(c.Left) != 0 || !inv.Has(3) {
			t.Fatalf("left after one listing: %+v", c)
		}
		if c = list(true, 1, 2, 3); len(c.Joined) != 0 {
			t.Fatalf("joined again, but it never left: %+v", c)
		}
	}
	// A listing with rows that could not be read proves nothing about absence.
	for range 5 {
		if c = list(false, 1); len(c.Left) != 0 || inv.Len() != 3 {
			t.Fatalf("a listing that is not whole removed %v", c.Left)
		}
	}
	// ... but about presence: 2 is missed once, is seen, is missed once.
	list(true, 1, 3)
	list(false, 2)
	if c = list(true, 1, 3); len(c.Left) != 0 {
		t.Errorf("left %v though it was seen between", c.Left)
	}
	if c = list(true, 1, 3); !slices.Equal(c.Left, []int64{2}) || inv.Has(2) {
		t.Errorf("not gone after two whole listings in a row: %+v", c)
	}
	// Between two whole listings without it one that is not whole changes nothing.
	list(true, 1)
	list(false, 1)
	if c = list(true, 1, 4); !slices.Equal(c.Left, []int64{3}) || !slices.Equal(c.Joined, []int64{4}) {
		t.Errorf("%+v", c)
	}
	if !slices.Equal(inv.IDs(), []int64{1, 4}) {
		t.Errorf("ids %v", inv.IDs())
	}
	// Another shard's is no longer ours at once.
	if !inv.Gone(4) || inv.Has(4) || inv.Gone(4) {
		t.Error("not gone, or twice")
	}
	if !slices.Equal(inv.IDs(), []int64{1}) || inv.Fleet(noJobs, true).Runners[0][0][0] != 1 {
		t.Errorf("still in the picture: %v", inv.IDs())
	}
	// Details of a runner that left meanwhile change nothing.
	inv.Details(4, tagged(up(4), "ghost"), nil, at)
	inv.DetailsFailed(4)
	inv.NotePeak(4, 3, at)
	if inv.Has(4) || slices.Contains(inv.TagNames(), "ghost") {
		t.Error("details of a gone runner were taken")
	}
	if c = list(true); len(c.Left) != 0 {
		t.Errorf("an empty listing removed at once %v", c.Left)
	}
	if c = list(true); !slices.Equal(c.Left, []int64{1}) || inv.Len() != 0 {
		t.Errorf("two empty listings: %+v", c)
	}
	if !inv.ListedAt().Equal(at) {
		t.Errorf("listed at %v", inv.ListedAt())
	}
}

// A count of misses must survive a restart, neither lost nor doubled.
func TestMissesSurviveARestart(t *testing.T) {
	inv := New(options())
	inv.Listed(ups(1, 2), true, t0)
	inv.Listed(ups(1), true, t0.Add(time.Minute))
	inv = reload(t, inv, options())
	if !inv.Has(2) {
		t.Fatal("gone after one listing and a restart")
	}
	if c := inv.Listed(ups(1), true, t0.Add(2*time.Minute)); !slices.Equal(c.Left, []int64{2}) {
		t.Errorf("two listings in a row without it: %+v", c)
	}
	if inv = reload(t, inv, options()); inv.Has(2) || inv.Len() != 1 {
		t.Error("came back with the restart")
	}
}

func TestActiveIsWhatTheNewestReadingShows(t *testing.T) {
	inv := New(options())
	a, b, old := up(5), up(2), up(3)
	a.Execution, b.Execution, old.Execution = "active", "active", ""
	c := inv.Listed([]gitlab.Runner{a, b, old, up(9)}, true, t0)
	if !slices.Equal(c.Active, []int64{2, 5}) {
		t.Errorf("active %v", c.Active)
	}
	for id, want := range map[int64][2]bool{2: {true, false}, 5: {true, false}, 3: {false, false}, 9: {false, true}, 77: {false, false}} {
		if got := [2]bool{inv.Active(id), inv.Idle(id)}; got != want {
			t.Errorf("runner %d: active, idle %v, want %v", id, got, want)
		}
	}
	// Details of a release that shows it in the list only must not make it unknown.
	d := tagged(up(2))
	d.Execution = ""
	inv.Details(2, d, nil, t0)
	if !inv.Active(2) {
		t.Error("details without job_execution_status made the runner idle")
	}
	d.Execution = "idle"
	inv.Details(2, d, nil, t0)
	if inv.Active(2) || !inv.Idle(2) {
		t.Error("newer details were not taken")
	}
	// Rows of another runner (a confused proxy's cache) must not be taken for its own.
	d = tagged(down(9), "x")
	inv.Details(2, d, nil, t0)
	if f := inv.Fleet(noJobs, true); f.Rows[0].Status != snapshot.Online {
		t.Error("the status of another runner was taken")
	}
}

func TestNewerOfFlagAndJobsDecidesBusy(t *testing.T) {
	for _, c := range []struct {
		name      string
		execution string
		jobs      Jobs
		busy      bool
		executing int
	}{
		{"idle, not read", "idle", Jobs{}, false, -1},
		{"the list's flag alone", "active", Jobs{}, true, -1},
		{"the flag is news", "active", Jobs{ReadAt: t0.Add(-time.Second)}, true, 0},
		{"the flag and the reading are of the same moment", "active", Jobs{ReadAt: t0}, true, 0},
		{"the jobs were read since", "active", Jobs{ReadAt: t0.Add(time.Second)}, false, 0},
		{"jobs run, whatever the flag", "idle", Jobs{Running: 2, ReadAt: t0.Add(-time.Minute)}, true, 2},
		{"a job is being canceled", "idle", Jobs{Canceling: 1, ReadAt: t0}, true, 1},
		{"a release without the flag", "", Jobs{Running: 1, Canceling: 2, ReadAt: t0}, true, 3},
		{"a release without the flag, nothing runs", "", Jobs{ReadAt: t0}, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inv := New(options())
			r := up(1)
			r.Execution = c.execution
			inv.Listed([]gitlab.Runner{r}, true, t0)
			inv.Details(1, tagged(r, "a", "b"), nil, t0)
			f := inv.Fleet(func(int64) Jobs { return c.jobs }, true)
			want := 0
			if c.busy {
				want = 1
			}
			if f.Busy[snapshot.InstanceType] != want || tagOf(f, "a").Busy != want || tagOf(f, "b").Busy != want {
				t.Errorf("busy %v, tag %d, want %d", f.Busy, tagOf(f, "a").Busy, want)
			}
			if got := f.JobsExecuting[snapshot.InstanceType]; got != [2]int{c.jobs.Running, c.jobs.Canceling} {
				t.Errorf("executing %v", got)
			}
			if got := tagOf(f, "a").JobsExecuting[snapshot.InstanceType]; got != c.jobs.Running+c.jobs.Canceling {
				t.Errorf("of the tag %d", got)
			}
			if got := f.Rows[0].JobsExecuting; got != c.executing {
				t.Errorf("of the runner %d, want %d", got, c.executing)
			}
		})
	}
}

func TestRowsHaveWhatWasRead(t *testing.T) {
	o := options()
	o.Runners = matcher("prod-.*", ".*-secret")
	inv := New(o)
	names := []string{"prod-1", "a prod-2", "prod-3-secret", "prod-4-secret-not"}
	rows := make([]gitlab.Runner, 0, len(names))
	for i, n := range names {
		r := up(int64(10 - i))
		r.Description = n
		rows = append(rows, r)
	}
	inv.Listed(rows, true, t0)
	for i, want := range []bool{true, false, false, true} {
		if got := inv.Exported(int64(10 - i)); got != want {
			t.Errorf("%q exported %t, want %t", names[i], got, want)
		}
	}
	if inv.Exported(404) {
		t.Error("a runner nobody knows is exported")
	}
	d := tagged(rows[0], "z", "a", "z")
	d.RunUntagged, d.Protected, d.Platform, d.Arch, d.Owner = true, true, "linux", "arm64", "corp/web"
	d.ContactedAt = t0.Add(-time.Minute)
	managers := []gitlab.Manager{{Status: "online", Version: "17.5.0"}, {Status: "online", Version: "17.10.0"}, {Status: "offline", Version: "11.0.0"}, {Status: "stale"}, {Status: "never_contacted"}, {Status: "dancing"}}
	inv.Details(10, d, managers, t0.Add(time.Second))
	f := inv.Fleet(func(int64) Jobs {
		return Jobs{Running: 1, Oldest: t0.Add(-time.Hour), LastFinished: t0.Add(-2 * time.Hour), ReadAt: t0}
	}, true)
	if !slices.IsSortedFunc(f.Rows, func(a, b snapshot.Runner) int { return int(a.ID - b.ID) }) || len(f.Rows) != 4 {
		t.Fatalf("rows are not sorted by id: %v", f.Rows)
	}
	got := f.Rows[3]
	want := snapshot.Runner{
		ID: 10, StatusSince: t0, Description: "prod-1", Owner: "corp/web", Version: "17.5.0", Platform: "linux", Arch: "arm64", RunUntagged: true, Protected: true,
		Tags: []string{snapshot.TagUntagged, "a", "z"}, ContactedAt: d.ContactedAt, DetailsAt: t0.Add(time.Second),
		ManagersOnline: 2, ManagersKnown: 6, JobsExecuting: 1, OldestJobStart: t0.Add(-time.Hour), LastJobFinished: t0.Add(-2 * time.Hour), Exported: true,
	}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("row\n%+v, want\n%+v", got, want)
	}
	if f.Managers[snapshot.InstanceType] != [snapshot.NumStatuses]int{2, 2, 1, 1} || !f.ManagersRead {
		t.Errorf("machines %v", f.Managers)
	}
	if unread := f.Rows[0]; unread.ManagersKnown != -1 || unread.ManagersOnline != -1 || !unread.DetailsAt.IsZero() {
		t.Errorf("a runner without details: %+v", unread)
	}
	// A lean reading keeps the owner; no machine online: the runner's own version.
	d.Owner, d.Version = "", "16.1.0"
	inv.Details(10, d, []gitlab.Manager{{Status: "offline", Version: "11.0.0"}}, t0.Add(time.Minute))
	f = inv.Fleet(noJobs, true)
	if f.Rows[3].Owner != "corp/web" || f.Rows[3].Version != "16.1.0" || f.Rows[3].ManagersKnown != 1 || f.Rows[3].ManagersOnline != 0 {
		t.Errorf("%+v", f.Rows[3])
	}
	// Machines that could not be read this time stay as they were.
	inv.Details(10, d, nil, t0.Add(2*time.Minute))
	if f = inv.Fleet(noJobs, false); f.Rows != nil || f.Managers[snapshot.InstanceType] != [snapshot.NumStatuses]int{0, 1, 0, 0} {
		t.Errorf("rows %v, machines %v", f.Rows, f.Managers)
	}
	if !inv.HasOwner(10) {
		t.Error("the owner is not known")
	}
	g := up(11)
	g.Type = "group_type"
	inv.Listed([]gitlab.Runner{g}, false, t0)
	if inv.HasOwner(11) || inv.HasOwner(404) {
		t.Error("an owner that was never read")
	}
	o.RunnersEnabled = false
	if off := reload(t, inv, o); off.Exported(10) {
		t.Error("exported though runner_ families are off")
	}
}

// Sums by tag are whole or absent, and once they are there they stay.
func TestSumsByTagAreWholeOrAbsent(t *testing.T) {
	inv := New(options())
	inv.Listed(ups(1, 2), true, t0)
	detailed := func() bool { return inv.Fleet(noJobs, false).Detailed }
	if detailed() {
		t.Error("whole before any details")
	}
	inv.Details(1, tagged(up(1), "a"), nil, t0)
	if detailed() || !inv.TagsKnown(1) || inv.TagsKnown(2) || inv.TagsKnown(3) {
		t.Error("whole with one of two")
	}
	for i := range detailsTries {
		if detailed() || inv.TagsKnown(2) {
			t.Errorf("whole after %d failures", i)
		}
		inv.DetailsFailed(2)
	}
	if never, failed := inv.Unread(); never != 1 || failed != 1 || !inv.TagsKnown(2) {
		t.Errorf("unread %d, failed %d", never, failed)
	}
	f := inv.Fleet(noJobs, true)
	if !f.Detailed || sum(tagOf(f, snapshot.TagUnknown)) != 1 || sum(tagOf(f, "a")) != 1 {
		t.Errorf("detailed %t, tags %+v", f.Detailed, f.Tags)
	}
	// A runner that joins later withdraws nothing.
	inv.Listed(ups(1, 2, 3), true, t0.Add(time.Minute))
	if f = inv.Fleet(noJobs, false); !f.Detailed || sum(tagOf(f, snapshot.TagUnknown)) != 2 {
		t.Errorf("a newcomer withdrew the sums: %t", f.Detailed)
	}
	// A success ends the row of failures.
	inv.Details(2, tagged(up(2), "b"), nil, t0.Add(time.Minute))
	inv.DetailsFailed(2)
	inv.Details(3, tagged(up(3), "b"), nil, t0.Add(time.Minute))
	if f = inv.Fleet(noJobs, false); tagOf(f, snapshot.TagUnknown) != nil || sum(tagOf(f, "b")) != 2 {
		t.Errorf("tags %+v", f.Tags)
	}
	// Saved state is as good as read: at once, and before the next listing.
	again := reload(t, inv, options())
	if f = again.Fleet(noJobs, false); !f.Detailed || sum(tagOf(f, "b")) != 2 {
		t.Errorf("after a restart: detailed %t, %+v", f.Detailed, f.Tags)
	}
	again.Listed(ups(1, 2, 3, 4), true, t0.Add(2*time.Minute))
	if f = again.Fleet(noJobs, false); !f.Detailed {
		t.Error("a newcomer after a restart withdrew the sums")
	}
	// An empty fleet is whole.
	none := New(options())
	none.Listed(nil, true, t0)
	if f = none.Fleet(noJobs, true); f == nil || !f.Detailed || len(f.Tags) != 0 {
		t.Errorf("an empty fleet: %+v", f)
	}
}
