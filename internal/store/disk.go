package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// diskState is one GitLab's file.
type diskState struct {
	path    string
	want    identity
	timeout time.Duration

	db   *bbolt.DB // nil after a failure, until the next call opens the file anew
	file *os.File  // bbolt's own
	need int64     // the file is damaged if shorter
	sum  summary
}

// guard calls into bbolt. A fault in its map (the file cut short, or its disk
// failing, while open) would otherwise end the process. Only this goroutine is
// covered, so nothing of bbolt that starts one may be used: Tx.Check,
// NoFreelistSync.
func (d *diskState) guard(call func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if r := recover(); r != nil {
			err = &DamagedError{Path: d.path, Reason: fmt.Sprintf("found in use: %v", r)}
		}
	}()
	return call()
}

// open verifies the file and maps it. It changes nothing on disk.
func (d *diskState) open() error {
	sum, err := verify(d.path, d.want)
	if err != nil {
		if why, ok := errors.AsType[damage](err); ok {
			return &DamagedError{Path: d.path, Reason: string(why)}
		}
		return err
	}
	db, file, err := d.openBolt(d.path, os.O_RDWR)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, db.Close())
	}
	// What is beyond the pages in use may be cut off without harm, but nobody does.
	d.db, d.file, d.sum, d.need = db, file, sum, info.Size()
	return nil
}

func (d *diskState) openBolt(path string, flags int) (db *bbolt.DB, file *os.File, err error) {
	err = d.guard(func() (err error) {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			// Only a foreign tool can hold it: the folder is ours.
			Timeout:      max(d.timeout, time.Millisecond),
			FreelistType: bbolt.FreelistArrayType,
			NoStatistics: true,
			OpenFile: func(name string, _ int, mode os.FileMode) (*os.File, error) {
				f, err := os.OpenFile(name, flags, mode) //nolint:gosec // within --storage.path
				file = f
				return f, err
			},
		})
		return err
	})
	if _, panicked := errors.AsType[*DamagedError](err); panicked && file != nil {
		// bbolt keeps the map, which nobody can reach any more; the file and its
		// lock must not stay with it.
		_ = file.Close()
	}
	if errors.Is(err, bolterrors.ErrTimeout) {
		err = fmt.Errorf("%w: state file %s is open elsewhere; close what reads it", ErrLocked, path)
	}
	return db, file, err
}

// create makes the file under another name first, so that a crash on the way
// does not leave one that looks damaged.
func (d *diskState) create() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("begin state file %s: %w", d.path, err)
		}
	}()
	path := d.path + newExt
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, _, err := d.openBolt(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return errors.Join(err, removeIfThere(path))
	}
	err = d.guard(func() error { return db.Update(d.begin) })
	if err = errors.Join(err, db.Close()); err != nil {
		return errors.Join(err, removeIfThere(path))
	}
	if err := os.Rename(path, d.path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(d.path))
}

// begin writes what a state holds before its first record.
func (d *diskState) begin(tx *bbolt.Tx) error {
	meta, err := tx.CreateBucket([]byte(bucketMeta))
	if err != nil {
		return err
	}
	if _, err := tx.CreateBucket([]byte(bucketRecords)); err != nil {
		return err
	}
	payload, err := json.Marshal(d.want)
	if err != nil {
		return err
	}
	if err := meta.Put([]byte(keyIdentity), seal(d.want.Layout, []byte(keyIdentity), payload)); err != nil {
		return err
	}
	return putSummary(meta, d.want.Layout, summary{}, tx)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func putSummary(meta *bbolt.Bucket, layout uint32, s summary, tx *bbolt.Tx) error {
	s.txid = uint64(tx.ID()) //nolint:gosec // counts up from 0
	return meta.Put([]byte(keySummary), seal(layout, []byte(keySummary), s.encode()))
}

// ready opens the file anew after a failure, and sees what became of it since.
func (d *diskState) ready() error {
	if d.db == nil {
		if err := d.open(); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s", ErrGone, d.path)
		} else if err != nil {
			return err
		}
	}
	if d.gone() {
		return fmt.Errorf("%w: %s", ErrGone, d.path)
	}
	info, err := d.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() < d.need {
		d.abandon(nil, true)
		return &DamagedError{Path: d.path, Reason: fmt.Sprintf("it was cut from %d to %d bytes while in use", d.need, info.Size())}
	}
	d.need = info.Size()
	return nil
}

// gone: the path no longer leads to the open file.
func (d *diskState) gone() bool {
	if d.file == nil {
		return false
	}
	here, err := os.Stat(d.path)
	if err != nil {
		return true
	}
	open, err := d.file.Stat()
	return err != nil || !os.SameFile(here, open)
}

// transaction runs fn between begin and end. Whatever fails, the file is let go:
// the next call opens and verifies it again rather than trust what a failed write
// or a fault left in memory.
func (d *diskState) transaction(writable bool, fn func(tx *bbolt.Tx) error) error {
	if err := d.ready(); err != nil {
		return err
	}
	var tx *bbolt.Tx
	began := false
	err := d.guard(func() (err error) {
		if tx, err = d.db.Begin(writable); err != nil {
			return err
		}
		began = true
		if err := fn(tx); err != nil {
			return err
		}
		if writable {
			return tx.Commit()
		}
		return tx.Rollback()
	})
	if err != nil {
		_, panicked := errors.AsType[*DamagedError](err)
		d.abandon(tx, began || !panicked)
	}
	return err
}

// abandon closes the file after a failure. Not orderly: bbolt panicked while it
// took its locks, and its Close would wait for them for ever; then only the file
// and its lock are freed, and the map stays, once for a damage.
func (d *diskState) abandon(tx *bbolt.Tx, orderly bool) {
	db, file := d.db, d.file
	d.db, d.file = nil, nil
	if tx != nil && orderly {
		err := d.guard(tx.Rollback)
		orderly = err == nil || errors.Is(err, bolterrors.ErrTxClosed)
	}
	if orderly {
		if d.guard(db.Close) == nil {
			return
		}
	}
	_ = file.Close()
}

func (d *diskState) commit(b Batch) error {
	sum := d.sum
	// bbolt splits pages only at the end of a transaction: 100,000 new keys in
	// no order would each move half of those before them, for a minute.
	puts := slices.Clone(b.Put)
	slices.SortStableFunc(puts, func(a, b Record) int { return bytes.Compare(a.Key, b.Key) })
	err := d.transaction(true, func(tx *bbolt.Tx) error {
		sum = d.sum // ready may have read it anew
		records, meta := tx.Bucket([]byte(bucketRecords)), tx.Bucket([]byte(bucketMeta))
		forget := func(key []byte) {
			if old := records.Get(key); len(old) >= envelopeSize {
				sum.remove(old)
			}
		}
		for _, key := range b.Delete {
			forget(key)
			if err := records.Delete(key); err != nil {
				return err
			}
		}
		for _, r := range puts {
			forget(r.Key)
			stored := seal(d.want.Layout, r.Key, r.Value)
			sum.add(stored)
			if err := records.Put(r.Key, stored); err != nil {
				return err
			}
		}
		return putSummary(meta, d.want.Layout, sum, tx)
	})
	if err != nil {
		return fmt.Errorf("commit to %s: %w", d.path, err)
	}
	d.sum = sum
	return nil
}

// load reads a part at a time and calls fn between transactions: a panic of fn
// must not pass for damage.
func (d *diskState) load(fn func(key, value []byte) error) error {
	const part = 1000
	from := []byte{}
	for {
		records := make([]Record, 0, part)
		err := d.transaction(false, func(tx *bbolt.Tx) error {
			c := tx.Bucket([]byte(bucketRecords)).Cursor()
			for key, stored := c.Seek(from); key != nil && len(records) < part; key, stored = c.Next() {
				_, value, ok := unseal(key, stored)
				if !ok {
					return &DamagedError{Path: d.path, Reason: fmt.Sprintf("the record under key %q changed while in use", key)}
				}
				// Copies: a slice of the map, kept too long, would kill the process.
				records = append(records, Record{Key: bytes.Clone(key), Value: append([]byte{}, value...)})
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("load %s: %w", d.path, err)
		}
		for _, r := range records {
			if err := fn(r.Key, r.Value); err != nil {
				return err
			}
		}
		if len(records) < part {
			return nil
		}
		from = append(bytes.Clone(records[part-1].Key), 0)
	}
}

func (d *diskState) size() int64 {
	if d.file == nil {
		return d.need
	}
	info, err := d.file.Stat()
	if err != nil {
		return d.need
	}
	return info.Size()
}

func (d *diskState) close() error {
	if d.db == nil {
		return nil
	}
	db := d.db
	d.db, d.file = nil, nil
	return d.guard(db.Close)
}
