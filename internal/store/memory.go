package store

// memoryState keeps the records of one GitLab while the Folder lives: a reload
// closes the State and must find them again.
type memoryState struct {
	url     string
	records map[string][]byte
}

func (m *memoryState) load(fn func(key, value []byte) error) error {
	for key, value := range m.records {
		if err := fn([]byte(key), append([]byte{}, value...)); err != nil {
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
