package monitor

import (
	"fmt"
	"sync/atomic"

	"gitlab-runner-fleet-exporter/internal/gitlab"
)

// How much memory the rows of all listings under way may take: of rows, some
// 150,000 runners; with details and machines, some 100,000.
const (
	maxRows    = 24 << 20
	maxDetails = 64 << 20
)

// What a row takes besides its texts.
const (
	seenBytes    = 24
	rowBytes     = 136
	detailsBytes = 168
	managerBytes = 112
	tagBytes     = 16
)

// bound ends a listing that a confused server, or a proxy, would never end:
// each page must bring a runner that no page before had, and all of them must
// not exhaust the memory.
type bound struct {
	route gitlab.Route  // of the errors
	held  *atomic.Int64 // by all listings of this GitLab
	own   int64
	most  int64 // of all
	share int64 // what this one may hold whatever the others do
	seen  map[int64]struct{}
	pages int
}

// newBound is for one listing of a scope that is read in so many parts at once.
func (l *lister) newBound(route gitlab.Route, parts int) *bound {
	b := &bound{route: route, held: &l.held, most: maxRows, seen: map[int64]struct{}{}}
	if route == gitlab.RouteGraphQL {
		b.most = maxDetails
	}
	b.share = b.most / int64(max(l.scopes, 1)*parts)
	return b
}

// end gives the memory back.
func (b *bound) end() { b.held.Add(-b.own) }

// page takes a page: its ids, the memory of its rows, how many more could not be
// read, and whether another page is to follow.
func (b *bound) page(ids []int64, size, skipped int, more bool) error {
	b.pages++
	before := len(b.seen)
	for _, id := range ids {
		b.seen[id] = struct{}{}
	}
	news := len(b.seen) - before + skipped // what cannot be read may be news
	grown := int64(size) + seenBytes*int64(news)
	b.own += grown
	switch all := b.held.Add(grown); {
	case more && news == 0:
		// The last page may: rows shift while pages are read.
		return &gitlab.Error{Reason: gitlab.ReasonDecode, Route: b.route, Message: fmt.Sprintf(
			"the list of runners does not end: page %d brings no runner that was not on a page before, and names a next one", b.pages)}
	case all > b.most && b.own > b.share:
		return &gitlab.Error{Reason: gitlab.ReasonTooLarge, Route: b.route, Message: fmt.Sprintf(
			"the list of runners does not end, or is too long: %d runners on %d pages were read, and a next page is named", len(b.seen), b.pages)}
	default:
		return nil
	}
}

func rowSize(r *gitlab.Runner) int {
	return rowBytes + len(r.Description) + len(r.Type) + len(r.Status) + len(r.Execution)
}

func detailsSize(r *gitlab.FleetRunner) int {
	n := rowSize(&r.Runner) + detailsBytes + managerBytes*len(r.Managers) + len(r.Owner)
	for _, t := range r.Tags {
		n += tagBytes + len(t)
	}
	return n
}
