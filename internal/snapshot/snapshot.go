package snapshot

import "time"

// GitLab is everything known of one GitLab at one moment. It is immutable once
// published: the collector reads it from many goroutines without a lock.
type GitLab struct {
	Name    string // the label gitlab
	URL     string
	Version string // "" until it was read
	// Generation rises with each publish of this GitLab. The collector reports
	// the highest one that a scrape has read, so that a new counter may leave 0.
	Generation uint64
	// RowsGeneration is the Generation at which the runner_ families' data
	// (Fleet.Rows, Counters.Runners) last changed: they are rebuilt only then.
	RowsGeneration uint64
	Time           time.Time

	// Up: the last listing was complete, or complete but for scopes that
	// GitLab itself refuses. It is false whenever Fleet is nil.
	Up bool
	// Scopes are the configured scopes, in the order of the configuration.
	Scopes []ScopeState

	// Fleet is nil before the first complete listing and when the last one is
	// older than staleness: a withdrawn gauge cannot lie.
	Fleet *Fleet
	// Queue is nil where the queue is not read, cannot be read, or was not read
	// for three intervals: an unreadable queue is no empty one.
	Queue *Queue
	// QueueState is QueueRead where Queue is not nil, and else why it is.
	QueueState QueueState
	// QueueAt is when Queue was read, by our clock.
	QueueAt time.Time
	// Health is nil until the runners were judged for the first time, and where
	// Fleet is nil. It judges those of Fleet.
	Health *HealthPicture
	// Counters are never withdrawn. nil before the first answer of this GitLab.
	Counters *Counters

	Expected []Expected // the configured floors, sorted by tag
	Self     Self
}

// ScopeState is how one configured list of runners stands.
type ScopeState struct {
	Kind ScopeKind
	Path string // of the group or project as configured; "" for the others
	Up   bool   // its last listing was complete
}

// Expected is a configured floor: how many available runners a tag must have.
type Expected struct {
	Tag     string
	Runners int
}

// Fleet holds the gauges. Sums are over runners of this process's shard.
type Fleet struct {
	Runners       [NumRunnerTypes][NumStatuses][2]int // last index: 1 is paused
	Busy          [NumRunnerTypes]int
	JobsExecuting [NumRunnerTypes][2]int // last index: 0 running, 1 canceling
	Health        HealthCounts

	// Detailed is true once the details of every listed runner were read, or
	// failed three times, or stand in the saved state. Until then Tags are
	// incomplete sums and must not be exported.
	Detailed bool
	// MachinesWhole is the same for the machines behind the runners, and true
	// where GitLab has no machines: until then Managers and Versions
	// must not be exported.
	MachinesWhole bool
	// JobsWhole is the same for the jobs of each runner that may be executing:
	// until then Busy, JobsExecuting and those of the tags must not be exported.
	JobsWhole bool
	Managers  [NumRunnerTypes][NumStatuses]int
	// ManagersRead is false where no machine was ever read (a release without
	// that endpoint): the family is absent then, since zeros would lie.
	ManagersRead bool
	Versions     []Version // sorted by version
	Tags         []Tag     // sorted by name
	// UnknownTags are those whose sums are not known, sorted: they stand neither
	// in Tags nor as a 0 for a floor.
	UnknownTags []string

	// Rows are the runners, sorted by id.
	Rows []Runner
}

// Version counts runners by gitlab-runner version.
type Version struct {
	Version string
	Runners int
	Behind  int // minor releases behind the newest of fleet and GitLab; -1: not a version we can compare
}

// Tag is what stands under one value of the label tag.
type Tag struct {
	Name string
	// Runners is nil for a type that never had a runner under this tag; else
	// all 8 combinations are exported.
	Runners       [NumRunnerTypes]*[NumStatuses][2]int
	JobsExecuting [NumRunnerTypes]int // exported where Runners is not nil
	Busy          int
	Available     int
	Usable        int       // available, neither down nor a black hole; Available where nobody judged
	Capacity      int       // jobs that its available runners can execute at once, as learned
	LastAvailable time.Time // zero: never seen
}

// Runner is one runner of the fleet.
type Runner struct {
	ID     int64
	Type   RunnerType
	Status Status
	Paused bool
	// The first readings that showed the present status, and that it is paused;
	// zero: not known.
	StatusSince, PausedSince time.Time

	Description string
	Owner       string // full path of the owning group or project; "" for instance runners
	Version     string
	Platform    string
	Arch        string
	RunUntagged bool
	Protected   bool
	Tags        []string // label values, the special ones included; sorted, unique

	ContactedAt time.Time // zero: never, or not read
	LastSeen    time.Time // last sign of it by any evidence; zero: none
	DetailsAt   time.Time // zero: details never read

	ManagersOnline int // -1: not known
	ManagersKnown  int // -1: not known

	JobsExecuting   int       // -1: not read yet
	OldestJobStart  time.Time // zero: none executing
	LastJobFinished time.Time // zero: none known

	// Listed by metrics.runners.include and .exclude: whether it has runner_ series.
	Exported bool
}

// Counters are the durable sums, as of the last commit.
type Counters struct {
	JobsFinished    []Counter       // runner_type, status, failure_class, failure_reason
	TagJobsFinished []Counter       // tag, status, failure_class
	Runners         []RunnerCounter // runner_id, status, failure_class; only runners with Exported
	JobDuration     []Histogram     // runner_type, status
	JobQueued       []Histogram     // runner_type
	TagJobQueued    []Histogram     // tag
	// What happened to runners, by runner_type; none before the first listing.
	StatusChanges, RunnersJoined, RunnersLeft []Counter
}

// Counter is one counter series. Value is what may be shown: 0 until a scrape
// has read the new series, so that increase() sees its first event.
type Counter struct {
	Labels  []string
	Value   float64
	Created time.Time
}

// RunnerCounter is one series of runner_jobs_finished_total.
type RunnerCounter struct {
	ID      int64
	Status  JobStatus
	Class   FailureClass
	Value   float64
	Created time.Time
}

// Histogram is one histogram series.
type Histogram struct {
	Labels  []string
	Buckets []uint64 // not cumulative; one more than the bounds, the last is +Inf
	Sum     float64
	Created time.Time
}

// Self describes the exporter's own reading of this GitLab, where
// the monitor counts it better than a counter in the collector would.
type Self struct {
	Stages [NumStages]StageState

	RateLimit     float64 // Observed + Remaining; -1: no throttle seen, or its window is over
	RateRemaining float64 // -1: likewise

	JobsVisible   int // 1 the token may see all jobs, 0 it may not, -1 not known
	TagsOverLimit int
	TokenExpiry   time.Time     // zero: none
	ClockOffset   time.Duration // GitLab's clock less ours
	ClockKnown    bool          // GitLab's answers have a Date

	JobsRecovered  uint64
	JobsUnresolved [NumUnresolvedReasons]uint64

	// First are the parts of the first picture that are not whole yet; none
	// before the first listing.
	First []Progress
}

// Progress is how far a part of the first picture has come.
type Progress struct {
	Part     Part
	Read, Of int           // runners
	Left     time.Duration // roughly, until it is whole; 0: not known
}

// StageState is the state of one stage of reading.
type StageState struct {
	LastSuccess time.Time     // zero: never
	Interval    time.Duration // in force now
	Lag         time.Duration // lateness of the most overdue reading
	Unread      map[string]int
}
