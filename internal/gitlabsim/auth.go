package gitlabsim

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// TokenSpec describes an access token and its user. Tokens of one Username
// belong to one user and share its rate limit (docs/gitlab-api.md 5.1).
type TokenSpec struct {
	Token     string
	Name      string
	Username  string // default: a user of its own
	Scopes    []string
	ExpiresAt time.Time // the token is refused from 00:00 UTC of this day on; zero: never
	Admin     bool
	Auditor   bool
	// Everything makes the user a maintainer of every group; Groups (with
	// their subgroups) and Projects of these. They decide GET /runners, and
	// which runners and jobs a user who is no administrator may see.
	Everything bool
	Groups     []int64
	Projects   []int64
}

type token struct {
	id      int64
	text    string
	name    string
	user    *user
	scopes  []string
	created int64
	used    int64
	expires time.Time
	revoked bool
}

// AddToken adds a token, or replaces the one of that text: what changes of
// its user applies to the user's other tokens too.
func (w *World) AddToken(s TokenSpec) {
	w.lock()
	defer w.mu.Unlock()
	w.addToken(s)
}

func (w *World) addToken(s TokenSpec) {
	if s.Username == "" {
		s.Username = "token-user-" + strconv.Itoa(len(w.tokens)+1)
	}
	i := slices.IndexFunc(w.users, func(u *user) bool { return u.username == s.Username })
	if i < 0 {
		w.addUser(s.Username, s.Username)
		i = len(w.users) - 1
	}
	u := w.users[i]
	u.admin, u.auditor, u.all = s.Admin, s.Auditor, s.Everything
	u.groups, u.projects = nil, nil
	for _, id := range s.Groups {
		if g := w.group(id); g != nil {
			u.groups = append(u.groups, g)
		}
	}
	for _, id := range s.Projects {
		if p := w.project(id); p != nil {
			u.projects = append(u.projects, p)
		}
	}
	w.lastToken++
	w.tokens[s.Token] = &token{
		id: w.lastToken, text: s.Token, name: s.Name, user: u, scopes: slices.Clone(s.Scopes), created: w.now, expires: s.ExpiresAt,
	}
}

// RevokeToken revokes a token.
func (w *World) RevokeToken(text string) bool {
	w.lock()
	defer w.mu.Unlock()
	t := w.tokens[text]
	if t != nil {
		t.revoked = true
	}
	return t != nil
}

// authenticate finds the caller (docs/gitlab-api.md 5.3). No token at all is a failure
// too: nothing here is public.
func (w *World) authenticate(r *http.Request) (*token, *failure) {
	text := r.Header.Get("PRIVATE-TOKEN")
	if text == "" {
		var bearer bool
		text, bearer = strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !bearer {
			text = ""
		}
	}
	t := w.tokens[text]
	switch {
	case t == nil:
		return nil, message(http.StatusUnauthorized, "401 Unauthorized")
	case t.revoked:
		return nil, invalidToken("Token was revoked. You have to re-authorize from the user.")
	case !t.expires.IsZero() && w.now >= t.expires.UTC().Truncate(24*time.Hour).UnixMilli():
		return nil, invalidToken("Token is expired. You can either do re-authorization or token refresh.")
	}
	t.used = w.now
	return t, nil
}

func invalidToken(text string) *failure {
	b := kStr([]byte{'{'}, "error", "invalid_token")
	return &failure{http.StatusUnauthorized, append(kStr(b, "error_description", text), '}')}
}

func (w *World) effectiveAdmin(t *token) bool {
	return t.user.admin && (!w.opt.AdminMode || slices.Contains(t.scopes, "admin_mode"))
}

// checkScope is API guard's list for a route (docs/gitlab-api.md 5.2).
func (c *call) checkScope() *failure {
	need := []string{"api", "read_api"}
	switch {
	case strings.HasPrefix(c.route.path, "/runners/:id") && c.w.f.managers:
		need = append(need, "manage_runner")
	case c.route.path == "/user":
		need = append(need, "read_user")
	case c.route.path == "/personal_access_tokens/self":
		return nil // any token may look at itself
	}
	for _, s := range c.tok.scopes {
		if slices.Contains(need, s) {
			return nil
		}
	}
	b := kStr([]byte{'{'}, "error", "insufficient_scope")
	b = kStr(b, "error_description", "The request requires higher privileges than provided by the access token.")
	b = kStr(b, "scope", strings.Join(need, " "))
	return &failure{http.StatusForbidden, append(b, '}')}
}

// throttle counts a request in its user's fixed window, as Rack::Attack does,
// writes the headers, and reports whether the limit is exceeded (docs/gitlab-api.md 5.1).
func (w *World) throttle(u *user, out http.Header) bool {
	limit := w.opt.RateLimit
	if limit <= 0 {
		return false
	}
	period := max(1, int64(w.opt.RateWindow/time.Second))
	now := w.now / 1000
	if win := now / period; win != u.window {
		u.window, u.requests = win, 0
	}
	u.requests++
	over := u.requests > limit
	if !over && !w.f.rateHeaders {
		return false
	}
	reset := (now/period + 1) * period
	// Limit is normalised to 60 s, the others are not: a trap of GitLab's.
	out.Set("RateLimit-Name", "throttle_authenticated_api")
	out.Set("RateLimit-Limit", strconv.FormatInt((int64(limit)*60+period-1)/period, 10))
	out.Set("RateLimit-Observed", strconv.Itoa(u.requests))
	out.Set("RateLimit-Remaining", strconv.Itoa(max(0, limit-u.requests)))
	out.Set("RateLimit-Reset", strconv.FormatInt(reset, 10))
	out.Set("RateLimit-ResetTime", time.Unix(reset, 0).UTC().Format(http.TimeFormat))
	if over {
		out.Set("Retry-After", strconv.FormatInt(reset-now, 10))
	}
	return over
}

func (u *user) maintainsGroup(g *group) bool {
	return u.all || slices.ContainsFunc(u.groups, g.under)
}

func (u *user) maintains(p *project) bool {
	return u.all || slices.Contains(u.projects, p) || u.maintainsGroup(p.group)
}

// available is GET /runners: group and project runners of the user's own,
// never instance runners, for administrators too (docs/gitlab-api.md 1.1).
func (u *user) available(r *runner) bool {
	switch r.typ {
	case instanceType:
	case groupType:
		return u.maintainsGroup(r.group)
	case projectType:
		return slices.ContainsFunc(r.projects, u.maintains)
	}
	return false
}

// owns: may change the runner, and read its jobs.
func (c *call) owns(r *runner) bool { return c.admin || c.tok.user.available(r) }

// readsAll: an administrator, or an auditor where the release lets one.
func (c *call) readsAll() bool { return c.admin || c.tok.user.auditor && c.w.f.created }

// Caller is the user of a GraphQL request.
type Caller struct {
	Known    bool // a valid token with api or read_api
	Admin    bool
	UserID   int64
	Username string
}

func (w *World) caller(t *token) Caller {
	if t == nil || !slices.Contains(t.scopes, "api") && !slices.Contains(t.scopes, "read_api") {
		return Caller{}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// Without Admin Mode: GraphQL does not require its scope (docs/gitlab-api.md 12).
	return Caller{Known: true, Admin: t.user.admin, UserID: t.user.id, Username: t.user.username}
}
