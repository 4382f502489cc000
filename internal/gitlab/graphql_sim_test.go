package gitlab_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/gitlabsim/graphql"
	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

const simToken = "exporter-token"

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// sim is a simulated GitLab whose clock stands still, and a client on it.
type sim struct {
	world  *gitlabsim.World
	ql     *graphql.Server
	client *gitlab.Client
	bytes  atomic.Int64 // of the answers
}

type wire struct {
	s     *sim
	token string
	next  http.RoundTripper
}

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("PRIVATE-TOKEN", w.token)
	res, err := w.next.RoundTrip(r)
	if err == nil {
		w.s.bytes.Add(res.ContentLength)
	}
	return res, err
}

func newSim(tb testing.TB, o gitlabsim.Options) *sim {
	tb.Helper()
	o.Now = func() time.Time { return noon }
	o.Token = simToken
	s := &sim{world: gitlabsim.New(o)}
	var err error
	if s.ql, err = graphql.Mount(s.world); err != nil {
		tb.Fatal(err)
	}
	s.client = s.as(tb, simToken)
	return s
}

func (s *sim) as(tb testing.TB, token string) *gitlab.Client {
	tb.Helper()
	c, err := gitlab.New(gitlab.Options{
		BaseURL: "https://gitlab.test", HTTPClient: &http.Client{Transport: wire{s, token, s.world.RoundTripper()}},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// byGraphQL reads all pages.
func byGraphQL(ctx context.Context, tb testing.TB, c *gitlab.Client, q gitlab.GraphQLQuery) (runners []gitlab.FleetRunner, pages []gitlab.GraphQLPage) {
	tb.Helper()
	if q.Dialect == nil {
		q.Dialect = new(gitlab.GraphQLDialect)
	}
	for {
		p, err := c.RunnersGraphQL(ctx, q)
		if err != nil {
			tb.Fatal(err)
		}
		runners = append(runners, p.Runners...)
		pages = append(pages, p)
		if p.Next == "" {
			return runners, pages
		}
		q.After = p.Next
	}
}

func byREST(ctx context.Context, tb testing.TB, c *gitlab.Client, scope gitlab.Scope) (runners []gitlab.Runner) {
	tb.Helper()
	for page := 1; page != 0; {
		p, err := c.Runners(ctx, scope, page)
		if err != nil {
			tb.Fatal(err)
		}
		runners = append(runners, p.Runners...)
		page = p.Next
	}
	return runners
}

func newInventory() *inventory.Inventory {
	return inventory.New(inventory.Options{RunnersEnabled: true, TagLimit: 500, TagRetention: time.Hour})
}

// TestRESTAndGraphQLReturnTheSameFleet: REST and GraphQL return the same fleet of the same world, on
// releases that know all, some and little of what is asked.
func TestRESTAndGraphQLReturnTheSameFleet(t *testing.T) {
	for _, c := range []struct {
		version             string
		managers, executing bool // in this release's GraphQL
		requests            int  // that three pages take, learning included
	}{
		{"15.11.0", false, false, 5}, // what it lacks, and that status must be asked with legacyMode
		{"17.0.0-ee", true, true, 3}, // RUNNING, not ACTIVE
		{"17.8.0-ee", true, true, 3},
		{"19.1.0-ee", true, true, 3},
	} {
		t.Run(c.version, func(t *testing.T) {
			s := newSim(t, gitlabsim.Options{
				Seed: 7, Version: c.version, Runners: 250, Tags: 30, JobsPerHour: 3000, History: 2 * time.Hour,
				Shape: gitlabsim.JobShape{CanceledShare: 0.3, CancelingLength: 10 * time.Minute},
			})
			executing := map[int64]int{}
			details, machines := map[int64]gitlab.RunnerDetails{}, map[int64][]gitlab.Manager{}
			rest := newInventory()
			list := byREST(t.Context(), t, s.client, gitlab.Scope{})
			rest.List(inventory.Listing{Rows: list, Whole: true, Start: noon})
			for _, r := range list {
				d, err := s.client.Runner(t.Context(), r.ID, false)
				if err != nil {
					t.Fatal(err)
				}
				m, err := s.client.Managers(t.Context(), r.ID)
				if err != nil && gitlab.ReasonOf(err) != gitlab.ReasonNotFound {
					t.Fatal(err)
				}
				rest.Details(r.ID, d, m, noon)
				details[r.ID], machines[r.ID] = d, m
				for _, status := range []string{"running", "canceling"} {
					p, err := s.client.RunnerJobs(t.Context(), gitlab.JobsQuery{RunnerID: r.ID, Status: status})
					if err != nil {
						t.Fatal(err)
					}
					executing[r.ID] += len(p.Jobs)
				}
			}
			restRequests := len(s.world.Log())

			dialect := new(gitlab.GraphQLDialect)
			runners, pages := byGraphQL(t.Context(), t, s.client, gitlab.GraphQLQuery{Dialect: dialect})
			requests := len(s.world.Log()) - restRequests
			ql := newInventory()
			var rows []gitlab.Runner
			for _, r := range runners {
				rows = append(rows, r.Runner)
			}
			ql.List(inventory.Listing{Rows: rows, Whole: true, Start: noon})
			total := 0
			for _, r := range runners {
				ql.Details(r.ID, r.RunnerDetails, r.Managers, noon)
				sameMachines(t, r, details[r.ID], machines[r.ID])
				if r.Managers == nil == c.managers {
					t.Errorf("runner %d: machines %v", r.ID, r.Managers)
				}
				want := -1
				if c.executing {
					want = executing[r.ID]
				}
				if r.Executing != want {
					t.Errorf("runner %d executes %d jobs, want %d", r.ID, r.Executing, want)
				}
				if active := r.Execution == "active"; active != (executing[r.ID] > 0) {
					t.Errorf("runner %d is %s with %d jobs", r.ID, r.Execution, executing[r.ID])
				}
				total += executing[r.ID]
			}
			jobs := func(id int64) inventory.Jobs { return inventory.Jobs{Running: executing[id], ReadAt: noon} }
			got, want := ql.Fleet(jobs, true), rest.Fleet(jobs, true)
			for i := range want.Rows {
				// GraphQL writes whole seconds.
				want.Rows[i].ContactedAt = want.Rows[i].ContactedAt.Truncate(time.Second)
			}
			if !reflect.DeepEqual(got, want) {
				a, _ := json.MarshalIndent(got, "", " ")
				b, _ := json.MarshalIndent(want, "", " ")
				t.Errorf("GraphQL and REST differ:\n%s", firstDifference(string(a), string(b)))
			}
			if statuses := got.Runners; total == 0 || statuses[snapshot.InstanceType][snapshot.Offline][0] == 0 || got.Detailed != want.Detailed {
				t.Errorf("a dull world: %d jobs, %v", total, statuses)
			}
			if requests != c.requests {
				t.Errorf("%d requests by GraphQL, want %d (REST: %d)", requests, c.requests, restRequests)
			}
			for _, p := range pages {
				if p.Complexity == 0 || p.Complexity >= 250 || p.Limit != 300 {
					t.Errorf("complexity %d of %d", p.Complexity, p.Limit)
				}
			}
			for _, q := range s.ql.Queries() {
				if q.Method != http.MethodPost || q.Score == 0 && c.requests == 3 || q.Operation != "query" || strings.Contains(q.Document, "mutation") {
					t.Errorf("sent %+v", q)
				}
			}
		})
	}
}

// sameMachines compares what health needs of a runner: how long its jobs may
// take, and which of its machines execute.
func sameMachines(t *testing.T, got gitlab.FleetRunner, d gitlab.RunnerDetails, machines []gitlab.Manager) {
	t.Helper()
	if got.MaximumTimeout != d.MaximumTimeout {
		t.Errorf("runner %d: maximum timeout %v, by REST %v", got.ID, got.MaximumTimeout, d.MaximumTimeout)
	}
	if got.Managers == nil {
		return // a release that does not show them
	}
	executing := false
	for i, m := range got.Managers {
		executing = executing || m.Execution == gitlab.ExecutionActive
		if by := machines[i].Execution; m.Execution == "" || by != "" && m.Execution != by { // in REST since 18.0
			t.Errorf("runner %d: machine %d is %q, by REST %q", got.ID, m.ID, m.Execution, by)
		}
	}
	if executing != (got.Execution == gitlab.ExecutionActive) {
		t.Errorf("runner %d is %s, its machines are %+v", got.ID, got.Execution, got.Managers)
	}
}

func firstDifference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf("line %d: %s\n%s", i, strings.Join(x[max(0, i-5):i+1], "\n"), y[i])
		}
	}
	return "length"
}

// TestDialectIsLearnedInOneMoreRequest: what each release lacks is learned in one more request,
// remembered, and forgotten by Reset.
func TestDialectIsLearnedInOneMoreRequest(t *testing.T) {
	for _, c := range []struct {
		version string
		lacks   gitlab.FieldSet
		first   int // requests of the first page
	}{
		{"15.0.0", gitlab.FieldExecution | gitlab.FieldOwner | gitlab.FieldManagers | gitlab.FieldExecuting, 3},
		{"15.7.0", gitlab.FieldManagers | gitlab.FieldExecuting, 3},
		{"16.0.0", gitlab.FieldExecuting | gitlab.FieldMachineExecution, 2},
		{"16.2.0", gitlab.FieldMachineExecution, 2}, // CANCELING is not a status yet
		{"16.3.0", 0, 2},
		{"17.0.0", 0, 1},
		{"18.0.0", 0, 1},
	} {
		t.Run(c.version, func(t *testing.T) {
			s := newSim(t, gitlabsim.Options{Version: c.version, Runners: 150})
			d := new(gitlab.GraphQLDialect)
			q := gitlab.GraphQLQuery{Dialect: d}
			before := 0
			sent := func() int {
				n := len(s.ql.Queries()) - before
				before += n
				return n
			}
			p, err := s.client.RunnersGraphQL(t.Context(), q)
			want := gitlab.FieldsAll &^ c.lacks
			if want&gitlab.FieldManagers == 0 {
				want &^= gitlab.FieldMachineExecution
			}
			if err != nil || len(p.Runners) != 100 || p.Fields&gitlab.FieldsAll != want {
				t.Fatalf("%d runners, fields %b, %v", len(p.Runners), p.Fields, err)
			}
			if lacks := d.Lacks() & gitlab.FieldsAll; lacks != c.lacks {
				t.Errorf("lacks %b, want %b", lacks, c.lacks)
			}
			if n := sent(); n > c.first {
				t.Errorf("%d requests for the first page", n)
			}
			if c.lacks&gitlab.FieldManagers != 0 {
				if p.Fields&gitlab.FieldMachine == 0 || p.Runners[0].Version == "" || p.Runners[0].Platform == "" {
					t.Errorf("without machines the runner's own version: %+v", p.Runners[0])
				}
			}
			q.After = p.Next
			if p, err := s.client.RunnersGraphQL(t.Context(), q); err != nil || len(p.Runners) != 50 || p.Next != "" || sent() != 1 {
				t.Errorf("the second page: %d runners, next %q, %v", len(p.Runners), p.Next, err)
			}
			d.Reset()
			if d.Lacks() != 0 {
				t.Error("Reset forgets nothing")
			}
		})
	}
}

// TestLegacyStatusWordIsRead: not_connected, before 15.0.
func TestLegacyStatusWordIsRead(t *testing.T) {
	s := newSim(t, gitlabsim.Options{Version: "14.7.0"})
	s.world.AddRunner(gitlabsim.RunnerSpec{Managers: -1})
	paused := s.world.AddRunner(gitlabsim.RunnerSpec{Paused: true})
	runners, _ := byGraphQL(t.Context(), t, s.client, gitlab.GraphQLQuery{})
	for _, r := range runners {
		if r.ID == paused {
			if r.Status != "online" || r.Active == nil || *r.Active || r.Paused != nil {
				t.Errorf("%+v", r.Runner)
			}
			continue
		}
		if r.Status != "not_connected" || r.Online != nil {
			t.Errorf("%+v", r.Runner)
		}
	}
	if len(runners) != 2 {
		t.Errorf("%d runners", len(runners))
	}
}

// TestTooComplexPageIsMadeSmaller: a lower limit makes smaller pages, then pages without
// machines, and each runner is still read once.
func TestTooComplexPageIsMadeSmaller(t *testing.T) {
	for _, c := range []struct {
		limit    int
		managers bool
		pages    int
	}{
		{300, true, 3}, {80, true, 5}, {60, true, 10}, {55, true, 21}, {35, false, 10},
	} {
		s := newSim(t, gitlabsim.Options{Runners: 250, Seed: 1})
		s.ql.SetLimit(c.limit)
		runners, pages := byGraphQL(t.Context(), t, s.client, gitlab.GraphQLQuery{})
		if len(runners) != 250 || len(distinct(runners)) != 250 {
			t.Errorf("limit %d: %d runners, %d of them different", c.limit, len(runners), len(distinct(runners)))
		}
		for _, p := range pages {
			if p.Complexity > c.limit || p.Limit != c.limit || (p.Fields&gitlab.FieldManagers != 0) != c.managers {
				t.Errorf("limit %d: complexity %d, fields %b", c.limit, p.Complexity, p.Fields)
			}
		}
		if len(pages) < c.pages/2 || len(pages) > 25 {
			t.Errorf("limit %d: %d pages", c.limit, len(pages))
		}
	}
	s := newSim(t, gitlabsim.Options{Runners: 20})
	s.ql.SetLimit(10)
	_, err := s.client.RunnersGraphQL(t.Context(), gitlab.GraphQLQuery{})
	if gitlab.ReasonOf(err) != gitlab.ReasonBadRequest || !gitlab.GraphQLRefused(err) || !strings.Contains(err.Error(), "exceeds max complexity of 10") {
		t.Error(err)
	}
}

func distinct(runners []gitlab.FleetRunner) map[int64]bool {
	ids := map[int64]bool{}
	for _, r := range runners {
		ids[r.ID] = true
	}
	return ids
}

// TestTooSlowPageIsReadInParts: a page that takes GitLab too long is asked for in parts, and
// the part that worked is asked for from then on.
func TestTooSlowPageIsReadInParts(t *testing.T) {
	for name, fault := range map[string]graphql.Fault{
		"inside 200":         {Errors: []graphql.Error{{Message: "Timeout on CiRunner.managers", Path: []any{"runners", "nodes", 3, "managers"}}}, Data: true},
		"without data":       {Errors: []graphql.Error{{Message: "Timeout on Query.runners"}}},
		"the database":       {Status: 503, Errors: []graphql.Error{{Message: "Request timed out. Please try a less complex query or a smaller set of records."}}},
		"the proxy in front": {Status: 504, Raw: "<html><title>504 Gateway Time-out</title></html>"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, gitlabsim.Options{Runners: 120})
			s.ql.SetFault(func(q graphql.Query) *graphql.Fault {
				if q.First > 30 {
					return &fault
				}
				return nil
			})
			d := new(gitlab.GraphQLDialect)
			runners, pages := byGraphQL(t.Context(), t, s.client, gitlab.GraphQLQuery{Dialect: d})
			if len(runners) != 120 || len(distinct(runners)) != 120 || len(pages) != 5 || d.Lacks() != 0 {
				t.Errorf("%d runners on %d pages, lacks %b", len(runners), len(pages), d.Lacks())
			}
			if n := len(s.ql.Queries()); n != 7 { // 100 and 50 in vain
				t.Errorf("%d queries", n)
			}
			s.ql.SetFault(func(graphql.Query) *graphql.Fault { return &fault })
			before := len(s.ql.Queries())
			_, err := s.client.RunnersGraphQL(t.Context(), gitlab.GraphQLQuery{Dialect: d})
			if n := len(s.ql.Queries()) - before; n != 3 { // 25, 12, 10
				t.Errorf("%d queries", n)
			}
			if reason := gitlab.ReasonOf(err); reason != gitlab.ReasonTimeout && reason != gitlab.ReasonServerError || !gitlab.GraphQLRefused(err) {
				t.Error(err)
			}
		})
	}
}

// TestGroupHasTheRunnersOfItsTree: GraphQL shows the subgroups' and projects' runners that REST
// leaves out, beside all that REST shows.
func TestGroupHasTheRunnersOfItsTree(t *testing.T) {
	build := func(version string) (s *sim, top int64, all, below []int64) {
		s = newSim(t, gitlabsim.Options{Version: version})
		top = s.world.AddGroup("top", 0)
		mid := s.world.AddGroup("mid", top)
		sub := s.world.AddGroup("sub", mid)
		prj := s.world.AddProject("app", sub)
		elsewhere := s.world.AddGroup("elsewhere", 0)
		instance := s.world.AddRunner(gitlabsim.RunnerSpec{})
		above := s.world.AddRunner(gitlabsim.RunnerSpec{Group: top})
		own := s.world.AddRunner(gitlabsim.RunnerSpec{Group: mid})
		ofSub := s.world.AddRunner(gitlabsim.RunnerSpec{Group: sub})
		ofProject := s.world.AddRunner(gitlabsim.RunnerSpec{Projects: []int64{prj}})
		s.world.AddRunner(gitlabsim.RunnerSpec{Group: elsewhere})
		s.world.AddToken(gitlabsim.TokenSpec{Token: "maintainer", Scopes: []string{"read_api"}, Groups: []int64{mid}})
		return s, mid, []int64{instance, above, own, ofSub, ofProject}, []int64{own, ofSub, ofProject}
	}
	ids := func(runners []gitlab.FleetRunner) []int64 {
		var l []int64
		for id := range distinct(runners) {
			l = append(l, id)
		}
		slices.Sort(l)
		return l
	}
	denied := graphql.Fault{Errors: []graphql.Error{{
		Message: "The resource that you are attempting to access does not exist or you don't have permission to perform this action",
		Path:    []any{"group", "runners"},
	}}}
	for _, c := range []struct {
		name    string
		version string
		fault   func(graphql.Query) *graphql.Fault
		partial bool
	}{
		{"newest", "19.1.0", nil, false},
		{"before the membership", "15.4.0", nil, true},
		{"membership behind a flag that is off", "15.11.0", func(q graphql.Query) *graphql.Fault {
			if strings.Contains(q.Document, "ALL_AVAILABLE") && q.Score > 0 {
				return &graphql.Fault{Status: 200, Raw: `{"data":{"queryComplexity":{"score":9,"limit":250},"group":{"runners":{"pageInfo":{"hasNextPage":false},"nodes":[]}}}}`}
			}
			return nil
		}, true},
		{"membership not for this user", "19.1.0", func(q graphql.Query) *graphql.Fault {
			if strings.Contains(q.Document, "ALL_AVAILABLE") {
				return &denied
			}
			return nil
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, mid, all, below := build(c.version)
			s.ql.SetFault(c.fault)
			client := s.as(t, "maintainer")
			path, err := client.Group(t.Context(), strconv.FormatInt(mid, 10))
			if err != nil || path != "top/mid" {
				t.Fatal(path, err)
			}
			if again, err := client.Group(t.Context(), path); err != nil || again != path {
				t.Error(again, err)
			}
			d := new(gitlab.GraphQLDialect)
			q := gitlab.GraphQLQuery{Scope: gitlab.Scope{Kind: snapshot.ScopeGroups, ID: path}, Dialect: d}
			runners, pages := byGraphQL(t.Context(), t, client, q)
			want := all
			if c.partial {
				want = below
			}
			if got := ids(runners); !slices.Equal(got, want) || pages[0].Partial != c.partial || pages[0].Complexity == 0 {
				t.Errorf("got %v, want %v: %+v", got, want, pages[0])
			}
			for _, r := range runners {
				if r.Owner != map[int64]string{all[1]: "top", all[2]: "top/mid", all[3]: "top/mid/sub", all[4]: "top/mid/sub/app"}[r.ID] {
					t.Errorf("runner %d is owned by %q", r.ID, r.Owner)
				}
			}
			// Merged with REST's list nothing is missing, whatever was refused.
			for _, r := range byREST(t.Context(), t, client, q.Scope) {
				runners = append(runners, gitlab.FleetRunner{RunnerDetails: gitlab.RunnerDetails{Runner: r}})
			}
			if got := ids(runners); !slices.Equal(got, all) {
				t.Errorf("with REST's: %v, want %v", got, all)
			}
			before := len(s.ql.Queries())
			if _, err := client.RunnersGraphQL(t.Context(), q); err != nil || len(s.ql.Queries()) != before+1 {
				t.Errorf("not remembered: %d queries, %v", len(s.ql.Queries())-before, err)
			}
		})
	}
	t.Run("not theirs", func(t *testing.T) {
		s, _, _, _ := build("19.1.0")
		client := s.as(t, "maintainer")
		for path, want := range map[string]gitlab.Reason{
			"elsewhere": gitlab.ReasonForbidden, "no/where": gitlab.ReasonNotFound, `x") { id } }`: gitlab.ReasonNotFound,
		} {
			_, err := client.RunnersGraphQL(t.Context(), gitlab.GraphQLQuery{Scope: gitlab.Scope{Kind: snapshot.ScopeGroups, ID: path}})
			if gitlab.ReasonOf(err) != want || !gitlab.GraphQLRefused(err) {
				t.Errorf("%s: %v", path, err)
			}
		}
		if _, err := client.Group(t.Context(), "no/where"); gitlab.ReasonOf(err) != gitlab.ReasonNotFound {
			t.Error(err)
		}
	})
}

// TestInstanceIsForAdministratorsOnly: the instance is for administrators, and a token that GraphQL does
// not open answers 401.
func TestInstanceIsForAdministratorsOnly(t *testing.T) {
	s := newSim(t, gitlabsim.Options{Runners: 5})
	s.world.AddToken(gitlabsim.TokenSpec{Token: "user", Scopes: []string{"read_api"}})
	s.world.AddToken(gitlabsim.TokenSpec{Token: "auditor", Scopes: []string{"read_api"}, Auditor: true})
	s.world.AddToken(gitlabsim.TokenSpec{Token: "narrow", Scopes: []string{"manage_runner"}, Admin: true})
	for token, want := range map[string]gitlab.Reason{
		simToken: "", "auditor": gitlab.ReasonForbidden, "user": gitlab.ReasonForbidden, "narrow": gitlab.ReasonUnauthorized, "wrong": gitlab.ReasonUnauthorized,
	} {
		_, err := s.as(t, token).RunnersGraphQL(t.Context(), gitlab.GraphQLQuery{})
		if gitlab.ReasonOf(err) != want || gitlab.GraphQLRefused(err) != (want == gitlab.ReasonForbidden) {
			t.Errorf("%s: %v", token, err)
		}
		if want == gitlab.ReasonUnauthorized && err.Error() != "query /graphql: unauthorized (HTTP 401): Invalid token [request "+err.(*gitlab.Error).RequestID+"]" { //nolint:errorlint // it is one
			t.Error(err)
		}
	}
	s.world.SetGraphQL(nil)
	_, err := s.client.RunnersGraphQL(t.Context(), gitlab.GraphQLQuery{})
	if gitlab.ReasonOf(err) != gitlab.ReasonNotFound && gitlab.ReasonOf(err) != gitlab.ReasonBadRequest || !gitlab.GraphQLRefused(err) {
		t.Error(err)
	}
}

// TestTypesAreReadInParallel, over one dialect that was not known before.
func TestTypesAreReadInParallel(t *testing.T) {
	s := newSim(t, gitlabsim.Options{Runners: 300, Version: "15.6.0"})
	d := new(gitlab.GraphQLDialect)
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		ids = map[int64]bool{}
	)
	for _, typ := range []string{"instance_type", "group_type", "project_type"} {
		wg.Go(func() {
			runners, _ := byGraphQL(t.Context(), t, s.client, gitlab.GraphQLQuery{Type: typ, Dialect: d, First: 40, Fields: gitlab.FieldsListing})
			mu.Lock()
			defer mu.Unlock()
			for _, r := range runners {
				if r.Type != typ || ids[r.ID] || r.Tags != nil || r.Managers != nil {
					t.Errorf("%+v among %s", r, typ)
				}
				ids[r.ID] = true
			}
		})
	}
	wg.Wait()
	if len(ids) != 300 {
		t.Errorf("%d runners", len(ids))
	}
}

// TestManyMachinesAreNotReportedInPart: more than a page of them is not reported in part.
func TestManyMachinesAreNotReportedInPart(t *testing.T) {
	s := newSim(t, gitlabsim.Options{})
	many := s.world.AddRunner(gitlabsim.RunnerSpec{Managers: 101, Version: "18.3.0"})
	most := s.world.AddRunner(gitlabsim.RunnerSpec{Managers: 100})
	none := s.world.AddRunner(gitlabsim.RunnerSpec{Managers: -1})
	runners, _ := byGraphQL(t.Context(), t, s.client, gitlab.GraphQLQuery{})
	for _, r := range runners {
		switch r.ID {
		case many:
			if !r.ManagersCut || r.Managers != nil || r.Version != "18.3.0" {
				t.Errorf("101 machines: cut %t, %d, version %q", r.ManagersCut, len(r.Managers), r.Version)
			}
		case most:
			rest, err := s.client.Managers(t.Context(), most)
			if err != nil || len(rest) != 100 || len(r.Managers) != 100 || r.ManagersCut {
				t.Fatalf("100 machines: %d, by REST %d, %v", len(r.Managers), len(rest), err)
			}
			for i, m := range rest {
				m.ContactedAt = m.ContactedAt.Truncate(time.Second)
				if r.Managers[i] != m {
					t.Errorf("got %+v, want %+v", r.Managers[i], m)
				}
			}
		case none:
			if r.Managers == nil || len(r.Managers) != 0 || r.Status != "never_contacted" || r.Online != nil || !r.ContactedAt.IsZero() {
				t.Errorf("no machine: %+v", r)
			}
		}
	}
	if len(runners) != 3 {
		t.Errorf("%d runners", len(runners))
	}
}

// BenchmarkPage is one page of 100 runners with all fields, once from a sim
// that answers at no cost: what the client adds.
func BenchmarkPage(b *testing.B) {
	s := newSim(b, gitlabsim.Options{Runners: 100, Tags: 30, Seed: 2})
	var body []byte
	hc := &http.Client{Transport: wireFunc(func(r *http.Request) (*http.Response, error) {
		if body == nil {
			res, err := wire{s, simToken, s.world.RoundTripper()}.RoundTrip(r)
			if err != nil {
				return nil, err
			}
			body, err = io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil {
				return nil, err
			}
		}
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(body))), Request: r}, nil
	})}
	c, err := gitlab.New(gitlab.Options{BaseURL: "https://gitlab.test", HTTPClient: hc})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		p, err := c.RunnersGraphQL(b.Context(), gitlab.GraphQLQuery{})
		if err != nil || len(p.Runners) != 100 {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(body)), "bytes/page")
}

type wireFunc func(*http.Request) (*http.Response, error)

func (f wireFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// BenchmarkFleet reads 10,000 runners with details and machines both ways.
func BenchmarkFleet(b *testing.B) {
	s := newSim(b, gitlabsim.Options{Runners: 10_000, Tags: 100, Seed: 2})
	count := func(b *testing.B, read func(context.Context)) {
		b.Helper()
		for b.Loop() {
			requests, bytes := s.requests(), s.bytes.Load()
			read(b.Context())
			b.ReportMetric(float64(s.requests()-requests), "requests")
			b.ReportMetric(float64(s.bytes.Load()-bytes), "bytes")
		}
	}
	b.Run("rest", func(b *testing.B) {
		count(b, func(ctx context.Context) {
			for _, r := range byREST(ctx, b, s.client, gitlab.Scope{}) {
				if _, err := s.client.Runner(ctx, r.ID, true); err != nil {
					b.Fatal(err)
				}
				if _, err := s.client.Managers(ctx, r.ID); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
	b.Run("graphql", func(b *testing.B) {
		count(b, func(ctx context.Context) {
			if runners, _ := byGraphQL(ctx, b, s.client, gitlab.GraphQLQuery{}); len(runners) != 10_000 {
				b.Fatal(len(runners))
			}
		})
	})
	b.Run("graphql listing", func(b *testing.B) {
		count(b, func(ctx context.Context) {
			if runners, _ := byGraphQL(ctx, b, s.client, gitlab.GraphQLQuery{Fields: gitlab.FieldsListing}); len(runners) != 10_000 {
				b.Fatal(len(runners))
			}
		})
	})
}

func (s *sim) requests() (n int) {
	for _, c := range s.world.Requests() {
		n += c
	}
	return n
}
