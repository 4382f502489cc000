package snapshot

import "regexp"

// API is which of GitLab's APIs the list of runners is read by.
type API string

// The APIs.
const (
	APIAuto    API = "auto" // GraphQL where GitLab offers it, else REST
	APIREST    API = "rest"
	APIGraphQL API = "graphql"
)

// ScopeKind is which runner list of a GitLab is read (docs/gitlab-api.md 1.1).
type ScopeKind string

// The scopes.
const (
	ScopeInstance ScopeKind = "instance" // GET /runners/all
	ScopeOwned    ScopeKind = "owned"    // GET /runners
	ScopeGroups   ScopeKind = "groups"   // GET /groups/:id/runners
	ScopeProjects ScopeKind = "projects" // GET /projects/:id/runners
)

// Matcher selects names by two expressions. The zero Matcher selects all.
type Matcher struct {
	Include string // as written; "": everything
	Exclude string // as written; "": nothing

	include, exclude *regexp.Regexp
}

// NewMatcher compiles both expressions as Prometheus does in relabeling: they
// match the whole name, and a dot matches a line end too.
func NewMatcher(include, exclude string) (Matcher, error) {
	m := Matcher{Include: include, Exclude: exclude}
	var err error
	if m.include, err = anchored(include); err != nil {
		return Matcher{}, err
	}
	m.exclude, err = anchored(exclude)
	return m, err
}

func anchored(expr string) (*regexp.Regexp, error) {
	if expr == "" {
		return nil, nil
	}
	return regexp.Compile("^(?s:" + expr + ")$")
}

// Match reports whether s as a whole is included and not excluded.
func (m Matcher) Match(s string) bool {
	return (m.include == nil || m.include.MatchString(s)) && (m.exclude == nil || !m.exclude.MatchString(s))
}

// Equal reports whether both have the same expressions.
func (m Matcher) Equal(o Matcher) bool { return m.Include == o.Include && m.Exclude == o.Exclude }
