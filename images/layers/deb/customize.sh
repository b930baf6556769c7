#!/bin/sh
# Runs in the new guest's root when its packages are installed.
set -eu

hook=/usr/share/freezeframe/hook
distro_hook=/usr/share/freezeframe/distro-hook

# The hook as packaged stays at hand for trials that use it. Ours takes its
# place: a conffile, so a later upgrade of the agent would keep ours.
mkdir -p "$distro_hook"
cp -a /etc/qemu/fsfreeze-hook /etc/qemu/fsfreeze-hook.d "$distro_hook"
install -m 0755 "$hook/fsfreeze-hook" /etc/qemu/fsfreeze-hook
for file in "$hook"/fsfreeze-hook.d/*; do
    install -m 0755 "$file" /etc/qemu/fsfreeze-hook.d/
done
for file in "$hook"/*.conf; do
    install -m 0644 "$file" /etc/qemu/
done

systemctl enable freezeframe-network.service
ln -sf /usr/share/zoneinfo/UTC /etc/localtime
# Empty, not absent: every guest makes its own at boot, and asks nothing.
: >/etc/machine-id
# No account has a password and nothing listens for logins.
passwd --lock root

# Kernel and initrd for the host, under names without a version.
mkdir -p /run/freezeframe/boot
cp /boot/vmlinuz-* /run/freezeframe/boot/vmlinuz
modules=$(echo /lib/modules/*)
initrd=$(mktemp -d)
mkdir "$initrd/dev" "$initrd/proc" "$initrd/target"
cp /usr/lib/*/tiny-initramfs/init-static "$initrd/init"
needed=$(for module in virtio_pci virtio_blk $(cat /run/freezeframe/initrd-modules); do
    modprobe --set-version="${modules##*/}" --show-depends "$module" || exit
done)
# Its init loads what `modules` lists, and cannot unpack it. What the kernel has built in is no file.
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
# Not packed: here it is done once, in a guest without KVM at every boot.
(cd "$initrd" && find . ! -name . | sort | cpio --quiet -o -R 0:0 -H newc) >/run/freezeframe/boot/initrd.img
rm -r "$initrd"
dpkg-query --show --showformat '${Package} ${Version}\n' >/run/freezeframe/versions
