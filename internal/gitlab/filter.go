package gitlab

import "net/url"

// RunnerFilter restricts a runner list (docs/gitlab-api.md 1.6). GitLab compares
// with its database, whose last contact lags up to 55 minutes.
type RunnerFilter struct {
	Tag       string // exactly this tag, or each of several joined by commas; none can hold one
	Available bool   // online and not paused
}

func (f RunnerFilter) values() url.Values {
	v := url.Values{}
	if f.Tag != "" {
		v.Set("tag_list", f.Tag)
	}
	if f.Available {
		v.Set("status", "online")
		v.Set("paused", "false")
	}
	return v
}
