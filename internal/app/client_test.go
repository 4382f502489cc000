package app

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/config"
	"gitlab-runner-fleet-exporter/internal/secret"
)

// clientOf makes the client of a configuration's one GitLab.
func clientOf(t *testing.T, url, more string, list *secret.List) *http.Client {
	t.Helper()
	v, err := config.Parse([]byte(fmt.Sprintf("gitlabs:\n  - {url: %q, %s}\n", url, more)), "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := newHTTPClient(v.GitLabs()[0], list)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func ask(ctx context.Context, c *http.Client, url string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// TestFilesOfTheClientAreReadAnew: all that prometheus/common reads from files arrives,
// and is read anew.
func TestFilesOfTheClientAreReadAnew(t *testing.T) {
	var got http.Header
	srv := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	defer srv.Close()
	dir := t.TempDir()
	path := func(name, text string) string {
		p := filepath.Join(dir, name)
		write(t, p, text)
		return p
	}
	ca := path("ca", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	a, b, token := path("a", "value-a\n"), path("b", "value-b\n"), path("token", "token-one\n")
	more := fmt.Sprintf("tls_config: {ca_file: %q}, authorization: {credentials_file: %q}, http_headers: {X-A: {values: [given], files: [%q, %q]}, X-B: {secrets: [inline]}}", ca, token, a, b)
	var list secret.List
	c := clientOf(t, srv.URL, more, &list)
	for _, want := range []string{"token-one", "token-two"} {
		write(t, token, want)
		if _, err := ask(t.Context(), c, srv.URL); err != nil {
			t.Fatal(err)
		}
		if h := fmt.Sprint(got["Authorization"], got["X-A"], got["X-B"]); h != "[Bearer "+want+"] [given value-a value-b] [inline]" {
			t.Errorf("%s arrived", h)
		}
	}
	if s := list.Scrub("token-one token-two value-a value-b"); s != "*** *** *** ***" {
		t.Errorf("sent and not known: %s", s)
	}
	// Another CA from now on.
	certificate(t, dir)
	if err := os.Rename(filepath.Join(dir, "cert.pem"), ca); err != nil {
		t.Fatal(err)
	}
	c.CloseIdleConnections()
	if _, err := ask(t.Context(), c, srv.URL); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("the old CA is still trusted: %v", err)
	}
	for _, name := range []string{"ca", "token", "a"} { // each is read before those that went
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := ask(t.Context(), c, srv.URL); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, name)) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// TestRedirectsTakeNoCredentialsAlong: the client follows none unless it is configured to, and then takes
// the credentials along to no other host.
func TestRedirectsTakeNoCredentialsAlong(t *testing.T) {
	var got http.Header
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	defer other.Close()
	elsewhere := strings.Replace(other.URL, "127.0.0.1", "localhost", 1)
	srv := httptest.NewServer(http.RedirectHandler(elsewhere, http.StatusFound))
	defer srv.Close()
	cookie := filepath.Join(t.TempDir(), "cookie")
	write(t, cookie, "session=x")
	more := fmt.Sprintf("authorization: {credentials: token}, http_headers: {Cookie: {files: [%q]}}", cookie)
	status, err := ask(t.Context(), clientOf(t, srv.URL, more, &secret.List{}), srv.URL)
	if err != nil || status != http.StatusFound || got != nil {
		t.Errorf("followed: HTTP %d, %v", status, err)
	}
	if _, err := ask(t.Context(), clientOf(t, srv.URL, more+", follow_redirects: true", &secret.List{}), srv.URL); err != nil {
		t.Fatal(err)
	}
	if got == nil || got.Get("Authorization") != "" || got.Get("Cookie") != "" {
		t.Errorf("arrived elsewhere: %v", got)
	}
}

// TestTokenEndpointThatHangsEndsWithTheRequest: a request ends with its context although the token
// endpoint of OAuth2 never answers, and no more than a few wait for it.
func TestTokenEndpointThatHangsEndsWithTheRequest(t *testing.T) {
	free := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			<-free
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"access_token":"access","token_type":"Bearer","expires_in":3600}`))
		}
	}))
	defer srv.Close()
	c := clientOf(t, srv.URL, fmt.Sprintf("oauth2: {client_id: id, client_secret: secret, token_url: %q}", srv.URL+"/token"), &secret.List{})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	// Alone at first, as a monitor's is: prometheus/common sets itself up without a lock.
	if _, err := ask(ctx, c, srv.URL); err == nil || !strings.Contains(err.Error(), endpointSilent) {
		t.Errorf("%v", err)
	}
	errs := make(chan error)
	for range maxAbandoned - 1 {
		go func() {
			_, err := ask(ctx, c, srv.URL)
			errs <- err
		}()
	}
	for range maxAbandoned - 1 {
		if err := <-errs; err == nil || !strings.Contains(err.Error(), endpointSilent) {
			t.Errorf("%v", err)
		}
	}
	if _, err := ask(t.Context(), c, srv.URL); err == nil || !strings.Contains(err.Error(), "wait for it already") {
		t.Errorf("one more: %v", err)
	}
	close(free)
	eventually(t, 10*time.Second, "all is well again", func() bool {
		_, err := ask(t.Context(), c, srv.URL)
		return err == nil
	})
}
