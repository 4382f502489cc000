// Package gitlabsim is a simulated GitLab with ground truth: a world of runners,
// machines and jobs that follows GitLab's rules, GitLab's REST API for reading it
// (an http.Handler and an in-process RoundTripper), methods that change it as an
// administrator would, scripted faults, and the truth that a monitor of that
// GitLab has to find out through the API. The tests of the other packages and
// --demo use it. Numbers such as "docs/gitlab-api.md 3.3" are sections of the project's notes
// on GitLab's Runner API.
//
// Everything the API shows is a function of the world and of a time. The world
// changes by events (a pipeline is created, a job is picked, a machine fails),
// which are processed up to the clock's time at each request and each method call.
package gitlabsim

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// Times inside the world are milliseconds since the Unix epoch, GitLab's own
// resolution in JSON; 0 means "not yet" or "never".
const (
	second int64 = 1000
	minute       = 60 * second
	hour         = 60 * minute
	day          = 24 * hour
)

// World is a simulated GitLab. All its methods may be called from any
// goroutine; each first brings the world up to the clock.
type World struct {
	quiet bool // Quiesce: no more pipelines
	mu    sync.Mutex
	opt   Options
	f     features
	rng   *rand.Rand // used by events only, so that requests do not change the world's course
	now   int64

	events []event
	seq    uint64

	runners    map[int64]*runner
	order      []*runner // living ones, by id
	byAge      []*runner // the same, the oldest first
	graveyard  []*runner // deleted ones
	all        []*runner // by idx, deleted ones included
	machines   []*manager
	lastRunner int64

	pickDirty bool
	peers     map[peerKey][]*runner // nil: to be made anew
	pickable  []*runner
	pickSum   []float64 // running sum of the weights of pickable
	byTag     map[string][]*runner

	groups   []*group
	projects []*project
	paths    map[string]any

	jobs       jobStore
	open       []int32 // jobs that may wait for a runner, by id: see waiting
	opened     int     // jobs that were considered for open
	lastJob    int64
	pipelines  []pipeline
	lastPipe   int64
	finished   []int32 // jobs in the order of their end, unattributed ones excluded
	names      []jobName
	nameIndex  map[jobName]uint16
	tagsets    [][]string
	tagIndex   map[string]uint16
	reasons    []string
	reasonIdx  map[string]uint8
	reasonName []string
	reasonSum  []float64
	noRunner   int // jobs that no runner ever picked

	users      []*user
	tokens     map[string]*token
	lastToken  int64
	flushedAt  int64 // when the Redis cache was last lost
	graphql    GraphQLHandler
	routes     map[route]handler
	faults     []*fault
	faultRng   *rand.Rand
	counts     map[string]int
	byStatus   map[int]int
	log        []LogEntry
	logNext    int
	requestSeq uint64

	dailyOff    []*runner
	dailyPaused []*runner
	flapper     *runner
}

// New makes a world with the given options and runs it for Options.History.
func New(o Options) *World {
	o = o.withDefaults()
	w := &World{
		opt:       o,
		f:         parseFeatures(o.Version),
		rng:       rand.New(rand.NewPCG(o.Seed, 0x5eed)),
		faultRng:  rand.New(rand.NewPCG(o.Seed, 0xfa17)),
		runners:   map[int64]*runner{},
		paths:     map[string]any{},
		nameIndex: map[jobName]uint16{},
		tagIndex:  map[string]uint16{},
		reasonIdx: map[string]uint8{},
		tokens:    map[string]*token{},
		counts:    map[string]int{},
		byStatus:  map[int]int{},
		lastJob:   1_000_000,
		lastPipe:  200_000,
	}
	end := o.Now().UnixMilli()
	w.now = end - o.History.Milliseconds()
	w.routes = w.makeRoutes()
	w.reason("")
	w.tagset(nil)
	w.addUsers()
	if o.Token != "" {
		w.addToken(TokenSpec{Token: o.Token, Name: "exporter", Username: "root", Admin: true, Everything: true, Scopes: []string{"read_api"}})
	}
	w.shapeReasons()
	w.addFleet()
	w.push(w.now+hour, evCleanup, 0)
	if o.JobsPerHour > 0 {
		w.push(w.now+w.nextPipelineIn(), evPipeline, 0)
	}
	if o.Daily {
		w.startDaily()
	}
	w.catchUp(end)
	return w
}

// lock locks the world for one request or change and brings it up to the clock.
func (w *World) lock() {
	w.mu.Lock()
	w.catchUp(w.opt.Now().UnixMilli())
}

func (w *World) catchUp(to int64) {
	for len(w.events) > 0 && w.events[0].at <= to {
		e := w.pop()
		w.now = max(w.now, e.at)
		w.happen(e)
	}
	w.now = max(w.now, to)
}

type eventKind uint8

const (
	evPipeline eventKind = iota // the next pipeline is created
	evPick                      // a runner may pick the job
	evCancel                    // the job is canceled by a user
	evEnd                       // the job ends as planned
	evRetry                     // the job is run again
	evDelete                    // the pipeline is deleted
	evCleanup                   // GitLab's hourly worker removes stale managers
	evDaily                     // something happens in the fleet's daily life
	evFlap                      // the flapping runner turns
)

type event struct {
	at  int64
	seq uint64 // events of one moment happen in the order they were planned
	arg int32  // idx of a job, or of a pipeline
	knd eventKind
}

func (e event) before(o event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

func (w *World) push(at int64, k eventKind, arg int32) {
	w.seq++
	w.events = append(w.events, event{at: at, seq: w.seq, arg: arg, knd: k})
	i := len(w.events) - 1
	for i > 0 {
		p := (i - 1) / 2
		if !w.events[i].before(w.events[p]) {
			break
		}
		w.events[i], w.events[p] = w.events[p], w.events[i]
		i = p
	}
}

func (w *World) pop() event {
	top := w.events[0]
	n := len(w.events) - 1
	w.events[0] = w.events[n]
	w.events = w.events[:n]
	for i := 0; ; {
		c := 2*i + 1
		if c >= n {
			break
		}
		if c+1 < n && w.events[c+1].before(w.events[c]) {
			c++
		}
		if !w.events[c].before(w.events[i]) {
			break
		}
		w.events[i], w.events[c] = w.events[c], w.events[i]
		i = c
	}
	return top
}

func (w *World) happen(e event) {
	switch e.knd {
	case evPipeline:
		w.generate(e.at)
		w.push(e.at+w.nextPipelineIn(), evPipeline, 0)
	case evPick:
		w.tryPick(e.arg, e.at)
	case evCancel:
		w.cancel(e.arg, e.at)
	case evEnd:
		if j := w.jobs.at(e.arg); j.executing() && j.finished == e.at {
			w.end(e.arg, e.at)
		}
	case evRetry:
		w.retry(e.arg, e.at)
	case evDelete:
		w.deletePipeline(e.arg, e.at)
	case evCleanup:
		w.cleanManagers(e.at)
		w.push(e.at+hour, evCleanup, 0)
	case evDaily:
		w.daily(e.at)
	case evFlap:
		w.flap(e.at)
	}
}

// Now is the world's time: the clock's reading, never going back.
func (w *World) Now() time.Time {
	w.lock()
	defer w.mu.Unlock()
	return w.time(w.now)
}

func (w *World) time(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).In(w.opt.Location)
}

// GraphQLHandler answers POST and GET /api/graphql; caller is not known if the
// request carries no token that opens it. It is called without the world's lock.
type GraphQLHandler func(rw http.ResponseWriter, r *http.Request, caller Caller)

// SetGraphQL mounts GraphQL, which answers 404 until then: it is a package of
// its own so that a test that needs only REST does not link it.
func (w *World) SetGraphQL(h GraphQLHandler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.graphql = h
}

// FlushRedis loses GitLab's cache: contact times jump back to the database
// column, up to 55 minutes, until the next contact (docs/gitlab-api.md 3.3).
func (w *World) FlushRedis() {
	w.lock()
	defer w.mu.Unlock()
	w.flushedAt = w.now
}

// index narrows a row's number: rows are held in memory, so there are fewer
// than 2^31.
func index(n int) int32 { return int32(n) }

// hash is mix of an id, as a number in [0, n).
func hash(id, n int64) int64 {
	return int64(mix(uint64(id)) % uint64(max(n, 1)))
}

// mix is splitmix64: a stable number for an id, where a stored one would cost
// memory for each of a million jobs.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
