// Package page draws the health of the fleet for whoever is woken: /fleet, the
// page of one runner, why a job waits, and the same for scripts. It reads
// published snapshots only and does no network I/O; of a job that is asked for
// Options.Why returns what GitLab has. What is foreign (names, descriptions, tags) is
// escaped by html/template, and the Content-Security-Policy allows no script.
package page

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/internal/why"
)

// Options are what a Page is made from.
type Options struct {
	// Pictures are the latest snapshots, by name.
	Pictures func() []*snapshot.GitLab
	// Evidence returns what the verdict on a runner rests on; ok is false where
	// it is not known. nil: nobody judges.
	Evidence func(gitlab string, id int64) (snapshot.HealthEvidence, bool)
	// Why explains which runners take a job; nil: jobs cannot be read.
	Why func(ctx context.Context, gitlab string, q why.Question) (*why.Answer, error)
	// Shard of Shards is the part of the runners that is shown; 0 shards: 1.
	Shard, Shards int
	// ExternalURL is the address under which browsers reach the program
	// (--web.external-url, its {shard} included); "" where not known.
	ExternalURL string
	// Prefix is the path before /fleet as browsers see it, without a slash at the end.
	Prefix string
	// Grafana and Runbooks are the templates of --web.link.grafana and .runbooks.
	Grafana, Runbooks string
	// MetricsPath is shown as a link, with Prefix before it.
	MetricsPath string
	Version     string
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Page serves the pages. Its methods may be called from any goroutine.
type Page struct {
	opts   Options
	links  links
	memory memory
	whys   *rate.Limiter // of questions about jobs, which go to GitLab
}

//go:embed style.css
var css string

//go:embed page.html
var markup string

var (
	styleHash = sha256.Sum256([]byte(css))
	// policy allows the embedded style and the form that filters, and nothing else.
	policy = "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(styleHash[:]) +
		"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

// New makes a Page.
func New(o Options) *Page {
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Page{opts: o, links: links{
		prefix: strings.TrimSuffix(o.Prefix, "/"), grafana: o.Grafana, runbooks: o.Runbooks,
		external: strings.TrimSuffix(ShardURL(o.ExternalURL, o.Shard), "/"),
	}}
	p.whys = rate.NewLimiter(rate.Every(whyEvery), whyBurst)
	p.memory = memory{started: o.Now(), gitlabs: map[string]*remembered{}}
	return p
}

// Keep notes a published snapshot: the last picture is shown when a later
// snapshot has none, and differences are the changes of the last hour.
func (p *Page) Keep(s *snapshot.GitLab) { p.memory.keep(s) }

// ServeFleet answers with the page of the fleet.
func (p *Page) ServeFleet(w http.ResponseWriter, r *http.Request) {
	f, err := parseFilter(r.URL.Query())
	if err != nil {
		p.refuse(w, http.StatusBadRequest, "This filter cannot match: "+err.Error()+".")
		return
	}
	if err := p.known(f.gitlab); err != nil {
		p.refuse(w, http.StatusNotFound, err.Error())
		return
	}
	if seconds, err := strconv.Atoi(r.URL.Query().Get("refresh")); err == nil && seconds >= 5 && seconds <= 3600 {
		w.Header().Set("Refresh", strconv.Itoa(seconds))
	}
	now := p.opts.Now()
	p.draw(w, http.StatusOK, "fleet", newFleetView(p, p.report(now, f, &p.links), now, f))
}

// ServeRunner answers with the page of one runner.
func (p *Page) ServeRunner(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	id, err := strconv.ParseInt(q.Get("id"), 10, 64)
	if err != nil || id <= 0 {
		p.refuse(w, http.StatusBadRequest, "The address of a runner is /fleet/runner?gitlab=NAME&id=NUMBER.")
		return
	}
	if err := p.known(q.Get("gitlab")); err != nil {
		p.refuse(w, http.StatusNotFound, err.Error())
		return
	}
	now := p.opts.Now()
	v := newRunnerView(p, q.Get("gitlab"), id, now)
	if v == nil {
		p.refuse(w, http.StatusNotFound, fmt.Sprintf("Runner %d is not in the last picture of GitLab %s: it was deleted, is not in a scope that is read, or is read by another shard.", id, q.Get("gitlab")))
		return
	}
	p.draw(w, http.StatusOK, "runner", v)
}

// ServeAPI answers with the report in JSON (docs/api.md).
func (p *Page) ServeAPI(w http.ResponseWriter, r *http.Request) {
	f, err := parseFilter(r.URL.Query())
	status := http.StatusBadRequest
	if err == nil {
		err, status = p.known(f.gitlab), http.StatusNotFound
	}
	if err == nil {
		for name := range r.URL.Query() {
			if !slices.Contains([]string{"gitlab", "tag", "type", "health", "reason", "q"}, name) {
				err, status = fmt.Errorf("there is no filter %q", name), http.StatusBadRequest
			}
		}
	}
	if err != nil {
		answer(w, status, map[string]string{"error": err.Error()})
		return
	}
	l := p.links
	if l.external != "" {
		l.prefix = l.external
	}
	answer(w, http.StatusOK, p.report(p.opts.Now(), f, &l))
}

func answer(w http.ResponseWriter, status int, body any) {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(body); err != nil {
		http.Error(w, "the answer cannot be made: "+err.Error(), http.StatusInternalServerError)
		return
	}
	headers(w, "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // nothing can be reported to a client that went away
}

// known refuses the name of a GitLab that is not monitored: a page without
// problems would be a wrong answer.
func (p *Page) known(name string) error {
	if name == "" {
		return nil
	}
	var names []string
	for _, s := range p.opts.Pictures() {
		if s.Name == name {
			return nil
		}
		names = append(names, s.Name)
	}
	return fmt.Errorf("no GitLab of the name %q is monitored here; there are: %s", name, strings.Join(names, ", "))
}

func headers(w http.ResponseWriter, contentType string) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
}

func (p *Page) draw(w http.ResponseWriter, status int, name string, view any) {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, name, view); err != nil {
		http.Error(w, "the page cannot be made: "+err.Error(), http.StatusInternalServerError)
		return
	}
	headers(w, "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // nothing can be reported to a client that went away
}

func (p *Page) refuse(w http.ResponseWriter, status int, text string) {
	p.draw(w, status, "refused", struct {
		*frame

		Text string
	}{p.frame("Not found", p.opts.Now()), text})
}

// frame is what each page has around its content.
type frame struct {
	Title   string
	Now     time.Time
	Home    string
	Metrics string
	Ready   string
	API     string
	Version string
	CSS     template.CSS
}

func (p *Page) frame(title string, now time.Time) *frame {
	return &frame{
		Title: title, Now: now, Home: p.links.prefix + "/fleet", Metrics: p.links.prefix + p.opts.MetricsPath, Ready: p.links.prefix + "/-/ready",
		API: p.links.prefix + "/api/v1/fleet", Version: p.opts.Version,
		CSS: template.CSS(css), //nolint:gosec // G203: our own file
	}
}

var templates = template.Must(template.New("page").Funcs(template.FuncMap{
	"ago": ago, "clock": clock, "title": title, "count": count, "thousands": thousands, "span": span,
	"anchor": func(parts ...string) string {
		for i := range parts {
			parts[i] = url.QueryEscape(parts[i])
		}
		return strings.Join(parts, "/")
	},
	"short":   func(s string) string { return cut(s, 80) },
	"shorter": func(s string) string { return cut(s, 40) },
}).Parse(markup))

// cut shortens a text for a list; the runner's page has it in full.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	r := []rune(s)
	if len(r) <= most {
		return s
	}
	return string(r[:most]) + "…"
}
