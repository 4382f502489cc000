package gitlabsim

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

type runnerType uint8

const (
	instanceType runnerType = iota
	groupType
	projectType
)

var runnerTypes = [...]string{"instance_type", "group_type", "project_type"}

func parseRunnerType(s string) (runnerType, bool) {
	for _, t := range []runnerType{instanceType, groupType, projectType} {
		if runnerTypes[t] == s {
			return t, true
		}
	}
	return 0, false
}

type group struct {
	id       int64
	name     string
	path     string // full
	fullName string
	parent   *group
}

// under reports whether g is a or one of its descendants.
func (g *group) under(a *group) bool {
	for ; g != nil; g = g.parent {
		if g == a {
			return true
		}
	}
	return false
}

type project struct {
	id       int64
	idx      int32
	name     string
	path     string // full
	group    *group
	created  int64
	identity []byte // JSON as in a job
	basic    []byte // JSON as in a runner's details
}

type tagChange struct {
	at   int64
	tags []string // never changed in place: truth and older views share it
}

type pauseChange struct {
	at     int64
	paused bool
}

type runner struct {
	id, created, deleted int64
	idx                  int32
	typ                  runnerType
	untagged, locked     bool
	protected            bool
	blackHole            bool
	timeout              int64 // seconds; 0: none
	desc, note           string
	pauses               []pauseChange // the last is the present one
	tags                 []tagChange   // likewise
	group                *group
	projects             []*project
	managers             []*manager
	gone                 []*manager // for views of the past
	contact, db          int64      // what removed machines left behind
	weight               float64    // share of the generated jobs
	jobs                 []int32    // picked and not deleted, by id
	exec                 []int32    // of these running or canceling, by id
	deletedJobs          []int32
}

func (r *runner) paused() bool      { return r.pauses[len(r.pauses)-1].paused }
func (r *runner) tagList() []string { return r.tags[len(r.tags)-1].tags }

func (r *runner) pausedAt(t int64) bool {
	for i := len(r.pauses) - 1; i > 0; i-- {
		if r.pauses[i].at <= t {
			return r.pauses[i].paused
		}
	}
	return r.pauses[0].paused
}

func (r *runner) tagsAt(t int64) []string {
	for i := len(r.tags) - 1; i > 0; i-- {
		if r.tags[i].at <= t {
			return r.tags[i].tags
		}
	}
	return r.tags[0].tags
}

func (r *runner) existsAt(t int64) bool {
	return r.created <= t && (r.deleted == 0 || r.deleted > t)
}

func (r *runner) up() bool {
	return slices.ContainsFunc(r.managers, func(m *manager) bool { return m.alive })
}

func (r *runner) setTags(tags []string, at int64) {
	clean := make([]string, 0, len(tags))
	for _, t := range tags {
		if t = strings.TrimSpace(t); t != "" && !slices.Contains(clean, t) {
			clean = append(clean, t)
		}
	}
	r.tags = append(r.tags, tagChange{at, clean})
}

// contactAt is the runner's own column: the last contact of any machine.
func (r *runner) contactAt(t int64) int64 {
	c := r.contact
	for _, m := range r.managers {
		c = max(c, m.contactAt(t))
	}
	return c
}

func (r *runner) dbAt(t int64) int64 {
	c := r.db
	for _, m := range r.managers {
		c = max(c, m.dbAt(t))
	}
	return c
}

// older is GraphQL's order of runners: sorted for each page, 100,000 of them
// would take longer than the page.
func older(a, b *runner) int {
	return cmp.Or(cmp.Compare(a.created, b.created), cmp.Compare(a.id, b.id))
}

// manager is one machine behind a runner.
type manager struct {
	id, created, deleted int64
	idx                  int32
	exec                 int32 // jobs it executes
	alive                bool
	systemID             string
	version, revision    string
	platform, arch, ip   string
	seed                 uint64
	base                 int64 // last contact that something caused: a job, its end, a start
	db                   int64 // the database column as of base
	upSince, execSince   int64
}

// Contacts of an idle machine lie on a grid of 55 minutes with up to 5 minutes
// of jitter, so that no two are more than an hour apart: Workhorse answers the
// polls between them itself (docs/gitlab-api.md 3.3). A function of time alone costs no
// event for 100,000 machines.
const contactGrid = 55 * minute

func (m *manager) gridAt(t int64) int64 {
	phase := int64(m.seed % uint64(contactGrid))
	for k := (t - phase) / contactGrid; ; k-- {
		if c := phase + k*contactGrid + hash(k^int64(m.seed>>1), 5*minute); c <= t {
			return c
		}
	}
}

// heartbeat is how often a machine reports on a job that it executes.
const heartbeat = 20 * second

func (m *manager) contactAt(t int64) int64 {
	if t < m.created || m.base == 0 {
		return 0
	}
	if !m.alive && m.base <= t {
		return m.base
	}
	c := m.created
	if m.base <= t {
		c = max(c, m.base)
	}
	if g := m.gridAt(t); g >= m.upSince {
		c = max(c, g)
	}
	if m.exec > 0 && m.alive {
		if h := t - (t+int64(m.seed%uint64(heartbeat)))%heartbeat; h >= m.execSince {
			c = max(c, h)
		}
	}
	return c
}

// dbEvery is how long Rails keeps a newer contact in Redis only: 40 to 55 min.
func (m *manager) dbEvery() int64 { return 40*minute + int64(m.seed>>20%uint64(15*minute)) }

func (m *manager) dbAt(t int64) int64 {
	c := m.contactAt(t)
	if c == 0 || m.db > t {
		return min(c, m.db)
	}
	switch late := c - m.db; {
	case late < m.dbEvery():
		return m.db
	case m.exec > 0 && m.alive:
		return m.db + late/m.dbEvery()*m.dbEvery()
	default:
		return c
	}
}

// touch is a contact that reaches Rails.
func (m *manager) touch(t int64) {
	if !m.alive {
		return
	}
	if m.base == 0 {
		m.base, m.db = t, t
		return
	}
	if m.db = m.dbAt(t); t-m.db >= m.dbEvery() {
		m.db = t
	}
	m.base = max(m.base, t)
}

// statusAt is GitLab's HasRunnerStatus#status, of a runner or a machine.
func (w *World) statusAt(created, contact, t int64) string {
	switch {
	case t-max(created, contact) > w.f.staleAfter:
		return "stale"
	case contact == 0:
		return w.never()
	case t-contact < w.f.onlineFor:
		return "online"
	}
	return "offline"
}

func (w *World) never() string {
	if w.f.neverContacted {
		return "never_contacted"
	}
	return "not_connected"
}

// cacheLife is how long Redis keeps a contact (docs/gitlab-api.md 3.2).
const cacheLife = day

// cached is a contact as the API shows it at t: Redis first, the column once
// the cache is lost or has expired.
func (w *World) cached(contact, db, t int64) int64 {
	if contact <= w.flushedAt || t-contact > cacheLife {
		return db
	}
	return contact
}

func (w *World) runnerContact(r *runner, t int64) int64 {
	return w.cached(r.contactAt(t), r.dbAt(t), t)
}

// RunnerSpec describes a runner to add. The zero value is an untagged
// instance runner with one healthy machine.
type RunnerSpec struct {
	ID          int64  // 0: the next free one
	Type        string // default instance_type, or by Group and Projects
	Description string
	Tags        []string
	RunUntagged bool // forced where there are no tags
	Paused      bool
	Locked      bool
	Protected   bool
	Timeout     time.Duration // maximum_timeout
	Note        string        // maintenance_note
	Group       int64         // of a group runner; default the first group
	Projects    []int64       // of a project runner, owner first; default the first project
	Managers    int           // machines; 0: one, negative: none, which is a runner that was never contacted
	Offline     bool          // its machines do not contact GitLab
	LastContact time.Time     // of the machines of an offline runner; default now
	Created     time.Time     // default now
	Version     string        // of its machines; default a recent one
	Platform    string        // linux
	Arch        string        // amd64
	NoJobs      bool          // gets none of the generated jobs
	Weight      float64       // share of the generated jobs; default 1
	BlackHole   bool          // fails whatever it picks within seconds
}

// AddRunner adds a runner and returns its id, or 0 if spec.ID is taken or was
// ever taken, or names a group or project that does not exist.
func (w *World) AddRunner(spec RunnerSpec) int64 {
	w.lock()
	defer w.mu.Unlock()
	if r := w.addRunner(spec); r != nil {
		return r.id
	}
	return 0
}

func (w *World) addRunner(s RunnerSpec) *runner {
	typ, ok := parseRunnerType(s.Type)
	if !ok {
		switch {
		case s.Type != "":
			return nil
		case s.Group != 0:
			typ = groupType
		case len(s.Projects) > 0:
			typ = projectType
		}
	}
	if s.ID == 0 {
		s.ID = w.lastRunner + 1
	}
	if w.findRunner(s.ID) != nil {
		return nil
	}
	r := &runner{
		id: s.ID, idx: index(len(w.all)), typ: typ, created: w.now, desc: s.Description,
		untagged: s.RunUntagged || len(s.Tags) == 0, locked: s.Locked, protected: s.Protected,
		timeout: int64(s.Timeout / time.Second), note: s.Note, weight: 1, blackHole: s.BlackHole,
	}
	if !s.Created.IsZero() {
		r.created = s.Created.UnixMilli()
	}
	if r.desc == "" {
		r.desc = fmt.Sprintf("runner-%d", r.id)
	}
	if s.Weight > 0 {
		r.weight = s.Weight
	}
	if s.NoJobs {
		r.weight = 0
	}
	if !w.place(r, s.Group, s.Projects) {
		return nil
	}
	r.pauses = []pauseChange{{r.created, s.Paused}}
	r.setTags(s.Tags, r.created)
	w.lastRunner = max(w.lastRunner, r.id)
	w.runners[r.id] = r
	w.all = append(w.all, r)
	i, _ := slices.BinarySearchFunc(w.order, r.id, func(o *runner, id int64) int { return cmp.Compare(o.id, id) })
	w.order = slices.Insert(w.order, i, r)
	i, _ = slices.BinarySearchFunc(w.byAge, r, older)
	w.byAge = slices.Insert(w.byAge, i, r)
	w.pickDirty, w.peers = true, nil

	n := s.Managers
	if n == 0 {
		n = 1
	}
	for range n {
		m := w.addManager(r, ManagerSpec{Version: s.Version, Platform: s.Platform, Arch: s.Arch})
		if s.Offline {
			m.alive, m.base = false, w.now
			if !s.LastContact.IsZero() {
				m.base = s.LastContact.UnixMilli()
			}
			m.db, m.created = m.base, min(m.created, m.base)
		}
	}
	return r
}

func (w *World) findRunner(id int64) *runner {
	if r := w.runners[id]; r != nil {
		return r
	}
	for _, r := range w.graveyard {
		if r.id == id {
			return r
		}
	}
	return nil
}

// place puts a runner under its group or projects.
func (w *World) place(r *runner, groupID int64, projectIDs []int64) bool {
	r.group, r.projects = nil, nil
	switch r.typ {
	case groupType:
		if groupID == 0 && len(w.groups) > 0 {
			groupID = w.groups[0].id
		}
		r.group = w.group(groupID)
		return r.group != nil
	case instanceType:
	case projectType:
		if len(projectIDs) == 0 && len(w.projects) > 0 {
			projectIDs = []int64{w.projects[0].id}
		}
		for _, id := range projectIDs {
			p := w.project(id)
			if p == nil {
				return false
			}
			r.projects = append(r.projects, p)
		}
		return len(r.projects) > 0
	}
	return true
}

// DeleteRunner deletes a runner; its jobs stay, reachable by their project.
func (w *World) DeleteRunner(id int64) bool {
	w.lock()
	defer w.mu.Unlock()
	r := w.runners[id]
	if r != nil {
		w.deleteRunner(r, w.now)
	}
	return r != nil
}

func (w *World) deleteRunner(r *runner, t int64) {
	r.deleted = t
	delete(w.runners, r.id)
	w.graveyard = append(w.graveyard, r)
	i, _ := slices.BinarySearchFunc(w.order, r.id, func(o *runner, id int64) int { return cmp.Compare(o.id, id) })
	w.order = slices.Delete(w.order, i, i+1)
	i, _ = slices.BinarySearchFunc(w.byAge, r, older)
	w.byAge = slices.Delete(w.byAge, i, i+1)
	w.pickDirty, w.peers = true, nil
}

// change runs f on a living runner; false if there is none of that id.
func (w *World) change(id int64, f func(*runner)) bool {
	w.lock()
	defer w.mu.Unlock()
	r := w.runners[id]
	if r == nil {
		return false
	}
	f(r)
	return true
}

// Pause pauses or resumes a runner. A paused one still contacts GitLab.
func (w *World) Pause(id int64, paused bool) bool {
	return w.change(id, func(r *runner) { w.pause(r, paused) })
}

func (w *World) pause(r *runner, paused bool) {
	if r.paused() != paused {
		r.pauses = append(r.pauses, pauseChange{w.now, paused})
	}
}

// SetTags replaces a runner's tags; without any it takes untagged jobs.
func (w *World) SetTags(id int64, tags []string) bool {
	return w.change(id, func(r *runner) {
		r.setTags(tags, w.now)
		r.untagged = r.untagged || len(r.tagList()) == 0
		w.pickDirty, w.peers = true, nil
	})
}

// SetOnline lets all machines of a runner contact GitLab again, or stops
// them. GitLab's status follows by its own rules, up to hours later. Generated
// jobs that a stopped machine executes fail for want of updates an hour later.
func (w *World) SetOnline(id int64, online bool) bool {
	return w.change(id, func(r *runner) { w.setOnline(r, online) })
}

// SetManagerOnline does so with one machine; false: the runner has no such machine.
func (w *World) SetManagerOnline(runnerID, managerID int64, online bool) (ok bool) {
	w.change(runnerID, func(r *runner) {
		for _, m := range r.managers {
			if m.id == managerID {
				w.setAlive(r, m, online)
				ok = true
			}
		}
	})
	return ok
}

func (w *World) setOnline(r *runner, online bool) {
	if online && len(r.managers) == 0 {
		w.addManager(r, ManagerSpec{})
	}
	for _, m := range r.managers {
		w.setAlive(r, m, online)
	}
}

func (w *World) setAlive(r *runner, m *manager, alive bool) {
	switch {
	case m.alive == alive:
	case alive:
		m.alive, m.upSince, m.execSince = true, w.now, w.now
		m.touch(w.now)
	default:
		m.base, m.db = m.contactAt(w.now), m.dbAt(w.now)
		m.alive = false
		w.orphan(r, m)
	}
}

// ManagerSpec describes a machine.
type ManagerSpec struct {
	SystemID, Version, Platform, Arch string
}

// AddManager starts another machine of a runner and returns its id, 0 if there
// is no such runner.
func (w *World) AddManager(runnerID int64, spec ManagerSpec) (id int64) {
	w.change(runnerID, func(r *runner) { id = w.addManager(r, spec).id })
	return id
}

func (w *World) addManager(r *runner, s ManagerSpec) *manager {
	id := int64(len(w.machines)) + 1
	h := mix(w.opt.Seed ^ uint64(id)<<20)
	m := &manager{
		id: id, idx: index(len(w.machines)), created: max(r.created, min(w.now, r.created+int64(h%uint64(day)))),
		alive: true, seed: h, systemID: s.SystemID, version: s.Version, platform: s.Platform, arch: s.Arch,
		ip: fmt.Sprintf("10.%d.%d.%d", h>>8&255, h>>16&255, h>>24&255),
	}
	if len(r.managers)+len(r.gone) > 0 {
		m.created = w.now
	}
	if m.systemID == "" {
		m.systemID = fmt.Sprintf("%c_%012x", "sr"[h>>40&1], h>>16)
	}
	if m.version == "" {
		m.version = versions[int(h>>32%100)*len(versions)/100]
	}
	m.revision = sha(mix(uint64(len(m.version)) ^ uint64(m.version[len(m.version)-1])<<8))[:8]
	if m.platform == "" {
		m.platform = "linux"
	}
	if m.arch == "" {
		m.arch = "amd64"
	}
	m.base, m.db, m.upSince = m.created, m.created, m.created
	if m.created == w.now {
		m.base, m.db = w.now, w.now
	}
	w.machines = append(w.machines, m)
	r.managers = append(r.managers, m)
	return m
}

// versions of gitlab-runner in the fleet, the newest ones most often.
var versions = []string{
	"19.1.0", "19.1.0", "19.1.0", "19.0.1", "19.0.1", "19.0.0", "18.11.2", "18.11.2", "18.9.0", "18.5.0", "18.2.1", "17.11.0", "17.5.3", "16.11.1",
}

// RemoveManager unregisters a machine; the runner keeps its last contact.
func (w *World) RemoveManager(runnerID, managerID int64) (ok bool) {
	w.change(runnerID, func(r *runner) {
		for _, m := range r.managers {
			if m.id == managerID {
				w.removeManager(r, m, w.now)
				ok = true
				return
			}
		}
	})
	return ok
}

func (w *World) removeManager(r *runner, m *manager, t int64) {
	w.setAlive(r, m, false)
	r.contact, r.db = max(r.contact, m.contactAt(t)), max(r.db, m.dbAt(t))
	m.deleted = t
	i := slices.Index(r.managers, m)
	r.managers = slices.Delete(r.managers, i, i+1)
	r.gone = append(r.gone, m)
}

// cleanManagers is GitLab's StaleManagersCleanupService: stale machines go,
// stale runners stay (docs/gitlab-api.md 3.2).
func (w *World) cleanManagers(t int64) {
	for _, r := range w.order {
		for _, m := range slices.Clone(r.managers) {
			if t-max(m.created, m.dbAt(t)) > w.f.staleAfter && m.exec == 0 {
				w.removeManager(r, m, t)
			}
		}
	}
}

// AddGroup adds a group, under parent unless that is 0, and returns its id; 0
// if there is no such parent.
func (w *World) AddGroup(name string, parent int64) int64 {
	w.lock()
	defer w.mu.Unlock()
	var p *group
	if parent != 0 {
		if p = w.group(parent); p == nil {
			return 0
		}
	}
	return w.addGroup(name, p).id
}

func (w *World) addGroup(name string, parent *group) *group {
	g := &group{id: int64(len(w.groups) + 1), name: name, path: name, fullName: name, parent: parent}
	if parent != nil {
		g.path, g.fullName = parent.path+"/"+name, parent.fullName+" / "+name
	}
	w.groups = append(w.groups, g)
	w.paths[g.path] = g
	return g
}

func (w *World) group(id int64) *group {
	if id < 1 || id > int64(len(w.groups)) {
		return nil
	}
	return w.groups[id-1]
}

func (w *World) project(id int64) *project {
	if id < 1 || id > int64(len(w.projects)) {
		return nil
	}
	return w.projects[id-1]
}

// AddProject adds a project to a group and returns its id; 0 if there is no
// such group.
func (w *World) AddProject(name string, groupID int64) int64 {
	w.lock()
	defer w.mu.Unlock()
	g := w.group(groupID)
	if g == nil {
		return 0
	}
	return w.addProject(name, g).id
}

func (w *World) addProject(name string, g *group) *project {
	p := &project{
		id: int64(len(w.projects) + 1), idx: index(len(w.projects)), name: name, path: g.path + "/" + name, group: g,
		created: w.now - hash(int64(len(w.projects)), 700*day),
	}
	w.projectJSON(p)
	w.projects = append(w.projects, p)
	w.paths[p.path] = p
	return p
}

// MoveRunner assigns a group runner to another group, or a project runner to
// other projects, the owner first.
func (w *World) MoveRunner(id, groupID int64, projectIDs []int64) (ok bool) {
	w.change(id, func(r *runner) {
		g, p := r.group, r.projects
		if ok = w.place(r, groupID, projectIDs); !ok {
			r.group, r.projects = g, p
		}
		w.peers = nil
	})
	return ok
}

// addFleet makes the initial groups, projects and runners.
func (w *World) addFleet() {
	n := w.opt.Runners
	for i := range 3 + n/20 {
		var parent *group
		if i > 0 && w.rng.IntN(2) == 0 {
			parent = w.groups[w.rng.IntN(i)]
		}
		w.addGroup(fmt.Sprintf("%s-%d", teams[w.rng.IntN(len(teams))], i+1), parent)
	}
	for i := range min(2000, 10+n/5) {
		w.addProject(fmt.Sprintf("%s-%d", products[w.rng.IntN(len(products))], i+1), w.groups[w.rng.IntN(len(w.groups))])
	}
	for i := range n {
		w.addRunner(w.randomRunner(i))
	}
}

var (
	teams    = []string{"platform", "payments", "mobile", "data", "web", "infra", "search", "security"}
	products = []string{"api", "frontend", "ledger", "worker", "android-app", "ios-app", "etl", "terraform", "docs", "gateway"}
	tagWords = []string{"docker", "linux", "shell", "kubernetes", "gpu", "macos", "windows", "arm64", "prod-deploy", "large", "privileged", "terraform"}
)

func (w *World) tagName(i int) string {
	if i < len(tagWords) {
		return tagWords[i]
	}
	return fmt.Sprintf("%s-%d", tagWords[i%len(tagWords)], i/len(tagWords)+1)
}

// randomRunner draws a runner of the initial fleet, or one that joins later.
func (w *World) randomRunner(i int) RunnerSpec {
	rng := w.rng
	age := rng.Int64N(600 * day)
	s := RunnerSpec{
		Created:     time.UnixMilli(w.now - age),
		RunUntagged: rng.IntN(100) < 30,
		Protected:   rng.IntN(100) < 8,
		Locked:      rng.IntN(100) < 10,
	}
	switch x := rng.IntN(100); {
	case x < 40:
		s.Type = "instance_type"
	case x < 70:
		s.Type, s.Group = "group_type", int64(1+rng.IntN(len(w.groups)))
	default:
		s.Type = "project_type"
		for range 1 + rng.IntN(3) {
			if p := int64(1 + rng.IntN(len(w.projects))); !slices.Contains(s.Projects, p) {
				s.Projects = append(s.Projects, p)
			}
		}
	}
	if rng.IntN(100) < 85 && w.opt.Tags > 0 {
		for range 1 + rng.IntN(5) {
			// The square of a uniform number: few tags on many runners, many on one or two.
			u := rng.Float64()
			s.Tags = append(s.Tags, w.tagName(int(u*u*float64(w.opt.Tags))))
		}
	}
	s.Description = fmt.Sprintf("%s-runner-%03d", teams[rng.IntN(len(teams))], i+1)
	switch rng.IntN(12) {
	case 0:
		s.Platform, s.Arch = "darwin", "arm64"
	case 1:
		s.Platform, s.Arch = "windows", "amd64"
	case 2:
		s.Arch = "arm64"
	}
	if rng.IntN(10) == 0 {
		s.Managers = 2 + rng.IntN(10)
	}
	// A long tail of load: the busiest tenth does most of the work.
	u := rng.Float64()
	s.Weight = 0.1 + 10*u*u*u*u
	if rng.IntN(4) == 0 {
		s.Timeout = time.Duration(1+rng.IntN(4)) * time.Hour
	}
	if x := rng.IntN(100); !w.opt.Healthy {
		switch {
		case x < 5:
			s.Paused = true
		case x < 9:
			s.Offline = true
			s.LastContact = time.UnixMilli(w.now - min(age, 3*hour+rng.Int64N(6*day)))
		case x < 11:
			s.Offline = true
			s.LastContact = time.UnixMilli(w.now - min(age, 8*day+rng.Int64N(60*day)))
		case x < 13:
			s.Managers = -1
			s.Created = time.UnixMilli(w.now - min(age, rng.Int64N(10*day)))
		}
	}
	return s
}
