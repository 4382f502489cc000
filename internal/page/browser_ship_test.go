//go:build ship

package page

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

var pictures = flag.Bool("pictures", false, "draw docs/images/fleet-*.png")

// TestShipBrowserFindsNothingWrong opens the pages in headless Chromium: no finding of axe-core
// (contrast, names, structure), no layout wider than the window, nothing
// foreign run, a visible focus. With -pictures it draws those of the documents.
// It needs chromium, fonts-dejavu-core and npm.
func TestShipBrowserFindsNothingWrong(t *testing.T) {
	for _, tool := range []string{"npm", "node", "chromium"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%v: apt-get install --no-install-recommends chromium fonts-dejavu-core npm", err)
		}
	}
	if _, err := os.Stat("browser/node_modules/axe-core"); err != nil {
		run(t, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	}
	lost := large()
	p := lost.page(Options{Grafana: "https://grafana.example.com", Runbooks: "https://runbooks.example.com"})
	p.Keep(lost.gitlabs[0])
	withdrawn := *lost.gitlabs[0]
	withdrawn.Fleet, withdrawn.Health, withdrawn.Up = nil, nil, false
	lost.gitlabs[0] = &withdrawn

	links := Options{Grafana: "https://grafana.example.com", Runbooks: "https://runbooks.example.com", MetricsPath: "/metrics", Version: "1.2.3"}
	pages := map[string]string{}
	serve := func(name string, p *Page, query string) {
		mux := http.NewServeMux()
		mux.HandleFunc("/fleet", p.ServeFleet)
		mux.HandleFunc("/fleet/why", p.ServeWhy)
		mux.HandleFunc("/fleet/runner", p.ServeRunner)
		s := httptest.NewServer(mux)
		t.Cleanup(s.Close)
		pages[name] = s.URL + query
	}
	serve("fleet-5000", large().page(links), "/fleet")
	serve("fleet-5", small().page(links), "/fleet")
	serve("fleet-runner", small().page(links), "/fleet/runner?gitlab=corp&id=1")
	serve("fleet-tag", large().page(links), "/fleet?gitlab=corp&tag=gpu")
	serve("fleet-well", healthy().page(links), "/fleet")
	unjudged := large()
	unjudged.gitlabs[0].Health = nil
	for i := range 9 {
		unjudged.gitlabs[0].Fleet.Rows[i].Status = snapshot.Offline
	}
	serve("fleet-unjudged", unjudged.page(links), "/fleet")
	serve("fleet-withdrawn", p, "/fleet")
	serve("fleet-hostile", hostile().page(links), "/fleet")
	serve("fleet-hostile-runner", hostile().page(links), "/fleet/runner?gitlab=corp&id=3")
	serve("fleet-hostile-tag", hostile().page(links), "/fleet?tag="+url.QueryEscape(strings.Repeat("長", 300)))

	queued := waiting(func(q *snapshot.Queue) {
		q.Unmatched = []snapshot.QueueUnmatched{
			{Tags: "dokcer", Reason: snapshot.NoRunner, Jobs: 1, Oldest: noon.Add(-9 * time.Minute)},
			{Tags: strings.Repeat("長", 300) + ",linux", Reason: snapshot.NoneAvailable, Jobs: 3, Oldest: noon.Add(-2 * time.Minute)},
		}
	})
	serve("fleet-queue", queued.page(links), "/fleet")
	serve("fleet-why", asked(queued, links, explained), "/fleet/why"+whyQuery("https://corp.example.com/g/p/-/jobs/7"))
	serve("fleet-why-tags", asked(queued, links, explained), "/fleet/why?tags="+url.QueryEscape(strings.Repeat("長", 300)+",<script>document.title='run'</script>"))
	serve("fleet-why-form", asked(queued, links, explained), "/fleet/why")

	out := os.Getenv("PICTURES")
	if *pictures {
		out = t.TempDir()
	}
	request, err := json.Marshal(map[string]any{"pages": pages, "out": out})
	if err != nil {
		t.Fatal(err)
	}
	views := 0
	for line := bufio.NewScanner(bytes.NewReader(run(t, "node", "check.mjs", string(request)))); line.Scan(); {
		var v struct {
			Name, Kind, ColorScheme, Title string
			Status, Wide                   int
			Errors, Violations             []string
			Focus                          []struct{ Tag, Outline string }
		}
		if err := json.Unmarshal(line.Bytes(), &v); err != nil {
			t.Fatalf("%s: %v", line.Bytes(), err)
		}
		if v.Title == "run" {
			t.Errorf("%s: foreign text was run", v.Name)
		}
		if v.Name == "policy" {
			if !strings.Contains(strings.Join(v.Errors, " "), "Content Security Policy") {
				t.Errorf("nothing was refused: %q", v.Errors)
			}
			continue
		}
		views++
		where := v.Name + " " + v.Kind + " " + v.ColorScheme
		if v.Status != http.StatusOK || v.Wide > 0 || len(v.Errors) > 0 || len(v.Violations) > 0 {
			t.Errorf("%s: HTTP %d, %d px too wide, errors %q, axe: %s", where, v.Status, v.Wide, v.Errors, strings.Join(v.Violations, "\n"))
		}
		for i, f := range v.Focus {
			if f.Tag == "BODY" || f.Outline == "none" {
				t.Errorf("%s: tab %d is at %s, outline %s", where, i+1, f.Tag, f.Outline)
			}
		}
	}
	if views != 4*len(pages) {
		t.Errorf("%d views of %d pages", views, len(pages))
	}
	if *pictures && !t.Failed() {
		keep(t, out)
	}
}

// keep stores the pictures of the documents, small.
func keep(t *testing.T, from string) {
	t.Helper()
	for _, name := range []string{"fleet-5000", "fleet-5", "fleet-runner"} {
		for _, view := range []string{"desk-light", "desk-dark", "phone-light", "phone-dark"} {
			if name == "fleet-runner" && view != "desk-light" && view != "phone-dark" {
				continue
			}
			file := name + "-" + view + ".png"
			cmd := exec.CommandContext(t.Context(), "pngquant", "--force", "--speed", "1", "--output", filepath.Join("../../docs/images", file), "32", filepath.Join(from, file))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("pngquant: %v: %s", err, out)
			}
		}
	}
}

func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = "browser"
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, errs.String())
	}
	return out
}
