package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// children are what this test binary does as a process of its own. arg is the
// storage folder.
var children = map[string]func(arg string) int{
	"hold":     childHold,
	"commit":   childCommit,
	"full":     childFull,
	"readonly": childReadOnly,
}

// start runs one of them; its standard input closes with the test at the latest.
func start(t *testing.T, child, arg string) (cmd *exec.Cmd, lines *bufio.Scanner, stdin io.Closer) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), os.Args[0], arg)
	cmd.Env = append(os.Environ(), childEnv+"="+child)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out), in
}

// run lets a child that judges for itself come to its end.
func run(t *testing.T, child, arg string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], arg)
	cmd.Env = append(os.Environ(), childEnv+"="+child)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func report(args ...any) { _, _ = fmt.Fprintln(os.Stdout, args...) }

func fail(args ...any) int {
	fmt.Fprintln(os.Stderr, args...)
	return 1
}

func childHold(path string) int {
	f, err := Open(context.Background(), Options{Path: path, Layout: 1})
	if err != nil {
		return fail(err)
	}
	report("held")
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := f.Close(); err != nil {
		return fail(err)
	}
	return 0
}

// The lock is between processes, and a killed one leaves none behind.
func TestAnotherProcessHoldsTheFolder(t *testing.T) {
	path := t.TempDir()
	cmd, lines, stdin := start(t, "hold", path)
	defer func() { _ = stdin.Close() }()
	if !lines.Scan() || lines.Text() != "held" {
		t.Fatalf("child reported %q", lines.Text())
	}
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		_, err := Open(t.Context(), Options{Path: path, Layout: 1})
		if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", cmd.Process.Pid)) || time.Since(begin) != lockTimeout {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed: its status is no news
	openState(t, open(t, path), "corp")
}

// step is the batch of one commit in the life of childCommit: counters that
// move together, a chunk that is added, one that is forgotten.
func step(n int) Batch {
	rnd := random(uint64(n), 1)
	var b Batch
	for i := range 20 {
		b.Put = append(b.Put, put(fmt.Sprintf("counter/%d", i*(1+rnd.IntN(3))), strconv.Itoa(n)).Put...)
	}
	b.Put = append(b.Put, put(fmt.Sprintf("chunk/%06d", n), strings.Repeat("x", rnd.IntN(6000)), "n", strconv.Itoa(n)).Put...)
	if n > 30 {
		b.Delete = [][]byte{fmt.Appendf(nil, "chunk/%06d", n-30)}
	}
	return b
}

// childCommit goes on from where the state stands and names each commit once it
// has returned.
func childCommit(path string) int {
	f, err := Open(context.Background(), Options{Path: path, Layout: 1})
	if err != nil {
		return fail(err)
	}
	s, err := f.Open("corp", "https://gitlab.example.com")
	if err != nil {
		return fail(err)
	}
	s.backend.(*diskState).slack = 1 << 16 // rewritten, and killed meanwhile, more often
	n := 0
	if err := s.Load(func(key, value []byte) error {
		if string(key) == "n" {
			n, err = strconv.Atoi(string(value))
		}
		return err
	}); err != nil {
		return fail(err)
	}
	report("open")
	for {
		n++
		if err := s.Commit(step(n)); err != nil {
			return fail(err)
		}
		report(n)
	}
}

// Killed at any moment, creation included, the state is that after some commit,
// and no older than the last one that returned.
func TestKillLeavesTheStateOfACommit(t *testing.T) {
	path := t.TempDir()
	model, done := map[string]string{}, 0
	rnd := random(uint64(time.Now().UnixNano()), 1)
	for round := range 25 {
		cmd, lines, stdin := start(t, "commit", path)
		delay := time.Duration(rnd.IntN(60)) * time.Millisecond
		acked := make(chan int)
		go func() {
			last := 0
			timer := (*time.Timer)(nil)
			if round%3 == 0 { // at once: while it starts and creates
				timer = time.AfterFunc(delay, func() { _ = cmd.Process.Kill() })
			}
			for lines.Scan() {
				n, err := strconv.Atoi(lines.Text())
				if err == nil {
					last = n
				}
				if timer == nil { // from the first commit on
					timer = time.AfterFunc(delay, func() { _ = cmd.Process.Kill() })
				}
			}
			acked <- last
		}()
		last := <-acked
		_ = cmd.Wait()
		_ = stdin.Close()
		f := open(t, path)
		s := openState(t, f, "corp")
		if s.Quarantined() != "" {
			t.Fatalf("round %d: a kill damaged the file", round)
		}
		got := records(t, s)
		n, _ := strconv.Atoi(got["n"])
		if n < last || n < done {
			t.Fatalf("round %d: back at commit %d, %d had returned, %d was seen", round, n, last, done)
		}
		for done < n {
			done++
			apply(model, step(done))
		}
		wantRecords(t, s, model)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if done < 25 {
		t.Errorf("only %d commits", done)
	}
	t.Logf("%d commits", done)
}

// full fills a state until Commit fails, and demands that it then stands where
// the last commit left it, now and for a reader of the file, and goes on once
// there is room.
func full(s *State, path string, room func()) error {
	value := bytes.Repeat([]byte("x"), 3000)
	batch := func(n int) Batch {
		b := put("n", strconv.Itoa(n))
		for i := range 20 {
			b.Put = append(b.Put, Record{Key: fmt.Appendf(nil, "%06d/%d", n, i), Value: value})
		}
		return b
	}
	count := func() (n, records int, err error) {
		err = s.Load(func(key, value []byte) error {
			records++
			if string(key) == "n" {
				n, err = strconv.Atoi(string(value))
			}
			return err
		})
		return n, records, err
	}
	n := 0
	var err error
	for err == nil && n < 1000 {
		n++
		err = s.Commit(batch(n))
	}
	if err == nil || n < 2 {
		return fmt.Errorf("commit %d: %w", n, err)
	}
	report("full:", err)
	for range 3 { // it fails as often as it is tried, and does no harm
		if err := s.Commit(batch(n)); err == nil {
			return errors.New("a commit found room")
		}
		if at, records, err := count(); err != nil || at != n-1 || records != (n-1)*20+1 {
			return fmt.Errorf("after the failure: at commit %d of %d with %d records: %w", at, n-1, records, err)
		}
	}
	other := newDisk(filepath.Join(path, fileName("corp")))
	if err := errors.Join(other.open(), other.close()); err != nil {
		return fmt.Errorf("the file on disk: %w", err)
	}
	// What the failed commit took of the disk was freed.
	if err := s.Commit(put("small", "1")); err != nil {
		return fmt.Errorf("a small commit: %w", err)
	}
	room()
	for range 3 {
		if err := s.Commit(batch(n)); err != nil {
			return fmt.Errorf("with room again: %w", err)
		}
		n++
	}
	if at, _, err := count(); err != nil || at != n-1 {
		return fmt.Errorf("with room again: at commit %d of %d: %w", at, n-1, err)
	}
	return nil
}

func childFull(path string) int {
	signal.Ignore(syscall.SIGXFSZ) // or the kernel ends the process instead of failing the write
	f, err := Open(context.Background(), Options{Path: path, Layout: 1})
	if err != nil {
		return fail(err)
	}
	s, err := f.Open("corp", "https://gitlab.example.com")
	if err != nil {
		return fail(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return fail(err)
	}
	small := limit
	small.Cur = 1 << 20
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil {
		return fail(err)
	}
	err = full(s, path, func() { _ = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit) })
	if err := errors.Join(err, f.Close()); err != nil {
		return fail(err)
	}
	return 0
}

// The kernel refuses to let files grow, as a quota does.
func TestCommitWithoutRoomLosesNothing(t *testing.T) {
	path := t.TempDir()
	run(t, "full", path)
	s := openState(t, open(t, path), "corp")
	if s.Quarantined() != "" || len(records(t, s)) == 0 {
		t.Error("nothing left")
	}
}

// childReadOnly has a folder that its user may not write.
func childReadOnly(path string) int {
	if os.Getuid() == 0 { // root may write anywhere
		if err := syscall.Setuid(65534); err != nil {
			return fail(err)
		}
	}
	_, err := Open(context.Background(), Options{Path: path, Layout: 1})
	if !errors.Is(err, os.ErrPermission) {
		return fail("not refused:", err)
	}
	for _, word := range []string{path, "cannot be written", "--storage.path", "permission denied"} {
		if !strings.Contains(err.Error(), word) {
			return fail(word, "is not in:", err)
		}
	}
	return 0
}

func TestReadOnlyFolderIsReported(t *testing.T) {
	path := t.TempDir()
	// Used before, so that a lock lies there.
	f := open(t, path)
	closeState(t, openState(t, f, "corp"))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for dir, mode := range map[string]os.FileMode{filepath.Dir(path): 0o755, path: 0o555, filepath.Join(path, lockName): 0o666} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "readonly", path)
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

// A commit whose confirmation failed, though it is on disk: the next one goes on
// from there, not from what memory held.
func TestCommitFollowsOneThatFailedOnlyForUs(t *testing.T) {
	path := t.TempDir()
	f := open(t, path)
	s := openState(t, f, "corp")
	commit(t, s, put("a", "1"))
	d := s.backend.(*diskState)
	d.abandon()
	other := newDisk(d.path)
	if err := errors.Join(other.open(), other.commit(put("a", "2", "b", "2")), other.close()); err != nil {
		t.Fatal(err)
	}
	commit(t, s, put("a", "3"))
	closeState(t, s)
	s = openState(t, f, "corp")
	if s.Quarantined() != "" {
		t.Error("the sum over the records is wrong")
	}
	wantRecords(t, s, map[string]string{"a": "3", "b": "2"})
}
