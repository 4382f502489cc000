//go:build ship

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/gitlabsim/graphql/recording"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

var update = flag.Bool("update", false, "write the recordings of graphql-ruby's answers anew")

// ruby is a process that answers GraphQL by the library that GitLab uses, over
// whatever world it is asked about.
type ruby struct {
	mu  sync.Mutex
	in  io.Writer
	out *bufio.Reader
	// kept are the exchanges so far.
	kept  []recording.Exchange
	limit int // of complexity; 0: GitLab's
}

func startRuby(t *testing.T) *ruby {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "ruby", "graphqlruby/server.rb")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: install ruby and ruby-graphql", err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return &ruby{in: in, out: bufio.NewReader(out)}
}

// mount lets it answer GraphQL for a world, whose REST stays as it is.
func (r *ruby) mount(t *testing.T, w *gitlabsim.World) {
	t.Helper()
	w.SetGraphQL(func(rw http.ResponseWriter, req *http.Request, caller gitlabsim.Caller) {
		rw.Header().Set("Content-Type", "application/json; charset=utf-8")
		if !caller.Known {
			rw.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(rw, `{"errors":[{"message":"Invalid token"}]}`)
			return
		}
		token := req.Header.Get("PRIVATE-TOKEN")
		if token == "" {
			token = strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
		}
		x := recording.Exchange{Token: token}
		var in struct {
			Query     string
			Variables json.RawMessage
		}
		err := json.NewDecoder(req.Body).Decode(&in)
		if err == nil {
			x.Query, x.Variables = in.Query, in.Variables
			err = r.answer(w, caller, &x)
		}
		if err != nil {
			t.Error(err)
			rw.WriteHeader(http.StatusInternalServerError)
			return
		}
		_, _ = rw.Write(x.Answer)
	})
}

// asked is what the process reads; see graphqlruby/server.rb.
type asked struct {
	Release string       `json:"release"`
	Caller  rubyCaller   `json:"caller"`
	Paths   []string     `json:"paths"` // of groups that there are
	Runners []rubyRunner `json:"runners"`
	// Queue has the waiting jobs that the caller sees of each runner, by its
	// global id, the newest first; "": all.
	Queue     map[string][]int64    `json:"queue"`
	Waiting   map[int64]rubyWaiting `json:"waiting"`
	Limit     int                   `json:"limit,omitempty"`
	Query     string                `json:"query"`
	Variables json.RawMessage       `json:"variables"`
}

type rubyWaiting struct {
	ID    int64    `json:"id"`
	Tags  []string `json:"tags"`
	Since string   `json:"since"`
}

type rubyCaller struct {
	Admin  bool     `json:"admin"`
	Groups []string `json:"groups"` // whose runners the caller may read
}

type rubyRunner struct {
	ID          int64          `json:"id"`
	Type        string         `json:"type"`
	Description string         `json:"description"`
	Status      string         `json:"status"`
	Paused      bool           `json:"paused"`
	Active      bool           `json:"active"`
	RunUntagged bool           `json:"runUntagged"`
	Locked      bool           `json:"locked"`
	Protected   bool           `json:"protected"`
	Timeout     *int64         `json:"timeout"`
	Created     *string        `json:"created"`
	Contacted   *string        `json:"contacted"`
	Tags        []string       `json:"tags"`
	Group       *string        `json:"group"`
	Project     *string        `json:"project"`
	Jobs        map[string]int `json:"jobs"` // by status
	Managers    []rubyManager  `json:"managers"`
	May         bool           `json:"may"`  // the caller may change it
	Seen        bool           `json:"seen"` // the caller may look it up
}

type rubyManager struct {
	ID        int64   `json:"id"`
	SystemID  string  `json:"systemId"`
	Version   string  `json:"version"`
	Revision  string  `json:"revision"`
	Platform  string  `json:"platform"`
	Arch      string  `json:"architecture"`
	IP        string  `json:"ip"`
	Status    string  `json:"status"`
	Active    bool    `json:"active"`
	Created   *string `json:"created"`
	Contacted *string `json:"contacted"`
}

func orNil[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func stamp(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	return new(t.Format(time.RFC3339Nano))
}

// answer asks the process about the world as it is now.
func (r *ruby) answer(w *gitlabsim.World, caller gitlabsim.Caller, x *recording.Exchange) error {
	views, _, _, err := w.Views(gitlabsim.Caller{Known: true, Admin: true}, gitlabsim.ViewQuery{First: 1 << 20})
	if err != nil {
		return err
	}
	a := asked{
		Release: w.Version(), Caller: rubyCaller{Admin: caller.Admin, Groups: []string{}}, Paths: []string{}, Runners: []rubyRunner{},
		Query: x.Query, Variables: x.Variables, Queue: map[string][]int64{}, Waiting: map[int64]rubyWaiting{},
	}
	queue := func(gid string, runner int64) {
		for _, j := range w.Waiting(caller, runner, 0, 1<<20).Jobs {
			a.Queue[gid] = append(a.Queue[gid], j.ID)
			a.Waiting[j.ID] = rubyWaiting{j.ID, append([]string{}, j.Tags...), *stamp(j.Since)}
		}
	}
	queue("", 0)
	for _, v := range views {
		row := rubyRunner{
			ID: v.ID, Type: v.Type, Description: v.Description, Status: v.Status, Paused: v.Paused, Active: v.Active,
			RunUntagged: v.RunUntagged, Locked: v.Locked, Protected: v.Protected, Timeout: orNil(v.Timeout),
			Created: stamp(v.Created), Contacted: stamp(v.Contacted), Tags: append([]string{}, v.Tags...),
			Group: orNil(v.Group), Project: orNil(v.OwnerProject), Jobs: map[string]int{}, Managers: []rubyManager{},
		}
		for _, status := range []string{"running", "canceling", "success", "failed", "canceled"} {
			row.Jobs[status] = w.JobCount(v.ID, []string{status}, 2000)
		}
		for _, m := range v.Managers {
			row.Managers = append(row.Managers, rubyManager{
				ID: m.ID, SystemID: m.SystemID, Version: m.Version, Revision: m.Revision, Platform: m.Platform, Arch: m.Arch, IP: m.IP,
				Status: m.Status, Active: m.Active, Created: stamp(m.Created), Contacted: stamp(m.Contacted),
			})
		}
		row.May, row.Seen = w.MayUpdate(caller, v.ID)
		queue("gid://gitlab/Ci::Runner/"+strconv.FormatInt(v.ID, 10), v.ID)
		a.Runners = append(a.Runners, row)
	}
	var vars struct{ Path string }
	_ = json.Unmarshal(x.Variables, &vars)
	if vars.Path != "" {
		_, _, _, err := w.Views(caller, gitlabsim.ViewQuery{Group: vars.Path})
		if !errors.Is(err, gitlabsim.ErrNotVisible) {
			a.Paths = append(a.Paths, vars.Path)
		}
		if err == nil {
			a.Caller.Groups = append(a.Caller.Groups, vars.Path)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	a.Limit, x.Limit = r.limit, r.limit
	if err := json.NewEncoder(r.in).Encode(a); err != nil {
		return err
	}
	line, err := r.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("ruby: %w", err)
	}
	x.Answer = bytes.TrimSpace(line)
	r.kept = append(r.kept, *x)
	return nil
}

func (r *ruby) setLimit(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limit = n
}

// take returns the exchanges since the last call.
func (r *ruby) take() []recording.Exchange {
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := r.kept
	r.kept = nil
	return kept
}

// TestShipGraphQLRecordingsAreWhatGraphQLRubyAnswers: what graphql-ruby answers to this client's queries,
// and to some others, is what `make test` holds the client and the simulator to.
func TestShipGraphQLRecordingsAreWhatGraphQLRubyAnswers(t *testing.T) {
	r := startRuby(t)
	for _, release := range recording.Releases {
		t.Run(release, func(t *testing.T) {
			w := recording.World(release)
			r.mount(t, w)
			r.take()
			client := func(token string) *gitlab.Client {
				c, err := gitlab.New(gitlab.Options{BaseURL: "https://gitlab.test", HTTPClient: &http.Client{Transport: withToken{token, w.RoundTripper()}}})
				if err != nil {
					t.Fatal(err)
				}
				return c
			}
			read := func(token string, q gitlab.GraphQLQuery) error {
				q.Dialect = new(gitlab.GraphQLDialect)
				for {
					p, err := client(token).RunnersGraphQL(t.Context(), q)
					if err != nil || p.Next == "" {
						return err
					}
					q.After = p.Next
				}
			}
			team := gitlab.Scope{Kind: snapshot.ScopeGroups, ID: "acme/team"}
			for _, q := range recording.Queries(team) {
				token := recording.Admin
				if q.Scope == team {
					token = recording.Maintainer
				}
				if err := read(token, q); err != nil {
					t.Error(err)
				}
			}
			r.setLimit(80) // smaller pages, in the library's words
			if err := read(recording.Admin, gitlab.GraphQLQuery{}); err != nil {
				t.Error(err)
			}
			r.setLimit(0)
			for _, token := range []string{recording.Admin, recording.Maintainer} {
				for _, q := range recording.QueueRequests(w) {
					_, err := client(token).Queue(t.Context(), q)
					if old := len(q.Pages) > 0 && !w.Since(18, 1); errors.Is(err, gitlab.ErrNoQueue) != old || !old && err != nil {
						t.Errorf("%+v: %v", q, err)
					}
				}
			}
			for _, c := range []struct {
				q    gitlab.GraphQLQuery
				want gitlab.Reason
			}{
				{gitlab.GraphQLQuery{}, gitlab.ReasonForbidden},
				{gitlab.GraphQLQuery{Scope: gitlab.Scope{Kind: snapshot.ScopeGroups, ID: "other"}}, gitlab.ReasonForbidden},
				{gitlab.GraphQLQuery{Scope: gitlab.Scope{Kind: snapshot.ScopeGroups, ID: "no/where"}}, gitlab.ReasonNotFound},
			} {
				if err := read(recording.Maintainer, c.q); gitlab.ReasonOf(err) != c.want {
					t.Errorf("%+v: %v, want %s", c.q.Scope, err, c.want)
				}
			}
			for _, document := range recording.Probes {
				body, _ := json.Marshal(map[string]any{"query": document, "variables": map[string]any{}})
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://gitlab.test/api/graphql", bytes.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				resp, err := withToken{recording.Admin, w.RoundTripper()}.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
			}
			got := r.take()
			if len(got) < 8 {
				t.Fatalf("%d exchanges", len(got))
			}
			// One exchange a line, so that a change shows as what it is.
			var lines []string
			for _, x := range got {
				b, err := json.Marshal(x)
				if err != nil {
					t.Fatal(err)
				}
				lines = append(lines, string(b))
			}
			text := []byte("[\n" + strings.Join(lines, ",\n") + "\n]\n")
			path := filepath.Join("..", "..", "internal", "gitlabsim", "graphql", "recording", "testdata", release+".json")
			if *update {
				if err := os.WriteFile(path, text, 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			kept, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(kept, text) {
				t.Errorf("%s is not what graphql-ruby answers now: go test -tags ship ./test/e2e -run ShipGraphQLRecordings -update", path)
			}
		})
	}
}

type withToken struct {
	token string
	next  http.RoundTripper
}

func (w withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("PRIVATE-TOKEN", w.token)
	r.Header.Set("Content-Type", "application/json")
	return w.next.RoundTrip(r)
}

// TestShipGraphQLShowsTheFleetOfEachRelease: the real program with api: graphql is right about
// the fleet of each release, paused runners included, and asks REST for nothing
// that the release's GraphQL gives.
func TestShipGraphQLShowsTheFleetOfEachRelease(t *testing.T) {
	r := startRuby(t)
	for _, release := range recording.Releases {
		for _, scope := range []string{"instance", "groups"} {
			t.Run(release+" "+scope, func(t *testing.T) {
				w := gitlabsim.New(gitlabsim.Options{Seed: 5, Version: release, Runners: 130, Tags: 12, Token: token, JobsPerHour: 600, History: 30 * time.Minute})
				group := w.AddGroup("tree", 0)
				sub := w.AddGroup("branch", group)
				project := w.AddProject("leaf", sub)
				for _, s := range []gitlabsim.RunnerSpec{{Group: group}, {Group: sub}, {Projects: []int64{project}}, {Group: sub, Managers: -1}} {
					for _, paused := range []bool{false, true} {
						s.Paused, s.Tags = paused, []string{"tree"}
						if w.AddRunner(s) == 0 {
							t.Fatal("no runner")
						}
					}
				}
				r.mount(t, w)
				srv := httptest.NewServer(w.Handler())
				t.Cleanup(srv.Close)
				p := launch(t, "--config.file="+configureGraphQL(t, srv.URL, scope), "--storage.path="+t.TempDir())
				want := wanted(w, scope == "groups")
				t.Cleanup(func() { t.Logf("requests: %v", w.Requests()) })
				var got map[string]float64
				deadline := time.Now().Add(time.Minute)
				for time.Now().Before(deadline) {
					if got = fleetOf(p.scrape()); same(got, want) {
						break
					}
					time.Sleep(100 * time.Millisecond)
				}
				if !same(got, want) {
					t.Fatalf("got %v\nwant %v\n%s", got, want, p.Log())
				}
				requests := w.Requests()
				// To 15.4 a group's GraphQL does not show the instance's runners.
				whole := scope == "instance" || w.Since(15, 5)
				for route, n := range requests {
					if n > 0 && whole && (route == "GET /runners/:id" || route == "GET /runners/:id/managers" || route == "GET /groups/:id/runners") {
						t.Errorf("%d times %s, which GraphQL of this release makes needless", n, route)
					}
				}
			})
		}
	}
}

func configureGraphQL(t *testing.T, url, scope string) string {
	t.Helper()
	dir := t.TempDir()
	groups := ""
	if scope == "groups" {
		groups = ", groups: [tree]"
	}
	// On a busy machine a listing may take seconds: details that come due
	// meanwhile would be read by REST.
	text := "poll: {runners_interval: 1s, details_interval: 10m, jobs_interval: 1s, reconcile_interval: 5s, lookback: 1h, max_requests_per_second: 0}\n" +
		fmt.Sprintf("gitlabs:\n  - {name: g0, api: graphql, scope: %s%s, url: %q, authorization: {credentials_file: token}}\n", scope, groups, url)
	path := filepath.Join(dir, "config.yml")
	for name, content := range map[string]string{path: text, filepath.Join(dir, "token"): token} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// wanted are the runners by tag, status and paused, as the world has them.
func wanted(w *gitlabsim.World, tree bool) map[string]float64 {
	out := map[string]float64{}
	for _, r := range w.Fleet().Runners {
		of := slices.Contains(r.Tags, "tree")
		if tree && !of && r.Type != "instance_type" {
			continue
		}
		for _, tag := range append(slices.Clone(r.Tags), "") {
			if tag == "" && !r.RunUntagged {
				continue
			}
			if tag == "" {
				tag = "(untagged)"
			}
			out[tag+" "+r.Status+" "+strconv.FormatBool(r.Paused)]++
		}
	}
	return out
}

// fleetOf is the same as the program shows it.
func fleetOf(series map[string]float64) map[string]float64 {
	out := map[string]float64{}
	for s, v := range series {
		if l := labels(s); v > 0 && strings.HasPrefix(s, "gitlab_runner_fleet_tag_runners{") {
			out[l["tag"]+" "+l["status"]+" "+l["paused"]] += v
		}
	}
	return out
}

func same(a, b map[string]float64) bool {
	if len(a) != len(b) || len(a) == 0 {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}
