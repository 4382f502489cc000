package app

import (
	"math"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/config"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
)

// TestDemand holds the formula to numbers reckoned by hand.
func TestDemand(t *testing.T) {
	p := config.Poll{
		RunnersInterval: time.Minute, DetailsInterval: 15 * time.Minute, JobsInterval: time.Minute, ReconcileInterval: time.Hour,
	}
	for _, tt := range []struct {
		name                          string
		scopes, runners, busy, shards int
		graphql                       bool
		want                          demand
	}{
		{"no runners still costs a page", 1, 0, 0, 1, false, demand{listing: 1}},
		{"each scope costs a page", 3, 10, 0, 1, false, demand{listing: 3, details: 20. / 15, idleJobs: 2, walk: 10. / 60}},
		// 100 busy ones: details and machines every 5 min, two requests for jobs.
		{"a thousand", 1, 1000, 100, 1, false, demand{listing: 10, details: 40 + 120, activeJobs: 200, idleJobs: 180, walk: 1000. / 60}},
		// Details come with the list, and with them how many jobs execute.
		{"a thousand by GraphQL", 1, 1000, 100, 1, true, demand{listing: 10, activeJobs: 100, idleJobs: 180, walk: 1000. / 60}},
		// A shard lists all, and reads half of the rest.
		{"one of two", 1, 1000, 100, 2, false, demand{listing: 10, details: 80, activeJobs: 100, idleJobs: 90, walk: 500. / 60}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := demandOf(p, tt.scopes, tt.runners, tt.busy, tt.shards, tt.graphql)
			near := func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }
			if !near(got.listing, tt.want.listing) || !near(got.details, tt.want.details) || !near(got.activeJobs, tt.want.activeJobs) ||
				!near(got.idleJobs, tt.want.idleJobs) || !near(got.walk, tt.want.walk) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestGitLabCheck(t *testing.T) {
	o := smallFleet(1)
	o.Version = "18.4.1-ee"
	w := newWorld(t, o)
	w.SetToken(gitlabsim.TokenSpec{Token: "few-rights", Name: "few", Username: "somebody", Scopes: []string{"read_api"}})
	w.SetToken(gitlabsim.TokenSpec{
		Token: "too-many", Name: "many", Username: "boss", Admin: true, Scopes: []string{"api"}, ExpiresAt: time.Now().Add(72 * time.Hour),
	})
	w.SetToken(gitlabsim.TokenSpec{Token: "owner", Name: "owned", Username: "owner", Everything: true, Scopes: []string{"read_api"}})
	for _, tt := range []struct {
		name  string
		token string
		more  string
		code  int
		says  []string
	}{
		{"good", testToken, "", exitOK, []string{
			"GitLab 18.4.1-ee", `"exporter"`, "scopes read_api", "never expires", "runners: 12", "may see the jobs of every project",
			"of 5 runners tried, details of 5, machines of 5 and jobs of 5", "requests a minute", "deeper walk", "enough",
		}},
		{"wrong token", "wrong", "", exitFailure, []string{"the token is refused", "cannot be listed"}},
		{"few rights", "few-rights", "", exitFailure, []string{"cannot be listed", "administrator"}},
		{"too many rights", "too-many", "", exitOK, []string{"may also write", "expires soon"}},
		{"part of the jobs", "owner", "    scope: owned\n", exitOK, []string{"may not see the jobs of every project"}},
		{"budget too small", testToken, "    poll: {max_requests_per_second: 0.05}\n", exitFailure, []string{"too little", "raise it to"}},
		{"no budget", testToken, "    poll: {max_requests_per_second: 0}\n", exitOK, []string{"no limit"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace("gitlabs:\n"+entry("a", w.url, tt.more), testToken, tt.token, 1)
			code, stdout, stderr := runOnce(t, "--gitlab.check", "--config.file="+configFile(t, text))
			if code != tt.code {
				t.Errorf("exit status %d, want %d", code, tt.code)
			}
			for _, want := range tt.says {
				if !strings.Contains(stdout, want) {
					t.Errorf("does not say %q", want)
				}
			}
			if strings.Contains(stdout+stderr, tt.token+"\n") || t.Failed() {
				t.Logf("%s%s", stdout, stderr)
			}
		})
	}
	onlyRead(t, w)
}
