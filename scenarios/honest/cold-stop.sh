#!/bin/sh
# Stops the server for as long as the guest is frozen.
for unit in mariadb mysql mysqld; do
    if systemctl cat "$unit" >/dev/null 2>&1; then break; fi
done
case $1 in
    # A stop that takes too long ends in a kill, which is not a clean stop.
    freeze) systemctl stop "$unit" && [ "$(systemctl show --property=Result --value "$unit")" = success ] ;;
    thaw) systemctl start "$unit" ;;
esac
