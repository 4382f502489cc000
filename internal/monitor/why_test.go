package monitor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/queue"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/internal/why"
)

// codes are the reasons of a class as one text.
func codes(c *why.Class) string {
	var out []string
	for _, r := range c.Reasons {
		out = append(out, string(r.Code))
	}
	return string(c.Verdict) + " " + strings.Join(out, " ")
}

// classOf is the class of a runner.
func classOf(t *testing.T, a *why.Answer, runner int64) *why.Class {
	t.Helper()
	for i := range a.Classes {
		if a.Classes[i].Example == runner {
			return &a.Classes[i]
		}
	}
	t.Fatalf("no class of runner %d in %+v", runner, a.Classes)
	return nil
}

// TestWhyFindsEachReasonOverAGitLab: each reason, as a GitLab shows it, at two requests a job,
// and by the queue that was read where GitLab offers a job.
func TestWhyFindsEachReasonOverAGitLab(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Token: secret, ExternalURL: "http://gitlab.test"})
		mount(t, world)
		acme := world.AddGroup("acme", 0)
		other := world.AddGroup("other", 0)
		app, lib := world.AddProject("app", acme), world.AddProject("lib", other)
		add := func(s gitlabsim.RunnerSpec) int64 {
			s.NoJobs = true
			return world.AddRunner(s)
		}
		idle := add(gitlabsim.RunnerSpec{Tags: []string{"docker"}})
		protected := add(gitlabsim.RunnerSpec{Tags: []string{"docker"}, Protected: true})
		paused := add(gitlabsim.RunnerSpec{Tags: []string{"docker", "arm"}, Paused: true})
		elsewhere := add(gitlabsim.RunnerSpec{Group: other, Tags: []string{"docker"}})
		assigned := add(gitlabsim.RunnerSpec{Projects: []int64{lib, app}, Tags: []string{"docker", "app"}})
		locked := add(gitlabsim.RunnerSpec{Projects: []int64{lib}, Tags: []string{"docker", "lib"}, Locked: true})
		busy := add(gitlabsim.RunnerSpec{Tags: []string{"docker", "busy"}})
		executed := world.CreateJob(gitlabsim.JobSpec{Runner: busy, Project: app})
		waits := world.CreateJob(gitlabsim.JobSpec{Project: app, Tags: []string{"docker"}})
		misspelt := world.CreateJob(gitlabsim.JobSpec{Project: app, Tags: []string{"dokcer"}})
		later := world.CreateJob(gitlabsim.JobSpec{Project: app, Started: time.Now().Add(time.Hour), Queued: time.Minute, Runner: idle})
		ask := func(r *running, id int64) *why.Answer {
			t.Helper()
			a, err := r.m.Why(t.Context(), why.Question{Project: "acme/app", Job: id})
			if err != nil {
				t.Fatal(err)
			}
			return a
		}

		_, state := openState(t, "")
		r := start(t, world, state, newScraper(), setup{})
		time.Sleep(5 * time.Minute)
		counted := func() (n int) {
			for route, k := range world.Requests() {
				if strings.Contains(route, "/projects/") {
					n += k
				}
			}
			return n
		}
		n := counted()
		a := ask(r, waits)
		if got := counted() - n; got != 2 {
			t.Errorf("%d requests", got)
		}
		if a.Verdict != why.Takes || !strings.Contains(a.Text, "2 available runners with room") || a.Job.Project != "acme/app" || a.Job.Since.Sub(r.began).Abs() > 2*time.Second || a.ListedAt.IsZero() {
			t.Errorf("%s %s %+v", a.Verdict, a.Text, a.Job)
		}
		for id, want := range map[int64]string{
			idle: "could_take ", protected: "unknown ref_unknown", paused: "none_available paused", elsewhere: "no other_group",
			assigned: "could_take ", locked: "no other_project", busy: "busy busy",
		} {
			if got := codes(classOf(t, a, id)); got != want {
				t.Errorf("runner %d: %s, not %s", id, got, want)
			}
		}
		if a := ask(r, misspelt); a.Verdict != why.NoRunner || len(a.Unknown) != 1 || fmt.Sprint(a.Unknown[0].Similar) != "[docker]" {
			t.Errorf("%s %+v", a.Verdict, a.Unknown)
		}
		if a := ask(r, executed); a.Verdict != why.NotWaiting || a.Job.RunnerID != busy || len(a.Classes) != 0 || !strings.Contains(a.Text, "it is running") {
			t.Errorf("%s %s", a.Verdict, a.Text)
		}
		if a := ask(r, later); a.Verdict != why.NotWaiting || !strings.Contains(a.Text, "not queued yet") {
			t.Errorf("%s %s", a.Verdict, a.Text)
		}
		_, err := r.m.Why(t.Context(), why.Question{Project: "acme/app", Job: 1 << 40})
		if f, ok := errors.AsType[*why.Failure](err); !ok || f.Kind != why.Missing || !strings.Contains(f.Text, "404 for both") {
			t.Errorf("a job that is not there: %v", err)
		}
		n = counted()
		if a, err := r.m.Why(t.Context(), why.Question{Tags: []string{"docker", "app"}}); err != nil || codes(classOf(t, a, assigned)) != "unknown project_unknown" || counted() != n {
			t.Errorf("of tags: %v", err)
		}
		r.end(t)

		// Where the queue is read, it shows that the ref is not protected.
		_, state = openState(t, "")
		r = start(t, world, state, newScraper(), setup{queue: queue.Options{Interval: time.Minute}})
		time.Sleep(5 * time.Minute)
		a = ask(r, waits)
		if c := classOf(t, a, protected); codes(c) != "no protected_ref" {
			t.Errorf("protected, with the queue: %s", codes(c))
		}
		if c := classOf(t, a, idle); !c.Certain {
			t.Errorf("idle, with the queue: %+v", c)
		}

		// A GitLab that fails or hangs.
		world.AddFault(gitlabsim.Fault{Route: "GET /projects/:id/jobs/:job_id", Status: http.StatusNotImplemented, Times: 1})
		_, err = r.m.Why(t.Context(), why.Question{Project: "acme/app", Job: waits})
		if f, ok := errors.AsType[*why.Failure](err); !ok || f.Kind != why.Failed || !strings.Contains(f.Text, "Remedy") {
			t.Errorf("501: %v", err)
		}
		world.AddFault(gitlabsim.Fault{Route: "GET /projects/:id/jobs/:job_id", Latency: time.Minute, Times: 1})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		began := time.Now()
		_, err = r.m.Why(ctx, why.Question{Project: "acme/app", Job: waits})
		cancel()
		if f, ok := errors.AsType[*why.Failure](err); !ok || f.Kind != why.Late || time.Since(began) > 21*time.Second {
			t.Errorf("a GitLab that hangs: %v after %s", err, time.Since(began))
		}
		r.end(t)
	})
}

// TestWhyByAnOldListIsUnknown: while GitLab cannot list the runners, nobody knows which are available, nor
// which were registered since.
func TestWhyByAnOldListIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Token: secret})
		mount(t, world)
		world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"docker"}, NoJobs: true})
		_, state := openState(t, "")
		r := start(t, world, state, newScraper(), setup{})
		time.Sleep(5 * time.Minute)
		verdicts := func() (out []why.Verdict) {
			for _, tag := range []string{"docker", "gpu"} {
				a, err := r.m.Why(t.Context(), why.Question{Tags: []string{tag}})
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, a.Verdict)
			}
			return out
		}
		if got := fmt.Sprint(verdicts()); got != "[could_take no_runner]" {
			t.Fatal(got)
		}
		world.AddFault(gitlabsim.Fault{Status: http.StatusBadGateway})
		time.Sleep(15 * time.Minute)
		if got := fmt.Sprint(verdicts()); got != "[unknown unknown]" {
			t.Errorf("the list is 15 minutes old: %s", got)
		}
		r.end(t)
	})
}

// TestWhyWithoutTheRightNamesWhatIsMissing: what a token may not see is missing, in words, and
// evidence that could not be read is no reason.
func TestWhyWithoutTheRightNamesWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 3, Token: secret, ExternalURL: "http://gitlab.test"})
		mount(t, world)
		acme := world.AddGroup("acme", 0)
		app := world.AddProject("app", acme)
		hidden := world.AddProject("hidden", world.AddGroup("other", 0))
		world.AddToken(gitlabsim.TokenSpec{Token: "maintainer", Scopes: []string{"read_api"}, Groups: []int64{acme}})
		world.AddRunner(gitlabsim.RunnerSpec{Group: acme, Tags: []string{"team"}, NoJobs: true})
		ours := world.CreateJob(gitlabsim.JobSpec{Project: app, Tags: []string{"x"}})
		theirs := world.CreateJob(gitlabsim.JobSpec{Project: hidden, Tags: []string{"x"}})
		_, state := openState(t, "")
		r := start(t, world, state, newScraper(), setup{
			scopes: []gitlab.Scope{{Kind: snapshot.ScopeGroups, ID: "acme"}}, token: func() string { return "maintainer" },
		})
		time.Sleep(5 * time.Minute)
		a, err := r.m.Why(t.Context(), why.Question{Project: "acme/app", Job: ours})
		if err != nil || a.Verdict != why.Unknown || !strings.Contains(strings.Join(a.Limits, " "), "configured scopes") {
			t.Errorf("%+v, %v", a, err)
		}
		_, err = r.m.Why(t.Context(), why.Question{Project: "other/hidden", Job: theirs})
		if f, ok := errors.AsType[*why.Failure](err); !ok || f.Kind != why.Missing {
			t.Errorf("a job of another group: %v", err)
		}
		world.AddFault(gitlabsim.Fault{Route: "GET /projects/:id/runners", Status: http.StatusForbidden, Body: `{"message":"403 Forbidden"}`, ContentType: "application/json"})
		a, err = r.m.Why(t.Context(), why.Question{Project: "acme/app", Job: ours})
		if err != nil || !strings.Contains(strings.Join(a.Limits, " "), "could not be read") {
			t.Errorf("%+v, %v", a, err)
		}
		r.end(t)
	})
}

// TestFirstShardReadsTheWholeQueue: of two shards the first shows what waits for
// the runners of both, whole, and the second nothing.
func TestFirstShardReadsTheWholeQueue(t *testing.T) {
	for _, limit := range []int{500, 7} {
		synctest.Test(t, func(t *testing.T) {
			world := gitlabsim.New(gitlabsim.Options{Seed: 3, Token: secret})
			mount(t, world)
			const pools = 12
			var runners []int64
			for i := range pools {
				runners = append(runners, world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{fmt.Sprintf("pool-%02d", i)}, NoJobs: true}))
			}
			var theirs int64 // a runner of the second shard
			for i, id := range runners {
				if shardOf(id, 2) == 1 && theirs == 0 {
					theirs = id
					world.Pause(id, true)
				}
				for range i + 1 {
					world.CreateJob(gitlabsim.JobSpec{Tags: []string{fmt.Sprintf("pool-%02d", i)}})
				}
			}
			if theirs == 0 || theirs == runners[pools-1] {
				t.Fatalf("the shards of %v prove nothing", runners)
			}
			var shards [2]*running
			var scrapers [2]*scraper
			for i := range shards {
				_, state := openState(t, "")
				scrapers[i] = newScraper()
				inv := inventory.Options{TagLimit: limit, TagRetention: time.Hour, RunnersEnabled: true}
				shards[i] = start(t, world, state, scrapers[i], setup{queue: queue.Options{Interval: time.Minute}, shard: [2]int{i, 2}, inv: inv})
			}
			time.Sleep(6 * time.Minute)
			first, second := scrapers[0].scrape(), scrapers[1].scrape()
			q := first.Queue
			if q == nil || q.Truncated || q.Jobs != len(world.Queue()) || first.QueueState != snapshot.QueueRead || first.QueueAt.IsZero() {
				t.Fatalf("%d wait: %+v", len(world.Queue()), q)
			}
			if second.Queue != nil || second.QueueState != snapshot.QueueOtherShard {
				t.Errorf("the second: %s %+v", second.QueueState, second.Queue)
			}
			jobs, named := 0, 0
			for _, tag := range q.Tags {
				jobs += tag.Jobs
				if tag.Name != snapshot.TagOther {
					named++
				}
				if tag.Name == snapshot.TagNoRunner {
					t.Errorf("runners of the other shard do not count: %+v", tag)
				}
			}
			if want := min(limit, pools); jobs != q.Jobs || named != want {
				t.Errorf("%d jobs under tags, %d of them named, not %d: %+v", jobs, named, want, q.Tags)
			}
			if len(q.Unmatched) != 1 || q.Unmatched[0].Reason != snapshot.NoneAvailable {
				t.Errorf("unmatched: %+v", q.Unmatched)
			}
			a, err := shards[0].m.Why(t.Context(), why.Question{Tags: []string{q.Unmatched[0].Tags}})
			if err != nil || a.Verdict != why.Unavailable || a.Classes[0].Example != theirs || len(a.Limits) != 0 {
				t.Errorf("why, by the first: %+v, %v", a, err)
			}
			if a, err := shards[1].m.Why(t.Context(), why.Question{Tags: []string{"nobody"}}); err != nil || a.Verdict != why.Unknown || len(a.Limits) != 1 {
				t.Errorf("why, by the second: %+v, %v", a, err)
			}
			for _, s := range shards {
				s.end(t)
			}
		})
	}
}

// TestListWithoutTagsLeavesALowerBound: a list without tags leaves the queue a lower bound, unless
// they are known from before.
func TestListWithoutTagsLeavesALowerBound(t *testing.T) {
	o := &Options{ShardCount: 2, Queue: queue.Options{Interval: time.Minute}}
	f := &fleet{opts: o, others: map[string]others{}, scopeKeys: []string{"a", "b"}}
	var theirs int64 = 1
	for o.owns(theirs) {
		theirs++
	}
	online := true
	row := gitlab.Runner{ID: theirs, Type: "instance_type", Online: &online}
	known := others{}
	known.note(o, []gitlab.FleetRunner{{RunnerDetails: gitlab.RunnerDetails{Runner: row, Tags: []string{"docker"}}, Executing: 2}}, true)
	f.takeOthers("a", known)
	if all, unread := f.allOthers(); len(all) != 1 || !unread {
		t.Errorf("b was not listed: %+v %v", all, unread)
	}
	f.takeOthers("b", others{})
	if _, unread := f.allOthers(); unread {
		t.Error("all is known")
	}
	offline := false
	row.Online = &offline
	byREST := others{}
	byREST.noteREST(o, []gitlab.Runner{row})
	f.takeOthers("a", byREST)
	if all, unread := f.allOthers(); unread || all[theirs].Available || len(all[theirs].Tags) != 1 {
		t.Errorf("the tags of before: %+v %v", all, unread)
	}
	row.ID++
	for o.owns(row.ID) {
		row.ID++
	}
	byREST = others{}
	byREST.noteREST(o, []gitlab.Runner{row})
	f.takeOthers("b", byREST)
	if _, unread := f.allOthers(); !unread {
		t.Error("the tags of a new one are not known")
	}
}
