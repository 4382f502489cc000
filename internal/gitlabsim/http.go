package gitlabsim

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// answer is GitLab's response to one request, before it is written to a
// connection or handed over in process.
type answer struct {
	status   int
	header   http.Header
	body     []byte
	drop     bool // the connection is cut instead
	truncate bool // half the body, then the connection is cut
}

// errCut is what a client of the RoundTripper sees of a cut connection.
var errCut = fmt.Errorf("gitlabsim: connection reset by peer: %w", io.ErrUnexpectedEOF)

// Handler is GitLab's web server. A relative root is part of its paths.
func (w *World) Handler() http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		a, err := w.serve(r)
		if err != nil || a.drop {
			panic(http.ErrAbortHandler) // net/http's way to cut a connection without an answer
		}
		h := rw.Header()
		maps.Copy(h, a.header)
		h.Set("Content-Length", strconv.Itoa(len(a.body)))
		rw.WriteHeader(a.status)
		if r.Method == http.MethodHead {
			return
		}
		if a.truncate {
			_, _ = rw.Write(a.body[:len(a.body)/2])
			_ = http.NewResponseController(rw).Flush()
			panic(http.ErrAbortHandler)
		}
		_, _ = rw.Write(a.body)
	})
}

// RoundTripper answers in process, without sockets, so that it works inside
// testing/synctest. It waits a latency out unless the request's context ends.
func (w *World) RoundTripper() http.RoundTripper { return roundTripper{w} }

type roundTripper struct{ w *World }

// RoundTrip implements http.RoundTripper.
func (t roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		defer func() { _ = r.Body.Close() }()
	}
	a, err := t.w.serve(r)
	if err != nil {
		return nil, err
	}
	if a.drop {
		return nil, errCut
	}
	res := &http.Response{
		Status:     strconv.Itoa(a.status) + " " + http.StatusText(a.status),
		StatusCode: a.status,
		Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        a.header,
		ContentLength: int64(len(a.body)),
		Request:       r,
	}
	var body io.Reader = bytes.NewReader(a.body)
	switch {
	case r.Method == http.MethodHead:
		body = http.NoBody
	case a.truncate:
		body = io.MultiReader(bytes.NewReader(a.body[:len(a.body)/2]), cutReader{})
	}
	res.Body = ctxBody{r.Context(), body}
	return res, nil
}

type cutReader struct{}

func (cutReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// ctxBody fails its reads once the request's context ends, as a socket's does.
type ctxBody struct {
	ctx context.Context //nolint:containedctx // it is the request's own, for the body's life
	r   io.Reader
}

func (b ctxBody) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	return b.r.Read(p)
}
func (ctxBody) Close() error { return nil }

// call is one request on its way through the API.
type call struct {
	w     *World
	req   *http.Request
	route route
	seg   []string // path below /api/v4, unescaped
	query url.Values
	tok   *token
	admin bool  // in effect, Admin Mode considered
	now   int64 // by Rails' clock and Redis, which do not lag
	at    int64 // as of which the database is read
	stale bool  // at is in the past: a replica that lags
	out   http.Header
	body  []byte
}

// serve is the whole way of a request: proxy faults, throttle, token, API.
// Its error is the context's.
func (w *World) serve(r *http.Request) (answer, error) {
	c := &call{w: w, req: r, out: http.Header{}}
	c.route, c.seg = w.match(r)
	c.query = r.URL.Query()

	w.lock()
	w.requestSeq++
	seq := w.requestSeq
	hits := w.faultsFor(r, c.route)
	tok, authErr := w.authenticate(r)
	limited := tok != nil && w.throttle(tok.user, c.out)
	w.mu.Unlock()

	wait := hits.latency
	if w.opt.Latency != nil {
		wait += w.opt.Latency(c.route.String())
	}
	if err := sleep(r.Context(), wait); err != nil {
		w.record(c, 0)
		return answer{}, err
	}

	w.lock()
	c.now, c.at = w.now, w.now
	date := w.time(w.now).Add(hits.skew)
	if hits.staleBy > 0 {
		c.at, c.stale = w.now-hits.staleBy.Milliseconds(), true
	}
	a := answer{header: c.out, truncate: hits.truncate}
	var gql GraphQLHandler
	switch {
	case hits.drop:
		a.drop = true
	case hits.status != 0:
		a.status, a.body = hits.status, []byte(hits.body)
		c.out = http.Header{}
		a.header = c.out
		c.out.Set("Content-Type", hits.contentType)
		if hits.retryAfter != "" {
			c.out.Set("Retry-After", hits.retryAfter)
		}
	case limited:
		a.status, a.body = http.StatusTooManyRequests, []byte("Retry later\n")
		c.out.Set("Content-Type", "text/plain")
	case c.route.path == graphqlRoute.path && w.graphql != nil && (c.route == graphqlRoute || c.route.method == http.MethodGet):
		gql = w.graphql
		c.tok = tok
	default:
		c.out.Set("Content-Type", "application/json")
		c.out.Set("Cache-Control", "max-age=0, private, must-revalidate")
		c.out.Set("Vary", "Origin")
		switch {
		case w.routes[c.route] == nil:
			a.status, a.body = c.unknownRoute()
		case authErr != nil:
			a.status, a.body = authErr.status, authErr.body
		default:
			c.tok = tok
			a.status, a.body = c.answer()
		}
	}
	c.out.Set("X-Request-Id", fmt.Sprintf("01%024X", mix(seq)))
	w.mu.Unlock()

	if gql != nil {
		rec := &recorder{header: c.out, status: http.StatusOK}
		gql(rec, r, w.caller(c.tok))
		a.status, a.body = rec.status, rec.body.Bytes()
	}
	a.header.Set("Date", date.UTC().Format(http.TimeFormat))
	if a.drop {
		w.record(c, 0)
	} else {
		w.record(c, a.status)
	}
	return a, nil
}

// recorder keeps what a mounted handler writes, so that faults can touch it.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }

// sleep waits d on a timer, or returns the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// route is a method and a template, such as "GET /runners/:id/jobs".
type route struct{ method, path string }

// unmatched is the route of paths that the API does not have.
const unmatched = "/(unknown)"

var graphqlRoute = route{http.MethodPost, "/graphql"}

func (r route) String() string { return r.method + " " + r.path }

// match finds the route of a request. The path is taken escaped, so that a
// group's path "a%2Fb" stays one segment.
func (w *World) match(r *http.Request) (route, []string) {
	method := r.Method
	if method == http.MethodHead || method == "" {
		method = http.MethodGet
	}
	none := route{method, unmatched}
	p, ok := strings.CutPrefix(r.URL.EscapedPath(), w.opt.Root)
	if !ok {
		return none, nil
	}
	if p == "/api/graphql" {
		return route{method, "/graphql"}, nil
	}
	if p, ok = strings.CutPrefix(p, "/api/v4/"); !ok {
		return none, nil
	}
	seg := strings.Split(strings.TrimSuffix(p, "/"), "/")
	for i, s := range seg {
		u, err := url.PathUnescape(s)
		if err != nil {
			return none, nil
		}
		seg[i] = u
	}
	for _, t := range templates {
		if t.fits(seg) {
			return route{method, t.path}, seg
		}
	}
	return none, seg
}

type template struct {
	path  string
	parts []string
}

func (t template) fits(seg []string) bool {
	if len(seg) != len(t.parts) {
		return false
	}
	for i, p := range t.parts {
		switch {
		case p == seg[i]:
		case p == ":id" && t.parts[0] == "runners", p == ":job_id":
			// GitLab's own routes require digits here and return 404 otherwise.
			if _, err := strconv.ParseInt(seg[i], 10, 64); err != nil {
				return false
			}
		case p[0] == ':' && seg[i] != "":
		default:
			return false
		}
	}
	return true
}

// templates in the order of matching: fixed words before ids.
var templates = makeTemplates(
	"/runners", "/runners/all", "/runners/:id", "/runners/:id/managers", "/runners/:id/jobs", "/runners/:id/projects",
	"/groups/:id", "/groups/:id/runners", "/projects/:id/runners", "/projects/:id/jobs", "/projects/:id/jobs/:job_id",
	"/version", "/metadata", "/personal_access_tokens/self", "/user",
)

func makeTemplates(paths ...string) []template {
	var ts []template
	for _, p := range paths {
		ts = append(ts, template{p, strings.Split(p[1:], "/")})
	}
	return ts
}

func (c *call) unknownRoute() (int, []byte) {
	for r := range c.w.routes {
		if r.path == c.route.path {
			return http.StatusMethodNotAllowed, []byte(`{"error":"405 Not Allowed"}`)
		}
	}
	return http.StatusNotFound, []byte(`{"error":"404 Not Found"}`)
}

// failure is an error answer, as JSON.
type failure struct {
	status int
	body   []byte
}

func message(status int, text string) *failure {
	return &failure{status, append(kStr([]byte{'{'}, "message", text), '}')}
}

func errorBody(status int, text string) *failure {
	return &failure{status, append(kStr([]byte{'{'}, "error", text), '}')}
}

func forbidden() *failure { return message(http.StatusForbidden, "403 Forbidden") }

func noAccess() *failure { return message(http.StatusForbidden, "403 Forbidden - No access granted") }

func (w *World) notFound(what string) *failure {
	if w.f.runnerNotFound || what == "" || what != "Runner" {
		if what != "" {
			what += " "
		}
		return message(http.StatusNotFound, "404 "+what+"Not Found")
	}
	return message(http.StatusNotFound, "404 Not found")
}

// answer checks the token's scope and runs the route.
func (c *call) answer() (int, []byte) {
	h := c.w.routes[c.route]
	if f := c.checkScope(); f != nil {
		return f.status, f.body
	}
	c.admin = c.w.effectiveAdmin(c.tok)
	if f := h(c); f != nil {
		return f.status, f.body
	}
	return http.StatusOK, c.body
}

type handler func(*call) *failure

// makeRoutes lists what this release offers; the rest is 404.
func (w *World) makeRoutes() map[route]handler {
	m := map[route]handler{
		{"GET", "/runners"}:                   (*call).listOwned,
		{"GET", "/runners/all"}:               (*call).listAll,
		{"GET", "/runners/:id"}:               (*call).runnerDetails,
		{"GET", "/runners/:id/jobs"}:          (*call).runnerJobs,
		{"GET", "/groups/:id"}:                (*call).groupInfo,
		{"GET", "/groups/:id/runners"}:        (*call).listGroup,
		{"GET", "/projects/:id/runners"}:      (*call).listProject,
		{"GET", "/projects/:id/jobs"}:         (*call).projectJobs,
		{"GET", "/projects/:id/jobs/:job_id"}: (*call).projectJob,
		{"GET", "/version"}:                   (*call).version,
		{"GET", "/user"}:                      (*call).currentUser,
	}
	if w.f.managers {
		m[route{"GET", "/runners/:id/managers"}] = (*call).runnerManagers
	}
	if w.f.projects {
		m[route{"GET", "/runners/:id/projects"}] = (*call).runnerProjects
	}
	if w.f.metadata {
		m[route{"GET", "/metadata"}] = (*call).metadata
	}
	if w.f.tokenSelf {
		m[route{"GET", "/personal_access_tokens/self"}] = (*call).tokenSelf
	}
	return m
}

// LogEntry is one request as GitLab's access log would have it.
type LogEntry struct {
	At     time.Time
	Method string
	Path   string // with its query; the value of a token parameter is left out
	Route  string
	Status int // 0: no answer, the connection was cut or the client gave up
}

// logSize bounds the log: a demonstration runs for weeks.
const logSize = 1 << 16

func (w *World) record(c *call, status int) {
	u := *c.req.URL
	if q := u.Query(); q.Has("token") || q.Has("private_token") {
		q.Del("token")
		q.Del("private_token")
		u.RawQuery = q.Encode()
	}
	e := LogEntry{Method: c.req.Method, Path: u.RequestURI(), Route: c.route.String(), Status: status}
	w.mu.Lock()
	defer w.mu.Unlock()
	e.At = w.time(w.now)
	w.counts[e.Route]++
	w.byStatus[status]++
	if len(w.log) < logSize {
		w.log = append(w.log, e)
	} else {
		w.log[w.logNext] = e
		w.logNext = (w.logNext + 1) % logSize
	}
}
