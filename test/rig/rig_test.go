package rig

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLogKeepsTheAddressAndItsEnd: lines come in pieces, and a line may stand
// behind the beginning of another.
func TestLogKeepsTheAddressAndItsEnd(t *testing.T) {
	for want, pieces := range map[string][]string{
		"127.0.0.1:80":    {"level=info msg=listening addr", "ess=127.0.0.1:80\nmsg=listening address=127.0.0.1:81\n"},
		"[::1]:80":        {"gc 1 @0.005s, level=info msg=listening address=[::1]:80\n3->4->1 MB\n"},
		"127.0.0.1:41077": {"msg=\"Start listening for connections\" component=web address=127.0.0.1:0\nmsg=\"Listening on\" component=web address=127.0.0.1:41077\n"},
		"127.0.0.1:42057": {"level=INFO source=tls_config.go:354 msg=\"Listening on\" address=127.0.0.1:42057\n"},
		"":                {"msg=listening address=127.0.0.1:8"},
	} {
		var log Log
		for _, p := range pieces {
			_, _ = log.Write([]byte(p))
		}
		if got := log.address(); got != want || log.String() != strings.Join(pieces, "") {
			t.Errorf("%q of %q", got, log.String())
		}
	}
	log := Log{Drop: func(line []byte) bool { return bytes.HasPrefix(line, []byte("gc ")) }}
	_, _ = log.Write([]byte("gc 1\nkept\n"))
	if log.String() != "kept\n" {
		t.Errorf("%q", log.String())
	}
	_, _ = log.Write(bytes.Repeat([]byte("0123456789abcde\n"), LogSize/8))
	if len(log.String()) != LogSize {
		t.Errorf("%d bytes kept", len(log.String()))
	}
}

// TestProcessEndsAreReported: whoever waits for a program learns that it
// ended, and what it wrote.
func TestProcessEndsAreReported(t *testing.T) {
	p, err := Start(exec.CommandContext(t.Context(), "sh", "-c", "echo out of order; exit 3"), &Log{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Address(t.Context()); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "out of order") {
		t.Error(err)
	}
	if code := p.Stop(); code != 3 {
		t.Errorf("exit status %d", code)
	}
	p, err = Start(exec.CommandContext(t.Context(), "sh", "-c", "echo ready; exec sleep 60"), &Log{})
	if err != nil {
		t.Fatal(err)
	}
	for p.Log() == "" {
		if err := p.Pause(t.Context(), time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	p.Kill()
	if code := p.Stop(); code != -1 {
		t.Errorf("exit status %d of what was killed", code)
	}
}

// recorder is a test that only notes that it is skipped.
type recorder struct {
	testing.TB

	skipped string
}

func (r *recorder) Helper() {}

func (r *recorder) Skipf(format string, _ ...any) { r.skipped = format }

// TestMissingToolsSkip: on a fresh clone a test that needs a tool is skipped
// and names what installs it.
func TestMissingToolsSkip(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"main.go", "go.mod", "package/x_test.go", ".tools/there"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(filepath.Join(dir, "package"))
	r := &recorder{TB: t}
	if path := Tool(r, "there"); r.skipped != "" || path != filepath.Join(dir, ".tools", "there") {
		t.Errorf("%s, %s", path, r.skipped)
	}
	if Tool(r, "promtool"); !strings.Contains(r.skipped, "make tools") {
		t.Errorf("skipped: %q", r.skipped)
	}
}
