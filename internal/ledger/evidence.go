package ledger

import "gitlab-runner-fleet-exporter/internal/gitlab"

// TakeEnded returns the jobs of a runner that were found ended, and counted,
// since the last call: each job once.
func (l *Ledger) TakeEnded(id int64) []gitlab.Job {
	r := l.runners[id]
	if r == nil {
		return nil
	}
	ended := r.ended
	r.ended = nil
	return ended
}

// ExecutingJobs are the jobs that a runner executed when its jobs were last read.
func (l *Ledger) ExecutingJobs(id int64) []gitlab.Job {
	r := l.runners[id]
	if r == nil {
		return nil
	}
	var jobs []gitlab.Job
	for _, w := range r.watch {
		if !w.executing {
			continue
		}
		j := gitlab.Job{ID: w.id, ProjectID: w.project, Status: "running", StartedAt: fromMS(w.started), Duration: -1, Queued: w.waited, URL: w.url}
		if w.canceling {
			j.Status = "canceling"
		}
		jobs = append(jobs, j)
	}
	return jobs
}
