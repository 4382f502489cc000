package monitor

import (
	"context"
	"slices"
	"time"

	"github.com/go-kit/log/level"

	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/queue"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const (
	// queueStale is after how many intervals a reading is too old to be shown.
	queueStale = 3
	// queueRetry is how long a GitLab that has no queue to read, or cannot list it,
	// is left alone at most; another release or token is asked at once.
	queueRetry = time.Hour
)

// queueReader reads the jobs that wait for a runner. What is asked is decided in
// internal/queue. A nil queueReader reads nothing.
type queueReader struct {
	fleet  *fleet
	deps   *Deps
	queue  *queue.Queue // only loop uses it
	every  time.Duration
	asked  identity // whom the last reading was of
	failed int      // readings that GitLab refused, one after the other
	absent bool     // it was logged why there is no queue
	unread bool     // the tags of some runners of other shards are not known
	labels otherLabels

	// Guarded by the fleet's mutex.
	last   *snapshot.Queue
	result *queue.Result // what last was made of; never changed
	lastAt time.Time
	due    time.Time
	why    snapshot.QueueState // there is no queue to show
}

// identity is on what it depends whether there is a queue to read.
type identity struct{ version, token string }

// newQueueReader is nil where the queue is not read: it is off, or the first
// shard reads it.
func newQueueReader(f *fleet, d *Deps) *queueReader {
	if f.opts.Queue.Interval <= 0 || f.opts.ShardIndex > 0 {
		return nil
	}
	return &queueReader{fleet: f, deps: d, queue: queue.New(f.opts.Queue), every: f.opts.Queue.Interval, why: snapshot.QueuePending, labels: otherLabels{}}
}

func (q *queueReader) interval() time.Duration {
	if q == nil {
		return 0
	}
	return q.every
}

// lag is how late the reading is. The caller holds the fleet's mutex, as for picture.
func (q *queueReader) lag(now time.Time) time.Duration {
	if q == nil || q.due.IsZero() {
		return 0
	}
	return max(now.Sub(q.due), 0)
}

// picture is what the last reading found; nil: nothing is known.
func (q *queueReader) picture(now time.Time) *snapshot.Queue {
	if q == nil || q.last == nil || now.Sub(q.lastAt) > queueStale*q.every {
		return nil
	}
	return q.last
}

// state is whether the queue is known, and why it is not.
func (q *queueReader) state(o *Options, now time.Time) (snapshot.QueueState, time.Time) {
	switch {
	case q != nil && q.picture(now) != nil:
		return snapshot.QueueRead, q.lastAt
	case q != nil && q.why == snapshot.QueueRead: // it is too old by now
		return snapshot.QueueFailed, q.lastAt
	case q != nil:
		return q.why, q.lastAt
	case o.Queue.Interval > 0:
		return snapshot.QueueOtherShard, time.Time{}
	case o.API == snapshot.APIREST && o.Scopes[0].Kind != snapshot.ScopeProjects:
		return snapshot.QueueByREST, time.Time{}
	}
	return snapshot.QueueOff, time.Time{}
}

// offered is whether the last reading saw a job among those that GitLab offers
// to some runners. The caller holds the fleet's mutex, as for picture; nil: it
// is not known of any.
func (q *queueReader) offered(now time.Time) *queue.Result {
	if q.picture(now) == nil {
		return nil
	}
	return q.result
}

func (q *queueReader) loop(ctx context.Context) error {
	timer := time.NewTimer(q.every)
	defer timer.Stop()
	var next time.Time
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if began := time.Now(); !began.Before(next) || q.isAnother() {
			next = began.Add(q.read(ctx, began))
			q.fleet.mu.Lock()
			q.due = next.Add(q.every)
			q.fleet.mu.Unlock()
		}
		timer.Reset(min(max(time.Until(next), 0), q.every))
	}
}

// isAnother reports whether GitLab was updated, or the token is another one,
// since the queue was read last.
func (q *queueReader) isAnother() bool {
	q.fleet.mu.Lock()
	defer q.fleet.mu.Unlock()
	return q.identity() != q.asked
}

// identity is that of now. The caller holds the fleet's mutex.
func (q *queueReader) identity() identity {
	return identity{q.fleet.version, q.fleet.token.Name + q.fleet.token.ExpiresAt.String()}
}

// read reads the queue once and returns after how long it is read again.
func (q *queueReader) read(ctx context.Context, began time.Time) time.Duration {
	reading := q.begin(began)
	if reading == nil {
		return q.every // not yet
	}
	client := q.deps.Client.For(q.deps.Budget.Gate(budget.Queue))
	within, cancel := context.WithTimeout(ctx, queueStale*q.every+time.Minute)
	defer cancel()
	for r, more := reading.Next(); more; r, more = reading.Next() {
		a, err := client.Queue(within, r)
		reading.Take(a, err)
	}
	err := reading.End()
	if ctx.Err() != nil {
		return q.every
	}
	return q.take(err, began)
}

// begin begins a reading; nil while the runners' details are not all known, or
// nothing can be read.
func (q *queueReader) begin(now time.Time) *queue.Reading {
	f := q.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.blocked:
		q.why = snapshot.QueueFailed
		return nil
	case !f.started || !f.inv.Whole(snapshot.PartDetails):
		return nil
	case f.opts.keepsOthers() && len(f.others) == 0:
		return nil // a restart: the saved state has no runners of other shards
	}
	if asked := q.identity(); asked != q.asked {
		q.queue.Forget()
		q.asked, q.absent, q.failed = asked, false, 0
	}
	runners := make([]queue.Runner, 0, f.inv.Len())
	for _, id := range f.inv.IDs() {
		if p, ok := f.inv.Peer(id); ok {
			runners = append(runners, queue.Runner{
				ID: id, Type: p.Type.String(), Owner: p.Owner, Tags: p.Tags, RunUntagged: p.RunUntagged, Protected: p.Protected,
				Available: f.inv.IsAvailable(id),
			})
		}
	}
	all, unread := f.allOthers()
	var tags []string
	for _, r := range all {
		if r.known {
			runners = append(runners, r.Runner)
			tags = append(tags, r.Tags...)
		}
	}
	slices.Sort(tags)
	q.unread = unread
	q.labels.admit(f.inv, f.opts.Inventory.TagLimit, slices.Compact(tags))
	return q.queue.Begin(now, runners)
}

// take publishes what a reading found.
func (q *queueReader) take(err error, began time.Time) time.Duration {
	f := q.fleet
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	q.deps.Metrics.PollDuration(f.opts.Name, snapshot.StageQueue.String(), now.Sub(began))
	switch {
	case q.queue.Unsupported():
		q.why = snapshot.QueueUnsupported
		q.explain("this GitLab release cannot list the jobs that wait for a runner, which 18.1 and later can; the queue_ families are absent")
		return queueRetry
	case err != nil && gitlab.QueueTooComplex(err) > 0:
		// The next reading keeps to the limit that GitLab named.
		return q.fails(err, q.every)
	case err != nil && queueRefused(err):
		q.why = snapshot.QueueRefused
		q.explain("GitLab does not let this token read the jobs that wait for a runner; the queue_ families are absent", "err", err)
		return q.pause()
	case err != nil && gitlab.GraphQLRefused(err):
		return q.fails(err, q.pause())
	case err != nil:
		return q.fails(err, q.every)
	}
	q.failed = 0
	f.failures.messages.well(snapshot.StageQueue)
	f.failures.lastGood[snapshot.StageQueue] = now
	// At the time of the reading: of one that took longer than its result is shown,
	// there is a result all the same.
	s := q.queue.Snapshot(began, q.labels.label(f.inv))
	q.why = snapshot.QueueRead
	if s == nil {
		q.why = snapshot.QueueUnproved
		q.explain("GitLab shows no waiting job, and whether this token may see those of these runners is not proved (it needs to be an administrator's, an owner's or a maintainer's); the queue_ families are absent")
	} else if q.unread {
		// Jobs that only those runners could take are in no list that was read.
		s.Truncated = true
	}
	q.result = q.queue.Result(began)
	q.last, q.lastAt, f.fresh = s, now, true
	return q.every
}

// queueRefused reports whether an error is GitLab's answer to this token or this
// query, as opposed to a GitLab that cannot answer now.
func queueRefused(err error) bool {
	switch gitlab.ReasonOf(err) {
	case gitlab.ReasonForbidden, gitlab.ReasonNotFound, gitlab.ReasonBadRequest:
		return true
	default:
		return false
	}
}

// pause is how long GitLab is left alone after it refused or could not list the
// jobs, twice as long each time: most such failures pass, and others cost it a scan.
func (q *queueReader) pause() time.Duration {
	q.failed++
	return max(q.every, min(q.every<<min(q.failed-1, 12), queueRetry))
}

// fails notes a failed reading, which is tried again after wait.
func (q *queueReader) fails(err error, wait time.Duration) time.Duration {
	f := q.fleet
	q.why = snapshot.QueueFailed
	reason := gitlab.ReasonOf(err)
	q.deps.Metrics.PollFailure(f.opts.Name, snapshot.StageQueue.String(), string(reason))
	f.failures.messages.failed(snapshot.StageQueue, reason, err)
	return wait
}

// explain logs once why there is no queue.
func (q *queueReader) explain(msg string, keyvals ...any) {
	if q.absent {
		return
	}
	q.absent = true
	level.Info(q.fleet.log).Log(append([]any{"msg", msg}, keyvals...)...)
}
