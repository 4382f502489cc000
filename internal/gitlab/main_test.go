package gitlab

import (
	"context"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a GitLab made of one handler and a client on it. change may
// alter the options.
func serve(t *testing.T, h http.HandlerFunc, change ...func(*Options)) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	hc := srv.Client()
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	o := Options{BaseURL: srv.URL, HTTPClient: hc}
	for _, f := range change {
		f(&o)
	}
	return newClient(t, o)
}

// impatient is the context of a caller who waits for no second attempt.
type impatient struct{ context.Context }

// Deadline is always near, and never comes.
func (impatient) Deadline() (time.Time, bool) { return time.Now().Add(minBackoff / 2), true }

func newClient(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// answers gives the same body to every request.
func answers(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }
}

func sample(tb testing.TB, name string) string {
	tb.Helper()
	b, err := fs.ReadFile(os.DirFS("testdata"), name)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}
