package page

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// oldAfter is how many intervals, and at least how long, a list or a judgement
// may be old before the page stops calling its absence of problems good.
const (
	oldIntervals = 5
	oldAtLeast   = 5 * time.Minute
)

// builder makes a report of pictures.
type builder struct {
	now    time.Time
	links  *links
	filter filter
	report *Report
}

func (p *Page) report(now time.Time, f filter, l *links) *Report {
	pictures := p.opts.Pictures()
	last, changes := p.memory.of(pictures, now)
	b := &builder{now: now, links: l, filter: f, report: &Report{
		Time: utc(now), Shard: p.links.shard(p.opts), State: stateOK,
		GitLabs: []GitLab{}, Tags: []Tag{}, Runners: []Runner{}, Queues: []Queue{}, Changes: []Change{},
	}}
	for _, s := range pictures {
		if f.gitlab == "" || f.gitlab == s.Name {
			b.gitlab(s, last[s.Name])
			b.queue(s)
		}
	}
	for _, c := range changes {
		if f.change(&c) {
			b.report.Changes = append(b.report.Changes, c)
		}
	}
	slices.SortStableFunc(b.report.Changes, func(a, c Change) int { return c.Time.Compare(a.Time) })
	slices.SortStableFunc(b.report.Tags, func(a, c Tag) int { return b.compareTags(&a, &c) })
	slices.SortStableFunc(b.report.Runners, func(a, c Runner) int { return compareRunners(&a, &c) })
	slices.SortStableFunc(b.report.found, func(a, c Runner) int { return compareRunners(&a, &c) })
	b.report.ChangesSince = utc(now.Add(-changesFor))
	if p.memory.started.After(b.report.ChangesSince) {
		b.report.ChangesSince = utc(p.memory.started)
	}
	b.report.State = b.state()
	return b.report
}

// state is ok only where everything is known.
func (b *builder) state() string {
	r := b.report
	state := stateOK
	if len(r.GitLabs) == 0 {
		state = stateUnknown
	}
	for i := range r.GitLabs {
		g := &r.GitLabs[i]
		if g.State != readable {
			return stateProblem
		}
		if g.old || !g.TagsKnown || g.JudgedAt.IsZero() || len(g.Suspended) > 0 {
			state = stateUnknown
		}
	}
	for i := range r.Tags {
		switch r.Tags[i].Problem {
		case tagFine:
		case tagUnknown:
			state = stateUnknown
		default:
			return stateProblem
		}
	}
	for i := range r.Runners {
		c := &r.Runners[i]
		if c.outOfService() || len(c.Suspects) > 0 || c.Orphaned > 0 {
			return stateProblem
		}
		if c.Health == notJudged {
			state = stateUnknown
		}
	}
	return r.queueState(state)
}

// gitlab adds one GitLab: its present picture, or where that was withdrawn the
// last one that is remembered.
func (b *builder) gitlab(now, last *snapshot.GitLab) {
	g := GitLab{
		Name: now.Name, URL: now.URL, Version: now.Version, State: readable,
		Suspended: []string{}, FirstReading: []Progress{}, Scopes: []Scope{},
	}
	for _, s := range now.Scopes {
		g.Scopes = append(g.Scopes, Scope{Kind: string(s.Kind), Path: s.Path, Up: s.Up})
		if !s.Up {
			g.State = partly
		}
	}
	for _, p := range now.Self.First {
		g.FirstReading = append(g.FirstReading, Progress{Part: p.Part.String(), Read: p.Read, Of: p.Of, LeftSeconds: int64(p.Left / time.Second)})
	}
	picture := now
	switch {
	case now.Fleet != nil && !now.Up:
		g.State = unreadable
	case now.Fleet == nil && last != nil:
		g.State, picture = withdrawn, last
	case now.Fleet == nil:
		g.State = unread
		b.report.GitLabs = append(b.report.GitLabs, g)
		return
	}
	listed := picture.Self.Stages[snapshot.StageRunners]
	g.ListedAt = utc(listed.LastSuccess)
	g.TagsKnown = picture.Fleet.Detailed
	oldAfter := max(oldIntervals*listed.Interval, oldAtLeast)
	g.old = b.now.Sub(listed.LastSuccess) > oldAfter
	if h := picture.Health; h != nil {
		g.JudgedAt, g.CacheLostAt, g.SuspendedUntil = utc(h.Time), utc(h.CacheLostAt), utc(h.Until)
		g.old = g.old || b.now.Sub(h.Time) > oldAfter
		if h.AfterOutage {
			g.Suspended = append(g.Suspended, "after_outage")
		}
		if h.FleetSilent {
			g.Suspended = append(g.Suspended, "fleet_silent")
		}
	}
	f := &fleet{builder: b, s: picture, g: &g, ill: map[int64]*snapshot.Ill{}}
	if g.State == withdrawn {
		f.asOf = g.ListedAt
	}
	f.tags()
	f.runners()
	b.report.GitLabs = append(b.report.GitLabs, g)
}

// fleet adds the tags and runners of one picture.
type fleet struct {
	*builder

	s    *snapshot.GitLab
	g    *GitLab
	asOf time.Time // zero unless the picture was withdrawn
	ill  map[int64]*snapshot.Ill
	// short are the tags to show, for which runners are counted.
	short map[string]*Tag
}

// tags finds the tags that are short of runners, and the one that is asked for.
func (f *fleet) tags() {
	f.short = map[string]*Tag{}
	floors := make(map[string]int, len(f.s.Expected))
	for _, e := range f.s.Expected {
		floors[e.Tag] = e.Runners
	}
	if !f.s.Fleet.Detailed {
		return // incomplete sums
	}
	for i := range f.s.Fleet.Tags {
		t := &f.s.Fleet.Tags[i]
		floor, has := floors[t.Name]
		delete(floors, t.Name)
		row := Tag{Tag: t.Name, Usable: usable(f.s, t), Available: t.Available, Since: t.LastAvailable}
		for k, kind := range t.Runners {
			if kind == nil {
				continue
			}
			row.Executing += t.JobsExecuting[k]
			for _, n := range kind {
				row.Runners += n[0] + n[1]
			}
		}
		if has {
			row.Floor = &floor
		}
		if row.Problem = f.problemOf(&row); t.Name == snapshot.TagUnknown || t.Name == snapshot.TagOther {
			row.Problem = tagFine // they stand for several tags
		}
		f.tag(row)
	}
	for name, floor := range floors {
		row := Tag{Tag: name, Floor: &floor}
		if row.Problem = f.problemOf(&row); slices.Contains(f.s.Fleet.UnknownTags, name) {
			row.Problem = tagUnknown
		}
		f.tag(row)
	}
}

// problemOf a tag: a floor of 0 allows it to be empty. A shard sees its part
// only: no runner here may be enough elsewhere, and a floor is for all parts.
func (f *fleet) problemOf(t *Tag) string {
	part := f.report.Shard.Count > 1
	switch {
	case part && t.Runners == 0:
		return tagFine
	case t.Floor != nil && *t.Floor == 0:
		return tagFine
	case t.Usable == 0:
		return tagLost
	case t.Floor != nil && t.Usable < *t.Floor && !part:
		return tagBelowFloor
	case 2*t.Usable < t.Runners:
		return tagHalfGone
	case t.Usable == 1 && t.Runners > 1:
		return tagLastRunner
	}
	return tagFine
}

func (f *fleet) tag(t Tag) {
	if t.Problem == tagFine && t.Tag != f.filter.tag || !f.filter.tagRow(&t) {
		return
	}
	t.GitLab, t.AsOf = f.g.Name, f.asOf
	f.short[t.Tag] = &t
}

// runners counts the runners, adds those with a problem or a suspicion, and shows
// what each short tag lost.
func (f *fleet) runners() {
	if h := f.s.Health; h != nil {
		for i := range h.Ill {
			f.ill[h.Ill[i].ID] = &h.Ill[i]
		}
	}
	for i := range f.s.Fleet.Rows {
		row := &f.s.Fleet.Rows[i]
		ill := f.ill[row.ID]
		f.count(row, ill)
		if why, since := f.lossOf(row, ill); why != nil {
			for _, name := range row.Tags {
				if t := f.short[name]; t != nil {
					*why(t)++
					t.losses = append(t.losses, loss{id: row.ID, name: row.Description, since: since})
				}
			}
		}
		shown := ill != nil && (ill.Health != snapshot.HealthAlive || ill.OrphanedJobs > 0 || f.suspect(ill)) ||
			f.s.Health == nil && row.Status != snapshot.Online
		if !shown && !f.filter.searches() {
			continue
		}
		health, reason := f.verdict(ill)
		if !f.filter.runner(row, health, reason, ill) {
			continue
		}
		r := f.runner(row, ill, health, reason)
		if shown {
			f.report.Runners = append(f.report.Runners, r)
		}
		if f.filter.searches() {
			f.report.found = append(f.report.found, r)
		}
	}
	for _, t := range f.short {
		slices.SortFunc(t.losses, func(a, b loss) int { return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.id, b.id)) })
		t.Since = utc(shortSince(t))
		f.links.tag(t)
		f.report.Tags = append(f.report.Tags, *t)
	}
}

func (f *fleet) suspect(ill *snapshot.Ill) bool {
	for _, since := range ill.Suspects {
		if !since.IsZero() {
			return true
		}
	}
	return false
}

func (f *fleet) verdict(ill *snapshot.Ill) (health, reason string) {
	switch {
	case f.s.Health == nil:
		return notJudged, ""
	case ill == nil:
		return snapshot.HealthAlive.String(), ""
	}
	return ill.Health.String(), ill.Reason.String()
}

func (f *fleet) count(row *snapshot.Runner, ill *snapshot.Ill) {
	c := &f.g.Runners
	c.Total++
	if row.Status == snapshot.Online {
		c.Online++
		if !row.Paused {
			c.Available++
		}
	}
	if row.Paused {
		c.Paused++
	}
	switch {
	case f.s.Health == nil:
		c.NotJudged++
	case ill == nil || ill.Health == snapshot.HealthAlive:
		c.Alive++
	case ill.Health == snapshot.HealthOverdue:
		c.Overdue++
	case ill.Health == snapshot.HealthDown:
		c.Down++
	default:
		c.Unknown++
	}
	if ill != nil && f.suspect(ill) {
		c.Suspect++
	}
	if row.DetailsAt.IsZero() {
		f.g.DetailsMissing++
	} else if at := utc(row.DetailsAt); f.g.OldestDetailsAt.IsZero() || at.Before(f.g.OldestDetailsAt) {
		f.g.OldestDetailsAt = at
	}
}

// lossOf returns the counter of why a tag cannot use a runner and since when;
// nil where it can.
func (f *fleet) lossOf(row *snapshot.Runner, ill *snapshot.Ill) (counter func(*Tag) *int, since time.Time) {
	first := func(t time.Time) {
		if since.IsZero() || !t.IsZero() && t.Before(since) {
			since = t
		}
	}
	if ill != nil && !ill.Suspects[snapshot.SuspectBlackHole].IsZero() {
		counter = func(t *Tag) *int { return &t.Failing }
		first(ill.Suspects[snapshot.SuspectBlackHole])
	}
	if row.Status != snapshot.Online {
		counter = func(t *Tag) *int { return &t.Offline }
		first(row.StatusSince)
	}
	if ill != nil && ill.Health == snapshot.HealthDown {
		counter = func(t *Tag) *int { return &t.Down }
		first(ill.Since)
	}
	if row.Paused {
		counter = func(t *Tag) *int { return &t.Paused }
		first(row.PausedSince)
	}
	return counter, since
}

// shortSince is when a tag came to be as short as it is: the loss that took it
// below its floor, or, lost, its last usable runner. Zero: not known.
func shortSince(t *Tag) time.Time {
	need := 1
	switch t.Problem {
	case tagFine, tagUnknown:
		return time.Time{}
	case tagBelowFloor:
		need = *t.Floor
	case tagHalfGone:
		need = (t.Runners + 1) / 2
	case tagLastRunner:
		need = 2
	}
	if t.Problem == tagLost && len(t.losses) == 0 {
		return t.Since // its runners are gone: when one was last available
	}
	// With so many runners in all, the loss with this number was one too many.
	if at := len(t.losses) + t.Usable - need; at >= 0 && at < len(t.losses) {
		return t.losses[at].since
	}
	return time.Time{} // those that would be needed left, or never were
}

func (f *fleet) runner(row *snapshot.Runner, ill *snapshot.Ill, health, reason string) Runner {
	r := Runner{
		GitLab: f.g.Name, ID: row.ID, Description: row.Description, Type: row.Type.String(), Owner: row.Owner,
		Tags: slices.Clone(row.Tags), Status: row.Status.String(), Paused: row.Paused,
		Health: health, Reason: reason, LastSeen: utc(row.LastSeen), Suspects: []Suspect{}, Jobs: []JobRef{}, AsOf: f.asOf,
		URL: f.links.runner(f.g.Name, row.ID), GitLabURL: gitlabRunner(f.g.URL, row),
	}
	if r.Tags == nil {
		r.Tags = []string{}
	}
	if row.JobsExecuting >= 0 {
		n := row.JobsExecuting
		r.Executing = &n
	}
	if f.s.Health == nil {
		r.Since = utc(row.StatusSince)
	}
	if ill == nil {
		return r
	}
	r.Orphaned, r.Failed = ill.OrphanedJobs, ill.ConsecutiveFailed
	for _, j := range ill.Jobs {
		r.Jobs = append(r.Jobs, JobRef(j))
	}
	if ill.Health != snapshot.HealthAlive {
		r.Since = utc(ill.Since)
	}
	if r.LastSeen.IsZero() {
		r.LastSeen = utc(ill.LastSeen)
	}
	for s := range snapshot.NumSuspicions {
		if since := ill.Suspects[s]; !since.IsZero() {
			r.Suspects = append(r.Suspects, Suspect{Reason: s.String(), Since: utc(since), Evidence: grounds(s, &ill.Grounds[s])})
		}
	}
	return r
}

// recency sorts news before what has been so for long: whoever is woken looks
// for what just happened.
func (b *builder) recency(since time.Time) int {
	switch age := b.now.Sub(since); {
	case since.IsZero():
		return 1
	case age <= longStanding:
		return 0
	}
	return 2
}

// longStanding is after how long a problem is shown after the newer ones.
const longStanding = 24 * time.Hour

func (b *builder) compareTags(x, y *Tag) int {
	floor := func(t *Tag) int { // a floor is a promise: it does not grow old
		if t.Floor != nil {
			return 0
		}
		return 1
	}
	grown := func(t *Tag) int {
		if t.Floor != nil {
			return 0
		}
		return b.recency(t.Since) / 2
	}
	return cmp.Or(
		grown(x)-grown(y),
		worst(x)-worst(y),
		floor(x)-floor(y),
		b.recency(x.Since)-b.recency(y.Since),
		y.Since.Compare(x.Since),
		cmp.Compare(x.GitLab, y.GitLab), cmp.Compare(x.Tag, y.Tag),
	)
}

// worst ranks a tag; 0 is the worst. What somebody paused, or deleted without a
// floor, comes after what broke.
func worst(t *Tag) int {
	rank := 2 * tagRank[t.Problem]
	if t.Problem == tagLost && (t.Runners > 0 && t.Paused == t.Runners || t.Runners == 0 && t.Floor == nil) {
		rank = 2*tagRank[tagBelowFloor] + 1
	}
	return rank
}

// badness of a runner; 0 is the worst.
func badness(r *Runner) int {
	n := 0
	switch {
	case r.Orphaned > 0:
	case r.outOfService():
		n = 1
	case len(r.Suspects) > 0:
		n = 2
	case r.abandoned():
		n = 6
	case r.down():
		n = 3
	case r.Health == snapshot.HealthOverdue.String():
		n = 4
	case r.Health == snapshot.HealthUnknown.String():
		n = 5
	case r.Health == notJudged && r.Status != snapshot.Online.String():
		n = 1
	case r.Paused:
		n = 7
	default:
		n = 8
	}
	return n
}

func compareRunners(x, y *Runner) int {
	return cmp.Or(badness(x)-badness(y), y.Since.Compare(x.Since), cmp.Compare(x.GitLab, y.GitLab), cmp.Compare(x.ID, y.ID))
}

// gitlabRunner is the page of a runner in GitLab. Administrators have one for
// each; owners of a group or project have theirs.
func gitlabRunner(base string, r *snapshot.Runner) string {
	u, err := url.Parse(base)
	if err != nil {
		return ""
	}
	u.User = nil
	id := itoa(r.ID)
	switch path := strings.Split(r.Owner, "/"); {
	case r.Type == snapshot.GroupType && r.Owner != "":
		return u.JoinPath(append(append([]string{"groups"}, path...), "-", "runners", id)...).String()
	case r.Type == snapshot.ProjectType && r.Owner != "":
		return u.JoinPath(append(path, "-", "runners", id)...).String()
	}
	return u.JoinPath("admin", "runners", id).String()
}
