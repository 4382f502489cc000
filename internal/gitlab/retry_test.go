package gitlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// step is what a scripted GitLab does with one request.
type step struct {
	status int
	header http.Header
	body   string
	err    error         // in place of an answer
	cut    error         // after the body
	delay  time.Duration // before the answer, or until the request is given up
}

// script is a GitLab whose answers are written down; the last one repeats.
// It notes when each request came.
type script struct {
	steps []step
	at    []time.Time
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	st := s.steps[min(len(s.at), len(s.steps)-1)]
	s.at = append(s.at, time.Now())
	if st.delay > 0 {
		select {
		case <-r.Context().Done():
			return nil, r.Context().Err()
		case <-time.After(st.delay):
		}
	}
	if st.err != nil {
		return nil, st.err
	}
	var body io.Reader = strings.NewReader(st.body)
	if st.cut != nil {
		body = io.MultiReader(body, iotest.ErrReader(st.cut))
	}
	header := st.header.Clone()
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{StatusCode: st.status, Header: header, Body: io.NopCloser(body), Request: r}, nil
}

// waits are the pauses between the requests.
func (s *script) waits() []time.Duration {
	var w []time.Duration
	for i := 1; i < len(s.at); i++ {
		w = append(w, s.at[i].Sub(s.at[i-1]))
	}
	return w
}

// gate counts and keeps the books of a Gate.
type gate struct {
	acquire  func(ctx context.Context, n int) error
	acquired int
	held     int
	released []int
	headers  []http.Header
}

func (g *gate) Acquire(ctx context.Context) error {
	if g.acquire != nil {
		if err := g.acquire(ctx, g.acquired); err != nil {
			return err
		}
	}
	g.acquired++
	g.held++
	return nil
}

func (g *gate) Release(status int, h http.Header) {
	g.held--
	g.released = append(g.released, status)
	g.headers = append(g.headers, h)
}

func (s *script) client(t *testing.T, retries *[]Reason) *Client {
	t.Helper()
	return newClient(t, Options{
		BaseURL: "https://gitlab.example.com", HTTPClient: &http.Client{Transport: s},
		Hooks: Hooks{Retry: func(r Reason) { *retries = append(*retries, r) }},
	})
}

const good = `[{"id":5}]`

// TestRetriesAreBounded: what is tried again, how often, and after which waits, in virtual time.
func TestRetriesAreBounded(t *testing.T) {
	type between struct{ low, high time.Duration }
	first, second, third, full := between{500 * time.Millisecond, time.Second}, between{2 * time.Second, 4 * time.Second}, between{8 * time.Second, 15 * time.Second}, between{15 * time.Second, 15 * time.Second}
	none := between{}
	exactly := func(d time.Duration) between { return between{d, d} }
	after := func(v string) http.Header { return http.Header{"Retry-After": {v}} }
	reset := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}

	for _, c := range []struct {
		name   string
		steps  []step
		gated  bool
		waits  []between
		reason Reason // "": it succeeded
		status int
	}{
		{name: "at once", steps: []step{{status: 200, body: good}}},
		{name: "500 then well", steps: []step{{status: 500}, {status: 200, body: good}}, waits: []between{first}},
		{name: "502 for ever", steps: []step{{status: 502}}, waits: []between{first, second, third}, reason: ReasonServerError, status: 502},
		{name: "503 with seconds", steps: []step{{status: 503, header: after("7")}, {status: 200, body: good}}, waits: []between{exactly(7 * time.Second)}},
		{name: "503 with a day", steps: []step{{status: 503, header: after("86400")}, {status: 200, body: good}}, waits: []between{exactly(time.Minute)}},
		{name: "503 with zero", steps: []step{{status: 503, header: after("0")}, {status: 200, body: good}}, waits: []between{first}},
		{name: "500 with seconds, which are ignored", steps: []step{{status: 500, header: after("50")}, {status: 200, body: good}}, waits: []between{first}},
		{name: "504", steps: []step{{status: 504}, {status: 200, body: good}}, waits: []between{first}},
		{name: "408", steps: []step{{status: 408}, {status: 200, body: good}}, waits: []between{first}},
		{name: "501", steps: []step{{status: 501}}, reason: ReasonServerError, status: 501},
		{name: "reset, refused, EOF", steps: []step{{err: reset}, {err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}, {err: io.EOF}, {status: 200, body: good}}, waits: []between{first, second, third}},
		{name: "unknown name for ever", steps: []step{{err: &net.DNSError{Err: "no such host", Name: "h", IsNotFound: true}}}, waits: []between{first, second, third}, reason: ReasonConnection},
		{name: "cut off in the body", steps: []step{{status: 200, body: `[{"id":5}`, cut: reset}, {status: 200, body: good}}, waits: []between{first}},
		{name: "cut off for ever", steps: []step{{status: 200, body: `[{"id":5},`, cut: io.ErrUnexpectedEOF}}, waits: []between{first, second, third}, reason: ReasonConnection, status: 200},
		{name: "truncated JSON", steps: []step{{status: 200, body: `[{"id":4}`}, {status: 200, body: good}}, waits: []between{first}},
		{name: "truncated JSON for ever", steps: []step{{status: 200, body: ``}}, waits: []between{first, second, third}, reason: ReasonDecode, status: 200},
		{name: "damaged gzip", steps: []step{{status: 200, header: http.Header{"Content-Encoding": {"gzip"}}, body: "not packed"}, {status: 200, body: good}}, waits: []between{first}},
		{name: "empty gzip", steps: []step{{status: 200, header: http.Header{"Content-Encoding": {"gzip"}}}, {status: 200, body: good}}, waits: []between{first}},
		{name: "cut off after the end", steps: []step{{status: 200, body: good, cut: reset}}},
		{name: "slow for ever", steps: []step{{status: 200, body: good, delay: time.Hour}}, waits: []between{
			{30*time.Second + first.low, 30*time.Second + first.high},
			{30*time.Second + second.low, 30*time.Second + second.high},
			{30*time.Second + third.low, 30*time.Second + third.high},
		}, reason: ReasonTimeout},
		{name: "429 with seconds", steps: []step{{status: 429, header: after("9"), body: "Retry later"}, {status: 200, body: good}}, waits: []between{exactly(9 * time.Second)}},
		{name: "429 with an hour", steps: []step{{status: 429, header: after("3600")}, {status: 200, body: good}}, waits: []between{exactly(time.Minute)}},
		{name: "429 for ever", steps: []step{{status: 429}}, waits: []between{first, second, third, full, full}, reason: ReasonRateLimited, status: 429},
		{name: "429 behind a gate", steps: []step{{status: 429, header: after("9")}}, gated: true, waits: []between{none, none, none, none, none}, reason: ReasonRateLimited, status: 429},
		{name: "503 behind a gate", steps: []step{{status: 503, header: after("9")}, {status: 200, body: good}}, gated: true, waits: []between{exactly(9 * time.Second)}},
		{name: "mixed", steps: []step{{status: 429}, {status: 429}, {status: 429}, {status: 500}}, gated: true, waits: []between{none, none, none}, reason: ReasonServerError, status: 500},
		{name: "no token to show", steps: []step{{err: fmt.Errorf("unable to read: %w", &fs.PathError{Op: "open", Path: "/run/t", Err: fs.ErrNotExist})}}, reason: ReasonUnauthorized},
		{name: "400", steps: []step{{status: 400}}, reason: ReasonBadRequest, status: 400},
		{name: "401", steps: []step{{status: 401, body: `{"message":"401 Unauthorized"}`}}, reason: ReasonUnauthorized, status: 401},
		{name: "403", steps: []step{{status: 403, body: `{"message":"403 Forbidden"}`}}, reason: ReasonForbidden, status: 403},
		{name: "404", steps: []step{{status: 404, body: `{"message":"404 Not found"}`}}, reason: ReasonNotFound, status: 404},
		{name: "a page with 401, then well", steps: []step{{status: 401, body: "<html>"}, {status: 200, body: good}}, waits: []between{first}},
		{name: "a page with 403, then well", steps: []step{{status: 403, body: "<html>"}, {status: 200, body: good}}, waits: []between{first}},
		{name: "a page with 404 for ever", steps: []step{{status: 404, body: "<html>"}}, waits: []between{first}, reason: ReasonNotGitLab, status: 404},
		{name: "a page with 200, then well", steps: []step{{status: 200, body: "<html>"}, {status: 200, body: good}}, waits: []between{first}},
		{name: "an outage, then a page", steps: []step{{status: 502}, {status: 404, body: "<html>"}}, waits: []between{first}, reason: ReasonNotGitLab, status: 404},
		{name: "405", steps: []step{{status: 405, body: `{"error":"no keyset"}`}}, reason: ReasonBadRequest, status: 405},
		{name: "a page with 405", steps: []step{{status: 405, body: "<html>"}}, reason: ReasonNotGitLab, status: 405},
		{name: "302", steps: []step{{status: 302}}, reason: ReasonRedirect, status: 302},
		{name: "not the list", steps: []step{{status: 200, body: `{}`}}, waits: []between{first}, reason: ReasonNotGitLab, status: 200},
		{name: "a damaged list", steps: []step{{status: 200, body: `[{"id":1}{}]`}}, reason: ReasonDecode, status: 200},
		{name: "204", steps: []step{{status: 204}}, reason: ReasonDecode, status: 204},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{steps: c.steps}
				var retries []Reason
				client := s.client(t, &retries)
				g := &gate{}
				if c.gated {
					client = client.For(g)
				}
				m, err := client.Managers(t.Context(), 1)
				if ReasonOf(err) != c.reason {
					t.Fatalf("got %v, want reason %q", err, c.reason)
				}
				if err == nil && (len(m) != 1 || m[0].ID != 5) {
					t.Errorf("got %+v", m) // rows of a failed attempt must not stay
				}
				if e, ok := errors.AsType[*Error](err); ok && e.Status != c.status {
					t.Errorf("status %d", e.Status)
				}
				waits := s.waits()
				if len(waits) != len(c.waits) {
					t.Fatalf("%d waits: %v", len(waits), waits)
				}
				for i, w := range waits {
					if w < c.waits[i].low || w > c.waits[i].high {
						t.Errorf("wait %d was %v, not within %v", i+1, w, c.waits[i])
					}
				}
				if len(retries) != len(waits) {
					t.Errorf("%d retries reported of %d", len(retries), len(waits))
				}
				if c.gated && (g.held != 0 || g.acquired != len(s.at) || len(g.released) != len(s.at)) {
					t.Errorf("gate %+v after %d requests", g, len(s.at))
				}
			})
		})
	}
}

// TestRetryReportsTheReason of the failure that is repeated, and the gate sees
// each answer as it was.
func TestRetryReportsTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []step{
			{status: 429, header: http.Header{"Ratelimit-Remaining": {"0"}}},
			{err: io.EOF},
			{status: 503},
			{status: 200, body: good, header: http.Header{"Ratelimit-Remaining": {"7"}}},
		}}
		var (
			retries  []Reason
			attempts []Attempt
		)
		c := s.client(t, &retries)
		c.hooks.Attempt = func(a Attempt) { attempts = append(attempts, a) }
		g := &gate{}
		if _, err := c.For(g).Managers(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		equal(t, "retries", retries, []Reason{ReasonRateLimited, ReasonConnection, ReasonServerError})
		equal(t, "released", g.released, []int{429, 0, 503, 200})
		if g.headers[0].Get("Ratelimit-Remaining") != "0" || g.headers[1] != nil || g.headers[3].Get("Ratelimit-Remaining") != "7" {
			t.Errorf("headers %v", g.headers)
		}
		var codes []int
		for _, a := range attempts {
			codes = append(codes, a.Code)
		}
		equal(t, "codes", codes, []int{429, 0, 503, 200})
	})
}

// TestGateIsHeldWhileTheBodyIsRead: a limit on concurrent requests must see
// the whole of a request, and none of the wait before the next.
func TestGateIsHeldWhileTheBodyIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{}
		n := 0
		hc := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			n++
			if g.held != 1 {
				t.Errorf("%d held at request %d", g.held, n)
			}
			body := strings.NewReader(good)
			read := func(b []byte) (int, error) {
				if g.held != 1 {
					t.Errorf("%d held while the body is read", g.held)
				}
				if n == 1 {
					return 0, io.ErrUnexpectedEOF
				}
				return body.Read(b)
			}
			return &http.Response{StatusCode: 200, Body: io.NopCloser(readerFunc(read)), Header: http.Header{}, Request: r}, nil
		})}
		c := newClient(t, Options{BaseURL: "https://h", HTTPClient: hc, Hooks: Hooks{Retry: func(Reason) {
			if g.held != 0 {
				t.Errorf("%d held between attempts", g.held)
			}
		}}})
		if _, err := c.For(g).Managers(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		equal(t, "released", g.released, []int{200, 200})
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// TestCallerOutOfTimeGetsTheLastError: a caller out of time gets GitLab's last failure, at once.
func TestCallerOutOfTimeGetsTheLastError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []step{{status: 502}}}
		var retries []Reason
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := s.client(t, &retries).Managers(ctx, 1)
		if e, ok := errors.AsType[*Error](err); !ok || e.Status != 502 {
			t.Errorf("got %v", err)
		}
		// The second wait, of 2 s at least, cannot end in time: it is not begun.
		if len(s.at) != 2 || time.Since(start) > time.Second || len(retries) != 1 {
			t.Errorf("%d requests, %v, %d retries", len(s.at), time.Since(start), len(retries))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []step{{status: 503}, {status: 200, body: good, delay: time.Minute}}}
		var retries []Reason
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := s.client(t, &retries).Managers(ctx, 1)
		if e, ok := errors.AsType[*Error](err); !ok || e.Status != 503 {
			t.Errorf("got %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // the gate is shut after a real failure
		s := &script{steps: []step{{status: 503}}}
		var retries []Reason
		g := &gate{acquire: func(_ context.Context, n int) error {
			if n > 0 {
				return errors.New("closed")
			}
			return nil
		}}
		_, err := s.client(t, &retries).For(g).Managers(t.Context(), 1)
		if e, ok := errors.AsType[*Error](err); !ok || e.Status != 503 || g.held != 0 {
			t.Errorf("got %v, gate %+v", err, g)
		}
	})
}

// TestRequestThatTheCallerEndedIsNotRepeated: the caller's end is distinguished from GitLab's slowness.
func TestRequestThatTheCallerEndedIsNotRepeated(t *testing.T) {
	for _, c := range []struct {
		name   string
		end    func(context.Context) (context.Context, context.CancelFunc)
		reason Reason
		cause  error
	}{
		{"canceled", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(3*time.Second, cancel)
			return ctx, cancel
		}, ReasonCanceled, context.Canceled},
		{"deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 3*time.Second)
		}, ReasonTimeout, context.DeadlineExceeded},
	} {
		for _, where := range []string{"answer", "body", "gate", "wait"} {
			t.Run(c.name+" in the "+where, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := c.end(t.Context())
					defer cancel()
					var retries []Reason
					s := &script{steps: []step{{status: 200, body: good, delay: time.Minute}}}
					g := &gate{}
					switch where {
					case "gate":
						g.acquire = func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }
					case "wait":
						s.steps = []step{{status: 503, header: http.Header{"Retry-After": {"40"}}}}
					}
					client := s.client(t, &retries)
					if where == "body" {
						client.http = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
							s.at = append(s.at, time.Now())
							read := func([]byte) (int, error) { <-r.Context().Done(); return 0, r.Context().Err() }
							return &http.Response{StatusCode: 200, Body: io.NopCloser(readerFunc(read)), Header: http.Header{}, Request: r}, nil
						})}
					}
					start := time.Now()
					_, err := client.For(g).Managers(ctx, 1)
					if where == "wait" {
						if ReasonOf(err) != ReasonServerError {
							t.Errorf("got %v", err)
						}
					} else if ReasonOf(err) != c.reason || !errors.Is(err, c.cause) {
						t.Errorf("got %v", err)
					}
					if d := time.Since(start); d > 3*time.Second || len(retries) != 0 || g.held != 0 || len(s.at) > 1 {
						t.Errorf("after %v, %d requests, %d retries, gate %+v", d, len(s.at), len(retries), g)
					}
				})
			})
		}
	}
}

// TestBodyWithoutEndIsTriedAgain: an answer that begins and never ends is a timeout of the
// attempt, which is worth another.
func TestBodyWithoutEndIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		c := newClient(t, Options{BaseURL: "https://h", Timeout: 4 * time.Second, HTTPClient: &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			n++
			read := strings.NewReader(good).Read
			if n == 1 {
				read = func([]byte) (int, error) { <-r.Context().Done(); return 0, r.Context().Err() }
			}
			return &http.Response{StatusCode: 200, Body: io.NopCloser(readerFunc(read)), Header: http.Header{}, Request: r}, nil
		})}})
		var reasons []Reason
		c.hooks.Retry = func(r Reason) { reasons = append(reasons, r) }
		if _, err := c.Managers(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		equal(t, "reasons", reasons, []Reason{ReasonTimeout})
	})
}

// TestAttemptHasItsTimes: the clock difference needs both clocks at the same moment,
// the answer's header; the duration goes on until the body was read.
func TestAttemptHasItsTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		date := start.Add(42 * time.Second).UTC().Truncate(time.Second)
		var got Attempt
		c := newClient(t, Options{
			BaseURL: "https://h", HTTPClient: &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				time.Sleep(2 * time.Second)
				done := false
				read := func(b []byte) (int, error) {
					if done {
						return 0, io.EOF
					}
					done = true
					time.Sleep(3 * time.Second)
					return copy(b, good), nil
				}
				return &http.Response{StatusCode: 200, Body: io.NopCloser(readerFunc(read)), Header: http.Header{"Date": {date.Format(http.TimeFormat)}}, Request: r}, nil
			})},
			Hooks: Hooks{Attempt: func(a Attempt) { got = a }},
		})
		if _, err := c.Managers(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if !got.ReceivedAt.Equal(start.Add(2*time.Second)) || !got.Date.Equal(date) || got.Duration != 5*time.Second || got.Code != 200 {
			t.Errorf("got %+v", got)
		}
	})
}

// TestForChangesTheGateOnly: a bound client shares everything but the gate.
func TestForChangesTheGateOnly(t *testing.T) {
	var retries []Reason
	s := &script{steps: []step{{status: 200, body: good}}}
	c := s.client(t, &retries)
	a, b := &gate{}, &gate{}
	if _, err := c.For(a).For(b).Managers(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := c.For(a).For(nil).Managers(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Managers(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if a.acquired != 0 || b.acquired != 1 || reflect.TypeOf(c.gate) != reflect.TypeFor[openGate]() {
		t.Errorf("gates %+v %+v", a, b)
	}
}
