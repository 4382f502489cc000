package inventory

import (
	"time"

	"gitlab-runner-fleet-exporter/internal/gitlab"
)

// Listed takes a listing of the only scope.
func (inv *Inventory) Listed(rows []gitlab.Runner, whole bool, start time.Time) Change {
	return inv.List(Listing{Rows: rows, Whole: whole, Start: start, Began: start})
}
