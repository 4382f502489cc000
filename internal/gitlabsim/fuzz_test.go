package gitlabsim

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// FuzzRequest: whatever is asked, the API answers with a status that GitLab has and
// with JSON, does not panic, and the world stays whole.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "/runners/all?page=2&per_page=3")
	f.Add("GET", "/groups/a%2Fb/runners?tag_list[]=x")
	f.Add("GET", "/runners/1/jobs?pagination=keyset&order_by=id&cursor=eyJpZCI6IjEwMDAwMDMiLCJfa2QiOiJuIn0=")
	f.Add("PUT", "/runners/1")
	f.Fuzz(func(t *testing.T, method, path string) {
		u, err := url.Parse("http://x/api/v4" + path)
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		w, c := newWorld(Options{Runners: 3, Tags: 2})
		w.CreateJob(JobSpec{Runner: 1, Finished: noon})
		a, err := w.serve(&http.Request{Method: method, URL: u, Header: http.Header{"Private-Token": {apiToken}}})
		if err != nil {
			t.Fatal(err)
		}
		switch a.status {
		case 200, 400, 403, 404, 405:
			if !json.Valid(a.body) {
				t.Errorf("%d %q", a.status, a.body)
			}
		default:
			t.Errorf("status %d %q", a.status, a.body)
		}
		c.add(3 * time.Hour)
		for _, r := range w.Truth().Runners {
			if r.ID == 0 || r.Type == "" {
				t.Errorf("runner %+v", r)
			}
		}
		if r := get(t, w, "/runners/all?per_page=100"); !json.Valid([]byte(r.body)) {
			t.Errorf("list %s", r.body)
		}
	})
}
