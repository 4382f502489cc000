package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// aggregates are sums over the whole fleet: as the simulated GitLab has
// them, and as the exporter shows them.
type aggregates struct {
	Runners, Managers, Executing int
	Tags                         map[string]int // runners under each

	// Families that are not shown at all, as the exporter does until it has
	// all that they sum: no sum is better than a part of it.
	withheld []string
}

// shownIn are the exporter's.
func shownIn(s samples) aggregates {
	sums := s.sums()
	a := aggregates{Runners: int(sums["runners"]), Managers: int(sums["managers"]), Executing: int(sums["jobs_executing"]), Tags: map[string]int{}}
	for _, family := range []string{"runners", "managers", "tag_runners"} {
		if _, ok := sums[family]; !ok {
			a.withheld = append(a.withheld, family)
		}
	}
	for tag, n := range s.by("tag_runners", "tag") {
		if n > 0 {
			a.Tags[tag] = int(n)
		}
	}
	return a
}

// against compares with the truth, for people. What executes moves, and is
// shown beside it.
func (a aggregates) against(truth aggregates) string {
	var wrong []string
	is := func(family, what string, have, want int) {
		if have != want && !slices.Contains(a.withheld, family) {
			wrong = append(wrong, fmt.Sprintf("%s of %s %s", thousands(have), thousands(want), what))
		}
	}
	is("runners", "runners", a.Runners, truth.Runners)
	is("managers", "machines", a.Managers, truth.Managers)
	right := 0
	for tag, n := range truth.Tags {
		if a.Tags[tag] == n {
			right++
		}
	}
	is("tag_runners", "tags", right, len(truth.Tags))
	for _, tag := range slices.Sorted(maps.Keys(a.Tags)) {
		if _, ok := truth.Tags[tag]; !ok {
			wrong = append(wrong, fmt.Sprintf("%s runners under the tag %s", thousands(a.Tags[tag]), tag))
		}
	}
	if len(wrong) > 0 {
		return "WRONG: " + strings.Join(wrong, ", ")
	}
	if len(a.withheld) > 0 {
		return "withheld: " + strings.Join(a.withheld, ", ")
	}
	return fmt.Sprintf("complete: %s runners, %s machines, %s tags", thousands(truth.Runners), thousands(truth.Managers), thousands(len(truth.Tags)))
}

// givenUp are the series that gave way to series_limit, by what the exporter
// reports of them.
type givenUp struct {
	families, series int
	logged           bool
}

func (g givenUp) String() string {
	inLog := map[bool]string{true: "in the log too", false: "NOT in the log"}[g.logged]
	if g.families == 0 {
		if g.logged {
			return "none now, but some earlier"
		}
		return "none"
	}
	return fmt.Sprintf("%s in %d families, by series_dropped and %s", thousands(g.series), g.families, inLog)
}
