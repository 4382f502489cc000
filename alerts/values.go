package alerts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// bounds are the buckets of job_queued_duration_seconds: a promise about any
// other time cannot be measured.
var bounds = []float64{1, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200}

var (
	labelName    = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
	severityName = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)
	address      = regexp.MustCompile(`^[^\s'"{}\\` + "`" + `]+[^\s'"{}\\/` + "`" + `]$`)
	// tagBlanks are what a single tag may have, by where it stands.
	tagBlanks = map[string]map[string]any{
		"queueSLO.tags":    {"seconds": 300.0, "objective": 0.95},
		"queueOldest.tags": {"seconds": 3600.0},
	}
)

// reserved are labels of the rules themselves, which a site cannot use for its own.
var reserved = []string{"alertname", "gitlab", "instance", "job", "shard", "severity", "tag", "tags", "runner_id", "runner_type", "problem", "stage", "reason", "le"}

// merged are the defaults with the given values in their place.
func merged(name string, values []byte) (map[string]any, error) {
	var v map[string]any
	if err := yaml.Unmarshal(defaults, &v); err != nil {
		return nil, fmt.Errorf("values.yml: %w", err)
	}
	v = plain(v).(map[string]any)
	for _, a := range v["alerts"].(map[string]any) {
		if a := a.(map[string]any); a["keepFiringFor"] == nil {
			a["keepFiringFor"] = "" // each alert may have it
		}
	}
	root, err := document(name, values)
	if err != nil || root == nil {
		return v, err
	}
	m := merger{name: name}
	m.object(root, v, "")
	if len(m.errs) == 0 {
		m.budgets(root, v["queueSLO"].(map[string]any))
	}
	return v, errors.Join(m.errs...)
}

// plain makes each number a float64, as Helm has them.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			v[k] = plain(x)
		}
	case int:
		return float64(v)
	}
	return v
}

// document is the content of a YAML file; nil where it is empty.
func document(name string, values []byte) (*yaml.Node, error) {
	var doc, next yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(values))
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := d.Decode(&next); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: more than one YAML document", name)
	}
	root := doc.Content[0]
	if root.Tag == "!!null" {
		return nil, nil
	}
	return root, nil
}

// merger puts values in the place of defaults and collects what is wrong.
type merger struct {
	name string
	errs []error
}

func (m *merger) fail(n *yaml.Node, path, format string, args ...any) {
	if path == "" {
		path = "the file"
	}
	m.errs = append(m.errs, fmt.Errorf("%s:%d: %s: %s", m.name, n.Line, path, fmt.Sprintf(format, args...)))
}

// resolve follows an alias to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// pairs calls f for each key of an object, each once.
func (m *merger) pairs(n *yaml.Node, path string, f func(key, value *yaml.Node, path string)) {
	if n = resolve(n); n.Kind != yaml.MappingNode {
		m.fail(n, path, "want an object, have %s", kind(n))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], resolve(n.Content[i+1])
		at := strings.TrimPrefix(path+"."+key.Value, ".")
		switch {
		case key.Tag == "!!merge":
			m.fail(key, path, "merge keys (<<) are not supported")
		case seen[key.Value]:
			m.fail(key, at, "given twice")
		default:
			f(key, value, at)
		}
		seen[key.Value] = true
	}
}

// object merges one into its default, whose keys are all there are.
func (m *merger) object(n *yaml.Node, into map[string]any, path string) {
	m.pairs(n, path, func(key, value *yaml.Node, at string) {
		have, ok := into[key.Value]
		if !ok {
			m.fail(key, at, "unknown key; there are %s", strings.Join(sorted(into), ", "))
			return
		}
		if at == "additionalRuleLabels" {
			into[key.Value] = m.labels(value, at)
			return
		}
		if blank := tagBlanks[at]; blank != nil {
			into[key.Value] = m.queueTags(value, at, blank)
			return
		}
		switch have := have.(type) {
		case map[string]any:
			m.object(value, have, at)
		case []any:
			into[key.Value] = m.labelNames(value, at)
		default:
			if v, ok := m.scalar(value, have, key.Value, at); ok {
				into[key.Value] = v
			}
		}
	})
}

// scalar reads a value of the default's type; false where it is none.
func (m *merger) scalar(n *yaml.Node, have any, key, path string) (any, bool) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		m.fail(n, path, "want %s, have %s", typeName(have), kind(n))
		return nil, false
	}
	before := len(m.errs)
	var out any
	switch have.(type) {
	case bool:
		var v bool
		if n.Tag != "!!bool" || n.Decode(&v) != nil {
			m.fail(n, path, "want true or false, have %q", n.Value)
		}
		out = v
	case float64:
		var v float64
		if n.Tag != "!!int" && n.Tag != "!!float" || n.Decode(&v) != nil {
			m.fail(n, path, "want a number, have %q", n.Value)
			break
		}
		m.number(n, key, path, v)
		out = v
	default:
		if n.Tag != "!!str" && key != "for" && key != "keepFiringFor" {
			m.fail(n, path, "want text, have %s", kind(n))
			break
		}
		m.text(n, key, path)
		out = n.Value
	}
	return out, len(m.errs) == before
}

// number checks what its key's name says of a number.
func (m *merger) number(n *yaml.Node, key, path string, v float64) {
	share := key == "objective" || strings.HasPrefix(key, "ratio")
	switch {
	case math.IsNaN(v) || v < 0 || v >= 1e6:
		m.fail(n, path, "%s is out of range: want a number from 0 to below 1000000", n.Value)
	case share && (v <= 0 || v >= 1):
		m.fail(n, path, "%s is no share: want a number between 0 and 1", n.Value)
	case strings.HasPrefix(path, "queueSLO") && key == "seconds" && !slices.Contains(bounds, v):
		m.fail(n, path, "%s is no bound of job_queued_duration_seconds: want one of %s", n.Value, strings.Trim(fmt.Sprint(bounds), "[]"))
	case (key == "hours" || key == "days" || key == "lookbackDays") && (v != math.Trunc(v) || v < 1):
		// They stand in range selectors, which take whole numbers.
		m.fail(n, path, "%s: want a whole number of 1 or more", n.Value)
	}
}

// text checks what its key's name says of a text.
func (m *merger) text(n *yaml.Node, key, path string) {
	switch key {
	case "for", "keepFiringFor":
		if _, err := model.ParseDuration(n.Value); err != nil {
			m.fail(n, path, "%q is no duration such as 15m or 1d", n.Value)
		}
	case "severity":
		if !severityName.MatchString(n.Value) {
			m.fail(n, path, "%q is no severity: want letters, digits, - and _", n.Value)
		}
	case "job":
		if _, err := regexp.Compile("^(?s:" + n.Value + ")$"); err != nil || n.Value == "" {
			m.fail(n, path, "%q is no regular expression", n.Value)
		}
	case "clusterLabel":
		if n.Value != "" {
			m.labelName(n, path)
		}
	case "runbookURL", "grafanaURL", "fleetURL":
		if key == "fleetURL" && n.Value == "" {
			return
		}
		if !address.MatchString(n.Value) {
			m.fail(n, path, "%q is no address without spaces, quotes, braces and a slash at the end", n.Value)
		}
	}
}

func (m *merger) labelName(n *yaml.Node, path string) {
	if !labelName.MatchString(n.Value) || strings.HasPrefix(n.Value, "__") || slices.Contains(reserved, n.Value) {
		m.fail(n, path, "%q cannot be a label of yours", n.Value)
	}
}

func (m *merger) labelNames(n *yaml.Node, path string) []any {
	if n.Kind != yaml.SequenceNode {
		m.fail(n, path, "want a list of names, have %s", kind(n))
		return nil
	}
	var out []any
	for i, item := range n.Content {
		at := path + "[" + strconv.Itoa(i) + "]"
		if item = resolve(item); item.Kind != yaml.ScalarNode || item.Tag != "!!str" {
			m.fail(item, at, "want a name, have %s", kind(item))
			continue
		}
		m.labelName(item, at)
		if slices.Contains(out, any(item.Value)) {
			m.fail(item, at, "%s given twice", item.Value)
		}
		out = append(out, item.Value)
	}
	return out
}

func (m *merger) labels(n *yaml.Node, path string) map[string]any {
	out := map[string]any{}
	m.pairs(n, path, func(key, value *yaml.Node, at string) {
		m.labelName(key, at)
		if value.Kind != yaml.ScalarNode || value.Tag != "!!str" {
			m.fail(value, at, "want text, have %s", kind(value))
		}
		// Prometheus expands templates in labels too.
		if strings.Contains(value.Value, "{{") {
			m.fail(value, at, "%q is a template", value.Value)
		}
		out[key.Value] = value.Value
	})
	return out
}

func (m *merger) queueTags(n *yaml.Node, path string, blanks map[string]any) map[string]any {
	out := map[string]any{}
	m.pairs(n, path, func(key, value *yaml.Node, at string) {
		before := len(m.errs)
		one := map[string]any{}
		m.pairs(value, at, func(k, x *yaml.Node, at string) {
			blank, ok := blanks[k.Value]
			if !ok {
				m.fail(k, at, "unknown key; there are %s", strings.Join(sorted(blanks), ", "))
				return
			}
			if v, ok := m.scalar(x, blank, k.Value, at); ok {
				one[k.Value] = v
			}
		})
		if len(m.errs) == before && len(one) < len(blanks) {
			m.fail(value, at, "needs all of %s", strings.Join(sorted(blanks), ", "))
		}
		out[key.Value] = one
	})
	return out
}

// budgets refuses an objective of which no burn rate can be reached: even with
// all jobs late the alert would be silent.
func (m *merger) budgets(root *yaml.Node, slo map[string]any) {
	if slo["enabled"] != true {
		return
	}
	check := func(path string, objective any) {
		for _, factor := range []string{"fastBurn", "slowBurn"} {
			if most := slo[factor].(float64) * (1 - objective.(float64)); most >= 1 {
				m.fail(root, path, "with %s: %v the alert would need %.2f times as many late jobs as there are: raise objective or lower %s", factor, slo[factor], most, factor)
			}
		}
	}
	check("queueSLO.objective", slo["objective"])
	tags := slo["tags"].(map[string]any)
	for _, tag := range sorted(tags) {
		check("queueSLO.tags."+tag+".objective", tags[tag].(map[string]any)["objective"])
	}
}

func sorted(m map[string]any) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func typeName(v any) string {
	switch v.(type) {
	case bool:
		return "true or false"
	case float64:
		return "a number"
	}
	return "text"
}

func kind(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "an object"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "nothing"
	}
	return strconv.Quote(n.Value)
}
