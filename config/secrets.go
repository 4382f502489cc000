package config

import (
	"encoding/base64"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	commoncfg "github.com/prometheus/common/config"

	"gitlab-runner-fleet-exporter/internal/secret"
)

// Secrets are the secrets that stand in the configuration, so that no text that
// leaves the process shows one. Those in files are not among them: they are
// read again at each request.
func (v *Validated) Secrets() []string {
	var s secrets
	for _, g := range v.gitlabs {
		s.client(g.HTTPClientConfig)
	}
	return s.values()
}

// shortSecret reports whether one of them is too short to be masked.
func shortSecret(c commoncfg.HTTPClientConfig) bool {
	var s secrets
	s.client(c)
	return slices.ContainsFunc(s.values(), func(v string) bool { return len(v) < secret.Shortest })
}

// EnvironmentSecrets are those of the environment: the token, and passwords of
// the proxies that proxy_from_environment takes from there.
func EnvironmentSecrets() []string {
	var s secrets
	s.add(os.Getenv(envToken))
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		s.address(os.Getenv(name))
	}
	return s.values()
}

// secrets collects values, each once.
type secrets map[string]bool

func (s *secrets) values() []string { return slices.Sorted(maps.Keys(*s)) }

func (s *secrets) add(v string) {
	if v == "" {
		return
	}
	if *s == nil {
		*s = secrets{}
	}
	(*s)[v] = true
}

// header adds what a header carries; "Basic cGFzcw==" is a secret without its
// first word too, and each value of "session=abc; id=def".
func (s *secrets) header(v string) {
	s.add(v)
	for pair := range strings.SplitSeq(v, ";") {
		if _, value, ok := strings.Cut(pair, "="); ok {
			s.add(strings.TrimSpace(value))
		}
	}
	if _, credentials, ok := strings.Cut(strings.TrimSpace(v), " "); ok {
		s.add(strings.TrimSpace(credentials))
	}
}

// secretName is how headers and parameters that carry a secret are called.
var secretName = regexp.MustCompile(`(?i)auth|cookie|credential|key|pass|secret|session|token|assertion`)

func (s *secrets) client(c commoncfg.HTTPClientConfig) {
	if a := c.Authorization; a != nil {
		s.header(string(a.Credentials))
	}
	if b := c.BasicAuth; b != nil && b.Password != "" {
		s.userinfo(url.UserPassword(b.Username, string(b.Password)))
	}
	s.add(string(c.BearerToken))
	if h := c.HTTPHeaders; h != nil {
		for name, header := range h.Headers {
			for _, v := range header.Secrets {
				s.header(string(v))
			}
			if secretName.MatchString(name) {
				for _, v := range header.Values {
					s.header(v)
				}
			}
		}
	}
	s.proxy(c.ProxyConfig)
	s.add(string(c.TLSConfig.Key))
	if o := c.OAuth2; o != nil {
		s.add(string(o.ClientSecret))
		s.add(string(o.ClientCertificateKey))
		for name, v := range o.EndpointParams {
			if secretName.MatchString(name) {
				s.add(v)
			}
		}
		s.address(o.TokenURL)
		s.proxy(o.ProxyConfig)
		s.add(string(o.TLSConfig.Key))
	}
}

func (s *secrets) proxy(p commoncfg.ProxyConfig) {
	if p.ProxyURL.URL != nil {
		s.userinfo(p.ProxyURL.User)
	}
	for _, values := range p.ProxyConnectHeader {
		for _, v := range values {
			s.header(string(v))
		}
	}
}

// userinfoText finds the userinfo of an address that is too broken to parse.
var userinfoText = regexp.MustCompile(`^(?:[^:/]*://)?([^@]*)@`)

// address adds the password within an address.
func (s *secrets) address(text string) {
	u, err := url.Parse(text)
	if err == nil && u.User != nil {
		s.userinfo(u.User)
		return
	}
	if m := userinfoText.FindStringSubmatch(text); m != nil {
		s.add(m[1])
		_, password, _ := strings.Cut(m[1], ":")
		s.add(password)
	}
}

// userinfo adds a password and how it is sent; a name without one is a token,
// as in https://token@host.
func (s *secrets) userinfo(u *url.Userinfo) {
	if u == nil {
		return
	}
	password, _ := u.Password()
	if password == "" {
		s.add(u.Username())
		return
	}
	s.add(password)
	s.add(base64.StdEncoding.EncodeToString([]byte(u.Username() + ":" + password))) // as it is sent
}
