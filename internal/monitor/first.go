package monitor

import (
	"time"

	"github.com/go-kit/log/level"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const (
	// partTries is how many failed readings of a runner's jobs end the wait of
	// the sums of jobs for it.
	partTries = 3
	// firstPatience is how long the last details under way hold back machines
	// and jobs: one that hangs must not hold them back for its time-out.
	firstPatience = 10 * time.Second
	// progressInterval is how often the log reports a long first reading;
	// paceOver is what the pace of one is taken over.
	progressInterval = time.Minute
	paceOver         = time.Minute
)

// part is a part of the first picture that is not whole yet. It counts what
// Fleet waits for, so that the picture is built at once when the last reading
// is in, and so that log and page can report how far it has come.
type part struct {
	awaited map[int64]struct{} // runners of which a reading is awaited
	of      int                // runners that it is made of
	past    []mark             // a minute of it, oldest first
}

type mark struct {
	at      time.Time
	awaited int
}

// awaits tells whether a part waits for a reading of a runner. The caller
// holds the mutex, as for all here.
func (m *Monitor) awaits(p snapshot.Part, id int64) bool {
	j := inventory.Jobs{}
	if p == snapshot.PartJobs {
		j.ReadAt, j.Failed = m.led.ReadAt(id), m.jobsFailed(id)
	}
	return m.inv.Awaits(p, id, j)
}

// jobsFailed reports whether the sums of jobs shall not wait for a runner's:
// its jobs failed to be read several times, or GitLab itself refuses them,
// which asking again does not change.
func (m *Monitor) jobsFailed(id int64) bool {
	return m.fails[readingKey{snapshot.StageJobs, id}] >= partTries || m.noJobs[id] ||
		m.unread[snapshot.StageJobs][id] == string(gitlab.ReasonForbidden)
}

// recount takes stock of what the parts wait for: after a listing, and at the
// start from the saved state.
func (m *Monitor) recount() {
	for p := range m.parts {
		part, kind := &m.parts[p], snapshot.Part(p)
		if m.inv.Whole(kind) || m.inv.ListedAt().IsZero() {
			part.awaited, part.past = nil, nil
			continue
		}
		began := part.awaited == nil
		part.awaited, part.of = map[int64]struct{}{}, 0
		for _, id := range m.inv.IDs() {
			if m.awaits(kind, id) {
				part.awaited[id] = struct{}{}
				part.of++
			} else if kind != snapshot.PartJobs || m.inv.MayExecute(id) {
				part.of++
			}
		}
		if began {
			part.past = []mark{{time.Now(), len(part.awaited)}}
		}
	}
}

// arrived notes that a reading of a runner ended, or that the runner left, and
// publishes at once if a part of the picture became whole by it.
func (m *Monitor) arrived(id int64, now time.Time) {
	if m.inv.SetMachines(m.noManagers < noManagersAfter) {
		m.recount()
	}
	for p := range m.parts {
		if awaited := m.parts[p].awaited; awaited != nil && !m.awaits(snapshot.Part(p), id) {
			delete(awaited, id)
		}
	}
	m.settle(now)
}

// settle publishes if a part that was awaited became whole. It is done under
// the mutex, so that no further reading begins before the picture is out.
func (m *Monitor) settle(now time.Time) {
	if !m.pictured && !m.listedAll {
		return // there are scopes that were not tried yet
	}
	whole := false
	for p := range m.parts {
		part, kind := &m.parts[p], snapshot.Part(p)
		if part.awaited == nil || len(part.awaited) > 0 {
			continue
		}
		part.awaited = nil
		whole = true
		if kind == snapshot.PartDetails && m.inv.Len() > 0 {
			_, failed := m.inv.Unread()
			level.Info(m.log).Log("msg", "the first picture is whole: the details of all runners were read", "runners", m.inv.Len(), "unreadable", failed)
		}
	}
	if whole {
		m.publishNow(now)
	}
}

// firstReading tells whether the details of some runners are awaited for the
// first picture. Until then nothing else is read.
func (m *Monitor) firstReading() bool { return len(m.parts[snapshot.PartDetails].awaited) > 0 }

// heldBack is how long machines and jobs shall wait for the last details of
// the first picture that are under way; 0: no longer.
func (m *Monitor) heldBack(now time.Time) time.Duration {
	wait := time.Duration(0)
	for key := range m.reading {
		if _, ok := m.parts[snapshot.PartDetails].awaited[key.id]; ok && key.stage == snapshot.StageDetails {
			wait = max(wait, m.began[key].Add(firstPatience).Sub(now))
		}
	}
	return wait
}

// progress is how far the parts that are not whole have come. rate is the
// requests a second that the budget allows now.
func (m *Monitor) progress(now time.Time, rate float64) []snapshot.Progress {
	var out []snapshot.Progress
	for p := range m.parts {
		part := &m.parts[p]
		if part.awaited == nil {
			continue
		}
		n := len(part.awaited)
		for len(part.past) > 1 && now.Sub(part.past[1].at) >= paceOver {
			part.past = part.past[1:]
		}
		first := part.past[0]
		// The first minute's requests may go at once: their pace does not last.
		pace := min(float64(first.awaited-n)/now.Sub(first.at).Seconds(), rate)
		part.past = append(part.past, mark{now, n})
		out = append(out, snapshot.Progress{Part: snapshot.Part(p), Read: part.of - n, Of: part.of, Left: roughly(float64(n) / pace)})
	}
	return out
}

// roughly is so many seconds as people say it; 0: not known.
func roughly(seconds float64) time.Duration {
	if !(seconds > 0 && seconds < (365*24*time.Hour).Seconds()) {
		return 0 // no reading succeeded lately
	}
	d := time.Duration(seconds * float64(time.Second))
	unit := time.Minute
	if d < 10*time.Minute {
		unit = 10 * time.Second
	}
	return max(d.Round(unit), unit)
}

// reportProgress logs each minute how far a long first reading has come.
func (m *Monitor) reportProgress(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sub(m.reported) < progressInterval {
		return
	}
	m.reported = now
	for _, p := range m.progress(now, m.deps.Budget.State().Rate) {
		left := "not known"
		if p.Left > 0 {
			left = p.Left.String()
		}
		level.Info(m.log).Log("msg", "the first reading is under way", "reading", p.Part, "read", p.Read, "of", p.Of, "left", left)
		if p.Part == snapshot.PartDetails {
			return // the others come behind it
		}
	}
}
