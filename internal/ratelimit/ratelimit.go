// Package ratelimit reads the header by which a server asks a client to wait.
// internal/gitlab applies it to one request, internal/budget to all requests of
// a GitLab; both must read it alike.
package ratelimit

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// longest keeps a wait within what time.Duration can hold.
const longest = 365 * 24 * time.Hour

// RetryAfter is the wait that the header Retry-After asks for, in seconds or as
// a date; 0 where it is absent, not readable or not in the future. A date is
// compared with the server's own clock where the answer has it, since the local
// clock may differ.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if s, err := strconv.ParseFloat(v, 64); err == nil {
		if !(s > 0) { // not a number, too
			return 0
		}
		return time.Duration(min(s*float64(time.Second), float64(longest)))
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(ServerTime(h, now)), 0), longest)
}

// ServerTime is the Date of an answer, or now where it has none.
func ServerTime(h http.Header, now time.Time) time.Time {
	if at, err := http.ParseTime(h.Get("Date")); err == nil {
		return at
	}
	return now
}
