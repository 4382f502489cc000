package monitor

import (
	"slices"
	"sync"
	"time"
)

// clockSamples is how many answers GitLab's clock is judged by: the median of
// several, so that one wrong Date header moves nothing.
const clockSamples = 7

// clock estimates GitLab's time from the Date headers of its answers. It
// counts on from its first answer by the monotonic clock: a jump of the local
// wall clock, which nobody can call back, must not move the ledger's floor.
type clock struct {
	mu      sync.Mutex
	first   time.Time       // local time of the first answer, with its monotonic reading
	told    time.Time       // its Date; zero: it had none
	offsets []time.Duration // GitLab's time less first and the time elapsed since
}

func newClock() *clock { return &clock{} }

// hear takes the Date of an answer (zero: it had none) received at local.
func (c *clock) hear(date, local time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first.IsZero() {
		c.first, c.told = local, date
	}
	if date.IsZero() {
		return
	}
	c.offsets = append(c.offsets, date.Sub(c.steady(local)))
	if len(c.offsets) > clockSamples {
		c.offsets = c.offsets[1:]
	}
}

// steady is local as the wall clock would show it had it not been changed
// since the first answer. It has no monotonic reading, so that differences
// from GitLab's times are taken by the wall.
func (c *clock) steady(local time.Time) time.Time {
	return c.first.Round(0).Add(local.Sub(c.first))
}

// gitlab is GitLab's time at local; zero where no answer told.
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

// dateSlack is how far the Date of one answer may lie from the median and still
// be believed: it has whole seconds.
const dateSlack = 2 * time.Second

// start is the first start: the Date of the first answer, unless the answers
// after it say that it is wrong. Without any Date it is the local time.
func (c *clock) start(local time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first.IsZero() {
		return local
	}
	if len(c.offsets) == 0 {
		return c.first
	}
	median := c.first.Round(0).Add(c.median())
	if !c.told.IsZero() && c.told.Sub(median).Abs() <= dateSlack {
		return c.told.Truncate(time.Second)
	}
	return median.Truncate(time.Second)
}
