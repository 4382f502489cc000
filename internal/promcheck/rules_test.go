package promcheck

import (
	"bytes"
	"os"
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

// TestRules holds each rule to the metrics and labels there are, and each text
// to the labels that its alert has. Recording rules are known from where they
// stand on, since a group is evaluated in order.
func TestRules(t *testing.T) {
	raw, err := os.ReadFile("../../alerts/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []rule
		}
	}
	if err := yaml.NewDecoder(bytes.NewReader(raw)).Decode(&file); err != nil {
		t.Fatal(err)
	}
	v := New()
	rules := 0
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			rules++
			name := r.Record + r.Alert
			l, err := v.Check(r.Expr)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for _, n := range []string{"instance", "job", "shard"} {
				if r.Record != "" && l[n] {
					t.Errorf("%s: has the label %s: two processes that watch one GitLab would count twice", name, n)
				}
			}
			if r.Record != "" {
				level, _, _ := strings.Cut(r.Record, ":")
				want := strings.Join(l.Names(), " ")
				have := strings.Join(levelLabels(level).Names(), " ")
				if strings.HasSuffix(r.Record, ":gitlab_runner_fleet_runner_info:max") {
					have = strings.Join(levelLabels(level).plus("description", "owner", "runner_type").Names(), " ")
				}
				if want != have {
					t.Errorf("%s: the level says %q, the series have %q", name, have, want)
				}
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
	if rules < 50 {
		t.Errorf("only %d rules were read", rules)
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
