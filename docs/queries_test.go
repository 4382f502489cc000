package docs

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/test/rig"
)

const queries = "queries.md"

func TestMain(m *testing.M) { rig.Main(m) }

// demonstration runs the demonstration and a Prometheus that scrapes it, and
// returns the latter's address and the former.
func demonstration(t *testing.T, prometheus string) (base string, exporter *rig.Server) {
	t.Helper()
	exporter = rig.Serve(t, rig.Exporter(t), "--demo")
	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	config := fmt.Sprintf("global: {scrape_interval: 2s}\nscrape_configs:\n  - job_name: gitlab_runner_fleet_exporter\n    static_configs: [{targets: [%q]}]\n", exporter.Address)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	server := rig.Serve(t, prometheus, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"))
	server.Ready(t, "/-/ready")
	return "http://" + server.Address, exporter
}

// drill plays a story of the demonstration.
func drill(t *testing.T, exporter *rig.Server, name string) {
	t.Helper()
	resp, err := post(t, "http://"+exporter.Address+"/demo/drill", url.Values{"name": {name}})
	if err != nil {
		t.Fatalf("drill %s: %v", name, err)
	}
	if _ = resp.Body.Close(); resp.StatusCode != http.StatusOK {
		t.Fatalf("drill %s: HTTP %d", name, resp.StatusCode)
	}
}

// TestQueriesAreAnswered runs each query of docs/queries.md in a real
// Prometheus against the demonstration, with its drills played: a query that
// fails, or finds nothing where there is something to find, is of no use.
func TestQueriesAreAnswered(t *testing.T) {
	rig.Long(t, "runs the demonstration and a Prometheus")
	prometheus := rig.Tool(t, "prometheus")
	text := read(t, queries)
	asked := blocks(text, "promql")
	if n := strings.Count(text, "\n## "); n != 10 || len(asked) < n {
		t.Errorf("%d questions and %d queries: ten are promised, each with a query", n, len(asked))
	}

	base, exporter := demonstration(t, prometheus)
	for _, name := range []string{"tag-lost", "floor", "black-hole", "queue"} {
		drill(t, exporter, name)
	}

	// A runner is judged down at a second reading a minute later; the busiest hour needs a whole minute.
	until := time.Now().Add(5 * time.Minute)
	for _, q := range asked {
		for {
			n, err := answers(t, base, q)
			if err != nil {
				t.Errorf("%v\n%s", err, q)
				break
			}
			if n > 0 {
				break
			}
			if time.Now().After(until) {
				t.Errorf("no answer to\n%s", q)
				break
			}
			time.Sleep(2 * time.Second)
		}
	}
}

// answers is how many series a query has that are numbers.
func answers(t *testing.T, base, query string) (int, error) {
	t.Helper()
	var answer struct {
		Error string
		Data  struct{ Result []struct{ Value [2]any } }
	}
	resp, err := post(t, base+"/api/v1/query", url.Values{"query": {query}})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return 0, err
	}
	if answer.Error != "" {
		return 0, fmt.Errorf("prometheus: %s", answer.Error)
	}
	n := 0
	for _, r := range answer.Data.Result {
		if r.Value[1] != "NaN" {
			n++
		}
	}
	return n, nil
}

func post(t *testing.T, address string, form url.Values) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return (&http.Client{Timeout: 30 * time.Second}).Do(req)
}
