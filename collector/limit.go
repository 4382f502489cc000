package collector

import (
	"cmp"
	"slices"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// reduction is the set of families that are left out to stay below
// metrics.series_limit: a Prometheus that is fed more series than it can hold is
// lost altogether, so the exporter has a ceiling of its own, and reports when it
// is reached. Sums are never left out.
type reduction uint8

const (
	unreduced      reduction = iota // nothing is left out
	withoutTags                     // runner_tag_info is
	withoutHealthy                  // all runner_ series are but the exceptions and runner_info of the longest ill
)

// mostIll is how many runners that are not alive, or suspect, keep series
// whatever the ceiling: they are what the exporter is there for.
const mostIll = 5000

// longestIll are the runners that keep series while the others give way.
func longestIll(v *view) map[int64]struct{} {
	only := map[int64]struct{}{}
	h := health(v)
	if h == nil {
		return only
	}
	type illness struct {
		id    int64
		since time.Time
	}
	var ill []illness
	for i := range h.Ill {
		r := &h.Ill[i]
		since := time.Time{}
		if r.Health != snapshot.HealthAlive {
			since = r.Since
		}
		for _, t := range r.Suspects {
			if !t.IsZero() && (since.IsZero() || t.Before(since)) {
				since = t
			}
		}
		if !since.IsZero() {
			ill = append(ill, illness{r.ID, since})
		}
	}
	if len(ill) > mostIll {
		slices.SortFunc(ill, func(a, b illness) int { return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.id, b.id)) })
		ill = ill[:mostIll]
	}
	for _, r := range ill {
		only[r.id] = struct{}{}
	}
	return only
}

// tagInfo gives way first: it has a series for each tag of each runner.
const tagInfo = fleetPrefix + "runner_tag_info"

// relief is how far below the ceiling the series must be before families come
// back: at its edge they would come and go with every publish.
const relief = 0.95

func (r reduction) drops(f *family) bool {
	return f.rows && (r == withoutHealthy && !f.ill || r == withoutTags && f.Name == tagInfo)
}

func (r reduction) message() string {
	switch r {
	case withoutTags:
		return "more series than metrics.series_limit: runner_tag_info gives way; see series_dropped"
	case withoutHealthy:
		return "more series than metrics.series_limit: the runner_ families give way, but for the health of runners that are ill; see series_dropped. Raise the limit, narrow metrics.runners.include, or set metrics.runners.enabled to false"
	default:
		return "below metrics.series_limit again: the runner_ families are back"
	}
}

// chooseReduction is the smallest one that suffices, over all GitLabs.
func chooseReduction(list []*entry, limit int, now reduction) reduction {
	if limit == 0 {
		return unreduced
	}
	sums, rows, tags := 0, 0, 0
	for _, en := range list {
		sums += en.main.series
		rows += en.rows.series
		for i, f := range en.rows.families {
			if f.Name == tagInfo {
				tags += en.rows.counts[i]
			}
		}
	}
	for r := range withoutHealthy {
		total := sums + rows
		if r == withoutTags {
			total -= tags
		}
		most := limit
		if r < now {
			most = int(relief * float64(limit))
		}
		if total <= most {
			return r
		}
	}
	return withoutHealthy
}

// at is the entry as it is shown with a reduction.
func (en *entry) at(r reduction) *entry {
	rows := en.rows
	if rows.reduction != r {
		rows = rows.at(r)
	}
	main := en.main.at(r)
	main.view.series = main.series
	main.view.dropped = map[string]int{}
	for i, f := range rows.families {
		n, kept := rows.counts[i], rows.counts[i]
		switch {
		case r.drops(f):
			kept = 0
		case r == withoutHealthy:
			kept = rows.kept[i]
		}
		if n > kept {
			main.view.dropped[f.Name] = n - kept
		}
		main.view.series += kept
	}
	return &entry{snap: en.snap, line: en.line, main: main, rows: rows}
}
