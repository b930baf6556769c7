#!/bin/sh
# Runs in the new guest's root once its packages are installed.
set -eu

# The accounts of packages that leave them to rpm: the host's rpm may be too old for that.
systemd-sysusers

own=/usr/lib/fsfreeze-hooks
distro_hook=/usr/share/freezeframe/distro-hook

# The packaged hook, if there is one, stays available for trials that use it.
# A link to ours takes its place.
mkdir -p "$distro_hook" /etc/qemu /etc/qemu-ga/fsfreeze-hook.d
for file in /etc/qemu-ga/fsfreeze-hook /etc/qemu-ga/fsfreeze-hook.d; do
    [ ! -e "$file" ] || cp -a "$file" "$distro_hook"
done
ln -sf "$own/fsfreeze-hook" /etc/qemu-ga/fsfreeze-hook
install -m 0644 "$own/fsfreeze-db.toml" /etc/qemu/

systemctl set-default multi-user.target
systemctl enable freezeframe-network.service qemu-guest-agent.service
ln -sf /usr/share/zoneinfo/UTC /etc/localtime
# Empty, not absent: every guest makes its own at boot, without asking.
: >/etc/machine-id
# No account has a password and nothing listens for logins.
usermod --lock root

# Kernel and initrd for the host, under names without a version.
modules=$(echo /lib/modules/*)
version=${modules##*/}
mkdir -p /run/freezeframe/boot
for kernel in "$modules/vmlinuz" "/boot/vmlinuz-$version"; do
    [ ! -e "$kernel" ] || cp "$kernel" /run/freezeframe/boot/vmlinuz
done
# Only what it takes to mount the root disk, without systemd, and not compressed:
# a small initrd boots faster.
depmod "$version"
drivers="virtio_pci virtio_blk $(cat /run/freezeframe/initrd-modules)"
dracut --force --no-hostonly --no-hostonly-cmdline --no-early-microcode --no-compress --tmpdir /tmp \
    --modules 'base kernel-modules rootfs-block udev-rules' --drivers "$drivers" \
    --kver "$version" /run/freezeframe/boot/initrd.img
