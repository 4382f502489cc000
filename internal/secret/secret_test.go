package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
)

func TestSecretsAreMaskedInEachEncoding(t *testing.T) {
	var none *List
	if got := none.Scrub("text"); got != "text" {
		t.Error(got)
	}
	none.Note("nobody's")
	var l List
	if got := l.Scrub("text"); got != "text" {
		t.Error(got)
	}
	const key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0\nBAQEFAASCBKcwggSjAgEAAo\nshort\n-----END PRIVATE KEY-----\n"
	padded := base64.StdEncoding.EncodeToString([]byte("user:password"))
	l.Hold("test", "token-1", "token-12345", "proxy", "abc", `a"b\c <d>&/e`, "with space+/", key, padded, "", "  trimmed-9  ")
	for in, want := range map[string]string{
		"Authorization: Bearer token-12345":           "Authorization: Bearer ***",
		"token-1 token-12345token-1":                  "*** ******",
		"the proxy says proxy":                        "the *** says ***",
		"abc is too short":                            "abc is too short",
		strconv.Quote(`a"b\c <d>&/e`):                 `"***"`,
		"x=a%22b%5Cc+%3Cd%3E%26%2Fe":                  "x=***",
		"/a%22b%5Cc%20%3Cd%3E&%2Fe/":                  "/***/",
		`{"a":"a\"b\\c \u003cd\u003e\u0026/e"}`:       `{"a":"***"}`,
		"a&#34;b\\c &lt;d&gt;&amp;/e":                 "***",
		"with+space%2B%2F":                            "***",
		"MIIEvQIBADANBgkqhkiG9w0 short":               "*** short",
		padded + " " + strings.TrimRight(padded, "="): "*** ***",
		"trimmed-9.":                                  "***.",
	} {
		if got := l.Scrub(in); got != want {
			t.Errorf("%q:\n got %q\nwant %q", in, got, want)
		}
	}
}

func TestScrubNameKeepsShortWords(t *testing.T) {
	var none *List
	var l List
	l.Hold("test", "docker", "0123456789abcdef")
	if got := l.ScrubName("docker-0123456789abcdef") + none.ScrubName("x"); got != "docker-***x" {
		t.Error(got)
	}
}

// TestLogLinesAreMasked: whatever a log line holds, in each format, is masked, but for
// short words, which may be the program's own.
func TestLogLinesAreMasked(t *testing.T) {
	const token = `q"uo\te<&>d-t0ken`
	for _, format := range []func(*bytes.Buffer, *List) log.Logger{
		func(b *bytes.Buffer, l *List) log.Logger { return log.NewLogfmtLogger(l.Writer(b)) },
		func(b *bytes.Buffer, l *List) log.Logger { return log.NewJSONLogger(l.Writer(b)) },
	} {
		var out bytes.Buffer
		var l List
		logger := format(&out, &l)
		if err := logger.Log("msg", "nothing is known yet"); err != nil {
			t.Fatal(err)
		}
		l.Hold("test", token, "proxy")
		if err := logger.Log("msg", "the proxy", "err", fmt.Errorf("HTTP %s", token), "list", []string{token}, "plain", "x"+token); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "t0ken") || !strings.Contains(out.String(), Mask) || !strings.Contains(out.String(), "the proxy") || !strings.Contains(out.String(), "nothing is known") {
			t.Error(out.String())
		}
	}
	var l List
	l.Hold("test", "a-long-secret")
	line := []byte("a-long-secret\n")
	if n, err := l.Writer(&bytes.Buffer{}).Write(line); n != len(line) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := l.Writer(failing{}).Write(line); err == nil {
		t.Error("a failure is not reported")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, os.ErrClosed }

// TestPastSecretIsMaskedForADay: a secret that is in use no more is masked for a day; one in use
// always, whatever comes and goes beside it.
func TestPastSecretIsMaskedForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l List
		l.Hold("env", "environment")
		l.Hold("config", "first-one")
		l.Hold("config", "second-one")
		l.Note("from-a-file")
		for i := range 23 {
			time.Sleep(time.Hour)
			l.Note("access-" + strconv.Itoa(i))
		}
		all := "environment first-one second-one from-a-file"
		if got := l.Scrub(all); got != "*** *** *** ***" {
			t.Errorf("after 23 hours: %s", got)
		}
		l.Note("from-a-file") // read again
		time.Sleep(2 * time.Hour)
		l.Note("another")
		if got := l.Scrub(all); got != "*** first-one *** ***" {
			t.Errorf("after 25 hours: %s", got)
		}
		var many []string
		for i := range mostPast + 10 {
			if many = append(many, "many-"+strconv.Itoa(i)); len(many) == 67 {
				time.Sleep(time.Second)
				l.Note(many...)
				many = nil
			}
		}
		if len(l.past) != mostPast || l.Scrub("environment second-one access-22. many-2009.") != "*** *** access-22. ***." {
			t.Errorf("%d kept: %s", len(l.past), l.Scrub("environment second-one access-22. many-2009."))
		}
	})
}

func TestSecretFilesAreReadAnewAndChecked(t *testing.T) {
	var l List
	path := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := File{Path: path, List: &l, Header: true}
	for _, value := range []string{"first-token", "rotated-token"} {
		write(" " + value + "\r\n")
		if got, err := f.Fetch(t.Context()); got != value || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	if got := l.Scrub("first-token rotated-token"); got != "*** ***" {
		t.Errorf("not both are known: %s", got)
	}
	for text, want := range map[string]string{"": "empty", "\n": "empty", "one\ntwo": "alone", "nul\x00": "alone", strings.Repeat("x", mostSecret+1): "larger"} {
		write(text)
		_, err := f.Fetch(t.Context())
		if pe, ok := errors.AsType[*fs.PathError](err); !ok || pe.Path != path || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "two") {
			t.Errorf("%.10q: %v", text, err)
		}
	}
	if f.Immutable() || !strings.Contains(f.Description(), path) {
		t.Error("a file that prometheus/common would not read again")
	}
	write("-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0\n-----END PRIVATE KEY-----\n")
	if _, err := (Certificates{&l}).Fetch(t.Context(), path); err != nil || l.Scrub("MIIEvQIBADANBgkqhkiG9w0") != Mask {
		t.Errorf("%v: %s", err, l.Scrub("MIIEvQIBADANBgkqhkiG9w0"))
	}
	if _, err := (File{Path: path, List: &l}).Fetch(t.Context()); err != nil {
		t.Errorf("a key: %v", err)
	}
	if _, err := (Certificates{&l}).Fetch(t.Context(), path+".none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// BenchmarkWriter is what a log line costs with many secrets.
func BenchmarkWriter(b *testing.B) {
	var l List
	for i := range 20 {
		l.Note(fmt.Sprintf("glpat-%020d", i))
	}
	line, err := json.Marshal(map[string]string{"msg": "request", "route": "/runners/:id/jobs", "status": "200", "text": strings.Repeat("word ", 40)})
	if err != nil {
		b.Fatal(err)
	}
	w := l.Writer(&bytes.Buffer{})
	for b.Loop() {
		_, _ = w.Write(line)
	}
}
