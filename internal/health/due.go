package health

import (
	"cmp"
	"slices"
	"time"
)

// Readings at once, where the next one is decisive and contacts are not read
// with the list anyway (REST): the section "What it costs" of docs/health.md.
const (
	askJobFrom, askJobTo   = 3 * minute, 25 * minute
	askJobEach             = minute
	askPeersTo             = 70 * minute
	askPeersEach           = 2 * minute
	askPeersRatio          = 10 // hits for each miss
	askDueFrom             = 45 * minute
	askDueAt               = 66 * minute // most are read by their interval before, and found seen
	askDueEach, askDueTill = minute, 75 * minute
)

// ask plans the next reading of a runner that cannot wait for its interval.
func (f *Fleet) ask(r *runner, now int64) {
	r.askAt = 0
	silence := now - r.sign
	switch {
	case f.dense || r.paused || r.sign == 0:
	case r.executing:
		if silence >= askJobFrom && silence < askJobTo { // nothing is decided before jobSilence
			r.askAt = max(now+askJobEach, r.sign+jobSilence)
		}
	case silence > askDueTill:
	case r.missed >= 1 && silence > freshSilence && silence < askPeersTo && r.hits > askPeersRatio*r.misses:
		r.askAt = now + askPeersEach
	case silence >= askDueAt-minute:
		r.askAt = now + askDueEach
	case silence > askDueFrom:
		r.askAt = r.sign + askDueAt
	}
	if r.askAt > 0 {
		f.asks[r.id] = r
	} else {
		delete(f.asks, r.id)
	}
}

// Due are the runners whose details and machines should be read now, beside
// what details_interval plans, the longest due first. A runner stays due until
// it is read: Read, or Remove.
func (f *Fleet) Due(now time.Time) []int64 {
	at := unix(now)
	var list []*runner
	for _, r := range f.asks {
		if r.askAt <= at {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *runner) int {
		return cmp.Or(cmp.Compare(a.askAt, b.askAt), cmp.Compare(a.id, b.id))
	})
	ids := make([]int64, 0, len(list))
	for _, r := range list {
		ids = append(ids, r.id)
	}
	return ids
}
