package monitor

import (
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const (
	// partTries is how many failed readings of a runner's jobs end the wait of
	// the sums of jobs for it.
	partTries = 3
	// paceOver is what the pace of a first reading is taken over.
	paceOver = time.Minute
)

// first is how far the first picture has come: what each part of it that is
// not whole yet still waits for, so that it is published at once when the last
// reading is in, and so that log and page can report its progress. The fleet's
// mutex guards it.
type first struct {
	fleet *fleet
	parts [snapshot.NumParts]part
}

// part is a part of the first picture that is not whole yet.
type part struct {
	awaited map[int64]struct{} // runners of which a reading is awaited; nil: it is whole
	of      int                // runners that it is made of
	past    []mark             // a minute of it, oldest first
}

type mark struct {
	at      time.Time
	awaited int
}

// recount takes stock of what the parts wait for: after a listing, and at the
// start from the saved state.
func (f *first) recount() {
	inv := f.fleet.inv
	for p := range f.parts {
		part, kind := &f.parts[p], snapshot.Part(p)
		if inv.Whole(kind) || inv.ListedAt().IsZero() {
			part.awaited, part.past = nil, nil
			continue
		}
		began := part.awaited == nil
		part.awaited, part.of = map[int64]struct{}{}, 0
		for _, id := range inv.IDs() {
			if f.fleet.awaits(kind, id) {
				part.awaited[id] = struct{}{}
				part.of++
			} else if kind != snapshot.PartJobs || inv.MayExecute(id) {
				part.of++
			}
		}
		if began {
			part.past = []mark{{time.Now(), len(part.awaited)}}
		}
	}
}

// arrived notes that a reading of a runner ended, or that the runner left.
func (f *first) arrived(id int64) {
	if f.fleet.inv.SetMachines(f.fleet.machines.offered()) {
		f.recount()
	}
	for p := range f.parts {
		if awaited := f.parts[p].awaited; awaited != nil && !f.fleet.awaits(snapshot.Part(p), id) {
			delete(awaited, id)
		}
	}
}

// complete returns the parts that became whole since it was last called.
func (f *first) complete() (whole []snapshot.Part) {
	for p := range f.parts {
		if part := &f.parts[p]; part.awaited != nil && len(part.awaited) == 0 {
			part.awaited = nil
			whole = append(whole, snapshot.Part(p))
		}
	}
	return whole
}

// awaited are the runners that a part waits for.
func (f *first) awaited(p snapshot.Part) map[int64]struct{} { return f.parts[p].awaited }

// progress is how far the parts that are not whole have come. rate is the
// requests a second that the budget allows now.
func (f *first) progress(now time.Time, rate float64) []snapshot.Progress {
	var out []snapshot.Progress
	for p := range f.parts {
		part := &f.parts[p]
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

// roughly is so many seconds rounded as a person would; 0: not known.
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
