package gitlab

import (
	"strconv"
	"strings"
)

// What is requested of a waiting job, in one table as in graphql_fields.go.
// GitLab authorizes each field by itself and returns null for the others: a null
// is not known, never an empty list or the year 0.
type pendingField struct {
	text string // in the document and in the answer
	read func(*reader, *PendingJob)
	rows bool // requested only where QueuePage.Details is set
}

var pendingFields = []pendingField{
	{text: "id", read: func(d *reader, j *PendingJob) { j.ID = jobID(string(d.cut(maxName))) }},
	{text: "tags", rows: true, read: func(d *reader, j *PendingJob) {
		if d.null() {
			return
		}
		j.TagsKnown = true
		j.Tags, j.TagsOmitted = d.tags()
	}},
	{text: "queuedAt", rows: true, read: func(d *reader, j *PendingJob) { j.QueuedAt = d.time() }},
}

// jobID reads gid://gitlab/Ci::Build/7. 0: not one.
func jobID(gid string) int64 { return globalID(gid, "Ci::Build") }

func (d *reader) pendingJob() (j PendingJob) {
	for name := range d.members() {
		for _, f := range pendingFields {
			if f.text == string(name) {
				f.read(d, &j)
				break
			}
		}
	}
	return j
}

// Cost is what a page takes of the limits of one query: GitLab's complexity
// (docs/gitlab-api.md 6.2) and characters of its text.
func (p QueuePage) Cost() (complexity, characters int) {
	fields := 0
	for _, f := range pendingFields {
		if !f.rows || p.Details {
			fields++
		}
	}
	children := 1 + fields // nodes
	switch {
	case p.paged():
		children += 3 // pageInfo and its two members
	case !p.Details:
		children++ // count
	}
	score := children + 1
	return score + score*p.first()/100, len(p.text(0)) + 3 // an alias of up to four characters
}

// paged reports whether the answer names the page after this one.
func (p QueuePage) paged() bool { return p.Details && p.first() == graphqlRows }

func (p QueuePage) first() int {
	if p.First <= 0 {
		return graphqlRows
	}
	return min(p.First, graphqlRows)
}

// text is the page in the document, under an alias that is its place.
func (p QueuePage) text(place int) string {
	var b strings.Builder
	b.WriteString(" " + alias(place) + ": jobs(statuses: [PENDING]")
	if p.Runner > 0 {
		b.WriteString(`, compatibleRunnerId: "gid://gitlab/Ci::Runner/` + strconv.FormatInt(p.Runner, 10) + `"`)
	}
	b.WriteString(", first: " + strconv.Itoa(p.first()))
	if p.After != "" {
		b.WriteString(`, after: "` + p.After + `"`)
	}
	b.WriteString(") {")
	switch {
	case p.paged():
		b.WriteString(" pageInfo { hasNextPage endCursor }")
	case !p.Details:
		b.WriteString(" count")
	}
	b.WriteString(" nodes {")
	for _, f := range pendingFields {
		if !f.rows || p.Details {
			b.WriteString(" " + f.text)
		}
	}
	b.WriteString(" } }")
	return b.String()
}

func alias(place int) string { return "p" + strconv.Itoa(place) }

// placeOf is the reverse of alias; -1: not one of n.
func placeOf(name string, n int) int {
	digits, ok := strings.CutPrefix(name, "p")
	place, err := strconv.Atoi(digits)
	if !ok || err != nil || place < 0 || place >= n || alias(place) != name {
		return -1
	}
	return place
}
