package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-kit/log"

	"gitlab-runner-fleet-exporter/config"
)

// hang makes each open of a file block, as on a mount whose server is gone: the
// kernel waits until whoever holds a lease on it gives that up (45 s at most).
func hang(t *testing.T, path string) (release func()) {
	t.Helper()
	signal.Ignore(syscall.SIGIO) // by which the kernel asks for the lease
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "nobody has the file open", func() bool {
		_, _, errno := syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_SETLEASE, syscall.F_WRLCK)
		return errno == 0
	})
	release = func() { _ = f.Close() } // twice does no harm
	t.Cleanup(release)
	return release
}

// TestFilesThatHangHoldNothingUp: polls go on failing, in words, where the read of a token
// hangs, a reload fails, and a stop stops.
func TestFilesThatHangHoldNothingUp(t *testing.T) {
	w := newWorld(t, smallFleet(1))
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	write(t, token, testToken+"\n")
	file := configFile(t, fastPoll+fmt.Sprintf("gitlabs:\n  - {name: corp, url: %q, authorization: {credentials_file: %q}}\n", w.url, token))
	r := startProcess(t, nil, "--config.file="+file, "--storage.path="+filepath.Join(dir, "state"))
	r.until("up", "up", 1)

	release := hang(t, token)
	r.until("it is down", "up", 0)
	eventually(t, 15*time.Second, "the log names the file", func() bool {
		for line := range strings.Lines(r.stderr.String()) {
			if strings.Contains(line, "level=error") && strings.Contains(line, token) && strings.Contains(line, "its file system hangs") {
				return true
			}
		}
		return false
	})
	release()
	// After a hang the file is tried again each half minute, which a test does
	// not wait for: internal/bounded holds that.
	signalled := time.Now()
	freed := hang(t, file)
	r.proc.Signal(syscall.SIGHUP)
	r.until("the reload failed", "exporter_config_last_reload_successful", 0)
	if log := r.stderr.String(); !strings.Contains(log, "configuration file "+file+": no answer within") {
		t.Errorf("the log does not name the file:\n%s", log)
	}
	if took := time.Since(signalled); took > 12*time.Second {
		t.Errorf("the reload failed after %s", took)
	}
	again := hang(t, token)
	began := time.Now()
	if code := r.stop(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
	if took := time.Since(began); took > stopWithin {
		t.Errorf("the stop took %s", took)
	}
	freed()
	again()
}

// TestReloadThatHangsIsGivenUp holds up no stop.
func TestReloadThatHangsIsGivenUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	hangs := make(chan struct{})
	defer close(hangs)
	s := &service{logger: log.NewNopLogger(), load: func() (*config.Validated, error) {
		cancel()
		<-hangs
		return nil, errors.New("too late")
	}}
	if err := s.reload(ctx, "test"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestStopHasAnEnd: whatever holds the stop up, here a client that does not end
// its request, it ends in its time, and not with 0.
func TestStopHasAnEnd(t *testing.T) {
	w := newWorld(t, smallFleet(1))
	file := configFile(t, "gitlabs:\n"+entry("a", w.url, ""))
	var out, errs buffer
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	listening := make(chan []string, 1)
	p := process{stdout: &out, stderr: &errs, stopWithin: time.Second, listening: func(a []string) { listening <- a }}
	exited := make(chan int, 1)
	go func() {
		exited <- p.run(ctx, []string{"--web.listen-address=127.0.0.1:0", "--storage.path=", "--config.file=" + file})
	}()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", (<-listening)[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("GET /metrics HTTP/1.1\r\n")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // until the server has it
	began := time.Now()
	cancel()
	if code := <-exited; code != exitFailure {
		t.Errorf("exit status %d", code)
	}
	if took := time.Since(began); took < p.stopWithin || took > 3*time.Second {
		t.Errorf("ended after %s", took)
	}
	if log := errs.String(); !strings.Contains(log, "the stop does not come to its end") {
		t.Errorf("the log lacks the cause:\n%s", log)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "what was given up ends too", func() bool { return strings.Contains(errs.String(), "stopped") })
}
