package gitlab

import (
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	commoncfg "github.com/prometheus/common/config"
)

// remedyOf asks a server for its version as the program does, and returns what
// is advised.
func remedyOf(t *testing.T, url string, c *http.Client) string {
	t.Helper()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	// One attempt: a connection that fails is tried again for seconds.
	client := newClient(t, Options{BaseURL: url, HTTPClient: c})
	_, err := client.Version(impatient{t.Context()})
	if err == nil {
		t.Fatal("no error")
	}
	t.Log(err)
	return Remedy(ReasonOf(err), err)
}

// Each way to write the address wrong, met on real connections.
func TestEachWrongAddressHasARemedy(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	plain, secure := httptest.NewServer(page), httptest.NewTLSServer(page)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	nginx := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte("<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>"))
	}))
	t.Cleanup(nginx.Close)
	alert := rawServer(t, "\x15\x03\x01\x00\x02\x02\x16")
	swap := func(url string) string {
		if rest, ok := strings.CutPrefix(url, "http://"); ok {
			return "https://" + rest
		}
		return "http://" + strings.TrimPrefix(url, "https://")
	}
	named := secure.Client()
	named.Transport.(*http.Transport).TLSClientConfig.ServerName = "other.test"
	for _, tt := range []struct {
		name, url string
		client    *http.Client
		want      string
	}{
		{"HTTPS to an HTTP port", swap(plain.URL), &http.Client{Transport: &http.Transport{}}, "write http:// in url"},
		{"HTTP to an HTTPS port of Go", swap(secure.URL), &http.Client{Transport: &http.Transport{}}, "write https:// in url"},
		{"HTTP to an HTTPS port of nginx", nginx.URL, &http.Client{Transport: &http.Transport{}}, "write https:// in url"},
		{"HTTP to an HTTPS port that answers by an alert", alert, &http.Client{Transport: &http.Transport{}}, "write https:// in url"},
		{"an unknown CA", secure.URL, &http.Client{Transport: &http.Transport{}}, "ca_file"},
		{"another host's certificate", secure.URL, named, "server_name"},
		{"nobody listens", "http://" + closedPort(t), &http.Client{Transport: &http.Transport{}}, "GitLab is up"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Cleanup(tt.client.CloseIdleConnections)
			if got := remedyOf(t, tt.url, tt.client); !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q in it", got, tt.want)
			}
		})
	}
}

// Each answer of GitLab or of what stands in front of it.
func TestEachAnswerHasARemedy(t *testing.T) {
	for _, tt := range []struct {
		name     string
		err      *Error
		want, no string
	}{
		{"401", &Error{Reason: ReasonUnauthorized, Status: 401}, "valid one with scope read_api", ""},
		{"no scope", &Error{Reason: ReasonForbidden, Route: RouteAllRunners, Message: "insufficient_scope: x"}, "lacks a scope", "groups"},
		{"an ordinary user", &Error{Reason: ReasonForbidden, Route: RouteAllRunners, Message: "403 Forbidden"}, "set scope: groups", ""},
		{"a group", &Error{Reason: ReasonForbidden, Route: RouteGroupRunners, Message: "403 Forbidden"}, "Owner or Maintainer", "administrator"},
		{"jobs", &Error{Reason: ReasonForbidden, Route: RouteRunnerJobs, Message: "403 Forbidden"}, "administrators", "scope: groups"},
		{"a group that is gone", &Error{Reason: ReasonNotFound, Route: RouteGroupRunners}, "id or path", "url"},
		{"no such endpoint", &Error{Reason: ReasonNotFound, Route: RouteAllRunners}, "check url", "group"},
		{"a page", &Error{Reason: ReasonNotGitLab, Route: RouteAllRunners, Status: 403}, "bot check", "token"},
		{"a login page", &Error{Reason: ReasonRedirect, Message: "redirected to sso.example.com/users/sign_in"}, "login page", ""},
		{"an unknown host", &Error{Reason: ReasonConnection, Err: &net.DNSError{IsNotFound: true}}, "cannot be resolved", "firewall"},
		{"an expired certificate", &Error{Reason: ReasonTLS, Err: x509.CertificateInvalidError{Reason: x509.Expired}}, "renew", "ca_file"},
		{"another address", &Error{Reason: ReasonRedirect, Message: "redirected to lasso.example.com/x"}, "set url", "login"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Remedy(tt.err.Reason, tt.err)
			if !strings.Contains(got, tt.want) || tt.no != "" && strings.Contains(got, tt.no) {
				t.Errorf("got %q, want %q and not %q in it", got, tt.want, tt.no)
			}
		})
	}
	file := newClient(t, Options{BaseURL: "http://127.0.0.1:1", HTTPClient: clientWithTokenFile(t, "/does/not/exist")})
	_, err := file.Version(t.Context())
	if got := Remedy(ReasonOf(err), err); !strings.Contains(got, "token file readable") {
		t.Errorf("a token file that cannot be read: %q (%v)", got, err)
	}
}

// Every reason has words, without an error too.
func TestEachReasonHasARemedy(t *testing.T) {
	for _, r := range append(Reasons(), ReasonNotGitLab) {
		if got := Remedy(r, nil); got == "" || got == "see the message" && r != ReasonCanceled {
			t.Errorf("%s: %q", r, got)
		}
	}
}

// rawServer answers each connection with the same bytes.
func rawServer(t *testing.T, answer string) (url string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1024))
			_, _ = c.Write([]byte(answer))
			_ = c.Close()
		}
	}()
	return "http://" + l.Addr().String()
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func clientWithTokenFile(t *testing.T, file string) *http.Client {
	t.Helper()
	c, err := commoncfg.NewClientFromConfig(commoncfg.HTTPClientConfig{
		Authorization: &commoncfg.Authorization{Type: "Bearer", CredentialsFile: file},
	}, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}
