package page

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// How much one page shows, so that it stays small and quick; the rest is
// counted, and a filter or /api/v1/fleet has it.
const (
	mostTags = 40
	// Bytes, roughly: names and tags may be long, and longer in addresses.
	tagBytes     = 70_000
	rowBytes     = 55_000 // of one section
	allRowBytes  = 130_000
	foundBytes   = 60_000
	mostRows     = 60  // rows of runners in one section
	mostNames    = 120 // names within folded rows of one section,
	fewNames     = 4   // but in each row so many
	rowNames     = 60
	mostFound    = 150
	shownChanges = 40
	foldAbove    = 4 // runners with the same trouble at the same time become one row
	sameTime     = 15 * time.Minute
	mostLosses   = 3
	mostAlso     = 8
)

// fleetView is what /fleet is drawn from.
type fleetView struct {
	*frame

	Report                  *Report
	Filter                  map[string]string
	Filtered                bool
	Tone                    string // ok, problem, unknown
	Headline                string
	AsOf                    string // before the summary, where it is of withdrawn pictures
	Facts                   []string
	Summary                 []summary
	Notices                 []notice
	GitLabs                 []gitlabView
	Tags                    []tagView
	OldTags                 []tagView
	TagsMore                int
	Sections                []section
	Queues                  []queueView
	Why                     string // address of its form
	Found                   *found
	Changes                 []changeView
	Refresh                 string
	Part                    string // of the runners, where this is a shard
	room                    int    // bytes left for rows of runners
	Kinds, Healths, Reasons []string
}

// summary is one number of the headline, linked to its section.
type summary struct {
	N            int
	What, Anchor string
}

type notice struct {
	Tone, Head, Text, Do, Runbook string
}

type gitlabView struct {
	GitLab

	Tone, Line string
	Board      string
}

type tagView struct {
	Tag

	Losses []runnerRef
	More   int
	Also   []Tag // tags of the same runners
}

type runnerRef struct{ Name, URL string }

// section is one list of runners.
type section struct {
	ID, Head, Note string
	Rows           []rowView
	More           int
	Folded         bool
}

// rowView is one runner, or several with the same trouble.
type rowView struct {
	Anchor              string
	Tone, Badge         string
	Runners             []Runner // those shown
	N                   int
	From, To            time.Time
	GitLab, Tags        string
	Seen, Do            string
	Runbook, Board, URL string
	Jobs                string // address of its jobs in GitLab
	Executes            []JobRef
	AsOf                time.Time
}

type found struct {
	Rows []Runner
	More int
	N    int
}

type changeView struct {
	Change

	N         int
	Text, URL string
}

func newFleetView(p *Page, r *Report, now time.Time, f filter) *fleetView {
	v := &fleetView{
		frame: p.frame("Fleet health", now), Report: r, Filtered: f.active(),
		Filter: map[string]string{"gitlab": f.gitlab, "tag": f.tag, "type": f.kind, "health": f.health, "reason": f.reason, "q": f.search},
		Kinds:  typeNames(), Healths: healthNames(), Reasons: reasonNames(),
		Refresh: p.links.fleet(&f),
	}
	if strings.Contains(v.Refresh, "?") {
		v.Refresh += "&refresh=60"
	} else {
		v.Refresh += "?refresh=60"
	}
	v.room = allRowBytes
	v.gitlabs(p)
	v.tags(p)
	v.runners(p)
	v.search(f)
	v.changes(p)
	v.head()
	v.queues()
	v.Why = p.links.prefix + "/fleet/why"
	if r.Shard.Count > 1 {
		v.Part = " in this part"
	}
	return v
}

// head is what is read first: what is wrong, or why that is not known.
func (v *fleetView) head() {
	v.summarize()
	v.headline()
}

// summarize counts the problems.
func (v *fleetView) summarize() {
	lost, short := 0, 0
	for i := range v.Report.Tags {
		switch v.Report.Tags[i].Problem {
		case tagLost:
			lost++
		case tagBelowFloor, tagHalfGone, tagLastRunner:
			short++
		}
	}
	down, orphaned, suspects := 0, 0, 0
	for i := range v.Report.Runners {
		r := &v.Report.Runners[i]
		if r.outOfService() {
			down++
		}
		orphaned += r.Orphaned
		if len(r.Suspects) > 0 {
			suspects++
		}
	}
	unmatched := v.Report.lastingUnmatched()
	for _, s := range []summary{
		{lost, plural(lost, "tag without a usable runner", "tags without a usable runner"), "tags"},
		{short, plural(short, "tag short of runners", "tags short of runners"), "tags"},
		{down, plural(down, "runner down", "runners down"), "down"},
		{orphaned, plural(orphaned, "orphaned job", "orphaned jobs"), "orphaned"},
		{suspects, plural(suspects, "suspect", "suspects"), "suspects"},
		{unmatched, plural(unmatched, "job that no runner takes", "jobs that no runner takes"), "queue"},
	} {
		if s.N > 0 {
			v.Summary = append(v.Summary, s)
		}
	}
}

func (v *fleetView) headline() {
	blind := 0
	for i := range v.Report.GitLabs {
		if s := v.Report.GitLabs[i].State; s == unread || s == withdrawn || s == unreadable {
			blind++
		}
	}
	v.Tone = v.Report.State
	where := ""
	if v.Filtered {
		where = " in this selection"
	}
	switch all := len(v.Report.GitLabs); {
	case all == 0:
		v.Headline = "No GitLab was read yet"
	case blind > 0 && all == 1:
		v.Headline = "GitLab cannot be read"
		if v.Report.GitLabs[0].State == unread {
			v.Tone, v.Headline = stateUnknown, "GitLab was not read yet"
		}
	case blind > 0:
		v.Headline = fmt.Sprintf("%d of %d GitLabs cannot be read", blind, all)
	case v.Report.State == stateProblem && len(v.Summary) == 0:
		v.Headline = "A scope cannot be read"
	case v.Report.State == stateProblem:
		v.Headline = "Problems" + where
	case v.Report.State == stateUnknown:
		v.Headline = "No problem known" + where + ", but not everything is known"
	default:
		v.Headline = "No problem" + where
	}
}

func plural(n int, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

// gitlabs shows how recent the data of each GitLab are.
func (v *fleetView) gitlabs(p *Page) {
	for _, g := range v.Report.GitLabs {
		c := gitlabView{GitLab: g, Tone: "ok", Board: p.links.board(boardOverview, g.Name, "", 0)}
		v.state(p, &c)
		v.GitLabs = append(v.GitLabs, c)
	}
	oldest := func(at func(*GitLab) time.Time) (t time.Time, name string) {
		for i := range v.Report.GitLabs {
			if x := at(&v.Report.GitLabs[i]); !x.IsZero() && (t.IsZero() || x.Before(t)) {
				t, name = x, v.Report.GitLabs[i].Name
			}
		}
		return t, name
	}
	of := func(name string) string {
		if len(v.Report.GitLabs) > 1 {
			return " (" + name + ")"
		}
		return ""
	}
	if t, name := oldest(func(g *GitLab) time.Time { return g.ListedAt }); !t.IsZero() {
		v.Facts = append(v.Facts, "List of runners read "+ago(v.Now, t)+of(name))
	}
	if t, name := oldest(func(g *GitLab) time.Time { return g.OldestDetailsAt }); !t.IsZero() {
		v.Facts = append(v.Facts, "oldest details "+ago(v.Now, t)+of(name))
	}
	v.verdicts()
}

// verdicts shows whether new ones are passed.
func (v *fleetView) verdicts() {
	suspended, judged, not := time.Time{}, 0, 0
	for i := range v.Report.GitLabs {
		g := &v.Report.GitLabs[i]
		switch g.State {
		case withdrawn:
			v.AsOf = "as of " + clock(v.Now, g.ListedAt) + " UTC:"
			if len(v.Report.GitLabs) > 1 {
				v.AsOf = g.Name + " " + v.AsOf
			}
			not++
			continue
		case unread:
			not++
			continue
		}
		if len(g.Suspended) > 0 && g.SuspendedUntil.After(suspended) {
			suspended = g.SuspendedUntil
		}
		if g.JudgedAt.IsZero() {
			not++
		} else {
			judged++
		}
	}
	switch {
	case !suspended.IsZero():
		v.Facts = append(v.Facts, fmt.Sprintf("verdicts suspended until %s UTC (%s) at the latest", clock(v.Now, suspended), ago(v.Now, suspended)))
	case judged > 0 && not == 0:
		v.Facts = append(v.Facts, "verdicts in force")
	case judged > 0:
		v.Facts = append(v.Facts, "verdicts in force, but not for each GitLab")
	case v.AsOf != "":
		v.Facts = append(v.Facts, "no verdicts since")
	default:
		v.Facts = append(v.Facts, "not judged yet")
	}
}

// state of one GitLab in words, and a notice where something must be done.
func (v *fleetView) state(p *Page, c *gitlabView) {
	since := ""
	if !c.ListedAt.IsZero() {
		since = fmt.Sprintf(" since %s UTC, %s", clock(v.Now, c.ListedAt), ago(v.Now, c.ListedAt))
	}
	switch c.State {
	case unread:
		c.Tone, c.Line = "unknown", "no picture yet"
		v.Notices = append(v.Notices, notice{
			"unknown", c.Name + ": no picture since this process started", "Nothing is known of its runners.",
			"If this lasts for minutes, look at the exporter's log: address, token, certificate.", p.links.runbook(alertUnreadable),
		})
	case withdrawn:
		c.Tone, c.Line = "grey", "the last picture, as of "+clock(v.Now, c.ListedAt)+" UTC"
		v.Notices = append(v.Notices, notice{
			"problem", c.Name + " cannot be read" + since, "What is gray below is the last picture: it may have changed since. Metrics of its fleet are withdrawn.",
			"Look at GitLab and at the exporter's log: is GitLab up, is the token valid?", p.links.runbook(alertUnreadable),
		})
	case unreadable:
		c.Tone, c.Line = "problem", "the last listing failed"
		v.Notices = append(v.Notices, notice{
			"problem", c.Name + " cannot be read" + since, "The picture below is of that time.",
			"Look at GitLab and at the exporter's log: is GitLab up, is the token valid?", p.links.runbook(alertUnreadable),
		})
	case partly:
		c.Tone, c.Line = "problem", "not every scope can be read"
	default:
		c.Line = "readable"
		if c.old {
			c.Tone, c.Line = "unknown", "the list or the judgment is old"
		} else if c.JudgedAt.IsZero() {
			c.Tone, c.Line = "unknown", "readable, runners not judged yet"
		}
	}
	for _, s := range c.Scopes {
		if !s.Up && c.State == partly {
			v.Notices = append(v.Notices, notice{
				"problem", c.Name + ": scope " + strings.TrimSpace(s.Kind+" "+s.Path) + " cannot be read",
				"Its runners are missing from the sums once they are older than staleness.",
				"Does the group or project still exist, and may the token read its runners?", p.links.runbook(alertScope),
			})
		}
	}
	if len(c.Suspended) > 0 {
		why := "GitLab could not be read lately, and runners may have lost it too."
		if slices.Contains(c.Suspended, "fleet_silent") {
			why = "Most idle runners are silent at once: look at GitLab, its load balancer and the network first."
		}
		v.Notices = append(v.Notices, notice{
			"unknown", fmt.Sprintf("%s: verdicts suspended until %s UTC, %s", c.Name, clock(v.Now, c.SuspendedUntil), ago(v.Now, c.SuspendedUntil)),
			why + " No runner is newly called down meanwhile; what was down stays so.", "", "",
		})
	}
	for _, f := range c.FirstReading {
		left := ""
		if f.LeftSeconds > 0 {
			left = ", about " + span(time.Duration(f.LeftSeconds)*time.Second) + " left"
		}
		v.Notices = append(v.Notices, notice{
			"unknown", fmt.Sprintf("%s: first reading of %s: %s of %s%s", c.Name, f.Part, thousands(f.Read), count(f.Of, "runner"), left),
			"Sums are shown once every runner that they are made of was read.", "", "",
		})
	}
}

func (v *fleetView) tags(p *Page) {
	room := tagBytes
	same := map[string]*tagView{} // a runner has several tags: its death is one row
	var rows []*tagView
	for i := range v.Report.Tags {
		t := &tagView{Tag: v.Report.Tags[i]}
		key := t.lossKey()
		if first := same[key]; first != nil && key != "" {
			first.Also = append(first.Also, t.Tag)
			continue
		}
		same[key] = t
		rows = append(rows, t)
	}
	for _, t := range rows {
		// The latest losses made the problem.
		for _, l := range slices.Backward(t.losses) {
			if len(t.Losses) == mostLosses {
				t.More = len(t.losses) - mostLosses
				break
			}
			t.Losses = append(t.Losses, runnerRef{named(l.name, l.id), p.links.runner(t.GitLab, l.id)})
		}
		// Long-standing problems of tags without a floor are one folded list.
		old := t.Floor == nil && !t.Since.IsZero() && v.Now.Sub(t.Since) > longStanding && t.Tag.Tag != v.Filter["tag"]
		switch {
		case len(v.Tags)+len(v.OldTags) >= mostTags || !fits(&room, t.bytes()):
			v.TagsMore++
		case old:
			v.OldTags = append(v.OldTags, *t)
		default:
			v.Tags = append(v.Tags, *t)
		}
	}
}

// lossKey is the same for tags that lost the same runners and have as many left.
func (t *tagView) lossKey() string {
	if len(t.losses) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%q %d %d", t.GitLab, t.Usable, t.Runners)
	for _, l := range t.losses {
		b.WriteByte(' ')
		b.WriteString(itoa(l.id))
	}
	return b.String()
}

// fits takes the bytes out of the room; false: there is none left.
func fits(room *int, bytes int) bool {
	*room -= bytes
	return *room > 0
}

func (t *tagView) bytes() int {
	n := 1200 + 3*len(t.URL) + len(t.BoardURL)
	for _, l := range t.Losses {
		n += 60 + len(l.URL) + len(cut(l.Name, 80))
	}
	for _, a := range t.Also[:min(len(t.Also), mostAlso)] {
		n += 60 + 2*len(a.URL) + len(cut(a.Tag, 80))
	}
	return n
}

func (r *rowView) bytes() int {
	n := 1300 + len(r.Seen) + 2*len(r.Executes)*100 + len(r.Do) + len(r.URL) + len(r.Board) + len(r.Runbook)
	for i := range r.Runners {
		n += r.Runners[i].bytes()
	}
	return n
}

// bytes of its name, which is all that a folded row shows of it.
func (r *Runner) bytes() int { return 90 + 2*len(r.URL) + len(cut(r.Description, 80)) }

func named(description string, id int64) string {
	if description == "" {
		return "#" + itoa(id)
	}
	return description
}

// runners are put into the sections in which somebody looks for them.
func (v *fleetView) runners(p *Page) {
	var orphaned, down, offline, suspects, watch, abandoned []Runner
	for _, r := range v.Report.Runners {
		if r.Orphaned > 0 {
			orphaned = append(orphaned, r)
		}
		if len(r.Suspects) > 0 {
			suspects = append(suspects, r)
		}
		switch {
		case r.outOfService():
			down = append(down, r)
		case r.Health == notJudged && r.Status == snapshot.Offline.String() && !r.Paused:
			offline = append(offline, r)
		case r.abandoned() && !r.Paused:
			abandoned = append(abandoned, r)
		case r.Health != snapshot.HealthAlive.String():
			watch = append(watch, r)
		}
	}
	v.add(section{ID: "down", Head: "Runners down"}, v.fold(p, down, "problem"))
	v.add(section{ID: "offline", Head: "Runners that GitLab calls offline", Note: "Not judged yet."}, v.fold(p, offline, "suspect"))
	var rows []rowView
	for _, r := range orphaned {
		row := v.row(p, []Runner{r}, "problem", "orphaned")
		row.Badge = count(r.Orphaned, "orphaned job")
		row.Anchor = "orphaned/" + row.Anchor
		row.Seen = "A machine of this runner fell silent for 6 minutes or more while it executed."
		row.Do = "Look at the jobs of this runner in GitLab; cancel and retry those that do not move."
		row.Jobs, row.Executes = r.GitLabURL+"#/jobs", r.Jobs
		row.Runbook = p.links.runbook(alertOrphaned)
		rows = append(rows, row)
	}
	v.add(section{ID: "orphaned", Head: "Orphaned jobs"}, rows)
	rows = nil
	for _, r := range suspects {
		for _, s := range r.Suspects {
			row := v.row(p, []Runner{r}, "suspect", s.Reason)
			row.Anchor = "suspect/" + s.Reason + "/" + row.Anchor
			row.Badge, row.From, row.To = title(s.Reason), s.Since, s.Since
			row.Seen = strings.ToUpper(s.Evidence[:1]) + s.Evidence[1:] + "."
			rows = append(rows, row)
		}
	}
	v.add(section{ID: "suspects", Head: "Suspects", Note: "Alive, and yet ill. A suspicion never makes a runner down."}, rows)
	v.add(section{ID: "watch", Head: "To watch", Note: "No failure, or not known to be one.", Folded: true}, v.fold(p, watch, "unknown"))
	v.add(section{ID: "abandoned", Head: "Abandoned", Note: "No sign for a week: registrations to clean up.", Folded: true}, v.fold(p, abandoned, "unknown"))
}

func (v *fleetView) add(s section, rows []rowView) {
	names, room := mostNames, min(v.room, rowBytes)
	shown := 0
	for i := range rows {
		r := &rows[i]
		most := min(len(r.Runners), max(names, fewNames), rowNames)
		r.Runners = r.Runners[:most]
		if i >= mostRows || !fits(&room, r.bytes()) {
			s.More += r.N
			continue
		}
		v.room -= r.bytes()
		names -= most
		shown++
	}
	rows = rows[:shown]
	if s.Rows = rows; len(rows)+s.More > 0 {
		v.Sections = append(v.Sections, s)
	}
}

// fold makes one row of runners with the same trouble that began together: 181
// runners of a site that lost its network are one event.
func (v *fleetView) fold(p *Page, runners []Runner, tone string) []rowView {
	type kind struct {
		gitlab, health, reason, status string
		paused                         bool
	}
	groups := map[kind][]Runner{}
	for _, r := range runners {
		k := kind{gitlab: r.GitLab, health: r.Health, reason: r.Reason, paused: r.Paused}
		if r.Health == notJudged {
			k.status = r.Status
		}
		groups[k] = append(groups[k], r)
	}
	var rows []rowView
	for _, group := range groups {
		slices.SortStableFunc(group, func(a, b Runner) int { return b.Since.Compare(a.Since) })
		for len(group) > 0 {
			n := 1
			for n < len(group) && v.together(&group[n-1], &group[n]) {
				n++
			}
			reason := cmp.Or(group[0].Reason, group[0].Status)
			if n > foldAbove {
				rows = append(rows, v.row(p, group[:n], tone, reason))
			} else {
				for i := range n {
					rows = append(rows, v.row(p, group[i:i+1], tone, reason))
				}
			}
			group = group[n:]
		}
	}
	slices.SortFunc(rows, func(a, b rowView) int {
		age := func(r *rowView) int {
			switch {
			case v.Now.Sub(r.To) <= changesFor:
				return 0
			case v.Now.Sub(r.To) <= longStanding:
				return 1
			}
			return 2
		}
		return cmp.Or(age(&a)-age(&b), b.N-a.N, b.To.Compare(a.To), cmp.Compare(a.Anchor, b.Anchor))
	})
	return rows
}

// together: what began within minutes, and all that began long ago.
func (v *fleetView) together(a, b *Runner) bool {
	return a.Since.Sub(b.Since) <= sameTime || v.Now.Sub(a.Since) > longStanding
}

func (v *fleetView) row(p *Page, runners []Runner, tone, reason string) rowView {
	r := &runners[0]
	t := reasons[reason]
	row := rowView{
		Anchor: "runner/" + anchorOf(r.GitLab) + "/" + itoa(r.ID), Tone: tone, Badge: title(reason), N: len(runners), Runners: runners, GitLab: r.GitLab,
		To: r.Since, From: runners[len(runners)-1].Since, Seen: t.seen, Do: t.do, Runbook: p.links.runbook(t.alert),
		Board: p.links.board(boardRunner, r.GitLab, "", r.ID), URL: r.URL, AsOf: r.AsOf,
	}
	if r.Health == notJudged {
		row.Seen, row.Do = "GitLab calls it "+strings.ReplaceAll(r.Status, "_", " ")+". It was not judged yet.", ""
	}
	if r.Paused {
		row.Badge += ", paused"
	}
	if len(runners) > 1 {
		f := filter{gitlab: r.GitLab, health: r.Health, reason: r.Reason}
		row.Anchor = "event/" + row.Anchor // the names below have their own
		row.URL, row.Tags = p.links.fleet(&f), topTags(runners)
		row.Board = p.links.board(boardTags, r.GitLab, "", 0)
	}
	if !r.AsOf.IsZero() {
		row.Tone = "grey"
	}
	return row
}

// topTags are the tags that most of the runners have.
func topTags(runners []Runner) string {
	counts := map[string]int{}
	for i := range runners {
		for _, t := range runners[i].Tags {
			counts[t]++
		}
	}
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return cmp.Or(counts[b]-counts[a], cmp.Compare(a, b)) })
	var parts []string
	for _, n := range names[:min(4, len(names))] {
		parts = append(parts, fmt.Sprintf("%s %s", thousands(counts[n]), cut(n, 40)))
	}
	return strings.Join(parts, ", ")
}

// search shows what the filter asked for, healthy runners included.
func (v *fleetView) search(f filter) {
	if !f.searches() {
		return
	}
	all := v.Report.found
	v.Found = &found{N: len(all), Rows: all}
	room := foundBytes
	for i := range all {
		if i == mostFound || !fits(&room, 450+all[i].bytes()) {
			v.Found.Rows, v.Found.More = all[:i], len(all)-i
			break
		}
	}
}

// changes of one kind that came together are one row.
func (v *fleetView) changes(p *Page) {
	for _, c := range v.Report.Changes {
		if n := len(v.Changes); n > 0 {
			last := &v.Changes[n-1]
			if last.Kind == c.Kind && last.GitLab == c.GitLab && last.Reason == c.Reason && last.Time.Sub(c.Time) < sameTime {
				last.N++
				continue
			}
			if n == shownChanges {
				break
			}
		}
		view := changeView{Change: c, N: 1, URL: p.links.runner(c.GitLab, c.Runner)}
		view.Name = named(c.Name, c.Runner)
		if c.Tag != "" {
			view.Name = "Tag " + c.Tag
			view.URL = p.links.fleet(&filter{gitlab: c.GitLab, tag: c.Tag})
		}
		view.Text = changeWords[c.Kind]
		if c.Reason != "" {
			view.Text += ": " + strings.ReplaceAll(c.Reason, "_", " ")
		}
		v.Changes = append(v.Changes, view)
	}
}

// The templates' arguments.

// moment is a time and what it is relative to.
type moment struct{ Now, At time.Time }

// At is a moment of this page.
func (f *frame) At(t time.Time) moment { return moment{f.Now, t} }

// Many is true where rows name their GitLab.
func (v *fleetView) Many() bool { return len(v.Report.GitLabs) > 1 }

// TagRow is what a tag's row is drawn from.
func (v *fleetView) TagRow(t tagView) any {
	tone := map[string]string{tagLost: "problem", tagBelowFloor: "problem", tagHalfGone: "suspect", tagLastRunner: "suspect", tagUnknown: "unknown", tagFine: "ok"}[t.Problem]
	if !t.AsOf.IsZero() {
		tone = "grey"
	} else if tone == "ok" && v.Tone == stateUnknown {
		tone = "unknown"
	}
	return struct {
		Tag  tagView
		Tone string
		Part string
		Many bool
		Now  time.Time
		When moment
	}{t, tone, v.Part, v.Many(), v.Now, v.At(t.Since)}
}

// RunnerRow is what a row of runners is drawn from.
func (v *fleetView) RunnerRow(r rowView) any {
	return struct {
		Row  rowView
		Many bool
		Now  time.Time
		When moment
	}{r, v.Many(), v.Now, v.At(r.To)}
}

// Total is how many runners a folded section holds.
func (v *fleetView) Total(s section) string {
	n, kinds := s.More, map[string]int{}
	for i := range s.Rows {
		n += s.Rows[i].N
		kinds[s.Rows[i].Badge] += s.Rows[i].N
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		parts = append(parts, thousands(kinds[k])+" "+strings.ToLower(k))
	}
	return count(n, "runner") + ": " + strings.Join(parts, ", ")
}

// ToneOf is the color of a runner in a list: green only where it was judged
// lately and nothing is held against it.
func (v *fleetView) ToneOf(r Runner) string {
	switch {
	case !r.AsOf.IsZero():
		return "grey"
	case r.outOfService() || r.Orphaned > 0:
		return "problem"
	case len(r.Suspects) > 0:
		return "suspect"
	case r.Health == snapshot.HealthAlive.String() && !r.Paused && r.Status == snapshot.Online.String():
		return "ok"
	}
	return "unknown"
}

// Table is what a list of evidence is drawn from.
func (v *runnerView) Table(rows []evidence) any {
	return struct {
		Now  time.Time
		Rows []evidence
	}{v.Now, rows}
}
