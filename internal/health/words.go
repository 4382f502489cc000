package health

import "gitlab-runner-fleet-exporter/internal/snapshot"

// The words and the picture stand in internal/snapshot, which a scrape is served from.
type (
	// Health is the verdict on a runner.
	Health = snapshot.Health
	// Reason is why a runner is not alive.
	Reason = snapshot.HealthReason
	// Suspicion is what a runner that is alive is suspected of.
	Suspicion = snapshot.Suspicion
	// Picture is the health of a fleet at one moment.
	Picture = snapshot.HealthPicture
	// Ill is a runner with anything to report.
	Ill = snapshot.Ill
	// Grounds are what a suspicion rests on.
	Grounds = snapshot.Grounds
	// Evidence is everything that a verdict rests on.
	Evidence = snapshot.HealthEvidence
)

// Short names for this room.
const (
	Alive            = snapshot.HealthAlive
	Overdue          = snapshot.HealthOverdue
	Down             = snapshot.HealthDown
	Unknown          = snapshot.HealthUnknown
	NoReason         = snapshot.NoHealthReason
	NotSeen          = snapshot.HealthNotSeen
	Unread           = snapshot.HealthUnread
	Silent           = snapshot.HealthSilent
	SilentAmongPeers = snapshot.HealthSilentAmongPeers
	JobSilent        = snapshot.HealthJobSilent
	MachineBusy      = snapshot.HealthMachineBusy
	AfterOutage      = snapshot.HealthAfterOutage
	FleetSilent      = snapshot.HealthFleetSilent
	Abandoned        = snapshot.HealthAbandoned
	NumReasons       = snapshot.NumHealthReasons
	BlackHole        = snapshot.SuspectBlackHole
	Infrastructure   = snapshot.SuspectInfrastructure
	TakesNoJobs      = snapshot.SuspectTakesNoJobs
	OverTimeout      = snapshot.SuspectOverTimeout
	NumHealths       = snapshot.NumHealths
	NumSuspicions    = snapshot.NumSuspicions
)
