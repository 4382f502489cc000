package main

// The truth: runners, machines, jobs, GitLab, and what goes wrong. One step is one minute; contacts carry seconds.

import (
	"math"
	"math/rand"
	"slices"
	"sort"
)

const (
	Min   = int64(60)
	Hour  = 60 * Min
	Day   = 24 * Hour
	Sleep = 60 * Min // gitlab-runner DefaultUnhealthyInterval

	crashes, blips = 1. / 60, 1. / 60 // a day
)

type Proc struct { // one gitlab-runner process; several runner ids may stand in its config.toml
	alive, net, hung, wedged, hole, sick bool
	slots, used                          int
	poll                                 int64 // seconds between polls of one entry
	touch                                int64 // seconds between signs of a running job
	sys                                  int
	office, maint                        bool
	mgrs                                 []*Mgr
	bootAt                               int64
	busyInc                              bool // part of an incident: no background events
	kube                                 bool
}
type Mgr struct {
	r         *Runner
	p         *Proc
	sys       int
	seen      int
	lastOK    int64
	sleepTo   int64
	redis, db int64
	row       int64 // of the machine, in what the exporter reads
	name      string
	nextTouch int64
	nextPoll  int64
	jobs      []*Job
	gone      bool // replaced by a redeploy: the row stays
}
type Runner struct {
	id, pool      int
	mgrs          []*Mgr
	limit         int
	keyAt         int64
	keyVer        int
	keyGone       bool
	redis, db     int64
	paused        bool
	prot, subset  bool
	pinned        int // project that only this runner takes (extra tag), -1
	weight        float64
	listed        bool
	ephemeral     bool
	kind          string // plain, solo, multi, sibling, office, abandoned, never, eph
	dieAt         int64  // ephemeral end of life
	retired       bool
	vanished      bool
	detailsBroken bool
	orphans       []*Job
	inc           *Incident
	group         int
	used          bool
	maint         bool
	view          *view
}
type Job struct {
	id                  int
	pool, proj, key     int
	created, start, end int64
	finished            int64
	status, reason      string // running success failed
	class               string
	own                 bool // ended by the runner's own report
	prot                bool
	pinned              bool
	dur                 int64
	r                   *Runner
	m                   *Mgr
	lastUpd             int64
}
type Pool struct {
	rs     []*Runner
	queue  []*Job
	rate   float64 // jobs a minute at the peak
	night  float64
	batch  bool
	projs  int
	proj0  int
	medDur float64
	longP  float64
	typ    string
}
type Incident struct {
	kind        string
	r           *Runner
	m           *Mgr
	at, until   int64
	cleared     bool
	busyAtDeath bool
	jobsSince   int
	day         bool
}
type Outage struct {
	from, to int64
	kind     string // refused, 5xx, exporter (only we are cut off)
}
type World struct {
	rnd              *rand.Rand
	t                int64
	pools            []*Pool
	rs               []*Runner
	procs            []*Proc
	incs             []*Incident
	outs             []Outage
	ended            []*Job // this minute
	nextJob, nextSys int
	flushes          []int64 // cache only
	fullFlush        []int64
	broken           map[int][2]int64 // project -> window in which its jobs fail
	brokenAll        [][2]int64
	registry         [][2]int64 // image pulls fail everywhere
	projFail         []float64
	masking          bool
	small            bool // nine runners
	calm             bool
	skew             [2]int64
	detailsDown      [2]int64
	expDown          [][2]int64
	ghosts           int
	sleeps           int
	njobs            int
	nextID           int
	sites            [][3]int64
}

func (w *World) f() float64                  { return w.rnd.Float64() }
func (w *World) between(a, b int64) int64    { return a + w.rnd.Int63n(b-a+1) }
func (w *World) p(perDay float64) bool       { return w.f() < perDay/1440 }
func (w *World) logn(med, s float64) float64 { return med * math.Exp(w.rnd.NormFloat64()*s) }
func (w *World) poisson(l float64) int {
	if l <= 0 {
		return 0
	}
	L, k, p := math.Exp(-l), 0, 1.0
	for {
		p *= w.f()
		if p <= L {
			return k
		}
		k++
	}
}

func (w *World) newProc(slots int, poll int64) *Proc {
	w.nextSys++
	p := &Proc{alive: true, net: true, slots: slots, poll: poll, touch: 60, sys: w.nextSys}
	if w.f() < 0.08 {
		p.touch = 240 // FF_USE_DYNAMIC_TRACE_FORCE_SEND_INTERVAL, quiet job
	}
	w.procs = append(w.procs, p)
	return p
}

func (w *World) addMgr(r *Runner, p *Proc) *Mgr {
	m := &Mgr{r: r, p: p, sys: p.sys, lastOK: w.t, redis: -w.between(0, 3500), db: 0}
	m.db = m.redis - w.between(0, 2000)
	r.mgrs = append(r.mgrs, m)
	p.mgrs = append(p.mgrs, m)
	return m
}

func (w *World) newRunner(pool int, kind string, limit int) *Runner {
	w.nextID++
	r := &Runner{id: w.nextID, pool: pool, kind: kind, limit: limit, pinned: -1, weight: w.logn(1, .5), listed: true, keyAt: -w.between(0, 3500), keyVer: 1}
	r.redis = r.keyAt
	r.db = r.redis - w.between(0, 2000)
	w.rs = append(w.rs, r)
	if pool >= 0 {
		w.pools[pool].rs = append(w.pools[pool].rs, r)
	}
	return r
}

func (w *World) newPool(projs int, med, longP, night float64, typ string) int {
	p := &Pool{projs: projs, proj0: len(w.projFail), medDur: med, longP: longP, night: night, batch: w.f() < .4, typ: typ}
	for range projs {
		w.projFail = append(w.projFail, math.Min(.6, w.logn(.08, .8)))
	}
	w.pools = append(w.pools, p)
	return len(w.pools) - 1
}
func (p *Pool) mean() float64 { return p.medDur*math.Exp(.72)*(1-p.longP) + p.longP*110*60 }

func NewWorld(seed int64, masking, calm, small bool) *World {
	w := &World{masking: masking, calm: calm, small: small, broken: map[int][2]int64{}}
	w.rnd = rand.New(rand.NewSource(seed)) //nolint:gosec // a simulation that repeats
	fast := func() int64 {                 // check_interval, long polling, several entries
		if w.f() < .05 {
			return w.between(60, 150)
		}
		return w.between(3, 20)
	}
	cut := func(n, s int) int {
		if small {
			return s
		}
		return n
	}
	setRate := func(pi int, util float64) {
		s := 0
		for _, r := range w.pools[pi].rs {
			s += r.limit * len(r.mgrs)
		}
		w.pools[pi].rate = util * float64(s) / (w.pools[pi].mean() / 60)
	}
	one := func(pi int, kind string, limit int) *Runner {
		r := w.newRunner(pi, kind, limit)
		p := w.newProc(limit, fast())
		p.kube = w.f() < .3
		w.addMgr(r, p)
		return r
	}
	for _, c := range []struct {
		n, projs int
		night    float64
	}{{100, 40, .12}, {60, 25, .05}, {25, 10, .03}, {20, 8, .03}, {12, 5, .02}, {10, 5, .02}} {
		if small {
			c.n = min(c.n, 3)
			if len(w.pools) > 0 {
				break
			}
		}
		pi := w.newPool(c.projs, 180, .03, c.night, "instance")
		for i := 0; i < c.n; i++ {
			r := one(pi, "plain", 1+w.rnd.Intn(4))
			r.prot = w.f() < .06
		}
		setRate(pi, .35+.3*w.f())
	}
	for g := 0; g < cut(18, 1); g++ { // teams
		pi := w.newPool(2+w.rnd.Intn(5), 240, .05, .01, "group")
		n := cut(4+w.rnd.Intn(9), 2)
		for i := range n {
			kind := "plain"
			if g < 5 && i < 2 {
				kind = "office"
			}
			r := one(pi, kind, 1+w.rnd.Intn(2))
			r.subset = i > 2 && w.f() < .12
			if kind == "office" {
				r.mgrs[0].p.office = true
			}
		}
		setRate(pi, .15+.4*w.f())
	}
	for i := 0; i < cut(60, 2); i++ { // one runner, one tag
		pi := w.newPool(1+w.rnd.Intn(2), 300, .05, .05, "project")
		one(pi, "solo", 1)
		w.pools[pi].rate = (.5 + 4*w.f()) / 600 // a few a day
	}
	for i := 0; i < cut(16, 1); i++ { // many machines behind one id
		pi := w.newPool(6, 200, .03, .05, "group")
		r := w.newRunner(pi, "multi", 2)
		for k := 3 + w.rnd.Intn(20); k > 0; k-- {
			p := w.newProc(2, fast())
			p.kube = w.f() < .7
			w.addMgr(r, p)
		}
		setRate(pi, .2+.3*w.f())
	}
	for i := 0; i < cut(12, 0); i++ { // several entries in one config.toml, few slots
		n := 2 + w.rnd.Intn(3)
		p := w.newProc(1+w.rnd.Intn(2), int64(n)*w.between(20, 240)) // worker starvation under long polling
		for range n {
			pi := w.newPool(2, 1200, .15, .05, "project")
			r := w.newRunner(pi, "sibling", 1)
			w.addMgr(r, p)
			w.pools[pi].rate = (.5 + 5*w.f()) / 600
		}
	}
	for i := 0; i < cut(20, 1); i++ { // registrations nobody deleted
		r := w.newRunner(-1, "abandoned", 1)
		r.redis, r.db = -Day*w.between(3, 400), 0
		r.db = r.redis
		if i < 4 {
			r.kind, r.redis, r.db = "never", 0, 0
		}
		w.addMgr(r, &Proc{sys: -1})
		r.mgrs[0].redis, r.mgrs[0].db = r.redis, r.db
	}
	ep := w.newPool(8, 240, .02, .05, "instance")
	w.pools[ep].rate = float64(cut(12, 0)) / 10
	// pinned broken projects: three runners have an extra tag that one bad project asks for
	for i := 0; i < cut(3, 0); i++ {
		r := w.pools[i].rs[w.rnd.Intn(len(w.pools[i].rs))]
		r.pinned = len(w.projFail)
		w.projFail = append(w.projFail, .97)
		r.prot = false
	}
	for _, r := range w.rs { // what the exporter can distinguish: tags, type, owner, protected
		r.group = r.pool * 2
		if r.prot {
			r.group++
		}
		if w.f() < .006 {
			r.detailsBroken = true
		}
	}
	for i := 0; i < cut(8, 0); i++ { // machines cloned from one image: two runner ids have the same system_id
		a, b := w.pools[i%3].rs[w.rnd.Intn(len(w.pools[i%3].rs))].mgrs[0], w.pools[(i+1)%3].rs[w.rnd.Intn(len(w.pools[(i+1)%3].rs))].mgrs[0]
		b.p.sys, b.sys = a.p.sys, a.sys
	}
	w.plan()
	return w
}

func (w *World) plan() {
	mon := 30 * Day
	at := func(fromDay int64) int64 { return w.between(fromDay*Day, mon-Day) }
	if !w.calm {
		for _, o := range []struct {
			d int64
			k string
		}{{40, "refused"}, {25, "refused"}, {3 * Min, "refused"}, {12 * Min, "5xx"}, {45 * Min, "refused"}, {Hour, "5xx"}, {2 * Hour, "refused"}, {5 * Hour, "5xx"}, {90, "5xx"}, {Hour, "exporter"}, {20 * Min, "exporter"}} {
			a := at(1)
			w.outs = append(w.outs, Outage{a, a + o.d, o.k})
		}
		w.flushes = []int64{at(1), at(1), at(1)}
		w.fullFlush = []int64{at(1)}
		a := at(2)
		w.skew = [2]int64{a, a + 40*Min}
		a = at(2)
		w.detailsDown = [2]int64{a, a + 40*Min}
		for range 6 {
			a = at(1)
			w.expDown = append(w.expDown, [2]int64{a, a + w.between(2*Min, 10*Min)})
		}
		a = at(3)
		w.expDown = append(w.expDown, [2]int64{a, a + 5*Hour})
	}
	for range 8 { // a branch of one project breaks; then everything (a shared template); then the registry
		a := at(1)
		w.broken[w.rnd.Intn(100)] = [2]int64{a, a + w.between(2*Hour, 8*Hour)}
	}
	for range 3 {
		a := (w.between(1, 28)*24 + w.between(8, 14)) * Hour
		w.brokenAll = append(w.brokenAll, [2]int64{a, a + w.between(1*Hour, 3*Hour)})
		a = (w.between(1, 28)*24 + w.between(8, 14)) * Hour
		w.registry = append(w.registry, [2]int64{a, a + w.between(15*Min, 60*Min)})
	}
	for _, k := range []string{"idle", "midjob", "partition", "hung", "wedged", "hole", "sick", "machine"} {
		for i := range 10 {
			a := at(3)
			if k == "hole" || k == "wedged" || k == "sick" || k == "midjob" { // half in working hours: they need jobs
				if i < 7 {
					a = a/Day*Day + w.between(8*Hour, 18*Hour)
				}
			}
			d := w.between(6*Hour, 36*Hour)
			if k == "partition" {
				d = w.between(1*Hour, 12*Hour)
			}
			w.incs = append(w.incs, &Incident{kind: k, at: a, until: a + d})
		}
	}
	for i := 0; i < 3 && len(w.pools) > 30; i++ { // a whole site loses its network at once
		a := at(3)
		w.sites = append(w.sites, [3]int64{a, a + w.between(2*Hour, 5*Hour), int64([]int{1, 6 + w.rnd.Intn(18), 6 + w.rnd.Intn(18)}[i])})
	}
	sort.Slice(w.incs, func(i, j int) bool { return w.incs[i].at < w.incs[j].at })
}

func (w *World) load(p *Pool) float64 {
	d, h := w.t/Day%7, float64(w.t%Day)/3600
	v := p.night
	if d < 5 && h > 6 && h < 21 {
		x := (h - 12.5) / 3.6
		v = p.night + (1-p.night)*math.Exp(-(x*x))
	}
	if p.batch && h >= 2 && h < 2.5 {
		v += .5
	}
	return v * p.rate
}

func (w *World) gitlab(kinds ...string) (Outage, bool) {
	for _, o := range w.outs {
		if o.from < w.t+Min && o.to > w.t {
			if slices.Contains(kinds, o.kind) {
				return o, true
			}
		}
	}
	return Outage{}, false
}
func in(t int64, v [2]int64) bool { return t >= v[0] && t < v[1] }

func (w *World) beatM(m *Mgr, at int64) {
	if at > m.redis {
		m.redis = at
	}
	if at-m.db >= w.between(40*Min, 55*Min) {
		m.db = at
	}
	r := m.r
	if at > r.redis {
		r.redis = at
	}
	if at-r.db >= w.between(40*Min, 55*Min) {
		r.db = at
	}
}

func (w *World) kill(p *Proc, orphan bool) { // jobs of a stopped process: reported failed (SIGTERM) or orphaned
	for _, m := range p.mgrs {
		for _, j := range m.jobs {
			if orphan {
				j.r.orphans = append(j.r.orphans, j)
				w.ghosts++
			} else {
				w.finish(j, "failed", "runner_system_failure", "infra", w.t, true)
			}
		}
		m.jobs = nil
		m.sleepTo = 0
	}
	p.used = 0
	p.alive = false
}

func (w *World) finish(j *Job, status, reason, class string, at int64, own bool) {
	j.status, j.reason, j.class, j.finished, j.own = status, reason, class, at, own
	w.ended = append(w.ended, j)
}

func (w *World) boot(p *Proc, newSys bool) {
	p.alive, p.hung, p.wedged, p.hole, p.sick, p.net = true, false, false, false, false, true
	if newSys {
		w.nextSys++
		p.sys = w.nextSys
		var keep []*Mgr
		for _, m := range p.mgrs {
			m.gone = true
			n := &Mgr{r: m.r, p: p, sys: p.sys, lastOK: w.t}
			m.r.mgrs = append(m.r.mgrs, n)
			keep = append(keep, n)
		}
		p.mgrs = keep
	}
	for _, m := range p.mgrs {
		for _, j := range m.jobs { // left from before a power loss
			if j.status == "running" {
				m.r.orphans = append(m.r.orphans, j)
			}
		}
		m.jobs = nil
		m.seen, m.sleepTo, m.lastOK, m.nextPoll = 0, 0, w.t, w.t
	}
	p.used = 0
}

// functional: would it take a fitting job now, or is it at work?
func (r *Runner) functional(t int64) (bool, string) {
	why := "dead"
	for _, m := range r.mgrs {
		if m.gone {
			continue
		}
		p := m.p
		switch {
		case !p.alive:
			if p.office || p.maint {
				why = "planned off"
			}
		case !p.net:
		case p.hung || p.wedged || p.hole:
		case m.sleepTo > t-3*Min:
			why = "asleep"
		default:
			return true, "ok"
		}
	}
	return false, why
}

func (w *World) Step() {
	w.ended = w.ended[:0]
	t := w.t
	refused, isRef := w.gitlab("refused")
	_, is5 := w.gitlab("5xx")
	down := is5 || isRef && refused.from <= t+Min && refused.to >= t+Min/2
	for _, f := range w.flushes {
		if f >= t && f < t+Min {
			for _, r := range w.rs {
				r.redis = 0
				for _, m := range r.mgrs {
					m.redis = 0
				}
			}
		}
	}
	for _, f := range w.fullFlush {
		if f >= t && f < t+Min {
			for _, r := range w.rs {
				r.redis, r.keyGone = 0, true
				for _, m := range r.mgrs {
					m.redis = 0
				}
			}
		}
	}
	w.background()
	w.incidents()
	// arrivals and ticks
	if !down {
		for pi, p := range w.pools {
			for n := w.poisson(w.load(p)); n > 0; n-- {
				w.arrive(pi, p, -1, nil)
			}
		}
		for _, r := range w.rs {
			if r.pinned >= 0 && r.listed && w.f() < w.load(w.pools[r.pool])/w.pools[r.pool].rate*.05 {
				w.arrive(r.pool, w.pools[r.pool], r.pinned, r)
			}
		}
	}
	// polls
	polled := map[int][]*Mgr{}
	for _, p := range w.procs {
		if !p.alive || !p.net || p.hung {
			continue
		}
		for _, m := range p.mgrs {
			r := m.r
			if !r.listed || m.sleepTo > t || p.used >= p.slots || len(m.jobs) >= r.limit {
				continue
			}
			if isRef && m.nextPoll < t+Min {
				covered := min(refused.to, t+Min) - max(refused.from, t)
				if covered >= 3*p.poll+5 || refused.from < t-3*p.poll {
					for m.sleepTo <= t {
						m.sleepTo = max(m.lastOK, m.sleepTo) + Sleep
					}
					w.sleeps++
					continue
				}
			}
			if down || m.nextPoll >= t+Min {
				continue
			}
			lag := w.rnd.Int63n(Min)
			if p.poll > Min {
				m.nextPoll = max(m.nextPoll, t) + p.poll
			}
			m.lastOK = t
			if r.keyGone || t+lag >= r.keyAt+Hour {
				r.keyGone, r.keyAt = false, t+lag
				r.keyVer++
			}
			if m.seen != r.keyVer || !w.masking {
				m.seen = r.keyVer
				w.beatM(m, min(t+lag, t+Min-1))
			}
			if !r.paused {
				polled[r.pool] = append(polled[r.pool], m)
			}
		}
	}
	// pick-up
	if !down {
		for pi, p := range w.pools {
			if len(p.queue) == 0 {
				continue
			}
			cand := polled[pi]
			rest := p.queue[:0]
			for _, j := range p.queue {
				m := w.choose(cand, j)
				if m == nil {
					rest = append(rest, j)
					continue
				}
				w.start(m, j)
			}
			p.queue = rest
			if len(p.queue) > 400 {
				p.queue = p.queue[len(p.queue)-400:]
			}
		}
	}
	// work
	for _, p := range w.procs {
		for _, m := range p.mgrs {
			if len(m.jobs) == 0 {
				continue
			}
			if !p.alive {
				continue
			}
			can := p.net && !down
			if can && m.nextTouch <= t+Min {
				w.beatM(m, min(max(m.nextTouch, t), t+Min-1))
				m.nextTouch = max(m.nextTouch, t) + p.touch
			}
			keep := m.jobs[:0]
			for _, j := range m.jobs {
				if can {
					j.lastUpd = t
				}
				if j.status != "running" {
					p.used--
					continue
				}
				if j.end <= t+Min && can {
					at := min(max(j.end, t), t+Min-1)
					w.beatM(m, at)
					w.outcome(m, j, at)
					p.used--
					continue
				}
				keep = append(keep, j)
			}
			m.jobs = keep
		}
	}
	// GitLab drops what nobody updates: 1 h, looked for hourly
	if t%Hour == 7*Min && !down {
		for _, r := range w.rs {
			if len(r.orphans) > 0 {
				keep := r.orphans[:0]
				for _, j := range r.orphans {
					if t-j.lastUpd > Hour {
						w.finish(j, "failed", "no_updates_running", "other", t, false)
						continue
					}
					keep = append(keep, j)
				}
				r.orphans = keep
			}
			for _, m := range r.mgrs {
				for _, j := range m.jobs {
					if t-j.lastUpd > Hour && j.status == "running" {
						w.finish(j, "failed", "no_updates_running", "other", t, false)
						if !m.p.alive {
							j.status = "failed"
						}
					}
				}
				if !m.p.alive {
					keep := m.jobs[:0]
					for _, j := range m.jobs {
						if j.status == "running" {
							keep = append(keep, j)
						}
					}
					m.jobs = keep
				}
			}
		}
	}
	w.t += Min
}

func (w *World) arrive(pi int, p *Pool, proj int, only *Runner) {
	w.nextJob++
	w.njobs++
	d := w.logn(p.medDur, 1.2)
	if w.f() < p.longP {
		d = float64(w.between(40*Min, 3*Hour))
	}
	if proj < 0 && p.projs > 0 {
		x := w.f()
		proj = p.proj0 + int(x*x*float64(p.projs)) // few projects make most of the jobs
	}
	j := &Job{id: w.nextJob, pool: pi, proj: proj, key: proj*16 + w.rnd.Intn(8), created: w.t, dur: int64(d) + 8, prot: w.f() < .3, pinned: only != nil}
	j.lastUpd = w.t
	p.queue = append(p.queue, j)
	for _, r := range p.rs {
		if r.listed && !r.paused && w.match(r, j, only) {
			r.keyVer++
			r.keyAt, r.keyGone = w.t, false
		}
	}
	if only != nil {
		j.r = only
	}
	if p == w.pools[len(w.pools)-1] && w.f() < .5 { // autoscaler: a fresh runner id comes for the job
		w.spawn(pi)
	}
}

func (w *World) spawn(pi int) {
	r := w.newRunner(pi, "eph", 1)
	r.ephemeral, r.group, r.redis, r.db = true, pi*2, w.t, w.t
	p := w.newProc(1, 5)
	m := w.addMgr(r, p)
	m.redis, m.db, m.lastOK = w.t, w.t, w.t
	r.keyAt = w.t
	r.dieAt = w.t + w.between(10*Min, 3*Hour)
}

func (w *World) match(r *Runner, j *Job, only *Runner) bool {
	if only != nil {
		return r == only
	}
	return (!r.prot || j.prot) && (!r.subset || j.proj == w.pools[r.pool].proj0)
}

func (w *World) choose(c []*Mgr, j *Job) *Mgr {
	var only *Runner
	if j.pinned {
		only = j.r
	}
	tot := 0.0
	ok := func(m *Mgr) bool {
		return !m.p.wedged && m.p.used < m.p.slots && len(m.jobs) < m.r.limit && m.p.alive && w.match(m.r, j, only)
	}
	for _, m := range c {
		if ok(m) {
			tot += m.r.weight
		}
	}
	if tot == 0 {
		return nil
	}
	x := w.f() * tot
	for _, m := range c {
		if ok(m) {
			if x -= m.r.weight; x <= 0 {
				return m
			}
		}
	}
	return nil
}

func (w *World) start(m *Mgr, j *Job) {
	j.r, j.m, j.status = m.r, m, "running"
	j.start = w.t + w.rnd.Int63n(Min/2)
	j.end = j.start + j.dur
	w.beatM(m, j.start)
	m.nextTouch = j.start + m.p.touch
	j.lastUpd = w.t
	if m.p.hole {
		w.beatM(m, j.start+8)
		cl, re := "infra", "runner_system_failure"
		if j.id%2 == 0 { // shell executor: git clone fails on the full disk and counts as script_failure
			cl, re = "script", "script_failure"
		}
		if m.r.inc != nil {
			m.r.inc.jobsSince++
		}
		j.end = j.start + w.between(4, 10)
		w.finish(j, "failed", re, cl, j.end, true)
		return
	}
	for _, v := range w.brokenAll { // a broken template fails at once
		if in(w.t, v) && w.f() < .7 {
			j.end = j.start + w.between(4, 25)
		}
	}
	if v, ok := w.broken[j.proj]; ok && in(w.t, v) && w.f() < .5 || j.pinned {
		j.end = j.start + w.between(4, 25)
	}
	for _, v := range w.registry {
		if in(w.t, v) {
			j.end = j.start + w.between(10, 40)
		}
	}
	m.jobs = append(m.jobs, j)
	m.p.used++
}

func (w *World) outcome(m *Mgr, j *Job, at int64) {
	pf := w.projFail[j.proj]
	short := false
	if v, ok := w.broken[j.proj]; ok && in(at, v) {
		pf = .95
	}
	for _, v := range w.brokenAll {
		if in(at, v) {
			pf, short = .92, true
		}
	}
	_ = short
	pi := .004
	if m.p.sick {
		pi = .25
	}
	for _, v := range w.registry {
		if in(at, v) {
			pi = .8
		}
	}
	if j.pinned && j.proj%2 == 0 {
		pi = .9 // its image is gone: an image pull failure, and only ever here
	}
	switch {
	case w.f() < pi:
		w.finish(j, "failed", "runner_system_failure", "infra", at, true)
	case w.f() < pf:
		w.finish(j, "failed", "script_failure", "script", at, true)
	default:
		w.finish(j, "success", "", "", at, true)
	}
	if m.r.inc != nil {
		m.r.inc.jobsSince++
	}
}

func (w *World) background() {
	t := w.t
	h := t % Day / Hour
	wd := t / Day % 7
	for _, p := range w.procs {
		if len(p.mgrs) == 0 {
			continue
		}
		if p.bootAt > 0 && t >= p.bootAt {
			ns := p.bootAt%2 == 1
			p.bootAt = 0
			p.maint = false
			w.boot(p, ns)
			continue
		}
		r := p.mgrs[0].r
		if p.busyInc || r.vanished || r.retired || !r.listed || p.bootAt > 0 {
			continue
		}
		if p.office {
			off := wd >= 5 || h < 7 || h >= 20
			if off && p.alive && p.used == 0 {
				w.kill(p, false)
			} else if !off && !p.alive {
				w.boot(p, false)
			}
			continue
		}
		if !p.alive || w.calm {
			continue
		}
		switch {
		case w.p(1. / 14): // restart, jobs reported
			w.kill(p, false)
			w.boot(p, false)
		case w.p(crashes): // crash and restart: jobs orphaned
			w.kill(p, true)
			w.boot(p, false)
		case w.p(1. / 20): // reboot
			w.kill(p, w.f() < .15)
			p.bootAt = (t + w.between(2*Min, 8*Min)) &^ 1
		case p.kube && w.p(1./7) && (p.used == 0 || w.f() < .2): // redeploy, new machine id; most drain first
			w.kill(p, w.f() < .1)
			p.bootAt = (t + w.between(10, 90)) | 1
		case w.p(blips): // the net is away for half a minute: the runner sleeps for an hour
			for _, m := range p.mgrs {
				if len(m.jobs) < m.r.limit {
					m.sleepTo = m.lastOK + Sleep
				}
			}
		}
	}
	if !w.calm && w.p(.8) { // a planned pause, half of them with the machine off
		r := w.rs[w.rnd.Intn(len(w.rs))]
		if r.listed && !r.paused && r.inc == nil && !r.ephemeral && r.pool >= 0 && len(r.mgrs) == 1 && !r.mgrs[0].p.busyInc && r.kind != "office" && r.kind != "sibling" {
			r.paused = true
			r.maint = true
			p := r.mgrs[0].p
			p.busyInc = true
			dur := w.between(Hour, Day)
			off := w.f() < .5
			r.dieAt = t + dur
			if off {
				p.maint = true
			}
		}
	}
	for _, r := range w.rs {
		if r.maint {
			p := r.mgrs[len(r.mgrs)-1].p
			if p.maint && p.alive && p.used == 0 && t > r.dieAt-Day && w.f() < .05 {
				w.kill(p, false)
			}
			if t >= r.dieAt {
				if !p.alive {
					w.boot(p, false)
				}
				r.paused, r.maint, p.maint, p.busyInc = false, false, false, false
			}
		}
		if r.ephemeral && r.listed {
			p := r.mgrs[0].p
			if !r.vanished && t > r.dieAt && p.used == 0 {
				w.kill(p, false)
				if w.f() < .85 {
					r.listed = false
				} else {
					r.vanished = true
					r.dieAt = t + 3*Day
				}
			} else if r.vanished && t > r.dieAt {
				r.listed = false
			}
		}
	}
	if !w.calm && w.p(.33) { // retired: half properly deleted
		r := w.rs[w.rnd.Intn(len(w.rs))]
		if r.listed && r.inc == nil && !r.used && r.pool >= 0 && !r.ephemeral && !r.paused && len(r.mgrs) == 1 && r.kind == "plain" && r.mgrs[0].p.used == 0 && !r.mgrs[0].p.busyInc {
			w.kill(r.mgrs[0].p, false)
			r.mgrs[0].p.busyInc = true
			if w.f() < .5 {
				r.listed = false
			} else {
				r.retired = true
			}
		}
	}
	if t%Day == 0 { // compact
		keep := w.rs[:0]
		for _, r := range w.rs {
			if r.listed {
				keep = append(keep, r)
			}
		}
		w.rs = keep
		for _, p := range w.pools {
			k := p.rs[:0]
			for _, r := range p.rs {
				if r.listed {
					k = append(k, r)
				}
			}
			p.rs = k
		}
		kp := w.procs[:0]
		for _, p := range w.procs {
			if len(p.mgrs) > 0 && p.mgrs[0].r.listed {
				kp = append(kp, p)
			}
		}
		w.procs = kp
		for _, r := range w.rs { // stale manager rows are deleted after 7 days
			k := r.mgrs[:0]
			for _, m := range r.mgrs {
				if !m.gone || t-max(m.redis, m.db) < 7*Day {
					k = append(k, m)
				}
			}
			r.mgrs = k
		}
	}
}

func (w *World) incidents() {
	t := w.t
	for _, s := range w.sites {
		if t != s[0]/Min*Min {
			continue
		}
		for _, r := range w.pools[s[2]].rs {
			if len(r.mgrs) != 1 || r.used || r.kind != "plain" || !r.listed || r.paused || r.mgrs[0].p.busyInc || r.mgrs[0].p.bootAt > 0 {
				continue
			}
			m := r.mgrs[0]
			if m.gone {
				continue
			}
			k := "site"
			if s[2] == 1 {
				k = "site, big"
			}
			c := &Incident{kind: k, r: r, m: m, at: t, until: s[1]}
			r.inc, r.used, m.p.busyInc, m.p.net, m.sleepTo = c, true, true, false, 0
			w.incs = append(w.incs, c)
		}
	}
	for _, c := range w.incs {
		if c.r == nil && t >= c.at && t < c.at+6*Hour && !c.cleared {
			w.strike(c)
		}
		if c.r != nil && !c.cleared && t >= c.until {
			c.cleared = true
			p := c.m.p
			if c.kind == "partition" || c.kind[:2] == "si" && c.kind != "sick" {
				p.net = true
				for _, m := range p.mgrs {
					for m.sleepTo <= t {
						m.sleepTo = max(m.lastOK, m.sleepTo) + Sleep
					}
				}
			} else {
				if p.alive {
					w.kill(p, c.kind != "hole" && c.kind != "sick" && c.kind != "wedged")
				}
				w.boot(p, false)
			}
			p.busyInc = false
			c.r.inc = nil
		}
	}
}

func (w *World) strike(c *Incident) {
	for try := range 60 {
		r := w.rs[w.rnd.Intn(len(w.rs))]
		if !r.listed || r.used || r.paused || r.ephemeral || r.pool < 0 || r.kind == "office" || r.kind == "sibling" || r.retired || r.pinned >= 0 {
			continue
		}
		multi := r.kind == "multi"
		if (c.kind == "machine") != multi {
			continue
		}
		if (c.kind == "hole" || c.kind == "sick" || c.kind == "wedged") && (r.kind == "solo" && try < 30) {
			continue
		}
		var m *Mgr
		for _, x := range r.mgrs {
			if !x.gone && x.p.alive && !x.p.busyInc && x.p.bootAt == 0 && x.sleepTo <= w.t {
				m = x
			}
		}
		if m == nil {
			continue
		}
		busy := len(m.jobs) > 0
		if c.kind == "idle" && busy || c.kind == "midjob" && !busy || c.kind == "machine" && !busy {
			continue
		}
		p := m.p
		c.r, c.m, c.busyAtDeath = r, m, busy
		d := c.until - c.at
		c.at, c.until = w.t, w.t+d
		r.inc, r.used, p.busyInc = c, true, true
		h := w.t % Day / Hour
		c.day = w.t/Day%7 < 5 && h >= 8 && h < 18
		switch c.kind {
		case "idle":
			w.kill(p, false)
		case "midjob":
			p.alive = false // its jobs stay running in GitLab
		case "machine":
			r.orphans = append(r.orphans, m.jobs...)
			m.jobs = nil
			p.used = 0
			p.alive = false
		case "partition":
			p.net = false
			for _, x := range p.mgrs {
				x.sleepTo = 0
			}
		case "hung":
			p.hung = true
		case "wedged":
			p.wedged = true
		case "hole":
			p.hole = true
			for _, j := range m.jobs {
				w.finish(j, "failed", "runner_system_failure", "infra", w.t, true)
			}
			m.jobs, p.used = nil, 0
		case "sick":
			p.sick = true
		}
		return
	}
}
