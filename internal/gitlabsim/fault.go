package gitlabsim

import (
	"net/http"
	"slices"
	"time"
)

// Fault is something that goes wrong with some of the requests. All that match
// a request take part; of those that decide the answer the first added wins.
type Fault struct {
	// Match and Route choose the requests, Route as in Requests with or
	// without the method; both empty: all.
	Match func(*http.Request) bool
	Route string
	// Probability that a matching request is hit; 0: always.
	Probability float64
	// From and Until bound it in time, Times in hits; zero: no bound.
	From, Until time.Time
	Times       int

	// Status answers in place of GitLab, as its proxy would. Without Body it
	// is nginx's HTML page.
	Status      int
	Body        string
	ContentType string // default text/html
	RetryAfter  string // the header of that answer
	Garbage     bool   // an HTML page with status 200
	Drop        bool   // the connection is cut without an answer
	Truncate    bool   // half a body, then the connection is cut

	Latency  time.Duration
	StaleBy  time.Duration // the answer comes from a replica that lags
	DateSkew time.Duration // the Date header is wrong by this
}

type fault struct {
	Fault
	hits int
}

// AddFault scripts a fault until remove is called.
func (w *World) AddFault(f Fault) (remove func()) {
	w.lock()
	defer w.mu.Unlock()
	p := &fault{Fault: f}
	w.faults = append(w.faults, p)
	return func() {
		w.lock()
		defer w.mu.Unlock()
		if i := slices.Index(w.faults, p); i >= 0 {
			w.faults = slices.Delete(w.faults, i, i+1)
		}
	}
}

// hits is what all faults together do to a request.
type hits struct {
	status                 int
	body, contentType      string
	retryAfter             string
	drop, truncate         bool
	latency, staleBy, skew time.Duration
}

func (w *World) faultsFor(r *http.Request, rt route) (h hits) {
	now := w.time(w.now)
	for _, f := range w.faults {
		switch {
		case f.Match != nil && !f.Match(r):
			continue
		case f.Route != "" && f.Route != rt.String() && f.Route != rt.path:
			continue
		case !f.From.IsZero() && now.Before(f.From), !f.Until.IsZero() && !now.Before(f.Until):
			continue
		case f.Times > 0 && f.hits >= f.Times:
			continue
		case f.Probability > 0 && w.faultRng.Float64() >= f.Probability:
			continue
		}
		f.hits++
		h.latency += f.Latency
		h.staleBy = max(h.staleBy, f.StaleBy)
		h.skew += f.DateSkew
		h.truncate = h.truncate || f.Truncate
		if h.drop || h.status != 0 {
			continue
		}
		h.drop = f.Drop
		if h.status = f.Status; f.Garbage && h.status == 0 {
			h.status = http.StatusOK
		}
		if h.status != 0 {
			h.body, h.contentType, h.retryAfter = f.Body, f.ContentType, f.RetryAfter
			if h.contentType == "" {
				h.contentType = "text/html"
			}
			if h.body == "" {
				text := http.StatusText(h.status)
				h.body = "<!DOCTYPE html>\n<html><head><title>" + text + "</title></head><body><center><h1>" + text + "</h1></center><hr><center>nginx</center></body></html>\n"
			}
		}
	}
	return h
}
