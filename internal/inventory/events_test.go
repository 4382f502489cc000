package inventory

import (
	"fmt"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// rowOf is a runner's row of the runner_ families.
func rowOf(tb testing.TB, inv *Inventory, id int64) snapshot.Runner {
	tb.Helper()
	for _, r := range inv.Fleet(noJobs, true).Rows {
		if r.ID == id {
			return r
		}
	}
	tb.Fatalf("runner %d has no row", id)
	return snapshot.Runner{}
}

func paused(r gitlab.Runner) gitlab.Runner {
	r.Paused = new(true)
	return r
}

func stale(id int64) gitlab.Runner {
	r := down(id)
	r.Status = "stale"
	return r
}

// TestSinceIsTheFirstReadingOfAValue: the first reading that showed the present value, whatever else
// changes, over restarts too.
func TestSinceIsTheFirstReadingOfAValue(t *testing.T) {
	const never = -1
	inv := New(options())
	list := func(n int, row gitlab.Runner) { inv.Listed([]gitlab.Runner{row}, true, minutes(n)) }
	want := func(status, paused int) {
		t.Helper()
		r := rowOf(t, inv, 1)
		at := func(n int) time.Time {
			if n == never {
				return time.Time{}
			}
			return minutes(n)
		}
		if !r.StatusSince.Equal(at(status)) || !r.PausedSince.Equal(at(paused)) {
			t.Errorf("status since %v, paused since %v, want minutes %d and %d", r.StatusSince, r.PausedSince, status, paused)
		}
	}
	list(0, down(1))
	want(0, never) // offline at the first reading: nobody knows longer
	renamed := down(1)
	renamed.Description = "renamed"
	list(1, renamed)
	want(0, never)
	list(2, paused(down(1)))
	want(0, 2)
	inv = reload(t, inv, options())
	want(0, 2)
	list(3, paused(down(1)))
	want(0, 2)
	list(4, stale(1)) // another status, and not paused any more
	want(4, never)
	inv.Details(1, tagged(paused(up(1)), "a"), nil, minutes(5)) // a reading of the details shows it too
	want(5, 5)
	list(6, paused(up(1)))
	want(5, 5)
	list(-60, paused(up(1))) // GitLab's clock was an hour ahead
	want(-60, -60)
	if got := inv.events.Changes[snapshot.InstanceType]; got != 2 {
		t.Errorf("%d changes of status, want 2: offline to stale, stale to online", got)
	}
}

// TestOnlyRealMovesAreCounted: who came to GitLab and left it, not what the
// configuration, a refusal or another shard showed and hid.
func TestOnlyRealMovesAreCounted(t *testing.T) {
	inv := New(scoped("a"))
	want := func(what string, joined, left uint64) {
		t.Helper()
		ev := inv.events
		got := [2]uint64{ev.Joined[snapshot.InstanceType], ev.Left[snapshot.InstanceType]}
		if got != [2]uint64{joined, left} {
			t.Errorf("%s: joined and left are %v, want %d and %d", what, got, joined, left)
		}
	}
	inv.Begin(t0)
	listScope(inv, "a", 0, 1, 2)
	want("the first listing", 0, 0)
	listScope(inv, "a", 1, 1, 2, 3)
	want("one came", 1, 0)
	listScope(inv, "a", 2, 1, 3)
	want("one is missing once", 1, 0)
	listScope(inv, "a", 3, 1, 3)
	want("one left", 1, 1)
	inv.Refused("a", minutes(4))
	listScope(inv, "a", 5, 1, 3, 4)
	want("after a refusal", 1, 1)
	listScope(inv, "a", 6, 1, 3, 4, 5)
	want("the refusal is over", 2, 1)

	inv = reload(t, inv, scoped("a"))
	want("a restart", 2, 1)
	listScope(inv, "a", 60, 1, 3, 4, 5, 6)
	want("one came while the exporter was down", 3, 1)

	inv = reload(t, inv, scoped("a", "b"))
	listScope(inv, "b", 61, 7, 8)
	listScope(inv, "a", 61, 1, 3, 4, 5, 6)
	want("another scope", 3, 1)
	inv = reload(t, inv, scoped("a"))
	listScope(inv, "a", 62, 1, 3, 4, 5, 6)
	listScope(inv, "a", 63, 1, 3, 4, 5, 6)
	if inv.Len() != 5 {
		t.Fatalf("%d runners: those of the scope that is gone are still there", inv.Len())
	}
	want("a scope out of the configuration", 3, 1)
	inv.Gone(6)
	want("another shard's", 3, 1)
}

// TestEventsAreShownOnceSaved, and first at 0, so that increase() sees the first
// event.
func TestEventsAreShownOnceSaved(t *testing.T) {
	inv := New(options())
	gen, served := uint64(0), uint64(0)
	now := t0
	show := func() string {
		gen++
		now = now.Add(time.Second)
		var c snapshot.Counters
		inv.Events(&c, gen, served, now)
		if c.RunnersJoined == nil {
			return "none"
		}
		k := snapshot.InstanceType
		return fmt.Sprint(c.StatusChanges[k].Value, c.RunnersJoined[k].Value, c.RunnersLeft[k].Value)
	}
	save := func(ok bool) {
		recs := records(t, inv)
		if ok {
			inv.Committed()
		} else {
			inv.Failed(recs)
		}
	}
	want := func(what, s string) {
		t.Helper()
		if got := show(); got != s {
			t.Errorf("%s: %s, want %s", what, got, s)
		}
	}
	want("before the first listing", "none")
	inv.Listed(ups(1, 2), true, t0)
	want("before the first commit", "none")
	save(true)
	want("after the first commit", "0 0 0")
	inv.Listed([]gitlab.Runner{up(1), down(2), up(3)}, true, minutes(1))
	save(true)
	want("no scrape yet", "0 0 0")
	served = gen
	want("a scrape read the zeros", "0 0 0") // not on disk yet
	save(true)
	want("and that is on disk", "1 1 0")
	inv.Listed(ups(1, 2, 3), true, minutes(2))
	save(false)
	want("a commit that failed", "1 1 0")
	save(true)
	want("the next one", "2 1 0")

	// Without any scrape they wait for five minutes.
	inv = New(options())
	served = 0
	inv.Listed(ups(1), true, t0)
	save(true)
	want("new", "0 0 0")
	inv.Listed(ups(1, 2), true, minutes(1))
	save(true)
	want("waits", "0 0 0")
	now = now.Add(exposeAfter)
	show()
	save(true)
	want("waited", "0 1 0")
}
