package monitor

import (
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// failures are the failed readings of one GitLab: which runners they are of, and
// since when a stage works. The fleet's mutex guards them.
type failures struct {
	name     string // of the GitLab
	metrics  Metrics
	messages *messages

	lastGood [snapshot.NumStages]time.Time
	unread   [snapshot.NumStages]map[int64]gitlab.Reason // runner -> reason of its last failure
}

func newFailures(name string, metrics Metrics, log *messages) *failures {
	f := &failures{name: name, metrics: metrics, messages: log}
	for s := range f.unread {
		f.unread[s] = map[int64]gitlab.Reason{}
	}
	return f
}

// succeeded notes a reading of a runner that went well.
func (f *failures) succeeded(stage snapshot.Stage, id int64, now time.Time) {
	f.lastGood[stage] = now
	delete(f.unread[stage], id)
	if len(f.unread[stage]) == 0 {
		f.messages.well(stage)
	}
}

// failed counts and logs a failure. blocked: the token is refused, which is one
// trouble and not one of each stage. known: the runner is in the fleet, or jobs
// of it are watched; what is kept of others would stay for ever.
func (f *failures) failed(stage snapshot.Stage, id int64, err error, blocked, known bool) {
	reason := gitlab.ReasonOf(err)
	f.metrics.PollFailure(f.name, stage.String(), string(reason))
	if !blocked {
		f.messages.failed(stage, reason, err, "runner", id)
	}
	if known {
		f.unread[stage][id] = reason
	}
}

// reason is why the last reading of a runner failed; "": it did not.
func (f *failures) reason(stage snapshot.Stage, id int64) gitlab.Reason { return f.unread[stage][id] }

// counts are the runners that cannot be read, by reason.
func (f *failures) counts(stage snapshot.Stage) map[string]int {
	out := make(map[string]int, len(f.unread[stage]))
	for _, reason := range f.unread[stage] {
		out[string(reason)]++
	}
	return out
}

// forget drops what is known of a runner that left.
func (f *failures) forget(id int64) {
	for stage := range f.unread {
		delete(f.unread[stage], id)
	}
}

// read notes that a runner was read by other means.
func (f *failures) read(stage snapshot.Stage, id int64) { delete(f.unread[stage], id) }
