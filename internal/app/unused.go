package app

import (
	"fmt"
	"net/url"
	"os"

	"golang.org/x/net/http/httpproxy"

	"gitlab-runner-fleet-exporter/config"
)

// unused are variables of the environment that somebody set in vain, one
// sentence each. What they hold is not shown: it may be a password.
func (o *options) unused(v *config.Validated) []string {
	var out []string
	if o.configFile != "" && os.Getenv("GITLAB_TOKEN") != "" {
		out = append(out, "GITLAB_TOKEN is set and not used: with --config.file each GitLab has its token in authorization; write it to a file and name that in credentials_file")
	}
	proxy := httpproxy.FromEnvironment().ProxyFunc()
	for _, g := range v.GitLabs() {
		c := g.HTTPClientConfig.ProxyConfig
		u, err := url.Parse(g.URL)
		if err != nil || c.ProxyFromEnvironment || c.ProxyURL.URL != nil && c.ProxyURL.String() != "" {
			continue
		}
		if p, err := proxy(u); err != nil || p == nil {
			continue
		}
		name := "HTTPS_PROXY"
		if u.Scheme == "http" {
			name = "HTTP_PROXY"
		}
		out = append(out, fmt.Sprintf("%s is set and not used for GitLab %q: set proxy_from_environment: true in its configuration, or proxy_url, if it is to go through the proxy", name, g.Name))
	}
	return out
}
