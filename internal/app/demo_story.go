package app

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
)

// The demonstration's script repeats, so that it also shows something to who
// looks hours later.
const (
	storyCycle  = time.Hour
	storyLasts  = 35 * time.Minute // longer than the slowest alert takes
	storyPulse  = 10 * time.Second // between two scripted jobs of a pool
	storyFuture = time.Hour        // a clock that jumps further is not caught up with
)

// The tags of the scripted pools; no generated runner has them.
const (
	tagLost        = "ios-signing"
	tagFloor       = "payments-deploy"
	tagBlackHole   = "android"
	tagMidJob      = "docker-large"
	tagQueue       = "integration"
	tagMisspelt    = "integratoin" // no runner has it
	tagMaintenance = "arm-build"
)

// whyMisspelt is where the page explains why nobody takes the misspelt job.
const whyMisspelt = "/fleet/why?gitlab=" + demoName + "&tags=" + tagMisspelt

// story is one incident of the demonstration: the script plays it at its time,
// and POST /demo/drill at any time.
type story struct {
	name  string
	at    time.Duration // within the cycle
	what  string
	see   string // a series or an expression
	where string // on the page /fleet, and on a board
	alert string // of alerts/rules.yml, and after how long
	begin func(s *script, now time.Time)
	end   func(s *script, now time.Time)

	began, ends time.Time // began is zero while all is well
}

func (t *story) on() bool { return !t.began.IsZero() }

// script plays the stories in a simulated GitLab. It has no clock of its own:
// it catches up with the world's before each request, as the world does.
type script struct {
	mu      sync.Mutex
	world   *gitlabsim.World
	start   time.Time
	pulsed  time.Time
	turn    int
	stories []*story

	projects []int64
	lost     []int64
	floor    []int64
	android  []int64
	midJob   []int64
	queue    []int64
	paused   []int64
	orphan   int64   // the job whose runner died
	burst    []int64 // the jobs that jam the queue
	misspelt int64   // the job that no runner can take
}

func stories() []*story {
	return []*story{
		{
			name: "mid-job", what: "a runner of tag " + tagMidJob + " dies in the middle of a job (the first time nine minutes before the start)",
			see:   `gitlab_runner_fleet_runner_orphaned_jobs > 0`,
			where: "overdue, job_silent; board Runner", alert: "GitLabRunnerOrphanedJobs, 12 min after the death",
			begin: (*script).beginMidJob, end: (*script).endMidJob,
		},
		{
			name: "black-hole", at: time.Minute, what: "a runner of tag " + tagBlackHole + " fails each job within seconds, and so takes most of them",
			see:   `gitlab_runner_fleet_suspect_runners{reason="black_hole"}`,
			where: "suspect, black_hole; board Jobs", alert: "GitLabRunnerBlackHole, after some 3 min",
			end: (*script).endBlackHole,
		},
		{
			name: "tag-lost", at: 2 * time.Minute, what: "both runners of tag " + tagLost + " are deleted: the tag has lost its last runner",
			see:   `gitlab_runner_fleet_tag_available_runners{tag="` + tagLost + `"}`,
			where: "tags without a runner; board Tags", alert: "GitLabRunnerTagLost (page), after 6 min",
			begin: (*script).beginLost, end: (*script).endLost,
		},
		{
			name: "floor", at: 2*time.Minute + 30*time.Second, what: "one of the two runners of tag " + tagFloor + " is paused: below its floor of 2",
			see:   `gitlab_runner_fleet_tag_available_runners < on (gitlab, tag) gitlab_runner_fleet_tag_expected_runners`,
			where: "tags below their floor; board Tags", alert: "GitLabRunnerTagBelowFloor (page), after 6 min",
			begin: func(s *script, _ time.Time) { s.world.Pause(s.floor[0], true) },
			end:   func(s *script, _ time.Time) { s.world.Pause(s.floor[0], false) },
		},
		{
			name: "queue", at: 3 * time.Minute, what: "a burst of jobs for tag " + tagQueue + ", queued 12 minutes earlier, occupies its runners",
			see:   `gitlab_runner_fleet_queue_tag_jobs{tag="` + tagQueue + `"}`,
			where: "waiting jobs; board Tags, queue time", alert: "GitLabRunnerTagQueueSlow, after 20 min",
			begin: (*script).beginQueue, end: (*script).endQueue,
		},
		{
			name: "misspelt", at: 3*time.Minute + 30*time.Second, what: "a job with the tag " + tagMisspelt + ", which no runner has: it waits for ever",
			see:   `gitlab_runner_fleet_queue_unmatched_tagset_jobs{tags="` + tagMisspelt + `",reason="no_runner"}`,
			where: "jobs that wait, no_runner; " + whyMisspelt + " names the tag that is meant", alert: "GitLabRunnerQueueNoRunner, after 27 min; the page shows it after some 2 min",
			begin: func(s *script, now time.Time) {
				s.misspelt = s.world.CreateJob(gitlabsim.JobSpec{Project: s.projects[0], Created: now, Name: "integration", Stage: "test", Tags: []string{tagMisspelt}})
			},
			end: func(s *script, _ time.Time) { s.world.CancelJob(s.misspelt) },
		},
		{
			name: "maintenance", at: 4 * time.Minute, what: "the three runners of tag " + tagMaintenance + ", which has no floor, are paused for maintenance",
			see:   `gitlab_runner_fleet_tag_runners{tag="` + tagMaintenance + `",paused="true"}`,
			where: "paused runners; board Tags", alert: "no page; the warning GitLabRunnerTagEmpty after 16 min",
			begin: func(s *script, _ time.Time) { s.pauseAll(true) },
			end:   func(s *script, _ time.Time) { s.pauseAll(false) },
		},
	}
}

// newScript adds the pools of the stories to the world.
func newScript(w *gitlabsim.World) *script {
	s := &script{world: w, start: w.Now(), stories: stories()}
	s.pulsed = s.start.Add(-5 * time.Minute) // jobs of the pools, so that peers have a past
	for _, name := range []string{"shop-app", "wallet-app"} {
		s.projects = append(s.projects, w.AddProject(name, 1))
	}
	s.lost = s.pool(tagLost, 2)
	s.floor = s.pool(tagFloor, 2)
	s.android = s.pool(tagBlackHole, 5)
	s.midJob = s.pool(tagMidJob, 3)
	s.queue = s.pool(tagQueue, 2)
	s.paused = s.pool(tagMaintenance, 3)
	// What every fleet has: a registration that nobody removed, named in the greeting.
	w.AddRunner(gitlabsim.RunnerSpec{
		Description: "legacy-vm-01", Tags: []string{"docker"}, Created: s.start.Add(-400 * 24 * time.Hour),
		Offline: true, LastContact: s.start.Add(-12 * 24 * time.Hour), NoJobs: true,
	})
	return s
}

func (s *script) pool(tag string, n int) []int64 {
	var ids []int64
	for i := range n {
		ids = append(ids, s.add(tag, i+1, gitlabsim.RunnerSpec{Created: s.start.Add(-100 * 24 * time.Hour)}))
	}
	return ids
}

func (s *script) add(tag string, number int, spec gitlabsim.RunnerSpec) int64 {
	spec.Description, spec.Tags, spec.NoJobs = fmt.Sprintf("%s-%02d", tag, number), []string{tag}, true
	return s.world.AddRunner(spec)
}

func (s *script) beginMidJob(now time.Time) {
	died, started := now, now.Add(-time.Minute)
	if s.orphan == 0 { // the first time it has happened already, so that its alert comes in time
		died, started = s.start.Add(-9*time.Minute), s.start.Add(-25*time.Minute)
		s.midJob[0] = s.add(tagMidJob, 4, gitlabsim.RunnerSpec{Created: now.Add(-100 * 24 * time.Hour), Offline: true, LastContact: died})
	}
	// GitLab fails a job an hour after its last update.
	s.orphan = s.world.CreateJob(gitlabsim.JobSpec{
		Runner: s.midJob[0], Project: s.projects[0], Name: "compile", Stage: "build", Created: started, Started: started,
		Finished: died.Add(time.Hour), Status: "failed", Reason: "no_updates_running", Tags: []string{tagMidJob},
	})
	s.world.SetOnline(s.midJob[0], false)
}

func (s *script) endMidJob(time.Time) {
	s.world.SetOnline(s.midJob[0], true)
	s.world.FinishJob(s.orphan, "failed", "no_updates_running")
}

func (s *script) endBlackHole(now time.Time) {
	s.job(s.android[0], s.projects[0], now, 20*time.Second, true)
}

func (s *script) beginLost(time.Time) {
	for _, id := range s.lost {
		s.world.DeleteRunner(id)
	}
}

func (s *script) endLost(time.Time) {
	for i := range s.lost {
		s.lost[i] = s.add(tagLost, i+1, gitlabsim.RunnerSpec{})
	}
}

// beginQueue plans all jobs of the burst, so that those whose turn has not come wait
// visibly. Two at once on each runner: what they were seen to execute is their capacity.
func (s *script) beginQueue(now time.Time) {
	created := now.Add(-12 * time.Minute)
	for at := now; at.Before(now.Add(storyLasts)); at = at.Add(storyPulse) {
		for _, id := range s.queue {
			s.burst = append(s.burst, s.world.CreateJob(gitlabsim.JobSpec{
				Runner: id, Project: s.projects[len(s.burst)%2], Created: created, Started: at, Finished: at.Add(2*storyPulse - time.Second),
				Name: "integration", Stage: "test", Tags: []string{tagQueue},
			}))
		}
	}
}

func (s *script) endQueue(time.Time) {
	for _, id := range s.burst {
		s.world.CancelJob(id) // those that have ended stay as they are
	}
	s.burst = s.burst[:0]
}

func (s *script) pauseAll(paused bool) {
	for _, id := range s.paused {
		s.world.Pause(id, paused)
	}
}

func (s *script) story(name string) *story {
	for _, t := range s.stories {
		if t.name == name {
			return t
		}
	}
	return nil
}

// catchUp plays what was due until the world's present.
func (s *script) catchUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance(s.world.Now())
}

// handler serves the simulated GitLab as it is after what was due.
func (s *script) handler() http.Handler {
	next := s.world.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.catchUp()
		next.ServeHTTP(w, r)
	})
}

func (s *script) advance(now time.Time) {
	in := now.Sub(s.start) % storyCycle
	for _, t := range s.stories {
		switch due := now.Add(t.at - in); {
		case t.on() && !now.Before(t.ends):
			s.finish(t, now)
		case !t.on() && in >= t.at && in < t.at+storyLasts:
			s.play(t, now, due.Add(storyLasts))
		}
	}
	if now.Sub(s.pulsed) > storyFuture {
		s.pulsed = now.Add(-storyPulse)
	}
	for at := s.pulsed.Add(storyPulse); !at.After(now); at = at.Add(storyPulse) {
		s.pulse(at)
		s.pulsed = at
	}
}

func (s *script) play(t *story, now, ends time.Time) {
	t.began, t.ends = now, ends
	if t.begin != nil {
		t.begin(s, now)
	}
}

func (s *script) finish(t *story, now time.Time) {
	t.began = time.Time{}
	if t.end != nil {
		t.end(s, now)
	}
}

// drill plays a story now, from its beginning; nil if there is none of that name.
func (s *script) drill(name string) *story {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.world.Now()
	s.advance(now)
	t := s.story(name)
	if t == nil {
		return nil
	}
	if t.on() {
		s.finish(t, now)
	}
	s.play(t, now, now.Add(storyLasts))
	played := *t
	return &played
}

// pulse is what the pools' runners execute at a moment.
func (s *script) pulse(at time.Time) {
	s.turn++
	peers := s.android
	if t := s.story("black-hole"); t.on() && !at.Before(t.began) {
		s.job(s.android[0], s.projects[s.turn%2], at, 3*time.Second, false)
		peers = s.android[1:]
	}
	s.job(peers[s.turn%len(peers)], s.projects[s.turn/2%2], at, time.Duration(15+s.turn%3*5)*time.Second, true)
	s.job(s.midJob[1+s.turn%2], s.projects[s.turn%2], at, 12*time.Second, true)
	if !s.story("queue").on() && s.turn%6 == 0 {
		s.job(s.queue[s.turn/6%2], s.projects[0], at, 30*time.Second, true)
	}
}

func (s *script) job(runner, project int64, at time.Time, takes time.Duration, ok bool) {
	spec := gitlabsim.JobSpec{
		Runner: runner, Project: project, Created: at.Add(-4 * time.Second), Started: at, Finished: at.Add(takes), Name: "assemble", Stage: "build",
	}
	if !ok {
		spec.Status, spec.Reason = "failed", "runner_system_failure"
	}
	s.world.CreateJob(spec)
}

// program is the list of the stories with their times and where each shows.
func (s *script) program() string {
	var b strings.Builder
	for _, t := range s.stories {
		fmt.Fprintf(&b, "  %2d:%02d  %s\n         drill %s · %s\n         metric  %s\n         alert   %s\n",
			int(t.at.Minutes()), int(t.at.Seconds())%60, t.what, t.name, "/fleet: "+t.where, t.see, t.alert)
	}
	return b.String()
}

func (s *script) names() []string {
	names := make([]string, len(s.stories))
	for i, t := range s.stories {
		names[i] = t.name
	}
	return names
}
