package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// canary stands wherever a secret stands, or might be written by mistake, in
// the files of testdata. No error may repeat it.
const canary = "CANARY"

// TestBad holds every file of testdata/bad to the exact text beside it.
func TestBad(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yml")
	if err != nil || len(files) < 30 {
		t.Fatalf("%d files, error %v", len(files), err)
	}
	wants, _ := filepath.Glob("testdata/bad/*.want")
	if len(wants) != len(files) {
		t.Errorf("%d files but %d expectations", len(files), len(wants))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yml"), func(t *testing.T) {
			data, err := os.ReadFile(file) //nolint:gosec // a file of testdata
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(strings.TrimSuffix(file, ".yml") + ".want")
			if err != nil {
				t.Fatal(err)
			}
			v, err := Parse(data, filepath.Dir(file))
			if err == nil {
				t.Fatalf("accepted: %s", v)
			}
			if v != nil {
				t.Error("a configuration beside an error")
			}
			if got := err.Error() + "\n"; got != string(want) {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
			if strings.Contains(err.Error(), canary) {
				t.Error("the error holds a secret")
			}
		})
	}
}
