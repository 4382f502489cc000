package monitor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
)

// Every reading ends: a server, or a proxy before it, that names a next page
// for ever must not hold a worker and the budget for ever, unseen.
const (
	// readingMost is how long one reading may take, its waits for the budget
	// included.
	readingMost = time.Hour
	// runningPages bound the list of what a runner executes: 10,000 jobs.
	runningPages = 100
	// asksMost is how many watched jobs a reading asks for one by one; the next
	// reading asks for others.
	asksMost = 500
	// walkPages bound a walk, for each day of lookback: 2 million jobs.
	walkPages = 20_000
	// idlePages are the pages in a row that may show nothing new while rows
	// shift, idleWalkPages those of a walk, which goes back where rows were deleted.
	idlePages     = 3
	idleWalkPages = 10
)

// descent follows a list that is read page by page, newest id first: each page
// must lead further down.
type descent struct {
	what   string
	most   int   // pages
	idle   int   // pages in a row that may lead nowhere
	lowest int64 // id so far
	pages  int
	still  int // pages in a row that led nowhere
}

// page notes a page that names a next one; an error says that the list does not end.
func (d *descent) page(jobs []gitlab.Job) error {
	d.pages++
	d.still++
	for i := range jobs {
		if d.lowest == 0 || jobs[i].ID < d.lowest {
			d.lowest, d.still = jobs[i].ID, 0
		}
	}
	switch {
	case d.still >= d.idle:
		return endless(fmt.Sprintf("%s does not end: %d pages in a row name a next one and show no job that was not on the pages before", d.what, d.still))
	case d.pages >= d.most:
		return endless(fmt.Sprintf("%s does not end after %d pages", d.what, d.pages))
	}
	return nil
}

func endless(message string) error {
	return &gitlab.Error{Reason: gitlab.ReasonDecode, Route: gitlab.RouteRunnerJobs, Message: message}
}

// walking is what this process knows of a walk under way.
type walking struct {
	descent

	began   time.Time // by GitLab's clock; tells one walk of a runner from the next
	start   time.Time // by the local one; zero: an earlier process began it
	endless bool      // the one before did not end
}

// walk is the walk of a runner that began at began. resumed says that its pages
// go on, so that it did not begin now. The caller holds the mutex.
func (m *Monitor) walk(id int64, began time.Time, resumed bool) *walking {
	w := m.walks[id]
	if w != nil && w.began.Equal(began) {
		return w
	}
	days := max(1, int(m.opts.Poll.Lookback/(24*time.Hour)))
	w = &walking{descent: descent{what: "the deeper walk", most: walkPages * days, idle: idleWalkPages}, began: began, endless: w != nil && w.endless}
	if !resumed {
		w.start = time.Now()
	}
	m.walks[id] = w
	return w
}

// walked notes a page of a runner's walk; whole says that it was the last one.
// restart asks to begin the walk anew. The caller holds the mutex.
func (m *Monitor) walked(id int64, w *walking, jobs []gitlab.Job, whole bool) (restart bool, err error) {
	if whole {
		delete(m.walks, id)
		return false, nil
	}
	if err = w.page(jobs); err != nil && w.pages >= w.most {
		w.endless = true
		return true, err
	}
	return false, err
}

// stopping tells the end of the program from that of a reading's time.
func stopping(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }
