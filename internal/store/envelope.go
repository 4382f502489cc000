package store

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

// Each value on disk is checksum | layout | payload, both numbers 32 bits, little
// endian. The checksum (CRC-32C) covers key, layout and payload, so that neither
// a flipped bit nor a value under another's key passes.
const (
	envelopeSize = 8
	maxKey       = 32768                          // bbolt's own limit
	maxValue     = math.MaxInt32/2 - envelopeSize // half of bbolt's, so that no sum of ours overflows
)

func checksum(key, rest []byte) uint32 {
	// MakeTable returns the one shared table for Castagnoli, made once.
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Update(0, table, key), table, rest)
}

// seal wraps a payload for the disk.
func seal(layout uint32, key, payload []byte) []byte {
	out := make([]byte, envelopeSize, envelopeSize+len(payload))
	binary.LittleEndian.PutUint32(out[4:], layout)
	out = append(out, payload...)
	binary.LittleEndian.PutUint32(out, checksum(key, out[4:]))
	return out
}

// unseal returns a part of stored; !ok: it is not what seal made for this key.
func unseal(key, stored []byte) (layout uint32, payload []byte, ok bool) {
	if len(stored) < envelopeSize || binary.LittleEndian.Uint32(stored) != checksum(key, stored[4:]) {
		return 0, nil, false
	}
	return binary.LittleEndian.Uint32(stored[4:]), stored[envelopeSize:], true
}

// summary is kept beside the records and changed with them in each commit. It
// shows what no checksum of a single value can: a record that is missing, or a
// page that went back to an older, in itself correct content.
type summary struct {
	count uint64 // records
	hash  uint64 // sum over all of them of mix(checksum)
	txid  uint64 // bbolt's number of the transaction that wrote it
}

const summarySize = 24

func (s *summary) add(stored []byte)    { s.count++; s.hash += mix(stored) }
func (s *summary) remove(stored []byte) { s.count--; s.hash -= mix(stored) }

// mix spreads a stored value's checksum over 64 bits. CRCs themselves must not
// be combined by XOR: they are linear, so two counters that went from 5 to 6 in
// one commit would hide each other when both went back (finalizer of splitmix64).
func mix(stored []byte) uint64 {
	x := uint64(binary.LittleEndian.Uint32(stored)) + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (s summary) encode() []byte {
	out := make([]byte, 0, summarySize)
	out = binary.LittleEndian.AppendUint64(out, s.count)
	out = binary.LittleEndian.AppendUint64(out, s.hash)
	return binary.LittleEndian.AppendUint64(out, s.txid)
}

func decodeSummary(b []byte) (s summary, ok bool) {
	if len(b) != summarySize {
		return summary{}, false
	}
	return summary{
		count: binary.LittleEndian.Uint64(b),
		hash:  binary.LittleEndian.Uint64(b[8:]),
		txid:  binary.LittleEndian.Uint64(b[16:]),
	}, true
}
