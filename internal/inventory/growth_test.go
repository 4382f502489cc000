package inventory

import (
	"fmt"
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

func ofType(id int64, kind string) gitlab.Runner {
	r := up(id)
	r.Type = kind
	return r
}

// Anyone who registers a runner chooses its tags: none of them may merge with a
// special value of the exporter's own.
func TestTagsNamedAsOursStayApart(t *testing.T) {
	o := options()
	inv := New(o)
	inv.Listed(ups(1, 2, 3, 4, 5, 6, 7), true, t0)
	untagged := tagged(up(1))
	untagged.RunUntagged = true
	inv.Details(1, untagged, nil, t0)
	for i, own := range []string{"(untagged)", "(unknown)", "(other)", "(no_runner)"} {
		inv.Details(int64(i+2), tagged(up(int64(i+2)), own, "gpu"), nil, t0)
	}
	long := strings.Repeat("é", 511) // 1,022 bytes
	inv.Details(6, tagged(up(6), long, long[:maxTag]), nil, t0)
	omitted := tagged(up(7), "gpu")
	omitted.TagsOmitted = 3
	inv.Details(7, omitted, nil, t0)
	for range 2 {
		for id, want := range map[int64]string{
			1: "(untagged)", 2: "(other) gpu", 3: "(other) gpu", 4: "(other) gpu", 5: "(other) gpu", 6: "(other) " + long[:maxTag], 7: "(other) gpu",
		} {
			if got := labels(inv, id); got != want {
				t.Errorf("runner %d stands under %q, want %q", id, got, want)
			}
		}
		f := inv.Fleet(noJobs, true)
		for name, want := range map[string]int{"(untagged)": 1, "(other)": 6, "gpu": 5} {
			if got := sum(tagOf(f, name)); got != want {
				t.Errorf("%d runners under %s, want %d", got, name, want)
			}
		}
		if tagOf(f, "(unknown)") != nil || tagOf(f, "(no_runner)") != nil {
			t.Errorf("tags %v", tagNames(f))
		}
		// A higher limit would not help them.
		if n := inv.TagsOverLimit(); n != 0 {
			t.Errorf("%d tags over the limit", n)
		}
		inv = reload(t, inv, o)
		inv.Listed(ups(1, 2, 3, 4, 5, 6, 7), true, t0.Add(time.Minute))
		inv.Retire(t0.Add(time.Minute))
	}
	// Renamed, they are tags like any other.
	inv.Details(2, tagged(up(2), "other"), nil, t0.Add(2*time.Minute))
	if got := labels(inv, 2); got != "other" {
		t.Errorf("renamed: %q", got)
	}
}

// The tags that one project runner invents leave half of the limit to everyone
// else, whoever comes first, over restarts.
func TestProjectTagsHoldHalf(t *testing.T) {
	for _, first := range []bool{true, false} {
		o := options()
		o.TagLimit, o.Expected = 20, map[string]int{"deploy": 1}
		inv := New(o)
		rows := []gitlab.Runner{ofType(1, "project_type"), ofType(2, "group_type"), ofType(3, "instance_type")}
		inv.Listed(rows, true, t0)
		invented := tagged(rows[0], "deploy")
		for i := range 500 {
			invented.Tags = append(invented.Tags, fmt.Sprintf("x%03d", i))
		}
		group, instance := tagged(rows[1], "g1", "g2", "g3", "g4"), tagged(rows[2], "i1", "i2", "i3", "i4", "i5")
		read := func(at time.Time) {
			if first {
				inv.Details(1, invented, nil, at)
			}
			inv.Details(2, group, nil, at)
			inv.Details(3, instance, nil, at)
			inv.Details(1, invented, nil, at)
			inv.Retire(at)
		}
		own := func() (project, shared int) {
			for _, name := range inv.TagNames() {
				switch name[0] {
				case 'x':
					project++
				case 'g', 'i':
					shared++
				}
			}
			return project, shared
		}
		at := t0
		for round := range 4 {
			at = at.Add(time.Minute)
			read(at)
			if p, s := own(); p != 10 || s != 9 {
				t.Fatalf("project first %t, round %d: %d tags of the project, %d of others", first, round, p, s)
			}
			if n := inv.TagsOverLimit(); n != 490 {
				t.Errorf("%d tags over the limit, want 490", n)
			}
			if round%2 == 1 {
				before := inv.TagNames()
				inv = reload(t, inv, o)
				inv.Listed(rows, true, at)
				if !slices.Equal(before, inv.TagNames()) {
					t.Errorf("a restart changed the tags")
				}
			}
		}
		// Everything is full: a tag of a group runner waits too, sticky.
		group.Tags = append(group.Tags, "g5", "g6")
		read(at.Add(time.Minute))
		if p, s := own(); p != 10 || s != 9 {
			t.Errorf("full: %d of the project, %d of others", p, s)
		}
		// A group runner gets a tag that a project runner brought: it is theirs now,
		// and its place in the half goes to the project's next one once there is room.
		var mine string
		for _, name := range inv.TagNames() {
			if name[0] == 'x' {
				mine = name
				break
			}
		}
		group.Tags = []string{"g1", "g2", "g3", mine}
		read(at.Add(2 * time.Minute))
		if inv.project != 9 || inv.tags[mine] == nil || inv.countsAsProject(inv.tags[mine]) {
			t.Errorf("%d tags count as the project's, want 9", inv.project)
		}
		inv = reload(t, inv, o)
		if inv.project != 9 || inv.countsAsProject(inv.tags[mine]) {
			t.Errorf("after a restart %d tags count as the project's, want 9", inv.project)
		}
		inv.Listed(rows, true, at)
		later := at.Add(8 * 24 * time.Hour)
		read(later)
		if p, s := own(); inv.project != 10 || p != 11 || s != 8 {
			t.Errorf("with room again: %d tags count as the project's; %d and %d", inv.project, p, s)
		}
	}
}

// What counts as the project's is fitted in after a changed configuration: tags
// that had a floor, or a lowered limit.
func TestProjectTagsAreFittedInAfterAReload(t *testing.T) {
	o := options()
	o.TagLimit, o.Expected = 8, map[string]int{"x1": 1, "x2": 1, "x3": 1}
	inv := New(o)
	rows := []gitlab.Runner{ofType(1, "project_type"), ofType(2, "group_type")}
	inv.Listed(rows, true, t0)
	inv.Details(1, tagged(rows[0], "x1", "x2", "x3", "x4", "x5", "x6", "x7"), nil, t0)
	inv.Details(2, tagged(rows[1], "g1"), nil, t0)
	check := func(want string, project int) {
		t.Helper()
		if got := strings.Join(inv.TagNames(), " "); got != want || inv.project != project {
			t.Errorf("tags %q, %d of projects, want %q, %d", got, inv.project, want, project)
		}
	}
	check("g1 x1 x2 x3 x4 x5 x6 x7", 4)
	o.Expected = nil
	inv = reload(t, inv, o)
	check("g1 x4 x5 x6 x7", 4)
	o.TagLimit = 2
	inv = reload(t, inv, o)
	check("g1 x7", 1)
}

// TestAdmissionKeepsTheLimits: whatever happens, the limit and the half are kept, expected
// tags are there, a tag keeps its series as long as it is carried and through
// the retention, nobody waits while there is a place for them, and a restart
// changes nothing.
func TestAdmissionKeepsTheLimits(t *testing.T) {
	for seed := range uint64(rig.Sized(150, 40)) {
		rng := rand.New(rand.NewPCG(seed, 7))
		o := options()
		o.TagLimit = 1 + rng.IntN(12)
		o.Expected = map[string]int{"t0": 1}
		if rng.IntN(2) == 0 {
			o.Expected = nil
		}
		kinds := []string{"instance_type", "group_type", "project_type", "project_type"}
		inv, at := New(o), t0
		var rows []gitlab.Runner
		for id := range int64(8) {
			rows = append(rows, ofType(id+1, kinds[rng.IntN(4)]))
		}
		inv.Listed(rows, true, at)
		prev := map[string]bool{}
		for step := range 150 {
			at = at.Add(time.Duration(rng.IntN(300)) * time.Minute)
			retired := false
			switch rng.IntN(6) {
			case 0, 1, 2:
				i := rng.IntN(len(rows))
				d := tagged(rows[i])
				for range rng.IntN(6) {
					d.Tags = append(d.Tags, fmt.Sprintf("t%d", rng.IntN(25)))
				}
				d.RunUntagged = rng.IntN(3) == 0
				inv.Details(rows[i].ID, d, nil, at)
			case 3:
				i := rng.IntN(len(rows))
				rows[i].Type = kinds[rng.IntN(4)]
				inv.Listed(rows, true, at)
			case 4:
				// Promotions of this turn free places for the next.
				inv.Retire(at)
				inv.Retire(at)
				retired = true
			default:
				before := fmt.Sprint(inv.TagNames(), inv.project)
				inv = reload(t, inv, o)
				inv.Listed(rows, true, at)
				if after := fmt.Sprint(inv.TagNames(), inv.project); after != before {
					t.Fatalf("seed %d, step %d: a restart made %s of %s", seed, step, after, before)
				}
			}
			held, project := 0, 0
			carried := map[string]carriers{}
			for _, r := range inv.runners {
				for _, name := range r.tags {
					carried[name] = carried[name].with(r.kind)
				}
			}
			for name, tg := range inv.tags {
				if name != snapshot.TagUntagged {
					held++
				}
				if inv.countsAsProject(tg) {
					project++
				}
			}
			if held > o.TagLimit || project > o.TagLimit/2 || project != inv.project {
				t.Fatalf("seed %d, step %d: limit %d: %d tags, %d of projects (counted %d)", seed, step, o.TagLimit, held, project, inv.project)
			}
			for name := range o.Expected {
				if inv.tags[name] == nil {
					t.Fatalf("seed %d, step %d: expected tag %s is missing", seed, step, name)
				}
			}
			for name := range prev {
				if carried[name].n > 0 && inv.tags[name] == nil {
					t.Fatalf("seed %d, step %d: %s lost its series though runners have it", seed, step, name)
				}
			}
			clear(prev)
			for name := range inv.tags {
				prev[name] = true
			}
			for name, c := range carried {
				if retired && inv.tags[name] == nil && held < o.TagLimit && (c.shared() || project < o.TagLimit/2) {
					t.Fatalf("seed %d, step %d: %s waits though there is a place", seed, step, name)
				}
			}
		}
	}
}

// fleetOf lists one runner for each version.
func fleetOf(inv *Inventory, versions []string, at time.Time) {
	ids := make([]int64, len(versions))
	for i := range ids {
		ids[i] = int64(i + 1)
	}
	inv.Listed(ups(ids...), true, at)
	inv.Listed(ups(ids...), true, at) // who left has left
	for i, v := range versions {
		d := tagged(up(ids[i]))
		d.Version = v
		inv.Details(ids[i], d, nil, at)
	}
}

func versionsOf(inv *Inventory) map[string]int {
	out := map[string]int{}
	for _, v := range inv.Fleet(noJobs, false).Versions {
		if _, twice := out[v.Version]; twice {
			panic("two series of " + v.Version)
		}
		out[v.Version] = v.Runners
	}
	return out
}

// A runner sends any text as its version: 50 have series, those with most
// runners, and those that have one do not take turns with others.
func TestVersionsAreBounded(t *testing.T) {
	inv := New(options())
	var fleet []string
	add := func(v string, n int) {
		for range n {
			fleet = append(fleet, v)
		}
	}
	for i := range 49 {
		add(fmt.Sprintf("17.%d.0", i), 100)
	}
	add("a", 8)
	add("b", 8)
	for i := range 300 {
		add(fmt.Sprintf("junk-%d", i), 1)
	}
	add("", 2)
	add("(other)", 3)
	add("(unknown)", 4)
	fleetOf(inv, fleet, t0)
	check := func(in, out string, others int) {
		t.Helper()
		v := versionsOf(inv)
		total := 0
		for _, n := range v {
			total += n
		}
		if _, there := v[out]; len(v) != 52 || v[in] == 0 || there || v[snapshot.TagOther] != others || v["(unknown)"] != 2 || total != len(fleet) {
			t.Errorf("%d versions, %s %d, %s %d, (other) %d, (unknown) %d, in all %d of %d", len(v), in, v[in], out, v[out], v[snapshot.TagOther], v["(unknown)"], total, len(fleet))
		}
	}
	others := 8 + 300 + 3 + 4
	check("a", "b", others) // the same number: by name
	add("b", 2)
	fleetOf(inv, fleet, t0.Add(time.Minute))
	check("a", "b", others+2) // not clearly more
	add("b", 1)
	fleetOf(inv, fleet, t0.Add(2*time.Minute))
	check("b", "a", others)
	add("a", 3)
	fleetOf(inv, fleet, t0.Add(3*time.Minute))
	check("b", "a", others+3)
	for _, v := range inv.Fleet(noJobs, false).Versions {
		if (v.Version == "17.40.0") != (v.Behind == 8) || (v.Version == snapshot.TagOther && v.Behind >= 0) {
			t.Errorf("%+v", v)
		}
	}
	// Few versions: no (other), but for those named as ours.
	fleetOf(inv, []string{"17.1.0", "17.2.0"}, t0.Add(4*time.Minute))
	if v := versionsOf(inv); len(v) != 2 {
		t.Errorf("%v", v)
	}
	fleetOf(inv, []string{"17.1.0", "", "(unknown)", "(other)", "(untagged)"}, t0.Add(5*time.Minute))
	if v := versionsOf(inv); len(v) != 3 || v["(unknown)"] != 1 || v[snapshot.TagOther] != 3 {
		t.Errorf("%v", v)
	}
}

// A runner known for less than min_age has no series of its own but stands in
// the sums; how long it is known outlives a restart.
func TestYoungRunnerHasNoSeriesOfItsOwn(t *testing.T) {
	o := options()
	o.RunnerMinAge = 15 * time.Minute
	inv := New(o)
	at := func(minutes int) time.Time { return t0.Add(time.Duration(minutes) * time.Minute) }
	check := func(when string, want ...bool) {
		t.Helper()
		f := inv.Fleet(noJobs, true)
		for i, r := range f.Rows {
			if r.Exported != want[i] || inv.Exported(r.ID) != want[i] {
				t.Errorf("%s: runner %d exported %t, want %t", when, r.ID, r.Exported, want[i])
			}
		}
		if len(f.Rows) != len(want) || f.Runners[snapshot.InstanceType][snapshot.Online][0] != len(want) {
			t.Errorf("%s: %d rows", when, len(f.Rows))
		}
	}
	inv.Listed(ups(1), true, at(0))
	check("at first", false)
	inv.Listed(ups(1, 2), true, at(14))
	check("a minute early", false, false)
	inv = reload(t, inv, o)
	inv.Listed(ups(1, 2), true, at(15))
	check("after a restart", true, false)
	inv.Listed(ups(1, 2), true, at(29))
	check("later", true, true)
	// One that left and returns is new.
	inv.Listed(ups(1), true, at(30))
	inv.Listed(ups(1), true, at(31))
	inv.Listed(ups(1, 2), true, at(32))
	check("returned", true, false)
	// A clock days ahead that is right again must not hide it for days.
	inv.Listed(ups(1, 2, 3), true, at(3*24*60))
	inv.Listed(ups(1, 2, 3), true, at(40))
	inv.Listed(ups(1, 2, 3), true, at(55))
	check("after a wrong clock", true, true, true)
	// Without an age all have series at once, whatever the clock did.
	o.RunnerMinAge = 0
	inv = reload(t, inv, o)
	inv.Listed(ups(1, 2, 3, 4), true, at(50))
	check("without an age", true, true, true, true)
}

// A record that cannot be encoded is left out alone, and named.
func TestRecordThatCannotBeEncodedIsLeftOutAlone(t *testing.T) {
	inv := New(options())
	inv.Listed(ups(1, 2, 3), true, t0)
	for id := range int64(3) {
		d := tagged(up(id+1), "gpu")
		if id == 1 {
			d.ContactedAt = time.Date(10_000, 1, 1, 11, 59, 59, 0, time.UTC)
		}
		inv.Details(id+1, d, nil, t0)
	}
	recs, left := inv.Records()
	if len(left) != 1 || left[0].Subject() != "runner 2" || left[0].Err == nil {
		t.Fatalf("left out: %+v", left)
	}
	d := disk{}
	d.commit(recs)
	if again := d.open(t, options()); !slices.Equal(again.IDs(), []int64{1, 3}) || again.tags["gpu"] == nil || !again.ListedAt().Equal(t0) {
		t.Errorf("saved: runners %v, tags %v", again.IDs(), again.TagNames())
	}
	if recs, left := inv.Records(); len(recs)+len(left) != 0 {
		t.Error("tried again though nothing changed")
	}
	// Right again, it is saved like any other.
	inv.Details(2, tagged(up(2), "gpu"), nil, t0.Add(time.Hour))
	recs, left = inv.Records()
	d.commit(recs)
	if len(left) != 0 || d.open(t, options()).Len() != 3 {
		t.Errorf("still left out: %v", left)
	}
	for _, c := range []struct{ key, want string }{
		{string(runnerKey(7)), "runner 7"}, {prefixTag + "gpu", `tag "gpu"`}, {keyMeta, `record "im"`}, {"", `record ""`},
	} {
		if got := (record.Record{Key: []byte(c.key)}).Subject(); got != c.want {
			t.Errorf("%q is called %s", c.key, got)
		}
	}
	if s := (record.Record{Key: []byte(prefixTag + strings.Repeat("x", 40_000))}).Subject(); len(s) > 200 {
		t.Errorf("a name of %d bytes in a message", len(s))
	}
}

// A contact of the far future, once read, must not outdo the true ones for ever.
func TestContactOfTheFutureDoesNotStand(t *testing.T) {
	inv := New(options())
	inv.Listed(ups(1), true, t0)
	at := func(minutes int) time.Time { return t0.Add(time.Duration(minutes) * time.Minute) }
	read := func(when, contact time.Time) {
		d := tagged(up(1))
		d.ContactedAt = contact
		inv.Details(1, d, nil, when)
	}
	read(at(0), time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC))
	read(at(10), at(1))
	read(at(20), at(1))
	if got := inv.UntouchedUntil(1, at(5)); !got.Equal(at(20)) {
		t.Errorf("untouched until %v, want %v", got, at(20))
	}
}
