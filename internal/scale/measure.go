package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// oneCase is one fleet against one limit.
type oneCase struct {
	*plan

	runners, limit int
	dir            string
	say            io.Writer
}

// pages of the runner list.
func (c *oneCase) pages() int { return max((c.runners+99)/100, 1) }

// needed is how many requests a first picture cannot do without: who GitLab
// and the token are, the list, and for each runner its details and machines.
func (c *oneCase) needed() int { return 2 + c.pages() + 2*c.runners }

// ideal is how long n requests take by themselves.
func (c *oneCase) ideal(n int) time.Duration {
	byLatency := time.Duration(n) * c.latency / time.Duration(c.concurrency)
	if c.limit == 0 {
		return byLatency
	}
	// Each minute's requests may go at its beginning.
	byLimit := time.Duration((n-1)/c.limit) * time.Minute
	return max(byLatency, byLimit)
}

// spread are a quantile or two of what was timed.
type spread struct {
	p50, p99 time.Duration
	bytes    int
}

// result is one column of the report. A zero duration was not reached.
type result struct {
	c *oneCase

	load           string
	listed         time.Duration // every runner is in the picture
	picture        time.Duration // all tags too: the details of every runner
	sent           int           // requests until then
	onTime         time.Duration // no reading is late
	steady         time.Duration // measured
	perMinute      map[string]float64
	throttled      int
	cpu            time.Duration // a minute
	busy           float64       // runners that execute, mean
	finished       float64       // jobs counted a minute
	rss, peak      int64
	scrapes        map[string]spread
	series         int
	state          int64
	settled        float64 // seconds from a job's end to its count, mean
	requests       int
	lagAfter       float64
	firstPictureOf float64
}

type format struct{ name, accept, encoding string }

func formats() []format {
	return []format{
		{"text", acceptText, ""},
		{"text, gzip", acceptText, "gzip"},
		{"OpenMetrics", acceptOM, ""},
		{"OpenMetrics, gzip", acceptOM, "gzip"},
		{"protobuf", acceptProto, ""},
		{"protobuf, gzip", acceptProto, "gzip"},
	}
}

// stages names the routes by what they are read for.
func stage(route string) string {
	switch route {
	case "GET /runners/all":
		return "list"
	case "GET /runners/:id", "GET /runners/:id/managers":
		return "details"
	case "GET /runners/:id/jobs", "GET /projects/:id/jobs/:job_id":
		return "jobs"
	default:
		return "other"
	}
}

func (c *oneCase) tell(format string, args ...any) {
	_, _ = fmt.Fprintf(c.say, "%s %d runners, limit %d: "+format+"\n", append([]any{time.Now().Format(time.TimeOnly), c.runners, c.limit}, args...)...)
}

// errEnough ends a case that asks too much of GitLab.
var errEnough = errors.New("more requests than -max-requests")

// measure runs the case. The result holds what was measured until an error.
func (c *oneCase) measure(ctx context.Context) (r *result, err error) {
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(c.dir) }()
	token := "glpat-" + rand.Text()
	c.tell("simulating %v of history", c.history)
	sim, err := startSimulation(ctx, world{
		Token: token, Runners: c.runners, Tags: c.tags, JobsPerHour: c.jobs * float64(c.runners),
		History: c.history, Latency: c.latency, RateLimit: c.limit,
	}, c.say)
	if err != nil {
		return nil, err
	}
	defer sim.stop()
	r = &result{c: c, load: load(), scrapes: map[string]spread{}, perMinute: map[string]float64{}}
	e, err := startExporter(ctx, c.plan, c.limit, c.dir, sim.API, token)
	if err != nil {
		return nil, err
	}
	defer e.stop()
	defer func() {
		if c.keep != "" {
			err = errors.Join(err, os.WriteFile(c.keep, []byte(e.log.String()), 0o600))
		}
	}()
	if err := c.firstPicture(ctx, e, sim, r); err != nil {
		return r, err
	}
	if err := c.untilOnTime(ctx, e, sim, r); err != nil {
		return r, err
	}
	if err := c.steadyState(ctx, e, sim, r); err != nil {
		return r, err
	}
	if err := c.timeScrapes(ctx, e, r); err != nil {
		return r, err
	}
	r.rss, r.peak = memory(e.cmd.Process.Pid)
	if n, err := sim.counts(ctx); err == nil {
		r.requests, r.throttled = n.total(), n.Statuses[429]
	}
	e.stop()
	r.state, err = size(filepath.Join(c.dir, "state"))
	return r, err
}

// firstPicture waits until the listing stands in the sums, and then until the
// tag families appear, which they do when the details of every runner are read.
func (c *oneCase) firstPicture(ctx context.Context, e *exporter, sim *simulation, r *result) error {
	for time.Since(e.started) < c.picture {
		m, err := e.sums(ctx, "fleet")
		if err != nil {
			return err
		}
		took := time.Since(e.started)
		if r.listed == 0 && int(m["runners"]) == c.runners {
			r.listed = took
			c.tell("all runners listed after %v", took)
		}
		n, err := c.watch(ctx, sim)
		if err != nil {
			return err
		}
		r.sent = n.total()
		r.firstPictureOf = float64(n.Routes["GET /runners/:id"])
		if _, ok := m["tag_runners"]; ok && r.listed != 0 {
			r.picture = took
			c.tell("first picture after %v and %d requests", took, r.sent)
			return nil
		}
		if err := e.pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	c.tell("no first picture within %v", c.picture)
	return nil
}

// watch counts the requests, and ends a case that makes too many.
func (c *oneCase) watch(ctx context.Context, sim *simulation) (counts, error) {
	n, err := sim.counts(ctx)
	if err == nil && n.total() > c.maxRequests {
		err = errEnough
	}
	return n, err
}

// untilOnTime waits until no reading is late.
func (c *oneCase) untilOnTime(ctx context.Context, e *exporter, sim *simulation, r *result) error {
	if r.picture == 0 {
		return nil // its details alone are late
	}
	for begin := time.Now(); time.Since(begin) < c.settle; {
		// Each picture tells the lag as of its making, every 5 s.
		if err := e.pause(ctx, 5*time.Second); err != nil {
			return err
		}
		m, err := e.sums(ctx, "exporter")
		if err != nil {
			return err
		}
		r.lagAfter = m["exporter_poll_lag_seconds"]
		if r.lagAfter == 0 {
			r.onTime = time.Since(e.started)
			c.tell("on time after %v", r.onTime)
			return nil
		}
		if _, err := c.watch(ctx, sim); err != nil {
			return err
		}
	}
	c.tell("still late by %.0f s after %v", r.lagAfter, c.settle)
	return nil
}

// steadyState counts requests and CPU while a Prometheus scrapes every 15 s.
func (c *oneCase) steadyState(ctx context.Context, e *exporter, sim *simulation, r *result) error {
	const interval = 15 * time.Second
	pid := e.cmd.Process.Pid
	prometheus := func() (map[string]float64, error) {
		if _, err := fetch(ctx, e.base+"/metrics", acceptOM, "gzip"); err != nil {
			return nil, err
		}
		return e.sums(ctx, "fleet")
	}
	first, err := prometheus() // makes the format known, so that it is kept ready
	if err != nil {
		return err
	}
	before, err := c.watch(ctx, sim)
	if err != nil {
		return err
	}
	self0, err := e.sums(ctx, "exporter")
	if err != nil {
		return err
	}
	begin, cpu := time.Now(), cpuTime(pid)
	last, samples := first, 0
	for time.Since(begin) < c.steady {
		if err := e.pause(ctx, min(interval, c.steady)); err != nil {
			return err
		}
		if last, err = prometheus(); err != nil {
			return err
		}
		r.busy += last["busy_runners"]
		samples++
		if _, err := c.watch(ctx, sim); err != nil {
			return err
		}
	}
	cpu = cpuTime(pid) - cpu
	r.steady = time.Since(begin)
	after, err := sim.counts(ctx)
	if err != nil {
		return err
	}
	self1, err := e.sums(ctx, "exporter")
	if err != nil {
		return err
	}
	minutes := r.steady.Minutes()
	for route, n := range after.Routes {
		r.perMinute[stage(route)] += float64(n-before.Routes[route]) / minutes
	}
	r.cpu = time.Duration(float64(cpu) / minutes)
	r.busy /= float64(max(samples, 1))
	r.finished = (last["jobs_finished_total"] - first["jobs_finished_total"]) / minutes
	const delay = "exporter_job_settle_delay_seconds_"
	r.settled = (self1[delay+"sum"] - self0[delay+"sum"]) / (self1[delay+"count"] - self0[delay+"count"])
	c.tell("steady state measured for %v", r.steady)
	return nil
}

// timeScrapes times whole scrapes, from the request to the last byte.
func (c *oneCase) timeScrapes(ctx context.Context, e *exporter, r *result) error {
	for _, f := range formats() {
		var took []time.Duration
		var s spread
		for i := range c.scrapes + 1 {
			began := time.Now()
			body, err := fetch(ctx, e.base+"/metrics", f.accept, f.encoding)
			if err != nil {
				return err
			}
			if i == 0 { // the first of a format makes it; Prometheus meets that once
				if f.name == "text" {
					r.series = series(body)
				}
				continue
			}
			took = append(took, time.Since(began))
			s.bytes = len(body)
			if err := e.pause(ctx, 20*time.Millisecond); err != nil {
				return err
			}
		}
		s.p50, s.p99 = quantile(took, 0.5), quantile(took, 0.99)
		r.scrapes[f.name] = s
	}
	c.tell("%d scrapes of each format", c.scrapes)
	return nil
}

// series counts the samples of a text exposition.
func series(body []byte) (n int) {
	for line := range bytes.Lines(body) {
		if line[0] != '#' {
			n++
		}
	}
	return n
}

// quantile is the smallest of d that so many of them do not exceed.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(d))
	return s[max(int(math.Ceil(q*float64(len(s))))-1, 0)]
}
