//go:build ship

package breakages

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	simgraphql "gitlab-runner-fleet-exporter/internal/gitlabsim/graphql"
)

const (
	token          = "glpat-breakages-5Xw2"
	tokenOfReplica = "glpat-replica-8Kd1"
)

// spec is what GitLab knows of the exporter's token.
func spec(secret string) gitlabsim.TokenSpec {
	return gitlabsim.TokenSpec{Token: secret, Name: "exporter", Username: "root", Admin: true, Everything: true, Scopes: []string{"read_api"}}
}

// town is one simulated GitLab with a healthy fleet.
type town struct {
	era
	name, url string
	world     *gitlabsim.World
	runners   map[string][]int64 // by kind
	added     int64              // a runner that came later
	died      time.Time          // when a machine did
	mend      func()             // ends a scripted fault
	twice     bool               // two processes read it
}

// kinds is the fleet of each town: several types, tags of their own and shared
// ones. Those that get no generated jobs get theirs from the script.
var kinds = []struct {
	name string
	n    int
	spec gitlabsim.RunnerSpec
}{
	{"docker", 9, gitlabsim.RunnerSpec{Tags: []string{"docker", "linux"}, RunUntagged: true}},
	{"arm64", 3, gitlabsim.RunnerSpec{Tags: []string{"docker", "arm64"}}},
	{"gpu", 3, gitlabsim.RunnerSpec{Tags: []string{"gpu"}, NoJobs: true}},
	// Each has the tag of its zone too.
	{"kubernetes", 12, gitlabsim.RunnerSpec{Type: "group_type", Tags: []string{"kubernetes"}}},
	{"shell", 5, gitlabsim.RunnerSpec{Type: "project_type", Tags: []string{"shell"}}},
	{"windows", 3, gitlabsim.RunnerSpec{Type: "project_type", Tags: []string{"windows"}, NoJobs: true}},
	{"nightly", 2, gitlabsim.RunnerSpec{Tags: []string{"nightly"}, NoJobs: true}},
}

func build(t *testing.T, e era, seed uint64, name string) *town {
	t.Helper()
	v := &town{era: e, name: name, runners: map[string][]int64{}}
	v.world = gitlabsim.New(gitlabsim.Options{
		Seed: seed, Now: e.now, Token: token, JobsPerHour: 240,
		// No failures of infrastructure by chance: five of 45 jobs are a ticket.
		Shape: gitlabsim.JobShape{
			FailedShare: 0.05, MaxDuration: 20 * time.Minute, LateMax: 15 * time.Minute, MeanQueued: 4 * time.Second,
			Reasons: map[string]float64{"script_failure": 1},
		},
	})
	v.world.Quiesce() // the exporter's first start falls into a second without an end
	if _, err := simgraphql.Mount(v.world); err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds {
		for i := range k.n {
			s := k.spec
			s.Description = fmt.Sprintf("%s-%d", k.name, i+1)
			s.Created = e.world.AddDate(0, -2, 0)
			s.Version = []string{"19.1.0", "19.0.1"}[i%2]
			s.Tags = tagsOf(k.name, k.spec.Tags, i)
			id := v.world.AddRunner(s)
			if id == 0 {
				t.Fatalf("no runner %s", s.Description)
			}
			v.runners[k.name] = append(v.runners[k.name], id)
		}
	}
	srv := httptest.NewServer(e.lens(v.world.Handler()))
	t.Cleanup(srv.Close)
	v.url = srv.URL
	return v
}

// tagsOf are the tags of the runner i of a kind.
func tagsOf(kind string, tags []string, i int) []string {
	if kind == "kubernetes" {
		return append(slices.Clone(tags), fmt.Sprintf("zone-%d", i%3+1))
	}
	return tags
}

// runs lets a runner execute one job, from now on for so long.
func (v *town) runs(runner int64, s gitlabsim.JobSpec, length time.Duration) {
	s.Runner = runner
	s.Created = v.now()
	s.Started = s.Created.Add(5 * time.Second)
	s.Finished = s.Started.Add(length)
	v.world.CreateJob(s)
}

// place is one of the jobs that a runner executes at once.
type place struct {
	runner int64
	free   time.Time
}

// line keeps the runners of a kind at work, two jobs at once each: with breaks
// between jobs, and without but for what a runner needs to ask for the next one
// while jammed tells since when more jobs come than they can take. What waits
// then waits the longer the longer that lasts, for at most half an hour.
func (v *town) line(ctx context.Context, kind string, jammed func() time.Time) {
	rng := rand.New(rand.NewPCG(1, 2))
	var places []*place
	for _, r := range v.runners[kind] {
		places = append(places, &place{runner: r}, &place{runner: r})
	}
	for ctx.Err() == nil {
		now := v.now()
		since := jammed()
		for _, p := range places {
			// The next job is planned before the last one ends, so that a stall of
			// this process leaves no place empty.
			for p.free.Before(now.Add(6 * time.Minute)) {
				begin := p.free.Add(4 * time.Second)
				queued := 8 * time.Second
				if since.IsZero() {
					begin = p.free.Add(time.Duration(30+rng.IntN(240)) * time.Second)
				} else if late := begin.Sub(since); late > 0 {
					queued += min(late/2, 30*time.Minute)
				}
				if begin.Before(now) {
					begin = now
				}
				end := begin.Add(time.Duration(150+rng.IntN(240)) * time.Second)
				v.world.CreateJob(gitlabsim.JobSpec{Runner: p.runner, Created: begin.Add(-queued), Started: begin, Finished: end})
				p.free = end
			}
		}
		pause(ctx, lived(30*time.Second))
	}
}

// life is the daily noise of a healthy fleet: a machine reboots, one is
// replaced, someone pauses a runner for maintenance, runners join, leave and
// are retagged, and GitLab's proxy answers 502 now and then.
func (v *town) life(ctx context.Context) {
	v.world.AddFault(gitlabsim.Fault{Probability: 0.01, Status: 502})
	rng := rand.New(rand.NewPCG(3, 4))
	one := func(kind string) int64 { return v.runners[kind][rng.IntN(len(v.runners[kind]))] }
	sleep := func(minutes int) { pause(ctx, lived(time.Duration(minutes)*time.Minute)) }
	for ctx.Err() == nil {
		r := one("docker")
		v.world.SetOnline(r, false)
		sleep(6)
		v.world.SetOnline(r, true)
		sleep(5)

		r = one("kubernetes")
		v.world.Pause(r, true)
		sleep(20)
		v.world.Pause(r, false)

		r = one("shell")
		m := v.world.AddManager(r, gitlabsim.ManagerSpec{Version: "19.1.0"})
		sleep(10)
		// One that is removed with a job leaves it hanging: no noise, but a loss.
		// So it is drained first, as a careful administrator does.
		for v.world.Pause(r, true); v.works(r, m) && ctx.Err() == nil; {
			sleep(1)
		}
		if ctx.Err() != nil {
			return // it may still be at work
		}
		v.world.RemoveManager(r, m)
		v.world.Pause(r, false)

		joined := v.world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"docker"}, Description: "autoscaled", Version: "19.1.0"})
		sleep(15)
		v.world.SetTags(joined, []string{"docker", "linux"})
		sleep(15)
		v.world.DeleteRunner(joined)
		sleep(5)
	}
}

// works tells whether a machine of a runner executes a job.
func (v *town) works(runner, machine int64) bool {
	r, _ := v.world.Runner(runner)
	return slices.ContainsFunc(r.Managers, func(m gitlabsim.ManagerTruth) bool { return m.ID == machine && m.Executing > 0 })
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// population is how many runners each tag and each type has.
func population() (tags, types map[string]int) {
	tags, types = map[string]int{}, map[string]int{}
	for _, k := range kinds {
		for i := range k.n {
			for _, tag := range tagsOf(k.name, k.spec.Tags, i) {
				tags[tag]++
			}
		}
		if k.spec.RunUntagged {
			tags["(untagged)"] += k.n
		}
		typ := k.spec.Type
		if typ == "" {
			typ = "instance_type"
		}
		types[typ] += k.n
	}
	return tags, types
}

// finished is how many jobs ended. With a runner that was deleted the last of
// them may have gone before anybody could read them: those count for most only.
func (v *town) finished() (least, most int) {
	truth := v.world.Truth()
	for _, j := range truth.Finished {
		most++
		if !slices.ContainsFunc(truth.Gone, func(r gitlabsim.RunnerTruth) bool { return r.ID == j.Runner }) {
			least++
		}
	}
	return least, most
}

// hung are the jobs that a dead machine left behind.
func (v *town) hung() (jobs []string) {
	for _, j := range v.world.Truth().Finished {
		if strings.HasPrefix(j.Reason, "no_updates") {
			jobs = append(jobs, fmt.Sprintf("%d of runner %d, %v to %v", j.ID, j.Runner, j.Started, j.Finished))
		}
	}
	return jobs
}

// nth is when a runner's nth job failed; zero if it did not.
func (v *town) nth(runner int64, n int) time.Time {
	var ends []time.Time
	for _, j := range v.world.Truth().Finished {
		if j.Runner == runner && j.Status == "failed" {
			ends = append(ends, j.Finished)
		}
	}
	slices.SortFunc(ends, time.Time.Compare)
	if len(ends) < n {
		return time.Time{}
	}
	return ends[n-1]
}
