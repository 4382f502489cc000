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
	script *script
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
	world := demoWorld(d.url, d.token)
	if _, err := simgraphql.Mount(world); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("simulated GitLab: %w", err)
	}
	d.script = newScript(world)
	d.server = &http.Server{Handler: d.script.handler(), ReadHeaderTimeout: readHeaderTimeout}
	go func() {
		defer close(d.done)
		_ = d.server.Serve(l) // ends with stop; before that the monitor reports what is wrong
	}()
	return d, nil
}

// demoWorld has a calm daily life: what goes wrong is the script's.
func demoWorld(url, token string) *gitlabsim.World {
	return gitlabsim.New(gitlabsim.Options{
		Seed:        1, // the same fleet at each start
		Runners:     demoRunners,
		Tags:        demoTags,
		Healthy:     true,
		JobsPerHour: demoJobsPerHour,
		Daily:       true,
		Calm:        true,
		// So few failures of machines that only the scripted ones alert.
		Shape: gitlabsim.JobShape{LateMax: time.Hour, Reasons: map[string]float64{
			"script_failure": 90, "missing_dependency_failure": 4, "job_execution_server_timeout": 4, "runner_system_failure": 1,
		}},
		ExternalURL: url,
		Token:       token,
	})
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
		Queue:            config.QueueAll, // a misspelt tag is in no runner's list
		Expected:         map[string]int{"gpu": 2, "prod-deploy": 1, tagLost: 1, tagFloor: 2},
		Poll: config.PollConfig{
			RunnersInterval:       every(5 * time.Second),
			DetailsInterval:       every(time.Minute),
			JobsInterval:          every(5 * time.Second),
			ReconcileInterval:     every(time.Minute),
			QueueInterval:         every(10 * time.Second),
			Lookback:              every(time.Hour),
			Staleness:             every(time.Minute),
			MaxRequestsPerSecond:  &unlimited,
			MaxConcurrentRequests: &concurrent,
		},
	}}}.Validate()
}

// pathDrill plays an incident of the demonstration.
const pathDrill = "/demo/drill"

// routes adds the drills to the exporter's own routes.
func (d *demo) routes(prefix string, next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", next)
	// As for a reload: not by a page that is open in somebody's browser.
	mux.Handle(prefix+pathDrill, http.NewCrossOriginProtection().Handler(http.HandlerFunc(d.drill)))
	return mux
}

func (d *demo) drill(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		respond(w, http.StatusMethodNotAllowed, "Start a drill by POST, with name one of: "+strings.Join(d.script.names(), ", ")+"\n")
		return
	}
	t := d.script.drill(r.FormValue("name"))
	if t == nil {
		respond(w, http.StatusNotFound, "There is no such drill: name is one of "+strings.Join(d.script.names(), ", ")+"\n")
		return
	}
	respond(w, http.StatusOK, fmt.Sprintf("Drill %s: %s.\nIt ends by itself at %s.\n  /fleet  %s\n  metric  %s\n  alert   %s\n",
		t.name, t.what, t.ends.UTC().Format(time.TimeOnly+" UTC"), t.where, t.see, t.alert))
}

// greet prints where to look. The token opens nothing but the simulation.
func (d *demo) greet(w io.Writer, addresses []string, o *options, v *config.Validated) {
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
A simulated GitLab with %[1]d runners is being monitored; it ends with this process.
All series are there within ten seconds.

  metrics           %[2]s%[3]s
  health page       %[2]s/
  why a job waits   %[2]s/fleet/why   (paste the address of a job)
  simulated GitLab  %[4]s/api/v4
  its token         %[5]s   (good for the simulation only)

What happens, in minutes after the start, and again each hour. The alerts are those of
alerts/rules.yml, the boards those of dashboards/. Each incident ends after %[7]d minutes.

%[8]s
  always  legacy-vm-01 has been silent for twelve days: abandoned, to be deleted; GitLabRunnerStale (info), after an hour

Play one now:
  curl -X POST '%[2]s%[9]s?name=tag-lost'
Try:
  curl -s %[2]s%[3]s | grep gitlab_runner_fleet_tag_available_runners
  curl -s -H 'PRIVATE-TOKEN: %[5]s' '%[4]s/api/v4/runners/all?per_page=3'
or in Prometheus, with %[6]s as a target and %[10]s as its metrics_path:
  sum by (status) (gitlab_runner_fleet_runners)
  sum by (tag) (rate(gitlab_runner_fleet_tag_jobs_finished_total{status="failed"}[5m]))
  histogram_quantile(0.95, sum by (le) (rate(gitlab_runner_fleet_job_queued_duration_seconds_bucket[5m])))

`, demoRunners, base, o.telemetryPath, gitlabs[0].URL, token, browsable(addresses[0]), int(storyLasts.Minutes()), d.script.program(), pathDrill, o.prefix()+o.telemetryPath)
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
