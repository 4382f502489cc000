package queue_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/gitlabsim/graphql"
	"gitlab-runner-fleet-exporter/internal/queue"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

func same(tag string) string { return tag }

// holds compares a reading with the truth.
func (b *bench) holds(unregistered bool) {
	b.t.Helper()
	result := b.mustRead()
	if result == nil || result.Truncated {
		b.t.Fatalf("%+v", result)
	}
	got, want := found(result), wanted(b.Queue(), unregistered)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		b.t.Errorf("%d jobs, want %d:%s", len(got), len(want), differ(got, want))
	}
}

// TestEmptyListWithoutTheRightIsNoEmptyQueue: who may not read gets empty lists, which are no empty queue. A job
// that is seen proves the right for the other runners of its owner.
func TestEmptyListWithoutTheRightIsNoEmptyQueue(t *testing.T) {
	b := newBench(t, gitlabsim.Options{}, queue.Options{})
	acme := b.AddGroup("acme", 0)
	app := b.AddProject("app", acme)
	b.AddToken(gitlabsim.TokenSpec{Token: "maintainer", Scopes: []string{"read_api"}, Groups: []int64{acme}})
	b.AddToken(gitlabsim.TokenSpec{Token: "nobody", Scopes: []string{"read_api"}})
	b.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"docker"}})
	b.AddRunner(gitlabsim.RunnerSpec{Group: acme, Tags: []string{"team"}})
	b.AddRunner(gitlabsim.RunnerSpec{Group: acme, Tags: []string{"gpu"}})
	b.CreateJob(gitlabsim.JobSpec{Tags: []string{"docker"}})

	b.as("nobody")
	for range 3 {
		if result := b.mustRead(); result != nil || b.queue.Snapshot(b.now, same) != nil {
			t.Fatalf("without the right: %+v", result)
		}
	}
	if b.requests != 1 {
		t.Errorf("%d requests: the missing right is looked up each time", b.requests)
	}

	b.queue.Forget()
	b.as("maintainer")
	if result := b.mustRead(); result != nil {
		t.Fatalf("a maintainer of a group with an empty queue: %+v", result)
	}
	id := b.CreateJob(gitlabsim.JobSpec{Project: app, Tags: []string{"team"}})
	b.mustRead()
	got := b.queue.Snapshot(b.now, same)
	if got == nil || got.Jobs != 1 || len(got.Tags) != 2 || got.Tags[0] != (snapshot.QueueTag{Name: "gpu"}) || got.Tags[1].Jobs != 1 {
		t.Fatalf("a maintainer sees %+v", got)
	}
	b.CancelJob(id)
	b.now = b.now.Add(time.Minute)
	b.mustRead()
	if got := b.queue.Snapshot(b.now, same); got == nil || got.Jobs != 0 || len(got.Tags) != 2 || !got.Oldest.IsZero() {
		t.Errorf("once proved, an empty list is an empty queue: %+v", got)
	}

	b.queue.Forget()
	b.as(token)
	b.holds(false)
	if got := b.queue.Snapshot(b.now, same); len(got.Tags) != 3 {
		t.Errorf("an administrator: %+v", got)
	}

	root := func(admin bool) {
		b.AddToken(gitlabsim.TokenSpec{Token: token, Username: "root", Admin: admin, Everything: true, Scopes: []string{"read_api"}})
	}
	root(false) // left are the groups, whose maintainer the user is
	for i := range 3 {
		b.now = b.now.Add(time.Minute)
		b.mustRead()
		got := b.queue.Snapshot(b.now, same)
		if names := tagNames(got); !slices.Equal(names, []string{"gpu", "team"}) || b.requests != []int{2, 1, 1}[i] {
			t.Errorf("of a right that was lost: %v after %d requests", names, b.requests)
		}
	}
	root(true)
	b.now = b.now.Add(time.Minute)
	b.holds(false)
}

// TestOldReleaseIsNotAskedAgain: below 18.1 there is no result, and no request is repeated.
func TestOldReleaseIsNotAskedAgain(t *testing.T) {
	b := newBench(t, gitlabsim.Options{Version: "17.11.4"}, queue.Options{})
	b.fleet(60)
	if err := b.read(); err == nil || !b.queue.Unsupported() || b.requests != 1 {
		t.Errorf("%v after %d requests", err, b.requests)
	}
	if err := b.read(); err != nil || b.requests != 0 || b.queue.Snapshot(b.now, same) != nil {
		t.Errorf("%v after %d requests", err, b.requests)
	}
	b.queue.Forget() // an update
	if err := b.read(); err == nil || b.requests != 1 {
		t.Errorf("%v after %d requests", err, b.requests)
	}
}

// TestFullQueueIsTruncatedThenReadWhole: of a queue that is found full, the first readings are truncated
// and never claim too much, each within the bound, and then it is read whole.
func TestFullQueueIsTruncatedThenReadWhole(t *testing.T) {
	b := newBench(t, gitlabsim.Options{}, queue.Options{})
	b.fleet(120)
	for i := range 5000 {
		b.CreateJob(gitlabsim.JobSpec{Tags: []string{fmt.Sprintf("pool-%02d", i%4)}})
	}
	n, whole := 0, 0
	for i := range 30 {
		result := b.mustRead()
		if b.requests > queue.MaxRequests || len(result.Jobs) > 5000 || len(result.Jobs) < n && whole == 0 {
			t.Fatalf("reading %d: %d requests, %d jobs after %d", i, b.requests, len(result.Jobs), n)
		}
		n = len(result.Jobs)
		if result.Truncated {
			if n == 5000 && whole > 0 {
				t.Errorf("reading %d is truncated again", i)
			}
		} else if whole == 0 {
			whole = i + 1
		}
		b.now = b.now.Add(time.Minute)
	}
	t.Logf("5,000 waiting: whole at reading %d, %d requests then", whole, b.requests)
	if whole == 0 || whole > 12 {
		t.Errorf("whole at reading %d", whole)
	}
	b.holds(false)
}

// TestEachOfManyClassesIsReadInTurn: of a fleet with more classes than a reading can look at, each
// is looked at in turn, and what was read stands until then.
func TestEachOfManyClassesIsReadInTurn(t *testing.T) {
	b := newBench(t, gitlabsim.Options{}, queue.Options{})
	var ids []int64
	for i := range 400 {
		b.AddRunner(gitlabsim.RunnerSpec{Tags: []string{fmt.Sprintf("own-%03d", i)}})
		ids = append(ids, b.CreateJob(gitlabsim.JobSpec{Tags: []string{fmt.Sprintf("own-%03d", i)}}))
	}
	whole := 0
	for i := range 20 {
		result := b.mustRead()
		if b.requests > queue.MaxRequests {
			t.Fatalf("%d requests", b.requests)
		}
		if !result.Truncated && whole == 0 {
			whole = i + 1
		}
		if whole > 0 && (result.Truncated || len(result.Jobs) != 400) {
			t.Errorf("reading %d: %d jobs, truncated %v", i, len(result.Jobs), result.Truncated)
		}
		b.now = b.now.Add(time.Minute)
	}
	t.Logf("400 classes: whole at reading %d", whole)
	if whole == 0 || whole > 6 {
		t.Errorf("whole at reading %d", whole)
	}
	for _, id := range ids {
		b.CancelJob(id)
	}
	for range 5 {
		b.mustRead()
		b.now = b.now.Add(time.Minute)
	}
	b.holds(false)
}

// TestFailedReadingChangesNothing: a reading that failed changes nothing, and what it would have
// replaced is withdrawn after three intervals. A failed part truncates.
func TestFailedReadingChangesNothing(t *testing.T) {
	b := newBench(t, gitlabsim.Options{}, queue.Options{})
	b.fleet(60)
	b.CreateJob(gitlabsim.JobSpec{Tags: []string{"pool-01"}})
	b.CreateJob(gitlabsim.JobSpec{Tags: []string{"pool-02", "linux"}})
	b.holds(false)
	b.server.SetFault(func(graphql.Query) *graphql.Fault {
		return &graphql.Fault{Errors: []graphql.Error{{Message: "Internal server error"}}}
	})
	for i := range 5 {
		b.now = b.now.Add(time.Minute)
		if err := b.read(); gitlab.ReasonOf(err) != gitlab.ReasonBadRequest {
			t.Fatal(err)
		}
		if got := b.queue.Snapshot(b.now, same); (got != nil) != (i < 3) || got != nil && got.Jobs != 2 {
			t.Errorf("after %d failures: %+v", i+1, got)
		}
	}
	first := true
	b.server.SetFault(func(graphql.Query) *graphql.Fault {
		if first = !first; first {
			return nil
		}
		return &graphql.Fault{Data: true, Errors: []graphql.Error{{Message: "boom", Path: []any{"p1"}}}}
	})
	b.now = b.now.Add(time.Minute)
	if result := b.mustRead(); result == nil || !result.Truncated {
		t.Errorf("one part failed: %+v", result)
	}
	b.server.SetFault(nil)
	b.holds(false)
}

// TestJobsOfADeletedRunnerAreNotTaken: for an administrator GitLab answers a runner that was deleted
// meanwhile with all jobs of the instance. They are not taken for its own.
func TestJobsOfADeletedRunnerAreNotTaken(t *testing.T) {
	b := newBench(t, gitlabsim.Options{}, queue.Options{})
	gone := b.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"a"}})
	b.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"b"}})
	b.CreateJob(gitlabsim.JobSpec{Tags: []string{"nobody's"}})
	b.CreateJob(gitlabsim.JobSpec{Tags: []string{"b"}})
	known := b.runners()
	b.DeleteRunner(gone)
	for _, requests := range []int{3, 1} { // the second time the survey shows it
		r, n := b.queue.Begin(b.now, known), 0
		for ; ; n++ {
			request, ok := r.Next()
			if !ok {
				break
			}
			r.Take(b.client.Queue(t.Context(), request))
		}
		if err := r.End(); err != nil {
			t.Fatal(err)
		}
		result := b.queue.Result(b.now)
		if !result.Truncated || len(result.Jobs) != 1 || result.Jobs[0].Tags[0] != "b" || n != requests {
			t.Errorf("%d requests, want %d: %+v", n, requests, result)
		}
	}
	b.holds(false)
}

// TestRetaggedRunnerIsReplaced: a runner whose tags changed since its details were read is not
// taken for its class; another one stands in.
func TestRetaggedRunnerIsReplaced(t *testing.T) {
	b := newBench(t, gitlabsim.Options{}, queue.Options{})
	changed := b.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"a"}})
	b.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"a"}})
	b.CreateJob(gitlabsim.JobSpec{Tags: []string{"a"}})
	b.CreateJob(gitlabsim.JobSpec{Tags: []string{"new"}})
	known := b.runners()
	b.SetTags(changed, []string{"a", "new"})
	for i := range 5 {
		r := b.queue.Begin(b.now, known)
		for {
			request, ok := r.Next()
			if !ok {
				break
			}
			r.Take(b.client.Queue(t.Context(), request))
		}
		if err := r.End(); err != nil {
			t.Fatal(err)
		}
		result := b.queue.Result(b.now)
		if first := i == 0; first != result.Truncated || first != (len(result.Jobs) == 0) {
			t.Errorf("reading %d: %+v", i, result)
		}
	}
	b.holds(false) // its details were read
}

// TestJamHidesNoUnmatchedJob: a jam that takes all requests of each reading does not keep the
// jobs that no runner can take from being found.
func TestJamHidesNoUnmatchedJob(t *testing.T) {
	b := newBench(t, gitlabsim.Options{}, queue.Options{All: true})
	b.fleet(120)
	b.CreateJob(gitlabsim.JobSpec{Tags: []string{"dokcer"}})
	var jam []int64
	for minute := range 25 {
		for i := range 3000 {
			jam = append(jam, b.CreateJob(gitlabsim.JobSpec{Tags: []string{fmt.Sprintf("pool-%02d", i%40)}}))
		}
		if len(jam) > 6000 {
			for _, id := range jam[:3000] {
				b.CancelJob(id)
			}
			jam = jam[3000:]
		}
		b.now = b.now.Add(time.Minute)
		b.mustRead()
		if b.requests > queue.MaxRequests || minute > 1 && b.requests < queue.MaxRequests {
			t.Fatalf("minute %d: %d requests", minute, b.requests)
		}
	}
	got := b.queue.Snapshot(b.now, same)
	if len(got.Unmatched) != 1 || got.Unmatched[0].Tags != "dokcer" || !got.Everything {
		t.Errorf("%+v, everything %v", got.Unmatched, got.Everything)
	}
}

// TestProjectJobsThatNobodyTakesAreKnown by REST: all that wait are known, those that nobody takes too.
func TestProjectJobsThatNobodyTakesAreKnown(t *testing.T) {
	b := newBench(t, gitlabsim.Options{Version: "16.11.0"}, queue.Options{})
	acme := b.AddGroup("acme", 0)
	for _, name := range []string{"one", "two"} {
		p := b.AddProject(name, acme)
		for i := range 120 {
			b.CreateJob(gitlabsim.JobSpec{Project: p, Tags: [][]string{{"docker"}, {"dokcer"}, {"old"}, nil}[i%4]})
		}
	}
	b.AddRunner(gitlabsim.RunnerSpec{Group: acme, Tags: []string{"docker"}})
	b.AddRunner(gitlabsim.RunnerSpec{Group: acme, Tags: []string{"old"}, RunUntagged: true, Paused: true})
	b.queue = queue.New(queue.Options{Interval: time.Minute, Projects: []string{"acme/one", "acme/two"}})
	b.holds(true)
	got := b.queue.Snapshot(b.now, same)
	want := []snapshot.QueueUnmatched{
		{Tags: "(untagged)", Reason: snapshot.NoneAvailable, Jobs: 60},
		{Tags: "dokcer", Reason: snapshot.NoRunner, Jobs: 60},
		{Tags: "old", Reason: snapshot.NoneAvailable, Jobs: 60},
	}
	if !slices.Equal(counts(got.Unmatched), want) || got.Jobs != 240 {
		t.Errorf("%+v", got)
	}
	if names := tagNames(got); !slices.Equal(names, []string{"(no_runner)", "(untagged)", "docker", "old"}) {
		t.Errorf("tags %v", names)
	}
}

// counts leaves out since when they wait.
func counts(unmatched []snapshot.QueueUnmatched) (out []snapshot.QueueUnmatched) {
	for _, u := range unmatched {
		u.Oldest = time.Time{}
		out = append(out, u)
	}
	return out
}

func tagNames(q *snapshot.Queue) (names []string) {
	for _, t := range q.Tags {
		names = append(names, t.Name)
	}
	return names
}

// TestWalkFindsJobsInNobodysList, and a slow GitLab stops it.
func TestWalkFindsJobsInNobodysList(t *testing.T) {
	b := newBench(t, gitlabsim.Options{}, queue.Options{All: true})
	acme := b.AddGroup("acme", 0)
	elsewhere := b.AddProject("elsewhere", b.AddGroup("elsewhere", 0))
	b.AddRunner(gitlabsim.RunnerSpec{Group: acme, Tags: []string{"docker"}})
	for range 150 {
		b.CreateJob(gitlabsim.JobSpec{Project: elsewhere, Tags: []string{"dokcer"}})
	}
	b.CreateJob(gitlabsim.JobSpec{Project: elsewhere, Tags: []string{"docker"}}) // a runner has the tag, but not for this project
	b.now = b.now.Add(2 * time.Minute)
	b.holds(true)
	r := b.queue.Snapshot(b.now, same)
	if want := []snapshot.QueueUnmatched{{Tags: "docker", Reason: snapshot.NoRunner, Jobs: 1}, {Tags: "dokcer", Reason: snapshot.NoRunner, Jobs: 150}}; !slices.Equal(counts(r.Unmatched), want) || !r.Unmatched[1].Oldest.Equal(b.now.Add(-2*time.Minute)) {
		t.Errorf("%+v", r.Unmatched)
	}
	read := func(took time.Duration) (requests int) {
		b.now = b.now.Add(time.Minute)
		r := b.queue.Begin(b.now, b.runners())
		for ; ; requests++ {
			request, ok := r.Next()
			if !ok {
				if err := r.End(); err != nil {
					t.Fatal(err)
				}
				return requests
			}
			a, err := b.client.Queue(t.Context(), request)
			if len(request.Pages) == 1 && request.Pages[0].Runner == 0 {
				a.Took = took
			}
			r.Take(a, err)
		}
	}
	for i := range 9 {
		if n := read(0); n != 1 {
			t.Errorf("reading %d: %d requests, the walk is not seldom", i, n)
		}
	}
	if n := read(6 * time.Second); n != 2 {
		t.Errorf("%d requests: the walk goes on though a page was slow", n)
	}
	if got := b.queue.Snapshot(b.now, same); got.Jobs != 0 || len(got.Unmatched) != 0 {
		t.Errorf("what is not looked at any more is not known: %+v", got)
	}
	if n := read(0); n != 1 {
		t.Errorf("%d requests: no pause after a slow page", n)
	}
}

// TestTagSetsKeepTheirSeries: tag sets keep their series at 0, unmatched ones for an hour, and
// there are at most 200 and (other).
func TestTagSetsKeepTheirSeries(t *testing.T) {
	b := newBench(t, gitlabsim.Options{}, queue.Options{})
	tags := []string{"base"}
	for i := range 260 {
		tags = append(tags, fmt.Sprintf("t%03d", i))
	}
	runner := b.AddRunner(gitlabsim.RunnerSpec{Tags: tags, RunUntagged: true})
	var jobs []int64
	for i := range 260 {
		jobs = append(jobs, b.CreateJob(gitlabsim.JobSpec{Tags: []string{tags[i+1], "base"}}))
	}
	jobs = append(jobs, b.CreateJob(gitlabsim.JobSpec{}))
	b.Pause(runner, true)
	b.holds(false)
	got := b.queue.Snapshot(b.now, func(tag string) string {
		if tag > "t100" {
			return snapshot.TagOther
		}
		return tag
	})
	sum := func(sets []snapshot.QueueTagSet) (n int) {
		for _, s := range sets {
			n += s.Jobs
		}
		return n
	}
	other, _ := slices.BinarySearchFunc(got.Tags, snapshot.TagOther, func(t snapshot.QueueTag, name string) int { return compare(t.Name, name) })
	if len(got.TagSets) != 201 || got.TagSets[0] != (snapshot.QueueTagSet{Tags: "(other)", Jobs: 61}) || sum(got.TagSets) != 261 || len(got.Unmatched) != 201 || got.Tags[other].Jobs != 159 {
		t.Errorf("%d tag sets, first %+v, %d jobs, %d unmatched, other %+v", len(got.TagSets), got.TagSets[0], sum(got.TagSets), len(got.Unmatched), got.Tags[other])
	}
	if got.Oldest != b.now || got.Tags[0].Oldest.IsZero() {
		t.Errorf("oldest %v, %+v", got.Oldest, got.Tags[0])
	}
	for _, id := range jobs {
		b.CancelJob(id)
	}
	for _, after := range []time.Duration{time.Minute, 59 * time.Minute, 2 * time.Minute} {
		b.now = b.now.Add(after)
		b.holds(false)
		got := b.queue.Snapshot(b.now, same)
		want := 200
		if after == 2*time.Minute {
			want = 0
		}
		if len(got.Unmatched) != want || len(got.TagSets) != 200 || sum(got.TagSets) != 0 || !got.Oldest.IsZero() || got.Jobs != 0 {
			t.Errorf("%v later: %d unmatched, want %d; %d tag sets", after, len(got.Unmatched), want, len(got.TagSets))
		}
	}
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
