// Package docs holds the documentation to the code: tables are generated,
// names are looked up, links are followed, examples are loaded. A document that
// names a flag, a key or a metric that is gone fails here, and so does a new
// one that no document names.
//
//	go test ./docs -update
//
// writes the generated parts anew.
package docs

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/prometheus/common/model"

	"gitlab-runner-fleet-exporter/collector"
	"gitlab-runner-fleet-exporter/config"
	"gitlab-runner-fleet-exporter/internal/app"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

var update = flag.Bool("update", false, "write the generated parts of the documents")

const (
	root      = ".."
	readme    = "../README.md"
	readmeZh  = "../README.zh-CN.md"
	reference = "configuration.md"
	metrics   = "metrics.md"
	trouble   = "troubleshooting.md"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// generated compares what stands between a document's markers with want, or
// writes it there.
func generated(t *testing.T, path, name, want string) {
	t.Helper()
	text := read(t, path)
	begin, end := "<!-- "+name+":begin -->\n", "<!-- "+name+":end -->"
	head, rest, ok := strings.Cut(text, begin)
	have, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s: no markers %s…%s", path, strings.TrimSpace(begin), end)
	}
	want = "\n" + strings.TrimSpace(want) + "\n\n"
	if have == want {
		return
	}
	if !*update {
		t.Fatalf("%s: the part %q is not what the code makes: run go test ./docs -update and look at the difference", path, name)
	}
	if err := os.WriteFile(path, []byte(head+begin+want+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestMetricTablesAreGenerated(t *testing.T) {
	generated(t, metrics, "metrics", fullTable())
}

// fullTable is the reference's: one table each for the fleet, its runners, and
// the exporter itself.
func fullTable() string {
	var b strings.Builder
	for i, part := range []struct {
		group collector.Group
		title string
	}{
		{collector.GroupFleet, "The fleet. Every family has the label `shard` too where `--shard.count` is above 1."},
		{collector.GroupRunner, "Each runner. The label `shard` likewise."},
		{collector.GroupExporter, "The exporter about itself."},
	} {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(part.title + "\n\n| family | type | labels | stability | series per GitLab | meaning |\n|---|---|---|---|---|---|\n")
		for _, f := range collector.Families() {
			if f.Group != part.group {
				continue
			}
			labels := ""
			if len(f.Labels) > 0 {
				labels = "`" + strings.Join(f.Labels, "`, `") + "`"
			}
			cells := []string{"`" + f.Name + "`", string(f.Type), labels, string(f.Stability), f.Series, strings.TrimSpace(f.Help + " " + f.Notes)}
			for i := range cells {
				cells[i] = strings.ReplaceAll(cells[i], "|", `\|`)
			}
			b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
		}
	}
	return b.String()
}

// TestEachFamilyHasOneWholeRow: each family has one row, and no cell is split by its text.
func TestEachFamilyHasOneWholeRow(t *testing.T) {
	rows := map[string]int{}
	for line := range strings.Lines(fullTable()) {
		if !strings.HasPrefix(line, "| `gitlab_") {
			continue
		}
		cells := strings.Split(strings.ReplaceAll(line, `\|`, ""), "|")
		if len(cells) != 8 {
			t.Errorf("%d cells in %q", len(cells)-2, line)
		}
		rows[strings.Trim(cells[1], " `")]++
	}
	for _, f := range collector.Families() {
		if rows[f.Name] != 1 {
			t.Errorf("%s stands %d times in the documentation", f.Name, rows[f.Name])
		}
	}
	if len(rows) != len(collector.Families()) {
		t.Errorf("%d rows for %d families", len(rows), len(collector.Families()))
	}
}

// A programFlag is what --help shows of a flag.
type programFlag struct{ name, value, help, env string }

var (
	helpFlag = regexp.MustCompile(`^\s+(?:-h, )?--(?:\[no-\])?([a-z.-]+)(?:=(\S+))?(?: \.\.\.)?(?:\s+(.*))?$`)
	helpEnv  = regexp.MustCompile(`\s*\(\$([A-Z_]+)\)$`)
)

func flags(t *testing.T) []programFlag {
	t.Helper()
	t.Setenv("COLUMNS", "4000") // a line for each flag
	var out, errs bytes.Buffer
	if code := app.Run(t.Context(), []string{"--help"}, &out, &errs); code != 0 {
		t.Fatalf("--help ended with %d: %s", code, errs.String())
	}
	_, list, ok := strings.Cut(out.String(), "\nFlags:\n")
	if !ok {
		t.Fatalf("--help has no list of flags:\n%s", out.String())
	}
	var all []programFlag
	for line := range strings.Lines(list) {
		line = strings.TrimRight(line, "\n")
		if m := helpFlag.FindStringSubmatch(line); m != nil {
			all = append(all, programFlag{name: "--" + m[1], value: m[2], help: m[3]})
			continue
		}
		if text := strings.TrimSpace(line); text != "" { // a long flag's help begins on the next line
			f := &all[len(all)-1]
			f.help = strings.TrimSpace(f.help + " " + text)
		}
	}
	for i := range all {
		f := &all[i]
		if m := helpEnv.FindStringSubmatch(f.help); m != nil {
			f.env, f.help = m[1], strings.TrimSuffix(f.help, m[0])
		}
		f.value = strings.Trim(f.value, `"`)
	}
	if len(all) < 15 {
		t.Fatalf("only %d flags found in --help:\n%s", len(all), out.String())
	}
	return all
}

func TestFlagTableIsGenerated(t *testing.T) {
	var b strings.Builder
	b.WriteString("| flag | default | environment | meaning |\n|---|---|---|---|\n")
	for _, f := range flags(t) {
		value := "`" + f.value + "`"
		if f.value == "" || strings.ToUpper(f.value) == f.value && f.value != strings.ToLower(f.value) {
			value = "" // none, or a placeholder such as FILE
		}
		env := ""
		if f.env != "" {
			env = "`" + f.env + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.name, value, env, f.help)
	}
	generated(t, reference, "flags", b.String())
}

// Flags of other programs that the documents name.
var foreignFlags = map[string]bool{
	"--web.enable-remote-write-receiver": true,
	"--cluster.listen-address":           true,
}

var (
	dottedFlag = regexp.MustCompile(`--[a-z]+(?:\.[a-z-]+)+`)
	// With a colon on either side it is part of a recording rule's name.
	ownFamily = regexp.MustCompile(`:?\bgitlab_runner_fleet_[a-z0-9_]+:?`)
)

// TestNamedFlagsAndMetricsExist: each flag and each metric that a document names is there.
func TestNamedFlagsAndMetricsExist(t *testing.T) {
	known := map[string]bool{}
	for _, f := range flags(t) {
		known[f.name] = true
	}
	families := map[string]bool{"gitlab_runner_fleet_exporter": true}
	for _, f := range collector.Families() {
		families[f.Name] = true
		if f.Type == collector.Histogram {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				families[f.Name+suffix] = true
			}
		}
	}
	for _, path := range documents(t) {
		text := read(t, path)
		for _, name := range dottedFlag.FindAllString(text, -1) {
			if !known[name] && !foreignFlags[name] {
				t.Errorf("%s: there is no flag %s", path, name)
			}
		}
		for _, name := range ownFamily.FindAllString(text, -1) {
			// A prefix as in gitlab_runner_fleet_tag_… is no name.
			if !families[name] && !strings.HasSuffix(name, "_") && !strings.Contains(name, ":") {
				t.Errorf("%s: there is no metric %s", path, name)
			}
		}
	}
}

// TestEachKeyStandsInTheReference: each key stands in the reference, ours with its default.
func TestEachKeyStandsInTheReference(t *testing.T) {
	text := read(t, reference)
	var missing []string
	seen := map[string]bool{}
	each(reflect.TypeFor[config.Config](), func(key string) {
		if !seen[key] && !strings.Contains(text, "`"+key+"`") && !strings.Contains(text, "."+key+"`") {
			missing = append(missing, key)
		}
		seen[key] = true
	})
	if len(seen) < 60 {
		t.Errorf("only %d keys found in the configuration's types: the walk is broken", len(seen))
	}
	if len(missing) > 0 {
		t.Errorf("%s does not name the keys %s", reference, strings.Join(missing, ", "))
	}
}

// each calls f for every key of a configuration's type.
func each(typ reflect.Type, f func(key string)) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct {
		return
	}
	for field := range typ.Fields() {
		key, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		inline := strings.Contains(options, "inline")
		if !field.IsExported() || key == "-" || key == "" && !inline {
			continue
		}
		if !inline {
			f(key)
		}
		each(field.Type, f)
	}
}

func TestReferenceHasTheDefaults(t *testing.T) {
	v, err := config.ForURL("https://gitlab.example.com", "a-token", "")
	if err != nil {
		t.Fatal(err)
	}
	g, m := v.GitLabs()[0], v.Metrics()
	text := read(t, reference)
	duration := func(d time.Duration) string { return model.Duration(d).String() }
	for key, value := range map[string]string{
		"scope":                        string(g.Scope),
		"api":                          string(g.API),
		"poll.runners_interval":        duration(g.Poll.RunnersInterval),
		"poll.details_interval":        duration(g.Poll.DetailsInterval),
		"poll.jobs_interval":           duration(g.Poll.JobsInterval),
		"poll.reconcile_interval":      duration(g.Poll.ReconcileInterval),
		"poll.lookback":                duration(g.Poll.Lookback),
		"poll.max_requests_per_second": fmt.Sprint(g.Poll.MaxRequestsPerSecond),
		"poll.max_concurrent_requests": strconv.Itoa(g.Poll.MaxConcurrentRequests),
		"poll.request_timeout":         duration(g.Poll.RequestTimeout),
		"poll.staleness":               duration(g.Poll.Staleness),
		"metrics.runners.enabled":      strconv.FormatBool(m.RunnersEnabled),
		"metrics.runners.include":      m.Runners.Include,
		"metrics.tags.include":         m.Tags.Include,
		"metrics.tags.limit":           strconv.Itoa(m.TagsLimit),
		"metrics.tags.retention":       duration(m.TagsRetention),
		"metrics.series_limit":         strconv.Itoa(m.SeriesLimit),
		"follow_redirects":             strconv.FormatBool(g.HTTPClientConfig.FollowRedirects),
		"enable_http2":                 strconv.FormatBool(g.HTTPClientConfig.EnableHTTP2),
	} {
		m := regexp.MustCompile("(?m)^\\| `" + regexp.QuoteMeta(key) + "` \\| `([^`]*)` \\|").FindStringSubmatch(text)
		if m == nil {
			t.Errorf("%s: no row for %s with its default", reference, key)
			continue
		}
		parsed, err := model.ParseDuration(m[1]) // 24h is 1d
		if m[1] != value && (err != nil || parsed.String() != value) {
			t.Errorf("%s: the default of %s is %s, not %s", reference, key, value, m[1])
		}
	}
}

// TestExamplesLoad: each YAML example with gitlabs is a whole configuration.
func TestExamplesLoad(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"gitlab-token", "gitlab-com-token"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("a-token\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var known []string
	for _, f := range collector.Families() {
		known = append(known, f.Name)
	}
	found := map[string]int{}
	for _, path := range []string{readme, readmeZh, reference, "operations.md"} {
		for _, b := range blocks(read(t, path), "yaml") {
			if !strings.Contains("\n"+b, "\ngitlabs:") {
				continue
			}
			found[path]++
			v, err := config.Parse([]byte(b), dir)
			if err == nil {
				err = v.CheckFamilies(known)
			}
			if err != nil {
				t.Errorf("%s: an example is wrong: %v\n%s", path, err, b)
			}
		}
	}
	for _, path := range []string{readme, readmeZh, reference} {
		if found[path] == 0 {
			t.Errorf("%s: no example of a configuration found", path)
		}
	}
}

// TestEachExporterMetricHasItsAdvice: whoever looks up a metric about the exporter, or a
// reason, in docs/troubleshooting.md finds what to do.
func TestEachExporterMetricHasItsAdvice(t *testing.T) {
	text := read(t, trouble)
	want := []string{"pending"}
	for _, r := range gitlab.Reasons() {
		want = append(want, string(r))
	}
	for r := range snapshot.UnresolvedReason(snapshot.NumUnresolvedReasons) {
		want = append(want, r.String())
	}
	for _, f := range collector.Families() {
		if f.Group == collector.GroupExporter {
			want = append(want, strings.TrimPrefix(f.Name, "gitlab_runner_fleet_exporter_"))
		}
	}
	if len(want) < 35 {
		t.Fatalf("only %d names to look for", len(want))
	}
	for _, name := range want {
		if !regexp.MustCompile("`" + regexp.QuoteMeta(name) + "[`{]").MatchString(text) {
			t.Errorf("%s has no advice for %q", trouble, name)
		}
	}
}

// TestReadmeIsShort: who opens it must reach the first configuration without scrolling through references.
func TestReadmeIsShort(t *testing.T) {
	for _, path := range []string{readme, readmeZh} {
		if n := len(read(t, path)); n >= 12_000 {
			t.Errorf("%s has %d bytes: under 12,000 stay, the rest belongs into docs/", path, n)
		}
	}
}

// TestReadmesKeepLevel: the Chinese README has the sections and the commands of the English one.
func TestReadmesKeepLevel(t *testing.T) {
	english, chinese := outline(read(t, readme)), outline(read(t, readmeZh))
	for i := range max(len(english), len(chinese)) {
		en, zh := "(nothing)", "(nothing)"
		if i < len(english) {
			en = english[i]
		}
		if i < len(chinese) {
			zh = chinese[i]
		}
		if en != zh {
			t.Fatalf("the READMEs differ at part %d:\n%s\nbeside\n%s", i+1, en, zh)
		}
	}
	if len(english) < 15 {
		t.Errorf("%d parts found: the search is broken", len(english))
	}
	if !strings.Contains(read(t, readmeZh), "url: https://jihulab.com\n") {
		t.Errorf("%s: its configuration does not name jihulab.com", readmeZh)
	}
}

var outlinePart = regexp.MustCompile("(?ms)^(#+) |^```([a-z]*)\n(.*?)^```$|^\\|---")

// outline is the order of a document's headings (by depth), tables and code
// blocks. Comments of a block are for its readers, and in its configuration
// jihulab.com has other values than a GitLab of one's own.
func outline(text string) []string {
	comment := regexp.MustCompile(`(?m) *#.*$`)
	own := regexp.MustCompile(`(?m)^ +(?:scope|groups): .*\n|(url|name): .*`)
	var out []string
	for _, m := range outlinePart.FindAllStringSubmatch(text, -1) {
		switch {
		case m[1] != "":
			out = append(out, m[1])
		case strings.HasPrefix(m[0], "|"):
			out = append(out, "table")
		default:
			out = append(out, m[2]+"\n"+own.ReplaceAllString(comment.ReplaceAllString(m[3], ""), "$1"))
		}
	}
	return out
}

var (
	makeCommand = regexp.MustCompile(`(?m)^make ([a-z][a-z-]*)`)
	makeSpan    = regexp.MustCompile("`make ([a-z][a-z-]*)")
)

func TestNamedMakeTargetsExist(t *testing.T) {
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z-]*):`).FindAllStringSubmatch(read(t, "../Makefile"), -1) {
		targets[m[1]] = true
	}
	named := 0
	for _, path := range documents(t) {
		text := read(t, path)
		found := makeSpan.FindAllStringSubmatch(text, -1)
		for _, b := range blocks(text, "sh") {
			found = append(found, makeCommand.FindAllStringSubmatch(b, -1)...)
		}
		for _, m := range found {
			named++
			if !targets[m[1]] {
				t.Errorf("%s: the Makefile has no target %s", path, m[1])
			}
		}
	}
	if named < 2 {
		t.Errorf("%d mentions of make found: the search is broken", named)
	}
}

// TestShellBlocksParseAndNameFiles: what a reader is to paste is at least shell, and names files that exist.
func TestShellBlocksParseAndNameFiles(t *testing.T) {
	files := regexp.MustCompile(`(?:^|[\s=])((?:alerts|dashboards|deploy|docs)/[\w./-]+)`)
	found := 0
	for _, path := range documents(t) {
		for _, b := range blocks(read(t, path), "sh") {
			found++
			cmd := exec.CommandContext(t.Context(), "bash", "-n")
			cmd.Stdin = strings.NewReader(b)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s\n%s", path, err, out, b)
			}
			for _, m := range files.FindAllStringSubmatch(b, -1) {
				if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
					t.Errorf("%s: a command names %s, which is not there", path, m[1])
				}
			}
		}
	}
	if found < 5 {
		t.Errorf("%d blocks found: the search is broken", found)
	}
}

// TestCommandsAreMarked: a block of commands that is not marked sh would be run by
// no test and counted by none.
func TestCommandsAreMarked(t *testing.T) {
	fence := regexp.MustCompile("(?ms)^ *```([a-z]*)\n(.*?)^ *```$")
	command := regexp.MustCompile(`(?m)^ *(?:\$ )?(?:sudo |env |\./)?(?:go|make|git|curl|docker|podman|helm|kubectl|apt-get|dnf|rpm|systemctl|promtool|amtool|test/\S+\.sh|deploy/\S+\.sh|gitlab_runner_fleet_exporter) `)
	found := 0
	for _, path := range documents(t) {
		for _, m := range fence.FindAllStringSubmatch(read(t, path), -1) {
			found++
			if m[1] != "sh" && command.MatchString(m[2]) {
				t.Errorf("%s: mark this block sh:\n%s", path, m[2])
			}
		}
	}
	if found < 100 {
		t.Errorf("%d blocks found: the search is broken", found)
	}
}

var (
	inlineLink = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	htmlLink   = regexp.MustCompile(`(?:href|src)="([^"]+)"`)
	codeSpan   = regexp.MustCompile("`[^`\n]*`")
	fence      = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
)

func TestLinksLeadSomewhere(t *testing.T) {
	checked := 0
	for _, path := range documents(t) {
		text := codeSpan.ReplaceAllString(fence.ReplaceAllString(read(t, path), ""), "")
		for _, re := range []*regexp.Regexp{inlineLink, htmlLink} {
			for _, m := range re.FindAllStringSubmatch(text, -1) {
				if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
					continue
				}
				checked++
				file, anchor, _ := strings.Cut(m[1], "#")
				target := path
				if file != "" {
					target = filepath.Join(filepath.Dir(path), file)
				}
				info, err := os.Stat(target)
				if err != nil {
					t.Errorf("%s: link to %s, which is not there", path, m[1])
					continue
				}
				if anchor != "" && (info.IsDir() || !slices.Contains(anchors(read(t, target)), anchor)) {
					t.Errorf("%s: link to %s: no such heading", path, m[1])
				}
			}
		}
	}
	if checked < 20 {
		t.Errorf("%d links found: the search is broken", checked)
	}
}

// TestReadmesReachEachDocument: a page that neither README leads to, directly or
// by another page, is found by nobody.
func TestReadmesReachEachDocument(t *testing.T) {
	pages, err := filepath.Glob("*.md")
	if err != nil || len(pages) < 20 {
		t.Fatalf("pages %v, %v", pages, err)
	}
	for _, start := range []string{readme, readmeZh} {
		reached := map[string]bool{}
		var follow func(path string)
		follow = func(path string) {
			path = strings.TrimPrefix(filepath.Clean(path), filepath.Join("..", "docs")+"/")
			if reached[path] {
				return
			}
			reached[path] = true
			for _, m := range inlineLink.FindAllStringSubmatch(fence.ReplaceAllString(read(t, path), ""), -1) {
				file, _, _ := strings.Cut(m[1], "#")
				if target := filepath.Join(filepath.Dir(path), file); strings.HasSuffix(file, ".md") && !strings.Contains(file, "://") && target != readme {
					follow(target)
				}
			}
		}
		follow(start)
		for _, page := range pages {
			if !reached[page] {
				t.Errorf("%s does not lead to docs/%s", start, page)
			}
		}
	}
}

// anchors are the names that a forge makes of a document's headings.
func anchors(text string) []string {
	var out []string
	times := map[string]int{}
	for line := range strings.Lines(fence.ReplaceAllString(text, "")) {
		title := strings.TrimLeft(line, "#")
		if title == line || !strings.HasPrefix(title, " ") {
			continue
		}
		slug := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(inlineLink.ReplaceAllString(title, "]")))
		if n := times[slug]; n > 0 {
			out = append(out, fmt.Sprintf("%s-%d", slug, n))
		} else {
			out = append(out, slug)
		}
		times[slug]++
	}
	return out
}

// blocks are a document's fenced blocks of one language.
func blocks(text, language string) []string {
	var out []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	return out
}

// documents are all Markdown files of the repository.
func documents(t *testing.T) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || d.Name() == "testdata"):
			return filepath.SkipDir
		case !d.IsDir() && strings.HasSuffix(path, ".md"):
			out = append(out, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 6 {
		t.Fatalf("only %d documents found", len(out))
	}
	return out
}

// TestDocumentsUsePlainWords: programs and documents report, return and show; words of people
// telling each other things, which translate badly, stay out of what users read.
func TestDocumentsUsePlainWords(t *testing.T) {
	odd := regexp.MustCompile(`(?i)\b(?:dearest|tells|told|hears)\b|\btell of\b`)
	texts := map[string]string{}
	for _, path := range documents(t) {
		if dir := filepath.Dir(path); dir == ".." || dir == filepath.Join(root, "docs") {
			texts[path] = read(t, path)
		}
	}
	delete(texts, filepath.Join(root, "CHANGELOG.md"))
	for _, f := range flags(t) {
		texts[f.name] = f.help
	}
	for _, f := range collector.Families() {
		texts[f.Name] = f.Help + " " + f.Notes
	}
	for name, text := range texts {
		if word := odd.FindString(text); word != "" {
			t.Errorf("%s: %q: write reports, returns, shows, expensive", name, word)
		}
	}
	if len(texts) < 100 {
		t.Errorf("%d texts found: the search is broken", len(texts))
	}
}
