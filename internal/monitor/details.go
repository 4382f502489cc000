package monitor

import (
	"context"
	"time"

	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/plan"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// detailsReader reads the details of runners and the machines behind them.
// Every reading, of GraphQL too, passes fleet.detailsRead.
type detailsReader struct {
	fleet *fleet
	deps  *Deps
}

// detailsNeed is what to read of a runner.
type detailsNeed struct {
	lean     bool // without its projects
	machines bool // this GitLab has an endpoint of machines, and its details were read before
	alone    bool // the machines without the details
}

// read reads a runner's details and machines. Where the details were never read
// they come alone: all sums by tag wait for them. The machines are then a
// reading of their own.
func (r *detailsReader) read(ctx context.Context, item plan.Item) error {
	client := r.deps.Client.For(r.deps.Budget.Gate(item.Class))
	need := r.need(item)
	if need.alone && !need.machines {
		return nil // it was found out meanwhile that this GitLab has no such endpoint
	}
	if need.alone {
		managers, err := client.Managers(ctx, item.ID)
		if gitlab.ReasonOf(err) != gitlab.ReasonNotFound {
			return r.machines(ctx, item.ID, managers, err)
		}
		// No such endpoint, or no such runner: its details show which.
	}
	began := time.Now()
	details, err := client.Runner(ctx, item.ID, need.lean)
	if err != nil {
		return r.failed(ctx, item.ID, err)
	}
	var managers []gitlab.Manager
	if need.machines {
		managers, err = client.Managers(ctx, item.ID)
	}
	return r.take(ctx, item.ID, began, details, managers, err)
}

func (r *detailsReader) need(item plan.Item) detailsNeed {
	f := r.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	at := f.inv.DetailsAt(item.ID)
	return detailsNeed{
		// The projects of a runner are read for its owner only; with thousands of
		// them GitLab fails to list them at all.
		lean:     f.inv.HasOwner(item.ID) || f.plan.Fails(snapshot.StageDetails, item.ID) > 0,
		machines: f.machines.offered() && !at.IsZero(),
		// The contact of one that executes is not put off for its machines.
		alone: item.Class == budget.NewMachines && (!f.executes(item.ID) || time.Since(f.clocks.local(at)) < plan.ActiveDetailsMost),
	}
}

// failed takes the failure of a runner's details.
func (r *detailsReader) failed(ctx context.Context, id int64, err error) error {
	f := r.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if gitlab.ReasonOf(err) == gitlab.ReasonNotFound {
		// GitLab itself answers that it is gone: it leaves with the next listing
		// that does not show it.
		f.inv.NotFound(id, now)
	}
	if stopping(ctx) {
		return err
	}
	known := f.inv.TagsKnown(id)
	f.inv.DetailsFailed(id)
	f.health.fleet.ReadFailed(id)
	if !known && f.inv.TagsKnown(id) {
		f.planJobs(id, now)
	}
	return err
}

// take takes a runner's details, and its machines or why they could not be read.
func (r *detailsReader) take(ctx context.Context, id int64, began time.Time, details gitlab.RunnerDetails, managers []gitlab.Manager, err error) error {
	f := r.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if !f.led.StartFixed() {
		f.clocks.gitlab.contacts(details.ContactedAt, managers, now)
		f.raise(now)
	}
	f.detailsRead(id, details, managers, began, f.clocks.now(), now)
	switch {
	case managers != nil:
		f.machines.answer()
	case gitlab.ReasonOf(err) == gitlab.ReasonNotFound:
		f.machines.missing()
		f.inv.MachinesFailed(id, true)
		return nil
	case err != nil && !stopping(ctx):
		f.inv.MachinesFailed(id, false)
	}
	return err
}

// machines takes what a reading of a runner's machines alone brought.
func (r *detailsReader) machines(ctx context.Context, id int64, managers []gitlab.Manager, err error) error {
	f := r.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err == nil:
		f.machines.answer()
		f.inv.Machines(id, managers)
		f.plan.MachinesRead(id, f.runner(id, time.Now()))
	case !stopping(ctx):
		f.inv.MachinesFailed(id, false)
	}
	return err
}
