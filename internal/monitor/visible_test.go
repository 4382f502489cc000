package monitor

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// What GraphQL lists proves nothing about the jobs, which REST gives: with Admin
// Mode an administrator's token lists all runners by GraphQL, and REST refuses it.
func TestJobsVisibleIsAskedByREST(t *testing.T) {
	instance := []gitlab.Scope{{Kind: snapshot.ScopeInstance}}
	group := []gitlab.Scope{{Kind: snapshot.ScopeGroups, ID: "1"}}
	for _, tt := range []struct {
		name    string
		scopes  []gitlab.Scope
		graphql bool
		token   gitlabsim.TokenSpec
		mode    bool
		want    int
	}{
		{"administrator by REST", instance, false, gitlabsim.TokenSpec{Admin: true}, false, 1},
		{"administrator by GraphQL", instance, true, gitlabsim.TokenSpec{Admin: true}, false, 1},
		{"Admin Mode, without its scope", instance, true, gitlabsim.TokenSpec{Admin: true}, true, 0},
		{"Admin Mode, with its scope", instance, true, gitlabsim.TokenSpec{Admin: true, Scopes: []string{"read_api", "admin_mode"}}, true, 1},
		{"auditor", instance, true, gitlabsim.TokenSpec{Auditor: true}, false, 1},
		{"group by GraphQL, its owner", group, true, gitlabsim.TokenSpec{Groups: []int64{1}}, false, 0},
		{"group by GraphQL, administrator", group, true, gitlabsim.TokenSpec{Admin: true}, false, 1},
		{"group by GraphQL, Admin Mode without its scope", group, true, gitlabsim.TokenSpec{Admin: true, Groups: []int64{1}}, true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := gitlabsim.New(gitlabsim.Options{Seed: 2, Runners: 20, Tags: 4, AdminMode: tt.mode})
				if tt.graphql {
					mount(t, world)
				}
				tt.token.Token = secret
				if tt.token.Scopes == nil {
					tt.token.Scopes = []string{"read_api"}
				}
				world.AddToken(tt.token)
				s := newScraper()
				_, state := openState(t, "")
				r := start(t, world, state, s, setup{scopes: tt.scopes})
				time.Sleep(5 * time.Minute)
				if g := s.scrape(); !g.Up || g.Self.JobsVisible != tt.want {
					t.Errorf("up %t, jobs_visible %d, want %d", g.Up, g.Self.JobsVisible, tt.want)
				}
				r.end(t)
			})
		})
	}
}

// What GitLab did not answer stays unknown, and is asked again before an hour is over.
func TestJobsVisibleStaysUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 2, Runners: 20, Tags: 4, Token: secret})
		mount(t, world)
		mend := world.AddFault(gitlabsim.Fault{Status: http.StatusBadGateway, Route: "GET /runners/all"})
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{})
		time.Sleep(20 * time.Minute)
		if g := s.scrape(); !g.Up || g.Self.JobsVisible != -1 {
			t.Errorf("up %t, jobs_visible %d, want -1", g.Up, g.Self.JobsVisible)
		}
		mend()
		time.Sleep(10 * time.Minute)
		if g := s.scrape(); g.Self.JobsVisible != 1 {
			t.Errorf("jobs_visible %d after it could be asked", g.Self.JobsVisible)
		}
		r.end(t)
	})
}
