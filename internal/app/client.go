package app

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	commoncfg "github.com/prometheus/common/config"

	"gitlab-runner-fleet-exporter/config"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/secret"
)

// newHTTPClient makes the one client of a GitLab: credentials, TLS, proxy. It
// is prometheus/common's, put together here from its parts for two reasons:
// what is read from files must not hang, and every credential that is sent,
// whatever it came from, must be known to the list before it is.
func newHTTPClient(g config.GitLab, list *secret.List) (*http.Client, error) {
	c := g.HTTPClientConfig
	auth, basic, oauth2, headers := c.Authorization, c.BasicAuth, c.OAuth2, c.HTTPHeaders
	c.Authorization, c.BasicAuth, c.OAuth2 = nil, nil, nil
	c.TLSConfig = withReferences(c.TLSConfig)
	c.HTTPHeaders, headers = splitHeaders(headers)
	certificates := commoncfg.WithSecretManager(secret.Certificates{List: list})
	rt, err := commoncfg.NewRoundTripperFromConfig(c, g.Name, certificates, commoncfg.WithDialContextFunc(gitlab.DialContext))
	if err != nil {
		return nil, err
	}
	rt = &sender{next: rt, list: list}
	switch {
	case auth != nil:
		rt = commoncfg.NewAuthorizationCredentialsRoundTripper(auth.Type, secretReader(list, auth.Credentials, auth.CredentialsFile, true), rt)
	case basic != nil:
		rt = commoncfg.NewBasicAuthRoundTripper(
			secretReader(list, commoncfg.Secret(basic.Username), basic.UsernameFile, false),
			secretReader(list, basic.Password, basic.PasswordFile, false), rt)
	case oauth2 != nil:
		text, file := oauth2.ClientSecret, oauth2.ClientSecretFile
		if oauth2.ClientCertificateKey != "" || oauth2.ClientCertificateKeyFile != "" {
			text, file = oauth2.ClientCertificateKey, oauth2.ClientCertificateKeyFile
		}
		endpoint := *oauth2 // the configuration in force must stay as it is
		endpoint.TLSConfig = withReferences(endpoint.TLSConfig)
		reader := clientSecret{secretReader(list, text, file, false), endpoint.ClientID, list}
		rt = &abandoning{next: commoncfg.NewOAuth2RoundTripper(reader, &endpoint, rt, certificates)}
	}
	if headers != nil {
		rt = &headerFiles{next: rt, headers: headers.Headers, list: list}
	}
	client := &http.Client{Transport: rt}
	if !c.FollowRedirects {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return client, nil
}

// secretReader reads a secret from where the configuration has it.
func secretReader(list *secret.List, text commoncfg.Secret, file string, header bool) commoncfg.SecretReader {
	if file != "" {
		return secret.File{Path: file, List: list, Header: header}
	}
	return commoncfg.NewInlineSecret(string(text))
}

// clientSecret is a client's secret for OAuth2; it notes how the token endpoint
// is sent it.
type clientSecret struct {
	commoncfg.SecretReader

	id   string
	list *secret.List
}

// Fetch implements commoncfg.SecretReader.
func (s clientSecret) Fetch(ctx context.Context) (string, error) {
	v, err := s.SecretReader.Fetch(ctx)
	if err == nil {
		s.list.Note(base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(s.id) + ":" + url.QueryEscape(v))))
	}
	return v, err
}

// withReferences has prometheus/common ask secret.Certificates for its files.
func withReferences(t commoncfg.TLSConfig) commoncfg.TLSConfig {
	for _, f := range []struct{ file, ref *string }{{&t.CAFile, &t.CARef}, {&t.CertFile, &t.CertRef}, {&t.KeyFile, &t.KeyRef}} {
		if *f.file != "" {
			*f.ref, *f.file = *f.file, ""
		}
	}
	return t
}

// splitHeaders parts the headers with values in files, which prometheus/common
// reads without a deadline, from the others. The first result is nil only where
// there are no headers at all: with it prometheus/common takes sensitive headers
// off a request that a redirect leads to another host.
func splitHeaders(all *commoncfg.Headers) (plain, inFiles *commoncfg.Headers) {
	if all == nil {
		return nil, nil
	}
	plain = &commoncfg.Headers{Headers: map[string]commoncfg.Header{}}
	for name, h := range all.Headers {
		if len(h.Files) == 0 {
			plain.Headers[name] = h
			continue
		}
		if inFiles == nil {
			inFiles = &commoncfg.Headers{Headers: map[string]commoncfg.Header{}}
		}
		inFiles.Headers[name] = h
	}
	return plain, inFiles
}

// headerFiles adds headers of which some values are in files.
type headerFiles struct {
	next    http.RoundTripper
	headers map[string]commoncfg.Header
	list    *secret.List
}

// RoundTrip implements http.RoundTripper.
func (t *headerFiles) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	for name, h := range t.headers {
		for _, v := range h.Values {
			req.Header.Add(name, v)
		}
		for _, v := range h.Secrets {
			req.Header.Add(name, string(v))
		}
		for _, path := range h.Files {
			v, err := secret.File{Path: path, List: t.list, Header: true}.Fetch(req.Context()) //nolint:contextcheck // it is the request's
			if err != nil {
				return nil, fmt.Errorf("unable to read the header %s: %w", name, err)
			}
			req.Header.Add(name, v)
		}
	}
	return t.next.RoundTrip(req)
}

// CloseIdleConnections is called by http.Client.
func (t *headerFiles) CloseIdleConnections() { closeIdle(t.next) }

// sender stands next to the connection and notes the credentials of every
// request: those of Basic as they are encoded, and those that a token endpoint
// gave, among them.
type sender struct {
	next http.RoundTripper
	list *secret.List
}

// RoundTrip implements http.RoundTripper.
func (t *sender) RoundTrip(req *http.Request) (*http.Response, error) {
	if _, credentials, ok := strings.Cut(req.Header.Get("Authorization"), " "); ok {
		t.list.Note(credentials)
	}
	return t.next.RoundTrip(req)
}

// CloseIdleConnections is called by http.Client.
func (t *sender) CloseIdleConnections() { closeIdle(t.next) }

const (
	// maxAbandoned bounds the round trips that hang although nobody waits.
	maxAbandoned = 16
	// endGrace is how long a round trip may take to see that its context ended.
	endGrace = time.Second
)

// abandoning ends a round trip with its context, even if the one below does
// not: prometheus/common asks the token endpoint of OAuth2 without a deadline,
// and one that never answers would hold up the polls and the stop.
type abandoning struct {
	next http.RoundTripper
	hang atomic.Int32 // abandoned and not yet returned
}

const endpointSilent = "the token endpoint (oauth2.token_url) does not answer"

// RoundTrip implements http.RoundTripper.
func (t *abandoning) RoundTrip(req *http.Request) (*http.Response, error) {
	if n := t.hang.Load(); n >= maxAbandoned {
		return nil, fmt.Errorf("%s: %d requests wait for it already", endpointSilent, n)
	}
	type result struct {
		resp *http.Response
		err  error
	}
	done := make(chan result, 1)
	go func() {
		resp, err := t.next.RoundTrip(req) //nolint:bodyclose // whoever receives it does
		done <- result{resp, err}
	}()
	select {
	case r := <-done:
		return r.resp, r.err
	case <-req.Context().Done():
	}
	timer := time.NewTimer(endGrace)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.resp, r.err
	case <-timer.C:
	}
	t.hang.Add(1)
	go func() {
		defer t.hang.Add(-1)
		if r := <-done; r.resp != nil {
			_ = r.resp.Body.Close() // nobody reads it
		}
	}()
	return nil, fmt.Errorf("%s: %w", endpointSilent, req.Context().Err())
}

// CloseIdleConnections is called by http.Client.
func (t *abandoning) CloseIdleConnections() { closeIdle(t.next) }

func closeIdle(rt http.RoundTripper) {
	if c, ok := rt.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
