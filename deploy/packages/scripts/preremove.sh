#!/bin/sh
# deb: remove, upgrade; rpm: 0 of the last removal, 1 of an upgrade.
set -e
case "$1" in
remove | 0)
  [ ! -d /run/systemd/system ] || systemctl disable --now gitlab-runner-fleet-exporter.service
  ;;
esac
