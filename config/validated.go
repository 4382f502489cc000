package config

import (
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	commoncfg "github.com/prometheus/common/config"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// QueueMode is how much of the queue of waiting jobs is read.
type QueueMode string

// The queue modes.
const (
	QueueOff        QueueMode = "off"
	QueueCompatible QueueMode = "compatible" // what a runner could take: GitLab 18.1 and later, and projects by REST
	QueueAll        QueueMode = "all"        // also what no runner could take: for administrators
)

// Validated is a configuration that was found right, with every default filled
// in. Only this package makes one. It never changes: what it is made from and
// what its methods return are deep copies.
type Validated struct {
	gitlabs  []GitLab
	metrics  Metrics
	warnings []string
	// disableAt is the place of each entry of metrics.disable, for CheckFamilies.
	disableAt []Error
}

// GitLab is one GitLab to monitor. It is plain data; a change of a returned
// one changes nothing but itself.
type GitLab struct {
	Name     string // value of the label gitlab; unique
	URL      string // without /api/v4 and without a slash at the end
	Scope    snapshot.ScopeKind
	Groups   []string // ids or full paths, only with snapshot.ScopeGroups
	Projects []string // ids or full paths, only with snapshot.ScopeProjects
	API      snapshot.API
	Expected map[string]int // tag to the least number of available runners; 0: it may have none
	Queue    QueueMode
	Poll     Poll

	// HTTPClientConfig was validated, so that its authorization has its type,
	// and its file names are complete.
	HTTPClientConfig commoncfg.HTTPClientConfig
}

// Poll is how often and how hard one GitLab is read.
type Poll struct {
	RunnersInterval       time.Duration
	DetailsInterval       time.Duration
	JobsInterval          time.Duration
	QueueInterval         time.Duration
	ReconcileInterval     time.Duration
	Lookback              time.Duration // at least 4 x ReconcileInterval
	MaxRequestsPerSecond  float64       // 0: no limit
	MaxConcurrentRequests int
	RequestTimeout        time.Duration
	Staleness             time.Duration // longer than RunnersInterval
}

// Metrics is which series are exported.
type Metrics struct {
	RunnersEnabled bool
	Runners        snapshot.Matcher // over descriptions
	RunnersMinAge  time.Duration    // a runner known for less has no series of its own
	Tags           snapshot.Matcher // over tag names
	TagsLimit      int              // per GitLab
	TagsRetention  time.Duration
	Disable        []string // whole names of families, sorted
	SeriesLimit    int
}

// GitLabs are the GitLabs in the order of the file.
func (v *Validated) GitLabs() []GitLab {
	out := make([]GitLab, len(v.gitlabs))
	for i, g := range v.gitlabs {
		out[i] = g.clone()
	}
	return out
}

// Metrics selects the series that are exported.
func (v *Validated) Metrics() Metrics {
	m := v.metrics
	m.Disable = slices.Clone(m.Disable)
	return m
}

// Warnings are what is allowed but rarely meant, one sentence each.
func (v *Validated) Warnings() []string { return slices.Clone(v.warnings) }

// String is the Summary, so that a careless %v cannot print a token.
func (v Validated) String() string { return v.Summary() }

// GoString masks secrets under %#v too.
func (v Validated) GoString() string { return v.Summary() }

// String is the entry in words, without secrets.
func (g GitLab) String() string { return g.summary() }

// GoString masks secrets under %#v too.
func (g GitLab) GoString() string { return g.summary() }

// CheckFamilies finds names in metrics.disable that are no family. It is apart
// from Load because only the collector has the families. The error is an
// Errors.
func (v *Validated) CheckFamilies(known []string) error {
	// Without the prefix, which would make any two names alike.
	short := make([]string, len(known))
	for i, name := range known {
		short[i] = strings.TrimPrefix(name, familyPrefix)
	}
	var errs Errors
	for _, e := range v.disableAt {
		name := e.Msg
		if slices.Contains(known, name) {
			continue
		}
		e.Msg = "no family has this name"
		if best := nearest(strings.TrimPrefix(name, familyPrefix), short); best != "" {
			e.Msg += ": did you mean " + best + "?"
		}
		errs = append(errs, e)
	}
	if len(errs) > 0 {
		return errs.sorted()
	}
	return nil
}

// familyPrefix stands before every fleet family; metrics.disable may leave it out.
const familyPrefix = "gitlab_runner_fleet_"

func wholeFamilyName(name string) string {
	if strings.HasPrefix(name, familyPrefix) {
		return name
	}
	return familyPrefix + name
}

// Equal reports whether a reload has nothing to change on this GitLab. Secrets
// written in the file count; those in files do not, they are read at each
// request.
func (g GitLab) Equal(o GitLab) bool { return reflect.DeepEqual(g.clone(), o.clone()) }

// Equal reports whether both export the same series.
func (m Metrics) Equal(o Metrics) bool {
	return m.RunnersEnabled == o.RunnersEnabled && m.Runners.Equal(o.Runners) && m.RunnersMinAge == o.RunnersMinAge && m.Tags.Equal(o.Tags) &&
		m.TagsLimit == o.TagsLimit && m.TagsRetention == o.TagsRetention &&
		slices.Equal(m.Disable, o.Disable) && m.SeriesLimit == o.SeriesLimit
}

func (g GitLab) clone() GitLab {
	g.Groups = slices.Clone(g.Groups)
	g.Projects = slices.Clone(g.Projects)
	g.Expected = maps.Clone(g.Expected)
	g.HTTPClientConfig = cloneHTTP(g.HTTPClientConfig)
	return g
}

// cloneHTTP copies every exported field. What prometheus/common caches in
// unexported ones (a function, never equal to another) stays behind.
func cloneHTTP(c commoncfg.HTTPClientConfig) commoncfg.HTTPClientConfig {
	c.BasicAuth = clonePtr(c.BasicAuth)
	c.Authorization = clonePtr(c.Authorization)
	c.OAuth2 = clonePtr(c.OAuth2)
	if o := c.OAuth2; o != nil {
		o.Claims = cloneAny(o.Claims)
		o.Scopes = slices.Clone(o.Scopes)
		o.EndpointParams = maps.Clone(o.EndpointParams)
		o.ProxyConfig = cloneProxy(o.ProxyConfig)
	}
	c.ProxyConfig = cloneProxy(c.ProxyConfig)
	if c.HTTPHeaders != nil {
		h := make(map[string]commoncfg.Header, len(c.HTTPHeaders.Headers))
		for name, v := range c.HTTPHeaders.Headers {
			h[name] = commoncfg.Header{
				Values:  slices.Clone(v.Values),
				Secrets: slices.Clone(v.Secrets),
				Files:   slices.Clone(v.Files),
			}
		}
		c.HTTPHeaders = &commoncfg.Headers{Headers: h}
	}
	return c
}

func cloneProxy(p commoncfg.ProxyConfig) commoncfg.ProxyConfig {
	out := commoncfg.ProxyConfig{NoProxy: p.NoProxy, ProxyFromEnvironment: p.ProxyFromEnvironment}
	if u := p.ProxyURL.URL; u != nil {
		c := *u
		if pw, ok := u.User.Password(); ok {
			c.User = url.UserPassword(u.User.Username(), pw)
		} else if u.User != nil {
			c.User = url.User(u.User.Username())
		}
		out.ProxyURL.URL = &c
	}
	if p.ProxyConnectHeader != nil {
		out.ProxyConnectHeader = make(commoncfg.ProxyHeader, len(p.ProxyConnectHeader))
		for name, v := range p.ProxyConnectHeader {
			out.ProxyConnectHeader[name] = slices.Clone(v)
		}
	}
	return out
}

func clonePtr[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

// cloneAny copies what YAML makes of a value without a type.
func cloneAny[T any](v T) T {
	out, _ := cloneYAML(v).(T)
	return out
}

func cloneYAML(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v == nil {
			return v
		}
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = cloneYAML(e)
		}
		return out
	case map[any]any:
		out := make(map[any]any, len(v))
		for k, e := range v {
			out[k] = cloneYAML(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = cloneYAML(e)
		}
		return out
	}
	return v
}
