package monitor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"

	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/ledger"
	"gitlab-runner-fleet-exporter/internal/plan"
	"gitlab-runner-fleet-exporter/internal/queue"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/internal/store"
)

// scraper stands for collector and Prometheus: it keeps the last picture and,
// every interval, reads it.
type scraper struct {
	mu         sync.Mutex
	last       *snapshot.GitLab
	served     uint64
	servedRows uint64
	shown      map[string]float64 // by series, as of the last scrape
	back       []string           // series that went back
	counts     map[string]int     // Metrics calls
	delays     []time.Duration
	saveErrs   int
	look       func(*snapshot.GitLab) // at each picture as it is published
	t          *testing.T             // of the monitor that publishes
}

func newScraper() *scraper { return &scraper{shown: map[string]float64{}, counts: map[string]int{}} }

func (s *scraper) Publish(g *snapshot.GitLab) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = g
	if listed, judged := judgedOf(g); listed != judged {
		s.t.Errorf("%d runners, %d of them judged (by type and paused)", listed, judged)
	}
	if s.look != nil {
		s.look(g)
	}
}

// judgedOf are the runners of a picture by type and whether they are paused, as
// runners and as health_runners sum them up.
func judgedOf(g *snapshot.GitLab) (listed, judged [snapshot.NumRunnerTypes][2]int) {
	if g.Health == nil {
		return listed, judged
	}
	for kind := range listed {
		for paused := range 2 {
			for _, n := range g.Fleet.Runners[kind] {
				listed[kind][paused] += n[paused]
			}
			for _, verdict := range g.Health.Runners[kind] {
				for _, n := range verdict {
					judged[kind][paused] += n[paused]
				}
			}
		}
	}
	return listed, judged
}

func (s *scraper) Served(string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.served
}

func (s *scraper) ServedRows(string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.servedRows
}

func (s *scraper) count(k string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[k]++
}

// counted is how often something was counted.
func (s *scraper) counted(k string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[k]
}

// longest is the longest delay from a job's end to its count, and of how many.
func (s *scraper) longest() (d time.Duration, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return quantile(s.delays, 1), len(s.delays)
}

func (s *scraper) PollFailure(_, stage, reason string) { s.count("failure " + stage + " " + reason) }

func (s *scraper) PollDuration(_, stage string, _ time.Duration) {
	s.count("reading " + stage)
}

func (s *scraper) JobSettleDelay(_ string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delays = append(s.delays, d)
}

func (s *scraper) StateSave(_ time.Duration, err error) {
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.saveErrs++
	}
}

// scrape reads the last picture as Prometheus would and checks that no
// counter or bucket went back.
func (s *scraper) scrape() *snapshot.GitLab {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.last
	if g == nil {
		return nil
	}
	s.served, s.servedRows = g.Generation, g.RowsGeneration
	for k, v := range series(g) {
		if v < s.shown[k] {
			s.back = append(s.back, fmt.Sprintf("%s: %v after %v", k, v, s.shown[k]))
		}
		s.shown[k] = v
	}
	return g
}

// series are all counters and buckets of a picture, by name.
func series(g *snapshot.GitLab) map[string]float64 {
	out := map[string]float64{}
	if g == nil || g.Counters == nil {
		return out
	}
	for _, c := range g.Counters.JobsFinished {
		out[fmt.Sprint("jobs_finished", c.Labels)] = c.Value
	}
	for _, c := range g.Counters.TagJobsFinished {
		out[fmt.Sprint("tag_jobs_finished", c.Labels)] = c.Value
	}
	for _, c := range g.Counters.Runners {
		out[fmt.Sprint("runner_jobs_finished", c.ID, c.Status, c.Class)] = c.Value
	}
	hists := func(name string, hs []snapshot.Histogram) {
		for _, h := range hs {
			for i, n := range h.Buckets {
				out[fmt.Sprint(name, h.Labels, i)] = float64(n)
			}
		}
	}
	hists("duration", g.Counters.JobDuration)
	hists("queued", g.Counters.JobQueued)
	hists("tag_queued", g.Counters.TagJobQueued)
	return out
}

// crashing is a State that can die: from then on no commit reaches the disk,
// as after kill -9.
type crashing struct {
	State
	mu   sync.Mutex
	dead bool
	fail bool
}

func (c *crashing) Commit(b store.Batch) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead || c.fail {
		return os.ErrClosed
	}
	return c.State.Commit(b)
}

func (c *crashing) set(dead, fail bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead, c.fail = dead, fail
}

const secret = "glpat-canary-7Qx"

// withToken authenticates as the transport of prometheus/common does.
type withToken struct {
	http.RoundTripper
	token func() string // nil: secret
}

func (w withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	token := secret
	if w.token != nil {
		token = w.token()
	}
	r.Header.Set("Authorization", "Bearer "+token)
	return w.RoundTripper.RoundTrip(r)
}

type setup struct {
	poll        plan.Intervals
	concurrency int
	scopes      []gitlab.Scope
	rate        float64
	logger      log.Logger
	inv         inventory.Options
	shard       [2]int
	api         snapshot.API
	token       func() string // nil: secret
	wall        func() time.Time
	queue       queue.Options
	wrap        func(http.RoundTripper) http.RoundTripper
}

func defaultPoll() plan.Intervals {
	return plan.Intervals{
		Runners: time.Minute, Details: 15 * time.Minute, Jobs: time.Minute,
		Reconcile: time.Hour, Lookback: 24 * time.Hour, Staleness: 10 * time.Minute,
	}
}

// running is a Monitor in a bubble, and how to stop or kill it.
type running struct {
	m     *Monitor
	disk  *crashing
	stop  context.CancelFunc
	began time.Time
	ended chan error
}

func start(t *testing.T, w *gitlabsim.World, state State, s *scraper, o setup) *running {
	t.Helper()
	if o.concurrency == 0 {
		o.concurrency = 8
	}
	if o.poll == (plan.Intervals{}) {
		o.poll = defaultPoll()
	}
	if o.scopes == nil {
		o.scopes = []gitlab.Scope{{Kind: snapshot.ScopeInstance}}
	}
	if o.logger == nil {
		o.logger = log.NewNopLogger()
	}
	if o.inv.TagLimit == 0 {
		o.inv.TagLimit = 500
		o.inv.TagRetention = 7 * 24 * time.Hour
		o.inv.RunnersEnabled = true
	}
	transport := w.RoundTripper()
	if o.wrap != nil {
		transport = o.wrap(transport)
	}
	var m *Monitor
	client, err := gitlab.New(gitlab.Options{
		BaseURL: "http://gitlab.test", HTTPClient: &http.Client{Transport: withToken{transport, o.token}}, Timeout: 30 * time.Second,
		Hooks: gitlab.Hooks{Attempt: func(a gitlab.Attempt) { m.Attempt(a) }, Retry: func(r gitlab.Reason) { m.Retry(r) }},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.t = t
	disk := &crashing{State: state}
	m, err = New(Options{
		Name: "sim", URL: "http://gitlab.test", Scopes: o.scopes, API: o.api, Intervals: o.poll, Concurrency: o.concurrency, Inventory: o.inv, Queue: o.queue,
		ShardIndex: o.shard[0], ShardCount: o.shard[1],
	}, Deps{
		Client: client, State: disk, Publisher: s, Metrics: s, Logger: o.logger, Wall: o.wall,
		Budget: budget.New(budget.Options{RequestsPerSecond: o.rate, Concurrency: o.concurrency, MaxPause: 30 * time.Second, Seed: 1}),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{m: m, disk: disk, stop: cancel, began: time.Now(), ended: make(chan error, 1)}
	go func() { r.ended <- m.Run(ctx) }()
	return r
}

func (r *running) end(t *testing.T) {
	t.Helper()
	r.stop()
	if err := <-r.ended; err != nil && (!r.disk.dead || !errors.Is(err, ErrUnsaved)) {
		t.Errorf("Run: %v", err)
	}
}

// locked is what look returns of the Monitor at a moment: reading it without
// its mutex would be a race of the test's own.
func locked[T any](r *running, look func(m *Monitor) T) T {
	r.m.fleet.mu.Lock()
	defer r.m.fleet.mu.Unlock()
	return look(r.m)
}

// has reports whether a runner is in the fleet, known how many there are.
func (r *running) has(id int64) bool {
	return locked(r, func(m *Monitor) bool { return m.fleet.inv.Has(id) })
}

func (r *running) known() int { return locked(r, func(m *Monitor) int { return m.fleet.inv.Len() }) }

// kill drops everything that was not committed.
func (r *running) kill(t *testing.T) {
	t.Helper()
	r.disk.set(true, false)
	r.end(t)
}

// memoryDir is a folder on a memory file system where there is one: a day of
// virtual time has some 50,000 commits, and each waits for the disk.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "fleet-") //nolint:usetesting // TempDir is on a disk
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func openState(t *testing.T, dir string) (*store.Folder, *store.State) {
	t.Helper()
	f, err := store.Open(t.Context(), store.Options{Path: dir, Layout: ledger.Layout})
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.Open("sim", "http://gitlab.test")
	if err != nil {
		t.Fatal(err)
	}
	return f, s
}

// finished sums what a picture shows of finished jobs by runner type, status
// and reason, as truth does it.
func finished(g *snapshot.GitLab) map[string]int {
	out := map[string]int{}
	if g == nil || g.Counters == nil {
		return out
	}
	for _, c := range g.Counters.JobsFinished {
		if c.Value > 0 {
			out[fmt.Sprint(c.Labels)] += int(c.Value)
		}
	}
	return out
}

func finishedTruth(jobs []gitlabsim.JobTruth) map[string]int {
	out := map[string]int{}
	for _, j := range jobs {
		status, ok := snapshot.ParseJobStatus(j.Status)
		if !ok {
			continue
		}
		class, reason := "", ""
		if status == snapshot.Failed {
			r := snapshot.ParseFailureReason(j.Reason)
			class, reason = r.Class().String(), r.String()
		}
		out[fmt.Sprint([]string{j.RunnerType, status.String(), class, reason})]++
	}
	return out
}

func diff(got, want map[string]int) []string {
	var out []string
	for k, n := range want {
		if got[k] != n {
			out = append(out, fmt.Sprintf("%s: counted %d, true %d", k, got[k], n))
		}
	}
	for k, n := range got {
		if _, ok := want[k]; !ok {
			out = append(out, fmt.Sprintf("%s: counted %d, true 0", k, n))
		}
	}
	slices.Sort(out)
	return out
}
