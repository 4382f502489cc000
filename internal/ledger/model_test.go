package ledger

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"sort"
	"strconv"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// modelJob is the truth about one job. Times are ms.
type modelJob struct {
	id, created, pickup, canceling, end, deleted int64
	queued                                       float64 // negative: null
	runner                                       *modelRunner
	reason                                       string
	status                                       snapshot.JobStatus
	noStarted, noFinished                        bool

	// What the durable state is known to hold.
	seen, counted, served bool
	countedAt             int64
}

// endStamp is the end by docs/counting.md: finished_at, else started_at, else created_at.
func (j *modelJob) endStamp() int64 {
	switch {
	case !j.noFinished:
		return j.end
	case !j.noStarted:
		return j.pickup
	default:
		return j.created
	}
}

func (j *modelJob) visible(view int64) bool {
	return j.pickup <= view && (j.deleted == 0 || j.deleted > view)
}

// row is the job as an answer of the moment view shows it.
func (j *modelJob) row(view int64) gitlab.Job {
	g := gitlab.Job{
		ID: j.id, CreatedAt: time.UnixMilli(j.created), Queued: j.queued, Duration: -1,
		ProjectID: 1 + j.id%97,
	}
	if !j.noStarted {
		g.StartedAt = time.UnixMilli(j.pickup)
	}
	switch {
	case view >= j.end:
		g.Status = j.status.String()
		if j.status == snapshot.Failed {
			g.FailureReason = j.reason
		}
		if !j.noFinished {
			g.FinishedAt = time.UnixMilli(j.end)
			if !j.noStarted {
				g.Duration = float64(j.end-j.pickup) / 1000
			}
		}
		return g
	case j.canceling != 0 && view >= j.canceling:
		g.Status = "canceling"
	default:
		g.Status = "running"
	}
	g.Duration = float64(view-j.pickup) / 1000
	return g
}

// modelRunner is GitLab's list of one runner's jobs.
type modelRunner struct {
	id              int64
	kind            snapshot.RunnerType
	rate            float64
	appears, leaves int64 // listed from, deleted at (0: never)
	tags            []string
	rows            []*modelJob // started, by id
	running         []*modelJob // by id; may hold some that have ended lately
	born, died      []int64     // recent changes of the list, for totals of the past
}

func byID(rows []*modelJob, id int64) int {
	return sort.Search(len(rows), func(i int) bool { return rows[i].id >= id })
}

func (r *modelRunner) start(j *modelJob) {
	r.rows = slices.Insert(r.rows, byID(r.rows, j.id), j)
	r.running = slices.Insert(r.running, byID(r.running, j.id), j)
	r.born = append(r.born, j.pickup)
}

// total is the X-Total of the moment view.
func (r *modelRunner) total(view int64) int {
	n := len(r.rows)
	for _, t := range r.born {
		if t > view {
			n--
		}
	}
	for _, t := range r.died {
		if t <= view {
			n--
		}
	}
	return n
}

// tidy drops what no answer can show any more: answers are up to a minute old.
func (r *modelRunner) tidy(now int64) {
	old := func(t int64) bool { return t < now-2*60_000 }
	r.born = slices.DeleteFunc(r.born, old)
	r.running = slices.DeleteFunc(r.running, func(j *modelJob) bool { return old(j.end) })
	if slices.ContainsFunc(r.died, old) {
		r.died = slices.DeleteFunc(r.died, old)
		r.rows = slices.DeleteFunc(r.rows, func(j *modelJob) bool { return j.deleted != 0 && old(j.deleted) })
	}
}

// executing is how many jobs the list of runners counts.
func (r *modelRunner) executing(view int64) (n int) {
	for _, j := range r.running {
		if j.visible(view) && view < j.end {
			n++
		}
	}
	return n
}

// executingPage is a page of status=running: oldest id first, by number.
func (r *modelRunner) executingPage(view int64, page int, buf []gitlab.Job) ([]gitlab.Job, bool) {
	skip := (page - 1) * perPage
	buf = buf[:0]
	for _, j := range r.running {
		if !j.visible(view) || view >= j.end || (j.canceling != 0 && view >= j.canceling) {
			continue
		}
		if skip > 0 {
			skip--
			continue
		}
		if len(buf) == perPage {
			return buf, true
		}
		buf = append(buf, j.row(view))
	}
	return buf, false
}

// list is a page of size of all jobs, newest id first: by number, or by keyset below before.
func (r *modelRunner) list(view int64, page, size int, before int64, buf []gitlab.Job) (jobs []gitlab.Job, more bool) {
	skip := max(0, page-1) * size
	i := len(r.rows) - 1
	if before != 0 {
		i = byID(r.rows, before) - 1
	}
	buf = buf[:0]
	for ; i >= 0; i-- {
		j := r.rows[i]
		if !j.visible(view) {
			continue
		}
		if skip > 0 {
			skip--
			continue
		}
		if len(buf) == size {
			return buf, true
		}
		buf = append(buf, j.row(view))
	}
	return buf, false
}

// answer is what GET /runners/:id/jobs gives for q. Totals are withheld beyond limit rows.
func (r *modelRunner) answer(q gitlab.JobsQuery, view int64, limit int, buf []gitlab.Job) gitlab.JobsPage {
	p := gitlab.JobsPage{Total: -1, Keyset: q.Keyset}
	if q.Status != "" {
		var more bool
		if p.Jobs, more = r.executingPage(view, q.Page, buf); more {
			p.Next = q.Page + 1
		}
		return p
	}
	if q.Keyset {
		before, _ := strconv.ParseInt(q.Cursor, 10, 64)
		var more bool
		if p.Jobs, more = r.list(view, 0, perPage, before, buf); more {
			p.Cursor = strconv.FormatInt(p.Jobs[len(p.Jobs)-1].ID, 10)
		}
		return p
	}
	var more bool
	if p.Jobs, more = r.list(view, q.Page, cmp.Or(q.Rows, perPage), 0, buf); more {
		p.Next = max(1, q.Page) + 1
	}
	if n := r.total(view); n <= limit {
		p.Total = n
	}
	return p
}

var modelReasons = []string{
	"script_failure", "script_failure", "script_failure", "runner_system_failure", "stuck_or_timeout_failure",
	"job_execution_timeout", "no_updates_running", "api_failure", "", "a_reason_of_next_year",
}

// newModelJob makes a job that its runner picks up at pickup.
func newModelJob(rng *rand.Rand, r *modelRunner, pickup int64) *modelJob {
	j := &modelJob{runner: r, pickup: pickup}
	wait := rng.ExpFloat64() * 20_000
	if rng.IntN(100) < 8 {
		wait = rng.Float64() * 20 * 3_600_000
	}
	j.created = pickup - int64(wait)
	j.queued = wait / 1000
	if rng.IntN(100) == 0 {
		j.queued = -1
	}
	d := 1000 + rng.Int64N(49_000)
	if rng.IntN(10) >= 3 {
		d = 60_000 + min(int64(rng.ExpFloat64()*240_000), 3*3_600_000)
	}
	j.end = pickup + d
	switch n := rng.IntN(100); {
	case n < 3:
		j.status = snapshot.Canceled
		if rng.IntN(2) == 0 {
			j.canceling = j.end
			j.end += 5000 + rng.Int64N(90_000)
		}
	case n < 13:
		j.status = snapshot.Failed
		j.reason = modelReasons[rng.IntN(len(modelReasons))]
		switch rng.IntN(20) {
		case 0: // refused at assignment
			j.noStarted, j.queued, j.end, j.reason = true, -1, pickup, "runner_unsupported"
		case 1: // the same, as older releases write it
			j.noStarted, j.noFinished, j.queued, j.end, j.reason = true, true, -1, pickup, "missing_dependency_failure"
		case 2:
			j.noFinished = true
		}
	case n < 14 && rng.IntN(2) == 0: // cancelled before the runner could ever show it as running
		j.status = snapshot.Canceled
	}
	// Pipelines and projects are deleted, some with jobs still executing.
	switch n := rng.IntN(2000); {
	case n < 2:
		j.deleted = pickup + 1 + rng.Int64N(max(1, j.end-pickup))
	case n < 10:
		j.deleted = j.end + 1 + rng.Int64N(24*3_600_000)
	}
	return j
}
