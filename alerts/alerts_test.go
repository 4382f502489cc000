// Package alerts holds the rules that users load to their word: each alert has
// what an on-call engineer needs, a runbook, a case in which it fires and one
// in which it nearly does; the manifest for Kubernetes is the same rules; the
// real promtool, amtool and Alertmanager accept all of it.
//
//	go test ./alerts -update
//
// writes prometheusrule.yml anew.
package alerts

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"gitlab-runner-fleet-exporter/test/rig"
)

var update = flag.Bool("update", false, "write prometheusrule.yml anew")

const (
	rulesFile    = "rules.yml"
	manifestFile = "prometheusrule.yml"
	routingFile  = "alertmanager.example.yml"
	runbookURL   = "https://gitlab-runner-fleet-exporter.example/docs/runbooks/"
	dashboardURL = "https://grafana.example.com/d/"
	runbooks     = "../docs/runbooks"
	dashboards   = "../dashboards"
	tools        = "../.tools"
)

type rule struct {
	Record        string            `yaml:"record,omitempty"`
	Alert         string            `yaml:"alert,omitempty"`
	Expr          string            `yaml:"expr"`
	For           string            `yaml:"for,omitempty"`
	KeepFiringFor string            `yaml:"keep_firing_for,omitempty"`
	Labels        map[string]string `yaml:"labels,omitempty"`
	Annotations   map[string]string `yaml:"annotations,omitempty"`
}

type ruleFile struct {
	Groups []struct {
		Name     string
		Interval string
		Rules    []rule
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path) //nolint:gosec // a file of ours
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// load decodes YAML and refuses keys that out does not know.
func load(t *testing.T, path string, out any) {
	t.Helper()
	d := yaml.NewDecoder(bytes.NewReader(read(t, path)))
	d.KnownFields(true)
	if err := d.Decode(out); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func groups(t *testing.T) ruleFile {
	t.Helper()
	var f ruleFile
	load(t, rulesFile, &f)
	return f
}

// alerts are the alerting rules by name.
func alerts(t *testing.T) map[string]rule {
	t.Helper()
	out := map[string]rule{}
	for _, g := range groups(t).Groups {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			if _, twice := out[r.Alert]; twice {
				t.Errorf("%s stands twice", r.Alert)
			}
			out[r.Alert] = r
		}
	}
	if len(out) < 30 {
		t.Fatalf("only %d alerts were read", len(out))
	}
	return out
}

func seconds(t *testing.T, s string) time.Duration {
	t.Helper()
	if d, ok := strings.CutSuffix(s, "d"); ok {
		s = d + "h"
		v, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		return 24 * v
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

var (
	alertName  = regexp.MustCompile(`^GitLabRunner[A-Z][A-Za-z]+$`)
	recordName = regexp.MustCompile(`^gitlab(_[a-z]+)*:gitlab_runner_fleet_[a-z_]+:[a-z0-9_]+$`)
	recorded   = regexp.MustCompile(`gitlab[a-z_]*:gitlab_runner_fleet_[a-z_]+:[a-z0-9_]+`)
	// identity are the labels of which the text must name at least one, since
	// several alerts of one name stand in one notification.
	identity = regexp.MustCompile(`\$labels\.(tag|description|runner_type|gitlab|instance|version)\b`)
)

func TestRules(t *testing.T) {
	seen := map[string]bool{}
	for _, g := range groups(t).Groups {
		if d := seconds(t, g.Interval); d < time.Minute || d > 5*time.Minute {
			t.Errorf("%s: interval %s: Prometheus looks back 5m for a sample", g.Name, g.Interval)
		}
		if !strings.HasPrefix(g.Name, "gitlab-runner-fleet-") || seen[g.Name] {
			t.Errorf("%s: want a unique name with our prefix", g.Name)
		}
		seen[g.Name] = true
		for _, r := range g.Rules {
			switch {
			case r.Record != "":
				if !recordName.MatchString(r.Record) || seen[r.Record] {
					t.Errorf("%s: want a unique name level:metric:operation", r.Record)
				}
				seen[r.Record] = true
			case !alertName.MatchString(r.Alert):
				t.Errorf("%q is no name of an alert of ours", r.Alert)
			}
		}
	}
}

func TestAlertsSayWhatIsNeeded(t *testing.T) {
	uids := []string{"grf-overview", "grf-tags", "grf-runner", "grf-jobs", "grf-exporter"}
	for name, r := range alerts(t) {
		severity := r.Labels["severity"]
		switch severity {
		case "critical":
			if r.KeepFiringFor != "15m" {
				t.Errorf("%s pages and does not keep firing for 15m: a page that comes and goes wakes twice", name)
			}
		case "warning", "info":
		default:
			t.Errorf("%s: severity is %q", name, severity)
		}
		if len(r.Annotations) != 4 {
			t.Errorf("%s: has the annotations %v", name, r.Annotations)
		}
		summary, description := r.Annotations["summary"], r.Annotations["description"]
		if summary == "" || len(summary) > 100 || strings.HasSuffix(summary, ".") {
			t.Errorf("%s: summary %q: want a headline", name, summary)
		}
		if len(description) < 80 || !strings.HasSuffix(description, ".") {
			t.Errorf("%s: description %q: want what it means", name, description)
		}
		if strings.Contains(r.Expr, "gitlab") && !strings.Contains(r.Expr, "absent(") && !identity.MatchString(description) {
			t.Errorf("%s: the description does not say which", name)
		}
		if got, want := r.Annotations["runbook_url"], runbookURL+name+".md"; got != want {
			t.Errorf("%s: runbook_url %q, want %q", name, got, want)
		}
		rest, ok := strings.CutPrefix(r.Annotations["dashboard_url"], dashboardURL)
		uid, query, _ := strings.Cut(rest, "?")
		if !ok || !slices.Contains(uids, uid) {
			t.Errorf("%s: dashboard_url %q leads to no dashboard", name, r.Annotations["dashboard_url"])
		}
		for arg := range strings.SplitSeq(query, "&") {
			if arg != "" && !regexp.MustCompile(`^var-\w+=\{\{ \$labels\.\w+ \| urlquery \}\}$`).MatchString(arg) {
				t.Errorf("%s: dashboard_url: %q is not safe with any label value", name, arg)
			}
		}
	}
}

// TestUnreadableBeforeWithdrawal: the page must be out before the gauges go.
func TestUnreadableBeforeWithdrawal(t *testing.T) {
	const staleness = 10 * time.Minute // the default (contract: poll.staleness)
	wait := seconds(t, alerts(t)["GitLabRunnerFleetGitLabUnreadable"].For)
	for _, g := range groups(t).Groups {
		for _, r := range g.Rules {
			if r.Alert == "GitLabRunnerFleetGitLabUnreadable" {
				// One interval until up is seen 0, one until the record is seen.
				wait += 2 * seconds(t, g.Interval)
			}
		}
	}
	if wait >= staleness {
		t.Errorf("fires after %s, the gauges go after %s", wait, staleness)
	}
}

func TestRunbooks(t *testing.T) {
	all := alerts(t)
	files, err := filepath.Glob(filepath.Join(runbooks, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".md")
		r, ok := all[name]
		if !ok {
			t.Errorf("%s is about no alert", f)
			continue
		}
		delete(all, name)
		text := string(read(t, f))
		at := 0
		for _, want := range []string{"# " + name + "\n", "## Meaning\n", "## Impact\n", "## Look first\n", "## What to do\n", "## When it is false\n"} {
			i := strings.Index(text[at:], want)
			if i < 0 {
				t.Errorf("%s: no %q, or not in this order", f, strings.TrimSpace(want))
				continue
			}
			at += i + len(want)
		}
		if !strings.Contains(text, "```promql\n") {
			t.Errorf("%s: no query to look at first", f)
		}
		if !strings.HasPrefix(text, "# "+name+"\n\n"+strings.ToUpper(r.Labels["severity"][:1])+r.Labels["severity"][1:]) {
			t.Errorf("%s: does not begin with the severity %s", f, r.Labels["severity"])
		}
		if r.For != "" && !strings.Contains(text, "After "+r.For+".") {
			t.Errorf("%s: does not say that it fires after %s", f, r.For)
		}
		panels(t, f, text)
	}
	for name := range all {
		t.Errorf("%s has no runbook", name)
	}
}

var panelLink = regexp.MustCompile(`(?m)^- Dashboard \[[^\]]+\]\(\.\./\.\./dashboards/([a-z]+\.json)\), panel "(.+)"$`)

// panels checks that the panels which a runbook sends its reader to exist.
func panels(t *testing.T, file, text string) {
	t.Helper()
	found := panelLink.FindAllStringSubmatch(text, -1)
	if len(found) == 0 {
		t.Errorf("%s: no panel to look at first", file)
	}
	for _, m := range found {
		var board struct {
			Panels []struct {
				Title  string `json:"title"`
				Panels []struct {
					Title string `json:"title"`
				} `json:"panels"`
			} `json:"panels"`
		}
		if err := json.Unmarshal(read(t, filepath.Join(dashboards, m[1])), &board); err != nil {
			t.Fatal(err)
		}
		var titles []string
		for _, p := range board.Panels {
			titles = append(titles, p.Title)
			for _, q := range p.Panels {
				titles = append(titles, q.Title)
			}
		}
		if !slices.Contains(titles, m[2]) {
			t.Errorf("%s: %s has no panel %q", file, m[1], m[2])
		}
	}
}

const manifestHead = `# Made from rules.yml by go test ./alerts -update: do not edit.
#
# The Prometheus of the operator loads it if its ruleSelector fits the labels:
# with kube-prometheus-stack add release: <name of the Helm release>.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: gitlab-runner-fleet-exporter
  labels:
    app.kubernetes.io/name: gitlab-runner-fleet-exporter
    app.kubernetes.io/component: alerts
spec:
`

// TestManifest holds the manifest equal to the rules: the same text, two
// columns further right.
func TestManifest(t *testing.T) {
	_, body, ok := strings.Cut(string(read(t, rulesFile)), "\ngroups:\n")
	if !ok {
		t.Fatal("rules.yml has no groups")
	}
	var want strings.Builder
	want.WriteString(manifestHead + "  groups:\n")
	for line := range strings.Lines(body) {
		if strings.TrimSpace(line) != "" {
			want.WriteString("  ")
		}
		want.WriteString(line)
	}
	if *update {
		if err := os.WriteFile(manifestFile, []byte(want.String()), 0o644); err != nil { //nolint:gosec // for everybody
			t.Fatal(err)
		}
	}
	if got := string(read(t, manifestFile)); got != want.String() {
		t.Fatal("prometheusrule.yml is not made from rules.yml: run go test ./alerts -update")
	}
	var manifest struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   struct {
			Name   string
			Labels map[string]string
		}
		Spec any
	}
	load(t, manifestFile, &manifest)
	var rules any
	load(t, rulesFile, &rules)
	a, err := yaml.Marshal(rules)
	if err != nil {
		t.Fatal(err)
	}
	b, err := yaml.Marshal(manifest.Spec)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) || len(a) < 1000 {
		t.Error("the manifest's spec does not mean the same as rules.yml")
	}
}

type caseFile struct {
	RuleFiles          []string `yaml:"rule_files"`
	EvaluationInterval string   `yaml:"evaluation_interval"`
	GroupEvalOrder     []string `yaml:"group_eval_order"`
	Tests              []struct {
		Name        string
		Interval    string
		InputSeries []struct{ Series, Values string } `yaml:"input_series"`
		Alerts      []struct {
			Time string `yaml:"eval_time"`
			Name string `yaml:"alertname"`
			Exp  []struct {
				Labels      map[string]string `yaml:"exp_labels"`
				Annotations map[string]string `yaml:"exp_annotations"`
			} `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
		Exprs []struct {
			Expr    string
			Time    string `yaml:"eval_time"`
			Samples []struct {
				Labels string
				Value  float64
			} `yaml:"exp_samples"`
		} `yaml:"promql_expr_test"`
	}
}

// TestCases: each alert has a case that shows it silent until its time and then
// firing, and one that it must bear in silence; each recording rule one that
// shows its value.
func TestCases(t *testing.T) {
	files, err := filepath.Glob("tests/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests: %v", err)
	}
	var order []string
	for _, g := range groups(t).Groups {
		order = append(order, g.Name)
	}
	type seen struct{ before, fires, nearly bool }
	all := map[string]*seen{}
	for name := range alerts(t) {
		all[name] = &seen{}
	}
	values := map[string]bool{}
	for _, path := range files {
		var f caseFile
		load(t, path, &f)
		if !slices.Equal(f.GroupEvalOrder, order) {
			t.Errorf("%s: group_eval_order is %v, the file's order is %v", path, f.GroupEvalOrder, order)
		}
		for _, g := range f.Tests {
			for _, e := range g.Exprs {
				for _, name := range recorded.FindAllString(e.Expr, -1) {
					values[name] = values[name] || len(e.Samples) > 0
				}
			}
			if strings.HasPrefix(g.Name, "recording rules: ") {
				continue
			}
			name, what, _ := strings.Cut(g.Name, " ")
			s := all[name]
			if s == nil {
				t.Errorf("%s: %q is about no alert", path, g.Name)
				continue
			}
			if len(g.InputSeries) == 0 {
				t.Errorf("%s: %q: silence over nothing shows nothing", path, g.Name)
			}
			near := strings.HasPrefix(what, "near miss: ")
			if !near && !strings.HasPrefix(what, "fires") {
				t.Errorf("%s: %q: neither fires nor near miss", path, g.Name)
			}
			for _, a := range g.Alerts {
				switch {
				case a.Name != name: // what else must not fire, or is not asked for
				case near && len(a.Exp) > 0:
					t.Errorf("%s: %q fires at %s", path, g.Name, a.Time)
				case near:
					s.nearly = true
				case len(a.Exp) == 0:
					s.before = s.before || !s.fires
				default:
					s.fires = true
				}
				for _, e := range a.Exp {
					if e.Labels["severity"] == "" || len(e.Annotations) != 4 {
						t.Errorf("%s: %q: does not check labels and text", path, g.Name)
					}
				}
			}
		}
	}
	for name, s := range all {
		if !s.before || !s.fires || !s.nearly {
			t.Errorf("%s: silent before its time: %v, fires: %v, near miss: %v", name, s.before, s.fires, s.nearly)
		}
	}
	for _, g := range groups(t).Groups {
		for _, r := range g.Rules {
			if r.Record != "" && !values[r.Record] {
				t.Errorf("%s: no case shows its value", r.Record)
			}
		}
	}
}

// tool is an installed program; where it is missing the test is skipped, which
// .ci/run does not accept.
func tool(t *testing.T, path, hint string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(abs); err != nil {
		t.Skipf("no %s: run `%s`", path, hint)
	}
	return abs
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput() //nolint:gosec // tools of the Makefile
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// promtool lets one release check and try the rules.
func promtool(t *testing.T, path string) {
	t.Helper()
	run(t, path, "check", "rules", "--lint=all", "--lint-fatal", rulesFile)
	files, err := filepath.Glob("tests/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			t.Parallel()
			run(t, path, "test", "rules", f)
		})
	}
}

func TestPromtool(t *testing.T) {
	rig.Long(t, "evaluates days of rules")
	promtool(t, tool(t, tools+"/promtool", "make tools"))
}

func TestRoutingIsAccepted(t *testing.T) {
	run(t, tool(t, tools+"/amtool", "make tools"), "check-config", routingFile)
}

// TestRoutingNamesAlerts: a matcher of a name that no alert has does nothing.
func TestRoutingNamesAlerts(t *testing.T) {
	var names []string
	for name := range alerts(t) {
		names = append(names, name)
	}
	text := string(read(t, routingFile))
	matchers := regexp.MustCompile(`'alertname(=~|!~|=|!=)"([^"]+)"'`).FindAllStringSubmatch(text, -1)
	if len(matchers) < 15 {
		t.Fatalf("only %d matchers were read", len(matchers))
	}
	for _, m := range matchers {
		re := regexp.MustCompile("^(?:" + m[2] + ")$")
		if !slices.ContainsFunc(names, re.MatchString) {
			t.Errorf("no alert is %s", m[2])
		}
		// Each member of a list, too.
		head, list, ok := strings.Cut(m[2], "(")
		if !ok {
			continue
		}
		for alt := range strings.SplitSeq(strings.TrimSuffix(list, ")"), "|") {
			if !slices.ContainsFunc(names, regexp.MustCompile("^"+head+"(?:"+alt+")$").MatchString) {
				t.Errorf("no alert is %s", fmt.Sprint(head, alt))
			}
		}
	}
}
