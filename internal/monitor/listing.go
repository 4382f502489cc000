package monitor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log/level"
	"golang.org/x/sync/errgroup"

	"gitlab-runner-fleet-exporter/internal/bounded"
	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/ledger"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const (
	// refutedTries is how often a runner that is listed, and not found, is asked
	// for again with the listing; then like any that fails.
	refutedTries = 5
	// listConcurrency is how many pages of a list are read at once.
	listConcurrency = 4
	// listPage is how many rows a page has.
	listPage = 100
	// mostTold is the largest total that GitLab tells (API notes 2): a larger
	// one is not GitLab's, and must not make us ask for so many pages.
	mostTold = 10_000
)

// listLoop lists each scope at runners_interval, on its own: one that hangs or
// is refused holds up no other.
func (m *Monitor) listLoop(ctx context.Context) error {
	// Who we are comes first: its answers set the clock that the first start
	// is taken from. A GitLab that is down must not hold up the listing, which
	// tells what is wrong.
	first, cancel := context.WithTimeout(ctx, firstInform)
	m.inform(first)
	cancel()
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range m.scopes {
		g.Go(func() error { return m.scopeLoop(ctx, s) })
	}
	return g.Wait()
}

// scopeLoop lists one scope. A listing that takes longer than the interval
// stretches it; it never overlaps the next.
func (m *Monitor) scopeLoop(ctx context.Context, s *scope) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		began := time.Now()
		m.listOnce(ctx, s, began)
		interval := m.opts.Poll.RunnersInterval
		timer.Reset(max(time.Until(began.Add(interval+spread(interval)/4)), 0))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Monitor) listOnce(ctx context.Context, s *scope, began time.Time) {
	l, err := m.list(ctx, s)
	now := time.Now()
	if ctx.Err() != nil {
		return
	}
	m.deps.Metrics.PollDuration(m.opts.Name, snapshot.StageRunners.String(), now.Sub(began))
	if err == nil {
		m.begin(l.details)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tried, m.fresh, s.tried = true, true, true
	if err != nil {
		m.unlisted(s, err)
	} else {
		m.listed(s, l, began, now)
	}
	m.judge(now)
	m.settle(now)
}

// unlisted takes the failure of a scope's listing. The caller holds the mutex.
func (m *Monitor) unlisted(s *scope, err error) {
	reason := gitlab.ReasonOf(err)
	s.up, s.refused = false, refuses(reason)
	if s.refused {
		m.inv.Refused(s.key, m.now())
	}
	m.deps.Metrics.PollFailure(m.opts.Name, snapshot.StageRunners.String(), string(reason))
	m.said.unlisted(s, len(m.scopes) > 1, m.blocked, reason, err)
	m.blocked = m.blocked || reason == gitlab.ReasonUnauthorized
}

// judge derives from the scopes whether the listing as a whole works. The
// caller holds the mutex.
func (m *Monitor) judge(now time.Time) {
	read, all := 0, true
	m.listedAll = true
	for _, s := range m.scopes {
		if s.up {
			read++
		}
		all = all && (s.up || s.refused)
		m.listedAll = m.listedAll && s.tried
	}
	m.up = all && read > 0
	if m.up {
		m.lastGood[snapshot.StageRunners] = now
	}
	m.led.Works(m.up)
}

// listing is a complete reading of a scope.
type listing struct {
	rows  []gitlab.Runner
	whole bool // no row that could not be read: else it must not remove runners

	// By GraphQL the details come with the rows; detailed tells that they stand
	// for a reading of each runner by REST.
	graphql, detailed bool
	details           []gitlab.FleetRunner
}

// listClient is for listings and what they need.
func (m *Monitor) listClient() *gitlab.Client {
	return m.deps.Client.For(m.deps.Budget.Gate(budget.Listing))
}

// listREST reads all pages of a scope, or nothing.
func (m *Monitor) listREST(ctx context.Context, s *scope) (listing, error) {
	l := listing{whole: true}
	b := m.newBound(s.Route(), 1)
	defer b.end()
	if err := m.addREST(ctx, s.Scope, &l, b); err != nil {
		return listing{}, err
	}
	return l, nil
}

// addREST adds the runners that REST lists.
func (m *Monitor) addREST(ctx context.Context, scope gitlab.Scope, l *listing, b *bound) error {
	pages, err := m.listPages(ctx, scope, b)
	if err != nil {
		return err
	}
	for _, p := range pages {
		l.whole = l.whole && p.Skipped == 0
		l.rows = append(l.rows, p.Runners...)
	}
	return nil
}

// listPages reads the pages of one scope, and keeps the runners of this shard.
// Where the first tells how many there are, a few are read at once: the shorter
// a listing takes, the fewer rows shift while it is read, and the sooner a
// first picture is whole.
func (m *Monitor) listPages(ctx context.Context, scope gitlab.Scope, b *bound) ([]gitlab.RunnersPage, error) {
	client := m.listClient()
	first, err := client.Runners(ctx, scope, 1)
	if err != nil {
		return nil, err
	}
	pages := []gitlab.RunnersPage{first}
	if known := (first.Total + listPage - 1) / listPage; first.Next == 2 && len(first.Runners) == listPage && known > 2 && first.Total <= mostTold {
		pages = append(pages, make([]gitlab.RunnersPage, known-1)...)
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(listConcurrency)
		for i := 1; i < known; i++ {
			g.Go(func() (err error) {
				pages[i], err = client.Runners(ctx, scope, i+1)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
	}
	for i := range pages {
		if err := m.takePage(&pages[i], b, i < len(pages)-1 || pages[i].Next != 0); err != nil {
			return nil, err
		}
	}
	// What is left: all where the total is withheld, and what was added meanwhile.
	for next := pages[len(pages)-1].Next; next != 0; next = pages[len(pages)-1].Next {
		p, err := client.Runners(ctx, scope, next)
		if err != nil {
			return nil, err
		}
		if err := m.takePage(&p, b, p.Next != 0); err != nil {
			return nil, err
		}
		pages = append(pages, p)
	}
	return pages, nil
}

// takePage bounds a page and leaves the rows of this shard in it.
func (m *Monitor) takePage(p *gitlab.RunnersPage, b *bound, more bool) (err error) {
	p.Runners, err = take(m, p.Runners, func(r *gitlab.Runner) int64 { return r.ID }, rowSize, b, p.Skipped, more)
	return err
}

// take bounds the rows of a page, by whatever API, and returns those of this shard.
func take[T any](m *Monitor, rows []T, id func(*T) int64, size func(*T) int, b *bound, skipped int, more bool) ([]T, error) {
	ids := make([]int64, len(rows))
	for i := range rows {
		ids[i] = id(&rows[i])
	}
	own := slices.Clone(slices.DeleteFunc(rows, func(r T) bool { return !m.owns(id(&r)) })) // without room for more
	grown := 0
	for i := range own {
		grown += size(&own[i])
	}
	return own, b.page(ids, grown, skipped, more)
}

// owns tells whether a runner is of this process's shard. The id is hashed:
// ids of one kind often come in rows.
func (m *Monitor) owns(id int64) bool {
	if m.opts.ShardCount <= 1 {
		return true
	}
	return shardOf(id, m.opts.ShardCount) == m.opts.ShardIndex
}

func shardOf(id int64, count int) int {
	x := uint64(id) //nolint:gosec // a hash
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return int(x % uint64(count)) //nolint:gosec // below count
}

// begin sets the first start and commits it before any jobs request: a job
// counts when it ended after it.
func (m *Monitor) begin(shown []gitlab.FleetRunner) {
	m.mu.Lock()
	if m.led.Begun() {
		m.mu.Unlock()
		return
	}
	now := time.Now()
	for i := range shown {
		m.contacts(shown[i].ContactedAt, shown[i].Managers, now)
	}
	m.now()
	t0 := m.clock.start(time.Now())
	m.led.Begin(t0)
	m.inv.Begin(t0)
	m.mu.Unlock()
	// A disk that cannot be written keeps back the jobs, not the gauges:
	// dispatch waits until the first start is on disk.
	_ = m.save(time.Now()) // told in log and metric
}

// contacts takes the last contacts of a runner and its machines, which show
// what GitLab's clock had reached by now. Only the first start rests on them.
// The caller holds the mutex.
func (m *Monitor) contacts(runner time.Time, managers []gitlab.Manager, now time.Time) {
	m.clock.row(runner, now)
	for i := range managers {
		m.clock.row(managers[i].ContactedAt, now)
	}
}

// raise moves a first start that was taken from a wrong Date. The caller holds
// the mutex.
func (m *Monitor) raise(now time.Time) {
	if start := m.clock.start(now); m.led.Raise(start) {
		_ = level.Warn(m.log).Log("msg", "the Date header of GitLab's first answers was behind the times in its rows; jobs are counted from the newest of them", "start", start.UTC().Format(time.RFC3339))
	}
}

// listed folds a complete listing. The caller holds the mutex.
func (m *Monitor) listed(s *scope, l listing, began, now time.Time) {
	at := m.now().Add(-now.Sub(began))
	change := m.inv.List(inventory.Listing{Scope: s.key, Rows: l.rows, Whole: l.whole, Start: at, Began: began})
	members := make([]ledger.Member, 0, len(l.rows))
	for _, r := range l.rows {
		members = append(members, ledger.Member{ID: r.ID, Type: m.inv.Type(r.ID), Since: change.Since, Unseen: change.Unseen})
	}
	m.led.Listed(members, m.scopeKey(), at)
	m.inv.SetByGraphQL(s.key, l.graphql)
	if l.detailed {
		m.detailed(l.details, began, at, now)
	}
	for _, r := range l.details {
		if r.Executing >= 0 && r.Executing <= gitlab.MaxJobCount {
			m.inv.Executes(r.ID, r.Executing)
		}
	}
	for _, id := range change.Joined {
		m.led.Describe(id, m.inv.TagLabels(id))
		m.planDetails(id, now)
	}
	for _, id := range change.Refuted {
		// A new runner may not be on every replica yet.
		if m.fails[readingKey{snapshot.StageDetails, id}] <= refutedTries {
			m.doubt(id, now)
		}
	}
	for _, id := range slices.Concat(change.Left, change.Dropped) {
		m.leave(id, now)
	}
	for _, id := range change.Active {
		m.planJobs(id, now)
		m.hastenDetails(id, now)
	}
	for _, id := range m.inv.Retire(at) {
		m.led.Describe(id, m.inv.TagLabels(id))
	}
	m.recount()

	again := m.said.listed(s)
	if again || s.started.IsZero() {
		logUp(s, m.log, len(m.scopes) > 1, again, m.inv.Len())
	}
	if m.blocked {
		m.blocked = false
		m.said.well(snapshot.StageDetails)
		m.said.well(snapshot.StageJobs)
		m.said.well(snapshot.StageReconcile)
	}
	if m.opts.Scopes[0].Kind == snapshot.ScopeInstance && !l.graphql {
		m.visible = 1 // GET /runners/all was the proof
	}
	s.up, s.refused = true, false
	if m.firstListed.IsZero() {
		m.firstListed = now
	}
	s.started, s.took = began, now.Sub(began)
	m.wake()
}

// leave takes a runner out of the fleet. Its watched jobs are still asked for.
func (m *Monitor) leave(id int64, now time.Time) {
	m.forget(id)
	m.led.Leave(id, m.now())
	if m.led.Watched(id) > 0 {
		m.planJobs(id, now)
	}
}

// scopeKey names what is listed, so that the ledger sees when a reload or
// other shards change it.
func (m *Monitor) scopeKey() string {
	parts := make([]string, 0, len(m.opts.Scopes)+1)
	for _, s := range m.opts.Scopes {
		parts = append(parts, fmt.Sprintf("%s/%s", s.Kind, s.ID))
	}
	slices.Sort(parts)
	if m.opts.ShardCount > 1 {
		parts = append(parts, fmt.Sprintf("shard %d of %d", m.opts.ShardIndex, m.opts.ShardCount))
	}
	return strings.Join(parts, " ")
}

// Every so often the server's version and the token are read again.
const (
	informInterval  = time.Hour
	informRetryMost = 5 * time.Minute
	firstInform     = 5 * time.Second
	tokenFileCheck  = 15 * time.Second
)

// informLoop reads version and token again each hour, and when the token file
// changed. The first reading is listLoop's.
func (m *Monitor) informLoop(ctx context.Context) error {
	ticker := time.NewTicker(tokenFileCheck)
	defer ticker.Stop()
	last, stamp := time.Now(), m.tokenStamp(ctx)
	refused := false
	// Whether all jobs are visible is asked again sooner: after a first listing by
	// GraphQL, or where GitLab was down.
	retry := tokenFileCheck
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		m.mu.Lock()
		blocked, wait := m.blocked, informInterval
		unknown := m.visible < 0
		if unknown {
			wait = retry
		}
		m.mu.Unlock()
		changed := m.tokenStamp(ctx)
		if changed == stamp && time.Since(last) < wait && blocked == refused {
			continue
		}
		last, stamp, refused = time.Now(), changed, blocked
		if unknown {
			retry = min(2*retry, informRetryMost)
		}
		m.inform(ctx)
	}
}

func (m *Monitor) tokenStamp(ctx context.Context) string {
	if m.opts.TokenFile == "" {
		return ""
	}
	info, err := bounded.Stat(ctx, m.opts.TokenFile) // a mount that hangs must not hold up the stop
	if err != nil {
		return ""
	}
	return fmt.Sprint(info.ModTime().UnixNano(), info.Size())
}

// inform reads who answers and whose token it is. Neither is needed: older
// releases have no such endpoints, and the listing tells what is wrong.
func (m *Monitor) inform(ctx context.Context) {
	client := m.listClient()
	version, verr := client.Version(ctx)
	token, terr := client.Token(ctx)
	visible := m.seesAll(ctx, client)
	m.mu.Lock()
	defer m.mu.Unlock()
	if verr == nil && version != m.version {
		level.Info(m.log).Log("msg", "GitLab told its version", "version", version)
		m.version = version
		m.inv.SetVersion(version)
		m.led.Upgraded()
		m.noManagers = 0 // ask the newer release again
	}
	switch {
	case terr == nil:
		m.token = token
	case gitlab.ReasonOf(terr) == gitlab.ReasonUnauthorized:
		m.token = gitlab.Token{} // it has no expiry any more that could be told
	}
	if visible >= 0 {
		m.visible = visible
	}
	m.fresh = true
}

// seesAll reports whether the token may see the jobs of all runners (1, 0, or
// -1 where GitLab did not say): only an administrator's or auditor's does, and
// only such may list all runners by REST. GitLab silently leaves out of
// everybody else's job lists what they may not see (API notes 4.3). A GraphQL
// listing proves nothing: it ignores Admin Mode and admits custom admin roles,
// and jobs are read by REST (API notes 12).
func (m *Monitor) seesAll(ctx context.Context, client *gitlab.Client) int {
	if m.opts.Scopes[0].Kind == snapshot.ScopeInstance && !m.byGraphQL() {
		return -1 // the listing is, or will be, the proof
	}
	_, err := client.RunnersWhere(ctx, gitlab.Scope{Kind: snapshot.ScopeInstance}, gitlab.RunnerFilter{}, 1)
	switch gitlab.ReasonOf(err) {
	case "":
		return 1
	case gitlab.ReasonForbidden:
		return 0
	default:
		return -1
	}
}

func (m *Monitor) byGraphQL() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inv.ByGraphQL(m.scopes[0].key)
}
