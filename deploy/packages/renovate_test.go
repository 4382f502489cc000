// Package packages tries what a release consists of: the Debian and the RPM
// package, installed, started, upgraded, removed and purged in a copy of this
// Debian, the archives, and the files of those who build and renew them.
package packages

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func text(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestRenovateFindsEachPin: a pattern that matches nothing is no error to
// renovate, and the tool behind it would stay at its version for ever.
func TestRenovateFindsEachPin(t *testing.T) {
	var config struct {
		PackageRules []struct {
			MatchFileNames []string
		}
		CustomManagers []struct {
			ManagerFilePatterns, MatchStrings []string
			DatasourceTemplate                string
		}
	}
	if err := json.Unmarshal([]byte(text(t, "renovate.json")), &config); err != nil {
		t.Fatal(err)
	}
	for _, rule := range config.PackageRules {
		for _, name := range rule.MatchFileNames {
			text(t, name)
		}
	}

	found := map[string][]string{} // by datasource
	for _, m := range config.CustomManagers {
		for i, pattern := range m.ManagerFilePatterns {
			path := regexp.MustCompile(`^/\^|\$/$|\\`).ReplaceAllString(pattern, "")
			for _, pin := range regexp.MustCompile(m.MatchStrings[i]).FindAllStringSubmatch(text(t, path), -1) {
				found[m.DatasourceTemplate] = append(found[m.DatasourceTemplate], strings.Join(pin[1:], " "))
			}
		}
	}
	tools := text(t, "test/tools.sh")
	for datasource, list := range map[string]string{"go": "list", "npm": "npm"} {
		_, lines, ok := strings.Cut(tools, "\n"+list+"=$(cat <<'LIST'\n")
		if !ok {
			t.Fatalf("test/tools.sh has no list of %s", datasource)
		}
		lines, _, _ = strings.Cut(lines, "LIST\n")
		for line := range strings.Lines(lines) {
			fields := strings.Fields(line)
			if strings.Contains(fields[0], "-") {
				continue // a commit, which is no release
			}
			if pin := strings.Join(fields[:2], " "); !slices.Contains(found[datasource], pin) {
				t.Errorf("renovate.json does not find %s", pin)
			}
		}
	}
	if images := strings.Count(text(t, "deploy/compose/compose.yml"), "_VERSION:-"); len(found["docker"]) != images || images == 0 {
		t.Errorf("renovate.json finds %q of %d images of deploy/compose", found["docker"], images)
	}
}
