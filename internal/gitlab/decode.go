package gitlab

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"strings"
	"sync"
	"time"
)

// The rows below name only what the exporter uses. Each element of a page is
// decoded by itself into one reused row, so the memory a page costs does not
// grow with the user, commit, pipeline and project that GitLab attaches to
// each job: they are scanned and dropped.
//
// A field of an unexpected type leaves that field empty and keeps the row.
// An id must be a positive integer: a string is not taken for one, because an
// API that changed the type of its ids changed more than this package knows.

var (
	errNotArray  = errors.New("expected a JSON array")
	errNotObject = errors.New("expected a JSON object")
	errNoID      = errors.New("the object has no usable id")
	errNoVersion = errors.New("the object has no version")
	errTrailing  = errors.New("data after the end of the JSON value")
)

// stamp is a time as GitLab writes it: RFC 3339 with any offset. null and what
// is not a time are the zero time, since one damaged date must not hide a page.
type stamp struct{ time.Time }

// UnmarshalJSON never fails.
func (s *stamp) UnmarshalJSON(b []byte) error {
	s.Time = time.Time{}
	if len(b) < 2 || b[0] != '"' {
		return nil
	}
	var t time.Time
	if t.UnmarshalText(b[1:len(b)-1]) == nil {
		s.Time = t.UTC()
	}
	return nil
}

// answer is yes, no, or nil for null and for what is neither: decoded into a
// plain *bool, a word in place of a boolean would read as no.
type answer struct{ v *bool }

// UnmarshalJSON never fails.
func (a *answer) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "true":
		a.v = new(true)
	case "false":
		a.v = new(false)
	default:
		a.v = nil
	}
	return nil
}

type runnerRow struct {
	ID          int64  `json:"id"`
	Description string `json:"description"`
	Type        string `json:"runner_type"`
	IsShared    bool   `json:"is_shared"`
	Status      string `json:"status"`
	Execution   string `json:"job_execution_status"`
	Active      answer `json:"active"`
	Paused      answer `json:"paused"`
	Online      answer `json:"online"`
}

func (r *runnerRow) runner() Runner {
	typ := r.Type
	if typ == "" {
		// Releases without runner_type: is_shared means instance_type (1.2).
		typ = "project_type"
		if r.IsShared {
			typ = "instance_type"
		}
	}
	return Runner{
		ID: r.ID, Description: r.Description, Type: typ, Status: r.Status, Execution: r.Execution,
		Active: r.Active.v, Paused: r.Paused.v, Online: r.Online.v,
	}
}

type detailsRow struct {
	runnerRow

	Tags        []string `json:"tag_list"`
	RunUntagged bool     `json:"run_untagged"`
	Access      string   `json:"access_level"`
	Version     string   `json:"version"`
	Platform    string   `json:"platform"`
	Arch        string   `json:"architecture"`
	ContactedAt stamp    `json:"contacted_at"`
	// Arrays of one: the rest is skipped. A runner may be in thousands of projects.
	Projects [1]struct {
		Path string `json:"path_with_namespace"`
	} `json:"projects"`
	Groups [1]struct {
		WebURL string `json:"web_url"`
	} `json:"groups"`
}

func (r *detailsRow) details() RunnerDetails {
	d := RunnerDetails{
		Runner: r.runner(), RunUntagged: r.RunUntagged, Protected: r.Access == "ref_protected",
		Version: r.Version, Platform: r.Platform, Arch: r.Arch, ContactedAt: r.ContactedAt.Time,
	}
	for _, t := range r.Tags {
		if t != "" { // a null or a number among the tags
			d.Tags = append(d.Tags, t)
		}
	}
	switch d.Type {
	case "group_type":
		d.Owner = groupPath(r.Groups[0].WebURL)
	case "project_type":
		d.Owner = r.Projects[0].Path
	}
	return d
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

type managerRow struct {
	ID          int64  `json:"id"`
	SystemID    string `json:"system_id"`
	Version     string `json:"version"`
	Platform    string `json:"platform"`
	Arch        string `json:"architecture"`
	Status      string `json:"status"`
	ContactedAt stamp  `json:"contacted_at"`
}

func (r *managerRow) manager() Manager {
	return Manager{
		ID: r.ID, SystemID: r.SystemID, Version: r.Version, Platform: r.Platform, Arch: r.Arch,
		Status: r.Status, ContactedAt: r.ContactedAt.Time,
	}
}

type jobRow struct {
	ID            int64   `json:"id"`
	Status        string  `json:"status"`
	CreatedAt     stamp   `json:"created_at"`
	StartedAt     stamp   `json:"started_at"`
	FinishedAt    stamp   `json:"finished_at"`
	Duration      float64 `json:"duration"`
	Queued        float64 `json:"queued_duration"`
	FailureReason string  `json:"failure_reason"`
	Project       struct {
		ID int64 `json:"id"`
	} `json:"project"`
}

// blankJob marks both durations as missing: decoding null leaves them so.
func blankJob() jobRow { return jobRow{Duration: -1, Queued: -1} }

func (r *jobRow) job() Job {
	return Job{
		ID: r.ID, Status: r.Status, CreatedAt: r.CreatedAt.Time, StartedAt: r.StartedAt.Time, FinishedAt: r.FinishedAt.Time,
		Duration: r.Duration, Queued: r.Queued, FailureReason: r.FailureReason, ProjectID: r.Project.ID,
	}
}

type versionRow struct {
	Version string `json:"version"`
}

type tokenRow struct {
	Name      string   `json:"name"`
	UserID    int64    `json:"user_id"`
	Scopes    []string `json:"scopes"`
	ExpiresAt string   `json:"expires_at"`
}

func (r *tokenRow) token() Token {
	t := Token{Name: r.Name, UserID: r.UserID, Scopes: r.Scopes}
	if len(r.ExpiresAt) >= len(time.DateOnly) {
		if day, err := time.Parse(time.DateOnly, r.ExpiresAt[:len(time.DateOnly)]); err == nil {
			t.ExpiresAt = day
		}
	}
	return t
}

// decodeArray is decodeRows of a body that is an array and nothing else.
func decodeArray[T any](dec *json.Decoder, blank T, each func(*T)) (rows int, err error) {
	if rows, err = decodeRows(dec, blank, each); err != nil {
		return rows, err
	}
	return rows, end(dec)
}

// decodeRows streams the elements of a JSON array, each into a row that starts
// as blank, and returns how many there were.
func decodeRows[T any](dec *json.Decoder, blank T, each func(*T)) (rows int, err error) {
	first, err := dec.Token()
	if err != nil {
		return 0, err
	}
	if first != json.Delim('[') {
		return 0, errNotArray
	}
	var row T
	for dec.More() {
		row = blank
		if err := dec.Decode(&row); err != nil && !isWrongType(err) {
			return rows, err
		}
		rows++
		each(&row)
	}
	_, err = dec.Token()
	return rows, err
}

// decodeObject decodes one JSON object into *v, which holds the defaults.
func decodeObject[T any](dec *json.Decoder, v *T) error {
	p := v // null would set the pointer to nil and leave *v looking like an answer
	err := dec.Decode(&p)
	if err != nil {
		wrong, ok := errors.AsType[*json.UnmarshalTypeError](err)
		if !ok {
			return err
		}
		if wrong.Field == "" { // not a field: the value itself
			return errNotObject
		}
	}
	if p == nil {
		return errNotObject
	}
	return end(dec)
}

// end reads what follows the value, which also lets the connection be reused.
// A value that is whole stays good if the transfer breaks after it (a
// Content-Length that lies); text after it, finished or not, means it was
// something else.
func end(dec *json.Decoder) error {
	if _, err := dec.Token(); err == nil {
		return errTrailing
	}
	left, err := io.ReadAll(dec.Buffered()) // what no token could be made of
	if err != nil || len(bytes.Trim(left, " \t\r\n")) > 0 {
		return errTrailing
	}
	return nil
}

// isWrongType tells an ill-typed field or element from a damaged text: the
// decoder has filled the other fields and stands after the element.
func isWrongType(err error) bool {
	_, ok := errors.AsType[*json.UnmarshalTypeError](err)
	return ok
}

func decodeRunners(dec *json.Decoder) (runners []Runner, rows int, err error) {
	rows, err = decodeArray(dec, runnerRow{}, func(r *runnerRow) {
		if r.ID > 0 {
			runners = append(runners, r.runner())
		}
	})
	return runners, rows, err
}

func decodeManagers(dec *json.Decoder) (managers []Manager, rows int, err error) {
	rows, err = decodeArray(dec, managerRow{}, func(r *managerRow) {
		if r.ID > 0 {
			managers = append(managers, r.manager())
		}
	})
	return managers, rows, err
}

// errTooLarge ends the reading of a body beyond Options.MaxBody.
var errTooLarge = errors.New("the body is too large")

// cappedBody bounds a body and keeps its transport's error apart from the
// decoder's: a connection cut off is another failure than a JSON text that ends early.
type cappedBody struct {
	r    io.Reader
	left int64
	err  error // first error that is not io.EOF
}

func (b *cappedBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1] // one byte more than allowed tells a body of exactly that size from a larger one
	}
	n, err := b.r.Read(p)
	if int64(n) > b.left {
		n, err = int(b.left), errTooLarge
	}
	b.left -= int64(n)
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
