package gitlabsim

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestStatusFollowsGitLabsRules holds the rules of docs/gitlab-api.md 3.1 and 3.2: what a silent
// runner's row, its machine's row and the status filters show as time passes.
func TestStatusFollowsGitLabsRules(t *testing.T) {
	for _, tc := range []struct {
		version string
		silent  time.Duration
		paused  bool
		online  any
		rest    string
		manager string
		filters string // which ?status= list it
	}{
		{"", time.Minute, false, true, "online", "online", "active online"},
		{"", 2*time.Hour - time.Second, false, true, "online", "online", "active online"},
		{"", 2 * time.Hour, false, false, "offline", "offline", "active offline"},
		{"", time.Minute, true, true, "paused", "online", "paused online"},
		{"", 3 * time.Hour, true, false, "paused", "offline", "paused offline"},
		{"", 7 * 24 * time.Hour, false, false, "offline", "offline", "active offline"},
		{"", 7*24*time.Hour + time.Second, false, false, "stale", "stale", "active offline stale"},
		{"", 8 * 24 * time.Hour, true, false, "stale", "", "paused offline stale"},
		{"15.11.0", time.Hour - time.Second, false, true, "online", "", "active online"},
		{"15.11.0", time.Hour, false, false, "offline", "", "active offline"},
		{"15.11.0", time.Minute, true, true, "paused", "", "paused online"},
		{"15.11.0", 8 * 24 * time.Hour, false, false, "offline", "", "active offline"},
		{"15.11.0", 91 * 24 * time.Hour, false, false, "stale", "", "active offline stale"},
	} {
		t.Run(fmt.Sprintf("%s silent %v paused %v", tc.version, tc.silent, tc.paused), func(t *testing.T) {
			w, c := newWorld(Options{Version: tc.version})
			id := w.AddRunner(RunnerSpec{Paused: tc.paused, Tags: []string{"a"}})
			w.SetOnline(id, false)
			c.add(tc.silent)
			row := must(t, w, "/runners/all").rows(t)[0]
			if row["online"] != tc.online || row["status"] != tc.rest || row["paused"] != tc.paused || row["active"] == tc.paused {
				t.Errorf("row %v", row)
			}
			if tc.manager != "" {
				if m := must(t, w, "/runners/1/managers").rows(t)[0]; m["status"] != tc.manager {
					t.Errorf("machine %v", m)
				}
			}
			var in []string
			for _, s := range []string{"active", "paused", "online", "offline", "never_contacted", "stale"} {
				if len(must(t, w, "/runners/all?status="+s).rows(t)) == 1 {
					in = append(in, s)
				}
			}
			if strings.Join(in, " ") != tc.filters {
				t.Errorf("listed under %v, want %s", in, tc.filters)
			}
			if r, _ := w.Runner(id); r.RESTStatus != tc.rest || r.Status == "paused" {
				t.Errorf("truth %+v", r)
			}
		})
	}
}

func TestNeverContactedRunnerIsStaleAfterAWeek(t *testing.T) {
	w, c := newWorld(Options{})
	id := w.AddRunner(RunnerSpec{Managers: -1})
	row := must(t, w, "/runners/all?status=never_contacted").rows(t)[0]
	if v, ok := row["online"]; !ok || v != nil || row["status"] != "never_contacted" {
		t.Errorf("row %v", row)
	}
	if b := must(t, w, "/runners/all?status=offline").body; b != "[]" {
		t.Errorf("offline: %s", b)
	}
	if d := must(t, w, "/runners/1").object(t); d["contacted_at"] != nil || d["version"] != nil {
		t.Errorf("details %v", d)
	}
	if b := must(t, w, "/runners/1/managers").body; b != "[]" {
		t.Errorf("machines %s", b)
	}
	w.Pause(id, true)
	if row := must(t, w, "/runners/all").rows(t)[0]; row["status"] != "never_contacted" {
		t.Errorf("paused: %v", row)
	}
	c.add(7*24*time.Hour + time.Second)
	if row := must(t, w, "/runners/all").rows(t)[0]; row["status"] != "stale" || row["online"] != nil {
		t.Errorf("after a week: %v", row)
	}
	w.SetOnline(id, true)
	if row := must(t, w, "/runners/all").rows(t)[0]; row["online"] != true {
		t.Errorf("after its first contact: %v", row)
	}
}

func contacted(t *testing.T, w *World, id int64) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, must(t, w, fmt.Sprintf("/runners/%d", id)).object(t)["contacted_at"].(string))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestIdleContactIsUpToAnHourOld: a healthy idle runner's contact is up to an hour old, and now
// and then really old; one that works is fresh (docs/gitlab-api.md 3.3).
func TestIdleContactIsUpToAnHourOld(t *testing.T) {
	for _, paused := range []bool{false, true} {
		w, c := newWorld(Options{Seed: 7})
		id := w.AddRunner(RunnerSpec{Paused: paused})
		c.add(time.Hour)
		last, worst := contacted(t, w, id), time.Duration(0)
		for range 1000 {
			c.add(time.Minute)
			at := contacted(t, w, id)
			if at.Before(last) || at.After(c.now()) {
				t.Fatalf("contact went from %v to %v", last, at)
			}
			last, worst = at, max(worst, c.now().Sub(at))
		}
		if worst > time.Hour || worst < 50*time.Minute {
			t.Errorf("paused %v: oldest contact of an idle runner %v", paused, worst)
		}
	}
	// A job queued for a runner lets all its machines through to Rails.
	w, c := newWorld(Options{})
	id := w.AddRunner(RunnerSpec{Managers: 3})
	c.add(10 * time.Minute)
	job := w.CreateJob(JobSpec{Runner: id})
	for _, m := range must(t, w, "/runners/1/managers").rows(t) {
		if !instant(t, m["contacted_at"]).Equal(c.now()) {
			t.Errorf("machine %v", m)
		}
	}
	for range 50 {
		c.add(time.Minute)
		if age := c.now().Sub(contacted(t, w, id)); age > time.Minute {
			t.Fatalf("a runner that works is silent for %v", age)
		}
	}
	w.FinishJob(job, "success", "")
	if at := contacted(t, w, id); !at.Equal(c.now()) {
		t.Errorf("contact %v at the end of a job at %v", at, c.now())
	}
	c.add(30 * time.Minute)
	if age := c.now().Sub(contacted(t, w, id)); age == 0 {
		t.Error("an idle runner's contact must not follow the clock")
	}
}

// TestShownContactIsTheCachedOne: the shown contact is the cached one; the database column lags up
// to 55 minutes and shows through after the cache is lost.
func TestShownContactIsTheCachedOne(t *testing.T) {
	w, c := newWorld(Options{})
	id := w.AddRunner(RunnerSpec{})
	w.CreateJob(JobSpec{Runner: id})
	worst := time.Duration(0)
	for range 200 {
		c.add(time.Minute)
		w.mu.Lock()
		w.catchUp(c.now().UnixMilli())
		r := w.runners[id]
		lag := time.Duration(r.contactAt(w.now)-r.dbAt(w.now)) * time.Millisecond
		w.mu.Unlock()
		worst = max(worst, lag)
	}
	if worst < 30*time.Minute || worst > 55*time.Minute {
		t.Errorf("the column lags %v", worst)
	}
	before := contacted(t, w, id)
	w.FlushRedis()
	after := contacted(t, w, id)
	if after.After(before) {
		t.Errorf("flushed: %v after %v", after, before)
	}
	c.add(time.Minute)
	if age := c.now().Sub(contacted(t, w, id)); age > time.Minute {
		t.Errorf("a minute after the flush the contact is %v old", age)
	}
}

// lagging makes a runner whose column lags half an hour or more, and stops it.
func lagging(t *testing.T) (w *World, c *clock, id int64, lag time.Duration) {
	t.Helper()
	w, c = newWorld(Options{})
	id = w.AddRunner(RunnerSpec{})
	w.CreateJob(JobSpec{Runner: id})
	for range 300 {
		c.add(time.Minute)
		w.mu.Lock()
		w.catchUp(c.now().UnixMilli())
		r := w.runners[id]
		lag = time.Duration(r.contactAt(w.now)-r.dbAt(w.now)) * time.Millisecond
		w.mu.Unlock()
		if lag >= 30*time.Minute {
			w.SetOnline(id, false)
			return w, c, id, lag
		}
	}
	t.Fatal("the column never lagged")
	return nil, nil, 0, 0
}

// TestCacheForgetsAContactAfterADay: a day after the last contact Redis has forgotten it.
func TestCacheForgetsAContactAfterADay(t *testing.T) {
	w, c, id, lag := lagging(t)
	last := contacted(t, w, id)
	c.add(23 * time.Hour)
	if at := contacted(t, w, id); !at.Equal(last) {
		t.Errorf("within the day: %v, was %v", at, last)
	}
	c.add(2 * time.Hour)
	if at := contacted(t, w, id); !at.Equal(last.Add(-lag)) {
		t.Errorf("after the day: %v, want %v before %v", at, lag, last)
	}
}

// TestFilterComparesTheColumnNotTheCache: ?status= compares the column, the row shows the cache.
func TestFilterComparesTheColumnNotTheCache(t *testing.T) {
	w, c, _, lag := lagging(t)
	c.add(2*time.Hour - lag + time.Minute)
	rows := must(t, w, "/runners/all?status=offline").rows(t)
	if len(rows) != 1 || rows[0]["status"] != "online" {
		t.Errorf("want a runner listed as offline while its row is online: %v", rows)
	}
}

func TestMachinesComeAndGoByThemselves(t *testing.T) {
	w, c := newWorld(Options{})
	id := w.AddRunner(RunnerSpec{Managers: 3})
	w.AddManager(id, ManagerSpec{SystemID: "r_x", Version: "16.0.0"})
	ms := must(t, w, "/runners/1/managers").rows(t)
	if len(ms) != 4 || ms[3]["system_id"] != "r_x" || ms[3]["version"] != "16.0.0" {
		t.Fatalf("machines %v", ms)
	}
	// One of four dies: the runner stays online, its own row is offline.
	w.change(id, func(r *runner) { w.setAlive(r, r.managers[3], false) })
	c.add(3 * time.Hour)
	if row := must(t, w, "/runners/all").rows(t)[0]; row["status"] != "online" {
		t.Errorf("runner %v", row)
	}
	if ms := must(t, w, "/runners/1/managers").rows(t); ms[3]["status"] != "offline" || ms[0]["status"] != "online" {
		t.Errorf("machines %v", ms)
	}
	// Stale machines are deleted, their runner is not.
	c.add(7 * 24 * time.Hour)
	if ms := must(t, w, "/runners/1/managers").rows(t); len(ms) != 3 {
		t.Errorf("%d machines after a week", len(ms))
	}
	// The last machine unregisters: the runner is online for two hours more.
	r, _ := w.Runner(id)
	for _, m := range r.Managers {
		w.RemoveManager(id, m.ID)
	}
	if row := must(t, w, "/runners/all").rows(t)[0]; row["status"] != "online" {
		t.Errorf("without machines: %v", row)
	}
	c.add(2 * time.Hour)
	if row := must(t, w, "/runners/all").rows(t)[0]; row["status"] != "offline" {
		t.Errorf("two hours later: %v", row)
	}
}

func TestExecutionStatusIsThatOfTheRelease(t *testing.T) {
	for version, whileCanceling := range map[string]string{"19.1.0-ee": "active", "19.2.0": "idle"} {
		w, c := newWorld(Options{Version: version})
		id := w.AddRunner(RunnerSpec{Managers: 2})
		status := func() (s []string) {
			s = append(s, must(t, w, "/runners/all").rows(t)[0]["job_execution_status"].(string))
			for _, m := range must(t, w, "/runners/1/managers").rows(t) {
				s = append(s, m["job_execution_status"].(string))
			}
			return s
		}
		if s := status(); !slices.Equal(s, []string{"idle", "idle", "idle"}) {
			t.Errorf("%s before: %v", version, s)
		}
		r, _ := w.Runner(id)
		job := w.CreateJob(JobSpec{Runner: id, Manager: r.Managers[1].ID})
		if s := status(); !slices.Equal(s, []string{"active", "idle", "active"}) {
			t.Errorf("%s running: %v", version, s)
		}
		w.CancelJob(job)
		if s := status(); s[0] != whileCanceling {
			t.Errorf("%s canceling: %v", version, s)
		}
		c.add(time.Minute)
		if s := status(); !slices.Equal(s, []string{"idle", "idle", "idle"}) {
			t.Errorf("%s after: %v", version, s)
		}
	}
}

func TestTruthCountsWhatTheAPIShows(t *testing.T) {
	w, _ := newWorld(Options{Runners: 300, Tags: 40, Seed: 3})
	truth := w.Truth()
	types, statuses, total := map[string]bool{}, map[string]bool{}, 0
	for k, n := range truth.Counts {
		types[k.Type], statuses[k.Status] = true, true
		total += n
	}
	if len(types) != 3 || len(statuses) != 4 || total != 300 {
		t.Errorf("types %v, statuses %v, total %d", types, statuses, total)
	}
	// A long tail: the commonest tag is on many runners, the rarest on few.
	var sizes []int
	for _, byKind := range truth.TagCounts {
		n := 0
		for _, k := range byKind {
			n += k
		}
		sizes = append(sizes, n)
	}
	slices.Sort(sizes)
	if len(sizes) < 35 || sizes[0] > 10 || sizes[len(sizes)-1] < 60 || truth.TagCounts["(untagged)"] == nil {
		t.Errorf("sizes of tags %v", sizes)
	}
	for k, n := range truth.Counts {
		if k.Status == "online" || k.Status == "offline" {
			continue
		}
		rows := must(t, w, fmt.Sprintf("/runners/all?per_page=100&type=%s&status=%s&paused=%v", k.Type, k.Status, k.Paused)).rows(t)
		if len(rows) != n {
			t.Errorf("%+v: truth %d, API %d", k, n, len(rows))
		}
	}
}

// A job that is queued lets those contact GitLab that could take it: the peers of
// the runner that picks it, and nobody else.
func TestPeersAreTicked(t *testing.T) {
	t.Parallel()
	for _, tick := range []bool{true, false} {
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		w := New(Options{Seed: 3, TickPeers: tick, Now: func() time.Time { return now }})
		var ids []int64
		for _, tags := range [][]string{{"a", "b"}, {"a", "b"}, {"a"}, {"c"}, {"a", "b"}} {
			ids = append(ids, w.AddRunner(RunnerSpec{Tags: tags}))
		}
		w.Pause(ids[4], true)
		contacts := func() (out []time.Time) {
			for _, id := range ids {
				r, _ := w.Runner(id)
				out = append(out, r.Contacted)
			}
			return out
		}
		check := func(what string, ticked ...bool) {
			t.Helper()
			now = now.Add(10 * time.Minute)
			before := contacts()
			w.CreateJob(JobSpec{Runner: ids[0], Finished: now.Add(time.Second)})
			for i, at := range contacts() {
				if at.After(before[i]) != ticked[i] {
					t.Errorf("tick %t, %s: runner %d of %d contacted at %v, before at %v", tick, what, i, len(ids), at, before[i])
				}
			}
		}
		check("at first", true, tick, false, false, false)
		w.SetTags(ids[3], []string{"a", "b"})
		w.Pause(ids[4], false)
		check("retagged", true, tick, false, tick, tick)
	}
}
