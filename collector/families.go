package collector

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Collect functions, one a family, in the order of the table. Each decides when
// its family is absent; what the table's help describes is decided here.

func collectUp(v *view, s *sink) { s.gauge(bit(v.Up)) }

func collectScopeUp(v *view, s *sink) {
	for _, sc := range v.Scopes {
		s.gauge(bit(sc.Up), string(sc.Kind), sc.Path)
	}
}

func collectGitLabInfo(v *view, s *sink) { s.gauge(1, withoutUser(v.URL), v.Version) }

func collectRunners(v *view, s *sink) {
	if v.Fleet == nil {
		return
	}
	for t := range snapshot.RunnerType(snapshot.NumRunnerTypes) {
		statusPaused(s, &v.Fleet.Runners[t], t.String())
	}
}

// statusPaused emits all 8 combinations, zeros included, behind the labels given.
func statusPaused(s *sink, n *[snapshot.NumStatuses][2]int, labels ...string) {
	// Of fixed size, so that the slice stays on the stack.
	var lv [4]string
	k := copy(lv[:], labels)
	for st := range snapshot.Status(snapshot.NumStatuses) {
		for p, paused := range [2]string{"false", "true"} {
			lv[k], lv[k+1] = st.String(), paused
			s.gauge(float64(n[st][p]), lv[:k+2]...)
		}
	}
}

// tags are the tags of the fleet; none while a sum over them would be incomplete.
func tags(v *view) []snapshot.Tag {
	if v.Fleet == nil || !v.Fleet.Detailed {
		return nil
	}
	return v.Fleet.Tags
}

func collectTagRunners(v *view, s *sink) {
	for i := range tags(v) {
		tag := &v.Fleet.Tags[i]
		for t := range snapshot.RunnerType(snapshot.NumRunnerTypes) {
			if n := tag.Runners[t]; n != nil {
				statusPaused(s, n, tag.Name, t.String())
			}
		}
	}
}

func collectManagers(v *view, s *sink) {
	if v.Fleet == nil || !v.Fleet.Detailed || !v.Fleet.MachinesWhole || !v.Fleet.ManagersRead {
		return
	}
	for t := range snapshot.RunnerType(snapshot.NumRunnerTypes) {
		for st := range snapshot.Status(snapshot.NumStatuses) {
			s.gauge(float64(v.Fleet.Managers[t][st]), t.String(), st.String())
		}
	}
}

func collectBusy(v *view, s *sink) {
	if v.Fleet == nil || !v.Fleet.JobsWhole {
		return
	}
	for t := range snapshot.RunnerType(snapshot.NumRunnerTypes) {
		s.gauge(float64(v.Fleet.Busy[t]), t.String())
	}
}

func collectTagBusy(v *view, s *sink) {
	if v.Fleet == nil || !v.Fleet.JobsWhole {
		return
	}
	for _, tag := range tags(v) {
		s.gauge(float64(tag.Busy), tag.Name)
	}
}

func versions(v *view) []snapshot.Version {
	if v.Fleet == nil || !v.Fleet.Detailed || !v.Fleet.MachinesWhole {
		return nil
	}
	return v.Fleet.Versions
}

func collectVersions(v *view, s *sink) {
	for _, ver := range versions(v) {
		s.gauge(float64(ver.Runners), ver.Version)
	}
}

func collectVersionsBehind(v *view, s *sink) {
	for _, ver := range versions(v) {
		if ver.Behind >= 0 {
			s.gauge(float64(ver.Behind), ver.Version)
		}
	}
}

func collectTagExpected(v *view, s *sink) {
	for _, x := range v.Expected {
		s.gauge(float64(x.Runners), x.Tag)
	}
}

func collectTagAvailable(v *view, s *sink) {
	eachExpectedTag(v, s, func(t *snapshot.Tag) int { return t.Available })
}

func collectTagUsable(v *view, s *sink) {
	eachExpectedTag(v, s, func(t *snapshot.Tag) int { return t.Usable })
}

// eachExpectedTag emits a number of each tag of the fleet, and 0 for an expected
// tag that no runner has: it is the very case to alert on. A tag of which it
// is not known whether a runner has it is left out.
func eachExpectedTag(v *view, s *sink, of func(*snapshot.Tag) int) {
	if v.Fleet == nil || !v.Fleet.Detailed {
		return
	}
	// Both lists are sorted by tag.
	expected := slices.DeleteFunc(slices.Clone(v.Expected), func(x snapshot.Expected) bool {
		_, unknown := slices.BinarySearch(v.Fleet.UnknownTags, x.Tag)
		return unknown
	})
	for i := range v.Fleet.Tags {
		tag := &v.Fleet.Tags[i]
		for len(expected) > 0 && expected[0].Tag < tag.Name {
			s.gauge(0, expected[0].Tag)
			expected = expected[1:]
		}
		if len(expected) > 0 && expected[0].Tag == tag.Name {
			expected = expected[1:]
		}
		s.gauge(float64(of(tag)), tag.Name)
	}
	for _, x := range expected {
		s.gauge(0, x.Tag)
	}
}

// health is nil where nobody judged, or the fleet is withdrawn.
func health(v *view) *snapshot.HealthPicture {
	if v.Fleet == nil {
		return nil
	}
	return v.Health
}

func collectHealth(v *view, s *sink) {
	h := health(v)
	if h == nil {
		return
	}
	for t := range snapshot.RunnerType(snapshot.NumRunnerTypes) {
		for verdict := range snapshot.NumHealths {
			for _, reason := range snapshot.HealthReasons(verdict) {
				for p, paused := range [2]string{"false", "true"} {
					s.gauge(float64(h.Runners[t][verdict][reason][p]), t.String(), verdict.String(), reason.String(), paused)
				}
			}
		}
	}
}

func collectSuspects(v *view, s *sink) {
	h := health(v)
	if h == nil {
		return
	}
	for reason := range snapshot.NumSuspicions {
		s.gauge(float64(h.Suspects[reason]), reason.String())
	}
}

func collectSuspended(v *view, s *sink) {
	h := health(v)
	if h == nil {
		return
	}
	s.gauge(bit(h.AfterOutage), snapshot.HealthAfterOutage.String())
	s.gauge(bit(h.FleetSilent), snapshot.HealthFleetSilent.String())
}

func collectTagCapacity(v *view, s *sink) {
	if v.Fleet == nil || !v.Fleet.Detailed {
		return
	}
	for _, tag := range v.Fleet.Tags {
		s.gauge(float64(tag.Capacity), tag.Name)
	}
}

func collectTagLastAvailable(v *view, s *sink) {
	for _, tag := range tags(v) {
		s.time(tag.LastAvailable, tag.Name)
	}
}

func collectJobsExecuting(v *view, s *sink) {
	if v.Fleet == nil || !v.Fleet.JobsWhole {
		return
	}
	for t := range snapshot.RunnerType(snapshot.NumRunnerTypes) {
		for i, status := range [2]string{"running", "canceling"} {
			s.gauge(float64(v.Fleet.JobsExecuting[t][i]), t.String(), status)
		}
	}
}

func collectTagJobsExecuting(v *view, s *sink) {
	if v.Fleet == nil || !v.Fleet.JobsWhole {
		return
	}
	for _, tag := range tags(v) {
		for t := range snapshot.RunnerType(snapshot.NumRunnerTypes) {
			if tag.Runners[t] != nil {
				s.gauge(float64(tag.JobsExecuting[t]), tag.Name, t.String())
			}
		}
	}
}

// queue is nil while it is not known, and while the list of runners is not: which
// jobs match a runner depends on it.
func queue(v *view) *snapshot.Queue {
	if v.Fleet == nil {
		return nil
	}
	return v.Queue
}

func collectQueueJobs(v *view, s *sink) {
	if q := queue(v); q != nil {
		s.gauge(float64(q.Jobs))
	}
}

func collectQueueTagJobs(v *view, s *sink) {
	if q := queue(v); q != nil {
		for _, t := range q.Tags {
			s.gauge(float64(t.Jobs), t.Name)
		}
	}
}

func collectQueueTagOldest(v *view, s *sink) {
	if q := queue(v); q != nil {
		for _, t := range q.Tags {
			s.time(t.Oldest, t.Name)
		}
	}
}

func collectQueueTagsetJobs(v *view, s *sink) {
	if q := queue(v); q != nil {
		for _, t := range q.TagSets {
			s.gauge(float64(t.Jobs), t.Tags)
		}
	}
}

func collectQueueOldest(v *view, s *sink) {
	if q := queue(v); q != nil {
		s.time(q.Oldest)
	}
}

func collectQueueUnmatched(v *view, s *sink) {
	if q := queue(v); q != nil {
		for _, u := range q.Unmatched {
			s.gauge(float64(u.Jobs), u.Tags, u.Reason.String())
		}
	}
}

func collectQueueTruncated(v *view, s *sink) {
	if q := queue(v); q != nil {
		s.gauge(bit(q.Truncated))
	}
}

// eachRunner calls f for the runners that have runner_ series: with v.only for
// those of it.
func eachRunner(v *view, f func(r *snapshot.Runner, id string)) {
	if v.Fleet == nil {
		return
	}
	for i := range v.Fleet.Rows {
		r := &v.Fleet.Rows[i]
		if !r.Exported {
			continue
		}
		if _, ok := v.only[r.ID]; ok || v.only == nil {
			f(r, strconv.FormatInt(r.ID, 10))
		}
	}
}

// eachIll calls f for the runners that have runner_ series and something to
// report of their health.
func eachIll(v *view, f func(r *snapshot.Ill, id string)) {
	h := health(v)
	if h == nil {
		return
	}
	ill := h.Ill // sorted by id, as the rows are
	eachRunner(v, func(r *snapshot.Runner, id string) {
		for len(ill) > 0 && ill[0].ID < r.ID {
			ill = ill[1:]
		}
		if len(ill) > 0 && ill[0].ID == r.ID {
			f(&ill[0], id)
		}
	})
}

func collectRunnerLastSeen(v *view, s *sink) {
	eachRunner(v, func(r *snapshot.Runner, id string) { s.time(r.LastSeen, id) })
}

func collectRunnerUnhealthySince(v *view, s *sink) {
	eachIll(v, func(r *snapshot.Ill, id string) {
		if r.Health != snapshot.HealthAlive {
			s.time(r.Since, id, r.Health.String(), r.Reason.String())
		}
	})
}

func collectRunnerSuspectSince(v *view, s *sink) {
	eachIll(v, func(r *snapshot.Ill, id string) {
		for reason, since := range r.Suspects {
			s.time(since, id, snapshot.Suspicion(reason).String())
		}
	})
}

func collectRunnerOrphanedJobs(v *view, s *sink) {
	eachIll(v, func(r *snapshot.Ill, id string) {
		if r.OrphanedJobs > 0 {
			s.gauge(float64(r.OrphanedJobs), id)
		}
	})
}

func collectRunnerConsecutiveFailed(v *view, s *sink) {
	eachIll(v, func(r *snapshot.Ill, id string) {
		if r.ConsecutiveFailed > 0 {
			s.gauge(float64(r.ConsecutiveFailed), id)
		}
	})
}

func collectRunnerInfo(v *view, s *sink) {
	eachRunner(v, func(r *snapshot.Runner, id string) {
		var untagged, protected string
		if !r.DetailsAt.IsZero() {
			untagged, protected = strconv.FormatBool(r.RunUntagged), strconv.FormatBool(r.Protected)
		}
		s.gauge(1, id, r.Type.String(), cut(r.Description), r.Owner, r.Version, r.Platform, r.Arch, untagged, protected)
	})
}

func collectRunnerStatus(v *view, s *sink) {
	eachRunner(v, func(r *snapshot.Runner, id string) {
		for st := range snapshot.Status(snapshot.NumStatuses) {
			s.gauge(bit(r.Status == st), id, st.String())
		}
	})
}

func collectRunnerPaused(v *view, s *sink) {
	eachRunner(v, func(r *snapshot.Runner, id string) { s.gauge(bit(r.Paused), id) })
}

func collectRunnerStatusSince(v *view, s *sink) {
	eachRunner(v, func(r *snapshot.Runner, id string) {
		if r.Status != snapshot.Online {
			s.time(r.StatusSince, id)
		}
	})
}

func collectRunnerPausedSince(v *view, s *sink) {
	eachRunner(v, func(r *snapshot.Runner, id string) {
		if r.Paused {
			s.time(r.PausedSince, id)
		}
	})
}

func collectRunnerContacted(v *view, s *sink) {
	eachRunner(v, func(r *snapshot.Runner, id string) {
		if !r.DetailsAt.IsZero() {
			s.time(r.ContactedAt, id)
		}
	})
}

func collectRunnerDetails(v *view, s *sink) {
	eachRunner(v, func(r *snapshot.Runner, id string) { s.time(r.DetailsAt, id) })
}

func collectRunnerTags(v *view, s *sink) {
	eachRunner(v, func(r *snapshot.Runner, id string) {
		for _, tag := range r.Tags {
			s.gauge(1, id, tag)
		}
	})
}

func collectRunnerManagersOnline(v *view, s *sink) {
	eachRunner(v, func(r *snapshot.Runner, id string) { s.known(float64(r.ManagersOnline), id) })
}

func collectRunnerManagersKnown(v *view, s *sink) {
	eachRunner(v, func(r *snapshot.Runner, id string) { s.known(float64(r.ManagersKnown), id) })
}

func collectRunnerJobsExecuting(v *view, s *sink) {
	eachRunner(v, func(r *snapshot.Runner, id string) { s.known(float64(r.JobsExecuting), id) })
}

func collectRunnerOldestJob(v *view, s *sink) {
	eachRunner(v, func(r *snapshot.Runner, id string) { s.time(r.OldestJobStart, id) })
}

func collectRunnerLastJob(v *view, s *sink) {
	eachRunner(v, func(r *snapshot.Runner, id string) { s.time(r.LastJobFinished, id) })
}

func collectRunnerJobsFinished(v *view, s *sink) {
	if v.Counters == nil {
		return
	}
	for i := range v.Counters.Runners {
		c := &v.Counters.Runners[i]
		s.counter(c.Value, c.Created, strconv.FormatInt(c.ID, 10), c.Status.String(), c.Class.String())
	}
}

func counters(v *view, s *sink, of func(*snapshot.Counters) []snapshot.Counter) {
	if v.Counters == nil {
		return
	}
	for _, c := range of(v.Counters) {
		s.counter(c.Value, c.Created, c.Labels...)
	}
}

func histograms(v *view, s *sink, of func(*snapshot.Counters) []snapshot.Histogram) {
	if v.Counters == nil {
		return
	}
	list := of(v.Counters)
	for i := range list {
		s.histogram(&list[i])
	}
}

func collectStatusChanges(v *view, s *sink) {
	counters(v, s, func(c *snapshot.Counters) []snapshot.Counter { return c.StatusChanges })
}

func collectRunnersJoined(v *view, s *sink) {
	counters(v, s, func(c *snapshot.Counters) []snapshot.Counter { return c.RunnersJoined })
}

func collectRunnersLeft(v *view, s *sink) {
	counters(v, s, func(c *snapshot.Counters) []snapshot.Counter { return c.RunnersLeft })
}

func collectJobsFinished(v *view, s *sink) {
	counters(v, s, func(c *snapshot.Counters) []snapshot.Counter { return c.JobsFinished })
}

func collectTagJobsFinished(v *view, s *sink) {
	counters(v, s, func(c *snapshot.Counters) []snapshot.Counter { return c.TagJobsFinished })
}

func collectJobDuration(v *view, s *sink) {
	histograms(v, s, func(c *snapshot.Counters) []snapshot.Histogram { return c.JobDuration })
}

func collectJobQueued(v *view, s *sink) {
	histograms(v, s, func(c *snapshot.Counters) []snapshot.Histogram { return c.JobQueued })
}

func collectTagJobQueued(v *view, s *sink) {
	histograms(v, s, func(c *snapshot.Counters) []snapshot.Histogram { return c.TagJobQueued })
}

func stages(v *view, f func(st *snapshot.StageState, stage string)) {
	for i := range snapshot.Stage(snapshot.NumStages) {
		f(&v.Self.Stages[i], i.String())
	}
}

func collectLastSuccess(v *view, s *sink) {
	stages(v, func(st *snapshot.StageState, stage string) { s.time(st.LastSuccess, stage) })
}

func collectInterval(v *view, s *sink) {
	stages(v, func(st *snapshot.StageState, stage string) {
		if st.Interval > 0 {
			s.gauge(st.Interval.Seconds(), stage)
		}
	})
}

func collectLag(v *view, s *sink) {
	stages(v, func(st *snapshot.StageState, stage string) {
		if st.Interval > 0 || stage != snapshot.StageQueue.String() { // the queue is not read everywhere
			s.gauge(st.Lag.Seconds(), stage)
		}
	})
}

func collectUnread(v *view, s *sink) {
	stages(v, func(st *snapshot.StageState, stage string) {
		for _, reason := range slices.Sorted(maps.Keys(st.Unread)) {
			s.gauge(float64(st.Unread[reason]), stage, reason)
		}
	})
}

func collectRateLimit(v *view, s *sink)     { s.known(v.Self.RateLimit) }
func collectRateRemaining(v *view, s *sink) { s.known(v.Self.RateRemaining) }
func collectJobsVisible(v *view, s *sink)   { s.known(float64(v.Self.JobsVisible)) }

func collectRecovered(v *view, s *sink) {
	s.counter(float64(v.Self.JobsRecovered), time.Time{})
}

func collectUnresolved(v *view, s *sink) {
	for r := range snapshot.UnresolvedReason(snapshot.NumUnresolvedReasons) {
		s.counter(float64(v.Self.JobsUnresolved[r]), time.Time{}, r.String())
	}
}

func collectTagsOverLimit(v *view, s *sink) { s.gauge(float64(v.Self.TagsOverLimit)) }
func collectSeries(v *view, s *sink)        { s.gauge(float64(v.series)) }

func collectSeriesDropped(v *view, s *sink) {
	for _, family := range slices.Sorted(maps.Keys(v.dropped)) {
		s.gauge(float64(v.dropped[family]), family)
	}
}

func collectTokenExpiry(v *view, s *sink) { s.time(v.Self.TokenExpiry) }

func collectClockOffset(v *view, s *sink) {
	if v.Self.ClockKnown {
		s.gauge(v.Self.ClockOffset.Seconds())
	}
}

// time emits a point in time as seconds since the epoch; none for the zero time.
func (s *sink) time(t time.Time, labels ...string) {
	if !t.IsZero() {
		s.gauge(float64(t.UnixMicro())/1e6, labels...)
	}
}

// known emits a number unless it is negative, which means not known.
func (s *sink) known(n float64, labels ...string) {
	if n >= 0 {
		s.gauge(n, labels...)
	}
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// maxDescription is the longest description in a label, in bytes.
const maxDescription = 255

// cut shortens a description at a rune's edge. Invalid bytes are replaced first,
// since that makes it longer.
func cut(s string) string {
	if len(s) <= maxDescription && utf8.ValidString(s) {
		return s
	}
	s = strings.ToValidUTF8(s, string(utf8.RuneError))
	if len(s) <= maxDescription {
		return s
	}
	end := maxDescription
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}

// withoutUser drops credentials that someone put into the URL.
func withoutUser(raw string) string {
	if !strings.Contains(raw, "@") {
		return raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	u.User = nil
	return u.String()
}
