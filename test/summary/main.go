// Command summary reads `go test -json` and prints what a person needs: the
// output of what failed, a line for each package, what tests counted (logged as
// "counted: …"), every skipped test by name with its reason, and a closing line. It exits with 1 where a test or
// a build failed, or where nothing ran at all.
//
// An argument is a file of further skips, one a line as name, tab, reason, from
// checks that are not Go tests.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// modulePrefix is cut from names: all tests are of this module.
const modulePrefix = "gitlab-runner-fleet-exporter/"

func main() {
	var further []byte
	if len(os.Args) > 1 {
		var err error
		if further, err = os.ReadFile(os.Args[1]); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if !summarize(os.Stdin, os.Stdout, string(further)) {
		os.Exit(1)
	}
}

// event is one line of test2json.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Output     string
	Elapsed    float64
}

type key struct{ pkg, test string }

// summarize reports whether all went well.
func summarize(in io.Reader, out io.Writer, further string) bool {
	write := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format, args...) }
	var passed, failed, broken int
	var skips []string
	output := map[key]*strings.Builder{}
	text := func(k key) string {
		if b := output[k]; b != nil {
			return b.String()
		}
		return ""
	}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				write("%s", line) // not an event: whoever wrote it wants it read
				continue
			}
			k := key{e.Package, e.Test}
			name := strings.TrimSuffix(strings.TrimPrefix(e.Package, modulePrefix)+"."+e.Test, ".")
			switch e.Action {
			case "output":
				if output[k] == nil {
					output[k] = &strings.Builder{}
				}
				output[k].WriteString(e.Output)
			case "build-output":
				write("%s", e.Output)
			case "build-fail":
				broken++
				write("FAIL: %s does not build\n", e.ImportPath)
			case "pass", "fail", "skip":
				switch {
				case e.Test == "" && e.Action == "fail":
					// Whatever no test owns: a panic, a leak, a race at the end.
					broken++
					write("%sFAIL: package %s (%.1f s)\n", text(k), name, e.Elapsed)
				case e.Test == "" && e.Action == "pass":
					write("ok    %s (%.1f s)\n", name, e.Elapsed)
				case e.Test == "": // a package without tests
				case e.Action == "pass":
					passed++
					for line := range strings.Lines(text(k)) {
						if _, what, counts := strings.Cut(line, ": counted: "); counts {
							write("count %s: %s", name, what)
						}
					}
				case e.Action == "skip":
					skips = append(skips, name+"\t"+reason(text(k)))
				default:
					failed++
					write("%sFAIL: %s\n", text(k), name)
				}
				delete(output, k)
			}
		}
		if err != nil {
			break
		}
	}
	for line := range strings.Lines(further) {
		if line = strings.TrimSpace(line); line != "" {
			skips = append(skips, line)
		}
	}
	for k, b := range output { // cut off in the middle: a crash or a timeout
		if k.test != "" {
			write("%sFAIL: %s.%s did not end\n", b, strings.TrimPrefix(k.pkg, modulePrefix), k.test)
			failed++
		}
	}
	for _, s := range skips {
		write("SKIP\t%s\n", s)
	}
	if passed+failed+len(skips) == 0 {
		write("no test ran\n")
		return false
	}
	write("%d passed, %d failed, %d skipped\n", passed, max(failed, broken), len(skips))
	return failed+broken == 0
}

// reason is the last line that a skipped test wrote itself.
func reason(output string) string {
	last := ""
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			last = line
		}
	}
	return last
}
