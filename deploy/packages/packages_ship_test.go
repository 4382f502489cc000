//go:build ship

package packages

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/test/rig"
)

const (
	name    = "gitlab-runner-fleet-exporter"
	program = "/usr/bin/gitlab_runner_fleet_exporter"
	unit    = "/usr/lib/systemd/system/" + name + ".service"
	state   = "/var/lib/" + name
	token   = "glpat-package-canary-8Wv2"
)

// built are the packages of two versions.
func built(t *testing.T) (older, newer string) {
	t.Helper()
	dirs := []string{t.TempDir(), t.TempDir()}
	for i, version := range []string{"1.0.0", "1.1.0"} {
		cmd := exec.CommandContext(t.Context(), "./build.sh")
		cmd.Env = append(os.Environ(), "VERSION="+version, "OUT="+dirs[i])
		rig.Output(t, cmd)
	}
	return dirs[0], dirs[1]
}

func one(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v", pattern, found, err)
	}
	return found[0]
}

// system is a copy of this machine's file system: what is written stays in it.
type system struct{ root string }

func newSystem(t *testing.T) system {
	t.Helper()
	dir := t.TempDir()
	mount := func(target string, args ...string) {
		rig.Run(t, "mount", append(args, target)...)
		rig.Undo(t, "umount", "--lazy", target)
	}
	// An overlay's upper folder may lie on no overlay, as a container's root does.
	disk, root := filepath.Join(dir, "disk"), filepath.Join(dir, "root")
	for _, d := range []string{disk, root} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount(disk, "-t", "tmpfs", "tmpfs")
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(disk, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount(root, "-t", "overlay", "overlay", "-o", "lowerdir=/,upperdir="+disk+"/upper,workdir="+disk+"/work")
	mount(filepath.Join(root, "dev"), "--bind", "/dev")
	mount(filepath.Join(root, "proc"), "--bind", "/proc")
	return system{root}
}

func (s system) path(name string) string { return filepath.Join(s.root, name) }

func (s system) run(t *testing.T, args ...string) string {
	t.Helper()
	return rig.Run(t, "chroot", append([]string{s.root}, args...)...)
}

func (s system) read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(s.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (s system) write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path(name), []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func (s system) has(name string) bool {
	_, err := os.Lstat(s.path(name))
	return err == nil
}

// start starts the service as its unit does: its user, its variables, its
// credential, its command.
func (s system) start(t *testing.T) *rig.Server {
	t.Helper()
	text := s.read(t, unit)
	setting := func(key string) string {
		m := regexp.MustCompile(`(?m)^` + key + `=-?(.*)$`).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("the unit has no %s", key)
		}
		return m[1]
	}
	var env []string
	arguments := ""
	for line := range strings.Lines(setting("Environment") + "\n" + s.read(t, setting("EnvironmentFile"))) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if value, ok := strings.CutPrefix(line, "ARGS="); ok {
			arguments = value
		}
		env = append(env, line)
	}
	user := setting("User")
	id, file, ok := strings.Cut(setting("LoadCredential"), ":")
	if !ok {
		t.Fatal("LoadCredential names no file")
	}
	credential := "/run/credentials/" + name + ".service/" + id
	_ = os.Remove(s.path(credential))
	s.write(t, credential, s.read(t, file), 0o400)
	s.run(t, "chown", user, credential)

	command := strings.Fields(strings.ReplaceAll(setting("ExecStart"), "$ARGS", arguments))
	cmd := exec.CommandContext(t.Context(), "chroot", append([]string{"--userspec=" + user + ":" + setting("Group"), s.root}, command...)...)
	cmd.Env = env
	return rig.ServeCommand(t, cmd)
}

// counted waits until the page shows so many jobs and up, and returns it.
func counted(t *testing.T, s *rig.Server, up, atLeast float64) string {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		page := s.Metrics(t)
		if rig.Total(page, "gitlab_runner_fleet_up") == up && rig.Total(page, "gitlab_runner_fleet_jobs_finished_total") >= atLeast {
			return page
		}
		if time.Now().After(deadline) {
			t.Fatalf("up is %v, jobs finished %v, want %v", rig.Total(page, "gitlab_runner_fleet_up"), rig.Total(page, "gitlab_runner_fleet_jobs_finished_total"), atLeast)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func serveWorld(t *testing.T, world *gitlabsim.World) string {
	t.Helper()
	server := httptest.NewServer(world.Handler())
	t.Cleanup(server.Close)
	return server.URL
}

// TestShipPackagesKeepStateAndEditsOverAnUpgrade goes through the life of each package. What the service counted
// outlives the upgrade, and so do files that were edited.
func TestShipPackagesKeepStateAndEditsOverAnUpgrade(t *testing.T) {
	older, newer := built(t)
	world := gitlabsim.New(gitlabsim.Options{Seed: 1, Runners: 12, Tags: 5, JobsPerHour: 4000, History: time.Hour, Token: token, Healthy: true})
	var down atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		world.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)

	for _, kind := range []struct {
		name, files            string
		install, upgrade       []string
		remove, purge, version []string
	}{
		{
			"deb", "*.deb",
			[]string{"dpkg", "--install"},
			[]string{"dpkg", "--force-confold", "--install"},
			[]string{"dpkg", "--remove", name},
			[]string{"dpkg", "--purge", name},
			[]string{"dpkg-query", "--show", "--showformat=${Version}", name},
		},
		{
			// The packages that it depends on are known to dpkg here.
			"rpm", "*.rpm",
			[]string{"rpm", "--install", "--nodeps"},
			[]string{"rpm", "--upgrade", "--nodeps"},
			[]string{"rpm", "--erase", name},
			nil,
			[]string{"rpm", "--query", "--queryformat=%{VERSION}", name},
		},
	} {
		t.Run(kind.name, func(t *testing.T) {
			s := newSystem(t)
			put := func(dir string) string {
				file := one(t, filepath.Join(dir, kind.files))
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				inside := "/tmp/" + filepath.Base(file)
				s.write(t, inside, string(data), 0o644)
				return inside
			}
			s.run(t, append(kind.install, put(older))...)

			info, err := os.Stat(s.path(state))
			if err != nil {
				t.Fatal(err)
			}
			owner := strings.Fields(s.run(t, "stat", "--format=%U %G %a", state))
			if info.Mode().Perm() != 0o700 || owner[0] != name || owner[1] != name {
				t.Errorf("the state folder: %v", owner)
			}
			if uid := info.Sys().(*syscall.Stat_t).Uid; uid == 0 || uid >= 1000 {
				t.Errorf("the user's id is %d: not of a system user", uid)
			}
			if page := s.run(t, "man", "--pager=cat", "gitlab_runner_fleet_exporter"); !strings.Contains(page, "--healthcheck") || !strings.Contains(page, "1.0.0") || strings.Contains(page, "build user") {
				t.Errorf("the manual:\n%.600s", page)
			}
			completed := s.run(t, "bash", "-c", ". /usr/share/bash-completion/completions/gitlab_runner_fleet_exporter; COMP_WORDS=("+program+" --heal); COMP_CWORD=1; _gitlab_runner_fleet_exporter_bash_autocomplete; echo ${COMPREPLY[@]}")
			if strings.TrimSpace(completed) != "--healthcheck" {
				t.Errorf("completion of --heal: %q", completed)
			}
			s.run(t, "systemd-analyze", "verify", "--man=no", unit)

			s.write(t, "/etc/"+name+"/token", token+"\n", 0o600)
			config := strings.ReplaceAll(s.read(t, "/etc/"+name+"/config.yml"), "https://gitlab.example.com", server.URL) + "poll: {runners_interval: 1s, jobs_interval: 1s}\n"
			s.write(t, "/etc/"+name+"/config.yml", config, 0o644)
			s.write(t, "/etc/default/"+name, s.read(t, "/etc/default/"+name)+"GITLAB_RUNNER_FLEET_WEB_LISTEN_ADDRESS=127.0.0.1:0\n", 0o644)
			edited := s.read(t, "/etc/default/"+name)

			exporter := s.start(t)
			page := counted(t, exporter, 1, 1)
			if !strings.Contains(page, `version="1.0.0"`) {
				t.Error("the page does not show the version")
			}
			before := rig.Total(page, "gitlab_runner_fleet_jobs_finished_total")
			if code := exporter.Stop(); code != 0 {
				t.Errorf("exit status %d", code)
			}

			s.run(t, append(kind.upgrade, put(newer))...)
			if v := s.run(t, kind.version...); v != "1.1.0" {
				t.Errorf("version %s after the upgrade", v)
			}
			if s.read(t, "/etc/default/"+name) != edited || s.read(t, "/etc/"+name+"/config.yml") != config {
				t.Error("the upgrade changed edited files")
			}
			// GitLab is down, so that what is shown comes from the saved state.
			down.Store(true)
			exporter = s.start(t)
			page = counted(t, exporter, 0, before)
			down.Store(false)
			if !strings.Contains(page, `version="1.1.0"`) {
				t.Error("the old program runs after the upgrade")
			}
			if code := exporter.Stop(); code != 0 {
				t.Errorf("exit status %d", code)
			}
			if strings.Contains(exporter.Log(), "quarantine") {
				t.Errorf("the new version does not read the old state:\n%s", exporter.Log())
			}

			s.run(t, kind.remove...)
			for path, want := range map[string]bool{program: false, unit: false, state: true, "/etc/" + name + "/token": true} {
				if s.has(path) != want {
					t.Errorf("after the removal: %s is there: %v", path, !want)
				}
			}
			if kind.purge == nil {
				return
			}
			s.run(t, kind.purge...)
			for _, path := range []string{state, "/etc/" + name, "/etc/default/" + name} {
				if s.has(path) {
					t.Errorf("%s is left behind by a purge", path)
				}
			}
			if strings.Contains(s.read(t, "/etc/passwd")+s.read(t, "/etc/group"), name) {
				t.Error("the user is left behind by a purge")
			}
		})
	}
}

// TestShipUnitIsHardened: the figure that docs/install.md names.
func TestShipUnitIsHardened(t *testing.T) {
	out := rig.Run(t, "systemd-analyze", "security", "--offline=true", "./"+name+".service")
	m := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no level in\n%s", out)
	}
	if level, err := strconv.ParseFloat(m[1], 64); err != nil || level > 1.5 {
		t.Errorf("exposure level %s, want at most 1.5:\n%s", m[1], out)
	}
}
