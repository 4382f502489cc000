package gitlabsim

import (
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

type jobState uint8

const (
	created   jobState = iota // waits for its stage, its delay or a person
	pending                   // waits for a runner
	running                   //
	canceling                 //
	success                   //
	failed                    //
	canceled                  //
	numJobStates
)

var jobStates = [numJobStates]string{"created", "pending", "running", "canceling", "success", "failed", "canceled"}

// allJobStatuses is GitLab's whole enumeration (docs/gitlab-api.md 4.1).
var allJobStatuses = []string{
	"created", "waiting_for_resource", "preparing", "waiting_for_callback", "pending", "running", "success",
	"failed", "canceling", "canceled", "skipped", "manual", "scheduled",
}

const (
	byHand        uint8 = 1 << iota // planned by a person: nothing changes its end
	noStart                         // fails at its assignment: never started
	noFinish                        // failed without finished_at, as older releases write
	willRetry                       // run again after it fails
	noCommit                        // Gitaly does not know its commit
	instantCancel                   // its runner does not support canceling
	onProtected                     // by hand, and of a protected ref
)

// job is one row of p_ci_builds. A world may hold millions: times are
// milliseconds, names are numbers, and what the API shows beyond them is
// derived from the ids.
type job struct {
	id                int64
	created, queued   int64 // queued: pending since
	picked            int64 // a runner took it: started_at unless noStart
	cancelAt          int64 // canceling since
	finished          int64 // planned end, until the state is final
	deleted           int64
	runner, manager   int32 // idx+1; a hint until picked
	project, pipeline int32 // idx
	next              int32 // idx+1 of the row that ran it again
	length            int32 // ms it will run, if generated
	name, tags        uint16
	reason            uint8
	state, plan       jobState // as it is; as it will end
	flags             uint8
}

func (j *job) executing() bool  { return j.state == running || j.state == canceling }
func (j *job) final() bool      { return j.state >= success }
func (j *job) has(f uint8) bool { return j.flags&f != 0 }

// stateAt is the state as a reader of an older replica sees it; ok is false
// where the row is not attributed to a runner yet, or gone.
func (j *job) stateAt(t int64) (s jobState, ok bool) {
	switch {
	case j.picked == 0 || j.picked > t || j.deleted != 0 && j.deleted <= t:
		return j.state, false
	case j.final() && j.finished <= t:
		return j.state, true
	case j.cancelAt != 0 && j.cancelAt <= t:
		return canceling, true
	}
	return running, true
}

const jobChunk = 8192

// jobStore holds all rows by id: ids only grow, so the index keeps their order.
type jobStore struct {
	chunks [][]job
	n      int
}

func (s *jobStore) at(i int32) *job { return &s.chunks[i/jobChunk][i%jobChunk] }

func (s *jobStore) add(j job) int32 {
	if s.n%jobChunk == 0 {
		s.chunks = append(s.chunks, make([]job, 0, jobChunk))
	}
	c := len(s.chunks) - 1
	s.chunks[c] = append(s.chunks[c], j)
	s.n++
	return index(s.n - 1)
}

func (s *jobStore) find(id int64) (int32, bool) {
	lo, hi := 0, s.n
	for lo < hi {
		if m := (lo + hi) / 2; s.at(index(m)).id < id {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return index(lo), lo < s.n && s.at(index(lo)).id == id
}

type pipeline struct {
	id, created int64
	project     int32
	first, n    int32 // jobs of its creation; retried rows hang on job.next
}

type jobName struct{ name, stage string }

var generatedNames = [3][]jobName{
	{{"build", "build"}, {"build-image", "build"}, {"compile: [amd64]", "build"}, {"compile: [arm64]", "build"}},
	{{"unit", "test"}, {"rspec 1/4", "test"}, {"rspec 2/4", "test"}, {"lint", "test"}, {"integration", "test"}, {"sast", "test"}},
	{{"deploy-staging", "deploy"}, {"deploy-production", "deploy"}, {"release", "deploy"}, {"pages", "deploy"}},
}

func (w *World) nameID(n jobName) uint16 {
	id, ok := w.nameIndex[n]
	if !ok && len(w.names) < math.MaxUint16 {
		id = uint16(len(w.names))
		w.names = append(w.names, n)
		w.nameIndex[n] = id
	}
	return id
}

func (w *World) tagset(tags []string) uint16 {
	key := strings.Join(tags, ",")
	id, ok := w.tagIndex[key]
	if !ok && len(w.tagsets) < math.MaxUint16 {
		id = uint16(len(w.tagsets))
		w.tagsets = append(w.tagsets, slices.Clone(tags))
		w.tagIndex[key] = id
	}
	return id
}

// reason numbers a failure reason, translated into what this release has
// (docs/gitlab-api.md 4.5).
func (w *World) reason(s string) uint8 {
	if !w.f.newReasons {
		switch {
		case s == "job_execution_server_timeout":
			s = "job_execution_timeout"
		case strings.HasPrefix(s, "no_updates_"), strings.HasPrefix(s, "server_timeout_"), strings.HasPrefix(s, "stuck_pending_"):
			s = "stuck_or_timeout_failure"
		case s == "runner_configuration_error", s == "runner_external_dependency_failure", s == "runner_interrupted", s == "job_router_failure":
			s = "runner_system_failure"
		case s == "id_token_burned_project_path", s == "downstream_project_trigger_resolved_to_empty":
			s = "unknown_failure"
		}
	}
	id, ok := w.reasonIdx[s]
	if !ok && len(w.reasons) < math.MaxUint8 {
		id = uint8(len(w.reasons))
		w.reasons = append(w.reasons, s)
		w.reasonIdx[s] = id
	}
	return id
}

// assignmentReasons fail a job before it starts, but on its runner (docs/gitlab-api.md 4.1).
var assignmentReasons = []string{"runner_unsupported", "missing_dependency_failure", "archived_failure", "ip_restriction_failure"}

func (w *World) shapeReasons() {
	sum := 0.0
	for _, name := range slices.Sorted(maps.Keys(w.opt.Shape.Reasons)) {
		if v := w.opt.Shape.Reasons[name]; v > 0 {
			sum += v
			w.reasonName = append(w.reasonName, name)
			w.reasonSum = append(w.reasonSum, sum)
		}
	}
}

func (w *World) randomReason() string {
	if len(w.reasonSum) == 0 {
		return "script_failure"
	}
	x := w.rng.Float64() * w.reasonSum[len(w.reasonSum)-1]
	i, _ := slices.BinarySearch(w.reasonSum, x)
	return w.reasonName[min(i, len(w.reasonName)-1)]
}

// meanJobs is the mean number of jobs of a generated pipeline.
const meanJobs = 3.5

func (w *World) nextPipelineIn() int64 {
	s := w.opt.Shape
	// A job that is run again may fail again: a geometric series.
	perHour := w.opt.JobsPerHour / meanJobs * max(0.01, 1-s.FailedShare*s.RetryShare)
	if w.opt.Daily {
		perHour *= w.wave()
	}
	return max(1, int64(w.rng.ExpFloat64()*float64(hour)/perHour))
}

func (w *World) randomLength() int32 {
	s := w.opt.Shape
	if w.rng.Float64() < s.ShortShare {
		return 500 + int32(w.rng.Float64()*float64(s.ShortMax.Milliseconds()))
	}
	const sigma = 1.0
	d := float64(s.MeanDuration.Milliseconds()) * math.Exp(sigma*w.rng.NormFloat64()-sigma*sigma/2)
	return int32(max(1, min(d, float64(s.MaxDuration.Milliseconds()), math.MaxInt32)))
}

// generate creates a pipeline with all its jobs, as GitLab does: ids are given
// now, starts may be hours away (docs/gitlab-api.md 4.2).
func (w *World) generate(t int64) {
	if w.quiet {
		return
	}
	w.pickables()
	if len(w.pickable) == 0 {
		return
	}
	home := w.randomRunnerForJob()
	proj := w.projectFor(home)
	w.lastPipe += 1 + int64(w.rng.IntN(3))
	p := pipeline{id: w.lastPipe, created: t, project: proj, first: index(w.jobs.n)}
	n := 1 + w.rng.IntN(6)
	stageStart, stageEnd := t, t
	stage := 0
	for k := range n {
		if s := k * 3 / n; s != stage {
			stage, stageStart = s, stageEnd
		}
		j := w.draw(t)
		j.project, j.pipeline = proj, index(len(w.pipelines))
		j.name = w.nameID(generatedNames[stage][w.rng.IntN(len(generatedNames[stage]))])
		j.queued = max(stageStart, j.created) + int64(w.rng.IntN(900))
		if w.rng.Float64() < w.opt.Shape.LateShare {
			u := w.rng.Float64()
			j.queued += minute + int64(u*u*float64(w.opt.Shape.LateMax.Milliseconds()))
		}
		r := home
		if k > 0 {
			r = w.randomRunnerForJob()
		}
		j.runner = r.idx + 1
		if tags := r.tagList(); len(tags) > 0 && (!r.untagged || w.rng.IntN(4) > 0) {
			j.tags = w.tagset(tags[:1+w.rng.IntN(1+len(tags)/3)])
		}
		pick := j.queued + w.queueTime()
		stageEnd = max(stageEnd, pick+int64(j.length))
		i := w.jobs.add(j)
		w.push(pick, evPick, i)
	}
	p.n = index(n)
	w.pipelines = append(w.pipelines, p)
	if s := w.opt.Shape; s.DeletedShare > 0 && w.rng.Float64() < s.DeletedShare {
		w.push(t+int64(w.rng.ExpFloat64()*float64(s.DeletedAfter.Milliseconds())), evDelete, index(len(w.pipelines)-1))
	}
}

func (w *World) queueTime() int64 {
	q := w.rng.ExpFloat64() * float64(w.opt.Shape.MeanQueued.Milliseconds())
	if w.opt.Daily {
		q *= w.wave() * w.wave()
	}
	if w.rng.IntN(50) == 0 {
		q *= 20
	}
	return int64(q)
}

// draw decides a generated job's fate, and gives it an id and a creation time
// that is only nearly in the order of ids: several nodes write.
func (w *World) draw(t int64) job {
	s := w.opt.Shape
	w.lastJob += 1 + int64(w.rng.IntN(3))
	j := job{id: w.lastJob, created: max(1, t-int64(w.rng.IntN(1500))), length: w.randomLength(), plan: success}
	if w.rng.IntN(40) == 0 {
		j.flags |= noCommit
	}
	if w.rng.IntN(3) == 0 || !w.f.canceling {
		j.flags |= instantCancel
	}
	switch x := w.rng.Float64(); {
	case x < s.FailedShare:
		j.plan = failed
		reason := w.randomReason()
		j.reason = w.reason(reason)
		if slices.Contains(assignmentReasons, reason) {
			j.flags |= noStart
		}
		if w.rng.Float64() < s.RetryShare {
			j.flags |= willRetry
		}
	case x < s.FailedShare+s.CanceledShare:
		j.plan = canceled
	}
	return j
}

func (w *World) projectFor(r *runner) int32 {
	switch r.typ {
	case projectType:
		return r.projects[w.rng.IntN(len(r.projects))].idx
	case instanceType:
	case groupType:
		for range 20 {
			if p := w.projects[w.rng.IntN(len(w.projects))]; p.group.under(r.group) {
				return p.idx
			}
		}
	}
	return index(w.rng.IntN(len(w.projects)))
}

// pickables brings the tables by which runners are drawn up to date.
func (w *World) pickables() {
	if !w.pickDirty {
		return
	}
	w.pickDirty = false
	w.pickable, w.pickSum, w.byTag = w.pickable[:0], w.pickSum[:0], map[string][]*runner{}
	sum := 0.0
	for _, r := range w.order {
		if r.weight <= 0 {
			continue
		}
		sum += r.weight
		w.pickable = append(w.pickable, r)
		w.pickSum = append(w.pickSum, sum)
		for _, t := range r.tagList() {
			w.byTag[t] = append(w.byTag[t], r)
		}
		if r.untagged {
			w.byTag[""] = append(w.byTag[""], r)
		}
	}
}

func (w *World) randomRunnerForJob() *runner {
	var r *runner
	// Few people send jobs to a runner that is down: some do.
	for range 3 {
		i, _ := slices.BinarySearch(w.pickSum, w.rng.Float64()*w.pickSum[len(w.pickSum)-1])
		if r = w.pickable[min(i, len(w.pickable)-1)]; r.ready() {
			break
		}
	}
	return r
}

func (r *runner) ready() bool { return r.deleted == 0 && !r.paused() && r.up() }

func (r *runner) takes(tags []string) bool {
	if len(tags) == 0 {
		return r.untagged
	}
	have := r.tagList()
	for _, t := range tags {
		if !slices.Contains(have, t) {
			return false
		}
	}
	return true
}

// giveUpAfter is when GitLab fails a job that no runner takes.
const giveUpAfter = day

// tryPick lets a runner take a pending job, or has it wait on.
func (w *World) tryPick(i int32, t int64) {
	j := w.jobs.at(i)
	if j.picked != 0 || j.final() || j.deleted != 0 {
		return
	}
	j.state = pending
	if j.has(byHand) {
		if j.runner > 0 && w.all[j.runner-1].deleted == 0 {
			w.pick(i, w.all[j.runner-1], t)
		}
		return
	}
	tags := w.tagsets[j.tags]
	r := w.all[j.runner-1]
	if !r.ready() || !r.takes(tags) {
		r = nil
		w.pickables()
		first := ""
		if len(tags) > 0 {
			first = tags[0]
		}
		if list := w.byTag[first]; len(list) > 0 {
			at := w.rng.IntN(len(list))
			for k := range min(len(list), 64) {
				if c := list[(at+k)%len(list)]; c.ready() && c.takes(tags) {
					r = c
					break
				}
			}
		}
	}
	switch {
	case r != nil:
		w.pick(i, r, t)
	case t-j.queued > giveUpAfter:
		j.state, j.finished, j.runner = failed, t, 0
		j.reason = w.reason("stuck_pending_no_matching_runners")
		w.noRunner++
	default:
		w.push(t+30*second+int64(w.rng.IntN(60_000)), evPick, i)
	}
}

// tick lets the peers of a runner contact GitLab, which offers them the job that
// it picks.
func (w *World) tick(r *runner, t int64) {
	if w.peers == nil {
		w.peers = map[peerKey][]*runner{}
		for _, o := range w.order {
			w.peers[o.peerKey()] = append(w.peers[o.peerKey()], o)
		}
	}
	for _, o := range w.peers[r.peerKey()] {
		if o == r || o.paused() {
			continue
		}
		for _, m := range o.managers {
			m.touch(t)
		}
	}
}

// peerKey is equal for runners that take the same jobs.
type peerKey struct {
	typ                 runnerType
	group               *group
	project             *project
	untagged, protected bool
	tags                string
}

func (r *runner) peerKey() peerKey {
	k := peerKey{typ: r.typ, group: r.group, untagged: r.untagged, protected: r.protected, tags: strings.Join(r.tagList(), "\x00")}
	if len(r.projects) > 0 {
		k.project = r.projects[0]
	}
	return k
}

// pick hands a job to a runner.
func (w *World) pick(i int32, r *runner, t int64) {
	j := w.jobs.at(i)
	var m *manager
	if j.manager > 0 {
		m = w.machines[j.manager-1]
	} else {
		// The job's number decides: rng is not asked, so that jobs by hand do not change the world's course.
		alive := 0
		for _, c := range r.managers {
			if c.alive {
				alive++
			}
		}
		for _, c := range r.managers {
			if c.alive {
				if alive--; m == nil || hash(j.id+int64(alive), int64(alive)+2) == 0 {
					m = c
				}
			}
		}
		if m == nil && len(r.managers) > 0 {
			m = r.managers[0]
		}
	}
	j.runner, j.picked = r.idx+1, t
	// A job queued for a runner lets all its machines through to Rails (docs/gitlab-api.md 3.3).
	for _, c := range r.managers {
		c.touch(t)
	}
	if w.opt.TickPeers {
		w.tick(r, t)
	}
	if m != nil {
		j.manager = m.idx + 1
	}
	at, _ := slices.BinarySearch(r.jobs, i)
	r.jobs = slices.Insert(r.jobs, at, i)
	if !j.has(byHand) && r.blackHole && !j.has(noStart) {
		j.plan, j.reason, j.length = failed, w.reason("runner_system_failure"), 2000+w.rng.Int32N(3000)
	}
	if j.has(noStart) {
		if !w.f.noStartFinished {
			j.flags |= noFinish
		}
		j.finished = t
		w.settle(i, r)
		return
	}
	j.state = running
	at, _ = slices.BinarySearch(r.exec, i)
	r.exec = slices.Insert(r.exec, at, i)
	if m != nil {
		if m.exec++; m.exec == 1 {
			m.execSince = t
		}
	}
	switch {
	case j.has(byHand):
		if j.cancelAt != 0 {
			w.push(max(t, j.cancelAt), evCancel, i)
		} else if j.finished != 0 {
			j.finished = max(j.finished, t)
			w.push(j.finished, evEnd, i)
		}
	case j.plan == canceled:
		j.finished = t + int64(j.length)
		w.push(t+int64(w.rng.Float64()*float64(j.length)), evCancel, i)
	default:
		j.finished = t + int64(j.length)
		w.push(j.finished, evEnd, i)
	}
}

// cancel cancels a job: one that runs is canceling first, where GitLab and its
// runner know that status, and ends canceled whatever the runner reports.
func (w *World) cancel(i int32, t int64) {
	j := w.jobs.at(i)
	switch {
	case j.deleted != 0 || j.final() || j.state == canceling:
	case j.state != running:
		j.state, j.finished, j.runner = canceled, t, 0
		w.noRunner++
	default:
		j.plan, j.reason = canceled, 0
		if j.has(instantCancel) {
			w.end(i, t)
			return
		}
		length := w.opt.Shape.CancelingLength.Milliseconds()
		length = length/2 + hash(j.id, length+1)
		if j.has(byHand) && j.finished > t {
			length = j.finished - t
		}
		j.state, j.cancelAt, j.finished = canceling, t, t+length
		w.push(j.finished, evEnd, i)
	}
}

// end makes an executing job final.
func (w *World) end(i int32, t int64) {
	j := w.jobs.at(i)
	r := w.all[j.runner-1]
	w.leaveExec(i, r, t)
	j.finished = t
	w.settle(i, r)
}

func (w *World) leaveExec(i int32, r *runner, t int64) {
	if at, ok := slices.BinarySearch(r.exec, i); ok {
		r.exec = slices.Delete(r.exec, at, at+1)
		if j := w.jobs.at(i); j.manager > 0 {
			m := w.machines[j.manager-1]
			m.touch(t)
			m.exec--
		}
	}
}

func (w *World) settle(i int32, r *runner) {
	j := w.jobs.at(i)
	j.state = j.plan
	if j.plan != failed {
		j.reason = 0
	}
	w.finished = append(w.finished, i)
	if j.has(willRetry) && j.plan == failed && r.deleted == 0 {
		w.push(j.finished+10*second+hash(j.id, 2*minute), evRetry, i)
	}
}

// orphan is what becomes of the jobs of a machine that died: GitLab fails them
// when an hour has passed without an update.
func (w *World) orphan(r *runner, m *manager) {
	for _, i := range r.exec {
		j := w.jobs.at(i)
		if j.manager != m.idx+1 || j.has(byHand) || j.finished <= w.now {
			continue
		}
		reason := "no_updates_running"
		if j.state == canceling {
			reason = "no_updates_canceling"
		}
		j.plan, j.reason, j.finished = failed, w.reason(reason), w.now+hour
		j.flags &^= willRetry
		w.push(j.finished, evEnd, i)
	}
}

// retry adds a new row for a job that ran: the old one stays (docs/gitlab-api.md 4.2).
func (w *World) retry(i int32, t int64) int32 {
	old := w.jobs.at(i)
	if old.deleted != 0 || old.next != 0 {
		return -1
	}
	var j job
	if old.has(byHand) {
		w.lastJob++
		j = job{id: w.lastJob, created: t, plan: success, flags: byHand}
		w.push(t+second, evPick, index(w.jobs.n))
	} else {
		j = w.draw(t)
		w.push(t+w.queueTime(), evPick, index(w.jobs.n))
	}
	j.queued, j.runner, j.tags = max(t, j.created), old.runner, old.tags
	j.project, j.pipeline, j.name = old.project, old.pipeline, old.name
	n := w.jobs.add(j)
	w.jobs.at(i).next = n + 1
	return n
}

func (w *World) deleteJob(i int32, t int64) {
	j := w.jobs.at(i)
	if j.deleted != 0 {
		return
	}
	j.deleted = t
	if j.picked == 0 {
		return
	}
	r := w.all[j.runner-1]
	w.leaveExec(i, r, t)
	if at, ok := slices.BinarySearch(r.jobs, i); ok {
		r.jobs = slices.Delete(r.jobs, at, at+1)
		r.deletedJobs = append(r.deletedJobs, i)
	}
}

// pipelineJobs calls f with every row of a pipeline, retried ones included.
func (w *World) pipelineJobs(p *pipeline, f func(int32)) {
	for i := p.first; i < p.first+p.n; i++ {
		for k := i; ; {
			next := w.jobs.at(k).next
			f(k)
			if next == 0 {
				break
			}
			k = next - 1
		}
	}
}

func (w *World) deletePipeline(k int32, t int64) {
	w.pipelineJobs(&w.pipelines[k], func(i int32) { w.deleteJob(i, t) })
}

// JobSpec describes a job to create by hand. What it describes happens, even on a
// runner that is paused or silent.
type JobSpec struct {
	ID        int64         // 0: the next; otherwise above every id so far
	Runner    int64         // 0: no runner ever picks it
	Manager   int64         // machine, by its id; 0: one of the runner's
	Project   int64         // 0: one that the runner serves
	Pipeline  int64         // 0: a new one; otherwise the last one made
	Created   time.Time     // default now
	Queued    time.Duration // queued_duration, default from Created to Started
	Started   time.Time     // when the runner picks it: default now, or Created if that is later
	Finished  time.Time     // zero: runs until FinishJob or CancelJob
	Canceled  time.Time     // canceling from here on, canceled at Finished
	Status    string        // how it ends: success (default), failed, canceled
	Reason    string        // of a failed one; "script_failure" by default, "-" for none
	NoStart   bool          // fails as it is assigned, without started_at, at Started
	NoFinish  bool          // final without finished_at
	NoCommit  bool          // commit is null
	Protected bool          // its ref is protected
	Tags      []string
	Name      string // default "job"
	Stage     string // default "test"
}

// CreateJob creates a job and returns its id; 0 if the specification names
// what does not exist.
func (w *World) CreateJob(s JobSpec) int64 {
	w.lock()
	defer w.mu.Unlock()
	j := job{created: w.now, length: -1, flags: byHand, plan: success}
	if !s.Created.IsZero() {
		j.created = s.Created.UnixMilli()
	}
	pick := max(w.now, j.created)
	if !s.Started.IsZero() {
		pick = s.Started.UnixMilli()
	}
	j.queued = j.created
	if s.Queued > 0 {
		j.queued = pick - s.Queued.Milliseconds()
	}
	if !s.Finished.IsZero() {
		j.finished = s.Finished.UnixMilli()
	}
	if !s.Canceled.IsZero() {
		j.cancelAt, j.plan = s.Canceled.UnixMilli(), canceled
	}
	switch s.Status {
	case "", "success":
	case "failed":
		j.plan = failed
	case "canceled":
		j.plan = canceled
	default:
		return 0
	}
	if s.NoStart {
		j.plan, j.finished = failed, pick
		j.flags |= noStart
	}
	if j.plan == failed {
		switch s.Reason {
		case "":
			j.reason = w.reason("script_failure")
		case "-":
		default:
			j.reason = w.reason(s.Reason)
		}
	}
	if s.NoFinish {
		j.flags |= noFinish
	}
	if s.NoCommit {
		j.flags |= noCommit
	}
	if s.Protected {
		j.flags |= onProtected
	}
	if !w.f.canceling {
		j.flags |= instantCancel
	}
	if s.Name == "" {
		s.Name = "job"
	}
	if s.Stage == "" {
		s.Stage = "test"
	}
	j.name, j.tags = w.nameID(jobName{s.Name, s.Stage}), w.tagset(s.Tags)

	p := w.project(s.Project)
	if s.Runner != 0 {
		r := w.runners[s.Runner]
		if r == nil {
			return 0
		}
		j.runner = r.idx + 1
		if s.Manager != 0 {
			k := slices.IndexFunc(r.managers, func(m *manager) bool { return m.id == s.Manager })
			if k < 0 {
				return 0
			}
			j.manager = r.managers[k].idx + 1
		}
		if p == nil && len(r.projects) > 0 {
			p = r.projects[0]
		}
	}
	if s.Project != 0 && p == nil || s.ID != 0 && s.ID <= w.lastJob {
		return 0
	}
	if p == nil {
		p = w.projects[0]
	}
	j.project = p.idx
	if s.Pipeline == 0 {
		w.lastPipe++
		w.pipelines = append(w.pipelines, pipeline{id: w.lastPipe, created: j.created, project: p.idx, first: index(w.jobs.n)})
	} else if s.Pipeline != w.lastPipe || int(w.pipelines[len(w.pipelines)-1].first+w.pipelines[len(w.pipelines)-1].n) != w.jobs.n {
		return 0
	}
	last := &w.pipelines[len(w.pipelines)-1]
	last.n++
	j.pipeline = index(len(w.pipelines) - 1)
	if j.id = s.ID; j.id == 0 {
		j.id = w.lastJob + 1
	}
	w.lastJob = j.id
	i := w.jobs.add(j)
	w.push(pick, evPick, i)
	w.catchUp(w.now)
	return j.id
}

func (w *World) changeJob(id int64, f func(i int32) bool) bool {
	w.lock()
	defer w.mu.Unlock()
	i, ok := w.jobs.find(id)
	return ok && w.jobs.at(i).deleted == 0 && f(i)
}

// CancelJob cancels a job that is not final.
func (w *World) CancelJob(id int64) bool {
	return w.changeJob(id, func(i int32) bool {
		j := w.jobs.at(i)
		if j.final() || j.state == canceling {
			return false
		}
		if j.has(byHand) {
			j.finished = 0
		}
		w.cancel(i, w.now)
		return true
	})
}

// FinishJob ends an executing job now; status as in JobSpec.
func (w *World) FinishJob(id int64, status, reason string) bool {
	var plan jobState
	switch status {
	case "success":
		plan = success
	case "failed":
		plan = failed
	case "canceled":
		plan = canceled
	default:
		return false
	}
	return w.changeJob(id, func(i int32) bool {
		j := w.jobs.at(i)
		if !j.executing() {
			return false
		}
		j.plan, j.reason = plan, 0
		if j.plan == failed {
			j.reason = w.reason(reason)
		}
		if j.state == canceling {
			j.plan, j.reason = canceled, 0
		}
		w.end(i, w.now)
		return true
	})
}

// DeleteJob makes a job's row vanish.
func (w *World) DeleteJob(id int64) bool {
	return w.changeJob(id, func(i int32) bool { w.deleteJob(i, w.now); return true })
}
