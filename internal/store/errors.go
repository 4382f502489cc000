package store

import (
	"errors"
	"fmt"
)

var (
	// ErrLocked says that another process uses the folder or one of its files.
	ErrLocked = errors.New("another process uses this storage")
	// ErrClosed says that the State or its Folder was closed.
	ErrClosed = errors.New("state is closed")
	// ErrGone says that the file was removed or replaced while it was in use, so
	// that a commit would go where no restart finds it.
	ErrGone = errors.New("state file was removed or replaced while in use; put it back, or restart to begin a new one")
)

// ForeignError says that the file under this GitLab's name holds another one's records.
type ForeignError struct {
	Name       string // as configured
	Have, Want string // whose it is and whose it should be: addresses, or names where those differ
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

// NewerError says that the file was written by a newer release, whose records
// this one cannot read.
type NewerError struct {
	Name, Path string
	Have, Want string // what the file has and what this release knows
}

func (e *NewerError) Error() string {
	return fmt.Sprintf("state file %s of GitLab %q has %s, this release knows %s: run the newer release again, or move the file away to begin anew",
		e.Path, e.Name, e.Have, e.Want)
}

// OlderError says that the file was written by an older release, whose records
// this one cannot read. Open puts such a file aside; only where it cannot is the
// error returned.
type OlderError struct {
	Name, Path string
	Have, Want string
}

func (e *OlderError) Error() string {
	return fmt.Sprintf("state file %s of GitLab %q has %s, this release needs %s and cannot read it: run the older release again, or move the file away to begin anew",
		e.Path, e.Name, e.Have, e.Want)
}

// RecordError says that one record cannot be stored, whatever the state of the
// disk: see Storable.
type RecordError struct {
	Key    []byte
	Reason string
}

func (e *RecordError) Error() string { return "a record cannot be stored: " + e.Reason }

// DamagedError says that the file is not as this package left it.
type DamagedError struct{ Path, Reason string }

func (e *DamagedError) Error() string {
	return fmt.Sprintf("state file %s is damaged: %s", e.Path, e.Reason)
}
