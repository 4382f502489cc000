//go:build ship

package breakages

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"gitlab-runner-fleet-exporter/test/rig"
)

const (
	root        = "../.."
	job         = "gitlab_runner_fleet_exporter"
	rulesFile   = root + "/alerts/rules.yml"
	routingFile = root + "/alerts/alertmanager.example.yml"
)

// literals are the numbers in the rules that are seconds, or products of which
// one factor is, by rule; of a record with the label problem that stands behind
// its name. Each must be there, and no other number of 60 and more may.
var literals = []struct {
	rule, number string
	times        int
}{
	{"gitlab_shard_instance:gitlab_runner_fleet_up:fresh", "300", 1},
	{"gitlab_tag:gitlab_runner_fleet_tag_usable_runners:lost", "86400", 2},
	{affectedTags + " queue_slow", "600", 2},
	{affectedTags + " saturated", "300", 1},
	{affectedTags + " queue_old", "3600", 1},
	{"gitlab_tag:gitlab_runner_fleet_tag_usable_runners:idle", "300", 1},
	{"gitlab:gitlab_runner_fleet_queue_jobs:old", "600", 1},
	{"GitLabRunnerFleetTokenExpiring", "86400 * 14", 1},
	{"GitLabRunnerFleetTokenExpiring", "3600 * 17", 1},
	{"GitLabRunnerFleetTokenExpiresSoon", "3600 * 17", 1},
	{"GitLabRunnerFleetJobReadingLagging", "60 * 10", 1},
	{"GitLabRunnerFleetJobsStopped", "60 * 10", 1},
	{"GitLabRunnerFleetReadingLagging", "60 * 60", 1},
	{"GitLabRunnerFleetReadingLagging", "60 * 360", 1},
	{affectedRunners + " offline", "60 * 60", 1},
	{affectedRunners + " stale", "60 * 60", 2},
	{affectedRunners + " never_contacted", "3600 * 24", 1},
	{affectedRunners + " paused", "3600 * 24", 1},
	{affectedRunners + " job_stuck", "3600 * 24", 1},
	// Clocks are not faster: all processes have the same one.
	{"GitLabRunnerFleetClockSkew", "60", 0},
}

const (
	affectedTags    = "gitlab_tag_runner_type_problem:gitlab_runner_fleet_tags:affected"
	affectedRunners = "gitlab_runner_runner_type_problem:gitlab_runner_fleet_runners:affected"
)

var (
	rangeSelector = regexp.MustCompile(`\[([0-9a-z]+)(?::([0-9a-z]+))?\]`)
	offset        = regexp.MustCompile(`\boffset ([0-9a-z]+)`)
	number        = regexp.MustCompile(`(^|[^\w.:"])(\d+(?:\.\d+)?)($|[^\w.:"])`)
	quoted        = regexp.MustCompile(`"[^"]*"`)
)

// ms writes a duration as Prometheus and Alertmanager read it.
func ms(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) + "ms" }

func faster(t *testing.T, s string) string {
	t.Helper()
	d, err := model.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return ms(lived(time.Duration(d)))
}

// fasterExpr divides what an expression says of time.
func fasterExpr(t *testing.T, rule, expr string) string {
	t.Helper()
	expr = rangeSelector.ReplaceAllStringFunc(expr, func(s string) string {
		m := rangeSelector.FindStringSubmatch(s)
		if m[2] == "" {
			return "[" + faster(t, m[1]) + "]"
		}
		return "[" + faster(t, m[1]) + ":" + faster(t, m[2]) + "]"
	})
	expr = offset.ReplaceAllStringFunc(expr, func(s string) string {
		return "offset " + faster(t, offset.FindStringSubmatch(s)[1])
	})
	for _, l := range literals {
		if l.rule != rule {
			continue
		}
		re := regexp.MustCompile(`\b` + regexp.QuoteMeta(l.number) + `\b`)
		if l.times == 0 {
			expr = re.ReplaceAllString(expr, "($0)")
			continue
		}
		v := 1.0
		for x := range strings.SplitSeq(l.number, " * ") {
			f, err := strconv.ParseFloat(x, 64)
			if err != nil {
				t.Fatal(err)
			}
			v *= f
		}
		if n := len(re.FindAllString(expr, -1)); n != l.times {
			t.Fatalf("%s has the number %s %d times, not %d", rule, l.number, n, l.times)
		}
		expr = re.ReplaceAllString(expr, "("+strconv.FormatFloat(v/factor, 'f', -1, 64)+")")
	}
	for _, m := range number.FindAllStringSubmatch(quoted.ReplaceAllString(expr, `""`), -1) {
		if v, err := strconv.ParseFloat(m[2], 64); err != nil || v >= 60 && !strings.Contains(expr, "("+m[2]+")") {
			t.Fatalf("%s has the number %s: is it seconds? Then say so in literals", rule, m[2])
		}
	}
	return expr
}

// fasterRules writes the rules with all times divided, and nothing else changed.
func fasterRules(t *testing.T, path string) {
	t.Helper()
	var f map[string][]map[string]any
	decode(t, rulesFile, &f)
	seen := map[string]bool{}
	for _, g := range f["groups"] {
		g["interval"] = faster(t, g["interval"].(string))
		for _, one := range g["rules"].([]any) {
			r := one.(map[string]any)
			name, _ := r["record"].(string)
			if a, ok := r["alert"].(string); ok {
				name = a
			} else if l, ok := r["labels"].(map[string]any); ok && l["problem"] != nil {
				name += " " + l["problem"].(string)
			}
			seen[name] = true
			r["expr"] = fasterExpr(t, name, r["expr"].(string))
			for _, k := range []string{"for", "keep_firing_for"} {
				if s, ok := r[k].(string); ok {
					r[k] = faster(t, s)
				}
			}
		}
	}
	for _, l := range literals {
		if !seen[l.rule] {
			t.Fatalf("there is no rule %s", l.rule)
		}
	}
	encode(t, path, f)
}

// fasterRouting writes the routing with all times divided, and the webhooks at
// the test's receiver; nothing else is changed.
func fasterRouting(t *testing.T, path, receiver string) {
	t.Helper()
	var f map[string]any
	decode(t, routingFile, &f)
	var walk func(v any)
	urls := 0
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				s, ok := x.(string)
				switch {
				case ok && (k == "group_wait" || k == "group_interval" || k == "repeat_interval"):
					v[k] = faster(t, s)
				case ok && k == "url":
					v[k] = receiver + strings.TrimPrefix(s, "http://127.0.0.1:9099")
					urls++
				default:
					walk(x)
				}
			}
		case []any:
			for _, x := range v {
				walk(x)
			}
		}
	}
	walk(f)
	if urls != 3 {
		t.Fatalf("%d webhooks in the routing, not 3", urls)
	}
	encode(t, path, f)
}

func decode(t *testing.T, path string, out any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(raw, out); err != nil {
		t.Fatal(err)
	}
}

func encode(t *testing.T, path string, v any) {
	t.Helper()
	raw, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, raw)
}

func write(t *testing.T, path string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(root + "/.tools/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run make tools", err)
	}
	return path
}

// run runs a program to its end.
func run(t *testing.T, path string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", path, args, err, out)
	}
}

// start starts a server on a port that it chooses, and waits until it is ready.
func start(t *testing.T, path string, args ...string) (address string) {
	t.Helper()
	s := rig.Serve(t, path, args...)
	s.Ready(t, "/-/ready")
	return s.Address
}

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return body, err
}

// notification is what a webhook gets.
type notification struct {
	Receiver string
	Alerts   []struct {
		Status      string
		Labels      map[string]string
		Annotations map[string]string
	}
}

// arrival is one alert that arrived at a webhook, told once however often it is
// repeated.
type arrival struct {
	gitlab, what  string // who is concerned, and by which receiver, alert and identity
	annotations   map[string]string
	first, solved time.Time // solved: the zero time until then
	// times it came as firing. A letter that a cause is over also tells of what it
	// inhibited and is over, which then never came.
	times int
}

// mailbox is the webhook behind all three receivers.
type mailbox struct {
	url string
	mu  sync.Mutex
	got map[string]*arrival
	bad []string
}

func newMailbox(t *testing.T) *mailbox {
	t.Helper()
	m := &mailbox{got: map[string]*arrival{}}
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var n notification
		err := json.NewDecoder(r.Body).Decode(&n)
		m.mu.Lock()
		defer m.mu.Unlock()
		if err != nil {
			m.bad = append(m.bad, err.Error())
			return
		}
		for _, a := range n.Alerts {
			what := []string{strings.Trim(r.URL.Path, "/"), a.Labels["alertname"]}
			for _, k := range []string{"reason", "stage", "tag", "runner_type", "runner_id", "version"} {
				// A runner says enough, and a tag too.
				if v := a.Labels[k]; v != "" && (k != "runner_type" || a.Labels["runner_id"]+a.Labels["tag"] == "") {
					what = append(what, v)
				}
			}
			key := strings.Join(what, " ")
			one := m.got[a.Labels["gitlab"]+"\x00"+key]
			if one == nil {
				one = &arrival{gitlab: a.Labels["gitlab"], what: key, annotations: a.Annotations, first: time.Now()}
				m.got[a.Labels["gitlab"]+"\x00"+key] = one
			}
			if a.Status == "firing" {
				if one.times == 0 {
					one.first, one.annotations = time.Now(), a.Annotations
				}
				one.times++
				one.solved = time.Time{}
			} else if one.solved.IsZero() {
				one.solved = time.Now()
			}
		}
	}))
	t.Cleanup(srv.Close)
	m.url = srv.URL
	return m
}

// all are the arrivals so far, in their order.
func (m *mailbox) all() []arrival {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []arrival
	for _, a := range m.got {
		out = append(out, *a)
	}
	slices.SortFunc(out, func(a, b arrival) int { return a.first.Compare(b.first) })
	return out
}
