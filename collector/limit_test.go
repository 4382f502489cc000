package collector

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

func scrapeOf(t *testing.T, e *Exporter, target string) (int, string) {
	t.Helper()
	rec := httptest.NewRecorder()
	e.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, http.NoBody))
	return rec.Code, rec.Body.String()
}

func seriesByName(body string) map[string]int {
	out := map[string]int{}
	for line := range strings.Lines(body) {
		if name, _, ok := strings.Cut(line, "{"); ok && !strings.HasPrefix(line, "#") {
			out[name]++
		}
	}
	return out
}

func valueOf(body, name string) string {
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, name+"{") {
			_, v, _ := strings.Cut(line, "} ")
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func TestCollectParameterSelectsGroups(t *testing.T) {
	e := newExporter(t, Options{})
	s := small("corp")
	s.Generation, s.RowsGeneration = 7, 5
	e.Publish(s)
	for _, tc := range []struct {
		query        string
		fleet, rows  bool
		self         bool
		served, rowy uint64
	}{
		{"?collect[]=exporter", false, false, true, 0, 0},
		{"?collect[]=runner", false, true, false, 0, 5},
		{"?collect[]=fleet&collect[]=exporter", true, false, true, 7, 5},
		{"", true, true, true, 7, 5},
	} {
		code, body := scrapeOf(t, e, "/metrics"+strings.NewReplacer("[", "%5B", "]", "%5D").Replace(tc.query))
		if code != http.StatusOK {
			t.Errorf("%s: status %d", tc.query, code)
		}
		f := seriesByName(body)
		got := [3]bool{f[fleetPrefix+"runners"] > 0, f[fleetPrefix+"runner_status"] > 0, f[selfPrefix+"series"] > 0 && f[buildInfo] > 0}
		if want := [3]bool{tc.fleet, tc.rows, tc.self}; got != want {
			t.Errorf("%s: fleet, runner, exporter are %v, want %v", tc.query, got, want)
		}
		if e.Served("corp") != tc.served || e.ServedRows("corp") != tc.rowy {
			t.Errorf("%s: served %d and %d, want %d and %d: a filtered scrape has read only what it asked for", tc.query, e.Served("corp"), e.ServedRows("corp"), tc.served, tc.rowy)
		}
	}
	if code, body := scrapeOf(t, e, "/metrics?collect%5B%5D=runners"); code != http.StatusBadRequest || !strings.Contains(body, `"runners"`) {
		t.Errorf("an unknown group: %d %q", code, body)
	}
}

// The ceiling counts all series; runner_tag_info gives way first, then the
// other runner_ families, never a sum, and series_dropped has how much each gave up.
func TestSeriesLimitGivesUpRunnerSeriesAndNoSum(t *testing.T) {
	probe := newExporter(t, Options{})
	big := large(300)
	probe.Publish(big)
	en := (*probe.picture.Load())[0]
	tags, rows, sums := 0, en.rows.series, en.main.series
	for i, f := range en.rows.families {
		if f.Name == tagInfo {
			tags = en.rows.counts[i]
		}
	}
	if tags == 0 || rows <= tags {
		t.Fatalf("%d series of runner_tag_info in %d runner_ series prove nothing", tags, rows)
	}
	for _, tc := range []struct {
		limit         int
		tagInfo, rest bool
		dropped       int
	}{
		{0, true, true, 0},
		{sums + rows, true, true, 0},
		{sums + rows - 1, false, true, tags},
		{sums + rows - tags, false, true, tags},
		{sums + rows - tags - 1, false, false, rows},
		{1, false, false, rows},
	} {
		e := newExporter(t, Options{SeriesLimit: tc.limit})
		e.asked[formatText].Store(time.Now().UnixNano()) // render ahead
		e.Publish(big)
		_, body := scrapeOf(t, e, "/metrics")
		f := seriesByName(body)
		if (f[tagInfo] > 0) != tc.tagInfo || (f[fleetPrefix+"runner_status"] > 0) != tc.rest {
			t.Errorf("limit %d: runner_tag_info %d, runner_status %d", tc.limit, f[tagInfo], f[fleetPrefix+"runner_status"])
		}
		if f[fleetPrefix+"runners"] != 24 {
			t.Errorf("limit %d: a sum gave way", tc.limit)
		}
		shown := 0
		for name, n := range f {
			if strings.HasPrefix(name, fleetPrefix) && !strings.HasPrefix(name, selfPrefix) {
				shown += n
			}
		}
		if shown != sums+rows-tc.dropped {
			t.Errorf("limit %d: %d series are shown, want %d", tc.limit, shown, sums+rows-tc.dropped)
		}
		if n := f[selfPrefix+"series_dropped"]; (n > 0) != (tc.dropped > 0) {
			t.Errorf("limit %d: %d families are in series_dropped", tc.limit, n)
		}
		if got := valueOf(body, selfPrefix+"series"); got != appendedFloat(float64(shown)) {
			t.Errorf("limit %d: series is %s, %d are shown", tc.limit, got, shown)
		}
	}
}

// Above the ceiling the exceptions stay: of the runners that are ill, the
// longest, with their runner_info. What is shown and what gave way add up.
func TestSeriesLimitKeepsTheIll(t *testing.T) {
	const runners = mostIll + 700
	s := large(runners)
	s.Health = &snapshot.HealthPicture{}
	for i := range runners - 100 {
		s.Health.Ill = append(s.Health.Ill, snapshot.Ill{
			ID: s.Fleet.Rows[i].ID, Health: snapshot.HealthDown, Reason: snapshot.HealthSilent, Since: t0.Add(-time.Duration(i) * time.Minute), ConsecutiveFailed: 1,
		})
	}
	all := newExporter(t, Options{})
	all.Publish(s)
	_, body := scrapeOf(t, all, "/metrics")
	total := valueOf(body, selfPrefix+"series")
	if f := seriesByName(body); f[fleetPrefix+"runner_unhealthy_since_timestamp_seconds"] != runners-100 || f[fleetPrefix+"runner_info"] != runners {
		t.Fatalf("without a ceiling: %v", f)
	}
	e := newExporter(t, Options{SeriesLimit: 1})
	e.Publish(s)
	_, body = scrapeOf(t, e, "/metrics")
	f := seriesByName(body)
	for _, name := range []string{"runner_info", "runner_unhealthy_since_timestamp_seconds", "runner_consecutive_failed_jobs"} {
		if f[fleetPrefix+name] != mostIll {
			t.Errorf("%d series of %s, want %d", f[fleetPrefix+name], name, mostIll)
		}
	}
	if f[fleetPrefix+"runner_status"] != 0 || f[fleetPrefix+"runner_last_seen_timestamp_seconds"] != 0 {
		t.Error("series of healthy runners did not give way")
	}
	longest, newest := s.Fleet.Rows[runners-101].ID, s.Fleet.Rows[0].ID
	if !strings.Contains(body, fmt.Sprintf(`runner_id="%d"`, longest)) || strings.Contains(body, fmt.Sprintf(`runner_id="%d"`, newest)) {
		t.Error("not the longest ill stay")
	}
	shown, gone := valueOf(body, selfPrefix+"series"), 0.0
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, selfPrefix+"series_dropped{") {
			_, v, _ := strings.Cut(line, "} ")
			n, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			if err != nil {
				t.Fatal(err)
			}
			gone += n
		}
	}
	n, err := strconv.ParseFloat(shown, 64)
	if err != nil || appendedFloat(n+gone) != total {
		t.Errorf("%s shown and %v given up are not %s, %v", shown, gone, total, err)
	}
}

func appendedFloat(v float64) string { return string(appendFloat(nil, v, false)) }

// At the edge of the ceiling families must not come and go with each publish,
// and another GitLab's growth counts.
func TestSeriesLimitIsSteadyAndShared(t *testing.T) {
	probe := newExporter(t, Options{})
	probe.Publish(large(300))
	en := (*probe.picture.Load())[0]
	e := newExporter(t, Options{SeriesLimit: en.main.series + en.rows.series + 400})
	shown := func(name string, runners int, gen uint64) bool {
		s := large(runners)
		s.Name, s.Generation, s.RowsGeneration = name, gen, gen
		e.Publish(s)
		_, body := scrapeOf(t, e, "/metrics")
		return seriesByName(body)[tagInfo] > 0
	}
	if !shown("a", 300, 1) {
		t.Fatal("runner_tag_info gave way below the ceiling")
	}
	if shown("b", 300, 1) {
		t.Error("two GitLabs together are above the ceiling, and runner_tag_info stays")
	}
	e.Withdraw("b")
	if !shown("a", 200, 2) {
		t.Error("b left, and nothing came back")
	}
	// Above the ceiling, right below it, far below it.
	for i, tc := range []struct {
		runners int
		want    bool
	}{{340, false}, {304, false}, {200, true}} {
		if got := shown("a", tc.runners, uint64(3+i)); got != tc.want {
			t.Errorf("step %d, %d runners: runner_tag_info shown is %v", i, tc.runners, got)
		}
	}
}
