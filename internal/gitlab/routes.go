package gitlab

import "gitlab-runner-fleet-exporter/internal/snapshot"

// Route is an endpoint's template. It is the label value of route, so it never
// holds an id, a path of a group or a query.
type Route string

// The endpoints this package reads.
const (
	RouteRunners        Route = "/runners"
	RouteAllRunners     Route = "/runners/all"
	RouteRunner         Route = "/runners/:id"
	RouteManagers       Route = "/runners/:id/managers"
	RouteRunnerJobs     Route = "/runners/:id/jobs"
	RouteGroup          Route = "/groups/:id"
	RouteGroupRunners   Route = "/groups/:id/runners"
	RouteProjectRunners Route = "/projects/:id/runners"
	RouteJob            Route = "/projects/:id/jobs/:job_id"
	RouteProjectJobs    Route = "/projects/:id/jobs"
	RouteMetadata       Route = "/metadata"
	RouteVersion        Route = "/version"
	RouteToken          Route = "/personal_access_tokens/self"
	RouteGraphQL        Route = "/graphql"
)

// Route is where a scope's runners are listed by REST.
func (s Scope) Route() Route {
	switch s.kind() {
	case snapshot.ScopeInstance:
		return RouteAllRunners
	case snapshot.ScopeOwned:
		return RouteRunners
	case snapshot.ScopeGroups:
		return RouteGroupRunners
	case snapshot.ScopeProjects:
		return RouteProjectRunners
	}
	return ""
}

// Routes is the closed set, so that a metric may be created before its first event.
func Routes() []Route {
	return []Route{
		RouteRunners, RouteAllRunners, RouteRunner, RouteManagers, RouteRunnerJobs, RouteGroup, RouteGroupRunners,
		RouteProjectRunners, RouteJob, RouteProjectJobs, RouteMetadata, RouteVersion, RouteToken, RouteGraphQL,
	}
}

// Reason is why a reading failed. It is a label value and a field of log
// lines, decided once, here, where the cause is still known.
type Reason string

// The reasons.
const (
	ReasonUnauthorized Reason = "unauthorized" // 401 in GitLab's words, or the credentials could not be read from their file
	ReasonForbidden    Reason = "forbidden"    // 403 in GitLab's words: scope or role
	ReasonNotFound     Reason = "not_found"    // 404 in GitLab's words
	ReasonNotGitLab    Reason = "not_gitlab"   // 401, 403, 404 or 200 that something else than GitLab made: evidence of nothing
	ReasonBadRequest   Reason = "bad_request"  // any other 4xx, 405 (no keyset here, offset too deep) included
	ReasonRateLimited  Reason = "rate_limited" // 429
	ReasonServerError  Reason = "server_error" // 5xx
	ReasonTimeout      Reason = "timeout"      // request_timeout, the caller's deadline, or 408
	ReasonConnection   Reason = "connection"   // name lookup, refused, reset, cut off
	ReasonTLS          Reason = "tls"          // certificate or handshake
	ReasonDecode       Reason = "decode"       // an answer that is damaged, or beyond what this endpoint gives
	ReasonTooLarge     Reason = "too_large"    // the body, or a part of it, is beyond its bound
	ReasonRedirect     Reason = "redirect"     // 3xx: the configured url is not GitLab's own
	ReasonCanceled     Reason = "canceled"     // the caller gave up
)

// Reasons is the closed set.
func Reasons() []Reason {
	return []Reason{
		ReasonUnauthorized, ReasonForbidden, ReasonNotFound, ReasonNotGitLab, ReasonBadRequest, ReasonRateLimited,
		ReasonServerError, ReasonTimeout, ReasonConnection, ReasonTLS, ReasonDecode, ReasonTooLarge, ReasonRedirect, ReasonCanceled,
	}
}

// maxBody bounds an answer in bytes, decompressed, by what the endpoint gives.
func (r Route) maxBody() int64 {
	switch r {
	case RouteRunner:
		return maxDetailsBody
	case RouteJob, RouteGroup, RouteMetadata, RouteVersion, RouteToken:
		return maxObjectBody
	default:
		return maxPageBody
	}
}
