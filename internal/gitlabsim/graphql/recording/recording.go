// Package recording holds what graphql-ruby, the library that GitLab answers
// GraphQL with, answered to this project's queries over GitLab's schema of
// several releases. It confirms the client's and the simulator's belief about
// the library's messages. The recordings are written by
//
//	go test -tags ship ./test/e2e -run ShipGraphQLRecordings -update
//
// which needs Debian's ruby-graphql; `make test-ship` checks them.
package recording

import (
	"embed"
	"encoding/json"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
)

// Releases that are recorded: each end of a difference in the schema.
var Releases = []string{"15.0.0", "15.9.0", "15.11.0", "16.1.0", "16.11.0", "17.0.0", "18.0.0", "18.1.0", "18.6.0", "19.1.0"}

// Tokens of the world.
const (
	Admin      = "recorded-admin"
	Maintainer = "recorded-maintainer" // of the group acme/team
)

// Now is the time at which the world is stopped.
var Now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// Exchange is one query and graphql-ruby's answer to it.
type Exchange struct {
	Token     string          `json:"token"`
	Limit     int             `json:"limit,omitempty"` // of complexity, other than GitLab's
	Query     string          `json:"query"`
	Variables json.RawMessage `json:"variables"`
	Answer    json.RawMessage `json:"answer"`
}

//go:embed testdata/*.json
var files embed.FS

// Load gives the exchanges of a release; none where it is not recorded yet.
func Load(release string) ([]Exchange, error) {
	b, err := files.ReadFile("testdata/" + release + ".json")
	if err != nil {
		return nil, err
	}
	var out []Exchange
	return out, json.Unmarshal(b, &out)
}

// World is a small GitLab of a release in which everything occurs that GraphQL
// shows differently from release to release: it is the same at each call.
func World(release string) *gitlabsim.World {
	w := gitlabsim.New(gitlabsim.Options{
		Seed: 8, Version: release, Token: Admin, Now: func() time.Time { return Now },
	})
	acme := w.AddGroup("acme", 0)
	team := w.AddGroup("team", acme)
	squad := w.AddGroup("squad", team)
	app := w.AddProject("app", squad)
	other := w.AddGroup("other", 0)
	w.AddToken(gitlabsim.TokenSpec{Token: Maintainer, Scopes: []string{"read_api"}, Groups: []int64{team}})

	long := Now.Add(-400 * 24 * time.Hour)
	busy := w.AddRunner(gitlabsim.RunnerSpec{Description: "instance", Tags: []string{"docker", "linux"}, RunUntagged: true, Managers: 3, Version: "17.1.0"})
	paused := w.AddRunner(gitlabsim.RunnerSpec{Description: "paused", Tags: []string{"docker"}, Paused: true})
	w.AddRunner(gitlabsim.RunnerSpec{Description: "paused offline", Tags: []string{"arm"}, Paused: true, Offline: true, LastContact: Now.Add(-20 * time.Hour), Created: long})
	w.AddRunner(gitlabsim.RunnerSpec{Description: "paused stale", Paused: true, Offline: true, LastContact: Now.Add(-300 * 24 * time.Hour), Created: long})
	w.AddRunner(gitlabsim.RunnerSpec{Description: "paused never contacted", Paused: true, Managers: -1, Tags: []string{"new"}})
	w.AddRunner(gitlabsim.RunnerSpec{Description: "offline", Offline: true, LastContact: Now.Add(-20 * time.Hour), Created: long, Tags: []string{"linux"}, Protected: true, Locked: true})
	w.AddRunner(gitlabsim.RunnerSpec{Description: "never contacted", Managers: -1})
	group := w.AddRunner(gitlabsim.RunnerSpec{Description: "of the group", Group: team, Tags: []string{"team"}, Timeout: time.Hour})
	w.AddRunner(gitlabsim.RunnerSpec{Description: "of its parent", Group: acme, Tags: []string{"acme"}})
	w.AddRunner(gitlabsim.RunnerSpec{Description: "of its subgroup", Group: squad, Tags: []string{"squad", "größe"}, Paused: true})
	w.AddRunner(gitlabsim.RunnerSpec{Description: "of a project", Projects: []int64{app}, Tags: []string{"app"}, Platform: "windows", Arch: "arm64"})
	w.AddRunner(gitlabsim.RunnerSpec{Description: "elsewhere", Group: other, Tags: []string{"docker"}})

	for _, s := range []gitlabsim.JobSpec{{Runner: busy}, {Runner: busy}, {Runner: paused}, {Runner: group}} {
		s.Created = Now.Add(-10 * time.Minute)
		s.Started = Now.Add(-5 * time.Minute)
		w.CreateJob(s)
	}
	if w.Since(17, 0) { // before it a canceled job is canceled at once
		w.CreateJob(gitlabsim.JobSpec{
			Runner: busy, Created: Now.Add(-10 * time.Minute), Started: Now.Add(-5 * time.Minute),
			Canceled: Now.Add(-time.Minute), Finished: Now.Add(time.Minute),
		})
	}
	for i := range 30 { // who waits
		w.CreateJob(gitlabsim.JobSpec{
			Project: app, Created: Now.Add(-time.Duration(i) * time.Minute), Tags: [][]string{{"docker"}, {"team"}, {"linux", "docker"}, nil}[i%4],
			Protected: i%3 == 0,
		})
	}
	return w
}

// QueueRequests are the client's requests about waiting jobs that are recorded,
// as Admin and as Maintainer: a survey of all runners, rows of some, permissions.
func QueueRequests(w *gitlabsim.World) []gitlab.QueueRequest {
	var (
		survey, rows []gitlab.QueuePage
		ids          []int64
	)
	for _, r := range w.Fleet().Runners {
		ids = append(ids, r.ID)
		survey = append(survey, gitlab.QueuePage{Runner: r.ID, First: 24})
		if len(rows) < 4 {
			rows = append(rows, gitlab.QueuePage{Runner: r.ID, Details: true, First: []int{0, 3}[len(rows)%2]})
		}
	}
	// The cursor of a job that is in the middle.
	rows = append(rows, gitlab.QueuePage{Runner: ids[0], Details: true, After: "eyJpZCI6IjEwMDAwMjAifQ"})
	return []gitlab.QueueRequest{{Pages: survey}, {Pages: rows}, {Rights: ids}}
}

// Probes are documents that this program does not send, for the library's messages
// about them.
var Probes = []string{
	`{ runners(first: 2) { nodes { id jobCount(statuses: [RUNNING, CANCELING]) } } }`,
	`query probe { runners { nodes { running: jobCount(statuses: [RUNNING]) status(legacyMode: "14.5") } } }`,
	`query probe { runners(first: 3) { nodes { one two three: four five(x: 1) six { seven } eight nine } } }`,
	`query probe { runners(first: 1, nonsense: 1, sort: UP) { count nodes { tags: tagList(first: 1) } } }`,
	`{ group(fullPath: "a") { runners(membership: EVERYBODY, search: "x") { nodes { id } } } }`,
	`{ jobs(statuses: [RUNNING], compatibleRunnerId: "gid://gitlab/Ci::Runner/1") { count } }`,
	`query probe { a: jobs(compatibleRunnerId: "gid://gitlab/Ci::Runner/1") { count } b: jobs(statuses: [PENDING], first: 2) { nodes { id tags } } }`,
	`query probe { jobs(statuses: [PENDING], tags: ["x"]) { count nodes { what queuedAt } } }`,
	`{ queryComplexity { score limit } jobs(statuses: [PENDING], first: 24) { count nodes { id } } }`,
	`{ queryComplexity { score limit } runners(first: 7, sort: CREATED_DESC) { count nodes { id } } }`,
}

// Queries are those of the client that are recorded. A group's is sent as
// Maintainer, the others as Admin.
func Queries(group gitlab.Scope) []gitlab.GraphQLQuery {
	return []gitlab.GraphQLQuery{
		{},
		{First: 5},
		{Fields: gitlab.FieldsListing, Type: "project_type"},
		{Scope: group},
	}
}
