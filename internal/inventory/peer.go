package inventory

import (
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Peer is which jobs a runner takes, as its details show.
type Peer struct {
	Type           snapshot.RunnerType
	Owner          string
	Tags           []string // as GitLab has them; must not be changed
	RunUntagged    bool
	Protected      bool
	MaximumTimeout time.Duration // 0: none known
}

// Peer is which jobs a runner takes; false where its details were never read.
func (inv *Inventory) Peer(id int64) (Peer, bool) {
	r := inv.runners[id]
	if r == nil || r.detailsAt.IsZero() {
		return Peer{}, false
	}
	return Peer{r.kind, r.owner, r.tags, r.runUntagged, r.protected, r.timeout}, true
}

// IsAvailable reports whether a runner is online and not paused.
func (inv *Inventory) IsAvailable(id int64) bool {
	r := inv.runners[id]
	return r != nil && !r.hidden && r.available()
}

// Shown reports whether a runner stands in the sums.
func (inv *Inventory) Shown(id int64) bool {
	r := inv.runners[id]
	return r != nil && !r.hidden
}

// TagLabel is the label value under which a tag of a runner stands; "": it is
// excluded.
func (inv *Inventory) TagLabel(tag string) string {
	switch {
	case !inv.wanted(tag):
		return ""
	case inv.tags[tag] != nil:
		return tag
	default:
		return snapshot.TagOther
	}
}

// Description is a runner's; "" where there is none.
func (inv *Inventory) Description(id int64) string {
	if r := inv.runners[id]; r != nil {
		return r.description
	}
	return ""
}

// Paused reports whether a runner is paused.
func (inv *Inventory) Paused(id int64) bool {
	r := inv.runners[id]
	return r != nil && r.paused
}

// Most is how many jobs a runner was seen to execute at once within a week; 0: none.
func (inv *Inventory) Most(id int64) int {
	if r := inv.runners[id]; r != nil {
		return r.peaks.most(inv.listedAt)
	}
	return 0
}
