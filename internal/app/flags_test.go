package app

import (
	"bytes"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
)

// runOnce runs the program to its end.
func runOnce(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs buffer
	code = Run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestExitStatusByTheKindOfEnd(t *testing.T) {
	for _, name := range []string{"GITLAB_TOKEN"} {
		t.Setenv(name, "")
	}
	good := configFile(t, "gitlabs:\n"+entry("a", "http://127.0.0.1:1", ""))
	badWeb := filepath.Join(t.TempDir(), "web.yml")
	write(t, badWeb, "tls_server_config: {cert_file: missing.pem, key_file: missing.key}\n")
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close() //nolint:errcheck // a test's
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	url := "--gitlab.url=http://127.0.0.1:1"
	dir := t.TempDir()
	shapeless, keyed, misspelt := filepath.Join(dir, "shapeless.yml"), filepath.Join(dir, "keyed.yml"), filepath.Join(dir, "misspelt.yml")
	write(t, shapeless, "basic_auth_users: Pa55w0rd-of-the-web\n")
	write(t, keyed, "Pa55w0rd-of-the-web: a\n")
	write(t, misspelt, "basic_auth_user: {a: b}\n")

	for _, tt := range []struct {
		name string
		args string
		code int
		want string // in stdout or stderr
	}{
		{"help", "--help", exitOK, "--web.listen-address"},
		{"help names environment variables", "--help", exitOK, "GITLAB_RUNNER_FLEET_CONFIG_FILE"},
		{"version", "--version", exitOK, program + ", version"},
		{"version wins over what else is given", "--version --demo", exitOK, program + ", version"},
		{"nothing", "", exitUsage, "--demo "},
		{"unknown flag", "--no-such-flag", exitUsage, "no-such-flag"},
		{"argument", "--demo " + testToken, exitUsage, "belongs to no flag"},
		{"argument after the flags", "--demo -- " + testToken, exitUsage, "belongs to no flag"},
		{"argument that names a file", "--demo @" + testToken, exitUsage, "belongs to no flag"},
		{"token for a flag", "--" + testToken + "7", exitUsage, "unknown flag"},
		{"token for the value of no flag", "--gitlab.token=" + testToken, exitUsage, "gitlab.token"},
		{"flag without its value", "--config.file", exitUsage, "config.file"},
		{"log level", "--demo --log.level=loud", exitUsage, "loud"},
		{"log format", "--demo --log.format=xml", exitUsage, "xml"},
		{"shard count zero", "--demo --shard.count=0", exitUsage, "--shard.count"},
		{"shard count a word", "--demo --shard.count=two", exitUsage, "two"},
		{"shard index too high", "--demo --shard.count=2 --shard.index=2", exitUsage, "between 0 and 1"},
		{"shard index negative", "--demo --shard.index=-1", exitUsage, "--shard.index"},
		{"telemetry path relative", "--demo --web.telemetry-path=metrics", exitUsage, "slash"},
		{"telemetry path reserved", "--demo --web.telemetry-path=/-/ready", exitUsage, "another meaning"},
		{"telemetry path of the health page", "--demo --web.telemetry-path=/fleet", exitUsage, "another meaning"},
		{"telemetry path root", "--demo --web.telemetry-path=/", exitUsage, "another meaning"},
		{"telemetry path a pattern", "--demo --web.telemetry-path=/{x}", exitUsage, "plain path"},
		{"telemetry path unclean", "--demo --web.telemetry-path=/a//b", exitUsage, "plain path"},
		{"file and url", "--config.file=" + good + " " + url, exitUsage, "both given"},
		{"demo and file", "--demo --config.file=" + good, exitUsage, "--demo"},
		{"demo and check", "--demo --gitlab.check", exitUsage, "nothing to check"},
		{"two checks", "--config.check --gitlab.check --config.file=" + good, exitUsage, "both given"},
		{"token file without url", "--gitlab.token-file=" + file + " --config.file=" + good, exitUsage, "credentials_file"},
		{"url without a token", url, exitUsage, "GITLAB_TOKEN"},
		{"missing file", "--config.file=/nonexistent.yml", exitFailure, "no such file"},
		{"missing file checked", "--config.check --config.file=/nonexistent.yml", exitFailure, "no such file"},
		{"good file checked", "--config.check --config.file=" + good, exitOK, "the configuration is valid"},
		{"bad web configuration", "--storage.path= --web.config.file=" + badWeb + " --config.file=" + good, exitFailure, "missing.pem"},
		{"bad web configuration checked", "--config.check --web.config.file=" + badWeb + " --config.file=" + good, exitFailure, "missing.pem"},
		{"password in the wrong place of the web configuration", "--config.check --web.config.file=" + shapeless + " --config.file=" + good, exitFailure, "cannot unmarshal"},
		{"password for a key of the web configuration", "--config.check --web.config.file=" + keyed + " --config.file=" + good, exitFailure, "field (not shown) not found"},
		{"misspelt key of the web configuration", "--config.check --web.config.file=" + misspelt + " --config.file=" + good, exitFailure, "field basic_auth_user not found"},
		{"address taken", "--storage.path= --config.file=" + good + " --web.listen-address=" + taken.Addr().String(), exitFailure, "in use"},
		{"address nonsense", "--storage.path= --config.file=" + good + " --web.listen-address=nonsense", exitFailure, "nonsense"},
		{"no systemd", "--storage.path= --config.file=" + good + " --web.systemd-socket", exitFailure, "socket unit"},
		{"storage is a file", "--storage.path=" + file + " --config.file=" + good + " --web.listen-address=127.0.0.1:0", exitFailure, "storage folder " + file},
		{"storage below a file", "--storage.path=" + file + "/data --config.file=" + good + " --web.listen-address=127.0.0.1:0", exitFailure, "storage folder " + file + "/data (--storage.path)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := runOnce(t, strings.Fields(tt.args)...)
			if code != tt.code {
				t.Errorf("exit status %d, want %d", code, tt.code)
			}
			if !strings.Contains(stdout+stderr, tt.want) {
				t.Errorf("lacks %q:\n%s%s", tt.want, stdout, stderr)
			}
			if strings.Contains(stderr, "goroutine ") || strings.Contains(stderr, testToken) || strings.Contains(stderr, "Pa55w0") {
				t.Errorf("a stack trace or a secret:\n%s", stderr)
			}
		})
	}
}

// TestRulesPrintNeedsNoConfiguration: the rules come without any configuration; wrong values are named.
func TestRulesPrintNeedsNoConfiguration(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good.yml", "alerts: {GitLabRunnerOffline: {minutes: 77}}\n")
	bad := write("bad.yml", "alerts:\n  GitLabRunnerOffline: {minute: 77}\njob: 7\n")
	for _, c := range []struct {
		args      []string
		code      int
		out, errs []string
	}{
		{[]string{"--rules.print"}, 0, []string{"\ngroups:\n", "alert: GitLabRunnerTagLost\n"}, nil},
		{[]string{"--rules.print", "--rules.values=" + good, "--rules.format=mimir"}, 0, []string{"namespace: gitlab-runner-fleet\n", "60 * 77"}, nil},
		{[]string{"--rules.print", "--rules.format=operator"}, 0, []string{"kind: PrometheusRule\n"}, nil},
		{[]string{"--rules.print", "--rules.values=" + bad}, 1, nil, []string{bad + ":2: alerts.GitLabRunnerOffline.minute: unknown key", bad + ":3: job: want text"}},
		{[]string{"--rules.print", "--rules.values=" + filepath.Join(dir, "none.yml")}, 1, nil, []string{"none.yml"}},
		{[]string{"--rules.print", "--rules.format=helm"}, 2, nil, []string{"prometheus,operator,mimir"}},
		{[]string{"--rules.values=" + good}, 2, nil, []string{"--rules.print"}},
	} {
		var out, errs bytes.Buffer
		if code := Run(t.Context(), c.args, &out, &errs); code != c.code {
			t.Errorf("%q: exit status %d, want %d: %s", c.args, code, c.code, errs.String())
		}
		for _, want := range c.out {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q: does not print %q", c.args, want)
			}
		}
		for _, want := range c.errs {
			if !strings.Contains(errs.String(), want) || out.Len() > 0 {
				t.Errorf("%q: error %q, want %q, and no rules", c.args, errs.String(), want)
			}
		}
	}
}

// TestFlagsAndTokenComeFromTheEnvironment holds that a flag may come by its variable, and the
// token by its own.
func TestFlagsAndTokenComeFromTheEnvironment(t *testing.T) {
	t.Setenv("GITLAB_TOKEN", "glpat-of-the-environment")
	t.Setenv("GITLAB_RUNNER_FLEET_GITLAB_URL", "https://gitlab.example.org/root")
	t.Setenv("GITLAB_RUNNER_FLEET_CONFIG_CHECK", "true")
	code, stdout, stderr := runOnce(t)
	if code != exitOK || !strings.Contains(stdout, "https://gitlab.example.org/root") {
		t.Errorf("%d: %s%s", code, stdout, stderr)
	}
	if strings.Contains(stdout+stderr, "glpat-of-the-environment") {
		t.Error("the token is shown")
	}
}

var wantLine = regexp.MustCompile(`^line (\d+): (?:([^ ]+): )?(.*)$`)

// TestRefusedConfigurationsEndAtOnce starts the program with each configuration that config
// refuses: it must end with 1, at once, and name each mistake.
func TestRefusedConfigurationsEndAtOnce(t *testing.T) {
	archive, err := txtar.ParseFile("../../config/testdata/refused.txtar")
	if err != nil {
		t.Fatal(err)
	}
	files, err := txtar.FS(archive)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for folder, from := range map[string]fs.FS{"refused": files, "files": os.DirFS("../../config/testdata/files")} {
		if err := os.CopyFS(filepath.Join(dir, "testdata", folder), from); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir) // the expected texts name files from there
	inputs, err := filepath.Glob("testdata/refused/*.yml")
	if err != nil || len(inputs) < 100 {
		t.Fatalf("%d files, error %v", len(inputs), err)
	}
	for _, file := range inputs {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yml"), func(t *testing.T) {
			data, err := os.ReadFile(strings.TrimSuffix(file, ".yml") + ".want")
			if err != nil {
				t.Fatal(err)
			}
			want := string(data)

			began := time.Now()
			code, _, stderr := runOnce(t, "--config.check", "--config.file="+file)
			if took := time.Since(began); took > time.Second {
				t.Errorf("took %s", took)
			}
			if code != exitFailure || !strings.Contains(stderr, strings.TrimSuffix(want, "\n")) {
				t.Errorf("check: exit status %d\n%s\nwant\n%s", code, stderr, want)
			}

			code, _, stderr = runOnce(t, "--storage.path=", "--config.file="+file)
			if code != exitFailure {
				t.Errorf("start: exit status %d", code)
			}
			if got, lines := strings.Count(stderr, "level=error"), strings.Count(want, "\n"); got != lines {
				t.Errorf("%d log lines for %d mistakes:\n%s", got, lines, stderr)
			}
			for line := range strings.Lines(want) {
				m := wantLine.FindStringSubmatch(strings.TrimSpace(line))
				if m != nil && !strings.Contains(stderr, "line="+m[1]+" path="+m[2]) {
					t.Errorf("no line=%s path=%s in\n%s", m[1], m[2], stderr)
				}
			}
			if strings.Contains(stderr, "CANARY") || strings.Contains(stderr, "goroutine ") {
				t.Errorf("a secret or a stack trace:\n%s", stderr)
			}
		})
	}
}

// TestUnknownFamilyIsRefused: only the collector has the names.
func TestUnknownFamilyIsRefused(t *testing.T) {
	file := configFile(t, "gitlabs:\n"+entry("a", "http://127.0.0.1:1", "")+"metrics: {disable: [runer_info]}\n")
	code, _, stderr := runOnce(t, "--config.check", "--config.file="+file)
	if code != exitFailure || !strings.Contains(stderr, "line 5") || !strings.Contains(stderr, "runner_info") {
		t.Errorf("%d: %s", code, stderr)
	}
}
