package monitor

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

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

// graphqlState is what is known of GraphQL for one scope.
type graphqlState struct {
	version string        // of GitLab, when it was last tried
	refused time.Time     // when it was last refused or failed; zero: it was not
	again   time.Duration // after how long it is tried again
	byType  bool          // pages are slow: the three types are read side by side

	path   string // of a group that is configured by its id
	pathAt time.Time
}

func (l *lister) listGraphQL(ctx context.Context, s *scope) (listing, error) {
	s.graphql.version = l.version()
	began := time.Now()
	target, remembered, err := l.graphqlScope(ctx, s, began)
	if err != nil {
		return listing{}, err
	}
	list, err := l.graphqlOne(ctx, target, s.graphql.byType)
	if remembered && gitlab.ReasonOf(err) == gitlab.ReasonNotFound {
		s.graphql.path = "" // its group may have been renamed or moved: its id finds it again
		if target, _, err = l.graphqlScope(ctx, s, began); err == nil {
			list, err = l.graphqlOne(ctx, target, s.graphql.byType)
		}
	}
	if err != nil {
		return listing{}, err
	}
	s.graphql.byType = time.Since(began) > l.opts.Intervals.Runners/2
	return list, nil
}

// graphqlScope turns a group's id into its path, which is all that GraphQL accepts. It
// reports whether the path is one that was remembered.
func (l *lister) graphqlScope(ctx context.Context, s *scope, now time.Time) (target gitlab.Scope, remembered bool, err error) {
	if s.Kind != snapshot.ScopeGroups || strings.ContainsFunc(s.ID, func(r rune) bool { return r < '0' || r > '9' }) {
		return s.Scope, false, nil
	}
	remembered = s.graphql.path != "" && now.Sub(s.graphql.pathAt) < pathRefresh
	if !remembered {
		path, err := l.client().Group(ctx, s.ID)
		if err != nil {
			return s.Scope, false, err
		}
		s.graphql.path, s.graphql.pathAt = path, now
	}
	return gitlab.Scope{Kind: snapshot.ScopeGroups, ID: s.graphql.path}, remembered, nil
}

// graphqlOne reads one scope, its types side by side where pages are slow.
func (l *lister) graphqlOne(ctx context.Context, scope gitlab.Scope, byType bool) (listing, error) {
	types := []string{""}
	if byType && scope.Kind == snapshot.ScopeInstance {
		types = []string{"instance_type", "group_type", "project_type"}
	}
	parts := make([]listing, len(types))
	g, gctx := errgroup.WithContext(ctx)
	for i, t := range types {
		g.Go(func() (err error) {
			parts[i], err = l.graphqlPages(gctx, scope, t, len(types))
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
		maps.Copy(all.others, p.others)
		all.whole, all.detailed = all.whole && p.whole, all.detailed && p.detailed
	}
	return all, nil
}

func (l *lister) graphqlPages(ctx context.Context, scope gitlab.Scope, kind string, parts int) (listing, error) {
	client := l.client()
	list := listing{whole: true, graphql: true, detailed: true, others: others{}}
	partial := false
	b := l.newBound(gitlab.RouteGraphQL, parts)
	defer b.end()
	var pages [][]gitlab.FleetRunner
	q := gitlab.GraphQLQuery{Scope: scope, Type: kind, Dialect: l.learned()}
	for more := true; more; {
		p, err := client.RunnersGraphQL(ctx, q)
		if err != nil {
			return listing{}, err
		}
		partial = partial || p.Partial
		// Machines are a part of the details: without them REST reads both, where
		// it has them.
		list.detailed = list.detailed && p.Fields&gitlab.FieldsDetails == gitlab.FieldsDetails && (p.Fields&gitlab.FieldManagers != 0 || q.Dialect.NoMachines())
		q.After, more = p.Next, p.Next != ""
		list.whole = list.whole && p.Skipped == 0
		if err := l.takeGraphQL(&p, list.others, b, more); err != nil {
			return listing{}, err
		}
		pages = append(pages, p.Runners)
	}
	list.details = slices.Concat(pages...)
	for i := range list.details {
		list.rows = append(list.rows, list.details[i].Runner)
	}
	if partial {
		// The ancestors' and the instance's runners, which this release does
		// not give with the group's.
		rest := l.newBound(scope.Route(), parts) // it may show the same runners
		defer rest.end()
		if err := l.addREST(ctx, scope, &list, rest); err != nil {
			return listing{}, err
		}
	}
	return list, nil
}

// takeGraphQL bounds a page and leaves the rows of this shard in it.
func (l *lister) takeGraphQL(p *gitlab.GraphQLPage, o others, b *bound, more bool) (err error) {
	kept := o.note(l.opts, p.Runners, p.Fields&gitlab.FieldsDetails == gitlab.FieldsDetails)
	p.Runners, err = take(l.opts, p.Runners, func(r *gitlab.FleetRunner) int64 { return r.ID }, detailsSize, kept, b, p.Skipped, more)
	return err
}

// learned is what was learned of this GitLab's GraphQL, by all scopes.
// It is learned anew after an upgrade.
func (l *lister) learned() *gitlab.GraphQLDialect {
	l.fleet.mu.Lock()
	defer l.fleet.mu.Unlock()
	if l.dialectOf != l.fleet.version {
		l.dialect.Reset()
		l.dialectOf = l.fleet.version
	}
	return &l.dialect
}
