package snapshot

import "time"

// Health is the verdict on a runner.
type Health uint8

// The verdicts, in the order of their exposition.
const (
	HealthAlive   Health = iota // positive evidence
	HealthOverdue               // silent for longer than expected, or executing without a sign
	HealthDown                  // silent beyond its limit, or long after its peers gave a sign
	HealthUnknown               // never contacted, or its own readings fail while the listing works
	NumHealths
)

var healthNames = [NumHealths]string{"alive", "overdue", "down", "unknown"}

// String is the label value of health.
func (h Health) String() string { return healthNames[h] }

// HealthReason is why a runner is not alive.
type HealthReason uint8

// The reasons, in the order of their exposition. Their values are written to
// disk: new ones are added at the end.
const (
	NoHealthReason         HealthReason = iota // alive
	HealthNotSeen                              // never contacted GitLab, or its details were not read yet
	HealthUnread                               // its own readings fail
	HealthSilent                               // no sign for longer than its habit (overdue) or its limit (down)
	HealthSilentAmongPeers                     // its group gave signs at moments at which it gave none
	HealthJobSilent                            // executing without a sign
	HealthMachineBusy                          // silent while its machine works for another runner
	HealthAfterOutage                          // silent beyond its limit, but GitLab was in trouble
	HealthFleetSilent                          // silent beyond its limit, but so is most of the fleet
	HealthAbandoned                            // no sign for a week
	NumHealthReasons
)

var healthReasonNames = [NumHealthReasons]string{
	"", "new", "unread", "silent", "silent_among_peers", "job_silent", "machine_busy", "after_outage", "fleet_silent", "abandoned",
}

// String is the label value of reason.
func (r HealthReason) String() string { return healthReasonNames[r] }

// HealthReasons are the reasons that a verdict may have, in the order of their
// exposition; alive has the empty one.
func HealthReasons(h Health) []HealthReason {
	switch h {
	case HealthAlive:
		return []HealthReason{NoHealthReason}
	case HealthUnknown:
		return []HealthReason{HealthNotSeen, HealthUnread}
	case HealthDown:
		return []HealthReason{HealthSilent, HealthSilentAmongPeers, HealthJobSilent, HealthAbandoned}
	default: // a down verdict is overdue until a second reading confirms it
		return []HealthReason{
			HealthSilent, HealthSilentAmongPeers, HealthJobSilent, HealthMachineBusy, HealthAfterOutage, HealthFleetSilent, HealthAbandoned,
		}
	}
}

// Suspicion is what a runner that is alive is suspected of.
type Suspicion uint8

// The suspicions, in the order of their exposition. Their values are written to
// disk: new ones are added at the end.
const (
	SuspectBlackHole      Suspicion = iota // fails job after job at once, where the same projects succeed elsewhere
	SuspectInfrastructure                  // more infrastructure failures than the same projects have elsewhere
	SuspectTakesNoJobs                     // gives signs and is idle, while its peers start the jobs that it should have had
	SuspectOverTimeout                     // a job runs beyond the runner's maximum_timeout
	NumSuspicions
)

var suspicionNames = [NumSuspicions]string{"black_hole", "infrastructure", "takes_no_jobs", "over_timeout"}

// String is the label value of reason on the suspect families.
func (s Suspicion) String() string { return suspicionNames[s] }

// HealthCounts counts runners by verdict; the last index is 1 where they are
// paused. Reasons that a verdict does not have stay 0.
type HealthCounts [NumRunnerTypes][NumHealths][NumHealthReasons][2]int

// HealthPicture is the health of a fleet at one moment. It is immutable.
type HealthPicture struct {
	Time time.Time
	// Runners counts every runner once: those of Fleet.Runners.
	Runners  HealthCounts
	Suspects [NumSuspicions]int
	// AfterOutage and FleetSilent are why no new down verdict is passed; Until is
	// when that ends at the latest, if nothing else happens. Zero: it is not.
	AfterOutage, FleetSilent bool
	Until                    time.Time
	CacheLostAt              time.Time // zero: not seen
	// Ill are the runners with a verdict or a suspicion, sorted by id.
	Ill []Ill
}

// Ill is a runner that is not alive, is suspected, has orphaned jobs or failed jobs.
type Ill struct {
	ID       int64
	Type     RunnerType
	Paused   bool
	Health   Health
	Reason   HealthReason
	Since    time.Time // of Health
	LastSeen time.Time // zero: never
	// Suspects are the times since when it is suspected; zero: it is not.
	Suspects [NumSuspicions]time.Time
	Grounds  [NumSuspicions]Grounds
	// OrphanedJobs were executing when their machine fell silent; Machines are
	// GitLab's rows of those machines.
	OrphanedJobs      int
	Machines          []int64
	Jobs              []JobRef // that it executes, as last read; only where OrphanedJobs is above 0
	ConsecutiveFailed int
}

// JobRef names a job.
type JobRef struct {
	ID  int64
	URL string // of its page in GitLab; "": not known
}

// Usable is false for a runner that would not do a job if it got one:
// tag_usable_runners counts those that are available and usable.
func (i *Ill) Usable() bool { return i.Health != HealthDown && i.Suspects[SuspectBlackHole].IsZero() }

// Grounds are what a suspicion rests on.
type Grounds struct {
	Jobs      int   // black_hole, infrastructure: failed jobs
	Projects  int   // of so many projects
	Seconds   int64 // black_hole: the longest of them; over_timeout: of the oldest job
	Elsewhere int   // jobs of the same projects that ended on other runners meanwhile
	Failed    int   // of those
	Expected  float64
}

// HealthEvidence is everything that a runner's verdict rests on, for its page.
type HealthEvidence struct {
	Health            Health
	Reason            HealthReason
	Since, FirstSeen  time.Time
	ReadAt            time.Time // of the last good reading of its details; zero: none
	FailedReadings    int       // since
	LastSeen          time.Time
	ContactedAt       time.Time // as GitLab last gave it
	LastStart         time.Time // of a job
	LastEnd           time.Time // of a job, reported by the runner
	PausedAt          time.Time // when it was last listed as paused
	Silence           time.Duration
	Habit, Limit      time.Duration // of its silence
	Missed            int           // moments of its group at which it gave no sign
	Chance            float64       // that it works and missed so many; 1: its hit rate is not known or too low
	Hits, Misses      float64       // moments at which it gave a sign, and gave none
	Peers             int
	SharesMachine     bool
	OwedJobs          float64 // starts it should have had since its last one
	ConsecutiveFailed int
}
