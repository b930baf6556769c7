#!/bin/sh
# Runs in the new guest's root when its packages are installed.
set -eu
systemctl enable qemu-guest-agent.service
