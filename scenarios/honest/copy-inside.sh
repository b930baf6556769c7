#!/bin/sh
# Makes its own copy of the data under the global read lock, and keeps the lock until the thaw, which proves it.
client=$(command -v mariadb || command -v mysql)
run=/run/copy-inside
copy=/var/tmp/copy-inside

take() {
    {
        exec 2>/dev/null
        echo "SET SESSION lock_wait_timeout=2; FLUSH TABLES WITH READ LOCK; FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS;
            SELECT 'LOCKED', @@datadir;"
        timeout 60 sh -c "while [ -e $run/hold ]; do sleep 0.05; done" && echo "SELECT 'HELD'; UNLOCK TABLES;"
    } | "$client" --batch --skip-column-names --unbuffered --skip-reconnect >"$run/answer" 2>&1 &
    timeout 8 sh -c "until grep -q -e ^LOCKED -e ^ERROR $run/answer; do sleep 0.05; done" 2>/dev/null
    read -r answer datadir <"$run/answer" && [ "$answer" = LOCKED ]
}

case $1 in
    freeze)
        # A deadlock with row locks resolves when the lock is requested again.
        for _ in 1 2 3 4 5; do
            rm -rf "$run" "$copy"
            mkdir "$run" && : >"$run/hold"
            take && timeout 20 cp -a --reflink=auto --sparse=always "$datadir" "$copy" && exit 0
            cat "$run/answer" >&2
            rm -rf "$run" "$copy"
            sleep 0.5
        done
        exit 1 ;;
    thaw)
        [ -e "$run" ] || exit 0
        rm -f "$run/hold"
        timeout 5 sh -c "until grep -q ^HELD $run/answer; do sleep 0.05; done" 2>/dev/null
        held=$?
        rm -rf "$run" "$copy"
        exit "$held" ;;
esac
