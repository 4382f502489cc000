package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/common/version"

	"gitlab-runner-fleet-exporter/collector"
	"gitlab-runner-fleet-exporter/config"
	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/monitor"
	"gitlab-runner-fleet-exporter/internal/page"
	"gitlab-runner-fleet-exporter/internal/plan"
	"gitlab-runner-fleet-exporter/internal/queue"
	"gitlab-runner-fleet-exporter/internal/secret"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/internal/store"
	"gitlab-runner-fleet-exporter/internal/why"
)

// supervisor owns the running monitors and moves them from one configuration
// to the next by difference. apply and stop are called by one goroutine; the
// rest may be called by any.
type supervisor struct {
	opts   *options
	logger log.Logger
	folder *store.Folder
	failed func(error) // called when a monitor ended unasked
	page   *page.Page  // sees each picture, to show the last one when it is withdrawn

	exporter atomic.Pointer[collector.Exporter]

	current *config.Validated // in force; nil before the first apply

	mu      sync.Mutex
	running map[string]*watch // by the GitLab's name
}

// watch is one GitLab being monitored.
type watch struct {
	gitlab    config.GitLab
	metrics   config.Metrics
	exporter  *collector.Exporter
	state     *store.State
	monitor   *monitor.Monitor
	client    *http.Client
	cancel    context.CancelFunc
	done      chan struct{}
	unsaved   bool          // its last save failed; to be read once done is closed
	published chan struct{} // closed by the first picture
}

// errBroken: a failed reload could not be undone: the process must end,
// so that whoever supervises it starts it anew.
var errBroken = errors.New("the old configuration could not be restored")

// apply makes v the configuration in force. What can fail without touching a
// running monitor comes first; what fails later is undone. On an error the old
// configuration goes on, unless the error is errBroken.
func (s *supervisor) apply(ctx context.Context, v *config.Validated) error {
	metrics := v.Metrics()
	exporter := s.exporter.Load()
	all := s.current == nil || !metrics.Equal(s.current.Metrics())
	if s.current == nil || !slices.Equal(metrics.Disable, s.current.Metrics().Disable) || metrics.SeriesLimit != s.current.Metrics().SeriesLimit {
		var err error
		if exporter, err = s.newExporter(metrics); err != nil {
			return err
		}
	}

	var changed, added []*watch
	gone := maps.Clone(s.running)
	for _, g := range v.GitLabs() {
		old := s.running[g.Name]
		delete(gone, g.Name)
		if old != nil && !all && old.gitlab.Equal(g) {
			continue
		}
		w, err := s.prepare(g, metrics, exporter)
		if err != nil {
			closeStates(added)
			return err
		}
		if old != nil {
			changed = append(changed, w)
			continue
		}
		// A new name has its own state: opened and read here, before anything stops.
		if err := s.load(w); err != nil {
			closeStates(append(added, w))
			return err
		}
		added = append(added, w)
	}

	if err := s.replace(ctx, changed); err != nil {
		closeStates(added)
		return err
	}
	for _, w := range added {
		s.start(ctx, w)
	}
	for _, name := range slices.Sorted(maps.Keys(gone)) {
		s.remove(gone[name])
	}
	if exporter != s.exporter.Load() {
		s.awaitPictures(ctx)
		s.exporter.Store(exporter)
	}
	s.current = v
	s.opts.secrets.Hold("configuration", v.Secrets()...)
	if err := s.prune(); err != nil {
		_ = level.Warn(s.logger).Log("msg", "the storage folder cannot be tidied", "err", err)
	}
	return nil
}

func (s *supervisor) newExporter(m config.Metrics) (*collector.Exporter, error) {
	shard := ""
	if s.opts.shardCount > 1 {
		shard = strconv.Itoa(s.opts.shardIndex)
	}
	return collector.New(collector.Options{
		Disable: m.Disable, SeriesLimit: m.SeriesLimit, Shard: shard, Shards: s.opts.shardCount, CreatedSamples: s.opts.createdSamples, Logger: s.logger,
	})
}

// replace stops the monitors that have changed and starts their successors on
// the same state. Their last picture stays exported meanwhile. If one cannot be
// started all go back to what they were.
func (s *supervisor) replace(ctx context.Context, changed []*watch) error {
	var stopped []*watch
	for _, w := range changed {
		old := s.running[w.gitlab.Name]
		s.halt(old)
		stopped = append(stopped, old)
		err := s.handOver(old, w)
		if err == nil {
			s.start(ctx, w)
			continue
		}
		closeStates([]*watch{w})
		return s.restore(ctx, stopped, err)
	}
	return nil
}

// handOver gives the state of a stopped monitor to its successor. Where the
// address changed the file is opened anew, so that the store can refuse it.
func (s *supervisor) handOver(old, w *watch) error {
	if old.gitlab.URL == w.gitlab.URL {
		w.state = old.state
	} else if err := old.state.Close(); err != nil {
		return fmt.Errorf("state of GitLab %q: %w", old.gitlab.Name, err)
	}
	return s.load(w)
}

// restore starts again, as they were, the monitors that a failed reload stopped.
func (s *supervisor) restore(ctx context.Context, stopped []*watch, cause error) error {
	for _, old := range stopped {
		name := old.gitlab.Name
		if now := s.running[name]; now != nil && now != old {
			s.halt(now)
			_ = now.state.Close() // opened again below
		}
		_ = old.state.Close() // likewise
		again, err := s.prepare(old.gitlab, old.metrics, old.exporter)
		if err == nil {
			err = s.load(again)
		}
		if err != nil {
			return fmt.Errorf("%w: %w; after: %w", errBroken, err, cause)
		}
		s.start(ctx, again)
	}
	return cause
}

// prepare makes the parts of a monitor that touch neither state nor network.
func (s *supervisor) prepare(g config.GitLab, m config.Metrics, exporter *collector.Exporter) (*watch, error) {
	client, err := newHTTPClient(g, s.opts.secrets)
	if err != nil {
		return nil, fmt.Errorf("GitLab %q: %w", g.Name, err)
	}
	return &watch{gitlab: g, metrics: m, exporter: exporter, client: client}, nil
}

// load opens the state of w, unless it was handed over, and makes the monitor.
func (s *supervisor) load(w *watch) (err error) {
	g := w.gitlab
	if w.state == nil {
		if w.state, err = s.folder.Open(g.Name, g.URL); err != nil {
			return err
		}
		if w.state.Quarantined() != "" {
			w.exporter.Self().StateDamaged(g.Name)
		}
	}
	logger := log.With(s.logger, "gitlab", g.Name)
	self := w.exporter.Self()
	var m *monitor.Monitor // set before its client makes the first request
	client, err := newClient(g, w.client, s.opts.secrets, logger, gitlab.Hooks{
		Attempt: func(a gitlab.Attempt) {
			self.APIRequest(g.Name, string(a.Route), a.Code, a.Duration)
			m.Attempt(a)
		},
		Retry: func(r gitlab.Reason) {
			self.APIRetry(g.Name, string(r))
			m.Retry(r)
		},
	})
	if err != nil {
		return fmt.Errorf("GitLab %q: %w", g.Name, err)
	}
	expected := make([]snapshot.Expected, 0, len(g.Expected))
	for _, tag := range slices.Sorted(maps.Keys(g.Expected)) {
		expected = append(expected, snapshot.Expected{Tag: tag, Runners: g.Expected[tag]})
	}
	tokenFile := ""
	if a := g.HTTPClientConfig.Authorization; a != nil {
		tokenFile = a.CredentialsFile
	}
	w.published = make(chan struct{})
	m, err = monitor.New(monitor.Options{
		Name: g.Name, URL: g.URL, Scopes: scopes(g), API: g.API, Expected: expected, Inventory: inventoryOptions(g, w.metrics),
		Intervals: intervals(g.Poll), Concurrency: g.Poll.MaxConcurrentRequests,
		Queue: queueOptions(g), ShardIndex: s.opts.shardIndex, ShardCount: s.opts.shardCount, TokenFile: tokenFile,
	}, monitor.Deps{
		Client: client, Budget: newBudget(g, s.opts.shardCount), State: w.state,
		Publisher: &firstPicture{Publisher: w.exporter, keep: s.page.Keep, published: w.published},
		Metrics:   self, Logger: logger,
	})
	w.monitor = m
	return err
}

func newClient(g config.GitLab, httpClient *http.Client, list *secret.List, logger log.Logger, hooks gitlab.Hooks) (*gitlab.Client, error) {
	return gitlab.New(gitlab.Options{
		BaseURL: g.URL, HTTPClient: httpClient, Timeout: g.Poll.RequestTimeout, UserAgent: userAgent(),
		Scrub: list.Scrub, ScrubNames: list.ScrubName, Hooks: hooks, Logger: logger,
	})
}

// intervals are how often what is read.
func intervals(p config.Poll) plan.Intervals {
	return plan.Intervals{
		Runners: p.RunnersInterval, Details: p.DetailsInterval, Jobs: p.JobsInterval, Reconcile: p.ReconcileInterval,
		Lookback: p.Lookback, Staleness: p.Staleness,
	}
}

// newBudget gives this process its share of the GitLab's budget.
func newBudget(g config.GitLab, shards int) *budget.Budget {
	return budget.New(budget.Options{
		RequestsPerSecond: g.Poll.MaxRequestsPerSecond / float64(shards),
		Concurrency:       g.Poll.MaxConcurrentRequests,
		Seed:              rand.Uint64(),
	})
}

// retryReasons are those after which the client asks again.
func retryReasons() []gitlab.Reason {
	return []gitlab.Reason{
		gitlab.ReasonRateLimited, gitlab.ReasonServerError, gitlab.ReasonTimeout, gitlab.ReasonConnection, gitlab.ReasonDecode,
		gitlab.ReasonNotGitLab,
	}
}

func texts[T ~string](in []T) []string {
	out := make([]string, len(in))
	for i, v := range in {
		out[i] = string(v)
	}
	return out
}

func scopes(g config.GitLab) []gitlab.Scope {
	ids := slices.Concat(g.Groups, g.Projects) // one of them, and only with its scope
	if len(ids) == 0 {
		return []gitlab.Scope{{Kind: g.Scope}}
	}
	out := make([]gitlab.Scope, len(ids))
	for i, id := range ids {
		out[i] = gitlab.Scope{Kind: g.Scope, ID: id}
	}
	return out
}

func inventoryOptions(g config.GitLab, m config.Metrics) inventory.Options {
	return inventory.Options{
		Tags: m.Tags, Runners: m.Runners,
		RunnersEnabled: m.RunnersEnabled,
		RunnerMinAge:   m.RunnersMinAge,
		TagLimit:       m.TagsLimit,
		TagRetention:   m.TagsRetention,
		Expected:       g.Expected,
	}
}

// firstPicture closes a channel when a monitor has published for the first time,
// and gives each picture to the health page.
type firstPicture struct {
	monitor.Publisher

	keep      func(*snapshot.GitLab)
	once      sync.Once
	published chan struct{}
}

// Publish implements monitor.Publisher.
func (p *firstPicture) Publish(s *snapshot.GitLab) {
	p.Publisher.Publish(s)
	p.keep(s)
	p.once.Do(func() { close(p.published) })
}

// start runs the monitor of w until halt.
func (s *supervisor) start(ctx context.Context, w *watch) {
	// Not the context of a signal: the order of shutdown is stop's to keep.
	ctx, w.cancel = context.WithCancel(context.WithoutCancel(ctx))
	w.done = make(chan struct{})
	s.mu.Lock()
	s.running[w.gitlab.Name] = w
	s.mu.Unlock()
	g := w.gitlab
	w.exporter.Self().Declare(g.Name, texts(gitlab.Routes()), texts(gitlab.Reasons()))
	w.exporter.Self().DeclareRetries(g.Name, texts(retryReasons()))
	_ = level.Info(s.logger).Log("msg", "monitoring a GitLab", "gitlab", g.Name, "url", g.URL, "scope", g.Scope,
		"runners_interval", g.Poll.RunnersInterval, "jobs_interval", g.Poll.JobsInterval)
	go func() {
		defer close(w.done)
		err := w.monitor.Run(ctx)
		w.unsaved = errors.Is(err, monitor.ErrUnsaved)
		if ctx.Err() == nil {
			s.failed(fmt.Errorf("the monitor of GitLab %q ended: %w", g.Name, err))
		}
	}()
}

// halt stops a monitor; when it returns everything folded is saved, or the log
// reports that it could not be.
func (s *supervisor) halt(w *watch) {
	w.cancel()
	<-w.done
	w.client.CloseIdleConnections()
}

// remove stops a GitLab that is no longer configured and takes it off the page.
func (s *supervisor) remove(w *watch) {
	name := w.gitlab.Name
	s.halt(w)
	s.mu.Lock()
	delete(s.running, name)
	s.mu.Unlock()
	if err := w.state.Close(); err != nil {
		_ = level.Warn(s.logger).Log("msg", "the state of a removed GitLab was not closed", "gitlab", name, "err", err)
	}
	w.exporter.Withdraw(name)
	w.exporter.Self().Forget(name)
	_ = level.Info(s.logger).Log("msg", "no longer monitoring a GitLab", "gitlab", name)
}

// stop stops all monitors at once and returns when all have saved; it names the
// GitLabs for which that failed.
func (s *supervisor) stop() (unsaved []string) {
	for _, w := range s.running {
		w.cancel()
	}
	for name, w := range s.running {
		s.halt(w)
		if w.unsaved {
			unsaved = append(unsaved, name)
		}
	}
	slices.Sort(unsaved)
	return unsaved
}

// pictureWait bounds the wait for the first pictures of a new exporter.
const pictureWait = 5 * time.Second

// awaitPictures waits until each monitor has published, so that a scrape never
// meets an exporter that is still empty.
func (s *supervisor) awaitPictures(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, pictureWait)
	defer cancel()
	for _, w := range s.running {
		select {
		case <-w.published:
		case <-ctx.Done():
			return
		}
	}
}

// waiting names the GitLabs that were neither tried yet nor are served from
// saved state.
func (s *supervisor) waiting() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, w := range s.running {
		if !w.monitor.Ready() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// pictures are the last ones of the GitLabs, by name.
func (s *supervisor) pictures() []*snapshot.GitLab { return s.exporter.Load().Pictures() }

// evidence is what the verdict on a runner rests on.
func (s *supervisor) evidence(name string, id int64) (snapshot.HealthEvidence, bool) {
	s.mu.Lock()
	w := s.running[name]
	s.mu.Unlock()
	if w == nil {
		return snapshot.HealthEvidence{}, false
	}
	return w.monitor.Evidence(id)
}

// why explains which runners take a job.
func (s *supervisor) why(ctx context.Context, name string, q why.Question) (*why.Answer, error) {
	s.mu.Lock()
	w := s.running[name]
	s.mu.Unlock()
	if w == nil {
		return nil, &why.Failure{Text: "GitLab " + name + " is not monitored any more."}
	}
	return w.monitor.Why(ctx, q)
}

// newPage makes the health page of what s monitors.
func newPage(s *supervisor) *page.Page {
	o := s.opts
	return page.New(page.Options{
		Pictures: s.pictures, Evidence: s.evidence, Why: s.why,
		Shard: o.shardIndex, Shards: o.shardCount,
		ExternalURL: o.externalURL, Prefix: o.linkPrefix(),
		Grafana: o.linkGrafana, Runbooks: o.linkRunbooks,
		MetricsPath: o.telemetryPath, Version: version.Version,
	})
}

// prune removes state files that nothing has used for long.
func (s *supervisor) prune() error {
	return s.folder.Prune(slices.Collect(maps.Keys(s.running)))
}

// ServeHTTP answers scrapes with the exporter in force.
func (s *supervisor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.exporter.Load().Handler().ServeHTTP(w, r)
}

func closeStates(ws []*watch) {
	for _, w := range ws {
		w.client.CloseIdleConnections()
		if w.state != nil {
			_ = w.state.Close() // nothing was written through it
		}
	}
}

// queueOptions are how the waiting jobs are read.
func queueOptions(g config.GitLab) queue.Options {
	if g.Queue == config.QueueOff || g.API == snapshot.APIREST && g.Scope != snapshot.ScopeProjects {
		return queue.Options{} // but for projects only GraphQL has it
	}
	o := queue.Options{Interval: g.Poll.QueueInterval, All: g.Queue == config.QueueAll}
	if g.Scope == snapshot.ScopeProjects {
		o.Projects = g.Projects
	}
	return o
}
