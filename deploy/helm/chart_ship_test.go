//go:build ship

package helm

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"gitlab-runner-fleet-exporter/alerts"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const (
	release   = "fleet"
	namespace = "monitoring"
	// kubernetes is the release that templates are rendered for without a server.
	kubernetes = "1.36.0"
)

// cases are files of testdata/, by the names of their expected manifests.
func cases() []string { return []string{"one", "three-gitlabs", "three-shards", "two-replicas"} }

func valuesOf(name string) string { return filepath.Join("testdata", name+".yaml") }

// helm runs it; test-ship installs it, so that it is no reason to skip.
func helm(t *testing.T, args ...string) string {
	t.Helper()
	return rig.Run(t, tool(t, "helm"), args...)
}

func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs("../../.tools/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: make test-ship installs it", err)
	}
	return path
}

func template(t *testing.T, args ...string) string {
	t.Helper()
	return helm(t, append([]string{"template", release, chart, "--namespace", namespace, "--kube-version", kubernetes}, args...)...)
}

// TestShipChartRendersAsExpected: a change of the chart shows what it changes in
// a cluster. Dashboards and rules are compared elsewhere and left out.
func TestShipChartRendersAsExpected(t *testing.T) {
	for _, name := range cases() {
		helm(t, "lint", "--strict", chart, "--kube-version", kubernetes, "--values", valuesOf(name))
		text := template(t, "--values", valuesOf(name), "--set", "dashboards.enabled=false,prometheusRule.enabled=false")
		expected(t, filepath.Join("testdata", name+".expected.yaml"), []byte(text))
	}
}

// TestShipPlainManifestsAreTheChart: deploy/kubernetes is the chart for those without Helm.
func TestShipPlainManifestsAreTheChart(t *testing.T) {
	text := helm(t, "template", chart, chart, "--namespace", namespace, "--kube-version", kubernetes,
		"--values", "../kubernetes/values.yaml")
	text = regexp.MustCompile(`(?m)^ +(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n`).ReplaceAllString(text, "")
	text = regexp.MustCompile(`(?m)^ +namespace: `+namespace+`\n`).ReplaceAllString(text, "")
	head := "# Rendered from deploy/helm with values.yaml: do not edit, run go test -tags ship ./deploy/helm -update.\n"
	expected(t, "../kubernetes/exporter.yaml", []byte(head+text))
}

// TestShipChartRefusesWhatWouldNotStart: what would be a pod that never starts, or a token where
// everybody reads it, is an error before anything is installed.
func TestShipChartRefusesWhatWouldNotStart(t *testing.T) {
	for set, want := range map[string]string{
		"gitlab.url=":                   "nothing to monitor",
		"gitlab.tokenSecret=":           "gitlab.tokenSecret",
		"config.gitlabs[0].name=a":      "both set",
		"replicas=0":                    "/replicas",
		"shards=0":                      "/shards",
		"unknown=1":                     "unknown",
		"rules.tags.pageRunner=1":       "pageRunner",
		"rules.aggregateAbove=many":     "/rules/aggregateAbove",
		"gitlab.url=gitlab.example.com": "/gitlab/url",
		"gitlab.url=,config.gitlabs[0].name=a,config.gitlabs[0].authorization.credentials=glpat-x": "no place for a token",
		"ca.configMap=a,ca.secret=b":                                               "both set",
		"podMonitor.interval=often":                                                "/podMonitor/interval",
		"serviceMonitor.enabled=true,podMonitor.enabled=true":                      "both enabled",
		"podMonitor.enabled=true,prometheusRule.enabled=true,nameOverride=runners": "label job of the pods, which is runners",
	} {
		out := rig.Refused(t, exec.CommandContext(t.Context(), tool(t, "helm"), "template", release, chart, "--kube-version", kubernetes, "--values", valuesOf("one"), "--set", set))
		if !strings.Contains(out, want) {
			t.Errorf("%s: want an error with %q:\n%.500s", set, want, out)
		}
	}
}

// TestShipChartRulesAreThoseOfTheProgram: the chart and --rules.print render one
// template, each with its own engine.
func TestShipChartRulesAreThoseOfTheProgram(t *testing.T) {
	var other struct {
		Rules yaml.Node
	}
	if err := yaml.Unmarshal(read(t, valuesOf("rules")), &other); err != nil {
		t.Fatal(err)
	}
	changed, err := yaml.Marshal(&other.Rules)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range map[string][]byte{"one": nil, "rules": changed} {
		want, err := alerts.Render(alerts.Operator, name, values)
		if err != nil {
			t.Fatal(err)
		}
		args := []string{"--values", valuesOf("one"), "--set", "prometheusRule.enabled=true", "--show-only", "templates/prometheusrule.yaml"}
		if values != nil {
			args = append(args, "--values", valuesOf(name))
		}
		have := specOf(t, []byte(template(t, args...)))
		if wanted := specOf(t, want); !reflect.DeepEqual(have, wanted) {
			t.Errorf("%s: the chart's rules are not those of --rules.print --rules.format=operator", name)
		}
		if groups, _ := have["groups"].([]any); len(groups) < 5 {
			t.Errorf("%s: %d groups of rules", name, len(groups))
		}
	}
}

func specOf(t *testing.T, manifest []byte) map[string]any {
	t.Helper()
	var object struct{ Spec map[string]any }
	if err := yaml.Unmarshal(manifest, &object); err != nil {
		t.Fatal(err)
	}
	return object.Spec
}

// pod is what of a StatefulSet decides how the program is started.
type pod struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		Replicas int
		Template struct {
			Spec struct {
				Containers []struct {
					Args []string
					Env  []struct {
						Name, Value string
						ValueFrom   struct {
							FieldRef struct {
								FieldPath string `yaml:"fieldPath"`
							} `yaml:"fieldRef"`
						} `yaml:"valueFrom"`
					}
					VolumeMounts []struct {
						Name      string
						MountPath string `yaml:"mountPath"`
					} `yaml:"volumeMounts"`
				}
			}
		}
	}
	Data map[string]string
}

func objects(t *testing.T, manifests string) []pod {
	t.Helper()
	var out []pod
	d := yaml.NewDecoder(strings.NewReader(manifests))
	for {
		var p pod
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
}

// TestShipChartPodsStartAndShareTheRunners starts the program as each pod of the chart would, with its
// environment and its files, and scrapes it: the shards are different ones, and
// together they show every runner once. GitLab's certificate is of a private CA.
func TestShipChartPodsStartAndShareTheRunners(t *testing.T) {
	const token = "glpat-chart-canary-5Tq1"
	world := gitlabsim.New(gitlabsim.Options{Seed: 1, Runners: 60, Tags: 5, JobsPerHour: 500, Token: token, Healthy: true})
	server := httptest.NewTLSServer(world.Handler())
	t.Cleanup(server.Close)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))

	for name, set := range map[string]string{
		"two-replicas":  "ca.secret=corp-ca,gitlab.url=" + server.URL,
		"three-gitlabs": "config.gitlabs[0].url=" + server.URL + ",config.gitlabs[1].url=" + server.URL + ",config.gitlabs[2].url=" + server.URL + ",webConfigSecret=,extraEnv=null,config.gitlabs[1].scope=instance,config.gitlabs[1].groups=null",
	} {
		manifests := template(t, "--values", valuesOf(name), "--set", set, "--set", "dashboards.enabled=false,prometheusRule.enabled=false")
		all := objects(t, manifests)
		config := ""
		for _, o := range all {
			if o.Kind == "ConfigMap" {
				config = o.Data["config.yml"]
			}
		}
		pods := 0
		for _, o := range all {
			if o.Kind != "StatefulSet" {
				continue
			}
			sum := 0.0
			for index := range o.Spec.Replicas {
				pods++
				page := scrape(t, o, index, config, token, ca)
				sum += rig.Total(page, "gitlab_runner_fleet_runners")
				if up := rig.Total(page, "gitlab_runner_fleet_up"); up < 1 {
					t.Errorf("%s, %s: up is %v", name, o.Metadata.Name, up)
				}
			}
			if want := map[string]float64{"two-replicas": 60, "three-gitlabs": 180}[name]; sum != want {
				t.Errorf("%s, %s: %v runners, want %v", name, o.Metadata.Name, sum, want)
			}
		}
		if want := map[string]int{"two-replicas": 6, "three-gitlabs": 1}[name]; pods != want {
			t.Errorf("%s: %d pods, want %d", name, pods, want)
		}
	}
}

// scrape runs one pod's container here until it shows runners.
func scrape(t *testing.T, set pod, index int, config, token, ca string) string {
	t.Helper()
	c := set.Spec.Template.Spec.Containers[0]
	dir := t.TempDir()
	inside := strings.NewReplacer("/etc/gitlab-runner-fleet-exporter/", dir+"/etc/", "/data", dir+"/data")
	for _, m := range c.VolumeMounts {
		path := inside.Replace(m.MountPath)
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		switch {
		case m.Name == "config":
			write(t, filepath.Join(path, "config.yml"), inside.Replace(config))
		case m.Name == "ca":
			write(t, filepath.Join(path, "ca.crt"), ca)
		case strings.HasPrefix(m.Name, "secret-"):
			write(t, filepath.Join(path, "token"), token+"\n")
		}
	}
	var env []string
	for _, e := range c.Env {
		value := inside.Replace(e.Value)
		switch {
		case e.ValueFrom.FieldRef.FieldPath == "metadata.labels['apps.kubernetes.io/pod-index']":
			value = strconv.Itoa(index)
		case e.ValueFrom.FieldRef.FieldPath != "":
			t.Fatalf("%s: this test has no value for %s", e.Name, e.ValueFrom.FieldRef.FieldPath)
		case e.Name == "GITLAB_RUNNER_FLEET_WEB_LISTEN_ADDRESS":
			value = "127.0.0.1:0"
		}
		env = append(env, e.Name+"="+value)
	}
	cmd := exec.CommandContext(t.Context(), rig.Exporter(t), c.Args...)
	cmd.Env, cmd.Dir = env, dir
	s := rig.ServeCommand(t, cmd)
	s.Ready(t, "/-/ready")
	deadline := time.Now().Add(time.Minute)
	for {
		page := s.Metrics(t)
		if strings.Count(page, "gitlab_runner_fleet_up{") == strings.Count(config, "url:")+strings.Count(strings.Join(env, "\n"), "GITLAB_URL=") &&
			!regexp.MustCompile(`(?m)^gitlab_runner_fleet_up\{.*\} 0$`).MatchString(page) {
			if code := s.Stop(); code != 0 {
				t.Errorf("exit status %d", code)
			}
			return page
		}
		if time.Now().After(deadline) {
			t.Fatalf("not everything is up:\n%.2000s", page)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// operator is the module with the definitions of ServiceMonitor and PrometheusRule.
const operator = "github.com/prometheus-operator/prometheus-operator@v0.85.0"

// TestShipKubernetesAcceptsEveryObject installs the chart into a real API server, which validates
// every object: each case, an upgrade from one to the next, and the plain manifests.
func TestShipKubernetesAcceptsEveryObject(t *testing.T) {
	c := startCluster(t)
	out := rig.Run(t, "go", "mod", "download", "-json", operator)
	var module struct{ Dir string }
	if err := json.Unmarshal([]byte(out), &module); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"servicemonitors", "podmonitors", "prometheusrules"} {
		c.apply(t, string(read(t, filepath.Join(module.Dir, "example/prometheus-operator-crd/monitoring.coreos.com_"+name+".yaml"))))
	}
	c.apply(t, externalSecrets)
	for _, kind := range []string{"servicemonitors.v1.monitoring.coreos.com", "podmonitors.v1.monitoring.coreos.com", "prometheusrules.v1.monitoring.coreos.com", "externalsecrets.v1.external-secrets.io"} {
		c.kubectl(t, "", "wait", "--for=condition=Established", "crd/"+strings.Replace(kind, ".v1.", ".", 1), "--timeout=60s")
	}

	for _, name := range cases() {
		ns := "ship-" + name
		c.kubectl(t, "", "create", "namespace", ns)
		// What a case does not ask for by itself, so that each kind is applied in each.
		all := "dashboards.enabled=true,prometheusRule.enabled=true,networkPolicy.enabled=true"
		monitor := "podmonitors"
		if name != "three-shards" {
			all, monitor = all+",serviceMonitor.enabled=true", "servicemonitors"
		}
		// The warnings of strict validation are errors.
		manifests := helm(t, "template", release, chart, "--namespace", ns, "--kube-version", kubernetes, "--values", valuesOf(name), "--set", all)
		c.kubectl(t, manifests, "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
		c.helm(t, "install", release, chart, "--namespace", ns, "--values", valuesOf(name), "--set", all)
		if found := strings.Fields(c.kubectl(t, "", "get", "servicemonitors,podmonitors", "--namespace", ns, "--output", "name")); len(found) != 1 || !strings.HasPrefix(found[0], strings.TrimSuffix(monitor, "s")+".") {
			t.Errorf("%s: monitors %v, want one of %s", name, found, monitor)
		}
		sets := strings.Fields(c.kubectl(t, "", "get", "statefulsets", "--namespace", ns, "--output", "name"))
		if want := map[string]int{"two-replicas": 2}[name]; len(sets) != max(1, want) {
			t.Errorf("%s: StatefulSets %v", name, sets)
		}
	}
	// More shards, then a second replica: the first StatefulSet and its volumes stay.
	c.kubectl(t, "", "create", "namespace", "upgrade")
	for i, name := range []string{"one", "three-shards", "two-replicas"} {
		verb := "upgrade"
		if i == 0 {
			verb = "install"
		}
		c.helm(t, verb, release, chart, "--namespace", "upgrade", "--values", valuesOf(name), "--set", "persistence.size=1Gi,persistence.storageClass=")
	}
	c.documented(t)
	c.kubectl(t, "", "apply", "--server-side", "--namespace", namespace, "--dry-run=server", "--validate=strict", "--force-conflicts", "-f", "../kubernetes/exporter.yaml")
	c.kubectl(t, "", "apply", "--server-side", "--namespace", namespace, "--dry-run=server", "--validate=strict", "--force-conflicts", "-k", "../kubernetes")
}

// documented runs the commands of docs/kubernetes.md as they stand there, by a
// reader who has a token. Both ways create the namespace: the first gets another.
func (c cluster) documented(t *testing.T) {
	t.Helper()
	dir := rig.Checkout(t)
	write(t, filepath.Join(dir, "gitlab-token"), "glpat-documents\n")
	blocks := regexp.MustCompile("(?ms)^```sh\n(.*?)^```").FindAllStringSubmatch(string(read(t, "../../docs/kubernetes.md")), -1)
	if len(blocks) != 3 {
		t.Fatalf("%d blocks of commands in docs/kubernetes.md", len(blocks))
	}
	for i, block := range blocks {
		text := block[1]
		if i == 0 {
			text = strings.ReplaceAll(text, namespace, "chart")
		}
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", text)
		cmd.Dir = dir
		cmd.Env = []string{"HOME=" + t.TempDir(), "KUBECONFIG=" + c.kubeconfig, "PATH=" + filepath.Join(dir, ".tools") + ":" + os.Getenv("PATH")}
		rig.Output(t, cmd)
	}
	for ns, want := range map[string]int{"chart": 1, namespace: 1} {
		if sets := strings.Fields(c.kubectl(t, "", "get", "statefulsets", "--namespace", ns, "--output", "name")); len(sets) != want {
			t.Errorf("after the commands of docs/kubernetes.md: StatefulSets %v in %s", sets, ns)
		}
	}
}

// externalSecrets stands for the External Secrets Operator's definition, of which
// no module is small enough: the fields that the chart writes, typed.
const externalSecrets = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: externalsecrets.external-secrets.io}
spec:
  group: external-secrets.io
  scope: Namespaced
  names: {kind: ExternalSecret, listKind: ExternalSecretList, plural: externalsecrets, singular: externalsecret}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              properties:
                refreshInterval: {type: string}
                secretStoreRef: {type: object, properties: {name: {type: string}, kind: {type: string}}}
                target: {type: object, properties: {name: {type: string}}}
                data:
                  type: array
                  items:
                    type: object
                    properties:
                      secretKey: {type: string}
                      remoteRef: {type: object, properties: {key: {type: string}, property: {type: string}}}
`

// cluster is an API server over etcd, both on loopback. It runs no pods.
type cluster struct{ kubeconfig string }

func (c cluster) helm(t *testing.T, args ...string) {
	t.Helper()
	helm(t, append([]string{"--kubeconfig", c.kubeconfig}, args...)...)
}

func (c cluster) kubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool(t, "kubectl"), append([]string{"--kubeconfig", c.kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	return rig.Output(t, cmd)
}

func (c cluster) apply(t *testing.T, manifest string) {
	t.Helper()
	c.kubectl(t, manifest, "apply", "--server-side", "-f", "-")
}

func startCluster(t *testing.T) cluster {
	t.Helper()
	dir := t.TempDir()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "sa.key"), string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	admin := rand.Text()
	write(t, filepath.Join(dir, "tokens.csv"), admin+",admin,admin,system:masters\n")

	// Neither takes port 0 for all of its listeners.
	ports := freePorts(t, 3)
	client, peer := "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1]
	background := func(name string, args ...string) *rig.Process {
		return rig.Background(t, exec.Command(name, args...)) //nolint:noctx // the rig kills it
	}
	background("etcd", "--data-dir", filepath.Join(dir, "etcd"), "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	server := background(tool(t, "kube-apiserver"), "--etcd-servers", client, "--secure-port", ports[2], "--bind-address", "127.0.0.1", "--cert-dir", dir,
		"--service-cluster-ip-range", "10.0.0.0/24", "--token-auth-file", filepath.Join(dir, "tokens.csv"), "--authorization-mode", "RBAC",
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", filepath.Join(dir, "sa.key"),
		"--service-account-signing-key-file", filepath.Join(dir, "sa.key"), "--disable-admission-plugins", "ServiceAccount")
	c := cluster{kubeconfig: filepath.Join(dir, "kubeconfig")}
	write(t, c.kubeconfig, fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: ship, cluster: {server: "https://127.0.0.1:%s", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: %q}}]
contexts: [{name: ship, context: {cluster: ship, user: admin}}]
current-context: ship
`, ports[2], admin))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	for exec.CommandContext(ctx, tool(t, "kubectl"), "--kubeconfig", c.kubeconfig, "get", "--raw", "/readyz").Run() != nil {
		if err := server.Pause(ctx, 500*time.Millisecond); err != nil {
			t.Fatalf("the API server is not ready: %v", err)
		}
	}
	return c
}

func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for range n {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		out = append(out, port)
	}
	return out
}
