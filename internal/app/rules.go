package app

import (
	"os"

	"gitlab-runner-fleet-exporter/alerts"
)

// printRules writes the alert and recording rules with the user's values, and
// returns the exit status. It needs no configuration and no network.
func (p process) printRules(o *options) int {
	var values []byte
	if o.rulesValues != "" {
		raw, err := os.ReadFile(o.rulesValues)
		if err != nil {
			printf(p.stderr, "%s: error: --rules.values: %s\n", program, err)
			return exitFailure
		}
		values = raw
	}
	rules, err := alerts.Render(alerts.Format(o.rulesFormat), o.rulesValues, values)
	if err != nil {
		printf(p.stderr, "%s: error: the values of the rules are wrong:\n%s\n", program, err)
		return exitFailure
	}
	if _, err := p.stdout.Write(rules); err != nil {
		printf(p.stderr, "%s: error: the rules cannot be written: %s\n", program, err)
		return exitFailure
	}
	return exitOK
}
