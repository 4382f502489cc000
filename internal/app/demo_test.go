package app

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"

	simgraphql "gitlab-runner-fleet-exporter/internal/gitlabsim/graphql"
	"gitlab-runner-fleet-exporter/internal/ledger"
	"gitlab-runner-fleet-exporter/internal/secret"
	"gitlab-runner-fleet-exporter/internal/store"
	"gitlab-runner-fleet-exporter/test/rig"
)

// scriptedTransport is the demonstration's simulated GitLab without a socket,
// which would keep time from passing in a bubble.
type scriptedTransport struct {
	script *script
	token  string
}

func (s scriptedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	s.script.catchUp()
	r = r.Clone(r.Context())
	r.Header.Set("Private-Token", s.token)
	return s.script.world.RoundTripper().RoundTrip(r)
}

// TestDemoPlaysItsScript: what the greeting promises is in the metrics at the
// promised times, health's own rules included, and is over when it should be.
func TestDemoPlaysItsScript(t *testing.T) {
	rig.Long(t, "lives through 41 minutes of the demonstration")
	synctest.Test(t, func(t *testing.T) {
		d := &demo{url: "http://gitlab.example.com", token: "demo-of-the-test"}
		world := demoWorld(d.url, d.token)
		if _, err := simgraphql.Mount(world); err != nil {
			t.Fatal(err)
		}
		d.script = newScript(world)
		v, err := d.load()
		if err != nil {
			t.Fatal(err)
		}
		folder, err := store.Open(t.Context(), store.Options{Layout: ledger.Layout, Logger: log.NewNopLogger()})
		if err != nil {
			t.Fatal(err)
		}
		sup := &supervisor{opts: &options{secrets: &secret.List{}, shardCount: 1}, logger: log.NewNopLogger(), folder: folder, running: map[string]*watch{}}
		sup.page = newPage(sup)
		exporter, err := sup.newExporter(v.Metrics())
		if err != nil {
			t.Fatal(err)
		}
		sup.exporter.Store(exporter)
		g := v.GitLabs()[0]
		g.Poll.RunnersInterval, g.Poll.JobsInterval = 15*time.Second, 15*time.Second // a third of the work
		w := &watch{gitlab: g, metrics: v.Metrics(), exporter: exporter, client: &http.Client{Transport: scriptedTransport{d.script, d.token}}}
		if err := sup.load(w); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		sup.start(t.Context(), w)
		defer func() {
			sup.stop()
			_ = folder.Close()
		}()

		sum := func(name string, labels ...string) float64 {
			rec := httptest.NewRecorder()
			sup.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
			s, _ := sumOf(t, rec.Body.String(), name, labels...)
			return s
		}
		at := func(m, s int) {
			time.Sleep(time.Until(start.Add(time.Duration(m)*time.Minute + time.Duration(s)*time.Second)))
			synctest.Wait()
		}
		want := func(value float64, name string, labels ...string) {
			t.Helper()
			if got := sum(name, labels...); got != value {
				t.Errorf("after %s: %s%v is %v, not %v", time.Since(start), name, labels, got, value)
			}
		}
		at(0, 50)
		want(1, "runner_orphaned_jobs")
		want(1, "health_runners", `health="overdue"`, `reason="job_silent"`)
		want(0, "suspect_runners")
		want(2, "tag_available_runners", `tag="`+tagLost+`"`)
		want(2, "tag_available_runners", `tag="`+tagFloor+`"`)
		want(0, "tag_runners", `paused="true"`)
		at(1, 55)
		want(2, "tag_available_runners", `tag="`+tagLost+`"`)
		at(2, 50)
		want(0, "tag_available_runners", `tag="`+tagLost+`"`)
		want(1, "tag_expected_runners", `tag="`+tagLost+`"`)
		want(1, "tag_available_runners", `tag="`+tagFloor+`"`)
		want(2, "tag_expected_runners", `tag="`+tagFloor+`"`)
		at(4, 20)
		want(3, "tag_runners", `tag="`+tagMaintenance+`"`, `paused="true"`)
		want(1, "suspect_runners", `reason="black_hole"`)
		at(10, 0)
		in := sum("tag_job_queued_duration_seconds_bucket", `tag="`+tagQueue+`"`, `le="600"`)
		if all := sum("tag_job_queued_duration_seconds_count", `tag="`+tagQueue+`"`); all-in < 20 || (all-in)/all < 0.9 {
			t.Errorf("%v of %v jobs waited for up to ten minutes: nothing jams", in, all)
		}
		if n := sum("jobs_finished_total", `failure_reason="runner_system_failure"`); n < 40 {
			t.Errorf("the black hole ate %v jobs in nine minutes", n)
		}
		if n := sum("queue_tag_jobs", `tag="`+tagQueue+`"`); n < 50 {
			t.Errorf("%v jobs wait", n)
		}
		want(1, "queue_unmatched_tagset_jobs", `tags="`+tagMisspelt+`"`, `reason="no_runner"`)
		want(0, "queue_truncated")
		rec := httptest.NewRecorder()
		sup.page.ServeFleet(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/fleet", http.NoBody))
		if page := rec.Body.String(); !strings.Contains(page, strings.ReplaceAll(whyMisspelt, "&", "&amp;")) || !strings.Contains(page, "no registered runner can take") {
			t.Error("the page does not show the misspelt tag")
		}
		rec = httptest.NewRecorder()
		sup.page.ServeWhy(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, whyMisspelt, http.NoBody))
		if page := rec.Body.String(); !strings.Contains(page, "<bdi>"+tagQueue+"</bdi> meant?") {
			t.Errorf("the page does not name the tag that is meant: %s", page)
		}
		// What nobody scripted is well.
		want(1, "health_runners", `health="overdue"`)
		want(1, "health_runners", `health="down"`)
		want(0, "health_runners", `health="unknown"`)
		want(1, "suspect_runners", `reason="black_hole"`)
		want(0, "suspect_runners", `reason="takes_no_jobs"`)
		want(0, "suspect_runners", `reason="over_timeout"`)

		at(41, 0) // all is over
		want(0, "health_runners", `health="overdue"`)
		want(0, "suspect_runners", `reason="black_hole"`)
		want(0, "runner_orphaned_jobs")
		want(2, "tag_available_runners", `tag="`+tagLost+`"`)
		want(2, "tag_available_runners", `tag="`+tagFloor+`"`)
		want(0, "tag_runners", `paused="true"`)
		want(0, "exporter_jobs_unresolved_total")
		want(0, "queue_unmatched_tagset_jobs", `tags="`+tagMisspelt+`"`, `reason="no_runner"`)
	})
}

// TestDemoBeginsAgain: whoever looks an hour later sees the same.
func TestDemoBeginsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(demoWorld("http://gitlab.example.com", "demo-of-the-test"))
		for cycle := range 3 {
			for _, m := range []int{5, 30, 42, 59} {
				time.Sleep(time.Until(s.start.Add(time.Duration(cycle)*storyCycle + time.Duration(m)*time.Minute)))
				s.catchUp()
				for _, story := range s.stories {
					if on := m < 42; story.on() != on {
						t.Errorf("cycle %d, minute %d: %s is on: %v, not %v", cycle, m, story.name, story.on(), on)
					}
				}
			}
		}
	})
}

// TestEachDrillCanBePlayedAtAnyTime: each incident of the demonstration can be had at any time.
func TestEachDrillCanBePlayedAtAnyTime(t *testing.T) {
	r := startHere(t, "--demo")
	r.until("the pools are there", "tag_available_runners", 2, `tag="`+tagLost+`"`)
	for _, s := range stories() {
		status, body := r.do(http.MethodPost, pathDrill+"?name="+s.name)
		if status != http.StatusOK || !strings.Contains(body, s.alert) || !strings.Contains(body, s.see) {
			t.Errorf("%s: HTTP %d: %s", s.name, status, body)
		}
	}
	r.until("the tag is lost", "tag_available_runners", 0, `tag="`+tagLost+`"`)
	r.until("the floor is breached", "tag_available_runners", 1, `tag="`+tagFloor+`"`)
	r.until("the pool is paused", "tag_runners", 3, `tag="`+tagMaintenance+`"`, `paused="true"`)
	// Once more, from its beginning.
	if status, body := r.do(http.MethodPost, pathDrill+"?name=tag-lost"); status != http.StatusOK {
		t.Errorf("again: HTTP %d: %s", status, body)
	}
	if status, body := r.do(http.MethodPost, pathDrill+"?name=flood"); status != http.StatusNotFound || !strings.Contains(body, "tag-lost") {
		t.Errorf("unknown drill: HTTP %d: %s", status, body)
	}
	if status, body := r.get(pathDrill + "?name=tag-lost"); status != http.StatusMethodNotAllowed || !strings.Contains(body, "POST") {
		t.Errorf("GET: HTTP %d: %s", status, body)
	}
	out := r.stdout.String()
	for _, s := range stories() {
		for _, part := range []string{fmt.Sprintf("%2d:%02d", int(s.at.Minutes()), int(s.at.Seconds())%60), s.what, s.see, s.alert, "drill " + s.name} {
			if !strings.Contains(out, part) {
				t.Errorf("the greeting lacks %q", part)
			}
		}
	}
}

// TestStoriesNameAlertsThatExist: the rules are written elsewhere.
func TestStoriesNameAlertsThatExist(t *testing.T) {
	rules, err := os.ReadFile("../../alerts/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stories() {
		names := regexp.MustCompile(`GitLabRunner\w+`).FindAllString(s.alert, -1)
		if len(names) == 0 && !strings.HasPrefix(s.alert, "none") {
			t.Errorf("%s names no alert", s.name)
		}
		for _, name := range names {
			if !strings.Contains(string(rules), "- alert: "+name+"\n") {
				t.Errorf("%s: there is no alert %s", s.name, name)
			}
		}
	}
}

// TestDrillWorksUnderAPrefix: what the greeting prints to copy works behind a reverse proxy's path too.
func TestDrillWorksUnderAPrefix(t *testing.T) {
	r := startHere(t, "--demo", "--web.route-prefix=/runners")
	eventually(t, 5*time.Second, "the greeting", func() bool { return strings.Contains(r.stdout.String(), r.url+"/runners"+pathDrill) })
	if status, body := r.do(http.MethodPost, "/runners"+pathDrill+"?name=floor"); status != http.StatusOK {
		t.Errorf("HTTP %d: %s", status, body)
	}
}

// TestDrillIsForTheDemonstrationOnly: nothing of it answers where a real GitLab is monitored.
func TestDrillIsForTheDemonstrationOnly(t *testing.T) {
	w := newWorld(t, smallFleet(1))
	r := startHere(t, "--config.file="+configFile(t, "gitlabs:\n"+entry("a", w.url, "")), "--storage.path=")
	if status, body := r.do(http.MethodPost, pathDrill+"?name=tag-lost"); status == http.StatusOK || strings.Contains(body, "Drill") {
		t.Errorf("HTTP %d: %s", status, body)
	}
}
