//go:build ship

package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/gitlabsim/graphql/recording"
	"gitlab-runner-fleet-exporter/internal/queue"
)

// TestShipQueueIsReadWhole: a queue of 60 classes is read whole through graphql-ruby, whose
// limit of complexity for a user who is no administrator holds for each query.
func TestShipQueueIsReadWhole(t *testing.T) {
	r := startRuby(t)
	w := gitlabsim.New(gitlabsim.Options{Seed: 1, Token: recording.Admin, Now: func() time.Time { return recording.Now }})
	acme := w.AddGroup("acme", 0)
	app := w.AddProject("app", acme)
	w.AddToken(gitlabsim.TokenSpec{Token: recording.Maintainer, Scopes: []string{"read_api"}, Groups: []int64{acme}})
	var runners []queue.Runner
	for i := range 60 {
		tags := []string{fmt.Sprintf("pool-%d", i)}
		id := w.AddRunner(gitlabsim.RunnerSpec{Group: acme, Tags: tags, Paused: i == 7})
		runners = append(runners, queue.Runner{ID: id, Type: "group_type", Owner: "acme", Tags: tags, Available: i != 7})
	}
	for i := range 300 {
		w.CreateJob(gitlabsim.JobSpec{Project: app, Created: recording.Now.Add(-time.Duration(i) * time.Second), Tags: []string{fmt.Sprintf("pool-%d", i*i%10)}})
	}
	r.mount(t, w)
	client, err := gitlab.New(gitlab.Options{BaseURL: "https://gitlab.test", HTTPClient: &http.Client{Transport: withToken{recording.Maintainer, w.RoundTripper()}}})
	if err != nil {
		t.Fatal(err)
	}
	q := queue.New(queue.Options{Interval: time.Minute})
	for i := range 3 {
		reading, requests := q.Begin(recording.Now, runners), 0
		for ; ; requests++ {
			request, ok := reading.Next()
			if !ok {
				break
			}
			reading.Take(client.Queue(t.Context(), request))
		}
		if err := reading.End(); err != nil {
			t.Fatal(err)
		}
		got, want := q.Result(recording.Now), w.Queue()
		t.Logf("reading %d: %d requests, %d jobs", i, requests, len(got.Jobs))
		if got.Truncated || len(got.Jobs) != len(want) {
			t.Fatalf("reading %d: %d jobs, truncated %t, want %d", i, len(got.Jobs), got.Truncated, len(want))
		}
		for k, j := range got.Jobs {
			if j.ID != want[k].ID || !j.QueuedAt.Equal(want[k].Since) || len(j.Tags) != 1 || j.Tags[0] != want[k].Tags[0] || (j.Unmatched == 0) != want[k].Available {
				t.Errorf("%+v, want %+v", j, want[k])
			}
		}
	}
}
