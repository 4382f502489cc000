// Package compose holds the files of `docker compose up` to each other and to
// the programs that read them, since images cannot be had everywhere: each
// file, port, address and folder that one of them names is there, promtool and
// amtool accept their files, and the programs find each other with them.
package compose

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"gitlab-runner-fleet-exporter/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// project is what of the compose specification is in use; another key is a
// spelling mistake until it is listed here.
type project struct {
	Name     string
	Services map[string]service
	Volumes  map[string]any
}

type service struct {
	Build       string
	Image       string
	Command     []string
	Environment map[string]string
	Ports       []string
	Volumes     []string
	DependsOn   []string `yaml:"depends_on"`
	ReadOnly    bool     `yaml:"read_only"`
	CapDrop     []string `yaml:"cap_drop"`
	Restart     string
}

// mount is one volume of a service.
type mount struct {
	host, inside string
	named        bool
}

func (s service) mounts(t *testing.T) []mount {
	t.Helper()
	var out []mount
	for _, v := range s.Volumes {
		parts := strings.Split(v, ":")
		if len(parts) < 2 || !filepath.IsAbs(parts[1]) {
			t.Fatalf("volume %q", v)
		}
		m := mount{host: parts[0], inside: parts[1], named: !strings.HasPrefix(parts[0], ".")}
		if !m.named && (len(parts) != 3 || parts[2] != "ro") {
			t.Errorf("%s may be written by the container", v)
		}
		out = append(out, m)
	}
	return out
}

func load(t *testing.T, path string, out any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	if err := d.Decode(out); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func read(t *testing.T) project {
	t.Helper()
	var p project
	load(t, "compose.yml", &p)
	return p
}

// inside finds the file of ours that a container sees under a path.
func (s service) inside(t *testing.T, path string) string {
	t.Helper()
	for _, m := range s.mounts(t) {
		if rest, ok := strings.CutPrefix(path, m.inside); ok && !m.named && (rest == "" || rest[0] == '/') {
			return filepath.Join(m.host, rest)
		}
	}
	t.Errorf("nothing of ours stands under %s", path)
	return os.DevNull
}

var (
	published = regexp.MustCompile(`^127\.0\.0\.1:(\d+):(\d+)$`)
	image     = regexp.MustCompile(`^[a-z-]+/[a-z-]+:\$\{[A-Z]+_VERSION:-v?\d+\.\d+\.\d+\}$`)
)

// listens reports whether a service publishes the port of an address such as
// prometheus:9090.
func (p project) listens(address string) bool {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(p.Services[name].Ports, func(s string) bool {
		m := published.FindStringSubmatch(s)
		return m != nil && m[2] == port
	})
}

func TestServicesHaveWhatTheyNameAndNoOpenPort(t *testing.T) {
	p := read(t)
	for name, s := range p.Services {
		if s.Build == "" && !image.MatchString(s.Image) {
			t.Errorf("%s: image %q", name, s.Image)
		}
		if s.Build != "" {
			if _, err := os.Stat(filepath.Join(s.Build, "Dockerfile")); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		// An open port shows a fleet's numbers, and Grafana without a login, to everyone.
		for _, port := range s.Ports {
			if m := published.FindStringSubmatch(port); m == nil || m[1] != m[2] {
				t.Errorf("%s: port %q", name, port)
			}
		}
		for _, m := range s.mounts(t) {
			if m.named {
				if _, there := p.Volumes[m.host]; !there {
					t.Errorf("%s: no volume %s", name, m.host)
				}
			} else if _, err := os.Stat(m.host); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, d := range s.DependsOn {
			if _, there := p.Services[d]; !there {
				t.Errorf("%s waits for %s, which is not there", name, d)
			}
		}
		if s.Restart != "unless-stopped" {
			t.Errorf("%s: restart %q", name, s.Restart)
		}
	}
	for _, want := range []string{"exporter:9756", "prometheus:9090", "alertmanager:9093", "grafana:3000"} {
		if !p.listens(want) {
			t.Errorf("nobody listens on %s", want)
		}
	}
	if !slices.Contains(p.Services["exporter"].Command, "--demo") {
		t.Error("the exporter needs a token")
	}
}

type prometheusConfig struct {
	Global struct {
		ScrapeInterval     string `yaml:"scrape_interval"`
		EvaluationInterval string `yaml:"evaluation_interval"`
	}
	RuleFiles []string `yaml:"rule_files"`
	Alerting  struct {
		Alertmanagers []targets
	}
	ScrapeConfigs []struct {
		JobName       string                       `yaml:"job_name"`
		StaticConfigs []struct{ Targets []string } `yaml:"static_configs"`
	} `yaml:"scrape_configs"`
}

type targets struct {
	StaticConfigs []struct{ Targets []string } `yaml:"static_configs"`
}

func flag(t *testing.T, s service, name string) string {
	t.Helper()
	for _, a := range s.Command {
		if v, ok := strings.CutPrefix(a, name+"="); ok {
			return v
		}
	}
	t.Fatalf("no %s in %v", name, s.Command)
	return ""
}

func TestPrometheusFindsItsTargetsAndRules(t *testing.T) {
	p := read(t)
	s := p.Services["prometheus"]
	file := flag(t, s, "--config.file")
	var c prometheusConfig
	load(t, s.inside(t, file), &c)
	var all []string
	for _, a := range c.Alerting.Alertmanagers {
		for _, st := range a.StaticConfigs {
			all = append(all, st.Targets...)
		}
	}
	for _, sc := range c.ScrapeConfigs {
		for _, st := range sc.StaticConfigs {
			all = append(all, st.Targets...)
		}
	}
	if len(all) < 2 {
		t.Errorf("addresses %v", all)
	}
	for _, a := range all {
		if !p.listens(a) {
			t.Errorf("nobody listens on %s", a)
		}
	}
	rules := s.inside(t, filepath.Join(filepath.Dir(file), c.RuleFiles[0]))
	raw, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	// Some rules look for the exporter by the name of its job.
	matchers := regexp.MustCompile(`\bjob=~"([^"]+)"`).FindAllStringSubmatch(string(raw), -1)
	if len(matchers) < 2 {
		t.Fatalf("%s: %d rules name a job", rules, len(matchers))
	}
	for _, m := range matchers {
		if job := c.ScrapeConfigs[0].JobName; !regexp.MustCompile("^(?:" + m[1] + ")$").MatchString(job) {
			t.Errorf("%s looks for the job %s, not for %s", rules, m[1], job)
		}
	}
}

// TestGrafanaFindsItsSourceAndDashboards: a wrong folder, uid or address shows as an empty Grafana.
func TestGrafanaFindsItsSourceAndDashboards(t *testing.T) {
	p := read(t)
	s := p.Services["grafana"]
	var sources struct {
		APIVersion  int `yaml:"apiVersion"`
		Datasources []struct {
			Name, Type, UID, Access, URL string
			IsDefault                    bool `yaml:"isDefault"`
			Editable                     bool
			JSONData                     struct {
				HTTPMethod   string `yaml:"httpMethod"`
				TimeInterval string `yaml:"timeInterval"`
				ManageAlerts bool   `yaml:"manageAlerts"`
			} `yaml:"jsonData"`
		}
	}
	load(t, s.inside(t, "/etc/grafana/provisioning/datasources/prometheus.yml"), &sources)
	if sources.APIVersion != 1 || len(sources.Datasources) != 1 {
		t.Fatalf("data sources %+v", sources)
	}
	d := sources.Datasources[0]
	if d.Type != "prometheus" || d.Access != "proxy" || !d.IsDefault || !p.listens(strings.TrimPrefix(d.URL, "http://")) {
		t.Errorf("data source %+v", d)
	}
	var c prometheusConfig
	load(t, "prometheus.yml", &c)
	if d.JSONData.TimeInterval != c.Global.ScrapeInterval {
		t.Errorf("Grafana expects scrapes each %s, they are each %s: $__rate_interval would be wrong", d.JSONData.TimeInterval, c.Global.ScrapeInterval)
	}
	var boards struct {
		APIVersion int `yaml:"apiVersion"`
		Providers  []struct {
			Name, Folder, Type    string
			DisableDeletion       bool `yaml:"disableDeletion"`
			AllowUIUpdates        bool `yaml:"allowUiUpdates"`
			UpdateIntervalSeconds int  `yaml:"updateIntervalSeconds"`
			Options               struct{ Path string }
		}
	}
	load(t, s.inside(t, "/etc/grafana/provisioning/dashboards/fleet.yml"), &boards)
	if boards.APIVersion != 1 || len(boards.Providers) != 1 || boards.Providers[0].Type != "file" {
		t.Fatalf("providers %+v", boards)
	}
	path := boards.Providers[0].Options.Path
	files, err := filepath.Glob("../../dashboards/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("dashboards %v (%v)", files, err)
	}
	for _, f := range files {
		if got := s.inside(t, filepath.Join(path, filepath.Base(f))); got != f {
			t.Errorf("%s is not mounted", f)
		}
	}
	if home := s.Environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]; s.inside(t, home) != "../../dashboards/overview.json" {
		t.Errorf("opens with %s", home)
	}
}

func TestRoutingDiffersFromTheExampleInReceiversOnly(t *testing.T) {
	var mine, example map[string]any
	load(t, "alertmanager.yml", &mine)
	load(t, "../../alerts/alertmanager.example.yml", &example)
	for _, k := range []string{"route", "inhibit_rules"} {
		a, b := fmt.Sprintf("%v", mine[k]), fmt.Sprintf("%v", example[k])
		if a != b || len(a) < 50 {
			t.Errorf("%s: %s\nexample: %s", k, a, b)
		}
	}
	for _, r := range mine["receivers"].([]any) {
		if m := r.(map[string]any); len(m) != 1 {
			t.Errorf("receiver %v notifies somebody", m)
		}
	}
}

// lay copies what a service sees in a folder of its container to one of the
// test's, with other addresses.
func lay(t *testing.T, s service, folder string, addresses ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, m := range s.mounts(t) {
		if m.named || filepath.Dir(m.inside) != folder {
			continue
		}
		raw, err := os.ReadFile(m.host)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer(addresses...).Replace(string(raw))
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(m.inside)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPromtoolAndAmtoolAcceptTheFiles(t *testing.T) {
	p := read(t)
	rig.Run(t, rig.Tool(t, "promtool"), "check", "config", filepath.Join(lay(t, p.Services["prometheus"], "/etc/prometheus"), "prometheus.yml"))
	rig.Run(t, rig.Tool(t, "amtool"), "check-config", filepath.Join(lay(t, p.Services["alertmanager"], "/etc/alertmanager"), "alertmanager.yml"))
}

// get waits for an answer that suits.
func get(t *testing.T, url string, out any, suits func() bool) {
	t.Helper()
	until := time.Now().Add(2 * time.Minute)
	for {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
		if err == nil {
			err = json.NewDecoder(resp.Body).Decode(out)
			_ = resp.Body.Close() // read to its end
		}
		if err == nil && suits() {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%s: %v, %+v", url, err, out)
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// TestProgramsFindEachOther starts all but Grafana with these very files, only
// with addresses on loopback.
func TestProgramsFindEachOther(t *testing.T) {
	p := read(t)
	exporter := rig.Serve(t, rig.Exporter(t), p.Services["exporter"].Command...).Address
	alertmanager := rig.Serve(t, rig.Tool(t, "alertmanager"), "--config.file="+filepath.Join(lay(t, p.Services["alertmanager"], "/etc/alertmanager"), "alertmanager.yml"),
		"--storage.path="+t.TempDir(), "--cluster.listen-address=").Address
	config := lay(t, p.Services["prometheus"], "/etc/prometheus", "exporter:9756", exporter, "alertmanager:9093", alertmanager)
	prometheus := rig.Serve(t, rig.Tool(t, "prometheus"), "--config.file="+filepath.Join(config, "prometheus.yml"), "--storage.tsdb.path="+t.TempDir(),
		"--storage.tsdb.retention.time="+flag(t, p.Services["prometheus"], "--storage.tsdb.retention.time")).Address
	base := "http://" + prometheus + "/api/v1/"
	var scraped struct {
		Data struct{ ActiveTargets []struct{ Health string } }
	}
	get(t, base+"targets", &scraped, func() bool {
		return len(scraped.Data.ActiveTargets) == 1 && scraped.Data.ActiveTargets[0].Health == "up"
	})
	var managers struct {
		Data struct{ ActiveAlertmanagers []struct{ URL string } }
	}
	get(t, base+"alertmanagers", &managers, func() bool {
		return len(managers.Data.ActiveAlertmanagers) == 1 && strings.Contains(managers.Data.ActiveAlertmanagers[0].URL, alertmanager)
	})
	var rules struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, LastError string }
			}
		}
	}
	get(t, base+"rules", &rules, func() bool { return len(rules.Data.Groups) > 2 })
	for _, g := range rules.Data.Groups {
		for _, r := range g.Rules {
			if r.LastError != "" {
				t.Errorf("%s: %s", r.Name, r.LastError)
			}
		}
	}
	var status struct {
		Config struct{ Original string }
	}
	get(t, "http://"+alertmanager+"/api/v2/status", &status, func() bool { return strings.Contains(status.Config.Original, "inhibit_rules") })
}
