package promcheck

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

type rule struct {
	Record, Alert, Expr string
	Labels, Annotations map[string]string
}

// templateLabel is a label that a template names.
var templateLabel = regexp.MustCompile(`\$labels\.([a-zA-Z_]\w*)`)

type ruleFile struct {
	Groups []struct {
		Name  string
		Rules []rule
	}
}

func rules(t *testing.T) ruleFile {
	t.Helper()
	raw, err := os.ReadFile("../../alerts/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var f ruleFile
	if err := yaml.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestRulesNameWhatExists holds each rule to the metrics and labels there are, and each text
// to the labels that its alert has. Recording rules are known from where they
// stand on, since a group is evaluated in order.
func TestRulesNameWhatExists(t *testing.T) {
	v := New()
	n := 0
	for _, g := range rules(t).Groups {
		for _, r := range g.Rules {
			n++
			name := r.Record + r.Alert
			l, err := v.Check(r.Expr)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if r.Record != "" {
				recorded(t, r.Record, l)
				v.Add(r.Record, l)
			}
			for k, text := range r.Annotations {
				for _, m := range templateLabel.FindAllStringSubmatch(text, -1) {
					if !l[m[1]] {
						t.Errorf("%s: %s names the label %s, the alert has only %s", name, k, m[1], strings.Join(l.Names(), ", "))
					}
				}
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d rules were read", n)
	}
}

// recorded checks that the level in a recording rule's name is what its series
// have, and that two processes which watch one GitLab are not told apart.
func recorded(t *testing.T, name string, l Labels) {
	t.Helper()
	for _, n := range []string{"instance", "job", "shard"} {
		if l[n] {
			t.Errorf("%s: has the label %s: two processes that watch one GitLab would count twice", name, n)
		}
	}
	level, _, _ := strings.Cut(name, ":")
	want := levelLabels(level)
	if strings.HasSuffix(name, ":gitlab_runner_fleet_runner_info:max") {
		want = want.plus("description", "owner", "runner_type")
	}
	if a, b := strings.Join(want.Names(), " "), strings.Join(l.Names(), " "); a != b {
		t.Errorf("%s: the level says %q, the series have %q", name, a, b)
	}
}

// TestRunbookQueries holds the queries that runbooks begin with to the same.
func TestRunbookQueries(t *testing.T) {
	v := New()
	for _, g := range rules(t).Groups {
		for _, r := range g.Rules {
			if r.Record == "" {
				continue
			}
			l, err := v.Check(r.Expr)
			if err != nil {
				t.Fatal(err)
			}
			v.Add(r.Record, l)
		}
	}
	files, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no runbooks: %v", err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f) //nolint:gosec // a file of ours
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(raw), "```promql\n")
		block, _, ok := strings.Cut(rest, "```")
		if !ok {
			t.Errorf("%s: no queries", f)
		}
		for query := range strings.Lines(block) {
			if _, err := v.Check(query); err != nil {
				t.Errorf("%s: %s%v", f, query, err)
			}
		}
	}
}

// levelLabels are the labels that the level of a recording rule's name stands for.
func levelLabels(level string) Labels {
	set := Labels{}
	for _, name := range []string{"gitlab", "failure_class", "runner_type", "paused", "version", "le"} {
		if strings.Contains("_"+level+"_", "_"+name+"_") {
			set[name] = true
		}
	}
	rest := "_" + strings.ReplaceAll(level, "runner_type", "") + "_"
	rest = strings.ReplaceAll(rest, "failure_class", "")
	for word, name := range map[string]string{"runner": "runner_id", "tag": "tag", "status": "status"} {
		if strings.Contains(rest, "_"+word+"_") {
			set[name] = true
		}
	}
	return set
}
