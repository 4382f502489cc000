package health

import "math"

// The limit of a runner's silence, and what its habit makes of it: the section
// "Silent" of docs/health.md.
const (
	baseLimit     = 70 * minute  // a well idle runner is seen 60 min and one poll after its last sign
	baseHabit     = 62 * minute  // the same, without room for a slow poll
	sharedLimit   = 90 * minute  // entries of one config.toml are polled in turn
	newLimit      = 125 * minute // before its habit is known: as patient as GitLab, which shows offline after 2 h
	habitKnown    = 3 * day
	shortKnown    = 7 * day // for a limit below the base, a whole week
	shortGap      = 8 * minute
	shortLimit    = 15 * minute
	gapRoom       = 6 * minute // above the second largest gap of the week
	gapHabitRoom  = 2 * minute
	longGap       = 100 * minute // gaps beyond it are rare, and one of them teaches nothing
	longGapRoom   = 10 * minute
	longHabitRoom = 5 * minute
	longestGap    = 4 * hour // what is longer was an absence, not a habit
	lostCacheRoom = 15 * minute
	wrongWithin   = 4 * hour // a down that ended by itself so soon was wrong, and
	wrongLimit    = 4 * hour // two of them make its silence prove little
	wrongFor      = 30 * day

	habitDays = 8

	rateCount    = 15   // moments before the hit rate is used
	rateLeast    = 0.8  // below it: a runner that fits fewer jobs than its peers
	rateMost     = 0.98 // nobody is always seen
	rateHalf     = 200  // moments after which the older ones count half
	missedWindow = 120 * minute
)

// gaps are the largest silences of each of the last days, in seconds.
type gaps struct {
	most, second, long [habitDays]uint16
	day                int64 // of the newest
}

// roll makes today's slot the current one, and clears those of the days without a sign.
func (g *gaps) roll(now int64) int {
	d := now / day
	if d > g.day {
		for i := max(g.day+1, d-habitDays+1); i <= d; i++ {
			g.most[i%habitDays], g.second[i%habitDays], g.long[i%habitDays] = 0, 0, 0
		}
		g.day = d
	}
	return int(d % habitDays)
}

func (g *gaps) add(gap, now int64) {
	i := g.roll(now)
	switch v := uint16(min(gap, math.MaxUint16)); { //nolint:gosec // bounded above, and gaps are positive
	case gap > longestGap:
	case gap > longGap:
		g.long[i] = max(g.long[i], v)
	case v > g.most[i]:
		g.most[i], g.second[i] = v, g.most[i]
	default:
		g.second[i] = max(g.second[i], v)
	}
}

// largest is the largest gap of the week, the second largest, and the second
// largest daily maximum of those beyond longGap; long is whether there was one.
func (g *gaps) largest() (most, second, secondLong int64, long bool) {
	var a, b, c, d uint16
	for i := range g.most {
		if g.most[i] > a {
			a, b = g.most[i], a
		} else {
			b = max(b, g.most[i])
		}
		b = max(b, g.second[i])
		if g.long[i] > c {
			c, d = g.long[i], c
		} else {
			d = max(d, g.long[i])
		}
	}
	return int64(a), int64(b), int64(d), c > 0
}

// limit is how long a silence may be, and how long it usually is.
func (r *runner) limit(now, sign, lostAt int64) (limit, habit int64) {
	limit, habit = r.ownLimit(now)
	if r.wrong[1] > 0 && now-r.wrong[1] < wrongFor {
		limit = max(limit, wrongLimit)
	}
	if lostAt > sign && lostAt < sign+limit {
		limit += lostCacheRoom // what was seen before the loss is not known
	}
	return limit, habit
}

func (r *runner) ownLimit(now int64) (limit, habit int64) {
	known := now - r.first
	if known < habitKnown {
		return newLimit, baseHabit
	}
	most, second, secondLong, long := r.gaps.largest()
	if known > shortKnown && most > 0 && most <= shortGap && !long {
		return max(shortLimit, 3*most), max(jobSilence, 2*most)
	}
	limit, habit = max(baseLimit, second+gapRoom), max(baseHabit, second+gapHabitRoom)
	if r.shared(now) {
		limit = max(limit, sharedLimit)
	}
	if secondLong > 0 {
		limit, habit = max(limit, secondLong+longGapRoom), max(habit, secondLong+longHabitRoom)
	}
	return limit, habit
}

// chance is how probable it is that a runner that works missed so many moments.
func (r *runner) chance() float64 {
	known := float64(r.hits + r.misses)
	rate := min(rateMost, float64(r.hits)/(known+1))
	if known < rateCount || rate < rateLeast {
		return 1
	}
	return math.Pow(1-rate, float64(r.missed))
}

// learnRate counts moments at which it was seen, or was not.
func (r *runner) learnRate(hits, misses int) {
	r.hits += float32(hits)
	r.misses += float32(misses)
	if r.hits+r.misses > rateHalf {
		r.hits, r.misses = r.hits/2, r.misses/2
	}
}
