// Package store keeps what must outlive the process: one atomic batch of opaque
// records at a time, one file for each GitLab, in the folder --storage.path.
//
// It guarantees four things and does not interpret the records:
//
//   - Commit is all or nothing, and on disk when it returns nil.
//   - Damage is found before a record of the file is used: each commit carries a
//     checksum that covers all commits before it, and the file's header names the
//     length that was acknowledged (format.go).
//   - A damaged file, or one of an older layout, is put aside, not deleted, and
//     affects no other GitLab.
//   - A file of another GitLab or of a newer release, and a folder that another
//     process uses, are refused and not changed.
//
// A whole file replaced by an older copy of itself cannot be found.
//
// A file is a log of commits. The state is read as a whole at the start and then
// only written, so there is nothing to look up: a commit appends one frame and
// waits for one fsync. When the file has become larger than twice its length after
// the last rewrite and 1 MiB, it is rewritten with each record once, those under
// unknown keys included, and renamed into place. A copy of the file made while it
// is written is sound: it ends with some commit.
//
// Measured beside bbolt (go.etcd.io/bbolt), which was used before: a week of 1,000
// finished jobs a minute (test/scale, ScaleWeek; lookback 24 h and 7 d) takes 6 and
// 45 MiB instead of 16 and 96, a commit 0.9 and 0.6 ms instead of 1.9 and 0.6. With
// the records of a day at a commit a second (bench_test.go, on a busy machine) a
// commit takes 4.0 ms instead of 6.8, the check at the start and the reading 0.39 s
// instead of 0.25 with 29 MB allocated instead of 57, the first commit of 100,000
// runners 0.8 s instead of 3.9. And a damaged file is only read, never mapped, so it
// cannot end the process.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

const (
	// lockTimeout is how long Open waits for another process to leave the folder.
	lockTimeout = 10 * time.Second
	lockPoll    = 100 * time.Millisecond
	lockName    = "lock"

	// retain is how long the file of a name that is no longer configured, and a
	// file that was put aside, are kept.
	retain = 30 * 24 * time.Hour

	// stampForm is the time in names of files that were put aside.
	stampForm = "20060102T150405Z"
)

// Record is one key with its value; both are opaque here. A key has 1 to 32768
// bytes.
type Record struct{ Key, Value []byte }

// Batch is what one Commit changes. Deletes are applied first, then puts in
// their order: a key in both is kept, and its last put wins.
type Batch struct {
	Put    []Record
	Delete [][]byte
}

// Options of a Folder. Only Layout is required.
type Options struct {
	// Path of the folder, created with mode 0700; "": everything stays in memory
	// for as long as the Folder lives.
	Path string
	// Layout is the version of what the caller writes into its records, at
	// least 1. Each file names it.
	Layout uint32
	Now    func() time.Time // nil: time.Now
	Logger log.Logger       // nil: silent
}

// Folder is the folder of all states, locked for this process. Its methods may be
// called from several goroutines.
type Folder struct {
	opts Options
	lock *os.File // nil in memory

	mu     sync.Mutex
	open   map[string]*State // by name
	memory map[string]*memoryState
	closed bool
}

// Open locks the folder for this process. While another process holds it, Open
// waits for 10 s, then fails with ErrLocked; ctx ends the wait earlier.
func Open(ctx context.Context, opts Options) (*Folder, error) {
	if opts.Layout == 0 {
		return nil, errors.New("store: the layout version must be at least 1")
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Logger == nil {
		opts.Logger = log.NewNopLogger()
	}
	f := &Folder{opts: opts, open: map[string]*State{}, memory: map[string]*memoryState{}}
	if opts.Path == "" {
		return f, nil
	}
	// Errors name the folder: a relative path is of no use to a reader who does not
	// know where the process runs.
	if abs, err := filepath.Abs(opts.Path); err == nil {
		opts.Path, f.opts.Path = abs, abs
	}
	if err := os.MkdirAll(opts.Path, 0o700); err != nil {
		return nil, fmt.Errorf("storage folder %s (--storage.path) cannot be made; give this user write access to the folder above or name another: %w", opts.Path, err)
	}
	lock, err := lockFolder(ctx, opts.Path)
	if err != nil {
		return nil, err
	}
	f.lock = lock
	return f, nil
}

// lockFolder waits for the lock, which the kernel releases when its holder ends in
// any way.
func lockFolder(ctx context.Context, path string) (_ *os.File, err error) {
	// A folder that became read-only after an earlier run still has a lock file that
	// can be opened; without this probe only the first commit would fail.
	probe, err := os.CreateTemp(path, "probe-*")
	if err != nil {
		return nil, fmt.Errorf("storage folder %s cannot be written; give this user write access to it or name another --storage.path: %w", path, err)
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return nil, fmt.Errorf("storage folder %s: %w", path, err)
	}
	file, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock storage folder: %w", err)
	}
	defer func() {
		if err != nil {
			_ = file.Close()
		}
	}()
	deadline := time.NewTimer(lockTimeout)
	defer deadline.Stop()
	again := time.NewTicker(lockPoll)
	defer again.Stop()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, fmt.Errorf("lock storage folder %s (its file system must support flock): %w", path, err)
		}
		select {
		case <-again.C:
		case <-deadline.C:
			return nil, fmt.Errorf("%w: %s is held by %s; waited %s; stop that process, or give this one another --storage.path", ErrLocked, path, holder(file), lockTimeout)
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for storage folder %s: %w", path, context.Cause(ctx))
		}
	}
	// For the error of another process that waits for this lock.
	host, err := os.Hostname()
	if err != nil {
		host = "an unknown host"
	}
	if err := file.Truncate(0); err == nil {
		_, _ = file.WriteAt(fmt.Appendf(nil, "pid %d on %s\n", os.Getpid(), host), 0)
	}
	return file, nil
}

// holder returns who wrote the lock file last.
func holder(file *os.File) string {
	var buf [200]byte
	n, err := file.ReadAt(buf[:], 0)
	if text := strings.TrimSpace(string(buf[:n])); text != "" && (err == nil || errors.Is(err, io.EOF)) {
		return fmt.Sprintf("%q", text)
	}
	return "a process that did not leave its number"
}

// Open opens the state of the GitLab with this name, or begins one. A name may
// be open once at a time. A file that is not for this GitLab or this release is
// refused with a *ForeignError or a *NewerError. A damaged file is no error: it is
// put aside as <file>.damaged-<UTC time>, logged, named by State.Quarantined, and a
// fresh one is begun. So is a file of an older layout, as
// <file>.older-<UTC time>, but Quarantined does not name it.
func (f *Folder) Open(name, url string) (*State, error) {
	address, err := canonicalURL(url)
	if err != nil {
		return nil, fmt.Errorf("state of GitLab %q: %w", name, err)
	}
	if name == "" {
		return nil, errors.New("a state needs the name of its GitLab")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, ErrClosed
	}
	if f.open[name] != nil {
		return nil, fmt.Errorf("state of GitLab %q is already open", name)
	}
	s := &State{folder: f, name: name}
	if f.opts.Path == "" {
		m := f.memory[name]
		if m == nil {
			m = &memoryState{url: address, records: map[string][]byte{}}
			f.memory[name] = m
		}
		if m.url != address {
			return nil, &ForeignError{Name: name, Have: m.url, Want: address}
		}
		s.backend = m
	} else if s.backend, s.quarantined, err = f.openFile(name, address); err != nil {
		return nil, err
	}
	f.open[name] = s
	return s, nil
}

func (f *Folder) openFile(name, address string) (_ backend, quarantined string, err error) {
	d := &diskState{
		path:   filepath.Join(f.opts.Path, fileName(name)),
		want:   identity{Program: program, Format: formatVersion, Layout: f.opts.Layout, Name: name, URL: address},
		slack:  rewriteSlack,
		logger: f.opts.Logger,
	}
	err = d.open()
	damaged, isDamaged := errors.AsType[*DamagedError](err)
	older, isOlder := errors.AsType[*OlderError](err)
	if isDamaged || isOlder {
		mark := olderMark
		if isDamaged {
			mark = damagedMark
		}
		kept, err2 := putAside(d.path, mark, f.opts.Now())
		if err2 != nil {
			return nil, "", fmt.Errorf("%w; and it cannot be put aside: %w", err, err2)
		}
		err = fs.ErrNotExist
		if isDamaged {
			quarantined = kept
			_ = level.Error(f.opts.Logger).Log("msg", "state file is damaged; put aside, counting begins anew",
				"gitlab", name, "file", d.path, "kept_as", kept, "kept_for", retain, "reason", damaged.Reason)
		} else {
			_ = level.Warn(f.opts.Logger).Log("msg", "the state file is of an older layout, which this release cannot read; put aside, counting begins anew from now",
				"gitlab", name, "file", d.path, "kept_as", kept, "kept_for", retain, "has", older.Have, "needs", older.Want)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		if err = d.create(); err == nil {
			err = d.open()
		}
	}
	if err != nil {
		return nil, "", err
	}
	f.touch(d.path)
	return d, quarantined, nil
}

// touch sets the time from which Prune counts to now.
func (f *Folder) touch(path string) {
	now := f.opts.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		_ = level.Warn(f.opts.Logger).Log("msg", "cannot note the last use of a state file", "file", path, "err", err)
	}
}

// Prune removes the files of names that are no longer configured and were last
// open 30 days ago or earlier (a name removed by mistake finds its counters again),
// and files that were put aside as long ago. It removes only what this package
// wrote. Call it at the start, after a reload, and daily.
func (f *Folder) Prune(configured []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return ErrClosed
	}
	if f.opts.Path == "" {
		return nil // a reload must find the records again
	}
	keep := map[string]bool{}
	for _, name := range configured {
		keep[fileName(name)] = true
	}
	for name := range f.open {
		keep[fileName(name)] = true
		f.touch(filepath.Join(f.opts.Path, fileName(name)))
	}
	entries, err := os.ReadDir(f.opts.Path)
	if err != nil {
		return fmt.Errorf("prune storage folder: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		path := filepath.Join(f.opts.Path, entry.Name())
		since, ok := f.unusedSince(entry, path)
		if !ok || keep[entry.Name()] || f.opts.Now().Sub(since) < retain {
			continue
		}
		if err := os.Remove(path); err != nil {
			errs = append(errs, fmt.Errorf("prune storage folder: %w", err))
			continue
		}
		_ = level.Info(f.opts.Logger).Log("msg", "removed a state file that was not used any more", "file", path, "last_use", since.UTC())
	}
	return errors.Join(errs...)
}

// unusedSince returns when a file was last used; !ok: this package did not write it.
func (f *Folder) unusedSince(entry fs.DirEntry, path string) (time.Time, bool) {
	if !entry.Type().IsRegular() {
		return time.Time{}, false
	}
	if at, ok := putAsideAt(entry.Name()); ok {
		return at, true
	}
	info, err := entry.Info()
	if err != nil || filepath.Ext(entry.Name()) != fileExt {
		return time.Time{}, false
	}
	// A file of another program must not be removed.
	file, _, id, err := readIdentity(path, os.O_RDONLY)
	if err != nil {
		return time.Time{}, false
	}
	_ = file.Close() // opened for reading
	return info.ModTime(), fileName(id.Name) == entry.Name()
}

// Close closes the states that are still open and unlocks the folder.
func (f *Folder) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	states := make([]*State, 0, len(f.open))
	for _, s := range f.open {
		states = append(states, s)
	}
	f.mu.Unlock()
	var errs []error
	for _, s := range states {
		errs = append(errs, s.Close())
	}
	if f.lock != nil {
		// The lock file is not removed: two processes could then each lock a file of
		// their own.
		errs = append(errs, f.lock.Close())
	}
	return errors.Join(errs...)
}

// backend keeps one GitLab's records in memory or in a file.
type backend interface {
	load(fn func(key, value []byte) error) error
	commit(b Batch) error
	close() error
}

// State holds the records of one GitLab. Its methods may be called from several
// goroutines; calls are serialized.
type State struct {
	folder      *Folder
	name        string
	quarantined string

	mu      sync.Mutex
	backend backend // nil: closed
}

// Load calls fn with each record, in no particular order, and returns fn's first
// error. The slices may be kept. fn must not call this State. A *DamagedError
// means that the file was damaged after it was opened.
func (s *State) Load(fn func(key, value []byte) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.backend == nil {
		return ErrClosed
	}
	return s.backend.load(fn)
}

// Commit applies the batch in one transaction and returns once it is on disk.
// After an error the records are those of the last commit that succeeded, or, if
// only the disk's confirmation failed, those with this batch: commit the batch
// again. The next Commit works once the cause is gone, except after a
// *DamagedError: close the State, open it again (which puts the file aside) and
// commit everything.
func (s *State) Commit(b Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.backend == nil {
		return ErrClosed
	}
	if len(b.Put) == 0 && len(b.Delete) == 0 {
		return nil
	}
	for _, r := range b.Put {
		if err := Storable(r.Key, r.Value); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
	}
	return s.backend.commit(b)
}

// Storable returns a *RecordError for a record that Commit refuses. A batch
// with such a record is refused as a whole, each time: leave the record out.
func Storable(key, value []byte) error {
	switch {
	case len(key) == 0:
		return &RecordError{key, "its key is empty"}
	case len(key) > maxKey:
		return &RecordError{key, fmt.Sprintf("its key has %d bytes, more than %d", len(key), maxKey)}
	case len(value) > maxValue:
		return &RecordError{key, fmt.Sprintf("its value has %d bytes, more than %d", len(value), maxValue)}
	}
	return nil
}

// Quarantined returns the path under which Open put a damaged file aside; "": none.
func (s *State) Quarantined() string { return s.quarantined }

// Close closes the file; the name can be opened again. What was committed is on
// disk already.
func (s *State) Close() error {
	s.mu.Lock()
	b := s.backend
	s.backend = nil
	s.mu.Unlock()
	if b == nil {
		return nil
	}
	d, onDisk := b.(*diskState)
	gone := onDisk && d.gone()
	err := b.close()
	s.folder.mu.Lock()
	defer s.folder.mu.Unlock()
	delete(s.folder.open, s.name)
	if onDisk && !gone {
		s.folder.touch(d.path)
	}
	return err
}
