package store

import (
	"bytes"
	"maps"
	"slices"
)

// memoryState keeps the records of one GitLab while the Folder lives: a reload
// closes the State and must find them again.
type memoryState struct {
	url     string
	records map[string][]byte
}

func (m *memoryState) load(fn func(key, value []byte) error) error {
	for _, key := range slices.Sorted(maps.Keys(m.records)) {
		if err := fn([]byte(key), bytes.Clone(m.records[key])); err != nil {
			return err
		}
	}
	return nil
}

func (m *memoryState) commit(b Batch) error {
	for _, key := range b.Delete {
		delete(m.records, string(key))
	}
	for _, r := range b.Put {
		m.records[string(r.Key)] = append([]byte{}, r.Value...)
	}
	return nil
}

func (m *memoryState) close() error { return nil }
