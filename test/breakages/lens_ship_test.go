//go:build ship

package breakages

import (
	"bytes"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"time"
)

// factor is how many times faster everything lives than in earnest: GitLab, the
// exporter's intervals, the durations of the rules and of the routing. 60 is
// the most that the exporter's shortest interval of 1 s allows; at 20 a process
// may stall for 10 s before a rule can take that for an outage.
const factor = 20

// lived is how long a span of the simulated world takes.
func lived(d time.Duration) time.Duration { return d / factor }

// span is the span of the simulated world that passed within a real one.
func span(d time.Duration) time.Duration { return d * factor }

// era ties the world's time to the real one. The world begins at the same time
// in each run, so that its chances are the same.
type era struct {
	real, world time.Time
}

func (e era) now() time.Time { return e.world.Add(span(time.Since(e.real))) }

// seen is a time of the world as it is told outside.
func (e era) seen(world time.Time) time.Time { return e.real.Add(lived(world.Sub(e.world))) }

var (
	timestamp = regexp.MustCompile(`"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)"`)
	duration  = regexp.MustCompile(`"((?:queued_)?duration)":\s*([0-9.]+)`)
)

// lens stands in front of a simulated GitLab and shows it in real time: outside
// it is a GitLab in which everything happens factor times faster.
func (e era) lens(gitlab http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		r.Header.Del("Accept-Encoding")
		plain := httptest.NewRecorder()
		gitlab.ServeHTTP(plain, r)
		body := timestamp.ReplaceAllFunc(plain.Body.Bytes(), func(quoted []byte) []byte {
			t, err := time.Parse(time.RFC3339Nano, string(bytes.Trim(quoted, `"`)))
			if err != nil {
				return quoted
			}
			return []byte(e.seen(t).UTC().Format(`"2006-01-02T15:04:05.000Z"`))
		})
		body = duration.ReplaceAllFunc(body, func(pair []byte) []byte {
			m := duration.FindSubmatch(pair)
			s, err := strconv.ParseFloat(string(m[2]), 64)
			if err != nil {
				return pair
			}
			return []byte(`"` + string(m[1]) + `":` + strconv.FormatFloat(s/factor, 'f', -1, 64))
		})
		h := rw.Header()
		maps.Copy(h, plain.Header())
		h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
		h.Set("Content-Length", strconv.Itoa(len(body)))
		rw.WriteHeader(plain.Code)
		_, _ = rw.Write(body)
	})
}
