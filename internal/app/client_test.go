package app

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-kit/log"
	commoncfg "github.com/prometheus/common/config"

	"gitlab-runner-fleet-exporter/config"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/secret"
)

// TestHeaderIsBounded: the bound on an answer's header holds for the client as
// the program makes it, behind prometheus/common's wrappers, with TLS and without.
func TestHeaderIsBounded(t *testing.T) {
	answer := func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.Copy(conn, io.MultiReader(strings.NewReader("HTTP/1.1 "), bytes.NewReader(bytes.Repeat([]byte("x"), 4<<20)), strings.NewReader("\r\n\r\n")))
	}
	for _, secure := range []bool{false, true} {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(answer))
		if secure {
			srv.StartTLS()
		} else {
			srv.Start()
		}
		t.Cleanup(srv.Close)
		g := config.GitLab{Name: "x", URL: srv.URL, HTTPClientConfig: commoncfg.DefaultHTTPClientConfig}
		g.HTTPClientConfig.TLSConfig.InsecureSkipVerify = true
		hc, err := newHTTPClient(g, &secret.List{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(hc.CloseIdleConnections)
		c, err := newClient(g, hc, &secret.List{}, log.NewNopLogger(), gitlab.Hooks{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Managers(t.Context(), 1); gitlab.ReasonOf(err) != gitlab.ReasonTooLarge {
			t.Errorf("TLS %t: %v", secure, err)
		}
	}
}
