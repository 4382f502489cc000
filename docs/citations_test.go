package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	// docs/gitlab-api.md 3.3, docs/gitlab-api.md 3.1 and 3.2, API notes 3.3.
	citation = regexp.MustCompile(`(?:gitlab-api\.md|API notes),?((?:(?:,? and|,)? \d+(?:\.\d+)?\b)+)`)
	section  = regexp.MustCompile(`\d+(?:\.\d+)?`)
	heading  = regexp.MustCompile(`(?m)^##+ (\d+(?:\.\d+)?)\.? `)
	// Markdown files that comments cite.
	foreignAddress = regexp.MustCompile(`\b[a-z]+\.example\.(?:org|com)\S*`)
	citedDocument  = regexp.MustCompile(`\b((?:docs/|alerts/|deploy/[a-z/]*)?[A-Za-z.-]+\.md)\b`)
)

// sources calls f for each line of a comment in a Go file of the repository.
func sources(t *testing.T, f func(path, comment string)) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || d.Name() == "testdata"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go"):
			return nil
		}
		files++
		// A citation may be broken over two lines of a comment.
		var block strings.Builder
		for line := range strings.Lines(read(t, path)) {
			_, comment, ok := strings.Cut(line, "//")
			if ok && strings.HasPrefix(strings.TrimSpace(line), "//") {
				block.WriteString(" " + strings.TrimSpace(comment))
				continue
			}
			f(path, block.String())
			block.Reset()
			if ok {
				f(path, strings.TrimSpace(comment))
			}
		}
		f(path, block.String())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 100 {
		t.Fatalf("%d Go files found: the search is broken", files)
	}
}

// TestCitedSectionsExist: a comment that cites docs/gitlab-api.md names a
// section of it, and a comment that cites a document names one of the tree.
func TestCitedSectionsExist(t *testing.T) {
	var sections []string
	for _, m := range heading.FindAllStringSubmatch(read(t, "gitlab-api.md"), -1) {
		sections = append(sections, m[1])
	}
	if len(sections) < 30 {
		t.Fatalf("%d numbered headings found: the search is broken", len(sections))
	}
	cited := 0
	sources(t, func(path, comment string) {
		for _, m := range citation.FindAllStringSubmatch(comment, -1) {
			for _, n := range section.FindAllString(m[1], -1) {
				cited++
				if !slices.Contains(sections, n) {
					t.Errorf("%s: docs/gitlab-api.md has no section %s: %s", path, n, comment)
				}
			}
		}
		for _, m := range citedDocument.FindAllString(foreignAddress.ReplaceAllString(comment, ""), -1) {
			if !slices.ContainsFunc([]string{root, ".", filepath.Dir(path)}, func(dir string) bool {
				_, err := os.Stat(filepath.Join(dir, m))
				return err == nil
			}) {
				t.Errorf("%s: a comment cites %s, which is not there", path, m)
			}
		}
	})
	if cited < 50 {
		t.Errorf("%d citations found: the search is broken", cited)
	}
}
