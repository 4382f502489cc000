package gitlab

import (
	"context"
	"math/rand/v2"
	"net/http"
	"time"
)

// How often one request is tried in all, and how long is waited between.
const (
	maxAttempts        = 4
	maxAttemptsLimited = 6 // after a 429: GitLab itself asks for patience
	maxAttemptsForeign = 2 // what stands in between answers at once, mostly the same: the next reading comes soon, and the log should not wait
	minBackoff         = 500 * time.Millisecond
	maxBackoff         = 15 * time.Second
	maxRetryAfter      = time.Minute // a longer wait is the budget's business, not one request's
)

// backoff is the wait after the nth attempt: 0.5-1 s, 2-4 s, 8-15 s, 15 s.
// The factor of 4 lets four attempts outlast a restart of GitLab's web
// workers; the jitter keeps the readings of a fleet from returning in step.
func backoff(n int) time.Duration {
	d := minBackoff << min(2*(n-1), 10)
	d += time.Duration(rand.Int64N(int64(d))) //nolint:gosec // spreads load, guards nothing
	return min(d, maxBackoff)
}

// retry reports whether a request that failed at its nth attempt is repeated,
// and after which wait.
func (c *Client) retry(e *Error, n int) (wait time.Duration, again bool) {
	if !e.retryable {
		return 0, false
	}
	if e.Reason == ReasonRateLimited {
		if n >= maxAttemptsLimited {
			return 0, false
		}
		if _, open := c.gate.(openGate); !open {
			return 0, true // the gate holds all work back at once, not this request alone
		}
		if e.retryAfter > 0 {
			return min(e.retryAfter, maxRetryAfter), true
		}
		return backoff(n), true
	}
	if n >= maxAttempts || e.Reason == ReasonNotGitLab && n >= maxAttemptsForeign {
		return 0, false
	}
	wait = backoff(n)
	if e.Status == http.StatusServiceUnavailable {
		wait = max(wait, min(e.retryAfter, maxRetryAfter))
	}
	return wait, true
}

// wait returns false where the context ends first, at once if it will: no
// request can follow then, and the caller should get the failure now.
func wait(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
