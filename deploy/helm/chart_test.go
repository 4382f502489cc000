// Package helm holds the chart to the repository: a chart cannot reach outside
// its folder, so the template of the rules, their values and the dashboards
// stand in it a second time.
//
//	go test ./deploy/helm -update
//
// writes them anew.
package helm

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write what the chart takes from elsewhere in the repository, and the expected files")

const (
	chart  = "gitlab-runner-fleet-exporter"
	values = "../../alerts/values.yml"
	marker = "# Below: alerts/values.yml, written here by go test ./deploy/helm -update.\nrules:\n"
)

// TestChartHoldsWhatTheRepositoryHas: an alert, a threshold or a panel that was
// changed is the same for those who install the chart.
func TestChartHoldsWhatTheRepositoryHas(t *testing.T) {
	expected(t, chart+"/files/rules.tmpl", read(t, "../../alerts/rules.tmpl"))

	dashboards, err := filepath.Glob("../../dashboards/*.json")
	if err != nil || len(dashboards) < 5 {
		t.Fatalf("dashboards %v, %v", dashboards, err)
	}
	for _, path := range dashboards {
		expected(t, chart+"/files/dashboards/"+filepath.Base(path), read(t, path))
	}
	copies, err := filepath.Glob(chart + "/files/dashboards/*")
	if err != nil || len(copies) != len(dashboards) {
		t.Errorf("the chart has %d dashboards, the repository %d: remove what is gone", len(copies), len(dashboards))
	}

	head, _, ok := strings.Cut(string(read(t, chart+"/values.yaml")), marker)
	if !ok {
		t.Fatalf("values.yaml has no line %q", marker)
	}
	var rules strings.Builder
	for line := range strings.Lines(string(read(t, values))) {
		if strings.TrimSpace(line) != "" {
			rules.WriteString("  ")
		}
		rules.WriteString(line)
	}
	expected(t, chart+"/values.yaml", []byte(head+marker+rules.String()))

	var schema map[string]any
	if err := json.Unmarshal(read(t, chart+"/values.schema.json"), &schema); err != nil {
		t.Fatal(err)
	}
	schema["properties"].(map[string]any)["rules"] = rulesSchema(t)
	text, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	expected(t, chart+"/values.schema.json", append(text, '\n'))
}

// TestSchemaHasEachValue: a key that values.yaml has and the schema has not
// would be refused, and one the other way round would be found by nobody.
func TestSchemaHasEachValue(t *testing.T) {
	var have map[string]any
	if err := yaml.Unmarshal(read(t, chart+"/values.yaml"), &have); err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(read(t, chart+"/values.schema.json"), &schema); err != nil {
		t.Fatal(err)
	}
	sameKeys(t, "", have, schema)
}

func sameKeys(t *testing.T, path string, have, schema map[string]any) {
	t.Helper()
	properties, ok := schema["properties"].(map[string]any)
	if !ok {
		return // anything that Kubernetes accepts may stand there
	}
	for key, value := range have {
		known, ok := properties[key].(map[string]any)
		if !ok {
			t.Errorf("values.schema.json lacks %s%s", path, key)
			continue
		}
		if object, ok := value.(map[string]any); ok {
			sameKeys(t, path+key+".", object, known)
		}
	}
	for key := range properties {
		if _, ok := have[key]; !ok && key != "global" && key != "keepFiringFor" {
			t.Errorf("values.yaml lacks %s%s", path, key)
		}
	}
}

// rulesSchema refuses unknown keys and wrong types among the values of the rules
// as --rules.print does.
func rulesSchema(t *testing.T) any {
	t.Helper()
	var rules map[string]any
	if err := yaml.Unmarshal(read(t, values), &rules); err != nil {
		t.Fatal(err)
	}
	schema := schemaOf(rules)
	properties := schema["properties"].(map[string]any)
	properties["additionalRuleLabels"] = map[string]any{"type": "object", "additionalProperties": map[string]any{"type": "string"}}
	slo := properties["queueSLO"].(map[string]any)["properties"].(map[string]any)
	tag := schemaOf(map[string]any{"seconds": 300, "objective": 0.95})
	tag["required"] = []string{"seconds", "objective"}
	slo["tags"] = map[string]any{"type": "object", "additionalProperties": tag}
	for _, alert := range properties["alerts"].(map[string]any)["properties"].(map[string]any) {
		alert.(map[string]any)["properties"].(map[string]any)["keepFiringFor"] = map[string]any{"type": "string"}
	}
	return schema
}

func schemaOf(v any) map[string]any {
	switch v := v.(type) {
	case bool:
		return map[string]any{"type": "boolean"}
	case int, float64:
		return map[string]any{"type": "number", "minimum": 0}
	case []any:
		return map[string]any{"type": "array", "items": map[string]any{"type": "string"}}
	case map[string]any:
		properties := map[string]any{}
		for key, value := range v {
			properties[key] = schemaOf(value)
		}
		return map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	}
	return map[string]any{"type": "string"}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// expected compares a file with what it should be, or writes it.
func expected(t *testing.T, path string, want []byte) {
	t.Helper()
	have, err := os.ReadFile(path)
	if err == nil && bytes.Equal(have, want) {
		return
	}
	if !*update {
		t.Errorf("%s is not what the repository has: run go test ./deploy/helm -update and look at the difference", path)
		return
	}
	if err := os.WriteFile(path, want, 0o644); err != nil {
		t.Fatal(err)
	}
}
