// Package inventory knows who is in the fleet: merged listings, the rule by
// which a runner leaves, details, tags and machines. It is pure: no network,
// no disk, no clock; internal/monitor hands it what was read and the time,
// and carries its records to internal/store. It is not safe for concurrent use.
package inventory

import (
	"maps"
	"slices"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const (
	// detailsSlack is how much older a runner's details may be on disk.
	detailsSlack = 10 * time.Minute
	// detailsTries is how many failed readings make a runner stand under
	// (unknown) instead of holding back all sums by tag.
	detailsTries = 3
)

// Options of an Inventory.
type Options struct {
	Tags, Runners  snapshot.Matcher // over names of tags and descriptions of runners
	RunnersEnabled bool
	RunnerMinAge   time.Duration // a runner known for less has no series of its own
	TagLimit       int
	TagRetention   time.Duration
	Expected       map[string]int
	// Scopes are the keys of the configured scopes; empty: one, whose key is "".
	Scopes []string
}

// Inventory is the fleet of one GitLab.
type Inventory struct {
	opts    Options
	runners map[int64]*runner
	order   []int64 // ids, ascending
	tags    map[string]*tag
	scopes  map[string]*scope
	project int // of tags: those that count against the half, see share

	listedAt time.Time // start of the last complete listing of any scope, by GitLab's clock
	version  string    // of GitLab

	whole      [snapshot.NumParts]bool // latched: see Fleet
	noMachines bool                    // GitLab does not show machines

	shownVersions map[string]struct{} // those with series of their own in the last picture

	relabel bool // tags came or went: every runner's labels must be derived again

	// events as of now, as the last Records returned them, and as a scrape may
	// see them. zeroGen is the picture that first showed them, at zeroAt.
	events, savedEvents, shownEvents events
	zeroGen                          uint64
	zeroAt                           time.Time

	dirtyMeta    bool
	dirtyRunners map[int64]struct{} // includes removed ones
	dirtyTags    map[string]struct{}
	dirtyScopes  map[string]struct{}
}

type runner struct {
	id          int64
	kind        snapshot.RunnerType
	status      snapshot.Status
	paused      bool
	statusSince time.Time // the first reading that showed the present status, by GitLab's clock
	pausedSince time.Time // likewise; zero: not paused
	active      bool      // job_execution_status is active
	idle        bool      // job_execution_status is idle: neither on releases without it
	firstSeen   time.Time // start of the first listing that showed it
	listed      time.Time
	executing   int // jobs, as the list counted; -1: it did not
	description string

	shown    []showing // the scopes that show it
	dropped  bool      // its scopes are not configured any more, and no other has shown it yet
	notFound time.Time // when GitLab itself last answered 404 for it, by our clock; zero: it did not
	hidden   bool      // its scopes are all older than staleness: it stands in no sum

	detailsAt   time.Time
	savedAt     time.Time // of the details in the last record
	failures    int
	tags        []string
	otherTags   bool // it has tags that stand under (other) whatever the limit
	runUntagged bool
	protected   bool
	version     string // the oldest of its online machines
	platform    string
	arch        string
	owner       string
	timeout     time.Duration // maximum_timeout of its jobs; 0: none known
	contactedAt time.Time
	touchedAt   time.Time // the latest at which it may have taken a job, as the contacts show
	machines    machines
	peaks       peaks

	labels []string // label values of tag, derived
}

// machines sums up the managers behind a runner.
type machines struct {
	known    bool
	failed   int // readings, before any succeeded
	byStatus [snapshot.NumStatuses]int
}

// tag is what is remembered of a tag that has series of its own.
type tag struct {
	name          string
	types         [snapshot.NumRunnerTypes]bool // types that ever had a runner under it
	seen          time.Time                     // last reading in which a runner had it
	saved         time.Time                     // seen, as it stands in the state
	lastAvailable time.Time
}

// seenSlack is how much seen may be older on disk than in memory: else each
// listing would write each tag. Without any writing a tag whose runners left
// after a week would have no retention left once the exporter restarts.
const seenSlack = time.Hour

// New returns an empty inventory.
func New(o Options) *Inventory {
	inv := &Inventory{
		opts: o, runners: map[int64]*runner{}, tags: map[string]*tag{}, scopes: map[string]*scope{},
		dirtyRunners: map[int64]struct{}{}, dirtyTags: map[string]struct{}{}, dirtyScopes: map[string]struct{}{},
	}
	if len(inv.opts.Scopes) == 0 {
		inv.opts.Scopes = []string{""}
	}
	for _, key := range inv.opts.Scopes {
		inv.scope(key)
	}
	for _, t := range slices.Sorted(maps.Keys(o.Expected)) {
		inv.admitTag(t)
	}
	return inv
}

func (inv *Inventory) reorder() { inv.order = slices.Sorted(maps.Keys(inv.runners)) }

// take copies the fields that a list row and the details share.
func (inv *Inventory) take(r *runner, row *gitlab.Runner, at time.Time) {
	kind, ok := snapshot.ParseRunnerType(row.Type)
	if !ok {
		kind = snapshot.ProjectType // a type of a future release: least privileged
	}
	status, paused, active := statusOf(row), pausedOf(row), row.Execution == "active"
	changed := r.status != status && !r.statusSince.IsZero()
	if changed {
		inv.events.Changes[kind]++
		inv.dirtyMeta = true
	}
	statusSince, pausedSince := since(r.statusSince, changed, at), time.Time{}
	if paused {
		pausedSince = since(r.pausedSince, !r.paused, at)
	}
	if r.kind != kind || r.status != status || r.paused != paused || r.description != row.Description ||
		!r.statusSince.Equal(statusSince) || !r.pausedSince.Equal(pausedSince) {
		r.kind, r.status, r.paused, r.description = kind, status, paused, row.Description
		r.statusSince, r.pausedSince = statusSince, pausedSince
		inv.dirtyRunners[r.id] = struct{}{}
	}
	r.active, r.idle = active, row.Execution == "idle"
}

// statusOf is the status of docs/metrics.md. GitLab's REST status hides under
// "paused" whether the runner is up (docs/gitlab-api.md 3.1), so only stale and
// never_contacted are taken from it, and the rest from online.
func statusOf(row *gitlab.Runner) snapshot.Status {
	switch row.Status {
	case "stale":
		return snapshot.Stale
	case "never_contacted", "not_connected":
		return snapshot.NeverContacted
	}
	switch {
	case row.Online == nil:
		return snapshot.NeverContacted
	case *row.Online:
		return snapshot.Online
	default:
		return snapshot.Offline
	}
}

// pausedOf: the field paused, else not active (before 14.8), else the status.
func pausedOf(row *gitlab.Runner) bool {
	switch {
	case row.Paused != nil:
		return *row.Paused
	case row.Active != nil:
		return !*row.Active
	default:
		return row.Status == "paused"
	}
}

// managerStatus maps a machine's status; a word we do not know is offline.
func managerStatus(s string) snapshot.Status {
	switch s {
	case "online":
		return snapshot.Online
	case "stale":
		return snapshot.Stale
	case "never_contacted":
		return snapshot.NeverContacted
	default:
		return snapshot.Offline
	}
}

// Details takes a runner's details read at at. managers is nil where they
// could not be read or this GitLab has no such endpoint. A runner that is not
// listed is ignored.
func (inv *Inventory) Details(id int64, d gitlab.RunnerDetails, managers []gitlab.Manager, at time.Time) {
	r := inv.runners[id]
	if r == nil {
		return
	}
	if d.ID == id {
		active, idle := r.active, r.idle
		if d.Type == "" {
			d.Type = r.kind.String()
		}
		inv.take(r, &d.Runner, at)
		if d.Execution == "" {
			r.active, r.idle = active, idle
		}
	}
	before, last := r.details(), r.detailsAt
	r.detailsAt, r.failures, r.notFound = at, 0, time.Time{}
	r.tags, r.otherTags = ownTags(d.Tags, d.TagsOmitted)
	r.runUntagged, r.protected = d.RunUntagged, d.Protected
	switch {
	case sameSecond(d.ContactedAt, r.contactedAt): // GraphQL gives whole seconds
	case d.ContactedAt.After(last):
		// A contact of the far future would never be outdone by a true one.
		if most := at.Add(contactSlack); d.ContactedAt.After(most) {
			r.touchedAt = maxTime(r.touchedAt, most)
		} else {
			r.touchedAt = maxTime(r.touchedAt, d.ContactedAt)
		}
	default:
		// It came after the last reading and shows a time before it, because clocks
		// differ, or it fell back with a lost cache (docs/gitlab-api.md 3.3): anything may
		// have been until now.
		r.touchedAt = at
	}
	r.platform, r.arch, r.contactedAt = d.Platform, d.Arch, d.ContactedAt
	r.timeout = d.MaximumTimeout
	if managers != nil || r.machines.byStatus[snapshot.Online] == 0 {
		r.version = d.Version // else its machines show it, though they could not be read this time
	}
	if d.Owner != "" {
		r.owner = d.Owner // a lean reading does not have it
	}
	if managers != nil {
		r.takeMachines(managers)
	}
	for _, t := range r.tags {
		inv.see(t, r.kind, at)
	}
	if r.runUntagged {
		inv.see(snapshot.TagUntagged, r.kind, at)
	}
	inv.label(r)
	// By GraphQL details come with each listing: the time of a reading alone is
	// not worth a record of each runner a minute.
	if at.Sub(r.savedAt) > detailsSlack || !before.equal(r.details()) {
		r.savedAt = at
		inv.dirtyRunners[id] = struct{}{}
	}
}

// details is what a reading of the details shows, its time and the contact aside.
type details struct {
	tags                           []string
	otherTags                      bool
	runUntagged, protected         bool
	version, platform, arch, owner string
	machines                       machines
}

func (r *runner) details() details {
	return details{r.tags, r.otherTags, r.runUntagged, r.protected, r.version, r.platform, r.arch, r.owner, r.machines}
}

func (d details) equal(o details) bool {
	return slices.Equal(d.tags, o.tags) && d.otherTags == o.otherTags && d.runUntagged == o.runUntagged && d.protected == o.protected &&
		d.version == o.version && d.platform == o.platform && d.arch == o.arch && d.owner == o.owner && d.machines == o.machines
}

// DetailsFailed counts a failed reading of a runner's details. After three in
// a row a runner without any stands under (unknown).
func (inv *Inventory) DetailsFailed(id int64) {
	if r := inv.runners[id]; r != nil {
		r.failures++
	}
}

// Gone removes a runner that another shard reads now.
func (inv *Inventory) Gone(id int64) bool {
	if inv.runners[id] == nil {
		return false
	}
	delete(inv.runners, id)
	inv.dirtyRunners[id] = struct{}{}
	inv.reorder()
	return true
}

// SetVersion takes GitLab's own version.
func (inv *Inventory) SetVersion(v string) {
	if inv.version != v {
		inv.version = v
		inv.dirtyMeta = true
	}
}

// Version is GitLab's own version; "" if not known.
func (inv *Inventory) Version() string { return inv.version }

// ListedAt is the start of the last complete listing of any scope; zero: none yet.
func (inv *Inventory) ListedAt() time.Time { return inv.listedAt }

// Len is the number of runners.
func (inv *Inventory) Len() int { return len(inv.runners) }

// IDs are the runners' ids, ascending. The slice must not be changed.
func (inv *Inventory) IDs() []int64 { return inv.order }

// Has reports whether a runner is in the fleet.
func (inv *Inventory) Has(id int64) bool { return inv.runners[id] != nil }

// Type is a runner's type.
func (inv *Inventory) Type(id int64) snapshot.RunnerType {
	if r := inv.runners[id]; r != nil {
		return r.kind
	}
	return snapshot.ProjectType
}

// Active reports whether GitLab showed last that a runner executes jobs.
func (inv *Inventory) Active(id int64) bool {
	r := inv.runners[id]
	return r != nil && r.active
}

// Idle reports whether GitLab showed last that a runner executes nothing. Neither
// Active nor Idle holds on releases that do not show it.
func (inv *Inventory) Idle(id int64) bool {
	r := inv.runners[id]
	return r != nil && r.idle
}

// DetailsAt is when a runner's details were read; zero: never.
func (inv *Inventory) DetailsAt(id int64) time.Time {
	if r := inv.runners[id]; r != nil {
		return r.detailsAt
	}
	return time.Time{}
}

// contactSlack is how far a contact may lie before a reading of jobs whose
// answer did not have the job yet: replicas lag, clocks of GitLab's nodes differ.
const contactSlack = 2 * time.Minute

// SettleTime is how long after a contact a reading shows all that it may have
// been about: a contact has whole seconds.
const SettleTime = contactSlack + time.Second

// SettledAt is from when a reading of a runner's jobs shows all that its last
// known contact may have been about, so that no second one is needed.
func (inv *Inventory) SettledAt(id int64) time.Time {
	if r := inv.runners[id]; r != nil && !r.touchedAt.IsZero() {
		return r.touchedAt.Add(SettleTime)
	}
	return time.Time{}
}

// UntouchedUntil is until when a runner is known to have taken no job since
// since; zero: nothing is known. A runner contacts GitLab when it asks for a
// job and while it executes one, so a contact that was read later and lies
// before shows that there was none (docs/gitlab-api.md 3.3).
func (inv *Inventory) UntouchedUntil(id int64, since time.Time) time.Time {
	r := inv.runners[id]
	switch {
	case r == nil || r.active || since.IsZero() || !r.detailsAt.After(since):
		return time.Time{}
	case r.contactedAt.IsZero() && (r.status != snapshot.NeverContacted || r.machines.byStatus[snapshot.Online] > 0):
		return time.Time{} // not shown, or not yet (docs/gitlab-api.md 3.4)
	case !r.touchedAt.Before(since.Add(-contactSlack)):
		return time.Time{}
	default:
		return r.detailsAt
	}
}

// SetListedJobs takes how many jobs a runner executes, as the last listing counted.
func (inv *Inventory) SetListedJobs(id int64, jobs int) {
	if r := inv.runners[id]; r != nil {
		r.executing = jobs
		r.active = r.active || jobs > 0
		inv.NotePeak(id, jobs, r.listed)
	}
}

// ListedJobs is how many jobs of a runner the list counted as executing, and when; -1:
// it did not, or not since since.
func (inv *Inventory) ListedJobs(id int64, since time.Time) (jobs int, at time.Time) {
	if r := inv.runners[id]; r != nil && r.listed.After(since) {
		return r.executing, r.listed
	}
	return -1, time.Time{}
}

func sameSecond(a, b time.Time) bool { return a.Truncate(time.Second).Equal(b.Truncate(time.Second)) }

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// HasOwner reports whether a runner's owner is known or needs none, so that a
// lean reading of its details is enough.
func (inv *Inventory) HasOwner(id int64) bool {
	r := inv.runners[id]
	return r != nil && (r.owner != "" || r.kind == snapshot.InstanceType)
}

// NotePeak notes how many jobs a runner was seen to execute at once.
func (inv *Inventory) NotePeak(id int64, jobs int, at time.Time) {
	if r := inv.runners[id]; r != nil && r.peaks.see(jobs, at) {
		inv.dirtyRunners[id] = struct{}{}
	}
}

// TagsKnown reports whether jobs of a runner may be counted: its tags are known,
// or could not be learned in three tries.
func (inv *Inventory) TagsKnown(id int64) bool {
	r := inv.runners[id]
	return r != nil && (!r.detailsAt.IsZero() || r.failures >= detailsTries)
}

// Unread counts the runners whose details were never read, and those of them
// that failed three times. Runners that stand in no sum hold up none.
func (inv *Inventory) Unread() (never, failed int) {
	for _, r := range inv.runners {
		if r.detailsAt.IsZero() && !r.hidden {
			never++
			if r.failures >= detailsTries {
				failed++
			}
		}
	}
	return never, failed
}

// TagLabels are the values of the label tag that a runner stands under.
func (inv *Inventory) TagLabels(id int64) []string {
	if r := inv.runners[id]; r != nil {
		return r.labels
	}
	return nil
}

// label derives a runner's tag labels. Beyond the limit it stands under
// (other), once.
func (inv *Inventory) label(r *runner) {
	if r.detailsAt.IsZero() {
		r.labels = []string{snapshot.TagUnknown}
		return
	}
	labels := make([]string, 0, len(r.tags)+1)
	if r.runUntagged {
		labels = append(labels, snapshot.TagUntagged)
	}
	if r.otherTags {
		labels = append(labels, snapshot.TagOther)
	}
	for _, t := range r.tags {
		switch {
		case !inv.wanted(t):
		case inv.tags[t] != nil:
			labels = append(labels, t)
		default:
			labels = append(labels, snapshot.TagOther)
		}
	}
	slices.Sort(labels)
	r.labels = slices.Compact(labels)
}

func (inv *Inventory) wanted(t string) bool { return inv.opts.Tags.Match(t) }

// see notes that a runner of kind has a tag, and admits the tag while there
// is room: admission is sticky, so that a series does not come and go.
func (inv *Inventory) see(name string, kind snapshot.RunnerType, at time.Time) {
	if name != snapshot.TagUntagged && !inv.wanted(name) {
		return
	}
	t := inv.tags[name]
	if t == nil {
		if name != snapshot.TagUntagged && !inv.room(kind != snapshot.ProjectType) {
			return
		}
		t = inv.admitTag(name)
	}
	inv.carries(t, kind)
	inv.had(t, at)
}

// had notes that a runner has a tag at a time.
func (inv *Inventory) had(t *tag, at time.Time) {
	if at.After(t.seen) {
		t.seen = at
	}
	if t.seen.Sub(t.saved) > seenSlack {
		inv.dirtyTags[t.name] = struct{}{}
	}
}

// Retire ends the tags that no runner has had for the retention, and gives
// their places to tags that wait under (other). It returns the runners whose
// labels changed.
func (inv *Inventory) Retire(now time.Time) []int64 {
	counts := map[string]carriers{}
	for _, r := range inv.runners {
		for _, t := range r.tags {
			counts[t] = counts[t].with(r.kind)
		}
		if r.runUntagged {
			counts[snapshot.TagUntagged] = counts[snapshot.TagUntagged].with(r.kind)
		}
	}
	for name, t := range inv.tags {
		if counts[name].n > 0 {
			inv.had(t, now)
			continue
		}
		if _, floor := inv.opts.Expected[name]; !floor && now.Sub(t.seen) > inv.opts.TagRetention {
			inv.endTag(t)
		}
	}
	inv.admitWaiting(counts, now)
	var changed []int64
	for _, id := range inv.order {
		r := inv.runners[id]
		before := r.labels
		if inv.relabel {
			inv.label(r)
		}
		for _, t := range r.labels {
			if tg := inv.tags[t]; tg != nil {
				inv.carries(tg, r.kind)
			}
		}
		if !slices.Equal(before, r.labels) {
			changed = append(changed, id)
		}
	}
	inv.relabel = false
	return changed
}

// TagNames are the tags that have series of their own, sorted.
func (inv *Inventory) TagNames() []string { return slices.Sorted(maps.Keys(inv.tags)) }
