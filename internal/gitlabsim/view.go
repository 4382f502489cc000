package gitlabsim

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// GraphQL is answered by a package of its own, which reads the rows through the
// types here and has no access to the lock or the rows themselves.

// RunnerView is a runner as GraphQL's CiRunner shows it: its status is never
// "paused" (docs/gitlab-api.md 3.1).
type RunnerView struct {
	ID           int64
	Type         string // as REST writes it: instance_type
	Description  string
	Status       string
	Paused       bool
	Active       bool // executes a job
	RunUntagged  bool
	Locked       bool
	Protected    bool
	Timeout      int64 // seconds; 0: none
	Created      time.Time
	Contacted    time.Time // zero: never
	Tags         []string
	OwnerProject string // full path; of a project runner
	Group        string // full path; of a group runner
	Managers     []ManagerView
}

// ManagerView is a machine as CiRunnerManager shows it.
type ManagerView struct {
	ID                          int64
	SystemID, Version, Revision string
	Platform, Arch, IP          string
	Status                      string
	Active                      bool
	Created, Contacted          time.Time
}

// Membership selects runners of a group.
type Membership uint8

// The values of CiRunnerMembershipFilter.
const (
	Direct       Membership = iota // the group's own
	Descendants                    // and its subgroups' and projects'
	AllAvailable                   // and its ancestors' and the instance's
)

// ViewQuery selects the runners to read, newest first.
type ViewQuery struct {
	Group, Project string // full path; both empty: the instance
	Membership     Membership
	Type, Status   string // "": any
	Paused         *bool
	Ascending      bool
	After          int64 // id of the last runner read; 0: from the start
	First          int
}

// Errors of Views.
var (
	ErrNotVisible  = errors.New("no such group or project, or none that the caller may see")
	ErrNotReadable = errors.New("the caller may not read these runners")
)

// Version is GitLab's own.
func (w *World) Version() string { return w.opt.Version }

// Since reports whether the world's release is major.minor or later.
func (w *World) Since(major, minor int) bool { return since(w.opt.Version, major, minor) }

// URL is GitLab's external address, its relative root included.
func (w *World) URL() string { return w.opt.ExternalURL + w.opt.Root }

// Views reads one page of runners as c may see them; more reports whether others
// follow, total how many there are in all.
func (w *World) Views(c Caller, q ViewQuery) (views []RunnerView, more bool, total int, err error) {
	w.lock()
	defer w.mu.Unlock()
	in, err := w.viewed(c, q)
	if err != nil {
		return nil, false, 0, err
	}
	at := &call{w: w, now: w.now, at: w.now}
	// The cursor is a place in the order, so it stays good where the runner it
	// was taken from is deleted.
	last := w.findRunner(q.After)
	var rows []*runner
	for i := range w.byAge {
		r := w.byAge[i]
		if !q.Ascending {
			r = w.byAge[len(w.byAge)-1-i]
		}
		if !in(r) || at.matches(r, filter{typ: q.Type, status: q.Status, paused: q.Paused}) == 0 {
			continue
		}
		total++
		passed := last != nil && (q.Ascending && older(r, last) <= 0 || !q.Ascending && older(r, last) >= 0)
		if !passed && len(rows) <= q.First {
			rows = append(rows, r)
		}
	}
	if more = len(rows) > q.First; more {
		rows = rows[:q.First]
	}
	for _, r := range rows {
		views = append(views, w.view(r, at))
	}
	return views, more, total, nil
}

// viewed returns which runners a list contains.
func (w *World) viewed(c Caller, q ViewQuery) (in func(*runner) bool, err error) {
	var u *user
	if i := slices.IndexFunc(w.users, func(u *user) bool { return c.Known && u.id == c.UserID }); i >= 0 {
		u = w.users[i]
	}
	all := c.Admin || u != nil && u.auditor && w.f.created
	switch {
	case q.Group != "":
		g, ok := w.paths[q.Group].(*group)
		if !ok || u == nil {
			return nil, ErrNotVisible
		}
		if !all && !u.maintainsGroup(g) {
			return nil, ErrNotReadable
		}
		return func(r *runner) bool {
			switch r.typ {
			case instanceType:
				return q.Membership == AllAvailable
			case groupType:
				return r.group == g || q.Membership != Direct && r.group.under(g) || q.Membership == AllAvailable && g.under(r.group)
			case projectType:
				return q.Membership != Direct && slices.ContainsFunc(r.projects, func(p *project) bool { return p.group.under(g) })
			}
			return false
		}, nil
	case q.Project != "":
		p, ok := w.paths[q.Project].(*project)
		if !ok || u == nil {
			return nil, ErrNotVisible
		}
		if !all && !u.maintains(p) {
			return nil, ErrNotReadable
		}
		return func(r *runner) bool {
			return r.typ == instanceType || r.typ == groupType && p.group.under(r.group) || slices.Contains(r.projects, p)
		}, nil
	case !c.Admin: // an auditor's REST list has no counterpart here (docs/gitlab-api.md 5.2)
		return nil, ErrNotReadable
	}
	return func(*runner) bool { return true }, nil
}

func (w *World) view(r *runner, c *call) RunnerView {
	contact := w.runnerContact(r, c.now)
	v := RunnerView{
		ID: r.id, Type: runnerTypes[r.typ], Description: r.desc, Status: w.statusAt(r.created, contact, c.now),
		Paused: r.paused(), Active: w.activeAt(r, nil, c), RunUntagged: r.untagged, Locked: r.locked, Protected: r.protected,
		Timeout: r.timeout, Created: w.time(r.created), Contacted: w.time(contact), Tags: r.tagList(),
	}
	if r.group != nil {
		v.Group = r.group.path
	}
	if len(r.projects) > 0 {
		v.OwnerProject = r.projects[0].path
	}
	for _, m := range r.managers {
		at := w.cached(m.contactAt(c.now), m.dbAt(c.now), c.now)
		v.Managers = append(v.Managers, ManagerView{
			ID: m.id, SystemID: m.systemID, Version: m.version, Revision: m.revision, Platform: m.platform, Arch: m.arch, IP: m.ip,
			Status: w.statusAt(m.created, at, c.now), Active: w.activeAt(r, m, c), Created: w.time(m.created), Contacted: w.time(at),
		})
	}
	return v
}

// JobCount counts a runner's jobs of these statuses, all without any, up to
// most.
func (w *World) JobCount(id int64, statuses []string, most int) (n int) {
	w.lock()
	defer w.mu.Unlock()
	r := w.runners[id]
	if r == nil {
		return 0
	}
	rows := r.jobs
	if len(statuses) > 0 && !slices.ContainsFunc(statuses, func(s string) bool { return s != "running" && s != "canceling" }) {
		rows = r.exec
	}
	for _, i := range rows {
		if n >= most {
			break
		}
		if len(statuses) == 0 || slices.Contains(statuses, jobStates[w.jobs.at(i).state]) {
			n++
		}
	}
	return n
}

// groupInfo answers GET /groups/:id.
func (c *call) groupInfo() *failure {
	g, err := c.findGroup()
	if err != nil {
		return err
	}
	b := kInt([]byte{'{'}, "id", g.id)
	b = kStr(b, "web_url", c.w.opt.ExternalURL+c.w.opt.Root+"/groups/"+g.path)
	b = kStr(b, "name", g.name)
	b = kStr(b, "path", g.path[strings.LastIndexByte(g.path, '/')+1:])
	b = kStr(b, "full_name", g.fullName)
	b = kStr(b, "full_path", g.path)
	if g.parent == nil {
		b = kNull(b, "parent_id")
	} else {
		b = kInt(b, "parent_id", g.parent.id)
	}
	b = append(b, '}')
	c.body = b
	return nil
}

// since reports whether a release is major.minor or later.
func since(version string, major, minor int) bool {
	parts := strings.SplitN(strings.SplitN(version, "-", 2)[0], ".", 3)
	a, _ := strconv.Atoi(parts[0])
	b := 0
	if len(parts) > 1 {
		b, _ = strconv.Atoi(parts[1])
	}
	return a > major || a == major && b >= minor
}
