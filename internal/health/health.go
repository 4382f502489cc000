package health

import (
	"cmp"
	"math"
	"slices"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Fleet judges the runners of one GitLab. It is not safe for concurrent use.
type Fleet struct {
	runners map[int64]*runner
	order   []*runner // by id; nil: to be sorted anew
	groups  map[uint64]*group
	// users are the runners that last contacted GitLab from a machine, by its system_id.
	users    map[uint64][]*runner
	projects map[int64]*project

	dense   bool // every contact is read each minute
	listing bool // the last listing worked

	trouble     int64 // end of the last trouble with GitLab
	lostAt      int64 // when its cache was last lost
	backs       []int64
	dues        []due
	silent      bool // the whole fleet is
	silentFrom  int64
	silentUntil int64 // after a restart, which forgets who was due
	judgedAt    int64
	ill         int // in the last picture

	changed   map[int64]struct{} // runners whose record must be written or deleted
	dirtyMeta bool
	fresh     []*runner // those with a new outcome to weigh
	asks      map[int64]*runner
}

type runner struct {
	id    int64
	kind  snapshot.RunnerType
	group *group

	paused, executing, wasExecuting bool // as of the last listing
	gone                            bool
	jobsRead                        bool // since the start
	dirty                           dirtiness
	verdict                         Health
	reason, downReason              Reason
	fails                           uint8
	announced                       uint8  // the suspicions that a change was returned for
	streak                          uint16 // failed jobs since its last success
	missed, missedBefore            uint16 // moments since its last sign, and those of them before a restart

	since, first, readAt     int64
	contact                  int64 // as GitLab last gave it; it may go back
	sign                     int64 // the last sign as of readAt; it never goes back
	lastStart, lastOwn       int64
	pausedAt, downAt         int64
	busySince                int64 // the listing that first showed it executing
	confirm                  int64 // the first reading by which it is down
	wrong                    [2]int64
	momentsFrom              int64 // after a restart: moments before it stand in missedBefore
	hitCheck, dueMark, askAt int64
	sharedAt, neighborAt     int64 // when another runner last named its machine, and last executed there
	hits, misses             float32
	gaps                     gaps

	suspectSince [NumSuspicions]int64
	suspected    *[NumSuspicions]Grounds
	take         take
	clearedAt    int64
	timeout      int64 // maximum_timeout; 0: none
	savedAt      int64
	restored     int64 // its last start before a restart: not counted again

	system   uint64
	machines []machine
	running  []running
	outcomes []outcome
}

type machine struct {
	id      int64
	contact int64 // never falls
	silent  bool  // it executed without a sign when it was last read
}

type running struct{ id, start int64 }

type dirtiness uint8

const (
	clean dirtiness = iota
	dirtySoon
	dirtyNow
)

// New starts with nothing known. Records of the state are given to Load.
func New() *Fleet {
	return &Fleet{
		runners: map[int64]*runner{}, groups: map[uint64]*group{}, users: map[uint64][]*runner{},
		projects: map[int64]*project{}, changed: map[int64]struct{}{}, asks: map[int64]*runner{}, listing: true,
	}
}

// Row is what each listing gives of a runner.
type Row struct {
	ID     int64
	Type   snapshot.RunnerType
	Paused bool
	// Executing: GitLab's job_execution_status, or on releases without it whether
	// the last reading of its jobs found one executing.
	Executing bool
}

// Traits are what makes runners peers: GitLab offers the same jobs to all
// runners that share them.
type Traits struct {
	Type        snapshot.RunnerType
	Owner       string // path of the owning group or project
	Tags        []string
	RunUntagged bool
	Protected   bool
	// MaximumTimeout of its jobs; 0: none.
	MaximumTimeout time.Duration
}

// Machine is one machine behind a runner.
type Machine struct {
	ID          int64 // of GitLab's row
	SystemID    string
	ContactedAt time.Time
	Executing   bool // job_execution_status; false on releases without it
}

// Reading is one good reading of a runner's details.
type Reading struct {
	At          time.Time
	ContactedAt time.Time // zero: never
	// Machines in full, or nil where they were not read: the last ones stay.
	Machines []Machine
}

// SetDense sets how contacts are read: of all runners with each listing
// (GraphQL), or of each runner by itself and more seldom (REST).
func (f *Fleet) SetDense(dense bool) { f.dense = dense }

// Listed notes a row of a listing.
func (f *Fleet) Listed(row Row, at time.Time) {
	now := unix(at)
	r := f.runner(row.ID, now)
	if r == nil {
		return
	}
	r.kind = row.Type
	if r.paused != row.Paused || r.executing != row.Executing {
		r.soon()
	}
	if row.Executing && !r.executing {
		r.busySince = now
	}
	r.wasExecuting, r.executing = r.executing, row.Executing
	r.paused = row.Paused
	if row.Paused {
		r.pausedAt = now
	}
}

func (f *Fleet) runner(id, now int64) *runner {
	if id <= 0 {
		return nil
	}
	r := f.runners[id]
	if r == nil {
		r = &runner{id: id, first: now, verdict: Unknown, reason: NotSeen, since: now, dirty: dirtyNow}
		f.runners[id] = r
		f.order = nil
	}
	return r
}

// ListingDone notes a listing that worked.
func (f *Fleet) ListingDone(at time.Time) {
	if !f.listing {
		f.trouble = max(f.trouble, unix(at))
		f.dirtyMeta = true
	}
	f.listing = true
}

// ListingFailed notes one that did not, whoever is to blame: what kept us from
// GitLab may have kept the runners from it.
func (f *Fleet) ListingFailed(at time.Time) {
	f.listing = false
	f.trouble = max(f.trouble, unix(at)+minute)
	f.dirtyMeta = true
}

// Describe notes which jobs a runner takes, by its details.
func (f *Fleet) Describe(id int64, t Traits) {
	r := f.runners[id]
	if r == nil {
		return
	}
	r.kind, r.timeout = t.Type, int64(t.MaximumTimeout/time.Second)
	key := t.key()
	if r.group != nil && r.group.key == key {
		return
	}
	g := f.groups[key]
	if g == nil {
		g = &group{key: key}
		f.groups[key] = g
	}
	r.group, r.hitCheck = g, 0
	g.members = append(g.members, r) // until the next judgement, which counts them
}

// ReadFailed notes that a runner's details could not be read.
func (f *Fleet) ReadFailed(id int64) {
	if r := f.runners[id]; r != nil && r.fails < math.MaxUint8-1 {
		r.fails++
	}
}

// Read notes a good reading of a runner's details. An older one than the last
// is evidence of nothing.
func (f *Fleet) Read(id int64, rd Reading) {
	r, now := f.runners[id], unix(rd.At)
	if r == nil || now < r.readAt || now <= 0 {
		return
	}
	r.fails = 0
	contact := min(unix(rd.ContactedAt), now) // a clock that is ahead is no sign of tomorrow
	sign := max(contact, r.lastStart, r.lastOwn, f.readMachines(r, rd.Machines, now))
	first := r.readAt == 0
	if contact > r.contact && !r.executing && !r.wasExecuting && !first && contact > max(r.lastStart, r.lastOwn)+minute {
		r.group.seen(contact, now, 1)
	}
	if contact > 0 && contact < r.contact-backBy {
		f.contactBack(now)
	}
	if contact > 0 {
		r.contact = contact
	}
	if sign > r.sign {
		f.signed(r, sign, now, first)
	} else if r.isDue(now) {
		r.dueMark = r.sign
		f.dues = append(f.dues, due{at: now, mark: r.sign, r: r})
	}
	r.readAt = now
	f.miss(r, now)
	f.use(r, now)
	f.ask(r, now)
	// An older reading on disk only makes a silence shorter, so that an idle
	// runner is written when it is seen, not when it is read.
	if first || r.verdict == Overdue {
		r.soon()
	}
}

// signed learns from a sign, and from the silence that it ended.
func (f *Fleet) signed(r *runner, sign, now int64, first bool) {
	if gap := sign - r.sign; r.sign > 0 && !first {
		if r.sign > f.trouble && !f.silent { // gaps of held times teach nothing
			if r.missed > 0 && gap < longestGap {
				r.learnRate(0, int(r.missed))
			}
			r.gaps.add(gap, now)
		}
		if !r.executing {
			r.hitCheck = sign
		}
		if gap >= dueGapLeast && gap < dueGapMost {
			f.dues = append(f.dues, due{at: now, seen: true, r: r})
		}
	}
	r.sign, r.missed, r.missedBefore, r.momentsFrom = sign, 0, 0, 0
	r.soon()
}

// isDue reports whether a sign of an idle runner should have come by now.
func (r *runner) isDue(now int64) bool {
	silence := now - r.sign
	return !r.executing && !r.paused && r.dueMark != r.sign && silence > dueSign && silence < dueStale
}

// miss counts the moments of its group at which it was not seen.
func (f *Fleet) miss(r *runner, now int64) {
	if r.hitCheck > 0 && now >= r.hitCheck+momentBefore*minute {
		if r.group.seenWith(r.hitCheck, f.dense) {
			r.learnRate(1, 0)
		}
		r.hitCheck = 0
	}
	if silence := now - r.sign; silence <= freshSilence || silence >= longestGap || r.paused {
		return
	}
	from := max(r.sign/minute+momentAfter, (now-missedWindow)/minute, r.pausedAt/minute+momentAfter, f.lostAt/minute+momentAfter, r.momentsFrom/minute)
	n := r.group.moments(from, now/minute-momentBefore, f.dense)
	r.missed = r.missedBefore + uint16(n) //nolint:gosec // at most missedWindow/momentApart
}

// readMachines takes the machines of a runner, nil where they were not read;
// it returns the last sign of any.
func (f *Fleet) readMachines(r *runner, list []Machine, now int64) int64 {
	if list != nil {
		r.takeMachines(list, now)
	}
	last := int64(0)
	for i := range r.machines {
		last = max(last, r.machines[i].contact)
	}
	return last
}

func (r *runner) takeMachines(list []Machine, now int64) {
	old := r.machines
	if !slices.EqualFunc(old, list, func(o machine, m Machine) bool { return o.id == m.ID }) {
		r.machines = make([]machine, len(list))
	}
	newest, system := int64(-1), ""
	for i, m := range list {
		c := min(unix(m.ContactedAt), now)
		if k := place(old, m.ID, i); k >= 0 {
			c = max(c, old[k].contact) // it never falls
		}
		if c > newest {
			newest, system = c, m.SystemID
		}
		r.machines[i] = machine{id: m.ID, contact: c, silent: m.Executing && now-c >= jobSilence}
	}
	r.system = systemKey(system)
}

// place is where a machine stands in a list, most likely at the place guessed; -1: nowhere.
func place(list []machine, id int64, guess int) int {
	if guess < len(list) && list[guess].id == id {
		return guess
	}
	return slices.IndexFunc(list, func(m machine) bool { return m.id == id })
}

// systemKey is a short form of a system_id; 0 for none, and for the word that
// GitLab gives all those from before system_id existed.
func systemKey(id string) uint64 {
	if id == "" || id == "<legacy>" {
		return 0
	}
	return hash(id)
}

// use notes from which machine a runner contacts GitLab, and whether it executes there.
func (f *Fleet) use(r *runner, now int64) {
	if r.system == 0 {
		return
	}
	users := slices.DeleteFunc(f.users[r.system], func(u *runner) bool { return u.gone || u.system != r.system })
	if !slices.Contains(users, r) {
		users = append(users, r)
	}
	f.users[r.system] = users
	if len(users) < 2 {
		return
	}
	// A job that nobody reports on keeps no machine busy.
	busy := r.executing && now-r.sign < jobSilence
	for _, u := range users {
		u.sharedAt = now
		if busy && u != r {
			u.neighborAt = now
		}
		u.soon()
	}
}

// machineBusy reports whether a runner's machine worked for another one just now.
func (r *runner) machineBusy() bool {
	return r.neighborAt > 0 && r.readAt-r.neighborAt < machineActive
}

// Jobs notes a reading of a runner's jobs: all that are executing, and those
// that were found ended since the last one, each once.
func (f *Fleet) Jobs(id int64, at time.Time, executing, ended []gitlab.Job) {
	r, now := f.runners[id], unix(at)
	if r == nil {
		return
	}
	before := r.running
	r.jobsRead = true
	known := func(id int64) bool {
		_, ok := slices.BinarySearchFunc(before, id, func(a running, id int64) int { return cmp.Compare(a.id, id) })
		return ok
	}
	r.running = make([]running, 0, len(executing))
	for i := range executing {
		j := &executing[i]
		r.running = append(r.running, running{j.ID, unix(j.StartedAt)})
		if !known(j.ID) {
			f.started(r, j, now)
		}
	}
	slices.SortFunc(r.running, func(a, b running) int { return cmp.Compare(a.id, b.id) })
	if len(ended) > 1 {
		ended = slices.Clone(ended)
		slices.SortStableFunc(ended, func(a, b gitlab.Job) int { return a.FinishedAt.Compare(b.FinishedAt) })
	}
	for i := range ended {
		j := &ended[i]
		if !known(j.ID) {
			f.started(r, j, now)
		}
		f.ended(r, j, now)
	}
}

func (f *Fleet) started(r *runner, j *gitlab.Job, now int64) {
	start := min(unix(j.StartedAt), now)
	if start <= 0 {
		return // it never ran
	}
	if start > r.lastStart {
		r.lastStart = start
		r.soon()
	}
	if j.Queued >= 0 && r.group != nil { // it ticked each member of the group when it was queued
		r.group.seen(start-int64(j.Queued), now, r.group.need(f.dense)+1)
	}
	if start > r.restored {
		r.take.starts++
		if r.group != nil && now-start <= takesRecent {
			r.group.starts++
		}
	}
}

func (f *Fleet) ended(r *runner, j *gitlab.Job, now int64) {
	start, end := min(unix(j.StartedAt), now), min(unix(j.FinishedAt), now)
	if start <= 0 || end < start || !ownReport(j) {
		return
	}
	if end > r.lastOwn {
		r.lastOwn = end
		r.soon()
	}
	f.outcome(r, j, start, end)
}

// ownReport reports whether the runner itself reported a job's end: what GitLab
// decided (no_updates_running and its like), or a person, is no sign of it.
func ownReport(j *gitlab.Job) bool {
	switch j.Status {
	case "success":
		return true
	case "failed":
		switch j.FailureReason {
		case "script_failure", "runner_system_failure", "runner_configuration_error", "runner_external_dependency_failure", "runner_interrupted", "image_pull_failure":
			return true
		}
	}
	return false
}

// Remove forgets a runner that is gone.
func (f *Fleet) Remove(id int64) {
	r := f.runners[id]
	if r == nil {
		return
	}
	r.gone = true
	if r.group != nil {
		r.group.members = slices.DeleteFunc(r.group.members, func(m *runner) bool { return m == r })
	}
	delete(f.runners, id)
	delete(f.asks, id)
	f.order = nil
	f.changed[id] = struct{}{}
}

// Len is how many runners are known.
func (f *Fleet) Len() int { return len(f.runners) }

func (r *runner) soon() {
	if r.dirty == clean {
		r.dirty = dirtySoon
	}
}

// announce notes which suspicions the caller knows of.
func (r *runner) announce() {
	r.announced = 0
	for s, since := range r.suspectSince {
		if since > 0 {
			r.announced |= 1 << s
		}
	}
}

// shared reports whether another runner names the same machine.
func (r *runner) shared(now int64) bool { return r.sharedAt > 0 && now-r.sharedAt < day }

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(0, t.Unix())
}

func timeOf(sec int64) time.Time {
	if sec <= 0 {
		return time.Time{}
	}
	return time.Unix(sec, 0).UTC()
}
