// Command healthsim drives internal/health through simulated months of a fleet
// and prints how many deaths it found, how soon, and how often it was wrong.
//
//	go run ./test/healthsim
//
// runs what docs/health.md is judged by: ten months of 550 runners, read by GraphQL
// and by REST, and forty months of nine runners. It takes some minutes.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"

	"gitlab-runner-fleet-exporter/internal/health"
)

// The seeds that the table of docs/health.md is made from. They were fixed
// before internal/health was written and are for judging only: whoever changes
// a rule or a constant tunes it on others (those from 1 on) and runs these once.
const (
	judgeSeed   = 820
	judgeMonths = 10
	smallMonths = 40 // of nine runners, from judgeSeed on
	monthDays   = 30
)

type options struct {
	graphql, unmasked, calm, small bool
	days                           int64
	verbose                        io.Writer // each false verdict
}

// result is how one way of reading fared.
type result struct {
	name       string
	large, few *score
}

func main() {
	seed := flag.Int64("seed", judgeSeed, "first `seed`; to tune, use those from 1 on")
	count := flag.Int64("months", judgeMonths, "`months` of 550 runners, one seed each")
	small := flag.Int64("small-months", smallMonths, "`months` of nine runners")
	mode := flag.String("mode", "", "only graphql, or only rest")
	unmasked := flag.Bool("unmasked", false, "each poll reaches GitLab's database, as without long polling")
	causes := flag.Bool("causes", false, "print the causes of verdicts too")
	verbose := flag.Bool("verbose", false, "print each false verdict")
	flag.Parse()
	debug.SetGCPercent(800) // memory is cheaper here than time
	o := options{days: monthDays, unmasked: *unmasked}
	if *verbose {
		o.verbose = os.Stdout
	}
	var results []result
	for _, m := range []string{"GraphQL", "REST"} {
		if *mode != "" && !strings.EqualFold(*mode, m) {
			continue
		}
		o.graphql, o.small = m == "GraphQL", false
		r := result{name: m, large: months(*seed, *count, o)}
		o.small = true
		r.few = months(*seed, *small, o)
		results = append(results, r)
	}
	out := &strings.Builder{}
	table(out, results)
	if *causes {
		for _, r := range results {
			r.causes(out)
		}
	}
	if _, err := io.WriteString(os.Stdout, out.String()); err != nil {
		os.Exit(1)
	}
}

// months runs some of them, as many at once as there are processors.
func months(seed, n int64, o options) *score {
	scores := make([]*score, n)
	var wg sync.WaitGroup
	free := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i := range n {
		wg.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			scores[i] = newScore()
			runMonth(scores[i], seed+i, o)
		})
	}
	wg.Wait()
	all := newScore()
	for _, s := range scores {
		all.add(s)
	}
	return all
}

// kindNames are the kinds of death in words, in the order of the table.
var kindNames = []struct{ kind, name string }{
	{"idle", "an idle runner dies"},
	{"midjob", "a runner dies in mid-job"},
	{"partition", "its network is cut"},
	{"hung", "its process hangs"},
	{allSilent, "**all of these**"},
	{"site", "a small site loses its network"},
	{"site, big", "a site of 60 runners does"},
	{"machine", "one machine of many, in mid-job: its job flagged"},
}

var suspectKinds = []struct {
	what       health.Suspicion
	kind, name string
}{
	{health.BlackHole, "hole", "a full disk: each job fails at once (4 jobs or more)"},
	{health.Infrastructure, "sick", "a quarter of the jobs fails (4 jobs or more)"},
	{health.TakesNoJobs, "wedged", "seen, and takes no job"},
}

// table prints what docs/health.md shows.
func table(w *strings.Builder, results []result) {
	head := func(first string) {
		fmt.Fprintf(w, "\n| %s |", first)
		for _, r := range results {
			fmt.Fprintf(w, " %s |", r.name)
		}
		fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---|", len(results)))
	}
	row := func(name string, cell func(r result) string) {
		fmt.Fprintf(w, "| %s |", name)
		for _, r := range results {
			fmt.Fprintf(w, " %s |", cell(r))
		}
		fmt.Fprintln(w)
	}
	head("deaths: found, minutes to `down` p50 / p90")
	for _, k := range kindNames {
		row(k.name, func(r result) string { return r.large.death(k.kind) })
	}
	row("false `down`", func(r result) string { return strconv.Itoa(sum(r.large.wrong)) })
	row("false `down`, nine runners", func(r result) string {
		return fmt.Sprintf("%d in %d months", sum(r.few.wrong), r.few.months)
	})
	row("requests for details and machines, more than without health", func(r result) string {
		return fmt.Sprintf("%.1f %%", 100*(float64(r.large.requests)/float64(max(1, r.large.plain))-1))
	})
	row("bytes on disk, a runner", func(r result) string {
		return fmt.Sprintf("%.0f", float64(r.large.recordBytes)/float64(max(1, r.large.records)))
	})
	head("suspects: named, after minutes / jobs p50; false")
	for _, k := range suspectKinds {
		row(fmt.Sprintf("`%s`: %s", k.what, k.name), func(r result) string { return r.large.suspect(k.what, k.kind) })
	}
}

func (s *score) death(kind string) string {
	a, n := s.minutes[kind], s.deaths[kind]
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%d of %d, %.0f / %.0f", len(a), n, quantile(a, .5), quantile(a, .9))
}

func (s *score) suspect(what health.Suspicion, kind string) string {
	if s.sick[kind] == 0 {
		return "-"
	}
	return fmt.Sprintf("%d of %d, %.0f / %.0f; %d", len(s.accused[what][kind]), s.sick[kind], quantile(s.accused[what][kind], .5), quantile(s.after[what][kind], .5), sum(s.innocent[what]))
}

// causes prints what stands behind the verdicts that have no incident.
func (r result) causes(w *strings.Builder) {
	s := r.large
	fmt.Fprintf(w, "\n%s: %d months, %d jobs\n  false down: %s\n  false overdue: %s\n  down, and rightly so: %s\n", r.name, s.months, s.jobs, show(s.wrong), show(s.wrongOver), show(s.trueDown))
	for i, c := range s.innocent {
		fmt.Fprintf(w, "  false %s: %s\n", health.Suspicion(i), show(c))
	}
}
