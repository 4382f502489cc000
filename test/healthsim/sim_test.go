package main

import (
	"testing"

	"gitlab-runner-fleet-exporter/internal/health"
)

// TestMonthsOfIncidentsStayWithinBounds runs a part of a month of the whole fleet and some of nine
// runners through internal/health, with restarts from its records. The seeds
// are not those that judge; the bounds are wider than those of docs/health.md,
// since a few incidents are few.
func TestMonthsOfIncidentsStayWithinBounds(t *testing.T) {
	const days = 5 // incidents begin on the fourth
	for _, graphql := range []bool{true, false} {
		name := map[bool]string{true: "GraphQL", false: "REST"}[graphql]
		t.Run(name, func(t *testing.T) {
			s := newScore()
			runMonth(s, 3, options{graphql: graphql, days: days})
			found, deaths := len(s.minutes[allSilent]), s.deaths[allSilent]
			t.Logf("%d of %d found, p50 %.0f min, %d false down, requests %d, without those at once %d", found, deaths, quantile(s.minutes[allSilent], .5), sum(s.wrong), s.requests, s.plain)
			if deaths < 2 || found < deaths-1 { // one may just have happened
				t.Errorf("%d of %d deaths found", found, deaths)
			}
			if p50 := quantile(s.minutes[allSilent], .5); p50 > 65 {
				t.Errorf("p50 %.0f min", p50)
			}
			if n := sum(s.wrong); n > 1 {
				t.Errorf("false down %s", show(s.wrong))
			}
			if n := sum(s.innocent[health.BlackHole]); n > 1 {
				t.Errorf("false black holes %s", show(s.innocent[health.BlackHole]))
			}
			if graphql && s.requests > s.plain+s.plain/50 || s.requests*100 > s.plain*112 {
				t.Errorf("%d requests, %d without those at once", s.requests, s.plain)
			}
		})
	}
	t.Run("nine runners", func(t *testing.T) {
		s := newScore()
		runMonth(s, 1, options{graphql: true, small: true, days: monthDays})
		if n := sum(s.wrong); n > 0 {
			t.Errorf("false down %s", show(s.wrong))
		}
		if s.deaths[allSilent] == 0 || len(s.minutes[allSilent]) == 0 {
			t.Errorf("%d of %d deaths found", len(s.minutes[allSilent]), s.deaths[allSilent])
		}
	})
}
