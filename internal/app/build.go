package app

import (
	"cmp"
	"regexp"
	"runtime/debug"

	"github.com/prometheus/common/version"
)

// program is what the binary, its metrics and its User-Agent are called.
const program = "gitlab_runner_fleet_exporter"

// FillVersion takes what --version prints from what the Go tool wrote into the
// binary where the build did not set it with -ldflags, as `go install` and `go
// build` do not. It is main's to call, once, because it writes into
// prometheus/common/version.
func FillVersion() {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	fillVersion(info)
}

// pseudoRevision is the commit in the version of a module without a tag.
var pseudoRevision = regexp.MustCompile(`[.-]\d{14}-([0-9a-f]{12})(?:\+\w+)?$`)

const notKnown = "unknown"

func fillVersion(info *debug.BuildInfo) {
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	revision := settings["vcs.revision"]
	if m := pseudoRevision.FindStringSubmatch(info.Main.Version); revision == "" && m != nil {
		revision = m[1]
	}
	if revision != "" && settings["vcs.modified"] == "true" {
		revision += "-modified"
	}
	for to, value := range map[*string]string{
		&version.Version:   info.Main.Version,
		&version.Revision:  revision,
		&version.Branch:    "",
		&version.BuildDate: settings["vcs.time"],
		&version.BuildUser: "",
	} {
		if *to == "" {
			*to = cmp.Or(value, notKnown)
		}
	}
}

func userAgent() string {
	if version.Version == "" {
		return program
	}
	return program + "/" + version.Version
}
