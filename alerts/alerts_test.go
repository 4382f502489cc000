// The tests of this package hold the rules to what they promise: each alert has
// what an on-call engineer needs, a runbook, a case in which it fires and one in
// which it nearly does; the real promtool, amtool and Alertmanager accept all of it.
//
//	go test ./alerts -update
//
// writes rules.yml and prometheusrule.yml anew.

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

var update = flag.Bool("update", false, "write rules.yml and prometheusrule.yml anew")

const (
	rulesFile    = "rules.yml"
	manifestFile = "prometheusrule.yml"
	routingFile  = "alertmanager.example.yml"
	runbookURL   = "docs/runbooks/"
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
	raw, err := os.ReadFile(path)
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

// alerts are the alerting rules by name, those of queueSLO included.
func alerts(t *testing.T) map[string]rule {
	t.Helper()
	raw, err := Render(Prometheus, "values.yml", read(t, "tests/slo/values.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var f ruleFile
	if err := yaml.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	out := map[string]rule{}
	for _, g := range f.Groups {
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
	if len(out) < 45 {
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
	identity = regexp.MustCompile(`\$labels\.(tags?|runner_type|gitlab|instance|version)\b`)
)

// safeQuery is one of escaped labels; what an alert about many does not have is left
// out, for an empty variable selects nothing.
var safeQuery = regexp.MustCompile(`^var-\w+=\{\{ \$labels\.\w+ \| urlquery \}\}(&var-\w+=\{\{ \$labels\.\w+ \| urlquery \}\}|\{\{ with \$labels\.\w+ \}\}&var-\w+=\{\{ \. \| urlquery \}\}\{\{ end \}\})*$`)

func TestNamesOfRulesAreOurs(t *testing.T) {
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
				// Several rules fill one record, each with its own problem.
				id := r.Record + r.Labels["problem"]
				if !recordName.MatchString(r.Record) || seen[id] {
					t.Errorf("%s: want a unique name level:metric:operation", id)
				}
				seen[id] = true
			case !alertName.MatchString(r.Alert):
				t.Errorf("%q is no name of an alert of ours", r.Alert)
			}
		}
	}
}

// expanded is what Prometheus expands in a text.
var expanded = regexp.MustCompile(`\{\{.*?\}\}`)

func TestAlertsSayWhatIsNeeded(t *testing.T) {
	uids := []string{"grf-overview", "grf-tags", "grf-runner", "grf-jobs", "grf-queue", "grf-exporter"}
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
		if summary == "" || len(expanded.ReplaceAllString(summary, "x")) > 110 || strings.HasSuffix(summary, ".") {
			t.Errorf("%s: summary %q: want a headline", name, summary)
		}
		// A notification often shows the headline alone.
		if strings.Contains(r.Annotations["dashboard_url"], "$labels.gitlab") && !strings.Contains(summary, "$labels.gitlab") {
			t.Errorf("%s: the summary does not name the GitLab", name)
		}
		if end := strings.TrimSpace(expanded.ReplaceAllString(description, "")); len(description) < 80 || !strings.HasSuffix(end, ".") && !strings.HasSuffix(end, "?") {
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
		if query != "" && !safeQuery.MatchString(query) {
			t.Errorf("%s: dashboard_url: %q is not safe with any label value", name, query)
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
		if r.For != "0m" && !strings.Contains(text, "After "+r.For+".") {
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

// TestShippedFiles holds the files that are committed to what is printed with the
// defaults.
func TestShippedFiles(t *testing.T) {
	for file, format := range map[string]Format{rulesFile: Prometheus, manifestFile: Operator} {
		want, err := Render(format, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(read(t, file), want) {
			t.Errorf("%s is not what --rules.print writes: run go test ./alerts -update", file)
		}
	}
}

// TestFormatsMeanTheSame: the three formats mean the same, and each is what its reader takes.
func TestFormatsMeanTheSame(t *testing.T) {
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
	raw, err := Render(Mimir, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	var rules, mimir map[string]any
	if err := yaml.Unmarshal(raw, &mimir); err != nil {
		t.Fatal(err)
	}
	load(t, rulesFile, &rules)
	if mimir["namespace"] != namespace {
		t.Errorf("the namespace for Mimir is %v", mimir["namespace"])
	}
	delete(mimir, "namespace")
	want, err := yaml.Marshal(rules)
	if err != nil {
		t.Fatal(err)
	}
	for what, v := range map[string]any{"the manifest's spec": manifest.Spec, "the file for Mimir": mimir} {
		if got, err := yaml.Marshal(v); err != nil || !bytes.Equal(got, want) || len(want) < 1000 {
			t.Errorf("%s does not mean the same as rules.yml (%v)", what, err)
		}
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

// TestEachAlertIsTriedBothWays: each alert has a case that shows it silent until its time and then
// firing, and one that it must bear in silence; each recording rule one that
// shows its value.
func TestEachAlertIsTriedBothWays(t *testing.T) {
	files, err := filepath.Glob("tests/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests: %v", err)
	}
	files = append(files, sloTests)
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
		if path != sloTests && !slices.Equal(f.GroupEvalOrder, order) {
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
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// sloTests are the cases of the rules that need values: queueSLO.
const sloTests = "tests/slo/slo.yml"

// promtool lets one release check and try the rules, with the defaults and with
// everything switched on. Narrowed, each case has only the rules that it needs.
func promtool(t *testing.T, path string, narrowed bool) {
	t.Helper()
	run(t, path, "check", "rules", "--lint=all", "--lint-fatal", rulesFile)
	files, err := filepath.Glob("tests/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	rules, err := Render(Prometheus, "values.yml", read(t, "tests/slo/values.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"rules.yml": rules, "slo.yml": read(t, sloTests)} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, path, "check", "rules", "--lint=all", "--lint-fatal", filepath.Join(dir, "rules.yml"))
	if testing.Short() {
		t.Skipf("the cases in %s are not tried: they cost minutes", strings.Join(files, ", "))
	}
	for _, f := range append(files, filepath.Join(dir, "slo.yml")) {
		t.Run(filepath.Base(f), func(t *testing.T) {
			t.Parallel()
			cases := []string{f}
			if narrowed {
				cases = narrow(t, f)
			}
			run(t, path, append([]string{"test", "rules"}, cases...)...)
		})
	}
}

// TestPromtoolAgrees: with all rules in each case it takes six minutes of a core,
// which TestShipPromtoolAgreesWithAllRules spends.
func TestPromtoolAgrees(t *testing.T) {
	rig.Long(t, "evaluates days of rules")
	promtool(t, tool(t, tools+"/promtool", "make tools"), true)
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
