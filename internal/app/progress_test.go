package app

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// / shows how far first readings have come, of each GitLab, and nothing of
// them once they are over.
func TestLandingPageShowsProgress(t *testing.T) {
	slow := &snapshot.GitLab{Name: `<i>corp</i>`}
	slow.Self.First = []snapshot.Progress{
		{Part: snapshot.PartDetails, Read: 1234, Of: 10_000, Left: 14 * time.Minute},
		{Part: snapshot.PartJobs, Read: 0, Of: 77},
	}
	pictures := []*snapshot.GitLab{{Name: "done"}, slow}
	routes, err := newRoutes(pages{
		metrics: http.NotFoundHandler(), telemetryPath: "/metrics",
		waiting: func() []string { return nil }, pictures: func() []*snapshot.GitLab { return pictures },
	})
	if err != nil {
		t.Fatal(err)
	}
	get := func() string {
		w := httptest.NewRecorder()
		routes.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody))
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `href="/metrics"`) {
			t.Errorf("HTTP %d:\n%s", w.Code, w.Body)
		}
		return w.Body.String()
	}
	page := get()
	for _, want := range []string{
		"<td>&lt;i&gt;corp&lt;/i&gt;</td><td>details</td><td>1234 of 10000</td><td>14m0s</td>",
		"<td>jobs</td><td>0 of 77</td><td>not known yet</td>",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	if strings.Contains(page, "done") {
		t.Error("a GitLab whose picture is whole is listed")
	}
	slow.Self.First = nil
	if page = get(); strings.Contains(page, "First reading") {
		t.Errorf("it is over, but shown:\n%s", page)
	}
}
