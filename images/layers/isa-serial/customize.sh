#!/bin/sh
# Runs in the new guest's root once its packages are installed.
set -eu
systemctl enable qemu-guest-agent.service
