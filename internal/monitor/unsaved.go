package monitor

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/go-kit/log/level"

	"gitlab-runner-fleet-exporter/internal/inventory"
	"gitlab-runner-fleet-exporter/internal/ledger"
	"gitlab-runner-fleet-exporter/internal/record"
	"gitlab-runner-fleet-exporter/internal/store"
)

// leftOut is a record that no commit can hold.
type leftOut struct {
	key, subject string
	err          error
}

// mostLeftOut is how many of them the log names: beyond it they are only counted.
const mostLeftOut = 100

// storable makes one batch of what can be saved. Refused as a whole, one bad
// record would keep everything else from being saved for ever. The error is
// that of a record that the others rest upon.
func storable(records []record.Record, batch *ledger.Batch, unencoded []inventory.LeftOut) (b store.Batch, left []leftOut, err error) {
	for _, l := range unencoded {
		left = append(left, leftOut{string(l.Key), l.Subject(), l.Err})
	}
	add := func(r record.Record) bool {
		if r.Value == nil {
			b.Delete = append(b.Delete, r.Key)
			return true
		}
		if err := store.Storable(r.Key, r.Value); err != nil {
			left = append(left, leftOut{string(r.Key), r.Subject(), err})
			return false
		}
		b.Put = append(b.Put, store.Record(r))
		return true
	}
	for _, r := range records {
		add(r)
	}
	if batch == nil {
		return b, left, nil
	}
	drop := map[string]struct{}{}
	for _, r := range batch.Records {
		if !add(r) {
			drop[string(r.Key)] = struct{}{}
			err = left[len(left)-1].err
		}
	}
	if len(drop) > 0 && batch.Drop(drop) {
		err = nil
	}
	return b, left, err
}

// logLeftOut logs each record that is left out once, until it could be saved.
func (s *saver) logLeftOut(left []leftOut, saved store.Batch) {
	for _, l := range left {
		if _, logged := s.leftOut[l.key]; logged || len(s.leftOut) >= mostLeftOut {
			continue
		}
		if s.leftOut == nil {
			s.leftOut = map[string]struct{}{}
		}
		s.leftOut[l.key] = struct{}{}
		level.Error(s.log).Log("msg", "a record cannot be saved and is left out of the state; everything else is saved",
			"record", l.subject, "err", l.err,
			"remedy", "look this runner or tag up in GitLab: a name, version or time of it is out of all bounds. It is shown all the same, and read again after a restart")
	}
	if len(s.leftOut) == 0 {
		return
	}
	for _, r := range saved.Put {
		delete(s.leftOut, string(r.Key))
	}
	for _, key := range saved.Delete {
		delete(s.leftOut, string(key))
	}
}

// saveRemedy is what a person can do about a commit that failed.
func saveRemedy(err error) string {
	const again = "; saving is tried again by itself"
	_, damaged := errors.AsType[*store.DamagedError](err)
	_, record := errors.AsType[*store.RecordError](err)
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return "make room on the disk of --storage.path, or raise its quota" + again
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return "give this user write access to --storage.path, on a file system that is not mounted read-only" + again
	case errors.Is(err, syscall.EIO):
		return "the disk of --storage.path fails: look at the kernel's log and replace it" + again
	case errors.Is(err, store.ErrGone):
		return "put the state file back, or restart to begin a new one"
	case damaged:
		return "restart: the damaged file is put aside and counting begins anew; then look at the disk of --storage.path"
	case errors.Is(err, store.ErrLocked):
		return "close the other program that has the state file open" + again
	case record:
		return "report this as a bug: the disk is not the cause"
	default:
		return "see the error; check the disk of --storage.path and the kernel's log" + again
	}
}
