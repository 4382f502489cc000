//go:build ship

package app

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/test/rig"
)

// mostBytes is what the image may take, its binary and all.
const mostBytes = 20 << 20

// TestShipImageRunsAsAnyUser builds the image from the Dockerfile as the README says, and runs
// it: it must answer as nobody and as a user that a platform chose, print its
// version, and keep its state in the volume.
//
// No registry is asked. The builder's base image is made here from the Go that
// runs this test, its git, and a static busybox.
func TestShipImageRunsAsAnyUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root: make test-ship")
	}
	for _, tool := range []string{"buildah", "podman", "runc", "busybox"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing: make test-ship installs it", tool)
		}
	}
	dir := shortDir(t)
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
	for _, name := range []string{"sh", "mkdir", "chmod"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	command(t, "cp", "/etc/ssl/certs/ca-certificates.crt", filepath.Join(root, "etc/ssl/certs/"))
	withLibraries(t, root, "git")
	command(t, "cp", "-a", goEnv(t, "GOROOT"), filepath.Join(root, "usr/local/go"))
	buildah("config", "--env", "PATH=/usr/local/go/bin:/usr/bin:/bin", "--env", "HOME=/root", base)
	buildah("umount", base)
	buildah("commit", "--rm", base, "docker.io/library/golang:1.26")

	// A clone, as users have it, with what is not committed yet.
	source := filepath.Join(dir, "source")
	command(t, "git", "clone", "-q", "--no-hardlinks", "../..", source)
	command(t, "sh", "-c", "cd ../.. && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents --target-directory="+source)
	build := func(tag string, more ...string) {
		args := append([]string{
			"build", "--isolation", "chroot", "--pull=never", "--layers=false", "--format", "docker",
			"--volume", goEnv(t, "GOMODCACHE") + ":/root/go/pkg/mod:ro", "--volume", goEnv(t, "GOCACHE") + ":/root/.cache/go-build", "--env", "GOPROXY=off", "--tag", tag,
		}, more...)
		buildah(append(args, source)...)
	}
	build("localhost/fleet:test")
	// buildah looks for the builder's image of the target where it is given
	// --platform; docker takes the builder's own and sets this variable.
	build("localhost/fleet:arm64", "--build-arg", "TARGETARCH=arm64", "--build-arg", "VERSION=9.9.9-ship")
	checkImage(t, buildah, "localhost/fleet:test", elf.EM_X86_64)
	checkImage(t, buildah, "localhost/fleet:arm64", elf.EM_AARCH64)

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
	r.until("the version", "exporter_build_info", 1, `version="`+command(t, "git", "-C", source, "describe", "--tags", "--always")+`"`,
		`revision="`+command(t, "git", "-C", source, "rev-parse", "HEAD")+`"`, `branch="`+command(t, "git", "-C", source, "rev-parse", "--abbrev-ref", "HEAD")+`"`)
	// As the HEALTHCHECK runs: with the variables of the container alone.
	if code, text := statusOf("podman", append(podman, "exec", "--env", "GITLAB_RUNNER_FLEET_WEB_LISTEN_ADDRESS="+s.Address, name, "/"+program, "--healthcheck")...); code != 0 {
		t.Errorf("the health check exits with %d: %s", code, text)
	}
	if code, text := statusOf("podman", append(podman, "exec", "--env", "GITLAB_RUNNER_FLEET_WEB_LISTEN_ADDRESS=127.0.0.1:1", name, "/"+program, "--healthcheck")...); code != exitFailure {
		t.Errorf("where nothing listens the health check exits with %d: %s", code, text)
	}

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

	// A platform chooses the user, of group 0, and the volume is a new one.
	s = rig.ServeCommand(t, exec.CommandContext(t.Context(), "podman", append(podman,
		"run", "--rm", "--name", name, "--network", "host", "--read-only", "--user", "1000660000:0", "--cap-drop", "all",
		"--ulimit", "nofile=1024:20000", "--ulimit", "nproc=1024:1024",
		"--volume", name+":/data", "--env", "GITLAB_TOKEN="+testToken,
		"localhost/fleet:test", "--gitlab.url="+w.url, rig.AnyPort)...))
	r = &running{t: t, url: "http://" + s.Address, stdout: logOf{s.Process}, stderr: logOf{s.Process}}
	r.until("the listing is complete, as another user", "up", 1)
	command(t, "podman", append(podman, "stop", "--time", "10", name)...)
	if code, err := s.Wait(ctx); code != 0 || err != nil || !strings.Contains(s.Log(), "the state is saved") {
		t.Errorf("as another user: exit status %d, %v\n%s", code, err, s.Log())
	}
}

// checkImage holds what an image promises beside its program.
func checkImage(t *testing.T, buildah func(args ...string) string, tag string, machine elf.Machine) {
	t.Helper()
	var images []struct {
		Docker struct {
			Config struct {
				User         string
				Volumes      map[string]any
				ExposedPorts map[string]any
				Entrypoint   []string
				Labels       map[string]string
				Healthcheck  struct{ Test []string }
			} `json:"config"`
		}
	}
	if err := json.Unmarshal([]byte("["+buildah("inspect", "--type", "image", tag)+"]"), &images); err != nil {
		t.Fatal(err)
	}
	c := images[0].Docker.Config
	if c.User != "65532:65532" || len(c.Volumes) != 1 || c.ExposedPorts["9756/tcp"] == nil || len(c.Entrypoint) != 1 ||
		c.Labels["org.opencontainers.image.title"] != program || !slices.Equal(c.Healthcheck.Test, []string{"CMD", "/" + program, "--healthcheck"}) {
		t.Errorf("%s: the image's configuration: %+v", tag, c)
	}
	container := buildah("from", "--pull=never", tag)
	defer buildah("rm", container)
	root := buildah("mount", container)
	size := int64(0)
	for _, name := range []string{program, "etc/ssl/certs/ca-certificates.crt"} {
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	t.Logf("%s: %d bytes", tag, size)
	if size > mostBytes {
		t.Errorf("%s takes %d bytes, want at most %d", tag, size, mostBytes)
	}
	info, err := os.Stat(filepath.Join(root, "data"))
	if err != nil {
		t.Fatal(err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid != 65532 || owner.Gid != 0 || info.Mode().Perm() != 0o770 {
		t.Errorf("%s: /data has the mode %v and the owner %+v", tag, info.Mode(), owner)
	}
	file, err := elf.Open(filepath.Join(root, program))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if file.Machine != machine {
		t.Errorf("%s: the program is for %v", tag, file.Machine)
	}
}

// withLibraries copies a program and what it loads into a root file system.
func withLibraries(t *testing.T, root, name string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	files := []string{path}
	for field := range strings.FieldsSeq(command(t, "ldd", path)) {
		if strings.HasPrefix(field, "/") {
			files = append(files, field)
		}
	}
	command(t, "cp", append(append([]string{"--dereference", "--parents"}, files...), root)...)
}

// statusOf runs a command that may fail, and returns its exit status and output.
func statusOf(name string, args ...string) (int, string) {
	cmd := exec.Command(name, args...) //nolint:noctx // ends by itself
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		return -1, err.Error()
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// shortDir is a folder for podman, whose runroot may have 50 characters: the
// name of a test in t.TempDir() is too long for it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "image-") //nolint:usetesting // its name is too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("the folder of the images: %v", err)
		}
	})
	return dir
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
