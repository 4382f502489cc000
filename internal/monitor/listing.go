package monitor

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-kit/log/level"
	"golang.org/x/sync/errgroup"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/plan"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const (
	// listPage is how many rows a page has.
	listPage = 100
	// mostTotal is the largest total that GitLab gives (docs/gitlab-api.md 2): a
	// larger one is not GitLab's, and must not make us ask for so many pages.
	mostTotal = 10_000
)

// lister reads the lists of runners of one GitLab, by GraphQL or REST.
type lister struct {
	opts   *Options
	client func() *gitlab.Client // of the class of listings
	fleet  *fleet                // for GitLab's version, and how a scope was listed before
	scopes int

	held      atomic.Int64 // bytes held by the listings under way
	dialect   gitlab.GraphQLDialect
	dialectOf string // the version that it was learned of
}

// list reads all pages of a scope, or nothing: a part would remove runners.
func (l *lister) list(ctx context.Context, s *scope) (listing, error) {
	if !l.wantsGraphQL(s) {
		return l.within(ctx, s, l.listREST)
	}
	list, err := l.within(ctx, s, l.listGraphQL)
	if err == nil {
		if !s.graphql.refused.IsZero() {
			level.Info(l.fleet.log).Log(append([]any{"msg", "runners are read by GraphQL again"}, s.named()...)...)
		}
		s.graphql.refused = time.Time{}
		return list, nil
	}
	if ctx.Err() != nil || !mayHelp(err) || l.opts.API == snapshot.APIGraphQL || l.onlyGraphQL(s) {
		return listing{}, err
	}
	list, rerr := l.within(ctx, s, l.listREST)
	if rerr != nil {
		return listing{}, rerr // GitLab is down altogether, or refuses the scope: that proves nothing about GraphQL
	}
	again := graphqlRetryOutage
	if gitlab.GraphQLRefused(err) {
		again = graphqlRetry
	}
	if s.graphql.refused.IsZero() || s.graphql.again != again {
		level.Warn(l.fleet.log).Log(append([]any{"msg", gitlab.GraphQLFailure(err) + "; REST is used, which takes two requests for each runner's details", "retry_after", again, "err", err}, s.named()...)...)
	}
	s.graphql.refused, s.graphql.again = time.Now(), again
	return list, nil
}

// mayHelp reports a failure that REST may not meet: GraphQL refused, or it
// alone out of order.
func mayHelp(err error) bool {
	switch gitlab.ReasonOf(err) {
	case gitlab.ReasonServerError, gitlab.ReasonTimeout, gitlab.ReasonNotGitLab:
		return true
	default:
		return gitlab.GraphQLRefused(err)
	}
}

func (l *lister) wantsGraphQL(s *scope) bool {
	switch {
	case l.opts.API == snapshot.APIREST || !graphqlReaches(s):
		return false
	case l.opts.API == snapshot.APIGraphQL || l.onlyGraphQL(s):
		return true
	default:
		return s.graphql.refused.IsZero() || time.Since(s.graphql.refused) > s.graphql.again || s.graphql.version != l.version()
	}
}

// graphqlReaches reports whether GraphQL has the list that is configured.
func graphqlReaches(s *scope) bool {
	return s.Kind == snapshot.ScopeInstance || s.Kind == snapshot.ScopeGroups
}

// onlyGraphQL: a group's runners below it are not to be had by REST. Once they
// were shown, REST would make them leave; so the listing fails instead.
func (l *lister) onlyGraphQL(s *scope) bool {
	if s.Kind != snapshot.ScopeGroups {
		return false
	}
	l.fleet.mu.Lock()
	defer l.fleet.mu.Unlock()
	return l.fleet.inv.ByGraphQL(s.key)
}

func (l *lister) version() string {
	l.fleet.mu.Lock()
	defer l.fleet.mu.Unlock()
	return l.fleet.version
}

// within ends a listing that would never end. One that takes longer than
// staleness is of no use: it is withdrawn before it is there.
func (l *lister) within(ctx context.Context, s *scope, read func(context.Context, *scope) (listing, error)) (listing, error) {
	most := max(l.opts.Intervals.Staleness, l.opts.Intervals.Runners)
	limited, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	list, err := read(limited, s)
	if err == nil || limited.Err() == nil || ctx.Err() != nil {
		return list, err
	}
	switch gitlab.ReasonOf(err) {
	case gitlab.ReasonTimeout, gitlab.ReasonCanceled:
		return listing{}, &gitlab.Error{
			Reason: gitlab.ReasonTimeout, Route: s.Route(), Err: err,
			Message: fmt.Sprintf("the list of runners was not read to its end within %v, the larger of poll.staleness and poll.runners_interval", most),
		}
	default:
		return listing{}, err // what went wrong with GitLab explains more than that the time is up
	}
}

// listing is a complete reading of a scope.
type listing struct {
	rows  []gitlab.Runner
	pages int  // of rows, by REST
	whole bool // no row that could not be read: else it must not remove runners

	// By GraphQL the details come with the rows; detailed: they stand for
	// a reading of each runner by REST.
	graphql, detailed bool
	details           []gitlab.FleetRunner

	others others
}

// listREST reads all pages of a scope, or nothing.
func (l *lister) listREST(ctx context.Context, s *scope) (listing, error) {
	list := listing{whole: true, others: others{}}
	b := l.newBound(s.Route(), 1)
	defer b.end()
	if err := l.addREST(ctx, s.Scope, &list, b); err != nil {
		return listing{}, err
	}
	return list, nil
}

// addREST adds the runners that REST lists.
func (l *lister) addREST(ctx context.Context, scope gitlab.Scope, list *listing, b *bound) error {
	pages, err := l.listPages(ctx, scope, list.others, b)
	if err != nil {
		return err
	}
	list.pages += len(pages)
	for _, p := range pages {
		list.whole = list.whole && p.Skipped == 0
		list.rows = append(list.rows, p.Runners...)
	}
	return nil
}

// listPages reads the pages of one scope, and keeps the runners of this shard.
// Where the first shows how many there are, a few are read at once: the shorter
// a listing takes, the fewer rows shift while it is read, and the sooner a
// first picture is whole.
func (l *lister) listPages(ctx context.Context, scope gitlab.Scope, o others, b *bound) ([]gitlab.RunnersPage, error) {
	client := l.client()
	first, err := client.Runners(ctx, scope, 1)
	if err != nil {
		return nil, err
	}
	pages := []gitlab.RunnersPage{first}
	if known := (first.Total + listPage - 1) / listPage; first.Next == 2 && len(first.Runners) == listPage && known > 2 && first.Total <= mostTotal {
		pages = append(pages, make([]gitlab.RunnersPage, known-1)...)
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(plan.PagesAtOnce)
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
		if err := l.takePage(&pages[i], o, b, i < len(pages)-1 || pages[i].Next != 0); err != nil {
			return nil, err
		}
	}
	// What is left: all where the total is withheld, and what was added meanwhile.
	for next := pages[len(pages)-1].Next; next != 0; next = pages[len(pages)-1].Next {
		p, err := client.Runners(ctx, scope, next)
		if err != nil {
			return nil, err
		}
		if err := l.takePage(&p, o, b, p.Next != 0); err != nil {
			return nil, err
		}
		pages = append(pages, p)
	}
	return pages, nil
}

// takePage bounds a page and leaves the rows of this shard in it.
func (l *lister) takePage(p *gitlab.RunnersPage, o others, b *bound, more bool) (err error) {
	kept := o.noteREST(l.opts, p.Runners)
	p.Runners, err = take(l.opts, p.Runners, func(r *gitlab.Runner) int64 { return r.ID }, rowSize, kept, b, p.Skipped, more)
	return err
}

// take bounds the rows of a page, by whatever API, and returns those of this
// shard. kept is what the others take.
func take[T any](o *Options, rows []T, id func(*T) int64, size func(*T) int, kept int, b *bound, skipped int, more bool) ([]T, error) {
	ids := make([]int64, len(rows))
	for i := range rows {
		ids[i] = id(&rows[i])
	}
	own := slices.Clone(slices.DeleteFunc(rows, func(r T) bool { return !o.owns(id(&r)) })) // without room for more
	grown := kept
	for i := range own {
		grown += size(&own[i])
	}
	return own, b.page(ids, grown, skipped, more)
}
