// Package dashboards holds the Grafana dashboards beside it to what they
// promise: they import into Grafana 10 to 12 as they are, say what they show,
// link to each other, and every panel is answered by a real Prometheus.
// Metrics and labels of their expressions are held by test/promcheck.
package dashboards

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// uids are stable: alerts, runbooks and people's bookmarks name them. A board
// that is new is here too, grf- and its file's name.
var uids = []string{"grf-overview", "grf-tags", "grf-runner", "grf-jobs", "grf-exporter"}

func uid(file string) string { return "grf-" + strings.TrimSuffix(file, ".json") }

type source struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

var (
	ours    = source{Type: "prometheus", UID: "${datasource}"}
	builtin = source{Type: "grafana", UID: "-- Grafana --"}
)

type link struct {
	Title       string   `json:"title"`
	Type        string   `json:"type"`
	URL         string   `json:"url"`
	Icon        string   `json:"icon"`
	Tooltip     string   `json:"tooltip"`
	Tags        []string `json:"tags"`
	AsDropdown  bool     `json:"asDropdown"`
	IncludeVars bool     `json:"includeVars"`
	KeepTime    bool     `json:"keepTime"`
	TargetBlank bool     `json:"targetBlank"`
}

type target struct {
	Datasource   source `json:"datasource"`
	EditorMode   string `json:"editorMode"`
	Expr         string `json:"expr"`
	Format       string `json:"format"`
	Instant      bool   `json:"instant"`
	Range        bool   `json:"range"`
	LegendFormat string `json:"legendFormat"`
	RefID        string `json:"refId"`
}

type step struct {
	Color string   `json:"color"`
	Value *float64 `json:"value"`
}

type thresholds struct {
	Mode  string `json:"mode"`
	Steps []step `json:"steps"`
}

type transformation struct {
	ID      string `json:"id"`
	Options struct {
		ExcludeByName map[string]bool   `json:"excludeByName"`
		IncludeByName map[string]bool   `json:"includeByName"`
		IndexByName   map[string]int    `json:"indexByName"`
		RenameByName  map[string]string `json:"renameByName"`
	} `json:"options"`
}

type panel struct {
	ID          int                      `json:"id"`
	Type        string                   `json:"type"`
	Title       string                   `json:"title"`
	Description string                   `json:"description"`
	GridPos     struct{ H, W, X, Y int } `json:"gridPos"`
	Datasource  source                   `json:"datasource"`
	Targets     []target                 `json:"targets"`
	Interval    string                   `json:"interval"`
	Options     map[string]any           `json:"options"`
	FieldConfig struct {
		Defaults struct {
			Unit       string           `json:"unit"`
			Min        *float64         `json:"min"`
			Max        *float64         `json:"max"`
			Decimals   *int             `json:"decimals"`
			NoValue    string           `json:"noValue"`
			Color      map[string]any   `json:"color"`
			Custom     map[string]any   `json:"custom"`
			Links      []link           `json:"links"`
			Mappings   []map[string]any `json:"mappings"`
			Thresholds thresholds       `json:"thresholds"`
		} `json:"defaults"`
		Overrides []struct {
			Matcher struct {
				ID      string `json:"id"`
				Options string `json:"options"`
			} `json:"matcher"`
			Properties []struct {
				ID    string          `json:"id"`
				Value json.RawMessage `json:"value"`
			} `json:"properties"`
		} `json:"overrides"`
	} `json:"fieldConfig"`
	Transformations []transformation `json:"transformations"`
	Collapsed       bool             `json:"collapsed"`
	Panels          []panel          `json:"panels"`
	PluginVersion   string           `json:"pluginVersion"`
}

type variable struct {
	Type        string          `json:"type"`
	Name        string          `json:"name"`
	Label       string          `json:"label"`
	Description string          `json:"description"`
	Datasource  source          `json:"datasource"`
	Definition  string          `json:"definition"`
	Query       json.RawMessage `json:"query"`
	Regex       string          `json:"regex"`
	Refresh     int             `json:"refresh"`
	Sort        int             `json:"sort"`
	Hide        int             `json:"hide"`
	Multi       bool            `json:"multi"`
	IncludeAll  bool            `json:"includeAll"`
	AllValue    string          `json:"allValue"`
	SkipURLSync bool            `json:"skipUrlSync"`
	Options     []any           `json:"options"`
	Current     map[string]any  `json:"current"`
}

// query is the text of a query variable.
func (v variable) query(tb testing.TB) string {
	tb.Helper()
	var q struct {
		QryType int    `json:"qryType"`
		Query   string `json:"query"`
		RefID   string `json:"refId"`
	}
	if err := json.Unmarshal(v.Query, &q); err != nil {
		tb.Fatalf("%s: %v", v.Name, err)
	}
	// 1: label values, 3: the result of a query (PrometheusVariableQuery).
	if want := map[bool]int{true: 1, false: 3}[strings.HasPrefix(q.Query, "label_values(")]; q.QryType != want || q.RefID == "" || q.Query != v.Definition {
		tb.Errorf("variable %s: query %+v with definition %q", v.Name, q, v.Definition)
	}
	return q.Query
}

type dashboard struct {
	Annotations struct {
		List []struct {
			BuiltIn         int    `json:"builtIn"`
			Datasource      source `json:"datasource"`
			Enable          bool   `json:"enable"`
			Hide            bool   `json:"hide"`
			IconColor       string `json:"iconColor"`
			Name            string `json:"name"`
			Type            string `json:"type"`
			Expr            string `json:"expr"`
			Step            string `json:"step"`
			TitleFormat     string `json:"titleFormat"`
			TextFormat      string `json:"textFormat"`
			TagKeys         string `json:"tagKeys"`
			UseValueForTime bool   `json:"useValueForTime"`
		} `json:"list"`
	} `json:"annotations"`
	Description   string   `json:"description"`
	Editable      bool     `json:"editable"`
	FiscalYear    int      `json:"fiscalYearStartMonth"`
	GraphTooltip  int      `json:"graphTooltip"`
	ID            *int     `json:"id"`
	Links         []link   `json:"links"`
	LiveNow       bool     `json:"liveNow"`
	Panels        []panel  `json:"panels"`
	Refresh       string   `json:"refresh"`
	SchemaVersion int      `json:"schemaVersion"`
	Tags          []string `json:"tags"`
	Templating    struct {
		List []variable `json:"list"`
	} `json:"templating"`
	Time       struct{ From, To string } `json:"time"`
	Timepicker map[string]any            `json:"timepicker"`
	Timezone   string                    `json:"timezone"`
	Title      string                    `json:"title"`
	UID        string                    `json:"uid"`
	Version    int                       `json:"version"`
	WeekStart  string                    `json:"weekStart"`
}

func (d dashboard) variables() map[string]variable {
	out := map[string]variable{}
	for _, v := range d.Templating.List {
		out[v.Name] = v
	}
	return out
}

// load reads all dashboards. A key that is not listed above is a spelling
// mistake, or something Grafana 10 may not know.
func load(tb testing.TB) map[string]dashboard {
	tb.Helper()
	files, err := filepath.Glob("*.json")
	if err != nil {
		tb.Fatal(err)
	}
	out := map[string]dashboard{}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			tb.Fatal(err)
		}
		var d dashboard
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&d); err != nil {
			tb.Fatalf("%s: %v", f, err)
		}
		out[f] = d
	}
	for _, want := range uids {
		if !slices.ContainsFunc(files, func(f string) bool { return uid(f) == want }) {
			tb.Fatalf("no dashboard %s in %v", want, files)
		}
	}
	return out
}

// TestBoardsImportAndBeginWithTheVerdict: a fixed uid and no id, so that an import
// replaces the same board and no other; a schema that Grafana 10 to 12 read.
func TestBoardsImportAndBeginWithTheVerdict(t *testing.T) {
	for name, d := range load(t) {
		if d.UID != uid(name) {
			t.Errorf("%s: uid %q", name, d.UID)
		}
		if d.Title == "" || d.Description == "" || !strings.HasPrefix(d.Title, "GitLab runner fleet / ") {
			t.Errorf("%s: title %q, description %q", name, d.Title, d.Description)
		}
		// An id is the database's own: with one, an import overwrites a stranger.
		if d.ID != nil {
			t.Errorf("%s: id %d", name, *d.ID)
		}
		// Grafana 10.0 writes 38 and refuses nothing older; later releases migrate from it.
		if d.SchemaVersion < 36 || d.SchemaVersion > 38 {
			t.Errorf("%s: schemaVersion %d", name, d.SchemaVersion)
		}
		if d.Time.From != "now-6h" || d.Time.To != "now" || d.Refresh != "30s" {
			t.Errorf("%s: opens with %v every %s", name, d.Time, d.Refresh)
		}
		if !slices.Contains(d.Tags, "gitlab-runner-fleet") {
			t.Errorf("%s: tags %v", name, d.Tags)
		}
		if p := d.Panels[0]; p.Type != "row" || p.Title != "Is it fine?" {
			t.Errorf("%s: begins with %q", name, p.Title)
		}
	}
}

// TestPanelsDoNotOverlap: each has a place of its own, in the order of the file.
func TestPanelsDoNotOverlap(t *testing.T) {
	for name, d := range load(t) {
		t.Run(name, func(t *testing.T) {
			ids := map[int]bool{}
			taken := map[[2]int]string{}
			y := 0
			for _, p := range d.Panels {
				if p.ID <= 0 || ids[p.ID] {
					t.Errorf("%s: id %d", p.Title, p.ID)
				}
				ids[p.ID] = true
				g := p.GridPos
				if g.W < 1 || g.H < 1 || g.X < 0 || g.Y < 0 || g.X+g.W > 24 {
					t.Errorf("%s: stands at %+v", p.Title, g)
				}
				if g.Y < y {
					t.Errorf("%s: above the panel before it", p.Title)
				}
				y = g.Y
				for dx := range g.W {
					for dy := range g.H {
						at := [2]int{g.X + dx, g.Y + dy}
						if other, there := taken[at]; there {
							t.Fatalf("%s lies over %s", p.Title, other)
						}
						taken[at] = p.Title
					}
				}
			}
		})
	}
}

// units are those of Grafana that are in use here; suffix: stands for the rest.
var units = []string{"none", "percentunit", "reqps", "bytes", "dateTimeFromNow", "dthms", "dtdhms"}

// customs are the options of a panel's fields by its type.
var customs = map[string][]string{
	"timeseries": {
		"drawStyle", "lineInterpolation", "lineWidth", "fillOpacity", "gradientMode", "showPoints", "pointSize", "spanNulls", "axisPlacement", "axisLabel", "axisSoftMax",
		"scaleDistribution", "stacking", "hideFrom", "axisBorderShow", "axisCenteredZero", "axisColorMode", "barAlignment", "insertNulls", "thresholdsStyle",
	},
	"table":    {"align", "cellOptions", "inspect", "filterable", "width", "hidden"},
	"stat":     {},
	"bargauge": {},
}

func known(unit string) bool {
	return slices.Contains(units, unit) || strings.HasPrefix(unit, "suffix:")
}

// TestPanelsHoldToGrafanasSchema: what a release of Grafana does not know, it
// ignores without a word.
func TestPanelsHoldToGrafanasSchema(t *testing.T) {
	for name, d := range load(t) {
		t.Run(name, func(t *testing.T) {
			titles := map[string]bool{}
			for _, p := range d.Panels {
				if p.Title == "" {
					t.Errorf("panel %d has no title", p.ID)
				}
				if titles[p.Type+p.Title] {
					t.Errorf("two panels are called %q", p.Title)
				}
				titles[p.Type+p.Title] = true
				if p.Type == "row" {
					if p.Collapsed || len(p.Panels) > 0 {
						t.Errorf("row %s is collapsed: what is in it is not seen at night", p.Title)
					}
					continue
				}
				custom, ok := customs[p.Type]
				if !ok {
					t.Fatalf("%s: type %q", p.Title, p.Type)
				}
				if len(p.Description) < 20 || !strings.HasSuffix(p.Description, ".") {
					t.Errorf("%s: description %q", p.Title, p.Description)
				}
				if p.Datasource != ours {
					t.Errorf("%s reads %v", p.Title, p.Datasource)
				}
				f := p.FieldConfig.Defaults
				if !known(f.Unit) {
					t.Errorf("%s: unit %q", p.Title, f.Unit)
				}
				checkThresholds(t, p.Title, f.Thresholds)
				for k := range f.Custom {
					if !slices.Contains(custom, k) {
						t.Errorf("%s: a %s has no option %s", p.Title, p.Type, k)
					}
				}
				if p.Type == "timeseries" {
					legend, _ := p.Options["legend"].(map[string]any)
					if legend["showLegend"] != true {
						t.Errorf("%s: no legend", p.Title)
					}
				}
				checkOverrides(t, p, custom)
				checkTargets(t, p)
			}
		})
	}
}

func checkThresholds(t *testing.T, title string, th thresholds) {
	t.Helper()
	if th.Mode != "absolute" || len(th.Steps) == 0 || th.Steps[0].Value != nil {
		t.Errorf("%s: thresholds %+v", title, th)
		return
	}
	for i, s := range th.Steps[1:] {
		if s.Value == nil || s.Color == "" || i > 0 && *s.Value <= *th.Steps[i].Value {
			t.Errorf("%s: thresholds do not rise: %+v", title, th)
		}
	}
}

// names are what the fields of a panel are called when it is drawn; a template
// where a label is in it.
func (p panel) names() []string {
	var out []string
	for _, tr := range p.Transformations {
		if tr.ID == "organize" {
			return slices.Collect(maps.Values(tr.Options.RenameByName))
		}
	}
	for _, q := range p.Targets {
		out = append(out, q.LegendFormat)
	}
	return out
}

var label = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)

func (p panel) has(name string) bool {
	return slices.ContainsFunc(p.names(), func(n string) bool {
		return n == name || label.MatchString(n)
	})
}

func checkOverrides(t *testing.T, p panel, custom []string) {
	t.Helper()
	for _, o := range p.FieldConfig.Overrides {
		if p.Type == "table" && o.Matcher.ID == "byRegexp" && o.Matcher.Options == "/.*/" {
			continue // the text of the empty table is not that of an empty cell: rules_test.go
		}
		if o.Matcher.ID != "byName" {
			t.Errorf("%s: override %v", p.Title, o.Matcher)
		}
		// Colours of a set of words are shared by panels that show some of them.
		if p.Type == "table" && !p.has(o.Matcher.Options) {
			t.Errorf("%s: overrides %q, which is none of %q", p.Title, o.Matcher.Options, p.names())
		}
		for _, q := range o.Properties {
			name, isCustom := strings.CutPrefix(q.ID, "custom.")
			if isCustom && !slices.Contains(custom, name) || !isCustom && !slices.Contains([]string{"unit", "decimals", "thresholds", "mappings", "links", "min", "max", "color", "noValue"}, name) {
				t.Errorf("%s: property %s", p.Title, q.ID)
			}
			switch q.ID {
			case "unit":
				var unit string
				if err := json.Unmarshal(q.Value, &unit); err != nil || !known(unit) {
					t.Errorf("%s: unit %s of %s", p.Title, q.Value, o.Matcher.Options)
				}
			case "thresholds":
				var th thresholds
				if err := json.Unmarshal(q.Value, &th); err != nil {
					t.Errorf("%s: %v", p.Title, err)
				}
				checkThresholds(t, p.Title, th)
			}
		}
	}
	for _, s := range sorted(p) {
		if !p.has(s) {
			t.Errorf("%s: sorted by %q, which is none of %q", p.Title, s, p.names())
		}
	}
}

// sorted are the columns that a table is sorted by.
func sorted(p panel) []string {
	var out []string
	list, _ := p.Options["sortBy"].([]any)
	for _, s := range list {
		column, _ := s.(map[string]any)
		name, _ := column["displayName"].(string)
		out = append(out, name)
	}
	return out
}

var (
	rates   = regexp.MustCompile(`\b(i?rate)\([^\[\]]*\[([^\]]*)\]`)
	windows = regexp.MustCompile(`\[([^\]]*)\]`)
)

func checkTargets(t *testing.T, p panel) {
	t.Helper()
	if len(p.Targets) == 0 {
		t.Errorf("%s asks nothing", p.Title)
	}
	refs := map[string]bool{}
	for _, q := range p.Targets {
		where := p.Title + " " + q.RefID
		if q.Datasource != ours || q.RefID == "" || refs[q.RefID] || q.Expr == "" || q.LegendFormat == "" {
			t.Errorf("%s: %+v", where, q)
		}
		refs[q.RefID] = true
		if q.Instant == q.Range {
			t.Errorf("%s: instant %t, range %t", where, q.Instant, q.Range)
		}
		if (p.Type == "table") != (q.Format == "table") || (p.Type == "timeseries") != q.Range {
			t.Errorf("%s: a %s asks for format %q, range %t", where, p.Type, q.Format, q.Range)
		}
		if (p.Type == "timeseries" || p.Type == "bargauge") && q.LegendFormat == "__auto" {
			t.Errorf("%s: no legend", where)
		}
		for _, m := range rates.FindAllStringSubmatch(q.Expr, -1) {
			if m[2] != "$__rate_interval" {
				t.Errorf("%s: %s over %s: too short a window where scrapes are rare, too long a one where they are not", where, m[1], m[2])
			}
		}
		// What is evaluated once may look far back, as what has @ end() is; what is
		// evaluated at each of 700 steps may not.
		for _, m := range windows.FindAllStringSubmatch(strings.ReplaceAll(q.Expr, "[$__range] @ end()", ""), -1) {
			if q.Range && m[1] != "$__rate_interval" && !strings.Contains(q.Expr, `{gitlab=~"$gitlab", runner_id="$runner"`) {
				t.Errorf("%s: a window of %s at each step, of more than one runner", where, m[1])
			}
		}
		// le="60" is le="60.0" since Prometheus 3.
		if strings.Contains(q.Expr, `le="`) && !strings.Contains(q.Expr, `le="+Inf"`) {
			t.Errorf("%s: the spelling of le differs between releases of Prometheus", where)
		}
	}
}

var dollar = regexp.MustCompile(`\$\{?(\w+)`)

// builtins are Grafana's own variables.
var builtins = []string{"__rate_interval", "__range", "__url_time_range", "__data", "__field"}

// TestVariablesAreFilledInAndUsed: one that nothing fills in stays in the query as text.
func TestVariablesAreFilledInAndUsed(t *testing.T) {
	for name, d := range load(t) {
		t.Run(name, func(t *testing.T) {
			raw, err := json.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			vars := d.variables()
			if len(vars) != len(d.Templating.List) {
				t.Error("two variables have one name")
			}
			used := map[string]bool{}
			for _, m := range dollar.FindAllStringSubmatch(string(raw), -1) {
				used[m[1]] = true
				if _, there := vars[m[1]]; !there && m[1] != "__all" && !slices.Contains(builtins, m[1]) {
					t.Errorf("nothing fills in $%s", m[1])
				}
			}
			for i, v := range d.Templating.List {
				if v.Label == "" || v.Description == "" {
					t.Errorf("%s: label %q, description %q", v.Name, v.Label, v.Description)
				}
				switch v.Type {
				case "datasource":
					if i != 0 || v.Name != "datasource" || string(v.Query) != `"prometheus"` {
						t.Errorf("%s: %s at place %d", v.Name, v.Query, i)
					}
				case "query":
					if v.Datasource != ours {
						t.Errorf("%s reads %v", v.Name, v.Datasource)
					}
					checkQuery(t, v, d.Templating.List[:i])
					if !used[v.Name] {
						t.Errorf("nobody uses $%s", v.Name)
					}
				case "textbox":
					// An address that each site has another one of.
					var address string
					if err := json.Unmarshal(v.Query, &address); err != nil || v.Current["value"] != address || !strings.HasPrefix(address, "https://") || !used[v.Name] {
						t.Errorf("%s: %s, chosen is %v", v.Name, v.Query, v.Current)
					}
				default:
					t.Errorf("%s: type %q", v.Name, v.Type)
				}
				// A list of thousands of values as a regular expression is the slowest
				// query there is; .* costs nothing.
				if v.IncludeAll && v.Hide == 0 && v.AllValue != ".*" {
					t.Errorf("%s: all is %q", v.Name, v.AllValue)
				}
				if v.Multi && !v.IncludeAll {
					t.Errorf("%s: many and no All", v.Name)
				}
			}
			for _, p := range d.Panels {
				for _, q := range p.Targets {
					checkMatchers(t, p.Title+" "+q.RefID, q.Expr, vars)
				}
			}
		})
	}
}

func checkQuery(t *testing.T, v variable, before []variable) {
	t.Helper()
	q := v.query(t)
	if !regexp.MustCompile(`^label_values\(.+, \w+\)$|^query_result\(.+\)$`).MatchString(q) {
		t.Errorf("%s: query %q", v.Name, q)
	}
	if strings.HasPrefix(q, "query_result(") && !strings.Contains(v.Regex, "(?<value>") {
		t.Errorf("%s: regex %q", v.Name, v.Regex)
	}
	for _, m := range dollar.FindAllStringSubmatch(q, -1) {
		if !slices.ContainsFunc(before, func(b variable) bool { return b.Name == m[1] }) {
			t.Errorf("%s: $%s is chosen after it", v.Name, m[1])
		}
	}
	if v.Refresh != 1 && v.Refresh != 2 {
		t.Errorf("%s: never read anew", v.Name)
	}
}

// matcher finds a variable in a matcher.
var matcher = regexp.MustCompile(`\w+(=~|=|!=|!~)"\$\{?(\w+)\}?(\|?)"`)

func checkMatchers(t *testing.T, where, expr string, vars map[string]variable) {
	t.Helper()
	for _, m := range matcher.FindAllStringSubmatch(expr, -1) {
		if v := vars[m[2]]; (v.Multi || v.IncludeAll) && m[1] != "=~" && m[1] != "!~" {
			t.Errorf("%s: $%s may be several values: %s", where, m[2], m[0])
		}
	}
}

// fieldName is a field's value in a link.
var fieldName = regexp.MustCompile(`\$\{__data\.fields\.(\w+)`)

// TestLinksLeadSomewhere: to a dashboard that exists, with variables that it has.
func TestLinksLeadSomewhere(t *testing.T) {
	all := load(t)
	byUID := map[string]dashboard{}
	for _, d := range all {
		byUID[d.UID] = d
	}
	reached := map[string]bool{}
	admin, runbooks := 0, 0
	check := func(t *testing.T, p panel, l link) {
		t.Helper()
		where := p.Title + ": link " + l.Title
		if l.Title == "" {
			t.Errorf("%s has no title", where)
		}
		for _, m := range fieldName.FindAllStringSubmatch(l.URL, -1) {
			if !p.has(m[1]) {
				t.Errorf("%s: no column %s", where, m[1])
			}
		}
		if strings.HasPrefix(l.URL, "${__data.fields.Address:raw}/admin/runners/${") {
			admin++
			return
		}
		// TestRunbooks of alerts holds the files to the names of alerts; those that a query writes are below.
		if l.URL == "${runbooks:raw}/${__data.fields.Alert}.md" || l.URL == "${runbooks:raw}/${__data.fields.Runbook}.md" {
			runbooks++
			return
		}
		u, err := url.Parse(regexp.MustCompile(`\$\{[^}]*\}`).ReplaceAllString(l.URL, "x"))
		if err != nil {
			t.Fatal(err)
		}
		uid, ok := strings.CutPrefix(u.Path, "/d/")
		to, there := byUID[uid]
		if !ok || !there {
			t.Fatalf("%s leads to %s", where, l.URL)
		}
		reached[uid] = true
		if !strings.Contains(l.URL, "var-datasource=${datasource}") || !strings.Contains(l.URL, "${__url_time_range}") {
			t.Errorf("%s forgets the data source or the time: %s", where, l.URL)
		}
		for k := range u.Query() {
			if name, isVar := strings.CutPrefix(k, "var-"); isVar {
				if _, there := to.variables()[name]; !there {
					t.Errorf("%s: %s has no variable %s", where, uid, name)
				}
			}
		}
	}
	for name, d := range all {
		t.Run(name, func(t *testing.T) {
			menu := false
			for _, l := range d.Links {
				menu = menu || l.Type == "dashboards" && slices.Equal(l.Tags, []string{"gitlab-runner-fleet"}) && l.IncludeVars && l.KeepTime
			}
			if !menu {
				t.Error("no way to the other dashboards")
			}
			for _, p := range d.Panels {
				for _, l := range p.FieldConfig.Defaults.Links {
					check(t, p, l)
				}
				for _, o := range p.FieldConfig.Overrides {
					for _, q := range o.Properties {
						var links []link
						if q.ID != "links" {
							continue
						}
						if err := json.Unmarshal(q.Value, &links); err != nil {
							t.Fatal(err)
						}
						for _, l := range links {
							check(t, p, l)
						}
					}
				}
			}
		})
	}
	for _, uid := range []string{"grf-tags", "grf-runner", "grf-jobs", "grf-exporter"} {
		if !reached[uid] {
			t.Errorf("no panel leads to %s", uid)
		}
	}
	if runbooks == 0 {
		t.Error("no alert leads to its runbook")
	}
	for name, d := range all {
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				for _, m := range regexp.MustCompile(`"runbook", "(\w+)"`).FindAllStringSubmatch(q.Expr, -1) {
					if _, err := os.Stat("../docs/runbooks/" + m[1] + ".md"); err != nil {
						t.Errorf("%s: %s: %v", name, p.Title, err)
					}
				}
			}
		}
	}
	if admin == 0 {
		t.Error("no panel leads to GitLab's admin area")
	}
	if !slices.ContainsFunc(all["runner.json"].Links, func(l link) bool { return l.Type == "link" && l.URL == "${gitlab_url:raw}/admin/runners/${runner}" }) {
		t.Error("the runner's dashboard does not lead to its page in GitLab")
	}
}

// TestNarrowingIsWhole: a variable that narrows one column of a table, or one line of
// a graph, and not the others shows numbers that do not belong together. And what
// picks the largest must pick among those that are shown.
func TestNarrowingIsWhole(t *testing.T) {
	picks := regexp.MustCompile(`\b(?:topk|bottomk)\((?:[2-9]|\d\d+), `)
	for name, d := range load(t) {
		for _, p := range d.Panels {
			n, all := 0, len(p.Targets)
			for _, q := range p.Targets {
				if !strings.Contains(q.Expr, "$runner_type") {
					if q.LegendFormat == "{{missing}} of {{all}} missing" {
						all-- // says that the number is not known
					}
					continue
				}
				n++
				for _, at := range picks.FindAllStringIndex(q.Expr, -1) {
					if !strings.Contains(enclosed(q.Expr[at[1]:]), "$runner_type") {
						t.Errorf("%s: %s %s: picks before it filters", name, p.Title, q.RefID)
					}
				}
			}
			if n > 0 && n < all {
				t.Errorf("%s: %s: %d of %d queries look at $runner_type", name, p.Title, n, all)
			}
		}
	}
}

// enclosed is the text up to the parenthesis that was open before it.
func enclosed(s string) string {
	depth := 1
	for i, c := range s {
		switch c {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return s[:i]
			}
		}
	}
	return s
}

// TestDocumentationShowsEveryBoard: the documentation shows every dashboard, in pictures that a
// slow line can bear.
func TestDocumentationShowsEveryBoard(t *testing.T) {
	text, err := os.ReadFile("../docs/dashboards.md")
	if err != nil {
		t.Fatal(err)
	}
	for file := range load(t) {
		picture := strings.TrimSuffix(file, ".json") + ".png"
		info, err := os.Stat(filepath.Join("../docs/images", picture))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() < 20_000 || info.Size() > 300_000 {
			t.Errorf("%s has %d bytes", picture, info.Size())
		}
		for _, want := range []string{"](images/" + picture + ")", "../dashboards/" + file, "`" + uid(file) + "`"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("docs/dashboards.md does not name %s", want)
			}
		}
	}
}
