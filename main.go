// Command gitlab_runner_fleet_exporter watches the CI runners of one or more
// GitLabs and exports metrics about them to Prometheus.
package main

import (
	"context"
	"os"

	"gitlab-runner-fleet-exporter/internal/app"
)

func main() {
	app.FillVersion()
	os.Exit(app.Run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}
