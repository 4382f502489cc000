package graphql

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
)

const token = "admin-token"

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func mounted(t *testing.T, o gitlabsim.Options) (*gitlabsim.World, *Server) {
	t.Helper()
	o.Token = token
	o.Now = func() time.Time { return noon } // nothing moves between two requests
	w := gitlabsim.New(o)
	s, err := Mount(w)
	if err != nil {
		t.Fatal(err)
	}
	return w, s
}

type reply struct {
	status int
	body   string
	Data   map[string]any
	Errors []Error
}

func ask(t *testing.T, w *gitlabsim.World, token, query string, vars map[string]any) reply {
	t.Helper()
	b, err := json.Marshal(map[string]any{"query": query, "variables": vars})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://gitlab.test/api/graphql", strings.NewReader(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	return send(t, w, token, req)
}

func send(t *testing.T, w *gitlabsim.World, token string, req *http.Request) reply {
	t.Helper()
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := w.RoundTripper().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	r := reply{status: res.StatusCode, body: string(raw)}
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	return r
}

// at digs into an answer's data.
func (r reply) at(t *testing.T, path ...string) any {
	t.Helper()
	var v any = r.Data
	for _, k := range path {
		if list, ok := v.([]any); ok {
			i, err := strconv.Atoi(k)
			if err != nil || i >= len(list) {
				t.Fatalf("no %v in %s", path, r.body)
			}
			v = list[i]
			continue
		}
		m, ok := v.(map[string]any)
		if !ok {
			t.Fatalf("no %v in %s", path, r.body)
		}
		v = m[k]
	}
	return v
}

// TestPagesHaveEachRunnerOnce: the truth of the whole fleet, by cursor, each runner once, though
// one is deleted and one joins between two pages.
func TestPagesHaveEachRunnerOnce(t *testing.T) {
	w, _ := mounted(t, gitlabsim.Options{Seed: 3, Runners: 250, Tags: 20, JobsPerHour: 500, History: time.Hour})
	truth := map[int64]gitlabsim.RunnerTruth{}
	for _, r := range w.Fleet().Runners {
		truth[r.ID] = r
	}
	seen := map[int64]bool{}
	after := ""
	pages := 0
	for {
		r := ask(t, w, token, `query($after: String) { runners(first: 100, after: $after) { count pageInfo { hasNextPage endCursor }
			nodes { id runnerType status paused tagList runUntagged accessLevel contactedAt jobExecutionStatus
				jobCount(statuses: [RUNNING, CANCELING]) managers { count nodes { id systemId status } } } } }`, map[string]any{"after": after})
		if len(r.Errors) > 0 {
			t.Fatal(r.Errors)
		}
		nodes, _ := r.at(t, "runners", "nodes").([]any)
		for _, n := range nodes {
			m, _ := n.(map[string]any)
			text, _ := m["id"].(string)
			id, err := strconv.ParseInt(strings.TrimPrefix(text, "gid://gitlab/Ci::Runner/"), 10, 64)
			if err != nil || seen[id] {
				t.Fatalf("id %q, seen %t", text, seen[id])
			}
			seen[id] = true
			want := truth[id]
			got := []any{m["runnerType"], m["status"], m["paused"], m["runUntagged"], m["jobCount"]}
			expect := []any{strings.ToUpper(want.Type), strings.ToUpper(want.Status), want.Paused, want.RunUntagged, float64(len(want.Executing))}
			for i := range got {
				if got[i] != expect[i] {
					t.Errorf("runner %d: got %v, want %v", id, got, expect)
					break
				}
			}
			tags, _ := m["tagList"].([]any)
			machines, _ := m["managers"].(map[string]any)
			if len(tags) != len(want.Tags) || machines["count"] != float64(len(want.Managers)) {
				t.Errorf("runner %d: %d tags, %v machines, want %d, %d", id, len(tags), machines["count"], len(want.Tags), len(want.Managers))
			}
			if active := m["jobExecutionStatus"] == "ACTIVE"; active != (len(want.Executing) > 0) {
				t.Errorf("runner %d: %v with %d jobs", id, m["jobExecutionStatus"], len(want.Executing))
			}
		}
		if pages++; pages == 1 {
			var last int64
			for id := range seen {
				last = id
			}
			w.DeleteRunner(last)
			w.AddRunner(gitlabsim.RunnerSpec{})
		}
		if r.at(t, "runners", "pageInfo", "hasNextPage") != true {
			break
		}
		after, _ = r.at(t, "runners", "pageInfo", "endCursor").(string)
	}
	if len(seen) != 250 || pages != 3 {
		t.Errorf("%d runners on %d pages", len(seen), pages)
	}
}

// TestComplexityIsGitLabsFormula holds GitLab's formula to numbers worked out by hand from it.
func TestComplexityIsGitLabsFormula(t *testing.T) {
	w, s := mounted(t, gitlabsim.Options{Runners: 3})
	for query, want := range map[string]float64{
		`{ queryComplexity { score limit } }`:                                                                                  3,
		`{ queryComplexity { score } currentUser { id } }`:                                                                     4,
		`{ queryComplexity { score } runners(first: 100) { nodes { id } } }`:                                                   2 + (2+1)*2,
		`{ queryComplexity { score } runners(first: 500) { nodes { id } } }`:                                                   2 + (2+1)*2,
		`{ queryComplexity { score } runners { nodes { id } } }`:                                                               2 + (2+1)*2,
		`{ queryComplexity { score } runners(first: 50, sort: CREATED_ASC) { nodes { id } } }`:                                 2 + 6, // 4 x 1.5
		`{ queryComplexity { score } runners(first: 100) { nodes { ...f } } } fragment f on CiRunner { id status }`:            2 + (3+1)*2,
		`{ queryComplexity { score } runners(first: 100) { nodes { jobCount(statuses: [RUNNING]) ownerProject { fullPath }}}}`: 2 + (1+1+2+1)*2,
		`{ queryComplexity { score } runners(first: 100) { nodes { managers(first: 100) { nodes { id } } } } }`:                2 + (1+(2+1)*2+1)*2,
		`{ queryComplexity { score } group(fullPath: "nobody") { runners(first: 10) { nodes { id } } } }`:                      2 + 1 + 3, // 3 x 1.1 = 3.3
	} {
		r := ask(t, w, token, query, nil)
		if got := r.at(t, "queryComplexity", "score"); got != want {
			t.Errorf("%s: %v, want %v (%s)", query, got, want, r.body)
		}
	}
	s.SetLimit(7)
	r := ask(t, w, token, `{ runners(first: 100) { nodes { id status } } }`, nil)
	if r.status != 200 || r.Data != nil || len(r.Errors) != 1 || r.Errors[0].Message != "Query has complexity of 8, which exceeds max complexity of 7" {
		t.Error(r.body)
	}
}

func TestDeepQueryIsRefused(t *testing.T) {
	w, s := mounted(t, gitlabsim.Options{Runners: 3})
	s.SetLimit(10_000)
	nest := func(n int) string {
		return strings.Repeat(`runners { nodes { groups { nodes { `, n) + "fullPath" + strings.Repeat(" } } } }", n)
	}
	if r := ask(t, w, token, "{ "+nest(4)+" }", nil); len(r.Errors) > 0 { // 17 deep
		t.Error(r.body)
	}
	r := ask(t, w, token, "{ "+nest(5)+" }", nil)
	if len(r.Errors) != 1 || r.Errors[0].Message != "Query has depth of 21, which exceeds max depth of 20" {
		t.Error(r.body)
	}
	// Who is nobody has lower limits.
	r = ask(t, w, "", "{ "+nest(4)+" }", nil)
	if len(r.Errors) != 1 || r.Errors[0].Message != "Query has depth of 17, which exceeds max depth of 15" {
		t.Error(r.body)
	}
}

// TestErrorMessagesAreGitLabs: a release that does not know something returns GitLab's message,
// with the code and the path, inside HTTP 200.
func TestErrorMessagesAreGitLabs(t *testing.T) {
	for _, c := range []struct{ version, query, message, code, path string }{
		{"15.6.0", `query fleet { runners { nodes { id jobExecutionStatus } } }`, "Field 'jobExecutionStatus' doesn't exist on type 'CiRunner'", "undefinedField", "query fleet/runners/nodes/jobExecutionStatus"},
		{"15.11.0", `{ runners { nodes { id managers { nodes { id } } } } }`, "Field 'managers' doesn't exist on type 'CiRunner'", "undefinedField", "query/runners/nodes/managers"},
		{"16.1.0", `{ runners { nodes { executing: jobCount(statuses: [RUNNING]) } } }`, "Field 'executing' doesn't accept argument 'statuses'", "argumentNotAccepted", "query/runners/nodes/executing/statuses"},
		{"16.11.0", `{ runners { nodes { jobCount(statuses: [RUNNING, CANCELING]) } } }`, "Argument 'statuses' on Field 'jobCount' has an invalid value ([RUNNING, CANCELING]). Expected type '[CiJobStatus!]'.", "argumentLiteralsIncompatible", "query/runners/nodes/jobCount/statuses"},
		{"15.4.0", `{ group(fullPath: "a") { runners(membership: ALL_AVAILABLE) { nodes { id } } } }`, "Argument 'membership' on Field 'runners' has an invalid value (ALL_AVAILABLE). Expected type 'CiRunnerMembershipFilter'.", "argumentLiteralsIncompatible", "query/group/runners/membership"},
		{"18.0.0", `{ runners { nodes { version } } }`, "Field 'version' doesn't exist on type 'CiRunner'", "undefinedField", "query/runners/nodes/version"},
		{"19.1.0", `mutation { runnerDelete(id: 1) { id } }`, "Schema is not configured for mutations", "", ""},
		{"19.1.0", `{ runners `, "Parse error: Syntax Error query (1:11) Expected Name, found EOF", "", ""},
	} {
		t.Run(c.version+" "+c.code, func(t *testing.T) {
			w, _ := mounted(t, gitlabsim.Options{Version: c.version})
			r := ask(t, w, token, c.query, nil)
			if r.status != 200 || len(r.Errors) != 1 || r.Data != nil {
				t.Fatal(r.status, r.body)
			}
			e := r.Errors[0]
			var path []string
			for _, p := range e.Path {
				text, _ := p.(string)
				path = append(path, text)
			}
			code, _ := e.Extensions["code"].(string)
			if e.Message != c.message || code != c.code || strings.Join(path, "/") != c.path {
				t.Errorf("%q %q %q", e.Message, code, strings.Join(path, "/"))
			}
		})
	}
}

// TestOlderReleaseLacksNewerFields: each release has what the next one down has not.
func TestOlderReleaseLacksNewerFields(t *testing.T) {
	for _, c := range []struct {
		field     string
		from, not string
	}{
		{"paused", "14.8.0", "14.7.9"},
		{"ownerProject { fullPath }", "15.1.0", "15.0.0"},
		{"jobExecutionStatus", "15.7.0", "15.6.8"},
		{"managers { nodes { id } }", "16.0.0", "15.11.13"},
		{"jobCount(statuses: [RUNNING])", "16.2.0", "16.1.6"},
		{"managers { nodes { jobExecutionStatus } }", "16.3.0", "16.2.9"},
		{"jobCount(statuses: [CANCELING])", "17.0.0", "16.11.0"},
		{"platformName", "17.11.0", "18.0.0"},
		{"status(legacyMode: null)", "15.11.0", "16.0.0"},
	} {
		for _, v := range []string{c.from, c.not} {
			w, _ := mounted(t, gitlabsim.Options{Version: v})
			r := ask(t, w, token, `{ runners { nodes { id `+c.field+` } } }`, nil)
			if ok := len(r.Errors) == 0; ok != (v == c.from) {
				t.Errorf("%s on %s: %s", c.field, v, r.body)
			}
		}
	}
}

// TestRightsDecideWhatIsSeen: administrators see the instance, others an error inside 200;
// a group's maintainer its descendants, and nobody a group that is not theirs.
func TestRightsDecideWhatIsSeen(t *testing.T) {
	w, _ := mounted(t, gitlabsim.Options{Version: "19.1.0-ee"})
	top := w.AddGroup("top", 0)
	sub := w.AddGroup("sub", top)
	other := w.AddGroup("other", 0)
	prj := w.AddProject("app", sub)
	instance := w.AddRunner(gitlabsim.RunnerSpec{})
	ofTop := w.AddRunner(gitlabsim.RunnerSpec{Group: top})
	ofSub := w.AddRunner(gitlabsim.RunnerSpec{Group: sub})
	ofProject := w.AddRunner(gitlabsim.RunnerSpec{Projects: []int64{prj}})
	w.AddRunner(gitlabsim.RunnerSpec{Group: other})
	w.AddToken(gitlabsim.TokenSpec{Token: "maintainer", Scopes: []string{"read_api"}, Groups: []int64{top}})
	w.AddToken(gitlabsim.TokenSpec{Token: "auditor", Scopes: []string{"read_api"}, Auditor: true})
	w.AddToken(gitlabsim.TokenSpec{Token: "no-api", Scopes: []string{"manage_runner"}, Admin: true})

	ids := func(r reply, path ...string) string {
		t.Helper()
		list, _ := r.at(t, append(path, "runners", "nodes")...).([]any)
		var l []string
		for _, n := range list {
			m, _ := n.(map[string]any)
			text, _ := m["id"].(string)
			l = append(l, text[strings.LastIndexByte(text, '/')+1:])
		}
		return strings.Join(l, " ")
	}
	join := func(ids ...int64) string {
		var l []string
		for _, id := range ids {
			l = append(l, strconv.FormatInt(id, 10))
		}
		return strings.Join(l, " ")
	}
	const asc = "sort: CREATED_ASC"
	for _, c := range []struct{ who, where, args, want string }{
		{"maintainer", "top", "membership: DIRECT, " + asc, join(ofTop)},
		{"maintainer", "top", asc, join(ofTop, ofSub, ofProject)},
		{"maintainer", "top", "membership: ALL_AVAILABLE, " + asc, join(instance, ofTop, ofSub, ofProject)},
		{"maintainer", "top/sub", "membership: ALL_AVAILABLE, " + asc, join(instance, ofTop, ofSub, ofProject)},
		{"maintainer", "top/sub", asc, join(ofSub, ofProject)},
		{"auditor", "top", "membership: DIRECT, " + asc, join(ofTop)},
		{token, "top", "type: PROJECT_TYPE", join(ofProject)},
		{token, "top", "type: GROUP_TYPE, status: ONLINE, paused: false, " + asc, join(ofTop, ofSub)},
		{token, "top", "paused: true", ""},
		{token, "top", "active: false", ""},
	} {
		r := ask(t, w, c.who, `{ group(fullPath: "`+c.where+`") { runners(`+c.args+`) { nodes { id } } } }`, nil)
		if got := ids(r, "group"); got != c.want {
			t.Errorf("%+v: %q (%s)", c, got, r.body)
		}
	}
	if got := ids(ask(t, w, token, `{ project(fullPath: "top/sub/app") { runners(sort: CREATED_ASC) { nodes { id } } } }`, nil), "project"); got != join(instance, ofTop, ofSub, ofProject) {
		t.Errorf("project: %q", got)
	}
	for query, denied := range map[string]bool{
		`{ runners { nodes { id } } }`:                                      true,
		`{ group(fullPath: "other") { runners { nodes { id } } } }`:         true,
		`{ group(fullPath: "nowhere") { runners { nodes { id } } } }`:       false,
		`{ project(fullPath: "top/nowhere") { runners { nodes { id } } } }`: false,
	} {
		r := ask(t, w, "maintainer", query, nil)
		if r.status != 200 || (len(r.Errors) == 1) != denied || denied && r.Errors[0].Message != notAvailable {
			t.Errorf("%s: %s", query, r.body)
		}
		for _, v := range r.Data {
			if m, ok := v.(map[string]any); ok && m["runners"] != nil {
				t.Errorf("%s: %s", query, r.body)
			}
		}
	}
	if r := ask(t, w, token, `{ runners { count } }`, nil); r.at(t, "runners", "count") != 5.0 {
		t.Error(r.body)
	}
	if r := ask(t, w, "auditor", `{ runners { count } }`, nil); len(r.Errors) != 1 || r.Errors[0].Message != notAvailable {
		t.Error(r.body)
	}
	if r := ask(t, w, token, `{ runners(first: 1) { nodes { adminUrl } } }`, nil); !strings.Contains(r.body, "/admin/runners/") {
		t.Error(r.body)
	}
	if r := ask(t, w, "auditor", `{ group(fullPath: "top") { runners(first: 1) { nodes { adminUrl } } } }`, nil); strings.Contains(r.body, "/admin/runners/") {
		t.Error(r.body)
	}
	for _, bad := range []string{"wrong", "no-api"} {
		if r := ask(t, w, bad, `{ currentUser { username } }`, nil); r.status != 401 || r.Errors[0].Message != "Invalid token" {
			t.Errorf("%s: %d %s", bad, r.status, r.body)
		}
	}
	if r := ask(t, w, "", `{ currentUser { username } metadata { version } runners { nodes { id } } }`, nil); r.status != 200 ||
		r.Data["currentUser"] != nil || r.Data["metadata"] != nil || len(r.Errors) != 1 {
		t.Error(r.body)
	}
	if r := ask(t, w, token, `{ currentUser { username } metadata { version } }`, nil); r.at(t, "metadata", "version") != "19.1.0-ee" || r.at(t, "currentUser", "username") != "root" {
		t.Error(r.body)
	}
}

// TestLimitsOfARequestAreGitLabs: what GitLab allows once a request, how much it takes, and by which method.
func TestLimitsOfARequestAreGitLabs(t *testing.T) {
	w, s := mounted(t, gitlabsim.Options{Runners: 120})
	r := ask(t, w, token, `{ runners(first: 2) { nodes { jobs { count } } } }`, nil)
	if len(r.Errors) != 1 || r.Errors[0].Message != `"jobs" field can be requested only for 1 CiRunner(s) at a time.` {
		t.Error(r.body)
	}
	if r := ask(t, w, token, `{ runners(first: 1) { nodes { jobs { count } } } }`, nil); len(r.Errors) > 0 {
		t.Error(r.body)
	}
	if r := ask(t, w, token, `{ runners(first: 101) { nodes { id } } }`, nil); strings.Count(r.body, "gid://") != 100 {
		t.Errorf("%d runners on a page", strings.Count(r.body, "gid://"))
	}
	for _, bad := range []string{`first: -1`, `after: "nonsense"`, `after: "eyJ9"`} {
		if r := ask(t, w, token, `{ runners(`+bad+`) { nodes { id } } }`, nil); len(r.Errors) != 1 || r.Data["runners"] != nil {
			t.Errorf("%s: %s", bad, r.body)
		}
	}
	if r := ask(t, w, token, "{ currentUser { id } }"+strings.Repeat(" ", 10_000), nil); r.status != 422 || r.Errors[0].Message != "Query too large" {
		t.Error(r.status, r.body)
	}
	get := func(query string) reply {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://gitlab.test/api/graphql?query="+url.QueryEscape(query), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		return send(t, w, token, req)
	}
	if r := get(`{ currentUser { username } }`); r.at(t, "currentUser", "username") != "root" {
		t.Error(r.body)
	}
	if r := get(`mutation { runnerDelete { id } }`); r.status != 422 || r.Errors[0].Message != "Mutations are forbidden in GET requests" {
		t.Error(r.status, r.body)
	}
	if q := s.Queries(); q[len(q)-1].Method != "GET" || q[0].Operation != "query" || q[0].Score == 0 || q[0].First != 2 {
		t.Errorf("%+v", q)
	}
}

// TestFaultsAndThrottleApplyToGraphQL: scripted answers, and requests that count like any other.
func TestFaultsAndThrottleApplyToGraphQL(t *testing.T) {
	w, s := mounted(t, gitlabsim.Options{Runners: 2, RateLimit: 3})
	s.SetFault(func(q Query) *Fault {
		if q.First > 1 {
			return &Fault{Errors: []Error{{Message: "Timeout on Query.runners"}}}
		}
		return nil
	})
	if r := ask(t, w, token, `{ runners(first: 2) { nodes { id } } }`, nil); r.status != 200 || r.Data != nil || r.Errors[0].Message != "Timeout on Query.runners" {
		t.Error(r.body)
	}
	if r := ask(t, w, token, `{ runners(first: 1) { nodes { id } } }`, nil); len(r.Errors) > 0 {
		t.Error(r.body)
	}
	s.SetFault(func(Query) *Fault { return &Fault{Status: 503, Data: true, Errors: []Error{{Message: "slow"}}} })
	if r := ask(t, w, token, `{ runners(first: 1) { nodes { id } } }`, nil); r.status != 503 || r.Data["runners"] == nil || len(r.Errors) != 1 {
		t.Error(r.body)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://gitlab.test/api/graphql", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("PRIVATE-TOKEN", token)
	res, err := w.RoundTripper().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusTooManyRequests {
		t.Errorf("the fourth request: %d", res.StatusCode)
	}
	if n := w.Requests()["POST /graphql"]; n != 4 {
		t.Errorf("%d requests on record", n)
	}
}
