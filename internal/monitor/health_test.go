package monitor

import (
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// peers is a world of runners that take the same jobs, enough of them to show
// which one is silent among them.
func peers(t *testing.T, api snapshot.API, jobsPerHour float64) (*gitlabsim.World, []int64) {
	t.Helper()
	world := gitlabsim.New(gitlabsim.Options{Seed: 11, Token: secret, TickPeers: true, JobsPerHour: jobsPerHour, Shape: gitlabsim.JobShape{FailedShare: -1, CanceledShare: -1, MaxDuration: 10 * time.Minute}})
	if api == snapshot.APIGraphQL {
		mount(t, world)
	}
	ids := make([]int64, 8)
	for i := range ids {
		ids[i] = world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"gpu"}})
	}
	return world, ids
}

// watchPeers starts a monitor of such a world, without a state.
func watchPeers(t *testing.T, api snapshot.API) (*gitlabsim.World, *scraper, *running) {
	t.Helper()
	world, _ := peers(t, api, 120)
	s := newScraper()
	_, state := openState(t, "")
	return world, s, start(t, world, state, s, setup{api: api})
}

// illOf is what a picture shows of a runner's health; nil: it is well.
func illOf(g *snapshot.GitLab, id int64) *snapshot.Ill {
	if g.Health == nil {
		return nil
	}
	for i := range g.Health.Ill {
		if r := &g.Health.Ill[i]; r.ID == id {
			return r
		}
	}
	return nil
}

func usable(g *snapshot.GitLab) (available, usable int) {
	for _, tag := range g.Fleet.Tags {
		if tag.Name == "gpu" {
			return tag.Available, tag.Usable
		}
	}
	return -1, -1
}

func downOf(g *snapshot.GitLab) (n int) {
	for t := range g.Health.Runners {
		for _, byPaused := range g.Health.Runners[t][snapshot.HealthDown] {
			n += byPaused[0] + byPaused[1]
		}
	}
	return n
}

// A runner that dies is found down long before GitLab calls it offline, and it
// alone; the verdict and its since outlive kill -9; alive again, it is well.
func TestHealthFindsTheDead(t *testing.T) {
	for name, api := range map[string]snapshot.API{"REST": snapshot.APIREST, "GraphQL": snapshot.APIGraphQL} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world, ids := peers(t, api, 60)
				s := newScraper()
				dir := memoryDir(t)
				folder, state := openState(t, dir)
				r := start(t, world, state, s, setup{api: api})
				time.Sleep(7 * time.Hour)
				g := s.scrape()
				if g.Health == nil || downOf(g) != 0 {
					t.Fatalf("before: %+v", g.Health)
				}
				dead := ids[3]
				world.SetOnline(dead, false)
				died := time.Now()
				for s.scrape(); illOf(s.scrape(), dead) == nil || illOf(s.scrape(), dead).Health != snapshot.HealthDown; {
					if time.Since(died) > 90*time.Minute {
						ev, _ := r.m.Evidence(dead)
						t.Fatalf("not down %v after its death: %+v", time.Since(died), ev)
					}
					time.Sleep(30 * time.Second)
				}
				t.Logf("down %v after its death", time.Since(died))
				g = s.scrape()
				if available, usable := usable(g); available != 8 || usable != 7 {
					t.Errorf("GitLab calls %d available, %d are usable", available, usable)
				}
				if downOf(g) != 1 {
					t.Errorf("%d are down", downOf(g))
				}
				since := illOf(g, dead).Since
				time.Sleep(2 * time.Second) // a commit
				r.kill(t)
				if err := folder.Close(); err != nil {
					t.Fatal(err)
				}
				folder, state = openState(t, dir)
				s = newScraper()
				r = start(t, world, state, s, setup{api: api})
				time.Sleep(3 * time.Minute)
				g = s.scrape()
				if ill := illOf(g, dead); ill == nil || ill.Health != snapshot.HealthDown || !ill.Since.Equal(since) || downOf(g) != 1 {
					t.Errorf("after kill -9: %+v, want down since %v", ill, since)
				}
				world.SetOnline(dead, true)
				time.Sleep(40 * time.Minute)
				g = s.scrape()
				if ill := illOf(g, dead); ill != nil && ill.Health != snapshot.HealthAlive {
					t.Errorf("alive again: %+v", ill)
				}
				if _, usable := usable(g); usable != 8 {
					t.Errorf("alive again: %d usable", usable)
				}
				if ev, ok := r.m.Evidence(dead); !ok || ev.LastSeen.IsZero() || ev.Peers == 0 {
					t.Errorf("evidence: %+v", ev)
				}
				r.end(t)
				if err := folder.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// An outage of GitLab makes nobody down: what kept us from GitLab kept the
// runners from it too, and judgment is suspended for a while after it.
func TestHealthHoldsAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world, s, r := watchPeers(t, snapshot.APIREST)
		time.Sleep(time.Hour)
		remove := world.AddFault(gitlabsim.Fault{Status: 502})
		time.Sleep(40 * time.Minute)
		if g := s.scrape(); g.Fleet != nil {
			t.Fatal("the gauges are not withdrawn in an outage")
		}
		remove()
		for range 120 {
			time.Sleep(time.Minute)
			if g := s.scrape(); g.Health != nil && downOf(g) != 0 {
				t.Fatalf("%d are down after an outage", downOf(g))
			}
		}
		r.end(t)
	})
	synctest.Test(t, func(t *testing.T) {
		world, s, r := watchPeers(t, snapshot.APIREST)
		time.Sleep(time.Hour)
		remove := world.AddFault(gitlabsim.Fault{Status: 502})
		time.Sleep(15 * time.Minute) // a listing may be retried for minutes before it fails
		remove()
		time.Sleep(5 * time.Minute)
		if g := s.scrape(); g.Health == nil || !g.Health.AfterOutage {
			t.Errorf("after an outage judgment goes on: %+v", g.Health)
		}
		time.Sleep(80 * time.Minute)
		if g := s.scrape(); g.Health == nil || g.Health.AfterOutage {
			t.Errorf("an hour and a half after an outage judgment is suspended: %+v", g.Health)
		}
		r.end(t)
	})
}

// A runner that GitLab calls online and that fails what it picks is suspected,
// by name, and not usable; its peers are not.
func TestHealthNamesTheBlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world, s, r := watchPeers(t, snapshot.APIREST)
		time.Sleep(2 * time.Hour)
		hole := world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"gpu"}, BlackHole: true})
		appeared := time.Now()
		for {
			time.Sleep(time.Minute)
			g := s.scrape()
			if ill := illOf(g, hole); ill != nil && !ill.Suspects[snapshot.SuspectBlackHole].IsZero() {
				if _, usable := usable(g); usable != 8 || g.Health.Suspects[snapshot.SuspectBlackHole] != 1 {
					t.Errorf("%d usable, %d suspected", usable, g.Health.Suspects[snapshot.SuspectBlackHole])
				}
				t.Logf("named after %v and %d failed jobs", time.Since(appeared), ill.ConsecutiveFailed)
				break
			}
			if time.Since(appeared) > 3*time.Hour {
				t.Fatalf("not suspected: %+v", illOf(g, hole))
			}
		}
		r.end(t)
	})
}

// What a machine of many left behind, and a job beyond its runner's maximum
// timeout, are seen by REST and by GraphQL alike.
func TestHealthSeesOrphansByBothAPIs(t *testing.T) {
	type sight struct {
		orphaned        int
		machines        []int64
		health          snapshot.Health
		overTimeout     bool
		slowHealth      snapshot.Health
		suspects, sound int
	}
	see := func(t *testing.T, api snapshot.API, version string) (got sight) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			world := gitlabsim.New(gitlabsim.Options{Seed: 11, Token: secret, Version: version})
			if api == snapshot.APIGraphQL {
				mount(t, world)
			}
			many := world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"many"}, Managers: 3})
			slow := world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"slow"}, Timeout: time.Hour})
			sound := world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"sound"}, Timeout: 3 * time.Hour, Managers: 2})
			truth, _ := world.Runner(many)
			machine := truth.Managers[1].ID
			world.CreateJob(gitlabsim.JobSpec{Runner: many, Manager: machine})
			world.CreateJob(gitlabsim.JobSpec{Runner: many, Manager: truth.Managers[2].ID})
			world.CreateJob(gitlabsim.JobSpec{Runner: slow})
			world.CreateJob(gitlabsim.JobSpec{Runner: sound})
			s := newScraper()
			_, state := openState(t, "")
			r := start(t, world, state, s, setup{api: api})
			time.Sleep(50 * time.Minute)
			if g := s.scrape(); g.Health == nil || illOf(g, many) != nil || illOf(g, slow) != nil {
				t.Errorf("before: %+v", g.Health)
			}
			if !world.SetManagerOnline(many, machine, false) {
				t.Fatal("no such machine")
			}
			time.Sleep(25 * time.Minute)
			g := s.scrape()
			if ill := illOf(g, many); ill != nil {
				got.orphaned, got.machines, got.health = ill.OrphanedJobs, ill.Machines, ill.Health
			}
			if !slices.Equal(got.machines, []int64{machine}) {
				t.Errorf("machines with orphaned jobs: %v, want %d", got.machines, machine)
			}
			if ill := illOf(g, slow); ill != nil {
				got.overTimeout, got.slowHealth = !ill.Suspects[snapshot.SuspectOverTimeout].IsZero(), ill.Health
			}
			got.suspects = g.Health.Suspects[snapshot.SuspectOverTimeout]
			if illOf(g, sound) == nil {
				got.sound++
			}
			r.end(t)
		})
		return got
	}
	// 16.3 is the first whose GraphQL shows it, up to 17.1 in another word; REST does since 18.0.
	rest := see(t, snapshot.APIREST, "")
	if rest.orphaned != 1 || !rest.overTimeout || rest.suspects != 1 || rest.sound != 1 || rest.health != snapshot.HealthAlive {
		t.Errorf("by REST: %+v", rest)
	}
	for _, version := range []string{"", "16.3.0", "17.1.0", "17.2.0"} {
		if got := see(t, snapshot.APIGraphQL, version); !reflect.DeepEqual(got, rest) {
			t.Errorf("by GraphQL of %q: %+v, by REST %+v", version, got, rest)
		}
	}
}
