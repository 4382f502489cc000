package graphql

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/graphql-go/graphql/gqlerrors"
	"github.com/graphql-go/graphql/language/ast"
	"github.com/graphql-go/graphql/language/location"
	"github.com/graphql-go/graphql/language/printer"
	"github.com/graphql-go/graphql/language/source"
)

// notAvailable is what GitLab says of everything that one may not see.
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

// The library's words.
var (
	noField    = regexp.MustCompile(`^Cannot query field "([^"]+)" on type "([^"]+)"`)
	noArgument = regexp.MustCompile(`^Unknown argument "([^"]+)" on field "([^"]+)"`)
	badValue   = regexp.MustCompile(`^Argument "([^"]+)" has invalid value`)
)

// inGitLabsWords says what graphql-ruby would: a client of GitLab reads those
// words, their codes and their paths, and no other library's.
func inGitLabsWords(errs []gqlerrors.FormattedError, doc *ast.Document, src *source.Source) []Error {
	places := placesOf(doc, src)
	var out []Error
	for _, fe := range errs {
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
			e.Message = fmt.Sprintf("Field '%s' doesn't accept argument '%s'", m[2], m[1])
			e.Extensions = map[string]any{"code": "argumentNotAccepted", "name": m[2], "typeName": "Field", "argumentName": m[1]}
		case badValue.MatchString(e.Message):
			m := badValue.FindStringSubmatch(e.Message)
			e.Message = fmt.Sprintf("Argument '%s' on Field '%s' has an invalid value (%s).", m[1], at.field, at.value)
			e.Extensions = map[string]any{"code": "argumentLiteralsIncompatible", "typeName": "Field", "argumentName": m[1]}
		default:
			e.Message = firstLine(e.Message)
		}
		out = append(out, e)
	}
	return out
}

// place is a node of a document as GitLab's errors name it.
type place struct {
	path  []any
	field string
	value string // of an argument
}

// placesOf finds each field, argument and value by where it stands.
func placesOf(doc *ast.Document, src *source.Source) map[Location]place {
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
	var walk func(set *ast.SelectionSet, path []any)
	walk = func(set *ast.SelectionSet, path []any) {
		if set == nil {
			return
		}
		for _, sel := range set.Selections {
			switch n := sel.(type) {
			case *ast.Field:
				name := n.Name.Value
				if n.Alias != nil {
					name = n.Alias.Value
				}
				here := append(append([]any(nil), path...), name)
				put(at(n.Loc), place{path: here, field: n.Name.Value})
				for _, a := range n.Arguments {
					p := place{append(append([]any(nil), here...), a.Name.Value), n.Name.Value, fmt.Sprint(printer.Print(a.Value))}
					put(at(a.Loc), p)
					put(at(a.Value.GetLoc()), p)
				}
				walk(n.SelectionSet, here)
			case *ast.InlineFragment:
				walk(n.SelectionSet, append(append([]any(nil), path...), "..."))
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
			walk(d.SelectionSet, []any{name})
		case *ast.FragmentDefinition:
			walk(d.SelectionSet, []any{"fragment " + d.Name.Value})
		}
	}
	return out
}
