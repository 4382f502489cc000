package gitlabsim

import (
	"maps"
	"slices"
	"time"
)

// Truth is what is so, whatever the API shows: a copy taken at Now. Slices of
// tags are shared between its rows; do not change them.
type Truth struct {
	Now     time.Time
	Runners []RunnerTruth // living ones, by id
	Gone    []RunnerTruth // deleted ones, in the order of their deletion
	// Counts has every living runner once. TagCounts has it under each of its
	// tags, and under "(untagged)" if it takes untagged jobs.
	Counts    map[RunnerKind]int
	TagCounts map[string]map[RunnerKind]int
	// Executing are the jobs that run or are being canceled, by id.
	Executing []JobTruth
	// Finished has every job that a runner picked and that ended, in the order
	// of its end, rows and runners deleted since included.
	Finished []JobTruth
	// Pending are jobs that wait for a runner now.
	Pending []JobTruth
	// NeverPicked counts jobs that ended without a runner: not in Finished.
	NeverPicked int
}

// RunnerKind is what runners are counted by. Status is the reachability by
// GitLab's rules: online, offline, stale, never_contacted, paused or not.
type RunnerKind struct {
	Type, Status string
	Paused       bool
}

// RunnerTruth is one runner.
type RunnerTruth struct {
	ID          int64
	Type        string
	Description string
	Status      string // as in RunnerKind
	RESTStatus  string // the deprecated one, which may be "paused"
	Online      bool
	Paused      bool
	RunUntagged bool
	Protected   bool
	Timeout     time.Duration // of its jobs; 0: none
	Alive       bool          // a machine of it really contacts GitLab
	Tags        []string
	Group       int64
	Projects    []int64
	Created     time.Time
	Contacted   time.Time // as the API shows it; zero: never
	Deleted     time.Time
	Managers    []ManagerTruth
	Executing   []int64 // ids of its running and canceling jobs
}

// ManagerTruth is one machine.
type ManagerTruth struct {
	ID        int64
	SystemID  string
	Version   string
	Status    string
	Alive     bool
	Created   time.Time
	Contacted time.Time
	Executing int
}

// JobTruth is one job. Runner is 0 if none picked it.
type JobTruth struct {
	ID, Runner, Manager, Project, Pipeline int64
	RunnerType                             string
	Tags                                   []string // of the runner, when the job ended or now
	JobTags                                []string
	Status, Reason                         string
	Created, Started, Finished, Deleted    time.Time // zero: not
	Canceling                              time.Time
	Picked                                 time.Time     // Started, unless it failed at its assignment
	Queued                                 time.Duration // pending to picked; negative if it never started
	Duration                               time.Duration // negative if it never started
}

// Truth copies the world at Now. Finished, which grows, is in the order of the
// jobs' ends.
func (w *World) Truth() *Truth {
	w.lock()
	defer w.mu.Unlock()
	t := w.fleet()
	t.Finished = make([]JobTruth, 0, len(w.finished))
	for _, i := range w.finished {
		t.Finished = append(t.Finished, w.jobTruth(i))
	}
	return t
}

// FinishedAfter is the end of Truth's Finished, without the first n.
func (w *World) FinishedAfter(n int) (out []JobTruth) {
	w.lock()
	defer w.mu.Unlock()
	for _, i := range w.finished[n:] {
		out = append(out, w.jobTruth(i))
	}
	return out
}

// Fleet is Truth without Finished, which is what grows.
func (w *World) Fleet() *Truth {
	w.lock()
	defer w.mu.Unlock()
	return w.fleet()
}

func (w *World) fleet() *Truth {
	t := &Truth{
		Now: w.time(w.now), Counts: map[RunnerKind]int{}, TagCounts: map[string]map[RunnerKind]int{}, NeverPicked: w.noRunner,
	}
	var exec []int32
	for _, r := range w.order {
		rt := w.runnerTruth(r)
		t.Runners = append(t.Runners, rt)
		kind := RunnerKind{rt.Type, rt.Status, rt.Paused}
		t.Counts[kind]++
		under := func(tag string) {
			if t.TagCounts[tag] == nil {
				t.TagCounts[tag] = map[RunnerKind]int{}
			}
			t.TagCounts[tag][kind]++
		}
		for _, tag := range rt.Tags {
			under(tag)
		}
		if r.untagged {
			under("(untagged)")
		}
		exec = append(exec, r.exec...)
	}
	for _, r := range w.graveyard {
		t.Gone = append(t.Gone, w.runnerTruth(r))
		exec = append(exec, r.exec...)
	}
	slices.Sort(exec)
	for _, i := range exec {
		t.Executing = append(t.Executing, w.jobTruth(i))
	}
	for _, e := range w.events {
		if e.knd != evPick {
			continue
		}
		if j := w.jobs.at(e.arg); j.picked == 0 && !j.final() && j.deleted == 0 && j.queued <= w.now {
			t.Pending = append(t.Pending, w.jobTruth(e.arg))
		}
	}
	slices.SortFunc(t.Pending, func(a, b JobTruth) int { return int(a.ID - b.ID) })
	return t
}

// Job returns one job, deleted ones included.
func (w *World) Job(id int64) (JobTruth, bool) {
	w.lock()
	defer w.mu.Unlock()
	i, ok := w.jobs.find(id)
	if !ok {
		return JobTruth{}, false
	}
	return w.jobTruth(i), true
}

// Runner returns one runner, deleted ones included.
func (w *World) Runner(id int64) (RunnerTruth, bool) {
	w.lock()
	defer w.mu.Unlock()
	r := w.findRunner(id)
	if r == nil {
		return RunnerTruth{}, false
	}
	return w.runnerTruth(r), true
}

func (w *World) runnerTruth(r *runner) RunnerTruth {
	at := w.now
	contact := w.runnerContact(r, at)
	t := RunnerTruth{
		ID: r.id, Type: runnerTypes[r.typ], Description: r.desc, Status: w.statusAt(r.created, contact, at), Paused: r.paused(),
		Online: contact != 0 && at-contact < w.f.onlineFor, RunUntagged: r.untagged, Protected: r.protected, Timeout: time.Duration(r.timeout) * time.Second, Alive: r.up(),
		Tags: r.tagList(), Created: w.time(r.created), Contacted: w.time(contact), Deleted: w.time(r.deleted),
	}
	t.RESTStatus = t.Status
	if t.Paused && (t.Status == "online" || t.Status == "offline") {
		t.RESTStatus = "paused"
	}
	if r.group != nil {
		t.Group = r.group.id
	}
	for _, p := range r.projects {
		t.Projects = append(t.Projects, p.id)
	}
	for _, m := range r.managers {
		c := w.cached(m.contactAt(at), m.dbAt(at), at)
		t.Managers = append(t.Managers, ManagerTruth{
			ID: m.id, SystemID: m.systemID, Version: m.version, Status: w.statusAt(m.created, c, at), Alive: m.alive,
			Created: w.time(m.created), Contacted: w.time(c), Executing: int(m.exec),
		})
	}
	for _, i := range r.exec {
		t.Executing = append(t.Executing, w.jobs.at(i).id)
	}
	return t
}

func (w *World) jobTruth(i int32) JobTruth {
	j := w.jobs.at(i)
	t := JobTruth{
		ID: j.id, Project: w.projects[j.project].id, Pipeline: w.pipelines[j.pipeline].id, JobTags: w.tagsets[j.tags],
		Status: jobStates[j.state], Reason: w.reasons[j.reason], Created: w.time(j.created), Picked: w.time(j.picked),
		Deleted: w.time(j.deleted), Queued: -1, Duration: -1,
	}
	if j.state == created && j.queued <= w.now {
		t.Status = jobStates[pending]
	}
	if j.state != failed {
		t.Reason = ""
	}
	if j.picked != 0 {
		r := w.all[j.runner-1]
		t.Runner, t.RunnerType, t.Tags = r.id, runnerTypes[r.typ], r.tagList()
		if j.final() {
			t.Tags = r.tagsAt(j.finished)
		}
		if j.manager > 0 {
			t.Manager = w.machines[j.manager-1].id
		}
		if !j.has(noStart) {
			t.Started = t.Picked
			t.Queued = time.Duration(max(0, j.picked-j.queued)) * time.Millisecond
			end := w.now
			if j.final() {
				end = j.finished
			}
			t.Duration = time.Duration(end-j.picked) * time.Millisecond
		}
	}
	if j.state == canceling || j.final() {
		t.Canceling = w.time(j.cancelAt)
	}
	if j.final() {
		t.Finished = w.time(j.finished)
	}
	return t
}

// Requests counts the requests by route, such as "GET /runners/:id/jobs".
func (w *World) Requests() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.counts)
}

// RequestsByStatus counts the requests by the status of their answer, 0 for
// those that got none.
func (w *World) RequestsByStatus() map[int]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.byStatus)
}

// Log returns the latest requests, at most 65,536, the oldest first.
func (w *World) Log() []LogEntry {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Concat(w.log[w.logNext:], w.log[:w.logNext])
}
