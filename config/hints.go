package config

import (
	"bytes"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Sentences for mistakes that people make: each shows what to write instead.

// listHint is for a mapping where a list belongs.
func listHint(path string) string {
	if path == "gitlabs" {
		return "must be a list: put a dash before the first key of each GitLab, as in \"- name: corp\""
	}
	return "must be a list, such as [a, b]"
}

// tokenKeys are what people call the token.
var tokenKeys = map[string]string{
	"token": "credentials_file", "private_token": "credentials_file", "access_token": "credentials_file", "api_token": "credentials_file",
	"gitlab_token": "credentials_file", "password": "credentials_file", "token_file": "credentials_file", "private_token_file": "credentials_file",
}

// keyHint returns where a key belongs that is not known where it stands; "" if
// nothing is known of it.
func keyHint(name, path string) string {
	if key, ok := tokenKeys[strings.ReplaceAll(strings.ToLower(name), "-", "_")]; ok {
		return "unknown key: a token is given as authorization: {" + key + ": FILE} below its gitlab"
	}
	home, ok := keyHomes[name]
	if !ok || home == strings.TrimPrefix(path+"."+name, ".") {
		return ""
	}
	return "unknown key here: it belongs to " + home + "; check the indentation"
}

// keyHomes has of each key the place nearest to the top.
var keyHomes = homes()

func homes() map[string]string {
	type place struct {
		t    reflect.Type
		path string
	}
	out := map[string]string{}
	next := []place{{reflect.TypeFor[Config](), ""}}
	for depth := 0; len(next) > 0 && depth < 5; depth++ {
		var below []place
		for _, p := range next {
			t, list := p.t, ""
			for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
				if t.Kind() == reflect.Slice {
					list = "[]"
				}
				t = t.Elem()
			}
			if t.Kind() != reflect.Struct {
				continue
			}
			f := fieldsOf(t)
			for _, name := range f.names() {
				at := strings.TrimPrefix(p.path+list+"."+name, ".")
				if _, ok := out[name]; !ok {
					out[name] = at
				}
				below = append(below, place{f.byName[name], at})
			}
		}
		next = below
	}
	return out
}

// mostLines bounds the search of badLine, which reads a file once for each of its lines.
const mostLines = 500

// badLine is the line after the longest beginning of the file that is YAML: the
// parser names the line where the block began that it could not end. 0: not found.
func badLine(data []byte) (number int, text string) {
	lines := bytes.SplitAfter(data, []byte("\n"))
	if len(lines) > mostLines {
		return 0, ""
	}
	for n, line := range slices.Backward(lines) {
		var root yaml.Node
		if n == 0 || yaml.Unmarshal(bytes.Join(lines[:n], nil), &root) == nil {
			return n + 1, string(line)
		}
	}
	return 0, ""
}

// syntaxHint explains what most often causes a parser's complaint about a line.
func syntaxHint(msg, line string) string {
	body := strings.TrimLeft(line, " \t")
	if strings.Contains(line[:len(line)-len(body)], "\t") {
		return "a tab in the indentation: YAML is indented with spaces only"
	}
	_, value, _ := strings.Cut(body, ": ")
	switch {
	case strings.Contains(msg, "unexpected end of stream"):
		return "a quote or a bracket that opens here is not closed"
	case strings.Contains(msg, "mapping values are not allowed") && strings.Contains(value, ": "):
		return "two keys in one line: a value that holds a colon and a space goes into quotes"
	case strings.Contains(msg, "mapping values are not allowed"),
		strings.Contains(msg, "did not find expected key"),
		strings.Contains(msg, "did not find expected '-' indicator"),
		strings.Contains(msg, "block sequence entries are not allowed"):
		return "the indentation does not fit the lines above: keys of one block begin in the same column, and a list's entries with a dash"
	}
	return ""
}
