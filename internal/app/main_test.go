package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/test/rig"
)

func TestMain(m *testing.M) {
	code := m.Run()
	rig.Clean()
	client.CloseIdleConnections()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// client asks the exporter; nothing of it stays open between tests.
var client = &http.Client{
	Timeout:   10 * time.Second,
	Transport: &http.Transport{DisableKeepAlives: true},
}

// buffer is an output that is read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// running is the program at work, in this process or one of its own.
type running struct {
	t      *testing.T
	url    string
	stdout fmt.Stringer
	stderr fmt.Stringer
	stop   func() int   // asks it to stop and returns its exit status
	proc   *rig.Process // nil: in this process
}

// logOf is the log of a process as a Stringer.
type logOf struct{ *rig.Process }

func (l logOf) String() string { return l.Log() }

// startHere runs the program in this process.
func startHere(t *testing.T, args ...string) *running {
	t.Helper()
	var stdout, stderr buffer
	r := &running{t: t, stdout: &stdout, stderr: &stderr}
	ctx, cancel := context.WithCancel(t.Context())
	addresses := make(chan []string, 1)
	exited := make(chan int, 1)
	p := process{stdout: &stdout, stderr: &stderr, listening: func(a []string) { addresses <- a }}
	go func() { exited <- p.run(ctx, append([]string{"--web.listen-address=127.0.0.1:0"}, args...)) }()
	r.stop = sync.OnceValue(func() int {
		cancel()
		select {
		case code := <-exited:
			return code
		case <-time.After(20 * time.Second):
			t.Error("it does not stop")
			return -1
		}
	})
	t.Cleanup(func() { r.stop() })
	select {
	case a := <-addresses:
		r.url = "http://" + a[0]
	case code := <-exited:
		exited <- code
		t.Fatalf("ended with %d:\n%s", code, r.stderr)
	case <-time.After(20 * time.Second):
		t.Fatalf("does not listen:\n%s", r.stderr)
	}
	return r
}

// startProcess runs the program in a process of its own.
func startProcess(t *testing.T, env []string, args ...string) *running {
	t.Helper()
	var stdout buffer
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), rig.Exporter(t), append([]string{rig.AnyPort}, args...)...)
	cmd.Stdout = &stdout
	cmd.Env = append(os.Environ(), env...)
	p := rig.ServeCommand(t, cmd)
	return &running{t: t, url: "http://" + p.Address, stdout: &stdout, stderr: logOf{p.Process}, stop: p.Stop, proc: p.Process}
}

// wait returns the exit status of a process that ends by itself.
func (r *running) wait() int {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	code, err := r.proc.Wait(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	return code
}

// get asks for one page.
func (r *running) get(path string) (int, string) {
	r.t.Helper()
	return r.do(http.MethodGet, path)
}

func (r *running) do(method, path string) (int, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, http.NoBody)
	if err != nil {
		r.t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		r.t.Fatalf("%s %s: %v\n%s", method, path, err, r.stderr)
	}
	defer res.Body.Close() //nolint:errcheck // only read
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// metric is the sum over the series of a family, shortened by its prefix, whose
// labels hold all of the given parts; and how many there are.
func (r *running) metric(name string, labels ...string) (sum float64, series int) {
	r.t.Helper()
	status, body := r.get("/metrics")
	if status != http.StatusOK {
		r.t.Fatalf("metrics: HTTP %d", status)
	}
	return sumOf(r.t, body, name, labels...)
}

func sumOf(t *testing.T, exposition, name string, labels ...string) (sum float64, series int) {
	t.Helper()
lines:
	for line := range strings.Lines(exposition) {
		rest, ok := strings.CutPrefix(line, "gitlab_runner_fleet_"+name)
		if !ok || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(rest, l) {
				continue lines
			}
		}
		fields := strings.Fields(rest)
		v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		sum += v
		series++
	}
	return sum, series
}

func (r *running) until(what string, name string, want float64, labels ...string) {
	r.t.Helper()
	eventually(r.t, 15*time.Second, what+"\n"+r.stderr.String(), func() bool {
		sum, n := r.metric(name, labels...)
		return n > 0 && sum == want
	})
}

// eventually waits for what must come, and not longer than it must.
func eventually(t *testing.T, within time.Duration, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// world is a simulated GitLab behind a real socket.
type world struct {
	*gitlabsim.World

	url   string
	close func() // GitLab is gone
}

const testToken = "sim-token-of-the-test"

func newWorld(t *testing.T, o gitlabsim.Options) world {
	t.Helper()
	if o.Token == "" {
		o.Token = testToken
	}
	w := world{World: gitlabsim.New(o)}
	srv := httptest.NewServer(w.Handler())
	t.Cleanup(srv.Close)
	w.url, w.close = srv.URL, srv.Close
	return w
}

// smallFleet is enough for every family.
func smallFleet(seed uint64) gitlabsim.Options {
	return gitlabsim.Options{Seed: seed, Runners: 12, Tags: 5, JobsPerHour: 2000, History: time.Hour, Healthy: true}
}

// configFile writes a configuration and returns its path.
func configFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yml")
	write(t, path, text)
	return path
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// fastPoll makes a change visible within a second or two.
const fastPoll = `poll: {runners_interval: 1s, details_interval: 1m, jobs_interval: 1s, reconcile_interval: 1m, lookback: 1h, max_requests_per_second: 0}
`

// entry is one gitlab of a configuration with its token in the file.
func entry(name, url, more string) string {
	return fmt.Sprintf("  - name: %s\n    url: %s\n    authorization: {credentials: %s}\n%s", name, url, testToken, more)
}
