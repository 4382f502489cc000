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
	fmt.Fprintf(&b, "%s\nlatency %v, %d requests at once, %g jobs an hour and runner, %v of history, %d tags\n\n", machine(), p.latency, p.concurrency, p.jobs, p.history, p.tags)
	row := func(name string, cell func(r *result) string) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, r := range results {
			fmt.Fprintf(&b, " %s |", cell(r))
		}
		b.WriteByte('\n')
	}
	row("runners", func(r *result) string { return thousands(r.c.runners) })
	fmt.Fprintf(&b, "|---|%s\n", strings.Repeat("---:|", len(results)))
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
			return fmt.Sprintf("not within %v (%s of %s)", r.c.picture, thousands(int(r.firstPictureOf)), thousands(r.c.runners))
		}
		return seconds(r.picture)
	})
	row("requests it needs", func(r *result) string { return thousands(r.c.needed()) })
	row("their own time", func(r *result) string { return seconds(r.c.ideal(r.c.needed())) })
	row("ratio", func(r *result) string { return ratio(r.picture, r.c.ideal(r.c.needed())) })
	row("requests sent by then", func(r *result) string { return thousands(r.sent) })
	row("ratio to their own time", func(r *result) string { return ratio(r.picture, r.c.ideal(r.sent)) })
	row("every reading on time", func(r *result) string { return seconds(r.onTime) })
	row("steady state, measured for", func(r *result) string { return seconds(r.steady) })
	for _, s := range []string{"list", "details", "jobs", "other"} {
		row("requests/min: "+s, func(r *result) string { return decimal(r.perMinute[s]) })
	}
	row("requests/min: all", func(r *result) string { return decimal(all(r)) })
	row("jobs finished/min", func(r *result) string { return decimal(r.finished) })
	row("runners executing", func(r *result) string { return decimal(r.busy) })
	row("least requests/min: list pages, one page for each of those", func(r *result) string { return decimal(float64(r.c.pages()) + r.busy) })
	row("job's end to its count, mean", func(r *result) string { return decimal(r.settled) + " s" })
	row("answers 429", func(r *result) string { return thousands(r.throttled) })
	row("CPU seconds/min, a scrape every 15 s", func(r *result) string { return fmt.Sprintf("%.2f", r.cpu.Seconds()) })
	row("CPU ms/request", func(r *result) string { return fmt.Sprintf("%.2f", r.cpu.Seconds()*1000/all(r)) })
	row("resident memory, at the end", func(r *result) string { return mebi(r.rss) })
	row("resident memory, peak", func(r *result) string { return mebi(r.peak) })
	row("series", func(r *result) string { return thousands(r.series) })
	for _, f := range formats() {
		row("scrape p50 / p99, "+f.name, func(r *result) string {
			s := r.scrapes[f.name]
			return fmt.Sprintf("%s / %s (%s)", millis(s.p50), millis(s.p99), mebi(int64(s.bytes)))
		})
	}
	row("state on disk", func(r *result) string { return mebi(r.state) })
	row("requests in all", func(r *result) string { return thousands(r.requests) })
	return b.String()
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
