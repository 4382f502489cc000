package gitlabsim

import (
	"net/http"
	"testing"
	"time"
)

func benchmark(b *testing.B, w *World, path string) {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://x/api/v4"+path, nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("PRIVATE-TOKEN", adminToken)
	b.ReportAllocs()
	for b.Loop() {
		a, err := w.serve(req)
		if err != nil || a.status != http.StatusOK {
			b.Fatal(a.status, err)
		}
		b.SetBytes(int64(len(a.body)))
	}
}

func BenchmarkListPage(b *testing.B) {
	w, _ := newWorld(Options{Runners: 100_000, Tags: 200})
	benchmark(b, w, "/runners/all?per_page=100&page=900")
}

func BenchmarkDetails(b *testing.B) {
	w, _ := newWorld(Options{Runners: 100_000, Tags: 200})
	benchmark(b, w, "/runners/77777")
}

func BenchmarkJobPage(b *testing.B) {
	w, _ := newWorld(Options{Runners: 1, Healthy: true, JobsPerHour: 4000, History: 24 * time.Hour})
	benchmark(b, w, "/runners/1/jobs?per_page=100&page=500&order_by=id&sort=desc")
}

func BenchmarkRunningJobs(b *testing.B) {
	w, _ := newWorld(Options{Runners: 1000, Healthy: true, JobsPerHour: 20_000, History: 2 * time.Hour})
	benchmark(b, w, "/runners/7/jobs?per_page=100&status=running")
}

// BenchmarkWorld lives through an hour of a fleet with 60,000 jobs an hour.
func BenchmarkWorld(b *testing.B) {
	w, c := newWorld(Options{Runners: 2000, Tags: 100, JobsPerHour: 60_000})
	b.ReportAllocs()
	for b.Loop() {
		c.add(time.Hour)
		w.Now()
	}
	b.ReportMetric(float64(w.jobs.n)/float64(b.N), "jobs/op")
}
