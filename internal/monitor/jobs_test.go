package monitor

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

func matchPath(suffix string) func(*http.Request) bool {
	return func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, suffix) }
}

// A runner deleted while its job runs: the job is asked for by itself, and counted.
func TestJobOfADeletedRunnerIsCounted(t *testing.T) {
	for _, restart := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) { runnerDeleted(t, restart) })
	}
}

func runnerDeleted(t *testing.T, restart bool) {
	t.Helper()
	world := gitlabsim.New(gitlabsim.Options{Seed: 3, Token: secret})
	id := world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"gpu"}})
	world.AddRunner(gitlabsim.RunnerSpec{})
	dir := memoryDir(t)
	folder, state := openState(t, dir)
	s := newScraper()
	r := start(t, world, state, s, setup{})
	time.Sleep(time.Minute)
	job := world.CreateJob(gitlabsim.JobSpec{Runner: id})
	time.Sleep(3 * time.Minute)
	if g := s.scrape(); g.Fleet.JobsExecuting[snapshot.InstanceType][0] != 1 || g.Fleet.Busy[snapshot.InstanceType] != 1 {
		t.Fatalf("the job is not seen executing: %v", g.Fleet.JobsExecuting)
	}
	world.DeleteRunner(id)
	time.Sleep(5 * time.Minute)
	g := s.scrape()
	if slices.Contains(ids(g.Fleet), id) || g.Fleet.JobsExecuting[snapshot.InstanceType][0] != 0 {
		t.Errorf("runners %v, executing %v", ids(g.Fleet), g.Fleet.JobsExecuting)
	}
	if restart {
		r.kill(t)
		if err := folder.Close(); err != nil {
			t.Fatal(err)
		}
		folder, state = openState(t, dir)
		r = start(t, world, state, s, setup{})
	}
	time.Sleep(5 * time.Minute)
	world.FinishJob(job, "failed", "runner_system_failure")
	for range 12 {
		time.Sleep(15 * time.Second)
		s.scrape()
	}
	check(t, "jobs finished", finished(s.scrape()), finishedTruth(world.Truth().Finished))
	if n := tagJobs(s.scrape(), "gpu", "failed", "infrastructure"); n != 1 {
		t.Errorf("%v failed jobs under its tag", n)
	}
	r.end(t)
	if err := folder.Close(); err != nil {
		t.Fatal(err)
	}
}

func tagJobs(g *snapshot.GitLab, labels ...string) float64 {
	for _, c := range g.Counters.TagJobsFinished {
		if slices.Equal(c.Labels, labels) {
			return c.Value
		}
	}
	return -1
}

// A job deleted while it runs is asked for three times, with listings between,
// and then counted as unresolved; it is not counted and no longer executing.
func TestDeletedJobIsCountedAsUnresolved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Token: secret})
		id := world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"gpu"}})
		_, state := openState(t, "")
		s := newScraper()
		r := start(t, world, state, s, setup{})
		time.Sleep(time.Minute)
		job := world.CreateJob(gitlabsim.JobSpec{Runner: id})
		time.Sleep(2 * time.Minute)
		world.DeleteJob(job)
		time.Sleep(10 * time.Minute)
		g := s.scrape()
		if g.Self.JobsUnresolved[snapshot.UnresolvedDeleted] != 1 {
			t.Errorf("unresolved %v", g.Self.JobsUnresolved)
		}
		// Two of the answers may lie between the same two listings.
		if n := requests(world, "/projects/:id/jobs/:job_id"); n < 3 || n > 5 {
			t.Errorf("asked for %d times, want 3", n)
		}
		if g.Fleet.JobsExecuting != ([snapshot.NumRunnerTypes][2]int{}) || sumOf(finished(g)) != 0 {
			t.Errorf("executing %v, finished %v", g.Fleet.JobsExecuting, finished(g))
		}
		if g.Fleet.Rows[0].JobsExecuting != 0 {
			t.Errorf("runner executes %d", g.Fleet.Rows[0].JobsExecuting)
		}
		r.end(t)
	})
}

// increase() must see the first event of a new series: it is shown at 0 first.
func TestNewSeriesAreShownAtZeroFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Runners: 5, Tags: 3, Token: secret})
		_, state := openState(t, "")
		s := newScraper()
		r := start(t, world, state, s, setup{})
		for range 8 {
			time.Sleep(15 * time.Second)
			s.scrape()
		}
		id := world.AddRunner(gitlabsim.RunnerSpec{Type: "project_type", Tags: []string{"brand-new"}})
		world.CreateJob(gitlabsim.JobSpec{Runner: id, Finished: time.Now().Add(5 * time.Second), Status: "failed"})
		var tag, runner, kind []float64
		note := func(to *[]float64, v float64) {
			if n := len(*to); v >= 0 && (n == 0 || (*to)[n-1] != v) {
				*to = append(*to, v)
			}
		}
		for range 40 {
			time.Sleep(15 * time.Second)
			g := s.scrape()
			note(&tag, tagJobs(g, "brand-new", "failed", "script"))
			for _, c := range g.Counters.Runners {
				if c.ID == id {
					note(&runner, c.Value)
				}
			}
			for _, c := range g.Counters.JobsFinished {
				if slices.Equal(c.Labels, []string{"project_type", "failed", "script", "script_failure"}) {
					note(&kind, c.Value)
				}
			}
		}
		for what, got := range map[string][]float64{"tag": tag, "runner": runner, "type": kind} {
			if !slices.Equal(got, []float64{0, 1}) {
				t.Errorf("the series by %s showed %v, want 0, then 1", what, got)
			}
		}
		r.end(t)
	})
}

// Three shards over one GitLab sum up to the whole, and nothing stands twice.
func TestShardsSumToTheWhole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 3
		world := gitlabsim.New(gitlabsim.Options{Seed: 12, Runners: 36, Tags: 10, JobsPerHour: 400, Token: secret, Shape: briskJobs()})
		var ss [n]*scraper
		var rs [n]*running
		for i := range n {
			ss[i] = newScraper()
			_, state := openState(t, "")
			rs[i] = start(t, world, state, ss[i], setup{shard: [2]int{i, n}})
		}
		for range 120 {
			time.Sleep(15 * time.Second)
			for _, s := range ss {
				s.scrape()
			}
		}
		world.Quiesce()
		time.Sleep(settled)
		runners, tags, jobs := map[string]int{}, map[string]int{}, map[string]int{}
		seen := map[int64]int{}
		for i, s := range ss {
			g := s.scrape()
			if !g.Up || len(g.Fleet.Rows) < 5 {
				t.Errorf("shard %d: up %t, %d runners", i, g.Up, len(g.Fleet.Rows))
			}
			add(runners, fleetCounts(g.Fleet))
			add(tags, tagCounts(g.Fleet))
			add(jobs, finished(g))
			for _, id := range ids(g.Fleet) {
				seen[id]++
			}
			rs[i].end(t)
		}
		check(t, "runners", runners, truthCounts(world.Truth()))
		check(t, "tags", tags, truthTags(world.Truth()))
		check(t, "jobs finished", jobs, finishedTruth(world.Truth().Finished))
		for id, k := range seen {
			if k != 1 {
				t.Errorf("runner %d stands in %d shards", id, k)
			}
		}
		for id := range times(world, detailsPath) {
			if seen[id] == 0 {
				t.Errorf("runner %d was read by no shard", id)
			}
		}
	})
}

func add(to, from map[string]int) {
	for k, v := range from {
		to[k] += v
	}
}

// Another number of shards after a restart: no job is counted twice or lost
// but around the change.
func TestOtherNumberOfShardsCountsNoJobTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 12, Runners: 15, Tags: 10, JobsPerHour: 900, Token: secret, Shape: briskJobs()})
		var dirs [3]string
		poll := defaultPoll()
		poll.Jobs = 4 * time.Minute
		jobs := func(count int, life time.Duration) map[string]int {
			out := map[string]int{}
			var rs []*running
			var ss []*scraper
			var closers []func() error
			for i := range count {
				if dirs[i] == "" {
					dirs[i] = memoryDir(t)
				}
				folder, state := openState(t, dirs[i])
				s := newScraper()
				ss, closers = append(ss, s), append(closers, folder.Close)
				rs = append(rs, start(t, world, state, s, setup{poll: poll, shard: [2]int{i, count}}))
			}
			const scrapes = 40
			for range scrapes {
				time.Sleep(life / scrapes)
				for _, s := range ss {
					s.scrape()
				}
			}
			for i, r := range rs {
				add(out, finished(ss[i].scrape()))
				r.end(t)
				if err := closers[i](); err != nil {
					t.Fatal(err)
				}
			}
			return out
		}
		jobs(2, 20*time.Minute)
		change := time.Now()
		jobs(3, 20*time.Minute)
		world.Quiesce()
		got := sumOf(jobs(3, settled))
		least, most := 0, 0
		for _, j := range world.Truth().Finished {
			most++
			switch {
			case j.Picked.After(change.Add(2*time.Minute)) || j.Finished.Before(change.Add(-6*time.Minute)):
				least++
			case j.Finished.After(change.Add(-time.Minute)) && j.Finished.Before(change):
				// A runner that is another's now counts from that one's last
				// listing on, which the former may have counted too.
				most++
			default: // those that were executing at the change may be nobody's
			}
		}
		if got > most || got < least || most-least > most/3 {
			t.Errorf("%d jobs counted, want %d to %d", got, least, most)
		}
	})
}

// Each GitLab fails alone.
func TestEachGitLabFailsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := gitlabsim.New(gitlabsim.Options{Seed: 1, Runners: 20, Tags: 4, JobsPerHour: 300, Token: secret, Shape: briskJobs()})
		down := gitlabsim.New(gitlabsim.Options{Seed: 2, Runners: 20, Tags: 4, JobsPerHour: 300, Token: secret})
		down.AddFault(gitlabsim.Fault{Latency: 25 * time.Second, Status: 502})
		su, sd := newScraper(), newScraper()
		_, mu := openState(t, "")
		_, md := openState(t, "")
		ru, rd := start(t, up, mu, su, setup{}), start(t, down, md, sd, setup{})
		time.Sleep(20 * time.Minute)
		if g := su.scrape(); !g.Up || g.Fleet == nil {
			t.Error("the one that is up is not")
		}
		if g := sd.scrape(); g.Up || g.Fleet != nil {
			t.Error("the one that is down is up")
		}
		up.Quiesce()
		time.Sleep(settled)
		check(t, "jobs finished", finished(su.scrape()), finishedTruth(up.Truth().Finished))
		for k := range su.counts {
			if strings.HasPrefix(k, "failure") {
				t.Errorf("%s counted for the one that is up", k)
			}
		}
		ru.end(t)
		rd.end(t)
	})
}

// A lookback that a restart raises brings no old job back, a lowered one
// counts none twice.
func TestChangedLookbackCountsNoJobTwice(t *testing.T) {
	t.Parallel()
	for _, lookbacks := range [][2]time.Duration{{2 * time.Hour, 24 * time.Hour}, {24 * time.Hour, 2 * time.Hour}} {
		t.Run(fmt.Sprint(lookbacks), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := gitlabsim.New(gitlabsim.Options{Seed: 5, Runners: 3, Tags: 4, JobsPerHour: 60, Token: secret, Shape: briskJobs(), History: 3 * time.Hour})
				begin := time.Now().Truncate(time.Second)
				dir := memoryDir(t)
				s := newScraper()
				for i, lookback := range []time.Duration{lookbacks[0], lookbacks[1]} {
					folder, state := openState(t, dir)
					poll := defaultPoll()
					poll.Lookback, poll.Reconcile, poll.Jobs = lookback, 30*time.Minute, 10*time.Minute
					r := start(t, world, state, s, setup{poll: poll})
					for range 60 * 3 {
						time.Sleep(time.Minute)
						s.scrape()
					}
					if i == 1 {
						world.Quiesce()
						time.Sleep(settled)
						s.scrape()
					}
					r.end(t)
					if err := folder.Close(); err != nil {
						t.Fatal(err)
					}
				}
				var want []gitlabsim.JobTruth
				for _, j := range world.Truth().Finished {
					if !j.Finished.Before(begin) {
						want = append(want, j)
					}
				}
				check(t, "jobs finished", finished(s.scrape()), finishedTruth(want))
				if len(s.back) > 0 {
					t.Errorf("a series went back: %s", s.back[0])
				}
			})
		})
	}
}
