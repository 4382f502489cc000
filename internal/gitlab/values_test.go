package gitlab

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// bothWays reads one runner of these values by REST and by GraphQL.
func bothWays(t *testing.T, tags, description, version, contact string) map[string]RunnerDetails {
	t.Helper()
	rest, err := decodeObject(strings.NewReader(fmt.Sprintf(
		`{"id":7,"tag_list":%s,"description":%s,"version":%s,"contacted_at":%s,"run_untagged":true}`, tags, description, version, contact)), (*reader).details)
	if err != nil {
		t.Fatal(err)
	}
	a, err := decodeFleet(strings.NewReader(fmt.Sprintf(
		`{"data":{"runners":{"nodes":[{"id":"gid://gitlab/Ci::Runner/7","tagList":%s,"description":%s,"version":%s,"contactedAt":%s,"runUntagged":true}]}}}`,
		tags, description, version, contact)))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]RunnerDetails{"REST": rest, "GraphQL": a.page.Runners[0].RunnerDetails}
}

// TestBadValueCostsNoOther: what is beyond a bound is left out or cut by itself, and the
// rest of the runner counts.
func TestBadValueCostsNoOther(t *testing.T) {
	quoted := func(tags ...string) string {
		for i := range tags {
			tags[i] = strconv.Quote(tags[i])
		}
		return "[" + strings.Join(tags, ",") + "]"
	}
	var many []string
	for i := range 250 {
		many = append(many, "t"+strconv.Itoa(i))
	}
	widest := strings.Repeat("\U0001f3c3", 255) // GitLab's longest tag
	for _, c := range []struct {
		name, tags, description, version, contact string
		want                                      RunnerDetails // of what is bounded
	}{
		{
			"a year that no layout holds", `["a"]`, `"d"`, `"17.5.0"`, `"9999-12-31T23:59:59-12:00"`,
			RunnerDetails{Tags: []string{"a"}, Version: "17.5.0"},
		},
		{"after 2200", `["a"]`, `"d"`, `"v"`, `"2201-01-01T00:00:00Z"`, RunnerDetails{Tags: []string{"a"}, Version: "v"}},
		{"2200", `["a"]`, `"d"`, `"v"`, `"2200-12-31T23:59:59Z"`, RunnerDetails{Tags: []string{"a"}, Version: "v", ContactedAt: at("2200-12-31T23:59:59Z")}},
		{"before 1970", `["a"]`, `"d"`, `"v"`, `"1969-12-31T23:59:59Z"`, RunnerDetails{Tags: []string{"a"}, Version: "v"}},
		{"the year 0", `["a"]`, `"d"`, `"v"`, `"0000-01-01T00:00:00Z"`, RunnerDetails{Tags: []string{"a"}, Version: "v"}},
		{"a zone that crosses the bound", `["a"]`, `"d"`, `"v"`, `"1970-01-01T00:00:00+01:00"`, RunnerDetails{Tags: []string{"a"}, Version: "v"}},
		{"a long tag", quoted("a", strings.Repeat("x", 40_000), "b"), `"d"`, `"v"`, `null`, RunnerDetails{Tags: []string{"a", "b"}, TagsOmitted: 1, Version: "v"}},
		{"tags of 1,020 and 1,021 bytes", quoted(widest, widest+"x"), `"d"`, `"v"`, `null`, RunnerDetails{Tags: []string{widest}, TagsOmitted: 1, Version: "v"}},
		{
			"a tag of escapes", `["` + strings.Repeat(`\u0061`, 1020) + `","` + strings.Repeat(`\u0061`, 1021) + `"]`, `"d"`, `"v"`, `null`,
			RunnerDetails{Tags: []string{strings.Repeat("a", 1020)}, TagsOmitted: 1, Version: "v"},
		},
		{"many tags", quoted(slices.Clone(many)...), `"d"`, `"v"`, `null`, RunnerDetails{Tags: many[:200], TagsOmitted: 50, Version: "v"}},
		{"a tag that is no UTF-8", "[\"a\xffb\"]", `"d"`, `"v"`, `null`, RunnerDetails{Tags: []string{"a\ufffdb"}, Version: "v"}},
		{"a tag of half a pair", `["a\ud800b"]`, `"d"`, `"v"`, `null`, RunnerDetails{Tags: []string{"a\ufffdb"}, Version: "v"}},
		{"a long version", `["a"]`, `"d"`, `"` + strings.Repeat("é", 200) + `"`, `null`, RunnerDetails{Tags: []string{"a"}, Version: strings.Repeat("é", 127)}},
		{"a version that is no text", `["a"]`, `"d"`, `17.5`, `null`, RunnerDetails{Tags: []string{"a"}}},
	} {
		for way, got := range bothWays(t, c.tags, c.description, c.version, c.contact) {
			if got.ID != 7 || got.Description != "d" || !got.RunUntagged {
				t.Errorf("%s by %s: the rest is lost: %+v", c.name, way, got)
			}
			got.Runner, got.RunUntagged = Runner{}, false
			equal(t, c.name+" by "+way, got, c.want)
		}
	}
	for way, got := range bothWays(t, `[]`, `"`+strings.Repeat("é", 600)+`"`, `"v"`, `null`) {
		if d := got.Description; len(d) != maxDescription || !utf8.ValidString(d) {
			t.Errorf("a description of %d bytes by %s", len(d), way)
		}
	}
}

func TestNumbersOutOfBoundsAreUnknown(t *testing.T) {
	for text, want := range map[string]Job{
		`"id":7,"duration":1e308,"queued_duration":315360001`:                       {ID: 7, Duration: -1, Queued: -1},
		`"id":7,"duration":1e999,"queued_duration":-5`:                              {ID: 7, Duration: -1, Queued: -1},
		`"id":7,"duration":315360000,"queued_duration":0`:                           {ID: 7, Duration: 315360000, Queued: 0},
		`"id":7,"duration":` + strings.Repeat("1", 100_000) + `,"project":{"id":3}`: {ID: 7, Duration: -1, Queued: -1, ProjectID: 3},
		`"id":7,"duration":0.` + strings.Repeat("1", 100_000):                       {ID: 7, Duration: -1, Queued: -1},
		`"id":9223372036854775807,"project":{"id":9223372036854775808}`:             {ID: 9223372036854775807, Duration: -1, Queued: -1},
		`"id":7,"project":{"id":1e3},"created_at":"9999-12-31T23:59:59-12:00"`:      {ID: 7, Duration: -1, Queued: -1},
		`"id":7,"project":{"id":-0},"finished_at":"2026-11-29T10:00:00.5+02:00"`:    {ID: 7, Duration: -1, Queued: -1, FinishedAt: time.Date(2026, 11, 29, 8, 0, 0, 5e8, time.UTC)},
	} {
		jobs, rows, err := decodeJobs(strings.NewReader("[{" + text + "}]"))
		if err != nil || rows != 1 {
			t.Fatalf("%.60s: %d rows, %v", text, rows, err)
		}
		equal(t, text[:min(60, len(text))], jobs, []Job{want})
	}
	for text, want := range map[string]int{`1001`: 1001, `5000000000000`: 1001, `-3`: -1, `null`: -1, `"7"`: -1, `7.5`: -1, `1e30`: -1} {
		a, err := decodeFleet(strings.NewReader(`{"data":{"runners":{"nodes":[{"id":"gid://gitlab/Ci::Runner/7","executing":` + text + `}]}}}`))
		if err != nil || a.page.Runners[0].Executing != want {
			t.Errorf("%s jobs executing: %+v, %v", text, a, err)
		}
	}
}

// TestTooManyRowsAreRefused: more rows than GitLab gives are refused, and a full page is not.
func TestTooManyRowsAreRefused(t *testing.T) {
	page := func(rows int) string {
		return "[" + strings.Repeat(`{"id":7},`, rows-1) + `{"id":7}]`
	}
	for rows, ok := range map[int]bool{100: true, maxRows: true, maxRows + 1: false} {
		_, _, runners := decodeRunners(strings.NewReader(page(rows)))
		_, _, jobs := decodeJobs(strings.NewReader(page(rows)))
		if (runners == nil) != ok || (jobs == nil) != ok {
			t.Errorf("%d rows: %v, %v", rows, runners, jobs)
		}
	}
	if m, _, err := decodeManagers(strings.NewReader(page(maxManagers))); err != nil || len(m) != maxManagers {
		t.Errorf("%d machines, %v", len(m), err)
	}
	if _, _, err := decodeManagers(strings.NewReader(page(maxManagers + 1))); err == nil {
		t.Error("too many machines are taken")
	}
}
