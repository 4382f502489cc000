package health

// Health is the verdict on a runner.
type Health uint8

// The verdicts, in the order of their exposition.
const (
	Alive   Health = iota // positive evidence
	Overdue               // silent for longer than expected, or executing without a sign
	Down                  // silent beyond its limit, or long after its peers were heard
	Unknown               // never contacted, or its own readings fail while the listing works
	NumHealths
)

var healthNames = [NumHealths]string{"alive", "overdue", "down", "unknown"}

// String is the label value of health.
func (h Health) String() string { return healthNames[h] }

// Reason says why a runner is not alive.
type Reason uint8

// The reasons, in the order of their exposition. Their values are written to
// disk: new ones are added at the end.
const (
	NoReason         Reason = iota // alive
	NotSeen                        // never contacted GitLab, or its details were not read yet
	Unread                         // its own readings fail
	Silent                         // no sign for longer than its habit (overdue) or its limit (down)
	SilentAmongPeers               // its group was heard at moments at which it was not
	JobSilent                      // executing without a sign
	MachineBusy                    // silent while its machine works for another runner
	AfterOutage                    // silent beyond its limit, but GitLab was in trouble
	FleetSilent                    // silent beyond its limit, but so is most of the fleet
	Abandoned                      // no sign for a week
	NumReasons
)

var reasonNames = [NumReasons]string{
	"", "new", "unread", "silent", "silent_among_peers", "job_silent", "machine_busy", "after_outage", "fleet_silent", "abandoned",
}

// String is the label value of reason.
func (r Reason) String() string { return reasonNames[r] }

// Suspicion is what a runner that is alive is suspected of.
type Suspicion uint8

// The suspicions, in the order of their exposition. Their values are written to
// disk: new ones are added at the end.
const (
	BlackHole      Suspicion = iota // fails job after job at once, where the same projects succeed elsewhere
	Infrastructure                  // more infrastructure failures than the same projects have elsewhere
	TakesNoJobs                     // heard and idle, while its peers start the jobs that it should have had
	OverTimeout                     // a job runs beyond the runner's maximum_timeout
	NumSuspicions
)

var suspicionNames = [NumSuspicions]string{"black_hole", "infrastructure", "takes_no_jobs", "over_timeout"}

// String is the label value of reason on the suspect families.
func (s Suspicion) String() string { return suspicionNames[s] }
