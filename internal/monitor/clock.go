package monitor

import (
	"slices"
	"sync"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/ledger"
)

const (
	// clockSamples answers, clockEvery apart, give GitLab's clock: their median
	// spans five minutes, so that Date headers that are wrong for less than half
	// of that move nothing.
	clockSamples = 30
	clockEvery   = 10 * time.Second
	// clockFirst answers are taken whatever their distance: the first start must
	// not rest on a single Date.
	clockFirst = 7
)

// clock estimates GitLab's time from the Date headers of its answers. It
// counts on from its first answer by the monotonic clock: a step of the local
// wall clock, which nobody can undo, must not move the ledger's floor.
type clock struct {
	mu      sync.Mutex
	first   time.Time // local time of the first answer, with its monotonic reading
	date    time.Time // its Date; zero: it had none
	sampled time.Time // local time of the last sample

	offsets []time.Duration // GitLab's time less first and the time elapsed since

	// shown is the least that GitLab's time exceeds steady by, as the times in
	// its rows show; seen is false while no row had one.
	shown time.Duration
	seen  bool
}

func newClock() *clock { return &clock{} }

// answer takes the Date of an answer (zero: it had none) received at local.
func (c *clock) answer(date, local time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first.IsZero() {
		c.first, c.date = local, date
	}
	if date.IsZero() || (len(c.offsets) >= clockFirst && local.Sub(c.sampled) < clockEvery) {
		return
	}
	c.sampled = local
	c.offsets = append(c.offsets, date.Sub(c.steady(local)))
	if len(c.offsets) > clockSamples {
		c.offsets = c.offsets[1:]
	}
}

// answered reports whether any answer came, with a Date or without.
func (c *clock) answered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.first.IsZero()
}

// row takes a time of the past that a row shows, such as a runner's last
// contact, read at local or before: GitLab's clock was at least there. A time
// after both GitLab's Date and our own clock is no proof but a wrong value.
func (c *clock) row(t, local time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.IsZero() || c.first.IsZero() {
		return
	}
	most := local.Round(0)
	if len(c.offsets) > 0 {
		if g := c.steady(local).Add(c.median()); g.After(most) {
			most = g
		}
	}
	if t.After(most.Add(dateSlack)) {
		return
	}
	if d := t.Sub(c.steady(local)); !c.seen || d > c.shown {
		c.shown, c.seen = d, true
	}
}

// steady is local as the wall clock would show it had it not been changed
// since the first answer. It has no monotonic reading, so that differences
// from GitLab's times are taken by the wall.
func (c *clock) steady(local time.Time) time.Time {
	return c.first.Round(0).Add(local.Sub(c.first))
}

// gitlab is GitLab's time at local; zero where no answer had a Date.
func (c *clock) gitlab(local time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.offsets) == 0 {
		return time.Time{}
	}
	return c.steady(local).Add(c.median())
}

// median of an even number is the lower one: a floor that moves late loses
// nothing.
func (c *clock) median() time.Duration {
	s := slices.Clone(c.offsets)
	slices.Sort(s)
	return s[(len(s)-1)/2]
}

const (
	// dateSlack is how far the Date of one answer may lie from the median and
	// still be believed: it has whole seconds.
	dateSlack = 2 * time.Second
	// nodeSlack is how much the clocks of GitLab's own nodes may differ. A row
	// that is newer than the Date by more shows that the Date is wrong.
	nodeSlack = time.Minute
)

// start is the first start: the Date of the first answer, unless the answers
// after it or the times in rows show that it is wrong. Without any Date it is
// the local time. A Date of three days ago would otherwise count three days of
// history in one step.
func (c *clock) start(local time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first.IsZero() {
		return local
	}
	start := c.first
	if len(c.offsets) > 0 {
		start = c.first.Round(0).Add(c.median())
		if !c.date.IsZero() && c.date.Sub(start).Abs() <= dateSlack {
			start = c.date
		}
		start = start.Truncate(time.Second)
	}
	if c.seen {
		if least := c.first.Round(0).Add(c.shown); least.Sub(start) > nodeSlack {
			start = least
		}
	}
	return start
}

// clocks are the times that the fleet of one GitLab runs on.
type clocks struct {
	gitlab *clock
	led    *ledger.Ledger
	born   time.Time        // local, with its monotonic reading
	wall   func() time.Time // the local wall clock
}

// now is GitLab's time, as far as it is to be trusted; the ledger's floor follows it.
func (c *clocks) now() time.Time {
	if !c.gitlab.answered() {
		// Before the first answer after a start nothing confirms the local clock:
		// one that is days ahead would move the floor past jobs still to be read.
		return c.wall()
	}
	return c.led.Advance(c.gitlab.gitlab(time.Now()), c.wall())
}

// elapsed is a time that only the monotonic clock moves, for waits that must
// not stretch or end with a step of any wall clock.
func (c *clocks) elapsed(now time.Time) time.Time { return c.born.Round(0).Add(now.Sub(c.born)) }

// local converts a past time of GitLab's to ours.
func (c *clocks) local(t time.Time) time.Time {
	now := time.Now()
	return localTime(t, c.now(), now, now)
}

// localTime converts a time of GitLab's to ours, where GitLab's at is our now.
// It is never after most: what is past must not be planned for later than an
// interval from now, whatever any clock did.
func localTime(t, at, now, most time.Time) time.Time {
	local := now.Add(t.Sub(at))
	if local.After(most) {
		return most
	}
	return local
}

// contacts takes the last contacts of a runner and its machines, which show
// what GitLab's clock had reached by now. Only the first start rests on them.
func (c *clock) contacts(runner time.Time, managers []gitlab.Manager, now time.Time) {
	c.row(runner, now)
	for i := range managers {
		c.row(managers[i].ContactedAt, now)
	}
}
