//go:build ship

package dashboards

import "testing"

// TestShipEveryPanelIsAnsweredByTheOldestPrometheus asks what each panel asks of Prometheus 2.42, as
// Debian 12 has it: the oldest that the rules are for.
func TestShipEveryPanelIsAnsweredByTheOldestPrometheus(t *testing.T) {
	live(t, "/usr/bin/prometheus")
}
