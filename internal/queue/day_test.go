package queue_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/gitlabsim/graphql"
	"gitlab-runner-fleet-exporter/internal/queue"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/test/rig"
)

const token = "queue-token"

// bench is a world, a client of it, and a queue that reads it.
type bench struct {
	*gitlabsim.World

	t        *testing.T
	now      time.Time
	server   *graphql.Server
	client   *gitlab.Client
	queue    *queue.Queue
	requests int // of the last reading
}

type withToken struct {
	token string
	next  http.RoundTripper
}

func (w withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("PRIVATE-TOKEN", w.token)
	return w.next.RoundTrip(r)
}

func newBench(t *testing.T, o gitlabsim.Options, q queue.Options) *bench {
	t.Helper()
	b := &bench{t: t, now: time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)}
	o.Now, o.Token = func() time.Time { return b.now }, token
	b.World = gitlabsim.New(o)
	var err error
	if b.server, err = graphql.Mount(b.World); err != nil {
		t.Fatal(err)
	}
	b.as(token)
	if q.Interval == 0 {
		q.Interval = time.Minute
	}
	b.queue = queue.New(q)
	return b
}

func (b *bench) as(token string) {
	b.t.Helper()
	var err error
	b.client, err = gitlab.New(gitlab.Options{BaseURL: "https://gitlab.test", HTTPClient: &http.Client{Transport: withToken{token, b.RoundTripper()}}})
	if err != nil {
		b.t.Fatal(err)
	}
}

// runners are what the inventory would know.
func (b *bench) runners() []queue.Runner {
	views, _, _, err := b.Views(gitlabsim.Caller{Known: true, Admin: true}, gitlabsim.ViewQuery{First: 1 << 20})
	if err != nil {
		b.t.Fatal(err)
	}
	var out []queue.Runner
	for _, v := range views {
		out = append(out, queue.Runner{
			ID: v.ID, Type: v.Type, Owner: v.Group + v.OwnerProject, Tags: v.Tags, RunUntagged: v.RunUntagged, Protected: v.Protected,
			Available: v.Status == "online" && !v.Paused,
		})
	}
	return out
}

// read is one reading, as the monitor makes it.
func (b *bench) read() error {
	b.t.Helper()
	r := b.queue.Begin(b.now, b.runners())
	for b.requests = 0; ; b.requests++ {
		request, ok := r.Next()
		if !ok {
			return r.End()
		}
		r.Take(b.client.Queue(b.t.Context(), request))
	}
}

func (b *bench) mustRead() *queue.Result {
	b.t.Helper()
	if err := b.read(); err != nil {
		b.t.Fatal(err)
	}
	return b.queue.Result(b.now)
}

// wanted is the truth as a result writes it; unregistered ones stand in no list.
func wanted(jobs []gitlabsim.WaitingJob, unregistered bool) (out []string) {
	for _, j := range jobs {
		reason := snapshot.Matched
		switch {
		case !j.Registered && !unregistered:
			continue
		case !j.Registered:
			reason = snapshot.NoRunner
		case !j.Available:
			reason = snapshot.NoneAvailable
		}
		out = append(out, describe(j.ID, j.Tags, j.Since, reason))
	}
	return out
}

func found(r *queue.Result) (out []string) {
	for _, j := range r.Jobs {
		out = append(out, describe(j.ID, j.Tags, j.QueuedAt, j.Unmatched))
	}
	return out
}

func describe(id int64, tags []string, since time.Time, reason snapshot.UnmatchedReason) string {
	tags = slices.Clone(tags)
	slices.Sort(tags)
	return fmt.Sprintf("%d [%s] %s %s", id, strings.Join(slices.Compact(tags), ","), since.UTC().Truncate(time.Second).Format(time.TimeOnly), reason)
}

func differ(got, want []string) string {
	var b strings.Builder
	n := 0
	for _, s := range want {
		if _, ok := slices.BinarySearch(got, s); !ok && n < 5 {
			n++
			b.WriteString("\n  not found: " + s)
		}
	}
	for _, s := range got {
		if _, ok := slices.BinarySearch(want, s); !ok && n < 10 {
			n++
			b.WriteString("\n  too much:  " + s)
		}
	}
	return b.String()
}

// fleet adds runners in 60 classes, which overlap as those of a company do.
func (b *bench) fleet(runners int) {
	group := b.AddGroup("acme", 0)
	team := b.AddGroup("team", group)
	project := b.AddProject("app", team)
	var specs []gitlabsim.RunnerSpec
	for i := range 40 { // of the instance
		s := gitlabsim.RunnerSpec{Tags: []string{fmt.Sprintf("pool-%02d", i)}, RunUntagged: i%8 == 0, Protected: i%10 == 9}
		if i%2 == 0 {
			s.Tags = append(s.Tags, "linux")
		}
		if i%3 == 0 {
			s.Tags = append(s.Tags, "docker")
		}
		if s.Protected { // has all tags of an open class, and is offered less
			s.Tags, s.RunUntagged = append(s.Tags, specs[i-1].Tags...), specs[i-1].RunUntagged
		}
		specs = append(specs, s)
	}
	for i := range 14 {
		s := gitlabsim.RunnerSpec{Group: team, Tags: []string{fmt.Sprintf("team-%02d", i), "linux"}, RunUntagged: i == 0}
		if i%2 == 0 {
			s.Group = group
		}
		specs = append(specs, s)
	}
	for i := range 6 {
		specs = append(specs, gitlabsim.RunnerSpec{Projects: []int64{project}, Tags: []string{fmt.Sprintf("app-%d", i)}})
	}
	for i := range runners {
		if b.AddRunner(specs[i%len(specs)]) == 0 {
			b.t.Fatal("no runner")
		}
	}
}

// TestReadingsOfADayEqualTheTruth: over a day of 40,000 jobs on 1,000 runners in 60 classes, with two
// jams, a pool that is down, one that is wedged and a misspelt tag, each reading
// that is not truncated is equal to the truth, and few are truncated.
func TestReadingsOfADayEqualTheTruth(t *testing.T) {
	hours := rig.Sized(24, 6)
	b := newBench(t, gitlabsim.Options{Seed: 12, JobsPerHour: 44_000.0 / 24, Shape: gitlabsim.JobShape{MeanQueued: 90 * time.Second}}, queue.Options{})
	b.fleet(1000)
	down := []string{"pool-05"}
	var (
		jam                           []int64
		readings, truncated, requests int
		most, longest, mistakes       int
		reasons                       = map[string]int{}
		surges                        = map[int]int{3 * 60: 600, 4*60 + 30: 900} // minute: jobs of the jam
	)
	for minute := range hours * 60 {
		b.now = b.now.Add(time.Minute)
		switch {
		case surges[minute%(12*60)] > 0: // arrives within minutes
			for range surges[minute%(12*60)] / 10 {
				jam = append(jam, b.CreateJob(gitlabsim.JobSpec{Tags: []string{"pool-06", "linux"}}))
			}
			if d := minute % 60; d%30 < 9 {
				surges[minute%(12*60)+1] = surges[minute%(12*60)]
			}
		case len(jam) > 0: // is worked off, in no order
			for range min(len(jam), 12) {
				i := (minute * 7) % len(jam)
				b.CancelJob(jam[i])
				jam = slices.Delete(jam, i, i+1)
			}
		}
		switch minute {
		case 10: // a wedged pool: its runners are online and take nothing
			for range 30 {
				b.CreateJob(gitlabsim.JobSpec{Tags: []string{"pool-07"}})
			}
			b.CreateJob(gitlabsim.JobSpec{Tags: []string{"dokcer"}}) // nobody has it
			b.CreateJob(gitlabsim.JobSpec{Tags: []string{"pool-09"}})
			b.CreateJob(gitlabsim.JobSpec{Tags: []string{"pool-09"}, Protected: true})
		case 60, 120: // a pool that is down for an hour
			for _, r := range b.Fleet().Runners {
				if slices.Contains(r.Tags, down[0]) {
					b.Pause(r.ID, minute == 60)
				}
			}
			if minute == 60 {
				b.CreateJob(gitlabsim.JobSpec{Tags: down})
			}
		}
		result := b.mustRead()
		readings++
		requests += b.requests
		longest = max(longest, b.requests)
		truth := b.Queue()
		most = max(most, len(truth))
		if result.Truncated {
			truncated++
			continue
		}
		for _, j := range result.Jobs {
			reasons[j.Unmatched.String()]++
		}
		got, want := found(result), wanted(truth, false)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			if mistakes++; mistakes <= 3 {
				t.Errorf("minute %d: %d jobs, want %d:%s", minute, len(got), len(want), differ(got, want))
			}
		}
	}
	t.Logf("%d readings, %d truncated, %d wrong, at most %d waiting; %.2f requests a reading, at most %d; job-minutes %v; jobs %d",
		readings, truncated, mistakes, most, float64(requests)/float64(readings), longest, reasons, len(b.Truth().Finished))
	if truncated*100 > readings {
		t.Errorf("%d of %d readings are truncated", truncated, readings)
	}
	if longest > queue.MaxRequests || most < 500 || reasons["none_available"] < 50 {
		t.Errorf("at most %d requests, %d waiting, %v", longest, most, reasons)
	}
}

// TestEmptyQueueCostsOneOrTwoRequests, also one of 60 classes.
func TestEmptyQueueCostsOneOrTwoRequests(t *testing.T) {
	b := newBench(t, gitlabsim.Options{}, queue.Options{})
	b.fleet(1000)
	for i := range 10 {
		b.now = b.now.Add(time.Minute)
		result := b.mustRead()
		if result == nil || len(result.Jobs) != 0 || result.Truncated || b.requests > 2 || i > 0 && b.requests > 1 {
			t.Errorf("reading %d: %d requests, %+v", i, b.requests, result)
		}
	}
	for _, q := range b.server.Queries() {
		if q.Score == 0 || q.Score > 250 || len(q.Document) > 10_000 {
			t.Errorf("score %d, %d characters", q.Score, len(q.Document))
		}
	}
}
