package main

import (
	"bytes"
	"context"
	"errors"
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
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags="+ldflags, "-o", path, "gitlab-runner-fleet-exporter") //nolint:gosec // our own program
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

// startExporter starts it with the defaults but for what the plan says.
func startExporter(ctx context.Context, p *plan, limit int, dir, url, token string) (*exporter, error) {
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(token), 0o600); err != nil {
		return nil, err
	}
	config := fmt.Sprintf("gitlabs: [{name: scale, url: %q, authorization: {credentials_file: token}, poll: {max_requests_per_second: %g, max_concurrent_requests: %d}}]\n",
		url, float64(limit)/60, p.concurrency)
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	e := &exporter{log: &tail{}, done: make(chan struct{}), started: time.Now()}
	e.cmd = exec.CommandContext(ctx, p.binary, "--config.file="+file, "--storage.path="+filepath.Join(dir, "state"), "--web.listen-address=127.0.0.1:0") //nolint:gosec // our own program
	e.cmd.Cancel = func() error { return e.cmd.Process.Signal(os.Interrupt) }
	e.cmd.WaitDelay = 20 * time.Second
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
	return nil, errors.New("the exporter does not listen")
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

// sums are the metrics asked for, each summed over its series; a family that
// is not shown is not in the map.
func (e *exporter) sums(ctx context.Context, collect string) (map[string]float64, error) {
	body, err := fetch(ctx, e.base+"/metrics?collect[]="+collect, acceptText, "")
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for line := range bytes.Lines(body) {
		name := string(line[:max(bytes.IndexAny(line, "{ "), 0)])
		value := strings.TrimSpace(string(line[bytes.LastIndexByte(line, ' ')+1:]))
		v, err := strconv.ParseFloat(value, 64)
		if err != nil || name == "#" {
			continue
		}
		out[strings.TrimPrefix(name, "gitlab_runner_fleet_")] += v
	}
	return out, nil
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

// tail keeps the end of a log, and the address that it names first.
type tail struct {
	mu     sync.Mutex
	b      []byte
	listen string
}

const tailSize = 64 << 10

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if t.listen == "" {
		if m := regexp.MustCompile(`msg=listening address=(\S+)`).FindSubmatch(t.b); m != nil {
			t.listen = string(m[1])
		}
	}
	if over := len(t.b) - tailSize; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *tail) address() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.listen
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
