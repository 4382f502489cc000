package gitlab

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"math/bits"
	"strconv"
	"strings"
)

// Pages of jobs are nearly all that is read from a busy fleet, and most of a
// page is user, commit and pipeline, which are dropped. So they have a reader
// of their own: it checks the JSON of what it drops and takes the members it
// wants where they are written plainly. Whatever else it meets (another
// spelling of a key, a value of another type, a member twice, what is not
// JSON) it leaves to encoding/json, so that the two cannot disagree.

const (
	// scanBuffer is read at once; it grows to the longest element.
	scanBuffer = 32 << 10
	// scanDepth bounds the nesting of what is dropped; GitLab's has four levels.
	scanDepth = 64
)

// decodeJobs reads a page of jobs to its end. rows counts those without a
// usable id too.
func decodeJobs(r io.Reader) (jobs []Job, rows int, err error) {
	s := jobScanner{r: r, cursor: cursor{b: make([]byte, 0, scanBuffer)}}
	for {
		job, what := s.next(rows == 0)
		switch what {
		case lastElement:
			return jobs, rows, end(json.NewDecoder(s.rest()))
		case oddElement:
			row := blankJob()
			if err := json.Unmarshal(s.b[s.begin:s.i], &row); err != nil && !isWrongType(err) {
				return jobs, rows, err
			}
			job = row.job()
		case noElement:
			return s.plainly(jobs, rows)
		case jobElement:
		}
		s.done = s.i
		rows++
		if job.ID > 0 {
			if jobs == nil {
				jobs = make([]Job, 0, perPage)
			}
			jobs = append(jobs, job)
		}
	}
}

// jobScanner holds the part of a page that is being read, an element at the
// least, so that the memory a page costs does not grow with the page.
type jobScanner struct {
	cursor

	r     io.Reader
	err   error // r's last word
	done  int   // b[:done] is behind us
	begin int   // of the present element
}

type element uint8

const (
	noElement   element = iota // not JSON, or cut off
	jobElement                 // read
	oddElement                 // JSON, for encoding/json to read
	lastElement                // the array is closed
)

// next reads the next element, with more of the page where it needs it.
func (s *jobScanner) next(first bool) (Job, element) {
	for {
		s.i, s.short = s.done, false
		job, what := s.try(first)
		if what != noElement || !s.short || !s.fill() {
			return job, what
		}
	}
}

// try reads what stands between the last element and the end of the next.
func (s *jobScanner) try(first bool) (Job, element) {
	s.space()
	if first {
		if !s.expect('[') {
			return Job{}, noElement
		}
		s.space()
	}
	if s.take(']') {
		return Job{}, lastElement
	}
	if !first {
		if !s.expect(',') {
			return Job{}, noElement
		}
		s.space()
	}
	s.begin = s.i
	job, ok := s.job()
	if ok {
		return job, jobElement
	}
	if s.short {
		return Job{}, noElement
	}
	s.i = s.begin
	if s.skip(scanDepth) {
		return Job{}, oddElement
	}
	return Job{}, noElement
}

// fill reads more of the page, and tells whether there was more.
func (s *jobScanner) fill() bool {
	if s.done > 0 {
		s.b = s.b[:copy(s.b, s.b[s.done:])]
		s.done = 0
	}
	if len(s.b) == cap(s.b) {
		s.b = append(make([]byte, 0, 2*cap(s.b)), s.b...)
	}
	for range 100 {
		if s.err != nil {
			return false
		}
		n, err := s.r.Read(s.b[len(s.b):cap(s.b)])
		s.b, s.err = s.b[:len(s.b)+n], err
		if n > 0 {
			return true
		}
	}
	s.err = io.ErrNoProgress
	return false
}

// rest is the page from here on.
func (s *jobScanner) rest() io.Reader {
	if s.err != nil {
		return io.MultiReader(bytes.NewReader(s.b[s.i:]), failed{s.err})
	}
	return io.MultiReader(bytes.NewReader(s.b[s.i:]), s.r)
}

type failed struct{ err error }

func (f failed) Read([]byte) (int, error) { return 0, f.err }

// plainly lets encoding/json read what is left of the page, and find the words
// for what is wrong with it.
func (s *jobScanner) plainly(jobs []Job, rows int) ([]Job, int, error) {
	s.i = s.done
	rest := s.rest()
	if rows > 0 {
		rest = io.MultiReader(strings.NewReader("[null"), rest) // in place of the elements before
		rows--
	}
	more, err := decodeArray(json.NewDecoder(rest), blankJob(), func(r *jobRow) {
		if r.ID > 0 {
			jobs = append(jobs, r.job())
		}
	})
	return jobs, rows + more, err
}

// cursor reads JSON from a buffer. Its methods tell whether they could; where
// not because the buffer ends, short is set.
type cursor struct {
	b     []byte
	i     int
	short bool
}

func (c *cursor) space() {
	for c.i < len(c.b) && (c.b[c.i] == ' ' || c.b[c.i] == '\n' || c.b[c.i] == '\r' || c.b[c.i] == '\t') {
		c.i++
	}
}

// take reads ch if it comes next.
func (c *cursor) take(ch byte) bool {
	if c.i < len(c.b) && c.b[c.i] == ch {
		c.i++
		return true
	}
	return false
}

// expect reads ch, which has to come next.
func (c *cursor) expect(ch byte) bool {
	c.short = c.short || c.i >= len(c.b)
	return c.take(ch)
}

func (c *cursor) word(w string) bool {
	left := c.b[c.i:]
	if len(left) < len(w) {
		c.short = strings.HasPrefix(w, string(left))
		return false
	}
	if string(left[:len(w)]) != w {
		return false
	}
	c.i += len(w)
	return true
}

// skip reads a value and drops it.
func (c *cursor) skip(depth int) bool {
	if c.i >= len(c.b) {
		c.short = true
		return false
	}
	switch c.b[c.i] {
	case '"':
		_, ok := c.text()
		return ok
	case '{':
		return c.members(depth, func(*cursor, []byte) (bool, bool) { return false, true })
	case '[':
		if depth == 0 {
			return false
		}
		c.i++
		c.space()
		if c.take(']') {
			return true
		}
		for {
			if !c.skip(depth - 1) {
				return false
			}
			c.space()
			if !c.take(',') {
				return c.expect(']')
			}
			c.space()
		}
	case 't':
		return c.word("true")
	case 'f':
		return c.word("false")
	case 'n':
		return c.word("null")
	default:
		_, ok := c.number()
		return ok
	}
}

// members reads an object. Each member's value is read by want, which tells
// whether it did and whether all is well; what it leaves is dropped.
func (c *cursor) members(depth int, want func(c *cursor, key []byte) (read, ok bool)) bool {
	if depth == 0 || !c.expect('{') {
		return false
	}
	c.space()
	if c.take('}') {
		return true
	}
	for {
		key, ok := c.text()
		if !ok {
			return false
		}
		c.space()
		if !c.expect(':') {
			return false
		}
		c.space()
		read, ok := want(c, key)
		if !ok || !read && !c.skip(depth-1) {
			return false
		}
		c.space()
		if !c.take(',') {
			return c.expect('}')
		}
		c.space()
	}
}

// text reads a string and returns what stands between its quotes, as written.
func (c *cursor) text() ([]byte, bool) {
	if !c.expect('"') {
		return nil, false
	}
	begin := c.i
	for {
		c.toSpecial()
		if c.i >= len(c.b) {
			c.short = true
			return nil, false
		}
		switch c.b[c.i] {
		case '"':
			c.i++
			return c.b[begin : c.i-1], true
		case '\\':
			if !c.escape() {
				return nil, false
			}
		default: // a control character
			return nil, false
		}
	}
}

// toSpecial moves to the next quote, backslash or control character, eight
// bytes a step: texts are most of a page.
func (c *cursor) toSpecial() {
	const (
		ones  = 0x0101010101010101
		tops  = 0x80 * ones
		quote = '"' * ones
		slash = '\\' * ones
	)
	b, i := c.b, c.i
	for ; len(b)-i >= 8; i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		q, s := w^quote, w^slash
		// The lowest top bit that is set stands in the first byte that is
		// below 0x20 in w, or zero in q or s; what borrows leave is above it.
		if hit := ((w-' '*ones)&^w | (q-ones)&^q | (s-ones)&^s) & tops; hit != 0 {
			c.i = i + bits.TrailingZeros64(hit)/8
			return
		}
	}
	for i < len(b) && b[i] != '"' && b[i] != '\\' && b[i] >= ' ' {
		i++
	}
	c.i = i
}

func (c *cursor) escape() bool {
	if len(c.b)-c.i < 6 && (len(c.b)-c.i < 2 || c.b[c.i+1] == 'u') {
		c.short = true
		return false
	}
	switch c.b[c.i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		c.i += 2
		return true
	case 'u':
		for _, h := range c.b[c.i+2 : c.i+6] {
			if (h < '0' || h > '9') && (h|0x20 < 'a' || h|0x20 > 'f') {
				return false
			}
		}
		c.i += 6
		return true
	}
	return false
}

// number reads a number and returns it as written.
func (c *cursor) number() ([]byte, bool) {
	begin := c.i
	c.take('-')
	if !c.take('0') && !c.digits() {
		return nil, false
	}
	if c.take('.') && !c.digits() {
		return nil, false
	}
	if c.take('e') || c.take('E') {
		if !c.take('+') {
			c.take('-')
		}
		if !c.digits() {
			return nil, false
		}
	}
	if c.i >= len(c.b) { // it may go on
		c.short = true
		return nil, false
	}
	return c.b[begin:c.i], true
}

func (c *cursor) digits() bool {
	begin := c.i
	for c.i < len(c.b) && c.b[c.i] >= '0' && c.b[c.i] <= '9' {
		c.i++
	}
	c.short = c.short || c.i >= len(c.b)
	return c.i > begin
}

// The members of a job that are wanted.
const (
	memberOther = iota
	memberID
	memberStatus
	memberCreatedAt
	memberStartedAt
	memberFinishedAt
	memberDuration
	memberQueued
	memberReason
	memberProject
)

func jobMember(key []byte) int {
	switch string(key) {
	case "id":
		return memberID
	case "status":
		return memberStatus
	case "created_at":
		return memberCreatedAt
	case "started_at":
		return memberStartedAt
	case "finished_at":
		return memberFinishedAt
	case "duration":
		return memberDuration
	case "queued_duration":
		return memberQueued
	case "failure_reason":
		return memberReason
	case "project":
		return memberProject
	}
	return memberOther
}

// plainKey tells that encoding/json, which also accepts other spellings of a
// name, reads the key as it is written.
func plainKey(key []byte) bool {
	for _, ch := range key {
		if ch >= 0x80 || ch == '\\' || ch >= 'A' && ch <= 'Z' {
			return false
		}
	}
	return true
}

// job reads one that is written plainly.
func (c *cursor) job() (j Job, ok bool) {
	j.Duration, j.Queued = -1, -1
	met := 0
	ok = c.members(scanDepth, func(c *cursor, key []byte) (read, ok bool) {
		member := jobMember(key)
		if member == memberOther {
			return false, plainKey(key)
		}
		if met&(1<<member) != 0 {
			return false, false // twice
		}
		met |= 1 << member
		switch member {
		case memberID:
			ok = c.integer(&j.ID)
		case memberStatus:
			ok = c.name(&j.Status)
		case memberReason:
			ok = c.name(&j.FailureReason)
		case memberDuration:
			ok = c.float(&j.Duration)
		case memberQueued:
			ok = c.float(&j.Queued)
		case memberProject:
			ok = c.project(&j.ProjectID)
		default:
			var at stamp
			ok = c.stamp(&at)
			switch member {
			case memberCreatedAt:
				j.CreatedAt = at.Time
			case memberStartedAt:
				j.StartedAt = at.Time
			case memberFinishedAt:
				j.FinishedAt = at.Time
			}
		}
		return true, ok
	})
	return j, ok
}

func (c *cursor) project(id *int64) bool {
	if c.i < len(c.b) && c.b[c.i] == 'n' {
		return c.word("null")
	}
	met := false
	return c.members(scanDepth, func(c *cursor, key []byte) (read, ok bool) {
		if string(key) != "id" {
			return false, plainKey(key)
		}
		if met {
			return false, false
		}
		met = true
		return true, c.integer(id)
	})
}

// integer reads a whole number of at most 18 digits, or null.
func (c *cursor) integer(v *int64) bool {
	if c.i < len(c.b) && c.b[c.i] == 'n' {
		return c.word("null")
	}
	digits, ok := c.number()
	if !ok || len(digits) > 18 {
		return false
	}
	var n int64
	for _, d := range digits {
		if d < '0' || d > '9' {
			return false
		}
		n = 10*n + int64(d-'0')
	}
	*v = n
	return true
}

func (c *cursor) float(v *float64) bool {
	if c.i < len(c.b) && c.b[c.i] == 'n' {
		return c.word("null")
	}
	text, ok := c.number()
	if !ok {
		return false
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return false
	}
	*v = f
	return true
}

// name reads a string of printable ASCII without escapes, or null.
func (c *cursor) name(v *string) bool {
	if c.i < len(c.b) && c.b[c.i] == 'n' {
		return c.word("null")
	}
	text, ok := c.text()
	if !ok {
		return false
	}
	for _, ch := range text {
		if ch >= 0x80 || ch == '\\' {
			return false
		}
	}
	switch string(text) { // those of nearly each row, without an allocation
	case "success":
		*v = "success"
	case "failed":
		*v = "failed"
	case "canceled":
		*v = "canceled"
	case "running":
		*v = "running"
	case "script_failure":
		*v = "script_failure"
	default:
		*v = string(text)
	}
	return true
}

func (c *cursor) stamp(v *stamp) bool {
	if c.i < len(c.b) && c.b[c.i] == 'n' {
		return c.word("null")
	}
	begin := c.i
	if _, ok := c.text(); !ok {
		return false
	}
	return v.UnmarshalJSON(c.b[begin:c.i]) == nil
}
