package gitlab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
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

// TestSamples reads the sample bodies of GitLab's own documentation, old and
// new, as they are.
func TestSamples(t *testing.T) {
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
		Protected: true, ContactedAt: at("2016-01-25T16:39:48.066Z"), Owner: "gitlab-org/gitlab-foss",
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
			{ID: 1, SystemID: "s_89e5e9956577", Version: "16.11.1", Platform: "linux", Arch: "amd64", Status: "offline", ContactedAt: contact},
			{ID: 2, SystemID: "runner-2", Version: "16.11.0", Platform: "linux", Arch: "amd64", Status: "offline", ContactedAt: contact},
		})
	})
}

// TestTolerantRunners: what releases, proxies and bugs may write into a row.
func TestTolerantRunners(t *testing.T) {
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
	got, rows, err := decodeRunners(json.NewDecoder(strings.NewReader(body)))
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

func TestTolerantJobs(t *testing.T) {
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

func TestTolerantDetails(t *testing.T) {
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
		var row detailsRow
		if err := decodeObject(json.NewDecoder(strings.NewReader(c.body)), &row); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		equal(t, c.name, row.details(), c.want)
	}
}

func TestToken(t *testing.T) {
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

// TestNotTheExpectedBody: each is an error, and only what was cut off is worth
// asking for again.
func TestNotTheExpectedBody(t *testing.T) {
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
		{`[`, io.EOF},
		{`[{"id":1}`, io.EOF},
		{`[{"id":1},`, io.EOF},
		{`[{"id":1,"description":"abc`, io.ErrUnexpectedEOF},
	} {
		_, _, err := decodeRunners(json.NewDecoder(strings.NewReader(c.body)))
		if !errors.Is(err, c.want) {
			t.Errorf("%q: %v, want %v", c.body, err, c.want)
		}
	}
	for _, body := range []string{`<html>`, `[{"id":1}{"id":2}]`, `[{"id":01}]`, `[{'id':1}]`, `[{"id":1},]`, `[}`} {
		_, _, err := decodeRunners(json.NewDecoder(strings.NewReader(body)))
		if _, ok := errors.AsType[*json.SyntaxError](err); !ok {
			t.Errorf("%q: %v, want a syntax error", body, err)
		}
	}
	for _, body := range []string{`[]`, `null`, `7`, `"x"`} {
		var row detailsRow
		if err := decodeObject(json.NewDecoder(strings.NewReader(body)), &row); !errors.Is(err, errNotObject) {
			t.Errorf("%q: %v", body, err)
		}
	}
	for _, body := range []string{`{}`, `{"id":0}`, `{"id":"7"}`, `{"message":"hello"}`} {
		c := serve(t, answers(body))
		_, e1 := c.Runner(t.Context(), 1, false)
		_, e2 := c.Job(t.Context(), 1, 1)
		_, e3 := c.Version(t.Context())
		_, e4 := c.Token(t.Context())
		for i, err := range []error{e1, e2, e3, e4} {
			if ReasonOf(err) != ReasonDecode {
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

// unmarshalJobs is the plain way to read a page, against which the streamed
// one is held.
func unmarshalJobs(r io.Reader) ([]Job, error) {
	body, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	var elements []json.RawMessage
	if err := json.Unmarshal(body, &elements); err != nil {
		return nil, err
	}
	var jobs []Job
	for _, e := range elements {
		row := blankJob()
		if err := json.Unmarshal(e, &row); err != nil && !isWrongType(err) {
			return nil, err
		}
		if row.ID > 0 {
			jobs = append(jobs, row.job())
		}
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

// TestPageMemory: what a page costs must not depend on what GitLab attaches to its jobs.
func TestPageMemory(t *testing.T) {
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

// decoderJobs reads a page with encoding/json alone.
func decoderJobs(r io.Reader) (jobs []Job, rows int, err error) {
	rows, err = decodeArray(json.NewDecoder(r), blankJob(), func(r *jobRow) {
		if r.ID > 0 {
			jobs = append(jobs, r.job())
		}
	})
	return jobs, rows, err
}

// kindOf is what the client makes of a decoder's error.
func kindOf(err error) string {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, errNotArray, errTrailing} {
		if errors.Is(err, e) {
			return e.Error()
		}
	}
	if _, ok := errors.AsType[*json.SyntaxError](err); ok {
		return "syntax"
	}
	return fmt.Sprint(err)
}

// sameAsDecoder holds decodeJobs against encoding/json, with the body in one
// piece and in the smallest.
func sameAsDecoder(t *testing.T, body []byte) {
	t.Helper()
	want, wantRows, wantErr := decoderJobs(bytes.NewReader(body))
	for name, r := range map[string]io.Reader{
		"whole": bytes.NewReader(body), "by bytes": iotest.OneByteReader(bytes.NewReader(body)), "EOF with data": iotest.DataErrReader(bytes.NewReader(body)),
	} {
		got, rows, err := decodeJobs(r)
		if kindOf(err) != kindOf(wantErr) {
			t.Fatalf("%s: error %v, want %v", name, err, wantErr)
		}
		if rows != wantRows || !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: %d rows, want %d\ngot  %+v\nwant %+v", name, rows, wantRows, got, want)
		}
	}
}

// TestScannerEqualsDecoder: what the scanner reads itself, and what it leaves
// to encoding/json, reads the same.
func TestScannerEqualsDecoder(t *testing.T) {
	job := func(members string) string {
		return `[{"id":1,"status":"success"},{` + members + `},{"id":3,"status":"failed","failure_reason":"script_failure"}]`
	}
	for _, body := range []string{
		job(`"id":2`), job(``), job(`"id":2,`), job(`"id":2 "status":"x"`), job(`"id" 2`), job(`"id":2,,"status":"x"`),
		job(`"id":02`), job(`"id":-2`), job(`"id":2.0`), job(`"id":2e3`), job(`"id":+2`), job(`"id":-`), job(`"id":2.`), job(`"id":2e`), job(`"id":.5`),
		job(`"id":123456789012345678`), job(`"id":1234567890123456789`), job(`"id":12345678901234567890`), job(`"id":null`), job(`"id":nul`), job(`"id":nullx`),
		job(`"ID":2,"Status":"x"`), job(`"id":2,"\u0069d":5`), job(`"id":2,"id":4`), job(`"id":2,"\u017ftatus":"x"`), job("\"id\":2,\"\u017ftatus\":\"x\""),
		job(`"id":2,"status":"a\"b\\c\u00e9"`), job(`"id":2,"status":"é"`), job("\"id\":2,\"status\":\"\xff\""), job("\"id\":2,\"status\":\"a\nb\""),
		job(`"id":2,"status":7`), job(`"id":2,"status":null`), job(`"id":2,"status":""`), job(`"id":2,"status":"waiting_for_callback"`),
		job(`"id":2,"name":"\u12g4"`), job(`"id":2,"name":"\x"`), job(`"id":2,"name":"\ud83d\ude00\/\b\f\n\r\t"`), job("\"id\":2,\"name\":\"long enough \x1f for a step of eight\""),
		job(`"id":2,"name":"` + strings.Repeat("é\\\"x", 40) + `"`), job(`"id":2,"name":"` + strings.Repeat("x", 3*scanBuffer) + `","status":"failed"`),
		job(`"id":2,"duration":0.1,"queued_duration":123456789.000000001`), job(`"id":2,"duration":1e999`), job(`"id":2,"duration":"1"`), job(`"id":2,"duration":null,"queued_duration":-0`),
		job(`"id":2,"created_at":"2026-03-01T10:00:00.123+02:00","started_at":"x","finished_at":null`), job(`"id":2,"created_at":17`), job(`"id":2,"created_at":"2026-03-01T10:00:00\u005a"`),
		job(`"id":2,"project":{"id":5,"x":[1,{"id":6}]}`), job(`"id":2,"project":null`), job(`"id":2,"project":[]`), job(`"id":2,"project":{"ID":5}`), job(`"id":2,"project":{"id":5,"id":6}`), job(`"id":2,"project":{"id":5},"project":{}`), job(`"id":2,"project":{"id":5`),
		job(`"id":2,"user":[[],[ ],[1 , 2],{"a":{}, "b" : true},false,null,1.5e-7]`), job(`"id":2,"user":[1,]`), job(`"id":2,"user":[1 2]`), job(`"id":2,"user":{"a"}`), job(`"id":2,"user":{1:2}`), job(`"id":2,"user":tru`),
		job(`"id":2,"user":` + strings.Repeat("[", scanDepth+5) + strings.Repeat("]", scanDepth+5)), job(`"id":2,"user":` + strings.Repeat(`{"a":`, scanDepth+5) + "1" + strings.Repeat("}", scanDepth+5)),
		" \n[ \t{ \"id\" : 1 , \"status\" : \"running\" }\r\n, {\"id\":2} ] \n", `[]`, ` [ ] `, `[,]`, `[{"id":1},]`, `[{"id":1},{"id":2},]`, `[{"id":1}{"id":2}]`, `[{"id":1},7,"x",null,[1],{"id":2}]`,
		`[{"id":1},nul]`, `[{"id":1}],`, `[{"id":1}]]`, `[{"id":1}] x`, `[{"id":1}]{`, `[{"id":1}]"x`, `[]"`, `[] tru`, `[]1`, "[]\v", `{"id":1}`, `<html>`, ``, ` `, `[`, `null`, "\xef\xbb\xbf[]",
	} {
		sameAsDecoder(t, []byte(body))
		for cut := range len(body) { // the connection ends anywhere
			if len(body) < 300 {
				sameAsDecoder(t, []byte(body[:cut]))
			}
		}
	}
	sameAsDecoder(t, jobsPage(t))
}

// TestScannerKeepsTransportError: a connection cut off in the middle is told as
// what it is, after a whole page it is not.
func TestScannerKeepsTransportError(t *testing.T) {
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

// FuzzJobs: no body makes the decoder panic, it agrees with encoding/json on
// each, and no job without an id gets through.
func FuzzJobs(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte) {
		sameAsDecoder(t, body)
		got, rows, err := decodeJobs(bytes.NewReader(body))
		if len(got) > rows {
			t.Fatalf("%d jobs of %d rows", len(got), rows)
		}
		for _, j := range got {
			if j.ID <= 0 {
				t.Fatalf("a job without an id: %+v", j)
			}
		}
		want, plainErr := unmarshalJobs(bytes.NewReader(body))
		if err == nil && plainErr != nil {
			t.Fatalf("accepted what is not JSON: %v", plainErr)
		}
		if err == nil && !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		if err != nil && plainErr == nil && !errors.Is(err, errNotArray) {
			t.Fatalf("refused a good array: %v", err)
		}
	})
}

// FuzzRunners does the same for lists and details of runners.
func FuzzRunners(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte) {
		got, rows, err := decodeRunners(json.NewDecoder(bytes.NewReader(body)))
		if len(got) > rows {
			t.Fatalf("%d runners of %d rows", len(got), rows)
		}
		for _, r := range got {
			if r.ID <= 0 || r.Type == "" {
				t.Fatalf("an incomplete runner: %+v", r)
			}
		}
		if err == nil && !json.Valid(body) {
			t.Fatal("accepted what is not JSON")
		}
		var elements []json.RawMessage
		if json.Unmarshal(body, &elements) == nil && elements != nil {
			if err != nil || rows != len(elements) {
				t.Fatalf("an array of %d gave %d rows, %v", len(elements), rows, err)
			}
		}
		var row detailsRow
		if decodeObject(json.NewDecoder(bytes.NewReader(body)), &row) == nil {
			for _, tag := range row.details().Tags {
				if tag == "" {
					t.Fatal("an empty tag")
				}
			}
		}
	})
}

func BenchmarkJobsPage(b *testing.B) {
	page := jobsPage(b)
	b.Run("scanned", func(b *testing.B) {
		b.SetBytes(int64(len(page)))
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := decodeJobs(bytes.NewReader(page)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decoder", func(b *testing.B) {
		b.SetBytes(int64(len(page)))
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := decoderJobs(bytes.NewReader(page)); err != nil {
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
		if _, _, err := decodeRunners(json.NewDecoder(bytes.NewReader(page))); err != nil {
			b.Fatal(err)
		}
	}
}
