//go:build ship

package alerts

import "testing"

const debian = "apt-get install prometheus prometheus-alertmanager"

// TestShipOldestPromtool tries the rules with the oldest Prometheus that knows
// keep_firing_for, 2.42 as Debian 12 ships it.
func TestShipOldestPromtool(t *testing.T) {
	promtool(t, tool(t, "/usr/bin/promtool", debian))
}

// TestShipOldestAmtool: Alertmanager 0.25.
func TestShipOldestAmtool(t *testing.T) {
	run(t, tool(t, "/usr/bin/amtool", debian), "check-config", routingFile)
}
