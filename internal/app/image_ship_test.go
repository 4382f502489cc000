//go:build ship

package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/test/rig"
)

// TestShipImage builds the image from the Dockerfile and runs it: it must
// answer as nobody, print its version, and keep its state in the volume.
//
// No registry is asked. The builder's base image is made here from the Go that
// runs this test and a static busybox.
func TestShipImage(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root: make test-ship")
	}
	for _, tool := range []string{"buildah", "podman", "runc", "busybox"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing: make test-ship installs it", tool)
		}
	}
	dir := t.TempDir()
	storage := []string{"--storage-driver", "vfs", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "runroot")}
	buildah := func(args ...string) string { return command(t, "buildah", append(storage, args...)...) }
	t.Cleanup(func() {
		_ = exec.Command("buildah", append(storage, "rm", "--all")...).Run()             //nolint:noctx // after the test's context
		_ = exec.Command("buildah", append(storage, "rmi", "--all", "--force")...).Run() //nolint:noctx // likewise
	})

	base := buildah("from", "scratch")
	root := buildah("mount", base)
	busybox, _ := exec.LookPath("busybox")
	for _, d := range []string{"bin", "tmp", "etc/ssl/certs", "usr/local", "root"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	command(t, "cp", busybox, filepath.Join(root, "bin/busybox"))
	for _, name := range []string{"sh", "mkdir"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	command(t, "cp", "/etc/ssl/certs/ca-certificates.crt", filepath.Join(root, "etc/ssl/certs/"))
	command(t, "cp", "-a", goEnv(t, "GOROOT"), filepath.Join(root, "usr/local/go"))
	buildah("config", "--env", "PATH=/usr/local/go/bin:/bin", "--env", "HOME=/root", base)
	buildah("umount", base)
	buildah("commit", "--rm", base, "docker.io/library/golang:1.26")

	buildah("build", "--isolation", "chroot", "--pull=never", "--layers=false",
		"--volume", goEnv(t, "GOMODCACHE")+":/root/go/pkg/mod:ro",
		"--build-arg", "VERSION=9.9.9-ship", "--build-arg", "REVISION=abc",
		"--env", "GOPROXY=off", "--tag", "localhost/fleet:test", "../..")

	var images []struct {
		Docker struct {
			Config struct {
				User         string
				Volumes      map[string]any
				ExposedPorts map[string]any
				Entrypoint   []string
			} `json:"config"`
		}
	}
	if err := json.Unmarshal([]byte("["+buildah("inspect", "--type", "image", "localhost/fleet:test")+"]"), &images); err != nil {
		t.Fatal(err)
	}
	c := images[0].Docker.Config
	if c.User != "65532:65532" || len(c.Volumes) != 1 || c.ExposedPorts["9756/tcp"] == nil || len(c.Entrypoint) != 1 {
		t.Errorf("the image's configuration: %+v", c)
	}

	w := newWorld(t, smallFleet(1))
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(data, 65532, 65532); err != nil {
		t.Fatal(err)
	}
	podman := append(append([]string{}, storage...), "--runtime", "runc", "--cgroup-manager", "cgroupfs")
	name := fmt.Sprintf("fleet-%d", os.Getpid())
	s := rig.ServeCommand(t, exec.CommandContext(t.Context(), "podman", append(podman,
		"run", "--rm", "--name", name, "--network", "host", "--read-only",
		"--ulimit", "nofile=1024:20000", "--ulimit", "nproc=1024:1024",
		"--volume", data+":/data", "--env", "GITLAB_TOKEN="+testToken,
		"localhost/fleet:test", "--gitlab.url="+w.url, rig.AnyPort)...))
	r := &running{t: t, url: "http://" + s.Address, stdout: logOf{s.Process}, stderr: logOf{s.Process}}
	r.until("the listing is complete", "up", 1)
	r.until("the version", "exporter_build_info", 1, `version="9.9.9-ship"`)

	var owners []string
	for _, proc := range globAll(t, "/proc/[0-9]*/cmdline") {
		if line, err := os.ReadFile(proc); err == nil && bytes.HasPrefix(line, []byte("/"+program+"\x00")) && bytes.Contains(line, []byte("--gitlab.url="+w.url)) {
			status, err := os.ReadFile(filepath.Join(filepath.Dir(proc), "status"))
			if err != nil {
				t.Fatal(err)
			}
			for l := range strings.Lines(string(status)) {
				if strings.HasPrefix(l, "Uid:") {
					owners = append(owners, strings.Join(strings.Fields(l)[1:], " "))
				}
			}
		}
	}
	if len(owners) != 1 || owners[0] != "65532 65532 65532 65532" {
		t.Errorf("it runs as %q", owners)
	}

	command(t, "podman", append(podman, "stop", "--time", "10", name)...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if code, err := s.Wait(ctx); code != 0 || err != nil {
		t.Errorf("after SIGTERM: exit status %d, %v\n%s", code, err, s.Log())
	}
	if len(globAll(t, filepath.Join(data, "*.db"))) != 1 {
		t.Error("no state in the volume")
	}
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out.String(), errs.String())
	}
	return strings.TrimSpace(out.String())
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	value := command(t, "go", "env", name)
	if value == "" {
		t.Fatalf("go env %s is empty on %s", name, runtime.GOOS)
	}
	return value
}

func globAll(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}
