package gitlab

import (
	"compress/gzip"
	"errors"
	"io"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Each function below names only the members that the exporter uses; user,
// commit, pipeline and projects are read past.
//
// A member of an unexpected type leaves its field empty and keeps the row. An
// id must be a positive integer: a string is not taken for one, because an API
// that changed the type of its ids changed more than this package can read.

func (d *reader) runner() Runner {
	var row runnerRow
	for name := range d.members() {
		row.member(d, name)
	}
	return row.runner()
}

type runnerRow struct {
	Runner

	shared bool
}

// member reads one that lists and details have in common.
func (r *runnerRow) member(d *reader, name []byte) {
	switch string(name) {
	case "id":
		r.ID = d.integer()
	case "description":
		r.Description = d.text(maxDescription)
	case "runner_type":
		r.Type = d.name()
	case "is_shared":
		r.shared = d.yes()
	case "status":
		r.Status = d.name()
	case "job_execution_status":
		r.Execution = d.name()
	case "active":
		r.Active = d.answer()
	case "paused":
		r.Paused = d.answer()
	case "online":
		r.Online = d.answer()
	}
}

func (r *runnerRow) runner() Runner {
	if r.Type == "" {
		// Releases without runner_type: is_shared means instance_type (1.2).
		r.Type = "project_type"
		if r.shared {
			r.Type = "instance_type"
		}
	}
	return r.Runner
}

func (d *reader) details() RunnerDetails {
	var (
		row            runnerRow
		out            RunnerDetails
		project, group string
	)
	for name := range d.members() {
		switch string(name) {
		case "tag_list":
			out.Tags, out.TagsOmitted = d.tags()
		case "run_untagged":
			out.RunUntagged = d.yes()
		case "access_level":
			out.Protected = d.name() == "ref_protected"
		case "version":
			out.Version = d.name()
		case "platform":
			out.Platform = d.name()
		case "architecture":
			out.Arch = d.name()
		case "contacted_at":
			out.ContactedAt = d.time()
		case "maximum_timeout":
			out.MaximumTimeout = d.maximumTimeout()
		case "projects":
			project = d.first("path_with_namespace")
		case "groups":
			group = groupPath(d.first("web_url"))
		default:
			row.member(d, name)
		}
	}
	out.Runner = row.runner()
	out.Owner = owner(out.Type, group, project)
	return out
}

// owner is whom a runner of a type belongs to; "" for instance runners.
func owner(kind, group, project string) string {
	switch kind {
	case "group_type":
		return group
	case "project_type":
		return project
	}
	return ""
}

// first is a text of the first object of an array. A runner may be in
// thousands of projects.
func (d *reader) first(member string) (text string) {
	for i := range d.elements() {
		if i == 0 {
			text = d.textOf(member)
		}
	}
	return text
}

// textOf is a text of the object that comes next.
func (d *reader) textOf(member string) (text string) {
	for name := range d.members() {
		if string(name) == member {
			text = d.text(maxPath)
		}
	}
	return text
}

// groupPath is the full path of a group, which this endpoint shows only inside
// its web_url: https://host/groups/a/b.
func groupPath(webURL string) string {
	u, err := url.Parse(webURL)
	if err != nil {
		return ""
	}
	if _, path, ok := strings.Cut(u.Path, "/groups/"); ok {
		return strings.Trim(path, "/")
	}
	return strings.Trim(u.Path, "/")
}

// maximumTimeout is a runner's, in whole seconds; null: none.
func (d *reader) maximumTimeout() time.Duration {
	return time.Duration(max(d.seconds(), 0)) * time.Second
}

func (d *reader) manager() (m Manager) {
	for name := range d.members() {
		switch string(name) {
		case "id":
			m.ID = d.integer()
		case "system_id":
			m.SystemID = d.text(maxName)
		case "version":
			m.Version = d.name()
		case "platform":
			m.Platform = d.name()
		case "architecture":
			m.Arch = d.name()
		case "status":
			m.Status = d.name()
		case "job_execution_status":
			m.Execution = d.name()
		case "contacted_at":
			m.ContactedAt = d.time()
		}
	}
	return m
}

func (d *reader) job() Job {
	j := Job{Duration: -1, Queued: -1}
	for name := range d.members() {
		j.member(d, name)
	}
	return j
}

// member reads one that rows and details have in common.
func (j *Job) member(d *reader, name []byte) {
	switch string(name) {
	case "id":
		j.ID = d.integer()
	case "status":
		j.Status = d.name()
	case "created_at":
		j.CreatedAt = d.time()
	case "started_at":
		j.StartedAt = d.time()
	case "finished_at":
		j.FinishedAt = d.time()
	case "duration":
		j.Duration = d.seconds()
	case "queued_duration":
		j.Queued = d.seconds()
	case "failure_reason":
		j.FailureReason = d.name()
	case "web_url":
		// GitLab writes the status first. Of the others nobody needs it.
		if j.Status == "running" || j.Status == "canceling" {
			j.URL = d.text(maxPath)
		}
	case "project":
		for name := range d.members() {
			if string(name) == "id" {
				j.ProjectID = d.integer()
			}
		}
	}
}

// jobDetails reads the answer of GET /projects/:id/jobs/:job_id.
func (d *reader) jobDetails() JobDetails {
	j := JobDetails{Job: Job{Duration: -1, Queued: -1}}
	for name := range d.members() {
		switch string(name) {
		case "web_url":
			j.WebURL = d.text(maxPath)
		case "tag_list":
			if !d.null() {
				j.TagsKnown = true
				j.Tags, j.TagsOmitted = d.tags()
			}
		case "runner":
			for name := range d.members() {
				switch string(name) {
				case "id":
					j.RunnerID = d.integer()
				case "description":
					j.Runner = d.text(maxDescription)
				}
			}
		default:
			j.member(d, name)
		}
	}
	return j
}

func (d *reader) version() (v string) {
	for name := range d.members() {
		if string(name) == "version" {
			v = d.name()
		}
	}
	return v
}

func (d *reader) fullPath() (path string) {
	for name := range d.members() {
		if string(name) == "full_path" {
			path = d.text(maxPath)
		}
	}
	return path
}

func (d *reader) accessToken() (t Token) {
	for name := range d.members() {
		switch string(name) {
		case "name":
			t.Name = d.name()
		case "user_id":
			t.UserID = d.integer()
		case "scopes":
			for range d.elements() {
				if scope := d.name(); scope != "" && len(t.Scopes) < maxScopes {
					t.Scopes = append(t.Scopes, scope)
				}
			}
		case "expires_at":
			t.ExpiresAt = day(d.name())
		}
	}
	return t
}

// day is the day that a date or a time begins with.
func day(text string) time.Time {
	if len(text) < len(time.DateOnly) {
		return time.Time{}
	}
	at, err := time.Parse(time.DateOnly, text[:len(time.DateOnly)])
	if err != nil || at.Year() < firstYear || at.Year() > lastYear {
		return time.Time{}
	}
	return at
}

// decodeRows reads an answer that is an array. rows counts those that each
// does not take, too.
func decodeRows(body io.Reader, most int, tooMany error, each func(*reader)) (rows int, err error) {
	d := newReader(body)
	if d.begin(jsontext.KindBeginArray, errNotArray) {
		for range d.elements() {
			if rows == most {
				d.fail(tooMany)
				continue
			}
			rows++
			each(d)
		}
	}
	return rows, d.end()
}

// decodeObject reads an answer that is an object.
func decodeObject[T any](body io.Reader, read func(*reader) T) (v T, err error) {
	d := newReader(body)
	if d.begin(jsontext.KindBeginObject, errNotObject) {
		v = read(d)
	}
	return v, d.end()
}

func decodeRunners(body io.Reader) (runners []Runner, rows int, err error) {
	rows, err = decodeRows(body, maxRows, errTooManyRows, func(d *reader) {
		if r := d.runner(); r.ID > 0 && d.err == nil {
			runners = append(runners, r)
		}
	})
	return runners, rows, err
}

func decodeManagers(body io.Reader) (managers []Manager, rows int, err error) {
	rows, err = decodeRows(body, maxManagers, errManyMachines, func(d *reader) {
		if m := d.manager(); m.ID > 0 && d.err == nil {
			managers = append(managers, m)
		}
	})
	return managers, rows, err
}

func decodeJobs(body io.Reader) (jobs []Job, rows int, err error) {
	rows, err = decodeRows(body, maxRows, errTooManyRows, func(d *reader) {
		if j := d.job(); j.ID > 0 && d.err == nil {
			jobs = append(jobs, j)
		}
	})
	return jobs, rows, err
}

// cappedBody bounds a body and keeps its transport's error apart from the
// decoder's: a connection cut off is another failure than a JSON text that ends early.
type cappedBody struct {
	r    io.Reader
	left int64
	err  error // first error that is not io.EOF

	dec   *jsontext.Decoder // that reads it; holds what it has not made a token of
	taken int64
	idle  int // reads in a row that brought nothing
}

func (b *cappedBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.dec != nil && b.taken-b.dec.InputOffset() > maxToken {
		b.err = errLongValue
		return 0, b.err
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1] // one byte more than allowed, to distinguish a body of that size from a larger one
	}
	n, err := b.r.Read(p)
	if int64(n) > b.left {
		n, err = int(b.left), errTooLarge
	}
	b.left -= int64(n)
	b.taken += int64(n)
	if b.idle++; n > 0 {
		b.idle = 0
	} else if err == nil && b.idle == 100 {
		err = io.ErrNoProgress // the decoder would ask for ever
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}

// gzipBody unpacks a body at its first read, with an unpacker from the pool.
type gzipBody struct {
	packed io.Reader
	pool   *sync.Pool
	z      *gzip.Reader
	err    error
}

func (b *gzipBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.z == nil {
		z, ok := b.pool.Get().(*gzip.Reader)
		if !ok {
			z = new(gzip.Reader)
		}
		b.z = z
		if b.err = z.Reset(b.packed); b.err != nil {
			return 0, b.err
		}
	}
	return b.z.Read(p)
}

// release hands the unpacker back; the body must not be read after it.
func (b *gzipBody) release() {
	if b.z != nil {
		b.pool.Put(b.z)
		b.z, b.err = nil, io.ErrClosedPipe
	}
}
