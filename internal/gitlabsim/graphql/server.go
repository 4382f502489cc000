// Package graphql is the simulated GitLab's GraphQL: the part of GitLab's
// schema that concerns runners, of the release that the world simulates,
// answered by a GraphQL library that nobody here wrote. It parses, validates
// and executes; this package adds what GitLab adds: the text of its errors,
// the complexity of a query and its limits, cursors, who may see what. Numbers
// such as "docs/gitlab-api.md 6.2" are sections of the project's notes on GitLab's API.
//
// It is a package of its own so that a world without GraphQL does not carry
// the library.
package graphql

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"

	gql "github.com/graphql-go/graphql"
	"github.com/graphql-go/graphql/language/ast"
	"github.com/graphql-go/graphql/language/parser"
	"github.com/graphql-go/graphql/language/source"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
)

// GitLab's limits (docs/gitlab-api.md 6.2).
const (
	maxPage            = 100
	maxQuerySize       = 10_000 // characters
	maxBody            = 1 << 20
	anonymousScore     = 200
	authenticatedScore = 250
	adminScore         = 300
	anonymousDepth     = 15
	authenticatedDepth = 20
	jobCountLimit      = 1000
)

// Query is one query as it came in. Score, Limit and Depth are 0 where the
// document is not valid.
type Query struct {
	Method    string
	Document  string
	Variables map[string]any
	Operation string // query, mutation or subscription
	Score     int
	Limit     int
	Depth     int
	First     int // rows that its list of runners requests
}

// Error is one element of GitLab's errors array.
type Error struct {
	Message    string         `json:"message"`
	Locations  []Location     `json:"locations,omitempty"`
	Path       []any          `json:"path,omitempty"`
	Extensions map[string]any `json:"extensions,omitempty"`
}

// Location is a place in a document.
type Location struct {
	Line   int `json:"line"`
	Column int `json:"column"`
}

// Fault is an answer in place of the right one.
type Fault struct {
	Status int    // 0: 200, as GraphQL's errors come
	Raw    string // the whole body; "": data null and Errors
	Errors []Error
	// Data keeps the right answer's data beside Errors.
	Data bool
}

// Server is a world's GraphQL.
type Server struct {
	world *gitlabsim.World

	// One query at a time: the library fills lookups of its enums lazily and
	// without a lock, and a second query would meet them half made.
	library sync.Mutex
	schema  gql.Schema

	mu    sync.Mutex
	fault func(Query) *Fault
	limit int
	log   []Query
}

// logSize bounds the log: a demonstration runs for weeks.
const logSize = 1 << 12

// Mount puts GraphQL on a world.
func Mount(w *gitlabsim.World) (*Server, error) {
	schema, err := newSchema(w)
	if err != nil {
		return nil, err
	}
	s := &Server{world: w, schema: schema}
	w.SetGraphQL(s.serve)
	return s, nil
}

// SetFault lets f answer in place of GitLab where it returns a fault; nil ends that.
func (s *Server) SetFault(f func(Query) *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// SetLimit changes the highest complexity that a query may have; 0: GitLab's.
func (s *Server) SetLimit(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = n
}

// Queries are the latest queries, at most 4,096, the oldest first.
func (s *Server) Queries() []Query {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Query(nil), s.log...)
}

// request is what a query's execution needs.
type request struct {
	world    *gitlabsim.World
	caller   gitlabsim.Caller
	score    int
	limit    int
	jobsOnce bool // jobs was resolved for one runner already
}

type requestKey struct{}

func requestOf(ctx context.Context) *request {
	r, _ := ctx.Value(requestKey{}).(*request)
	return r
}

// body is what comes in.
type body struct {
	Query         string         `json:"query"`
	Variables     map[string]any `json:"variables"`
	OperationName string         `json:"operationName"`
}

// result is what goes out.
type result struct {
	Data   any     `json:"data,omitempty"`
	Errors []Error `json:"errors,omitempty"`
}

func (s *Server) serve(rw http.ResponseWriter, r *http.Request, caller gitlabsim.Caller) {
	if !caller.Known && (r.Header.Get("PRIVATE-TOKEN") != "" || r.Header.Get("Authorization") != "") {
		// Also what a token without the scope gets: GitLab does not distinguish them.
		refuse(rw, http.StatusUnauthorized, "Invalid token")
		return
	}
	in, err := readBody(r)
	switch {
	case err != nil:
		refuse(rw, http.StatusBadRequest, "Problems parsing JSON")
		return
	case len(in.Query) > maxQuerySize:
		refuse(rw, http.StatusUnprocessableEntity, "Query too large")
		return
	}
	q := Query{Method: r.Method, Document: in.Query, Variables: in.Variables}
	out := s.answer(r.Context(), &q, in, caller)
	if q.Operation == ast.OperationTypeMutation && r.Method != http.MethodPost {
		refuse(rw, http.StatusUnprocessableEntity, "Mutations are forbidden in "+r.Method+" requests")
		return
	}
	s.mu.Lock()
	if s.log = append(s.log, q); len(s.log) > logSize {
		s.log = s.log[1:]
	}
	fault := s.fault
	s.mu.Unlock()
	if fault != nil {
		if f := fault(q); f != nil {
			f.write(rw, out)
			return
		}
	}
	write(rw, http.StatusOK, out)
}

func readBody(r *http.Request) (in body, err error) {
	if r.Method != http.MethodPost {
		v := r.URL.Query()
		in.Query, in.OperationName = v.Get("query"), v.Get("operationName")
		if text := v.Get("variables"); text != "" {
			err = json.Unmarshal([]byte(text), &in.Variables)
		}
		return in, err
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return in, err
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/graphql") {
		in.Query = string(raw)
		return in, nil
	}
	return in, json.Unmarshal(raw, &in)
}

// answer is GraphQL's way: parse, validate, weigh, execute.
func (s *Server) answer(ctx context.Context, q *Query, in body, caller gitlabsim.Caller) result {
	// The library's parser has no null; the text keeps its length, and errors
	// their places.
	text := strings.ReplaceAll(in.Query, "(legacyMode: null)", `(legacyMode: ""  )`)
	src := source.NewSource(&source.Source{Body: []byte(text), Name: "query"})
	doc, err := parser.Parse(parser.ParseParams{Source: src})
	if err != nil {
		return result{Errors: []Error{{Message: "Parse error: " + firstLine(err.Error())}}}
	}
	op := operation(doc, in.OperationName)
	if op == nil {
		return result{Errors: []Error{{Message: "No operation named \"" + in.OperationName + "\""}}}
	}
	q.Operation = op.Operation
	if op.Operation != ast.OperationTypeQuery {
		return result{Errors: []Error{{Message: "Schema is not configured for " + op.Operation + "s"}}}
	}
	s.library.Lock()
	defer s.library.Unlock()
	if v := gql.ValidateDocument(&s.schema, doc, nil); !v.IsValid {
		return result{Errors: inGitLabsWords(v.Errors, s.schema, doc, src)}
	}
	limit, depth := anonymousScore, anonymousDepth
	switch {
	case caller.Admin:
		limit, depth = adminScore, authenticatedDepth
	case caller.Known:
		limit, depth = authenticatedScore, authenticatedDepth
	}
	s.mu.Lock()
	if s.limit > 0 {
		limit = s.limit
	}
	s.mu.Unlock()
	weight := weigh(s.schema, doc, op, in.Variables)
	q.Score, q.Limit, q.Depth, q.First = weight.score, limit, weight.depth, weight.first
	var errs []Error
	if q.Score > limit {
		errs = append(errs, tooMuch("complexity", q.Score, limit))
	}
	if q.Depth > depth {
		errs = append(errs, tooMuch("depth", q.Depth, depth))
	}
	if len(errs) > 0 {
		return result{Errors: errs}
	}
	req := &request{world: s.world, caller: caller, score: q.Score, limit: limit}
	done := gql.Execute(gql.ExecuteParams{
		Schema: s.schema, AST: doc, OperationName: in.OperationName, Args: in.Variables,
		// Not the caller's end: the library would leave its goroutine running.
		Context: context.WithValue(context.WithoutCancel(ctx), requestKey{}, req),
	})
	out := result{Data: done.Data}
	for _, e := range done.Errors {
		out.Errors = append(out.Errors, located(e))
	}
	return out
}

func operation(doc *ast.Document, name string) *ast.OperationDefinition {
	for _, d := range doc.Definitions {
		if op, ok := d.(*ast.OperationDefinition); ok && (name == "" || op.Name != nil && op.Name.Value == name) {
			return op
		}
	}
	return nil
}

func (f *Fault) write(rw http.ResponseWriter, right result) {
	status := f.Status
	if status == 0 {
		status = http.StatusOK
	}
	if f.Raw != "" {
		rw.Header().Set("Content-Type", "text/html")
		rw.WriteHeader(status)
		_, _ = io.WriteString(rw, f.Raw)
		return
	}
	out := result{Errors: f.Errors}
	if f.Data {
		out.Data = right.Data
	}
	write(rw, status, out)
}

func refuse(rw http.ResponseWriter, status int, text string) {
	write(rw, status, result{Errors: []Error{{Message: text}}})
}

func write(rw http.ResponseWriter, status int, out result) {
	b, err := json.Marshal(out)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"errors":[{"message":"Internal server error"}]}`)
	}
	rw.Header().Set("Content-Type", "application/json; charset=utf-8")
	rw.WriteHeader(status)
	_, _ = rw.Write(b)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
