package app

import (
	"runtime/debug"

	"github.com/prometheus/common/version"
)

// program is what the binary, its metrics and its User-Agent are called.
const program = "gitlab_runner_fleet_exporter"

// FillVersion takes the version from what the Go tool wrote into the binary
// where the build did not set it with -ldflags, as `go install` does not. It is
// main's to call, once, because it writes into prometheus/common/version.
func FillVersion() {
	if version.Version != "" {
		return
	}
	version.Version = "unknown"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version.Version = info.Main.Version
	}
}

func userAgent() string {
	if version.Version == "" {
		return program
	}
	return program + "/" + version.Version
}
