// Package bounded calls what may hang, above all reads of files: a mount whose
// server is gone, or a pipe that nobody writes to, blocks a read for ever, and
// no context ends it. Such a call is abandoned after a while, so that it holds
// up neither a poll, nor a reload, nor the stop of the process.
package bounded

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"
)

// Patience is how long a call may take. Files here are small and local; a
// healthy network file system answers within milliseconds.
const Patience = 5 * time.Second

// HangError is the failure of a call that did not return.
type HangError struct{ After time.Duration }

func (e *HangError) Error() string {
	return fmt.Sprintf("no answer within %s: its file system hangs, or it is a pipe that nobody writes to", e.After)
}

// Timeout makes it a timeout to whoever asks as net.Error does.
func (e *HangError) Timeout() bool { return true }

// Is lets errors.Is find os.ErrDeadlineExceeded.
func (e *HangError) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// abandoned are the calls that nobody waits for any more. Each holds an
// operating system's thread, so they must stay few.
var abandoned = struct {
	sync.Mutex

	calls map[string]hanging
}{calls: map[string]hanging{}}

type hanging struct {
	n           int
	first, last time.Time // when the first and the latest of them began
}

// again is how long a call is not tried anew for each one that hangs already:
// 200 threads hang after a week.
const again = 30 * time.Second

// Call runs f and returns its result, or *HangError once it took longer than
// Patience, or the context's error. f goes on in its goroutine meanwhile. key
// names what is called: while a call of this key hangs, others fail at once.
func Call[T any](ctx context.Context, key string, f func() (T, error)) (T, error) {
	return call(ctx, key, Patience, f)
}

func call[T any](ctx context.Context, key string, patience time.Duration, f func() (T, error)) (T, error) {
	var none T
	abandoned.Lock()
	h := abandoned.calls[key]
	abandoned.Unlock()
	began := time.Now()
	// One that was given up early, since nobody needed it any more, may return
	// at once and prove nothing yet.
	if h.n > 0 && began.Sub(h.first) > patience && began.Sub(h.last) < time.Duration(h.n)*again {
		return none, &HangError{patience}
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		abandon(key, began, done)
		return none, ctx.Err()
	case <-timer.C:
		abandon(key, began, done)
		return none, &HangError{patience}
	}
}

// abandon counts a call until it returns after all.
func abandon[T any](key string, began time.Time, done <-chan T) {
	abandoned.Lock()
	h := abandoned.calls[key]
	if h.n == 0 {
		h.first = began
	}
	h.n, h.last = h.n+1, began
	abandoned.calls[key] = h
	abandoned.Unlock()
	go func() {
		<-done
		abandoned.Lock()
		defer abandoned.Unlock()
		h := abandoned.calls[key]
		if h.n--; h.n <= 0 {
			delete(abandoned.calls, key)
			return
		}
		abandoned.calls[key] = h
	}()
}

// Stat is os.Stat.
func Stat(ctx context.Context, path string) (fs.FileInfo, error) {
	info, err := Call(ctx, path, func() (fs.FileInfo, error) { return os.Stat(path) })
	return info, named("stat", path, err)
}

// ReadFile reads a regular file of at most so many bytes. Every error is, or
// wraps, an *fs.PathError.
func ReadFile(ctx context.Context, path string, most int64) ([]byte, error) {
	data, err := Call(ctx, path, func() ([]byte, error) { return readFile(path, most) })
	return data, named("read", path, err)
}

func readFile(path string, most int64) ([]byte, error) {
	// Before it is opened: to open a pipe waits for its other end.
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("not a regular file (%s)", info.Mode().Type())
	}
	f, err := os.Open(path) //nolint:gosec // named in the configuration
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		return nil, fmt.Errorf("larger than %d bytes", most)
	}
	return data, err
}

// named puts the path into an error that lacks it.
func named(op, path string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := err.(*fs.PathError); ok { //nolint:errorlint // its own words name the path
		return err
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}
