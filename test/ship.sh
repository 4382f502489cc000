#!/usr/bin/env bash
# Runs the tests with the build tag ship: they need root and a Debian, whose
# packages are installed here, and some forty minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || {
  echo "make test-ship needs root: it installs packages and builds an image"
  exit 1
}
packages=(python3-gitlab python3-jsonschema ruby ruby-graphql prometheus prometheus-alertmanager buildah podman runc busybox-static ca-certificates etcd-server rpm systemd man-db make chromium fonts-dejavu-core)
# Debian's npm is hundreds of packages: only where no other is there.
command -v npm >/dev/null || packages+=(npm)
echo "== packages"
dpkg -s "${packages[@]}" >/dev/null 2>&1 || {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null >/dev/null
}
test/tools.sh helm nfpm kube-apiserver kubectl actionlint goreleaser cyclonedx-gomod gitlab-ci-local renovate
go build -o .tools/summary ./test/summary
echo "== go test -tags ship"
# The rules over a simulated day take one core for minutes, while others wait for
# servers: they run beside them, and report after them.
day=$(mktemp)
trap 'kill "${beside:-}" 2>/dev/null || true; rm -f "$day"' EXIT
(cd test/promcheck && go test -json -tags ship -run Ship -count=1 -timeout 40m ./...) >"$day" &
beside=$!
mapfile -t rest < <(go list ./... | grep -v test/breakages)
go test -json -tags ship -run Ship -count=1 -timeout 30m "${rest[@]}" | .tools/summary
ended=0
wait "$beside" || ended=$?
.tools/summary <"$day"
[ "$ended" = 0 ]
# By itself: it is about when a notification arrives, and what builds images
# beside it would be in the way.
echo "== breakages up to the notification that arrives (16 minutes)"
go test -json -tags ship -run ShipBreakages -count=1 -timeout 30m ./test/breakages | .tools/summary
