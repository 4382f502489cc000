package gitlabsim

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// attributes are what registering, creating and updating a runner have in
// common; nil: not given.
type attributes struct {
	description, note *string
	paused, locked    *bool
	untagged          *bool
	protected         *bool
	timeout           *int64
	tags              []string
	hasTags           bool
}

var attributeNames = []string{
	"description", "active", "paused", "tag_list", "run_untagged", "locked", "access_level", "maximum_timeout", "maintenance_note",
}

func (c *call) attributes() (a attributes, err *failure) {
	str := func(name string) *string {
		if !c.query.Has(name) {
			return nil
		}
		return new(c.query.Get(name))
	}
	if c.query.Has("paused") && c.query.Has("active") {
		return a, errorBody(http.StatusBadRequest, "active, paused are mutually exclusive")
	}
	a.description = str("description")
	if a.note = str("maintenance_note"); a.note == nil {
		a.note = str("maintainer_note") // deprecated name
	}
	var active *bool
	for _, f := range []struct {
		name string
		to   **bool
	}{{"paused", &a.paused}, {"active", &active}, {"locked", &a.locked}, {"run_untagged", &a.untagged}} {
		if *f.to, err = c.boolean(f.name); err != nil {
			return a, err
		}
	}
	if active != nil {
		a.paused = new(!*active)
	}
	level, err := c.oneOf("access_level", "not_protected", "ref_protected")
	if err != nil {
		return a, err
	}
	if level != "" {
		a.protected = new(level == "ref_protected")
	}
	if c.query.Has("maximum_timeout") {
		v := c.query.Get("maximum_timeout")
		n, err := strconv.ParseInt(v, 10, 64)
		switch {
		case v == "":
			n = 0
		case err != nil:
			return a, errorBody(http.StatusBadRequest, "maximum_timeout is invalid")
		case n < 600:
			return a, invalid("maximum_timeout", "needs to be at least 10 minutes")
		}
		a.timeout = &n
	}
	a.tags, a.hasTags = c.list("tag_list")
	if len(a.tags) > 50 {
		return a, invalid("tag_list", "Too many tags specified. Please limit the number of tags to 50")
	}
	return a, nil
}

// invalid is a model's validation: message is an object (docs/gitlab-api.md 5.3).
func invalid(field, text string) *failure {
	b := append([]byte(`{"message":{`), '"')
	b = append(b, field...)
	b = append(b, '"', ':', '[')
	b = str(b, text)
	return &failure{http.StatusBadRequest, append(b, "]}}"...)}
}

func noTags() *failure {
	return invalid("tags_list", "can not be empty when runner is not allowed to pick untagged jobs")
}

func (a attributes) apply(w *World, r *runner) *failure {
	untagged, tags := r.untagged, r.tagList()
	if a.untagged != nil {
		untagged = *a.untagged
	}
	if a.hasTags {
		tags = a.tags
	}
	if !untagged && len(tags) == 0 {
		return noTags()
	}
	r.untagged = untagged
	if a.hasTags {
		r.setTags(a.tags, w.now)
	}
	if a.description != nil {
		r.desc = *a.description
	}
	if a.note != nil {
		r.note = *a.note
	}
	if a.paused != nil {
		w.pause(r, *a.paused)
	}
	if a.locked != nil {
		r.locked = *a.locked
	}
	if a.protected != nil {
		r.protected = *a.protected
	}
	if a.timeout != nil {
		r.timeout = *a.timeout
	}
	w.pickDirty = true
	return nil
}

// manageable finds a runner that the caller may change.
func (c *call) manageable() (*runner, *failure) {
	r, err := c.findRunner()
	if err == nil && !c.owns(r) {
		return nil, noAccess()
	}
	return r, err
}

func (c *call) updateRunner() *failure {
	r, err := c.manageable()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(attributeNames, func(n string) bool { return c.query.Has(n) || c.query.Has(n+"[]") }) {
		return errorBody(http.StatusBadRequest, strings.Join(attributeNames, ", ")+" are missing, at least one parameter must be provided")
	}
	a, err := c.attributes()
	if err != nil {
		return err
	}
	if err := a.apply(c.w, r); err != nil {
		return err
	}
	c.body = c.w.appendDetails(nil, r, c)
	return nil
}

func (c *call) deleteRunner() *failure {
	r, err := c.manageable()
	if err != nil {
		return err
	}
	if !c.admin && len(r.projects) > 1 {
		return message(http.StatusForbidden, "403 Forbidden - Runner associated with more than one project")
	}
	c.w.deleteRunner(r, c.w.now)
	return nil
}

// byToken finds the runner whose authentication token was sent.
func (c *call) byToken() (*runner, *failure) {
	t := c.query.Get("token")
	if t == "" {
		return nil, errorBody(http.StatusBadRequest, "token is missing")
	}
	for _, r := range c.w.order {
		if r.token == t {
			return r, nil
		}
	}
	return nil, forbidden()
}

func (c *call) unregister() *failure {
	r, err := c.byToken()
	if err == nil {
		c.w.deleteRunner(r, c.w.now)
	}
	return err
}

// tokenLife is how long authentication tokens live where a release says so.
const tokenLife = 30 * day

// tokenBody writes the answer that holds a new token.
func (c *call) tokenBody(id int64, text string) {
	b := []byte{'{'}
	if id != 0 {
		b = kInt(b, "id", id)
	}
	b = kStr(b, "token", text)
	c.body = append(c.w.kTime(b, "token_expires_at", c.w.now+tokenLife), '}')
}

// registered makes a runner that no machine has contacted GitLab for yet.
func (c *call) registered(s RunnerSpec, a attributes) *failure {
	if a.untagged != nil && !*a.untagged && len(a.tags) == 0 {
		return noTags()
	}
	s.Managers, s.RunUntagged = -1, a.untagged == nil || *a.untagged
	r := c.w.addRunner(s)
	if r == nil {
		return forbidden()
	}
	if a.description == nil {
		r.desc = ""
	}
	if err := a.apply(c.w, r); err != nil {
		return err
	}
	if c.tok != nil {
		r.creator = c.tok.user
	}
	c.tokenBody(r.id, r.token)
	return nil
}

// register is the old flow, by a registration token of the instance, a group
// or a project.
func (c *call) register() *failure {
	t := c.query.Get("token")
	if t == "" {
		return errorBody(http.StatusBadRequest, "token is missing")
	}
	var s RunnerSpec
	s.Version = c.query.Get("info[version]")
	switch t {
	case c.w.instToken:
		s.Type = "instance_type"
	default:
		for _, g := range c.w.groups {
			if g.regToken == t {
				s.Type, s.Group = "group_type", g.id
			}
		}
		for _, p := range c.w.projects {
			if p.regToken == t {
				s.Type, s.Projects = "project_type", []int64{p.id}
			}
		}
	}
	if s.Type == "" {
		return message(http.StatusForbidden, "403 Forbidden - invalid token supplied")
	}
	a, err := c.attributes()
	if err != nil {
		return err
	}
	return c.registered(s, a)
}

// createRunner is the new flow, POST /user/runners.
func (c *call) createRunner() *failure {
	typ, err := c.oneOf("runner_type", runnerTypes[:]...)
	if err != nil {
		return err
	}
	if typ == "" {
		return errorBody(http.StatusBadRequest, "runner_type is missing")
	}
	s := RunnerSpec{Type: typ}
	switch typ {
	case "instance_type":
		if !c.admin {
			return message(http.StatusForbidden, "403 Forbidden - Insufficient permissions")
		}
	case "group_type":
		s.Group, _ = strconv.ParseInt(c.query.Get("group_id"), 10, 64)
		g := c.w.group(s.Group)
		if g == nil {
			return errorBody(http.StatusBadRequest, "group_id is missing")
		}
		if !c.admin && !c.tok.user.maintainsGroup(g) {
			return message(http.StatusForbidden, "403 Forbidden - Insufficient permissions")
		}
	default:
		id, _ := strconv.ParseInt(c.query.Get("project_id"), 10, 64)
		p := c.w.project(id)
		if p == nil {
			return errorBody(http.StatusBadRequest, "project_id is missing")
		}
		if !c.admin && !c.tok.user.maintains(p) {
			return message(http.StatusForbidden, "403 Forbidden - Insufficient permissions")
		}
		s.Projects = []int64{id}
	}
	a, err := c.attributes()
	if err != nil {
		return err
	}
	return c.registered(s, a)
}

// verify is what gitlab-runner asks after its registration: it counts as a
// contact and makes the machine known.
func (c *call) verify() *failure {
	r, err := c.byToken()
	if err != nil {
		return err
	}
	system := c.query.Get("system_id")
	if system == "" {
		system = "<legacy>"
	}
	i := slices.IndexFunc(r.managers, func(m *manager) bool { return m.systemID == system })
	if i < 0 {
		c.w.addManager(r, ManagerSpec{SystemID: system})
	} else {
		r.managers[i].touch(c.w.now)
	}
	c.tokenBody(r.id, r.token)
	return nil
}

func (c *call) resetOwnToken() *failure {
	r, err := c.byToken()
	if err == nil {
		r.token = c.w.newToken("glrt-")
		c.tokenBody(0, r.token)
	}
	return err
}

func (c *call) resetRunner() *failure {
	r, err := c.manageable()
	if err == nil {
		r.token = c.w.newToken("glrt-")
		c.tokenBody(0, r.token)
	}
	return err
}

func (c *call) resetRegistration(to *string) *failure {
	*to = c.w.newToken("GR1348941")
	c.body = append(kStr([]byte{'{'}, "token", *to), '}')
	return nil
}

func (c *call) resetInstance() *failure {
	if !c.admin {
		return forbidden()
	}
	return c.resetRegistration(&c.w.instToken)
}

func (c *call) resetGroup() *failure {
	g, err := c.findGroup()
	if err != nil {
		return err
	}
	if !c.admin && !c.tok.user.maintainsGroup(g) {
		return forbidden()
	}
	return c.resetRegistration(&g.regToken)
}

func (c *call) resetProject() *failure {
	p, err := c.findProject()
	if err != nil {
		return err
	}
	if !c.admin && !c.tok.user.maintains(p) {
		return forbidden()
	}
	return c.resetRegistration(&p.regToken)
}

// enableRunner assigns a project runner to one more project.
func (c *call) enableRunner() *failure {
	p, err := c.findProject()
	if err != nil {
		return err
	}
	if !c.query.Has("runner_id") {
		return errorBody(http.StatusBadRequest, "runner_id is missing")
	}
	id, perr := strconv.ParseInt(c.query.Get("runner_id"), 10, 64)
	if perr != nil {
		return errorBody(http.StatusBadRequest, "runner_id is invalid")
	}
	r := c.w.runners[id]
	switch {
	case r == nil:
		return c.w.notFound("Runner")
	case !c.admin && (!c.tok.user.maintains(p) || !c.tok.user.available(r)):
		return noAccess()
	case r.typ != projectType:
		return message(http.StatusForbidden, "403 Forbidden - Runner is a "+strings.TrimSuffix(runnerTypes[r.typ], "_type")+" runner")
	case slices.Contains(r.projects, p):
		return invalid("runner_id", "has already been taken")
	}
	r.projects = append(slices.Clone(r.projects), p)
	c.body = append(c.w.appendRunner(nil, r, c), '}')
	return nil
}

func (c *call) disableRunner() *failure {
	p, err := c.findProject()
	if err != nil {
		return err
	}
	id, _ := strconv.ParseInt(c.seg[3], 10, 64)
	r := c.w.runners[id]
	switch {
	case r == nil || !slices.Contains(r.projects, p):
		return c.w.notFound("Runner")
	case !c.admin && !c.tok.user.maintains(p):
		return noAccess()
	case len(r.projects) == 1:
		return message(http.StatusForbidden, "403 Forbidden - Only one project associated with the runner. Please remove the runner instead")
	}
	i := slices.Index(r.projects, p)
	r.projects = slices.Concat(r.projects[:i], r.projects[i+1:])
	return nil
}

// RegistrationToken is the instance's, for POST /runners.
func (w *World) RegistrationToken() string {
	w.lock()
	defer w.mu.Unlock()
	return w.instToken
}

// AuthenticationToken is a runner's, "" if there is no such runner.
func (w *World) AuthenticationToken(runnerID int64) (text string) {
	w.change(runnerID, func(r *runner) { text = r.token })
	return text
}
