package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	simgraphql "gitlab-runner-fleet-exporter/internal/gitlabsim/graphql"
	"gitlab-runner-fleet-exporter/test/rig"
)

// residentPeak is the highest resident memory of a process so far, in bytes.
func residentPeak(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Skip("the peak of a process' memory is read from /proc, which this system does not have")
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("no VmHWM in /proc")
	return 0
}

// TestEndlessListCostsLittleMemory runs the real process against a list of runners
// that never ends, each row new, with long texts or short ones: the listing fails,
// and the process takes less than 100 MiB more than before.
func TestEndlessListCostsLittleMemory(t *testing.T) {
	rig.Long(t, "runs the real process against four endless lists")
	const most = 100 << 20
	long := strings.Repeat("d", 1000)
	tags := make([]string, 50)
	for i := range tags {
		tags[i] = fmt.Sprintf("%q", "tag-of-many-"+strconv.Itoa(i))
	}
	for name, c := range map[string]struct {
		graphql           bool
		description, tags string
	}{
		"REST, short texts":    {description: "d"},
		"REST, long texts":     {description: long},
		"GraphQL, short texts": {graphql: true, description: "d", tags: `"tag"`},
		"GraphQL, long texts":  {graphql: true, description: long, tags: strings.Join(tags, ",")},
	} {
		t.Run(name, func(t *testing.T) {
			world := gitlabsim.New(gitlabsim.Options{Seed: 4, Runners: 50, Tags: 10, Token: token})
			if _, err := simgraphql.Mount(world); err != nil {
				t.Fatal(err)
			}
			real := world.Handler()
			var on atomic.Bool
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				rest := strings.HasSuffix(r.URL.Path, "/runners/all") && r.URL.Query().Get("per_page") == "100"
				query := r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/graphql")
				if !on.Load() || c.graphql && !query || !c.graphql && !rest {
					real.ServeHTTP(w, r)
					return
				}
				page, _ := strconv.Atoi(r.URL.Query().Get("page"))
				if query {
					body, err := io.ReadAll(r.Body)
					var in struct {
						Variables struct {
							After string `json:"after"`
						} `json:"variables"`
					}
					if err != nil || json.Unmarshal(body, &in) != nil {
						return
					}
					page, _ = strconv.Atoi(in.Variables.After)
					page++
				}
				rows := make([]string, 100)
				for i := range rows {
					id := 1000 + 100*page + i
					if query {
						rows[i] = fmt.Sprintf(`{"id":"gid://gitlab/Ci::Runner/%d","description":%q,"runnerType":"INSTANCE_TYPE","status":"ONLINE","paused":false,"jobExecutionStatus":"IDLE",`+
							`"executing":0,"tagList":[%s],"runUntagged":true,"accessLevel":"NOT_PROTECTED","contactedAt":null,"ownerProject":null,"groups":{"nodes":[]},`+
							`"managers":{"pageInfo":{"hasNextPage":false},"nodes":[{"id":"gid://gitlab/Ci::RunnerManager/%d","systemId":"s_%d","version":"18.0.0","status":"ONLINE"}]}}`,
							id, c.description, c.tags, id, id)
					} else {
						rows[i] = fmt.Sprintf(`{"id":%d,"description":%q,"runner_type":"instance_type","status":"online","online":true,"paused":false}`, id, c.description)
					}
				}
				body := "[" + strings.Join(rows, ",") + "]"
				w.Header().Set("Content-Type", "application/json")
				if query {
					body = fmt.Sprintf(`{"data":{"runners":{"pageInfo":{"hasNextPage":true,"endCursor":"%d"},"nodes":%s}}}`, page, body)
				} else {
					w.Header().Set("X-Page", strconv.Itoa(page))
					w.Header().Set("X-Next-Page", strconv.Itoa(page+1))
				}
				_, _ = io.WriteString(w, body)
			}))
			t.Cleanup(srv.Close)
			dir := t.TempDir()
			api := "rest"
			if c.graphql {
				api = "graphql"
			}
			if err := os.WriteFile(filepath.Join(dir, "token"), []byte(token), 0o600); err != nil {
				t.Fatal(err)
			}
			config := filepath.Join(dir, "config.yml")
			if err := os.WriteFile(config, fmt.Appendf(nil, "poll: {runners_interval: 5s, max_requests_per_second: 0}\n"+
				"gitlabs: [{url: %q, api: %s, authorization: {credentials_file: token}}]\n", srv.URL, api), 0o600); err != nil {
				t.Fatal(err)
			}
			p := launch(t, "--config.file="+config, "--storage.path="+filepath.Join(dir, "state"))
			eventually(t, p, "50 runners", func(got map[string]float64) bool { return sum(got, "gitlab_runner_fleet_runners") == 50 })
			base := residentPeak(t, p.PID())
			on.Store(true)
			failed := func(got map[string]float64) bool {
				n := 0.0
				for series, v := range got {
					if strings.HasPrefix(series, "gitlab_runner_fleet_exporter_poll_failures_total{") && labels(series)["reason"] == "too_large" {
						n += v
					}
				}
				return n > 0
			}
			eventually(t, p, "a listing that is too large", failed)
			time.Sleep(time.Second) // a repetition, if any
			peak := residentPeak(t, p.PID()) - base
			t.Logf("%d MiB over a base of %d MiB", peak>>20, base>>20)
			if peak > most {
				t.Errorf("%d MiB more than before, at most %d", peak>>20, most>>20)
			}
		})
	}
}
