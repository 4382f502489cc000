// Package ledger keeps which finished jobs were counted, so that each is
// counted exactly once: through restarts, failed and stale answers, pages that
// shift, and job ids given long before the job starts (docs/counting.md).
//
// It is pure: no network, no disk, no clock. internal/monitor hands it the
// rows it read and the time, and carries its records to internal/store. One
// Ledger belongs to one GitLab and is not safe for concurrent use: there is
// one writer a GitLab.
//
// The invariants that every change here has to keep:
//
//	counted and settled are written in one batch, until the id is forgotten;
//	an id is forgotten only below the floor, the floor never falls, and an
//	unwatched job below the floor is never counted: so at most once;
//	a watched job is not settled, and leaves the watch only by being counted
//	or by standing in jobs_unresolved_total;
//	the marks high and deep move only after a whole read: so at least once;
//	what is shown was committed before;
//	absence, from a list, a total or an idle flag, proves nothing.
package ledger

import (
	"cmp"
	"slices"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const (
	// clockSlack is how far GitLab's clock may be ahead of ours before we
	// trust ours: a Date ten days ahead would otherwise throw a day away.
	clockSlack = 2 * time.Second
	// orderSlack allows for ids and created_at that are only nearly in order
	// (several nodes, long transactions): a read stops only at a whole page
	// older than the bound by this much.
	orderSlack = 10 * time.Minute
	// forgetSlack keeps settled ids below the floor a while longer, for
	// stale answers.
	forgetSlack = time.Hour
	// deepSlack is how much the mark deep may be older on disk than in
	// memory: quiet runners move it with every poll.
	deepSlack = 10 * time.Minute
	// retention is how long a series that ended goes on from its old value.
	retention = 30 * 24 * time.Hour
	// Of the runners that left, the latest keepLeft or keepLeftTimes as many as
	// are listed are kept, whichever is more: a fleet whose machines register
	// anew for each job would otherwise hold a month of ids in memory.
	keepLeft      = 20_000
	keepLeftTimes = 5
	// zeroFirst is how long a new series shows 0 at the most.
	zeroFirst = 5 * time.Minute
	// perPage is how many rows GitLab puts on a page of what we ask for.
	perPage = 100
	// fewRows are enough for most polls: a row costs GitLab several queries, and
	// what a minute brings is a few rows.
	fewRows = 20
	// pollPages is how many pages of the newest rows a poll reads at the most.
	// One that must reach further back, after a stop or a shortage, would
	// sooner or later meet a failure, begin anew with even more to read, and
	// never be whole again: the walk, which resumes, takes over.
	pollPages = 10
	// askLimit is how many polls in a row a watched job may answer 404 or 403,
	// the listing of runners working between them, before it is given up.
	askLimit = 3
)

// Options of a Ledger.
type Options struct {
	// Lookback is how long after its end a job may still be counted, and how
	// old (created_at) the rows are that a walk still reads.
	Lookback time.Duration
}

// Ledger is the memory of one GitLab's counting.
type Ledger struct {
	opts Options

	t0          int64 // ms; 0: not begun
	floor       int64 // ms; below it nothing unwatched is counted. Never falls
	topRunner   int64 // the highest runner id ever listed
	lastListing int64 // ms; start of the last complete listing
	scope       string
	read        bool // jobs were read: the first start is fixed
	noKeyset    bool // this release does not page jobs by keyset
	metaDirty   bool

	settled map[int64]struct{}
	chunks  []chunk
	nextSeq uint64
	pending []settledJob // settled since the last batch

	watch      map[int64]*watched
	watchDirty map[int64]struct{}

	runners     map[int64]*runner
	runnerDirty map[int64]*runner
	left        map[int64]*runner // of runners: those that left
	keepLeft    int               // how many of them are kept at least
	leftBusy    int               // how many of them had watched jobs when last counted

	types      [snapshot.NumRunnerTypes]*group
	tags       map[string]*group
	groupDirty map[*group]struct{}
	unexposed  map[*group]struct{} // groups with something still shown as 0
	gone       [][]byte            // keys to delete with the next batch

	totals, shownTotals totals

	now    int64 // ms; the latest time given to Advance
	delays []time.Duration

	listings uint64 // since the listing last failed; 0: it does not work
}

// totals are the sums that are kept over restarts but belong to no series group.
type totals struct {
	recovered  uint64
	unresolved [snapshot.NumUnresolvedReasons]uint64
}

// chunk is the settled ids of one commit: a key for each id would cost four
// times the disk.
type chunk struct {
	seq    uint64
	maxEnd int64
	ids    []int64
}

type settledJob struct{ id, end int64 }

// watched is a job that was seen executing and must be met again.
type watched struct {
	id, runner, project int64
	started             int64   // ms; 0: unknown
	queued              bool    // its queue time was observed, or must not be
	waited              float64 // seconds from pending to picked up; negative: unknown, or of a process before
	canceling           bool
	executing           bool // as of the runner's last reading
	read                uint64
	url                 string // of its page in GitLab; not in the state
	refused             int    // answers 404 or 403 in a row
	listing             uint64 // Ledger.listings when the last of them was counted
}

// runner holds the marks of one runner's job list.
type runner struct {
	id   int64
	kind snapshot.RunnerType
	tags []string // label values that its next job counts under

	ended []gitlab.Job // see TakeEnded

	since   int64 // ms; jobs that ended before are not counted
	high    int64 // the newest rows were read without a gap down to this id
	readAt  int64 // ms; when high was last confirmed. 0: never
	deep    int64 // ms; start of the last whole walk
	known   int64 // rows of the list we have an explanation for; -1: not known
	total   int64 // last X-Total; -1: GitLab withheld it
	walk    walkState
	walking *walking // of walk, in this process; nil: not met yet
	leftAt  int64    // ms; 0: present
	last    int64    // ms; latest finished_at met

	finished *group // runner_jobs_finished_total; nil until the first job
	watch    map[int64]*watched
	reads    uint64
	hinted   bool
	withheld bool // the last whole poll got no total
	// Of the last whole poll:
	news   int   // rows above high that it brought
	lowest int64 // lowest id of its newest rows
}

// walkState is where an unfinished walk stands; it survives a restart.
type walkState struct {
	started int64 // ms; 0: no walk under way
	keyset  bool
	cursor  string
	page    int
	total   int64
}

// New returns an empty ledger. It counts nothing before Begin.
func New(o Options) *Ledger {
	l := &Ledger{
		opts:        o,
		settled:     map[int64]struct{}{},
		watch:       map[int64]*watched{},
		watchDirty:  map[int64]struct{}{},
		runners:     map[int64]*runner{},
		runnerDirty: map[int64]*runner{},
		left:        map[int64]*runner{},
		keepLeft:    keepLeft,
		tags:        map[string]*group{},
		groupDirty:  map[*group]struct{}{},
		unexposed:   map[*group]struct{}{},
	}
	return l
}

// Begun reports whether the ledger has a start: from the first answer of this
// GitLab on, or since an earlier process.
func (l *Ledger) Begun() bool { return l.t0 != 0 }

// Begin sets the first start, by GitLab's clock. It must be committed before
// the first jobs request: a job counts when it ended after it. A second call
// changes nothing.
func (l *Ledger) Begin(t0 time.Time) {
	if l.t0 != 0 {
		return
	}
	l.t0 = ms(t0)
	l.floor = max(l.floor, l.t0)
	l.metaDirty = true
	for t := range l.types {
		l.types[t] = newTypeGroup(snapshot.RunnerType(t), l.t0)
		l.dirtyGroup(l.types[t])
		l.unexposed[l.types[t]] = struct{}{}
	}
}

// StartFixed reports whether the first start cannot move any more: jobs were read
// since, in this process or an earlier one.
func (l *Ledger) StartFixed() bool { return l.read }

// Raise moves the first start forward, where the rows read since show that it
// was taken from a wrong clock. It changes nothing once jobs were read. It
// reports whether it did.
func (l *Ledger) Raise(t0 time.Time) bool {
	to := ms(t0)
	if l.t0 == 0 || to <= l.t0 || l.StartFixed() {
		return false
	}
	l.t0, l.floor, l.metaDirty = to, max(l.floor, to), true
	for _, g := range l.types {
		g.created = to
		l.dirtyGroup(g)
	}
	for _, r := range l.runners {
		if r.since < to {
			r.since, r.deep = to, max(r.deep, to)
			l.dirtyRunner(r)
		}
	}
	return true
}

// Advance moves the floor to lookback before now, where now is the smaller of
// GitLab's Date and the local clock: one wrong header must not throw a day
// away. It never moves it back, whatever the clocks show and however lookback is raised.
// It returns the time it took for now.
func (l *Ledger) Advance(date, local time.Time) time.Time {
	now := local.Add(clockSlack)
	if !date.IsZero() && date.Before(now) {
		now = date
	}
	l.now = max(l.now, ms(now))
	if f := ms(now.Add(-l.opts.Lookback)); l.t0 != 0 && f > l.floor {
		l.floor = f // written with the next record that rests on it: see Forget
	}
	return now
}

// Member is a runner of a complete listing.
type Member struct {
	ID   int64
	Type snapshot.RunnerType
	// Since is until when its scope was out of sight, Unseen that the scope was
	// not to be read the last time: a runner that is new there may be an old one
	// whose history must not be counted in one step. Zero: since the listing before.
	Since  time.Time
	Unseen bool
}

// Listed takes a complete listing that began at start (GitLab's clock). scope
// names what was listed: after a change of scope (a reload adds a group) no
// runner is taken for newly created, else its history of a day would be
// counted in one step. Runners that are not in members are left to Leave.
func (l *Ledger) Listed(members []Member, scope string, start time.Time) {
	first := l.lastListing == 0
	widened := !first && l.scope != scope
	top := l.topRunner
	for _, m := range members {
		r := l.runners[m.ID]
		if r == nil {
			since := l.lastListing
			if !m.Since.IsZero() {
				since = max(ms(m.Since), l.t0)
			}
			if first || (m.ID > top && !widened && !m.Unseen) {
				since = l.t0
			}
			r = &runner{id: m.ID, kind: m.Type, since: since, deep: since, known: -1, total: -1, walk: walkState{total: -1}}
			l.runners[m.ID] = r
			l.dirtyRunner(r)
		} else if r.leftAt != 0 {
			l.rejoin(r, widened || m.Unseen)
		}
		if r.kind != m.Type {
			r.kind = m.Type
			l.dirtyRunner(r)
		}
		if m.ID > l.topRunner {
			l.topRunner = m.ID
		}
	}
	// One Date of the past must not give the next newcomer a day of history.
	l.lastListing = max(l.lastListing, ms(start))
	l.scope = scope
	l.metaDirty = true
}

// rejoin brings back a runner that had left. Its settled ids are still known,
// so what ended while it was out of sight is counted now, unless the scope
// changed: then another process, or nobody, was to count it meanwhile.
func (l *Ledger) rejoin(r *runner, widened bool) {
	delete(l.left, r.id)
	r.leftAt = 0
	if widened && r.since < l.lastListing {
		r.since = l.lastListing
	}
	r.known = -1
	l.dirtyRunner(r)
}

// Works notes after each listing whether it worked. A job that GitLab does not
// show is given up only by answers between which the listing worked: an outage
// may answer 404 for all that there is.
func (l *Ledger) Works(works bool) {
	if works {
		l.listings++
		return
	}
	if l.listings == 0 {
		return
	}
	l.listings = 0
	for id, w := range l.watch {
		if w.refused > 0 {
			w.refused, w.listing = 0, 0
			l.watchDirty[id] = struct{}{}
		}
	}
}

// refuse counts an answer by which GitLab does not show a watched job, at most
// one a listing, and gives the job up after askLimit of them.
func (l *Ledger) refuse(w *watched, reason snapshot.UnresolvedReason) {
	if l.listings == 0 || w.listing == l.listings {
		return
	}
	w.refused++
	w.listing = l.listings
	l.watchDirty[w.id] = struct{}{}
	if w.refused >= askLimit {
		l.giveUp(w, reason)
	}
}

// Describe sets the label values that the next jobs of a runner count under.
// It must be called before a runner's first job is counted.
func (l *Ledger) Describe(id int64, tags []string) {
	r := l.runners[id]
	if r == nil || slices.Equal(r.tags, tags) {
		return
	}
	r.tags = slices.Clone(tags)
	l.dirtyRunner(r)
}

// Leave marks a runner as gone. Its totals stay, its marks are kept for 30
// days or until too many others left after it, and jobs of it that are being
// watched go on being asked for.
func (l *Ledger) Leave(id int64, now time.Time) {
	r := l.runners[id]
	if r == nil || r.leftAt != 0 {
		return
	}
	r.leftAt = ms(now)
	r.walking = nil
	l.left[id] = r
	l.dirtyRunner(r)
	l.evict()
}

// evict forgets the runners that left longest ago, beyond those that are kept.
// It waits until a quarter more have left, so that leaving costs little, and
// never takes one with watched jobs.
func (l *Ledger) evict() {
	keep := max(l.keepLeft, keepLeftTimes*(len(l.runners)-len(l.left)))
	if len(l.left) <= l.leftBusy+keep+keep/4 {
		return
	}
	out := make([]*runner, 0, len(l.left))
	for _, r := range l.left {
		if len(r.watch) == 0 {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *runner) int { return cmp.Or(cmp.Compare(a.leftAt, b.leftAt), cmp.Compare(a.id, b.id)) })
	l.leftBusy = len(l.left) - len(out)
	for _, r := range out[:max(0, len(out)-keep)] {
		l.forgetRunner(r)
	}
}

// forgetRunner drops all that is known of a runner that left; what it counted
// stays in the sums of its type and tags.
func (l *Ledger) forgetRunner(r *runner) {
	delete(l.left, r.id)
	delete(l.runners, r.id)
	delete(l.runnerDirty, r.id)
	delete(l.unexposed, r.finished)
	l.gone = append(l.gone, runnerKey(r.id))
}

// Watched returns how many jobs of a runner are being watched.
func (l *Ledger) Watched(id int64) int {
	if r := l.runners[id]; r != nil {
		return len(r.watch)
	}
	return 0
}

// LeftWithWatch lists the runners that left while jobs of theirs are watched.
func (l *Ledger) LeftWithWatch() []int64 {
	var ids []int64
	for id, r := range l.left {
		if len(r.watch) > 0 {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Executing is what a runner executes as of its last reading. read is
// false until its jobs were read once.
func (l *Ledger) Executing(id int64) (running, canceling int, oldest time.Time, read bool) {
	r := l.runners[id]
	if r == nil || r.readAt == 0 {
		return 0, 0, time.Time{}, false
	}
	var first int64
	for _, w := range r.watch {
		if !w.executing {
			continue
		}
		if w.canceling {
			canceling++
		} else {
			running++
		}
		if w.started != 0 && (first == 0 || w.started < first) {
			first = w.started
		}
	}
	return running, canceling, fromMS(first), true
}

// LastFinished is the latest end of a job met on a runner; zero: none.
func (l *Ledger) LastFinished(id int64) time.Time {
	if r := l.runners[id]; r != nil {
		return fromMS(r.last)
	}
	return time.Time{}
}

// ReadAt is when a runner's jobs were last read whole; zero: never.
func (l *Ledger) ReadAt(id int64) time.Time {
	if r := l.runners[id]; r != nil {
		return fromMS(r.readAt)
	}
	return time.Time{}
}

// Deep is the start of a runner's last whole walk, before which nothing that
// still exists was missed.
func (l *Ledger) Deep(id int64) time.Time {
	if r := l.runners[id]; r != nil {
		return fromMS(r.deep)
	}
	return time.Time{}
}

// Delays drains how late each job was counted after its end.
func (l *Ledger) Delays() []time.Duration {
	d := l.delays
	l.delays = nil
	return d
}

// verdict is what a row meant.
type verdict uint8

const (
	history verdict = iota // nothing: not final and not executing, or ended before it could count
	known                  // settled, or watched and still executing
	entered                // newly watched
	counted                // newly counted
	overdue                // ended after the last reading but below the floor: cannot be counted any more
)

// fold takes one row. It is the only place where a job is watched, counted
// or settled. met: the row explains one more of the list's total.
func (l *Ledger) fold(r *runner, j *gitlab.Job, now int64) (v verdict, met bool) {
	if _, ok := l.settled[j.ID]; ok {
		return known, false // whatever a later, staler answer shows
	}
	if executing(j.Status) {
		return l.foldExecuting(r, j)
	}
	status, ok := snapshot.ParseJobStatus(j.Status)
	if !ok {
		return history, false
	}
	return l.foldFinished(r, j, status, now)
}

func (l *Ledger) foldExecuting(r *runner, j *gitlab.Job) (v verdict, met bool) {
	w := l.watch[j.ID]
	first := w == nil
	if first {
		w = &watched{id: j.ID, runner: r.id, waited: j.Queued}
		l.watch[j.ID] = w
		if r.watch == nil {
			r.watch = map[int64]*watched{}
		}
		r.watch[j.ID] = w
		l.watchDirty[j.ID] = struct{}{}
	}
	if j.URL != "" {
		w.url = j.URL
	}
	l.see(r, w, j)
	if !w.queued && j.Queued >= 0 && !j.StartedAt.IsZero() {
		// The entry into the watch is the observation. A job that was
		// executing already when counting began is left out.
		if ms(j.StartedAt) >= r.since {
			l.observeQueued(r, j.Queued)
		}
		w.queued = true
		l.watchDirty[j.ID] = struct{}{}
	}
	if first {
		return entered, true
	}
	return known, false
}

func (l *Ledger) foldFinished(r *runner, j *gitlab.Job, status snapshot.JobStatus, now int64) (v verdict, met bool) {
	w, end := l.watch[j.ID], endOf(j)
	if end > r.last && !j.FinishedAt.IsZero() {
		r.last = end
		l.dirtyRunner(r)
	}
	if w == nil && end < max(l.floor, r.since) {
		if j.ID > r.high && r.readAt != 0 && end > r.readAt && end >= r.since {
			return overdue, true
		}
		return history, j.ID > r.high
	}
	l.count(r, j, status)
	if !j.StartedAt.IsZero() {
		if d := duration(j); d >= 0 {
			l.types[r.kind].observe(int(status), d, snapshot.JobDurationBounds())
		}
		if (w == nil || !w.queued) && j.Queued >= 0 && ms(j.StartedAt) >= r.since {
			l.observeQueued(r, j.Queued)
		}
	}
	r.ended = append(r.ended, *j)
	l.settled[j.ID] = struct{}{}
	l.pending = append(l.pending, settledJob{j.ID, end})
	if w != nil {
		l.unwatch(w)
	}
	if late := now - end; late >= 0 {
		l.delays = append(l.delays, time.Duration(late)*time.Millisecond)
	}
	return counted, w == nil
}

// see notes what a row shows of a watched job.
func (l *Ledger) see(r *runner, w *watched, j *gitlab.Job) {
	w.read, w.executing, w.refused, w.listing = r.reads, true, 0, 0
	canceling := j.Status == "canceling"
	started := ms(j.StartedAt)
	if w.canceling != canceling || w.started != started || (j.ProjectID != 0 && w.project != j.ProjectID) {
		w.canceling, w.started = canceling, started
		if j.ProjectID != 0 {
			w.project = j.ProjectID
		}
		l.watchDirty[w.id] = struct{}{}
	}
}

func (l *Ledger) unwatch(w *watched) {
	delete(l.watch, w.id)
	l.watchDirty[w.id] = struct{}{}
	if r := l.runners[w.runner]; r != nil {
		delete(r.watch, w.id)
	}
}

func (l *Ledger) giveUp(w *watched, reason snapshot.UnresolvedReason) {
	l.unwatch(w)
	l.totals.unresolved[reason]++
	l.metaDirty = true
}

// Forget drops settled ids and watched jobs that cannot come back, and runners and tags that
// left more than 30 days ago, or runners beyond those that are kept. Call it now and then.
func (l *Ledger) Forget(now time.Time) {
	limit := l.floor - forgetSlack.Milliseconds()
	kept := l.chunks[:0]
	for _, c := range l.chunks {
		if c.maxEnd >= limit {
			kept = append(kept, c)
			continue
		}
		for _, id := range c.ids {
			delete(l.settled, id)
		}
		l.gone = append(l.gone, chunkKey(c.seq))
		l.metaDirty = true // the floor must be on disk with what it lets us forget
	}
	clear(l.chunks[len(kept):])
	l.chunks = kept

	// A watched job whose row names no project cannot be asked for: once it is
	// seen nowhere and below every walk, no answer will ever show it.
	for _, w := range l.watch {
		if w.project == 0 && !w.executing && w.started < l.floor {
			l.giveUp(w, snapshot.UnresolvedTooOld)
		}
	}

	old := ms(now.Add(-retention))
	l.leftBusy = 0
	for _, r := range l.left {
		switch {
		case len(r.watch) > 0:
			l.leftBusy++
		case r.leftAt < old:
			l.forgetRunner(r)
		}
	}
	l.evict()
	for tag, g := range l.tags {
		if g.ended != 0 && g.ended < old {
			delete(l.tags, tag)
			delete(l.groupDirty, g)
			delete(l.unexposed, g)
			l.gone = append(l.gone, g.key)
		}
	}
}

func executing(status string) bool { return status == "running" || status == "canceling" }

// executedAt reports whether a row shows a job that executed at at.
func executedAt(j *gitlab.Job, at int64) bool {
	if j.StartedAt.IsZero() || ms(j.StartedAt) > at {
		return false
	}
	return executing(j.Status) || !j.FinishedAt.IsZero() && ms(j.FinishedAt) > at
}

// endOf is when a job ended: older releases write failed jobs without
// finished_at, and a job refused at assignment has no started_at either.
func endOf(j *gitlab.Job) int64 {
	switch {
	case !j.FinishedAt.IsZero():
		return ms(j.FinishedAt)
	case !j.StartedAt.IsZero():
		return ms(j.StartedAt)
	default:
		return ms(j.CreatedAt)
	}
}

// duration is a finished job's duration in seconds, negative if unknown.
func duration(j *gitlab.Job) float64 {
	if j.Duration >= 0 {
		return j.Duration
	}
	if j.FinishedAt.IsZero() {
		return -1
	}
	return j.FinishedAt.Sub(j.StartedAt).Seconds()
}

func (l *Ledger) dirtyRunner(r *runner) { l.runnerDirty[r.id] = r }

func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMS(v int64) time.Time {
	if v == 0 {
		return time.Time{}
	}
	return time.UnixMilli(v)
}
