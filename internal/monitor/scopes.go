package monitor

import (
	"fmt"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// scope is one configured list of runners. It is read by itself and has an age
// of its own, so that one that fails blinds no other.
type scope struct {
	gitlab.Scope
	key string // in the state: stable over changes of the rest of the configuration

	// Guarded by the fleet's mutex.
	tried   bool // in this process
	up      bool // its last listing was complete
	refused bool // GitLab itself refuses it
	started time.Time
	took    time.Duration // the last complete listing
	pages   int           // that it read by REST
	every   time.Duration // how often it is listed

	graphql graphqlState // its loop's own
}

// scopes are the configured lists of runners. The fleet's mutex guards what of
// them changes.
type scopes struct {
	all []*scope

	up          bool      // the last listing of each was complete, or GitLab refuses it
	tried       bool      // each was tried in this process
	firstListed time.Time // when one was first read in this process
}

// newScopes makes the scopes. What another shard listed is another list.
func newScopes(o *Options) *scopes {
	out := &scopes{}
	known := map[string]struct{}{}
	for _, c := range o.Scopes {
		s := &scope{Scope: c, key: string(c.Kind)}
		if c.ID != "" {
			s.key += "/" + c.ID
		}
		if o.ShardCount > 1 {
			s.key += fmt.Sprintf(" shard %d of %d", o.ShardIndex, o.ShardCount)
		}
		if _, twice := known[s.key]; !twice {
			known[s.key] = struct{}{}
			out.all = append(out.all, s)
		}
	}
	return out
}

func (s *scopes) keys() []string {
	keys := make([]string, len(s.all))
	for i, one := range s.all {
		keys[i] = one.key
	}
	return keys
}

// several reports whether there is more than one.
func (s *scopes) several() bool { return len(s.all) > 1 }

// judge derives from the scopes whether the listing as a whole works.
func (s *scopes) judge() {
	read, all := 0, true
	s.tried = true
	for _, one := range s.all {
		if one.up {
			read++
		}
		all = all && (one.up || one.refused)
		s.tried = s.tried && one.tried
	}
	s.up = all && read > 0
}

// states is what the picture shows of the scopes.
func (s *scopes) states() []snapshot.ScopeState {
	out := make([]snapshot.ScopeState, len(s.all))
	for i, one := range s.all {
		out[i] = snapshot.ScopeState{Kind: one.Kind, Path: one.ID, Up: one.up}
	}
	return out
}

// lag is the lateness of the most overdue listing, and how long one takes. A
// scope that GitLab refuses is not late: it is not to be had.
func (s *scopes) lag(every time.Duration, now time.Time) (interval, lag time.Duration) {
	interval = every
	for _, one := range s.all {
		took := max(every, one.took, one.every)
		interval = max(interval, took)
		if !one.started.IsZero() && !one.refused {
			lag = max(lag, now.Sub(one.started)-took-one.took)
		}
	}
	return interval, lag
}

// named are the key-value pairs by which a message names a scope.
func (s *scope) named() []any {
	if s.ID == "" {
		return []any{"scope", s.Kind}
	}
	return []any{"scope", s.Kind, "path", s.ID}
}

// refuses distinguishes the reasons by which GitLab itself refuses a scope, deleted,
// renamed or not for this token, from an outage, which proves nothing.
func refuses(r gitlab.Reason) bool {
	return r == gitlab.ReasonForbidden || r == gitlab.ReasonNotFound
}
