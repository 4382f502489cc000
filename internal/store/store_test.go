package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"go.uber.org/goleak"
)

// childEnv turns the test binary into one of the processes in children, which
// the tests start, kill and starve.
const childEnv = "STORE_TEST_CHILD"

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		os.Exit(children[name](os.Args[len(os.Args)-1]))
	}
	goleak.VerifyTestMain(m)
}

// open takes the folder at path ("": memory) until the test ends.
func open(tb testing.TB, path string, change ...func(*Options)) *Folder {
	tb.Helper()
	opts := Options{Path: path, Layout: 1}
	for _, c := range change {
		c(&opts)
	}
	f, err := Open(tb.Context(), opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := f.Close(); err != nil {
			tb.Error(err)
		}
	})
	return f
}

func openState(tb testing.TB, f *Folder, name string) *State {
	tb.Helper()
	s, err := f.Open(name, "https://"+strings.ToLower("gitlab.example.com"))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func closeState(tb testing.TB, s *State) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Fatal(err)
	}
}

func commit(tb testing.TB, s *State, b Batch) {
	tb.Helper()
	if err := s.Commit(b); err != nil {
		tb.Fatal(err)
	}
}

// records loads all records.
func records(tb testing.TB, s *State) map[string]string {
	tb.Helper()
	got := map[string]string{}
	err := s.Load(func(key, value []byte) error {
		if _, ok := got[string(key)]; ok {
			tb.Errorf("key %q twice", key)
		}
		got[string(key)] = string(value)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return got
}

func wantRecords(tb testing.TB, s *State, want map[string]string) {
	tb.Helper()
	if got := records(tb, s); !maps.Equal(got, want) {
		tb.Fatalf("%d records, want %d, or other values", len(got), len(want))
	}
}

func put(kv ...string) Batch {
	var b Batch
	for pair := range slices.Chunk(kv, 2) {
		b.Put = append(b.Put, Record{Key: []byte(pair[0]), Value: []byte(pair[1])})
	}
	return b
}

// both runs a test in memory and on disk, which must not differ.
func both(t *testing.T, test func(t *testing.T, path string)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) { test(t, "") })
	t.Run("disk", func(t *testing.T) { test(t, filepath.Join(t.TempDir(), "a", "data")) })
}

func TestRecordsOutliveClose(t *testing.T) {
	both(t, func(t *testing.T, path string) {
		t.Helper()
		f := open(t, path)
		s := openState(t, f, "corp")
		wantRecords(t, s, map[string]string{})
		commit(t, s, put("b", "2", "a", "1", "c", ""))
		commit(t, s, Batch{Delete: [][]byte{[]byte("a"), []byte("never there"), []byte("b")}, Put: put("b", "3", "b", "4").Put})
		commit(t, s, Batch{})
		want := map[string]string{"b": "4", "c": ""}
		wantRecords(t, s, want)
		closeState(t, s)
		closeState(t, s)
		for _, err := range []error{s.Commit(put("x", "y")), s.Load(func(_, _ []byte) error { return nil })} {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("closed state: %v", err)
			}
		}
		s = openState(t, f, "corp")
		wantRecords(t, s, want)
		if s.Quarantined() != "" {
			t.Errorf("quarantined %q", s.Quarantined())
		}
		wantRecords(t, openState(t, f, "other"), map[string]string{})
		if _, err := f.Open("corp", "https://gitlab.example.com"); err == nil || !strings.Contains(err.Error(), "already open") {
			t.Errorf("second open of a name: %v", err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Open("corp", "https://gitlab.example.com"); !errors.Is(err, ErrClosed) {
			t.Errorf("open in a closed folder: %v", err)
		}
		if path == "" {
			return
		}
		wantRecords(t, openState(t, open(t, path), "corp"), want)
	})
}

// What Load hands out and what Commit was given must not be shared with the store.
func TestSlicesAreNotShared(t *testing.T) {
	both(t, func(t *testing.T, path string) {
		t.Helper()
		s := openState(t, open(t, path), "corp")
		key, value := []byte("key"), []byte("value")
		commit(t, s, Batch{Put: []Record{{Key: key, Value: value}}})
		key[0], value[0] = 'X', 'X'
		var kept [][]byte
		if err := s.Load(func(key, value []byte) error {
			kept = append(kept, key, value)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		closeState(t, s)
		if got := string(bytes.Join(kept, []byte("="))); got != "key=value" {
			t.Errorf("kept %q", got)
		}
		kept[1][0] = 'X' // on disk: a fault if it were the map
	})
}

func TestLoadEndsAtTheCallersError(t *testing.T) {
	both(t, func(t *testing.T, path string) {
		t.Helper()
		s := openState(t, open(t, path), "corp")
		var b Batch
		for i := range 2500 {
			b.Put = append(b.Put, put(fmt.Sprintf("%04d", i), "v").Put...)
		}
		commit(t, s, b)
		if got := records(t, s); len(got) != 2500 {
			t.Fatalf("%d records", len(got))
		}
		stop, calls := errors.New("stop"), 0
		err := s.Load(func(_, _ []byte) error {
			if calls++; calls == 1200 {
				return stop
			}
			return nil
		})
		if !errors.Is(err, stop) || calls != 1200 {
			t.Errorf("%v after %d", err, calls)
		}
		// A fault of the caller is not taken for damage of the file.
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the caller's panic was swallowed")
				}
			}()
			_ = s.Load(func(_, _ []byte) error { panic("a bug") })
		}()
	})
}

func TestUnstorableRecordsAreRefused(t *testing.T) {
	both(t, func(t *testing.T, path string) {
		t.Helper()
		s := openState(t, open(t, path), "corp")
		commit(t, s, put("a", "1", strings.Repeat("k", maxKey), strings.Repeat("v", 1<<20)))
		for _, key := range []string{"", strings.Repeat("k", maxKey+1)} {
			err := s.Commit(put("b", "2", key, "x"))
			if _, ok := errors.AsType[*RecordError](err); !ok {
				t.Errorf("a key of %d bytes: %v", len(key), err)
			}
			if Storable([]byte(key), nil) == nil {
				t.Errorf("a key of %d bytes is called storable", len(key))
			}
		}
		if got := records(t, s); len(got) != 2 || got["a"] != "1" {
			t.Errorf("a refused batch left %d records", len(got))
		}
	})
}

// Any history of batches, reopened now and then, must leave what a map has.
func TestStoreEqualsAMap(t *testing.T) {
	both(t, func(t *testing.T, path string) {
		t.Helper()
		for seed := range uint64(4) {
			rnd := random(seed, 1)
			f := open(t, path)
			name := fmt.Sprintf("gitlab-%d", seed)
			s := openState(t, f, name)
			model := map[string]string{}
			for range 60 {
				b := randomBatch(rnd)
				apply(model, b)
				commit(t, s, b)
				if rnd.IntN(6) == 0 {
					closeState(t, s)
					s = openState(t, f, name)
				}
				if rnd.IntN(6) == 0 {
					wantRecords(t, s, model)
				}
			}
			wantRecords(t, s, model)
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// randomBatch has few keys, so that they meet, and values of every size up to
// several pages.
func randomBatch(rnd *rand.Rand) Batch {
	var b Batch
	key := func() []byte { return fmt.Appendf(nil, "%0*d", 3+rnd.IntN(2)*40, rnd.IntN(300)) }
	for range rnd.IntN(40) {
		b.Put = append(b.Put, Record{Key: key(), Value: noise(rnd, rnd.IntN(1<<rnd.IntN(14)))})
	}
	for range rnd.IntN(30) {
		b.Delete = append(b.Delete, key())
	}
	return b
}

func apply(model map[string]string, b Batch) {
	for _, key := range b.Delete {
		delete(model, string(key))
	}
	for _, r := range b.Put {
		model[string(r.Key)] = string(r.Value)
	}
}

func TestStateOfAnotherGitLabIsRefused(t *testing.T) {
	both(t, func(t *testing.T, path string) {
		t.Helper()
		f := open(t, path)
		s, err := f.Open("corp", "https://user:secret@GitLab.example.com/root/")
		if err != nil {
			t.Fatal(err)
		}
		commit(t, s, put("a", "1"))
		closeState(t, s)
		for _, same := range []string{"http://gitlab.example.com/root", "https://gitlab.EXAMPLE.com:443/root//", "https://gitlab.example.com/root?x=y"} {
			s, err := f.Open("corp", same)
			if err != nil {
				t.Fatalf("%s: %v", same, err)
			}
			wantRecords(t, s, map[string]string{"a": "1"})
			closeState(t, s)
		}
		for _, other := range []string{"https://gitlab.example.com", "https://gitlab.example.com/ROOT", "https://gitlab.example.com:8443/root", "https://gitlab.example.org/root"} {
			_, err := f.Open("corp", other)
			var foreign *ForeignError
			if !errors.As(err, &foreign) {
				t.Fatalf("%s: %v", other, err)
			}
			if foreign.Have != "gitlab.example.com/root" || !strings.Contains(err.Error(), foreign.Have) || !strings.Contains(err.Error(), foreign.Want) ||
				!strings.Contains(err.Error(), "another name") || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v", err)
			}
		}
		for _, bad := range []string{"", "gitlab.example.com", "https://", "https://u:secret@[::1", "://secret"} {
			if _, err := f.Open("corp", bad); err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("address %q: %v", bad, err)
			}
		}
		if _, err := f.Open("", "https://gitlab.example.com"); err == nil {
			t.Error("a state without a name")
		}
		if path == "" {
			return
		}
		// The password is not on disk either.
		if bytes.Contains(read(t, filepath.Join(path, fileName("corp"))), []byte("secret")) {
			t.Error("the password is in the file")
		}
		// A file copied under another's name.
		copyFile(t, filepath.Join(path, fileName("corp")), filepath.Join(path, fileName("copy")))
		var foreign *ForeignError
		if _, err := f.Open("copy", "https://gitlab.example.com/root"); !errors.As(err, &foreign) || !strings.Contains(err.Error(), `"corp"`) {
			t.Errorf("copied file: %v", err)
		}
	})
}

func TestNewerLayoutIsRefused(t *testing.T) {
	if _, err := Open(t.Context(), Options{}); err == nil {
		t.Error("a folder without a layout")
	}
	path := t.TempDir()
	file := filepath.Join(path, fileName("corp"))
	f := open(t, path, func(o *Options) { o.Layout = 2 })
	s := openState(t, f, "corp")
	commit(t, s, put("a", "1"))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	before := read(t, file)
	f = open(t, path)
	var newer *NewerError
	if _, err := f.Open("corp", "https://gitlab.example.com"); !errors.As(err, &newer) || !strings.Contains(err.Error(), "layout 2") || !strings.Contains(err.Error(), "up to 1") {
		t.Errorf("newer layout: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, read(t, file)) {
		t.Error("a refused file was changed")
	}
	wantRecords(t, openState(t, open(t, path, func(o *Options) { o.Layout = 2 }), "corp"), map[string]string{"a": "1"})
}

// A file of an older layout is put aside whole, with one warning that names it,
// and a fresh one is begun. It is kept as long as a damaged one.
func TestOlderLayoutIsPutAside(t *testing.T) {
	path := t.TempDir()
	file := filepath.Join(path, fileName("corp"))
	f := open(t, path)
	commit(t, openState(t, f, "corp"), put("a", "1"))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	before := read(t, file)
	now := time.Now()
	var logged bytes.Buffer
	f = open(t, path, func(o *Options) {
		o.Layout, o.Logger, o.Now = 2, log.NewLogfmtLogger(&logged), func() time.Time { return now }
	})
	// Another GitLab's file is refused whatever its layout.
	var foreign *ForeignError
	if _, err := f.Open("corp", "https://gitlab.example.org"); !errors.As(err, &foreign) {
		t.Errorf("another address: %v", err)
	}
	s := openState(t, f, "corp")
	wantRecords(t, s, map[string]string{})
	if s.Quarantined() != "" {
		t.Errorf("called damaged: %s", s.Quarantined())
	}
	commit(t, s, put("b", "2"))
	closeState(t, s)
	kept, err := filepath.Glob(file + ".older-*")
	if err != nil || len(kept) != 1 || !bytes.Equal(before, read(t, kept[0])) {
		t.Fatalf("kept are %q, %v", kept, err)
	}
	line := logged.String()
	if strings.Count(line, "\n") != 1 || !strings.Contains(line, "level=warn") || !strings.Contains(line, kept[0]) || !strings.Contains(line, "layout 1") {
		t.Errorf("logged: %s", line)
	}
	// The next start has nothing to report.
	logged.Reset()
	wantRecords(t, openState(t, f, "corp"), map[string]string{"b": "2"})
	if logged.Len() > 0 {
		t.Errorf("logged again: %s", &logged)
	}
	for _, after := range []time.Duration{29 * 24 * time.Hour, 2 * 24 * time.Hour} {
		now = now.Add(after)
		if err := f.Prune([]string{"corp"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(kept[0]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still there after 31 days: %v", err)
	}
}

// A newer release may keep more in the file than this one reads. That is not
// damage: put aside, a downgrade tried by mistake would cost all counters.
func TestNewerFormatIsNotDamage(t *testing.T) {
	path := t.TempDir()
	f := open(t, path)
	closeState(t, openState(t, f, "corp"))
	ofRelease(t, filepath.Join(path, fileName("corp")), func(id *identity) { id.Format = 9 }, "changes of the future")
	var newer *NewerError
	if _, err := f.Open("corp", "https://gitlab.example.com"); !errors.As(err, &newer) || !strings.Contains(err.Error(), "format 9") {
		t.Errorf("%v", err)
	}
	ofRelease(t, filepath.Join(path, fileName("corp")), func(id *identity) { id.Format = 0 })
	closeState(t, openState(t, f, "corp"))
	if kept, err := filepath.Glob(filepath.Join(path, "*.older-*")); len(kept) != 1 {
		t.Errorf("an older format: kept are %q, %v", kept, err)
	}
}

func TestEachNameHasItsOwnFile(t *testing.T) {
	names := []string{
		"corp", "Corp", "CORP", "..", ".", "a/b", `a\b`, "a%2fb", "a%2Fb", "..db", "lock", "x.db", "x.db.damaged-20260101T000000Z", "x.db.new",
		"ünïcode", "u\u0308", "ü", " ", "a b", "a\x00b", "\n", "~", "con", strings.Repeat("x", 99), strings.Repeat("x", 101), strings.Repeat("x", 200), strings.Repeat("x", 201),
		strings.Repeat("/", 50), strings.Repeat("/", 51), "gitlab.example.com:8443",
	}
	names = append(names, strings.TrimSuffix(fileName(strings.Repeat("x", 200)), fileExt)) // one that looks like a shortened one
	path := t.TempDir()
	f := open(t, path)
	seen := map[string]string{}
	for _, name := range names {
		file := fileName(name)
		if other, ok := seen[strings.ToLower(file)]; ok {
			t.Errorf("%q and %q share the file %q", name, other, file)
		}
		seen[strings.ToLower(file)] = name
		if len(file) > 150 || file[0] == '.' || strings.ContainsAny(file, "/\\\x00") || !strings.HasSuffix(file, fileExt) {
			t.Errorf("%q is kept in %q", name, file)
		}
		commit(t, openState(t, f, name), put("name", name))
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = open(t, path)
	for _, name := range names {
		wantRecords(t, openState(t, f, name), map[string]string{"name": name})
	}
	entries, err := os.ReadDir(path)
	if err != nil || len(entries) != len(names)+1 {
		t.Errorf("%d files for %d names and a lock: %v", len(entries), len(names), err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
		}
	}
}

func FuzzFileName(f *testing.F) {
	f.Add("corp", "Corp")
	f.Add("a/b", "a%2fb")
	f.Add(strings.Repeat("x", 120), strings.Repeat("x", 121))
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := fileName(a), fileName(b)
		if a != b && strings.EqualFold(x, y) {
			t.Errorf("%q and %q share %q", a, b, x)
		}
		if len(x) > 150 || x[0] == '.' || strings.ContainsAny(x, "/\\\x00") {
			t.Errorf("%q is kept in %q", a, x)
		}
	})
}

func TestFolderIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	open(t, path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestPruneRemovesOnlyOldFilesOfOurs(t *testing.T) {
	path := t.TempDir()
	now := time.Now()
	var logged bytes.Buffer
	f := open(t, path, func(o *Options) {
		o.Now = func() time.Time { return now }
		o.Logger = log.NewLogfmtLogger(&logged)
	})
	for _, name := range []string{"kept", "dropped", "Dropped/2"} {
		s := openState(t, f, name)
		commit(t, s, put("name", name))
		closeState(t, s)
	}
	inUse := openState(t, f, "open")
	// What is not ours: never touched, however old.
	old := now.Add(-1000 * 24 * time.Hour)
	for _, other := range []string{"notes.txt", "other.db", "other.db.damaged-by-me", "x.db.new"} {
		if err := os.WriteFile(filepath.Join(path, other), []byte("not ours"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, filepath.Join(path, fileName("kept")), filepath.Join(path, "backup.db"))
	if err := os.Mkdir(filepath.Join(path, "folder.db"), 0o700); err != nil {
		t.Fatal(err)
	}
	strangers := []string{"notes.txt", "other.db", "other.db.damaged-by-me", "x.db.new", "backup.db", "folder.db", lockName}
	for _, other := range strangers {
		if err := os.Chtimes(filepath.Join(path, other), old, old); err != nil {
			t.Fatal(err)
		}
	}
	// One that is put aside.
	if err := os.WriteFile(filepath.Join(path, fileName("broken")), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := openState(t, f, "broken")
	aside := filepath.Base(broken.Quarantined())

	day := 24 * time.Hour
	expect := func(after time.Duration, want ...string) {
		t.Helper()
		now = now.Add(after)
		if err := f.Prune([]string{"kept", "broken"}); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		want = append(want, strangers...)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("after %s:\n%q, want\n%q", after, got, want)
		}
	}
	expect(29*day, fileName("kept"), fileName("dropped"), fileName("Dropped/2"), fileName("open"), fileName("broken"), aside)
	// Opened once more, counted from then.
	closeState(t, openState(t, f, "dropped"))
	expect(2*day, fileName("kept"), fileName("dropped"), fileName("open"), fileName("broken"))
	if !strings.Contains(logged.String(), fileName("Dropped/2")) {
		t.Errorf("the removal is not logged: %s", &logged)
	}
	expect(29*day, fileName("kept"), fileName("open"), fileName("broken"))
	wantRecords(t, inUse, map[string]string{})
	lastUse := func(when string) {
		t.Helper()
		if info, err := os.Stat(filepath.Join(path, fileName("open"))); err != nil || info.ModTime().Sub(now).Abs() > time.Millisecond {
			t.Errorf("%s: last use %v, now %v, %v", when, info.ModTime(), now, err)
		}
	}
	lastUse("open while pruning, and then perhaps killed")
	now = now.Add(time.Hour)
	closeState(t, inUse)
	lastUse("closed")
	expect(29*day, fileName("kept"), fileName("open"), fileName("broken"))
	expect(2*day, fileName("kept"), fileName("broken"))
	wantRecords(t, openState(t, f, "kept"), map[string]string{"name": "kept"})
	if err := open(t, "").Prune(nil); err != nil {
		t.Error(err)
	}
}

func TestFolderBelongsToOneProcess(t *testing.T) {
	path := t.TempDir()
	first := open(t, path)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, err := Open(t.Context(), Options{Path: path, Layout: 1})
		if !errors.Is(err, ErrLocked) || time.Since(start) != lockTimeout {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		for _, word := range []string{path, "another process", fmt.Sprintf("pid %d", os.Getpid()), "10s", "--storage.path"} {
			if !strings.Contains(fmt.Sprint(err), word) {
				t.Errorf("%q is not in: %v", word, err)
			}
		}
		start = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := Open(ctx, Options{Path: path, Layout: 1}); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrLocked) || time.Since(start) != 3*time.Second {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		// It takes over as soon as the first leaves.
		time.AfterFunc(4*time.Second, func() {
			if err := first.Close(); err != nil {
				t.Error(err)
			}
		})
		start = time.Now()
		second, err := Open(t.Context(), Options{Path: path, Layout: 1})
		if err != nil || time.Since(start) > 5*time.Second {
			t.Fatalf("%v after %s", err, time.Since(start))
		}
		if err := second.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestFolderThatIsAFileIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Options{Path: path, Layout: 1}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
}

// Removed, replaced or renamed beneath us: reported at once, and not only by the
// restart that reads nothing.
func TestVanishedFileIsReportedAtOnce(t *testing.T) {
	path := t.TempDir()
	file := filepath.Join(path, fileName("corp"))
	f := open(t, path)
	s := openState(t, f, "corp")
	commit(t, s, put("a", "1"))
	aside := file + ".moved"
	if err := os.Rename(file, aside); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(put("a", "2")); !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), file) {
		t.Errorf("moved: %v", err)
	}
	if err := os.WriteFile(file, []byte("someone else's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(put("a", "2")); !errors.Is(err, ErrGone) {
		t.Errorf("replaced: %v", err)
	}
	if err := os.Rename(aside, file); err != nil {
		t.Fatal(err)
	}
	commit(t, s, put("a", "3"))
	wantRecords(t, s, map[string]string{"a": "3"})
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(put("a", "4")); !errors.Is(err, ErrGone) {
		t.Errorf("folder removed: %v", err)
	}
	closeState(t, s)
	if _, err := f.Open("corp", "https://gitlab.example.com"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open without a folder: %v", err)
	}
	if err := f.Prune(nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("prune without a folder: %v", err)
	}
}

func TestManyStatesMayBeUsedAtOnce(t *testing.T) {
	both(t, func(t *testing.T, path string) {
		t.Helper()
		f := open(t, path)
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				name := strconv.Itoa(g)
				for i := range 5 {
					s, err := f.Open(name, "https://gitlab.example.com")
					if err != nil {
						t.Error(err)
						return
					}
					if err := s.Commit(put(strconv.Itoa(i), name)); err != nil {
						t.Error(err)
					}
					if n := len(records(t, s)); n != i+1 {
						t.Errorf("%d records, want %d", n, i+1)
					}
					if err := errors.Join(f.Prune(nil), s.Close()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	})
}

func copyFile(tb testing.TB, from, to string) {
	tb.Helper()
	write(tb, to, read(tb, from))
}

func read(tb testing.TB, path string) []byte {
	tb.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func write(tb testing.TB, path string, data []byte) {
	tb.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		tb.Fatal(err)
	}
}

// random repeats itself for the same seeds.
func random(a, b uint64) *rand.Rand {
	return rand.New(rand.NewPCG(a, b))
}

func noise(rnd *rand.Rand, n int) []byte {
	out := make([]byte, 0, n+8)
	for len(out) < n {
		out = binary.LittleEndian.AppendUint64(out, rnd.Uint64())
	}
	return out[:n]
}

// TestLastPutWins: a batch may hold a key many times, in any order of keys.
func TestLastPutWins(t *testing.T) {
	both(t, func(t *testing.T, path string) {
		t.Helper()
		f := open(t, path)
		s := openState(t, f, "corp")
		var kv []string
		want := map[string]string{}
		for i := range 500 {
			key, value := fmt.Sprint("key-", (i*7)%13), fmt.Sprint("value-", i)
			kv = append(kv, key, value)
			want[key] = value
		}
		b := put(kv...)
		commit(t, s, b)
		wantRecords(t, s, want)
		if string(b.Put[0].Value) != "value-0" || string(b.Put[499].Value) != "value-499" {
			t.Error("the caller's batch was reordered")
		}
		closeState(t, s)
	})
}

// ofRelease makes the file one of another release, with payloads that this one
// may not know.
func ofRelease(tb testing.TB, file string, change func(*identity), payloads ...string) {
	tb.Helper()
	f, _, id, err := readIdentity(file, os.O_RDONLY)
	if err != nil {
		tb.Fatal(err)
	}
	change(&id)
	first, err := json.Marshal(id)
	if err = errors.Join(err, f.Close()); err != nil {
		tb.Fatal(err)
	}
	data, chain := make([]byte, headerSize), uint32(0)
	for _, p := range append([]string{string(first)}, payloads...) {
		var frame []byte
		frame, chain = encodeFrame(chain, []byte(p))
		data = append(data, frame...)
	}
	copy(data, encodeHeader(headerSize, int64(len(data))))
	write(tb, file, data)
}
