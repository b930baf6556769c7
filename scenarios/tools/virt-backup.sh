#!/bin/sh
# virt-backup, which copies the top file of each disk while the guest runs on an external snapshot.
set -eu
config=$FREEZEFRAME_SCRATCH/virt-backup.yml
mkdir -p "$FREEZEFRAME_CHAIN/virt-backup"
# The names are the trial's own: nothing in them has a meaning in YAML.
cat >"$config" <<END
uri: "$FREEZEFRAME_URI"
groups:
  trial:
    target: "$FREEZEFRAME_CHAIN/virt-backup"
    packager: directory
    quiesce: True
    hosts:
      - host: "$FREEZEFRAME_DOMAIN"
        disks: [$(echo "$FREEZEFRAME_DISKS" | tr ' ' ,)]
END
trap 'rm -f "$config"' EXIT
case $FREEZEFRAME_PHASE in
    backup) virt-backup -c "$config" backup trial ;;
    restore) virt-backup -c "$config" restore trial "$FREEZEFRAME_DOMAIN" "$FREEZEFRAME_TARGET" ;;
esac
