package monitor

import (
	"context"
	"fmt"
	"time"

	"github.com/go-kit/log/level"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// scope is one configured list of runners. It is read by itself and has an age
// of its own, so that one that fails blinds no other.
type scope struct {
	gitlab.Scope
	key string // in the state: stable over changes of the rest of the configuration

	// Guarded by the Monitor's mutex.
	tried   bool // in this process
	up      bool // its last listing was complete
	refused bool // GitLab itself refuses it
	started time.Time
	took    time.Duration // the last complete listing

	gql graphql // its loop's own
}

// newScopes makes the scopes. What another shard listed is another list.
func newScopes(o *Options) []*scope {
	var out []*scope
	known := map[string]bool{}
	for _, c := range o.Scopes {
		s := &scope{Scope: c, key: string(c.Kind)}
		if c.ID != "" {
			s.key += "/" + c.ID
		}
		if o.ShardCount > 1 {
			s.key += fmt.Sprintf(" shard %d of %d", o.ShardIndex, o.ShardCount)
		}
		if !known[s.key] {
			known[s.key] = true
			out = append(out, s)
		}
	}
	return out
}

func keysOf(scopes []*scope) []string {
	keys := make([]string, len(scopes))
	for i, s := range scopes {
		keys[i] = s.key
	}
	return keys
}

// named are the key-value pairs by which a message names a scope.
func (s *scope) named() []any {
	if s.ID == "" {
		return []any{"scope", s.Kind}
	}
	return []any{"scope", s.Kind, "path", s.ID}
}

// refuses tells the reasons by which GitLab itself refuses a scope, deleted,
// renamed or not for this token, from an outage, which says nothing of it.
func refuses(r gitlab.Reason) bool {
	return r == gitlab.ReasonForbidden || r == gitlab.ReasonNotFound
}

// scopesUp is what the picture shows of the scopes. The caller holds the mutex.
func (m *Monitor) scopesUp() []snapshot.ScopeState {
	out := make([]snapshot.ScopeState, len(m.scopes))
	for i, s := range m.scopes {
		out[i] = snapshot.ScopeState{Kind: s.Kind, Path: s.ID, Up: s.up}
	}
	return out
}

// listLag is the lateness of the most overdue listing, and how long one takes.
// A scope that GitLab refuses is not late: it is not to be had. The caller holds
// the mutex.
func (m *Monitor) listLag(now time.Time) (interval, lag time.Duration) {
	interval = m.opts.Poll.RunnersInterval
	for _, s := range m.scopes {
		took := max(m.opts.Poll.RunnersInterval, s.took)
		interval = max(interval, took)
		if !s.started.IsZero() && !s.refused {
			lag = max(lag, now.Sub(s.started)-took-s.took)
		}
	}
	return interval, lag
}

// within ends a listing that would never end. One that takes longer than
// staleness is of no use: it is withdrawn before it is there.
func (m *Monitor) within(ctx context.Context, s *scope, read func(context.Context, *scope) (listing, error)) (listing, error) {
	most := max(m.opts.Poll.Staleness, m.opts.Poll.RunnersInterval)
	limited, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	l, err := read(limited, s)
	if err == nil || limited.Err() == nil || ctx.Err() != nil {
		return l, err
	}
	switch gitlab.ReasonOf(err) {
	case gitlab.ReasonTimeout, gitlab.ReasonCanceled:
		return listing{}, &gitlab.Error{
			Reason: gitlab.ReasonTimeout, Route: s.Route(), Err: err,
			Message: fmt.Sprintf("the list of runners was not read to its end within %v, the larger of poll.staleness and poll.runners_interval", most),
		}
	default:
		return listing{}, err // what went wrong with GitLab says more than that the time is up
	}
}

// tellPause tells the log once that GitLab asks to wait for so long that a
// listing is missed. The caller holds the mutex.
func (m *Monitor) tellPause(until, now time.Time) {
	wait := until.Sub(now)
	switch {
	case until.IsZero():
		m.paused = false
		return
	case m.paused || wait <= max(m.opts.Poll.RunnersInterval, time.Minute):
		return
	}
	m.paused = true
	kv := []any{"msg", "GitLab limits this user's requests and asks to wait; it is tried again now and then", "wait", wait.Round(time.Second)}
	if listed := m.inv.ListedAt(); !listed.IsZero() {
		left := m.opts.Poll.Staleness - m.now().Sub(listed)
		if at := now.Add(left); left > 0 && at.Before(until) {
			kv = append(kv, "gauges_withdrawn_at", at.UTC().Format(time.RFC3339))
		}
	}
	kv = append(kv, "remedy", gitlab.Remedy(gitlab.ReasonRateLimited, nil))
	level.Warn(m.log).Log(kv...)
}
