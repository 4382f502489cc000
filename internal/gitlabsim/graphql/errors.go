package graphql

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	gql "github.com/graphql-go/graphql"
	"github.com/graphql-go/graphql/gqlerrors"
	"github.com/graphql-go/graphql/language/ast"
	"github.com/graphql-go/graphql/language/location"
	"github.com/graphql-go/graphql/language/printer"
	"github.com/graphql-go/graphql/language/source"
)

// notAvailable is GitLab's error for everything that the caller may not see.
const notAvailable = "The resource that you are attempting to access does not exist or you don't have permission to perform this action"

func tooMuch(what string, is, most int) Error {
	return Error{Message: fmt.Sprintf("Query has %s of %d, which exceeds max %s of %d", what, is, what, most)}
}

func located(e gqlerrors.FormattedError) Error {
	out := Error{Message: e.Message, Path: e.Path}
	for _, l := range e.Locations {
		out.Locations = append(out.Locations, Location{l.Line, l.Column})
	}
	return out
}

// The library's error messages.
var (
	noField    = regexp.MustCompile(`^Cannot query field "([^"]+)" on type "([^"]+)"`)
	noArgument = regexp.MustCompile(`^Unknown argument "([^"]+)" on field "([^"]+)"`)
	badValue   = regexp.MustCompile(`^Argument "([^"]+)" has invalid value`)
)

// maxErrors is how many objections to a document GitLab names at once.
const maxErrors = 5

// inGitLabsWords gives the messages, codes, places and paths of graphql-ruby: a
// client of GitLab reads those and no other library's. They are held to
// recordings of the real one.
func inGitLabsWords(errs []gqlerrors.FormattedError, schema gql.Schema, doc *ast.Document, src *source.Source) []Error {
	places := placesOf(schema, doc, src)
	// The library runs one rule after the other, graphql-ruby one node.
	slices.SortStableFunc(errs, func(a, b gqlerrors.FormattedError) int { return start(a) - start(b) })
	var out []Error
	for _, fe := range errs[:min(len(errs), maxErrors)] {
		e := located(fe)
		var at place
		if len(e.Locations) > 0 {
			at = places[e.Locations[0]]
		}
		e.Path = at.path
		switch {
		case noField.MatchString(e.Message):
			m := noField.FindStringSubmatch(e.Message)
			e.Message = fmt.Sprintf("Field '%s' doesn't exist on type '%s'", m[1], m[2])
			e.Extensions = map[string]any{"code": "undefinedField", "typeName": m[2], "fieldName": m[1]}
		case noArgument.MatchString(e.Message):
			m := noArgument.FindStringSubmatch(e.Message)
			e.Message = fmt.Sprintf("Field '%s' doesn't accept argument '%s'", at.key, m[1])
			e.Extensions = map[string]any{"code": "argumentNotAccepted", "name": at.key, "typeName": "Field", "argumentName": m[1]}
		case badValue.MatchString(e.Message):
			m := badValue.FindStringSubmatch(e.Message)
			e.Message = fmt.Sprintf("Argument '%s' on Field '%s' has an invalid value (%s). Expected type '%s'.", m[1], at.key, at.value, at.wants)
			e.Extensions = map[string]any{"code": "argumentLiteralsIncompatible", "typeName": "Field", "argumentName": m[1]}
			e.Locations = []Location{at.field}
		default:
			e.Message = firstLine(e.Message)
		}
		out = append(out, e)
	}
	return out
}

func start(e gqlerrors.FormattedError) int {
	if len(e.Locations) == 0 {
		return 0
	}
	return e.Locations[0].Line<<16 + e.Locations[0].Column
}

// place is a node of a document as GitLab's errors name it.
type place struct {
	path  []any
	key   string   // of the field: its alias, or its name
	field Location // position of the field
	value string   // of an argument
	wants string   // the argument's type
}

// placesOf finds each field, argument and value by its position.
func placesOf(schema gql.Schema, doc *ast.Document, src *source.Source) map[Location]place {
	out := map[Location]place{}
	at := func(l *ast.Location) Location {
		p := location.GetLocation(src, l.Start)
		return Location{p.Line, p.Column}
	}
	put := func(l Location, p place) {
		if _, taken := out[l]; !taken {
			out[l] = p
		}
	}
	var walk func(set *ast.SelectionSet, parent any, path []any)
	walk = func(set *ast.SelectionSet, parent any, path []any) {
		if set == nil {
			return
		}
		for _, sel := range set.Selections {
			switch n := sel.(type) {
			case *ast.Field:
				key := n.Name.Value
				if n.Alias != nil {
					key = n.Alias.Value
				}
				here := append(slices.Clip(path), key)
				p := place{path: here, key: key, field: at(n.Loc)}
				put(p.field, p)
				def := definition(parent, n.Name.Value)
				for _, a := range n.Arguments {
					p := p
					p.path, p.value = append(slices.Clip(here), a.Name.Value), fmt.Sprint(printer.Print(a.Value))
					p.wants = argumentType(def, a.Name.Value)
					put(at(a.Loc), p)
					put(at(a.Value.GetLoc()), p)
				}
				if def == nil {
					walk(n.SelectionSet, nil, here)
				} else {
					walk(n.SelectionSet, gql.GetNamed(def.Type), here)
				}
			case *ast.InlineFragment:
				walk(n.SelectionSet, parent, append(slices.Clip(path), "..."))
			}
		}
	}
	for _, d := range doc.Definitions {
		switch d := d.(type) {
		case *ast.OperationDefinition:
			name := d.Operation
			if d.Name != nil {
				name = strings.TrimSpace(name + " " + d.Name.Value)
			}
			walk(d.SelectionSet, schema.QueryType(), []any{name})
		case *ast.FragmentDefinition:
			walk(d.SelectionSet, schema.Type(d.TypeCondition.Name.Value), []any{"fragment " + d.Name.Value})
		}
	}
	return out
}

// definition is a field of the schema; nil: there is none.
func definition(parent any, name string) *gql.FieldDefinition {
	if o, ok := parent.(*gql.Object); ok && o != nil {
		return o.Fields()[name]
	}
	return nil
}

func argumentType(def *gql.FieldDefinition, name string) string {
	if def == nil {
		return ""
	}
	for _, a := range def.Args {
		if a.Name() == name {
			return a.Type.String()
		}
	}
	return ""
}
