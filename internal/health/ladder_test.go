package health

import "testing"

// TestLadderGivesTheVerdictOfEachRow: what must fit where, and in which order.
func TestLadderGivesTheVerdictOfEachRow(t *testing.T) {
	well := evidence{known: true, silence: 20 * minute, habit: baseHabit, limit: baseLimit, chance: 1, sinceJob: day}
	for _, c := range []struct {
		name   string
		change func(e *evidence)
		health Health
		reason Reason
	}{
		{"idle and seen lately", func(*evidence) {}, Alive, NoReason},
		{"never read", func(e *evidence) { e.known = false }, Unknown, NotSeen},
		{"never contacted", func(e *evidence) { e.never = true }, Unknown, NotSeen},
		{"never read, but a job started", func(e *evidence) { e.known, e.sinceJob = false, jobProves-1 }, Alive, NoReason},
		{"readings fail", func(e *evidence) { e.unread = true }, Unknown, Unread},
		{"readings fail while it was down", func(e *evidence) { e.unread, e.wasDown = true, true }, Unknown, Unread},
		{"readings fail, but a job ended", func(e *evidence) { e.unread, e.sinceJob = true, minute }, Alive, NoReason},
		{"fresh sign after down", func(e *evidence) { e.silence = freshSilence - 1 }, Alive, NoReason},
		{"a week", func(e *evidence) { e.silence = abandonedAt + 1 }, Down, Abandoned},
		{"down stays without a sign", func(e *evidence) { e.wasDown = true }, Down, asBefore},
		{"down stays while held", func(e *evidence) { e.wasDown, e.afterOutage = true, true }, Down, asBefore},
		{"executing, 6 min", func(e *evidence) { e.executing, e.silence = true, jobSilence }, Overdue, JobSilent},
		{"executing, just under", func(e *evidence) { e.executing, e.silence = true, jobSilence-1 }, Alive, NoReason},
		{"executing, peers seen", func(e *evidence) { e.executing, e.silence, e.missed, e.chance = true, peersSilence, 2, 1e-3 }, Down, JobSilent},
		{"executing, peers seen, held", func(e *evidence) {
			e.executing, e.silence, e.missed, e.chance, e.fleetSilent = true, peersSilence, 2, 1e-3, true
		}, Overdue, JobSilent},
		{"executing beyond the limit", func(e *evidence) { e.executing, e.silence = true, baseLimit+1 }, Down, JobSilent},
		{"beyond the limit", func(e *evidence) { e.silence = baseLimit + 1 }, Down, Silent},
		{"at the limit", func(e *evidence) { e.silence = baseLimit }, Overdue, Silent},
		{"beyond the limit after an outage", func(e *evidence) { e.silence, e.afterOutage = baseLimit+1, true }, Overdue, AfterOutage},
		{"beyond the limit with the fleet", func(e *evidence) { e.silence, e.fleetSilent = baseLimit+1, true }, Overdue, FleetSilent},
		{"machine busy", func(e *evidence) { e.silence, e.machineBusy = baseLimit+1, true }, Alive, NoReason},
		{"machine busy for long", func(e *evidence) { e.silence, e.machineBusy = busyPatience, true }, Overdue, MachineBusy},
		{"peers seen thrice", func(e *evidence) { e.missed, e.chance = 3, 1e-4 }, Down, SilentAmongPeers},
		{"peers seen thrice, held", func(e *evidence) { e.missed, e.chance, e.afterOutage = 3, 1e-4, true }, Overdue, SilentAmongPeers},
		{"peers seen thrice, a restart", func(e *evidence) { e.missed, e.chance, e.silence = 3, 1e-4, peersSilence-1 }, Overdue, SilentAmongPeers},
		{"peers seen twice", func(e *evidence) { e.missed, e.chance = 2, 1e-2 }, Overdue, SilentAmongPeers},
		{"peers seen twice, hit rate unknown", func(e *evidence) { e.missed = 2 }, Alive, NoReason},
		{"peers seen, machine busy", func(e *evidence) { e.missed, e.chance, e.machineBusy = 9, 1e-9, true }, Alive, NoReason},
		{"beyond its habit", func(e *evidence) { e.silence = baseHabit + 1 }, Overdue, Silent},
	} {
		e := well
		c.change(&e)
		if g := climb(&e); g.health != c.health || g.reason != c.reason {
			t.Errorf("%s: %s %d, want %s %d", c.name, g.health, g.reason, c.health, c.reason)
		}
	}
}

// TestDownNeedsASecondReading: a down verdict needs a second reading, not a second look.
func TestDownNeedsASecondReading(t *testing.T) {
	f, r := New(), &runner{id: 1, first: 1, readAt: 10 * day, sign: 10*day - 3*hour, verdict: Alive}
	f.runners[1] = r
	now := r.readAt
	look := func(want Health) {
		t.Helper()
		if f.judge(r, now); r.verdict != want {
			t.Fatalf("%s, want %s", r.verdict, want)
		}
	}
	look(Overdue)
	now += 5 * minute
	look(Overdue)
	r.readAt += confirmAfter - 1
	look(Overdue)
	r.readAt++
	look(Down)
	since := r.since
	now, r.readAt = now+hour, r.readAt+hour
	look(Down)
	if r.since != since || r.reason != Silent {
		t.Errorf("since %d, reason %s", r.since, r.reason)
	}
	r.sign = r.readAt
	look(Alive)
}

// TestLimitFollowsTheHabitOfARunner, row by row.
func TestLimitFollowsTheHabitOfARunner(t *testing.T) {
	now := 100 * day
	for _, c := range []struct {
		name   string
		known  int64
		gaps   []int64
		change func(r *runner)
		limit  int64
	}{
		{"new", day, nil, nil, newLimit},
		{"known", 4 * day, nil, nil, baseLimit},
		{"one long silence is no habit", 8 * day, []int64{95 * minute}, nil, baseLimit},
		{"two are", 8 * day, []int64{95 * minute, 90 * minute}, nil, 90*minute + gapRoom},
		{"beyond 100 min on one day", 8 * day, []int64{3 * hour, 3 * hour, 20 * minute}, nil, baseLimit},
		{"an absence", 8 * day, []int64{5 * hour, 5 * hour, 20 * minute}, nil, baseLimit},
		{"each poll is seen", 8 * day, []int64{4 * minute, 6 * minute}, nil, 3 * 6 * minute},
		{"each poll is seen, not for a week yet", 6 * day, []int64{4 * minute, 6 * minute}, nil, baseLimit},
		{"shares its machine", 8 * day, []int64{20 * minute}, func(r *runner) { r.sharedAt = now - hour }, sharedLimit},
		{"twice wrong", 8 * day, nil, func(r *runner) { r.wrong = [2]int64{now - day, now - 2*day} }, wrongLimit},
		{"once wrong", 8 * day, nil, func(r *runner) { r.wrong = [2]int64{now - day, 0} }, baseLimit},
		{"twice wrong, long ago", 8 * day, nil, func(r *runner) { r.wrong = [2]int64{now - day, now - 31*day} }, baseLimit},
	} {
		r := &runner{first: now - c.known}
		for _, g := range c.gaps {
			r.gaps.add(g, now)
		}
		if c.change != nil {
			c.change(r)
		}
		if limit, _ := r.limit(now, now-hour, 0); limit != c.limit {
			t.Errorf("%s: %d min, want %d", c.name, limit/minute, c.limit/minute)
		}
		if limit, _ := r.limit(now, now-hour, now-hour+minute); limit != c.limit+lostCacheRoom {
			t.Errorf("%s, cache lost since: %d min", c.name, limit/minute)
		}
	}
	// A habit is forgotten after the week.
	r := &runner{first: 1}
	r.gaps.add(95*minute, now)
	r.gaps.add(95*minute, now)
	r.gaps.roll(now + habitDays*day)
	if limit, _ := r.limit(now+habitDays*day, now, 0); limit != baseLimit {
		t.Errorf("after the week: %d min", limit/minute)
	}
}
