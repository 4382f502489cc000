package collector

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// promisedFamilies is the list of families that docs/metrics.md promises users: name without
// prefix, type, labels without gitlab. It changes only with that promise.
const promisedFamilies = `
up gauge
scope_up gauge scope path
gitlab_info gauge url version
runners gauge runner_type status paused
tag_runners gauge tag runner_type status paused
managers gauge runner_type status
busy_runners gauge runner_type
tag_busy_runners gauge tag
version_runners gauge version
version_behind_minor_releases gauge version
tag_expected_runners gauge tag
tag_available_runners gauge tag
tag_usable_runners gauge tag
health_runners gauge runner_type health reason paused
suspect_runners gauge reason
health_judgement_suspended gauge reason
tag_last_available_timestamp_seconds gauge tag
tag_capacity_jobs gauge tag
queue_jobs gauge
queue_tag_jobs gauge tag
queue_tagset_jobs gauge tags
queue_oldest_timestamp_seconds gauge
queue_tag_oldest_timestamp_seconds gauge tag
queue_unmatched_tagset_jobs gauge tags reason
queue_truncated gauge
runner_info gauge runner_id runner_type description owner version platform architecture run_untagged protected
runner_status gauge runner_id status
runner_paused gauge runner_id
runner_status_since_timestamp_seconds gauge runner_id
runner_paused_since_timestamp_seconds gauge runner_id
runner_contacted_timestamp_seconds gauge runner_id
runner_details_timestamp_seconds gauge runner_id
runner_last_seen_timestamp_seconds gauge runner_id
runner_unhealthy_since_timestamp_seconds gauge runner_id health reason
runner_suspect_since_timestamp_seconds gauge runner_id reason
runner_orphaned_jobs gauge runner_id
runner_consecutive_failed_jobs gauge runner_id
runner_tag_info gauge runner_id tag
runner_managers_online gauge runner_id
runner_managers_known gauge runner_id
runner_jobs_executing gauge runner_id
runner_oldest_job_start_timestamp_seconds gauge runner_id
runner_last_job_finished_timestamp_seconds gauge runner_id
runner_jobs_finished_total counter runner_id status failure_class
runners_status_changes_total counter runner_type
runners_joined_total counter runner_type
runners_left_total counter runner_type
jobs_executing gauge runner_type status
tag_jobs_executing gauge tag runner_type
jobs_finished_total counter runner_type status failure_class failure_reason
tag_jobs_finished_total counter tag status failure_class
job_duration_seconds histogram runner_type status
job_queued_duration_seconds histogram runner_type
tag_job_queued_duration_seconds histogram tag
`

// promisedSelf is the exporter about itself, with all labels.
const promisedSelf = `
build_info gauge version revision branch goversion goos goarch tags
api_requests_total counter gitlab route code
api_retries_total counter gitlab reason
poll_failures_total counter gitlab stage reason
jobs_recovered_total counter gitlab
jobs_unresolved_total counter gitlab reason
state_save_errors_total counter
state_damaged_total counter gitlab
job_settle_delay_seconds histogram gitlab
api_request_duration_seconds histogram gitlab route
poll_duration_seconds histogram gitlab stage
state_save_duration_seconds histogram
poll_last_success_timestamp_seconds gauge gitlab stage
poll_interval_seconds gauge gitlab stage
poll_lag_seconds gauge gitlab stage
runners_unread gauge gitlab stage reason
api_rate_limit_requests gauge gitlab
api_rate_limit_remaining gauge gitlab
jobs_visible gauge gitlab
tags_over_limit gauge gitlab
series gauge gitlab
series_dropped gauge gitlab family
token_expiry_timestamp_seconds gauge gitlab
clock_offset_seconds gauge gitlab
time_seconds gauge
shards gauge
config_last_reload_successful gauge
config_last_reload_success_timestamp_seconds gauge
`

func promised() map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(strings.TrimSpace(promisedFamilies)) {
		f := strings.Fields(line)
		out["gitlab_runner_fleet_"+f[0]] = strings.Join(append([]string{f[1], "gitlab"}, f[2:]...), " ")
	}
	for line := range strings.Lines(strings.TrimSpace(promisedSelf)) {
		f := strings.Fields(line)
		out["gitlab_runner_fleet_exporter_"+f[0]] = strings.Join(f[1:], " ")
	}
	return out
}

func TestTableKeepsWhatIsPromised(t *testing.T) {
	want := promised()
	for _, f := range Families() {
		got := strings.Join(append([]string{string(f.Type)}, f.Labels...), " ")
		if want[f.Name] != got {
			t.Errorf("%s is %q, promised is %q", f.Name, got, want[f.Name])
		}
		delete(want, f.Name)
	}
	for name := range want {
		t.Errorf("%s is promised and not in the table, or stands there twice", name)
	}
}

func TestTableKeepsThePrometheusNamingRules(t *testing.T) {
	for _, f := range Families() {
		if strings.HasPrefix(f.Name, "gitlab_runner_fleet_runner_") != slices.Contains(f.Labels, "runner_id") {
			t.Errorf("%s: the label runner_id stands if and only if the name begins with runner_", f.Name)
		}
		if (f.Group == GroupRunner) != slices.Contains(f.Labels, "runner_id") {
			t.Errorf("%s: group %s", f.Name, f.Group)
		}
		if (f.Group == GroupExporter) != strings.HasPrefix(f.Name, selfPrefix) {
			t.Errorf("%s: group %s", f.Name, f.Group)
		}
		if f.Group != GroupExporter && f.Labels[0] != "gitlab" {
			t.Errorf("%s lacks the label gitlab", f.Name)
		}
		if (f.Type == Counter) != strings.HasSuffix(f.Name, "_total") {
			t.Errorf("%s: a counter, and nothing else, ends in _total", f.Name)
		}
		if (f.Type == Histogram) != (len(f.Buckets) > 0) || !slices.IsSorted(f.Buckets) {
			t.Errorf("%s: buckets %v", f.Name, f.Buckets)
		}
		if f.Unit != "" && !strings.HasSuffix(f.Name, "_"+f.Unit) {
			t.Errorf("%s: unit %s", f.Name, f.Unit)
		}
		if f.Unit == "seconds" && !strings.Contains(f.Help, "in seconds") {
			t.Errorf("%s: the help does not name the unit", f.Name)
		}
		if f.Name != buildInfo && !strings.HasSuffix(f.Help, ".") {
			t.Errorf("%s: the help is not a sentence: %q", f.Name, f.Help)
		}
		if f.Series == "" || f.Stability == "" || len(f.Labels) > maxLabels {
			t.Errorf("%s: incomplete row", f.Name)
		}
	}
	// A caller may change what it gets.
	Families()[0].Name = "changed"
	f := Families()
	for i := range f {
		if f[i].Type == Histogram {
			f[i].Buckets[0] = 42
			break
		}
	}
	for _, f := range Families() {
		if f.Name == "changed" || len(f.Buckets) > 0 && f.Buckets[0] == 42 {
			t.Errorf("the table shares memory with its callers: %s", f.Name)
		}
	}
}

func touchSelf(s *Self) {
	s.APIRequest("corp", "runners", 200, 300*time.Millisecond)
	s.APIRequest("corp", "runners", 0, time.Minute)
	s.APIRetry("corp", "timeout")
	s.PollFailure("corp", "jobs", "timeout")
	s.PollDuration("corp", "jobs", time.Second)
	s.JobSettleDelay("corp", 20*time.Second)
	s.JobSettleDelay("corp", -time.Second)
	s.StateSave(time.Millisecond, nil)
	s.StateSave(time.Millisecond, io.ErrShortWrite)
	s.StateDamaged("corp")
	s.ConfigReload(true, t0)
	s.ConfigReload(false, t0.Add(time.Hour))
}

// shown lists the families of a whole scrape.
func shown(t *testing.T, e *Exporter) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for line := range strings.Lines(scrapeBody(t, e, acceptText)) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			out[strings.Fields(rest)[0]] = true
		}
	}
	return out
}

// TestEveryFamilyCanBeDisabled, alone, and is shown otherwise.
func TestEveryFamilyCanBeDisabled(t *testing.T) {
	publish := func(e *Exporter) {
		e.Publish(small("corp"))
		touchSelf(e.Self())
	}
	all := newExporter(t, Options{})
	publish(all)
	whole := shown(t, all)
	for _, f := range Families() {
		if f.Name == selfPrefix+"series_dropped" {
			continue // nothing is dropped yet
		}
		if !whole[f.Name] {
			t.Errorf("%s is not shown", f.Name)
		}
		e := newExporter(t, Options{Disable: []string{f.Name}})
		publish(e)
		got := shown(t, e)
		if got[f.Name] {
			t.Errorf("%s is shown though disabled", f.Name)
		}
		if len(got) != len(whole)-1 {
			t.Errorf("disabling %s leaves %d families of %d", f.Name, len(got), len(whole))
		}
	}
	for name := range whole {
		if promised()[name] == "" {
			t.Errorf("%s is shown and not promised", name)
		}
	}

	_, err := New(Options{Disable: []string{"gitlab_runner_fleet_up", "no_such_family"}, Registry: prometheus.NewRegistry()})
	if err == nil || !strings.Contains(err.Error(), `"no_such_family"`) || strings.Contains(err.Error(), "fleet_up") {
		t.Errorf("unknown family: %v", err)
	}
	reg := prometheus.NewRegistry()
	newExporter(t, Options{Registry: reg})
	if _, err := New(Options{Registry: reg}); err == nil {
		t.Error("two exporters share a registry without an error")
	}
}

func TestSelfMetricsHaveTheReportedValues(t *testing.T) {
	e := newExporter(t, Options{})
	e.Self().Declare("corp", []string{"runners", "jobs"}, []string{"timeout", "auth"})
	e.Self().DeclareRetries("corp", []string{"timeout"})
	before := scrapeBody(t, e, acceptText)
	for _, line := range []string{
		`api_requests_total{code="200",gitlab="corp",route="jobs"} 0`,
		`api_requests_total{code="error",gitlab="corp",route="runners"} 0`,
		`api_request_duration_seconds_count{gitlab="corp",route="runners"} 0`,
		`api_retries_total{gitlab="corp",reason="timeout"} 0`,
		`poll_failures_total{gitlab="corp",reason="auth",stage="reconcile"} 0`,
		`poll_duration_seconds_count{gitlab="corp",stage="details"} 0`,
		`job_settle_delay_seconds_count{gitlab="corp"} 0`,
		`state_save_errors_total 0`,
		`state_damaged_total{gitlab="corp"} 0`,
		`config_last_reload_successful 0`,
	} {
		if !strings.Contains(before, "\n"+selfPrefix+line+"\n") {
			t.Errorf("before the first event: no %s", line)
		}
	}
	touchSelf(e.Self())
	after := scrapeBody(t, e, acceptText)
	for _, line := range []string{
		`api_requests_total{code="200",gitlab="corp",route="runners"} 1`,
		`api_requests_total{code="error",gitlab="corp",route="runners"} 1`,
		`api_request_duration_seconds_sum{gitlab="corp",route="runners"} 60.3`,
		`api_retries_total{gitlab="corp",reason="timeout"} 1`,
		`poll_failures_total{gitlab="corp",reason="timeout",stage="jobs"} 1`,
		`poll_duration_seconds_bucket{gitlab="corp",stage="jobs",le="1"} 1`,
		`job_settle_delay_seconds_bucket{gitlab="corp",le="5"} 1`,
		`job_settle_delay_seconds_sum{gitlab="corp"} 20`,
		`state_save_duration_seconds_count 2`,
		`state_save_errors_total 1`,
		`state_damaged_total{gitlab="corp"} 1`,
		`config_last_reload_successful 0`,
		`config_last_reload_success_timestamp_seconds 1.77236640025e+09`,
	} {
		if !strings.Contains(after, "\n"+selfPrefix+line+"\n") {
			t.Errorf("after the events: no %s", line)
		}
	}
	e.Self().APIRequest("public", "runners", 429, time.Second)
	e.Self().Forget("corp")
	last := scrapeBody(t, e, acceptText)
	if strings.Contains(last, `gitlab="corp"`) || !strings.Contains(last, `code="429",gitlab="public"`) {
		t.Error("forgetting a GitLab leaves its series, or takes another's")
	}
}

// TestHelpIsOneShortSentence: HELP is sent with each scrape and shown in one line by Prometheus'
// and Grafana's lists of metrics; when a series is absent stands in docs/metrics.md.
func TestHelpIsOneShortSentence(t *testing.T) {
	for _, f := range Families() {
		if f.Name == buildInfo {
			continue // client_golang's own text
		}
		if len(f.Help) > 120 || !strings.HasSuffix(f.Help, ".") || strings.Contains(f.Help, ". ") || strings.Contains(f.Help, "Absent") {
			t.Errorf("%s: not one short sentence: %q", f.Name, f.Help)
		}
		if f.Notes != strings.TrimSpace(f.Notes) || f.Notes != "" && !strings.HasSuffix(f.Notes, ".") || strings.Contains(f.Notes, "  ") {
			t.Errorf("%s: not sentences: %q", f.Name, f.Notes)
		}
	}
}
