package main

import (
	"bytes"
	"io"
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/test/rig"
)

// TestMain lets the test binary be the simulated GitLab, as the tool is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == simulateCommand {
		main()
	}
	os.Exit(m.Run())
}

// TestMeasuresASmallFleet runs the whole measurement on a fleet whose figures
// are known, by both APIs.
func TestMeasuresASmallFleet(t *testing.T) {
	t.Parallel()
	rig.Long(t, "builds and measures the program")
	temp := t.TempDir()
	var out, progress bytes.Buffer
	began := time.Now()
	p := []string{
		"-runners=120", "-limits=0", "-api=rest,graphql", "-active=10%", "-jobs=60", "-runners-interval=2s", "-latency=1ms", "-history=1h", "-steady=3s",
		"-settle=30s", "-picture=30s", "-scrapes=3", "-temp=" + temp, "-ldflags=",
	}
	if code := run(t.Context(), p, strings.NewReader(""), &out, &progress); code != 0 {
		t.Fatalf("status %d:\n%s", code, &progress)
	}
	const (
		s       = ` \d+\.\d s \|`
		n       = ` (\d+\.\d|\d[\d,]*) \|`
		scraped = ` \d+\.\d ms / \d+\.\d ms \(\d\.\d MiB\) \|`
		sums    = ` complete: 120 runners, \d{3} machines, \d+ tags \|`
	)
	for _, want := range []string{
		`\| runners \| 120 \| 120 \|`, `\| api \| rest \| graphql \|`, `\| every runner listed \|` + s + s, `\| first complete picture, all tags \|` + s + s,
		`\| requests it needs \| 124 \| 4 \|`, `\| every reading on time \|` + s + s, `\| answers 429 \| 0 \| 0 \|`, `\| series \| \d,\d{3} \| \d,\d{3} \|`,
		`\| sums, beside the truth \|` + sums + sums, `\| given up to series_limit \| none \| none \|`,
		`\| requests/min, GraphQL: list, details, machines, executing jobs \| 0\.0 \| [1-9]\d \|`, `\| requests/min, REST: list \| [1-9]\d \| 0\.0 \|`,
		`\| requests/min, REST: jobs of each runner \|` + n + n, `\| GitLab's answer, mean: GraphQL \| - \| \d+\.\d ms \|`,
		`\| GitLab's answer, mean: details \| \d+\.\d ms \| - \|`, `\| of these, runner_ \| \d,\d{3} \| \d,\d{3} \|`,
		`\| scrape p50 / p99, protobuf, gzip \|` + scraped + scraped, `\| started again on this state, metrics.runners.enabled: false: picture \|` + s + s,
		`\| scrape p50 / p99 then, text \|` + scraped + scraped,
	} {
		if !regexp.MustCompile(want).Match(out.Bytes()) {
			t.Errorf("no %s in\n%s", want, &out)
		}
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	t.Logf("%v\n%s", time.Since(began), &out)
}

// TestMeasuresAFirstPicture: the row of a first picture. How long it takes on a
// shared machine is a figure, not an assertion.
func TestMeasuresAFirstPicture(t *testing.T) {
	t.Parallel()
	rig.Long(t, "builds and measures the program")
	var out, progress bytes.Buffer
	p := []string{"-first", "-runners=150", "-limits=0", "-api=rest", "-jobs=20", "-latency=20ms", "-concurrency=8", "-history=1h", "-picture=1m", "-temp=" + t.TempDir(), "-ldflags="}
	if code := run(t.Context(), p, strings.NewReader(""), &out, &progress); code != 0 {
		t.Fatalf("status %d:\n%s", code, &progress)
	}
	if want := `\| 150 \| no limit \| \S+ \| \d\.\d s \| 0\.\d s \| 2\.\d s \| \d{3} \| 162 \| \d \| \d+ \| \d\.\d s \| \d\.\d s \|`; !regexp.MustCompile(want).Match(out.Bytes()) {
		t.Errorf("no %s in\n%s", want, &out)
	}
	c := &oneCase{plan: &plan{latency: 20 * time.Millisecond, concurrency: 8}, runners: 300, limit: 600}
	for n, want := range map[int]time.Duration{400: time.Second, 600: 1500 * time.Millisecond, 1200: 2 * time.Minute} {
		if d := c.least(n); d != want {
			t.Errorf("%d requests at 600 a minute: %v, want %v", n, d, want)
		}
	}
	f := c.firstOf(counts{Routes: map[string]int{
		"GET /metadata": 1, "GET /personal_access_tokens/self": 1, "GET /runners/all": 9, "GET /runners/:id": 300, "GET /runners/:id/managers": 2, "GET /runners/:id/jobs": 3,
	}})
	if want := (first{checks: 2, pages: 3, again: 6, details: 300, later: 5}); f != want || f.counted() != 310 || c.mostRequests() != 313 {
		t.Errorf("%+v, counted %d of %d", f, f.counted(), c.mostRequests())
	}
}

func TestStopsAtItsBounds(t *testing.T) {
	t.Parallel()
	rig.Long(t, "builds and measures the program")
	// The exporter is ended with an error, and what was measured is reported.
	var out, progress bytes.Buffer
	code := run(t.Context(), []string{"-runners=50", "-limits=0", "-api=rest", "-latency=0", "-history=0", "-max-requests=20", "-temp=" + t.TempDir(), "-ldflags="}, strings.NewReader(""), &out, &progress)
	if code != 1 || !strings.Contains(progress.String(), errEnough.Error()) || !strings.Contains(out.String(), "| 50 |") {
		t.Errorf("status %d\n%s\n%s", code, &progress, &out)
	}
	for _, bad := range [][]string{
		{"-runners=x"},
		{"-limits=-1"},
		{"extra"},
		{"-nonsense"},
		{"-api=soap"},
		{"-active=0"},
		{"-active=101%"},
		{"-active=NaN%"},
		{"-active=some"},
		{"-runner-series=maybe"},
		{"-runners-interval=-1s"},
	} {
		if code := run(t.Context(), bad, strings.NewReader(""), io.Discard, io.Discard); code != 1 {
			t.Errorf("%v: status %d", bad, code)
		}
	}
}

func TestFiguresAreWrittenForPeople(t *testing.T) {
	t.Parallel()
	c := &oneCase{plan: &plan{latency: 20 * time.Millisecond, concurrency: 16}, runners: 10_000, api: "rest"}
	if n := c.needed(); n != 10_102 {
		t.Errorf("%d requests needed", n)
	}
	if d := c.ideal(16_000); d != 20*time.Second {
		t.Errorf("16,000 requests of 20 ms, 16 at once: %v", d)
	}
	c.limit = 600
	for n, want := range map[int]time.Duration{1: 1250 * time.Microsecond, 600: 750 * time.Millisecond, 601: time.Minute, 1201: 2 * time.Minute} {
		if d := c.ideal(n); d != want {
			t.Errorf("%d requests at 600 a minute: %v, want %v", n, d, want)
		}
	}
	g := &oneCase{plan: c.plan, runners: 10_000, api: "graphql"}
	if n, d := g.needed(), g.ideal(g.needed()); n != 102 || d != 2040*time.Millisecond {
		t.Errorf("by GraphQL: %d requests, %v", n, d)
	}
	for active, want := range map[string]int{"all": 0, "200": 200, "2%": 20, "0.01%": 1} {
		if n, err := (&plan{active: active}).activeOf(1000); err != nil || n != want {
			t.Errorf("-active=%s: %d, %v", active, n, err)
		}
	}
	d := make([]time.Duration, 100)
	for i := range d {
		d[99-i] = time.Duration(i + 1)
	}
	if p50, p99 := quantile(d, 0.5), quantile(d, 0.99); p50 != 50 || p99 != 99 {
		t.Errorf("p50 %d, p99 %d", p50, p99)
	}
	if s := thousands(1234567) + " " + thousands(12) + " " + thousands(123456); s != "1,234,567 12 123,456" {
		t.Error(s)
	}
}

// TestOnlyGraphQLPagesAreReckonedInTurn: pages of GraphQL come one after the other, the rest at once.
func TestOnlyGraphQLPagesAreReckonedInTurn(t *testing.T) {
	t.Parallel()
	s := samples(`gitlab_runner_fleet_exporter_api_request_duration_seconds_sum{gitlab="a",route="/graphql"} 5
gitlab_runner_fleet_exporter_api_request_duration_seconds_count{gitlab="a",route="/graphql"} 30
gitlab_runner_fleet_exporter_api_request_duration_seconds_sum{gitlab="a",route="/runners/:id"} 4
gitlab_runner_fleet_exporter_api_request_duration_seconds_count{gitlab="a",route="/runners/:id"} 10
gitlab_runner_fleet_exporter_api_request_duration_seconds_sum{gitlab="a",route="/runners/:id/managers"} 2
gitlab_runner_fleet_exporter_api_request_duration_seconds_count{gitlab="a",route="/runners/:id/managers"} 10
gitlab_runner_fleet_exporter_api_request_duration_seconds_sum{gitlab="a",route="/version"} 0
gitlab_runner_fleet_exporter_api_request_duration_seconds_count{gitlab="a",route="/version"} 0
`)
	if got, want := answers(s), (map[string]time.Duration{byGraphQL: time.Second / 6, details: 300 * time.Millisecond}); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for api, want := range map[string]time.Duration{"rest": 3 * time.Second, "auto": 5 * time.Second} {
		if got := (&oneCase{plan: &plan{concurrency: 2}, api: api}).waited(s); got != want {
			t.Errorf("%s: %v, want %v", api, got, want)
		}
	}
}

func TestScrapeIsReadIntoFigures(t *testing.T) {
	t.Parallel()
	s := samples(`# HELP gitlab_runner_fleet_tag_runners b
gitlab_runner_fleet_tag_runners{gitlab="a tag=\"x\"",tag="gpu"} 1
gitlab_runner_fleet_tag_runners{gitlab="a",tag="gpu"} 2
gitlab_runner_fleet_tag_runners{tag="large",gitlab="a"} 3
gitlab_runner_fleet_tag_runners{gitlab="a",tag="gone"} 0
gitlab_runner_fleet_runner_paused{gitlab="a",runner_id="1"} 1
gitlab_runner_fleet_runners{gitlab="a"} 7
gitlab_runner_fleet_managers{gitlab="a"} 9
go_goroutines 12
# EOF
`)
	if all, ofRunners := s.series(); all != 8 || ofRunners != 1 {
		t.Errorf("%d series, %d of runners", all, ofRunners)
	}
	if m := s.sums(); m["tag_runners"] != 6 || m["go_goroutines"] != 12 {
		t.Error(m)
	}
	shown := shownIn(s)
	if truth := (aggregates{Runners: 7, Managers: 9, Tags: map[string]int{"gpu": 3, "large": 3}}); shown.against(truth) != "complete: 7 runners, 9 machines, 2 tags" {
		t.Errorf("%+v: %s", shown, shown.against(truth))
	}
	truth := aggregates{Runners: 8, Managers: 10, Tags: map[string]int{"gpu": 4, "small": 1}}
	if got := shown.against(truth); got != "WRONG: 7 of 8 runners, 9 of 10 machines, 0 of 2 tags, 3 runners under the tag large" {
		t.Error(got)
	}
	early := shownIn(samples("gitlab_runner_fleet_runners 8\n"))
	if got := early.against(truth); got != "withheld: managers, tag_runners" {
		t.Error(got)
	}
	if early.Runners = 7; early.against(truth) != "WRONG: 7 of 8 runners" {
		t.Error(early.against(truth))
	}
	for given, want := range map[givenUp]string{
		{}:                                     "none",
		{families: 2, series: 1234}:            "1,234 in 2 families, by series_dropped and NOT in the log",
		{families: 1, series: 1, logged: true}: "1 in 1 families, by series_dropped and in the log too",
		{families: 0, series: 0, logged: true}: "none now, but some earlier",
	} {
		if given.String() != want {
			t.Errorf("%+v: %s", given, given)
		}
	}
}

// TestCollectionsAreSummed: the runtime's lines are taken out of the log, unless
// another fell into the middle of one.
func TestCollectionsAreSummed(t *testing.T) {
	t.Parallel()
	var gc collections
	for line, drop := range map[string]bool{
		"gc 1 @0.005s 4%: 0.01+0.5+0.01 ms clock, 0.02+0.35/0.40/0.20+0.03 ms cpu, level=info msg=listening address=[::1]:80\n":             false,
		"gc 1 @0.005s 4%: 0.01+0.5+0.01 ms clock, 0.02+0.35/0.40/0.20+0.03 ms cpu, 3->4->1 MB, 3 MB goal, 0 MB stacks, 0 MB globals, 2 P\n": true,
		"gc 2 @1.0s 4%: 0.01+0.5+0.01 ms clock, 1+0/0/0+0 ms cpu, 3->4->1 MB, 3 MB goal, 0 MB stacks, 0 MB globals, 2 P (forced)\n":         true,
		"level=info msg=listening address=127.0.0.1:80\n": false,
	} {
		if got := gc.add([]byte(line)); got != drop {
			t.Errorf("%t for %s", got, line)
		}
	}
	if n, cpu := gc.sum(); n != 2 || cpu != 2*time.Millisecond {
		t.Errorf("%d collections, %v", n, cpu)
	}
}

// TestFewRunnersGetTheJobs: the world of -active is the same fleet, in which
// the others executed jobs before, but none now.
func TestFewRunnersGetTheJobs(t *testing.T) {
	t.Parallel()
	o := world{Token: "secret", Runners: 400, Active: 8, Tags: 30, Jobs: 30, History: 4 * time.Hour}
	few := o.make()
	o.Active = 0
	all := o.make()
	if a, b := truthOf(few), truthOf(all); a.Runners != 400 || a.Managers != b.Managers || !maps.Equal(a.Tags, b.Tags) {
		t.Errorf("another fleet: %+v\n%+v", a, b)
	}
	t1 := few.Truth()
	late, of := map[int64]int{}, map[int64]int{}
	for _, j := range t1.Finished {
		of[j.Runner]++
		if t1.Now.Sub(j.Finished) < time.Hour {
			late[j.Runner]++
		}
	}
	for _, j := range t1.Executing {
		late[j.Runner]++
	}
	idle := 0
	for _, r := range t1.Runners {
		if r.Alive && !r.Paused && late[r.ID] == 0 {
			if idle++; of[r.ID] != 100 {
				t.Fatalf("runner %d has %d jobs behind it", r.ID, of[r.ID])
			}
		}
	}
	if len(late) != 8 || idle < 300 {
		t.Errorf("%d runners work, %d are idle", len(late), idle)
	}
}

// TestKernelFiguresHaveTheRightSize: the figures of the kernel are of the right size.
func TestKernelFiguresHaveTheRightSize(t *testing.T) {
	t.Parallel()
	if load() == "-" {
		t.Log("no /proc here: the report shows dashes")
		return
	}
	sum := 0
	for user, sys := cpuTime(os.Getpid()); user+sys == 0; user, sys = cpuTime(os.Getpid()) { // a hundredth of a second at the most
		sum++
	}
	now, peak := memory(os.Getpid())
	if now < 1<<20 || peak < now/2 || peak > 1<<36 {
		t.Errorf("resident %d, peak %d", now, peak)
	}
	if !strings.Contains(machine(), "CPUs") || strings.HasPrefix(machine(), " ") {
		t.Error(machine())
	}
	t.Log(machine(), sum)
}
