// Package snapshot is the immutable picture a scrape is served from, and the
// home of the domain's words: runner types, statuses, failure reasons, bucket
// bounds. It has no behaviour beyond naming its values: internal/inventory and
// internal/ledger fill the picture, internal/monitor publishes it, collector
// turns it into an exposition.
package snapshot

// RunnerType is one of GitLab's three kinds of runner.
type RunnerType uint8

// The runner types, in the order of their exposition.
const (
	InstanceType RunnerType = iota
	GroupType
	ProjectType
	NumRunnerTypes = 3
)

var runnerTypeNames = [NumRunnerTypes]string{"instance_type", "group_type", "project_type"}

// String is GitLab's own word, used as the label value of runner_type.
func (t RunnerType) String() string { return runnerTypeNames[t] }

// ParseRunnerType understands GitLab's word; ok is false for any other.
func ParseRunnerType(s string) (t RunnerType, ok bool) {
	for i, n := range runnerTypeNames {
		if n == s {
			return RunnerType(i), true
		}
	}
	return 0, false
}

// Status is a runner's or a machine's reachability as GitLab reports it.
type Status uint8

// The statuses, in the order of their exposition.
const (
	Online Status = iota
	Offline
	Stale
	NeverContacted
	NumStatuses = 4
)

var statusNames = [NumStatuses]string{"online", "offline", "stale", "never_contacted"}

// String is the label value of status.
func (s Status) String() string { return statusNames[s] }

// JobStatus is the final status of a job.
type JobStatus uint8

// The final job statuses, in the order of their exposition.
const (
	Success JobStatus = iota
	Failed
	Canceled
	NumJobStatuses = 3
)

var jobStatusNames = [NumJobStatuses]string{"success", "failed", "canceled"}

// String is the label value of status on job families.
func (s JobStatus) String() string { return jobStatusNames[s] }

// ParseJobStatus understands the final statuses only; ok is false for any
// other word, GitLab's "skipped" included, which is not final.
func ParseJobStatus(s string) (js JobStatus, ok bool) {
	for i, n := range jobStatusNames {
		if n == s {
			return JobStatus(i), true
		}
	}
	return 0, false
}

// FailureClass sorts failure reasons by who has to act on them.
type FailureClass uint8

// The failure classes. NoFailure is the empty label value of jobs that did not fail.
const (
	NoFailure FailureClass = iota
	Script
	Infrastructure
	OtherFailure
	NumFailureClasses = 4
)

var failureClassNames = [NumFailureClasses]string{"", "script", "infrastructure", "other"}

// String is the label value of failure_class.
func (c FailureClass) String() string { return failureClassNames[c] }

// FailureReason is a member of the closed set of failure_reason label values,
// by its index in FailureReasons. NoReason is the empty value of jobs that did
// not fail.
type FailureReason uint8

// NoReason is the reason of a job that did not fail.
const NoReason FailureReason = 0

// The two reasons that are ours: a failed job without a reason, and a reason
// this version does not know (GitLab adds some in each major release).
const (
	UnknownFailure = "unknown_failure"
	OtherReason    = "other"
)

type reasonRow struct {
	name  string
	class FailureClass
}

// reasons lists GitLab's CommitStatus failure reasons with their class. A
// reason is "script" when the job's own commands or configuration decided it,
// "infrastructure" when the runner, its machine or GitLab did, "other" when a
// person, a policy or a neighbouring job did. New ones are added at the end:
// the index is written to disk (internal/ledger). GitLab writes no_updates_* and
// server_timeout_* because the runner fell silent: they are "infrastructure",
// though GitLab shows server_timeout_* as timeouts of the job.
var reasons = []reasonRow{
	{"", NoFailure},
	{UnknownFailure, OtherFailure},
	{OtherReason, OtherFailure},
	{"script_failure", Script},
	{"api_failure", Infrastructure},
	{"stuck_or_timeout_failure", Infrastructure},
	{"runner_system_failure", Infrastructure},
	{"missing_dependency_failure", OtherFailure},
	{"runner_unsupported", Infrastructure},
	{"stale_schedule", OtherFailure},
	{"job_execution_timeout", Script},
	{"archived_failure", OtherFailure},
	{"unmet_prerequisites", OtherFailure},
	{"scheduler_failure", Infrastructure},
	{"data_integrity_failure", Infrastructure},
	{"forward_deployment_failure", OtherFailure},
	{"user_blocked", OtherFailure},
	{"project_deleted", OtherFailure},
	{"ci_quota_exceeded", OtherFailure},
	{"pipeline_loop_detected", OtherFailure},
	{"no_matching_runner", OtherFailure},
	{"trace_size_exceeded", Script},
	{"builds_disabled", OtherFailure},
	{"environment_creation_failure", OtherFailure},
	{"deployment_rejected", OtherFailure},
	{"failed_outdated_deployment_job", OtherFailure},
	{"protected_environment_failure", OtherFailure},
	{"insufficient_bridge_permissions", OtherFailure},
	{"downstream_bridge_project_not_found", OtherFailure},
	{"invalid_bridge_trigger", OtherFailure},
	{"upstream_bridge_project_not_found", OtherFailure},
	{"insufficient_upstream_permissions", OtherFailure},
	{"bridge_pipeline_is_child_pipeline", OtherFailure},
	{"downstream_pipeline_creation_failed", OtherFailure},
	{"secrets_provider_not_found", OtherFailure},
	{"reached_max_descendant_pipelines_depth", OtherFailure},
	{"reached_max_pipeline_hierarchy_size", OtherFailure},
	{"reached_downstream_pipeline_trigger_rate_limit", OtherFailure},
	{"ip_restriction_failure", OtherFailure},
	{"reached_max_pipeline_size", OtherFailure},
	{"job_token_expired", OtherFailure},
	{"runner_provisioning_timeout", Infrastructure},
	{"duo_workflow_not_allowed", OtherFailure},
	{"job_execution_server_timeout", Infrastructure},
	{"stuck_pending_with_matching_runners", Infrastructure},
	{"stuck_pending_no_matching_runners", OtherFailure},
	{"no_updates_running", Infrastructure},
	{"no_updates_canceling", Infrastructure},
	{"server_timeout_running", Infrastructure},
	{"server_timeout_canceling", Infrastructure},
	{"runner_configuration_error", OtherFailure}, // such as a pull policy in the job that its runner does not allow
	{"runner_external_dependency_failure", Infrastructure},
	{"runner_interrupted", Infrastructure},
	{"job_router_failure", Infrastructure},
	{"id_token_burned_project_path", OtherFailure},
	{"downstream_project_trigger_resolved_to_empty", OtherFailure},
}

// NumFailureReasons is the size of the closed set, the empty reason included.
func NumFailureReasons() int { return len(reasons) }

// String is the label value of failure_reason.
func (r FailureReason) String() string { return reasons[r].name }

// Class is the failure_class that a reason belongs to.
func (r FailureReason) Class() FailureClass { return reasons[r].class }

// ParseFailureReason maps what GitLab wrote on a failed job into the closed
// set: nothing at all is unknown_failure, a reason we do not know is other.
func ParseFailureReason(s string) FailureReason {
	if s == "" {
		return 1
	}
	for i := 1; i < len(reasons); i++ {
		if reasons[i].name == s {
			return FailureReason(i)
		}
	}
	return 2
}

// Bucket bounds in seconds. They are part of the layout of the state on disk:
// a changed bucket is a changed metric name (docs/metrics.md) and another layout
// version (internal/ledger).
var (
	jobDurationBounds = []float64{10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800}
	jobQueuedBounds   = []float64{1, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200}
)

// JobDurationBounds are the upper bounds of job_duration_seconds.
func JobDurationBounds() []float64 { return jobDurationBounds }

// JobQueuedBounds are the upper bounds of both queued-duration histograms.
func JobQueuedBounds() []float64 { return jobQueuedBounds }

// Special values of the label tag, for runners that no real tag describes.
const (
	TagUntagged = "(untagged)"  // the runner takes untagged jobs
	TagUnknown  = "(unknown)"   // its details could not be read yet
	TagOther    = "(other)"     // its tags are beyond metrics.tags.limit
	TagNoRunner = "(no_runner)" // of a waiting job: no runner has the tag
)

// OwnName reports whether a name is one of the special values. A tag or version
// of that name, which anyone may give a runner, must not merge with ours: it
// stands under (other).
func OwnName(name string) bool {
	switch name {
	case TagUntagged, TagUnknown, TagOther, TagNoRunner:
		return true
	}
	return false
}

// Stage is a kind of reading, the label value of stage.
type Stage uint8

// The stages.
const (
	StageRunners Stage = iota
	StageDetails
	StageJobs
	StageReconcile
	StageQueue
	NumStages = 5
)

var stageNames = [NumStages]string{"runners", "details", "jobs", "reconcile", "queue"}

// String is the label value of stage.
func (s Stage) String() string { return stageNames[s] }

// Part is a part of a fleet's picture that is whole or absent.
type Part uint8

// The parts, in the order in which a first picture gets them.
const (
	PartDetails  Part = iota // sums by tag
	PartMachines             // machines and versions
	PartJobs                 // busy runners and executing jobs
	NumParts     = 3
)

var partNames = [NumParts]string{"details", "machines", "jobs"}

// String names what is read of each runner.
func (p Part) String() string { return partNames[p] }

// UnresolvedReason is why a job that was seen could not be counted.
type UnresolvedReason uint8

// The reasons of jobs_unresolved_total.
const (
	UnresolvedDeleted UnresolvedReason = iota
	UnresolvedRunnerGone
	UnresolvedForbidden
	UnresolvedTooOld
	NumUnresolvedReasons = 4
)

var unresolvedNames = [NumUnresolvedReasons]string{"deleted", "runner_gone", "forbidden", "too_old"}

// String is the label value of reason.
func (r UnresolvedReason) String() string { return unresolvedNames[r] }
