package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

const (
	// rewriteSlack is what a file may hold beyond twice its length after the last
	// rewrite: a small state is not rewritten all the time.
	rewriteSlack = 1 << 20
	// rewriteFrame is the size at which a rewrite begins another frame: a frame is
	// read as a whole.
	rewriteFrame = 1 << 20
)

// file is what a state needs of an *os.File; tests make its calls fail.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Stat() (fs.FileInfo, error)
	Sync() error
	Truncate(size int64) error
}

// diskState is one GitLab's file.
type diskState struct {
	path   string
	want   identity
	slack  int64 // rewriteSlack; tests rewrite earlier
	logger log.Logger

	file      file   // nil after a failure, until the next call opens it anew
	base      int64  // length after the last rewrite
	end       int64  // where the next frame goes
	chain     uint32 // of the last frame
	rewriteAt int64  // the length at which the file is rewritten
}

// open checks the whole file. It changes nothing in it.
func (d *diskState) open() error {
	f, r, have, err := readIdentity(d.path, os.O_RDWR)
	if err == nil {
		err = d.take(f, r, have)
	}
	return d.named(err)
}

func (d *diskState) take(f *os.File, r *reader, have identity) error {
	// First of all: a newer release may have changed everything after it.
	err := d.admit(have)
	if err == nil {
		err = r.changes(func(_, _ []byte, _ int64) error { return nil })
	}
	if err == nil {
		// What a killed process wrote, and is read now, must be on disk before
		// anything is derived from it; so must the file's name.
		err = errors.Join(f.Sync(), syncFolder(filepath.Dir(d.path)))
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	d.file, d.base, d.end, d.chain = f, r.base, r.at, r.chain
	d.rewriteAt = 2*d.base + d.slack
	return removeIfThere(d.path + newExt) // of a rewrite that a crash interrupted
}

// named completes the errors of format.go, which do not know the file.
func (d *diskState) named(err error) error {
	if why, ok := errors.AsType[damage](err); ok {
		return &DamagedError{Path: d.path, Reason: string(why)}
	}
	if older, ok := errors.AsType[*OlderError](err); ok {
		older.Name, older.Path = d.want.Name, d.path
	}
	return err
}

// admit refuses a file that is sound but not for us.
func (d *diskState) admit(have identity) error {
	name, path, want := d.want.Name, d.path, d.want
	switch {
	case have.Format > want.Format:
		return &NewerError{name, path, fmt.Sprintf("format %d", have.Format), fmt.Sprintf("up to %d", want.Format)}
	case have.Layout > want.Layout:
		return &NewerError{name, path, fmt.Sprintf("records of layout %d", have.Layout), fmt.Sprintf("up to %d", want.Layout)}
	case have.Name != want.Name:
		return &ForeignError{name, fmt.Sprintf("GitLab %q", have.Name), fmt.Sprintf("GitLab %q", want.Name), path}
	case have.URL != want.URL:
		return &ForeignError{name, have.URL, want.URL, path}
	case have.Format < want.Format:
		return &OlderError{name, path, fmt.Sprintf("format %d", have.Format), fmt.Sprintf("format %d", want.Format)}
	case have.Layout < want.Layout:
		return &OlderError{name, path, fmt.Sprintf("records of layout %d", have.Layout), fmt.Sprintf("layout %d", want.Layout)}
	}
	return nil
}

// create begins the file with no records.
func (d *diskState) create() error {
	err := d.replace(func(func(key, value []byte) error) error { return nil })
	if err != nil {
		return fmt.Errorf("begin state file %s: %w", d.path, err)
	}
	return nil
}

// replace writes the records to a file of another name and renames it once it
// is complete and on disk: whatever interrupts it, the file at path is whole.
func (d *diskState) replace(each func(fn func(key, value []byte) error) error) (err error) {
	path := d.path + newExt
	if err := removeIfThere(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = removeIfThere(path)
		}
	}()
	if err := errors.Join(writeAll(f, d.want, each), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path, d.path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(d.path))
}

func writeAll(f *os.File, id identity, each func(fn func(key, value []byte) error) error) error {
	at, chain := int64(headerSize), uint32(0)
	write := func(payload []byte) error {
		var frame []byte
		frame, chain = encodeFrame(chain, payload)
		_, err := f.WriteAt(frame, at)
		at += int64(len(frame))
		return err
	}
	payload, err := json.Marshal(id)
	if err != nil {
		return err
	}
	if err := write(payload); err != nil {
		return err
	}
	var batch Batch
	size := 0
	err = each(func(key, value []byte) error {
		batch.Put = append(batch.Put, Record{key, value})
		if size += len(key) + len(value); size < rewriteFrame {
			return nil
		}
		err := write(encodeBatch(batch))
		batch, size = Batch{}, 0
		return err
	})
	if err == nil && size > 0 {
		err = write(encodeBatch(batch))
	}
	if err == nil {
		_, err = f.WriteAt(encodeHeader(at, at), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	return err
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ready opens the file again after a failure, and checks that it is still the
// one at its path and as long as it was.
func (d *diskState) ready() error {
	if d.file == nil {
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
	if info.Size() < d.end {
		d.abandon()
		return &DamagedError{Path: d.path, Reason: fmt.Sprintf("it was cut from %d to %d bytes while in use", d.end, info.Size())}
	}
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

// abandon closes the file after a failure: the next call reads and checks it
// again instead of relying on what this process remembers.
func (d *diskState) abandon() {
	_ = d.file.Close()
	d.file = nil
}

func (d *diskState) commit(b Batch) error {
	if err := d.ready(); err != nil {
		return fmt.Errorf("commit to %s: %w", d.path, err)
	}
	if err := d.add(encodeBatch(b)); err != nil {
		d.abandon()
		return fmt.Errorf("commit to %s: %w", d.path, err)
	}
	if d.end < d.rewriteAt {
		return nil
	}
	if err := d.rewrite(); err != nil {
		// The commit itself is on disk. Each attempt reads the whole file: the next
		// one comes only after more commits.
		d.rewriteAt = d.end + d.end/4 + d.slack
		_ = level.Warn(d.logger).Log("msg", "the state file holds much that is out of date and cannot be rewritten; it grows until it can, nothing is lost",
			"gitlab", d.want.Name, "file", d.path, "bytes", d.end, "err", err, "remedy", "make room on the disk of --storage.path for a second copy of the file")
	}
	return nil
}

// add writes one frame. The header follows only after the frame is on disk, and
// needs no sync of its own: where it is lost, the frame is found behind it.
func (d *diskState) add(payload []byte) error {
	frame, chain := encodeFrame(d.chain, payload)
	_, err := d.file.WriteAt(frame, d.end)
	if err == nil {
		err = d.file.Sync()
	}
	if err != nil {
		// A frame whose sync failed must not be found at the next opening: the
		// kernel may have dropped it, though it still reads well.
		return errors.Join(err, d.file.Truncate(d.end))
	}
	end := d.end + int64(len(frame))
	if _, err := d.file.WriteAt(encodeHeader(d.base, end), 0); err != nil {
		return err
	}
	d.end, d.chain = end, chain
	return nil
}

// rewrite replaces the file by one that holds each record once.
func (d *diskState) rewrite() error {
	err := d.replace(d.load)
	if err != nil && !d.gone() {
		return err // the old file is still in place
	}
	d.abandon()
	return errors.Join(err, d.open())
}

// load reads the file twice: first which change of each key is the last, then
// those. Kept in memory, the records of a week would take more room than what is
// made from them.
func (d *diskState) load(fn func(key, value []byte) error) error {
	if err := d.ready(); err != nil {
		return fmt.Errorf("load %s: %w", d.path, err)
	}
	last := map[string]int64{} // where the change ends
	err := d.changes(func(key, value []byte, at int64) error {
		if value == nil {
			delete(last, string(key))
		} else {
			last[string(key)] = at
		}
		return nil
	})
	var failed error // fn's own
	if err == nil {
		err = d.changes(func(key, value []byte, at int64) error {
			if end, ok := last[string(key)]; ok && end == at {
				failed = fn(bytes.Clone(key), append([]byte{}, value...))
			}
			return failed
		})
	}
	switch {
	case failed != nil:
		return failed
	case err != nil:
		d.abandon()
		return fmt.Errorf("load %s: %w", d.path, d.named(err))
	}
	return nil
}

func (d *diskState) changes(visit func(key, value []byte, at int64) error) error {
	r, err := newReader(d.file, d.end)
	if err != nil {
		return err
	}
	r.length = d.end // the header may be behind
	if _, err := r.identity(); err != nil {
		return err
	}
	return r.changes(visit)
}

func (d *diskState) close() error {
	if d.file == nil {
		return nil
	}
	err := errors.Join(d.file.Sync(), d.file.Close())
	d.file = nil
	return err
}
