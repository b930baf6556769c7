#!/bin/sh
# Makes a disk like those that vendors publish: partitions, a boot loader for BIOS,
# a kernel, and nothing of ours. For tests; needs root.
#
# Usage: vendor.sh DIR, where the disk appears as DIR/disk.qcow2.
set -eu

cd "$1"
packages=ca-certificates,dbus,e2fsprogs,grub-pc-bin,grub2-common,initramfs-tools,linux-image-cloud-amd64
mmdebstrap --variant=apt --include="$packages,systemd,systemd-sysv,udev" bookworm root

echo vendor >root/etc/hostname
echo 'LABEL=vendor / ext4 rw,discard,errors=remount-ro 0 1' >root/etc/fstab
ln -sf ../run/systemd/resolve/stub-resolv.conf root/etc/resolv.conf
mkdir -p root/etc/cloud root/boot/grub/i386-pc
cp root/usr/lib/grub/i386-pc/*.mod root/usr/lib/grub/i386-pc/*.lst root/boot/grub/i386-pc
cat >root/boot/grub/grub.cfg <<'CFG'
search --set=root --label vendor
linux /vmlinuz root=LABEL=vendor ro
initrd /initrd.img
boot
CFG

# Numbered as vendors do: the boot loader's partition comes before the root's.
truncate -s 1536M disk.raw
sfdisk --quiet disk.raw <<'TABLE'
label: gpt
14: start=2048, size=6144, type=21686148-6449-6E6F-744E-656564454649
1: start=8192, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4
TABLE
mke2fs -q -t ext4 -L vendor -d root -E offset=4194304 disk.raw 1531M

# The boot sector loads the first sector of the image, and that one loads the rest:
# their locations are written into them, see GRUB's boot.S and diskboot.S.
grub-mkimage -O i386-pc -d root/usr/lib/grub/i386-pc -p '(hd0,gpt1)/boot/grub' -o core.img biosdisk part_gpt ext2
cp root/usr/lib/grub/i386-pc/boot.img boot.img
printf '\000\010' | dd of=boot.img bs=1 seek=92 conv=notrunc status=none
printf '\001\010' | dd of=core.img bs=1 seek=500 conv=notrunc status=none
dd if=boot.img of=disk.raw bs=440 count=1 conv=notrunc status=none
dd if=core.img of=disk.raw bs=512 seek=2048 conv=notrunc status=none

qemu-img convert -f raw -O qcow2 disk.raw disk.qcow2
rm -r root disk.raw boot.img core.img
