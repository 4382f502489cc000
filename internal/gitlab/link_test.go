package gitlab

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestLinkTargetIsFound(t *testing.T) {
	for _, c := range []struct {
		name   string
		header []string
		want   string
	}{
		{"as GitLab writes it", []string{`<https://h/a?page=1>; rel="prev", <https://h/a?page=3>; rel="next", <https://h/a?page=1>; rel="first"`}, "https://h/a?page=3"},
		{"none", nil, ""},
		{"no next", []string{`<https://h/a?page=1>; rel="first"`}, ""},
		{"comma and semicolon in the target", []string{`<https://h/a?tag_list=x,y;z&page=1>; rel=prev, <https://h/a?t=x,y&page=3>; rel=next`}, "https://h/a?t=x,y&page=3"},
		{"comma and > in a quoted value", []string{`<u1>; title="a, <b>; rel=\"next\""; rel=prev, <u2>; rel=next`}, "u2"},
		{"escaped quote", []string{`<u1>; title="a\"; rel=next; x=\"b"; rel=prev, <u2>; rel=next`}, "u2"},
		{"several relations", []string{`<u1>; rel="last next"`}, "u1"},
		{"any case, blanks", []string{`<u1> ;  REL = "NEXT"`}, "u1"},
		{"only the first rel counts", []string{`<u1>; rel=prev; rel=next, <u2>; rel=next`}, "u2"},
		{"two header lines", []string{`<u1>; rel=first`, `<u2>; rel=next`}, "u2"},
		{"parameter without a value", []string{`<u1>; crossorigin; rel=next`}, "u1"},
		{"a relation that only contains the word", []string{`<u1>; rel="nextish"`}, ""},
		{"unclosed target", []string{`<u1; rel=next`}, ""},
		{"unclosed quote", []string{`<u1>; rel="next`}, "u1"},
		{"parameter of another name", []string{`<u1>; xrel=next`}, ""},
	} {
		if got := linkTarget(c.header, "next"); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestNextPageIsFound(t *testing.T) {
	link := func(s string) http.Header { return http.Header{"Link": {s}} }
	next := func(s string) http.Header { return http.Header{"X-Next-Page": {s}} }
	for _, c := range []struct {
		name          string
		header        http.Header
		current, rows int
		want          int
		problem       bool
		asked         int // 0: 100
	}{
		{"named", next("3"), 2, 100, 3, false, 0},
		{"named, short page", next("3"), 2, 20, 3, false, 0}, // a server may clamp per_page
		{"empty header: the end, even of a full page", next(""), 2, 100, 0, false, 0},
		{"empty page: the end, whatever is in the header", next("3"), 2, 0, 0, false, 0},
		{"points at itself", next("2"), 2, 100, 0, true, 0},
		{"points back", next("1"), 2, 100, 0, true, 0},
		{"skips pages", next("4"), 2, 100, 0, true, 0},
		{"is another page than was asked for", http.Header{"X-Page": {"1"}, "X-Next-Page": {"3"}}, 2, 100, 0, true, 0},
		{"is another page, the last", http.Header{"X-Page": {"1"}, "X-Next-Page": {""}}, 2, 100, 0, true, 0},
		{"an empty page of another number", http.Header{"X-Page": {"1"}}, 2, 0, 0, true, 0},
		{"garbled: a full page goes on", next("x"), 2, 100, 3, false, 0},
		{"garbled: a short page ends", next("x"), 2, 99, 0, false, 0},
		{"from Link", link(`<https://elsewhere/x?page=3&per_page=100>; rel="next"`), 2, 100, 3, false, 0},
		{"Link without next", link(`<https://h/x?page=1>; rel="first"`), 2, 100, 0, false, 0},
		{"Link back", link(`<https://h/x?page=1>; rel="next"`), 2, 100, 0, true, 0},
		{"Link without a page", link(`<https://h/x>; rel="next"`), 2, 100, 3, false, 0},
		{"Link that is no URL", link(`<:%zz>; rel="next"`), 2, 100, 3, false, 0},
		{"no headers, full page", nil, 2, 100, 3, false, 0},
		{"no headers, short page", nil, 2, 99, 0, false, 0},
		{"no headers, as many as were asked for", nil, 1, 20, 2, false, 20},
		{"no headers, fewer than were asked for", nil, 1, 19, 0, false, 20},
	} {
		if c.asked == 0 {
			c.asked = 100
		}
		got, problem := nextPage(c.header, c.current, c.rows, c.asked)
		if got != c.want || (problem != "") != c.problem {
			t.Errorf("%s: got %d, %q", c.name, got, problem)
		}
	}
}

func TestNextCursorIsFound(t *testing.T) {
	for _, c := range []struct {
		name    string
		header  http.Header
		current string
		rows    int
		want    string
		problem bool
	}{
		{"from Link, unescaped", http.Header{"Link": {`<https://other:8443/api/v4/x?cursor=eyJpZCI6IjIifQ%3D%3D&per_page=100>; rel="next"`}}, "", 100, "eyJpZCI6IjIifQ==", false},
		{"from the header", http.Header{"X-Next-Cursor": {"abc"}}, "", 100, "abc", false},
		{"no Link: the end", nil, "abc", 100, "", false},
		{"an empty page ends", http.Header{"X-Next-Cursor": {"abc"}}, "", 0, "", false},
		{"a next page without a cursor", http.Header{"Link": {`<https://h/x?page=2>; rel="next"`}}, "abc", 100, "", true},
		{"a cursor of 5 kB", http.Header{"X-Next-Cursor": {strings.Repeat("a", 5000)}}, "abc", 100, "", true},
		{"does not move", http.Header{"X-Next-Cursor": {"abc"}}, "abc", 100, "", true},
	} {
		got, problem := nextCursor(c.header, c.current, c.rows)
		if got != c.want || (problem != "") != c.problem {
			t.Errorf("%s: got %q, %q", c.name, got, problem)
		}
	}
}

// FuzzLink: no header makes the parser fail or run on, what it returns stood
// between < and >, and a link written by the rules is found behind any other.
func FuzzLink(f *testing.F) {
	f.Fuzz(func(t *testing.T, header, rel, param string) {
		target := linkTarget([]string{header}, rel)
		if target != "" && !strings.Contains(header, "<"+target+">") {
			t.Errorf("%q is not a target of %q", target, header)
		}
		nextPage(http.Header{"Link": {header}}, 1, 100, 100)

		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(param)
		u := "https://h/api/v4/x?page=7&x=" + url.QueryEscape(param)
		whole := fmt.Sprintf(`<https://h/?a,b;c>; rel="prev"; title="%s", <%s>; title="%s"; rel="next"`, quoted, u, quoted)
		if got := linkTarget([]string{whole}, "next"); got != u {
			t.Errorf("in %q found %q", whole, got)
		}
		if got := linkParam(http.Header{"Link": {whole}}, "x"); got != param {
			t.Errorf("parameter %q came back as %q", param, got)
		}
	})
}
