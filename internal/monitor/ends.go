package monitor

import (
	"context"
	"errors"
	"time"
)

// Every reading ends: a server, or a proxy before it, that names a next page
// for ever must not hold a worker and the budget for ever, unseen.
const (
	// readingMost is how long one reading may take, its waits for the budget
	// included.
	readingMost = time.Hour
)

// stopping tells the end of the program from that of a reading's time.
func stopping(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }
