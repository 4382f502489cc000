package gitlab

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/test/rig"
)

// hostileAtOnce is more than the default of max_concurrent_requests, 8.
const hostileAtOnce = 12

// hostileMemory is what all of them together may take, over the base.
const hostileMemory = 100 << 20

// hostile is an answer made to cost its reader memory or time.
type hostile struct {
	name string
	read func(context.Context, *Client) error
	give func(http.ResponseWriter)
	want Reason // "": it is read, within the bounds
	gzip bool
}

// stream writes parts until they are size bytes together, or the reader leaves.
func stream(w io.Writer, size int, part func(i int) string) {
	var b bytes.Buffer
	for i := 0; size > 0; i++ {
		p := part(i)
		if len(p) > 32<<10 { // not copied: the reader's memory is measured
			if _, err := io.WriteString(w, p); err != nil {
				return
			}
			size -= len(p)
			continue
		}
		b.WriteString(p)
		if b.Len() >= 32<<10 || b.Len() >= size {
			n, err := w.Write(b.Bytes())
			if err != nil {
				return
			}
			size -= n
			b.Reset()
		}
	}
}

func always(s string) func(int) string { return func(int) string { return s } }

// frame puts an answer between a beginning and an end.
func frame(begin string, size int, part func(i int) string, end string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		_, _ = io.WriteString(w, begin)
		stream(w, size, part)
		_, _ = io.WriteString(w, end)
	}
}

// raw answers with 9 MiB that are no HTTP of Go's making.
func raw(begin string, part func(i int) string, end string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, begin)
		stream(conn, 9<<20, part)
		_, _ = io.WriteString(conn, end)
	}
}

const endless = 1 << 30

func hostileAnswers() []hostile {
	list := func(ctx context.Context, c *Client) error { _, err := c.Runners(ctx, Scope{}, 1); return err }
	details := func(ctx context.Context, c *Client) error {
		d, err := c.Runner(ctx, 7, false)
		if len(d.Tags) > maxTags || len(d.Description) > maxDescription {
			return fmt.Errorf("%d tags, a description of %d bytes", len(d.Tags), len(d.Description))
		}
		return err
	}
	managers := func(ctx context.Context, c *Client) error { _, err := c.Managers(ctx, 7); return err }
	jobs := func(ctx context.Context, c *Client) error {
		_, err := c.RunnerJobs(ctx, JobsQuery{RunnerID: 7})
		return err
	}
	job := func(ctx context.Context, c *Client) error { _, err := c.Job(ctx, 1, 7); return err }
	fleet := func(ctx context.Context, c *Client) error {
		_, err := c.RunnersGraphQL(ctx, GraphQLQuery{})
		return err
	}

	tiny := func(i int) string { return `{"id":` + strconv.Itoa(i+1) + `},` }
	wide := func(i int, width int) string { // a text that is not the one before
		return strconv.Itoa(i) + strings.Repeat("x", width-7)
	}
	mega := strings.Repeat("d", 1<<20-100)
	machine := func(i int) string {
		return fmt.Sprintf(`{"id":%d,"system_id":%q,"version":%q,"platform":%q,"architecture":%q,"status":%q},`,
			i+1, wide(i, 120), wide(i, 120), wide(i, 120), wide(i, 120), wide(i, 120))
	}
	node := func(i int) string {
		var tags strings.Builder
		for n := range 60 {
			fmt.Fprintf(&tags, "%q,", wide(100*i+n, maxTag))
		}
		return fmt.Sprintf(`{"id":"gid://gitlab/Ci::Runner/%d","status":"ONLINE","tagList":[%s"x"]},`, i+1, tags.String())
	}
	return []hostile{
		{name: "a list of 2 million rows, 30 MB", read: list, give: frame(`[`, 30<<20, tiny, `{"id":1}]`), want: ReasonDecode},
		{name: "a list that never ends", read: list, give: frame(`[`, endless, tiny, ``), want: ReasonDecode},
		{name: "a list of blanks that never ends", read: list, give: frame(``, endless, always("        "), ``), want: ReasonTooLarge},
		{name: "blanks between the rows", read: list, give: frame(`[{"id":1},`, endless, always("        "), ``), want: ReasonTooLarge},
		{name: "a text that never ends", read: list, give: frame(`[{"id":1,"description":"`, endless, always("dddddddd"), ``), want: ReasonTooLarge},
		{name: "the same of escapes", read: list, give: frame(`[{"id":1,"description":"`, endless, always(`\u00e9`), ``), want: ReasonTooLarge},
		{name: "descriptions of 1 MiB", read: list, give: frame(`[`, 6<<20, always(`{"id":1,"description":"`+mega+`"},`), `{"id":99}]`)},
		{name: "jobs with commits of 1 MiB", read: jobs, give: frame(`[`, 6<<20, always(`{"id":1,"commit":{"message":"`+mega+`"}},`), `{"id":99}]`)},
		{name: "jobs with commits of 1 MiB without end", read: jobs, give: frame(`[`, endless, always(`{"id":1,"commit":{"message":"`+mega+`"}},`), ``), want: ReasonTooLarge},
		{name: "1 million numbers inside a row", read: jobs, give: frame(`[{"id":1,"x":[`, 2<<20, always("1,"), `1]}]`)},
		{name: "an id of 1 million digits", read: list, give: frame(`[{"id":`, 1_000_000, always("7"), `}]`)},
		{name: "a duration of 1 million digits", read: jobs, give: frame(`[{"id":1,"duration":`, 1_000_000, always("7"), `}]`)},
		{name: "a number that never ends", read: jobs, give: frame(`[{"id":1,"duration":`, endless, always("7"), ``), want: ReasonTooLarge},
		{name: "5 million arrays in each other", read: list, give: frame(`[{"id":1,"x":`, 5_000_000, always("["), ``), want: ReasonDecode},
		{name: "1 million objects in each other", read: jobs, give: frame(`[{"id":1,"x":`, 5_000_000, always(`{"a":`), ``), want: ReasonDecode},
		{name: "objects in each other with long names", read: jobs, give: frame(`[{"id":1,"x":`, endless, always(`{"`+strings.Repeat("n", 4000)+`":`), ``), want: ReasonDecode},
		{name: "names of 1 MiB in each other", read: jobs, give: frame(`[{"id":1,"x":`, endless, always(`{"`+mega+`":`), ``), want: ReasonDecode},
		{name: "1 million members", read: details, give: frame(`{"id":7,`, 13<<20, func(i int) string { return `"m` + strconv.Itoa(i) + `":1,` }, `"x":1}`)},
		{name: "a runner with 1 million tags", read: details, give: frame(`{"id":7,"tag_list":[`, 16<<20, func(i int) string { return `"tag-` + strconv.Itoa(i) + `",` }, `"x"]}`)},
		{name: "tags of 1 MiB", read: details, give: frame(`{"id":7,"tag_list":[`, 20<<20, always(`"`+mega+`",`), `"x"]}`)},
		{name: "a runner in 60,000 projects", read: details, give: frame(`{"id":7,"projects":[`, 30<<20, func(i int) string {
			return fmt.Sprintf(`{"id":%d,"description":"%s","path_with_namespace":"g/p%d"},`, i, mega[:400], i)
		}, `{}]}`)},
		{name: "details that never end", read: details, give: frame(`{"id":7,"x":[`, endless, always(`"`+mega[:1000]+`",`), ``), want: ReasonTooLarge},
		{name: "a job with a commit of 5 MiB", read: job, give: frame(`{"id":7,"commit":{"message":"`, 5<<20, always("d"), `"}}`), want: ReasonTooLarge},
		{name: "300,000 machines", read: managers, give: frame(`[`, 30<<20, tiny, `{"id":1}]`), want: ReasonDecode},
		{name: "10,000 machines with long texts", read: managers, give: frame(`[`, 7<<20, machine, `{"id":1}]`), want: ReasonTooLarge},
		{name: "2 MiB of texts of machines", read: managers, give: frame(`[`, 2_200_000, machine, `{"id":1}]`)},
		{name: "GraphQL: rows that never end", read: fleet, give: frame(`{"data":{"runners":{"nodes":[`, endless, always(`{},`), ``), want: ReasonDecode},
		{name: "GraphQL: 100 runners with 60 tags of 1,020 bytes", read: fleet, give: frame(`{"data":{"runners":{"nodes":[`, 6<<20, node, `{}]}}}`), want: ReasonTooLarge},
		{name: "GraphQL: machines that never end", read: fleet, give: frame(`{"data":{"runners":{"nodes":[{"managers":{"nodes":[`, endless, always(`{"id":"gid://gitlab/Ci::RunnerManager/7"},`), ``), want: ReasonDecode},
		{name: "GraphQL: errors that never end", read: fleet, give: frame(`{"errors":[`, endless, func(i int) string { return `{"message":"` + wide(i, 2000) + `"},` }, ``), want: ReasonTooLarge},
		{name: "a page of 100 MB with 200", read: list, give: frame(`<html><title>Sign in</title>`, 100<<20, always("<p>filler</p>"), ``), want: ReasonNotGitLab},
		{name: "a page of 100 MB with 404", read: details, give: func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusNotFound)
			stream(w, 100<<20, always("<p>filler</p>"))
		}, want: ReasonNotGitLab},
		{name: "an error of 64 kB of brackets", read: details, give: func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, strings.Repeat(`[[],`, 16000)+"1"+strings.Repeat("]", 100))
		}, want: ReasonBadRequest},
		{name: "gzip: 20 GB of blanks", read: list, gzip: true, give: frame(``, 20*endless, always("        "), ``), want: ReasonTooLarge},
		{name: "gzip: rows that never end", read: jobs, gzip: true, give: frame(`[`, endless, always(`{"id":1},`), ``), want: ReasonDecode},
		{name: "gzip: 1 GB of one row", read: jobs, gzip: true, give: frame(`[{"id":1,"x":[`, endless, always(`{"a":"b"},`), ``), want: ReasonTooLarge},
		{name: "gzip: 1 GB with 500", read: jobs, gzip: true, give: func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusInternalServerError)
			stream(w, endless, always("        "))
		}, want: ReasonServerError},
		{name: "a status line of 9 MB", read: list, give: raw("HTTP/1.1 ", always("s3cr3t"), "\r\n\r\n"), want: ReasonTooLarge},
		{name: "a malformed header line of 9 MB", read: list, give: raw("HTTP/1.1 200 OK\r\n", always("no colon "), "\r\n\r\n"), want: ReasonTooLarge},
		{name: "a header of 9 MB in one line", read: list, give: raw("HTTP/1.1 200 OK\r\nLink: ", always("<a>; rel=x, "), "\r\nContent-Length: 2\r\n\r\n[]"), want: ReasonTooLarge},
		{name: "a header of 1 million lines", read: list, give: raw("HTTP/1.1 200 OK\r\n", func(i int) string { return "A" + strconv.Itoa(i) + ":\r\n" }, "\r\n[]"), want: ReasonTooLarge},
		{name: "100,000 early hints", read: list, give: raw("", always("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"), want: ReasonTooLarge},
	}
}

// TestHostileAnswersAreBounded: no answer costs more than some tens of MiB, though as many
// as may run at once are all of them hostile, and each reading ends.
//
//	go test ./internal/gitlab -run HostileAnswers -v
func TestHostileAnswersAreBounded(t *testing.T) {
	for _, h := range hostileAnswers() {
		t.Run(h.name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if h.gzip {
					zipped := newZipped(w)
					defer zipped.close()
					w = zipped
				}
				h.give(w)
			}, func(o *Options) { o.HTTPClient = bounded(t) })
			began := time.Now()
			var (
				wg   sync.WaitGroup
				lock sync.Mutex
				errs = map[Reason]error{}
			)
			atOnce := rig.Sized(hostileAtOnce, 2) // the race detector multiplies time and memory
			peak := watchMemory(t, func() {
				for range atOnce {
					wg.Go(func() {
						err := h.read(impatient{t.Context()}, c)
						lock.Lock()
						defer lock.Unlock()
						errs[ReasonOf(err)] = err
					})
				}
				wg.Wait()
			})
			took := time.Since(began)
			if err, ok := errs[h.want]; !ok || len(errs) > 1 {
				t.Errorf("got %v, want %q", errs, h.want)
			} else if err != nil && len(err.Error()) > 2*maxMessage {
				t.Errorf("a message of %d bytes", len(err.Error()))
			}
			t.Logf("| %s | %s | %.0f MiB | %.2f s |", h.name, h.want, float64(peak)/(1<<20), took.Seconds())
			if peak > hostileMemory {
				t.Errorf("%d at once took %d MiB", atOnce, peak>>20)
			}
		})
	}
}

// bounded is a client as the program has it, of connections of its own.
func bounded(t *testing.T) *http.Client {
	t.Helper()
	tr := &http.Transport{DisableCompression: true, DialContext: DialContext}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// zipped packs what a handler writes. Its packer is small, for it stands in the
// memory that is measured.
type zipped struct {
	http.ResponseWriter

	z *gzip.Writer
}

func newZipped(w http.ResponseWriter) *zipped {
	w.Header().Set("Content-Encoding", "gzip")
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		panic(err)
	}
	return &zipped{w, z}
}

func (z *zipped) Write(b []byte) (int, error) { return z.z.Write(b) }
func (z *zipped) close()                      { _ = z.z.Close() }

// watchMemory is the most memory that the process took while f ran, over what
// it took before: all that the runtime holds and has not given back.
func watchMemory(t *testing.T, f func()) (peak uint64) {
	t.Helper()
	debug.FreeOSMemory()
	base := memoryHeld()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(500 * time.Microsecond)
		defer tick.Stop()
		for {
			if now := memoryHeld(); now > base {
				peak = max(peak, now-base)
			}
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	f()
	close(stop)
	<-done
	return peak
}

func memoryHeld() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64() - s[1].Value.Uint64()
}

// TestHeaderLimitIsThatOfOneHeader: the limit is that of one header, not of a connection, and
// does not touch HTTP/2, where answers share one.
func TestHeaderLimitIsThatOfOneHeader(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Padding", strings.Repeat("x", maxHeader/2))
			frame(`[`, 2*maxHeader, always("        "), `{"id":5}]`)(w)
		}))
		srv.EnableHTTP2 = h2
		srv.StartTLS()
		t.Cleanup(srv.Close)
		hc := srv.Client()
		hc.Transport.(*http.Transport).DialContext = DialContext
		c := newClient(t, Options{BaseURL: srv.URL, HTTPClient: hc})
		var wg sync.WaitGroup
		for range hostileAtOnce {
			wg.Go(func() {
				for range 5 {
					if m, err := c.Managers(t.Context(), 1); err != nil || len(m) != 1 {
						t.Errorf("HTTP/2 %t: %+v, %v", h2, m, err)
					}
				}
			})
		}
		wg.Wait()
	}
}

// TestSlowAnswerEndsWithItsAttempt: an answer that comes by drops ends with the time of an attempt.
func TestSlowAnswerEndsWithItsAttempt(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, " ")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(10 * time.Millisecond)
		}
	}))
	t.Cleanup(srv.Close)
	c := newClient(t, Options{BaseURL: srv.URL, HTTPClient: srv.Client(), Timeout: 200 * time.Millisecond})
	began := time.Now()
	if _, err := c.Runners(impatient{t.Context()}, Scope{}, 1); ReasonOf(err) != ReasonTimeout || time.Since(began) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}
