package gitlabsim

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The entities are appended by hand: a page of 100 jobs is 250 kB and a test
// of 10,000 runners needs thousands of them.

func str(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			q, err := json.Marshal(s)
			if err != nil {
				return append(b, `""`...)
			}
			return append(b, q...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// key starts a member of an object.
func key(b []byte, name string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, name...)
	return append(b, '"', ':')
}

func kStr(b []byte, k, v string) []byte { return str(key(b, k), v) }

func kOpt(b []byte, k, v string) []byte {
	if v == "" {
		return kNull(b, k)
	}
	return kStr(b, k, v)
}
func kInt(b []byte, k string, v int64) []byte { return strconv.AppendInt(key(b, k), v, 10) }
func kBool(b []byte, k string, v bool) []byte { return strconv.AppendBool(key(b, k), v) }
func kNull(b []byte, k string) []byte         { return append(key(b, k), "null"...) }
func kRaw(b []byte, k string, v []byte) []byte {
	return append(key(b, k), v...)
}

func kSeconds(b []byte, k string, ms int64) []byte {
	return strconv.AppendFloat(key(b, k), float64(ms)/1000, 'f', -1, 64)
}

func kStrings(b []byte, k string, v []string) []byte {
	b = append(key(b, k), '[')
	for i, s := range v {
		if i > 0 {
			b = append(b, ',')
		}
		b = str(b, s)
	}
	return append(b, ']')
}

// kTime writes GitLab's form: RFC 3339 with milliseconds, with the offset of
// the instance's time zone.
func (w *World) kTime(b []byte, k string, ms int64) []byte {
	if ms == 0 {
		return kNull(b, k)
	}
	b = append(key(b, k), '"')
	if w.opt.Location == time.UTC {
		b = appendUTC(b, ms)
	} else {
		b = time.UnixMilli(ms).In(w.opt.Location).AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	}
	return append(b, '"')
}

// appendUTC is AppendFormat of the one form that fills half a job page.
func appendUTC(b []byte, ms int64) []byte {
	t := time.UnixMilli(ms).UTC()
	y, mo, d := t.Date()
	h, mi, s := t.Clock()
	two := func(v int, sep byte) { b = append(b, hexDigits[v/10], hexDigits[v%10], sep) }
	b = strconv.AppendInt(b, int64(y), 10)
	b = append(b, '-')
	two(int(mo), '-')
	two(d, 'T')
	two(h, ':')
	two(mi, ':')
	two(s, '.')
	f := int(t.UnixMilli() % 1000)
	if f < 0 {
		f += 1000
	}
	return append(b, hexDigits[f/100], hexDigits[f/10%10], hexDigits[f%10], 'Z')
}

// appendRunner is API::Entities::Ci::Runner, open at its end (docs/gitlab-api.md 1.2).
func (w *World) appendRunner(b []byte, r *runner, c *call) []byte {
	paused := r.pausedAt(c.at)
	contact := w.runnerContact(r, c.now)
	b = append(b, '{')
	b = kInt(b, "id", r.id)
	b = kStr(b, "description", r.desc)
	b = w.kIP(b, r.managers)
	b = kBool(b, "active", !paused)
	if w.f.paused {
		b = kBool(b, "paused", paused)
	}
	b = kBool(b, "is_shared", r.typ == instanceType)
	b = kStr(b, "runner_type", runnerTypes[r.typ])
	b = kNull(b, "name")
	if contact == 0 {
		b = kNull(b, "online")
	} else {
		b = kBool(b, "online", c.now-contact < w.f.onlineFor)
	}
	if w.f.created {
		// Only users that the caller may read are shown (docs/gitlab-api.md 1.2).
		if c.admin {
			b = kNull(b, "created_by")
		}
		b = w.kTime(b, "created_at", r.created)
	}
	status := w.statusAt(r.created, contact, c.now)
	if paused && (status == "online" || status == "offline") {
		status = "paused" // the deprecated REST status (docs/gitlab-api.md 3.1)
	}
	b = kStr(b, "status", status)
	if w.f.created {
		b = kStr(b, "job_execution_status", activity(w.activeAt(r, nil, c)))
	}
	return b
}

func (w *World) kIP(b []byte, ms []*manager) []byte {
	if w.f.ipEmptied || len(ms) == 0 {
		return kNull(b, "ip_address")
	}
	return kStr(b, "ip_address", ms[0].ip)
}

func activity(active bool) string {
	if active {
		return "active"
	}
	return "idle"
}

// activeAt reports whether a runner, or one of its machines, executes a job.
func (w *World) activeAt(r *runner, m *manager, c *call) bool {
	list := r.exec
	if c.stale {
		list = r.jobs
	}
	for _, i := range list {
		j := w.jobs.at(i)
		if m != nil && j.manager != m.idx+1 {
			continue
		}
		s, ok := j.state, true
		if c.stale {
			s, ok = j.stateAt(c.at)
		}
		if ok && (s == running || s == canceling && !w.f.runningOnly) {
			return true
		}
	}
	return false
}

// appendDetails is API::Entities::Ci::RunnerDetails (docs/gitlab-api.md 1.3).
func (w *World) appendDetails(b []byte, r *runner, c *call) []byte {
	b = w.appendRunner(b, r, c)
	b = kStrings(b, "tag_list", r.tagsAt(c.at))
	b = kBool(b, "run_untagged", r.untagged)
	b = kBool(b, "locked", r.locked)
	if r.timeout == 0 {
		b = kNull(b, "maximum_timeout")
	} else {
		b = kInt(b, "maximum_timeout", r.timeout)
	}
	b = kStr(b, "access_level", accessLevel(r.protected))
	// Deprecated: of the machine that contacted GitLab last.
	last := new(manager)
	at := int64(-1)
	for _, m := range r.managers {
		if k := m.contactAt(c.now); k > at && m.created <= c.at {
			last, at = m, k
		}
	}
	b = kOpt(b, "version", last.version)
	b = kOpt(b, "revision", last.revision)
	b = kOpt(b, "platform", last.platform)
	b = kOpt(b, "architecture", last.arch)
	b = w.kTime(b, "contacted_at", w.runnerContact(r, c.now))
	if r.note == "" || !c.owns(r) {
		b = kNull(b, "maintenance_note")
	} else {
		b = kStr(b, "maintenance_note", r.note)
	}
	if !w.f.projects || c.query.Get("include_projects") != "false" {
		b = append(key(b, "projects"), '[')
		for i, p := range r.projects {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, p.basic...)
		}
		b = append(b, ']')
	}
	b = append(key(b, "groups"), '[')
	if g := r.group; g != nil {
		b = append(b, '{')
		b = kInt(b, "id", g.id)
		b = kStr(b, "web_url", w.opt.ExternalURL+w.opt.Root+"/groups/"+g.path)
		b = kStr(b, "name", g.name)
		b = append(b, '}')
	}
	b = append(b, ']')
	return append(b, '}')
}

func accessLevel(protected bool) string {
	if protected {
		return "ref_protected"
	}
	return "not_protected"
}

// appendManager is API::Entities::Ci::RunnerManager (docs/gitlab-api.md 1.4).
func (w *World) appendManager(b []byte, r *runner, m *manager, c *call) []byte {
	contact := w.cached(m.contactAt(c.now), m.dbAt(c.now), c.now)
	b = append(b, '{')
	b = kInt(b, "id", m.id)
	b = kStr(b, "system_id", m.systemID)
	b = kOpt(b, "version", m.version)
	b = kOpt(b, "revision", m.revision)
	b = kOpt(b, "platform", m.platform)
	b = kOpt(b, "architecture", m.arch)
	b = w.kTime(b, "created_at", m.created)
	b = w.kTime(b, "contacted_at", contact)
	b = kOpt(b, "ip_address", m.ip)
	b = kStr(b, "status", w.statusAt(m.created, contact, c.now))
	if w.f.created {
		b = kStr(b, "job_execution_status", activity(w.activeAt(r, m, c)))
	}
	return append(b, '}')
}

var refs = []string{
	"main", "main", "main", "main", "main", "develop", "feature/login-form", "fix/retry-on-timeout",
	"renovate/major-dependencies", "release/24.3", "feature/1234-add-export", "v2.11.0",
}

const hexDigits = "0123456789abcdef"

func appendSHA(b []byte, seed uint64) []byte {
	for k := range uint64(5) {
		v := mix(seed + k<<56)
		for s := 28; s >= 0; s -= 4 {
			b = append(b, hexDigits[v>>s&15])
		}
	}
	return b
}

func sha(seed uint64) string { return string(appendSHA(make([]byte, 0, 40), seed)) }

// appendJob is API::Entities::Ci::JobBasicWithProject, open at its end and
// without the project (docs/gitlab-api.md 1.5).
func (w *World) appendJob(b []byte, i int32, c *call) []byte {
	j := w.jobs.at(i)
	state := j.state
	if c.stale {
		state, _ = j.stateAt(c.at)
	} else if state == created && j.queued <= c.at {
		state = pending
	}
	p := w.projects[j.project]
	pl := &w.pipelines[j.pipeline]
	seed := mix(uint64(pl.id))
	ref := refs[seed%uint64(len(refs))]
	tag := ref[0] == 'v'
	name := w.names[j.name]
	u := w.users[1+seed>>8%people]
	web := w.opt.ExternalURL + w.opt.Root + "/" + p.path

	started, finished := j.picked, int64(0)
	if j.has(noStart) {
		started = 0
	}
	if state >= success && !j.has(noFinish) {
		finished = j.finished
	}
	b = append(b, '{')
	b = kInt(b, "id", j.id)
	b = kStr(b, "status", jobStates[state])
	b = kStr(b, "stage", name.stage)
	b = kStr(b, "name", name.name)
	b = kStr(b, "ref", ref)
	b = kBool(b, "tag", tag)
	if state == success && name.stage == "test" {
		b = kSeconds(b, "coverage", 60_000+int64(seed>>16%40_000)/10*10)
	} else {
		b = kNull(b, "coverage")
	}
	b = kBool(b, "allow_failure", name.name == "sast")
	b = w.kTime(b, "created_at", j.created)
	b = w.kTime(b, "started_at", started)
	b = w.kTime(b, "finished_at", finished)
	b = kNull(b, "erased_at")
	switch {
	case started == 0:
		b = kNull(b, "duration")
	case finished != 0:
		b = kSeconds(b, "duration", finished-started)
	default:
		b = kSeconds(b, "duration", max(0, c.now-started)) // GitLab computes up to now
	}
	switch {
	case started != 0:
		b = kSeconds(b, "queued_duration", max(0, started-j.queued))
	case j.queued <= c.at:
		b = kSeconds(b, "queued_duration", c.now-j.queued) // likewise, without end
	default:
		b = kNull(b, "queued_duration")
	}
	b = kRaw(b, "user", u.full)
	if j.has(noCommit) {
		b = kNull(b, "commit")
	} else {
		b = w.appendCommit(key(b, "commit"), pl, p, seed, u, web)
	}
	b = append(key(b, "pipeline"), '{')
	b = kInt(b, "id", pl.id)
	b = kInt(b, "iid", int64(j.pipeline)+1)
	b = kInt(b, "project_id", p.id)
	b = append(appendSHA(append(key(b, "sha"), '"'), seed), '"')
	b = kStr(b, "ref", ref)
	b = kStr(b, "status", w.pipelineStatus(pl, c.at))
	b = kStr(b, "source", "push")
	b = w.kTime(b, "created_at", pl.created)
	b = w.kTime(b, "updated_at", max(pl.created, min(c.at, j.picked)))
	b = append(b, `,"web_url":"`...)
	b = append(b, web...)
	b = append(b, "/-/pipelines/"...)
	b = strconv.AppendInt(b, pl.id, 10)
	b = append(b, `"}`...)
	if state == failed && w.f.failureReason {
		b = kOpt(b, "failure_reason", w.reasons[j.reason])
	}
	b = append(b, `,"web_url":"`...)
	b = append(b, web...)
	b = append(b, "/-/jobs/"...)
	b = strconv.AppendInt(b, j.id, 10)
	return append(b, '"')
}

func (w *World) appendCommit(b []byte, pl *pipeline, p *project, seed uint64, u *user, web string) []byte {
	at := pl.created - 20*second - int64(seed>>24%uint64(hour))
	title := commitTitles[seed>>12%uint64(len(commitTitles))]
	b = append(b, '{')
	b = append(appendSHA(append(key(b, "id"), '"'), seed), '"')
	b = append(key(b, "short_id"), '"')
	short := len(b) + 8
	b = appendSHA(b, seed)
	b = append(b[:short], '"')
	b = w.kTime(b, "created_at", at)
	b = append(appendSHA(append(key(b, "parent_ids"), `["`...), seed+1), `"]`...)
	b = kStr(b, "title", title)
	b = append(key(b, "message"), '"')
	b = append(b, title...)
	b = append(b, `\n\nSee merge request `...)
	b = append(b, p.path...)
	b = append(b, '!')
	b = strconv.AppendUint(b, 1+seed%5000, 10)
	b = append(b, `\n"`...)
	for _, who := range [2]string{"author", "committer"} {
		b = kStr(b, who+"_name", u.name)
		b = kStr(b, who+"_email", u.email)
		if who == "author" {
			b = w.kTime(b, "authored_date", at)
		} else {
			b = w.kTime(b, "committed_date", at)
		}
	}
	b = append(b, `,"trailers":{},"extended_trailers":{},"web_url":"`...)
	b = append(b, web...)
	b = append(b, "/-/commit/"...)
	b = appendSHA(b, seed)
	return append(b, `"}`...)
}

var commitTitles = []string{
	"Update dependency eslint to v9", "Merge branch 'feature/export' into 'main'", "Fix flaky specs of the importer",
	"Add a retry to the upload of artifacts", "Remove the old settings page", "Bump version to 2.11.0",
	"Speed up the query behind the dashboard", "Translate the new mail templates",
}

// pipelineStatus is what GitLab shows of a pipeline's jobs.
func (w *World) pipelineStatus(p *pipeline, at int64) string {
	status := "success"
	for i := p.first; i < p.first+p.n; i++ {
		switch j := w.jobs.at(i); {
		case j.deleted != 0 && j.deleted <= at, j.next != 0, j.created > at:
		case !j.final() || j.finished > at:
			return "running"
		case j.state == failed:
			status = "failed"
		case j.state == canceled && status == "success":
			status = "canceled"
		}
	}
	return status
}

func (w *World) appendJobWithProject(b []byte, i int32, c *call) []byte {
	b = w.appendJob(b, i, c)
	b = kRaw(b, "project", w.projects[w.jobs.at(i).project].identity)
	return append(b, '}')
}

// appendFullJob is API::Entities::Ci::Job, of GET /projects/:id/jobs/:job_id
// (docs/gitlab-api.md 1.1): it alone names the runner and its machine.
func (w *World) appendFullJob(b []byte, i int32, c *call) []byte {
	j := w.jobs.at(i)
	b = w.appendJob(b, i, c)
	b = append(b, `,"project":{"ci_job_token_scope_enabled":false},"artifacts":[],"artifacts_expire_at":null`...)
	b = kStrings(b, "tag_list", w.tagsets[j.tags])
	var r *runner
	if j.picked != 0 {
		if r = w.all[j.runner-1]; !r.existsAt(c.at) {
			r = nil
		}
	}
	if r == nil {
		b = kNull(b, "runner")
	} else {
		b = append(w.appendRunner(key(b, "runner"), r, c), '}')
	}
	if w.f.managers {
		if r == nil || j.manager == 0 || w.machines[j.manager-1].deleted != 0 {
			b = kNull(b, "runner_manager")
		} else {
			b = w.appendManager(key(b, "runner_manager"), r, w.machines[j.manager-1], c)
		}
	}
	b = kBool(b, "archived", false)
	return append(b, '}')
}

func (w *World) projectJSON(p *project) {
	b := []byte{'{'}
	b = kInt(b, "id", p.id)
	b = kStr(b, "description", "The "+p.name+" of "+p.group.name+".")
	b = kStr(b, "name", p.name)
	b = kStr(b, "name_with_namespace", p.group.fullName+" / "+p.name)
	b = kStr(b, "path", p.name)
	b = kStr(b, "path_with_namespace", p.path)
	b = w.kTime(b, "created_at", p.created)
	p.identity = slices.Concat(b, []byte{'}'})
	web := w.opt.ExternalURL + w.opt.Root + "/" + p.path
	host := strings.TrimPrefix(strings.TrimPrefix(w.opt.ExternalURL, "https://"), "http://")
	b = kStr(b, "default_branch", "main")
	b = kStrings(b, "tag_list", nil)
	b = kStrings(b, "topics", nil)
	b = kStr(b, "ssh_url_to_repo", "git@"+host+":"+p.path+".git")
	b = kStr(b, "http_url_to_repo", web+".git")
	b = kStr(b, "web_url", web)
	b = kStr(b, "readme_url", web+"/-/blob/main/README.md")
	b = kInt(b, "forks_count", 0)
	b = kNull(b, "avatar_url")
	b = kInt(b, "star_count", p.id%7)
	b = w.kTime(b, "last_activity_at", p.created+day)
	b = append(key(b, "namespace"), '{')
	b = kInt(b, "id", p.group.id)
	b = kStr(b, "name", p.group.name)
	b = kStr(b, "path", p.group.path[strings.LastIndexByte(p.group.path, '/')+1:])
	b = kStr(b, "kind", "group")
	b = kStr(b, "full_path", p.group.path)
	if g := p.group.parent; g != nil {
		b = kInt(b, "parent_id", g.id)
	} else {
		b = kNull(b, "parent_id")
	}
	b = kNull(b, "avatar_url")
	b = kStr(b, "web_url", w.opt.ExternalURL+w.opt.Root+"/groups/"+p.group.path)
	b = append(b, '}', '}')
	p.basic = b
}

type user struct {
	id       int64
	username string
	name     string
	email    string
	admin    bool
	auditor  bool
	all      bool // maintainer everywhere
	groups   []*group
	projects []*project
	full     []byte // User, as in a job

	window   int64 // of the rate limit
	requests int
}

// people is the number of users whose jobs run, beside root.
const people = 60

func (w *World) addUsers() {
	w.addUser("root", "Administrator")
	for i := range people {
		first := firstNames[i%len(firstNames)]
		last := lastNames[i/3%len(lastNames)]
		w.addUser(strings.ToLower(first)+"."+strings.ToLower(last)+strconv.Itoa(i), first+" "+last)
	}
}

var (
	firstNames = []string{"Ada", "Grace", "Linus", "Mei", "Jorge", "Olga", "Amir", "Chloe", "Yuki", "Tomas", "Priya", "Lena"}
	lastNames  = []string{"Novak", "Tanaka", "Silva", "Weber", "Okafor", "Larsen", "Rossi", "Kim", "Dubois", "Haddad"}
)

func (w *World) addUser(username, name string) {
	u := &user{id: int64(len(w.users) + 1), username: username, name: name, email: username + "@example.com"}
	sum := mix(uint64(u.id))
	avatar := "https://secure.gravatar.com/avatar/" + hex.EncodeToString(fmt.Appendf(nil, "%016x", sum)) + "?s=80&d=identicon"
	b := []byte{'{'}
	b = kInt(b, "id", u.id)
	b = kStr(b, "username", u.username)
	b = kStr(b, "public_email", "")
	b = kStr(b, "name", u.name)
	b = kStr(b, "state", "active")
	b = kBool(b, "locked", false)
	b = kStr(b, "avatar_url", avatar)
	b = kStr(b, "web_url", w.opt.ExternalURL+w.opt.Root+"/"+u.username)
	b = w.kTime(b, "created_at", w.now-hash(u.id, 900*day))
	for _, k := range []string{"bio", "location", "linkedin", "twitter", "discord", "website_url", "github", "job_title"} {
		b = kStr(b, k, "")
	}
	b = kNull(b, "pronouns")
	b = kStr(b, "organization", "")
	b = kBool(b, "bot", false)
	b = kNull(b, "work_information")
	b = kInt(b, "followers", int64(sum%5))
	b = kInt(b, "following", int64(sum%3))
	b = kNull(b, "local_time")
	b = append(b, '}')
	u.full = b
	w.users = append(w.users, u)
}

// kDate writes the form of expires_at, a day.
func kDate(b []byte, k string, t time.Time) []byte {
	if t.IsZero() {
		return kNull(b, k)
	}
	return kStr(b, k, t.UTC().Format(time.DateOnly))
}
