package monitor

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/health"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/internal/store"
	"gitlab-runner-fleet-exporter/test/rig"
)

var healthDays = flag.Int("health.days", 0, "days of TestHealthWeekReachesTheSameVerdicts; 0: 2, or a part of one where that is slow")

// pure is internal/health by itself, without requests, intervals, a state or
// restarts: each minute it is given what the world holds.
type pure struct {
	fleet    *health.Fleet
	owns     func(id int64) bool
	finished int
	down     map[int64]time.Time // since
	episodes []episode
}

// episode is a time in which a runner was down.
type episode struct {
	runner   int64
	from, to time.Time // to is zero while it lasts
}

func newPure(owns func(id int64) bool) *pure {
	p := &pure{fleet: health.New(), owns: owns, down: map[int64]time.Time{}}
	p.fleet.SetDense(true)
	return p
}

func simJob(j gitlabsim.JobTruth) gitlab.Job {
	return gitlab.Job{
		ID: j.ID, Status: j.Status, FailureReason: j.Reason, CreatedAt: j.Created, StartedAt: j.Started, FinishedAt: j.Finished,
		Duration: j.Duration.Seconds(), Queued: j.Queued.Seconds(), ProjectID: j.Project,
	}
}

// minute takes what the world shows now.
func (p *pure) minute(world *gitlabsim.World, truth *gitlabsim.Truth, reachable bool) {
	now := time.Now()
	if !reachable {
		p.fleet.ListingFailed(now)
	} else {
		p.fleet.ListingDone(now)
		executing, ended := map[int64][]gitlab.Job{}, map[int64][]gitlab.Job{}
		for _, j := range truth.Executing {
			executing[j.Runner] = append(executing[j.Runner], simJob(j))
		}
		more := world.FinishedAfter(p.finished)
		p.finished += len(more)
		for _, j := range more {
			ended[j.Runner] = append(ended[j.Runner], simJob(j))
		}
		for _, r := range truth.Runners {
			if !p.owns(r.ID) {
				continue
			}
			p.fleet.Listed(health.Row{ID: r.ID, Type: snapshot.InstanceType, Paused: r.Paused, Executing: len(r.Executing) > 0}, now)
			p.fleet.Describe(r.ID, health.Traits{Type: snapshot.InstanceType, Tags: r.Tags, RunUntagged: r.RunUntagged})
			machines := make([]health.Machine, 0, len(r.Managers))
			for _, m := range r.Managers {
				machines = append(machines, health.Machine{ID: m.ID, SystemID: m.SystemID, ContactedAt: m.Contacted, Executing: m.Executing > 0})
			}
			p.fleet.Read(r.ID, health.Reading{At: now, ContactedAt: r.Contacted, Machines: machines})
			p.fleet.Jobs(r.ID, now, executing[r.ID], ended[r.ID])
		}
	}
	_, picture := p.fleet.Judge(now)
	p.episodes = follow(p.episodes, p.down, picture.Ill, now)
}

// follow adds to the episodes what a picture shows.
func follow(all []episode, down map[int64]time.Time, ill []snapshot.Ill, now time.Time) []episode {
	present := map[int64]time.Time{}
	for i := range ill {
		if r := &ill[i]; r.Health == snapshot.HealthDown {
			present[r.ID] = r.Since
			if _, was := down[r.ID]; !was {
				all = append(all, episode{runner: r.ID, from: now})
			}
		}
	}
	for id := range down {
		if _, is := present[id]; !is {
			i := len(all) - 1
			for all[i].runner != id || !all[i].to.IsZero() {
				i--
			}
			all[i].to = now
		}
	}
	clear(down)
	maps.Copy(down, present)
	return all
}

// watch is a monitor whose verdicts are compared with those of pure.
type watch struct {
	name     string
	owns     func(id int64) bool
	pure     *pure
	setup    setup
	s        *scraper
	r        *running
	dir      string
	folder   *store.Folder
	born     time.Time
	down     map[int64]time.Time
	episodes []episode
}

func (w *watch) start(t *testing.T, world *gitlabsim.World) {
	t.Helper()
	var state *store.State
	w.folder, state = openState(t, w.dir)
	w.s = newScraper()
	w.r = start(t, world, state, w.s, w.setup)
}

func (w *watch) stop(t *testing.T, kill bool) {
	t.Helper()
	if kill {
		w.r.kill(t)
	} else {
		w.r.end(t)
	}
	if err := w.folder.Close(); err != nil {
		t.Fatal(err)
	}
}

func (w *watch) minute() {
	if g := w.s.scrape(); g != nil && g.Health != nil {
		w.episodes = follow(w.episodes, w.down, g.Health.Ill, time.Now())
	}
}

// restart ends a process and starts it again: who was down is down since the
// same time in the first picture that the new one shows.
func (w *watch) restart(t *testing.T, world *gitlabsim.World, kill bool) {
	t.Helper()
	time.Sleep(2 * time.Second) // a commit
	w.minute()
	before := maps.Clone(w.down)
	w.stop(t, kill)
	w.start(t, world)
	for range 120 {
		time.Sleep(time.Second)
		g := w.s.scrape()
		if g == nil || g.Health == nil {
			continue
		}
		after := map[int64]time.Time{}
		follow(nil, after, g.Health.Ill, time.Now())
		for id, since := range before {
			if !after[id].Equal(since) {
				t.Errorf("%s: runner %d was down since %v, after a restart (kill %t) since %v", w.name, id, since, kill, after[id])
			}
		}
		return
	}
	t.Errorf("%s: nobody is judged two minutes after a restart", w.name)
}

// withoutState ends a replica that began without a state: it has no habit and no
// hit rate, so that it finds a death later, at the limit of new runners, and
// calls nobody else down.
func (w *watch) withoutState(t *testing.T, other *watch, dead int64) {
	t.Helper()
	if len(w.episodes) != 1 || w.episodes[0].runner != dead {
		t.Errorf("a replica without a state: down %v, want runner %d", w.episodes, dead)
	} else {
		t.Logf("a replica without a state finds a death %v after one that has it", w.episodes[0].from.Sub(other.down[dead]))
	}
	w.stop(t, false)
}

// death is a time in which a runner of the world was dead.
type death struct {
	runner   int64
	from, to time.Time
}

// found is the one episode that began within a death, and whether there is one.
func (d death) found(all []episode) (episode, bool) {
	i := slices.IndexFunc(all, func(e episode) bool { return e.runner == d.runner && !e.from.Before(d.from) && e.from.Before(d.to) })
	if i < 0 {
		return episode{}, false
	}
	return all[i], true
}

// compare holds the monitor's episodes to the deaths of the world and to the
// episodes of pure. The monitor may be the earlier one: its estimate of how
// often a runner is seen with its peers is another, so that one missed moment
// fewer may do, and moments can be half an hour apart.
func (w *watch) compare(t *testing.T, deaths []death) {
	t.Helper()
	var late []time.Duration
	for _, d := range deaths {
		p, byPure := d.found(w.pure.episodes)
		m, byMonitor := d.found(w.episodes)
		if !byPure || !byMonitor {
			t.Errorf("%s: runner %d was dead from %v to %v: found by pure %t, by the monitor %t", w.name, d.runner, d.from, d.to, byPure, byMonitor)
			continue
		}
		late = append(late, m.from.Sub(p.from))
		if m.from.Sub(p.from) > 20*time.Minute {
			t.Errorf("%s: runner %d was down from %v, by the monitor from %v", w.name, d.runner, p.from, m.from)
		}
		if m.to.IsZero() != p.to.IsZero() || m.to.Sub(p.to).Abs() > 5*time.Minute {
			t.Errorf("%s: runner %d was down until %v, by the monitor until %v", w.name, d.runner, p.to, m.to)
		}
	}
	if len(w.episodes) != len(deaths) || len(w.pure.episodes) != len(deaths) {
		t.Errorf("%s: %d deaths, %d times down, by pure %d: %v", w.name, len(deaths), len(w.episodes), len(w.pure.episodes), w.episodes)
	}
	if len(late) == 0 {
		t.Errorf("%s: none of %d deaths found", w.name, len(deaths))
		return
	}
	slices.Sort(late)
	t.Logf("%s: %d times down, %d of %d deaths found %v to %v after pure", w.name, len(w.episodes), len(late), len(deaths), late[0], late[len(late)-1])
}

// TestHealthWeekReachesTheSameVerdicts is days with deaths, outages of GitLab, lost caches and
// restarts of the exporter, by kill -9 and not. One process that is restarted
// and two shards that are not reach the verdicts that internal/health reaches
// by itself from the same world: the one those of the fleet, each shard those
// of its share. -args -health.days=7: a week.
func TestHealthWeekReachesTheSameVerdicts(t *testing.T) {
	t.Parallel()
	parts := 4 * *healthDays
	if parts == 0 {
		parts = rig.Sized(8, 1)
	}
	synctest.Test(t, func(t *testing.T) { healthWeek(t, parts) })
}

func healthWeek(t *testing.T, parts int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(5, 5))
	world := gitlabsim.New(gitlabsim.Options{
		Seed: 11, Token: secret, TickPeers: true, JobsPerHour: 30,
		Shape: gitlabsim.JobShape{FailedShare: -1, CanceledShare: -1, LateShare: -1, MeanDuration: 3 * time.Minute, MaxDuration: 10 * time.Minute},
	})
	mount(t, world)
	var ids []int64
	for i := range 12 {
		ids = append(ids, world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{fmt.Sprintf("pool-%d", i%2)}}))
	}
	var watches []*watch
	names := []string{"restarted", "shard 1", "shard 0"}
	for i, name := range names[:rig.Sized(3, 2)] {
		w := &watch{
			name: name, dir: memoryDir(t), born: time.Now(), down: map[int64]time.Time{}, owns: func(int64) bool { return true },
			setup: setup{api: snapshot.APIGraphQL},
		}
		if i > 0 {
			w.setup.shard = [2]int{2 - i, 2}
			w.owns = func(id int64) bool { return shardOf(id, 2) == 2-i }
		}
		w.pure = newPure(w.owns)
		w.start(t, world)
		watches = append(watches, w)
	}
	reachable := true
	pass := func(d time.Duration) {
		for ; d > 0; d -= time.Minute {
			time.Sleep(time.Minute)
			truth := world.Fleet()
			for _, w := range watches {
				if w.pure != nil {
					w.pure.minute(world, truth, reachable)
				}
				w.minute()
			}
		}
	}
	var died []death
	restarts := 0
	pass(4 * time.Hour) // hit rates
	for part := range parts {
		dead := ids[rng.IntN(len(ids))]
		for part == 0 && !watches[1].owns(dead) {
			dead = ids[rng.IntN(len(ids))]
		}
		world.SetOnline(dead, false)
		died = append(died, death{runner: dead, from: time.Now()})
		if part == 0 {
			pass(40 * time.Minute)
			replica := &watch{name: "replica", dir: memoryDir(t), down: map[int64]time.Time{}, setup: setup{api: snapshot.APIGraphQL}}
			replica.start(t, world)
			watches = append(watches, replica)
			pass(95 * time.Minute)
			replica.withoutState(t, watches[0], dead)
			watches = watches[:len(watches)-1]
		} else {
			pass(135 * time.Minute) // found at the limit at the latest
		}
		watches[0].restart(t, world, part%2 == 0)
		restarts++
		pass(15 * time.Minute)
		world.SetOnline(dead, true)
		died[len(died)-1].to = time.Now()
		pass(70 * time.Minute)
		if part%4 == 1 || parts == 1 {
			remove := world.AddFault(gitlabsim.Fault{Status: 502})
			reachable = false
			pass(25 * time.Minute)
			remove()
			reachable = true
			pass(70 * time.Minute) // nobody new is down for so long
		}
		if part%4 == 2 || parts == 1 {
			world.FlushRedis()
			pass(30 * time.Minute)
			watches[0].restart(t, world, true)
			restarts++
		}
	}
	for _, w := range watches {
		w.minute()
		w.compare(t, slices.DeleteFunc(slices.Clone(died), func(d death) bool { return !w.owns(d.runner) }))
		w.stop(t, false)
	}
	t.Logf("%d deaths, %d restarts, %d jobs in %v", len(died), restarts, len(world.Truth().Finished), time.Since(watches[0].born))
}
