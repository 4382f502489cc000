package app

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/ledger"
	"gitlab-runner-fleet-exporter/internal/store"
	"gitlab-runner-fleet-exporter/test/rig"
)

// TestCountersOutliveARestart starts the real program, reads every page, stops it, and finds its
// counters again.
func TestCountersOutliveARestart(t *testing.T) {
	w := newWorld(t, smallFleet(1))
	dir := filepath.Join(t.TempDir(), "state")
	file := configFile(t, fastPoll+"gitlabs:\n"+entry("corp", w.url, "    expected: {nobody-has-it: 2}\n"))
	args := []string{"--config.file=" + file, "--storage.path=" + dir}

	r := startProcess(t, nil, args...)
	r.until("the listing is complete", "up", 1, `gitlab="corp"`)
	r.until("all runners", "runners", 12)
	r.until("sums by tag", "tag_available_runners", 0, `tag="nobody-has-it"`)
	r.until("build information", "exporter_build_info", 1, `version="`+rig.Version+`"`)
	r.until("the first load counts as a reload", "exporter_config_last_reload_successful", 1)
	eventually(t, 20*time.Second, "a finished job is counted", func() bool {
		sum, _ := r.metric("jobs_finished_total")
		return sum > 0
	})

	for _, tt := range []struct {
		method, path string
		status       int
		want         string
	}{
		{http.MethodGet, "/", http.StatusOK, "/metrics"},
		{http.MethodPost, "/", http.StatusMethodNotAllowed, "GET"},
		{http.MethodGet, "/-/healthy", http.StatusOK, "healthy"},
		{http.MethodHead, "/-/healthy", http.StatusOK, ""},
		{http.MethodGet, "/-/ready", http.StatusOK, "ready"},
		{http.MethodPost, "/-/reload", http.StatusForbidden, "--web.enable-lifecycle"},
		{http.MethodGet, "/-/reload", http.StatusForbidden, "--web.enable-lifecycle"},
		{http.MethodGet, "/fleet", http.StatusOK, "List of runners read"},
		{http.MethodPost, "/fleet", http.StatusMethodNotAllowed, "GET"},
		{http.MethodGet, "/fleet/runner?gitlab=corp&id=1", http.StatusOK, "What GitLab reports"},
		{http.MethodGet, "/fleet/runner?gitlab=corp&id=999999", http.StatusNotFound, "deleted"},
		{http.MethodGet, "/api/v1/fleet", http.StatusOK, `"name":"corp"`},
		{http.MethodGet, "/api/v1/fleet?gitlab=x", http.StatusNotFound, `"error"`},
		{http.MethodGet, "/fleet/why", http.StatusOK, "Address of the job in GitLab"},
		{http.MethodPost, "/fleet/why", http.StatusMethodNotAllowed, "GET"},
		{http.MethodGet, "/api/v1/why?tags=nobody-has-it", http.StatusOK, `"unknown_tags":[{"tag":"nobody-has-it"`},
		{http.MethodGet, "/api/v1/why?job=https://elsewhere.example.com/g/p/-/jobs/1", http.StatusNotFound, "nothing else is requested"},
		{http.MethodGet, "/fleet.json", http.StatusNotFound, ""},
		{http.MethodGet, "/debug/pprof/", http.StatusNotFound, ""},
		{http.MethodGet, "/nothing", http.StatusNotFound, ""},
		{http.MethodGet, "/metrics?collect[]=exporter", http.StatusOK, "build_info"},
	} {
		if status, body := r.do(tt.method, tt.path); status != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%s %s: HTTP %d, want %d with %q:\n%.300s", tt.method, tt.path, status, tt.status, tt.want, body)
		}
	}

	before, _ := r.metric("jobs_finished_total")
	if code := r.stop(); code != exitOK {
		t.Errorf("exit status %d after a signal", code)
	}
	for _, line := range []string{`msg="starting ` + program + `" version=` + rig.Version, "msg=\"ready", "asked to stop", "the state is saved"} {
		if !strings.Contains(r.stderr.String(), line) {
			t.Errorf("the log lacks %q:\n%s", line, r.stderr)
		}
	}

	r = startProcess(t, nil, args...)
	if status, body := r.get("/-/ready"); status != http.StatusOK {
		t.Errorf("not ready with saved state: %d %s", status, body)
	}
	r.until("counters after a restart", "exporter_config_last_reload_successful", 1)
	if after, _ := r.metric("jobs_finished_total"); after < before {
		t.Errorf("jobs_finished_total went from %v to %v over a restart", before, after)
	}
	// kill -9: nothing that a scrape has shown may be lost.
	before, _ = r.metric("jobs_finished_total")
	r.proc.Kill()
	r.stop()
	r = startProcess(t, nil, args...)
	if after, _ := r.metric("jobs_finished_total"); after < before {
		t.Errorf("jobs_finished_total went from %v to %v over kill -9", before, after)
	}
	if code := r.stop(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
	onlyRead(t, w)
}

// onlyRead holds that GitLab was sent nothing but GET and GraphQL, of which
// internal/gitlab can build queries only (its own test reads each document).
func onlyRead(t *testing.T, ws ...world) {
	t.Helper()
	for _, w := range ws {
		requests := w.Requests()
		if len(requests) == 0 {
			t.Error("no request reached GitLab")
		}
		for route := range requests {
			if !strings.HasPrefix(route, "GET ") && route != "POST /graphql" {
				t.Errorf("request %s", route)
			}
		}
	}
}

// TestHangupReloadsTheFile reloads the real program by signal: a good file, a bad one, a good one.
func TestHangupReloadsTheFile(t *testing.T) {
	a, b := newWorld(t, smallFleet(1)), newWorld(t, smallFleet(2))
	file := configFile(t, fastPoll+"gitlabs:\n"+entry("a", a.url, ""))
	r := startProcess(t, nil, "--config.file="+file, "--storage.path="+t.TempDir())
	r.until("a is up", "up", 1, `gitlab="a"`)

	hangup := func() {
		t.Helper()
		r.proc.Signal(syscall.SIGHUP)
	}
	write(t, file, fastPoll+"gitlabs:\n"+entry("a", a.url, "")+entry("b", b.url, ""))
	hangup()
	r.until("b came", "up", 1, `gitlab="b"`)

	write(t, file, "gitlabs: nonsense\n")
	hangup()
	r.until("the failure is exported", "exporter_config_last_reload_successful", 0)
	r.until("the old configuration stays", "up", 2)
	if log := r.stderr.String(); !strings.Contains(log, "the old one stays in force") || !strings.Contains(log, "line=1") {
		t.Errorf("the log lacks it:\n%s", log)
	}

	write(t, file, fastPoll+"gitlabs:\n"+entry("b", b.url, ""))
	hangup()
	r.until("all is well again", "exporter_config_last_reload_successful", 1)
	r.until("a went", "up", 1)
	if code := r.stop(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
}

// informed counts how often a monitor of w began: each asks once for the version.
func informed(w world) int { return w.Requests()["GET /metadata"] }

// TestReloadChangesWhatDiffers goes through all that a reload may change, over HTTP.
func TestReloadChangesWhatDiffers(t *testing.T) {
	a, b, c := newWorld(t, smallFleet(1)), newWorld(t, smallFleet(2)), newWorld(t, smallFleet(3))
	base := fastPoll + "gitlabs:\n" + entry("a", a.url, "")
	file := configFile(t, base+entry("b", b.url, ""))
	r := startHere(t, "--config.file="+file, "--storage.path=", "--web.enable-lifecycle")
	r.until("both are up", "up", 2)
	eventually(t, 20*time.Second, "jobs of b are counted", func() bool {
		sum, _ := r.metric("jobs_finished_total", `gitlab="b"`)
		return sum > 0
	})
	reload := func(text string, want int) string {
		t.Helper()
		write(t, file, text)
		status, body := r.do(http.MethodPost, "/-/reload")
		if status != want {
			t.Fatalf("reload: HTTP %d, want %d: %s\n%s", status, want, body, r.stderr)
		}
		ok := 0.0
		if want == http.StatusOK {
			ok = 1
		}
		if sum, _ := r.metric("exporter_config_last_reload_successful"); sum != ok {
			t.Errorf("config_last_reload_successful is %v after HTTP %d", sum, want)
		}
		return body
	}
	if status, _ := r.get("/-/reload"); status != http.StatusMethodNotAllowed {
		t.Errorf("GET: HTTP %d", status)
	}

	// Nothing changed: nothing is restarted.
	reload(base+entry("b", b.url, ""), http.StatusOK)
	if informed(a) != 1 || informed(b) != 1 {
		t.Errorf("an unchanged reload restarted monitors: %d, %d", informed(a), informed(b))
	}

	// b changes, c comes: a is left alone, b keeps its counters and its page.
	before, _ := r.metric("jobs_finished_total", `gitlab="b"`)
	reload(base+entry("b", b.url, "    poll: {staleness: 20m}\n")+entry("c", c.url, ""), http.StatusOK)
	if after, n := r.metric("jobs_finished_total", `gitlab="b"`); n == 0 || after < before {
		t.Errorf("counters of b went from %v to %v over a reload", before, after)
	}
	if _, n := r.metric("runners", `gitlab="b"`); n == 0 {
		t.Error("the gauges of b were withdrawn by a reload")
	}
	r.until("all are up", "up", 3)
	if informed(a) != 1 || informed(b) != 2 || informed(c) != 1 {
		t.Errorf("monitors begun: a %d, b %d, c %d", informed(a), informed(b), informed(c))
	}

	// The name of another GitLab: refused, and b goes on where it was.
	body := reload(base+entry("b", c.url, ""), http.StatusInternalServerError)
	if !strings.Contains(body, "must not mix") || !strings.Contains(body, "old configuration stays") {
		t.Errorf("the answer: %s", body)
	}
	if _, n := r.metric("runners", `gitlab="b"`); n == 0 {
		t.Error("b went with a refused reload")
	}
	r.until("all are up again", "up", 3)
	if informed(a) != 1 {
		t.Error("a refused reload of b restarted a")
	}

	// A bad file: its mistakes are in the answer.
	if body := reload(base+"  - {urll: x}\n", http.StatusInternalServerError); !strings.Contains(body, "line") || !strings.Contains(body, "urll") {
		t.Errorf("the answer: %s", body)
	}

	// A token file that is not there is found before anything stops.
	reload(base+entry("b", b.url, "    tls_config: {ca_file: nowhere.pem}\n"), http.StatusInternalServerError)
	r.until("all are still up", "up", 3)

	// metrics changes: families go and come, counters stay.
	before, _ = r.metric("jobs_finished_total", `gitlab="a"`)
	reload(base+entry("b", b.url, "")+"metrics: {disable: [runner_info]}\n", http.StatusOK)
	if _, n := r.metric("runner_info"); n != 0 {
		t.Error("a disabled family is still exported")
	}
	if after, _ := r.metric("jobs_finished_total", `gitlab="a"`); after < before {
		t.Errorf("counters of a went from %v to %v", before, after)
	}
	if _, n := r.metric("up", `gitlab="c"`); n != 0 {
		t.Error("c was removed and is still exported")
	}
	if _, n := r.metric("exporter_api_requests_total", `gitlab="c"`); n != 0 {
		t.Error("c was removed and its self metrics are still exported")
	}
	reload(base+entry("b", b.url, ""), http.StatusOK)
	r.until("the family is back", "runner_info", 12, `gitlab="a"`)

	// A page in a browser cannot reload.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/-/reload", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("cross-site: HTTP %d", res.StatusCode)
	}

	if code := r.stop(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
	onlyRead(t, a, b, c)
}

// TestForeignStateOnDiskIsRefused: the same refusal where the state is a file, and after
// it the old monitor still writes to it.
func TestForeignStateOnDiskIsRefused(t *testing.T) {
	a, b := newWorld(t, smallFleet(1)), newWorld(t, smallFleet(2))
	file := configFile(t, fastPoll+"gitlabs:\n"+entry("x", a.url, ""))
	dir := t.TempDir()
	r := startHere(t, "--config.file="+file, "--storage.path="+dir, "--web.enable-lifecycle")
	r.until("up", "up", 1)
	write(t, file, fastPoll+"gitlabs:\n"+entry("x", b.url, ""))
	if status, body := r.do(http.MethodPost, "/-/reload"); status != http.StatusInternalServerError || !strings.Contains(body, "belongs to") {
		t.Errorf("HTTP %d: %s", status, body)
	}
	r.until("up again", "up", 1)
	if len(b.Requests()) != 0 {
		t.Errorf("the refused GitLab was asked: %v", b.Requests())
	}
	saves, _ := r.metric("exporter_state_save_duration_seconds_count")
	eventually(t, 20*time.Second, "the restored monitor saves", func() bool {
		now, _ := r.metric("exporter_state_save_duration_seconds_count")
		return now > saves
	})
	if n, _ := r.metric("exporter_state_save_errors_total"); n != 0 {
		t.Errorf("%v commits failed", n)
	}
	if code := r.stop(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
	// At a start the same is a failure.
	code, _, stderr := runOnce(t, "--web.listen-address=127.0.0.1:0", "--config.file="+file, "--storage.path="+dir)
	if code != exitFailure || !strings.Contains(stderr, "belongs to") {
		t.Errorf("%d: %s", code, stderr)
	}
}

// TestOlderStateOnDiskIsPutAside: a state of an older layout is put aside with one warning
// that names it, and counting begins from then on.
func TestOlderStateOnDiskIsPutAside(t *testing.T) {
	w := newWorld(t, smallFleet(1))
	dir := t.TempDir()
	folder, err := store.Open(t.Context(), store.Options{Path: dir, Layout: ledger.Layout - 1})
	if err != nil {
		t.Fatal(err)
	}
	state, err := folder.Open("corp", w.url)
	if err != nil {
		t.Fatal(err)
	}
	// What it holds must not even be looked at.
	err = state.Commit(store.Batch{Put: []store.Record{{Key: []byte("lm"), Value: []byte("of an older layout")}}})
	if err := errors.Join(err, folder.Close()); err != nil {
		t.Fatal(err)
	}
	file := configFile(t, fastPoll+"gitlabs:\n"+entry("corp", w.url, ""))
	for start := range 2 {
		r := startProcess(t, nil, "--config.file="+file, "--storage.path="+dir)
		r.until("up", "up", 1)
		if n, _ := r.metric("exporter_state_damaged_total"); n != 0 {
			t.Errorf("called damaged %v times", n)
		}
		if code := r.stop(); code != exitOK {
			t.Errorf("exit status %d", code)
		}
		kept, err := filepath.Glob(filepath.Join(dir, "*.older-*"))
		if err != nil || len(kept) != 1 {
			t.Fatalf("kept are %q, %v", kept, err)
		}
		want := 1 - start // logged at the first start only
		if log := r.stderr.String(); strings.Count(log, "older layout") != want || strings.Count(log, kept[0]) != want || strings.Count(log, "level=warn") < want {
			t.Errorf("start %d:\n%s", start, log)
		}
	}
}

// TestWrongTokenHarmsOneGitLab: a wrong token harms one GitLab only, the log has it once, and
// a corrected token file is taken up without a restart.
func TestWrongTokenHarmsOneGitLab(t *testing.T) {
	good, bad := newWorld(t, smallFleet(1)), newWorld(t, smallFleet(2))
	token := filepath.Join(t.TempDir(), "token")
	write(t, token, "wrong-token\n")
	file := configFile(t, fastPoll+"gitlabs:\n"+entry("good", good.url, "")+
		fmt.Sprintf("  - {name: bad, url: %q, authorization: {credentials_file: %q}}\n", bad.url, token)+
		entry("gone", "http://127.0.0.1:1", ""))
	r := startHere(t, "--config.file="+file, "--storage.path=")
	r.until("the good one is up", "up", 1, `gitlab="good"`)
	r.until("its runners", "runners", 12, `gitlab="good"`)
	r.until("the bad one is not", "up", 0, `gitlab="bad"`)
	r.until("nor the one that is down", "up", 0, `gitlab="gone"`)
	eventually(t, 20*time.Second, "three listings were refused", func() bool {
		n, _ := r.metric("exporter_poll_failures_total", `gitlab="bad"`, `stage="runners"`, `reason="unauthorized"`)
		return n >= 3
	})
	if _, n := r.metric("runners", `gitlab="bad"`); n != 0 {
		t.Error("gauges of a GitLab that was never listed")
	}
	logged := 0
	for line := range strings.Lines(r.stderr.String()) {
		if strings.Contains(line, "gitlab=bad") && strings.Contains(line, "level=error") {
			logged++
			if !strings.Contains(line, "reason=unauthorized") || !strings.Contains(line, "remedy=") {
				t.Errorf("the line does not help: %s", line)
			}
		}
	}
	if logged != 1 {
		t.Errorf("logged %d times:\n%s", logged, r.stderr)
	}
	eventually(t, 20*time.Second, "ready though two are down", func() bool {
		status, _ := r.get("/-/ready")
		return status == http.StatusOK
	})

	write(t, token, testToken+"\n")
	r.until("the new token is taken up", "up", 1, `gitlab="bad"`)
	r.until("its runners come", "runners", 12, `gitlab="bad"`)
	if code := r.stop(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
	onlyRead(t, good, bad)
}

// TestScrapeDoesNotWaitForGitLab: a scrape is answered while the first listing is under way,
// and readiness names for whom it waits; a stop does not wait for GitLab.
func TestScrapeDoesNotWaitForGitLab(t *testing.T) {
	o := smallFleet(1)
	o.Latency = func(string) time.Duration { return time.Hour }
	w := newWorld(t, o)
	file := configFile(t, "gitlabs:\n"+entry("slow", w.url, ""))
	r := startHere(t, "--config.file="+file, "--storage.path=")
	r.until("up is 0", "up", 0, `gitlab="slow"`)
	if status, body := r.get("/-/ready"); status != http.StatusServiceUnavailable || !strings.Contains(body, "slow") {
		t.Errorf("ready: HTTP %d %s", status, body)
	}
	began := time.Now()
	if code := r.stop(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("the stop took %s", took)
	}
}

// TestShardsShareTheRunners: two processes share the runners and each exports which it is.
func TestShardsShareTheRunners(t *testing.T) {
	w := newWorld(t, gitlabsim.Options{Seed: 1, Runners: 40, Tags: 5, Healthy: true})
	file := configFile(t, fastPoll+"gitlabs:\n"+entry("a", w.url, ""))
	total := 0.0
	for _, index := range []string{"0", "1"} {
		r := startHere(t, "--config.file="+file, "--storage.path=", "--shard.count=2", "--shard.index="+index)
		r.until("up", "up", 1, `shard="`+index+`"`)
		eventually(t, 15*time.Second, "runners", func() bool {
			sum, _ := r.metric("runners", `shard="`+index+`"`)
			return sum > 0
		})
		sum, _ := r.metric("runners")
		if sum == 0 || sum == 40 {
			t.Errorf("shard %s has %v of 40 runners", index, sum)
		}
		total += sum
		r.stop()
	}
	if total != 40 {
		t.Errorf("the shards have %v runners together", total)
	}
}

// TestJSONLogHasOneObjectALine: one object a line, with the same keys.
func TestJSONLogHasOneObjectALine(t *testing.T) {
	w := newWorld(t, smallFleet(1))
	t.Setenv("GITLAB_TOKEN", testToken)
	r := startHere(t, "--gitlab.url="+w.url, "--storage.path=", "--log.format=json")
	r.until("up", "up", 1)
	r.stop()
	for line := range strings.Lines(r.stderr.String()) {
		if !strings.HasPrefix(line, "{") || strings.Count(line, `"caller"`) != 1 || strings.Count(line, `"ts"`) != 1 {
			t.Errorf("line %s", line)
		}
	}
	if !strings.Contains(r.stderr.String(), "--storage.path is empty") {
		t.Error("no warning about memory only")
	}
}

// TestDemoIsWholeSoonAfterTheStart: the whole picture soon after the start; the log has the time, which
// is some two seconds on a quiet machine.
func TestDemoIsWholeSoonAfterTheStart(t *testing.T) {
	began := time.Now()
	dir := t.TempDir()
	r := startProcess(t, nil, "--demo", "--storage.path="+filepath.Join(dir, "data"))
	whole := func() bool {
		for _, family := range []string{
			"tag_runners", "tag_available_runners", "tag_expected_runners", "managers", "version_runners", "busy_runners",
			"runner_info", "runner_tag_info", "runner_jobs_executing", "runner_last_job_finished_timestamp_seconds",
			"job_duration_seconds_count", "jobs_executing",
		} {
			if _, n := r.metric(family); n == 0 {
				return false
			}
		}
		executing, _ := r.metric("jobs_executing")
		return executing > 0
	}
	eventually(t, 30*time.Second-time.Since(began), "the whole picture", whole)
	t.Logf("the whole picture after %s", time.Since(began))
	if sum, _ := r.metric("runners"); sum < 290 {
		t.Errorf("%v runners", sum)
	}
	out := r.stdout.String()
	for _, want := range []string{r.url + "/metrics", "/api/v4", "curl ", "rate("} {
		if !strings.Contains(out, want) {
			t.Errorf("the greeting lacks %q:\n%s", want, out)
		}
	}
	// What it prints to try works.
	var url, token string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "its" {
			token = f[2]
		} else if len(f) > 2 && f[0] == "simulated" && f[1] == "GitLab" {
			url = f[2]
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/runners/all?per_page=3", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("PRIVATE-TOKEN", token)
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("the simulated GitLab: HTTP %d", res.StatusCode)
	}
	if strings.Contains(r.stderr.String(), token) {
		t.Error("the token is in the log")
	}
	t.Run("promtool", func(t *testing.T) { checkMetrics(t, r) })
	if code := r.stop(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("the demonstration left %v on disk (%v)", entries, err)
	}
}

// TestSecondSignalDoesNotWait: a client that never ends its request holds the graceful
// stop up; a second signal does not wait for it.
func TestSecondSignalDoesNotWait(t *testing.T) {
	w := newWorld(t, smallFleet(1))
	file := configFile(t, "gitlabs:\n"+entry("a", w.url, ""))
	r := startProcess(t, nil, "--config.file="+file, "--storage.path=")
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // a test's
	if _, err := conn.Write([]byte("GET /metrics HTTP/1.1\r\n")); err != nil {
		t.Fatal(err)
	}
	r.until("up", "up", 1)
	signal := func() {
		t.Helper()
		r.proc.Signal(syscall.SIGTERM)
	}
	signal()
	eventually(t, 10*time.Second, "the first signal is handled", func() bool { return strings.Contains(r.stderr.String(), "asked to stop") })
	began := time.Now()
	signal()
	if code := r.wait(); code != exitFailure {
		t.Errorf("exit status %d\n%s", code, r.stderr)
	}
	if took := time.Since(began); took > drainFor-time.Second {
		t.Errorf("ended after %s", took)
	}
}
