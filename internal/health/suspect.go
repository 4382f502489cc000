package health

import (
	"math"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Suspects: the section of that name in docs/health.md.
const (
	elsewhereLeast  = 2 // jobs of the same project elsewhere, before one here counts
	projectsLeast   = 2 // one broken project accuses nobody
	keptOutcomes    = 48
	keptElsewhere   = 400
	outcomesFor     = day
	streakWithin    = 8 * hour
	streakLeast     = 4
	streakChance    = 1e-4
	shortJob        = 30  // seconds
	shortShare      = 0.8 // of the streak
	allFailWithin   = 30 * minute
	allFailLeast    = 3
	infraOf         = 40 // jobs with jobs elsewhere
	infraAround     = 20 * minute
	infraLeast      = 4
	infraLately     = 2 // of infraLast
	infraLast       = 10
	infraTimes      = 3 // what is expected
	infraChance     = 1e-4
	infraMargin     = 1.3 // on what is expected: the jobs elsewhere are a sample too
	infraClean      = 15
	takesKnown      = habitKnown
	takesIdle       = 30 * minute
	takesPeers      = 3
	takesOwed       = 15
	takesTimes      = 1.5 // its most in the week
	takesSeen       = 65 * minute
	takesGap        = 20 * minute // what was queued in a longer silence need not have been offered to it
	takesRecent     = 20 * minute // starts that are found later, after a stop of the exporter, were not offered now
	shareMean       = 3 * day     // half-life 2 days
	timeoutRoom     = 10 * minute
	outcomeRoomLess = minute // clocks of jobs are in whole seconds
)

// outcome is a job's end that its runner reported.
type outcome struct {
	project *project
	end     uint32
	took    took
}

// took is a duration in seconds, with how the job ended in the low bits.
type took uint32

const (
	tookOK    took = 1
	tookInfra took = 2
	tookShift      = 2
)

func (t took) ok() bool       { return t&tookOK != 0 }
func (t took) infra() bool    { return t&tookInfra != 0 }
func (t took) seconds() int64 { return int64(t >> tookShift) }

// project is what became of its jobs, whichever runner had them.
type project struct {
	id   int64
	outs []projectOutcome
}

type projectOutcome struct {
	runner int64
	end    uint32
	took   took
}

// take weighs the jobs that a runner starts against those of its group.
type take struct {
	share         float64 // its starts, decaying
	owed, pending float64 // starts it should have had since its last one; those since its last sign
	seenAt        int64   // the sign after which pending counts
	most          [habitDays]float32
	day           int64
	starts        int // since the last judgement
}

func (f *Fleet) outcome(r *runner, j *gitlab.Job, start, end int64) {
	t := took(min(end-start, math.MaxUint32>>tookShift)) << tookShift //nolint:gosec // bounded
	if j.Status == "success" {
		t |= tookOK
		r.streak = 0
		f.unsuspect(r, BlackHole)
	} else {
		r.streak = min(r.streak, math.MaxUint16-1) + 1
		if snapshot.ParseFailureReason(j.FailureReason).Class() == snapshot.Infrastructure {
			t |= tookInfra
		}
	}
	p := f.projects[j.ProjectID]
	if p == nil {
		p = &project{id: j.ProjectID}
		f.projects[j.ProjectID] = p
	}
	when := uint32(min(end, math.MaxUint32)) //nolint:gosec // bounded
	if len(p.outs) >= keptElsewhere {
		p.outs = append(p.outs[:0], p.outs[keptElsewhere/2:]...)
	}
	p.outs = append(p.outs, projectOutcome{r.id, when, t})
	switch n := len(r.outcomes); {
	case n >= keptOutcomes:
		r.outcomes = append(r.outcomes[:0], r.outcomes[1:]...)
	case n == cap(r.outcomes): // append would take room for more than are kept
		r.outcomes = append(make([]outcome, 0, min(keptOutcomes, max(4, 2*n))), r.outcomes...)
	}
	r.outcomes = append(r.outcomes, outcome{p, when, t})
	if !t.ok() || r.suspectSince[Infrastructure] > 0 {
		f.fresh = append(f.fresh, r)
	}
	r.soon()
}

// elsewhere counts a project's jobs that ran on other runners between two
// times, and those of them that failed.
func (p *project) elsewhere(runner, from, to int64, infra bool) (n, failed int) {
	for i := len(p.outs) - 1; i >= 0; i-- {
		o := &p.outs[i]
		end := int64(o.end)
		if end < from-hour { // they were noted in the order in which they were read, roughly that of their ends
			break
		}
		if o.runner == runner || end > to || end-o.took.seconds() < from {
			continue
		}
		n++
		if infra && o.took.infra() || !infra && !o.took.ok() {
			failed++
		}
	}
	return n, failed
}

// streakGrounds weighs the failures since a runner's last success, each by how
// the same project fared elsewhere meanwhile.
func (r *runner) streakGrounds(now int64) (g Grounds, guilty bool) {
	last := len(r.outcomes) - 1
	if last < 0 || r.outcomes[last].took.ok() {
		return g, false
	}
	first := last
	for first > 0 && !r.outcomes[first-1].took.ok() && int64(r.outcomes[first-1].end) > now-streakWithin {
		first--
	}
	from := int64(r.outcomes[first].end) - r.outcomes[first].took.seconds() - outcomeRoomLess
	before, chance, short := now+minute, 1.0, 0
	projects := map[*project]bool{}
	for i := last; i >= first; i-- {
		o := &r.outcomes[i]
		if int64(o.end) > before { // ended together: one event, such as a restart
			continue
		}
		before = int64(o.end) - o.took.seconds()
		n, failed := o.project.elsewhere(r.id, from, now, false)
		if n < elsewhereLeast {
			continue
		}
		chance *= float64(failed+1) / float64(n+2)
		g.Jobs++
		if o.took.seconds() <= shortJob {
			short++
		}
		g.Seconds = max(g.Seconds, o.took.seconds())
		if !projects[o.project] {
			projects[o.project] = true
			g.Elsewhere += n
			g.Failed += failed
		}
	}
	g.Projects = len(projects)
	return g, g.Jobs >= streakLeast && g.Projects >= projectsLeast && chance <= streakChance && float64(short) >= shortShare*float64(g.Jobs)
}

// allFail reports whether most jobs that the rest of the group started lately
// failed too: then the runner is not to blame.
func (g *group) allFail(r *runner, now int64) bool {
	if g == nil {
		return false
	}
	n, failed := 0, 0
	for _, m := range g.members {
		for k := len(m.outcomes) - 1; k >= 0 && m != r && int64(m.outcomes[k].end) > now-allFailWithin; k-- {
			if o := &m.outcomes[k]; int64(o.end)-o.took.seconds() > now-allFailWithin {
				n++
				if !o.took.ok() {
					failed++
				}
			}
		}
	}
	return n >= allFailLeast && 2*failed >= n
}

// infraGrounds weighs a day's infrastructure failures against those that the
// same projects had elsewhere at the time.
func (r *runner) infraGrounds(now int64) (g Grounds, guilty, cleared bool) {
	seen, lately, unclean := 0, 0, 0
	before := now + minute
	projects := map[*project]bool{}
	for i := len(r.outcomes) - 1; i >= 0 && seen < infraOf; i-- {
		o := &r.outcomes[i]
		end := int64(o.end)
		if end <= max(now-outcomesFor, r.clearedAt) {
			break
		}
		n, failed := o.project.elsewhere(r.id, end-o.took.seconds()-infraAround, end+infraAround, true)
		if n < elsewhereLeast {
			continue
		}
		seen++
		g.Elsewhere += n
		g.Failed += failed
		g.Expected += (float64(failed) + 0.05) / float64(n+1)
		if !o.took.infra() {
			continue
		}
		if seen <= infraLast {
			lately++
		}
		if seen <= infraClean {
			unclean++
		}
		if end < before {
			before = end - max(o.took.seconds(), shortJob)
			g.Jobs++
			projects[o.project] = true
		}
	}
	g.Projects = len(projects)
	guilty = g.Jobs >= infraLeast && lately >= infraLately && g.Projects >= projectsLeast &&
		float64(g.Jobs) >= infraTimes*g.Expected && poissonTail(g.Jobs, g.Expected*infraMargin+0.05) <= infraChance
	return g, guilty, seen >= infraClean && unclean == 0
}

// poissonTail is the probability of k or more where mean are expected.
func poissonTail(k int, mean float64) float64 {
	p, s := math.Exp(-mean), 0.0
	for i := range k {
		s += p
		p *= mean / float64(i+1)
	}
	return max(0, 1-s)
}

func (f *Fleet) suspect(r *runner, s Suspicion, g Grounds, now int64) {
	if r.suspected == nil {
		r.suspected = new([NumSuspicions]Grounds)
	}
	r.suspected[s] = g
	if r.suspectSince[s] == 0 {
		r.suspectSince[s] = now
		r.dirty = dirtyNow
	}
}

func (f *Fleet) unsuspect(r *runner, s Suspicion) {
	if r.suspectSince[s] == 0 {
		return
	}
	r.suspectSince[s] = 0
	r.dirty = dirtyNow
	if r.suspectSince == [NumSuspicions]int64{} {
		r.suspected = nil
	}
}

// weigh looks at the runners with new outcomes.
func (f *Fleet) weigh(now int64) {
	for _, r := range f.fresh {
		if r.gone {
			continue
		}
		if g, guilty := r.streakGrounds(now); guilty && (r.suspectSince[BlackHole] > 0 || !r.group.allFail(r, now)) {
			f.suspect(r, BlackHole, g, now)
		}
		g, guilty, cleared := r.infraGrounds(now)
		if cleared && r.suspectSince[Infrastructure] > 0 {
			r.clearedAt = now
			f.unsuspect(r, Infrastructure)
		} else if guilty {
			f.suspect(r, Infrastructure, g, now)
		}
	}
	clear(f.fresh)
	f.fresh = f.fresh[:0]
}

// share gives the members of a group what they should have started.
func (f *Fleet) share(g *group, now int64) {
	starts := g.starts
	g.starts = 0
	if len(g.members) < takesPeers {
		for _, r := range g.members {
			r.take.starts = 0
		}
		return
	}
	total := 0.0
	for _, r := range g.members {
		total += r.take.share
	}
	for _, r := range g.members {
		t := &r.take
		if t.starts > 0 {
			t.share += float64(t.starts)
			t.rest(now)
			t.seenAt, t.starts = r.sign, 0
			f.unsuspect(r, TakesNoJobs)
			r.soon()
			continue
		}
		if r.executing || r.paused || now-r.sign > takesSeen {
			continue
		}
		if r.sign != t.seenAt {
			if r.sign-t.seenAt <= takesGap && !f.afterOutage(now) {
				t.owed += t.pending
				r.soon()
			}
			t.pending, t.seenAt = 0, r.sign
		}
		if starts > 0 && total > 0 {
			t.pending += float64(starts) * t.share / total
		}
		if t.owed >= takesOwed && t.owed >= takesTimes*t.mostOwed() && now-r.first > takesKnown && now-r.lastStart > takesIdle && g.startedSince(r) >= takesPeers {
			f.suspect(r, TakesNoJobs, Grounds{Expected: t.owed}, now)
		}
	}
}

// rest ends a wait for jobs, and remembers how much was owed by then.
func (t *take) rest(now int64) {
	d := now / day
	if d > t.day {
		for i := max(t.day+1, d-habitDays+1); i <= d; i++ {
			t.most[i%habitDays] = 0
		}
		t.day = d
	}
	t.most[d%habitDays] = max(t.most[d%habitDays], float32(t.owed))
	t.owed, t.pending = 0, 0
}

func (t *take) mostOwed() float64 {
	m := float32(0)
	for _, v := range t.most {
		m = max(m, v)
	}
	return float64(m)
}

// startedSince counts the peers that started a job after a runner's last one.
func (g *group) startedSince(r *runner) int {
	n := 0
	for _, m := range g.members {
		if m != r && m.lastStart > r.lastStart {
			n++
		}
	}
	return n
}

// overTimeout looks for jobs beyond the runner's own maximum.
func (f *Fleet) overTimeout(r *runner, now int64) {
	if !r.jobsRead { // after a restart
		return
	}
	oldest := int64(0)
	for _, j := range r.running {
		if j.start > 0 && (oldest == 0 || j.start < oldest) {
			oldest = j.start
		}
	}
	if r.timeout > 0 && oldest > 0 && now-oldest > r.timeout+timeoutRoom {
		f.suspect(r, OverTimeout, Grounds{Seconds: now - oldest}, now)
	} else {
		f.unsuspect(r, OverTimeout)
	}
}

// forgetJobs drops the outcomes that no rule looks at any more.
func (f *Fleet) forgetJobs(now int64) {
	old := now - outcomesFor - hour
	for id, p := range f.projects {
		if n := len(p.outs); n == 0 || int64(p.outs[n-1].end) < old {
			delete(f.projects, id)
		}
	}
	for _, r := range f.runners {
		if n := len(r.outcomes); n > 0 && int64(r.outcomes[n-1].end) < old {
			r.outcomes = nil
		}
	}
}
