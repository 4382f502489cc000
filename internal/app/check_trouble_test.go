package app

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	simgraphql "gitlab-runner-fleet-exporter/internal/gitlabsim/graphql"
	"gitlab-runner-fleet-exporter/test/rig"
)

// checked is what a check printed.
type checked struct {
	code               int
	text               string
	problems, warnings []string
	remedies           int
}

// checkOf runs the real check. Each problem and warning must come with its
// remedy, and nothing may show the token.
func checkOf(t *testing.T, config string) checked {
	t.Helper()
	began := time.Now()
	code, stdout, stderr := runOnce(t, "--gitlab.check", "--config.file="+configFile(t, config))
	c := checked{code: code, text: stdout}
	for line := range strings.Lines(stdout) {
		line = strings.TrimSpace(line)
		if s, ok := strings.CutPrefix(line, "PROBLEM: "); ok {
			c.problems = append(c.problems, s)
		}
		if s, ok := strings.CutPrefix(line, "warning: "); ok {
			c.warnings = append(c.warnings, s)
		}
		if strings.HasPrefix(line, "remedy: ") {
			c.remedies++
		}
	}
	t.Logf("exit %d after %s\n%s", code, time.Since(began).Round(time.Millisecond), stdout)
	if c.remedies != len(c.problems)+len(c.warnings) {
		t.Errorf("%d problems and %d warnings have %d remedies", len(c.problems), len(c.warnings), c.remedies)
	}
	if (code == exitOK) != (len(c.problems) == 0) {
		t.Errorf("exit status %d with %d problems", code, len(c.problems))
	}
	if strings.Contains(stdout+stderr, testToken) {
		t.Error("the token stands in the output")
	}
	return c
}

func (c checked) has(t *testing.T, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(c.text) {
			t.Errorf("lacks %q", p)
		}
	}
}

func (c checked) lacks(t *testing.T, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if regexp.MustCompile(p).MatchString(c.text) {
			t.Errorf("contains %q", p)
		}
	}
}

// mounted adds GraphQL to a world.
func mounted(t *testing.T, w world) world {
	t.Helper()
	if _, err := simgraphql.Mount(w.World); err != nil {
		t.Fatal(err)
	}
	return w
}

// answering is a server that is no GitLab, or has something in front of it.
func answering(t *testing.T, status int, contentType, location, body string) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		if location != "" {
			w.Header().Set("Location", strings.ReplaceAll(location, "PATH", r.URL.Path))
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// Whatever answers, there is one problem in words, with what to do about it.
func TestCheckNamesOneProblemOfAWrongAddress(t *testing.T) {
	w := newWorld(t, smallFleet(1))
	page := "<!DOCTYPE html><html><head><title>Sign in</title></head><body>secret page</body></html>"
	secure := httptest.NewTLSServer(w.Handler())
	secure.Config.ErrorLog = nil
	t.Cleanup(secure.Close)
	for _, tt := range []struct {
		name, url string
		want      string // of the problem and its remedy
	}{
		{"HTTPS spoken to HTTP", "https" + strings.TrimPrefix(w.url, "http"), "cannot be reached(?s:.*)remedy: .*write http:// in url"},
		{"HTTP spoken to HTTPS", "http" + strings.TrimPrefix(secure.URL, "https"), "cannot be reached(?s:.*)remedy: .*write https:// in url"},
		{"unknown CA", secure.URL, "cannot be reached(?s:.*)remedy: .*ca_file"},
		{"http redirected to https", answering(t, 301, "text/html", "https://gitlab.example.comPATH", ""), "cannot be reached: .*redirect(?s:.*)https"},
		{"single sign-on", answering(t, 302, "text/html", "https://sso.example.com/users/sign_in?x=1", page), "cannot be reached: .*redirect(?s:.*)remedy: a login page"},
		{"login page with 200", answering(t, 200, "text/html", "", page), "does not answer as GitLab's API(?s:.*)remedy: .*login page"},
		{"no GitLab", answering(t, 404, "text/plain", "", "default backend - 404"), "does not answer as GitLab's API(?s:.*)remedy: .*check url"},
		{"another JSON API", answering(t, 200, "application/json", "", `{"name":"elsewhere"}`), "does not answer as GitLab's API(?s:.*)remedy: .*check url"},
		{"nobody listens", "http://127.0.0.1:1", "cannot be reached(?s:.*)remedy: check that GitLab is up"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := checkOf(t, "gitlabs:\n"+entry("corp", tt.url, "    poll: {request_timeout: 3s}\n"))
			c.has(t, "PROBLEM: .*"+tt.want)
			c.lacks(t, "secret page", "(?m)^  token")
			if c.code != exitFailure || len(c.problems) != 1 || len(c.warnings) != 0 {
				t.Errorf("exit status %d, problems %q, warnings %q", c.code, c.problems, c.warnings)
			}
		})
	}
}

// A bot check or a proxy that wants a password must not be taken for a word of
// GitLab's about the token, and is reported at once.
func TestCheckNamesWhatStandsInFrontOfGitLab(t *testing.T) {
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusOK} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			began := time.Now()
			url := answering(t, status, "text/html", "", "<!DOCTYPE html><html><head><title>Just a moment...</title></head></html>")
			c := checkOf(t, "gitlabs:\n"+entry("corp", url, ""))
			c.has(t, "PROBLEM: this address does not answer as GitLab's API: .*Just a moment", "remedy: .*bot check")
			c.lacks(t, "remedy: .*token")
			if took := time.Since(began); len(c.problems) != 1 || took > 5*time.Second {
				t.Errorf("after %s, problems %q", took, c.problems)
			}
		})
	}
}

// The token: each kind, each right, each mistake.
func TestCheckNamesEachMistakeOfAToken(t *testing.T) {
	for _, tt := range []struct {
		name     string
		token    gitlabsim.TokenSpec
		world    gitlabsim.Options
		graphql  bool
		more     string
		problems int
		has      []string
		lacks    []string
	}{
		{
			name: "wrong", token: gitlabsim.TokenSpec{Token: "other"}, problems: 1,
			has: []string{"PROBLEM: GitLab refuses the token: .*401", "remedy: the token is wrong, expired or revoked"}, lacks: []string{"cannot be listed"},
		},
		{
			name: "ordinary user", token: gitlabsim.TokenSpec{Scopes: []string{"read_api"}}, graphql: true, problems: 1,
			has: []string{"PROBLEM: the runners cannot be listed: .*403", "remedy: .*administrator.*scope: groups, projects or owned"},
		},
		{
			name: "scope missing", token: gitlabsim.TokenSpec{Admin: true, Scopes: []string{"read_repository"}}, graphql: true, problems: 1,
			has: []string{"PROBLEM: the runners cannot be listed: .*insufficient_scope", "remedy: the token lacks a scope: .*read_api"},
		},
		{
			name: "Admin Mode", token: gitlabsim.TokenSpec{Admin: true, Scopes: []string{"read_api"}}, world: gitlabsim.Options{AdminMode: true}, problems: 1,
			has: []string{"PROBLEM: the runners cannot be listed", "remedy: .*admin_mode"},
		},
		{
			name: "Admin Mode, which GraphQL ignores", token: gitlabsim.TokenSpec{Admin: true, Scopes: []string{"read_api"}}, world: gitlabsim.Options{AdminMode: true},
			graphql: true, problems: 1,
			has: []string{"GraphQL: tags", "PROBLEM: the token does not see the jobs of all projects", "remedy: .*with the scope admin_mode besides read_api"}, lacks: []string{"visible in all projects"},
		},
		{
			name: "Admin Mode with its scope", token: gitlabsim.TokenSpec{Admin: true, Scopes: []string{"read_api", "admin_mode"}}, world: gitlabsim.Options{AdminMode: true},
			graphql: true, has: []string{"visible in all projects", "result +ready\n"},
		},
		{
			name: "auditor", token: gitlabsim.TokenSpec{Auditor: true, Scopes: []string{"read_api"}}, graphql: true,
			has: []string{"GraphQL +not open to this token, so REST is read", "visible in all projects", "result +ready\n"},
		},
		{
			name: "owner of groups", token: gitlabsim.TokenSpec{Groups: []int64{1}, Scopes: []string{"read_api"}}, more: "    scope: groups\n    groups: [1]\n    api: rest\n",
			has: []string{"warning: .*jobs", "result +ready, with 1 warning"}, lacks: []string{"PROBLEM"},
		},
		{
			name: "owner of groups by GraphQL", token: gitlabsim.TokenSpec{Groups: []int64{1}, Scopes: []string{"read_api"}}, graphql: true, more: "    scope: groups\n    groups: [1]\n",
			has: []string{"warning: .*jobs", "result +ready, with 1 warning"}, lacks: []string{"PROBLEM"},
		},
		{
			name: "owned", token: gitlabsim.TokenSpec{Everything: true, Scopes: []string{"read_api"}}, more: "    scope: owned\n",
			has: []string{"instance 0", "warning: .*no jobs of instance runners"}, lacks: []string{"PROBLEM"},
		},
		{
			name: "owns nothing", token: gitlabsim.TokenSpec{Scopes: []string{"read_api"}}, more: "    scope: owned\n",
			has: []string{"warning: no runner is visible with scope owned"}, lacks: []string{"PROBLEM"},
		},
		{
			name: "may write, expires", token: gitlabsim.TokenSpec{Admin: true, Scopes: []string{"api"}, ExpiresAt: time.Now().Add(72 * time.Hour)}, graphql: true,
			has: []string{"warning: the token may also write", "warning: the token expires soon", "with 2 warnings"},
		},
		{
			name: "graphql for projects", token: gitlabsim.TokenSpec{Everything: true, Scopes: []string{"read_api"}}, more: "    scope: owned\n    api: graphql\n",
			has: []string{"warning: api is graphql, which has no list for scope owned: REST is read"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := smallFleet(1)
			o.AdminMode, o.Token = tt.world.AdminMode, "somebody-else"
			w := newWorld(t, o)
			if tt.graphql {
				w = mounted(t, w)
			}
			if tt.token.Token == "" {
				tt.token.Token = testToken
			}
			w.AddToken(tt.token)
			if !tt.graphql && tt.more == "" {
				tt.more = "    api: rest\n"
			}
			c := checkOf(t, "gitlabs:\n"+entry("corp", w.url, tt.more))
			c.has(t, tt.has...)
			c.lacks(t, tt.lacks...)
			if len(c.problems) != tt.problems {
				t.Errorf("%d problems, want %d: %q", len(c.problems), tt.problems, c.problems)
			}
			if tt.token.Token == testToken {
				onlyRead(t, w)
			}
		})
	}
}

// A kind of token without the endpoint, which GitLab answers by 400, is no trouble.
func TestCheckAcceptsATokenThatReportsNothing(t *testing.T) {
	w := mounted(t, newWorld(t, smallFleet(1)))
	w.AddFault(gitlabsim.Fault{Route: "/personal_access_tokens/self", Status: http.StatusBadRequest, Body: `{"error":"400 Bad request"}`, ContentType: "application/json"})
	c := checkOf(t, "gitlabs:\n"+entry("corp", w.url, ""))
	c.has(t, "token +owner, scopes and expiry not reported", "result +ready\n")
}

// By each release and each API: what it reports is used, what it does not is
// not taken for zero, and no sentence contradicts another.
func TestCheckUsesWhatEachReleaseReports(t *testing.T) {
	for _, tt := range []struct {
		version   string
		api       string
		machines  string
		details   bool // are read by REST
		executing string
	}{
		{"14.5.0", "rest", "of none", true, "not reported"},
		{"15.11.0", "rest", "of none", true, "not reported"},
		{"15.11.0", "auto", "of none", true, `\d+ runners of 340`},
		{"16.11.0", "rest", "of none", true, "not reported"},
		{"16.11.0", "auto", "", false, `\d+ runners of 340`},
		{"17.8.0", "rest", "of 5", true, "not reported"},
		{"17.8.0", "auto", "", false, `\d+ runners of 340`},
		{"18.4.0", "rest", "of 5", true, `\d+ runners of 340`},
		{"19.1.0", "rest", "of 5", true, `\d+ runners of 340`},
		{"19.1.0", "auto", "", false, `\d+ runners of 340`},
	} {
		t.Run(tt.version+" "+tt.api, func(t *testing.T) {
			o := smallFleet(1)
			o.Runners, o.Version, o.Healthy = 340, tt.version, false
			w := mounted(t, newWorld(t, o))
			c := checkOf(t, "gitlabs:\n"+entry("corp", w.url, "    api: "+tt.api+"\n"))
			c.has(t, "GitLab +"+regexp.QuoteMeta(tt.version), "runners +340 ", "executing +"+tt.executing, "result +ready\n")
			if tt.details {
				c.has(t, "sample +of 5 runners: details of 5, machines "+tt.machines+".*, jobs of 5 can be read",
					`first picture .*4 pages of the list and the details of 340 runners`)
				c.lacks(t, "machines come with the list")
			} else {
				c.has(t, "machines come with the list", "sample +of 5 runners: jobs of 5", `first picture .*\(4 pages of the list\)`)
				c.lacks(t, "not reported by this release")
			}
			c.lacks(t, "with 0 runners executing")
		})
	}
}

// None of those that were tried is not none of all.
func TestCheckTakesUnknownExecutionNotForZero(t *testing.T) {
	o := smallFleet(1)
	o.Runners, o.Version, o.JobsPerHour = 200, "17.8.0", 0
	w := newWorld(t, o)
	c := checkOf(t, "gitlabs:\n"+entry("corp", w.url, "    api: rest\n"))
	c.has(t, "executing +not reported by this release; 0 of 20 online runners tried do, so 2% of 200 are assumed to", "with 5 runners executing")
	w.AddFault(gitlabsim.Fault{Match: func(r *http.Request) bool { return r.URL.Query().Get("status") == "running" }, Status: 400})
	c = checkOf(t, "gitlabs:\n"+entry("corp", w.url, "    api: rest\n"))
	c.has(t, "executing +not reported by this release; 25% of 200 online runners are assumed to", "with 50 runners executing")
	o.Runners = 15
	w = newWorld(t, o)
	c = checkOf(t, "gitlabs:\n"+entry("corp", w.url, "    api: rest\n"))
	c.has(t, "executing +0 runners of 15, by their jobs")
}

// The need is compared with what is configured and with what GitLab allows.
func TestCheckComparesTheNeedWithTheLimits(t *testing.T) {
	for _, tt := range []struct {
		name     string
		version  string
		limit    int
		window   time.Duration
		poll     string
		has      []string
		lacks    []string
		problems int
	}{
		{"none reported", "17.8.0", 0, 0, "", []string{"rate limit +none reported", "budget +600 a minute .*enough"}, nil, 0},
		{"enough", "18.10.0", 2000, 0, "", []string{`rate limit +2000 a minute for this user: enough \(\d+ left`}, nil, 0},
		{"GitLab allows less than is needed", "18.10.0", 100, 0, "", []string{
			"budget +600 a minute .*enough", "rate limit +100 a minute for this user, of which 90 are used: too little",
			"PROBLEM: GitLab allows this user fewer requests than are needed", "remedy: lengthen the intervals, or let an administrator",
			"first picture +complete about 4 min",
		}, nil, 1},
		{"by the hour", "18.10.0", 7200, time.Hour, "", []string{"rate limit +120 a minute for this user, of which 108 are used: too little"}, nil, 1},
		{"the budget is less than is needed", "19.1.0", 0, 0, "    poll: {max_requests_per_second: 0.5}\n", []string{
			"budget +30 a minute .*too little", "PROBLEM: the budget is smaller than the need", "remedy: set poll.max_requests_per_second to 5,",
			`first picture +complete about 1\d min`,
		}, nil, 1},
		{"no budget", "19.1.0", 0, 0, "    poll: {max_requests_per_second: 0}\n", []string{"budget +no limit configured"}, []string{"PROBLEM"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := smallFleet(1)
			o.Runners, o.Version, o.RateLimit, o.RateWindow = 340, tt.version, tt.limit, tt.window
			// The end of a window: what is left of it may be spent at once.
			o.Now = func() time.Time { return time.Date(2026, 11, 29, 12, 59, 57, 0, time.UTC) }
			w := newWorld(t, o)
			c := checkOf(t, "gitlabs:\n"+entry("corp", w.url, "    api: rest\n"+tt.poll))
			c.has(t, tt.has...)
			c.lacks(t, tt.lacks...)
			if len(c.problems) != tt.problems {
				t.Errorf("problems: %q", c.problems)
			}
		})
	}
}

// Each floor stands beside who is there, by either API, and a tag nobody has is
// distinguished from one that is only down or only written in another way.
func TestCheckShowsEachFloorBesideWhoIsThere(t *testing.T) {
	for _, api := range []string{"rest", "auto"} {
		t.Run(api, func(t *testing.T) {
			w := mounted(t, newWorld(t, gitlabsim.Options{Seed: 1}))
			for range 3 {
				w.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"gpu"}})
			}
			w.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"Prod-Deploy"}})
			w.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"runner-up"}})
			w.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"nightly"}, Paused: true})
			c := checkOf(t, "gitlabs:\n"+entry("corp", w.url, "    api: "+api+"\n    expected: {gpu: 2, GPU-2: 1, prod-deploy: 1, nightly: 1, nobody: 1, runner-up: 2}\n"))
			c.has(t, "gpu +3 available, 2 expected\n", "runner-up +1 available, 2 expected: too few",
				"nightly +0 available, 1 expected: carried by 1 runner, none online and not paused",
				`warning: expected tags that no runner carries: "GPU-2", "nobody"\n +remedy: check their spelling`,
				`warning: .*case from those of runners: "prod-deploy" \(runners carry "Prod-Deploy"\)\n +remedy: write them`,
				`warning: expected tags without an available runner: "nightly"\n`, `warning: .*fewer available runners than expected: "runner-up"\n`)
			if len(c.warnings) != 4 || c.code != exitOK {
				t.Errorf("exit status %d, warnings %q", c.code, c.warnings)
			}
		})
	}
}

// By REST each floor costs requests: their number is bounded.
func TestCheckBoundsTheRequestsOfFloors(t *testing.T) {
	w := newWorld(t, smallFleet(1))
	var tags strings.Builder
	for i := range 300 {
		fmt.Fprintf(&tags, "tag-%03d: 1, ", i)
	}
	c := checkOf(t, "gitlabs:\n"+entry("corp", w.url, "    api: rest\n    expected: {"+strings.TrimSuffix(tags.String(), ", ")+"}\n"))
	c.has(t, `\d+ more tags not counted: by REST each takes requests`, `warning: expected tags that no runner carries: .* and \d+ more\n`)
	if n := w.Requests()["GET /runners/all"]; n > floorRequests+10 {
		t.Errorf("%d requests for the list", n)
	}
}

// Each group is checked alone and named as it is configured.
func TestCheckNamesEachGroupAsConfigured(t *testing.T) {
	for _, api := range []string{"rest", "auto"} {
		t.Run("api "+api, func(t *testing.T) {
			w := newWorld(t, smallFleet(1))
			if api == "auto" {
				w = mounted(t, w)
			}
			c := checkOf(t, "gitlabs:\n"+entry("corp", w.url, "    api: "+api+"\n    scope: groups\n    groups: [1, gone/for-good, 2]\n"))
			c.has(t, `group +"1": \d+ runner`, `group +"2": \d+ runner`, `PROBLEM: the runners of group "gone/for-good" cannot be listed: .*404`,
				"remedy: check the id or path of this group", "requests +", "runners +[1-9]")
			if len(c.problems) != 1 {
				t.Errorf("problems %q", c.problems)
			}
		})
	}
}

// The documented set-up: a group's token, and instance runners in its list.
func TestCheckAcceptsAGroupTokenWithInstanceRunners(t *testing.T) {
	w := newWorld(t, gitlabsim.Options{Seed: 1, Runners: 30, Tags: 4, Token: "somebody-else"})
	w.AddToken(gitlabsim.TokenSpec{Token: testToken, Groups: []int64{1}, Scopes: []string{"read_api"}})
	c := checkOf(t, "gitlabs:\n"+entry("corp", w.url, "    api: rest\n    scope: groups\n    groups: [1]\n"))
	c.has(t, `instance [1-9]`, "warning: .*no jobs of instance runners")
	if c.code != exitOK || len(c.problems) != 0 {
		t.Errorf("exit status %d, problems %q", c.code, c.problems)
	}
}

// A proxy that lets only the runner lists pass is no other address.
func TestCheckAcceptsANarrowProxy(t *testing.T) {
	w := mounted(t, newWorld(t, smallFleet(1)))
	for _, route := range []string{"/metadata", "/version", "/personal_access_tokens/self"} {
		w.AddFault(gitlabsim.Fault{Route: route, Status: 404, Body: "no route", ContentType: "text/plain"})
	}
	c := checkOf(t, "gitlabs:\n"+entry("corp", w.url, ""))
	c.has(t, "warning: GitLab's version cannot be read", "runners +12")
	if c.code != exitOK {
		t.Errorf("exit status %d", c.code)
	}
}

// A GraphQL that is out of order is distinguished from one that is not open to the token.
func TestCheckDistinguishesGraphQLOutOfOrder(t *testing.T) {
	w := mounted(t, newWorld(t, smallFleet(1)))
	w.AddFault(gitlabsim.Fault{Route: "POST /graphql", Status: 405})
	c := checkOf(t, "gitlabs:\n"+entry("corp", w.url, ""))
	c.has(t, "warning: the runners cannot be read by GraphQL, so REST is read.*405", "read by +REST")
	c = checkOf(t, "gitlabs:\n"+entry("corp", w.url, "    api: graphql\n"))
	if c.code != exitFailure {
		t.Error("api: graphql without GraphQL is fine")
	}
}

// Asked to stop, it reports so and does not look as if it had found something.
func TestInterruptedCheckReportsThatItWas(t *testing.T) {
	asked := make(chan struct{}, 100)
	release := make(chan struct{})
	w := mounted(t, newWorld(t, smallFleet(1)))
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/jobs") {
			asked <- struct{}{}
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return
		}
		w.Handler().ServeHTTP(rw, r)
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(release) })
	var out buffer
	cmd := exec.CommandContext(t.Context(), rig.Exporter(t), "--gitlab.check",
		"--config.file="+configFile(t, "gitlabs:\n"+entry("corp", srv.URL, "")+entry("next", w.url, "")))
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-asked:
	case <-time.After(20 * time.Second):
		t.Fatalf("no request for jobs:\n%s", &out)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // the exit status is looked at
	if code := cmd.ProcessState.ExitCode(); code != exitFailure {
		t.Errorf("exit status %d", code)
	}
	text := out.String()
	t.Log(text)
	if !strings.HasSuffix(text, "interrupted: the check is not complete\n") || strings.Contains(text, "PROBLEM") || strings.Contains(text, "result") || strings.Contains(text, "sample") || strings.Contains(text, "next") {
		t.Errorf("it printed:\n%s", text)
	}
}
