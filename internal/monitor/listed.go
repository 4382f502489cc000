package monitor

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/ledger"
	"gitlab-runner-fleet-exporter/internal/plan"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// refutedTries is how often a runner that is listed, and not found, is asked
// for again with the listing; then like any that fails.
const refutedTries = 5

// listings lists each scope at its interval and folds what was listed. Every
// row passes take.
type listings struct {
	fleet     *fleet
	scopes    *scopes
	lister    *lister
	first     *first
	publisher *publisher
	saver     *saver
	budget    *budget.Budget
	metrics   Metrics
}

// run lists each scope on its own: one that hangs or is refused holds up no other.
func (l *listings) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range l.scopes.all {
		g.Go(func() error { return l.loop(ctx, s) })
	}
	return g.Wait()
}

// loop lists one scope. A listing that takes longer than the interval
// stretches it; it never overlaps the next.
func (l *listings) loop(ctx context.Context, s *scope) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		began := time.Now()
		l.once(ctx, s, began)
		interval := l.fleet.opts.Intervals.Runners
		for wait := interval + plan.Spread(interval)/4; wait > 0; {
			timer.Reset(max(time.Until(began.Add(wait)), 0))
			select {
			case <-timer.C:
			case <-ctx.Done():
				return ctx.Err()
			}
			// Asked again each interval: the first picture may be whole meanwhile.
			waited := time.Since(began)
			wait = min(l.every(s), waited+interval)
			if wait < waited+interval/10 {
				break
			}
		}
	}
}

// firstShare is the part of the budget that further listings take until the
// first picture is whole: what is missing there is what nobody knows yet.
const firstShare = 0.05

// every is how often a scope is listed: at the configured interval, or more
// seldom while the first picture waits for details, well within staleness.
func (l *listings) every(s *scope) time.Duration {
	f := l.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	iv := f.opts.Intervals
	s.every = iv.Runners
	if rate := l.budget.State().Rate; s.up && l.first.awaited(snapshot.PartDetails) != nil && !math.IsInf(rate, 1) {
		pages := 0
		for _, one := range l.scopes.all {
			pages += one.pages
		}
		stretched := time.Duration(float64(pages) / (firstShare * rate) * float64(time.Second))
		s.every = max(iv.Runners, min(stretched, iv.Staleness/3))
	}
	return s.every
}

func (l *listings) once(ctx context.Context, s *scope, began time.Time) {
	list, err := l.lister.list(ctx, s)
	now := time.Now()
	if ctx.Err() != nil {
		return
	}
	f := l.fleet
	l.metrics.PollDuration(f.opts.Name, snapshot.StageRunners.String(), now.Sub(began))
	if err == nil {
		l.begin(list.details)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tried, f.fresh, s.tried = true, true, true
	if err != nil {
		l.failed(s, err)
	} else {
		l.take(s, list, began, now)
	}
	l.scopes.judge()
	if l.scopes.up {
		f.failures.lastGood[snapshot.StageRunners] = now
	}
	f.led.Works(l.scopes.up)
	f.judge(now)
	l.publisher.settle(now)
}

// failed takes the failure of a scope's listing. The caller holds the mutex, as
// for all below but begin.
func (l *listings) failed(s *scope, err error) {
	f, reason := l.fleet, gitlab.ReasonOf(err)
	s.up, s.refused = false, refuses(reason)
	if s.refused {
		f.inv.Refused(s.key, f.clocks.now())
	} else {
		f.health.fleet.ListingFailed(f.clocks.now()) // a refusal is no trouble that runners could have too
	}
	l.metrics.PollFailure(f.opts.Name, snapshot.StageRunners.String(), string(reason))
	f.failures.messages.unlisted(s, l.scopes.several(), f.blocked, !f.inv.ListedAt().IsZero(), reason, err)
	f.blocked = f.blocked || reason == gitlab.ReasonUnauthorized
}

// begin sets the first start and commits it before any jobs request: a job
// counts when it ended after it.
func (l *listings) begin(shown []gitlab.FleetRunner) {
	f := l.fleet
	f.mu.Lock()
	if f.led.Begun() {
		f.mu.Unlock()
		return
	}
	now := time.Now()
	for i := range shown {
		f.clocks.gitlab.contacts(shown[i].ContactedAt, shown[i].Managers, now)
	}
	f.clocks.now()
	t0 := f.clocks.gitlab.start(time.Now())
	f.led.Begin(t0)
	f.inv.Begin(t0)
	f.mu.Unlock()
	// A disk that cannot be written keeps back the jobs, not the gauges: nothing
	// is dispatched until the first start is on disk.
	_ = l.saver.save(time.Now()) // it is in log and metric
}

// take folds a complete listing.
func (l *listings) take(s *scope, list listing, began, now time.Time) {
	f := l.fleet
	at := f.clocks.now().Add(-now.Sub(began))
	change := f.inv.List(inventory.Listing{Scope: s.key, Rows: list.rows, Whole: list.whole, Start: at, Began: began})
	members := make([]ledger.Member, 0, len(list.rows))
	for _, r := range list.rows {
		members = append(members, ledger.Member{ID: r.ID, Type: f.inv.Type(r.ID), Since: change.Since, Unseen: change.Unseen})
	}
	f.led.Listed(members, f.opts.scopeKey(), at)
	f.inv.SetByGraphQL(s.key, list.graphql)
	f.takeOthers(s.key, list.others)
	f.health.fleet.SetDense(list.detailed)
	f.health.fleet.ListingDone(at)
	for i := range list.rows {
		f.health.listed(f, list.rows[i].ID, at)
	}
	if list.detailed {
		l.takeDetails(list.details, began, at, now)
	}
	for _, r := range list.details {
		if r.Executing >= 0 && r.Executing <= gitlab.MaxJobCount {
			f.inv.SetListedJobs(r.ID, r.Executing)
		}
	}
	l.takeChange(change, now)
	for _, id := range f.inv.Retire(at) {
		f.led.Describe(id, f.inv.TagLabels(id))
	}
	l.first.recount()
	l.works(s, list.graphql)
	if l.scopes.firstListed.IsZero() {
		l.scopes.firstListed = now
	}
	s.started, s.took, s.pages = began, now.Sub(began), list.pages
	f.wake()
}

// takeChange plans the readings of whom a listing shows anew, or no more.
func (l *listings) takeChange(change inventory.Change, now time.Time) {
	f := l.fleet
	for _, id := range change.Joined {
		f.led.Describe(id, f.inv.TagLabels(id))
		f.planDetails(id, now)
	}
	for _, id := range change.Refuted {
		// A new runner may not be on every replica yet.
		if f.plan.Fails(snapshot.StageDetails, id) <= refutedTries {
			f.doubt(id, now)
		}
	}
	for _, id := range slices.Concat(change.Left, change.Dropped) {
		f.leave(id, now)
	}
	for _, id := range change.Active {
		f.planPoll(id, now)
		f.hasten(id, now)
	}
}

// takeDetails takes the details that came with a listing.
func (l *listings) takeDetails(runners []gitlab.FleetRunner, began, at, now time.Time) {
	f, noMachines := l.fleet, l.lister.dialect.NoMachines()
	if noMachines {
		f.machines.lacking()
	} else {
		f.machines.answer()
	}
	f.inv.SetMachines(f.machines.offered())
	for _, r := range runners {
		if r.ManagersCut || !f.inv.Has(r.ID) {
			continue // more machines than a page shows: REST has them all
		}
		managers := r.Managers
		if managers == nil && !noMachines {
			managers = []gitlab.Manager{}
		}
		f.detailsRead(r.ID, r.RunnerDetails, managers, began, at, now)
		f.planDetails(r.ID, now)
		f.plan.Succeeded(snapshot.StageDetails, r.ID)
		f.failures.read(snapshot.StageDetails, r.ID)
	}
	f.failures.lastGood[snapshot.StageDetails] = now
}

// works notes that a scope was listed.
func (l *listings) works(s *scope, graphql bool) {
	f, messages := l.fleet, l.fleet.failures.messages
	again := messages.listed(s)
	if again || s.started.IsZero() {
		messages.up(s, l.scopes.several(), again, f.inv.Len())
	}
	if again {
		f.recovered(time.Now())
	}
	if f.blocked {
		f.blocked = false
		messages.well(snapshot.StageDetails)
		messages.well(snapshot.StageJobs)
		messages.well(snapshot.StageReconcile)
	}
	if f.opts.Scopes[0].Kind == snapshot.ScopeInstance && !graphql {
		f.visible = 1 // GET /runners/all was the proof
	}
	s.up, s.refused = true, false
}

// scopeKey names what is listed, so that the ledger sees when a reload or
// other shards change it.
func (o *Options) scopeKey() string {
	parts := make([]string, 0, len(o.Scopes)+1)
	for _, s := range o.Scopes {
		parts = append(parts, fmt.Sprintf("%s/%s", s.Kind, s.ID))
	}
	slices.Sort(parts)
	if o.ShardCount > 1 {
		parts = append(parts, fmt.Sprintf("shard %d of %d", o.ShardIndex, o.ShardCount))
	}
	return strings.Join(parts, " ")
}
