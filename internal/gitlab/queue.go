package gitlab

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits of one query of the queue (docs/gitlab-api.md 6.2, 12).
const (
	QueueComplexity = graphqlScore
	QueueCharacters = 10_000
	// What a document has beside its pages, and a little to spare.
	queueFrameCharacters = 100
	queueFrameComplexity = 3

	// MaxQueueCount is the most waiting jobs that GitLab counts; one more means
	// that there are more.
	MaxQueueCount = 1000
)

// QueueRequest is one request about waiting jobs. Exactly one of its parts is set.
type QueueRequest struct {
	// Pages are read by one GraphQL query; they must fit (QueueFits).
	Pages []QueuePage
	// Rights are runners of which the caller's right to read their waiting jobs
	// is looked up, at most 60: GitLab gives an empty list without it.
	Rights []int64
	// Project is read by REST: one page of its pending jobs.
	Project string
	Page    int // from 1
}

// QueuePage is one page of waiting jobs, the newest id first.
type QueuePage struct {
	Runner  int64  // whose jobs they could be; 0: all of the instance, for administrators, expensive
	After   string // QueueJobs.Next of the page before; "": the first
	First   int    // rows, at most 100; 0: 100
	Details bool   // with tags and time, and with More and Next where First is 100; else the ids alone, and Count
}

// PendingJob is a job that waits for a runner.
type PendingJob struct {
	ID          int64
	Tags        []string
	TagsOmitted int       // tags beyond the bounds of RunnerDetails.Tags
	TagsKnown   bool      // false: this token may not see them, or they were not requested
	QueuedAt    time.Time // pending since; zero: not known
}

// QueueJobs is the answer to a QueuePage, or a page of a project.
type QueueJobs struct {
	Jobs []PendingJob
	// Count is how many wait for the runner, up to MaxQueueCount + 1; -1: not
	// requested, or missing in the answer.
	Count int
	// More: there are further jobs, from the cursor Next on, or Page + 1.
	More bool
	Next string
	// Err: this page failed, and the others did not.
	Err error
}

// QueueAnswer is the answer to a QueueRequest.
type QueueAnswer struct {
	Pages  []QueueJobs    // as many as requested, in their order
	Rights map[int64]bool // true: proved; false: not, which is no proof of the contrary
	Jobs   QueueJobs      // of Project
	Took   time.Duration  // of Pages, without the wait for the budget
}

// QueueFits reports whether one more page fits into a query that holds pages of
// this complexity and length.
func QueueFits(complexity, characters int, more QueuePage) bool {
	c, n := more.Cost()
	return complexity+c <= QueueComplexity-queueFrameComplexity && characters+n <= QueueCharacters-queueFrameCharacters
}

// ErrNoQueue is in an error of Queue where this release has no cheap source for
// waiting jobs: compatibleRunnerId is an experiment since 18.1.
var ErrNoQueue = errors.New("gitlab: this release's GraphQL cannot list the jobs that wait for a runner")

// Queue sends one request. An empty list is no proof of an empty queue: see
// QueueRequest.Rights.
func (c *Client) Queue(ctx context.Context, q QueueRequest) (QueueAnswer, error) {
	switch {
	case len(q.Pages) > 0:
		return c.queuePages(ctx, q.Pages)
	case len(q.Rights) > 0:
		return c.queueRights(ctx, q.Rights)
	case strings.Trim(q.Project, "./") != "":
		return c.projectQueue(ctx, q.Project, max(q.Page, 1))
	}
	return QueueAnswer{}, &Error{Reason: ReasonBadRequest, Route: RouteGraphQL, Message: "a request of the queue without a part"}
}

// cursorText is what a cursor is made of: it stands in the document.
var cursorText = regexp.MustCompile(`^[\w+/=-]*$`)

func (c *Client) queuePages(ctx context.Context, pages []QueuePage) (QueueAnswer, error) {
	var b strings.Builder
	b.WriteString("query queue {")
	for i, p := range pages {
		if !cursorText.MatchString(p.After) {
			return QueueAnswer{}, &Error{Reason: ReasonBadRequest, Route: RouteGraphQL, Message: "a cursor that is none of GitLab's"}
		}
		b.WriteString(p.text(i))
	}
	b.WriteString(" }")
	out := QueueAnswer{}
	r := request{route: RouteGraphQL, document: b.String(), took: new(time.Duration)}
	err := c.aliased(ctx, r, len(pages), func() { out.Pages = newQueueJobs(len(pages)) }, func(d *reader, i int) {
		d.queueJobs(&out.Pages[i])
	}, func(i int, err error) { out.Pages[i].Err = err })
	if err != nil {
		return QueueAnswer{}, err
	}
	out.Took = *r.took
	for i := range out.Pages {
		p := &out.Pages[i]
		for k := range p.Jobs {
			for t, tag := range p.Jobs[k].Tags {
				p.Jobs[k].Tags[t] = c.names(tag)
			}
		}
		if p.More && p.Next == pages[i].After {
			p.Err = pagingError(RouteGraphQL, "the next page is this one")
		}
	}
	return out, nil
}

func newQueueJobs(n int) []QueueJobs {
	out := make([]QueueJobs, n)
	for i := range out {
		out[i].Count = -1
	}
	return out
}

// queueJobs reads a connection of jobs.
func (d *reader) queueJobs(out *QueueJobs) {
	for name := range d.members() {
		switch string(name) {
		case "count":
			out.Count = d.jobCount()
		case "pageInfo":
			for name := range d.members() {
				switch string(name) {
				case "hasNextPage":
					out.More = d.yes()
				case "endCursor":
					out.Next = d.text(maxCursor)
				}
			}
		case "nodes":
			d.need(jsontext.KindBeginArray)
			for i := range d.elements() {
				if i == maxRows {
					d.fail(errTooManyRows)
				} else if j := d.pendingJob(); j.ID != 0 && d.err == nil {
					out.Jobs = append(out.Jobs, j)
				}
			}
		}
	}
	if out.More && out.Next == "" {
		d.fail(errNoCursor)
	}
}

// queueRights looks up updateRunner, which GitLab's policy of runners grants by
// the same rule as read_builds. A maintainer of a group has only the latter: for
// such a token a job that was seen is the proof.
func (c *Client) queueRights(ctx context.Context, runners []int64) (QueueAnswer, error) {
	var b strings.Builder
	b.WriteString("query rights {")
	for i, id := range runners {
		b.WriteString(" " + alias(i) + `: runner(id: "gid://gitlab/Ci::Runner/` + strconv.FormatInt(id, 10) + `") { userPermissions { updateRunner } }`)
	}
	b.WriteString(" }")
	out := QueueAnswer{}
	r := request{route: RouteGraphQL, document: b.String()}
	err := c.aliased(ctx, r, len(runners), func() { out.Rights = map[int64]bool{} }, func(d *reader, i int) {
		for name := range d.members() {
			if string(name) != "userPermissions" {
				continue
			}
			for name := range d.members() {
				if string(name) == "updateRunner" {
					out.Rights[runners[i]] = d.yes()
				}
			}
		}
	}, func(int, error) {})
	if err != nil {
		return QueueAnswer{}, err
	}
	return out, nil
}

// aliased sends a query whose members are aliases of n parts. begin is called
// for each attempt, read for each part that is an object, failed for each that
// is null or that an error is about. An error about no part fails the query.
func (c *Client) aliased(ctx context.Context, r request, n int, begin func(), read func(*reader, int), failed func(int, error)) error {
	_, err := c.get(ctx, r, func(body io.Reader) error {
		begin()
		a := fleetAnswer{}
		there := make([]bool, n)
		d := newReader(body)
		if d.begin(jsontext.KindBeginObject, errNotObject) {
			for name := range d.members() {
				switch string(name) {
				case "data":
					if a.ran, a.data = true, !d.null(); !a.data {
						continue
					}
					d.need(jsontext.KindBeginObject)
					for name := range d.members() {
						if i := placeOf(string(name), n); i >= 0 && !d.null() {
							d.need(jsontext.KindBeginObject)
							there[i] = true
							read(d, i)
						}
					}
				case "errors":
					a.readErrors(d)
				}
			}
		}
		if err := d.end(); err != nil {
			return err
		}
		return a.parts(there, func(i int, reason Reason, text string) {
			failed(i, &Error{Reason: reason, Route: RouteGraphQL, Status: http.StatusOK, Message: c.text(text)})
		})
	})
	return err
}

// unknownArgument is what a release before 18.1 objects to.
const unknownArgument = "compatibleRunnerId"

// parts blames each error on its part, and returns the first that has none.
func (a *fleetAnswer) parts(there []bool, failed func(int, Reason, string)) error {
	if !a.data && len(a.errors) == 0 {
		return errNoAnswer
	}
	blamed := make([]bool, len(there))
	for _, e := range a.errors {
		names := pathNames(e.Path)
		if a.ran && len(names) > 0 {
			if i := placeOf(names[0], len(there)); i >= 0 {
				failed(i, ReasonServerError, e.Message)
				blamed[i] = true
				continue
			}
		}
		no := &refusal{reason: ReasonBadRequest, message: graphqlTexts(a.errors)}
		if a.ran {
			no.reason = ReasonServerError
		}
		if timedOut.MatchString(e.Message) {
			no.slow, no.reason = true, ReasonTimeout
		}
		if m := tooComplex.FindStringSubmatch(e.Message); m != nil {
			no.score, _ = strconv.Atoi(m[1])
			no.limit, _ = strconv.Atoi(m[2])
		}
		if code, names := e.objection(); code != "" {
			no.field = names[len(names)-1]
			// Neither the argument, nor, in the oldest releases, the field.
			no.noQueue = no.field == unknownArgument || code == undefinedField && (no.field == "jobs" || placeOf(no.field, len(there)) >= 0)
		}
		return no
	}
	for i, ok := range there {
		if !ok && !blamed[i] {
			failed(i, ReasonForbidden, "null without an error")
		}
	}
	return nil
}

// projectQueue reads a page of a project's pending jobs by REST. GitLab gives no
// queued_at there, but for a job that waits queued_duration is the time since.
func (c *Client) projectQueue(ctx context.Context, project string, page int) (QueueAnswer, error) {
	r := request{route: RouteProjectJobs, path: "/projects/" + url.PathEscape(project) + "/jobs", query: pageQuery(page, perPage)}
	r.query.Set("scope[]", "pending")
	var (
		out  = QueueJobs{Count: -1}
		wait []float64
		rows int
	)
	h, err := c.get(ctx, r, func(body io.Reader) (err error) {
		out.Jobs, wait = nil, nil
		rows, err = decodeRows(body, maxRows, errTooManyRows, func(d *reader) {
			if j, queued := d.projectJob(); j.ID > 0 && d.err == nil {
				out.Jobs, wait = append(out.Jobs, j), append(wait, queued)
			}
		})
		return err
	})
	if err != nil {
		return QueueAnswer{}, err
	}
	next, problem := nextPage(h, page, rows, perPage)
	if problem != "" {
		return QueueAnswer{}, pagingError(r.route, problem)
	}
	out.More = next > 0
	date, dateErr := http.ParseTime(h.Get("Date"))
	for i := range out.Jobs {
		if wait[i] >= 0 && dateErr == nil {
			out.Jobs[i].QueuedAt = date.Add(-time.Duration(wait[i] * float64(time.Second)))
		}
		for k, tag := range out.Jobs[i].Tags {
			out.Jobs[i].Tags[k] = c.names(tag)
		}
	}
	c.skipped(r.route, rows-len(out.Jobs))
	return QueueAnswer{Jobs: out}, nil
}

// projectJob reads a row of GET /projects/:id/jobs.
func (d *reader) projectJob() (j PendingJob, queued float64) {
	queued = -1
	for name := range d.members() {
		switch string(name) {
		case "id":
			j.ID = d.integer()
		case "queued_duration":
			queued = d.seconds()
		case "tag_list":
			if !d.null() {
				j.TagsKnown = true
				j.Tags, j.TagsOmitted = d.tags()
			}
		}
	}
	return j, queued
}

// QueueTooComplex returns GitLab's limit where it refused a query as too
// complex, which is lower than the one of this package then; 0: it did not.
func QueueTooComplex(err error) (limit int) {
	if no, ok := errors.AsType[*refusal](err); ok && no.score > 0 {
		return no.limit
	}
	return 0
}
