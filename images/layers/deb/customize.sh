#!/bin/sh
# Runs in the new guest's root once its packages are installed.
set -eu

hook=/usr/share/freezeframe/hook
distro_hook=/usr/share/freezeframe/distro-hook

# The packaged hook stays available for trials that use it. Ours replaces it:
# it is a conffile, so a later upgrade of the agent would keep ours.
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
# Empty, not absent: every guest makes its own at boot, without asking.
: >/etc/machine-id
# No account has a password and nothing listens for logins.
passwd --lock root

dpkg-query --show --showformat '${Package} ${Version}\n' >/run/freezeframe/versions
