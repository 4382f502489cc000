package monitor

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/gitlab"
)

// pager answers each page with the rows that ids gives, and always names a
// next one.
type pager struct{ ids func(page int) []int }

func (p pager) RoundTrip(r *http.Request) (*http.Response, error) {
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	var rows []string
	for _, id := range p.ids(page) {
		rows = append(rows, fmt.Sprintf(`{"id":%d,"runner_type":"instance_type","status":"online","online":true,"paused":false}`, id))
	}
	return &http.Response{
		StatusCode: http.StatusOK, Request: r, Body: io.NopCloser(strings.NewReader("[" + strings.Join(rows, ",") + "]")),
		Header: http.Header{"X-Next-Page": {strconv.Itoa(page + 1)}, "X-Page": {strconv.Itoa(page)}},
	}, nil
}

func pagesOf(t *testing.T, ids func(page int) []int) ([]gitlab.RunnersPage, error) {
	t.Helper()
	client, err := gitlab.New(gitlab.Options{BaseURL: "http://gitlab.test", HTTPClient: &http.Client{Transport: pager{ids}}})
	if err != nil {
		t.Fatal(err)
	}
	m := &Monitor{deps: Deps{Client: client, Budget: budget.New(budget.Options{Concurrency: 1})}}
	b := m.newBound(gitlab.RouteAllRunners, 1)
	pages, err := m.listPages(t.Context(), gitlab.Scope{Kind: gitlab.ScopeInstance}, b)
	if b.end(); m.listing.Load() != 0 {
		t.Errorf("%d bytes are held after the listing", m.listing.Load())
	}
	return pages, err
}

// A list that never ends because each page is the same fails soon.
func TestListThatRepeatsItself(t *testing.T) {
	pages, err := pagesOf(t, func(int) []int { return []int{7, 8, 9} })
	if gitlab.ReasonOf(err) != gitlab.ReasonDecode || len(pages) > 0 || !strings.HasPrefix(err.Error(), "get /runners/all: decode: ") {
		t.Errorf("%d pages, %v", len(pages), err)
	}
	// Rows that shift while pages are read repeat some: that is no such list.
	pages, err = pagesOf(t, func(page int) []int {
		if page > 20 {
			return nil
		}
		return []int{page, page + 1, page + 2}
	})
	if err != nil || len(pages) < 20 {
		t.Errorf("%d pages, %v", len(pages), err)
	}
}
