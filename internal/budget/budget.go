// Package budget spends one GitLab's requests. GitLab is a server that others
// work on, so the exporter asks here before each request, and here alone it is
// decided when a request may go: how many at once, how many a minute, which
// first, how fast a server wants to be asked that throttles, and how to leave
// one alone that is down.
//
// Requests wait by Class, the most urgent first, and each stage that has work
// gets at least a tenth of the turns, so that nothing starves.
package budget

import (
	"container/list"
	"context"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const (
	// defaultMaxPause bounds every pause, so that a server (or a proxy) that
	// asks to come back tomorrow is looked at again.
	defaultMaxPause = 30 * time.Second
	// configuredBurst is how much of an idle second may be made up for; where
	// the server's own limit binds it is less, as that may count single seconds.
	configuredBurst = time.Second
	learnedBurst    = 100 * time.Millisecond
	// oldestEvery lets each stage serve its longest waiter now and then,
	// whatever its class: else a busy fleet's active jobs hold back for ever an
	// idle runner's reading that is long overdue.
	oldestEvery = 4
)

// Options of one GitLab's budget.
type Options struct {
	// RequestsPerSecond is the mean over a minute that is never exceeded. 0: no limit.
	RequestsPerSecond float64
	// Concurrency is how many requests may be under way at once; below 1 means 1.
	Concurrency int
	// MaxPause caps what Retry-After or RateLimit-Reset ask for, and the pause
	// between two trials of a GitLab that is down. 0: 30 s.
	MaxPause time.Duration
	// Seed of the jitter. Each process should have another one: exporters that
	// started together must not ask together.
	Seed uint64
}

// Budget decides when each request to one GitLab may go. Safe for concurrent
// use. It runs no goroutine of its own and needs no closing: while nobody
// waits no timer is set.
type Budget struct {
	maxPause    time.Duration
	concurrency int

	mu       sync.Mutex
	rng      *rand.Rand
	queues   [NumClasses]list.List // of *waiter, each in order of arrival
	arrivals uint64
	waiting  [snapshot.NumStages]int
	served   [snapshot.NumStages]int
	shares   Shares[snapshot.Stage]
	inFlight int

	limit   limit
	pacer   pacer
	headers rateHeaders
	learner learner
	brake   brake
	// pressed: the learned rate held somebody back since it last grew. A rate
	// that nobody uses up proves nothing and must not grow.
	pressed bool
	counted time.Time // until when the learner's busy time is counted

	timer *time.Timer
}

// waiter is one call of Acquire.
type waiter struct {
	class   Class
	arrival uint64
	granted bool
	trial   bool
	ready   chan struct{}
}

// New makes a budget whose first minute begins now.
func New(o Options) *Budget {
	b := &Budget{
		maxPause:    o.MaxPause,
		concurrency: max(o.Concurrency, 1),
		rng:         rand.New(rand.NewPCG(o.Seed, 0x9e3779b97f4a7c15)), //nolint:gosec // jitter, not a secret
		limit:       newLimit(o.RequestsPerSecond, time.Now()),
		learner:     newLearner(),
	}
	if b.maxPause <= 0 {
		b.maxPause = defaultMaxPause
	}
	b.pacer.jitter = b.rng.Float64()
	return b
}

// Gate is the budget as one class of work sees it.
type Gate struct {
	b *Budget
	c Class
}

// Gate returns the gate that requests of class c pass. It panics on a class
// that does not exist.
func (b *Budget) Gate(c Class) *Gate {
	if c >= NumClasses {
		panic("budget: no such class")
	}
	return &Gate{b: b, c: c}
}

// Acquire waits until one request may go. On nil the caller sends exactly one
// request and then calls Release. The error is ctx's own, and then nothing is
// owed.
func (g *Gate) Acquire(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := &waiter{class: g.c, ready: make(chan struct{})}
	e := g.b.enqueue(w)
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		g.b.withdraw(w, e)
		return ctx.Err()
	}
}

// Release takes how a request ended: its HTTP status, 0 if there was no answer,
// and the answer's header (nil allowed). From status and header the budget
// learns (docs/gitlab-api.md 5.1). 401, 403 and 404 are answers like any other; only 0
// and 5xx count as failures of GitLab.
func (g *Gate) Release(status int, header http.Header) { g.b.release(status, header) }

func (b *Budget) enqueue(w *waiter) *list.Element {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.count(now)
	b.arrivals++
	w.arrival = b.arrivals
	e := b.queues[w.class].PushBack(w)
	b.waiting[w.class.Stage()]++
	b.pump(now)
	return e
}

// withdraw takes back a call whose context ended. If the grant came in the
// same moment no request is sent, so it must not count as one that failed.
func (b *Budget) withdraw(w *waiter, e *list.Element) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.count(now)
	if w.granted {
		b.inFlight--
		if w.trial {
			b.brake.trialOut = false
		}
	} else {
		b.queues[w.class].Remove(e)
		b.waiting[w.class.Stage()]--
	}
	b.pump(now)
}

func (b *Budget) release(status int, header http.Header) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.count(now)
	b.inFlight = max(b.inFlight-1, 0)
	if status > 0 {
		b.headers.read(header, status, now, b.inFlight, b.rng.Float64())
	}
	switch {
	case status == http.StatusTooManyRequests:
		b.throttled(header, now)
	case status == 0 || status >= http.StatusInternalServerError:
		if status > 0 {
			b.learner.accept()
		}
		b.brake.failed(now, b.maxPause, b.rng.Float64())
	default:
		b.limit.answered(now)
		b.learner.accept()
		if b.brake.succeeded() {
			b.learner.resume()
		} else if b.pressed {
			b.learner.grow(now)
		}
		b.pressed = false
	}
	b.pump(now)
}

// throttled handles a 429. All work stops, not only the request that met it:
// the limit is one for all. Those that were under way at the same time bring a
// 429 too; they are the same event and may lengthen its pause, no more.
func (b *Budget) throttled(header http.Header, now time.Time) {
	if b.brake.mode != throttledMode {
		// The rate of the headers is left out: near the end of a window it is a
		// trickle, and does not predict the next one.
		b.learner.hit(now, min(b.limit.rate(now, false), b.learner.rate))
	}
	pause, asked := retryAfter(header, now)
	b.brake.throttle(now, pause, asked, b.maxPause, b.rng.Float64())
	end := b.brake.until
	if asked {
		end = now.Add(pause)
		b.brake.asked = end
	}
	b.learner.settle(now, end, asked, b.headers.perSecond)
}

// rate is the rate in force in requests a second; +Inf: none.
func (b *Budget) rate(now time.Time, listing bool) float64 {
	return min(b.limit.rate(now, listing), b.learner.rate, b.headers.rate(now, 1/b.maxPause.Seconds()))
}

// count adds the time since the last call to the learner's busy time if there
// was work or a pause: only then the number of answers shows how fast GitLab
// lets us go.
func (b *Budget) count(now time.Time) {
	from, to := b.counted, now
	b.counted = now
	if from.IsZero() {
		return
	}
	if b.inFlight == 0 && b.waiters() == 0 && to.After(b.brake.until) {
		to = b.brake.until
	}
	if to.After(from) {
		b.learner.work(to.Sub(from))
	}
}

func (b *Budget) waiters() int {
	n := 0
	for _, w := range b.waiting {
		n += w
	}
	return n
}

// wake is the timer's function.
func (b *Budget) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.count(now)
	b.pump(now)
}

// pump grants what may go now and sets the timer for what may go later.
func (b *Budget) pump(now time.Time) {
	for b.waiters() > 0 && b.inFlight < b.concurrency {
		if b.brake.mode != openMode && b.brake.trialOut {
			break // the trial's release pumps again
		}
		if now.Before(b.brake.until) {
			b.arm(b.brake.until, now)
			return
		}
		may, at := b.eligible(now)
		if len(may) == 0 {
			b.arm(at, now)
			return
		}
		b.grant(b.choose(may), now)
	}
	if b.timer != nil {
		b.timer.Stop()
	}
}

func (b *Budget) arm(at, now time.Time) {
	d := at.Sub(now)
	if b.timer == nil {
		b.timer = time.AfterFunc(d, b.wake)
		return
	}
	b.timer.Reset(d)
}

// eligible returns which stages have a waiter that may go now; if none, when to
// look again.
func (b *Budget) eligible(now time.Time) (may []snapshot.Stage, at time.Time) {
	for s := range snapshot.Stage(snapshot.NumStages) {
		if b.waiting[s] == 0 {
			continue
		}
		listing := s == snapshot.StageRunners
		free := b.limit.free(now, listing)
		if b.brake.mode == openMode { // a trial had its pause already
			rate := b.rate(now, listing)
			paced := b.pacer.ready(rate)
			if paced.After(now) && b.learner.rate <= rate {
				b.pressed = true
			}
			if free.Before(paced) {
				free = paced
			}
		}
		if !free.After(now) {
			may = append(may, s)
		} else if at.IsZero() || free.Before(at) {
			at = free
		}
	}
	// The rate itself changes when the reported window or the first minute ends.
	for _, change := range []time.Time{b.headers.until, b.limit.creditUntil} {
		if change.After(now) && change.Before(at) {
			at = change
		}
	}
	return may, at
}

// choose picks the waiter that goes next, among the stages that may.
func (b *Budget) choose(may []snapshot.Stage) *list.Element {
	prefer, best := may[0], NumClasses
	for _, s := range may {
		if c := b.frontClass(s); c < best {
			prefer, best = s, c
		}
	}
	// While GitLab is down every second trial is the most urgent work, which is
	// the listing if it waits; not each, since the listing may be what fails.
	if b.brake.mode != downMode || b.brake.tries%2 == 0 {
		prefer = b.shares.Pick(may, prefer, Tenth)
	}
	b.served[prefer]++
	if b.served[prefer]%oldestEvery == 0 {
		return b.oldest(prefer)
	}
	return b.queues[b.frontClass(prefer)].Front()
}

func (b *Budget) frontClass(s snapshot.Stage) Class {
	for c := range NumClasses {
		if c.Stage() == s && b.queues[c].Len() > 0 {
			return c
		}
	}
	return NumClasses
}

func (b *Budget) oldest(s snapshot.Stage) *list.Element {
	var oldest *list.Element
	for c := range NumClasses {
		if c.Stage() != s {
			continue
		}
		e := b.queues[c].Front()
		if e != nil && (oldest == nil || e.Value.(*waiter).arrival < oldest.Value.(*waiter).arrival) {
			oldest = e
		}
	}
	return oldest
}

func (b *Budget) grant(e *list.Element, now time.Time) {
	w := e.Value.(*waiter)
	listing := w.class == Listing
	rate := b.rate(now, listing)
	burst := configuredBurst
	if rate < b.limit.rate(now, listing) {
		burst = learnedBurst
	}
	b.pacer.spend(now, rate, burst, b.rng.Float64())
	b.limit.spend(now)
	b.headers.left--
	if b.brake.mode != openMode {
		b.brake.trialOut, w.trial = true, true
	}
	b.queues[w.class].Remove(e)
	b.waiting[w.class.Stage()]--
	b.inFlight++
	w.granted = true
	close(w.ready)
}

// State is a budget at one moment, for metrics and the log.
type State struct {
	// RateLimit and RateRemaining are what GitLab reported of the throttle's real
	// window (docs/gitlab-api.md 5.1): Observed + Remaining, and Remaining. -1: no
	// throttle seen, or its window is over.
	RateLimit     float64
	RateRemaining float64
	// Rate in force in requests a second, configured or learned; +Inf: none.
	Rate float64
	// AskedUntil is until when GitLab asks to wait, MaxPause apart; zero: it does not.
	AskedUntil time.Time
}

// State is how the budget stands now.
func (b *Budget) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	s := State{RateLimit: -1, RateRemaining: -1, Rate: b.rate(now, false)}
	if b.headers.valid(now) {
		s.RateLimit, s.RateRemaining = b.headers.limit, b.headers.remaining
	}
	if b.brake.mode == throttledMode && b.brake.asked.After(now) {
		s.AskedUntil = b.brake.asked
	}
	return s
}

// noRate is the rate where nothing limits.
func noRate() float64 { return math.Inf(1) }
