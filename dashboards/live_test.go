package dashboards

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/test/rig"
)

const patient = 3 * time.Minute // an upper bound for a loaded machine; usually 30 s

func TestMain(m *testing.M) { rig.Main(m) }

// empty are the targets of tables and graphs without an answer in the demonstration,
// each with an expression that has one only if nothing is there to be shown. The
// tiles always answer.
var empty = map[string]string{
	"exporter.json/GitLab's rate limit/A":           `absent(gitlab_runner_fleet_exporter_api_rate_limit_remaining)`,
	"exporter.json/GitLab's rate limit/B":           `absent(gitlab_runner_fleet_exporter_api_rate_limit_requests)`,
	"exporter.json/Retries by reason/A":             `sum(gitlab_runner_fleet_exporter_api_retries_total) == 0`,
	"exporter.json/Failed readings/A":               `sum(gitlab_runner_fleet_exporter_poll_failures_total) == 0`,
	"exporter.json/Failures in the range/A":         `sum(gitlab_runner_fleet_exporter_poll_failures_total) == 0`,
	"exporter.json/Runners not read/A":              `sum(gitlab_runner_fleet_exporter_runners_unread) == 0 or absent(gitlab_runner_fleet_exporter_runners_unread)`,
	"exporter.json/Left out by limits/A":            `absent(gitlab_runner_fleet_exporter_series_dropped)`,
	"overview.json/By GitLab/H":                     noAlert("critical"),
	"overview.json/Alerts/A":                        noAlert("critical|warning"),
	"overview.json/Alerts/B":                        noAlert("critical|warning"),
	"overview.json/Alerts/C":                        noAlert("critical|warning"),
	"overview.json/For information/A":               noAlert("info"),
	"overview.json/For information/B":               noAlert("info"),
	"overview.json/Tags lost/A":                     noLostTag,
	"overview.json/Tags short of runners/A":         noShortTag,
	"overview.json/Tags short of runners/B":         noShortTag,
	"overview.json/Tags short of runners/C":         noShortTag,
	"overview.json/Tags short of runners/D":         noShortTag,
	"overview.json/Tags short of runners/E":         noShortTag,
	"tags.json/Tags/J":                              learning,
	"tags.json/Saturation/A":                        learning,
	"tags.json/Tags/K":                              tooFewJobs,
	"tags.json/Queue time, p95/A":                   tooFewJobs,
	"runner.json/Properties/B":                      `absent(gitlab_runner_fleet_runner_status_since_timestamp_seconds{runner_id="$runner"})`,
	"runner.json/Properties/C":                      `absent(gitlab_runner_fleet_runner_paused_since_timestamp_seconds{runner_id="$runner"})`,
	"runner.json/Status/B":                          `max(gitlab_runner_fleet_runner_paused{runner_id="$runner"}) == 0`,
	"runner.json/Oldest job/A":                      `absent(gitlab_runner_fleet_runner_oldest_job_start_timestamp_seconds{runner_id="$runner"})`,
	"runner.json/Jobs finished/A":                   `absent(gitlab_runner_fleet_runner_jobs_finished_total{runner_id="$runner",status!="failed"})`,
	"runner.json/Jobs finished/B":                   `absent(gitlab_runner_fleet_runner_jobs_finished_total{runner_id="$runner",status="failed"})`,
	"runner.json/Infra failures against peers/B":    noInfrastructureFailure,
	"runner.json/Infra failures against peers/C":    noInfrastructureFailure,
	"runner.json/Peers by infra failures, 30 min/A": noInfrastructureFailure,
	"jobs.json/Infra failures by tag, 1 h/A":        noInfrastructureFailure,
	"jobs.json/Infra failures by runner, 30 min/A":  noInfrastructureFailure,
	"jobs.json/Failure reasons but script/A":        `sum(increase(gitlab_runner_fleet_jobs_finished_total{status="failed",failure_class!="script"}[5m])) == 0`,
	"jobs.json/Reasons in the whole range/A":        `sum(increase(gitlab_runner_fleet_jobs_finished_total{status="failed"}[10m])) < 2`,
	"jobs.json/Longest queues, p95 of 1 h/A":        tooFewJobs,
	"queue.json/Time to start by tag, p95/A":        tooFewJobs,
	"queue.json/Oldest waiting job by tag/A":        `max(max_over_time(gitlab_runner_fleet_queue_jobs[5m])) == 0`,
	"queue.json/Sets of tags/A":                     `max(gitlab_runner_fleet_queue_jobs) == 0`,
	"queue.json/Jobs nobody can take/A":             `absent(gitlab_runner_fleet_queue_unmatched_tagset_jobs > 0)`,
}

const (
	noLostTag  = `absent(gitlab_tag:gitlab_runner_fleet_tag_usable_runners:lost)`
	learning   = `absent(gitlab_tag:gitlab_runner_fleet_tag_capacity_jobs:sum offset 1d)`
	tooFewJobs = `max(gitlab_tag_le:gitlab_runner_fleet_tag_job_queued_duration_seconds_bucket:increase30m{le="+Inf"}) < 15`
)

func noAlert(severity string) string {
	return `absent(ALERTS{alertstate="firing",severity=~"` + severity + `"})`
}

const noInfrastructureFailure = `sum(increase(gitlab_runner_fleet_jobs_finished_total{failure_class="infrastructure"}[30m])) < 2`

const noShortTag = `min(gitlab_runner_fleet_tag_usable_runners) > 0
	and on () min(gitlab_runner_fleet_tag_usable_runners - on (gitlab, tag) gitlab_runner_fleet_tag_expected_runners) >= 0`

// TestEveryPanelIsAnswered lets a Prometheus of today scrape the demonstration
// and asks it what each panel and variable asks.
func TestEveryPanelIsAnswered(t *testing.T) {
	rig.Long(t, "runs the demonstration and a Prometheus")
	live(t, rig.Tool(t, "prometheus"))
}

func live(t *testing.T, program string) {
	t.Helper()
	exporter := rig.Serve(t, rig.Exporter(t), "--demo")
	p := prometheus(t, program, exporter.Address)
	p.runner(t)
	asked := map[string]bool{}
	for name, d := range load(t) {
		for _, v := range d.Templating.List {
			p.askVariable(t, name, v)
		}
		for _, panel := range d.Panels {
			if panel.Type == "stat" {
				continue // of its targets one answers: below
			}
			for _, q := range panel.Targets {
				where := fmt.Sprintf("%s/%s/%s", name, panel.Title, q.RefID)
				asked[where] = true
				p.checkColumns(t, where, panel, p.askTarget(t, where, q))
			}
		}
	}
	p.checkRules(t)
	for name, d := range load(t) {
		for _, tile := range p.stable(t, d) {
			if tile.text == "not scraped" || tile.text == "unknown" {
				t.Errorf("%s: %+v", name, tile)
			}
		}
	}
	for where := range empty {
		if !asked[where] {
			t.Errorf("there is no %s to be empty", where)
		}
	}
}

type server struct {
	url    string
	values map[string]string
}

// prometheus scrapes each second, evaluates the rules each second, and is ready
// when the slowest of them and a few minutes' worth of jobs are there.
func prometheus(t *testing.T, program, exporter string) *server {
	t.Helper()
	rules, err := os.ReadFile("../alerts/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	config := `
global: {scrape_interval: 1s, evaluation_interval: 2s}
rule_files: [rules.yml]
scrape_configs:
  - job_name: gitlab_runner_fleet_exporter
    static_configs: [{targets: ["` + exporter + `"]}]
`
	p := serve(t, program, config, quickly(rules))
	p.values["__rate_interval"], p.values["__range"] = "20s", "10m"
	until := time.Now().Add(patient)
	for _, want := range []string{
		`sum(increase(gitlab_runner_fleet_tag_jobs_finished_total[5m])) >= 10`,
		`sum(increase(gitlab_runner_fleet_runner_jobs_finished_total[5m])) >= 10`,
		`gitlab_tag:gitlab_runner_fleet_tag_saturation:ratio >= 0`,
		`gitlab_runner:gitlab_runner_fleet_runner_info:max`,
		`sum(increase(gitlab_runner_fleet_exporter_job_settle_delay_seconds_count[5m])) >= 10`,
		`rate(gitlab_runner_fleet_exporter_poll_duration_seconds_count{stage="jobs"}[5m]) > 0`,
	} {
		for {
			if r, err := p.query(t, want); err == nil && len(r) > 0 {
				break
			} else if time.Now().After(until) {
				t.Fatalf("after %s still nothing for %s (%v)", patient, want, err)
			}
			time.Sleep(500 * time.Millisecond)
		}
	}
	return p
}

// quickly lets each group of rules be evaluated every two seconds.
func quickly(rules []byte) []byte {
	return regexp.MustCompile(`(?m)^    interval: \w+$`).ReplaceAll(rules, []byte("    interval: 2s"))
}

// serve runs a Prometheus, with what a person who opens a dashboard has chosen:
// all of each variable.
func serve(tb testing.TB, program, config string, rules []byte) *server {
	tb.Helper()
	dir := tb.TempDir()
	for name, text := range map[string][]byte{"rules.yml": rules, "prometheus.yml": []byte(config)} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	s := rig.Serve(tb, program, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"))
	s.Ready(tb, "/-/ready")
	return &server{url: "http://" + s.Address, values: map[string]string{"gitlab": ".*", "runner_type": ".*", "tag": ".*", "instance": ".*"}}
}

type result struct {
	Metric map[string]string `json:"metric"`
	Value  [2]any            `json:"value"`
	Values [][2]any          `json:"values"`
}

// numbers tells whether a value other than NaN is among the results.
func numbers(list []result) bool {
	return slices.ContainsFunc(list, func(r result) bool {
		return len(r.Values) == 0 && r.Value[1] != "NaN" || slices.ContainsFunc(r.Values, func(v [2]any) bool { return v[1] != "NaN" })
	})
}

func (p *server) get(tb testing.TB, path string, out any) error {
	tb.Helper()
	return p.send(tb, http.MethodGet, path, url.Values{}, out)
}

func (p *server) call(tb testing.TB, path string, args url.Values, out any) error {
	tb.Helper()
	return p.send(tb, http.MethodPost, path, args, out)
}

func (p *server) send(tb testing.TB, method, path string, args url.Values, out any) error {
	tb.Helper()
	ctx, stop := context.WithTimeout(tb.Context(), 30*time.Second)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, method, p.url+"/api/v1/"+path, strings.NewReader(args.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := (&http.Client{}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	var body struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		return err
	}
	if body.Status != "success" {
		return fmt.Errorf("prometheus: %s", body.Error)
	}
	return json.Unmarshal(body.Data, out)
}

func (p *server) query(tb testing.TB, expr string) ([]result, error) {
	tb.Helper()
	var data struct{ Result []result }
	err := p.call(tb, "query", url.Values{"query": {expr}}, &data)
	return data.Result, err
}

// runner chooses one with jobs, as a person looking for trouble would.
func (p *server) runner(tb testing.TB) {
	tb.Helper()
	for until := time.Now().Add(patient); !p.findRunner(tb); time.Sleep(time.Second) {
		if time.Now().After(until) {
			tb.Fatalf("no runner with jobs after %v", patient)
		}
	}
}

func (p *server) findRunner(tb testing.TB) bool {
	tb.Helper()
	r, err := p.query(tb, `topk(1, sum by (runner_id, runner_type) (
		increase(gitlab_runner_fleet_runner_jobs_finished_total[5m]) * on (gitlab, runner_id) group_left (runner_type) gitlab_runner_fleet_runner_info
		and on (runner_id) gitlab_runner_fleet_runner_contacted_timestamp_seconds
		and on (runner_id) gitlab_runner_fleet_runner_tag_info))`)
	if err != nil {
		tb.Fatal(err)
	}
	if len(r) != 1 {
		return false
	}
	p.values["runner"], p.values["own_type"] = r[0].Metric["runner_id"], r[0].Metric["runner_type"]
	tags, err := p.query(tb, `count by (tag) (gitlab_runner_fleet_runner_tag_info{runner_id="`+p.values["runner"]+`"})`)
	if err != nil {
		tb.Fatal(err)
	}
	var own []string
	for _, r := range tags {
		own = append(own, regexp.QuoteMeta(r.Metric["tag"]))
	}
	p.values["own_tags"] = strings.ReplaceAll(strings.Join(own, "|"), `\`, `\\`)
	return true
}

// fill puts in what Grafana would.
func (p *server) fill(expr string) string {
	return regexp.MustCompile(`\$\{?(\w+)\}?`).ReplaceAllStringFunc(expr, func(s string) string {
		if v, ok := p.values[strings.Trim(s, "${}")]; ok {
			return v
		}
		return s
	})
}

// checkRules: a rule that fails once leaves its panels empty.
func (p *server) checkRules(t *testing.T) {
	t.Helper()
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	// POST is not for rules.
	if err := p.get(t, "rules", &data); err != nil || len(data.Groups) == 0 {
		t.Fatalf("%d groups of rules (%v)", len(data.Groups), err)
	}
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			if r.Health == "err" {
				t.Errorf("rule %s: %s", r.Name, r.LastError)
			}
		}
	}
}

func (p *server) askVariable(t *testing.T, file string, v variable) {
	t.Helper()
	if v.Type != "query" {
		return
	}
	q := p.fill(v.query(t))
	if expr, ok := strings.CutPrefix(q, "query_result("); ok {
		r, err := p.query(t, strings.TrimSuffix(expr, ")"))
		want := 250
		if v.Name == "gitlab" {
			want = 1
		}
		if err != nil || len(r) < want {
			t.Errorf("%s: $%s has %d values (%v)", file, v.Name, len(r), err)
		}
		return
	}
	selector, name := labelValues(q)
	var values []string
	if err := p.call(t, "label/"+name+"/values", url.Values{"match[]": {selector}}, &values); err == nil && len(values) > 0 {
		return
	}
	// Before Prometheus 3 this is GET only.
	series, err := p.query(t, "count by ("+name+") ("+selector+")")
	if err != nil || len(series) == 0 || series[0].Metric[name] == "" {
		t.Errorf("%s: $%s has no value (%v)", file, v.Name, err)
	}
}

// labelValues takes a query of the kind label_values(selector, name) apart.
func labelValues(q string) (selector, name string) {
	q = strings.TrimSuffix(strings.TrimPrefix(q, "label_values("), ")")
	i := strings.LastIndex(q, ", ")
	return q[:i], q[i+2:]
}

// patience is how long a target may stay without data: what a single runner
// does in a short window is chance, and the demonstration goes on.
const patience = 45 * time.Second

// checkColumns: each label of a table's series is a column that the table names or
// leaves out. The name of a metric is one too, and keeps rows of two queries apart.
func (p *server) checkColumns(t *testing.T, where string, panel panel, list []result) {
	t.Helper()
	if panel.Type != "table" {
		return
	}
	for _, r := range list {
		for name := range r.Metric {
			if !slices.ContainsFunc(panel.Transformations, func(tr transformation) bool {
				_, named := tr.Options.RenameByName[name]
				return named || tr.Options.ExcludeByName[name]
			}) {
				t.Errorf("%s: a column %s that nobody asked for", where, name)
				return
			}
		}
	}
}

func (p *server) askTarget(t *testing.T, where string, q target) []result {
	t.Helper()
	for until := time.Now().Add(patience); ; time.Sleep(2 * time.Second) {
		expr := p.fill(q.Expr)
		list, err := p.ask(t, expr, q.Instant)
		if err != nil {
			t.Errorf("%s: %v\n%s", where, err, expr)
			return nil
		}
		if numbers(list) {
			return list
		}
		reason, ok := empty[where]
		if ok {
			proof, err := p.query(t, p.fill(reason))
			if err != nil {
				t.Errorf("%s: %s: %v", where, reason, err)
			}
			if err != nil || len(proof) > 0 {
				return nil
			}
		}
		if time.Now().After(until) {
			t.Errorf("%s: no data, and %q does not say why\n%s", where, reason, expr)
			return nil
		}
		t.Logf("%s: waiting for data", where)
		p.runner(t) // another one may have jobs by now
	}
}

// ask is what a panel asks, over the last five minutes.
func (p *server) ask(t *testing.T, expr string, instant bool) ([]result, error) {
	t.Helper()
	if instant {
		return p.query(t, expr)
	}
	var data struct{ Result []result }
	now := time.Now()
	err := p.call(t, "query_range", url.Values{
		"query": {expr}, "start": {strconv.FormatInt(now.Add(-5*time.Minute).Unix(), 10)}, "end": {strconv.FormatInt(now.Unix(), 10)}, "step": {"5s"},
	}, &data)
	return data.Result, err
}
