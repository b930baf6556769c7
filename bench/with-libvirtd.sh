#!/bin/sh
# Runs a command with its own libvirt daemon, which shares no state with any other
# and leaves nothing behind: `with-libvirtd.sh COMMAND..`.
set -eu

# A user's daemon keeps its state where XDG says. Root becomes a user with root's
# files, in a namespace.
if [ "$(id -u)" = 0 ]; then
    exec unshare --user --map-user=1000 --map-group=1000 -- "$0" "$@"
fi

dir=$(mktemp -d)
daemon=
cleanup() {
    status=$?
    trap - EXIT
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" || true
    fi
    rm -rf "$dir"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

export XDG_RUNTIME_DIR="$dir/run" XDG_CONFIG_HOME="$dir/config" XDG_CACHE_HOME="$dir/cache" XDG_DATA_HOME="$dir/data"
export LIBVIRT_DEFAULT_URI=qemu:///session
mkdir -p "$XDG_RUNTIME_DIR" "$XDG_CONFIG_HOME/libvirt"
# Without virtlogd, as everywhere else in this project.
echo 'stdio_handler = "file"' >"$XDG_CONFIG_HOME/libvirt/qemu.conf"
PATH="$PATH:/usr/sbin" libvirtd 2>"$dir/libvirtd.log" &
daemon=$!
tries=0
until [ -S "$XDG_RUNTIME_DIR/libvirt/libvirt-sock" ] && virsh -q list >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -gt 600 ] || ! kill -0 "$daemon" 2>/dev/null; then
        echo "the libvirt daemon does not answer; it says:" >&2
        cat "$dir/libvirtd.log" >&2
        exit 3
    fi
    sleep 0.05
done
"$@"
