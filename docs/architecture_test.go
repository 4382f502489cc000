package docs

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	architecture = "architecture.md"
	module       = "gitlab-runner-fleet-exporter/"
)

// roomRow is a row of the table of rooms that names what the room imports.
var roomRow = regexp.MustCompile("(?m)^\\| `((?:internal/)?([a-z]+))/`[^|]*\\|[^|]*\\| ([^|]*) \\|$")

// TestRoomsImportWhatTheTableNames: each room stands in the table of
// docs/architecture.md, and imports no other than the table names.
func TestRoomsImportWhatTheTableNames(t *testing.T) {
	allowed := map[string]string{}
	for _, m := range roomRow.FindAllStringSubmatch(read(t, architecture), -1) {
		allowed[m[1]] = m[3]
	}
	rooms, err := filepath.Glob("../internal/*")
	if err != nil || len(rooms) < 8 {
		t.Fatalf("rooms %v, %v", rooms, err)
	}
	for _, dir := range append(rooms, "../config", "../collector") {
		room := filepath.ToSlash(strings.TrimPrefix(dir, "../"))
		names, ok := allowed[room]
		if !ok {
			t.Errorf("%s: no row for %s", architecture, room)
			continue
		}
		if strings.HasPrefix(names, "all") {
			continue
		}
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", dir, files, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, spec := range f.Imports {
				path, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				ours, ok := strings.CutPrefix(path, module)
				if !ok {
					continue
				}
				name := strings.TrimPrefix(ours, "internal/")
				if !slices.Contains(regexp.MustCompile(`[a-z]+`).FindAllString(names, -1), name) {
					t.Errorf("%s imports %s, which %s does not name for %s", file, ours, architecture, room)
				}
			}
		}
	}
}

// TestFilesOfRecipesExist: a recipe names files and folders that are there.
func TestFilesOfRecipesExist(t *testing.T) {
	named := 0
	for _, m := range regexp.MustCompile("`((?:internal|collector|alerts|docs|test|config)/[\\w./-]*)`").FindAllStringSubmatch(read(t, architecture), -1) {
		named++
		found, err := filepath.Glob(filepath.Join(root, m[1]))
		if err != nil || len(found) == 0 {
			t.Errorf("%s names %s, which is not there (%v)", architecture, m[1], err)
		}
	}
	if named < 40 {
		t.Errorf("%d files found: the search is broken", named)
	}
}
