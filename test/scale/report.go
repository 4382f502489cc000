package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// report is a Markdown table with a column for each case.
func report(p *plan, results []*result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nlatency %v, %d requests at once, %s runners get jobs, %g an hour each, %v of history, %d tags, runners_interval %v\n\n",
		machine(), p.latency, p.concurrency, p.active, p.jobs, p.history, p.tags, (&oneCase{plan: p}).interval())
	row := func(name string, cell func(r *result) string) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, r := range results {
			fmt.Fprintf(&b, " %s |", cell(r))
		}
		b.WriteByte('\n')
	}
	row("runners", func(r *result) string { return thousands(r.c.runners) })
	fmt.Fprintf(&b, "|---|%s\n", strings.Repeat("---:|", len(results)))
	row("api", func(r *result) string { return r.c.api })
	row("GitLab allows, requests/min", func(r *result) string {
		if r.c.limit == 0 {
			return "no limit"
		}
		return thousands(r.c.limit)
	})
	row("load average at the start", func(r *result) string { return r.load })
	row("every runner listed", func(r *result) string { return seconds(r.listed) })
	row("first complete picture, all tags", func(r *result) string {
		if r.picture == 0 {
			of := r.c.runners
			if !r.c.byREST() {
				of = r.c.pages()
			}
			return fmt.Sprintf("not within %v (%s of %s)", r.c.picture, thousands(r.read), thousands(of))
		}
		return seconds(r.picture)
	})
	row("requests it needs", func(r *result) string { return thousands(r.c.needed()) })
	row("their own time", func(r *result) string { return seconds(r.c.ideal(r.c.needed())) })
	row("ratio", func(r *result) string { return ratio(r.picture, r.c.ideal(r.c.needed())) })
	row("requests sent by then", func(r *result) string { return thousands(r.sent) })
	row("ratio to their own time", func(r *result) string {
		if !r.c.byREST() {
			return "-" // jobs are read beside the pages
		}
		return ratio(r.picture, r.c.ideal(r.sent))
	})
	row("ratio to their answers' real time, so many at once", func(r *result) string { return ratio(r.picture, r.waited) })
	row("every reading on time", func(r *result) string {
		if r.onTime == 0 && r.picture > 0 {
			return fmt.Sprintf("late by %.0f s after %v", r.lagAfter, r.c.settle)
		}
		return seconds(r.onTime)
	})
	row("sums, beside the truth", func(r *result) string { return dash(r.sums) })
	row("jobs executing: shown / true", func(r *result) string { return thousands(r.executing[0]) + " / " + thousands(r.executing[1]) })
	row("steady state, measured for", func(r *result) string { return seconds(r.steady) })
	for _, s := range []struct{ stage, name string }{
		{byGraphQL, "GraphQL: list, details, machines, executing jobs"},
		{list, "REST: list"},
		{details, "REST: details and machines"},
		{other, "REST: other"},
	} {
		row("requests/min, "+s.name, func(r *result) string { return decimal(r.perMinute[s.stage]) })
	}
	row("requests/min, these", func(r *result) string { return decimal(all(r) - r.perMinute[jobs]) })
	row("requests/min, REST: jobs of each runner", func(r *result) string { return decimal(r.perMinute[jobs]) })
	row("requests/min, all", func(r *result) string { return decimal(all(r)) })
	for _, s := range []struct{ stage, name string }{{byGraphQL, "GraphQL"}, {list, "list"}, {details, "details"}, {jobs, "jobs"}} {
		row("GitLab's answer, mean: "+s.name, func(r *result) string { return millis(r.answers[s.stage]) })
	}
	row("simulated GitLab, CPU seconds/min", func(r *result) string { return fmt.Sprintf("%.1f", r.simulation.Seconds()) })
	row("jobs finished/min", func(r *result) string { return decimal(r.finished) })
	row("runners executing", func(r *result) string { return decimal(r.busy) })
	row("least requests/min: list pages, one page for each of those", func(r *result) string { return decimal(float64(r.c.pages())/r.c.interval().Minutes() + r.busy) })
	row("job's end to its count, mean, s", func(r *result) string { return decimal(r.settled) })
	row("answers 429", func(r *result) string { return thousands(r.throttled) })
	row("CPU seconds/min, a scrape every 15 s (user + system)", func(r *result) string {
		return fmt.Sprintf("%.2f (%.2f + %.2f)", r.cpu().Seconds(), r.user.Seconds(), r.sys.Seconds())
	})
	row("of one core", func(r *result) string { return percent(r.cpu(), time.Minute) })
	row("garbage collection, of that CPU", func(r *result) string {
		return fmt.Sprintf("%s, %s a minute", percent(r.collecting, r.cpu()), decimal(r.collected))
	})
	row("CPU ms/request", func(r *result) string { return decimal(r.cpu().Seconds() * 1000 / all(r)) })
	row("resident memory, at the end", func(r *result) string { return mebi(r.rss) })
	row("resident memory, peak", func(r *result) string { return mebi(r.peak) })
	row("series", func(r *result) string { return thousands(r.series) })
	row("of these, runner_", func(r *result) string { return thousands(r.ofRunners) })
	row("given up to series_limit", func(r *result) string { return r.given.String() })
	for _, f := range formats() {
		row("scrape p50 / p99, "+f.name, func(r *result) string { return r.scrapes[f.name].String() })
	}
	row("state on disk", func(r *result) string { return mebi(r.disk) })
	row("requests in all", func(r *result) string { return thousands(r.requests) })
	if p.rows != "both" {
		fmt.Fprintf(&b, "\nmetrics.runners.enabled: %s\n", p.rows)
		return b.String()
	}
	row("started again on this state, metrics.runners.enabled: false: picture", func(r *result) string { return seconds(r.again) })
	row("series then", func(r *result) string { return thousands(r.againSeries) })
	for _, f := range formats() {
		row("scrape p50 / p99 then, "+f.name, func(r *result) string { return r.againScrapes[f.name].String() })
	}
	return b.String()
}

func (s spread) String() string {
	return fmt.Sprintf("%s / %s (%s)", millis(s.p50), millis(s.p99), mebi(int64(s.bytes)))
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func percent(part, whole time.Duration) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f %%", float64(part)/float64(whole)*100)
}

func all(r *result) (sum float64) {
	for _, n := range r.perMinute {
		sum += n
	}
	return sum
}

func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func decimal(v float64) string {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "-"
	case v < 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return thousands(int(math.Round(v)))
	}
}

func seconds(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

func millis(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

func ratio(a, b time.Duration) string {
	if a == 0 || b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", float64(a)/float64(b))
}

func mebi(n int64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
