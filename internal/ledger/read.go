package ledger

import (
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// poll is one reading of one runner's jobs: what executes now, then the newest
// rows, then each watched job that was met in neither. There is one poll or
// walk a runner at a time. What was folded stays even if the poll fails; the
// marks move only in Done.
type poll struct {
	l         *Ledger
	r         *runner
	start     int64
	bound     int64
	high      int64 // highest id of the newest rows
	lowest    int64 // lowest id of them so far; 0: none yet
	page      int
	news      int  // rows above the mark
	cut       bool // the rest is left to a walk
	bottomed  bool // the read reached the bound or the end of the list
	overdue   uint64
	total     int
	few       bool  // a few of the newest rows are read
	since     int64 // rows first met after total was read: it may not have them
	countedAt int64 // when the list of runners counted its executing jobs; 0: it did not
	shown     int   // of the newest rows, those that executed then
}

// poll begins a reading at now (the ledger's time, from Advance). It returns
// nil for a runner that was never listed.
func (l *Ledger) poll(id int64, now time.Time) *poll {
	r := l.runners[id]
	if r == nil || l.t0 == 0 {
		return nil
	}
	r.reads++
	l.read = true
	return &poll{l: l, r: r, start: ms(now), bound: l.bound(r, ms(now)), total: -1}
}

// bound is the created_at below which a reading that began at start is deep
// enough: lookback before the last whole one, because what ended since then
// may have waited for that long before; the longer the exporter was away, the
// deeper. What ended below the floor does not count any more.
func (l *Ledger) bound(r *runner, start int64) int64 {
	return max(min(start, r.deep), l.floor) - (l.opts.Lookback + orderSlack).Milliseconds()
}

// needsExecuting reports whether the running list must be read: not where the
// list shows it idle and nothing is watched.
func (p *poll) needsExecuting(idle bool) bool { return !idle || len(p.r.watch) > 0 }

// rows is how many of the newest rows to read first, 0: a full page. A few are
// enough where the last poll brought few, little executes, and the last whole
// walk is not as old as walkEvery/2: a full page mostly is one. Where Newest
// wants more after a few, the reading goes on with full pages from the first.
func (p *poll) rows(walkEvery time.Duration) int {
	r := p.r
	if r.readAt == 0 || r.news > fewRows/2 || len(r.watch) > fewRows/2 || p.start-r.deep > walkEvery.Milliseconds()/2 {
		return 0
	}
	p.few = true
	return fewRows
}

// again reads the newest rows once more from the top.
func (p *poll) again() { p.page, p.few = 0, false }

// expects notes, before the newest rows are read, when the list of runners counted
// the executing jobs. It reports whether the rows may account for that number: not
// where a job executes that was not among them the last time.
func (p *poll) expects(at time.Time) bool {
	p.countedAt = ms(at)
	for id := range p.r.watch {
		if id < p.r.lowest {
			return false
		}
	}
	return true
}

// explains reports whether the newest rows account for all that a runner executed
// when the list counted them: as many of them executed then, and no watched
// job is missing, and the list did not grow by more than was met. Then the running
// list has nothing to add. What began since, the next reading shows.
func (p *poll) explains(executing int) bool {
	if p.r.known >= 0 && int64(p.total) > p.r.known {
		return false
	}
	for _, w := range p.r.watch {
		if w.read != p.r.reads {
			return false
		}
	}
	return p.shown == executing
}

// byKeyset reports whether page 1 is better read by keyset: where the total was
// withheld last time, reading by number only costs GitLab a count.
// After each walk it is tried by number again, since rows are also deleted.
func (p *poll) byKeyset() bool { return p.r.withheld }

// executing folds a page of the list of running jobs. Their ids do not move the
// mark: the newest rows may come from a replica that does not know them yet,
// and what lies between was not read then.
func (p *poll) executing(jobs []gitlab.Job) {
	for i := range jobs {
		if _, met := p.l.fold(p.r, &jobs[i], p.start); met {
			p.r.meet()
			if p.page > 0 {
				p.since++
			}
		}
	}
}

// meet explains one more row of the list's total.
func (r *runner) meet() {
	if r.known >= 0 {
		r.known++
	}
}

// newest folds a page of the newest rows and reports whether the next page must
// be read: until the last contiguous id is reached and nothing suggests that
// more lies below it, or the whole page is older than anything that counts, or
// the rows end.
func (p *poll) newest(page gitlab.JobsPage) (more bool) {
	p.page++
	if p.page == 1 {
		p.total = page.Total
	}
	before := p.lowest
	var rows newestRows
	for i := range page.Jobs {
		p.newestRow(&page.Jobs[i], before, &rows)
	}
	if rows.lowest > 0 && (p.lowest == 0 || rows.lowest < p.lowest) {
		p.lowest = rows.lowest
	}
	if len(page.Jobs) > 0 && !rows.recent || page.Next == 0 && page.Cursor == "" {
		p.bottomed = true
		return false
	}
	gap := rows.lowest > p.r.high
	more = gap || rows.late || (rows.news && len(p.missing()) > 0)
	if p.few && p.r.known >= 0 && int64(p.total) > p.r.known {
		more = true // the list grew by more than these: a full page may show it
	}
	if p.r.high == 0 {
		// At the very first read there is no contiguous id yet.
		gap, more = rows.news, rows.news
	}
	// News above the mark are what it is read for. Below it, a job that was
	// never met suggests more of its kind; and where watched jobs end, the next
	// page may save asking for others one by one.
	if more && p.page >= pollPages {
		p.cut = gap
		return false
	}
	return more
}

// newestRows is what a page of the newest rows showed.
type newestRows struct {
	lowest int64 // id; 0: no row
	news   bool  // a job newly watched or counted
	late   bool  // one of them was never met and lies below the mark
	recent bool  // a row that is not older than anything that counts
}

// newestRow folds one of the newest rows; before is the lowest id of the pages
// before, 0: none.
func (p *poll) newestRow(j *gitlab.Job, before int64, rows *newestRows) {
	p.high = max(p.high, j.ID)
	if rows.lowest == 0 || j.ID < rows.lowest {
		rows.lowest = j.ID
	}
	// New rows above push the last ones of a page onto the next: what is only
	// noted, not settled, would be noted twice.
	again := before != 0 && j.ID >= before
	if !again && j.ID > p.r.high {
		p.news++
	}
	if !again && executedAt(j, p.countedAt) {
		p.shown++
	}
	v, met := p.l.fold(p.r, j, p.start)
	news := v == entered || v == counted
	if news {
		rows.news = true
		rows.late = rows.late || (met && j.ID <= p.r.high)
	}
	if v == overdue && !again {
		p.overdue++
	}
	if met && (!again || news) {
		p.r.meet()
	}
	rows.recent = rows.recent || j.CreatedAt.IsZero() || ms(j.CreatedAt) >= p.bound
}

// Ask is a watched job that has to be asked for by itself.
type Ask struct {
	Project, Job int64
}

// missing lists the watched jobs that this reading met nowhere. Those without
// a known project cannot be asked for.
func (p *poll) missing() []Ask {
	var asks []Ask
	for _, w := range p.r.watch {
		if w.read != p.r.reads && w.project != 0 {
			asks = append(asks, Ask{w.project, w.id})
		}
	}
	return asks
}

// asked folds the answer for one of Missing.
func (p *poll) asked(j gitlab.Job) { p.l.fold(p.r, &j, p.start) }

// refused notes that GitLab itself answered 404 (gone) or 403 for a watched job.
// On the third poll in a row, with working listings between, it is given up and
// stands in jobs_unresolved_total.
func (p *poll) refused(job int64, forbidden bool) {
	w := p.l.watch[job]
	if w == nil {
		return
	}
	w.read, w.executing = p.r.reads, false
	reason := snapshot.UnresolvedDeleted
	if forbidden {
		reason = snapshot.UnresolvedForbidden
	}
	p.l.refuse(w, reason)
}

// runnerGone notes that GitLab itself answered 404 for the job list: its runner
// was deleted. Watched jobs are still asked for by their project; those whose
// project is not known cannot be.
func (p *poll) runnerGone() {
	for _, w := range p.r.watch {
		if w.project == 0 {
			p.l.refuse(w, snapshot.UnresolvedRunnerGone)
		}
	}
}

// done ends the reading. whole: the executing and the newest rows
// were read without a failure; hint that the list has grown by more than was
// met, or that the rest was too much for a poll, so that a walk should come next. An X-Total can only hint: deleted
// rows lower it.
func (p *poll) done(whole bool) (hint bool) {
	r := p.r
	if !whole {
		return false
	}
	for _, w := range r.watch {
		if w.read != r.reads {
			w.executing = false // seen nowhere; still watched
		}
	}
	p.l.totals.unresolved[snapshot.UnresolvedTooOld] += p.overdue
	if p.overdue > 0 {
		p.l.metaDirty = true
	}
	changed := r.readAt == 0
	if p.high > r.high {
		r.high, changed = p.high, true
	}
	r.news, r.lowest = p.news, p.lowest
	// readAt is written with the mark it belongs to, not for itself: a record
	// a runner a minute would be the largest part of the state's writes.
	r.readAt = p.start
	if p.bottomed {
		if p.start-r.deep > deepSlack.Milliseconds() {
			changed = true
		}
		r.deep = p.start
		r.walk = walkState{total: -1}
	}
	total := int64(p.total)
	switch {
	case total < 0 || r.known < 0:
		r.known = total
	case p.bottomed:
		r.known = total + p.since
	case total > r.known:
		hint = !r.hinted
		r.hinted = true
	case total < r.known:
		if total+p.since < r.known {
			r.known = total
		}
		r.hinted = false
	default:
		r.hinted = false
	}
	if p.cut {
		hint, r.hinted = true, true
	}
	r.total, r.withheld = total, total < 0
	if changed {
		p.l.dirtyRunner(r)
	}
	return hint
}

// walk is the deeper reading of one runner's jobs, down to lookback: what
// makes the counting exact, because no order of ids or times does. It is read
// page by page, and stands on disk between pages.
type walk struct {
	l     *Ledger
	r     *runner
	now   int64
	bound int64
}

// walk begins or resumes a walk at now.
func (l *Ledger) walk(id int64, now time.Time) *walk {
	r := l.runners[id]
	if r == nil || l.t0 == 0 {
		return nil
	}
	l.read = true
	if r.walk.started == 0 {
		r.walk = walkState{started: ms(now), total: -1}
	}
	return &walk{l: l, r: r, now: ms(now), bound: l.bound(r, r.walk.started)}
}

// Walking reports whether an unfinished walk of a runner is under way.
func (l *Ledger) Walking(id int64) bool {
	r := l.runners[id]
	return r != nil && r.walk.started != 0
}

// query is the page to read next. keyset: this GitLab offers it.
func (w *walk) query(keyset bool) gitlab.JobsQuery {
	s := &w.r.walk
	if keyset && s.page == 0 {
		return gitlab.JobsQuery{RunnerID: w.r.id, Keyset: true, Cursor: s.cursor}
	}
	return gitlab.JobsQuery{RunnerID: w.r.id, Page: max(1, s.page)}
}

// restart begins the walk anew, where its place was refused (a cursor of
// another release).
func (w *walk) restart() {
	w.r.walk = walkState{started: w.now, total: -1}
	w.l.dirtyRunner(w.r)
}

// page folds a page and reports whether the walk is whole.
func (w *walk) page(page gitlab.JobsPage) (whole bool) {
	r, s := w.r, &w.r.walk
	old := len(page.Jobs) > 0
	for i := range page.Jobs {
		j := &page.Jobs[i]
		v, met := w.l.fold(r, j, w.now)
		if v == counted && met {
			w.l.totals.recovered++
			w.l.metaDirty = true
		}
		if met {
			r.meet()
		}
		if j.CreatedAt.IsZero() || ms(j.CreatedAt) >= w.bound {
			old = false
		}
	}
	w.l.dirtyRunner(r)
	switch {
	case old || (page.Next == 0 && page.Cursor == ""):
		r.deep = s.started
		if r.known >= 0 {
			r.known = max(r.known, r.total)
		}
		r.hinted, r.withheld = false, false
		r.walk = walkState{total: -1}
		return true
	case page.Cursor != "":
		s.keyset, s.cursor, s.page = true, page.Cursor, 0
	default:
		// By number, rows deleted above shift the next ones onto pages that
		// were read: go back by as many as the total fell.
		s.keyset, s.cursor = false, ""
		next := page.Next
		total := int64(page.Total)
		if fell := s.total - total; total >= 0 && fell > 0 {
			pages := min((fell+perPage-1)/perPage, int64(next))
			next = max(1, next-int(pages))
		}
		s.page, s.total = next, total
	}
	return false
}
