package page

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// filter is what a URL asks for. Empty fields ask for everything.
type filter struct {
	gitlab, tag, kind, health, reason, search string
}

// longestSearch bounds what is compared with each description.
const longestSearch = 200

// parseFilter refuses a value that cannot match anything: a mistyped filter
// must not look like a fleet without problems.
func parseFilter(q url.Values) (filter, error) {
	f := filter{
		gitlab: q.Get("gitlab"), tag: q.Get("tag"), kind: q.Get("type"),
		health: q.Get("health"), reason: q.Get("reason"), search: strings.ToLower(strings.TrimSpace(q.Get("q"))),
	}
	if len(f.search) > longestSearch {
		return f, fmt.Errorf("q has %d bytes: at most %d are searched for", len(f.search), longestSearch)
	}
	for _, c := range []struct {
		name, value string
		allowed     []string
	}{
		{"type", f.kind, typeNames()},
		{"health", f.health, healthNames()},
		{"reason", f.reason, reasonNames()},
	} {
		if c.value != "" && !slices.Contains(c.allowed, c.value) {
			return f, fmt.Errorf("%s is %q: it must be one of %s", c.name, c.value, strings.Join(c.allowed, ", "))
		}
	}
	return f, nil
}

func typeNames() []string {
	var out []string
	for t := range snapshot.RunnerType(snapshot.NumRunnerTypes) {
		out = append(out, t.String())
	}
	return out
}

func healthNames() []string {
	var out []string
	for h := range snapshot.NumHealths {
		out = append(out, h.String())
	}
	return append(out, notJudged)
}

func reasonNames() []string {
	var out []string
	for r := snapshot.NoHealthReason + 1; r < snapshot.NumHealthReasons; r++ {
		out = append(out, r.String())
	}
	for s := range snapshot.NumSuspicions {
		out = append(out, s.String())
	}
	return out
}

// searches is true where runners are asked for, the healthy ones included.
func (f *filter) searches() bool {
	return f.tag != "" || f.health != "" || f.reason != "" || f.search != ""
}

func (f *filter) active() bool { return *f != filter{} }

// query is the filter as a URL has it.
func (f *filter) query() string {
	q := url.Values{}
	for _, p := range [][2]string{{"gitlab", f.gitlab}, {"tag", f.tag}, {"type", f.kind}, {"health", f.health}, {"reason", f.reason}, {"q", f.search}} {
		if p[1] != "" {
			q.Set(p[0], p[1])
		}
	}
	return q.Encode()
}

func (f *filter) runner(row *snapshot.Runner, health, reason string, ill *snapshot.Ill) bool {
	if f.kind != "" && f.kind != row.Type.String() || f.health != "" && f.health != health ||
		f.tag != "" && !carries(row, f.tag) {
		return false
	}
	if f.reason != "" && f.reason != reason && !suspectedOf(ill, f.reason) {
		return false
	}
	return f.search == "" || strings.Contains(strings.ToLower(row.Description), f.search) || strconv.FormatInt(row.ID, 10) == f.search
}

// carries reports whether a runner stands under a tag, as in the metrics.
func carries(row *snapshot.Runner, tag string) bool {
	return slices.Contains(row.Tags, tag) || tag == snapshot.TagUntagged && row.RunUntagged
}

func suspectedOf(ill *snapshot.Ill, reason string) bool {
	if ill == nil {
		return false
	}
	for s := range snapshot.NumSuspicions {
		if s.String() == reason && !ill.Suspects[s].IsZero() {
			return true
		}
	}
	return false
}

// tagRow: a filter of runners leaves the tags alone.
func (f *filter) tagRow(t *Tag) bool { return f.tag == "" || f.tag == t.Tag }

func (f *filter) change(c *Change) bool {
	return (f.gitlab == "" || f.gitlab == c.GitLab) && (f.tag == "" || f.tag == c.Tag) &&
		f.kind == "" && f.health == "" && (f.reason == "" || f.reason == c.Reason) &&
		(f.search == "" || strings.Contains(strings.ToLower(c.Name), f.search) || strconv.FormatInt(c.Runner, 10) == f.search)
}
