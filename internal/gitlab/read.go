package gitlab

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/go-kit/log/level"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Runners reads one page (from 1) of a runner list, 100 rows, id ascending. A
// row may be missed when a runner on an earlier page is deleted between two
// pages (docs/gitlab-api.md 2): one complete listing without a runner does not prove it gone.
func (c *Client) Runners(ctx context.Context, s Scope, page int) (RunnersPage, error) {
	return c.runners(ctx, s, max(page, 1), perPage, nil)
}

// RunnersWhere reads the first rows (at most 100) of a runner list with only
// those runners that the filter lets through; Total is how many those are. With
// one row and without a filter it proves that the token may read the list.
func (c *Client) RunnersWhere(ctx context.Context, s Scope, f RunnerFilter, rows int) (RunnersPage, error) {
	return c.runners(ctx, s, 1, min(max(rows, 1), perPage), f.values())
}

func (c *Client) runners(ctx context.Context, s Scope, page, asked int, filter url.Values) (RunnersPage, error) {
	r := request{query: pageQuery(page, asked)}
	maps.Copy(r.query, filter)
	switch s.kind() {
	case snapshot.ScopeInstance:
		r.route, r.path = RouteAllRunners, "/runners/all"
	case snapshot.ScopeOwned:
		r.route, r.path = RouteRunners, "/runners"
	case snapshot.ScopeGroups:
		r.route, r.path = RouteGroupRunners, "/groups/"+url.PathEscape(s.ID)+"/runners"
	case snapshot.ScopeProjects:
		r.route, r.path = RouteProjectRunners, "/projects/"+url.PathEscape(s.ID)+"/runners"
	}
	if (s.Kind == snapshot.ScopeGroups || s.Kind == snapshot.ScopeProjects) && strings.Trim(s.ID, "./") == "" || r.route == "" {
		return RunnersPage{}, &Error{Reason: ReasonBadRequest, Route: r.route, Message: "the scope names no group or project"}
	}
	var (
		out  RunnersPage
		rows int
	)
	h, err := c.get(ctx, r, func(r io.Reader) (err error) {
		out.Runners, rows, err = decodeRunners(r)
		return err
	})
	if err != nil {
		return RunnersPage{}, err
	}
	next, problem := nextPage(h, page, rows, asked)
	if problem != "" {
		return RunnersPage{}, pagingError(r.route, problem)
	}
	out.Next, out.Total = next, total(h)
	out.Skipped = c.skipped(r.route, rows-len(out.Runners))
	for i := range out.Runners {
		c.nameRunner(&out.Runners[i])
	}
	return out, nil
}

// Runner reads one runner (1.3). lean leaves out its projects, and with them
// the owner of a project runner, on releases that understand the parameter
// (19.x): a runner in thousands of projects can make the call time out.
// A runner that is gone is ReasonNotFound.
func (c *Client) Runner(ctx context.Context, id int64, lean bool) (RunnerDetails, error) {
	r := request{route: RouteRunner, path: "/runners/" + strconv.FormatInt(id, 10)}
	if lean {
		r.query = url.Values{"include_projects": {"false"}}
	}
	d, err := readObject(ctx, c, r, (*reader).details, func(d RunnerDetails) error { return needsID(d.ID) })
	c.nameDetails(&d)
	return d, err
}

// Managers reads the machines behind a runner (1.4). GitLab gives them all at
// once and deletes those silent for 7 days. None is an empty list, not nil.
func (c *Client) Managers(ctx context.Context, id int64) ([]Manager, error) {
	r := request{route: RouteManagers, path: "/runners/" + strconv.FormatInt(id, 10) + "/managers"}
	var (
		out  []Manager
		rows int
	)
	_, err := c.get(ctx, r, func(r io.Reader) (err error) {
		out, rows, err = decodeManagers(r)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.skipped(r.route, rows-len(out))
	c.nameManagers(out)
	if out == nil {
		out = []Manager{} // none is known, unlike nil
	}
	return out, nil
}

// RunnerJobs reads one page of a runner's jobs, newest id first: the
// order must be asked for, by default GitLab begins with the oldest
// (docs/gitlab-api.md 2).
// A token without all rights gets a silently partial list (4.3), and 403 on
// instance runners. By keyset a release that cannot answers by number (see
// JobsPage.Keyset) or with 405, which is ReasonBadRequest.
func (c *Client) RunnerJobs(ctx context.Context, q JobsQuery) (JobsPage, error) {
	r := request{route: RouteRunnerJobs, path: "/runners/" + strconv.FormatInt(q.RunnerID, 10) + "/jobs"}
	page, asked := max(q.Page, 1), perPage
	if q.Keyset {
		r.query = pageQuery(0, perPage)
		r.query.Set("pagination", "keyset")
		if q.Cursor != "" {
			r.query.Set("cursor", q.Cursor)
		}
	} else {
		if q.Rows > 0 {
			asked = min(q.Rows, perPage)
		}
		r.query = pageQuery(page, asked)
	}
	r.query.Set("order_by", "id")
	r.query.Set("sort", "desc")
	if q.Status != "" {
		r.query.Set("status", q.Status)
	}
	var (
		out  JobsPage
		rows int
	)
	h, err := c.get(ctx, r, func(r io.Reader) (err error) {
		out.Jobs, rows, err = decodeJobs(r)
		return err
	})
	if err != nil {
		return JobsPage{}, err
	}
	for i := range out.Jobs {
		out.Jobs[i].URL = c.names(out.Jobs[i].URL)
	}
	var problem string
	if q.Keyset && !answeredByNumber(h) {
		out.Keyset = true
		out.Cursor, problem = nextCursor(h, q.Cursor, rows)
	} else {
		if q.Keyset { // the server chose the page
			if n, err := strconv.Atoi(h.Get("X-Page")); err == nil {
				page = n
			}
		}
		out.Next, problem = nextPage(h, page, rows, asked)
	}
	if problem != "" {
		return JobsPage{}, pagingError(r.route, problem)
	}
	out.Total = total(h)
	out.Skipped = c.skipped(r.route, rows-len(out.Jobs))
	return out, nil
}

// Job reads one job (11, row 1.1). It works after the job's runner was deleted;
// a job that is gone is ReasonNotFound.
func (c *Client) Job(ctx context.Context, project, job int64) (Job, error) {
	r := request{route: RouteJob, path: "/projects/" + strconv.FormatInt(project, 10) + "/jobs/" + strconv.FormatInt(job, 10)}
	out, err := readObject(ctx, c, r, (*reader).job, func(j Job) error { return needsID(j.ID) })
	if err != nil {
		return Job{}, err
	}
	if out.ProjectID <= 0 {
		out.ProjectID = project // the detailed entity of some releases leaves the id out
	}
	return out, nil
}

// ProjectJob reads one job of a project that is named by its full path. A job
// that is gone, or that the token may not see, is ReasonNotFound.
func (c *Client) ProjectJob(ctx context.Context, project string, job int64) (JobDetails, error) {
	if strings.Trim(project, "./") == "" || job <= 0 {
		return JobDetails{}, &Error{Reason: ReasonBadRequest, Route: RouteJob, Message: "no project or no job is named"}
	}
	r := request{route: RouteJob, path: "/projects/" + url.PathEscape(project) + "/jobs/" + strconv.FormatInt(job, 10)}
	var out JobDetails
	h, err := c.get(ctx, r, func(body io.Reader) (err error) {
		if out, err = decodeObject(body, (*reader).jobDetails); err == nil {
			err = needsID(out.ID)
		}
		return err
	})
	if err != nil {
		return JobDetails{}, err
	}
	out.At, _ = http.ParseTime(h.Get("Date"))
	for i, tag := range out.Tags {
		out.Tags[i] = c.names(tag)
	}
	out.Runner, out.WebURL = c.names(out.Runner), c.names(out.WebURL)
	return out, nil
}

// Version is GitLab's own version, for example 18.4.1-ee: from /metadata, and
// from /version on releases before 15.2, which do not have it.
func (c *Client) Version(ctx context.Context) (string, error) {
	version, err := c.version(ctx, request{route: RouteMetadata, path: "/metadata"})
	if ReasonOf(err) == ReasonNotFound {
		version, err = c.version(ctx, request{route: RouteVersion, path: "/version"})
	}
	return version, err
}

func (c *Client) version(ctx context.Context, r request) (string, error) {
	version, err := readObject(ctx, c, r, (*reader).version, func(v string) error {
		if v == "" {
			return errNoVersion
		}
		return nil
	})
	return clean(c.scrub(clean(version, len(version))), maxRequestID), err
}

// Token reads the token's name, scopes and expiry. Only personal, group and
// project access tokens have this endpoint: for others GitLab answers 403 or 404
// (ReasonForbidden, ReasonNotFound), which is no evidence against the token.
func (c *Client) Token(ctx context.Context) (Token, error) {
	r := request{route: RouteToken, path: "/personal_access_tokens/self"}
	t, err := readObject(ctx, c, r, (*reader).accessToken, func(t Token) error { return needsID(t.UserID) })
	t.Name = c.scrub(t.Name)
	return t, err
}

// readObject reads an endpoint that answers with one object. Each attempt begins
// anew: a body that was cut off leaves nothing behind.
func readObject[T any](ctx context.Context, c *Client, r request, read func(*reader) T, check func(T) error) (v T, err error) {
	_, err = c.get(ctx, r, func(body io.Reader) error {
		got, err := decodeObject(body, read)
		if err != nil {
			return err
		}
		v = got
		return check(got)
	})
	if err != nil {
		return *new(T), err
	}
	return v, nil
}

func needsID(id int64) error {
	if id <= 0 {
		return errNoID
	}
	return nil
}

// pageQuery asks for a page of so many rows; number 0 leaves it to the cursor.
func pageQuery(number, rows int) url.Values {
	q := url.Values{"per_page": {strconv.Itoa(rows)}}
	if number > 0 {
		q.Set("page", strconv.Itoa(number))
	}
	return q
}

func pagingError(route Route, problem string) *Error {
	return &Error{Reason: ReasonDecode, Route: route, Status: 200, Message: problem, Err: errors.New(problem)}
}

// skipped reports rows that had no usable id and hands their number on.
func (c *Client) skipped(route Route, n int) int {
	if n > 0 {
		_ = level.Debug(c.logger).Log("msg", "rows without a usable id were left out", "route", route, "rows", n)
	}
	return n
}
