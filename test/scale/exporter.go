package main

import (
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

	"gitlab-runner-fleet-exporter/test/rig"
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
	*rig.Process

	base    string
	started time.Time
	gc      *collections
}

// startExporter starts it with the defaults but for those of the case. rows:
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
	cmd := exec.CommandContext(ctx, c.binary, "--config.file="+file, "--storage.path="+c.state(), rig.AnyPort)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	cmd.Env = append(os.Environ(), "GODEBUG=gctrace=1") // a line for each collection, which is summed and not kept
	e := &exporter{gc: &collections{}, started: time.Now()}
	var err error
	if e.Process, err = rig.Start(cmd, &rig.Log{Drop: e.gc.add}); err != nil {
		return nil, err
	}
	address, err := e.Address(ctx)
	if err != nil {
		e.Stop()
		return nil, err
	}
	e.base = "http://" + address
	return e, nil
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

// collections sums what Go's runtime reports of its collections in the log.
type collections struct {
	mu  sync.Mutex
	n   int
	cpu time.Duration
}

// Nothing of the exporter's own line may be in it: the runtime writes its line
// in pieces, between which another may fall.
var gcTrace = regexp.MustCompile(`^gc \d+ @[^=]* ms clock, ([0-9.+/]+) ms cpu, [^=]*$`)

// add reports whether the line is the runtime's.
func (c *collections) add(line []byte) bool {
	m := gcTrace.FindSubmatch(line)
	if m == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	for s := range strings.FieldsFuncSeq(string(m[1]), func(r rune) bool { return r == '+' || r == '/' }) {
		ms, _ := strconv.ParseFloat(s, 64) // matched
		c.cpu += time.Duration(ms * float64(time.Millisecond))
	}
	return true
}

// sum is how many there were, and their CPU.
func (c *collections) sum() (n int, cpu time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n, c.cpu
}
