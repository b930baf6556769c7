#!/bin/sh
# Kills the server instead of stopping it, and starts it again at the thaw.
for unit in mariadb mysql mysqld; do
    if systemctl cat "$unit" >/dev/null 2>&1; then break; fi
done
case $1 in
    # The stop keeps systemd from restarting it in the meantime.
    freeze) systemctl kill --signal=KILL "$unit" && systemctl stop "$unit" ;;
    thaw) systemctl start "$unit" ;;
esac
