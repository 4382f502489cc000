//go:build ship

package packages

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"gitlab-runner-fleet-exporter/internal/gitlabsim"
	"gitlab-runner-fleet-exporter/test/rig"
)

// checkout is a clone with a remote, which goreleaser wants to see.
func checkout(t *testing.T) string {
	t.Helper()
	dir := rig.Checkout(t)
	rig.Run(t, "git", "-C", dir, "remote", "set-url", "origin", "https://github.com/example/gitlab_runner_fleet_exporter.git")
	return dir
}

// in runs one of the tools in a folder.
func in(t *testing.T, dir string, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, ".tools", name), args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	rig.Output(t, cmd)
}

// TestShipReleaseFilesAreValid asks those who read them: goreleaser, actionlint,
// GitLab's own schema by a program that evaluates its rules, and renovate's.
func TestShipReleaseFilesAreValid(t *testing.T) {
	dir := checkout(t)
	in(t, dir, nil, "goreleaser", "check")
	in(t, dir, nil, "actionlint")
	rig.Run(t, "/usr/bin/python3", "-m", "jsonschema", "--instance", filepath.Join(dir, "renovate.json"), filepath.Join(dir, ".tools/npm-renovate/package/renovate-schema.json"))

	local := func(args ...string) *exec.Cmd {
		script, err := filepath.EvalSymlinks(filepath.Join(dir, ".tools/npm-gitlab-ci-local/node_modules/gitlab-ci-local/src/index.js"))
		if err != nil {
			t.Fatalf("%v: make test-ship installs it", err)
		}
		cmd := exec.CommandContext(t.Context(), "node", append([]string{script}, args...)...)
		cmd.Dir = dir
		return cmd
	}
	// What runs by itself, by what a pipeline is for.
	for variables, want := range map[string][]string{
		"CI_PIPELINE_SOURCE=merge_request_event": {"test"},
		"CI_COMMIT_BRANCH=main":                  {"test"},
		"CI_COMMIT_TAG=v1.2.3":                   {"test", "test-ship", "release", "push-image"},
	} {
		var jobs []struct{ Name, When string }
		text := rig.Output(t, local("--list-json", "--variable", variables))
		// A warning about the variable stands before it.
		if i := strings.Index(text, "\n["); i >= 0 {
			text = text[i:]
		}
		if err := json.Unmarshal([]byte(text), &jobs); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		var have []string
		for _, job := range jobs {
			if job.When != "never" && job.When != "manual" {
				have = append(have, job.Name)
			}
		}
		if !slices.Equal(have, want) {
			t.Errorf("a pipeline with %s runs %v, want %v", variables, have, want)
		}
	}
	// The schema is asked at all.
	text, err := os.ReadFile(filepath.Join(dir, ".gitlab-ci.yml"))
	if err != nil {
		t.Fatal(err)
	}
	wrong := strings.Replace(string(text), "interruptible:", "interruptable:", 1)
	if err := os.WriteFile(filepath.Join(dir, "wrong.yml"), []byte(wrong), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := rig.Refused(t, local("--list", "--file", "wrong.yml")); !strings.Contains(out, "'interruptable' property is not expected") {
		t.Errorf("a wrong key is not refused by the schema:\n%s", out)
	}
}

// TestShipReleaseIsReproducible makes a release's files twice, in two folders with two homes:
// the same bytes, whole, and what docs/install.md says of them. The program is
// built a third time without anything in the cache of the compiler.
func TestShipReleaseIsReproducible(t *testing.T) {
	first, second := checkout(t), checkout(t)
	files := map[string]string{}
	for i, dir := range []string{first, second} {
		in(t, dir, []string{"HOME=" + t.TempDir(), "GOPATH=" + goEnv(t, "GOPATH"), "GOCACHE=" + goEnv(t, "GOCACHE")}, "goreleaser", "release", "--snapshot", "--clean")
		sums := released(t, dir)
		if i == 0 {
			files = sums
		} else if !maps.Equal(files, sums) {
			t.Errorf("two builds of one commit differ:\n%v\n%v", files, sums)
		}
	}
	names := strings.Join(slices.Sorted(maps.Keys(files)), "\n")
	for pattern, want := range map[string]int{
		`_(linux|darwin)_(amd64|arm64)\.tar\.gz`: 4, `_(linux|darwin)_(amd64|arm64)\.cdx\.json`: 4,
		`_(amd64|arm64)\.deb`: 2, `\.(x86_64|aarch64)\.rpm`: 2,
	} {
		if have := len(regexp.MustCompile(`(?m)`+pattern+`$`).FindAllString(names, -1)); have != want {
			t.Errorf("%d files %s, want %d:\n%s", have, pattern, want, names)
		}
	}

	archive := one(t, filepath.Join(first, "dist", "*_"+runtime.GOOS+"_"+runtime.GOARCH+".tar.gz"))
	holds := unpack(t, archive)
	install, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(install), "| in the archive |")
	table, _, _ = strings.Cut(table, "\n\n")
	var promised []string
	for _, m := range regexp.MustCompile("(?m)^\\| (`[^|]*) \\|").FindAllStringSubmatch(table, -1) {
		for name := range strings.SplitSeq(m[1], ", ") {
			promised = append(promised, strings.Trim(name, "`"))
		}
	}
	slices.Sort(promised)
	var have []string
	for name := range holds {
		if dir := path.Dir(name); dir == "dashboards" {
			name = dir + "/"
		}
		have = append(have, name)
	}
	slices.Sort(have)
	if have = slices.Compact(have); !slices.Equal(have, promised) {
		t.Errorf("the archive holds %q, docs/install.md names %q", have, promised)
	}

	var sbom struct {
		Components []struct{ Name, Version string }
	}
	if text, err := os.ReadFile(one(t, filepath.Join(first, "dist", "*_linux_amd64.cdx.json"))); err != nil || json.Unmarshal(text, &sbom) != nil || len(sbom.Components) < 15 {
		t.Errorf("an SBOM with %d components, %v", len(sbom.Components), err)
	}

	// Started as it was unpacked, and scraped.
	world := gitlabsim.New(gitlabsim.Options{Seed: 1, Runners: 12, Tags: 5, JobsPerHour: 500, Token: token, Healthy: true})
	url := serveWorld(t, world)
	bin := filepath.Join(t.TempDir(), "gitlab_runner_fleet_exporter")
	if err := os.WriteFile(bin, holds["gitlab_runner_fleet_exporter"], 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin, "--gitlab.url="+url, "--storage.path="+t.TempDir(), rig.AnyPort)
	cmd.Env = []string{"GITLAB_TOKEN=" + token}
	s := rig.ServeCommand(t, cmd)
	page := counted(t, s, 1, 0)
	revision := strings.TrimSpace(rig.Run(t, "git", "-C", first, "rev-parse", "HEAD"))
	if !strings.Contains(page, `revision="`+revision+`"`) || strings.Contains(page, `version=""`) {
		t.Error("the page does not show the version and revision")
	}

	in(t, second, []string{"GOCACHE=" + t.TempDir()}, "goreleaser", "build", "--snapshot", "--clean", "--single-target", "--skip=before")
	cold, err := os.ReadFile(one(t, filepath.Join(second, "dist", "*", "gitlab_runner_fleet_exporter")))
	if err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(cold) != sha256.Sum256(holds["gitlab_runner_fleet_exporter"]) {
		t.Error("a build without a cache gives another program")
	}
}

// released are the files of a release and their sums, which are those of the
// files indeed.
func released(t *testing.T, dir string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "dist/SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]string{}
	for line := range strings.Lines(string(text)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		file := filepath.Join(dir, "dist", name)
		if _, err := os.Stat(file); err != nil {
			file = filepath.Join(dir, ".packages", name)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if have := sha256.Sum256(data); hex.EncodeToString(have[:]) != sum {
			t.Errorf("%s has another sum than SHA256SUMS has", name)
		}
		sums[name] = sum
	}
	return sums
}

// unpack are the files of an archive.
func unpack(t *testing.T, path string) map[string][]byte {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for r := tar.NewReader(unzipped); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		if header.Uname != "root" {
			t.Errorf("%s belongs to %q", header.Name, header.Uname)
		}
		if out[header.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	return strings.TrimSpace(rig.Run(t, "go", "env", name))
}
