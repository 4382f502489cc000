package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
)

// TestWhyAJobWaitsIsExplained: the real program explains a job of a GitLab under a relative
// root, from the address that a browser shows, and requests nothing else.
func TestWhyAJobWaitsIsExplained(t *testing.T) {
	t.Parallel()
	world, host := serve(t, gitlabsim.Options{Seed: 5, Root: "/gitlab"})
	group := world.AddGroup("acme", 0)
	project := world.AddProject("app", group)
	paused := world.AddRunner(gitlabsim.RunnerSpec{Description: "gpu-01", Tags: []string{"gpu", "linux"}, Paused: true, NoJobs: true})
	world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"docker"}, NoJobs: true})
	waits := world.CreateJob(gitlabsim.JobSpec{Project: project, Tags: []string{"gpu"}})
	misspelt := world.CreateJob(gitlabsim.JobSpec{Project: project, Tags: []string{"dokcer"}})
	dir := t.TempDir()
	p := launch(t, "--config.file="+configure(t, dir, host+"/gitlab"), "--storage.path="+filepath.Join(dir, "state"))
	eventually(t, p, "the runners' details", func(got map[string]float64) bool { return sum(got, "gitlab_runner_fleet_tag_runners") > 0 })

	get := func(path, job string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.Address+path+"?job="+url.QueryEscape(job), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(body), token) {
			t.Fatalf("%s shows the token", path)
		}
		return res.StatusCode, string(body)
	}
	at := func(id int64) string { return fmt.Sprintf("%s/gitlab/acme/app/-/jobs/%d", host, id) }

	var answer struct {
		Verdict string
		Job     struct {
			Project string
			Tags    []string
		}
		Classes []struct {
			Verdict string
			Example int64 `json:"example_id"`
			Reasons []struct{ Code string }
		}
	}
	status, body := get("/api/v1/why", at(waits))
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK {
		t.Fatalf("HTTP %d, %v: %s", status, err, body)
	}
	if answer.Verdict != "none_available" || answer.Job.Project != "acme/app" || len(answer.Classes) != 2 || answer.Classes[0].Example != paused ||
		answer.Classes[0].Reasons[0].Code != "paused" || answer.Classes[1].Reasons[0].Code != "missing_tags" {
		t.Errorf("%+v", answer)
	}
	status, body = get("/fleet/why", at(misspelt))
	if status != http.StatusOK || !strings.Contains(body, "dokcer") || !strings.Contains(body, "<bdi>docker</bdi> meant?") {
		t.Errorf("HTTP %d: %s", status, body)
	}
	before := total(world)
	for job, want := range map[string]int{
		"https://elsewhere.example.com/acme/app/-/jobs/1":       http.StatusNotFound,
		host + "/acme/app/-/jobs/1":                             http.StatusNotFound, // not below the root
		host + "/gitlab/acme/..%2f..%2fapi/v4/user/-/jobs/1":    http.StatusBadRequest,
		strings.Replace(at(waits), "http://", "http://x:y@", 1): http.StatusBadRequest,
		strings.Replace(at(waits), "http://", "gopher://", 1):   http.StatusBadRequest,
	} {
		if status, body := get("/api/v1/why", job); status != want || !strings.Contains(body, `"error"`) {
			t.Errorf("%s: HTTP %d %s", job, status, body)
		}
	}
	if got := total(world); got != before {
		t.Errorf("%d requests about jobs for addresses that are none", got-before)
	}
	p.Kill()
}

// total is how many requests were made about projects and their jobs.
func total(world *gitlabsim.World) (n int) {
	for route, k := range world.Requests() {
		if strings.Contains(route, "/projects/") || strings.Contains(route, "(unknown)") {
			n += k
		}
	}
	return n
}
