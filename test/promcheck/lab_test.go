package promcheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/util/teststorage"
	"go.yaml.in/yaml/v3"

	"gitlab-runner-fleet-exporter/collector"
	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	simgraphql "gitlab-runner-fleet-exporter/internal/gitlabsim/graphql"
	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/ledger"
	"gitlab-runner-fleet-exporter/internal/monitor"
	"gitlab-runner-fleet-exporter/internal/page"
	"gitlab-runner-fleet-exporter/internal/plan"
	"gitlab-runner-fleet-exporter/internal/queue"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/internal/store"
)

// lab is the real monitor over a simulated GitLab, in virtual time: what Prometheus
// would have scraped each minute, and what the page answered then.
type lab struct {
	world gitlabsim.Options
	// setup fills the world, which is all before the first reading; each is called
	// once a minute, before the scrape.
	setup func(w *gitlabsim.World)
	each  func(w *gitlabsim.World, minute int)
	// runners takes the families of single runners too, and the page.
	runners bool
	queue   queue.Options
	last    time.Duration

	began   time.Time
	series  map[string]labels.Labels
	scrapes []scrape
	pages   []reported
}

type scrape struct {
	time    time.Time
	samples []sample
}

// reported is /api/v1/fleet at a moment.
type reported struct {
	at time.Time
	page.Report
}

const labToken = "glpat-lab"

type withToken struct{ next http.RoundTripper }

func (w withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("PRIVATE-TOKEN", labToken)
	return w.next.RoundTrip(r)
}

// keeps publishes to the collector and to the page.
type keeps struct {
	*collector.Exporter

	page   *page.Page
	latest *snapshot.GitLab
}

func (k *keeps) Publish(s *snapshot.GitLab) {
	k.latest = s
	k.page.Keep(s)
	k.Exporter.Publish(s)
}

// run lives through it.
func (l *lab) run(t *testing.T) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l.world.Token = labToken
		w := gitlabsim.New(l.world)
		if _, err := simgraphql.Mount(w); err != nil {
			t.Fatal(err)
		}
		l.setup(w)
		exporter, err := collector.New(collector.Options{})
		if err != nil {
			t.Fatal(err)
		}
		out := &keeps{Exporter: exporter}
		var m *monitor.Monitor
		out.page = page.New(page.Options{
			Pictures: func() []*snapshot.GitLab {
				if out.latest == nil {
					return nil
				}
				return []*snapshot.GitLab{out.latest}
			},
			Evidence: func(_ string, id int64) (snapshot.HealthEvidence, bool) { return m.Evidence(id) },
		})
		client, err := gitlab.New(gitlab.Options{
			BaseURL: "http://gitlab.test", HTTPClient: &http.Client{Transport: withToken{w.RoundTripper()}}, Timeout: 30 * time.Second,
			Hooks: gitlab.Hooks{Attempt: func(a gitlab.Attempt) {
				exporter.Self().APIRequest("corp", string(a.Route), a.Code, a.Duration)
				m.Attempt(a)
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		folder, err := store.Open(t.Context(), store.Options{Layout: ledger.Layout, Logger: log.NewNopLogger()})
		if err != nil {
			t.Fatal(err)
		}
		state, err := folder.Open("corp", "http://gitlab.test")
		if err != nil {
			t.Fatal(err)
		}
		m, err = monitor.New(monitor.Options{
			Name: "corp", URL: "http://gitlab.test", Scopes: []gitlab.Scope{{Kind: snapshot.ScopeInstance}}, Concurrency: 8, Queue: l.queue,
			Intervals: plan.Intervals{Runners: time.Minute, Details: 15 * time.Minute, Jobs: time.Minute, Reconcile: time.Hour, Lookback: 24 * time.Hour, Staleness: 10 * time.Minute},
			Inventory: inventory.Options{TagLimit: 500, TagRetention: 7 * 24 * time.Hour, RunnersEnabled: true},
		}, monitor.Deps{
			Client: client, State: state, Publisher: out, Metrics: exporter.Self(), Logger: log.NewNopLogger(),
			Budget: budget.New(budget.Options{RequestsPerSecond: 10, Concurrency: 8, MaxPause: 30 * time.Second, Seed: 1}),
		})
		if err != nil {
			t.Fatal(err)
		}
		exporter.Self().ConfigReload(true, time.Now())
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		l.began, l.series = time.Now(), map[string]labels.Labels{}
		go func() { ended <- m.Run(ctx) }()
		for minute := range int(l.last / time.Minute) {
			time.Sleep(time.Until(l.began.Add(time.Duration(minute+1)*time.Minute - time.Second)))
			l.each(w, minute)
			synctest.Wait()
			l.scrape(t, exporter)
			if l.runners {
				rec := httptest.NewRecorder()
				out.page.ServeAPI(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/v1/fleet", http.NoBody))
				p := reported{at: time.Now()}
				if err := json.Unmarshal(rec.Body.Bytes(), &p.Report); err != nil {
					t.Fatalf("%v\n%s", err, rec.Body)
				}
				l.pages = append(l.pages, p)
			}
		}
		stop()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		_ = folder.Close()
	})
}

// unread are families of the exporter about itself that no rule reads.
var unread = regexp.MustCompile(`_(api_request|poll|state_save)_duration_seconds_|_settle_delay_`)

// scrape takes what the exporter shows now.
func (l *lab) scrape(t *testing.T, e *collector.Exporter) {
	t.Helper()
	address := "/metrics?collect[]=fleet&collect[]=exporter"
	if l.runners {
		address = "/metrics"
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	r.Header.Set("Accept", "text/plain;version=0.0.4")
	e.Handler().ServeHTTP(w, r)
	p, err := textparse.New(w.Body.Bytes(), "text/plain", labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s := scrape{time: time.Now()}
	for {
		entry, err := p.Next()
		if err == io.EOF { //nolint:errorlint // as the parser has it
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if entry != textparse.EntrySeries {
			continue
		}
		text, _, v := p.Series()
		series, ok := l.series[string(text)] // a day has millions of samples and few series
		if !ok {
			p.Labels(&series)
			b := labels.NewBuilder(series)
			b.Set("instance", "a:9756").Set("job", "gitlab_runner_fleet_exporter")
			series = b.Labels()
			l.series[string(text)] = series
		}
		name := series.Get("__name__")
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") || unread.MatchString(name) {
			continue
		}
		s.samples = append(s.samples, sample{labels: series, value: v})
	}
	l.scrapes = append(l.scrapes, s)
}

// raised is an alert that fired.
type raised struct {
	labels      map[string]string
	annotations map[string]string
	from, until time.Time // until: when it was seen last
	heard       bool      // longer than its route waits, and then not inhibited at some time
}

func (r raised) String() string {
	var id []string
	for _, k := range []string{"severity", "alertname", "tag", "tags", "runner_type", "runner_id", "reason"} {
		if v := r.labels[k]; v != "" && (k != "runner_type" || r.labels["tag"]+r.labels["runner_id"] == "") {
			id = append(id, v)
		}
	}
	return strings.Join(id, " ")
}

// judge lets the shipped rules evaluate the scrapes, each minute as Prometheus would,
// and returns the alerts that fired and whether the shipped routing let them through.
func (l *lab) judge(t *testing.T) []*raised {
	t.Helper()
	store := teststorage.New(t)
	type state struct {
		labels      labels.Labels
		annotations map[string]string
	}
	firing := map[uint64]state{}
	m := rules.NewManager(&rules.ManagerOptions{
		Context: t.Context(), AppendableV2: store, Queryable: store, Logger: promslog.NewNopLogger(), Parser: parser.NewParser(parser.Options{}),
		QueryFunc:  rules.EngineQueryFunc(promqltest.NewTestEngine(t, false, 5*time.Minute, 50_000_000), store),
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {},
	})
	loaded, errs := m.LoadGroups(time.Minute, labels.EmptyLabels(), "", nil, false, "../../alerts/rules.yml")
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	order := rulesInOrder(t)
	groups := slices.SortedFunc(maps.Values(loaded), func(a, b *rules.Group) int {
		return slices.Index(order, a.Name()) - slices.Index(order, b.Name())
	})
	route := routing(t)
	var all []*raised
	open := map[uint64]*raised{}
	shown := map[uint64]labels.Labels{}
	for _, s := range l.scrapes {
		app := store.Appender(t.Context())
		now := map[uint64]labels.Labels{}
		for _, x := range s.samples {
			now[x.labels.Hash()] = x.labels
			if _, err := app.Append(0, x.labels, s.time.UnixMilli(), x.value); err != nil {
				t.Fatal(err)
			}
		}
		for h, gone := range shown { // as a scrape marks what it does not show any more
			if _, ok := now[h]; !ok {
				if _, err := app.Append(0, gone, s.time.UnixMilli(), staleNaN); err != nil {
					t.Fatal(err)
				}
			}
		}
		shown = now
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
		clear(firing)
		for _, g := range groups {
			if d := g.Interval(); s.time.Sub(l.began).Round(time.Minute)%d == 0 {
				g.Eval(t.Context(), s.time)
			}
			for _, r := range g.AlertingRules() {
				for _, a := range r.ActiveAlerts() {
					if a.State == rules.StateFiring {
						firing[a.Labels.Hash()] = state{a.Labels, a.Annotations.Map()}
					}
				}
			}
		}
		for h, a := range firing {
			r := open[h]
			if r == nil {
				r = &raised{labels: a.labels.Map(), annotations: a.annotations, from: s.time}
				open[h] = r
				all = append(all, r)
			}
			r.until = s.time
		}
		maps.DeleteFunc(open, func(h uint64, _ *raised) bool { _, ok := firing[h]; return !ok })
		for _, r := range open {
			if s.time.Sub(r.from) >= route.wait(t, r.labels) && !route.muted(r.labels, open) {
				r.heard = true
			}
		}
	}
	for _, g := range groups {
		for _, r := range g.Rules() {
			if err := r.LastError(); err != nil {
				t.Errorf("%s: %v", r.Name(), err)
			}
		}
	}
	slices.SortFunc(all, func(a, b *raised) int { return a.from.Compare(b.from) })
	return all
}

var staleNaN = math.Float64frombits(value.StaleNaN)

// shipped is what matters here of the shipped routing: what inhibits what, and how long
// each route waits before it notifies. That Alertmanager itself reads the rules so is
// shown by TestOnePageForOneCause in alerts/.
type shipped struct {
	Rules []struct {
		Source []string `yaml:"source_matchers"`
		Target []string `yaml:"target_matchers"`
		Equal  []string
	} `yaml:"inhibit_rules"`
	Route struct {
		Routes []struct {
			Matchers []string
			Wait     string `yaml:"group_wait"`
		}
	}
}

func routing(t *testing.T) shipped {
	t.Helper()
	raw, err := os.ReadFile("../../alerts/alertmanager.example.yml")
	if err != nil {
		t.Fatal(err)
	}
	var f shipped
	if err := yaml.Unmarshal(raw, &f); err != nil || len(f.Rules) < 10 || len(f.Route.Routes) != 3 {
		t.Fatalf("%d rules, %d routes: %v", len(f.Rules), len(f.Route.Routes), err)
	}
	return f
}

// wait is how long the route of an alert waits for others of its group.
func (f shipped) wait(t *testing.T, alert map[string]string) time.Duration {
	t.Helper()
	for _, r := range f.Route.Routes {
		if fits(r.Matchers, alert) {
			d, err := time.ParseDuration(r.Wait)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
	}
	t.Fatalf("no route for %v", alert)
	return 0
}

var oneMatcher = regexp.MustCompile(`^(\w+)(=~|!~|!=|=)"(.*)"$`)

func fits(matchers []string, l map[string]string) bool {
	for _, s := range matchers {
		m := oneMatcher.FindStringSubmatch(s)
		types := map[string]labels.MatchType{"=": labels.MatchEqual, "!=": labels.MatchNotEqual, "=~": labels.MatchRegexp, "!~": labels.MatchNotRegexp}
		if !labels.MustNewMatcher(types[m[2]], m[1], m[3]).Matches(l[m[1]]) {
			return false
		}
	}
	return true
}

func (f shipped) muted(target map[string]string, open map[uint64]*raised) bool {
	for _, rule := range f.Rules {
		if !fits(rule.Target, target) {
			continue
		}
		for _, source := range open {
			same := !slices.ContainsFunc(rule.Equal, func(k string) bool { return source.labels[k] != target[k] })
			// One that is on both sides does not inhibit itself, nor its like.
			if same && fits(rule.Source, source.labels) && !(fits(rule.Target, source.labels) && fits(rule.Source, target)) {
				return true
			}
		}
	}
	return false
}

// heard are the notifications of pages and tickets, with their times.
func heard(all []*raised, began time.Time) (names, log []string) {
	for _, r := range all {
		state := "inhibited"
		if r.heard {
			state = "heard"
			if r.labels["severity"] != "info" {
				names = append(names, r.String())
			}
		}
		log = append(log, fmt.Sprintf("%s to %s %s: %s", r.from.Sub(began).Round(time.Minute), r.until.Sub(began).Round(time.Minute), state, r))
	}
	slices.Sort(names)
	return names, log
}

// at is the value of a family's series with these labels in a scrape; ok is false
// where there is none.
func (s scrape) at(name string, pairs ...string) (v float64, ok bool) {
	for _, x := range s.samples {
		if x.labels.Get("__name__") != "gitlab_runner_fleet_"+name {
			continue
		}
		fits := true
		for p := range slices.Chunk(pairs, 2) {
			fits = fits && x.labels.Get(p[0]) == p[1]
		}
		if fits {
			return x.value, true
		}
	}
	return 0, false
}
