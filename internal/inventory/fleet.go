package inventory

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Jobs is what the ledger knows of a runner's jobs.
type Jobs struct {
	Running, Canceling int
	Oldest             time.Time // start of the oldest one executing; zero: none
	LastFinished       time.Time
	ReadAt             time.Time // zero: not read yet
	Failed             bool      // they could not be read in three tries

	LastSeen time.Time // of the runner, by any evidence; zero: not known
	Health   snapshot.Health
	Reason   snapshot.HealthReason
	Unusable bool // by health it would not do a job
	listed   bool // the numbers are the list's
}

// Awaits reports whether a part of the picture waits for a reading of a runner.
func (inv *Inventory) Awaits(p snapshot.Part, id int64, j Jobs) bool {
	r := inv.runners[id]
	return r != nil && !r.hidden && inv.awaits(p, r, &j)
}

func (inv *Inventory) awaits(p snapshot.Part, r *runner, j *Jobs) bool {
	switch {
	case p == snapshot.PartJobs:
		return j.ReadAt.IsZero() && !j.Failed && r.mayExecute()
	case p == snapshot.PartDetails || r.detailsAt.IsZero():
		return r.detailsAt.IsZero() && r.failures < detailsTries
	default:
		return !inv.noMachines && !r.machines.known && r.machines.failed < detailsTries
	}
}

// MayExecute reports whether a runner may be executing jobs, where the list
// does not count them: not where it shows that the runner is idle, nor where it was not
// in contact with GitLab for so long (7 days) that its jobs were dropped.
func (inv *Inventory) MayExecute(id int64) bool {
	r := inv.runners[id]
	return r != nil && r.mayExecute()
}

func (r *runner) mayExecute() bool {
	switch {
	case r.executing >= 0 || r.idle:
		return false
	default:
		return r.active || r.status != snapshot.Stale
	}
}

// Whole reports whether a part of the picture was whole once.
func (inv *Inventory) Whole(p snapshot.Part) bool { return inv.whole[p] }

// WholeParts are those that were.
func (inv *Inventory) WholeParts() [snapshot.NumParts]bool { return inv.whole }

// SetMachines notes whether GitLab shows machines; it reports a change.
func (inv *Inventory) SetMachines(shown bool) bool {
	changed := inv.noMachines == shown
	inv.noMachines = !shown
	return changed
}

// Machines takes the machines behind a runner. Without any they are known too.
func (inv *Inventory) Machines(id int64, managers []gitlab.Manager) {
	r := inv.runners[id]
	if r == nil {
		return
	}
	before := r.details()
	r.takeMachines(managers)
	if !before.equal(r.details()) {
		inv.dirtyRunners[id] = struct{}{}
	}
}

// MachinesFailed counts a failed reading of a runner's machines; for good:
// GitLab has none to show. After three in a row no sum waits for them.
func (inv *Inventory) MachinesFailed(id int64, forGood bool) {
	if r := inv.runners[id]; r != nil {
		r.machines.failed++
		if forGood {
			r.machines.failed = detailsTries
		}
	}
}

func (r *runner) takeMachines(managers []gitlab.Manager) {
	r.machines = machines{known: true}
	oldest := ""
	for _, m := range managers {
		s := managerStatus(m.Status)
		r.machines.byStatus[s]++
		if s == snapshot.Online && m.Version != "" && (oldest == "" || compareVersions(m.Version, oldest) < 0) {
			oldest = m.Version
		}
	}
	if oldest != "" {
		r.version = oldest
	}
}

// Fleet builds the gauges as of now; nil before the first complete listing.
// jobs is what each runner executes. With rows the runner_ families' data
// are filled too.
//
// Sums by tag are whole or absent: they appear once the details of every
// listed runner were read, failed three times, or stood in the saved state.
// From then on a runner that just joined stands under (unknown) for the moment
// until it is read. So it is with sums by version and machine, for which the
// machines must be read too, and with those of jobs, which need the jobs of
// each runner that may be executing. A fleet without runners is whole, but
// those that come are its first.
func (inv *Inventory) Fleet(jobs func(id int64) Jobs, rows bool) *snapshot.Fleet {
	if inv.listedAt.IsZero() {
		return nil
	}
	f := &snapshot.Fleet{}
	sums := inv.newSums(f)
	if rows {
		f.Rows = make([]snapshot.Runner, 0, len(inv.order))
	}
	for _, id := range inv.order {
		r := inv.runners[id]
		if r.hidden {
			continue
		}
		j := jobs(id)
		for p := range sums.awaited {
			sums.awaited[p] = sums.awaited[p] || !inv.whole[p] && inv.awaits(snapshot.Part(p), r, &j)
		}
		j.update(r)
		// The list's flag counts where it is news: the jobs may not have been
		// read since, or not be visible to the token.
		busy := j.Running+j.Canceling > 0 || (r.active && !r.listed.Before(j.ReadAt))
		sums.add(r, j, busy)
		for _, label := range r.labels {
			inv.addTag(sums.tag(label), r, j, busy)
		}
		if rows {
			f.Rows = append(f.Rows, inv.row(r, j))
		}
	}
	f.UnknownTags = inv.unknownTags(sums.tags, sums.counted)
	for _, name := range slices.Sorted(maps.Keys(sums.tags)) {
		f.Tags = append(f.Tags, *sums.tags[name])
	}
	f.Versions = inv.versions(sums.versions)
	awaited := sums.awaited
	for p := range awaited {
		if !awaited[p] && !inv.whole[p] && len(inv.order) > 0 {
			inv.whole[p], inv.dirtyMeta = true, true
		}
	}
	f.Detailed, f.MachinesWhole, f.JobsWhole = !awaited[snapshot.PartDetails], !awaited[snapshot.PartMachines], !awaited[snapshot.PartJobs]
	return f
}

// update takes the number of executing jobs from the list, where that is later
// than the reading of the jobs. It does not show which of them are being canceled.
func (j *Jobs) update(r *runner) {
	if r.executing < 0 || !r.listed.After(j.ReadAt) {
		return
	}
	j.Canceling = min(j.Canceling, r.executing)
	j.Running = r.executing - j.Canceling
	j.listed = true
	if r.executing == 0 {
		j.Oldest = time.Time{}
	}
}

// sums are what a picture is added up in.
type sums struct {
	fleet    *snapshot.Fleet
	tags     map[string]*snapshot.Tag
	counted  map[string]struct{} // tags with a runner in the sums
	versions map[string]int
	awaited  [snapshot.NumParts]bool
}

func (inv *Inventory) newSums(f *snapshot.Fleet) *sums {
	s := &sums{
		fleet: f, tags: make(map[string]*snapshot.Tag, len(inv.tags)+3),
		counted: map[string]struct{}{}, versions: map[string]int{},
	}
	for name, t := range inv.tags {
		st := &snapshot.Tag{Name: name, LastAvailable: t.lastAvailable}
		for k, seen := range t.types {
			if seen {
				st.Runners[k] = new([snapshot.NumStatuses][2]int)
			}
		}
		s.tags[name] = st
	}
	return s
}

func (r *runner) pausedIndex() int {
	if r.paused {
		return 1
	}
	return 0
}

// add adds a runner to the sums by type and version.
func (s *sums) add(r *runner, j Jobs, busy bool) {
	f := s.fleet
	f.Runners[r.kind][r.status][r.pausedIndex()]++
	f.Health[r.kind][j.Health][j.Reason][r.pausedIndex()]++
	f.JobsExecuting[r.kind][0] += j.Running
	f.JobsExecuting[r.kind][1] += j.Canceling
	if busy {
		f.Busy[r.kind]++
	}
	for status, n := range r.machines.byStatus {
		f.Managers[r.kind][status] += n
	}
	f.ManagersRead = f.ManagersRead || r.machines.known
	s.versions[r.version]++
}

// tag is the sums of a tag that a runner has.
func (s *sums) tag(label string) *snapshot.Tag {
	st := s.tags[label]
	if st == nil {
		st = &snapshot.Tag{Name: label}
		s.tags[label] = st
	}
	s.counted[label] = struct{}{}
	return st
}

// addTag adds a runner to the sums of a tag of it.
func (inv *Inventory) addTag(st *snapshot.Tag, r *runner, j Jobs, busy bool) {
	if st.Runners[r.kind] == nil {
		st.Runners[r.kind] = new([snapshot.NumStatuses][2]int)
	}
	st.Runners[r.kind][r.status][r.pausedIndex()]++
	st.JobsExecuting[r.kind] += j.Running + j.Canceling
	if busy {
		st.Busy++
	}
	if !r.available() {
		return
	}
	st.Available++
	if !j.Unusable {
		st.Usable++
	}
	st.Capacity += r.peaks.most(inv.listedAt)
	if t := inv.tags[st.Name]; t != nil && r.listed.After(t.lastAvailable) {
		t.lastAvailable = r.listed
		inv.dirtyTags[st.Name] = struct{}{}
	}
	if r.listed.After(st.LastAvailable) {
		st.LastAvailable = r.listed
	}
}

// versionUnknown is the version of runners that never sent one.
const versionUnknown = "(unknown)"

// mostVersions is how many versions have series of their own: a runner sends
// any text as its version.
const mostVersions = 50

// versions are those with most runners; the rest is summed up under (other). A
// version that has a series keeps it until another one has a quarter more
// runners, so that two of the same number do not take turns.
func (inv *Inventory) versions(counts map[string]int) []snapshot.Version {
	newest := inv.version
	for v := range counts {
		if _, _, _, ok := parseVersion(v); ok && compareVersions(v, newest) > 0 {
			newest = v
		}
	}
	out := make([]snapshot.Version, 0, len(counts))
	other := snapshot.Version{Version: snapshot.TagOther, Behind: -1}
	for v, n := range counts {
		if snapshot.OwnName(v) {
			other.Runners += n
		} else if v != "" {
			out = append(out, snapshot.Version{Version: v, Runners: n})
		}
	}
	if len(out) > mostVersions {
		shown := func(v snapshot.Version) int {
			if _, ok := inv.shownVersions[v.Version]; ok {
				return 1
			}
			return 0
		}
		rank := func(v snapshot.Version) int { return v.Runners + shown(v)*(v.Runners/4) }
		slices.SortFunc(out, func(a, b snapshot.Version) int {
			return cmp.Or(rank(b)-rank(a), shown(b)-shown(a), cmp.Compare(a.Version, b.Version))
		})
		for _, v := range out[mostVersions:] {
			other.Runners += v.Runners
		}
		out = out[:mostVersions]
	}
	inv.shownVersions = make(map[string]struct{}, len(out))
	for i := range out {
		out[i].Behind = behind(out[i].Version, newest)
		inv.shownVersions[out[i].Version] = struct{}{}
	}
	if n := counts[""]; n > 0 {
		out = append(out, snapshot.Version{Version: versionUnknown, Runners: n, Behind: -1})
	}
	if other.Runners > 0 {
		out = append(out, other)
	}
	slices.SortFunc(out, func(a, b snapshot.Version) int { return cmp.Compare(a.Version, b.Version) })
	return out
}

func (inv *Inventory) row(r *runner, j Jobs) snapshot.Runner {
	row := snapshot.Runner{
		ID: r.id, Type: r.kind, Status: r.status, Paused: r.paused, StatusSince: r.statusSince, PausedSince: r.pausedSince,
		Description: r.description, Owner: r.owner, Version: r.version, Platform: r.platform, Arch: r.arch,
		RunUntagged: r.runUntagged, Protected: r.protected, Tags: r.labels,
		ContactedAt: r.contactedAt, LastSeen: j.LastSeen, DetailsAt: r.detailsAt,
		ManagersOnline: -1, ManagersKnown: -1,
		JobsExecuting: -1, OldestJobStart: j.Oldest, LastJobFinished: j.LastFinished,
		Exported: inv.exported(r),
	}
	if r.machines.known {
		row.ManagersOnline, row.ManagersKnown = r.machines.byStatus[snapshot.Online], 0
		for _, n := range r.machines.byStatus {
			row.ManagersKnown += n
		}
	}
	if !j.ReadAt.IsZero() || j.listed {
		row.JobsExecuting = j.Running + j.Canceling
	}
	return row
}

func (inv *Inventory) exported(r *runner) bool {
	young := inv.opts.RunnerMinAge > 0 && inv.listedAt.Sub(r.firstSeen) < inv.opts.RunnerMinAge
	return inv.opts.RunnersEnabled && !young && inv.opts.Runners.Match(r.description)
}

// knownSince notes a listing that shows a runner. A clock that went back must
// not keep the runner young.
func (inv *Inventory) knownSince(r *runner, start time.Time) {
	if r.firstSeen.IsZero() || start.Before(r.firstSeen) {
		r.firstSeen = start
		inv.dirtyRunners[r.id] = struct{}{}
	}
}

// Exported reports whether a runner has runner_ series.
func (inv *Inventory) Exported(id int64) bool {
	r := inv.runners[id]
	return r != nil && inv.exported(r)
}

// TagsOverLimit counts the tags in use that have no series of their own.
func (inv *Inventory) TagsOverLimit() int {
	over := map[string]struct{}{}
	for _, r := range inv.runners {
		for _, t := range r.tags {
			if inv.tags[t] == nil && inv.wanted(t) {
				over[t] = struct{}{}
			}
		}
	}
	return len(over)
}
