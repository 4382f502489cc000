package health

// When no new down verdict is passed: the section "When judgement is
// suspended" of docs/health.md.
const (
	heldAfter     = 66 * minute // gitlab-runner sleeps 60 min after three failed polls, and is seen a poll later
	orphanedAfter = 10 * minute // after trouble, before a job without a sign counts as orphaned

	// The fleet is silent: of the idle runners whose sign was due lately, most were not seen.
	dueSign     = 62 * minute // after the last one
	dueStale    = 100 * minute
	dueGapLeast = 55 * minute // a gap between these is a sign that came when it was due
	dueGapMost  = 68 * minute
	dueWindow   = 12 * minute
	dueKeep     = 70 * minute // once silent, those still unheard count for so long
	dueLeast    = 4
	silentMost  = 2 * hour

	// The cache was lost: contacts went back.
	backBy    = 5 * minute
	backCount = 3
	backTime  = 20 * minute
)

type due struct {
	at   int64
	mark int64 // the sign after which none came
	seen bool
	r    *runner
}

func (f *Fleet) afterOutage(now int64) bool { return f.trouble > 0 && now < f.trouble+heldAfter }

// contactBack notes a contact that is older than the one before. Three of them
// are a lost cache: the contacts since then are not known to GitLab any more.
func (f *Fleet) contactBack(at int64) {
	f.backs = append(f.backs, at)
	for f.backs[0] < at-backTime {
		f.backs = f.backs[1:]
	}
	if len(f.backs) >= backCount {
		f.lostAt = at
		f.dirtyMeta = true
		f.backs = append(f.backs[:0:0], f.backs[len(f.backs)-backCount:]...)
	}
}

// guard finds out whether the whole fleet is silent.
func (f *Fleet) guard(now int64) {
	kept := f.dues[:0]
	silent, seen := 0, 0
	for _, d := range f.dues {
		still := !d.seen && d.r.sign == d.mark && !d.r.gone
		if now-d.at > dueWindow && (!still || !f.silent || now-d.at >= dueKeep) {
			continue
		}
		kept = append(kept, d)
		if d.seen {
			seen++
		} else if still {
			silent++
		}
	}
	clear(f.dues[len(kept):])
	f.dues = kept
	is := silent >= dueLeast && silent > seen || now < f.silentUntil
	if is && !f.silent {
		f.silentFrom = now
		f.dirtyMeta = true
	}
	if is && now-f.silentFrom > silentMost {
		is = false
	}
	if is != f.silent {
		f.silent = is
		f.dirtyMeta = true
	}
}
