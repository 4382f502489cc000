package budget

import (
	"math"
	"time"
)

const (
	// windowSpan is over a minute: what leaves here within a minute may reach
	// GitLab a little closer together, and there it is counted.
	windowSpan = 61 * time.Second
	// slack is how much earlier than a span the window lets a request go. The
	// pace keeps the limit by itself, and jitter must not run into the window:
	// it would push each request to the end of its slot, minute after minute.
	slack = 500 * time.Millisecond
)

// limit is the configured maximum: never more than n requests within span.
// In the first minute they may be spent at once, but for a tenth that only the
// listing may use: a large fleet's next listing must not wait until the first
// picture's requests are a minute old. Later requests are paced.
type limit struct {
	n       int // 0: no limit
	span    time.Duration
	reserve int

	start time.Time
	sent  []time.Duration // since start, of requests that may still be in the window
	head  int             // sent[:head] are out of it

	// credit may be spent unpaced until creditUntil. The first minute begins
	// with the first answer: a GitLab that is down at the start must not cost
	// the first picture.
	credit      int
	creditUntil time.Time
}

func newLimit(perSecond float64, now time.Time) limit {
	l := limit{start: now}
	if perSecond <= 0 || math.IsInf(perSecond, 1) || math.IsNaN(perSecond) {
		return l
	}
	// The epsilon keeps 60 x 0.05 from becoming 2.
	l.n = max(int(math.Min(60*perSecond+1e-9, math.MaxInt32)), 1)
	l.span = windowSpan
	if alone := time.Duration(math.Min(float64(time.Second)/perSecond, float64(24*time.Hour))); l.n == 1 && alone > l.span {
		l.span = alone // less than one a minute
	}
	if l.n > 1 {
		l.reserve = max(l.n/Tenth, 1)
	}
	l.credit = l.n
	return l
}

func (l *limit) firstMinute(now time.Time) bool {
	return l.creditUntil.IsZero() || now.Before(l.creditUntil)
}

func (l *limit) answered(now time.Time) {
	if l.creditUntil.IsZero() {
		l.creditUntil = now.Add(l.span)
		l.expire(now.Sub(l.start))
		l.credit = l.n - (len(l.sent) - l.head) // those of a dead start are forgiven
	}
}

// rate is the pace in requests a second; none while there is credit.
func (l *limit) rate(now time.Time, listing bool) float64 {
	if l.n == 0 || l.firstMinute(now) && (l.credit > l.reserve || listing && l.credit > 0) {
		return noRate()
	}
	return float64(l.n) / l.span.Seconds()
}

// free is the earliest time at which one more request keeps the limit.
func (l *limit) free(now time.Time, listing bool) time.Time {
	if l.n == 0 {
		return now
	}
	most := l.n
	if l.firstMinute(now) && !listing {
		most -= l.reserve
	}
	if len(l.sent) < most {
		return now
	}
	return l.start.Add(l.sent[len(l.sent)-most] + l.span - slack)
}

func (l *limit) spend(now time.Time) {
	if l.n == 0 {
		return
	}
	l.credit--
	at := now.Sub(l.start)
	l.sent = append(l.sent, at)
	l.expire(at)
	if l.head > len(l.sent)/2 {
		l.sent = l.sent[:copy(l.sent, l.sent[l.head:])]
		l.head = 0
	}
}

func (l *limit) expire(at time.Duration) {
	for l.head < len(l.sent) && l.sent[l.head] < at-l.span {
		l.head++
	}
}

// pacer spreads requests: one in each slot of 1/rate seconds, at a random
// moment of it (of its first half second if it is longer), so that exporters which run side by side drift apart and
// no rhythm of ours meets one of GitLab's. Slots do not drift: the mean holds.
type pacer struct {
	slot   time.Time // the nominal time of the last request
	jitter float64   // of the next one, [0,1)
}

// ready is when the next request may go. The rate is the one in force now, so
// that a change works at once.
func (p *pacer) ready(rate float64) time.Time {
	if math.IsInf(rate, 1) {
		return time.Time{}
	}
	step := seconds(1 / rate)
	return p.slot.Add(step + time.Duration(p.jitter*float64(min(step, slack))))
}

// spend marks a request. An idle budget saves up no more than burst.
func (p *pacer) spend(now time.Time, rate float64, burst time.Duration, jitter float64) {
	p.jitter = jitter
	if math.IsInf(rate, 1) {
		p.slot = now
		return
	}
	step := seconds(1 / rate)
	p.slot = p.slot.Add(step)
	if earliest := now.Add(-max(burst, step)); p.slot.Before(earliest) {
		p.slot = earliest
	}
	if p.slot.After(now) {
		p.slot = now // one on trial went out of turn; it must not push the next away
	}
}

// seconds converts without overflow.
func seconds(s float64) time.Duration {
	return time.Duration(math.Min(s*float64(time.Second), float64(365*24*time.Hour)))
}
