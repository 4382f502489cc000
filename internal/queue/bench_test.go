package queue

import (
	"fmt"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
)

// BenchmarkReading is one reading of 180 classes with 5,400 waiting jobs that
// are known already, without GitLab.
func BenchmarkReading(b *testing.B) {
	const classes, each = 180, 24
	var runners []Runner
	answers := map[int64]gitlab.QueueJobs{}
	id := int64(0)
	for c := range classes {
		tag := fmt.Sprintf("tag-%03d", c)
		for i := range 20 {
			runners = append(runners, Runner{ID: int64(1 + c*20 + i), Type: "instance_type", Tags: []string{tag}, Available: true})
		}
		a := gitlab.QueueJobs{Count: each}
		for range each {
			id++
			a.Jobs = append(a.Jobs, gitlab.PendingJob{ID: id, Tags: []string{tag}, TagsKnown: true})
		}
		answers[int64(1+c*20)] = a
	}
	q := New(Options{Interval: time.Minute})
	now := time.Now()
	read := func() *Result {
		r := q.Begin(now, runners)
		for {
			request, ok := r.Next()
			if !ok {
				break
			}
			a := gitlab.QueueAnswer{}
			for _, p := range request.Pages {
				a.Pages = append(a.Pages, answers[p.Runner])
			}
			r.Take(a, nil)
		}
		if err := r.End(); err != nil {
			b.Fatal(err)
		}
		return q.Result(now)
	}
	for range 10 {
		read()
	}
	for b.Loop() {
		if res := read(); len(res.Jobs) != classes*each || res.Truncated {
			b.Fatalf("%d jobs, truncated %v", len(res.Jobs), res.Truncated)
		}
	}
}
