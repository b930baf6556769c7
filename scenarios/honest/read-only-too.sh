#!/bin/sh
# Holds the global read lock until the thaw, which proves it, and also makes the server read-only.
client=$(command -v mariadb || command -v mysql)
run=/run/read-only-too

take() {
    {
        exec 2>/dev/null
        echo "SET SESSION lock_wait_timeout=2; FLUSH TABLES WITH READ LOCK; SET GLOBAL read_only=1;
            FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS; SELECT 'LOCKED';"
        timeout 60 sh -c "while [ -e $run/hold ]; do sleep 0.05; done" &&
            echo "SELECT 'HELD'; SET GLOBAL read_only=0; UNLOCK TABLES;"
    } | "$client" --batch --skip-column-names --unbuffered --skip-reconnect >"$run/answer" 2>&1 &
    timeout 8 sh -c "until grep -q -e ^LOCKED -e ^ERROR $run/answer; do sleep 0.05; done" 2>/dev/null
    grep -q ^LOCKED "$run/answer"
}

case $1 in
    freeze)
        # A deadlock with row locks resolves when the lock is requested again.
        for _ in 1 2 3 4 5; do
            rm -rf "$run"
            mkdir "$run" && : >"$run/hold"
            take && exit 0
            cat "$run/answer" >&2
            rm -rf "$run"
            sleep 0.5
        done
        exit 1 ;;
    thaw)
        [ -e "$run" ] || exit 0
        rm -f "$run/hold"
        timeout 5 sh -c "until grep -q ^HELD $run/answer; do sleep 0.05; done" 2>/dev/null
        held=$?
        rm -rf "$run"
        exit "$held" ;;
esac
