package app

import (
	"math"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/plan"
)

// TestDemandEqualsHandReckoning holds the formula to numbers reckoned by hand.
func TestDemandEqualsHandReckoning(t *testing.T) {
	iv := plan.Intervals{Runners: time.Minute, Details: 15 * time.Minute, Jobs: time.Minute, Reconcile: time.Hour}
	for _, tt := range []struct {
		name string
		size size
		want demand
	}{
		{"no runners still costs a page", size{pages: 1, shards: 1}, demand{listing: 1}},
		{"each scope costs a page", size{pages: 3, runners: 10, shards: 1}, demand{listing: 3, details: 20. / 15, idleJobs: 2, walk: 10. / 60}},
		// 100 busy ones: details and machines every 5 min, two requests for jobs.
		{"a thousand", size{pages: 10, runners: 1000, busy: 100, shards: 1}, demand{listing: 10, details: 40 + 120, activeJobs: 200, idleJobs: 180, walk: 1000. / 60}},
		// Details come with the list, and with them how many jobs execute.
		{"a thousand by GraphQL", size{10, 1000, 100, 1, true, true}, demand{listing: 10, activeJobs: 100, idleJobs: 180, walk: 1000. / 60}},
		// Before 16.2 GraphQL does not count jobs.
		{"by GraphQL without a count", size{10, 1000, 100, 1, true, false}, demand{listing: 10, activeJobs: 200, idleJobs: 180, walk: 1000. / 60}},
		// A shard lists all, and reads half of the rest.
		{"one of two", size{pages: 10, runners: 1000, busy: 100, shards: 2}, demand{listing: 10, details: 80, activeJobs: 100, idleJobs: 90, walk: 500. / 60}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := demandOf(iv, tt.size)
			near := func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }
			if !near(got.listing, tt.want.listing) || !near(got.details, tt.want.details) || !near(got.activeJobs, tt.want.activeJobs) ||
				!near(got.idleJobs, tt.want.idleJobs) || !near(got.walk, tt.want.walk) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}
