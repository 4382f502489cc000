package gitlab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

func yes() *bool { return new(true) }
func no() *bool  { return new(false) }

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		panic(err)
	}
	return t.UTC()
}

// TestSamplesOfTheDocumentationAreRead reads the sample bodies of GitLab's own documentation, old and
// new, as they are.
func TestSamplesOfTheDocumentationAreRead(t *testing.T) {
	list := func(name string, want ...Runner) {
		t.Run(name, func(t *testing.T) {
			p, err := serve(t, answers(sample(t, name))).Runners(t.Context(), Scope{}, 1)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "page", p, RunnersPage{Runners: want, Total: -1})
		})
	}
	row := func(id int64, description, typ, status, execution string, online *bool) Runner {
		return Runner{ID: id, Description: description, Type: typ, Status: status, Execution: execution, Active: yes(), Paused: no(), Online: online}
	}
	all := func(execution string) []Runner {
		return []Runner{
			row(1, "shared-runner-1", "instance_type", "online", execution, yes()),
			row(3, "shared-runner-2", "instance_type", "offline", execution, no()),
			row(6, "test-1-20150125", "project_type", "paused", execution, yes()),
			row(8, "test-2-20150125", "group_type", "offline", execution, no()),
		}
	}
	list("seed_runners_all.json", all("")...)
	list("doc_api_runners_list_all.json", all("idle")...)
	list("seed_runners_owned.json",
		row(6, "test-1-20150125", "project_type", "online", "", yes()),
		row(8, "test-2-20150125", "group_type", "offline", "", no()))
	list("seed_project_runners.json",
		row(8, "test-2-20150125", "project_type", "offline", "", no()),
		row(5, "development_runner", "instance_type", "online", "", yes()))
	list("seed_group_runners.json",
		row(3, "Shared", "instance_type", "never_contacted", "", nil),
		row(6, "Test", "instance_type", "offline", "", no()),
		row(8, "Test 2", "group_type", "never_contacted", "", nil))

	details := func(name string, want RunnerDetails) {
		t.Run(name, func(t *testing.T) {
			d, err := serve(t, answers(sample(t, name))).Runner(t.Context(), 6, false)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "details", d, want)
		})
	}
	d := RunnerDetails{
		Runner: row(6, "test-1-20150125", "project_type", "online", "", yes()), Tags: []string{"ruby", "mysql"},
		Protected: true, ContactedAt: at("2016-01-25T16:39:48.066Z"), MaximumTimeout: time.Hour, Owner: "gitlab-org/gitlab-foss",
	}
	details("seed_runner_details.json", d)
	d.Execution = "idle"
	details("doc_api_runner_details.json", d)
	details("seed_runner_details_without_paused.json", RunnerDetails{
		Runner: Runner{ID: 6, Description: "test-1-20150125-test", Type: "group_type", Status: "online", Active: yes(), Online: yes()},
		Tags:   []string{"ruby", "mysql", "tag1", "tag2"}, Protected: true, ContactedAt: at("2016-01-25T16:39:48.066Z"),
	})

	job := Job{
		ID: 2, Status: "running", CreatedAt: at("2017-11-16T08:50:29Z"), StartedAt: at("2017-11-16T08:51:29Z"),
		FinishedAt: at("2017-11-16T08:53:29Z"), Duration: 120, Queued: 2, ProjectID: 1,
	}
	for name, queued := range map[string]float64{"doc_api_runner_jobs.json": 2, "seed_runner_jobs.json": -1} {
		t.Run(name, func(t *testing.T) {
			p, err := serve(t, answers(sample(t, name))).RunnerJobs(t.Context(), JobsQuery{RunnerID: 6, Page: 1})
			if err != nil {
				t.Fatal(err)
			}
			want := job
			want.Queued = queued
			equal(t, "page", p, JobsPage{Jobs: []Job{want}, Total: -1})
		})
	}
	t.Run("managers", func(t *testing.T) {
		m, err := serve(t, answers(sample(t, "doc_api_runner_managers.json"))).Managers(t.Context(), 6)
		if err != nil {
			t.Fatal(err)
		}
		contact := at("2024-06-09T06:30:09.355Z")
		equal(t, "managers", m, []Manager{
			{ID: 1, SystemID: "s_89e5e9956577", Version: "16.11.1", Platform: "linux", Arch: "amd64", Status: "offline", Execution: "idle", ContactedAt: contact},
			{ID: 2, SystemID: "runner-2", Version: "16.11.0", Platform: "linux", Arch: "amd64", Status: "offline", Execution: "idle", ContactedAt: contact},
		})
	})
}

// TestOddRunnerRowsAreRead: what releases, proxies and bugs may write into a row.
func TestOddRunnerRowsAreRead(t *testing.T) {
	const body = `[
		{"id":1},
		{"id":2,"is_shared":true,"description":null,"status":"hibernating","online":null,"paused":null,"new_field":{"a":[1,{"b":2}]}},
		{"id":"3","description":"an id as text"},
		{"id":null},
		{"id":-4},
		{"id":5.5},
		{"id":123456789012345678901234567890},
		{"description":"no id"},
		null, 7, "x", [1], {},
		{"id":6,"description":17,"runner_type":["x"],"paused":"yes","active":false,"status":"online"},
		{"id":9223372036854775807,"runner_type":"cluster_type","description":"é\u0000"}
	]`
	got, rows, err := decodeRunners(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if rows != 15 {
		t.Errorf("%d rows", rows)
	}
	equal(t, "runners", got, []Runner{
		{ID: 1, Type: "project_type"},
		{ID: 2, Type: "instance_type", Status: "hibernating"},
		{ID: 6, Type: "project_type", Status: "online", Active: no()},
		{ID: 9223372036854775807, Type: "cluster_type", Description: "é\x00"},
	})
}

func TestSkippedRowsAreReported(t *testing.T) {
	c := serve(t, answers(`[{"id":1},{"id":"2"},{"id":3}]`))
	runners, err := c.Runners(t.Context(), Scope{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	jobs, err := c.RunnerJobs(t.Context(), JobsQuery{RunnerID: 1})
	if err != nil {
		t.Fatal(err)
	}
	if runners.Skipped != 1 || len(runners.Runners) != 2 || jobs.Skipped != 1 || len(jobs.Jobs) != 2 {
		t.Errorf("runners %+v, jobs %+v", runners, jobs)
	}
}

func TestOddJobRowsAreRead(t *testing.T) {
	const body = `[
		{"id":1,"status":"waiting_for_callback"},
		{"id":2,"status":"failed","failure_reason":"brand_new_reason","created_at":"2024-02-29T23:59:59.999+05:30",
		 "started_at":null,"finished_at":"yesterday","duration":null,"queued_duration":"2","project":null},
		{"id":3,"status":null,"created_at":17,"started_at":"","finished_at":"2024-13-01T00:00:00Z","duration":1e999,"queued_duration":0,
		 "project":{"id":4},"pipeline":{"id":99,"status":"success"},"runner":{"id":98}}
	]`
	got, _, err := decodeJobs(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "jobs", got, []Job{
		{ID: 1, Status: "waiting_for_callback", Duration: -1, Queued: -1},
		{ID: 2, Status: "failed", FailureReason: "brand_new_reason", CreatedAt: at("2024-02-29T18:29:59.999Z"), Duration: -1, Queued: -1},
		{ID: 3, Duration: -1, Queued: 0, ProjectID: 4},
	})
}

func TestOddDetailsAreRead(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       RunnerDetails
	}{
		{"all null", `{"id":1,"tag_list":null,"projects":null,"groups":null,"contacted_at":null,"version":null}`, RunnerDetails{Runner: Runner{ID: 1, Type: "project_type"}}},
		{"tags of all sorts", `{"id":1,"tag_list":["a",null,7,"b"],"run_untagged":true}`, RunnerDetails{Runner: Runner{ID: 1, Type: "project_type"}, Tags: []string{"a", "b"}, RunUntagged: true}},
		{"tags as text", `{"id":1,"tag_list":"a,b"}`, RunnerDetails{Runner: Runner{ID: 1, Type: "project_type"}}},
		{
			"group", `{"id":1,"runner_type":"group_type","groups":[{"id":2,"web_url":"https://h/root/groups/a/b%2Dc"},{"web_url":"https://h/groups/x"}]}`,
			RunnerDetails{Runner: Runner{ID: 1, Type: "group_type"}, Owner: "a/b-c"},
		},
		{"group without /groups/", `{"id":1,"runner_type":"group_type","groups":[{"web_url":"https://h/a/b/"}]}`, RunnerDetails{Runner: Runner{ID: 1, Type: "group_type"}, Owner: "a/b"}},
		{"group with a broken url", `{"id":1,"runner_type":"group_type","groups":[{"web_url":":%"}]}`, RunnerDetails{Runner: Runner{ID: 1, Type: "group_type"}}},
		{"the first of many projects", `{"id":1,"projects":[{"path_with_namespace":"a/b"},{"path_with_namespace":"c/d"}]}`, RunnerDetails{Runner: Runner{ID: 1, Type: "project_type"}, Owner: "a/b"}},
		{"instance runners have no owner", `{"id":1,"runner_type":"instance_type","projects":[{"path_with_namespace":"a/b"}]}`, RunnerDetails{Runner: Runner{ID: 1, Type: "instance_type"}}},
	} {
		got, err := decodeObject(strings.NewReader(c.body), (*reader).details)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		equal(t, c.name, got, c.want)
	}
}

func TestTokenIsReadWhateverItsExpiry(t *testing.T) {
	for body, want := range map[string]Token{
		`{"id":4,"name":"exporter","user_id":7,"scopes":["read_api"],"active":true,"expires_at":"2026-03-01"}`: {Name: "exporter", UserID: 7, Scopes: []string{"read_api"}, ExpiresAt: at("2026-03-01T00:00:00Z")},
		`{"user_id":7,"scopes":null,"expires_at":null}`:                                                        {UserID: 7},
		`{"user_id":7,"expires_at":"2026-03-01T10:00:00Z"}`:                                                    {UserID: 7, ExpiresAt: at("2026-03-01T00:00:00Z")},
		`{"user_id":7,"expires_at":"soon and never"}`:                                                          {UserID: 7},
	} {
		got, err := serve(t, answers(body)).Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		equal(t, body, got, want)
	}
}

// TestUnexpectedBodyIsAnError: each is an error, and only what was cut off is worth
// asking for again.
func TestUnexpectedBodyIsAnError(t *testing.T) {
	for _, c := range []struct {
		body string
		want error
	}{
		{`{"message":"hello"}`, errNotArray},
		{`null`, errNotArray},
		{`"x"`, errNotArray},
		{`[{"id":1}] <!-- debug -->`, errTrailing},
		{`[{"id":1}][{"id":2}]`, errTrailing},
		{``, io.EOF},
		{`[`, io.ErrUnexpectedEOF},
		{`[{"id":1}`, io.ErrUnexpectedEOF},
		{`[{"id":1},`, io.ErrUnexpectedEOF},
		{`<html>`, errNotJSON},
		{`default backend - 404`, errNotJSON},
		{`no healthy upstream`, errNotArray},
		{`404 page not found`, errNotArray},
		{"\xef\xbb\xbf[]", errNotJSON},
		{`[{"id":1,"description":"abc`, io.ErrUnexpectedEOF},
	} {
		_, _, err := decodeRunners(strings.NewReader(c.body))
		if !errors.Is(err, c.want) {
			t.Errorf("%q: %v, want %v", c.body, err, c.want)
		}
	}
	for _, body := range []string{`[{"id":1}{"id":2}]`, `[{"id":01}]`, `[{'id':1}]`, `[{"id":1},]`, `[}`} {
		_, _, err := decodeRunners(strings.NewReader(body))
		if _, ok := errors.AsType[*jsontext.SyntacticError](err); !ok || isWrongShape(err) {
			t.Errorf("%q: %v, want a syntax error", body, err)
		}
	}
	for _, body := range []string{`[]`, `null`, `7`, `"x"`} {
		if _, err := decodeObject(strings.NewReader(body), (*reader).details); !errors.Is(err, errNotObject) {
			t.Errorf("%q: %v", body, err)
		}
	}
	for _, body := range []string{`{}`, `{"id":0}`, `[]`, `null`, `<html>`, `{"id":"7"}`, `{"message":"hello"}`} {
		c := serve(t, answers(body))
		ctx := impatient{t.Context()}
		_, e1 := c.Runner(ctx, 1, false)
		_, e2 := c.Job(ctx, 1, 1)
		_, e3 := c.Version(ctx)
		_, e4 := c.Token(ctx)
		for i, err := range []error{e1, e2, e3, e4} {
			if ReasonOf(err) != ReasonNotGitLab {
				t.Errorf("%q: method %d: %v", body, i, err)
			}
		}
	}
}

// jobsPage is a page as GitLab writes it: 100 jobs with all they drag along.
func jobsPage(tb testing.TB) []byte {
	tb.Helper()
	var one []map[string]any
	if err := json.Unmarshal([]byte(sample(tb, "doc_api_runner_jobs.json")), &one); err != nil {
		tb.Fatal(err)
	}
	job := one[0]
	job["commit"].(map[string]any)["message"] = strings.Repeat("a commit message of some length\n", 20)
	job["pipeline"].(map[string]any)["web_url"] = "https://gitlab.example.com/namespace1/project1/-/pipelines/2"
	page := make([]json.RawMessage, perPage)
	for i := range page {
		job["id"] = 1000000 - i
		job["status"] = []string{"success", "failed", "running"}[i%3]
		delete(job, "failure_reason")
		if i%3 == 1 {
			job["failure_reason"] = "script_failure"
		}
		job["project"].(map[string]any)["id"] = i % 7
		b, err := json.Marshal(job)
		if err != nil {
			tb.Fatal(err)
		}
		page[i] = b
	}
	b, err := json.Marshal(page)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// plainJob is a job as encoding/json reads it.
type plainJob struct {
	ID            int64     `json:"id"`
	Status        string    `json:"status"`
	CreatedAt     time.Time `json:"created_at"`
	StartedAt     time.Time `json:"started_at"`
	FinishedAt    time.Time `json:"finished_at"`
	Duration      *float64  `json:"duration"`
	Queued        *float64  `json:"queued_duration"`
	FailureReason string    `json:"failure_reason"`
	Project       struct {
		ID int64 `json:"id"`
	} `json:"project"`
}

// unmarshalJobs is the plain way to read a page, against which the streamed
// one is held.
func unmarshalJobs(r io.Reader) ([]Job, error) {
	var rows []plainJob
	if err := json.NewDecoder(r).Decode(&rows); err != nil {
		return nil, err
	}
	seconds := func(v *float64) float64 {
		if v == nil {
			return -1
		}
		return *v
	}
	var jobs []Job
	for _, r := range rows {
		jobs = append(jobs, Job{
			ID: r.ID, Status: r.Status, CreatedAt: r.CreatedAt.UTC(), StartedAt: r.StartedAt.UTC(), FinishedAt: r.FinishedAt.UTC(),
			Duration: seconds(r.Duration), Queued: seconds(r.Queued), FailureReason: r.FailureReason, ProjectID: r.Project.ID,
		})
	}
	return jobs, nil
}

func TestStreamingEqualsUnmarshal(t *testing.T) {
	page := jobsPage(t)
	want, err := unmarshalJobs(bytes.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	got, rows, err := decodeJobs(bytes.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	if rows != 100 || len(want) != 100 {
		t.Fatalf("%d rows, %d wanted", rows, len(want))
	}
	equal(t, "jobs", got, want)
}

// TestAttachedDataDoesNotMakePagesExpensive: what a page costs must not depend on what GitLab attaches to its jobs.
func TestAttachedDataDoesNotMakePagesExpensive(t *testing.T) {
	cost := func(page []byte) float64 {
		return testing.AllocsPerRun(10, func() {
			if _, _, err := decodeJobs(bytes.NewReader(page)); err != nil {
				t.Fatal(err)
			}
		})
	}
	page := jobsPage(t)
	fat := bytes.ReplaceAll(page, []byte(`"commit":{`), []byte(`"commit":{"trailers":{"a":["b",{"c":1}]},"stats":[1,2,3,4,5,6,7,8,9,10],`))
	if len(fat) == len(page) {
		t.Fatal("nothing was added")
	}
	lean, heavy := cost(page), cost(fat)
	if heavy > lean+10 {
		t.Errorf("%v allocations with small jobs, %v with large ones", lean, heavy)
	}
	if lean > 500 {
		t.Errorf("%v allocations for a page of 100 jobs", lean)
	}
}

// TestCutConnectionIsReported: a connection cut off in the middle is reported as what it
// is, after a whole page it is not.
func TestCutConnectionIsReported(t *testing.T) {
	cut := errors.New("connection reset")
	for body, want := range map[string]error{`[{"id":1},{"id":`: cut, `[{"id":1}`: cut, ``: cut, `[{"id":1}]`: nil} {
		_, _, err := decodeJobs(io.MultiReader(strings.NewReader(body), iotest.ErrReader(cut)))
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", body, err, want)
		}
	}
	if _, _, err := decodeJobs(silent{}); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a reader without an answer: %v", err)
	}
}

type silent struct{}

func (silent) Read([]byte) (int, error) { return 0, nil }

// FuzzJobs: no body makes the decoder panic, no job without an id or beyond a
// bound gets through, and what encoding/json reads as a page is one.
func FuzzJobs(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte) {
		got, rows, err := decodeJobs(bytes.NewReader(body))
		if len(got) > rows {
			t.Fatalf("%d jobs of %d rows", len(got), rows)
		}
		for _, j := range got {
			if j.ID <= 0 || j.Duration > maxSeconds || len(j.Status) > maxName {
				t.Fatalf("an impossible job: %+v", j)
			}
		}
		sameRows(t, body, rows, err)
		pieces, pieceRows, pieceErr := decodeJobs(iotest.OneByteReader(bytes.NewReader(body)))
		if !reflect.DeepEqual(pieces, got) || pieceRows != rows || (pieceErr == nil) != (err == nil) {
			t.Fatalf("in one piece %+v, %v, byte by byte %+v, %v", got, err, pieces, pieceErr)
		}
	})
}

// sameRows holds the number of rows against encoding/json.
func sameRows(t *testing.T, body []byte, rows int, err error) {
	t.Helper()
	if err == nil && !json.Valid(body) {
		t.Fatal("accepted what is not JSON")
	}
	var elements []json.RawMessage
	if json.Unmarshal(body, &elements) == nil && elements != nil && len(elements) <= maxRows && bytes.Count(body, []byte("[")) < maxNesting/2 && bytes.Count(body, []byte("{")) < maxNesting/2 {
		if err != nil || rows != len(elements) {
			t.Fatalf("an array of %d gave %d rows, %v", len(elements), rows, err)
		}
	}
}

// FuzzRunners does the same for lists and details of runners.
func FuzzRunners(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte) {
		got, rows, err := decodeRunners(bytes.NewReader(body))
		if len(got) > rows {
			t.Fatalf("%d runners of %d rows", len(got), rows)
		}
		for _, r := range got {
			if r.ID <= 0 || r.Type == "" {
				t.Fatalf("an incomplete runner: %+v", r)
			}
		}
		sameRows(t, body, rows, err)
		d, err := decodeObject(bytes.NewReader(body), (*reader).details)
		if err == nil && (len(d.Tags) > maxTags || slices.ContainsFunc(d.Tags, func(tag string) bool { return tag == "" || len(tag) > maxTag || !utf8.ValidString(tag) })) {
			t.Fatalf("impossible tags: %q", d.Tags)
		}
	})
}

func BenchmarkJobsPage(b *testing.B) {
	page := jobsPage(b)
	b.Run("streamed", func(b *testing.B) {
		b.SetBytes(int64(len(page)))
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := decodeJobs(bytes.NewReader(page)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("unmarshal", func(b *testing.B) {
		b.SetBytes(int64(len(page)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := unmarshalJobs(bytes.NewReader(page)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRunnerJobs is a whole reading over loopback, packed as GitLab packs it.
func BenchmarkRunnerJobs(b *testing.B) {
	page := jobsPage(b)
	packed := pack(b, page)
	for _, zip := range []bool{false, true} {
		b.Run(fmt.Sprintf("gzip=%v", zip), func(b *testing.B) {
			c := newBenchClient(b, func(w http.ResponseWriter, _ *http.Request) {
				if zip {
					w.Header().Set("Content-Encoding", "gzip")
					_, _ = w.Write(packed)
					return
				}
				_, _ = w.Write(page)
			})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.RunnerJobs(b.Context(), JobsQuery{RunnerID: 1}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRunnersPage(b *testing.B) {
	var rows []string
	for i := range 100 {
		rows = append(rows, fmt.Sprintf(`{"active":true,"paused":false,"description":"shared-runner-%d","id":%d,"ip_address":"","is_shared":true,"runner_type":"instance_type","name":null,"online":true,"status":"online","job_execution_status":"idle","created_by":{"id":1,"username":"root","name":"Administrator"}}`, i, i+1))
	}
	page := []byte("[" + strings.Join(rows, ",") + "]")
	b.SetBytes(int64(len(page)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := decodeRunners(bytes.NewReader(page)); err != nil {
			b.Fatal(err)
		}
	}
}
