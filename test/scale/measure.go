package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// oneCase is one fleet against one limit.
type oneCase struct {
	*plan

	runners, limit int
	api            string
	dir            string
	progress       io.Writer
}

func (c *oneCase) String() string {
	return fmt.Sprintf("%d runners, limit %d, %s", c.runners, c.limit, c.api)
}

func (c *oneCase) state() string { return filepath.Join(c.dir, "state") }

// byREST: the exporter may not use GraphQL, which the simulation offers.
func (c *oneCase) byREST() bool { return c.api == "rest" }

// pages of the runner list.
func (c *oneCase) pages() int { return max((c.runners+99)/100, 1) }

// interval is between two lists.
func (c *oneCase) interval() time.Duration {
	if c.runnersInterval > 0 {
		return c.runnersInterval
	}
	return time.Minute
}

// needed is how many requests a first picture cannot do without: who GitLab
// and the token are, the list, and by REST for each runner its details. Its
// machines come behind it.
func (c *oneCase) needed() int {
	if c.byREST() {
		return 2 + c.pages() + c.runners
	}
	return 2 + c.pages()
}

// ideal is how long n requests take by themselves. Pages of GraphQL come one
// after the other: each has where the next begins.
func (c *oneCase) ideal(n int) time.Duration {
	atOnce := 1
	if c.byREST() {
		atOnce = c.concurrency
	}
	byLatency := time.Duration(n) * c.latency / time.Duration(atOnce)
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

	load       string
	listed     time.Duration // every runner is in the picture
	picture    time.Duration // all tags too: the details of every runner
	sent       int           // requests until then
	first      first
	read       int           // of these, details by REST, or pages by GraphQL
	waited     time.Duration // the least that their answers took, by what GitLab really needed
	onTime     time.Duration // no reading is late
	lagAfter   float64
	steady     time.Duration // measured
	perMinute  map[string]float64
	answers    map[string]time.Duration // mean, by what is read
	throttled  int
	user, sys  time.Duration // CPU a minute
	collecting time.Duration // of that, a minute
	collected  float64       // times a minute
	simulation time.Duration // CPU of the simulated GitLab a minute
	busy       float64       // runners that execute, mean
	finished   float64       // jobs counted a minute
	settled    float64       // seconds from a job's end to its count, mean
	sums       string        // how they compare to the truth
	executing  [2]int        // jobs: shown, and in truth at the same moment
	given      givenUp
	rss, peak  int64
	scrapes    map[string]spread
	series     int
	ofRunners  int // series
	disk       int64
	requests   int

	// A second start on the same state, without the runner_ families.
	again        time.Duration // until its picture, from the state
	againScrapes map[string]spread
	againSeries  int
}

func (r *result) cpu() time.Duration { return r.user + r.sys }

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

// What requests are for. byGraphQL stands for the list, the details, the
// machines and the number of executing jobs at once.
const (
	byGraphQL = "GraphQL"
	list      = "list"
	details   = "details"
	jobs      = "jobs"
	other     = "other"
)

// stage names a route by what it is read for. The simulation writes its method
// before it, the exporter does not.
func stage(route string) string {
	switch route[strings.IndexByte(route, ' ')+1:] {
	case "/graphql":
		return byGraphQL
	case "/runners/all":
		return list
	case "/runners/:id", "/runners/:id/managers":
		return details
	case "/runners/:id/jobs", "/projects/:id/jobs/:job_id":
		return jobs
	default:
		return other
	}
}

func (c *oneCase) report(format string, args ...any) {
	_, _ = fmt.Fprintf(c.progress, "%s %s: "+format+"\n", append([]any{time.Now().Format(time.TimeOnly), c}, args...)...)
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
	active, err := c.activeOf(c.runners)
	if err != nil {
		return nil, err
	}
	throttle := c.limit
	if c.onlyFirst {
		throttle = 0 // the configured limit alone: what GitLab reports of its own is spread over its window
	}
	c.report("simulating %v of history", c.history)
	sim, err := startSimulation(ctx, world{
		Token: token, Runners: c.runners, Active: active, Tags: c.tags, Jobs: c.jobs,
		History: c.history, Latency: c.latency, RateLimit: throttle,
	}, c.progress)
	if err != nil {
		return nil, err
	}
	defer sim.stop()
	r = &result{c: c, load: load(), scrapes: map[string]spread{}, againScrapes: map[string]spread{}, perMinute: map[string]float64{}, answers: map[string]time.Duration{}}
	if err := c.run(ctx, sim, token, r); err != nil {
		return r, err
	}
	if r.disk, err = size(c.state()); err != nil || c.rows != "both" || r.picture == 0 || c.onlyFirst {
		return r, err
	}
	return r, c.runAgain(ctx, sim, token, r)
}

// run is the case itself, from an empty folder.
func (c *oneCase) run(ctx context.Context, sim *simulation, token string, r *result) (err error) {
	e, err := startExporter(ctx, c, sim.API, token, c.rows != "false")
	if err != nil {
		return err
	}
	defer e.Stop()
	defer func() {
		if c.keep != "" {
			err = errors.Join(err, os.WriteFile(c.keep, []byte(e.Log()), 0o600))
		}
	}()
	parts := []func(context.Context, *exporter, *simulation, *result) error{c.firstPicture, c.untilOnTime, c.steadyState, c.compare}
	if c.onlyFirst {
		parts = []func(context.Context, *exporter, *simulation, *result) error{c.firstPicture, c.rest}
	}
	for _, part := range parts {
		if err := part(ctx, e, sim, r); err != nil {
			return err
		}
	}
	if c.onlyFirst {
		return nil
	}
	if err := c.timeScrapes(ctx, e, r.scrapes, &r.series, &r.ofRunners); err != nil {
		return err
	}
	r.rss, r.peak = memory(e.PID())
	if n, err := sim.counts(ctx); err == nil {
		r.requests, r.throttled = n.total(), n.Statuses[http.StatusTooManyRequests]
	}
	return nil
}

// runAgain starts on the state that the case left, without the runner_
// families, and times its scrapes once GitLab was listed again.
func (c *oneCase) runAgain(ctx context.Context, sim *simulation, token string, r *result) error {
	e, err := startExporter(ctx, c, sim.API, token, false)
	if err != nil {
		return err
	}
	defer e.Stop()
	for time.Since(e.started) < c.settle {
		m, err := e.sums(ctx, "fleet")
		if err != nil {
			return err
		}
		if _, ok := m["tag_runners"]; ok && r.again == 0 {
			r.again = time.Since(e.started)
			c.report("started again without runner_ families: picture after %v", r.again)
		}
		if m["up"] == 1 && r.again > 0 {
			break
		}
		if _, err := c.watch(ctx, sim); err != nil {
			return err
		}
		if err := e.Pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	var ofRunners int
	if err := c.timeScrapes(ctx, e, r.againScrapes, &r.againSeries, &ofRunners); err != nil {
		return err
	}
	if ofRunners > 0 {
		return fmt.Errorf("%d series of runner_ families although they are off", ofRunners)
	}
	return nil
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
			c.report("all runners listed after %v", took)
		}
		n, err := c.watch(ctx, sim)
		if err != nil {
			return err
		}
		r.sent = n.total()
		if r.read = n.Routes["GET /runners/:id"]; !c.byREST() {
			r.read = n.Routes["POST /graphql"]
		}
		if _, ok := m["tag_runners"]; ok && r.listed != 0 {
			r.picture, r.first = took, c.firstOf(n)
			c.report("first picture after %v and %d requests", took, r.sent)
			s, err := e.scrape(ctx, "exporter")
			r.waited = c.waited(s)
			return err
		}
		wait := 100 * time.Millisecond
		if left := c.runners - r.read; c.byREST() && left < 100 {
			wait = time.Millisecond // each request after it counts
		}
		if err := e.Pause(ctx, wait); err != nil {
			return err
		}
	}
	c.report("no first picture within %v", c.picture)
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
		// Each picture shows the lag as of its making, every 5 s.
		if err := e.Pause(ctx, 5*time.Second); err != nil {
			return err
		}
		m, err := e.sums(ctx, "exporter")
		if err != nil {
			return err
		}
		r.lagAfter = m["exporter_poll_lag_seconds"]
		if r.lagAfter == 0 {
			r.onTime = time.Since(e.started)
			c.report("on time after %v", r.onTime)
			return nil
		}
		if _, err := c.watch(ctx, sim); err != nil {
			return err
		}
	}
	c.report("still late by %.0f s after %v", r.lagAfter, c.settle)
	return nil
}

// steadyState counts requests and CPU while a Prometheus scrapes every 15 s.
func (c *oneCase) steadyState(ctx context.Context, e *exporter, sim *simulation, r *result) error {
	const interval = 15 * time.Second
	pid := e.PID()
	first, err := e.sums(ctx, "")
	if err != nil {
		return err
	}
	before, err := c.watch(ctx, sim)
	if err != nil {
		return err
	}
	begin := time.Now()
	user0, sys0 := cpuTime(pid)
	simUser0, simSys0 := cpuTime(sim.cmd.Process.Pid)
	collected0, collecting0 := e.gc.sum()
	last, count := samples(nil), 0
	for time.Since(begin) < c.steady {
		if err := e.Pause(ctx, min(interval, c.steady)); err != nil {
			return err
		}
		if last, err = e.scrape(ctx, ""); err != nil {
			return err
		}
		r.busy += last.sums()["busy_runners"]
		count++
		if _, err := c.watch(ctx, sim); err != nil {
			return err
		}
	}
	user, sys := cpuTime(pid)
	simUser, simSys := cpuTime(sim.cmd.Process.Pid)
	collected, collecting := e.gc.sum()
	r.steady = time.Since(begin)
	after, err := sim.counts(ctx)
	if err != nil {
		return err
	}
	minutes := r.steady.Minutes()
	aMinute := func(d time.Duration) time.Duration { return time.Duration(float64(d) / minutes) }
	for route, n := range after.Routes {
		r.perMinute[stage(route)] += float64(n-before.Routes[route]) / minutes
	}
	r.user, r.sys = aMinute(user-user0), aMinute(sys-sys0)
	r.simulation = aMinute(simUser + simSys - simUser0 - simSys0)
	r.collected, r.collecting = float64(collected-collected0)/minutes, aMinute(collecting-collecting0)
	r.busy /= float64(max(count, 1))
	now := last.sums()
	r.finished = (now["jobs_finished_total"] - first["jobs_finished_total"]) / minutes
	const delay = "exporter_job_settle_delay_seconds_"
	r.settled = (now[delay+"sum"] - first[delay+"sum"]) / (now[delay+"count"] - first[delay+"count"])
	r.answers = answers(last)
	c.report("steady state measured for %v", r.steady)
	return nil
}

const durations = "exporter_api_request_duration_seconds_"

// waited is ideal, with the answers as long as they were: the simulation takes
// time of its own for a page of a large fleet.
func (c *oneCase) waited(s samples) time.Duration {
	var rest, pages float64
	for route, v := range s.by(durations+"sum", "route") {
		if stage(route) == byGraphQL {
			pages += v
		} else {
			rest += v
		}
	}
	if c.byREST() {
		pages = rest / float64(c.concurrency)
	}
	return time.Duration(pages * float64(time.Second))
}

// answers are how long GitLab took since the start, mean, by what was read.
func answers(s samples) map[string]time.Duration {
	sums, counts := map[string]float64{}, map[string]float64{}
	for route, v := range s.by(durations+"sum", "route") {
		sums[stage(route)] += v
	}
	for route, v := range s.by(durations+"count", "route") {
		counts[stage(route)] += v
	}
	out := map[string]time.Duration{}
	for what, n := range counts {
		if n > 0 {
			out[what] = time.Duration(sums[what] / n * float64(time.Second))
		}
	}
	return out
}

// compare holds the sums to the truth, and looks at what gave way.
func (c *oneCase) compare(ctx context.Context, e *exporter, sim *simulation, r *result) error {
	s, err := e.scrape(ctx, "")
	if err != nil {
		return err
	}
	truth, err := sim.truth(ctx)
	if err != nil {
		return err
	}
	shown := shownIn(s)
	r.sums = shown.against(truth)
	r.executing = [2]int{shown.Executing, truth.Executing}
	r.given = givenUp{logged: strings.Contains(e.Log(), "more series than metrics.series_limit")}
	for _, n := range s.by("exporter_series_dropped", "family") {
		r.given.families++
		r.given.series += int(n)
	}
	c.report("sums: %s; series given up: %s", r.sums, r.given)
	return nil
}

// timeScrapes times whole scrapes, from the request to the last byte, and
// counts the series of one.
func (c *oneCase) timeScrapes(ctx context.Context, e *exporter, into map[string]spread, all, ofRunners *int) error {
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
					*all, *ofRunners = samples(body).series()
				}
				continue
			}
			took = append(took, time.Since(began))
			s.bytes = len(body)
			if err := e.Pause(ctx, 20*time.Millisecond); err != nil {
				return err
			}
		}
		s.p50, s.p99 = quantile(took, 0.5), quantile(took, 0.99)
		into[f.name] = s
	}
	c.report("%d scrapes of each format", c.scrapes)
	return nil
}

// quantile is the smallest of d that so many of them do not exceed.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(d))
	return s[max(int(math.Ceil(q*float64(len(s))))-1, 0)]
}
