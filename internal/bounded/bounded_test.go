package bounded

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReadFileRefusesLargeAndIrregularFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadFile(t.Context(), path, 5); err != nil || string(got) != "12345" {
		t.Errorf("%q, %v", got, err)
	}
	if info, err := Stat(t.Context(), path); err != nil || info.Size() != 5 {
		t.Errorf("%v, %v", info, err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{path: "larger than 4 bytes", pipe: "not a regular file", dir: "not a regular file", filepath.Join(dir, "none"): "no such file"} {
		_, err := ReadFile(t.Context(), path, 4)
		if pe, ok := errors.AsType[*fs.PathError](err); !ok || pe.Path != path || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := ReadFile(t.Context(), filepath.Join(dir, "none"), 4); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestOpenOfAPipeEndsWithTheContext: it blocks in the kernel, where no context reaches.
func TestOpenOfAPipeEndsWithTheContext(t *testing.T) {
	open := func(pipe string) func() ([]byte, error) {
		return func() ([]byte, error) { return os.ReadFile(pipe) }
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Call(ctx, pipe, open(pipe)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	_, err := call(t.Context(), pipe, 50*time.Millisecond, open(pipe))
	if _, ok := errors.AsType[*HangError](err); !ok || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) { // let both return
		abandoned.Lock()
		n := len(abandoned.calls)
		abandoned.Unlock()
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("a call that returned is still counted")
		}
		if w, err := os.OpenFile(pipe, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			_ = w.Close() // its readers see the end
		}
	}
}

// TestCallsFailAtOnceWhileOneHangs: while a call hangs others of its key fail at once, and only now
// and then one is tried; once it returns all is as before.
func TestCallsFailAtOnceWhileOneHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var called atomic.Int64
		hang := func() (int, error) { called.Add(1); <-release; return 1, nil }
		for range 10 * 60 {
			_, err := Call(t.Context(), "k", hang)
			if _, ok := errors.AsType[*HangError](err); !ok {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if called := called.Load(); called < 3 || called > 7 { // in ten minutes: after 0, 30, 90, 180, 300, 450 s
			t.Errorf("called %d times", called)
		}
		if got, err := Call(t.Context(), "other", func() (int, error) { return 2, nil }); got != 2 || err != nil {
			t.Errorf("another key: %d, %v", got, err)
		}
		close(release)
		synctest.Wait()
		if got, err := Call(t.Context(), "k", hang); got != 1 || err != nil {
			t.Errorf("after it returned: %d, %v", got, err)
		}
		if len(abandoned.calls) > 0 {
			t.Errorf("still kept: %v", abandoned.calls)
		}
	})
}

// TestCallWhoseContextEndedIsNoHang: a call whose context ends, as at each end of a request, is no
// proof that the next one hangs.
func TestCallWhoseContextEndedIsNoHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		slow := func() (int, error) { time.Sleep(2 * time.Second); return 1, nil }
		if _, err := Call(ctx, "k", slow); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if got, err := Call(t.Context(), "k", slow); got != 1 || err != nil {
			t.Errorf("%d, %v", got, err)
		}
	})
}
