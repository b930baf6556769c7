#!/bin/sh
# Adds packages and files to the file systems of a vendor's disk, without booting it.
# Runs as root in its own mount and process namespaces: what it mounts and starts
# ends with it, however it ends.
#
# `mounts`: a line for each file system, the root first: mount point, type, and
#           where it is on the disk, start and length in bytes
# `grow`:   whether the root's file system should fill its partition
# `apt.conf`: apt's configuration
# `packages`: what to install
# `scripts`: what to run afterwards, as paths in the guest
#
# Usage: customize.sh DISK SCRATCH, where SCRATCH holds these files, `overlay.tar`,
# and `rootfs` and `dev`, empty directories. Afterwards SCRATCH/freezeframe has
# what the guest's scripts leave for the host.
set -eu
# What packages create does not depend on that of the user.
umask 022

disk=$1
scratch=$2
root=$scratch/rootfs

inside() {
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/root \
        DEBIAN_FRONTEND=noninteractive APT_CONFIG=/run/apt.conf \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} chroot "$root" "$@"
}

# Before it is mounted: that needs nothing but root, and works everywhere.
grow_ext4() {
    e2fsck -f -p "$1" || [ $? -eq 1 ]
    resize2fs "$1"
}

# Its own devices: what runs in the guest's root sees the vendor's disk and no
# other, and finds its file systems under the names that boot loaders use.
dev=$scratch/dev
mount -t tmpfs -o mode=755 tmpfs "$dev"
mkdir -p "$dev/disk/by-uuid" "$dev/disk/by-label" "$dev/pts" "$dev/shm"
for node in null zero full random urandom tty; do
    cp -a "/dev/$node" "$dev/$node"
done
ln -s pts/ptmx "$dev/ptmx"
ln -s /proc/self/fd "$dev/fd"
ln -s fd/0 "$dev/stdin"
ln -s fd/1 "$dev/stdout"
ln -s fd/2 "$dev/stderr"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$dev/pts"

grow=$(cat "$scratch/grow")
count=0
while read -r at kind start bytes; do
    # GRUB takes a device named like a loop device for a file on another disk, and
    # one named like a partition for a part of a disk.
    name=vendor$((count += 1))
    loop=$(losetup --find --show --offset "$start" --sizelimit "$bytes" "$disk")
    # It disappears once nothing has it open any more: nobody can forget it.
    eval "exec $((count + 3))<\"\$loop\""
    losetup --detach "$loop"
    cp -a "$loop" "$dev/$name"
    for by in UUID LABEL; do
        value=$(blkid -o value -s "$by" "$loop" || true)
        case $value in
            '' | *[!A-Za-z0-9._-]*) ;;
            *) ln -s "../../$name" "$dev/disk/by-$(echo "$by" | tr '[:upper:]' '[:lower:]')/$value" ;;
        esac
    done
    case $grow$at$kind in
        true/ext4) grow_ext4 "$loop" ;;
    esac
done <"$scratch/mounts"

# The mount table lists devices under the names they had when they were mounted.
mount --rbind "$dev" /dev
count=0
while read -r at kind start bytes; do
    mount -t "$kind" "/dev/vendor$((count += 1))" "$root$at"
    case $grow$at$kind in
        true/xfs) xfs_growfs "$root" ;;
        true/btrfs) btrfs filesystem resize max "$root" ;;
    esac
done <"$scratch/mounts"

mount --rbind "$dev" "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"

# Only for what runs here: whether it is a link into /run or a file, it is restored
# at the end.
mv "$root/etc/resolv.conf" "$scratch/resolv.conf" 2>/dev/null || true
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
# No package starts a service.
[ ! -e "$root/usr/sbin/policy-rc.d" ] || mv "$root/usr/sbin/policy-rc.d" "$scratch/policy-rc.d"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"

# Before the packages, so that their scripts see masks and configuration.
tar --extract --file "$scratch/overlay.tar" --directory "$root" --numeric-owner --preserve-permissions \
    --keep-directory-symlink

cp "$scratch/apt.conf" "$root/run/apt.conf"
inside apt-get --quiet update
# shellcheck disable=SC2046 # a word for each package
inside apt-get --quiet --yes install $(cat "$scratch/packages")
while read -r script; do
    inside sh "$script" </dev/null
done <"$scratch/scripts"
inside apt-get clean
rm -rf "$root"/var/lib/apt/lists/*

rm "$root/usr/sbin/policy-rc.d" "$root/etc/resolv.conf"
for file in usr/sbin/policy-rc.d etc/resolv.conf; do
    kept=$scratch/${file##*/}
    if [ -e "$kept" ] || [ -L "$kept" ]; then
        mv "$kept" "$root/$file"
    fi
done
cp -a "$root/run/freezeframe" "$scratch/freezeframe"

# The deepest first; a mount that cannot be removed is an error, not a half-written disk.
umount "$root/tmp" "$root/run" "$root/sys" "$root/proc"
umount -R "$root/dev"
fstrim "$root" || true
umount -R "$root"
