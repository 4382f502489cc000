package gitlabsim

import (
	"strings"
	"time"
)

// Options describe the GitLab to simulate. The zero value is an empty, newest
// GitLab on the real clock.
type Options struct {
	// Seed decides everything that is random: the same seed, clock readings
	// and calls give the same world.
	Seed uint64
	// Now is the world's clock, default time.Now. The world has no goroutine
	// of its own: it catches up with Now at each request and each inspection,
	// so it works with the real time, with testing/synctest and by hand. A
	// clock that goes back is ignored.
	Now func() time.Time
	// Runners and Tags size the initial fleet: all three types, tags with a
	// long tail, several a runner, some runners with none.
	Runners, Tags int
	// Healthy leaves out the initial fleet's offline, stale, never contacted
	// and paused runners.
	Healthy bool
	// JobsPerHour is the mean over the whole fleet; 0: only jobs by hand.
	JobsPerHour float64
	// History is lived through by New, so that a world begins with jobs;
	// default 0, or 4 h with Daily.
	History time.Duration
	Shape   JobShape
	// TickPeers lets each job that is queued be offered to all runners that take
	// the same jobs, so that the idle ones among them contact GitLab too, as
	// GitLab does (docs/gitlab-api.md 3.3).
	TickPeers bool
	// Daily adds a visible daily life, for a demonstration: waves of load,
	// machines that go down, come back and are replaced, pauses, a flapping
	// runner, a runner that fails whatever it picks, runners that join, leave
	// and are retagged.
	Daily bool
	// Calm leaves out of Daily what makes an operator act: machines that go down,
	// pauses, the flapping and the failing runner, runners that leave and tags that
	// are taken off. A demonstration scripts these itself, and nothing else shall alert.
	Calm bool
	// Version is GitLab's, default "19.1.0-ee"; see features for what changes.
	Version string
	// ExternalURL is GitLab's configured address, which its Link headers name
	// whatever address was called (docs/gitlab-api.md 2); default https://gitlab.example.com.
	ExternalURL string
	// Root is a relative root such as "/gitlab".
	Root string
	// Token is an administrator's token with read_api; more by AddToken.
	Token string
	// RateLimit is the number of requests a RateWindow (default one minute)
	// for one user; 0: no throttle.
	RateLimit  int
	RateWindow time.Duration
	// Latency is waited, on a timer of package time, before an answer is
	// computed; route as in Requests.
	Latency func(route string) time.Duration
	// OffsetLimit refuses job pages beyond 50,000 rows with 405, as the flag
	// enforce_ci_builds_pagination_limit does (docs/gitlab-api.md 2).
	OffsetLimit bool
	// AdminMode requires the scope admin_mode on administrators' tokens
	// (docs/gitlab-api.md 5.2).
	AdminMode bool
	// Location is the time zone GitLab writes times in; default UTC.
	Location *time.Location
}

// JobShape describes generated jobs. A zero field takes its
// default, a negative one means none.
type JobShape struct {
	LateShare       float64            // share that starts long after its creation (manual, delayed): 0.08
	LateMax         time.Duration      // the longest such delay: 20 h
	ShortShare      float64            // share under ShortMax: 0.3
	ShortMax        time.Duration      // 1 min
	MeanDuration    time.Duration      // of the others, log-normal: 5 min
	MaxDuration     time.Duration      // 8 h
	MeanQueued      time.Duration      // pending to picked, exponential: 8 s
	FailedShare     float64            // 0.12
	CanceledShare   float64            // 0.04
	Reasons         map[string]float64 // weights of the failure reasons
	RetryShare      float64            // share of failed jobs that are run again, in a new row: 0.3
	CancelingLength time.Duration      // mean time from canceling to canceled: 20 s
	DeletedShare    float64            // share of pipelines deleted with their jobs: none
	DeletedAfter    time.Duration      // mean time from their creation to their deletion: 12 h
}

func share(v, def float64) float64 {
	switch {
	case v < 0:
		return 0
	case v == 0:
		return def
	}
	return v
}

func span(v, def time.Duration) time.Duration {
	switch {
	case v < 0:
		return 0
	case v == 0:
		return def
	}
	return v
}

func (s JobShape) withDefaults() JobShape {
	s.LateShare = share(s.LateShare, 0.08)
	s.LateMax = span(s.LateMax, 20*time.Hour)
	s.ShortShare = share(s.ShortShare, 0.3)
	s.ShortMax = span(s.ShortMax, time.Minute)
	s.MeanDuration = span(s.MeanDuration, 5*time.Minute)
	s.MaxDuration = span(s.MaxDuration, 8*time.Hour)
	s.MeanQueued = span(s.MeanQueued, 8*time.Second)
	s.FailedShare = share(s.FailedShare, 0.12)
	s.CanceledShare = share(s.CanceledShare, 0.04)
	s.RetryShare = share(s.RetryShare, 0.3)
	s.CancelingLength = span(s.CancelingLength, 20*time.Second)
	s.DeletedShare = share(s.DeletedShare, 0)
	s.DeletedAfter = span(s.DeletedAfter, 12*time.Hour)
	if s.Reasons == nil {
		s.Reasons = map[string]float64{
			"script_failure": 70, "runner_system_failure": 10, "job_execution_server_timeout": 5,
			"missing_dependency_failure": 3, "runner_unsupported": 2, "api_failure": 2,
			"no_updates_running": 3, "trace_size_exceeded": 1, "data_integrity_failure": 1,
			"runner_configuration_error": 1, "runner_external_dependency_failure": 1, "runner_interrupted": 1,
		}
	}
	return s
}

func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Version == "" {
		o.Version = "19.1.0-ee"
	}
	if o.ExternalURL == "" {
		o.ExternalURL = "https://gitlab.example.com"
	}
	o.ExternalURL = strings.TrimRight(o.ExternalURL, "/")
	o.Root = strings.TrimRight(o.Root, "/")
	if o.RateWindow <= 0 {
		o.RateWindow = time.Minute
	}
	if o.Location == nil {
		o.Location = time.UTC
	}
	if o.History == 0 && o.Daily {
		o.History = 4 * time.Hour
	}
	o.Shape = o.Shape.withDefaults()
	return o
}

// features is what differs between releases (docs/gitlab-api.md 1.7 and where else named).
// Where no exact release is known the nearest documented one is taken.
type features struct {
	paused          bool // the field paused: 14.8
	neverContacted  bool // the status never_contacted, before it not_connected: 15.0
	failureReason   bool // 15.1
	metadata        bool // GET /metadata: 15.2
	tokenSelf       bool // GET /personal_access_tokens/self: 15.5
	canceling       bool // status canceling: 17.0
	managers        bool // GET /runners/:id/managers, system_id, manage_runner: 17.0
	ipEmptied       bool // 17.0
	strictPage      bool // page below 1 is refused: 17.0
	noStartFinished bool // a job failed at its assignment has finished_at: 17.0
	keyset          bool // 17.8
	created         bool // created_by, created_at, job_execution_status, auditors: 18.0
	runnerNotFound  bool // "404 Runner Not Found": 18.0
	rateHeaders     bool // RateLimit-* on every answer: 18.8
	projects        bool // include_projects, GET /runners/:id/projects: 19.0
	newReasons      bool // failure reasons 24 to 33: 19.0
	runningOnly     bool // a canceling job does not make its runner active: 19.2
	onlineFor       int64
	staleAfter      int64
}

func parseFeatures(version string) features {
	since := func(major, minor int) bool { return since(version, major, minor) }
	f := features{
		paused:          since(14, 8),
		neverContacted:  since(15, 0),
		failureReason:   since(15, 1),
		metadata:        since(15, 2),
		tokenSelf:       since(15, 5),
		canceling:       since(17, 0),
		managers:        since(17, 0),
		ipEmptied:       since(17, 0),
		strictPage:      since(17, 0),
		noStartFinished: since(17, 0),
		keyset:          since(17, 8),
		created:         since(18, 0),
		runnerNotFound:  since(18, 0),
		rateHeaders:     since(18, 8),
		projects:        since(19, 0),
		newReasons:      since(19, 0),
		runningOnly:     since(19, 2),
		onlineFor:       2 * hour,
		staleAfter:      7 * day,
	}
	if !since(16, 0) {
		f.onlineFor = hour
	}
	if !since(17, 0) {
		f.staleAfter = 90 * day
	}
	return f
}
