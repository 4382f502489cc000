package gitlabsim

import (
	"cmp"
	"encoding/base64"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	defaultPerPage = 20
	maxPerPage     = 100
	countLimit     = 10_000 // rows beyond which GitLab withholds totals
	offsetLimit    = 50_000
)

type page struct{ num, per int }

// page reads page and per_page (docs/gitlab-api.md 2).
func (c *call) page() (page, *failure) {
	p := page{1, defaultPerPage}
	for _, f := range []struct {
		name string
		to   *int
	}{{"page", &p.num}, {"per_page", &p.per}} {
		if !c.query.Has(f.name) {
			continue
		}
		v := c.query.Get(f.name)
		n, err := strconv.Atoi(v)
		switch {
		case v == "":
			continue
		case err != nil:
			return p, errorBody(http.StatusBadRequest, f.name+" is invalid")
		case n == 0 && f.name == "per_page":
			return p, errorBody(http.StatusBadRequest, "per_page has a value not allowed")
		case n < 1 && c.w.f.strictPage:
			return p, errorBody(http.StatusBadRequest, f.name+" does not have a valid value")
		case n >= 1:
			*f.to = n
		}
	}
	p.per = min(p.per, maxPerPage)
	return p, nil
}

// bounds are the rows of a page of total ones.
func (p page) bounds(total int) (from, to int) {
	if p.num-1 > total/p.per {
		return total, total
	}
	from = min((p.num-1)*p.per, total)
	return from, min(from+p.per, total)
}

// pageHeaders writes what GitLab's OffsetHeaderBuilder does. Totals are
// withheld beyond 10,000 rows and where the endpoint does not count.
func (c *call) pageHeaders(p page, total int, count bool) {
	count = count && total <= countLimit
	next, prev := 0, 0
	if p.num*p.per < total {
		next = p.num + 1
	}
	if p.num > 1 {
		prev = p.num - 1
	}
	num := func(n int) string {
		if n == 0 {
			return "" // an empty header, not a missing one
		}
		return strconv.Itoa(n)
	}
	c.out.Set("X-Page", num(p.num))
	c.out.Set("X-Per-Page", num(p.per))
	c.out.Set("X-Next-Page", num(next))
	c.out.Set("X-Prev-Page", num(prev))
	var links []string
	link := func(n int, rel string) {
		if n > 0 {
			links = append(links, c.link(rel, "page", strconv.Itoa(n), p.per))
		}
	}
	link(prev, "prev")
	link(next, "next")
	link(1, "first")
	if count {
		last := max(1, (total+p.per-1)/p.per)
		c.out.Set("X-Total", strconv.Itoa(total))
		c.out.Set("X-Total-Pages", strconv.Itoa(last))
		link(last, "last")
	}
	c.out.Set("Link", strings.Join(links, ", "))
}

// link names GitLab's configured host, whatever address was called (docs/gitlab-api.md 2).
func (c *call) link(rel, param, value string, per int) string {
	q := maps.Clone(c.query)
	if param == "cursor" {
		q.Del("page")
	}
	q.Set(param, value)
	q.Set("per_page", strconv.Itoa(per))
	base := c.w.opt.ExternalURL
	if i := strings.Index(base, "://"); i >= 0 {
		if j := strings.IndexByte(base[i+3:], '/'); j >= 0 {
			base = base[:i+3+j]
		}
	}
	return "<" + base + c.req.URL.EscapedPath() + "?" + q.Encode() + `>; rel="` + rel + `"`
}

// oneOf checks an enumeration parameter; "" if it is absent.
func (c *call) oneOf(name string, values ...string) (string, *failure) {
	v := c.query.Get(name)
	if !c.query.Has(name) || v == "" || slices.Contains(values, v) {
		return v, nil
	}
	return "", errorBody(http.StatusBadRequest, name+" does not have a valid value")
}

// boolean is Grape's: nil if absent.
func (c *call) boolean(name string) (*bool, *failure) {
	if !c.query.Has(name) {
		return nil, nil
	}
	switch strings.ToLower(c.query.Get(name)) {
	case "":
		return nil, nil
	case "true", "t", "1", "on":
		return new(true), nil
	case "false", "f", "0", "off":
		return new(false), nil
	}
	return nil, errorBody(http.StatusBadRequest, name+" is invalid")
}

// list is a comma list, or Rails' repeated name[].
func (c *call) list(name string) (l []string) {
	for _, k := range []string{name, name + "[]"} {
		for _, v := range c.query[k] {
			for s := range strings.SplitSeq(v, ",") {
				if s = strings.TrimSpace(s); s != "" {
					l = append(l, s)
				}
			}
		}
	}
	return l
}

var versionPrefix = regexp.MustCompile(`^[\d+.]+$`)

// filter is the parameters that runner lists take (docs/gitlab-api.md 1.6). Others are
// ignored without an error.
type filter struct {
	typ, status, version string
	scope                string
	paused               *bool
	tags                 []string
}

func (c *call) filter(withScope bool) (f filter, err *failure) {
	statuses := []string{"active", "paused", "online", "offline", "never_contacted", "stale"}
	if !c.w.f.neverContacted {
		statuses[4] = "not_connected"
	}
	if f.typ, err = c.oneOf("type", runnerTypes[:]...); err != nil {
		return f, err
	}
	if f.status, err = c.oneOf("status", statuses...); err != nil {
		return f, err
	}
	if withScope {
		words := slices.Concat([]string{"specific", "shared"}, statuses, runnerTypes[:])
		if f.scope, err = c.oneOf("scope", words...); err != nil {
			return f, err
		}
	}
	if c.w.f.paused {
		if f.paused, err = c.boolean("paused"); err != nil {
			return f, err
		}
	}
	if f.version = c.query.Get("version_prefix"); f.version != "" && !versionPrefix.MatchString(f.version) {
		return f, errorBody(http.StatusBadRequest, "version_prefix is invalid")
	}
	f.tags = c.list("tag_list")
	return f, nil
}

func (f filter) empty() bool {
	return f.typ == "" && f.status == "" && f.version == "" && f.scope == "" && f.paused == nil && len(f.tags) == 0
}

// hasStatus compares the database column, which may disagree with the status
// shown in the same row (docs/gitlab-api.md 3.3). Offline ones include stale ones.
func (c *call) hasStatus(r *runner, status string) bool {
	switch status {
	case "active", "paused":
		return r.pausedAt(c.at) == (status == "paused")
	}
	db := r.dbAt(c.at)
	switch status {
	case "online":
		return db != 0 && c.at-db < c.w.f.onlineFor
	case "offline":
		return db != 0 && c.at-db >= c.w.f.onlineFor
	case "stale":
		return c.at-max(r.created, db) > c.w.f.staleAfter
	}
	return db == 0 // never_contacted, not_connected
}

// matches counts how often a runner is in the list: with version_prefix
// once for each machine of that version, for the join has no DISTINCT.
func (c *call) matches(r *runner, f filter) int {
	switch {
	case f.typ != "" && runnerTypes[r.typ] != f.typ,
		f.paused != nil && r.pausedAt(c.at) != *f.paused,
		f.status != "" && !c.hasStatus(r, f.status):
		return 0
	}
	switch f.scope {
	case "":
	case "specific":
		if r.typ != projectType {
			return 0
		}
	case "shared":
		if r.typ != instanceType {
			return 0
		}
	default:
		if t, ok := parseRunnerType(f.scope); ok {
			if r.typ != t {
				return 0
			}
		} else if !c.hasStatus(r, f.scope) {
			return 0
		}
	}
	if len(f.tags) > 0 {
		have := r.tagsAt(c.at)
		for _, t := range f.tags {
			if !slices.Contains(have, t) {
				return 0
			}
		}
	}
	if f.version == "" {
		return 1
	}
	n := 0
	for _, m := range r.managers {
		if strings.HasPrefix(m.version, f.version) {
			n++
		}
	}
	return n
}

// world is all runners as of the call's time, by id.
func (c *call) world() []*runner {
	if !c.stale {
		return c.w.order
	}
	var rs []*runner
	for _, r := range c.w.all {
		if r.existsAt(c.at) {
			rs = append(rs, r)
		}
	}
	slices.SortFunc(rs, func(a, b *runner) int { return cmp.Compare(a.id, b.id) })
	return rs
}

// listRunners answers a runner list: id ascending, by page number.
func (c *call) listRunners(f filter, in func(*runner) bool) *failure {
	p, err := c.page()
	if err != nil {
		return err
	}
	rs := c.world()
	if in != nil || !f.empty() {
		var picked []*runner
		for _, r := range rs {
			if in == nil || in(r) {
				for range c.matches(r, f) {
					picked = append(picked, r)
				}
			}
		}
		rs = picked
	}
	from, to := p.bounds(len(rs))
	c.pageHeaders(p, len(rs), true)
	b := append(make([]byte, 0, 400*(to-from)+2), '[')
	for i, r := range rs[from:to] {
		if i > 0 {
			b = append(b, ',')
		}
		b = c.w.appendRunner(b, r, c)
		b = append(b, '}')
	}
	b = append(b, ']')
	c.body = b
	return nil
}

func (c *call) listOwned() *failure {
	f, err := c.filter(true)
	if err != nil {
		return err
	}
	return c.listRunners(f, c.tok.user.available)
}

func (c *call) listAll() *failure {
	if !c.readsAll() {
		return forbidden()
	}
	f, err := c.filter(true)
	if err != nil {
		return err
	}
	return c.listRunners(f, nil)
}

// findGroup finds a group by id or full path, and checks the membership.
func (c *call) findGroup() (*group, *failure) {
	var g *group
	if id, err := strconv.ParseInt(c.seg[1], 10, 64); err == nil {
		g = c.w.group(id)
	} else {
		g, _ = c.w.paths[c.seg[1]].(*group)
	}
	if g == nil {
		return nil, c.w.notFound("Group")
	}
	if !c.readsAll() && !c.tok.user.maintainsGroup(g) {
		return nil, forbidden()
	}
	return g, nil
}

func (c *call) findProject() (*project, *failure) {
	var p *project
	if id, err := strconv.ParseInt(c.seg[1], 10, 64); err == nil {
		p = c.w.project(id)
	} else {
		p, _ = c.w.paths[c.seg[1]].(*project)
	}
	if p == nil || !c.readsAll() && !c.tok.user.maintains(p) {
		return nil, c.w.notFound("Project")
	}
	return p, nil
}

// listGroup: the group's and its ancestors' runners and instance runners, but
// neither subgroups' nor project runners (docs/gitlab-api.md 1.1).
func (c *call) listGroup() *failure {
	g, err := c.findGroup()
	if err != nil {
		return err
	}
	f, err := c.filter(false)
	if err != nil {
		return err
	}
	return c.listRunners(f, func(r *runner) bool {
		return r.typ == instanceType || r.typ == groupType && g.under(r.group)
	})
}

func (c *call) listProject() *failure {
	p, err := c.findProject()
	if err != nil {
		return err
	}
	f, err := c.filter(true)
	if err != nil {
		return err
	}
	return c.listRunners(f, func(r *runner) bool {
		switch r.typ {
		case instanceType:
		case groupType:
			return p.group.under(r.group)
		case projectType:
			return slices.Contains(r.projects, p)
		}
		return true
	})
}

// findRunner finds the runner of a path.
func (c *call) findRunner() (*runner, *failure) {
	id, _ := strconv.ParseInt(c.seg[1], 10, 64)
	r := c.w.runners[id]
	if c.stale {
		if r = c.w.findRunner(id); r != nil && !r.existsAt(c.at) {
			r = nil
		}
	}
	if r == nil {
		return nil, c.w.notFound("Runner")
	}
	return r, nil
}

// readable finds a runner that the caller may read: an instance runner by
// anybody, others by who owns them.
func (c *call) readable() (*runner, *failure) {
	r, err := c.findRunner()
	if err != nil {
		return nil, err
	}
	if r.typ != instanceType && !c.readsAll() && !c.owns(r) {
		return nil, noAccess()
	}
	return r, nil
}

func (c *call) runnerDetails() *failure {
	r, err := c.readable()
	if err == nil {
		c.body = c.w.appendDetails(nil, r, c)
	}
	return err
}

// runnerManagers is not paginated: the whole array (docs/gitlab-api.md 1.1).
func (c *call) runnerManagers() *failure {
	r, err := c.readable()
	if err != nil {
		return err
	}
	ms := r.managers
	if c.stale {
		ms = nil
		for _, m := range slices.Concat(r.gone, r.managers) {
			if m.created <= c.at && (m.deleted == 0 || m.deleted > c.at) {
				ms = append(ms, m)
			}
		}
	}
	b := []byte{'['}
	for i, m := range ms {
		if i > 0 {
			b = append(b, ',')
		}
		b = c.w.appendManager(b, r, m, c)
	}
	b = append(b, ']')
	c.body = b
	return nil
}

func (c *call) runnerProjects() *failure {
	r, err := c.readable()
	if err != nil {
		return err
	}
	p, err := c.page()
	if err != nil {
		return err
	}
	from, to := p.bounds(len(r.projects))
	c.pageHeaders(p, len(r.projects), true)
	b := []byte{'['}
	for i, pr := range r.projects[from:to] {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, pr.basic...)
	}
	b = append(b, ']')
	c.body = b
	return nil
}

// runnerJobs answers GET /runners/:id/jobs: without order_by oldest first,
// sort alone ignored; keyset only newest first (docs/gitlab-api.md 2).
func (c *call) runnerJobs() *failure {
	r, err := c.findRunner()
	if err != nil {
		return err
	}
	all := c.readsAll()
	if !all && !c.tok.user.available(r) {
		return noAccess()
	}
	status, err := c.oneOf("status", allJobStatuses...)
	if err != nil {
		return err
	}
	orderBy, err := c.oneOf("order_by", "id")
	if err != nil {
		return err
	}
	sort, err := c.oneOf("sort", "asc", "desc")
	if err != nil {
		return err
	}
	p, err := c.page()
	if err != nil {
		return err
	}
	systemID := ""
	if c.w.f.managers {
		systemID = c.query.Get("system_id")
	}
	rows := c.jobRows(r, status, systemID, all)
	desc := orderBy == "id" && sort != "asc"
	if c.w.f.keyset && c.query.Get("pagination") == "keyset" {
		if !desc {
			return errorBody(http.StatusMethodNotAllowed, "Keyset pagination is not yet available for this type of request")
		}
		return c.keyset(rows, p)
	}
	if c.w.opt.OffsetLimit && p.num > 1 && (p.num-1)*p.per >= offsetLimit {
		return errorBody(http.StatusMethodNotAllowed, "Offset pagination has a maximum allowed offset of 50000 for requests that return objects of type Ci::Build. Remaining records can be retrieved using keyset pagination.")
	}
	from, to := p.bounds(len(rows))
	c.pageHeaders(p, len(rows), systemID == "")
	c.jobPage(len(rows), from, to, rows, desc)
	return nil
}

// jobRows are the runner's rows by id, ascending. Without a filter that is
// the world's own list, whatever its length.
func (c *call) jobRows(r *runner, status, systemID string, all bool) []int32 {
	rows := r.jobs
	if c.stale {
		rows = slices.Concat(r.jobs, r.deletedJobs)
		slices.Sort(rows)
	} else if status == "running" || status == "canceling" {
		rows = r.exec
	}
	if !c.stale && status == "" && systemID == "" && all {
		return rows
	}
	var picked []int32
	for _, i := range rows {
		j := c.w.jobs.at(i)
		s, ok := j.state, true
		if c.stale {
			s, ok = j.stateAt(c.at)
		}
		switch {
		case !ok, status != "" && jobStates[s] != status:
		case systemID != "" && (j.manager == 0 || c.w.machines[j.manager-1].systemID != systemID):
		case !all && !c.tok.user.maintains(c.w.projects[j.project]):
		default:
			picked = append(picked, i)
		}
	}
	return picked
}

// jobPage writes rows[from:to], counted from the end where desc.
func (c *call) jobPage(n, from, to int, rows []int32, desc bool) {
	b := append(make([]byte, 0, 2600*(to-from)+2), '[')
	for k := from; k < to; k++ {
		if k > from {
			b = append(b, ',')
		}
		i := k
		if desc {
			i = n - 1 - k
		}
		b = c.w.appendJobWithProject(b, rows[i], c)
	}
	b = append(b, ']')
	c.body = b
}

// keyset answers by cursor: newest first, only a next link, no totals.
func (c *call) keyset(rows []int32, p page) *failure {
	if cur := c.query.Get("cursor"); cur != "" {
		raw, err := base64.URLEncoding.DecodeString(cur)
		id, err2 := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(string(raw), `{"id":"`), `","_kd":"n"}`), 10, 64)
		if err != nil || err2 != nil {
			return errorBody(http.StatusBadRequest, "cursor is invalid")
		}
		n, _ := slices.BinarySearchFunc(rows, id, func(i int32, id int64) int { return cmp.Compare(c.w.jobs.at(i).id, id) })
		rows = rows[:n]
	}
	n := len(rows)
	to := min(p.per, n)
	if to < n {
		last := c.w.jobs.at(rows[n-to]).id
		cursor := base64.URLEncoding.EncodeToString([]byte(`{"id":"` + strconv.FormatInt(last, 10) + `","_kd":"n"}`))
		c.out.Set("Link", c.link("next", "cursor", cursor, p.per))
	}
	c.jobPage(n, 0, to, rows, true)
	return nil
}

// projectJob answers GET /projects/:id/jobs/:job_id, also when the job's
// runner is gone (docs/gitlab-api.md 1.1).
func (c *call) projectJob() *failure {
	p, err := c.findProject()
	if err != nil {
		return err
	}
	id, _ := strconv.ParseInt(c.seg[3], 10, 64)
	i, ok := c.w.jobs.find(id)
	if ok {
		j := c.w.jobs.at(i)
		ok = j.project == p.idx && j.created <= c.at && (j.deleted == 0 || j.deleted > c.at)
	}
	if !ok {
		return c.w.notFound("")
	}
	c.body = c.w.appendFullJob(nil, i, c)
	return nil
}

func (c *call) version() *failure {
	c.body = append(c.versionFields([]byte{'{'}), '}')
	return nil
}

func (c *call) versionFields(b []byte) []byte {
	b = kStr(b, "version", c.w.opt.Version)
	return kStr(b, "revision", sha(1)[:11])
}

func (c *call) metadata() *failure {
	b := c.versionFields([]byte{'{'})
	b = append(key(b, "kas"), `{"enabled":false,"externalUrl":null,"version":null}`...)
	c.body = append(kBool(b, "enterprise", strings.HasSuffix(c.w.opt.Version, "-ee")), '}')
	return nil
}

func (c *call) tokenSelf() *failure {
	t := c.tok
	b := []byte{'{'}
	b = kInt(b, "id", t.id)
	b = kStr(b, "name", t.name)
	b = kBool(b, "revoked", false)
	b = c.w.kTime(b, "created_at", t.created)
	b = kStrings(b, "scopes", t.scopes)
	b = kInt(b, "user_id", t.user.id)
	b = c.w.kTime(b, "last_used_at", t.used)
	b = kBool(b, "active", true)
	c.body = append(kDate(b, "expires_at", t.expires), '}')
	return nil
}

func (c *call) currentUser() *failure {
	u := c.tok.user
	b := slices.Clone(u.full[:len(u.full)-1])
	if c.w.effectiveAdmin(c.tok) {
		b = kBool(b, "is_admin", true)
	}
	if u.auditor {
		b = kBool(b, "is_auditor", true)
	}
	b = append(b, '}')
	c.body = b
	return nil
}
