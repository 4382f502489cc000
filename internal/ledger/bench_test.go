package ledger

import (
	"fmt"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// BenchmarkFold is a page of 100 rows: all settled, as nearly each page is,
// and all new.
func BenchmarkFold(b *testing.B) {
	setup := func(b *testing.B) *Ledger {
		b.Helper()
		l, _ := begun(b)
		l.Describe(10, []string{"a", "b", "c"})
		return l
	}
	b.Run("settled", func(b *testing.B) {
		l := setup(b)
		page := gitlab.JobsPage{Jobs: rows("success", 100, 100, 1), Next: 2, Total: -1}
		l.poll(10, at(2)).newest(page)
		for b.Loop() {
			l.poll(10, at(2)).newest(page)
		}
	})
	b.Run("news", func(b *testing.B) {
		l := setup(b)
		page := gitlab.JobsPage{Jobs: rows("success", 100, 100, 1), Next: 2, Total: -1}
		for b.Loop() {
			for i := range page.Jobs {
				page.Jobs[i].ID += 100
			}
			l.poll(10, at(2)).newest(page)
			if len(l.pending) > 1_000_000 {
				l = setup(b)
			}
		}
	})
}

// fleet is a ledger of so many runners, each of which finished a job, and tags.
func fleet(b *testing.B, runners, tags int) *Ledger {
	b.Helper()
	l := New(day)
	l.Begin(t0)
	var members []Member
	for i := range runners {
		members = append(members, Member{ID: int64(i + 1), Type: snapshot.RunnerType(i % snapshot.NumRunnerTypes)})
	}
	l.Listed(members, "instance", t0)
	for i := range runners {
		id := int64(i + 1)
		l.Describe(id, []string{fmt.Sprint("tag-", i%tags), fmt.Sprint("tag-", (i+7)%tags)})
		l.poll(id, at(2)).newest(gitlab.JobsPage{Jobs: append(rows("success", 3*id, 1, 1), rows("failed", 3*id+1, 1, 1)...)})
	}
	disk{}.commit(l)
	return l
}

// BenchmarkBatch is a commit each second at 1,000 finished jobs a minute.
func BenchmarkBatch(b *testing.B) {
	const perSecond = 17
	l := fleet(b, 2000, 40)
	id, bytes, records := int64(1_000_000), 0, 0
	for b.Loop() {
		b.StopTimer()
		for range perSecond {
			id++
			l.poll(1+id%2000, at(2)).newest(gitlab.JobsPage{Jobs: rows("success", id, 1, 1)})
		}
		b.StartTimer()
		batch := l.Batch()
		l.Committed(batch)
		b.StopTimer()
		for _, r := range batch.Records {
			bytes += len(r.Key) + len(r.Value)
		}
		records += len(batch.Records)
		b.StartTimer()
	}
	b.ReportMetric(float64(bytes)/float64(b.N), "bytes/commit")
	b.ReportMetric(float64(records)/float64(b.N), "records/commit")
}

// BenchmarkCounters is the picture of 10,000 runners and 500 tags.
func BenchmarkCounters(b *testing.B) {
	l := fleet(b, 10_000, 500)
	all := func(int64) bool { return true }
	for _, rows := range []bool{true, false} {
		b.Run(fmt.Sprintf("rows=%v", rows), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				l.Counters(1, at(5), rows, all)
			}
		})
	}
}

// BenchmarkServed is what a scrape costs while series wait to be read at 0.
func BenchmarkServed(b *testing.B) {
	l := fleet(b, 10_000, 500)
	l.Counters(2, at(5), true, func(int64) bool { return true })
	for b.Loop() {
		l.Served(1, 1, at(5).Add(time.Second))
	}
}

// BenchmarkSettledMemory reports the heap of a settled id, at a chunk of 16 a commit.
func BenchmarkSettledMemory(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(settledMemory(1_440_000, 16), "B/id")
	}
}
