package collector

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
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

// writeGzip compresses at the fastest level: a higher one is not worth its time
// on text as regular as this.
func writeGzip(w io.Writer, body [][]byte, pool *sync.Pool) error {
	enc, _ := pool.Get().(*gzip.Writer)
	if enc == nil {
		var err error
		if enc, err = gzip.NewWriterLevel(nil, gzip.BestSpeed); err != nil {
			return fmt.Errorf("make gzip writer: %w", err)
		}
	}
	defer pool.Put(enc)
	enc.Reset(w)
	if err := writeAll(enc, body); err != nil {
		return err
	}
	if err := enc.Close(); err != nil {
		return fmt.Errorf("write gzip: %w", err)
	}
	return nil
}

func writeZstd(w io.Writer, body [][]byte, pool *sync.Pool) error {
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

func writeAll(w io.Writer, body [][]byte) error {
	for _, c := range body {
		if _, err := w.Write(c); err != nil {
			return fmt.Errorf("write body: %w", err)
		}
	}
	return nil
}
