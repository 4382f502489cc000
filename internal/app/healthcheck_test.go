package app

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestHealthcheckTakesAnyAnswerForLife starts the program in each way that a
// client may be refused, and asks it with the same flags.
func TestHealthcheckTakesAnyAnswerForLife(t *testing.T) {
	w := newWorld(t, smallFleet(1))
	dir := t.TempDir()
	cert, key := selfSigned(t, dir)
	// The password of basic auth is "password"; bcrypt with the least cost.
	const users = "basic_auth_users: {prometheus: $2y$04$QTR8GMw2OlvCv6JKGNL5o.9n9CPnPSnVrCPy5MyWBnqLC1zjpXlLq}\n"
	for name, webConfig := range map[string]string{
		"plain":               "",
		"basic auth":          users,
		"TLS":                 "tls_server_config: {cert_file: " + cert + ", key_file: " + key + "}\n",
		"TLS and a password":  "tls_server_config: {cert_file: " + cert + ", key_file: " + key + "}\n" + users,
		"client certificates": "tls_server_config: {cert_file: " + cert + ", key_file: " + key + ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: " + cert + "}\n",
		"the same by TLS 1.2": "tls_server_config: {cert_file: " + cert + ", key_file: " + key + ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: " + cert + ", max_version: TLS12}\n",
	} {
		t.Run(name, func(t *testing.T) {
			var flags []string
			if webConfig != "" {
				file := filepath.Join(t.TempDir(), "web.yml")
				write(t, file, webConfig)
				flags = []string{"--web.config.file=" + file}
			}
			t.Setenv("GITLAB_TOKEN", testToken)
			r := startHere(t, append(flags, "--gitlab.url="+w.url, "--storage.path=")...)
			address := strings.TrimPrefix(r.url, "http://")

			check := func(args ...string) (int, string) {
				var out, errs bytes.Buffer
				code := Run(t.Context(), append(args, "--healthcheck"), &out, &errs)
				return code, out.String() + errs.String()
			}
			if code, text := check(append(flags, "--web.listen-address="+address)...); code != exitOK {
				t.Errorf("alive, and the check exits with %d: %s", code, text)
			}
			// A container's HEALTHCHECK gets the environment and not the arguments.
			t.Setenv("GITLAB_RUNNER_FLEET_WEB_LISTEN_ADDRESS", address)
			if code, text := check(); code != exitOK {
				t.Errorf("by the environment: exit status %d: %s", code, text)
			}
			if code := r.stop(); code != exitOK {
				t.Errorf("exit status %d:\n%s", code, r.stderr)
			}
			if code, text := check(append(flags, "--web.listen-address="+address)...); code != exitFailure || !strings.Contains(text, "refused") {
				t.Errorf("stopped, and the check exits with %d: %s", code, text)
			}
		})
	}
}

// TestHealthcheckNamesWhatIsWrong: what gives no answer is not alive, and the
// error names what to do.
func TestHealthcheckNamesWhatIsWrong(t *testing.T) {
	silent, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	moved := serveHTTP(t, http.RedirectHandler("http://192.0.2.1/", http.StatusFound))
	for _, tt := range []struct {
		flags []string
		want  string // empty: alive
	}{
		{[]string{"--web.listen-address=" + silent.Addr().String()}, "deadline exceeded"},
		{[]string{"--web.listen-address=" + moved}, ""},
		{[]string{"--web.listen-address=127.0.0.1:1", "--web.listen-address=" + moved}, ""},
		{[]string{"--web.listen-address=127.0.0.1:1", "--web.config.file=" + filepath.Join(t.TempDir(), "gone.yml")}, "GITLAB_RUNNER_FLEET_WEB_LISTEN_ADDRESS"},
		{[]string{"--web.listen-address=" + moved, "--web.config.file=" + filepath.Join(t.TempDir(), "gone.yml")}, ""},
		{[]string{"--web.listen-address=:0"}, "the system chose the port"},
		{[]string{"--web.listen-address=vsock://:9756"}, "vsock is not supported"},
		{[]string{"--web.listen-address=unix:/run/fleet.sock"}, "unix"},
		{[]string{"--web.listen-address=9756"}, "missing port"},
		{[]string{"--web.systemd-socket"}, "--web.systemd-socket is not supported"},
	} {
		o, err := parse(append(tt.flags, "--healthcheck"), new(bytes.Buffer), new(bytes.Buffer))
		if err != nil {
			t.Fatalf("%q: %v", tt.flags, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err = o.alive(ctx)
		cancel()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%q: %v, want %q", tt.flags, err, tt.want)
		}
	}
}

// serveHTTP serves a handler on loopback and returns host and port.
func serveHTTP(t *testing.T, h http.Handler) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Second}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return l.Addr().String()
}

// selfSigned writes a certificate for another name than localhost, and its key.
func selfSigned(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "exporter.example.com"}, DNSNames: []string{"exporter.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	write(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	return cert, key
}
