package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"gitlab-runner-fleet-exporter/internal/bounded"
)

// healthcheckWithin bounds the whole check: below the 10 s that the image's
// HEALTHCHECK grants, so that the cause is printed.
const healthcheckWithin = 5 * time.Second

// healthcheck asks the process that was started with the same flags whether it
// works, for containers without a shell, and returns the exit status.
//
// Any HTTP answer is proof of life, 401 of basic auth and 404 of a proxy's path
// included, and so is a TLS alert, by which a server refuses a client without a
// certificate. Whether GitLab can be read is not asked: a restart would not help.
func (p process) healthcheck(ctx context.Context, o *options) int {
	if err := o.alive(ctx); err != nil {
		printf(p.stderr, "%s: error: --healthcheck: %s\n", program, err)
		return exitFailure
	}
	printf(p.stdout, "%s is healthy.\n", program)
	return exitOK
}

// alive asks the addresses one after the other until one answers: the process
// ends where one of its listeners fails.
func (o *options) alive(ctx context.Context) error {
	if *o.web.WebSystemdSocket {
		return errors.New("--web.systemd-socket is not supported: the address is known to systemd only; systemctl status shows whether the service works")
	}
	ctx, cancel := context.WithTimeout(ctx, healthcheckWithin)
	defer cancel()
	secure := usesTLS(ctx, *o.web.WebConfigFile)
	var errs []error
	for _, address := range *o.web.WebListenAddresses {
		err := askAddress(ctx, address, secure)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", address, err))
	}
	return fmt.Errorf("%w; where the exporter listens elsewhere, give its --web.listen-address here too, or set %sWEB_LISTEN_ADDRESS for both", errors.Join(errs...), envPrefix)
}

// askAddress sends one request to a listen address.
func askAddress(ctx context.Context, address string, secure bool) error {
	if scheme, _, ok := strings.Cut(address, "://"); ok || strings.HasPrefix(address, "unix:") || strings.HasPrefix(address, "/") {
		return fmt.Errorf("a listen address such as %s is not supported: only host:port is", strings.TrimSuffix(scheme, ":"))
	}
	if _, port, err := net.SplitHostPort(address); err != nil {
		return err
	} else if port == "0" {
		return errors.New("the system chose the port, so it is not known here")
	}
	client := &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			// An address without a host, or 0.0.0.0, is dialed as the local system.
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, network, address)
			},
			// It asks itself and sends nothing: the certificate has another name.
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	scheme := "http"
	if secure {
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://localhost"+pathHealthy, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", userAgent())
	resp, err := client.Do(req)
	var remote *net.OpError
	switch {
	case err == nil:
		return resp.Body.Close()
	case errors.As(err, &remote) && remote.Op == "remote error":
		return nil // a TLS alert of the server
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return nil // the file was changed and is not in force yet
	}
	if failed, ok := errors.AsType[*url.Error](err); ok { // without an address that is not the one asked
		err = failed.Err
	}
	return err
}

// usesTLS reports whether the web configuration asks for TLS. One that cannot be
// read is no reason to call the process dead: it may run with an earlier one,
// and answers plain HTTP with 400 where it expects TLS.
func usesTLS(ctx context.Context, file string) bool {
	if file == "" {
		return false
	}
	raw, err := bounded.Call(ctx, file, func() ([]byte, error) { return os.ReadFile(file) }) //nolint:gosec // the operator names it
	if err != nil {
		return false
	}
	var c struct {
		TLS map[string]any `yaml:"tls_server_config"`
	}
	return yaml.NewDecoder(bytes.NewReader(raw)).Decode(&c) == nil && len(c.TLS) > 0
}
