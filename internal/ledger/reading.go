package ledger

import (
	"fmt"
	"math"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
)

// Reading is a JobsPoll or a Walk: it decides what GitLab is asked and in what
// order, and folds the answers. The caller alternates Next and Take until Next
// returns false, and then calls End.
type Reading interface {
	// Next is what to ask GitLab for; false: nothing any more.
	Next() (Request, bool)
	// Take folds the answer to the last request, or notes its failure.
	Take(Answer, error)
	// End moves the marks of a reading that came to its end. What was folded
	// stays also where the caller stops before.
	End() Outcome
}

// Request is a page of a runner's jobs or, where Job is set, one job by itself.
type Request struct {
	Page gitlab.JobsQuery
	Job  Ask
}

// OneJob reports whether one job is asked for by itself.
func (q Request) OneJob() bool { return q.Job != (Ask{}) }

// Answer is the answer to a Request: Page, or Job.
type Answer struct {
	Page gitlab.JobsPage
	Job  gitlab.Job
}

// Outcome is how a reading ended.
type Outcome struct {
	Err  error
	Gone bool // GitLab itself answered 404 for the runner's list of jobs
	// Deep: all rows down to lookback were read, by a walk or by a poll of a short list.
	Deep bool
	// Began is when a deep reading began, as the caller's clock showed it; zero:
	// a process before began it.
	Began time.Time
}

// Listed is what the last listing of runners showed of a runner.
type Listed struct {
	Idle      bool // it executes nothing
	Executing int  // so many jobs; -1: not known since its jobs were last read
	At        time.Time
}

// Every reading ends: a server, or a proxy before it, that names a next page
// for ever must not hold a worker and the budget for ever.
const (
	// runningPages bound the list of what a runner executes: 10,000 jobs.
	runningPages = 100
	// asksMost is how many watched jobs a poll asks for one by one; the next
	// poll asks for others.
	asksMost = 500
	// walkPages bound a walk, for each day of lookback: 2 million jobs.
	walkPages = 20_000
	// idlePages are the pages in a row that may show nothing new while rows
	// shift, idleWalkPages those of a walk, which goes back where rows were deleted.
	idlePages     = 3
	idleWalkPages = 10
)

// descent follows a list that is read page by page, newest id first: each page
// must lead further down.
type descent struct {
	what   string
	most   int   // pages
	idle   int   // pages in a row that may lead nowhere
	lowest int64 // id so far
	pages  int
	still  int // pages in a row that led nowhere
}

// page notes a page that names a next one; an error reports a list that does not end.
func (d *descent) page(jobs []gitlab.Job) error {
	d.pages++
	d.still++
	for i := range jobs {
		if d.lowest == 0 || jobs[i].ID < d.lowest {
			d.lowest, d.still = jobs[i].ID, 0
		}
	}
	switch {
	case d.still >= d.idle:
		return endless(fmt.Sprintf("%s does not end: %d pages in a row name a next one and show no job that was not on the pages before", d.what, d.still))
	case d.pages >= d.most:
		return endless(fmt.Sprintf("%s does not end after %d pages", d.what, d.pages))
	}
	return nil
}

func endless(message string) error {
	return &gitlab.Error{Reason: gitlab.ReasonDecode, Route: gitlab.RouteRunnerJobs, Message: message}
}

// pollStep is what a poll reads at a time.
type pollStep uint8

// The steps. The list of running jobs comes first, or after the newest rows
// where those were expected to show all that executes, and do not.
const (
	readRunning pollStep = iota
	readNewest
	readRest
	askMissing
	pollOver
	pollFailed
)

// JobsPoll is one reading of a runner's jobs (docs/counting.md): what executes
// now, the newest rows, then each watched job that was in neither.
type JobsPoll struct {
	*poll

	began    time.Time // by the caller's clock
	step     pollStep
	top      gitlab.JobsQuery // the first page of the newest rows
	query    gitlab.JobsQuery // the page to read next
	list     descent
	running  []gitlab.Job
	expected int // jobs that the newest rows should show executing; -1: not known
	asks     []Ask
	gone     bool
	err      error
}

// Poll begins a poll at now (the ledger's time, from Advance), which is local by
// the caller's clock. Walks begin every walkEvery. It is nil for a runner that
// was never listed.
func (l *Ledger) Poll(id int64, now, local time.Time, listed Listed, walkEvery time.Duration) *JobsPoll {
	base := l.poll(id, now)
	if base == nil {
		return nil
	}
	p := &JobsPoll{poll: base, began: local, expected: -1}
	needed := base.needsExecuting(listed.Idle)
	if listed.Executing >= 0 && base.expects(listed.At) && needed {
		p.expected = listed.Executing
	}
	p.top = gitlab.JobsQuery{RunnerID: id, Page: 1, Rows: base.rows(walkEvery)}
	if !l.noKeyset && base.byKeyset() {
		p.top = gitlab.JobsQuery{RunnerID: id, Keyset: true}
	}
	if needed && p.expected < 0 {
		p.begin(readRunning)
	} else {
		p.begin(readNewest)
	}
	return p
}

func (p *JobsPoll) begin(step pollStep) {
	p.step = step
	switch step {
	case readRunning, readRest:
		p.query = gitlab.JobsQuery{RunnerID: p.r.id, Status: "running", Page: 1}
		p.list = descent{what: "the list of running jobs", most: runningPages, idle: idlePages}
	case readNewest:
		p.query = p.top
		p.list = descent{what: "the list of the newest jobs", most: math.MaxInt, idle: idlePages} // pollPages bounds it
	case askMissing:
		p.asks = p.missing()
		p.asks = p.asks[:min(len(p.asks), asksMost)]
		if len(p.asks) == 0 {
			p.step = pollOver
		}
	case pollOver, pollFailed:
	}
}

// Next implements Reading.
func (p *JobsPoll) Next() (Request, bool) {
	switch p.step {
	case pollOver, pollFailed:
		return Request{}, false
	case askMissing:
		return Request{Job: p.asks[0]}, true
	default:
		return Request{Page: p.query}, true
	}
}

// Take implements Reading.
func (p *JobsPoll) Take(a Answer, err error) {
	switch {
	case p.step == askMissing:
		p.takeJob(a.Job, err)
	case gitlab.ReasonOf(err) == gitlab.ReasonNotFound:
		p.gone = true
		p.runnerGone()
		p.begin(askMissing)
	case err != nil:
		p.err, p.step = err, pollFailed
	case p.step == readNewest:
		p.takeNewest(a.Page)
	default:
		p.takeRunning(a.Page)
	}
}

func (p *JobsPoll) takeRunning(page gitlab.JobsPage) {
	p.running = append(p.running, page.Jobs...)
	if page.Next != 0 {
		p.descend(page.Jobs, gitlab.JobsQuery{RunnerID: p.r.id, Status: "running", Page: page.Next})
		return
	}
	p.executing(p.running) // not before: what an endless list invents is not watched
	if p.step == readRunning {
		p.begin(readNewest)
	} else {
		p.begin(askMissing)
	}
}

func (p *JobsPoll) takeNewest(page gitlab.JobsPage) {
	more := p.newest(page)
	p.l.answeredBy(p.query, page)
	switch {
	case more && p.query.Rows > 0: // a few were too few: from the top, by full pages
		p.again()
		p.query.Rows = 0
	case more && page.Cursor != "":
		p.descend(page.Jobs, gitlab.JobsQuery{RunnerID: p.r.id, Keyset: true, Cursor: page.Cursor})
	case more:
		p.descend(page.Jobs, gitlab.JobsQuery{RunnerID: p.r.id, Page: page.Next})
	case p.expected >= 0 && !p.explains(p.expected):
		p.begin(readRest)
	default:
		p.begin(askMissing)
	}
}

// descend goes on to the next page of a list, unless the list does not end.
func (p *JobsPoll) descend(jobs []gitlab.Job, next gitlab.JobsQuery) {
	p.query = next
	if p.err = p.list.page(jobs); p.err != nil {
		p.step = pollFailed
	}
}

func (p *JobsPoll) takeJob(job gitlab.Job, err error) {
	switch reason := gitlab.ReasonOf(err); reason {
	case "":
		p.asked(job)
	case gitlab.ReasonNotFound, gitlab.ReasonForbidden:
		p.refused(p.asks[0].Job, reason == gitlab.ReasonForbidden)
	default:
		p.err = err // the others may still answer
	}
	if p.asks = p.asks[1:]; len(p.asks) == 0 {
		p.step = pollOver
	}
}

// Whole reports whether both lists were read to their end: jobs that were then
// asked for one by one may still have failed.
func (p *JobsPoll) Whole() bool { return p.step == pollOver && !p.gone }

// End implements Reading.
func (p *JobsPoll) End() Outcome {
	o := Outcome{Err: p.err, Gone: p.gone}
	if !p.Whole() {
		return o
	}
	deep := p.r.deep
	p.done(true)
	if p.r.deep > deep {
		o.Deep, o.Began = true, p.began
	}
	return o
}

// walking is what this process has of a runner's walk under way.
type walking struct {
	descent

	started int64     // walkState.started; distinguishes one walk of a runner from the next
	began   time.Time // by the caller's clock; zero: an earlier process began it
	endless bool      // the one before did not end
}

// Walk is one page of the deeper walk of a runner's jobs; the next page is a
// reading of its own, so that a long walk never holds up what is more urgent.
type Walk struct {
	*walk

	local time.Time // by the caller's clock
	query gitlab.JobsQuery
	taken bool
	out   Outcome
}

// Walk begins a walk at now (the ledger's time), which is local by the caller's
// clock, or goes on with the one under way. It is nil for a runner that was
// never listed.
func (l *Ledger) Walk(id int64, now, local time.Time) *Walk {
	resumed := l.Walking(id)
	base := l.walk(id, now)
	if base == nil {
		return nil
	}
	w := &Walk{walk: base, local: local, query: base.query(!l.noKeyset)}
	w.follow(resumed)
	return w
}

// follow makes the state of a walk that this process has not met before.
func (w *Walk) follow(resumed bool) {
	before := w.r.walking
	if before != nil && before.started == w.r.walk.started {
		return
	}
	days := max(1, int(w.l.opts.Lookback/(24*time.Hour)))
	w.r.walking = &walking{
		descent: descent{what: "the deeper walk", most: walkPages * days, idle: idleWalkPages},
		started: w.r.walk.started,
		endless: before != nil && before.endless,
	}
	if !resumed {
		w.r.walking.began = w.local
	}
}

// Next implements Reading.
func (w *Walk) Next() (Request, bool) { return Request{Page: w.query}, !w.taken }

// Take implements Reading.
func (w *Walk) Take(a Answer, err error) {
	w.taken, w.out.Err = true, err
	switch gitlab.ReasonOf(err) {
	case "":
		w.take(a.Page)
	case gitlab.ReasonNotFound:
		w.out.Gone = true
	case gitlab.ReasonBadRequest:
		if w.query.Keyset {
			w.l.noKeyset = true // not offered here, or the cursor is of another release
		}
		w.anew()
	default:
	}
}

func (w *Walk) take(page gitlab.JobsPage) {
	w.l.answeredBy(w.query, page)
	under := w.r.walking
	if w.page(page) {
		w.out.Deep, w.out.Began = true, under.began
		w.r.walking = nil
		return
	}
	if w.out.Err = under.page(page.Jobs); w.out.Err != nil && under.pages >= under.most {
		under.endless = true
		w.anew()
	}
}

// anew begins the walk anew.
func (w *Walk) anew() {
	w.restart()
	w.follow(false)
}

// End implements Reading.
func (w *Walk) End() Outcome { return w.out }

// WalkWanted reports whether a runner is to be walked before reconcile_interval
// is over: a walk is under way, or its list grew by more than was met.
func (l *Ledger) WalkWanted(id int64) bool {
	r := l.runners[id]
	return r != nil && (r.walk.started != 0 || r.hinted)
}

// WalkEndless reports whether the walk of a runner under way follows one that
// did not end: a page more of it is no success yet.
func (l *Ledger) WalkEndless(id int64) bool {
	r := l.runners[id]
	return r != nil && r.walking != nil && r.walking.endless
}

// answeredBy notes a server that answers a keyset query by number: it does not
// know the parameter.
func (l *Ledger) answeredBy(q gitlab.JobsQuery, p gitlab.JobsPage) {
	if q.Keyset && !p.Keyset {
		l.noKeyset = true
	}
}

// Upgraded notes that GitLab's release changed: keyset paging is tried again.
func (l *Ledger) Upgraded() { l.noKeyset = false }
