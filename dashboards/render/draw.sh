#!/usr/bin/env bash
# Draws docs/images/*.png: lets a Prometheus scrape the demonstration for a
# while, then draws each dashboard over it. Needs `make build tools`, node,
# chromium, fonts-dejavu-core and pngquant.
#
#   dashboards/render/draw.sh [minutes, default 75]
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
minutes=${1:-75} # the rules say "for 1h" of a runner that is offline
work=$(mktemp -d)
pids=()
finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}
trap finish EXIT

npm install --omit-lockfile-registry-resolved --no-audit --no-fund --ignore-scripts --legacy-peer-deps

cp "$root/alerts/rules.yml" "$work/rules.yml"
sed -e 's/exporter:9756/127.0.0.1:19756/' -e '/^alerting:/,/^$/d' "$root/deploy/compose/prometheus.yml" >"$work/prometheus.yml"
"$root/gitlab_runner_fleet_exporter" --demo --web.listen-address=127.0.0.1:19756 >"$work/exporter.log" 2>&1 &
pids+=($!)
"$root/.tools/prometheus" --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/data" \
  --web.listen-address=127.0.0.1:19090 >"$work/prometheus.log" 2>&1 &
pids+=($!)
echo "scraping for $minutes minutes"
sleep $((minutes * 60))

# A runner that has something to tell: many jobs, failures above all.
runner=$(curl -sf http://127.0.0.1:19090/api/v1/query --data-urlencode \
  'query=topk(1, sum by (runner_id) (gitlab_runner_fleet_runner_jobs_finished_total) + 10 * sum by (runner_id) (gitlab_runner_fleet_runner_jobs_finished_total{failure_class="infrastructure"})
     or sum by (runner_id) (gitlab_runner_fleet_runner_jobs_executing))' |
  sed -nE 's/.*"runner_id":"([0-9]+)".*/\1/p')
node draw.mjs --prometheus http://127.0.0.1:19090 --seconds $((minutes * 60)) --values "{\"runner\":\"$runner\"}" --out "$root/docs/images"
pngquant --force --ext .png --speed 1 64 "$root"/docs/images/{overview,tags,runner,jobs,queue,exporter}.png
