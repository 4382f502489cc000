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
	// Everything: jobs that no registered runner can take are known too. Else they
	// are in no list that is read.
	Everything bool
}

// QueueState is whether the queue is known, and why it is not.
type QueueState uint8

// The states.
const (
	QueueOff         QueueState = iota // queue: off
	QueueByREST                        // api: rest, which has no queue of runners
	QueueOtherShard                    // the first shard reads it
	QueuePending                       // not read yet: it begins once the details of all runners are known
	QueueUnsupported                   // GitLab before 18.1
	QueueRefused                       // GitLab refuses the query to this token
	QueueUnproved                      // empty lists, and no proof of the right to see them
	QueueFailed                        // the readings fail, or the last one is too old
	QueueRead                          // known
)

var queueStateNames = [...]string{"off", "rest", "other_shard", "pending", "unsupported", "forbidden", "unproved", "failed", "read"}

// String is the value of state in /api/v1/fleet.
func (s QueueState) String() string { return queueStateNames[s] }

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
	Oldest time.Time // pending since; zero: not known, or there is none
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
