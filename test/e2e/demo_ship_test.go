//go:build ship

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"gitlab-runner-fleet-exporter/test/rig"
)

// storyTime is when the demonstration has shown what it is to show.
const storyTime = 11 * time.Minute

// storyAlerts are the notifications of the first eleven minutes: receiver, alert and
// what it is about.
var storyAlerts = []string{
	"pager GitLabRunnerTagBelowFloor payments-deploy",
	"pager GitLabRunnerTagLost ios-signing",
	"tickets GitLabRunnerBlackHole",
	"tickets GitLabRunnerOrphanedJobs",
}

// storiesShown are what the page shows of the stories at minute ten.
var storiesShown = []string{
	"tag ios-signing lost", "tag payments-deploy below_floor", "runner android black_hole", "runner docker-large orphaned",
	"waiting integration", "unmatched integratoin no_runner",
}

// onThePage is what /api/v1/fleet, the page for scripts, shows.
func onThePage(t *testing.T, exporter *rig.Server) (shown []string) {
	t.Helper()
	var f struct {
		Tags    []struct{ Tag, Problem string }
		Runners []struct {
			Description string
			Suspects    []struct{ Reason string }
			Orphaned    int `json:"orphaned_jobs"`
		}
		Queues []struct {
			Tags      []struct{ Tag string }
			Unmatched []struct{ Tags, Reason string }
		}
	}
	if err := json.Unmarshal([]byte(exporter.Get(t, "/api/v1/fleet")), &f); err != nil {
		t.Fatal(err)
	}
	for _, x := range f.Tags {
		shown = append(shown, "tag "+x.Tag+" "+x.Problem)
	}
	for _, r := range f.Runners {
		pool := strings.TrimRight(r.Description, "-0123456789")
		for _, s := range r.Suspects {
			shown = append(shown, "runner "+pool+" "+s.Reason)
		}
		if r.Orphaned > 0 {
			shown = append(shown, "runner "+pool+" orphaned")
		}
	}
	for _, q := range f.Queues {
		for _, x := range q.Tags {
			shown = append(shown, "waiting "+x.Tag)
		}
		for _, x := range q.Unmatched {
			shown = append(shown, "unmatched "+x.Tags+" "+x.Reason)
		}
	}
	return shown
}

// webhook records which alerts arrived as firing, and when after the start.
type webhook struct {
	url string

	mu  sync.Mutex
	got map[string]time.Duration
}

func newWebhook(t *testing.T) *webhook {
	t.Helper()
	h := &webhook{got: map[string]time.Duration{}}
	start := time.Now()
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var n struct {
			Alerts []struct {
				Status string
				Labels map[string]string
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
			t.Errorf("a notification: %v", err)
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, a := range n.Alerts {
			what := strings.TrimSpace(strings.Trim(r.URL.Path, "/") + " " + a.Labels["alertname"] + " " + a.Labels["tag"])
			if _, known := h.got[what]; !known && a.Status == "firing" {
				h.got[what] = time.Since(start).Round(time.Second)
			}
		}
	}))
	t.Cleanup(srv.Close)
	h.url = srv.URL
	return h
}

func (h *webhook) all() map[string]time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.got)
}

// routing writes the routing of deploy/compose with the receivers replaced by
// the webhook.
func routing(t *testing.T, path, url string) {
	t.Helper()
	raw, err := os.ReadFile("../../deploy/compose/alertmanager.yml")
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := yaml.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	receivers, ok := config["receivers"].([]any)
	if !ok {
		t.Fatal("no receivers")
	}
	for _, r := range receivers {
		m, ok := r.(map[string]any)
		if !ok {
			t.Fatalf("receiver %v", r)
		}
		for key := range m {
			if key != "name" {
				delete(m, key)
			}
		}
		m["webhook_configs"] = []map[string]string{{"url": fmt.Sprintf("%s/%v", url, m["name"])}}
	}
	out, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestShipDemoStoriesReachTheReceivers runs the demonstration with Prometheus, the
// rules as printed and Alertmanager with the routing of deploy/compose: within eleven
// minutes the alerts of its stories arrive, and no other page or ticket. At minute ten
// the page shows the stories.
func TestShipDemoStoriesReachTheReceivers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	hook := newWebhook(t)
	routing(t, filepath.Join(dir, "alertmanager.yml"), hook.url)
	alertmanager := rig.Serve(t, rig.Tool(t, "alertmanager"), "--config.file="+filepath.Join(dir, "alertmanager.yml"),
		"--storage.path="+filepath.Join(dir, "am"), "--cluster.listen-address=")
	exporter := rig.Serve(t, rig.Exporter(t), "--demo")
	began := time.Now()
	rules := rig.Run(t, rig.Exporter(t), "--rules.print")
	if err := os.WriteFile(filepath.Join(dir, "rules.yml"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), fmt.Appendf(nil, `
global: {scrape_interval: 15s, evaluation_interval: 15s}
alerting: {alertmanagers: [{static_configs: [{targets: [%q]}]}]}
rule_files: [rules.yml]
scrape_configs: [{job_name: gitlab_runner_fleet_exporter, static_configs: [{targets: [%q]}]}]
`, alertmanager.Address, exporter.Address), 0o600); err != nil {
		t.Fatal(err)
	}
	prometheus := rig.Serve(t, rig.Tool(t, "prometheus"), "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "tsdb"))
	prometheus.Ready(t, "/-/ready")
	time.Sleep(time.Until(began.Add(10 * time.Minute)))
	shown := onThePage(t, exporter)
	for _, want := range storiesShown {
		if !slices.Contains(shown, want) {
			t.Errorf("at minute ten the page does not show %q, but %q", want, shown)
		}
	}
	time.Sleep(time.Until(began.Add(storyTime)))
	got := hook.all()
	for _, want := range storyAlerts {
		if _, ok := got[want]; !ok {
			t.Errorf("%s did not arrive", want)
		}
	}
	for _, what := range slices.Sorted(maps.Keys(got)) {
		t.Logf("after %v: %s", got[what], what)
		if !slices.Contains(storyAlerts, what) {
			t.Errorf("%s arrived, and is no story of the demonstration", what)
		}
	}
}
