package graphql

import (
	"strconv"

	gql "github.com/graphql-go/graphql"
	"github.com/graphql-go/graphql/language/ast"
)

// weight is what GitLab's analyzers find out about a query before it runs.
type weight struct {
	score int
	depth int
	first int // rows of the list of runners
}

// The fields that have a resolver: it costs 1 more, and its children cost the
// more the larger the page (docs/gitlab-api.md 6.2). All other fields cost 1.
var resolvers = map[string]struct{ connection bool }{
	"Query.runners": {true}, "Group.runners": {true}, "Project.runners": {true},
	"CiRunner.managers": {true}, "CiRunner.groups": {true}, "CiRunner.jobs": {true},
	"Query.jobs": {true}, "Query.runner": {},
	"Query.group": {}, "Query.project": {}, "Query.metadata": {}, "CiRunner.ownerProject": {}, "CiRunner.jobCount": {},
}

type weigher struct {
	fragments map[string]*ast.FragmentDefinition
	vars      map[string]any
	schema    gql.Schema
	weight    weight
}

func weigh(schema gql.Schema, doc *ast.Document, op *ast.OperationDefinition, vars map[string]any) weight {
	w := &weigher{fragments: map[string]*ast.FragmentDefinition{}, vars: vars, schema: schema}
	for _, d := range doc.Definitions {
		if f, ok := d.(*ast.FragmentDefinition); ok {
			w.fragments[f.Name.Value] = f
		}
	}
	w.weight.score = w.set(op.SelectionSet, schema.QueryType(), 1)
	return w.weight
}

// set is the complexity of a selection. Validation has excluded unknown fields
// and fragments in a circle.
func (w *weigher) set(set *ast.SelectionSet, parent any, depth int) (score int) {
	if set == nil {
		return 0
	}
	for _, sel := range set.Selections {
		switch n := sel.(type) {
		case *ast.Field:
			score += w.field(n, parent, depth)
		case *ast.InlineFragment:
			score += w.set(n.SelectionSet, parent, depth)
		case *ast.FragmentSpread:
			score += w.set(w.fragments[n.Name.Value].SelectionSet, parent, depth)
		}
	}
	return score
}

func (w *weigher) field(n *ast.Field, parent any, depth int) int {
	w.weight.depth = max(w.weight.depth, depth)
	object, ok := parent.(*gql.Object)
	if !ok {
		return 0
	}
	def := object.Fields()[n.Name.Value]
	if def == nil {
		return 0 // __typename, __schema
	}
	child := w.set(n.SelectionSet, gql.GetNamed(def.Type), depth+1)
	r, ok := resolvers[object.Name()+"."+n.Name.Value]
	if !ok {
		return child + 1
	}
	score := child + 1
	size := maxPage
	for _, a := range n.Arguments {
		switch a.Name.Value {
		case "sort":
			score++
		case "search":
			score += 5
		case "first", "last":
			if v, ok := w.number(a.Value); ok {
				size = min(size, v)
			}
		}
	}
	if !r.connection {
		return score
	}
	if n.Name.Value == "runners" {
		w.weight.first = size
	}
	return int(float64(score) + float64(score)*float64(size)*0.01)
}

func (w *weigher) number(v ast.Value) (int, bool) {
	switch v := v.(type) {
	case *ast.IntValue:
		n, err := strconv.Atoi(v.Value)
		return n, err == nil
	case *ast.Variable:
		n, ok := w.vars[v.Name.Value].(float64)
		return int(n), ok
	}
	return 0, false
}
