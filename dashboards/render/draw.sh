#!/usr/bin/env bash
# Draws the boards and fleet.png in docs/images: lets a Prometheus scrape the
# demonstration for a while, then draws each dashboard over it and takes a
# picture of the page /fleet. Needs `make build tools`, node,
# chromium, fonts-dejavu-core and pngquant.
#
#   dashboards/render/draw.sh [minutes, default 10]
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
minutes=${1:-10} # four of the demonstration's stories are visible by then
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

node draw.mjs --prometheus http://127.0.0.1:19090 --seconds $((minutes * 60)) --out "$root/docs/images" --fleet http://127.0.0.1:19756/fleet
pngquant --force --ext .png --speed 1 64 "$root/docs/images/fleet.png" $(cd "$root/dashboards" && for f in *.json; do echo "$root/docs/images/${f%.json}.png"; done)
