package config

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	commoncfg "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"

	"gitlab-runner-fleet-exporter/internal/bounded"
	"gitlab-runner-fleet-exporter/internal/secret"
	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Bounds of the values. They are wide: each keeps out only what cannot be meant.
const (
	minInterval       = time.Second
	maxInterval       = 365 * 24 * time.Hour
	maxRequestTimeout = 10 * time.Minute
	maxConcurrent     = 1000
	maxRate           = 100_000
	minRate           = 0.01 // a request in 100 s
	maxNameBytes      = 128
	maxTagChars       = 255 // the length of the column of a tag's name
	minSeriesLimit    = 1000
	maxSecretFile     = 64 << 10
)

func defaultPoll() Poll {
	return Poll{
		RunnersInterval:       time.Minute,
		DetailsInterval:       15 * time.Minute,
		JobsInterval:          time.Minute,
		QueueInterval:         time.Minute,
		ReconcileInterval:     time.Hour,
		Lookback:              24 * time.Hour,
		MaxRequestsPerSecond:  10,
		MaxConcurrentRequests: 8,
		RequestTimeout:        30 * time.Second,
		Staleness:             10 * time.Minute,
	}
}

func defaultMetrics() Metrics {
	return Metrics{
		RunnersEnabled: true,
		Runners:        snapshot.Matcher{Include: ".*"},
		Tags:           snapshot.Matcher{Include: ".*"},
		TagsLimit:      500,
		TagsRetention:  7 * 24 * time.Hour,
		SeriesLimit:    500_000,
	}
}

// validator collects every mistake of one configuration.
type validator struct {
	doc      *document
	errs     Errors
	warnings []string
}

func (c Config) validate(doc *document) (*Validated, error) {
	v := &validator{doc: doc, errs: doc.found}
	out := &Validated{}

	global := v.poll(defaultPoll(), "poll", c.Poll, PollConfig{})
	out.metrics, out.disableAt = v.metrics(c.Metrics)

	if len(c.GitLabs) == 0 {
		v.fail("gitlabs", "missing: at least one GitLab is needed, with its url and authorization")
	}
	names := map[string]int{}
	for i, g := range c.GitLabs {
		path := fmt.Sprintf("gitlabs[%d]", i)
		vg := v.gitlab(g, path, out.metrics)
		if shortSecret(vg.HTTPClientConfig) {
			v.warn("%s: a secret is shorter than %d bytes, which is too short to be masked where an error from outside repeats it", path, secret.Shortest)
		}
		vg.Poll = v.poll(global, path+".poll", g.Poll, c.Poll)
		if vg.Name != "" {
			if first, dup := names[vg.Name]; dup && g.Name == "" {
				v.fail(path+".name", "the name %q, made from the url, is that of gitlabs[%d] already: give each its own name", vg.Name, first)
			} else if dup {
				v.fail(path+".name", "the name %q is that of gitlabs[%d] already", vg.Name, first)
			} else {
				names[vg.Name] = i
			}
		}
		out.gitlabs = append(out.gitlabs, vg)
	}
	if len(v.errs) > 0 {
		return nil, v.errs.sorted()
	}
	out.warnings = v.warnings
	return out, nil
}

// fail reports a mistake at path, unless the strict reading has found one
// there: a key of the wrong type shall not be called missing as well.
func (v *validator) fail(path, format string, args ...any) {
	v.failErr(path, nil, format, args...)
}

func (v *validator) failErr(path string, cause error, format string, args ...any) {
	for _, e := range v.doc.found {
		if e.Path != "" && (isBelow(path, e.Path) || isBelow(e.Path, path)) {
			return
		}
	}
	v.errs = append(v.errs, v.at(path, cause, format, args...))
}

func (v *validator) at(path string, cause error, format string, args ...any) Error {
	e := Error{Path: path, Msg: fmt.Sprintf(format, args...), err: cause}
	for p := path; p != "" && e.Line == 0; p = parent(p) {
		e.Line = v.doc.lines[p]
	}
	if name, ok := v.doc.rename[path]; ok {
		e.Path = name
	}
	return e
}

func (v *validator) warn(format string, args ...any) {
	v.warnings = append(v.warnings, fmt.Sprintf(format, args...))
}

// poll lays the block p over base, which holds what p leaves out. above is the
// block that base came from.
func (v *validator) poll(base Poll, path string, p, above PollConfig) Poll {
	out := base
	for _, f := range []struct {
		key string
		in  *model.Duration
		out *time.Duration
		max time.Duration
	}{
		{"runners_interval", p.RunnersInterval, &out.RunnersInterval, maxInterval},
		{"details_interval", p.DetailsInterval, &out.DetailsInterval, maxInterval},
		{"jobs_interval", p.JobsInterval, &out.JobsInterval, maxInterval},
		{"queue_interval", p.QueueInterval, &out.QueueInterval, maxInterval},
		{"reconcile_interval", p.ReconcileInterval, &out.ReconcileInterval, maxInterval},
		{"lookback", p.Lookback, &out.Lookback, maxInterval},
		{"request_timeout", p.RequestTimeout, &out.RequestTimeout, maxRequestTimeout},
		{"staleness", p.Staleness, &out.Staleness, maxInterval},
	} {
		if f.in != nil {
			v.duration(path+"."+f.key, *f.in, f.out, f.max)
		}
	}
	if r := p.MaxRequestsPerSecond; r != nil {
		out.MaxRequestsPerSecond = *r
		switch at := path + ".max_requests_per_second"; {
		case math.IsNaN(*r) || math.IsInf(*r, 0):
			v.fail(at, "must be a number; 0 means no limit")
		case *r < 0:
			v.fail(at, "must not be negative; 0 means no limit")
		case *r > 0 && *r < minRate || *r > maxRate:
			v.fail(at, "must be from %v to %v; 0 means no limit", minRate, maxRate)
		}
	}
	if n := p.MaxConcurrentRequests; n != nil {
		out.MaxConcurrentRequests = *n
		if *n < 1 || *n > maxConcurrent {
			v.fail(path+".max_concurrent_requests", "must be from 1 to %d, not %d", maxConcurrent, *n)
		}
	}

	// The rules between two values are checked where one of them is set, so
	// that a mistake in the global block is reported once.
	if (p.Lookback != nil || p.ReconcileInterval != nil) && out.Lookback < 4*out.ReconcileInterval {
		key := "lookback"
		if p.Lookback == nil {
			key = "reconcile_interval"
		}
		v.fail(path+"."+key, "lookback (%s) must be at least 4 x reconcile_interval (%s): a job that one deeper walk misses needs more to be found%s",
			model.Duration(out.Lookback), model.Duration(out.ReconcileInterval),
			origin(key == "lookback" && p.ReconcileInterval == nil, above.ReconcileInterval, "reconcile_interval")+
				origin(key == "reconcile_interval", above.Lookback, "lookback"))
	}
	if (p.Staleness != nil || p.RunnersInterval != nil) && out.Staleness <= out.RunnersInterval {
		key := "staleness"
		if p.Staleness == nil {
			key = "runners_interval"
		}
		v.fail(path+"."+key, "staleness (%s) must be longer than runners_interval (%s), else the fleet vanishes between two listings%s",
			model.Duration(out.Staleness), model.Duration(out.RunnersInterval),
			origin(key == "staleness" && p.RunnersInterval == nil, above.RunnersInterval, "runners_interval")+
				origin(key == "runners_interval", above.Staleness, "staleness"))
	}
	return out
}

// origin is where the other value of a rule comes from, if not from the same block.
func origin(elsewhere bool, global *model.Duration, key string) string {
	switch {
	case !elsewhere:
		return ""
	case global != nil:
		return " (" + key + " is from the global poll)"
	}
	return " (" + key + " is the default)"
}

// duration leaves out as it is where d is wrong, so that a rule between two
// values is not broken a second time by the same mistake.
func (v *validator) duration(path string, d model.Duration, out *time.Duration, most time.Duration) {
	switch {
	case time.Duration(d) < minInterval:
		v.fail(path, "must be at least 1s, not %s", d)
	case time.Duration(d) > most:
		v.fail(path, "must be at most %s, not %s", model.Duration(most), d)
	default:
		*out = time.Duration(d)
	}
}

func (v *validator) metrics(m MetricsConfig) (Metrics, []Error) {
	out := defaultMetrics()
	if m.Runners.Enabled != nil {
		out.RunnersEnabled = *m.Runners.Enabled
	}
	out.Runners = v.matcher("metrics.runners", m.Runners.Include, m.Runners.Exclude)
	if d := m.Runners.MinAge; d != nil {
		switch at := "metrics.runners.min_age"; {
		case *d < 0: // a Go caller's: the parser takes no sign
			v.fail(at, "must not be negative, not %s", time.Duration(*d))
		case time.Duration(*d) > maxInterval:
			v.fail(at, "must be at most %s, not %s", model.Duration(maxInterval), *d)
		default:
			out.RunnersMinAge = time.Duration(*d)
		}
	}
	out.Tags = v.matcher("metrics.tags", m.Tags.Include, m.Tags.Exclude)
	if n := m.Tags.Limit; n != nil {
		out.TagsLimit = *n
		if *n < 0 {
			v.fail("metrics.tags.limit", "must not be negative, not %d: 0 puts every tag under tag=\"(other)\"", *n)
		}
	}
	if d := m.Tags.Retention; d != nil {
		v.duration("metrics.tags.retention", *d, &out.TagsRetention, maxInterval)
	}
	if n := m.SeriesLimit; n != nil {
		out.SeriesLimit = *n
		if *n < minSeriesLimit {
			v.fail("metrics.series_limit", "must be at least %d, not %d: fewer hold no fleet; to drop single families use metrics.disable", minSeriesLimit, *n)
		}
	}
	var at []Error
	for i, name := range m.Disable {
		path := fmt.Sprintf("metrics.disable[%d]", i)
		if !familyName.MatchString(name) {
			v.fail(path, "not the name of a family: letters, digits and _ only")
			continue
		}
		whole := wholeFamilyName(name)
		if slices.Contains(out.Disable, whole) {
			v.fail(path, "%s is listed twice", whole)
			continue
		}
		out.Disable = append(out.Disable, whole)
		at = append(at, v.at(path, nil, "%s", whole))
	}
	slices.Sort(out.Disable)
	return out, at
}

var familyName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

func (v *validator) matcher(path string, include, exclude *string) snapshot.Matcher {
	out := snapshot.Matcher{Include: ".*"}
	if include != nil {
		out.Include = *include
		if *include == "" {
			v.fail(path+".include", "an empty expression matches no name: leave it out, or write \".*\" for all")
		}
	}
	if exclude != nil {
		out.Exclude = *exclude
	}
	// An empty exclude excludes nothing; as an expression it would match every
	// runner without a description.
	rightInclude, rightExclude := v.expression(path+".include", out.Include), v.expression(path+".exclude", out.Exclude)
	if rightInclude && rightExclude {
		out, _ = snapshot.NewMatcher(out.Include, out.Exclude) // both were compiled
	}
	return out
}

// expression checks an expression alone: a stray bracket must not be balanced by
// the anchors of the Matcher.
func (v *validator) expression(path, expr string) bool {
	_, err := regexp.Compile(expr)
	if err == nil {
		_, err = snapshot.NewMatcher(expr, "")
	}
	if err != nil {
		v.fail(path, "not a regular expression: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	return err == nil
}

func (v *validator) gitlab(g GitLabConfig, path string, m Metrics) GitLab {
	out := GitLab{Name: g.Name, Scope: g.Scope, API: g.API}
	u := v.url(path+".url", g.URL)
	if u != nil {
		out.URL = u.Scheme + "://" + u.Host + strings.TrimRight(u.EscapedPath(), "/")
	}
	if out.Name == "" && u != nil {
		out.Name = u.Host
	}
	if out.Name != "" {
		v.name(path+".name", out.Name)
	}

	if out.Scope == "" {
		out.Scope = snapshot.ScopeInstance
	}
	switch out.Scope {
	case snapshot.ScopeInstance, snapshot.ScopeOwned, snapshot.ScopeGroups, snapshot.ScopeProjects:
		out.Groups = v.list(path, "groups", snapshot.ScopeGroups, out.Scope, g.Groups)
		out.Projects = v.list(path, "projects", snapshot.ScopeProjects, out.Scope, g.Projects)
	default:
		v.fail(path+".scope", "must be instance, owned, groups or projects")
	}
	if out.API == "" {
		out.API = snapshot.APIAuto
	}
	switch out.API {
	case snapshot.APIAuto, snapshot.APIREST, snapshot.APIGraphQL:
	default:
		v.fail(path+".api", "must be auto, rest or graphql")
	}

	if out.Queue = g.Queue; out.Queue == "" {
		out.Queue = QueueCompatible
	}
	switch out.Queue {
	case QueueOff, QueueCompatible, QueueAll:
	default:
		v.fail(path+".queue", "must be off, compatible or all")
	}
	if out.Queue == QueueAll && out.Scope != snapshot.ScopeInstance {
		v.fail(path+".queue", "all reads the queue of the whole instance: it needs scope instance, and an administrator's token")
	}

	v.expected(path+".expected", g.Expected, m)
	out.Expected = maps.Clone(g.Expected)

	out.HTTPClientConfig = cloneHTTP(g.HTTPClientConfig)
	v.http(path, &out.HTTPClientConfig)
	if u != nil && u.Scheme == "http" && !isLoopback(u.Hostname()) {
		v.warn("%s: the token goes over the network unencrypted, because the url begins with http://", path)
	}
	if out.HTTPClientConfig.FollowRedirects {
		v.warn("%s: with follow_redirects the token is also sent to any host that GitLab redirects to", path)
	}
	// So that "groups: []" and no groups are the same to Equal.
	return normalized(out)
}

func normalized(g GitLab) GitLab {
	if len(g.Groups) == 0 {
		g.Groups = nil
	}
	if len(g.Projects) == 0 {
		g.Projects = nil
	}
	if len(g.Expected) == 0 {
		g.Expected = nil
	}
	return g
}

// url never quotes the value: it may hold a password, or be a token in the
// wrong place.
func (v *validator) url(path, s string) *url.URL {
	const example = "such as https://gitlab.example.com"
	if s == "" {
		v.fail(path, "missing: the address of GitLab, %s", example)
		return nil
	}
	u, err := url.Parse(s)
	if err != nil {
		v.fail(path, "is not a URL; it must be one %s", example)
		return nil
	}
	u.Scheme, u.Host = strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	if u.Scheme != "http" && u.Scheme != "https" || u.Opaque != "" {
		v.fail(path, "must begin with https:// or http://, %s", example)
		return nil
	}
	before := len(v.errs)
	if u.User != nil {
		v.fail(path, "must not hold a user or password: put the token into authorization")
	}
	if u.Hostname() == "" {
		v.fail(path, "names no host; it must be one %s", example)
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			v.fail(path, "has a port that is not from 1 to 65535")
		}
	}
	if u.RawQuery != "" || u.ForceQuery {
		v.fail(path, "must not hold a query (? and what follows)")
	}
	if strings.Contains(s, "#") {
		v.fail(path, "must not hold a fragment (# and what follows)")
	}
	if p := strings.TrimRight(u.Path, "/"); strings.HasSuffix(p, "/api") || strings.Contains(p+"/", "/api/v") || strings.HasSuffix(p, "/api/graphql") {
		v.fail(path, "must be GitLab's own address: leave out /api and what follows, it is added")
	}
	if len(v.errs) > before {
		return nil
	}
	return u
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (v *validator) name(path, s string) {
	switch {
	case len(s) > maxNameBytes:
		v.fail(path, "must not be longer than %d bytes, not %d", maxNameBytes, len(s))
	default:
		v.label(path, s)
	}
}

// label checks what becomes a label value that people type into queries.
func (v *validator) label(path, s string) {
	switch {
	case !utf8.ValidString(s):
		v.fail(path, "must be valid UTF-8")
	case strings.ContainsFunc(s, unicode.IsControl):
		v.fail(path, "must not hold line ends, tabs or other control characters")
	case strings.TrimSpace(s) != s || s == "":
		v.fail(path, "must not be empty, nor begin or end with a space")
	}
}

var (
	idPattern   = regexp.MustCompile(`^[1-9][0-9]{0,18}$`)
	pathPattern = regexp.MustCompile(`^[\pL\pN_.][\pL\pN_.-]*(/[\pL\pN_.][\pL\pN_.-]*)*$`)
	allDigits   = regexp.MustCompile(`^[0-9]+$`)
)

// list checks groups or projects, which stand with their own scope only.
func (v *validator) list(path, key string, own, scope snapshot.ScopeKind, in []string) []string {
	at := path + "." + key
	if scope != own {
		if len(in) > 0 {
			v.fail(at, "are read only with scope: %s; here the scope is %s", own, scope)
		}
		return nil
	}
	if len(in) == 0 {
		v.fail(at, "missing: scope %s needs a list of ids or full paths", own)
	}
	for i, s := range in {
		at := fmt.Sprintf("%s[%d]", at, i)
		switch {
		case slices.Index(in, s) < i:
			v.fail(at, "listed twice")
		case idPattern.MatchString(s):
		case allDigits.MatchString(s):
			v.fail(at, "is not an id: ids begin at 1")
		case strings.Contains(s, "://"):
			v.fail(at, "must be an id or a full path such as group/sub, not a URL")
		case strings.Contains(s, "%"):
			v.fail(at, "must be a full path as GitLab shows it, with / and without %% escapes")
		case strings.HasPrefix(s, "/") || strings.HasSuffix(s, "/"):
			v.fail(at, "must not begin or end with /")
		case !pathPattern.MatchString(s):
			v.fail(at, "must be an id or a full path such as group/sub")
		case own == snapshot.ScopeProjects && !strings.Contains(s, "/"):
			v.fail(at, "must be an id or a full path with its group, such as group/project")
		}
	}
	return slices.Clone(in)
}

func (v *validator) expected(path string, expected map[string]int, m Metrics) {
	for _, tag := range slices.Sorted(maps.Keys(expected)) {
		at, floor := path+"."+tag, expected[tag]
		before := len(v.errs)
		switch {
		case tag == "(unknown)" || tag == "(other)" || tag == "(no_runner)":
			v.fail(at, "%s is not a tag but the exporter's own name for what has no series of its own; it can have no floor", tag)
		case utf8.RuneCountInString(tag) > maxTagChars:
			v.fail(path, "a tag must not be longer than %d characters, not %d", maxTagChars, utf8.RuneCountInString(tag))
		case strings.Contains(tag, ","):
			v.fail(at, "GitLab's tags hold no comma: write one line for each tag")
		default:
			v.label(at, tag)
		}
		if floor < 0 {
			v.fail(at, "must not be negative, not %d: 0 is a tag that may have no runner", floor)
		}
		// An invisible floor is an alert that never fires.
		if len(v.errs) == before && !m.Tags.Match(tag) {
			v.fail(at, "has a floor but is kept out by metrics.tags, so that no alert could see it")
		}
	}
	if len(expected) > max(0, m.TagsLimit) {
		v.fail(path, "holds %d tags, more than metrics.tags.limit (%d) lets through", len(expected), m.TagsLimit)
	}
}

// missingTokenWhy ends each message about a missing token.
const missingTokenWhy = "; every endpoint of GitLab's Runner API needs one, read_api is enough"

// http checks the block of prometheus/common and lets it fill in its own defaults.
func (v *validator) http(path string, c *commoncfg.HTTPClientConfig) {
	if v.refs(path, c) {
		return
	}
	// Nobody else calls it for an inlined block, and without it the header goes
	// out without the word Bearer.
	wrong := c.Validate()
	if wrong != nil {
		v.fail(path, "%s", wrong)
		return
	}
	tokenHeader := v.headers(path+".http_headers", c.HTTPHeaders)
	switch a := c.Authorization; {
	case a == nil && (c.OAuth2 != nil || tokenHeader):
	case a == nil && c.BasicAuth != nil:
		v.fail(path+".basic_auth", "GitLab's API takes no password: give the token in authorization; where a proxy in front needs basic_auth, give it as http_headers: {PRIVATE-TOKEN: {files: [...]}}")
	case a == nil || a.Credentials == "" && a.CredentialsFile == "":
		v.fail(path+".authorization", "no token: set authorization: {credentials_file: ...}"+missingTokenWhy)
	case !strings.EqualFold(a.Type, "Bearer") && !tokenHeader:
		v.fail(path+".authorization.type", "must be Bearer, which is the default: GitLab takes a token in no other way here")
	case a.CredentialsFile != "":
		v.secretFile(path+".authorization.credentials_file", a.CredentialsFile, true)
	default:
		v.secret(path+".authorization.credentials", string(a.Credentials), true)
	}
	if b := c.BasicAuth; b != nil {
		v.secretFile(path+".basic_auth.username_file", b.UsernameFile, false)
		v.secretFile(path+".basic_auth.password_file", b.PasswordFile, false)
	}
	v.proxy(path, &c.ProxyConfig)
	v.tls(path+".tls_config", &c.TLSConfig)
	if o := c.OAuth2; o != nil {
		at := path + ".oauth2"
		v.secretFile(at+".client_secret_file", o.ClientSecretFile, false)
		v.secretFile(at+".client_certificate_key_file", o.ClientCertificateKeyFile, false)
		if u, err := url.Parse(o.TokenURL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			v.fail(at+".token_url", "must begin with https:// or http://")
		}
		v.proxy(at, &o.ProxyConfig)
		v.tls(at+".tls_config", &o.TLSConfig)
	}
}

// refs refuses the keys of a secret manager: prometheus/common has them, but
// would find no manager at the first request.
func (v *validator) refs(path string, c *commoncfg.HTTPClientConfig) bool {
	type ref struct{ key, value, use string }
	files := func(at string, t commoncfg.TLSConfig) []ref {
		return []ref{
			{at + ".ca_ref", t.CARef, "ca_file"},
			{at + ".cert_ref", t.CertRef, "cert_file"},
			{at + ".key_ref", t.KeyRef, "key_file"},
		}
	}
	all := files("tls_config", c.TLSConfig)
	if a := c.Authorization; a != nil {
		all = append(all, ref{"authorization.credentials_ref", a.CredentialsRef, "credentials_file"})
	}
	if b := c.BasicAuth; b != nil {
		all = append(all, ref{"basic_auth.username_ref", b.UsernameRef, "username_file"}, ref{"basic_auth.password_ref", b.PasswordRef, "password_file"})
	}
	if o := c.OAuth2; o != nil {
		all = append(all, ref{"oauth2.client_secret_ref", o.ClientSecretRef, "client_secret_file"},
			ref{"oauth2.client_certificate_key_ref", o.ClientCertificateKeyRef, "client_certificate_key_file"})
		all = append(all, files("oauth2.tls_config", o.TLSConfig)...)
	}
	found := false
	for _, r := range all {
		if r.value != "" {
			found = true
			v.fail(path+"."+r.key, "there is no secret manager here: use %s", r.use)
		}
	}
	return found
}

// headers reports whether one of them carries the token.
func (v *validator) headers(path string, h *commoncfg.Headers) (token bool) {
	if h == nil {
		return false
	}
	for _, name := range slices.Sorted(maps.Keys(h.Headers)) {
		at, value := path+"."+name, h.Headers[name]
		isToken := http.CanonicalHeaderKey(name) == "Private-Token"
		if isToken && len(value.Values) > 0 {
			v.fail(at+".values", "a token is not kept secret here: use secrets or files")
		}
		if isToken && len(value.Values)+len(value.Secrets)+len(value.Files) > 0 {
			token = true
		}
		for i, s := range value.Values {
			v.secret(fmt.Sprintf("%s.values[%d]", at, i), s, false)
		}
		for i, s := range value.Secrets {
			v.secret(fmt.Sprintf("%s.secrets[%d]", at, i), string(s), isToken)
		}
		for i, f := range value.Files {
			v.secretFile(fmt.Sprintf("%s.files[%d]", at, i), f, isToken)
		}
	}
	return token
}

// secret checks a secret without ever printing it.
func (v *validator) secret(path, s string, token bool) {
	if msg := secretFault(s, token); msg != "" {
		v.fail(path, "%s", msg)
	}
}

// variable is how a line of an environment file begins.
var variable = regexp.MustCompile(`^(?:export\s+)?[A-Za-z_][A-Za-z0-9_]*\s*=\s*["']?\S`)

func secretFault(s string, token bool) string {
	switch {
	case s == "":
		return "is empty"
	case !token && strings.ContainsAny(s, "\r\n\x00"):
		return "holds a line end, which no header can carry"
	case !token:
		return ""
	case s == "<secret>":
		return "is the mask of a printed configuration, not a token"
	case s[0] == '$':
		return "is the name of a variable, which is not replaced here: use credentials_file"
	case variable.MatchString(s):
		return "begins with the name of a variable: it must be the token alone, without NAME= before it"
	case strings.ContainsAny(s, "\"'`"):
		return "holds quotes: it must be the token alone, without quotes around it"
	case strings.HasPrefix(s, "Bearer "):
		return "begins with the word Bearer, which is added by itself: it must be the token alone"
	case strings.ContainsFunc(s, unicode.IsSpace):
		return "holds a space or a line end: it must be the token alone"
	case strings.ContainsFunc(s, func(r rune) bool { return r < '!' || r > '~' }):
		return "holds characters that no token has: it must be the token alone"
	}
	return ""
}

// secretFile reads a file that holds a secret, as the transport will do at
// each request, and checks the content without printing it.
func (v *validator) secretFile(path, file string, token bool) {
	if file == "" {
		return
	}
	ctx := context.Background() // each read has its deadline
	info, err := bounded.Stat(ctx, file)
	if err != nil {
		v.missing(path, file, err)
		return
	}
	// Opening a pipe would wait for a writer, and a second reading finds nothing.
	if !info.Mode().IsRegular() {
		v.fail(path, "%s is not a regular file; it is read again at each request", shown(file))
		return
	}
	if info.Size() > maxSecretFile {
		v.fail(path, "%s is larger than %d bytes: not a secret", shown(file), maxSecretFile)
		return
	}
	data, err := bounded.ReadFile(ctx, file, maxSecretFile)
	if err != nil {
		v.missing(path, file, err)
		return
	}
	if msg := secretFault(strings.TrimSpace(string(data)), token); msg != "" {
		v.fail(path, "the content of %s %s", shown(file), msg)
	}
}

// missing reports a file that cannot be read. The cause is kept without the
// file's name, see shown.
func (v *validator) missing(path, file string, err error) {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	v.failErr(path, err, "cannot read %s: %s", shown(file), err)
}

var (
	tokenPrefix = regexp.MustCompile(`^(gl[a-z]{1,6}-|GR[0-9]{7})`)
	tokenLike   = regexp.MustCompile(`^[A-Za-z0-9_.=-]{16,}$`)
)

// shown is the name of a file, unless somebody wrote the token itself where the
// name of its file belongs.
func shown(file string) string {
	base := filepath.Base(file)
	if tokenPrefix.MatchString(base) || tokenLike.MatchString(base) &&
		strings.ContainsFunc(base, unicode.IsUpper) && strings.ContainsFunc(base, unicode.IsDigit) {
		return "a file whose name is not shown, because it looks like a secret (a secret itself does not belong in a key ending in _file)"
	}
	return file
}

// proxy never quotes the URL, which may hold a password.
func (v *validator) proxy(path string, p *commoncfg.ProxyConfig) {
	u := p.ProxyURL.URL
	if u == nil || u.String() == "" {
		return
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
	default:
		v.fail(path+".proxy_url", "must begin with http://, https://, socks5:// or socks5h://")
		return
	}
	if u.Hostname() == "" {
		v.fail(path+".proxy_url", "names no host")
	}
}

// tls loads the certificates now: prometheus/common would do so at the first use.
func (v *validator) tls(path string, t *commoncfg.TLSConfig) {
	for _, f := range []struct{ key, file string }{{".ca_file", t.CAFile}, {".cert_file", t.CertFile}, {".key_file", t.KeyFile}} {
		if f.file == "" {
			continue
		}
		info, err := bounded.Stat(context.Background(), f.file)
		if err != nil {
			v.missing(path+f.key, f.file, err)
			return
		}
		if !info.Mode().IsRegular() {
			v.fail(path+f.key, "%s is not a regular file", shown(f.file))
			return
		}
	}
	if _, err := bounded.Call(context.Background(), path, func() (*tls.Config, error) { return commoncfg.NewTLSConfig(t) }); err != nil {
		v.failErr(path, err, "%s", err)
	}
	if t.InsecureSkipVerify {
		v.warn("%s: insecure_skip_verify lets anybody in between read the token", parent(path))
	}
}
