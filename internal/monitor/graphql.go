package monitor

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log/level"
	"golang.org/x/sync/errgroup"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// How long GraphQL is left alone: where GitLab refuses it, and where it failed
// alone, which an outage of minutes explains.
const (
	graphqlRetry       = time.Hour
	graphqlRetryOutage = 5 * time.Minute
)

// pathRefresh is how long the path of a group that is configured by its id is
// remembered.
const pathRefresh = time.Hour

// graphql is what is known of GraphQL for one scope.
type graphql struct {
	version string        // of GitLab, when it was last tried
	refused time.Time     // when it was last refused or failed; zero: it was not
	again   time.Duration // after how long it is tried again
	byType  bool          // pages are slow: the three types are read side by side

	path   string // of a group that is configured by its id
	pathAt time.Time
}

// list reads all pages of a scope, or nothing: a part would remove runners.
func (m *Monitor) list(ctx context.Context, s *scope) (listing, error) {
	if !m.wantsGraphQL(s) {
		return m.within(ctx, s, m.listREST)
	}
	l, err := m.within(ctx, s, m.listGraphQL)
	if err == nil {
		if !s.gql.refused.IsZero() {
			level.Info(m.log).Log(append([]any{"msg", "runners are read by GraphQL again"}, s.named()...)...)
		}
		s.gql.refused = time.Time{}
		return l, nil
	}
	if ctx.Err() != nil || !mayHelp(err) || m.opts.API == snapshot.APIGraphQL || m.onlyGraphQL(s) {
		return listing{}, err
	}
	l, rerr := m.within(ctx, s, m.listREST)
	if rerr != nil {
		return listing{}, rerr // GitLab is down altogether, or refuses the scope: that says nothing of GraphQL
	}
	again := graphqlRetryOutage
	if gitlab.GraphQLRefused(err) {
		again = graphqlRetry
	}
	if s.gql.refused.IsZero() || s.gql.again != again {
		level.Warn(m.log).Log(append([]any{"msg", gitlab.GraphQLFailure(err) + "; REST is used, which takes two requests for each runner's details", "retry_after", again, "err", err}, s.named()...)...)
	}
	s.gql.refused, s.gql.again = time.Now(), again
	return l, nil
}

// mayHelp tells the failures that REST may not meet: GraphQL refused, or it
// alone out of order.
func mayHelp(err error) bool {
	switch gitlab.ReasonOf(err) {
	case gitlab.ReasonServerError, gitlab.ReasonTimeout, gitlab.ReasonNotGitLab:
		return true
	default:
		return gitlab.GraphQLRefused(err)
	}
}

func (m *Monitor) wantsGraphQL(s *scope) bool {
	switch {
	case m.opts.API == snapshot.APIREST || !graphqlReaches(s):
		return false
	case m.opts.API == snapshot.APIGraphQL || m.onlyGraphQL(s):
		return true
	default:
		return s.gql.refused.IsZero() || time.Since(s.gql.refused) > s.gql.again || s.gql.version != m.gitlabVersion()
	}
}

// graphqlReaches tells whether GraphQL has the list that is configured.
func graphqlReaches(s *scope) bool {
	return s.Kind == snapshot.ScopeInstance || s.Kind == snapshot.ScopeGroups
}

// onlyGraphQL: a group's runners below it are not to be had by REST. Once they
// were shown, REST would make them leave; so the listing fails instead.
func (m *Monitor) onlyGraphQL(s *scope) bool {
	if s.Kind != snapshot.ScopeGroups {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inv.ByGraphQL(s.key)
}

func (m *Monitor) gitlabVersion() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.version
}

func (m *Monitor) listGraphQL(ctx context.Context, s *scope) (listing, error) {
	s.gql.version = m.gitlabVersion()
	began := time.Now()
	target, remembered, err := m.graphqlScope(ctx, s, began)
	if err != nil {
		return listing{}, err
	}
	l, err := m.graphqlOne(ctx, target, s.gql.byType)
	if remembered && gitlab.ReasonOf(err) == gitlab.ReasonNotFound {
		s.gql.path = "" // its group may have been renamed or moved: its id finds it again
		if target, _, err = m.graphqlScope(ctx, s, began); err == nil {
			l, err = m.graphqlOne(ctx, target, s.gql.byType)
		}
	}
	if err != nil {
		return listing{}, err
	}
	s.gql.byType = time.Since(began) > m.opts.Poll.RunnersInterval/2
	return l, nil
}

// graphqlScope turns a group's id into its path, which is all GraphQL knows. It
// tells whether the path is one that was remembered.
func (m *Monitor) graphqlScope(ctx context.Context, s *scope, now time.Time) (target gitlab.Scope, remembered bool, err error) {
	if s.Kind != snapshot.ScopeGroups || strings.ContainsFunc(s.ID, func(r rune) bool { return r < '0' || r > '9' }) {
		return s.Scope, false, nil
	}
	remembered = s.gql.path != "" && now.Sub(s.gql.pathAt) < pathRefresh
	if !remembered {
		path, err := m.listClient().Group(ctx, s.ID)
		if err != nil {
			return s.Scope, false, err
		}
		s.gql.path, s.gql.pathAt = path, now
	}
	return gitlab.Scope{Kind: snapshot.ScopeGroups, ID: s.gql.path}, remembered, nil
}

// graphqlOne reads one scope, its types side by side where pages are slow.
func (m *Monitor) graphqlOne(ctx context.Context, scope gitlab.Scope, byType bool) (listing, error) {
	types := []string{""}
	if byType && scope.Kind == snapshot.ScopeInstance {
		types = []string{"instance_type", "group_type", "project_type"}
	}
	parts := make([]listing, len(types))
	g, gctx := errgroup.WithContext(ctx)
	for i, t := range types {
		g.Go(func() (err error) {
			parts[i], err = m.graphqlPages(gctx, scope, t, len(types))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return listing{}, err
	}
	all := parts[0]
	for _, p := range parts[1:] {
		all.rows = append(all.rows, p.rows...)
		all.details = append(all.details, p.details...)
		all.whole, all.detailed = all.whole && p.whole, all.detailed && p.detailed
	}
	return all, nil
}

func (m *Monitor) graphqlPages(ctx context.Context, scope gitlab.Scope, kind string, parts int) (listing, error) {
	client := m.listClient()
	l := listing{whole: true, graphql: true, detailed: true}
	partial := false
	b := m.newBound(gitlab.RouteGraphQL, parts)
	defer b.end()
	var pages [][]gitlab.FleetRunner
	q := gitlab.GraphQLQuery{Scope: scope, Type: kind, Dialect: m.graphqlDialect()}
	for more := true; more; {
		p, err := client.RunnersGraphQL(ctx, q)
		if err != nil {
			return listing{}, err
		}
		partial = partial || p.Partial
		// Machines are a part of the details: without them REST reads both, where
		// it has them.
		l.detailed = l.detailed && p.Fields&gitlab.FieldsDetails == gitlab.FieldsDetails && (p.Fields&gitlab.FieldManagers != 0 || q.Dialect.NoMachines())
		q.After, more = p.Next, p.Next != ""
		l.whole = l.whole && p.Skipped == 0
		if err := m.takeGraphQL(&p, b, more); err != nil {
			return listing{}, err
		}
		pages = append(pages, p.Runners)
	}
	l.details = slices.Concat(pages...)
	for i := range l.details {
		l.rows = append(l.rows, l.details[i].Runner)
	}
	if partial {
		// The ancestors' and the instance's runners, which this release does
		// not give with the group's.
		rest := m.newBound(scope.Route(), parts) // it may show the same runners
		defer rest.end()
		if err := m.addREST(ctx, scope, &l, rest); err != nil {
			return listing{}, err
		}
	}
	return l, nil
}

// takeGraphQL bounds a page and leaves the rows of this shard in it.
func (m *Monitor) takeGraphQL(p *gitlab.GraphQLPage, b *bound, more bool) (err error) {
	p.Runners, err = take(m, p.Runners, func(r *gitlab.FleetRunner) int64 { return r.ID }, detailsSize, b, p.Skipped, more)
	return err
}

// graphqlDialect is what was learned of this GitLab's GraphQL, by all scopes.
// It is learned anew after an upgrade.
func (m *Monitor) graphqlDialect() *gitlab.GraphQLDialect {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dialectOf != m.version {
		m.dialect.Reset()
		m.dialectOf = m.version
	}
	return &m.dialect
}

// detailed takes the details that came with a listing. The caller holds the
// mutex.
func (m *Monitor) detailed(runners []gitlab.FleetRunner, began, at, now time.Time) {
	noMachines := m.dialect.NoMachines()
	switch {
	case !noMachines:
		m.noManagers = managersTold
	case m.noManagers >= 0: // REST has shown none either
		m.noManagers = noManagersAfter
	}
	m.inv.SetMachines(m.noManagers < noManagersAfter)
	for _, r := range runners {
		if r.ManagersCut || !m.inv.Has(r.ID) {
			continue // more machines than a page tells: REST has them all
		}
		known := m.inv.TagsKnown(r.ID)
		managers := r.Managers
		if managers == nil && !noMachines {
			managers = []gitlab.Manager{}
		}
		m.inv.Details(r.ID, r.RunnerDetails, managers, at)
		m.led.Describe(r.ID, m.inv.TagLabels(r.ID))
		m.good[readingKey{snapshot.StageDetails, r.ID}] = began
		m.planDetails(r.ID, now)
		delete(m.fails, readingKey{snapshot.StageDetails, r.ID})
		delete(m.unread[snapshot.StageDetails], r.ID)
		if !known {
			m.planJobs(r.ID, now)
			m.planWalk(r.ID, now)
		} else {
			m.touched(r.ID, now)
		}
	}
	m.lastGood[snapshot.StageDetails] = now
}
