package page

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const (
	changesFor  = time.Hour
	mostChanges = 2000 // of one GitLab
)

// Kinds of changes.
const (
	wentDown     = "down"
	cameBack     = "back"
	suspected    = "suspected"
	cleared      = "cleared"
	orphanedJobs = "orphaned_jobs"
	paused       = "paused"
	resumed      = "resumed"
	joined       = "joined"
	left         = "left"
	tagGone      = "tag_lost"
	tagBack      = "tag_back"
	offline      = "offline"
	online       = "online"
)

// memory keeps what a published snapshot no longer has: the last picture before
// a withdrawal, and what changed between pictures.
type memory struct {
	mu      sync.Mutex
	started time.Time
	gitlabs map[string]*remembered
}

type remembered struct {
	last    *snapshot.GitLab // the last one with a Fleet
	changes []Change         // oldest first
}

func (m *memory) keep(s *snapshot.GitLab) {
	if s.Fleet == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.gitlabs[s.Name]
	if r == nil {
		r = &remembered{}
		m.gitlabs[s.Name] = r
	}
	// A lower generation is another monitor, of a configuration that may look
	// at other runners: what differs did not happen.
	if r.last != nil && r.last.URL == s.URL && r.last.Generation <= s.Generation {
		r.changes = append(r.changes, changesBetween(r.last, s)...)
	}
	old := s.Time.Add(-changesFor)
	r.changes = slices.DeleteFunc(r.changes, func(c Change) bool { return c.Time.Before(old) })
	if n := len(r.changes); n > mostChanges {
		r.changes = slices.Delete(r.changes, 0, n-mostChanges)
	}
	r.last = s
}

// of returns what is remembered of the GitLabs in pictures and forgets others.
func (m *memory) of(pictures []*snapshot.GitLab, now time.Time) (last map[string]*snapshot.GitLab, changes []Change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	last = make(map[string]*snapshot.GitLab, len(pictures))
	for _, p := range pictures {
		if r := m.gitlabs[p.Name]; r != nil && r.last.URL == p.URL {
			last[p.Name] = r.last
			for _, c := range r.changes {
				if now.Sub(c.Time) < changesFor {
					changes = append(changes, c)
				}
			}
		}
	}
	for name := range m.gitlabs {
		if last[name] == nil {
			delete(m.gitlabs, name)
		}
	}
	return last, changes
}

// changesBetween are the differences of two pictures of one GitLab.
func changesBetween(a, b *snapshot.GitLab) []Change {
	d := differ{at: b.Time, gitlab: b.Name}
	if a.RowsGeneration != b.RowsGeneration {
		d.rows(a, b)
	}
	if a.Health != nil && b.Health != nil && a.Health != b.Health {
		d.health(a, b)
	}
	if a.Fleet.Detailed && b.Fleet.Detailed {
		d.tags(a, b)
	}
	return d.changes
}

type differ struct {
	at      time.Time
	gitlab  string
	changes []Change
}

func (d *differ) add(c Change) {
	if c.Time.IsZero() || c.Time.After(d.at) || d.at.Sub(c.Time) > changesFor {
		c.Time = d.at
	}
	c.Time, c.GitLab = utc(c.Time), d.gitlab
	d.changes = append(d.changes, c)
}

// merge walks two lists that are sorted by id.
func merge[T any](a, b []T, id func(*T) int64, f func(old, now *T)) {
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && id(&a[0]) < id(&b[0]):
			f(&a[0], nil)
			a = a[1:]
		case len(a) == 0 || id(&b[0]) < id(&a[0]):
			f(nil, &b[0])
			b = b[1:]
		default:
			f(&a[0], &b[0])
			a, b = a[1:], b[1:]
		}
	}
}

func (d *differ) rows(a, b *snapshot.GitLab) {
	// Runners of a scope that fails leave and come back without having done so.
	whole := a.Up && b.Up && scopesUp(a) && scopesUp(b)
	merge(a.Fleet.Rows, b.Fleet.Rows, func(r *snapshot.Runner) int64 { return r.ID }, func(old, now *snapshot.Runner) {
		switch {
		case now == nil && whole:
			d.add(Change{Kind: left, Runner: old.ID, Name: old.Description})
		case old == nil && whole:
			d.add(Change{Kind: joined, Runner: now.ID, Name: now.Description})
		case old == nil || now == nil:
		case now.Paused != old.Paused && now.Paused:
			d.add(Change{Kind: paused, Runner: now.ID, Name: now.Description, Time: now.PausedSince})
		case now.Paused != old.Paused:
			d.add(Change{Kind: resumed, Runner: now.ID, Name: now.Description})
		case b.Health != nil || (now.Status == snapshot.Online) == (old.Status == snapshot.Online): // health shows it earlier
		case now.Status == snapshot.Online:
			d.add(Change{Kind: online, Runner: now.ID, Name: now.Description, Time: now.StatusSince})
		default:
			d.add(Change{Kind: offline, Runner: now.ID, Name: now.Description, Time: now.StatusSince})
		}
	})
}

func scopesUp(s *snapshot.GitLab) bool {
	return !slices.ContainsFunc(s.Scopes, func(s snapshot.ScopeState) bool { return !s.Up })
}

func (d *differ) health(a, b *snapshot.GitLab) {
	var well snapshot.Ill
	merge(a.Health.Ill, b.Health.Ill, func(i *snapshot.Ill) int64 { return i.ID }, func(old, now *snapshot.Ill) {
		row := rowOf(b.Fleet, cmp.Or(now, old).ID)
		if row == nil { // it left
			return
		}
		if old == nil {
			old = &well
		}
		if now == nil {
			now = &well
		}
		c := Change{Runner: row.ID, Name: row.Description}
		switch was, is := old.Health == snapshot.HealthDown, now.Health == snapshot.HealthDown; {
		case is && !was:
			c.Kind, c.Reason, c.Time = wentDown, now.Reason.String(), now.Since
			d.add(c)
		case was && now.Health == snapshot.HealthAlive:
			c.Kind, c.Reason = cameBack, old.Reason.String()
			d.add(c)
		}
		for s := range snapshot.NumSuspicions {
			c := Change{Runner: row.ID, Name: row.Description, Reason: s.String()}
			switch was, is := !old.Suspects[s].IsZero(), !now.Suspects[s].IsZero(); {
			case is && !was:
				c.Kind, c.Time = suspected, now.Suspects[s]
				d.add(c)
			case was && !is:
				c.Kind = cleared
				d.add(c)
			}
		}
		if old.OrphanedJobs == 0 && now.OrphanedJobs > 0 {
			d.add(Change{Kind: orphanedJobs, Runner: row.ID, Name: row.Description})
		}
	})
}

func (d *differ) tags(a, b *snapshot.GitLab) {
	was := make(map[string]int, len(a.Fleet.Tags))
	for i := range a.Fleet.Tags {
		was[a.Fleet.Tags[i].Name] = usable(a, &a.Fleet.Tags[i])
	}
	for i := range b.Fleet.Tags {
		t := &b.Fleet.Tags[i]
		before, known := was[t.Name]
		now := usable(b, t)
		// The first judgement is no change.
		if !known || t.Name == snapshot.TagUnknown || t.Name == snapshot.TagOther || (a.Health == nil) != (b.Health == nil) {
			continue
		}
		switch {
		case before > 0 && now == 0:
			d.add(Change{Kind: tagGone, Tag: t.Name})
		case before == 0 && now > 0:
			d.add(Change{Kind: tagBack, Tag: t.Name})
		}
	}
}

func rowOf(f *snapshot.Fleet, id int64) *snapshot.Runner {
	at, ok := slices.BinarySearchFunc(f.Rows, id, func(r snapshot.Runner, id int64) int { return cmp.Compare(r.ID, id) })
	if !ok {
		return nil
	}
	return &f.Rows[at]
}

// usable is what tag_usable_runners shows.
func usable(s *snapshot.GitLab, t *snapshot.Tag) int {
	if s.Health == nil {
		return t.Available
	}
	return t.Usable
}

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC().Truncate(time.Second)
}
