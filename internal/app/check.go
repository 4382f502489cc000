package app

import (
	"context"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log"

	"gitlab-runner-fleet-exporter/config"
	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/secret"
)

const (
	// checkSample is how many runners have their details and jobs read by a check.
	checkSample = 5
	// checkTimeout bounds the check of one GitLab: a person waits.
	checkTimeout = 5 * time.Minute
	// answerTimeout bounds the wait for a first answer.
	answerTimeout = 10 * time.Second
	// rowsPerPage is what GitLab gives at most (API notes 2).
	rowsPerPage = 100
	// expirySoon is when a token's end is worth a warning.
	expirySoon = 14 * 24 * time.Hour

	// The monitor's own habits that the need for requests follows from:
	// executing runners have their details read this often at the least, idle
	// ones their jobs this many times as seldom.
	busyDetailsMost = 5 * time.Minute
	idleJobsFactor  = 5
)

// checkGitLabs is --gitlab.check: it reads each GitLab once and tells what was
// found. 1 where something that the configuration asks for cannot be had.
func checkGitLabs(ctx context.Context, o *options, v *config.Validated, out io.Writer, logger log.Logger) int {
	code := exitOK
	for _, w := range v.Warnings() {
		tell(out, "warning: %s\n", w)
	}
	for _, g := range v.GitLabs() {
		c := &check{gitlab: g, out: out, shards: o.shardCount, secrets: o.secrets}
		c.run(ctx, logger)
		if c.problems > 0 {
			code = exitFailure
		}
	}
	if ctx.Err() != nil {
		return exitFailure // asked to stop before it was done
	}
	return code
}

// check is the check of one GitLab.
type check struct {
	gitlab   config.GitLab
	out      io.Writer
	shards   int
	secrets  *secret.List
	problems int
	// detailed: one GraphQL page tells what takes REST two requests a runner.
	detailed bool
}

func (c *check) say(format string, args ...any)  { tell(c.out, "  "+format+"\n", args...) }
func (c *check) warn(format string, args ...any) { c.say("warning: "+format, args...) }

func (c *check) problem(format string, args ...any) {
	c.problems++
	c.say("PROBLEM: "+format, args...)
}

func (c *check) run(ctx context.Context, logger log.Logger) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	g := c.gitlab
	tell(c.out, "gitlab %q at %s\n", g.Name, g.URL)
	httpClient, err := newHTTPClient(g, c.secrets)
	if err != nil {
		c.problem("its HTTP client: %s", err)
		return
	}
	defer httpClient.CloseIdleConnections()
	client, err := newClient(g, httpClient, c.secrets, log.With(logger, "gitlab", g.Name), gitlab.Hooks{})
	if err != nil {
		c.problem("%s", err)
		return
	}
	// Without the configured rate: a person waits, and the requests are few. What
	// GitLab itself says of limits is obeyed.
	limits := budget.New(budget.Options{})
	client = client.For(limits.Gate(budget.Listing))

	if !c.version(ctx, client) {
		return
	}
	c.token(ctx, client)
	runners, ok := c.list(ctx, client)
	if !ok {
		return
	}
	c.visibility(ctx, client)
	c.graphql(ctx, client)
	c.sample(ctx, client, runners)
	c.need(runners, limits.State())
}

// version reads GitLab's version; false: nobody answers.
func (c *check) version(ctx context.Context, client *gitlab.Client) bool {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	version, err := client.Version(ctx)
	switch gitlab.ReasonOf(err) {
	case "":
		c.say("GitLab %s", version)
	case gitlab.ReasonConnection, gitlab.ReasonTLS, gitlab.ReasonTimeout, gitlab.ReasonRedirect, gitlab.ReasonCanceled:
		c.problem("it cannot be reached: %s", err)
		return false
	default:
		c.warn("it does not tell its version: %s", err)
	}
	return true
}

// token tells whose token it is. Only some kinds of token can be asked.
func (c *check) token(ctx context.Context, client *gitlab.Client) {
	t, err := client.Token(ctx)
	switch gitlab.ReasonOf(err) {
	case "":
	case gitlab.ReasonForbidden, gitlab.ReasonNotFound:
		c.say("token: tells nothing of itself (its kind, or this release, cannot)")
		return
	case gitlab.ReasonUnauthorized:
		c.problem("the token is refused: %s", err)
		return
	default:
		c.warn("the token cannot be asked: %s", err)
		return
	}
	expiry := "never expires"
	if !t.ExpiresAt.IsZero() {
		expiry = "expires " + t.ExpiresAt.Format(time.DateOnly)
	}
	c.say("token: %q of user %d, scopes %s, %s", t.Name, t.UserID, strings.Join(t.Scopes, " "), expiry)
	if !slices.ContainsFunc(t.Scopes, func(s string) bool { return s == "read_api" || s == "api" }) {
		c.warn("scope read_api is missing: runners cannot be listed without it")
	}
	if slices.ContainsFunc(t.Scopes, func(s string) bool {
		return s == "api" || s == "manage_runner" || s == "create_runner" || s == "sudo"
	}) {
		c.warn("the token may also write, which is never needed: read_api is enough (and admin_mode where Admin Mode is on)")
	}
	if !t.ExpiresAt.IsZero() && time.Until(t.ExpiresAt) < expirySoon {
		c.warn("the token expires soon")
	}
}

// list reads all pages of the listing, as a monitor does.
func (c *check) list(ctx context.Context, client *gitlab.Client) (map[int64]gitlab.Runner, bool) {
	runners := map[int64]gitlab.Runner{}
	for _, scope := range scopes(c.gitlab) {
		for page := 1; page != 0; {
			p, err := client.Runners(ctx, scope, page)
			if err != nil {
				c.problem("the runners cannot be listed: %s", err)
				if gitlab.ReasonOf(err) == gitlab.ReasonForbidden && scope.Kind == gitlab.ScopeInstance {
					c.say("  scope instance needs an administrator's token (an auditor's from GitLab 18 on), with admin_mode where Admin Mode is on")
				}
				return nil, false
			}
			for _, r := range p.Runners {
				runners[r.ID] = r
			}
			page = p.Next
		}
	}
	kinds := map[string]int{}
	busy := 0
	for _, r := range runners {
		kinds[r.Type]++
		if r.Execution == "active" {
			busy++
		}
	}
	c.say("runners: %d (instance %d, group %d, project %d), %d of them executing jobs", len(runners),
		kinds["instance_type"], kinds["group_type"], kinds["project_type"], busy)
	if len(runners) == 0 {
		c.warn("the token sees no runner with scope %s", c.gitlab.Scope)
	}
	return runners, true
}

// visibility tells whether the job counts will be whole: GitLab leaves out,
// without a word, jobs of projects that the token may not see (API notes 4.3).
func (c *check) visibility(ctx context.Context, client *gitlab.Client) {
	all := "may see the jobs of every project"
	if c.gitlab.Scope == config.ScopeInstance {
		c.say("the token %s", all)
		return
	}
	_, err := client.Runners(ctx, gitlab.Scope{Kind: gitlab.ScopeInstance}, 1)
	switch gitlab.ReasonOf(err) {
	case "":
		c.say("the token %s", all)
	case gitlab.ReasonForbidden:
		c.warn("the token may not see the jobs of every project: counts hold those of the projects it may see, and jobs of instance runners not at all; only an administrator's or auditor's token sees all")
	default:
		c.warn("it is not known whether the token may see the jobs of every project: %s", err)
	}
}

// graphql tells which API the runners will be read by.
func (c *check) graphql(ctx context.Context, client *gitlab.Client) {
	kind := scopes(c.gitlab)[0]
	if c.gitlab.API == config.APIREST || (kind.Kind != gitlab.ScopeInstance && kind.Kind != gitlab.ScopeGroup) {
		return
	}
	if kind.Kind == gitlab.ScopeGroup && strings.Trim(kind.ID, "0123456789") == "" {
		path, err := client.Group(ctx, kind.ID)
		if err != nil {
			c.warn("the path of group %s, which GraphQL needs, cannot be read: %s", kind.ID, err)
			return
		}
		kind.ID = path
	}
	page, err := client.RunnersGraphQL(ctx, gitlab.GraphQLQuery{Scope: kind, First: 1})
	needs := gitlab.FieldsDetails | gitlab.FieldManagers
	switch {
	case err == nil:
		c.detailed = page.Fields&needs == needs
		c.say("runners are read by GraphQL%s", map[bool]string{true: ", details and machines with them", false: "; details by REST, since this release does not tell all by GraphQL"}[c.detailed])
		if kind.Kind == gitlab.ScopeGroup {
			c.say("  it also shows the runners of subgroups and projects, which the count above lacks")
		}
	case c.gitlab.API == config.APIGraphQL:
		c.problem("api is graphql, and GraphQL refuses: %s", err)
	default:
		c.warn("GraphQL refuses, so runners are read by REST, with two requests for each runner's details: %s", err)
	}
}

// sample reads details and jobs of a few runners, spread over the fleet.
func (c *check) sample(ctx context.Context, client *gitlab.Client, runners map[int64]gitlab.Runner) {
	ids := make([]int64, 0, len(runners))
	for id := range runners {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	n := min(checkSample, len(ids))
	if n == 0 {
		return
	}
	var details, managers, jobs int
	var derr, merr, jerr error
	for i := range n {
		id := ids[i*(len(ids)-1)/max(n-1, 1)]
		if _, err := client.Runner(ctx, id, true); err == nil {
			details++
		} else {
			derr = err
		}
		if _, err := client.Managers(ctx, id); err == nil {
			managers++
		} else {
			merr = err
		}
		if _, err := client.RunnerJobs(ctx, gitlab.JobsQuery{RunnerID: id, Page: 1}); err == nil {
			jobs++
		} else {
			jerr = err
		}
	}
	c.say("of %d runners tried, details of %d, machines of %d and jobs of %d can be read", n, details, managers, jobs)
	if derr != nil {
		c.problem("details: %s", derr)
	}
	if jerr != nil {
		c.problem("jobs: %s", jerr)
	}
	if merr != nil && gitlab.ReasonOf(merr) != gitlab.ReasonNotFound {
		c.problem("machines: %s", merr)
	} else if managers == 0 {
		c.say("this release does not tell the machines behind a runner")
	}
}

// demand is what a configuration asks of a GitLab, in requests a minute.
type demand struct {
	listing, details, activeJobs, idleJobs, walk float64
}

func (d demand) total() float64 {
	return d.listing + d.details + d.activeJobs + d.idleJobs + d.walk
}

// demandOf is what the monitor's habits make of intervals and fleet size. One
// shard of many lists all runners but reads its share of the rest. New
// runners, watched jobs that left the newest page, and walks longer than a page
// come on top; they are few. By GraphQL (detailed) the list tells details,
// machines, how many jobs execute and who did nothing: idle ones take this at
// the most.
func demandOf(p config.Poll, scopes, runners, busy, shards int, detailed bool) demand {
	perMinute := func(requests float64, every time.Duration) float64 {
		return requests * float64(time.Minute) / float64(every)
	}
	share := func(n int) float64 { return float64(n) / float64(shards) }
	pages := max(scopes, int(math.Ceil(float64(runners)/rowsPerPage)))
	idle := runners - busy
	d := demand{
		listing: perMinute(float64(pages), p.RunnersInterval),
		// The runner itself, and its machines.
		details: 2 * (perMinute(share(busy), min(p.DetailsInterval, busyDetailsMost)) + perMinute(share(idle), p.DetailsInterval)),
		// What executes, and the newest rows.
		activeJobs: 2 * perMinute(share(busy), p.JobsInterval),
		idleJobs:   perMinute(share(idle), idleJobsFactor*p.JobsInterval),
		walk:       perMinute(share(runners), p.ReconcileInterval),
	}
	if detailed {
		d.details, d.activeJobs = 0, d.activeJobs/2
	}
	return d
}

// need puts the demand beside the budget.
func (c *check) need(runners map[int64]gitlab.Runner, limits budget.State) {
	busy := 0
	for _, r := range runners {
		if r.Execution == "active" {
			busy++
		}
	}
	p := c.gitlab.Poll
	d := demandOf(p, len(scopes(c.gitlab)), len(runners), busy, c.shards, c.detailed)
	c.say("requests a minute at these intervals, with %d of %d runners executing: %.0f", busy, len(runners), math.Ceil(d.total()))
	c.say("  listing %.1f, details and machines %.1f, jobs of executing runners %.1f, jobs of idle ones %.1f, deeper walk %.1f",
		d.listing, d.details, d.activeJobs, d.idleJobs, d.walk)
	if c.detailed {
		c.say("  idle runners take less where GitLab tells that they have not contacted it since")
	}
	if c.shards > 1 {
		c.say("  for each of %d shards", c.shards)
	}
	allowed := p.MaxRequestsPerSecond * 60 / float64(c.shards)
	switch {
	case p.MaxRequestsPerSecond == 0:
		c.say("budget: no limit")
	case d.total() <= allowed:
		c.say("budget: %.0f a minute (max_requests_per_second %g): enough", allowed, p.MaxRequestsPerSecond)
	default:
		c.problem("budget: %.0f a minute (max_requests_per_second %g) is too little: nothing is lost, but readings come late (poll_lag_seconds tells); raise it to %g, or lengthen the intervals",
			allowed, p.MaxRequestsPerSecond, math.Ceil(d.total()*float64(c.shards)/60))
	}
	if limits.RateLimit >= 0 {
		c.say("GitLab throttles this user: %.0f requests in its window, %.0f of them left", limits.RateLimit, limits.RateRemaining)
	}
}
