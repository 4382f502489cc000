package page

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// unmatchedFor is for how long a job may have no runner that can take it: a pool
// that is scaled down to none needs minutes to start one.
const unmatchedFor = 5 * time.Minute

// How much of a queue the page shows.
const (
	mostQueueTags  = 30
	mostUnmatched  = 20
	queueLineBytes = 20_000
)

// queue adds what waits for the runners of one GitLab. It has no last picture: what
// waited minutes ago is of no use.
func (b *builder) queue(s *snapshot.GitLab) {
	q := Queue{GitLab: s.Name, State: s.QueueState.String(), ReadAt: utc(s.QueueAt), Tags: []QueueTag{}, Unmatched: []QueueUnmatched{}, version: s.Version}
	if s.Fleet == nil && s.QueueState == snapshot.QueueRead {
		// As in the metrics: the runners whose jobs were asked for may be others by now.
		q.State = snapshot.QueueFailed.String()
	}
	if s.Queue != nil && q.State == snapshot.QueueRead.String() {
		jobs := s.Queue.Jobs
		q.Jobs, q.Oldest, q.Truncated, q.Everything = &jobs, utc(s.Queue.Oldest), s.Queue.Truncated, s.Queue.Everything
		b.queueTags(&q, s)
		b.unmatched(&q, s)
	}
	b.report.Queues = append(b.report.Queues, q)
}

func (b *builder) queueTags(q *Queue, s *snapshot.GitLab) {
	for _, t := range s.Queue.Tags {
		if t.Jobs == 0 || b.filter.tag != "" && t.Name != b.filter.tag {
			continue
		}
		row := QueueTag{Tag: t.Name, Jobs: t.Jobs, Oldest: utc(t.Oldest)}
		switch t.Name {
		case snapshot.TagOther, snapshot.TagNoRunner, snapshot.TagUnknown:
		default:
			row.URL = b.links.fleet(&filter{gitlab: s.Name, tag: t.Name})
		}
		q.Tags = append(q.Tags, row)
	}
	slices.SortStableFunc(q.Tags, func(x, y QueueTag) int {
		return cmp.Or(compareWaits(x.Oldest, y.Oldest), y.Jobs-x.Jobs, cmp.Compare(x.Tag, y.Tag))
	})
}

func (b *builder) unmatched(q *Queue, s *snapshot.GitLab) {
	for _, u := range s.Queue.Unmatched {
		tags := tagsOf(u.Tags)
		if u.Jobs == 0 || b.filter.tag != "" && !slices.Contains(tags, b.filter.tag) {
			continue
		}
		q.Unmatched = append(q.Unmatched, QueueUnmatched{
			Tags: u.Tags, Reason: u.Reason.String(), Jobs: u.Jobs, Oldest: utc(u.Oldest), URL: b.links.whyTags(s.Name, u.Tags),
			lasting: !u.Oldest.IsZero() && b.now.Sub(u.Oldest) > unmatchedFor,
		})
	}
	slices.SortStableFunc(q.Unmatched, func(x, y QueueUnmatched) int {
		return cmp.Or(compareWaits(x.Oldest, y.Oldest), y.Jobs-x.Jobs, cmp.Compare(x.Tags, y.Tags), cmp.Compare(x.Reason, y.Reason))
	})
}

// compareWaits sorts the longest wait first, and one that is not known last.
func compareWaits(a, b time.Time) int {
	switch {
	case a.IsZero() || b.IsZero():
		return b.Compare(a)
	default:
		return a.Compare(b)
	}
}

// tagsOf are the tags of a set as queue_tagset_jobs writes it.
func tagsOf(set string) []string {
	if set == "" || set == snapshot.TagUntagged {
		return nil
	}
	return strings.Split(set, ",")
}

// whyTags is the page that explains who takes jobs with a set of tags; "" where
// the tags are not known.
func (l *links) whyTags(gitlab, set string) string {
	if set == snapshot.TagOther || set == snapshot.TagUnknown {
		return ""
	}
	return l.prefix + "/fleet/why?gitlab=" + url.QueryEscape(gitlab) + "&tags=" + url.QueryEscape(set)
}

// queueView is what the section of a GitLab's queue is drawn from.
type queueView struct {
	Queue

	Tone, Line        string
	TagsMore, SetMore int
	Other             string // address of the first shard
}

// unknownQueue is why a queue is not known.
var unknownQueue = map[string]string{
	snapshot.QueueOff.String():         "Not read: queue is off for this GitLab in the configuration.",
	snapshot.QueueByREST.String():      "Not read: only GraphQL lists the jobs that wait for a runner, and api is rest in the configuration.",
	snapshot.QueueOtherShard.String():  "Not read here: the first shard reads the whole queue.",
	snapshot.QueuePending.String():     "Not read yet: that begins when the details of all runners were read.",
	snapshot.QueueUnsupported.String(): "Not known: this release of GitLab cannot list the jobs that wait for a runner; 18.1 and later can.",
	snapshot.QueueRefused.String():     "Not known: GitLab refuses the query to this token.",
	snapshot.QueueUnproved.String():    "Not known: GitLab shows this token no waiting job, and nothing proves that it may see them. That takes the token of an administrator, or of an owner or maintainer of the runners' groups and projects.",
	snapshot.QueueFailed.String():      "Not known: the readings of the queue fail. The log of the exporter has the cause.",
}

func (v *fleetView) queues() {
	room := queueLineBytes
	for _, q := range v.Report.Queues {
		c := queueView{Queue: q, Tone: "unknown", Line: unknownQueue[q.State]}
		if q.State == snapshot.QueueOtherShard.String() && len(v.Report.Shard.Others) > 0 {
			c.Other = v.Report.Shard.Others[0]
		}
		if q.Jobs != nil {
			c.Line, c.Tone = queueLine(&q, v.Now), "ok"
		}
		for _, u := range q.Unmatched {
			if u.lasting {
				c.Tone = "problem"
			} else if c.Tone == "ok" {
				c.Tone = "suspect"
			}
		}
		if c.Tone == "ok" && (q.Truncated || v.Tone == stateUnknown) {
			c.Tone = "unknown"
		}
		shown := 0
		for shown < len(q.Tags) && shown < mostQueueTags && fits(&room, 120+2*len(q.Tags[shown].URL)) {
			shown++
		}
		c.Tags, c.TagsMore = q.Tags[:shown], len(q.Tags)-shown
		shown = 0
		for shown < len(q.Unmatched) && shown < mostUnmatched && fits(&room, 200+2*len(q.Unmatched[shown].URL)) {
			shown++
		}
		c.Unmatched, c.SetMore = q.Unmatched[:shown], len(q.Unmatched)-shown
		v.Queues = append(v.Queues, c)
	}
}

// queueLine is the sum of a queue that is known.
func queueLine(q *Queue, now time.Time) string {
	line := "No job waits"
	if n := *q.Jobs; n > 0 {
		line = count(n, "job") + plural(n, " waits", " wait")
		if q.Truncated {
			line = "At least " + line
		}
		if !q.Oldest.IsZero() {
			line += ", the oldest since " + clock(now, q.Oldest) + " UTC, " + ago(now, q.Oldest)
		}
	} else if q.Truncated {
		line = "No job was seen to wait, but not all could be read"
	}
	line += ". Read " + ago(now, q.ReadAt) + "."
	if !q.Everything {
		line += " Jobs that no registered runner can take are not seen; with queue: all they are."
	}
	return line
}

// Reasons of unmatched jobs, in words.
var unmatchedWords = map[string][2]string{
	snapshot.NoRunner.String():      {"no registered runner can take", "Is a tag misspelt? Register a runner with these tags, or correct the job."},
	snapshot.NoneAvailable.String(): {"only runners that are not available could take", "Start or resume the runners with these tags."},
}

// Lasting is true where it waits for longer than a pool needs to start a runner.
func (u QueueUnmatched) Lasting() bool { return u.lasting }

// Words is what is wrong with the jobs.
func (u QueueUnmatched) Words() string { return unmatchedWords[u.Reason][0] }

// Do is what to do about them.
func (u QueueUnmatched) Do() string { return unmatchedWords[u.Reason][1] }

// lastingUnmatched counts the jobs that no runner takes for too long.
func (r *Report) lastingUnmatched() (jobs int) {
	for i := range r.Queues {
		for _, u := range r.Queues[i].Unmatched {
			if u.lasting {
				jobs += u.Jobs
			}
		}
	}
	return jobs
}

// queueState is the state of the report by its queues, where the rest gives state.
func (r *Report) queueState(state string) string {
	if r.lastingUnmatched() > 0 {
		return stateProblem
	}
	for i := range r.Queues {
		if s := r.Queues[i].State; s == snapshot.QueueFailed.String() || s == snapshot.QueuePending.String() {
			state = stateUnknown
		}
	}
	return state
}
