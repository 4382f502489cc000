package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzParse: no input panics; an error is made of lines and messages; what is
// accepted is accepted again with the same meaning, and has sane values.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.yml", "../docs/*.example.yml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("%s: %v", pattern, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	for _, file := range refused(f).Files {
		if strings.HasSuffix(file.Name, ".yml") {
			f.Add(file.Data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := Parse(data, "testdata")
		again, err2 := Parse(data, "testdata")
		if err != nil {
			errs, ok := errors.AsType[Errors](err)
			if !ok || len(errs) == 0 || v != nil {
				t.Fatalf("%T without content, or with a configuration", err)
			}
			for _, e := range errs {
				if e.Msg == "" || e.Line < 0 || e.Line > 1+strings.Count(string(data), "\n")+strings.Count(string(data), "\r")+
					strings.Count(string(data), "\u0085")+strings.Count(string(data), "\u2028")+strings.Count(string(data), "\u2029") {
					t.Fatalf("%#v", e)
				}
			}
			if err2 == nil || err2.Error() != err.Error() {
				t.Fatalf("another error the second time: %v, %v", err, err2)
			}
			return
		}
		if err2 != nil {
			t.Fatalf("refused the second time: %v", err2)
		}
		names := map[string]bool{}
		for i, g := range v.GitLabs() {
			if !g.Equal(again.GitLabs()[i]) {
				t.Fatal("another meaning the second time")
			}
			p := g.Poll
			if g.Name == "" || names[g.Name] || !strings.HasPrefix(g.URL, "http") || p.Lookback < 4*p.ReconcileInterval ||
				p.Staleness <= p.RunnersInterval || p.MaxConcurrentRequests < 1 || p.MaxRequestsPerSecond < 0 {
				t.Fatalf("accepted: %v", g)
			}
			names[g.Name] = true
		}
		if len(names) == 0 || !v.Metrics().Equal(again.Metrics()) || v.Summary() != again.Summary() {
			t.Fatal("nothing to monitor, or another meaning the second time")
		}
	})
}
