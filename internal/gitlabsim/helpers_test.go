package gitlabsim

import (
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"
)

// clock is a clock that a test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

const (
	adminToken = "admin-token"
	apiToken   = "api-token" // an administrator's with the scope api
)

func newWorld(o Options) (*World, *clock) {
	c := &clock{t: noon}
	o.Now = c.now
	o.Token = adminToken
	w := New(o)
	w.AddToken(TokenSpec{Token: apiToken, Username: "boss", Admin: true, Everything: true, Scopes: []string{"api"}})
	return w, c
}

type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) rows(t *testing.T) []map[string]any {
	t.Helper()
	var v []map[string]any
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		t.Fatalf("%v in %d %s", err, r.status, r.body)
	}
	return v
}

func (r reply) object(t *testing.T) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		t.Fatalf("%v in %d %s", err, r.status, r.body)
	}
	return v
}

func (r reply) want(t *testing.T, status int) {
	t.Helper()
	if r.status != status {
		t.Errorf("status %d, want %d: %s", r.status, status, r.body)
	}
}

func ids(rows []map[string]any) []int64 {
	var l []int64
	for _, r := range rows {
		l = append(l, int64(r["id"].(float64)))
	}
	return l
}

func do(t *testing.T, w *World, method, token, path string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://called.example:8080"+w.opt.Root+"/api/v4"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("PRIVATE-TOKEN", token)
	}
	res, err := w.RoundTripper().RoundTrip(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return reply{res.StatusCode, res.Header, string(b)}
}

func get(t *testing.T, w *World, path string) reply {
	t.Helper()
	return do(t, w, http.MethodGet, adminToken, path)
}

// must is get of something that has to be there.
func must(t *testing.T, w *World, path string) reply {
	t.Helper()
	r := get(t, w, path)
	if r.status != http.StatusOK {
		t.Fatalf("GET %s: %d %s", path, r.status, r.body)
	}
	return r
}
