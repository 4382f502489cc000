package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec" //nolint:depguard // what the exporter must not do is this package's duty
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Long skips a test under -short, which is to end within two minutes.
func Long(tb testing.TB, why string) {
	tb.Helper()
	if testing.Short() {
		tb.Skipf("not under -short: %s", why)
	}
}

// Full reports whether simulations run at full size: not under -short, and not
// under the race detector, which makes them several times as slow and looks at
// the same code either way. `make sim` and a plain `go test ./...` do.
func Full() bool { return !raceEnabled && !testing.Short() }

// Sized is the size of a simulation.
func Sized(full, small int) int {
	if Full() {
		return full
	}
	return small
}

// root is the folder of the main module above the tests' own folder.
func root() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, statErr := os.Stat(filepath.Join(dir, "main.go")); statErr == nil {
			if _, statErr = os.Stat(filepath.Join(dir, "go.mod")); statErr == nil {
				return dir, nil
			}
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no main module above the tests' folder")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

// Tool is the path of a program that `make tools` installs. A test that needs
// one is skipped where it is missing, as on a fresh clone; .ci/run fails on
// such a skip.
func Tool(tb testing.TB, name string) string {
	tb.Helper()
	dir, err := root()
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(dir, ".tools", name)
	if _, err := os.Stat(path); err != nil {
		tb.Skipf("no .tools/%s: run `make tools`", name)
	}
	return path
}

// Checkout is a clone of this repository as users have it, with what is not
// committed yet and with the tools that are installed already.
func Checkout(tb testing.TB) string {
	tb.Helper()
	from, err := root()
	if err != nil {
		tb.Fatal(err)
	}
	dir := filepath.Join(tb.TempDir(), "checkout")
	Run(tb, "git", "clone", "-q", "--no-hardlinks", from, dir)
	files := exec.CommandContext(tb.Context(), "sh", "-c", `git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents --target-directory="$0"`, dir) //nolint:gosec // our own folder
	files.Dir = from
	Output(tb, files)
	tools, err := filepath.EvalSymlinks(filepath.Join(from, ".tools"))
	if err != nil {
		tb.Fatalf("%v: run make tools", err)
	}
	if err := os.Symlink(tools, filepath.Join(dir, ".tools")); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// Run runs a program to its end, which must be a good one, and returns what it
// wrote.
func Run(tb testing.TB, path string, args ...string) string {
	tb.Helper()
	out, err := exec.CommandContext(tb.Context(), path, args...).CombinedOutput() //nolint:gosec // the test names the program
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", filepath.Base(path), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Output runs a command that the test made to its end, which must be a good
// one, and returns its standard output alone: for what is decoded, or has a
// folder, an environment or an input of its own.
func Output(tb testing.TB, cmd *exec.Cmd) string {
	tb.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		tb.Fatalf("%s %s: %v\n%s%s", filepath.Base(cmd.Path), strings.Join(cmd.Args[1:], " "), err, out.String(), errs.String())
	}
	return out.String()
}

// Refused runs a command that must fail, and returns what it wrote.
func Refused(tb testing.TB, cmd *exec.Cmd) string {
	tb.Helper()
	out, err := cmd.CombinedOutput()
	if _, failed := errors.AsType[*exec.ExitError](err); !failed {
		tb.Errorf("%s %s: %v, and it should fail\n%s", filepath.Base(cmd.Path), strings.Join(cmd.Args[1:], " "), err, out)
	}
	return string(out)
}

// Undo runs a program when the test ends, however it ends: what unmounts or
// removes must not depend on the test's context, which is over by then.
func Undo(tb testing.TB, path string, args ...string) {
	tb.Helper()
	tb.Cleanup(func() {
		if out, err := exec.Command(path, args...).CombinedOutput(); err != nil { //nolint:gosec,noctx // the test names the program; after its context
			tb.Logf("%s %s: %v\n%s", filepath.Base(path), strings.Join(args, " "), err, out)
		}
	})
}

// Version is that of the program under test.
const Version = "1.2.3-test"

// built is the exporter under test, built once, and the folder that holds it.
var (
	builtIn string
	built   = sync.OnceValues(func() (string, error) {
		from, err := root()
		if err != nil {
			return "", err
		}
		dir, err := os.MkdirTemp("", "fleet-rig-")
		if err != nil {
			return "", err
		}
		builtIn = dir
		path := filepath.Join(dir, "gitlab_runner_fleet_exporter")
		cmd := exec.Command("go", "build", "-ldflags", "-X github.com/prometheus/common/version.Version="+Version, "-o", path, ".") //nolint:gosec // our own path; once for all tests
		cmd.Dir = from
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build: %w\n%s", err, out)
		}
		return path, openSources(from)
	})
)

// openSources opens what the program under test is built of. go test keeps the
// result of a package until a file that its tests opened changes; what go build
// reads it does not see, and would answer with a result of an older program.
func openSources(from string) error {
	const files = `{{if and .Module .Module.Main}}{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}
{{end}}{{range .EmbedFiles}}{{$d}}/{{.}}
{{end}}{{end}}`
	cmd := exec.Command("go", "list", "-deps", "-f", files, ".") //nolint:noctx // once for all tests
	cmd.Dir = from
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go list: %w", err)
	}
	for _, name := range append(strings.Fields(string(out)), filepath.Join(from, "go.mod"), filepath.Join(from, "go.sum")) {
		file, err := os.Open(name) //nolint:gosec // a file of this repository
		if err != nil {
			return err
		}
		if err := file.Close(); err != nil {
			return err
		}
	}
	return nil
}

// Exporter is the path of the program under test. What drives it as a process
// is left out under -short.
func Exporter(tb testing.TB) string {
	tb.Helper()
	Long(tb, "builds and runs the program")
	path, err := built()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// Main runs a package's tests and removes what Exporter built for them.
func Main(m *testing.M) {
	code := m.Run()
	Clean()
	os.Exit(code)
}

// Clean is for a package with a TestMain of its own.
func Clean() {
	if builtIn != "" {
		_ = os.RemoveAll(builtIn)
	}
}

// Server is a program that answers HTTP.
type Server struct {
	*Process

	// Address is its host and port.
	Address string
}

// AnyPort is the argument with which all of these programs choose a port.
const AnyPort = "--web.listen-address=127.0.0.1:0"

// Serve starts a program on a port of its choice and waits until it listens.
// It is killed when the test ends; its log is shown where the test failed.
func Serve(tb testing.TB, path string, args ...string) *Server {
	tb.Helper()
	return ServeCommand(tb, exec.Command(path, append([]string{AnyPort}, args...)...)) //nolint:gosec,noctx // the test names the program, and kills it
}

// Background starts a program that the test kills when it ends, and whose log it
// shows where it failed.
func Background(tb testing.TB, cmd *exec.Cmd) *Process {
	tb.Helper()
	p, err := Start(cmd, &Log{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		p.Kill()
		if tb.Failed() {
			log := p.Log()
			tb.Logf("%s, the end of its log:\n%s", filepath.Base(cmd.Path), log[max(0, len(log)-4000):])
		}
	})
	return p
}

// ServeCommand is Serve for a command that the test made.
func ServeCommand(tb testing.TB, cmd *exec.Cmd) *Server {
	tb.Helper()
	p := Background(tb, cmd)
	address, err := p.Address(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return &Server{Process: p, Address: address}
}

// Ready waits until the program answers a path with 200.
func (s *Server) Ready(tb testing.TB, path string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Address+path, http.NoBody)
		if err != nil {
			tb.Fatal(err)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if err := s.Pause(ctx, 50*time.Millisecond); err != nil {
			tb.Fatalf("%s is not ready: %v", path, err)
		}
	}
}

// Metrics is the program's page of metrics, whatever its status.
func (s *Server) Metrics(tb testing.TB) string {
	tb.Helper()
	return s.Get(tb, "/metrics")
}

// Get is what the program answers to a path, whatever its status.
func (s *Server) Get(tb testing.TB, path string) string {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, "http://"+s.Address+path, http.NoBody)
	if err != nil {
		tb.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return string(body)
}

// Total adds up the series of a family on a page of metrics. A family without
// labels or without series is 0.
func Total(page, family string) (sum float64) {
	for line := range strings.Lines(page) {
		if rest, ok := strings.CutPrefix(line, family+"{"); ok {
			v, _ := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndex(rest, " "):]), 64)
			sum += v
		}
	}
	return sum
}
