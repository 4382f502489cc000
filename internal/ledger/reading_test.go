package ledger

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
)

// A walk whose every page shows older jobs ends after so many pages, and is no
// success again before one is whole.
func TestAWalkHasABound(t *testing.T) {
	l, _ := begun(t)
	walk := func(began time.Time, jobs []gitlab.Job, cursor string) Outcome {
		w := l.Walk(10, began, began)
		w.Take(Answer{Page: gitlab.JobsPage{Jobs: jobs, Cursor: cursor, Keyset: true, Total: -1}}, nil)
		return w.End()
	}
	page := func(id int64) []gitlab.Job { return []gitlab.Job{{ID: id}} }
	began := at(1)
	var o Outcome
	n := 0
	for ; o.Err == nil && n < 2*walkPages; n++ {
		o = walk(began.Add(time.Duration(n)*time.Millisecond), page(int64(3*walkPages-n)), "c")
	}
	if n != walkPages || gitlab.ReasonOf(o.Err) != gitlab.ReasonDecode || !strings.Contains(o.Err.Error(), "does not end after 20000 pages") {
		t.Errorf("after %d pages: %v", n, o.Err)
	}
	if q, _ := l.Walk(10, at(2), at(2)).Next(); q.Page.Cursor != "" || !l.WalkEndless(10) {
		t.Errorf("begun anew: at %q, endless %t", q.Page.Cursor, l.WalkEndless(10))
	}
	if o = walk(at(2), page(3*walkPages), "c"); o.Err != nil || !l.WalkEndless(10) {
		t.Errorf("a page more: %v, endless %t", o.Err, l.WalkEndless(10))
	}
	if o = walk(at(2), nil, ""); o.Err != nil || !o.Deep || l.WalkEndless(10) || l.runners[10].walking != nil {
		t.Errorf("whole: %+v, endless %t", o, l.WalkEndless(10))
	}
}

// Rows that shift while pages are read may repeat a page or two.
func TestRowsThatShiftAreProgress(t *testing.T) {
	d := descent{what: "the list", most: 100, idle: idlePages}
	pages := []int64{900, 900, 850, 860, 850, 800, 799, 799, 799, 799, 700}
	for i, id := range pages {
		if err := d.page([]gitlab.Job{{ID: id + 1}, {ID: id}}); err != nil {
			if i == 9 {
				continue // three in a row that lead nowhere
			}
			t.Errorf("page %d: %v", i, err)
		} else if i == 9 {
			t.Error("three pages in a row without a new job are no error")
		}
	}
}

// What a poll asks for, in what order, whatever is answered.
func TestPollAsksInAFixedOrder(t *testing.T) {
	notFound, broken := &gitlab.Error{Reason: gitlab.ReasonNotFound}, errors.New("broken")
	type answer struct {
		Answer
		err error
	}
	page := func(next int, jobs ...gitlab.Job) answer {
		return answer{Answer: Answer{Page: gitlab.JobsPage{Jobs: jobs, Next: next, Total: -1}}}
	}
	old := []gitlab.Job{ran(4, "running", 0.5, 0)} // watched, and on no page below
	job := answer{Answer: Answer{Job: ran(4, "success", 0.5, 2)}}
	for name, c := range map[string]struct {
		watched []gitlab.Job
		listed  Listed
		answers []answer
		want    string
		whole   bool
		err     error
	}{
		"idle": {listed: Listed{Idle: true, Executing: -1}, answers: []answer{page(0)}, want: "newest", whole: true},
		"executing": {
			listed: Listed{Executing: -1}, answers: []answer{page(2, ran(8, "running", 1, 0)), page(0), page(0)},
			want: "running running newest", whole: true,
		},
		"the newest rows show all that the list counted": {
			listed: Listed{Executing: 1, At: at(2)}, answers: []answer{page(0, ran(8, "running", 1, 0))}, want: "newest", whole: true,
		},
		"they do not": {listed: Listed{Executing: 2, At: at(2)}, answers: []answer{page(0, ran(8, "running", 1, 0)), page(0)}, want: "newest running", whole: true},
		"a watched job is on no page": {
			watched: old, listed: Listed{Executing: -1}, answers: []answer{page(0), page(0), job}, want: "running newest job", whole: true,
		},
		"nor by itself": {
			watched: old, listed: Listed{Executing: -1}, answers: []answer{page(0), page(0), {err: broken}}, want: "running newest job", whole: true, err: broken,
		},
		"the runner was deleted": {watched: old, listed: Listed{Executing: -1}, answers: []answer{{err: notFound}, job}, want: "running job"},
		"a page fails":           {watched: old, listed: Listed{Executing: -1}, answers: []answer{page(0), {err: broken}}, want: "running newest", err: broken},
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := begun(t)
			if c.watched != nil {
				read(l, 10, at(1), reading{executing: c.watched})
			}
			p := l.Poll(10, at(3), at(3), c.listed, time.Hour)
			var asked []string
			for q, more := p.Next(); more; q, more = p.Next() {
				switch {
				case q.OneJob():
					asked = append(asked, "job")
				case q.Page.Status != "":
					asked = append(asked, q.Page.Status)
				default:
					asked = append(asked, "newest")
				}
				if len(asked) > len(c.answers) {
					t.Fatalf("asks for %s", asked)
				}
				a := c.answers[len(asked)-1]
				p.Take(a.Answer, a.err)
			}
			o := p.End()
			if want := strings.Fields(c.want); !slices.Equal(asked, want) {
				t.Errorf("asked for %s, want %s", asked, want)
			}
			if p.Whole() != c.whole || !errors.Is(o.Err, c.err) || (o.Err != nil) != (c.err != nil) {
				t.Errorf("whole %t, %v", p.Whole(), o.Err)
			}
			if read := !l.ReadAt(10).IsZero() && l.ReadAt(10).Equal(at(3)); read != c.whole {
				t.Errorf("the marks moved: %t", read)
			}
			if c.want != "" && strings.HasSuffix(c.want, "job") && c.err == nil && l.Watched(10) != 0 {
				t.Error("the job that was asked for is still watched")
			}
		})
	}
}
