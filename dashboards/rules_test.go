package dashboards

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What every board must hold to, those to come included: each test here goes
// over all files of the folder.

// grey is the color of what is not known. It is that of nothing else.
const grey = "#808080"

// The values with which a tile says that there is nothing to show, so that this
// differs from a Prometheus that scrapes nothing, which answers nothing.
const (
	nothing = -1 // all is read
	unknown = -2 // something is not readable
)

// display is what Grafana shows for a value, nil for none: as
// getDisplayProcessor and createNoValuesFieldDisplay of @grafana/data do, which
// color "no data" as the first threshold, green on most tiles, unless a special
// mapping says otherwise.
func display(tb testing.TB, p panel, value *float64) (text, color string) {
	tb.Helper()
	f := p.FieldConfig.Defaults
	for _, m := range f.Mappings {
		raw, err := json.Marshal(m)
		if err != nil {
			tb.Fatal(err)
		}
		type result struct{ Text, Color string }
		switch m["type"] {
		case "value":
			var v struct{ Options map[string]result }
			if err := json.Unmarshal(raw, &v); err != nil {
				tb.Fatal(err)
			}
			if value != nil {
				if r, ok := v.Options[strconv.FormatFloat(*value, 'g', -1, 64)]; ok {
					return r.Text, r.Color
				}
			}
		case "special":
			var v struct {
				Options struct {
					Match  string
					Result result
				}
			}
			if err := json.Unmarshal(raw, &v); err != nil {
				tb.Fatal(err)
			}
			if value == nil && (v.Options.Match == "null" || v.Options.Match == "null+nan") {
				return v.Options.Result.Text, v.Options.Result.Color
			}
		default:
			tb.Errorf("%s: a mapping of type %v", p.Title, m["type"])
		}
	}
	color = f.Thresholds.Steps[0].Color
	if value == nil {
		return f.NoValue, color
	}
	for _, s := range f.Thresholds.Steps {
		if s.Value != nil && *value >= *s.Value {
			color = s.Color
		}
	}
	return strconv.FormatFloat(*value, 'g', 4, 64), color
}

// panels goes over the panels of every board, rows left out.
func panels(t *testing.T, each func(t *testing.T, p panel)) {
	t.Helper()
	for name, d := range load(t) {
		t.Run(name, func(t *testing.T) {
			for _, p := range d.Panels {
				if p.Type != "row" {
					each(t, p)
				}
			}
		})
	}
}

// TestEmptyTilesAreGrey: no data is never green, nor red, and "not scraped" is
// another text than "nothing to show".
func TestEmptyTilesAreGrey(t *testing.T) {
	panels(t, func(t *testing.T, p panel) {
		t.Helper()
		if p.Type != "stat" && p.Type != "bargauge" {
			return
		}
		none, color := display(t, p, nil)
		if color != grey || none == "" {
			t.Errorf("%s: without data %q in %s", p.Title, none, color)
		}
		if p.Type == "bargauge" {
			return
		}
		if none != "not scraped" {
			t.Errorf("%s: without data %q", p.Title, none)
		}
		for _, v := range []float64{nothing, unknown} {
			if text, color := display(t, p, &v); color != grey || text == none || text == strconv.Itoa(int(v)) {
				t.Errorf("%s: %v is shown as %q in %s", p.Title, v, text, color)
			}
		}
		for _, q := range p.Targets {
			// A range, or a recording rule, goes on for minutes after the last scrape.
			if !strings.Contains(q.Expr, `(gitlab_runner_fleet_up{gitlab=~"$gitlab"`) {
				t.Errorf("%s %s: does not look whether anything is scraped", p.Title, q.RefID)
			}
		}
	})
}

// TestEmptyPanelsGiveAReason: "No data" leaves open whether that is good.
func TestEmptyPanelsGiveAReason(t *testing.T) {
	panels(t, func(t *testing.T, p panel) {
		t.Helper()
		if none := p.FieldConfig.Defaults.NoValue; none == "" || strings.EqualFold(none, "no data") {
			t.Errorf("%s: nothing to show is %q", p.Title, none)
		}
		if p.Type != "table" {
			return
		}
		// The reason is for the table; a cell that is not known is blank.
		blank := false
		for _, o := range p.FieldConfig.Overrides {
			for _, q := range o.Properties {
				blank = blank || o.Matcher.ID == "byRegexp" && o.Matcher.Options == "/.*/" && q.ID == "noValue" && string(q.Value) == `""`
			}
		}
		if !blank {
			t.Errorf("%s: writes its reason into each empty cell", p.Title)
		}
	})
}

// The width in pixels that a window of 1280 leaves for 24 columns, and about
// what a character of a title needs.
const (
	narrow    = 1280 - 32
	character = 7.5
	padding   = 32
	border    = 24  // of a table
	least     = 150 // of a column without a width, which takes what is left
)

// TestBoardsFitIntoANarrowWindow: at 1280 pixels titles are whole, no column falls
// off a table, and the one that it is about comes first.
func TestBoardsFitIntoANarrowWindow(t *testing.T) {
	panels(t, func(t *testing.T, p panel) {
		t.Helper()
		pixels := p.GridPos.W * narrow / 24
		if need := padding + character*float64(len(p.Title)); need > float64(pixels) {
			t.Errorf("%q needs %.0f of %d pixels", p.Title, need, pixels)
		}
		if p.Type == "stat" && (p.GridPos.W < 4 || p.GridPos.W > 6) {
			t.Errorf("%s: %d columns wide; four to six tiles a row are 6 to 4", p.Title, p.GridPos.W)
		}
		if p.Type != "table" {
			return
		}
		widths, hidden := map[string]int{}, map[string]bool{}
		for _, o := range p.FieldConfig.Overrides {
			for _, q := range o.Properties {
				switch q.ID {
				case "custom.width":
					var w int
					if err := json.Unmarshal(q.Value, &w); err != nil {
						t.Errorf("%s: %v", p.Title, err)
					}
					widths[o.Matcher.Options] = w
				case "custom.hidden":
					hidden[o.Matcher.Options] = string(q.Value) == "true"
				}
			}
		}
		sum, rest, first, at := 0, 0, "", 0
		for _, tr := range p.Transformations {
			for source, name := range tr.Options.RenameByName {
				if tr.Options.ExcludeByName[source] || hidden[name] || source == "Time" {
					continue
				}
				if widths[name] == 0 {
					rest++
				}
				sum += cmp.Or(widths[name], least)
				if i := tr.Options.IndexByName[source]; first == "" || i < at {
					first, at = name, i
				}
			}
		}
		if rest != 1 || widths[first] != 0 {
			t.Errorf("%s: the rest of a wide window is for %d columns, not for %s", p.Title, rest, first)
		}
		if sum > pixels-border {
			t.Errorf("%s: its columns need %d of %d pixels", p.Title, sum, pixels-border)
		}
		if slices.Contains([]string{"Severity", "Time", "Id"}, first) || first == "GitLab" && p.Title != "By GitLab" {
			t.Errorf("%s: begins with %s", p.Title, first)
		}
	})
}

// TestUnknownRowsAreLast: Grafana sorts what is blank as the smallest, so a table
// that ascends begins with what is not known, unless each row has that value.
func TestUnknownRowsAreLast(t *testing.T) {
	panels(t, func(t *testing.T, p panel) {
		t.Helper()
		list, _ := p.Options["sortBy"].([]any)
		for _, s := range list {
			column, _ := s.(map[string]any)
			for _, tr := range p.Transformations {
				for source, name := range tr.Options.RenameByName {
					if name == column["displayName"] && column["desc"] != true && source != "Value #A" {
						t.Errorf("%s: ascends by %s", p.Title, name)
					}
				}
			}
		}
	})
}

// TestSeriesOfTagsNameTheirGitLab: two GitLabs may have the same tag.
func TestSeriesOfTagsNameTheirGitLab(t *testing.T) {
	panels(t, func(t *testing.T, p panel) {
		t.Helper()
		for _, q := range p.Targets {
			if strings.Contains(q.LegendFormat, "{{tag}}") && !strings.Contains(q.LegendFormat, "{{gitlab}} / {{tag}}") {
				t.Errorf("%s: %s", p.Title, q.LegendFormat)
			}
		}
	})
}

// TestGraphsReachThePresent: Grafana moves the end of a range to a multiple of the
// panel's interval, so that with one of 5 minutes the last 5 may be missing.
func TestGraphsReachThePresent(t *testing.T) {
	panels(t, func(t *testing.T, p panel) {
		t.Helper()
		if p.Interval == "" {
			return
		}
		if d, err := time.ParseDuration(p.Interval); err != nil || d > time.Minute {
			t.Errorf("%s: an interval of %s", p.Title, p.Interval)
		}
	})
}

// TestTimesHaveReadableTicks: Grafana divides an axis by tens, so that the unit s
// has ticks at 1.67 mins.
func TestTimesHaveReadableTicks(t *testing.T) {
	panels(t, func(t *testing.T, p panel) {
		t.Helper()
		if u := p.FieldConfig.Defaults.Unit; slices.Contains([]string{"s", "ms", "m", "h"}, u) {
			t.Errorf("%s: unit %s", p.Title, u)
		}
	})
}

// TestDataSourceFollowsTheDefault: without a choice Grafana takes the first by the
// alphabet, which may be another Prometheus.
func TestDataSourceFollowsTheDefault(t *testing.T) {
	for name, d := range load(t) {
		if v := d.variables()["datasource"]; v.Current["value"] != "default" {
			t.Errorf("%s: the data source is %v", name, v.Current)
		}
	}
}

// TestAlertsMarkTheirBeginning: bands over the whole time of an alert drown a graph.
// Critical ones are shown at first, and where a board has a choice of tags, those of
// other tags are not.
func TestAlertsMarkTheirBeginning(t *testing.T) {
	begins := regexp.MustCompile(`^(ALERTS\{[^}]*alertstate="firing"[^}]*\}) unless (ALERTS\{[^}]*\}) offset 1m$`)
	for name, d := range load(t) {
		alerts := 0
		for _, a := range d.Annotations.List {
			if a.BuiltIn == 1 {
				if a.Datasource != builtin {
					t.Errorf("%s: annotation %s reads %v", name, a.Name, a.Datasource)
				}
				continue
			}
			m := begins.FindStringSubmatch(a.Expr)
			if a.Datasource != ours || len(m) != 3 || m[1] != m[2] || a.Step != "60s" {
				t.Errorf("%s: annotation %+v", name, a)
				continue
			}
			if a.Enable {
				alerts++
			}
			if critical := strings.Contains(m[1], `severity="critical"`) || strings.Contains(m[1], `runner_id="$runner"`); a.Enable != critical {
				t.Errorf("%s: annotation %s is shown at first: %t", name, a.Name, a.Enable)
			}
			if _, ok := d.variables()["tag"]; ok && !strings.Contains(m[1], `tag=~"$tag|"`) && name != "runner.json" {
				t.Errorf("%s: annotation %s shows alerts of every tag", name, a.Name)
			}
		}
		if alerts == 0 {
			t.Errorf("%s: no annotations for alerts", name)
		}
	}
}

// TestMenuIsShort: the names of all boards side by side take two lines.
func TestMenuIsShort(t *testing.T) {
	for name, d := range load(t) {
		for _, l := range d.Links {
			if l.Type == "dashboards" && (!l.AsDropdown || len(l.Title) > 12) {
				t.Errorf("%s: menu %q, as a list %t", name, l.Title, !l.AsDropdown)
			}
		}
	}
}

// find is the panel of a board, by its title.
func find(t *testing.T, file, kind, title string) panel {
	t.Helper()
	for _, p := range load(t)[file].Panels {
		if p.Type == kind && p.Title == title {
			return p
		}
	}
	t.Fatalf("%s has no %s %q", file, kind, title)
	return panel{}
}

// TestCriticalAlertsComeFirst: neither newer warnings nor a hundred alerts about
// single runners hide one.
func TestCriticalAlertsComeFirst(t *testing.T) {
	p := find(t, "overview.json", "table", "Alerts")
	if got := fmt.Sprint(p.Options["sortBy"]); got != "[map[desc:true displayName:Severity] map[desc:true displayName:Since]]" {
		t.Errorf("sorted by %s", got)
	}
	limits := regexp.MustCompile(`topk\((\d+), max by \((.*?)\) \(ALERTS_FOR_STATE\{[^}]*(severity[^}]*?), gitlab`).FindAllStringSubmatch(p.Targets[0].Expr, -1)
	if len(limits) != 2 || limits[0][3] != `severity="critical"` || limits[1][3] != `severity="warning"` {
		t.Errorf("limits: %q", limits)
	}
	for _, l := range limits {
		if strings.Contains(l[2], "runner_id") {
			t.Errorf("a row for each runner: by %s", l[2])
		}
	}
	for title, severity := range map[string]string{"Critical": "critical", "Warnings": "warning"} {
		if expr := find(t, "overview.json", "stat", title).Targets[0].Expr; !strings.Contains(expr, `severity="`+severity+`"`) {
			t.Errorf("%s counts %s", title, expr)
		}
	}
}
