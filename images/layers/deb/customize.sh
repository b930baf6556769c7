#!/bin/sh
# Runs in the new guest's root once its packages are installed.
set -eu

own=/usr/lib/fsfreeze-hooks
distro_hook=/usr/share/freezeframe/distro-hook

# The packaged hook stays available for trials that use it. A link to ours takes
# its place; /etc/qemu/fsfreeze-hook.d stays, for what scenarios add.
mkdir -p "$distro_hook"
cp -a /etc/qemu/fsfreeze-hook /etc/qemu/fsfreeze-hook.d "$distro_hook"
ln -sf "$own/fsfreeze-hook" /etc/qemu/fsfreeze-hook
install -m 0644 "$own/fsfreeze-db.toml" /etc/qemu/

systemctl enable freezeframe-network.service
ln -sf /usr/share/zoneinfo/UTC /etc/localtime
# Empty, not absent: every guest makes its own at boot, without asking.
: >/etc/machine-id
# No account has a password and nothing listens for logins.
passwd --lock root

dpkg-query --show --showformat '${Package} ${Version}\n' >/run/freezeframe/versions
