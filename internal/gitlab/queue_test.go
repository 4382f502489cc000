package gitlab_test

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/gitlabsim/graphql"
)

// queueSim is a world with waiting jobs of one group and one instance runner.
func queueSim(t *testing.T, version string) (s *sim, instance, ofGroup, project int64) {
	t.Helper()
	s = newSim(t, gitlabsim.Options{Version: version})
	acme := s.world.AddGroup("acme", 0)
	project = s.world.AddProject("app", acme)
	s.world.AddToken(gitlabsim.TokenSpec{Token: "maintainer", Scopes: []string{"read_api"}, Groups: []int64{acme}})
	s.world.AddToken(gitlabsim.TokenSpec{Token: "nobody", Scopes: []string{"read_api"}})
	instance = s.world.AddRunner(gitlabsim.RunnerSpec{Tags: []string{"docker"}})
	ofGroup = s.world.AddRunner(gitlabsim.RunnerSpec{Group: acme, Tags: []string{"docker", "team"}, Protected: true})
	for i := range 130 {
		s.world.CreateJob(gitlabsim.JobSpec{Project: project, Created: noon.Add(-time.Duration(i) * time.Second), Tags: []string{"docker"}, Protected: i%2 == 0})
	}
	return s, instance, ofGroup, project
}

// TestQueuePagesComeInOneQuery: pages of several runners come in one query, in their order,
// down to the end, and cost what Cost returns.
func TestQueuePagesComeInOneQuery(t *testing.T) {
	s, instance, ofGroup, _ := queueSim(t, "18.1.0-ee")
	pages := []gitlab.QueuePage{
		{Runner: instance, First: 24},
		{Runner: ofGroup, First: 24},
		{Runner: instance, Details: true},
	}
	cost, characters := 0, 0
	for _, p := range pages {
		c, n := p.Cost()
		cost, characters = cost+c, characters+n
	}
	a, err := s.client.Queue(t.Context(), gitlab.QueueRequest{Pages: pages})
	if err != nil || len(a.Pages) != 3 {
		t.Fatalf("%+v, %v", a, err)
	}
	q := s.ql.Queries()[0]
	if q.Score != cost || len(q.Document) > characters+100 || len(q.Document) < characters-100 {
		t.Errorf("scores %d, Cost returns %d; %d characters, Cost returns %d", q.Score, cost, len(q.Document), characters)
	}
	if got := a.Pages[0]; got.Count != 130 || len(got.Jobs) != 24 || got.Jobs[0].TagsKnown {
		t.Errorf("survey: %d jobs of %d, %+v", len(got.Jobs), got.Count, got.Jobs[0])
	}
	if got := a.Pages[1]; got.Count != 65 {
		t.Errorf("a protected runner sees %d jobs", got.Count)
	}
	got := a.Pages[2]
	if !got.More || len(got.Jobs) != 100 || got.Count != -1 {
		t.Fatalf("rows: %d, more %v, count %d", len(got.Jobs), got.More, got.Count)
	}
	rest, err := s.client.Queue(t.Context(), gitlab.QueueRequest{Pages: []gitlab.QueuePage{{Runner: instance, Details: true, After: got.Next}}})
	if err != nil || len(rest.Pages[0].Jobs) != 30 || rest.Pages[0].More {
		t.Fatalf("rest: %+v, %v", rest, err)
	}
	for i, j := range slices.Concat(got.Jobs, rest.Pages[0].Jobs) {
		if truth, _ := s.world.Job(j.ID); !j.TagsKnown || !slices.Equal(j.Tags, []string{"docker"}) || !j.QueuedAt.Equal(truth.Created) {
			t.Fatalf("row %d: %+v, want %+v", i, j, truth)
		}
	}
}

// TestQueryThatFitsIsAccepted: a query filled up to what fits is accepted, one page more is not.
func TestQueryThatFitsIsAccepted(t *testing.T) {
	s, instance, _, _ := queueSim(t, "")
	for _, p := range []gitlab.QueuePage{{Runner: instance, First: 24}, {Runner: instance, Details: true}} {
		var pages []gitlab.QueuePage
		c, n := p.Cost()
		for gitlab.QueueFits(c*len(pages), n*len(pages), p) {
			pages = append(pages, p)
		}
		if !p.Details && len(pages) < 60 {
			t.Errorf("%d classes fit into a survey", len(pages))
		}
		s.world.AddToken(gitlabsim.TokenSpec{Token: "maintainer", Scopes: []string{"read_api"}})
		client := s.as(t, "maintainer") // no administrator: the lower limit
		if _, err := client.Queue(t.Context(), gitlab.QueueRequest{Pages: pages}); err != nil {
			t.Errorf("%d pages: %v", len(pages), err)
		}
		pages = append(pages, p, p)
		_, err := client.Queue(t.Context(), gitlab.QueueRequest{Pages: pages})
		if limit := gitlab.QueueTooComplex(err); limit != 250 {
			t.Errorf("%d pages: limit %d, %v", len(pages), limit, err)
		}
	}
}

// TestQueueWithoutTheRightIsEmpty: who may not read gets an empty list, and the permission shows it.
func TestQueueWithoutTheRightIsEmpty(t *testing.T) {
	s, instance, ofGroup, _ := queueSim(t, "")
	for who, want := range map[string]struct {
		instance, group int
		proved          []int64
	}{
		simToken:     {130, 65, []int64{instance, ofGroup}},
		"maintainer": {0, 65, nil},
		"nobody":     {0, 0, nil},
	} {
		c := s.as(t, who)
		a, err := c.Queue(t.Context(), gitlab.QueueRequest{Pages: []gitlab.QueuePage{{Runner: instance, First: 1}, {Runner: ofGroup, First: 1}}})
		if err != nil || a.Pages[0].Count != want.instance || a.Pages[1].Count != want.group || a.Pages[0].Err != nil {
			t.Errorf("%s: %+v, %v", who, a, err)
		}
		a, err = c.Queue(t.Context(), gitlab.QueueRequest{Rights: []int64{instance, ofGroup}})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []int64{instance, ofGroup} {
			if a.Rights[id] != slices.Contains(want.proved, id) {
				t.Errorf("%s: runner %d: %v", who, id, a.Rights)
			}
		}
	}
}

// TestQueueOfAnOldReleaseIsAnError: before 18.1 there is no source, which is an error of its own.
func TestQueueOfAnOldReleaseIsAnError(t *testing.T) {
	for _, release := range []string{"15.0.0", "17.11.0", "18.0.0-ee"} {
		s, instance, _, _ := queueSim(t, release)
		_, err := s.client.Queue(t.Context(), gitlab.QueueRequest{Pages: []gitlab.QueuePage{{Runner: instance}}})
		if !errors.Is(err, gitlab.ErrNoQueue) || gitlab.ReasonOf(err) != gitlab.ReasonBadRequest {
			t.Errorf("%s: %v", release, err)
		}
	}
}

// TestProjectJobIsReadByThePathOfItsProject: a job by the path of its project, with what decides who takes it.
func TestProjectJobIsReadByThePathOfItsProject(t *testing.T) {
	s := newSim(t, gitlabsim.Options{ExternalURL: "https://gitlab.test"})
	team := s.world.AddGroup("team", s.world.AddGroup("acme", 0))
	project := s.world.AddProject("app.js", team)
	s.world.AddToken(gitlabsim.TokenSpec{Token: "nobody", Scopes: []string{"read_api"}})
	runner := s.world.AddRunner(gitlabsim.RunnerSpec{Description: "one", Tags: []string{"docker"}})
	waits := s.world.CreateJob(gitlabsim.JobSpec{Project: project, Created: noon.Add(-90 * time.Second), Tags: []string{"gpu", "docker"}})
	runs := s.world.CreateJob(gitlabsim.JobSpec{Project: project, Runner: runner})
	got, err := s.client.ProjectJob(t.Context(), "acme/team/app.js", waits)
	if err != nil || got.Status != "pending" || !got.TagsKnown || !slices.Equal(got.Tags, []string{"gpu", "docker"}) || got.Queued != 90 || got.RunnerID != 0 || !got.At.Equal(noon) ||
		got.WebURL != "https://gitlab.test/acme/team/app.js/-/jobs/"+strconv.FormatInt(waits, 10) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = s.client.ProjectJob(t.Context(), "acme/team/app.js", runs); err != nil || got.Status != "running" || got.RunnerID != runner || got.Runner != "one" || len(got.Tags) != 0 || !got.TagsKnown {
		t.Errorf("%+v, %v", got, err)
	}
	before := s.world.Requests()["GET /projects/:id/jobs/:job_id"]
	if _, err := s.as(t, "nobody").ProjectJob(t.Context(), "acme/team/app.js", waits); gitlab.ReasonOf(err) != gitlab.ReasonNotFound {
		t.Errorf("without the right: %v", err)
	}
	if _, err := s.client.ProjectJob(t.Context(), "acme/team", waits); gitlab.ReasonOf(err) != gitlab.ReasonNotFound {
		t.Errorf("a job of another project: %v", err)
	}
	for _, path := range []string{"", ".", "..", "/"} {
		if _, err := s.client.ProjectJob(t.Context(), path, waits); gitlab.ReasonOf(err) != gitlab.ReasonBadRequest {
			t.Errorf("%q: %v", path, err)
		}
	}
	if n := s.world.Requests()["GET /projects/:id/jobs/:job_id"] - before; n != 2 {
		t.Errorf("%d requests", n)
	}
}

// TestQueueOfProjectIsRead by REST, with the time since each job waits.
func TestQueueOfProjectIsRead(t *testing.T) {
	s, _, _, project := queueSim(t, "16.0.0")
	path, n := strconv.FormatInt(project, 10), 0
	for page := 1; ; page++ {
		a, err := s.client.Queue(t.Context(), gitlab.QueueRequest{Project: path, Page: page})
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range a.Jobs.Jobs {
			n++
			if truth, _ := s.world.Job(j.ID); !j.TagsKnown || !slices.Equal(j.Tags, []string{"docker"}) || j.QueuedAt.Sub(truth.Created).Abs() > time.Second {
				t.Fatalf("%+v, want %+v", j, truth)
			}
		}
		if !a.Jobs.More {
			break
		}
	}
	if n != 130 {
		t.Errorf("%d jobs", n)
	}
	if _, err := s.as(t, "nobody").Queue(t.Context(), gitlab.QueueRequest{Project: path}); gitlab.ReasonOf(err) != gitlab.ReasonNotFound {
		t.Errorf("without the right: %v", err)
	}
}

// TestDamagedQueueAnswersAreUnknownOrErrors: a field that is null is not known; one part that fails does
// not take the others with it; an answer that is none is an error.
func TestDamagedQueueAnswersAreUnknownOrErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		body   string
		reason gitlab.Reason // of the query
		check  func(gitlab.QueueAnswer) bool
	}{
		"null fields": {
			`{"data":{"p0":{"pageInfo":{"hasNextPage":false,"endCursor":null},"nodes":[{"id":"gid://gitlab/Ci::Build/7","tags":null,"queuedAt":null},null,{"id":null}]},"p1":{"nodes":[]}}}`, "",
			func(a gitlab.QueueAnswer) bool {
				return len(a.Pages[0].Jobs) == 1 && !a.Pages[0].Jobs[0].TagsKnown && a.Pages[0].Jobs[0].QueuedAt.IsZero()
			},
		},
		"untagged": {
			`{"data":{"p0":{"nodes":[{"id":"gid://gitlab/Ci::Build/7","tags":[]}]},"p1":{"nodes":[]}}}`, "",
			func(a gitlab.QueueAnswer) bool {
				return a.Pages[0].Jobs[0].TagsKnown && len(a.Pages[0].Jobs[0].Tags) == 0
			},
		},
		"one part fails": {
			`{"data":{"p0":null,"p1":{"nodes":[{"id":"gid://gitlab/Ci::Build/8"}]}},"errors":[{"message":"boom","path":["p0"]}]}`, "",
			func(a gitlab.QueueAnswer) bool {
				return gitlab.ReasonOf(a.Pages[0].Err) == gitlab.ReasonServerError && a.Pages[1].Err == nil && len(a.Pages[1].Jobs) == 1
			},
		},
		"a part is missing": {
			`{"data":{"p0":{"nodes":[]}}}`, "",
			func(a gitlab.QueueAnswer) bool { return a.Pages[0].Err == nil && a.Pages[1].Err != nil },
		},
		"no cursor":         {`{"data":{"p0":{"pageInfo":{"hasNextPage":true},"nodes":[]}}}`, gitlab.ReasonDecode, nil},
		"nodes are no list": {`{"data":{"p0":{"nodes":{}}}}`, gitlab.ReasonDecode, nil},
		"nothing":           {`{}`, gitlab.ReasonNotGitLab, nil},
		"an error of all":   {`{"data":null,"errors":[{"message":"Internal server error"}]}`, gitlab.ReasonServerError, nil},
		"no list of jobs": {
			`{"errors":[{"message":"Field 'jobs' doesn't exist on type 'Query'","path":["query queue","p0"],"extensions":{"code":"undefinedField","typeName":"Query","fieldName":"jobs"}}]}`,
			gitlab.ReasonBadRequest, nil,
		},
		"no list of jobs, in words": {`{"errors":[{"message":"Field 'jobs' doesn't exist on type 'Query'"}]}`, gitlab.ReasonBadRequest, nil},
		"too slow":                  {`{"data":{"p0":null},"errors":[{"message":"Request timed out. Please try a less complex query"}]}`, gitlab.ReasonTimeout, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, gitlabsim.Options{})
			s.ql.SetFault(func(graphql.Query) *graphql.Fault { return &graphql.Fault{Raw: tc.body} })
			a, err := s.client.Queue(t.Context(), gitlab.QueueRequest{Pages: []gitlab.QueuePage{{Runner: 1, Details: true}, {Runner: 2, Details: true}}})
			if gitlab.ReasonOf(err) != tc.reason || errors.Is(err, gitlab.ErrNoQueue) != strings.HasPrefix(name, "no list of jobs") {
				t.Fatalf("%v, want %s", err, tc.reason)
			}
			if tc.check != nil && !tc.check(a) {
				t.Errorf("%+v", a)
			}
		})
	}
}

// TestQueueOnlyReads: nothing foreign gets into the document.
func TestQueueOnlyReads(t *testing.T) {
	s := newSim(t, gitlabsim.Options{})
	for _, q := range []gitlab.QueueRequest{
		{},
		{Pages: []gitlab.QueuePage{{Runner: 1, After: `x") { id } } mutation { y`}}},
		{Project: "../.."},
	} {
		if _, err := s.client.Queue(t.Context(), q); gitlab.ReasonOf(err) != gitlab.ReasonBadRequest && gitlab.ReasonOf(err) != gitlab.ReasonNotFound {
			t.Errorf("%+v: %v", q, err)
		}
	}
	for _, e := range s.world.Log() {
		if strings.Contains(e.Path, "..") || e.Method != http.MethodGet {
			t.Errorf("sent %s %s", e.Method, e.Path)
		}
	}
}
