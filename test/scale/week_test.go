package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"slices"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/ledger"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/internal/store"
)

// BenchmarkScaleWeek is the state of 2,000 runners that finish 1,000 jobs a
// minute for a week: its size on disk, what a commit a second takes then,
// and how long a restart reads it.
// The week is folded and made into records second by second, and written to
// disk minute by minute; the commits that are timed are as the exporter's.
func BenchmarkScaleWeek(b *testing.B) {
	for _, lookback := range []time.Duration{24 * time.Hour, 7 * 24 * time.Hour} {
		b.Run("lookback="+lookback.String(), func(b *testing.B) { week(b, lookback) })
	}
}

func week(b *testing.B, lookback time.Duration) {
	b.Helper()
	const (
		runners   = 2000
		tags      = 200
		perMinute = 1000
		seconds   = 7 * 24 * 3600
	)
	dir := b.TempDir()
	folder, err := store.Open(b.Context(), store.Options{Path: dir, Layout: ledger.Layout})
	if err != nil {
		b.Fatal(err)
	}
	state, err := folder.Open("scale", "http://gitlab.test")
	if err != nil {
		b.Fatal(err)
	}
	l := ledger.New(ledger.Options{Lookback: lookback})
	now := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	l.Begin(now)
	var members []ledger.Member
	for id := range int64(runners) {
		members = append(members, ledger.Member{ID: id + 1, Type: snapshot.RunnerType(id % snapshot.NumRunnerTypes)})
	}
	l.Listed(members, "instance", now)
	for _, m := range members {
		l.Describe(m.ID, []string{fmt.Sprint("tag-", m.ID%tags), fmt.Sprint("tag-", m.ID%7), fmt.Sprint("tag-", m.ID%31)})
	}

	var id int64
	// second lives through one, in which the jobs of that second end and are
	// read, and returns what is to be committed.
	second := func(n int) *ledger.Batch {
		now = now.Add(time.Second)
		l.Advance(now, now)
		for range perMinute*(n+1)/60 - perMinute*n/60 {
			id++
			job := gitlab.Job{
				ID: id, Status: "success", CreatedAt: now.Add(-10 * time.Minute), StartedAt: now.Add(-5 * time.Minute), FinishedAt: now,
				Duration: 300, Queued: 3, ProjectID: 1 + id%500,
			}
			if id%8 == 0 {
				job.Status, job.FailureReason = "failed", "script_failure"
			}
			p := l.Poll(1+id%runners, now, now, ledger.Listed{Idle: true}, time.Hour)
			p.Take(ledger.Answer{Page: gitlab.JobsPage{Jobs: []gitlab.Job{job}, Total: -1}}, nil)
			p.End()
		}
		if n%60 == 0 {
			l.Forget(now)
			l.Delays() // else they are kept
		}
		return l.Batch()
	}
	add := func(out *store.Batch, batch *ledger.Batch) {
		for _, r := range batch.Records {
			if r.Value == nil {
				out.Delete = append(out.Delete, r.Key)
			} else {
				out.Put = append(out.Put, store.Record{Key: r.Key, Value: r.Value})
			}
		}
	}
	var minute store.Batch
	for n := range seconds {
		if batch := second(n); batch != nil {
			add(&minute, batch)
			l.Committed(batch)
		}
		if n%60 == 59 {
			if err := state.Commit(minute); err != nil {
				b.Fatal(err)
			}
			minute = store.Batch{}
		}
	}
	var took []time.Duration
	n := seconds
	for b.Loop() {
		b.StopTimer()
		batch := second(n)
		n++
		var one store.Batch
		add(&one, batch)
		b.StartTimer()
		began := time.Now()
		if err := state.Commit(one); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
		b.StopTimer()
		l.Committed(batch)
		b.StartTimer()
	}
	info, err := os.Stat(filepath.Join(dir, "scale.db"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(info.Size())/(1<<20), "MiB")
	b.ReportMetric(float64(slices.Max(took))/1e6, "ms-max")
	if err := state.Close(); err != nil {
		b.Fatal(err)
	}
	// A restart: the file is checked and read.
	l = nil
	heap := peakHeap(func() {
		began := time.Now()
		if state, err = folder.Open("scale", "http://gitlab.test"); err != nil {
			b.Fatal(err)
		}
		if err := state.Load(func(_, _ []byte) error { return nil }); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(began))/1e6, "ms-read")
	})
	b.ReportMetric(float64(heap)/(1<<20), "MiB-heap-read")
	if err := folder.Close(); err != nil {
		b.Fatal(err)
	}
}

// peakHeap is by how much the heap grows while fn runs, garbage included.
func peakHeap(fn func()) (most uint64) {
	now := func() uint64 {
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	runtime.GC()
	before := now()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			most = max(most, now())
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	fn()
	close(stop)
	<-stopped
	return most - before
}
