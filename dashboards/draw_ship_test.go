//go:build ship

package dashboards

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// drawn is what the page of dashboards/render reports of a board, as Grafana's own
// components drew it.
type drawn struct {
	Board, Theme string
	Width        int
	Titles       int
	Green        string
	Tiles        []struct{ Title, Text, Name, Color string }
	Empty        []struct{ Title, Text string }
	Cut          []string
}

// TestShipBoardsAreDrawn draws every board in windows of 1280 and 1920 pixels, dark and
// light: over two GitLabs and two minutes of history, with one of them unreadable, and
// without the exporter.
func TestShipBoardsAreDrawn(t *testing.T) {
	p := startTwoGitLabs(t)
	p.begin()
	p.await(t, "GitLabs", "ok", "2 of 2 read")
	history := time.Now().Add(2 * time.Minute)
	if _, err := os.Stat("render/node_modules"); err != nil {
		install := exec.CommandContext(t.Context(), "npm", "install", "--omit-lockfile-registry-resolved", "--no-audit", "--no-fund", "--ignore-scripts", "--legacy-peer-deps")
		install.Dir = "render"
		if text, err := install.CombinedOutput(); err != nil {
			t.Fatalf("npm install: %v\n%s", err, text)
		}
	}
	time.Sleep(time.Until(history))

	for _, d := range p.draw(t) {
		for _, x := range d.Tiles {
			if d.Board == "queue.json" && x.Name == "queue" && x.Text == "unknown" && strings.EqualFold(x.Color, grey) {
				continue // these GitLabs have no GraphQL: their queue is not read
			}
			if x.Text == "not scraped" || x.Text == "unknown" {
				t.Errorf("%s, fresh: %+v", d.Board, x)
			}
		}
	}
	p.fail()
	p.await(t, "GitLabs", "MISSING", "1 of 2 missing")
	boards := load(t)
	for _, d := range p.draw(t) {
		for _, x := range d.Tiles {
			if p.isWhole(boards[d.Board], x.Title) && (x.Color == d.Green || x.Name != "1 of 2 missing") {
				t.Errorf("%s, one of two: %+v", d.Board, x)
			}
		}
	}
	p.exporter.Kill()
	p.await(t, "GitLabs", "not scraped", "")
	for _, d := range p.draw(t) {
		if len(d.Tiles) == 0 {
			t.Errorf("%s has no tile", d.Board)
		}
		for _, x := range d.Tiles {
			if !strings.EqualFold(x.Color, grey) {
				t.Errorf("%s, not scraped: %+v", d.Board, x)
			}
		}
	}
}

// draw is the report on every board in every window.
func (p *twoGitLabs) draw(t *testing.T) []drawn {
	t.Helper()
	report := filepath.Join(t.TempDir(), "report.json")
	out := os.Getenv("BOARDS_OUT") // to look at the pictures
	if out == "" {
		out = t.TempDir()
	}
	cmd := exec.CommandContext(t.Context(), "node", "draw.mjs", "--prometheus", p.url, "--seconds", "150", "--scrape", "1",
		"--width", "1280,1920", "--theme", "dark,light", "--out", out, "--report", report)
	cmd.Dir = "render"
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("draw.mjs: %v\n%s", err, text)
	}
	raw, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	var all []drawn
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	boards := load(t)
	if len(all) != 4*len(boards) {
		t.Fatalf("%d pictures of %d boards", len(all), len(boards))
	}
	for _, d := range all {
		n := 0
		for _, x := range boards[d.Board].Panels {
			if x.Type != "row" {
				n++
			}
		}
		if d.Titles != n || len(d.Cut) > 0 {
			t.Errorf("%s at %d: %d panels of %d, cut off: %q", d.Board, d.Width, d.Titles, n, d.Cut)
		}
		if i := slices.IndexFunc(d.Empty, func(x struct{ Title, Text string }) bool { return strings.EqualFold(x.Text, "no data") }); i >= 0 {
			t.Errorf("%s: %s is empty without a reason", d.Board, d.Empty[i].Title)
		}
	}
	return all
}
