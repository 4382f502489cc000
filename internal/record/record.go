// Package record is the form of what stands in the state: a key of two letters,
// the kind, then a name or an id; and a value, which its owner encodes.
// internal/inventory writes JSON, since its records are few and a person may
// have to read them, internal/ledger varints, some ten bytes a job.
package record

import (
	"encoding/binary"
	"fmt"
)

// Record is one key of the state; a nil Value deletes it.
type Record struct {
	Key, Value []byte
}

// The kinds that are of one runner or tag, which a message may have to name.
const (
	Runner     = "ir" // internal/inventory
	Tag        = "it"
	RunnerJobs = "lr" // internal/ledger
	TagJobs    = "lt"

	RunnerHealth = "hr" // internal/health
)

// KindLen is the length of a kind.
const KindLen = 2

// Key is the key of a kind and an id: big-endian, so that keys sort by id.
func Key(kind string, id int64) []byte {
	return binary.BigEndian.AppendUint64([]byte(kind), uint64(id)) //nolint:gosec // ids are positive
}

// ID is the id in a key; 0: it has none.
func ID(key []byte) int64 {
	if len(key) != KindLen+8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(key[KindLen:])) //nolint:gosec // written by Key
}

// Subject names what a record is about, for a message.
func (r Record) Subject() string {
	if len(r.Key) < KindLen {
		return fmt.Sprintf("record %q", r.Key)
	}
	switch string(r.Key[:KindLen]) {
	case Runner:
		return fmt.Sprintf("runner %d", ID(r.Key))
	case RunnerHealth:
		return fmt.Sprintf("health of runner %d", ID(r.Key))
	case RunnerJobs:
		return fmt.Sprintf("jobs of runner %d", ID(r.Key))
	case Tag:
		return fmt.Sprintf("tag %q", cut(r.Key[KindLen:]))
	case TagJobs:
		return fmt.Sprintf("jobs of tag %q", cut(r.Key[KindLen:]))
	}
	return fmt.Sprintf("record %q", r.Key)
}

// cut keeps a tag of megabytes out of a log line.
func cut(name []byte) string {
	const most = 100
	if len(name) <= most {
		return string(name)
	}
	return string(name[:most]) + "…"
}
