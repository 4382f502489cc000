package config

import (
	"slices"
	"strconv"
	"strings"
)

// Error is one mistake in a configuration.
type Error struct {
	Line int    // 0: not from a file, or the mistake is an absence
	Path string // such as gitlabs[1].poll.runners_interval; "": the whole file
	Msg  string // what is wrong and what to do; never a secret

	err error // the cause, for errors.Is
}

// Error puts line, path and message into one line.
func (e Error) Error() string {
	var b strings.Builder
	if e.Line > 0 {
		b.WriteString("line " + strconv.Itoa(e.Line) + ": ")
	}
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Msg)
	return b.String()
}

// Unwrap gives the cause, such as fs.ErrNotExist for a missing token file.
func (e Error) Unwrap() error { return e.err }

// Errors are all mistakes of a configuration in the order of the file.
type Errors []Error

// Error gives one mistake a line.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives each mistake.
func (es Errors) Unwrap() []error {
	out := make([]error, len(es))
	for i, e := range es {
		out[i] = e
	}
	return out
}

// sorted orders by line, and keeps the order of finding within one.
func (es Errors) sorted() Errors {
	slices.SortStableFunc(es, func(a, b Error) int { return a.Line - b.Line })
	return es
}

// parent is the path one step up: gitlabs[1].poll of
// gitlabs[1].poll.lookback, gitlabs of gitlabs[1].
func parent(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}

// isBelow reports whether path is of, or something inside it.
func isBelow(path, of string) bool {
	rest, ok := strings.CutPrefix(path, of)
	return ok && (rest == "" || of == "" || rest[0] == '.' || rest[0] == '[')
}
