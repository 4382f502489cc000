// Command scale measures the exporter at the size of large fleets: the real
// program, built as for a release, against a simulated GitLab in a process of
// its own, over real HTTP on loopback.
//
//	go run ./test/scale -runners=1000,10000 -limits=0,600 -api=rest,graphql
//
// It prints one column for each case: how long the first complete picture
// takes beside the time its requests need by themselves, whether its sums are
// the truth, requests and CPU in steady state, peak memory, scrape times,
// series and state on disk. It is bounded in time and requests, and leaves
// nothing behind.
//
// docs/performance.md has results and how to read them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// simulateCommand makes this program the simulated GitLab.
const simulateCommand = "simulate"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// oneAtATime lets the tool and its child processes write to one place.
type oneAtATime struct {
	mu sync.Mutex
	w  io.Writer
}

func (o *oneAtATime) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w.Write(p)
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	stderr = &oneAtATime{w: stderr}
	var err error
	if len(args) > 0 && args[0] == simulateCommand {
		err = simulate(ctx, stdin, stdout)
	} else {
		err = bench(ctx, args, stdout, stderr)
	}
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	default:
		_, _ = fmt.Fprintln(stderr, "scale:", err)
		return 1
	}
}

// plan is what the flags ask for.
type plan struct {
	runners, limits []int
	apis            []string
	latency         time.Duration
	concurrency     int
	runnersInterval time.Duration // 0: the default
	active          string
	rows            string
	jobs            float64 // an hour and runner
	history         time.Duration
	tags            int

	picture, settle, steady time.Duration // bounds, and the length measured
	onlyFirst               bool
	scrapes                 int
	maxRequests             int
	timeout                 time.Duration

	ldflags, binary, keep, temp string
}

func (p *plan) parse(args []string, stderr io.Writer) error {
	fs := flag.NewFlagSet("scale", flag.ContinueOnError)
	fs.SetOutput(stderr)
	runners := fs.String("runners", "1000,10000", "fleet sizes, each a case; 100000 needs some 3 GB and ten minutes")
	limits := fs.String("limits", "0,600", "requests a minute that GitLab allows, each a case; 0: no limit")
	apis := fs.String("api", "rest,graphql", "api of the exporter's configuration, each a case: rest, graphql or auto")
	fs.DurationVar(&p.runnersInterval, "runners-interval", 0, "runners_interval; 0: the default")
	fs.StringVar(&p.active, "active", "all", "runners that get jobs: all, a number, or a share such as 2%; how many execute at a time follows from -jobs")
	fs.StringVar(&p.rows, "runner-series", "both", "metrics.runners.enabled: true, false, or both: a case with them, then a start without them on the same state")
	fs.DurationVar(&p.latency, "latency", 20*time.Millisecond, "of each answer of GitLab")
	fs.IntVar(&p.concurrency, "concurrency", 16, "max_concurrent_requests")
	fs.Float64Var(&p.jobs, "jobs", 6, "jobs an hour and runner that gets any")
	fs.DurationVar(&p.history, "history", 20*time.Hour, "jobs that GitLab already knows at the start: enough to fill a page of each runner")
	fs.IntVar(&p.tags, "tags", 200, "tags in the fleet")
	fs.BoolVar(&p.onlyFirst, "first", false, "measure the first picture alone, by REST beside the least that it takes, -limits being max_requests_per_second alone; then a case lasts until machines and jobs are whole too, or -picture")
	fs.DurationVar(&p.picture, "picture", 5*time.Minute, "how long to wait for the first picture of a case")
	fs.DurationVar(&p.settle, "settle", 5*time.Minute, "how long to wait until every reading is on time")
	fs.DurationVar(&p.steady, "steady", 2*time.Minute, "length of the steady state that is measured. Readings come in waves after the first picture: only over 5m are idle runners' jobs in it at their rate, over 15m (details_interval) details by REST, over some of -runners-interval the list")
	fs.IntVar(&p.scrapes, "scrapes", 100, "timed scrapes of each format")
	fs.IntVar(&p.maxRequests, "max-requests", 1_000_000, "end a case after so many requests to GitLab")
	fs.DurationVar(&p.timeout, "timeout", 2*time.Hour, "end everything after this time")
	fs.StringVar(&p.ldflags, "ldflags", "-s -w", "for building the exporter")
	fs.StringVar(&p.binary, "binary", "", "measure this exporter instead of building one")
	fs.StringVar(&p.keep, "log", "", "write the exporter's log, its end, to this file")
	fs.StringVar(&p.temp, "temp", "", "folder for temporary files, on the disk that is to be measured")
	if err := fs.Parse(args); err != nil {
		return err
	}
	var err error
	if p.runners, err = ints(*runners); err != nil {
		return fmt.Errorf("-runners: %w", err)
	}
	if p.limits, err = ints(*limits); err != nil {
		return fmt.Errorf("-limits: %w", err)
	}
	for s := range strings.SplitSeq(*apis, ",") {
		if s = strings.TrimSpace(s); !slices.Contains([]string{"rest", "graphql", "auto"}, s) {
			return fmt.Errorf("-api: %q is not rest, graphql or auto", s)
		}
		p.apis = append(p.apis, s)
	}
	if _, err := p.activeOf(1000); err != nil {
		return fmt.Errorf("-active: %w", err)
	}
	if !slices.Contains([]string{"true", "false", "both"}, p.rows) {
		return fmt.Errorf("-runner-series: %q is not true, false or both", p.rows)
	}
	if p.runnersInterval < 0 {
		return fmt.Errorf("-runners-interval: %v is below 0", p.runnersInterval)
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	return nil
}

// activeOf is how many of a fleet get jobs; 0: all.
func (p *plan) activeOf(runners int) (int, error) {
	if p.active == "all" {
		return 0, nil
	}
	if share, ok := strings.CutSuffix(p.active, "%"); ok {
		v, err := strconv.ParseFloat(share, 64)
		if err != nil || !(v > 0 && v <= 100) {
			return 0, fmt.Errorf("%q is not a share above 0%% and to 100%%", p.active)
		}
		return max(int(float64(runners)*v/100), 1), nil
	}
	n, err := strconv.Atoi(p.active)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%q is neither all nor a number from 1 nor a share", p.active)
	}
	return n, nil
}

func ints(list string) ([]int, error) {
	var out []int
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%q is not a number from 0", s)
		}
		out = append(out, n)
	}
	return out, nil
}

func bench(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var p plan
	if err := p.parse(args, stderr); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	dir, err := os.MkdirTemp(p.temp, "fleet-scale-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if p.binary == "" {
		p.binary = filepath.Join(dir, "gitlab_runner_fleet_exporter")
		if err := build(ctx, p.ldflags, p.binary, stderr); err != nil {
			return err
		}
	}
	var results []*result
	write := report
	if p.onlyFirst {
		write = firstReport
	}
	for _, c := range p.cases(dir, stderr) {
		r, err := c.measure(ctx)
		if r != nil {
			results = append(results, r)
		}
		if err != nil {
			_, _ = io.WriteString(stdout, write(&p, results)) // what is there is worth having
			return fmt.Errorf("%s: %w", c, err)
		}
	}
	_, err = io.WriteString(stdout, write(&p, results))
	return err
}

// cases are all that the flags ask for.
func (p *plan) cases(dir string, progress io.Writer) (cases []*oneCase) {
	for _, runners := range p.runners {
		for _, limit := range p.limits {
			for _, api := range p.apis {
				cases = append(cases, &oneCase{
					plan: p, runners: runners, limit: limit, api: api, progress: progress,
					dir: filepath.Join(dir, fmt.Sprintf("%d-%d-%s", runners, limit, api)),
				})
			}
		}
	}
	return cases
}
