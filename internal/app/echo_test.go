package app

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// echo answers every request with the credentials it came with, in the place
// that the first part of the path names.
type echo struct {
	t       *testing.T
	rotated *atomic.Bool // the second token arrived
}

// received are all credentials of a request, decoded ones too.
func received(r *http.Request) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if strings.HasPrefix(name, "Accept") || name == "User-Agent" || name == "Connection" || strings.HasPrefix(name, "Content-") {
			continue
		}
		all = append(all, r.Header.Values(name)...)
	}
	if _, password, ok := r.BasicAuth(); ok {
		all = append(all, password)
	}
	return strings.Join(all, " ")
}

func (e echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	what := received(r) + " " + r.PostForm.Get("client_secret")
	if strings.Contains(what, "rotated-") {
		e.rotated.Store(true)
	}
	if r.Method == http.MethodConnect {
		e.raw(w, "HTTP/1.1 403 "+what+"\r\nContent-Length: 0\r\n\r\n")
		return
	}
	place, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch place {
	case "give":
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"access_token":"access-` + canary + `","token_type":"Bearer","expires_in":3600}`))
	case "text":
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(what))
	case "json":
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(map[string]string{"message": "403 Forbidden - " + what})
	case "html":
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte("<html><title>" + what + "</title></html>"))
	case "requestid":
		w.Header().Set("X-Request-Id", what[max(0, len(what)-60):])
		if r.Header.Get("Private-Token") != "" {
			w.Header().Set("X-Request-Id", r.Header.Get("Private-Token"))
		}
		w.WriteHeader(http.StatusBadRequest)
	case "redirect":
		w.Header().Set("Location", "https://127.0.0.2:1/"+strings.ReplaceAll(what, " ", "/")+"?token="+what)
		w.WriteHeader(http.StatusFound)
	case "type":
		w.Header().Set("Content-Type", what)
		_, _ = w.Write([]byte(`{"a": "` + what + `"}`))
	case "status":
		e.raw(w, "HTTP/1.1 "+strings.TrimPrefix(strings.TrimPrefix(what, "Bearer "), "Basic ")+"\r\n\r\n")
	case "header":
		e.raw(w, "HTTP/1.1 200 OK\r\n"+what+"\r\n\r\n")
	case "graphql":
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]any{"message": "Field '" + what + "' doesn't exist on type 'Query'"}}})
	case "names":
		e.names(w, rest, what)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// names is a GitLab that works, and whose every name holds the credentials.
func (e echo) names(w http.ResponseWriter, path, what string) {
	row := map[string]any{"id": 1, "description": what, "runner_type": "instance_type", "status": "online", "online": true, "paused": false}
	var answer any = []any{}
	switch strings.TrimPrefix(path, "api/v4") {
	case "/metadata":
		answer = map[string]any{"version": "18.0.0-" + what}
	case "/personal_access_tokens/self":
		answer = map[string]any{"name": what, "user_id": 1, "scopes": []string{"read_api"}}
	case "/runners/all":
		answer = []any{row}
	case "/runners/1":
		maps.Copy(row, map[string]any{"tag_list": []string{what}, "version": what, "platform": what, "architecture": what, "groups": []any{map[string]any{"web_url": "https://h/groups/" + what}}})
		answer = row
	case "/runners/1/managers":
		answer = []any{map[string]any{"id": 1, "version": what, "platform": what, "architecture": what, "status": "online"}}
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		e.t.Error(err)
	}
}

func (e echo) raw(w http.ResponseWriter, answer string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		e.t.Error(err)
		return
	}
	defer conn.Close() //nolint:errcheck // the answer is broken anyway
	_, _ = conn.Write([]byte(answer))
}

// TestSecretsInForeignTextsAreMasked plants each kind of secret in each place that a
// text from outside can come from, and looks for it wherever somebody reads.
func TestSecretsInForeignTextsAreMasked(t *testing.T) {
	var rotated atomic.Bool
	srv := httptest.NewServer(echo{t, &rotated})
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	for _, name := range []string{"token", "header", "password"} {
		write(t, filepath.Join(dir, name), "file-"+name+"-"+canary+"\n")
	}
	host := strings.TrimPrefix(srv.URL, "http://")
	withToken := ", http_headers: {PRIVATE-TOKEN: {files: [token]}}"
	kinds := map[string]string{
		"credentials":  `authorization: {credentials: inline-C}`,
		"file":         `authorization: {credentials_file: token}`,
		"headers":      `http_headers: {PRIVATE-TOKEN: {secrets: [header-C]}, X-Corp: {secrets: [corporate-C]}, X-File: {files: [header]}, Cookie: {values: ["session=cookie-C; id=second-C"]}}`,
		"basic":        `basic_auth: {username: user, password: basic-C}` + withToken,
		"passwordfile": `basic_auth: {username: user, password_file: password}` + withToken,
		"oauth":        `oauth2: {client_id: id, client_secret: client-C, token_url: "` + srv.URL + `/give"}`,
		"proxy":        `authorization: {credentials: inline-C}, proxy_url: "http://user:proxy-C@` + host + `"`,
	}
	places := []string{"text", "json", "html", "requestid", "redirect", "type", "status", "header", "graphql", "names"}
	// A check asks one GitLab after the other, and each broken connection four
	// times, so that it gets some of them only.
	var text, checked strings.Builder
	text.WriteString(fastPoll + "gitlabs:\n")
	checked.WriteString("gitlabs:\n")
	var names []string
	add := func(name, url, more string) {
		names = append(names, name)
		entry := fmt.Sprintf("  - {name: %s, url: %q, %s}\n", name, url, more)
		text.WriteString(entry)
		if strings.HasPrefix(name, "headers-") && name != "headers-status" && name != "headers-header" {
			checked.WriteString(entry)
		}
	}
	fill := strings.NewReplacer("-C]", "-"+canary+"]", "-C}", "-"+canary+"}", "-C,", "-"+canary+",", "-C@", "-"+canary+"@", `-C"`, "-"+canary+`"`, "-C;", "-"+canary+";")
	for kind, more := range kinds {
		for _, place := range places {
			api := ""
			switch place {
			case "graphql":
				api = ", api: graphql"
			case "names":
				api = ", api: rest"
			}
			add(kind+"-"+place, srv.URL+"/"+place, fill.Replace(more)+api)
		}
	}
	add("connect", "https://gitlab.example.invalid", fill.Replace(`authorization: {credentials: inline-C}, proxy_url: "http://user:proxy-C@`+host+`", proxy_connect_header: {X-Proxy: [connect-C]}`))
	add("proxydown", "https://gitlab.example.invalid", fill.Replace(`authorization: {credentials: inline-C}, proxy_url: "http://user:proxy-C@127.0.0.1:1"`))
	for _, place := range []string{"text", "json", "status", "redirect"} {
		add("endpoint-"+place, srv.URL+"/text", fill.Replace(`oauth2: {client_id: id, client_secret: client-C, token_url: "`+srv.URL+"/"+place+`"}`))
	}
	file := filepath.Join(dir, "config.yml")
	write(t, file, text.String())

	if code, _, out := runOnce(t, "--config.check", "--config.file="+file); code != exitOK {
		t.Fatal(out)
	}
	r := startProcess(t, []string{"GITLAB_TOKEN=env-" + canary}, "--config.file="+file, "--storage.path="+filepath.Join(dir, "state"), "--log.level=debug")
	eventually(t, 60*time.Second, "each GitLab was tried", func() bool {
		status, _ := r.get("/-/ready")
		return status == http.StatusOK
	})
	// Rotated, the token before is still one.
	write(t, filepath.Join(dir, "token"), "rotated-"+canary)
	eventually(t, 60*time.Second, "the second token is used", rotated.Load)
	seen := map[string]string{}
	for _, path := range []string{"/", "/metrics", "/-/ready"} {
		_, seen[path] = r.get(path)
	}
	r.stop()
	seen["the log"], seen["stdout"] = r.stderr.String(), r.stdout.String()
	_, stdout, stderr := runOnce(t, "--config.check", "--config.file="+file)
	seen["--config.check"] = stdout + stderr
	write(t, file, checked.String())
	_, stdout, stderr = runOnce(t, "--gitlab.check", "--config.file="+file)
	seen["--gitlab.check"] = stdout + stderr

	look := []string{canary}
	for _, pair := range []string{"user:basic-", "user:file-password-", "user:proxy-", "id:client-"} {
		look = append(look, base64.StdEncoding.EncodeToString([]byte(pair + canary))[:24])
	}
	for where, text := range seen {
		for _, secret := range look {
			if at := strings.Index(text, secret); at >= 0 {
				t.Errorf("a secret in %s: …%s…", where, text[max(0, at-300):min(len(text), at+60)])
			}
		}
	}
	// And each was there to be masked: otherwise this test proves nothing.
	for _, name := range names {
		if name == "proxydown" {
			continue
		}
		masked := false
		for line := range strings.Lines(seen["the log"]) {
			masked = masked || strings.Contains(line, " gitlab="+name+" ") && strings.Contains(line, "***")
		}
		if !masked && name != "endpoint-redirect" && !strings.Contains(name, "-requestid") {
			t.Errorf("nothing was masked in the log of %s", name)
		}
	}
	if !strings.Contains(seen["/metrics"], `version="18.0.0-`) || strings.Count(seen["/metrics"], "***") < 10 || !strings.Contains(seen["--gitlab.check"], "***") {
		t.Errorf("the names of GitLab are not shown: this test proves nothing\n%s", seen["--gitlab.check"])
	}
	if _, err := os.Stat(filepath.Join(dir, "state")); err != nil {
		t.Error(err)
	}
}
