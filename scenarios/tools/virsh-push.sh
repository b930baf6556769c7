#!/bin/sh
# A backup job of libvirt's in push mode: QEMU writes the copies. Each backup leaves a checkpoint, and each but the first
# holds what has changed since the checkpoint of the last one that was good.
set -eu

if [ "$FREEZEFRAME_PHASE" = restore ]; then
    for disk in $FREEZEFRAME_DISKS; do
        qemu-img convert -O qcow2 "$FREEZEFRAME_BACKUP/$disk.qcow2" "$FREEZEFRAME_TARGET/$disk.qcow2"
    done
    exit
fi

# shellcheck source=SCRIPTDIR/frozen.sh
. "$FREEZEFRAME_SCENARIO/frozen.sh"
checkpoint() { printf 'freezeframe-%s' "$(basename "$1")"; }
last=$FREEZEFRAME_CHAIN/last
previous=$(cat "$last" 2>/dev/null || true)

{
    echo "<domainbackup mode='push'>"
    [ -z "$previous" ] || echo "<incremental>$(checkpoint "$previous")</incremental>"
    echo "<disks>"
    for disk in $FREEZEFRAME_DISKS; do
        file=$(xml "$FREEZEFRAME_BACKUP/$disk.qcow2")
        echo "<disk name='$disk' type='file'><driver type='qcow2'/><target file='$file'/></disk>"
    done
    echo "</disks></domainbackup>"
} >"$FREEZEFRAME_SCRATCH/push.xml"
{
    echo "<domaincheckpoint><name>$(checkpoint "$FREEZEFRAME_BACKUP")</name><disks>"
    for disk in $FREEZEFRAME_DISKS; do echo "<disk name='$disk' checkpoint='bitmap'/>"; done
    echo "</disks></domaincheckpoint>"
} >"$FREEZEFRAME_SCRATCH/checkpoint.xml"
clean_up() { rm -f "$FREEZEFRAME_SCRATCH/push.xml" "$FREEZEFRAME_SCRATCH/checkpoint.xml"; }

freeze
virsh -q backup-begin "$FREEZEFRAME_DOMAIN" "$FREEZEFRAME_SCRATCH/push.xml" "$FREEZEFRAME_SCRATCH/checkpoint.xml"
thaw

# The command that begins a job does not wait for its end.
while virsh -q domjobinfo "$FREEZEFRAME_DOMAIN" | grep -q '^Operation: *Backup'; do sleep 0.2; done
virsh -q domjobinfo "$FREEZEFRAME_DOMAIN" --completed --keep-completed | grep '^Job type: *Completed'

if [ -n "$previous" ]; then
    for disk in $FREEZEFRAME_DISKS; do
        qemu-img rebase -u -F qcow2 -b "$previous/$disk.qcow2" "$FREEZEFRAME_BACKUP/$disk.qcow2"
    done
fi
printf '%s' "$FREEZEFRAME_BACKUP" >"$last"
