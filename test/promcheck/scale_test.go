package promcheck

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/util/teststorage"

	"gitlab-runner-fleet-exporter/collector"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const (
	groupBound   = time.Second // for one evaluation of a group
	webhookBound = 100_000     // bytes of one notification
	webhookTags  = 500
)

// outage is a fleet of which three fifths are offline for three hours: half of
// the tags have no available runner, and of the others each fifth runner is away.
func outage(runners int, now time.Time) *snapshot.GitLab {
	s := &snapshot.GitLab{
		Name: "corp", URL: "https://gitlab.example.com", Version: "18.2.1", Generation: 1, RowsGeneration: 1, Time: now, Up: true,
		Scopes: []snapshot.ScopeState{{Kind: "instance", Up: true}},
		Self:   snapshot.Self{RateLimit: -1, RateRemaining: -1, JobsVisible: 1, ClockKnown: true},
	}
	for i := range s.Self.Stages {
		s.Self.Stages[i] = snapshot.StageState{LastSuccess: now, Interval: time.Minute}
	}
	f := &snapshot.Fleet{Detailed: true, MachinesWhole: true, JobsWhole: true, ManagersRead: true}
	s.Fleet, s.Counters = f, &snapshot.Counters{}
	s.Health = &snapshot.HealthPicture{Time: now}
	tags := min(webhookTags, runners/20)
	lost := tags / 2
	names := make([]string, tags)
	byTag := make([]snapshot.Tag, tags)
	for i := range byTag {
		names[i] = fmt.Sprintf("tag-%03d", i)
		byTag[i] = snapshot.Tag{Name: names[i], LastAvailable: now.Add(-3 * time.Hour), Capacity: 40}
		buckets := make([]uint64, len(snapshot.JobQueuedBounds())+1)
		buckets[3] = 100
		s.Counters.TagJobsFinished = append(s.Counters.TagJobsFinished, snapshot.Counter{Labels: []string{names[i], "success", ""}, Value: 100, Created: now})
		s.Counters.TagJobQueued = append(s.Counters.TagJobQueued, snapshot.Histogram{Labels: []string{names[i]}, Buckets: buckets, Sum: 1000, Created: now})
		if i%50 == 0 {
			s.Expected = append(s.Expected, snapshot.Expected{Tag: names[i], Runners: 2})
		}
	}
	for i := range runners {
		kind, status := snapshot.RunnerType(i%snapshot.NumRunnerTypes), snapshot.Online
		own := i % tags
		first := 0 // of its half
		if own >= lost {
			first = lost
		}
		if own < lost || i/tags%5 == 0 {
			status = snapshot.Offline
		}
		r := snapshot.Runner{
			ID: int64(1000 + i), Type: kind, Status: status, StatusSince: now.Add(-3 * time.Hour), Exported: true,
			Description: fmt.Sprintf("runner-%d.example.com", i), Version: "18.2.0", Platform: "linux", Arch: "amd64",
			ContactedAt: now.Add(-5 * time.Hour), DetailsAt: now.Add(-5 * time.Minute), ManagersKnown: 1,
		}
		if status == snapshot.Online {
			r.ContactedAt, r.ManagersOnline = now.Add(-6*time.Minute), 1
		}
		for k := range 3 {
			at := first + (own-first+k)%lost
			r.Tags = append(r.Tags, names[at])
			tag := &byTag[at]
			if tag.Runners[kind] == nil {
				tag.Runners[kind] = new([snapshot.NumStatuses][2]int)
			}
			tag.Runners[kind][status][0]++
			if status == snapshot.Online {
				tag.Available++
				tag.Usable++
				tag.LastAvailable = now
			}
		}
		slices.Sort(r.Tags)
		r.Tags = slices.Compact(r.Tags)
		f.Runners[kind][status][0]++
		f.Rows = append(f.Rows, r)
		judge(s.Health, &r, i, now)
		s.Counters.Runners = append(s.Counters.Runners,
			snapshot.RunnerCounter{ID: r.ID, Status: snapshot.Success, Value: 50, Created: now},
			snapshot.RunnerCounter{ID: r.ID, Status: snapshot.Failed, Class: snapshot.Script, Value: 3, Created: now})
	}
	f.Tags = byTag
	s.Queue = jam(names, lost, now)
	return s
}

// judge has each offline runner down for three hours, with a job of its own
// orphaned by each fourth; of those online each tenth is a black hole.
func judge(h *snapshot.HealthPicture, r *snapshot.Runner, i int, now time.Time) {
	ill := snapshot.Ill{ID: r.ID, Type: r.Type, LastSeen: r.ContactedAt, Since: now.Add(-3 * time.Hour)}
	switch {
	case r.Status == snapshot.Offline:
		ill.Health, ill.Reason = snapshot.HealthDown, snapshot.HealthSilent
		if i%4 == 0 {
			ill.OrphanedJobs = 1
		}
	case i%10 == 0:
		ill.Suspects[snapshot.SuspectBlackHole], ill.ConsecutiveFailed = now.Add(-2*time.Hour), 9
		h.Suspects[snapshot.SuspectBlackHole]++
	}
	h.Runners[r.Type][ill.Health][ill.Reason][0]++
	if ill.Health != snapshot.HealthAlive || ill.ConsecutiveFailed > 0 {
		h.Ill = append(h.Ill, ill)
	}
}

// jam is the queue in that outage: jobs wait for each tag, for two hours, in as many
// sets of tags as are shown; those for lost tags can be taken by nobody.
func jam(names []string, lost int, now time.Time) *snapshot.Queue {
	q := &snapshot.Queue{Oldest: now.Add(-2 * time.Hour)}
	for i, name := range names {
		q.Jobs += 40
		q.Tags = append(q.Tags, snapshot.QueueTag{Name: name, Jobs: 80, Oldest: now.Add(-2 * time.Hour)})
		if i%2 == 1 || len(q.TagSets) == 200 {
			continue
		}
		set := name + "," + names[min(i+1, len(names)-1)]
		q.TagSets = append(q.TagSets, snapshot.QueueTagSet{Tags: set, Jobs: 40})
		if i < lost {
			q.Unmatched = append(q.Unmatched, snapshot.QueueUnmatched{Tags: set, Reason: snapshot.NoneAvailable, Jobs: 40})
		}
	}
	return q
}

// scraped are the series of a picture as Prometheus would store them.
type sample struct {
	labels labels.Labels
	value  float64
	runner bool // of a runner_ family
}

func scraped(tb testing.TB, s *snapshot.GitLab) (out []sample) {
	tb.Helper()
	e, err := collector.New(collector.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	e.Self().ConfigReload(true, s.Time)
	e.Publish(s)
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", "text/plain;version=0.0.4")
	e.Handler().ServeHTTP(w, r)
	p, err := textparse.New(w.Body.Bytes(), "text/plain", labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	for {
		entry, err := p.Next()
		if err == io.EOF { //nolint:errorlint // as the parser has it
			return out
		}
		if err != nil {
			tb.Fatal(err)
		}
		if entry != textparse.EntrySeries {
			continue
		}
		_, _, v := p.Series()
		var l labels.Labels
		p.Labels(&l)
		b := labels.NewBuilder(l)
		b.Set("instance", "a:9756").Set("job", "gitlab_runner_fleet_exporter")
		l = b.Labels()
		out = append(out, sample{l, v, strings.HasPrefix(l.Get("__name__"), "gitlab_runner_fleet_runner_")})
	}
}

// scale is a Prometheus' worth of storage with a week of what is usual, an outage
// and its rules.
type scale struct {
	store  *teststorage.TestStorage
	groups []*rules.Group
	firing map[string]map[string]notified // by severity and fingerprint: a notification repeats
	now    time.Time
}

// notified is an alert as it stands in a webhook of Alertmanager.
type notified struct {
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL"`
	Fingerprint  string            `json:"fingerprint"`
}

// pendingFor is longer than any for of what the outage raises.
const pendingFor = 65 * time.Minute

func scaled(tb testing.TB, runners int) *scale {
	tb.Helper()
	now := time.Date(2026, 3, 3, 12, 0, 0, 0, time.UTC)
	sc := &scale{store: teststorage.New(tb), now: now, firing: map[string]map[string]notified{}}
	picture := outage(runners, now)
	sc.history(tb, picture, now)
	sc.fill(tb, scraped(tb, picture), now)

	m := rules.NewManager(&rules.ManagerOptions{
		Context: tb.Context(), AppendableV2: sc.store, Queryable: sc.store, Logger: promslog.NewNopLogger(), Parser: parser.NewParser(parser.Options{}),
		QueryFunc: rules.EngineQueryFunc(promqltest.NewTestEngine(tb, false, 5*time.Minute, 50_000_000), sc.store),
		NotifyFunc: func(_ context.Context, expr string, alerts ...*rules.Alert) {
			for _, a := range alerts {
				if a.State != rules.StateFiring {
					continue
				}
				severity := a.Labels.Get("severity")
				if sc.firing[severity] == nil {
					sc.firing[severity] = map[string]notified{}
				}
				n := notified{
					Status: "firing", Labels: a.Labels.Map(), Annotations: a.Annotations.Map(), StartsAt: a.FiredAt,
					GeneratorURL: "https://prometheus.example.com/graph?g0.expr=" + expr + "&g0.tab=1", Fingerprint: fmt.Sprintf("%016x", a.Labels.Hash()),
				}
				sc.firing[severity][n.Fingerprint] = n
			}
		},
	})
	loaded, errs := m.LoadGroups(time.Minute, labels.EmptyLabels(), "", nil, false, "../../alerts/rules.yml")
	if len(errs) > 0 {
		tb.Fatal(errs)
	}
	order := map[string]int{}
	for i, g := range rulesInOrder(tb) {
		order[g] = i
	}
	sc.groups = slices.SortedFunc(maps.Values(loaded), func(a, b *rules.Group) int { return order[a.Name()] - order[b.Name()] })
	for _, at := range []time.Time{now.Add(-pendingFor), now.Add(-time.Minute)} {
		for _, g := range sc.groups {
			g.Eval(tb.Context(), at)
		}
	}
	return sc
}

func rulesInOrder(tb testing.TB) (names []string) {
	tb.Helper()
	for _, g := range rulesOf(tb).Groups {
		names = append(names, g.Name)
	}
	return names
}

// history is a week in which all was well, as the recording rules kept it.
func (sc *scale) history(tb testing.TB, picture *snapshot.GitLab, now time.Time) {
	tb.Helper()
	var all []sample
	add := func(value float64, pairs ...string) {
		all = append(all, sample{labels: labels.FromStrings(pairs...), value: value})
	}
	for _, t := range picture.Fleet.Tags {
		add(60, "__name__", "gitlab_tag:gitlab_runner_fleet_tag_available_runners:sum", "gitlab", "corp", "tag", t.Name)
	}
	for t := range snapshot.RunnerType(snapshot.NumRunnerTypes) {
		add(0, "__name__", "gitlab_runner_type:gitlab_runner_fleet_runners_offline:ratio", "gitlab", "corp", "runner_type", t.String())
		add(0, "__name__", "gitlab_runner_type:gitlab_runner_fleet_health_runners_down:ratio", "gitlab", "corp", "runner_type", t.String())
		add(3000, "__name__", "gitlab_runner_type_status:gitlab_runner_fleet_runners:sum", "gitlab", "corp", "runner_type", t.String(), "status", "online")
	}
	for at := now.Add(-7*24*time.Hour - 10*time.Minute); at.Before(now.Add(-pendingFor - 10*time.Minute)); at = at.Add(4 * time.Minute) {
		sc.append(tb, all, at, func(sample) bool { return true })
	}
}

// fill lets Prometheus scrape since before the alerts are pending: sums and job
// counters all the while, runners for the five minutes that rules look back.
func (sc *scale) fill(tb testing.TB, all []sample, now time.Time) {
	tb.Helper()
	pending := now.Add(-pendingFor)
	for at := pending.Add(-6 * time.Minute); !at.After(now); at = at.Add(30 * time.Second) {
		near := !at.After(pending) || now.Sub(at) <= 6*time.Minute
		sc.append(tb, all, at, func(s sample) bool { return near || !s.runner && at.Second() == 0 })
	}
}

func (sc *scale) append(tb testing.TB, all []sample, at time.Time, which func(sample) bool) {
	tb.Helper()
	app := sc.store.Appender(tb.Context())
	for _, s := range all {
		if !which(s) {
			continue
		}
		v := s.value
		switch s.labels.Get("__name__") {
		case "gitlab_runner_fleet_exporter_time_seconds", "gitlab_runner_fleet_exporter_poll_last_success_timestamp_seconds":
			v = float64(at.Unix())
		}
		if _, err := app.Append(0, s.labels, at.UnixMilli(), v); err != nil {
			tb.Fatal(err)
		}
	}
	if err := app.Commit(); err != nil {
		tb.Fatal(err)
	}
}

// webhooks are the sizes of the notifications, by severity: all of a GitLab are one.
func (sc *scale) webhooks(tb testing.TB) map[string]int {
	tb.Helper()
	out := map[string]int{}
	for severity, alerts := range sc.firing {
		raw, err := json.Marshal(map[string]any{
			"receiver": severity, "status": "firing", "alerts": slices.Collect(maps.Values(alerts)), "groupLabels": map[string]string{"gitlab": "corp"},
			"commonLabels": map[string]string{"gitlab": "corp"}, "commonAnnotations": map[string]string{},
			"externalURL": "https://alertmanager.example.com", "version": "4", "groupKey": "{}:{gitlab=\"corp\"}", "truncatedAlerts": 0,
		})
		if err != nil {
			tb.Fatal(err)
		}
		out[severity] = len(raw)
	}
	return out
}

// TestOutageIsFewAlerts: what thousands of offline runners and hundreds of lost
// tags raise is some alerts with their numbers, whatever the size of the fleet.
func TestOutageIsFewAlerts(t *testing.T) {
	if testing.Short() {
		t.Skip("evaluates all rules over 1,000 runners")
	}
	sc := scaled(t, 1000)
	names := map[string]int{}
	for _, alerts := range sc.firing {
		for _, a := range alerts {
			names[a.Labels["alertname"]]++
		}
	}
	for name, most := range map[string]int{"GitLabRunnerTagLost": 1, "GitLabRunnerTypeHalfDown": 3, "GitLabRunnerDown": 3, "GitLabRunnerOrphanedJobs": 30} {
		if names[name] == 0 || names[name] > most {
			t.Errorf("%s: %d alerts, want 1 to %d", name, names[name], most)
		}
	}
	for severity, size := range sc.webhooks(t) {
		if size > webhookBound {
			t.Errorf("a notification of severity %s has %d bytes", severity, size)
		}
	}
	t.Log(names, sc.webhooks(t))
}

// BenchmarkRulesInAnOutage measures one evaluation of each group of rules, by the
// clock, with 6,000 of 10,000 runners offline and judged down, half of 500 tags lost and a week
// of history, and the notifications that follow.
//
//	cd test/promcheck && go test -run '^$' -bench RulesInAnOutage -benchtime 5x .
func BenchmarkRulesInAnOutage(b *testing.B) {
	sc := scaled(b, 10_000)
	took := map[string][]time.Duration{}
	at := sc.now
	for b.Loop() {
		for _, g := range sc.groups {
			began := time.Now()
			g.Eval(b.Context(), at)
			took[g.Name()] = append(took[g.Name()], time.Since(began))
			for _, r := range g.Rules() {
				if err := r.LastError(); err != nil {
					b.Errorf("%s: %v", r.Name(), err)
				}
			}
		}
		at = at.Add(time.Second)
	}
	var out strings.Builder
	for _, g := range sc.groups {
		list := slices.Sorted(slices.Values(took[g.Name()]))
		fmt.Fprintf(&out, "%s: median %v, largest %v\n", g.Name(), list[len(list)/2].Round(time.Millisecond), list[len(list)-1].Round(time.Millisecond))
		if median := list[len(list)/2]; median > groupBound {
			b.Errorf("%s takes %v", g.Name(), median)
		}
	}
	for severity, size := range sc.webhooks(b) {
		fmt.Fprintf(&out, "notification of severity %s: %d alerts, %d bytes\n", severity, len(sc.firing[severity]), size)
		if size > webhookBound {
			b.Errorf("a notification of severity %s has %d bytes", severity, size)
		}
	}
	_, _ = io.WriteString(os.Stdout, "\n"+out.String()) // of a benchmark's log no more than ten lines are shown
}
