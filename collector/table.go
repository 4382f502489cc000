package collector

import (
	"slices"
	"strings"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Type is a metric type as the exposition formats write it.
type Type string

// The metric types in use.
const (
	Gauge     Type = "gauge"
	Counter   Type = "counter"
	Histogram Type = "histogram"
)

// Stability is what users may rely on.
type Stability string

// A stable family changes only as SemVer allows; an experimental one may change
// in any release.
const (
	Stable       Stability = "stable"
	Experimental Stability = "experimental"
)

// Group sorts families by what they cost and whom they serve, for selecting
// some of them at a scrape.
type Group string

// The groups.
const (
	GroupFleet    Group = "fleet"    // sums over the fleet: bounded by tags and versions
	GroupRunner   Group = "runner"   // the runner_ families: grow with the fleet
	GroupExporter Group = "exporter" // the exporter about itself
)

// Family is one row of THE table: all that the exposition, the documentation,
// the configuration's check and the dashboards' tests know of a metric family.
type Family struct {
	Name string
	Type Type
	// Unit is the OpenMetrics unit, the last word of the name; "" where the
	// family counts things.
	Unit string
	Help string // one short sentence
	// Notes are further sentences for the reference alone: values of labels, and
	// when a series is absent.
	Notes string
	// Labels of each series, gitlab first where it stands. Fleet and runner
	// families also have the label shard where there is more than one shard.
	Labels    []string
	Stability Stability
	Group     Group
	// Series is the number of series of one GitLab, as a formula for the reference.
	Series string
	// Buckets are the upper bounds of a histogram without +Inf.
	Buckets []float64
}

// family is a row with its machinery. Those without collect live in the
// registry (self.go).
type family struct {
	Family
	collect func(v *view, s *sink)
	rows    bool // a runner_ family: rendered only when the rows change
	self    bool // about the exporter: no label shard, not counted in series
	ill     bool // a runner_ family of exceptions: it gives way to the ceiling last
	heads   [numFormats][]byte
}

const (
	fleetPrefix = "gitlab_runner_fleet_"
	selfPrefix  = "gitlab_runner_fleet_exporter_"
	buildInfo   = selfPrefix + "build_info"
)

// Families is THE table, in the order of the documentation. The caller may
// change what it gets.
func Families() []Family {
	var out []Family
	for _, f := range table() {
		out = append(out, f.Family)
	}
	return out
}

// table makes the rows anew, so that nobody shares a slice.
func table() []*family {
	rows := slices.Concat(fleetTable(), queueTable(), runnerTable(), jobTable(), selfTable())
	for _, f := range rows {
		prefix := fleetPrefix
		if f.self = f.Group == GroupExporter; f.self {
			prefix = selfPrefix
		} else {
			f.Labels = append([]string{"gitlab"}, f.Labels...)
		}
		f.rows = f.Group == GroupRunner
		f.Name = prefix + f.Name
		f.Notes = strings.TrimSpace(f.Notes) // its parts are sentences with a space before each
		if f.Stability == "" {
			f.Stability = Stable
		}
		// The unit is in the name; OpenMetrics requires it last. A counter's is
		// before _total.
		if strings.HasSuffix(f.Name, "_seconds") {
			f.Unit = "seconds"
		}
		f.Buckets = slices.Clone(f.Buckets)
	}
	return rows
}

const (
	absentBeforeListing = " Absent before the first complete listing of runners and while the last one is older than the configured staleness."
	absentUndetailed    = " Absent as long as the runners' details were not all read, and while the last complete listing is older than the configured staleness."
	absentTag           = absentUndetailed + " A tag is absent while a scope that had a runner with it cannot be read."
	absentRunner        = " Absent for runners that metrics.runners excludes or that are younger than its min_age, and while the last complete listing is older than the configured staleness."
	absentMachines      = " Absent as long as the runners' details, and their machines where GitLab has an endpoint for them, were not all read, and while the last complete listing is older than the configured staleness."
	absentHealth        = " Absent until health was judged for the first time, and while the last complete listing is older than the configured staleness."
	absentJobs          = " Absent until the jobs of each runner that may be executing were read once, and while the last complete listing is older than the configured staleness."
	absentTagJobs       = " Absent as long as the runners' details, and the jobs of each runner that may be executing, were not all read once, and while the last complete listing is older than the configured staleness. A tag is absent while a scope that had a runner with it cannot be read."
	statusSentence      = " status is online, offline, stale or never_contacted, for paused runners too."
)

// fleetTable is the state of the fleet as sums.
func fleetTable() []*family {
	return []*family{
		{Family: Family{
			Name: "up", Type: Gauge, Group: GroupFleet, Series: "1",
			Help:  "Whether the last listing of runners was complete: 1 if so, else 0.",
			Notes: "Scopes that GitLab itself refuses are left out of it. 0 before the first listing and whenever the gauges are withdrawn. Never absent.",
		}, collect: collectUp},
		{Family: Family{
			Name: "scope_up", Type: Gauge, Group: GroupFleet, Labels: []string{"scope", "path"}, Series: "configured scopes",
			Help:  "Whether the last listing of one configured scope was complete: 1 if so, else 0.",
			Notes: "0 before the first listing. scope is instance, owned, groups or projects; path is the group or project as configured, empty for the others. Never absent.",
		}, collect: collectScopeUp},
		{Family: Family{
			Name: "gitlab_info", Type: Gauge, Group: GroupFleet, Labels: []string{"url", "version"}, Series: "1",
			Help:  "The monitored GitLab, always 1.",
			Notes: "version is empty until it was read. Never absent.",
		}, collect: collectGitLabInfo},
		{Family: Family{
			Name: "runners", Type: Gauge, Group: GroupFleet, Labels: []string{"runner_type", "status", "paused"}, Series: "24",
			Help:  "Number of runners, each counted once.",
			Notes: statusSentence + absentBeforeListing,
		}, collect: collectRunners},
		{Family: Family{
			Name: "tag_runners", Type: Gauge, Group: GroupFleet, Labels: []string{"tag", "runner_type", "status", "paused"}, Series: "8 × (tag, runner_type) pairs",
			Help:  "Number of runners with a tag; a runner is counted under each of its tags.",
			Notes: "It is counted under (untagged) if it takes untagged jobs, under (unknown) if its details could not be read, and under (other) for tags that have no series of their own." + statusSentence + absentTag,
		}, collect: collectTagRunners},
		{Family: Family{
			Name: "managers", Type: Gauge, Group: GroupFleet, Labels: []string{"runner_type", "status"}, Series: "12",
			Help:  "Number of machines (runner managers) behind the runners.",
			Notes: absentMachines,
		}, collect: collectManagers},
		{Family: Family{
			Name: "busy_runners", Type: Gauge, Group: GroupFleet, Labels: []string{"runner_type"}, Series: "3",
			Help:  "Number of runners that execute at least one job.",
			Notes: absentJobs,
		}, collect: collectBusy},
		{Family: Family{
			Name: "tag_busy_runners", Type: Gauge, Group: GroupFleet, Labels: []string{"tag"}, Series: "tags",
			Help:  "Number of runners with a tag that execute at least one job.",
			Notes: absentTagJobs,
		}, collect: collectTagBusy},
		{Family: Family{
			Name: "version_runners", Type: Gauge, Group: GroupFleet, Labels: []string{"version"}, Series: "versions, at most 52",
			Help:  "Number of runners by gitlab-runner version, the oldest of a runner's online machines.",
			Notes: "The 50 versions with most runners have series, the rest is (other); (unknown) where a runner reported none." + absentMachines,
		}, collect: collectVersions},
		{Family: Family{
			Name: "version_behind_minor_releases", Type: Gauge, Group: GroupFleet, Labels: []string{"version"}, Series: "versions, at most 50",
			Help:  "Minor releases that a gitlab-runner version is behind the newest of the fleet and its GitLab.",
			Notes: "Absent for versions that cannot be compared and for (other)." + absentMachines,
		}, collect: collectVersionsBehind},
		{Family: Family{
			Name: "tag_expected_runners", Type: Gauge, Group: GroupFleet, Labels: []string{"tag"}, Series: "tags of expected",
			Help:  "Configured floor: number of available runners that a tag must have.",
			Notes: "0 for a tag that may have none. Absent for tags without a floor.",
		}, collect: collectTagExpected},
		{Family: Family{
			Name: "tag_available_runners", Type: Gauge, Group: GroupFleet, Labels: []string{"tag"}, Series: "tags, those of expected included",
			Help:  "Number of runners with a tag that are online and not paused.",
			Notes: "0 for an expected tag that no runner has." + absentTag,
		}, collect: collectTagAvailable},
		{Family: Family{
			Name: "tag_usable_runners", Type: Gauge, Group: GroupFleet, Labels: []string{"tag"}, Series: "tags, those of expected included",
			Help:  "Number of available runners with a tag that are neither down nor a black_hole by health.",
			Notes: "All available ones until health was judged for the first time." + absentTag,
		}, collect: collectTagUsable},
		{Family: Family{
			Name: "tag_last_available_timestamp_seconds", Type: Gauge, Group: GroupFleet, Labels: []string{"tag"}, Series: "tags",
			Help:  "When a reading last showed an available runner with a tag, in seconds since the epoch.",
			Notes: "Absent for a tag that never had one." + absentTag,
		}, collect: collectTagLastAvailable},
		{Family: Family{
			Name: "tag_capacity_jobs", Type: Gauge, Group: GroupFleet, Labels: []string{"tag"}, Series: "tags", Stability: Experimental,
			Help:  "Number of jobs that a tag's available runners can execute at once, as learned.",
			Notes: "The sum of the most that each executed at once within 7 days: GitLab does not know the limits of its runners." + absentTag,
		}, collect: collectTagCapacity},
		{Family: Family{
			Name: "jobs_executing", Type: Gauge, Group: GroupFleet, Labels: []string{"runner_type", "status"}, Series: "6",
			Help:  "Number of jobs that runners execute now, by job status running or canceling.",
			Notes: absentJobs,
		}, collect: collectJobsExecuting},
		{Family: Family{
			Name: "tag_jobs_executing", Type: Gauge, Group: GroupFleet, Labels: []string{"tag", "runner_type"}, Series: "(tag, runner_type) pairs",
			Help:  "Number of jobs that runners with a tag execute now.",
			Notes: "The tag is the runner's, not the job's." + absentTagJobs,
		}, collect: collectTagJobsExecuting},
		{Family: Family{
			Name: "health_runners", Type: Gauge, Group: GroupFleet, Labels: []string{"runner_type", "health", "reason", "paused"}, Series: "84",
			Help:  "Number of runners by health and the reason of the verdict, each counted once.",
			Notes: "health is alive, overdue, down or unknown; reason is empty where alive." + absentHealth,
		}, collect: collectHealth},
		{Family: Family{
			Name: "suspect_runners", Type: Gauge, Group: GroupFleet, Labels: []string{"reason"}, Series: "4",
			Help:  "Number of runners that are alive and suspected to be ill, by reason.",
			Notes: "reason is black_hole, infrastructure, takes_no_jobs or over_timeout." + absentHealth,
		}, collect: collectSuspects},
		{Family: Family{
			Name: "health_judgement_suspended", Type: Gauge, Group: GroupFleet, Labels: []string{"reason"}, Series: "2",
			Help:  "Whether no runner is newly judged down, by reason: 1 if so, else 0.",
			Notes: "reason is after_outage where GitLab was in trouble, fleet_silent where most of the fleet is silent." + absentHealth,
		}, collect: collectSuspended},
		{Family: Family{
			Name: "runners_status_changes_total", Type: Counter, Group: GroupFleet, Labels: []string{"runner_type"}, Series: "3",
			Help:  "Changes of a runner's status (online, offline, stale, never_contacted) from one reading to the next.",
			Notes: "Kept over restarts. Absent before the first complete listing of runners.",
		}, collect: collectStatusChanges},
		{Family: Family{
			Name: "runners_joined_total", Type: Counter, Group: GroupFleet, Labels: []string{"runner_type"}, Series: "3",
			Help:  "Runners that came into the fleet.",
			Notes: "Those of a scope's first listing, or of the first one after GitLab refused it, did not join. Kept over restarts. Absent before the first complete listing of runners.",
		}, collect: collectRunnersJoined},
		{Family: Family{
			Name: "runners_left_total", Type: Counter, Group: GroupFleet, Labels: []string{"runner_type"}, Series: "3",
			Help:  "Runners that GitLab does not list any more.",
			Notes: "Those of a scope that was taken out of the configuration, or that GitLab refuses, did not leave. Kept over restarts. Absent before the first complete listing of runners.",
		}, collect: collectRunnersLeft},
	}
}

const absentQueue = " Absent where the queue is not read (queue: off) or cannot be (GitLab before 18.1, but for scope projects; a token without the right), and after three times poll.queue_interval without a reading, and while the last complete listing is older than the configured staleness: never 0 then. With shards the first one has it."

// queueTable is the jobs that wait for a runner. Their label tag is a job's.
func queueTable() []*family {
	return []*family{
		{Family: Family{
			Name: "queue_jobs", Type: Gauge, Group: GroupFleet, Series: "1",
			Help:  "Number of jobs that wait for a runner, each counted once.",
			Notes: "Those that a registered runner could take; with queue: all or scope projects the others too." + absentQueue,
		}, collect: collectQueueJobs},
		{Family: Family{
			Name: "queue_tag_jobs", Type: Gauge, Group: GroupFleet, Labels: []string{"tag"}, Series: "tags",
			Help:  "Number of jobs that wait for a runner, by tag of the job.",
			Notes: "A job is counted under each of its tags, under (untagged) if it has none, under (no_runner) for tags that no runner carries, and under (unknown) where its tags cannot be read." + absentQueue,
		}, collect: collectQueueTagJobs},
		{Family: Family{
			Name: "queue_tagset_jobs", Type: Gauge, Group: GroupFleet, Labels: []string{"tags"}, Series: "tag sets, at most 201",
			Help:  "Number of jobs that wait for a runner, by their whole set of tags, sorted and joined by commas.",
			Notes: "The 200 sets that had a job last have series, the rest is (other). A set stays at 0 for 7 days; it is absent while no runner that takes it was read." + absentQueue,
		}, collect: collectQueueTagsetJobs},
		{Family: Family{
			Name: "queue_oldest_timestamp_seconds", Type: Gauge, Group: GroupFleet, Series: "1",
			Help:  "Since when the job waits that waits the longest, in seconds since the epoch.",
			Notes: "Absent while none waits." + absentQueue,
		}, collect: collectQueueOldest},
		{Family: Family{
			Name: "queue_tag_oldest_timestamp_seconds", Type: Gauge, Group: GroupFleet, Labels: []string{"tag"}, Series: "tags with waiting jobs",
			Help:  "Since when the job with a tag waits that waits the longest, in seconds since the epoch.",
			Notes: "Absent while none waits." + absentQueue,
		}, collect: collectQueueTagOldest},
		{Family: Family{
			Name: "queue_unmatched_tagset_jobs", Type: Gauge, Group: GroupFleet, Labels: []string{"tags", "reason"}, Series: "tag sets of such jobs, at most 202",
			Help:  "Number of waiting jobs that no runner can take now, by their whole set of tags and reason.",
			Notes: "reason is no_runner where no registered runner could (known with queue: all or scope projects only), none_available where only runners that are not online or are paused could. Stays at 0 for 1 h, then it is absent." + absentQueue,
		}, collect: collectQueueUnmatched},
		{Family: Family{
			Name: "queue_truncated", Type: Gauge, Group: GroupFleet, Series: "1",
			Help:  "Whether the queue could not be read whole, so that its numbers are lower bounds: 1 if so, else 0.",
			Notes: "One reading takes five requests at most." + absentQueue,
		}, collect: collectQueueTruncated},
	}
}

// runnerTable is what is known of each runner.
func runnerTable() []*family {
	return []*family{
		{Family: Family{
			Name: "runner_info", Type: Gauge, Group: GroupRunner, Series: "runners",
			Labels: []string{"runner_id", "runner_type", "description", "owner", "version", "platform", "architecture", "run_untagged", "protected"},
			Help:   "Properties of a runner, always 1; those not read yet are empty.",
			Notes:  "description is cut at 255 bytes, owner is the path of the group or project." + absentRunner,
		}, collect: collectRunnerInfo, ill: true},
		{Family: Family{
			Name: "runner_status", Type: Gauge, Group: GroupRunner, Labels: []string{"runner_id", "status"}, Series: "4 × runners",
			Help:  "Whether a runner has a status: 1 for the present one, 0 for the others.",
			Notes: statusSentence + absentRunner,
		}, collect: collectRunnerStatus},
		{Family: Family{
			Name: "runner_paused", Type: Gauge, Group: GroupRunner, Labels: []string{"runner_id"}, Series: "runners",
			Help:  "Whether a runner is paused: 1 if so, else 0.",
			Notes: absentRunner,
		}, collect: collectRunnerPaused},
		{Family: Family{
			Name: "runner_status_since_timestamp_seconds", Type: Gauge, Group: GroupRunner, Labels: []string{"runner_id"}, Series: "runners that are not online",
			Help:  "When a reading first showed the present status of a runner that is not online, in seconds since the epoch.",
			Notes: "Kept over restarts. Absent while it is online." + absentRunner,
		}, collect: collectRunnerStatusSince},
		{Family: Family{
			Name: "runner_paused_since_timestamp_seconds", Type: Gauge, Group: GroupRunner, Labels: []string{"runner_id"}, Series: "paused runners",
			Help:  "When a reading first showed that a runner is paused, in seconds since the epoch.",
			Notes: "Kept over restarts. Absent while it is not paused." + absentRunner,
		}, collect: collectRunnerPausedSince},
		{Family: Family{
			Name: "runner_contacted_timestamp_seconds", Type: Gauge, Group: GroupRunner, Labels: []string{"runner_id"}, Series: "runners",
			Help:  "When a runner last contacted GitLab, in seconds since the epoch.",
			Notes: "Up to an hour old for a healthy idle runner. Absent if it never did or its details were not read." + absentRunner,
		}, collect: collectRunnerContacted},
		{Family: Family{
			Name: "runner_details_timestamp_seconds", Type: Gauge, Group: GroupRunner, Labels: []string{"runner_id"}, Series: "runners",
			Help:  "When a runner's details, its last contact among them, were read, in seconds since the epoch.",
			Notes: "Absent until then." + absentRunner,
		}, collect: collectRunnerDetails},
		{Family: Family{
			Name: "runner_last_seen_timestamp_seconds", Type: Gauge, Group: GroupRunner, Labels: []string{"runner_id"}, Series: "runners",
			Help:  "When a runner last gave a sign of life, in seconds since the epoch.",
			Notes: "By its contacts, those of its machines, or its jobs. Absent if none is known." + absentRunner,
		}, collect: collectRunnerLastSeen},
		{Family: Family{
			Name: "runner_unhealthy_since_timestamp_seconds", Type: Gauge, Group: GroupRunner, Labels: []string{"runner_id", "health", "reason"}, Series: "runners that are not alive",
			Help:  "Since when a runner is overdue, down or unknown by health, in seconds since the epoch.",
			Notes: "Kept over restarts. Absent while it is alive." + absentRunner,
		}, collect: collectRunnerUnhealthySince, ill: true},
		{Family: Family{
			Name: "runner_suspect_since_timestamp_seconds", Type: Gauge, Group: GroupRunner, Labels: []string{"runner_id", "reason"}, Series: "suspect runners",
			Help:  "Since when a runner is suspected to be ill though it is alive, in seconds since the epoch.",
			Notes: "Kept over restarts. Absent while it is not." + absentRunner,
		}, collect: collectRunnerSuspectSince, ill: true},
		{Family: Family{
			Name: "runner_orphaned_jobs", Type: Gauge, Group: GroupRunner, Labels: []string{"runner_id"}, Series: "runners with orphaned jobs",
			Help:  "Number of jobs that a runner's silent machines were executing.",
			Notes: "Absent where there are none." + absentRunner,
		}, collect: collectRunnerOrphanedJobs, ill: true},
		{Family: Family{
			Name: "runner_consecutive_failed_jobs", Type: Gauge, Group: GroupRunner, Labels: []string{"runner_id"}, Series: "runners whose last job failed",
			Help:  "Number of jobs of a runner that failed one after the other since its last success.",
			Notes: "Absent where there are none." + absentRunner,
		}, collect: collectRunnerConsecutiveFailed, ill: true},
		{Family: Family{
			Name: "runner_tag_info", Type: Gauge, Group: GroupRunner, Labels: []string{"runner_id", "tag"}, Series: "sum of the runners' tags",
			Help:  "The tags of a runner, always 1, for joins.",
			Notes: absentRunner,
		}, collect: collectRunnerTags},
		{Family: Family{
			Name: "runner_managers_online", Type: Gauge, Group: GroupRunner, Labels: []string{"runner_id"}, Series: "runners",
			Help:  "Number of online machines (runner managers) behind a runner.",
			Notes: "Absent until they were read." + absentRunner,
		}, collect: collectRunnerManagersOnline},
		{Family: Family{
			Name: "runner_managers_known", Type: Gauge, Group: GroupRunner, Labels: []string{"runner_id"}, Series: "runners",
			Help:  "Number of machines (runner managers) that GitLab knows behind a runner.",
			Notes: "Absent until they were read." + absentRunner,
		}, collect: collectRunnerManagersKnown},
		{Family: Family{
			Name: "runner_jobs_executing", Type: Gauge, Group: GroupRunner, Labels: []string{"runner_id"}, Series: "runners",
			Help:  "Number of jobs that a runner executes now.",
			Notes: "Absent until its jobs were read." + absentRunner,
		}, collect: collectRunnerJobsExecuting},
		{Family: Family{
			Name: "runner_oldest_job_start_timestamp_seconds", Type: Gauge, Group: GroupRunner, Labels: []string{"runner_id"}, Series: "busy runners",
			Help:  "When the oldest of the jobs that a runner executes now started, in seconds since the epoch.",
			Notes: "Absent if it executes none." + absentRunner,
		}, collect: collectRunnerOldestJob},
		{Family: Family{
			Name: "runner_last_job_finished_timestamp_seconds", Type: Gauge, Group: GroupRunner, Labels: []string{"runner_id"}, Series: "runners",
			Help:  "When the last job of a runner that is known finished, in seconds since the epoch.",
			Notes: "Absent if none is known." + absentRunner,
		}, collect: collectRunnerLastJob},
		{Family: Family{
			Name: "runner_jobs_finished_total", Type: Counter, Group: GroupRunner, Labels: []string{"runner_id", "status", "failure_class"}, Series: "up to 5 × runners",
			Help:  "Finished jobs of a runner, each counted once.",
			Notes: "failure_class is script, infrastructure or other for failed ones, else empty. Absent for runners that metrics.runners excludes or that are younger than its min_age; goes with its runner.",
		}, collect: collectRunnerJobsFinished},
	}
}

// jobTable is what was counted of finished jobs: never withdrawn.
func jobTable() []*family {
	return []*family{
		{Family: Family{
			Name: "jobs_finished_total", Type: Counter, Group: GroupFleet, Labels: []string{"runner_type", "status", "failure_class", "failure_reason"},
			Series: "runner types × (2 + failure reasons seen)",
			Help:   "Finished jobs, each counted once, by status success, failed or canceled.",
			Notes:  "failure_class (script, infrastructure, other) and failure_reason (GitLab's, other or unknown_failure) are empty unless failed. Absent before the first answer of GitLab.",
		}, collect: collectJobsFinished},
		{Family: Family{
			Name: "tag_jobs_finished_total", Type: Counter, Group: GroupFleet, Labels: []string{"tag", "status", "failure_class"}, Series: "up to 5 × tags",
			Help:  "Finished jobs, each counted once under each tag that its runner had then.",
			Notes: "failure_class is empty unless failed. Absent before the first answer of GitLab.",
		}, collect: collectTagJobsFinished},
		{Family: Family{
			Name: "job_duration_seconds", Type: Histogram, Group: GroupFleet, Labels: []string{"runner_type", "status"}, Series: "up to 15 × 9",
			Help:    "Time that finished jobs took from start to end, in seconds.",
			Notes:   "Jobs without a start stand in no histogram. Absent before the first answer of GitLab.",
			Buckets: snapshot.JobDurationBounds(),
		}, collect: collectJobDuration},
		{Family: Family{
			Name: "job_queued_duration_seconds", Type: Histogram, Group: GroupFleet, Labels: []string{"runner_type"}, Series: "up to 15 × 3",
			Help:    "Time that jobs waited from pending until a runner picked them up, in seconds.",
			Notes:   "Each job once, when first seen executing or, if never, when counted. Absent before the first answer of GitLab.",
			Buckets: snapshot.JobQueuedBounds(),
		}, collect: collectJobQueued},
		{Family: Family{
			Name: "tag_job_queued_duration_seconds", Type: Histogram, Group: GroupFleet, Labels: []string{"tag"}, Series: "15 × tags",
			Help:    "Time that jobs waited from pending until a runner with a tag picked them up, in seconds.",
			Notes:   "Each job once under each of its runner's tags. Absent before the first answer of GitLab.",
			Buckets: snapshot.JobQueuedBounds(),
		}, collect: collectTagJobQueued},
	}
}

// selfTable is the exporter about itself. Rows with collect come from the
// snapshot, where the monitor has the value; the others are counted by Self.
func selfTable() []*family {
	rows := []*family{
		{Family: Family{
			Name: "build_info", Type: Gauge, Series: "1",
			Labels: []string{"version", "revision", "branch", "goversion", "goos", "goarch", "tags"},
			Help:   "A metric with a constant '1' value labeled by version, revision, branch, goversion from which " + strings.TrimSuffix(buildInfo, "_build_info") + " was built, and the goos and goarch for the build.",
		}},
		{Family: Family{
			Name: "time_seconds", Type: Gauge, Series: "1 in all",
			Help:  "The clock of this process at the scrape, in seconds since the epoch.",
			Notes: "Less a timestamp it is an age, whatever clock Prometheus has.",
		}},
		{Family: Family{
			Name: "shards", Type: Gauge, Series: "1 in all",
			Help: "Number of processes that share the runners, as --shard.count has it; 1 without shards.",
		}},
		{Family: Family{
			Name: "api_requests_total", Type: Counter, Labels: []string{"gitlab", "route", "code"}, Series: "routes × codes seen",
			Help: "Requests to GitLab's API by route and HTTP status code; code is error for a request without an answer.",
		}},
		{Family: Family{
			Name: "api_retries_total", Type: Counter, Labels: []string{"gitlab", "reason"}, Series: "reasons",
			Help: "Requests to GitLab's API that were sent again, by the reason of the first failure.",
		}},
		{Family: Family{
			Name: "api_request_duration_seconds", Type: Histogram, Labels: []string{"gitlab", "route"}, Series: "13 × routes",
			Help: "Time of a request to GitLab's API until its answer was read, in seconds.",
			// From a cached answer to the longest request_timeout anyone sets.
			Buckets: []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60},
		}},
		{Family: Family{
			Name: "poll_duration_seconds", Type: Histogram, Labels: []string{"gitlab", "stage"}, Series: "16 × 4",
			Help:  "Time of one reading of a stage, waiting for the request budget included, in seconds.",
			Notes: "stage is runners, details, jobs, reconcile or queue.",
			// From one request to a deeper walk at a small budget.
			Buckets: []float64{0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600},
		}},
		{Family: Family{
			Name: "poll_failures_total", Type: Counter, Labels: []string{"gitlab", "stage", "reason"}, Series: "4 × reasons",
			Help: "Readings of a stage that failed, by reason.",
		}},
		{Family: Family{
			Name: "poll_last_success_timestamp_seconds", Type: Gauge, Labels: []string{"gitlab", "stage"}, Series: "4",
			Help:  "When a stage last succeeded, in seconds since the epoch.",
			Notes: "Absent until it first did.",
		}, collect: collectLastSuccess},
		{Family: Family{
			Name: "poll_interval_seconds", Type: Gauge, Labels: []string{"gitlab", "stage"}, Series: "4",
			Help:  "Interval at which a stage is read now, in seconds.",
			Notes: "Absent until the stage is in use.",
		}, collect: collectInterval},
		{Family: Family{
			Name: "poll_lag_seconds", Type: Gauge, Labels: []string{"gitlab", "stage"}, Series: "4",
			Help: "Lateness of a stage's most overdue reading, in seconds; 0 if all are on time.",
		}, collect: collectLag},
		{Family: Family{
			Name: "runners_unread", Type: Gauge, Labels: []string{"gitlab", "stage", "reason"}, Series: "4 × reasons",
			Help:  "Number of runners that a stage could not read at its last attempt, by reason.",
			Notes: "Absent for reasons that never occurred.",
		}, collect: collectUnread},
		{Family: Family{
			Name: "api_rate_limit_requests", Type: Gauge, Labels: []string{"gitlab"}, Series: "1",
			Help:  "Requests that GitLab's rate limit allows in its window, by the headers of its answers.",
			Notes: "Absent without a rate limit and after its window.",
		}, collect: collectRateLimit},
		{Family: Family{
			Name: "api_rate_limit_remaining", Type: Gauge, Labels: []string{"gitlab"}, Series: "1",
			Help:  "Requests that GitLab's rate limit leaves in its present window.",
			Notes: "Absent without a rate limit and after its window.",
		}, collect: collectRateRemaining},
		{Family: Family{
			Name: "jobs_visible", Type: Gauge, Labels: []string{"gitlab"}, Series: "1",
			Help:  "Whether the token may see all jobs: 1 if so, 0 if some are hidden from it.",
			Notes: "Absent until known.",
		}, collect: collectJobsVisible},
		{Family: Family{
			Name: "jobs_recovered_total", Type: Counter, Labels: []string{"gitlab"}, Series: "1",
			Help:  "Finished jobs that only the deeper walk found.",
			Notes: "Kept over restarts.",
		}, collect: collectRecovered},
		{Family: Family{
			Name: "jobs_unresolved_total", Type: Counter, Labels: []string{"gitlab", "reason"}, Series: "4",
			Help:  "Jobs that were seen and could not be counted, by reason: deleted, runner_gone, forbidden or too_old.",
			Notes: "Kept over restarts.",
		}, collect: collectUnresolved},
		{Family: Family{
			Name: "job_settle_delay_seconds", Type: Histogram, Labels: []string{"gitlab"}, Series: "17",
			Help: "Time from a job's end until it was counted, in seconds: how late the numbers are.",
			// From one poll to a day down: beyond the default lookback nothing is read.
			Buckets: []float64{5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 28800, 43200, 86400},
		}},
		{Family: Family{
			Name: "tags_over_limit", Type: Gauge, Labels: []string{"gitlab"}, Series: "1",
			Help: "Number of tags beyond metrics.tags.limit, whose runners and jobs stand under the tag (other).",
		}, collect: collectTagsOverLimit},
		{Family: Family{
			Name: "series", Type: Gauge, Labels: []string{"gitlab"}, Series: "1",
			Help: "Number of series that a GitLab's fleet families have now.",
		}, collect: collectSeries},
		{Family: Family{
			Name: "series_dropped", Type: Gauge, Labels: []string{"gitlab", "family"}, Series: "families dropped",
			Help:  "Number of series that a family gave up for metrics.series_limit.",
			Notes: "Absent for families that gave up none.",
		}, collect: collectSeriesDropped},
		{Family: Family{
			Name: "token_expiry_timestamp_seconds", Type: Gauge, Labels: []string{"gitlab"}, Series: "1",
			Help:  "When the token expires, 00:00 UTC of its last day, in seconds since the epoch.",
			Notes: "Absent if it does not expire or this is not known.",
		}, collect: collectTokenExpiry},
		{Family: Family{
			Name: "clock_offset_seconds", Type: Gauge, Labels: []string{"gitlab"}, Series: "1",
			Help: "GitLab's clock less the exporter's, in seconds: the median of five minutes of Date headers.",
		}, collect: collectClockOffset},
		{Family: Family{
			Name: "state_save_duration_seconds", Type: Histogram, Series: "16 in all",
			Help: "Time of one commit of the durable state, in seconds.",
			// From one write on a fast disk to a disk in distress.
			Buckets: []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10},
		}},
		{Family: Family{
			Name: "state_save_errors_total", Type: Counter, Series: "1 in all",
			Help:  "Commits of the durable state that failed, which are tried again, or that had to leave a record out.",
			Notes: "The log names which and why.",
		}},
		{Family: Family{
			Name: "state_damaged_total", Type: Counter, Labels: []string{"gitlab"}, Series: "1",
			Help:  "State files that were found damaged and put aside; counting began anew.",
			Notes: "The log names the file.",
		}},
		{Family: Family{
			Name: "config_last_reload_successful", Type: Gauge, Series: "1 in all",
			Help: "Whether the last load of the configuration succeeded: 1 if so, else 0.",
		}},
		{Family: Family{
			Name: "config_last_reload_success_timestamp_seconds", Type: Gauge, Series: "1 in all",
			Help:  "When the configuration was last loaded successfully, in seconds since the epoch.",
			Notes: "0 until then.",
		}},
	}
	for _, f := range rows {
		f.Group = GroupExporter
	}
	return rows
}
