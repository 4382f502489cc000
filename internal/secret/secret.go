// Package secret holds every secret that this process was given and takes them
// out of texts. A text from outside may hold one: a proxy's error page repeats
// the request's headers, a broken server its status line. What a secret looks
// like cannot be guessed, but what was given is known.
package secret

import (
	"encoding/json"
	"html"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Mask stands in place of a secret.
const Mask = "***"

const (
	// Shortest is the length in bytes below which a secret is not masked: it
	// would be found within ordinary words, and what is missing would reveal it.
	Shortest = 4
	// shortestInLines is the same for whole lines of output, most of which is
	// the program's own text. There a password such as "proxy" stands in for
	// nothing but the word.
	shortestInLines = 8
	// shortestInNames is the same for names that become labels: a tag must not
	// change because a password is a word of it.
	shortestInNames = 16
	// keepFor is how long a secret that is no longer in use is still masked: a
	// rotated token may be valid for a while, and answers to it are under way.
	keepFor = 24 * time.Hour
	// renew is how often the last use of a known secret is noted again.
	renew = time.Minute
	// mostPast bounds the secrets that are not held, which come without end
	// where a token endpoint gives a new one each minute.
	mostPast = 2000
	// longLine is the least length of a line of a secret of several lines, such
	// as a key, that is a secret of its own.
	longLine = 16
)

// List is the secrets of a process. It is safe for concurrent use; its zero
// value and nil know of none.
type List struct {
	mu   sync.Mutex
	held map[string][]string  // in use, by who holds them
	past map[string]time.Time // seen, and when last

	masks atomic.Pointer[masks]
}

// masks is what Scrub works with. It is immutable.
type masks struct {
	texts, lines, names *strings.Replacer
}

// Hold makes values those that owner uses now. Those before stay known for a day.
func (l *List) Hold(owner string, values ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, v := range l.held[owner] {
		l.add(v, now)
	}
	if l.held == nil {
		l.held = map[string][]string{}
	}
	l.held[owner] = slices.Clone(values)
	l.rebuild(now)
}

// Note adds secrets that were met: read from a file, or given by a token
// endpoint. They stay known for a day after the last time.
func (l *List) Note(values ...string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now, fresh := time.Now(), false
	for _, v := range values {
		last, known := l.past[v]
		if !known || now.Sub(last) > renew {
			l.add(v, now)
		}
		fresh = fresh || !known
	}
	if fresh {
		l.rebuild(now)
	}
}

func (l *List) add(value string, now time.Time) {
	if l.past == nil {
		l.past = map[string]time.Time{}
	}
	l.past[value] = now
}

// rebuild forgets what is long past and makes the masks anew. The caller holds
// the mutex.
func (l *List) rebuild(now time.Time) {
	for v, last := range l.past {
		if now.Sub(last) > keepFor {
			delete(l.past, v)
		}
	}
	for len(l.past) > mostPast {
		oldest := ""
		for v, last := range l.past {
			if oldest == "" || last.Before(l.past[oldest]) {
				oldest = v
			}
		}
		delete(l.past, oldest)
	}
	forms := map[string]bool{}
	for v := range l.past {
		addForms(forms, v)
	}
	for _, values := range l.held {
		for _, v := range values {
			addForms(forms, v)
		}
	}
	// The longest first: one secret may begin like another.
	all := slices.SortedFunc(maps.Keys(forms), func(a, b string) int { return len(b) - len(a) })
	l.masks.Store(&masks{texts: replacer(all, Shortest), lines: replacer(all, shortestInLines), names: replacer(all, shortestInNames)})
}

func replacer(forms []string, shortest int) *strings.Replacer {
	pairs := make([]string, 0, 2*len(forms))
	for _, f := range forms {
		if len(f) >= shortest {
			pairs = append(pairs, f, Mask)
		}
	}
	if len(pairs) == 0 {
		return nil
	}
	return strings.NewReplacer(pairs...)
}

// addForms adds the forms in which a secret may stand in a text: as it is,
// escaped for a URL, a quoted string, JSON or HTML, and the lines of a key. A
// base64 text is found whether or not it is padded.
func addForms(forms map[string]bool, v string) {
	v = strings.TrimSpace(v)
	if v == "" {
		return
	}
	quoted := strconv.Quote(v)
	packed, _ := json.Marshal(v) // of a string: cannot fail
	for _, form := range []string{
		v, url.QueryEscape(v), url.PathEscape(v), quoted[1 : len(quoted)-1], string(packed[1 : len(packed)-1]), html.EscapeString(v),
		strings.TrimRight(v, "="),
	} {
		forms[form] = true
	}
	if !strings.Contains(v, "\n") {
		return
	}
	for line := range strings.Lines(v) {
		if line = strings.TrimSpace(line); len(line) >= longLine && !strings.HasPrefix(line, "-----") {
			forms[line] = true
		}
	}
}

// Scrub masks the secrets in a text that is not ours. Cut a text after it is
// scrubbed, not before: of a secret cut in two the first half is not found.
func (l *List) Scrub(s string) string {
	return l.replace(s, func(m *masks) *strings.Replacer { return m.texts })
}

// ScrubName masks the secrets in a name that becomes the value of a label:
// only those of 16 bytes and more, as tokens are.
func (l *List) ScrubName(s string) string {
	return l.replace(s, func(m *masks) *strings.Replacer { return m.names })
}

func (l *List) replace(s string, by func(*masks) *strings.Replacer) string {
	if l == nil {
		return s
	}
	m := l.masks.Load()
	if m == nil || by(m) == nil {
		return s
	}
	return by(m).Replace(s)
}

// Writer masks the secrets in lines that are written to w, one line or more at
// a write, as loggers do: whatever slipped by before. Secrets shorter than 8
// bytes are left there, since they may be words of the program's own.
func (l *List) Writer(w io.Writer) io.Writer { return &writer{l, w} }

type writer struct {
	list *List
	to   io.Writer
}

func (w *writer) Write(p []byte) (int, error) {
	if m := w.list.masks.Load(); m != nil && m.lines != nil {
		line := string(p)
		if clean := m.lines.Replace(line); clean != line {
			if _, err := io.WriteString(w.to, clean); err != nil {
				return 0, err
			}
			return len(p), nil
		}
	}
	return w.to.Write(p)
}
