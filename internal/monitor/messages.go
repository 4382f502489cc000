package monitor

import (
	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// messages remembers which trouble was logged, so that it is logged once, with
// what to do, and not at each poll. The metrics count each.
type messages struct {
	log    log.Logger
	reason [snapshot.NumStages]map[gitlab.Reason]struct{}
	scopes map[string]map[gitlab.Reason]struct{} // of listings, by the scope's key
	late   bool                                  // it was logged that the first requests failed
}

func newMessages(l log.Logger) *messages {
	m := &messages{log: l, scopes: map[string]map[gitlab.Reason]struct{}{}}
	for i := range m.reason {
		m.reason[i] = map[gitlab.Reason]struct{}{}
	}
	return m
}

// failed logs a failure of a stage if its reason is new since the stage last
// went well.
func (m *messages) failed(stage snapshot.Stage, reason gitlab.Reason, err error, extra ...any) {
	if _, before := m.reason[stage][reason]; before {
		return
	}
	m.reason[stage][reason] = struct{}{}
	l := level.Warn(m.log)
	if reason == gitlab.ReasonUnauthorized {
		l = level.Error(m.log)
	}
	kv := append([]any{"msg", trouble[stage], "stage", stage, "reason", string(reason), "err", err, "remedy", gitlab.Remedy(reason, err)}, extra...)
	l.Log(kv...)
}

// unanswered logs, once, that a request is repeated before any went well: its
// error comes after its retries, half a minute later, and a person who just
// started the program would see nothing until then.
func (m *messages) unanswered(reason gitlab.Reason) {
	if m.late {
		return
	}
	m.late = true
	level.Warn(m.log).Log("msg", "the first requests to GitLab failed; they are repeated", "reason", string(reason), "remedy", gitlab.Remedy(reason, nil))
}

// unlisted logs a scope's listing that failed, if its reason is new since the
// scope was last listed. several: there are other scopes; blocked: it was logged
// that the token is refused, which is one trouble and not one of each; before: the
// runners were listed before, in this process or in that which left its state.
func (m *messages) unlisted(sc *scope, several, blocked, before bool, reason gitlab.Reason, err error) {
	logged := m.scopes[sc.key]
	if logged == nil {
		logged = map[gitlab.Reason]struct{}{}
		m.scopes[sc.key] = logged
	}
	if _, known := logged[reason]; known {
		return
	}
	logged[reason] = struct{}{}
	if blocked && reason == gitlab.ReasonUnauthorized {
		return
	}
	kept := "it is tried again at each runners_interval"
	if before {
		kept = "its last numbers are kept until staleness"
	}
	msg := "the runners of this GitLab cannot be listed; " + kept
	switch {
	case several && refuses(reason):
		msg = "the runners of one scope cannot be listed, because GitLab refuses it; they are kept until staleness, then they leave the sums, and tags that they have are absent. The other scopes are read"
	case several:
		msg = "the runners of one scope cannot be listed; " + kept + ". The other scopes are read"
	}
	kv := append([]any{"msg", msg}, sc.named()...)
	kv = append(kv, "stage", snapshot.StageRunners, "reason", string(reason), "err", err, "remedy", gitlab.Remedy(reason, err))
	level.Error(m.log).Log(kv...)
}

// listed forgets what was logged of a scope, and reports whether anything was.
func (m *messages) listed(sc *scope) bool {
	logged := len(m.scopes[sc.key]) > 0
	delete(m.scopes, sc.key)
	return logged
}

// well forgets what was logged: the next failure is news again.
func (m *messages) well(stage snapshot.Stage) { clear(m.reason[stage]) }

var trouble = [snapshot.NumStages]string{
	snapshot.StageRunners:   "", // see unlisted
	snapshot.StageDetails:   "details of a runner cannot be read; logged once until all can be read again",
	snapshot.StageJobs:      "jobs of a runner cannot be read; logged once until all can be read again",
	snapshot.StageReconcile: "the deeper walk through a runner's jobs failed and will go on at its place; logged once until all can be read again",
	snapshot.StageQueue:     "the jobs that wait for a runner cannot be read; the queue_ families are withdrawn after three intervals; logged once until they can be read again",
}

// up logs a scope that is listed for the first time, or again.
func (m *messages) up(s *scope, several, again bool, runners int) {
	msg := "runners are listed"
	if again {
		msg = "runners are listed again"
	}
	keyvals := []any{"msg", msg, "runners", runners}
	if several {
		keyvals = append(keyvals, s.named()...)
	}
	level.Info(m.log).Log(keyvals...)
}
