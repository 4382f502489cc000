package collector

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 250e6, time.UTC)

// newExporter has a bare registry: without the go_ and process_ families, which
// differ in each run.
func newExporter(tb testing.TB, o Options) *Exporter {
	tb.Helper()
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	e, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

const (
	acceptText  = "text/plain;version=0.0.4"
	acceptOM    = "application/openmetrics-text;version=1.0.0"
	acceptProto = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
)

func fetch(ctx context.Context, e *Exporter, accept, encoding string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", accept)
	if encoding != "" {
		r.Header.Set("Accept-Encoding", encoding)
	}
	w := httptest.NewRecorder()
	e.Handler().ServeHTTP(w, r)
	return w
}

// scrape is one whole GET, straight to the handler.
func scrape(tb testing.TB, e *Exporter, accept, encoding string) *httptest.ResponseRecorder {
	tb.Helper()
	w := fetch(tb.Context(), e, accept, encoding)
	if w.Code != http.StatusOK {
		tb.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w
}

func scrapeBody(tb testing.TB, e *Exporter, accept string) string {
	tb.Helper()
	b, err := io.ReadAll(scrape(tb, e, accept, "").Body)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

// waiting is a GitLab before its first answer.
func waiting(name string) *snapshot.GitLab {
	return &snapshot.GitLab{
		Name: name, URL: "https://" + name + ".example.com", Generation: 1, RowsGeneration: 1, Time: t0,
		Scopes:   []snapshot.ScopeState{{Kind: "instance"}},
		Expected: []snapshot.Expected{{Tag: "gpu", Runners: 2}},
		Self:     snapshot.Self{RateLimit: -1, RateRemaining: -1, JobsVisible: -1},
	}
}

// small is a GitLab with three runners in all states that matter: one well and
// busy, one whose details were not read, one that metrics.runners excludes.
func small(name string) *snapshot.GitLab {
	s := waiting(name)
	s.Version = "18.2.1"
	s.Up = true
	s.Scopes = []snapshot.ScopeState{{Kind: "groups", Path: "infra/ci", Up: true}, {Kind: "groups", Path: "42"}}
	s.Expected = []snapshot.Expected{{Tag: "arm", Runners: 1}, {Tag: "linux", Runners: 1}, {Tag: "unseen", Runners: 1}, {Tag: "zos", Runners: 3}}
	f := &snapshot.Fleet{Detailed: true, MachinesWhole: true, JobsWhole: true, ManagersRead: true}
	f.Runners[snapshot.InstanceType][snapshot.Online][0] = 1
	f.Runners[snapshot.GroupType][snapshot.Offline][1] = 1
	f.Runners[snapshot.ProjectType][snapshot.NeverContacted][0] = 1
	f.Busy[snapshot.InstanceType] = 1
	f.JobsExecuting[snapshot.InstanceType] = [2]int{2, 1}
	f.Managers[snapshot.InstanceType][snapshot.Online] = 2
	f.Versions = []snapshot.Version{{Version: "", Runners: 1, Behind: -1}, {Version: "18.1.0", Runners: 2, Behind: 1}}
	linux := &[snapshot.NumStatuses][2]int{}
	linux[snapshot.Online][0] = 1
	unknown := &[snapshot.NumStatuses][2]int{}
	unknown[snapshot.Offline][1] = 1
	f.UnknownTags = []string{"unseen"}
	f.Tags = []snapshot.Tag{
		{Name: snapshot.TagUnknown, Runners: [snapshot.NumRunnerTypes]*[snapshot.NumStatuses][2]int{nil, unknown, nil}},
		{
			Name: "linux", Busy: 1, Available: 1, Usable: 0, LastAvailable: t0, Capacity: 5,
			Runners:       [snapshot.NumRunnerTypes]*[snapshot.NumStatuses][2]int{linux, nil, nil},
			JobsExecuting: [snapshot.NumRunnerTypes]int{3, 0, 0},
		},
	}
	f.Rows = []snapshot.Runner{
		{
			ID: 9, Type: snapshot.InstanceType, Status: snapshot.Online, StatusSince: t0.Add(-time.Hour), Description: `quotes "and" back\slashes` + "\nin two lines",
			Version: "18.1.0", Platform: "linux", Arch: "amd64", RunUntagged: true, Tags: []string{"linux"},
			ContactedAt: t0.Add(-time.Minute), LastSeen: t0.Add(-time.Second), DetailsAt: t0, ManagersOnline: 2, ManagersKnown: 3,
			JobsExecuting: 3, OldestJobStart: t0.Add(-time.Hour), LastJobFinished: t0.Add(-time.Second), Exported: true,
		},
		{
			ID: 10, Type: snapshot.GroupType, Status: snapshot.Offline, Paused: true, Owner: "a/group", ContactedAt: t0,
			StatusSince: t0.Add(-time.Hour), PausedSince: t0.Add(-time.Minute),
			Tags: []string{snapshot.TagUnknown}, ManagersOnline: -1, ManagersKnown: -1, JobsExecuting: -1, Exported: true,
		},
		{ID: 11, Type: snapshot.ProjectType, Status: snapshot.NeverContacted, Description: "excluded", DetailsAt: t0},
	}
	s.Fleet = f
	s.Queue = &snapshot.Queue{
		Jobs: 4, Oldest: t0.Add(-time.Hour), Truncated: true,
		Tags: []snapshot.QueueTag{
			{Name: snapshot.TagNoRunner, Jobs: 1, Oldest: t0.Add(-time.Hour)},
			{Name: "arm"},
			{Name: "linux", Jobs: 3, Oldest: t0.Add(-time.Minute)},
		},
		TagSets:   []snapshot.QueueTagSet{{Tags: "arm,linux"}, {Tags: "linux", Jobs: 3}, {Tags: "linus", Jobs: 1}},
		Unmatched: []snapshot.QueueUnmatched{{Tags: "linus", Reason: snapshot.NoRunner, Jobs: 1}, {Tags: "arm,linux", Reason: snapshot.NoneAvailable}},
	}
	s.Health = smallHealth()
	buckets := func(n ...uint64) []uint64 { return append(n, make([]uint64, 13-len(n))...) }
	s.Counters = &snapshot.Counters{
		JobsFinished: []snapshot.Counter{
			{Labels: []string{"instance_type", "success", "", ""}, Value: 1234567, Created: t0},
			{Labels: []string{"instance_type", "failed", "script", "script_failure"}, Value: 3, Created: t0},
		},
		StatusChanges:   []snapshot.Counter{{Labels: []string{"instance_type"}, Value: 5, Created: t0}},
		RunnersJoined:   []snapshot.Counter{{Labels: []string{"instance_type"}, Value: 4, Created: t0}},
		RunnersLeft:     []snapshot.Counter{{Labels: []string{"instance_type"}, Value: 3, Created: t0}},
		TagJobsFinished: []snapshot.Counter{{Labels: []string{"linux", "success", ""}, Value: 40, Created: t0}},
		Runners: []snapshot.RunnerCounter{
			{ID: 9, Status: snapshot.Success, Value: 40, Created: t0},
			{ID: 9, Status: snapshot.Failed, Class: snapshot.Script, Value: 3, Created: t0},
		},
		JobDuration:  []snapshot.Histogram{{Labels: []string{"instance_type", "success"}, Buckets: buckets(1, 0, 2), Sum: 93.25, Created: t0}},
		JobQueued:    []snapshot.Histogram{{Labels: []string{"instance_type"}, Buckets: buckets(0, 3), Sum: 12, Created: t0}},
		TagJobQueued: []snapshot.Histogram{{Labels: []string{"linux"}, Buckets: append(buckets()[:12], 1), Sum: 1e7, Created: t0}},
	}
	for i := range s.Self.Stages {
		s.Self.Stages[i] = snapshot.StageState{LastSuccess: t0, Interval: time.Minute, Lag: 1500 * time.Millisecond}
	}
	s.Self.Stages[snapshot.StageDetails].Unread = map[string]int{"forbidden": 1, "error": 0}
	s.Self.RateLimit, s.Self.RateRemaining, s.Self.JobsVisible = 600, 599, 1
	s.Self.TokenExpiry = time.Date(2026, 12, 31, 0, 0, 0, 0, time.UTC)
	s.Self.ClockOffset, s.Self.ClockKnown = -1500*time.Millisecond, true
	s.Self.JobsRecovered = 7
	s.Self.JobsUnresolved[snapshot.UnresolvedTooOld] = 2
	return s
}

// smallHealth judges the runners of small: one fails job after job, one is down
// and left jobs behind, one that metrics.runners excludes was never read.
func smallHealth() *snapshot.HealthPicture {
	h := &snapshot.HealthPicture{Time: t0, FleetSilent: true, Until: t0.Add(time.Hour)}
	h.Runners[snapshot.InstanceType][snapshot.HealthAlive][snapshot.NoHealthReason][0] = 1
	h.Runners[snapshot.GroupType][snapshot.HealthDown][snapshot.HealthSilentAmongPeers][1] = 1
	h.Runners[snapshot.ProjectType][snapshot.HealthUnknown][snapshot.HealthNotSeen][0] = 1
	h.Suspects[snapshot.SuspectBlackHole] = 1
	blackHole := snapshot.Ill{ID: 9, LastSeen: t0.Add(-time.Second), ConsecutiveFailed: 7}
	blackHole.Suspects[snapshot.SuspectBlackHole] = t0.Add(-5 * time.Minute)
	h.Ill = []snapshot.Ill{
		blackHole,
		{
			ID: 10, Type: snapshot.GroupType, Paused: true, Health: snapshot.HealthDown, Reason: snapshot.HealthSilentAmongPeers,
			Since: t0.Add(-20 * time.Minute), OrphanedJobs: 2,
		},
		{ID: 11, Type: snapshot.ProjectType, Health: snapshot.HealthUnknown, Reason: snapshot.HealthNotSeen, Since: t0.Add(-time.Hour)},
	}
	return h
}

// withGeneration is s at another generation.
func withGeneration(s *snapshot.GitLab, gen, rows uint64) *snapshot.GitLab {
	c := *s
	c.Generation, c.RowsGeneration = gen, rows
	return &c
}

// large is the GitLab corp with n runners, about 20 series each, 500 tags.
func large(n int) *snapshot.GitLab {
	s := small("corp")
	f := &snapshot.Fleet{Detailed: true, MachinesWhole: true, JobsWhole: true}
	tag := func(i int) string { return fmt.Sprintf("tag-%03d", i%500) }
	for i := range min(n, 500) {
		f.Tags = append(f.Tags, snapshot.Tag{
			Name: tag(i), Available: i, LastAvailable: t0,
			Runners: [snapshot.NumRunnerTypes]*[snapshot.NumStatuses][2]int{{{i, 1}}, {{2, i}}, nil},
		})
		s.Counters.TagJobsFinished = append(s.Counters.TagJobsFinished,
			snapshot.Counter{Labels: []string{tag(i), "success", ""}, Value: float64(i), Created: t0},
			snapshot.Counter{Labels: []string{tag(i), "failed", "script"}, Value: float64(i), Created: t0})
		s.Counters.TagJobQueued = append(s.Counters.TagJobQueued,
			snapshot.Histogram{Labels: []string{tag(i)}, Buckets: make([]uint64, 13), Sum: float64(i) / 3, Created: t0})
	}
	for i := range n {
		id := int64(1000 + i)
		f.Rows = append(f.Rows, snapshot.Runner{
			ID: id, Type: snapshot.RunnerType(i % 3), Status: snapshot.Status(i % 4),
			Description: fmt.Sprintf("runner-%d.example.com in rack %d", i, i%77), Owner: fmt.Sprintf("group-%d/sub", i%50),
			Version: "18.1.0", Platform: "linux", Arch: "amd64", Tags: []string{tag(i), tag(i + 1), tag(i + 7)},
			ContactedAt: t0.Add(-time.Duration(i) * 17 * time.Millisecond), DetailsAt: t0.Add(-time.Duration(i) * 31 * time.Millisecond),
			ManagersOnline: 1, ManagersKnown: 2, JobsExecuting: i % 5, OldestJobStart: t0.Add(-time.Duration(i) * time.Second),
			LastJobFinished: t0.Add(-time.Duration(i) * time.Minute), Exported: true,
		})
		for _, c := range []snapshot.RunnerCounter{
			{Status: snapshot.Success},
			{Status: snapshot.Failed, Class: snapshot.Script},
			{Status: snapshot.Failed, Class: snapshot.Infrastructure},
			{Status: snapshot.Canceled},
		} {
			c.ID, c.Value, c.Created = id, float64(i*3), t0
			s.Counters.Runners = append(s.Counters.Runners, c)
		}
	}
	s.Fleet = f
	return s
}

// without drops the lines of a family, whose values differ between machines.
func without(body string, families ...string) string {
	var out strings.Builder
	for line := range strings.Lines(body) {
		drop := false
		for _, f := range families {
			drop = drop || strings.HasPrefix(line, f) || strings.HasPrefix(line, "# HELP "+f) || strings.HasPrefix(line, "# TYPE "+f)
		}
		if !drop {
			out.WriteString(line)
		}
	}
	return out.String()
}
