package gitlabsim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// curl sends a request as the examples of GitLab's Runner API page do: --form is multipart.
func curl(t *testing.T, w *World, method, token, path string, form ...string) reply {
	t.Helper()
	var buf bytes.Buffer
	m := multipart.NewWriter(&buf)
	for _, f := range form {
		k, v, _ := strings.Cut(f, "=")
		if err := m.WriteField(k, v); err != nil {
			t.Fatal(err)
		}
	}
	_ = m.Close()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://gitlab.example.com/api/v4"+path, &buf)
	if err != nil {
		t.Fatal(err)
	}
	if len(form) == 0 {
		req.Body, req.ContentLength = nil, 0
	} else {
		req.Header.Set("Content-Type", m.FormDataContentType())
	}
	if token != "" {
		req.Header.Set("PRIVATE-TOKEN", token)
	}
	res, err := w.RoundTripper().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(b)}
}

func (r reply) want(t *testing.T, status int) reply {
	t.Helper()
	if r.status != status {
		t.Errorf("status %d, want %d: %s", r.status, status, r.body)
	}
	return r
}

// TestSeedWrites goes through the write examples of GitLab's Runner API page.
func TestSeedWrites(t *testing.T) {
	for _, version := range []string{"15.11.0", "19.1.0-ee"} {
		t.Run(version, func(t *testing.T) {
			w, _ := newWorld(Options{Version: version})
			for i := range 9 {
				w.AddProject(fmt.Sprint("p", i), 1)
				w.AddGroup(fmt.Sprint("g", i), 0)
			}
			for i := range 9 {
				w.AddRunner(RunnerSpec{Projects: []int64{int64(i + 1)}, Tags: []string{"ruby", "mysql"}})
			}

			d := curl(t, w, "PUT", apiToken, "/runners/6", "description=test-1-20150125-test", "tag_list=ruby,mysql,tag1,tag2").want(t, 200).object(t)
			if d["description"] != "test-1-20150125-test" || fmt.Sprint(d["tag_list"]) != "[ruby mysql tag1 tag2]" {
				t.Errorf("updated %v", d)
			}
			for form, paused := range map[string]bool{"paused=true": true, "active=true": false, "active=false": true, "paused=false": false} {
				d := curl(t, w, "PUT", apiToken, "/runners/6", form).want(t, 200).object(t)
				if d["paused"] != paused || d["active"] != !paused {
					t.Errorf("%s: %v", form, d)
				}
			}

			row := curl(t, w, "POST", apiToken, "/projects/9/runners", "runner_id=7").want(t, 201).object(t)
			if row["id"] != 7.0 || row["runner_type"] != "project_type" {
				t.Errorf("enabled %v", row)
			}
			if n := len(must(t, w, "/projects/9/runners?type=project_type").rows(t)); n != 2 {
				t.Errorf("%d project runners", n)
			}
			curl(t, w, "POST", apiToken, "/projects/9/runners", "runner_id=7").want(t, 400)
			curl(t, w, "POST", apiToken, "/projects/9/runners", "runner_id=4711").want(t, 404)
			if r := curl(t, w, "DELETE", apiToken, "/projects/9/runners/7").want(t, 204); r.body != "" {
				t.Errorf("body %q", r.body)
			}
			curl(t, w, "DELETE", apiToken, "/projects/9/runners/7").want(t, 404)
			if r := curl(t, w, "DELETE", apiToken, "/projects/9/runners/9").want(t, 403); !strings.Contains(r.body, "Only one project") {
				t.Errorf("body %s", r.body)
			}

			reg := curl(t, w, "POST", "", "/runners", "token="+w.RegistrationToken(), "description=test-1-20150125-test", "tag_list=ruby,mysql,tag1,tag2",
				"info[version]=15.0.0", "maximum_timeout=3600", "access_level=ref_protected", "locked=true", "run_untagged=false", "paused=true").want(t, 201).object(t)
			id, token := int64(reg["id"].(float64)), reg["token"].(string)
			if reg["token_expires_at"] == nil || token == "" || token != w.AuthenticationToken(id) {
				t.Errorf("registered %v", reg)
			}
			d = must(t, w, fmt.Sprintf("/runners/%d", id)).object(t)
			if d["runner_type"] != "instance_type" || d["status"] != "never_contacted" || d["online"] != nil || d["run_untagged"] != false ||
				d["paused"] != true || d["locked"] != true || d["maximum_timeout"] != 3600.0 || d["access_level"] != "ref_protected" {
				t.Errorf("registered %v", d)
			}
			curl(t, w, "POST", "", "/runners", "token=wrong").want(t, 403)
			curl(t, w, "POST", "", "/runners", "description=x").want(t, 400)

			curl(t, w, "POST", "", "/runners/verify", "token="+token, "system_id=s_123").want(t, 200)
			curl(t, w, "POST", "", "/runners/verify", "token=wrong").want(t, 403)
			if d := must(t, w, fmt.Sprintf("/runners/%d", id)).object(t); d["online"] != true {
				t.Errorf("verified %v", d)
			}

			next := curl(t, w, "POST", apiToken, fmt.Sprintf("/runners/%d/reset_authentication_token", id)).want(t, 201).object(t)["token"].(string)
			curl(t, w, "POST", "", "/runners/verify", "token="+token).want(t, 403)
			own := curl(t, w, "POST", "", "/runners/reset_authentication_token", "token="+next).want(t, 201).object(t)["token"].(string)
			if next == token || own == next {
				t.Errorf("tokens %s %s %s", token, next, own)
			}
			curl(t, w, "DELETE", "", "/runners", "token="+next).want(t, 403)
			curl(t, w, "DELETE", "", "/runners", "token="+own).want(t, 204)
			get(t, w, fmt.Sprintf("/runners/%d", id)).want(t, 404)

			curl(t, w, "DELETE", apiToken, "/runners/6").want(t, 204)
			get(t, w, "/runners/6").want(t, 404)
			curl(t, w, "DELETE", apiToken, "/runners/6").want(t, 404)
			curl(t, w, "DELETE", adminToken, "/runners/5").want(t, 403) // read_api writes nothing
			get(t, w, "/runners/5").want(t, 200)

			for path, typ := range map[string]string{
				"/runners/reset_registration_token":            "instance_type",
				"/projects/9/runners/reset_registration_token": "project_type",
				"/groups/9/runners/reset_registration_token":   "group_type",
			} {
				first := curl(t, w, "POST", apiToken, path).want(t, 201).object(t)["token"].(string)
				second := curl(t, w, "POST", apiToken, path).want(t, 201).object(t)["token"].(string)
				curl(t, w, "POST", "", "/runners", "token="+first).want(t, 403)
				id := curl(t, w, "POST", "", "/runners", "token="+second).want(t, 201).object(t)["id"].(float64)
				if r, _ := w.Runner(int64(id)); r.Type != typ || r.RunUntagged != true {
					t.Errorf("%s registered %+v", path, r)
				}
			}
		})
	}
}

func sendJSON(t *testing.T, w *World, method, path string, v any) reply {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return sendRaw(t, w, method, path, "application/json", string(b))
}

func sendRaw(t *testing.T, w *World, method, path, kind, body string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://x/api/v4"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("PRIVATE-TOKEN", apiToken)
	res, err := w.RoundTripper().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, _ := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(b)}
}

func TestWritesByJSON(t *testing.T) {
	w, _ := newWorld(Options{})
	w.AddRunner(RunnerSpec{Tags: []string{"a"}})
	d := sendJSON(t, w, "PUT", "/runners/1", map[string]any{"paused": true, "tag_list": []string{"x", "y"}, "maximum_timeout": 1200, "maintenance_note": "mine <b>"}).want(t, 200).object(t)
	if d["paused"] != true || fmt.Sprint(d["tag_list"]) != "[x y]" || d["maximum_timeout"] != 1200.0 || d["maintenance_note"] != "mine <b>" {
		t.Errorf("%v", d)
	}
	for body, want := range map[string]string{
		`{}`:                                   `{"error":"description, active, paused,`,
		`{"x":`:                                `{"error":"Problems parsing JSON"}`,
		`{"maximum_timeout":59}`:               `{"message":{"maximum_timeout":["needs to be at least 10 minutes"]}}`,
		`{"maximum_timeout":"x"}`:              `{"error":"maximum_timeout is invalid"}`,
		`{"access_level":"all"}`:               `{"error":"access_level does not have a valid value"}`,
		`{"paused":"perhaps"}`:                 `{"error":"paused is invalid"}`,
		`{"paused":1,"active":0}`:              `{"error":"active, paused are mutually exclusive"}`,
		`{"tag_list":[],"run_untagged":false}`: `{"message":{"tags_list":["can not be empty`,
		`{"tag_list":"` + strings.Repeat("a,b,", 26) + `"}`: `{"message":{"tag_list":["Too many tags`,
	} {
		if r := sendRaw(t, w, "PUT", "/runners/1", "application/json", body); r.status != 400 || !strings.HasPrefix(r.body, want) {
			t.Errorf("%s: %d %s, want %s", body, r.status, r.body, want)
		}
	}
	made := sendJSON(t, w, "POST", "/user/runners", map[string]any{"runner_type": "group_type", "group_id": 1, "description": "new", "tag_list": []string{"z"}}).want(t, 201).object(t)
	id := int64(made["id"].(float64))
	r, _ := w.Runner(id)
	if r.Type != "group_type" || r.Description != "new" || !slices.Equal(r.Tags, []string{"z"}) || !strings.HasPrefix(made["token"].(string), "glrt-") {
		t.Errorf("created %v %+v", made, r)
	}
	if row := do(t, w, "GET", apiToken, fmt.Sprintf("/runners/%d", id), nil).object(t); row["created_by"].(map[string]any)["username"] != "boss" {
		t.Errorf("creator %v", row)
	}
	for _, v := range []map[string]any{{}, {"runner_type": "x"}, {"runner_type": "group_type"}, {"runner_type": "project_type", "project_id": 999}, {"runner_type": "instance_type", "run_untagged": false}} {
		sendJSON(t, w, "POST", "/user/runners", v).want(t, 400)
	}
	w.AddToken(TokenSpec{Token: "creator", Scopes: []string{"create_runner"}, Projects: []int64{1}})
	do(t, w, "POST", "creator", "/user/runners", url.Values{"runner_type": {"instance_type"}}).want(t, 403)
	do(t, w, "POST", "creator", "/user/runners", url.Values{"runner_type": {"project_type"}, "project_id": {"1"}}).want(t, 201)
	w.AddToken(TokenSpec{Token: "manager", Scopes: []string{"manage_runner"}, Projects: []int64{1, 2}})
	two := w.AddRunner(RunnerSpec{Projects: []int64{1, 2}})
	do(t, w, "PUT", "manager", fmt.Sprintf("/runners/%d", two), url.Values{"paused": {"true"}}).want(t, 200)
	do(t, w, "DELETE", "manager", fmt.Sprintf("/runners/%d", two), nil).want(t, 403)
	do(t, w, "PUT", "manager", "/runners/1", url.Values{"paused": {"true"}}).want(t, 403)
}
