package gitlab

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// optional is what the query asks for and can do without, each in one place: in
// the document, in log lines, and where GitLab's errors name it.
var optional = []struct {
	field FieldSet
	name  string // in GitLab's schema, for a log line
	text  string // in the document; "": written where it belongs, by document
	// keys are the names that stand in the path of an error about it, or in its
	// message: the field's and its alias's, for graphql-ruby names the alias where
	// there is one; the types that only this field leads to, or Type.field.
	keys []string
}{
	{FieldPaused, "paused", "", []string{"paused"}},
	{FieldExecution, "jobExecutionStatus", "jobExecutionStatus", []string{"jobExecutionStatus"}},
	{FieldExecuting, "jobCount(statuses)", "", []string{"executing", "jobCount"}},
	{FieldTags, "tagList", "tagList", []string{"tagList"}},
	{FieldUntagged, "runUntagged", "runUntagged", []string{"runUntagged"}},
	{FieldAccess, "accessLevel", "accessLevel", []string{"accessLevel"}},
	{FieldContact, "contactedAt", "contactedAt", []string{"contactedAt"}},
	{FieldOwner, "ownerProject", "ownerProject { fullPath }", []string{"ownerProject", "Project", "ProjectInterface"}},
	{FieldGroups, "groups", "groups(first: 1) { nodes { fullPath } }", []string{"groups", "Group.fullPath", "GroupInterface.fullPath"}},
	{
		FieldManagers, "managers",
		"managers(first: " + strconv.Itoa(managersAtOnce) + ") { pageInfo { hasNextPage } nodes { id systemId version platformName architectureName status contactedAt } }",
		[]string{"managers", "CiRunnerManager", "CiRunnerManagerConnection"},
	},
	{FieldMachine, "version", "version platformName architectureName", []string{"version", "platformName", "architectureName"}},
	{fieldComplexity, "queryComplexity", "", []string{"queryComplexity", "QueryComplexity"}},
	{fieldCanceling, "CANCELING", "", nil},
	{fieldAllAvailable, "ALL_AVAILABLE", "", nil},
	{fieldStatus, "status", "", nil},
	{fieldLegacyMode, "legacyMode", "", []string{"legacyMode"}},
}

// String names the fields as GitLab's schema does, for a log line.
func (f FieldSet) String() string {
	var names []string
	for _, o := range optional {
		if f&o.field != 0 {
			names = append(names, o.name)
		}
	}
	return strings.Join(names, " ")
}

// of is the optional field that a path, or the names in a message, lead to or
// through; 0: none. A machine's version is a matter of managers, which stands
// before it.
func of(names ...string) FieldSet {
	for _, name := range names {
		for _, o := range optional {
			if slices.Contains(o.keys, name) {
				return o.field
			}
		}
	}
	return 0
}

// lastOf is the same for the path of an error.
func lastOf(path []any) FieldSet { return of(pathNames(path)...) }

// pathNames leaves out the places in lists: runners, nodes, 7, managers.
func pathNames(path []any) (names []string) {
	for _, p := range path {
		if name, ok := p.(string); ok {
			names = append(names, name)
		}
	}
	return names
}

// graphql-ruby's codes of errors in a document.
const (
	undefinedField      = "undefinedField"
	argumentNotAccepted = "argumentNotAccepted"
	invalidArgument     = "argumentLiteralsIncompatible"
)

// The same in its words, where there is no code or no path. Newer lines append
// what may have been meant.
var objections = []struct {
	code string
	text *regexp.Regexp // the outer name, the inner one
}{
	{undefinedField, regexp.MustCompile(`^Field '(?P<inner>\w+)' doesn't exist on type '(?P<outer>\w+)'`)},
	{argumentNotAccepted, regexp.MustCompile(`^Field '(?P<outer>\w+)' doesn't accept argument '(?P<inner>\w+)'`)},
	{invalidArgument, regexp.MustCompile(`^Argument '(?P<inner>\w+)' on Field '(?P<outer>\w+)' has an invalid value`)},
}

// objection reads an error about the document: its code, and the names that
// lead to what it is about. By its path where it has one, else by its text. "":
// it is about something else.
func (e graphqlError) objection() (code string, names []string) {
	names = pathNames(e.Path)
	switch e.Extensions.Code {
	case undefinedField, argumentNotAccepted, invalidArgument:
		if len(names) > 1 {
			return e.Extensions.Code, names
		}
	}
	for _, o := range objections {
		if m := o.text.FindStringSubmatch(e.Message); m != nil {
			outer, inner := m[o.text.SubexpIndex("outer")], m[o.text.SubexpIndex("inner")]
			if o.code == undefinedField {
				return o.code, []string{outer, outer + "." + inner, inner}
			}
			return o.code, []string{outer, inner}
		}
	}
	return "", nil
}

// validation reads an objection to the document: what is lacking of what can be
// left out (0: what cannot), and its name.
func validation(e graphqlError) (lacks FieldSet, name string, known bool) {
	code, names := e.objection()
	if code == "" {
		return 0, "", false
	}
	lacks, name = of(names...), names[len(names)-1]
	if code == invalidArgument { // a value may be refused in part
		switch {
		case name == "membership":
			lacks = fieldAllAvailable
		case name == "statuses" && lacks == FieldExecuting:
			lacks = fieldCanceling
		}
	}
	return lacks, name, true
}
