package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Summary describes what was found, for --config.check: no secret, and no
// proxy's URL, which may hold one.
func (v Validated) Summary() string {
	var b strings.Builder
	for _, g := range v.gitlabs {
		b.WriteString(g.summary())
	}
	m := v.metrics
	b.WriteString("metrics:\n")
	if m.RunnersEnabled {
		fmt.Fprintf(&b, "  runner_ families: %s%s\n", matched(m.Runners, "descriptions"), m.minAge())
	} else {
		b.WriteString("  runner_ families: off\n")
	}
	fmt.Fprintf(&b, "  tags: %s; at most %d for each GitLab; kept %s without runners\n",
		matched(m.Tags, "names"), m.TagsLimit, model.Duration(m.TagsRetention))
	if len(m.Disable) > 0 {
		fmt.Fprintf(&b, "  off: %s\n", strings.Join(m.Disable, ", "))
	}
	fmt.Fprintf(&b, "  at most %d series\n", m.SeriesLimit)
	for _, w := range v.warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	return b.String()
}

func (m Metrics) minAge() string {
	if m.RunnersMinAge == 0 {
		return ""
	}
	return "; of runners known for at least " + model.Duration(m.RunnersMinAge).String()
}

func matched(m snapshot.Matcher, what string) string {
	s := what + " like " + strconv.Quote(m.Include)
	if m.Include == "" || m.Include == ".*" {
		s = "all"
	}
	if m.Exclude != "" {
		s += " except " + what + " like " + strconv.Quote(m.Exclude)
	}
	return s
}

func (g GitLab) summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "gitlab %q at %s\n", g.Name, g.URL)
	switch g.Scope {
	case snapshot.ScopeGroups:
		fmt.Fprintf(&b, "  runners of the groups %s\n", strings.Join(g.Groups, ", "))
	case snapshot.ScopeProjects:
		fmt.Fprintf(&b, "  runners of the projects %s\n", strings.Join(g.Projects, ", "))
	case snapshot.ScopeOwned:
		b.WriteString("  runners that the token's user owns\n")
	case snapshot.ScopeInstance:
		b.WriteString("  all runners of the instance\n")
	}
	fmt.Fprintf(&b, "  api: %s; token: %s\n", g.API, g.tokenSource())
	if len(g.Expected) > 0 {
		var floors []string
		for _, tag := range slices.Sorted(maps.Keys(g.Expected)) {
			if g.Expected[tag] == 0 {
				floors = append(floors, tag+" may have none")
				continue
			}
			floors = append(floors, fmt.Sprintf("%s at least %d", tag, g.Expected[tag]))
		}
		fmt.Fprintf(&b, "  expected: %s\n", strings.Join(floors, ", "))
	}
	p := g.Poll
	switch {
	case g.Queue == QueueOff:
		b.WriteString("  the queue of waiting jobs is not read\n")
	case g.Queue != QueueCompatible || p.QueueInterval != time.Minute:
		fmt.Fprintf(&b, "  queue: %s, every %s\n", g.Queue, model.Duration(p.QueueInterval))
	}
	rate := "no limit of requests a second"
	if p.MaxRequestsPerSecond > 0 {
		rate = "at most " + strconv.FormatFloat(p.MaxRequestsPerSecond, 'f', -1, 64) + " requests a second"
	}
	fmt.Fprintf(&b, "  runners every %s, details every %s, jobs every %s, deeper walk every %s down to %s\n",
		model.Duration(p.RunnersInterval), model.Duration(p.DetailsInterval), model.Duration(p.JobsInterval),
		model.Duration(p.ReconcileInterval), model.Duration(p.Lookback))
	fmt.Fprintf(&b, "  %s, %d at once, each given up after %s; stale after %s\n",
		rate, p.MaxConcurrentRequests, model.Duration(p.RequestTimeout), model.Duration(p.Staleness))
	return b.String()
}

func (g GitLab) tokenSource() string {
	c := g.HTTPClientConfig
	switch {
	case c.Authorization != nil && c.Authorization.CredentialsFile != "":
		return "from " + c.Authorization.CredentialsFile
	case c.Authorization != nil:
		return "given (not shown)"
	case c.OAuth2 != nil:
		return "by OAuth2"
	}
	return "in the header PRIVATE-TOKEN (not shown)"
}
