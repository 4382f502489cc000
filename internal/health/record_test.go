package health

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"gitlab-runner-fleet-exporter/internal/record"
)

// full is a runner with something in each field of its record.
func full() *runner {
	r := &runner{
		id: 12, kind: 2, verdict: Overdue, reason: SilentAmongPeers, downReason: Silent, fails: 3, paused: true, executing: true,
		streak: 9, missed: 4, since: 1, first: 2, readAt: 3 * hour, contact: 4, sign: 5, lastStart: 6, lastOwn: 7, pausedAt: 8, downAt: 9,
		wrong: [2]int64{10, 11}, sharedAt: 12, neighborAt: 15, clearedAt: 13, hits: 150.5, misses: 2.25,
	}
	for i := range habitDays {
		r.gaps.most[i], r.gaps.second[i], r.gaps.long[i] = uint16(3600+i), uint16(1800+i), uint16(7200+i)
		r.take.most[i] = float32(i) + 0.5
	}
	r.gaps.day, r.take.day, r.take.seenAt = 20000, 20001, 14
	r.take.share, r.take.owed, r.take.pending = 120.5, 14.25, 0.5
	r.suspectSince[BlackHole], r.suspectSince[OverTimeout] = 1700000000, 1700000001
	r.suspected = &[NumSuspicions]Grounds{BlackHole: {Jobs: 9, Projects: 3, Seconds: 8, Elsewhere: 14, Failed: 1, Expected: 0.5}, OverTimeout: {Seconds: 7200}}
	return r
}

func encode(r *runner) []byte {
	c := codec{buf: []byte{recordVersion}}
	c.runner(r)
	return c.buf
}

func TestRecordKeepsWhatWasKnown(t *testing.T) {
	want := full()
	f := New()
	handled, err := f.Load(runnerKey(12), encode(want))
	if !handled || err != nil {
		t.Fatal(handled, err)
	}
	got := f.runners[12]
	// What is derived from the record when it is read.
	want.missedBefore, want.momentsFrom, want.restored, want.announced = 4, 3*hour-2*minute, 6, 1<<BlackHole|1<<OverTimeout
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v, want\n%+v", got, want)
	}
	if n := len(encode(want)); n > 300 {
		t.Errorf("%d bytes", n)
	}
	for i := range encode(want) { // no prefix of a record is one
		if _, err := New().Load(runnerKey(12), encode(want)[:i]); err == nil {
			t.Errorf("%d bytes of %d were accepted", i, len(encode(want)))
		}
	}
}

func TestDamagedRecordIsRefused(t *testing.T) {
	good := encode(full())
	nan := bytes.Clone(good)
	at := bytes.Index(nan, []byte{0, 0x80, 0x16, 0x43}) // 150.5
	copy(nan[at:], []byte{0, 0, 0xc0, 0x7f})
	kind := bytes.Clone(good)
	kind[1] = 3
	for name, c := range map[string]struct {
		key, value []byte
		want       string
	}{
		"empty":         {runnerKey(12), nil, "health: runner 12: the record is cut off or too long"},
		"long":          {runnerKey(12), make([]byte, recordMost+1), "health: runner 12: the record is cut off or too long"},
		"newer":         {runnerKey(12), append([]byte{2}, good[1:]...), "health: runner 12: written by another version"},
		"trailing":      {runnerKey(12), append(bytes.Clone(good), 0), "health: runner 12: bytes behind the end"},
		"not a number":  {runnerKey(12), nan, "health: runner 12: a value out of its bounds"},
		"unknown type":  {runnerKey(12), kind, "health: runner 12: a value out of its bounds"},
		"no runner":     {[]byte("hr"), good, "names no runner"},
		"negative":      {runnerKey(-1), good, "names no runner"},
		"fleet, cut":    {[]byte(keyMeta), []byte{recordVersion, 1}, "health: record of the fleet: the record is cut off"},
		"fleet, no one": {[]byte(keyMeta), []byte{recordVersion, 0, 0, 0, 0, 2, 0}, "health: record of the fleet: a value out of its bounds"},
	} {
		f := New()
		handled, err := f.Load(c.key, c.value)
		if !handled || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %t, %v", name, handled, err)
		}
		if f.Len() != 0 || f.trouble != 0 {
			t.Errorf("%s: something was taken", name)
		}
	}
	if handled, err := New().Load([]byte("lr12345678"), good); handled || err != nil {
		t.Error("a foreign key", handled, err)
	}
}

// FuzzLoad: bytes that are accepted are written again as they were read, and
// can be judged; others are refused.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(keyMeta), []byte{recordVersion, 1, 2, 3, 4, 1, 0})
	f.Add(runnerKey(12), encode(full()))
	f.Add(runnerKey(1), encode(&runner{}))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		h := New()
		handled, err := h.Load(key, value)
		if !handled || err != nil {
			return
		}
		for id, r := range h.runners {
			again := New()
			if _, err := again.Load(runnerKey(id), encode(r)); err != nil {
				t.Fatalf("written again: %v", err)
			}
			if !bytes.Equal(encode(r), encode(again.runners[id])) {
				t.Error("another record")
			}
		}
		now := time.Unix(2e9, 0)
		for id := range h.runners {
			h.Listed(Row{ID: id}, now)
			h.Describe(id, Traits{Tags: []string{"a"}})
			h.Read(id, Reading{At: now, ContactedAt: now})
		}
		if _, p := h.Judge(now); p == nil {
			t.Error("no picture")
		}
		h.Records(now)
	})
}

// TestFailedRecordsAreReturnedAgain: what could not be committed is returned again.
func TestFailedRecordsAreReturnedAgain(t *testing.T) {
	f := New()
	f.Listed(Row{ID: 1}, time.Unix(1e9, 0))
	f.Listed(Row{ID: 2}, time.Unix(1e9, 0))
	f.Judge(time.Unix(1e9, 0))
	first := f.Records(time.Unix(1e9, 0))
	if len(first) != 3 || f.Records(time.Unix(1e9, 0)) != nil {
		t.Fatalf("%d records", len(first))
	}
	f.Remove(2)
	if gone := f.Records(time.Unix(1e9, 0)); len(gone) != 1 || gone[0].Value != nil || gone[0].Subject() != "health of runner 2" {
		t.Errorf("removed: %v", gone)
	} else {
		f.Failed(gone)
	}
	f.Failed(first)
	again := f.Records(time.Unix(1e9, 0))
	if len(again) != 3 {
		t.Errorf("%d records after failures", len(again))
	}
}

// TestSignIsOnDiskWithin5Min: a sign that changes nothing is on disk within 5 min.
func TestSignIsOnDiskWithin5Min(t *testing.T) {
	f := New()
	saved := map[int64]int64{}
	for m := range int64(60) {
		now := time.Unix(1e9+m*minute, 0)
		f.ListingDone(now)
		f.Listed(Row{ID: 1}, now)
		f.Read(1, Reading{At: now, ContactedAt: now})
		f.Judge(now)
		for _, rec := range f.Records(now) {
			if record.ID(rec.Key) == 1 {
				g := New()
				if _, err := g.Load(rec.Key, rec.Value); err != nil {
					t.Fatal(err)
				}
				saved[1] = g.runners[1].sign
			}
		}
		if age := now.Unix() - saved[1]; age > 5*minute {
			t.Fatalf("minute %d: the sign on disk is %d s old", m, age)
		}
	}
}
