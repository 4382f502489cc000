package store

import (
	"errors"
	"fmt"
)

var (
	// ErrLocked reports that another process uses the folder.
	ErrLocked = errors.New("another process uses this storage")
	// ErrClosed reports that the State or its Folder was closed.
	ErrClosed = errors.New("state is closed")
	// ErrGone reports that the file was removed or replaced while it was in use, so
	// that a commit would go where no restart finds it.
	ErrGone = errors.New("state file was removed or replaced while in use; put it back, or restart to begin a new one")
)

// ForeignError reports that the file under this GitLab's name holds another
// GitLab's records.
type ForeignError struct {
	Name       string // as configured
	Have, Want string // found and expected: addresses, or names where those differ
	Path       string // "" in memory
}

func (e *ForeignError) Error() string {
	where := "saved state"
	if e.Path != "" {
		where = "state file " + e.Path
	}
	return fmt.Sprintf("%s of GitLab %q belongs to %s, not to %s: counters of two GitLabs must not mix; give this GitLab another name in the configuration, or move the file away to begin anew",
		where, e.Name, e.Have, e.Want)
}

// NewerError reports that the file was written by a newer release, whose records
// this one cannot read.
type NewerError struct {
	Name, Path string
	Have, Want string // what the file has and what this release reads
}

func (e *NewerError) Error() string {
	return fmt.Sprintf("state file %s of GitLab %q has %s, this release knows %s: run the newer release again, or move the file away to begin anew",
		e.Path, e.Name, e.Have, e.Want)
}

// OlderError reports that the file was written by an older release, whose records
// this one cannot read. Open puts such a file aside and returns the error only
// where that fails.
type OlderError struct {
	Name, Path string
	Have, Want string
}

func (e *OlderError) Error() string {
	return fmt.Sprintf("state file %s of GitLab %q has %s, this release needs %s and cannot read it: run the older release again, or move the file away to begin anew",
		e.Path, e.Name, e.Have, e.Want)
}

// RecordError reports that one record cannot be stored, whatever the state of the
// disk: see Storable.
type RecordError struct {
	Key    []byte
	Reason string
}

func (e *RecordError) Error() string { return "a record cannot be stored: " + e.Reason }

// DamagedError reports that the content of the file is not what this package wrote.
type DamagedError struct{ Path, Reason string }

func (e *DamagedError) Error() string {
	return fmt.Sprintf("state file %s is damaged: %s", e.Path, e.Reason)
}
