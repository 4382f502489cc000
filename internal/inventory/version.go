package inventory

import (
	"cmp"
	"strconv"
	"strings"
)

// mostMajor is the highest major release that is taken for one. A runner sends its
// version itself, and releases are counted one by one from it to the newest.
const mostMajor = 999

// parseVersion reads "17.5.0", "17.5.0~pre.88.gb8e0d7d1" or "19.1.0-ee".
func parseVersion(s string) (major, minor, patch int, ok bool) {
	s = strings.TrimPrefix(s, "v")
	parts := strings.SplitN(s, ".", 3)
	if len(parts) < 2 {
		return 0, 0, 0, false
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(leadingDigits(parts[1]))
	if err1 != nil || err2 != nil || major < 0 || major > mostMajor {
		return 0, 0, 0, false
	}
	if len(parts) == 3 {
		patch, _ = strconv.Atoi(leadingDigits(parts[2]))
	}
	return major, minor, patch, true
}

func leadingDigits(s string) string {
	for i, c := range s {
		if c < '0' || c > '9' {
			return s[:i]
		}
	}
	return s
}

// compareVersions orders versions; one that cannot be read counts as oldest,
// so that it is looked at.
func compareVersions(a, b string) int {
	am, an, ap, aok := parseVersion(a)
	bm, bn, bp, bok := parseVersion(b)
	if !aok || !bok {
		switch {
		case aok:
			return 1
		case bok:
			return -1
		}
		return strings.Compare(a, b)
	}
	return cmp.Or(cmp.Compare(am, bm), cmp.Compare(an, bn), cmp.Compare(ap, bp))
}

// minorsIn is the number of minor releases of a major: 12 (X.0 to X.11) but
// for these, as GitLab released them.
func minorsIn(major int) int {
	switch major {
	case 9:
		return 6
	case 10:
		return 9
	case 12, 14:
		return 11
	case 13:
		return 13
	default:
		return 12
	}
}

// behind counts the minor releases from v to newest; -1 where one cannot be read.
func behind(v, newest string) int {
	am, an, _, aok := parseVersion(v)
	bm, bn, _, bok := parseVersion(newest)
	if !aok || !bok {
		return -1
	}
	if am > bm {
		return 0
	}
	n := bn - an
	for m := am; m < bm; m++ {
		n += minorsIn(m)
	}
	return max(n, 0)
}
