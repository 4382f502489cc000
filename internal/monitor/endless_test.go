package monitor

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/test/rig"
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
	l := &lister{opts: &Options{}, client: func() *gitlab.Client {
		return client.For(budget.New(budget.Options{Concurrency: 1}).Gate(budget.Listing))
	}}
	b := l.newBound(gitlab.RouteAllRunners, 1)
	pages, err := l.listPages(t.Context(), gitlab.Scope{Kind: snapshot.ScopeInstance}, nil, b)
	if b.end(); l.held.Load() != 0 {
		t.Errorf("%d bytes are held after the listing", l.held.Load())
	}
	return pages, err
}

// A list that never ends because each page is the same fails soon.
func TestListThatRepeatsItselfFailsSoon(t *testing.T) {
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

// endlessList answers for the list of runners, by REST or GraphQL, once it is
// on, and always names a next page.
type endlessList struct {
	http.RoundTripper

	graphql bool
	pause   time.Duration
	id      func(page, row int) int
	on      *atomic.Bool
	asked   *atomic.Int64
}

func (e endlessList) RoundTrip(r *http.Request) (*http.Response, error) {
	rest := strings.HasSuffix(r.URL.Path, "/runners/all") && r.URL.Query().Get("per_page") == "100"
	if !e.on.Load() || rest == e.graphql || !rest && r.Method != http.MethodPost {
		return e.RoundTripper.RoundTrip(r)
	}
	e.asked.Add(1)
	time.Sleep(e.pause)
	h := http.Header{"Date": {time.Now().UTC().Format(http.TimeFormat)}, "Content-Type": {"application/json"}}
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	if e.graphql {
		var in struct {
			Variables struct {
				After string `json:"after"`
			} `json:"variables"`
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			return nil, err
		}
		page, _ = strconv.Atoi(in.Variables.After)
		page++
	}
	rows, description := 10, ""
	if e.pause == 0 { // long rows reach the bound of memory on fewer pages, where those are expensive
		rows, description = 100, strings.Repeat("d", rig.Sized(0, 1000))
	}
	var b strings.Builder
	for row := range rows {
		if e.graphql {
			fmt.Fprintf(&b, `,{"id":"gid://gitlab/Ci::Runner/%d","description":%q,"runnerType":"INSTANCE_TYPE","status":"ONLINE","paused":false,"jobExecutionStatus":"IDLE","executing":0,"tagList":["a"],"runUntagged":true,"accessLevel":"NOT_PROTECTED","contactedAt":null,"ownerProject":null,"groups":{"nodes":[]},"managers":{"pageInfo":{"hasNextPage":false},"nodes":[]}}`, e.id(page, row), description)
		} else {
			fmt.Fprintf(&b, `,{"id":%d,"description":%q,"runner_type":"instance_type","status":"online","online":true,"paused":false}`, e.id(page, row), description)
		}
	}
	body := "[" + b.String()[1:] + "]"
	if e.graphql {
		body = fmt.Sprintf(`{"data":{"runners":{"pageInfo":{"hasNextPage":true,"endCursor":"%d"},"nodes":%s}}}`, page, body)
	} else {
		h.Set("X-Page", strconv.Itoa(page))
		h.Set("X-Next-Page", strconv.Itoa(page+1))
	}
	return &http.Response{StatusCode: http.StatusOK, Request: r, Header: h, Body: io.NopCloser(strings.NewReader(body))}, nil
}

// Every listing ends, with an error that names what was wrong: up is 0, nobody
// leaves or joins by it, and with the first good one all is well.
func TestEveryListingEnds(t *testing.T) {
	t.Parallel()
	fresh := func(page, row int) int { return 1000 + 100*page + row }
	for name, c := range map[string]struct {
		list   endlessList
		text   string
		reason string
		most   int64 // requests a listing
	}{
		"REST, fresh ids":             {endlessList{id: fresh}, "the list of runners does not end, or is too long", "too_large", 4500},
		"REST, fresh ids, slowly":     {endlessList{id: fresh, pause: time.Second}, "was not read to its end within 10m0s", "timeout", 620},
		"REST, the same page":         {endlessList{id: func(_, row int) int { return row + 1 }}, "page 2 brings no runner", "decode", 2},
		"REST, three pages in a ring": {endlessList{id: func(page, row int) int { return 1 + 100*(page%3) + row }}, "page 4 brings no runner", "decode", 4},
		"GraphQL, fresh ids":          {endlessList{graphql: true, id: fresh}, "the list of runners does not end, or is too long", "too_large", 1500},
		"GraphQL, the same rows under new cursors": {
			endlessList{graphql: true, id: func(_, row int) int { return row + 1 }}, "page 2 brings no runner", "decode", 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				world := gitlabsim.New(gitlabsim.Options{Seed: 4, Runners: 50, Tags: 10, Token: secret})
				var on atomic.Bool
				var asked atomic.Int64
				o := setup{api: snapshot.APIREST, wrap: func(t http.RoundTripper) http.RoundTripper {
					c.list.RoundTripper, c.list.on, c.list.asked = t, &on, &asked
					return c.list
				}}
				if c.list.graphql {
					mount(t, world)
					o.api = snapshot.APIGraphQL
				}
				var out lines
				o.logger = out.logger()
				s := newScraper()
				_, state := openState(t, "")
				r := start(t, world, state, s, o)
				time.Sleep(2*time.Minute + 30*time.Second)
				if g := s.scrape(); !g.Up || len(g.Fleet.Rows) != 50 {
					t.Fatalf("at first: up %t", g.Up)
				}
				on.Store(true)
				time.Sleep(3 * time.Minute)
				if c.list.pause > 0 {
					for range 120 {
						time.Sleep(5 * time.Second)
						if g := s.scrape(); g.Up && g.Fleet == nil {
							t.Fatal("the gauges are withdrawn, and up is 1")
						}
					}
				}
				g := s.scrape()
				if g.Up {
					t.Error("up is 1")
				}
				if c.list.pause == 0 && (g.Fleet == nil || len(g.Fleet.Rows) != 50) || r.known() != 50 {
					t.Errorf("runners joined or left: %d", r.known())
				}
				logged := out.with("level=error")
				if len(logged) != 1 || !strings.Contains(logged[0], c.text) || !strings.Contains(logged[0], "reason="+c.reason) {
					t.Errorf("logged: %s", strings.Join(logged, ""))
				}
				failed := int64(s.counted("failure runners " + c.reason))
				if n := asked.Load(); failed == 0 || n > (failed+1)*c.most {
					t.Errorf("%d requests for %d listings that failed", n, failed)
				}
				on.Store(false)
				time.Sleep(12 * time.Minute)
				if g := s.scrape(); !g.Up || len(g.Fleet.Rows) != 50 || r.m.listings.lister.held.Load() != 0 {
					t.Errorf("then: up %t, %d bytes held", g.Up, r.m.listings.lister.held.Load())
				}
				r.end(t)
			})
		})
	}
}
