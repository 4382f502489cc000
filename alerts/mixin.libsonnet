// For Grafana's and Prometheus' jsonnet: the recording rules, alerts and dashboards
// with their defaults. Other values: --rules.print, and import what it writes.
//
//   local fleet = import 'gitlab-runner-fleet-exporter/alerts/mixin.libsonnet';
local rules = std.parseYaml(importstr 'rules.yml');
local of(keep) = {
  groups: [
    group { rules: [rule for rule in group.rules if std.objectHas(rule, keep)] }
    for group in rules.groups
    if std.length([rule for rule in group.rules if std.objectHas(rule, keep)]) > 0
  ],
};
{
  prometheusAlerts+:: of('alert'),
  prometheusRules+:: of('record'),
  grafanaDashboards+:: {
    'overview.json': import '../dashboards/overview.json',
    'tags.json': import '../dashboards/tags.json',
    'runner.json': import '../dashboards/runner.json',
    'jobs.json': import '../dashboards/jobs.json',
    'queue.json': import '../dashboards/queue.json',
    'exporter.json': import '../dashboards/exporter.json',
  },
}
