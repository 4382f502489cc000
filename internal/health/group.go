package health

import "math"

// Moments of a group: the section "Silent among peers" of docs/health.md.
const (
	momentApart  = 3 // minutes; what is nearer is the same moment
	momentAfter  = 2 // minutes after its last sign before a moment counts as missed
	momentBefore = 3 // minutes before the reading: contacts of that minute may still come
	momentShare  = 0.3
	sparseShare  = 1.0 / 12 // by REST only the last contact of each of them is seen
	idleWithin   = 70 * minute
	ringMinutes  = 192 // missedWindow, and what a reading may be late
)

// group is the runners that take the same jobs: GitLab ticks all of them for
// each job that is queued, so those that are idle are seen together.
type group struct {
	key     uint64
	members []*runner
	idle    int                  // members that are idle and were seen lately
	starts  int                  // jobs that members started since the last judgement
	ring    *[ringMinutes]uint16 // contacts by minute; nil while it has one member
	head    int64                // the newest minute of the ring
}

// Traits are what makes runners peers.
func (t *Traits) key() uint64 {
	flags := uint64(t.Type) << 2
	if t.RunUntagged {
		flags |= 1
	}
	if t.Protected {
		flags |= 2
	}
	key := scatter(flags) ^ scatter(hash(t.Owner)+1)
	for _, tag := range t.Tags { // in any order; it is called for each row of a listing and must not allocate
		key += scatter(hash(tag) + 2)
	}
	return scatter(key)
}

// hash is FNV-1a of a text.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// scatter spreads a hash over all bits, so that sums of several differ.
func scatter(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// seen notes n contacts at a time; one that is not after now, and not older
// than the ring.
func (g *group) seen(at, now int64, n int) {
	m := at / minute
	if g == nil || len(g.members) < 2 || at > now || m <= g.head-ringMinutes {
		return
	}
	if g.ring == nil {
		g.ring = new([ringMinutes]uint16)
	}
	if m > g.head {
		for i := max(g.head+1, m-ringMinutes+1); i <= m; i++ {
			g.ring[i%ringMinutes] = 0
		}
		g.head = m
	}
	v := &g.ring[m%ringMinutes]
	*v = uint16(min(int(*v)+n, math.MaxUint16)) //nolint:gosec // bounded
}

func (g *group) at(m int64) int {
	if g.ring == nil || m > g.head || m <= g.head-ringMinutes {
		return 0
	}
	return int(g.ring[m%ringMinutes])
}

// need is how many contacts within two minutes make a moment.
func (g *group) need(dense bool) int {
	switch {
	case g.idle < 3:
		return 1
	case dense:
		return max(2, int(math.Ceil(momentShare*float64(g.idle))))
	}
	return max(2, int(sparseShare*float64(g.idle)))
}

// moments counts them between two minutes.
func (g *group) moments(from, to int64, dense bool) int {
	if g == nil || g.ring == nil {
		return 0
	}
	n, need := 0, g.need(dense)
	for m := from; m <= to; m++ {
		if g.at(m)+g.at(m+1) >= need {
			n++
			m += momentApart - 1
		}
	}
	return n
}

// seenWith reports whether others of the group were seen at a sign's minute.
func (g *group) seenWith(at int64, dense bool) bool {
	if g == nil || g.ring == nil {
		return false
	}
	m := at / minute
	return max(g.at(m-1)+g.at(m), g.at(m)+g.at(m+1))-1 >= g.need(dense)
}
