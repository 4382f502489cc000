package collector

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// The content encodings offered, those of client_golang.
const (
	identity     = "identity"
	encodingGzip = "gzip"
	encodingZstd = "zstd"
)

// negotiateEncoding chooses as promhttp does: the best quality, and among equals
// identity before gzip before zstd. What cannot be agreed upon is identity.
func negotiateEncoding(h http.Header) string {
	type offer struct {
		coding string
		q      float64
	}
	var accepted []offer
lines:
	for _, line := range h.Values("Accept-Encoding") {
		for item := range strings.SplitSeq(line, ",") {
			coding, params, weighted := strings.Cut(item, ";")
			o := offer{coding: strings.TrimSpace(coding), q: 1}
			if o.coding == "" {
				continue lines
			}
			if weighted {
				var ok bool
				if o.q, ok = quality(strings.TrimSpace(params)); !ok {
					continue lines
				}
			}
			accepted = append(accepted, o)
		}
	}
	best, bestQ := identity, 0.0
	for _, coding := range []string{identity, encodingGzip, encodingZstd} {
		for _, o := range accepted {
			if o.q > bestQ && (o.coding == "*" || o.coding == coding) {
				best, bestQ = coding, o.q
			}
		}
	}
	return best
}

// quality reads "q=" and a number from 0 to 1.
func quality(s string) (float64, bool) {
	s, ok := strings.CutPrefix(s, "q=")
	if !ok || s == "" || (s[0] != '0' && s[0] != '1') {
		return 0, false
	}
	q := float64(s[0] - '0')
	if len(s) == 1 {
		return q, true
	}
	if s[1] != '.' {
		return 0, false
	}
	unit := 0.1
	for _, d := range s[2:] {
		if d < '0' || d > '9' {
			return 0, false
		}
		q += float64(d-'0') * unit
		unit /= 10
	}
	return q, true
}

// deflateFrom is the size from which a chunk is worth a compressed copy: each
// costs the compressor a fresh start.
const deflateFrom = 64 << 10

// deflateLevel: a higher one is not worth its time on text as regular as this.
const deflateLevel = 1

func getFlate(pool *sync.Pool, w io.Writer) (*flate.Writer, error) {
	if fw, _ := pool.Get().(*flate.Writer); fw != nil {
		fw.Reset(w)
		return fw, nil
	}
	fw, err := flate.NewWriter(w, deflateLevel)
	if err != nil {
		return nil, fmt.Errorf("make deflate writer: %w", err)
	}
	return fw, nil
}

// deflateAll compresses the large chunks once for all scrapes. A chunk begins
// with an empty history and ends at a byte's edge, so it can be spliced into any
// deflate stream.
func (b *block) deflateAll() {
	b.once.Do(func() {
		var buf bytes.Buffer
		fw, err := getFlate(b.flates, &buf)
		if err != nil {
			return // writeGzip compresses what is not, or fails in its turn
		}
		defer b.flates.Put(fw)
		for i := range b.chunks {
			c := &b.chunks[i]
			if len(c.raw) < deflateFrom {
				continue
			}
			buf.Reset()
			fw.Reset(&buf)
			_, werr := fw.Write(c.raw)
			if err := errors.Join(werr, fw.Flush()); err == nil {
				c.deflated = bytes.Clone(buf.Bytes())
			}
		}
	})
}

// writeGzip writes one gzip member (some clients read no second one) in which
// chunks compressed ahead stand between those compressed now.
func writeGzip(w io.Writer, body []chunk, pool *sync.Pool) error {
	bw := bufio.NewWriterSize(w, 64<<10)
	fw, err := getFlate(pool, bw)
	if err != nil {
		return err
	}
	defer pool.Put(fw)
	if _, err := bw.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}); err != nil {
		return fmt.Errorf("write gzip header: %w", err)
	}
	var crc, size uint32
	dirty := false
	for _, c := range body {
		crc = crc32.Update(crc, crc32.IEEETable, c.raw)
		size += uint32(len(c.raw)) //nolint:gosec // gzip's size is modulo 2^32
		if c.deflated == nil {
			if _, err := fw.Write(c.raw); err != nil {
				return fmt.Errorf("write gzip: %w", err)
			}
			dirty = true
			continue
		}
		if dirty {
			if err := fw.Flush(); err != nil {
				return fmt.Errorf("write gzip: %w", err)
			}
			// What comes next must not refer back over the spliced bytes.
			fw.Reset(bw)
			dirty = false
		}
		if _, err := bw.Write(c.deflated); err != nil {
			return fmt.Errorf("write gzip: %w", err)
		}
	}
	if err := fw.Close(); err != nil {
		return fmt.Errorf("write gzip: %w", err)
	}
	trailer := binary.LittleEndian.AppendUint32(nil, crc)
	trailer = binary.LittleEndian.AppendUint32(trailer, size)
	if _, err := bw.Write(trailer); err != nil {
		return fmt.Errorf("write gzip trailer: %w", err)
	}
	if err := bw.Flush(); err != nil {
		return fmt.Errorf("write gzip: %w", err)
	}
	return nil
}

func writeZstd(w io.Writer, body []chunk, pool *sync.Pool) error {
	enc, _ := pool.Get().(*zstd.Encoder)
	if enc == nil {
		var err error
		// Concurrency 1: no goroutines of its own, so one that is dropped leaks nothing.
		if enc, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1)); err != nil {
			return fmt.Errorf("make zstd encoder: %w", err)
		}
	}
	defer pool.Put(enc)
	enc.Reset(w)
	if err := writeAll(enc, body); err != nil {
		return err
	}
	if err := enc.Close(); err != nil {
		return fmt.Errorf("write zstd: %w", err)
	}
	return nil
}

func writeAll(w io.Writer, body []chunk) error {
	for _, c := range body {
		if _, err := w.Write(c.raw); err != nil {
			return fmt.Errorf("write body: %w", err)
		}
	}
	return nil
}
