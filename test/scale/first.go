package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// first is what the first picture took.
type first struct {
	checks, pages, again, details, later int // requests before it, by what they read
	machines, jobs                       time.Duration
}

func (f first) counted() int { return f.checks + f.pages + f.details + f.later }

// firstOf sorts the requests before a first picture: repeated listings are
// counted apart. later are those of machines and jobs, which come behind it:
// what was sent while the picture was seen.
func (c *oneCase) firstOf(n counts) (f first) {
	for route, k := range n.Routes {
		switch stage(route) {
		case list:
			f.pages = min(k, c.pages())
			f.again = k - f.pages
		case jobs:
			f.later += k
		case details:
			if strings.HasSuffix(route, "/managers") {
				f.later += k
			} else {
				f.details += k
			}
		default:
			f.checks += k
		}
	}
	return f
}

// least is how long so many requests take at the least: by the answers' time,
// or by the limit after what the first minute may spend at once.
func (c *oneCase) least(n int) time.Duration {
	d := time.Duration(n) * c.latency / time.Duration(c.concurrency)
	if c.limit > 0 && n > c.limit {
		d = max(d, time.Minute+time.Duration(n-c.limit)*time.Minute/time.Duration(c.limit))
	}
	return d
}

// mostRequests and mostTime are what a first picture may take.
func (c *oneCase) mostRequests() int { return c.pages() + c.runners + 10 }

func (c *oneCase) mostTime(f first) time.Duration {
	return c.least(f.counted())*11/10 + 2*time.Second
}

// rest waits until machines and jobs are whole too.
func (c *oneCase) rest(ctx context.Context, e *exporter, sim *simulation, r *result) error {
	for r.picture > 0 && time.Since(e.started) < c.picture {
		m, err := e.sums(ctx, "fleet")
		if err != nil {
			return err
		}
		took := time.Since(e.started)
		if _, ok := m["managers"]; ok && r.first.machines == 0 {
			r.first.machines = took
		}
		if _, ok := m["jobs_executing"]; ok && r.first.jobs == 0 {
			r.first.jobs = took
		}
		if r.first.machines > 0 && r.first.jobs > 0 {
			c.report("machines after %v, jobs after %v", r.first.machines, r.first.jobs)
			return nil
		}
		if _, err := c.watch(ctx, sim); err != nil {
			return err
		}
		if err := e.Pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// firstReport is a Markdown table with a line for each case.
func firstReport(p *plan, results []*result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nlatency %v, %d requests at once, %s runners get jobs, %g an hour each, %v of history, %d tags, runners_interval %v\n\n",
		machine(), p.latency, p.concurrency, p.active, p.jobs, p.history, p.tags, (&oneCase{plan: p}).interval())
	b.WriteString("| runners | requests/min | load | first picture | the least | at most | requests | at most | further listings | machines and jobs among them | machines whole | jobs whole | |\n")
	b.WriteString("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|\n")
	for _, r := range results {
		limit, verdict := "no limit", "kept"
		if r.c.limit > 0 {
			limit = thousands(r.c.limit)
		}
		f := r.first
		if r.picture == 0 || r.picture > r.c.mostTime(f) || f.counted() > r.c.mostRequests() {
			verdict = "MISSED"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %d | %s | %s | %s |\n",
			thousands(r.c.runners), limit, r.load, seconds(r.picture), seconds(r.c.least(f.counted())), seconds(r.c.mostTime(f)),
			thousands(f.counted()), thousands(r.c.mostRequests()), thousands(f.again), f.later, seconds(f.machines), seconds(f.jobs), verdict)
	}
	return b.String()
}
