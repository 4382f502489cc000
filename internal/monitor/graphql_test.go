package monitor

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	simgraphql "gitlab-runner-fleet-exporter/internal/gitlabsim/graphql"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/test/rig"
)

func mount(t *testing.T, w *gitlabsim.World) {
	t.Helper()
	if _, err := simgraphql.Mount(w); err != nil {
		t.Fatal(err)
	}
}

// One GraphQL page of 100 runners replaces 201 REST requests: listing, tags,
// contact and machines of 10,000 runners within 110 requests a minute, and as
// many for each hundred of a smaller fleet.
func TestGraphQLReadsALargeFleetCheaply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runners := rig.Sized(10_000, 2_000)
		most := 3 * (runners/100 + runners/1000)
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Runners: runners, Tags: 40, Token: secret})
		mount(t, world)
		s := newScraper()
		_, state := openState(t, "")
		poll := defaultPoll()
		poll.Jobs = time.Hour // what is measured is the rest
		r := start(t, world, state, s, setup{poll: poll})
		time.Sleep(30 * time.Second)
		truth := world.Truth()
		g := s.scrape()
		check(t, "runners", fleetCounts(g.Fleet), truthCounts(truth))
		check(t, "tags", tagCounts(g.Fleet), truthTags(truth))
		before := world.Requests()
		time.Sleep(3 * time.Minute)
		after := world.Requests()
		n := 0
		for _, route := range []string{"POST /graphql", "GET /runners/all", "GET /runners/:id", "GET /runners/:id/managers"} {
			n += after[route] - before[route]
		}
		t.Logf("%d requests in three minutes for listing, tags, contact and machines: %v", n, after)
		if n > most || after["GET /runners/:id"] > 0 || after["POST /graphql"] == 0 {
			t.Errorf("%d requests in three minutes, want at most %d and none for single runners: %v", n, most, after)
		}
		r.end(t)
	})
}

func TestGraphQLFollowsChanges(t *testing.T) {
	for _, version := range []string{"19.1.0-ee", "17.8.0-ee", "16.11.0", "15.11.0"} {
		t.Run(version, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				followChanges(t, version, func(w *gitlabsim.World) { mount(t, w) })
			})
		})
	}
}

// Where GraphQL is refused REST is used, and GraphQL tried again later.
// One that GitLab refuses stays refused for long; an outage of minutes must not
// cost two requests a runner for an hour.
func TestGraphQLRefusedFallsBack(t *testing.T) {
	t.Run("refused", func(t *testing.T) {
		graphqlComesBack(t, gitlabsim.Fault{Status: 403, Body: `{"message":"403 Forbidden"}`, ContentType: "application/json"}, 3, 70*time.Minute)
	})
	t.Run("unavailable", func(t *testing.T) {
		graphqlComesBack(t, gitlabsim.Fault{Status: 503}, 8, 8*time.Minute)
	})
}

// graphqlComesBack takes a fault of GraphQL away after five minutes, in which it
// may be asked so many times, and expects it to be used after another time.
func graphqlComesBack(t *testing.T, fault gitlabsim.Fault, most int, after time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 4, Runners: 250, Tags: 10, Token: secret})
		mount(t, world)
		fault.Route = "POST /graphql"
		remove := world.AddFault(fault)
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{})
		time.Sleep(5 * time.Minute)
		g := s.scrape()
		check(t, "tags by REST", tagCounts(g.Fleet), truthTags(world.Truth()))
		tried := world.Requests()["POST /graphql"]
		if tried == 0 || tried > most {
			t.Errorf("GraphQL was asked %d times in five minutes while it is refused", tried)
		}
		remove()
		time.Sleep(after)
		lists := world.Requests()["GET /runners/all"]
		time.Sleep(10 * time.Minute)
		if n := world.Requests()["GET /runners/all"]; n != lists {
			t.Error("GraphQL is offered again, and REST goes on")
		}
		check(t, "tags by GraphQL", tagCounts(s.scrape().Fleet), truthTags(world.Truth()))
		r.end(t)
	})
}

// By GraphQL a group shows the runners of its subgroups and projects, which
// REST cannot. Once they were shown a refusal must not make them leave, over
// a restart either.
func TestGraphQLOfGroupsHasNoSilentFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 6, Token: secret})
		mount(t, world)
		group := world.AddGroup("acme", 0)
		sub := world.AddGroup("team", group)
		project := world.AddProject("app", sub)
		ids := []int64{
			world.AddRunner(gitlabsim.RunnerSpec{Type: "group_type", Group: group, Tags: []string{"top"}}),
			world.AddRunner(gitlabsim.RunnerSpec{Type: "group_type", Group: sub, Tags: []string{"team"}}),
			world.AddRunner(gitlabsim.RunnerSpec{Type: "project_type", Projects: []int64{project}, Tags: []string{"app"}}),
		}
		dir := memoryDir(t)
		s := newScraper()
		folder, state := openState(t, dir)
		o := setup{scopes: []gitlab.Scope{{Kind: snapshot.ScopeGroups, ID: "acme"}}}
		r := start(t, world, state, s, o)
		time.Sleep(2 * time.Minute)
		has := func() map[int64]bool {
			out := map[int64]bool{}
			if g := s.scrape(); g.Fleet != nil {
				for _, row := range g.Fleet.Rows {
					out[row.ID] = true
				}
			}
			return out
		}
		for _, id := range ids {
			if !has()[id] {
				t.Fatalf("runner %d of the group's tree is missing: %v", id, has())
			}
		}
		world.AddFault(gitlabsim.Fault{Route: "POST /graphql", Status: 404, Body: "404", ContentType: "text/plain"})
		for _, restart := range []bool{false, true} {
			if restart {
				r.end(t)
				if err := folder.Close(); err != nil {
					t.Fatal(err)
				}
				folder, state = openState(t, dir)
				r = start(t, world, state, s, o)
			}
			time.Sleep(4 * time.Minute)
			g := s.scrape()
			if g.Up {
				t.Errorf("restart %v: up is 1 while the whole group cannot be read", restart)
			}
			for _, id := range ids {
				if !has()[id] {
					t.Errorf("restart %v: runner %d left because GraphQL was refused", restart, id)
				}
			}
		}
		r.end(t)
		if err := folder.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// The line about the way round by REST names what it was: neither an outage nor
// a proxy is blamed on the token.
func TestGraphQLFallbackNamesItsCause(t *testing.T) {
	const refused = "GitLab does not let this token"
	for name, c := range map[string]struct {
		version string
		fault   gitlabsim.Fault
		want    string
	}{
		"refused":     {"", gitlabsim.Fault{Status: 403, Body: `{"message":"403 Forbidden"}`, ContentType: "application/json"}, refused},
		"unavailable": {"", gitlabsim.Fault{Status: 503}, "GitLab did not answer the GraphQL query"},
		"no answer":   {"", gitlabsim.Fault{Latency: 50 * time.Second}, "GitLab did not answer the GraphQL query"},
		"blocked":     {"", gitlabsim.Fault{Status: 405}, "something in between"},
		"too old": {"14.7.0", gitlabsim.Fault{
			Status: 200, Body: `{"errors":[{"message":"Field 'runners' doesn't exist on type 'Query'"}]}`, ContentType: "application/json",
		}, "GraphQL of this GitLab release lacks"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := gitlabsim.New(gitlabsim.Options{Seed: 4, Runners: 5, Token: secret, Version: c.version})
				mount(t, world)
				c.fault.Route = "POST /graphql"
				world.AddFault(c.fault)
				s := newScraper()
				_, state := openState(t, "")
				logs := &lines{}
				r := start(t, world, state, s, setup{logger: logs.logger()})
				time.Sleep(10 * time.Minute)
				check(t, "runners", fleetCounts(s.scrape().Fleet), truthCounts(world.Truth()))
				text := strings.Join(logs.with("msg="), "")
				if !strings.Contains(text, c.want) || !strings.Contains(text, "REST is used") || c.want != refused && strings.Contains(text, refused) {
					t.Errorf("logged: %s", text)
				}
				r.end(t)
			})
		})
	}
}

// To 15.11 GraphQL has no machines, and neither has REST: the details that it
// has are taken, and REST is not asked for them runner by runner.
func TestGraphQLWithoutMachinesSparesREST(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 4, Runners: 250, Tags: 10, Token: secret, Version: "15.11.0"})
		mount(t, world)
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{})
		time.Sleep(20 * time.Minute)
		g := s.scrape()
		check(t, "runners", fleetCounts(g.Fleet), truthCounts(world.Truth()))
		check(t, "tags", tagCounts(g.Fleet), truthTags(world.Truth()))
		n := world.Requests()
		if n["GET /runners/:id"] > 0 || n["GET /runners/:id/managers"] > 0 || n["GET /runners/all"] > 2 || n["POST /graphql"] > 20*3+5 {
			t.Errorf("requests: %v", n)
		}
		r.end(t)
	})
}
