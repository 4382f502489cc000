package page

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/internal/why"
)

const (
	// whyMost bounds the wait for GitLab and for the budget.
	whyMost = 20 * time.Second
	// whyEvery and whyBurst bound how many jobs are read for whoever reaches the
	// page: each costs GitLab two requests.
	whyEvery = 2 * time.Second
	whyBurst = 10

	mostWhyTags = 50
	pageClasses = 25
	apiClasses  = 200
)

// Why is the body of /api/v1/why, and what /fleet/why is drawn from. Its shape is
// described in docs/api.md and is stable: fields may be added.
type Why struct {
	Time        time.Time        `json:"time"`
	GitLab      string           `json:"gitlab"`
	Verdict     string           `json:"verdict"`
	Text        string           `json:"text"`
	Job         WhyJob           `json:"job"`
	UnknownTags []why.UnknownTag `json:"unknown_tags"`
	Classes     []why.Class      `json:"classes"`
	More        int              `json:"classes_more"`
	Limits      []string         `json:"limits"`
	ListedAt    time.Time        `json:"listed_at,omitzero"`
}

// WhyJob is the job. Its name, ref and author are left out: the page may be read
// by more people than the project.
type WhyJob struct {
	ID        int64     `json:"id,omitempty"`
	Project   string    `json:"project,omitempty"`
	Status    string    `json:"status"`
	Tags      []string  `json:"tags"`
	TagsKnown bool      `json:"tags_known"`
	Since     time.Time `json:"since,omitzero"`
	Runner    int64     `json:"runner_id,omitempty"`
	URL       string    `json:"url,omitempty"`
}

// whyError is an answer without an explanation.
type whyError struct {
	status int
	text   string
}

// Error is the text.
func (e *whyError) Error() string { return e.text }

// ServeWhy answers with the page that explains why a job waits.
func (p *Page) ServeWhy(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	now := p.opts.Now()
	v := &whyView{frame: p.frame("Why does this job wait?", now), Form: p.links.prefix + "/fleet/why", Job: q.Get("job"), GitLab: q.Get("gitlab")}
	for _, s := range p.opts.Pictures() {
		v.Names = append(v.Names, s.Name)
	}
	slices.Sort(v.Names)
	status := http.StatusOK
	if q.Get("job") != "" || q.Has("tags") {
		v.API = p.links.prefix + "/api/v1/why?" + r.URL.RawQuery
		answer, err := p.explain(r.Context(), q, &p.links, pageClasses)
		if err != nil {
			status, v.Error = err.status, err.text
			p.retry(w, err)
		} else {
			v.answer(answer)
		}
	}
	p.draw(w, status, "why", v)
}

// ServeWhyAPI answers the same in JSON (docs/api.md).
func (p *Page) ServeWhyAPI(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	for name := range q {
		if !slices.Contains([]string{"job", "gitlab", "tags"}, name) {
			answer(w, http.StatusBadRequest, map[string]string{"error": fmt.Sprintf("there is no parameter %q", name)})
			return
		}
	}
	l := p.links
	if l.external != "" {
		l.prefix = l.external
	}
	a, err := p.explain(r.Context(), q, &l, apiClasses)
	if err != nil {
		p.retry(w, err)
		answer(w, err.status, map[string]string{"error": err.text})
		return
	}
	answer(w, http.StatusOK, a)
}

func (p *Page) retry(w http.ResponseWriter, err *whyError) {
	if err.status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", strconv.Itoa(int(whyEvery/time.Second)))
	}
}

// explain finds the GitLab that is meant and asks about the job.
func (p *Page) explain(ctx context.Context, q url.Values, l *links, most int) (*Why, *whyError) {
	if p.opts.Why == nil {
		return nil, &whyError{http.StatusNotImplemented, "Jobs cannot be read here."}
	}
	s, question, bad := p.question(q)
	if bad != nil {
		return nil, bad
	}
	if question.Job > 0 && !p.whys.Allow() {
		return nil, &whyError{http.StatusTooManyRequests, "Too many jobs are asked for at once. Try again in a few seconds."}
	}
	ctx, cancel := context.WithTimeout(ctx, whyMost)
	defer cancel()
	a, err := p.opts.Why(ctx, s.Name, question)
	if err != nil {
		return nil, whyFailed(err)
	}
	if asked := q.Get("job"); asked != "" && a.WebURL != "" && !why.SameHost(asked, a.WebURL) && !why.SameHost(asked, s.URL) {
		// It was named with &gitlab=, and another GitLab may have a job of this path.
		return nil, &whyError{http.StatusBadRequest, fmt.Sprintf("GitLab %s has another address: the job may be one of another GitLab.", s.Name)}
	}
	out := &Why{
		Time: utc(p.opts.Now()), GitLab: s.Name, Verdict: string(a.Verdict), Text: a.Text, UnknownTags: a.Unknown, Classes: a.Classes, Limits: a.Limits, ListedAt: utc(a.ListedAt),
		Job: WhyJob{ID: a.Job.ID, Status: a.Job.Status, Tags: a.Job.Tags, TagsKnown: a.Job.TagsKnown, Since: utc(a.Job.Since), Runner: a.Job.RunnerID},
	}
	if question.Job > 0 {
		out.Job.Project, out.Job.URL = a.Job.Project, jobURL(s.URL, a.Job.Project, a.Job.ID)
	}
	if out.Limits == nil {
		out.Limits = []string{}
	}
	if out.Job.Tags == nil {
		out.Job.Tags = []string{}
	}
	if n := len(out.Classes); n > most {
		out.Classes, out.More = out.Classes[:most], n-most
	}
	for i := range out.Classes {
		c := &out.Classes[i]
		c.ExampleURL = l.runner(s.Name, c.Example)
	}
	return out, nil
}

// question reads what is asked for. Only the configured GitLabs are requested,
// and of the address only the path below the GitLab's own.
func (p *Page) question(q url.Values) (*snapshot.GitLab, why.Question, *whyError) {
	pictures := p.opts.Pictures()
	chosen, bases := -1, make([]string, len(pictures))
	for i, s := range pictures {
		if bases[i] = s.URL; s.Name == q.Get("gitlab") {
			chosen = i
		}
	}
	if chosen < 0 && q.Get("gitlab") != "" {
		return nil, why.Question{}, &whyError{http.StatusNotFound, p.known(q.Get("gitlab")).Error() + "."}
	}
	if q.Get("job") == "" {
		return p.tagsQuestion(q, pictures, chosen)
	}
	i, a, err := why.Parse(q.Get("job"), bases, chosen)
	switch {
	case errors.Is(err, why.ErrOtherHost):
		return nil, why.Question{}, &whyError{http.StatusNotFound, p.otherHost(pictures)}
	case err != nil:
		return nil, why.Question{}, &whyError{http.StatusBadRequest, title(err.Error()) + "."}
	}
	return pictures[i], why.Question{Project: a.Project, Job: a.Job}, nil
}

func (p *Page) tagsQuestion(q url.Values, pictures []*snapshot.GitLab, chosen int) (*snapshot.GitLab, why.Question, *whyError) {
	switch tags := tagsOf(q.Get("tags")); {
	case !q.Has("tags"):
		return nil, why.Question{}, &whyError{http.StatusBadRequest, "Give the address of a job: ?job=https://gitlab.example.com/group/project/-/jobs/123."}
	case chosen < 0 && len(pictures) != 1:
		return nil, why.Question{}, &whyError{http.StatusBadRequest, "Name the GitLab: &gitlab=NAME."}
	case len(tags) > mostWhyTags || len(q.Get("tags")) > mostWhyTags*255:
		return nil, why.Question{}, &whyError{http.StatusBadRequest, fmt.Sprintf("At most %d tags are looked at.", mostWhyTags)}
	default:
		return pictures[max(chosen, 0)], why.Question{Tags: tags}, nil
	}
}

func (p *Page) otherHost(pictures []*snapshot.GitLab) string {
	var known []string
	for _, s := range pictures {
		known = append(known, s.Name+" at "+withoutUser(s.URL))
	}
	slices.Sort(known)
	return "This address is of none of the GitLabs that are monitored here, and nothing else is requested. They are: " + strings.Join(known, ", ") +
		". Where browsers reach one of them under another address, add &gitlab=NAME."
}

// whyFailed puts a failed reading into a status and words.
func whyFailed(err error) *whyError {
	e := &whyError{http.StatusBadGateway, "The job cannot be read: " + err.Error()}
	if f, ok := errors.AsType[*why.Failure](err); ok {
		e.text = f.Error()
		switch f.Kind {
		case why.Missing:
			e.status = http.StatusNotFound
		case why.Late:
			e.status = http.StatusGatewayTimeout
		case why.Failed:
		}
	}
	return e
}

func withoutUser(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return ""
	}
	u.User = nil
	return u.String()
}

// jobURL is a job's page in GitLab.
func jobURL(base, project string, id int64) string {
	u, err := url.Parse(base)
	if err != nil {
		return ""
	}
	u.User = nil
	return u.JoinPath(append(strings.Split(project, "/"), "-", "jobs", itoa(id))...).String()
}

// whyView is what /fleet/why is drawn from.
type whyView struct {
	*frame

	Form, Job, GitLab string // of the form
	Names             []string
	Error             string
	Answer            *Why
	Tone              string
	Classes           []whyClass
}

// Many is true where the form asks for the GitLab.
func (v *whyView) Many() bool { return len(v.Names) > 1 }

type whyClass struct {
	why.Class

	Tone, Label, Who string
}

var whyTones = map[why.Verdict][2]string{
	why.Takes:       {"ok", "Could take it"},
	why.Busy:        {"suspect", "Busy"},
	why.Unavailable: {"problem", "Not available"},
	why.Unknown:     {"unknown", "Not known"},
	why.Refuses:     {"grey", "No"},
	why.NoRunner:    {"problem", "No runner"},
	why.NotWaiting:  {"unknown", "Does not wait"},
}

func (v *whyView) answer(a *Why) {
	v.Answer, v.Tone = a, whyTones[why.Verdict(a.Verdict)][0]
	for _, c := range a.Classes {
		t := whyTones[c.Verdict]
		row := whyClass{Class: c, Tone: t[0], Label: t[1], Who: strings.ReplaceAll(strings.TrimSuffix(c.Type, "_type"), "_", " ") + " " + plural(c.Runners, "runner", "runners")}
		if c.Owner != "" {
			row.Who += " of " + c.Owner
		}
		if c.Protected {
			row.Who += ", for protected refs"
		}
		v.Classes = append(v.Classes, row)
	}
}
