package promcheck

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/promqltest"
)

// fleet are made-up series of every known metric: two GitLabs, two shards, two
// processes for each. A runner belongs to one shard.
func fleet(v *Vocabulary) string {
	var b strings.Builder
	b.WriteString("load 1m\n")
	for _, name := range slices.Sorted(maps.Keys(v.metrics)) {
		have := v.metrics[name]
		for _, gitlab := range []string{"corp", "lab"} {
			for shard := range 2 {
				for process := range 2 {
					if !have["instance"] && process > 0 || !have["shard"] && !have["instance"] && !have["runner_id"] && shard > 0 || !have["gitlab"] && gitlab != "corp" {
						continue
					}
					write(&b, name, have, map[string]string{
						"gitlab": gitlab, "shard": strconv.Itoa(shard), "instance": fmt.Sprintf("%c:9756", 'a'+2*shard+process),
						"job": "gitlab_runner_fleet_exporter", "runner_id": strconv.Itoa(7 + shard),
						// What two processes may tell apart for some minutes.
						"description": fmt.Sprintf("build-%d", process), "version": fmt.Sprintf("18.%d.0", process),
					})
				}
			}
		}
	}
	return b.String()
}

// write adds a process' series, one for each value of the labels that have
// several.
func write(b *strings.Builder, name string, have Labels, fixed map[string]string) {
	several := map[string][]string{
		"tag": {"gpu", "linux", "(unknown)"}, "runner_type": {"instance_type", "group_type"}, "status": {"online", "offline"}, "paused": {"false", "true"},
		"stage": {"runners", "details"}, "reason": {"forbidden", "too_old"}, "le": {"300", "+Inf"}, "failure_class": {"script", "infrastructure"},
		"problem": {"lost", "offline"},
	}
	sets := []map[string]string{{}}
	for _, label := range have.Names() {
		values := several[label]
		if v, ok := fixed[label]; ok {
			values = []string{v}
		} else if values == nil {
			values = []string{"x"}
		}
		if label == "runner_type" && have["runner_id"] || name == "gitlab_runner_fleet_tag_runners:only" {
			values = values[:1]
		}
		var next []map[string]string
		for _, set := range sets {
			for _, v := range values {
				one := maps.Clone(set)
				one[label] = v
				next = append(next, one)
			}
		}
		sets = next
	}
	for _, set := range sets {
		var labels []string
		for _, label := range slices.Sorted(maps.Keys(set)) {
			labels = append(labels, label+"="+strconv.Quote(set[label]))
		}
		fmt.Fprintf(b, "  %s{%s} 0+1x30\n", name, strings.Join(labels, ","))
	}
}

// TestRunbookQueriesRun runs each query of each runbook over two processes and
// two shards: a join that meets two series where it wants one fails only there.
func TestRunbookQueriesRun(t *testing.T) {
	storage := promqltest.LoadedStorage(t, fleet(known(t)))
	engine := promqltest.NewTestEngine(t, false, 5*time.Minute, 1_000_000)
	files, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d runbooks: %v", len(files), err)
	}
	run := func(query string) error {
		q, err := engine.NewInstantQuery(t.Context(), storage, nil, query, time.Unix(1500, 0))
		if err != nil {
			return err
		}
		defer q.Close()
		return q.Exec(t.Context()).Err
	}
	for _, f := range files {
		for _, query := range runbookQueries(t, f) {
			if err := run(query); err != nil {
				t.Errorf("%s: %s: %v", filepath.Base(f), query, err)
			}
		}
	}
	if run("gitlab_runner_fleet_runner_tag_info * on (gitlab, runner_id) group_left (description) gitlab_runner_fleet_runner_info") == nil {
		t.Error("a join with two processes on its one side does not fail: the series are too few to show anything")
	}
}

// runbookQueries are the lines of all blocks of PromQL in a runbook.
func runbookQueries(t *testing.T, path string) []string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range regexp.MustCompile("(?ms)^```promql\n(.*?)^```$").FindAllStringSubmatch(string(raw), -1) {
		out = append(out, strings.Split(strings.TrimSpace(m[1]), "\n")...)
	}
	if len(out) == 0 {
		t.Errorf("%s: no queries", path)
	}
	return out
}

// known knows the recording rules as well, and what the runbooks and the text of
// alerts ask of the client library.
func known(t *testing.T) *Vocabulary {
	t.Helper()
	v := New()
	for _, g := range rulesOf(t).Groups {
		for _, r := range g.Rules {
			if r.Record == "" {
				continue
			}
			remembers(v, r)
			l, err := v.Check(r.Expr)
			if err != nil {
				t.Fatal(err)
			}
			v.Add(r.Record, l.plus(slices.Collect(maps.Keys(r.Labels))...))
		}
	}
	return v
}
