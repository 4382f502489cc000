package gitlab

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Error is a reading that failed. Nothing in it holds a token, the userinfo of
// the URL or a query string: it goes to logs and pages as it is.
type Error struct {
	Reason    Reason
	Route     Route
	Status    int    // 0: no HTTP answer
	Message   string // GitLab's own words or the transport's, cleaned and cut
	RequestID string // X-Request-Id, by which GitLab's own logs know the request
	Err       error  // the cause where there is one; secrets removed

	retryable  bool
	retryAfter time.Duration
	slow       bool // GraphQL: a smaller page may be answered
}

// Error is a text for users.
func (e *Error) Error() string {
	var b strings.Builder
	switch e.Route {
	case "":
		b.WriteString("read") // an error about more than one request
	case RouteGraphQL:
		b.WriteString("query " + string(e.Route))
	default:
		b.WriteString("get " + string(e.Route))
	}
	b.WriteString(": " + string(e.Reason))
	if e.Status != 0 {
		fmt.Fprintf(&b, " (HTTP %d)", e.Status)
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	if e.RequestID != "" {
		b.WriteString(" [request " + e.RequestID + "]")
	}
	return b.String()
}

// Unwrap gives the cause, so that errors.Is finds a context's end.
func (e *Error) Unwrap() error { return e.Err }

// ReasonOf classifies any error a reading returned; "" for nil. An error that
// did not come from here is a canceled or timed-out context, else connection.
func ReasonOf(err error) Reason {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	switch {
	case errors.Is(err, context.Canceled):
		return ReasonCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return ReasonTimeout
	}
	return ReasonConnection
}

// Bounds of the texts that are taken over from an answer.
const (
	maxMessage   = 200
	maxRequestID = 64
	maxErrorBody = 64 << 10
)

// statusReason classifies an answer that is not 200.
func statusReason(status int) (r Reason, retryable bool) {
	switch {
	case status == http.StatusUnauthorized:
		return ReasonUnauthorized, false
	case status == http.StatusForbidden:
		return ReasonForbidden, false
	case status == http.StatusNotFound:
		return ReasonNotFound, false
	case status == http.StatusRequestTimeout:
		return ReasonTimeout, true
	case status == http.StatusTooManyRequests:
		return ReasonRateLimited, true
	case status >= 500:
		switch status {
		case 500, 502, 503, 504,
			520, 521, 522, 523, 524: // Cloudflare before GitLab.com: its origin did not answer
			return ReasonServerError, true
		}
		return ReasonServerError, false
	case status >= 400:
		return ReasonBadRequest, false
	case status >= 300:
		return ReasonRedirect, false
	}
	return ReasonDecode, false // a 2xx other than 200 carries no answer to a reading
}

// transportReason classifies an error without an answer, or one met while the
// body was read. ctx is the caller's: its end is not the server's fault.
func transportReason(ctx context.Context, err error) (r Reason, retryable bool) {
	if ctxErr := ctx.Err(); ctxErr != nil {
		if errors.Is(ctxErr, context.Canceled) {
			return ReasonCanceled, false
		}
		return ReasonTimeout, false
	}
	if isA[tooLarge](err) {
		return ReasonTooLarge, false
	}
	if isTLS(err) {
		return ReasonTLS, false
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		// The transport reads the token from its file before each request: it
		// has none to show. Asking GitLab again would not help.
		return ReasonUnauthorized, false
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return ReasonTimeout, true
	}
	if errors.Is(err, context.Canceled) {
		return ReasonCanceled, false
	}
	return ReasonConnection, true
}

// isTLS reports failures that a repetition cannot change: a certificate, a
// refused handshake, or plain HTTP on either side.
func isTLS(err error) bool {
	if errors.Is(err, http.ErrSchemeMismatch) {
		return true
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && (op.Op == "remote error" || op.Op == "local error") {
		return true // a TLS alert
	}
	return isA[*tls.CertificateVerificationError](err) || isA[tls.RecordHeaderError](err) ||
		isA[x509.UnknownAuthorityError](err) || isA[x509.HostnameError](err) ||
		isA[x509.CertificateInvalidError](err) || isA[x509.SystemRootsError](err)
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// withoutURL strips Go's url.Error, which prints the whole URL with its query.
func withoutURL(err error) error {
	for {
		u, ok := errors.AsType[*url.Error](err)
		if !ok {
			return err
		}
		err = u.Err
	}
}

// body texts ----------------------------------------------------------------

// bodyMessage finds GitLab's own words in an error body: one of its two JSON
// shapes, a plain text, or the title of a proxy's HTML page (docs/gitlab-api.md 5.3).
func bodyMessage(body []byte) string {
	body = bytes.TrimSpace(body)
	if len(body) == 0 {
		return ""
	}
	if body[0] == '<' {
		return htmlTitle(string(body))
	}
	var v any
	if json.Unmarshal(body, &v) != nil {
		return string(body)
	}
	m, ok := v.(map[string]any)
	if !ok {
		return flatten(v, 0)
	}
	text := flatten(m["message"], 0)
	if e := flatten(m["error"], 0); e != "" && e != text {
		text = join(": ", e, text)
	}
	text = join(": ", text, flatten(m["error_description"], 0))
	if scope := flatten(m["scope"], 0); scope != "" {
		text += " (scope: " + scope + ")"
	}
	if text == "" && m["errors"] != nil {
		return graphqlMessages(m["errors"])
	}
	if text == "" {
		return flatten(m, 0)
	}
	return text
}

func join(sep, a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + sep + b
}

// flatten writes a message that is an object or an array as one line.
func flatten(v any, depth int) string {
	if depth > 4 {
		return ""
	}
	text := ""
	switch v := v.(type) {
	case nil:
	case string:
		text = v
	case []any:
		for _, e := range v {
			text = join("; ", text, flatten(e, depth+1))
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			text = join("; ", text, join(": ", k, flatten(v[k], depth+1)))
		}
	default:
		text = fmt.Sprint(v)
	}
	return text
}

// htmlTitle is all that is worth keeping of an HTML page.
func htmlTitle(page string) string {
	lower := strings.ToLower(page)
	if len(lower) != len(page) {
		return "an HTML page" // lowering moved the offsets
	}
	start := strings.Index(lower, "<title")
	if start < 0 {
		return "an HTML page"
	}
	open := strings.IndexByte(lower[start:], '>')
	end := strings.Index(lower[start:], "</title")
	if open < 0 || end < open {
		return "an HTML page"
	}
	return html.UnescapeString(page[start+open+1 : start+end])
}

// cleaning --------------------------------------------------------------------

// clean makes a foreign text fit for one line of a log: valid UTF-8, no
// control or formatting characters, single spaces, at most limit bytes.
func clean(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	s = strings.Join(strings.Fields(s), " ")
	if len(s) <= limit {
		return s
	}
	const dots = "…"
	return strings.ToValidUTF8(s[:limit-len(dots)], "") + dots
}

// requestID keeps what an X-Request-Id may be made of. It is scrubbed before,
// and after, for what is left may make a secret that was not there before.
func requestID(id string, scrub func(string) string) string {
	id = strings.Map(func(r rune) rune {
		if r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-_.:", r)) {
			return r
		}
		return -1
	}, scrub(id))
	id = scrub(id)
	return id[:min(len(id), maxRequestID)]
}

// The forms in which a secret may stand in a text that is not ours.
var (
	urlUserinfo = regexp.MustCompile(`://[^/\s"'<>]*@`)
	urlQuery    = regexp.MustCompile(`(?i)((?:https?:/|/api/)[^\s"'<>?]*)\?[^\s"'<>]*`)
	namedSecret = regexp.MustCompile(`(?i)\b([a-z_-]*(?:token|password|secret))=[^&\s"'<>]+`)
	gitlabToken = regexp.MustCompile(`\bgl[a-z]{1,9}-[\w.=-]{8,}`)
)

const masked = "***"

// scrubLooks removes what looks like a secret: somebody else's, for the known
// ones are masked before (Options.Scrub).
func scrubLooks(s string) string {
	s = urlUserinfo.ReplaceAllString(s, "://")
	s = urlQuery.ReplaceAllString(s, "$1")
	s = namedSecret.ReplaceAllString(s, "$1="+masked)
	return gitlabToken.ReplaceAllString(s, masked)
}

// drain reads a bounded rest of a body, since a connection is only reused
// after its answer was read to the end.
func drain(body io.Reader) {
	_, _ = io.CopyN(io.Discard, body, maxErrorBody)
}
