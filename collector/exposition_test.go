package collector

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// scenarios are the pictures whose whole exposition is kept in testdata.
func scenarios() map[string]struct {
	options Options
	publish []*snapshot.GitLab
} {
	type scenario = struct {
		options Options
		publish []*snapshot.GitLab
	}
	down := small("down")
	down.Up = false
	down.Fleet = nil
	undetailed := small("corp")
	undetailed.Fleet.Detailed = false
	zero := small("corp")
	for _, list := range [][]snapshot.Counter{zero.Counters.JobsFinished, zero.Counters.TagJobsFinished} {
		for i := range list {
			list[i].Value = 0
		}
	}
	for i := range zero.Counters.Runners {
		zero.Counters.Runners[i].Value = 0
	}
	for _, list := range [][]snapshot.Histogram{zero.Counters.JobDuration, zero.Counters.JobQueued, zero.Counters.TagJobQueued} {
		for i := range list {
			list[i].Buckets, list[i].Sum = make([]uint64, len(list[i].Buckets)), 0
		}
	}
	return map[string]scenario{
		"empty":        {},
		"waiting":      {publish: []*snapshot.GitLab{waiting("corp")}},
		"small":        {publish: []*snapshot.GitLab{small("corp")}},
		"created":      {options: Options{CreatedSamples: true}, publish: []*snapshot.GitLab{small("corp")}},
		"two_one_down": {publish: []*snapshot.GitLab{waiting("public"), small("corp")}},
		"shard":        {options: Options{Shard: "1", Shards: 3}, publish: []*snapshot.GitLab{small("corp")}},
		"withdrawn":    {publish: []*snapshot.GitLab{down}},
		"not_detailed": {publish: []*snapshot.GitLab{undetailed}},
		"zeros":        {publish: []*snapshot.GitLab{zero}},
	}
}

func TestExpositionsAsExpected(t *testing.T) {
	for name, sc := range scenarios() {
		for ext, accept := range map[string]string{"txt": acceptText, "om": acceptOM} {
			t.Run(name+"."+ext, func(t *testing.T) {
				e := newExporter(t, sc.options)
				for _, s := range sc.publish {
					e.Publish(s)
				}
				got := scrapeBody(t, e, accept)
				if sc.options.CreatedSamples {
					// Self metrics were created just now.
					got = dropLines(got, "_created{} ", "state_save_errors_created", "state_save_duration_seconds_created")
				}
				got = without(got, buildInfo, selfPrefix+"time_seconds")
				file := filepath.Join("testdata", name+"."+ext)
				if *update {
					if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if got != string(want) {
					t.Errorf("differs from %s (see -update):\n%s", file, firstDifference(got, string(want)))
				}
			})
		}
	}
}

func dropLines(body string, holding ...string) string {
	var out strings.Builder
	for line := range strings.Lines(body) {
		drop := false
		for _, h := range holding {
			drop = drop || strings.Contains(line, h)
		}
		if !drop {
			out.WriteString(line)
		}
	}
	return out.String()
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range g {
		if i >= len(w) {
			return "more: " + g[i]
		}
		if g[i] != w[i] {
			return "got:  " + g[i] + "\nwant: " + w[i]
		}
	}
	return "ends before: " + w[len(g)]
}

// TestWithdrawalTakesGaugesAndLeavesCounters states by name which families go and which stay.
func TestWithdrawalTakesGaugesAndLeavesCounters(t *testing.T) {
	families := func(s *snapshot.GitLab) map[string]bool {
		e := newExporter(t, Options{})
		e.Publish(s)
		got := map[string]bool{}
		for line := range strings.Lines(scrapeBody(t, e, acceptText)) {
			if rest, ok := strings.CutPrefix(line, "# TYPE "+fleetPrefix); ok && !strings.HasPrefix(line, "# TYPE "+selfPrefix) {
				got[strings.Fields(rest)[0]] = true
			}
		}
		return got
	}
	counts := []string{
		"jobs_finished_total", "tag_jobs_finished_total", "runner_jobs_finished_total",
		"runners_status_changes_total", "runners_joined_total", "runners_left_total",
		"job_duration_seconds", "job_queued_duration_seconds", "tag_job_queued_duration_seconds",
	}
	always := []string{"up", "scope_up", "gitlab_info", "tag_expected_runners"}

	whole := families(small("corp"))
	for _, f := range Families() {
		if f.Group != GroupExporter && !whole[strings.TrimPrefix(f.Name, fleetPrefix)] {
			t.Errorf("the small fleet does not show %s, so nothing here tests it", f.Name)
		}
	}

	s := small("corp")
	s.Fleet = nil
	expect(t, "withdrawn", families(s), append(append([]string{}, always...), counts...))

	s.Counters = nil
	expect(t, "before the first answer", families(s), always)

	s = small("corp")
	s.Fleet.Detailed = false
	var want []string
	for name := range whole {
		sum := strings.HasPrefix(name, "tag_") || strings.HasPrefix(name, "version_") || name == "managers"
		if !sum || name == "tag_expected_runners" || strings.HasPrefix(name, "tag_job") && name != "tag_jobs_executing" {
			want = append(want, name)
		}
	}
	expect(t, "not detailed", families(s), want)

	// Each sum is absent while it waits for a reading, and no other is.
	for when, c := range map[string]struct {
		wait   func(f *snapshot.Fleet)
		absent []string
	}{
		"machines not read": {func(f *snapshot.Fleet) { f.MachinesWhole = false }, []string{"managers", "version_runners", "version_behind_minor_releases"}},
		"jobs not read":     {func(f *snapshot.Fleet) { f.JobsWhole = false }, []string{"busy_runners", "tag_busy_runners", "jobs_executing", "tag_jobs_executing"}},
	} {
		s = small("corp")
		c.wait(s.Fleet)
		want = nil
		for name := range whole {
			if !slices.Contains(c.absent, name) {
				want = append(want, name)
			}
		}
		expect(t, when, families(s), want)
	}
}

func expect(t *testing.T, when string, got map[string]bool, want []string) {
	t.Helper()
	wanted := map[string]bool{}
	for _, name := range want {
		wanted[name] = true
		if !got[name] {
			t.Errorf("%s: %s is absent", when, name)
		}
	}
	for name := range got {
		if !wanted[name] {
			t.Errorf("%s: %s is shown", when, name)
		}
	}
}

func TestDescriptionIsCut(t *testing.T) {
	for in, want := range map[string]string{
		strings.Repeat("a", 255):                             strings.Repeat("a", 255),
		strings.Repeat("a", 256):                             strings.Repeat("a", 255),
		strings.Repeat("a", 254) + "é":                       strings.Repeat("a", 254),
		strings.Repeat("a", 253) + "é":                       strings.Repeat("a", 253) + "é",
		strings.Repeat("é", 200):                             strings.Repeat("é", 127),
		"a\xffb":                                             "a\uFFFDb",
		strings.Repeat("\xff", 1) + strings.Repeat("a", 254): "\uFFFD" + strings.Repeat("a", 252),
		"":                                "",
		strings.Repeat("a", 252) + "\xff": strings.Repeat("a", 252) + "\uFFFD",
	} {
		if got := cut(in); got != want {
			t.Errorf("cut(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestURLIsShownWithoutCredentials(t *testing.T) {
	s := small("corp")
	s.URL = "https://user:glpat-canary@gitlab.example.com/root"
	e := newExporter(t, Options{})
	e.Publish(s)
	body := scrapeBody(t, e, acceptText)
	if strings.Contains(body, "canary") || !strings.Contains(body, `url="https://gitlab.example.com/root"`) {
		t.Error("the URL is not shown without its user")
	}
	if got := withoutUser("https://u:glpat-canary@h:bad port/"); got != "" {
		t.Errorf("a URL that cannot be parsed is shown: %q", got)
	}
}

// TestMalformedSeriesIsLeftOutAlone: a series with labels or buckets of the wrong number would
// make the whole scrape unreadable, so it alone is left out.
func TestMalformedSeriesIsLeftOutAlone(t *testing.T) {
	s := small("corp")
	s.Counters.JobsFinished = append(s.Counters.JobsFinished, snapshot.Counter{Labels: []string{"malformed"}})
	s.Counters.JobQueued = append(s.Counters.JobQueued, snapshot.Histogram{Labels: []string{"malformed"}, Buckets: []uint64{1}})
	var log recordingLogger
	e := newExporter(t, Options{Logger: &log})
	e.Publish(s)
	clean := newExporter(t, Options{})
	clean.Publish(small("corp"))
	for f := range format(numFormats) {
		got, want := join(e.fleet(*e.picture.Load(), f, nil)), join(clean.fleet(*clean.picture.Load(), f, nil))
		if !bytes.Equal(got, want) {
			t.Errorf("format %d: malformed series change the exposition", f)
		}
	}
	if len(log.lines) != 1 || !strings.Contains(log.lines[0], "count 2") {
		t.Errorf("logged %q", log.lines)
	}
}

// TestZeroIsKnown: 0 is a value where a negative number means not known.
func TestZeroIsKnown(t *testing.T) {
	s := small("corp")
	r := &s.Fleet.Rows[0]
	r.ManagersOnline, r.ManagersKnown, r.JobsExecuting = 0, 0, 0
	s.Self.RateLimit, s.Self.RateRemaining, s.Self.JobsVisible = 0, 0, 0
	e := newExporter(t, Options{})
	e.Publish(s)
	body := scrapeBody(t, e, acceptText)
	for _, line := range []string{
		`runner_managers_online{gitlab="corp",runner_id="9"} 0`,
		`runner_managers_known{gitlab="corp",runner_id="9"} 0`,
		`runner_jobs_executing{gitlab="corp",runner_id="9"} 0`,
		`exporter_api_rate_limit_requests{gitlab="corp"} 0`,
		`exporter_api_rate_limit_remaining{gitlab="corp"} 0`,
		`exporter_jobs_visible{gitlab="corp"} 0`,
	} {
		if !strings.Contains(body, "\n"+fleetPrefix+line+"\n") {
			t.Errorf("no %s", line)
		}
	}
}
