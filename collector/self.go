package collector

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gitlab-runner-fleet-exporter/internal/snapshot"
)

// Self counts what happens in the exporter. Its methods take plain types, so
// that the rooms where it happens need not know about metrics. A family that is
// disabled is counted all the same and not exported.
type Self struct {
	requests        *prometheus.CounterVec
	retries         *prometheus.CounterVec
	requestDuration *prometheus.HistogramVec
	pollDuration    *prometheus.HistogramVec
	pollFailures    *prometheus.CounterVec
	settleDelay     *prometheus.HistogramVec
	saveDuration    *prometheus.HistogramVec
	saveErrors      *prometheus.CounterVec
	damaged         *prometheus.CounterVec
	reloadOK        *prometheus.GaugeVec
	reloadTime      *prometheus.GaugeVec
}

func newSelf(reg prometheus.Registerer, table []*family, disabled map[string]bool, shards int) (*Self, error) {
	var failed error
	row := func(name string, c func(f *Family) prometheus.Collector) {
		at := slices.IndexFunc(table, func(f *family) bool { return f.Name == selfPrefix+name })
		f := &table[at].Family // a missing row is a bug that any test meets
		vec := c(f)
		if disabled[f.Name] {
			return
		}
		if err := reg.Register(vec); err != nil && failed == nil {
			failed = fmt.Errorf("register %s: %w", f.Name, err)
		}
	}
	counter := func(name string) (vec *prometheus.CounterVec) {
		row(name, func(f *Family) prometheus.Collector {
			vec = prometheus.NewCounterVec(prometheus.CounterOpts{Name: f.Name, Help: f.Help, Unit: f.Unit}, f.Labels)
			return vec
		})
		return vec
	}
	gauge := func(name string) (vec *prometheus.GaugeVec) {
		row(name, func(f *Family) prometheus.Collector {
			vec = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: f.Name, Help: f.Help, Unit: f.Unit}, f.Labels)
			return vec
		})
		return vec
	}
	histogram := func(name string) (vec *prometheus.HistogramVec) {
		row(name, func(f *Family) prometheus.Collector {
			vec = prometheus.NewHistogramVec(prometheus.HistogramOpts{
				Name: f.Name, Help: f.Help, Unit: f.Unit, Buckets: f.Buckets,
			}, f.Labels)
			return vec
		})
		return vec
	}
	s := &Self{
		requests:        counter("api_requests_total"),
		retries:         counter("api_retries_total"),
		requestDuration: histogram("api_request_duration_seconds"),
		pollDuration:    histogram("poll_duration_seconds"),
		pollFailures:    counter("poll_failures_total"),
		settleDelay:     histogram("job_settle_delay_seconds"),
		saveDuration:    histogram("state_save_duration_seconds"),
		saveErrors:      counter("state_save_errors_total"),
		damaged:         counter("state_damaged_total"),
		reloadOK:        gauge("config_last_reload_successful"),
		reloadTime:      gauge("config_last_reload_success_timestamp_seconds"),
	}
	read := func(name string, value func() float64) {
		row(name, func(f *Family) prometheus.Collector {
			return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: f.Name, Help: f.Help, Unit: f.Unit}, value)
		})
	}
	read("time_seconds", func() float64 { return float64(time.Now().UnixMicro()) / 1e6 })
	read("shards", func() float64 { return float64(max(shards, 1)) })
	// Those without labels exist from the start.
	s.saveDuration.WithLabelValues()
	s.saveErrors.WithLabelValues()
	s.reloadOK.WithLabelValues()
	s.reloadTime.WithLabelValues()
	return s, failed
}

// Declare makes a GitLab's series exist at 0 before their first event, so that
// increase() sees it: routes of the API, and reasons why a poll can fail. Of the
// status codes only 200 and error, since others may never come.
func (s *Self) Declare(gitlab string, routes, reasons []string) {
	for _, route := range routes {
		s.requests.WithLabelValues(gitlab, route, "200")
		s.requests.WithLabelValues(gitlab, route, codeError)
		s.requestDuration.WithLabelValues(gitlab, route)
	}
	for stage := range snapshot.Stage(snapshot.NumStages) {
		s.pollDuration.WithLabelValues(gitlab, stage.String())
		for _, reason := range reasons {
			s.pollFailures.WithLabelValues(gitlab, stage.String(), reason)
		}
	}
	s.settleDelay.WithLabelValues(gitlab)
	s.damaged.WithLabelValues(gitlab)
}

// DeclareRetries is Declare for the reasons why a request is sent again.
func (s *Self) DeclareRetries(gitlab string, reasons []string) {
	for _, reason := range reasons {
		s.retries.WithLabelValues(gitlab, reason)
	}
}

// Forget removes a GitLab's series, after a reload without it.
func (s *Self) Forget(gitlab string) {
	of := prometheus.Labels{"gitlab": gitlab}
	s.requests.DeletePartialMatch(of)
	s.retries.DeletePartialMatch(of)
	s.requestDuration.DeletePartialMatch(of)
	s.pollDuration.DeletePartialMatch(of)
	s.pollFailures.DeletePartialMatch(of)
	s.settleDelay.DeletePartialMatch(of)
	s.damaged.DeletePartialMatch(of)
}

// codeError stands for a request that had no answer.
const codeError = "error"

// APIRequest counts one request and its time until the answer was read. code is
// the HTTP status; 0: there was no answer.
func (s *Self) APIRequest(gitlab, route string, code int, d time.Duration) {
	c := codeError
	if code != 0 {
		c = strconv.Itoa(code)
	}
	s.requests.WithLabelValues(gitlab, route, c).Inc()
	s.requestDuration.WithLabelValues(gitlab, route).Observe(d.Seconds())
}

// APIRetry counts one request that is sent again.
func (s *Self) APIRetry(gitlab, reason string) { s.retries.WithLabelValues(gitlab, reason).Inc() }

// PollFailure counts one reading that failed. stage and reason are of closed sets.
func (s *Self) PollFailure(gitlab, stage, reason string) {
	s.pollFailures.WithLabelValues(gitlab, stage, reason).Inc()
}

// PollDuration observes one reading.
func (s *Self) PollDuration(gitlab, stage string, d time.Duration) {
	s.pollDuration.WithLabelValues(gitlab, stage).Observe(d.Seconds())
}

// JobSettleDelay observes the time from a job's end to its count. A negative
// one, from clocks that differ, is 0.
func (s *Self) JobSettleDelay(gitlab string, d time.Duration) {
	s.settleDelay.WithLabelValues(gitlab).Observe(max(d, 0).Seconds())
}

// StateSave observes one commit of the state, failed or not.
func (s *Self) StateSave(d time.Duration, err error) {
	s.saveDuration.WithLabelValues().Observe(d.Seconds())
	if err != nil {
		s.saveErrors.WithLabelValues().Inc()
	}
}

// StateDamaged counts one state file that was put aside.
func (s *Self) StateDamaged(gitlab string) { s.damaged.WithLabelValues(gitlab).Inc() }

// ConfigReload records the outcome of a load of the configuration, the first one included.
func (s *Self) ConfigReload(ok bool, t time.Time) {
	s.reloadOK.WithLabelValues().Set(bit(ok))
	if ok {
		s.reloadTime.WithLabelValues().Set(float64(t.UnixMicro()) / 1e6)
	}
}
