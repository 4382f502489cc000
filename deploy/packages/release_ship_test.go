//go:build ship

package packages

import (
	"os/exec"
	"path/filepath"
	"testing"

	"gitlab-runner-fleet-exporter/test/rig"
)

// TestShipReleaseFilesAreValid asks goreleaser and actionlint about their files, in
// a clone with a remote, which goreleaser wants to see.
func TestShipReleaseFilesAreValid(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "checkout")
	rig.Run(t, "git", "clone", "-q", "--no-hardlinks", root, dir)
	rig.Run(t, "git", "-C", dir, "remote", "set-url", "origin", "https://github.com/example/gitlab_runner_fleet_exporter.git")
	rig.Run(t, "cp", filepath.Join(root, ".goreleaser.yml"), dir)
	for _, command := range [][]string{
		{"goreleaser", "check"},
		{"actionlint", filepath.Join(root, ".github/workflows/test.yml"), filepath.Join(root, ".github/workflows/release.yml")},
	} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(root, ".tools", command[0]), command[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v (make test-ship installs it)\n%s", command, err, out)
		}
	}
}
