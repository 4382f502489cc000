package promcheck

import (
	"os"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/promqltest"
	"go.yaml.in/yaml/v3"
)

// TestPoolIsNotScaledByWhatIsUnknown: the query of the ScaledObject adds what waits for
// the pool's sets of tags and what executes on it, over two shards of two processes
// each. Where one of the two is not known it has no value, which KEDA takes for an error;
// a set that had no job is 0 only where the queue of the pool's tag was read.
func TestPoolIsNotScaledByWhatIsUnknown(t *testing.T) {
	raw, err := os.ReadFile("../../deploy/keda/scaledobject.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var o struct {
		Spec struct {
			Triggers []struct{ Metadata map[string]string }
		}
	}
	if err := yaml.Unmarshal(raw, &o); err != nil || len(o.Spec.Triggers) != 1 {
		t.Fatalf("%+v, %v", o, err)
	}
	query := o.Spec.Triggers[0].Metadata["query"]
	if _, err := New().Check(query); err != nil {
		t.Error(err)
	}
	const waiting = `
  gitlab_runner_fleet_queue_tagset_jobs{gitlab="corp",shard="0",instance="a",tags="gpu"} 3
  gitlab_runner_fleet_queue_tagset_jobs{gitlab="corp",shard="0",instance="b",tags="gpu"} 2
  gitlab_runner_fleet_queue_tagset_jobs{gitlab="corp",shard="0",instance="a",tags="gpu,linux"} 4
  gitlab_runner_fleet_queue_tagset_jobs{gitlab="corp",shard="0",instance="b",tags="gpu,linux"} 4
  gitlab_runner_fleet_queue_tagset_jobs{gitlab="corp",shard="0",instance="a",tags="linux"} 90
  gitlab_runner_fleet_queue_tagset_jobs{gitlab="lab",shard="0",instance="a",tags="gpu"} 50`
	const others = `
  gitlab_runner_fleet_queue_jobs{gitlab="corp",shard="0",instance="a"} 97
  gitlab_runner_fleet_queue_tag_jobs{gitlab="corp",shard="0",instance="a",tag="linux"} 94
  gitlab_runner_fleet_queue_jobs{gitlab="lab",shard="0",instance="a"} 50
  gitlab_runner_fleet_queue_tag_jobs{gitlab="lab",shard="0",instance="a",tag="gpu"} 50`
	const read = others + `
  gitlab_runner_fleet_queue_tag_jobs{gitlab="corp",shard="0",instance="a",tag="gpu"} 7`
	const executing = `
  gitlab_runner_fleet_tag_jobs_executing{gitlab="corp",shard="0",instance="a",tag="gpu",runner_type="instance_type"} 5
  gitlab_runner_fleet_tag_jobs_executing{gitlab="corp",shard="0",instance="b",tag="gpu",runner_type="instance_type"} 5
  gitlab_runner_fleet_tag_jobs_executing{gitlab="corp",shard="1",instance="c",tag="gpu",runner_type="group_type"} 6
  gitlab_runner_fleet_tag_jobs_executing{gitlab="corp",shard="1",instance="c",tag="linux",runner_type="group_type"} 60`
	const noRunner = `
  gitlab_runner_fleet_tag_available_runners{gitlab="corp",shard="0",instance="a",tag="gpu"} 0`
	const first = `
  gitlab_runner_fleet_up{gitlab="corp",shard="0",instance="a"} 1
  gitlab_runner_fleet_up{gitlab="corp",shard="0",instance="b"} 1
  gitlab_runner_fleet_exporter_shards{instance="a"} 2
  gitlab_runner_fleet_exporter_shards{instance="b"} 2
  gitlab_runner_fleet_exporter_shards{instance="of another GitLab"} 4
  gitlab_runner_fleet_jobs_executing{gitlab="corp",shard="0",instance="a",runner_type="instance_type",status="running"} 65
  gitlab_runner_fleet_jobs_executing{gitlab="corp",shard="0",instance="b",runner_type="instance_type",status="running"} 65`
	const known = first + `
  gitlab_runner_fleet_up{gitlab="corp",shard="1",instance="c"} 1
  gitlab_runner_fleet_exporter_shards{instance="c"} 2
  gitlab_runner_fleet_jobs_executing{gitlab="corp",shard="1",instance="c",runner_type="instance_type",status="running"} 66`
	for _, c := range []struct{ what, series, want string }{
		{"all is known", waiting + read + executing + known, "{} 18"},
		{"none waits", read + executing + known, "{} 11"},
		{"the pool has no runner", waiting + read + noRunner + known, "{} 7"},
		{"nothing at all, and all was read", read + noRunner + known, "{} 0"},
		{"the queue is not known", executing + known, ""},
		{"the queue of other runners is known", others + executing + known, ""},
		{"what executes is not known", waiting + read, ""},
		{"what executes on one shard is not known", waiting + read + executing + first, ""},
		{"the tag has no series of its own", waiting + read + known, ""},
		{"of another GitLab only", strings.ReplaceAll(read+noRunner+known, `"corp"`, `"other"`), ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			load := "load 1m" + c.series + "\n\neval instant at 0 " + strings.Join(strings.Fields(query), " ") + "\n"
			if c.want != "" {
				load += "  " + c.want + "\n"
			}
			promqltest.RunTest(t, load, promqltest.NewTestEngine(t, false, 0, 1000))
		})
	}
}
