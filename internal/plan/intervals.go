package plan

import "time"

const (
	// ActiveDetailsMost is how often the details of a runner that executes jobs are
	// read at the least: its contact is what shows a machine dead mid-job.
	ActiveDetailsMost = 5 * time.Minute
	// idleFactor is how many times the interval of jobs an idle runner may wait.
	idleFactor = 5
)

// PagesAtOnce is how many pages of a list of runners are read at once.
const PagesAtOnce = 4

// Intervals are how often what is read. The zero value is not usable:
// internal/app fills it from a validated configuration.
type Intervals struct {
	Runners   time.Duration
	Details   time.Duration
	Jobs      time.Duration
	Reconcile time.Duration
	Lookback  time.Duration
	Staleness time.Duration
}

// Shortest is how soon anything can have changed.
func (iv Intervals) Shortest() time.Duration { return min(iv.Runners, iv.Jobs, iv.Details) }

// ActiveDetails is how often the details of an executing runner are read.
func (iv Intervals) ActiveDetails() time.Duration { return min(iv.Details, ActiveDetailsMost) }

// IdleJobs is how seldom the jobs of an idle runner are read at the most.
func (iv Intervals) IdleJobs() time.Duration { return idleFactor * iv.Jobs }

// endOfWalk is when a walk must have ended after the last whole one: later,
// jobs would be lost.
func (iv Intervals) endOfWalk() time.Duration { return iv.Lookback / 4 }
