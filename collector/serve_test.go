package collector

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/prometheus/client_golang/prometheus/promhttp/zstd" // the reference offers zstd only so
	"go.uber.org/goleak"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type recordingLogger struct {
	mu    sync.Mutex
	lines []string
}

func (l *recordingLogger) Log(kv ...any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintln(kv...))
	return nil
}

// TestNegotiatesAsPromhttp compares with client_golang's own handler.
func TestNegotiatesAsPromhttp(t *testing.T) {
	e := newExporter(t, Options{})
	reference := promhttp.HandlerFor(prometheus.NewRegistry(), promhttp.HandlerOpts{EnableOpenMetrics: true})
	accepts := []string{
		"", "*/*", "text/html", "text/plain", acceptText, acceptOM, acceptProto,
		"application/openmetrics-text", "application/openmetrics-text;version=0.0.1",
		"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
		"text/plain;version=1.0.0;escaping=allow-utf-8",
		"text/plain;version=0.0.4;escaping=dots", "application/openmetrics-text;version=1.0.0;escaping=values",
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text",
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=compact-text",
		"application/vnd.google.protobuf", "image/png;q=0.9", "nonsense;;",
	}
	encodings := []string{
		"", "gzip", "zstd", "gzip, zstd", "zstd, gzip", "br, gzip", "*", "identity", "gzip;q=0", "gzip;q=0.5, zstd;q=0.9",
		"zstd;q=0.501,gzip;q=0.5", "identity;q=0, gzip", "gzip;q=1.0", "gzip;q=2", "gzip;level=9", "deflate", "gzip;q=", "gzip;q=0.x, zstd",
		"gzip ; q=0.3 , zstd ; q=0.2", ", gzip", "*;q=0.1, zstd;q=0.2",
	}
	for _, accept := range accepts {
		for _, encoding := range encodings {
			var h [2]http.Header
			for i, handler := range []http.Handler{e.Handler(), reference} {
				r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
				r.Header.Set("Accept", accept)
				r.Header.Set("Accept-Encoding", encoding)
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, r)
				h[i] = w.Result().Header
			}
			for _, key := range []string{"Content-Type", "Content-Encoding", "Vary"} {
				got, want := strings.Join(h[0].Values(key), ", "), strings.Join(h[1].Values(key), ", ")
				if key == "Content-Encoding" {
					want = strings.TrimPrefix(want, identity)
				}
				if got != want {
					t.Errorf("Accept %q, Accept-Encoding %q: %s is %q, promhttp's %q", accept, encoding, key, got, want)
				}
			}
		}
	}
}

func TestCompressedBodiesAreTheSame(t *testing.T) {
	e := newExporter(t, Options{Disable: []string{selfPrefix + "time_seconds"}}) // another at each scrape
	e.Publish(large(50))
	for _, accept := range []string{acceptText, acceptOM, acceptProto} {
		plain := scrape(t, e, accept, "")
		want := plain.Body.Bytes()
		if got := plain.Header().Get("Content-Length"); got != strconv.Itoa(len(want)) {
			t.Errorf("Content-Length %s of %d bytes", got, len(want))
		}
		for range 2 { // the second one with a pooled compressor
			zr, err := gzip.NewReader(scrape(t, e, accept, encodingGzip).Body)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(zr); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: gzip holds something else: %v", accept, err)
			}
			zd, err := zstd.NewReader(scrape(t, e, accept, encodingZstd).Body)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(zd); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: zstd holds something else: %v", accept, err)
			}
			zd.Close()
		}
	}
}

func TestOnlyGetAndHeadAreAnswered(t *testing.T) {
	e := newExporter(t, Options{})
	e.Publish(small("corp"))
	for method, want := range map[string]int{
		http.MethodGet: 200, http.MethodHead: 200, http.MethodPost: 405, http.MethodPut: 405, http.MethodDelete: 405, http.MethodOptions: 405,
	} {
		w := httptest.NewRecorder()
		e.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/metrics", nil))
		if w.Code != want {
			t.Errorf("%s: %d, want %d", method, w.Code, want)
		}
		if want == http.StatusMethodNotAllowed && w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: Allow is %q", method, w.Header().Get("Allow"))
		}
		if method == http.MethodHead && (w.Body.Len() > 0 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain")) {
			t.Errorf("HEAD: %d bytes, %v", w.Body.Len(), w.Header())
		}
	}
}

func TestAnswersFromTheFirstSecond(t *testing.T) {
	e := newExporter(t, Options{})
	body := scrapeBody(t, e, acceptText)
	if !strings.Contains(body, selfPrefix+"build_info{") || strings.Contains(body, fleetPrefix+"up{") {
		t.Error("before the first publish: self metrics only")
	}
	e.Publish(waiting("corp"))
	if body = scrapeBody(t, e, acceptText); !strings.Contains(body, "\n"+fleetPrefix+`up{gitlab="corp"} 0`+"\n") {
		t.Error("a GitLab that did not answer yet is not shown down")
	}
}

// client is a scraper whose behaviour a test decides.
type client struct {
	header  http.Header
	writes  chan struct{} // one needed for each write; nil: any number
	fail    error         // of the write after those
	flush   error
	written bytes.Buffer
}

func (c *client) Header() http.Header {
	if c.header == nil {
		c.header = http.Header{}
	}
	return c.header
}
func (c *client) WriteHeader(int)   {}
func (c *client) FlushError() error { return c.flush }
func (c *client) Write(p []byte) (int, error) {
	if c.writes != nil {
		if _, ok := <-c.writes; !ok && c.fail != nil {
			return 0, c.fail
		}
	}
	return c.written.Write(p)
}

// plainWriter is a ResponseWriter without Flush, as some middleware makes it.
type plainWriter struct{ c *client }

func (p plainWriter) Header() http.Header         { return p.c.Header() }
func (p plainWriter) WriteHeader(int)             {}
func (p plainWriter) Write(b []byte) (int, error) { return p.c.Write(b) }

func TestServedIsTheGenerationOfACompleteScrape(t *testing.T) {
	served := func(e *Exporter, gen, rows uint64, when string) {
		t.Helper()
		if g, r := e.Served("corp"), e.ServedRows("corp"); g != gen || r != rows {
			t.Errorf("%s: served %d and rows %d, want %d and %d", when, g, r, gen, rows)
		}
	}
	request := func(ctx context.Context, method string) *http.Request {
		r := httptest.NewRequestWithContext(ctx, method, "/metrics", nil)
		r.Header.Set("Accept", acceptText)
		return r
	}
	e := newExporter(t, Options{})
	served(e, 0, 0, "nothing published")
	s := small("corp")
	e.Publish(withGeneration(s, 7, 5))
	served(e, 0, 0, "nothing scraped")

	e.serve(httptest.NewRecorder(), request(t.Context(), http.MethodHead))
	served(e, 0, 0, "HEAD")
	broken := &client{writes: make(chan struct{}, 3), fail: io.ErrClosedPipe}
	broken.writes <- struct{}{}
	close(broken.writes)
	for _, encoding := range []string{"", "gzip", "zstd"} {
		r := request(t.Context(), http.MethodGet)
		r.Header.Set("Accept-Encoding", encoding)
		e.serve(broken, r)
		served(e, 0, 0, "write failed, encoding "+encoding)
	}
	e.serve(&client{flush: io.ErrClosedPipe}, request(t.Context(), http.MethodGet))
	served(e, 0, 0, "flush failed")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	e.serve(&client{}, request(gone, http.MethodGet))
	served(e, 0, 0, "client gone")
	e.serve(plainWriter{&client{}}, request(t.Context(), http.MethodGet))
	served(e, 7, 5, "a whole scrape through a writer that cannot flush")

	e.Publish(withGeneration(s, 8, 5))
	served(e, 7, 5, "published and not yet scraped")
	scrapeBody(t, e, acceptProto)
	served(e, 8, 5, "scraped, rows unchanged")

	// A scrape that began with generation 8 ends after one of generation 9.
	slow := &client{writes: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.serve(slow, request(t.Context(), http.MethodGet))
	}()
	slow.writes <- struct{}{}
	e.Publish(withGeneration(s, 9, 9))
	scrapeBody(t, e, acceptText)
	served(e, 9, 9, "the quicker scrape")
	close(slow.writes)
	<-done
	served(e, 9, 9, "the slower, older scrape")

	// A scrape that began before the GitLab was withdrawn is no evidence about the
	// one of the same name that came after.
	slow = &client{writes: make(chan struct{})}
	done = make(chan struct{})
	go func() {
		defer close(done)
		e.serve(slow, request(t.Context(), http.MethodGet))
	}()
	slow.writes <- struct{}{}
	e.Withdraw("corp")
	served(e, 0, 0, "withdrawn")
	e.Publish(withGeneration(s, 1, 1))
	close(slow.writes)
	<-done
	served(e, 0, 0, "published anew")
	scrapeBody(t, e, acceptText)
	served(e, 1, 1, "scraped anew")

	e.Publish(withGeneration(s, 20, 20))
	scrapeBody(t, e, acceptText)
	e.Publish(withGeneration(s, 2, 2))
	served(e, 0, 0, "generations began again")
	e.Withdraw("unknown")
	if strings.Contains(scrapeBody(t, e, acceptText), `gitlab="unknown"`) || e.Served("unknown") != 0 {
		t.Error("an unknown GitLab is known")
	}
}

// TestClientThatGoesAwayHoldsNothing over a real connection, with most of the body unread.
func TestClientThatGoesAwayHoldsNothing(t *testing.T) {
	e := newExporter(t, Options{})
	e.Publish(large(20_000)) // far more than the sockets' buffers hold
	ended := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		e.Handler().ServeHTTP(w, r)
	}))
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
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
	if _, err := io.ReadFull(resp.Body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = resp.Body.Close()
	<-ended
	if got := e.Served("corp"); got != 0 {
		t.Errorf("generation %d counts as served", got)
	}
}

// TestRowsChangeWithTheirGenerationOnly: runner_ families change with RowsGeneration only, in every
// format the same, those rendered later included; a withdrawal takes them at once.
func TestRowsChangeWithTheirGenerationOnly(t *testing.T) {
	e := newExporter(t, Options{})
	e.Publish(withGeneration(small("corp"), 1, 1))
	scrapeBody(t, e, acceptText)

	changed := small("corp")
	changed.Up = false
	changed.Fleet.Rows[0].Paused = true
	e.Publish(withGeneration(changed, 2, 1))
	const paused = fleetPrefix + `runner_paused{gitlab="corp",runner_id="9"} `
	for accept, suffix := range map[string]string{acceptText: "", acceptOM: ".0"} {
		body := scrapeBody(t, e, accept)
		if !strings.Contains(body, paused+"0"+suffix+"\n") || !strings.Contains(body, fleetPrefix+`up{gitlab="corp"} 0`) {
			t.Errorf("%s: not the new sums with the old rows", accept)
		}
	}
	e.Publish(withGeneration(changed, 3, 3))
	if !strings.Contains(scrapeBody(t, e, acceptText), paused+"1\n") {
		t.Error("the rows did not change with their generation")
	}
	down := withGeneration(changed, 4, 3)
	down.Fleet = nil
	e.Publish(down)
	if body := scrapeBody(t, e, acceptText); strings.Contains(body, paused) || !strings.Contains(body, "runner_jobs_finished_total{") {
		t.Error("a withdrawal leaves rows, or takes counters")
	}
	e.Publish(withGeneration(changed, 5, 3))
	if !strings.Contains(scrapeBody(t, e, acceptText), paused) {
		t.Error("the rows do not come back")
	}
	uncounted := withGeneration(changed, 6, 3)
	uncounted.Counters = nil
	e.Publish(uncounted)
	if strings.Contains(scrapeBody(t, e, acceptText), "runner_jobs_finished_total{") {
		t.Error("counters that are not there are shown")
	}
}

// TestPublishRendersTheFormatsInUse: a publish renders the formats that were asked for within
// ten minutes, and no others.
func TestPublishRendersTheFormatsInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExporter(t, Options{})
		gen := uint64(0)
		ahead := func() (out [numFormats]bool) {
			gen++
			e.Publish(withGeneration(small("corp"), gen, gen))
			en := (*e.picture.Load())[0]
			for f := range out {
				out[f] = en.main.blocks[f] != nil
				if out[f] != (en.rows.blocks[f] != nil) {
					t.Errorf("format %d: one part rendered without the other", f)
				}
			}
			return out
		}
		if got := ahead(); got != [numFormats]bool{} {
			t.Errorf("nobody asked, rendered %v", got)
		}
		scrapeBody(t, e, acceptOM)
		time.Sleep(9 * time.Minute)
		scrapeBody(t, e, acceptProto)
		if got := ahead(); got != [numFormats]bool{formatOpenMetrics: true, formatProto: true} {
			t.Errorf("after 9 minutes rendered %v", got)
		}
		time.Sleep(2 * time.Minute)
		if got := ahead(); got != [numFormats]bool{formatProto: true} {
			t.Errorf("after 11 minutes rendered %v", got)
		}
	})
}

// marked is a GitLab in which every number holds the generation it came from.
func marked(name string, gen, rows uint64) *snapshot.GitLab {
	s := withGeneration(small(name), gen, rows)
	n := int(gen)
	s.Fleet.Busy = [snapshot.NumRunnerTypes]int{n, n, n}
	s.Counters.JobsFinished[0].Value = float64(gen)
	for i := range s.Counters.Runners {
		s.Counters.Runners[i].Value = float64(rows)
	}
	return s
}

// TestEachScrapeShowsOneGeneration: each scrape shows one generation throughout, none
// shows an older one than a scrape before it, and Served lags behind what was
// shown and never runs ahead.
func TestEachScrapeShowsOneGeneration(t *testing.T) {
	e := newExporter(t, Options{})
	const publishes = 60
	names := []string{"corp", "public"}
	for _, name := range names {
		e.Publish(marked(name, 1, 1))
	}
	ctx := t.Context()
	publishing, cancel := context.WithCancel(ctx)
	defer cancel()
	var publishers, scrapers sync.WaitGroup
	for _, name := range names {
		publishers.Go(func() {
			for gen := uint64(2); gen <= publishes; gen++ {
				e.Publish(marked(name, gen, max(1, gen/3*3)))
			}
		})
	}
	number := regexp.MustCompile(`^gitlab_runner_fleet_(busy_runners|jobs_finished_total|runner_jobs_finished_total)\{.*gitlab="(\w+)".*\} (\d+)`)
	for i := range 3 {
		accept, encoding := []string{acceptText, acceptOM, acceptText}[i], []string{"", "", "gzip"}[i]
		scrapers.Go(func() {
			last := map[string]uint64{}
			for publishing.Err() == nil {
				before := map[string]uint64{"corp": e.Served("corp"), "public": e.Served("public")}
				w := fetch(ctx, e, accept, encoding)
				var body io.Reader = w.Body
				if encoding != "" {
					zr, err := gzip.NewReader(body)
					if err != nil {
						t.Error(err)
						return
					}
					body = zr
				}
				text, err := io.ReadAll(body)
				if err != nil {
					t.Error(err)
					return
				}
				gens := map[string]uint64{}
				for line := range strings.Lines(string(text)) {
					m := number.FindStringSubmatch(line)
					if m == nil || strings.Contains(line, "script_failure") {
						continue
					}
					gen, _ := strconv.ParseUint(m[3], 10, 64)
					key := m[2]
					if m[1] == "runner_jobs_finished_total" {
						key += " rows"
					}
					if old, ok := gens[key]; ok && old != gen {
						t.Errorf("one scrape shows generations %d and %d of %s", old, gen, key)
						return
					}
					gens[key] = gen
				}
				for key, gen := range gens {
					if gen < last[key] {
						t.Errorf("%s goes back from %d to %d", key, last[key], gen)
					}
					last[key] = gen
				}
				for _, name := range names {
					if before[name] > gens[name] {
						t.Errorf("generation %d was called served, the next scrape shows %d", before[name], gens[name])
					}
					if got := e.Served(name); got < gens[name] {
						t.Errorf("shown %d, served %d", gens[name], got)
					}
					if got := e.ServedRows(name); got < gens[name+" rows"] {
						t.Errorf("shown rows %d, served %d", gens[name+" rows"], got)
					}
				}
			}
		})
	}
	publishers.Wait()
	cancel()
	scrapers.Wait()
	scrapeBody(t, e, acceptText)
	if g, r := e.Served("public"), e.ServedRows("public"); g != publishes || r != publishes {
		t.Errorf("at the end served %d, rows %d", g, r)
	}
}

// TestGatherErrorHidesNothing: a broken self metric is logged, and the fleet is
// served all the same.
func TestGatherErrorHidesNothing(t *testing.T) {
	var log recordingLogger
	e := newExporter(t, Options{Logger: &log})
	e.registry.MustRegister(failing{})
	e.Publish(small("corp"))
	if !strings.Contains(scrapeBody(t, e, acceptText), fleetPrefix+`up{gitlab="corp"} 1`) {
		t.Error("the fleet is hidden")
	}
	if len(log.lines) != 1 || !strings.Contains(log.lines[0], "broken on purpose") {
		t.Errorf("logged %q", log.lines)
	}
}

type failing struct{}

func (failing) Describe(chan<- *prometheus.Desc) {}
func (failing) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(prometheus.NewDesc("broken", "Broken.", nil, nil), errors.New("broken on purpose"))
}
