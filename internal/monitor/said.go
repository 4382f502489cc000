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
}

func newSaid(l log.Logger) *said {
	s := &said{log: l}
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
	if stage == snapshot.StageRunners || reason == gitlab.ReasonUnauthorized {
		l = level.Error(s.log)
	}
	kv := append([]any{"msg", trouble[stage], "stage", stage, "reason", string(reason), "err", err, "remedy", gitlab.Remedy(reason, err)}, extra...)
	l.Log(kv...)
}

// well forgets what was told: the next failure is news again. It reports
// whether anything had been told.
func (s *said) well(stage snapshot.Stage) bool {
	told := len(s.reason[stage]) > 0
	clear(s.reason[stage])
	return told
}

var trouble = [snapshot.NumStages]string{
	"the runners of this GitLab cannot be listed; its last numbers are kept until staleness",
	"details of a runner cannot be read; told once until all can be read again",
	"jobs of a runner cannot be read; told once until all can be read again",
	"the deeper walk through a runner's jobs failed and will go on at its place; told once until all can be read again",
}
