package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// TestKillAtAnyMomentLosesNoCount kills the real program with SIGKILL at random moments
// for a minute, while it is scraped every 100 ms. No counter or bucket may go
// back, and at the end all equal the truth.
func TestKillAtAnyMomentLosesNoCount(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	world, url := serve(t, gitlabsim.Options{
		Seed: seed, Runners: 25, Tags: 8, Healthy: true, JobsPerHour: 40_000,
		Shape: gitlabsim.JobShape{
			ShortShare: 0.5, ShortMax: 2 * time.Second, MeanDuration: 4 * time.Second, MaxDuration: 8 * time.Second, MeanQueued: 500 * time.Millisecond,
			LateShare: -1, CancelingLength: time.Second,
		},
	})
	world.Quiesce() // the first start falls into a second without an end
	world.AddFault(gitlabsim.Fault{Probability: 0.02, Status: 502})
	world.AddFault(gitlabsim.Fault{Probability: 0.01, Drop: true})
	dir := t.TempDir()
	args := []string{"--config.file=" + configure(t, dir, url), "--storage.path=" + dir + "/state"}

	shown := map[string]float64{}
	back := map[string]string{}
	scrapes, kills := 0, 0
	watch := func(p *process, until time.Time) (last map[string]float64) {
		for time.Now().Before(until) {
			got := p.scrape()
			if got != nil {
				scrapes++
				last = got
			}
			for s, v := range got {
				if !isCounter(s) {
					continue
				}
				if v < shown[s] {
					back[s] = fmt.Sprintf("%v after %v", v, shown[s])
				}
				shown[s] = v
			}
			time.Sleep(100 * time.Millisecond)
		}
		return last
	}
	p := launch(t, args...)
	watch(p, time.Now().Add(2*time.Second))
	world.Resume()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); kills++ {
		watch(p, time.Now().Add(300*time.Millisecond+time.Duration(rng.Int64N(int64(4*time.Second)))))
		p.Kill()
		p = launch(t, args...)
	}
	world.Quiesce()
	var last map[string]float64
	var wrong []string
	quiet := time.Now()
	var ended time.Duration
	for deadline := time.Now().Add(2 * time.Minute); ; {
		last = watch(p, time.Now().Add(3*time.Second))
		truth := world.Truth()
		if len(truth.Executing)+len(truth.Pending) == 0 {
			if ended == 0 {
				ended = time.Since(quiet)
			}
			if wrong = compare(last, truth); len(wrong) == 0 || time.Now().After(deadline) {
				break
			}
		} else if time.Now().After(deadline) {
			t.Fatalf("%d jobs execute and %d wait still", len(truth.Executing), len(truth.Pending))
		}
	}
	if code := p.Stop(); code != 0 {
		t.Errorf("exit status %d after it was asked to stop", code)
	}
	if n := len(world.Truth().Finished); n < 300 || kills < 10 {
		t.Errorf("%d jobs and %d kills prove too little", n, kills)
	}
	t.Logf("%d jobs, %d kills, %d scrapes, %d series of counters; the last job ended %v after the load, all were counted at most %v later",
		len(world.Truth().Finished), kills, scrapes, len(shown), ended, time.Since(quiet)-ended)
	if len(wrong) > 0 {
		t.Errorf("counted is not true:\n%s\nlog:\n%s", strings.Join(wrong, "\n"), p.Log())
	}
	for s, what := range back {
		t.Errorf("%s went back: %s", s, what)
	}
}

// compare holds what was scraped against the truth, by type, status and
// reason, by tag, and by living runner.
func compare(got map[string]float64, truth *gitlabsim.Truth) []string {
	counted, want := map[string]int{}, map[string]int{}
	for s, v := range got {
		name, _, _ := strings.Cut(strings.TrimPrefix(s, "gitlab_runner_fleet_"), "{")
		l := labels(s)
		switch name {
		case "jobs_finished_total":
			counted[fmt.Sprintf("type %s %s %s", l["runner_type"], l["status"], l["failure_reason"])] += int(v)
		case "tag_jobs_finished_total":
			counted[fmt.Sprintf("tag %s %s %s", l["tag"], l["status"], l["failure_class"])] += int(v)
		case "runner_jobs_finished_total":
			counted[fmt.Sprintf("runner %s %s %s", l["runner_id"], l["status"], l["failure_class"])] += int(v)
		case "job_duration_seconds_count":
			counted[fmt.Sprintf("durations %s %s", l["runner_type"], l["status"])] += int(v)
		case "job_queued_duration_seconds_count":
			counted["queued "+l["runner_type"]] += int(v)
		}
	}
	untagged := map[int64]bool{}
	for _, r := range truth.Runners {
		untagged[r.ID] = r.RunUntagged
	}
	for _, j := range truth.Finished {
		class, reason := "", ""
		if j.Status == "failed" {
			r := snapshot.ParseFailureReason(j.Reason)
			class, reason = r.Class().String(), r.String()
		}
		want[fmt.Sprintf("type %s %s %s", j.RunnerType, j.Status, reason)]++
		want[fmt.Sprintf("runner %d %s %s", j.Runner, j.Status, class)]++
		tags := slices.Clone(j.Tags)
		if untagged[j.Runner] {
			tags = append(tags, snapshot.TagUntagged)
		}
		for _, tag := range tags {
			want[fmt.Sprintf("tag %s %s %s", tag, j.Status, class)]++
		}
		if !j.Started.IsZero() {
			want[fmt.Sprintf("durations %s %s", j.RunnerType, j.Status)]++
			want["queued "+j.RunnerType]++
		}
	}
	var out []string
	for k, n := range want {
		if counted[k] != n {
			out = append(out, fmt.Sprintf("%s: counted %d, true %d", k, counted[k], n))
		}
	}
	for k, n := range counted {
		if n != 0 && want[k] == 0 {
			out = append(out, fmt.Sprintf("%s: counted %d, true 0", k, n))
		}
	}
	slices.Sort(out)
	return out
}
