package gitlab

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	stdlog "log" //nolint:depguard // net/http wants it
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/go-kit/log"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

func TestNewRefusesWrongOptions(t *testing.T) {
	for _, base := range []string{
		"", "gitlab.example.com", "ftp://gitlab.example.com", "https://", "https:///gitlab", "https://h/?a=b", "https://h/?", "https://h/#x",
		"https://user:s3cr3t-%zz@h/", "https://user:s3cr3t@h:port/", "https://us er:s3cr3t@h/\x7f",
	} {
		_, err := New(Options{BaseURL: base, HTTPClient: &http.Client{}})
		if err == nil {
			t.Errorf("%q was accepted", base)
		} else if strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%q: %v", base, err)
		}
	}
	if _, err := New(Options{BaseURL: "https://h"}); err == nil {
		t.Error("no http client was accepted")
	}
}

// TestRequestsAreExact holds the exact requests: path, escaping and query.
func TestRequestsAreExact(t *testing.T) {
	var got string
	h := func(w http.ResponseWriter, r *http.Request) {
		got = r.Method + " " + r.RequestURI
		_, _ = w.Write([]byte(`[]`))
	}
	for _, root := range []string{"", "/", "/gitlab", "/gitlab/", "/gitlab/api/v4", "/gitlab/api/v4/"} {
		c := serve(t, h, func(o *Options) { o.BaseURL += root })
		prefix := ""
		if strings.HasPrefix(root, "/gitlab") {
			prefix = "/gitlab"
		}
		for want, call := range map[string]func(context.Context){
			"/runners/all?page=1&per_page=100":                          func(ctx context.Context) { _, _ = c.Runners(ctx, Scope{}, 0) },
			"/runners?page=2&per_page=100":                              func(ctx context.Context) { _, _ = c.Runners(ctx, Scope{Kind: snapshot.ScopeOwned}, 2) },
			"/groups/9/runners?page=1&per_page=100":                     func(ctx context.Context) { _, _ = c.Runners(ctx, Scope{snapshot.ScopeGroups, "9"}, 1) },
			"/groups/a%2Fb%20c.d/runners?page=1&per_page=100":           func(ctx context.Context) { _, _ = c.Runners(ctx, Scope{snapshot.ScopeGroups, "a/b c.d"}, 1) },
			"/projects/a%2F..%2Fb%3Fx=1%23/runners?page=3&per_page=100": func(ctx context.Context) { _, _ = c.Runners(ctx, Scope{snapshot.ScopeProjects, "a/../b?x=1#"}, 3) },
			"/runners/7":                        func(ctx context.Context) { _, _ = c.Runner(ctx, 7, false) },
			"/runners/7?include_projects=false": func(ctx context.Context) { _, _ = c.Runner(ctx, 7, true) },
			"/runners/7/managers":               func(ctx context.Context) { _, _ = c.Managers(ctx, 7) },
			"/runners/7/jobs?order_by=id&page=4&per_page=100&sort=desc":                func(ctx context.Context) { _, _ = c.RunnerJobs(ctx, JobsQuery{RunnerID: 7, Page: 4}) },
			"/runners/7/jobs?order_by=id&page=1&per_page=100&sort=desc&status=running": func(ctx context.Context) { _, _ = c.RunnerJobs(ctx, JobsQuery{RunnerID: 7, Status: "running"}) },
			"/runners/7/jobs?order_by=id&pagination=keyset&per_page=100&sort=desc":     func(ctx context.Context) { _, _ = c.RunnerJobs(ctx, JobsQuery{RunnerID: 7, Keyset: true}) },
			"/runners/7/jobs?cursor=e%3D%26&order_by=id&pagination=keyset&per_page=100&sort=desc": func(ctx context.Context) {
				_, _ = c.RunnerJobs(ctx, JobsQuery{RunnerID: 7, Keyset: true, Cursor: "e=&"})
			},
			"/projects/3/jobs/5":           func(ctx context.Context) { _, _ = c.Job(ctx, 3, 5) },
			"/metadata":                    func(ctx context.Context) { _, _ = c.Version(ctx) },
			"/personal_access_tokens/self": func(ctx context.Context) { _, _ = c.Token(ctx) },
		} {
			call(impatient{t.Context()})
			if want = "GET " + prefix + "/api/v4" + want; got != want {
				t.Errorf("root %q:\n got %s\nwant %s", root, got, want)
			}
		}
		for _, s := range []Scope{{Kind: snapshot.ScopeGroups}, {Kind: snapshot.ScopeProjects, ID: ".."}, {Kind: "other"}} {
			if _, err := c.Runners(t.Context(), s, 1); ReasonOf(err) != ReasonBadRequest {
				t.Errorf("%+v: %v", s, err)
			}
		}
	}
}

// TestClientOnlyReads calls every exported method there is, a future one included,
// and looks at what arrives.
func TestClientOnlyReads(t *testing.T) {
	var (
		mu       sync.Mutex
		requests []string
	)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		requests = append(requests, r.Method+" "+r.URL.Path)
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/api/graphql" {
			mustBeQuery(t, body)
		} else if len(body) != 0 {
			t.Errorf("%s %s has a body", r.Method, r.URL.Path)
		}
		w.WriteHeader(http.StatusNotFound)
	})
	v := reflect.ValueOf(c)
	called := 0
	for i := range v.NumMethod() {
		m := v.Type().Method(i)
		var args []reflect.Value
		for in := range v.Method(i).Type().Ins() {
			switch {
			case in == reflect.TypeFor[context.Context]():
				args = append(args, reflect.ValueOf(impatient{t.Context()}))
			case in.Kind() == reflect.Int64 || in.Kind() == reflect.Int:
				args = append(args, reflect.ValueOf(1).Convert(in))
			case in == reflect.TypeFor[QueueRequest](): // an empty one is refused
				args = append(args, reflect.ValueOf(QueueRequest{Project: "a/b"}))
			case in.Kind() == reflect.String:
				args = append(args, reflect.ValueOf("a/b"))
			default:
				args = append(args, reflect.Zero(in))
			}
		}
		before := len(requests)
		v.Method(i).Call(args)
		if m.Name != "For" && len(requests) == before {
			t.Errorf("%s sent nothing: this test does not see what it does", m.Name)
		}
		called++
	}
	if called < 8 {
		t.Errorf("only %d methods were called", called)
	}
	for _, r := range requests {
		if !strings.HasPrefix(r, "GET /api/v4/") && r != "POST /api/graphql" {
			t.Errorf("sent %s", r)
		}
	}
}

// mustBeQuery holds the body of a POST to one GraphQL operation that reads.
func mustBeQuery(t *testing.T, body []byte) {
	t.Helper()
	var sent struct{ Query string }
	if err := json.Unmarshal(body, &sent); err != nil {
		t.Errorf("a body of %s: %v", body, err)
	}
	if n := len(operations.FindAllString(sent.Query, -1)); n != 1 || !strings.HasPrefix(sent.Query, "query ") {
		t.Errorf("%d operations in %s", n, sent.Query)
	}
}

var operations = regexp.MustCompile(`\b(query|mutation|subscription)\b`)

func TestJobHasItsProjectOrAReason(t *testing.T) {
	for body, project := range map[string]int64{
		`{"id":5,"status":"success","duration":1.5,"queued_duration":null,"project":{"id":8},"runner":{"id":7},"runner_manager":{"id":3}}`: 8,
		`{"id":5,"status":"success","duration":1.5,"project":{"ci_job_token_scope_enabled":false}}`:                                        3,
	} {
		got, err := serve(t, answers(body)).Job(t.Context(), 3, 5)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, body, got, Job{ID: 5, Status: "success", Duration: 1.5, Queued: -1, ProjectID: project})
	}
	// Members of another type, or missing ones, are not known.
	for body, want := range map[string]JobDetails{
		`{"id":5,"status":"pending","tag_list":null,"runner":null,"web_url":7}`:             {Job: Job{ID: 5, Status: "pending", Duration: -1, Queued: -1}},
		`{"id":5,"status":"pending","tag_list":[],"runner":{"id":"x","description":["y"]}}`: {Job: Job{ID: 5, Status: "pending", Duration: -1, Queued: -1}, TagsKnown: true},
		`{"id":5,"status":"running","tag_list":["a","b"],"runner":{"id":3,"description":"c"},"web_url":"https://d"}`: {
			Job: Job{ID: 5, Status: "running", Duration: -1, Queued: -1}, Tags: []string{"a", "b"}, TagsKnown: true, RunnerID: 3, Runner: "c", WebURL: "https://d",
		},
	} {
		got, err := serve(t, answers(body)).ProjectJob(t.Context(), "g/p", 5)
		if err != nil {
			t.Fatal(err)
		}
		got.At = want.At
		equal(t, body, got, want)
	}
	if _, err := serve(t, answers(`[]`)).ProjectJob(impatient{t.Context()}, "g/p", 5); ReasonOf(err) != ReasonNotGitLab {
		t.Errorf("a list: %v", err)
	}
	for want, h := range map[Reason]http.HandlerFunc{
		ReasonNotFound: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"message":"404 Not found"}`))
		},
		ReasonNotGitLab: http.NotFound,
	} {
		if _, err := serve(t, h).Job(impatient{t.Context()}, 3, 5); ReasonOf(err) != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestVersionIsFoundOnOldReleases(t *testing.T) {
	for _, c := range []struct {
		name     string
		metadata int
		want     string
		reason   Reason
		paths    []string
	}{
		{"newer", 200, "18.4.1-ee", "", []string{"/api/v4/metadata"}},
		{"before 15.2", 404, "15.1.0", "", []string{"/api/v4/metadata", "/api/v4/version"}},
		{"bad token", 401, "", ReasonUnauthorized, []string{"/api/v4/metadata"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var paths []string
			got, err := serve(t, func(w http.ResponseWriter, r *http.Request) {
				paths = append(paths, r.URL.Path)
				if strings.HasSuffix(r.URL.Path, "/version") {
					_, _ = w.Write([]byte(`{"version":"15.1.0","revision":"abc"}`))
					return
				}
				w.WriteHeader(c.metadata)
				if c.metadata != http.StatusOK {
					_, _ = fmt.Fprintf(w, `{"error":"%d says GitLab"}`, c.metadata)
					return
				}
				_, _ = w.Write([]byte(`{"version":"18.4.1-ee","revision":"abc","kas":{"enabled":true},"enterprise":true}`))
			}).Version(t.Context())
			if got != c.want || ReasonOf(err) != c.reason {
				t.Errorf("got %q, %v", got, err)
			}
			equal(t, "paths", paths, c.paths)
		})
	}
}

// TestJobsArePagedByNumberAndKeyset: by number, by keyset, and by keyset on a release that does not know it.
func TestJobsArePagedByNumberAndKeyset(t *testing.T) {
	full := "[" + strings.Repeat(`{"id":7},`, 99) + `{"id":6}]`
	for _, c := range []struct {
		name   string
		q      JobsQuery
		header http.Header
		body   string
		want   JobsPage // without Jobs
		reason Reason
	}{
		{"by number", JobsQuery{Page: 1}, http.Header{"X-Page": {"1"}, "X-Next-Page": {"2"}, "X-Total": {"120"}}, full, JobsPage{Next: 2, Total: 120}, ""},
		{"by number, the last", JobsQuery{Page: 2}, http.Header{"X-Page": {"2"}, "X-Next-Page": {""}, "X-Total": {"200"}}, full, JobsPage{Total: 200}, ""},
		{"no total", JobsQuery{Page: 1}, http.Header{"X-Next-Page": {"2"}, "X-Total": {""}}, full, JobsPage{Next: 2, Total: -1}, ""},
		{"points back", JobsQuery{Page: 5}, http.Header{"X-Next-Page": {"5"}}, full, JobsPage{}, ReasonDecode},
		{
			"by keyset, link to a foreign host",
			JobsQuery{Keyset: true},
			http.Header{"Link": {`<https://evil.example/api/v4/runners/7/jobs?cursor=abc%3D&page=9>; rel="next"`}},
			full,
			JobsPage{Keyset: true, Cursor: "abc=", Total: -1},
			"",
		},
		{"by keyset, the last", JobsQuery{Keyset: true, Cursor: "abc"}, nil, full, JobsPage{Keyset: true, Total: -1}, ""},
		{"by keyset, cursor stands still", JobsQuery{Keyset: true, Cursor: "abc"}, http.Header{"X-Next-Cursor": {"abc"}}, full, JobsPage{}, ReasonDecode},
		{"keyset ignored", JobsQuery{Keyset: true}, http.Header{"X-Page": {"1"}, "X-Next-Page": {"2"}, "X-Total": {"120"}}, full, JobsPage{Next: 2, Total: 120}, ""},
		{"keyset ignored, only page", JobsQuery{Keyset: true}, http.Header{"X-Page": {"1"}, "X-Next-Page": {""}, "X-Total": {"100"}}, full, JobsPage{Total: 100}, ""},
		{"keyset ignored on the way", JobsQuery{Keyset: true, Cursor: "abc"}, http.Header{"X-Page": {"1"}, "X-Next-Page": {"2"}}, full, JobsPage{Next: 2, Total: -1}, ""},
		{"keyset ignored, points back", JobsQuery{Keyset: true}, http.Header{"X-Page": {"3"}, "X-Next-Page": {"3"}}, full, JobsPage{}, ReasonDecode},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				maps.Copy(w.Header(), c.header)
				_, _ = w.Write([]byte(c.body))
			}).RunnerJobs(t.Context(), c.q)
			if ReasonOf(err) != c.reason {
				t.Fatalf("%v, want reason %q", err, c.reason)
			}
			if c.reason == "" && len(p.Jobs) != 100 {
				t.Errorf("%d jobs", len(p.Jobs))
			}
			p.Jobs = nil
			equal(t, "page", p, c.want)
		})
	}
}

// TestWalkReadsAListToItsEnd, as its reader will.
func TestWalkReadsAListToItsEnd(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		page, err := strconv.Atoi(r.URL.Query().Get("page"))
		if err != nil || page < 1 || page > 3 {
			t.Errorf("asked for %s", r.URL)
		}
		next := ""
		if page < 3 {
			next = strconv.Itoa(page + 1)
		}
		w.Header().Set("X-Next-Page", next)
		w.Header().Set("X-Total", "3")
		_, _ = fmt.Fprintf(w, `[{"id":%d}]`, 10+page)
	})
	var ids []int64
	for page := 1; page != 0; {
		p, err := c.Runners(t.Context(), Scope{}, page)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range p.Runners {
			ids = append(ids, r.ID)
		}
		if p.Total != 3 {
			t.Errorf("total %d", p.Total)
		}
		page = p.Next
	}
	equal(t, "ids", ids, []int64{11, 12, 13})
}

func TestNextPageThatPointsBackIsRefused(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Next-Page", "1")
		_, _ = w.Write([]byte(`[{"id":1}]`))
	})
	if _, err := c.Runners(t.Context(), Scope{}, 1); ReasonOf(err) != ReasonDecode {
		t.Errorf("got %v", err)
	}
}

func TestEachStatusHasItsReason(t *testing.T) {
	for status, want := range map[int]Reason{
		204: ReasonDecode, 301: ReasonRedirect, 302: ReasonRedirect, 308: ReasonRedirect, 400: ReasonBadRequest, 401: ReasonUnauthorized,
		403: ReasonForbidden, 404: ReasonNotFound, 405: ReasonBadRequest, 409: ReasonBadRequest, 410: ReasonBadRequest, 414: ReasonBadRequest,
		422: ReasonBadRequest, 408: ReasonTimeout, 429: ReasonRateLimited, 500: ReasonServerError, 501: ReasonServerError, 502: ReasonServerError,
		503: ReasonServerError, 504: ReasonServerError, 505: ReasonServerError, 521: ReasonServerError, 599: ReasonServerError,
	} {
		got, again := statusReason(status)
		if got != want {
			t.Errorf("%d: %s, want %s", status, got, want)
		}
		if wantAgain := slices.Contains([]int{408, 429, 500, 502, 503, 504, 521}, status); again != wantAgain {
			t.Errorf("%d: repeated is %v", status, again)
		}
	}
}

// TestErrorsHaveGitLabsWords: GitLab's own words reach the error, whatever they stand in.
func TestErrorsHaveGitLabsWords(t *testing.T) {
	long := strings.Repeat("é", 300)
	for _, c := range []struct {
		name   string
		status int
		body   string
		want   string
	}{
		{"message", 401, `{"message":"401 Unauthorized"}`, "401 Unauthorized"},
		{"expired", 401, `{"error":"invalid_token","error_description":"Token is expired. You can either do re-authorization or token refresh."}`, "invalid_token: Token is expired. You can either do re-authorization or token refresh."},
		{"scope", 403, `{"error":"insufficient_scope","error_description":"The request requires higher privileges than provided by the access token.","scope":"api read_api"}`, "insufficient_scope: The request requires higher privileges than provided by the access token. (scope: api read_api)"},
		{"error alone", 405, `{"error":"Keyset pagination is not yet available for this type of request"}`, "Keyset pagination is not yet available for this type of request"},
		{"object", 400, `{"message":{"tag_list":["is long","is odd"],"base":["no"]}}`, "base: no; tag_list: is long; is odd"},
		{"array", 400, `{"message":["one","two"]}`, "one; two"},
		{"another object", 400, `{"detail":"no","code":7}`, "code: 7; detail: no"},
		{"text of JSON", 400, `"no"`, "no"},
		{"number", 400, `{"message":404}`, "404"},
		{"both the same", 400, `{"message":"no","error":"no"}`, "no"},
		{"html", 400, "<!DOCTYPE html>\n<html><head><TITLE class=x>GitLab is\n not &amp; responding (404)</Title></head><body>long</body></html>", "GitLab is not & responding (404)"},
		{"html without a title", 400, `<html><body>x</body></html>`, "an HTML page"},
		{"html with half a title", 400, `<html><title`, "an HTML page"},
		{"empty", 400, ``, "Bad Request"},
		{"null", 400, `{"message":null}`, "message"},
		{"damaged JSON", 400, `{"message":"no`, `{"message":"no`},
		{"control characters", 400, "a\x00b\r\n\x1b[31mred\u202eevil\xff", "a b [31mred evil"},
		{"long", 400, long, strings.Repeat("é", 98) + "…"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Request-Id", "01HX\n-é_9")
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}).Runner(t.Context(), 7, false)
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("got %v", err)
			}
			if e.Message != c.want {
				t.Errorf("message\n got %q\nwant %q", e.Message, c.want)
			}
			if len(e.Message) > maxMessage {
				t.Errorf("%d bytes", len(e.Message))
			}
			if e.Status != c.status || e.Route != RouteRunner || e.RequestID != "01HX-_9" {
				t.Errorf("got %+v", e)
			}
			want := fmt.Sprintf("get /runners/:id: %s (HTTP %d): %s [request 01HX-_9]", e.Reason, c.status, c.want)
			if err.Error() != want {
				t.Errorf("text\n got %s\nwant %s", err, want)
			}
		})
	}
}

// TestOnlyGitLabsOwnRefusalsCount: GitLab's own refusals count (5.3); the same
// status from anything else is evidence of nothing, and is asked for again.
func TestOnlyGitLabsOwnRefusalsCount(t *testing.T) {
	const page = `<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Checking your browser</body></html>`
	theirs := map[int]Reason{401: ReasonUnauthorized, 403: ReasonForbidden, 404: ReasonNotFound}
	for _, c := range []struct {
		status int
		kind   string
		body   string
		own    bool
		words  string // in the message
	}{
		{401, "application/json", `{"message":"401 Unauthorized"}`, true, "401 Unauthorized"},
		{401, "application/json", `{"error":"invalid_token","error_description":"Token was revoked."}`, true, "revoked"},
		{401, "application/json", `{"error":"dpop_error","error_description":"no proof"}`, true, "no proof"},
		{403, "application/json", `{"error":"insufficient_scope","error_description":"higher","scope":"api"}`, true, "higher"},
		{403, "application/json", `{"error":"insufficient_granular_scope"}`, true, "granular"},
		{403, "application/json", `{"message":"403 Forbidden - No access granted"}`, true, "No access"},
		{403, "application/json", `{"message":{"base":["403 Forbidden"]}}`, true, "403 Forbidden"},
		{404, "application/json", `{"message":"404 Not found"}`, true, "404 Not found"},
		{404, "application/json", `{"message":"404 Runner Not Found"}`, true, "404 Runner"},
		{404, "application/json", `{"error":"404 Not Found"}`, true, "404 Not Found"},
		{404, "text/plain", `{"message":"404 Not found"}`, true, "404 Not found"}, // a proxy rewrote the type

		{401, "text/html", `<html><head><title>401 Authorization Required</title></head></html>`, false, "a page (text/html): 401 Authorization Required"},
		{401, "application/json", `{"message":"Unauthorized"}`, false, "type application/json: Unauthorized"},
		{401, "application/json", `{"error":"access_denied"}`, false, "access_denied"},
		{403, "text/html; charset=UTF-8", page, false, "a page (text/html; charset=UTF-8): Just a moment..."},
		{403, "application/json", `{"message":"401 Unauthorized"}`, false, "401 Unauthorized"}, // another status than its own
		{403, "application/json", `{"message":"4031 is no status"}`, false, "4031"},
		{403, "application/json", `["403 Forbidden"]`, false, "403 Forbidden"},
		{404, "text/plain; charset=utf-8", `default backend - 404`, false, "type text/plain; charset=utf-8: default backend - 404"},
		{404, "text/plain", `404 page not found`, false, "404 page not found"},
		{404, "application/json", `{"message":"no Route matched with those values"}`, false, "no Route matched"},
		{404, "application/json", `{"timestamp":1,"status":404,"error":"Not Found","path":"/api"}`, false, "Not Found"},
		{404, "application/json", `{"message":404}`, false, "404"},
		{404, "application/json", `{"errors":[{"message":"404 from elsewhere"}]}`, false, "elsewhere"}, // GraphQL's shape, of REST
		{404, "", ``, false, "without a text"},
		{200, "text/html", `<html><title>Sign in</title></html>`, false, "a page (text/html): Sign in"},
		{200, "text/html", page, false, "a page (text/html): Just a moment..."},
		{200, "application/json", `{"message":"no Route matched"}`, false, "type application/json: expected a JSON array: no Route matched"},
		{200, "application/json", `null`, false, "expected a JSON array"},
		{200, "text/plain", `ok`, false, "ok"},
	} {
		t.Run(fmt.Sprint(c.status, c.body), func(t *testing.T) {
			requests, retries := 0, 0
			client := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if requests++; requests > 1 {
					_, _ = w.Write([]byte(`[]`))
					return
				}
				w.Header()["Content-Type"] = []string{c.kind}
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}, func(o *Options) { o.Hooks.Retry = func(Reason) { retries++ } })
			_, err := client.Managers(impatient{t.Context()}, 1)
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("got %v", err)
			}
			want := ReasonNotGitLab
			if c.own {
				want = theirs[c.status]
			}
			if e.Reason != want || e.Status != c.status || !strings.Contains(e.Message, c.words) {
				t.Errorf("got %v, want %s with %q", err, want, c.words)
			}
			if !c.own && !strings.Contains(e.Message, "something stands in between") {
				t.Errorf("%v does not contain its meaning", err)
			}
			if e.retryable == c.own {
				t.Errorf("asked again: %t", e.retryable)
			}
		})
	}
}

func TestRedirectErrorNamesTheURLToSet(t *testing.T) {
	for _, c := range []struct{ name, to, want string }{
		{"https", "https://gitlab.example.com:8443/api/v4/runners/7?private_token=s3cr3t", "redirected to gitlab.example.com:8443: set url to https://gitlab.example.com:8443"},
		{"relative root", "https://u:s3cr3t@new.example.com/gitlab/api/v4/runners/7", "redirected to new.example.com: set url to https://new.example.com/gitlab"},
		{"sign-in", "https://sso.example.com/users/sign_in?token=s3cr3t#s3cr3t", "redirected to sso.example.com/users/sign_in, a login page: something in front of GitLab asks for a login, or url is not GitLab's address"},
		{"elsewhere", "https://www.example.com/welcome", "redirected to www.example.com/welcome, which is not the API: check url"},
		{"a path that only sounds like it", "https://www.example.com/blogins/authors", "redirected to www.example.com/blogins/authors, which is not the API: check url"},
		{"another scheme", "https://{host}/api/v4/runners/7?private_token=s3cr3t", "redirected from http to https: set url to https://{host}"},
		{"another scheme, and the path is lost", "https://{host}/", "redirected from http to https: set url to https://{host}/gitlab"},
		{"another scheme and port", "https://{name}/gitlab/api/v4/runners/7", "redirected from http to https: set url to https://{name}/gitlab"},
		{"a login page of another scheme", "https://{host}/login", "redirected to {host}/login, a login page: something in front of GitLab asks for a login, or url is not GitLab's address"},
		{"nowhere", "", "a redirect without a target"},
	} {
		for _, follow := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, follow=%v", c.name, follow), func(t *testing.T) {
				var here *strings.Replacer
				client := serve(t, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Location", here.Replace(c.to))
					w.WriteHeader(http.StatusFound)
				}, func(o *Options) {
					host := strings.TrimPrefix(o.BaseURL, "http://")
					name, _, _ := strings.Cut(host, ":")
					here = strings.NewReplacer("{host}", host, "{name}", name)
					if strings.Contains(c.want, "/gitlab") && !strings.Contains(c.want, "new.example.com") {
						o.BaseURL += "/gitlab"
					}
					if follow { // a client that follows, and then refuses
						o.HTTPClient.CheckRedirect = func(*http.Request, []*http.Request) error { return errors.New("s3cr3t: too many") }
					}
				})
				_, err := client.Runner(t.Context(), 7, false)
				e, ok := errors.AsType[*Error](err)
				if !ok {
					t.Fatalf("got %v", err)
				}
				if e.Reason != ReasonRedirect || e.Status != http.StatusFound || e.Message != here.Replace(c.want) {
					t.Errorf("got %+v", e)
				}
			})
		}
	}
}

// TestTooLargeBodyIsReadOnce: a body may be as long as its endpoint's bound, gzip or not, and
// a longer one is read once and no further.
func TestTooLargeBodyIsReadOnce(t *testing.T) {
	for _, zip := range []bool{false, true} {
		for size, want := range map[int]Reason{maxObjectBody: "", maxObjectBody + 1: ReasonTooLarge, 3 * maxObjectBody: ReasonTooLarge} {
			begin, end := `{"version":"18.4.1","more":[`, `0]}`
			body := begin + strings.Repeat("0,", (size-len(begin)-len(end))/2) + strings.Repeat(" ", (size-len(begin)-len(end))%2) + end
			var requests atomic.Int64
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				requests.Add(1)
				if zip {
					w.Header().Set("Content-Encoding", "gzip")
					_, _ = w.Write(pack(t, []byte(body)))
					return
				}
				_, _ = w.Write([]byte(body))
			})
			_, err := c.Version(t.Context())
			if ReasonOf(err) != want {
				t.Errorf("%d bytes, gzip %v: %v", size, zip, err)
			}
			if requests.Load() != 1 {
				t.Errorf("%d bytes: %d requests", size, requests.Load())
			}
		}
	}
}

// TestGzipIsAskedForAndUnpacked: asked for, unpacked, also in errors, also where the transport does
// it by itself, and the pool's unpacker is good for the next answer.
func TestGzipIsAskedForAndUnpacked(t *testing.T) {
	for _, own := range []bool{true, false} {
		status := http.StatusOK
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Encoding") != "gzip" {
				t.Errorf("Accept-Encoding is %q", r.Header.Get("Accept-Encoding"))
			}
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(status)
			if status == http.StatusOK {
				_, _ = w.Write(pack(t, []byte(`[{"id":5}]`)))
			} else {
				_, _ = w.Write(pack(t, []byte(`{"message":"403 Forbidden"}`)))
			}
		}, func(o *Options) { o.HTTPClient.Transport.(*http.Transport).DisableCompression = own })
		for range 3 {
			status = http.StatusOK
			if m, err := c.Managers(t.Context(), 1); err != nil || len(m) != 1 || m[0].ID != 5 {
				t.Errorf("got %+v, %v", m, err)
			}
			status = http.StatusForbidden
			if _, err := c.Managers(t.Context(), 1); ReasonOf(err) != ReasonForbidden || !strings.Contains(err.Error(), "403 Forbidden") {
				t.Errorf("got %v", err)
			}
		}
	}
}

// TestConnectionIsReused: answers and errors are read to their end.
func TestConnectionIsReused(t *testing.T) {
	var connections, requests atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch requests.Add(1) % 3 {
		case 0:
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write(bytes.Repeat([]byte("long "), 20000))
		case 1:
			_, _ = w.Write([]byte(`[{"id":1}]` + strings.Repeat(" \n", 5000)))
		default:
			_, _ = w.Write([]byte(`{"this is":"not the list"}` + strings.Repeat(" ", 5000)))
		}
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	c := newClient(t, Options{BaseURL: srv.URL, HTTPClient: srv.Client()})
	for range 9 {
		_, _ = c.Managers(impatient{t.Context()}, 1)
	}
	if requests.Load() != 9 || connections.Load() != 1 {
		t.Errorf("%d requests over %d connections", requests.Load(), connections.Load())
	}
}

// TestWholeValueIsTakenWhateverItsContentLength: a whole value is taken, whatever was announced.
func TestWholeValueIsTakenWhateverItsContentLength(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "5000")
		_, _ = w.Write([]byte(`[{"id":5}]`))
	})
	m, err := c.Managers(t.Context(), 1)
	if err != nil || len(m) != 1 {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestTLSErrorIsNotTriedAgain(t *testing.T) {
	srv := httptest.NewUnstartedServer(answers(`[]`))
	srv.Config.ErrorLog = stdlog.New(io.Discard, "", 0) // it would log each refused handshake
	srv.StartTLS()
	defer srv.Close()
	plain := httptest.NewServer(answers(`[]`))
	defer plain.Close()
	hc := &http.Client{Transport: &http.Transport{}} // does not know the certificate's authority
	defer hc.CloseIdleConnections()
	for _, base := range []string{srv.URL, "https" + strings.TrimPrefix(plain.URL, "http")} {
		var attempts, retries int
		c := newClient(t, Options{BaseURL: base, HTTPClient: hc, Hooks: Hooks{
			Attempt: func(a Attempt) {
				attempts++
				if a.Code != 0 || a.Route != RouteManagers || a.ReceivedAt.IsZero() || !a.Date.IsZero() {
					t.Errorf("attempt %+v", a)
				}
			},
			Retry: func(Reason) { retries++ },
		}})
		_, err := c.Managers(t.Context(), 1)
		if ReasonOf(err) != ReasonTLS {
			t.Errorf("%s: %v", base, err)
		}
		if attempts != 1 || retries != 0 {
			t.Errorf("%d attempts, %d retries", attempts, retries)
		}
	}
}

func TestEachTransportErrorHasItsReason(t *testing.T) {
	alert := &net.OpError{Op: "remote error", Err: errors.New("tls: certificate required")}
	for _, c := range []struct {
		err   error
		want  Reason
		again bool
	}{
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, ReasonConnection, true},
		{&net.DNSError{Err: "no such host", IsNotFound: true}, ReasonConnection, true},
		{&net.DNSError{Err: "i/o timeout", IsTimeout: true}, ReasonTimeout, true},
		{os.ErrDeadlineExceeded, ReasonTimeout, true},
		{fmt.Errorf("reading: %w", context.DeadlineExceeded), ReasonTimeout, true}, // of the attempt
		{context.Canceled, ReasonCanceled, false},                                  // by the transport itself
		{fmt.Errorf("reading: %w", errTooLarge), ReasonTooLarge, false},
		{alert, ReasonTLS, false},
		{fmt.Errorf("x: %w", x509.HostnameError{Certificate: &x509.Certificate{}}), ReasonTLS, false},
		{x509.CertificateInvalidError{}, ReasonTLS, false},
		{x509.SystemRootsError{}, ReasonTLS, false},
		{tls.RecordHeaderError{}, ReasonTLS, false},
		{http.ErrSchemeMismatch, ReasonTLS, false},
		{io.ErrUnexpectedEOF, ReasonConnection, true},
	} {
		if got, again := transportReason(t.Context(), c.err); got != c.want || again != c.again {
			t.Errorf("%v: %s, repeated %v", c.err, got, again)
		}
	}
}

func TestReasonOfFindsTheReasonOfEachError(t *testing.T) {
	for want, err := range map[Reason]error{
		"":               nil,
		ReasonCanceled:   fmt.Errorf("waiting: %w", context.Canceled),
		ReasonTimeout:    context.DeadlineExceeded,
		ReasonConnection: errors.New("else"),
		ReasonForbidden:  fmt.Errorf("reading: %w", &Error{Reason: ReasonForbidden, Err: context.Canceled}),
	} {
		if got := ReasonOf(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

func TestRoutesAndReasonsAreClosedSets(t *testing.T) {
	if got := Routes(); len(got) != 14 || len(slices.Compact(slices.Sorted(slices.Values(got)))) != 14 {
		t.Errorf("routes %v", got)
	}
	if got := Reasons(); len(got) != 14 || len(slices.Compact(slices.Sorted(slices.Values(got)))) != 14 {
		t.Errorf("reasons %v", got)
	}
}

// TestClientShowsNoSecret sends a token every way it may travel to a server that shows it
// back in every way it can, and looks for it wherever a user might.
func TestClientShowsNoSecret(t *testing.T) {
	const (
		canary   = "c4n4ry-0123456789abcdef"
		password = "p4ssw0rd-fedcba9876543210"
		prefixed = "glpat-XyZ_0123456789abcdefg"
	)
	var seen atomic.Bool
	echo := func(r *http.Request) string {
		if strings.Contains(r.Header.Get("Authorization"), canary) && r.Header.Get("Private-Token") == canary {
			seen.Store(true)
		}
		return fmt.Sprintf("%v https://u:%s@h/x?private_token=%s %s token=%s", r.Header, password, canary, prefixed, canary)
	}
	modes := map[string]http.HandlerFunc{
		"text": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(echo(r)))
		},
		"json": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = fmt.Fprintf(w, `{"error":"insufficient_scope","error_description":%q}`, echo(r))
		},
		"html": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			_, _ = fmt.Fprintf(w, "<html><title>%s</title></html>", strings.NewReplacer("<", "", ">", "").Replace(echo(r)))
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			echo(r)
			w.Header().Set("Location", "https://u:"+password+"@other/"+prefixed+"?private_token="+canary)
			w.WriteHeader(http.StatusMovedPermanently)
		},
		"decode": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/"+canary)
			_, _ = w.Write([]byte(echo(r)))
		},
		"object": func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, `{"message":%q}`, echo(r))
		},
		"cut": func(_ http.ResponseWriter, r *http.Request) {
			echo(r)
			panic(http.ErrAbortHandler)
		},
		"request id": func(w http.ResponseWriter, r *http.Request) {
			echo(r)
			w.Header().Set("X-Request-Id", "c4n4ry!-0123456789abcdef "+canary) // without the mark it is the token
			w.WriteHeader(http.StatusBadRequest)
		},
		"long": func(w http.ResponseWriter, r *http.Request) {
			echo(r)
			w.WriteHeader(http.StatusBadRequest)
			// Masked, the text is so short that the end of what was cut shows.
			_, _ = w.Write(bytes.Repeat([]byte(canary), 200))
		},
	}
	for name, line := range map[string]string{"status line": "HTTP/1.1 %s\r\n\r\n", "length": "HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n", "no header": "HTTP/1.1 200 OK\r\n%s\r\n\r\n"} {
		modes[name] = func(w http.ResponseWriter, r *http.Request) {
			echo(r)
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close() //nolint:errcheck // the answer is broken anyway
			_, _ = fmt.Fprintf(conn, line, canary)
		}
	}
	for name, h := range modes {
		t.Run(name, func(t *testing.T) {
			var logs bytes.Buffer
			seen.Store(false)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c := serve(t, h, func(o *Options) {
				o.Hooks.Attempt = func(Attempt) { cancel() } // nothing is repeated
				u, err := url.Parse(o.BaseURL)
				if err != nil {
					t.Fatal(err)
				}
				u.User = url.UserPassword("exporter", password)
				o.BaseURL = u.String()
				o.Scrub = strings.NewReplacer(canary, "***").Replace
				o.Logger = log.NewLogfmtLogger(log.NewSyncWriter(&logs))
				next := o.HTTPClient.Transport
				o.HTTPClient.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
					if !strings.Contains(r.Header.Get("Authorization"), "Basic ") {
						t.Errorf("the url's password was not sent: %v", r.Header)
					}
					r = r.Clone(r.Context())
					r.Header.Set("Authorization", "Bearer "+canary)
					r.Header.Set("Private-Token", canary)
					return next.RoundTrip(r)
				})
			})
			_, err := c.RunnerJobs(ctx, JobsQuery{RunnerID: 7, Keyset: true, Cursor: prefixed})
			if err == nil {
				t.Fatal("no error")
			}
			if !seen.Load() {
				t.Fatal("the token did not arrive: this test proves nothing")
			}
			var shown strings.Builder
			shown.WriteString(logs.String())
			for cause := err; cause != nil; cause = errors.Unwrap(cause) {
				fmt.Fprintf(&shown, " %v %+v %#v", cause, cause, cause)
			}
			text := shown.String()
			for _, secret := range []string{canary, password, prefixed, "0123456789abcdef", "private_token=" + canary[:4]} {
				if strings.Contains(text, secret) {
					t.Errorf("%q stands in %s", secret, text)
				}
			}
			if !strings.Contains(logs.String(), `route=/runners/:id/jobs`) {
				t.Errorf("no log line: %s", logs.String())
			}
		})
	}
}

// TestNoURLInErrors: Go's own error prints the whole URL.
func TestNoURLInErrors(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := newClient(t, Options{
		BaseURL:    "https://h",
		HTTPClient: &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, io.EOF })},
		Hooks:      Hooks{Attempt: func(Attempt) { cancel() }},
	})
	_, err := c.RunnerJobs(ctx, JobsQuery{RunnerID: 7})
	if want := "get /runners/:id/jobs: connection: EOF"; err == nil || err.Error() != want || !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

// TestNamesAreScrubbed: the names that become labels, by each API.
func TestNamesAreScrubbed(t *testing.T) {
	const canary = "c4n4ry-0123456789abcdef"
	runner := `"id":1,"description":"a ` + canary + `","runner_type":"instance_type","status":"online"`
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		machine := `"version":"` + canary + `","platform":"` + canary + `","architecture":"` + canary + `"`
		switch {
		case strings.HasSuffix(r.URL.Path, "/graphql"):
			_, _ = w.Write([]byte(`{"data":{"runners":{"pageInfo":{"hasNextPage":false},"nodes":[{"id":"gid://gitlab/Ci::Runner/1","description":"a ` + canary +
				`","runnerType":"INSTANCE_TYPE","status":"ONLINE","paused":false,"tagList":["t ` + canary + `"],"managers":{"nodes":[{"id":"gid://gitlab/Ci::RunnerManager/2","version":"` + canary + `"}]}}]}}}`))
		case strings.HasSuffix(r.URL.Path, "/managers"):
			_, _ = w.Write([]byte(`[{"id":1,` + machine + `}]`))
		case strings.HasSuffix(r.URL.Path, "/all"):
			_, _ = w.Write([]byte(`[{` + runner + `}]`))
		default:
			_, _ = w.Write([]byte(`{` + runner + `,"tag_list":["t ` + canary + `"],` + machine + `,"groups":[{"id":1,"web_url":"https://h/groups/` + canary + `"}]}`))
		}
	}, func(o *Options) { o.ScrubNames = strings.NewReplacer(canary, "***").Replace })
	var shown strings.Builder
	list, err := c.Runners(t.Context(), Scope{Kind: snapshot.ScopeInstance}, 1)
	fmt.Fprintf(&shown, "%+v %v\n", list, err)
	details, err := c.Runner(t.Context(), 1, true)
	fmt.Fprintf(&shown, "%+v %v\n", details, err)
	machines, err := c.Managers(t.Context(), 1)
	fmt.Fprintf(&shown, "%+v %v\n", machines, err)
	page, err := c.RunnersGraphQL(t.Context(), GraphQLQuery{Scope: Scope{Kind: snapshot.ScopeInstance}})
	fmt.Fprintf(&shown, "%+v %v\n", page, err)
	if text := shown.String(); strings.Contains(text, canary) || strings.Count(text, "***") < 13 {
		t.Errorf("%d masked: %s", strings.Count(text, "***"), text)
	}
}

// TestVersionAndTokenNameAreScrubbed: GitLab's version and token name go to pages and labels.
func TestVersionAndTokenNameAreScrubbed(t *testing.T) {
	const canary = "c4n4ry-0123456789abcdef"
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/metadata") {
			_, _ = w.Write([]byte(`{"version":"18.1.0-` + strings.Repeat("x", 50) + canary + `"}`)) // across the cut
			return
		}
		_, _ = w.Write([]byte(`{"name":"` + canary + `","user_id":1}`))
	}, func(o *Options) { o.Scrub = strings.NewReplacer(canary, "***").Replace })
	version, err := c.Version(t.Context())
	if err != nil || !strings.HasPrefix(version, "18.1.0-") || strings.Contains(version, canary[:6]) {
		t.Errorf("version %q, %v", version, err)
	}
	token, err := c.Token(t.Context())
	if err != nil || token.Name != "***" {
		t.Errorf("token %q, %v", token.Name, err)
	}
}

// TestErrorsNameTheirPlace, also those about more than one request.
func TestErrorsNameTheirPlace(t *testing.T) {
	for want, e := range map[string]*Error{
		"read: decode: words":                           {Reason: ReasonDecode, Message: "words"},
		"query /graphql: decode":                        {Reason: ReasonDecode, Route: RouteGraphQL},
		"get /groups/:id/runners: not_found (HTTP 404)": {Reason: ReasonNotFound, Route: Scope{Kind: snapshot.ScopeGroups}.Route(), Status: 404},
		"get /projects/:id/runners: timeout":            {Reason: ReasonTimeout, Route: Scope{Kind: snapshot.ScopeProjects}.Route()},
		"get /runners: timeout":                         {Reason: ReasonTimeout, Route: Scope{Kind: snapshot.ScopeOwned}.Route()},
		"get /runners/all: timeout":                     {Reason: ReasonTimeout, Route: Scope{Kind: snapshot.ScopeInstance}.Route()},
	} {
		if got := e.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestWhatLooksLikeASecretIsScrubbed(t *testing.T) {
	for in, want := range map[string]string{
		"dial https://user:pw@h:1/x failed":                   "dial https://h:1/x failed",
		"postgres://u:p@h/db":                                 "postgres://h/db",
		`Get "https://h/api/v4/x?cursor=a&b=c": EOF`:          `Get "https://h/api/v4/x": EOF`,
		"at /api/v4/runners?page=2 of h":                      "at /api/v4/runners of h",
		"private_token=abc&x=1 access_token=d job-token=e":    "private_token=***&x=1 access_token=*** job-token=***",
		"client_secret=abc Password=def":                      "client_secret=*** Password=***",
		"the token glpat-abcdefgh12.34-5 and gloas-ABCDEFGHI": "the token *** and ***",
		"is the token expired? ask at gitlab-org":             "is the token expired? ask at gitlab-org",
	} {
		if got := scrubLooks(in); got != want {
			t.Errorf("%q:\n got %q\nwant %q", in, got, want)
		}
	}
}

// TestTransportErrorsShowNoSecret: errors that never met a server.
func TestTransportErrorsShowNoSecret(t *testing.T) {
	const secret = "c4n4ry-0123456789abcdef"
	for _, cause := range []error{
		fmt.Errorf("proxyconnect: %w", &url.Error{Op: "Get", URL: "https://u:" + secret + "@h/?a=" + secret, Err: errors.New("refused")}),
		errors.New("Get \"https://h/api/v4/x?private_token=" + secret + "\": refused"),
		errors.New("bad password " + secret),
		fmt.Errorf("oauth: %w", errors.New("client_secret="+secret)),
	} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := newClient(t, Options{
			BaseURL:    "https://" + secret + "@h/",
			HTTPClient: &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, cause })},
			Hooks:      Hooks{Attempt: func(Attempt) { cancel() }}, // nothing is repeated
		})
		_, err := c.Managers(ctx, 1)
		if ReasonOf(err) != ReasonConnection {
			t.Errorf("%v: %v", cause, err)
		}
		if _, ok := errors.AsType[*url.Error](err); ok {
			t.Errorf("%v still holds the URL", err)
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			if text := fmt.Sprintf("%v %+v %#v", e, e, e); strings.Contains(text, secret) {
				t.Errorf("%q: %s", cause, text)
			}
		}
	}
}

// The clock of a proxy that answers in GitLab's place is not GitLab's.
func TestDateOfAForeignAnswerIsIgnored(t *testing.T) {
	for body, known := range map[string]bool{`{"message":"404 Not found"}`: true, `default backend - 404`: false} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, body)
		}))
		t.Cleanup(srv.Close)
		var got []Attempt
		c := newClient(t, Options{BaseURL: srv.URL, HTTPClient: srv.Client(), Hooks: Hooks{Attempt: func(a Attempt) { got = append(got, a) }}})
		_, err := c.Runner(t.Context(), 1, false)
		if len(got) == 0 {
			t.Fatalf("%s: no attempt, %v", body, err)
		}
		for _, a := range got {
			if a.Date.IsZero() == known {
				t.Errorf("%s: Date %v, want one: %t", body, a.Date, known)
			}
		}
	}
}
