package ledger

import (
	"container/heap"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/test/rig"
)

var (
	simJobs = flag.Int("sim.jobs", 0, "finished jobs of TestSimulationCountsEachJobOnce; 0: 50,000, or fewer where that is slow")
	simRate = flag.Float64("sim.requests", 0.9, "request budget of TestSimulationCountsEachJobOnce a minute and runner")
	simSeed = flag.Uint64("sim.seed", 0, "seed of the simulations and histories; 0: a random one, which is printed")
)

func seedOf() uint64 {
	if *simSeed != 0 {
		return *simSeed
	}
	return uint64(time.Now().UnixNano())
}

const (
	second = int64(1000)
	minute = 60 * second
	hour   = 60 * minute

	simStart   = int64(1_700_000_000_000) // T0 is about here
	simHistory = 12 * hour                // of jobs before it
	simSpan    = 40 * hour
	simDrain   = 5 * hour // jobs end, the last walks run
	simFirstID = int64(1_000_000)
	simFlight  = 8 // readings under way at once
)

// window is a stretch of trouble: delays in it are not those of a steady state.
type window struct{ from, to int64 }

// sim drives a Ledger as internal/monitor does (docs/counting.md),
// against a model of GitLab's rows, on a clock of its own.
type sim struct {
	t        *testing.T
	rng      *rand.Rand
	now      int64
	jobs     []*modelJob // by pickup
	next     int         // of jobs, the first not yet picked up
	deaths   []*modelJob // by deletion
	nextDie  int
	ids      []*modelJob // by id
	relisted bool        // cur differs from dur
	runners  []*modelRunner
	byID     map[int64]*modelRunner
	limit    int // X-Total is withheld beyond it
	perMin   float64

	// The exporter.
	l        *Ledger
	lookback time.Duration
	disk     map[string][]byte
	clients  map[int64]*simClient
	polls    simHeap
	walks    simHeap
	flight   []*simReading
	turn     int
	starts   int
	listDue  int64
	missing  map[int64]int
	gen      uint64
	buf      []gitlab.Job

	// What the durable state must hold, counted here by the truth of each job.
	unsaved   []*modelJob // delivered as executing since the last commit
	finals    []*modelJob // delivered as finished since then
	t0        int64
	cur, dur  simListing
	want      simTotals
	shown     map[string]float64
	twice     int
	badWindow []window
	starved   []window
	nokeyset  window

	requests, runMS, walkPages, batches, records, failedCommits int64
	kills, stops                                                int
}

// simListing is what the since rule rests on, as it must be in memory and on disk.
type simListing struct {
	last, top int64
	since     map[int64]int64
}

func (s simListing) clone() simListing {
	c := simListing{last: s.last, top: s.top, since: maps.Clone(s.since)}
	return c
}

type simTotals struct {
	finished map[string]float64 // by labels, as Counters gives them
	hists    map[string]*simHist
}

type simHist struct {
	n   uint64
	sum float64
}

func (s *simTotals) observe(key string, v float64) {
	h := s.hists[key]
	if h == nil {
		h = &simHist{}
		s.hists[key] = h
	}
	h.n++
	h.sum += v
}

// simClient is what the driver keeps of a runner; it is memory only.
type simClient struct {
	polled   int64
	active   bool
	listed   Listed
	busy     bool // a reading is under way
	pollAt   int64
	walkAt   int64
	hinted   bool
	gone     bool // 404
	describe bool
}

type simReading struct {
	r       *modelRunner
	c       *simClient
	reading Reading
	walk    bool
	running []gitlab.Job // of a list of running jobs that is not read to its end
}

type simItem struct {
	at int64
	r  *modelRunner
}
type simHeap []simItem

func (h simHeap) Len() int           { return len(h) }
func (h simHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h simHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *simHeap) Push(x any)        { *h = append(*h, x.(simItem)) }
func (h *simHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

func newSim(t *testing.T, seed uint64, jobs int) *sim {
	t.Helper()
	s := &sim{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: simStart,
		byID:     map[int64]*modelRunner{},
		lookback: 24 * time.Hour, disk: map[string][]byte{},
		shown: map[string]float64{},
		want:  simTotals{map[string]float64{}, map[string]*simHist{}},
	}
	n := max(150, jobs/500)
	s.limit = max(2000, jobs/100)
	s.perMin = float64(n) * *simRate
	s.makeWorld(n, jobs)
	s.cur.since = map[int64]int64{}
	s.dur = s.cur.clone()
	return s
}

// makeWorld makes runners from idle to 3,000 jobs an hour (at a million jobs)
// and all that will ever happen to their jobs.
func (s *sim) makeWorld(n, jobs int) {
	const types = snapshot.NumRunnerTypes
	begin, end := simStart-simHistory, simStart+simSpan
	var weight float64
	for i := range n {
		if i%10 != 9 {
			weight += 1 / float64(i+1)
		}
	}
	perHour := float64(jobs) / (float64(simSpan) / float64(hour)) * 1.12 / weight
	ids := s.rng.Perm(n)
	for i := range n {
		r := &modelRunner{id: int64(100 + ids[i]), kind: snapshot.RunnerType(s.rng.IntN(types)), rate: perHour / float64(i+1)}
		if i%10 == 9 {
			r.rate = 0 // idle
		}
		for range 1 + s.rng.IntN(3) {
			r.tags = append(r.tags, fmt.Sprintf("tag-%d", s.rng.IntN(40)))
		}
		slices.Sort(r.tags)
		r.tags = slices.Compact(r.tags)
		r.appears = begin
		switch k := i % 50; {
		case i < 3:
		case k == 7 || k == 23: // a new runner: above every id there is
			r.appears = simStart + s.rng.Int64N(simSpan)
		case k == 11: // comes into scope later, with a history
			r.appears = -(simStart + s.rng.Int64N(simSpan))
		case k == 31 || k == 13:
			r.leaves = simStart + s.rng.Int64N(simSpan)
		}
		s.runners = append(s.runners, r)
		s.byID[r.id] = r
	}
	// Newly created runners have the highest ids, in the order of their creation.
	fresh := slices.DeleteFunc(slices.Clone(s.runners), func(r *modelRunner) bool { return r.appears <= simStart })
	slices.SortFunc(fresh, func(a, b *modelRunner) int { return int(a.appears - b.appears) })
	for i, r := range fresh {
		delete(s.byID, r.id)
		r.id = int64(1_000_000 + i)
	}
	for _, r := range fresh {
		s.byID[r.id] = r
	}
	for _, r := range s.runners {
		at := float64(max(begin, r.appears))
		if r.appears < 0 {
			at = float64(begin)
			r.appears = -r.appears
		}
		stop := end
		if r.leaves != 0 {
			stop = min(stop, r.leaves)
		}
		for r.rate > 0 {
			at += s.rng.ExpFloat64() * float64(hour) / r.rate
			if int64(at) >= stop {
				break
			}
			s.jobs = append(s.jobs, newModelJob(s.rng, r, int64(at)))
		}
	}
	// Whole pipelines go at once: a runner's rows of some hours.
	for range 20 {
		r := s.runners[s.rng.IntN(len(s.runners)/10)]
		at := simStart + s.rng.Int64N(simSpan)
		for _, j := range s.jobs {
			if j.runner == r && j.end < at-2*hour && j.end > at-12*hour && j.deleted == 0 && s.rng.IntN(3) == 0 {
				j.deleted = at
			}
		}
	}
	// Ids are nearly in the order of creation.
	order := slices.Clone(s.jobs)
	key := make(map[*modelJob]int64, len(order))
	for _, j := range order {
		k := j.created + s.rng.Int64N(2*minute)
		if s.rng.IntN(200) == 0 {
			k += s.rng.Int64N(8 * minute) // a long transaction
		}
		key[j] = k
	}
	slices.SortFunc(order, func(a, b *modelJob) int { return int(key[a] - key[b]) })
	for i, j := range order {
		j.id = simFirstID + 3*int64(i)
		if j.deleted != 0 {
			s.deaths = append(s.deaths, j)
		}
	}
	s.ids = order
	slices.SortFunc(s.jobs, func(a, b *modelJob) int { return int(a.pickup - b.pickup) })
	slices.SortFunc(s.deaths, func(a, b *modelJob) int { return int(a.deleted - b.deleted) })
	s.world(simStart)
}

func (s *sim) job(id int64) *modelJob { return s.ids[(id-simFirstID)/3] }

// world lets GitLab's time pass.
func (s *sim) world(to int64) {
	s.now = max(s.now, to)
	for ; s.next < len(s.jobs) && s.jobs[s.next].pickup <= s.now; s.next++ {
		j := s.jobs[s.next]
		j.runner.start(j)
	}
	for ; s.nextDie < len(s.deaths) && s.deaths[s.nextDie].deleted <= s.now; s.nextDie++ {
		j := s.deaths[s.nextDie]
		j.runner.died = append(j.runner.died, j.deleted)
	}
}

// view is the moment that an answer shows: three of ten come from a replica.
func (s *sim) view() int64 {
	if s.rng.IntN(10) < 3 {
		return s.now - s.rng.Int64N(minute)
	}
	return s.now
}

// clock is what the driver takes for now: each answer's Date goes through Advance.
func (s *sim) clock() time.Time {
	date := s.now + s.rng.Int64N(6001) - 3000 // nodes disagree
	switch s.rng.IntN(100_000) {
	case 0:
		date += 10 * 24 * hour
	case 1:
		date -= 3 * 24 * hour
	}
	return s.l.Advance(time.UnixMilli(date/1000*1000), time.UnixMilli(s.now+700))
}

// failing reports whether a request fails. The clock moves by each request.
func (s *sim) request() (ok bool) {
	s.requests++
	per := s.perMin
	for _, w := range s.starved {
		if s.now >= w.from && s.now < w.to {
			per *= 0.35
		}
	}
	s.world(s.now + max(1, int64(float64(minute)/per*(0.5+s.rng.Float64()))))
	return s.rng.IntN(50) != 0
}

func (s *sim) open() {
	s.l = New(Options{Lookback: s.lookback})
	for k, v := range s.disk {
		handled, err := s.l.Load([]byte(k), v)
		if err != nil || !handled {
			s.t.Fatalf("load %q: %v %v", k, handled, err)
		}
	}
	if err := s.l.Finish(); err != nil {
		s.t.Fatalf("finish: %v", err)
	}
	s.clients = map[int64]*simClient{}
	s.polls, s.walks, s.flight = nil, nil, nil
	s.listDue = s.now
	s.missing = map[int64]int{}
	s.unsaved, s.finals = nil, nil
	s.cur, s.relisted = s.dur.clone(), false
	// Details are kept in the state, so the driver passes them first.
	for id := range s.cur.since {
		s.l.Describe(id, s.byID[id].tags)
	}
}

// write puts a batch on the disk and notes what must be true from now on.
func (s *sim) write(b *Batch) {
	s.batches++
	for _, r := range b.Records {
		s.records++
		if r.Value == nil {
			delete(s.disk, string(r.Key))
		} else {
			s.disk[string(r.Key)] = r.Value
		}
	}
	for _, j := range s.unsaved {
		if !j.seen && !j.counted {
			j.seen = true
			s.queued(j)
		}
	}
	for _, j := range s.finals {
		j.served = true
	}
	for _, d := range b.settled {
		j := s.job(d.id)
		if j.counted {
			s.twice++
			s.t.Errorf("job %d was counted twice", j.id)
			continue
		}
		if !j.seen {
			s.queued(j)
		}
		j.counted, j.countedAt = true, s.now
		class, reason := snapshot.NoFailure, ""
		if j.status == snapshot.Failed {
			r := snapshot.ParseFailureReason(j.reason)
			class, reason = r.Class(), r.String()
		}
		kind, status := j.runner.kind.String(), j.status.String()
		s.want.finished["type|"+kind+"|"+status+"|"+class.String()+"|"+reason]++
		s.want.finished[fmt.Sprintf("runner|%d|%s|%s", j.runner.id, status, class)]++
		for _, tag := range j.runner.tags {
			s.want.finished["tag|"+tag+"|"+status+"|"+class.String()]++
		}
		if !j.noStarted && !j.noFinished {
			s.want.observe("duration|"+kind+"|"+status, float64(j.end-j.pickup)/1000)
		}
	}
	s.unsaved, s.finals = s.unsaved[:0], s.finals[:0]
	if s.relisted {
		s.relisted, s.dur = false, s.cur.clone()
	}
}

// queued notes that a job's time in the queue must have been observed, once.
func (s *sim) queued(j *modelJob) {
	if j.queued < 0 || j.noStarted || j.pickup < s.cur.since[j.runner.id] {
		return
	}
	s.want.observe("queued|"+j.runner.kind.String(), j.queued)
	for _, tag := range j.runner.tags {
		s.want.observe("tagqueued|"+tag, j.queued)
	}
}

func (s *sim) commit() bool {
	b := s.l.Batch()
	if b == nil {
		return true
	}
	for _, w := range s.badWindow {
		if s.now >= w.from && s.now < w.to {
			s.failedCommits++
			s.l.Failed(b)
			return false
		}
	}
	s.write(b)
	s.l.Committed(b)
	return true
}

func (s *sim) listing() {
	s.listDue = s.now + minute
	for range max(1, len(s.runners)/100) {
		if !s.request() {
			return // a partial listing proves nothing
		}
	}
	start := s.clock()
	if !s.l.Begun() {
		s.l.Begin(start)
		s.t0 = ms(start)
		if !s.commit() {
			s.t.Fatal("the start was not committed")
		}
	}
	var members []Member
	view := s.view()
	hidden := -1
	if s.rng.IntN(20) == 0 {
		hidden = s.rng.IntN(len(s.runners)) // a row shifted between two pages
	}
	first := s.cur.last == 0
	top := s.cur.top
	for i, r := range s.runners {
		if r.appears > view || (r.leaves != 0 && r.leaves <= view) || i == hidden {
			if _, listed := s.cur.since[r.id]; listed {
				if s.missing[r.id]++; s.missing[r.id] == 2 {
					s.l.Leave(r.id, start)
				}
			}
			continue
		}
		delete(s.missing, r.id)
		members = append(members, Member{ID: r.id, Type: r.kind})
		if _, listed := s.cur.since[r.id]; !listed {
			s.cur.since[r.id] = s.cur.last
			if first || r.id > top {
				s.cur.since[r.id] = s.t0
			}
		}
		s.cur.top = max(s.cur.top, r.id)
	}
	s.cur.last = max(s.cur.last, ms(start))
	s.relisted = true
	s.l.Listed(members, "instance", start)
	s.l.Works(true)
	for _, m := range members {
		r := s.byID[m.ID]
		c := s.client(r)
		if !c.describe {
			c.describe = true
			s.l.Describe(r.id, r.tags)
		}
		n := r.executing(view)
		c.active, c.listed = n > 0, Listed{Idle: n == 0, Executing: -1, At: start}
		if r.id%2 == 0 {
			c.listed.Executing = n // as GraphQL counts it
		}
		if c.active {
			s.schedule(r, c, c.polled+minute)
		}
	}
	for _, id := range s.l.LeftWithWatch() {
		r := s.byID[id]
		c := s.client(r)
		s.schedule(r, c, c.polled+minute)
	}
}

func (s *sim) client(r *modelRunner) *simClient {
	c := s.clients[r.id]
	if c == nil {
		c = &simClient{pollAt: math.MaxInt64}
		if read := ms(s.l.ReadAt(r.id)); read != 0 {
			c.polled = s.now - 5*minute // after a restart each is read soon
		}
		s.clients[r.id] = c
		s.schedule(r, c, s.now)
		s.planWalk(r, c)
	}
	return c
}

// schedule makes a poll due, unless one is due before.
func (s *sim) schedule(r *modelRunner, c *simClient, at int64) {
	if at < c.pollAt {
		c.pollAt = at
		heap.Push(&s.polls, simItem{at, r})
	}
}

func (s *sim) planWalk(r *modelRunner, c *simClient) {
	c.walkAt = ms(s.l.Deep(r.id)) + hour
	heap.Push(&s.walks, simItem{c.walkAt, r})
}

func (s *sim) interval(r *modelRunner, c *simClient) int64 {
	if c.active || s.l.Watched(r.id) > 0 {
		return minute
	}
	last := ms(s.l.LastFinished(r.id))
	return min(max((s.now-last)/4, minute), 5*minute)
}

// pick begins the reading that the budget allows next.
func (s *sim) pick() *simReading {
	s.starts++
	take := func(h *simHeap, due func(c *simClient) int64, before int64) *simReading {
		var later []simItem
		defer func() {
			for _, i := range later {
				heap.Push(h, i)
			}
		}()
		for h.Len() > 0 && (*h)[0].at <= before {
			i := heap.Pop(h).(simItem)
			c := s.clients[i.r.id]
			if due(c) != i.at {
				continue // planned anew
			}
			if c.busy {
				i.at += 5 * second
				if h == &s.polls {
					c.pollAt = i.at
				} else {
					c.walkAt = i.at
				}
				later = append(later, i)
				continue
			}
			return &simReading{r: i.r, c: c}
		}
		return nil
	}
	walkDue := func(c *simClient) int64 { return c.walkAt }
	pollDue := func(c *simClient) int64 { return c.pollAt }
	walk := func(before int64) *simReading {
		x := take(&s.walks, walkDue, before)
		if x == nil {
			return nil
		}
		if s.l.runners[x.r.id].leftAt != 0 || x.c.gone {
			return nil // nothing to read; planned again if it returns
		}
		if !x.c.hinted && ms(s.l.Deep(x.r.id))+hour > s.now {
			s.planWalk(x.r, x.c) // a poll has reached the bottom since
			return nil
		}
		x.c.hinted = false
		s.walk(x)
		return x
	}
	x := walk(s.now - s.lookback.Milliseconds()/4 + hour) // overdue
	if x == nil && s.starts%10 == 0 {
		x = walk(s.now)
	}
	if x == nil {
		if x = take(&s.polls, pollDue, s.now); x != nil {
			x.c.pollAt = math.MaxInt64
			// Each number of executing jobs is good for one reading.
			x.reading = s.l.Poll(x.r.id, s.clock(), time.UnixMilli(s.now), x.c.listed, time.Hour)
			x.c.listed.Executing = -1
		}
	}
	if x == nil {
		x = walk(s.now)
	}
	if x != nil {
		x.c.busy = true
	}
	return x
}

// walk begins a page of a walk.
func (s *sim) walk(x *simReading) {
	x.reading, x.walk = s.l.Walk(x.r.id, s.clock(), time.UnixMilli(s.now)), true
}

func (s *sim) delivered(jobs []gitlab.Job) {
	for i := range jobs {
		j := s.job(jobs[i].ID)
		switch {
		case executing(jobs[i].Status):
			if !j.seen && !j.counted {
				s.unsaved = append(s.unsaved, j)
			}
		case !j.served:
			s.finals = append(s.finals, j)
		}
	}
}

// step does one request of a reading and reports whether it is over.
func (s *sim) step(x *simReading) (over bool) {
	q, more := x.reading.Next()
	if !more {
		return s.end(x)
	}
	ok := s.request()
	x.r.tidy(s.now)
	if x.walk {
		s.walkPages++
	}
	x.reading.Take(s.answer(x, q, ok))
	return false
}

// answer is what GitLab answers; ok is false where the request fails.
func (s *sim) answer(x *simReading, q Request, ok bool) (a Answer, err error) {
	r, view := x.r, s.view()
	notFound := &gitlab.Error{Reason: gitlab.ReasonNotFound}
	if q.OneJob() {
		j := s.job(q.Job.Job)
		if q.Job.Project != 1+j.id%97 {
			s.t.Fatalf("job %d was asked for in project %d", j.id, q.Job.Project)
		}
		switch {
		case !ok:
			return a, &gitlab.Error{Reason: gitlab.ReasonServerError}
		case !j.visible(view):
			return a, notFound
		}
		a.Job = j.row(view)
		s.delivered([]gitlab.Job{a.Job})
		return a, nil
	}
	switch {
	case r.leaves != 0 && r.leaves <= view:
		return a, notFound
	case !ok:
		return a, &gitlab.Error{Reason: gitlab.ReasonServerError}
	}
	keyset := s.now < s.nokeyset.from || s.now >= s.nokeyset.to
	if q.Page.Keyset && !keyset {
		q.Page.Keyset, q.Page.Cursor = false, "" // it ignores what it does not know
	}
	a.Page = r.answer(q.Page, view, s.limit, s.buf)
	s.buf = a.Page.Jobs
	if q.Page.Status == "" {
		s.delivered(a.Page.Jobs)
		return a, nil
	}
	// A list of running jobs is folded as a whole.
	if q.Page.Page == 1 {
		x.running = x.running[:0]
	}
	if x.running = append(x.running, a.Page.Jobs...); a.Page.Next == 0 {
		s.delivered(x.running)
	}
	return a, nil
}

// end ends a reading and plans the next one.
func (s *sim) end(x *simReading) (over bool) {
	c, o := x.c, x.reading.End()
	c.gone = o.Gone
	if x.walk {
		if !o.Gone && !o.Deep {
			s.walk(x) // the next page, or the same again
			return false
		}
		if o.Deep {
			s.planWalk(x.r, c)
		}
		return true
	}
	c.polled = s.now
	if s.l.WalkWanted(x.r.id) && !s.l.Walking(x.r.id) && !c.hinted {
		c.walkAt, c.hinted = s.now, true
		heap.Push(&s.walks, simItem{s.now, x.r})
	}
	if c.gone {
		c.active = false
		if s.l.Watched(x.r.id) == 0 {
			return true // never again, unless a listing shows it
		}
	}
	at := s.now + s.interval(x.r, c)
	if o.Err != nil && !c.gone {
		at = s.now + 15*second
	}
	s.schedule(x.r, c, at)
	return true
}

// publish checks that nothing that is shown ever goes back.
func (s *sim) publish() {
	s.gen++
	c := s.l.Counters(s.gen, time.UnixMilli(s.now), true, func(int64) bool { return true })
	if c == nil {
		return
	}
	back := func(key string, v float64) {
		if v < s.shown[key] {
			s.t.Errorf("%s went back from %v to %v", key, s.shown[key], v)
		}
		s.shown[key] = v
	}
	flat(c, back)
	recovered, unresolved := s.l.Totals()
	back("recovered", float64(recovered))
	for i, n := range unresolved {
		back("unresolved"+snapshot.UnresolvedReason(i).String(), float64(n))
	}
	if s.gen%3 != 0 { // some pictures are never read by a scrape
		s.l.Served(s.gen, s.gen, time.UnixMilli(s.now))
	}
}

// flat visits every sample of c.
func flat(c *snapshot.Counters, f func(key string, v float64)) {
	for _, x := range c.JobsFinished {
		f("type|"+strings.Join(x.Labels, "|"), x.Value)
	}
	for _, x := range c.TagJobsFinished {
		f("tag|"+strings.Join(x.Labels, "|"), x.Value)
	}
	for _, x := range c.Runners {
		f(fmt.Sprintf("runner|%d|%s|%s", x.ID, x.Status, x.Class), x.Value)
	}
	hists := func(name string, hs []snapshot.Histogram) {
		for _, h := range hs {
			key := name + strings.Join(h.Labels, "|")
			var n uint64
			for b, v := range h.Buckets {
				n += v
				f(fmt.Sprintf("bucket %d %s", b, key), float64(v))
			}
			f("count "+key, float64(n))
			f("sum "+key, h.Sum)
		}
	}
	hists("duration|", c.JobDuration)
	hists("queued|", c.JobQueued)
	hists("tagqueued|", c.TagJobQueued)
}

// stop ends the process: asked to, or killed at a point of the commit.
func (s *sim) stop(kind int) (down int64) {
	down = 2*second + s.rng.Int64N(8*minute)
	switch kind {
	case 0: // asked to
		s.stops++
		s.commit()
	case 1: // kill -9: what is in memory is gone
		s.kills++
	case 2: // kill -9 before the transaction
		s.kills++
		s.l.Batch()
	case 3: // kill -9 between the transaction and its acknowledgement
		s.kills++
		if b := s.l.Batch(); b != nil {
			s.write(b)
		}
	case 4: // asked to, for long
		s.stops++
		s.commit()
		down = 3 * hour
	}
	return down
}

func TestSimulationCountsEachJobOnce(t *testing.T) {
	seed := seedOf()
	began := time.Now()
	jobs := *simJobs
	if jobs == 0 {
		jobs = rig.Sized(50_000, 12_000)
	}
	s := newSim(t, seed, jobs)
	t.Logf("seed %d: %d runners, %d jobs, made in %v", seed, len(s.runners), len(s.jobs), time.Since(began).Round(time.Millisecond))
	s.run()
	s.judge(seed, time.Since(began))
}

func (s *sim) run() {
	type event struct {
		at   int64
		kind int
	}
	var events []event
	for i := range 25 {
		kind := 0
		switch {
		case i < 4:
			kind = 1
		case i < 7:
			kind = 2
		case i < 10:
			kind = 3
		case i < 12:
			kind = 4
		}
		events = append(events, event{simStart + 30*minute + s.rng.Int64N(simSpan-hour), kind})
	}
	slices.SortFunc(events, func(a, b event) int { return int(a.at - b.at) })
	at := func(h int64) int64 { return simStart + h*hour + s.rng.Int64N(hour) }
	for _, h := range []int64{5, 27} {
		from := at(h)
		s.starved = append(s.starved, window{from, from + 2*hour})
	}
	for _, h := range []int64{3, 18, 33} { // disk full
		from := at(h)
		s.badWindow = append(s.badWindow, window{from, from + 5*minute})
	}
	s.nokeyset.from = at(12)
	s.nokeyset.to = s.nokeyset.from + 3*hour
	upgraded := false // to a release that pages by keyset
	raise := at(30)

	s.open()
	var troubles []window
	nextSecond, nextPublish, nextForget, nextMinute := s.now, s.now, s.now, s.now
	backoff := int64(0)
	stop := simStart + simSpan + simDrain
	for s.now < stop {
		if len(events) > 0 && s.now >= events[0].at {
			down := s.stop(events[0].kind)
			events = events[1:]
			troubles = append(troubles, window{s.now, s.now + down})
			s.world(s.now + down)
			s.open()
			s.publish() // as saved, before GitLab was asked
		}
		if !upgraded && s.now >= s.nokeyset.to {
			upgraded = true
			s.l.Upgraded()
		}
		if raise != 0 && s.now >= raise {
			raise = 0
			s.lookback = 36 * time.Hour
			s.l.opts.Lookback = s.lookback // a reload
		}
		if s.now >= nextSecond {
			nextSecond = s.now + second
			if s.now >= backoff && !s.commit() {
				backoff = s.now + 10*second
			}
		}
		if s.now >= nextMinute {
			nextMinute = s.now + minute
			s.retag()
			s.l.Delays()
		}
		if s.now >= nextPublish {
			nextPublish = s.now + 2*minute
			s.publish()
		}
		if s.now >= nextForget {
			nextForget = s.now + 10*minute
			s.l.Forget(time.UnixMilli(s.now))
		}
		if s.now >= s.listDue {
			s.listing()
			continue
		}
		for len(s.flight) < simFlight {
			x := s.pick()
			if x == nil {
				break
			}
			s.flight = append(s.flight, x)
		}
		if len(s.flight) == 0 {
			to := min(nextSecond, s.listDue)
			s.world(max(s.now+1, to))
			continue
		}
		s.turn = (s.turn + 1) % len(s.flight)
		if x := s.flight[s.turn]; s.step(x) {
			x.c.busy = false
			s.flight = slices.Delete(s.flight, s.turn, s.turn+1)
		}
	}
	for !s.commit() {
		s.world(s.now + 10*second)
	}
	// Every series was read at 0 by now.
	s.publish()
	s.l.Served(s.gen, s.gen, time.UnixMilli(s.now))
	s.commit()
	s.publish()
	s.runMS = s.now - simStart
	s.badWindow = append(s.badWindow, troubles...)
}

// retag changes the tags of some runner, after all it finished so far is on
// disk: so the truth shows under which tags a job was counted.
func (s *sim) retag() {
	if s.rng.IntN(10) != 0 {
		return
	}
	r := s.runners[s.rng.IntN(len(s.runners))]
	if _, listed := s.cur.since[r.id]; !listed || !s.commit() {
		return
	}
	r.tags = []string{fmt.Sprintf("tag-%d", s.rng.IntN(40))}
	s.l.Describe(r.id, r.tags)
}

// judge compares what was counted with what happened.
func (s *sim) judge(seed uint64, took time.Duration) {
	t := s.t
	allowed := (s.lookback / 4).Milliseconds() + hour
	var delays, steady []int64
	finished, lateSteady := 0, 0
	missed := map[string]int{}
	var deletedSeen uint64
	for _, j := range s.jobs {
		since, listed := s.dur.since[j.runner.id]
		if j.counted {
			finished++
			if !j.seen && j.endStamp() < since {
				t.Errorf("job %d ended before it could count, and was counted", j.id)
			}
			if j.end < s.t0 {
				continue
			}
			late := j.countedAt - j.end
			delays = append(delays, late)
			if !s.troubled(j.end) {
				steady = append(steady, late)
				if late > 15*minute {
					lateSteady++
				}
			}
			continue
		}
		if j.seen && j.deleted == 0 {
			t.Errorf("job %d was seen executing and is not counted", j.id)
		}
		if j.seen {
			deletedSeen++
		}
		if j.endStamp() < since && !j.seen {
			continue // history
		}
		finished++
		gone := j.runner.leaves
		switch {
		case j.served:
			t.Errorf("job %d was read as finished and is not counted", j.id)
		case j.deleted != 0 && j.deleted < j.end+allowed:
			missed["deleted before it was read"]++
		case !listed:
			missed["its runner was never listed"]++
		case gone != 0 && gone < j.end+allowed && !j.seen:
			missed["its runner was deleted before it was read"]++
		default:
			missed["lost"]++
			t.Errorf("lost: job %d of runner %d, created %v, picked up %v, ended %v, deleted %v, runner's since %v",
				j.id, j.runner.id, rel(j.created), rel(j.pickup), rel(j.end), rel(j.deleted), rel(since))
		}
	}

	// Counters against the truth of each counted job. Runners that left have no series.
	got := map[string]float64{}
	flat(s.l.Counters(s.gen+1, time.UnixMilli(s.now), true, func(int64) bool { return true }), func(k string, v float64) { got[k] = v })
	for k, v := range s.want.finished {
		g := got[k]
		if strings.HasPrefix(k, "runner|") {
			g = s.runnerCount(k)
		}
		if g != v {
			t.Errorf("%s: %v, truth %v", k, g, v)
		}
	}
	for k, v := range got {
		if v != 0 && s.want.finished[k] == 0 && (strings.HasPrefix(k, "type|") || strings.HasPrefix(k, "tag|") || strings.HasPrefix(k, "runner|")) {
			t.Errorf("%s: %v, truth 0", k, v)
		}
	}
	for k, h := range s.want.hists {
		if n := got["count "+k]; n != float64(h.n) {
			t.Errorf("%s: %v observations, truth %v", k, n, h.n)
		}
		if sum := got["sum "+k]; math.Abs(sum-h.sum) > 1e-6*math.Max(1, h.sum) {
			t.Errorf("%s: sum %v, truth %v", k, sum, h.sum)
		}
	}
	recovered, unresolved := s.l.Totals()
	if unresolved[snapshot.UnresolvedDeleted] != deletedSeen {
		t.Errorf("unresolved deleted: %d, truth %d", unresolved[snapshot.UnresolvedDeleted], deletedSeen)
	}
	for _, r := range []snapshot.UnresolvedReason{snapshot.UnresolvedRunnerGone, snapshot.UnresolvedForbidden, snapshot.UnresolvedTooOld} {
		if unresolved[r] != 0 {
			t.Errorf("unresolved %s: %d", r, unresolved[r])
		}
	}
	if len(s.l.watch) != 0 {
		t.Errorf("%d jobs are still watched", len(s.l.watch))
	}
	if share := float64(lateSteady) / float64(max(1, len(steady))); share > 0.01 {
		t.Errorf("in steady state %.2f %% of the jobs were counted later than 15 min after their end", 100*share)
	}
	if finished < *simJobs {
		t.Errorf("only %d jobs finished", finished)
	}
	var disk int
	for k, v := range s.disk {
		disk += len(k) + len(v)
	}
	minutes := float64(s.runMS) / float64(minute)
	t.Logf("seed %d, %d runners, %d jobs finished, %.1f h simulated in %v (%d CPU)", seed, len(s.runners), finished, minutes/60, took.Round(time.Second), runtime.GOMAXPROCS(0))
	t.Logf("requests: %.0f a minute (budget %.0f), %.1f %% of them for walks", float64(s.requests)/minutes, s.perMin, 100*float64(s.walkPages)/float64(s.requests))
	t.Logf("delay: p50 %v, p90 %v, p99 %v; in steady state p50 %v, p90 %v, p99 %v, later than 15 min %.2f %%",
		quantile(delays, 0.5), quantile(delays, 0.9), quantile(delays, 0.99),
		quantile(steady, 0.5), quantile(steady, 0.9), quantile(steady, 0.99), 100*float64(lateSteady)/float64(max(1, len(steady))))
	why, _ := json.Marshal(missed)
	t.Logf("lost %d, twice %d; could not be counted: %s, unresolved deleted %d; recovered by a walk %d", missed["lost"], s.twice, why, unresolved[0], recovered)
	t.Logf("%d kills, %d stops, %d failed commits, %d commits, %.1f records a second", s.kills, s.stops, s.failedCommits, s.batches, float64(s.records)/(minutes*60))
	t.Logf("state on disk: %d bytes in %d records, %.1f a settled id; %.1f bytes of memory a settled id",
		disk, len(s.disk), float64(chunkBytes(s.disk))/float64(max(1, len(s.l.settled))), settledMemory(len(s.l.settled), 16))
}

func chunkBytes(disk map[string][]byte) (n int) {
	for k, v := range disk {
		if strings.HasPrefix(k, prefixDone) {
			n += len(k) + len(v)
		}
	}
	return n
}

// settledMemory is the heap that a settled id takes, settled per at a time.
func settledMemory(n, per int) float64 {
	if n == 0 {
		return 0
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	l := New(Options{})
	for id := int64(0); id < int64(n); {
		c := chunk{ids: make([]int64, 0, per)}
		for range per {
			c.ids = append(c.ids, id)
			l.settled[id] = struct{}{}
			id++
		}
		l.chunks = append(l.chunks, c)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(l)
	return float64(after.HeapAlloc-before.HeapAlloc) / float64(n)
}

// runnerCount is a runner's counter, also of one that left.
func (s *sim) runnerCount(key string) float64 {
	p := strings.Split(key, "|")
	id, _ := strconv.ParseInt(p[1], 10, 64)
	r := s.l.runners[id]
	if r == nil || r.finished == nil {
		return 0
	}
	for i, n := range r.finished.shown.counts {
		if status, class := countLabels(i); status.String() == p[2] && class.String() == p[3] {
			return float64(n)
		}
	}
	return 0
}

// troubled reports whether a job that ended at end had to wait for reasons that
// are not the algorithm's: the exporter was down, starved, or could not write.
func (s *sim) troubled(end int64) bool {
	for _, w := range s.badWindow {
		if end > w.from-15*minute && end < w.to+hour/2 {
			return true
		}
	}
	for _, w := range s.starved {
		if end > w.from-15*minute && end < w.to+hour {
			return true
		}
	}
	return false
}

func rel(at int64) time.Duration { return time.Duration(at-simStart) * time.Millisecond }

func quantile(v []int64, q float64) time.Duration {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return (time.Duration(v[int(q*float64(len(v)-1))]) * time.Millisecond).Round(time.Second)
}
