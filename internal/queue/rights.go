package queue

import (
	"slices"
	"time"
)

// proof is what is known of the right to read the jobs that wait for an owner's
// runners. Without it GitLab gives empty lists, and no error.
type proof struct {
	// seen is when a job was seen last: GitLab shows none without the right.
	seen time.Time
	// may: the permission to change such a runner was granted when it was looked
	// up last. By GitLab's rules it implies the right; maintainers of a group have
	// the right without it.
	may    bool
	looked time.Time // zero: never
	// waiting: the last reading saw a job. A queue that is empty after that may be
	// a right that was lost.
	waiting bool
}

// proofFor is how long a proof holds, and after how long a permission is looked
// up again.
const proofFor = 6 * time.Hour

// proved reports whether an empty list of this owner's runners is an empty queue.
func (q *Queue) proved(o owner, now time.Time) bool {
	p := q.proofs[o]
	return p != nil && (p.may || !p.seen.IsZero() && now.Sub(p.seen) <= proofFor)
}

// unproved are runners whose permission is to be looked up, once a reading: one
// of each owner of which it is not known, or whose queue is empty all at once.
func (r *Reading) unproved() (ids []int64) {
	if r.looked {
		return nil
	}
	r.looked = true
	most := map[owner]int{} // of a class; -1: one was not surveyed
	for _, w := range r.work {
		o := w.class.place.owner
		n, met := most[o]
		switch {
		case w.count < 0 && n <= 0:
			most[o] = -1
		case !met || n >= 0:
			most[o] = max(n, w.count)
		case w.count > 0:
			most[o] = w.count
		}
	}
	for _, w := range r.work {
		o := w.class.place.owner
		p := r.q.proofs[o]
		if p == nil {
			p = &proof{}
			r.q.proofs[o] = p
		}
		if slices.Contains(r.rights, o) || w.count < 0 {
			continue
		}
		drained := p.waiting && most[o] == 0
		switch {
		case most[o] > 0:
			p.seen, p.waiting = r.now, true
		case most[o] == 0:
			p.waiting = false
		}
		if (drained || p.looked.IsZero() || r.now.Sub(p.looked) > proofFor) && len(ids) < rightsAtOnce {
			ids, r.rights = append(ids, w.class.representative), append(r.rights, o)
		}
	}
	return ids
}

// takeRights takes the answer: rights is of the representatives asked about.
func (r *Reading) takeRights(rights map[int64]bool) {
	granted := map[owner]bool{}
	for _, w := range r.work {
		if o := w.class.place.owner; rights[w.class.representative] {
			granted[o] = true
		}
	}
	for _, o := range r.rights {
		p := r.q.proofs[o]
		if p.may && !granted[o] && !p.waiting {
			p.seen = time.Time{} // the permission was lost: what was seen before proves nothing
		}
		p.may, p.looked = granted[o], r.now
	}
}
