#!/bin/sh
# Runs in the new guest's root when its packages are installed.
set -eu

# Kernel and initrd for the host, under names without a version.
mkdir -p /run/freezeframe/boot
cp /boot/vmlinuz-* /run/freezeframe/boot/vmlinuz
# Unpacked here once, instead of at every boot by a guest that may have no KVM.
# From Debian 13 on it begins with the modules, which are not packed a second time.
initrd=$(echo /boot/initrd.img-*)
if gzip -t "$initrd" 2>/dev/null; then
    gzip -dc "$initrd" >/run/freezeframe/boot/initrd.img
else
    cp "$initrd" /run/freezeframe/boot/initrd.img
fi
