package health

import "math"

const (
	minute = int64(60)
	hour   = 60 * minute
	day    = 24 * hour
)

// The constants of the ladder. What chose each stands beside it: a section of
// docs/health.md, or what the simulation (test/healthsim) showed.
const (
	unreadFails = 3           // one reading in 200 fails by chance
	unreadAfter = 25 * minute // the slowest details_interval of the defaults, missed with a retry
	jobProves   = 15 * minute // a job sign as late as details are read

	freshSilence  = 5 * minute  // "Signs": a runner of its group is seen within a poll; nothing to judge before
	jobSilence    = 6 * minute  // running jobs report each 60 s, or each 240 s with FF_USE_DYNAMIC_TRACE_FORCE_SEND_INTERVAL
	peersSilence  = 10 * minute // "Silent among peers": a process that restarts is back sooner
	busyPatience  = 3 * hour    // how long another runner's job may starve an entry of one config.toml
	machineActive = 10 * minute // its machine executed for another runner so recently
	abandonedAt   = 7 * day     // GitLab deletes the machine rows of a runner after as long

	jobMoments   = 2    // moments missed while executing and silent, and
	jobChance    = 1e-3 // how improbable they are for a runner that works; twice in ten months at 1e-2
	downMoments  = 3    // likewise for an idle runner: a restart can hide it from two
	downChance   = 1e-4 // the false ones of 550 runners and a month stay under one
	overMoments  = 2
	overChance   = 1e-2
	confirmAfter = minute // "Verdicts"
)

// evidence is what the ladder looks at: one runner at one moment. Times are
// seconds by GitLab's clock; silence is as of its last good reading, so that
// only a new reading makes a verdict worse.
type evidence struct {
	never, unread, known     bool  // never contacted; readings fail; details were read once
	silence, habit, limit    int64 // since its last sign; what is usual; what is too much
	sinceJob                 int64 // since its last job sign, by the clock
	executing, wasDown       bool  // not paused and a job is executing; down before, without a sign since
	missed                   int   // moments of its group at which it was not seen
	chance                   float64
	machineBusy              bool
	afterOutage, fleetSilent bool // no new down verdicts
}

func (e *evidence) held() bool { return e.afterOutage || e.fleetSilent }

func (e *evidence) missedMoments(n int, chance float64) bool {
	return e.missed >= n && e.chance <= chance
}

func (e *evidence) tooLong() bool { return e.silence > e.limit }

// rung is one line of the ladder. A rung that gives Down for the first time
// needs a second reading with the same result; until then it gives Overdue.
type rung struct {
	health Health
	reason Reason
	fits   func(e *evidence) bool
}

// asBefore is a rung's reason where the runner keeps the one it has.
const asBefore = NumReasons

// ladder is how a runner is judged: the first rung that fits.
var ladder = [...]rung{
	// Nothing is known but what a job shows.
	{Alive, NoReason, func(e *evidence) bool { return (e.unread || !e.known) && e.sinceJob < jobProves }},
	{Unknown, Unread, func(e *evidence) bool { return e.unread }},
	{Unknown, NotSeen, func(e *evidence) bool { return !e.known || e.never }},
	// Clear at once.
	{Alive, NoReason, func(e *evidence) bool { return e.silence < freshSilence }},
	{Down, Abandoned, func(e *evidence) bool { return e.silence > abandonedAt }},
	{Down, asBefore, func(e *evidence) bool { return e.wasDown }},
	// A job is executing, and there is no sign of it.
	{Down, JobSilent, func(e *evidence) bool {
		return e.executing && !e.held() && e.silence >= peersSilence && e.missedMoments(jobMoments, jobChance)
	}},
	{Down, JobSilent, func(e *evidence) bool { return e.executing && !e.held() && !e.machineBusy && e.tooLong() }},
	{Overdue, JobSilent, func(e *evidence) bool { return e.executing && e.silence >= jobSilence }},
	// Beyond its limit.
	{Alive, NoReason, func(e *evidence) bool { return e.tooLong() && e.machineBusy && e.silence < busyPatience }},
	{Overdue, MachineBusy, func(e *evidence) bool { return e.tooLong() && e.machineBusy }},
	{Overdue, AfterOutage, func(e *evidence) bool { return e.tooLong() && e.afterOutage }},
	{Overdue, FleetSilent, func(e *evidence) bool { return e.tooLong() && e.fleetSilent }},
	{Down, Silent, func(e *evidence) bool { return e.tooLong() }},
	// Its peers were seen, again and again.
	{Down, SilentAmongPeers, func(e *evidence) bool {
		return e.silence >= peersSilence && !e.machineBusy && !e.held() && e.missedMoments(downMoments, downChance)
	}},
	{Overdue, SilentAmongPeers, func(e *evidence) bool { return !e.machineBusy && e.missedMoments(overMoments, overChance) }},
	{Overdue, Silent, func(e *evidence) bool { return !e.machineBusy && e.silence > e.habit }},
	{Alive, NoReason, func(*evidence) bool { return true }},
}

func climb(e *evidence) rung {
	for _, r := range ladder {
		if r.fits(e) {
			return r
		}
	}
	panic("health: the last rung of the ladder fits everything")
}

func (f *Fleet) evidence(r *runner, now int64) evidence {
	sign := max(r.sign, r.lastStart, r.lastOwn)
	e := evidence{
		known: r.readAt > 0, never: sign == 0,
		silence:  r.readAt - sign,
		sinceJob: math.MaxInt64,
		unread:   r.fails >= unreadFails && f.listing && (r.readAt == 0 || now-r.readAt > unreadAfter),
		// A paused runner may stop after its last job: the silence of that job is no evidence.
		// Nor does a reading from before the job.
		executing:   r.executing && !r.paused && r.readAt >= r.busySince,
		wasDown:     r.downAt > 0 && sign <= r.downAt,
		missed:      int(r.missed),
		chance:      r.chance(),
		afterOutage: f.afterOutage(now),
		fleetSilent: f.silent,
	}
	if job := max(r.lastStart, r.lastOwn); job > 0 {
		e.sinceJob = now - job
	}
	if e.silence < freshSilence {
		return e // what follows is for the silent ones
	}
	e.machineBusy = r.machineBusy()
	e.limit, e.habit = r.limit(r.readAt, sign, f.lostAt)
	return e
}

// judge moves a runner's verdict; it reports whether that changed.
func (f *Fleet) judge(r *runner, now int64) bool {
	e := f.evidence(r, now)
	g := climb(&e)
	verdict, reason := g.health, g.reason
	switch {
	case reason == asBefore:
		reason = r.downReason
	case verdict == Down && !e.wasDown:
		if r.confirm == 0 {
			r.confirm = r.readAt
		}
		if r.readAt < r.confirm+confirmAfter {
			verdict = Overdue
		}
	default:
		r.confirm = 0
	}
	return r.settle(verdict, reason, now)
}

func (r *runner) settle(verdict Health, reason Reason, now int64) bool {
	if verdict == Alive && r.downAt > 0 {
		if r.verdict == Down && r.downReason == Silent && now-r.downAt < wrongWithin {
			r.wrong[0], r.wrong[1] = now, r.wrong[0]
		}
		r.downAt, r.downReason = 0, NoReason
	}
	if verdict == Down && r.verdict != Down {
		r.confirm = 0
		if r.downAt == 0 || reason != r.downReason {
			r.downAt, r.downReason = now, reason
		}
	}
	if verdict == r.verdict && reason == r.reason {
		return false
	}
	if verdict != r.verdict || r.since == 0 {
		r.since = now
	}
	r.verdict, r.reason = verdict, reason
	r.dirty = dirtyNow
	return true
}
