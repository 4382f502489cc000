package monitor

import (
	"cmp"
	"slices"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/health"
	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const (
	// judgeEvery is how often the runners are judged at the most: scopes are
	// listed one by one, and nothing that is judged changes within seconds.
	judgeEvery = 20 * time.Second
	// verdictsLogged is how many verdicts of one round the log names.
	verdictsLogged = 10
)

// judge hands what is read to internal/health and keeps its last picture. The
// caller of its methods holds the fleet's mutex.
type judge struct {
	fleet    *health.Fleet
	log      log.Logger
	picture  *snapshot.HealthPicture // nil: nobody was judged yet
	last     *snapshot.HealthPicture // as it was last shown
	lastOf   *snapshot.HealthPicture // the picture of last
	unusable map[int64]struct{}      // of the picture
	judged   time.Time
	machines []health.Machine // of the reading at hand: there is one for each row of a listing
}

func newJudge(l log.Logger) *judge {
	return &judge{fleet: health.New(), log: l, machines: []health.Machine{}}
}

// load takes a record of the state. One that cannot be read costs its runner
// what was known of its health, and nothing else.
func (j *judge) load(key, value []byte) (bool, error) {
	handled, err := j.fleet.Load(key, value)
	if err != nil {
		level.Warn(j.log).Log("msg", "a saved record of health cannot be read; its runner is judged anew", "err", err)
	}
	return handled, nil
}

// describe notes which jobs a runner takes, as its details show.
func (j *judge) describe(inv *inventory.Inventory, id int64) {
	if p, ok := inv.Peer(id); ok {
		j.fleet.Describe(id, health.Traits{
			Type: p.Type, Owner: p.Owner, Tags: p.Tags, RunUntagged: p.RunUntagged, Protected: p.Protected, MaximumTimeout: p.MaximumTimeout,
		})
	}
}

// listed notes a row of a listing.
func (j *judge) listed(f *fleet, id int64, at time.Time) {
	executing := f.inv.Active(id)
	if !executing && !f.inv.Idle(id) {
		executing = f.led.Watched(id) > 0 // a release whose list does not show it
	}
	j.fleet.Listed(health.Row{ID: id, Type: f.inv.Type(id), Paused: f.inv.Paused(id), Executing: executing}, at)
}

// read notes a reading of a runner's details. managers is nil where its
// machines were not read.
func (j *judge) read(id int64, d *gitlab.RunnerDetails, managers []gitlab.Manager, at time.Time) {
	r := health.Reading{At: at, ContactedAt: d.ContactedAt}
	if managers != nil {
		r.Machines = j.machines[:0]
		for _, m := range managers {
			r.Machines = append(r.Machines, health.Machine{ID: m.ID, SystemID: m.SystemID, ContactedAt: m.ContactedAt, Executing: m.Execution == gitlab.ExecutionActive})
		}
		j.machines = r.Machines
	}
	j.fleet.Read(id, r)
}

// judge judges all runners by what was read, and plans the readings on which
// the next verdicts depend.
func (f *fleet) judge(now time.Time) {
	j := f.health
	if now.Sub(j.judged) < min(judgeEvery, f.opts.Intervals.Runners) || !f.led.Begun() {
		return
	}
	j.judged = now
	at := f.clocks.now()
	changes, picture := j.fleet.Judge(at)
	j.picture, j.unusable = picture, map[int64]struct{}{}
	for i := range picture.Ill {
		r := &picture.Ill[i]
		if !r.Usable() {
			j.unusable[r.ID] = struct{}{}
		}
		if r.OrphanedJobs > 0 {
			r.Jobs = f.executedJobs(r.ID)
		}
	}
	for _, id := range j.fleet.Due(at) {
		if f.inv.Has(id) {
			f.plan.Hurry(id, now)
		}
	}
	j.report(f, changes)
}

// shown is the last picture of the runners that stand in a fleet's sums: those
// of a scope that is not to be read stand in neither, and one that joined since
// stands in both.
func (j *judge) shown(inv *inventory.Inventory, f *snapshot.Fleet) *snapshot.HealthPicture {
	if j.picture == nil {
		return nil
	}
	withdrawn := func(r snapshot.Ill) bool { return !inv.Shown(r.ID) }
	some := slices.ContainsFunc(j.picture.Ill, withdrawn)
	if !some && j.lastOf == j.picture && j.last.Runners == f.Health {
		return j.last // the same picture, for those who compare it
	}
	p := *j.picture
	p.Runners = f.Health
	if some {
		p.Ill, p.Suspects = slices.DeleteFunc(slices.Clone(p.Ill), withdrawn), [snapshot.NumSuspicions]int{}
		for i := range p.Ill {
			for s, since := range p.Ill[i].Suspects {
				if !since.IsZero() {
					p.Suspects[s]++
				}
			}
		}
	}
	j.last, j.lastOf = &p, j.picture
	if some {
		j.lastOf = nil // whom it lacks may change
	}
	return j.last
}

// mostJobRefs is how many jobs of one runner are named.
const mostJobRefs = 20

// executedJobs names the jobs that a runner executes, the oldest first.
func (f *fleet) executedJobs(id int64) (refs []snapshot.JobRef) {
	for _, j := range f.led.ExecutingJobs(id) {
		refs = append(refs, snapshot.JobRef{ID: j.ID, URL: j.URL})
	}
	slices.SortFunc(refs, func(a, b snapshot.JobRef) int { return cmp.Compare(a.ID, b.ID) })
	return refs[:min(len(refs), mostJobRefs)]
}

// report logs who was found down or suspect, and who is well again. Unknown and
// overdue runners stand in the metrics and on the page only: most of them are
// well a moment later.
func (j *judge) report(f *fleet, changes []health.Change) {
	logged := 0
	for _, c := range changes {
		var msg string
		reason := c.Reason.String()
		switch {
		case c.To == snapshot.HealthDown && c.From != snapshot.HealthDown:
			msg = "a runner is down"
		case c.From == snapshot.HealthDown && c.To == snapshot.HealthAlive:
			msg, reason = "a runner that was down is alive", ""
		case slices.Contains(c.Suspected, snapshot.SuspectBlackHole):
			msg, reason = "a runner fails job after job", snapshot.SuspectBlackHole.String()
		default:
			continue
		}
		if logged++; logged > verdictsLogged {
			continue
		}
		kv := []any{"msg", msg, "runner_id", c.ID, "description", f.inv.Description(c.ID)}
		if reason != "" {
			kv = append(kv, "reason", reason, "last_seen", j.fleet.LastSeen(c.ID).UTC().Format(time.RFC3339))
		}
		level.Info(j.log).Log(kv...)
	}
	if logged > verdictsLogged {
		level.Info(j.log).Log("msg", "more runners changed their health at once; the page /fleet and the metrics have all", "runners", logged-verdictsLogged)
	}
}
