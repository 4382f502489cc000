package inventory

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/record"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/test/rig"
)

// disk is what was committed.
type disk map[string][]byte

func (d disk) commit(recs []record.Record) {
	for _, r := range recs {
		if r.Value == nil {
			delete(d, string(r.Key))
		} else {
			d[string(r.Key)] = bytes.Clone(r.Value)
		}
	}
}

func (d disk) open(tb testing.TB, o Options) *Inventory {
	tb.Helper()
	inv := New(o)
	for k, v := range d {
		if handled, err := inv.Load([]byte(k), v); !handled || err != nil {
			tb.Fatalf("record %q: handled %t, %v", k, handled, err)
		}
	}
	inv.Finish()
	return inv
}

func records(tb testing.TB, inv *Inventory) []record.Record {
	tb.Helper()
	recs, left := inv.Records()
	for _, l := range left {
		tb.Fatalf("%s is left out: %v", l.Subject(), l.Err)
	}
	return recs
}

// reload is a restart with all of the state, as if the last commit had
// written everything.
func reload(tb testing.TB, inv *Inventory, o Options) *Inventory {
	tb.Helper()
	records(tb, inv)
	inv.dirtyMeta = true
	for id := range inv.runners {
		inv.dirtyRunners[id] = struct{}{}
	}
	for key := range inv.scopes {
		inv.dirtyScopes[key] = struct{}{}
	}
	// Tags as they were committed: whether what is remembered of them reached
	// the disk in time is what is tested.
	d := disk{}
	d.commit(records(tb, inv))
	for name, tg := range inv.tags {
		b, err := json.Marshal(tagRecord{tg.types, tg.saved, tg.lastAvailable})
		if err != nil {
			tb.Fatal(err)
		}
		d[prefixTag+name] = b
	}
	return d.open(tb, o)
}

// picture is all that a picture shows, the moments of seen included.
func picture(inv *Inventory) string {
	f := inv.Fleet(noJobs, true)
	if f == nil {
		return "none"
	}
	var s strings.Builder
	fmt.Fprintf(&s, "listed %d version %s detailed %t %t %v %v %v %+v\n", inv.listedAt.UnixNano(), inv.version, f.Detailed, f.MachinesWhole, f.Runners, f.Managers, f.ManagersRead, f.Versions)
	ev := inv.events
	fmt.Fprintf(&s, "changes %v joined %v left %v exposed %t since %d\n", ev.Changes, ev.Joined, ev.Left, ev.Exposed, ev.Created.UnixNano())
	for _, tag := range f.Tags {
		fmt.Fprintf(&s, "%s last %d capacity %d available %d", tag.Name, tag.LastAvailable.UnixNano(), tag.Capacity, tag.Available)
		for k, r := range tag.Runners {
			if r != nil {
				fmt.Fprint(&s, " ", k, *r)
			}
		}
		s.WriteString("\n")
	}
	for _, r := range f.Rows {
		r.ContactedAt, r.DetailsAt = r.ContactedAt.UTC(), r.DetailsAt.UTC()
		r.StatusSince, r.PausedSince = r.StatusSince.UTC(), r.PausedSince.UTC()
		fmt.Fprintf(&s, "%+v dropped %t", r, inv.runners[r.ID].dropped)
		shown := slices.Clone(inv.runners[r.ID].shown)
		slices.SortFunc(shown, func(a, b showing) int { return strings.Compare(a.scope.key, b.scope.key) })
		for _, sh := range shown {
			fmt.Fprintf(&s, " %s %d", sh.scope.key, sh.missing)
		}
		s.WriteString("\n")
	}
	for _, key := range slices.Sorted(maps.Keys(inv.scopes)) {
		sc := inv.scopes[key]
		fmt.Fprintf(&s, "%s listed %d since %d unseen %t graphql %t\n", key, sc.listedAt.UnixNano(), sc.since.UnixNano(), sc.unseen, sc.byGraphQL)
	}
	return s.String()
}

// TestRecordsHoldEverything lets an inventory live, with commits that fail,
// and compares it with what a restart brings back.
func TestRecordsHoldEverything(t *testing.T) {
	for seed := range uint64(rig.Sized(60, 20)) {
		rng := rand.New(rand.NewPCG(seed, seed))
		o := options()
		o.TagLimit = 6
		o.Expected = map[string]int{"t1": 1}
		o.Scopes = []string{"a", "b"}
		inv, d := New(o), disk{}
		at := t0
		kinds := []string{"instance_type", "group_type", "project_type"}
		statuses := []string{"online", "offline", "stale", "never_contacted", "paused"}
		row := func(id int64) gitlab.Runner {
			r := up(id)
			r.Type, r.Status = kinds[int(id)%3], statuses[rng.IntN(5)]
			r.Paused, r.Online = new(rng.IntN(4) == 0), new(rng.IntN(2) == 0)
			r.Description = fmt.Sprintf("runner %d %q \u2028 é <%d>", id, '"', rng.IntN(3))
			return r
		}
		commits, failed := 0, 0
		for range 400 {
			at = at.Add(time.Duration(rng.Int64N(int64(3 * time.Hour))))
			id := 1 + rng.Int64N(12)
			switch rng.IntN(9) {
			case 0, 1:
				var rows []gitlab.Runner
				for i := range int64(12) {
					if rng.IntN(3) > 0 {
						rows = append(rows, row(i+1))
					}
				}
				scope := o.Scopes[rng.IntN(2)]
				if rng.IntN(5) == 0 {
					inv.Refused(scope, at)
					break
				}
				inv.List(Listing{Scope: scope, Rows: rows, Whole: rng.IntN(5) > 0, Start: at, Began: at})
				inv.SetByGraphQL(scope, rng.IntN(2) == 0)
			case 2, 3:
				dt := tagged(row(id))
				for range rng.IntN(4) {
					dt.Tags = append(dt.Tags, fmt.Sprintf("t%d", rng.IntN(12)))
				}
				dt.RunUntagged, dt.Protected, dt.Owner = rng.IntN(3) == 0, rng.IntN(2) == 0, []string{"", "a/b"}[rng.IntN(2)]
				dt.Platform, dt.Arch, dt.ContactedAt = "linux", "amd64", at.Add(-time.Minute).Truncate(time.Millisecond)
				var ms []gitlab.Manager
				for range rng.IntN(3) {
					ms = append(ms, gitlab.Manager{Status: statuses[rng.IntN(4)], Version: fmt.Sprintf("17.%d.0", rng.IntN(5))})
				}
				inv.Details(id, dt, ms, at)
			case 4:
				inv.NotePeak(id, rng.IntN(5), at)
			case 5:
				if rng.IntN(3) == 0 {
					inv.Gone(id)
				}
				inv.SetVersion(fmt.Sprintf("18.%d.0", rng.IntN(3)))
			case 6:
				inv.Retire(at)
			case 7:
				inv.Fleet(noJobs, false)
			default:
				recs := records(t, inv)
				if commits++; rng.IntN(3) == 0 {
					failed++
					inv.Failed(recs)
				} else {
					d.commit(recs)
				}
			}
		}
		if commits < 10 || failed < 2 {
			t.Fatalf("seed %d: %d commits, %d failed: the test proves too little", seed, commits, failed)
		}
		inv.Retire(at) // labels by what is known now, as a restart derives them
		for _, r := range inv.runners {
			r.listed = time.Time{} // not saved: one listing more or less
			for _, sh := range r.shown {
				r.listed = maxTime(r.listed, sh.scope.listedAt)
			}
		}
		want := picture(inv)
		d.commit(records(t, inv))
		if len(records(t, inv)) != 0 {
			t.Fatalf("seed %d: records though nothing changed", seed)
		}
		again := d.open(t, o)
		// What a restart asks anew: three failures in a row.
		for key, sc := range inv.scopes {
			again.scopes[key].settled = sc.settled
		}
		if got := picture(again); got != want {
			t.Fatalf("seed %d: after a restart\n%s\nbefore\n%s", seed, got, want)
		}
		for name, tg := range inv.tags {
			back := again.tags[name]
			if back == nil || back.types != tg.types || !back.lastAvailable.Equal(tg.lastAvailable) || tg.seen.Sub(back.seen) > seenSlack || back.seen.After(tg.seen) {
				t.Fatalf("seed %d: tag %s: %+v, was %+v", seed, name, back, tg)
			}
		}
		if len(again.tags) != len(inv.tags) {
			t.Fatalf("seed %d: tags %v, were %v", seed, again.TagNames(), inv.TagNames())
		}
		// Nothing to write after a restart but what New itself admits.
		for _, r := range records(t, again) {
			if string(r.Key) != prefixTag+"t1" {
				t.Fatalf("seed %d: a restart alone rewrites %q", seed, r.Key)
			}
		}
	}
}

func TestLoadRefusesDamagedRecords(t *testing.T) {
	runner := func(id int64) string { return string(runnerKey(id)) }
	for _, c := range []struct {
		key, value string
		handled    bool
	}{
		{"", `{}`, false},
		{"i", `{}`, false},
		{"xx", `{}`, false},
		{"jr12345678", `{}`, false},
		{keyMeta, `[]`, true},
		{keyMeta, ``, true},
		{runner(1), `{"t":3}`, true},
		{runner(1), `{"t":-1}`, true},
		{runner(1), `{"s":4}`, true},
		{runner(1), `nonsense`, true},
		{runner(0), `{}`, true},
		{runner(-5), `{}`, true},
		{prefixRunner, `{}`, true},
		{prefixRunner + "123", `{}`, true},
		{prefixRunner + "1234567890", `{}`, true},
		{prefixTag + "a", `{"s":"yesterday"}`, true},
	} {
		inv := New(options())
		handled, err := inv.Load([]byte(c.key), []byte(c.value))
		if handled != c.handled || (err != nil) != c.handled {
			t.Errorf("%q %s: handled %t, %v", c.key, c.value, handled, err)
		}
		inv.Finish()
		if inv.Len() != 0 || len(inv.tags) != 0 {
			t.Errorf("%q %s left something behind", c.key, c.value)
		}
	}
}

// FuzzLoad: whatever stands in a state, loading it ends, and what it accepts
// can be shown and written again.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(keyMeta), []byte(`{"listed_at":"2026-03-01T12:00:00Z","version":"18.0.0"}`))
	f.Add(runnerKey(7), []byte(`{"t":1,"s":2,"p":true,"tags":["b","a"],"v":"1999999999.1","pk":[{"d":20000,"n":3}],"mm":[1,0,0,2]}`))
	f.Add([]byte(prefixTag+"gpu"), []byte(`{"t":[true,false,true],"s":"2026-03-01T12:00:00Z"}`))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		inv := New(options())
		if handled, err := inv.Load(key, value); !handled || err != nil {
			return
		}
		inv.Finish()
		inv.Listed(ups(3), true, t0)
		inv.Retire(t0)
		inv.Fleet(noJobs, true)
		inv.dirtyMeta = true
		for id := range inv.runners {
			inv.dirtyRunners[id] = struct{}{}
		}
		for name := range inv.tags {
			inv.dirtyTags[name] = struct{}{}
		}
		d := disk{}
		d.commit(records(t, inv))
		again := d.open(t, options())
		if !slices.Equal(again.IDs(), inv.IDs()) || !slices.Equal(slices.Sorted(maps.Keys(again.tags)), slices.Sorted(maps.Keys(inv.tags))) {
			t.Errorf("written and loaded again: %v %v, were %v %v", again.IDs(), again.TagNames(), inv.IDs(), inv.TagNames())
		}
	})
}

func benchFleet(n int) (*Inventory, []gitlab.Runner) {
	inv := New(options())
	rows := make([]gitlab.Runner, 0, n)
	for i := range n {
		r := up(int64(i + 1))
		r.Description = fmt.Sprintf("runner %d", i)
		rows = append(rows, r)
	}
	inv.Listed(rows, true, t0)
	for i := range rows {
		d := tagged(rows[i], "linux", fmt.Sprintf("t%d", i%200), fmt.Sprintf("u%d", i%97))
		inv.Details(rows[i].ID, d, []gitlab.Manager{{Status: "online", Version: fmt.Sprintf("17.%d.0", i%12)}}, t0)
	}
	return inv, rows
}

func BenchmarkListedAndFleet(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		inv, rows := benchFleet(n)
		records(b, inv)
		for _, withRows := range []bool{false, true} {
			b.Run(fmt.Sprintf("runners=%d/rows=%t", n, withRows), func(b *testing.B) {
				b.ReportAllocs()
				at := t0
				for b.Loop() {
					at = at.Add(time.Minute)
					inv.Listed(rows, true, at)
					inv.Retire(at)
					if f := inv.Fleet(noJobs, withRows); f.Runners[snapshot.InstanceType][snapshot.Online][0] != n {
						b.Fatal("not all are online")
					}
				}
			})
		}
	}
}

// A picture must not allocate for each runner: it is made every few seconds.
func TestPictureAllocatesNothingForEachRunner(t *testing.T) {
	inv, rows := benchFleet(10_000)
	inv.Listed(rows, true, t0.Add(time.Minute))
	tags := len(inv.TagNames())
	if n := testing.AllocsPerRun(3, func() { inv.Fleet(noJobs, true) }); n > float64(4*tags+100) {
		t.Errorf("%.0f allocations for a picture of 10,000 runners and %d tags", n, tags)
	}
}
