package inventory

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"gitlab-runner-fleet-exporter/internal/record"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// The records are JSON: they are few and change seldom, and a person who has
// to look into a state file can read them.
const (
	keyMeta      = "im"
	prefixRunner = record.Runner
	prefixTag    = record.Tag
	prefixScope  = "is"
)

type metaRecord struct {
	ListedAt time.Time `json:"listed_at"`
	Version  string    `json:"version,omitempty"`
	// Whole are the parts of the picture that were whole once: a restart must
	// not withdraw them for a runner that joined last or cannot be read.
	Whole  [snapshot.NumParts]bool `json:"whole"`
	Events events                  `json:"events,omitzero"`
}

type scopeRecord struct {
	ListedAt time.Time `json:"listed_at,omitzero"`
	Since    time.Time `json:"since,omitzero"`
	Unseen   bool      `json:"unseen,omitempty"`
	GraphQL  bool      `json:"graphql,omitempty"`
}

type runnerRecord struct {
	Kind        snapshot.RunnerType        `json:"t,omitempty"`
	Status      snapshot.Status            `json:"s,omitempty"`
	Paused      bool                       `json:"p,omitempty"`
	Scopes      map[string]int             `json:"sc,omitempty"` // those that show it, and how many of their last listings did not
	Dropped     bool                       `json:"x,omitempty"`
	Description string                     `json:"d,omitempty"`
	DetailsAt   time.Time                  `json:"at,omitzero"`
	Tags        []string                   `json:"tags,omitempty"`
	RunUntagged bool                       `json:"u,omitempty"`
	Protected   bool                       `json:"pr,omitempty"`
	Version     string                     `json:"v,omitempty"`
	Platform    string                     `json:"pl,omitempty"`
	Arch        string                     `json:"a,omitempty"`
	Owner       string                     `json:"o,omitempty"`
	ContactedAt time.Time                  `json:"c,omitzero"`
	TouchedAt   time.Time                  `json:"ct,omitzero"` // where it is another
	Peaks       peaks                      `json:"pk,omitempty"`
	Machines    *[snapshot.NumStatuses]int `json:"mm,omitempty"`
	FirstSeen   time.Time                  `json:"fs,omitzero"`
	OtherTags   bool                       `json:"ot,omitempty"`
	StatusSince time.Time                  `json:"ss,omitzero"`
	PausedSince time.Time                  `json:"ps,omitzero"`
}

type tagRecord struct {
	Types         [snapshot.NumRunnerTypes]bool `json:"t"`
	Seen          time.Time                     `json:"s"`
	LastAvailable time.Time                     `json:"a,omitzero"`
}

func runnerKey(id int64) []byte { return record.Key(prefixRunner, id) }

// LeftOut is a record that has no form on disk.
type LeftOut struct {
	record.Record // without a value

	Err error
}

// Records takes what changed since the last call; nil if nothing did. What it
// returned is given back with Failed when it could not be committed. A record
// that cannot be encoded is left out alone, until what it is about changes
// again: it must not keep the others from being saved.
func (inv *Inventory) Records() ([]record.Record, []LeftOut) {
	var out []record.Record
	var left []LeftOut
	put := func(key []byte, v any) bool {
		b, err := json.Marshal(v)
		if err != nil {
			left = append(left, LeftOut{record.Record{Key: key}, fmt.Errorf("inventory: cannot be encoded: %w", err)})
			return false
		}
		out = append(out, record.Record{Key: key, Value: b})
		return true
	}
	if inv.dirtyMeta && put([]byte(keyMeta), metaRecord{inv.listedAt, inv.version, inv.whole, inv.events}) {
		inv.savedEvents = inv.events
	}
	for id := range inv.dirtyRunners {
		r := inv.runners[id]
		if r == nil {
			out = append(out, record.Record{Key: runnerKey(id)})
			continue
		}
		rec := runnerRecord{
			Kind: r.kind, Status: r.status, Paused: r.paused, Dropped: r.dropped, Description: r.description,
			DetailsAt: r.detailsAt, Tags: r.tags, RunUntagged: r.runUntagged, Protected: r.protected,
			Version: r.version, Platform: r.platform, Arch: r.arch, Owner: r.owner, ContactedAt: r.contactedAt, Peaks: r.peaks,
			FirstSeen: r.firstSeen, OtherTags: r.otherTags, StatusSince: r.statusSince, PausedSince: r.pausedSince,
		}
		if !r.touchedAt.Equal(r.contactedAt) {
			rec.TouchedAt = r.touchedAt
		}
		if r.machines.known {
			rec.Machines = &r.machines.byStatus
		}
		rec.Scopes = make(map[string]int, len(r.shown))
		for _, sh := range r.shown {
			rec.Scopes[sh.scope.key] = sh.missing
		}
		put(runnerKey(id), rec)
	}
	for name := range inv.dirtyTags {
		t := inv.tags[name]
		if t == nil {
			out = append(out, record.Record{Key: []byte(prefixTag + name)})
			continue
		}
		if put([]byte(prefixTag+name), tagRecord{t.types, t.seen, t.lastAvailable}) {
			t.saved = t.seen
		}
	}
	for key := range inv.dirtyScopes {
		s := inv.scopes[key]
		if s == nil {
			out = append(out, record.Record{Key: []byte(prefixScope + key)})
			continue
		}
		put([]byte(prefixScope+key), scopeRecord{s.listedAt, s.since, s.unseen, s.byGraphQL})
	}
	inv.dirtyMeta = false
	clear(inv.dirtyRunners)
	clear(inv.dirtyTags)
	clear(inv.dirtyScopes)
	return out, left
}

// Failed marks records as changed again after a commit that failed.
func (inv *Inventory) Failed(records []record.Record) {
	for _, rec := range records {
		switch key := string(rec.Key); key[:2] {
		case keyMeta:
			inv.dirtyMeta = true
		case prefixRunner:
			inv.dirtyRunners[record.ID(rec.Key)] = struct{}{}
		case prefixTag:
			inv.dirtyTags[key[2:]] = struct{}{}
		case prefixScope:
			inv.dirtyScopes[key[2:]] = struct{}{}
		}
	}
}

// Load takes one record of the state; handled is false for foreign keys.
// Finish must follow the last one.
func (inv *Inventory) Load(key, value []byte) (handled bool, err error) {
	if len(key) < len(keyMeta) {
		return false, nil
	}
	switch string(key[:2]) {
	case keyMeta:
		var m metaRecord
		if err = json.Unmarshal(value, &m); err == nil {
			inv.listedAt, inv.version, inv.whole = m.ListedAt, m.Version, m.Whole
			inv.events, inv.savedEvents, inv.shownEvents = m.Events, m.Events, m.Events
		}
	case prefixRunner:
		if record.ID(key) <= 0 {
			return true, fmt.Errorf("inventory: record %q names no runner", key)
		}
		var rec runnerRecord
		if err = json.Unmarshal(value, &rec); err == nil {
			if rec.Kind >= snapshot.NumRunnerTypes || rec.Status >= snapshot.NumStatuses {
				return true, fmt.Errorf("inventory: runner %d: unknown type or status in the state", record.ID(key))
			}
			r := &runner{
				id: record.ID(key), kind: rec.Kind, status: rec.Status, paused: rec.Paused, dropped: rec.Dropped,
				description: rec.Description, detailsAt: rec.DetailsAt, tags: rec.Tags, runUntagged: rec.RunUntagged,
				protected: rec.Protected, version: rec.Version, platform: rec.Platform, arch: rec.Arch,
				owner: rec.Owner, contactedAt: rec.ContactedAt, touchedAt: maxTime(rec.ContactedAt, rec.TouchedAt), executing: -1, peaks: rec.Peaks,
				firstSeen: rec.FirstSeen, otherTags: rec.OtherTags, statusSince: rec.StatusSince, pausedSince: rec.PausedSince,
			}
			if rec.Machines != nil {
				r.machines = machines{known: true, byStatus: *rec.Machines}
			}
			for _, scope := range slices.Sorted(maps.Keys(rec.Scopes)) {
				r.shown = append(r.shown, showing{inv.scope(scope), rec.Scopes[scope]})
			}
			inv.runners[r.id] = r
		}
	case prefixScope:
		var rec scopeRecord
		if err = json.Unmarshal(value, &rec); err == nil {
			s := inv.scope(string(key[2:]))
			s.listedAt, s.since, s.unseen, s.byGraphQL = rec.ListedAt, rec.Since, rec.Unseen, rec.GraphQL
		}
	case prefixTag:
		var rec tagRecord
		if err = json.Unmarshal(value, &rec); err == nil {
			name := string(key[2:])
			inv.tags[name] = &tag{name: name, types: rec.Types, seen: rec.Seen, saved: rec.Seen, lastAvailable: rec.LastAvailable}
		}
	default:
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("inventory: record %q: %w", key, err)
	}
	return true, nil
}

// Finish applies the present options to the loaded state: tags that are no
// longer wanted, or beyond a lowered limit, lose their series, and runners of
// scopes that are no longer configured await the listings of the others.
func (inv *Inventory) Finish() {
	inv.fitTags()
	inv.reorder()
	inv.settleScopes()
	for _, r := range inv.runners {
		inv.label(r)
	}
}
