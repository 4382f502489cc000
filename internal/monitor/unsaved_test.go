package monitor

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-kit/log"

	"gitlab-runner-fleet-exporter/internal/budget"
	"gitlab-runner-fleet-exporter/internal/gitlab"
	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/ledger"
	"gitlab-runner-fleet-exporter/internal/snapshot"
	"gitlab-runner-fleet-exporter/internal/store"
)

func unpolled(t *testing.T, state State, s *scraper, logged *bytes.Buffer) *Monitor {
	t.Helper()
	m, err := New(Options{
		Name: "sim", URL: "http://gitlab.test", Scopes: []gitlab.Scope{{Kind: snapshot.ScopeInstance}}, Intervals: defaultPoll(), Concurrency: 8,
		Inventory: inventory.Options{TagLimit: 500, TagRetention: time.Hour, RunnersEnabled: true},
	}, Deps{Budget: budget.New(budget.Options{Concurrency: 1}), State: state, Publisher: s, Metrics: s, Logger: log.NewLogfmtLogger(logged)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// One value that has no form on disk must not keep the rest from being saved:
// it is left out alone, named once, counted, and never blamed on the disk.
func TestOneBadValueDoesNotStopTheRest(t *testing.T) {
	folder, state := openState(t, t.TempDir())
	var logged bytes.Buffer
	s := newScraper()
	m := unpolled(t, state, s, &logged)
	now := time.Now().Truncate(time.Second)
	online := true
	row := func(id int64) gitlab.Runner { return gitlab.Runner{ID: id, Type: "instance_type", Online: &online} }
	long := strings.Repeat("x", 40_000)
	m.fleet.led.Begin(m.fleet.led.Advance(now, now))
	list := func(poison time.Time) {
		m.fleet.inv.List(inventory.Listing{Scope: m.publisher.scopes.all[0].key, Rows: []gitlab.Runner{row(1), row(2), row(3)}, Whole: true, Start: now, Began: now})
		m.fleet.led.Listed([]ledger.Member{{ID: 1}, {ID: 2}, {ID: 3}}, "instance", now)
		for id := range int64(3) {
			d := gitlab.RunnerDetails{Runner: row(id + 1), Tags: []string{"gpu"}, ContactedAt: now}
			if id == 1 {
				d.ContactedAt = poison
			}
			m.fleet.inv.Details(id+1, d, nil, now)
		}
		m.fleet.led.Describe(1, []string{"gpu"})
		m.fleet.led.Describe(2, []string{"gpu", long})
	}
	job := int64(0)
	work := func() {
		for id := range int64(3) {
			job++
			p := m.fleet.led.Poll(id+1, m.fleet.led.Advance(now, now), now, ledger.Listed{Idle: true}, time.Hour)
			p.Take(ledger.Answer{Page: gitlab.JobsPage{Jobs: []gitlab.Job{{ID: job, Status: "success", CreatedAt: now, StartedAt: now, FinishedAt: now}}}}, nil)
			p.End()
		}
	}
	save := func() {
		t.Helper()
		if err := m.saver.save(time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	counted := func() (n float64) {
		for range 2 {
			m.publish(time.Now())
			s.scrape()
			m.fleet.led.Served(m.publisher.generation, m.publisher.rowsGen, now)
			save()
		}
		m.publish(time.Now())
		for k, v := range series(s.scrape()) {
			if strings.HasPrefix(k, "jobs_finished[") {
				n += v
			}
		}
		return n
	}
	for range 3 {
		now = now.Add(time.Hour)
		list(time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC))
		work()
		save()
	}
	if n := counted(); n != 9 {
		t.Errorf("%v jobs are shown as counted, want 9", n)
	}
	if s.saveErrs < 3 {
		t.Errorf("%d errors counted, want one for each of three commits", s.saveErrs)
	}
	lines := logged.String()
	for _, subject := range []string{`"runner 2"`, `"jobs of tag`} {
		if n := strings.Count(lines, "record="+subject); n != 1 {
			t.Errorf("%s is named %d times, want once:\n%.2000s", subject, n, lines)
		}
	}
	if strings.Contains(lines, "make room") || strings.Contains(lines, "the state cannot be saved") || len(lines) > 3000 {
		t.Errorf("logged: %.3000s", lines)
	}
	// After a restart the rest is there, each job counted once.
	if !m.fleet.inv.Has(2) {
		t.Fatal("shown no more")
	}
	again := unpolled(t, state, newScraper(), &logged)
	if again.fleet.inv.Has(2) || !again.fleet.inv.Has(1) || !again.fleet.inv.Has(3) {
		t.Errorf("saved are the runners %v", again.fleet.inv.IDs())
	}
	if again.fleet.led.Watched(2) != 0 || again.fleet.led.ReadAt(2).IsZero() {
		t.Error("the marks of the runner's jobs are not saved")
	}
	// Right again, it is saved, and the next time it is news.
	logged.Reset()
	now = now.Add(time.Hour)
	list(now)
	save()
	now = now.Add(time.Hour)
	list(time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC))
	save()
	if n := strings.Count(logged.String(), `record="runner 2"`); n != 1 {
		t.Errorf("after it was right it is named %d times:\n%.2000s", n, &logged)
	}
	if err := folder.Close(); err != nil {
		t.Error(err)
	}
}

// Without a record that others rest upon nothing may be saved; the cause of a
// failure decides which remedy is logged.
func TestCauseDecidesTheSaveRemedy(t *testing.T) {
	l := ledger.New(ledger.Options{Lookback: time.Hour})
	l.Begin(time.Now())
	l.Listed(nil, strings.Repeat("s", 100), time.Now())
	b := l.Batch()
	for i := range b.Records {
		if len(b.Records[i].Key) == 2 {
			b.Records[i].Key = append(b.Records[i].Key, make([]byte, 40_000)...)
		}
	}
	if _, left, err := storable(nil, b, nil); err == nil || len(left) != 1 {
		t.Errorf("a batch without its first start: %v, %d left out", err, len(left))
	}
	disk := []string{"make room", "permission", "write access", "kernel"}
	for _, c := range []struct {
		err  error
		want string
	}{
		{&fs.PathError{Op: "write", Err: syscall.ENOSPC}, "make room"},
		{syscall.EDQUOT, "quota"},
		{&fs.PathError{Op: "open", Err: syscall.EACCES}, "write access"},
		{syscall.EROFS, "read-only"},
		{syscall.EIO, "disk of --storage.path fails"},
		{fmt.Errorf("commit: %w", store.ErrGone), "put the state file back"},
		{fmt.Errorf("commit: %w", &store.DamagedError{}), "restart"},
		{store.ErrLocked, "other program"},
		{fmt.Errorf("commit: %w", &store.RecordError{}), "bug"},
		{os.ErrClosed, "see the error"},
	} {
		got := saveRemedy(c.err)
		if !strings.Contains(got, c.want) {
			t.Errorf("%v: %s", c.err, got)
		}
		if _, ok := errors.AsType[*store.RecordError](c.err); ok {
			for _, word := range disk {
				if strings.Contains(got, word) {
					t.Errorf("%v is blamed on the disk: %s", c.err, got)
				}
			}
		}
	}
}

// However many records are left out, the log stays readable.
func TestManyLeftOutKeepTheLogReadable(t *testing.T) {
	var logged bytes.Buffer
	m := &saver{log: log.NewLogfmtLogger(&logged)}
	for i := range 1000 {
		m.logLeftOut([]leftOut{{strconv.Itoa(i), fmt.Sprint("runner ", i), errors.New("x")}}, store.Batch{})
	}
	if n := strings.Count(logged.String(), "\n"); n != mostLeftOut || len(m.leftOut) != mostLeftOut {
		t.Errorf("%d lines, %d keys", n, len(m.leftOut))
	}
	m.logLeftOut(nil, store.Batch{Put: []store.Record{{Key: []byte("1")}}, Delete: [][]byte{[]byte("2")}})
	if len(m.leftOut) != mostLeftOut-2 {
		t.Errorf("%d keys are remembered", len(m.leftOut))
	}
}
