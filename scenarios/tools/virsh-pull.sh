#!/bin/sh
# A backup job of libvirt's in pull mode: QEMU exports the disks as they were when the job began, and the program that the
# first argument names (nbdcopy, restic or borg) keeps what it reads there.
set -eu
name=$(basename "$FREEZEFRAME_BACKUP")
export RESTIC_REPOSITORY="$FREEZEFRAME_CHAIN/restic" RESTIC_PASSWORD=not-a-secret
export BORG_REPO="$FREEZEFRAME_CHAIN/borg" BORG_BASE_DIR="$FREEZEFRAME_CHAIN" \
    BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes
restic() { command restic --quiet --no-cache "$@"; }

# A pipe hides that its first command has failed, and a disk that is cut off looks like a good one.
failed=$FREEZEFRAME_SCRATCH/failed
or_failed() { "$@" || touch "$failed"; }

init() {
    case $1 in
        restic) [ -e "$RESTIC_REPOSITORY" ] || restic init ;;
        borg) [ -e "$BORG_REPO" ] || borg init --encryption none ;;
    esac
}

keep() {
    disk=$2
    uri="nbd+unix:///$disk?socket=$FREEZEFRAME_SCRATCH/nbd"
    case $1 in
        nbdcopy) nbdcopy "$uri" "$FREEZEFRAME_BACKUP/$disk.raw" ;;
        restic) or_failed nbdcopy "$uri" - | restic backup --tag "$name" --stdin --stdin-filename "$disk.raw" ;;
        borg) or_failed nbdcopy "$uri" - | borg create --stdin-name "$disk.raw" "::$name-$disk" - ;;
    esac
    ! [ -e "$failed" ]
}

give_back() {
    disk=$2
    case $1 in
        nbdcopy) cp --sparse=always "$FREEZEFRAME_BACKUP/$disk.raw" . ;;
        restic)
            or_failed restic dump --tag "$name" --path "/$disk.raw" latest "/$disk.raw" |
                dd of="$disk.raw" bs=1M iflag=fullblock conv=sparse status=none
            ;;
        borg) borg extract --sparse "::$name-$disk" ;;
    esac
    ! [ -e "$failed" ]
}

if [ "$FREEZEFRAME_PHASE" = restore ]; then
    cd "$FREEZEFRAME_TARGET"
    for disk in $FREEZEFRAME_DISKS; do give_back "$1" "$disk"; done
    exit
fi

# shellcheck source=SCRIPTDIR/frozen.sh
. "$FREEZEFRAME_SCENARIO/frozen.sh"
init "$1"
{
    echo "<domainbackup mode='pull'><server transport='unix' socket='$(xml "$FREEZEFRAME_SCRATCH/nbd")'/><disks>"
    for disk in $FREEZEFRAME_DISKS; do
        file=$(xml "$FREEZEFRAME_SCRATCH/$disk.scratch")
        echo "<disk name='$disk' type='file'><scratch file='$file'/></disk>"
    done
    echo "</disks></domainbackup>"
} >"$FREEZEFRAME_SCRATCH/pull.xml"
has_begun=
clean_up() {
    # This is how a job in pull mode ends.
    [ -z "$has_begun" ] || virsh -q domjobabort "$FREEZEFRAME_DOMAIN" || return
    rm -f "$FREEZEFRAME_SCRATCH/pull.xml" "$FREEZEFRAME_SCRATCH/nbd" "$failed"
}

freeze
virsh -q backup-begin "$FREEZEFRAME_DOMAIN" "$FREEZEFRAME_SCRATCH/pull.xml"
has_begun=yes
thaw
for disk in $FREEZEFRAME_DISKS; do keep "$1" "$disk"; done
