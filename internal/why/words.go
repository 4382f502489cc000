package why

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

func itoa(n int) string { return strconv.Itoa(n) }

func plural(n int, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

func yes(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

func sorted(tags []string) []string {
	out := append([]string{}, tags...)
	slices.Sort(out)
	return slices.Compact(out)
}

// NotWaiting is the verdict on a job that no runner could take because it does
// not wait for one; NoRunner where all classes refuse it.
const (
	NotWaiting Verdict = "not_waiting"
	NoRunner   Verdict = "no_runner"
)

// states are the statuses of a job that does not wait for a runner, in words.
var states = map[string]string{
	"created":              "The job is not queued yet: it waits for jobs of earlier stages, or for those that it needs.",
	"waiting_for_resource": "The job waits for its resource group: another job of the same group runs or is queued before it. No runner is asked yet.",
	"preparing":            "GitLab prepares what the job needs. No runner is asked yet.",
	"waiting_for_callback": "The job waits for an answer from outside GitLab. No runner is asked yet.",
	"scheduled":            "The job is delayed: GitLab queues it when its time has come.",
	"manual":               "The job waits for a person to start it.",
	"running":              "The job does not wait: it is running",
	"canceling":            "The job does not wait: it is being canceled",
	"success":              "The job has ended: it succeeded",
	"failed":               "The job has ended: it failed",
	"canceled":             "The job has ended: it was canceled",
	"skipped":              "The job was skipped: it is never offered to a runner.",
}

// Waits reports whether a job of this status is offered to runners.
func Waits(status string) bool { return status == "pending" }

// State describes a job that does not wait for a runner.
func State(job *Job) string {
	text, ok := states[job.Status]
	switch {
	case !ok:
		return "GitLab reports the status " + strconv.Quote(job.Status) + ", which this release does not know."
	case strings.HasSuffix(text, "."):
		return text
	case job.RunnerID == 0:
		return text + "."
	case job.Runner == "":
		return fmt.Sprintf("%s, on runner #%d.", text, job.RunnerID)
	}
	return fmt.Sprintf("%s, on runner %s (#%d).", text, job.Runner, job.RunnerID)
}

// slow is for how long a job may wait although a runner has room before that is
// worth a look: runners ask GitLab every few seconds.
const slow = 5 * time.Minute

// Summary is the verdict on a waiting job by that on its nearest class.
func Summary(job *Job, classes []Class, now time.Time) (Verdict, string) {
	if len(classes) == 0 {
		return Unknown, "No runner is known here."
	}
	c := &classes[0]
	switch c.Verdict {
	case Takes:
		n := 0
		for i := range classes {
			if classes[i].Verdict == Takes {
				n += classes[i].Idle
			}
		}
		text := itoa(n) + plural(n, " available runner", " available runners") + " with room could take it"
		if !c.Certain {
			text += ", as far as is known"
		}
		if !job.Since.IsZero() && now.Sub(job.Since) > slow {
			return Takes, text + ", and it still waits. Look at the log of the runner and at concurrent, limit and request_concurrency in its config.toml; in GitLab at the compute quota and the limits on jobs of the project."
		}
		return Takes, text + "."
	case Busy:
		return Busy, "Each available runner that could take it executes jobs already. It waits for its turn."
	case Unavailable:
		text := "Runners with its tags are registered, and none of them is available"
		if slices.ContainsFunc(classes, func(c Class) bool { return c.Verdict == Unknown }) {
			text += "; of others it is not known whether they take it"
		}
		return Unavailable, text + "."
	case Unknown:
		return Unknown, "No available runner is sure to take it; for some it is not known."
	default:
		return NoRunner, "None of the registered runners that are known here can take it, whatever their state."
	}
}

// UnknownTag is a tag of the job that no known runner has.
type UnknownTag struct {
	Tag string `json:"tag"`
	// Similar are tags of runners that differ in a letter or two.
	Similar []string `json:"similar"`
}

const mostSimilar = 3

// UnknownTags are those that no runner has. A runner whose details are not
// known could have any.
func UnknownTags(job *Job, runners []Runner) []UnknownTag {
	out := []UnknownTag{}
	have := map[string][]rune{}
	for _, r := range runners {
		if !r.DetailsRead {
			return out
		}
		for _, t := range r.Tags {
			if _, ok := have[t]; !ok {
				have[t] = []rune(t)
			}
		}
	}
	type candidate struct {
		tag string
		far int
	}
	for _, t := range sorted(job.Tags) {
		if _, ok := have[t]; ok {
			continue
		}
		var near []candidate
		for other, runes := range have {
			if far := likeness(t, []rune(t), other, runes); far >= 0 {
				near = append(near, candidate{other, far})
			}
		}
		slices.SortFunc(near, func(a, b candidate) int { return cmp.Or(a.far-b.far, strings.Compare(a.tag, b.tag)) })
		u := UnknownTag{Tag: t, Similar: []string{}}
		for _, c := range near[:min(len(near), mostSimilar)] {
			u.Similar = append(u.Similar, c.tag)
		}
		out = append(out, u)
	}
	return out
}

// mostDiffer is how many letters may differ between tags that are alike.
const mostDiffer = 2

// likeness is how many letters differ between a tag and another one; -1 for more than one
// in four, or two. Whoever reaches the page may ask, so it must cost little.
func likeness(a string, x []rune, b string, y []rune) int {
	n, m := len(x), len(y)
	switch {
	case n > 64 || m > 64 || max(n-m, m-n) > mostDiffer:
		return -1
	case strings.EqualFold(a, b):
		return 0
	case n <= 2:
		return -1
	}
	if d := distance(x, y); d <= min(mostDiffer, max(n/4, 1)) {
		return d
	}
	return -1
}

// distance is Damerau and Levenshtein's: insertions, deletions, changes and swaps of
// neighbors. Above mostDiffer it is one more, whatever it is: only the cells that
// near the diagonal are computed, and no further than they may matter.
func distance(x, y []rune) int {
	const beyond = mostDiffer + 1
	for len(x) > 0 && len(y) > 0 && x[0] == y[0] {
		x, y = x[1:], y[1:]
	}
	for len(x) > 0 && len(y) > 0 && x[len(x)-1] == y[len(y)-1] {
		x, y = x[:len(x)-1], y[:len(y)-1]
	}
	var rows [3][65 + beyond]int
	before, last, row := &rows[0], &rows[1], &rows[2]
	for j := range row {
		row[j] = min(j, beyond)
	}
	for i := 1; i <= len(x); i++ {
		before, last, row = last, row, before
		low, high := max(1, i-mostDiffer), min(len(y), i+mostDiffer)
		row[low-1], row[high+1] = beyond, beyond
		if low == 1 {
			row[0] = min(i, beyond)
		}
		best := row[low-1]
		for j := low; j <= high; j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost, beyond)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
			best = min(best, row[j])
		}
		if best == beyond {
			return beyond
		}
	}
	return row[len(y)]
}
