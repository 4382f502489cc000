// Package monitor is the loop of one GitLab: take what is due (internal/plan),
// read it, fold it (internal/inventory, internal/ledger), commit it
// (internal/store), publish it. Each GitLab has a Monitor of its own and fails
// alone.
//
// What is known of the GitLab is in fleet, under one mutex that is never held
// over a request or a commit. Around it stand, each with one duty, the listings
// with their lister, the details reader, the jobs reader, the informer, the
// saver and the publisher.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"golang.org/x/sync/errgroup"

	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/ledger"
	"gitlab-runner-fleet-exporter/internal/plan"
	"gitlab-runner-fleet-exporter/internal/queue"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/internal/store"
)

// Options of a Monitor.
type Options struct {
	Name      string
	URL       string
	Scopes    []gitlab.Scope
	API       snapshot.API // auto: one page of GraphQL replaces a page of the list and 200 readings of details and machines
	Expected  []snapshot.Expected
	Intervals plan.Intervals
	Inventory inventory.Options
	// Concurrency is how many requests may be under way at once.
	Concurrency int
	// ShardCount processes share the runners; this one reads and exports those
	// of ShardIndex. 0 and 1 both mean no shards.
	ShardIndex, ShardCount int
	// Queue is how the waiting jobs are read; Interval 0: they are not.
	Queue queue.Options
	// TokenFile is checked for changes, so that a rotated token's expiry is
	// read at once. "" where the token stands in the configuration.
	TokenFile string
}

// State is where the records are kept: internal/store's.
type State interface {
	Load(each func(key, value []byte) error) error
	Commit(b store.Batch) error
}

// Publisher takes the pictures and reports which of them a scrape has read.
type Publisher interface {
	Publish(s *snapshot.GitLab)
	Served(name string) uint64
	ServedRows(name string) uint64
}

// Metrics takes what the exporter counts about itself.
type Metrics interface {
	PollFailure(gitlab, stage, reason string)
	PollDuration(gitlab, stage string, d time.Duration)
	JobSettleDelay(gitlab string, d time.Duration)
	StateSave(d time.Duration, err error)
}

// Deps are what a Monitor works with.
type Deps struct {
	Client    *gitlab.Client
	Budget    *budget.Budget
	State     State
	Publisher Publisher
	Metrics   Metrics
	Logger    log.Logger // carries the GitLab's name
	// Wall is the local wall clock, which an administrator or NTP may step; nil:
	// time.Now. Intervals are measured by time.Now's monotonic reading alone.
	Wall func() time.Time
}

// Monitor watches one GitLab.
type Monitor struct {
	opts  *Options
	deps  *Deps
	fleet *fleet

	listings  *listings
	details   *detailsReader
	jobs      *jobsReader
	informer  *informer
	queue     *queueReader
	saver     *saver
	publisher *publisher
}

// New makes a Monitor from its saved state.
func New(o Options, d Deps) (*Monitor, error) {
	scopes := newScopes(&o)
	o.Inventory.Scopes = scopes.keys()
	if d.Wall == nil {
		d.Wall = time.Now
	}
	now := time.Now()
	led := ledger.New(ledger.Options{Lookback: o.Intervals.Lookback})
	f := &fleet{
		opts: &o, log: d.Logger, kick: make(chan struct{}, 1),
		clocks:   clocks{gitlab: newClock(), led: led, born: now, wall: d.Wall},
		inv:      inventory.New(o.Inventory),
		led:      led,
		plan:     plan.New(o.Intervals, now),
		health:   newJudge(d.Logger),
		failures: newFailures(o.Name, d.Metrics, newMessages(d.Logger)),
		noJobs:   map[int64]struct{}{},
		others:   map[string]others{}, scopeKeys: scopes.keys(),
		visible: -1,
	}
	if err := f.load(d.State); err != nil {
		return nil, fmt.Errorf("saved state of GitLab %q: %w", o.Name, err)
	}
	m := &Monitor{opts: &o, deps: &d, fleet: f}
	first := &first{fleet: f}
	m.publisher = &publisher{
		fleet: f, scopes: scopes, first: first, budget: d.Budget, to: d.Publisher,
		// Generations go on over a reload, which makes a new Monitor.
		generation: uint64(now.UnixMilli()),
		pictured:   !f.inv.ListedAt().IsZero(),
	}
	m.saver = &saver{fleet: f, state: d.State, metrics: d.Metrics, log: d.Logger}
	m.details = &detailsReader{fleet: f, deps: &d}
	m.jobs = &jobsReader{fleet: f, deps: &d}
	client := func() *gitlab.Client { return d.Client.For(d.Budget.Gate(budget.Listing)) }
	m.informer = &informer{fleet: f, scopes: scopes, client: client}
	m.queue = newQueueReader(f, &d)
	m.publisher.queue = m.queue
	m.listings = &listings{
		fleet: f, scopes: scopes, first: first, publisher: m.publisher, saver: m.saver, budget: d.Budget, metrics: d.Metrics,
		lister: &lister{opts: &o, client: client, fleet: f, scopes: len(scopes.all)},
	}
	f.resume(now)
	first.recount()
	return m, nil
}

// Ready reports whether this GitLab was tried once or is served from saved state.
func (m *Monitor) Ready() bool {
	m.fleet.mu.Lock()
	defer m.fleet.mu.Unlock()
	return m.fleet.tried
}

// Evidence is all that the verdict on a runner rests on; false: it is not known.
func (m *Monitor) Evidence(id int64) (snapshot.HealthEvidence, bool) {
	m.fleet.mu.Lock()
	defer m.fleet.mu.Unlock()
	return m.fleet.health.fleet.Evidence(id)
}

// Retry is the client's hook: a request is repeated.
func (m *Monitor) Retry(reason gitlab.Reason) {
	m.fleet.mu.Lock()
	defer m.fleet.mu.Unlock()
	if m.publisher.scopes.firstListed.IsZero() {
		m.fleet.failures.messages.unanswered(reason)
	}
}

// Attempt is the client's hook: every answer's Date sets the clock.
func (m *Monitor) Attempt(a gitlab.Attempt) {
	m.fleet.clocks.gitlab.answer(a.Date, a.ReceivedAt)
	if a.Code == 0 || a.Code >= http.StatusInternalServerError {
		// Tried, and down: readiness need not wait for the end of its retries.
		m.fleet.mu.Lock()
		m.fleet.tried = true
		m.fleet.mu.Unlock()
	}
}

// ErrUnsaved is the failure of the last save of a monitor that ended.
var ErrUnsaved = errors.New("the state was not saved at the end")

// Run reads, commits and publishes until ctx ends; then it saves what was
// folded. It returns nil when it was asked to stop, or ErrUnsaved with the cause
// where that save failed.
func (m *Monitor) Run(ctx context.Context) error {
	m.publisher.reported = time.Now()
	m.publish(m.publisher.reported)
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan plan.Item)
	g.Go(func() error { return m.informer.loop(ctx) })
	g.Go(func() error {
		// Who we are comes first: its answers set the clock that the first start
		// is taken from. A GitLab that is down must not hold up the listing, which
		// shows what is wrong.
		first, cancel := context.WithTimeout(ctx, firstInform)
		m.informer.inform(first)
		cancel()
		return m.listings.run(ctx)
	})
	g.Go(func() error { return m.dispatch(ctx, work) })
	// More workers than requests at once: while one folds, another asks.
	for range m.opts.Concurrency + m.opts.Concurrency/2 + 1 {
		g.Go(func() error { return m.worker(ctx, work) })
	}
	if m.queue != nil {
		g.Go(func() error { return m.queue.loop(ctx) })
	}
	g.Go(func() error { return m.keep(ctx) })
	err := g.Wait()
	saved := m.saver.save(time.Now())
	m.publish(time.Now())
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if saved != nil {
		level.Error(m.fleet.log).Log("msg", "the state could not be saved at the end: what was counted since the last save is lost", "err", saved)
		return errors.Join(err, fmt.Errorf("%w: %w", ErrUnsaved, saved))
	}
	return err
}

// dispatch hands the most urgent reading that is due to the next free worker.
func (m *Monitor) dispatch(ctx context.Context, work chan<- plan.Item) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		item, ok, wait := m.next()
		if ok {
			select {
			case work <- item:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-m.fleet.kick:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Monitor) next() (plan.Item, bool, time.Duration) {
	f := m.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.blocked || !f.started {
		return plan.Item{}, false, time.Minute
	}
	return f.plan.Next(time.Now(), m.publisher.first.awaited(snapshot.PartDetails))
}

func (m *Monitor) worker(ctx context.Context, work <-chan plan.Item) error {
	for {
		select {
		case item := <-work:
			m.read(ctx, item)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// readingMost is how long one reading may take, its waits for the budget included.
const readingMost = time.Hour

// read does one reading and plans the next one.
func (m *Monitor) read(ctx context.Context, item plan.Item) {
	f, stage := m.fleet, item.Class.Stage()
	run, next := m.jobs.poll, f.planPoll
	switch stage {
	case snapshot.StageDetails:
		run, next = m.details.read, f.planDetails
	case snapshot.StageReconcile:
		run, next = m.jobs.walk, f.planWalk
	default:
	}
	began := time.Now()
	within, cancel := context.WithTimeout(ctx, readingMost)
	err := run(within, item)
	cancel()
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plan.Ended(item)
	if ctx.Err() != nil {
		return // stopping: not a failure of GitLab's
	}
	m.deps.Metrics.PollDuration(m.opts.Name, stage.String(), now.Sub(began))
	f.outcome(stage, item.ID, err, now)
	if err == nil && stage == snapshot.StageJobs && f.inv.Has(item.ID) {
		f.plan.Read(stage, item.ID, began)
	}
	next(item.ID, now)
	m.publisher.arrived(item.ID, now)
	f.wake()
}

const forgetInterval = time.Minute

// keep commits, then publishes: a scrape must never show what a crash could
// take back.
func (m *Monitor) keep(ctx context.Context) error {
	f := m.fleet
	ticker := time.NewTicker(saveInterval)
	defer ticker.Stop()
	var saveAt, publishAt, forgetAt time.Time
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		now := time.Now()
		f.mu.Lock()
		m.publisher.served(now)
		if now.After(forgetAt) {
			f.led.Forget(f.clocks.now())
			forgetAt = now.Add(forgetInterval)
		}
		f.mu.Unlock()
		if !now.Before(saveAt) && m.saver.save(now) != nil {
			saveAt = now.Add(m.saver.wait())
		}
		f.mu.Lock()
		if f.fresh || !now.Before(publishAt) {
			m.publisher.publish(now)
			publishAt = now.Add(m.publisher.every(publishInterval))
		}
		m.publisher.logProgress(now)
		f.mu.Unlock()
	}
}

// publish makes the present picture visible.
func (m *Monitor) publish(now time.Time) {
	m.fleet.mu.Lock()
	defer m.fleet.mu.Unlock()
	m.publisher.publish(now)
}

// stopping distinguishes the end of the program from that of a reading's time.
func stopping(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }
