package app

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	commoncfg "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"

	"gitlab-runner-fleet-exporter/config"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	simgraphql "gitlab-runner-fleet-exporter/internal/gitlabsim/graphql"
)

// The demonstration's fleet: large enough for every dashboard to have
// something to show, small enough for a laptop.
const (
	demoName        = "demo"
	demoRunners     = 300
	demoTags        = 25
	demoJobsPerHour = 1500
)

// demo is a simulated GitLab on loopback, monitored over real HTTP by the same
// code as any other.
type demo struct {
	url    string
	token  string
	server *http.Server
	done   chan struct{}
}

func startDemo(ctx context.Context) (*demo, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the simulated GitLab: %w", err)
	}
	d := &demo{url: "http://" + l.Addr().String(), token: "demo-" + rand.Text(), done: make(chan struct{})}
	world := gitlabsim.New(gitlabsim.Options{
		Seed:        1, // the same fleet at each start
		Runners:     demoRunners,
		Tags:        demoTags,
		JobsPerHour: demoJobsPerHour,
		Daily:       true,
		ExternalURL: d.url,
		Token:       d.token,
	})
	if _, err := simgraphql.Mount(world); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("simulated GitLab: %w", err)
	}
	d.server = &http.Server{Handler: world.Handler(), ReadHeaderTimeout: readHeaderTimeout}
	go func() {
		defer close(d.done)
		_ = d.server.Serve(l) // ends with stop; before that the monitor reports what is wrong
	}()
	return d, nil
}

func (d *demo) stop() {
	_ = d.server.Close() // its only client is gone
	<-d.done
}

// load is the demonstration's configuration: intervals so short that a change
// is seen within seconds.
func (d *demo) load() (*config.Validated, error) {
	unlimited := 0.0
	concurrent := 16
	every := func(t time.Duration) *model.Duration {
		m := model.Duration(t)
		return &m
	}
	client := commoncfg.DefaultHTTPClientConfig
	client.FollowRedirects = false
	client.Authorization = &commoncfg.Authorization{Credentials: commoncfg.Secret(d.token)}
	return config.Config{GitLabs: []config.GitLabConfig{{
		Name:             demoName,
		URL:              d.url,
		HTTPClientConfig: client,
		Expected:         map[string]int{"gpu": 2, "prod-deploy": 1},
		Poll: config.PollConfig{
			RunnersInterval:       every(5 * time.Second),
			DetailsInterval:       every(time.Minute),
			JobsInterval:          every(5 * time.Second),
			ReconcileInterval:     every(time.Minute),
			Lookback:              every(time.Hour),
			Staleness:             every(time.Minute),
			MaxRequestsPerSecond:  &unlimited,
			MaxConcurrentRequests: &concurrent,
		},
	}}}.Validate()
}

// greet prints where to look. The token opens nothing but the simulation.
func greet(w io.Writer, addresses []string, o *options, v *config.Validated) {
	gitlabs := v.GitLabs()
	if len(addresses) == 0 || len(gitlabs) == 0 {
		return
	}
	base := "http://" + browsable(addresses[0]) + o.prefix()
	if *o.web.WebConfigFile != "" {
		base = strings.Replace(base, "http://", "https://", 1) // or as that file has it
	}
	token := ""
	if a := gitlabs[0].HTTPClientConfig.Authorization; a != nil {
		token = string(a.Credentials)
	}
	printf(w, `
A simulated GitLab with %[1]d runners is being monitored; it lives on its own, and
ends with this process. The whole picture is there within ten seconds.

  metrics           %[2]s%[3]s
  health page       %[2]s/
  simulated GitLab  %[4]s/api/v4
  its token         %[5]s   (good for the simulation only)

Try:
  curl -s %[2]s%[3]s | grep gitlab_runner_fleet_tag_available_runners
  curl -s -H 'PRIVATE-TOKEN: %[5]s' '%[4]s/api/v4/runners/all?per_page=3'
or in Prometheus, with %[6]s as a target and %[7]s as its metrics_path:
  sum by (status) (gitlab_runner_fleet_runners)
  sum by (tag) (rate(gitlab_runner_fleet_tag_jobs_finished_total{status="failed"}[5m]))
  histogram_quantile(0.95, sum by (le) (rate(gitlab_runner_fleet_job_queued_duration_seconds_bucket[5m])))

`, demoRunners, base, o.telemetryPath, gitlabs[0].URL, token, browsable(addresses[0]), o.prefix()+o.telemetryPath)
}

// browsable turns an address to listen on into one to open.
func browsable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}
