package inventory

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Record is one key of the state; a nil Value deletes it.
type Record struct {
	Key, Value []byte
}

// The records are JSON: they are few and change seldom, and a person who has
// to look into a state file can read them.
const (
	keyMeta      = "im"
	prefixRunner = "ir"
	prefixTag    = "it"
)

type metaRecord struct {
	ListedAt time.Time `json:"listed_at"`
	Version  string    `json:"version,omitempty"`
	GraphQL  bool      `json:"graphql,omitempty"`
	// Whole are the parts of the picture that were whole once: a restart must
	// not withdraw them for a runner that joined last or cannot be read.
	Whole [snapshot.NumParts]bool `json:"whole"`
}

type runnerRecord struct {
	Kind        snapshot.RunnerType        `json:"t,omitempty"`
	Status      snapshot.Status            `json:"s,omitempty"`
	Paused      bool                       `json:"p,omitempty"`
	Missing     int                        `json:"m,omitempty"`
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
}

type tagRecord struct {
	Types         [snapshot.NumRunnerTypes]bool `json:"t"`
	Seen          time.Time                     `json:"s"`
	LastAvailable time.Time                     `json:"a,omitzero"`
}

func runnerKey(id int64) []byte {
	return binary.BigEndian.AppendUint64([]byte(prefixRunner), uint64(id)) //nolint:gosec // ids are positive
}

// Records takes what changed since the last call; nil if nothing did. What it
// returned is given back with Failed when it could not be committed.
func (inv *Inventory) Records() ([]Record, error) {
	var out []Record
	put := func(key []byte, v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("inventory: record %q: %w", key, err)
		}
		out = append(out, Record{key, b})
		return nil
	}
	if inv.dirtyMeta {
		if err := put([]byte(keyMeta), metaRecord{inv.listedAt, inv.version, inv.byGraphQL, inv.whole}); err != nil {
			return nil, err
		}
	}
	for id := range inv.dirtyRunners {
		r := inv.runners[id]
		if r == nil {
			out = append(out, Record{runnerKey(id), nil})
			continue
		}
		rec := runnerRecord{
			Kind: r.kind, Status: r.status, Paused: r.paused, Missing: r.missing, Description: r.description,
			DetailsAt: r.detailsAt, Tags: r.tags, RunUntagged: r.runUntagged, Protected: r.protected,
			Version: r.version, Platform: r.platform, Arch: r.arch, Owner: r.owner, ContactedAt: r.contactedAt, Peaks: r.peaks,
		}
		if !r.touchedAt.Equal(r.contactedAt) {
			rec.TouchedAt = r.touchedAt
		}
		if r.machines.known {
			rec.Machines = &r.machines.byStatus
		}
		if err := put(runnerKey(id), rec); err != nil {
			return nil, err
		}
	}
	for name := range inv.dirtyTags {
		t := inv.tags[name]
		if t == nil {
			out = append(out, Record{[]byte(prefixTag + name), nil})
			continue
		}
		if err := put([]byte(prefixTag+name), tagRecord{t.types, t.seen, t.lastAvailable}); err != nil {
			return nil, err
		}
		t.saved = t.seen
	}
	inv.dirtyMeta = false
	clear(inv.dirtyRunners)
	clear(inv.dirtyTags)
	return out, nil
}

// Failed marks records as changed again after a commit that failed.
func (inv *Inventory) Failed(records []Record) {
	for _, rec := range records {
		switch key := string(rec.Key); key[:2] {
		case keyMeta:
			inv.dirtyMeta = true
		case prefixRunner:
			inv.dirtyRunners[idOf(rec.Key)] = struct{}{}
		case prefixTag:
			inv.dirtyTags[key[2:]] = struct{}{}
		}
	}
}

func idOf(key []byte) int64 {
	if len(key) != 10 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(key[2:])) //nolint:gosec // written by runnerKey
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
			inv.listedAt, inv.version, inv.byGraphQL, inv.whole = m.ListedAt, m.Version, m.GraphQL, m.Whole
		}
	case prefixRunner:
		if idOf(key) <= 0 {
			return true, fmt.Errorf("inventory: record %q names no runner", key)
		}
		var rec runnerRecord
		if err = json.Unmarshal(value, &rec); err == nil {
			if rec.Kind >= snapshot.NumRunnerTypes || rec.Status >= snapshot.NumStatuses {
				return true, fmt.Errorf("inventory: runner %d: unknown type or status in the state", idOf(key))
			}
			r := &runner{
				id: idOf(key), kind: rec.Kind, status: rec.Status, paused: rec.Paused, missing: rec.Missing,
				description: rec.Description, detailsAt: rec.DetailsAt, tags: rec.Tags, runUntagged: rec.RunUntagged,
				protected: rec.Protected, version: rec.Version, platform: rec.Platform, arch: rec.Arch,
				owner: rec.Owner, contactedAt: rec.ContactedAt, touchedAt: maxTime(rec.ContactedAt, rec.TouchedAt), executing: -1, peaks: rec.Peaks,
			}
			if rec.Machines != nil {
				r.machines = machines{known: true, byStatus: *rec.Machines}
			}
			inv.runners[r.id] = r
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
// longer wanted, or beyond a lowered limit, lose their series.
func (inv *Inventory) Finish() {
	names := inv.TagNames()
	for _, name := range names {
		_, floor := inv.opts.Expected[name]
		if floor || name == snapshot.TagUntagged {
			continue
		}
		if !inv.wanted(name) || inv.free() < 0 {
			delete(inv.tags, name)
			inv.dirtyTags[name] = struct{}{}
		}
	}
	inv.reorder()
	for _, r := range inv.runners {
		r.listed = inv.listedAt
		inv.label(r)
	}
}
