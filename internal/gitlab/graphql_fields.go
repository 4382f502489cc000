package gitlab

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// runnerField is one field of a runner, or one part of the query, in all the
// places where it stands: the document, the answer, log lines, and the errors
// by which GitLab names it.
type runnerField struct {
	field FieldSet // 0: every release and token has it
	name  string   // in GitLab's schema, for log lines; "": the entry before names it
	text  string   // in the document, where field is requested
	// form writes it where text does not suffice; "": not requested.
	form func(FieldSet) string
	// member is its name in the answer, or its alias, and read takes its value.
	member string
	read   func(*reader, *fleetRow)
	// keys are the names that stand in the path of an error about it, or in its
	// message: the field's and its alias's, for graphql-ruby names the alias where
	// there is one; the types that only this field leads to, or Type.field.
	keys []string
}

// runnerFields is the only list of them. The query and its decoder are made
// from it, so that a field cannot be requested and not read.
var runnerFields = []runnerField{
	{text: "id", member: "id", read: func(d *reader, r *fleetRow) { r.ID = globalID(string(d.cut(maxName)), "Ci::Runner") }},
	{text: "description", member: "description", read: func(d *reader, r *fleetRow) { r.Description = d.text(maxDescription) }},
	{text: "runnerType", member: "runnerType", read: func(d *reader, r *fleetRow) { r.Type = strings.ToLower(d.name()) }},
	{form: statusForm, member: "status", read: func(d *reader, r *fleetRow) { r.Status = strings.ToLower(d.name()) }},
	{
		field: FieldExecution, name: "jobExecutionStatus", text: "jobExecutionStatus", keys: []string{"jobExecutionStatus"},
		member: "jobExecutionStatus", read: func(d *reader, r *fleetRow) { r.Execution = d.execution() },
	},
	{
		field: FieldTags, name: "tagList", text: "tagList", keys: []string{"tagList"},
		member: "tagList", read: func(d *reader, r *fleetRow) { r.Tags, r.TagsOmitted = d.tags() },
	},
	{
		field: FieldUntagged, name: "runUntagged", text: "runUntagged", keys: []string{"runUntagged"},
		member: "runUntagged", read: func(d *reader, r *fleetRow) { r.RunUntagged = d.yes() },
	},
	{
		field: FieldAccess, name: "accessLevel", text: "accessLevel", keys: []string{"accessLevel"},
		member: "accessLevel", read: func(d *reader, r *fleetRow) { r.Protected = d.name() == "REF_PROTECTED" },
	},
	{
		field: FieldContact, name: "contactedAt", text: "contactedAt", keys: []string{"contactedAt"},
		member: "contactedAt", read: func(d *reader, r *fleetRow) { r.ContactedAt = d.time() },
	},
	{
		field: FieldTimeout, name: "maximumTimeout", text: "maximumTimeout", keys: []string{"maximumTimeout"},
		member: "maximumTimeout", read: func(d *reader, r *fleetRow) { r.MaximumTimeout = d.maximumTimeout() },
	},
	{
		field: FieldOwner, name: "ownerProject", text: "ownerProject { fullPath }", keys: []string{"ownerProject", "Project", "ProjectInterface"},
		member: "ownerProject", read: func(d *reader, r *fleetRow) { r.project = d.textOf("fullPath") },
	},
	{
		field: FieldGroups, name: "groups", text: "groups(first: 1) { nodes { fullPath } }", keys: []string{"groups", "Group.fullPath", "GroupInterface.fullPath"},
		member: "groups", read: func(d *reader, r *fleetRow) {
			for name := range d.members() {
				if string(name) == "nodes" {
					r.group = d.first("fullPath")
				}
			}
		},
	},
	{
		field: FieldManagers, name: "managers", form: managersForm,
		keys:   []string{"managers", "CiRunnerManager", "CiRunnerManagerConnection"},
		member: "managers", read: func(d *reader, r *fleetRow) { d.fleetManagers(&r.FleetRunner) },
	},
	{
		field: FieldMachine, name: "version", text: "version", keys: []string{"version"},
		member: "version", read: func(d *reader, r *fleetRow) { r.Version = d.name() },
	},
	{
		field: FieldMachine, text: "platformName", keys: []string{"platformName"},
		member: "platformName", read: func(d *reader, r *fleetRow) { r.Platform = d.name() },
	},
	{
		field: FieldMachine, text: "architectureName", keys: []string{"architectureName"},
		member: "architectureName", read: func(d *reader, r *fleetRow) { r.Arch = d.name() },
	},
	{
		field: FieldPaused, name: "paused", text: "paused", keys: []string{"paused"},
		member: "paused", read: func(d *reader, r *fleetRow) { r.Paused = d.answer() },
	},
	{form: activeForm, member: "active", read: func(d *reader, r *fleetRow) { r.Active = d.answer() }},
	{
		field: FieldExecuting, name: "jobCount(statuses)", form: executingForm, keys: []string{"executing", "jobCount"},
		member: "executing", read: func(d *reader, r *fleetRow) { r.Executing = d.jobCount() },
	},

	// Parts of the query that are no field of a runner. A release that lacks a
	// field of a machine still has its machines.
	{field: FieldMachineExecution, name: "managers.jobExecutionStatus", keys: []string{"managers.jobExecutionStatus", "managers.nodes.jobExecutionStatus", "CiRunnerManager.jobExecutionStatus"}},
	{field: fieldComplexity, name: "queryComplexity", keys: []string{"queryComplexity", "QueryComplexity"}},
	{field: fieldCanceling, name: "CANCELING"},
	{field: fieldAllAvailable, name: "ALL_AVAILABLE"},
	{field: fieldStatus, name: "status"},
	{field: fieldLegacyMode, name: "legacyMode", keys: []string{"legacyMode"}},
}

func statusForm(f FieldSet) string {
	if f&(fieldStatus|fieldLegacyMode) == fieldLegacyMode {
		return "status(legacyMode: null)"
	}
	return "status"
}

func managersForm(f FieldSet) string {
	execution := ""
	if f&FieldMachineExecution != 0 {
		execution = " jobExecutionStatus"
	}
	return "managers(first: " + strconv.Itoa(managersAtOnce) + ") { pageInfo { hasNextPage } nodes { id systemId version platformName architectureName status contactedAt" + execution + " } }"
}

func activeForm(f FieldSet) string {
	if f&FieldPaused == 0 {
		return "active"
	}
	return ""
}

func executingForm(f FieldSet) string {
	if f&fieldCanceling == 0 {
		return "executing: jobCount(statuses: [RUNNING])"
	}
	return "executing: jobCount(statuses: [RUNNING, CANCELING])"
}

// write is the field in a document that requests f; "": not there.
func (o *runnerField) write(f FieldSet) string {
	switch {
	case o.field&f != o.field:
		return ""
	case o.form != nil:
		return o.form(f)
	}
	return o.text
}

// runnerMembers finds the entry of a member of an answer.
var runnerMembers = func() map[string]*runnerField {
	m := map[string]*runnerField{}
	for i, o := range runnerFields {
		if o.member != "" {
			m[o.member] = &runnerFields[i]
		}
	}
	return m
}()

// String names the fields as GitLab's schema does, for a log line.
func (f FieldSet) String() string {
	var names []string
	for _, o := range runnerFields {
		if f&o.field != 0 && o.name != "" {
			names = append(names, o.name)
		}
	}
	return strings.Join(names, " ")
}

// of is the optional field that a path, or the names in a message, lead to or
// through; 0: none. A machine's version belongs to managers, which stands
// before it, unless the rest of the path is a key of its own.
func of(names ...string) FieldSet {
	for i, name := range names {
		for _, key := range []string{strings.Join(names[i:], "."), name} {
			for _, o := range runnerFields {
				if slices.Contains(o.keys, key) {
					return o.field
				}
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
				return o.code, []string{outer + "." + inner, outer, inner}
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
