//go:build ship

package alerts

import (
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"
)

const debian = "apt-get install prometheus prometheus-alertmanager"

// TestShipPromtoolAgreesWithAllRules has all rules in each case: a rule that is not
// named there, and yet in the way, would show.
func TestShipPromtoolAgreesWithAllRules(t *testing.T) {
	promtool(t, tool(t, tools+"/promtool", "make tools"), false)
}

// TestShipOldestPromtool tries the rules with the oldest Prometheus that has
// keep_firing_for, 2.42 as Debian 12 ships it. It evaluates all rules at each step
// of each case, several times as slowly as a release of today: narrowed, minutes
// become seconds.
func TestShipOldestPromtool(t *testing.T) {
	promtool(t, tool(t, "/usr/bin/promtool", debian), true)
}

// TestShipOldestAmtool: Alertmanager 0.25.
func TestShipOldestAmtool(t *testing.T) {
	run(t, tool(t, "/usr/bin/amtool", debian), "check-config", routingFile)
}

// operator is the Go module that the definition of PrometheusRule is taken from.
const operator = "github.com/prometheus-operator/prometheus-operator@v0.85.0"

// TestShipPrometheusRuleDefinition holds the manifest to the operator's own
// definition, as strictly as kubectl --validate=strict.
func TestShipPrometheusRuleDefinition(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", operator).Output()
	if err != nil {
		t.Fatal(err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		t.Fatal(err)
	}
	var crd struct {
		Spec struct {
			Group    string
			Names    struct{ Kind string }
			Versions []struct {
				Name   string
				Schema struct {
					OpenAPIV3Schema map[string]any `yaml:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(read(t, filepath.Join(module.Dir, "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml")), &crd); err != nil {
		t.Fatal(err)
	}
	v := crd.Spec.Versions[0]
	manifest := func() map[string]any {
		var m map[string]any
		if err := yaml.Unmarshal(read(t, manifestFile), &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := manifest()
	if m["apiVersion"] != crd.Spec.Group+"/"+v.Name || m["kind"] != crd.Spec.Names.Kind {
		t.Errorf("the manifest is a %v %v, the definition is of %s/%s %s", m["apiVersion"], m["kind"], crd.Spec.Group, v.Name, crd.Spec.Names.Kind)
	}
	for _, wrong := range conform(v.Schema.OpenAPIV3Schema, m, "") {
		t.Error(wrong)
	}

	// What checks all that must see what is wrong.
	rule := func(m map[string]any) map[string]any {
		group := m["spec"].(map[string]any)["groups"].([]any)[0].(map[string]any)
		return group["rules"].([]any)[0].(map[string]any)
	}
	for what, spoil := range map[string]func(m map[string]any){
		"a key that is not known": func(m map[string]any) { rule(m)["exprs"] = "1" },
		"a duration":              func(m map[string]any) { rule(m)["for"] = "1.5h" },
		"a number as a label":     func(m map[string]any) { rule(m)["labels"] = map[string]any{"severity": 1} },
		"a key that is missing":   func(m map[string]any) { delete(rule(m), "expr") },
		"a list":                  func(m map[string]any) { rule(m)["expr"] = []any{"1"} },
	} {
		m := manifest()
		spoil(m)
		if len(conform(v.Schema.OpenAPIV3Schema, m, "")) != 1 {
			t.Errorf("%s is not seen", what)
		}
	}
}

// conform tells where a value is not as its schema says. It knows the keywords
// that the definition uses, and tells of any other.
func conform(schema map[string]any, v any, path string) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, path+": "+fmt.Sprintf(format, args...)) }
	properties, _ := schema["properties"].(map[string]any)
	object, _ := v.(map[string]any)
	list, _ := v.([]any)
	text, isText := v.(string)
	for _, k := range slices.Sorted(maps.Keys(schema)) {
		switch k {
		case "description", "properties", "x-kubernetes-int-or-string", "x-kubernetes-list-type":
		case "type":
			is := map[string]bool{"object": object != nil, "array": list != nil, "string": isText}
			_, is["integer"] = v.(int)
			if !is[schema[k].(string)] {
				say("%v is no %s", v, schema[k])
			}
		case "required":
			for _, name := range schema[k].([]any) {
				if _, ok := object[name.(string)]; !ok {
					say("lacks %s", name)
				}
			}
		case "pattern":
			if !regexp.MustCompile(schema[k].(string)).MatchString(text) {
				say("%q does not match %s", text, schema[k])
			}
		case "minLength":
			if len(text) < schema[k].(int) {
				say("%q is too short", text)
			}
		case "items":
			for i, item := range list {
				wrong = append(wrong, conform(schema[k].(map[string]any), item, fmt.Sprintf("%s[%d]", path, i))...)
			}
		case "additionalProperties":
			for name, value := range object {
				wrong = append(wrong, conform(schema[k].(map[string]any), value, path+"."+name)...)
			}
		case "anyOf":
			if !slices.ContainsFunc(schema[k].([]any), func(one any) bool { return len(conform(one.(map[string]any), v, path)) == 0 }) {
				say("%v is none of %v", v, schema[k])
			}
		case "x-kubernetes-list-map-keys":
			seen := map[any]bool{}
			for _, item := range list {
				key := item.(map[string]any)[schema[k].([]any)[0].(string)]
				if seen[key] {
					say("%v stands twice", key)
				}
				seen[key] = true
			}
		default:
			say("the schema says %s, which this test does not know", k)
		}
	}
	for name, value := range object {
		if s, ok := properties[name].(map[string]any); ok {
			wrong = append(wrong, conform(s, value, path+"."+name)...)
		} else if properties != nil {
			say("%s is not known", name)
		}
	}
	return wrong
}
