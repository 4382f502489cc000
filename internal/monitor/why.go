package monitor

import (
	"context"
	"strings"
	"time"

	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/queue"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/internal/why"
)

// Why explains which runners take a job. It makes two requests, or one for a job
// that does not wait, and none for a set of tags. They wait for the budget as
// the readings of the queue do.
func (m *Monitor) Why(ctx context.Context, q why.Question) (*why.Answer, error) {
	now := time.Now()
	job := why.Job{Status: "pending", Tags: q.Tags, TagsKnown: true}
	var evidence why.Evidence
	webURL := ""
	if q.Job > 0 {
		client := m.deps.Client.For(m.deps.Budget.Gate(budget.Queue))
		got, err := client.ProjectJob(ctx, q.Project, q.Job)
		if err != nil {
			return nil, whyFailure(err)
		}
		job, webURL = m.whyJob(q, &got, now), got.WebURL
		if why.Waits(job.Status) {
			evidence.Serves, evidence.Whole = serving(ctx, client, &job)
		}
	}
	a := &why.Answer{GitLab: m.opts.Name, WebURL: webURL, Job: job}
	m.whyKnown(a, &evidence, now)
	a.Conclude(&evidence, now)
	return a, nil
}

// whyFailure is why a job could not be read, in words for whoever asked for it.
func whyFailure(err error) *why.Failure {
	f := &why.Failure{Text: "GitLab cannot be read: " + err.Error() + ". Remedy: " + gitlab.Remedy(gitlab.ReasonOf(err), err) + "."}
	switch gitlab.ReasonOf(err) {
	case gitlab.ReasonNotFound:
		f.Kind = why.Missing
		f.Text = "GitLab has no such job, or this exporter's token may not see it: GitLab answers 404 for both. To read jobs of a private project the token's user must be a member of it, or an administrator."
	case gitlab.ReasonForbidden:
		f.Kind = why.Missing
		f.Text = "GitLab does not let this exporter's token read the jobs of this project. Its user must be a member with at least the role Reporter, or an administrator (with the scope admin_mode where Admin Mode is on)."
	case gitlab.ReasonTimeout, gitlab.ReasonCanceled:
		f.Kind = why.Late
		f.Text = "The job was not read in time: GitLab is slow, or the exporter's budget of requests is used up by its readings. Try again."
	default:
	}
	return f
}

// whyJob is what is known of a job that was read.
func (m *Monitor) whyJob(q why.Question, got *gitlab.JobDetails, now time.Time) why.Job {
	job := why.Job{
		ID: got.ID, Project: q.Project, Status: got.Status, Tags: got.Tags, TagsKnown: got.TagsKnown && got.TagsOmitted == 0,
		RunnerID: got.RunnerID, Runner: got.Runner,
	}
	if path := why.ProjectOf(got.WebURL, m.opts.URL); path != "" {
		job.Project = path // renamed since
	}
	if why.Waits(got.Status) && got.Queued >= 0 {
		// Of a job that waits queued_duration is the time until the answer.
		job.Since = now.Add(-time.Duration(got.Queued * float64(time.Second)))
	}
	return job
}

// serving are the runners that a job's project may use and that have its tags.
// Only maintainers may list them: nil for others.
func serving(ctx context.Context, client *gitlab.Client, job *why.Job) (ids map[int64]bool, whole bool) {
	for _, t := range job.Tags {
		if !job.TagsKnown || strings.Contains(t, ",") {
			return nil, false // cannot be asked for
		}
	}
	page, err := client.RunnersWhere(ctx, gitlab.Scope{Kind: snapshot.ScopeProjects, ID: job.Project}, gitlab.RunnerFilter{Tag: strings.Join(job.Tags, ",")}, listPage)
	if err != nil {
		return nil, false // it is evidence beside the job, and its lack is in the answer
	}
	ids = make(map[int64]bool, len(page.Runners))
	for i := range page.Runners {
		ids[page.Runners[i].ID] = true
	}
	return ids, page.Next == 0 && page.Skipped == 0
}

// whyKnown adds what is known of the runners, and where that ends.
func (m *Monitor) whyKnown(a *why.Answer, e *why.Evidence, now time.Time) {
	f := m.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	if at := f.inv.ListedAt(); !at.IsZero() {
		a.ListedAt = f.clocks.local(at)
	}
	old := now.Sub(a.ListedAt) > f.opts.Intervals.Staleness // as for the gauges
	for _, id := range f.inv.IDs() {
		r := f.whyRunner(id)
		r.Old = old || !f.inv.Shown(id)
		if f.health.picture != nil { // judged by this process, not by the one before
			verdict, _, _ := f.health.fleet.Verdict(id)
			r.Down = verdict == snapshot.HealthDown
		}
		_, unusable := f.health.unusable[id]
		r.Failing = unusable && !r.Down
		a.Known = append(a.Known, r)
	}
	all, _ := f.allOthers()
	for id, r := range all {
		if f.inv.Has(id) {
			continue
		}
		a.Known = append(a.Known, why.Runner{
			ID: id, Description: r.description, Type: r.Type, Owner: r.Owner, Tags: r.Tags, RunUntagged: r.RunUntagged, Protected: r.Protected,
			DetailsRead: r.known, Old: old, Available: r.Available, Paused: r.paused, Executing: r.executing > 0, Jobs: max(r.executing, 0),
		})
	}
	if result := m.queue.offered(now); result != nil {
		e.Offer = func(typ, owner string, protected bool) why.Offer {
			return offerOf(result, a.Job.ID, typ, owner, protected)
		}
	}
	if old {
		a.Limits = append(a.Limits, "The list of runners is older than poll.staleness: how they are now, and one that was registered since, is not known.")
	}
	if f.opts.Scopes[0].Kind != snapshot.ScopeInstance {
		a.Limits = append(a.Limits, "Only the runners of the configured scopes are known here: others may take the job.")
	}
	if f.opts.ShardCount > 1 && !f.opts.keepsOthers() {
		a.Limits = append(a.Limits, "This process has a part of the runners only: others may take the job. The first shard knows all of them where it reads the queue.")
	}
}

func offerOf(result *queue.Result, job int64, typ, owner string, protected bool) why.Offer {
	switch offered, known := result.Offered(job, typ, owner, protected); {
	case offered:
		return why.Offered
	case known:
		return why.NotOffered
	}
	return why.OfferUnknown
}

// whyRunner is what is known of a runner of this shard.
func (f *fleet) whyRunner(id int64) why.Runner {
	r := why.Runner{
		ID: id, Description: f.inv.Description(id), Type: f.inv.Type(id).String(), Available: f.inv.IsAvailable(id), Paused: f.inv.Paused(id),
		Executing: f.executes(id), Most: f.inv.Most(id),
	}
	if p, ok := f.inv.Peer(id); ok {
		r.DetailsRead, r.Owner, r.Tags, r.RunUntagged, r.Protected = true, p.Owner, p.Tags, p.RunUntagged, p.Protected
	}
	if running, canceling, _, read := f.led.Executing(id); read && r.Executing {
		r.Jobs = running + canceling
	}
	if r.Executing {
		r.Jobs = max(r.Jobs, 1)
	}
	return r
}
