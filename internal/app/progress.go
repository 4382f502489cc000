package app

import (
	"html/template"
	"net/http"
	"strings"

	"github.com/prometheus/exporter-toolkit/web"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// progressPage is what / shows of first readings that are under way.
var progressPage = template.Must(template.New("progress").Parse(`
<h3>First reading</h3>
<p>Sums are shown once every runner that they are made of was read.</p>
<table>
<tr><th>GitLab</th><th>Reading</th><th>Runners read</th><th>Time left, about</th></tr>
{{range $g := .}}{{range .Self.First}}<tr><td>{{$g.Name}}</td><td>{{.Part}}</td><td>{{.Read}} of {{.Of}}</td><td>{{if .Left}}{{.Left}}{{else}}not known yet{{end}}</td></tr>
{{end}}{{end}}</table>
`))

// landingPage is / with the progress of first readings, made anew at each request.
func landingPage(config web.LandingConfig, pictures func() []*snapshot.GitLab) (http.Handler, error) {
	if _, err := web.NewLandingPage(config); err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := config
		c.Links = append([]web.LandingLinks(nil), config.Links...) // it changes them
		var reading []*snapshot.GitLab
		for _, g := range pictures() {
			if len(g.Self.First) > 0 {
				reading = append(reading, g)
			}
		}
		var b strings.Builder
		if len(reading) > 0 {
			if err := progressPage.Execute(&b, reading); err != nil {
				respond(w, http.StatusInternalServerError, "The page cannot be made: "+err.Error()+"\n")
				return
			}
		}
		c.ExtraHTML = b.String()
		page, err := web.NewLandingPage(c)
		if err != nil {
			respond(w, http.StatusInternalServerError, "The page cannot be made: "+err.Error()+"\n")
			return
		}
		page.ServeHTTP(w, r)
	}), nil
}
