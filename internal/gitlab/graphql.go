package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/go-kit/log/level"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// FieldSet is the set of fields that a query requests of each runner beyond id,
// description, type and status, which every release has.
type FieldSet uint32

// The fields that a release, or a token, may not have. What GraphQL does not
// return must be read by REST, or stays unknown.
const (
	FieldPaused           FieldSet = 1 << iota // paused, 14.8; before it active is asked instead
	FieldExecution                             // jobExecutionStatus, 15.7
	FieldExecuting                             // jobCount(statuses), 16.2
	FieldTags                                  // tagList
	FieldUntagged                              // runUntagged
	FieldAccess                                // accessLevel
	FieldContact                               // contactedAt
	FieldOwner                                 // ownerProject, 15.1
	FieldGroups                                // groups
	FieldManagers                              // managers, about 15.10 to 16.0
	FieldMachineExecution                      // jobExecutionStatus of each of managers, 16.3
	FieldTimeout                               // maximumTimeout
	FieldMachine                               // version, platformName, architectureName of the runner itself: to 17.x; asked only where managers are not to be had

	fieldComplexity   // queryComplexity
	fieldCanceling    // CANCELING among the statuses, 17.0
	fieldAllAvailable // membership ALL_AVAILABLE, 15.5
	fieldStatus       // a status that does not hide whether a paused runner is up, without an argument: 16.0
	fieldLegacyMode   // status(legacyMode), to 15.11, whose default hides it
	fieldEnd
)

// What to ask for: a listing every minute needs less than the details.
const (
	FieldsListing = FieldPaused | FieldExecution | FieldExecuting
	FieldsAll     = FieldsListing | FieldTags | FieldUntagged | FieldAccess | FieldContact | FieldOwner | FieldGroups | FieldManagers | FieldMachineExecution | FieldTimeout
	// FieldsDetails must all be there for a page to stand for GET /runners/:id;
	// without FieldManagers GET /runners/:id/managers is still to be read.
	FieldsDetails = FieldTags | FieldUntagged | FieldAccess | FieldContact
)

// MaxJobCount is the most that GitLab counts; FleetRunner.Executing above it means more.
const MaxJobCount = 1000

const (
	graphqlRows    = 100 // the largest page (docs/gitlab-api.md 6.2)
	graphqlLeast   = 10  // rows below which a page is not cut further
	graphqlScore   = 250 // what any signed-in user may ask for at once (6.2)
	managersAtOnce = graphqlRows
)

// graphqlTries bounds the forms of the query that are tried for one page. Each
// leaves out a field, or half the rows, so no GitLab needs more: an answer names
// at most five objections (6.1).
var graphqlTries = len(runnerFields) + 5

// GraphQLDialect is what was learned about one GitLab's GraphQL with one token:
// the fields it lacks, and the largest page it accepts. The zero value has
// learned nothing. The caller owns it and calls Reset when GitLab's version or the token
// changed, and from time to time, since a refusal need not last. It is safe for
// concurrent use.
type GraphQLDialect struct {
	mu         sync.Mutex
	lacks      FieldSet
	rows       int  // 0: not cut
	noMachines bool // the field managers is not there; otherwise it may lack because it costs too much
}

// Reset forgets all.
func (d *GraphQLDialect) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lacks, d.rows, d.noMachines = 0, 0, false
}

// NoMachines reports whether this release's GraphQL has no machines. Its REST has
// none either: there the endpoint came later (1.7).
func (d *GraphQLDialect) NoMachines() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.noMachines
}

// Lacks are the fields that were refused, for a log line.
func (d *GraphQLDialect) Lacks() FieldSet {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lacks & (fieldEnd - 1)
}

// GraphQLQuery selects the runners to read.
type GraphQLQuery struct {
	// Scope is the instance (administrators, auditors), or a group by its full
	// path: its own runners, those of its subgroups and projects, which REST
	// cannot list, and those of its ancestors and the instance.
	Scope   Scope
	After   string          // GraphQLPage.Next of the page before; "": the first
	First   int             // rows, at most 100; 0: as many as GitLab accepts
	Type    string          // instance_type, group_type or project_type; "": all
	Fields  FieldSet        // 0: FieldsAll
	Dialect *GraphQLDialect // nil: nothing is known, nor remembered
}

// FleetRunner is a runner as a row of a GraphQL page. Status is online, offline,
// stale or never_contacted, never "paused"; Online agrees with it.
// GraphQLPage.Fields names the details that were read; ContactedAt is in whole
// seconds.
type FleetRunner struct {
	RunnerDetails

	Managers []Manager // nil: not requested, or missing in the answer
	// ManagersCut: there are more than 100, and Managers is nil, since a part of
	// them is not their number. GET /runners/:id/managers has them all.
	ManagersCut bool
	Executing   int // jobs running or being canceled; 1001 means more; -1: missing in the answer
}

// GraphQLPage is one page, the newest runner first. The cursor is a place in
// that order: runners that come or go between two pages shift nothing.
type GraphQLPage struct {
	Runners []FleetRunner
	Next    string   // "": this was the last
	Skipped int      // rows that are not usable, as in RunnersPage
	Fields  FieldSet // what was really asked for
	// Partial: of a group only its own runners and its descendants' are here,
	// because this release or token does not give the ancestors' and the
	// instance's. GET /groups/:id/runners has those: merge the two by id.
	Partial bool

	Complexity, Limit int // of the query, by GitLab's own count; 0: missing in the answer
}

// FieldError is a query that this GitLab does not understand.
type FieldError struct {
	Field string // the field it does not know, where the answer names one; "": something else
}

// Error is a text for people.
func (e *FieldError) Error() string {
	if e.Field == "" {
		return "gitlab: this release does not understand the query"
	}
	return "gitlab: this release's GraphQL does not know " + e.Field
}

// GraphQLRefused reports whether GitLab does not answer this by GraphQL (no
// GraphQL there, not for this token, not in this release, not in time), so that
// REST may be tried. It is false for an outage or a bad token, which REST would
// meet as well.
func GraphQLRefused(err error) bool {
	switch ReasonOf(err) {
	case ReasonForbidden, ReasonNotFound, ReasonBadRequest, ReasonDecode, ReasonRedirect, ReasonTooLarge:
		return true
	case ReasonServerError, ReasonTimeout:
		// Alive, since it answers 200, or not able to answer even the smallest page.
		e, ok := errors.AsType[*Error](err)
		return ok && (e.slow || e.Status == http.StatusOK)
	default:
		return false
	}
}

// GraphQLFailure is a text for users: why runners could not be read by GraphQL,
// without the cause's own text. It must not blame a proxy's answer on the token,
// nor an outage on the release.
func GraphQLFailure(err error) string {
	status := 0
	if e, ok := errors.AsType[*Error](err); ok {
		status = e.Status
	}
	reason := ReasonOf(err)
	switch {
	case isA[*FieldError](err):
		return "GraphQL of this GitLab release lacks what is needed to read runners"
	case reason == ReasonNotGitLab, reason == ReasonRedirect, status == http.StatusMethodNotAllowed, status == http.StatusNotImplemented:
		return "GraphQL queries (POST " + graphqlPath + ") do not reach GitLab: something in between refuses or redirects them"
	case reason == ReasonTimeout, reason == ReasonServerError && status != http.StatusOK, reason == ReasonConnection:
		return "GitLab did not answer the GraphQL query"
	case reason == ReasonServerError:
		return "GraphQL failed inside GitLab"
	case reason == ReasonForbidden, reason == ReasonUnauthorized:
		return "GitLab does not let this token read runners by GraphQL"
	case reason == ReasonNotFound && status == http.StatusOK:
		return "GraphQL shows this token no such group"
	case reason == ReasonNotFound:
		return "GitLab has no GraphQL at " + graphqlPath
	case reason == ReasonDecode, reason == ReasonTooLarge:
		return "GraphQL's answer could not be read"
	}
	return "GitLab refuses the GraphQL query"
}

// RunnersGraphQL reads one page of runners with their details, machines and
// number of executing jobs in one request (docs/gitlab-api.md 6), where REST
// takes one for the list and two for each runner. It repeats the query without
// the fields that this release does not know, and with fewer rows where the page
// is too much for GitLab, and keeps in q.Dialect what it learned. An error inside HTTP 200 is an *Error as
// any other; one about the query itself has a *FieldError in it.
func (c *Client) RunnersGraphQL(ctx context.Context, q GraphQLQuery) (GraphQLPage, error) {
	switch {
	case q.Scope.kind() == snapshot.ScopeInstance:
	case q.Scope.Kind == snapshot.ScopeGroups && strings.Trim(q.Scope.ID, "./") != "":
	default:
		return GraphQLPage{}, &Error{Reason: ReasonBadRequest, Route: RouteGraphQL, Message: "only the instance and a group by its path are read by GraphQL"}
	}
	if q.Dialect == nil {
		q.Dialect = new(GraphQLDialect)
	}
	for try := 1; ; try++ {
		a := q.ask()
		page, err := c.askRunners(ctx, q, a)
		if err == nil {
			return c.allOf(ctx, q, a, page)
		}
		e, ok := errors.AsType[*Error](err)
		if !ok || try >= graphqlTries || !q.Dialect.adapt(a, e) {
			return GraphQLPage{}, err
		}
		_ = level.Debug(c.logger).Log("msg", "the GraphQL query is repeated in another form", "lacks", q.Dialect.Lacks(), "err", e)
	}
}

// allOf corrects the one answer that is wrong without an error: releases with
// the membership ALL_AVAILABLE behind a flag return no runner where the flag is
// off.
func (c *Client) allOf(ctx context.Context, q GraphQLQuery, a ask, page GraphQLPage) (GraphQLPage, error) {
	d := q.Dialect
	if page.Complexity > graphqlScore {
		d.cut(a, page.Complexity, graphqlScore)
	}
	if a.fields&fieldAllAvailable == 0 || q.After != "" || len(page.Runners)+page.Skipped > 0 {
		return page, nil
	}
	a.fields &^= fieldAllAvailable
	descendants, err := c.askRunners(ctx, q, a)
	if err != nil || len(descendants.Runners)+descendants.Skipped == 0 {
		return page, err
	}
	d.drop(fieldAllAvailable)
	return descendants, nil
}

// ask is one form of the query for a page.
type ask struct {
	fields FieldSet
	rows   int
}

// ask is the best form of the query, as far as this GitLab is known.
func (q GraphQLQuery) ask() ask {
	d := q.Dialect
	d.mu.Lock()
	defer d.mu.Unlock()
	a := ask{fields: q.Fields & (fieldComplexity - 1) &^ FieldMachine, rows: graphqlRows}
	if a.fields == 0 {
		a.fields = FieldsAll
	}
	if q.First > 0 {
		a.rows = min(q.First, graphqlRows)
	}
	if d.rows > 0 {
		a.rows = min(a.rows, d.rows)
	}
	if a.fields&FieldManagers&d.lacks != 0 {
		a.fields |= FieldMachine
	}
	a.fields |= fieldComplexity | fieldStatus | fieldLegacyMode
	if a.fields&FieldExecuting != 0 {
		a.fields |= fieldCanceling
	}
	if q.Scope.Kind == snapshot.ScopeGroups {
		a.fields |= fieldAllAvailable
	}
	a.fields &^= d.lacks
	if a.fields&FieldManagers == 0 {
		a.fields &^= FieldMachineExecution
	}
	return a
}

func (d *GraphQLDialect) drop(f FieldSet) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lacks |= f
	if f&fieldLegacyMode != 0 {
		d.lacks &^= fieldStatus // an update to 16.0: status needs no argument
	}
}

// cut makes the page smaller until a score of was is at most limit, by half at
// least. How the score grows with the page depends on GitLab's release.
func (d *GraphQLDialect) cut(a ask, was, limit int) bool {
	if a.rows <= graphqlLeast {
		return false
	}
	rows := a.rows / 2
	for was > 2*limit && rows > graphqlLeast {
		was, rows = was/2, rows/2
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if rows = max(rows, graphqlLeast); d.rows == 0 || rows < d.rows {
		d.rows = rows
	}
	return true
}

// adapt learns from a failure, and reports whether another form of the query is left.
func (d *GraphQLDialect) adapt(a ask, e *Error) bool {
	no, _ := errors.AsType[*refusal](e.Err)
	switch {
	case no != nil && no.lacks == fieldStatus && a.fields&fieldLegacyMode == 0:
		return false // no other form of it
	case no != nil && no.lacks&a.fields != 0:
		d.drop(no.lacks & a.fields)
		if no.noMachines {
			d.mu.Lock()
			d.noMachines = true
			d.mu.Unlock()
		}
		return true
	case no != nil && no.score > 0:
		if d.cut(a, no.score, no.limit) {
			return true
		}
		if a.fields&FieldManagers == 0 {
			return false
		}
		d.drop(FieldManagers) // the most expensive field
		return true
	case e.slow:
		return d.cut(a, 0, 0)
	case no != nil && no.reason == ReasonForbidden && a.fields&fieldAllAvailable != 0:
		// Who may read a group's runners may not always read its ancestors'.
		d.drop(fieldAllAvailable)
		return true
	}
	return false
}

// askRunners sends one query.
func (c *Client) askRunners(ctx context.Context, q GraphQLQuery, a ask) (GraphQLPage, error) {
	r := request{route: RouteGraphQL, document: document(q.Scope.Kind, a.fields, q.Type != "")}
	r.variables = map[string]any{"first": a.rows}
	if q.After != "" {
		r.variables["after"] = q.After
	}
	if q.Type != "" {
		r.variables["type"] = strings.ToUpper(q.Type)
	}
	if q.Scope.Kind == snapshot.ScopeGroups {
		r.variables["path"] = q.Scope.ID
	}
	var out GraphQLPage
	_, err := c.get(ctx, r, func(body io.Reader) error {
		answer, err := decodeFleet(body)
		if err != nil {
			return err
		}
		if no := answer.refusal(r.document); no != nil {
			return no
		}
		out = answer.page
		return nil
	})
	if err != nil {
		return GraphQLPage{}, err
	}
	if out.Next != "" && (out.Next == q.After || len(out.Runners)+out.Skipped == 0) {
		return GraphQLPage{}, pagingError(r.route, "the next page is this one")
	}
	out.Fields = a.fields & (fieldComplexity - 1)
	out.Partial = q.Scope.Kind == snapshot.ScopeGroups && a.fields&fieldAllAvailable == 0
	c.skipped(r.route, out.Skipped)
	for i := range out.Runners {
		c.nameDetails(&out.Runners[i].RunnerDetails)
		c.nameManagers(out.Runners[i].Managers)
	}
	return out, nil
}

// document is the query. Its texts are constants: what a user configured goes
// into variables, so that nothing but a query can be built here.
func document(kind snapshot.ScopeKind, f FieldSet, typed bool) string {
	var b strings.Builder
	group := kind == snapshot.ScopeGroups
	b.WriteString("query fleet($first: Int!, $after: String")
	if typed {
		b.WriteString(", $type: CiRunnerType!")
	}
	if group {
		b.WriteString(", $path: ID!")
	}
	b.WriteString(") {")
	if f&fieldComplexity != 0 {
		b.WriteString(" queryComplexity { score limit }")
	}
	if group {
		b.WriteString(" group(fullPath: $path) {")
	}
	b.WriteString(" runners(first: $first, after: $after")
	if typed {
		b.WriteString(", type: $type")
	}
	if group {
		if f&fieldAllAvailable != 0 {
			b.WriteString(", membership: ALL_AVAILABLE")
		} else {
			b.WriteString(", membership: DESCENDANTS")
		}
	}
	b.WriteString(") { pageInfo { hasNextPage endCursor } nodes {")
	for i := range runnerFields {
		if text := runnerFields[i].write(f); text != "" {
			b.WriteString(" " + text)
		}
	}
	b.WriteString(" } }")
	if group {
		b.WriteString(" }")
	}
	b.WriteString(" }")
	return b.String()
}

var errNotQuery = errors.New("not a query")

// graphqlBody packs a document, and refuses what is not a query.
func graphqlBody(r request) ([]byte, error) {
	if !strings.HasPrefix(r.document, "query ") {
		return nil, errNotQuery
	}
	return json.Marshal(struct {
		Query     string         `json:"query"`
		Variables map[string]any `json:"variables"`
	}{r.document, r.variables})
}

// tooSlow reports whether an answer means that the query takes too long: beyond
// the time limit of GitLab's database, or of its proxy.
func tooSlow(status int, body []byte) bool {
	return status == http.StatusGatewayTimeout ||
		status >= http.StatusInternalServerError && strings.Contains(string(body), "timed out")
}

// Group is the full path of a group, for GraphQL does not take its id. A group
// that this token may not see is ReasonNotFound.
func (c *Client) Group(ctx context.Context, id string) (fullPath string, err error) {
	if strings.Trim(id, "./") == "" {
		return "", &Error{Reason: ReasonBadRequest, Route: RouteGroup, Message: "no group is named"}
	}
	// Without the parameter older releases add up to 100 projects.
	r := request{route: RouteGroup, path: "/groups/" + url.PathEscape(id), query: url.Values{"with_projects": {"false"}}}
	return readObject(ctx, c, r, (*reader).fullPath, func(path string) error {
		if path == "" {
			return errNoPath
		}
		return nil
	})
}
