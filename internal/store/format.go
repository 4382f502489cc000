package store

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"slices"
	"syscall"
)

// A state file is a header and frames, one frame for each commit. Numbers are
// little endian.
//
//	header  magic 8 | base 8 | length 8 | CRC-32C of the 24 bytes before 4
//	frame   size of the payload 8 | chain 4 | payload
//	change  uvarint length of key | key | uvarint 1 + length of value | value
//
// base is the length after the last rewrite. length is that of the file with
// the last frame that was acknowledged: whatever is missing or wrong below it is
// damage, and an incomplete frame beyond it is a commit that a crash interrupted.
// chain is the CRC-32C of all frames up to this one, so a frame fits only
// behind the frames it was written after.
//
// The payload of the first frame is the identity, that of the others a sequence
// of changes, in which value length 0 deletes the key. Header, frame and
// identity are the same in every format, so that each release can distinguish a
// newer file from a damaged one.
const (
	program       = "gitlab_runner_fleet_exporter"
	magic         = "GRFEXST\n"
	formatVersion = 2 // of the changes; an older release refuses a higher one

	headerSize = 28
	frameHead  = 12

	maxKey   = 32768
	maxValue = math.MaxInt32 / 2

	// A build before the first release kept its state in a bbolt database, with
	// this number at byte 16.
	boltMagic, boltAt = 0xED0CDAED, 16
)

// identity is whose file it is.
type identity struct {
	Program string `json:"program"`
	Format  uint32 `json:"format"`
	Layout  uint32 `json:"layout"`
	Name    string `json:"name"`
	URL     string `json:"url"` // canonicalURL: no user, no password
}

// damage is why a file is not what this package wrote.
type damage string

func (d damage) Error() string { return string(d) }

func damagef(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// checksum continues a CRC-32C. MakeTable returns one shared table.
func checksum(crc uint32, data []byte) uint32 {
	return crc32.Update(crc, crc32.MakeTable(crc32.Castagnoli), data)
}

func encodeHeader(base, length int64) []byte {
	out := append(make([]byte, 0, headerSize), magic...)
	out = binary.LittleEndian.AppendUint64(out, uint64(base))
	out = binary.LittleEndian.AppendUint64(out, uint64(length))
	return binary.LittleEndian.AppendUint32(out, checksum(0, out))
}

// encodeFrame returns the frame that follows the given chain, and its own chain.
func encodeFrame(chain uint32, payload []byte) ([]byte, uint32) {
	out := make([]byte, frameHead, frameHead+len(payload))
	binary.LittleEndian.PutUint64(out, uint64(len(payload)))
	chain = checksum(checksum(chain, out[:8]), payload)
	binary.LittleEndian.PutUint32(out[8:], chain)
	return append(out, payload...), chain
}

func encodeBatch(b Batch) []byte {
	size := 0
	for _, key := range b.Delete {
		size += len(key) + binary.MaxVarintLen32
	}
	for _, r := range b.Put {
		size += len(r.Key) + len(r.Value) + 2*binary.MaxVarintLen32
	}
	out := make([]byte, 0, size)
	for _, key := range b.Delete {
		out = append(binary.AppendUvarint(out, uint64(len(key))), key...)
		out = append(out, 0)
	}
	for _, r := range b.Put {
		out = append(binary.AppendUvarint(out, uint64(len(r.Key))), r.Key...)
		out = append(binary.AppendUvarint(out, uint64(len(r.Value))+1), r.Value...)
	}
	return out
}

// decodeBatch calls visit with each change of a payload that begins at base:
// key and value (nil: deleted), which are parts of the payload, and where in the
// file the change ends. It returns visit's first error.
func decodeBatch(p []byte, base int64, visit func(key, value []byte, at int64) error) error {
	at := 0
	number := func() (n int, ok bool) {
		v, width := binary.Uvarint(p[at:])
		at += max(width, 0)
		return int(v), width > 0 && v <= uint64(len(p)-at)+1
	}
	for at < len(p) {
		n, ok := number()
		if !ok || n > len(p)-at {
			return damagef("a change has no key")
		}
		key := p[at : at+n]
		at += n
		var value []byte
		n, ok = number()
		switch {
		case !ok:
			return damagef("the change of key %q is cut short", key)
		case n > 0:
			value = p[at : at+n-1]
			at += n - 1
		}
		if err := visit(key, value, base+int64(at)); err != nil {
			return err
		}
	}
	return nil
}

// reader reads the frames of a file. It relies on nothing that a checksum has
// not confirmed; a size is at most what the file still has.
type reader struct {
	buffered     *bufio.Reader
	base, length int64 // as in the header
	size         int64 // of the file
	at           int64 // where the next frame begins
	chain        uint32
	payload      []byte // of the last frame
}

func newReader(file io.ReaderAt, size int64) (*reader, error) {
	r := &reader{buffered: bufio.NewReaderSize(io.NewSectionReader(file, 0, size), 1<<16), size: size}
	var head [headerSize]byte
	if err := r.read(head[:]); err != nil {
		return nil, err
	}
	r.at = headerSize
	r.base = int64(binary.LittleEndian.Uint64(head[8:]))
	r.length = int64(binary.LittleEndian.Uint64(head[16:]))
	if !bytes.Equal(head[:], encodeHeader(r.base, r.length)) {
		if binary.NativeEndian.Uint32(head[boltAt:]) == boltMagic {
			return nil, &OlderError{Have: "format 1", Want: fmt.Sprintf("format %d", formatVersion)}
		}
		return nil, damagef("its header is not valid")
	}
	if r.length < r.at || r.length > size {
		return nil, damagef("it is %d bytes long, but %d were written", size, r.length)
	}
	return r, nil
}

// read fills buf.
func (r *reader) read(buf []byte) error {
	_, err := io.ReadFull(r.buffered, buf)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return damagef("it ends within the %d bytes at byte %d", len(buf), r.at)
	case errors.Is(err, syscall.EIO):
		return fmt.Errorf("%w: %w", damagef("the disk cannot read the %d bytes at byte %d: %v", len(buf), r.at, err), err)
	}
	return err
}

// next reads one frame.
func (r *reader) next() error {
	var head [frameHead]byte
	if err := r.read(head[:]); err != nil {
		return err
	}
	size := binary.LittleEndian.Uint64(head[:])
	if size > uint64(r.size-r.at) {
		return damagef("the frame at byte %d is longer than the file", r.at)
	}
	r.payload = slices.Grow(r.payload[:0], int(size))[:size]
	if err := r.read(r.payload); err != nil {
		return err
	}
	chain := checksum(checksum(r.chain, head[:8]), r.payload)
	if chain != binary.LittleEndian.Uint32(head[8:]) {
		return damagef("the frame at byte %d is not what was written", r.at)
	}
	r.chain, r.at = chain, r.at+frameHead+int64(len(r.payload))
	return nil
}

// identity reads the first frame.
func (r *reader) identity() (id identity, err error) {
	if err := r.next(); err != nil {
		return id, err
	}
	if json.Unmarshal(r.payload, &id) != nil || id.Program != program {
		return id, damagef("it does not name its GitLab")
	}
	return id, nil
}

// changes reads the frames after the identity and calls visit as decodeBatch does.
// It ends where no whole frame follows, unless that is below the acknowledged
// length.
func (r *reader) changes(visit func(key, value []byte, at int64) error) error {
	for {
		err := r.next()
		if _, ok := errors.AsType[damage](err); ok && r.at >= r.length && !errors.Is(err, syscall.EIO) {
			return nil
		}
		if err == nil {
			err = decodeBatch(r.payload, r.at-int64(len(r.payload)), visit)
		}
		if err != nil {
			return err
		}
	}
}

// readIdentity opens a file and reads no more of it than whose it is. The
// caller closes the file.
func readIdentity(path string, flags int) (_ *os.File, _ *reader, id identity, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, id, err
	}
	if !info.Mode().IsRegular() { // opening a named pipe would wait for ever
		return nil, nil, id, damagef("it is no regular file but %s", info.Mode().Type())
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, nil, id, err
	}
	r, err := newReader(f, info.Size())
	if err == nil {
		id, err = r.identity()
	}
	if err != nil {
		return nil, nil, id, errors.Join(err, f.Close())
	}
	return f, r, id, nil
}
