package inventory

import (
	"slices"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

func scoped(keys ...string) Options {
	o := options()
	o.Scopes = keys
	return o
}

func minutes(n int) time.Time { return t0.Add(time.Duration(n) * time.Minute) }

// listScope is a whole listing of a scope that began at a minute.
func listScope(inv *Inventory, scope string, n int, ids ...int64) Change {
	return inv.List(Listing{Scope: scope, Rows: ups(ids...), Whole: true, Start: minutes(n), Began: minutes(n)})
}

// GitLab's own 404 and a complete listing that began later: two witnesses.
func TestRunnerLeavesByTwoWitnesses(t *testing.T) {
	for name, c := range map[string]struct {
		notFound time.Time
		listing  Listing
		leaves   bool
	}{
		"a listing that began later":           {minutes(1), Listing{Rows: ups(1), Whole: true, Start: minutes(2), Began: minutes(2)}, true},
		"a listing that began before":          {minutes(2), Listing{Rows: ups(1), Whole: true, Start: minutes(1), Began: minutes(1)}, false},
		"one with rows that cannot be read":    {minutes(1), Listing{Rows: ups(1), Start: minutes(2), Began: minutes(2)}, false},
		"one that shows it":                    {minutes(1), Listing{Rows: ups(1, 2), Whole: true, Start: minutes(2), Began: minutes(2)}, false},
		"GitLab's clock is behind":             {minutes(1), Listing{Rows: ups(1), Whole: true, Start: minutes(-60), Began: minutes(2)}, true},
		"GitLab's clock is ahead":              {minutes(2), Listing{Rows: ups(1), Whole: true, Start: minutes(90), Began: minutes(1)}, false},
		"no 404: once missing is not yet gone": {time.Time{}, Listing{Rows: ups(1), Whole: true, Start: minutes(2), Began: minutes(2)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			inv := New(options())
			inv.Listed(ups(1, 2), true, t0)
			if !c.notFound.IsZero() {
				inv.NotFound(2, c.notFound)
			}
			if !inv.Has(2) || inv.Fleet(noJobs, true).Runners[snapshot.InstanceType][snapshot.Online][0] != 2 {
				t.Fatal("a 404 alone removed it")
			}
			left := inv.List(c.listing).Left
			if gone := slices.Equal(left, []int64{2}); gone != c.leaves || gone == inv.Has(2) {
				t.Errorf("left %v, still there %t", left, inv.Has(2))
			}
		})
	}
	// What a listing or a reading of the details showed since refutes it.
	inv := New(options())
	inv.Listed(ups(1, 2, 3), true, t0)
	inv.NotFound(2, minutes(1))
	inv.NotFound(3, minutes(1))
	if c := inv.Listed(ups(1, 2, 3), true, minutes(2)); !slices.Equal(c.Refuted, []int64{2, 3}) || inv.Doubted(2) {
		t.Errorf("listed all the same: refuted %v, doubted %t", c.Refuted, inv.Doubted(2))
	}
	inv.NotFound(2, minutes(3))
	inv.Details(2, tagged(up(2)), nil, minutes(4))
	if c := inv.Listed(ups(1), true, minutes(5)); len(c.Left) != 0 || inv.Doubted(2) {
		t.Errorf("left %v after a single listing without it", c.Left)
	}
	inv.NotFound(99, minutes(5)) // nobody
}

// A runner leaves when every scope that showed it was read without it: one
// that cannot be read keeps its runners, and no other's.
func TestRunnerLeavesWhenEachScopeLacksIt(t *testing.T) {
	inv := New(scoped("a", "b"))
	listScope(inv, "a", 0, 1, 2)
	listScope(inv, "b", 0, 2, 3)
	for n := 1; n <= 5; n++ { // b cannot be read
		c := listScope(inv, "a", n)
		if want := map[int][]int64{2: {1}}[n]; !slices.Equal(c.Left, want) {
			t.Errorf("listing %d of a: left %v", n, c.Left)
		}
		inv = reload(t, inv, scoped("a", "b"))
	}
	if !slices.Equal(inv.IDs(), []int64{2, 3}) {
		t.Fatalf("while b cannot be read there are %v", inv.IDs())
	}
	listScope(inv, "b", 6, 3)
	if c := listScope(inv, "a", 7); len(c.Left) != 0 {
		t.Errorf("left %v: b had one listing without it", c.Left)
	}
	if c := listScope(inv, "b", 8, 3); !slices.Equal(c.Left, []int64{2}) {
		t.Errorf("left %v", c.Left)
	}
	// It moves from one scope to another.
	listScope(inv, "a", 9, 3)
	listScope(inv, "b", 9)
	listScope(inv, "b", 10)
	if c := listScope(inv, "a", 10, 3); len(c.Left) != 0 || !inv.Has(3) {
		t.Errorf("left %v though another scope shows it", c.Left)
	}
	inv.NotFound(3, minutes(11))
	if c := listScope(inv, "a", 12); !slices.Equal(c.Left, []int64{3}) {
		t.Errorf("left %v: b had dropped it before", c.Left)
	}
	// The 404 of one that two scopes show: both must be read after it.
	listScope(inv, "a", 13, 4)
	listScope(inv, "b", 13, 4)
	inv.NotFound(4, minutes(14))
	if c := listScope(inv, "a", 15); len(c.Left) != 0 {
		t.Error("left though b showed it and was not read since")
	}
	if c := listScope(inv, "b", 15); !slices.Equal(c.Left, []int64{4}) {
		t.Errorf("left %v", c.Left)
	}
}

// Runners of a scope that is older than staleness leave the sums, not the
// fleet, and the tags they had are unknown, not 0.
func TestWithdrawnScopeLeavesTheSums(t *testing.T) {
	o := scoped("a", "b")
	o.Expected = map[string]int{"gpu": 1, "both": 1, "none": 1}
	inv := New(o)
	listScope(inv, "a", 0, 1)
	listScope(inv, "b", 0, 2)
	inv.Details(1, tagged(up(1), "cpu", "both"), nil, t0)
	d := tagged(up(2), "gpu", "both")
	d.RunUntagged = true
	inv.Details(2, d, nil, t0)
	const staleness = 10 * time.Minute
	look := func(n int, online int, tags, unknown string) {
		t.Helper()
		if !inv.Withdraw(minutes(n), minutes(n), staleness) {
			t.Fatalf("minute %d: no scope is fresh", n)
		}
		f := inv.Fleet(noJobs, true)
		if got := f.Runners[snapshot.InstanceType][snapshot.Online][0]; got != online || len(f.Rows) != online {
			t.Errorf("minute %d: %d runners, %d rows", n, got, len(f.Rows))
		}
		if got := strings.Join(tagNames(f), " "); got != tags {
			t.Errorf("minute %d: tags %q, want %q", n, got, tags)
		}
		if got := strings.Join(f.UnknownTags, " "); got != unknown {
			t.Errorf("minute %d: unknown tags %q, want %q", n, got, unknown)
		}
	}
	look(1, 2, "(untagged) both cpu gpu none", "")
	for n := 1; n <= 20; n++ {
		listScope(inv, "a", n, 1)
		inv.Refused("b", minutes(n))
	}
	look(10, 2, "(untagged) both cpu gpu none", "")
	look(11, 1, "cpu none", "(untagged) both gpu")
	if !inv.Has(2) || !inv.Exported(2) {
		t.Error("it left")
	}
	inv.Retire(minutes(20 * 24 * 60))
	if !slices.Contains(inv.TagNames(), "gpu") {
		t.Error("the tag of a runner that cannot be seen was retired")
	}
	// Likewise after a restart, and in time its details do not hold up the sums.
	inv = reload(t, inv, o)
	look(20, 1, "cpu none", "(untagged) both gpu")
	if c := listScope(inv, "b", 21, 2); len(c.Joined) != 0 || !c.Unseen || !c.Since.Equal(minutes(20)) {
		t.Errorf("back: %+v", c)
	}
	look(21, 2, "(untagged) both cpu gpu none", "")
	// Out of the configuration: its runner leaves after a listing of the rest,
	// uncounted, and nothing is unknown any more.
	listScope(inv, "a", 22, 1)
	inv = reload(t, inv, scoped("a"))
	look(23, 2, "(untagged) both cpu gpu none", "")
	if c := listScope(inv, "a", 24, 1); !slices.Equal(c.Dropped, []int64{2}) || len(c.Left) != 0 {
		t.Errorf("%+v", c)
	}
	look(24, 1, "(untagged) both cpu gpu none", "")
	if inv.Withdraw(minutes(35), minutes(35), staleness) {
		t.Error("fresh though no scope is")
	}
}

// A scope that was refused when it was taken out stays out of the sums.
func TestRefusedScopeTakenOutStaysOut(t *testing.T) {
	inv := New(scoped("a", "b"))
	listScope(inv, "a", 0, 1)
	listScope(inv, "b", 0, 2)
	inv.Details(1, tagged(up(1), "cpu"), nil, t0)
	inv.Details(2, tagged(up(2), "gpu"), nil, t0)
	listScope(inv, "a", 30, 1)
	for range 2 { // over a restart before the next listing too
		inv = reload(t, inv, scoped("a", "c"))
		inv.Withdraw(minutes(31), minutes(31), 10*time.Minute)
		f := inv.Fleet(noJobs, true)
		if len(f.Rows) != 1 || slices.Contains(f.UnknownTags, "cpu") {
			t.Errorf("rows %d, unknown %v", len(f.Rows), f.UnknownTags)
		}
	}
	listScope(inv, "a", 32, 1)
	if !inv.Has(2) {
		t.Error("left though c, which may have it now, was never read")
	}
	if c := listScope(inv, "c", 33, 2); len(c.Joined) != 0 {
		t.Error("it moved to c, and joined anew")
	}
	inv.Withdraw(minutes(33), minutes(33), 10*time.Minute)
	if f := inv.Fleet(noJobs, true); len(f.Rows) != 2 || len(f.UnknownTags) != 0 {
		t.Errorf("rows %d, unknown %v", len(f.Rows), f.UnknownTags)
	}
	for n := 34; n < 36; n++ {
		listScope(inv, "a", n, 1)
	}
	if !inv.Has(2) {
		t.Error("left though c shows it")
	}
}

// As long as the runners of a scope were never read, a tag that nobody has may
// be theirs: a floor must not page for it.
func TestScopeNeverReadMakesTagsUnknown(t *testing.T) {
	o := scoped("a", "b")
	o.Expected = map[string]int{"gpu": 1, "cpu": 1}
	inv := New(o)
	listScope(inv, "a", 0, 1)
	inv.Details(1, tagged(up(1), "cpu"), nil, t0)
	inv.Withdraw(minutes(1), minutes(1), 10*time.Minute)
	unknown := func() string { return strings.Join(inv.Fleet(noJobs, false).UnknownTags, " ") }
	if f := inv.Fleet(noJobs, false); !f.Detailed || tagOf(f, "cpu") == nil || tagOf(f, "gpu") != nil || unknown() != "gpu" {
		t.Errorf("detailed %t, tags %v, unknown %q", f.Detailed, tagNames(f), unknown())
	}
	listScope(inv, "b", 2, 2)
	inv.Withdraw(minutes(2), minutes(2), 10*time.Minute)
	if unknown() != "gpu" {
		t.Errorf("its runner's tags were not read yet, unknown is %q", unknown())
	}
	inv.Details(2, tagged(up(2), "arm"), nil, minutes(2))
	if f := inv.Fleet(noJobs, false); unknown() != "" || tagOf(f, "gpu") == nil {
		t.Errorf("all is read: unknown %q, tags %v", unknown(), tagNames(f))
	}
	listScope(inv, "b", 3, 2, 3) // from now on a runner that joins withdraws nothing
	if unknown() != "" {
		t.Errorf("unknown %q", unknown())
	}
}

// Since when a runner that joins may have been there.
func TestJoinedRunnerHasItsEarliestTime(t *testing.T) {
	inv := New(scoped("a", "b", "c"))
	inv.Refused("c", minutes(-1))
	inv.Begin(t0)
	for _, x := range []struct {
		scope  string
		n      int
		since  time.Time
		unseen bool
	}{
		{"a", 0, t0, false},
		{"b", 30, t0, false}, // it was down: what ran there since the start counts
		{"c", 31, minutes(-1), true},
		{"a", 32, t0, false},
		{"a", 33, minutes(32), false},
	} {
		if c := listScope(inv, x.scope, x.n); !c.Since.Equal(x.since) || c.Unseen != x.unseen {
			t.Errorf("%s at %d: since %v, unseen %t", x.scope, x.n, c.Since, c.Unseen)
		}
	}
	inv = reload(t, inv, scoped("a", "d"))
	if c := listScope(inv, "a", 35); !c.Since.Equal(minutes(33)) || c.Unseen {
		t.Errorf("after a reload: %+v", c)
	}
	if c := listScope(inv, "d", 35); !c.Since.IsZero() || !c.Unseen {
		t.Errorf("of a new scope: %+v", c)
	}
	// The records of scopes that are configured no more are gone.
	d := disk{}
	inv = New(scoped("a", "b"))
	listScope(inv, "a", 0)
	listScope(inv, "b", 0)
	d.commit(records(t, inv))
	d.commit(records(t, d.open(t, scoped("a"))))
	if _, ok := d[prefixScope+"b"]; ok || len(d[prefixScope+"a"]) == 0 {
		t.Errorf("records %v", d)
	}
}

// A runner that several scopes show is one.
func TestShownTwiceCountsOnce(t *testing.T) {
	inv := New(scoped("a", "b"))
	listScope(inv, "a", 0, 1)
	if c := listScope(inv, "b", 0, 1); len(c.Joined) != 0 {
		t.Errorf("joined twice: %v", c.Joined)
	}
	inv.Details(1, tagged(up(1), "cpu"), []gitlab.Manager{{Status: "online"}}, t0)
	inv.Withdraw(t0, t0, time.Minute)
	if f := inv.Fleet(noJobs, true); f.Runners[snapshot.InstanceType][snapshot.Online][0] != 1 || sum(tagOf(f, "cpu")) != 1 || f.Managers[snapshot.InstanceType][snapshot.Online] != 1 {
		t.Errorf("%+v", f)
	}
	// One of its scopes is enough to be seen.
	listScope(inv, "b", 30, 1)
	inv.Withdraw(minutes(30), minutes(30), time.Minute)
	if f := inv.Fleet(noJobs, true); len(f.Rows) != 1 || len(f.UnknownTags) != 0 {
		t.Errorf("rows %d, unknown %v", len(f.Rows), f.UnknownTags)
	}
}

// A listing grows old by our clock, whatever GitLab's does: set back, it must
// not keep a picture that nobody has read for hours.
func TestStalenessIgnoresGitLabsClock(t *testing.T) {
	inv := New(scoped("a"))
	listScope(inv, "a", 0, 1)
	const staleness = 10 * time.Minute
	for _, c := range []struct {
		gitlab, ours int
		fresh        bool
	}{{10, 10, true}, {2000, 9, true}, {-2000, 9, true}, {-2000, 11, false}, {0, 11, false}} {
		if got := inv.Withdraw(minutes(c.gitlab), minutes(c.ours), staleness); got != c.fresh {
			t.Errorf("GitLab's minute %d, our minute %d: fresh %t", c.gitlab, c.ours, got)
		}
	}
}
