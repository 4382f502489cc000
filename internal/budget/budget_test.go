package budget

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// seeded is chance that repeats.
func seeded(seed uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, 1))
}

// inside is what a Budget does not show.
type inside struct {
	State

	PausedUntil time.Time
	Waiting     [NumClasses]int
	InFlight    int
}

func look(b *Budget) inside {
	s := inside{State: b.State()}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.brake.until.After(time.Now()) {
		s.PausedUntil = b.brake.until
	}
	for c := range b.queues {
		s.Waiting[c] = b.queues[c].Len()
	}
	s.InFlight = b.inFlight
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// log collects when requests went.
type log struct {
	mu    sync.Mutex
	at    []time.Duration
	class []Class
	start time.Time
}

func newLog() *log { return &log{start: time.Now()} }

func (l *log) add(c Class) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at, l.class = append(l.at, time.Since(l.start)), append(l.class, c)
}

// soFar is a copy, for a look while workers go on.
func (l *log) soFar() *log {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &log{at: slices.Clone(l.at), class: slices.Clone(l.class), start: l.start}
}

// most is the highest number within any window of length d, both ends included.
func (l *log) most(d time.Duration) (n int) {
	first := 0
	for i, at := range l.at {
		for l.at[first] < at-d {
			first++
		}
		n = max(n, i-first+1)
	}
	return n
}

func (l *log) within(from, to time.Duration) (n int) {
	for _, at := range l.at {
		if from <= at && at < to {
			n++
		}
	}
	return n
}

// work keeps n workers of class c asking until ctx ends.
func work(ctx context.Context, wg *sync.WaitGroup, b *Budget, l *log, c Class, n int, latency time.Duration) {
	for range n {
		wg.Go(func() {
			g := b.Gate(c)
			for g.Acquire(ctx) == nil {
				l.add(c)
				time.Sleep(latency)
				g.Release(http.StatusOK, nil)
			}
		})
	}
}

func TestNeverMoreThanConfigured(t *testing.T) {
	for _, rate := range []float64{100, 10, 0.5, 0.05, 0.01} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := New(Options{RequestsPerSecond: rate, Concurrency: 8, Seed: 5})
				l := newLog()
				d := 10 * time.Minute
				if rate < 0.5 {
					d = 3 * time.Hour
				}
				ctx, cancel := context.WithTimeout(t.Context(), d)
				defer cancel()
				var wg sync.WaitGroup
				for c := range NumClasses {
					work(ctx, &wg, b, l, c, 2, 30*time.Millisecond)
				}
				wg.Wait()
				want := max(int(60*rate+1e-9), 1)
				if got := l.most(time.Minute); got > want {
					t.Errorf("%d requests within a minute, want at most %d", got, want)
				}
				if mean := float64(len(l.at)) / d.Seconds(); mean > rate*1.1 && len(l.at) > 1+want || mean < 0.95*rate {
					t.Errorf("mean %.4f/s of %v allowed", mean, rate)
				}
				if got := l.within(0, 60*time.Second); rate >= 0.5 && got < want*9/10 {
					t.Errorf("%d in the first minute, want %d", got, want)
				}
				// Later they are spread: a second has its share and its burst at most.
				late := &log{at: l.at[min(want, len(l.at)):]}
				if got := late.most(time.Second); rate >= 0.5 && got > int(2*rate)+2 {
					t.Errorf("%d requests in one second", got)
				}
			})
		})
	}
}

func TestFirstPictureIsReadAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{RequestsPerSecond: 10, Concurrency: 8, Seed: 5})
		l := newLog()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		var wg sync.WaitGroup
		work(ctx, &wg, b, l, NewDetails, 8, 50*time.Millisecond)
		time.Sleep(20 * time.Second)
		if n := len(l.soFar().at); n != 540 {
			t.Errorf("%d requests went at once, want 600 less the listing's tenth", n)
		}
		// The next listing finds its tenth, and need not wait for its pace.
		start := time.Now()
		for range 60 {
			must(t, b.Gate(Listing).Acquire(t.Context()))
			l.add(Listing)
			b.Gate(Listing).Release(http.StatusOK, nil)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("the listing took %v", d)
		}
		time.Sleep(time.Minute)
		// A listing among hungry others, later: it goes first.
		for range 10 {
			must(t, b.Gate(Listing).Acquire(t.Context()))
			l.add(Listing)
			b.Gate(Listing).Release(http.StatusOK, nil)
		}
		if d := time.Since(start); d > 63*time.Second {
			t.Errorf("ten pages took until %v", d)
		}
		cancel()
		wg.Wait()
		if n := l.most(time.Minute); n > 600 {
			t.Errorf("%d within a minute", n)
		}
	})
}

// A GitLab that is down when the exporter starts must not cost the credit.
func TestCreditSurvivesADeadStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{RequestsPerSecond: 10, Concurrency: 8, Seed: 5})
		g := b.Gate(NewDetails)
		for start := time.Now(); time.Since(start) < 5*time.Minute; {
			must(t, g.Acquire(t.Context()))
			g.Release(0, nil)
		}
		start := time.Now()
		for range 500 {
			must(t, g.Acquire(t.Context()))
			g.Release(http.StatusOK, nil)
		}
		if d := time.Since(start); d > time.Minute {
			t.Errorf("the first picture took %v", d)
		}
	})
}

func TestConcurrencyIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{Concurrency: 3})
		var wg sync.WaitGroup
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var mu sync.Mutex
		most := 0
		for range 10 {
			wg.Go(func() {
				g := b.Gate(IdleJobs)
				for g.Acquire(ctx) == nil {
					s := look(b)
					mu.Lock()
					most = max(most, s.InFlight)
					mu.Unlock()
					time.Sleep(time.Millisecond)
					g.Release(http.StatusOK, nil)
				}
			})
			synctest.Wait()
		}
		if s := look(b); s.Waiting[IdleJobs] != 7 || s.InFlight != 3 {
			t.Errorf("%+v", s)
		}
		wg.Wait()
		if most != 3 {
			t.Errorf("%d at once, want 3", most)
		}
		if s := look(b); s.InFlight != 0 || s.Waiting != [NumClasses]int{} {
			t.Errorf("in the end: %+v", s)
		}
	})
}

func TestUrgentClassesGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{Concurrency: 1})
		must(t, b.Gate(Walk).Acquire(t.Context()))
		var got []string
		var wg sync.WaitGroup
		for i, c := range []Class{Walk, Details, ActiveJobs, ActiveDetails, NewDetails, Listing, IdleJobs, ActiveJobs} {
			wg.Go(func() {
				if b.Gate(c).Acquire(t.Context()) == nil {
					got = append(got, fmt.Sprint(c, "/", i))
					b.Gate(c).Release(http.StatusOK, nil)
				}
			})
			synctest.Wait()
		}
		b.Gate(Walk).Release(http.StatusOK, nil)
		wg.Wait()
		want := []string{"0/5", "1/4", "2/2", "2/7", "5/3", "6/6", "7/1", "8/0"}
		if !slices.Equal(got, want) {
			t.Errorf("went %v, want %v", got, want)
		}
	})
}

// Each stage that has work gets a tenth, over any hundred requests, and within
// a stage nobody waits for ever.
func TestEachStageGetsATenth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{RequestsPerSecond: 20, Concurrency: 4, Seed: 2})
		l := newLog()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		for c := range NumClasses {
			work(ctx, &wg, b, l, c, 10, 20*time.Millisecond)
		}
		wg.Wait()
		var whole [NumClasses]int
		for i, c := range l.class {
			whole[c]++
			if i%100 != 0 || i+100 > len(l.class) || l.at[i] < 70*time.Second {
				continue
			}
			var stage [snapshot.NumStages]int
			for _, c := range l.class[i : i+100] {
				stage[c.Stage()]++
			}
			if stage[snapshot.StageDetails] < 9 || stage[snapshot.StageJobs] < 9 || stage[snapshot.StageReconcile] < 9 || stage[snapshot.StageRunners] < 50 {
				t.Fatalf("of requests %d to %d the stages got %v", i, i+100, stage)
			}
		}
		t.Logf("%d requests by class: %v", len(l.class), whole)
		for c, n := range whole {
			if n == 0 {
				t.Errorf("class %d starved", c)
			}
		}
	})
}

func TestContextThatEndsGivesItsPlaceBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{Concurrency: 1})
		must(t, b.Gate(Walk).Acquire(t.Context()))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Gate(Listing).Acquire(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if err := b.Gate(Listing).Acquire(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v for a context that had ended", err)
		}
		if s := look(b); s.Waiting[Listing] != 0 || s.InFlight != 1 {
			t.Errorf("%+v", s)
		}
		// A grant in the moment of the cancellation is given back.
		for range 50 {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- b.Gate(Listing).Acquire(ctx) }()
			synctest.Wait()
			b.Gate(Walk).Release(http.StatusOK, nil)
			cancel()
			if <-done == nil {
				b.Gate(Listing).Release(http.StatusOK, nil)
			}
			if s := look(b); s.InFlight != 0 || s.Waiting[Listing] != 0 {
				t.Fatalf("%+v", s)
			}
			must(t, b.Gate(Walk).Acquire(t.Context()))
		}
	})
}

func TestIdleSetsNoTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{RequestsPerSecond: 1, Concurrency: 2})
		l := newLog()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		work(ctx, &wg, b, l, Details, 4, time.Millisecond)
		wg.Wait()
		if b.timer == nil || b.timer.Stop() {
			t.Error("a timer runs though nobody waits")
		}
	})
}

func TestOutageAllowsFewTrials(t *testing.T) {
	for _, status := range []int{0, 502} {
		synctest.Test(t, func(t *testing.T) {
			b := New(Options{Concurrency: 8, Seed: 4})
			l := newLog()
			var mu sync.Mutex
			down := false
			set := func(v bool) { mu.Lock(); down = v; mu.Unlock() }
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for i := range 16 {
				c := Class(i % int(NumClasses))
				wg.Go(func() {
					g := b.Gate(c)
					for g.Acquire(ctx) == nil {
						l.add(c)
						time.Sleep(100 * time.Millisecond)
						mu.Lock()
						d := down
						mu.Unlock()
						if d {
							g.Release(status, nil)
						} else {
							g.Release(http.StatusOK, nil)
						}
					}
				})
			}
			time.Sleep(time.Minute)
			set(true)
			time.Sleep(time.Second)
			from := len(l.soFar().class)
			time.Sleep(10 * time.Minute)
			trials := l.soFar().class[from:]
			if n := len(trials); n < 15 || n > 40 {
				t.Errorf("%d trials in ten minutes", n)
			}
			listing := 0
			for _, c := range trials {
				if c == Listing {
					listing++
				}
			}
			if listing < len(trials)/3 || listing == len(trials) {
				t.Errorf("%d of %d trials were listings", listing, len(trials))
			}
			set(false)
			back := time.Since(l.start)
			time.Sleep(32 * time.Second)
			cancel()
			wg.Wait()
			i, _ := slices.BinarySearch(l.at, back)
			if len(l.at) <= i+100 {
				t.Errorf("after the outage only %d requests went", len(l.at)-i)
			} else if d := l.at[i+50] - l.at[i]; d > 2*time.Second {
				t.Errorf("after the outage 50 requests took %v", d)
			}
		})
	}
}

// One failure in nine is GitLab's daily life, and 401, 403, 404 are answers.
func TestFewFailuresAreNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{Concurrency: 8, Seed: 4})
		var mu sync.Mutex
		n := 0
		rng := seeded(9)
		hungry(t, b, 8, 10*time.Minute, func(Class) (int, http.Header) {
			mu.Lock()
			defer mu.Unlock()
			n++
			if s := look(b); !s.PausedUntil.IsZero() {
				t.Errorf("paused at request %d", n)
			}
			if rng.IntN(9) == 0 {
				return 500, nil
			}
			return []int{200, 401, 403, 404}[n%4], nil
		})
		if want := 8 * 600 * 1000 / 54 * 9 / 10; n < want {
			t.Errorf("%d requests, want at least %d", n, want)
		}
		for range 20 {
			must(t, b.Gate(Listing).Acquire(t.Context()))
			b.Gate(Listing).Release(http.StatusUnauthorized, nil)
		}
		if s := look(b); !s.PausedUntil.IsZero() {
			t.Errorf("paused by 401: %+v", s)
		}
	})
}

// A trial goes out of turn, while the reported window still shows that nothing is
// left. The next request must not wait as if the trial had used a far slot.
func TestTrialDoesNotDelayTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{Concurrency: 2, Seed: 1})
		g := b.Gate(Details)
		for range 40 {
			must(t, g.Acquire(t.Context()))
			time.Sleep(20 * time.Millisecond)
			g.Release(http.StatusOK, nil)
		}
		must(t, g.Acquire(t.Context()))
		now := time.Now().UTC()
		g.Release(http.StatusTooManyRequests, answer("Date", now.Format(http.TimeFormat), "Retry-After", "1",
			"RateLimit-Remaining", "0", "RateLimit-Reset", strconv.FormatInt(now.Add(3*time.Second).Unix(), 10)))
		start := time.Now()
		for range 10 {
			must(t, g.Acquire(t.Context()))
			g.Release(http.StatusOK, nil)
		}
		if d := time.Since(start); d > 6*time.Second {
			t.Errorf("ten requests took %v after a window that ended in 3 s", d)
		}
	})
}

// Others had used up the limit when we started: nothing was achieved yet, and
// nothing must be concluded from that once the pause is over.
func TestRefusalAtTheStartSlowsNothingLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{Concurrency: 8, Seed: 1})
		g := b.Gate(Details)
		must(t, g.Acquire(t.Context()))
		g.Release(http.StatusTooManyRequests, answer("Retry-After", "25"))
		start := time.Now()
		n := 0
		for ; time.Since(start) < 3*time.Minute; n++ {
			must(t, g.Acquire(t.Context()))
			time.Sleep(20 * time.Millisecond)
			g.Release(http.StatusOK, nil)
		}
		if n < 1000 {
			t.Errorf("%d requests in three minutes, all answered", n)
		}
	})
}

// Exporters that run side by side must not ask in step.
func TestExportersSideBySideAskOutOfStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs [2]*log
		var wg sync.WaitGroup
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		for i := range logs {
			logs[i] = newLog()
			work(ctx, &wg, New(Options{RequestsPerSecond: 5, Concurrency: 4, Seed: uint64(i)}), logs[i], Details, 8, 10*time.Millisecond)
		}
		wg.Wait()
		together, total := 0, 0
		for _, at := range logs[0].at {
			if at < 2*time.Minute {
				continue
			}
			total++
			i, _ := slices.BinarySearch(logs[1].at, at-5*time.Millisecond)
			if i < len(logs[1].at) && logs[1].at[i] <= at+5*time.Millisecond {
				together++
			}
		}
		if total == 0 || together > total/8 { // by chance: 10 ms of 200
			t.Errorf("%d of %d requests went within 5 ms of the other exporter's", together, total)
		}
	})
}

func BenchmarkGate(b *testing.B) {
	g := New(Options{Concurrency: 8}).Gate(Details)
	h := answer("RateLimit-Limit", "60000000", "RateLimit-Observed", "1", "RateLimit-Remaining", "1000000000",
		"RateLimit-Reset", strconv.FormatInt(time.Now().Add(time.Minute).Unix(), 10))
	b.ReportAllocs()
	for b.Loop() {
		if err := g.Acquire(b.Context()); err != nil {
			b.Fatal(err)
		}
		g.Release(http.StatusOK, h)
	}
}
