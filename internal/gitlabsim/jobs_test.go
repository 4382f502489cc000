package gitlabsim

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// rows reads all of a runner's jobs through the API.
func jobRows(t *testing.T, w *World, runner int64, query string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for page := 1; ; page++ {
		rows := must(t, w, fmt.Sprintf("/runners/%d/jobs?per_page=100&page=%d%s", runner, page, query)).rows(t)
		all = append(all, rows...)
		if len(rows) < 100 {
			return all
		}
	}
}

func instant(t *testing.T, v any) time.Time {
	t.Helper()
	if v == nil {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339, v.(string))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestGeneratedJobsAreShownInTheirTrueState holds the generated life to its own truth and to docs/gitlab-api.md 4:
// the API shows each picked job once, in the state that truth has.
func TestGeneratedJobsAreShownInTheirTrueState(t *testing.T) {
	w, c := newWorld(Options{Seed: 11, Runners: 40, Tags: 15, JobsPerHour: 300, History: 12 * time.Hour, Shape: JobShape{DeletedShare: 0.1, DeletedAfter: 3 * time.Hour}})
	c.add(10 * time.Minute)
	truth := w.Truth()
	if n := len(truth.Finished); n < 2700 || n > 4000 {
		t.Errorf("%d finished in 12 h at 300 an hour", n)
	}
	finished := map[int64]JobTruth{}
	deleted, late, short, noStarts, attributed := 0, 0, 0, 0, map[string]int{}
	disorder, last := 0, int64(0)
	for _, j := range truth.Finished {
		if _, twice := finished[j.ID]; twice {
			t.Fatalf("job %d finished twice", j.ID)
		}
		finished[j.ID] = j
		attributed[j.Status]++
		switch {
		case j.Runner == 0 || j.RunnerType == "" || j.Created.After(j.Picked) || j.Finished.Before(j.Picked) || j.Finished.After(truth.Now):
			t.Fatalf("impossible: %+v", j)
		case j.Started.IsZero():
			noStarts++
			if j.Status != "failed" || j.Duration >= 0 || j.Queued >= 0 {
				t.Fatalf("never started: %+v", j)
			}
		case j.Duration < time.Minute:
			short++
		}
		if (j.Status == "failed") != (j.Reason != "") {
			t.Fatalf("reason: %+v", j)
		}
		if !j.Deleted.IsZero() {
			deleted++
		}
		if j.Picked.Sub(j.Created) > 2*time.Hour {
			late++
		}
		if j.ID < last {
			disorder++
		}
		last = j.ID
	}
	n := len(truth.Finished)
	for what, x := range map[string]struct{ got, lo, hi int }{
		"deleted": {deleted, n / 20, n / 5}, "late": {late, n / 60, n / 6}, "short": {short, n / 4, n / 2}, "without start": {noStarts, 5, n / 20},
		"failed": {attributed["failed"], n / 14, n / 5}, "canceled": {attributed["canceled"], n / 60, n / 15}, "ended before a lower id": {disorder, n / 5, n},
	} {
		if x.got < x.lo || x.got > x.hi {
			t.Errorf("%s: %d of %d, want %d to %d", what, x.got, n, x.lo, x.hi)
		}
	}

	executing := map[int64]JobTruth{}
	for _, j := range truth.Executing {
		executing[j.ID] = j
	}
	seen := 0
	for _, r := range truth.Runners {
		rows := jobRows(t, w, r.ID, "")
		if !slices.IsSorted(ids(rows)) {
			t.Fatalf("runner %d: rows out of order", r.ID)
		}
		if got := ids(jobRows(t, w, r.ID, "&status=running")); len(got)+len(jobRows(t, w, r.ID, "&status=canceling")) != len(r.Executing) {
			t.Errorf("runner %d: running %v, truth %v", r.ID, got, r.Executing)
		}
		for _, row := range rows {
			id := int64(row["id"].(float64))
			j, done := finished[id]
			if !done {
				j = executing[id]
			}
			delete(executing, id)
			if j.Runner != r.ID || row["status"] != j.Status || !j.Deleted.IsZero() {
				t.Fatalf("row %v, truth %+v", row, j)
			}
			if !instant(t, row["created_at"]).Equal(j.Created) || !instant(t, row["started_at"]).Equal(j.Started) || !instant(t, row["finished_at"]).Equal(j.Finished) {
				t.Fatalf("row %v, truth %+v", row, j)
			}
			if reason, ok := row["failure_reason"]; ok != (j.Status == "failed") || ok && reason != j.Reason {
				t.Fatalf("row %v, truth %+v", row, j)
			}
			if d, ok := row["duration"].(float64); ok && time.Duration(d*1000+0.5)*time.Millisecond != j.Duration || ok == j.Started.IsZero() {
				t.Fatalf("row %v, truth %+v", row, j)
			}
			if q := row["queued_duration"].(float64); !j.Started.IsZero() && time.Duration(q*1000+0.5)*time.Millisecond != j.Queued {
				t.Fatalf("row %v, truth %+v", row, j)
			}
			seen++
		}
	}
	if want := n - deleted + len(truth.Executing); seen != want || len(executing) != 0 {
		t.Errorf("the API shows %d jobs, truth has %d; not shown %v", seen, want, slices.Collect(maps.Keys(executing)))
	}
}

func TestJobShapeDecidesTheOutcomes(t *testing.T) {
	w, _ := newWorld(Options{Seed: 2, Runners: 5, Healthy: true, JobsPerHour: 1000, History: 5 * time.Hour, Shape: JobShape{
		LateShare: -1, ShortShare: -1, FailedShare: 1, CanceledShare: -1, RetryShare: -1, MeanQueued: -1, Reasons: map[string]float64{"x": 1, "y": 3},
	}})
	reasons := map[string]int{}
	jobs := w.Truth().Finished
	for _, j := range jobs {
		reasons[j.Status+j.Reason]++
		if j.Queued > time.Second {
			t.Fatalf("queued %v", j.Queued)
		}
	}
	if n := len(jobs); n < 4000 || n > 5500 || len(reasons) != 2 || reasons["failedy"] < 2*reasons["failedx"] {
		t.Errorf("%d jobs, %v", n, reasons)
	}
	w, _ = newWorld(Options{Seed: 2, Runners: 5, Healthy: true, JobsPerHour: 1000, History: 5 * time.Hour, Shape: JobShape{FailedShare: 0.5, RetryShare: 1}})
	// Retries are part of the rate.
	if n := len(w.Truth().Finished); n < 3900 || n > 5300 {
		t.Errorf("%d jobs with retries", n)
	}
}

// TestJobsByHandGoThroughEachState goes through a job's life as an administrator drives it.
func TestJobsByHandGoThroughEachState(t *testing.T) {
	w, c := newWorld(Options{})
	id := w.AddRunner(RunnerSpec{Tags: []string{"before"}})
	status := func(job int64) string {
		j, ok := w.Job(job)
		if !ok {
			t.Fatalf("no job %d", job)
		}
		return j.Status
	}
	list := func() []int64 { return ids(must(t, w, fmt.Sprintf("/runners/%d/jobs", id)).rows(t)) }

	later := w.CreateJob(JobSpec{Runner: id, Started: noon.Add(time.Hour), Finished: noon.Add(2 * time.Hour)})
	now := w.CreateJob(JobSpec{Runner: id, Finished: noon.Add(10 * time.Minute), Queued: 30 * time.Second, Status: "failed", Reason: "runner_interrupted"})
	pending := w.CreateJob(JobSpec{})
	noStart := w.CreateJob(JobSpec{Runner: id, NoStart: true, Reason: "runner_unsupported"})
	open := w.CreateJob(JobSpec{Runner: id, Name: "x", Stage: "y"})
	if got := list(); !slices.Equal(got, []int64{now, noStart, open}) {
		t.Errorf("listed %v", got)
	}
	for job, want := range map[int64]string{later: "pending", now: "running", pending: "pending", noStart: "failed", open: "running"} {
		if got := status(job); got != want {
			t.Errorf("job %d is %s, want %s", job, got, want)
		}
	}
	row := must(t, w, fmt.Sprintf("/projects/1/jobs/%d", noStart)).object(t)
	if row["started_at"] != nil || row["finished_at"] == nil || row["duration"] != nil || row["failure_reason"] != "runner_unsupported" {
		t.Errorf("failed at assignment: %v", row)
	}
	c.add(5 * time.Minute)
	w.SetTags(id, []string{"after"})
	if row := must(t, w, fmt.Sprintf("/projects/1/jobs/%d", now)).object(t); row["duration"] != 300.0 || row["queued_duration"] != 30.0 {
		t.Errorf("running: %v", row)
	}
	c.add(5 * time.Minute)
	if j, _ := w.Job(now); j.Status != "failed" || j.Reason != "runner_interrupted" || !j.Finished.Equal(c.now()) || !slices.Equal(j.Tags, []string{"after"}) {
		t.Errorf("finished: %+v", j)
	}
	if j, _ := w.Job(noStart); !slices.Equal(j.Tags, []string{"before"}) {
		t.Errorf("tags at its end: %v", j.Tags)
	}

	// running -> canceling -> canceled, whatever is reported.
	if !w.CancelJob(open) || w.CancelJob(open) || status(open) != "canceling" {
		t.Errorf("canceled: %s", status(open))
	}
	if got := must(t, w, fmt.Sprintf("/runners/%d/jobs?status=canceling", id)).rows(t); len(got) != 1 {
		t.Errorf("canceling %v", got)
	}
	if !w.FinishJob(open, "success", "") || status(open) != "canceled" || w.FinishJob(open, "success", "") {
		t.Errorf("after canceling: %s", status(open))
	}
	if !w.CancelJob(pending) || status(pending) != "canceled" || w.Truth().NeverPicked != 1 {
		t.Errorf("pending canceled: %s", status(pending))
	}
	planned := w.CreateJob(JobSpec{Runner: id, Canceled: c.now().Add(time.Minute), Finished: c.now().Add(3 * time.Minute)})
	c.add(2 * time.Minute)
	if status(planned) != "canceling" {
		t.Errorf("planned: %s", status(planned))
	}
	c.add(time.Minute)
	if j, _ := w.Job(planned); j.Status != "canceled" || !j.Finished.Equal(c.now()) {
		t.Errorf("planned: %+v", j)
	}

	// Rows vanish; truth keeps what ended.
	before := len(w.Truth().Finished)
	if !w.DeleteJob(noStart) || w.DeleteJob(noStart) || slices.Contains(list(), noStart) {
		t.Errorf("after the job's deletion: %v", list())
	}
	get(t, w, fmt.Sprintf("/projects/1/jobs/%d", noStart)).want(t, 404)
	if after := w.Truth().Finished; len(after) != before {
		t.Errorf("truth went from %d to %d", before, len(after))
	}

	// A deleted runner's job goes on, known by its project only.
	c.add(time.Hour)
	w.DeleteRunner(id)
	get(t, w, fmt.Sprintf("/runners/%d/jobs", id)).want(t, 404)
	if row := must(t, w, fmt.Sprintf("/projects/1/jobs/%d", later)).object(t); row["status"] != "running" || row["runner"] != nil {
		t.Errorf("its job: %v", row)
	}
	c.add(time.Hour)
	if j, _ := w.Job(later); j.Status != "success" || j.Runner != id {
		t.Errorf("its job: %+v", j)
	}
	for _, bad := range []JobSpec{{Runner: 99}, {Project: 999}, {Status: "running"}, {ID: 1}, {Pipeline: 1}, {Runner: w.AddRunner(RunnerSpec{}), Manager: 99}} {
		if got := w.CreateJob(bad); got != 0 {
			t.Errorf("%+v gave %d", bad, got)
		}
	}
	same := w.CreateJob(JobSpec{ID: 5_000_000})
	j, _ := w.Job(same)
	if second := w.CreateJob(JobSpec{Pipeline: j.Pipeline}); same != 5_000_000 || second != same+1 {
		t.Errorf("ids %d %d", same, second)
	}
	// What happens at one moment happens in the order it was planned.
	var together []int64
	for range 9 {
		together = append(together, w.CreateJob(JobSpec{Runner: 2, Finished: c.now().Add(time.Minute)}))
	}
	start := len(w.Truth().Finished)
	c.add(time.Minute)
	ended := w.Truth().Finished[start:]
	for i, j := range ended {
		if len(ended) != 9 || j.ID != together[i] {
			t.Fatalf("ended %+v, want %v", ended, together)
		}
	}
}

// TestOrphansFailAfterAnHour: the jobs of a machine that dies fail an hour later for want of
// updates, with the release's own reason.
func TestOrphansFailAfterAnHour(t *testing.T) {
	for version, want := range map[string]string{"19.1.0": "no_updates_running", "17.8.0": "stuck_or_timeout_failure"} {
		w, c := newWorld(Options{Seed: 4, Version: version, Runners: 3, Healthy: true, JobsPerHour: 600, History: time.Hour, Shape: JobShape{MeanDuration: 2 * time.Hour, ShortShare: -1, CanceledShare: -1}})
		var id int64
		for _, r := range w.Truth().Runners {
			if len(r.Executing) > 3 {
				id = r.ID
			}
		}
		w.SetOnline(id, false)
		c.add(time.Hour)
		orphans := 0
		for _, j := range w.Truth().Finished {
			if j.Runner == id && j.Reason == want && j.Finished.Equal(c.now()) {
				orphans++
			}
		}
		if r, _ := w.Runner(id); len(r.Executing) != 0 || orphans < 3 {
			t.Errorf("%s: %d orphans, executing %v", version, orphans, r.Executing)
		}
	}
}

// TestSeedAndClockDecideTheWorld: a seed and a clock make the world, however often it is
// looked at.
func TestSeedAndClockDecideTheWorld(t *testing.T) {
	run := func(seed uint64, step time.Duration) *Truth {
		w, c := newWorld(Options{Seed: seed, Runners: 60, Tags: 20, JobsPerHour: 1500, Daily: true, Shape: JobShape{DeletedShare: 0.2, DeletedAfter: time.Hour}})
		for range 6 * time.Hour / step {
			c.add(step)
			if step < time.Hour {
				must(t, w, "/runners/all?status=online")
				must(t, w, "/runners/1/jobs?order_by=id")
			}
		}
		return w.Truth()
	}
	a, b := run(1, 6*time.Hour), run(1, 10*time.Minute)
	if !reflect.DeepEqual(a, b) {
		t.Errorf("the same seed: %d and %d finished, counts %v and %v", len(a.Finished), len(b.Finished), a.Counts, b.Counts)
	}
	if c := run(2, 6*time.Hour); reflect.DeepEqual(a.Finished, c.Finished) {
		t.Error("another seed made the same world")
	}
}

// TestDemonstrationStaysBoundedForDays: the demonstration's fleet lives, and stays bounded, for days.
func TestDemonstrationStaysBoundedForDays(t *testing.T) {
	w, c := newWorld(Options{Seed: 1, Runners: 100, Tags: 25, JobsPerHour: 300, Daily: true})
	seen, flaps := map[string]int{}, map[int64]int{}
	last := map[int64]RunnerTruth{}
	for range 200 {
		c.add(15 * time.Minute)
		truth := w.Fleet()
		down, paused := 0, 0
		for _, r := range truth.Runners {
			old, known := last[r.ID]
			switch {
			case !known && len(seen) > 0:
				seen["joined"]++
			case known && old.Status != r.Status:
				seen[old.Status+" to "+r.Status]++
				flaps[r.ID]++
			}
			if known && old.Paused != r.Paused {
				seen["pauses"]++
			}
			if known && !slices.Equal(old.Tags, r.Tags) {
				seen["retagged"]++
			}
			if known && len(old.Managers) != len(r.Managers) {
				seen["machines"]++
			}
			last[r.ID] = r
			if r.Status != "online" {
				down++
			}
			if r.Paused {
				paused++
			}
		}
		seen["left"] = len(truth.Gone)
		if len(truth.Runners) < 90 || len(truth.Runners) > 160 || down > 45 || paused > 30 {
			t.Fatalf("%d runners, %d down, %d paused", len(truth.Runners), down, paused)
		}
	}
	for _, k := range []string{"joined", "left", "online to offline", "offline to online", "pauses", "retagged", "machines"} {
		if seen[k] < 3 {
			t.Errorf("%s: %d", k, seen[k])
		}
	}
	if worst := slices.Max(slices.Collect(maps.Values(flaps))); worst < 15 {
		t.Errorf("no runner flaps: %d changes at most", worst)
	}
	hole := map[int64]int{}
	for _, j := range w.Truth().Finished {
		if j.Reason == "runner_system_failure" && j.Duration < 6*time.Second {
			hole[j.Runner]++
		}
	}
	if worst := slices.Max(slices.Collect(maps.Values(hole))); worst < 50 {
		t.Errorf("the black hole took %d", worst)
	}
}

// TestWorldFollowsVirtualTime: inside synctest the world follows its fake time.
func TestWorldFollowsVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New(Options{Runners: 10, JobsPerHour: 100, Token: adminToken})
		time.Sleep(10 * time.Hour)
		if n := len(w.Truth().Finished); n < 600 {
			t.Errorf("%d jobs in ten hours", n)
		}
		if !w.Now().Equal(time.Now()) {
			t.Errorf("world %v, clock %v", w.Now(), time.Now())
		}
	})
}

// TestClockThatGoesBackMovesNothing: a clock that goes back does not take the world with it.
func TestClockThatGoesBackMovesNothing(t *testing.T) {
	w, c := newWorld(Options{})
	before := w.Now()
	c.add(-time.Hour)
	if !w.Now().Equal(before) {
		t.Errorf("now %v after %v", w.Now(), before)
	}
}

// TestWorldIsSafeForConcurrentUse is for the race detector: requests, hands and looks at once.
func TestWorldIsSafeForConcurrentUse(t *testing.T) {
	w, c := newWorld(Options{Runners: 50, Tags: 10, JobsPerHour: 3000, RateLimit: 1e6})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 50 {
				c.add(time.Second)
				id := int64(1 + (g*13+i)%50)
				switch i % 5 {
				case 0:
					w.Pause(id, i%2 == 0)
					w.SetTags(id, []string{"t", strconv.Itoa(i)})
				case 1:
					w.FinishJob(w.CreateJob(JobSpec{Runner: id}), "success", "")
				case 2:
					for _, j := range w.Truth().Finished {
						_ = j.Tags
					}
				case 3:
					remove := w.AddFault(Fault{Status: 500, Route: "/user"})
					remove()
				}
				get(t, w, "/runners/all?per_page=100")
				get(t, w, fmt.Sprintf("/runners/%d/jobs", id))
				w.Log()
				w.Requests()
			}
		})
	}
	wg.Wait()
}

// TestJobThatNobodyPicksFailsAfterADay: a generated job that no runner takes waits, and fails a day
// later without one.
func TestJobThatNobodyPicksFailsAfterADay(t *testing.T) {
	w, c := newWorld(Options{Runners: 4, Healthy: true, JobsPerHour: 20, Shape: JobShape{LateShare: -1}})
	for id := range int64(4) {
		w.Pause(id+1, true)
	}
	c.add(12 * time.Hour)
	truth := w.Truth()
	if len(truth.Pending) < 150 || len(truth.Finished) != 0 || truth.NeverPicked != 0 {
		t.Errorf("%d pending, %d finished, %d never picked", len(truth.Pending), len(truth.Finished), truth.NeverPicked)
	}
	if j := truth.Pending[0]; j.Status != "pending" || j.Runner != 0 {
		t.Errorf("pending %+v", j)
	}
	c.add(24 * time.Hour)
	if n := w.Truth().NeverPicked; n < 150 {
		t.Errorf("%d given up", n)
	}
	if row := must(t, w, fmt.Sprintf("/projects/%d/jobs/%d", truth.Pending[0].Project, truth.Pending[0].ID)).object(t); row["status"] != "failed" || row["failure_reason"] != "stuck_pending_no_matching_runners" || row["runner"] != nil {
		t.Errorf("given up: %v", row)
	}
	w.Pause(1, false)
	c.add(5 * time.Minute)
	if n := len(w.Truth().Executing) + len(w.Truth().Finished); n == 0 {
		t.Error("nothing is picked once a runner takes jobs again")
	}
}
