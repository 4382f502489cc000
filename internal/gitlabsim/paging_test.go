package gitlabsim

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestPagingHeadersAreGitLabs(t *testing.T) {
	for _, tc := range []struct {
		n                                   int
		query                               string
		rows                                int
		page, per, next, prev, total, pages string // "-": no such header
		rels                                string
	}{
		{0, "", 0, "1", "20", "", "", "0", "1", "first last"},
		{1, "", 1, "1", "20", "", "", "1", "1", "first last"},
		{20, "", 20, "1", "20", "", "", "20", "1", "first last"},
		{21, "", 20, "1", "20", "2", "", "21", "2", "next first last"},
		{21, "?page=2", 1, "2", "20", "", "1", "21", "2", "prev first last"},
		{21, "?page=3", 0, "3", "20", "", "2", "21", "2", "prev first last"},
		{250, "?per_page=100&page=2", 100, "2", "100", "3", "1", "250", "3", "prev next first last"},
		{250, "?per_page=1000", 100, "1", "100", "2", "", "250", "3", "next first last"},
		{250, "?per_page=&page=", 20, "1", "20", "2", "", "250", "13", "next first last"},
		{250, "?page=99999999999", 0, "99999999999", "20", "", "99999999998", "250", "13", "prev first last"},
		{10000, "?per_page=100&page=100", 100, "100", "100", "", "99", "10000", "100", "prev first last"},
		{10001, "?per_page=100&page=100", 100, "100", "100", "101", "99", "-", "-", "prev next first"},
		{10001, "?per_page=100&page=101", 1, "101", "100", "", "100", "-", "-", "prev first"},
		{10001, "?per_page=100&pagination=keyset&order_by=id&search=x", 100, "1", "100", "2", "", "-", "-", "next first"},
	} {
		t.Run(fmt.Sprintf("%d%s", tc.n, tc.query), func(t *testing.T) {
			w, _ := newWorld(Options{Runners: tc.n})
			r := must(t, w, "/runners/all"+tc.query)
			if n := len(r.rows(t)); n != tc.rows {
				t.Errorf("%d rows, want %d", n, tc.rows)
			}
			for h, want := range map[string]string{
				"X-Page": tc.page, "X-Per-Page": tc.per, "X-Next-Page": tc.next, "X-Prev-Page": tc.prev, "X-Total": tc.total, "X-Total-Pages": tc.pages,
			} {
				got := "-"
				if v, ok := r.header[h]; ok {
					got = v[0]
				}
				if got != want {
					t.Errorf("%s %q, want %q", h, got, want)
				}
			}
			var rels []string
			for _, m := range regexp.MustCompile(`<([^>]*)>; rel="(\w+)"`).FindAllStringSubmatch(r.header.Get("Link"), -1) {
				rels = append(rels, m[2])
				if !strings.HasPrefix(m[1], "https://gitlab.example.com/api/v4/runners/all?") {
					t.Errorf("link to %s", m[1])
				}
			}
			if got := strings.Join(rels, " "); got != tc.rels {
				t.Errorf("rels %q, want %q", got, tc.rels)
			}
		})
	}
}

// TestDeletionBetweenPagesHidesARunner: a deletion between two page requests hides one runner, an
// addition none (docs/gitlab-api.md 2).
func TestDeletionBetweenPagesHidesARunner(t *testing.T) {
	w, _ := newWorld(Options{Runners: 40})
	one := ids(must(t, w, "/runners/all").rows(t))
	w.DeleteRunner(3)
	w.AddRunner(RunnerSpec{})
	two := ids(must(t, w, "/runners/all?page=2").rows(t))
	if one[19] != 20 || two[0] != 22 || two[len(two)-1] != 41 {
		t.Errorf("pages %v and %v", one, two)
	}
}

// jobWorld has one runner with n finished jobs, an hour apart at most.
func jobWorld(o Options, n int) (*World, []int64) {
	w, c := newWorld(o)
	id := w.AddRunner(RunnerSpec{})
	var all []int64
	for range n {
		all = append(all, w.CreateJob(JobSpec{Runner: id, Finished: noon.Add(time.Second)}))
	}
	c.add(time.Minute)
	return w, all
}

func TestJobsComeInTheOrderAskedFor(t *testing.T) {
	w, all := jobWorld(Options{}, 45)
	down := slices.Clone(all)
	slices.Reverse(down)
	for query, want := range map[string][]int64{
		"":                                     all[:20],
		"?sort=desc":                           all[:20],
		"?pagination=offset":                   all[:20],
		"?order_by=id":                         down[:20],
		"?order_by=id&sort=desc&page=3":        down[40:],
		"?order_by=id&sort=asc&page=2":         all[20:40],
		"?status=success&per_page=100":         all,
		"?status=running":                      nil,
		"?status=failed":                       nil,
		"?order_by=id&status=success&page=2":   down[20:40],
		"?order_by=id&per_page=100&updated=x0": down,
	} {
		if got := ids(must(t, w, "/runners/1/jobs"+query).rows(t)); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
}

func TestKeysetPagesHaveEachJobOnce(t *testing.T) {
	w, all := jobWorld(Options{}, 45)
	path := "/runners/1/jobs?pagination=keyset&order_by=id&sort=desc&per_page=10"
	var got []int64
	for pages := 1; ; pages++ {
		r := must(t, w, path)
		got = append(got, ids(r.rows(t))...)
		for h := range r.header {
			if h != "X-Request-Id" && strings.HasPrefix(h, "X-") {
				t.Errorf("header %s", h)
			}
		}
		link := r.header.Get("Link")
		if link == "" {
			if pages != 5 {
				t.Errorf("%d pages", pages)
			}
			break
		}
		m := regexp.MustCompile(`^<https://gitlab\.example\.com/api/v4(/[^>]*cursor=[^>]*)>; rel="next"$`).FindStringSubmatch(link)
		if m == nil {
			t.Fatalf("link %s", link)
		}
		path = m[1]
		if pages == 2 {
			// Neither a new job nor a deleted one moves the rows below the cursor.
			w.CreateJob(JobSpec{Runner: 1})
			w.DeleteJob(all[44])
		}
	}
	slices.Reverse(all)
	if !slices.Equal(got, all) {
		t.Errorf("%v, want %v", got, all)
	}
	// A full last page has no next link either.
	if r := must(t, w, "/runners/1/jobs?pagination=keyset&order_by=id&per_page=45"); len(r.rows(t)) != 45 || r.header.Get("Link") != "" {
		t.Errorf("%d rows, link %q", len(r.rows(t)), r.header.Get("Link"))
	}
	for query, want := range map[string]int{
		"?pagination=keyset&order_by=id&sort=asc":                http.StatusMethodNotAllowed,
		"?pagination=keyset":                                     http.StatusMethodNotAllowed,
		"?pagination=keyset&order_by=id&sort=desc&cursor=%21%21": http.StatusBadRequest,
	} {
		if r := get(t, w, "/runners/1/jobs"+query); r.status != want || !strings.Contains(r.body, `"error":`) {
			t.Errorf("%s: %d %s", query, r.status, r.body)
		}
	}
	old, _ := jobWorld(Options{Version: "17.7.0"}, 45)
	if r := must(t, old, "/runners/1/jobs?pagination=keyset&order_by=id"); r.header.Get("X-Total") != "45" {
		t.Errorf("17.7 took keyset: %v", r.header)
	}
}

func TestTotalsOfManyJobsAreWithheld(t *testing.T) {
	w, _ := jobWorld(Options{OffsetLimit: true}, 10_001)
	r, _ := w.Runner(1)
	for query, want := range map[string]string{
		"?order_by=id":   "",
		"?status=failed": "0",
		"?system_id=" + url.QueryEscape(r.Managers[0].SystemID): "",
		"?system_id=other": "",
	} {
		if got := must(t, w, "/runners/1/jobs"+query).header.Get("X-Total"); got != want {
			t.Errorf("%s: X-Total %q, want %q", query, got, want)
		}
	}
	w.DeleteJob(1_000_001)
	if got := must(t, w, "/runners/1/jobs").header.Get("X-Total"); got != "10000" {
		t.Errorf("X-Total %q", got)
	}
	if n := len(must(t, w, "/runners/1/jobs?system_id="+r.Managers[0].SystemID).rows(t)); n != 20 {
		t.Errorf("%d rows of the machine", n)
	}
	if n := len(must(t, w, "/runners/1/jobs?system_id=other").rows(t)); n != 0 {
		t.Errorf("%d rows of no machine", n)
	}
	must(t, w, "/runners/1/jobs?per_page=100&page=500")
	if r := get(t, w, "/runners/1/jobs?per_page=100&page=501"); r.status != http.StatusMethodNotAllowed || !strings.Contains(r.body, "50000") {
		t.Errorf("beyond 50,000: %d %s", r.status, r.body)
	}
}

func TestFiltersSelectRunners(t *testing.T) {
	w, _ := newWorld(Options{})
	g := w.AddGroup("top", 0)
	sub := w.AddGroup("sub", g)
	p := w.AddProject("proj", sub)
	other := w.AddProject("other", g)
	inst := w.AddRunner(RunnerSpec{Tags: []string{"a", "b"}, Version: "17.1.0", Managers: 2})
	top := w.AddRunner(RunnerSpec{Group: g, Tags: []string{"a"}, Version: "18.0.1", Paused: true})
	low := w.AddRunner(RunnerSpec{Group: sub, Version: "18.2.0"})
	prj := w.AddRunner(RunnerSpec{Projects: []int64{p}, Tags: []string{"b"}, Version: "16.5.0"})
	for path, want := range map[string][]int64{
		"/runners/all":                                    {inst, top, low, prj},
		"/runners":                                        {top, low, prj},
		"/runners/all?type=group_type":                    {top, low},
		"/runners/all?paused=true":                        {top},
		"/runners/all?paused=false&type=group_type":       {low},
		"/runners/all?tag_list=a":                         {inst, top},
		"/runners/all?tag_list=a,b":                       {inst},
		"/runners/all?tag_list[]=a&tag_list[]=b":          {inst},
		"/runners/all?version_prefix=18.":                 {top, low},
		"/runners/all?version_prefix=17.1":                {inst, inst}, // a join without DISTINCT
		"/runners/all?scope=shared":                       {inst},
		"/runners/all?scope=specific":                     {prj},
		"/runners/all?scope=paused":                       {top},
		"/runners?scope=active":                           {low, prj},
		"/runners/all?search=nothing&order_by=name":       {inst, top, low, prj},
		fmt.Sprintf("/groups/%d/runners", g):              {inst, top},
		"/groups/top%2Fsub/runners":                       {inst, top, low},
		"/groups/top%2Fsub/runners?type=group_type":       {top, low},
		fmt.Sprintf("/projects/%d/runners", p):            {inst, top, low, prj},
		"/projects/top%2Fsub%2Fproj/runners?tag_list=b":   {inst, prj},
		fmt.Sprintf("/projects/%d/runners?page=1", other): {inst, top},
		"/projects/top%2fother/runners?status=online":     {inst, top},
	} {
		if got := ids(must(t, w, path).rows(t)); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	if n := len(must(t, w, fmt.Sprintf("/runners/%d/projects", prj)).rows(t)); n != 1 {
		t.Errorf("%d projects", n)
	}
	if !w.MoveRunner(prj, 0, []int64{other}) || w.MoveRunner(low, 9999, nil) || !w.MoveRunner(low, g, nil) {
		t.Error("MoveRunner")
	}
	if got := ids(must(t, w, fmt.Sprintf("/projects/%d/runners", other)).rows(t)); !slices.Equal(got, []int64{inst, top, low, prj}) {
		t.Errorf("moved: %v", got)
	}
}

// TestTimesHaveMillisecondsAndTheZone: RFC 3339 with milliseconds, in the instance's zone.
func TestTimesHaveMillisecondsAndTheZone(t *testing.T) {
	for zone, want := range map[*time.Location]string{
		time.UTC:                        "2026-03-01T12:00:00.000Z",
		time.FixedZone("", 9*3600+1800): "2026-03-01T21:30:00.000+09:30",
	} {
		w, _ := newWorld(Options{Location: zone})
		w.AddRunner(RunnerSpec{})
		if got := must(t, w, "/runners/1").object(t)["created_at"]; got != want {
			t.Errorf("%v, want %s", got, want)
		}
	}
	for _, ms := range []int64{-1, 0, 1, 999, 1000, 951782400123, noon.UnixMilli(), time.Date(2031, 12, 31, 23, 59, 59, 999e6, time.UTC).UnixMilli()} {
		if got, want := string(appendUTC(nil, ms)), time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z07:00"); got != want {
			t.Errorf("%d: %s, want %s", ms, got, want)
		}
	}
}

func TestRelativeRootPrefixesEachPath(t *testing.T) {
	w, _ := newWorld(Options{Runners: 30, Root: "/git/lab", ExternalURL: "https://corp.example/git/lab/"})
	r := must(t, w, "/runners/all")
	if !strings.Contains(r.header.Get("Link"), "<https://corp.example/git/lab/api/v4/runners/all?page=2&per_page=20>") {
		t.Errorf("link %s", r.header.Get("Link"))
	}
	for _, path := range []string{"/api/v4/version", "/git/lab/api/v3/version", "/git/lab/version"} {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		req.Header.Set("Private-Token", adminToken)
		rec := httptest.NewRecorder()
		w.Handler().ServeHTTP(rec, req)
		if rec.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, rec.Code)
		}
	}
}

func TestRunnerIDsAreNeverReused(t *testing.T) {
	w, _ := newWorld(Options{Runners: 5})
	if id := w.AddRunner(RunnerSpec{ID: 1000}); id != 1000 {
		t.Errorf("id %d", id)
	}
	if id := w.AddRunner(RunnerSpec{ID: 500}); id != 500 {
		t.Errorf("id %d", id)
	}
	w.DeleteRunner(500)
	for _, spec := range []RunnerSpec{{ID: 1000}, {ID: 500}, {Type: "x"}, {Group: 99999}, {Projects: []int64{99999}}} {
		if id := w.AddRunner(spec); id != 0 {
			t.Errorf("%+v gave %d", spec, id)
		}
	}
	got := ids(must(t, w, "/runners/all").rows(t))
	if !slices.Equal(got, []int64{1, 2, 3, 4, 5, 1000}) {
		t.Errorf("ids %v", got)
	}
	if next := w.AddRunner(RunnerSpec{}); next != 1001 {
		t.Errorf("next %s", strconv.FormatInt(next, 10))
	}
}
