package promcheck

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/promqltest"
)

type panel struct {
	Title, Type string
	Targets     []struct{ RefID, Expr, LegendFormat string }
	// What a table calls its columns.
	Transformations []struct {
		ID      string
		Options struct{ RenameByName map[string]string }
	}
}

type dashboard struct {
	Panels      []panel
	Annotations struct {
		List []struct{ Expr, TitleFormat, TextFormat, TagKeys string }
	}
	Templating struct {
		List []struct {
			Name, Type, Definition, Regex string
		}
	}
}

// withRules knows the recording rules as well, and what Prometheus and the
// client library add.
func withRules(t *testing.T) *Vocabulary {
	t.Helper()
	v := known(t)
	alert := Of("alertname", "severity")
	for _, g := range rulesOf(t).Groups {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			l, err := v.Check(r.Expr)
			if err != nil {
				t.Fatal(err)
			}
			alert = alert.plus(l.Names()...)
		}
	}
	v.Add("ALERTS_FOR_STATE", alert)
	v.Add("ALERTS", alert.plus("alertstate"))
	for _, name := range []string{
		"scrape_duration_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds", "go_memstats_heap_inuse_bytes",
	} {
		v.Add(name, Of("instance", "job"))
	}
	return v
}

// filled puts values where PromQL would not parse a variable; those in
// strings stay, and the vocabulary leaves them alone. Written with braces, a tag
// is asked of series that have none on purpose: only the .* of All fits.
func filled(expr string) string {
	return strings.NewReplacer("$__rate_interval", "5m", "$__range", "6h", `, tag=~"${tag}"`, "").Replace(expr)
}

var template = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)

// TestDashboardQueriesNameWhatExists holds each expression of the dashboards to the metrics and
// labels there are, each legend and column to the labels of its expression, and
// all but the exporter's own to numbers that two processes do not double.
func TestDashboardQueriesNameWhatExists(t *testing.T) {
	files, err := filepath.Glob("../../dashboards/*.json")
	if err != nil || len(files) != 6 {
		t.Fatalf("dashboards %v (%v)", files, err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			raw, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var d dashboard
			if err := json.Unmarshal(raw, &d); err != nil {
				t.Fatal(err)
			}
			v := withRules(t)
			for _, p := range d.Panels {
				checkPanel(t, v, p, filepath.Base(f) == "exporter.json")
			}
			for _, a := range d.Annotations.List {
				if a.Expr == "" {
					continue
				}
				l, err := v.Check(filled(a.Expr))
				if err != nil {
					t.Errorf("annotation: %v", err)
				}
				for _, m := range template.FindAllStringSubmatch(a.TitleFormat+a.TextFormat+"{{"+a.TagKeys+"}}", -1) {
					if !l[m[1]] {
						t.Errorf("annotation names the label %s", m[1])
					}
				}
			}
			for _, q := range d.Templating.List {
				checkVariable(t, v, q.Name, q.Type, q.Definition, q.Regex)
			}
		})
	}
}

func checkPanel(t *testing.T, v *Vocabulary, p panel, instances bool) {
	t.Helper()
	columns := Of("Time", "Value")
	have := Labels{}
	for i, q := range p.Targets {
		l, err := v.Check(filled(q.Expr))
		if err != nil {
			t.Errorf("%s %s: %v", p.Title, q.RefID, err)
			continue
		}
		for _, m := range template.FindAllStringSubmatch(q.LegendFormat, -1) {
			if !l[m[1]] {
				t.Errorf("%s %s: the legend names %s, the series have %v", p.Title, q.RefID, m[1], l.Names())
			}
		}
		// Some alerts are about one process.
		if l["instance"] && !instances && !strings.Contains(q.Expr, "ALERTS") || l["shard"] {
			t.Errorf("%s %s: a line for each process: %v", p.Title, q.RefID, l.Names())
		}
		columns = columns.plus(l.Names()...).plus("Value #" + q.RefID)
		// Rows of several queries meet by the labels that all of them have; the first
		// makes the rows, and may have more.
		if i == 0 {
			have = l
		}
		if p.Type == "table" && slices.ContainsFunc(l.Names(), func(n string) bool { return !have[n] }) {
			t.Errorf("%s %s: labels %v, the first query has %v: no row would be whole", p.Title, q.RefID, l.Names(), have.Names())
		}
	}
	for _, tr := range p.Transformations {
		for from := range tr.Options.RenameByName {
			if !columns[from] {
				t.Errorf("%s: there is no column %q, only %v", p.Title, from, columns.Names())
			}
		}
	}
}

var labelValues = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)

func checkVariable(t *testing.T, v *Vocabulary, name, kind, definition, regex string) {
	t.Helper()
	if kind != "query" {
		return
	}
	if m := labelValues.FindStringSubmatch(definition); m != nil {
		l, err := v.Check(m[1])
		if err != nil || !l[m[2]] {
			t.Errorf("$%s: %v, labels %v", name, err, l.Names())
		}
		return
	}
	expr := strings.TrimSuffix(strings.TrimPrefix(definition, "query_result("), ")")
	// Two metrics in one selector: a runner without tags stands in the second only.
	const both = `{__name__=~"gitlab_runner_fleet_runner_tag_info|gitlab_runner_fleet_runner_paused", `
	if name == "runner" && strings.Count(expr, both) != 1 {
		t.Errorf("$%s: %s", name, expr)
	}
	if _, err := v.Check("gitlab_runner_fleet_runner_paused"); err != nil {
		t.Error(err)
	}
	l, err := v.Check(strings.Replace(expr, both, "gitlab_runner_fleet_runner_tag_info{", 1))
	if err != nil {
		t.Errorf("$%s: %v", name, err)
	}
	for _, m := range regexp.MustCompile(`(\w+)="\(`).FindAllStringSubmatch(regex, -1) {
		if !l[m[1]] {
			t.Errorf("$%s: the regex reads %s of %v", name, m[1], l.Names())
		}
	}
}

// TestStatusOfTwoReplicas: two processes that read a poll apart differ for a
// moment. Their codes must not add up to a third status.
func TestStatusOfTwoReplicas(t *testing.T) {
	raw, err := os.ReadFile("../../dashboards/runner.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(d.Panels, func(p panel) bool { return p.Title == "Status" && p.Type == "stat" })
	if i < 0 {
		t.Fatal("no status")
	}
	expr := strings.NewReplacer("$gitlab", "corp", "$runner", "7").Replace(d.Panels[i].Targets[0].Expr)
	statuses := []string{"online", "offline", "stale", "never_contacted"}
	for a := range statuses {
		for b := range statuses {
			var s strings.Builder
			s.WriteString("load 1m\n  gitlab_runner_fleet_up{gitlab=\"corp\",instance=\"0\"} 1\n")
			for instance, now := range []int{a, b} {
				for k, status := range statuses {
					v := 0
					if k == now {
						v = 1
					}
					fmt.Fprintf(&s, "  gitlab_runner_fleet_runner_status{gitlab=\"corp\",runner_id=\"7\",instance=\"%d\",status=%q} %d\n", instance, status, v)
				}
			}
			fmt.Fprintf(&s, "\neval instant at 0 %s\n  {} %d\n", expr, max(a, b)+1)
			promqltest.RunTest(t, s.String(), promqltest.NewTestEngine(t, false, 0, 1000))
		}
	}
}
