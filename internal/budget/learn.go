package budget

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"gitlab-runner-fleet-exporter/internal/ratelimit"
)

// rateHeaders is what GitLab reports of its throttle (docs/gitlab-api.md 5.1). Remaining and
// Observed speak of the real window, RateLimit-Limit is normalised to a minute:
// they must not be subtracted from each other.
type rateHeaders struct {
	limit     float64 // Observed + Remaining
	remaining float64
	reset     int64     // RateLimit-Reset, by GitLab's clock: it names the window
	date      time.Time // Date of the answer
	until     time.Time // when the window is over, by ours
	left      int       // of remaining, less what we have sent since
	// perSecond is RateLimit-Limit as a rate; it outlives the window, so that
	// the next one does not begin with a burst. 0: not reported.
	perSecond float64
}

// keep is the part of a reported or learned limit that we use: the throttle counts
// per user, and others may work with the same one.
const keep = 0.9

// longestWindow that is believed. GitLab's default is an hour.
const longestWindow = 25 * time.Hour

func (t *rateHeaders) valid(now time.Time) bool { return now.Before(t.until) }

// read takes an answer's header. inFlight requests are not in its numbers yet.
func (t *rateHeaders) read(h http.Header, status int, now time.Time, inFlight int, jitter float64) {
	remaining, ok := headerInt(h, "RateLimit-Remaining")
	left, isReset := untilReset(h, now)
	if !ok || !isReset || remaining < 0 {
		if status != http.StatusTooManyRequests && remaining >= 0 && h.Get("RateLimit-Limit") == "" {
			t.perSecond = 0 // an answer without a throttle: it is off, or spoke only of that 429
		}
		return
	}
	if left <= 0 || left > longestWindow {
		return // a late answer, of a window that is over; or nonsense
	}
	date, reset := ratelimit.ServerTime(h, now), ratelimit.ServerTime(h, now).Add(left).Unix()
	same := t.valid(now) && reset == t.reset
	if same && float64(remaining) > t.remaining && date.Before(t.date.Add(2*time.Second)) {
		return // overtaken by an answer to a later request
	}
	if perMinute, ok := headerInt(h, "RateLimit-Limit"); ok && perMinute > 0 {
		t.perSecond = float64(perMinute) / 60
	}
	observed, _ := headerInt(h, "RateLimit-Observed")
	// Refused requests are observed too, so at 0 the sum is too high.
	if !same || remaining > 0 {
		t.limit = float64(max(observed, 0) + remaining)
	}
	if !same {
		t.until = now.Add(left + time.Duration(jitter*float64(min(left/20, time.Second))))
	}
	t.remaining, t.reset, t.date = float64(remaining), reset, date
	t.left = int(min(remaining, math.MaxInt32)) - inFlight
}

// rate spreads what is left over the time that is left. It is never below
// floor: a window of an hour that somebody else emptied is still looked at.
func (t *rateHeaders) rate(now time.Time, floor float64) float64 {
	if !t.valid(now) {
		if t.perSecond > 0 {
			return max(keep*t.perSecond, floor)
		}
		return noRate()
	}
	// Date has whole seconds: the true time left is up to one second less.
	const half = 500 * time.Millisecond
	return max(keep*float64(t.left)/max(t.until.Sub(now)-half, half).Seconds(), floor)
}

// tally counts requests that GitLab let pass, and the seconds that took. Idle
// time is not in it: a fleet that asks little is not slow because of GitLab.
type tally struct {
	accepted, busy float64
}

func (a tally) rate(pause time.Duration) float64 {
	if t := a.busy + pause.Seconds(); t > 0 {
		return max(a.accepted, 1) / t
	}
	return noRate()
}

// fade keeps the mean, with the weight of at most memory seconds.
func (a *tally) fade() {
	if a.busy > memory {
		a.accepted *= memory / a.busy
		a.busy = memory
	}
}

// learner finds the server's limit from its 429s alone. It falls to nine
// tenths of what was achieved, the pause included, comes back steadily, and
// goes carefully above a rate that was refused once, less and less often the
// surer it is of it.
type learner struct {
	rate    float64 // +Inf: never refused
	ceiling float64 // the rate refused last; +Inf: not known
	lastHit time.Time
	hold    time.Duration // how long to stay below the ceiling

	// What was achieved since the last event, and what lately: while the rate
	// grows the first lags behind, and over a long window the second sees only
	// the part that was spent in haste. The higher one is believed.
	since, lately tally

	// The present event.
	hitRate, hitCeiling float64
	probed              bool // it came from going above the ceiling
}

const (
	// memory is how many busy seconds before a 429 still count after it: enough
	// that one refusal just after a resumption does not ruin the estimate.
	memory = 10.0
	// Growth a second: with no ceiling known, as a part of the rate; below, and
	// around the ceiling, as a part of the ceiling. Around it growth starts
	// timidly, and doubles after growFaster seconds without a refusal: the
	// limit was raised, or another user of it went away.
	growUnknown, growBelow, growAbove, growFaster = 0.05, 0.04, 0.01, 5.0
	// forget the ceiling beyond this: the server's limit was raised.
	forget           = 1.2
	minHold, maxHold = 15 * time.Second, 5 * time.Minute
	// leastRate is the lowest that is learned from refusals: below it too few
	// answers come to learn from, and the pause that each refusal asks for does
	// the work. It is what remains where others had used up all at our start.
	leastRate = 0.5
	// unlimited is a rate at which the learner no longer limits anything.
	unlimited = 10_000.0
)

func newLearner() learner {
	return learner{rate: noRate(), ceiling: noRate(), hold: minHold}
}

// work adds busy time.
func (l *learner) work(d time.Duration) {
	l.since.busy += d.Seconds()
	l.lately.busy += d.Seconds()
	l.lately.fade()
}

// accept counts an answer that was not a 429.
func (l *learner) accept() {
	l.since.accepted++
	l.lately.accepted++
}

// hit begins an event: the first 429 after a success.
func (l *learner) hit(now time.Time, inForce float64) {
	l.probed = now.Sub(l.lastHit) >= l.hold
	l.hitRate, l.hitCeiling, l.lastHit = inForce, l.ceiling, now
}

// settle sets the new rate, for the pause that ends at end. It is called again
// for each 429 of the event: the longer the pause, the lower the achieved rate.
func (l *learner) settle(now, end time.Time, asked bool, perSecond float64) {
	pause := end.Sub(now)
	achieved := max(l.since.rate(pause), l.lately.rate(pause))
	if perSecond > 0 {
		achieved = min(achieved, perSecond)
	}
	l.rate = max(keep*min(l.hitRate, achieved), leastRate)
	switch {
	case !math.IsInf(l.hitRate, 1):
		// One was refused, the other was borne: between them lies the limit.
		l.ceiling = max(math.Sqrt(l.hitRate*min(l.hitRate, achieved)), leastRate)
	case asked:
		l.ceiling = max(achieved, leastRate)
	default:
		l.ceiling = noRate()
	}
}

// resume ends the event: a request was answered again.
func (l *learner) resume() {
	if r := l.ceiling / l.hitCeiling; l.probed && r > 0.85 && r < 1.15 {
		l.hold = min(2*l.hold, maxHold) // the ceiling is where it was
	} else {
		l.hold = minHold
	}
	l.since.fade()
}

// grow is called for an answer while the learned rate held others back.
func (l *learner) grow(now time.Time) {
	if math.IsInf(l.rate, 1) {
		return
	}
	var perSecond float64
	switch {
	case math.IsInf(l.ceiling, 1):
		perSecond = growUnknown * l.rate
	case l.rate < keep*l.ceiling:
		perSecond = growBelow * l.ceiling
	default:
		if t := now.Sub(l.lastHit) - l.hold; t >= 0 {
			perSecond = growAbove * l.ceiling * (1 + t.Seconds()/growFaster)
		}
	}
	l.rate += min(perSecond/l.rate, l.rate/2)
	if l.rate > forget*l.ceiling {
		l.ceiling = noRate()
	}
	if l.rate > unlimited {
		*l = newLearner()
	}
}

type mode uint8

const (
	openMode      mode = iota
	throttledMode      // after a 429: a pause, then one request on trial
	downMode           // GitLab does not answer: one request on trial at a time
)

// brake stops all work, then lets a single request try.
type brake struct {
	mode     mode
	until    time.Time // nothing goes before
	asked    time.Time // until when a 429 asks to wait, which may be longer
	trialOut bool
	tries    int
	fails    int // failures in a row, of all work
}

const (
	// downAfter failures in a row GitLab is down. It is 8 because at one failure
	// in nine 5 in a row come by chance every few hours.
	downAfter  = 8
	firstPause = time.Second
)

// throttle pauses after a 429: as long as it asks for, else longer each time.
func (k *brake) throttle(now time.Time, pause time.Duration, asked bool, most time.Duration, jitter float64) {
	k.fails = 0
	fresh := k.mode != throttledMode
	if fresh {
		k.mode, k.tries, k.until = throttledMode, 0, time.Time{}
	}
	if fresh || k.trialOut {
		k.tries++
	}
	k.trialOut = false
	if step := backOff(k.tries, most); !asked || k.tries > 1 && step > pause {
		pause = step
	}
	pause = min(pause, most)
	pause += time.Duration(jitter * float64(max(pause/10, 50*time.Millisecond)))
	if until := now.Add(pause); until.After(k.until) {
		k.until = until
	}
}

func (k *brake) failed(now time.Time, most time.Duration, jitter float64) {
	k.fails++
	switch {
	case k.mode == openMode && k.fails >= downAfter:
		k.mode, k.tries = downMode, 1
	case k.mode != openMode && k.trialOut:
		k.tries++
	default:
		return // not yet, or one that was under way when the others failed
	}
	k.trialOut = false
	pause := backOff(k.tries, most)
	k.until = now.Add(pause - time.Duration(jitter*float64(pause)/5))
}

// succeeded reports whether this answer ended a throttling event. One that was
// under way when GitLab refused the others does not end the pause.
func (k *brake) succeeded() bool {
	k.fails = 0
	if k.mode == openMode || k.mode == throttledMode && !k.trialOut {
		return false
	}
	ended := k.mode == throttledMode
	*k = brake{}
	return ended
}

func backOff(tries int, most time.Duration) time.Duration {
	return min(firstPause<<min(tries-1, 20), most)
}

// retryAfter is how long a 429 asks to wait: the header Retry-After, else the
// end of the throttle's window. ok is false where it has neither.
func retryAfter(h http.Header, now time.Time) (d time.Duration, ok bool) {
	if d = ratelimit.RetryAfter(h, now); d > 0 {
		return d, true
	}
	d, ok = untilReset(h, now)
	return d, ok && d > 0
}

// untilReset is the time from an answer's Date to the end of the throttle's
// window: two times of the same clock, since ours may be wrong.
func untilReset(h http.Header, now time.Time) (time.Duration, bool) {
	if reset, ok := headerInt(h, "RateLimit-Reset"); ok && reset >= 0 {
		if reset < 1e8 {
			return seconds(float64(reset)), true // some proxies write seconds to wait
		}
		return time.Unix(reset, 0).Sub(ratelimit.ServerTime(h, now)), true
	}
	if at, err := http.ParseTime(h.Get("RateLimit-ResetTime")); err == nil {
		return at.Sub(ratelimit.ServerTime(h, now)), true
	}
	return 0, false
}

func headerInt(h http.Header, key string) (int64, bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(h.Get(key)), 10, 64)
	return n, err == nil
}
