package gitlabsim

import (
	"cmp"
	"net/http"
	"slices"
	"time"
)

// WaitingJob is a job that waits for a runner, and who could take it.
type WaitingJob struct {
	ID, Project int64
	Tags        []string
	Since       time.Time // pending since
	Protected   bool      // its ref is protected
	Registered  bool      // a registered runner could take it
	Available   bool      // one that is online and not paused could
}

// Queue is the truth about the jobs that wait now, by id.
func (w *World) Queue() []WaitingJob {
	w.lock()
	defer w.mu.Unlock()
	var out []WaitingJob
	for _, i := range w.waiting() {
		j := w.jobs.at(i)
		v := w.waitingJob(i)
		for _, r := range w.order {
			if !w.couldTake(r, j) {
				continue
			}
			v.Registered = true
			contact := w.runnerContact(r, w.now)
			if !r.paused() && contact != 0 && w.now-contact < w.f.onlineFor {
				v.Available = true
				break
			}
		}
		out = append(out, v)
	}
	return out
}

func (w *World) waitingJob(i int32) WaitingJob {
	j := w.jobs.at(i)
	return WaitingJob{
		ID: j.id, Project: w.projects[j.project].id, Tags: w.tagsets[j.tags], Since: w.time(j.queued), Protected: w.protectedRef(j),
	}
}

// waiting are the pending jobs, by id. Those that do not wait any more leave
// the list of open ones here, so that it stays as short as the queue.
func (w *World) waiting() []int32 {
	for ; w.opened < w.jobs.n; w.opened++ {
		w.open = append(w.open, index(w.opened))
	}
	w.open = slices.DeleteFunc(w.open, func(i int32) bool {
		j := w.jobs.at(i)
		return j.picked != 0 || j.final() || j.deleted != 0
	})
	var out []int32
	for _, i := range w.open { // in the order of ids
		if w.jobs.at(i).queued <= w.now {
			out = append(out, i)
		}
	}
	return out
}

// protectedRef: generated jobs of the default branch and of tags are of a
// protected ref, jobs by hand as they are specified.
func (w *World) protectedRef(j *job) bool {
	if j.has(byHand) {
		return j.has(onProtected)
	}
	seed := mix(uint64(w.pipelines[j.pipeline].id))
	ref := refs[seed%uint64(len(refs))]
	return ref == refs[0] || ref[0] == 'v'
}

// couldTake is GitLab's queue of a runner: by type, protected refs, tags and
// untagged jobs. Neither its state nor locked is asked (locked bounds to which
// projects a runner may be added).
func (w *World) couldTake(r *runner, j *job) bool {
	p := w.projects[j.project]
	switch r.typ {
	case instanceType:
	case groupType:
		if !p.group.under(r.group) {
			return false
		}
	case projectType:
		if !slices.Contains(r.projects, p) {
			return false
		}
	}
	return (!r.protected || w.protectedRef(j)) && r.takes(w.tagsets[j.tags])
}

// MaxCount is how far GitLab counts waiting jobs.
const MaxCount = 1000

// WaitingPage is a page of waiting jobs, the newest id first.
type WaitingPage struct {
	Jobs  []WaitingJob
	Count int // up to MaxCount + 1
	More  bool
}

// Waiting is what c sees of the jobs that could be a runner's: nothing, and no
// error, without the right to. No runner, or one that is gone: all waiting jobs,
// for administrators.
func (w *World) Waiting(c Caller, runner, after int64, first int) (out WaitingPage) {
	w.lock()
	defer w.mu.Unlock()
	r := w.runners[runner]
	if !c.Admin && (r == nil || !w.readsBuilds(c, r)) {
		return out
	}
	rows := w.waiting()
	for _, i := range slices.Backward(rows) {
		j := w.jobs.at(i)
		if r != nil && !w.couldTake(r, j) {
			continue
		}
		out.Count = min(out.Count+1, MaxCount+1)
		switch {
		case after != 0 && j.id >= after:
		case len(out.Jobs) < first:
			out.Jobs = append(out.Jobs, w.waitingJob(i))
		default:
			out.More = true
		}
	}
	return out
}

func (w *World) readsBuilds(c Caller, r *runner) bool {
	i := slices.IndexFunc(w.users, func(u *user) bool { return c.Known && u.id == c.UserID })
	return i >= 0 && w.users[i].available(r)
}

// MayUpdate is userPermissions.updateRunner: of administrators, and of
// maintainers of the project that owns a project runner. A maintainer of a group
// may not update its runners, though read their jobs. ok is false for a runner
// that the caller cannot see.
func (w *World) MayUpdate(c Caller, runner int64) (may, ok bool) {
	w.lock()
	defer w.mu.Unlock()
	r := w.runners[runner]
	switch {
	case r == nil || !c.Known:
		return false, false
	case c.Admin:
		return true, true
	case r.typ == instanceType:
		return false, true
	}
	reads := w.readsBuilds(c, r)
	return reads && r.typ == projectType, reads
}

// RunnerView is one runner; ok is false for one that c cannot see.
func (w *World) RunnerView(c Caller, id int64) (v RunnerView, ok bool) {
	if _, ok = w.MayUpdate(c, id); !ok {
		return v, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.runners[id]
	if r == nil {
		return v, false
	}
	return w.view(r, &call{w: w, now: w.now, at: w.now}), true
}

// projectJobs answers GET /projects/:id/jobs, of which only scope is simulated.
func (c *call) projectJobs() *failure {
	p, err := c.findProject()
	if err != nil {
		return err
	}
	scopes := c.list("scope")
	for _, s := range scopes {
		if !slices.Contains(allJobStatuses, s) {
			return message(http.StatusBadRequest, "400 Bad request - Scope contains invalid value(s)")
		}
	}
	pg, err := c.page()
	if err != nil {
		return err
	}
	var rows []int32
	if len(scopes) == 1 && scopes[0] == jobStates[pending] {
		for _, i := range c.w.waiting() {
			if c.w.jobs.at(i).project == p.idx {
				rows = append(rows, i)
			}
		}
	} else {
		for i := range index(c.w.jobs.n) {
			j := c.w.jobs.at(i)
			state := j.state
			if state == created && j.queued <= c.w.now {
				state = pending
			}
			if j.project == p.idx && j.deleted == 0 && (len(scopes) == 0 || slices.Contains(scopes, jobStates[state])) {
				rows = append(rows, i)
			}
		}
	}
	slices.SortFunc(rows, func(a, b int32) int { return cmp.Compare(b, a) })
	from, to := pg.bounds(len(rows))
	c.pageHeaders(pg, len(rows), true)
	b := []byte{'['}
	for k, i := range rows[from:to] {
		if k > 0 {
			b = append(b, ',')
		}
		b = c.w.appendFullJob(b, i, c)
	}
	b = append(b, ']')
	c.body = b
	return nil
}
