package page

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

func get(t *testing.T, h http.HandlerFunc, target string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, http.NoBody))
	return w
}

var (
	tags   = regexp.MustCompile(`<[^>]*>`)
	blanks = regexp.MustCompile(`\s+`)
)

// text is what a reader sees of a page.
func text(html string) string {
	_, body, _ := strings.Cut(html, "</style>")
	body = strings.NewReplacer("&#39;", "'", "&lt;", "<", "&gt;", ">", "&#34;", `"`, "&amp;", "&").Replace(tags.ReplaceAllString(body, ""))
	return blanks.ReplaceAllString(body, " ")
}

// htmlOf is the page as a browser reads its attributes.
func htmlOf(t *testing.T, p *Page, query string) string {
	t.Helper()
	return html.UnescapeString(get(t, p.ServeFleet, "/fleet"+query).Body.String())
}

func fleetText(t *testing.T, w *world) string {
	t.Helper()
	r := get(t, w.page(Options{}).ServeFleet, "/fleet")
	if r.Code != http.StatusOK {
		t.Fatalf("HTTP %d: %s", r.Code, r.Body)
	}
	return text(r.Body.String())
}

func has(t *testing.T, page string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
}

func hasNot(t *testing.T, page string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if strings.Contains(page, want) {
			t.Errorf("%q in\n%s", want, page)
		}
	}
}

// TestFirstScreenHasTagTimeAndRemedy: which tag, since when, what to do, before anything else.
func TestFirstScreenHasTagTimeAndRemedy(t *testing.T) {
	page := fleetText(t, small())
	has(t, page,
		"List of runners read 20 s ago · oldest details 6 min ago · verdicts in force.",
		"2 tags without a usable runner", "also cuda", // the same runners
		"0 of 2 usable, floor 2: 1 down, 1 paused.", "since 11:38 UTC, 22 min ago",
		"Last gone: gpu-a100-01, gpu-a100-02.",
		"Start the runners that are down",
		"Job silent", "1 orphaned job", "last sign 82 min ago",
		"9 jobs of 3 projects failed one after the other, most within 30 s (the longest ran 8 s); 14 jobs of the same projects succeeded on other runners meanwhile, 0 failed there.",
		"Pause the runner.",
	)
	has(t, page, "It executes job 901, job 902.")
	has(t, htmlOf(t, small().page(Options{}), ""), `<a href="https://corp.example.com/g/p/-/jobs/901" rel="noreferrer">job 901</a>`)
	if at := strings.Index(page, "Tags short of runners"); at > strings.Index(page, "Runners down") || at < 0 {
		t.Error("tags do not come first")
	}
}

// TestAbandonedIsForCleanUp: a runner that was silent for a week is listed, and is no
// problem of today: there is no alert about it either.
func TestAbandonedIsForCleanUp(t *testing.T) {
	for reason, state := range map[snapshot.HealthReason]string{snapshot.HealthAbandoned: stateOK, snapshot.HealthSilent: stateProblem} {
		b := build{healthy().gitlabs[0]}
		b.Fleet.Tags = nil
		b.runner(6, "build-06", "docker", "linux").Status = snapshot.Offline
		b.down(reason, noon.AddDate(0, 0, -10))
		w := &world{gitlabs: []*snapshot.GitLab{b.sum()}, now: noon}
		var r Report
		if err := json.Unmarshal(get(t, w.page(Options{}).ServeAPI, "/api/v1/fleet").Body.Bytes(), &r); err != nil || r.State != state {
			t.Errorf("%v: state %q, want %q (%v)", reason, r.State, state, err)
		}
		page := fleetText(t, w)
		has(t, page, "build-06")
		if state == stateOK {
			has(t, page, "No problem", "Abandoned", "No sign for a week: registrations to clean up.")
			hasNot(t, page, "Runners down", "1 runner down")
		} else {
			has(t, page, "1 runner down", "Runners down")
			hasNot(t, page, "clean up")
		}
	}
}

// TestNeverGreenWithoutEvidence: only a fleet that was read and judged lately is
// called well.
func TestNeverGreenWithoutEvidence(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*snapshot.GitLab)
		state  string
		want   string
	}{
		"well":              {func(*snapshot.GitLab) {}, stateOK, "No problem"},
		"not judged":        {func(s *snapshot.GitLab) { s.Health = nil }, stateUnknown, "not judged yet"},
		"old judgment":      {func(s *snapshot.GitLab) { s.Health.Time = noon.Add(-time.Hour) }, stateUnknown, "old"},
		"old list":          {func(s *snapshot.GitLab) { s.Self.Stages[0].LastSuccess = noon.Add(-6 * time.Minute) }, stateUnknown, "List of runners read 6 min ago"},
		"first reading":     {func(s *snapshot.GitLab) { s.Fleet.Detailed = false }, stateUnknown, "not everything is known"},
		"suspended":         {func(s *snapshot.GitLab) { s.Health.AfterOutage, s.Health.Until = true, noon.Add(32*time.Minute) }, stateUnknown, "verdicts suspended until 12:32 UTC (in 32 min)"},
		"listing failed":    {func(s *snapshot.GitLab) { s.Up = false }, stateProblem, "GitLab cannot be read"},
		"never read":        {func(s *snapshot.GitLab) { s.Up, s.Fleet, s.Health = false, nil, nil }, stateProblem, "GitLab was not read yet"},
		"scope refused":     {func(s *snapshot.GitLab) { s.Scopes[0] = snapshot.ScopeState{Kind: "groups", Path: "a/b"} }, stateProblem, "scope groups a/b cannot be read"},
		"unknown floor":     {func(s *snapshot.GitLab) { s.Expected[0].Tag, s.Fleet.UnknownTags = "x", []string{"x"} }, stateUnknown, "Not known"},
		"floor, no runner":  {func(s *snapshot.GitLab) { s.Expected[0].Tag = "x" }, stateProblem, "Register a runner with this tag, or take the tag out of expected."},
		"may be empty":      {func(s *snapshot.GitLab) { s.Expected[0] = snapshot.Expected{Tag: "x"} }, stateOK, "No problem"},
		"suspension is why": {func(s *snapshot.GitLab) { s.Health.FleetSilent, s.Health.Until = true, noon.Add(time.Hour) }, stateUnknown, "Most idle runners are silent at once"},
	} {
		t.Run(name, func(t *testing.T) {
			w := healthy()
			tt.change(w.gitlabs[0])
			has(t, fleetText(t, w), tt.want)
			var r Report
			if err := json.Unmarshal(get(t, w.page(Options{}).ServeAPI, "/api/v1/fleet").Body.Bytes(), &r); err != nil || r.State != tt.state {
				t.Errorf("state %q, %v", r.State, err)
			}
			html := get(t, w.page(Options{}).ServeFleet, "/fleet").Body.String()
			if green := strings.Contains(html, `"band ok"`); green != (tt.state == stateOK) {
				t.Errorf("green is %v", green)
			}
		})
	}
	if page := fleetText(t, &world{now: noon}); !strings.Contains(page, "No GitLab was read yet") {
		t.Error(page)
	}
}

// TestUnjudgedRunnersAreShownByGitLabsStatus while nobody judges.
func TestUnjudgedRunnersAreShownByGitLabsStatus(t *testing.T) {
	w := healthy()
	s := w.gitlabs[0]
	s.Health = nil
	s.Fleet.Rows[2].Status, s.Fleet.Rows[2].StatusSince = snapshot.Offline, noon.Add(-10*time.Minute)
	has(t, fleetText(t, w), "Runners that GitLab calls offline", "Offlinebuild-03", "GitLab calls it offline. It was not judged yet.")
}

// TestWithdrawnPictureStays: gray, with its time, never empty and never green.
func TestWithdrawnPictureStays(t *testing.T) {
	w := small()
	p := w.page(Options{})
	s := w.gitlabs[0]
	p.Keep(s)
	later := *s
	later.Fleet, later.Health, later.Up, later.Generation = nil, nil, false, 2
	p.Keep(&later)
	w.gitlabs[0], w.now = &later, noon.Add(20*time.Minute)
	html := get(t, p.ServeFleet, "/fleet").Body.String()
	has(t, text(html), "no verdicts since", "GitLab cannot be readas of 11:59 UTC:", "corp cannot be read since 11:59 UTC, 20 min ago", "as of 11:59", "0 of 2 usable", "gpu-a100-01", "the last picture")
	hasNot(t, html, `class="ok"`, `"band ok"`, `class="problem"><`)
	if !strings.Contains(html, `<li id="tag/corp/gpu" class="grey">`) {
		t.Error("the row of the tag is not gray")
	}
	has(t, text(get(t, p.ServeRunner, "/fleet/runner?gitlab=corp&id=3").Body.String()), "As of 11:59 UTC: Alive")
	var r Report
	if err := json.Unmarshal(get(t, p.ServeAPI, "/api/v1/fleet").Body.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if r.State != stateProblem || r.GitLabs[0].State != withdrawn || len(r.Tags) == 0 || r.Tags[0].AsOf != noon.Add(-20*time.Second) {
		t.Errorf("%+v", r)
	}
	// Another GitLab under the same name has nothing to do with it.
	other := later
	other.URL = "https://other.example.com"
	w.gitlabs[0] = &other
	hasNot(t, text(get(t, p.ServeFleet, "/fleet").Body.String()), "gpu-a100-01")
}

// TestManyAreOneRow: 181 runners of one site are one row, and a death that is
// newer is not hidden in it.
func TestManyAreOneRow(t *testing.T) {
	w := large()
	html := get(t, w.page(Options{}).ServeFleet, "/fleet").Body.String()
	page := text(html)
	has(t, page, "181 runners", "since 11:13 to 11:19 UTC", "181 docker, 181 linux, 181 site-sin")
	if n := strings.Count(page, "Silent among peers"); n > 2 { // its badge and the filter's option
		t.Errorf("%d rows of one event", n)
	}
	ids := map[string]bool{}
	for _, m := range regexp.MustCompile(` id="([^"]*)"`).FindAllStringSubmatch(html, -1) {
		if ids[m[1]] {
			t.Errorf("id %s stands twice", m[1])
		}
		ids[m[1]] = true
	}
	if !ids["runner/corp/27"] || !ids["tag/corp/gpu"] || !ids["tag/corp/h100"] {
		t.Error("a row, or a name in one, has no address")
	}
	if n := len(html); n > 300_000 {
		t.Errorf("%d bytes", n)
	}
	has(t, page, "prod-deploy", "Register a runner with this tag", "windows-2019", "Resume a runner, unless this is maintenance.")
}

// TestPageIsQuick: the promise is 100 ms for 5,000 runners with 40 problems.
func TestPageIsQuick(t *testing.T) {
	p := large().page(Options{})
	best := time.Hour
	for range 5 { // the machine may be busy
		begin := time.Now()
		get(t, p.ServeFleet, "/fleet")
		best = min(best, time.Since(begin))
	}
	if best > 100*time.Millisecond {
		t.Errorf("the page takes %v", best)
	}
}

// TestPageStaysSmall when everything is ill at different times and each name is
// as long as GitLab allows.
func TestPageStaysSmall(t *testing.T) {
	b := newBuild("corp")
	for id := int64(1); id <= 5000; id++ {
		b.runner(id, strings.Repeat("漢", 255), fmt.Sprintf("%s-%d", strings.Repeat("長", 250), id%700))
		reason := snapshot.HealthSilent + snapshot.HealthReason(id%6)
		b.down(reason, noon.Add(-time.Duration(id/6*17)*time.Minute/10))
		ill := &b.Health.Ill[len(b.Health.Ill)-1]
		ill.Health, ill.OrphanedJobs = snapshot.Health(id%4), int(id%2)
		ill.Suspects[id%4] = noon.Add(-time.Minute)
	}
	p := (&world{gitlabs: []*snapshot.GitLab{b.sum()}, now: noon}).page(Options{Grafana: "https://grafana.example.com", Runbooks: "https://rb.example.com"})
	for _, query := range []string{"", "?type=instance_type&q=%E6%BC%A2"} {
		if n := get(t, p.ServeFleet, "/fleet"+query).Body.Len(); n > 300_000 {
			t.Errorf("%q: %d bytes", query, n)
		}
	}
}

// TestTagIsShortSinceTheLossThatWasOneTooMany, not since an earlier or a later one.
func TestTagIsShortSinceTheLossThatWasOneTooMany(t *testing.T) {
	at := func(minutes int) time.Time { return noon.Add(-time.Duration(minutes) * time.Minute) }
	losses := []loss{{since: at(50)}, {since: at(30)}, {since: at(10)}}
	floor := func(n int) *int { return &n }
	for name, tt := range map[string]struct {
		tag  Tag
		want time.Time
	}{
		"lost: the last one":       {Tag{Problem: tagLost, losses: losses}, at(10)},
		"floor of 3 of 4":          {Tag{Problem: tagBelowFloor, Floor: floor(3), Usable: 1, losses: losses}, at(30)},
		"floor of 4 of 4":          {Tag{Problem: tagBelowFloor, Floor: floor(4), Usable: 1, losses: losses}, at(50)},
		"never that many":          {Tag{Problem: tagBelowFloor, Floor: floor(9), Usable: 1, losses: losses}, time.Time{}},
		"half of 4":                {Tag{Problem: tagHalfGone, Runners: 4, Usable: 1, losses: losses}, at(10)},
		"last of 4":                {Tag{Problem: tagLastRunner, Runners: 4, Usable: 1, losses: losses}, at(10)},
		"deleted: last available":  {Tag{Problem: tagLost, Since: at(7)}, at(7)},
		"enough":                   {Tag{Problem: tagFine, Usable: 1, losses: losses, Since: at(1)}, time.Time{}},
		"lost and time not known":  {Tag{Problem: tagLost, losses: []loss{{}}}, time.Time{}},
		"floor without any runner": {Tag{Problem: tagLost, Floor: floor(1)}, time.Time{}},
	} {
		if got := shortSince(&tt.tag); !got.Equal(tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// TestChangesOfTheLastHourAreFound between pictures.
func TestChangesOfTheLastHourAreFound(t *testing.T) {
	w := &world{now: noon}
	b := newBuild("corp")
	for id := range int64(6) {
		b.runner(id+1, "r"+itoa(id+1), "t")
	}
	w.gitlabs = []*snapshot.GitLab{b.sum()}
	p := w.page(Options{})
	p.Keep(w.gitlabs[0])

	next := func(change func(b build)) {
		b := newBuild("corp")
		last := w.gitlabs[0]
		b.Fleet.Rows = append(b.Fleet.Rows, last.Fleet.Rows...)
		b.Generation, b.RowsGeneration, b.Time = last.Generation+1, last.RowsGeneration+1, last.Time.Add(time.Minute)
		change(b)
		w.gitlabs[0], w.now = b.sum(), b.Time.Add(5*time.Second)
		p.Keep(w.gitlabs[0])
	}
	next(func(b build) {
		b.Fleet.Rows[0].Paused = true
		b.Fleet.Rows = append(b.Fleet.Rows[:3], b.Fleet.Rows[4:]...) // 4 left
		b.Health.Ill = []snapshot.Ill{{ID: 2, Health: snapshot.HealthDown, Reason: snapshot.HealthSilent, Since: b.Time}}
	})
	next(func(b build) {
		b.Fleet.Rows[0].Paused = false
		b.runner(7, "r7", "t")
		b.Health.Ill = []snapshot.Ill{{ID: 3, OrphanedJobs: 1, Suspects: [snapshot.NumSuspicions]time.Time{b.Time}}}
	})
	next(func(b build) {
		for i := range b.Fleet.Rows {
			b.Fleet.Rows[i].Status = snapshot.Offline
		}
	})
	has(t, text(get(t, p.ServeFleet, "/fleet").Body.String()),
		"r1: was paused", "r1: was resumed", "r4: left", "r7: joined", "r2: went down: silent", "r2: is back: silent",
		"r3: is suspected: black hole", "r3: left a job behind", "Tag t: lost its last usable runner", "Known since 12:00 UTC")

	// Runners of a scope that fails have not left; a new monitor begins anew.
	n := len(p.memory.gitlabs["corp"].changes)
	next(func(b build) { b.Up, b.Fleet.Rows = false, nil; b.Fleet.Detailed = false })
	next(func(b build) { b.Generation, b.Fleet.Detailed = 1, false; b.runner(9, "r9", "t") })
	if more := p.memory.gitlabs["corp"].changes[n:]; len(more) > 0 {
		t.Errorf("%+v", more)
	}
	w.now = noon.Add(2 * time.Hour)
	has(t, text(get(t, p.ServeFleet, "/fleet").Body.String()), "Nothing that is known here.")
}

func TestFiltersSelectAndWrongOnesAreRefused(t *testing.T) {
	w := small()
	w.gitlabs[0].Fleet.Rows[4].RunUntagged = true
	p := w.page(Options{})
	for query, tt := range map[string]struct {
		status      int
		want, lacks string
	}{
		"?tag=gpu":                  {200, "2 runners of this selection", "build-01"},
		"?tag=docker":               {200, "build-03", "gpu-a100-01"},
		"?tag=(untagged)":           {200, "1 runner of this selection", "build-02"},
		"?health=alive":             {200, "4 runners of this selection", "gpu-a100-01 "},
		"?health=down":              {200, "1 runner of this selection", "build-01"},
		"?reason=black_hole":        {200, "1 runner of this selection", "build-01"},
		"?q=BUILD-0":                {200, "3 runners of this selection", "gpu-a100-02 #2"},
		"?q=3":                      {200, "build-01", "build-02 #4"},
		"?type=group_type":          {200, "", "gpu-a100-01 #1"},
		"?gitlab=corp":              {200, "gpu-a100-01", "this selection runners"},
		"?gitlab=other":             {404, `no GitLab of the name "other"`, "No problem"},
		"?health=donw":              {400, "it must be one of alive, overdue, down, unknown", "No problem"},
		"?reason=x":                 {400, "black_hole", "No problem"},
		"?type=x":                   {400, "project_type", "No problem"},
		"?tag=docker&utm_source=it": {200, "build-03", "gpu-a100-01"},
	} {
		r := get(t, p.ServeFleet, "/fleet"+query)
		page := text(r.Body.String())
		if r.Code != tt.status || !strings.Contains(page, tt.want) || strings.Contains(page, tt.lacks) {
			t.Errorf("%s: HTTP %d, %q in, %q not in\n%s", query, r.Code, tt.want, tt.lacks, page)
		}
	}
	if r := get(t, p.ServeAPI, "/api/v1/fleet?helth=down"); r.Code != http.StatusBadRequest || !strings.Contains(r.Body.String(), "helth") {
		t.Errorf("HTTP %d %s", r.Code, r.Body)
	}
	r := get(t, p.ServeFleet, "/fleet?refresh=60")
	if r.Header().Get("Refresh") != "60" || get(t, p.ServeFleet, "/fleet?refresh=1").Header().Get("Refresh") != "" {
		t.Error("the page does not refresh as asked")
	}
}

// TestRunnerPageHasEachEvidenceAndItsTime: every piece of evidence of a verdict.
func TestRunnerPageHasEachEvidenceAndItsTime(t *testing.T) {
	w := small()
	p := w.page(Options{Grafana: "https://grafana.example.com/", Runbooks: "https://rb.example.com/{alert}/"})
	html := get(t, p.ServeRunner, "/fleet/runner?gitlab=corp&id=1").Body.String()
	page := text(html)
	has(t, page, "Down: Job silent since 11:38 UTC, 22 min ago", "1 orphaned job.", "gpu-a100-01")
	has(t, page, "2026-11-29 11:27:00 33 min ago", "Silence33 min", "Its habit58 min", "Its limit70 min", "Moments missed3", "2e-06", "88 of 89", "Peers1",
		"2026-11-29 11:10:00", "2026-11-29 11:08:00", "2026-08-29 12:00:00")
	for _, link := range []string{
		"https://corp.example.com/admin/runners/1\"", "https://corp.example.com/admin/runners/1#/jobs",
		"https://grafana.example.com/d/grf-runner?var-gitlab=corp&amp;var-runner=1", "https://rb.example.com/GitLabRunnerDown/", `"/fleet?gitlab=corp&amp;tag=gpu"`,
	} {
		if !strings.Contains(html, link) {
			t.Errorf("no link %s", link)
		}
	}
	for query, status := range map[string]int{"": 400, "?gitlab=corp&id=x": 400, "?gitlab=x&id=1": 404, "?gitlab=corp&id=99": 404, "?gitlab=corp&id=3": 200, "?id=3": 200} {
		if r := get(t, p.ServeRunner, "/fleet/runner"+query); r.Code != status {
			t.Errorf("%s: HTTP %d", query, r.Code)
		}
	}
	w.evidence = nil
	has(t, text(get(t, w.page(Options{}).ServeRunner, "/fleet/runner?gitlab=corp&id=1").Body.String()), "Not judged yet.")
}

// TestForeignTextIsShownNotRun (in a browser: TestShipBrowserFindsNothingWrong).
func TestForeignTextIsShownNotRun(t *testing.T) {
	w := hostile()
	p := w.page(Options{Grafana: "https://g.example.com/{board}?t={tag}&r={runner}", Runbooks: "https://rb.example.com"})
	for _, h := range []http.HandlerFunc{p.ServeFleet, p.ServeRunner} {
		r := get(t, h, "/fleet/runner?gitlab=corp&id=1")
		html := r.Body.String()
		hasNot(t, html, "<script", "<img", `href="javascript:`, "#ZgotmplZ")
		if !strings.Contains(html, "&lt;script&gt;document.title") {
			t.Error("it is not shown")
		}
		csp := r.Header().Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || r.Header().Get("Cache-Control") != "no-store" ||
			r.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("headers %v", r.Header())
		}
	}
	html := htmlOf(t, p, "")
	for _, want := range []string{`id="tag/corp/a+b%2Fc%3Fd%23e%26f%2520%2B"`, `/fleet?gitlab=corp&tag=a+b%2Fc%3Fd%23e%26f%2520%2B"`} {
		if !strings.Contains(html, want) {
			t.Errorf("no %s", want)
		}
	}
	html = htmlOf(t, p, "?tag=a+b%2Fc%3Fd%23e%26f%2520%2B")
	for _, want := range []string{`<li id="tag/corp/a+b%2Fc%3Fd%23e%26f%2520%2B"`, "https://g.example.com/grf-tags?t=a+b%2Fc%3Fd%23e%26f%2520%2B&r="} {
		if !strings.Contains(html, want) {
			t.Errorf("no %s", want)
		}
	}
	// What a filter holds is foreign too.
	hasNot(t, get(t, p.ServeFleet, "/fleet?q="+url.QueryEscape(`"><script>x</script>`)).Body.String(), "<script")
	hasNot(t, get(t, p.ServeFleet, "/fleet?type="+url.QueryEscape(`"><script>x</script>`)).Body.String(), "<script")
}

func TestLinksAreBuiltAndChecked(t *testing.T) {
	l := links{grafana: "https://g.example.com", runbooks: "https://rb.example.com/x/"}
	for got, want := range map[string]string{
		l.board(boardTags, "a b", "c&d", 0):                                                           "https://g.example.com/d/grf-tags?var-gitlab=a+b&var-tag=c%26d",
		l.board(boardOverview, "", "", 0):                                                             "https://g.example.com/d/grf-overview",
		l.runbook("GitLabRunnerTagLost"):                                                              "https://rb.example.com/x/GitLabRunnerTagLost.md",
		(&links{}).board(boardTags, "a", "b", 1):                                                      "",
		(&links{}).runbook("GitLabRunnerTagLost"):                                                     "",
		gitlabRunner("https://gl/sub", &snapshot.Runner{ID: 7}):                                       "https://gl/sub/admin/runners/7",
		gitlabRunner("https://u:p@gl", &snapshot.Runner{ID: 7}):                                       "https://gl/admin/runners/7",
		gitlabRunner("https://gl", &snapshot.Runner{ID: 7, Type: snapshot.GroupType, Owner: "a/b"}):   "https://gl/groups/a/b/-/runners/7",
		gitlabRunner("https://gl", &snapshot.Runner{ID: 7, Type: snapshot.ProjectType, Owner: "a/b"}): "https://gl/a/b/-/runners/7",
		gitlabRunner("https://gl", &snapshot.Runner{ID: 7, Type: snapshot.ProjectType}):               "https://gl/admin/runners/7",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	for address, ok := range map[string]bool{
		"": true, "https://g.example.com/{board}": true, "https://g.example.com": true,
		"g.example.com": false, "javascript:alert(1)": false, "https://u:p@g": false, "https://g/{bord}": false, "http://": false,
	} {
		if err := CheckLink(address, GrafanaPlaceholders()...); (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		} else if err != nil && strings.Contains(err.Error(), "u:p") {
			t.Errorf("%v", err)
		}
	}
}

// TestRunbooksExist: each runbook that a row links to is there.
func TestRunbooksExist(t *testing.T) {
	names := []string{alertUnreadable, alertScope, alertOrphaned}
	for _, n := range tagAlerts {
		names = append(names, n)
	}
	for _, r := range reasons {
		if r.alert != "" {
			names = append(names, r.alert)
		}
	}
	for _, n := range names {
		if _, err := os.Stat(filepath.Join("../../docs/runbooks", n+".md")); err != nil {
			t.Error(err)
		}
	}
	if want := int(snapshot.NumHealthReasons-1) + int(snapshot.NumSuspicions); len(reasons) != want {
		t.Errorf("%d of %d reasons have words", len(reasons), want)
	}
}

// TestBoardsExist: each dashboard that a row links to has that uid.
func TestBoardsExist(t *testing.T) {
	for _, uid := range []string{boardTags, boardRunner, boardOverview} {
		file := filepath.Join("../../dashboards", strings.TrimPrefix(uid, "grf-")+".json")
		if data, err := os.ReadFile(file); err != nil || !strings.Contains(string(data), `"uid": "`+uid+`"`) {
			t.Errorf("%s: %v", uid, err)
		}
	}
}

// TestShardNamesThePartItShows: a shard names the part it shows, with the others where they are known.
func TestShardNamesThePartItShows(t *testing.T) {
	w := small()
	html := get(t, w.page(Options{Shard: 1, Shards: 3, ExternalURL: "https://fleet-{shard}.example.com/x/", Prefix: "/x"}).ServeFleet, "/fleet").Body.String()
	has(t, text(html), "Shard 1 of 3: this page shows its part of the runners only.")
	has(t, html, `href="https://fleet-0.example.com/x/fleet"`, `href="https://fleet-2.example.com/x/fleet"`, `href="/x/fleet/runner?gitlab=corp&amp;id=1"`)
	hasNot(t, html, "fleet-1.example")
	var r Report
	if err := json.Unmarshal(get(t, w.page(Options{Shard: 1, Shards: 3, ExternalURL: "https://fleet-{shard}.example.com/x/", Prefix: "/x"}).ServeAPI, "/api/v1/fleet").Body.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if r.Shard.Index != 1 || r.Shard.Count != 3 || len(r.Shard.Others) != 2 || !strings.HasPrefix(r.Runners[0].URL, "https://fleet-1.example.com/x/fleet/runner?") {
		t.Errorf("%+v %s", r.Shard, r.Runners[0].URL)
	}
	hasNot(t, fleetText(t, w), "Shard")

	// A floor is for all parts: what is missing here may stand elsewhere.
	w = healthy()
	w.gitlabs[0].Expected = []snapshot.Expected{{Tag: "docker", Runners: 9}, {Tag: "elsewhere", Runners: 1}}
	if r := w.page(Options{Shard: 0, Shards: 2}).report(noon, filter{}, &links{}); r.State != stateOK {
		t.Errorf("a part of the fleet is called short: %+v", r.Tags)
	}
	if r := w.page(Options{}).report(noon, filter{}, &links{}); r.State != stateProblem || len(r.Tags) != 2 {
		t.Errorf("the whole fleet is not: %+v", r.Tags)
	}
	has(t, text(get(t, small().page(Options{Shards: 2}).ServeFleet, "/fleet").Body.String()), "0 of 2 usable in this part, floor 2 for all parts")
}

// TestUnreadableGitLabStaysOnThePage: one that cannot be read does not vanish behind the other.
func TestUnreadableGitLabStaysOnThePage(t *testing.T) {
	w := healthy()
	b := newBuild("dark")
	b.Fleet, b.Health, b.Up = nil, nil, false
	w.gitlabs = append(w.gitlabs, b.GitLab)
	page := fleetText(t, w)
	has(t, page, "1 of 2 GitLabs cannot be read", "dark: no picture since this process started", "verdicts in force, but not for each GitLab")
}

func TestFirstReadingIsShown(t *testing.T) {
	w := healthy()
	s := w.gitlabs[0]
	s.Fleet.Detailed = false
	s.Self.First = []snapshot.Progress{{Part: snapshot.PartDetails, Read: 1234, Of: 10_000, Left: 14 * time.Minute}, {Part: snapshot.PartJobs, Of: 77}}
	has(t, fleetText(t, w), "corp: first reading of details: 1,234 of 10,000 runners, about 14 min left", "corp: first reading of jobs: 0 of 77 runners")
}

// TestAPIIsDocumented: each field of the answer stands in docs/api.md.
func TestAPIIsDocumented(t *testing.T) {
	data, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	if n := undocumented(t, string(data), reflect.TypeFor[Report](), ""); n < 70 {
		t.Errorf("only %d fields found", n)
	}
}

// undocumented reports each field without a row in doc, and counts the fields.
func undocumented(t *testing.T, doc string, typ reflect.Type, path string) (n int) {
	t.Helper()
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || typ == reflect.TypeFor[time.Time]() {
		return 0
	}
	for f := range typ.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" {
			continue
		}
		if !strings.Contains(doc, "`"+path+name+"`") {
			t.Errorf("docs/api.md has no row for `%s%s`", path, name)
		}
		n += 1 + undocumented(t, doc, f.Type, path+name+".")
	}
	return n
}

// TestAPIHasNoNull: lists are empty, not null, so that a script can go through them.
func TestAPIHasNoNull(t *testing.T) {
	for _, w := range []*world{{now: noon}, healthy(), small(), large()} {
		r := get(t, w.page(Options{}).ServeAPI, "/api/v1/fleet")
		if r.Header().Get("Content-Type") != "application/json" || strings.Contains(r.Body.String(), "null") || r.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%v %.300s", r.Header(), r.Body)
		}
	}
}

// TestPagesAreServedWhilePublished is for the race detector.
func TestPagesAreServedWhilePublished(t *testing.T) {
	pictures := atomic.Pointer[[]*snapshot.GitLab]{}
	w := small()
	pictures.Store(&w.gitlabs)
	p := New(Options{Pictures: func() []*snapshot.GitLab { return *pictures.Load() }})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range uint64(50) {
			next := *w.gitlabs[0]
			next.Generation, next.RowsGeneration = i+2, i+2
			pictures.Store(&[]*snapshot.GitLab{&next})
			p.Keep(&next)
		}
	})
	for range 50 {
		for _, h := range []http.HandlerFunc{p.ServeFleet, p.ServeRunner, p.ServeAPI} {
			if r := get(t, h, "/?gitlab=corp&id=1"); r.Code >= http.StatusInternalServerError {
				t.Errorf("HTTP %d", r.Code)
			}
		}
	}
	wg.Wait()
}

// BenchmarkKeep is what a publish pays.
func BenchmarkKeep(b *testing.B) {
	w := large()
	p := w.page(Options{})
	a, c := *w.gitlabs[0], *w.gitlabs[0]
	health := *a.Health
	c.Health, c.RowsGeneration = &health, 2
	for b.Loop() {
		a.Generation, c.Generation = c.Generation, c.Generation+1
		p.Keep(&a)
		p.Keep(&c)
	}
}

func BenchmarkFleet(b *testing.B) {
	for name, w := range map[string]*world{"runners=5": small(), "runners=5000": large()} {
		p := w.page(Options{Grafana: "https://g.example.com", Runbooks: "https://rb.example.com"})
		req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/fleet", http.NoBody)
		b.Run(name, func(b *testing.B) {
			size := 0
			for b.Loop() {
				w := httptest.NewRecorder()
				p.ServeFleet(w, req)
				size = w.Body.Len()
			}
			b.ReportMetric(float64(size), "page-bytes")
		})
	}
}
