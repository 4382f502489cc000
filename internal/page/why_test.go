package page

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/why"
)

// asked is a page that explains by what a GitLab is said to have.
func asked(w *world, o Options, answer func(gitlab string, q why.Question) (*why.Answer, error)) *Page {
	o.Why = func(_ context.Context, gitlab string, q why.Question) (*why.Answer, error) { return answer(gitlab, q) }
	return w.page(o)
}

func explained(gitlab string, q why.Question) (*why.Answer, error) {
	job := why.Job{ID: q.Job, Project: q.Project, Status: "pending", Tags: []string{"gpuu"}, TagsKnown: true, Since: noon.Add(-9 * time.Minute)}
	if q.Job == 0 {
		job.Tags, job.Since = q.Tags, time.Time{}
	}
	a := &why.Answer{GitLab: gitlab, Job: job, WebURL: "https://corp.example.com/" + q.Project + "/-/jobs/7", ListedAt: noon.Add(-30 * time.Second), Known: []why.Runner{
		{ID: 1, Description: `<script>x</script>`, Type: "instance_type", Tags: []string{"gpu", "linux"}, DetailsRead: true, Available: true},
		{ID: 2, Description: "two", Type: "group_type", Owner: "acme", Tags: []string{"docker"}, DetailsRead: true},
	}}
	e := why.Evidence{Serves: map[int64]bool{}, Whole: true}
	if q.Job == 0 {
		e = why.Evidence{}
	}
	a.Conclude(&e, noon)
	return a, nil
}

func whyQuery(job string, more ...string) string {
	q := url.Values{"job": {job}}
	for i := 0; i+1 < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	return "?" + q.Encode()
}

// TestWhyPageShowsVerdictAndClasses: what is asked, the verdict, the tag that is misspelt, the classes.
func TestWhyPageShowsVerdictAndClasses(t *testing.T) {
	w := healthy()
	p := asked(w, Options{Prefix: "/x"}, explained)
	res := get(t, p.ServeWhy, "/fleet/why"+whyQuery("https://corp.example.com/g/p/-/jobs/7"))
	html := res.Body.String()
	has(t, text(html),
		"None of the registered runners that are known here can take it",
		"No runner that is known here has the tag gpuu. Is gpu meant?",
		"Job #7 of g/p, Pending since 11:51 UTC, 9 min ago. Tags: gpuu.",
		"they lack the tag gpuu", "1 instance runner", "1 group runner of acme", "list of runners read 30 s ago",
	)
	has(t, html, `href="https://corp.example.com/g/p/-/jobs/7"`, `href="/x/fleet/runner?gitlab=corp&amp;id=1"`, `href="/x/api/v1/why?job=`, `value="https://corp.example.com/g/p/-/jobs/7"`)
	if strings.Contains(html, "<script>") || res.Code != http.StatusOK || !strings.Contains(res.Header().Get("Content-Security-Policy"), "form-action 'self'") || res.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", res.Code, res.Header())
	}
	form := get(t, p.ServeWhy, "/fleet/why")
	if form.Code != http.StatusOK || !strings.Contains(form.Body.String(), `<form action="/x/fleet/why"`) {
		t.Errorf("the form: %d", form.Code)
	}
	tags := text(get(t, p.ServeWhy, "/fleet/why?gitlab=corp&tags=linux,gpu").Body.String())
	has(t, tags, "A job with these tags. Tags: linux, gpu.", "1 available runner with room could take it")
	untagged := text(get(t, p.ServeWhy, "/fleet/why?tags=(untagged)").Body.String())
	has(t, untagged, "Tags: none.", "they take no jobs without tags")
}

// TestWhyRequestsNothingElse: an address that is none of a configured GitLab's is
// never asked for, and each refusal is one that a script can read.
func TestWhyRequestsNothingElse(t *testing.T) {
	two := healthy()
	other := newBuild("other")
	other.runner(1, "x", "t")
	two.gitlabs = append(two.gitlabs, other.sum())
	calls := 0
	p := asked(two, Options{}, func(gitlab string, q why.Question) (*why.Answer, error) {
		calls++
		return explained(gitlab, q)
	})
	for query, want := range map[string]struct {
		status int
		text   string
	}{
		"": {400, "Give the address of a job"},
		whyQuery("https://evil.example.com/g/p/-/jobs/7"):                    {404, "corp at https://corp.example.com"},
		whyQuery("http://169.254.169.254/latest/meta-data/-/jobs/7"):         {404, "nothing else is requested"},
		whyQuery("https://corp.example.com.evil.org/g/p/-/jobs/7"):           {404, "nothing else"},
		whyQuery("https://root:hunter2@corp.example.com/g/p/-/jobs/7"):       {400, "holds a user or a password"},
		whyQuery("https://corp.example.com/g/..%2f..%2fadmin/p/-/jobs/7"):    {400, "looks like"},
		whyQuery("https://corp.example.com/g/p"):                             {400, "looks like"},
		whyQuery("javascript:alert(1)"):                                      {400, "looks like"},
		whyQuery("https://corp.example.com/g/p/-/jobs/7", "gitlab", "third"): {404, "no GitLab of the name"},
		whyQuery("https://corp.example.com/g/p/-/jobs/7", "token", "x"):      {400, `no parameter "token"`},
		"?tags=x": {400, "Name the GitLab"},
		"?gitlab=corp&tags=" + strings.Repeat("x,", 60): {400, "At most"},
	} {
		r := get(t, p.ServeWhyAPI, "/api/v1/why"+query)
		var body struct{ Error string }
		if err := json.Unmarshal(r.Body.Bytes(), &body); err != nil || r.Code != want.status || !strings.Contains(body.Error, want.text) || strings.Contains(body.Error, "hunter2") {
			t.Errorf("%s: %d %s", query, r.Code, r.Body)
		}
	}
	if calls != 0 {
		t.Errorf("%d of them were asked for", calls)
	}
	// Chosen by name: GitLab's own address of the job must be the one that was given.
	r := get(t, p.ServeWhyAPI, "/api/v1/why"+whyQuery("https://corp.example.com/g/p/-/jobs/7", "gitlab", "other"))
	if r.Code != http.StatusOK || calls != 1 {
		t.Errorf("known to browsers as corp.example.com: %d %s", r.Code, r.Body)
	}
	r = get(t, p.ServeWhyAPI, "/api/v1/why"+whyQuery("https://third.example.com/g/p/-/jobs/7", "gitlab", "other"))
	if r.Code != http.StatusBadRequest || !strings.Contains(r.Body.String(), "another address") {
		t.Errorf("a job of a third GitLab: %d %s", r.Code, r.Body)
	}
}

// TestWhyIsBounded: whoever reaches the page cannot use up GitLab, and a failure
// is one of its kind.
func TestWhyIsBounded(t *testing.T) {
	calls := 0
	p := asked(healthy(), Options{}, func(gitlab string, q why.Question) (*why.Answer, error) {
		calls++
		return explained(gitlab, q)
	})
	var last int
	for range 3 * whyBurst {
		r := get(t, p.ServeWhyAPI, "/api/v1/why"+whyQuery("https://corp.example.com/g/p/-/jobs/7"))
		if last = r.Code; last == http.StatusTooManyRequests && r.Header().Get("Retry-After") != "2" {
			t.Errorf("%v", r.Header())
		}
	}
	if last != http.StatusTooManyRequests || calls < whyBurst || calls > whyBurst+2 {
		t.Errorf("%d, %d calls", last, calls)
	}
	if r := get(t, p.ServeWhyAPI, "/api/v1/why?tags=x"); r.Code != http.StatusOK {
		t.Errorf("tags cost GitLab nothing: %d", r.Code)
	}
	for want, err := range map[int]error{
		http.StatusNotFound:       &why.Failure{Kind: why.Missing, Text: "gone"},
		http.StatusGatewayTimeout: &why.Failure{Kind: why.Late, Text: "late"},
		http.StatusBadGateway:     errors.New("broken"),
	} {
		p := asked(healthy(), Options{}, func(string, why.Question) (*why.Answer, error) { return nil, err })
		query := whyQuery("https://corp.example.com/g/p/-/jobs/7")
		if r := get(t, p.ServeWhy, "/fleet/why"+query); r.Code != want || !strings.Contains(r.Body.String(), err.Error()) {
			t.Errorf("%v: %d", err, r.Code)
		}
	}
}

// TestWhyAPIIsDocumented: each field has its row.
func TestWhyAPIIsDocumented(t *testing.T) {
	data, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	_, doc, _ := strings.Cut(string(data), "## Why a job waits")
	if n := undocumented(t, doc, reflect.TypeFor[Why](), ""); n < 40 {
		t.Errorf("only %d fields found", n)
	}
	p := asked(healthy(), Options{ExternalURL: "https://runners.example.com/x"}, explained)
	body := get(t, p.ServeWhyAPI, "/api/v1/why?tags=a").Body.String()
	if strings.Contains(body, "null") || !strings.Contains(body, `"example_url":"https://runners.example.com/x/fleet/runner?gitlab=corp`) {
		t.Error(body)
	}
}
