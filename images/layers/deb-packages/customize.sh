#!/bin/sh
# Runs in the new guest's root once its packages are installed: kernel and initrd.
set -eu

# Kernel and initrd for the host, under names without a version.
mkdir -p /run/freezeframe/boot
cp /boot/vmlinuz-* /run/freezeframe/boot/vmlinuz
modules=$(echo /lib/modules/*)
initrd=$(mktemp -d)
mkdir "$initrd/dev" "$initrd/proc" "$initrd/target"
# It moved in Debian 14.
for init in /usr/lib/*/tiny-initramfs/init-static /usr/libexec/tiny-initramfs/init-static; do
    [ ! -e "$init" ] || cp "$init" "$initrd/init"
done
needed=$(for module in virtio_pci virtio_blk $(cat /run/freezeframe/initrd-modules); do
    modprobe --set-version="${modules##*/}" --show-depends "$module" || exit
done)
# Its init loads what `modules` lists, but cannot unpack it. What is built into the kernel has no file.
echo "$needed" | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
    name=${file##*/}
    name=${name%.ko*}.ko
    case $file in
        *.xz) xz -dc "$file" ;;
        *.zst) zstd -dqc "$file" ;;
        *) cat "$file" ;;
    esac >"$initrd/$name"
    echo "/$name" >>"$initrd/modules"
done
# Not compressed: unpacking is done once here; a guest without KVM would do it at every boot.
(cd "$initrd" && find . ! -name . | sort | cpio --quiet -o -R 0:0 -H newc) >/run/freezeframe/boot/initrd.img
rm -r "$initrd"
