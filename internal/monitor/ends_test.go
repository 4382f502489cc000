package monitor

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// endlessJobs answers for one runner's jobs and always names a next page.
type endlessJobs struct {
	http.RoundTripper

	path  string
	wants func(r *http.Request) bool
	row   func(page, i int) (id int, status string)
	asked *atomic.Int64
}

func (e endlessJobs) RoundTrip(r *http.Request) (*http.Response, error) {
	if !strings.HasSuffix(r.URL.Path, e.path) || !e.wants(r) {
		return e.RoundTripper.RoundTrip(r)
	}
	e.asked.Add(1)
	q := r.URL.Query()
	page, _ := strconv.Atoi(q.Get("page"))
	rows, _ := strconv.Atoi(q.Get("per_page"))
	h := http.Header{"Date": {time.Now().UTC().Format(http.TimeFormat)}}
	if q.Get("pagination") == "keyset" {
		if page = 1; q.Get("cursor") != "" {
			page, _ = strconv.Atoi(q.Get("cursor"))
		}
		h.Set("Link", fmt.Sprintf(`<http://gitlab.test?cursor=%d>; rel="next"`, page+1))
	} else {
		h.Set("X-Page", strconv.Itoa(page))
		h.Set("X-Next-Page", strconv.Itoa(page+1))
	}
	var b strings.Builder
	now := time.Now().UTC().Format(time.RFC3339)
	for i := range rows {
		id, status := e.row(page, i)
		fmt.Fprintf(&b, `,{"id":%d,"status":%q,"created_at":%q,"started_at":%q,"project":{"id":1}}`, id, status, now, now)
	}
	return &http.Response{StatusCode: http.StatusOK, Request: r, Header: h, Body: io.NopCloser(strings.NewReader("[" + b.String()[1:] + "]"))}, nil
}

// A list that names a next page for ever fails the reading, which is counted,
// logged once and tried again later and later; other runners are read as ever.
func TestEveryReadingEnds(t *testing.T) {
	t.Parallel()
	running := func(r *http.Request) bool { return r.URL.Query().Get("status") == "running" }
	newest := func(r *http.Request) bool { return r.URL.Query().Get("status") == "" }
	same := func(status string) func(page, i int) (int, string) {
		return func(_, i int) (int, string) { return 9_000_000 - i, status }
	}
	fresh := func(status string) func(page, i int) (int, string) {
		return func(page, i int) (int, string) { return 90_000_000 - 100*page - i, status }
	}
	for name, c := range map[string]struct {
		wants   func(*http.Request) bool
		row     func(page, i int) (int, string)
		stage   snapshot.Stage
		most    int64  // requests in two hours
		message string // of the log
	}{
		"running list, the same rows":        {running, same("running"), snapshot.StageJobs, 100, "list of running jobs does not end"},
		"running list, other rows each time": {running, fresh("running"), snapshot.StageJobs, 2000, "list of running jobs does not end after 100 pages"},
		// The rows of the first page are news, those of the next are not.
		"newest rows, the same rows": {newest, same("success"), snapshot.StageReconcile, 400, "deeper walk does not end"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				world := gitlabsim.New(gitlabsim.Options{Seed: 3, Version: "17.11.0", Runners: 20, Healthy: true, Tags: 8, JobsPerHour: 60, Token: secret})
				broken := world.AddRunner(gitlabsim.RunnerSpec{NoJobs: true})
				var out lines
				var asked atomic.Int64
				s := newScraper()
				_, state := openState(t, "")
				r := start(t, world, state, s, setup{logger: out.logger(), wrap: func(t http.RoundTripper) http.RoundTripper {
					return endlessJobs{t, fmt.Sprintf("/runners/%d/jobs", broken), c.wants, c.row, &asked}
				}})
				defer r.end(t)
				time.Sleep(2 * time.Hour)
				if n := s.counted(fmt.Sprintf("failure %s decode", c.stage)); n < 3 || n > 40 {
					t.Errorf("%d failures", n)
				}
				if logged := out.with("stage="); len(logged) != 1 || len(out.with(c.message, "remedy=")) != 1 {
					t.Errorf("logged %d times: %s", len(logged), logged)
				}
				if n := asked.Load(); n > c.most || n < 4 {
					t.Errorf("%d requests for a list that does not end", n)
				} else {
					t.Logf("%d requests in two hours", n)
				}
				if n := s.scrape().Self.Stages[c.stage].Unread["decode"]; n != 1 {
					t.Errorf("unread %v", s.scrape().Self.Stages[c.stage].Unread)
				}
				if f := s.scrape().Fleet; !f.JobsWhole {
					t.Error("it holds the sums of jobs back")
				}
				r.m.fleet.mu.Lock()
				if n := r.m.fleet.led.Watched(broken); n > 0 {
					t.Errorf("%d jobs of an endless list are watched", n)
				}
				for id, at := range r.m.fleet.inv.IDs() {
					if age := time.Since(r.m.fleet.led.ReadAt(at)); at != broken && age > 15*time.Minute {
						t.Errorf("runner %d was read %v ago", id, age)
					}
				}
				r.m.fleet.mu.Unlock()
			})
		})
	}
}
