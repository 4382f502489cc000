package inventory

import (
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Available reports whether a row counts in tag_available_runners: online, not paused.
func Available(row *gitlab.Runner) bool {
	return statusOf(row) == snapshot.Online && !pausedOf(row)
}

// Paused reports whether a row is paused, by whichever field its release has.
func Paused(row *gitlab.Runner) bool { return pausedOf(row) }

// available is Available for a runner that was listed.
func (r *runner) available() bool { return r.status == snapshot.Online && !r.paused }
