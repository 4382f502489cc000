#!/bin/sh
# deb: configure [old version]; rpm: 1 of an installation, 2 of an upgrade.
set -e
name=gitlab-runner-fleet-exporter
case "$1" in abort-*) exit 0 ;; esac
getent group "$name" >/dev/null || groupadd --system "$name"
getent passwd "$name" >/dev/null ||
  useradd --system --gid "$name" --home-dir "/var/lib/$name" --no-create-home --shell /usr/sbin/nologin "$name"
install -d -m 0700 -o "$name" -g "$name" "/var/lib/$name"
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  # It starts anew where it ran; the first start is yours, once it has a token.
  systemctl try-restart "$name.service"
fi
