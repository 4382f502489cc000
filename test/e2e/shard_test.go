package e2e

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
)

// TestShardsSumToTheWhole runs three real processes on one GitLab: their fleet families sum
// to the whole, nothing twice, nothing missing.
func TestShardsSumToTheWhole(t *testing.T) {
	t.Parallel()
	world, url := serve(t, gitlabsim.Options{
		Seed: 21, Runners: 90, Tags: 9, JobsPerHour: 20_000,
		Shape: gitlabsim.JobShape{
			LateShare: -1, ShortShare: -1, MeanDuration: time.Second, MaxDuration: 3 * time.Second,
			MeanQueued: 200 * time.Millisecond, CancelingLength: 500 * time.Millisecond,
		},
	})
	world.Quiesce()
	const shards = 3
	procs := make([]*process, shards)
	for i := range procs {
		dir := t.TempDir()
		procs[i] = launch(t, "--config.file="+configure(t, dir, url), "--storage.path="+filepath.Join(dir, "state"),
			fmt.Sprintf("--shard.index=%d", i), fmt.Sprintf("--shard.count=%d", shards))
	}
	// all sums the shards' series; the label shard must distinguish them.
	all := func() map[string]float64 {
		out := map[string]float64{}
		for i, p := range procs {
			for s, v := range p.scrape() {
				if !strings.HasPrefix(s, "gitlab_runner_fleet_") || strings.HasPrefix(s, "gitlab_runner_fleet_exporter_") {
					continue
				}
				if l := labels(s); l["shard"] != strconv.Itoa(i) {
					t.Fatalf("shard %d shows %s", i, s)
				}
				out[strings.Replace(s, fmt.Sprintf(`shard="%d"`, i), `shard=""`, 1)] += v
			}
		}
		return out
	}
	for _, p := range procs {
		eventually(t, p, "the first picture", func(got map[string]float64) bool { return sum(got, "gitlab_runner_fleet_runners") > 0 })
	}
	all()
	world.Resume()
	eventually(t, procs[0], "60 finished jobs", func(map[string]float64) bool { return len(world.Truth().Finished) >= 60 })
	world.Quiesce()
	var got map[string]float64
	var wrong []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(500 * time.Millisecond) {
		got = all()
		truth := world.Truth()
		if len(truth.Executing)+len(truth.Pending) > 0 {
			continue
		}
		if wrong = compare(got, truth); len(wrong) == 0 {
			break
		}
	}
	truth := world.Truth()
	if len(truth.Finished) < 40 {
		t.Fatalf("%d jobs prove too little", len(truth.Finished))
	}
	if len(wrong) > 0 {
		t.Errorf("the shards' counters do not sum to the truth:\n%s", strings.Join(wrong, "\n"))
	}
	for kind, n := range truth.Counts {
		s := fmt.Sprintf(`gitlab_runner_fleet_runners{gitlab="g0",paused="%t",runner_type="%s",shard="",status="%s"}`, kind.Paused, kind.Type, kind.Status)
		if got[s] != float64(n) {
			t.Errorf("%s: the shards sum to %v, true %d", s, got[s], n)
		}
	}
	seen := map[string]int{}
	for i, p := range procs {
		own := 0
		for s := range p.scrape() {
			if strings.HasPrefix(s, "gitlab_runner_fleet_runner_paused{") {
				seen[labels(s)["runner_id"]]++
				own++
			}
		}
		if own < 10 {
			t.Errorf("shard %d has %d of 90 runners", i, own)
		}
	}
	if len(seen) != len(truth.Runners) {
		t.Errorf("%d runners are shown, true %d", len(seen), len(truth.Runners))
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("runner %s stands in %d shards", id, n)
		}
	}
	for _, p := range procs {
		p.Kill()
	}
}
