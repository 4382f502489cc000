package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/go-kit/log"
	"go.etcd.io/bbolt"
)

// sample makes a state with branches, pages that run over, free pages and both
// small and large records. It returns its file after each commit, with what the
// records then were.
func sample(tb testing.TB, commits int) (files [][]byte, models []map[string]string) {
	tb.Helper()
	path := tb.TempDir()
	f := open(tb, path)
	s := openState(tb, f, "corp")
	rnd := random(7, 7)
	model := map[string]string{}
	for range commits {
		b := randomBatch(rnd)
		apply(model, b)
		commit(tb, s, b)
		files, models = append(files, read(tb, filepath.Join(path, fileName("corp")))), append(models, maps.Clone(model))
	}
	closeState(tb, s)
	return files, models
}

// bench opens damaged files, in this process: whatever kills it fails the test.
type bench struct {
	path   string
	folder *Folder
	logged *bytes.Buffer
	seen   int
}

func newBench(tb testing.TB) *bench {
	tb.Helper()
	b := &bench{path: tb.TempDir(), logged: &bytes.Buffer{}}
	b.folder = open(tb, b.path, func(o *Options) { o.Logger = log.NewLogfmtLogger(b.logged) })
	return b
}

// judge opens data as a state. Either it is put aside as it was, and said so,
// with a fresh state begun; or nothing is lost: the records are those of one
// of the models, now, after a commit, and after a restart.
func (b *bench) judge(tb testing.TB, what string, data []byte, models ...map[string]string) (damaged bool) {
	tb.Helper()
	file := filepath.Join(b.path, fileName("corp"))
	write(tb, file, data)
	b.logged.Reset()
	s, err := b.folder.Open("corp", "https://gitlab.example.com")
	if err != nil {
		tb.Fatalf("%s: %v", what, err)
	}
	want := map[string]string{}
	if aside := s.Quarantined(); aside != "" {
		damaged = true
		b.seen++
		if !bytes.Equal(read(tb, aside), data) {
			tb.Fatalf("%s: was not put aside as it was", what)
		}
		if !strings.Contains(b.logged.String(), aside) || !strings.Contains(b.logged.String(), "level=error") {
			tb.Fatalf("%s: logged %q", what, b.logged)
		}
		if err := os.Remove(aside); err != nil {
			tb.Fatal(err)
		}
		wantRecords(tb, s, want)
	} else {
		got := records(tb, s)
		for _, m := range models {
			if maps.Equal(got, m) {
				want = maps.Clone(m)
			}
		}
		if !maps.Equal(got, want) {
			tb.Fatalf("%s: unseen, and the records are others (%d)", what, len(got))
		}
	}
	add := put("after the damage", strings.Repeat("x", 5000))
	add.Delete = [][]byte{[]byte("000"), []byte("150")}
	apply(want, add)
	commit(tb, s, add)
	closeState(tb, s)
	s = openState(tb, b.folder, "corp")
	if s.Quarantined() != "" {
		tb.Fatalf("%s: damaged only after a commit: %s", what, b.logged)
	}
	wantRecords(tb, s, want)
	closeState(tb, s)
	return damaged
}

func (b *bench) mustSee(tb testing.TB, what string, data []byte) {
	tb.Helper()
	if !b.judge(tb, what, data) {
		tb.Errorf("%s: unseen", what)
	}
}

func pageOf(data []byte, id int) []byte { ps := os.Getpagesize(); return data[id*ps : (id+1)*ps] }

// used is how many pages the newer meta counts.
func used(data []byte) int {
	a, b := pageOf(data, 0)[pageHeader:], pageOf(data, 1)[pageHeader:]
	if u64(b[48:]) > u64(a[48:]) {
		a = b
	}
	return int(u64(a[40:])) //nolint:gosec // some hundreds
}

func TestTruncated(t *testing.T) {
	files, models := sample(t, 12)
	data, model := files[len(files)-1], models[len(models)-1]
	ps := os.Getpagesize()
	b := newBench(t)
	if b.judge(t, "sound", data, model) {
		t.Fatal("a sound file is called damaged: " + b.logged.String())
	}
	for n := range used(data) {
		b.mustSee(t, fmt.Sprintf("cut to %d pages", n), data[:n*ps])
	}
	rnd := random(1, 2)
	for range 50 {
		n := rnd.IntN(used(data) * ps)
		b.mustSee(t, fmt.Sprintf("cut to %d bytes", n), data[:n])
	}
	// Beyond the pages in use nothing is lost.
	b.judge(t, "cut at the end of the pages in use", data[:used(data)*ps], model)
	b.judge(t, "longer", append(bytes.Clone(data), make([]byte, 3*ps)...), model)
}

func TestFlippedBits(t *testing.T) {
	files, models := sample(t, 12)
	data, model := files[len(files)-1], models[len(models)-1]
	ps := os.Getpagesize()
	rnd := random(3, 4)
	b := newBench(t)
	tries := 0
	flip := func(at int) {
		d := bytes.Clone(data)
		d[at] ^= 1 << rnd.IntN(8)
		tries++
		b.judge(t, fmt.Sprintf("flipped byte %d of page %d", at%ps, at/ps), d, model)
	}
	for range 200 {
		flip(rnd.IntN(used(data) * ps))
	}
	// Where the numbers are that bbolt trusts: both metas, and each page's head
	// and first elements.
	for i := range pageHeader + metaSize {
		flip(i)
		flip(ps + i)
	}
	for id := 2; id < used(data); id++ {
		for range 3 {
			flip(id*ps + rnd.IntN(pageHeader+2*element))
		}
	}
	t.Logf("%d of %d seen, the others harmless", b.seen, tries)
	if b.seen < 200 {
		t.Errorf("only %d seen", b.seen)
	}
}

func TestPagesLostOrSwapped(t *testing.T) {
	files, models := sample(t, 12)
	data, model := files[len(files)-1], models[len(models)-1]
	b := newBench(t)
	rnd := random(5, 6)
	for id := range used(data) {
		d := bytes.Clone(data)
		clear(pageOf(d, id))
		b.judge(t, fmt.Sprintf("page %d zeroed", id), d, model)
		d = bytes.Clone(data)
		clear(pageOf(d, id)[os.Getpagesize()/2:])
		b.judge(t, fmt.Sprintf("page %d half zeroed", id), d, model)
		d = bytes.Clone(data)
		copy(pageOf(d, id), noise(rnd, os.Getpagesize()))
		b.judge(t, fmt.Sprintf("page %d of noise", id), d, model)
		other := rnd.IntN(used(data))
		for _, renumber := range []bool{false, true} {
			d = bytes.Clone(data)
			copy(pageOf(d, id), pageOf(data, other))
			copy(pageOf(d, other), pageOf(data, id))
			if renumber {
				copy(pageOf(d, id)[:8], pageOf(data, id))
				copy(pageOf(d, other)[:8], pageOf(data, other))
			}
			b.judge(t, fmt.Sprintf("pages %d and %d swapped, renumbered %t", id, other, renumber), d, model)
		}
	}
	if b.seen < used(data) {
		t.Errorf("only %d seen of %d pages", b.seen, used(data))
	}
}

// A crash of the machine between two commits leaves any part of what was not yet
// flushed. Before the meta is written that is the old state, whole.
func TestTornWrites(t *testing.T) {
	files, models := sample(t, 12)
	rnd := random(8, 9)
	ps := os.Getpagesize()
	b := newBench(t)
	for i := 1; i < len(files); i++ {
		before, after := files[i-1], files[i]
		if grown := len(after) - len(before); grown > 0 {
			before = append(bytes.Clone(before), make([]byte, grown)...)
		}
		for range 4 {
			torn, lied := bytes.Clone(before), bytes.Clone(after)
			for id := 2; id < len(after)/ps; id++ {
				part := rnd.IntN(ps)
				switch rnd.IntN(3) {
				case 0:
					copy(pageOf(torn, id), pageOf(after, id))
					copy(pageOf(lied, id), pageOf(before, id))
				case 1:
					copy(pageOf(torn, id)[:part], pageOf(after, id))
					copy(pageOf(lied, id)[:part], pageOf(before, id))
				}
			}
			if b.judge(t, "data torn, meta not yet written", torn, models[i-1]) {
				t.Errorf("commit %d: a crash before the meta cost the state: %s", i, b.logged)
			}
			// A disk that wrote the meta first.
			b.judge(t, "meta written, data torn", lied, models[i])
		}
		// A disk that wrote the meta, and of the rest nothing.
		d := bytes.Clone(before)
		copy(d[:2*ps], after[:2*ps])
		b.judge(t, "meta alone", d, models[i])
	}
}

// Pages of an older state are sound in themselves. Under a newer meta they are
// seen by the transaction's number, and one leaf alone by the sum over all.
func TestStalePages(t *testing.T) {
	files, models := sample(t, 30)
	ps := os.Getpagesize()
	last := len(files) - 1
	b := newBench(t)
	for i := range last {
		d := bytes.Clone(files[last])
		copy(d[2*ps:], files[i][2*ps:]) // all but the metas
		b.judge(t, fmt.Sprintf("all pages as of commit %d", i), d, models[last])
		for id := 2; id < min(len(files[i]), len(d))/ps; id++ {
			if !bytes.Equal(pageOf(files[i], id), pageOf(files[last], id)) && id%9 == i%9 {
				d := bytes.Clone(files[last])
				copy(pageOf(d, id), pageOf(files[i], id))
				b.judge(t, fmt.Sprintf("page %d as of commit %d", id, i), d, models[last])
			}
		}
	}
	if b.seen < last {
		t.Errorf("only %d seen", b.seen)
	}
}

// Values that are sound each, but not together: what only the sum shows. The file
// itself is written by bbolt and in order.
func TestRecordsGoneOrOld(t *testing.T) {
	begin := func(t *testing.T) string {
		t.Helper()
		path := t.TempDir()
		f := open(t, path)
		s := openState(t, f, "corp")
		commit(t, s, put("a", "5", "b", "5", "c", "x"))
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for what, change := range map[string]func(records *bbolt.Bucket) error{
		"nothing":        func(*bbolt.Bucket) error { return nil },
		"one gone":       func(r *bbolt.Bucket) error { return r.Delete([]byte("c")) },
		"one more":       func(r *bbolt.Bucket) error { return r.Put([]byte("d"), seal(1, []byte("d"), nil)) },
		"another's":      func(r *bbolt.Bucket) error { return r.Put([]byte("c"), r.Get([]byte("a"))) },
		"another layout": func(r *bbolt.Bucket) error { return r.Put([]byte("c"), seal(2, []byte("c"), []byte("x"))) },
		"one flipped": func(r *bbolt.Bucket) error {
			stored := bytes.Clone(r.Get([]byte("c")))
			stored[envelopeSize] ^= 1
			return r.Put([]byte("c"), stored)
		},
		"two old, alike": func(r *bbolt.Bucket) error { // CRCs joined by XOR cancel out here
			return errors.Join(r.Put([]byte("a"), seal(1, []byte("a"), []byte("4"))), r.Put([]byte("b"), seal(1, []byte("b"), []byte("4"))))
		},
	} {
		t.Run(what, func(t *testing.T) {
			path := begin(t)
			edit(t, filepath.Join(path, fileName("corp")), func(tx *bbolt.Tx) error {
				if err := change(tx.Bucket([]byte(bucketRecords))); err != nil {
					return err
				}
				// As if of this transaction, or that alone would be noticed.
				meta := tx.Bucket([]byte(bucketMeta))
				_, payload, _ := unseal([]byte(keySummary), meta.Get([]byte(keySummary)))
				sum, _ := decodeSummary(payload)
				return putSummary(meta, 1, sum, tx)
			})
			s := openState(t, open(t, path), "corp")
			if seen := s.Quarantined() != ""; seen == (what == "nothing") {
				t.Errorf("seen: %t", seen)
			}
		})
	}
	t.Run("a transaction of another tool", func(t *testing.T) {
		path := begin(t)
		edit(t, filepath.Join(path, fileName("corp")), func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte(bucketRecords)).SetSequence(1)
		})
		if openState(t, open(t, path), "corp").Quarantined() == "" {
			t.Error("unseen")
		}
	})
}

// A page that is listed as free while in use: bbolt reads all records well and
// then writes new ones over them.
func TestUsedPageListedFree(t *testing.T) {
	files, models := sample(t, 12)
	data, model := files[len(files)-1], models[len(models)-1]
	b := newBench(t)
	changed := 0
	for id := 2; id < used(data); id++ {
		p := pageOf(data, id)
		if binary.NativeEndian.Uint16(p[8:]) != flagFreelist || binary.NativeEndian.Uint16(p[10:]) == 0 {
			continue
		}
		for page := 2; page < used(data); page++ {
			d := bytes.Clone(data)
			binary.NativeEndian.PutUint16(pageOf(d, id)[10:], 1)
			binary.NativeEndian.PutUint64(pageOf(d, id)[pageHeader:], uint64(page))
			b.judge(t, fmt.Sprintf("page %d in the list %d", page, id), d, model)
			changed++
		}
	}
	if changed == 0 || b.seen == 0 {
		t.Fatalf("%d changed, %d seen", changed, b.seen)
	}
}

// A branch that leads back to itself: bbolt's cursor would follow it for ever,
// which no recover ends.
func TestCircle(t *testing.T) {
	files, _ := sample(t, 12)
	data := files[len(files)-1]
	b := newBench(t)
	found := 0
	for id := 2; id < used(data); id++ {
		p := pageOf(data, id)
		if binary.NativeEndian.Uint16(p[8:]) != flagBranch || u64(p) != uint64(id) {
			continue
		}
		found++
		d := bytes.Clone(data)
		binary.NativeEndian.PutUint64(pageOf(d, id)[pageHeader+8:], uint64(id))
		b.judge(t, fmt.Sprintf("page %d is its own child", id), d, mapOf(t, data))
	}
	if found == 0 || b.seen == 0 {
		t.Errorf("%d branches, %d seen", found, b.seen)
	}
}

// mapOf reads the records of a sound file.
func mapOf(tb testing.TB, data []byte) map[string]string {
	tb.Helper()
	path := tb.TempDir()
	if err := os.WriteFile(filepath.Join(path, fileName("corp")), data, 0o600); err != nil {
		tb.Fatal(err)
	}
	return records(tb, openState(tb, open(tb, path), "corp"))
}

func TestWhatIsNoState(t *testing.T) {
	b := newBench(t)
	b.mustSee(t, "empty", nil)
	b.mustSee(t, "one byte", []byte{0})
	b.mustSee(t, "text", []byte("not a database\n"))
	b.mustSee(t, "a long text", bytes.Repeat([]byte("not a database\n"), 10000))
	b.mustSee(t, "zeros", make([]byte, 1<<16))

	path := filepath.Join(t.TempDir(), "other")
	for _, bucket := range []string{"other", bucketMeta} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		edit(t, path, func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte(bucket))
			return err
		})
		b.mustSee(t, "a database of another program", read(t, path))
	}

	// Things that are no files: put aside as well; opening a pipe would hang.
	file := filepath.Join(b.path, fileName("corp"))
	for what, begin := range map[string]func() error{
		"folder": func() error {
			return errors.Join(os.Mkdir(file, 0o700), os.WriteFile(filepath.Join(file, "inside"), nil, 0o600))
		},
		"pipe": func() error { return syscall.Mkfifo(file, 0o600) },
	} {
		if err := errors.Join(os.Remove(file), begin()); err != nil {
			t.Fatal(err)
		}
		s := openState(t, b.folder, "corp")
		if info, err := os.Stat(s.Quarantined()); err != nil || info.Mode().IsRegular() {
			t.Errorf("%s: %v", what, err)
		}
		commit(t, s, put("a", "1"))
		closeState(t, s)
	}
}

// Each damage is kept beside the others, even within one second.
func TestPutAsideNeverOverwrites(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(b.path, fileName("corp"))
	kept := map[string]string{}
	for i := range 3 {
		text := fmt.Sprint("damage ", i)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s := openState(t, b.folder, "corp")
		kept[s.Quarantined()] = text
		closeState(t, s)
	}
	if len(kept) != 3 {
		t.Fatalf("%q", kept)
	}
	for path, text := range kept {
		if data := read(t, path); string(data) != text {
			t.Errorf("%s: %q", path, data)
		}
		if _, ok := putAsideAt(filepath.Base(path)); !ok {
			t.Errorf("prune would not know %s", path)
		}
	}
}

// A damaged file harms no other GitLab.
func TestDamageStaysAlone(t *testing.T) {
	b := newBench(t)
	other := openState(t, b.folder, "other")
	commit(t, other, put("a", "1"))
	b.mustSee(t, "text", []byte("text"))
	wantRecords(t, other, map[string]string{"a": "1"})
	commit(t, other, put("a", "2"))
}

// What is left of a creation that a crash ended is no damage.
func TestCrashWhileCreating(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(b.path, fileName("corp"))
	if err := os.WriteFile(file+newExt, []byte("half a"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openState(t, b.folder, "corp")
	commit(t, s, put("a", "1"))
	if _, err := os.Stat(file + newExt); s.Quarantined() != "" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("quarantined %q, %v", s.Quarantined(), err)
	}
}

// Cut short while it is mapped: a fault in bbolt, which must not end the process.
func TestDamagedInUse(t *testing.T) {
	files, _ := sample(t, 12)
	data := files[len(files)-1]
	for _, how := range []string{"load", "commit"} {
		for _, early := range []bool{true, false} {
			t.Run(fmt.Sprint(how, early), func(t *testing.T) {
				b := newBench(t)
				file := filepath.Join(b.path, fileName("corp"))
				if err := os.WriteFile(file, data, 0o600); err != nil {
					t.Fatal(err)
				}
				s := openState(t, b.folder, "corp")
				d := s.backend.(*diskState)
				if !early {
					d.need = 0 // as if it were cut between the look at its length and the reading
				}
				size := int64(2 * os.Getpagesize())
				if how == "load" {
					size = 0 // the metas too: the fault comes while bbolt takes its locks
				}
				if err := os.Truncate(file, size); err != nil {
					t.Fatal(err)
				}
				for range 2 { // the second meets the closed file
					var err error
					if how == "load" {
						err = s.Load(func(_, _ []byte) error { return nil })
					} else {
						err = s.Commit(put("000", "1", "150", "2"))
					}
					var damaged *DamagedError
					if !errors.As(err, &damaged) || damaged.Path != file || !strings.Contains(err.Error(), "damaged") {
						t.Fatalf("%v", err)
					}
				}
				// The way out that Commit's comment names.
				closeState(t, s)
				s = openState(t, b.folder, "corp")
				if s.Quarantined() == "" {
					t.Error("not put aside")
				}
				commit(t, s, put("a", "1"))
				wantRecords(t, s, map[string]string{"a": "1"})
			})
		}
	}
}

// A reader such as bbolt's own tool holds the file: said, not waited for.
func TestFileOpenElsewhere(t *testing.T) {
	path := t.TempDir()
	f := open(t, path, func(o *Options) { o.LockTimeout = 1 })
	closeState(t, openState(t, f, "corp"))
	db, err := bbolt.Open(filepath.Join(path, fileName("corp")), 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Open("corp", "https://gitlab.example.com"); !errors.Is(err, ErrLocked) {
		t.Errorf("%v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	closeState(t, openState(t, f, "corp"))
}

// FuzzDamage changes a file anywhere, in up to three places, and cuts it.
// Whatever comes of it, the process lives and no wrong record is read.
func FuzzDamage(f *testing.F) {
	files, models := sample(f, 6)
	data, model := files[len(files)-1], models[len(models)-1]
	f.Add(uint32(0), uint64(1), uint32(4096+16+48), uint64(2), uint32(0), uint64(0), uint32(0))
	f.Add(uint32(8192), uint64(1<<40), uint32(12300), uint64(0xffff), uint32(40), uint64(1), uint32(100))
	f.Fuzz(func(t *testing.T, at1 uint32, x1 uint64, at2 uint32, x2 uint64, at3 uint32, x3 uint64, cut uint32) {
		d := bytes.Clone(data)
		for at, x := range map[uint32]uint64{at1: x1, at2: x2, at3: x3} {
			p := d[int(at)%(len(d)-8):]
			binary.NativeEndian.PutUint64(p, binary.NativeEndian.Uint64(p)^x)
		}
		for i := range 2 {
			signMeta(pageOf(d, i)[pageHeader:])
		}
		path := filepath.Join(t.TempDir(), "x.db")
		if err := os.WriteFile(path, d[:len(d)-int(cut)%len(d)], 0o600); err != nil {
			t.Fatal(err)
		}
		s := &diskState{path: path, want: identity{Program: program, Format: formatVersion, Layout: 1, Name: "corp", URL: "gitlab.example.com"}}
		if s.open() != nil {
			return
		}
		got := map[string]string{}
		err := s.load(func(key, value []byte) error {
			got[string(key)] = string(value)
			return nil
		})
		// A meta forged into an older number makes the other one the newer: that is
		// the commit before, whole, which no file can know it is not.
		if err != nil || !maps.Equal(got, model) && !maps.Equal(got, models[len(models)-2]) {
			t.Errorf("passed, and the records are others: %v", err)
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
}

// edit changes a file behind the store's back.
func edit(tb testing.TB, file string, fn func(tx *bbolt.Tx) error) {
	tb.Helper()
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		tb.Fatal(err)
	}
	if err := errors.Join(db.Update(fn), db.Close()); err != nil {
		tb.Fatal(err)
	}
}

// rewrite makes the file one of another release.
func rewrite(tb testing.TB, file string, change func(*identity), buckets ...string) {
	tb.Helper()
	edit(tb, file, func(tx *bbolt.Tx) error {
		meta := tx.Bucket([]byte(bucketMeta))
		_, payload, _ := unseal([]byte(keyIdentity), meta.Get([]byte(keyIdentity)))
		var id identity
		if err := json.Unmarshal(payload, &id); err != nil {
			return err
		}
		change(&id)
		payload, err := json.Marshal(id)
		if err != nil {
			return err
		}
		for _, b := range buckets {
			if _, err := tx.CreateBucket([]byte(b)); err != nil {
				return err
			}
		}
		return meta.Put([]byte(keyIdentity), seal(id.Layout, []byte(keyIdentity), payload))
	})
}

// Damage that reads well today and would lose records at a later commit: each
// rule of the check has its own case here.
func TestSeenBeforeItBites(t *testing.T) {
	files, models := sample(t, 12)
	last := len(files) - 1
	data := files[last]
	ps := os.Getpagesize()
	b := newBench(t)
	reasons := map[string]int{"used twice": 0, "out of order": 0, "holds": 0, "transactions": 0}
	try := func(d []byte, models ...map[string]string) {
		t.Helper()
		b.judge(t, "damage", d, models...)
		for r := range reasons {
			if strings.Contains(b.logged.String(), r) {
				reasons[r]++
			}
		}
	}
	for id := 2; id < used(data); id++ {
		p := pageOf(data, id)
		if u64(p) != uint64(id) { //nolint:gosec // counts up
			continue
		}
		// A page that claims the next one too: freed with it, while that is in use.
		d := bytes.Clone(data)
		pageOf(d, id)[12] ^= 1
		try(d, models[last])
		if binary.NativeEndian.Uint16(p[8:]) != flagBranch {
			continue
		}
		// A branch's key moved down: a search for the records between finds nothing.
		for i := 1; i < int(binary.NativeEndian.Uint16(p[10:])); i++ {
			d := bytes.Clone(data)
			e := func(i int) []byte { return pageOf(d, id)[pageHeader+i*element:] }
			low, key := e(i - 1)[u32(e(i-1)):][:u32(e(i - 1)[4:])], e(i)[u32(e(i)):][:u32(e(i)[4:])]
			if len(low) == len(key) {
				copy(key, low)
				key[len(key)-1]++
				try(d, models[last])
			}
		}
	}
	// A meta page that an earlier commit wrote, sound in itself: a lost write.
	for page := range 2 {
		d := bytes.Clone(data)
		copy(pageOf(d, page), pageOf(files[last-4], page))
		try(d, models[last])
	}
	// A meta that promises more than any file holds.
	d := bytes.Clone(data)
	for page := range 2 {
		m := pageOf(d, page)[pageHeader:]
		binary.NativeEndian.PutUint64(m[40:], 1<<60)
		signMeta(m)
	}
	try(d)
	for r, n := range reasons {
		if n == 0 {
			t.Errorf("nothing was found to be %q", r)
		}
	}
	if used(data)*ps > len(data) {
		t.Error("the sample itself is short")
	}
}

// signMeta makes a meta's checksum right again, so that what it says is believed.
func signMeta(m []byte) {
	h := fnv.New64a()
	_, _ = h.Write(m[:metaSize-8])
	binary.NativeEndian.PutUint64(m[metaSize-8:], h.Sum64())
}

func TestEnvelope(t *testing.T) {
	key, value := []byte("key"), []byte("value")
	stored := seal(7, key, value)
	if layout, got, ok := unseal(key, stored); !ok || layout != 7 || !bytes.Equal(got, value) {
		t.Errorf("%d %q %t", layout, got, ok)
	}
	if _, _, ok := unseal([]byte("kez"), stored); ok {
		t.Error("a value passes under another key")
	}
	for i := range len(stored) * 8 {
		d := bytes.Clone(stored)
		d[i/8] ^= 1 << (i % 8)
		if _, _, ok := unseal(key, d); ok {
			t.Errorf("bit %d flipped unseen", i)
		}
	}
	for n := range stored {
		if _, _, ok := unseal(key, stored[:n]); ok {
			t.Errorf("cut to %d bytes unseen", n)
		}
	}
	// Counters that move alike must not make up for each other in the sum, as
	// plain checksums would in one pair of some ten thousand.
	seen := map[uint64]bool{}
	for i := range 5000 {
		key := fmt.Appendf(nil, "counter/%d", i)
		step := mix(seal(1, key, []byte("6"))) - mix(seal(1, key, []byte("5")))
		if seen[-step] {
			t.Fatalf("the step of %s cancels another's", key)
		}
		seen[step] = true
	}
}
