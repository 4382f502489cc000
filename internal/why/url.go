package why

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Bounds of the address of a job.
const (
	maxURL      = 2048
	maxSegments = 25 // GitLab nests 20 groups
)

// segment is a group or project in a path, as GitLab allows it. It cannot be "."
// or "..", nor hold what would leave the path of a request.
var segment = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,254}$|^\.[A-Za-z0-9_-][A-Za-z0-9_.+-]{0,253}$`)

// Address is a job's: of which project, and which one.
type Address struct {
	Project string
	Job     int64
}

// errForm is the only way in which an address can be wrong that is not a mistake
// of its host.
var errForm = errors.New("the address of a job looks like https://gitlab.example.com/group/project/-/jobs/123")

// ErrOtherHost is an address of none of the configured GitLabs, which alone are
// requested.
var ErrOtherHost = errors.New("this address is of none of the GitLabs that are monitored here")

// Parse finds the GitLab of a job's address among the given base addresses, and
// the job. Nothing of the address but the path below the base is used. chosen is
// the GitLab that the user names, whose browsers may know it under another
// address than the exporter does; -1: none.
func Parse(address string, bases []string, chosen int) (base int, a Address, err error) {
	if len(address) > maxURL {
		return -1, a, fmt.Errorf("the address has %d characters, at most %d are read", len(address), maxURL)
	}
	u, err := url.Parse(strings.TrimSpace(address))
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.Opaque != "" {
		return -1, a, errForm
	}
	if u.User != nil {
		return -1, a, errors.New("the address holds a user or a password: leave it out")
	}
	// The longest base wins: https://host and https://host/gitlab may both be monitored.
	best, below, longest := -1, "", -1
	for i, text := range bases {
		b, err := url.Parse(text)
		if err != nil || chosen >= 0 && i != chosen || chosen < 0 && !sameHost(u, b) {
			continue
		}
		root := strings.TrimRight(b.EscapedPath(), "/")
		if rest, ok := strings.CutPrefix(u.EscapedPath(), root+"/"); ok && len(root) > longest {
			best, below, longest = i, rest, len(root)
		}
	}
	if best < 0 {
		return -1, a, ErrOtherHost
	}
	a, err = parsePath(below)
	return best, a, err
}

// SameHost reports whether the address that GitLab itself gives of a job is of the
// host that was asked for.
func SameHost(asked, own string) bool {
	a, err := url.Parse(strings.TrimSpace(asked))
	if err != nil {
		return false
	}
	b, err := url.Parse(own)
	return err == nil && sameHost(a, b)
}

// parsePath reads the path of a job below the root of its GitLab.
func parsePath(path string) (a Address, err error) {
	project, rest, ok := strings.Cut(path, "/-/jobs/")
	if !ok {
		return a, errForm
	}
	number, _, _ := strings.Cut(rest, "/") // .../raw, .../artifacts
	job, err := strconv.ParseInt(number, 10, 64)
	if err != nil || job <= 0 || strings.TrimLeft(number, "0123456789") != "" {
		return a, errForm
	}
	parts := strings.Split(project, "/")
	if len(parts) < 2 || len(parts) > maxSegments {
		return a, errForm
	}
	for _, p := range parts {
		if !segment.MatchString(p) {
			return a, errForm
		}
	}
	return Address{Project: project, Job: job}, nil
}

// ProjectOf is the project's path in the address that GitLab itself gives of a
// job, below the root of base: it may have been renamed since the address that was
// asked for. "": it cannot be read.
func ProjectOf(webURL, base string) string {
	u, err := url.Parse(webURL)
	if err != nil {
		return ""
	}
	b, err := url.Parse(base)
	if err != nil {
		return ""
	}
	below, ok := strings.CutPrefix(u.EscapedPath(), strings.TrimRight(b.EscapedPath(), "/")+"/")
	if !ok {
		return ""
	}
	a, err := parsePath(below)
	if err != nil {
		return ""
	}
	return a.Project
}

func sameHost(a, b *url.URL) bool {
	return strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

// port is the same for http and https at their usual ports: who pastes an
// address may have either.
func port(u *url.URL) string {
	switch p := u.Port(); {
	case p == "" || p == "80" && u.Scheme == "http" || p == "443" && u.Scheme == "https":
		return ""
	default:
		return p
	}
}
