package dashboards

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"gitlab-runner-fleet-exporter/test/rig"
)

var (
	scaleRunners = flag.Int("scale.runners", 1000, "runners of BenchmarkAtScale")
	scaleFor     = flag.Duration("scale.for", 2*time.Minute, "how long Prometheus scrapes and evaluates in BenchmarkAtScale before the panels are asked")
)

const (
	scaleTags   = 500
	scaleScrape = 30 * time.Second
	scaleRange  = time.Hour // that the dashboards show
	scalePixels = 1000      // that a graph is wide
	scaleLook   = 15 * time.Second
	scaleRounds = 5
	// Beside scale.for: building, the first picture, the queries.
	scaleMore = 8 * time.Minute

	panelBound = 200 * time.Millisecond
	ruleBound  = 500 * time.Millisecond
)

// BenchmarkAtScale measures what a large fleet costs its Prometheus, by the
// clock: the shipped rules at their own intervals, and then each panel,
// variable and annotation as Grafana would ask. All of it is real but GitLab,
// and GitLab is a process of its own.
//
//	go test ./dashboards -run '^$' -bench AtScale -benchtime 1x -timeout 60m -args -scale.runners=10000 -scale.for=20m
func BenchmarkAtScale(b *testing.B) {
	if bound, ok := flag.Lookup("test.timeout").Value.(flag.Getter).Get().(time.Duration); ok && bound > 0 && bound < *scaleFor+scaleMore {
		b.Fatalf("-timeout=%v would end this in its midst and leave processes behind: %v and %v are needed", bound, *scaleFor, scaleMore)
	}
	program := rig.Tool(b, "prometheus")
	rules, err := os.ReadFile("../alerts/rules.yml")
	if err != nil {
		b.Fatal(err)
	}
	for range b.N {
		before := loadAverage()
		gitlab, token := simulatedGitLab(b)
		exporter, took := scaledExporter(b, gitlab, token)
		p := serve(b, program, `
global: {scrape_interval: `+scaleScrape.String()+`, evaluation_interval: 1m}
rule_files: [rules.yml]
scrape_configs:
  - job_name: gitlab_runner_fleet_exporter
    static_configs: [{targets: ["`+exporter+`"]}]
`, rules)
		w := p.evaluate(b)
		middle := loadAverage()
		var out strings.Builder
		fmt.Fprintf(&out, "\n%d runners, %d tags; complete picture after %.1f s; load average %s at the start, %s after the rules, ", *scaleRunners, scaleTags, took.Seconds(), before, middle)
		p.fleet(b, &out)
		w.report(b, &out)
		p.panels(b, &out)
		fmt.Fprintf(&out, "\nload average at the end %s\n", loadAverage())
		_, _ = io.WriteString(os.Stdout, out.String()) // of a benchmark's log no more than ten lines are shown
	}
	b.ReportMetric(0, "ns/op") // the time it takes is chosen
}

// simulatedGitLab is the one of test/scale. It ends with its standard
// input, so also when this process is killed.
func simulatedGitLab(b *testing.B) (address, token string) {
	b.Helper()
	program := filepath.Join(b.TempDir(), "scale")
	if text, err := exec.CommandContext(b.Context(), "go", "build", "-o", program, "../test/scale").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, text)
	}
	cmd := exec.CommandContext(b.Context(), program, "simulate")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	p, err := rig.Start(cmd, &rig.Log{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = stdin.Close() // with it the program ends
		p.Kill()
	})
	token = "glpat-simulated"
	// 2.6 jobs an hour and runner keep a tenth of the runners busy, and each
	// has counters sooner or later.
	options := map[string]any{
		"Token": token, "Runners": *scaleRunners, "Tags": scaleTags, "Jobs": 2.6, "History": 2 * time.Hour, "Latency": 20 * time.Millisecond,
	}
	var a struct{ API string }
	if err := json.NewEncoder(stdin).Encode(options); err != nil {
		b.Fatal(err)
	}
	if err := json.NewDecoder(stdout).Decode(&a); err != nil {
		b.Fatalf("%v\n%s", err, p.Log())
	}
	return a.API, token
}

// scaledExporter runs until the benchmark ends. It is given back when its
// picture is complete: the sums by tag appear when each runner's tags are known.
func scaledExporter(b *testing.B, gitlab, token string) (address string, took time.Duration) {
	b.Helper()
	dir := b.TempDir()
	config := fmt.Sprintf(`
gitlabs:
  - name: scale
    url: %q
    authorization: {credentials_file: token}
    api: auto
    expected: {docker: 1, linux: 1000000} # a floor that is held and one that is not
    poll: {max_requests_per_second: 0, max_concurrent_requests: 16}
metrics: {runners: {enabled: true}}
`, gitlab)
	for name, text := range map[string]string{"token": token, "config.yml": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	program := rig.Exporter(b)
	began := time.Now()
	address = rig.Serve(b, program, "--config.file="+filepath.Join(dir, "config.yml"), "--storage.path="+filepath.Join(dir, "state")).Address
	for {
		page, _, err := fetch(b, http.MethodGet, "http://"+address+"/metrics?collect[]=fleet", nil)
		if err == nil && bytes.Contains(page, []byte("\ngitlab_runner_fleet_tag_runners{")) {
			return address, time.Since(began)
		}
		if time.Since(began) > patient {
			b.Fatalf("no complete picture within %v (%v)", patient, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// fetch reads an answer to its end and says how long that took.
func fetch(b *testing.B, method, address string, args url.Values) (body []byte, took time.Duration, err error) {
	b.Helper()
	began := time.Now()
	if method == http.MethodGet && len(args) > 0 {
		address += "?" + args.Encode()
		args = nil
	}
	req, err := http.NewRequestWithContext(b.Context(), method, address, strings.NewReader(args.Encode()))
	if err != nil {
		return nil, 0, err
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := (&http.Client{Timeout: time.Minute}).Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	body, err = io.ReadAll(resp.Body)
	took = time.Since(began)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answered %s: %s", address, resp.Status, body[:min(300, len(body))])
	}
	return body, took, err
}

func loadAverage() string {
	line, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	now, _, _ := strings.Cut(string(line), " ")
	return now
}

// fleet says what there is, after a check that it is what was asked for.
func (p *server) fleet(b *testing.B, out *strings.Builder) {
	b.Helper()
	one := func(expr string) float64 {
		b.Helper()
		r, err := p.query(b, expr)
		if err != nil || len(r) != 1 {
			b.Fatalf("%s: %v (%v)", expr, r, err)
		}
		v, err := strconv.ParseFloat(fmt.Sprint(r[0].Value[1]), 64)
		if err != nil {
			b.Fatal(err)
		}
		return v
	}
	if n := one(`sum(gitlab_runner_fleet_runners)`); n != float64(*scaleRunners) {
		b.Errorf("%v runners are shown of %d", n, *scaleRunners)
	}
	if n := one(`count(count by (tag) (gitlab_runner_fleet_tag_available_runners))`); n < scaleTags*9/10 {
		b.Errorf("%v tags are shown of %d", n, scaleTags)
	}
	age := scaleFor.String()
	if failed := one(`count_over_time(up[` + age + `]) - sum_over_time(up[` + age + `])`); failed > 0 {
		b.Errorf("%v scrapes failed", failed)
	}
	fmt.Fprintf(out, "%.0f runners executing\n", one(`sum(gitlab_runner_fleet_busy_runners)`))
	fmt.Fprintf(out, "scrape: %.0f samples, %.2f s at the longest; %.0f of the series are counters of runners\n",
		one(`scrape_samples_scraped`), one(`max_over_time(scrape_duration_seconds[`+age+`])`), one(`count(gitlab_runner_fleet_runner_jobs_finished_total)`))
}

// evaluation is a rule or a group, and how long it took each time.
type evaluation struct {
	name  string
	every time.Duration // of a group
	alert bool
	last  string
	took  []time.Duration
}

func (e *evaluation) seen(at string, seconds float64) {
	if at == e.last || seconds == 0 { // nothing new, or not yet evaluated
		return
	}
	e.last = at
	e.took = append(e.took, time.Duration(seconds*float64(time.Second)))
}

// watch is what Prometheus told of itself.
type watch struct {
	groups, rules map[string]*evaluation
	over          time.Duration
	cpu           float64 // seconds
	series        float64
	memory        float64 // bytes
	missed        float64 // evaluations of groups
}

// evaluate lets it scrape and evaluate for the time asked for.
func (p *server) evaluate(b *testing.B) *watch {
	b.Helper()
	w := &watch{groups: map[string]*evaluation{}, rules: map[string]*evaluation{}}
	began := time.Now()
	for until := began.Add(patient); ; time.Sleep(100 * time.Millisecond) {
		if _, _, err := fetch(b, http.MethodGet, p.url+"/-/ready", nil); err == nil {
			break
		} else if time.Now().After(until) {
			b.Fatal(err)
		}
	}
	for time.Since(began) < *scaleFor {
		time.Sleep(scaleLook)
		p.look(b, w)
	}
	w.over = time.Since(began)
	own := p.own(b)
	w.cpu, w.series, w.memory = own["process_cpu_seconds_total"], own["prometheus_tsdb_head_series"], own["process_resident_memory_bytes"]
	for name, v := range own {
		if strings.HasPrefix(name, "prometheus_rule_group_iterations_missed_total{") {
			w.missed += v
		}
	}
	return w
}

// own are Prometheus' metrics of itself.
func (p *server) own(b *testing.B) map[string]float64 {
	b.Helper()
	page, _, err := fetch(b, http.MethodGet, p.url+"/metrics", nil)
	if err != nil {
		b.Fatal(err)
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(page)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			if v, err := strconv.ParseFloat(value, 64); err == nil {
				out[name] = v
			}
		}
	}
	return out
}

// look takes down each evaluation since the last look. What the API tells of a
// group is prometheus_rule_group_last_duration_seconds.
func (p *server) look(b *testing.B, w *watch) {
	b.Helper()
	var data struct {
		Groups []struct {
			Name           string
			Interval       float64
			EvaluationTime float64
			LastEvaluation string
			Rules          []struct {
				Name, Type, Health, LastError string
				EvaluationTime                float64
				LastEvaluation                string
			}
		}
	}
	if err := p.get(b, "rules?exclude_alerts=true", &data); err != nil || len(data.Groups) == 0 {
		b.Fatalf("%d groups of rules (%v)", len(data.Groups), err)
	}
	take := func(all map[string]*evaluation, key string, e evaluation, at string, seconds float64) {
		if all[key] == nil {
			all[key] = &e
		}
		all[key].seen(at, seconds)
	}
	for _, g := range data.Groups {
		take(w.groups, g.Name, evaluation{name: g.Name, every: time.Duration(g.Interval * float64(time.Second))}, g.LastEvaluation, g.EvaluationTime)
		for i, r := range g.Rules {
			if r.Health == "err" {
				b.Errorf("rule %s: %s", r.Name, r.LastError)
			}
			take(w.rules, fmt.Sprint(g.Name, i), evaluation{name: r.Name, alert: r.Type == "alerting"}, r.LastEvaluation, r.EvaluationTime)
		}
	}
}

func (w *watch) report(b *testing.B, out *strings.Builder) {
	b.Helper()
	fmt.Fprintf(out, "Prometheus: %.0f series, %.0f MiB; %.1f CPU seconds in %.0f s, which is %.1f a minute; %.0f evaluations of groups missed\n",
		w.series, w.memory/(1<<20), w.cpu, w.over.Seconds(), w.cpu/w.over.Minutes(), w.missed)
	table(out, "group\tevery\ttimes\tlast\tmedian\tlargest, ms", 0, slices.SortedFunc(maps.Values(w.groups), byName), func(e *evaluation) string {
		return fmt.Sprintf("%s\t%v\t%d\t%s\t%s\t%s", e.name, e.every, len(e.took), ms(last(e.took)), ms(median(e.took)), ms(largest(e.took)))
	})
	for _, title := range []string{"recording rule", "alert"} {
		alerts := title == "alert"
		var these []*evaluation
		over := 0
		for _, e := range w.rules {
			if e.alert == alerts {
				these = append(these, e)
				if largest(e.took) > ruleBound {
					over++
				}
			}
		}
		slices.SortFunc(these, func(x, y *evaluation) int {
			return cmp.Or(cmp.Compare(largest(y.took), largest(x.took)), byName(x, y))
		})
		fmt.Fprintf(out, "\n%ss: %d, of which %d were over %v at their largest\n", title, len(these), over, ruleBound)
		table(out, title+"\ttimes\tlast\tmedian\tlargest, ms", 10, these, func(e *evaluation) string {
			return fmt.Sprintf("%s\t%d\t%s\t%s\t%s", e.name, len(e.took), ms(last(e.took)), ms(median(e.took)), ms(largest(e.took)))
		})
		if !alerts {
			b.ReportMetric(largest(these[0].took).Seconds()*1000, "slowest-rule-ms")
		}
	}
	b.ReportMetric(w.series, "series")
	b.ReportMetric(w.cpu/w.over.Minutes(), "cpu-s/min")
}

// question is what Grafana asks when a dashboard is opened.
type question struct {
	where, method, path string
	args                func(now time.Time) url.Values
	took                []time.Duration
	empty               bool
}

func (p *server) panels(b *testing.B, out *strings.Builder) {
	b.Helper()
	p.runner(b)
	all := p.questions(b)
	for range scaleRounds { // and not five times in a row: other work of the machine comes in waves
		for _, q := range all {
			body, took, err := fetch(b, q.method, p.url+"/api/v1/"+q.path, q.args(time.Now()))
			if err != nil {
				b.Fatalf("%s: %v", q.where, err)
			}
			q.took = append(q.took, took)
			q.empty = bytes.Contains(body, []byte(`"result":[]`)) || bytes.Contains(body, []byte(`"data":[]`))
		}
	}
	slices.SortFunc(all, func(x, y *question) int {
		return cmp.Or(cmp.Compare(median(y.took), median(x.took)), strings.Compare(x.where, y.where))
	})
	var empty []string
	over, overOnce := 0, 0
	for _, q := range all {
		if q.empty {
			empty = append(empty, q.where)
		}
		if median(q.took) > panelBound {
			over++
		}
		if largest(q.took) > panelBound {
			overOnce++
		}
	}
	fmt.Fprintf(out, "\n%d queries of panels, variables and annotations, %d times each: %d over %v in the median, %d at their largest\n", len(all), scaleRounds, over, panelBound, overOnce)
	table(out, "query\tmedian\tlargest, ms", 10, all, func(q *question) string {
		return fmt.Sprintf("%s\t%s\t%s", q.where, ms(median(q.took)), ms(largest(q.took)))
	})
	slices.Sort(empty)
	fmt.Fprintf(out, "%d without data, and so cheap:\n  %s\n", len(empty), strings.Join(empty, "\n  "))
	b.ReportMetric(median(all[0].took).Seconds()*1000, "slowest-panel-ms")
	b.ReportMetric(float64(over), "panels-over-bound")
}

func (p *server) questions(b *testing.B) (all []*question) {
	b.Helper()
	dashboards := load(b)
	for _, file := range slices.Sorted(maps.Keys(dashboards)) {
		d := dashboards[file]
		p.values["__range"] = strconv.Itoa(int(scaleRange.Seconds())) + "s"
		for _, v := range d.Templating.List {
			if v.Type == "query" {
				all = append(all, p.variable(b, file+"/$"+v.Name, p.fill(v.query(b))))
			}
		}
		for _, a := range d.Annotations.List {
			if a.Expr != "" {
				all = append(all, ranged(file+"/annotation "+a.Name, p.fill(a.Expr), stepOf(b, a.Step)))
			}
		}
		for _, panel := range d.Panels {
			for _, t := range panel.Targets {
				step := stepOf(b, panel.Interval)
				p.values["__rate_interval"] = max(step+scaleScrape, 4*scaleScrape).String()
				where, expr := fmt.Sprintf("%s/%s/%s", file, panel.Title, t.RefID), p.fill(t.Expr)
				if left := regexp.MustCompile(`\$\{?\w+`).FindString(expr); left != "" {
					b.Fatalf("%s: nothing for %s", where, left)
				}
				if t.Instant {
					all = append(all, instant(where, expr))
				} else {
					all = append(all, ranged(where, expr, step))
				}
			}
		}
	}
	return all
}

func (p *server) variable(b *testing.B, where, q string) *question {
	b.Helper()
	if expr, ok := strings.CutPrefix(q, "query_result("); ok {
		return instant(where, strings.TrimSuffix(expr, ")"))
	}
	selector, name := labelValues(q)
	return &question{where: where, method: http.MethodGet, path: "label/" + name + "/values", args: func(now time.Time) url.Values {
		return url.Values{"match[]": {selector}, "start": {unix(now.Add(-scaleRange))}, "end": {unix(now)}}
	}}
}

func instant(where, expr string) *question {
	return &question{where: where, method: http.MethodPost, path: "query", args: func(now time.Time) url.Values {
		return url.Values{"query": {expr}, "time": {unix(now)}}
	}}
}

func ranged(where, expr string, step time.Duration) *question {
	return &question{where: where, method: http.MethodPost, path: "query_range", args: func(now time.Time) url.Values {
		// Grafana moves both ends to multiples of the step.
		return url.Values{"query": {expr}, "start": {unix(now.Add(-scaleRange).Truncate(step))}, "end": {unix(now.Truncate(step))}, "step": {step.String()}}
	}}
}

func unix(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }

// stepOf is Grafana's: a point a pixel, and none finer than the panel's own
// least interval or the data source's, which is that of the scrapes. It rounds
// the first to a number that people like, which is below the others here.
func stepOf(b *testing.B, least string) time.Duration {
	b.Helper()
	step := max(scaleRange/scalePixels, scaleScrape)
	if least == "" {
		return step
	}
	own, err := time.ParseDuration(least)
	if err != nil {
		b.Fatal(err)
	}
	return max(step, own)
}

// table writes the first n rows, or all for 0.
func table[T any](out io.Writer, head string, n int, rows []T, row func(T) string) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, head) // into memory
	for i, r := range rows {
		if n > 0 && i == n {
			break
		}
		_, _ = fmt.Fprintln(w, row(r))
	}
	_ = w.Flush() // into memory
}

func byName(x, y *evaluation) int { return strings.Compare(x.name, y.name) }

func ms(d time.Duration) string { return strconv.FormatFloat(d.Seconds()*1000, 'f', 1, 64) }

func median(list []time.Duration) time.Duration {
	if len(list) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(list))[len(list)/2]
}

func largest(list []time.Duration) (d time.Duration) {
	for _, v := range list {
		d = max(d, v)
	}
	return d
}

func last(list []time.Duration) time.Duration {
	if len(list) == 0 {
		return 0
	}
	return list[len(list)-1]
}
