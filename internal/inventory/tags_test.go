package inventory

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

func labels(inv *Inventory, id int64) string { return strings.Join(inv.TagLabels(id), " ") }

func TestRunnerStandsUnderItsTags(t *testing.T) {
	o := options()
	o.TagLimit = 2
	o.Tags = matcher("[a-z]+|[0-9]+", "tmp.*|secret")
	inv := New(o)
	inv.Listed(ups(1, 2, 3, 4, 5, 6), true, t0)
	if got := labels(inv, 1); got != snapshot.TagUnknown {
		t.Errorf("before its details: %q", got)
	}
	untagged := tagged(up(1))
	untagged.RunUntagged = true
	inv.Details(1, untagged, nil, t0)
	inv.Details(2, tagged(up(2), "gpu", "gpu", "arm"), nil, t0)
	both := tagged(up(3), "gpu", "one", "two", "three")
	both.RunUntagged = true
	inv.Details(3, both, nil, t0)
	inv.Details(4, tagged(up(4), "tmpfs", "secret", "Not-Included"), nil, t0)
	inv.Details(5, tagged(up(5), "tmpfs", "secrets"), nil, t0)
	for id, want := range map[int64]string{
		1: "(untagged)", 2: "arm gpu",
		3: "(other) (untagged) gpu", // a runner once, however many tags are beyond the limit
		4: "", 5: "(other)",         // the expressions are anchored: secrets is not secret
		6: "(unknown)", 7: "",
	} {
		if got := labels(inv, id); got != want {
			t.Errorf("runner %d stands under %q, want %q", id, got, want)
		}
	}
	if got := inv.TagsOverLimit(); got != 4 {
		t.Errorf("%d tags over the limit, want one, two, three, secrets", got)
	}
	f := inv.Fleet(noJobs, false)
	if got := strings.Join(tagNames(f), " "); got != "(other) (unknown) (untagged) arm gpu" {
		t.Errorf("tags of the picture, sorted: %q", got)
	}
	for name, want := range map[string]int{"(other)": 2, "(unknown)": 1, "(untagged)": 2, "arm": 1, "gpu": 2} {
		if got := sum(tagOf(f, name)); got != want {
			t.Errorf("%d runners under %s, want %d", got, name, want)
		}
	}
}

// Expected tags come first, whatever is read first, and have a value even
// where no runner has the tag.
func TestExpectedTagsComeFirst(t *testing.T) {
	o := options()
	o.TagLimit, o.Expected = 2, map[string]int{"deploy": 1, "absent": 2}
	inv := New(o)
	inv.Listed(ups(1, 2), true, t0)
	inv.Details(1, tagged(up(1), "a", "b", "c"), nil, t0)
	inv.Details(2, tagged(up(2), "deploy"), nil, t0)
	check := func(when string, inv *Inventory) {
		t.Helper()
		if a, b := labels(inv, 1), labels(inv, 2); a != "(other)" || b != "deploy" {
			t.Errorf("%s: labels %q, %q", when, a, b)
		}
		f := inv.Fleet(noJobs, false)
		if tag := tagOf(f, "absent"); tag == nil || tag.Available != 0 || !tag.LastAvailable.IsZero() {
			t.Errorf("%s: an expected tag without runners: %+v", when, tag)
		}
		if tag := tagOf(f, "deploy"); tag == nil || tag.Available != 1 {
			t.Errorf("%s: an expected tag: %+v", when, tag)
		}
	}
	check("at first", inv)
	inv.Retire(t0.Add(30 * 24 * time.Hour))
	check("a month later", inv)
	inv = reload(t, inv, o)
	check("after a restart", inv)
	// No longer expected: the one that nobody has ends, and its place is given away.
	o.Expected = nil
	inv = reload(t, inv, o)
	inv.Listed(ups(1, 2), true, t0.Add(time.Hour))
	inv.Retire(t0.Add(time.Hour))
	if got := strings.Join(inv.TagNames(), " "); got != "a deploy" {
		t.Errorf("tags %q", got)
	}
	// A floor under (untagged) takes no tag's place.
	o.Expected = map[string]int{snapshot.TagUntagged: 1, "a": 1, "deploy": 1}
	inv = reload(t, inv, o)
	inv.Retire(t0.Add(2 * time.Hour))
	if f := inv.Fleet(noJobs, false); tagOf(f, snapshot.TagUntagged) == nil || tagOf(f, "a") == nil || tagOf(f, "deploy") == nil {
		t.Errorf("tags %v", tagNames(f))
	}
}

// A series must not come and go: who has a place keeps it, over restarts and
// through the retention; then it goes to the tag that waits with most runners.
func TestTagLimitIsSticky(t *testing.T) {
	o := options()
	o.TagLimit = 2
	inv := New(o)
	inv.Listed(ups(1, 2, 3, 4, 5), true, t0)
	inv.Details(1, tagged(up(1), "z"), nil, t0)
	inv.Details(2, tagged(up(2), "y"), nil, t0)
	inv.Details(3, tagged(up(3), "b", "c"), nil, t0)
	inv.Details(4, tagged(up(4), "c"), nil, t0)
	inv.Details(5, tagged(up(5), "a"), nil, t0)
	names := func() string { return strings.Join(inv.TagNames(), " ") }
	if names() != "y z" {
		t.Fatalf("tags %q", names())
	}
	inv.Retire(t0)
	inv = reload(t, inv, o)
	inv.Retire(t0.Add(time.Minute))
	if names() != "y z" || inv.TagsOverLimit() != 3 {
		t.Fatalf("after a restart: %q, %d over the limit", names(), inv.TagsOverLimit())
	}
	// z loses its runner; its series stays at zero for the retention.
	lost := t0.Add(2 * time.Hour)
	inv.Retire(lost)
	inv.Details(1, tagged(up(1), "y"), nil, lost.Add(time.Minute))
	inv.Retire(lost.Add(7 * 24 * time.Hour))
	inv = reload(t, inv, o)
	inv.Listed(ups(1, 2, 3, 4, 5), true, lost)
	f := inv.Fleet(noJobs, false)
	if names() != "y z" || tagOf(f, "z").Runners[snapshot.InstanceType] == nil || sum(tagOf(f, "z")) != 0 {
		t.Fatalf("in the retention: %q, %+v", names(), tagOf(f, "z"))
	}
	changed := inv.Retire(lost.Add(7*24*time.Hour + time.Minute))
	if names() != "c y" || !slices.Equal(changed, []int64{3, 4}) {
		t.Errorf("after the retention: %q, changed %v", names(), changed)
	}
	if a, b, c := labels(inv, 3), labels(inv, 4), labels(inv, 5); a != "(other) c" || b != "c" || c != "(other)" {
		t.Errorf("labels %q %q %q", a, b, c)
	}
	f = inv.Fleet(noJobs, false)
	if sum(tagOf(f, "c")) != 2 || tagOf(f, "z") != nil {
		t.Errorf("tags %+v", f.Tags)
	}
	// A higher limit lets the others in, the same number sorted by name.
	o.TagLimit = 3
	inv = reload(t, inv, o)
	if changed = inv.Retire(lost.Add(8 * 24 * time.Hour)); names() != "a c y" || !slices.Equal(changed, []int64{5}) {
		t.Errorf("with a higher limit: %q, changed %v", names(), changed)
	}
	// A lower one is kept to at once, expected tags first.
	o.TagLimit, o.Expected = 1, map[string]int{"y": 1}
	inv = reload(t, inv, o)
	if names() != "y" || labels(inv, 4) != "(other)" || labels(inv, 2) != "y" {
		t.Errorf("with a lower limit: %q", names())
	}
	// What was lost stays lost in the state.
	inv = reload(t, inv, o)
	if names() != "y" {
		t.Errorf("tags %q", names())
	}
	// Changed filters.
	o.TagLimit, o.Tags = 10, matcher("", "c")
	inv = reload(t, inv, o)
	inv.Retire(lost.Add(8 * 24 * time.Hour))
	if names() != "a b y" || labels(inv, 4) != "" || labels(inv, 3) != "b" {
		t.Errorf("with a filter: %q, %q", names(), labels(inv, 4))
	}
	o.Tags = matcher("c|y", "")
	inv = reload(t, inv, o)
	inv.Retire(lost.Add(8 * 24 * time.Hour))
	if names() != "c y" || labels(inv, 5) != "" {
		t.Errorf("with another filter: %q, %q", names(), labels(inv, 5))
	}
}

// The retention counts from the last reading in which a runner had the tag,
// not from the first: a tag in use for a month must not vanish with a restart
// a minute after its last runner left.
func TestRetentionCountsFromTheLastUse(t *testing.T) {
	for _, row := range []gitlab.Runner{up(1), down(1)} {
		for _, restart := range []bool{false, true} {
			inv := New(options())
			at := t0
			for day := range 30 * 24 * 4 {
				at = t0.Add(time.Duration(day) * 15 * time.Minute)
				inv.Listed([]gitlab.Runner{row}, true, at)
				if day%2 == 0 {
					d := tagged(row, "gpu")
					d.RunUntagged = true
					inv.Details(1, d, nil, at)
				}
				inv.Retire(at)
				inv.Fleet(noJobs, false)
				records(t, inv)
			}
			if restart {
				inv = reload(t, inv, options())
			}
			inv.Gone(1)
			inv.Listed(nil, true, at.Add(time.Minute))
			inv.Retire(at.Add(6 * 24 * time.Hour))
			f := inv.Fleet(noJobs, false)
			for _, name := range []string{"gpu", snapshot.TagUntagged} {
				if tag := tagOf(f, name); tag == nil || tag.Runners[snapshot.InstanceType] == nil {
					t.Errorf("%s, restart %t: the series of %s ended before its retention", row.Status, restart, name)
				}
			}
			inv.Retire(at.Add(7*24*time.Hour + time.Minute))
			if n := inv.TagNames(); len(n) != 0 {
				t.Errorf("%s, restart %t: %v stay beyond the retention", row.Status, restart, n)
			}
		}
	}
}

// A tag whose runners stay must not be written at each listing.
func TestTagsAreWrittenSeldom(t *testing.T) {
	inv := New(options())
	written := 0
	for m := range 10 * 60 {
		at := t0.Add(time.Duration(m) * time.Minute)
		inv.Listed([]gitlab.Runner{down(1)}, true, at)
		if m%15 == 0 {
			inv.Details(1, tagged(down(1), "a"), nil, at)
		}
		inv.Retire(at)
		inv.Fleet(noJobs, false)
		for _, r := range records(t, inv) {
			if string(r.Key) == prefixTag+"a" {
				written++
			}
		}
	}
	if written < 9 || written > 11 {
		t.Errorf("written %d times in ten hours, want once an hour", written)
	}
}

// All eight combinations for each type that a tag ever had, zeros included.
func TestTagTypesStay(t *testing.T) {
	inv := New(options())
	group := up(2)
	group.Type = "group_type"
	inv.Listed([]gitlab.Runner{up(1), group}, true, t0)
	inv.Details(1, tagged(up(1), "a"), nil, t0)
	d := tagged(group, "a")
	d.RunUntagged = true
	inv.Details(2, d, nil, t0)
	inv.Gone(2)
	types := func(inv *Inventory, name string) (seen [snapshot.NumRunnerTypes]bool) {
		if tag := tagOf(inv.Fleet(noJobs, false), name); tag != nil {
			for k := range tag.Runners {
				seen[k] = tag.Runners[k] != nil
			}
		}
		return seen
	}
	for _, i := range []*Inventory{inv, reload(t, inv, options())} {
		if got := types(i, "a"); got != [3]bool{true, true, false} {
			t.Errorf("types %v", got)
		}
		// (untagged) is a tag like any other here: when its last runner leaves
		// the series must fall to zero, not vanish.
		if got := types(i, snapshot.TagUntagged); got != [3]bool{false, true, false} {
			t.Errorf("types of (untagged) %v", got)
		}
	}
	// A type that changes between two readings of the details counts too.
	project := up(1)
	project.Type = "project_type"
	inv.Listed([]gitlab.Runner{project}, true, t0.Add(time.Minute))
	inv.Retire(t0.Add(time.Minute))
	inv.Gone(1)
	if got := types(reload(t, inv, options()), "a"); got != [3]bool{true, true, true} {
		t.Errorf("types %v", got)
	}
}

func TestAvailableExcludesPausedAndOffline(t *testing.T) {
	inv := New(options())
	paused := up(2)
	paused.Paused, paused.Status = new(true), "paused"
	inv.Listed([]gitlab.Runner{up(1), paused, down(3)}, true, t0)
	for _, r := range []gitlab.Runner{up(1), paused, down(3)} {
		d := tagged(r, "a", fmt.Sprint("only-", r.ID))
		d.RunUntagged = true
		inv.Details(r.ID, d, nil, t0)
	}
	f := inv.Fleet(noJobs, false)
	for name, want := range map[string]int{"a": 1, "only-1": 1, "only-2": 0, "only-3": 0, snapshot.TagUntagged: 1} {
		tag := tagOf(f, name)
		if tag.Available != want || tag.LastAvailable.Equal(t0) != (want > 0) || tag.LastAvailable.IsZero() != (want == 0) {
			t.Errorf("%s: available %d, last %v", name, tag.Available, tag.LastAvailable)
		}
	}
	// The last reading with an available runner is remembered, over restarts.
	at := t0.Add(time.Minute)
	inv.Listed([]gitlab.Runner{down(1), paused, down(3)}, true, at)
	inv.Details(1, tagged(down(1), "a", "only-1"), nil, at)
	for _, i := range []*Inventory{inv, reload(t, inv, options())} {
		f = i.Fleet(noJobs, false)
		for _, name := range []string{"a", "only-1", snapshot.TagUntagged} {
			if tag := tagOf(f, name); tag == nil || tag.Available != 0 || !tag.LastAvailable.Equal(t0) {
				t.Errorf("%s: %+v, want last available at %v", name, tag, t0)
			}
		}
	}
	at = t0.Add(2 * time.Minute)
	inv.Listed([]gitlab.Runner{up(1), paused, down(3)}, true, at)
	if tag := tagOf(inv.Fleet(noJobs, false), "a"); tag.Available != 1 || !tag.LastAvailable.Equal(at) {
		t.Errorf("%+v", tag)
	}
}

func TestCapacityIsTheMostJobsSeen(t *testing.T) {
	inv := New(options())
	inv.Listed(ups(1, 2), true, t0)
	inv.Details(1, tagged(up(1), "a"), nil, t0)
	inv.Details(2, tagged(up(2), "a", "b"), nil, t0)
	capacity := func(when time.Time, rows ...gitlab.Runner) (a, b int) {
		if len(rows) == 0 {
			rows = ups(1, 2)
		}
		inv.Listed(rows, true, when)
		f := inv.Fleet(noJobs, false)
		return tagOf(f, "a").Capacity, tagOf(f, "b").Capacity
	}
	want := func(a, b, wantA, wantB int) {
		t.Helper()
		if a != wantA || b != wantB {
			t.Errorf("capacity %d, %d, want %d, %d", a, b, wantA, wantB)
		}
	}
	day := 24 * time.Hour
	a, b := capacity(t0)
	want(a, b, 0, 0)
	inv.NotePeak(1, 4, t0)
	inv.NotePeak(1, 2, t0.Add(time.Minute))
	inv.NotePeak(2, 3, t0.Add(time.Minute))
	inv.NotePeak(2, 0, t0.Add(2*time.Minute))
	a, b = capacity(t0.Add(time.Hour))
	want(a, b, 7, 3)
	inv.NotePeak(2, 5, t0.Add(time.Hour))
	inv.NotePeak(1, 1, t0.Add(3*day))
	a, b = capacity(t0.Add(6 * day))
	want(a, b, 9, 5)
	inv = reload(t, inv, options())
	a, b = capacity(t0.Add(6 * day))
	want(a, b, 9, 5)
	a, b = capacity(t0.Add(6*day), up(1), down(2)) // only available runners
	want(a, b, 4, 0)
	a, b = capacity(t0.Add(7 * day)) // the first day is over
	want(a, b, 1, 0)
	inv.NotePeak(1, 2, t0.Add(7*day))
	a, b = capacity(t0.Add(10 * day))
	want(a, b, 2, 0)
	inv.NotePeak(1, 1, t0.Add(20*day))
	if n := len(inv.runners[1].peaks); n != 1 {
		t.Errorf("%d days are kept", n)
	}
	a, b = capacity(t0.Add(20 * day))
	want(a, b, 1, 0)
}

func TestPeaksKeepTheMostOfEachDay(t *testing.T) {
	var p peaks
	at := time.Date(2026, 1, 1, 23, 59, 0, 0, time.UTC)
	for i, c := range []struct {
		after   time.Duration
		jobs    int
		changed bool
		most    int
	}{
		{0, 0, false, 0},
		{0, 2, true, 2},
		{0, 2, false, 2},
		{0, 1, false, 2},
		{time.Minute, 1, true, 2}, // another day
		{time.Minute, 3, true, 3},
		{0, 2, false, 3}, // a clock that went back
	} {
		if got := p.see(c.jobs, at.Add(c.after)); got != c.changed {
			t.Errorf("%d: changed %t", i, got)
		}
		if got := p.most(at.Add(c.after)); got != c.most {
			t.Errorf("%d: most %d, want %d", i, got, c.most)
		}
	}
	for d := range 30 {
		p.see(1, at.AddDate(0, 1, d))
	}
	if len(p) != peakDays {
		t.Errorf("%d days are kept, want %d", len(p), peakDays)
	}
}
