package app

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/common/model"

	"gitlab-runner-fleet-exporter/internal/plan"
	"gitlab-runner-fleet-exporter/internal/queue"
)

const (
	// rowsPerPage is what GitLab gives at most (docs/gitlab-api.md 2).
	rowsPerPage = 100

	// limitShare is the share of a stated limit, and of the first minute's
	// requests, that is used.
	limitShare = 0.9
)

// demand is what a configuration asks of a GitLab, in requests a minute.
type demand struct {
	listing, details, activeJobs, idleJobs, walk float64
}

func (d demand) total() float64 {
	return d.listing + d.details + d.activeJobs + d.idleJobs + d.walk
}

// size is what the demand depends on besides the intervals.
type size struct {
	pages, runners, busy, shards int
	detailed                     bool // the list has the details
	counted                      bool // the list has the number of jobs executing
}

// demandOf is what the plan makes of intervals and fleet size. One
// shard of many lists all runners but reads its share of the rest. New
// runners, watched jobs that left the newest page, and walks longer than a page
// come on top; they are few. By GraphQL the list has details, machines, how many
// jobs execute and who did nothing: idle ones take this at the most.
func demandOf(iv plan.Intervals, s size) demand {
	perMinute := func(requests float64, every time.Duration) float64 {
		return requests * float64(time.Minute) / float64(every)
	}
	share := func(n int) float64 { return float64(n) / float64(s.shards) }
	idle := s.runners - s.busy
	d := demand{
		listing: perMinute(float64(s.pages), iv.Runners),
		// The runner itself, and its machines.
		details: 2 * (perMinute(share(s.busy), iv.ActiveDetails()) + perMinute(share(idle), iv.Details)),
		// What executes, and the newest rows.
		activeJobs: 2 * perMinute(share(s.busy), iv.Jobs),
		idleJobs:   perMinute(share(idle), iv.IdleJobs()),
		walk:       perMinute(share(s.runners), iv.Reconcile),
	}
	if s.detailed {
		d.details = 0
	}
	if s.counted {
		d.activeJobs /= 2
	}
	return d
}

// need puts the demand beside the budget and the limit that GitLab states.
func (c *check) need(context.Context) bool {
	f := &c.fleet
	d := demandOf(intervals(c.gitlab.Poll), size{max(f.pages, 1), len(f.runners), f.estimate, c.shards, f.detailed, f.counted})
	need := math.Ceil(d.total())
	each := ""
	if c.shards > 1 {
		each = fmt.Sprintf(" for each of %d shards", c.shards)
	}
	c.fact("requests", "%.0f a minute needed%s at these intervals, with %s executing", need, each, count(f.estimate, "runner"))
	c.fact("", "list %.1f, details %.1f, jobs of executing runners %.1f, of idle ones %.1f, deeper walk %.1f",
		d.listing, d.details, d.activeJobs, d.idleJobs, d.walk)
	switch o := queueOptions(c.gitlab); {
	case o.Interval <= 0:
	case len(o.Projects) > 0:
		c.fact("", "the queue of waiting jobs takes a request more for each of %s each %s, and one for each further 100 jobs, at most %d a project",
			count(len(o.Projects), "project"), model.Duration(o.Interval), queue.MaxProjectPages)
	case f.detailed:
		c.fact("", "where GitLab is 18.1 or later, the queue of waiting jobs takes a request or two more each %s, and at most %d", model.Duration(o.Interval), queue.MaxRequests)
	}
	c.budgetSuffices(need)
	c.limitSuffices(need)
	c.firstPicture()
	return true
}

func (c *check) budgetSuffices(need float64) {
	rate := c.gitlab.Poll.MaxRequestsPerSecond
	if rate == 0 {
		c.fact("budget", "no limit configured")
		return
	}
	allowed := 60 * rate / float64(c.shards)
	if need <= allowed {
		c.fact("budget", "%.0f a minute (max_requests_per_second %g): enough", allowed, rate)
		return
	}
	c.fact("budget", "%.0f a minute (max_requests_per_second %g): too little", allowed, rate)
	c.problem("the budget is smaller than the need: nothing is lost, but readings come late (poll_lag_seconds shows how late)",
		fmt.Sprintf("set poll.max_requests_per_second to %g, or lengthen the intervals", math.Ceil(need*float64(c.shards)/60)))
}

// limitSuffices compares with GitLab's limit, which counts all tokens of a user,
// those of the other shards among them.
func (c *check) limitSuffices(need float64) {
	limit := float64(c.limit.perMinute.Load())
	now := c.limits.State()
	switch total := need * float64(c.shards); {
	case limit == 0 && now.RateRemaining >= 0:
		c.fact("rate limit", "%.0f requests left in its present window; how many a minute is not reported", now.RateRemaining)
	case limit == 0:
		c.fact("rate limit", "none reported (older releases report it only once it is exceeded)")
	case total <= limitShare*limit:
		c.fact("rate limit", "%.0f a minute for this user: enough%s", limit, leftOf(now.RateRemaining))
	default:
		c.fact("rate limit", "%.0f a minute for this user, of which %.0f are used: too little%s", limit, limitShare*limit, leftOf(now.RateRemaining))
		c.problem("GitLab allows this user fewer requests than are needed: nothing is lost, but readings come late (poll_lag_seconds shows how late)",
			"lengthen the intervals, or let an administrator raise the limit or exempt the user")
	}
}

func leftOf(remaining float64) string {
	if remaining < 0 {
		return ""
	}
	return fmt.Sprintf(" (%.0f left in the present window)", remaining)
}

// firstPicture is how long the dashboards stay empty after a first start.
func (c *check) firstPicture() {
	f := &c.fleet
	requests, from := f.pages, count(f.pages, "page")+" of the list"
	mine := (len(f.runners) + c.shards - 1) / c.shards
	took := f.took
	if !f.detailed {
		requests += mine
		from += " and the details of " + count(mine, "runner")
		took = took/plan.PagesAtOnce + time.Duration(mine)*c.times.mean()/time.Duration(max(c.gitlab.Poll.MaxConcurrentRequests, 1))
	}
	took = max(took, paced(requests, c.gitlab.Poll.MaxRequestsPerSecond/float64(c.shards)))
	if limit := float64(c.limit.perMinute.Load()) / float64(c.shards); limit > 0 {
		took = max(took, time.Duration(float64(requests)/(limitShare*limit)*float64(time.Minute)))
	}
	c.fact("first picture", "complete about %s after the first start (%s)", about(took), from)
}

// paced is how long so many requests take at a budget: most of the first
// minute's may go at once, the next ones when the minute is over.
func paced(requests int, perSecond float64) time.Duration {
	left := float64(requests) - limitShare*60*perSecond
	if perSecond == 0 || left <= 0 {
		return 0
	}
	return time.Minute + time.Duration(left/perSecond*float64(time.Second))
}

// about rounds as a person would.
func about(d time.Duration) string {
	switch {
	case d < 90*time.Second:
		return fmt.Sprintf("%d s", max(1, int(math.Round(d.Seconds()))))
	case d < 90*time.Minute:
		return fmt.Sprintf("%d min", int(math.Round(d.Minutes())))
	default:
		return fmt.Sprintf("%.1f h", d.Hours())
	}
}
