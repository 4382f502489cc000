// Package breakages holds a test that needs minutes: simulated GitLabs are
// broken in the ways that alerts/README.md lists, behind the real exporter,
// Prometheus and Alertmanager with the rules and the routing that users load,
// and what arrives at a webhook must be what that list says, and no more.
package breakages
