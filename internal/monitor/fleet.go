package monitor

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/ledger"
	"gitlab-runner-fleet-exporter/internal/plan"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// fleet is what is known of one GitLab and its runners, shared by all that read
// and show it. Whoever calls a method holds mu, which is never held over a
// request or a commit.
type fleet struct {
	opts *Options
	log  log.Logger
	kick chan struct{} // capacity 1: the plan has changed

	mu       sync.Mutex
	clocks   clocks
	inv      *inventory.Inventory
	led      *ledger.Ledger
	plan     *plan.Plan
	health   *judge
	failures *failures
	machines machinesEndpoint
	noJobs   map[int64]struct{} // runners whose list of jobs answered 404
	others   map[string]others  // by scope; empty unless this is the first of several shards

	scopeKeys []string

	tried   bool // GitLab was asked once, or this is served from saved state
	started bool // the first start is on disk: jobs may be read
	blocked bool // the token is refused: nothing but the listing is tried
	fresh   bool // publish as soon as may be

	version string
	token   gitlab.Token
	visible int // whether the token may see all jobs: 1, 0, -1 not known
}

// wake makes the dispatcher look again.
func (f *fleet) wake() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// owns reports whether a runner is of this process's shard. The id is hashed:
// ids of one kind often come in rows.
func (o *Options) owns(id int64) bool {
	if o.ShardCount <= 1 {
		return true
	}
	return shardOf(id, o.ShardCount) == o.ShardIndex
}

func shardOf(id int64, count int) int {
	x := uint64(id) //nolint:gosec // a hash
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return int(x % uint64(count)) //nolint:gosec // below count
}

// load reads the saved state.
func (f *fleet) load(state State) error {
	err := state.Load(func(key, value []byte) error {
		for _, load := range []func(key, value []byte) (bool, error){f.inv.Load, f.led.Load, f.health.load} {
			if handled, err := load(key, value); handled || err != nil {
				return err
			}
		}
		return fmt.Errorf("monitor: record %q belongs to nothing", key)
	})
	if err == nil {
		err = f.led.Finish()
	}
	if err != nil {
		return err
	}
	f.inv.Finish()
	f.started = f.led.Begun()
	f.version = f.inv.Version()
	return nil
}

// resume plans the readings of the runners in the saved state.
func (f *fleet) resume(now time.Time) {
	for _, id := range slices.Clone(f.inv.IDs()) {
		if !f.opts.owns(id) {
			// Another shard's by a changed shard.count: two must not count its
			// jobs until two listings have passed.
			f.inv.Gone(id)
			f.led.Leave(id, f.clocks.now())
			continue
		}
		f.health.describe(f.inv, id)
		f.planDetails(id, now)
		f.planJobs(id, now)
	}
	for _, id := range f.led.LeftWithWatch() {
		if f.opts.owns(id) {
			f.planPoll(id, now)
		}
	}
	f.tried = f.inv.Len() > 0 && !f.inv.ListedAt().IsZero()
}

// executes reports whether a runner executes jobs, as far as is known.
func (f *fleet) executes(id int64) bool { return f.inv.Active(id) || f.led.Watched(id) > 0 }

// runner describes a runner to the plan, which runs on our clock.
func (f *fleet) runner(id int64, now time.Time) plan.Runner {
	at := f.clocks.now()
	local := func(t time.Time) time.Time {
		if t.IsZero() {
			return t
		}
		return localTime(t, at, now, now)
	}
	r := plan.Runner{
		Listed: f.inv.Has(id), TagsKnown: f.inv.TagsKnown(id),
		Executing: f.executes(id), Watched: f.led.Watched(id) > 0,
		DetailsAt: local(f.inv.DetailsAt(id)), JobsAt: local(f.led.ReadAt(id)), WalkedAt: local(f.led.Deep(id)),
		AwaitsMachines: f.awaits(snapshot.PartMachines, id), AwaitsJobs: f.awaits(snapshot.PartJobs, id),
		Quiet:      at.Sub(f.led.LastFinished(id)),
		Settled:    localTime(f.inv.SettledAt(id), at, now, now.Add(inventory.SettleTime)),
		WalkWanted: f.led.WalkWanted(id),
	}
	if !r.Watched {
		r.UntouchedSinceJobs = local(f.inv.UntouchedUntil(id, f.led.ReadAt(id)))
		r.UntouchedSinceWalk = local(f.inv.UntouchedUntil(id, f.led.Deep(id)))
	}
	return r
}

// planDetails sets when a runner's details are read next.
func (f *fleet) planDetails(id int64, now time.Time) { f.plan.Details(id, f.runner(id, now), now) }

// planJobs sets when a runner's jobs are polled and walked next.
func (f *fleet) planJobs(id int64, now time.Time) {
	r := f.runner(id, now)
	f.plan.Jobs(id, r, now)
	f.plan.Walk(id, r, now)
}

// planPoll sets when a runner's jobs are polled next.
func (f *fleet) planPoll(id int64, now time.Time) { f.plan.Jobs(id, f.runner(id, now), now) }

// planWalk sets when a runner's jobs are walked next.
func (f *fleet) planWalk(id int64, now time.Time) { f.plan.Walk(id, f.runner(id, now), now) }

// hasten brings a runner's details forward if it has begun to execute.
func (f *fleet) hasten(id int64, now time.Time) { f.plan.Hasten(id, f.runner(id, now), now) }

// doubt lets a runner's details show whether it was deleted, as its list of jobs
// suggests.
func (f *fleet) doubt(id int64, now time.Time) {
	if f.inv.Has(id) && !f.inv.Doubted(id) {
		f.plan.Doubt(id, now)
	}
}

// detailsRead takes a runner's details and plans what rests on them. managers
// is nil where its machines were not read.
func (f *fleet) detailsRead(id int64, d gitlab.RunnerDetails, managers []gitlab.Manager, began, at, now time.Time) {
	known := f.inv.TagsKnown(id)
	f.plan.Read(snapshot.StageDetails, id, began)
	f.inv.Details(id, d, managers, at)
	f.led.Describe(id, f.inv.TagLabels(id))
	f.health.describe(f.inv, id)
	f.health.read(id, &d, managers, at)
	// The details may show that there is nothing to read of its jobs, or that there is.
	if !known || !f.executes(id) {
		f.planJobs(id, now)
	}
}

// outcome notes how a reading ended.
func (f *fleet) outcome(stage snapshot.Stage, id int64, err error, now time.Time) {
	reason := gitlab.ReasonOf(err)
	switch {
	case err == nil && stage == snapshot.StageReconcile && f.led.WalkEndless(id):
		// A page more of a walk that never ended is no success yet.
	case err == nil:
		f.plan.Succeeded(stage, id)
		f.failures.succeeded(stage, id, now)
	case reason == gitlab.ReasonNotFound:
		// Most likely deleted, which is no trouble; the next listing decides. A
		// new runner may not be on every replica yet, so it is asked for again.
		f.plan.Failed(stage, id)
	default:
		known := f.inv.Has(id) || f.led.Watched(id) > 0
		if known {
			f.plan.Failed(stage, id)
		}
		f.failures.failed(stage, id, err, f.blocked, known)
		// A refused token: the listing alone finds out when it is taken again.
		f.blocked = f.blocked || reason == gitlab.ReasonUnauthorized
	}
}

// recovered plans the readings anew that failed in an outage, now that GitLab
// can be listed again: each would otherwise wait for up to 15 minutes.
func (f *fleet) recovered(now time.Time) {
	for id, reason := range f.failures.unread[snapshot.StageDetails] {
		if outage(reason) {
			f.plan.Recovered(snapshot.StageDetails, id)
			f.planDetails(id, now)
		}
	}
	for id, reason := range f.failures.unread[snapshot.StageJobs] {
		if outage(reason) {
			f.plan.Recovered(snapshot.StageJobs, id)
			f.planPoll(id, now)
		}
	}
}

// outage reports whether a reading failed for a reason that passes for all
// readings at once.
func outage(reason gitlab.Reason) bool {
	switch reason {
	case gitlab.ReasonServerError, gitlab.ReasonTimeout, gitlab.ReasonConnection, gitlab.ReasonTLS, gitlab.ReasonNotGitLab,
		gitlab.ReasonUnauthorized, gitlab.ReasonRateLimited, gitlab.ReasonRedirect:
		return true
	default:
		return false
	}
}

// leave takes a runner out of the fleet. Its watched jobs are still asked for.
func (f *fleet) leave(id int64, now time.Time) {
	f.plan.Forget(id)
	f.failures.forget(id)
	delete(f.noJobs, id)
	f.led.Leave(id, f.clocks.now())
	f.health.fleet.Remove(id)
	if f.led.Watched(id) > 0 {
		f.planPoll(id, now)
	}
}

// awaits reports whether a part of the first picture waits for a reading of a runner.
func (f *fleet) awaits(p snapshot.Part, id int64) bool {
	j := inventory.Jobs{}
	if p == snapshot.PartJobs {
		j.ReadAt, j.Failed = f.led.ReadAt(id), f.jobsFailed(id)
	}
	return f.inv.Awaits(p, id, j)
}

// jobsFailed reports whether the sums of jobs shall not wait for a runner's:
// its jobs failed to be read several times, or GitLab itself refuses them,
// which asking again does not change.
func (f *fleet) jobsFailed(id int64) bool {
	_, missing := f.noJobs[id]
	return missing || f.plan.Fails(snapshot.StageJobs, id) >= partTries ||
		f.failures.reason(snapshot.StageJobs, id) == gitlab.ReasonForbidden
}

// jobs is what the ledger has of a runner's jobs.
func (f *fleet) jobs(id int64) inventory.Jobs {
	var j inventory.Jobs
	var read bool
	j.Running, j.Canceling, j.Oldest, read = f.led.Executing(id)
	j.LastFinished = f.led.LastFinished(id)
	if read {
		j.ReadAt = f.led.ReadAt(id)
	}
	j.Failed = f.jobsFailed(id)
	j.Health, j.Reason, j.LastSeen = f.health.fleet.Verdict(id)
	_, j.Unusable = f.health.unusable[id]
	return j
}

// raise moves a first start that was taken from a wrong Date.
func (f *fleet) raise(now time.Time) {
	if start := f.clocks.gitlab.start(now); f.led.Raise(start) {
		level.Warn(f.log).Log("msg", "the Date header of GitLab's first answers was behind the times in its rows; jobs are counted from the newest of them", "start", start.UTC().Format(time.RFC3339))
	}
}

// noManagersAfter is how many 404s prove that a release has no endpoint of machines.
const noManagersAfter = 3

// machinesEndpoint is whether this GitLab has an endpoint of machines.
type machinesEndpoint struct {
	notFound int // answers 404 in a row, none answered yet
	answered bool
}

func (e *machinesEndpoint) offered() bool { return e.notFound < noManagersAfter }

func (e *machinesEndpoint) answer() { *e = machinesEndpoint{answered: true} }

// missing takes an answer 404: such a release, or such a runner.
func (e *machinesEndpoint) missing() {
	if !e.answered {
		e.notFound++
	}
}

// lacking notes that GraphQL has no machines; REST may have shown some.
func (e *machinesEndpoint) lacking() {
	if !e.answered {
		e.notFound = noManagersAfter
	}
}
