package ratelimit

import (
	"net/http"
	"testing"
	"time"
)

func TestRetryAfterIsReadInEachFormAndBounded(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		after, date string
		want        time.Duration
	}{
		{"", "", 0},
		{"30", "", 30 * time.Second},
		{" 30 ", "", 30 * time.Second},
		{"1.5", "", 1500 * time.Millisecond},
		{"0", "", 0},
		{"-5", "", 0},
		{"NaN", "", 0},
		{"99999999999999999999", "", longest},
		{"1e300", "", longest},
		{"soon", "", 0},
		{"Fri, 02 Jan 2026 03:04:35 GMT", "", 30 * time.Second},
		{"Fri, 02 Jan 2026 03:04:35 GMT", "Fri, 02 Jan 2026 03:04:25 GMT", 10 * time.Second},
		{"Fri, 02 Jan 2026 03:04:35 GMT", "yesterday", 30 * time.Second},
		{"Fri, 02 Jan 2026 03:00:00 GMT", "", 0},
		{"Fri, 02 Jan 9026 03:00:00 GMT", "", longest},
	} {
		h := http.Header{}
		h.Set("Retry-After", c.after)
		h.Set("Date", c.date)
		if got := RetryAfter(h, now); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
