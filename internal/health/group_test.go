package health

import (
	"fmt"
	"testing"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Runners are peers if all of their traits are equal, in whatever order GitLab
// gives the tags; finding out allocates nothing.
func TestGroupKeyIgnoresTheOrderOfTags(t *testing.T) {
	base := Traits{Type: snapshot.GroupType, Owner: "a", Tags: []string{"docker", "linux"}}
	same := base
	same.Tags = []string{"linux", "docker"}
	if base.key() != same.key() {
		t.Error("the order of the tags makes another group")
	}
	seen := map[uint64]string{}
	add := func(x Traits) {
		t.Helper()
		name := fmt.Sprintf("%+v", x)
		if was, ok := seen[x.key()]; ok {
			t.Errorf("%s has the key of %s", name, was)
		}
		seen[x.key()] = name
	}
	for kind := range snapshot.RunnerType(snapshot.NumRunnerTypes) {
		for _, owner := range []string{"", "a", "b", "docker", "linux"} {
			for _, tags := range [][]string{nil, {""}, {"a"}, {"a", "a"}, {"docker"}, {"linux"}, {"docker", "linux"}, {"dockerlinux"}, {"docker", "linux", "x"}} {
				for flags := range 4 {
					add(Traits{Type: kind, Owner: owner, Tags: tags, RunUntagged: flags&1 > 0, Protected: flags&2 > 0})
				}
			}
		}
	}
	for i := range 20_000 {
		add(Traits{Tags: []string{"docker", fmt.Sprint("pool-", i), fmt.Sprint("zone-", i%7)}})
	}
	if n := testing.AllocsPerRun(10, func() { _ = base.key() }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
