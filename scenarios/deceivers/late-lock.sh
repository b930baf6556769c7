#!/bin/sh
# Requests the real lock in the background once the file systems are already frozen, and holds it until the thaw.
client=$(command -v mariadb || command -v mysql)
run=/run/late-lock
probe=/var/tmp/late-lock

# Returns when a file can no longer be written, or at the thaw.
until_frozen() {
    while [ -d "$run" ]; do
        { echo >"$probe" && : >"$run/written"; } >/dev/null &
        sleep 0.1
        [ -e "$run/written" ] || return
        rm -f "$run/written"
    done
    wait
    rm -f "$probe"
}

case $1 in
    freeze)
        rm -rf "$run"
        mkdir "$run"
        # A client that waits is quicker than one that has yet to log in.
        {
            exec 2>/dev/null
            until_frozen
            echo 'SET SESSION lock_wait_timeout=9; FLUSH TABLES WITH READ LOCK;'
            timeout 60 sh -c "while [ -d $run ]; do sleep 0.1; done"
        } | "$client" >/dev/null 2>&1 & ;;
    thaw)
        # What writes there in the background may be in the way.
        until rm -rf "$run" "$probe" 2>/dev/null; do sleep 0.05; done ;;
esac
