package docs

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"gitlab-runner-fleet-exporter/test/rig"
)

const (
	autoscaling  = "autoscaling.md"
	scaledObject = "../deploy/keda/scaledobject.yaml"
)

// scaling is the query that the ScaledObject scales by.
func scaling(t *testing.T) string {
	t.Helper()
	var o struct {
		Spec struct {
			Fallback struct {
				FailureThreshold int `yaml:"failureThreshold"`
				Replicas         int
				Behavior         string
			}
			Triggers []struct {
				Type       string
				MetricType string `yaml:"metricType"`
				Metadata   map[string]string
			}
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, scaledObject)), &o); err != nil {
		t.Fatal(err)
	}
	if f := o.Spec.Fallback; f.FailureThreshold != 3 || f.Replicas < 1 || f.Behavior != "currentReplicasIfHigher" {
		t.Errorf("an unreadable queue scales the pool: fallback %+v", f)
	}
	if len(o.Spec.Triggers) != 1 {
		t.Fatalf("triggers %+v", o.Spec.Triggers)
	}
	trigger := o.Spec.Triggers[0]
	if trigger.Type != "prometheus" || trigger.MetricType != "AverageValue" || trigger.Metadata["ignoreNullValues"] != "false" {
		t.Errorf("an empty answer is no error: %+v", trigger)
	}
	return trigger.Metadata["query"]
}

// TestScaledObjectAsksWhatIsExplained: the first two queries of the document, added up where the third has an answer.
func TestScaledObjectAsksWhatIsExplained(t *testing.T) {
	parts := blocks(read(t, autoscaling), "promql")
	if len(parts) != 3 {
		t.Fatalf("%d queries", len(parts))
	}
	want := fmt.Sprintf("( %s ) + on () ( %s ) and on () ( %s )", parts[0], parts[1], parts[2])
	if got := scaling(t); strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("the ScaledObject asks\n%s\nthe document explains\n%s", got, want)
	}
}

// TestPoolIsScaledByWaitingAndExecuting runs that query in a real Prometheus against
// the demonstration, of whose pools it is the number that the exporter shows, and one
// number whatever the pool; when the exporter is gone it has no answer, so that
// KEDA holds.
func TestPoolIsScaledByWaitingAndExecuting(t *testing.T) {
	rig.Long(t, "runs the demonstration and a Prometheus")
	prometheus := rig.Tool(t, "prometheus")
	base, exporter := demonstration(t, prometheus)
	drill(t, exporter, "queue")
	of := func(tag, tags string) string {
		return strings.NewReplacer(`"corp"`, `"demo"`, `tag="gpu"`, `tag="`+tag+`"`, `tags=~"gpu|gpu,linux"`, `tags=~"`+tags+`"`).Replace(scaling(t))
	}
	eventually := func(what, query string, want int) {
		t.Helper()
		until := time.Now().Add(2 * time.Minute)
		for {
			n, err := answers(t, base, query)
			if err != nil {
				t.Fatalf("%s: %v\n%s", what, err, query)
			}
			if n == want {
				return
			}
			if time.Now().After(until) {
				t.Fatalf("%s: %d answers, not %d, to\n%s", what, n, want, query)
			}
			time.Sleep(time.Second)
		}
	}
	jam := of("integration", "integration")
	// More than what executes: jobs wait.
	eventually("a pool with a queue", "("+jam+`) > on () sum(gitlab_runner_fleet_tag_jobs_executing{tag="integration"})`, 1)
	eventually("its number", "("+jam+`) == on () (sum(gitlab_runner_fleet_queue_tagset_jobs{tags="integration"}) + sum(gitlab_runner_fleet_tag_jobs_executing{tag="integration"}))`, 1)
	eventually("a set of tags that no job ever had", "("+of("integration", "nobody")+`) == on () sum(gitlab_runner_fleet_tag_jobs_executing{tag="integration"})`, 1)
	eventually("a pool that nobody knows", of("nobody", "nobody"), 0)
	exporter.Kill()
	eventually("no exporter, and so no number", jam, 0)
}
