package promcheck

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
)

// board reads a dashboard.
func board(t *testing.T, path string) dashboard {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// targets are the expressions of a panel of a board.
func targets(t *testing.T, file, kind, title string) []string {
	t.Helper()
	for _, p := range board(t, "../../dashboards/"+file).Panels {
		if p.Type != kind || p.Title != title {
			continue
		}
		var out []string
		for _, q := range p.Targets {
			out = append(out, q.Expr)
		}
		return out
	}
	t.Fatalf("%s has no %s %q", file, kind, title)
	return nil
}

// chosen fills in what a person has chosen, All where nothing is given.
func chosen(expr string, values ...string) string {
	return strings.NewReplacer(append(values,
		"$__rate_interval", "5m", "$__range", "6h", "$gitlab", ".*", "$runner_type", ".*", "${tag}", ".*", "$tag", ".*", "$instance", ".*",
		"$runner", "7", "$own_tags", "gpu", "$own_type", "instance_type", "$tagset", ".*",
	)...).Replace(expr)
}

var engineOptions = promql.EngineOpts{MaxSamples: 1_000_000, Timeout: time.Minute, EnableAtModifier: true, EnableNegativeOffset: true}

// at is the answer at a time, in the order that Prometheus gives it.
func at(t *testing.T, s storage.Queryable, when time.Time, expr string) (promql.Vector, error) {
	t.Helper()
	q, err := promqltest.NewTestEngine(t, false, 5*time.Minute, engineOptions.MaxSamples).NewInstantQuery(t.Context(), s, nil, expr, when)
	if err != nil {
		return nil, err
	}
	r := q.Exec(t.Context())
	if r.Err != nil {
		return nil, r.Err
	}
	return r.Vector()
}

// shown is an answer as text, one line a series.
func shown(t *testing.T, s storage.Queryable, when time.Duration, expr string) string {
	t.Helper()
	v, err := at(t, s, time.Unix(0, 0).Add(when), expr)
	if err != nil {
		t.Errorf("%v\n%s", err, expr)
	}
	var out []string
	for _, x := range v {
		out = append(out, fmt.Sprintf("%s %g", x.Metric, x.F))
	}
	return strings.Join(out, "\n")
}

// TestPanelQueriesRun runs each query of each board over two GitLabs, two shards and
// two processes for each: a join that meets two series where it wants one fails only
// there.
func TestPanelQueriesRun(t *testing.T) {
	s := promqltest.LoadedStorage(t, fleet(withRules(t)))
	files, err := filepath.Glob("../../dashboards/*.json")
	if err != nil || len(files) < 5 {
		t.Fatalf("%v (%v)", files, err)
	}
	run := func(where, expr string) promql.Vector {
		v, err := at(t, s, time.Unix(1500, 0), chosen(expr))
		if err != nil {
			t.Errorf("%s: %v\n%s", where, err, chosen(expr))
		}
		return v
	}
	for _, f := range files {
		d := board(t, f)
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				where := filepath.Base(f) + " " + p.Title + " " + q.RefID
				for _, x := range run(where, q.Expr) {
					// It would be a column, and keep the rows of two queries apart.
					if name := x.Metric.Get("__name__"); p.Type == "table" && name != "" {
						t.Errorf("%s: the name of the metric %s stays", where, name)
						break
					}
				}
			}
		}
		for _, a := range d.Annotations.List {
			if a.Expr != "" {
				run(filepath.Base(f)+" annotation", a.Expr)
			}
		}
		for _, v := range d.Templating.List {
			if expr, ok := strings.CutPrefix(v.Definition, "query_result("); ok {
				run(filepath.Base(f)+" $"+v.Name, strings.TrimSuffix(expr, ")"))
			}
		}
	}
}

// TestAlertsFoldAndCriticalIsFirst: one old critical alert beside 181 newer ones about
// single runners and a hundred for information.
func TestAlertsFoldAndCriticalIsFirst(t *testing.T) {
	var b strings.Builder
	b.WriteString("load 1m\n  gitlab_runner_fleet_up{gitlab=\"corp\"} 1x10\n  gitlab:gitlab_runner_fleet_up:min{gitlab=\"corp\"} 1x10\n")
	add := func(since int, labels string) {
		fmt.Fprintf(&b, "  ALERTS{alertstate=\"firing\",%s} 1x10\n  ALERTS_FOR_STATE{%s} %dx10\n", labels, labels, since)
	}
	add(100, `alertname="GitLabRunnerTagLost",severity="critical",gitlab="corp",tag="gpu",runner_type="instance_type"`)
	add(150, `alertname="GitLabRunnerFleetRestarting",severity="warning",instance="a:9756"`)
	for i := range 181 {
		add(200+i, fmt.Sprintf(`alertname="GitLabRunnerOffline",severity="warning",gitlab="corp",runner_type="group_type",runner_id="%d"`, i))
	}
	for i := range 100 {
		add(900, fmt.Sprintf(`alertname="GitLabRunnerStale",severity="info",gitlab="corp",runner_type="group_type",runner_id="%d"`, 1000+i))
	}
	s := promqltest.LoadedStorage(t, b.String())
	const (
		lost    = `{alertname="GitLabRunnerTagLost", gitlab="corp", runner_type="instance_type", severity="critical", tag="gpu"}`
		offline = `{alertname="GitLabRunnerOffline", gitlab="corp", runner_type="group_type", severity="warning"}`
	)
	rows := targets(t, "overview.json", "table", "Alerts")
	severity := shown(t, s, 5*time.Minute, chosen(rows[0]))
	if lines := strings.Split(severity, "\n"); len(lines) != 3 || lines[0] != lost+" 2" || strings.Contains(severity, "Stale") {
		t.Errorf("rows:\n%s", severity)
	}
	if since := shown(t, s, 5*time.Minute, chosen(rows[1])); !strings.Contains(since, lost+" 100000") || !strings.Contains(since, offline+" 380000") {
		t.Errorf("since:\n%s", since)
	}
	if counts := shown(t, s, 5*time.Minute, chosen(rows[2])); !strings.Contains(counts, offline+" 181") {
		t.Errorf("counts:\n%s", counts)
	}
	for title, want := range map[string]string{"Critical": "{} 1", "Warnings": "{} 182"} {
		if got := shown(t, s, 5*time.Minute, chosen(targets(t, "overview.json", "stat", title)[0])); got != want {
			t.Errorf("%s: %s", title, got)
		}
	}
}

// TestAlertsAreMarkedOnce: where an alert begins, and not at each step while it fires.
func TestAlertsAreMarkedOnce(t *testing.T) {
	s := promqltest.LoadedStorage(t, `load 1m
  ALERTS{alertname="GitLabRunnerTagLost",alertstate="firing",severity="critical",gitlab="corp",tag="gpu"} _x5 1x20 stale
  ALERTS{alertname="GitLabRunnerTagLost",alertstate="firing",severity="critical",gitlab="corp",tag="linux"} _x9 1x20 stale
  ALERTS{alertname="GitLabRunnerTagQueueSlow",alertstate="firing",severity="warning",gitlab="corp",tag="linux"} _x9 1x20 stale
`)
	marks := map[int]string{}
	for _, a := range board(t, "../../dashboards/tags.json").Annotations.List {
		if a.Expr == "" || !strings.Contains(a.Expr, "critical") {
			continue
		}
		for m := range 40 {
			if got := shown(t, s, time.Duration(m)*time.Minute, chosen(a.Expr, "$tag", "gpu")); got != "" {
				marks[m] = got
			}
		}
	}
	if len(marks) != 1 || !strings.Contains(marks[5], `tag="gpu"`) {
		t.Errorf("marks: %v", marks)
	}
}

// TestRunnersCountOnce: two runners, one with two tags.
func TestRunnersCountOnce(t *testing.T) {
	s := promqltest.LoadedStorage(t, `load 1m
  gitlab_runner_fleet_up{gitlab="corp",instance="a:9756",job="fleet"} 1x10
  gitlab_runner_type_status_paused:gitlab_runner_fleet_runners:sum{gitlab="corp",runner_type="instance_type",status="online",paused="false"} 3x10
  gitlab_runner_type_status:gitlab_runner_fleet_runners:sum{gitlab="corp",runner_type="instance_type",status="online"} 3x10
  gitlab_runner_fleet_runner_tag_info{gitlab="corp",runner_id="1",tag="gpu",instance="a:9756"} 1x10
  gitlab_runner_fleet_runner_tag_info{gitlab="corp",runner_id="1",tag="linux",instance="a:9756"} 1x10
  gitlab_runner_fleet_runner_tag_info{gitlab="corp",runner_id="2",tag="linux",instance="a:9756"} 1x10
  gitlab_runner_fleet_runner_tag_info{gitlab="corp",runner_id="3",tag="mac",instance="a:9756"} 1x10
  gitlab_runner_status:gitlab_runner_fleet_runner_status:current{gitlab="corp",runner_id="1",status="online"} 1x10
  gitlab_runner_status:gitlab_runner_fleet_runner_status:current{gitlab="corp",runner_id="2",status="online"} 1x10
  gitlab_runner_status:gitlab_runner_fleet_runner_status:current{gitlab="corp",runner_id="3",status="online"} 1x10
  gitlab_runner:gitlab_runner_fleet_runner_info:max{gitlab="corp",runner_id="1",runner_type="instance_type"} 1x10
  gitlab_runner:gitlab_runner_fleet_runner_info:max{gitlab="corp",runner_id="2",runner_type="instance_type"} 1x10
  gitlab_runner:gitlab_runner_fleet_runner_info:max{gitlab="corp",runner_id="3",runner_type="instance_type"} 1x10
`)
	for choice, want := range map[string]string{".*": "3", "gpu|linux": "2", "mac": "1"} {
		for title, labels := range map[string]string{"Runners, each once": "{}", "By type, each once": `{runner_type="instance_type"}`} {
			expr := chosen(targets(t, "tags.json", "timeseries", title)[0], "${tag}", choice, "$tag", choice)
			if got := shown(t, s, 5*time.Minute, expr); got != labels+" "+want {
				t.Errorf("%s of %s: %s", title, choice, got)
			}
		}
	}
}

// TestSaturationIsEmptyWhileItLearns: the most jobs of the first minutes are always all
// that there are.
func TestSaturationIsEmptyWhileItLearns(t *testing.T) {
	s := promqltest.LoadedStorage(t, `load 10m
  gitlab_runner_fleet_up{gitlab="corp",instance="a:9756"} 1x200
  gitlab_tag:gitlab_runner_fleet_tag_capacity_jobs:sum{gitlab="corp",tag="gpu"} 4x200
  gitlab_tag:gitlab_runner_fleet_tag_saturation:ratio{gitlab="corp",tag="gpu"} 1x200
`)
	tile := targets(t, "tags.json", "stat", "Fullest tag")
	if got := shown(t, s, 10*time.Minute, chosen(tile[0])) + shown(t, s, 10*time.Minute, chosen(tile[1])); got != "{} -1" {
		t.Errorf("after ten minutes: %s", got)
	}
	if got := shown(t, s, 25*time.Hour, chosen(tile[0])) + shown(t, s, 25*time.Hour, chosen(tile[1])); !strings.HasSuffix(got, `, gitlab="corp", tag="gpu"} 1`) {
		t.Errorf("after a day: %s", got)
	}
}

// TestWorstRunnerIsFirst: in the list to choose from, and in the table of a tag. One
// that somebody paused is not in trouble, though it is down.
func TestWorstRunnerIsFirst(t *testing.T) {
	var b strings.Builder
	b.WriteString("load 1m\n  gitlab_runner_fleet_up{gitlab=\"corp\",instance=\"a:9756\"} 1x10\n  gitlab_runner_fleet_gitlab_info{gitlab=\"corp\",url=\"https://corp\"} 1x10\n")
	for id, name := range []string{"aa-alive", "bb-paused", "cc-overdue", "dd-hole", "ee-down"} {
		for _, series := range []string{
			`gitlab_runner:gitlab_runner_fleet_runner_info:max{gitlab="corp",runner_id="%[1]d",description="%[2]s",runner_type="instance_type",owner=""} 1`,
			`gitlab_runner_fleet_runner_paused{gitlab="corp",runner_id="%[1]d"} %[3]d`,
			`gitlab_runner_fleet_runner_tag_info{gitlab="corp",runner_id="%[1]d",tag="gpu"} 1`,
			`gitlab_runner_fleet_runner_last_seen_timestamp_seconds{gitlab="corp",runner_id="%[1]d"} 1`,
		} {
			paused := "0"
			if name == "bb-paused" {
				paused = "1"
			}
			b.WriteString("  " + strings.NewReplacer("%[1]d", strconv.Itoa(id), "%[2]s", name, "%[3]d", paused).Replace(series) + "x10\n")
		}
	}
	b.WriteString(`  gitlab_runner_health_reason:gitlab_runner_fleet_runner_unhealthy_since_timestamp_seconds:min{gitlab="corp",runner_id="1",health="down",reason="silent"} 5x10
  gitlab_runner_health_reason:gitlab_runner_fleet_runner_unhealthy_since_timestamp_seconds:min{gitlab="corp",runner_id="2",health="overdue",reason="job_silent"} 5x10
  gitlab_runner_reason:gitlab_runner_fleet_runner_suspect_since_timestamp_seconds:min{gitlab="corp",runner_id="3",reason="black_hole"} 5x10
  gitlab_runner_health_reason:gitlab_runner_fleet_runner_unhealthy_since_timestamp_seconds:min{gitlab="corp",runner_id="4",health="down",reason="silent"} 5x10
`)
	s := promqltest.LoadedStorage(t, b.String())
	for _, v := range board(t, "../../dashboards/runner.json").Templating.List {
		if v.Name != "runner" {
			continue
		}
		got := shown(t, s, 5*time.Minute, chosen(strings.TrimSuffix(strings.TrimPrefix(v.Definition, "query_result("), ")")))
		if got != `{description="ee-down", runner_id="4"} 6
{description="dd-hole", runner_id="3"} 5
{description="cc-overdue", runner_id="2"} 2
{description="bb-paused", runner_id="1"} 1
{description="aa-alive", runner_id="0"} 0` {
			t.Errorf("the list of runners:\n%s", got)
		}
	}
	rows := strings.Split(shown(t, s, 5*time.Minute, chosen(targets(t, "tags.json", "table", "Runners of the selected tags")[0], "$tag", "gpu")), "\n")
	for i, want := range []string{"GitLabRunnerDown", "GitLabRunnerBlackHole", "GitLabRunnerOrphanedJobs", "GitLabRunnerPausedLong", "aa-alive"} {
		if len(rows) != 5 || !strings.Contains(rows[i], want) {
			t.Errorf("row %d lacks %s:\n%s", i, want, strings.Join(rows, "\n"))
		}
	}
	if got := shown(t, s, 5*time.Minute, chosen(targets(t, "tags.json", "table", "Runners of the selected tags")[0], "$tag", "linux")); got != "" {
		t.Errorf("runners of another tag: %s", got)
	}
	if rows := strings.Split(shown(t, s, 5*time.Minute, chosen(targets(t, "overview.json", "table", "Runners in trouble")[0])), "\n"); len(rows) != 3 || !strings.Contains(rows[0], "ee-down") {
		t.Errorf("in trouble:\n%s", strings.Join(rows, "\n"))
	}
}

// TestJobsFinishedOnAFreshSystem: six jobs a minute are six a minute after ten minutes
// too, and not two, the mean over the half hour.
func TestJobsFinishedOnAFreshSystem(t *testing.T) {
	s := promqltest.LoadedStorage(t, `load 1m
  gitlab_runner_fleet_up{gitlab="corp"} _x60 1x60
  gitlab_runner_fleet_jobs_finished_total{gitlab="corp",runner_type="instance_type",status="success"} _x60 0+6x60
`)
	tile, graph := targets(t, "jobs.json", "stat", "Jobs finished")[0], targets(t, "jobs.json", "timeseries", "Jobs finished")[0]
	for _, after := range []time.Duration{5 * time.Minute, 10 * time.Minute, 50 * time.Minute} {
		var values [2]float64
		for i, expr := range []string{tile, graph} {
			v, err := at(t, s, time.Unix(0, 0).Add(time.Hour+after), chosen(expr))
			if err != nil || len(v) != 1 {
				t.Fatalf("%v %v", v, err)
			}
			values[i] = v[0].F
		}
		if values[0] < 5 || values[0] > 7.5 || values[1] < 5.5 || values[1] > 6.5 {
			t.Errorf("after %v: the tile %.2f, the graph %.2f, not 6", after, values[0], values[1])
		}
	}
}

// TestLostTagsAreRankedAtOnce: a tag that was lost before the first ten minutes of a
// Prometheus has no usual number, and yet it comes first.
func TestLostTagsAreRankedAtOnce(t *testing.T) {
	var b strings.Builder
	b.WriteString("load 1m\n")
	for i := range 20 {
		fmt.Fprintf(&b, "  gitlab_tag:gitlab_runner_fleet_tag_usable_runners:sum{gitlab=\"corp\",tag=\"busy-%d\"} 3x10\n  gitlab_tag:gitlab_runner_fleet_tag_jobs_executing:sum{gitlab=\"corp\",tag=\"busy-%d\"} 9x10\n", i, i)
	}
	b.WriteString(`  gitlab_tag:gitlab_runner_fleet_tag_usable_runners:sum{gitlab="corp",tag="gone"} 2 2 0x8
  gitlab_tag:gitlab_runner_fleet_tag_usable_runners:lost{gitlab="corp",tag="gone"} _x2 0x8
`)
	s := promqltest.LoadedStorage(t, b.String())
	for _, at := range [][2]string{{"tags.json", "Usable runners"}, {"overview.json", "Tags lost"}} {
		// An instant query has no end() but its own time.
		if got := shown(t, s, 9*time.Minute, chosen(targets(t, at[0], "timeseries", at[1])[0])); !strings.Contains(got, `tag="gone"} 0`) {
			t.Errorf("%s, %s lacks the lost tag:\n%s", at[0], at[1], got)
		}
	}
	if got := shown(t, s, 9*time.Minute, chosen(targets(t, "tags.json", "table", "Tags")[0])); !strings.HasPrefix(got, `{gitlab="corp", tag="gone"} 1`) {
		t.Errorf("the table of tags begins with %.200s", got)
	}
}

// TestOldListingIsLate: a GitLab that answers 502 counts as read until the last try of
// a listing failed, for minutes; its listing is late before.
func TestOldListingIsLate(t *testing.T) {
	s := promqltest.LoadedStorage(t, `load 1m
  gitlab_runner_fleet_up{gitlab="corp",instance="a:9756"} 1x10
  gitlab_runner_fleet_up{gitlab="edge",instance="a:9756"} 1x10
  gitlab_runner_fleet_up{gitlab="edge",instance="b:9756"} 1x10
  gitlab_runner_fleet_exporter_time_seconds{instance="a:9756"} 1000+60x10
  gitlab_runner_fleet_exporter_time_seconds{instance="b:9756"} 1000+60x10
  gitlab_runner_fleet_exporter_poll_interval_seconds{gitlab="corp",stage="runners",instance="a:9756"} 60x10
  gitlab_runner_fleet_exporter_poll_interval_seconds{gitlab="edge",stage="runners",instance="a:9756"} 60x10
  gitlab_runner_fleet_exporter_poll_last_success_timestamp_seconds{gitlab="corp",stage="runners",instance="a:9756"} 990 1050 1110 1110x8
  gitlab_runner_fleet_exporter_poll_last_success_timestamp_seconds{gitlab="edge",stage="runners",instance="a:9756"} 990x10
  gitlab_runner_fleet_exporter_poll_last_success_timestamp_seconds{gitlab="edge",stage="runners",instance="b:9756"} 990+60x10
`)
	for after, want := range map[time.Duration][2]string{
		2 * time.Minute: {`{all="2"} 0`, "{gitlab=\"corp\"} 0\n{gitlab=\"edge\"} 0"},
		4 * time.Minute: {`{all="2", late="1"} 1`, "{gitlab=\"corp\"} 1\n{gitlab=\"edge\"} 0"},
	} {
		var tile strings.Builder
		for _, expr := range targets(t, "overview.json", "stat", "GitLabs") {
			tile.WriteString(shown(t, s, after, chosen(expr)))
		}
		if got := tile.String(); got != want[0] {
			t.Errorf("after %v the tile has %s, not %s", after, got, want[0])
		}
		rows := strings.Split(shown(t, s, after, chosen(targets(t, "overview.json", "table", "By GitLab")[0])), "\n")
		if after == 2*time.Minute {
			slices.Sort(rows) // two that are equal have no order
		}
		if got := strings.Join(rows, "\n"); got != want[1] {
			t.Errorf("after %v the rows are\n%s", after, got)
		}
	}
}

// TestSmallLossShows: four of 5,000 are nothing in a stack, and on an axis from 0.
func TestSmallLossShows(t *testing.T) {
	for _, expr := range targets(t, "overview.json", "timeseries", "Not available") {
		if strings.Contains(expr, `status="online"`) || strings.Contains(expr, "fleet_runners{") && !strings.Contains(expr, `status!="online"`) && !strings.Contains(expr, `paused="true"`) {
			t.Errorf("the many that are fine share the axis: %s", expr)
		}
	}
	raw, err := os.ReadFile("../../dashboards/overview.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Title       string
			FieldConfig struct {
				Defaults struct {
					Min    *float64
					Custom struct{ Stacking struct{ Mode string } }
				}
			}
		}
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	for _, p := range d.Panels {
		f := p.FieldConfig.Defaults
		if (p.Title == "Online" || p.Title == "Not available") && (f.Custom.Stacking.Mode != "none" || p.Title == "Online" && f.Min != nil) {
			t.Errorf("%s: stacked %q, from %v", p.Title, f.Custom.Stacking.Mode, f.Min)
		}
	}
}
