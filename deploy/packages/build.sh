#!/usr/bin/env bash
# Builds the Debian and the RPM package into dist/, with nfpm from test/tools.sh.
#
#   VERSION=1.2.3 GOARCH=arm64 deploy/packages/build.sh
set -euo pipefail
out=${OUT:-$(dirname "$0")/../../dist}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")"
root=../..
export ARCH=${GOARCH:-$(go env GOARCH)}
version=${VERSION:-$(git describe --tags --always)}
version=${version#v}
# Packages sort by version: without a release it is older than each of them.
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+ ]] || version=0.0.0~$version
export VERSION=$version
# The time of each file inside, and of the package: that of the commit, so that
# two builds give the same bytes.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
export MAINTAINER=${MAINTAINER:-"The gitlab_runner_fleet_exporter authors <noreply@example.com>"}
BUILT=$(mktemp -d)
export BUILT
trap 'rm -rf "$BUILT"' EXIT

[ -x "$root/.tools/nfpm" ] || "$root/test/tools.sh" nfpm
program=gitlab_runner_fleet_exporter
# The manual is the host's to write, whatever the package is for.
GOARCH=$(go env GOHOSTARCH) GOOS=$(go env GOHOSTOS) make -C "$root" build VERSION="$version" BINARY="$BUILT/host" >/dev/null
"$BUILT/host" --completion-script-bash >"$BUILT/bash"
"$BUILT/host" --completion-script-zsh >"$BUILT/zsh"
# The first line is to hold the version alone; kingpin writes all of --version.
"$BUILT/host" --help-man | sed -e "1c .TH $program 1 \"\" \"$program $version\"" -e '2,/^\.SH "NAME"/{/^\.SH/!d}' | gzip -9n >"$BUILT/$program.1.gz"
GOOS=linux GOARCH=$ARCH make -C "$root" build VERSION="$version" BINARY="$BUILT/$program" >/dev/null
for packager in deb rpm; do
  "$root/.tools/nfpm" package --config nfpm.yaml --packager "$packager" --target "$out"
done
