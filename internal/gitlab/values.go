package gitlab

import (
	"bytes"
	"errors"
	"io"
	"iter"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Bounds of what is taken over from an answer, by REST and GraphQL alike. A
// value beyond them is left out or cut, so that the rest of the answer counts;
// an answer beyond them is refused before it costs memory.
const (
	maxPageBody    = 8 << 20  // a list, a page of jobs, a runner's machines, a GraphQL page
	maxDetailsBody = 32 << 20 // a runner's details name all its projects, which are read past: 60,000 of them
	maxObjectBody  = 2 << 20  // any other single object; a job brings its whole commit message

	maxToken    = 1 << 20      // one string or number, dropped ones included, for a token is held at once
	maxKept     = 2 << 20      // all texts kept of one answer; 100 runners with 100 machines each need 0.6 MiB
	maxNesting  = 64           // GitLab's answers have nine levels
	maxRows     = perPage + 10 // GitLab never gives more than 100
	maxManagers = 10_000       // machines of one runner: that list has no pages

	maxTag         = 1020 // GitLab's 255 characters in bytes
	maxTags        = 200  // of one runner
	maxDescription = 1024
	maxName        = 255 // versions, platforms, statuses and the like
	maxPath        = 1024
	maxCursor      = 4096
	maxScopes      = 100
	maxMember      = 4096 // the name of a member of an object

	firstYear, lastYear = 1970, 2200
	maxSeconds          = 10 * 365 * 24 * 3600
)

var (
	errNotJSON      = errors.New("expected JSON")
	errNotArray     = errors.New("expected a JSON array")
	errNotObject    = errors.New("expected a JSON object")
	errNoID         = errors.New("the object has no usable id")
	errNoVersion    = errors.New("the object has no version")
	errTrailing     = errors.New("data after the end of the JSON value")
	errTooManyRows  = errors.New("the answer has more rows than GitLab gives in one, which is " + strconv.Itoa(perPage))
	errManyMachines = errors.New("the runner has more than " + strconv.Itoa(maxManagers) + " machines")
	errTooDeep      = errors.New("the answer is nested deeper than " + strconv.Itoa(maxNesting) + " levels")
	errLongMember   = errors.New("the name of a member is longer than " + strconv.Itoa(maxMember) + " bytes")
)

// tooLarge ends the reading of an answer that is beyond a bound of size.
type tooLarge string

// Error names the bound.
func (e tooLarge) Error() string { return string(e) }

const (
	errTooLarge  tooLarge = "the body is too large"
	errLongValue tooLarge = "a text or number in the body is longer than 1 MiB"
	errMuchText  tooLarge = "the texts to keep of the body are more than 2 MiB"
)

// isWrongShape separates an answer that is not what this endpoint gives from one
// that is damaged: something else than GitLab made it.
func isWrongShape(err error) bool {
	for _, e := range []error{errNotJSON, errNotArray, errNotObject, errNoID, errNoVersion, errNoPath, errNoAnswer} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// reader reads an answer token by token, so that the memory it costs depends
// neither on its size nor on what GitLab attaches to each row: the longest
// token is held, and the values asked for. The first error stays; every method
// after it returns nothing.
//
// A value of an unexpected type is left alone by the method that does not want
// it, and skipped by the loop over the object or array around it.
type reader struct {
	dec     *jsontext.Decoder
	err     error
	kept    int
	scratch []byte
	names   map[string]string // words that repeat from row to row
}

func newReader(body io.Reader) *reader {
	capped, ok := body.(*cappedBody)
	if !ok {
		capped = &cappedBody{r: body, left: maxPageBody}
	}
	// Names are not checked for repetition: that would keep them all.
	d := &reader{dec: jsontext.NewDecoder(capped, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))}
	capped.dec = d.dec
	return d
}

func (d *reader) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

// begin checks what the whole answer is; otherwise is the error where it is
// something else.
func (d *reader) begin(kind jsontext.Kind, otherwise error) bool {
	switch d.dec.PeekKind() {
	case kind:
		return true
	case jsontext.KindInvalid:
		_, err := d.dec.ReadToken()
		if _, ok := errors.AsType[*jsontext.SyntacticError](err); ok && !errors.Is(err, io.ErrUnexpectedEOF) {
			err = errNotJSON
		}
		d.fail(err)
	default:
		d.fail(otherwise)
	}
	return false
}

// end reads what follows the value, which also lets the connection be reused.
// A value that is whole stays good if the transfer breaks after it (a
// Content-Length that lies); text after it, finished or not, means it was
// something else.
func (d *reader) end() error {
	if d.err != nil {
		return d.err
	}
	_, err := d.dec.ReadToken()
	if isA[*jsontext.SyntacticError](err) || err == nil || len(bytes.TrimSpace(d.dec.UnreadBuffer())) > 0 {
		return errTrailing
	}
	return nil
}

// enter steps into an object or array if that is what comes next.
func (d *reader) enter(kind jsontext.Kind) bool {
	if d.err != nil || d.dec.PeekKind() != kind {
		return false
	}
	d.token()
	return d.err == nil
}

func (d *reader) token() {
	if _, err := d.dec.ReadToken(); err != nil {
		d.fail(err)
	} else if d.dec.StackDepth() > maxNesting {
		d.fail(errTooDeep)
	}
}

// more reports whether an object or array goes on, and steps out of it at its end.
func (d *reader) more() bool {
	if d.err != nil {
		return false
	}
	k := d.dec.PeekKind()
	if k == jsontext.KindEndObject || k == jsontext.KindEndArray || k == jsontext.KindInvalid {
		d.token()
		return false
	}
	return true
}

// members goes through the object that comes next, if one does. The name is
// valid until the value is read; a value that is not read is skipped. The loop
// must not be left early.
func (d *reader) members() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		if !d.enter(jsontext.KindBeginObject) {
			return
		}
		for d.more() {
			name := d.member()
			at := d.dec.InputOffset()
			if d.err != nil || !yield(name) {
				return
			}
			d.skipFrom(at)
		}
	}
}

// elements goes through the array that comes next, if one does, as members does.
func (d *reader) elements() iter.Seq[int] {
	return func(yield func(int) bool) {
		if !d.enter(jsontext.KindBeginArray) {
			return
		}
		for i := 0; d.more(); i++ {
			at := d.dec.InputOffset()
			if !yield(i) {
				return
			}
			d.skipFrom(at)
		}
	}
}

// member reads the name of a member.
func (d *reader) member() []byte {
	name, err := d.dec.ReadValue()
	if err == nil && len(name) > maxMember {
		err = errLongMember
	}
	if err != nil {
		d.fail(err)
		return nil
	}
	return d.unquote(name)
}

// skipFrom skips the value at an offset if it was not read.
func (d *reader) skipFrom(at int64) {
	if d.err != nil || d.dec.InputOffset() != at {
		return
	}
	for depth := d.dec.StackDepth(); d.err == nil; {
		before := d.dec.InputOffset()
		d.token()
		if d.dec.InputOffset()-before > maxMember && d.atName() {
			d.fail(errLongMember) // the decoder keeps the names it is inside of
		}
		if d.dec.StackDepth() <= depth {
			return
		}
	}
}

// atName reports whether the last token was the name of a member.
func (d *reader) atName() bool {
	kind, length := d.dec.StackIndex(d.dec.StackDepth())
	return kind == jsontext.KindBeginObject && length%2 == 1
}

// scalar is the value that comes next as it is written, if it is of this kind.
// It is valid until the next is read.
func (d *reader) scalar(kind jsontext.Kind) (raw jsontext.Value, ok bool) {
	if d.err != nil || d.dec.PeekKind() != kind {
		return nil, false
	}
	raw, err := d.dec.ReadValue()
	if err != nil {
		d.fail(err)
		return nil, false
	}
	return raw, true
}

// unquote is a string without its quotes and escapes, in valid UTF-8, until the next is.
func (d *reader) unquote(raw jsontext.Value) []byte {
	plain := raw[1 : len(raw)-1]
	for _, b := range plain {
		if b == '\\' || b >= utf8.RuneSelf {
			// The error is that of invalid UTF-8, which is replaced all the same.
			d.scratch, _ = jsontext.AppendUnquote(d.scratch[:0], raw)
			return d.scratch
		}
	}
	return plain
}

// keep makes a string of the bytes.
func (d *reader) keep(b []byte) string {
	if d.kept += len(b); d.kept > maxKept {
		d.fail(errMuchText)
		return ""
	}
	return string(b)
}

// word is keep for texts that repeat.
func (d *reader) word(b []byte) string {
	if s, ok := d.names[string(b)]; ok {
		return s
	}
	s := d.keep(b)
	if d.names == nil {
		d.names = map[string]string{}
	}
	if len(d.names) < 256 {
		d.names[s] = s
	}
	return s
}

// cut is the string that comes next, at most limit bytes of it and no half
// character.
func (d *reader) cut(limit int) []byte {
	raw, ok := d.scalar(jsontext.KindString)
	if !ok {
		return nil
	}
	b := d.unquote(raw)
	if len(b) <= limit {
		return b
	}
	for limit > 0 && !utf8.RuneStart(b[limit]) {
		limit--
	}
	return b[:limit]
}

// text is a string of at most limit bytes; "" for anything else.
func (d *reader) text(limit int) string { return d.keep(d.cut(limit)) }

// name is a short text that may repeat from row to row.
func (d *reader) name() string { return d.word(d.cut(maxName)) }

// number is a whole number; ok is false for anything else, and for one out of
// range.
func (d *reader) number() (n int64, ok bool) {
	raw, ok := d.scalar(jsontext.KindNumber)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	return n, err == nil
}

// integer is number where 0 means that there is none.
func (d *reader) integer() int64 {
	n, ok := d.number()
	if !ok {
		return 0 // ParseInt gives the end of its range
	}
	return n
}

// seconds is a duration; -1 for anything else, and for one of more than ten years.
func (d *reader) seconds() float64 {
	raw, _ := d.scalar(jsontext.KindNumber)
	if len(raw) > maxName {
		return -1
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || f < 0 || f > maxSeconds {
		return -1
	}
	return f
}

// yes is true for true alone.
func (d *reader) yes() bool {
	v := d.answer()
	return v != nil && *v
}

// answer is yes, no, or nil for null and for what is neither.
func (d *reader) answer() *bool {
	k := d.dec.PeekKind()
	if k != jsontext.KindTrue && k != jsontext.KindFalse {
		return nil
	}
	d.token()
	return new(k == jsontext.KindTrue)
}

// null reads a null if one comes next.
func (d *reader) null() bool {
	if d.err != nil || d.dec.PeekKind() != jsontext.KindNull {
		return false
	}
	d.token()
	return true
}

// time is a time as GitLab writes it: RFC 3339 with any offset. null, what is
// not a time and what cannot be one of GitLab's are the zero time: one damaged
// date must neither hide a page nor reach a layout that cannot hold it.
func (d *reader) time() time.Time {
	raw, ok := d.scalar(jsontext.KindString)
	if !ok {
		return time.Time{}
	}
	var t time.Time
	if t.UnmarshalText(raw[1:len(raw)-1]) != nil {
		return time.Time{}
	}
	if t = t.UTC(); t.Year() < firstYear || t.Year() > lastYear {
		return time.Time{}
	}
	return t
}

// tags reads a runner's tags. Those that are too long, or too many, are
// counted: a tag that is cut could be another runner's.
func (d *reader) tags() (tags []string, omitted int) {
	for range d.elements() {
		raw, ok := d.scalar(jsontext.KindString)
		if !ok {
			continue // a null or a number among the tags
		}
		if len(tags) == maxTags || len(raw) > 2+6*maxTag { // longer even if each byte is an escape of six
			omitted++
			continue
		}
		tag := d.unquote(raw)
		switch {
		case len(tag) > maxTag:
			omitted++
		case len(tag) > 0:
			tags = append(tags, d.word(tag))
		}
	}
	return tags, omitted
}
