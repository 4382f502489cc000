package app

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"gitlab-runner-fleet-exporter/test/rig"
)

// canary is part of every secret of these tests.
const canary = "CANARY7f3a"

// TestSecretsSurfaceNowhere lets tokens come in by every way, and GitLab show them back in
// its errors, and looks for them wherever someone could read.
func TestSecretsSurfaceNowhere(t *testing.T) {
	o := smallFleet(1)
	o.Token = "inline-" + canary
	inline := newWorld(t, o)
	o.Token = "header-" + canary
	header := newWorld(t, o)
	// A proxy's debug page repeats the request.
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_ = r.Header.Write(w)
	}))
	t.Cleanup(echo.Close)
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	write(t, token, "file-"+canary)
	file := filepath.Join(dir, "config.yml")
	text := fastPoll + fmt.Sprintf(`gitlabs:
  - {name: inline, url: %q, authorization: {credentials: inline-%[4]s}}
  - {name: header, url: %[2]q, http_headers: {PRIVATE-TOKEN: {secrets: [header-%[4]s]}}}
  - {name: echo, url: %[3]q, authorization: {credentials_file: token}}
  - {name: proxied, url: "https://gitlab.example.invalid", authorization: {credentials: proxied-%[4]s}, proxy_url: "http://user:proxy-%[4]s@127.0.0.1:1"}
`, inline.url, header.url, echo.URL, canary)
	write(t, file, text)
	r := startProcess(t, []string{"GITLAB_TOKEN=env-" + canary},
		"--config.file="+file, "--storage.path="+filepath.Join(dir, "state"), "--log.level=debug", "--web.enable-lifecycle")
	r.until("both ways of giving a token work", "up", 2)
	eventually(t, 20*time.Second, "the others were refused", func() bool {
		a, _ := r.metric("exporter_poll_failures_total", `gitlab="echo"`)
		b, _ := r.metric("exporter_api_requests_total", `gitlab="proxied"`, `code="error"`)
		return a > 0 && b > 0
	})
	write(t, file, strings.Replace(text, "{credentials: inline", "{credential: inline", 1))
	_, answer := r.do(http.MethodPost, "/-/reload")

	seen := map[string]string{"the answer to a reload": answer}
	for _, path := range []string{"/", "/metrics", "/-/ready", "/-/healthy", "/nothing"} {
		_, seen[path] = r.get(path)
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", r.proc.PID()))
	if err != nil {
		t.Fatal(err)
	}
	seen["the process list"] = string(cmdline)
	r.stop()
	seen["the log"], seen["stdout"] = r.stderr.String(), r.stdout.String()
	write(t, file, text)
	for _, check := range []string{"--config.check", "--gitlab.check"} {
		_, stdout, stderr := runOnce(t, check, "--config.file="+file)
		seen[check] = stdout + stderr
	}
	err = filepath.WalkDir(filepath.Join(dir, "state"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		seen[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(seen["the log"], "level=debug") || !strings.Contains(seen["the log"], "reason=bad_request") {
		t.Errorf("the log holds too little to prove anything:\n%s", seen["the log"])
	}
	for where, text := range seen {
		if at := strings.Index(text, canary); at >= 0 {
			t.Errorf("a secret in %s: …%s…", where, text[max(0, at-200):min(len(text), at+50)])
		}
	}
}

// TestWebConfigAsksForTLSAndPassword serves through --web.config.file.
func TestWebConfigAsksForTLSAndPassword(t *testing.T) {
	w := newWorld(t, smallFleet(1))
	dir := t.TempDir()
	pool := certificate(t, dir)
	hash, err := bcrypt.GenerateFromPassword([]byte("pass-"+canary), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	webFile := filepath.Join(dir, "web.yml")
	write(t, webFile, fmt.Sprintf("tls_server_config: {cert_file: cert.pem, key_file: key.pem}\nbasic_auth_users: {prometheus: %q}\n", hash))
	t.Setenv("GITLAB_TOKEN", testToken)
	// Two listeners behind one configuration: each request is authorised once.
	r := startHere(t, "--gitlab.url="+w.url, "--storage.path=", "--web.config.file="+webFile, "--web.listen-address=127.0.0.1:0")
	secure := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	}}
	ask := func(user, password string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.Replace(r.url, "http:", "https:", 1)+"/metrics", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if user != "" {
			req.SetBasicAuth(user, password)
		}
		res, err := secure.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close() //nolint:errcheck // only read
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode
	}
	if got := ask("prometheus", "pass-"+canary); got != http.StatusOK {
		t.Errorf("with the password: HTTP %d", got)
	}
	if got := ask("prometheus", "wrong"); got != http.StatusUnauthorized {
		t.Errorf("with a wrong one: HTTP %d", got)
	}
	if got := ask("", ""); got != http.StatusUnauthorized {
		t.Errorf("without: HTTP %d", got)
	}
	if status, _ := r.get("/metrics"); status == http.StatusOK {
		t.Error("plain HTTP is answered")
	}
	if code := r.stop(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
	if log := r.stderr.String(); strings.Contains(log, canary) {
		t.Errorf("the password is in the log:\n%s", log)
	}
}

// certificate writes a self-signed certificate for loopback.
func certificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		write(t, filepath.Join(dir, name), string(pem.EncodeToMemory(block)))
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}

// checkMetrics has promtool judge a live scrape.
func checkMetrics(t *testing.T, r *running) {
	t.Helper()
	promtool := rig.Tool(t, "promtool")
	_, body := r.get("/metrics")
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(body)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil || out.Len() > 0 {
		t.Errorf("promtool: %v\n%s", err, out.String())
	}
}
