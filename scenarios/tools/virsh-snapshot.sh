#!/bin/sh
# An external snapshot, for which libvirt itself freezes and thaws the guest. The files below the new overlays are copied,
# and what the guest has written meanwhile is committed into them.
set -eu

if [ "$FREEZEFRAME_PHASE" = restore ]; then
    cp --sparse=always "$FREEZEFRAME_BACKUP"/*.qcow2 "$FREEZEFRAME_TARGET"
    exit
fi

overlay() { printf '%s' "$FREEZEFRAME_SCRATCH/$1.overlay"; }
file_of() { virsh -q domblklist "$FREEZEFRAME_DOMAIN" | sed -n "s/^ *$1  *//p"; }

commit() {
    status=$?
    trap - EXIT INT TERM
    for disk in $FREEZEFRAME_DISKS; do
        # A snapshot whose thaw failed is an error to libvirt, and the guest runs on the overlay all the same.
        if [ "$(file_of "$disk")" = "$(overlay "$disk")" ]; then
            virsh -q blockcommit "$FREEZEFRAME_DOMAIN" "$disk" --shallow --active --pivot --wait || status=1
        fi
        [ "$(file_of "$disk")" = "$(overlay "$disk")" ] || rm -f "$(overlay "$disk")"
    done
    exit "$status"
}
trap commit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

for disk in $FREEZEFRAME_DISKS; do file_of "$disk" >"$FREEZEFRAME_BACKUP/$disk.source"; done
set --
for disk in $FREEZEFRAME_DISKS; do set -- "$@" --diskspec "$disk,file=$(overlay "$disk")"; done
virsh -q snapshot-create-as "$FREEZEFRAME_DOMAIN" --no-metadata --disk-only --atomic --quiesce "$@"
for disk in $FREEZEFRAME_DISKS; do
    # QEMU has the file open as well, only to read from now on.
    qemu-img convert -U -O qcow2 "$(cat "$FREEZEFRAME_BACKUP/$disk.source")" "$FREEZEFRAME_BACKUP/$disk.qcow2"
done
