package alerts

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"
)

var identifier = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*`)

// narrow writes each case of a file of promtool's as a file of its own, beside a
// rules file with what its expectations name and what that rests on.
func narrow(t *testing.T, path string) []string {
	t.Helper()
	var file struct {
		RuleFiles          []string    `yaml:"rule_files"`
		EvaluationInterval string      `yaml:"evaluation_interval"`
		GroupEvalOrder     []string    `yaml:"group_eval_order,omitempty"`
		Tests              []yaml.Node `yaml:"tests"`
	}
	load(t, path, &file)
	var all ruleFile
	for _, name := range file.RuleFiles {
		var f ruleFile
		load(t, filepath.Join(filepath.Dir(path), name), &f)
		all.Groups = append(all.Groups, f.Groups...)
	}
	dir := t.TempDir()
	var out []string
	for i := range file.Tests {
		rules, kept := needed(t, all, &file.Tests[i])
		one := file
		one.RuleFiles, one.Tests = []string{fmt.Sprintf("%d.rules.yml", i)}, file.Tests[i:i+1]
		one.GroupEvalOrder = slices.DeleteFunc(slices.Clone(file.GroupEvalOrder), func(name string) bool { return !slices.Contains(kept, name) })
		out = append(out, filepath.Join(dir, fmt.Sprintf("%d.yml", i)))
		for name, value := range map[string]any{out[i]: one, filepath.Join(dir, one.RuleFiles[0]): rules} {
			text, err := yaml.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(out) < 2 {
		t.Fatalf("%s: %d cases", path, len(out))
	}
	return out
}

// needed are the rules that a case names, with those that their expressions and
// annotations name, and so on; and the groups that these are in.
func needed(t *testing.T, all ruleFile, test *yaml.Node) (rules ruleFile, groups []string) {
	t.Helper()
	var expects struct {
		Alerts []struct{ Alertname string } `yaml:"alert_rule_test"`
		Exprs  []struct{ Expr string }      `yaml:"promql_expr_test"`
	}
	if err := test.Decode(&expects); err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{} // of the rules, by name
	for _, g := range all.Groups {
		for _, r := range g.Rules {
			text, err := yaml.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			texts[r.Record+r.Alert] += string(text)
		}
	}
	names := map[string]bool{}
	var add func(text string)
	add = func(text string) {
		for _, name := range identifier.FindAllString(text, -1) {
			if more, rule := texts[name]; rule && !names[name] {
				names[name] = true
				add(more)
			}
		}
	}
	for _, a := range expects.Alerts {
		if _, rule := texts[a.Alertname]; !rule {
			t.Errorf("no alert is called %s", a.Alertname)
		}
		add(a.Alertname)
	}
	for _, e := range expects.Exprs {
		add(e.Expr)
	}
	if len(names) == 0 {
		t.Fatal("a case that names no rule")
	}
	for _, g := range all.Groups {
		g.Rules = slices.DeleteFunc(slices.Clone(g.Rules), func(r rule) bool { return !names[r.Record+r.Alert] })
		if len(g.Rules) > 0 {
			rules.Groups, groups = append(rules.Groups, g), append(groups, g.Name)
		}
	}
	return rules, groups
}
