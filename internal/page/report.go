package page

import (
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// States of the report: what a reader may conclude from it.
const (
	stateOK      = "ok"      // everything was read and judged lately, and nothing is wrong
	stateProblem = "problem" // something is wrong
	stateUnknown = "unknown" // nothing is known to be wrong, but not everything is known
)

// States of a GitLab.
const (
	readable   = "readable"   // the last listing was complete
	partly     = "partly"     // complete but for scopes that GitLab refuses
	unreadable = "unreadable" // the last listing failed; the picture is the one before
	withdrawn  = "withdrawn"  // so for longer than staleness: the last picture, which no metric shows any more
	unread     = "unread"     // no picture since the start of this process
)

// Problems of a tag, worst first.
const (
	tagLost       = "lost"        // no usable runner
	tagBelowFloor = "below_floor" // fewer than configured under expected
	tagHalfGone   = "half_gone"   // less than half of its runners are usable
	tagLastRunner = "last_runner" // one of several is left
	tagUnknown    = "unknown"     // its floor cannot be compared: it had runners in a scope that cannot be read
	tagFine       = "none"        // shown because it was asked for
)

var tagRank = map[string]int{tagLost: 0, tagBelowFloor: 1, tagHalfGone: 2, tagLastRunner: 3, tagUnknown: 4, tagFine: 5}

// notJudged is the health of runners where no judgement was passed yet.
const notJudged = "not_judged"

// Report is the body of /api/v1/fleet, and what /fleet is drawn from. Its shape
// is described in docs/api.md and is stable: fields may be added.
type Report struct {
	Time    time.Time `json:"time"`
	State   string    `json:"state"`
	Shard   Shard     `json:"shard"`
	GitLabs []GitLab  `json:"gitlabs"`
	Tags    []Tag     `json:"tags"`
	Runners []Runner  `json:"runners"`
	Queues  []Queue   `json:"queues"`
	Changes []Change  `json:"changes"`
	// ChangesSince is from when on changes are known, at most an hour ago.
	ChangesSince time.Time `json:"changes_since"`

	found []Runner // what a filter asked for, healthy ones included
}

// Shard is the part of the runners that this process shows.
type Shard struct {
	Index  int      `json:"index"`
	Count  int      `json:"count"`
	Others []string `json:"others"` // addresses of the other parts' pages; empty where not known
}

// GitLab is the state of one GitLab.
type GitLab struct {
	Name    string `json:"name"`
	URL     string `json:"url"`
	Version string `json:"version"`
	State   string `json:"state"`
	// ListedAt is the time of the list of runners that is shown.
	ListedAt time.Time `json:"listed_at,omitzero"`
	// OldestDetailsAt is when the details that are oldest were read.
	OldestDetailsAt time.Time `json:"oldest_details_at,omitzero"`
	DetailsMissing  int       `json:"details_missing"` // runners whose details were never read
	JudgedAt        time.Time `json:"judged_at,omitzero"`
	// Suspended is why no new down verdict is passed: after_outage, fleet_silent.
	Suspended      []string   `json:"suspended"`
	SuspendedUntil time.Time  `json:"suspended_until,omitzero"`
	CacheLostAt    time.Time  `json:"cache_lost_at,omitzero"`
	TagsKnown      bool       `json:"tags_known"` // false during the first reading
	Runners        Counts     `json:"runners"`
	FirstReading   []Progress `json:"first_reading"`
	Scopes         []Scope    `json:"scopes"`

	old bool // the list or the judgement is older than it should be
}

// Counts are numbers of runners. The verdicts count paused runners too.
type Counts struct {
	Total     int `json:"total"`
	Online    int `json:"online"`
	Available int `json:"available"`
	Paused    int `json:"paused"`
	Alive     int `json:"alive"`
	Overdue   int `json:"overdue"`
	Down      int `json:"down"`
	Unknown   int `json:"unknown"`
	NotJudged int `json:"not_judged"`
	Suspect   int `json:"suspect"`
}

// Progress is how far the first reading of a part has come.
type Progress struct {
	Part        string `json:"part"`
	Read        int    `json:"read"`
	Of          int    `json:"of"`
	LeftSeconds int64  `json:"left_seconds,omitempty"`
}

// Scope is one configured list of runners.
type Scope struct {
	Kind string `json:"kind"`
	Path string `json:"path"`
	Up   bool   `json:"up"`
}

// Tag is a tag that is short of runners. Paused, Down, Offline and Failing are
// the runners that are not usable, each in one of them only.
type Tag struct {
	GitLab    string    `json:"gitlab"`
	Tag       string    `json:"tag"`
	Problem   string    `json:"problem"`
	Since     time.Time `json:"since,omitzero"`
	Floor     *int      `json:"floor,omitempty"`
	Runners   int       `json:"runners"`
	Usable    int       `json:"usable"`
	Available int       `json:"available"`
	Paused    int       `json:"paused"`
	Down      int       `json:"down"`
	Offline   int       `json:"offline"`
	Failing   int       `json:"failing"`
	Executing int       `json:"jobs_executing"`
	AsOf      time.Time `json:"as_of,omitzero"` // of a withdrawn picture
	URL       string    `json:"url"`
	RunbookURL,
	BoardURL string `json:"-"`

	losses []loss
}

// loss is a runner that a tag cannot use, and since when.
type loss struct {
	id    int64
	name  string
	since time.Time
}

// Runner is a runner that is worth a look: not alive, suspected, with
// orphaned jobs; where nobody judged yet, one that GitLab does not call online.
type Runner struct {
	GitLab      string    `json:"gitlab"`
	ID          int64     `json:"id"`
	Description string    `json:"description"`
	Type        string    `json:"type"`
	Owner       string    `json:"owner"`
	Tags        []string  `json:"tags"`
	Status      string    `json:"status"` // as GitLab has it
	Paused      bool      `json:"paused"`
	Health      string    `json:"health"`
	Reason      string    `json:"reason"`
	Since       time.Time `json:"since,omitzero"`
	LastSeen    time.Time `json:"last_seen,omitzero"`
	Suspects    []Suspect `json:"suspects"`
	Orphaned    int       `json:"orphaned_jobs"`
	Failed      int       `json:"consecutive_failed_jobs"`
	Executing   *int      `json:"jobs_executing,omitempty"`
	Jobs        []JobRef  `json:"jobs"` // that it executes, where some are orphaned
	AsOf        time.Time `json:"as_of,omitzero"`
	URL         string    `json:"url"`
	GitLabURL   string    `json:"gitlab_url"`
}

// Queue is what waits for a runner of one GitLab. Jobs and Oldest are absent, and
// the lists empty, unless State is read.
type Queue struct {
	GitLab    string    `json:"gitlab"`
	State     string    `json:"state"` // as snapshot.QueueState
	ReadAt    time.Time `json:"read_at,omitzero"`
	Jobs      *int      `json:"jobs,omitempty"`
	Oldest    time.Time `json:"oldest,omitzero"`
	Truncated bool      `json:"truncated"` // the numbers are lower bounds
	// Everything is false where jobs that no registered runner can take are in no
	// list that is read.
	Everything bool             `json:"everything"`
	Tags       []QueueTag       `json:"tags"` // the longest wait first
	Unmatched  []QueueUnmatched `json:"unmatched"`

	version string
}

// QueueTag are the jobs that wait with one tag.
type QueueTag struct {
	Tag    string    `json:"tag"`
	Jobs   int       `json:"jobs"`
	Oldest time.Time `json:"oldest,omitzero"`
	URL    string    `json:"url"` // of the tag's runners; empty for what is no tag
}

// QueueUnmatched are the jobs with exactly these tags that no runner can take now.
type QueueUnmatched struct {
	Tags   string    `json:"tags"`
	Reason string    `json:"reason"` // no_runner, none_available
	Jobs   int       `json:"jobs"`
	Oldest time.Time `json:"oldest,omitzero"`
	URL    string    `json:"url"` // why

	// lasting: it waits for longer than a pool needs to start a runner.
	lasting bool
}

// JobRef is a job with its page in GitLab.
type JobRef struct {
	ID  int64  `json:"id"`
	URL string `json:"url"`
}

// Suspect is one suspicion and what it rests on, in words.
type Suspect struct {
	Reason   string    `json:"reason"`
	Since    time.Time `json:"since"`
	Evidence string    `json:"evidence"`
}

// Change is something that came or went within the last hour.
type Change struct {
	Time   time.Time `json:"time"`
	GitLab string    `json:"gitlab"`
	Kind   string    `json:"kind"`
	Runner int64     `json:"runner,omitempty"`
	Tag    string    `json:"tag,omitempty"`
	Name   string    `json:"description,omitempty"`
	Reason string    `json:"reason,omitempty"`
}

func (r *Runner) down() bool { return r.Health == snapshot.HealthDown.String() }

// abandoned reports a runner that was silent for a week: it waits for a clean-up.
func (r *Runner) abandoned() bool {
	return r.down() && r.Reason == snapshot.HealthAbandoned.String()
}

// outOfService reports a runner that is down and missed, as the alerts have it:
// not a paused one, and not an abandoned one.
func (r *Runner) outOfService() bool { return r.down() && !r.Paused && !r.abandoned() }
