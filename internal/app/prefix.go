package app

import (
	"fmt"
	"net/url"
	"strings"

	"gitlab-runner-fleet-exporter/internal/page"
)

// checkLinks checks the addresses that pages link to and works out the prefix of
// all routes. The mistakes name a flag and do not repeat a password.
func (o *options) checkLinks() error {
	for _, l := range []struct {
		flag, value  string
		placeholders []string
	}{
		{"--web.external-url", o.externalURL, page.ExternalPlaceholders()},
		{"--web.link.grafana", o.linkGrafana, page.GrafanaPlaceholders()},
		{"--web.link.runbooks", o.linkRunbooks, page.RunbookPlaceholders()},
	} {
		if err := page.CheckLink(l.value, l.placeholders...); err != nil {
			return fmt.Errorf("%s: %w", l.flag, err)
		}
	}
	if strings.ContainsAny(o.externalURL, "?#") {
		return fmt.Errorf("--web.external-url is %q: it must have neither a query nor a fragment", o.externalURL)
	}
	if prefix := o.prefix(); prefix != "" && !plainPath(prefix) {
		return fmt.Errorf("--web.route-prefix is %q: it must be a plain path such as /gitlab-runners", prefix)
	}
	return nil
}

// prefix stands before each path of the server; "" or without a slash at the
// end. As with Prometheus it is the path of the external address where
// --web.route-prefix is not given; a proxy that strips it needs --web.route-prefix=/.
func (o *options) prefix() string {
	if o.routePrefix != "" {
		return trimPrefix(o.routePrefix)
	}
	return o.externalPath()
}

// linkPrefix stands before each path as a browser sees it.
func (o *options) linkPrefix() string {
	if o.externalURL != "" {
		return o.externalPath()
	}
	return o.prefix()
}

func (o *options) externalPath() string {
	u, err := url.Parse(page.ShardURL(o.externalURL, o.shardIndex))
	if err != nil {
		return "" // refused by checkLinks
	}
	return trimPrefix(u.Path)
}

func trimPrefix(p string) string {
	if p = strings.Trim(p, "/"); p != "" {
		return "/" + p
	}
	return ""
}
