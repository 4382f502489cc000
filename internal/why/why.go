// Package why explains which runners take a job, and why the others do not. It
// is pure: internal/monitor hands it the job, the runners and what GitLab itself
// showed of where the job is offered. What is not known is reported as such and
// is never a reason.
package why

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Job is what is known of a job.
type Job struct {
	ID        int64
	Project   string // full path; "": not known, as of a set of tags
	Status    string // GitLab's; "pending" for a set of tags
	Tags      []string
	TagsKnown bool
	Since     time.Time // pending since; zero: not known
	RunnerID  int64     // that executes or executed it; 0: none, or deleted
	Runner    string
}

// Runner is what is known of a registered runner.
type Runner struct {
	ID          int64
	Description string
	Type        string
	Owner       string // full path of its group, or of the project that owns it
	Tags        []string
	RunUntagged bool
	Protected   bool
	DetailsRead bool // false: of the fields above only ID, Description and Type are known

	Old       bool // the list that showed it is too old: nothing below is known
	Available bool // online and not paused
	Paused    bool
	Down      bool // by verdict
	Failing   bool // it fails each job at once
	Executing bool // at least one job
	Jobs      int  // that it executes; 0 where not Executing or not known
	Most      int  // jobs that it was seen to execute at once; 0: not known
}

// Offer is whether GitLab's queue offers the job to runners.
type Offer uint8

// The offers.
const (
	OfferUnknown Offer = iota
	Offered
	NotOffered
)

// Evidence is what GitLab itself showed beside the job and the runners.
type Evidence struct {
	// Offer is where the last reading of the queue saw the job, by type and owner
	// of runners and whether they are for protected refs; nil: the queue was not read.
	Offer func(typ, owner string, protected bool) Offer
	// Serves are the runners that the job's project may use and that have all of
	// its tags; nil: they could not be read. Whole: none is missing.
	Serves map[int64]bool
	Whole  bool
}

// Verdict is what holds for the runners of a class.
type Verdict string

// The verdicts, the nearest to taking the job first.
const (
	Takes       Verdict = "could_take"     // an available runner has room, as far as is known
	Busy        Verdict = "busy"           // the available ones execute jobs
	Unavailable Verdict = "none_available" // none of them is available
	Unknown     Verdict = "unknown"        // something that decides it is not known
	Refuses     Verdict = "no"             // by its registration, whatever its state
)

var verdictRank = map[Verdict]int{Takes: 0, Busy: 1, Unavailable: 2, Unknown: 3, Refuses: 4}

// Code names a reason. It is a part of /api/v1/why.
type Code string

// The reasons.
const (
	MissingTags  Code = "missing_tags"
	NoUntagged   Code = "untagged_off"
	OtherProject Code = "other_project"
	OtherGroup   Code = "other_group"
	SharedOff    Code = "instance_runners_off"
	ProtectedRef Code = "protected_ref"
	NotOfferedBy Code = "not_offered"

	PausedAll  Code = "paused"
	OfflineAll Code = "offline"
	DownAll    Code = "down"
	FailingAll Code = "failing"
	FullAll    Code = "busy"

	TagsUnknown    Code = "tags_unknown"
	DetailsUnread  Code = "details_unread"
	ListOld        Code = "list_old"
	RefUnknown     Code = "ref_unknown"
	ProjectUnknown Code = "project_unknown"
)

// Reason is why a class does not take the job, or what is not known about it.
type Reason struct {
	Code Code     `json:"code"`
	Text string   `json:"text"`
	Tags []string `json:"tags,omitempty"` // of missing_tags
}

// Class are the runners that are offered the same jobs.
type Class struct {
	Type        string   `json:"type"`
	Owner       string   `json:"owner,omitempty"`
	Tags        []string `json:"tags"`
	RunUntagged bool     `json:"run_untagged"`
	Protected   bool     `json:"protected"`
	Verdict     Verdict  `json:"verdict"`
	// Certain: GitLab itself shows that it offers the job to these runners.
	Certain bool     `json:"certain"`
	Reasons []Reason `json:"reasons"`
	Runners int      `json:"runners"`
	// Each runner is counted in one of these at most, in this order; in none where its
	// state is not known.
	Paused    int `json:"paused"`
	Down      int `json:"down"`
	Offline   int `json:"offline"`
	Failing   int `json:"failing"`
	Full      int `json:"busy"`
	Idle      int `json:"idle"` // with room, as far as is known
	Executing int `json:"jobs_executing"`
	// Example is one of its runners, the nearest to taking the job.
	Example     int64  `json:"example_id"`
	Description string `json:"example"`
	ExampleURL  string `json:"example_url"`

	read     bool
	old      int // runners whose state is not known
	members  []Runner
	distance int
}

// Explain sorts the runners into classes, the nearest to taking the job first.
func Explain(job Job, runners []Runner, e Evidence) []Class {
	byKey := map[string]*Class{}
	var classes []*Class
	for _, r := range runners {
		tags := sorted(r.Tags)
		key := strings.Join([]string{r.Type, r.Owner, yes(r.Protected), yes(r.RunUntagged), yes(r.DetailsRead), strings.Join(tags, "\x00")}, "\x01")
		c := byKey[key]
		if c == nil {
			c = &Class{Type: r.Type, Owner: r.Owner, Tags: tags, RunUntagged: r.RunUntagged, Protected: r.Protected, Reasons: []Reason{}, read: r.DetailsRead}
			byKey[key] = c
			classes = append(classes, c)
		}
		c.members = append(c.members, r)
	}
	job.Tags = sorted(job.Tags)
	out := make([]Class, len(classes))
	for i, c := range classes {
		c.count()
		c.judge(&job, &e)
		out[i] = *c
	}
	slices.SortFunc(out, func(a, b Class) int {
		return cmp.Or(
			verdictRank[a.Verdict]-verdictRank[b.Verdict],
			a.distance-b.distance,
			(b.Idle+b.Full)-(a.Idle+a.Full), b.Runners-a.Runners, cmp.Compare(a.Example, b.Example),
		)
	})
	return out
}

// count sums up the states of the members.
func (c *Class) count() {
	rank := func(r *Runner) int {
		switch {
		case r.Old:
			return 5
		case r.Paused:
			return 4
		case r.Down || !r.Available:
			return 3
		case r.Failing:
			return 2
		case r.full():
			return 1
		}
		return 0
	}
	c.Runners = len(c.members)
	best := 0
	for i := range c.members {
		r := &c.members[i]
		if !r.Old {
			c.Executing += r.Jobs
		}
		switch rank(r) {
		case 5:
			c.old++
		case 4:
			c.Paused++
		case 3:
			if r.Down {
				c.Down++
			} else {
				c.Offline++
			}
		case 2:
			c.Failing++
		case 1:
			c.Full++
		default:
			c.Idle++
		}
		if b := &c.members[best]; cmp.Or(rank(r)-rank(b), cmp.Compare(r.ID, b.ID)) < 0 {
			best = i
		}
	}
	c.Example, c.Description = c.members[best].ID, c.members[best].Description
}

// full: GitLab does not know the concurrency of a runner. One that executes as
// many jobs as it was ever seen to counts as full.
func (r *Runner) full() bool { return r.Executing && (r.Most == 0 || r.Jobs >= r.Most) }

// judge finds the reasons of a class.
func (c *Class) judge(job *Job, e *Evidence) {
	if !c.read {
		c.Verdict = Unknown
		c.because(DetailsUnread, "their details were not read yet, so that their tags are not known")
		return
	}
	refused := c.tags(job)
	unsure := !job.TagsKnown
	if !refused && !unsure {
		refused, unsure = c.place(job, e)
	} else if c.elsewhere(job) {
		refused = true
	}
	state := c.state()
	switch {
	case refused:
		c.Verdict = Refuses
	case unsure:
		c.Verdict = Unknown
	default:
		c.Verdict = state
	}
}

func (c *Class) because(code Code, text string) {
	c.Reasons = append(c.Reasons, Reason{Code: code, Text: text})
}

// tags reports whether the tags are an obstacle.
func (c *Class) tags(job *Job) bool {
	if !job.TagsKnown {
		c.because(TagsUnknown, "the tags of the job are not known")
		return false
	}
	if len(job.Tags) == 0 {
		if c.RunUntagged {
			return false
		}
		c.because(NoUntagged, "they take no jobs without tags")
		c.distance++
		return true
	}
	var missing []string
	for _, t := range job.Tags {
		if _, ok := slices.BinarySearch(c.Tags, t); !ok {
			missing = append(missing, t)
		}
	}
	if len(missing) == 0 {
		return false
	}
	noun := "tag "
	if len(missing) > 1 {
		noun = "tags "
	}
	c.Reasons = append(c.Reasons, Reason{Code: MissingTags, Text: "they lack the " + noun + strings.Join(missing, ", "), Tags: missing})
	// Of two classes that lack as many, the one with more of the job's is nearer.
	c.distance += 2 * len(missing)
	if len(missing) == len(job.Tags) {
		c.distance++
	}
	return true
}

// elsewhere notes, of a class whose tags are an obstacle already, that it would
// not serve the job's project either, where its owner alone shows it.
func (c *Class) elsewhere(job *Job) bool {
	if c.Type != "group_type" || job.Project == "" || c.Owner == "" || strings.HasPrefix(job.Project, c.Owner+"/") {
		return false
	}
	c.because(OtherGroup, "they serve the group "+c.Owner+", to which the project does not belong")
	c.distance += 3
	return true
}

// place decides by the project and the ref, which matter only where the tags fit.
func (c *Class) place(job *Job, e *Evidence) (refused, unsure bool) {
	offer := OfferUnknown
	if e.Offer != nil {
		offer = e.Offer(c.Type, c.Owner, c.Protected)
	}
	// The list of the project's runners is newer than the queue, and the queue
	// takes runners of one project as serving the same projects: it comes first.
	serves, known := c.serves(e)
	if !serves && known || c.elsewhere(job) {
		if !slices.ContainsFunc(c.Reasons, func(r Reason) bool { return r.Code == OtherGroup }) {
			c.foreign()
		}
		return true, false
	}
	switch offer {
	case Offered:
		c.Certain = true
		return false, false
	case NotOffered:
		c.distance += 3
		if c.Protected && serves {
			c.because(ProtectedRef, "they take jobs of protected branches and tags only, and GitLab does not offer them this job")
		} else if c.Protected {
			c.because(NotOfferedBy, "GitLab does not offer them this job: its ref is not protected, or they do not serve its project")
		} else {
			c.because(NotOfferedBy, "GitLab does not offer them this job: they do not serve its project, or instance or group runners are turned off for it")
		}
		return true, false
	case OfferUnknown:
	}
	if c.Protected {
		unsure = true
		c.because(RefUnknown, "they take it only if its branch or tag is protected, which GitLab's answer about a job does not show")
	}
	if c.Type == "project_type" && !serves && (job.Project == "" || c.Owner != job.Project) {
		unsure = true
		c.because(ProjectUnknown, "they take it only if they are assigned to its project too, which could not be read")
	}
	c.Certain = serves && !c.Protected
	return false, unsure
}

// serves reports whether the project may use these runners, as GitLab lists them.
func (c *Class) serves(e *Evidence) (serves, known bool) {
	if e.Serves == nil {
		return false, false
	}
	for i := range c.members {
		if e.Serves[c.members[i].ID] {
			return true, true
		}
	}
	return false, e.Whole
}

// foreign: the tags fit, and GitLab does not list them for the project.
func (c *Class) foreign() {
	c.distance += 3
	switch c.Type {
	case "group_type":
		c.because(OtherGroup, "the project may not use them: they serve another group, or group runners are turned off for it")
	case "project_type":
		c.because(OtherProject, "they are not assigned to the project; one that is locked cannot be")
	default:
		c.because(SharedOff, "the project may not use them: instance runners are turned off for it")
	}
}

// state gives the reasons that lie in the present state of the runners.
func (c *Class) state() Verdict {
	for _, s := range []struct {
		n    int
		code Code
		all  string
		some string
	}{
		{c.Paused, PausedAll, "paused", "paused"},
		{c.Down, DownAll, "down", "down"},
		{c.Offline, OfflineAll, "offline for GitLab", "offline for GitLab"},
		{c.Failing, FailingAll, "failing each job that they take", "failing each job"},
		{c.Full, FullAll, "executing jobs, as many as they were seen to execute at once: GitLab does not know their limits", "executing jobs"},
	} {
		switch {
		case s.n == 0:
		case s.n == c.Runners && c.Runners == 1:
			c.because(s.code, "its only runner is "+s.all)
		case s.n == c.Runners:
			c.because(s.code, "all "+itoa(c.Runners)+" are "+s.all)
		case c.Idle == 0:
			c.because(s.code, itoa(s.n)+" of "+itoa(c.Runners)+" "+plural(s.n, "is ", "are ")+s.some)
		}
	}
	switch {
	case c.Idle > 0:
		return Takes
	case c.old > 0:
		c.because(ListOld, "of "+itoa(c.old)+" of "+itoa(c.Runners)+" it is not known how they are now: the list that showed them is older than poll.staleness")
		return Unknown
	case c.Full > 0:
		return Busy
	}
	return Unavailable
}
