package alerts

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"go.yaml.in/yaml/v3"
)

// TestChangedValues: what a site changes stands in the rules, and promtool takes
// them.
func TestChangedValues(t *testing.T) {
	values := `
job: runners|ci/exporter
clusterLabel: cluster
extraLabels: [env]
additionalRuleLabels: {team: 'ci "night"'}
runbookURL: https://wiki.example.org/runbooks
grafanaURL: https://grafana.example.org
fleetURL: https://runners.example.org/fleet-exporter
aggregateAbove: 25
tags: {pageRunners: 3, lookbackDays: 5}
queueSLO: {enabled: true, seconds: 600, objective: 0.96}
queueOldest: {seconds: 1800, tags: {gpu: {seconds: 900}, 'c++ "x"': {seconds: 60}}}
alerts:
  GitLabRunnerFleetLost: {enabled: false}
  GitLabRunnerOffline: {severity: page, minutes: 90}
  GitLabRunnerMassPause: {for: 1h30m, keepFiringFor: 2h}
  GitLabRunnerTagQueueSlow: {seconds: 900}
`
	raw, err := Render(Prometheus, "mine.yml", []byte(values))
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for _, want := range []string{
		`up{job=~"runners|ci/exporter"}`,
		"by (cluster, env, gitlab, shard, instance)",
		`team: "ci \"night\""`,
		"runbook_url: 'https://wiki.example.org/runbooks/GitLabRunnerOffline.md'",
		"dashboard_url: 'https://grafana.example.org/d/grf-tags?",
		"fleet_url: 'https://runners.example.org/fleet-exporter/fleet?gitlab={{ $labels.gitlab | urlquery }}&tag={{ $labels.tag | urlquery }}'",
		"> 25",
		`:own{tag="c++ \"x\""} > 60 or`, `:own{tag="gpu"} > 900 or`, `:own{tag!="c++ \"x\"",tag!="gpu",} > 1800`,
		":sum[5d:10m])", ":most >= 3",
		`le=~"600([.]0)?"`, "14.4 * (1 - 0.96)",
		"severity: page", "60 * 90",
		"for: 1h30m\n        keep_firing_for: 2h\n",
		":p95_30m > 900",
		`printf "gitlab_runner:gitlab_runner_fleet_runner_info:max{cluster=%q,env=%q,gitlab=%q,runner_id=%q}" $labels.cluster $labels.env`,
	} {
		// Long lines of texts are folded.
		if !strings.Contains(strings.Join(strings.Fields(text), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("%s is not in the rules", want)
		}
	}
	if strings.Contains(text, "alert: GitLabRunnerFleetLost\n") {
		t.Error("an alert that is off is there")
	}
	var f ruleFile
	if err := yaml.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	if usual, err := Render(Prometheus, "", nil); err != nil || strings.Contains(string(usual), "fleet_url") {
		t.Errorf("without an address alerts link to none: %v", err)
	}
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			if strings.Contains(r.Annotations["dashboard_url"], "$labels.gitlab") && r.Annotations["fleet_url"] == "" {
				t.Errorf("%s does not carry the address of its row", r.Alert)
			}
			checkRow(t, r)
			if m := regexp.MustCompile(`(?:by|on) \((?:gitlab|instance)[^)]*\)`).FindAllString(r.Expr, -1); m != nil {
				t.Errorf("%s%s: not by the cluster: %q", r.Record, r.Alert, m)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, tool(t, tools+"/promtool", "make tools"), "check", "rules", "--lint=all", "--lint-fatal", path)
}

// TestWrongValues: each is refused, with its line and path.
func TestWrongValues(t *testing.T) {
	for _, c := range []struct{ values, want string }{
		{"alert: {}", "mine.yml:1: alert: unknown key"},
		{"alerts:\n  GitLabRunnerOff: {}", "mine.yml:2: alerts.GitLabRunnerOff: unknown key"},
		{"alerts:\n  GitLabRunnerOffline:\n    fore: 1h", "mine.yml:3: alerts.GitLabRunnerOffline.fore: unknown key; there are enabled, for, keepFiringFor, minutes, severity"},
		{"alerts:\n  GitLabRunnerOffline: {for: 1hour}", `mine.yml:2: alerts.GitLabRunnerOffline.for: "1hour" is no duration`},
		{"alerts:\n  GitLabRunnerOffline: {for: 60}", `"60" is no duration`},
		{"alerts: {GitLabRunnerOffline: {enabled: 'yes'}}", "alerts.GitLabRunnerOffline.enabled: want true or false"},
		{"alerts: {GitLabRunnerOffline: {minutes: 1h}}", "alerts.GitLabRunnerOffline.minutes: want a number"},
		{"alerts: {GitLabRunnerOffline: {minutes: -1}}", "out of range"},
		{"alerts: {GitLabRunnerOffline: {minutes: 1000000}}", "out of range"},
		{"alerts: {GitLabRunnerOffline: {minutes: .nan}}", "out of range"},
		{"alerts: {GitLabRunnerOffline: {minutes: }}", "want a number, have nothing"},
		{"alerts: {GitLabRunnerOffline: {severity: 'very bad'}}", "no severity"},
		{"alerts: {GitLabRunnerTagHalfGone: {ratio: 50}}", "alerts.GitLabRunnerTagHalfGone.ratio: 50 is no share"},
		{"alerts: {GitLabRunnerFleetGitLabUnwatched: {hours: 1.5}}", "whole number"},
		{"alerts: [GitLabRunnerOffline]", "alerts: want an object, have a list"},
		{"job: '('", "job: \"(\" is no regular expression"},
		{"job: 7", "job: want text"},
		{"clusterLabel: 'a b'", "clusterLabel: \"a b\" cannot be a label"},
		{"extraLabels: env", "extraLabels: want a list"},
		{"extraLabels: [env, tag]", "extraLabels[1]: \"tag\" cannot be a label"},
		{"additionalRuleLabels: {severity: x}", "additionalRuleLabels.severity: \"severity\" cannot be a label"},
		{"additionalRuleLabels: {team: 7}", "additionalRuleLabels.team: want text"},
		{"additionalRuleLabels: {team: '{{ $value }}'}", "is a template"},
		{"runbookURL: 'https://x/'", "runbookURL: \"https://x/\" is no address"},
		{"grafanaURL: \"https://x/'{{\"", "grafanaURL:"},
		{"fleetURL: 'https://x/'", "fleetURL: \"https://x/\" is no address"},
		{"queueSLO: {enabled: true, seconds: 400}", "queueSLO.seconds: 400 is no bound"},
		{"queueSLO: {enabled: true, objective: 95}", "queueSLO.objective: 95 is no share"},
		{"queueSLO: {enabled: true, objective: 0.9}", "queueSLO.objective: with fastBurn"},
		{"queueSLO: {enabled: true, tags: {gpu: {seconds: 300}}}", "queueSLO.tags.gpu: needs all of objective, seconds"},
		{"queueSLO: {enabled: true, tags: {gpu: {seconds: 300, objective: 0.95, jobs: 1}}}", "queueSLO.tags.gpu.jobs: unknown key"},
		{"queueOldest: {seconds: 1h}", "queueOldest.seconds: want a number"},
		{"queueOldest: {tags: {gpu: 600}}", "queueOldest.tags.gpu: want an object"},
		{"queueOldest: {tags: {gpu: {}}}", "queueOldest.tags.gpu: needs all of seconds"},
		{"queueOldest: {tags: {gpu: {seconds: 600, for: 5m}}}", "queueOldest.tags.gpu.for: unknown key; there are seconds"},
		{"extraLabels: [tags]", "extraLabels[0]: \"tags\" cannot be a label"},
		{"job: a\njob: b", "job"},
		{"- job", "the file: want an object"},
		{"job: a\n---\njob: b", "more than one YAML document"},
		{"job: [", "mine.yml: yaml"},
	} {
		_, err := Render(Prometheus, "mine.yml", []byte(c.values))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.values, err, c.want)
		}
	}
	_, err := Render(Prometheus, "mine.yml", []byte("job: 7\nalert: {}\naggregateAbove: many"))
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("three wrong values: %v", err)
	}
	if _, err := Render("helm", "", nil); err == nil {
		t.Error("a format that is none is taken")
	}
	for _, values := range []string{"", "# nothing\n", "---\n", "alerts: {}\n"} {
		if got, err := Render(Prometheus, "mine.yml", []byte(values)); err != nil || !bytes.Equal(got, read(t, rulesFile)) {
			t.Errorf("%q: not the defaults (%v)", values, err)
		}
	}
}

// TestEveryKnob: each number and text of values.yml is used by the template, so
// that changing it changes the rules.
func TestEveryKnob(t *testing.T) {
	var v map[string]any
	if err := yaml.Unmarshal(defaults, &v); err != nil {
		t.Fatal(err)
	}
	n := 0
	var each func(path []string, v any)
	each = func(path []string, v any) {
		if m, ok := v.(map[string]any); ok {
			for _, k := range sorted(m) {
				each(append(slices.Clone(path), k), m[k])
			}
			return
		}
		key := path[len(path)-1]
		if path[0] == "queueSLO" || strings.Contains(strings.Join(path, "."), "QueueSLO") || key == "extraLabels" || key == "additionalRuleLabels" {
			return // TestChangedValues
		}
		other := map[string]string{"job": "x", "clusterLabel": "c", "runbookURL": "https://x", "grafanaURL": "https://x", "fleetURL": "https://x", "severity": "other", "for": "7m", "keepFiringFor": "7m", "enabled": "false"}[key]
		if other == "" {
			other = "0.77"
			if key == "hours" || key == "days" || key == "lookbackDays" {
				other = "77"
			}
		}
		values := other
		for _, k := range slices.Backward(path) {
			values = "{" + k + ": " + values + "}"
		}
		got, err := Render(Prometheus, "", []byte(values))
		if err != nil || bytes.Equal(got, read(t, rulesFile)) {
			t.Errorf("%s changes nothing (%v)", values, err)
		}
		n++
	}
	each(nil, v)
	if n < 180 {
		t.Errorf("only %d values were tried", n)
	}
}

// TestTemplateNeedsNoFunctions: Helm renders the same file, and has more functions
// than Go, which must not creep in; nor do the numbers look different there.
func TestTemplateNeedsNoFunctions(t *testing.T) {
	if _, err := template.New("").Parse(source); err != nil {
		t.Error(err)
	}
	if m := regexp.MustCompile(`\d\.?\d*e[+-]\d`).FindAllString(string(read(t, rulesFile)), -1); m != nil {
		t.Errorf("numbers in another notation: %q", m)
	}
}

// TestGroupsAreSmall: Mimir takes 20 rules in a group unless its limit is raised.
func TestGroupsAreSmall(t *testing.T) {
	raw, err := Render(Mimir, "values.yml", read(t, "tests/slo/values.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var f ruleFile
	if err := yaml.Unmarshal(raw, &f); err != nil || len(f.Groups) < 10 {
		t.Fatalf("%d groups: %v", len(f.Groups), err)
	}
	for _, g := range f.Groups {
		if len(g.Rules) > 20 {
			t.Errorf("%s has %d rules", g.Name, len(g.Rules))
		}
	}
}

// checkRow expands the address of an alert's row as Prometheus does: for one runner or
// tag, and for the aggregate of many, which has neither label and must not lead to the
// page of no runner.
func checkRow(t *testing.T, r rule) {
	t.Helper()
	url := r.Annotations["fleet_url"]
	if url == "" {
		return
	}
	const page = "https://runners.example.org/fleet-exporter/fleet"
	labels := map[string]string{"gitlab": "a&b", "runner_type": "group_type"}
	expand := func() string {
		tmpl, err := template.New("").Option("missingkey=zero").Parse("{{ $labels := . }}" + url)
		if err != nil {
			t.Fatalf("%s: %v", r.Alert, err)
		}
		var out strings.Builder
		if err := tmpl.Execute(&out, labels); err != nil {
			t.Fatalf("%s: %v", r.Alert, err)
		}
		return out.String()
	}
	many := expand()
	if !strings.HasPrefix(many, page+"?gitlab=a%26b") {
		t.Errorf("%s: about many it leads to %s", r.Alert, many)
	}
	labels["runner_id"], labels["tag"] = "7", "c++"
	one := expand()
	if strings.Contains(r.Annotations["dashboard_url"], "var-runner=") && one != page+"/runner?gitlab=a%26b&id=7" {
		t.Errorf("%s: about runner 7 it leads to %s", r.Alert, one)
	}
	if strings.Contains(r.Annotations["dashboard_url"], "var-runner_type=") && !strings.HasSuffix(one, "&type=group_type") {
		t.Errorf("%s: about a type it leads to %s", r.Alert, one)
	}
	if strings.Contains(r.Annotations["dashboard_url"], "var-tag=") && !strings.HasSuffix(one, "&tag=c%2B%2B") {
		t.Errorf("%s: about a tag it leads to %s", r.Alert, one)
	}
}
