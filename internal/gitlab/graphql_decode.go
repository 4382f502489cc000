package gitlab

import (
	"cmp"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

var (
	errNoPath   = errors.New("the object has no full path")
	errNoAnswer = errors.New("neither data nor errors")
)

// globalID is GitLab's id of one model: gid://gitlab/Ci::Runner/7. 0: not one.
func globalID(gid, model string) int64 {
	text, ok := strings.CutPrefix(gid, "gid://gitlab/"+model+"/")
	if !ok {
		return 0
	}
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 0 {
		return 0
	}
	return id
}

// fleetRow is a row while it is read.
type fleetRow struct {
	FleetRunner

	project, group string // full paths
}

// fleetRunner reads a row and translates it to REST's words, so that its users
// need not know where it came from.
func (d *reader) fleetRunner() FleetRunner {
	row := fleetRow{FleetRunner: FleetRunner{Executing: -1}}
	for name := range d.members() {
		if o, ok := runnerMembers[string(name)]; ok {
			o.read(d, &row)
		}
	}
	row.settle(row.project, row.group)
	return row.FleetRunner
}

// settle sets the fields that depend on several members.
func (r *FleetRunner) settle(project, group string) {
	switch r.Status {
	case "online":
		r.Online = new(true)
	case "never_contacted", "not_connected": // null in REST
	default: // offline, stale, and words of the future: not known to be up
		r.Online = new(false)
	}
	r.Owner = owner(r.Type, group, project)
	// As REST does: of the machine that contacted GitLab last.
	var last *Manager
	for i := range r.Managers {
		m := &r.Managers[i]
		if last == nil || m.ContactedAt.After(last.ContactedAt) {
			last = m // they are in the order of their ids, so the lowest of those at once
		}
	}
	if last != nil {
		r.Version, r.Platform, r.Arch = last.Version, last.Platform, last.Arch
	}
	if r.ManagersCut = r.ManagersCut && r.Managers != nil; r.ManagersCut {
		r.Managers = nil
	}
}

// execution is a jobExecutionStatus in REST's words: up to 17.1 GraphQL has
// RUNNING where it has ACTIVE now.
func (d *reader) execution() string {
	word := strings.ToLower(d.name())
	if word == "running" {
		return ExecutionActive
	}
	return word
}

// jobCount is what GitLab counted, at most MaxJobCount + 1; -1 for anything else.
func (d *reader) jobCount() int {
	n, ok := d.number()
	if !ok || n < 0 {
		return -1
	}
	return int(min(n, MaxJobCount+1))
}

// fleetManagers reads the machines that a runner's row has, in the order of
// their ids.
func (d *reader) fleetManagers(out *FleetRunner) {
	for name := range d.members() {
		switch string(name) {
		case "pageInfo":
			for name := range d.members() {
				if string(name) == "hasNextPage" {
					out.ManagersCut = d.yes()
				}
			}
		case "nodes":
			if d.dec.PeekKind() != jsontext.KindBeginArray {
				continue
			}
			out.Managers = []Manager{} // none is known, unlike nil
			for i := range d.elements() {
				if i == maxRows {
					d.fail(errTooManyRows)
				} else if m := d.fleetManager(); m.ID != 0 {
					out.Managers = append(out.Managers, m)
				}
			}
		}
	}
	slices.SortFunc(out.Managers, func(a, b Manager) int { return cmp.Compare(a.ID, b.ID) })
}

func (d *reader) fleetManager() (m Manager) {
	for name := range d.members() {
		switch string(name) {
		case "id":
			m.ID = globalID(string(d.cut(maxName)), "Ci::RunnerManager")
		case "systemId":
			m.SystemID = d.text(maxName)
		case "version":
			m.Version = d.name()
		case "platformName":
			m.Platform = d.name()
		case "architectureName":
			m.Arch = d.name()
		case "status":
			m.Status = strings.ToLower(d.name())
		case "jobExecutionStatus":
			m.Execution = d.execution()
		case "contactedAt":
			m.ContactedAt = d.time()
		}
	}
	return m
}

// fleetAnswer is a GraphQL answer, of which any part may be missing.
type fleetAnswer struct {
	page   GraphQLPage
	ran    bool // there is data, though it may be null: the query was understood
	data   bool // it is not null
	group  bool // data has a group, which may be null
	list   bool // data has runners that are not null
	legacy bool // a status that hides whether a paused runner is up: to 15.11
	errors []graphqlError
}

// graphqlError is one element of errors.
type graphqlError struct {
	Message    string
	Path       []any // names; places in a list are left out
	Extensions struct{ Code string }
}

// Bounds of what is kept of the errors.
const (
	maxGraphQLErrors = 64
	maxGraphQLText   = 2048
	maxGraphQLPath   = 32
)

func (d *reader) graphqlError() (e graphqlError) {
	for name := range d.members() {
		switch string(name) {
		case "message":
			e.Message = d.text(maxGraphQLText)
		case "path":
			for range d.elements() {
				if p := d.name(); p != "" && len(e.Path) < maxGraphQLPath {
					e.Path = append(e.Path, p)
				}
			}
		case "extensions":
			e.Extensions.Code = d.textOf("code")
		}
	}
	return e
}

// decodeFleet reads an answer, of which one row is held beside what is kept.
func decodeFleet(body io.Reader) (*fleetAnswer, error) {
	a := &fleetAnswer{}
	d := newReader(body)
	if d.begin(jsontext.KindBeginObject, errNotObject) {
		for name := range d.members() {
			switch string(name) {
			case "data":
				a.ran, a.data = true, !d.null()
				a.members(d, a.data)
			case "errors":
				a.readErrors(d)
			}
		}
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	if !a.data && len(a.errors) == 0 {
		return nil, errNoAnswer
	}
	return a, nil
}

func (a *fleetAnswer) readErrors(d *reader) {
	if d.null() {
		return
	}
	d.need(jsontext.KindBeginArray)
	for i := range d.elements() {
		if i < maxGraphQLErrors {
			a.errors = append(a.errors, d.graphqlError())
		}
	}
}

var (
	errNoCursor   = errors.New("more pages are announced without a cursor, or with one that is too long")
	errOddGraphQL = errors.New("a part of the answer is neither what was asked for nor null")
)

// need refuses an answer of which a part has another type: taken for a null, it
// would read as GitLab's refusal.
func (d *reader) need(kind jsontext.Kind) {
	if k := d.dec.PeekKind(); k != kind && k != jsontext.KindInvalid {
		d.fail(errOddGraphQL)
	}
}

// members reads data, or the group in it.
func (a *fleetAnswer) members(d *reader, there bool) {
	if !there {
		return
	}
	d.need(jsontext.KindBeginObject)
	for name := range d.members() {
		switch string(name) {
		case "queryComplexity":
			for name := range d.members() {
				switch string(name) {
				case "score":
					a.page.Complexity = d.score()
				case "limit":
					a.page.Limit = d.score()
				}
			}
		case "group":
			a.group = true
			a.members(d, !d.null())
		case "runners":
			if a.list = !d.null(); a.list {
				d.need(jsontext.KindBeginObject)
				a.runners(d)
			}
		}
	}
}

// score is a complexity, which is some hundreds.
func (d *reader) score() int { return int(max(0, min(d.integer(), 1<<30))) }

func (a *fleetAnswer) runners(d *reader) {
	for name := range d.members() {
		switch string(name) {
		case "pageInfo":
			a.pageInfo(d)
		case "nodes":
			d.need(jsontext.KindBeginArray)
			for i := range d.elements() {
				if i == maxRows {
					d.fail(errTooManyRows)
					continue
				}
				if r := d.fleetRunner(); d.err == nil {
					a.row(r)
				}
			}
		}
	}
}

func (a *fleetAnswer) pageInfo(d *reader) {
	var (
		more   bool
		cursor string
	)
	for name := range d.members() {
		switch string(name) {
		case "hasNextPage":
			more = d.yes()
		case "endCursor":
			cursor = d.text(maxCursor + 1)
		}
	}
	if !more {
		return
	}
	if a.page.Next = cursor; cursor == "" || len(cursor) > maxCursor {
		d.fail(errNoCursor)
	}
}

func (a *fleetAnswer) row(r FleetRunner) {
	switch {
	case r.ID == 0:
		a.page.Skipped++
		return
	case r.Status == "active" || r.Status == "paused":
		a.legacy = true
	}
	a.page.Runners = append(a.page.Runners, r)
}

// refusal is an answer in HTTP 200 that is not what was asked for.
type refusal struct {
	reason  Reason
	message string // GitLab's; not yet cleaned
	field   string // of the document, that is not known
	lacks   FieldSet
	score   int // complexity, where that is what is wrong
	limit   int
	slow    bool

	noMachines bool // managers is not known
	noQueue    bool // compatibleRunnerId is not known
}

// Error holds no text of the answer: see Error.Message.
func (*refusal) Error() string { return "an error inside HTTP 200" }

// Unwrap makes the query's own errors a *FieldError.
func (r *refusal) Unwrap() error {
	if r.noQueue {
		return ErrNoQueue
	}
	if r.reason == ReasonBadRequest && r.score == 0 {
		return &FieldError{Field: r.field}
	}
	return nil
}

// The words of graphql-ruby and GitLab.
var (
	tooComplex   = regexp.MustCompile(`complexity of (\d+), which exceeds max complexity of (\d+)`)
	notPermitted = regexp.MustCompile(`(?i)resource that you are attempting to access does not exist|don't have permission|not authorized|insufficient[ _]scope`)
	timedOut     = regexp.MustCompile(`(?i)\btimeout\b|timed out`)
)

// refusal finds out what GitLab objects to; nil: the page is whole.
func (a *fleetAnswer) refusal(document string) *refusal {
	if len(a.errors) == 0 {
		switch {
		case a.legacy:
			return &refusal{reason: ReasonBadRequest, lacks: fieldStatus, field: "status", message: "this release's status hides whether a paused runner is up"}
		case a.list:
			return nil
		case a.group:
			return &refusal{reason: ReasonNotFound, message: "no such group, or none that this token may see"}
		}
		return &refusal{reason: ReasonForbidden, message: "GitLab returned no runners and no error"}
	}
	no := &refusal{reason: ReasonBadRequest, message: graphqlTexts(a.errors)}
	if a.ran {
		no.reason = ReasonServerError
	}
	var fatal, denied bool
	for _, e := range a.errors {
		if m := tooComplex.FindStringSubmatch(e.Message); m != nil {
			no.score, _ = strconv.Atoi(m[1])
			no.limit, _ = strconv.Atoi(m[2])
			return no
		}
		if lacks, name, known := validation(e); known {
			no.lacks |= lacks
			no.noMachines = no.noMachines || name == "managers"
			if lacks == 0 {
				fatal = true
				if strings.Contains(document, name) { // else it is not about our query
					no.field = name
				}
			}
			continue
		}
		switch {
		case timedOut.MatchString(e.Message):
			no.slow, no.reason = true, ReasonTimeout
		case notPermitted.MatchString(e.Message) && lastOf(e.Path) == 0:
			denied = true
		case a.ran:
			no.lacks |= lastOf(e.Path) // one field of a runner failed: the others may not
			fatal = fatal || lastOf(e.Path) == 0
		default:
			fatal = true
		}
	}
	switch {
	case no.slow:
		no.lacks = 0
	case denied:
		no.reason, no.lacks = ReasonForbidden, 0
	case fatal:
		no.lacks = 0
	}
	return no
}

// graphqlTexts are the first three messages as one line.
func graphqlTexts(errs []graphqlError) string {
	var texts []string
	for _, e := range errs {
		if e.Message != "" && !slices.Contains(texts, e.Message) {
			texts = append(texts, e.Message)
		}
	}
	if len(texts) > 3 {
		texts = append(texts[:3], "and "+strconv.Itoa(len(texts)-3)+" more")
	}
	return strings.Join(texts, "; ")
}

// graphqlMessages are those of an error body, such as that of a bad token.
func graphqlMessages(v any) string {
	list, ok := v.([]any)
	if !ok {
		return flatten(v, 0)
	}
	var errs []graphqlError
	for _, e := range list {
		if m, ok := e.(map[string]any); ok {
			errs = append(errs, graphqlError{Message: flatten(m["message"], 0)})
		}
	}
	if text := graphqlTexts(errs); text != "" {
		return text
	}
	return flatten(v, 0)
}
