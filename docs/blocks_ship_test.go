//go:build ship

package docs

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/test/rig"
)

// notRun are blocks of commands that cannot run in a test, by document and the
// beginning of the block, with the reason.
var notRun = map[string]string{
	"README.md: make test":                                                           "this is a part of it",
	"README.zh-CN.md: make test":                                                     "this is a part of it",
	"alerts/README.md: gitlab_runner_fleet_exporter":                                 "kubectl needs a cluster of yours: TestRulesPrintNeedsNoConfiguration and the chart's tests",
	"alerts/README.md: make tools\ngo test -tags":                                    "nine minutes, which test-ship runs by itself",
	"alerts/README.md: make tools\ngo test ./dashb":                                  "25 minutes: make bench-queries",
	"alerts/README.md: cd test/promcheck && go test -run '^$'":                       "a measurement, which fails where the machine does something else: bench-queries",
	"docs/api.md: curl":                                                              "asks a process of yours: TestAPIIsDocumented",
	"alerts/README.md: go test ./alerts -update":                                     "make test runs both",
	"deploy/compose/README.md: docker compose -f deploy/compose/compose.yml up":      "no registry for the images: TestProgramsFindEachOther runs the programs with these files",
	"deploy/compose/README.md: docker compose -f deploy/compose/compose.yml -f mine": "likewise",
	"docs/counting.md: go test ./internal/ledger":                                    "a million jobs: make sim",
	"docs/performance.md: go run ./test/scale -first":                                "an hour; TestMeasuresAFirstPicture does it small",
	"docs/performance.md: make bench-scale":                                          "more than an hour",
	"docs/performance.md: go test ./internal/gitlab":                                 "measurements: make bench",
	"docs/performance.md: go run ./test/scale -runners":                              "minutes of measurement; TestMeasuresASmallFleet does it small",
	"docs/dashboards.md: make tools":                                                 "25 minutes: make bench-queries",
	"docs/dashboards.md: apt-get install chromium":                                   "installs a browser: make pictures",
	"docs/install.md: apt-get install ./dist":                                        "no systemd here: TestShipPackagesKeepStateAndEditsOverAnUpgrade installs into a copy of this system",
	"docs/install.md: docker build":                                                  "no registry for the builder's image: TestShipImageRunsAsAnyUser",
	"docs/kubernetes.md: kubectl create namespace":                                   "no cluster of yours: TestShipKubernetesAcceptsEveryObject runs it against an API server",
	"docs/kubernetes.md: kubectl --namespace":                                        "likewise",
}

var (
	shellBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```")
	// A command that goes on until it is stopped.
	serves = regexp.MustCompile(`(?m)^((?:go run \.|(?:\./)?gitlab_runner_fleet_exporter) (?:[^|>\n]*))$`)
	ends   = regexp.MustCompile(`--(config\.check|gitlab\.check|rules\.print|version|help|healthcheck)\b`)
	note   = regexp.MustCompile(`(?m)\s+# .*$`)
)

// served starts what serves in a group of its own and scrapes it. It goes on until
// the next one is started, as a reader leaves it, so that curl finds it.
const served = `set -m
pid= address=
stop() {
  [ -n "$pid" ] || return 0
  kill -INT -- -$pid
  wait $pid || true
  pid=
}
trap stop EXIT
served() {
  stop
  local log=$(mktemp)
  "$@" >"$log" 2>&1 &
  pid=$!
  for _ in $(seq 600); do
    address=$(sed -n 's/.*msg=listening address=\([^ ]*\).*/\1/p' "$log")
    [ -z "$address" ] || break
    kill -0 $pid || { cat "$log"; return 1; }
    sleep 0.1
  done
  command curl -fsS "http://$address/metrics" | grep '^gitlab_runner_fleet_up{' || { cat "$log"; return 1; }
}
curl() { command curl --fail-with-body "${@//localhost:9756/$address}"; }
`

// TestShipDocumentBlocksRun runs the commands of each document in order, each
// document in a fresh clone with a clean environment, as a reader would who has
// a configuration, a token and a GitLab.
func TestShipDocumentBlocksRun(t *testing.T) {
	const token = "glpat-documents-canary-2Lp7"
	world := gitlabsim.New(gitlabsim.Options{Seed: 1, Runners: 12, Tags: 5, JobsPerHour: 500, Token: token, Healthy: true})
	server := httptest.NewServer(world.Handler())
	t.Cleanup(server.Close)
	bin := filepath.Dir(rig.Exporter(t))

	used := map[string]bool{}
	run, skipped := 0, 0
	for _, path := range documents(t) {
		name := filepath.ToSlash(strings.TrimPrefix(filepath.Clean(filepath.Join("docs", path)), "./"))
		var script strings.Builder
		blocks := 0
	block:
		for _, m := range shellBlock.FindAllStringSubmatch(read(t, path), -1) {
			text := note.ReplaceAllString(m[1], "")
			for key, reason := range notRun {
				if document, begin, _ := strings.Cut(key, ": "); document == name && strings.HasPrefix(text, begin) {
					used[key] = true
					skipped++
					if reason == "" {
						t.Errorf("%s is not run, without a reason", key)
					}
					continue block
				}
			}
			blocks++
			text = strings.NewReplacer("https://gitlab.example.com", server.URL, "glpat-your-token", token, "--web.listen-address=:", "--web.listen-address=127.0.0.1:", "\\\n", "").Replace(text)
			script.WriteString(serves.ReplaceAllStringFunc(text, func(line string) string {
				if ends.MatchString(line) {
					return line
				}
				return "served " + line
			}))
		}
		if blocks == 0 {
			continue
		}
		run += blocks
		t.Run(name, func(t *testing.T) {
			dir := rig.Checkout(t)
			for file, text := range map[string]string{
				"gitlab-token": token + "\n",
				"config.yml":   "gitlabs:\n  - name: corp\n    url: " + server.URL + "\n    authorization: {credentials_file: gitlab-token}\n",
			} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), "bash", "-euxo", "pipefail", "-c", served+script.String())
			cmd.Dir = dir
			cmd.Env = []string{
				"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "LANG=C.UTF-8",
				"GITLAB_RUNNER_FLEET_WEB_LISTEN_ADDRESS=127.0.0.1:0", // 9756 may be taken
			}
			// How this machine gets its modules is not the documents' concern.
			for _, key := range []string{"GOPROXY", "GOMODCACHE", "GOCACHE", "GOFLAGS", "GOSUMDB", "GONOSUMDB"} {
				if value, ok := os.LookupEnv(key); ok {
					cmd.Env = append(cmd.Env, key+"="+value)
				}
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	for key, reason := range notRun {
		if !used[key] {
			t.Errorf("no block %q is left to be skipped (%s)", key, reason)
		}
	}
	t.Logf("counted: %d blocks of commands run, %d not, each with its reason", run, skipped)
	if run < 10 {
		t.Errorf("%d blocks run: the search is broken", run)
	}
}
