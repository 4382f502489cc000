package gitlabsim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// clients are the two ways to a world: over a socket and in process.
func clients(t *testing.T, w *World) map[string]*http.Client {
	t.Helper()
	s := httptest.NewServer(w.Handler())
	t.Cleanup(s.Close)
	c := s.Client()
	t.Cleanup(c.CloseIdleConnections)
	inner := c.Transport
	return map[string]*http.Client{
		"handler": {Transport: rewrite{strings.TrimPrefix(s.URL, "http://"), inner}},
		"process": {Transport: w.RoundTripper()},
	}
}

type rewrite struct {
	host string
	rt   http.RoundTripper
}

func (r rewrite) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.URL.Host = r.host
	return r.rt.RoundTrip(req)
}

func fetch(t *testing.T, c *http.Client, method string) (reply, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://gitlab.test/api/v4/runners/all", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("PRIVATE-TOKEN", adminToken)
	res, err := c.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(b)}, err
}

func TestFaultsAnswerAsScripted(t *testing.T) {
	w, c := newWorld(Options{Runners: 30})
	for name, client := range clients(t, w) {
		t.Run(name, func(t *testing.T) {
			first, err := fetch(t, client, "GET")
			whole := first.body
			if err != nil || !strings.HasPrefix(whole, "[") {
				t.Fatal(err, whole)
			}
			try := func(f Fault, check func(res reply, err error) bool) {
				t.Helper()
				remove := w.AddFault(f)
				res, err := fetch(t, client, "GET")
				if !check(res, err) {
					t.Errorf("%+v: %v %v", f, res, err)
				}
				remove()
				remove() // harmless
				if res, err := fetch(t, client, "GET"); err != nil || res.body != whole {
					t.Errorf("removed %+v: %v %v", f, res, err)
				}
			}
			ok := func(res reply, err error) bool { return err == nil && res.body == whole }
			try(Fault{Status: 502}, func(res reply, err error) bool {
				return err == nil && res.status == 502 && strings.Contains(res.body, "nginx") && res.header.Get("Content-Type") == "text/html"
			})
			try(Fault{Status: 503, Body: "busy", ContentType: "text/plain", RetryAfter: "7"}, func(res reply, err error) bool {
				return err == nil && res.status == 503 && res.body == "busy" && res.header.Get("Retry-After") == "7"
			})
			try(Fault{Garbage: true}, func(res reply, err error) bool {
				return err == nil && res.status == 200 && strings.HasPrefix(res.body, "<!DOCTYPE html>")
			})
			try(Fault{Drop: true}, func(_ reply, err error) bool { return err != nil })
			try(Fault{Truncate: true}, func(res reply, err error) bool {
				return errors.Is(err, io.ErrUnexpectedEOF) && res.status == 200 && res.body == whole[:len(whole)/2]
			})
			try(Fault{DateSkew: -time.Hour}, func(res reply, err error) bool {
				return err == nil && res.body == whole && res.header.Get("Date") == c.now().Add(-time.Hour).Format(http.TimeFormat)
			})
			try(Fault{Status: 500, Route: "/runners/:id"}, ok)
			try(Fault{Status: 500, Route: "POST /runners/all"}, ok)
			try(Fault{Status: 500, From: c.now().Add(time.Second)}, ok)
			try(Fault{Status: 500, Until: c.now()}, ok)
			try(Fault{Status: 500, Match: func(r *http.Request) bool { return r.URL.Query().Has("page") }}, ok)
			remove := w.AddFault(Fault{Status: 500, Times: 2, Route: "GET /runners/all"})
			defer remove()
			var statuses []int
			for range 3 {
				res, err := fetch(t, client, "GET")
				if err != nil {
					t.Fatal(err)
				}
				statuses = append(statuses, res.status)
			}
			if !slices.Equal(statuses, []int{500, 500, 200}) {
				t.Errorf("statuses %v", statuses)
			}
			res, err := fetch(t, client, "HEAD")
			if err != nil || res.body != "" || res.header.Get("X-Total") != "30" {
				t.Errorf("HEAD: %v %v", res, err)
			}
		})
	}
}

func TestFaultsKeepTheirProbability(t *testing.T) {
	w, _ := newWorld(Options{Seed: 5})
	w.AddFault(Fault{Status: 500, Probability: 0.3})
	bad := 0
	for range 1000 {
		if get(t, w, "/version").status == 500 {
			bad++
		}
	}
	if bad < 250 || bad > 350 {
		t.Errorf("%d of 1000", bad)
	}
}

// TestStaleReplicaAnswersAsOfThePast: an answer as of 10 minutes ago, whatever has changed.
func TestStaleReplicaAnswersAsOfThePast(t *testing.T) {
	w, c := newWorld(Options{})
	id := w.AddRunner(RunnerSpec{Tags: []string{"old"}})
	gone := w.AddRunner(RunnerSpec{})
	c.add(time.Minute)
	var before []string
	paths := []string{
		"/runners/all", "/runners/1", "/runners/1/managers", "/runners/2", "/runners/1/jobs", "/runners/1/jobs?status=running",
		"/runners/1/jobs?order_by=id&pagination=keyset", "/runners/all?paused=true", "/runners/all?tag_list=old", "/projects/1/jobs/1000002", "/projects/1/jobs/1000003",
	}
	w.CreateJob(JobSpec{Runner: id, Project: 1})
	job := w.CreateJob(JobSpec{Runner: id, Project: 1, Started: c.now()})
	ends := w.CreateJob(JobSpec{Runner: id, Project: 1, Finished: c.now().Add(time.Minute)})
	if gone := w.CreateJob(JobSpec{Runner: id, Project: 1}); !w.DeleteJob(gone) {
		t.Fatal("not deleted")
	}
	// Rails' clock and Redis do not lag with the database.
	fresh := regexp.MustCompile(`"(contacted_at|duration|queued_duration)":[^,]*,`)
	read := func(p string) string { return fresh.ReplaceAllString(get(t, w, p).body, "") }
	for _, p := range paths {
		before = append(before, read(p))
	}
	c.add(10 * time.Minute)
	w.Pause(id, true)
	w.SetTags(id, []string{"new"})
	w.DeleteRunner(gone)
	w.AddRunner(RunnerSpec{})
	w.AddManager(id, ManagerSpec{})
	w.CreateJob(JobSpec{Runner: id})
	w.DeleteJob(job)
	if j, _ := w.Job(ends); j.Status != "success" {
		t.Fatalf("%+v", j)
	}
	changed := 0
	for i, p := range paths {
		if read(p) != before[i] {
			changed++
		}
	}
	if changed != len(paths) {
		t.Errorf("only %d of %d answers changed", changed, len(paths))
	}
	w.AddFault(Fault{StaleBy: 10 * time.Minute})
	for i, p := range paths {
		if got := read(p); got != before[i] {
			t.Errorf("%s:\n%.900s\nwant\n%.900s", p, got, before[i])
		}
	}
}

// TestLatencyDelaysTheAnswer runs in virtual time: the answer is that of its end, and a
// context that ends sooner ends the wait.
func TestLatencyDelaysTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New(Options{Runners: 3, Token: adminToken, Latency: func(route string) time.Duration {
			if route == "GET /runners/all" {
				return 3 * time.Second
			}
			return 0
		}})
		w.AddFault(Fault{Latency: 2 * time.Second})
		start := time.Now()
		got, err := fetch(t, &http.Client{Transport: w.RoundTripper()}, "GET")
		if err != nil || time.Since(start) != 5*time.Second || got.header.Get("Date") != time.Now().UTC().Format(http.TimeFormat) {
			t.Errorf("%v after %v: %v", err, time.Since(start), got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://x/api/v4/runners/all", nil)
		start = time.Now()
		res, err := w.RoundTripper().RoundTrip(req)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			_ = res.Body.Close()
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if n := w.RequestsByStatus(); n[0] != 1 || n[200] != 1 {
			t.Errorf("statuses %v", n)
		}
	})
}

// TestBodyOfARequestGivenUpFails: a body that is read after its request was given up fails.
func TestBodyOfARequestGivenUpFails(t *testing.T) {
	w, _ := newWorld(Options{})
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://x/api/v4/version", nil)
	res, err := w.RoundTripper().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	cancel()
	if _, err := io.ReadAll(res.Body); !errors.Is(err, context.Canceled) {
		t.Errorf("read: %v", err)
	}
}

func TestLogHasEachRequestWithoutSecrets(t *testing.T) {
	w, _ := newWorld(Options{Runners: 1})
	must(t, w, "/runners/1/jobs?order_by=id")
	get(t, w, "/runners/77")
	do(t, w, "DELETE", "", "/runners?token=secret")
	log := w.Log()
	if len(log) != 3 || log[0].Path != "/api/v4/runners/1/jobs?order_by=id" || log[0].Route != "GET /runners/:id/jobs" || log[0].Status != 200 || log[1].Status != 404 {
		t.Errorf("log %+v", log)
	}
	if strings.Contains(log[2].Path, "secret") || log[2].Status != 405 {
		t.Errorf("log %+v", log[2])
	}
	if n := w.Requests(); n["GET /runners/:id/jobs"] != 1 || n["GET /runners/:id"] != 1 || len(n) != 3 {
		t.Errorf("requests %v", n)
	}
}

func TestGraphQLIsServedUnderTheRoot(t *testing.T) {
	w, _ := newWorld(Options{Root: "/git"})
	client := &http.Client{Transport: w.RoundTripper()}
	post := func(token string) (int, string) {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/git/api/graphql", strings.NewReader(`{"query":"x"}`))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	if status, _ := post(adminToken); status != http.StatusNotFound {
		t.Errorf("unmounted: %d", status)
	}
	w.SetGraphQL(func(rw http.ResponseWriter, r *http.Request, c Caller) {
		b, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(rw, "%s %v %s %d", b, c.Admin, c.Username, len(w.Truth().Runners))
	})
	if status, body := post(adminToken); status != 200 || body != `{"query":"x"} true root 0` {
		t.Errorf("%d %s", status, body)
	}
	if _, body := post("nobody"); body != `{"query":"x"} false  0` {
		t.Errorf("%s", body)
	}
}
