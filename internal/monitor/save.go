package monitor

import (
	"slices"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

const (
	saveInterval    = time.Second
	saveBackOffMost = 30 * time.Second
)

// saver commits what was folded. It logs each trouble once.
type saver struct {
	fleet   *fleet
	state   State
	metrics Metrics
	log     log.Logger

	saving   sync.Mutex          // taken before the fleet's
	failures int                 // in a row
	leftOut  map[string]struct{} // keys of records that could not be saved and were logged
}

// wait is how long to wait after a commit that failed.
func (s *saver) wait() time.Duration {
	s.saving.Lock()
	defer s.saving.Unlock()
	return min(saveInterval<<min(s.failures, 10), saveBackOffMost)
}

// save commits everything that a counter is derived from in one batch. Where
// that fails nothing is lost: the changes stay, and the counters stay at what
// was committed last. A record that can never be saved is left out alone.
func (s *saver) save(now time.Time) error {
	// One at a time: an older batch must not overwrite a newer one.
	s.saving.Lock()
	defer s.saving.Unlock()
	f := s.fleet
	f.mu.Lock()
	begun := f.led.Begun()
	batch := f.led.Batch()
	records, left := f.inv.Records()
	verdicts := f.health.fleet.Records(f.clocks.now())
	f.mu.Unlock()
	if batch == nil && len(records)+len(left)+len(verdicts) == 0 {
		return nil
	}
	b, out, err := storable(slices.Concat(records, verdicts), batch, left)
	if err == nil {
		err = s.state.Commit(b)
	}
	counted := err
	if err == nil && len(out) > 0 {
		counted = out[0].err
	}
	s.metrics.StateSave(time.Since(now), counted)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.inv.Failed(records)
		f.health.fleet.Failed(verdicts)
		if batch != nil {
			f.led.Failed(batch)
		}
		if s.failures++; s.failures == 1 {
			level.Error(s.log).Log("msg", "the state cannot be saved: counters stay at their last saved values until it can, gauges go on", "err", err, "remedy", saveRemedy(err))
		}
		return err
	}
	f.inv.Committed()
	s.logLeftOut(out, b)
	if s.failures > 0 {
		s.failures = 0
		level.Info(s.log).Log("msg", "the state is saved again")
	}
	if batch != nil {
		f.led.Committed(batch)
	}
	if begun && !f.started {
		f.started = true
		f.wake()
	}
	for _, d := range f.led.Delays() {
		s.metrics.JobSettleDelay(f.opts.Name, d)
	}
	return nil
}
