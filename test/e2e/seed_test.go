package e2e

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSampleAnswersOfGitLabsPageAreRead serves the Runner API page's own sample answers as they
// stand there, impossible ones among them (a runner that is active and called
// paused, a running job with an end), and holds what the real program makes of
// them. Two of the runners have no details: they are answered 403.
func TestSampleAnswersOfGitLabsPageAreRead(t *testing.T) {
	t.Parallel()
	sample := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("..", "..", "internal", "gitlab", "testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	details := sample("seed_runner_details.json")
	answers := map[string][]byte{
		"/api/v4/runners/all":    sample("seed_runners_all.json"),
		"/api/v4/runners/6":      details,
		"/api/v4/runners/6/jobs": sample("seed_runner_jobs.json"),
		"/api/v4/runners/1":      []byte(strings.NewReplacer(`"id": 6`, `"id": 1`, "project_type", "instance_type").Replace(string(details))),
		"/api/v4/runners/1/jobs": []byte("[]"),
		"/api/v4/version":        []byte(`{"version": "15.11.0-jh", "revision": "1"}`),
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := answers[r.URL.Path]
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.Method != http.MethodGet, !ok && !strings.HasPrefix(r.URL.Path, "/api/v4/runners/"), strings.HasSuffix(r.URL.Path, "/managers"):
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"error":"404 Not Found"}`))
		case !ok:
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"message":"403 Forbidden"}`))
		case r.Header.Get("Authorization") != "Bearer "+token:
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.Header().Set("X-Next-Page", "")
			_, _ = w.Write(body)
		}
	}))
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	p := launch(t, "--config.file="+configure(t, dir, srv.URL), "--storage.path="+filepath.Join(dir, "state"))
	const fleet = "gitlab_runner_fleet_"
	// Runners 3 and 8 stand under (unknown) once their details failed three times;
	// this release does not show who executes, so their jobs are tried as often.
	got := eventually(t, p, "the whole picture", func(got map[string]float64) bool {
		return got[fleet+`tag_runners{gitlab="g0",paused="false",runner_type="project_type",status="online",tag="ruby"}`] == 1 &&
			got[fleet+`runner_jobs_executing{gitlab="g0",runner_id="6"}`] == 1 &&
			got[fleet+`jobs_executing{gitlab="g0",runner_type="project_type",status="running"}`] == 1
	})
	for s, want := range map[string]float64{
		`up{gitlab="g0"}`: 1,
		`runners{gitlab="g0",paused="false",runner_type="instance_type",status="online"}`:                      1,
		`runners{gitlab="g0",paused="false",runner_type="instance_type",status="offline"}`:                     1,
		`runners{gitlab="g0",paused="false",runner_type="project_type",status="online"}`:                       1, // called paused, and paused is false
		`runners{gitlab="g0",paused="false",runner_type="group_type",status="offline"}`:                        1,
		`tag_runners{gitlab="g0",paused="false",runner_type="project_type",status="online",tag="mysql"}`:       1,
		`tag_runners{gitlab="g0",paused="false",runner_type="instance_type",status="online",tag="ruby"}`:       1,
		`tag_runners{gitlab="g0",paused="false",runner_type="instance_type",status="offline",tag="(unknown)"}`: 1,
		`tag_runners{gitlab="g0",paused="false",runner_type="group_type",status="offline",tag="(unknown)"}`:    1,
		`tag_available_runners{gitlab="g0",tag="mysql"}`:                                                       2,
		`jobs_executing{gitlab="g0",runner_type="project_type",status="running"}`:                              1,
		`busy_runners{gitlab="g0",runner_type="project_type"}`:                                                 1,
		`gitlab_info{gitlab="g0",url="` + srv.URL + `",version="15.11.0-jh"}`:                                  1,
	} {
		if v, ok := got[fleet+s]; !ok || v != want {
			t.Errorf("%s is %v (there: %t), want %v", s, v, ok, want)
		}
	}
	if n := sum(got, fleet+"runners"); n != 4 {
		t.Errorf("%v runners, the page has 4", n)
	}
	if n := sum(got, finishedJobs); n != 0 {
		t.Errorf("%v finished jobs: the page's ended long before the first start", n)
	}
	p.Kill()
}
