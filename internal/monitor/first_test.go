package monitor

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// wholeAt is when, and after which requests, each part of a picture was first
// published whole.
type wholeAt struct {
	at       [snapshot.NumParts]time.Duration
	requests [snapshot.NumParts]map[string]int
	picture  [snapshot.NumParts]*snapshot.GitLab
}

func isWhole(f *snapshot.Fleet, p snapshot.Part) bool {
	return f != nil && [snapshot.NumParts]bool{f.Detailed, f.MachinesWhole, f.JobsWhole}[p]
}

// watchParts records what was published whole so far.
func watchParts(s *scraper, world *gitlabsim.World) func() wholeAt {
	var w wholeAt
	began := time.Now()
	s.look = func(g *snapshot.GitLab) {
		for p := range w.at {
			if w.picture[p] == nil && isWhole(g.Fleet, snapshot.Part(p)) {
				w.at[p], w.picture[p], w.requests[p] = time.Since(began), g, maps.Clone(world.Requests())
			}
		}
	}
	return func() wholeAt {
		s.mu.Lock()
		defer s.mu.Unlock()
		return w
	}
}

// TestFirstPictureListsSeldom: while the details of a large fleet are read within
// a small budget, further listings take a twentieth of it; their interval is shown,
// so that nothing calls them late; then they come at the configured one.
func TestFirstPictureListsSeldom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const runners, rate = 4000, 10
		world := gitlabsim.New(gitlabsim.Options{
			Seed: 4, Runners: runners, Tags: 10, Token: secret, JobsPerHour: 100,
			Latency: func(string) time.Duration { return 20 * time.Millisecond },
		})
		s := newScraper()
		parts := watchParts(s, world)
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{rate: rate})
		defer r.end(t)
		interval := time.Duration(0)
		for parts().picture[snapshot.PartDetails] == nil {
			time.Sleep(time.Second)
			if g := s.scrape(); g != nil && g.Self.Stages[snapshot.StageRunners].Lag > 0 {
				t.Fatalf("after %v the listing is %v late", time.Since(r.began), g.Self.Stages[snapshot.StageRunners].Lag)
			} else if g != nil {
				interval = max(interval, g.Self.Stages[snapshot.StageRunners].Interval)
			}
			if time.Since(r.began) > 10*time.Minute {
				t.Fatal("no first picture after 10 minutes")
			}
		}
		// 40 pages are a twentieth of what 80 s allow.
		if interval < 75*time.Second || interval > 90*time.Second {
			t.Errorf("the interval shown is %v, want some 80s", interval)
		}
		const pages = runners / 100
		n := parts().requests[snapshot.PartDetails]
		if again := n["GET /runners/all"] - pages; again > runners/20+pages || again < 2*pages {
			t.Errorf("%d requests for further listings", again)
		}
		if took, most := parts().at[snapshot.PartDetails], time.Duration(runners+pages+2)*time.Second/rate*11/10+2*time.Second; took > most {
			t.Errorf("it took %v, want at most %v", took, most)
		}
		time.Sleep(2 * time.Minute)
		before := world.Requests()["GET /runners/all"]
		time.Sleep(10 * time.Minute)
		if listings := (world.Requests()["GET /runners/all"] - before) / pages; listings < 8 {
			t.Errorf("%d listings in ten minutes after the first picture", listings)
		}
	})
}

// The first picture takes a request for each page and each runner, whatever
// else there is to read; machines and jobs come behind it, and each part is
// published at once when it is whole.
func TestFirstPictureComesFirst(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		runners int
		rate    float64       // 0: no limit
		least   time.Duration // for its requests
	}{
		{300, 0, 760 * time.Millisecond},
		{300, 10, 760 * time.Millisecond}, // a small fleet's may spend its minute at once
		{300, 100, 760 * time.Millisecond},
		{1000, 50, 2530 * time.Millisecond},
		{1000, 10, time.Minute + (1000+10+10-600)*100*time.Millisecond},
	} {
		t.Run(fmt.Sprintf("%d at %g", c.runners, c.rate), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				world := gitlabsim.New(gitlabsim.Options{
					Seed: 4, Runners: c.runners, Tags: 10, Token: secret, JobsPerHour: float64(c.runners), History: time.Hour,
					Latency: func(string) time.Duration { return 20 * time.Millisecond },
				})
				s := newScraper()
				parts := watchParts(s, world)
				_, state := openState(t, "")
				r := start(t, world, state, s, setup{rate: c.rate})
				defer r.end(t)
				for parts().picture[snapshot.PartMachines] == nil || parts().picture[snapshot.PartJobs] == nil {
					time.Sleep(time.Second)
					if time.Since(r.began) > 20*time.Minute {
						break
					}
				}

				g, n := parts().picture[snapshot.PartDetails], parts().requests[snapshot.PartDetails]
				if g == nil {
					t.Fatal("no first picture")
				}
				pages := (c.runners + 99) / 100
				again := n["GET /runners/all"] - pages
				if most := pages + c.runners + 10; total(n)-again > most || n["GET /runners/:id"] != c.runners {
					t.Errorf("%d requests, want at most %d: %v", total(n)-again, most, n)
				}
				if took := parts().at[snapshot.PartDetails]; took > c.least*11/10+time.Second/2 {
					t.Errorf("it took %v, the least is %v", took, c.least)
				} else {
					t.Logf("the first picture after %v, %d requests and %d for further listings; machines after %v, jobs after %v",
						took, total(n)-again, again, parts().at[snapshot.PartMachines], parts().at[snapshot.PartJobs])
				}
				if g.RowsGeneration != g.Generation || len(g.Fleet.Rows) != c.runners || g.Fleet.MachinesWhole {
					t.Errorf("generation %d, rows of %d, machines whole %t", g.Generation, g.RowsGeneration, g.Fleet.MachinesWhole)
				}
				for _, row := range g.Fleet.Rows {
					if row.DetailsAt.IsZero() {
						t.Fatalf("runner %d has no details in the runner_ families", row.ID)
					}
				}
				for _, p := range []snapshot.Part{snapshot.PartMachines, snapshot.PartJobs} {
					g := parts().picture[p]
					if g == nil {
						t.Fatalf("the %s are not whole after 20 minutes", p)
					}
					if g.RowsGeneration != g.Generation {
						t.Errorf("with the %s the runner_ families are not built anew", p)
					}
				}
				if m := parts().requests[snapshot.PartMachines]["GET /runners/:id/managers"]; m < c.runners {
					t.Errorf("machines are whole after %d readings", m)
				}
				// Whole: the very first sums of jobs are the truth, or nearly so.
				f, executing := parts().picture[snapshot.PartJobs].Fleet, 0
				for _, kind := range f.JobsExecuting {
					executing += kind[0] + kind[1]
				}
				if truth := len(world.Truth().Executing); executing < truth/2 {
					t.Errorf("%d jobs execute at first, later %d", executing, truth)
				}
			})
		})
	}
}

// On releases whose list does not show who executes, the sums of jobs wait for
// all that may; where it shows it, for those alone.
func TestJobsAreWholeOrAbsent(t *testing.T) {
	for version, flagged := range map[string]bool{"17.11.0": false, "19.1.0-ee": true} {
		t.Run(version, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := gitlabsim.New(gitlabsim.Options{
					Seed: 4, Version: version, Runners: 400, Tags: 10, Token: secret, JobsPerHour: 600, History: 2 * time.Hour,
					Latency: func(string) time.Duration { return 20 * time.Millisecond },
				})
				s := newScraper()
				parts := watchParts(s, world)
				_, state := openState(t, "")
				r := start(t, world, state, s, setup{rate: 20})
				time.Sleep(10 * time.Minute)
				if parts().picture[snapshot.PartJobs] == nil {
					t.Fatal("the jobs are never whole")
				}
				executing := map[int64]bool{}
				for _, row := range parts().picture[snapshot.PartJobs].Fleet.Rows {
					if row.JobsExecuting < 0 && row.Status != snapshot.Stale && !flagged {
						t.Errorf("runner %d was not read", row.ID)
					}
					if row.JobsExecuting > 0 {
						executing[row.ID] = true
					}
				}
				n := parts().requests[snapshot.PartJobs]["GET /runners/:id/jobs"]
				t.Logf("%d runners execute; whole after %d requests for jobs, %v", len(executing), n, parts().at[snapshot.PartJobs])
				if len(executing) < 10 {
					t.Error("too few runners execute to prove anything")
				}
				if flagged && n > 300 {
					t.Errorf("they waited for %d requests", n)
				}
				r.end(t)
			})
		})
	}
}

// Jobs that cannot be read hold the sums back for three tries, and a restart
// holds nothing back: that they were shown stands in the saved state.
func TestUnreadableJobsHoldBackForAWhile(t *testing.T) {
	for name, c := range map[string]struct {
		fault       gitlabsim.Fault
		least, most time.Duration
	}{
		"an outage is asked for three times": {gitlabsim.Fault{Status: 502}, 20 * time.Second, 5 * time.Minute},
		"GitLab's own refusal once": {gitlabsim.Fault{
			Status: 403, Body: `{"message":"403 Forbidden"}`, ContentType: "application/json",
		}, 0, time.Minute},
	} {
		t.Run(name, func(t *testing.T) { unreadableJobs(t, c.fault, c.least, c.most) })
	}
}

func unreadableJobs(t *testing.T, fault gitlabsim.Fault, least, most time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Version: "17.11.0", Runners: 30, Healthy: true, Tags: 8, Token: secret})
		broken := world.Truth().Runners[3].ID
		fault.Match = matchPath(fmt.Sprintf("/runners/%d/jobs", broken))
		world.AddFault(fault)
		dir := memoryDir(t)
		folder, state := openState(t, dir)
		s := newScraper()
		parts := watchParts(s, world)
		r := start(t, world, state, s, setup{})
		time.Sleep(10 * time.Minute)
		if took := parts().at[snapshot.PartJobs]; took < least || took > most {
			t.Errorf("the sums of jobs are shown after %v", took)
		}
		if f := s.scrape().Fleet; !f.Detailed || !f.MachinesWhole || !f.JobsWhole {
			t.Errorf("not whole: %+v", f)
		}
		r.end(t)
		if err := folder.Close(); err != nil {
			t.Fatal(err)
		}
		folder, state = openState(t, dir)
		s = newScraper()
		r = start(t, world, state, s, setup{})
		synctest.Wait()
		if f := s.scrape().Fleet; f == nil || !f.Detailed || !f.MachinesWhole || !f.JobsWhole {
			t.Errorf("a restart withdraws sums: %+v", f)
		}
		r.end(t)
		if err := folder.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// Details that fail or hang hold back jobs for some seconds, not for ever.
func TestBrokenDetailsHoldBackNoJobs(t *testing.T) {
	for name, fault := range map[string]gitlabsim.Fault{
		"they fail": {Status: 500},
		"they hang": {Latency: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := gitlabsim.New(gitlabsim.Options{Seed: 3, Runners: 60, Tags: 8, JobsPerHour: 600, History: time.Hour, Token: secret})
				fault.Match = matchPath(fmt.Sprintf("/runners/%d", world.Truth().Runners[3].ID))
				world.AddFault(fault)
				s := newScraper()
				parts := watchParts(s, world)
				_, state := openState(t, "")
				r := start(t, world, state, s, setup{})
				time.Sleep(5 * time.Second)
				if n := requests(world, "/runners/:id/jobs"); n > 0 {
					t.Errorf("%d readings of jobs while details are under way", n)
				}
				time.Sleep(25 * time.Second)
				if n := requests(world, "/runners/:id/jobs"); n < 50 {
					t.Errorf("%d readings of jobs after half a minute", n)
				}
				if s.scrape().Fleet.Detailed {
					t.Error("the picture is whole before the third failure")
				}
				time.Sleep(10 * time.Minute)
				if parts().picture[snapshot.PartDetails] == nil || parts().picture[snapshot.PartMachines] == nil {
					t.Error("the picture never becomes whole")
				}
				r.end(t)
			})
		})
	}
}

// What is behind its deadline for walks after a long stop is read even before
// a first picture that the stop interrupted.
func TestAnInterruptedFirstPictureLosesNoJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Runners: 600, Tags: 8, JobsPerHour: 200, Token: secret})
		dir := memoryDir(t)
		folder, state := openState(t, dir)
		s := newScraper()
		r := start(t, world, state, s, setup{rate: 1})
		time.Sleep(6 * time.Minute)
		if s.scrape().Fleet.Detailed {
			t.Fatal("the picture is whole already")
		}
		r.kill(t)
		if err := folder.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(8 * time.Hour) // more than a quarter of lookback
		folder, state = openState(t, dir)
		s = newScraper()
		parts := watchParts(s, world)
		r = start(t, world, state, s, setup{rate: 1})
		time.Sleep(time.Minute)
		if n := requests(world, "/runners/:id/jobs"); n < 20 {
			t.Errorf("%d readings of jobs in the minute after the stop", n)
		}
		for parts().picture[snapshot.PartDetails] == nil {
			time.Sleep(time.Minute)
			if time.Since(r.began) > 3*time.Hour {
				t.Fatal("no complete picture")
			}
		}
		world.Quiesce()
		for began := time.Now(); ; {
			time.Sleep(10 * time.Minute)
			d := diff(finished(s.scrape()), finishedTruth(world.Truth().Finished))
			if len(d) == 0 && len(world.Truth().Executing) == 0 {
				break
			}
			if time.Since(began) > 24*time.Hour {
				t.Fatalf("jobs are lost or counted twice: %v", d)
			}
		}
		r.end(t)
		if err := folder.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// A release without the endpoint of machines costs a few requests and holds no
// version back; runners that were just deleted are no such release.
func TestMissingMachinesEndpointHoldsNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Version: "15.0.0", Runners: 300, Tags: 8, Token: secret})
		s := newScraper()
		parts := watchParts(s, world)
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{})
		defer r.end(t)
		time.Sleep(10 * time.Minute)
		g := parts().picture[snapshot.PartMachines]
		if g == nil || g.Fleet.ManagersRead || len(g.Fleet.Versions) < 2 {
			t.Fatalf("versions %+v", g)
		}
		if n := requests(world, "/runners/:id/managers"); n > 40 {
			t.Errorf("%d requests for machines", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Runners: 60, Tags: 8, Token: secret, Latency: func(route string) time.Duration {
			if strings.HasSuffix(route, "/managers") {
				return 20 * time.Second
			}
			return 0
		}})
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{concurrency: 1})
		defer r.end(t)
		time.Sleep(5 * time.Second)
		if !s.scrape().Fleet.Detailed {
			t.Fatal("no first picture")
		}
		for _, run := range world.Truth().Runners[:20] {
			world.DeleteRunner(run.ID)
		}
		time.Sleep(2 * time.Hour)
		if f := s.scrape().Fleet; !f.MachinesWhole || !f.ManagersRead || len(f.Rows) != 40 {
			t.Errorf("machines whole %t, read %t, of %d runners", f.MachinesWhole, f.ManagersRead, len(f.Rows))
		}
		for _, row := range s.scrape().Fleet.Rows {
			if row.ManagersKnown < 0 {
				t.Errorf("the machines of runner %d are not known", row.ID)
			}
		}
	})
}

// A runner that joins later has its details at once, and withdraws nothing.
func TestANewcomerIsReadAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Runners: 300, Tags: 8, JobsPerHour: 3000, History: time.Hour, Token: secret})
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{rate: 10})
		defer r.end(t)
		time.Sleep(10 * time.Minute)
		world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"newcomer"}})
		joined := time.Now()
		var withdrawn atomic.Bool
		s.mu.Lock()
		s.look = func(g *snapshot.GitLab) {
			for p := range snapshot.Part(snapshot.NumParts) {
				if !isWhole(g.Fleet, p) {
					withdrawn.Store(true)
				}
			}
		}
		s.mu.Unlock()
		for tagOf(s.scrape().Fleet, "newcomer") == nil {
			time.Sleep(time.Second)
			if time.Since(joined) > 90*time.Second {
				t.Fatal("its tag is not shown after a listing and some seconds")
			}
		}
		time.Sleep(5 * time.Minute)
		if withdrawn.Load() {
			t.Error("sums were withdrawn for it")
		}
		rows := s.scrape().Fleet.Rows
		if row := rows[len(rows)-1]; row.ManagersKnown != 1 {
			t.Errorf("its machines: %+v", row)
		}
	})
}

func tagOf(f *snapshot.Fleet, name string) *snapshot.Tag {
	for i := range f.Tags {
		if f.Tags[i].Name == name {
			return &f.Tags[i]
		}
	}
	return nil
}

// A long first reading is reported each minute: how many of how many, and
// about how long still.
func TestProgressOfALongFirstReadingIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Runners: 900, Tags: 8, Token: secret, JobsPerHour: 150, History: time.Hour})
		var out lines
		s := newScraper()
		parts := watchParts(s, world)
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{rate: 2, logger: out.logger()})
		for parts().picture[snapshot.PartDetails] == nil {
			time.Sleep(30 * time.Second)
			if time.Since(r.began) > time.Hour {
				t.Fatal("no first picture")
			}
			for _, p := range s.scrape().Self.First {
				if p.Part == snapshot.PartDetails && (p.Of != 900 || p.Read != requests(world, "/runners/:id") && p.Read < 100) {
					t.Errorf("after %v: %+v", time.Since(r.began), p)
				}
			}
		}
		took := parts().at[snapshot.PartDetails]
		logged := out.with("first reading is under way", "reading=details")
		if minutes := int(took / time.Minute); len(logged) < minutes-1 || len(logged) > minutes+1 {
			t.Errorf("logged %d times in %v", len(logged), took)
		}
		line := regexp.MustCompile(`read=(\d+) of=900 left=(\S+)`)
		last := -1
		for i, l := range logged {
			m := line.FindStringSubmatch(l)
			if m == nil {
				t.Fatalf("line %q", l)
			}
			read, _ := strconv.Atoi(m[1])
			left, err := time.ParseDuration(m[2])
			if want := took - time.Duration(i+1)*time.Minute; err != nil || read <= last || (left-want).Abs() > want/4+time.Minute {
				t.Errorf("after %d minutes %d are read and %v are left, truly %v (%v)", i+1, read, left, want, err)
			}
			last = read
		}
		if len(out.with("the first picture is whole", "runners=900", "unreadable=0")) != 1 {
			t.Error("its end is not logged")
		}
		for parts().picture[snapshot.PartMachines] == nil || parts().picture[snapshot.PartJobs] == nil {
			time.Sleep(time.Minute)
			if time.Since(r.began) > 3*time.Hour {
				t.Fatal("machines and jobs are never whole")
			}
		}
		if n := len(out.with("first reading is under way", "reading=machines")); n < 3 {
			t.Errorf("the reading of machines is logged %d times", n)
		}
		time.Sleep(10 * time.Second)
		before := len(out.with("under way"))
		time.Sleep(5 * time.Minute)
		if p := s.scrape().Self.First; len(p) > 0 || len(out.with("under way")) > before {
			t.Errorf("it is over, but still reported: %+v", p)
		}
		r.end(t)
	})
}

// GitLab down: how long it takes is not known.
func TestProgressInAnOutageIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Runners: 900, Tags: 8, Token: secret})
		var out lines
		s := newScraper()
		_, state := openState(t, "")
		world.AddFault(gitlabsim.Fault{Match: func(r *http.Request) bool {
			return strings.Count(r.URL.Path, "/") > 3 && !strings.HasSuffix(r.URL.Path, "/all")
		}, Status: 502})
		r := start(t, world, state, s, setup{rate: 10, logger: out.logger()})
		time.Sleep(2*time.Minute + 10*time.Second)
		if logged := out.with("under way", `left="not known"`, "read=0"); len(logged) != 2 {
			t.Errorf("logged %d times", len(logged))
		}
		r.end(t)
	})
}
