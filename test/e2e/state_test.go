package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/test/rig"
)

// lively is a GitLab whose jobs end within seconds.
func lively(t *testing.T) (*gitlabsim.World, string) {
	t.Helper()
	return serve(t, gitlabsim.Options{
		Seed: 11, Runners: 12, Tags: 5, Healthy: true, JobsPerHour: 20_000,
		Shape: gitlabsim.JobShape{
			LateShare: -1, ShortShare: -1, MeanDuration: time.Second, MaxDuration: 3 * time.Second,
			MeanQueued: 200 * time.Millisecond, CancelingLength: 500 * time.Millisecond,
		},
	})
}

const finishedJobs = "gitlab_runner_fleet_jobs_finished_total"

func sum(got map[string]float64, name string) (n float64) {
	for s, v := range got {
		if strings.HasPrefix(s, name+"{") || s == name {
			n += v
		}
	}
	return n
}

// eventually polls until ok, for a minute at most.
func eventually(t *testing.T, p *process, what string, ok func(map[string]float64) bool) map[string]float64 {
	t.Helper()
	var got map[string]float64
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if got = p.scrape(); got != nil && ok(got) {
			return got
		}
	}
	t.Fatalf("%s did not come to pass within a minute; log:\n%s", what, p.Log())
	return nil
}

func counting(n float64) func(map[string]float64) bool {
	return func(got map[string]float64) bool { return sum(got, finishedJobs) >= n }
}

// stateFile is the one file of a GitLab in the folder.
func stateFile(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "g0*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("state files %v, %v", files, err)
	}
	return files[0]
}

// refused runs the exporter where it must not start, and returns what it wrote.
func refused(t *testing.T, within time.Duration, args ...string) string {
	t.Helper()
	began := time.Now()
	code, out := execute(t, rig.Exporter(t), append([]string{rig.AnyPort}, args...)...)
	if code != 1 {
		t.Errorf("exit status %d, want 1:\n%s", code, out)
	}
	if took := time.Since(began); took > within {
		t.Errorf("it took %v to refuse, want at most %v", took, within)
	}
	if strings.Contains(out, "goroutine ") {
		t.Errorf("a stack trace:\n%s", out)
	}
	return out
}

func TestTornStateIsPutAside(t *testing.T) {
	t.Parallel()
	_, url := lively(t)
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	args := []string{"--config.file=" + configure(t, dir, url), "--storage.path=" + state}
	p := launch(t, args...)
	eventually(t, p, "20 counted jobs", counting(20))
	p.Kill()

	damage := map[string]func(path string) error{
		"truncated to a half": func(path string) error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			return os.Truncate(path, info.Size()/2)
		},
		"overwritten in the middle": func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for i := range b {
				if i > len(b)/2 {
					b[i] ^= 0x55
				}
			}
			return os.WriteFile(path, b, 0o600)
		},
		"emptied of sense": func(path string) error { return os.WriteFile(path, []byte("not a state"), 0o600) },
	}
	aside := 0
	for name, do := range damage {
		if err := do(stateFile(t, state)); err != nil {
			t.Fatal(err)
		}
		p = launch(t, args...)
		got := eventually(t, p, name+": counting goes on", counting(5))
		if n := sum(got, "gitlab_runner_fleet_exporter_state_damaged_total"); n != 1 {
			t.Errorf("%s: state_damaged_total is %v", name, n)
		}
		files, err := filepath.Glob(filepath.Join(state, "*damaged*"))
		if aside++; err != nil || len(files) != aside {
			t.Errorf("%s: put aside are %v, want %d files", name, files, aside)
		}
		if len(files) > 0 && !strings.Contains(p.Log(), filepath.Base(files[len(files)-1])) && !strings.Contains(p.Log(), "damaged") {
			t.Errorf("%s: the log does not name the file:\n%s", name, p.Log())
		}
		p.Kill()
		// Only the newest one is in the way of the next round's glob.
		for _, f := range files {
			if err := os.Rename(f, filepath.Join(state, "x"+filepath.Base(f))); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestForeignStateIsRefused(t *testing.T) {
	t.Parallel()
	_, url := lively(t)
	dir := t.TempDir()
	state := "--storage.path=" + filepath.Join(dir, "state")
	p := launch(t, "--config.file="+configure(t, dir, url), state)
	before := sum(eventually(t, p, "5 counted jobs", counting(5)), finishedJobs)
	p.Kill()

	// The same GitLab by another scheme or slash is the same; another host is not.
	out := refused(t, 5*time.Second, "--config.file="+configure(t, dir, "http://another.example.com"), state)
	for _, want := range []string{"g0", "another.example.com", strings.TrimPrefix(url, "http://")} {
		if !strings.Contains(out, want) {
			t.Errorf("the refusal does not name %q:\n%s", want, out)
		}
	}
	p = launch(t, "--config.file="+configure(t, dir, url+"/"), state)
	eventually(t, p, "the old counters", counting(before))
	p.Kill()
}

func TestSecondProcessOnAFolderIsRefused(t *testing.T) {
	t.Parallel()
	_, url := lively(t)
	dir := t.TempDir()
	args := []string{"--config.file=" + configure(t, dir, url), "--storage.path=" + filepath.Join(dir, "state")}
	p := launch(t, args...)
	out := refused(t, 20*time.Second, args...)
	if !strings.Contains(out, filepath.Join(dir, "state")) || !strings.Contains(out, "another process") {
		t.Errorf("the refusal does not name what is wrong:\n%s", out)
	}
	eventually(t, p, "the first goes on", counting(1))
	p.Kill()
}

// TestFullDiskFreezesCountersAndLosesNoJob puts the state where it cannot grow (RLIMIT_FSIZE): counters
// stay, gauges go on, and after a stop with room again what was not saved is
// read again.
func TestFullDiskFreezesCountersAndLosesNoJob(t *testing.T) {
	t.Parallel()
	world, url := lively(t)
	world.Quiesce()
	dir := t.TempDir()
	args := []string{"--config.file=" + configure(t, dir, url), "--storage.path=" + filepath.Join(dir, "state")}
	p := launch(t, args...)
	eventually(t, p, "the first picture", func(got map[string]float64) bool { return sum(got, "gitlab_runner_fleet_runners") == 12 })
	world.Resume()
	eventually(t, p, "20 counted jobs", counting(20))
	p.Kill()

	p = launchLimited(t, filepath.Join(dir, "state"), args...)
	got := eventually(t, p, "saving fails", func(got map[string]float64) bool {
		return sum(got, "gitlab_runner_fleet_exporter_state_save_errors_total") > 0
	})
	frozen := sum(got, finishedJobs)
	ran := len(world.Truth().Finished)
	got = eventually(t, p, "jobs that finish meanwhile", func(map[string]float64) bool { return len(world.Truth().Finished) >= ran+20 })
	if n := sum(got, finishedJobs); n != frozen {
		t.Errorf("counters went on from %v to %v while nothing could be saved", frozen, n)
	}
	if got[`gitlab_runner_fleet_up{gitlab="g0"}`] != 1 || sum(got, "gitlab_runner_fleet_runners") != 12 {
		t.Error("the gauges do not go on")
	}
	if n := strings.Count(p.Log(), "cannot be saved"); n != 1 {
		t.Errorf("the log has it %d times, want once:\n%s", n, p.Log())
	}
	// What was not saved at the end is not called saved.
	if code := p.Stop(); code != 1 || !strings.Contains(p.Log(), "stopped, but the state could not be saved") {
		t.Errorf("exit status %d:\n%s", code, p.Log())
	}

	world.Quiesce()
	p = launch(t, args...)
	eventually(t, p, "all jobs counted", func(got map[string]float64) bool {
		truth := world.Truth()
		return len(truth.Executing)+len(truth.Pending) == 0 && len(compare(got, truth)) == 0
	})
	p.Kill()
}
