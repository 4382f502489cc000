package gitlab

import (
	"cmp"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Runner is one row of a runner list (docs/gitlab-api.md 1.2). Members that the
// exporter does not use are skipped while streaming.
type Runner struct {
	ID          int64
	Description string
	Type        string // runner_type; derived from is_shared where the key is missing
	Status      string // the deprecated REST status (3.1): may be "paused", or a word unknown to us
	Execution   string // job_execution_status: "active", "idle", or "" on releases without it
	Active      *bool  // nil: key missing or null
	Paused      *bool  // nil: key missing or null (before 14.8)
	Online      *bool  // nil: null, which means never contacted
}

// Values of job_execution_status.
const (
	ExecutionActive = "active"
	ExecutionIdle   = "idle"
)

// RunnerDetails is a runner with what GET /runners/:id adds to the list row (1.3).
type RunnerDetails struct {
	Runner

	Tags []string // at most 200, of at most 1,020 bytes each, as GitLab has them
	// TagsOmitted counts tags that are not in Tags because they are beyond those
	// bounds. They are not cut, since cutting merges tags: the runner belongs
	// under (other) for them.
	TagsOmitted int
	RunUntagged bool
	Protected   bool // access_level is ref_protected
	Version     string
	Platform    string
	Arch        string
	ContactedAt time.Time // zero: never
	// MaximumTimeout of its jobs; 0: none.
	MaximumTimeout time.Duration
	Owner          string // path_with_namespace of the first project, or web_url's path of the first group
}

// Manager is one machine behind a runner (1.4).
type Manager struct {
	ID          int64
	SystemID    string
	Version     string
	Platform    string
	Arch        string
	Status      string
	Execution   string // job_execution_status, as Runner's; "" on releases without it too
	ContactedAt time.Time
}

// Job is one row of a runner's job list, or GET /projects/:id/jobs/:job_id
// (1.5). Times that are null, missing or not a time are zero.
type Job struct {
	ID            int64
	Status        string
	CreatedAt     time.Time
	StartedAt     time.Time
	FinishedAt    time.Time
	Duration      float64 // seconds; negative: null or missing
	Queued        float64 // queued_duration, seconds; negative: null or missing
	FailureReason string
	ProjectID     int64
	URL           string // its page in GitLab, of one that executes
}

// JobDetails is a job with what GET /projects/:id/jobs/:job_id adds to the row
// of a list (docs/gitlab-api.md 11). Whether its ref is protected is not in it.
type JobDetails struct {
	Job

	WebURL      string
	Tags        []string
	TagsOmitted int  // tags beyond the bounds of RunnerDetails.Tags
	TagsKnown   bool // false: the answer does not have them
	RunnerID    int64
	Runner      string    // its description
	At          time.Time // of the answer, by GitLab's clock; zero: not known
}

// RunnersPage is one page of a runner list, read by number (docs/gitlab-api.md 2).
type RunnersPage struct {
	Runners []Runner
	Next    int // number of the next page; 0: this was the last
	Total   int // X-Total; -1 where GitLab withholds it (beyond 10,000 rows)
	// Skipped counts rows without a usable id. They are not in Runners, so a
	// listing with one of them is not complete.
	Skipped int
}

// JobsPage is one page of a runner's jobs.
type JobsPage struct {
	Jobs   []Job
	Next   int    // next page when read by number; 0: none
	Cursor string // next cursor when read by keyset; "": none
	Total  int    // X-Total; -1: absent
	Keyset bool   // the server really answered by keyset: it ignores the parameter where it cannot

	Skipped int // rows without a usable id; they are not in Jobs
}

// JobsQuery selects the jobs of a runner to read.
type JobsQuery struct {
	RunnerID int64
	Status   string // "": any; newest id first
	Page     int    // by number, from 1; 0 with Keyset
	Rows     int    // of a page by number; 0: as many as GitLab gives, 100
	Keyset   bool   // newest first by keyset (Cursor "" for the first page)
	Cursor   string
}

// Scope is where a runner list is read from. The zero Scope is the instance.
type Scope struct {
	Kind snapshot.ScopeKind
	ID   string // group or project: id or full path
}

func (s Scope) kind() snapshot.ScopeKind { return cmp.Or(s.Kind, snapshot.ScopeInstance) }

// Token is what GET /personal_access_tokens/self returns.
type Token struct {
	Name      string
	UserID    int64
	Scopes    []string
	ExpiresAt time.Time // 00:00 UTC of its day; zero: never
}
