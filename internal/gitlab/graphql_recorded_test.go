package gitlab_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"testing"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/gitlabsim/graphql/recording"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// recorded answers as graphql-ruby did.
type recorded struct {
	t         *testing.T
	release   string
	exchanges []recording.Exchange
	token     string
	limit     int
	asked     int
}

func (r *recorded) RoundTrip(req *http.Request) (*http.Response, error) {
	var in struct {
		Query     string
		Variables map[string]any
	}
	if err := json.NewDecoder(req.Body).Decode(&in); err != nil {
		return nil, err
	}
	variables, err := json.Marshal(in.Variables)
	if err != nil {
		return nil, err
	}
	r.asked++
	i := slices.IndexFunc(r.exchanges, func(x recording.Exchange) bool {
		return x.Query == in.Query && x.Token == r.token && x.Limit == r.limit && bytes.Equal(x.Variables, variables)
	})
	if i < 0 {
		r.t.Fatalf("not recorded for %s: %s %s: go test -tags ship ./test/e2e -run ShipGraphQLRecordings -update", r.release, in.Query, variables)
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(r.exchanges[i].Answer)), Request: req}, nil
}

// TestRecordedReleasesAreReadWhole: by graphql-ruby's own answers each release is read whole and
// right, in few requests, paused runners among them.
func TestRecordedReleasesAreReadWhole(t *testing.T) {
	const missing = gitlab.FieldExecuting | gitlab.FieldManagers
	for _, c := range []struct {
		release string
		lacks   gitlab.FieldSet
		// queries that the first page of the instance takes, and of a group,
		// learning included
		instance, group int
	}{
		{"15.0.0", missing | gitlab.FieldExecution | gitlab.FieldOwner, 3, 3},
		{"15.9.0", missing, 3, 3},
		{"15.11.0", missing, 3, 3},
		{"16.1.0", gitlab.FieldExecuting | gitlab.FieldMachineExecution, 2, 2},
		{"16.11.0", 0, 2, 2}, // CANCELING is not a status yet
		{"17.0.0", 0, 1, 1},
		{"18.6.0", 0, 1, 1},
		{"19.1.0", 0, 1, 1},
	} {
		t.Run(c.release, func(t *testing.T) {
			exchanges, err := recording.Load(c.release)
			if err != nil {
				t.Fatal(err)
			}
			r := &recorded{t: t, release: c.release, exchanges: exchanges}
			client, err := gitlab.New(gitlab.Options{BaseURL: "https://gitlab.test", HTTPClient: &http.Client{Transport: r}})
			if err != nil {
				t.Fatal(err)
			}
			w := recording.World(c.release)
			truth := map[int64]gitlabsim.RunnerTruth{}
			for _, row := range w.Fleet().Runners {
				truth[row.ID] = row
			}
			team := gitlab.Scope{Kind: snapshot.ScopeGroups, ID: "acme/team"}
			for i, q := range recording.Queries(team) {
				r.token, r.asked = recording.Admin, 0
				if q.Scope == team {
					r.token = recording.Maintainer
				}
				q.Dialect = new(gitlab.GraphQLDialect)
				runners, pages := byGraphQL(t.Context(), t, client, q)
				want := len(truth)
				most := c.instance
				switch i {
				case 1:
					most += 2 // three pages
				case 2:
					want = 1
					most = min(most, 2) // no machines, no paused runner
				case 3:
					most = c.group
					want = 11 // all but the one elsewhere
					if pages[0].Partial {
						want = 3
					}
					if pages[0].Partial != !w.Since(15, 5) {
						t.Errorf("partial: %t", pages[0].Partial)
					}
				}
				if len(distinct(runners)) != want || len(runners) != want || r.asked > most {
					t.Errorf("query %d: %d runners in %d requests, want %d in at most %d", i, len(runners), r.asked, want, most)
				}
				if q.Fields == 0 && q.Dialect.Lacks()&gitlab.FieldsAll != c.lacks {
					t.Errorf("query %d: lacks %s, want %s", i, q.Dialect.Lacks(), c.lacks)
				}
				if q.Fields == 0 && q.Dialect.NoMachines() != (c.lacks&gitlab.FieldManagers != 0) {
					t.Errorf("no machines: %t", q.Dialect.NoMachines())
				}
				for _, got := range runners {
					asTruth(t, got, truth[got.ID], pages[0].Fields)
				}
				if n := r.asked; i == 0 {
					if _, err := client.RunnersGraphQL(t.Context(), q); err != nil || r.asked != n+1 {
						t.Errorf("what was learned is not remembered: %d more requests, %v", r.asked-n, err)
					}
				}
			}

			r.token, r.limit, r.asked = recording.Admin, 80, 0
			if runners, pages := byGraphQL(t.Context(), t, client, gitlab.GraphQLQuery{}); len(runners) != len(truth) || pages[0].Limit != 80 || pages[0].Complexity > 80 {
				t.Errorf("with a lower limit: %d runners, complexity %d of %d", len(runners), pages[0].Complexity, pages[0].Limit)
			}
			r.limit = 0
			r.token = recording.Maintainer
			for id, want := range map[string]gitlab.Reason{"": gitlab.ReasonForbidden, "other": gitlab.ReasonForbidden, "no/where": gitlab.ReasonNotFound} {
				q := gitlab.GraphQLQuery{}
				if id != "" {
					q.Scope = gitlab.Scope{Kind: snapshot.ScopeGroups, ID: id}
				}
				if _, err := client.RunnersGraphQL(t.Context(), q); gitlab.ReasonOf(err) != want || !gitlab.GraphQLRefused(err) {
					t.Errorf("%q: %v, want %s", id, err, want)
				}
			}
		})
	}
}

// asTruth compares a row with the world as it is.
func asTruth(t *testing.T, got gitlab.FleetRunner, want gitlabsim.RunnerTruth, fields gitlab.FieldSet) {
	t.Helper()
	slices.Sort(got.Tags)
	slices.Sort(want.Tags)
	if got.Type != want.Type || got.Status != want.Status || got.Paused == nil || *got.Paused != want.Paused {
		t.Errorf("got %+v, want %+v", got.Runner, want)
	}
	if got.Online != nil && *got.Online != want.Online {
		t.Errorf("runner %d: online %t", got.ID, *got.Online)
	}
	if fields&gitlab.FieldTags != 0 && !slices.Equal(got.Tags, want.Tags) {
		t.Errorf("runner %d: tags %q, want %q", got.ID, got.Tags, want.Tags)
	}
	switch executing := len(want.Executing); {
	case fields&gitlab.FieldExecuting == 0 && got.Executing != -1, fields&gitlab.FieldExecuting != 0 && got.Executing != executing:
		t.Errorf("runner %d executes %d, want %d", got.ID, got.Executing, executing)
	case fields&gitlab.FieldExecution != 0 && (got.Execution == "active") != (executing > 0):
		t.Errorf("runner %d is %s with %d jobs", got.ID, got.Execution, executing)
	}
	if timeout := want.Timeout; fields&gitlab.FieldTimeout != 0 && got.MaximumTimeout != timeout {
		t.Errorf("runner %d: maximum timeout %v, want %v", got.ID, got.MaximumTimeout, timeout)
	}
	executes := 0
	for _, m := range got.Managers {
		if m.Execution != "" && m.Execution != gitlab.ExecutionActive && m.Execution != gitlab.ExecutionIdle || (m.Execution == "") != (fields&gitlab.FieldMachineExecution == 0) {
			t.Errorf("runner %d: machine %+v", got.ID, m)
		}
		if m.Execution == gitlab.ExecutionActive {
			executes++
		}
	}
	if fields&gitlab.FieldMachineExecution != 0 && (executes > 0) != (len(want.Executing) > 0) {
		t.Errorf("runner %d executes %d jobs on %d machines", got.ID, len(want.Executing), executes)
	}
	if fields&gitlab.FieldManagers != 0 && len(got.Managers) != len(want.Managers) || fields&gitlab.FieldManagers == 0 && got.Managers != nil {
		t.Errorf("runner %d: machines %v", got.ID, got.Managers)
	}
}

// TestRecordedQueueIsReadRight: by graphql-ruby's own answers the jobs that wait for a
// runner, who sees them, and the permissions are read right, from 18.1 on.
func TestRecordedQueueIsReadRight(t *testing.T) {
	for _, release := range recording.Releases {
		t.Run(release, func(t *testing.T) {
			exchanges, err := recording.Load(release)
			if err != nil {
				t.Fatal(err)
			}
			r := &recorded{t: t, release: release, exchanges: exchanges}
			client, err := gitlab.New(gitlab.Options{BaseURL: "https://gitlab.test", HTTPClient: &http.Client{Transport: r}})
			if err != nil {
				t.Fatal(err)
			}
			w := recording.World(release)
			for token, caller := range map[string]gitlabsim.Caller{recording.Admin: {Known: true, Admin: true}, recording.Maintainer: {}} {
				r.token = token
				for _, q := range recording.QueueRequests(w) {
					a, err := client.Queue(t.Context(), q)
					if len(q.Pages) > 0 && !w.Since(18, 1) {
						if !errors.Is(err, gitlab.ErrNoQueue) {
							t.Errorf("%v, want %v", err, gitlab.ErrNoQueue)
						}
						continue
					}
					if err != nil {
						t.Fatal(err)
					}
					for _, id := range q.Rights {
						if a.Rights[id] != caller.Admin && w.Fleet().Runners[id-1].Type != "project_type" {
							t.Errorf("%s may change runner %d: %t", token, id, a.Rights[id])
						}
					}
					if caller.Admin {
						asQueue(t, w, caller, q.Pages, a.Pages)
					}
				}
			}
		})
	}
}

func asQueue(t *testing.T, w *gitlabsim.World, caller gitlabsim.Caller, asked []gitlab.QueuePage, got []gitlab.QueueJobs) {
	t.Helper()
	jobs := 0
	for i, p := range asked {
		first := p.First
		if first == 0 {
			first = 100
		}
		after := int64(0)
		if p.After != "" {
			after = 1000020
		}
		want := w.Waiting(caller, p.Runner, after, first)
		if got[i].Err != nil || len(got[i].Jobs) != len(want.Jobs) || !p.Details && got[i].Count != want.Count || first == 100 && got[i].More != want.More {
			t.Fatalf("page %d: %+v, want %+v", i, got[i], want)
		}
		for k, j := range got[i].Jobs {
			jobs++
			if j.ID != want.Jobs[k].ID || j.TagsKnown != p.Details || p.Details && (!slices.Equal(j.Tags, want.Jobs[k].Tags) || !j.QueuedAt.Equal(want.Jobs[k].Since)) {
				t.Errorf("page %d: %+v, want %+v", i, j, want.Jobs[k])
			}
		}
	}
	if len(asked) > 0 && jobs < 10 {
		t.Errorf("only %d jobs in the answers", jobs)
	}
}
