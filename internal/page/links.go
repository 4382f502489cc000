package page

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// The boards of dashboards/, by uid.
const (
	boardTags     = "grf-tags"
	boardRunner   = "grf-runner"
	boardOverview = "grf-overview"
	boardExporter = "grf-exporter"
)

// The placeholders of --web.link.grafana and --web.link.runbooks.
const (
	holdBoard  = "{board}"
	holdGitLab = "{gitlab}"
	holdTag    = "{tag}"
	holdRunner = "{runner}"
	holdAlert  = "{alert}"
	holdShard  = "{shard}" // of --web.external-url
)

// links makes the addresses that pages and answers show.
type links struct {
	prefix   string // path before /fleet, as a browser sees it
	external string // the same with scheme and host; "" where not known
	grafana  string
	runbooks string
}

// CheckLink reports what is wrong with an address template that has the given
// placeholders; kind names the flag.
func CheckLink(address string, placeholders ...string) error {
	if address == "" {
		return nil
	}
	plain := address
	for _, p := range placeholders {
		plain = strings.ReplaceAll(plain, p, "x")
	}
	if at := strings.IndexAny(plain, "{}"); at >= 0 {
		return fmt.Errorf("%q has a placeholder other than %s", address, strings.Join(placeholders, ", "))
	}
	u, err := url.Parse(plain)
	if err != nil {
		return errors.New("it is not an address") // the error may repeat a password
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("it must be an address such as https://example.com/path")
	}
	if u.User != nil {
		return errors.New("it must not hold a user or a password: the page shows it to every reader")
	}
	return nil
}

// GrafanaPlaceholders and RunbookPlaceholders are those that the templates may hold.
func GrafanaPlaceholders() []string { return []string{holdBoard, holdGitLab, holdTag, holdRunner} }

// RunbookPlaceholders are those of --web.link.runbooks.
func RunbookPlaceholders() []string { return []string{holdAlert} }

// ExternalPlaceholders are those of --web.external-url.
func ExternalPlaceholders() []string { return []string{holdShard} }

// ShardURL is the external address of one shard.
func ShardURL(external string, shard int) string {
	return strings.ReplaceAll(external, holdShard, strconv.Itoa(shard))
}

func (l *links) fleet(f *filter) string {
	at := l.prefix + "/fleet"
	if q := f.query(); q != "" {
		at += "?" + q
	}
	return at
}

func (l *links) runner(gitlab string, id int64) string {
	return l.prefix + "/fleet/runner?gitlab=" + url.QueryEscape(gitlab) + "&id=" + itoa(id)
}

func (l *links) tag(t *Tag) {
	t.URL = l.fleet(&filter{gitlab: t.GitLab, tag: t.Tag})
	t.BoardURL = l.board(boardTags, t.GitLab, t.Tag, 0)
	t.RunbookURL = l.runbook(tagAlerts[t.Problem])
}

// shard returns which part is shown, and where the others are.
func (l *links) shard(o Options) Shard {
	s := Shard{Index: o.Shard, Count: max(1, o.Shards), Others: []string{}}
	if strings.Contains(o.ExternalURL, holdShard) {
		for i := range s.Count {
			if i != s.Index {
				s.Others = append(s.Others, strings.TrimSuffix(ShardURL(o.ExternalURL, i), "/")+"/fleet")
			}
		}
	}
	return s
}

// board is the address of a dashboard; "" where Grafana's is not known.
func (l *links) board(uid, gitlab, tag string, runner int64) string {
	if l.grafana == "" {
		return ""
	}
	id := ""
	if runner > 0 {
		id = itoa(runner)
	}
	if strings.Contains(l.grafana, "{") {
		return strings.NewReplacer(holdBoard, uid, holdGitLab, url.QueryEscape(gitlab), holdTag, url.QueryEscape(tag), holdRunner, id).Replace(l.grafana)
	}
	q := url.Values{}
	for _, p := range [][2]string{{"var-gitlab", gitlab}, {"var-tag", tag}, {"var-runner", id}} {
		if p[1] != "" {
			q.Set(p[0], p[1])
		}
	}
	at := strings.TrimSuffix(l.grafana, "/") + "/d/" + uid
	if len(q) > 0 {
		at += "?" + q.Encode()
	}
	return at
}

// runbook is the address of an alert's runbook; "" where it is not known.
func (l *links) runbook(alert string) string {
	switch {
	case l.runbooks == "" || alert == "":
		return ""
	case strings.Contains(l.runbooks, holdAlert):
		return strings.ReplaceAll(l.runbooks, holdAlert, alert)
	}
	return strings.TrimSuffix(l.runbooks, "/") + "/" + alert + ".md"
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
