package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"

	"gitlab-runner-fleet-exporter/config"
	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/secret"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const (
	// checkTimeout bounds the check of one GitLab: a person waits.
	checkTimeout = 5 * time.Minute
	// answerTimeout bounds the wait for a first answer, if request_timeout is shorter.
	answerTimeout = 10 * time.Second
	// expirySoon is when a token's end is worth a warning.
	expirySoon = 14 * 24 * time.Hour
)

// checkGitLabs is --gitlab.check: it reads each GitLab once and prints what was
// found. 1 where something that the configuration asks for cannot be had.
func checkGitLabs(ctx context.Context, o *options, v *config.Validated, out io.Writer, logger log.Logger) int {
	code := exitOK
	for _, w := range v.Warnings() {
		printf(out, "warning: %s\n", w)
	}
	for _, g := range v.GitLabs() {
		c := &check{report: report{out: out}, gitlab: g, shards: o.shardCount, secrets: o.secrets}
		printf(out, "gitlab %q at %s\n", g.Name, g.URL)
		c.run(ctx, logger)
		if ctx.Err() != nil {
			printf(out, "interrupted: the check is not complete\n")
			return exitFailure
		}
		c.result()
		if c.problems > 0 {
			code = exitFailure
		}
	}
	return code
}

// report prints for a person: facts in two columns, each problem and warning
// below the fact that it belongs to.
type report struct {
	out                io.Writer
	problems, warnings int
	// over: the check was ended, and what is found from now on is no finding.
	over func() bool
}

func (r *report) printf(format string, args ...any) {
	if r.over == nil || !r.over() {
		printf(r.out, format, args...)
	}
}

func (r *report) fact(label, format string, args ...any) {
	r.printf("  %-14s %s\n", label, fmt.Sprintf(format, args...))
}

func (r *report) problem(what, remedy string) {
	r.trouble(&r.problems, "PROBLEM", what, remedy)
}

func (r *report) warn(what, remedy string) {
	r.trouble(&r.warnings, "warning", what, remedy)
}

func (r *report) trouble(n *int, kind, what, remedy string) {
	if r.over != nil && r.over() {
		return
	}
	*n++
	r.printf("  %s: %s\n", kind, what)
	if remedy != "" {
		r.printf("           remedy: %s\n", remedy)
	}
}

func (r *report) result() {
	switch {
	case r.problems > 0 && r.warnings > 0:
		r.fact("result", "%s to fix, %s", count(r.problems, "problem"), count(r.warnings, "warning"))
	case r.problems > 0:
		r.fact("result", "%s to fix", count(r.problems, "problem"))
	case r.warnings > 0:
		r.fact("result", "ready, with %s", count(r.warnings, "warning"))
	default:
		r.fact("result", "ready")
	}
}

// count writes a number with its noun.
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return strconv.Itoa(n) + " " + noun
}

// check is the check of one GitLab.
type check struct {
	report

	gitlab  config.GitLab
	shards  int
	secrets *secret.List
	client  *gitlab.Client
	limits  *budget.Budget
	limit   statedLimit
	times   durations

	giveUp  func()   // ends a first request that something else than GitLab answers; nil: wait as usual
	scopes  []string // of the token; nil: not known
	visible int      // 1: GitLab shows the jobs of all projects; 0: not; -1: not known
	fleet   fleet
}

// failed reports a reading that failed, with the remedy that the log has.
func (c *check) failed(report func(what, remedy string), what string, err error) {
	report(what+": "+err.Error(), gitlab.Remedy(gitlab.ReasonOf(err), err))
}

func (c *check) run(ctx context.Context, logger log.Logger) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	c.over = func() bool { return ctx.Err() != nil }
	defer func() { c.over = nil }()
	httpClient, err := newHTTPClient(c.gitlab, c.secrets)
	if err != nil {
		c.problem("the HTTP client: "+err.Error(), "check the HTTP settings of this GitLab in the configuration")
		return
	}
	defer httpClient.CloseIdleConnections()
	client, err := newClient(c.gitlab, httpClient, c.secrets, log.With(logger, "gitlab", c.gitlab.Name), gitlab.Hooks{
		Attempt: c.times.attempt,
		Retry: func(r gitlab.Reason) {
			if r == gitlab.ReasonNotGitLab && c.giveUp != nil {
				c.giveUp()
			}
		},
	})
	if err != nil {
		c.problem(err.Error(), "check url")
		return
	}
	// Without the configured rate: a person waits, and the requests are few. The
	// limits that GitLab states are obeyed.
	c.limits = budget.New(budget.Options{})
	c.client = client.For(&listener{Gate: c.limits.Gate(budget.Listing), limit: &c.limit})

	for _, step := range []func(context.Context) bool{
		c.version, c.token, c.list, c.visibility, c.sample, c.floors, c.need,
	} {
		if !step(ctx) || ctx.Err() != nil {
			break
		}
	}
	c.over = nil
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		c.problem("the check was ended after "+checkTimeout.String()+": what is not printed was not checked", "GitLab answers slowly: try again when it has less to do")
	}
}

// foreignAnswer reports the failures that an address without GitLab's API gives,
// and a proxy that lets only some endpoints pass.
func foreignAnswer(err error) bool {
	switch gitlab.ReasonOf(err) {
	case gitlab.ReasonNotFound, gitlab.ReasonNotGitLab, gitlab.ReasonDecode, gitlab.ReasonTooLarge:
		return true
	default:
		return false
	}
}

// version reads GitLab's version; false: nothing else needs to be tried.
func (c *check) version(ctx context.Context) bool {
	var version string
	err := c.first(ctx, func(ctx context.Context) (err error) {
		version, err = c.client.Version(ctx)
		return err
	})
	if foreignAnswer(err) {
		return c.isGitLab(ctx, err)
	}
	switch gitlab.ReasonOf(err) {
	case "":
		c.fact("GitLab", "%s", version)
	case gitlab.ReasonForbidden:
		c.fact("GitLab", "its version is not open to this token")
	case gitlab.ReasonUnauthorized:
		c.refused(err)
		return false
	case gitlab.ReasonServerError, gitlab.ReasonRateLimited:
		c.failed(c.warn, "the version cannot be read", err)
	default:
		c.failed(c.problem, "GitLab cannot be reached", err)
		return false
	}
	return true
}

// first makes one of the first requests. A proxy's page is retried in service,
// since GitLab may come back behind it; here a person waits for the word.
func (c *check) first(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, max(answerTimeout, c.gitlab.Poll.RequestTimeout))
	defer cancel()
	c.giveUp = cancel
	defer func() { c.giveUp = nil }()
	return ask(ctx)
}

// isGitLab distinguishes an address without GitLab's API from a proxy that lets
// only the runner lists pass.
func (c *check) isGitLab(ctx context.Context, version error) bool {
	err := c.first(ctx, func(ctx context.Context) error {
		_, err := c.client.RunnersWhere(ctx, scopes(c.gitlab)[0], gitlab.RunnerFilter{}, 1)
		return err
	})
	if foreignAnswer(err) {
		c.failed(c.problem, "this address does not answer as GitLab's API", err)
		return false
	}
	c.warn("GitLab's version cannot be read: "+version.Error(), "let /api/v4/version pass what stands in front of GitLab; but for the version nothing is missing")
	return true
}

// refused is the one line about a token that is not accepted.
func (c *check) refused(err error) {
	what := "GitLab refuses the token"
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		what = "the token cannot be read"
	}
	c.failed(c.problem, what, err)
}

// token reads whose token it is. Only some kinds of token can be asked.
func (c *check) token(ctx context.Context) bool {
	var t gitlab.Token
	err := c.first(ctx, func(ctx context.Context) (err error) {
		t, err = c.client.Token(ctx)
		return err
	})
	switch gitlab.ReasonOf(err) {
	case "":
	case gitlab.ReasonUnauthorized:
		c.refused(err)
		return false
	case gitlab.ReasonBadRequest, gitlab.ReasonForbidden, gitlab.ReasonNotFound:
		c.fact("token", "owner, scopes and expiry not reported (for this kind of token, or by this release)")
		return true
	default:
		c.failed(c.warn, "owner, scopes and expiry of the token cannot be read", err)
		return true
	}
	c.scopes = append([]string{}, t.Scopes...)
	expiry := "never expires"
	if !t.ExpiresAt.IsZero() {
		expiry = "expires " + t.ExpiresAt.Format(time.DateOnly)
	}
	c.fact("token", "%q of user %d, scopes %s, %s", t.Name, t.UserID, strings.Join(t.Scopes, " "), expiry)
	if slices.ContainsFunc(t.Scopes, func(s string) bool {
		return s == "api" || s == "manage_runner" || s == "create_runner" || s == "sudo"
	}) {
		c.warn("the token may also write, which is never needed", "create one with the scope read_api only (and admin_mode for an administrator where Admin Mode is on)")
	}
	if !t.ExpiresAt.IsZero() && time.Until(t.ExpiresAt) < expirySoon {
		c.warn("the token expires soon", "create a new one in time; a token file is read again at each request, no restart is needed")
	}
	return true
}

// visibility reports whether the job counts will be whole: GitLab leaves out,
// without an error, jobs of projects that the token may not see (docs/gitlab-api.md 4.3).
// Only who may list all runners by REST sees all.
func (c *check) visibility(ctx context.Context) bool {
	c.visible = -1
	instance := c.gitlab.Scope == snapshot.ScopeInstance
	var err error
	if !instance || c.fleet.graphql {
		_, err = c.client.RunnersWhere(ctx, gitlab.Scope{Kind: snapshot.ScopeInstance}, gitlab.RunnerFilter{}, 1)
	}
	switch gitlab.ReasonOf(err) {
	case "":
		c.visible = 1
		c.fact("jobs", "visible in all projects")
	case gitlab.ReasonForbidden:
		c.visible = 0
		if instance {
			c.problem("the token does not see the jobs of all projects, though it lists all runners by GraphQL: job counts would be too low: "+err.Error(), c.adminRemedy())
		} else {
			c.warn("the token sees only jobs of projects that its user may see, and no jobs of instance runners: job counts are of these only", "an administrator's or auditor's token sees all; where that is not wanted, nothing is to be done")
		}
	default:
		c.failed(c.warn, "it is not known whether the token sees the jobs of all projects", err)
	}
	return true
}

// adminRemedy is for a token that GraphQL takes for an administrator's and REST
// does not: Admin Mode, which GraphQL ignores, or a custom admin role.
func (c *check) adminRemedy() string {
	const other = "use an administrator's token, or from GitLab 18 on an auditor's: a custom admin role is not enough"
	switch {
	case slices.Contains(c.scopes, "admin_mode"):
		return other
	case c.scopes == nil:
		return "if the token is an administrator's, Admin Mode is on: it needs the scope admin_mode; else " + other
	default:
		return "if the token is an administrator's, Admin Mode is on: create one with the scope admin_mode besides read_api; else " + other
	}
}

// statedLimit is the requests a minute that GitLab's headers allow this user; 0: not given.
type statedLimit struct{ perMinute atomic.Int64 }

// listener reads GitLab's limit off the answers. RateLimit-Limit is normalised
// to a minute (docs/gitlab-api.md 5.1); what has no RateLimit-Observed is not GitLab's.
type listener struct {
	*budget.Gate

	limit *statedLimit
}

// Release reads the header and hands it on.
func (l *listener) Release(status int, header http.Header) {
	if n, err := strconv.ParseInt(header.Get("RateLimit-Limit"), 10, 64); err == nil && n > 0 && header.Get("RateLimit-Observed") != "" {
		l.limit.perMinute.Store(n)
	}
	l.Gate.Release(status, header)
}

// durations is how long answers about single runners take.
type durations struct{ sum, n atomic.Int64 }

func (d *durations) attempt(a gitlab.Attempt) {
	if a.Route == gitlab.RouteRunner && a.Code == http.StatusOK {
		d.sum.Add(int64(a.Duration))
		d.n.Add(1)
	}
}

// mean is 0 where none was read.
func (d *durations) mean() time.Duration {
	return time.Duration(d.sum.Load() / max(d.n.Load(), 1))
}
