package gitlab

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// perPage is the most rows GitLab gives in one answer (docs/gitlab-api.md 2).
const perPage = 100

// linkTarget returns the target of the first link with the given relation, or
// "". It reads RFC 8288 by hand: a comma or a semicolon inside <> or inside
// quotes separates nothing, and one link may have several relations.
func linkTarget(headers []string, rel string) string {
	for _, s := range headers {
		for {
			open := strings.IndexByte(s, '<')
			if open < 0 {
				break
			}
			s = s[open+1:]
			end := strings.IndexByte(s, '>')
			if end < 0 {
				break
			}
			target := s[:end]
			var rels string
			rels, s = linkRels(s[end+1:])
			for r := range strings.FieldsSeq(rels) {
				if strings.EqualFold(r, rel) {
					return target
				}
			}
		}
	}
	return ""
}

// linkRels reads one link's parameters up to the comma that ends it and
// returns the value of its first rel, and what follows the comma.
func linkRels(s string) (rels, rest string) {
	seen := false
	for s != "" {
		if s[0] == ',' {
			return rels, s[1:]
		}
		if s[0] != ';' {
			s = s[1:]
			continue
		}
		s = strings.TrimLeft(s[1:], " \t")
		stop := strings.IndexAny(s, "=;,")
		if stop < 0 {
			return rels, ""
		}
		name := strings.TrimSpace(s[:stop])
		if s[stop] != '=' {
			s = s[stop:]
			continue
		}
		var value string
		value, s = linkValue(strings.TrimLeft(s[stop+1:], " \t"))
		if !seen && strings.EqualFold(name, "rel") {
			rels, seen = value, true
		}
	}
	return rels, ""
}

// linkValue reads a parameter's value, quoted or not, and returns what follows.
func linkValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		if stop := strings.IndexAny(s, ";,"); stop >= 0 {
			return strings.TrimSpace(s[:stop]), s[stop:]
		}
		return strings.TrimSpace(s), ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}

// linkParam is one query parameter of the link to the next page. Only the
// parameter is used, never the link: GitLab builds it with the host it was
// configured with, and a link to a foreign host must not receive the token.
func linkParam(h http.Header, param string) string {
	target := linkTarget(h.Values("Link"), "next")
	if target == "" {
		return ""
	}
	u, err := url.Parse(target)
	if err != nil {
		return ""
	}
	return u.Query().Get(param)
}

// nextPage is the number of the page after current, 0 for none, or an error text
// where the answer points elsewhere than to the page after it. Taken for an end,
// or followed forward, such an answer would make a partial listing look complete;
// followed back, it would never end.
func nextPage(h http.Header, current, rows, asked int) (next int, problem string) {
	if n, err := strconv.Atoi(h.Get("X-Page")); err == nil && n != current {
		return 0, "the answer is page " + strconv.Itoa(n) + ", page " + strconv.Itoa(current) + " was asked for"
	}
	if rows == 0 {
		return 0, "" // beyond the end, whatever is in the headers
	}
	named := ""
	if v := h.Values("X-Next-Page"); len(v) > 0 {
		if named = strings.TrimSpace(v[0]); named == "" {
			return 0, ""
		}
	} else if len(h.Values("Link")) > 0 {
		if linkTarget(h.Values("Link"), "next") == "" {
			return 0, ""
		}
		named = linkParam(h, "page")
	}
	if n, err := strconv.Atoi(named); err == nil {
		if n != current+1 {
			return 0, "the answer names page " + strconv.Itoa(n) + " as the one after page " + strconv.Itoa(current)
		}
		return n, ""
	}
	// A proxy dropped the headers or garbled them: a full page, of as many rows as
	// were asked for, may have a successor.
	if rows >= asked {
		return current + 1, ""
	}
	return 0, ""
}

// nextCursor is the cursor of the next page of a keyset answer. Newer releases
// give it in a header too (docs/gitlab-api.md 2).
func nextCursor(h http.Header, current string, rows int) (cursor, problem string) {
	if rows == 0 {
		return "", ""
	}
	cursor = linkParam(h, "cursor")
	for _, name := range []string{"X-Next-Cursor", "Next-Cursor"} {
		if cursor == "" {
			cursor = h.Get(name)
		}
	}
	switch {
	case cursor == "" && linkTarget(h.Values("Link"), "next") != "":
		return "", "the answer names a next page without a cursor"
	case len(cursor) > maxCursor:
		return "", "the cursor of the next page is longer than " + strconv.Itoa(maxCursor) + " bytes"
	case cursor != "" && cursor == current:
		return "", "the answer names the page it gave as the next one"
	}
	return cursor, ""
}

// answeredByNumber reports whether the server ignored pagination=keyset, as
// releases do that cannot: only answers by number carry these headers.
func answeredByNumber(h http.Header) bool {
	return len(h.Values("X-Page")) > 0 || len(h.Values("X-Next-Page")) > 0
}

// total is X-Total, or -1 where GitLab withholds it.
func total(h http.Header) int {
	n, err := strconv.Atoi(h.Get("X-Total"))
	if err != nil || n < 0 {
		return -1
	}
	return n
}
