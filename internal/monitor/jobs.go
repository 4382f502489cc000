package monitor

import (
	"context"
	"time"

	"gitlab-runner-fleet-exporter/internal/ledger"
	"gitlab-runner-fleet-exporter/internal/plan"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// jobsReader reads the jobs of runners. What is asked, and in what order, the
// readings of internal/ledger decide; every job row passes Take in drive.
type jobsReader struct {
	fleet *fleet
	deps  *Deps
}

// poll polls a runner's jobs.
func (j *jobsReader) poll(ctx context.Context, item plan.Item) error {
	f, id := j.fleet, item.ID
	f.mu.Lock()
	defer f.mu.Unlock()
	listed := ledger.Listed{Idle: f.inv.Idle(id)}
	// Each number is good for one reading: explained again and again by chance,
	// it could hide a job for all of its life.
	listed.Executing, listed.At = f.inv.ListedJobs(id, f.led.ReadAt(id))
	poll := f.led.Poll(id, f.clocks.now(), time.Now(), listed, f.opts.Intervals.Reconcile)
	if poll == nil {
		return nil
	}
	if err := j.drive(ctx, item, poll); err != nil {
		return err
	}
	now, o := time.Now(), j.end(id, poll)
	if o.Gone {
		f.noJobs[id] = struct{}{}
	}
	if !poll.Whole() {
		return o.Err
	}
	delete(f.noJobs, id)
	if o.Deep { // most runners need no other walk
		f.failures.lastGood[snapshot.StageReconcile] = now
	}
	if running, canceling, _, read := f.led.Executing(id); read {
		f.inv.NotePeak(id, running+canceling, f.clocks.now())
		f.hasten(id, now)
	}
	f.planWalk(id, now)
	return o.Err
}

// walk reads one page of a walk of a runner's jobs.
func (j *jobsReader) walk(ctx context.Context, item plan.Item) error {
	f := j.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	walk := f.led.Walk(item.ID, f.clocks.now(), time.Now())
	if walk == nil {
		return nil
	}
	if err := j.drive(ctx, item, walk); err != nil {
		return err
	}
	return j.end(item.ID, walk).Err
}

// drive asks GitLab what a reading asks for, until it asks for nothing more. The
// error is that of the time being up. The caller holds the mutex, which is
// released while a request is under way.
func (j *jobsReader) drive(ctx context.Context, item plan.Item, r ledger.Reading) error {
	client := j.deps.Client.For(j.deps.Budget.Gate(item.Class))
	for q, more := r.Next(); more; q, more = r.Next() {
		j.fleet.mu.Unlock()
		var a ledger.Answer
		var err error
		if q.OneJob() {
			a.Job, err = client.Job(ctx, q.Job.Project, q.Job.Job)
		} else {
			a.Page, err = client.RunnerJobs(ctx, q.Page)
		}
		j.fleet.mu.Lock()
		r.Take(a, err)
		if q.OneJob() && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// end ends a reading and notes what it found out about its runner. The caller
// holds the mutex.
func (j *jobsReader) end(id int64, r ledger.Reading) ledger.Outcome {
	f, o := j.fleet, r.End()
	f.health.fleet.Jobs(id, f.clocks.now(), f.led.ExecutingJobs(id), f.led.TakeEnded(id))
	if o.Gone {
		f.doubt(id, time.Now())
	}
	if o.Deep {
		began := o.Began
		if began.IsZero() {
			began = f.clocks.local(f.led.Deep(id))
		}
		f.plan.Walked(id, began)
	}
	return o
}
