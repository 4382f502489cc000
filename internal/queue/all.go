package queue

import (
	"maps"
	"slices"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Bounds of the reading of all jobs, which on a large instance costs GitLab's
// database a scan.
const (
	allEvery   = 10 // readings between two walks through the list
	allSlow    = 5 * time.Second
	allPause   = 6 * time.Hour // after a page that took longer, or failed twice
	allPages   = 200           // of one walk
	allSettled = time.Minute   // a job that waits for less may be in its runner's list by now
)

// allJobs is a walk through the list of all waiting jobs, one page or a few a
// reading, for those that no runner could take: they are in nobody's list.
type allJobs struct {
	walking bool
	after   string
	pages   int
	next    int       // round of the next walk
	until   time.Time // pause
	fails   int       // of walks, one after the other

	found map[int64]*job // by the walk under way
	known map[int64]*job // by the last whole one
}

func (a *allJobs) due(round int, now time.Time) bool {
	return !now.Before(a.until) && (a.walking || round >= a.next)
}

// failed ends a walk of which a page was not read. The next one is soon, unless
// GitLab could not list them in time: a proxy that restarts costs no database.
func (a *allJobs) failed(r *Reading, err error) {
	if a.fails++; a.fails > 1 || gitlab.ReasonOf(err) == gitlab.ReasonTimeout {
		a.stop(r)
		return
	}
	*a = allJobs{next: r.q.round + allEvery, known: a.known, fails: a.fails}
	r.wide = false
}

// stop ends a walk that costs too much. What the last one found is not known any more.
func (a *allJobs) stop(r *Reading) {
	*a = allJobs{until: r.now.Add(allPause)}
	r.wide = false
	maps.DeleteFunc(r.q.shown.unmatched, func(k unmatchedKey, _ time.Time) bool { return k.reason == snapshot.NoRunner })
}

func (a *allJobs) take(r *Reading, got gitlab.QueueAnswer) {
	r.wide = false
	page := got.Pages[0]
	if a.pages++; page.Err != nil || got.Took > allSlow || a.pages > allPages {
		a.stop(r)
		return
	}
	if !a.walking {
		a.walking, a.found = true, map[int64]*job{}
	}
	whole := !slices.ContainsFunc(r.work, func(w *work) bool { return !w.done })
	for _, row := range page.Jobs {
		j := &job{id: row.ID}
		j.take(row)
		carried := slices.ContainsFunc(r.q.registry.classes, func(c *class) bool { return c.takes(j) })
		if r.q.jobs[j.id] == nil && (whole || !carried) {
			a.found[j.id] = j
		}
	}
	if a.after = page.Next; page.More {
		return
	}
	*a = allJobs{next: r.q.round + allEvery, known: a.found}
}

// strays are the jobs of the list of all that are in no runner's list. For one
// whose tags a runner has that needs each list to be known.
func (r *Reading) strays(known map[place]bool) (jobs []Job) {
	for _, j := range r.q.all.known {
		if r.q.jobs[j.id] != nil || !j.tagsKnown {
			continue
		}
		certain := true
		for _, c := range r.q.registry.classes {
			if c.takes(j) && !known[c.place] {
				certain = false
			}
		}
		if certain && !j.queuedAt.After(r.now.Add(-allSettled)) {
			jobs = append(jobs, Job{j.id, j.tags, j.tagsKnown, j.queuedAt, snapshot.NoRunner, nil})
		}
	}
	return jobs
}
