package page

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// waiting is a fleet that is well, with a queue.
func waiting(change func(*snapshot.Queue)) *world {
	w := healthy()
	s := w.gitlabs[0]
	s.QueueState, s.QueueAt = snapshot.QueueRead, noon.Add(-20*time.Second)
	s.Queue = &snapshot.Queue{
		Jobs: 7, Oldest: noon.Add(-12 * time.Minute), Everything: true,
		Tags: []snapshot.QueueTag{
			{Name: snapshot.TagNoRunner, Jobs: 2, Oldest: noon.Add(-7 * time.Minute)},
			{Name: "arm"},
			{Name: "docker", Jobs: 5, Oldest: noon.Add(-12 * time.Minute)},
			{Name: "linux", Jobs: 1, Oldest: noon.Add(-2 * time.Minute)},
		},
	}
	if change != nil {
		change(s.Queue)
	}
	return w
}

// TestQueueIsShown: by tag, the longest wait first, with bounds named as such.
func TestQueueIsShown(t *testing.T) {
	page := fleetText(t, waiting(nil))
	has(t, page, "Jobs that wait for a runner", "7 jobs wait, the oldest since 11:48 UTC, 12 min ago. Read 20 s ago.")
	hasNot(t, page, "are not seen", "at least")
	_, section, _ := strings.Cut(page, "Jobs that wait")
	section, _, _ = strings.Cut(section, "GitLabs")
	if d, n, l := strings.Index(section, "docker"), strings.Index(section, "(no_runner)"), strings.Index(section, "linux"); d < 0 || n < d || l < n {
		t.Errorf("order: %d %d %d", d, n, l)
	}
	if strings.Contains(section, "arm") {
		t.Error("a tag without jobs is shown")
	}
	cut := waiting(func(q *snapshot.Queue) { q.Truncated, q.Everything = true, false })
	has(t, fleetText(t, cut), "At least 7 jobs wait", "at least 5", "Jobs that no registered runner can take are not seen")
	blind := waiting(nil)
	blind.gitlabs[0].Fleet, blind.gitlabs[0].Health = nil, nil
	hasNot(t, fleetText(t, blind), "7 jobs wait")
	empty := waiting(func(q *snapshot.Queue) { *q = snapshot.Queue{Everything: true} })
	has(t, fleetText(t, empty), "No job waits. Read 20 s ago.", "No problem")
	empty = waiting(func(q *snapshot.Queue) { *q = snapshot.Queue{Truncated: true} })
	page = fleetText(t, empty)
	has(t, page, "not all could be read")
	hasNot(t, page, "No job waits.")
}

// TestUnmatchedJobsBecomeAProblemOnceTheyLast: with why and what to do, a problem once it lasts.
func TestUnmatchedJobsBecomeAProblemOnceTheyLast(t *testing.T) {
	since := noon.Add(-4 * time.Minute)
	w := waiting(func(q *snapshot.Queue) {
		q.Unmatched = []snapshot.QueueUnmatched{
			{Tags: "gpu,linux", Reason: snapshot.NoneAvailable, Jobs: 3, Oldest: since},
			{Tags: "dokcer", Reason: snapshot.NoRunner, Jobs: 1, Oldest: since},
			{Tags: "gone", Reason: snapshot.NoRunner},
		}
	})
	page := fleetText(t, w)
	has(t, page, "No problem", "3 jobs that only runners that are not available could take.", "1 job that no registered runner can take. Is a tag misspelt?")
	hasNot(t, page, "gone")
	html := htmlOf(t, w.page(Options{Prefix: "/x"}), "")
	has(t, html, `href="/x/fleet/why?gitlab=corp&tags=gpu%2Clinux"`)
	w.gitlabs[0].Queue.Unmatched[1].Oldest = noon.Add(-6 * time.Minute)
	page = fleetText(t, w)
	has(t, page, "Problems", "1 job that no runner takes")
	if report := api(t, w, ""); report.State != stateProblem || report.Queues[0].Unmatched[0].Tags != "dokcer" || *report.Queues[0].Jobs != 7 {
		t.Errorf("%+v", report.Queues)
	}
	if report := api(t, w, "?tag=gpu"); len(report.Queues[0].Unmatched) != 1 || len(report.Queues[0].Tags) != 0 || report.State == stateProblem {
		t.Errorf("of one tag: %s %+v", report.State, report.Queues)
	}
}

func api(t *testing.T, w *world, query string) (r Report) {
	t.Helper()
	if err := json.Unmarshal(get(t, w.page(Options{}).ServeAPI, "/api/v1/fleet"+query).Body.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestUnknownQueueIsExplained: why it is not known, in words, and neither 0 nor green.
func TestUnknownQueueIsExplained(t *testing.T) {
	for state, want := range map[snapshot.QueueState]string{
		snapshot.QueueOff:         "queue is off",
		snapshot.QueueByREST:      "api is rest",
		snapshot.QueueOtherShard:  "the first shard reads the whole queue",
		snapshot.QueuePending:     "Not read yet",
		snapshot.QueueUnsupported: "18.1 and later can",
		snapshot.QueueRefused:     "refuses the query",
		snapshot.QueueUnproved:    "nothing proves that it may see them",
		snapshot.QueueFailed:      "the readings of the queue fail",
	} {
		w := healthy()
		w.gitlabs[0].QueueState = state
		page := fleetText(t, w)
		has(t, page, "Jobs that wait for a runner", want)
		hasNot(t, page, "No job waits", "0 jobs")
		html := htmlOf(t, w.page(Options{}), "")
		if _, section, _ := strings.Cut(html, `id="queue"`); !strings.Contains(section[:200], `<li class="unknown"`) {
			t.Errorf("%s: %.300s", state, section)
		}
		r := api(t, w, "")
		if q := r.Queues[0]; q.State != state.String() || q.Jobs != nil || !q.Oldest.IsZero() {
			t.Errorf("%+v", q)
		}
		if unknown := state == snapshot.QueuePending || state == snapshot.QueueFailed; unknown != (r.State == stateUnknown) {
			t.Errorf("%s: the state is %s", state, r.State)
		}
	}
}
