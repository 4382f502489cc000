package gitlab

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
	RouteMetadata       Route = "/metadata"
	RouteVersion        Route = "/version"
	RouteToken          Route = "/personal_access_tokens/self"
	RouteGraphQL        Route = "/graphql"
)

// Routes is the closed set, so that a metric may be created before its first event.
func Routes() []Route {
	return []Route{
		RouteRunners, RouteAllRunners, RouteRunner, RouteManagers, RouteRunnerJobs, RouteGroup, RouteGroupRunners,
		RouteProjectRunners, RouteJob, RouteMetadata, RouteVersion, RouteToken, RouteGraphQL,
	}
}

// Reason says why a reading failed. It is a label value and a field of log
// lines, decided once, here, where the cause is still known.
type Reason string

// The reasons.
const (
	ReasonUnauthorized Reason = "unauthorized" // 401, or the credentials could not be read from their file
	ReasonForbidden    Reason = "forbidden"    // 403: scope or role
	ReasonNotFound     Reason = "not_found"    // 404
	ReasonNotGitLab    Reason = "not_gitlab"   // an answer that something in front of GitLab made
	ReasonBadRequest   Reason = "bad_request"  // any other 4xx, 405 (no keyset here, offset too deep) included
	ReasonRateLimited  Reason = "rate_limited" // 429
	ReasonServerError  Reason = "server_error" // 5xx
	ReasonTimeout      Reason = "timeout"      // request_timeout, the caller's deadline, or 408
	ReasonConnection   Reason = "connection"   // name lookup, refused, reset, cut off
	ReasonTLS          Reason = "tls"          // certificate or handshake
	ReasonDecode       Reason = "decode"       // an answer that is not what this endpoint gives
	ReasonTooLarge     Reason = "too_large"    // the body is beyond Options.MaxBody
	ReasonRedirect     Reason = "redirect"     // 3xx: the configured url is not GitLab's own
	ReasonCanceled     Reason = "canceled"     // the caller gave up
)

// Reasons is the closed set.
func Reasons() []Reason {
	return []Reason{
		ReasonUnauthorized, ReasonForbidden, ReasonNotFound, ReasonBadRequest, ReasonRateLimited, ReasonServerError,
		ReasonTimeout, ReasonConnection, ReasonTLS, ReasonDecode, ReasonTooLarge, ReasonRedirect, ReasonCanceled,
	}
}
