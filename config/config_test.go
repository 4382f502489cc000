package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	commoncfg "github.com/prometheus/common/config"
	"go.yaml.in/yaml/v3"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// minimal is the smallest file that loads.
const minimal = "gitlabs:\n- url: https://gitlab.example.com\n  authorization: {credentials: token}\n"

func mustParse(t *testing.T, text string) *Validated {
	t.Helper()
	v, err := Parse([]byte(text), "testdata")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func mustLoad(t *testing.T, path string) *Validated {
	t.Helper()
	v, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// wantPoll and wantMetrics repeat the defaults of docs/configuration.md by hand: they are a promise.
var wantPoll = Poll{
	RunnersInterval: time.Minute, DetailsInterval: 15 * time.Minute, JobsInterval: time.Minute,
	ReconcileInterval: time.Hour, Lookback: 24 * time.Hour, MaxRequestsPerSecond: 10,
	MaxConcurrentRequests: 8, RequestTimeout: 30 * time.Second, Staleness: 10 * time.Minute, QueueInterval: time.Minute,
}

func checkDefaultMetrics(t *testing.T, m Metrics) {
	t.Helper()
	if !m.RunnersEnabled || m.TagsLimit != 500 || m.TagsRetention != 7*24*time.Hour || len(m.Disable) != 0 || m.SeriesLimit != 500000 {
		t.Errorf("%+v", m)
	}
	for _, name := range []string{"", "a", "two\nlines"} {
		if !m.Runners.Match(name) || !m.Tags.Match(name) {
			t.Errorf("%q is kept out by default", name)
		}
	}
}

func TestMinimalFileHasTheDefaults(t *testing.T) {
	v := mustParse(t, minimal)
	g := v.GitLabs()[0]
	if len(v.GitLabs()) != 1 || g.Name != "gitlab.example.com" || g.URL != "https://gitlab.example.com" ||
		g.Scope != snapshot.ScopeInstance || g.API != snapshot.APIAuto || g.Queue != QueueCompatible || g.Groups != nil || g.Projects != nil || g.Expected != nil {
		t.Errorf("%#v", g)
	}
	if g.Poll != wantPoll {
		t.Errorf("%+v", g.Poll)
	}
	if c := g.HTTPClientConfig; c.FollowRedirects || c.EnableHTTP2 || c.Authorization.Type != "Bearer" {
		t.Error("defaults of the HTTP client")
	}
	checkDefaultMetrics(t, v.Metrics())
	if w := v.Warnings(); len(w) != 0 {
		t.Error(w)
	}
}

func TestEachValueOfAFullFileIsTaken(t *testing.T) {
	v := mustLoad(t, "testdata/full.yml")
	gs := v.GitLabs()
	if len(gs) != 5 {
		t.Fatal(len(gs))
	}
	global := Poll{
		RunnersInterval: 30 * time.Second, DetailsInterval: 20 * time.Minute, JobsInterval: 90 * time.Second, QueueInterval: time.Minute,
		ReconcileInterval: 2 * time.Hour, Lookback: 48 * time.Hour, MaxRequestsPerSecond: 2.5,
		MaxConcurrentRequests: 4, RequestTimeout: 20 * time.Second, Staleness: 5 * time.Minute,
	}
	slow, merged := global, global
	slow.MaxRequestsPerSecond, slow.Lookback = 0, 9*time.Hour
	merged.MaxRequestsPerSecond, merged.Lookback = 0, 8*time.Hour
	for i, want := range []struct {
		name, url string
		scope     snapshot.ScopeKind
		groups    []string
		projects  []string
		api       snapshot.API
		poll      Poll
	}{
		{"corp", "https://gitlab.example.com:8443/root", snapshot.ScopeGroups, []string{"infra/ci", "42"}, nil, snapshot.APIREST, slow},
		{"127.0.0.1:8080", "http://127.0.0.1:8080", snapshot.ScopeProjects, nil, []string{"infra/ci", "7"}, snapshot.APIGraphQL, merged},
		{"minimal", "https://other.example.com", snapshot.ScopeInstance, nil, nil, snapshot.APIAuto, global},
		{"proxied", "http://proxied.example.com", snapshot.ScopeOwned, nil, nil, snapshot.APIAuto, global},
		{"oauth", "https://oauth.example.com", snapshot.ScopeInstance, nil, nil, snapshot.APIAuto, global},
	} {
		g := gs[i]
		if g.Name != want.name || g.URL != want.url || g.Scope != want.scope || !slices.Equal(g.Groups, want.groups) ||
			!slices.Equal(g.Projects, want.projects) || g.API != want.api {
			t.Errorf("gitlabs[%d]: %v", i, g)
		}
		if g.Poll != want.poll {
			t.Errorf("gitlabs[%d]: %+v, want %+v", i, g.Poll, want.poll)
		}
	}
	if want := map[string]int{"gpu": 2, "prod-deploy": 1, "2024": 3}; !reflect.DeepEqual(gs[0].Expected, want) {
		t.Error(gs[0].Expected)
	}
	c := gs[0].HTTPClientConfig
	if c.Authorization.CredentialsFile != "testdata/files/token" || !c.FollowRedirects || !c.EnableHTTP2 ||
		c.ProxyURL.Host != "proxy.example.com:3128" || c.TLSConfig.ServerName != "gitlab.internal" ||
		c.HTTPHeaders.Headers["X-Front"].Files[0] != "testdata/files/token" {
		t.Error("HTTP client of gitlabs[0]")
	}
	if a := gs[2].HTTPClientConfig.Authorization; a == nil || a.Credentials != "CANARY-bearer" || a.Type != "Bearer" {
		t.Error("bearer_token did not become authorization")
	}
	m := v.Metrics()
	if m.RunnersEnabled || m.TagsLimit != 50 || m.TagsRetention != 7*24*time.Hour || m.SeriesLimit != 1000 ||
		!slices.Equal(m.Disable, []string{"gitlab_runner_fleet_managers", "gitlab_runner_fleet_runner_tag_info"}) {
		t.Errorf("%+v", m)
	}
	for name, want := range map[string]bool{"prod-1": true, "prod-1-test": false, "prod-1-test-b": true, "xprod-1": false, "prod": false} {
		if m.Runners.Match(name) != want {
			t.Errorf("runner %q: %v", name, !want)
		}
	}
	for name, want := range map[string]bool{"": false, "gpu": true, "tmp": false, "tmp2": false, "x-tmp": true} {
		if m.Tags.Match(name) != want {
			t.Errorf("tag %q: %v", name, !want)
		}
	}
}

func TestWarningsNameWhatIsUnwise(t *testing.T) {
	got := strings.Join(mustLoad(t, "testdata/full.yml").Warnings(), "\n")
	want := "gitlabs[0]: with follow_redirects the token is also sent to any host that GitLab redirects to\n" +
		"gitlabs[3]: insecure_skip_verify lets anybody in between read the token\n" +
		"gitlabs[3]: the token goes over the network unencrypted, because the url begins with http://"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSummaryShowsWhatIsInForce(t *testing.T) {
	want, err := os.ReadFile("testdata/full.summary")
	if err != nil {
		t.Fatal(err)
	}
	if got := mustLoad(t, "testdata/full.yml").Summary(); got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestExampleFileHasTheDefaultsAndEachKey holds docs/config.example.yml to the code: it loads, has the
// defaults, and has every key.
func TestExampleFileHasTheDefaultsAndEachKey(t *testing.T) {
	data, err := os.ReadFile("../docs/config.example.yml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "gitlab-token"), []byte("t\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := Parse(data, dir)
	if err != nil {
		t.Fatal(err)
	}
	g := v.GitLabs()[0]
	if g.Poll != wantPoll || g.Scope != snapshot.ScopeInstance || g.API != snapshot.APIAuto || g.Queue != QueueCompatible {
		t.Errorf("not the defaults: %v", g)
	}
	checkDefaultMetrics(t, v.Metrics())

	// Written out, so that a key of docs/configuration.md cannot be lost here unseen.
	keys := map[string]bool{
		"gitlabs": true, "lookback": true, "retention": true, "credentials_file": true, "series_limit": true, "proxy_url": true,
	}
	allKeys(reflect.TypeFor[Config](), keys)
	if len(keys) < 60 {
		t.Fatalf("only %d keys found in the types", len(keys))
	}
	for key := range keys {
		// Prometheus's secret manager does not exist here.
		if strings.HasSuffix(key, "_ref") {
			continue
		}
		if !regexp.MustCompile(`(?m)^[ #-]*` + regexp.QuoteMeta(key) + `:`).Match(data) {
			t.Errorf("%s is not in the example", key)
		}
	}
}

func allKeys(t reflect.Type, into map[string]bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[commoncfg.URL]() {
		return
	}
	f := fieldsOf(t)
	for name, ft := range f.byName {
		into[name] = true
		allKeys(ft, into)
	}
	if f.inline != nil {
		allKeys(f.inline, into)
	}
}

// TestQueueIsAWordAndNoBoolean: off is a word here and no boolean, and all is for a whole instance.
func TestQueueIsAWordAndNoBoolean(t *testing.T) {
	text := func(lines string) []byte {
		return []byte("poll: {queue_interval: 5m}\ngitlabs:\n  - url: https://gitlab.example.com\n    authorization: {credentials: t}\n" + lines)
	}
	for lines, want := range map[string]QueueMode{
		"": QueueCompatible, "    queue: off\n": QueueOff, "    queue: 'off'\n": QueueOff, "    queue: all\n": QueueAll,
	} {
		v, err := Parse(text(lines), "")
		if err != nil {
			t.Fatalf("%q: %v", lines, err)
		}
		g := v.GitLabs()[0]
		if g.Queue != want || g.Poll.QueueInterval != 5*time.Minute {
			t.Errorf("%q: %s every %s", lines, g.Queue, g.Poll.QueueInterval)
		}
		if word := map[QueueMode]string{QueueOff: "not read", QueueCompatible: "compatible, every 5m", QueueAll: "all, every 5m"}[want]; !strings.Contains(v.Summary(), word) {
			t.Errorf("%q: the summary lacks %q:\n%s", lines, word, v.Summary())
		}
	}
	for lines, want := range map[string]string{
		"    queue: on\n":  "gitlabs[0].queue: must be off, compatible or all",
		"    queue: yes\n": "gitlabs[0].queue: must be off, compatible or all",
		"    queue: all\n    scope: groups\n    groups: [1]\n": "needs scope instance",
		"    poll: {queue_interval: 1ms}\n":                    "must be at least 1s",
	} {
		if _, err := Parse(text(lines), ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", lines, err, want)
		}
	}
}

// TestEveryDocumentedKeyLoads loads one configuration with each key of
// docs/configuration.md.
func TestEveryDocumentedKeyLoads(t *testing.T) {
	mustParse(t, `poll: {}
gitlabs:
  - name: corp
    url: https://gitlab.example.com
    authorization:
      credentials_file: files/token
    tls_config: {}
    proxy_url: ""
    scope: instance
    groups: []
    projects: []
    api: auto
    expected: {gpu: 2, prod-deploy: 1, nightly: 0}
    queue: compatible
    poll: {runners_interval: 1s, jobs_interval: 1s, queue_interval: 1s, details_interval: 1s, reconcile_interval: 1s, lookback: 4s, staleness: 2s, request_timeout: 1s}
metrics:
  runners: {enabled: true, include: ".*", exclude: "", min_age: 0s}
  tags: {include: ".*", exclude: "", limit: 500, retention: 7d}
  disable: []
  series_limit: 500000
`)
}

// TestFloorsAndAgesLoadAtTheirBounds: a floor of 0 is one, a tag may have 255 characters of any
// length, (untagged) is no runner's tag but may have a floor.
func TestFloorsAndAgesLoadAtTheirBounds(t *testing.T) {
	long := strings.Repeat("標", 255)
	v := mustParse(t, minimal+"  expected: {nightly: 0, "+long+": 1, (untagged): 2}\nmetrics: {runners: {min_age: 15m}}\n")
	if got, want := v.GitLabs()[0].Expected, map[string]int{"nightly": 0, long: 1, "(untagged)": 2}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
	if got := v.Metrics().RunnersMinAge; got != 15*time.Minute {
		t.Errorf("min_age %v", got)
	}
	if s := v.Summary(); !strings.Contains(s, "nightly may have none") || !strings.Contains(s, "known for at least 15m") {
		t.Error(s)
	}
	if d := mustParse(t, minimal).Metrics().RunnersMinAge; d != 0 {
		t.Errorf("the default is %v", d)
	}
}

// TestRequestCarriesTheRotatedToken sends a real request: the header has its "Bearer", a rotated
// token is taken up, and a redirect is not followed.
func TestRequestCarriesTheRotatedToken(t *testing.T) {
	var seen []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.URL.Path+" "+r.Header.Get("Authorization"))
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	defer srv.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yml")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "token"), "one\n")
	write(file, "gitlabs:\n- url: "+srv.URL+"\n  authorization: {credentials_file: token}\n")
	g := mustLoad(t, file).GitLabs()[0]
	client, err := commoncfg.NewClientFromConfig(g.HTTPClientConfig, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	for _, path := range []string{"/a", "/b"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, g.URL+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		write(filepath.Join(dir, "token"), "two\n")
	}
	if want := []string{"/a Bearer one", "/b Bearer two"}; !slices.Equal(seen, want) {
		t.Errorf("%q, want %q", seen, want)
	}
}

// TestNoSecretIsPrinted prints everything in every way.
func TestNoSecretIsPrinted(t *testing.T) {
	data, err := os.ReadFile("testdata/full.yml")
	if err != nil {
		t.Fatal(err)
	}
	var cfg Config
	if err := yaml.Unmarshal(data, &cfg); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(data), canary); n < 8 {
		t.Fatalf("only %d secrets to look for", n)
	}
	v := mustLoad(t, "testdata/full.yml")
	asYAML, err := yaml.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(asYAML), "<secret>") {
		t.Error("the marshalled configuration has no masked secret: is this test looking at anything?")
	}
	// JSON is not masked by prometheus/common where a proxy's URL has a password.
	cfg2 := cfg
	cfg2.GitLabs = slices.Clone(cfg.GitLabs)
	cfg2.GitLabs[0].HTTPClientConfig.ProxyURL = commoncfg.URL{}
	asJSON, err := json.Marshal(cfg2)
	if err != nil {
		t.Fatal(err)
	}
	printed := map[string]string{
		"yaml": string(asYAML), "json": string(asJSON),
		"summary": v.Summary(), "warnings": strings.Join(v.Warnings(), "\n"),
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		for name, x := range map[string]any{
			"Validated": v, "Validated value": *v, "GitLabs": v.GitLabs(), "GitLab": v.GitLabs()[1], "GitLab pointer": &v.GitLabs()[1],
			"Metrics": v.Metrics(), "Config": cfg, "Config pointer": &cfg, "GitLabConfig": cfg.GitLabs[1],
		} {
			printed[name+" "+verb] = fmt.Sprintf(verb, x)
		}
	}
	for name, text := range printed {
		if strings.Contains(text, canary) {
			t.Errorf("%s prints a secret", name)
		}
	}
}

// TestTokenInTheWrongPlaceIsNotRepeated writes a token over each key and each value of a
// whole configuration in turn: whatever the mistake is called, the token is not
// repeated.
func TestTokenInTheWrongPlaceIsNotRepeated(t *testing.T) {
	for _, token := range []string{"glpat-" + canary + "-4x7Qm2Zk", "corp" + canary + "7xQm24"} {
		inTheWrongPlace(t, token)
	}
}

func inTheWrongPlace(t *testing.T, token string) {
	t.Helper()
	data, err := os.ReadFile("testdata/full.yml")
	if err != nil {
		t.Fatal(err)
	}
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		t.Fatal(err)
	}
	refused := 0
	var visit func(n *yaml.Node)
	visit = func(n *yaml.Node) {
		for _, c := range n.Content {
			visit(c)
		}
		if n.Kind == yaml.DocumentNode || n.Kind == yaml.AliasNode || n.Anchor != "" {
			return
		}
		before := *n
		*n = yaml.Node{Kind: yaml.ScalarNode, Value: token}
		text, err := yaml.Marshal(&root)
		*n = before
		if err != nil {
			t.Fatal(err)
		}
		_, err = Parse(text, "testdata")
		if err == nil {
			return
		}
		refused++
		// A file that cannot be read is the one error that carries a foreign cause.
		if strings.Contains(err.Error(), canary) || strings.Contains(fmt.Sprintf("%+v", errors.Unwrap(err)), canary) {
			t.Errorf("line %d: %v", before.Line, err)
		}
	}
	visit(&root)
	if refused < 80 {
		t.Errorf("only %d mistakes were made", refused)
	}
}

func TestForURLEqualsAFileWithOneGitLab(t *testing.T) {
	v, err := ForURL("https://gitlab.example.com/", "CANARY-token\n", "")
	if err != nil {
		t.Fatal(err)
	}
	g := v.GitLabs()[0]
	if a := g.HTTPClientConfig.Authorization; a.Credentials != "CANARY-token" || a.Type != "Bearer" {
		t.Error("authorization")
	}
	if c := g.HTTPClientConfig; c.FollowRedirects || c.EnableHTTP2 {
		t.Error("not our defaults of the HTTP client")
	}
	if g.Poll != wantPoll || g.Name != "gitlab.example.com" {
		t.Errorf("%v", g)
	}
	if _, err := ForURL("https://gitlab.example.com/", "", "testdata/files/token"); err != nil {
		t.Error(err)
	}
	for _, c := range []struct{ url, token, file, want string }{
		{"https://gitlab.example.com", "", "", "--gitlab.url: no token: set GITLAB_TOKEN or --gitlab.token-file; every endpoint of GitLab's Runner API needs one, read_api is enough"},
		{"https://gitlab.example.com", "CANARY", "x", "--gitlab.token-file: a token is given twice: use either GITLAB_TOKEN or --gitlab.token-file"},
		{"https://gitlab.example.com", "CANARY x", "", "GITLAB_TOKEN: holds a space or a line end: it must be the token alone"},
		{"https://gitlab.example.com", "", "/nonexistent", "--gitlab.token-file: cannot read /nonexistent: no such file or directory"},
		{"https://gitlab.example.com", "", "glpat-CANARY", "--gitlab.token-file: cannot read a file whose name is not shown, because it looks like a secret (a secret itself does not belong in a key ending in _file): no such file or directory"},
		{"gitlab", "CANARY", "", "--gitlab.url: must begin with https:// or http://, such as https://gitlab.example.com"},
		{"", "CANARY", "", "--gitlab.url: missing: the address of GitLab, such as https://gitlab.example.com"},
	} {
		_, err := ForURL(c.url, c.token, c.file)
		if err == nil || err.Error() != c.want {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestLoadErrorsNameFileAndCause(t *testing.T) {
	if _, err := Load("testdata/nonexistent.yml"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Load("testdata"); err == nil {
		t.Error("a folder was loaded")
	}
	files, err := filepath.Abs("testdata/files")
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) string {
		path := filepath.Join(t.TempDir(), name)
		data = bytes.ReplaceAll(data, []byte("../files"), []byte(files))
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("url_port.yml", refusedConfig(t, "url_port"))
	_, err = Load(file)
	if want := "configuration file " + file + ": line 2: gitlabs[0].url: has a port that is not from 1 to 65535"; err == nil || err.Error() != want {
		t.Error(err)
	}
	file = write("duration_short.yml", refusedConfig(t, "duration_short"))
	_, err = Load(file)
	if want := "configuration file " + file + " has 2 mistakes:\nline 2: "; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Error(err)
	}
	if errs, ok := errors.AsType[Errors](err); !ok || len(errs) != 2 || errs[1].Path != "poll.details_interval" || errs[1].Line != 3 {
		t.Errorf("%#v", errs)
	}
	_, err = Load(write("token_file_missing.yml", refusedConfig(t, "token_file_missing")))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v hides its cause", err)
	}
	if _, err := Load(write("huge.yml", []byte(minimal+strings.Repeat("#", maxFileBytes)))); err == nil || !strings.HasSuffix(err.Error(), "larger than 4194304 bytes") {
		t.Error(err)
	}
}

// TestAliasBombIsRefusedAtOnce unfolds to 10^9 values and must neither hang nor be accepted.
func TestAliasBombIsRefusedAtOnce(t *testing.T) {
	var b strings.Builder
	b.WriteString(minimal + "  oauth2:\n    claims:\n      a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 9; i++ {
		fmt.Fprintf(&b, "      a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	if _, err := Parse([]byte(b.String()), ""); err == nil {
		t.Error("accepted")
	}
	b.Reset()
	b.WriteString("gitlabs:\n- &a {url: x}\n")
	b.WriteString(strings.Repeat("- *a\n", maxNodes))
	_, err := Parse([]byte(b.String()), "")
	if err == nil || !strings.Contains(err.Error(), "too large: more than 100000 values") {
		t.Errorf("%.200v", err)
	}
}

func TestShapeErrorKeepsOnlyTheLine(t *testing.T) {
	var out struct{ A int }
	err := yaml.Unmarshal([]byte("\na: CANARY"), &out)
	if err == nil || !strings.Contains(err.Error(), canary) {
		t.Fatalf("%v: nothing to hide", err)
	}
	if got := shapeError(err); got.Line != 2 || strings.Contains(got.Error(), canary) {
		t.Error(got)
	}
}

func TestUnknownDisabledFamilyIsNamed(t *testing.T) {
	v := mustParse(t, minimal+"metrics:\n  disable:\n  - runner_tag_info\n  - runner_tag_inf\n  - gitlab_runner_fleet_managers\n  - zebra\n")
	known := []string{"gitlab_runner_fleet_runner_tag_info", "gitlab_runner_fleet_managers", "gitlab_runner_fleet_up"}
	want := "line 7: metrics.disable[1]: no family has this name: did you mean runner_tag_info?\n" +
		"line 9: metrics.disable[3]: no family has this name"
	if err := v.CheckFamilies(known); err == nil || err.Error() != want {
		t.Errorf("%v\nwant\n%s", err, want)
	}
	// Nothing of the first answer may stick.
	if err := v.CheckFamilies(append(known, "gitlab_runner_fleet_runner_tag_inf", "gitlab_runner_fleet_zebra")); err != nil {
		t.Error(err)
	}
}

func TestEqualSeesEachDifference(t *testing.T) {
	a, b := mustLoad(t, "testdata/full.yml").GitLabs(), mustLoad(t, "testdata/full.yml").GitLabs()
	for i := range a {
		if !a[i].Equal(b[i]) {
			t.Errorf("gitlabs[%d] is not equal to itself", i)
		}
		// The transport caches a function in the configuration it was given.
		_ = a[i].HTTPClientConfig.Proxy()
		if !a[i].Equal(b[i]) {
			t.Errorf("gitlabs[%d] is not equal to itself after use", i)
		}
	}
	for name, change := range map[string]func(*GitLab){
		"token":    func(g *GitLab) { g.HTTPClientConfig.Authorization.Credentials = "other" },
		"expected": func(g *GitLab) { g.Expected = map[string]int{"gpu": 9} },
		"project":  func(g *GitLab) { g.Projects[1] = "8" },
		"poll":     func(g *GitLab) { g.Poll.Staleness++ },
		"tls":      func(g *GitLab) { g.HTTPClientConfig.TLSConfig.ServerName = "x" },
	} {
		g := mustLoad(t, "testdata/full.yml").GitLabs()[1]
		change(&g)
		if g.Equal(b[1]) || b[1].Equal(g) {
			t.Errorf("a changed %s is not seen", name)
		}
	}
	if !mustParse(t, minimal).GitLabs()[0].Equal(mustParse(t, minimal+"  groups: []\n  expected: {}\n  poll: {lookback: 24h}\n").GitLabs()[0]) {
		t.Error("a default written out is a change")
	}
	m := mustLoad(t, "testdata/full.yml").Metrics()
	if !m.Equal(mustLoad(t, "testdata/full.yml").Metrics()) {
		t.Error("metrics are not equal to themselves")
	}
	for name, change := range map[string]func(*Metrics){
		"enabled": func(m *Metrics) { m.RunnersEnabled = true }, "runners": func(m *Metrics) { m.Runners.Exclude = "" },
		"tags": func(m *Metrics) { m.Tags.Include = "x" }, "limit": func(m *Metrics) { m.TagsLimit++ },
		"retention": func(m *Metrics) { m.TagsRetention++ }, "disable": func(m *Metrics) { m.Disable = nil },
		"series": func(m *Metrics) { m.SeriesLimit++ }, "min_age": func(m *Metrics) { m.RunnersMinAge++ },
	} {
		c := m
		change(&c)
		if c.Equal(m) {
			t.Errorf("a changed %s is not seen", name)
		}
	}
}

// TestValidatedCannotBeChanged changes everything that went in and everything that came out.
func TestValidatedCannotBeChanged(t *testing.T) {
	data, err := os.ReadFile("testdata/full.yml")
	if err != nil {
		t.Fatal(err)
	}
	cfg, doc, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	for i := range cfg.GitLabs {
		cfg.GitLabs[i].HTTPClientConfig.SetDirectory("testdata")
	}
	v, err := cfg.validate(doc)
	if err != nil {
		t.Fatal(err)
	}
	want := mustLoad(t, "testdata/full.yml")
	check := func(when string) {
		t.Helper()
		for i, g := range v.GitLabs() {
			if !g.Equal(want.GitLabs()[i]) {
				t.Errorf("%s: gitlabs[%d] has changed", when, i)
			}
		}
		if !v.Metrics().Equal(want.Metrics()) || v.Summary() != want.Summary() {
			t.Errorf("%s: metrics or summary have changed", when)
		}
	}
	check("untouched")
	scramble(reflect.ValueOf(&cfg))
	check("the source was changed")
	gs, m, w := v.GitLabs(), v.Metrics(), v.Warnings()
	scramble(reflect.ValueOf(gs))
	scramble(reflect.ValueOf(m.Disable))
	scramble(reflect.ValueOf(w))
	if gs[0].Equal(want.GitLabs()[0]) || m.Equal(want.Metrics()) {
		t.Fatal("scrambling changes nothing: this test sees nothing")
	}
	check("what was returned was changed")
}

// TestConfigMadeInGoIsChecked: a Config made in Go has no lines and is checked all the same.
func TestConfigMadeInGoIsChecked(t *testing.T) {
	_, err := Config{GitLabs: []GitLabConfig{{URL: "https://gitlab.example.com", Scope: "x"}}}.Validate()
	want := "gitlabs[0].scope: must be instance, owned, groups or projects\n" +
		"gitlabs[0].authorization: no token: set authorization: {credentials_file: ...}; every endpoint of GitLab's Runner API needs one, read_api is enough"
	if err == nil || err.Error() != want {
		t.Error(err)
	}
}

// TestCloneHTTPCopiesEachField fills every exported field of prometheus/common's
// configuration, so that a field of a newer version cannot be forgotten.
func TestCloneHTTPCopiesEachField(t *testing.T) {
	var c commoncfg.HTTPClientConfig
	fill(reflect.ValueOf(&c).Elem())
	c.OAuth2.Claims = map[string]any{"a": []any{"b", map[any]any{1: []any{"c"}}}}
	c.ProxyURL.URL = &url.URL{Scheme: "http", Host: "proxy", User: url.UserPassword("u", "p")}
	got := cloneHTTP(c)
	if !reflect.DeepEqual(got, c) {
		t.Error("the copy differs")
	}
	shared(t, "copy", reflect.ValueOf(c), reflect.ValueOf(got))
}

// fill gives every field it can set a value that is not zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for _, f := range v.Fields() {
			if f.CanSet() {
				fill(f)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(k)
		fill(e)
		v.SetMapIndex(k, e)
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint16:
		v.SetUint(1)
	default:
	}
}

// scramble changes whatever it can reach, in place.
func scramble(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			scramble(v.Elem())
		}
	case reflect.Struct:
		for _, f := range v.Fields() {
			scramble(f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			scramble(v.Index(i))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			scramble(v.MapIndex(k))
			v.SetMapIndex(k, reflect.Zero(v.Type().Elem()))
		}
	case reflect.String:
		if v.CanSet() {
			v.SetString(v.String() + "!")
		}
	case reflect.Int, reflect.Int64:
		if v.CanSet() {
			v.SetInt(v.Int() + 1)
		}
	case reflect.Bool:
		if v.CanSet() {
			v.SetBool(!v.Bool())
		}
	default:
	}
}

// shared complains about memory that both values hold.
func shared(t *testing.T, at string, a, b reflect.Value) {
	t.Helper()
	switch a.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		if a.IsNil() {
			return
		}
		if a.Pointer() == b.Pointer() {
			t.Errorf("%s is shared", at)
			return
		}
	default:
	}
	switch a.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !a.IsNil() {
			shared(t, at, a.Elem(), b.Elem())
		}
	case reflect.Struct:
		for i := range a.NumField() {
			shared(t, at+"."+a.Type().Field(i).Name, a.Field(i), b.Field(i))
		}
	case reflect.Slice:
		for i := range a.Len() {
			shared(t, fmt.Sprintf("%s[%d]", at, i), a.Index(i), b.Index(i))
		}
	case reflect.Map:
		for _, k := range a.MapKeys() {
			shared(t, fmt.Sprintf("%s[%v]", at, k), a.MapIndex(k), b.MapIndex(k))
		}
	default:
	}
}

// TestEachFieldOfTypeSecretIsASecret: a secret that prometheus/common adds to its configuration
// is not forgotten here: every field of its type Secret is filled in.
func TestEachFieldOfTypeSecretIsASecret(t *testing.T) {
	n := 0
	var want []string
	next := func() string {
		n++
		want = append(want, fmt.Sprintf("value-%02d", n))
		return want[n-1]
	}
	var fill func(v reflect.Value)
	fill = func(v reflect.Value) {
		switch {
		case v.Type() == reflect.TypeFor[commoncfg.Secret]():
			v.SetString(next())
		case v.Type() == reflect.TypeFor[commoncfg.URL]():
			v.Set(reflect.ValueOf(commoncfg.URL{URL: &url.URL{Scheme: "http", Host: "h", User: url.UserPassword("user", next())}}))
		case v.Kind() == reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem())
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				if v.Type().Field(i).IsExported() {
					fill(v.Field(i))
				}
			}
		case v.Kind() == reflect.Slice && v.Type().Elem() == reflect.TypeFor[commoncfg.Secret]():
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
			fill(v.Index(0))
			fill(v.Index(1))
		case v.Kind() == reflect.Map && v.Type().Elem().Kind() != reflect.Interface && v.Type().Elem().Kind() != reflect.String:
			e := reflect.New(v.Type().Elem()).Elem()
			fill(e)
			v.Set(reflect.MakeMap(v.Type()))
			v.SetMapIndex(reflect.ValueOf("x").Convert(v.Type().Key()), e)
		}
	}
	var c commoncfg.HTTPClientConfig
	fill(reflect.ValueOf(&c).Elem())
	var s secrets
	s.client(c)
	if n < 14 {
		t.Fatalf("only %d secrets were found in the type", n)
	}
	for _, v := range want {
		if !s[v] {
			t.Errorf("%s is forgotten", v)
		}
	}
}

// TestSecretsOfOtherTypesAreSecrets: those that are not of the type Secret.
func TestSecretsOfOtherTypesAreSecrets(t *testing.T) {
	v := mustParse(t, `gitlabs:
- url: https://a.example
  authorization: {credentials: bearer-1}
  http_headers: {X-Api-Key: {values: [key-2]}, Cookie: {values: ["session=three; id=four"]}, X-Env: {values: [production]}}
  proxy_url: http://five-token@proxy:1
  proxy_connect_header: {Proxy-Authorization: [Basic six-six]}
- url: https://b.example
  basic_auth: {username: seven, password: eight}
  http_headers: {PRIVATE-TOKEN: {secrets: [nine-nine]}}
`)
	got := v.Secrets()
	for _, want := range []string{"bearer-1", "key-2", "three", "four", "five-token", "six-six", "eight", "c2V2ZW46ZWlnaHQ=", "nine-nine"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is forgotten", want)
		}
	}
	for _, not := range []string{"production", "seven", "proxy", ""} {
		if slices.Contains(got, not) {
			t.Errorf("%q is no secret", not)
		}
	}
	t.Setenv("GITLAB_TOKEN", "env-token")
	t.Setenv("HTTPS_PROXY", "http://u:of-the-proxy@p:1")
	t.Setenv("HTTP_PROXY", "u:of-a-broken%zz@p")
	got = EnvironmentSecrets()
	for _, want := range []string{"env-token", "of-the-proxy", "of-a-broken%zz"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s of the environment is forgotten", want)
		}
	}
}
