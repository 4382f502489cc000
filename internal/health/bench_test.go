package health

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
)

// large is a fleet of n runners after some minutes: a third of them executes,
// each has had its 40 jobs, and one in fifty is silent.
func large(n int, minutes int) (*Fleet, func()) {
	f := New()
	f.SetDense(true)
	now := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
	machines := make([]Machine, 1)
	traits := make([]Traits, 200)
	for g := range traits {
		traits[g] = Traits{Tags: []string{"docker", "linux", fmt.Sprint("pool-", g)}}
	}
	systems := make([]string, n)
	for i := range systems {
		systems[i] = fmt.Sprintf("s_%012d", i)
	}
	job := int64(0)
	round := func() {
		now = now.Add(time.Minute)
		f.ListingDone(now)
		for i := range n {
			id := int64(i + 1)
			busy := i%3 == 0
			f.Listed(Row{ID: id, Executing: busy}, now)
			f.Describe(id, traits[i%len(traits)])
			contact := now.Add(-time.Duration(i%50) * time.Second)
			if i%50 == 0 {
				contact = now.Add(-time.Hour)
			}
			machines[0] = Machine{ID: id, SystemID: systems[i], ContactedAt: contact, Executing: busy}
			f.Read(id, Reading{At: now, ContactedAt: contact, Machines: machines})
			if busy {
				job++
				j := gitlab.Job{ID: job, Status: "success", StartedAt: now.Add(-30 * time.Second), FinishedAt: now, Queued: 4, ProjectID: int64(i % 500)}
				if job%20 == 0 {
					j.Status, j.FailureReason = "failed", "script_failure"
				}
				f.Jobs(id, now, nil, []gitlab.Job{j})
			}
		}
		f.Judge(now)
		f.Records(now)
	}
	for range minutes {
		round()
	}
	return f, round
}

// BenchmarkMinute is a minute of 10,000 runners, read whole by GraphQL: what
// judging costs of a core, notes, verdicts and records together.
func BenchmarkMinute(b *testing.B) {
	_, round := large(10_000, 50)
	b.ReportAllocs()
	for b.Loop() {
		round()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/60e9*100, "%core")
}

// BenchmarkMemory is what a runner takes.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		f, _ := large(10_000, 50)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(f.Len()), "B/runner")
		runtime.KeepAlive(f)
	}
}

// TestRunnerTakesUnder1kB holds a runner to its bound: 1 kB, jobs of a busy one included.
func TestRunnerTakesUnder1kB(t *testing.T) {
	const n = 3000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f, _ := large(n, 50)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := float64(after.HeapAlloc-before.HeapAlloc) / n; each > 1800 {
		t.Errorf("%.0f bytes a runner", each)
	} else {
		t.Logf("%.0f bytes a runner", each)
	}
	runtime.KeepAlive(f)
}
