package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec" //nolint:depguard // a tool that starts the program it measures
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

func build(ctx context.Context, ldflags, path string, stderr io.Writer) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags="+ldflags, "-o", path, "gitlab-runner-fleet-exporter")
	cmd.Stdout, cmd.Stderr = stderr, stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	return nil
}

// exporter is the program that is measured.
type exporter struct {
	cmd     *exec.Cmd
	base    string
	started time.Time
	log     *tail
	done    chan struct{}
}

// startExporter starts it with the defaults but for what the case says. rows:
// with the runner_ families. A second start in the same folder finds the state
// of the first.
func startExporter(ctx context.Context, c *oneCase, url, token string, rows bool) (*exporter, error) {
	if err := os.WriteFile(filepath.Join(c.dir, "token"), []byte(token), 0o600); err != nil {
		return nil, err
	}
	poll := fmt.Sprintf("max_requests_per_second: %g, max_concurrent_requests: %d", float64(c.limit)/60, c.concurrency)
	if c.runnersInterval > 0 {
		poll += fmt.Sprintf(", runners_interval: %dms", c.runnersInterval.Milliseconds())
	}
	config := fmt.Sprintf("gitlabs: [{name: scale, url: %q, api: %s, authorization: {credentials_file: token}, poll: {%s}}]\nmetrics: {runners: {enabled: %t}}\n",
		url, c.api, poll, rows)
	file := filepath.Join(c.dir, "config.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	e := &exporter{log: &tail{}, done: make(chan struct{}), started: time.Now()}
	e.cmd = exec.CommandContext(ctx, c.binary, "--config.file="+file, "--storage.path="+c.state(), "--web.listen-address=127.0.0.1:0")
	e.cmd.Cancel = func() error { return e.cmd.Process.Signal(os.Interrupt) }
	e.cmd.WaitDelay = 20 * time.Second
	e.cmd.Env = append(os.Environ(), "GODEBUG=gctrace=1") // a line for each collection, which the log keeps apart
	e.cmd.Stdout, e.cmd.Stderr = e.log, e.log
	if err := e.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = e.cmd.Wait() // seen by done
		close(e.done)
	}()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if address := e.log.address(); address != "" {
			e.base = "http://" + address
			return e, nil
		}
		if err := e.pause(ctx, 2*time.Millisecond); err != nil {
			e.stop()
			return nil, err
		}
	}
	e.stop()
	return nil, fmt.Errorf("the exporter does not listen:\n%s", e.log)
}

// pause waits, unless the exporter or the measurement ends.
func (e *exporter) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.done:
		return fmt.Errorf("the exporter ended:\n%s", e.log)
	}
}

func (e *exporter) stop() {
	_ = e.cmd.Process.Signal(os.Interrupt)
	select {
	case <-e.done:
	case <-time.After(30 * time.Second):
		_ = e.cmd.Process.Kill()
		<-e.done
	}
}

// scrape is one scrape as Prometheus makes it. All but the timed ones ask for
// this format, for the exporter keeps ready what was asked for lately, and a
// second format would cost CPU that no user pays.
func (e *exporter) scrape(ctx context.Context, collect string) (samples, error) {
	url := e.base + "/metrics"
	if collect != "" {
		url += "?collect[]=" + collect
	}
	body, err := fetch(ctx, url, acceptOM, "gzip")
	if err != nil {
		return nil, err
	}
	return unpack(body)
}

// sums are the metrics of one kind, each summed over its series.
func (e *exporter) sums(ctx context.Context, collect string) (map[string]float64, error) {
	s, err := e.scrape(ctx, collect)
	return s.sums(), err
}

const (
	acceptText  = "text/plain;version=0.0.4"
	acceptOM    = "application/openmetrics-text;version=1.0.0"
	acceptProto = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
)

// fetch reads a body as it comes over the wire.
func fetch(ctx context.Context, url, accept, encoding string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	if encoding == "" {
		encoding = "identity" // keeps the transport from asking for gzip by itself
	}
	req.Header.Set("Accept-Encoding", encoding)
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// tail keeps the end of a log, the address that it names first, and a sum of
// what the collections took that Go's runtime tells of between its lines.
type tail struct {
	mu          sync.Mutex
	b, part     []byte
	listen      string
	collections int
	collecting  time.Duration // of CPU
}

const tailSize = 64 << 10

var (
	listening = regexp.MustCompile(`msg=listening address=(\S+)`)
	// Nothing of the exporter's own line may be in it: the runtime writes its
	// line in pieces, between which another may fall.
	gcTrace = regexp.MustCompile(`^gc \d+ @[^=]* ms clock, ([0-9.+/]+) ms cpu, [^=]*$`)
)

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.part = append(t.part, p...)
	for {
		end := bytes.IndexByte(t.part, '\n')
		if end < 0 {
			break
		}
		t.line(t.part[:end+1])
		t.part = t.part[end+1:]
	}
	if over := len(t.b) - tailSize; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *tail) line(line []byte) {
	if m := gcTrace.FindSubmatch(line); m != nil {
		t.collections++
		for s := range strings.FieldsFuncSeq(string(m[1]), func(r rune) bool { return r == '+' || r == '/' }) {
			ms, _ := strconv.ParseFloat(s, 64) // matched
			t.collecting += time.Duration(ms * float64(time.Millisecond))
		}
		return
	}
	if t.listen == "" {
		if m := listening.FindSubmatch(line); m != nil {
			t.listen = string(m[1])
		}
	}
	t.b = append(t.b, line...)
}

func (t *tail) address() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.listen
}

// gc is how many collections there were, and their CPU.
func (t *tail) gc() (n int, cpu time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.collections, t.collecting
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b) + string(t.part)
}
