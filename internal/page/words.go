package page

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// tagAlerts are the runbooks of a tag's problems.
var tagAlerts = map[string]string{
	tagLost:       "GitLabRunnerTagLost",
	tagBelowFloor: "GitLabRunnerTagBelowFloor",
	tagHalfGone:   "GitLabRunnerTagHalfGone",
	tagLastRunner: "GitLabRunnerTagLastRunner",
	tagUnknown:    "GitLabRunnerFleetScopeUnreadable",
}

// Runbooks of everything else.
const (
	alertUnreadable = "GitLabRunnerFleetGitLabUnreadable"
	alertScope      = "GitLabRunnerFleetScopeUnreadable"
	alertDown       = "GitLabRunnerDown"
	alertOrphaned   = "GitLabRunnerOrphanedJobs"
	alertStuck      = "GitLabRunnerJobStuck"
	alertBlackHole  = "GitLabRunnerBlackHole"
	alertInfra      = "GitLabRunnerInfrastructureFailures"
	alertUnread     = "GitLabRunnerFleetRunnersUnread"
	alertNew        = "GitLabRunnerNeverContacted"
)

// meaning is what a reason means and what to do, as docs/health.md has it.
type meaning struct{ seen, do, alert string }

var reasons = map[string]meaning{
	snapshot.HealthNotSeen.String():          {"It never contacted GitLab, or its details were not read yet.", "Start its machine, or delete the registration.", alertNew},
	snapshot.HealthUnread.String():           {"Its details cannot be read. The runner may be well.", "Look at the exporter's log and the token's rights.", alertUnread},
	snapshot.HealthSilent.String():           {"No sign for longer than this runner is ever silent.", "Is the machine up? Does gitlab-runner run, and can it reach GitLab? See its log; gitlab-runner verify.", alertDown},
	snapshot.HealthSilentAmongPeers.String(): {"Runners with the same tags were heard several times at moments at which this one was not.", "Is the machine up? Does gitlab-runner run, and can it reach GitLab? See its log; gitlab-runner verify.", alertDown},
	snapshot.HealthJobSilent.String():        {"It executes a job and nothing is heard of it.", "Look at the machine, then at the job: cancel and retry it. GitLab drops it after 1 to 2 hours.", alertDown},
	snapshot.HealthMachineBusy.String():      {"Silent while another runner of the same machine executes jobs.", "Raise concurrent, or put fewer runners in that config.toml.", ""},
	snapshot.HealthAfterOutage.String():      {"Silent beyond its limit, but GitLab could not be read lately.", "Wait: gitlab-runner sleeps for an hour after three failed polls.", ""},
	snapshot.HealthFleetSilent.String():      {"Silent beyond its limit, and so is most of the fleet.", "Look at GitLab, its load balancer and the network, not at the runner.", ""},
	snapshot.HealthAbandoned.String():        {"No sign for a week.", "Delete the registration, or pause the runner.", alertDown},
	snapshot.SuspectBlackHole.String():       {"It fails job after job at once, where the same projects succeed on other runners.", "Pause the runner. Then look at its disk, executor and network. Retry the failed jobs elsewhere.", alertBlackHole},
	snapshot.SuspectInfrastructure.String():  {"It has more infrastructure failures than the same projects have elsewhere.", "Look at the machine: memory, disk, image pulls.", alertInfra},
	snapshot.SuspectTakesNoJobs.String():     {"It is heard and idle, while its peers start the jobs that it should have had. This is wrong at times.", "Restart gitlab-runner; look at its limits and its concurrent.", ""},
	snapshot.SuspectOverTimeout.String():     {"A job runs for longer than the runner's maximum timeout allows.", "Look at the job.", alertStuck},
}

// title is a machine's word as a heading has it.
func title(s string) string {
	s = strings.ReplaceAll(s, "_", " ")
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// grounds puts into words what a suspicion rests on.
func grounds(s snapshot.Suspicion, g *snapshot.Grounds) string {
	switch s {
	case snapshot.SuspectBlackHole:
		return fmt.Sprintf("%s of %s failed one after the other, most within 30 s (the longest ran %s); %s of the same projects succeeded on other runners meanwhile, %d failed there",
			count(g.Jobs, "job"), count(g.Projects, "project"), span(time.Duration(g.Seconds)*time.Second), count(g.Elsewhere-g.Failed, "job"), g.Failed)
	case snapshot.SuspectInfrastructure:
		return fmt.Sprintf("%s of %s failed because of infrastructure within a day, where %.1f were to be expected: of %s of the same projects on other runners, %d failed so",
			count(g.Jobs, "job"), count(g.Projects, "project"), g.Expected, count(g.Elsewhere, "job"), g.Failed)
	case snapshot.SuspectTakesNoJobs:
		return fmt.Sprintf("about %.0f jobs should have started here since its last one; its peers started them", g.Expected)
	default:
		return fmt.Sprintf("a job runs for %s by now", span(time.Duration(g.Seconds)*time.Second))
	}
}

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return thousands(n) + " " + noun + "s"
}

// thousands writes 12,345.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// span is a duration in at most two units.
func span(d time.Duration) string {
	d = d.Abs()
	switch s := int64(d / time.Second); {
	case s < 90:
		return fmt.Sprintf("%d s", s)
	case d < 90*time.Minute:
		return fmt.Sprintf("%d min", s/60)
	case d < 48*time.Hour:
		if m := s / 60 % 60; m > 0 {
			return fmt.Sprintf("%d h %d min", s/3600, m)
		}
		return fmt.Sprintf("%d h", s/3600)
	default:
		return fmt.Sprintf("%d days", s/86400)
	}
}

// ago is a time relative to now.
func ago(now, t time.Time) string {
	switch d := now.Sub(t); {
	case d < -time.Second:
		return "in " + span(d)
	case d < time.Second:
		return "now"
	default:
		return span(d) + " ago"
	}
}

// clock is a time in UTC, with its day unless that is today.
func clock(now, t time.Time) string {
	t, now = t.UTC(), now.UTC()
	switch {
	case t.Year() != now.Year():
		return t.Format("2006-01-02 15:04")
	case t.YearDay() != now.YearDay():
		return t.Format("Jan 2, 15:04")
	}
	return t.Format("15:04")
}

// Causes is why the runners of a tag are not usable.
func (t Tag) Causes() string {
	var parts []string
	for _, c := range []struct {
		n    int
		what string
	}{{t.Down, "down"}, {t.Failing, "failing every job"}, {t.Offline, "offline"}, {t.Paused, "paused"}} {
		if c.n > 0 {
			parts = append(parts, thousands(c.n)+" "+c.what)
		}
	}
	return strings.Join(parts, ", ")
}

// Do is what to do about a tag.
func (t Tag) Do() string {
	switch {
	case t.Problem == tagFine:
		return ""
	case t.Problem == tagUnknown:
		return "Restore the token's access to the scope that cannot be read."
	case t.Runners == 0 && t.Floor != nil:
		return "Register a runner with this tag, or take the tag out of expected."
	case t.Runners == 0:
		return "Register a runner with this tag again. If it is meant to be gone, nothing is left to do."
	case t.Down >= max(t.Offline, t.Paused, t.Failing):
		return "Start the runners that are down: is the machine up, does gitlab-runner run, can it reach GitLab?"
	case t.Failing >= max(t.Offline, t.Paused):
		return "Free the disk or repair the executor of the runner that fails its jobs, or add another runner."
	case t.Offline >= t.Paused:
		return "Start the runners that are offline, or delete registrations that are no longer used."
	}
	return "Resume a runner, unless this is maintenance."
}

// Left is how much of a tag is left.
func (t Tag) Left() string {
	switch {
	case t.Problem == tagUnknown:
		return "Its runners were in a scope that cannot be read"
	case t.Runners > 0:
		return fmt.Sprintf("%s of %s usable", thousands(t.Usable), thousands(t.Runners))
	case t.Since.IsZero():
		return "No runner has this tag"
	}
	return "Its runners were deleted, or lost the tag"
}

// Label is the short word on a tag's badge.
func (t Tag) Label() string {
	switch t.Problem {
	case tagLost:
		return "No runner"
	case tagBelowFloor:
		return "Below floor"
	case tagHalfGone:
		return "Half gone"
	case tagLastRunner:
		return "Last runner"
	case tagUnknown:
		return "Not known"
	}
	return "Enough"
}

// Words of a change.
var changeWords = map[string]string{
	wentDown: "went down", cameBack: "is back", suspected: "is suspected", cleared: "is no longer suspected",
	orphanedJobs: "left a job behind", paused: "was paused", resumed: "was resumed", joined: "joined", left: "left",
	tagGone: "lost its last usable runner", tagBack: "has a usable runner again",
	offline: "is offline for GitLab", online: "is online again",
}
