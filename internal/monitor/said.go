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
	kv := append([]any{"msg", trouble[stage], "stage", stage, "reason", string(reason), "err", err, "remedy", remedy(stage, reason)}, extra...)
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
	kv = append(kv, "stage", snapshot.StageRunners, "reason", string(reason), "err", err, "remedy", remedy(snapshot.StageRunners, reason))
	level.Error(s.log).Log(kv...)
}

// listed forgets what was told of a scope, and reports whether anything had been.
func (s *said) listed(sc *scope) bool {
	told := len(s.scopes[sc.key]) > 0
	delete(s.scopes, sc.key)
	return told
}

// well forgets what was told: the next failure is news again. It reports
// whether anything had been told.
func (s *said) well(stage snapshot.Stage) bool {
	told := len(s.reason[stage]) > 0
	clear(s.reason[stage])
	return told
}

var trouble = [snapshot.NumStages]string{
	snapshot.StageRunners:   "", // see unlisted
	snapshot.StageDetails:   "details of a runner cannot be read; told once until all can be read again",
	snapshot.StageJobs:      "jobs of a runner cannot be read; told once until all can be read again",
	snapshot.StageReconcile: "the deeper walk through a runner's jobs failed and will go on at its place; told once until all can be read again",
}

// remedy says what a person can do.
func remedy(stage snapshot.Stage, reason gitlab.Reason) string {
	switch reason {
	case gitlab.ReasonUnauthorized:
		return "the token is wrong, expired or revoked: put a valid one with scope read_api in place; a token file is read again at each request, no restart is needed"
	case gitlab.ReasonForbidden:
		if stage == snapshot.StageRunners {
			return "the token may not list these runners: scope instance needs an administrator (or auditor, from 18.x) and, with Admin Mode, the scope admin_mode besides read_api; groups and projects need Owner or Maintainer; or choose another scope"
		}
		return "the token may not read this runner: an administrator's or auditor's token sees all; jobs of instance runners are shown to nobody else"
	case gitlab.ReasonNotFound:
		return "check url (a relative root belongs into it) and the ids or paths of groups and projects; GitLab answers 404 too where the token may not see them"
	case gitlab.ReasonNotGitLab:
		return "this is not GitLab's answer: something stands in between, a proxy, gateway, login page or bot check. Let the exporter through to GitLab's API; neither the token nor GitLab is to blame, and it is tried again by itself"
	case gitlab.ReasonRateLimited:
		return "GitLab limits this user's requests: lower poll.max_requests_per_second, or let an administrator exempt the user"
	case gitlab.ReasonServerError, gitlab.ReasonTimeout:
		return "GitLab is overloaded or being upgraded; it is tried again by itself. If it stays, raise poll.request_timeout and lower poll.max_concurrent_requests"
	case gitlab.ReasonConnection:
		return "check that GitLab is up, and the address, proxy and firewall between"
	case gitlab.ReasonTLS:
		return "set tls_config.ca_file to the CA that signed GitLab's certificate, and check that url names its host"
	case gitlab.ReasonRedirect:
		return "set url to the address GitLab answers at"
	case gitlab.ReasonDecode, gitlab.ReasonTooLarge:
		return "the answer is not GitLab's API: check url, and whether a proxy or a login page stands between"
	default:
		return "see the message"
	}
}
