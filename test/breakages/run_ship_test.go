//go:build ship

package breakages

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// startExporter starts one process over towns, with a token.
func startExporter(t *testing.T, dir, binary, secret string, towns []*town, polls map[string]string) string {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "token"), []byte(secret))
	var b strings.Builder
	// The details of a runner that executes are read every 5m whatever
	// details_interval says; that does not run faster, so all are.
	fmt.Fprintf(&b, "poll: {runners_interval: %[1]s, queue_interval: %[1]s, details_interval: %[2]s, jobs_interval: %[1]s, reconcile_interval: %[3]s, lookback: %[4]s, staleness: %[5]s, max_requests_per_second: 0, request_timeout: 5s}\n",
		ms(lived(time.Minute)), ms(lived(5*time.Minute)), ms(lived(time.Hour)), ms(lived(24*time.Hour)), ms(lived(10*time.Minute)))
	b.WriteString("gitlabs:\n")
	for i, v := range towns {
		api := "auto"
		if i%2 == 1 {
			api = "rest"
		}
		fmt.Fprintf(&b, "  - {name: %s, url: %q, api: %s, authorization: {credentials_file: token}, expected: {gpu: 1, docker: 3, nightly: 0}, poll: {%s}}\n", v.name, v.url, api, polls[v.name])
	}
	config := filepath.Join(dir, "config.yml")
	write(t, config, []byte(b.String()))
	return start(t, binary, "--config.file="+config, "--storage.path="+filepath.Join(dir, "state"))
}

// stack starts an exporter over all towns and a second one over those with two,
// Prometheus over both, and Alertmanager behind that.
func stack(t *testing.T, dir, binary string, towns []*town, polls map[string]string, receiver string) (exporter, alertmanager string) {
	t.Helper()
	var twice []*town
	for _, v := range towns {
		if v.twice {
			twice = append(twice, v)
		}
	}
	exporterAt := startExporter(t, filepath.Join(dir, "a"), binary, token, towns, polls)
	replicaAt := startExporter(t, filepath.Join(dir, "b"), binary, tokenOfReplica, twice, polls)

	routing := filepath.Join(dir, "alertmanager.yml")
	fasterRouting(t, routing, receiver)
	run(t, tool(t, "amtool"), "check-config", routingFile, routing)
	alertmanagerAt := start(t, tool(t, "alertmanager"), "--config.file="+routing, "--storage.path="+filepath.Join(dir, "am"), "--cluster.listen-address=")

	rules := filepath.Join(dir, "rules.yml")
	fasterRules(t, rules)
	run(t, tool(t, "promtool"), "check", "rules", rules)
	write(t, filepath.Join(dir, "prometheus.yml"), fmt.Appendf(nil, `
rule_files: [rules.yml]
alerting: {alertmanagers: [{static_configs: [{targets: [%q]}]}]}
scrape_configs:
  - job_name: %s
    scrape_interval: %s
    scrape_timeout: %[3]s
    static_configs: [{targets: [%[4]q, %[5]q]}]
`, alertmanagerAt, job, ms(lived(30*time.Second)), exporterAt, replicaAt))
	history(t, dir, towns)
	start(t, tool(t, "prometheus"),
		"--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "tsdb"),
		// What Prometheus itself does every so often.
		"--query.lookback-delta="+ms(lived(5*time.Minute)), "--rules.alert.resend-delay="+ms(lived(time.Minute)))
	return "http://" + exporterAt, "http://" + alertmanagerAt
}

// history gives Prometheus more than a day in which all was well, without
// which nothing would be usual.
func history(t *testing.T, dir string, towns []*town) {
	t.Helper()
	tags, types := population()
	now := time.Now()
	var b bytes.Buffer
	series := func(name, labels string, value int) {
		for at := lived(26 * time.Hour); at > 0; at -= lived(3 * time.Minute) {
			fmt.Fprintf(&b, "%s{%s} %d %.3f\n", name, labels, value, float64(now.Add(-at).UnixMilli())/1000)
		}
	}
	for _, v := range towns {
		for tag, n := range tags {
			series("gitlab_tag:gitlab_runner_fleet_tag_available_runners:sum", fmt.Sprintf("gitlab=%q,tag=%q", v.name, tag), n)
		}
		for typ := range types {
			series("gitlab_runner_type:gitlab_runner_fleet_runners_offline:ratio", fmt.Sprintf("gitlab=%q,runner_type=%q", v.name, typ), 0)
			series("gitlab_runner_type:gitlab_runner_fleet_runners_paused:ratio", fmt.Sprintf("gitlab=%q,runner_type=%q", v.name, typ), 0)
		}
	}
	b.WriteString("# EOF\n")
	write(t, filepath.Join(dir, "history.txt"), b.Bytes())
	run(t, tool(t, "promtool"), "tsdb", "create-blocks-from", "openmetrics", filepath.Join(dir, "history.txt"), filepath.Join(dir, "tsdb"))
}

// silence mutes an alert of a GitLab for the rest of the test.
func silence(t *testing.T, alertmanager, alert, gitlab string) {
	t.Helper()
	run(t, tool(t, "amtool"), "silence", "add", "--alertmanager.url="+alertmanager, "--author=drill", "--comment=known", "--duration=1h", "alertname="+alert, "gitlab="+gitlab)
}

var ofGitLab = regexp.MustCompile(`^gitlab_runner_fleet_(\w+)_total\{.*gitlab="([^"]*)".*\} (\S+)$`)

// counted is what the exporter counted, by GitLab.
func counted(t *testing.T, exporter, counter string) map[string]float64 {
	t.Helper()
	body, err := get(t.Context(), exporter+"/metrics")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for s := bufio.NewScanner(bytes.NewReader(body)); s.Scan(); {
		if m := ofGitLab.FindStringSubmatch(s.Text()); m != nil && m[1] == counter {
			v, err := strconv.ParseFloat(m[3], 64)
			if err != nil {
				t.Fatal(err)
			}
			out[m[2]] += v
		}
	}
	return out
}
