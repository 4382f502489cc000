package main

import (
	"fmt"
	"math/rand"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/health"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// epoch is midnight of a Monday: the world's second 0.
var epoch = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

func at(sec int64) time.Time { return epoch.Add(time.Duration(sec) * time.Second) }

// view is the exporter's plan for a runner.
type view struct {
	next, plain       int64 // of the details, by their interval; the same had nothing been read at once
	active, wasActive bool
	ended             []*Job // not read yet
	typ               snapshot.RunnerType
}

// exporter reads what GitLab shows at the pace of the defaults of the
// configuration, as internal/monitor does, and judges each minute.
type exporter struct {
	w       *World
	f       *health.Fleet
	graphql bool
	rnd     *rand.Rand // its own, so that the world is the same however it is read

	byID    map[int64]*Runner
	disk    map[string][]byte
	stopped bool
	rows    int64 // machine rows so far

	requests, plain int64 // for details and machines; what they would be without those at once
	recordBytes     int64
	records         int64

	changed func(r *Runner, c health.Change)
	shown   func(p *health.Picture)
}

func newExporter(w *World, seed int64, graphql bool) *exporter {
	e := &exporter{w: w, graphql: graphql, byID: map[int64]*Runner{}, disk: map[string][]byte{}, rnd: rand.New(rand.NewSource(seed))} //nolint:gosec // a simulation that repeats
	e.start()
	return e
}

// start is a start of the process: what is known is what stands on disk.
func (e *exporter) start() {
	e.f = health.New()
	e.f.SetDense(e.graphql)
	for key, value := range e.disk {
		if handled, err := e.f.Load([]byte(key), value); err != nil || !handled {
			panic(fmt.Sprintf("record %q: %v", key, err))
		}
	}
	for id, r := range e.byID {
		if r.listed {
			e.f.Describe(id, traits(e.w, r)) // the inventory has them on disk
		}
	}
}

func traits(w *World, r *Runner) health.Traits {
	t := health.Traits{Type: snapshot.InstanceType, Protected: r.prot, Tags: []string{fmt.Sprintf("pool-%d", r.pool)}}
	if r.pool >= 0 {
		switch w.pools[r.pool].typ {
		case "group":
			t.Type, t.Owner = snapshot.GroupType, t.Tags[0]
		case "project":
			t.Type, t.Owner = snapshot.ProjectType, t.Tags[0]
		}
	}
	if r.pinned >= 0 {
		t.Tags = append(t.Tags, fmt.Sprintf("project-%d", r.pinned))
	}
	return t
}

// minute is one round of the exporter.
func (e *exporter) minute() {
	w, now := e.w, e.w.t
	for _, j := range w.ended {
		if v := j.r.view; v != nil {
			v.ended = append(v.ended, j)
		}
	}
	for _, d := range w.expDown {
		if in(now, d) {
			e.stopped = true
			return
		}
	}
	if e.stopped {
		e.stopped = false
		e.start()
	}
	if _, bad := w.gitlab("refused", "5xx", "exporter"); bad {
		e.f.ListingFailed(at(now))
	} else {
		e.f.ListingDone(at(now))
		e.list()
		e.read()
	}
	changes, p := e.f.Judge(at(now))
	for _, c := range changes {
		e.changed(e.byID[c.ID], c)
	}
	e.shown(p)
	for _, rec := range e.f.Records(at(now)) {
		if rec.Value == nil {
			delete(e.disk, string(rec.Key))
			continue
		}
		e.disk[string(rec.Key)] = rec.Value
		e.records++
		e.recordBytes += int64(len(rec.Key) + len(rec.Value))
	}
}

func (e *exporter) list() {
	now := e.w.t
	for id, r := range e.byID {
		if !r.listed {
			e.f.Remove(id)
			delete(e.byID, id)
		}
	}
	for _, r := range e.w.rs {
		if !r.listed {
			continue
		}
		active := len(r.orphans) > 0
		for _, m := range r.mgrs {
			active = active || len(m.jobs) > 0
		}
		id := int64(r.id)
		first := r.view == nil
		if first {
			r.view = &view{typ: traits(e.w, r).Type}
			e.byID[id] = r
		}
		e.f.Listed(health.Row{ID: id, Type: r.view.typ, Paused: r.paused, Executing: active}, at(now))
		if first {
			e.f.Describe(id, traits(e.w, r))
		}
		r.view.wasActive, r.view.active = r.view.active, active
		e.jobs(r, id)
	}
}

// jobs reads those of a runner that is or was busy, and of idle ones each 5 min.
func (e *exporter) jobs(r *Runner, id int64) {
	v, now := r.view, e.w.t
	if !v.active && !v.wasActive && now/Min%5 != id%5 {
		return
	}
	var executing, ended []gitlab.Job
	for _, m := range r.mgrs {
		for _, j := range m.jobs {
			if j.status == "running" {
				executing = append(executing, row(j))
			}
		}
	}
	for _, j := range r.orphans {
		executing = append(executing, row(j))
	}
	for _, j := range v.ended {
		ended = append(ended, row(j))
	}
	v.ended = nil
	e.f.Jobs(id, at(now), executing, ended)
}

func row(j *Job) gitlab.Job {
	g := gitlab.Job{
		ID: int64(j.id), Status: j.status, CreatedAt: at(j.created), StartedAt: at(j.start),
		Queued: float64(j.start - j.created), FailureReason: j.reason, ProjectID: int64(j.proj) + 1,
	}
	if j.status != "running" {
		g.FinishedAt, g.Duration = at(j.finished), float64(j.finished-j.start)
	}
	return g
}

// read reads details and machines: of all with each listing by GraphQL, else
// each 15 min, of those that execute each 5 min, and at once where health asks.
func (e *exporter) read() {
	w, now := e.w, e.w.t
	asked := map[int64]bool{}
	for _, id := range e.f.Due(at(now)) {
		asked[id] = true
	}
	for _, r := range w.rs {
		v, id := r.view, int64(r.id)
		if r.listed && now >= v.plain {
			e.plain += 2
			v.plain = now + e.interval(v)
			if r.detailsBroken || in(now, w.detailsDown) { // read again, whoever asked
				v.plain = now + Min
			}
		}
		if !r.listed || now < v.next && !asked[id] {
			continue
		}
		e.requests += 2
		if r.detailsBroken || in(now, w.detailsDown) || e.rnd.Float64() < .005 {
			e.f.ReadFailed(id)
			v.next = now + Min
			continue
		}
		v.next = now + e.interval(v)
		e.f.Read(id, e.reading(r))
	}
}

func (e *exporter) interval(v *view) int64 {
	switch {
	case e.graphql:
		return Min
	case v.active:
		return 5 * Min
	}
	return 15*Min + e.rnd.Int63n(Min)
}

func (e *exporter) reading(r *Runner) health.Reading {
	rd := health.Reading{At: at(e.w.t)}
	if r.kind == "never" {
		return rd
	}
	rd.ContactedAt = at(shown(r.redis, r.db))
	for _, m := range r.mgrs {
		if m.row == 0 {
			e.rows++
			m.row, m.name = e.rows, fmt.Sprintf("s_%d", m.sys)
		}
		executing := len(m.jobs) > 0
		for _, j := range r.orphans {
			executing = executing || j.m == m
		}
		rd.Machines = append(rd.Machines, health.Machine{ID: m.row, SystemID: m.name, ContactedAt: at(shown(m.redis, m.db)), Executing: executing})
	}
	return rd
}

// shown is a contact as GitLab answers it: the cache's, or where that was lost the database's.
func shown(redis, db int64) int64 {
	if redis != 0 {
		return redis
	}
	return db
}
