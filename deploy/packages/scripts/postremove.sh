#!/bin/sh
# deb: remove keeps state, token and user, purge does not; rpm knows no purge.
set -e
name=gitlab-runner-fleet-exporter
[ ! -d /run/systemd/system ] || systemctl daemon-reload
if [ "$1" = purge ]; then
  rm -rf "/var/lib/$name" "/etc/$name"
  ! getent passwd "$name" >/dev/null || userdel "$name"
  ! getent group "$name" >/dev/null || groupdel "$name"
fi
