// Package gitlab reads one GitLab: its REST endpoints for runners, machines
// and jobs, page by page, by hand on net/http.
//
// It waits for a Gate before each request, repeats what may be repeated, decodes
// leniently what GitLab's releases write differently, and names each failure by
// a Reason from a closed set. What a row means is
// decided elsewhere (internal/inventory, internal/ledger). Section numbers in
// comments are those of docs/gitlab-api.md.
//
// A request is built in one place: its method is GET, or POST with a GraphQL
// query, never a mutation. Secrets live in the http.Client that is handed in and
// never appear in an error or a log line.
package gitlab

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"gitlab-runner-fleet-exporter/internal/ratelimit"
	"gitlab-runner-fleet-exporter/internal/secret"
)

// Gate admits each attempt, retries included. The budget of a GitLab implements it.
type Gate interface {
	// Acquire blocks until one request may be sent.
	Acquire(ctx context.Context) error
	// Release is called exactly once for each Acquire that succeeded, after
	// the body was read. status 0: no answer; header may be nil.
	Release(status int, header http.Header)
}

// openGate lets all through.
type openGate struct{}

func (openGate) Acquire(ctx context.Context) error { return ctx.Err() }
func (openGate) Release(int, http.Header)          {}

// Attempt is one HTTP request that was sent.
type Attempt struct {
	Route      Route
	Code       int           // 0: no HTTP answer
	Duration   time.Duration // until the body was read, or the failure
	Date       time.Time     // GitLab's clock; zero if absent, unparsable or not GitLab's
	ReceivedAt time.Time     // our clock when the answer's header came, or the failure
}

// Hooks are functions that are called for events on the wire, where not nil.
// They are called from the goroutine of the reading and must be safe for
// concurrent use.
type Hooks struct {
	Attempt func(Attempt)
	Retry   func(Reason) // just before an attempt is repeated
}

// Options of New.
type Options struct {
	BaseURL    string        // https://host[/relative/root]; /api/v4 is added
	HTTPClient *http.Client  // brings credentials, TLS and proxy; should not follow redirects
	Timeout    time.Duration // of one attempt, body included; 0: 30 s
	UserAgent  string
	Hooks      Hooks
	// Scrub masks the secrets of the HTTPClient in a foreign text; nil: those
	// are not known here.
	Scrub func(string) string
	// ScrubNames does so in names of runners, their tags and the like, where
	// only a long one is masked; nil: nothing is.
	ScrubNames func(string) string
	Logger     log.Logger // one debug line an attempt
}

const (
	defaultTimeout = 30 * time.Second
	apiRoot        = "/api/v4"
	graphqlPath    = "/api/graphql"
)

// Client reads one GitLab. It is immutable and safe for concurrent use.
type Client struct {
	base    url.URL // up to and without apiRoot
	http    *http.Client
	timeout time.Duration
	agent   string
	hooks   Hooks
	logger  log.Logger
	gate    Gate
	scrub   func(string) string
	names   func(string) string

	unpackers *sync.Pool // of *gzip.Reader, 40 kB each
}

// New checks the options. Its errors never show the URL, which may hold a password.
func New(o Options) (*Client, error) {
	base, err := url.Parse(strings.TrimSpace(o.BaseURL))
	switch {
	case err != nil:
		return nil, errors.New("gitlab: the url cannot be parsed")
	case base.Scheme != "https" && base.Scheme != "http":
		return nil, errors.New("gitlab: the url must begin with https:// or http://")
	case base.Hostname() == "":
		return nil, errors.New("gitlab: the url names no host")
	case base.RawQuery != "" || base.ForceQuery || base.Fragment != "":
		return nil, errors.New("gitlab: the url must have neither a query nor a fragment")
	case o.HTTPClient == nil:
		return nil, errors.New("gitlab: no http client")
	}
	base.Path, base.RawPath = strings.TrimRight(base.Path, "/"), ""
	base.Path = strings.TrimRight(strings.TrimSuffix(base.Path, apiRoot), "/") // pasted with the API's root
	c := &Client{
		base: *base, http: o.HTTPClient, timeout: o.Timeout, agent: o.UserAgent, hooks: o.Hooks,
		scrub: o.Scrub, names: o.ScrubNames, logger: o.Logger, gate: openGate{},
		unpackers: new(sync.Pool),
	}
	if c.timeout <= 0 {
		c.timeout = defaultTimeout
	}
	if c.logger == nil {
		c.logger = log.NewNopLogger()
	}
	if c.scrub == nil {
		c.scrub = func(s string) string { return s }
	}
	if c.names == nil {
		c.names = func(s string) string { return s }
	}
	if base.User != nil { // the configuration refuses it
		var own secret.List
		own.Hold("url", base.User.Username())
		if password, _ := base.User.Password(); password != "" {
			own.Hold("url", password)
		}
		given := c.scrub
		c.scrub = func(s string) string { return own.Scrub(given(s)) }
	}
	return c, nil
}

// For returns the same client bound to a reading's gate; nil lets all through.
func (c *Client) For(g Gate) *Client {
	bound := *c
	bound.gate = g
	if g == nil {
		bound.gate = openGate{}
	}
	return &bound
}

// request is what an endpoint asks for.
type request struct {
	route Route
	path  string // escaped, below apiRoot
	query url.Values

	document  string // of GraphQL; "": REST
	variables map[string]any

	took *time.Duration // where not nil: of the last attempt
}

// below is the path under the root of GitLab.
func (r request) below() string {
	if r.document != "" {
		return graphqlPath
	}
	return apiRoot + r.path
}

// newRequest is the only place where a request is made. It makes nothing but
// GET, and POST with a GraphQL document of one query, so this program only reads.
func (c *Client) newRequest(ctx context.Context, r request) (*http.Request, error) {
	method, body := http.MethodGet, io.Reader(http.NoBody)
	if r.document != "" {
		packed, err := graphqlBody(r)
		if err != nil {
			return nil, err
		}
		method, body = http.MethodPost, bytes.NewReader(packed)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base.Scheme+"://"+c.base.Host, body)
	if err != nil {
		return nil, err
	}
	escaped := c.base.EscapedPath() + r.below()
	plain, err := url.PathUnescape(escaped)
	if err != nil {
		return nil, err
	}
	req.URL.User = c.base.User
	req.URL.Path, req.URL.RawPath = plain, escaped
	req.URL.RawQuery = r.query.Encode()
	req.Header.Set("Accept", "application/json")
	if r.document != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	// Asked for and unpacked here, because prometheus/common builds transports
	// that do not: a page of jobs shrinks tenfold on the wire.
	req.Header.Set("Accept-Encoding", "gzip")
	if c.agent != "" {
		req.Header.Set("User-Agent", c.agent)
	}
	return req, nil
}

// get reads one answer, repeating what may be repeated, and returns its
// header. decode is called once for each answer with status 200 and starts
// anew each time. The error is always an *Error.
func (c *Client) get(ctx context.Context, r request, decode func(io.Reader) error) (http.Header, error) {
	var last *Error
	for n := 1; ; n++ {
		header, e := c.attempt(ctx, r, n, decode)
		if e == nil {
			return header, nil
		}
		if ours := (e.Reason == ReasonTimeout || e.Reason == ReasonCanceled) && !e.retryable; ours && last != nil {
			return nil, last // GitLab's failure is more useful than the end of our time
		}
		last = e
		delay, again := c.retry(e, n)
		if !again || !wait(ctx, delay) {
			return nil, e
		}
		if c.hooks.Retry != nil {
			c.hooks.Retry(e.Reason)
		}
	}
}

// attempt sends one request and reads its answer.
func (c *Client) attempt(ctx context.Context, r request, n int, decode func(io.Reader) error) (http.Header, *Error) {
	if err := c.gate.Acquire(ctx); err != nil {
		e := &Error{Reason: ReasonCanceled, Route: r.route, Message: c.text(err.Error()), Err: err}
		if errors.Is(err, context.DeadlineExceeded) {
			e.Reason = ReasonTimeout
		}
		return nil, e
	}
	var (
		start  = time.Now()
		result = Attempt{Route: r.route}
		header http.Header
	)
	defer func() { c.gate.Release(result.Code, header) }()

	tctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	e := func() *Error {
		var limit headerLimit
		req, err := c.newRequest(limit.with(tctx), r)
		if err != nil {
			return &Error{Reason: ReasonBadRequest, Message: "the request cannot be built"}
		}
		resp, err := c.http.Do(req)
		if limit.free() && err != nil {
			err = errLongHeader // not what is wrong with the part that was read
		}
		result.ReceivedAt = time.Now()
		if err != nil {
			if resp != nil {
				// The client follows redirects and gave up; it closed the body.
				_ = resp.Body.Close()
				result.Code, header = resp.StatusCode, resp.Header
				return c.statusError(resp, r, nil)
			}
			return c.transportError(ctx, err)
		}
		defer func() { _ = resp.Body.Close() }()
		result.Code, header = resp.StatusCode, resp.Header
		result.Date, _ = http.ParseTime(resp.Header.Get("Date"))
		return c.readBody(ctx, resp, r, decode)
	}()
	result.Duration = time.Since(start)
	if r.took != nil {
		*r.took = result.Duration
	}
	if e != nil && e.Reason == ReasonNotGitLab {
		result.Date = time.Time{} // the clock of whoever answered in GitLab's place
	}

	if c.hooks.Attempt != nil {
		c.hooks.Attempt(result)
	}
	keyvals := []any{"msg", "request", "route", r.route, "status", result.Code, "duration", result.Duration, "attempt", n}
	if e != nil {
		if e.Reason == ReasonTimeout && e.retryable && r.document != "" {
			// The same page would take as long again: a smaller one may not.
			e.slow, e.retryable = true, false
		}
		e.Route = r.route
		e.RequestID = requestID(header.Get("X-Request-Id"), c.scrub)
		keyvals = append(keyvals, "reason", e.Reason, "err", e)
	}
	_ = level.Debug(c.logger).Log(keyvals...)
	if e != nil {
		return nil, e
	}
	return header, nil
}

// readBody turns an answer into a decoded value or an error.
func (c *Client) readBody(ctx context.Context, resp *http.Response, r request, decode func(io.Reader) error) *Error {
	plain := io.Reader(resp.Body)
	if strings.EqualFold(resp.Header.Get("Content-Encoding"), "gzip") {
		unpacked := &gzipBody{packed: resp.Body, pool: c.unpackers}
		defer unpacked.release()
		plain = unpacked
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(plain, maxErrorBody))
		drain(resp.Body)
		return c.statusError(resp, r, text)
	}
	body := &cappedBody{r: plain, left: r.route.maxBody()}
	err := decode(body)
	if err == nil {
		return nil // decode has read to the end
	}
	if no, ok := errors.AsType[*refusal](err); ok {
		message := c.text(no.message)
		no.message, no.field = "", c.scrub(no.field) // the cause would show what the text hides
		return &Error{Reason: no.reason, Status: resp.StatusCode, Message: message, Err: no, slow: no.slow}
	}
	if body.err != nil {
		e := c.transportError(ctx, body.err)
		e.Status = resp.StatusCode
		return e
	}
	if isWrongShape(err) {
		return c.wrongShape(resp, body, err)
	}
	drain(resp.Body)
	e := &Error{Reason: ReasonDecode, Status: resp.StatusCode, Err: err}
	if large, ok := errors.AsType[tooLarge](err); ok {
		e.Reason, e.Message = ReasonTooLarge, large.Error()
		return e
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		e.retryable = true
		e.Message = "the answer ends before its JSON does"
		return e
	}
	e.Message = c.text("not the expected JSON (" + contentType(resp) + "): " + err.Error())
	e.Err = c.cause(err)
	return e
}

// transportError is a failure without an answer, or in the middle of one.
func (c *Client) transportError(ctx context.Context, err error) *Error {
	err = withoutURL(err)
	e := &Error{Message: c.text(err.Error()), Err: c.cause(err)}
	e.Reason, e.retryable = transportReason(ctx, err)
	return e
}

// cause is an error for Error.Err, or only its words where those must hide
// something.
func (c *Client) cause(err error) error {
	plain := err.Error()
	if len(plain) > 20*maxMessage { // a malformed header is quoted whole
		return errors.New(c.text(plain))
	}
	if hidden := scrubLooks(c.scrub(plain)); hidden != plain {
		return errors.New(hidden)
	}
	return err
}

// statusError is an answer other than 200.
func (c *Client) statusError(resp *http.Response, r request, body []byte) *Error {
	e := &Error{Status: resp.StatusCode, retryAfter: ratelimit.RetryAfter(resp.Header, time.Now())}
	e.Reason, e.retryable = statusReason(resp.StatusCode)
	if r.document != "" && tooSlow(resp.StatusCode, body) {
		e.slow, e.retryable = true, false
	}
	if e.Reason == ReasonRedirect {
		e.Message = c.text(redirectMessage(resp, r, c.base.EscapedPath()))
		return e
	}
	if mustBeGitLab(resp.StatusCode, body) && !isGitLab(resp.StatusCode, body, r.document != "") {
		return c.foreign(resp, bodyMessage(body))
	}
	e.Message = c.text(bodyMessage(body))
	if e.Message == "" {
		e.Message = http.StatusText(resp.StatusCode)
	}
	return e
}

// text makes a foreign text fit for an error: without the secrets that are
// known, cut, without what looks like one, cut again. The known ones come before
// the first cut, since half a secret is not found; the search for what looks
// like one comes after it, since a page of 64 kB must not cost a second.
func (c *Client) text(s string) string {
	s = c.scrub(clean(s, len(s)))
	return clean(scrubLooks(clean(s, 20*maxMessage)), maxMessage)
}
