package store

import (
	"fmt"
	"testing"
)

// week is the n-th commit of a fleet with 1,000 finished jobs a minute: one
// chunk of settled ids, the totals they changed, marks of the runners read; what
// is older than a day (here: kept commits) is forgotten.
func week(n, kept int) Batch {
	var b Batch
	chunk := noise(random(1, 2), 17*10) // 1,000 a minute, a commit a second, 10 bytes an id
	key := func(n int) []byte { return fmt.Appendf(nil, "settled/%08d", n) }
	b.Put = append(b.Put, Record{Key: key(n), Value: chunk})
	for i := range 50 {
		b.Put = append(b.Put, Record{Key: fmt.Appendf(nil, "runner/%05d", (n*37+i*i*13)%2000), Value: fmt.Appendf(nil, "%040d", n)})
	}
	if n >= kept {
		b.Delete = append(b.Delete, key(n-kept))
	}
	return b
}

func BenchmarkCommit(b *testing.B) {
	b.ReportAllocs()
	s := openState(b, open(b, b.TempDir()), "corp")
	n := 0
	for b.Loop() {
		commit(b, s, week(n, 1<<30))
		n++
	}
	b.ReportMetric(float64(s.backend.(*diskState).end)/float64(n), "file-B/op")
}

// filled is a state after a day and more: 86,400 chunks, 2,000 runners.
func filled(b *testing.B) (*Folder, *State) {
	b.Helper()
	f := open(b, b.TempDir())
	s := openState(b, f, "corp")
	for from := 0; from < 86400; from += 8640 {
		var all Batch
		for n := from; n < from+8640; n++ {
			all.Put = append(all.Put, week(n, 1<<30).Put...)
		}
		commit(b, s, all)
	}
	return f, s
}

func BenchmarkCommitAfterADay(b *testing.B) {
	_, s := filled(b)
	b.ReportAllocs()
	n := 86400
	for b.Loop() {
		commit(b, s, week(n, 86400))
		n++
	}
	b.ReportMetric(float64(s.backend.(*diskState).end), "file-B")
}

func BenchmarkOpenAfterADay(b *testing.B) {
	f, s := filled(b)
	closeState(b, s)
	b.ReportAllocs()
	for b.Loop() {
		closeState(b, openState(b, f, "corp"))
	}
}

func BenchmarkLoadAfterADay(b *testing.B) {
	_, s := filled(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Load(func(_, _ []byte) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCommitFleet is the first commit of 100,000 runners, in no order.
func BenchmarkCommitFleet(b *testing.B) {
	var all Batch
	for _, i := range random(1, 2).Perm(100_000) {
		all.Put = append(all.Put, Record{Key: fmt.Appendf(nil, "runner/%08d", i), Value: fmt.Appendf(nil, "%0200d", i)})
	}
	for b.Loop() {
		b.StopTimer()
		s := openState(b, open(b, b.TempDir()), "corp")
		b.StartTimer()
		commit(b, s, all)
	}
}
