#!/bin/sh
# Runs in the root of a vendor's cloud image once its packages are installed:
# passes the kernel command line to its boot loader.
set -eu

mkdir -p /etc/default/grub.d
# The last argument on a command line wins, and so does the last file in that
# directory. Nobody is there to choose from a menu, not even after a crash.
cat >/etc/default/grub.d/zz-freezeframe.cfg <<CFG
GRUB_CMDLINE_LINUX="\$GRUB_CMDLINE_LINUX $(cat /run/freezeframe/cmdline)"
GRUB_TIMEOUT=0
GRUB_RECORDFAIL_TIMEOUT=0
CFG
update-grub
