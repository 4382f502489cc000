// Package promcheck holds what is written in PromQL (rules, panels) to what the
// exporter exports: a metric that does not exist, a label that a series cannot
// have or a value that a label never takes makes an expression that is silently
// empty, which no other check finds. It is a module of its own, so that the
// exporter's go.mod stays small.
package promcheck

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"gitlab-runner-fleet-exporter/collector"
)

// Labels is the set of labels that the series of an expression may have.
type Labels map[string]bool

// Of makes a set.
func Of(names ...string) Labels {
	l := make(Labels, len(names))
	for _, n := range names {
		l[n] = true
	}
	return l
}

// Names are the labels in order.
func (l Labels) Names() []string { return slices.Sorted(maps.Keys(l)) }

func (l Labels) clone() Labels {
	if l == nil {
		return Labels{}
	}
	return maps.Clone(l)
}

func (l Labels) plus(names ...string) Labels {
	out := l.clone()
	for _, n := range names {
		out[n] = true
	}
	return out
}

// Vocabulary knows each metric with the labels of its series. It is to be used
// by one goroutine at a time.
type Vocabulary struct {
	metrics map[string]Labels
	parser  parser.Parser
}

// values are the closed sets of label values (contract: metrics); a matcher of
// equality with anything else never matches.
var values = map[string][]string{
	"runner_type":   {"instance_type", "group_type", "project_type"},
	"status":        {"online", "offline", "stale", "never_contacted", "success", "failed", "canceled", "running", "canceling"},
	"paused":        {"true", "false"},
	"failure_class": {"", "script", "infrastructure", "other"},
	"stage":         {"runners", "details", "jobs", "reconcile", "queue"},
}

// New knows the exporter's families and Prometheus's own series of a target.
func New() *Vocabulary {
	v := &Vocabulary{metrics: map[string]Labels{}, parser: parser.NewParser(parser.Options{})}
	for _, f := range collector.Families() {
		l := Of(f.Labels...).plus("instance", "job")
		if f.Group != collector.GroupExporter {
			l["shard"] = true
		}
		if f.Type != collector.Histogram {
			v.metrics[f.Name] = l
			continue
		}
		v.metrics[f.Name+"_bucket"] = l.plus("le")
		v.metrics[f.Name+"_sum"], v.metrics[f.Name+"_count"] = l, l
	}
	v.Add("up", Of("instance", "job"))
	v.Add("process_start_time_seconds", Of("instance", "job"))
	v.Add("process_resident_memory_bytes", Of("instance", "job"))
	v.Add("ALERTS", Of("alertname", "alertstate", "severity", "gitlab", "tag", "runner_id", "runner_type"))
	return v
}

// Add makes a metric known, such as that of a recording rule.
func (v *Vocabulary) Add(name string, l Labels) { v.metrics[name] = l }

// Check parses an expression and returns the labels that its result may have.
// The error tells all that cannot be: unknown metrics, labels that no series
// has where they are asked for, values that a label never takes.
func (v *Vocabulary) Check(expr string) (Labels, error) {
	e, err := v.parser.ParseExpr(expr)
	if err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	c := check{v: v}
	l := c.labels(e)
	return l, errors.Join(c.errs...)
}

type check struct {
	v    *Vocabulary
	errs []error
}

func (c *check) fail(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

// need complains about labels that are asked for and cannot be there.
func (c *check) need(where string, have Labels, names []string) {
	for _, n := range names {
		if !have[n] {
			c.fail("%s: no series has the label %q there, only %s", where, n, strings.Join(have.Names(), ", "))
		}
	}
}

// labels works out the labels of an expression's series, by the rules of
// Prometheus's engine.
func (c *check) labels(e parser.Expr) Labels {
	switch e := e.(type) {
	case *parser.VectorSelector:
		return c.selector(e)
	case *parser.MatrixSelector:
		return c.labels(e.VectorSelector)
	case *parser.SubqueryExpr:
		return c.labels(e.Expr)
	case *parser.ParenExpr:
		return c.labels(e.Expr)
	case *parser.UnaryExpr:
		return c.labels(e.Expr)
	case *parser.StepInvariantExpr:
		return c.labels(e.Expr)
	case *parser.AggregateExpr:
		return c.aggregate(e)
	case *parser.BinaryExpr:
		return c.binary(e)
	case *parser.Call:
		return c.call(e)
	}
	return Labels{} // numbers and strings
}

func (c *check) selector(e *parser.VectorSelector) Labels {
	name := e.Name
	for _, m := range e.LabelMatchers {
		if m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual {
			name = m.Value
		}
	}
	have, ok := c.v.metrics[name]
	if !ok {
		c.fail("%s: there is no metric %q", e, name)
		return Labels{}
	}
	for _, m := range e.LabelMatchers {
		if m.Name == model.MetricNameLabel {
			continue
		}
		c.need(e.String(), have, []string{m.Name})
		if set, closed := values[m.Name]; closed {
			c.value(e, m, set)
		}
		// Prometheus 3 writes le="60.0", 2 wrote le="60".
		if m.Name == "le" && m.Value != "+Inf" && (m.Type == labels.MatchEqual || m.Type == labels.MatchNotEqual) {
			c.fail("%s: the spelling of le differs between releases of Prometheus", e)
		}
	}
	return have.clone()
}

// value complains about a matcher that no value of a closed set satisfies.
// Variables of Grafana ($x) are not known before they are filled in.
func (c *check) value(e *parser.VectorSelector, m *labels.Matcher, set []string) {
	if strings.Contains(m.Value, "$") {
		return
	}
	if m.Type == labels.MatchNotEqual && m.Value != "" && !slices.Contains(set, m.Value) {
		c.fail("%s: %s is never %q", e, m.Name, m.Value)
	}
	if !slices.ContainsFunc(set, m.Matches) {
		c.fail("%s: no value of %s fits %s", e, m.Name, m)
	}
	if m.Type != labels.MatchRegexp && m.Type != labels.MatchNotRegexp {
		return
	}
	for _, v := range m.SetMatches() {
		if !slices.Contains(set, v) {
			c.fail("%s: %s is never %q", e, m.Name, v)
		}
	}
}

func (c *check) aggregate(e *parser.AggregateExpr) Labels {
	have := c.labels(e.Expr)
	if e.Param != nil {
		c.labels(e.Param)
	}
	if e.Without {
		// A target may have any label, so those taken away need not be known.
		out := have.clone()
		for _, n := range e.Grouping {
			delete(out, n)
		}
		return out
	}
	c.need(e.String(), have, e.Grouping)
	switch e.Op {
	case parser.TOPK, parser.BOTTOMK, parser.LIMITK, parser.LIMIT_RATIO:
		return have
	case parser.COUNT_VALUES:
		if s, ok := e.Param.(*parser.StringLiteral); ok {
			return Of(e.Grouping...).plus(s.Val)
		}
	}
	return Of(e.Grouping...)
}

func (c *check) binary(e *parser.BinaryExpr) Labels {
	left, right := c.labels(e.LHS), c.labels(e.RHS)
	if e.LHS.Type() != parser.ValueTypeVector {
		return right
	}
	if e.RHS.Type() != parser.ValueTypeVector {
		return left
	}
	m := e.VectorMatching
	if m.On {
		c.need(e.LHS.String(), left, m.MatchingLabels)
		c.need(e.RHS.String(), right, m.MatchingLabels)
	} else if e.Op != parser.LOR && e.Op != parser.LUNLESS {
		// Without on() only series with the same labels meet.
		l, r := left.clone(), right.clone()
		for _, n := range m.MatchingLabels {
			delete(l, n)
			delete(r, n)
		}
		if (m.Card == parser.CardOneToOne || e.Op == parser.LAND) && !maps.Equal(l, r) {
			c.fail("%s: never matches: the labels are %v and %v", e, l.Names(), r.Names())
		}
	}
	switch {
	case e.Op == parser.LOR:
		return left.plus(right.Names()...)
	case e.Op == parser.LAND, e.Op == parser.LUNLESS:
		return left
	case m.Card == parser.CardManyToOne:
		c.need(e.RHS.String(), right, m.Include)
		return left.plus(m.Include...)
	case m.Card == parser.CardOneToMany:
		c.need(e.LHS.String(), left, m.Include)
		return right.plus(m.Include...)
	case m.On:
		return Of(m.MatchingLabels...)
	}
	out := left.clone()
	for _, n := range m.MatchingLabels {
		delete(out, n)
	}
	return out
}

func (c *check) call(e *parser.Call) Labels {
	var have Labels
	for _, a := range e.Args {
		l := c.labels(a)
		if t := a.Type(); have == nil && (t == parser.ValueTypeVector || t == parser.ValueTypeMatrix) {
			have = l
		}
	}
	have = have.clone()
	switch e.Func.Name {
	case "absent", "absent_over_time":
		out := Labels{}
		arg := e.Args[0]
		if m, ok := arg.(*parser.MatrixSelector); ok {
			arg = m.VectorSelector
		}
		if s, ok := arg.(*parser.VectorSelector); ok {
			for _, m := range s.LabelMatchers {
				if m.Type == labels.MatchEqual && m.Name != model.MetricNameLabel {
					out[m.Name] = true
				}
			}
		}
		return out
	case "histogram_quantile":
		c.need(e.String(), have, []string{"le"})
		delete(have, "le")
	case "label_replace", "label_join":
		if s, ok := e.Args[1].(*parser.StringLiteral); ok {
			return have.plus(s.Val)
		}
	case "scalar", "vector", "time":
		return Labels{}
	}
	return have
}
