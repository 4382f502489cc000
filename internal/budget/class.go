package budget

import "gitlab-runner-fleet-exporter/internal/snapshot"

// Class orders work: the lower the more urgent.
type Class uint8

// The classes. A new runner's details come before jobs, because its tags must
// be known before its first job is counted. Its machines are of a class of
// their own: no sum by tag waits for them.
const (
	Listing Class = iota
	NewDetails
	ActiveJobs
	Queue // a few requests each minute for all runners
	NewMachines
	ActiveDetails
	IdleJobs
	Details
	Walk
	NumClasses
)

// Stage is the stage that work of this class belongs to.
func (c Class) Stage() snapshot.Stage {
	switch c {
	case Listing:
		return snapshot.StageRunners
	case NewDetails, NewMachines, ActiveDetails, Details:
		return snapshot.StageDetails
	case ActiveJobs, IdleJobs:
		return snapshot.StageJobs
	case Queue:
		return snapshot.StageQueue
	default:
		return snapshot.StageReconcile
	}
}

const (
	// Tenth is the share of each stage that has work: one turn in so many.
	Tenth = 10
	// Fifth is the share of each class with work in its stage's turns.
	Fifth = 5
)

// Shares gives each of some takers with work at least one turn in so many,
// whatever the order of classes. It counts turns, not time.
type Shares[T snapshot.Stage | Class] struct {
	owed [NumClasses]int // at least as many as there are stages
}

// Pick returns prefer, unless a taker with work has waited for its share, one
// in n: then that one. with lists the takers that have work.
func (s *Shares[T]) Pick(with []T, prefer T, n int) T {
	chosen := prefer
	for _, st := range with {
		due := s.owed[st] >= n-1
		if due && (chosen == prefer && s.owed[prefer] < n-1 || s.owed[st] > s.owed[chosen]) {
			chosen = st
		}
	}
	for _, st := range with {
		s.owed[st] = min(s.owed[st]+1, 2*n)
	}
	s.owed[chosen] = max(s.owed[chosen]-n, 0)
	return chosen
}
