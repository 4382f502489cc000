package queue

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Job is a job that waits.
type Job struct {
	ID        int64
	Tags      []string // sorted, unique
	TagsKnown bool
	QueuedAt  time.Time // zero: not known
	// Unmatched is empty where a runner that is online and not paused could take
	// it, or where that is not known.
	Unmatched snapshot.UnmatchedReason

	places []place // where it was seen; never changed
}

// Result is what a reading found.
type Result struct {
	At        time.Time
	Jobs      []Job // by id
	Truncated bool

	everything bool // those that no runner can take are known too

	known    map[place]bool  // places whose lists were all read
	carried  map[string]bool // tags that a runner has
	untagged bool            // one of them takes untagged jobs
	counted  map[string]bool // tags of the runners whose queue was read
	sets     []string        // tag sets of their classes
	read     []*class        // whose queue was read
	classes  []*class        // all; only what never changes of them is used
}

// Bounds of what is shown.
const (
	maxSets       = 200
	keepSets      = 7 * 24 * time.Hour // a tag set without jobs
	keepUnmatched = time.Hour
)

type unmatchedKey struct {
	tags   string
	reason snapshot.UnmatchedReason
}

// shown is which series there are, so that one without jobs shows 0 for a while.
type shown struct {
	sets      map[string]time.Time // when the set last had a job
	unmatched map[unmatchedKey]time.Time
}

func newShown() shown {
	return shown{sets: map[string]time.Time{}, unmatched: map[unmatchedKey]time.Time{}}
}

// End ends a reading after Next returned false, and returns its error. A reading
// that failed changes nothing: the last result stands until it is too old.
func (r *Reading) End() error {
	q := r.q
	if r.err == nil && r.refusal != nil && r.read == 0 {
		r.err = r.refusal // all of them
	}
	if r.err != nil || q.unsupported {
		return r.err
	}
	out := &Result{At: r.now, Truncated: r.cut, carried: q.registry.tags, counted: map[string]bool{}, classes: q.registry.classes}
	known := map[place]bool{} // whether all lists of a place were read
	if len(q.opt.Projects) > 0 {
		out.counted, out.read = q.registry.tags, q.registry.classes
		known[place{}] = true
	} else if !r.count(out, known) && len(q.all.known) == 0 { // which only administrators can list
		q.result = nil
		return nil
	}
	for _, id := range slices.Sorted(maps.Keys(q.jobs)) {
		switch j := q.jobs[id]; {
		case j.seen == q.round:
			out.Jobs = append(out.Jobs, Job{j.id, j.tags, j.tagsKnown, j.queuedAt, r.unmatched(j, known), slices.Collect(maps.Keys(j.places))})
		case q.round-j.seen > trusted:
			delete(q.jobs, id)
		}
	}
	out.known, out.everything = known, len(q.opt.Projects) > 0 || q.all.known != nil
	out.Jobs = append(out.Jobs, r.strays(known)...)
	slices.SortFunc(out.Jobs, func(a, b Job) int { return cmp.Compare(a.ID, b.ID) })
	q.result = out
	q.shown.note(out)
	return nil
}

// Offered is whether the reading saw a job in the lists of runners of a type and
// owner, which are for protected refs or not: known is false where that is not
// known, as of a job that it did not see at all.
func (res *Result) Offered(job int64, typ, ownerPath string, protected bool) (offered, known bool) {
	at := place{owner{typ, ownerPath}, protected}
	i, found := slices.BinarySearchFunc(res.Jobs, job, func(j Job, id int64) int { return cmp.Compare(j.ID, id) })
	switch {
	case !found:
		return false, false
	case slices.Contains(res.Jobs[i].places, at):
		return true, true
	}
	return false, res.known[at]
}

// count settles the classes; false: none of them counts.
func (r *Reading) count(out *Result, known map[place]bool) (any bool) {
	q := r.q
	for _, w := range r.work {
		known[w.class.place] = true
	}
	for _, w := range r.work {
		r.explained(w)
		w.keep(r)
		if !w.done {
			out.Truncated, known[w.class.place] = true, false
		}
		if w.count <= 0 && !q.proved(w.class.place.owner, r.now) {
			known[w.class.place] = false
			continue
		}
		if w.count < 0 && !w.done {
			continue
		}
		if w.hidden && r.found(w) < w.count {
			out.Truncated, known[w.class.place] = true, false
		}
		any = true
		out.read = append(out.read, w.class)
		out.untagged = out.untagged || w.class.untagged
		for _, t := range w.class.tags {
			out.counted[t] = true
		}
		if len(w.class.tags) > 0 {
			out.sets = append(out.sets, strings.Join(w.class.tags, ","))
		}
	}
	return any
}

// unmatched is why nobody takes a job. A list that was not read is no evidence:
// a runner that has its tags may be the one.
func (r *Reading) unmatched(j *job, known map[place]bool) snapshot.UnmatchedReason {
	if !j.tagsKnown {
		return snapshot.Matched
	}
	projects := len(r.q.opt.Projects) > 0
	registered := false
	for _, c := range r.q.registry.classes {
		if !c.takes(j) || !projects && known[c.place] && !j.places[c.place] {
			continue
		}
		if registered = true; c.available {
			return snapshot.Matched
		}
	}
	if !registered {
		return snapshot.NoRunner
	}
	return snapshot.NoneAvailable
}

func (s *shown) note(res *Result) {
	for _, j := range res.Jobs {
		set := setOf(j)
		s.sets[set] = res.At
		if j.Unmatched != snapshot.Matched {
			s.unmatched[unmatchedKey{set, j.Unmatched}] = res.At
		}
	}
	maps.DeleteFunc(s.sets, func(_ string, at time.Time) bool { return res.At.Sub(at) > keepSets })
	maps.DeleteFunc(s.unmatched, func(_ unmatchedKey, at time.Time) bool { return res.At.Sub(at) > keepUnmatched })
	trim(s.sets, maxSets, strings.Compare)
	trim(s.unmatched, maxSets, func(a, b unmatchedKey) int {
		return cmp.Or(strings.Compare(a.tags, b.tags), cmp.Compare(a.reason, b.reason))
	})
}

// trim keeps the most entries that had a job last.
func trim[K comparable](m map[K]time.Time, most int, compare func(a, b K) int) {
	if len(m) <= most {
		return
	}
	keys := slices.SortedFunc(maps.Keys(m), func(a, b K) int { return cmp.Or(m[b].Compare(m[a]), compare(a, b)) })
	for _, k := range keys[most:] {
		delete(m, k)
	}
}

func setOf(j Job) string {
	switch {
	case !j.TagsKnown:
		return snapshot.TagUnknown
	case len(j.Tags) == 0:
		return snapshot.TagUntagged
	}
	return strings.Join(j.Tags, ",")
}

// Result is the last one, while it is not too old; nil: there is none, because
// it is the first reading, or nothing can be read, or the readings fail.
func (q *Queue) Result(now time.Time) *Result {
	if q.result == nil || now.Sub(q.result.At) > keepIntervals*q.opt.Interval {
		return nil
	}
	return q.result
}

// Snapshot is what is exported; nil: all its families are absent. label is the
// value of the label tag for a tag that a runner has, such as (other) beyond
// metrics.tags.limit; "": the tag is excluded.
func (q *Queue) Snapshot(now time.Time, label func(tag string) string) *snapshot.Queue {
	res := q.Result(now)
	if res == nil {
		return nil
	}
	out := &snapshot.Queue{Jobs: len(res.Jobs), Truncated: res.Truncated, Everything: res.everything}
	tags := map[string]*snapshot.QueueTag{}
	under := func(name string) *snapshot.QueueTag {
		if tags[name] == nil {
			tags[name] = &snapshot.QueueTag{Name: name}
		}
		return tags[name]
	}
	for t := range res.counted {
		if name := label(t); name != "" {
			under(name)
		}
	}
	if res.untagged {
		under(snapshot.TagUntagged)
	}
	sets := q.shown.zeros(res)
	unmatched := map[unmatchedKey]*snapshot.QueueUnmatched{}
	for k := range q.shown.unmatched {
		if !res.knows(k.tags) {
			continue
		}
		unmatched[k] = &snapshot.QueueUnmatched{Tags: k.tags, Reason: k.reason}
	}
	for _, j := range res.Jobs {
		out.Oldest = earlier(out.Oldest, j.QueuedAt)
		for _, name := range res.labels(j, label) {
			t := under(name)
			t.Jobs++
			t.Oldest = earlier(t.Oldest, j.QueuedAt)
		}
		set := setOf(j)
		if _, ok := sets[set]; !ok && q.shown.sets[set].IsZero() {
			set = snapshot.TagOther
		}
		sets[set]++
		if j.Unmatched != snapshot.Matched {
			k := unmatchedKey{setOf(j), j.Unmatched}
			if _, ok := q.shown.unmatched[k]; !ok {
				k.tags = snapshot.TagOther
			}
			if unmatched[k] == nil {
				unmatched[k] = &snapshot.QueueUnmatched{Tags: k.tags, Reason: k.reason}
			}
			unmatched[k].Jobs++
			unmatched[k].Oldest = earlier(unmatched[k].Oldest, j.QueuedAt)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		out.Tags = append(out.Tags, *tags[name])
	}
	for _, set := range slices.Sorted(maps.Keys(sets)) {
		out.TagSets = append(out.TagSets, snapshot.QueueTagSet{Tags: set, Jobs: sets[set]})
	}
	for _, u := range unmatched {
		out.Unmatched = append(out.Unmatched, *u)
	}
	slices.SortFunc(out.Unmatched, func(a, b snapshot.QueueUnmatched) int {
		return cmp.Or(strings.Compare(a.Tags, b.Tags), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}

// zeros are the tag sets that have a series: those with jobs, then those that
// had some, then those of the classes, as long as there is room.
func (s *shown) zeros(res *Result) map[string]int {
	out := map[string]int{}
	for set := range s.sets {
		if res.knows(set) {
			out[set] = 0
		}
	}
	for _, set := range res.sets {
		if len(out) < maxSets {
			out[set] = 0
		}
	}
	return out
}

// knows reports whether none waits with a set of tags where none was seen: runners
// that take it were read, or no runner does and those jobs are known too.
func (res *Result) knows(set string) bool {
	if set == snapshot.TagUnknown {
		return true
	}
	var tags []string
	if set != snapshot.TagUntagged {
		tags = strings.Split(set, ",")
	}
	takes := func(c *class) bool { return fits(c.tags, c.untagged, tags) }
	return slices.ContainsFunc(res.read, takes) || res.everything && !slices.ContainsFunc(res.classes, takes)
}

// labels are the values of the label tag that a job stands under, each once.
func (res *Result) labels(j Job, label func(string) string) []string {
	switch {
	case !j.TagsKnown:
		return []string{snapshot.TagUnknown}
	case len(j.Tags) == 0:
		return []string{snapshot.TagUntagged}
	}
	var names []string
	for _, t := range j.Tags {
		name := snapshot.TagNoRunner
		if res.carried[t] {
			name = label(t)
		}
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
