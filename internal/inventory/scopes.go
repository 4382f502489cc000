package inventory

import (
	"maps"
	"slices"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// leaveAfter is how many complete listings in a row of a scope must lack a
// runner: rows shift while pages are read, so one is no proof.
const leaveAfter = 2

// scope is what is remembered of one list that is configured.
type scope struct {
	key       string
	listedAt  time.Time // start of its last complete listing, by GitLab's clock; zero: none
	byGraphQL bool      // how that was read
	began     time.Time // when that began by our clock; zero: by a process before

	// since is the time up to which the jobs of a runner that this scope has not
	// shown yet were not to be seen: its last complete listing or refusal. Zero:
	// not read since it was configured.
	since  time.Time
	unseen bool // it was not read the last time: what it shows now may not be new

	settled bool // latched: the details of all that it showed were read
}

// showing is that a scope shows a runner, or did until a few listings ago.
type showing struct {
	scope   *scope
	missing int // complete listings in a row without it
}

// scope is the state of a scope; it is made where there is none.
func (inv *Inventory) scope(key string) *scope {
	s := inv.scopes[key]
	if s == nil {
		s = &scope{key: key, unseen: true}
		inv.scopes[key] = s
	}
	return s
}

// Listing is a complete reading of one scope; one of which pages failed is none.
type Listing struct {
	Scope string          // one of Options.Scopes
	Rows  []gitlab.Runner // merged over pages, duplicates allowed
	Whole bool            // no row that could not be read: else it removes nobody
	Start time.Time       // by GitLab's clock
	Began time.Time       // by our clock, as NotFound's
}

// Change is what a listing changed.
type Change struct {
	Joined []int64
	Left   []int64
	// Dropped are runners of a scope that is not configured any more. Like those
	// of Left they are gone, but not from the fleet of GitLab.
	Dropped []int64
	Active  []int64 // runners that execute jobs as the list shows, ascending
	Refuted []int64 // shown, though GitLab answered 404 for them before

	// Since is until when runners that joined were out of sight (zero: since the
	// listing before), and Unseen that they may have been there before: the
	// scope is new, or was not to be read the last time.
	Since  time.Time
	Unseen bool
}

// List takes a complete listing of a scope.
//
// A runner leaves when each scope that showed it has had two complete listings
// in a row without it, or one that began after GitLab itself answered 404 for
// it: two witnesses, since one may be wrong. So a scope that cannot be read
// keeps its runners.
func (inv *Inventory) List(l Listing) Change {
	s := inv.scope(l.Scope)
	c := Change{Since: s.since, Unseen: s.unseen}
	present := make(map[int64]struct{}, len(l.Rows))
	for i := range l.Rows {
		row := &l.Rows[i]
		if _, dup := present[row.ID]; dup {
			continue
		}
		present[row.ID] = struct{}{}
		r := inv.runners[row.ID]
		if r == nil {
			r = &runner{id: row.ID}
			inv.runners[row.ID] = r
			inv.label(r)
			c.Joined = append(c.Joined, row.ID)
			inv.dirtyRunners[row.ID] = struct{}{}
		}
		inv.take(r, row, l.Start)
		inv.knownSince(r, l.Start)
		r.listed, r.executing = l.Start, -1
		inv.show(r, s)
		if !r.notFound.IsZero() && l.Began.After(r.notFound) {
			r.notFound = time.Time{}
			c.Refuted = append(c.Refuted, r.id)
		}
		if r.active {
			c.Active = append(c.Active, r.id)
		}
	}
	var left []snapshot.RunnerType
	if l.Whole {
		left = inv.miss(s, present, l.Began, &c)
	}
	inv.count(s.listedAt.IsZero(), l.Start, &c, left)
	if len(c.Joined)+len(c.Left)+len(c.Dropped) > 0 || len(inv.order) != len(inv.runners) {
		inv.reorder()
	}
	slices.Sort(c.Joined)
	slices.Sort(c.Left)
	slices.Sort(c.Dropped)
	slices.Sort(c.Active)
	inv.listedAt, s.listedAt, s.began = l.Start, l.Start, l.Began
	s.since, s.unseen = l.Start, false
	inv.dirtyMeta = true
	inv.dirtyScopes[s.key] = struct{}{}
	return c
}

// show notes that a scope shows a runner.
func (inv *Inventory) show(r *runner, s *scope) {
	if r.dropped {
		r.dropped, r.shown = false, nil
	}
	i := slices.IndexFunc(r.shown, func(sh showing) bool { return sh.scope == s })
	switch {
	case i < 0:
		r.shown = append(r.shown, showing{scope: s})
	case r.shown[i].missing == 0:
		return
	default:
		r.shown[i].missing = 0
	}
	inv.dirtyRunners[r.id] = struct{}{}
}

// miss notes whom a scope's whole listing does not show any more. It returns
// the types of those who left.
func (inv *Inventory) miss(s *scope, present map[int64]struct{}, began time.Time, c *Change) (left []snapshot.RunnerType) {
	for id, r := range inv.runners {
		if _, ok := present[id]; ok {
			continue
		}
		i := slices.IndexFunc(r.shown, func(sh showing) bool { return sh.scope == s })
		if i < 0 {
			continue
		}
		inv.dirtyRunners[id] = struct{}{}
		r.shown[i].missing++
		deleted := !r.notFound.IsZero() && began.After(r.notFound)
		if r.shown[i].missing < leaveAfter && !deleted {
			continue
		}
		if r.shown = slices.Delete(r.shown, i, i+1); len(r.shown) > 0 {
			continue
		}
		delete(inv.runners, id)
		if r.dropped {
			c.Dropped = append(c.Dropped, id)
		} else {
			c.Left = append(c.Left, id)
			left = append(left, r.kind)
		}
	}
	return left
}

// Begin notes that counting begins at t0: what runs on runners of a scope that
// is down at that time counts from then on, whenever it can first be read.
func (inv *Inventory) Begin(t0 time.Time) {
	for key, s := range inv.scopes {
		if s.since.IsZero() {
			s.since, s.unseen = t0, false
			inv.dirtyScopes[key] = struct{}{}
		}
	}
}

// Refused notes that GitLab itself refuses a scope: what its runners do
// meanwhile is not to be seen.
func (inv *Inventory) Refused(key string, at time.Time) {
	s := inv.scope(key)
	s.since, s.unseen = at, true
	inv.dirtyScopes[key] = struct{}{}
}

// NotFound notes that GitLab itself answered 404 for a runner at at, by our
// clock. It stays until the listings agree.
func (inv *Inventory) NotFound(id int64, at time.Time) {
	if r := inv.runners[id]; r != nil {
		r.notFound = at
	}
}

// Doubted reports whether GitLab answered 404 for a runner, and since then no
// listing and no reading of its details showed it.
func (inv *Inventory) Doubted(id int64) bool {
	r := inv.runners[id]
	return r != nil && !r.notFound.IsZero()
}

// SetByGraphQL notes how the last listing of a scope was read.
func (inv *Inventory) SetByGraphQL(key string, v bool) {
	if s := inv.scope(key); s.byGraphQL != v {
		s.byGraphQL = v
		inv.dirtyScopes[key] = struct{}{}
	}
}

// ByGraphQL reports whether the last listing of a scope, of this process or one
// before, was read by GraphQL.
func (inv *Inventory) ByGraphQL(key string) bool { return inv.scope(key).byGraphQL }

// Withdraw takes the runners of which every scope was last read longer ago than
// staleness out of the sums: nobody knows how they are. They stay known, so
// that their counters go on. It reports whether any scope is fresh. It is at by
// GitLab's clock and now by ours. A listing of this process ages by our
// monotonic clock: a GitLab clock that goes back must not keep an old picture.
func (inv *Inventory) Withdraw(at, now time.Time, staleness time.Duration) (fresh bool) {
	recent := func(t time.Time) bool { return !t.IsZero() && at.Sub(t) <= staleness }
	read := func(s *scope) bool {
		if s.began.IsZero() {
			return recent(s.listedAt)
		}
		return now.Sub(s.began) <= staleness
	}
	for _, s := range inv.scopes {
		fresh = fresh || read(s)
	}
	for _, r := range inv.runners {
		if r.dropped {
			r.hidden = !recent(r.listed)
			continue
		}
		r.hidden = !slices.ContainsFunc(r.shown, func(sh showing) bool { return read(sh.scope) })
	}
	return fresh
}

// unknownTags takes the tags whose sums are not known out of tags, and names
// them: those of runners that Withdraw took away, and, as long as the runners of a
// scope were never read, each tag without a runner. They must be absent: a 0
// would mean that nobody is there.
func (inv *Inventory) unknownTags(tags map[string]*snapshot.Tag, counted map[string]struct{}) []string {
	unknown := map[string]struct{}{}
	pending := map[*scope]bool{}
	for _, r := range inv.runners {
		switch {
		case r.hidden && !r.dropped:
			for _, label := range r.labels {
				unknown[label] = struct{}{}
			}
		case r.detailsAt.IsZero() && r.failures < detailsTries:
			for _, sh := range r.shown {
				pending[sh.scope] = true
			}
		}
	}
	settled := true
	for _, s := range inv.scopes {
		s.settled = s.settled || (!s.listedAt.IsZero() && !pending[s])
		settled = settled && s.settled
	}
	if !settled {
		for name := range tags {
			if _, ok := counted[name]; !ok {
				unknown[name] = struct{}{}
			}
		}
	}
	for name := range unknown {
		delete(tags, name)
	}
	return slices.Sorted(maps.Keys(unknown))
}

// settleScopes forgets the scopes that are not configured any more. A runner
// that no configured scope has shown leaves once they have all been read
// without it; until then it may be one that moves from scope to scope.
func (inv *Inventory) settleScopes() {
	configured := map[*scope]bool{}
	for _, key := range inv.opts.Scopes {
		configured[inv.scope(key)] = true
	}
	for _, r := range inv.runners {
		if r.dropped {
			r.listed = time.Time{} // long ago
		} else {
			r.listed = inv.listedAt
		}
		kept := r.shown[:0]
		var last time.Time
		for _, sh := range r.shown {
			last = maxTime(last, sh.scope.listedAt)
			if configured[sh.scope] {
				kept = append(kept, sh)
			}
		}
		if !r.dropped && !last.IsZero() {
			r.listed = last
		}
		if len(kept) < len(r.shown) {
			inv.dirtyRunners[r.id] = struct{}{}
		}
		if r.shown = kept; len(kept) > 0 {
			continue
		}
		r.dropped = true
		for _, key := range inv.opts.Scopes {
			r.shown = append(r.shown, showing{scope: inv.scopes[key], missing: leaveAfter - 1})
		}
		inv.dirtyRunners[r.id] = struct{}{}
	}
	for key, s := range inv.scopes {
		if !configured[s] {
			delete(inv.scopes, key)
			inv.dirtyScopes[key] = struct{}{}
		}
	}
}
