package inventory

import (
	"cmp"
	"slices"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// maxTag is the longest name of a tag in bytes: GitLab's 255 characters.
const maxTag = 1020

// ownTags sorts a runner's tags. other: it has some that cannot have
// series: those that were left out when they were read, are too long (cut, two
// could become one), or have the name of a special value.
func ownTags(tags []string, omitted int) (own []string, other bool) {
	other = omitted > 0
	for _, t := range tags {
		if len(t) > maxTag || snapshot.OwnName(t) {
			other = true
			continue
		}
		own = append(own, t)
	}
	slices.Sort(own)
	return slices.Compact(own), other
}

// share is how many tags that only project runners carry may have series:
// anyone who may register a runner in a project of theirs can invent tags, and
// must not push everyone else's under (other).
func (inv *Inventory) share() int { return inv.opts.TagLimit / 2 }

// countsAsProject reports whether a tag counts against the share: one that an
// instance or group runner once had does not until it ends, and one with a
// floor never does.
func (inv *Inventory) countsAsProject(t *tag) bool {
	_, floor := inv.opts.Expected[t.name]
	return !floor && t.name != snapshot.TagUntagged && !t.types[snapshot.InstanceType] && !t.types[snapshot.GroupType]
}

// free is how many more tags may have series of their own; (untagged) takes
// no place.
func (inv *Inventory) free() int {
	n := inv.opts.TagLimit - len(inv.tags)
	if inv.tags[snapshot.TagUntagged] != nil {
		n++
	}
	return n
}

// room reports whether one more tag may have series of its own; shared: an
// instance or group runner has it.
func (inv *Inventory) room(shared bool) bool {
	return inv.free() > 0 && (shared || inv.project < inv.share())
}

func (inv *Inventory) admitTag(name string) *tag {
	t := inv.tags[name]
	if t == nil {
		t = &tag{name: name}
		inv.tags[name] = t
		inv.dirtyTags[name] = struct{}{}
		inv.relabel = true
		if inv.countsAsProject(t) {
			inv.project++
		}
	}
	return t
}

func (inv *Inventory) endTag(t *tag) {
	if inv.countsAsProject(t) {
		inv.project--
	}
	delete(inv.tags, t.name)
	inv.dirtyTags[t.name] = struct{}{}
	inv.relabel = true
}

// carries notes that a runner of kind has a tag.
func (inv *Inventory) carries(t *tag, kind snapshot.RunnerType) {
	if t.types[kind] {
		return
	}
	before := inv.countsAsProject(t)
	t.types[kind] = true
	if before && !inv.countsAsProject(t) {
		inv.project--
	}
	inv.dirtyTags[t.name] = struct{}{}
}

// carriers are the runners that have a tag.
type carriers struct {
	n     int
	kinds [snapshot.NumRunnerTypes]bool
}

func (c carriers) with(kind snapshot.RunnerType) carriers {
	c.n++
	c.kinds[kind] = true
	return c
}

func (c carriers) shared() bool { return c.kinds[snapshot.InstanceType] || c.kinds[snapshot.GroupType] }

// admitWaiting gives free places to the tags that wait under (other), those
// with most runners first.
func (inv *Inventory) admitWaiting(counts map[string]carriers, now time.Time) {
	if inv.free() <= 0 {
		return
	}
	waiting := make([]string, 0)
	for name := range counts {
		if inv.tags[name] == nil && name != snapshot.TagUntagged && inv.wanted(name) {
			waiting = append(waiting, name)
		}
	}
	slices.SortFunc(waiting, func(a, b string) int {
		return cmp.Or(counts[b].n-counts[a].n, cmp.Compare(a, b))
	})
	for _, name := range waiting {
		if !inv.room(counts[name].shared()) {
			continue
		}
		t := inv.admitTag(name)
		for kind, has := range counts[name].kinds {
			if has {
				inv.carries(t, snapshot.RunnerType(kind))
			}
		}
		inv.had(t, now)
	}
}

// fitTags ends the loaded tags that the present options leave no room for: those
// that are filtered out, then those of project runners beyond their share or
// the limit, then others beyond the limit.
func (inv *Inventory) fitTags() {
	names := inv.TagNames()
	inv.project = 0
	for _, name := range names {
		if inv.countsAsProject(inv.tags[name]) {
			inv.project++
		}
	}
	end := func(beyond func(t *tag) bool) {
		for _, name := range names {
			t := inv.tags[name]
			if t == nil || name == snapshot.TagUntagged {
				continue
			}
			if _, floor := inv.opts.Expected[name]; !floor && beyond(t) {
				inv.endTag(t)
			}
		}
	}
	end(func(t *tag) bool { return !inv.wanted(t.name) })
	end(func(t *tag) bool { return inv.countsAsProject(t) && (inv.project > inv.share() || inv.free() < 0) })
	end(func(*tag) bool { return inv.free() < 0 })
}
