package snapshot

import "time"

// Queue is the jobs that wait for a runner. Sums are over all shards: the first
// one reads the whole queue.
type Queue struct {
	Jobs   int       // each waiting job once
	Oldest time.Time // pending since; zero: none waits, or it is not known
	// Tags have a job under each of its tags, sorted by name; 0 for a tag whose
	// runners' queue was read and is empty.
	Tags      []QueueTag
	TagSets   []QueueTagSet    // sorted
	Unmatched []QueueUnmatched // sorted
	Truncated bool             // not all could be read: the numbers are lower bounds
}

// QueueTag is what waits for one value of the label tag.
type QueueTag struct {
	Name   string
	Jobs   int
	Oldest time.Time
}

// QueueTagSet counts the jobs that have exactly these tags.
type QueueTagSet struct {
	Tags string // sorted, comma-joined
	Jobs int
}

// QueueUnmatched counts the jobs that no runner can take now.
type QueueUnmatched struct {
	Tags   string
	Reason UnmatchedReason
	Jobs   int
}

// UnmatchedReason is why no runner takes a waiting job.
type UnmatchedReason uint8

// The reasons of queue_unmatched_tagset_jobs.
const (
	Matched       UnmatchedReason = iota // a runner can
	NoRunner                             // no registered runner can
	NoneAvailable                        // one could, were it online and not paused
)

var unmatchedNames = [...]string{"", "no_runner", "none_available"}

// String is the label value of reason.
func (r UnmatchedReason) String() string { return unmatchedNames[r] }
