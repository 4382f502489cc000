package monitor

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const ownNotFound = `{"message":"404 Not Found"}`

// An hour in which something in between, or a GitLab that is broken, answers
// all there is with a 404, 401 or 403: nobody leaves, nothing is given up, and
// with the first listing all is back.
func TestForeignAnswersRemoveNobody(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault  gitlabsim.Fault
		reason string
	}{
		"default backend":          {gitlabsim.Fault{Status: 404, Body: "default backend - 404", ContentType: "text/plain; charset=utf-8"}, "not_gitlab"},
		"page 404":                 {gitlabsim.Fault{Status: 404}, "not_gitlab"},
		"gateway's JSON 404":       {gitlabsim.Fault{Status: 404, Body: `{"message":"no Route matched with those values"}`, ContentType: "application/json"}, "not_gitlab"},
		"page 403":                 {gitlabsim.Fault{Status: 403}, "not_gitlab"},
		"proxy's 401":              {gitlabsim.Fault{Status: 401}, "not_gitlab"},
		"login page":               {gitlabsim.Fault{Garbage: true}, "not_gitlab"},
		"404 in GitLab's own form": {gitlabsim.Fault{Status: 404, Body: ownNotFound, ContentType: "application/json"}, "not_found"},
		"403 in GitLab's own form": {gitlabsim.Fault{Status: 403, Body: `{"message":"403 Forbidden"}`, ContentType: "application/json"}, "forbidden"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { anHourOf(t, c.fault, c.reason) })
		})
	}
}

func anHourOf(t *testing.T, fault gitlabsim.Fault, reason string) {
	t.Helper()
	world := gitlabsim.New(gitlabsim.Options{Seed: 6, Runners: 12, Tags: 8, JobsPerHour: 300, Shape: briskJobs(), Token: secret})
	var out lines
	s := newScraper()
	_, state := openState(t, "")
	r := start(t, world, state, s, setup{logger: out.logger()})
	for range 60 {
		time.Sleep(10 * time.Second)
		s.scrape()
	}
	before := s.scrape()
	if len(world.Truth().Executing) == 0 {
		t.Fatal("no job runs: the test proves nothing")
	}
	remove := world.AddFault(fault)
	began := time.Now()
	for time.Since(began) < time.Hour {
		time.Sleep(10 * time.Second)
		g := s.scrape()
		switch down := time.Since(began); {
		case down < 8*time.Minute && (g.Fleet == nil || len(g.Fleet.Rows) != len(before.Fleet.Rows)):
			t.Fatalf("%v after its begin runners left: fleet %t", down, g.Fleet != nil)
		case down > 11*time.Minute && g.Fleet != nil:
			t.Fatalf("%v after its begin the gauges are not withdrawn", down)
		case down > 4*time.Minute && g.Up, g.Up && g.Fleet == nil:
			t.Fatalf("%v after its begin up is 1", down)
		case g.Self.JobsUnresolved != [snapshot.NumUnresolvedReasons]uint64{}:
			t.Fatalf("%v after its begin jobs are given up: %v", down, g.Self.JobsUnresolved)
		}
	}
	if n := r.known(); n != len(before.Fleet.Rows) {
		t.Errorf("%d runners are known, %d were", n, len(before.Fleet.Rows))
	}
	if logged := out.with("cannot be listed"); len(logged) != 1 || !strings.Contains(logged[0], "reason="+reason) {
		t.Errorf("logged %d times:\n%s", len(logged), strings.Join(logged, ""))
	}
	if locked(r, func(m *Monitor) bool { return m.fleet.blocked }) {
		t.Error("taken for a refused token")
	}
	remove()
	back := time.Now()
	for !s.scrape().Up {
		time.Sleep(time.Second)
		if time.Since(back) > 2*time.Minute {
			t.Fatal("not back")
		}
	}
	if g := s.scrape(); g.Fleet == nil || len(g.Fleet.Rows) == 0 || g.Fleet.Detailed != before.Fleet.Detailed {
		t.Errorf("back with the first listing: %+v", g.Fleet)
	}
	check(t, "runners", fleetCounts(s.scrape().Fleet), truthCounts(world.Truth()))
	world.Quiesce()
	time.Sleep(settled)
	check(t, "jobs finished", finished(s.scrape()), finishedTruth(world.Truth().Finished))
	if g := s.scrape(); g.Self.JobsUnresolved != [snapshot.NumUnresolvedReasons]uint64{} {
		t.Errorf("afterwards unresolved: %v", g.Self.JobsUnresolved)
	}
	if len(s.back) > 0 {
		t.Errorf("a series went back: %s", s.back[0])
	}
	r.end(t)
}

// scopedWorld has three groups with a runner each, one tag of its own each, and
// one that all have.
func scopedWorld(t *testing.T) (w *gitlabsim.World, ids []int64, o setup) {
	t.Helper()
	w = gitlabsim.New(gitlabsim.Options{Seed: 6, Token: secret})
	for _, name := range []string{"infra", "mobile", "web"} {
		group := w.AddGroup(name, 0)
		w.AddProject("app-"+name, group)
		ids = append(ids, w.AddRunner(gitlabsim.RunnerSpec{Type: "group_type", Group: group, Tags: []string{name, "all"}}))
		o.scopes = append(o.scopes, gitlab.Scope{Kind: snapshot.ScopeGroups, ID: name})
	}
	o.inv = inventory.Options{
		TagLimit: 500, TagRetention: 7 * 24 * time.Hour, RunnersEnabled: true,
		Expected: map[string]int{"infra": 1, "mobile": 1, "web": 1, "all": 1},
	}
	return w, ids, o
}

// ofMobile matches the listing of the group mobile.
func ofMobile(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/groups/mobile/runners") }

func tagsShown(g *snapshot.GitLab) string {
	if g.Fleet == nil {
		return "withdrawn"
	}
	var names []string
	for _, tag := range g.Fleet.Tags {
		names = append(names, fmt.Sprintf("%s=%d", tag.Name, tag.Available))
	}
	return strings.Join(names, " ") + " unknown " + strings.Join(g.Fleet.UnknownTags, " ")
}

func scopesShown(g *snapshot.GitLab) string {
	var out []string
	for _, s := range g.Scopes {
		out = append(out, fmt.Sprintf("%s/%s=%t", s.Kind, s.Path, s.Up))
	}
	return strings.Join(out, " ")
}

// One group of three that GitLab refuses blinds no other: its runners stay for
// staleness, then they and what is known of their tags leave the sums.
func TestRefusedScopeBlindsNoOther(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]gitlabsim.Fault{
		"deleted":   {Status: 404, Body: `{"message":"404 Group Not Found"}`, ContentType: "application/json"},
		"forbidden": {Status: 403, Body: `{"message":"403 Forbidden"}`, ContentType: "application/json"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world, ids, o := scopedWorld(t)
				var out lines
				o.logger = out.logger()
				s := newScraper()
				dir := memoryDir(t)
				folder, state := openState(t, dir)
				r := start(t, world, state, s, o)
				time.Sleep(2 * time.Minute)
				job := world.CreateJob(gitlabsim.JobSpec{Runner: ids[1], Status: "failed", Finished: time.Now().Add(3 * time.Minute)})
				if g := s.scrape(); !g.Up || scopesShown(g) != "groups/infra=true groups/mobile=true groups/web=true" || tagsShown(g) != "all=3 infra=1 mobile=1 web=1 unknown " {
					t.Fatalf("at first: up %t, %s, tags %s", g.Up, scopesShown(g), tagsShown(g))
				}
				fault.Match = ofMobile
				remove := world.AddFault(fault)
				look := func(when, tags string, rows int) {
					t.Helper()
					g := s.scrape()
					if !g.Up || scopesShown(g) != "groups/infra=true groups/mobile=false groups/web=true" {
						t.Errorf("%s: up %t, %s", when, g.Up, scopesShown(g))
					}
					if tagsShown(g) != tags || len(g.Fleet.Rows) != rows {
						t.Errorf("%s: tags %s, %d rows", when, tagsShown(g), len(g.Fleet.Rows))
					}
					if failed := illOf(g, ids[1]) != nil; g.Health == nil || failed != (rows == 3) {
						t.Errorf("%s: the runner whose job failed is shown: %t", when, failed)
					}
				}
				time.Sleep(8 * time.Minute)
				look("8 minutes later", "all=3 infra=1 mobile=1 web=1 unknown ", 3)
				world.SetOnline(ids[2], false)
				time.Sleep(4 * time.Minute)
				look("12 minutes later", "infra=1 web=1 unknown all mobile", 2)
				time.Sleep(2 * time.Hour)
				look("much later", "infra=1 web=0 unknown all mobile", 2)
				if logged := out.with("level=error", "scope=groups", "path=mobile"); len(logged) != 1 || len(out.with("path=infra", "cannot")) > 0 {
					t.Errorf("logged %d times:\n%s", len(logged), strings.Join(logged, ""))
				}
				if j, ok := world.Job(job); !ok || j.Status != "success" && j.Status != "failed" || sumOf(finished(s.scrape())) != 1 {
					t.Errorf("its job %+v was not counted: %v", j, finished(s.scrape()))
				}
				// Over a restart it is the same.
				r.end(t)
				if err := folder.Close(); err != nil {
					t.Fatal(err)
				}
				folder, state = openState(t, dir)
				r = start(t, world, state, s, o)
				time.Sleep(2 * time.Minute)
				look("after a restart", "infra=1 web=0 unknown all mobile", 2)
				remove()
				time.Sleep(2 * time.Minute)
				if g := s.scrape(); !g.Up || scopesShown(g) != "groups/infra=true groups/mobile=true groups/web=true" || tagsShown(g) != "all=2 infra=1 mobile=1 web=0 unknown " {
					t.Errorf("back: up %t, %s, tags %s", g.Up, scopesShown(g), tagsShown(g))
				}
				if again := out.with("runners are listed again", "path=mobile"); len(again) != 1 {
					t.Errorf("its return was logged %d times", len(again))
				}
				// Refused once more and taken out of the configuration: it leaves.
				fault.Match = ofMobile
				world.AddFault(fault)
				time.Sleep(12 * time.Minute)
				r.end(t)
				if err := folder.Close(); err != nil {
					t.Fatal(err)
				}
				folder, state = openState(t, dir)
				o.scopes = slices.Delete(slices.Clone(o.scopes), 1, 2)
				r = start(t, world, state, s, o)
				time.Sleep(3 * time.Minute)
				if g := s.scrape(); !g.Up || scopesShown(g) != "groups/infra=true groups/web=true" || tagsShown(g) != "all=1 infra=1 mobile=0 web=0 unknown " {
					t.Errorf("taken out: up %t, %s, tags %s", g.Up, scopesShown(g), tagsShown(g))
				}
				if r.has(ids[1]) {
					t.Error("its runner is still there")
				}
				if len(s.back) > 0 {
					t.Errorf("a series went back: %s", s.back[0])
				}
				r.end(t)
				if err := folder.Close(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// A scope that fails by itself, without being refused, makes up 0; the others
// are read all the same, as often as ever.
func TestFailedScopeBlindsNoOther(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]gitlabsim.Fault{
		"503":        {Status: 503},
		"hangs":      {Latency: time.Hour},
		"not GitLab": {Status: 404},
		"cut off":    {Truncate: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world, ids, o := scopedWorld(t)
				var out lines
				o.logger = out.logger()
				s := newScraper()
				_, state := openState(t, "")
				r := start(t, world, state, s, o)
				time.Sleep(2 * time.Minute)
				fault.Match = ofMobile
				remove := world.AddFault(fault)
				// Its last listing may have begun a minute before: staleness is not over below.
				time.Sleep(4*time.Minute + 30*time.Second)
				lists := requests(world, "/groups/:id/runners")
				world.SetOnline(ids[0], false)
				time.Sleep(4 * time.Minute)
				g := s.scrape()
				if g.Up || scopesShown(g) != "groups/infra=true groups/mobile=false groups/web=true" || tagsShown(g) != "all=3 infra=1 mobile=1 web=1 unknown " {
					t.Errorf("8 1/2 minutes later: up %t, %s, tags %s", g.Up, scopesShown(g), tagsShown(g))
				}
				if n := requests(world, "/groups/:id/runners") - lists; n < 7 {
					t.Errorf("%d listings in 4 minutes: the others wait for it", n)
				}
				if lag := g.Self.Stages[snapshot.StageRunners].Lag; lag < 6*time.Minute {
					t.Errorf("the lag is shown as %v", lag)
				}
				time.Sleep(4 * time.Hour)
				if g = s.scrape(); g.Up || tagsShown(g) != "infra=0 web=1 unknown all mobile" {
					t.Errorf("4 hours later: up %t, tags %s", g.Up, tagsShown(g))
				}
				if logged := out.with("cannot be listed"); len(logged) != 1 || !strings.Contains(logged[0], "path=mobile") {
					t.Errorf("logged %d times:\n%s", len(logged), strings.Join(logged, ""))
				}
				remove()
				time.Sleep(12 * time.Minute)
				if g = s.scrape(); !g.Up || tagsShown(g) != "all=2 infra=0 mobile=1 web=1 unknown " {
					t.Errorf("back: up %t, tags %s", g.Up, tagsShown(g))
				}
				r.end(t)
			})
		})
	}
}

// At a first start a scope that cannot be read must not hold up the others,
// nor make a floor look like a tag that nobody has.
func TestFailedScopeHoldsUpNoFirstStart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault gitlabsim.Fault
		up    bool
	}{
		"refused": {gitlabsim.Fault{Status: 404, Body: ownNotFound, ContentType: "application/json"}, true},
		"hangs":   {gitlabsim.Fault{Latency: time.Hour}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world, _, o := scopedWorld(t)
				c.fault.Match = ofMobile
				remove := world.AddFault(c.fault)
				s := newScraper()
				_, state := openState(t, "")
				r := start(t, world, state, s, o)
				time.Sleep(2 * time.Minute)
				if g := s.scrape(); g.Up != c.up || tagsShown(g) != "all=2 infra=1 web=1 unknown mobile" {
					t.Errorf("2 minutes after the start: up %t, tags %s", g.Up, tagsShown(g))
				}
				remove()
				time.Sleep(15 * time.Minute)
				if g := s.scrape(); !g.Up || tagsShown(g) != "all=3 infra=1 mobile=1 web=1 unknown " {
					t.Errorf("then: up %t, tags %s", g.Up, tagsShown(g))
				}
				r.end(t)
			})
		})
	}
}

// GitLab's own 404 for a runner that is listed removes nobody; one for a runner
// that is not listed any more makes it leave with the next listing.
func TestNotFoundAloneRemovesNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		world, ids, o := scopedWorld(t)
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, o)
		time.Sleep(2 * time.Minute)
		suffix := fmt.Sprintf("/runners/%d", ids[1])
		for _, path := range []string{suffix, suffix + "/jobs", suffix + "/managers"} {
			world.AddFault(gitlabsim.Fault{
				Match: func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, path) }, Status: 404,
				Body: ownNotFound, ContentType: "application/json",
			})
		}
		for range 60 {
			time.Sleep(time.Minute)
			if g := s.scrape(); !g.Up || tagsShown(g) != "all=3 infra=1 mobile=1 web=1 unknown " {
				t.Fatalf("up %t, tags %s", g.Up, tagsShown(g))
			}
		}
		if n := world.Requests()["GET /runners/:id"]; n > 120 {
			t.Errorf("%d details were asked for in an hour", n)
		}
		r.end(t)
	})
	synctest.Test(t, func(t *testing.T) {
		world, ids, o := scopedWorld(t)
		o.poll = defaultPoll()
		o.poll.Details = 10 * time.Second
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, o)
		time.Sleep(2 * time.Minute)
		var listings atomic.Int64
		world.AddFault(gitlabsim.Fault{Match: func(r *http.Request) bool {
			if ofMobile(r) {
				listings.Add(1)
			}
			return false
		}})
		for listings.Load() == 0 {
			time.Sleep(time.Second)
		}
		world.DeleteRunner(ids[1])
		for listings.Load() == 1 {
			time.Sleep(time.Second)
		}
		time.Sleep(5 * time.Second)
		if r.has(ids[1]) {
			t.Error("not gone with the first listing after its 404")
		}
		if s.counted("failure details not_found") > 0 {
			t.Error("a runner that was deleted was counted as a failure")
		}
		r.end(t)
	})
}

// A new runner that is listed, but not on each replica yet, is asked for again
// with the next listings.
func TestNewRunnerIsAskedForAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 6, Runners: 3, Tags: 3, Token: secret})
		var out lines
		s := newScraper()
		_, state := openState(t, "")
		poll := defaultPoll()
		poll.Runners = time.Second
		r := start(t, world, state, s, setup{poll: poll, logger: out.logger()})
		time.Sleep(time.Minute)
		id := world.AddRunner(gitlabsim.RunnerSpec{Type: "instance_type", Tags: []string{"new"}})
		world.AddFault(gitlabsim.Fault{
			Match: func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, fmt.Sprintf("/runners/%d", id)) }, Times: 3,
			Status: 404, Body: ownNotFound, ContentType: "application/json",
		})
		time.Sleep(7 * time.Second)
		if g := s.scrape(); !strings.Contains(tagsShown(g), "new=1") {
			t.Errorf("tags %s", tagsShown(g))
		}
		if logged := out.with("level=error"); len(logged) > 0 {
			t.Errorf("logged: %s", logged[0])
		}
		r.end(t)
	})
}

// renaming shows the group acme under another name.
type renaming struct {
	http.RoundTripper

	name *atomic.Value
	asks *atomic.Int64 // for its path
}

func (r renaming) RoundTrip(req *http.Request) (*http.Response, error) {
	name := fmt.Sprint(r.name.Load())
	switch {
	case req.Method == http.MethodPost:
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		text := strings.ReplaceAll(string(body), `"acme"`, `"nobody"`)
		text = strings.ReplaceAll(text, `"`+name+`"`, `"acme"`)
		req = req.Clone(req.Context())
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
	case !strings.HasSuffix(req.URL.Path, "/runners") && strings.Contains(req.URL.Path, "/groups/"):
		r.asks.Add(1)
		resp, err := r.RoundTripper.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		text := strings.ReplaceAll(string(body), `"acme"`, `"`+name+`"`)
		resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
		return resp, err
	}
	return r.RoundTripper.RoundTrip(req)
}

// A group that is configured by its id is found again when its path changes:
// at once where the old path is gone, within an hour where another has it now.
func TestGroupByIDIsFoundAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 6, Token: secret})
		mount(t, world)
		group := world.AddGroup("acme", 0)
		world.AddRunner(gitlabsim.RunnerSpec{Type: "group_type", Group: world.AddGroup("team", group), Tags: []string{"team"}})
		var name atomic.Value
		var asks atomic.Int64
		name.Store("before")
		s := newScraper()
		_, state := openState(t, "")
		var out lines
		r := start(t, world, state, s, setup{
			logger: out.logger(), scopes: []gitlab.Scope{{Kind: snapshot.ScopeGroups, ID: strconv.FormatInt(group, 10)}},
			wrap: func(t http.RoundTripper) http.RoundTripper { return renaming{t, &name, &asks} },
		})
		time.Sleep(30 * time.Minute)
		if g := s.scrape(); !g.Up || tagsShown(g) != "team=1 unknown " || asks.Load() != 1 {
			t.Fatalf("at first: up %t, tags %s, its path was asked for %d times", g.Up, tagsShown(g), asks.Load())
		}
		name.Store("after")
		for range 20 {
			time.Sleep(time.Minute)
			if g := s.scrape(); !g.Up || tagsShown(g) != "team=1 unknown " {
				t.Fatalf("renamed: up %t, tags %s", g.Up, tagsShown(g))
			}
		}
		if asks.Load() != 2 {
			t.Errorf("its path was asked for %d times", asks.Load())
		}
		time.Sleep(3 * time.Hour)
		if n := asks.Load(); n < 4 || n > 6 {
			t.Errorf("in three hours its path was asked for %d times", n-2)
		}
		if logged := out.with("level=error"); len(logged) > 0 {
			t.Errorf("logged: %s", logged[0])
		}
		r.end(t)
	})
}

// A GitLab that asks to wait for longer than staleness: logged once, and up is 0
// with the gauges.
func TestLongPauseIsReported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 6, Runners: 12, Tags: 8, Token: secret})
		var out lines
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{logger: out.logger()})
		time.Sleep(5 * time.Minute)
		world.AddFault(gitlabsim.Fault{Status: 429, Body: "Retry later\n", ContentType: "text/plain", RetryAfter: "20", Until: time.Now().Add(time.Minute)})
		time.Sleep(5 * time.Minute)
		if logged := out.with("asks to wait"); len(logged) > 0 {
			t.Errorf("a short pause was logged: %s", logged[0])
		}
		began := time.Now()
		remove := world.AddFault(gitlabsim.Fault{Status: 429, Body: "Retry later\n", ContentType: "text/plain", RetryAfter: "3600"})
		for time.Since(began) < time.Hour {
			time.Sleep(5 * time.Second)
			if g := s.scrape(); g.Up && g.Fleet == nil {
				t.Fatalf("after %v the gauges are withdrawn, and up is 1", time.Since(began))
			}
		}
		logged := out.with("asks to wait", "remedy=", "gauges_withdrawn_at=")
		if len(logged) != 1 || len(out.with("asks to wait")) != 1 || !strings.Contains(logged[0], "wait=59m") && !strings.Contains(logged[0], "wait=1h0m0s") {
			t.Errorf("logged %d times: %s", len(out.with("asks to wait")), strings.Join(logged, ""))
		}
		if g := s.scrape(); g.Up || g.Fleet != nil {
			t.Errorf("an hour later: up %t, fleet %t", g.Up, g.Fleet != nil)
		}
		remove()
		time.Sleep(3 * time.Minute)
		if g := s.scrape(); !g.Up || g.Fleet == nil {
			t.Errorf("then: up %t, fleet %t", g.Up, g.Fleet != nil)
		}
		r.end(t)
	})
}

// The first picture of several scopes has the runners of all of them.
func TestFirstPictureHasAllScopes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		world, _, o := scopedWorld(t)
		for i, group := range []string{"mobile", "web"} {
			world.AddFault(gitlabsim.Fault{Match: matchPath("/groups/" + group + "/runners"), Latency: time.Duration(i+1) * 10 * time.Second})
		}
		var out lines
		o.logger = out.logger()
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, o)
		for range 120 {
			time.Sleep(time.Second)
			if g := s.scrape(); g.Fleet != nil && (len(g.Fleet.Rows) != 3 || !g.Up) {
				t.Fatalf("a picture of %d runners, up %t", len(g.Fleet.Rows), g.Up)
			}
		}
		if g := s.scrape(); !g.Up || tagsShown(g) != "all=3 infra=1 mobile=1 web=1 unknown " {
			t.Errorf("up %t, tags %s", g.Up, tagsShown(g))
		}
		if whole := out.with("the first picture is whole"); len(whole) != 1 || !strings.Contains(whole[0], "runners=3") {
			t.Errorf("logged: %s", strings.Join(whole, ""))
		}
		r.end(t)
	})
}
