package page

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

func anchorOf(s string) string { return url.QueryEscape(s) }

// runnerView is what the page of one runner is drawn from.
type runnerView struct {
	*frame

	Runner   Runner
	GitLab   GitLab
	Tone     string
	Verdict  string
	Seen, Do string
	Suspects []suspectView
	Evidence []evidence
	Facts    []evidence
	Judged   bool
	Jobs     string
	Board    string
	Runbook  string
	TagLinks []runnerRef
}

type suspectView struct {
	Suspect

	Do, Runbook string
}

// evidence is one thing that is known, with its time where it has one.
type evidence struct {
	What  string
	At    time.Time
	Value string
	Note  string
}

// newRunnerView returns nil where the runner is not in the last picture.
func newRunnerView(p *Page, gitlab string, id int64, now time.Time) *runnerView {
	r := p.report(now, filter{gitlab: gitlab, search: itoa(id)}, &p.links)
	var runner *Runner
	for i := range r.found {
		if r.found[i].ID == id {
			runner = &r.found[i]
		}
	}
	if runner == nil || len(r.GitLabs) != 1 {
		return nil
	}
	gitlab = r.GitLabs[0].Name // the only one, where none was named
	v := &runnerView{
		frame: p.frame(named(runner.Description, id), now), Runner: *runner, GitLab: r.GitLabs[0],
		Jobs: runner.GitLabURL + "#/jobs", Board: p.links.board(boardRunner, gitlab, "", id),
	}
	for _, t := range runner.Tags {
		v.TagLinks = append(v.TagLinks, runnerRef{t, p.links.fleet(&filter{gitlab: gitlab, tag: t})})
	}
	v.verdict(p)
	for _, s := range runner.Suspects {
		t := reasons[s.Reason]
		v.Suspects = append(v.Suspects, suspectView{s, t.do, p.links.runbook(t.alert)})
	}
	v.facts(p.picture(gitlab), id)
	if p.opts.Evidence != nil {
		if e, ok := p.opts.Evidence(gitlab, id); ok {
			v.Judged = true
			v.evidence(&e)
		}
	}
	return v
}

// picture is the last one with a fleet.
func (p *Page) picture(gitlab string) *snapshot.GitLab {
	pictures := p.opts.Pictures()
	last, _ := p.memory.of(pictures, p.opts.Now())
	for _, s := range pictures {
		if s.Name == gitlab && s.Fleet != nil {
			return s
		}
	}
	return last[gitlab]
}

func (v *runnerView) verdict(p *Page) {
	r := &v.Runner
	t := reasons[r.Reason]
	v.Verdict, v.Seen, v.Do, v.Runbook = title(r.Health), t.seen, t.do, p.links.runbook(t.alert)
	switch {
	case r.Health == notJudged:
		v.Tone, v.Verdict = "unknown", "Not judged yet; GitLab calls it "+strings.ReplaceAll(r.Status, "_", " ")
	case r.down():
		v.Tone = "problem"
	case len(r.Suspects) > 0:
		v.Tone = "suspect"
	case r.Orphaned > 0:
		v.Tone = "problem"
	case r.Health == snapshot.HealthAlive.String():
		v.Tone = "ok"
	default:
		v.Tone = "unknown"
	}
	if !r.AsOf.IsZero() { // never green
		v.Tone = "grey"
	}
	if v.GitLab.old && v.Tone == "ok" {
		v.Tone = "unknown"
	}
}

// facts are what GitLab reports of the runner.
func (v *runnerView) facts(s *snapshot.GitLab, id int64) {
	if s == nil || s.Fleet == nil {
		return
	}
	row := rowOf(s.Fleet, id)
	if row == nil {
		return
	}
	yes := map[bool]string{true: "yes", false: "no"}
	status := evidence{
		What: "Status in GitLab", Value: strings.ReplaceAll(row.Status.String(), "_", " "), At: row.StatusSince,
		Note: "GitLab calls a dead runner online for two hours.",
	}
	pausedNow := evidence{What: "Paused", Value: yes[row.Paused]}
	if row.Paused {
		pausedNow.At = row.PausedSince
	}
	executing := evidence{What: "Jobs executing", Value: "not read yet", At: row.OldestJobStart}
	if row.JobsExecuting >= 0 {
		executing.Value = thousands(row.JobsExecuting)
	}
	if !row.OldestJobStart.IsZero() {
		executing.Note = "The time is the start of the oldest."
	}
	machines := "not known"
	if row.ManagersKnown >= 0 {
		machines = fmt.Sprintf("%d online of %d", row.ManagersOnline, row.ManagersKnown)
	}
	v.Facts = []evidence{
		status, pausedNow, executing,
		{What: "Last job ended", At: row.LastJobFinished},
		{What: "Machines", Value: machines},
		{What: "Version", Value: strings.TrimSpace(row.Version + " " + row.Platform + " " + row.Arch)},
		{What: "Type", Value: strings.ReplaceAll(row.Type.String(), "_", " ")},
		{What: "Owner", Value: row.Owner},
		{What: "Protected", Value: yes[row.Protected]},
		{What: "Takes untagged jobs", Value: yes[row.RunUntagged]},
		{What: "Details read", At: row.DetailsAt},
	}
}

// evidence is everything that the verdict rests on.
func (v *runnerView) evidence(e *snapshot.HealthEvidence) {
	chance := "not known"
	if e.Chance < 1 {
		chance = fmt.Sprintf("%.2g", e.Chance)
	}
	rate := "not known"
	if n := e.Hits + e.Misses; n > 0 {
		rate = fmt.Sprintf("%.0f of %.0f", e.Hits, n)
	}
	shares := ""
	if e.SharesMachine {
		shares = "Shares its machine with another runner, which allows a longer silence."
	}
	v.Evidence = []evidence{
		{What: "Last sign", At: e.LastSeen, Note: "The latest of the contacts, starts and ends below, and of its machines' contacts."},
		{What: "Details last read well", At: e.ReadAt, Note: "Silence is counted up to here: a reading that fails makes no verdict worse."},
		{What: "Readings failed since", Value: thousands(e.FailedReadings)},
		{What: "Contact, as GitLab last gave it", At: e.ContactedAt},
		{What: "Last start of a job", At: e.LastStart},
		{What: "Last end of a job that it reported itself", At: e.LastEnd},
		{What: "Silence", Value: span(e.Silence), Note: shares},
		{What: "Its habit", Value: span(e.Habit), Note: "A silence that is usual for this runner."},
		{What: "Its limit", Value: span(e.Limit), Note: "Beyond this silence alone calls it down."},
		{What: "Peers", Value: thousands(e.Peers), Note: "Runners of the same type, owner, tags and protection."},
		{What: "Moments missed", Value: thousands(e.Missed), Note: "Times at which peers were heard and it was not, since its last sign."},
		{What: "Moments it was heard at before", Value: rate},
		{What: "Chance that it works and missed them", Value: chance, Note: "At most 0.0001 with three missed moments calls it down."},
		{What: "Jobs that should have started here", Value: fmt.Sprintf("%.1f", e.OwedJobs), Note: "Since its last one, by its usual share of its peers' jobs."},
		{What: "Failed jobs in a row", Value: thousands(e.ConsecutiveFailed)},
		{What: "Last listed as paused", At: e.PausedAt},
		{What: "Known since", At: e.FirstSeen},
	}
}
