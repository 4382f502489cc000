package promcheck

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/queue"
)

// classes adds runners in 60 classes, which overlap as those of a company do. The
// pool wedged is there too: it is online, and takes nothing.
func classes(w *gitlabsim.World, runners int, wedged string) (pools map[string][]int64, project int64) {
	group := w.AddGroup("acme", 0)
	team := w.AddGroup("team", group)
	project = w.AddProject("app", team)
	var specs []gitlabsim.RunnerSpec
	for i := range 40 { // of the instance
		s := gitlabsim.RunnerSpec{Tags: []string{fmt.Sprintf("pool-%02d", i)}, RunUntagged: i%8 == 0, Protected: i%10 == 9}
		if i%2 == 0 {
			s.Tags = append(s.Tags, "linux")
		}
		if i%3 == 0 {
			s.Tags = append(s.Tags, "docker")
		}
		specs = append(specs, s)
	}
	for i := range 14 {
		s := gitlabsim.RunnerSpec{Group: team, Tags: []string{fmt.Sprintf("team-%02d", i), "linux"}, RunUntagged: i == 0}
		if i%2 == 0 {
			s.Group = group
		}
		specs = append(specs, s)
	}
	for i := range 6 {
		specs = append(specs, gitlabsim.RunnerSpec{Projects: []int64{project}, Tags: []string{fmt.Sprintf("app-%d", i)}})
	}
	pools = map[string][]int64{}
	for i := range runners {
		s := specs[i%len(specs)]
		s.Created = w.Now().Add(-30 * 24 * time.Hour)
		// The simulator draws jobs of projects and refs that such runners do not serve.
		s.NoJobs = s.Protected || s.Group != 0 || s.Projects != nil || s.Tags[0] == wedged
		id := w.AddRunner(s)
		pools[s.Tags[0]] = append(pools[s.Tags[0]], id)
	}
	return pools, project
}

// TestQueueIsAlertedByName: on a day of a smaller company, cut to eight hours.
// TestShipDayOfTheQueue is the whole one.
func TestQueueIsAlertedByName(t *testing.T) {
	if testing.Short() {
		t.Skip("lives through eight hours of 240 runners")
	}
	queueDay(t, 240, 8*time.Hour)
}

// queueDay: on a day of jobs on runners in 60 classes, with 40 jobs for each runner in 24
// hours, there are two jams, a wedged pool and a misspelt tag. Each of the four is one
// notification that names it, and nothing else is.
func queueDay(t *testing.T, runners int, day time.Duration) {
	t.Helper()
	const wedged = "pool-07"
	l := &lab{last: day, queue: queue.Options{Interval: time.Minute, All: true}}
	perHour := 40 * float64(runners) / 24
	// Failures of infrastructure are tickets of their own: a day of chance has some.
	l.world = gitlabsim.Options{Seed: 12, JobsPerHour: perHour, TickPeers: true, Shape: gitlabsim.JobShape{
		MeanQueued: 10 * time.Second, Reasons: map[string]float64{"script_failure": 1},
	}}
	var (
		pools   map[string][]int64
		project int64
	)
	l.setup = func(w *gitlabsim.World) { pools, project = classes(w, runners, wedged) }
	// A jam: within half an hour come so many jobs for one pool that its runners need
	// two hours for them, one after the other.
	jam := func(w *gitlabsim.World, pool string, minute int, tags ...string) {
		ids := pools[pool]
		began := w.Now().Add(-time.Duration(minute) * time.Minute)
		for n := minute * len(ids) * 4 / 5; n < (minute+1)*len(ids)*4/5; n++ {
			started := began.Add(time.Duration(n/len(ids)) * 5 * time.Minute)
			if started.Before(w.Now()) {
				started = w.Now()
			}
			w.CreateJob(gitlabsim.JobSpec{Runner: ids[n%len(ids)], Project: project, Tags: tags, Created: w.Now(), Started: started, Finished: started.Add(5 * time.Minute)})
		}
	}
	at := func(share float64) int { return int(share * day.Minutes()) }
	l.each = func(w *gitlabsim.World, minute int) {
		switch {
		case minute >= at(1./8) && minute < at(1./8)+30:
			jam(w, "pool-06", minute-at(1./8), "linux", "pool-06")
		case minute >= at(7./12) && minute < at(7./12)+30:
			jam(w, "team-03", minute-at(7./12), "team-03")
		case minute == at(3./8):
			for range 30 {
				w.CreateJob(gitlabsim.JobSpec{Tags: []string{wedged}})
			}
		case minute == at(3./4):
			w.CreateJob(gitlabsim.JobSpec{Tags: []string{"dokcer", "linux"}})
		}
	}
	began := time.Now()
	l.run(t)
	lived := time.Since(began)
	got, log := heard(l.judge(t), l.began)
	t.Logf("lived in %s, judged in %s\n%s", lived.Round(time.Second), (time.Since(began) - lived).Round(time.Second), strings.Join(log, "\n"))
	want := []string{
		"warning GitLabRunnerQueueNoRunner dokcer,linux",
		"warning GitLabRunnerTagQueueSlow pool-06",
		"warning GitLabRunnerTagQueueSlow team-03",
		"warning GitLabRunnerTagWedged " + wedged,
	}
	if !slices.Equal(got, want) {
		t.Errorf("notifications\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	finished, most, truncated := 0.0, 0.0, 0
	for _, x := range l.scrapes[len(l.scrapes)-1].samples {
		if x.labels.Get("__name__") == "gitlab_runner_fleet_jobs_finished_total" {
			finished += x.value
		}
	}
	for _, s := range l.scrapes {
		n, _ := s.at("queue_jobs")
		most = max(most, n)
		if cut, _ := s.at("queue_truncated"); cut == 1 {
			truncated++
		}
	}
	t.Logf("%v jobs finished, at most %v waited, %d of %d readings truncated", finished, most, truncated, len(l.scrapes))
	if finished < 0.9*perHour*day.Hours() || most < float64(runners)/10 {
		t.Errorf("%v jobs finished, %v waited at once: no day as promised", finished, most)
	}
}
