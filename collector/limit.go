package collector

// level is what gives way to metrics.series_limit: a Prometheus that is fed
// more series than it can hold is lost altogether, so the exporter has a
// ceiling of its own, and says when it is reached. Sums never give way.
type level uint8

const (
	everything  level = iota // nothing gives way
	withoutTags              // runner_tag_info does
	withoutRows              // all runner_ families do
)

// tagInfo gives way first: it has a series for each tag of each runner.
const tagInfo = fleetPrefix + "runner_tag_info"

// relief is how far below the ceiling the series must be before families come
// back: at its edge they would come and go with every publish.
const relief = 0.95

func (l level) drops(f *family) bool {
	return f.rows && (l == withoutRows || (l == withoutTags && f.Name == tagInfo))
}

func (l level) message() string {
	switch l {
	case withoutTags:
		return "more series than metrics.series_limit: runner_tag_info gives way; see series_dropped"
	case withoutRows:
		return "more series than metrics.series_limit: the runner_ families give way; see series_dropped. Raise the limit, narrow metrics.runners.include, or set metrics.runners.enabled to false"
	default:
		return "below metrics.series_limit again: the runner_ families are back"
	}
}

// chooseLevel finds the least that has to give way, over all GitLabs.
func chooseLevel(list []*entry, limit int, now level) level {
	if limit == 0 {
		return everything
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
	for l := range withoutRows {
		total := sums + rows
		if l == withoutTags {
			total -= tags
		}
		most := limit
		if l < now {
			most = int(relief * float64(limit))
		}
		if total <= most {
			return l
		}
	}
	return withoutRows
}

// at is the entry as it is shown at a level.
func (en *entry) at(l level) *entry {
	rows := en.rows
	if rows.level != l {
		rows = rows.at(l)
	}
	main := en.main.at(l)
	main.view.series = main.series
	main.view.dropped = map[string]int{}
	for i, f := range rows.families {
		if n := rows.counts[i]; n > 0 && l.drops(f) {
			main.view.dropped[f.Name] = n
		} else {
			main.view.series += n
		}
	}
	return &entry{snap: en.snap, line: en.line, main: main, rows: rows}
}
