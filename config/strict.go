package config

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	commoncfg "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// maxNodes bounds the walk: a few lines of aliases to aliases unfold to more
// nodes than any machine can visit.
const maxNodes = 100_000

// walker compares a YAML tree with a Go type before it is decoded. The
// decoder's own strict mode has neither path nor suggestion, stops at the
// first error of a foreign type, and quotes the values, tokens included.
type walker struct {
	lines   map[string]int
	errs    Errors
	nodes   int
	stopped bool
	open    map[*yaml.Node]bool // what is being merged, to notice a cycle
}

func newWalker() *walker {
	return &walker{lines: map[string]int{}, open: map[*yaml.Node]bool{}}
}

func (w *walker) fail(line int, path, format string, args ...any) bool {
	w.errs = append(w.errs, Error{Line: line, Path: path, Msg: fmt.Sprintf(format, args...)})
	return false
}

// legacyUnmarshaler is how prometheus/common's types read YAML.
type legacyUnmarshaler interface {
	UnmarshalYAML(unmarshal func(any) error) error
}

// walk checks n against t. False means that n cannot be decoded into t and the
// caller has to cut it out; mistakes below n are cut out by walk itself.
func (w *walker) walk(n *yaml.Node, t reflect.Type, path string) bool {
	if w.nodes++; w.nodes > maxNodes {
		if !w.stopped {
			w.stopped = true
			w.fail(n.Line, "", "too large: more than %d values, aliases unfolded", maxNodes)
		}
		return false
	}
	bare := t.Kind() == reflect.Int
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if _, ok := w.lines[path]; !ok {
		w.lines[path] = n.Line
	}
	if n.Kind == yaml.AliasNode {
		// An anchor inside itself ends too: t gets smaller with each step.
		return w.walk(n.Alias, t, path)
	}
	if n.Style&yaml.TaggedStyle != 0 && !strings.HasPrefix(n.ShortTag(), "!!") {
		return w.fail(n.Line, path, "tags (words that begin with !) are not understood here: put a value that begins with ! into quotes")
	}
	if n.ShortTag() == "!!null" && n.Kind == yaml.ScalarNode {
		if bare { // it would be decoded as 0, which is a floor of expected
			return w.fail(n.Line, path, "must be a whole number")
		}
		return true // as if it were not written
	}
	before := len(w.errs)
	switch {
	case t.Kind() == reflect.Struct && t != reflect.TypeFor[commoncfg.URL]():
		if n.Kind != yaml.MappingNode {
			return w.fail(n.Line, path, "%s", mustHoldKeys(path, t))
		}
		w.mapping(n, t, path)
	case t.Kind() == reflect.Map:
		if n.Kind != yaml.MappingNode {
			return w.fail(n.Line, path, "must be a mapping, with lines such as key: value")
		}
		w.mapping(n, t, path)
	case t.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return w.fail(n.Line, path, "%s", listHint(path))
		}
		w.sequence(n, t, path)
	case t.Kind() == reflect.Interface:
		return true
	default:
		return w.scalar(n, t, path)
	}
	if len(w.errs) > before || w.stopped {
		return true
	}
	// prometheus/common validates its blocks while it decodes them, and would
	// end the whole reading with an error that has no line.
	v := reflect.New(t)
	if _, ok := reflect.TypeAssert[legacyUnmarshaler](v); ok && t.PkgPath() != reflect.TypeFor[Config]().PkgPath() {
		if err := n.Decode(v.Interface()); err != nil {
			return w.fail(n.Line, path, "%s", foreign(err))
		}
	}
	return true
}

// foreign is the text of an error of prometheus/common's Validate methods,
// which name fields only. A decoder's error would quote the value.
func foreign(err error) string {
	msg := err.Error()
	for _, known := range []string{"at most one of ", "exactly one of ", "if proxy_", "if no_proxy "} {
		if strings.HasPrefix(msg, known) {
			return msg
		}
	}
	return "cannot be understood"
}

func mustHoldKeys(path string, t reflect.Type) string {
	if path == "" {
		return "the file must hold keys (gitlabs, and if wanted poll and metrics)"
	}
	f := fieldsOf(t)
	if f.inline != nil {
		return "must be a mapping, with lines such as key: value"
	}
	names := f.names()
	if len(names) > 3 {
		names = append(names[:3:3], "…")
	}
	return "must hold keys (" + strings.Join(names, ", ") + ")"
}

func (w *walker) scalar(n *yaml.Node, t reflect.Type, path string) bool {
	if n.Kind != yaml.ScalarNode {
		return w.fail(n.Line, path, "must be a single value")
	}
	tag := n.ShortTag()
	decodes := n.Decode(reflect.New(t).Interface()) == nil
	switch {
	case t == reflect.TypeFor[model.Duration]():
		if !decodes {
			return w.fail(n.Line, path, "must be a duration such as 30s, 5m, 1h30m or 7d")
		}
	case t == reflect.TypeFor[commoncfg.TLSVersion]():
		if !decodes {
			return w.fail(n.Line, path, "must be TLS10, TLS11, TLS12 or TLS13")
		}
	case t == reflect.TypeFor[commoncfg.URL]():
		if !decodes {
			return w.fail(n.Line, path, "is not a URL")
		}
	case t.Kind() == reflect.Int:
		// The decoder would cut 1.5 to 1.
		if tag != "!!int" || !decodes {
			return w.fail(n.Line, path, "must be a whole number")
		}
	case t.Kind() == reflect.Float64:
		if !decodes {
			return w.fail(n.Line, path, "must be a number")
		}
	case t.Kind() == reflect.Bool:
		if !decodes {
			return w.fail(n.Line, path, "must be true or false")
		}
	default:
		if !decodes {
			return w.fail(n.Line, path, "must be text")
		}
	}
	return true
}

// sequence replaces a bad element instead of cutting it out, so that the
// indexes in later messages stay those of the file.
func (w *walker) sequence(n *yaml.Node, t reflect.Type, path string) {
	for i, c := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		ok := false
		if c.Kind == yaml.ScalarNode && c.ShortTag() == "!!null" {
			w.fail(c.Line, at, "an empty entry")
		} else {
			ok = w.walk(c, t.Elem(), at)
		}
		if !ok {
			n.Content[i] = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Line: c.Line}
			if t.Elem().Kind() == reflect.Struct {
				n.Content[i] = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: c.Line}
			}
		}
	}
}

func (w *walker) mapping(n *yaml.Node, t reflect.Type, path string) {
	known := fieldsOf(t)
	seen := map[string]int{}
	kept := make([]*yaml.Node, 0, len(n.Content))
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!null" || key.ShortTag() == "!!binary" {
			w.fail(key.Line, path, "a key that is not a plain word")
			continue
		}
		name := key.Value
		at := strings.TrimPrefix(path+"."+name, ".")
		ft, ok := known.byName[name]
		if !ok {
			ft = known.inline
		}
		merge := key.ShortTag() == "!!merge"
		if first, dup := seen[name]; dup {
			if ft == nil && !merge {
				at = path
			}
			w.fail(key.Line, at, "a key given twice: it stands already in line %d", first)
			continue
		}
		seen[name] = key.Line
		if merge {
			merges = append(merges, key, value)
			continue
		}
		if ft == nil {
			w.unknown(key, path, known.names())
			continue
		}
		if _, ok := w.lines[at]; !ok {
			w.lines[at] = key.Line
		}
		if w.walk(value, ft, at) {
			kept = append(kept, key, value)
		}
	}
	// What is merged in comes last: a key of its own overrides it.
	for i := 0; i+1 < len(merges); i += 2 {
		if w.merge(merges[i+1], t, path) {
			kept = append(kept, merges[i], merges[i+1])
		}
	}
	n.Content = kept
}

// merge walks what << brings in: a mapping, or a list of them.
func (w *walker) merge(v *yaml.Node, t reflect.Type, path string) bool {
	from := []*yaml.Node{v}
	if v.Kind == yaml.SequenceNode {
		from = v.Content
	}
	for _, m := range from {
		target := m
		if m.Kind == yaml.AliasNode {
			target = m.Alias
		}
		if target.Kind != yaml.MappingNode {
			return w.fail(m.Line, path, "<< must name a mapping, or a list of them")
		}
		if w.open[target] {
			return w.fail(m.Line, path, "an anchor that holds itself")
		}
		w.open[target] = true
		if w.nodes++; w.nodes > maxNodes {
			return w.walk(m, t, path)
		}
		w.mapping(target, t, path)
		delete(w.open, target)
	}
	return true
}

// A key may be a token in the wrong place, as in {credentials:glpat-…}, which
// YAML reads as one long key. It is shown if it is a plain word, or close to a
// known key and without a colon.
var (
	plainKey = regexp.MustCompile(`^[a-z_-]{1,40}$`)
	closeKey = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

func (w *walker) unknown(key *yaml.Node, path string, names []string) {
	best, hint := "", ""
	if closeKey.MatchString(key.Value) {
		hint = keyHint(key.Value, path)
		best = nearest(key.Value, names)
	}
	if hint != "" {
		w.fail(key.Line, strings.TrimPrefix(path+"."+key.Value, "."), "%s", hint)
		return
	}
	if best == "" && !plainKey.MatchString(key.Value) {
		w.fail(key.Line, path, "an unknown key, not shown because it may hold a secret (a space is needed after the colon)")
		return
	}
	at := strings.TrimPrefix(path+"."+key.Value, ".")
	if best != "" {
		w.fail(key.Line, at, "unknown key: did you mean %s?", best)
		return
	}
	w.fail(key.Line, at, "unknown key")
}

// nearest is the name most like s, "" if none is close.
func nearest(s string, names []string) string {
	norm := strings.ReplaceAll(strings.ToLower(s), "-", "_")
	best, dist := "", 0
	for _, name := range names {
		d := distance(norm, name)
		if d <= max(1, len(name)/3) && d < len(name) && (best == "" || d < dist) {
			best, dist = name, d
		}
	}
	return best
}

// distance is the number of letters to add, drop, replace or swap with a
// neighbour to get from a to b.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// fields are the YAML keys of a type.
type fields struct {
	byName map[string]reflect.Type
	inline reflect.Type // type of the values under any key; nil: only the keys above
}

func (f fields) names() []string {
	out := make([]string, 0, len(f.byName))
	for name := range f.byName {
		// Keys of Prometheus's secret manager, which does not exist here, are no suggestion.
		if !strings.HasSuffix(name, "_ref") {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func fieldsOf(t reflect.Type) fields {
	out := fields{byName: map[string]reflect.Type{}}
	if t.Kind() == reflect.Map {
		out.inline = t.Elem()
		return out
	}
	for f := range t.Fields() {
		name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case !f.IsExported() || name == "-":
		case strings.Contains(opts, "inline"):
			in := fieldsOf(f.Type)
			maps.Copy(out.byName, in.byName)
			if in.inline != nil {
				out.inline = in.inline
			}
		case name == "":
			out.byName[strings.ToLower(f.Name)] = f.Type
		default:
			out.byName[name] = f.Type
		}
	}
	return out
}
