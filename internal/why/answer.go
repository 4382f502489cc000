package why

import "time"

// Question is what is asked: a job, or what would hold for one with these tags.
type Question struct {
	Project string
	Job     int64    // 0: Tags
	Tags    []string // none: a job without tags
}

// Answer is what is known of a job and of the runners.
type Answer struct {
	GitLab   string
	WebURL   string // of the job, as GitLab has it
	Job      Job
	Verdict  Verdict
	Text     string
	Classes  []Class // none where the job does not wait
	Unknown  []UnknownTag
	Limits   []string // where the knowledge ends
	Known    []Runner
	ListedAt time.Time // when the runners were listed; zero: never
}

// Conclude fills in the verdict from what is known.
func (a *Answer) Conclude(e *Evidence, now time.Time) {
	a.Unknown, a.Classes = []UnknownTag{}, []Class{}
	if !Waits(a.Job.Status) {
		a.Verdict, a.Text, a.Limits = NotWaiting, State(&a.Job), nil
		return
	}
	a.Classes = Explain(a.Job, a.Known, *e)
	a.Verdict, a.Text = Summary(&a.Job, a.Classes, now)
	if a.Job.TagsKnown {
		a.Unknown = UnknownTags(&a.Job, a.Known)
	}
	if a.Verdict == NoRunner && len(a.Limits) > 0 {
		a.Verdict = Unknown // others, which are not known here, may
	}
	if a.Job.ID > 0 && e.Serves == nil {
		a.Limits = append(a.Limits, "Which runners the project may use could not be read: that takes a maintainer of the project, or an administrator.")
	}
}

// Kind of a Failure.
type Kind uint8

// The kinds.
const (
	Failed  Kind = iota // GitLab cannot be read
	Missing             // it has no such job, or does not show it to this token
	Late                // it, or the budget, took too long
)

// Failure is why a job could not be read. Its text holds no secret.
type Failure struct {
	Kind Kind
	Text string
}

// Error is the text.
func (f *Failure) Error() string { return f.Text }
