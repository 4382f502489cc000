package main

import (
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"

	"gitlab-runner-fleet-exporter/internal/health"
)

// score is how well the verdicts of some months matched the truth.
type score struct {
	minutes   map[string][]float64 // from a death to down, by kind
	flagged   map[string][]float64 // to overdue or down
	deaths    map[string]int
	wrong     map[string]int // down though well, by cause
	wrongOver map[string]int // likewise overdue
	trueDown  map[string]int // down without an incident, and rightly so

	accused  [health.NumSuspicions]map[string][]float64 // minutes, by incident
	after    [health.NumSuspicions]map[string][]float64 // jobs
	sick     map[string]int
	innocent [health.NumSuspicions]map[string]int // by cause

	months, minutesRun   int64
	requests, plain      int64
	records, recordBytes int64
	jobs                 int
}

func newScore() *score {
	s := &score{
		minutes: map[string][]float64{}, flagged: map[string][]float64{}, deaths: map[string]int{},
		wrong: map[string]int{}, wrongOver: map[string]int{}, trueDown: map[string]int{}, sick: map[string]int{},
	}
	for i := range health.NumSuspicions {
		s.accused[i], s.after[i], s.innocent[i] = map[string][]float64{}, map[string][]float64{}, map[string]int{}
	}
	return s
}

// add takes the figures of another month.
func (s *score) add(o *score) {
	lists := func(to, from map[string][]float64) {
		for k, v := range from {
			to[k] = append(to[k], v...)
		}
	}
	counts := func(to, from map[string]int) {
		for k, v := range from {
			to[k] += v
		}
	}
	lists(s.minutes, o.minutes)
	lists(s.flagged, o.flagged)
	counts(s.deaths, o.deaths)
	counts(s.wrong, o.wrong)
	counts(s.wrongOver, o.wrongOver)
	counts(s.trueDown, o.trueDown)
	counts(s.sick, o.sick)
	for i := range health.NumSuspicions {
		lists(s.accused[i], o.accused[i])
		lists(s.after[i], o.after[i])
		counts(s.innocent[i], o.innocent[i])
	}
	s.months += o.months
	s.minutesRun += o.minutesRun
	s.requests += o.requests
	s.plain += o.plain
	s.records += o.records
	s.recordBytes += o.recordBytes
	s.jobs += o.jobs
}

func quantile(a []float64, p float64) float64 {
	if len(a) == 0 {
		return -1
	}
	a = slices.Sorted(slices.Values(a))
	return a[min(len(a)-1, int(p*float64(len(a))))]
}

func sum(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

// show prints counts by cause, the most frequent first.
func show(m map[string]int) string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool {
		return m[keys[i]] > m[keys[j]] || m[keys[i]] == m[keys[j]] && keys[i] < keys[j]
	})
	out := make([]string, 0, len(keys))
	for _, k := range keys {
		out = append(out, fmt.Sprintf("%s %d", k, m[k]))
	}
	return fmt.Sprintf("%d: %s", sum(m), strings.Join(out, ", "))
}

func near(t, from, to, after int64) bool { return t >= from && t < to+after }

// why is the cause behind a verdict on a runner that has no incident; right is
// true where it does not work, though nobody broke it.
func why(w *World, r *Runner) (right bool, cause string) {
	t := w.t
	ok, state := r.functional(t)
	switch {
	case r.kind == "abandoned" || r.retired || r.vanished:
		return true, "gone without being deleted"
	case r.maint || state == "planned off":
		return true, "planned"
	case !ok && state == "asleep":
		return true, "asleep (unhealthy_interval)"
	case !ok:
		for _, m := range r.mgrs {
			if m.p.bootAt > 0 {
				return false, "reboot"
			}
		}
		return true, "not working"
	}
	return false, cause2(w, r, t)
}

func cause2(w *World, r *Runner, t int64) string {
	for _, o := range w.outs {
		if near(t, o.from, o.to, 130*Min) {
			return "outage"
		}
	}
	for _, f := range slices.Concat(w.flushes, w.fullFlush) {
		if near(t, f, f, 130*Min) {
			return "cache lost"
		}
	}
	if len(r.orphans) > 0 {
		return "restart, job orphaned"
	}
	for _, d := range w.expDown {
		if near(t, d[0], d[1], 20*Min) {
			return "exporter restart"
		}
	}
	for _, m := range r.mgrs {
		if !m.gone && len(m.p.mgrs) > 1 {
			return "shared process"
		}
	}
	for _, m := range r.mgrs {
		if !m.gone && m.p.poll > Min {
			return "slow poller"
		}
	}
	if r.subset || r.prot {
		return "fewer jobs than peers"
	}
	return "plain idle"
}

// silentKinds are the deaths that must be found by silence.
var silentKinds = []string{"idle", "midjob", "partition", "hung"}

const allSilent = "all four silent kinds"

// hit is when an incident was found.
type hit struct{ down, over int64 }

// judge runs one month of one world and adds to the score.
type judge struct {
	w       *World
	e       *exporter
	s       *score
	found   map[*Incident]*hit
	machine map[*Incident]int64
	accused map[*Incident]*[health.NumSuspicions]struct {
		at   int64
		jobs int
	}
	wasMachine map[int64]bool
	verbose    io.Writer
	seed       int64
}

func runMonth(s *score, seed int64, o options) {
	w := NewWorld(seed, !o.unmasked, o.calm, o.small)
	j := &judge{w: w, e: newExporter(w, seed, o.graphql), s: s, seed: seed, found: map[*Incident]*hit{}, machine: map[*Incident]int64{}, wasMachine: map[int64]bool{}, verbose: o.verbose}
	j.accused = map[*Incident]*[health.NumSuspicions]struct {
		at   int64
		jobs int
	}{}
	j.e.changed, j.e.shown = j.changed, j.shown
	for w.t < o.days*Day {
		w.Step()
		j.e.minute()
	}
	j.close()
	s.months++
	s.minutesRun += o.days * 1440
	s.requests += j.e.requests
	s.plain += j.e.plain
	s.records += j.e.records
	s.recordBytes += j.e.recordBytes
	s.jobs += w.njobs
}

func (j *judge) changed(r *Runner, c health.Change) {
	if j.w.t < Day {
		return
	}
	if c.From != c.To {
		j.verdict(r, c)
	}
	for _, s := range c.Suspected {
		j.suspected(r, s)
	}
}

func (j *judge) verdict(r *Runner, c health.Change) {
	if i := r.inc; i != nil && j.w.t >= i.at && i.kind != "sick" && i.kind != "machine" {
		h := j.found[i]
		if h == nil {
			h = &hit{}
			j.found[i] = h
		}
		if c.To == health.Down && h.down == 0 {
			h.down = j.w.t
		}
		if (c.To == health.Overdue || c.To == health.Down) && h.over == 0 {
			h.over = j.w.t
		}
		return
	}
	switch c.To {
	case health.Alive, health.Unknown, health.NumHealths:
	case health.Down:
		right, cause := why(j.w, r)
		if right {
			j.s.trueDown[cause]++
			return
		}
		j.s.wrong[cause]++
		if j.verbose != nil {
			ev, _ := j.e.f.Evidence(c.ID)
			_, _ = fmt.Fprintf(j.verbose, "seed %d day %.2f runner %d %s %s: %s %+v\n", j.seed, float64(j.w.t)/float64(Day), r.id, r.kind, cause, c.Reason, ev)
		}
	case health.Overdue:
		if right, cause := why(j.w, r); !right {
			j.s.wrongOver[cause]++
		}
	}
}

// shown looks for machines of many that fell silent in mid-job.
func (j *judge) shown(p *health.Picture) {
	is := map[int64]bool{}
	for k := range p.Ill {
		i := &p.Ill[k]
		r := j.e.byID[i.ID]
		if len(i.Machines) == 0 || len(r.mgrs) < 2 {
			continue
		}
		is[i.ID] = true
		if j.wasMachine[i.ID] {
			continue
		}
		if r.inc != nil && r.inc.kind == "machine" {
			if j.machine[r.inc] == 0 {
				j.machine[r.inc] = j.w.t
			}
		} else if len(r.orphans) == 0 {
			_, cause := why(j.w, r)
			j.s.wrongOver["machine, "+cause]++
		}
	}
	j.wasMachine = is
}

// wanted are the incidents that a suspicion is meant for.
var wanted = [health.NumSuspicions][]string{
	health.BlackHole:      {"hole", "sick"},
	health.Infrastructure: {"hole", "sick"},
	health.TakesNoJobs:    {"wedged"},
}

func (j *judge) suspected(r *Runner, s health.Suspicion) {
	i := r.inc
	if i != nil && slices.Contains(wanted[s], i.kind) {
		a := j.accused[i]
		if a == nil {
			a = &[health.NumSuspicions]struct {
				at   int64
				jobs int
			}{}
			j.accused[i] = a
		}
		if a[s].at == 0 {
			a[s].at, a[s].jobs = j.w.t, i.jobsSince
		}
		return
	}
	cause := j.innocent(r, s)
	j.s.innocent[s][cause]++
	if j.verbose != nil {
		_, _ = fmt.Fprintf(j.verbose, "seed %d day %.2f runner %d %s: %s, %s\n", j.seed, float64(j.w.t)/float64(Day), r.id, r.kind, s, cause)
	}
}

func (j *judge) innocent(r *Runner, s health.Suspicion) string {
	w, t := j.w, j.w.t
	if s == health.TakesNoJobs {
		if r.inc != nil {
			return "dies of " + r.inc.kind
		}
		if ok, state := r.functional(t); !ok {
			return state
		}
		return "idle and well"
	}
	for _, v := range w.brokenAll {
		if near(t, v[0], v[1], 30*Min) {
			return "everything broken"
		}
	}
	for _, v := range w.registry {
		if near(t, v[0], v[1], 60*Min) {
			return "registry down"
		}
	}
	switch {
	case r.pinned >= 0:
		return "broken project pinned"
	case r.inc != nil:
		return "dies of " + r.inc.kind
	case r.used:
		return "repaired since"
	}
	return "other"
}

// close counts the month's incidents.
func (j *judge) close() {
	s := j.s
	minutes := func(c *Incident, t int64) float64 { return float64(t-c.at) / float64(Min) }
	for _, c := range j.w.incs {
		if c.r == nil {
			continue
		}
		j.closeSuspects(c)
		switch c.kind {
		case "sick":
			continue
		case "machine":
			s.deaths["machine"]++
			if t := j.machine[c]; t > 0 {
				s.minutes["machine"] = append(s.minutes["machine"], minutes(c, t))
			}
			continue
		}
		kinds := []string{c.kind}
		if slices.Contains(silentKinds, c.kind) {
			kinds = append(kinds, allSilent)
		}
		for _, k := range kinds {
			s.deaths[k]++
			if h := j.found[c]; h != nil && h.down > 0 {
				s.minutes[k] = append(s.minutes[k], minutes(c, h.down))
			}
			if h := j.found[c]; h != nil && h.over > 0 {
				s.flagged[k] = append(s.flagged[k], minutes(c, h.over))
			}
		}
	}
}

func (j *judge) closeSuspects(c *Incident) {
	kind := c.kind
	switch {
	case kind != "hole" && kind != "sick" && kind != "wedged":
		return
	case kind != "wedged" && c.jobsSince < 4:
		kind += ", fewer than 4 jobs"
	case kind == "wedged" && (c.r.kind == "solo" || len(j.w.pools[c.r.pool].rs) < 3):
		kind += ", no peers"
	}
	j.s.sick[kind]++
	a := j.accused[c]
	if a == nil {
		return
	}
	for i := range a {
		if a[i].at > 0 {
			j.s.accused[i][kind] = append(j.s.accused[i][kind], float64(a[i].at-c.at)/float64(Min))
			j.s.after[i][kind] = append(j.s.after[i][kind], float64(a[i].jobs))
		}
	}
}
