package inventory

import (
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// events counts what happened to runners, by runner type. They stand in the
// state, so that a restart takes none of them back.
type events struct {
	Changes [snapshot.NumRunnerTypes]uint64 `json:"c"` // of the status
	Joined  [snapshot.NumRunnerTypes]uint64 `json:"j"`
	Left    [snapshot.NumRunnerTypes]uint64 `json:"l"`
	Created time.Time                       `json:"t,omitzero"` // start of the first listing
	// Exposed notes that a scrape read the zeros: increase() sees only what comes
	// after a first sample.
	Exposed bool `json:"e,omitempty"`
}

// exposeAfter is how long the counters wait at 0 for a scrape.
const exposeAfter = 5 * time.Minute

// since is from when a value stands that may have changed at a reading. A clock
// that went back must not leave it in the future.
func since(was time.Time, changed bool, at time.Time) time.Time {
	if changed || was.IsZero() || at.Before(was) {
		return at
	}
	return was
}

// count notes who came and went with a listing. Who comes with the first listing
// of a scope, or the first one after GitLab refused it, may have been there
// before; Dropped left the configuration, not GitLab.
func (inv *Inventory) count(first bool, start time.Time, c *Change, left []snapshot.RunnerType) {
	if inv.events.Created.IsZero() {
		inv.events.Created = start
	}
	if !first && !c.Unseen {
		for _, id := range c.Joined {
			inv.events.Joined[inv.runners[id].kind]++
		}
	}
	for _, kind := range left {
		inv.events.Left[kind]++
	}
}

// Committed notes that the records that Records last returned are on disk: only
// then may a scrape see what they hold.
func (inv *Inventory) Committed() { inv.shownEvents = inv.savedEvents }

// Events fills the counters of the last commit into c, for the picture gen.
// served is the latest picture that a scrape has read.
func (inv *Inventory) Events(c *snapshot.Counters, gen, served uint64, now time.Time) {
	shown := inv.shownEvents
	if shown.Created.IsZero() {
		return
	}
	if inv.zeroGen == 0 {
		inv.zeroGen, inv.zeroAt = gen, now
	}
	if !inv.events.Exposed && (served >= inv.zeroGen || now.Sub(inv.zeroAt) > exposeAfter) {
		inv.events.Exposed, inv.dirtyMeta = true, true
	}
	for kind := range snapshot.RunnerType(snapshot.NumRunnerTypes) {
		add := func(to *[]snapshot.Counter, n uint64) {
			if !shown.Exposed {
				n = 0
			}
			*to = append(*to, snapshot.Counter{Labels: []string{kind.String()}, Value: float64(n), Created: shown.Created})
		}
		add(&c.StatusChanges, shown.Changes[kind])
		add(&c.RunnersJoined, shown.Joined[kind])
		add(&c.RunnersLeft, shown.Left[kind])
	}
}
