package gitlabsim

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestErrorBodiesAreGitLabs(t *testing.T) {
	w, _ := newWorld(Options{Runners: 10, Seed: 1})
	instance := w.AddRunner(RunnerSpec{})
	groupRunner := w.AddRunner(RunnerSpec{Group: 1})
	w.AddToken(TokenSpec{Token: "plain", Scopes: []string{"read_api"}})
	w.AddToken(TokenSpec{Token: "auditor", Auditor: true, Scopes: []string{"read_api"}})
	w.AddToken(TokenSpec{Token: "manage", Admin: true, Scopes: []string{"manage_runner"}})
	w.AddToken(TokenSpec{Token: "create", Admin: true, Scopes: []string{"create_runner"}})
	w.AddToken(TokenSpec{Token: "expired", Admin: true, Scopes: []string{"read_api"}, ExpiresAt: noon})
	w.AddToken(TokenSpec{Token: "tomorrow", Admin: true, Scopes: []string{"read_api"}, ExpiresAt: noon.AddDate(0, 0, 1)})
	w.AddToken(TokenSpec{Token: "revoked", Admin: true, Scopes: []string{"read_api"}})
	w.RevokeToken("revoked")
	const unauthorized = `{"message":"401 Unauthorized"}`
	const scope = `{"error":"insufficient_scope","error_description":"The request requires higher privileges than provided by the access token.","scope":"`
	inst, grp := fmt.Sprintf("/runners/%d", instance), fmt.Sprintf("/runners/%d", groupRunner)
	for _, tc := range []struct {
		token, method, path string
		status              int
		body                string // as it begins
	}{
		{"", "GET", "/runners/all", 401, unauthorized},
		{"wrong", "GET", "/runners/all", 401, unauthorized},
		{"expired", "GET", "/runners/all", 401, `{"error":"invalid_token","error_description":"Token is expired`},
		{"tomorrow", "GET", "/runners/all", 200, "["},
		{"revoked", "GET", "/version", 401, `{"error":"invalid_token","error_description":"Token was revoked`},
		{"plain", "GET", "/runners/all", 403, `{"message":"403 Forbidden"}`},
		{"plain", "GET", "/runners", 200, "[]"},
		{"plain", "GET", inst, 200, "{"},
		{"plain", "GET", inst + "/managers", 200, "["},
		{"plain", "GET", inst + "/jobs", 403, `{"message":"403 Forbidden - No access granted"}`},
		{"plain", "GET", grp, 403, `{"message":"403 Forbidden - No access granted"}`},
		{"plain", "GET", "/groups/1/runners", 403, `{"message":"403 Forbidden"}`},
		{"plain", "GET", "/projects/1/runners", 404, `{"message":"404 Project Not Found"}`},
		{"plain", "GET", "/user", 200, "{"},
		{"auditor", "GET", "/runners/all", 200, "["},
		{"auditor", "GET", inst + "/jobs", 200, "["},
		{"manage", "GET", "/runners/all", 403, scope + `api read_api"}`},
		{"manage", "GET", "/groups/1/runners", 403, scope},
		{"manage", "GET", inst, 200, "{"},
		{"manage", "GET", inst + "/managers", 200, "["},
		{"manage", "GET", inst + "/jobs", 200, "["},
		{"create", "GET", inst, 403, scope},
		{"create", "GET", "/runners/all", 403, scope},
		{"create", "GET", "/personal_access_tokens/self", 200, `{"id":`},
		{apiToken, "PUT", inst, 405, `{"error":"405 Not Allowed"}`}, // the simulator is changed by World's methods
		{adminToken, "GET", "/runners/4711", 404, `{"message":"404 Runner Not Found"}`},
		{adminToken, "GET", "/runners/4711/jobs", 404, `{"message":"404 Runner Not Found"}`},
		{adminToken, "GET", "/runners/x", 404, `{"error":"404 Not Found"}`},
		{adminToken, "GET", "/groups/nobody%2Fhere/runners", 404, `{"message":"404 Group Not Found"}`},
		{adminToken, "GET", "/groups/a/b/runners", 404, `{"error":"404 Not Found"}`},
		{adminToken, "GET", "/projects/1/jobs/1", 404, `{"message":"404 Not Found"}`},
		{adminToken, "GET", "/nothing", 404, `{"error":"404 Not Found"}`},
		{adminToken, "PATCH", "/runners/all", 405, `{"error":"405 Not Allowed"}`},
		{adminToken, "POST", "/version", 405, `{"error":"405 Not Allowed"}`},
		{adminToken, "GET", "/runners/all?type=x", 400, `{"error":"type does not have a valid value"}`},
		{adminToken, "GET", "/runners/all?status=busy", 400, `{"error":"status does not have a valid value"}`},
		{adminToken, "GET", "/runners/all?scope=x", 400, `{"error":"scope does not have a valid value"}`},
		{adminToken, "GET", "/runners/all?paused=perhaps", 400, `{"error":"paused is invalid"}`},
		{adminToken, "GET", "/runners/all?version_prefix=v1", 400, `{"error":"version_prefix is invalid"}`},
		{adminToken, "GET", "/runners/all?per_page=0", 400, `{"error":"per_page has a value not allowed"}`},
		{adminToken, "GET", "/runners/all?per_page=-1", 400, `{"error":"per_page does not have a valid value"}`},
		{adminToken, "GET", "/runners/all?page=0", 400, `{"error":"page does not have a valid value"}`},
		{adminToken, "GET", "/runners/all?page=one", 400, `{"error":"page is invalid"}`},
		{adminToken, "GET", inst + "/jobs?status=busy", 400, `{"error":"status does not have a valid value"}`},
		{adminToken, "GET", inst + "/jobs?order_by=name", 400, `{"error":"order_by does not have a valid value"}`},
		{adminToken, "GET", inst + "/jobs?sort=up", 400, `{"error":"sort does not have a valid value"}`},
		{adminToken, "GET", inst + "/jobs?status=waiting_for_callback", 200, "[]"},
	} {
		r := do(t, w, tc.method, tc.token, tc.path)
		if r.status != tc.status || !strings.HasPrefix(r.body, tc.body) {
			t.Errorf("%s %s as %q: %d %s\nwant %d %s", tc.method, tc.path, tc.token, r.status, r.body, tc.status, tc.body)
		}
		if ct := r.header.Get("Content-Type"); ct != "application/json" {
			t.Errorf("%s: content type %q", tc.path, ct)
		}
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/api/v4/runners/all", nil)
	req.Header.Set("Authorization", "Bearer "+adminToken)
	res, err := w.RoundTripper().RoundTrip(req)
	if err != nil || res.StatusCode != 200 {
		t.Errorf("bearer: %v %v", res, err)
	}
	_ = res.Body.Close()
}

func TestAdminModeRefusesTokensWithoutItsScope(t *testing.T) {
	w, c := newWorld(Options{AdminMode: true})
	if r := get(t, w, "/runners/all"); r.status != http.StatusForbidden || r.body != `{"message":"403 Forbidden"}` {
		t.Errorf("without admin_mode: %d %s", r.status, r.body)
	}
	of := func(s TokenSpec) {
		s.Token, s.Username = adminToken, "root"
		w.AddToken(s)
	}
	of(TokenSpec{Admin: true, Scopes: []string{"read_api", "admin_mode"}})
	must(t, w, "/runners/all")
	of(TokenSpec{Scopes: []string{"read_api", "admin_mode"}})
	if r := get(t, w, "/runners/all"); r.status != http.StatusForbidden {
		t.Errorf("no admin: %d", r.status)
	}
	of(TokenSpec{Admin: true, Scopes: []string{"read_api"}, ExpiresAt: noon.AddDate(0, 0, 1)})
	c.add(12*time.Hour - time.Millisecond)
	must(t, w, "/version")
	c.add(time.Millisecond) // 00:00 UTC of its day
	if r := get(t, w, "/version"); r.status != http.StatusUnauthorized {
		t.Errorf("expired: %d", r.status)
	}
}

// TestPlainUserSeesSomeJobsOnly: a user who is no administrator sees the jobs of some projects,
// and nothing in the answer shows it (docs/gitlab-api.md 4.3).
func TestPlainUserSeesSomeJobsOnly(t *testing.T) {
	w, _ := newWorld(Options{})
	g := w.AddGroup("team", 0)
	mine, theirs := w.AddProject("mine", g), w.AddProject("theirs", g)
	r := w.AddRunner(RunnerSpec{Projects: []int64{mine, theirs}})
	w.AddToken(TokenSpec{Token: "dev", Projects: []int64{mine}, Scopes: []string{"read_api"}})
	seen := w.CreateJob(JobSpec{Runner: r, Project: mine})
	hidden := w.CreateJob(JobSpec{Runner: r, Project: theirs})
	res := do(t, w, "GET", "dev", fmt.Sprintf("/runners/%d/jobs", r))
	if got := ids(res.rows(t)); !slices.Equal(got, []int64{seen}) || res.header.Get("X-Total") != "1" {
		t.Errorf("jobs %v, total %s", got, res.header.Get("X-Total"))
	}
	if res := do(t, w, "GET", "dev", fmt.Sprintf("/projects/%d/jobs/%d", theirs, hidden)); res.status != 404 {
		t.Errorf("hidden job: %d", res.status)
	}
	if res := do(t, w, "GET", "dev", fmt.Sprintf("/projects/%d/jobs/%d", mine, seen)); res.status != 200 {
		t.Errorf("seen job: %d", res.status)
	}
}

func TestTokenDescribesItself(t *testing.T) {
	w, _ := newWorld(Options{})
	w.AddToken(TokenSpec{Token: "x", Name: "bot", Scopes: []string{"read_api"}, ExpiresAt: noon.AddDate(0, 2, 0)})
	v := must(t, w, "/personal_access_tokens/self").object(t)
	if v["expires_at"] != nil || v["name"] != "exporter" {
		t.Errorf("%v", v)
	}
	v = do(t, w, "GET", "x", "/personal_access_tokens/self").object(t)
	if v["expires_at"] != "2026-05-01" || v["name"] != "bot" || v["active"] != true {
		t.Errorf("%v", v)
	}
}

// TestRateLimitIsAWindowForEachUser: a fixed window for each user, all tokens together (docs/gitlab-api.md 5.1).
func TestRateLimitIsAWindowForEachUser(t *testing.T) {
	for _, version := range []string{"19.1.0", "15.11.0"} {
		w, c := newWorld(Options{Version: version, RateLimit: 5, RateWindow: 2 * time.Minute})
		w.AddToken(TokenSpec{Token: "second", Username: "root", Admin: true, Scopes: []string{"read_api"}})
		for i := range 5 {
			r := do(t, w, "GET", []string{adminToken, "second"}[i%2], "/version")
			if r.status != 200 {
				t.Fatalf("request %d: %d", i, r.status)
			}
			want := ""
			if version == "19.1.0" {
				want = strconv.Itoa(4 - i)
			}
			if got := r.header.Get("RateLimit-Remaining"); got != want {
				t.Errorf("%s: remaining %q, want %q", version, got, want)
			}
		}
		c.add(50 * time.Second)
		r := do(t, w, "GET", "second", "/version")
		if r.status != 429 || r.body != "Retry later\n" {
			t.Errorf("%d %q", r.status, r.body)
		}
		for h, want := range map[string]string{
			"Content-Type": "text/plain", "Retry-After": "70", "RateLimit-Limit": "3", "RateLimit-Observed": "6", "RateLimit-Remaining": "0",
			"RateLimit-Reset": strconv.FormatInt(noon.Unix()+120, 10), "RateLimit-ResetTime": "Sun, 01 Mar 2026 12:02:00 GMT", "RateLimit-Name": "throttle_authenticated_api",
		} {
			if got := r.header.Get(h); got != want {
				t.Errorf("%s %q, want %q", h, got, want)
			}
		}
		if r := do(t, w, "GET", apiToken, "/version"); r.status != 200 {
			t.Errorf("another user: %d", r.status)
		}
		c.add(70 * time.Second)
		must(t, w, "/version")
	}
	w, _ := newWorld(Options{})
	for range 10 {
		if r := must(t, w, "/version"); r.header.Get("RateLimit-Limit") != "" {
			t.Error("a header without a throttle")
		}
	}
}

// TestOlderReleasesLackNewerFields holds what older releases lack or name differently (docs/gitlab-api.md 1.7).
func TestOlderReleasesLackNewerFields(t *testing.T) {
	type world struct {
		version                            string
		execution, created, failure, total bool
		managers, notFound                 string
	}
	for _, tc := range []world{
		{"19.1.0-ee", true, true, true, false, "200", "404 Runner Not Found"},
		{"17.8.1", false, false, true, false, "200", "404 Not found"},
		{"15.11.0", false, false, true, true, "404", "404 Not found"},
		{"15.0.0", false, false, false, true, "404", "404 Not found"},
	} {
		t.Run(tc.version, func(t *testing.T) {
			w, _ := newWorld(Options{Version: tc.version})
			id := w.AddRunner(RunnerSpec{Projects: []int64{1}})
			w.CreateJob(JobSpec{Runner: id, Finished: noon, Status: "failed", Reason: "no_updates_running"})
			row := must(t, w, "/runners/all").rows(t)[0]
			has := func(m map[string]any, k string) bool { _, ok := m[k]; return ok }
			if has(row, "job_execution_status") != tc.execution || has(row, "created_at") != tc.created || has(row, "created_by") != tc.created || !has(row, "paused") {
				t.Errorf("row %v", row)
			}
			if r := get(t, w, "/runners/1/managers"); strconv.Itoa(r.status) != tc.managers {
				t.Errorf("managers %d", r.status)
			}
			if r := get(t, w, "/runners/99"); r.body != `{"message":"`+tc.notFound+`"}` {
				t.Errorf("not found: %s", r.body)
			}
			r := must(t, w, "/runners/1/jobs?pagination=keyset&order_by=id&sort=desc")
			if (r.header.Get("X-Total") != "") != tc.total {
				t.Errorf("keyset: %v", r.header)
			}
			job := r.rows(t)[0]
			reason, ok := job["failure_reason"]
			if ok != tc.failure || ok && reason != map[bool]string{true: "no_updates_running", false: "stuck_or_timeout_failure"}[tc.version == "19.1.0-ee"] {
				t.Errorf("failure_reason %v", reason)
			}
			d := must(t, w, "/runners/1?include_projects=false").object(t)
			if has(d, "projects") != (tc.version != "19.1.0-ee") {
				t.Errorf("details %v", d)
			}
			if (row["ip_address"] == nil) == strings.HasPrefix(tc.version, "15.") {
				t.Errorf("ip_address %v", row["ip_address"])
			}
			w.Pause(id, true)
			if row := must(t, w, "/runners/all").rows(t)[0]; row["status"] != "paused" {
				t.Errorf("paused: %v", row)
			}
			if r := get(t, w, "/runners/all?page=0"); (r.status == 400) == strings.HasPrefix(tc.version, "15.") {
				t.Errorf("page 0: %d", r.status)
			}
			w.AddToken(TokenSpec{Token: "auditor", Auditor: true, Scopes: []string{"read_api"}})
			if r := do(t, w, "GET", "auditor", "/runners/all"); (r.status == 200) != tc.created {
				t.Errorf("auditor: %d", r.status)
			}
			run := w.CreateJob(JobSpec{Runner: id})
			w.CancelJob(run)
			if j, _ := w.Job(run); (j.Status == "canceling") == strings.HasPrefix(tc.version, "15.") {
				t.Errorf("canceled: %+v", j)
			}
		})
	}
	w, _ := newWorld(Options{Version: "14.7.0"})
	w.AddRunner(RunnerSpec{Managers: -1})
	row := must(t, w, "/runners/all").rows(t)[0]
	if _, ok := row["paused"]; ok || row["status"] != "not_connected" {
		t.Errorf("14.7: %v", row)
	}
}
