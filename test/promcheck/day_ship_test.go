//go:build ship

package promcheck

import (
	"testing"
	"time"
)

// TestShipDayOfTheQueue: a day of 40,000 jobs on 1,000 runners.
func TestShipDayOfTheQueue(t *testing.T) { queueDay(t, 1000, 24*time.Hour) }
