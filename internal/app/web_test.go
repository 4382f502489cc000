package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// TestHealthPageShowsTheFleet of a real monitor over real HTTP, and keeps the
// last picture when GitLab can no longer be read.
func TestHealthPageShowsTheFleet(t *testing.T) {
	w := newWorld(t, smallFleet(1))
	file := configFile(t, strings.Replace(fastPoll, "max_requests", "staleness: 2s, max_requests", 1)+"gitlabs:\n"+entry("corp", w.url, "    expected: {nobody-has-it: 2}\n"))
	r := startHere(t, "--config.file="+file, "--storage.path=", "--web.link.grafana=https://grafana.example.com", "--web.link.runbooks=https://rb.example.com/{alert}")
	r.until("sums by tag", "tag_available_runners", 0, `tag="nobody-has-it"`)
	_, page := r.get("/")
	for _, want := range []string{"nobody-has-it", "No runner has this tag", "https://rb.example.com/GitLabRunnerTagLost", "https://grafana.example.com/d/grf-tags?var-gitlab=corp", `href="/metrics"`} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	if strings.Contains(page, testToken) {
		t.Error("the token is on the page")
	}
	type answer struct {
		State   string
		GitLabs []struct {
			State   string
			Runners struct{ Total int }
		}
	}
	read := func() (a answer) {
		_, body := r.get("/api/v1/fleet")
		if err := json.Unmarshal([]byte(body), &a); err != nil || len(a.GitLabs) != 1 {
			t.Fatalf("%v: %s", err, body)
		}
		return a
	}
	if a := read(); a.State != "problem" || a.GitLabs[0].State != "readable" || a.GitLabs[0].Runners.Total != 12 {
		t.Errorf("%+v", a)
	}
	w.close()
	eventually(t, 20*time.Second, "the gauges are withdrawn", func() bool {
		_, n := r.metric("runners")
		return n == 0
	})
	if a := read(); a.State != "problem" || a.GitLabs[0].State != "withdrawn" || a.GitLabs[0].Runners.Total != 12 {
		t.Errorf("%+v", a)
	}
	if _, page := r.get("/fleet"); !strings.Contains(page, "GitLab cannot be read") || !strings.Contains(page, "nobody-has-it") || strings.Contains(page, `"band ok"`) {
		t.Errorf("the last picture is not shown:\n%s", page)
	}
}

// TestWholeProgramWorksUnderAPrefix: metrics, health, reload and pages, as with
// Prometheus; / leads there.
func TestWholeProgramWorksUnderAPrefix(t *testing.T) {
	w := newWorld(t, smallFleet(1))
	file := configFile(t, fastPoll+"gitlabs:\n"+entry("corp", w.url, "    expected: {nobody-has-it: 2}\n"))
	for name, tt := range map[string]struct {
		args        []string
		prefix      string
		link, other string
	}{
		"route-prefix":          {[]string{"--web.route-prefix=/runners/"}, "/runners", `"/runners/metrics"`, "/runners/fleet?gitlab=corp"},
		"external-url":          {[]string{"--web.external-url=https://proxy.example.com/a/b/"}, "/a/b", `"/a/b/metrics"`, "https://proxy.example.com/a/b/fleet?gitlab=corp"},
		"a proxy that strips":   {[]string{"--web.external-url=https://proxy.example.com/a", "--web.route-prefix=/"}, "", `"/a/metrics"`, "https://proxy.example.com/a/fleet?gitlab=corp"},
		"external-url, no path": {[]string{"--web.external-url=https://proxy.example.com"}, "", `"/metrics"`, "https://proxy.example.com/fleet?gitlab=corp"},
	} {
		t.Run(name, func(t *testing.T) {
			r := startHere(t, append([]string{"--config.file=" + file, "--storage.path=", "--web.enable-lifecycle"}, tt.args...)...)
			eventually(t, 20*time.Second, "ready", func() bool {
				status, _ := r.get(tt.prefix + "/-/ready")
				_, body := r.get(tt.prefix + "/")
				return status == http.StatusOK && strings.Contains(body, "List of runners read")
			})
			for _, x := range []struct{ method, path, want string }{
				{http.MethodGet, "/", "Find a runner or tag"},
				{http.MethodGet, "/fleet", tt.link},
				{http.MethodGet, "/metrics", "gitlab_runner_fleet_up"},
				{http.MethodGet, "/-/healthy", "healthy"},
				{http.MethodPost, "/-/reload", "Reloaded"},
				{http.MethodGet, "/api/v1/fleet", `"gitlabs"`},
				{http.MethodGet, "/fleet/why", `action="`},
				{http.MethodGet, "/api/v1/why?tags=nobody-has-it", `"verdict"`},
			} {
				if status, body := r.do(x.method, tt.prefix+x.path); status != http.StatusOK || !strings.Contains(body, x.want) {
					t.Errorf("%s %s: HTTP %d, no %q in\n%.400s", x.method, tt.prefix+x.path, status, x.want, body)
				}
				if status, _ := r.do(x.method, x.path); tt.prefix != "" && x.path != "/" && status != http.StatusNotFound {
					t.Errorf("%s without the prefix: HTTP %d", x.path, status)
				}
			}
			if _, body := r.get("/"); !strings.Contains(body, tt.link) { // after a redirect
				t.Errorf("/ does not lead to the page: %.300s", body)
			}
			eventually(t, 20*time.Second, "addresses as "+tt.other, func() bool {
				_, body := r.get(tt.prefix + "/api/v1/fleet")
				return strings.Contains(body, `"url":"`+tt.other)
			})
			r.stop()
		})
	}
}

// TestPagesObeyTLSAndBasicAuth of the web configuration.
func TestPagesObeyTLSAndBasicAuth(t *testing.T) {
	dir := t.TempDir()
	cert := loopbackCert(t, dir)
	hash, err := bcrypt.GenerateFromPassword([]byte("secret-password"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "web.yml"), "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\nbasic_auth_users: {reader: '"+string(hash)+"'}\n")
	w := newWorld(t, smallFleet(1))
	r := startHere(t, "--config.file="+configFile(t, fastPoll+"gitlabs:\n"+entry("corp", w.url, "")), "--storage.path=", "--web.config.file="+filepath.Join(dir, "web.yml"))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	tlsClient := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	for _, path := range []string{"/", "/fleet", "/fleet/runner?gitlab=corp&id=1", "/api/v1/fleet", "/fleet/why", "/api/v1/why?tags=x"} {
		for password, want := range map[string]int{"": http.StatusUnauthorized, "wrong": http.StatusUnauthorized, "secret-password": http.StatusOK} {
			eventually(t, 20*time.Second, path+" as it should", func() bool { // a runner's page needs the first listing
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.Replace(r.url, "http://", "https://", 1)+path, http.NoBody)
				if err != nil {
					t.Fatal(err)
				}
				if password != "" {
					req.SetBasicAuth("reader", password)
				}
				res, err := tlsClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(res.Body)
				if err := res.Body.Close(); err != nil {
					t.Fatal(err)
				}
				if want == http.StatusUnauthorized && strings.Contains(string(body), "corp") {
					t.Errorf("%s shows something without a password", path)
				}
				return err == nil && res.StatusCode == want
			})
		}
	}
}

// selfSigned writes cert.pem and key.pem for 127.0.0.1 and returns the first.
func loopbackCert(t *testing.T, dir string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, data := range map[string][]byte{"cert.pem": cert, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert
}

// TestWrongLinkFlagIsNamed: a mistake is named with its flag, and a password is not repeated.
func TestWrongLinkFlagIsNamed(t *testing.T) {
	for arg, want := range map[string]string{
		"--web.external-url=proxy":                          "--web.external-url: it must be an address",
		"--web.external-url=https://u:hunter2@proxy":        "must not hold a user or a password",
		"--web.external-url=https://proxy/{shrad}":          "placeholder other than {shard}",
		"--web.external-url=https://proxy/a?b=c":            "neither a query nor a fragment",
		"--web.route-prefix=/a b":                           "--web.route-prefix is",
		"--web.link.grafana=javascript:alert(1)":            "--web.link.grafana: it must be an address",
		"--web.link.runbooks=https://rb/{alret}":            "placeholder other than {alert}",
		"--web.link.grafana=https://g/d/{board}?x={runner}": "",
		"--web.route-prefix=/":                              "",
	} {
		var out strings.Builder
		_, err := parse([]string{"--demo", arg}, &out, &out)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", arg, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v", err)
		}
	}
	o := options{externalURL: "https://s-{shard}.example.com/p{shard}/", shardIndex: 2}
	if u, err := url.Parse(o.externalURL); err == nil && u != nil && o.prefix() != "/p2" {
		t.Errorf("prefix %q", o.prefix())
	}
}
