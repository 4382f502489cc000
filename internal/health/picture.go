package health

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

// Change is a verdict or a suspicion that came or went.
type Change struct {
	ID       int64
	From, To Health
	Reason   Reason
	// Suspected and Cleared hold the suspicions that came and went.
	Suspected, Cleared []Suspicion
}

// Judge weighs all evidence noted so far. It is called once after each listing
// (done or failed) and what was read with it, about each minute.
func (f *Fleet) Judge(now time.Time) ([]Change, *Picture) {
	at := unix(now)
	f.sort()
	f.gather(at)
	f.guard(at)
	p := &Picture{Time: timeOf(at), AfterOutage: f.afterOutage(at), FleetSilent: f.silent, CacheLostAt: timeOf(f.lostAt), Ill: make([]Ill, 0, f.ill+f.ill/8)}
	if p.AfterOutage {
		p.Until = timeOf(f.trouble + heldAfter)
	}
	if p.FleetSilent {
		p.Until = timeOf(max(unix(p.Until), f.silentFrom+silentMost))
	}
	f.weigh(at)
	for _, g := range f.groups {
		f.share(g, at)
	}
	var changes []Change
	for _, r := range f.order {
		c := Change{ID: r.id, From: r.verdict}
		changed := f.judge(r, at)
		f.overTimeout(r, at)
		c.To, c.Reason = r.verdict, r.reason
		for s := range NumSuspicions {
			switch was, is := r.announced&(1<<s) != 0, r.suspectSince[s] > 0; {
			case is && !was:
				c.Suspected = append(c.Suspected, s)
			case was && !is:
				c.Cleared = append(c.Cleared, s)
			}
		}
		r.announce()
		if changed || c.Suspected != nil || c.Cleared != nil {
			changes = append(changes, c)
		}
		f.show(p, r, at)
	}
	if at/hour != f.judgedAt/hour {
		f.forgetJobs(at)
		f.forgetMachines()
	}
	f.judgedAt, f.ill = at, len(p.Ill)
	f.dirtyMeta = true
	return changes, p
}

func (f *Fleet) sort() {
	if f.order == nil {
		f.order = slices.SortedFunc(maps.Values(f.runners), func(a, b *runner) int { return cmp.Compare(a.id, b.id) })
	}
}

// gather counts the members of each group and lets their shares decay.
func (f *Fleet) gather(now int64) {
	for key, g := range f.groups {
		if len(g.members) == 0 {
			delete(f.groups, key)
		}
		clear(g.members)
		g.members, g.idle = g.members[:0], 0
	}
	decay := 1.0
	if f.judgedAt > 0 && now > f.judgedAt {
		decay = math.Exp(-float64(now-f.judgedAt) / float64(shareMean))
	}
	for _, r := range f.order {
		r.take.share *= decay
		g := r.group
		if g == nil {
			continue
		}
		if len(g.members) == 0 {
			f.groups[g.key] = g
		}
		g.members = append(g.members, r)
		if !r.executing && r.sign > now-idleWithin {
			g.idle++
		}
	}
}

func (f *Fleet) forgetMachines() {
	for key, users := range f.users {
		users = slices.DeleteFunc(users, func(u *runner) bool { return u.gone || u.system != key })
		if f.users[key] = users; len(users) == 0 {
			delete(f.users, key)
		}
	}
}

// orphaned are the jobs of a runner whose machine fell silent, and those machines.
func (f *Fleet) orphaned(r *runner, now int64) (jobs int, machines []int64) {
	if f.trouble > 0 && now < f.trouble+orphanedAfter {
		return 0, nil
	}
	if r.reason == JobSilent {
		jobs = max(1, len(r.running))
	}
	if len(r.machines) < 2 && jobs == 0 {
		return 0, nil
	}
	for _, m := range r.machines {
		if m.silent {
			machines = append(machines, m.id)
		}
	}
	return max(jobs, len(machines)), machines
}

func (f *Fleet) show(p *Picture, r *runner, now int64) {
	paused := 0
	if r.paused {
		paused = 1
	}
	p.Runners[r.kind][r.verdict][r.reason][paused]++
	jobs, machines := f.orphaned(r, now)
	if r.verdict == Alive && r.suspected == nil && jobs == 0 && r.streak == 0 {
		return
	}
	i := Ill{
		ID: r.id, Type: r.kind, Paused: r.paused, Health: r.verdict, Reason: r.reason, Since: timeOf(r.since),
		LastSeen: r.lastSeen(), OrphanedJobs: jobs, Machines: machines, ConsecutiveFailed: int(r.streak),
	}
	for s, since := range r.suspectSince {
		if since > 0 {
			p.Suspects[s]++
			i.Suspects[s], i.Grounds[s] = timeOf(since), r.suspected[s]
		}
	}
	p.Ill = append(p.Ill, i)
}

func (r *runner) lastSeen() time.Time { return timeOf(max(r.sign, r.lastStart, r.lastOwn)) }

// LastSeen is the last sign of a runner; zero: none is known.
func (f *Fleet) LastSeen(id int64) time.Time {
	if r := f.runners[id]; r != nil {
		return r.lastSeen()
	}
	return time.Time{}
}

// Verdict is the last one on a runner, and its last sign; zero: none is known.
// A runner that was not judged yet is Unknown.
func (f *Fleet) Verdict(id int64) (Health, Reason, time.Time) {
	if r := f.runners[id]; r != nil {
		return r.verdict, r.reason, r.lastSeen()
	}
	return Unknown, NotSeen, time.Time{}
}

// Evidence returns what is known of a runner; ok is false where it is not known.
func (f *Fleet) Evidence(id int64) (ev Evidence, ok bool) {
	r := f.runners[id]
	if r == nil {
		return ev, false
	}
	sign := max(r.sign, r.lastStart, r.lastOwn)
	limit, habit := r.limit(r.readAt, sign, f.lostAt)
	ev = Evidence{
		Health: r.verdict, Reason: r.reason, Since: timeOf(r.since), FirstSeen: timeOf(r.first), ReadAt: timeOf(r.readAt),
		FailedReadings: int(r.fails), LastSeen: timeOf(sign), ContactedAt: timeOf(r.contact), LastStart: timeOf(r.lastStart),
		LastEnd: timeOf(r.lastOwn), PausedAt: timeOf(r.pausedAt), Limit: seconds(limit), Habit: seconds(habit),
		Missed: int(r.missed), Chance: r.chance(), Hits: float64(r.hits), Misses: float64(r.misses), SharesMachine: r.shared(r.readAt),
		OwedJobs: r.take.owed, ConsecutiveFailed: int(r.streak),
	}
	if sign > 0 && r.readAt > sign {
		ev.Silence = seconds(r.readAt - sign)
	}
	if r.group != nil {
		ev.Peers = max(0, len(r.group.members)-1)
	}
	return ev, true
}

func seconds(s int64) time.Duration { return time.Duration(s) * time.Second }
