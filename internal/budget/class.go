package budget

// Class orders work: the lower the more urgent.
type Class uint8

// The classes. A new runner's details come before jobs, because its tags must
// be known before its first job is counted.
const (
	Listing Class = iota
	NewDetails
	ActiveJobs
	ActiveDetails
	IdleJobs
	Details
	Walk
	NumClasses
)

// Stage is a kind of reading; each has work of one or more classes. The order
// is that of snapshot.Stage.
type Stage uint8

// The stages.
const (
	StageRunners Stage = iota
	StageDetails
	StageJobs
	StageReconcile
	NumStages
)

// Stage is the stage that work of this class belongs to.
func (c Class) Stage() Stage {
	switch c {
	case Listing:
		return StageRunners
	case NewDetails, ActiveDetails, Details:
		return StageDetails
	case ActiveJobs, IdleJobs:
		return StageJobs
	default:
		return StageReconcile
	}
}

// tenth is the share of each stage that has work: one in so many.
const tenth = 10

// shares sees to it that each stage with work gets at least a tenth, whatever
// the order of classes says. It counts turns, not time.
type shares struct {
	owed [NumStages]int
}

// pick answers prefer, unless a stage with work has waited for its tenth: then
// that one. with lists the stages that have work.
func (s *shares) pick(with []Stage, prefer Stage) Stage {
	chosen := prefer
	for _, st := range with {
		due := s.owed[st] >= tenth-1
		if due && (chosen == prefer && s.owed[prefer] < tenth-1 || s.owed[st] > s.owed[chosen]) {
			chosen = st
		}
	}
	for _, st := range with {
		s.owed[st] = min(s.owed[st]+1, 2*tenth)
	}
	s.owed[chosen] = max(s.owed[chosen]-tenth, 0)
	return chosen
}
