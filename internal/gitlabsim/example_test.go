package gitlabsim_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
)

// A world with one runner and one job by hand, read through the API.
func Example() {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	world := gitlabsim.New(gitlabsim.Options{Token: "secret", Now: func() time.Time { return now }})
	runner := world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"gpu"}})
	world.CreateJob(gitlabsim.JobSpec{Runner: runner, Finished: now.Add(time.Minute), Status: "failed"})
	now = now.Add(time.Hour)

	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://any/api/v4/runners/1/jobs", nil)
	if err != nil {
		panic(err)
	}
	req.Header.Set("PRIVATE-TOKEN", "secret")
	res, err := (&http.Client{Transport: world.RoundTripper()}).Do(req)
	if err != nil {
		panic(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	fmt.Println(res.Status, res.Header.Get("X-Total"), len(body) > 1000, err)
	for _, j := range world.Truth().Finished {
		fmt.Println(j.ID, j.Status, j.Reason, j.Duration)
	}
	// Output:
	// 200 OK 1 true <nil>
	// 1000001 failed script_failure 1m0s
}
