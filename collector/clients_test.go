package collector

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// paced is a client that takes one chunk in each pace, and none if it is 0; its
// connection has a deadline, as a real one.
type paced struct {
	header   http.Header
	pace     time.Duration
	deadline time.Time
	changed  chan struct{} // closed by a new deadline
	mu       sync.Mutex
	took     int
}

func newPaced(pace time.Duration) *paced {
	return &paced{header: http.Header{}, pace: pace, changed: make(chan struct{})}
}

func (p *paced) Header() http.Header { return p.header }
func (p *paced) WriteHeader(int)     {}
func (p *paced) FlushError() error   { return nil }

func (p *paced) SetWriteDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline = t
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

func (p *paced) Write(b []byte) (int, error) {
	var ready <-chan time.Time
	if p.pace > 0 {
		ready = time.After(time.Duration(int64(p.pace) * int64(len(b)) / readChunk))
	}
	for {
		p.mu.Lock()
		late, changed := time.After(time.Until(p.deadline)), p.changed
		p.mu.Unlock()
		select {
		case <-ready:
			p.took += len(b)
			return len(b), nil
		case <-late:
			return 0, os.ErrDeadlineExceeded
		case <-changed:
		}
	}
}

func getPage(ctx context.Context, encoding string) *http.Request {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept-Encoding", encoding)
	return r
}

func reading(e *Exporter) int {
	e.readers.mu.Lock()
	defer e.readers.mu.Unlock()
	return len(e.readers.all)
}

// TestClientsThatDoNotReadAreGivenUp, and keep nobody else from being answered.
func TestClientsThatDoNotReadAreGivenUp(t *testing.T) {
	for _, encoding := range []string{identity, encodingGzip} {
		synctest.Test(t, func(t *testing.T) {
			e := newExporter(t, Options{})
			e.Publish(large(300))
			var stuck sync.WaitGroup
			began := time.Now()
			ended := make([]time.Duration, 150)
			for i := range ended {
				stuck.Go(func() {
					e.Handler().ServeHTTP(newPaced(0), getPage(t.Context(), encoding))
					ended[i] = time.Since(began)
				})
			}
			time.Sleep(2 * time.Second)
			if n := reading(e); n > maxReaders || n < maxReaders/2 {
				t.Errorf("%s: %d clients hold a page", encoding, n)
			}
			asked := time.Now()
			w := httptest.NewRecorder()
			e.Handler().ServeHTTP(w, getPage(t.Context(), encoding))
			if took := time.Since(asked); w.Code != http.StatusOK || took > 2*stuckAfter+time.Second {
				t.Errorf("%s: a scrape was answered %d after %s", encoding, w.Code, took)
			}
			stuck.Wait()
			if last := slices.Max(ended); last > makeWait+makeWait+chunkWait {
				t.Errorf("%s: the last was given up after %s", encoding, last)
			}
			if n := reading(e); n != 0 || len(e.makers) != 0 {
				t.Errorf("%s: %d readers and %d makers are left", encoding, n, len(e.makers))
			}
			if e.Served("corp") != 1 {
				t.Errorf("%s: generation %d counts as read, want that of the one scrape", encoding, e.Served("corp"))
			}
		})
	}
}

// TestSlowClientGetsItsPage: one that takes a chunk every nine seconds is slow, not stuck,
// and has its page if that ends in time.
func TestSlowClientGetsItsPage(t *testing.T) {
	for pace, whole := range map[time.Duration]bool{9 * time.Second: true, 11 * time.Second: false, 0: false} {
		synctest.Test(t, func(t *testing.T) {
			e := newExporter(t, Options{})
			e.Publish(large(600))
			c := newPaced(pace)
			began := time.Now()
			e.Handler().ServeHTTP(c, getPage(t.Context(), ""))
			if got := e.Served("corp") == 1; got != whole {
				t.Errorf("a chunk in %s: read to its end %t after %s and %d bytes", pace, got, time.Since(began), c.took)
			}
			if c.took < 3*readChunk && whole {
				t.Fatalf("a page of %d bytes proves nothing", c.took)
			}
		})
	}
	// Steady, and yet longer than anybody waits for a page.
	synctest.Test(t, func(t *testing.T) {
		e := newExporter(t, Options{})
		e.Publish(large(40_000))
		began := time.Now()
		e.Handler().ServeHTTP(newPaced(9*time.Second), getPage(t.Context(), ""))
		if took := time.Since(began); took != pageWait || e.Served("corp") != 0 {
			t.Errorf("given up after %s", took)
		}
	})
}

// TestSocketsThatDoNotReadAreGivenUp is the same over the loopback, where the kernel
// takes the first megabytes.
func TestSocketsThatDoNotReadAreGivenUp(t *testing.T) {
	e := newExporter(t, Options{})
	e.Publish(large(20_000))
	srv := httptest.NewServer(e.Handler())
	defer srv.Close()
	for range maxReaders + 10 {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() //nolint:errcheck // a test's
		if _, err := io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		n := reading(e)
		if n == maxReaders {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d clients hold on: the page fits into the kernel's buffers, and this test proves nothing", n)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept-Encoding", identity)
	resp, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if n, err := io.Copy(io.Discard, resp.Body); resp.StatusCode != http.StatusOK || err != nil || n != resp.ContentLength {
		t.Errorf("HTTP %d, %d of %d bytes, %v", resp.StatusCode, n, resp.ContentLength, err)
	}
}
