// Package queue finds out which jobs wait for a runner, in few requests. It is
// pure: no network, the clock as an argument. A reading returns requests (Next)
// and takes answers (Take); it sends nothing itself.
//
// GitLab lists the jobs that one runner could take (docs/gitlab-api.md 6.3, 10):
// by the runner's type and owner, protected refs, tags, and whether it takes
// untagged jobs. Runners that agree in those form a class, and one of them, the
// representative, stands for it, whatever its state: GitLab does not ask whether
// it is online, so that the queue of a pool that is wholly down is seen as well.
// locked is no part of a class, since it only bounds to which projects a runner
// may be added. Runners of one project count as serving the same projects.
//
// A reading begins with a survey: of each class the number of jobs and the ids
// of the newest. It ends there for an empty queue, and for a class whose number
// is explained by jobs that were read already, for this class or for another:
// their tags show which classes could take them. Only what is unexplained is read
// as rows, at most MaxRequests in all. What cannot be read within them makes the
// reading truncated: its numbers are lower bounds.
//
// Without the right to read a runner's jobs GitLab gives an empty list and no
// error. So an empty list counts only where the right is proved, by a job that
// was seen or by the permission; else the class is not part of the result, and
// where no class is, there is none.
package queue

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
)

// Bounds of the reading.
const (
	// MaxRequests is the most that one reading takes.
	MaxRequests = 5
	// surveyRows is the most newest ids that a class shows in the survey without
	// costing more of GitLab's complexity than one.
	surveyRows = 24
	// trusted is for how many readings the rows of a class stand whose number and
	// newest ids are as they were.
	trusted = 5
	// avoidFor is for how many readings another runner stands for a class whose
	// representative failed.
	avoidFor = 10
	// keepIntervals is for how many intervals a result is shown.
	keepIntervals = 3
	// maxSurveys is how many requests of a reading the survey may take. Of a fleet
	// with more classes than fit, the others stand as they were read last.
	maxSurveys = 3
	// rightsAtOnce is how many permissions one query looks up.
	rightsAtOnce = 60
)

// Runner is what matters of a runner whose details are known.
type Runner struct {
	ID          int64
	Type        string // instance_type, group_type, project_type
	Owner       string
	Tags        []string
	RunUntagged bool
	Protected   bool
	Available   bool // online and not paused
}

// Options of New.
type Options struct {
	Interval time.Duration
	// Projects are read by REST, one after the other, instead of classes.
	Projects []string
	// All also looks for jobs that are in no runner's list, in the list of all
	// jobs: for administrators, and expensive on a large instance.
	All bool
}

// Queue is what is known of the waiting jobs of one GitLab over its readings. It
// is not safe for concurrent use.
type Queue struct {
	opt     Options
	jobs    map[int64]*job
	classes map[string]*class
	proofs  map[owner]*proof
	round   int // of readings
	// waiting are the jobs that are proved to wait in this round, by their first tag.
	waiting map[place]map[string][]*job
	room    int // complexity of a query, where GitLab's limit is lower than usual; 0: usual

	all allJobs

	unsupported bool // this release has no cheap source

	result   *Result
	shown    shown
	registry registry
}

// owner is whose runners are meant: the right to read is the same for all.
type owner struct{ typ, path string }

// place is where jobs are offered: whether one belongs there is decided by its
// project and its ref, which only GitLab can decide.
type place struct {
	owner

	protected bool
}

// job is one that waits.
type job struct {
	id        int64
	tags      []string // sorted, unique
	tagsKnown bool
	queuedAt  time.Time
	places    map[place]bool // where it was seen
	seen      int            // the last round in which it was proved to wait
}

// class is a set of runners that are offered the same jobs.
type class struct {
	key      string
	place    place
	tags     []string // sorted, unique
	untagged bool

	representative int64
	available      bool // one of its runners is
	// avoided is a representative whose list failed: it was deleted or retagged
	// since its details were read. Another stands in for it until the round until.
	avoided int64
	until   int

	// Of the last complete reading.
	count  int
	newest []int64
	all    []int64 // ids
	readAt int     // round; 0: never
	pivots []span  // where its pages ended
}

// takes reports whether tags are no obstacle.
func (c *class) takes(j *job) bool { return fits(c.tags, c.untagged, j.tags) }

func fits(have []string, untagged bool, want []string) bool {
	if len(want) == 0 {
		return untagged
	}
	for _, t := range want {
		if _, ok := slices.BinarySearch(have, t); !ok {
			return false
		}
	}
	return true
}

// New makes an empty one.
func New(o Options) *Queue {
	return &Queue{opt: o, jobs: map[int64]*job{}, classes: map[string]*class{}, proofs: map[owner]*proof{}, shown: newShown()}
}

// Forget drops what depends on the token or on GitLab's release: proofs, and
// whether there is a source at all.
func (q *Queue) Forget() {
	clear(q.proofs)
	q.unsupported, q.room, q.result, q.all = false, 0, nil, allJobs{}
}

// Unsupported reports whether this release has no cheap source.
func (q *Queue) Unsupported() bool { return q.unsupported }

func sorted(tags []string) []string {
	out := slices.Clone(tags)
	slices.Sort(out)
	return slices.Compact(out)
}

// registry is the fleet of a reading.
type registry struct {
	tags    map[string]bool // carried by any runner
	classes []*class        // all, dominated ones included
	byPlace map[place][]*class
	read    []*class // those that are read
}

// register sorts the runners into classes. What is known of a class outlives a
// change of its runners.
func (q *Queue) register(runners []Runner) {
	reg := registry{tags: map[string]bool{}, byPlace: map[place][]*class{}}
	now, members := map[string]*class{}, map[*class][]Runner{}
	for _, r := range runners {
		at := place{owner{r.Type, r.Owner}, r.Protected}
		tags := sorted(r.Tags)
		for _, t := range tags {
			reg.tags[t] = true
		}
		key := strings.Join([]string{r.Type, r.Owner, yes(r.Protected), yes(r.RunUntagged), strings.Join(tags, "\x00")}, "\x01")
		c := now[key]
		if c == nil {
			if c = q.classes[key]; c == nil {
				c = &class{key: key, place: at, tags: tags, untagged: r.RunUntagged}
			}
			c.available = false
			now[key] = c
			reg.classes = append(reg.classes, c)
			reg.byPlace[at] = append(reg.byPlace[at], c)
		}
		c.available = c.available || r.Available
		members[c] = append(members[c], r)
	}
	q.classes = now
	for c, runners := range members {
		c.represent(runners, q.round)
	}
	for _, c := range reg.classes {
		if !slices.ContainsFunc(reg.byPlace[c.place], func(o *class) bool { return o.contains(c) }) {
			reg.read = append(reg.read, c)
		}
	}
	slices.SortFunc(reg.read, func(a, b *class) int { return cmp.Compare(a.key, b.key) })
	q.registry = reg
}

// represent chooses who stands for a class: of those available the lowest id, so
// that it does not change without need.
func (c *class) represent(runners []Runner, round int) {
	rank := func(r Runner) int {
		switch {
		case r.ID == c.avoided && round < c.until:
			return 2
		case !r.Available:
			return 1
		}
		return 0
	}
	c.representative = slices.MinFunc(runners, func(a, b Runner) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.ID, b.ID)) }).ID
}

// contains reports whether each job of o is offered to c too, so that o needs
// no reading: the tags of its jobs show which those are.
func (c *class) contains(o *class) bool {
	if c == o || o.untagged && !c.untagged || len(c.tags) == len(o.tags) && c.untagged == o.untagged {
		return false
	}
	for _, t := range o.tags {
		if _, ok := slices.BinarySearch(c.tags, t); !ok {
			return false
		}
	}
	return true
}

func yes(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// seen records that a job waits now, in a place; row is what was read of it, nil
// for one that is known.
func (q *Queue) seen(id int64, at place, row *gitlab.PendingJob) {
	j := q.jobs[id]
	if j == nil {
		j = &job{id: id, places: map[place]bool{}}
		q.jobs[id] = j
	}
	if row != nil {
		j.take(*row)
	}
	member := j.places[at]
	j.places[at] = true
	switch {
	case j.seen != q.round:
		j.seen = q.round
		for p := range j.places {
			q.index(p, j)
		}
	case !member:
		q.index(at, j)
	}
}

// index lets of find a job that is proved to wait.
func (q *Queue) index(at place, j *job) {
	if !j.tagsKnown {
		return
	}
	if q.waiting[at] == nil {
		q.waiting[at] = map[string][]*job{}
	}
	key := ""
	if len(j.tags) > 0 {
		key = j.tags[0]
	}
	q.waiting[at][key] = append(q.waiting[at][key], j)
}

// Begin starts a reading. runners are those listed whose details are known.
func (q *Queue) Begin(now time.Time, runners []Runner) *Reading {
	q.round++
	q.waiting = map[place]map[string][]*job{}
	q.register(runners)
	r := &Reading{q: q, now: now}
	if len(q.opt.Projects) > 0 {
		return r
	}
	for _, c := range q.registry.read {
		r.work = append(r.work, &work{class: c, count: -1})
	}
	// Round robin: what was read completely the longest ago comes first.
	slices.SortStableFunc(r.work, func(a, b *work) int { return cmp.Compare(a.class.readAt, b.class.readAt) })
	return r
}

// failed reports whether an error means that there is no source, and records it.
func (q *Queue) failed(err error) {
	if errors.Is(err, gitlab.ErrNoQueue) {
		q.unsupported, q.result = true, nil
	}
	if limit := gitlab.QueueTooComplex(err); limit > 0 {
		q.room = limit
	}
}
