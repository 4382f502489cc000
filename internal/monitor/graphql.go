package monitor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/go-kit/log/level"
	"golang.org/x/sync/errgroup"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// API says how runners are read.
type API uint8

// The ways. APIAuto takes GraphQL where GitLab offers it: one page of it
// replaces a page of the list and 200 readings of details and machines.
const (
	APIAuto API = iota
	APIREST
	APIGraphQL
)

// graphqlRetry is how long a refused GraphQL is left alone.
const graphqlRetry = time.Hour

// graphql is what is known of a GitLab's GraphQL. Only listLoop uses it.
type graphql struct {
	dialect gitlab.GraphQLDialect
	version string            // of GitLab, as the dialect was learned
	refused time.Time         // when it was last refused; zero: it was not
	paths   map[string]string // of groups, by what was configured
	byType  bool              // pages are slow: the three types are read side by side
}

// list reads all pages of all scopes, or nothing: a part would remove runners.
func (m *Monitor) list(ctx context.Context) (listing, error) {
	if !m.wantsGraphQL() {
		return m.listREST(ctx)
	}
	l, err := m.listGraphQL(ctx)
	if err == nil {
		if !m.gql.refused.IsZero() {
			level.Info(m.log).Log("msg", "runners are read by GraphQL again")
		}
		m.gql.refused = time.Time{}
		return l, nil
	}
	if ctx.Err() != nil || !mayHelp(err) || m.opts.API == APIGraphQL || m.onlyGraphQL() {
		return listing{}, err
	}
	l, rerr := m.listREST(ctx)
	if rerr != nil {
		return listing{}, rerr // GitLab is down altogether: that says nothing of GraphQL
	}
	if m.gql.refused.IsZero() {
		level.Warn(m.log).Log("msg", gitlab.GraphQLFailure(err)+"; REST is used, which takes two requests for each runner's details, and GraphQL is tried again every hour", "err", err)
	}
	m.gql.refused = time.Now()
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

func (m *Monitor) wantsGraphQL() bool {
	switch {
	case m.opts.API == APIREST || !m.graphqlReaches():
		return false
	case m.opts.API == APIGraphQL || m.onlyGraphQL():
		return true
	default:
		return m.gql.refused.IsZero() || time.Since(m.gql.refused) > graphqlRetry || m.gql.version != m.gitlabVersion()
	}
}

// graphqlReaches tells whether GraphQL has the list that is configured.
func (m *Monitor) graphqlReaches() bool {
	for _, s := range m.opts.Scopes {
		if s.Kind != gitlab.ScopeInstance && s.Kind != gitlab.ScopeGroup {
			return false
		}
	}
	return true
}

// onlyGraphQL: a group's runners below it are not to be had by REST. Once they
// were shown, REST would make them leave; so the listing fails instead.
func (m *Monitor) onlyGraphQL() bool {
	if m.opts.Scopes[0].Kind != gitlab.ScopeGroup {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inv.ByGraphQL()
}

func (m *Monitor) gitlabVersion() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.version
}

func (m *Monitor) listGraphQL(ctx context.Context) (listing, error) {
	if v := m.gitlabVersion(); v != m.gql.version {
		m.gql.dialect.Reset()
		m.gql.version = v
	}
	began := time.Now()
	all := listing{whole: true, graphql: true, detailed: true}
	for _, scope := range m.opts.Scopes {
		scope, err := m.graphqlScope(ctx, scope)
		if err != nil {
			return listing{}, err
		}
		l, err := m.graphqlOne(ctx, scope)
		if err != nil {
			return listing{}, err
		}
		all.rows = append(all.rows, l.rows...)
		all.details = append(all.details, l.details...)
		all.whole, all.detailed = all.whole && l.whole, all.detailed && l.detailed
	}
	m.gql.byType = time.Since(began) > m.opts.Poll.RunnersInterval/2
	return all, nil
}

// graphqlScope turns a group's id into its path, which is all GraphQL knows.
func (m *Monitor) graphqlScope(ctx context.Context, s gitlab.Scope) (gitlab.Scope, error) {
	if s.Kind != gitlab.ScopeGroup || strings.ContainsFunc(s.ID, func(r rune) bool { return r < '0' || r > '9' }) {
		return s, nil
	}
	path, ok := m.gql.paths[s.ID]
	if !ok {
		var err error
		if path, err = m.listClient().Group(ctx, s.ID); err != nil {
			return s, err
		}
		if m.gql.paths == nil {
			m.gql.paths = map[string]string{}
		}
		m.gql.paths[s.ID] = path
	}
	return gitlab.Scope{Kind: gitlab.ScopeGroup, ID: path}, nil
}

// graphqlOne reads one scope, its types side by side where pages are slow.
func (m *Monitor) graphqlOne(ctx context.Context, scope gitlab.Scope) (listing, error) {
	types := []string{""}
	if m.gql.byType && scope.Kind == gitlab.ScopeInstance {
		types = []string{"instance_type", "group_type", "project_type"}
	}
	parts := make([]listing, len(types))
	g, gctx := errgroup.WithContext(ctx)
	for i, t := range types {
		g.Go(func() (err error) {
			parts[i], err = m.graphqlPages(gctx, scope, t)
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

func (m *Monitor) graphqlPages(ctx context.Context, scope gitlab.Scope, kind string) (listing, error) {
	client := m.listClient()
	l := listing{whole: true, graphql: true, detailed: true}
	partial := false
	q := gitlab.GraphQLQuery{Scope: scope, Type: kind, Dialect: &m.gql.dialect}
	for n := 0; ; n++ {
		if n >= maxPages {
			return listing{}, fmt.Errorf("the list of runners does not end after %d pages", maxPages)
		}
		p, err := client.RunnersGraphQL(ctx, q)
		if err != nil {
			return listing{}, err
		}
		l.whole = l.whole && p.Skipped == 0
		partial = partial || p.Partial
		// Machines are a part of the details: without them REST reads both, where
		// it has them.
		l.detailed = l.detailed && p.Fields&gitlab.FieldsDetails == gitlab.FieldsDetails && (p.Fields&gitlab.FieldManagers != 0 || m.gql.dialect.NoMachines())
		for _, r := range p.Runners {
			if m.owns(r.ID) {
				l.rows = append(l.rows, r.Runner)
				l.details = append(l.details, r)
			}
		}
		if p.Next == "" {
			break
		}
		q.After = p.Next
	}
	if partial {
		// The ancestors' and the instance's runners, which this release does
		// not give with the group's.
		if err := m.listScope(ctx, scope, &l); err != nil {
			return listing{}, err
		}
	}
	return l, nil
}

// detailed takes the details that came with a listing. The caller holds the
// mutex.
func (m *Monitor) detailed(runners []gitlab.FleetRunner, began, at, now time.Time) {
	noMachines := m.gql.dialect.NoMachines()
	if !noMachines {
		m.noManagers = managersTold
	}
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
