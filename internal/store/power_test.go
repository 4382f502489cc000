package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/go-kit/log"
)

// disk is a file whose writes reach the platters in any order, in part or not
// at all, until a sync. Its calls can be made to fail.
type disk struct {
	file
	synced  []byte
	pending []write1
	fail    func(call string) error
}

type write1 struct {
	data []byte
	at   int64
}

func (w write1) apply(image []byte) []byte {
	if missing := int(w.at) + len(w.data) - len(image); missing > 0 && len(w.data) > 0 {
		image = append(image, make([]byte, missing)...)
	}
	copy(image[min(int(w.at), len(image)):], w.data)
	return image
}

func (d *disk) WriteAt(p []byte, at int64) (int, error) {
	if err := d.fail("write"); err != nil {
		n, _ := d.file.WriteAt(p[:len(p)/2], at)
		return n, err
	}
	d.pending = append(d.pending, write1{bytes.Clone(p), at})
	return d.file.WriteAt(p, at)
}

func (d *disk) Sync() error {
	if err := d.fail("sync"); err != nil {
		return err
	}
	for _, w := range d.pending {
		d.synced = w.apply(d.synced)
	}
	d.pending = nil
	return d.file.Sync()
}

func (d *disk) Truncate(size int64) error {
	if err := d.fail("truncate"); err != nil {
		return err
	}
	return d.file.Truncate(size)
}

// afterPowerCut is one of the contents that the disk may have: of each pending
// write all, nothing, or a part. A header lies in one sector, which a disk writes
// as a whole.
func (d *disk) afterPowerCut(rnd *rand.Rand) []byte {
	image := bytes.Clone(d.synced)
	for _, i := range rnd.Perm(len(d.pending)) {
		w := d.pending[i]
		switch rnd.IntN(3) {
		case 0:
			image = w.apply(image)
		case 1:
			if len(w.data) > headerSize {
				from := rnd.IntN(len(w.data))
				image = write1{w.data[from:], w.at + int64(from)}.apply(image)
			}
		}
	}
	return image
}

// A power cut at any call loses no acknowledged commit, and is never taken for
// damage. It may keep the commit that it interrupted, as a whole.
func TestPowerCutLosesNoCommit(t *testing.T) {
	rnd := random(8, 9)
	b := newBench(t)
	path := t.TempDir()
	s := openState(t, open(t, path), "corp")
	d := s.backend.(*diskState)
	model := map[string]string{}
	for i := range 12 {
		d.rewriteAt = 1 << 40 // another file; TestKillLeavesTheStateOfACommit has its interruptions
		batch := randomBatch(rnd)
		next := maps.Clone(model)
		apply(next, batch)
		cuts := 0
		var simulated *disk
		cut := func(call string) error {
			for range 5 {
				what := fmt.Sprintf("commit %d, power cut at the %s", i, call)
				if b.judge(t, what, simulated.afterPowerCut(rnd), model, next) {
					t.Fatalf("%s: reported as damage: %s", what, b.logged)
				}
				cuts++
			}
			return nil
		}
		simulated = &disk{file: d.file, synced: read(t, d.path), fail: cut}
		d.file = simulated
		commit(t, s, batch)
		model = next
		if _ = cut("end"); cuts != 20 {
			t.Fatalf("%d power cuts", cuts)
		}
		d.file = simulated.file
		if i%2 == 0 { // the header of this commit was lost
			data := read(t, d.path)
			write(t, d.path, append(bytes.Clone(simulated.synced[:headerSize]), data[headerSize:]...))
		}
	}
	wantRecords(t, s, model)
}

// Each call that fails leaves the records of the last commit, or those with the
// batch where only its confirmation failed; the next commit works.
func TestFailedCallLosesNoCommit(t *testing.T) {
	for _, failing := range []string{"write 1", "write 2", "sync 1", "write 1 truncate 1", "sync 1 truncate 1"} {
		t.Run(failing, func(t *testing.T) {
			path := t.TempDir()
			f := open(t, path)
			s := openState(t, f, "corp")
			commit(t, s, put("a", "1"))
			d := s.backend.(*diskState)
			calls := map[string]int{}
			d.file = &disk{file: d.file, fail: func(call string) error {
				calls[call]++
				if strings.Contains(failing, fmt.Sprint(call, " ", calls[call])) {
					return syscall.ENOSPC
				}
				return nil
			}}
			if err := s.Commit(put("a", "2", "b", "2")); !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("%v", err)
			}
			got := records(t, s)
			kept := maps.Equal(got, map[string]string{"a": "1"})
			// The header alone failed, or the frame could not be taken back.
			if confirmed := failing == "write 2" || failing == "sync 1 truncate 1"; confirmed == kept || confirmed && got["b"] != "2" {
				t.Errorf("records %v", got)
			}
			commit(t, s, put("a", "3"))
			got["a"] = "3"
			closeState(t, s)
			s = openState(t, f, "corp")
			wantRecords(t, s, got)
			if s.Quarantined() != "" {
				t.Error("a failed call damaged the file")
			}
		})
	}
}

// The disk cannot read a frame that may have been acknowledged: that is damage,
// not an interrupted commit, though the header may be behind.
func TestUnreadableBlockIsDamage(t *testing.T) {
	files, _ := sample(t, 3)
	r, err := newReader(unreadable{bytes.NewReader(files[2]), int64(len(files[1]))}, int64(len(files[2])))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.identity(); err != nil {
		t.Fatal(err)
	}
	r.length = int64(len(files[0]))
	if err := r.changes(func(_, _ []byte, _ int64) error { return nil }); !errors.Is(err, syscall.EIO) {
		t.Errorf("%v", err)
	}
	if _, ok := errors.AsType[*DamagedError](newDisk("x").named(r.changes(func(_, _ []byte, _ int64) error { return nil }))); !ok {
		t.Error("is no damage")
	}
}

type unreadable struct {
	*bytes.Reader
	from int64
}

func (u unreadable) ReadAt(p []byte, at int64) (int, error) {
	if at >= u.from {
		return 0, syscall.EIO
	}
	return u.Reader.ReadAt(p[:min(int64(len(p)), u.from-at)], at)
}

// A file does not grow with its history, and a rewrite keeps every record, also
// those whose keys no release has.
func TestRewriteKeepsEveryRecord(t *testing.T) {
	path := t.TempDir()
	f := open(t, path)
	s := openState(t, f, "corp")
	d := s.backend.(*diskState)
	model := map[string]string{}
	both := func(b Batch) { apply(model, b); commit(t, s, b) }
	both(put("of another release", "kept", "\x00\xff", ""))
	value := strings.Repeat("x", 10_000)
	rewrites, largest, before := 0, int64(0), d.end
	for n := range 1500 {
		both(put(strconv.Itoa(n%30), value+strconv.Itoa(n)))
		if d.end < before {
			rewrites++
		}
		largest, before = max(largest, d.end), d.end
	}
	if rewrites < 5 || largest > 2*31*10_100+rewriteSlack+20_000 {
		t.Errorf("%d rewrites, %d bytes at most", rewrites, largest)
	}
	wantRecords(t, s, model)
	closeState(t, s)
	wantRecords(t, openState(t, f, "corp"), model)
}

// Where a rewrite fails the commits go on, and it is tried again later.
func TestFailedRewriteStopsNoCommit(t *testing.T) {
	var logged bytes.Buffer
	path := t.TempDir()
	f := open(t, path, func(o *Options) { o.Logger = log.NewLogfmtLogger(&logged) })
	s := openState(t, f, "corp")
	d := s.backend.(*diskState)
	d.slack, d.rewriteAt = 10_000, 10_000
	file := filepath.Join(path, fileName("corp"))
	// A folder in the place of the new file, with something in it.
	if err := os.MkdirAll(filepath.Join(file+newExt, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	value := strings.Repeat("x", 1000)
	for range 50 {
		commit(t, s, put("a", value))
	}
	if n := strings.Count(logged.String(), "level=warn"); n < 2 || n > 5 || !strings.Contains(logged.String(), file) || d.end < 50_000 {
		t.Errorf("%d warnings, %d bytes: %s", n, d.end, &logged)
	}
	if err := os.RemoveAll(file + newExt); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		commit(t, s, put("a", value))
	}
	if d.base < 1000 || d.end > 30_000 {
		t.Errorf("still %d bytes", d.end)
	}
	wantRecords(t, s, map[string]string{"a": value})
	// What a rewrite left that a crash interrupted is removed.
	closeState(t, s)
	write(t, file+newExt, []byte("half a"))
	s = openState(t, f, "corp")
	if _, err := os.Stat(file + newExt); !errors.Is(err, fs.ErrNotExist) || s.Quarantined() != "" {
		t.Errorf("%v, quarantined %q", err, s.Quarantined())
	}
	wantRecords(t, s, map[string]string{"a": value})
}

// A copy that is read from the start to the end while the state is written is
// the state after some commit.
func TestCopyWhileWrittenIsWhole(t *testing.T) {
	path := t.TempDir()
	s := openState(t, open(t, path), "corp")
	s.backend.(*diskState).slack = 20_000
	commit(t, s, step(1))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 2; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := s.Commit(step(n)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	model, done := map[string]string{}, 0
	copies := map[int]bool{}
	defer func() {
		close(stop)
		<-stopped
	}()
	for i := 0; i < 300 || len(copies) < 20 && i < 5000; i++ {
		file := filepath.Join(t.TempDir(), "x.db")
		copyFile(t, filepath.Join(path, fileName("corp")), file)
		d := newDisk(file)
		got := map[string]string{}
		err := errors.Join(d.open(), d.load(func(key, value []byte) error {
			got[string(key)] = string(value)
			return nil
		}), d.close())
		if err != nil {
			t.Fatal(err)
		}
		n, _ := strconv.Atoi(got["n"])
		copies[n] = true
		for done < n {
			done++
			apply(model, step(done))
		}
		if !maps.Equal(got, model) {
			t.Fatalf("copy %d is not the state after commit %d", i, n)
		}
	}
	if len(copies) < 20 {
		t.Errorf("only %d different copies", len(copies))
	}
}
