package monitor

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// fleetCounts is a picture's runners by type, status and paused.
func fleetCounts(f *snapshot.Fleet) map[string]int {
	out := map[string]int{}
	if f == nil {
		return out
	}
	for t := range f.Runners {
		for s := range f.Runners[t] {
			for p, n := range f.Runners[t][s] {
				if n > 0 {
					out[fmt.Sprintf("%s %s %t", snapshot.RunnerType(t), snapshot.Status(s), p == 1)] = n
				}
			}
		}
	}
	return out
}

func truthCounts(truth *gitlabsim.Truth) map[string]int {
	out := map[string]int{}
	for k, n := range truth.Counts {
		if n > 0 {
			out[fmt.Sprintf("%s %s %t", k.Type, k.Status, k.Paused)] = n
		}
	}
	return out
}

// tagCounts is a picture's runners by tag, type, status and paused; zeros are
// left out, as truth does.
func tagCounts(f *snapshot.Fleet) map[string]int {
	out := map[string]int{}
	for _, tag := range f.Tags {
		for t, statuses := range tag.Runners {
			if statuses == nil {
				continue
			}
			for s := range statuses {
				for p, n := range statuses[s] {
					if n > 0 {
						out[fmt.Sprintf("%s: %s %s %t", tag.Name, snapshot.RunnerType(t), snapshot.Status(s), p == 1)] = n
					}
				}
			}
		}
	}
	return out
}

func truthTags(truth *gitlabsim.Truth) map[string]int {
	out := map[string]int{}
	for tag, kinds := range truth.TagCounts {
		for k, n := range kinds {
			if n > 0 {
				out[fmt.Sprintf("%s: %s %s %t", tag, k.Type, k.Status, k.Paused)] = n
			}
		}
	}
	return out
}

func check(t *testing.T, what string, got, want map[string]int) {
	t.Helper()
	if len(want) == 0 {
		t.Errorf("%s: the truth is empty, the test proves nothing", what)
	}
	if d := diff(got, want); len(d) > 0 {
		t.Errorf("%s:\n%s", what, strings.Join(d, "\n"))
	}
}

// Beyond 10,000 rows GitLab withholds X-Total and the link to the last page.
func TestListsALargeFleetOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Runners: 10_250, Tags: 40, Token: secret})
		s := newScraper()
		_, state := openState(t, "")
		poll := defaultPoll()
		poll.Details = 24 * time.Hour
		r := start(t, world, state, s, setup{poll: poll, rate: 10}) // the list goes first, and little else is read
		time.Sleep(20 * time.Second)
		check(t, "runners", fleetCounts(s.scrape().Fleet), truthCounts(world.Truth()))
		if n := world.Requests()["GET /runners/all"] + world.Requests()["/runners/all"]; n != 103 {
			t.Errorf("%d list requests for 10,250 runners, want one for each 100: %v", n, world.Requests())
		}
		r.end(t)
	})
}

func TestChangesAreFollowed(t *testing.T) {
	for _, version := range []string{"19.1.0-ee", "17.8.0-ee", "15.11.0"} {
		t.Run(version, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { followChanges(t, version, nil) })
		})
	}
}

func followChanges(t *testing.T, version string, prepare func(*gitlabsim.World)) {
	t.Helper()
	world := gitlabsim.New(gitlabsim.Options{Seed: 5, Runners: 300, Tags: 20, Token: secret, Version: version})
	if prepare != nil {
		prepare(world)
	}
	s := newScraper()
	_, state := openState(t, "")
	poll := defaultPoll()
	poll.Details = 5 * time.Minute
	r := start(t, world, state, s, setup{poll: poll})
	time.Sleep(2 * time.Minute)
	before := world.Truth()
	check(t, "runners", fleetCounts(s.scrape().Fleet), truthCounts(before))
	check(t, "tags", tagCounts(s.scrape().Fleet), truthTags(before))

	rng := rand.New(rand.NewPCG(5, 5))
	deleted := map[int64]bool{}
	for i := range 80 {
		id := before.Runners[rng.IntN(len(before.Runners))].ID
		switch i % 4 {
		case 0:
			world.Pause(id, !before.Runners[0].Paused)
		case 1:
			deleted[id] = world.DeleteRunner(id) || deleted[id]
		case 2:
			world.SetTags(id, []string{fmt.Sprintf("new-%d", i%12), "linux"})
		default:
			world.SetOnline(id, true)
		}
	}
	// Two polls and one details interval; each is jittered by up to a tenth.
	time.Sleep(2*time.Minute + poll.Details*12/10)
	g := s.scrape()
	after := world.Truth()
	check(t, "runners after 80 changes", fleetCounts(g.Fleet), truthCounts(after))
	check(t, "tags after 80 changes", tagCounts(g.Fleet), truthTags(after))
	if len(deleted) < 10 {
		t.Fatalf("only %d runners were deleted", len(deleted))
	}
	for _, row := range g.Fleet.Rows {
		if deleted[row.ID] {
			t.Errorf("runner %d was deleted and has series still", row.ID)
		}
	}
	r.end(t)
}

// GitLab limits to 25 requests/s and fails 1 in 9: still right, and hardly
// ever refused.
func TestLimitedAndFailingGitLabIsReadRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{
			Seed: 9, Runners: 1500, Tags: 30, JobsPerHour: 1200, Token: secret,
			RateLimit: 25, RateWindow: time.Second, Latency: func(string) time.Duration { return 40 * time.Millisecond },
		})
		world.AddFault(gitlabsim.Fault{Probability: 1. / 9, Status: 503})
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{concurrency: 16})
		time.Sleep(time.Minute)
		first := world.RequestsByStatus()
		time.Sleep(9 * time.Minute)
		g := s.scrape()
		check(t, "runners", fleetCounts(g.Fleet), truthCounts(world.Truth()))
		check(t, "tags", tagCounts(g.Fleet), truthTags(world.Truth()))
		refused, all := 0, 0
		for status, n := range world.RequestsByStatus() {
			n -= first[status]
			all += n
			if status == 429 {
				refused += n
			}
		}
		t.Logf("after the first minute %d of %d requests were answered 429; all: %v", refused, all, world.RequestsByStatus())
		if all < 1000 || refused*20 > all {
			t.Errorf("%d of %d requests were answered 429", refused, all)
		}
		r.end(t)
	})
}

// A request that could change anything must not leave, whatever is read.
func TestMonitorOnlyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 2, Runners: 40, Tags: 5, JobsPerHour: 600, Token: secret})
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{})
		time.Sleep(75 * time.Minute) // a deeper walk is among it
		r.end(t)
		routes := map[string]bool{}
		for _, e := range world.Log() {
			routes[e.Route] = true
			if e.Method != "GET" && (e.Method != "POST" || e.Path != "/api/graphql") {
				t.Errorf("%s %s left the exporter", e.Method, e.Path)
			}
		}
		if len(routes) < 6 {
			t.Errorf("only %d routes were read, the test proves too little: %v", len(routes), routes)
		}
	})
}

// What stands in no page because the pages were read at once would show as a
// runner missing or listed twice.
func TestPagesReadAtOnceHideNoRunner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{
			Seed: 4, Runners: 2050, Tags: 10, Token: secret, Latency: func(string) time.Duration { return time.Second },
		})
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{})
		defer r.end(t)
		// Version and token, GraphQL refused, the first page, 20 more by fours; and a commit.
		time.Sleep(11 * time.Second)
		check(t, "runners", fleetCounts(s.scrape().Fleet), truthCounts(world.Truth()))
		if n := world.Requests()["GET /runners/all"]; n != 21 {
			t.Errorf("%d list requests for 2,050 runners, want one for each 100", n)
		}
	})
}
