package queue_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/queue"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// TestCountThatStopsIsNoNumber: GitLab counts to 1,000. While a longer queue is worked off, the oldest first, its
// count and its newest jobs stay as they are, and each reading is right or truncated all the same.
func TestCountThatStopsIsNoNumber(t *testing.T) {
	b := newBench(t, gitlabsim.Options{}, queue.Options{})
	b.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"a"}})
	var ids []int64
	for range 2350 {
		ids = append(ids, b.CreateJob(gitlabsim.JobSpec{Tags: []string{"a"}}))
	}
	whole, quiet := 0, 0
	for i := range 24 {
		if i >= 12 { // what was read before stands as long as nothing happens
			for _, id := range ids[:100] {
				b.CancelJob(id)
			}
			ids = ids[100:]
		}
		result := b.mustRead()
		switch {
		case b.requests > queue.MaxRequests || len(result.Jobs) > len(ids):
			t.Fatalf("reading %d: %d requests, %d jobs of %d", i, b.requests, len(result.Jobs), len(ids))
		case !result.Truncated && len(result.Jobs) != len(ids):
			t.Errorf("reading %d: %d jobs of %d, and not truncated", i, len(result.Jobs), len(ids))
		case !result.Truncated:
			whole++
			if b.requests == 2 {
				quiet++
			}
		}
		b.now = b.now.Add(time.Minute)
	}
	t.Logf("of 24 readings %d are whole, %d of them by two requests", whole, quiet)
	if whole < 16 || quiet < 3 {
		t.Errorf("of 24 readings %d are whole, %d by two requests", whole, quiet)
	}
}

// answered makes a reading of which answer gives the lists.
func answered(t *testing.T, q *queue.Queue, now time.Time, runners []queue.Runner, answer func(gitlab.QueuePage) gitlab.QueueJobs) *queue.Result {
	t.Helper()
	r := q.Begin(now, runners)
	for {
		request, ok := r.Next()
		if !ok {
			break
		}
		a := gitlab.QueueAnswer{Rights: map[int64]bool{}}
		for _, p := range request.Pages {
			a.Pages = append(a.Pages, answer(p))
		}
		for _, id := range request.Rights {
			a.Rights[id] = true
		}
		r.Take(a, nil)
	}
	if err := r.End(); err != nil {
		t.Fatal(err)
	}
	return q.Result(now)
}

// TestJobsWithoutTagsAreKept: GitLab may hide the tags of a job. Such jobs stay in the queue while its
// count and its newest jobs stay as they are.
func TestJobsWithoutTagsAreKept(t *testing.T) {
	const waiting = 60
	q := queue.New(queue.Options{Interval: time.Minute})
	now := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	for i := range 8 {
		result := answered(t, q, now, []queue.Runner{{ID: 1, Type: "instance_type", Tags: []string{"a"}}}, func(p gitlab.QueuePage) gitlab.QueueJobs {
			out := gitlab.QueueJobs{Count: waiting}
			for id := int64(waiting); id > 0 && (p.Details || p.First > len(out.Jobs)); id-- {
				out.Jobs = append(out.Jobs, gitlab.PendingJob{ID: id})
			}
			return out
		})
		if result == nil || result.Truncated || len(result.Jobs) != waiting {
			t.Errorf("reading %d: %d jobs, truncated %v", i, len(result.Jobs), result.Truncated)
		}
		now = now.Add(time.Minute)
	}
	s := q.Snapshot(now.Add(-time.Minute), same)
	if names := tagNames(s); !slices.Equal(names, []string{"(unknown)", "a"}) || s.Tags[0].Jobs != waiting {
		t.Errorf("%+v", s.Tags)
	}
}

// TestWhatOneAnswerLacksStands: a job keeps its tags and its time when a later answer has neither.
func TestWhatOneAnswerLacksStands(t *testing.T) {
	q := queue.New(queue.Options{Interval: time.Minute})
	now := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	for i := range 3 {
		row := gitlab.PendingJob{ID: 7}
		if i == 0 {
			row = gitlab.PendingJob{ID: 7, Tags: []string{"a"}, TagsKnown: true, QueuedAt: now}
		}
		result := answered(t, q, now, []queue.Runner{{ID: 1, Type: "instance_type", Tags: []string{"a"}}}, func(gitlab.QueuePage) gitlab.QueueJobs {
			rows := []gitlab.PendingJob{row}
			if i > 0 { // one more each time, so that rows are read
				for k := range i {
					rows = slices.Insert(rows, 0, gitlab.PendingJob{ID: int64(8 + k), Tags: []string{"a"}, TagsKnown: true})
				}
			}
			return gitlab.QueueJobs{Count: i + 1, Jobs: rows}
		})
		if len(result.Jobs) != i+1 || !result.Jobs[0].TagsKnown || result.Jobs[0].QueuedAt.IsZero() {
			t.Errorf("reading %d: %+v", i, result.Jobs)
		}
	}
}

// TestJobsThatGitLabCountsAndHides: GitLab leaves rows out of a list that the caller may not read, and counts
// them. The numbers are lower bounds then.
func TestJobsThatGitLabCountsAndHides(t *testing.T) {
	q := queue.New(queue.Options{Interval: time.Minute})
	now := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	for hidden := range 4 {
		result := answered(t, q, now, []queue.Runner{{ID: 1, Type: "group_type", Owner: "acme", Tags: []string{"a"}}}, func(gitlab.QueuePage) gitlab.QueueJobs {
			out := gitlab.QueueJobs{Count: 3}
			for id := int64(1); id <= int64(3-hidden); id++ {
				out.Jobs = append(out.Jobs, gitlab.PendingJob{ID: id, Tags: []string{"a"}, TagsKnown: true})
			}
			return out
		})
		if result == nil || result.Truncated != (hidden > 0) || len(result.Jobs) != 3-hidden {
			t.Errorf("%d of 3 hidden: %+v", hidden, result)
		}
		now = now.Add(time.Minute)
	}
}

// TestSetOfAnUnreadClassIsNotZero: where the only class that takes a set of tags could not be read, or is gone, the
// set has no number; 0 would scale its pool away.
func TestSetOfAnUnreadClassIsNotZero(t *testing.T) {
	runners := []queue.Runner{
		{ID: 1, Type: "instance_type", Tags: []string{"gpu", "linux"}},
		{ID: 2, Type: "instance_type", Tags: []string{"docker"}},
	}
	broken := false
	list := map[int64][]gitlab.PendingJob{
		1: {{ID: 7, Tags: []string{"gpu"}, TagsKnown: true}},
		2: {{ID: 8, Tags: []string{"docker"}, TagsKnown: true}},
	}
	q := queue.New(queue.Options{Interval: time.Minute})
	now := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	read := func(runners []queue.Runner) string {
		t.Helper()
		now = now.Add(time.Minute)
		answered(t, q, now, runners, func(p gitlab.QueuePage) gitlab.QueueJobs {
			if broken && p.Runner == 1 {
				return gitlab.QueueJobs{Count: -1, Err: errors.New("boom")}
			}
			return gitlab.QueueJobs{Count: len(list[p.Runner]), Jobs: list[p.Runner]}
		})
		s := q.Snapshot(now, same)
		var out strings.Builder
		for _, set := range s.TagSets {
			fmt.Fprintf(&out, "%s=%d ", set.Tags, set.Jobs)
		}
		for _, u := range s.Unmatched {
			fmt.Fprintf(&out, "%s/%s=%d ", u.Tags, u.Reason, u.Jobs)
		}
		return out.String()
	}
	for i, step := range []struct {
		change func()
		want   string
	}{
		{func() {}, "docker=1 gpu=1 gpu,linux=0 docker/none_available=1 gpu/none_available=1 "},
		{func() { broken = true }, "docker=1 docker/none_available=1 "},
		{func() { broken, list[1] = false, nil }, "docker=1 gpu=0 gpu,linux=0 docker/none_available=1 gpu/none_available=0 "},
		{func() { runners = runners[1:] }, "docker=1 docker/none_available=1 "},
	} {
		step.change()
		if got := read(runners); got != step.want {
			t.Errorf("step %d: %s, want %s", i, got, step.want)
		}
	}
}

// TestQueueWithoutAnyRunner: with all, what waits is known although no runner is registered; else it is not known.
func TestQueueWithoutAnyRunner(t *testing.T) {
	for _, all := range []bool{false, true} {
		b := newBench(t, gitlabsim.Options{}, queue.Options{All: all})
		for range 3 {
			b.CreateJob(gitlabsim.JobSpec{Tags: []string{"docker"}})
		}
		b.now = b.now.Add(2 * time.Minute)
		b.mustRead()
		got := b.queue.Snapshot(b.now, same)
		if !all && got != nil {
			t.Errorf("%+v", got)
		}
		want := []snapshot.QueueUnmatched{{Tags: "docker", Reason: snapshot.NoRunner, Jobs: 3}}
		if all && (got == nil || got.Jobs != 3 || !slices.Equal(counts(got.Unmatched), want)) {
			t.Errorf("%+v", got)
		}
	}
}

// TestOneFailureDoesNotEndTheWalk: a page of the list of all jobs that fails once is read again at the next
// walk; one that GitLab cannot list in time is not for hours.
func TestOneFailureDoesNotEndTheWalk(t *testing.T) {
	for reason, want := range map[gitlab.Reason]int{gitlab.ReasonServerError: 1, gitlab.ReasonTimeout: 0} {
		b := newBench(t, gitlabsim.Options{}, queue.Options{All: true})
		b.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"docker"}})
		b.CreateJob(gitlabsim.JobSpec{Tags: []string{"dokcer"}})
		b.now = b.now.Add(2 * time.Minute)
		b.holds(true)
		failed := 0
		for range 25 {
			b.now = b.now.Add(time.Minute)
			r := b.queue.Begin(b.now, b.runners())
			for {
				request, ok := r.Next()
				if !ok {
					break
				}
				a, err := b.client.Queue(t.Context(), request)
				if len(request.Pages) == 1 && request.Pages[0].Runner == 0 && failed == 0 {
					failed++
					a, err = gitlab.QueueAnswer{}, &gitlab.Error{Reason: reason}
				}
				r.Take(a, err)
			}
			if err := r.End(); err != nil {
				t.Fatal(err)
			}
		}
		if got := b.queue.Snapshot(b.now, same); failed != 1 || got == nil || got.Jobs != want || got.Everything != (want > 0) {
			t.Errorf("%s: %+v", reason, got)
		}
	}
}

// TestOneProjectDoesNotHideTheOthers: of several projects one that was deleted or is hidden leaves the queue of
// the others a lower bound; where all are, there is none.
func TestOneProjectDoesNotHideTheOthers(t *testing.T) {
	b := newBench(t, gitlabsim.Options{}, queue.Options{})
	acme := b.AddGroup("acme", 0)
	one := b.AddProject("one", acme)
	b.AddRunner(gitlabsim.RunnerSpec{Group: acme, Tags: []string{"docker"}})
	b.CreateJob(gitlabsim.JobSpec{Project: one, Tags: []string{"docker"}})
	b.queue = queue.New(queue.Options{Interval: time.Minute, Projects: []string{"acme/gone", "acme/one"}})
	if result := b.mustRead(); result == nil || !result.Truncated || len(result.Jobs) != 1 {
		t.Errorf("%+v", result)
	}
	b.queue = queue.New(queue.Options{Interval: time.Minute, Projects: []string{"acme/gone", "acme/hidden"}})
	if err := b.read(); gitlab.ReasonOf(err) != gitlab.ReasonNotFound || b.queue.Result(b.now) != nil {
		t.Errorf("%v, %+v", err, b.queue.Result(b.now))
	}
}
