package monitor

import (
	"testing"
	"time"
)

// One wrong Date header moves nothing, in either direction, wherever it comes;
// GitLab's own clock, however wrong, is followed.
func TestClockTakesTheMedian(t *testing.T) {
	local := time.Now()
	for _, lag := range []time.Duration{0, -3 * time.Hour, 10 * 24 * time.Hour} {
		for _, skew := range []time.Duration{10 * 24 * time.Hour, -10 * 24 * time.Hour} {
			for wrong := range 10 {
				c := newClock()
				if !c.gitlab(local).IsZero() {
					t.Fatal("a time before any answer")
				}
				for i := range 10 {
					at := local.Add(time.Duration(i) * time.Minute)
					date := at.Add(lag)
					if i == wrong {
						date = date.Add(skew)
					}
					c.answer(date, at)
					c.answer(time.Time{}, at) // an answer without a Date
					if i < 2 && wrong < 2 {
						continue // of two that disagree none is known to be right
					}
					if got := c.gitlab(at); !got.Equal(at.Add(lag)) {
						t.Errorf("lag %v, skew %v of answer %d: at answer %d off by %v", lag, skew, wrong, i, got.Sub(at.Add(lag)))
					}
					if got, want := c.start(at), local.Add(lag).Truncate(time.Second); !got.Equal(want) {
						t.Errorf("lag %v, skew %v of answer %d: start %v, want %v", lag, skew, wrong, got, want)
					}
				}
			}
		}
	}
}

// Of two that disagree the earlier is taken: a floor that moves late loses nothing.
func TestClockPrefersTheEarlier(t *testing.T) {
	local := time.Now()
	for _, skew := range []time.Duration{time.Hour, -time.Hour} {
		c := newClock()
		c.answer(local.Add(skew), local)
		c.answer(local, local)
		want := local
		if skew < 0 {
			want = local.Add(skew)
		}
		if got := c.gitlab(local); !got.Equal(want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
}

// A burst of answers counts as one sample: a Date that is wrong for two minutes
// moves nothing, however many answers carry it.
func TestClockIgnoresBursts(t *testing.T) {
	c, local := newClock(), time.Now()
	for range clockSamples {
		local = local.Add(clockEvery)
		c.answer(local, local)
	}
	for range 1200 { // ten a second
		local = local.Add(100 * time.Millisecond)
		c.answer(local.Add(-48*time.Hour), local)
	}
	if got := c.gitlab(local); !got.Equal(local) {
		t.Errorf("two minutes of a wrong Date moved the clock by %v", got.Sub(local))
	}
}

// A first start behind a wrong Date would count history: the newest time in the
// rows corrects it, and no time that lies in the future of every clock does.
func TestStartIsNotBeforeWhatRowsShow(t *testing.T) {
	local := time.Now()
	first := local.Truncate(time.Second)
	for _, tc := range []struct {
		name      string
		skew      time.Duration
		rows      []time.Duration // after local, received a minute later
		want      time.Duration
		tolerance time.Duration
	}{
		{"right Date, contacts until now", 0, []time.Duration{time.Minute, -time.Hour}, 0, time.Second},
		{"72 h behind, a contact at the time of its reading", -72 * time.Hour, []time.Duration{time.Minute, -time.Hour}, 0, time.Second},
		{"72 h behind, the newest contact half an hour old", -72 * time.Hour, []time.Duration{-29 * time.Minute}, -30 * time.Minute, time.Second},
		{"72 h behind, no contact at all", -72 * time.Hour, nil, -72 * time.Hour, time.Second},
		{"right Date, a contact of the year 2150", 0, []time.Duration{124 * 365 * 24 * time.Hour}, 0, time.Second},
		{"72 h behind, a contact of tomorrow", -72 * time.Hour, []time.Duration{24 * time.Hour}, -72 * time.Hour, time.Second},
		{"GitLab's clock is ahead of ours and right by its own rows", 7 * time.Minute, []time.Duration{8 * time.Minute}, 7 * time.Minute, time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newClock()
			c.answer(first.Add(tc.skew), local)
			at := local.Add(time.Minute)
			for _, d := range tc.rows {
				c.row(local.Add(d), at)
			}
			if got := c.start(at).Sub(first); (got - tc.want).Abs() > tc.tolerance {
				t.Errorf("the first start is %v after the first answer, want %v", got, tc.want)
			}
		})
	}
}

// It follows GitLab when that changes its clock, after half of the samples.
func TestClockFollowsGitLab(t *testing.T) {
	c, local := newClock(), time.Now()
	for range clockSamples {
		local = local.Add(clockEvery)
		c.answer(local, local)
	}
	for i := range clockSamples {
		local = local.Add(clockEvery)
		c.answer(local.Add(time.Hour), local)
		moved := c.gitlab(local).Equal(local.Add(time.Hour))
		if moved != (i >= clockSamples/2) {
			t.Errorf("after %d answers of a changed clock: moved %t", i+1, moved)
		}
	}
}

// The first start without any Date is the local time.
func TestClockWithoutDatesIsTheLocalOne(t *testing.T) {
	c, local := newClock(), time.Now()
	if got := c.start(local); !got.Equal(local) {
		t.Errorf("start %v without an answer, want %v", got, local)
	}
	c.answer(time.Time{}, local)
	if got := c.start(local.Add(time.Hour)); !got.Equal(local) {
		t.Errorf("start %v, want that of the first answer, %v", got, local)
	}
	if !c.gitlab(local).IsZero() {
		t.Error("a time before any answer")
	}
}

// What counts is the time elapsed, not what the wall clock shows: a time that
// was put through a change of the wall clock keeps its monotonic reading.
func TestClockCountsByElapsedTime(t *testing.T) {
	c, local := newClock(), time.Now()
	date := local.Round(0).Add(-time.Hour)
	c.answer(date, local)
	later := local.Add(90 * time.Minute)
	got := c.gitlab(later)
	if want := date.Add(90 * time.Minute); !got.Equal(want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got != got.Round(0) { // == reports whether a monotonic reading is there
		t.Error("GitLab's time has a monotonic reading: compared with the wall's it would be wrong after a jump")
	}
}

// A Date has whole seconds, so the median of several lies up to a second
// behind. The first start must not: what ended in the second before it is history.
func TestStartIsTheFirstDate(t *testing.T) {
	c := newClock()
	local := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for i := range clockSamples {
		at := local.Add(time.Duration(i) * 130 * time.Millisecond)
		c.answer(at.Truncate(time.Second), at)
	}
	if got := c.start(local.Add(time.Second)); !got.Equal(local) {
		t.Errorf("the first start is %v, the first answer's Date was %v", got, local)
	}
}
