package monitor

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log/level"
	"golang.org/x/sync/errgroup"

	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/ledger"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// maxPages ends a listing that a confused server would never end: 10 million runners.
const maxPages = 100_000

const (
	// listConcurrency is how many pages of the list are read at once.
	listConcurrency = 4
	// listPage is how many rows a page has.
	listPage = 100
	// mostTold is the largest total that GitLab tells (API notes 2): a larger
	// one is not GitLab's, and must not make us ask for so many pages.
	mostTold = 10_000
)

// listLoop lists the runners at runners_interval. A listing that takes longer
// stretches the interval; it never overlaps the next.
func (m *Monitor) listLoop(ctx context.Context) error {
	// Who we are comes first: its answers set the clock that the first start
	// is taken from. A GitLab that is down must not hold up the listing, which
	// tells what is wrong.
	first, cancel := context.WithTimeout(ctx, firstInform)
	m.inform(first)
	cancel()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		began := time.Now()
		m.listOnce(ctx, began)
		interval := m.opts.Poll.RunnersInterval
		timer.Reset(max(time.Until(began.Add(interval+spread(interval)/4)), 0))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Monitor) listOnce(ctx context.Context, began time.Time) {
	l, err := m.list(ctx)
	now := time.Now()
	if ctx.Err() != nil {
		return
	}
	m.deps.Metrics.PollDuration(m.opts.Name, snapshot.StageRunners.String(), now.Sub(began))
	if err == nil {
		m.begin()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.up = false
		m.tried = true
		m.fresh = true
		reason := gitlab.ReasonOf(err)
		m.deps.Metrics.PollFailure(m.opts.Name, snapshot.StageRunners.String(), string(reason))
		m.said.failed(snapshot.StageRunners, reason, err)
		m.blocked = m.blocked || reason == gitlab.ReasonUnauthorized
		return
	}
	m.listed(l, began, now)
}

// listing is a complete reading of who is in the fleet.
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

// listREST reads all pages of all scopes, or nothing.
func (m *Monitor) listREST(ctx context.Context) (listing, error) {
	l := listing{whole: true}
	for _, scope := range m.opts.Scopes {
		if err := m.listScope(ctx, scope, &l); err != nil {
			return listing{}, err
		}
	}
	return l, nil
}

// listScope adds the runners of one scope.
func (m *Monitor) listScope(ctx context.Context, scope gitlab.Scope, l *listing) error {
	pages, err := m.listPages(ctx, scope)
	if err != nil {
		return err
	}
	for _, p := range pages {
		l.whole = l.whole && p.Skipped == 0
		for _, r := range p.Runners {
			if m.owns(r.ID) {
				l.rows = append(l.rows, r)
			}
		}
	}
	return nil
}

// listPages reads the pages of one scope. Where the first tells how many there
// are, a few are read at once: the shorter a listing takes, the fewer rows
// shift while it is read, and the sooner a first picture is whole.
func (m *Monitor) listPages(ctx context.Context, scope gitlab.Scope) ([]gitlab.RunnersPage, error) {
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
	// What is left: all where the total is withheld, and what was added meanwhile.
	for next := pages[len(pages)-1].Next; next != 0; next = pages[len(pages)-1].Next {
		if next > maxPages {
			return nil, fmt.Errorf("the list of runners does not end after %d pages", maxPages)
		}
		p, err := client.Runners(ctx, scope, next)
		if err != nil {
			return nil, err
		}
		if before := pages[len(pages)-1].Runners; len(p.Runners) > 0 && len(before) > 0 && p.Runners[0].ID == before[0].ID {
			// A proxy that gives the same page for each number would fill the memory.
			return nil, &gitlab.Error{Reason: gitlab.ReasonDecode, Message: fmt.Sprintf("page %d of the list of runners repeats the one before", next)}
		}
		pages = append(pages, p)
	}
	return pages, nil
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
func (m *Monitor) begin() {
	m.mu.Lock()
	if m.led.Begun() {
		m.mu.Unlock()
		return
	}
	m.now()
	m.led.Begin(m.clock.start(time.Now()))
	m.mu.Unlock()
	// A disk that cannot be written keeps back the jobs, not the gauges:
	// dispatch waits until the first start is on disk.
	_ = m.save(time.Now()) // told in log and metric
}

// listed folds a complete listing. The caller holds the mutex.
func (m *Monitor) listed(l listing, began, now time.Time) {
	at := m.now().Add(-now.Sub(began))
	change := m.inv.Listed(l.rows, l.whole, at)
	members := make([]ledger.Member, 0, len(m.inv.IDs()))
	for _, r := range l.rows {
		members = append(members, ledger.Member{ID: r.ID, Type: m.inv.Type(r.ID)})
	}
	m.led.Listed(members, m.scopeKey(), at)
	m.inv.SetByGraphQL(l.graphql)
	if l.detailed {
		m.detailed(l.details, at, now)
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
	for _, id := range change.Left {
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

	again := m.said.well(snapshot.StageRunners)
	if again || m.listStarted.IsZero() {
		logUp(m.log, again, m.inv.Len())
	}
	if m.blocked {
		m.blocked = false
		m.said.well(snapshot.StageDetails)
		m.said.well(snapshot.StageJobs)
		m.said.well(snapshot.StageReconcile)
	}
	if m.opts.Scopes[0].Kind == gitlab.ScopeInstance {
		m.visible = 1
	}
	m.up, m.tried, m.fresh = true, true, true
	m.listStarted, m.listDuration = began, now.Sub(began)
	m.lastGood[snapshot.StageRunners] = now
	m.settle(now)
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
		parts = append(parts, fmt.Sprintf("%d/%s", s.Kind, s.ID))
	}
	slices.Sort(parts)
	if m.opts.ShardCount > 1 {
		parts = append(parts, fmt.Sprintf("shard %d of %d", m.opts.ShardIndex, m.opts.ShardCount))
	}
	return strings.Join(parts, " ")
}

// Every so often the server's version and the token are read again.
const (
	informInterval = time.Hour
	firstInform    = 5 * time.Second
	tokenFileCheck = 15 * time.Second
)

// informLoop reads version and token again each hour, and when the token file
// changed. The first reading is listLoop's.
func (m *Monitor) informLoop(ctx context.Context) error {
	ticker := time.NewTicker(tokenFileCheck)
	defer ticker.Stop()
	last, stamp := time.Now(), m.tokenStamp()
	refused := false
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		m.mu.Lock()
		blocked := m.blocked
		m.mu.Unlock()
		changed := m.tokenStamp()
		if changed == stamp && time.Since(last) < informInterval && blocked == refused {
			continue
		}
		last, stamp, refused = time.Now(), changed, blocked
		m.inform(ctx)
	}
}

func (m *Monitor) tokenStamp() string {
	if m.opts.TokenFile == "" {
		return ""
	}
	info, err := os.Stat(m.opts.TokenFile)
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
		m.keyset, m.noManagers = true, 0 // ask the newer release again
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

// seesAll tells whether the token may see the jobs of all runners (1, 0, or -1
// where GitLab did not say): only an administrator's or auditor's does, and
// only such may list all runners. GitLab silently leaves out of everybody
// else's job lists what they may not see (API notes 4.3). With scope instance
// the listing itself is the proof.
func (m *Monitor) seesAll(ctx context.Context, client *gitlab.Client) int {
	if m.opts.Scopes[0].Kind == gitlab.ScopeInstance {
		return -1
	}
	_, err := client.Runners(ctx, gitlab.Scope{Kind: gitlab.ScopeInstance}, 1)
	switch gitlab.ReasonOf(err) {
	case "":
		return 1
	case gitlab.ReasonForbidden:
		return 0
	default:
		return -1
	}
}
