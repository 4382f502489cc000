package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"gitlab-runner-fleet-exporter/test/rig"
)

// execute runs a program to its end.
func execute(t *testing.T, path string, args ...string) (code int, output string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		code = exit.ExitCode()
	}
	return code, string(out)
}

// launchLimited starts the exporter where no file can grow beyond the size
// that the state has now, as on a full disk. The shell's limit is in blocks of
// 512 bytes; SIGXFSZ is ignored, as the kernel then answers EFBIG.
func launchLimited(t *testing.T, state string, args ...string) *process {
	t.Helper()
	var most int64
	files, err := filepath.Glob(filepath.Join(state, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, info.Size())
	}
	script := `trap "" XFSZ; ulimit -f ` + strconv.FormatInt(most/512, 10) + `; exec "$0" "$@"`
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, rig.Exporter(t), rig.AnyPort}, args...)...) //nolint:noctx // our own program, killed by the rig
	return &process{rig.ServeCommand(t, cmd)}
}
