package promcheck

import (
	"slices"
	"strings"
	"testing"
)

func TestLabelsOfExpressions(t *testing.T) {
	v := New()
	v.Add("a", Of("gitlab", "tag", "runner_id"))
	v.Add("b", Of("gitlab", "tag", "runner_type"))
	v.Add("h_bucket", Of("gitlab", "le"))
	for _, c := range []struct{ expr, want string }{
		{`1 + 2`, ""},
		{`time() - a`, "gitlab runner_id tag"},
		{`(-a) > bool 2`, "gitlab runner_id tag"},
		{`rate(a[5m])`, "gitlab runner_id tag"},
		{`max_over_time(a[1h:5m])`, "gitlab runner_id tag"},
		{`sum(a)`, ""},
		{`sum by (tag) (a)`, "tag"},
		{`sum without (tag, pod) (a)`, "gitlab runner_id"},
		{`topk by (tag) (3, a)`, "gitlab runner_id tag"},
		{`count_values by (tag) ("x", a)`, "tag x"},
		{`a * on (gitlab, tag) group_left (runner_type) b`, "gitlab runner_id runner_type tag"},
		{`b * on (gitlab, tag) group_right (runner_type) a`, "gitlab runner_id runner_type tag"},
		{`sum by (tag) (a) / on (tag) sum by (tag, gitlab) (b)`, "tag"},
		{`a / ignoring (runner_id) group_left () sum by (gitlab, tag) (b)`, "gitlab runner_id tag"},
		{`sum by (tag, gitlab) (a) - ignoring (gitlab) sum by (tag) (b)`, "tag"},
		{`a and on (tag) b`, "gitlab runner_id tag"},
		{`a or b`, "gitlab runner_id runner_type tag"},
		{`a unless b`, "gitlab runner_id tag"},
		{`absent(a{tag="x",gitlab=~"y.*"})`, "tag"},
		{`absent_over_time(a{tag="x"}[5m])`, "tag"},
		{`absent(a{tag="x"} == 1)`, ""},
		{`histogram_quantile(0.9, sum by (gitlab, le) (rate(h_bucket[5m])))`, "gitlab"},
		{`label_replace(a, "short", "$1", "tag", "(.).*")`, "gitlab runner_id short tag"},
		{`scalar(sum(a)) + vector(1)`, ""},
		{`gitlab_runner_fleet_up`, "gitlab instance job shard"},
		{`gitlab_runner_fleet_exporter_state_save_errors_total`, "instance job"},
		{`sum by (le, tag) (gitlab_runner_fleet_tag_job_queued_duration_seconds_bucket{le="+Inf"})`, "le tag"},
	} {
		l, err := v.Check(c.expr)
		if err != nil {
			t.Errorf("%s: %v", c.expr, err)
		}
		if got := strings.Join(l.Names(), " "); got != c.want {
			t.Errorf("%s: labels %q, want %q", c.expr, got, c.want)
		}
	}
}

func TestWhatCannotBe(t *testing.T) {
	v := New()
	v.Add("a", Of("gitlab", "tag"))
	v.Add("b", Of("gitlab"))
	for _, c := range []struct{ expr, want string }{
		{`sum(`, "parse"},
		{`nothing`, `no metric "nothing"`},
		{`{__name__="nothing"}`, `no metric "nothing"`},
		{`gitlab_runner_fleet_job_duration_seconds`, "no metric"}, // a histogram has no series of its bare name
		{`a{tags="x"}`, `label "tags"`},
		{`sum by (runner_id) (a)`, `label "runner_id"`},
		{`a * on (tag) b`, `label "tag"`},
		{`b * on (tag) a`, `label "tag"`},
		{`a * on (gitlab) group_left (runner_type) b`, `label "runner_type"`},
		{`a / b`, "never matches"},
		{`a and b`, "never matches"},
		{`histogram_quantile(0.9, a)`, `label "le"`},
		{`gitlab_runner_fleet_runners{status="up"}`, `no value of status`},
		{`gitlab_runner_fleet_runners{status=~"online|dead"}`, `never "dead"`},
		{`gitlab_runner_fleet_runners{status!="up"}`, `never "up"`},
		{`gitlab_runner_fleet_tag_jobs_finished_total{failure_class="scripts"}`, "no value of failure_class"},
		{`gitlab_runner_fleet_job_queued_duration_seconds_bucket{le="60"}`, "spelling of le"},
		{`sum(nothing) + count(neither)`, `no metric "neither"`},
	} {
		_, err := v.Check(c.expr)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.expr, err, c.want)
		}
	}
	for _, expr := range []string{
		`gitlab_runner_fleet_runners{status=~"$status"}`, `a and on (gitlab) b`,
		`gitlab_runner_fleet_runners{status!~"on.*"}`, `gitlab_runner_fleet_jobs_finished_total{failure_class!=""}`,
	} {
		if _, err := v.Check(expr); err != nil {
			t.Errorf("%s: %v", expr, err)
		}
	}
}

func TestAddsDoNotLeak(t *testing.T) {
	New().Add("mine", Of("x"))
	if _, err := New().Check("mine"); err == nil {
		t.Error("one vocabulary knows what another learned")
	}
	v := New()
	l, err := v.Check("gitlab_runner_fleet_up")
	if err != nil {
		t.Fatal(err)
	}
	l["spoilt"] = true
	if again, err := v.Check("gitlab_runner_fleet_up"); err != nil || slices.Contains(again.Names(), "spoilt") {
		t.Errorf("the caller changed the vocabulary: %v, %v", again.Names(), err)
	}
}
