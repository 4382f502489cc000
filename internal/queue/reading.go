package queue

import (
	"maps"
	"math"
	"slices"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
)

// Reading is one reading of the queue: Next, Take, Next, Take … until Next
// returns false. It must not outlive the next call of Begin.
type Reading struct {
	q    *Queue
	now  time.Time
	work []*work

	requests int
	surveyed int // of work
	asked    []*work
	pages    []gitlab.QueuePage
	rights   []owner
	looked   bool // the rights were looked up
	settled  bool // rows are being read
	wide     bool // the last request was about all jobs
	err      error

	project int   // of Options.Projects
	read    int   // of them, at least a page
	refusal error // by GitLab, of one of them
	page    int
	cut     bool // a project has more pages than could be read
}

// work is a class in a reading.
type work struct {
	class *class

	count  int // -1: not surveyed, or failed
	newest []int64
	done   bool
	failed bool
	old    bool // done by what an earlier reading found
	verify bool // its oldest jobs are read first: they show whether the rest stands
	hidden bool // GitLab counts jobs that it does not list
	spans  []span
	// unlabeled are those of its jobs whose tags are not known: of does not find them.
	unlabeled map[int64]bool
	begun     bool // todo was made
	todo      []gitlab.QueuePage
}

// span is a page that was read: the jobs with ids below from, down to last.
type span struct {
	from, last int64  // last 0: to the end of the list
	next       string // cursor after last
}

const top = math.MaxInt64

// Next is the next request to send; false: the reading is over.
func (r *Reading) Next() (gitlab.QueueRequest, bool) {
	if r.err != nil || r.q.unsupported {
		return gitlab.QueueRequest{}, false
	}
	if len(r.q.opt.Projects) > 0 {
		return r.nextProject()
	}
	if r.requests >= MaxRequests {
		return gitlab.QueueRequest{}, false
	}
	r.asked, r.pages, r.rights = nil, nil, nil
	if r.surveyed < len(r.work) && r.requests < maxSurveys {
		r.survey()
		return r.send(gitlab.QueueRequest{Pages: r.pages})
	}
	if ids := r.unproved(); len(ids) > 0 {
		return r.send(gitlab.QueueRequest{Rights: ids})
	}
	walk := r.q.opt.All && r.q.all.due(r.q.round, r.now)
	// One request is kept for the walk: in a long jam the rows would take all, and
	// jobs that no runner can take would never be found.
	if r.requests < MaxRequests-1 || !walk {
		if r.rows(); len(r.pages) > 0 {
			return r.send(gitlab.QueueRequest{Pages: r.pages})
		}
	}
	if walk {
		r.wide = true
		return r.send(gitlab.QueueRequest{Pages: []gitlab.QueuePage{{Details: true, After: r.q.all.after}}})
	}
	return gitlab.QueueRequest{}, false
}

func (r *Reading) send(q gitlab.QueueRequest) (gitlab.QueueRequest, bool) {
	r.requests++
	return q, true
}

// fill packs pages into one query.
type fill struct{ complexity, characters int }

func (r *Reading) add(f *fill, w *work, p gitlab.QueuePage) bool {
	c, n := p.Cost()
	if room := r.q.room; !gitlab.QueueFits(f.complexity, f.characters, p) || room > 0 && f.complexity+c > room*9/10 && len(r.pages) > 0 {
		return false
	}
	f.complexity, f.characters = f.complexity+c, f.characters+n
	r.asked, r.pages = append(r.asked, w), append(r.pages, p)
	return true
}

func (r *Reading) survey() {
	var f fill
	for ; r.surveyed < len(r.work); r.surveyed++ {
		w := r.work[r.surveyed]
		if !r.add(&f, w, gitlab.QueuePage{Runner: w.class.representative, First: surveyRows}) {
			return
		}
	}
}

// rows requests what the survey leaves unexplained.
func (r *Reading) rows() {
	if !r.settled {
		r.settled = true
		for i, w := range r.work {
			if i < r.surveyed {
				r.trust(w)
			} else {
				r.keepOld(w)
			}
		}
	}
	var f fill
	for _, w := range r.work {
		if r.explained(w); w.done || w.failed || w.count < 0 {
			continue
		}
		if len(w.todo) == 0 {
			w.todo = r.missing(w)
		}
		for len(w.todo) > 0 && r.add(&f, w, w.todo[0]) {
			w.todo = w.todo[1:]
		}
		if len(w.todo) > 0 {
			return // the query is full
		}
	}
}

// trust takes over the rows of a class whose number and newest ids are as they
// were: of a long list the survey does not show the rest.
func (r *Reading) trust(w *work) {
	c := w.class
	switch {
	case w.count <= surveyRows || c.count != w.count || !slices.Equal(c.newest, w.newest):
	case w.count > gitlab.MaxQueueCount:
		// That is no number, and stays as it is while thousands of jobs are taken.
		w.verify = len(c.pivots) > 0 && r.fresh(c)
	default:
		r.keepOld(w)
	}
}

// fresh reports whether the rows of a class that were read last may stand.
func (r *Reading) fresh(c *class) bool { return c.readAt > 0 && r.q.round-c.readAt < trusted }

// verified lets a class of more jobs than GitLab counts stand as it was read last
// if its oldest jobs, which are taken first, are the same. If not, it is read.
func (r *Reading) verified(w *work, got gitlab.QueueJobs) {
	w.verify = false
	from := w.class.pivots[len(w.class.pivots)-1].last
	var was, is []int64
	for _, id := range w.class.all {
		if id < from {
			was = append(was, id)
		}
	}
	for _, row := range got.Jobs {
		is = append(is, row.ID)
	}
	slices.Sort(was)
	slices.Sort(is)
	if !got.More && slices.Equal(was, is) {
		r.keepOld(w)
	}
}

// keepOld lets the jobs of a class stand as they were read last, if that is not
// too long ago.
func (r *Reading) keepOld(w *work) {
	c := w.class
	if !r.fresh(c) {
		return
	}
	for _, id := range c.all {
		if r.q.jobs[id] == nil {
			return
		}
	}
	for _, id := range c.all {
		r.seen(w, id, nil)
	}
	w.done, w.old = true, true
}

// of are the jobs that are proved to wait and that a class is offered.
func (r *Reading) of(c *class) (jobs []*job) {
	byTag := r.q.waiting[c.place]
	if c.untagged {
		jobs = append(jobs, byTag[""]...)
	}
	for _, tag := range c.tags {
		for _, j := range byTag[tag] {
			if c.takes(j) {
				jobs = append(jobs, j)
			}
		}
	}
	return jobs
}

// explained finds out whether the list of a class is known: its number is that
// of the jobs known to be in it, or its pages were read to the end.
func (r *Reading) explained(w *work) {
	switch {
	case w.done || w.failed || w.count < 0:
	case w.count == 0:
		w.done = true
	case w.count <= gitlab.MaxQueueCount && len(r.unknown(w)) == 0 && r.found(w) == w.count:
		w.done = true
	default:
		pos, _ := w.covered()
		w.done = pos == 0
	}
}

// unknown are the newest jobs of a class of which nothing but the id is known.
func (r *Reading) unknown(w *work) (ids []int64) {
	for _, id := range w.newest {
		if r.q.jobs[id] == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// chain is the fewest pages of a class that reach from the newest job as far
// down as possible without a gap.
func (w *work) chain() (pages []span) {
	for pos := int64(top); pos > 0; pos = pages[len(pages)-1].last {
		best := -1
		for i, s := range w.spans {
			if s.from >= pos && s.last < pos && (best < 0 || s.last < w.spans[best].last) {
				best = i
			}
		}
		if best < 0 {
			break
		}
		pages = append(pages, w.spans[best])
	}
	return pages
}

// covered is how far down the chain reaches (0: to the end), and the cursor to
// go on from.
func (w *work) covered() (pos int64, cursor string) {
	pages := w.chain()
	if len(pages) == 0 {
		return top, ""
	}
	last := pages[len(pages)-1]
	return last.last, last.next
}

// missing are the pages of a class that are still to be read. At first the
// newest, as few rows as will do, and those where the pages of the last reading
// ended: they are read at once, and a gap between them after that.
func (r *Reading) missing(w *work) []gitlab.QueuePage {
	page := gitlab.QueuePage{Runner: w.class.representative, Details: true}
	if w.verify {
		page.After = w.class.pivots[len(w.class.pivots)-1].next
		return []gitlab.QueuePage{page}
	}
	if w.begun {
		_, page.After = w.covered()
		return []gitlab.QueuePage{page}
	}
	w.begun = true
	if unknown := r.unknown(w); len(unknown) > 0 && w.count <= gitlab.MaxQueueCount && r.found(w)+len(unknown) >= w.count {
		page.First = slices.Index(w.newest, unknown[len(unknown)-1]) + 1
		return []gitlab.QueuePage{page}
	}
	pages := []gitlab.QueuePage{page}
	for _, s := range w.class.pivots {
		if slices.ContainsFunc(w.spans, func(read span) bool { return read.from == s.last }) {
			continue
		}
		p := page
		p.After = s.next
		pages = append(pages, p)
	}
	return pages
}

// Take takes the answer to the last request.
func (r *Reading) Take(a gitlab.QueueAnswer, err error) {
	switch {
	case err != nil && r.wide:
		r.q.all.failed(r, err)
	case err != nil && len(r.q.opt.Projects) > 0 && refused(err):
		// One project that was deleted or hidden does not hide the others.
		r.refusal = err
		r.cut, r.project, r.page = true, r.project+1, 0
	case err != nil:
		r.err = err
		r.q.failed(err)
	case r.wide:
		r.q.all.take(r, a)
	case len(r.q.opt.Projects) > 0:
		r.takeProject(a.Jobs)
	case len(r.rights) > 0:
		r.takeRights(a.Rights)
	default:
		for i, got := range a.Pages {
			if r.pages[i].Details {
				r.takeRows(r.asked[i], r.pages[i], got)
			} else {
				r.takeSurvey(r.asked[i], got)
			}
		}
	}
}

func (r *Reading) takeSurvey(w *work, got gitlab.QueueJobs) {
	if got.Err != nil || got.Count < 0 {
		w.failed = true
		return
	}
	w.count = got.Count
	w.hidden = len(got.Jobs) < min(got.Count, surveyRows)
	for _, j := range got.Jobs {
		w.newest = append(w.newest, j.ID)
		switch known := r.q.jobs[j.ID]; {
		case known == nil:
		case known.tagsKnown && !w.class.takes(known): // as in takeRows
			w.failed = true
			return
		default:
			r.seen(w, j.ID, nil)
		}
	}
}

func (r *Reading) takeRows(w *work, p gitlab.QueuePage, got gitlab.QueueJobs) {
	if got.Err != nil {
		w.failed = true
		return
	}
	for _, row := range got.Jobs {
		// The list of a runner that was deleted meanwhile is that of all jobs.
		if row.TagsKnown && row.TagsOmitted == 0 && !fits(w.class.tags, w.class.untagged, sorted(row.Tags)) {
			w.failed = true
			return
		}
	}
	s := span{from: top, next: got.Next}
	if p.After != "" {
		s.from = r.idAt(w, p.After)
	}
	for _, row := range got.Jobs {
		r.seen(w, row.ID, &row)
		s.last = row.ID
	}
	if !got.More {
		s.last = 0
	}
	if p.First == 0 { // a part of a page is no evidence of what follows
		w.spans = append(w.spans, s)
	}
	if w.verify {
		r.verified(w, got)
	}
}

// seen records that a job of a class waits.
func (r *Reading) seen(w *work, id int64, row *gitlab.PendingJob) {
	r.q.seen(id, w.class.place, row)
	if !r.q.jobs[id].tagsKnown {
		if w.unlabeled == nil {
			w.unlabeled = map[int64]bool{}
		}
		w.unlabeled[id] = true
	}
}

// found is how many of a class are proved to wait.
func (r *Reading) found(w *work) int { return len(r.of(w.class)) + len(w.unlabeled) }

// all are the jobs of a class that are proved to wait.
func (r *Reading) all(w *work) []int64 {
	ids := slices.Collect(maps.Keys(w.unlabeled))
	for _, j := range r.of(w.class) {
		ids = append(ids, j.id)
	}
	return ids
}

// take takes over what was read of a job. What one answer lacks and an earlier one
// had stands: a job does not change its tags while it waits.
func (j *job) take(row gitlab.PendingJob) {
	if row.TagsKnown && row.TagsOmitted == 0 {
		j.tags, j.tagsKnown = sorted(row.Tags), true
	}
	if !row.QueuedAt.IsZero() {
		j.queuedAt = row.QueuedAt
	}
}

// idAt is the id that a cursor stands for.
func (r *Reading) idAt(w *work, cursor string) int64 {
	for _, list := range [][]span{w.spans, w.class.pivots} {
		for _, s := range list {
			if s.next == cursor {
				return s.last
			}
		}
	}
	return 0 // covers nothing
}

// keep records what was read of a class for the next reading.
func (w *work) keep(r *Reading) {
	c := w.class
	if w.failed {
		c.avoided, c.until = c.representative, r.q.round+avoidFor
	}
	if chain := w.chain(); len(chain) > 0 {
		end := chain[len(chain)-1].last
		for _, s := range c.pivots { // below what could be read, where they were
			if end > 0 && s.last < end {
				chain = append(chain, s)
			}
		}
		c.pivots = slices.DeleteFunc(chain, func(s span) bool { return s.last == 0 })
	}
	if !w.done || w.old {
		return
	}
	c.readAt, c.count, c.newest, c.all = r.q.round, w.count, w.newest, r.all(w)
}

func (r *Reading) nextProject() (gitlab.QueueRequest, bool) {
	if r.project >= len(r.q.opt.Projects) {
		return gitlab.QueueRequest{}, false
	}
	r.requests++
	return gitlab.QueueRequest{Project: r.q.opt.Projects[r.project], Page: r.page + 1}, true
}

// MaxProjectPages bounds what one project takes of a reading.
const MaxProjectPages = 10

func refused(err error) bool {
	reason := gitlab.ReasonOf(err)
	return reason == gitlab.ReasonNotFound || reason == gitlab.ReasonForbidden
}

func (r *Reading) takeProject(got gitlab.QueueJobs) {
	r.read++
	for _, row := range got.Jobs {
		r.q.seen(row.ID, place{}, &row)
	}
	if r.page++; got.More && r.page < MaxProjectPages {
		return
	}
	r.cut = r.cut || got.More
	r.project, r.page = r.project+1, 0
}
