// Package monitor is the loop of one GitLab: what to read next, what it means
// (internal/inventory, internal/ledger), commit it (internal/store), publish
// it. Each GitLab has a Monitor of its own and fails alone.
//
// One mutex guards the inventory, the ledger and the schedule. It is never
// held over a request or a commit.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"golang.org/x/sync/errgroup"

	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/ledger"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/internal/store"
)

// Poll is how often what is read. The zero value is not usable: internal/app
// fills it from a validated configuration.
type Poll struct {
	RunnersInterval   time.Duration
	DetailsInterval   time.Duration
	JobsInterval      time.Duration
	ReconcileInterval time.Duration
	Lookback          time.Duration
	Staleness         time.Duration
	Concurrency       int
}

// shortest is how soon anything can have changed.
func (p Poll) shortest() time.Duration {
	return min(p.RunnersInterval, p.JobsInterval, p.DetailsInterval)
}

// Options of a Monitor.
type Options struct {
	Name      string
	URL       string
	Scopes    []gitlab.Scope
	API       snapshot.API // auto: one page of GraphQL replaces a page of the list and 200 readings of details and machines
	Expected  []snapshot.Expected
	Poll      Poll
	Inventory inventory.Options
	// ShardCount processes share the runners; this one reads and exports those
	// of ShardIndex. 0 and 1 both mean no shards.
	ShardIndex, ShardCount int
	// TokenFile is looked at for changes, so that a rotated token's expiry is
	// read at once. "" where the token stands in the configuration.
	TokenFile string
}

// State is where the records are kept: internal/store's.
type State interface {
	Load(each func(key, value []byte) error) error
	Commit(b store.Batch) error
}

// Publisher takes the pictures and tells which of them a scrape has read.
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
	opts  Options
	deps  Deps
	log   log.Logger
	clock *clock
	said  *said
	born  time.Time // local, with its monotonic reading

	saving sync.Mutex // taken before mu

	mu       sync.Mutex
	inv      *inventory.Inventory
	led      *ledger.Ledger
	sched    *budget.Schedule
	kick     chan struct{} // capacity 1: the schedule has changed
	reading  map[readingKey]bool
	fails    map[readingKey]int
	fast     map[int64]bool                       // runners whose details are planned at activeDetails
	began    map[readingKey]time.Time             // when each was last read or tried, local clock
	good     map[readingKey]time.Time             // start of the last reading that succeeded in this process, local clock
	deep     map[int64]time.Time                  // start of the last whole walk of this process, local clock
	noJobs   map[int64]bool                       // runners whose list of jobs answered 404
	unread   [snapshot.NumStages]map[int64]string // runner -> reason of its last failure
	lastGood [snapshot.NumStages]time.Time

	scopes       []*scope
	up           bool      // the last listing of each scope was complete, or GitLab refuses it
	listedAll    bool      // each scope was tried in this process
	firstListed  time.Time // when a scope was first read in this process
	pictured     bool      // a picture may be shown: see publish
	tried        bool
	started      bool // the first start is on disk: jobs may be read
	blocked      bool // the token is refused: nothing but the listing is tried
	paused       bool // the log was told that GitLab asks to wait
	version      string
	token        gitlab.Token
	visible      int // jobs_visible
	dialect      gitlab.GraphQLDialect
	dialectOf    string       // the version that it was learned of
	listing      atomic.Int64 // bytes held by the listings under way
	parts        [snapshot.NumParts]part
	reported     time.Time // when the log was last told of a first reading
	noManagers   int       // 404s of the machines endpoint in a row, none answered yet
	published    uint64    // generation of the last picture
	rowsAt       time.Time
	rowsGen      uint64
	fresh        bool            // publish as soon as may be
	lastRows     *snapshot.Fleet // nil: the runner_ families must be rebuilt
	lastRunners  []snapshot.RunnerCounter
	saveFailures int
	leftOut      map[string]struct{} // keys of records that could not be saved and that the log has named
}

// readingKey names what is being read: a runner's jobs (polls and walks
// together, one at a time) or its details.
type readingKey struct {
	stage snapshot.Stage
	id    int64
}

// New makes a Monitor from its saved state.
func New(o Options, d Deps) (*Monitor, error) {
	scopes := newScopes(&o)
	o.Inventory.Scopes = keysOf(scopes)
	m := &Monitor{
		scopes: scopes,
		opts:   o, deps: d, log: d.Logger,
		clock:   newClock(),
		born:    time.Now(),
		said:    newSaid(d.Logger),
		inv:     inventory.New(o.Inventory),
		led:     ledger.New(ledger.Options{Lookback: o.Poll.Lookback}),
		sched:   budget.NewSchedule(time.Now()),
		kick:    make(chan struct{}, 1),
		reading: map[readingKey]bool{},
		fails:   map[readingKey]int{},
		fast:    map[int64]bool{},
		began:   map[readingKey]time.Time{},
		good:    map[readingKey]time.Time{},
		deep:    map[int64]time.Time{},
		noJobs:  map[int64]bool{},
		visible: -1,
		// Generations go on over a reload, which makes a new Monitor.
		published: uint64(time.Now().UnixMilli()),
	}
	for s := range m.unread {
		m.unread[s] = map[int64]string{}
	}
	err := d.State.Load(func(key, value []byte) error {
		for _, load := range []func(key, value []byte) (bool, error){m.inv.Load, m.led.Load} {
			if handled, err := load(key, value); handled || err != nil {
				return err
			}
		}
		return fmt.Errorf("monitor: record %q belongs to nothing", key)
	})
	if err == nil {
		err = m.led.Finish()
	}
	if err != nil {
		return nil, fmt.Errorf("saved state of GitLab %q: %w", o.Name, err)
	}
	m.inv.Finish()
	m.started = m.led.Begun()
	m.version = m.inv.Version()
	m.pictured = !m.inv.ListedAt().IsZero()
	m.resume()
	return m, nil
}

// resume plans the readings of the runners in the saved state.
func (m *Monitor) resume() {
	now := time.Now()
	for _, id := range slices.Clone(m.inv.IDs()) {
		if !m.owns(id) {
			// Another shard's by a changed shard.count: two must not count its
			// jobs until two listings have passed.
			m.inv.Gone(id)
			m.led.Leave(id, m.now())
			continue
		}
		m.planDetails(id, now)
		m.planJobs(id, now)
		m.planWalk(id, now)
	}
	for _, id := range m.led.LeftWithWatch() {
		if m.owns(id) {
			m.planJobs(id, now)
		}
	}
	m.tried = m.inv.Len() > 0 && !m.inv.ListedAt().IsZero()
	m.recount()
}

// Ready tells whether this GitLab was tried once or is served from saved state.
func (m *Monitor) Ready() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tried
}

// Attempt is the client's hook: every answer's Date sets the clock.
func (m *Monitor) Attempt(a gitlab.Attempt) {
	m.clock.answer(a.Date, a.ReceivedAt)
	if a.Code == 0 || a.Code >= http.StatusInternalServerError {
		// Tried, and down: readiness need not wait for the end of its retries.
		m.mu.Lock()
		m.tried = true
		m.mu.Unlock()
	}
}

// ErrUnsaved says that the last save of a monitor that ended failed.
var ErrUnsaved = errors.New("the state was not saved at the end")

// Run reads, commits and publishes until ctx ends; then it saves what was
// folded. It returns nil when it was asked to stop, or ErrUnsaved with the cause
// where that save failed.
func (m *Monitor) Run(ctx context.Context) error {
	m.reported = time.Now()
	m.publish(m.reported)
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan budget.Item)
	g.Go(func() error { return m.informLoop(ctx) })
	g.Go(func() error { return m.listLoop(ctx) })
	g.Go(func() error { return m.dispatch(ctx, work) })
	// More workers than requests at once: while one folds, another asks.
	for range m.opts.Poll.Concurrency + m.opts.Poll.Concurrency/2 + 1 {
		g.Go(func() error { return m.worker(ctx, work) })
	}
	g.Go(func() error { return m.saveLoop(ctx) })
	err := g.Wait()
	saved := m.save(time.Now())
	m.publish(time.Now())
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if saved != nil {
		level.Error(m.log).Log("msg", "the state could not be saved at the end: what was counted since the last save is lost", "err", saved)
		return errors.Join(err, fmt.Errorf("%w: %w", ErrUnsaved, saved))
	}
	return err
}

// now is GitLab's time, as far as it is to be trusted; the floor follows it.
// The caller holds the mutex.
func (m *Monitor) now() time.Time {
	if !m.clock.answered() {
		// Before the first answer after a start nothing confirms the local clock:
		// one that is days ahead would move the floor past jobs still to be read.
		return m.wall()
	}
	return m.led.Advance(m.clock.gitlab(time.Now()), m.wall())
}

func (m *Monitor) wall() time.Time {
	if m.deps.Wall != nil {
		return m.deps.Wall()
	}
	return time.Now()
}

// elapsed is a time that only the monotonic clock moves, for waits that must
// not stretch or end with a step of any wall clock.
func (m *Monitor) elapsed(now time.Time) time.Time { return m.born.Round(0).Add(now.Sub(m.born)) }

// dispatch hands the most urgent reading that is due to the next free worker.
func (m *Monitor) dispatch(ctx context.Context, work chan<- budget.Item) error {
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
		case <-m.kick:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Monitor) next() (budget.Item, bool, time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if m.blocked || !m.started {
		return budget.Item{}, false, time.Minute
	}
	for {
		item, ok, wait := m.pick(now)
		if wait > 0 {
			return budget.Item{}, false, wait
		}
		if !ok {
			break
		}
		key := readingOf(item)
		if m.reading[key] {
			// Its runner's jobs are being read: one reader a runner.
			m.sched.Set(item.Class, item.ID, now.Add(time.Second), item.Deadline)
			continue
		}
		m.reading[key] = true
		m.began[readingKey{item.Class.Stage(), item.ID}] = now
		return item, true, 0
	}
	wait := time.Minute
	if at, ok := m.sched.Wake(now); ok {
		wait = min(wait, max(at.Sub(now), time.Millisecond))
	}
	return budget.Item{}, false, wait
}

// pick takes the most urgent reading that is due, or says how long to wait for
// one under way first.
func (m *Monitor) pick(now time.Time) (item budget.Item, ok bool, wait time.Duration) {
	if m.firstReading() {
		if item, ok = m.sched.First(now); ok {
			return item, true, 0
		}
		if wait = m.heldBack(now); wait > 0 {
			return item, false, wait
		}
	}
	item, ok = m.sched.Next(now)
	return item, ok, 0
}

func readingOf(item budget.Item) readingKey {
	if item.Class.Stage() == snapshot.StageDetails {
		return readingKey{snapshot.StageDetails, item.ID}
	}
	return readingKey{snapshot.StageJobs, item.ID}
}

// wake makes dispatch look again.
func (m *Monitor) wake() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

func (m *Monitor) worker(ctx context.Context, work <-chan budget.Item) error {
	for {
		select {
		case item := <-work:
			m.read(ctx, item)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// read does one reading and plans the next one.
func (m *Monitor) read(ctx context.Context, item budget.Item) {
	stage, run, plan := snapshot.StageJobs, m.pollJobs, m.planJobs
	switch item.Class.Stage() {
	case snapshot.StageDetails:
		stage, run, plan = snapshot.StageDetails, m.readDetails, m.planDetails
	case snapshot.StageReconcile:
		stage, run, plan = snapshot.StageReconcile, m.walkJobs, m.planWalk
	default:
	}
	began := time.Now()
	within, cancel := context.WithTimeout(ctx, readingMost)
	err := run(within, item)
	cancel()
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.reading, readingOf(item))
	if ctx.Err() != nil {
		return // stopping: not a failure of GitLab's
	}
	m.deps.Metrics.PollDuration(m.opts.Name, stage.String(), now.Sub(began))
	m.outcome(stage, item.ID, err, now)
	if err == nil && stage == snapshot.StageJobs && m.inv.Has(item.ID) {
		m.good[readingKey{stage, item.ID}] = began
	}
	plan(item.ID, now)
	m.arrived(item.ID, now)
	m.wake()
}

// outcome keeps the books of a reading. The caller holds the mutex.
func (m *Monitor) outcome(stage snapshot.Stage, id int64, err error, now time.Time) {
	key := readingKey{stage, id}
	if err == nil && stage == snapshot.StageReconcile && m.led.WalkEndless(id) {
		return // a page more of a walk that never ended is no success yet
	}
	if err == nil {
		m.lastGood[stage] = now
		delete(m.fails, key)
		delete(m.unread[stage], id)
		if len(m.unread[stage]) == 0 {
			m.said.well(stage)
		}
		return
	}
	reason := gitlab.ReasonOf(err)
	if reason == gitlab.ReasonNotFound {
		// Most likely deleted, which is no trouble; the next listing decides. A
		// new runner may not be on every replica yet, so it is asked for again.
		m.fails[key]++
		return
	}
	m.deps.Metrics.PollFailure(m.opts.Name, stage.String(), string(reason))
	if !m.blocked { // a refused token is one trouble, not one of each stage
		m.said.failed(stage, reason, err, "runner", id)
	}
	if m.inv.Has(id) || m.led.Watched(id) > 0 {
		// Books of a runner that left while it was read would stay for ever.
		m.fails[key]++
		m.unread[stage][id] = string(reason)
	}
	if reason == gitlab.ReasonUnauthorized {
		// The token is refused: the listing alone finds out when it is taken again.
		m.blocked = true
	}
}

// forget drops the books of a runner that left. The caller holds the mutex.
func (m *Monitor) forget(id int64) {
	m.sched.Remove(id)
	delete(m.fast, id)
	for s := range m.unread {
		delete(m.unread[s], id)
		delete(m.fails, readingKey{snapshot.Stage(s), id})
		delete(m.began, readingKey{snapshot.Stage(s), id})
		delete(m.good, readingKey{snapshot.Stage(s), id})
	}
	delete(m.deep, id)
	delete(m.noJobs, id)
}

// spread varies a due time by up to a tenth of its interval, so that readings
// do not fall into step.
func spread(interval time.Duration) time.Duration {
	if interval <= 0 {
		return 0
	}
	return time.Duration(rand.Int64N(int64(interval)/5+1)) - interval/10 //nolint:gosec // no secret
}

func logUp(s *scope, l log.Logger, several, again bool, runners int) {
	msg := "runners are listed"
	if again {
		msg = "runners are listed again"
	}
	keyvals := []any{"msg", msg, "runners", runners}
	if several {
		keyvals = append(keyvals, s.named()...)
	}
	level.Info(l).Log(keyvals...)
}
