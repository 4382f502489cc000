package monitor

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

var (
	detailsPath = regexp.MustCompile(`/runners/(\d+)(?:\?.*)?$`)
	jobsPath    = regexp.MustCompile(`/runners/(\d+)/jobs\?.*order_by=id`)
)

// times are when each runner was asked for, by its id.
func times(w *gitlabsim.World, path *regexp.Regexp) map[int64][]time.Time {
	out := map[int64][]time.Time{}
	for _, e := range w.Log() {
		if m := path.FindStringSubmatch(e.Path); m != nil {
			id, _ := strconv.ParseInt(m[1], 10, 64)
			// The pages of one reading come at once.
			if at := out[id]; len(at) == 0 || e.At.Sub(at[len(at)-1]) > time.Second {
				out[id] = append(at, e.At)
			}
		}
	}
	return out
}

// gaps are the least and the greatest time between two readings after from.
func gaps(at []time.Time, from time.Time) (least, most time.Duration, n int) {
	least = 1 << 62
	for i := 1; i < len(at); i++ {
		if at[i-1].Before(from) {
			continue
		}
		d := at[i].Sub(at[i-1])
		least, most, n = min(least, d), max(most, d), n+1
	}
	return least, most, n
}

// Intervals are kept: details of each runner, sooner of those that execute;
// jobs of busy runners, more seldom of idle ones.
func TestIntervalsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 2, Runners: 40, Tags: 5, Token: secret, Healthy: true})
		busy := map[int64]bool{}
		for i, r := range world.Truth().Runners {
			busy[r.ID] = i%4 == 0
		}
		s := newScraper()
		_, state := openState(t, "")
		poll := defaultPoll()
		poll.Reconcile = 4 * time.Hour // walks ask for jobs too
		poll.Lookback = 24 * time.Hour
		r := start(t, world, state, s, setup{poll: poll})
		// Details were read at about 0, 15, 30 minutes: the next are far away.
		time.Sleep(34*time.Minute + 17*time.Second)
		before := world.Requests()
		for id, b := range busy {
			if b && world.CreateJob(gitlabsim.JobSpec{Runner: id}) == 0 {
				t.Fatal("no job")
			}
		}
		began := time.Now()
		time.Sleep(2 * time.Hour)
		after := world.Requests()
		details, jobs := times(world, detailsPath), times(world, jobsPath)
		if len(details) != 40 || len(jobs) != 40 {
			t.Fatalf("details of %d and jobs of %d runners were read", len(details), len(jobs))
		}
		const second = time.Second
		for id, at := range details {
			least, most, n := gaps(at, began.Add(6*time.Minute))
			// Health reads those of a silent runner sooner.
			from, to := time.Minute, 15*time.Minute*11/10
			if busy[id] {
				from, to = 5*time.Minute*9/10, 5*time.Minute*11/10
				// From the listing that shows it busy on.
				first, _ := slices.BinarySearchFunc(at, began, time.Time.Compare)
				if wait := at[first].Sub(began); wait > 7*time.Minute {
					t.Errorf("details of a runner that began to execute were read after %v", wait)
				}
			}
			if n < 5 || least < from-second || most > to+second {
				t.Errorf("runner %d (busy %t): details every %v to %v, want %v to %v", id, busy[id], least, most, from, to)
			}
		}
		for id, at := range jobs {
			least, most, n := gaps(at, began.Add(6*time.Minute))
			from, to := 5*time.Minute*9/10, 5*time.Minute*11/10
			if busy[id] {
				from, to = time.Minute*9/10, time.Minute*11/10
			} else {
				to *= 2 // details between two readings that show no contact put the second off
			}
			if n < 10 || least < from-second || most > to+second {
				t.Errorf("runner %d (busy %t): jobs every %v to %v, want %v to %v", id, busy[id], least, most, from, to)
			}
		}
		if g := s.scrape(); g.Self.Stages[snapshot.StageDetails].Lag > 2*second || g.Self.Stages[snapshot.StageJobs].Lag > 2*second {
			t.Errorf("lags %v %v", g.Self.Stages[snapshot.StageDetails].Lag, g.Self.Stages[snapshot.StageJobs].Lag)
		}
		perHour := map[string]int{}
		for route, n := range after {
			if d := (n - before[route]) / 2; d > 0 {
				perHour[route] = d
			}
		}
		t.Logf("40 runners, ten of them busy, in steady state: requests an hour %v", perHour)
		if n := perHour["GET /runners/:id"]; n > (30*4+10*12)*112/100 {
			t.Errorf("%d readings of details an hour", n)
		}
		if n := perHour["GET /runners/:id/jobs"]; n > 30*14+10*60*5/2 {
			t.Errorf("%d readings of jobs an hour", n)
		}
		r.end(t)
	})
}

// A restart serves from the saved state at once, and does not read again what
// was read just before.
func TestRestartIsCheap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Runners: 3000, Tags: 40, Token: secret})
		dir := memoryDir(t)
		folder, state := openState(t, dir)
		s := newScraper()
		r := start(t, world, state, s, setup{})
		time.Sleep(2 * time.Minute)
		before := s.scrape()
		if !before.Fleet.Detailed {
			t.Fatal("details are not read")
		}
		r.end(t)
		if err := folder.Close(); err != nil {
			t.Fatal(err)
		}
		first := world.Requests()
		folder, state = openState(t, dir)
		s = newScraper()
		r = start(t, world, state, s, setup{})
		synctest.Wait()
		g := s.scrape()
		if g == nil || g.Fleet == nil || !g.Fleet.Detailed || g.Up {
			t.Fatalf("not served from the saved state: %+v", g)
		}
		check(t, "runners", fleetCounts(g.Fleet), fleetCounts(before.Fleet))
		check(t, "tags", tagCounts(g.Fleet), tagCounts(before.Fleet))
		if !r.m.Ready() {
			t.Error("not ready")
		}
		time.Sleep(time.Minute)
		now := world.Requests()
		details := now["GET /runners/:id"] - first["GET /runners/:id"]
		t.Logf("in the minute after a restart: %d details of 3000 runners, all requests %d", details, total(now)-total(first))
		// What falls due in a minute of fifteen, and no more; all were read in
		// the same two minutes, so none does.
		if details > 300 {
			t.Errorf("%d details were read again", details)
		}
		if !s.scrape().Up {
			t.Error("not up")
		}
		r.end(t)
		if err := folder.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func ids(f *snapshot.Fleet) (out []int64) {
	if f != nil {
		for _, r := range f.Rows {
			out = append(out, r.ID)
		}
	}
	return out
}

// Scopes are merged by id; a runner that moves between two of them never
// leaves, one that moves out does.
func TestScopesAreMergedByID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Token: secret})
		a, b, c := world.AddGroup("a", 0), world.AddGroup("b", 0), world.AddGroup("c", 0)
		p, q := world.AddProject("p", a), world.AddProject("q", b)
		ra := world.AddRunner(gitlabsim.RunnerSpec{Group: a, Tags: []string{"x"}})
		rb := world.AddRunner(gitlabsim.RunnerSpec{Group: b, Tags: []string{"x"}})
		rc := world.AddRunner(gitlabsim.RunnerSpec{Group: c, Tags: []string{"x"}})
		rp := world.AddRunner(gitlabsim.RunnerSpec{Projects: []int64{p, q}, Tags: []string{"y"}})
		groups := []gitlab.Scope{{Kind: snapshot.ScopeGroups, ID: "a"}, {Kind: snapshot.ScopeGroups, ID: strconv.FormatInt(b, 10)}}
		projects := []gitlab.Scope{{Kind: snapshot.ScopeProjects, ID: "a/p"}, {Kind: snapshot.ScopeProjects, ID: strconv.FormatInt(q, 10)}}
		sg, sp, so := newScraper(), newScraper(), newScraper()
		_, mg := openState(t, "")
		_, mp := openState(t, "")
		_, mo := openState(t, "")
		g := start(t, world, mg, sg, setup{scopes: groups})
		pr := start(t, world, mp, sp, setup{scopes: projects})
		owned := start(t, world, mo, so, setup{scopes: []gitlab.Scope{{Kind: snapshot.ScopeOwned}}})
		time.Sleep(90 * time.Second)
		has := func(s *scraper, id int64) int {
			n := 0
			for _, i := range ids(s.scrape().Fleet) {
				if i == id {
					n++
				}
			}
			return n
		}
		if has(sg, ra) != 1 || has(sg, rb) != 1 || has(sg, rc) != 0 {
			t.Errorf("groups a and b list %v", ids(sg.scrape().Fleet))
		}
		if has(sp, rp) != 1 || has(sp, rc) != 0 {
			t.Errorf("projects p and q list %v", ids(sp.scrape().Fleet))
		}
		for _, id := range []int64{ra, rb, rc, rp} {
			if has(so, id) != 1 {
				t.Errorf("an administrator's own runners are %v", ids(so.scrape().Fleet))
			}
		}
		if v := so.scrape().Self.JobsVisible; v != 1 {
			t.Errorf("an administrator's token: jobs_visible %d", v)
		}
		world.MoveRunner(ra, b, nil)
		world.MoveRunner(rb, c, nil)
		for range 40 {
			time.Sleep(5 * time.Second)
			if has(sg, ra) != 1 {
				t.Fatal("a runner that moved between two groups left")
			}
		}
		if has(sg, rb) != 0 {
			t.Error("a runner that moved out did not leave within two polls")
		}
		g.end(t)
		pr.end(t)
		owned.end(t)
	})
}

// A token that may not see all is reported, and does what it can.
func TestPlainUsersTokenIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Runners: 60, Tags: 8, JobsPerHour: 600, Token: "glpat-root"})
		world.AddToken(gitlabsim.TokenSpec{Token: secret, Scopes: []string{"read_api"}, Groups: []int64{1, 2}})
		var out lines
		sa, so := newScraper(), newScraper()
		_, ma := openState(t, "")
		_, mo := openState(t, "")
		all := start(t, world, ma, sa, setup{logger: out.logger()})
		owned := start(t, world, mo, so, setup{scopes: []gitlab.Scope{{Kind: snapshot.ScopeOwned}}})
		time.Sleep(20 * time.Minute)
		if g := sa.scrape(); g.Up || g.Fleet != nil {
			t.Error("a plain user's token listed all runners")
		}
		logged := out.with("reason=forbidden")
		if len(logged) != 1 || !strings.Contains(logged[0], "administrator") || !strings.Contains(logged[0], "remedy=") {
			t.Errorf("logged %d times:\n%s", len(logged), strings.Join(logged, ""))
		}
		g := so.scrape()
		if !g.Up || len(ids(g.Fleet)) == 0 || len(ids(g.Fleet)) >= 60 {
			t.Fatalf("its own runners: up %t, %d of them", g.Up, len(ids(g.Fleet)))
		}
		if !g.Fleet.Detailed {
			t.Error("its tags are not read")
		}
		if g.Self.JobsVisible != 0 {
			t.Errorf("jobs_visible %d, want 0", g.Self.JobsVisible)
		}
		// Runners are seen to lose nothing by what is forbidden.
		truth := map[int64]bool{}
		for _, r := range world.Truth().Runners {
			truth[r.ID] = true
		}
		for _, id := range ids(g.Fleet) {
			if !truth[id] {
				t.Errorf("runner %d does not exist", id)
			}
		}
		all.end(t)
		owned.end(t)
		if len(out.with(secret)) > 0 {
			t.Error("the token stands in the log")
		}
	})
}

// Where the token may list runners but is refused their details or jobs, the
// sums still come, under (unknown), and it is logged once.
func TestForbiddenReadingsHoldNoSumsBack(t *testing.T) {
	for _, route := range []string{"/runners/:id", "/runners/:id/jobs", "/runners/:id/managers"} {
		t.Run(route, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world := gitlabsim.New(gitlabsim.Options{Seed: 3, Runners: 30, Tags: 8, Token: secret})
				world.AddFault(gitlabsim.Fault{Route: route, Status: 403, Body: `{"message":"403 Forbidden - No access granted"}`, ContentType: "application/json"})
				var out lines
				s := newScraper()
				_, state := openState(t, "")
				r := start(t, world, state, s, setup{logger: out.logger()})
				time.Sleep(3 * time.Minute)
				g := s.scrape()
				if !g.Up || g.Fleet == nil || !g.Fleet.Detailed {
					t.Fatalf("up %t, fleet %t, sums by tag %t", g.Up, g.Fleet != nil, g.Fleet != nil && g.Fleet.Detailed)
				}
				if logged := out.with("reason=forbidden"); len(logged) != 1 || !strings.Contains(logged[0], "remedy=") {
					t.Errorf("logged %d times:\n%s", len(logged), strings.Join(logged, ""))
				}
				stage := snapshot.StageDetails
				if route == "/runners/:id/jobs" {
					stage = snapshot.StageJobs
				}
				if n := g.Self.Stages[stage].Unread["forbidden"]; n != 30 {
					t.Errorf("unread %v", g.Self.Stages[stage].Unread)
				}
				r.end(t)
			})
		})
	}
}

// One runner whose details cannot be read holds the sums back for a moment
// only, not for three times details_interval.
func TestOneBrokenRunnerHoldsNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Runners: 30, Tags: 8, Token: secret})
		broken := world.Truth().Runners[3].ID
		remove := world.AddFault(gitlabsim.Fault{Match: matchPath(fmt.Sprintf("/runners/%d", broken)), Status: 500})
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{})
		began := time.Now()
		for g := s.scrape(); g == nil || g.Fleet == nil || !g.Fleet.Detailed; g = s.scrape() {
			time.Sleep(time.Second)
			if time.Since(began) > 5*time.Minute {
				t.Fatalf("no sums by tag after %v", time.Since(began))
			}
		}
		g := s.scrape()
		if n := tagCounts(g.Fleet)[snapshot.TagUnknown+": "+kindOf(world, broken)]; n != 1 {
			t.Errorf("tags %v", tagCounts(g.Fleet))
		}
		if n := g.Self.Stages[snapshot.StageDetails].Unread["server_error"]; n != 1 {
			t.Errorf("unread %v", g.Self.Stages[snapshot.StageDetails].Unread)
		}
		remove()
		time.Sleep(17 * time.Minute)
		check(t, "tags", tagCounts(s.scrape().Fleet), truthTags(world.Truth()))
		if n := s.scrape().Self.Stages[snapshot.StageDetails].Unread; len(n) > 0 {
			t.Errorf("unread %v", n)
		}
		r.end(t)
	})
}

func kindOf(w *gitlabsim.World, id int64) string {
	r, _ := w.Runner(id)
	return fmt.Sprintf("%s %s %t", r.Type, r.Status, r.Paused)
}

// A runner that leaves while a reading of it fails must leave no books behind:
// nothing would ever clear them.
func TestRunnerThatLeavesLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Runners: 20, Tags: 8, Token: secret})
		_, state := openState(t, "")
		s := newScraper()
		poll := defaultPoll()
		poll.Details = 2 * time.Minute
		r := start(t, world, state, s, setup{poll: poll})
		time.Sleep(time.Minute)
		gone := world.Truth().Runners[5].ID
		// Its readings hang until it has left, and then fail.
		world.AddFault(gitlabsim.Fault{Match: matchPath(fmt.Sprintf("/runners/%d", gone)), Status: 500, Latency: 4 * time.Minute})
		time.Sleep(90 * time.Second)
		world.DeleteRunner(gone)
		time.Sleep(30 * time.Minute)
		g := s.scrape()
		if slices.Contains(ids(g.Fleet), gone) {
			t.Error("it did not leave")
		}
		for stage := range g.Self.Stages {
			if n := g.Self.Stages[stage].Unread; len(n) > 0 {
				t.Errorf("%s unread: %v", snapshot.Stage(stage), n)
			}
		}
		r.m.fleet.mu.Lock()
		books := reflect.ValueOf(r.m.fleet.plan).Elem()
		for _, key := range books.FieldByName("fails").MapKeys() {
			t.Errorf("still failing: %v", key)
		}
		for _, key := range books.FieldByName("state").MapKeys() {
			if key.FieldByName("id").Int() == gone {
				t.Errorf("still planned: %v", key)
			}
		}
		r.m.fleet.mu.Unlock()
		r.end(t)
	})
}

// A listing that takes longer than its interval stretches it, and is not late.
func TestSlowListingIsNotLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Runners: 450, Tags: 8, Token: secret})
		world.AddFault(gitlabsim.Fault{Route: "/runners/all", Latency: 29 * time.Second})
		_, state := openState(t, "")
		s := newScraper()
		poll := defaultPoll()
		poll.Runners = 5 * time.Second
		r := start(t, world, state, s, setup{poll: poll, concurrency: 20})
		time.Sleep(30 * time.Minute)
		g := s.scrape()
		st := g.Self.Stages[snapshot.StageRunners]
		if !g.Up || g.Fleet == nil || st.Interval < 29*time.Second || st.Lag > 10*time.Second {
			t.Errorf("up %t, interval %v, lag %v", g.Up, st.Interval, st.Lag)
		}
		check(t, "runners", fleetCounts(g.Fleet), truthCounts(world.Truth()))
		r.end(t)
	})
}
