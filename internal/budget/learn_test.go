package budget

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// headerMode is when a throttle sends its headers.
type headerMode int

const (
	silent    headerMode = iota // 429 and nothing else
	onRefusal                   // older GitLab: on the 429 only
	always                      // GitLab 18 and later
)

func (m headerMode) String() string {
	return [...]string{"silent", "on429", "always"}[m]
}

// throttle counts as Rack::Attack does: fixed windows on the server's clock,
// refused requests included, Limit normalised to a minute.
type throttle struct {
	window  time.Duration
	perSec  float64
	headers headerMode
	skew    time.Duration // of the server's clock

	// others is how many requests a second the user's other programs send.
	others func(at time.Duration) float64

	mu     sync.Mutex
	start  time.Time
	rng    *rand.Rand
	last   time.Duration
	carry  float64
	number int64
	count  int

	served, refused, othersServed [64]int // by minute
}

func newThrottle(window time.Duration, headers headerMode) *throttle {
	return &throttle{window: window, perSec: 25, headers: headers, start: time.Now(), rng: seeded(7)}
}

func (s *throttle) answer() (int, http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	at := now.Sub(s.start)
	limit := int(s.perSec * s.window.Seconds())
	const step = 10 * time.Millisecond
	for s.last+step <= at && s.others != nil { // the others' requests, in order
		s.last += step
		s.roll(s.start.Add(s.last))
		s.carry += s.others(s.last) * step.Seconds() * 2 * s.rng.Float64()
		for ; s.carry >= 1; s.carry-- {
			s.count++
			if s.count <= limit {
				s.othersServed[int(s.last/time.Minute)]++
			}
		}
	}
	s.roll(now)
	s.count++
	clock := now.Add(s.skew)
	h := http.Header{"Date": {clock.UTC().Format(http.TimeFormat)}}
	ok := s.count <= limit
	if s.headers == always || s.headers == onRefusal && !ok {
		reset := (clock.UnixNano()/int64(s.window) + 1) * int64(s.window) / 1e9
		h.Set("RateLimit-Limit", strconv.Itoa(int(s.perSec*60)))
		h.Set("RateLimit-Observed", strconv.Itoa(s.count))
		h.Set("RateLimit-Remaining", strconv.Itoa(max(limit-s.count, 0)))
		h.Set("RateLimit-Reset", strconv.FormatInt(reset, 10))
		if !ok {
			h.Set("Retry-After", strconv.FormatInt(max(reset-clock.Unix(), 1), 10))
		}
	}
	minute := int(at / time.Minute)
	if ok {
		s.served[minute]++
		return http.StatusOK, h
	}
	s.refused[minute]++
	return http.StatusTooManyRequests, h
}

func (s *throttle) roll(now time.Time) {
	if n := now.Add(s.skew).UnixNano() / int64(s.window); n != s.number {
		s.number, s.count = n, 0
	}
}

// hungry keeps workers busy until the time is over. answer is called half way
// through the latency.
func hungry(t *testing.T, b *Budget, workers int, d time.Duration, answer func(Class) (int, http.Header)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	var wg sync.WaitGroup
	for i := range workers {
		c := Class(i % int(NumClasses))
		rng := seeded(uint64(i))
		wg.Go(func() {
			g := b.Gate(c)
			for g.Acquire(ctx) == nil {
				latency := 15*time.Millisecond + time.Duration(rng.IntN(25))*time.Millisecond
				time.Sleep(latency)
				status, h := answer(c)
				time.Sleep(latency)
				g.Release(status, h)
			}
		})
	}
	wg.Wait()
}

func sum(n []int) (s int) {
	for _, v := range n {
		s += v
	}
	return s
}

// A server allows 25 requests a second, and reports it, or does not. The promise
// is under 5 % refused and at least 70 % used; where the others come and go
// every two minutes the target moves, and less is asked.
func TestLearnsTheServersLimit(t *testing.T) {
	others := []struct {
		name string
		rate func(time.Duration) float64
		used float64
	}{
		{"alone", nil, 0.7},
		{"shared", func(time.Duration) float64 { return 10 }, 0.7},
		{"waves", func(at time.Duration) float64 {
			if at/(2*time.Minute)%2 == 1 {
				return 15
			}
			return 0
		}, 0.5},
	}
	for _, window := range []time.Duration{time.Second, 10 * time.Second, time.Minute} {
		for _, mode := range []headerMode{silent, onRefusal, always} {
			for i, other := range others {
				workers := 8 * (1 + i%2)
				t.Run(fmt.Sprintf("%v/%v/%s", window, mode, other.name), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						const minutes = 9
						time.Sleep(time.Duration(i) * 3700 * time.Millisecond) // anywhere in the server's window
						s := newThrottle(window, mode)
						s.others, s.skew = other.rate, -90*24*time.Hour-300*time.Millisecond
						b := New(Options{Concurrency: workers, Seed: 3})
						hungry(t, b, workers, minutes*time.Minute, func(Class) (int, http.Header) { return s.answer() })
						ours, refused := sum(s.served[1:minutes]), sum(s.refused[1:minutes])
						left := 25*60*(minutes-1) - sum(s.othersServed[1:minutes])
						share := float64(refused) / float64(ours+refused)
						used := float64(ours) / float64(left)
						t.Logf("%d workers: %.1f %% answered 429, used %.0f %% of what the others leave (they got %.1f/s)",
							workers, 100*share, 100*used, float64(sum(s.othersServed[1:minutes]))/60/(minutes-1))
						if share >= 0.05 {
							t.Errorf("%.1f %% answered 429, want under 5", 100*share)
						}
						if used < other.used {
							t.Errorf("used %.0f %%, want at least %.0f", 100*used, 100*other.used)
						}
					})
				})
			}
		}
	}
}

func answer(kv ...string) http.Header {
	h := http.Header{}
	for pair := range slices.Chunk(kv, 2) {
		h.Set(pair[0], pair[1])
	}
	return h
}

// All that a 429 may give as the time to wait, and how it is bounded.
func TestPauseAfter429IsBounded(t *testing.T) {
	// GitLab's clock is a month ahead of ours: only its own times may be compared.
	server := func() time.Time { return time.Now().Add(30 * 24 * time.Hour) }
	date := func() string { return server().UTC().Format(http.TimeFormat) }
	in := func(d time.Duration) string { return server().Add(d).UTC().Format(http.TimeFormat) }
	unix := func(d time.Duration) string { return strconv.FormatInt(server().Add(d).Unix(), 10) }
	for name, c := range map[string]struct {
		header func() http.Header
		want   time.Duration
	}{
		"seconds":    {func() http.Header { return answer("Retry-After", "7") }, 7 * time.Second},
		"date":       {func() http.Header { return answer("Date", date(), "Retry-After", in(9*time.Second)) }, 9 * time.Second},
		"reset":      {func() http.Header { return answer("Date", date(), "RateLimit-Reset", unix(12*time.Second)) }, 12 * time.Second},
		"reset time": {func() http.Header { return answer("Date", date(), "RateLimit-ResetTime", in(5*time.Second)) }, 5 * time.Second},
		"seconds win": {func() http.Header {
			return answer("Date", date(), "Retry-After", "3", "RateLimit-Reset", unix(12*time.Second))
		}, 3 * time.Second},
		"nothing":      {func() http.Header { return nil }, time.Second},
		"nonsense":     {func() http.Header { return answer("Retry-After", "soon", "RateLimit-Reset", "x") }, time.Second},
		"past":         {func() http.Header { return answer("Date", date(), "Retry-After", in(-time.Hour)) }, time.Second},
		"zero":         {func() http.Header { return answer("Retry-After", "0") }, time.Second},
		"capped":       {func() http.Header { return answer("Retry-After", "86400") }, 20 * time.Second},
		"far too long": {func() http.Header { return answer("Retry-After", "1e300") }, 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := New(Options{Concurrency: 4, MaxPause: 20 * time.Second, Seed: 1})
				must(t, b.Gate(Details).Acquire(t.Context()))
				b.Gate(Details).Release(http.StatusTooManyRequests, c.header())
				start := time.Now()
				if until := look(b).PausedUntil; until.Sub(start) < c.want {
					t.Errorf("PausedUntil in %v, want at least %v", until.Sub(start), c.want)
				}
				must(t, b.Gate(Listing).Acquire(t.Context())) // all work waits
				got := time.Since(start)
				if got < c.want || got > c.want+max(c.want/10, 50*time.Millisecond) {
					t.Errorf("paused %v, want %v and a little jitter", got, c.want)
				}
			})
		})
	}
}

// Requests under way together meet the limit together: one event, one step.
func TestBurstOf429sIsOneEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rates := map[int]float64{}
		for _, refused := range []int{1, 8} {
			b := New(Options{Concurrency: 8, Seed: 1})
			g := b.Gate(ActiveJobs)
			for range 40 {
				for range 8 {
					must(t, g.Acquire(t.Context()))
				}
				time.Sleep(200 * time.Millisecond)
				for range 8 {
					g.Release(http.StatusOK, nil)
				}
			}
			for range 8 {
				must(t, g.Acquire(t.Context()))
			}
			for i := range 8 {
				if i < refused {
					g.Release(http.StatusTooManyRequests, answer("Retry-After", "1"))
				} else {
					g.Release(http.StatusOK, nil)
				}
			}
			rates[refused] = look(b).Rate
			// After the pause one request tries; the others wait for its answer.
			var went atomic.Int32
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					if g.Acquire(ctx) == nil {
						went.Add(1)
					}
				})
			}
			time.Sleep(10 * time.Second)
			if n := went.Load(); n != 1 {
				t.Errorf("%d requests on trial, want 1", n)
			}
			g.Release(http.StatusOK, nil)
			time.Sleep(time.Second)
			if n := went.Load(); n != 4 {
				t.Errorf("%d went after the trial, want 4", n)
			}
			cancel()
			wg.Wait()
		}
		t.Logf("rate after 1 of 8 refused: %.1f, after 8: %.1f", rates[1], rates[8])
		if rates[1] > 40 || rates[1] < 20 {
			t.Errorf("achieved were 36 requests a second, now %.1f", rates[1])
		}
		if rates[8] < 0.9*rates[1] {
			t.Errorf("a burst cost more than one step: %.1f, not %.1f", rates[8], rates[1])
		}
	})
}

// What remains is spread over the time to the reset, by GitLab's clock; Limit
// is normalised to a minute and must not be taken for the window's.
func TestSpreadsWhatRemains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{Concurrency: 4, Seed: 1})
		g := b.Gate(Details)
		server := time.Now().Add(-400 * 24 * time.Hour)
		header := func(observed, remaining int, after time.Duration) http.Header {
			return answer("Date", server.Add(after).UTC().Format(http.TimeFormat),
				"RateLimit-Limit", "120", "RateLimit-Observed", strconv.Itoa(observed), "RateLimit-Remaining", strconv.Itoa(remaining),
				"RateLimit-Reset", strconv.FormatInt(server.Add(1000*time.Second).Unix(), 10))
		}
		ask := func(status int, h http.Header) {
			t.Helper()
			must(t, g.Acquire(t.Context()))
			g.Release(status, h)
		}
		if s := look(b); s.RateLimit != -1 || s.RateRemaining != -1 || !math.IsInf(s.Rate, 1) {
			t.Errorf("at the start: %+v", s)
		}
		ask(200, header(6200, 1000, 0)) // 7200 an hour
		s := look(b)
		if s.RateLimit != 7200 || s.RateRemaining != 1000 {
			t.Errorf("limit %v remaining %v", s.RateLimit, s.RateRemaining)
		}
		if s.Rate < 0.85 || s.Rate > 0.95 {
			t.Errorf("rate %v, want 0.9 x 1000 in 1000 s", s.Rate)
		}
		ask(200, header(6700, 500, 0)) // others were faster
		if r := look(b).Rate; r < 0.42 || r > 0.48 {
			t.Errorf("rate %v, want 0.9 x 500 in 1000 s", r)
		}
		ask(200, header(6699, 501, 0)) // overtaken on its way
		if r := look(b).RateRemaining; r != 500 {
			t.Errorf("remaining %v from an older answer", r)
		}
		ask(429, header(7300, 0, 10*time.Second))
		if s := look(b); s.RateLimit != 7200 || s.RateRemaining != 0 {
			t.Errorf("limit %v remaining %v after a refusal", s.RateLimit, s.RateRemaining)
		}
		time.Sleep(1100 * time.Second)
		if s := look(b); s.RateLimit != -1 || s.RateRemaining != -1 {
			t.Errorf("the window is over: %+v", s)
		}
	})
}

// Whatever a header holds: no panic, no pause beyond the cap, and never a stop.
func FuzzHeaders(f *testing.F) {
	f.Add(200, "", "", "", "", "", "")
	f.Add(429, "30", "120", "7201", "0", "1767225600", "Thu, 01 Jan 2026 00:00:00 GMT")
	f.Add(429, "-1", "-5", "-1", "-9223372036854775808", "9223372036854775807", "x")
	f.Add(200, "NaN", "0", "9223372036854775807", "9223372036854775807", "946684999", "Sat, 01 Jan 2000 00:00:00 GMT")
	f.Add(503, "Inf", "1", "1", "1", "3", "")
	f.Fuzz(func(t *testing.T, status int, retry, limit, observed, remaining, reset, date string) {
		synctest.Test(t, func(t *testing.T) {
			const most = 20 * time.Second
			b := New(Options{Concurrency: 1, MaxPause: most})
			g := b.Gate(Listing)
			for range 12 {
				start := time.Now()
				must(t, g.Acquire(t.Context()))
				// A trickle below the floor of one in MaxPause, its jitter, and a pause.
				if d := time.Since(start); d > 3*most+most/10 {
					t.Fatalf("waited %v", d)
				}
				time.Sleep(50 * time.Millisecond)
				g.Release(status, answer("Retry-After", retry, "RateLimit-Limit", limit, "RateLimit-Observed", observed,
					"RateLimit-Remaining", remaining, "RateLimit-Reset", reset, "RateLimit-ResetTime", reset, "Date", date))
				s := look(b)
				if math.IsNaN(s.Rate) || s.Rate <= 0 {
					t.Fatalf("rate %v", s.Rate)
				}
				if d := time.Until(s.PausedUntil); d > most+most/10 {
					t.Fatalf("paused for %v", d)
				}
			}
		})
	})
}
