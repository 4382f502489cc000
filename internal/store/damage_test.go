package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/go-kit/log"
)

// sample makes a state with both small and large records, some of them replaced
// and deleted. It returns its file after each commit, and the records at that time.
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

// bench opens damaged files in this process: whatever ends it fails the test.
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

// judge opens data as a state. Either the file is put aside unchanged, that is
// logged and a fresh state is begun; or nothing is lost: the records are those of
// one of the models, now, after a commit, and after a restart.
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
			tb.Fatalf("%s: was not put aside unchanged", what)
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
			tb.Fatalf("%s: undetected, and the records are others (%d)", what, len(got))
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
		tb.Errorf("%s: undetected", what)
	}
}

// frames is where each frame of a sound file begins, and where the last one ends.
func frames(tb testing.TB, data []byte) []int {
	tb.Helper()
	r, err := newReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		tb.Fatal(err)
	}
	at := []int{int(r.at)}
	for r.at < r.length {
		if err := r.next(); err != nil {
			tb.Fatal(err)
		}
		at = append(at, int(r.at))
	}
	return at
}

// blockOf is what a file system and a disk lose or mix up as a whole.
func blockOf(data []byte, i int) []byte {
	const size = 4096
	return data[i*size : min((i+1)*size, len(data))]
}

func blocks(data []byte) int { return (len(data) + 4095) / 4096 }

func TestTruncationIsFound(t *testing.T) {
	files, models := sample(t, 12)
	data, model := files[len(files)-1], models[len(models)-1]
	b := newBench(t)
	if b.judge(t, "sound", data, model) {
		t.Fatal("a sound file is reported as damaged: " + b.logged.String())
	}
	for _, at := range frames(t, data) {
		for n := max(at-frameHead, 0); n < min(at+frameHead, len(data)); n++ {
			b.mustSee(t, fmt.Sprintf("cut to %d bytes", n), data[:n])
		}
	}
	rnd := random(1, 2)
	for range 50 {
		n := rnd.IntN(len(data))
		b.mustSee(t, fmt.Sprintf("cut to %d bytes", n), data[:n])
	}
	for _, n := range []int{1, frameHead, 5000} {
		if b.judge(t, "longer", append(bytes.Clone(data), noise(rnd, n)...), model) {
			t.Errorf("%d bytes of an interrupted commit are reported as damage", n)
		}
	}
}

func TestFlippedBitsAreFound(t *testing.T) {
	files, _ := sample(t, 12)
	data := files[len(files)-1]
	rnd := random(3, 4)
	b := newBench(t)
	flip := func(at int) {
		d := bytes.Clone(data)
		d[at] ^= 1 << rnd.IntN(8)
		b.mustSee(t, fmt.Sprintf("flipped byte %d", at), d)
	}
	for range 200 {
		flip(rnd.IntN(len(data)))
	}
	for at := range headerSize {
		flip(at)
	}
	for _, at := range frames(t, data) {
		for i := range min(frameHead+8, len(data)-at) {
			flip(at + i)
		}
	}
}

func TestLostAndSwappedBlocksAreFound(t *testing.T) {
	files, _ := sample(t, 12)
	data := files[len(files)-1]
	b := newBench(t)
	rnd := random(5, 6)
	n := blocks(data) - 1 // whole ones
	for id := range n {
		d := bytes.Clone(data)
		clear(blockOf(d, id))
		b.mustSee(t, fmt.Sprintf("block %d zeroed", id), d)
		d = bytes.Clone(data)
		copy(blockOf(d, id), noise(rnd, 4096))
		b.mustSee(t, fmt.Sprintf("block %d of noise", id), d)
		d = bytes.Clone(data)
		clear(blockOf(d, id)[2048:])
		b.mustSee(t, fmt.Sprintf("block %d half zeroed", id), d)
		other := (id + 1 + rnd.IntN(n-1)) % n
		d = bytes.Clone(data)
		copy(blockOf(d, id), blockOf(data, other))
		copy(blockOf(d, other), blockOf(data, id))
		b.mustSee(t, fmt.Sprintf("blocks %d and %d swapped", id, other), d)
	}
}

// Old content is sound in itself. Only a header that is behind is harmless: a
// power cut may lose it, and the commits behind it are found all the same.
func TestStaleBlocksAreFound(t *testing.T) {
	files, models := sample(t, 30)
	last := len(files) - 1
	b := newBench(t)
	for i := range last {
		d := bytes.Clone(files[last])
		copy(d[headerSize:], make([]byte, len(d)))
		copy(d[headerSize:], files[i][headerSize:])
		b.mustSee(t, fmt.Sprintf("all but the header as of commit %d", i), d)
		b.mustSee(t, fmt.Sprintf("all but the header as of commit %d, cut", i), d[:len(files[i])])
		d = bytes.Clone(files[last])
		copy(d, files[i][:headerSize])
		if b.judge(t, fmt.Sprintf("the header as of commit %d", i), d, models[last]) {
			t.Errorf("the header as of commit %d is reported as damage: %s", i, b.logged)
		}
	}
}

// Frames that are sound each, but not together.
func TestMissingAndMovedFramesAreFound(t *testing.T) {
	path := t.TempDir()
	f := open(t, path)
	s := openState(t, f, "corp")
	for _, kv := range [][]string{{"a", "4", "b", "4"}, {"a", "5", "b", "5"}, {"c", "x"}, {"d", "y"}} {
		commit(t, s, put(kv...))
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	data := read(t, filepath.Join(path, fileName("corp")))
	at := frames(t, data)
	frame := func(i int) []byte { return data[at[i]:at[i+1]] }
	b := newBench(t)
	compose := func(order ...int) []byte {
		out := bytes.Clone(data[:headerSize])
		for _, i := range order {
			out = append(out, frame(i)...)
		}
		copy(out, encodeHeader(headerSize, int64(len(out)))) // as if that were all
		return out
	}
	if b.judge(t, "in order", compose(0, 1, 2, 3, 4), map[string]string{"a": "5", "b": "5", "c": "x", "d": "y"}) {
		t.Fatal(b.logged)
	}
	b.mustSee(t, "one gone", compose(0, 1, 3, 4))
	b.mustSee(t, "one twice", compose(0, 1, 2, 3, 4, 4))
	b.mustSee(t, "two swapped", compose(0, 1, 2, 4, 3))
	b.mustSee(t, "an older one in the place of another", compose(0, 1, 1, 3, 4))
	b.mustSee(t, "no identity", compose(1, 2, 3, 4))
	b.mustSee(t, "nothing", compose())
	forged, _ := encodeFrame(0, encodeBatch(put("c", "z")))
	b.mustSee(t, "one of another file", bytes.Replace(data, frame(3), forged, 1))
}

func TestWhatIsNoStateIsPutAside(t *testing.T) {
	b := newBench(t)
	b.mustSee(t, "empty", nil)
	b.mustSee(t, "one byte", []byte{0})
	b.mustSee(t, "text", []byte("not a database\n"))
	b.mustSee(t, "a long text", bytes.Repeat([]byte("not a database\n"), 10000))
	b.mustSee(t, "zeros", make([]byte, 1<<16))
	for what, payload := range map[string][]byte{
		"another program": []byte(`{"program":"another","format":2,"layout":1,"name":"corp","url":"gitlab.example.com"}`),
		"no identity":     encodeBatch(put("a", "1")),
		"nothing":         nil,
	} {
		frame, _ := encodeFrame(0, payload)
		b.mustSee(t, what, append(encodeHeader(headerSize, int64(headerSize+len(frame))), frame...))
	}
	// A frame of a size that no memory has, in a file that is believed.
	d := bytes.Clone(encodeHeader(headerSize, headerSize+frameHead))
	d = binary.LittleEndian.AppendUint64(d, 1<<62)
	b.mustSee(t, "a frame of 4 EiB", append(d, 0, 0, 0, 0))

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

// The database of a build before the first release is no damage.
func TestFormerDatabaseIsNoDamage(t *testing.T) {
	b := newBench(t)
	data := make([]byte, 4096)
	binary.NativeEndian.PutUint32(data[boltAt:], boltMagic)
	write(t, filepath.Join(b.path, fileName("corp")), data)
	s := openState(t, b.folder, "corp")
	kept, err := filepath.Glob(filepath.Join(b.path, "corp.db.older-*"))
	if err != nil || len(kept) != 1 || s.Quarantined() != "" || !strings.Contains(b.logged.String(), "level=warn") {
		t.Errorf("kept %q, %v, quarantined %q: %s", kept, err, s.Quarantined(), b.logged)
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
func TestDamageHarmsNoOtherGitLab(t *testing.T) {
	b := newBench(t)
	other := openState(t, b.folder, "other")
	commit(t, other, put("a", "1"))
	b.mustSee(t, "text", []byte("text"))
	wantRecords(t, other, map[string]string{"a": "1"})
	commit(t, other, put("a", "2"))
}

// What is left of a creation that a crash ended is no damage.
func TestUnfinishedCreationIsNoDamage(t *testing.T) {
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

// Cut short while it is open.
func TestDamageInUseIsFound(t *testing.T) {
	files, _ := sample(t, 12)
	data := files[len(files)-1]
	for what, use := range map[string]func(s *State) error{
		"load":   func(s *State) error { return s.Load(func(_, _ []byte) error { return nil }) },
		"commit": func(s *State) error { return s.Commit(put("000", "1", "150", "2")) },
		// Between the look at its length and the reading.
		"read": func(s *State) error {
			d := s.backend.(*diskState)
			if d.file == nil {
				return d.load(nil)
			}
			return d.named(d.changes(func(_, _ []byte, _ int64) error { return nil }))
		},
	} {
		for _, size := range []int{0, headerSize, 8192, len(data) - 1} {
			t.Run(fmt.Sprint(what, size), func(t *testing.T) {
				b := newBench(t)
				file := filepath.Join(b.path, fileName("corp"))
				write(t, file, data)
				s := openState(t, b.folder, "corp")
				if err := os.Truncate(file, int64(size)); err != nil {
					t.Fatal(err)
				}
				for range 2 { // the second call meets the closed file
					err := use(s)
					damaged, ok := errors.AsType[*DamagedError](err)
					if !ok || damaged.Path != file || !strings.Contains(err.Error(), "damaged") {
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

// FuzzDamage changes a file anywhere, in up to three places, and cuts it, with a
// header that is believed. Whatever comes of it, the process lives and no wrong
// record is read.
func FuzzDamage(f *testing.F) {
	files, models := sample(f, 6)
	data := files[len(files)-1]
	f.Add(uint32(0), uint64(1), uint32(headerSize), uint64(2), uint32(0), uint64(0), uint32(0))
	f.Add(uint32(8), uint64(1<<40), uint32(12300), uint64(0xffff), uint32(40), uint64(1), uint32(100))
	f.Fuzz(func(t *testing.T, at1 uint32, x1 uint64, at2 uint32, x2 uint64, at3 uint32, x3 uint64, cut uint32) {
		d := bytes.Clone(data)
		for at, x := range map[uint32]uint64{at1: x1, at2: x2, at3: x3} {
			p := d[int(at)%(len(d)-8):]
			binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^x)
		}
		binary.LittleEndian.PutUint32(d[24:], checksum(0, d[:24]))
		path := filepath.Join(t.TempDir(), "x.db")
		write(t, path, d[:len(d)-int(cut)%len(d)])
		s := newDisk(path)
		if s.open() != nil {
			return
		}
		got := map[string]string{}
		err := s.load(func(key, value []byte) error {
			got[string(key)] = string(value)
			return nil
		})
		// A header forged to a smaller length makes the rest an interrupted commit:
		// the records are those of an earlier one, whole.
		known := len(got) == 0
		for _, m := range models {
			known = known || maps.Equal(got, m)
		}
		if err != nil || !known {
			t.Errorf("passed, and the records are others: %v", err)
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
}

// newDisk is the state of corp at path, without a folder and its lock.
func newDisk(path string) *diskState {
	return &diskState{
		path: path, slack: rewriteSlack, logger: log.NewNopLogger(),
		want: identity{Program: program, Format: formatVersion, Layout: 1, Name: "corp", URL: "gitlab.example.com"},
	}
}

func TestBatchIsDecodedAsEncoded(t *testing.T) {
	b := put("a", "1", "b", "", strings.Repeat("k", maxKey), strings.Repeat("v", 100_000))
	b.Delete = [][]byte{[]byte("a"), []byte("c")}
	payload := encodeBatch(b)
	var got []string
	visit := func(key, value []byte, _ int64) error {
		text := fmt.Sprintf("%.3s deleted", key)
		if value != nil {
			text = fmt.Sprintf("%.3s=%.3s %d", key, value, len(value))
		}
		got = append(got, text)
		return nil
	}
	if err := decodeBatch(payload, 0, visit); err != nil || strings.Join(got, ", ") != "a deleted, c deleted, a=1 1, b= 0, kkk=vvv 100000" {
		t.Errorf("%v, %v", got, err)
	}
	// No payload, however short or wrong, makes the decoder read beyond it.
	for n := range 40 {
		_ = decodeBatch(payload[:n], 0, func(_, _ []byte, _ int64) error { return nil })
	}
}

func FuzzBatch(f *testing.F) {
	f.Add(encodeBatch(put("a", "1", "b", "")))
	f.Add([]byte{1, 'a', 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, payload []byte) {
		var all Batch
		err := decodeBatch(payload, 0, func(key, value []byte, at int64) error {
			if at > int64(len(payload)) {
				t.Errorf("a value ends at %d of %d bytes", at, len(payload))
			}
			if value == nil {
				all.Delete = append(all.Delete, key)
			} else {
				all.Put = append(all.Put, Record{key, value})
			}
			return nil
		})
		if err == nil && len(encodeBatch(all)) > len(payload) {
			t.Errorf("%x was read as more than it is", payload)
		}
	})
}
