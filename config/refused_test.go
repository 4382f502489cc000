package config

import (
	"flag"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write the expected errors of testdata/refused.txtar")

// canary stands wherever a secret stands, or might be written by mistake, in
// the files of testdata. No error may repeat it.
const canary = "CANARY"

const refusedFile = "testdata/refused.txtar"

// refused reads the archive of configurations that must be refused.
func refused(tb testing.TB) *txtar.Archive {
	tb.Helper()
	archive, err := txtar.ParseFile(refusedFile)
	if err != nil {
		tb.Fatal(err)
	}
	return archive
}

// refusedConfig is one of them.
func refusedConfig(t *testing.T, name string) []byte {
	t.Helper()
	files, err := txtar.FS(refused(t))
	if err != nil {
		t.Fatal(err)
	}
	data, err := fs.ReadFile(files, name+".yml")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestRefusedWithTheExactError holds every configuration of the archive to the
// text beside it.
func TestRefusedWithTheExactError(t *testing.T) {
	archive := refused(t)
	if len(archive.Files) < 2*100 || len(archive.Files)%2 != 0 {
		t.Fatalf("%d files: each configuration has its expected error behind it", len(archive.Files))
	}
	for i := 0; i < len(archive.Files); i += 2 {
		input, want := archive.Files[i], &archive.Files[i+1]
		name := strings.TrimSuffix(input.Name, ".yml")
		if path.Ext(input.Name) != ".yml" || want.Name != name+".want" {
			t.Fatalf("%s is followed by %s", input.Name, want.Name)
		}
		t.Run(name, func(t *testing.T) {
			v, err := Parse(input.Data, "testdata/refused")
			if err == nil {
				t.Fatalf("accepted: %s", v)
			}
			if v != nil {
				t.Error("a configuration beside an error")
			}
			if strings.Contains(err.Error(), canary) {
				t.Error("the error holds a secret")
			}
			got := err.Error() + "\n"
			if *update {
				want.Data = []byte(got)
			} else if got != string(want.Data) {
				t.Errorf("got:\n%swant:\n%s", got, want.Data)
			}
		})
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(refusedFile, txtar.Format(archive), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
