package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"syscall"
)

// The format of a bbolt file (version 2), as far as a check needs it. All numbers
// are in the machine's byte order.
//
//	page     id 8 | flags 2 | count 2 | overflow 4 | …, and `overflow` pages more
//	meta     magic 4 | version 4 | page size 4 | flags 4 | root bucket 16 |
//	         freelist page 8 | page count 8 | txid 8 | FNV-1a of what stands before 8
//	branch   count × (pos 4 | key size 4 | child page 8), then the keys
//	leaf     count × (flags 4 | pos 4 | key size 4 | value size 4), then keys and values
//	bucket   root page 8 (0: the page itself follows, inline) | sequence 8
//	freelist count × page id 8; with count 0xffff the first number is the count
//
// pos counts from its own element's first byte.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	pageHeader = 16
	element    = 16
	bucketHead = 16
	metaSize   = 64

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10

	flagBucket = 0x01 // of a leaf's element

	minPage, maxPage = 512, 1 << 16
)

const (
	program       = "gitlab_runner_fleet_exporter"
	formatVersion = 1 // of this package's own part; an older release refuses a higher one

	bucketMeta    = "meta"
	bucketRecords = "records"
	keyIdentity   = "identity"
	keySummary    = "summary"
)

// identity says whose file it is. Bucket, key, envelope and JSON form are fixed
// for ever: every release must be able to tell a newer file from a damaged one.
type identity struct {
	Program string `json:"program"`
	Format  uint32 `json:"format"`
	Layout  uint32 `json:"layout"`
	Name    string `json:"name"`
	URL     string `json:"url"` // canonicalURL: no user, no password
}

// damage is why a file is not as we left it.
type damage string

func (d damage) Error() string { return string(d) }

func damagef(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// verifier reads a bbolt file as plain bytes. Unlike bbolt it believes nothing:
// each offset is checked, each page is met once (a branch that leads back to
// itself would make bbolt run for ever), no page is both used and free (bbolt
// would write new records over old ones), every key lies where a search finds it.
// What passes here bbolt can map without a signal or a panic.
type verifier struct {
	file     *os.File
	pageSize uint64
	pages    uint64 // those in use begin below it
	root     uint64
	freelist uint64
	txid     uint64
	used     []bool
}

// readIdentity says whose file it is, and reads no more than that needs.
func readIdentity(path string) (identity, error) {
	v, err := newVerifier(path)
	if err != nil {
		return identity{}, err
	}
	defer v.file.Close() //nolint:errcheck // opened for reading
	id, _, err := v.identity()
	return id, err
}

// verify reads the whole file and compares it with what it says of itself.
func verify(path string, want identity) (_ summary, err error) {
	v, err := newVerifier(path)
	if err != nil {
		return summary{}, err
	}
	defer v.file.Close() //nolint:errcheck // opened for reading
	id, buckets, err := v.identity()
	if err != nil {
		return summary{}, err
	}
	// Before anything that a newer release may have changed.
	if err := admit(path, id, want); err != nil {
		return summary{}, err
	}
	saved, err := v.summary(buckets)
	if err != nil {
		return summary{}, err
	}
	found := summary{txid: v.txid}
	err = v.bucket(buckets[bucketRecords], func(flags uint32, key, stored []byte) error {
		layout, _, ok := unseal(key, stored)
		if flags != 0 || !ok || layout != id.Layout {
			return damagef("the record under key %q is not what was stored", key)
		}
		found.add(stored)
		return nil
	})
	if err != nil {
		return summary{}, err
	}
	if found != saved {
		return summary{}, damagef("%d records of transaction %d with sum %x were stored, %d of transaction %d with sum %x are there",
			saved.count, saved.txid, saved.hash, found.count, found.txid, found.hash)
	}
	return saved, v.checkFreelist()
}

// admit refuses a file that is sound but not for us.
func admit(path string, have, want identity) error {
	switch {
	case have.Format > want.Format:
		return &NewerError{Name: want.Name, Path: path, Have: fmt.Sprintf("format %d", have.Format), Want: fmt.Sprintf("up to %d", want.Format)}
	case have.Layout > want.Layout:
		return &NewerError{Name: want.Name, Path: path, Have: fmt.Sprintf("records of layout %d", have.Layout), Want: fmt.Sprintf("up to %d", want.Layout)}
	case have.Name != want.Name:
		return &ForeignError{Name: want.Name, Path: path, Have: fmt.Sprintf("GitLab %q", have.Name), Want: fmt.Sprintf("GitLab %q", want.Name)}
	case have.URL != want.URL:
		return &ForeignError{Name: want.Name, Path: path, Have: have.URL, Want: want.URL}
	case have.Format < want.Format:
		return &OlderError{Name: want.Name, Path: path, Have: fmt.Sprintf("format %d", have.Format), Want: fmt.Sprintf("format %d", want.Format)}
	case have.Layout < want.Layout:
		return &OlderError{Name: want.Name, Path: path, Have: fmt.Sprintf("records of layout %d", have.Layout), Want: fmt.Sprintf("layout %d", want.Layout)}
	}
	return nil
}

func newVerifier(path string) (_ *verifier, err error) {
	info, err := os.Stat(path) //nolint:gosec // within --storage.path
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // opening a named pipe would wait for ever
		return nil, damagef("it is no regular file but %s", info.Mode().Type())
	}
	file, err := os.Open(path) //nolint:gosec // within --storage.path
	if err != nil {
		return nil, err
	}
	v := &verifier{file: file}
	if err := v.meta(uint64(max(info.Size(), 0))); err != nil {
		_ = file.Close()
		return nil, err
	}
	return v, nil
}

// at reads exactly len(buf) bytes.
func (v *verifier) at(buf []byte, offset uint64) error {
	_, err := v.file.ReadAt(buf, int64(offset)) //nolint:gosec // below the file's length
	switch {
	case errors.Is(err, io.EOF):
		return damagef("it ends within the page at byte %d", offset)
	case errors.Is(err, syscall.EIO):
		return damagef("the disk cannot read byte %d: %v", offset, err)
	}
	return err
}

// meta reads both meta pages. bbolt would go on with one of them; but if the
// lost one was the newer, that is the state before the last commit, and counters
// that a scrape has shown would step back unnoticed. A power cut does not tear a
// meta: its 80 bytes lie in one sector.
func (v *verifier) meta(size uint64) error {
	var root, freelist, pages, txid [2]uint64
	v.pageSize = 0
	for i := range uint64(2) {
		var buf [pageHeader + metaSize]byte
		if size < i*v.pageSize+uint64(len(buf)) {
			return damagef("it is %d bytes long, too short for a state", size)
		}
		if err := v.at(buf[:], i*v.pageSize); err != nil {
			return err
		}
		m := buf[pageHeader:]
		h := fnv.New64a()
		_, _ = h.Write(m[:metaSize-8])
		if u32(m) != boltMagic || u32(m[4:]) != boltVersion || u64(m[metaSize-8:]) != h.Sum64() {
			return damagef("its meta page %d is not valid", i)
		}
		ps := uint64(u32(m[8:]))
		if ps < minPage || ps > maxPage || ps&(ps-1) != 0 || i == 1 && ps != v.pageSize {
			return damagef("its meta page %d names pages of %d bytes", i, ps)
		}
		v.pageSize = ps
		root[i], freelist[i], pages[i], txid[i] = u64(m[16:]), u64(m[32:]), u64(m[40:]), u64(m[48:])
		if txid[i]%2 != i {
			return damagef("its meta page %d is of transaction %d", i, txid[i])
		}
	}
	newer := 0
	if txid[1] > txid[0] {
		newer = 1
	}
	if txid[newer]-txid[1-newer] != 1 {
		return damagef("its meta pages are of transactions %d and %d", txid[0], txid[1])
	}
	v.root, v.freelist, v.pages, v.txid = root[newer], freelist[newer], pages[newer], txid[newer]
	if v.pages > size/v.pageSize {
		return damagef("it is %d bytes long, but holds %d pages of %d bytes", size, v.pages, v.pageSize)
	}
	v.used = make([]bool, v.pages)
	return nil
}

// page reads one page with its overflow and claims them.
func (v *verifier) page(id uint64) ([]byte, error) {
	if id < 2 || id >= v.pages {
		return nil, damagef("page %d is none of its %d pages", id, v.pages)
	}
	head := make([]byte, v.pageSize)
	if err := v.at(head, id*v.pageSize); err != nil {
		return nil, err
	}
	if u64(head) != id {
		return nil, damagef("page %d calls itself %d", id, u64(head))
	}
	overflow := uint64(u32(head[12:]))
	if overflow >= v.pages-id {
		return nil, damagef("page %d runs on for %d pages", id, overflow)
	}
	for i := id; i <= id+overflow; i++ {
		if v.used[i] {
			return nil, damagef("page %d is used twice", i)
		}
		v.used[i] = true
	}
	if overflow == 0 {
		return head, nil
	}
	whole := make([]byte, (overflow+1)*v.pageSize)
	copy(whole, head)
	return whole, v.at(whole[v.pageSize:], (id+1)*v.pageSize)
}

type visit func(flags uint32, key, value []byte) error

// tree walks the pages below one, whose keys must lie in [low, high); nil: open.
func (v *verifier) tree(id uint64, low, high []byte, fn visit) error {
	p, err := v.page(id)
	if err != nil {
		return err
	}
	count := uint64(binary.NativeEndian.Uint16(p[10:]))
	switch flags := binary.NativeEndian.Uint16(p[8:]); {
	case flags == flagLeaf:
		return leaf(id, p, low, high, fn)
	case flags != flagBranch || count == 0:
		return damagef("page %d has flags %#x and %d elements", id, flags, count)
	}
	keys := make([][]byte, count+1)
	keys[count] = high
	children := make([]uint64, count)
	for i := range count {
		e, ok := cut(p, pageHeader+i*element, element)
		if !ok {
			return damagef("page %d is too small for its elements", id)
		}
		if keys[i], ok = cut(p, pageHeader+i*element+uint64(u32(e)), uint64(u32(e[4:]))); !ok {
			return damagef("page %d has a key outside of it", id)
		}
		children[i] = u64(e[8:])
		if err := ordered(id, low, keys[i], high, i == 0); err != nil {
			return err
		}
		low = keys[i]
	}
	for i, child := range children {
		if err := v.tree(child, keys[i], keys[i+1], fn); err != nil {
			return err
		}
	}
	return nil
}

// leaf visits the elements of a leaf page or an inline bucket's.
func leaf(id uint64, p, low, high []byte, fn visit) error {
	first := true
	for i := range uint64(binary.NativeEndian.Uint16(p[10:])) {
		e, ok := cut(p, pageHeader+i*element, element)
		if !ok {
			return damagef("page %d is too small for its elements", id)
		}
		at, keyLen, valueLen := pageHeader+i*element+uint64(u32(e[4:])), uint64(u32(e[8:])), uint64(u32(e[12:]))
		key, ok := cut(p, at, keyLen)
		value, ok2 := cut(p, at+keyLen, valueLen)
		if !ok || !ok2 {
			return damagef("page %d has a record outside of it", id)
		}
		if err := ordered(id, low, key, high, first); err != nil {
			return err
		}
		low, first = key, false
		if err := fn(u32(e), key, value); err != nil {
			return err
		}
	}
	return nil
}

// ordered says whether a search would find key between low and high. The first
// key of a page may be the one its parent names.
func ordered(id uint64, low, key, high []byte, first bool) error {
	c := bytes.Compare(low, key)
	if len(key) == 0 || c > 0 || c == 0 && !first || high != nil && bytes.Compare(key, high) >= 0 {
		return damagef("page %d has its keys out of order", id)
	}
	return nil
}

// bucket walks what a bucket's entry leads to.
func (v *verifier) bucket(entry []byte, fn visit) error {
	if len(entry) < bucketHead {
		return damagef("a bucket is cut short")
	}
	if root := u64(entry); root != 0 {
		return v.tree(root, nil, nil, fn)
	}
	inline := entry[bucketHead:]
	if len(inline) < pageHeader || binary.NativeEndian.Uint16(inline[8:]) != flagLeaf {
		return damagef("an inline bucket is no leaf")
	}
	return leaf(0, inline, nil, nil, fn)
}

// identity reads the root bucket and the identity record. It tolerates buckets
// it does not know: they may be a newer release's.
func (v *verifier) identity() (id identity, buckets map[string][]byte, err error) {
	buckets = map[string][]byte{}
	err = v.tree(v.root, nil, nil, func(flags uint32, key, value []byte) error {
		if flags != flagBucket {
			return damagef("it holds a record outside of a bucket")
		}
		buckets[string(key)] = value
		return nil
	})
	if err != nil {
		return identity{}, nil, err
	}
	if buckets[bucketMeta] == nil {
		return identity{}, nil, damagef("it is a database of another program")
	}
	meta := map[string][]byte{}
	err = v.bucket(buckets[bucketMeta], func(_ uint32, key, stored []byte) error {
		meta[string(key)] = stored
		return nil
	})
	if err != nil {
		return identity{}, nil, err
	}
	layout, payload, ok := unseal([]byte(keyIdentity), meta[keyIdentity])
	if !ok || json.Unmarshal(payload, &id) != nil || id.Program != program || id.Layout != layout {
		return identity{}, nil, damagef("it does not say whose it is")
	}
	buckets[keySummary] = meta[keySummary] // no bucket has this name in our format; checked below
	return id, buckets, nil
}

// summary reads what the last commit said of the records, and holds this
// format's set of buckets.
func (v *verifier) summary(parts map[string][]byte) (summary, error) {
	if len(parts) != 3 || parts[bucketRecords] == nil {
		return summary{}, damagef("its buckets are not those of a state")
	}
	_, payload, ok := unseal([]byte(keySummary), parts[keySummary])
	s, ok2 := decodeSummary(payload)
	if !ok || !ok2 {
		return summary{}, damagef("the sum over its records is not what was stored")
	}
	return s, nil
}

// checkFreelist looks for pages that bbolt would hand out for new records. A
// page neither used nor free only wastes space, and is let pass.
func (v *verifier) checkFreelist() error {
	p, err := v.page(v.freelist)
	if err != nil {
		return err
	}
	if binary.NativeEndian.Uint16(p[8:]) != flagFreelist {
		return damagef("page %d is no list of free pages", v.freelist)
	}
	count, start := uint64(binary.NativeEndian.Uint16(p[10:])), uint64(pageHeader)
	if count == 0xffff {
		count, start = u64(p[pageHeader:]), start+8
	}
	if count > (uint64(len(p))-start)/8 {
		return damagef("its list of %d free pages is cut short", count)
	}
	last := uint64(1)
	for i := range count {
		id := u64(p[start+i*8:])
		if id <= last || id >= v.pages || v.used[id] {
			return damagef("page %d cannot be free", id)
		}
		last = id
	}
	return nil
}

// cut is p[at:at+n] if p holds that.
func cut(p []byte, at, n uint64) ([]byte, bool) {
	if at > uint64(len(p)) || n > uint64(len(p))-at {
		return nil, false
	}
	return p[at : at+n : at+n], true
}

func u32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
func u64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }
