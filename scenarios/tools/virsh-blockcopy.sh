#!/bin/sh
# Mirrors of the disks, which QEMU keeps equal to them until they are cut off, while the guest is frozen.
set -eu

if [ "$FREEZEFRAME_PHASE" = restore ]; then
    cp --sparse=always "$FREEZEFRAME_BACKUP"/*.qcow2 "$FREEZEFRAME_TARGET"
    exit
fi

# shellcheck source=SCRIPTDIR/frozen.sh
. "$FREEZEFRAME_SCENARIO/frozen.sh"
mirrored=
clean_up() {
    for disk in $mirrored; do virsh -q blockjob "$FREEZEFRAME_DOMAIN" "$disk" --abort || return; done
}

for disk in $FREEZEFRAME_DISKS; do
    virsh -q blockcopy "$FREEZEFRAME_DOMAIN" "$disk" --dest "$FREEZEFRAME_BACKUP/$disk.qcow2" --format qcow2 \
        --transient-job --wait
    mirrored="$mirrored $disk"
done
freeze
cut=$mirrored
mirrored=
for disk in $cut; do virsh -q blockjob "$FREEZEFRAME_DOMAIN" "$disk" --abort; done
thaw
