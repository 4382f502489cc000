package dashboards

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/test/rig"
)

// tile is a stat as a person sees it.
type tile struct{ title, text, name, color string }

// tiles asks what the tiles of a board show.
func (p *server) tiles(tb testing.TB, d dashboard) []tile {
	tb.Helper()
	var out []tile
	for _, panel := range d.Panels {
		if panel.Type != "stat" {
			continue
		}
		shown := 0
		for _, q := range panel.Targets {
			list, err := p.query(tb, p.fill(q.Expr))
			if err != nil {
				tb.Errorf("%s %s: %v\n%s", panel.Title, q.RefID, err, p.fill(q.Expr))
				continue
			}
			for _, r := range list {
				v, err := strconv.ParseFloat(fmt.Sprint(r.Value[1]), 64)
				if err != nil {
					tb.Fatal(err)
				}
				text, color := display(tb, panel, &v)
				name := label.ReplaceAllStringFunc(q.LegendFormat, func(s string) string { return r.Metric[strings.Trim(s, "{} ")] })
				out = append(out, tile{panel.Title, text, name, color})
				shown++
			}
		}
		if shown == 0 {
			text, color := display(tb, panel, nil)
			out = append(out, tile{title: panel.Title, text: text, color: color})
		}
	}
	return out
}

// stable is what the tiles of a board show, one value each.
func (p *server) stable(t *testing.T, d dashboard) []tile {
	t.Helper()
	tiles := p.tiles(t, d)
	for i, x := range tiles {
		if i > 0 && x.title == tiles[i-1].title {
			t.Errorf("%s shows two values at once: %+v, %+v", x.title, tiles[i-1], x)
		}
	}
	return tiles
}

// await asks until a tile of the overview shows what it should.
func (p *server) await(t *testing.T, title, text, name string) {
	t.Helper()
	d := load(t)["overview.json"]
	for until := time.Now().Add(patient); ; time.Sleep(500 * time.Millisecond) {
		tiles := p.tiles(t, d)
		i := slices.IndexFunc(tiles, func(x tile) bool { return x.title == title })
		if i >= 0 && tiles[i].text == text && tiles[i].name == name {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%s does not become %s, %s: %+v", title, text, name, tiles)
		}
	}
}

// awaitVerdict waits until the exporter has a verdict on runner 1 of both GitLabs, which
// needs its details: the rules keep for five minutes that there was none.
func (p *twoGitLabs) awaitVerdict(t *testing.T) {
	t.Helper()
	waits := regexp.MustCompile(`(?m)^gitlab_runner_fleet_runner_unhealthy_since_timestamp_seconds{.*runner_id="1",.*reason="new"`)
	for until := time.Now().Add(patient); ; time.Sleep(500 * time.Millisecond) {
		page := p.exporter.Metrics(t)
		if n := strings.Count(page, "\ngitlab_runner_fleet_health_judgement_suspended{"); n >= 4 && !waits.MatchString(page) {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("no verdict on runner 1 after %v:\n%s", patient, waits.FindString(page))
		}
	}
}

// everyBoardIsAnswered: no query is an error; what is empty has its reason by
// TestEmptyPanelsGiveAReason.
func (p *server) everyBoardIsAnswered(t *testing.T) {
	t.Helper()
	for name, d := range load(t) {
		for _, v := range d.Templating.List {
			if v.Type != "query" {
				continue
			}
			if q := p.fill(v.query(t)); strings.HasPrefix(q, "query_result(") {
				if _, err := p.query(t, strings.TrimSuffix(strings.TrimPrefix(q, "query_result("), ")")); err != nil {
					t.Errorf("%s: $%s: %v", name, v.Name, err)
				}
			}
		}
		for _, panel := range d.Panels {
			for _, q := range panel.Targets {
				if _, err := p.ask(t, p.fill(q.Expr), q.Instant); err != nil {
					t.Errorf("%s: %s %s: %v\n%s", name, panel.Title, q.RefID, err, p.fill(q.Expr))
				}
			}
		}
		for _, a := range d.Annotations.List {
			if a.Expr != "" {
				if _, err := p.ask(t, p.fill(a.Expr), false); err != nil {
					t.Errorf("%s: annotation %s: %v", name, a.Name, err)
				}
			}
		}
	}
}

// notScraped: each tile of each board is grey and says so.
func (p *server) notScraped(t *testing.T) {
	t.Helper()
	for name, d := range load(t) {
		for _, x := range p.stable(t, d) {
			if x.color != grey || x.text != "not scraped" {
				t.Errorf("%s without scrapes: %+v", name, x)
			}
		}
	}
}

// twoGitLabs is a Prometheus that will scrape an exporter of two GitLabs when
// begin is called. From the second on, fail makes the second one answer 502.
type twoGitLabs struct {
	*server

	exporter    *rig.Server
	begin, fail func()
}

func startTwoGitLabs(t *testing.T) *twoGitLabs {
	t.Helper()
	dir := t.TempDir()
	worlds := map[string]*gitlabsim.World{}
	var config strings.Builder
	config.WriteString("poll: {runners_interval: 2s, details_interval: 5s, jobs_interval: 2s, max_requests_per_second: 0}\ngitlabs:\n")
	for i, name := range []string{"corp", "edge"} {
		w := gitlabsim.New(gitlabsim.Options{Seed: uint64(i + 1), Runners: 60, Tags: 8, Token: "glpat-test", JobsPerHour: 2000, History: time.Hour})
		s := httptest.NewServer(w.Handler())
		t.Cleanup(s.Close)
		worlds[name] = w
		fmt.Fprintf(&config, "  - {name: %s, url: %q, authorization: {credentials: glpat-test}, expected: {docker: 1, unheard-of: 1}}\n", name, s.URL)
	}
	rules, err := os.ReadFile("../alerts/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	targets := filepath.Join(dir, "targets.json")
	for path, text := range map[string]string{filepath.Join(dir, "config.yml"): config.String(), targets: "[]"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := serve(t, rig.Tool(t, "prometheus"), `
global: {scrape_interval: 1s, evaluation_interval: 2s}
rule_files: [rules.yml]
scrape_configs:
  - job_name: gitlab_runner_fleet_exporter
    file_sd_configs: [{files: [`+targets+`], refresh_interval: 1s}]
`, quickly(rules))
	maps.Copy(p.values, map[string]string{"__rate_interval": "20s", "__range": "10m", "runner": "1", "own_type": "instance_type", "own_tags": "docker"})
	e := rig.Serve(t, rig.Exporter(t), "--config.file="+filepath.Join(dir, "config.yml"), "--storage.path=")
	return &twoGitLabs{
		server: p, exporter: e,
		begin: func() {
			text, err := json.Marshal([]map[string]any{{"targets": []string{e.Address}}})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(targets, text, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		fail: func() { worlds["edge"].AddFault(gitlabsim.Fault{Status: http.StatusBadGateway}) },
	}
}

// TestBoardsTellUnknownFromFine: nothing is scraped yet; the first minutes; one of
// two GitLabs cannot be read; the exporter is gone. No tile that counts the whole
// fleet is green while it has not seen the whole.
func TestBoardsTellUnknownFromFine(t *testing.T) {
	rig.Long(t, "runs two simulated GitLabs, the exporter and a Prometheus")
	p := startTwoGitLabs(t)
	p.everyBoardIsAnswered(t)
	p.notScraped(t)

	p.awaitVerdict(t)
	p.begin()
	p.await(t, "GitLabs", "ok", "2 of 2 read")
	p.await(t, "Below floor", "2", "tags") // unheard-of, on both
	p.everyBoardIsAnswered(t)
	green := map[string]bool{}
	for name, d := range load(t) {
		for _, x := range p.stable(t, d) {
			if name == "queue.json" && x.name == "queue" && x.text == "unknown" && x.color == grey {
				continue // these GitLabs have no GraphQL: their queue is not read
			}
			if x.text == "not scraped" || x.text == "unknown" {
				t.Errorf("%s: %+v", name, x)
			}
			green[name+x.title] = x.color == "green"
		}
	}
	if !green["overview.jsonGitLabs"] || !green["jobs.jsonBeing canceled"] {
		t.Errorf("no tile is green while both are read: %v", green)
	}

	p.fail()
	p.await(t, "GitLabs", "MISSING", "1 of 2 missing")
	p.everyBoardIsAnswered(t)
	for name, d := range load(t) {
		whole := 0
		for _, x := range p.stable(t, d) {
			if !p.isWhole(d, x.title) {
				continue
			}
			whole++
			if x.color == "green" || x.name != "1 of 2 missing" {
				t.Errorf("%s with one of two GitLabs: %+v", name, x)
			}
		}
		if want := map[string]int{"overview.json": 9, "tags.json": 5, "jobs.json": 4}[name]; whole < want {
			t.Errorf("%s: %d tiles look whether a GitLab is missing, not %d", name, whole, want)
		}
	}
	list, err := p.query(t, p.fill(find(t, "overview.json", "table", "By GitLab").Targets[0].Expr))
	if err != nil || len(list) != 2 || list[0].Metric["gitlab"] != "edge" || list[0].Value[1] != "3" || list[1].Value[1] != "0" {
		t.Errorf("the rows of both GitLabs: %v (%v)", list, err)
	}

	p.exporter.Kill()
	p.await(t, "GitLabs", "not scraped", "")
	p.everyBoardIsAnswered(t)
	p.notScraped(t)
}

// isWhole tells whether a tile is about all selected GitLabs together.
func (p *server) isWhole(d dashboard, title string) bool {
	return slices.ContainsFunc(d.Panels, func(x panel) bool {
		return x.Type == "stat" && x.Title == title && slices.ContainsFunc(x.Targets, func(q target) bool {
			return q.LegendFormat == "{{missing}} of {{all}} missing"
		})
	})
}
