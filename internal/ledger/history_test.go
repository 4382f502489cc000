package ledger

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/test/rig"
)

// story is one small random history: a few runners, some dozen jobs, and
// readings in any order and of any age, half read, read twice, failed;
// commits that fail, or are on disk and are not acknowledged; kills.
type story struct {
	t       *testing.T
	rng     *rand.Rand
	now     int64
	runners []*modelRunner
	jobs    []*modelJob
	l       *Ledger
	d       disk
	polls   map[int64]*poll
	shown   map[string]float64
	gen     uint64
}

func newStory(t *testing.T, seed uint64) *story {
	t.Helper()
	s := &story{
		t: t, rng: rand.New(rand.NewPCG(seed, 2)), now: simStart,
		d: disk{}, polls: map[int64]*poll{}, shown: map[string]float64{},
	}
	for i := range 1 + s.rng.IntN(3) {
		s.runners = append(s.runners, &modelRunner{id: int64(i + 1), kind: snapshot.RunnerType(i), tags: []string{"all"}})
	}
	for range 1 + s.rng.IntN(120) {
		r := s.runners[s.rng.IntN(len(s.runners))]
		j := newModelJob(s.rng, r, simStart-2*hour+s.rng.Int64N(10*hour))
		j.deleted = 0
		if j.noStarted && j.noFinished {
			j.noFinished = false // when it ended is not to be known: see TestJobsWithoutStampsAreCounted
		}
		s.jobs = append(s.jobs, j)
	}
	for i, k := range s.rng.Perm(len(s.jobs)) { // ids in no order at all
		s.jobs[k].id = int64(1 + i)
	}
	for _, j := range s.jobs {
		j.runner.start(j)
	}
	s.l = New(day)
	s.l.Begin(t0)
	s.list()
	s.d.commit(s.l)
	return s
}

func (s *story) list() {
	var m []Member
	for _, r := range s.runners {
		m = append(m, Member{ID: r.id, Type: r.kind})
	}
	s.l.Listed(m, "instance", time.UnixMilli(s.now))
	s.l.Works(true)
	for _, r := range s.runners {
		s.l.Describe(r.id, r.tags)
	}
}

func (s *story) clock() time.Time {
	return s.l.Advance(time.UnixMilli(s.now), time.UnixMilli(s.now))
}

// step does one thing, any thing.
func (s *story) step() {
	s.now += s.rng.Int64N(4 * minute)
	r := s.runners[s.rng.IntN(len(s.runners))]
	view := s.now
	if s.rng.IntN(3) == 0 { // an answer that is late by any time
		view -= s.rng.Int64N(s.now - simStart + minute)
	}
	page := func() gitlab.JobsPage {
		q := gitlab.JobsQuery{Page: 1 + s.rng.IntN(2)}
		p := r.answer(q, view, 1000, nil)
		if n := len(p.Jobs); n > 0 && s.rng.IntN(2) == 0 { // any part of it, also twice
			p.Jobs = p.Jobs[s.rng.IntN(n):]
			p.Next = 2
		}
		return p
	}
	poll := func() *poll {
		if s.polls[r.id] == nil {
			s.polls[r.id] = s.l.poll(r.id, s.clock())
		}
		return s.polls[r.id]
	}
	switch s.rng.IntN(14) {
	case 0, 1:
		jobs, _ := r.executingPage(view, 1, nil)
		poll().executing(jobs)
	case 2, 3:
		poll().newest(page())
	case 4:
		p := poll()
		for _, a := range p.missing() {
			i := slices.IndexFunc(s.jobs, func(j *modelJob) bool { return j.id == a.Job })
			p.asked(s.jobs[i].row(view))
		}
	case 5:
		poll().done(s.rng.IntN(2) == 0)
		delete(s.polls, r.id)
	case 6:
		s.l.walk(r.id, s.clock()).page(page())
	case 7:
		s.d.commit(s.l)
	case 8:
		if b := s.l.Batch(); b != nil {
			if s.rng.IntN(3) == 0 {
				s.d.write(b) // and yet it is reported as failed
			}
			s.l.Failed(b)
		}
	case 9: // kill -9
		if b := s.l.Batch(); b != nil && s.rng.IntN(2) == 0 {
			s.d.write(b)
		}
		s.l = s.d.open(s.t, day)
		clear(s.polls)
	case 10:
		s.list()
	case 11:
		s.l.Forget(s.clock())
	default:
		s.publish()
	}
	if len(s.l.settled)+len(s.l.watch) > len(s.jobs) {
		s.t.Fatal("more jobs than there are")
	}
}

func (s *story) publish() {
	s.gen++
	flat(s.l.Counters(s.gen, time.UnixMilli(s.now), true, func(int64) bool { return true }), func(k string, v float64) {
		if v < s.shown[k] {
			s.t.Errorf("%s went back from %v to %v", k, s.shown[k], v)
		}
		s.shown[k] = v
	})
	if s.rng.IntN(2) == 0 {
		s.l.Served(s.gen, s.gen, time.UnixMilli(s.now))
	}
}

// drain reads all there is, as of now.
func (s *story) drain() {
	for _, r := range s.runners {
		for range 2 {
			p := s.l.poll(r.id, s.clock())
			jobs, _ := r.executingPage(s.now, 1, nil)
			p.executing(jobs)
			for n := 1; ; {
				page := r.answer(gitlab.JobsQuery{Page: n}, s.now, 1000, nil)
				p.newest(page)
				if n = page.Next; n == 0 {
					break
				}
			}
			p.done(true)
		}
	}
	s.publish()
	s.l.Served(s.gen, s.gen, time.UnixMilli(s.now))
	s.d.commit(s.l)
	s.publish()
}

// TestHistoriesCountEachJobOnce: whatever the order, each finished job is counted exactly once.
func TestHistoriesCountEachJobOnce(t *testing.T) {
	seed := seedOf()
	for i := range uint64(rig.Sized(400, 150)) {
		s := newStory(t, seed+i)
		for range s.rng.IntN(300) {
			s.step()
		}
		s.now = max(s.now, simStart+13*hour) // all have ended
		s.drain()
		s.judge()
		if t.Failed() {
			t.Fatalf("to see it again: -args -sim.seed=%d", seed+i)
		}
	}
}

func (s *story) judge() {
	var want [snapshot.NumRunnerTypes]uint64
	var queued, durations uint64
	for _, j := range s.jobs {
		_, settled := s.l.settled[j.id]
		switch {
		case j.endStamp() >= simStart && !settled:
			s.t.Errorf("job %d, ended %v, is not counted", j.id, rel(j.end))
		case j.end < simStart-minute && settled: // no answer is older
			s.t.Errorf("job %d, ended %v, is counted", j.id, rel(j.end))
		}
		if settled {
			want[j.runner.kind]++
			if j.queued >= 0 && !j.noStarted && j.pickup >= simStart {
				queued++
			}
			if !j.noStarted && !j.noFinished {
				durations++
			}
		}
	}
	if len(s.l.watch) != 0 {
		s.t.Errorf("%d jobs are still watched", len(s.l.watch))
	}
	var tags, runners, types, q, d uint64
	for k := range want {
		if n := finished(s.l, snapshot.RunnerType(k)); n != want[k] {
			s.t.Errorf("%v: %d counted, %d settled", snapshot.RunnerType(k), n, want[k])
		}
		types += want[k]
		for i, h := range s.l.types[k].live.hists {
			for _, n := range h.buckets {
				if i == typeQueued {
					q += n
				} else {
					d += n
				}
			}
		}
	}
	for _, r := range s.l.runners {
		if r.finished != nil {
			for _, n := range r.finished.shown.counts {
				runners += n
			}
		}
	}
	if g := s.l.tags["all"]; g != nil {
		for _, n := range g.shown.counts {
			tags += n
		}
	}
	if tags != types || runners != types {
		s.t.Errorf("%d by type, %d by tag, %d by runner", types, tags, runners)
	}
	if q != queued || d != durations {
		s.t.Errorf("%d queue times, want %d; %d durations, want %d", q, queued, d, durations)
	}
}
