// Package e2e holds the tests that need the real program as a process of its
// own, over real HTTP: what only a kill -9, a full disk or a real signal shows.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/test/rig"
)

const token = "glpat-e2e-canary-91Kd"

func TestMain(m *testing.M) { rig.Main(m) }

// process is a running exporter.
type process struct{ *rig.Server }

// launch starts the exporter on a free port and waits until it listens.
func launch(t *testing.T, args ...string) *process {
	t.Helper()
	return &process{rig.Serve(t, rig.Exporter(t), args...)}
}

// scrape reads the metrics as series; nil while nobody answers.
func (p *process) scrape() map[string]float64 {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Address+"/metrics", http.NoBody)
	if err != nil {
		return nil
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil // killed in the middle: Prometheus drops such a scrape too
	}
	out := map[string]float64{}
	sc := bufio.NewScanner(bytes.NewReader(body))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		if i := strings.LastIndexByte(line, ' '); i > 0 {
			if v, err := strconv.ParseFloat(line[i+1:], 64); err == nil {
				out[line[:i]] = v
			}
		}
	}
	return out
}

// isCounter recognizes the fleet's counters and buckets, and the two counters
// of the exporter's own that are kept over restarts.
func isCounter(series string) bool {
	name, _, _ := strings.Cut(series, "{")
	if strings.HasPrefix(name, "gitlab_runner_fleet_exporter_") {
		return strings.HasSuffix(name, "_jobs_recovered_total") || strings.HasSuffix(name, "_jobs_unresolved_total")
	}
	return strings.HasPrefix(name, "gitlab_runner_fleet_") &&
		(strings.HasSuffix(name, "_total") || strings.HasSuffix(name, "_bucket") || strings.HasSuffix(name, "_count") || strings.HasSuffix(name, "_sum"))
}

// serve puts a simulated GitLab on loopback.
func serve(t *testing.T, o gitlabsim.Options) (*gitlabsim.World, string) {
	t.Helper()
	o.Token = token
	w := gitlabsim.New(o)
	srv := httptest.NewServer(w.Handler())
	t.Cleanup(srv.Close)
	return w, srv.URL
}

// configure writes a configuration with short intervals and returns its path.
func configure(t *testing.T, dir string, gitlabs ...string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("poll: {runners_interval: 1s, details_interval: 3s, jobs_interval: 1s, reconcile_interval: 5s, lookback: 1h, max_requests_per_second: 0}\n")
	b.WriteString("gitlabs:\n")
	for i, url := range gitlabs {
		fmt.Fprintf(&b, "  - {name: g%d, url: %q, authorization: {credentials_file: token}}\n", i, url)
	}
	path := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// labels parses a series' labels.
var labelPair = regexp.MustCompile(`([a-z_]+)="((?:[^"\\]|\\.)*)"`)

func labels(series string) map[string]string {
	out := map[string]string{}
	for _, m := range labelPair.FindAllStringSubmatch(series, -1) {
		out[m[1]] = m[2]
	}
	return out
}
