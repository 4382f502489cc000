package monitor

import (
	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// said remembers which trouble the log was told of, so that it is told once,
// in words, with what to do, and not at each poll. The metrics count each.
type said struct {
	log    log.Logger
	reason [snapshot.NumStages]map[gitlab.Reason]bool
	scopes map[string]map[gitlab.Reason]bool // of listings, by the scope's key
}

func newSaid(l log.Logger) *said {
	s := &said{log: l, scopes: map[string]map[gitlab.Reason]bool{}}
	for i := range s.reason {
		s.reason[i] = map[gitlab.Reason]bool{}
	}
	return s
}

// failed tells of a failure of a stage if its reason is new since the stage
// last went well.
func (s *said) failed(stage snapshot.Stage, reason gitlab.Reason, err error, extra ...any) {
	if s.reason[stage][reason] {
		return
	}
	s.reason[stage][reason] = true
	l := level.Warn(s.log)
	if reason == gitlab.ReasonUnauthorized {
		l = level.Error(s.log)
	}
	kv := append([]any{"msg", trouble[stage], "stage", stage, "reason", string(reason), "err", err, "remedy", gitlab.Remedy(reason, err)}, extra...)
	l.Log(kv...)
}

// unlisted tells of a scope's listing that failed, if its reason is new since
// the scope was last listed. several: there are other scopes; blocked: the log
// was told that the token is refused, which is one trouble and not one of each.
func (s *said) unlisted(sc *scope, several, blocked bool, reason gitlab.Reason, err error) {
	told := s.scopes[sc.key]
	if told == nil {
		told = map[gitlab.Reason]bool{}
		s.scopes[sc.key] = told
	}
	if told[reason] {
		return
	}
	told[reason] = true
	if blocked && reason == gitlab.ReasonUnauthorized {
		return
	}
	msg := "the runners of this GitLab cannot be listed; its last numbers are kept until staleness"
	switch {
	case several && refuses(reason):
		msg = "the runners of one scope cannot be listed, because GitLab refuses it; they are kept until staleness, then they leave the sums, and tags that they have are absent. The other scopes are read"
	case several:
		msg = "the runners of one scope cannot be listed; its last numbers are kept until staleness. The other scopes are read"
	}
	kv := append([]any{"msg", msg}, sc.named()...)
	kv = append(kv, "stage", snapshot.StageRunners, "reason", string(reason), "err", err, "remedy", gitlab.Remedy(reason, err))
	level.Error(s.log).Log(kv...)
}

// listed forgets what was told of a scope, and reports whether anything had been.
func (s *said) listed(sc *scope) bool {
	told := len(s.scopes[sc.key]) > 0
	delete(s.scopes, sc.key)
	return told
}

// well forgets what was logged: the next failure is news again.
func (s *said) well(stage snapshot.Stage) { clear(s.reason[stage]) }

var trouble = [snapshot.NumStages]string{
	snapshot.StageRunners:   "", // see unlisted
	snapshot.StageDetails:   "details of a runner cannot be read; logged once until all can be read again",
	snapshot.StageJobs:      "jobs of a runner cannot be read; logged once until all can be read again",
	snapshot.StageReconcile: "the deeper walk through a runner's jobs failed and will go on at its place; logged once until all can be read again",
}
