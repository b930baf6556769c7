#!/bin/sh
# Takes the real lock, and releases it in the background as soon as the file systems are frozen: before the snapshot.
client=$(command -v mariadb || command -v mysql)
run=/run/until-frozen
probe=/var/tmp/until-frozen

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

take() {
    # When its input ends, the session ends, and its lock with it.
    {
        exec 2>/dev/null
        echo "SET SESSION lock_wait_timeout=3; FLUSH TABLES WITH READ LOCK; FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS;
            SELECT 'LOCKED';"
        timeout 8 sh -c "until grep -q ^LOCKED $run/answer; do sleep 0.02; done" && until_frozen
    } | "$client" --unbuffered >"$run/answer" 2>&1 &
    timeout 8 sh -c "until grep -q ^LOCKED $run/answer; do sleep 0.02; done"
}

case $1 in
    freeze)
        rm -rf "$run"
        mkdir "$run"
        take || take || take ;;
    thaw)
        # What writes there in the background may be in the way.
        until rm -rf "$run" "$probe" 2>/dev/null; do sleep 0.05; done ;;
esac
