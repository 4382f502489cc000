package monitor

import (
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// A runner whose poll reaches the bound of a walk needs no walk, and the stage
// must not look as if it had not succeeded for hours.
func TestPollsAsDeepAsAWalkCountForTheStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := gitlabsim.New(gitlabsim.Options{Seed: 8, Runners: 20, Tags: 4, JobsPerHour: 60, Token: secret})
		s := newScraper()
		_, state := openState(t, "")
		r := start(t, world, state, s, setup{})
		time.Sleep(3 * time.Hour)
		g := s.scrape()
		stage := g.Self.Stages[snapshot.StageReconcile]
		if age := time.Since(stage.LastSuccess); age > 10*time.Minute {
			t.Errorf("the last success of the stage is %v old, though each runner was read to the end every few minutes", age)
		}
		if s.counts["reading reconcile"] > 20 {
			t.Errorf("%d walks of runners that polls had read to the end", s.counts["reading reconcile"])
		}
		r.end(t)
	})
}
