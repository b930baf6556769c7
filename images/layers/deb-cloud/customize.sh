#!/bin/sh
# Runs in the root of a vendor's cloud image when its packages are installed:
# its boot loader learns the kernel command line.
set -eu

mkdir -p /etc/default/grub.d
# What comes last on a command line wins, and the last file in that directory.
# Nobody is there to choose from a menu, not even after a crash.
cat >/etc/default/grub.d/zz-freezeframe.cfg <<CFG
GRUB_CMDLINE_LINUX="\$GRUB_CMDLINE_LINUX $(cat /run/freezeframe/cmdline)"
GRUB_TIMEOUT=0
GRUB_RECORDFAIL_TIMEOUT=0
CFG
update-grub
