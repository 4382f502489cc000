package main

import (
	"strings"
	"testing"
)

const (
	passes   = `{"Action":"pass","Package":"gitlab-runner-fleet-exporter/config","Test":"TestA"}` + "\n"
	skipped  = `{"Action":"output","Package":"gitlab-runner-fleet-exporter/config","Test":"TestB","Output":"    x_test.go:1: no disk\n"}` + "\n" + `{"Action":"skip","Package":"gitlab-runner-fleet-exporter/config","Test":"TestB"}` + "\n"
	counted  = `{"Action":"output","Package":"gitlab-runner-fleet-exporter/docs","Test":"TestE","Output":"    x_test.go:3: counted: 3 blocks\n"}` + "\n" + `{"Action":"pass","Package":"gitlab-runner-fleet-exporter/docs","Test":"TestE"}` + "\n"
	fails    = `{"Action":"output","Package":"p","Test":"TestC","Output":"    x_test.go:2: wrong\n"}` + "\n" + `{"Action":"fail","Package":"p","Test":"TestC"}` + "\n" + `{"Action":"fail","Package":"p"}` + "\n"
	hangs    = `{"Action":"output","Package":"p","Test":"TestD","Output":"=== RUN   TestD\n"}` + "\n"
	noBuild  = `{"ImportPath":"p","Action":"build-output","Output":"x.go:1: syntax\n"}` + "\n" + `{"ImportPath":"p","Action":"build-fail"}` + "\n"
	leaks    = `{"Action":"output","Package":"p","Output":"found unexpected goroutines\n"}` + "\n" + `{"Action":"fail","Package":"p"}` + "\n"
	noTests  = `{"Action":"skip","Package":"p"}` + "\n"
	notEvent = "go: a word from the Go tool\n"
)

func TestSummaryOfEachOutcome(t *testing.T) {
	for _, tt := range []struct {
		name, in, further string
		well              bool
		want              []string
	}{
		{"passes", passes + passes, "", true, []string{"2 passed, 0 failed, 0 skipped"}},
		{"skips by name", passes + skipped, "", true, []string{"SKIP\tconfig.TestB\tx_test.go:1: no disk\n", "1 passed, 0 failed, 1 skipped"}},
		{"what was counted", counted + passes, "", true, []string{"count docs.TestE: 3 blocks\n", "2 passed, 0 failed, 0 skipped"}},
		{"further skips", passes, "govulncheck\tno answer\n\n", true, []string{"SKIP\tgovulncheck\tno answer\n", "1 passed, 0 failed, 1 skipped"}},
		{"a failure", passes + fails, "", false, []string{"x_test.go:2: wrong", "FAIL: p.TestC", "1 passed, 1 failed, 0 skipped"}},
		{"a test that did not end", passes + hangs, "", false, []string{"FAIL: p.TestD did not end"}},
		{"a package that does not build", passes + noBuild, "", false, []string{"x.go:1: syntax", "does not build", "1 passed, 1 failed"}},
		{"a failure that no test owns", passes + leaks, "", false, []string{"unexpected goroutines", "1 passed, 1 failed"}},
		{"a package without tests", passes + noTests, "", true, []string{"1 passed, 0 failed, 0 skipped"}},
		{"other lines", notEvent + passes, "", true, []string{"a word from the Go tool"}},
		{"nothing", "", "", false, []string{"no test ran"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			if well := summarize(strings.NewReader(tt.in), &out, tt.further); well != tt.well {
				t.Errorf("well: %v", well)
			}
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("does not show %q:\n%s", want, out.String())
				}
			}
		})
	}
}
