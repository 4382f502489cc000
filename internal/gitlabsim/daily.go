package gitlabsim

import (
	"math"
	"slices"
	"time"
)

// wave is the load beside its mean: a day's wave, and a short one that a
// viewer of the demonstration can see within minutes.
func (w *World) wave() float64 {
	t := float64(w.now)
	return 1 + 0.5*math.Sin(2*math.Pi*t/float64(day)) + 0.3*math.Sin(2*math.Pi*t/float64(20*minute))
}

func (w *World) startDaily() {
	if len(w.order) == 0 {
		return
	}
	w.push(w.now+w.nextDailyIn(), evDaily, 0)
	if w.opt.Calm {
		return
	}
	w.flapper = w.order[w.rng.IntN(len(w.order))]
	w.push(w.now+minute, evFlap, 0)
	for _, r := range w.order {
		if r != w.flapper && r.ready() {
			r.blackHole = true
			r.weight = max(r.weight, 3)
			w.pickDirty, w.peers = true, nil
			break
		}
	}
}

// nextDailyIn is about a minute with a hundred runners, and never under a
// second.
func (w *World) nextDailyIn() int64 {
	return second + int64(w.rng.ExpFloat64()*float64(minute)*100/float64(max(100, len(w.order))))
}

// flap lets one runner fall silent just long enough to be called offline, and
// come back for a while, for ever.
func (w *World) flap(t int64) {
	if w.flapper.deleted != 0 {
		return
	}
	up := w.flapper.up()
	w.setOnline(w.flapper, !up)
	next := 15 * minute
	if up {
		next = w.f.onlineFor + 5*minute
	}
	w.push(t+next, evFlap, 0)
}

// daily lets one thing happen to the fleet. Shares of the fleet bound what is
// down or paused, so that a demonstration may run for weeks.
func (w *World) daily(t int64) {
	w.push(t+w.nextDailyIn(), evDaily, 0)
	if len(w.order) == 0 {
		return
	}
	r := w.order[w.rng.IntN(len(w.order))]
	if w.opt.Calm {
		w.calmDaily(r)
		return
	}
	n := len(w.order)
	take := func(list *[]*runner) *runner {
		if len(*list) == 0 {
			return nil
		}
		i := w.rng.IntN(len(*list))
		c := (*list)[i]
		*list = slices.Delete(*list, i, i+1)
		if c.deleted != 0 {
			return nil
		}
		return c
	}
	switch x := w.rng.IntN(100); {
	case x < 22:
		if r != w.flapper && r.up() && len(w.dailyOff) < 1+n/10 {
			w.setOnline(r, false)
			w.dailyOff = append(w.dailyOff, r)
		}
	case x < 42:
		if c := take(&w.dailyOff); c != nil {
			w.setOnline(c, true)
		}
	case x < 57:
		if !r.paused() && !r.blackHole && len(w.dailyPaused) < 1+n/12 {
			w.pause(r, true)
			w.dailyPaused = append(w.dailyPaused, r)
		}
	case x < 72:
		if c := take(&w.dailyPaused); c != nil {
			w.pause(c, false)
		}
	case x < 88:
		// A machine is replaced, often by a newer one.
		if r != w.flapper && r.up() {
			if old := r.managers[0]; w.rng.IntN(2) == 0 {
				w.setAlive(r, old, false)
			}
			w.addManager(r, ManagerSpec{Version: versions[w.rng.IntN(4)]})
		}
	case x < 93:
		if tags := slices.Clone(r.tagList()); w.opt.Tags > 0 {
			if len(tags) > 1 && w.rng.IntN(2) == 0 {
				tags = tags[1:]
			} else {
				tags = append(tags, w.tagName(w.rng.IntN(w.opt.Tags)))
			}
			r.setTags(tags, t)
			w.pickDirty, w.peers = true, nil
		}
	case x < 97:
		s := w.randomRunner(int(w.lastRunner))
		s.Created, s.Paused, s.Offline, s.LastContact = time.Time{}, false, false, time.Time{}
		w.addRunner(s)
	default:
		if n > 3 && n > w.opt.Runners && r != w.flapper && !r.blackHole {
			w.deleteRunner(r, t)
		}
	}
}

// calmDaily is a day without trouble: machines are replaced by newer ones while
// they are idle, runners join up to a bound, and none leaves.
func (w *World) calmDaily(r *runner) {
	switch x := w.rng.IntN(100); {
	case x < 30:
		if old := r.managers; r.weight > 0 && r.up() && len(r.exec) == 0 && len(old) > 0 {
			w.addManager(r, ManagerSpec{Version: versions[w.rng.IntN(4)]})
			w.removeManager(r, old[0], w.now)
		}
	case x < 34:
		if len(w.order) < w.opt.Runners+w.opt.Runners/20 {
			s := w.randomRunner(int(w.lastRunner))
			s.Created, s.Paused, s.Offline, s.LastContact, s.Managers = time.Time{}, false, false, time.Time{}, 1
			w.addRunner(s)
		}
	}
}
