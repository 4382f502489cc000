package gitlab

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// This file decides who made an answer. A proxy without a route answers
// 404, a bot check 403, a proxy that wants a password 401, a login page 200:
// none of them is evidence about a runner, a job or the token.

// mustBeGitLab selects the answers that count only if GitLab made them. A 405 is
// JSON where GitLab makes it (5.3); a page is a gateway's, which lets only some
// methods through.
func mustBeGitLab(status int, body []byte) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return true
	case http.StatusMethodNotAllowed:
		return !json.Valid(body)
	}
	return false
}

// oauthCodes are the values of error by which GitLab refuses a token: those of
// RFC 6750, and its own.
var oauthCodes = []string{
	"invalid_token", "insufficient_scope", "invalid_request",
	"insufficient_granular_scope", "dpop_error", "restricted_language_server_client_error",
}

// isGitLab recognizes GitLab's own refusals (5.3): message or error begins with the
// status, or error is an OAuth code. Its GraphQL endpoint has errors instead.
func isGitLab(status int, body []byte, graphql bool) bool {
	var v struct {
		Message any   `json:"message"`
		Error   any   `json:"error"`
		Errors  []any `json:"errors"`
	}
	if err := json.Unmarshal(bytes.TrimSpace(body), &v); err != nil && !isA[*json.UnmarshalTypeError](err) {
		return false
	}
	digits := strconv.Itoa(status)
	if beginsWith(v.Message, digits, 0) || beginsWith(v.Error, digits, 0) {
		return true
	}
	if code, ok := v.Error.(string); ok && slices.Contains(oauthCodes, code) {
		return true
	}
	return graphql && slices.ContainsFunc(v.Errors, func(e any) bool {
		m, _ := e.(map[string]any)
		text, _ := m["message"].(string)
		return text != ""
	})
}

// beginsWith looks for the status at the start of a message, or of any part of
// one that is an object or an array.
func beginsWith(v any, digits string, depth int) bool {
	if depth > 4 {
		return false
	}
	switch v := v.(type) {
	case string:
		rest, ok := strings.CutPrefix(v, digits)
		return ok && (rest == "" || rest[0] < '0' || rest[0] > '9')
	case []any:
		return slices.ContainsFunc(v, func(e any) bool { return beginsWith(e, digits, depth+1) })
	case map[string]any:
		for _, e := range v {
			if beginsWith(e, digits, depth+1) {
				return true
			}
		}
	}
	return false
}

// foreign is the error of an answer that is not GitLab's. It is repeated, as an
// outage is; but a method that is not let through now will not be then.
func (c *Client) foreign(resp *http.Response, text string) *Error {
	what := "an answer of type " + contentType(resp)
	if strings.Contains(contentType(resp), "html") {
		what = "a page (" + contentType(resp) + ")"
	}
	if text == "" {
		text = "without a text"
	}
	message := "not GitLab's answer, something stands in between (a proxy, a login page, a bot check): " + what + ": " + text
	return &Error{
		Reason: ReasonNotGitLab, Status: resp.StatusCode, Message: c.text(message),
		Err: errNotGitLab, retryable: resp.StatusCode != http.StatusMethodNotAllowed,
	}
}

var errNotGitLab = errors.New("not GitLab's answer")

func contentType(resp *http.Response) string {
	if t := clean(resp.Header.Get("Content-Type"), 60); t != "" {
		return t
	}
	return "no Content-Type"
}

// wrongShape is the error of an answer that is not this endpoint's, with what
// can be found of its own words.
func (c *Client) wrongShape(resp *http.Response, body *cappedBody, err error) *Error {
	begun, _ := io.ReadAll(io.LimitReader(body, maxErrorBody))
	drain(resp.Body)
	if body.dec != nil {
		begun = append(slices.Clone(body.dec.UnreadBuffer()), begun...)
	}
	text := bodyMessage(begun)
	if !errors.Is(err, errNotJSON) {
		text = join(": ", err.Error(), text)
	}
	return c.foreign(resp, text)
}

// loginPath is what sign-in pages are called.
var loginPath = regexp.MustCompile(`(?i)(^|[/._-])(sign[_-]?in|log[_-]?[io]n|sso|saml2?|adfs|oauth2?|openid-connect|authorize|authn?|accounts)($|[/._-])`)

// redirectMessage names where GitLab points and what to do about it. Redirects
// are not followed by default: they cost a request each, and would carry the
// token wherever they lead.
func redirectMessage(resp *http.Response, r request, root string) string {
	to, err := resp.Location()
	if err != nil {
		return "a redirect without a target"
	}
	newRoot, isAPI := strings.CutSuffix(to.EscapedPath(), r.below())
	place := to.Host + path.Clean("/"+to.EscapedPath())
	login := !isAPI && loginPath.MatchString(place)
	switch from := resp.Request.URL; {
	case from.Scheme != to.Scheme && from.Hostname() == to.Hostname() && !login:
		if !isAPI {
			newRoot = root // the path was lost on the way
		}
		return "redirected from " + from.Scheme + " to " + to.Scheme + ": set url to " + to.Scheme + "://" + to.Host + newRoot
	case isAPI:
		return "redirected to " + to.Host + ": set url to " + (&url.URL{Scheme: to.Scheme, Host: to.Host}).String() + newRoot
	case login:
		return "redirected to " + place + ", a login page: something in front of GitLab asks for a login, or url is not GitLab's address"
	}
	return "redirected to " + place + ", which is not the API: check url"
}
