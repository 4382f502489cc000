package app

import (
	"bytes"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/prometheus/common/version"
)

// TestUnusedEnvironmentIsNamed: a token or a proxy that somebody set in vain is
// named, and what it holds is not shown.
func TestUnusedEnvironmentIsNamed(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "token"), "a-token\n")
	const entry = "gitlabs:\n  - name: a\n    url: https://gitlab.example.com\n    authorization: {credentials_file: token}\n"
	for _, c := range []struct {
		name, more string
		env        map[string]string
		want       string // "": no warning
	}{
		{"nothing set", "", nil, ""},
		{"token", "", map[string]string{"GITLAB_TOKEN": "glpat-canary"}, "GITLAB_TOKEN is set and not used"},
		{"proxy", "", map[string]string{"HTTPS_PROXY": "http://canary:canary@proxy:3128"}, "proxy_from_environment: true"},
		{"small letters", "", map[string]string{"https_proxy": "http://proxy:3128"}, "proxy_from_environment: true"},
		{"proxy for other addresses", "", map[string]string{"HTTP_PROXY": "http://proxy:3128"}, ""},
		{"no proxy for this one", "", map[string]string{"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".example.com"}, ""},
		{"proxy from the environment", "    proxy_from_environment: true\n", map[string]string{"HTTPS_PROXY": "http://proxy:3128"}, ""},
		{"proxy of its own", "    proxy_url: http://other:3128\n", map[string]string{"HTTPS_PROXY": "http://proxy:3128"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, name := range []string{"GITLAB_TOKEN", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"} {
				t.Setenv(name, c.env[name])
			}
			file := filepath.Join(dir, "config.yml")
			write(t, file, entry+c.more)
			var out, errs bytes.Buffer
			if code := Run(t.Context(), []string{"--config.file=" + file, "--config.check"}, &out, &errs); code != exitOK {
				t.Fatalf("exit status %d: %s", code, errs.String())
			}
			if got := strings.Contains(out.String(), "is set and not used"); got != (c.want != "") || !strings.Contains(out.String(), c.want) {
				t.Errorf("want %q in\n%s", c.want, out.String())
			}
			if strings.Contains(out.String(), "canary") {
				t.Errorf("a secret is shown:\n%s", out.String())
			}
		})
	}
}

// TestVersionHasNoEmptyField: whatever the build left out, --version shows what is known and that the rest is not.
func TestVersionHasNoEmptyField(t *testing.T) {
	fields := []*string{&version.Version, &version.Revision, &version.Branch, &version.BuildDate, &version.BuildUser}
	before := make([]string, len(fields))
	for i, f := range fields {
		before[i] = *f
	}
	t.Cleanup(func() {
		for i, f := range fields {
			*f = before[i]
		}
	})
	const commit = "0123456789abcdef0123456789abcdef01234567"
	for _, c := range []struct {
		name string
		set  string // by -ldflags
		info debug.BuildInfo
		want []string // version, revision, branch, date, user
	}{
		{"nothing", "", debug.BuildInfo{}, []string{"unknown", "unknown", "unknown", "unknown", "unknown"}},
		{
			"go build", "",
			debug.BuildInfo{
				Main: debug.Module{Version: "v1.2.3"},
				Settings: []debug.BuildSetting{
					{Key: "vcs.revision", Value: commit}, {Key: "vcs.time", Value: "2026-11-29T12:00:00Z"}, {Key: "vcs.modified", Value: "true"},
				},
			},
			[]string{"v1.2.3", commit + "-modified", "unknown", "2026-11-29T12:00:00Z", "unknown"},
		},
		{
			"go install", "",
			debug.BuildInfo{Main: debug.Module{Version: "v0.0.0-20261129120000-0123456789ab"}},
			[]string{"v0.0.0-20261129120000-0123456789ab", "0123456789ab", "unknown", "unknown", "unknown"},
		},
		{"make build", "given", debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, []string{"given", "given", "given", "given", "given"}},
	} {
		for _, f := range fields {
			*f = c.set
		}
		fillVersion(&c.info)
		for i, f := range fields {
			if *f != c.want[i] {
				t.Errorf("%s: field %d is %q, not %q", c.name, i, *f, c.want[i])
			}
		}
		for line := range strings.Lines(version.Print(program)) {
			if strings.HasSuffix(strings.TrimSpace(line), ":") {
				t.Errorf("%s: an empty field: %q", c.name, line)
			}
		}
	}
}
