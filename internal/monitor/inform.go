package monitor

import (
	"context"
	"fmt"
	"time"

	"github.com/go-kit/log/level"

	"gitlab-runner-fleet-exporter/internal/bounded"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// informer reads whose token it is, what it may see, and GitLab's version.
type informer struct {
	fleet  *fleet
	scopes *scopes
	client func() *gitlab.Client // of the class of listings
}

// Every so often the server's version and the token are read again.
const (
	informInterval  = time.Hour
	informRetryMost = 5 * time.Minute
	firstInform     = 5 * time.Second
	tokenFileCheck  = 15 * time.Second
)

// loop reads version and token again each hour, and when the token file
// changed. The first reading is Run's.
func (i *informer) loop(ctx context.Context) error {
	ticker := time.NewTicker(tokenFileCheck)
	defer ticker.Stop()
	last, stamp := time.Now(), i.tokenStamp(ctx)
	refused := false
	// Whether all jobs are visible is asked again sooner: after a first listing by
	// GraphQL, or where GitLab was down.
	retry := tokenFileCheck
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		i.fleet.mu.Lock()
		blocked, wait := i.fleet.blocked, informInterval
		unknown := i.fleet.visible < 0
		if unknown {
			wait = retry
		}
		i.fleet.mu.Unlock()
		changed := i.tokenStamp(ctx)
		if changed == stamp && time.Since(last) < wait && blocked == refused {
			continue
		}
		last, stamp, refused = time.Now(), changed, blocked
		if unknown {
			retry = min(2*retry, informRetryMost)
		}
		i.inform(ctx)
	}
}

func (i *informer) tokenStamp(ctx context.Context) string {
	if i.fleet.opts.TokenFile == "" {
		return ""
	}
	info, err := bounded.Stat(ctx, i.fleet.opts.TokenFile) // a mount that hangs must not hold up the stop
	if err != nil {
		return ""
	}
	return fmt.Sprint(info.ModTime().UnixNano(), info.Size())
}

// inform reads who answers and whose token it is. Neither is needed: older
// releases have no such endpoints, and the listing shows what is wrong.
func (i *informer) inform(ctx context.Context) {
	client := i.client()
	version, verr := client.Version(ctx)
	token, terr := client.Token(ctx)
	visible := i.seesAll(ctx, client)
	i.fleet.mu.Lock()
	defer i.fleet.mu.Unlock()
	if verr == nil && version != i.fleet.version {
		level.Info(i.fleet.log).Log("msg", "GitLab's version was read", "version", version)
		i.fleet.version = version
		i.fleet.inv.SetVersion(version)
		i.fleet.led.Upgraded()
		i.fleet.machines = machinesEndpoint{} // ask the newer release again
	}
	switch {
	case terr == nil:
		i.fleet.token = token
	case gitlab.ReasonOf(terr) == gitlab.ReasonUnauthorized:
		i.fleet.token = gitlab.Token{} // it has no expiry any more that could be shown
	}
	if visible >= 0 {
		i.fleet.visible = visible
	}
	i.fleet.fresh = true
}

// seesAll reports whether the token may see the jobs of all runners (1, 0, or
// -1 where GitLab did not answer): only an administrator's or auditor's does, and
// only such may list all runners by REST. GitLab silently leaves out of
// everybody else's job lists what they may not see (docs/gitlab-api.md 4.3). A GraphQL
// listing proves nothing: it ignores Admin Mode and admits custom admin roles,
// and jobs are read by REST (docs/gitlab-api.md 12).
func (i *informer) seesAll(ctx context.Context, client *gitlab.Client) int {
	if i.fleet.opts.Scopes[0].Kind == snapshot.ScopeInstance && !i.byGraphQL() {
		return -1 // the listing is, or will be, the proof
	}
	_, err := client.RunnersWhere(ctx, gitlab.Scope{Kind: snapshot.ScopeInstance}, gitlab.RunnerFilter{}, 1)
	switch gitlab.ReasonOf(err) {
	case "":
		return 1
	case gitlab.ReasonForbidden:
		return 0
	default:
		return -1
	}
}

func (i *informer) byGraphQL() bool {
	i.fleet.mu.Lock()
	defer i.fleet.mu.Unlock()
	return i.fleet.inv.ByGraphQL(i.scopes.all[0].key)
}
