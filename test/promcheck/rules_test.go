package promcheck

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
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

func rulesOf(tb testing.TB) ruleFile {
	tb.Helper()
	raw, err := os.ReadFile("../../alerts/rules.yml")
	if err != nil {
		tb.Fatal(err)
	}
	var f ruleFile
	if err := yaml.Unmarshal(raw, &f); err != nil {
		tb.Fatal(err)
	}
	return f
}

// TestRulesNameWhatExists holds each rule to the metrics and labels there are, and each text
// to the labels that its alert has. Recording rules are known from where they
// stand on, since a group is evaluated in order.
func TestRulesNameWhatExists(t *testing.T) {
	v := New()
	n := 0
	for _, g := range rulesOf(t).Groups {
		for _, r := range g.Rules {
			n++
			name := r.Record + r.Alert
			remembers(v, r)
			l, err := v.Check(r.Expr)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if r.Record != "" {
				for k := range r.Labels {
					l = l.plus(k)
				}
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

// affected are the tags that alerts are about. A rule of an earlier group looks at
// what it was a minute ago.
const affected = "gitlab_tag_runner_type_problem:gitlab_runner_fleet_tags:affected"

// remembers makes recording rules known where a rule looks at their last value: its
// own, or affected.
func remembers(v *Vocabulary, r rule) {
	for _, name := range []string{r.Record, affected} {
		if name != "" && strings.Contains(r.Expr, name) {
			level, _, _ := strings.Cut(name, ":")
			v.Add(name, levelLabels(level))
		}
	}
}

// recorded checks that the level in a recording rule's name is what its series
// have, and that two processes which watch one GitLab are not told apart.
func recorded(t *testing.T, name string, l Labels) {
	t.Helper()
	for _, n := range []string{"instance", "job", "shard"} {
		// Those that choose a process are about processes.
		if l[n] && !strings.Contains(name, "_"+n) {
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
	v := known(t)
	files, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no runbooks: %v", err)
	}
	for _, f := range files {
		for _, query := range runbookQueries(t, f) {
			if _, err := v.Check(query); err != nil {
				t.Errorf("%s: %s: %v", f, query, err)
			}
		}
	}
}

// textQuery is a query in an annotation, as printf makes it.
var textQuery = regexp.MustCompile(`printf ("(?:[^"\\]|\\.)*\{(?:[^"\\]|\\.)*") ([^|}]*)\| query`)

// TestQueriesInTexts holds the queries that the texts of alerts run to the same.
func TestQueriesInTexts(t *testing.T) {
	v := known(t)
	found := 0
	for _, g := range rulesOf(t).Groups {
		for _, r := range g.Rules {
			for _, text := range r.Annotations {
				if n := strings.Count(text, "| query"); n != len(textQuery.FindAllString(text, -1)) {
					t.Errorf("%s: not each of its %d queries was found", r.Alert, n)
				}
				for _, m := range textQuery.FindAllStringSubmatch(text, -1) {
					found++
					query, err := strconv.Unquote(m[1])
					if err != nil {
						t.Fatal(err)
					}
					if args := len(strings.Fields(m[2])); args != strings.Count(query, "%q") {
						t.Errorf("%s: %s has %d values", r.Alert, query, args)
					}
					if _, err := v.Check(strings.ReplaceAll(query, "%q", `"x"`)); err != nil && !strings.Contains(err.Error(), `fits`) {
						t.Errorf("%s: %s: %v", r.Alert, query, err)
					}
				}
			}
		}
	}
	if found < 30 {
		t.Errorf("only %d queries were found", found)
	}
}

// levelLabels are the labels that the level of a recording rule's name stands for.
func levelLabels(level string) Labels {
	set := Labels{}
	for _, name := range []string{"gitlab", "failure_class", "runner_type", "paused", "version", "le", "instance", "shard", "scope", "path", "stage", "reason", "health", "problem", "tags"} {
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
