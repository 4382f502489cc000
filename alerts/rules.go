// Package alerts renders the alert and recording rules that the exporter ships:
// one template, and the values in it that a site may change.
package alerts

import (
	"bytes"
	_ "embed" // the template and its values
	"fmt"
	"strings"
	"text/template"
)

// Format is who reads the rules.
type Format string

// Formats.
const (
	Prometheus Format = "prometheus" // a file for rule_files
	Operator   Format = "operator"   // a PrometheusRule of the Prometheus operator
	Mimir      Format = "mimir"      // a file for mimirtool rules load: with a namespace
)

// Formats are the names that a Format may have.
func Formats() []string { return []string{string(Prometheus), string(Operator), string(Mimir)} }

// namespace is the rules' namespace in Mimir.
const namespace = "gitlab-runner-fleet"

//go:embed rules.tmpl
var source string

//go:embed values.yml
var defaults []byte

// manifestHead precedes the groups in a PrometheusRule.
const manifestHead = `# A PrometheusRule as gitlab_runner_fleet_exporter --rules.print writes it: do not edit.
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

// Render writes the rules. values is YAML with what differs from the defaults
// (values.yml), name what an error calls it. The error of wrong values joins one
// for each, with its line and path.
func Render(format Format, name string, values []byte) ([]byte, error) {
	v, err := merged(name, values)
	if err != nil {
		return nil, err
	}
	// As in Helm: the template finds its values as .Values.rules, and a key that is
	// not there would be an empty string in the middle of an expression.
	t, err := template.New("rules.tmpl").Option("missingkey=error").Parse(source)
	if err != nil {
		return nil, fmt.Errorf("rules.tmpl: %w", err)
	}
	var text bytes.Buffer
	if err := t.Execute(&text, map[string]any{"Values": map[string]any{"rules": v}}); err != nil {
		return nil, fmt.Errorf("rules.tmpl: %w", err)
	}
	switch format {
	case Prometheus:
		return text.Bytes(), nil
	case Mimir:
		return append([]byte("namespace: "+namespace+"\n"), text.Bytes()...), nil
	case Operator:
		return []byte(manifest(text.String())), nil
	}
	return nil, fmt.Errorf("unknown format %q: want one of %s", format, strings.Join(Formats(), ", "))
}

// manifest puts the groups into a PrometheusRule, two columns further right.
func manifest(rules string) string {
	_, groups, _ := strings.Cut(rules, "\ngroups:\n")
	var b strings.Builder
	b.WriteString(manifestHead + "  groups:\n")
	for line := range strings.Lines(groups) {
		if strings.TrimSpace(line) != "" {
			b.WriteString("  ")
		}
		b.WriteString(line)
	}
	return b.String()
}
