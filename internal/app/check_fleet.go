package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const (
	// checkSample is how many runners have their details and jobs read by a check.
	checkSample = 5
	// busySample is how many online runners are asked what they execute where the
	// list does not report it.
	busySample = 20
	// busyGuess is the share of online runners that is assumed to execute jobs
	// where not even a sample could be read.
	busyGuess = 0.25
	// floorRequests bounds what floors may cost by REST, which takes a request a
	// tag and scope.
	floorRequests = 100
	// checkPages ends a list that a confused server would never end.
	checkPages = 10_000
)

// fleet is what the listing of a check found.
type fleet struct {
	runners map[int64]*gitlab.FleetRunner
	tags    bool // tags are known: every scope was read by GraphQL
	// graphql: some scope was read by GraphQL; detailed: all, with all that
	// takes REST two requests a runner; counted: with the number of jobs executing.
	graphql, detailed, counted bool

	pages int
	took  time.Duration
	read  []gitlab.Scope // those that could be read

	busy     int // known to execute jobs
	unknown  int // online, and the list does not report it
	estimate int // how many execute jobs, the unknown ones estimated
}

// list reads all pages of all scopes, each alone, as a monitor does.
func (c *check) list(ctx context.Context) bool {
	all := scopes(c.gitlab)
	f := fleet{runners: map[int64]*gitlab.FleetRunner{}, tags: true, detailed: true, counted: true}
	reaches := !slices.ContainsFunc(all, func(s gitlab.Scope) bool {
		return s.Kind != snapshot.ScopeInstance && s.Kind != snapshot.ScopeGroups
	})
	if c.gitlab.API == snapshot.APIGraphQL && !reaches {
		c.warn("api is graphql, which has no list for scope "+string(c.gitlab.Scope)+": REST is read", "set api: auto")
	}
	l := lister{check: c, fleet: &f, byGraphQL: reaches && c.gitlab.API != snapshot.APIREST}
	began := time.Now()
	for _, scope := range all {
		if !l.scope(ctx, scope, len(all) > 1) {
			break
		}
	}
	f.took = time.Since(began)
	if len(f.read) == 0 {
		return false
	}
	c.fleet = f
	c.composition()
	return true
}

// composition prints what was listed and how.
func (c *check) composition() {
	kinds := map[string]int{}
	online := 0
	for _, r := range c.fleet.runners {
		kinds[r.Type]++
		if inventory.Available(&r.Runner) {
			online++
		}
	}
	n := len(c.fleet.runners)
	c.fact("runners", "%d (instance %d, group %d, project %d), %d online and not paused", n,
		kinds["instance_type"], kinds["group_type"], kinds["project_type"], online)
	switch {
	case c.fleet.detailed:
		c.fact("read by", "GraphQL: tags, details and machines come with the list")
	case c.fleet.graphql:
		c.fact("read by", "GraphQL, and REST for details: by GraphQL this release does not report all of them")
	default:
		c.fact("read by", "REST: a request for each runner's details, one for its machines")
	}
	if n == 0 {
		remedy := "check url and token: a GitLab without any runner is rare"
		if c.gitlab.Scope != snapshot.ScopeInstance {
			remedy = "use a token whose user may see runners here, or another scope"
		}
		c.warn("no runner is visible with scope "+string(c.gitlab.Scope), remedy)
	}
}

// lister reads scopes into a fleet.
type lister struct {
	*check

	fleet     *fleet
	byGraphQL bool
	dialect   gitlab.GraphQLDialect
}

// scope reads one scope; false: the next ones would fail alike.
func (l *lister) scope(ctx context.Context, s gitlab.Scope, alone bool) bool {
	found := map[int64]*gitlab.FleetRunner{}
	err := l.readScope(ctx, s, found)
	if err == nil {
		for id, r := range found {
			if known := l.fleet.runners[id]; known == nil || known.Tags == nil {
				l.fleet.runners[id] = r
			}
		}
		l.fleet.read = append(l.fleet.read, s)
		if alone {
			l.fact(kindOf(s), "%q: %s", s.ID, count(len(found), "runner"))
		}
		return true
	}
	reason := gitlab.ReasonOf(err)
	if reason == gitlab.ReasonUnauthorized {
		l.refused(err)
		return false
	}
	l.failed(l.problem, "the runners "+ofScope(s)+"cannot be listed", err)
	return ctx.Err() == nil && reason != gitlab.ReasonConnection && reason != gitlab.ReasonTLS
}

// readScope reads by GraphQL where it is wanted, else, or where it is refused, by REST.
func (l *lister) readScope(ctx context.Context, s gitlab.Scope, found map[int64]*gitlab.FleetRunner) error {
	if l.byGraphQL {
		before := l.fleet.pages
		err := l.readGraphQL(ctx, s, found)
		if err == nil || l.gitlab.API == snapshot.APIGraphQL || ctx.Err() != nil {
			return err
		}
		clear(found)
		l.fleet.pages = before
		if rerr := l.readREST(ctx, s, found); rerr != nil {
			return rerr
		}
		l.graphqlFailed(s, err)
	} else if err := l.readREST(ctx, s, found); err != nil {
		return err
	}
	l.fleet.tags, l.fleet.detailed, l.fleet.counted = false, false, false
	return nil
}

// graphqlFailed explains why REST is read. That a token may not is a fact of
// its kind; anything else may be mended.
func (l *lister) graphqlFailed(s gitlab.Scope, err error) {
	if gitlab.ReasonOf(err) == gitlab.ReasonForbidden {
		l.fact("GraphQL", "not open to this token%s, so REST is read", strings.TrimRight(" "+ofScope(s), " "))
		return
	}
	l.failed(l.warn, "the runners "+ofScope(s)+"cannot be read by GraphQL, so REST is read, which takes two requests for each runner", err)
}

func (l *lister) readGraphQL(ctx context.Context, s gitlab.Scope, found map[int64]*gitlab.FleetRunner) error {
	if s.Kind == snapshot.ScopeGroups && strings.Trim(s.ID, "0123456789") == "" {
		path, err := l.client.Group(ctx, s.ID) // GraphQL does not take its id
		if err != nil {
			return err
		}
		s.ID = path
	}
	q := gitlab.GraphQLQuery{Scope: s, Dialect: &l.dialect}
	fields, partial := gitlab.FieldsAll, false
	for n := 0; ; n++ {
		if n >= checkPages {
			return errEndless
		}
		page, err := l.client.RunnersGraphQL(ctx, q)
		if err != nil {
			return err
		}
		l.fleet.pages++
		fields &= page.Fields
		partial = partial || page.Partial
		for i := range page.Runners {
			r := &page.Runners[i]
			if r.Tags == nil {
				r.Tags = []string{}
			}
			found[r.ID] = r
		}
		if page.Next == "" {
			break
		}
		q.After = page.Next
	}
	const details = gitlab.FieldsDetails | gitlab.FieldManagers
	l.fleet.graphql = true
	l.fleet.tags = l.fleet.tags && fields&gitlab.FieldTags != 0 && !partial
	l.fleet.detailed = l.fleet.detailed && fields&details == details && !partial
	l.fleet.counted = l.fleet.counted && fields&gitlab.FieldExecuting != 0 && !partial
	if partial {
		// The runners of the groups above and of the instance.
		return l.readREST(ctx, s, found)
	}
	return nil
}

var errEndless = errors.New("the list of runners does not end")

func (l *lister) readREST(ctx context.Context, s gitlab.Scope, found map[int64]*gitlab.FleetRunner) error {
	for page := 1; page != 0; {
		if page > checkPages {
			return errEndless
		}
		p, err := l.client.Runners(ctx, s, page)
		if err != nil {
			return err
		}
		l.fleet.pages++
		before := len(found)
		for _, r := range p.Runners {
			if found[r.ID] == nil {
				found[r.ID] = &gitlab.FleetRunner{RunnerDetails: gitlab.RunnerDetails{Runner: r}, Executing: -1}
			}
		}
		if page > 1 && len(found) == before && len(p.Runners) > 0 {
			return errEndless // a proxy that gives the same page for each number
		}
		page = p.Next
	}
	return nil
}

// kindOf is the word for a scope that has an id.
func kindOf(s gitlab.Scope) string {
	if s.Kind == snapshot.ScopeProjects {
		return "project"
	}
	return "group"
}

// ofScope names a group or project as it is configured; "" for the others.
func ofScope(s gitlab.Scope) string {
	if s.ID == "" {
		return ""
	}
	return fmt.Sprintf("of %s %q ", kindOf(s), s.ID)
}

// spread picks at most n of some ids, evenly.
func spread(ids []int64, n int) []int64 {
	if len(ids) <= n {
		return ids
	}
	out := make([]int64, n)
	for i := range out {
		out[i] = ids[i*(len(ids)-1)/max(n-1, 1)]
	}
	return out
}

// ids are the runners that a condition lets through, in order.
func (f *fleet) ids(is func(*gitlab.FleetRunner) bool) []int64 {
	var out []int64
	for _, id := range slices.Sorted(maps.Keys(f.runners)) {
		if is(f.runners[id]) {
			out = append(out, id)
		}
	}
	return out
}

// jobsOpen reports whether this runner's jobs can be read as far as is known:
// those of an instance runner only where all are.
func (c *check) jobsOpen(r *gitlab.FleetRunner) bool {
	return c.visible != 0 || r.Type != "instance_type"
}

// tried counts readings of one kind.
type tried struct {
	ok, gone int
	err      error
}

func (t *tried) add(err error) {
	switch {
	case err == nil:
		t.ok++
	case gitlab.ReasonOf(err) == gitlab.ReasonNotFound:
		t.gone++ // deleted meanwhile, or an endpoint that this release does not have
	default:
		t.err = err
	}
}

// judge reports what failed: all is a problem, some may be one huge runner.
func (c *check) judge(what string, t tried) {
	switch {
	case t.err == nil:
	case t.ok == 0:
		c.failed(c.problem, what+" cannot be read", t.err)
	default:
		c.failed(c.warn, what+" cannot be read of each runner", t.err)
	}
}

// sample reads of a few runners, spread over the fleet, what the exporter will read.
func (c *check) sample(ctx context.Context) bool {
	if len(c.fleet.runners) == 0 {
		return true
	}
	ids := spread(c.fleet.ids(c.jobsOpen), checkSample)
	closed := len(ids) == 0
	if closed {
		ids = spread(c.fleet.ids(func(*gitlab.FleetRunner) bool { return true }), checkSample)
	}
	var details, machines, jobs tried
	for _, id := range ids {
		if !c.fleet.detailed {
			d, err := c.client.Runner(ctx, id, true)
			details.add(err)
			if err == nil {
				c.fleet.runners[id].Tags = append([]string{}, d.Tags...)
			}
			_, err = c.client.Managers(ctx, id)
			machines.add(err)
		}
		if !closed {
			_, err := c.client.RunnerJobs(ctx, gitlab.JobsQuery{RunnerID: id, Page: 1, Rows: 1})
			jobs.add(err)
		}
	}
	var read []string
	if !c.fleet.detailed {
		read = append(read, fmt.Sprintf("details of %d", details.ok), machinesOf(machines))
	}
	if !closed {
		read = append(read, fmt.Sprintf("jobs of %d", jobs.ok))
	}
	if len(read) > 0 {
		c.fact("sample", "of %s: %s can be read", count(len(ids), "runner"), strings.Join(read, ", "))
	}
	c.judge("details", details)
	c.judge("machines", machines)
	if c.visible != 0 || c.gitlab.Scope != snapshot.ScopeInstance { // else visibility has explained it
		c.judge("jobs", jobs)
	}
	if closed {
		c.warn("all runners are instance runners, whose jobs this token cannot read: no jobs will be counted", "an administrator's or auditor's token can; the status of the runners is right without")
	}
	c.executing(ctx)
	return true
}

func machinesOf(t tried) string {
	if t.ok == 0 && t.err == nil {
		return "machines of none (not reported by this release)"
	}
	return fmt.Sprintf("machines of %d", t.ok)
}

// executing finds how many runners execute jobs, which the need for requests
// depends on. Not every release's list reports it: unknown is not none.
func (c *check) executing(ctx context.Context) {
	f := &c.fleet
	var unknown []int64
	for _, id := range f.ids(func(*gitlab.FleetRunner) bool { return true }) {
		switch r := f.runners[id]; {
		case r.Execution == "active" || r.Executing > 0:
			f.busy++
		case r.Execution == "idle" || r.Executing == 0:
		case inventory.Available(&r.Runner):
			unknown = append(unknown, id)
		}
	}
	f.unknown = len(unknown)
	if f.unknown == 0 {
		f.estimate = f.busy
		c.fact("executing", "%s of %d", count(f.busy, "runner"), len(f.runners))
		return
	}
	ids := spread(slices.DeleteFunc(slices.Clone(unknown), func(id int64) bool { return !c.jobsOpen(f.runners[id]) }), busySample)
	read, busy := 0, 0
	for _, id := range ids {
		page, err := c.client.RunnerJobs(ctx, gitlab.JobsQuery{RunnerID: id, Status: "running", Page: 1, Rows: 1})
		if err != nil {
			continue // sample reports why
		}
		read++
		if len(page.Jobs) > 0 {
			busy++
		}
	}
	share := busyGuess
	switch {
	case read == len(unknown):
		f.busy, f.estimate = f.busy+busy, f.busy+busy
		c.fact("executing", "%s of %d, by their jobs: the list of this release does not report it", count(f.busy, "runner"), len(f.runners))
		return
	case read == 0:
		c.fact("executing", "not reported by this release; %.0f%% of %d online runners are assumed to", 100*share, f.unknown)
	default:
		// None of a few is not none of all.
		share = max(float64(busy), 0.5) / float64(read)
		c.fact("executing", "not reported by this release; %d of %d online runners tried do, so %.0f%% of %d are assumed to", busy, read, 100*share, f.unknown)
	}
	f.estimate = f.busy + int(share*float64(f.unknown)+0.999)
}

// floors puts each floor of expected beside the present count.
func (c *check) floors(ctx context.Context) bool {
	tags := slices.Sorted(maps.Keys(c.gitlab.Expected))
	width := 0
	for _, tag := range tags {
		width = max(width, len(tag))
	}
	var lack shortfall
	left, label := floorRequests, "expected"
	for i, tag := range tags {
		floor := c.gitlab.Expected[tag]
		switch {
		case !c.fleet.tags && tag == untagged:
			c.fact(label, "%-*s not counted (by REST it takes the details of every runner), %d expected", width, tag, floor)
		case !c.fleet.tags && left < 2*len(c.fleet.read):
			c.fact(label, "%s not counted: by REST each takes requests, and %d were made", count(len(tags)-i, "more tag"), floorRequests-left)
			lack.report(c)
			return true
		default:
			t, err := c.countTag(ctx, tag, &left)
			if err != nil {
				c.failed(c.warn, fmt.Sprintf("runners with tag %q cannot be counted", tag), err)
				return true // the next ones would fail alike
			}
			c.fact(label, "%-*s %s, %d expected%s", width, tag, t, floor, lack.judge(ctx, c, tag, t, &left))
		}
		label = ""
	}
	lack.report(c)
	return true
}

// untagged is how the exporter calls runners that take untagged jobs.
const untagged = "(untagged)"

// tagCount is who has a tag now.
type tagCount struct {
	available, present int
	more               bool // available is at least this
}

func (t tagCount) String() string {
	if t.more {
		return fmt.Sprintf("at least %d available", t.available)
	}
	return fmt.Sprintf("%d available", t.available)
}

// shortfall collects tags by what is wrong with them, so that many have one
// warning.
type shortfall struct{ missing, written, down, few []string }

// judge compares with the floor, and names at the tag what is wrong.
func (l *shortfall) judge(ctx context.Context, c *check, tag string, t tagCount, left *int) string {
	quoted := fmt.Sprintf("%q", tag)
	switch {
	case t.more || t.available >= c.gitlab.Expected[tag]:
		return ""
	case t.available > 0:
		l.few = append(l.few, quoted)
		return ": too few"
	case t.present > 0:
		l.down = append(l.down, quoted)
		return fmt.Sprintf(": carried by %s, none online and not paused", count(t.present, "runner"))
	}
	if other := c.otherCase(ctx, tag, left); other != "" {
		l.written = append(l.written, fmt.Sprintf("%q (runners carry %q)", tag, other))
		return fmt.Sprintf(": runners carry %q", other)
	}
	l.missing = append(l.missing, quoted)
	return ": no runner carries it"
}

func (l *shortfall) report(c *check) {
	if len(l.missing) > 0 {
		c.warn("expected tags that no runner carries: "+listed(l.missing), "check their spelling in expected, or start runners with them")
	}
	if len(l.written) > 0 {
		c.warn("expected tags that differ by upper and lower case from those of runners: "+listed(l.written), "write them in expected as the runners do: GitLab treats them as different tags")
	}
	if len(l.down) > 0 {
		c.warn("expected tags without an available runner: "+listed(l.down), "start or resume a runner of each, or lower expected: an alert would fire now")
	}
	if len(l.few) > 0 {
		c.warn("expected tags with fewer available runners than expected: "+listed(l.few), "start or resume more, or lower expected: an alert would fire now")
	}
}

// listed writes the first names of a list.
func listed(names []string) string {
	const most = 10
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// countTag counts from what GraphQL listed, else asks GitLab to: one request a
// scope, where reading all tags by REST takes one a runner.
func (c *check) countTag(ctx context.Context, tag string, left *int) (tagCount, error) {
	var t tagCount
	if c.fleet.tags {
		for _, r := range c.fleet.runners {
			if slices.Contains(r.Tags, tag) || tag == untagged && r.RunUntagged {
				t.present++
				if inventory.Available(&r.Runner) {
					t.available++
				}
			}
		}
		return t, nil
	}
	available, more, err := c.countREST(ctx, gitlab.RunnerFilter{Tag: tag, Available: true}, left)
	if err != nil || available > 0 || more {
		return tagCount{available, available, more}, err
	}
	present, _, err := c.countREST(ctx, gitlab.RunnerFilter{Tag: tag}, left)
	return tagCount{present: present}, err
}

// countREST counts the runners of all scopes that a filter lets through. Runners
// that stand in several scopes are known by id, as far as the first page goes.
func (c *check) countREST(ctx context.Context, f gitlab.RunnerFilter, left *int) (n int, more bool, err error) {
	found := map[int64]bool{}
	for _, s := range c.fleet.read {
		*left--
		p, err := c.client.RunnersWhere(ctx, s, f, rowsPerPage)
		if err != nil {
			return 0, false, err
		}
		for _, r := range p.Runners {
			if !f.Available || inventory.Available(&r) {
				found[r.ID] = true
			}
		}
		// The total counts where GitLab knew all of the filter (paused: 14.8).
		if len(c.fleet.read) == 1 && p.Total > len(p.Runners) && len(found) == len(p.Runners) {
			return p.Total, false, nil
		}
		more = more || p.Next != 0
	}
	return len(found), more, nil
}

// otherCase finds a tag that differs in case only: among the tags that are
// known, and where those are few by asking for the usual ways to write it.
func (c *check) otherCase(ctx context.Context, tag string, left *int) string {
	for _, id := range c.fleet.ids(func(*gitlab.FleetRunner) bool { return true }) {
		for _, t := range c.fleet.runners[id].Tags {
			if t != tag && strings.EqualFold(t, tag) {
				return t
			}
		}
	}
	if c.fleet.tags {
		return ""
	}
	lower := strings.ToLower(tag)
	for _, t := range []string{lower, strings.ToUpper(tag), titled(lower)} {
		if t == tag || *left < len(c.fleet.read) {
			continue
		}
		if n, _, err := c.countREST(ctx, gitlab.RunnerFilter{Tag: t}, left); err == nil && n > 0 {
			return t
		}
	}
	return ""
}

// titled begins with a capital letter.
func titled(s string) string {
	r := []rune(s)
	if len(r) == 0 {
		return s
	}
	return strings.ToUpper(string(r[:1])) + string(r[1:])
}
