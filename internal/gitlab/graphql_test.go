package gitlab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// TestDocumentIsExact holds the whole request, as it goes out, for both scopes.
func TestDocumentIsExact(t *testing.T) {
	type sent struct {
		Query     string
		Variables map[string]any
	}
	var (
		got  sent
		line string
	)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		line = r.Method + " " + r.RequestURI + " " + r.Header.Get("Content-Type")
		got = sent{}
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		// one runner, so that no second way of asking is tried
		_, _ = w.Write([]byte(`{"data":{"runners":{"nodes":[{"id":"gid://gitlab/Ci::Runner/7","status":"ONLINE"}]},"group":{"runners":{"nodes":[{"id":"gid://gitlab/Ci::Runner/7","status":"ONLINE"}]}}}}`))
	}, func(o *Options) { o.BaseURL += "/gitlab" })
	for _, tc := range []struct {
		q    GraphQLQuery
		want sent
	}{
		{GraphQLQuery{}, sent{
			`query fleet($first: Int!, $after: String) { queryComplexity { score limit } runners(first: $first, after: $after) { pageInfo { hasNextPage endCursor } nodes { id description runnerType status jobExecutionStatus tagList runUntagged accessLevel contactedAt maximumTimeout ownerProject { fullPath } groups(first: 1) { nodes { fullPath } } managers(first: 100) { pageInfo { hasNextPage } nodes { id systemId version platformName architectureName status contactedAt jobExecutionStatus } } paused executing: jobCount(statuses: [RUNNING, CANCELING]) } } }`,
			map[string]any{"first": 100.0},
		}},
		{GraphQLQuery{Fields: FieldsListing, First: 40, After: `a"b`, Type: "project_type", Scope: Scope{snapshot.ScopeGroups, `a/b") {`}}, sent{
			`query fleet($first: Int!, $after: String, $type: CiRunnerType!, $path: ID!) { queryComplexity { score limit } group(fullPath: $path) { runners(first: $first, after: $after, type: $type, membership: ALL_AVAILABLE) { pageInfo { hasNextPage endCursor } nodes { id description runnerType status jobExecutionStatus paused executing: jobCount(statuses: [RUNNING, CANCELING]) } } } }`,
			map[string]any{"first": 40.0, "after": `a"b`, "type": "PROJECT_TYPE", "path": `a/b") {`},
		}},
		{
			GraphQLQuery{Fields: FieldManagers, First: 400, Dialect: &GraphQLDialect{lacks: FieldManagers | fieldComplexity | fieldAllAvailable, rows: 25}, Scope: Scope{snapshot.ScopeGroups, "a"}},
			sent{
				`query fleet($first: Int!, $after: String, $path: ID!) { group(fullPath: $path) { runners(first: $first, after: $after, membership: DESCENDANTS) { pageInfo { hasNextPage endCursor } nodes { id description runnerType status version platformName architectureName active } } } }`,
				map[string]any{"first": 25.0, "path": "a"},
			},
		},
	} {
		if _, err := c.RunnersGraphQL(t.Context(), tc.q); err != nil {
			t.Error(err)
		}
		equal(t, "sent", got, tc.want)
		if line != "POST /gitlab/api/graphql application/json" {
			t.Error(line)
		}
	}
	for _, s := range []Scope{{Kind: snapshot.ScopeOwned}, {Kind: snapshot.ScopeProjects, ID: "a"}, {Kind: snapshot.ScopeGroups}, {Kind: snapshot.ScopeGroups, ID: ".."}} {
		line = ""
		if _, err := c.RunnersGraphQL(t.Context(), GraphQLQuery{Scope: s}); ReasonOf(err) != ReasonBadRequest || line != "" {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

// TestOnlyQueriesAreSent: whatever document is put into a request, one that changes
// something does not leave.
func TestOnlyQueriesAreSent(t *testing.T) {
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s %s was sent", r.Method, r.URL) })
	for _, doc := range []string{`mutation { runnerDelete(input: {}) { errors } }`, `subscription { x }`, ` query { x }`, `{ x }`, `querymutation`} {
		_, err := c.get(t.Context(), request{route: RouteGraphQL, document: doc}, func(io.Reader) error { return nil })
		if ReasonOf(err) != ReasonBadRequest {
			t.Errorf("%s: %v", doc, err)
		}
	}
	// Every document that can be built is one query.
	for f := range fieldEnd {
		if f&(FieldTags|FieldUntagged|FieldContact) != 0 { // as good as others, and a million less
			continue
		}
		for _, kind := range []snapshot.ScopeKind{snapshot.ScopeInstance, snapshot.ScopeGroups} {
			body, err := graphqlBody(request{document: document(kind, f, f&1 == 0)})
			if err != nil {
				t.Fatal(err)
			}
			mustBeQuery(t, body)
			if n := bytes.Count(body, []byte("{")) - bytes.Count(body, []byte("}")); n != 0 {
				t.Fatalf("%d braces too many in %s", n, body)
			}
		}
		if t.Failed() {
			return
		}
	}
}

// TestErrorsInside200AreErrors gives what GitLab writes into an answer of status 200.
func TestErrorsInside200AreErrors(t *testing.T) {
	const row = `{"id":"gid://gitlab/Ci::Runner/7","status":"ONLINE"}`
	const denied = "The resource that you are attempting to access does not exist or you don't have permission to perform this action"
	const odd = "not the expected JSON (text/plain; charset=utf-8): a part of the answer is neither what was asked for nor null"
	const foreign = "not GitLab's answer, something stands in between (a proxy, a login page, a bot check): "
	for _, c := range []struct {
		name, body string
		reason     Reason
		message    string
		field      string // of a FieldError; "-": none
		refused    bool
	}{
		{"not for this user", `{"data":{"runners":null},"errors":[{"message":"` + denied + `","path":["runners"]}]}`, ReasonForbidden, denied, "-", true},
		{"null without a word", `{"data":{"runners":null}}`, ReasonForbidden, "GitLab returned no runners and no error", "-", true},
		{"data without runners", `{"data":{}}`, ReasonForbidden, "GitLab returned no runners and no error", "-", true},
		{"a field that must be", `{"errors":[{"message":"Field 'status' doesn't exist on type 'CiRunner'","path":["query fleet","runners","nodes","status"]}]}`, ReasonBadRequest, "Field 'status' doesn't exist on type 'CiRunner'", "status", true},
		{"no runners at all", `{"errors":[{"message":"Field 'runners' doesn't exist on type 'Query'"},{"message":"Field 'managers' doesn't exist on type 'CiRunner'"}]}`, ReasonBadRequest, "Field 'runners' doesn't exist on type 'Query'; Field 'managers' doesn't exist on type 'CiRunner'", "runners", true},
		{"a field that was not asked for", `{"errors":[{"message":"Field 'c4n4ry' doesn't exist on type 'Query'"}]}`, ReasonBadRequest, "Field 'c4n4ry' doesn't exist on type 'Query'", "", true},
		{"an argument that must be", `{"errors":[{"message":"Field 'runners' doesn't accept argument 'after'"}]}`, ReasonBadRequest, "Field 'runners' doesn't accept argument 'after'", "after", true},
		{"an unknown type", `{"errors":[{"message":"CiRunnerType isn't a defined input type (on $type)","extensions":{"code":"variableRequiresValidType"}}]}`, ReasonBadRequest, "CiRunnerType isn't a defined input type (on $type)", "", true},
		{"it failed", `{"data":null,"errors":[{"message":"Internal server error"}]}`, ReasonServerError, "Internal server error", "-", true},
		{"it failed inside", `{"data":{"runners":{"nodes":[` + row + `]}},"errors":[{"message":"PG::ConnectionBad","path":["runners","nodes",0,"description"]}]}`, ReasonServerError, "PG::ConnectionBad", "-", true},
		{"it failed without a path", `{"data":{"runners":{"nodes":[` + row + `]}},"errors":[{"message":"boom"}]}`, ReasonServerError, "boom", "-", true},
		{"many errors", `{"data":{},"errors":[{"message":"a"},{"message":"b"},{"message":"a"},{"message":"c"},{"message":"d"},{"message":"e"}]}`, ReasonServerError, "a; b; c; and 2 more", "-", true},
		{"errors of no form", `{"data":{},"errors":[7,null,{"message":{"a":1},"path":"x"}]}`, ReasonServerError, "", "-", true},
		{"errors that are none", `{"data":{"runners":{"nodes":[]}},"errors":"no"}`, ReasonDecode, odd, "-", true},
		{"nothing", `{}`, ReasonNotGitLab, foreign + "an answer of type text/plain; charset=utf-8: neither data nor errors", "-", false},
		{"null", `null`, ReasonNotGitLab, foreign + "an answer of type text/plain; charset=utf-8: expected a JSON object", "-", false},
		{"REST's array", `[]`, ReasonNotGitLab, foreign + "an answer of type text/plain; charset=utf-8: expected a JSON object", "-", false},
		{"a login page", `<html><title>Sign in</title></html>`, ReasonNotGitLab, foreign + "a page (text/html; charset=utf-8): Sign in", "-", false},
		{"runners that are none", `{"data":{"runners":"x"}}`, ReasonDecode, odd, "-", true},
		{"data that is none", `{"data":[]}`, ReasonDecode, odd, "-", true},
		{"nodes that are none", `{"data":{"runners":{"nodes":null}}}`, ReasonDecode, odd, "-", true},
		{"no cursor", `{"data":{"runners":{"pageInfo":{"hasNextPage":true,"endCursor":null},"nodes":[]}}}`, ReasonDecode, "not the expected JSON (text/plain; charset=utf-8): more pages are announced without a cursor, or with one that is too long", "-", true},
		{"an endless page", `{"data":{"runners":{"pageInfo":{"hasNextPage":true,"endCursor":"here"},"nodes":[` + row + `]}}}`, ReasonDecode, "the next page is this one", "-", true},
		{"an empty page that goes on", `{"data":{"runners":{"pageInfo":{"hasNextPage":true,"endCursor":"x"},"nodes":[]}}}`, ReasonDecode, "the next page is this one", "-", true},
		{"text after the end", `{"data":{"runners":{"nodes":[]}}} <html>`, ReasonDecode, "not the expected JSON (text/plain; charset=utf-8): data after the end of the JSON value", "-", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			requests := 0
			client := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				requests++
				_, _ = w.Write([]byte(c.body))
			})
			_, err := client.RunnersGraphQL(impatient{t.Context()}, GraphQLQuery{After: "here"})
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Reason != c.reason || e.Message != c.message || e.Route != RouteGraphQL || e.Status != http.StatusOK {
				t.Errorf("got %v", err)
			}
			fe, ok := errors.AsType[*FieldError](err)
			switch {
			case ok != (c.field != "-"):
				t.Errorf("a FieldError: %t", ok)
			case ok && (fe.Field != c.field || c.field != "" && !strings.Contains(fe.Error(), c.field)):
				t.Errorf("field %q: %v", fe.Field, fe)
			}
			if GraphQLRefused(err) != c.refused {
				t.Errorf("refused: %t", !c.refused)
			}
			if requests != 1 {
				t.Errorf("%d requests", requests)
			}
		})
	}
}

// asking is a client, and what it asked for so far.
func asking(t *testing.T, answer func(document string) string) (c *Client, asked *[]string) {
	t.Helper()
	asked = new([]string)
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		var sent struct{ Query string }
		if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
			t.Error(err)
		}
		*asked = append(*asked, sent.Query)
		_, _ = io.WriteString(w, answer(sent.Query))
	}), asked
}

// TestLegacyModeIsLearned: up to 15.11 the status of a paused runner is hidden unless
// legacyMode is null; from 16.0 the argument is refused. Either is learned in
// one more request, over an update too.
func TestLegacyModeIsLearned(t *testing.T) {
	const (
		page    = `{"data":{"runners":{"nodes":[{"id":"gid://gitlab/Ci::Runner/7","status":"%s"}]}}}`
		refused = `{"errors":[{"message":"Field 'status' doesn't accept argument 'legacyMode'","path":["query fleet","runners","nodes","status","legacyMode"],"extensions":{"code":"argumentNotAccepted"}}]}`
	)
	takes, plain := true, "PAUSED"
	c, asked := asking(t, func(document string) string {
		switch {
		case !strings.Contains(document, "status(legacyMode: null)"):
			return fmt.Sprintf(page, plain)
		case takes:
			return fmt.Sprintf(page, "ONLINE")
		}
		return refused
	})
	d := new(GraphQLDialect)
	read := func(want, requests int) {
		t.Helper()
		*asked = nil
		p, err := c.RunnersGraphQL(t.Context(), GraphQLQuery{Dialect: d})
		if err != nil || len(p.Runners) != want || len(*asked) != requests || p.Fields != FieldsAll {
			t.Errorf("%+v, %v, %d requests", p, err, len(*asked))
		}
		if err == nil && p.Runners[0].Status != "online" {
			t.Errorf("status %s", p.Runners[0].Status)
		}
	}
	read(1, 2)
	read(1, 1)
	takes, plain = false, "ONLINE" // GitLab is updated to 16.0
	read(1, 2)
	read(1, 1)
	// Neither way: an error, without asking for ever.
	d.Reset()
	plain = "ACTIVE"
	for _, requests := range []int{3, 1} {
		*asked = nil
		_, err := c.RunnersGraphQL(t.Context(), GraphQLQuery{Dialect: d})
		fe, ok := errors.AsType[*FieldError](err)
		if !ok || fe.Field != "status" || !GraphQLRefused(err) || len(*asked) != requests {
			t.Errorf("%v after %d requests", err, len(*asked))
		}
	}
}

// TestReleaseThatLacksAllIsStillRead: GitLab names at most five, and a release that lacks
// all that can lack is still read, each round with less. One that objects to
// everything is asked a bounded number of times.
func TestReleaseThatLacksAllIsStillRead(t *testing.T) {
	for most, want := range map[int]int{1: 13, 5: 4} {
		c, asked := asking(t, func(document string) string {
			var objections []string
			for _, o := range runnerFields {
				if o.field == 0 || o.field&(FieldPaused|fieldStatus|fieldLegacyMode|fieldCanceling|fieldAllAvailable) != 0 || len(objections) == most {
					continue
				}
				if key := o.keys[0]; strings.Contains(strings.Split(document, "managers(first")[0], " "+key) || key == "managers" && strings.Contains(document, key) {
					b, err := json.Marshal(map[string]any{
						"message": "x", "path": []any{"query fleet", "runners", "nodes", key}, "extensions": map[string]any{"code": undefinedField},
					})
					if err != nil {
						t.Error(err)
					}
					objections = append(objections, string(b))
				}
			}
			if len(objections) > 0 {
				return `{"errors":[` + strings.Join(objections, ",") + `]}`
			}
			return `{"data":{"runners":{"nodes":[{"id":"gid://gitlab/Ci::Runner/7","status":"ONLINE"}]}}}`
		})
		p, err := c.RunnersGraphQL(t.Context(), GraphQLQuery{})
		if err != nil || len(p.Runners) != 1 || p.Fields != FieldPaused {
			t.Errorf("%d at a time: %+v, %v", most, p, err)
		}
		if len(*asked) > want || len(*asked) < 3 {
			t.Errorf("%d at a time: %d requests, want at most %d", most, len(*asked), want)
		}
		for i, document := range *asked {
			if i > 0 && document == (*asked)[i-1] {
				t.Errorf("%d at a time: round %d asks what was refused", most, i)
			}
		}
	}
	// Objections that never end: to what is asked, and was dropped before.
	c, asked := asking(t, func(string) string {
		return `{"errors":[{"message":"Field 'status' doesn't accept argument 'legacyMode'"},{"message":"Field 'tagList' doesn't exist on type 'CiRunner'"}]}`
	})
	if _, err := c.RunnersGraphQL(t.Context(), GraphQLQuery{}); ReasonOf(err) != ReasonBadRequest || len(*asked) > graphqlTries {
		t.Errorf("%v after %d requests", err, len(*asked))
	}
}

// TestGraphQLFailureIsNamed: the text for users names the failure that happened.
func TestGraphQLFailureIsNamed(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		want   string
	}{
		{200, `{"data":{"runners":null},"errors":[{"message":"you don't have permission to perform this action","path":["runners"]}]}`, "does not let this token"},
		{200, `{"data":{"group":null}}`, "no such group"},
		{200, `{"errors":[{"message":"Field 'status' doesn't exist on type 'CiRunner'"}]}`, "of this GitLab release lacks"},
		{200, `{"data":null,"errors":[{"message":"Internal server error"}]}`, "failed inside GitLab"},
		{200, `{"data":null,"errors":[{"message":"Timeout on Query.runners"}]}`, "did not answer"},
		{200, `{"data":{"runners":{"nodes":null}}}`, "could not be read"},
		{302, ``, "something in between"},
		{403, `{"message":"403 Forbidden"}`, "does not let this token"},
		{404, `{"error":"404 Not Found"}`, "no GraphQL at /api/graphql"},
		{405, `<html><title>405 Not Allowed</title></html>`, "something in between"},
		{422, `{"errors":[{"message":"Query too large"}]}`, "refuses the GraphQL query"},
		{501, ``, "something in between"},
		{504, `<html><title>504 Gateway Time-out</title></html>`, "did not answer"},
	} {
		client := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			if c.status == http.StatusFound {
				w.Header().Set("Location", "https://sso/login")
			}
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		})
		_, err := client.RunnersGraphQL(t.Context(), GraphQLQuery{Scope: Scope{snapshot.ScopeGroups, "a"}})
		text := GraphQLFailure(err)
		if err == nil || !strings.Contains(text, c.want) || c.want != "does not let this token" && strings.Contains(text, "let this token") {
			t.Errorf("%d %s: %q of %v", c.status, c.body, text, err)
		}
	}
	for reason, want := range map[Reason]string{
		"not_gitlab": "something in between", ReasonTimeout: "did not answer", ReasonServerError: "did not answer", ReasonConnection: "did not answer", ReasonTooLarge: "could not be read",
	} {
		if text := GraphQLFailure(&Error{Reason: reason}); !strings.Contains(text, want) {
			t.Errorf("%s: %q", reason, text)
		}
	}
}

// TestFailedFieldCostsNoOther: what one optional field fails of does not cost the rest.
func TestFailedFieldCostsNoOther(t *testing.T) {
	for _, path := range []string{`"runners","nodes",0,"ownerProject"`, `"runners","nodes",0,"ownerProject","fullPath"`} {
		d := new(GraphQLDialect)
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			answer := `{"data":{"runners":{"nodes":[{"id":"gid://gitlab/Ci::Runner/7","status":"ONLINE"}]}}`
			if bytes.Contains(body, []byte("ownerProject")) {
				answer += `,"errors":[{"message":"boom","path":[` + path + `]}]`
			}
			_, _ = w.Write([]byte(answer + "}"))
		})
		p, err := c.RunnersGraphQL(t.Context(), GraphQLQuery{Dialect: d})
		if err != nil || len(p.Runners) != 1 || p.Fields != FieldsAll&^FieldOwner || d.Lacks() != FieldOwner {
			t.Errorf("%+v, %v", p, err)
		}
	}
}

// TestGraphQLStatusDecidesTheFallback: whether REST may be tried after a status of HTTP.
func TestGraphQLStatusDecidesTheFallback(t *testing.T) {
	for _, c := range []struct {
		status  int
		body    string
		reason  Reason
		refused bool
	}{
		{401, `{"errors":[{"message":"Invalid token"}]}`, ReasonUnauthorized, false},
		{403, `{"errors":[{"message":"API not accessible for user"}]}`, ReasonForbidden, true},
		{401, `<html><title>Sign in</title></html>`, ReasonNotGitLab, false},
		{403, `<html><title>Just a moment</title></html>`, ReasonNotGitLab, false},
		{404, `<html><title>Not found</title></html>`, ReasonNotGitLab, false},
		{404, `{"error":"404 Not Found"}`, ReasonNotFound, true},
		{405, `<html><title>Not allowed</title></html>`, ReasonNotGitLab, false},
		{422, `{"errors":[{"message":"Query too large"}]}`, ReasonBadRequest, true},
		{302, ``, ReasonRedirect, true},
	} {
		_, err := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://other/api/graphql")
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body))
		}).RunnersGraphQL(impatient{t.Context()}, GraphQLQuery{})
		if ReasonOf(err) != c.reason || GraphQLRefused(err) != c.refused {
			t.Errorf("%d: %v", c.status, err)
		}
		if _, text, _ := strings.Cut(c.body, `"message":"`); text != "" && !strings.Contains(err.Error(), strings.TrimSuffix(text, `"}]}`)) {
			t.Errorf("%d: %v lacks %s", c.status, err, text)
		}
		if c.status == 302 && !strings.Contains(err.Error(), "set url to https://other") {
			t.Error(err)
		}
	}
	for _, reason := range []Reason{ReasonRateLimited, ReasonConnection, ReasonTLS, ReasonTimeout, ReasonCanceled, ReasonServerError, ReasonUnauthorized, ReasonNotGitLab} {
		if GraphQLRefused(&Error{Reason: reason}) {
			t.Errorf("%s counts as refused", reason)
		}
	}
	if GraphQLRefused(nil) {
		t.Error("no error counts as refused")
	}
}

// TestOutageIsNoReasonToShrink: GitLab that is down is asked as REST asks it,
// with patience, and neither page nor fields change.
func TestOutageIsNoReasonToShrink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := 0
		d := new(GraphQLDialect)
		c := newClient(t, Options{BaseURL: "https://h", HTTPClient: &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			requests++
			return &http.Response{StatusCode: 502, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("<html>")), Request: r}, nil
		})}})
		_, err := c.RunnersGraphQL(t.Context(), GraphQLQuery{Dialect: d})
		if ReasonOf(err) != ReasonServerError || requests != maxAttempts || d.rows != 0 || d.lacks != 0 || GraphQLRefused(err) {
			t.Errorf("%d requests, dialect %+v, %v", requests, d, err)
		}
	})
}

// TestPageBeyondTheTimeoutIsReadInParts: a page that outlasts request_timeout is asked for in parts;
// the caller's own end is not GitLab's slowness.
func TestPageBeyondTheTimeoutIsReadInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []int
		c := newClient(t, Options{BaseURL: "https://h", Timeout: 10 * time.Second, HTTPClient: &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			var sent struct{ Variables struct{ First int } }
			if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
				t.Error(err)
			}
			asked = append(asked, sent.Variables.First)
			select {
			case <-time.After(time.Duration(sent.Variables.First) * 300 * time.Millisecond):
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
			return &http.Response{
				StatusCode: 200, Header: http.Header{}, Request: r,
				Body: io.NopCloser(strings.NewReader(`{"data":{"runners":{"nodes":[{"id":"gid://gitlab/Ci::Runner/7"}]}}}`)),
			}, nil
		})}})
		d := new(GraphQLDialect)
		for range 2 {
			if _, err := c.RunnersGraphQL(t.Context(), GraphQLQuery{Dialect: d}); err != nil {
				t.Error(err)
			}
		}
		equal(t, "pages", asked, []int{100, 50, 25, 25})
		asked = nil
		d.Reset()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := c.RunnersGraphQL(ctx, GraphQLQuery{Dialect: d})
		if ReasonOf(err) != ReasonTimeout || len(asked) != 1 || d.rows != 0 || GraphQLRefused(err) {
			t.Errorf("%v after %v", err, asked)
		}
	})
}

// TestGraphQLRowsAreRead: one row as GitLab writes it, one with nothing, and damaged ones.
func TestGraphQLRowsAreRead(t *testing.T) {
	p, err := serve(t, answers(sample(t, "graphql_runners.json"))).RunnersGraphQL(t.Context(), GraphQLQuery{})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "page", p, GraphQLPage{
		Next: "eyJjcmVhdGVkX2F0IjoiMjAyNiJ9", Skipped: 4, Fields: FieldsAll, Complexity: 89, Limit: 250,
		Runners: []FleetRunner{
			{
				RunnerDetails: RunnerDetails{
					Runner: Runner{ID: 9007199254740993, Description: "gpu-1", Type: "project_type", Status: "offline", Execution: "active", Paused: yes(), Online: no()},
					Tags:   []string{"gpu", "linux"}, RunUntagged: true, Protected: true, Owner: "a/b/c",
					Version: "18.4.0", Platform: "linux", Arch: "amd64", ContactedAt: at("2026-03-01T11:59:58Z"), MaximumTimeout: time.Hour,
				},
				Managers: []Manager{
					{ID: 4, SystemID: "s_1", Version: "17.11.0", Platform: "darwin", Arch: "arm64", Status: "stale", Execution: "idle"},
					{ID: 5, SystemID: "r_2", Version: "18.4.0", Platform: "linux", Arch: "amd64", Status: "online", Execution: "active", ContactedAt: at("2026-03-01T11:59:58Z")},
				},
				Executing: 1001,
			},
			{RunnerDetails: RunnerDetails{Runner: Runner{ID: 8, Type: "group_type", Status: "never_contacted"}, Owner: "g"}, Managers: []Manager{}, Executing: 0},
			{RunnerDetails: RunnerDetails{Runner: Runner{ID: 7, Type: "instance_type", Status: "hibernating", Online: no()}}, Executing: -1},
		},
	})
}

// TestSecretsInside200AreScrubbed: a GitLab, or what poses as one, that shows the token
// back in a GraphQL error.
func TestSecretsInside200AreScrubbed(t *testing.T) {
	const canary = "c4n4ry-0123456789abcdef"
	for _, form := range []string{
		`{"errors":[{"message":"token %[1]s","path":["%[1]s"],"extensions":{"code":"%[1]s"}}]}`,
		`{"data":{"runners":null},"errors":[{"message":"Field '%[1]s' doesn't exist on type 'Query'"}]}`,
		`{"errors":[{"message":"Field 'c4n4ry_0123456789abcdef' doesn't exist on type 'Query'"},{"message":"%[1]s"}]}`,
		`{"data":{"%[1]s":1},"errors":[{"message":"Timeout on %[1]s"}]}`,
		`{"data":{"runners":"%[1]s"}}`,
		`{"data":{"group":null,"x":"%[1]s"}}`,
	} {
		var logs bytes.Buffer
		arrived := false
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			arrived = r.Header.Get("Private-Token") == canary
			_, _ = fmt.Fprintf(w, form, canary)
		}, func(o *Options) {
			o.Scrub = strings.NewReplacer(canary, "***").Replace
			o.Logger = log.NewLogfmtLogger(log.NewSyncWriter(&logs))
			next := o.HTTPClient.Transport
			o.HTTPClient.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
				r = r.Clone(r.Context())
				r.Header.Set("Private-Token", canary)
				return next.RoundTrip(r)
			})
		})
		_, err := c.RunnersGraphQL(t.Context(), GraphQLQuery{Scope: Scope{snapshot.ScopeGroups, "a"}})
		if err == nil || !arrived {
			t.Fatalf("%s: %v, the token arrived: %t", form, err, arrived)
		}
		var shown strings.Builder
		shown.WriteString(logs.String())
		for cause := err; cause != nil; cause = errors.Unwrap(cause) {
			fmt.Fprintf(&shown, " %v %+v %#v", cause, cause, cause)
		}
		if text := shown.String(); strings.Contains(text, canary) || !strings.Contains(text, "route=/graphql") {
			t.Errorf("%s: %s", form, text)
		}
	}
}

// FuzzDecodeFleet: any answer is decoded or refused, and what is decoded is
// what encoding/json finds in it.
func FuzzDecodeFleet(f *testing.F) {
	f.Add([]byte(sample(f, "graphql_runners.json")))
	f.Add([]byte(`{"data":{"group":{"runners":{"pageInfo":{},"nodes":[{"id":"gid://gitlab/Ci::Runner/1","managers":{"nodes":[null,{"id":1}]}}]}}}}`))
	f.Add([]byte(`{"errors":[{"message":"Query has complexity of 99, which exceeds max complexity of 7"},{"message":"Timeout on X"}]}`))
	f.Add([]byte(`{"data":null,"errors":[{"message":"Argument 'statuses' on Field 'jobCount' has an invalid value ([A])."}]}`))
	f.Add([]byte(`{"data":{"runners":[{"a":[{}]}]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := decodeFleet(bytes.NewReader(body))
		if err != nil {
			if a != nil {
				t.Error("an answer beside an error")
			}
			return
		}
		no := a.refusal(document(snapshot.ScopeInstance, FieldsAll, false))
		if no != nil && (no.reason == "" || no.Error() == "" || no.lacks&^(fieldEnd-1) != 0) {
			t.Errorf("%+v", no)
		}
		if no == nil && (len(a.errors) > 0 || !a.list) {
			t.Error("an answer with errors, or without a list, is whole")
		}
		for _, r := range a.page.Runners {
			if r.ID <= 0 || r.Status != strings.ToLower(r.Status) || r.ManagersCut && r.Managers != nil || r.Online != nil && *r.Online != (r.Status == "online") {
				t.Errorf("%+v", r)
			}
		}
		var whole struct {
			Data struct {
				Runners struct{ Nodes []json.RawMessage }
			}
		}
		if bytes.Count(body, []byte("odes")) == 1 && bytes.Contains(body, []byte(`"nodes"`)) && bytes.Contains(body, []byte(`"data"`)) &&
			json.Unmarshal(body, &whole) == nil && len(whole.Data.Runners.Nodes) > 0 && bytes.Count(bytes.ToLower(body), []byte("runners")) == 1 &&
			bytes.Contains(body, []byte(`"runners"`)) && bytes.Count(bytes.ToLower(body), []byte(`"data"`)) == 1 {
			if n := len(a.page.Runners) + a.page.Skipped; n != len(whole.Data.Runners.Nodes) {
				t.Errorf("%d rows, of %d", n, len(whole.Data.Runners.Nodes))
			}
		}
	})
}

// coded is an objection below the runners' rows, as graphql-ruby gives it.
func coded(message, code string, path ...string) graphqlError {
	e := graphqlError{Message: message, Path: []any{"query fleet", "runners", "nodes"}}
	e.Extensions.Code = code
	for _, p := range path {
		e.Path = append(e.Path, p)
	}
	return e
}

// TestObjectionLeavesOutItsFields holds what each objection costs: the fields left out for it, or none.
func TestObjectionLeavesOutItsFields(t *testing.T) {
	const denied = "you don't have permission to perform this action"
	inside := func(name string) []any { return []any{"runners", "nodes", 0.0, name} }
	for _, c := range []struct {
		ran    bool
		errors []graphqlError
		want   refusal // without its message
	}{
		{false, []graphqlError{{Message: "Field 'platformName' doesn't exist on type 'CiRunnerManager'"}}, refusal{reason: ReasonBadRequest, lacks: FieldManagers}},
		{false, []graphqlError{{Message: "Field 'pageInfo' doesn't exist on type 'CiRunnerManagerConnection'"}}, refusal{reason: ReasonBadRequest, lacks: FieldManagers}},
		{false, []graphqlError{{Message: "Field 'score' doesn't exist on type 'QueryComplexity'"}}, refusal{reason: ReasonBadRequest, lacks: fieldComplexity}},
		{false, []graphqlError{{Message: "Field 'queryComplexity' doesn't exist on type 'Query'"}}, refusal{reason: ReasonBadRequest, lacks: fieldComplexity}},
		{false, []graphqlError{{Message: "Field 'fullPath' doesn't exist on type 'Project'"}}, refusal{reason: ReasonBadRequest, lacks: FieldOwner}},
		{false, []graphqlError{{Message: "Field 'fullPath' doesn't exist on type 'Group'"}}, refusal{reason: ReasonBadRequest, lacks: FieldGroups}},
		{false, []graphqlError{{Message: "Field 'runners' doesn't exist on type 'Group'"}}, refusal{reason: ReasonBadRequest, field: "runners"}},
		{false, []graphqlError{{Message: "Field 'managers' doesn't accept argument 'first'"}}, refusal{reason: ReasonBadRequest, lacks: FieldManagers}},
		{false, []graphqlError{{Message: "Field 'groups' doesn't accept argument 'first'"}}, refusal{reason: ReasonBadRequest, lacks: FieldGroups}},
		{false, []graphqlError{{Message: "Field 'jobCount' doesn't accept argument 'statuses'"}}, refusal{reason: ReasonBadRequest, lacks: FieldExecuting}},
		{false, []graphqlError{{Message: "Argument 'statuses' on Field 'jobCount' has an invalid value ([RUNNING, CANCELING]). Expected type '[CiJobStatus!]'."}}, refusal{reason: ReasonBadRequest, lacks: fieldCanceling}},
		// graphql-ruby names the alias, in the text and in the path.
		{false, []graphqlError{{Message: "Field 'executing' doesn't accept argument 'statuses'"}}, refusal{reason: ReasonBadRequest, lacks: FieldExecuting}},
		{false, []graphqlError{{Message: "Argument 'statuses' on Field 'executing' has an invalid value ([RUNNING, CANCELING]). Expected type '[CiJobStatus!]'."}}, refusal{reason: ReasonBadRequest, lacks: fieldCanceling}},
		{false, []graphqlError{coded("Field 'x' doesn't accept argument 'statuses'", argumentNotAccepted, "executing", "statuses")}, refusal{reason: ReasonBadRequest, lacks: FieldExecuting}},
		{false, []graphqlError{coded("words of another line", invalidArgument, "executing", "statuses")}, refusal{reason: ReasonBadRequest, lacks: fieldCanceling}},
		{false, []graphqlError{coded("words of another line", invalidArgument, "jobCount", "statuses")}, refusal{reason: ReasonBadRequest, lacks: fieldCanceling}},
		{false, []graphqlError{coded("words of another line", undefinedField, "managers", "nodes", "platformName")}, refusal{reason: ReasonBadRequest, lacks: FieldManagers}},
		// 16.0 to 16.2 have machines, and not what they execute.
		{false, []graphqlError{coded("words of another line", undefinedField, "managers", "nodes", "jobExecutionStatus")}, refusal{reason: ReasonBadRequest, lacks: FieldMachineExecution}},
		{false, []graphqlError{{Message: "Field 'jobExecutionStatus' doesn't exist on type 'CiRunnerManager'"}}, refusal{reason: ReasonBadRequest, lacks: FieldMachineExecution}},
		{false, []graphqlError{{Message: "Field 'jobExecutionStatus' doesn't exist on type 'CiRunner'"}}, refusal{reason: ReasonBadRequest, lacks: FieldExecution}},
		{true, []graphqlError{{Message: "boom", Path: []any{"runners", "nodes", 7.0, "managers", "nodes", 0.0, "jobExecutionStatus"}}}, refusal{reason: ReasonServerError, lacks: FieldMachineExecution}},
		{false, []graphqlError{coded("words of another line", undefinedField, "managers")}, refusal{reason: ReasonBadRequest, lacks: FieldManagers, noMachines: true}},
		{false, []graphqlError{coded("words of another line", argumentNotAccepted, "status", "legacyMode")}, refusal{reason: ReasonBadRequest, lacks: fieldLegacyMode}},
		{false, []graphqlError{coded("words of another line", undefinedField, "status")}, refusal{reason: ReasonBadRequest, field: "status"}},
		{false, []graphqlError{coded("words of another line", "variableMismatch", "managers", "first")}, refusal{reason: ReasonBadRequest}},
		{false, []graphqlError{{Message: "Field 'status' doesn't accept argument 'legacyMode'"}}, refusal{reason: ReasonBadRequest, lacks: fieldLegacyMode}},
		{false, []graphqlError{{Message: "Field 'managers' doesn't exist on type 'CiRunner' (Did you mean `manager`?)"}}, refusal{reason: ReasonBadRequest, lacks: FieldManagers, noMachines: true}},
		{false, []graphqlError{{Message: "Field 'fullPath' doesn't exist on type 'ProjectInterface'"}}, refusal{reason: ReasonBadRequest, lacks: FieldOwner}},
		{false, []graphqlError{{Message: "Argument 'membership' on Field 'runners' has an invalid value (ALL_AVAILABLE). Expected type 'CiRunnerMembershipFilter'."}}, refusal{reason: ReasonBadRequest, lacks: fieldAllAvailable}},
		{false, []graphqlError{{Message: "Field 'runners' doesn't accept argument 'first'"}}, refusal{reason: ReasonBadRequest, field: "first"}},
		{
			false,
			[]graphqlError{{Message: "Field 'paused' doesn't exist on type 'CiRunner'"}, {Message: "Field 'tagList' doesn't exist on type 'CiRunner'"}},
			refusal{reason: ReasonBadRequest, lacks: FieldPaused | FieldTags},
		},
		{
			false,
			[]graphqlError{{Message: "Field 'paused' doesn't exist on type 'CiRunner'"}, {Message: "Field 'id' doesn't exist on type 'CiRunner'"}},
			refusal{reason: ReasonBadRequest, field: "id"},
		},
		{true, []graphqlError{{Message: "Timeout on CiRunner.managers"}, {Message: "boom", Path: inside("managers")}}, refusal{reason: ReasonTimeout, slow: true}},
		{true, []graphqlError{{Message: denied, Path: inside("groups")}}, refusal{reason: ReasonServerError, lacks: FieldGroups}},
		{true, []graphqlError{{Message: denied, Path: inside("groups")}, {Message: denied, Path: []any{"runners"}}}, refusal{reason: ReasonForbidden}},
		{true, []graphqlError{{Message: "boom", Path: inside("executing")}}, refusal{reason: ReasonServerError, lacks: FieldExecuting}},
		{true, []graphqlError{{Message: "boom", Path: inside("executing")}, {Message: "boom", Path: inside("id")}}, refusal{reason: ReasonServerError}},
		{false, []graphqlError{{Message: "Query has complexity of 301, which exceeds max complexity of 250"}}, refusal{reason: ReasonBadRequest, score: 301, limit: 250}},
	} {
		a := fleetAnswer{ran: c.ran, errors: c.errors}
		no := a.refusal(document(snapshot.ScopeInstance, FieldsAll, false))
		if no == nil {
			t.Errorf("%v: no objection", c.errors)
			continue
		}
		no.message = ""
		equal(t, fmt.Sprint(c.errors), *no, c.want)
	}
	a, err := decodeFleet(strings.NewReader(`{"errors":[` + strings.Repeat(`{"message":"a"},`, 1000) + `{"message":"b"}]}`))
	if err != nil || len(a.errors) != maxGraphQLErrors {
		t.Errorf("%d errors are kept, %v", len(a.errors), err)
	}
}

// TestPageOnlyShrinks: the page only shrinks, at least by half, and not below the least.
func TestPageOnlyShrinks(t *testing.T) {
	d := new(GraphQLDialect)
	for _, c := range []struct{ rows, score, limit, want int }{
		{100, 1000, 250, 25}, {100, 260, 250, 25}, {25, 0, 0, 12}, {12, 1 << 40, 1, 10},
	} {
		if !d.cut(ask{rows: c.rows}, c.score, c.limit) || d.rows != c.want {
			t.Errorf("%+v: %d rows", c, d.rows)
		}
	}
	if d.cut(ask{rows: 10}, 1000, 1) || d.rows != 10 {
		t.Errorf("cut to %d rows", d.rows)
	}
}

// TestNextPageStaysBelowTheLimit: an administrator may ask for more than others, and
// the next page asks for less all the same.
func TestNextPageStaysBelowTheLimit(t *testing.T) {
	d := new(GraphQLDialect)
	c := serve(t, answers(`{"data":{"queryComplexity":{"score":251,"limit":300},"runners":{"nodes":[{"id":"gid://gitlab/Ci::Runner/7"}]}}}`))
	p, err := c.RunnersGraphQL(t.Context(), GraphQLQuery{Dialect: d})
	if err != nil || p.Complexity != 251 || d.rows != 50 {
		t.Errorf("%+v, %v, %d rows", p, err, d.rows)
	}
}

// TestOnlyEmptyOrRefusedGroupsAreAskedForLess: only an empty first page, or a refusal, makes a group's
// runners be asked for in the lesser way.
func TestOnlyEmptyOrRefusedGroupsAreAskedForLess(t *testing.T) {
	requests := 0
	body := `{"data":{"group":{"runners":{"nodes":[]}}}}`
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		requests++
		_, _ = w.Write([]byte(body))
	})
	d := new(GraphQLDialect)
	q := GraphQLQuery{Scope: Scope{snapshot.ScopeGroups, "a"}, Dialect: d}
	p, err := c.RunnersGraphQL(t.Context(), q)
	if err != nil || p.Partial || requests != 2 || d.lacks != 0 {
		t.Errorf("an empty group: %+v, %v, %d requests, lacks %b", p, err, requests, d.lacks)
	}
	q.After = "x"
	if _, err := c.RunnersGraphQL(t.Context(), q); err != nil || requests != 3 {
		t.Errorf("an empty last page: %v, %d requests", err, requests)
	}
	body = `{"data":{"group":null},"errors":[{"message":"boom"}]}`
	if _, err := c.RunnersGraphQL(t.Context(), q); ReasonOf(err) != ReasonServerError || requests != 4 || d.lacks != 0 {
		t.Errorf("a failure: %v, %d requests, lacks %b", err, requests, d.lacks)
	}
}

func TestFieldSetIsNamedByItsFields(t *testing.T) {
	names := strings.Fields((fieldEnd - 1).String())
	if len(names) != 18 || names[0] != "jobExecutionStatus" || names[15] != "ALL_AVAILABLE" {
		t.Errorf("%d names: %v", len(names), names)
	}
	if got := (FieldManagers | FieldTags).String(); got != "tagList managers" || FieldSet(0).String() != "" {
		t.Errorf("%q", got)
	}
	for _, name := range names[:13] { // each stands for the field of that name
		if f := of(strings.TrimSuffix(name, "(statuses)")); f.String() != name {
			t.Errorf("%s is %s", name, f)
		}
	}
}

// TestRequestedFieldsAreTheFieldsRead: what a query requests of a runner is read from the answer, in
// any form, and what is read is requested: one table makes both.
func TestRequestedFieldsAreTheFieldsRead(t *testing.T) {
	first := regexp.MustCompile(`^[A-Za-z]+`)
	members := map[string]bool{}
	for _, f := range []FieldSet{FieldsAll, 0, FieldMachine, fieldEnd - 1, fieldLegacyMode} {
		for i := range runnerFields {
			o := &runnerFields[i]
			text := o.write(f)
			if text == "" {
				continue
			}
			members[o.member] = true
			if first.FindString(text) != o.member || o.read == nil || runnerMembers[o.member] != o {
				t.Errorf("%q is requested and read as %q", text, o.member)
			}
		}
	}
	if len(members) != len(runnerMembers) {
		t.Errorf("requested %v, read %d members", members, len(runnerMembers))
	}
}
