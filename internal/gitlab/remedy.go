package gitlab

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"regexp"
)

// Remedy is what a person can do about a failed reading: one sentence or two,
// the same in the log and in --gitlab.check. reason is ReasonOf(err) unless the
// caller knows better; err may be nil.
func Remedy(reason Reason, err error) string {
	e, _ := errors.AsType[*Error](err)
	if e == nil {
		e = &Error{}
	}
	switch reason {
	case ReasonUnauthorized:
		if isA[*fs.PathError](err) {
			return "make the token file readable for this process; it is read again at each request, no restart is needed"
		}
		return "the token is wrong, expired or revoked: put a valid one with scope read_api in its place; a token file is read again at each request, no restart is needed"
	case ReasonForbidden:
		return forbiddenRemedy(e)
	case ReasonNotFound:
		return notFoundRemedy(e)
	case ReasonNotGitLab, ReasonDecode, ReasonTooLarge:
		return "the answer is not from GitLab's API: check url; if a proxy, a login page or a bot check stands in front of GitLab, let requests to /api pass it, or set url to an address behind it"
	case ReasonBadRequest, ReasonConnection:
		return connectionRemedy(reason, e)
	case ReasonTLS:
		return tlsRemedy(err)
	case ReasonRedirect:
		if loginWords.MatchString(e.Message) {
			return "a login page stands in front of GitLab: let requests to /api pass it, or set url to an address behind it"
		}
		return "set url to the address that GitLab itself answers at, with its scheme (https) and relative root"
	case ReasonRateLimited:
		return "GitLab limits the requests of this user: lower poll.max_requests_per_second, or let an administrator exempt the user"
	case ReasonServerError, ReasonTimeout:
		return "GitLab is overloaded or being upgraded; the request is repeated. If it stays, raise poll.request_timeout and lower poll.max_concurrent_requests"
	default:
		return "see the message"
	}
}

func forbiddenRemedy(e *Error) string {
	if scopeWords.MatchString(e.Message) {
		return "the token lacks a scope: create one with the scope read_api (and admin_mode for an administrator where Admin Mode is on)"
	}
	switch e.Route {
	case RouteAllRunners:
		return "scope instance needs an administrator's token (or, from GitLab 18 on, an auditor's), with the scope admin_mode besides read_api where Admin Mode is on; with another user's token set scope: groups, projects or owned"
	case RouteRunners:
		return "create a token with the scope read_api"
	case RouteGroup, RouteGroupRunners, RouteProjectRunners, RouteProjectJobs:
		return "use a token of an Owner or Maintainer of this group or project with the scope read_api, or take it out of the configuration"
	case RouteRunnerJobs, RouteJob:
		return "use a token of somebody who may read the runner's jobs: those of an instance runner are open to administrators (with admin_mode where Admin Mode is on) and auditors only"
	case RouteGraphQL:
		return "use an administrator's token (for a group an Owner's or Maintainer's), or set api: rest"
	default:
		return "use a token of somebody who may read this runner: an administrator's (with the scope admin_mode where Admin Mode is on) or an auditor's reads all"
	}
}

func notFoundRemedy(e *Error) string {
	switch e.Route {
	case RouteGroup, RouteGroupRunners, RouteProjectRunners, RouteProjectJobs:
		return "check the id or path of this group or project: it was renamed, moved or deleted, or the token may not see it; GitLab answers 404 for both"
	case RouteGraphQL:
		if e.Status == http.StatusOK {
			return "check the path of this group: it was renamed, moved or deleted, or the token may not see it"
		}
		return "GitLab, or a proxy in front of it, offers no GraphQL at this address: set api: rest"
	default:
		return "check url: it must be GitLab's own address, with its relative root if it has one"
	}
}

// connectionRemedy also finds plain HTTP that was sent to an HTTPS port: GitLab's
// nginx answers 400 with a text, others with the bytes of a TLS alert.
func connectionRemedy(reason Reason, e *Error) string {
	switch {
	case plainWords.MatchString(e.Message):
		return "this port speaks HTTPS: write https:// in url"
	case reason == ReasonBadRequest && e.Route == RouteGraphQL:
		return "let POST requests to /api/graphql pass what stands in front of GitLab, or set api: rest"
	case reason == ReasonBadRequest:
		return "GitLab, or a proxy in front of it, refuses this request: see the message"
	case isA[*net.DNSError](e.Err):
		return "the host name in url cannot be resolved: check its spelling and this machine's DNS"
	default:
		return "check that GitLab is up, and host and port in url, proxy_url and the firewall between"
	}
}

func tlsRemedy(err error) string {
	if errors.Is(err, http.ErrSchemeMismatch) {
		return "this port speaks plain HTTP: write http:// in url, or the port of GitLab's HTTPS"
	}
	if isA[x509.HostnameError](err) {
		return "the certificate is for another host: write the name it is for in url, or set tls_config.server_name"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return "renew GitLab's certificate, or set this machine's clock right"
	}
	return "set tls_config.ca_file to the CA that signed GitLab's certificate, and check that url names its host"
}

var (
	scopeWords = regexp.MustCompile(`insufficient_scope|insufficient_granular_scope`)
	loginWords = regexp.MustCompile(`(?i)\b(login|log_in|sign[-_]?in|sso|saml2?|oauth2?|authorize)\b`)
	plainWords = regexp.MustCompile(`(?i)HTTP request (was sent )?to (an )?HTTPS (server|port)|plain HTTP to an SSL|malformed HTTP response "?\\x15\\x03`)
)
