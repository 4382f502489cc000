package collector

import (
	"cmp"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
)

// discard is a client that reads everything at once.
type discard struct {
	header http.Header
	n      int
}

func (d *discard) Header() http.Header { return d.header }
func (d *discard) WriteHeader(int)     {}
func (d *discard) Flush()              {}
func (d *discard) Write(p []byte) (int, error) {
	d.n += len(p)
	return len(p), nil
}

const benchRunners = 10000

var benchFormats = []struct{ name, accept, encoding string }{
	{"text", acceptText, ""},
	{"om", acceptOM, ""},
	{"proto", acceptProto, ""},
	{"text_gzip", acceptText, "gzip"},
	{"om_gzip", acceptOM, "gzip"},
	{"proto_gzip", acceptProto, "gzip"},
	{"om_zstd", acceptOM, "zstd"},
}

func get(tb testing.TB, e *Exporter, accept, encoding string) int {
	tb.Helper()
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", accept)
	r.Header.Set("Accept-Encoding", encoding)
	d := &discard{header: http.Header{}}
	e.serve(d, r)
	return d.n
}

// BenchmarkScrape: what Prometheus waits for, of blocks rendered ahead.
func BenchmarkScrape(b *testing.B) {
	for _, f := range benchFormats {
		b.Run(f.name, func(b *testing.B) {
			e := newExporter(b, Options{})
			e.Publish(large(benchRunners))
			n := get(b, e, f.accept, f.encoding)
			b.ReportAllocs()
			for b.Loop() {
				get(b, e, f.accept, f.encoding)
			}
			b.ReportMetric(float64(n), "bytes")
			b.ReportMetric(float64((*e.picture.Load())[0].main.view.series), "series")
		})
	}
}

// BenchmarkScrapeLoopback: the same over a TCP connection, the body read and not unpacked.
func BenchmarkScrapeLoopback(b *testing.B) {
	for _, f := range benchFormats {
		b.Run(f.name, func(b *testing.B) {
			e := newExporter(b, Options{})
			e.Publish(large(benchRunners))
			srv := httptest.NewServer(e.Handler())
			defer srv.Close()
			for b.Loop() {
				r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, srv.URL, nil)
				if err != nil {
					b.Fatal(err)
				}
				r.Header.Set("Accept", f.accept)
				r.Header.Set("Accept-Encoding", cmp.Or(f.encoding, "identity"))
				resp, err := srv.Client().Do(r)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					b.Fatal(err)
				}
				_ = resp.Body.Close()
			}
		})
	}
}

// BenchmarkFirstScrape: of a format that nobody asked for in the last minutes.
func BenchmarkFirstScrape(b *testing.B) {
	for _, f := range benchFormats {
		b.Run(f.name, func(b *testing.B) {
			s := large(benchRunners)
			for b.Loop() {
				e := newExporter(b, Options{})
				e.Publish(s)
				get(b, e, f.accept, f.encoding)
			}
		})
	}
}

// BenchmarkPublish: with all rows changed, and with the sums only; formats as a
// Prometheus that asks for compressed OpenMetrics makes them hot.
func BenchmarkPublish(b *testing.B) {
	for _, rows := range []bool{true, false} {
		name := "sums"
		if rows {
			name = "all"
		}
		b.Run(name, func(b *testing.B) {
			e := newExporter(b, Options{})
			s := large(benchRunners)
			e.Publish(s)
			get(b, e, acceptOM, "gzip")
			b.ReportAllocs()
			gen := uint64(1)
			for b.Loop() {
				gen++
				n := withGeneration(s, gen, 1)
				if rows {
					n.RowsGeneration = gen
				}
				e.Publish(n)
			}
		})
	}
}

// BenchmarkRetained reports the memory that stays with the exporter beside the
// snapshot, after 20 publishes with a scrape each.
func BenchmarkRetained(b *testing.B) {
	for _, f := range benchFormats {
		b.Run(f.name, func(b *testing.B) {
			var before, after runtime.MemStats
			s := large(benchRunners)
			for b.Loop() {
				e := newExporter(b, Options{})
				runtime.GC()
				runtime.GC()
				runtime.ReadMemStats(&before)
				for gen := range uint64(20) {
					e.Publish(withGeneration(s, gen+1, gen+1))
					get(b, e, f.accept, f.encoding)
				}
				runtime.GC()
				runtime.GC()
				runtime.ReadMemStats(&after)
				runtime.KeepAlive(e)
			}
			runtime.KeepAlive(s)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB-retained")
			b.ReportMetric(float64(after.Mallocs-before.Mallocs)/20, "allocs/publish+scrape")
		})
	}
}
