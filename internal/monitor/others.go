package monitor

import (
	"strings"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/queue"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// others are the runners of the other shards, as the listings of the first one
// show them: it reads the whole queue, and whether a job is offered to a runner
// does not depend on who counts the jobs of that runner. By id.
type others map[int64]other

// other is a runner of another shard.
type other struct {
	queue.Runner

	known       bool // its tags are: a list by REST does not have them
	description string
	paused      bool
	executing   int // jobs; -1: not known
}

// keepsOthers reports whether this process reads the queue for all shards.
func (o *Options) keepsOthers() bool {
	return o.ShardCount > 1 && o.ShardIndex == 0 && o.Queue.Interval > 0 && len(o.Queue.Projects) == 0
}

// otherBytes is what an entry takes beside its texts.
const otherBytes = 200

// note takes over the runners of other shards and returns the memory that they
// take. Texts are shared, because most runners of a fleet are alike.
func (o others) note(opts *Options, rows []gitlab.FleetRunner, known bool) (size int) {
	if !opts.keepsOthers() {
		return 0
	}
	sets := map[string][]string{}
	for i := range rows {
		r := &rows[i]
		if opts.owns(r.ID) {
			continue
		}
		key := strings.Join(r.Tags, "\x00")
		tags, ok := sets[key]
		if !ok {
			tags = r.Tags
			sets[key] = tags
			size += len(key)
		}
		row := o.row(&r.Runner)
		row.Owner, row.Tags, row.RunUntagged, row.Protected = r.Owner, tags, r.RunUntagged, r.Protected
		row.known, row.executing = known, r.Executing
		o[r.ID] = row
		size += otherBytes + len(row.description) + len(row.Owner)
	}
	return size
}

// noteREST is note for rows of a list by REST.
func (o others) noteREST(opts *Options, rows []gitlab.Runner) (size int) {
	if !opts.keepsOthers() {
		return 0
	}
	for i := range rows {
		if _, twice := o[rows[i].ID]; opts.owns(rows[i].ID) || twice {
			continue
		}
		o[rows[i].ID] = o.row(&rows[i])
		size += otherBytes + len(rows[i].Description)
	}
	return size
}

func (others) row(r *gitlab.Runner) other {
	kind, ok := snapshot.ParseRunnerType(r.Type)
	if !ok {
		kind = snapshot.ProjectType // as internal/inventory takes it
	}
	return other{
		Runner:      queue.Runner{ID: r.ID, Type: kind.String(), Available: inventory.Available(r)},
		description: r.Description, paused: inventory.Paused(r), executing: -1,
	}
}

// takeOthers replaces what a scope showed of the other shards' runners. The
// caller holds the mutex. Details that an earlier listing brought stand where
// this one, by REST, has none.
func (f *fleet) takeOthers(scope string, now others) {
	if !f.opts.keepsOthers() {
		return
	}
	for id, r := range now {
		if was, ok := f.others[scope][id]; ok && !r.known && was.known {
			was.Available, was.paused, was.description = r.Available, r.paused, r.description
			now[id] = was
		}
	}
	f.others[scope] = now
}

// allOthers are the runners of the other shards. unread: the tags of some are not
// known, or a scope was not listed by this process yet.
func (f *fleet) allOthers() (all others, unread bool) {
	if !f.opts.keepsOthers() {
		return nil, false
	}
	all = others{}
	for _, list := range f.others {
		for id, r := range list {
			if was, ok := all[id]; !ok || !was.known {
				all[id] = r
			}
		}
	}
	for _, r := range all {
		unread = unread || !r.known
	}
	return all, unread || len(f.others) < len(f.scopeKeys)
}

// otherLabels are the tags that only runners of other shards have, and that stand under
// their own name: as many as metrics.tags.limit has room for beside those of this
// shard. One that has a series keeps it.
type otherLabels map[string]bool

// admit takes the tags that are carried now.
func (l otherLabels) admit(inv *inventory.Inventory, limit int, carried []string) {
	still := make(map[string]bool, len(carried))
	for _, tag := range carried {
		still[tag] = true
	}
	for tag := range l {
		if !still[tag] || inv.TagLabel(tag) != snapshot.TagOther {
			delete(l, tag)
		}
	}
	own := len(inv.TagNames())
	for _, tag := range carried { // sorted
		if own+len(l) >= limit {
			return
		}
		if inv.TagLabel(tag) == snapshot.TagOther {
			l[tag] = true
		}
	}
}

// label is the value of the label tag for a tag of any shard's runner.
func (l otherLabels) label(inv *inventory.Inventory) func(tag string) string {
	return func(tag string) string {
		if l[tag] {
			return tag
		}
		return inv.TagLabel(tag)
	}
}
