package collector

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// What slow clients may cost. A page is made in memory first, which takes as
// long as the processor needs, and then written, which takes as long as the
// client does. Only the making is limited by refusing: clients that do not read
// must not keep others from being answered.
const (
	// maxMakers is how many pages are made at once; makeWait is how long others
	// wait for their turn.
	maxMakers = 16
	makeWait  = 10 * time.Second
	// maxReaders bounds the pages that are being read, each of which keeps its
	// memory. Beyond it the client that has read nothing for longest, and for
	// stuckAfter at least, is cut off.
	maxReaders = 64
	stuckAfter = time.Second
	enterPoll  = 50 * time.Millisecond
	// readChunk must be taken within chunkWait, and the whole page within
	// pageWait: the longest scrape_timeout anyone sets.
	readChunk = 256 << 10
	chunkWait = 10 * time.Second
	pageWait  = 2 * time.Minute
)

// slots limits how many do something at once.
type slots chan struct{}

func (s slots) acquire(ctx context.Context) (release func(), ok bool) {
	timer := time.NewTimer(makeWait)
	defer timer.Stop()
	select {
	case s <- struct{}{}:
		return func() { <-s }, true
	case <-ctx.Done():
	case <-timer.C:
	}
	return nil, false
}

// reader is one client to which a page is being written.
type reader struct {
	control  *http.ResponseController
	began    time.Time
	progress time.Time // guarded by readers.mu, as is the use of control for deadlines
}

// readers are the clients that are being written to.
type readers struct {
	mu  sync.Mutex
	all map[*reader]bool
}

// enter adds a client. Where there are too many it cuts off the one that stands
// still longest, or waits while none does. nil: there was no room.
func (rs *readers) enter(ctx context.Context, w http.ResponseWriter) *reader {
	ctx, cancel := context.WithTimeout(ctx, makeWait)
	defer cancel()
	r := &reader{control: http.NewResponseController(w)}
	for !rs.tryEnter(r) {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(enterPoll):
		}
	}
	return r
}

func (rs *readers) tryEnter(r *reader) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	now := time.Now()
	if len(rs.all) >= maxReaders {
		var stuck *reader
		for o := range rs.all {
			if stuck == nil || o.progress.Before(stuck.progress) {
				stuck = o
			}
		}
		if now.Sub(stuck.progress) < stuckAfter {
			return false
		}
		delete(rs.all, stuck) // it ends by itself, with a failed write
		_ = stuck.control.SetWriteDeadline(now)
	}
	if rs.all == nil {
		rs.all = map[*reader]bool{}
	}
	r.began, r.progress = now, now
	rs.all[r] = true
	return true
}

var errCut = errors.New("cut off: more clients than may read at once, and this one stood still longest")

// more gives a client time for the next piece.
func (rs *readers) more(r *reader) error {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if !rs.all[r] {
		return errCut
	}
	r.progress = time.Now()
	deadline := r.progress.Add(chunkWait)
	if last := r.began.Add(pageWait); deadline.After(last) {
		deadline = last
	}
	if err := r.control.SetWriteDeadline(deadline); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("set a deadline: %w", err)
	}
	return nil
}

func (rs *readers) leave(r *reader) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	delete(rs.all, r)
}

// deliver writes a page to its end, or fails where the client does not read.
func (e *Exporter) deliver(w http.ResponseWriter, r *reader, body [][]byte) error {
	// With a length the client notices a body that was cut short.
	size := 0
	for _, c := range body {
		size += len(c)
	}
	w.Header().Set("Content-Length", strconv.Itoa(size))
	left := 0 // of the present piece
	for _, c := range body {
		for len(c) > 0 {
			if left == 0 {
				if err := e.readers.more(r); err != nil {
					return err
				}
				left = readChunk
			}
			n := min(left, len(c))
			if _, err := w.Write(c[:n]); err != nil { //nolint:gosec // not HTML, and its Content-Type is not HTML's
				return fmt.Errorf("write body: %w", err)
			}
			c, left = c[n:], left-n
		}
	}
	if err := e.readers.more(r); err != nil {
		return err
	}
	// What still lies in a buffer has not been read by anyone. A wrapper that
	// cannot flush returns ErrNotSupported, which is no evidence about the client.
	if err := r.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}
