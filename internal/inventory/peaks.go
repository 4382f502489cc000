package inventory

import "time"

// peakDays is how many days a runner's learned capacity looks back.
const peakDays = 7

// peaks is the most jobs that a runner was seen to execute at once, by day:
// GitLab does not know the concurrency of its runners, so it is learned. Days
// without a job have no entry.
type peaks []peak

type peak struct {
	Day  int64 `json:"d"` // since the epoch
	Jobs int   `json:"n"`
}

func day(t time.Time) int64 { return t.Unix() / (24 * 60 * 60) }

// see notes a reading; it reports whether that changed anything.
func (p *peaks) see(jobs int, at time.Time) bool {
	if jobs == 0 {
		return false
	}
	today := day(at)
	if n := len(*p); n > 0 && (*p)[n-1].Day >= today {
		if (*p)[n-1].Jobs >= jobs {
			return false
		}
		(*p)[n-1].Jobs = jobs
		return true
	}
	kept := (*p)[:0]
	for _, d := range *p {
		if d.Day > today-peakDays {
			kept = append(kept, d)
		}
	}
	kept = append(kept, peak{today, jobs})
	*p = kept
	return true
}

// most is the learned capacity as of now.
func (p peaks) most(now time.Time) int {
	n := 0
	for _, d := range p {
		if d.Day > day(now)-peakDays {
			n = max(n, d.Jobs)
		}
	}
	return n
}
