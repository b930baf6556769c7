#!/bin/sh
# Holds the global read lock until the thaw, which proves it, and ends all other sessions meanwhile.
client=$(command -v mariadb || command -v mysql)
run=/run/ends-sessions

take() {
    {
        exec 2>/dev/null
        echo "SET SESSION lock_wait_timeout=2; FLUSH TABLES WITH READ LOCK;
            FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS; SELECT 'LOCKED', CONNECTION_ID();"
        timeout 60 sh -c "while [ -e $run/hold ]; do sleep 0.05; done" && echo "SELECT 'HELD'; UNLOCK TABLES;"
    } | "$client" --batch --skip-column-names --unbuffered --skip-reconnect >"$run/answer" 2>&1 &
    timeout 8 sh -c "until grep -q -e ^LOCKED -e ^ERROR $run/answer; do sleep 0.05; done" 2>/dev/null
    read -r answer holder <"$run/answer" && [ "$answer" = LOCKED ]
}

end_others() {
    others=$("$client" --batch --skip-column-names -e "SELECT CONCAT('KILL ', id, ';')
        FROM information_schema.processlist WHERE id NOT IN ($holder, CONNECTION_ID())
            AND user NOT IN ('system user', 'event_scheduler')") || return 1
    # A session that has ended by itself is no failure.
    "$client" --force -e "$others" 2>/dev/null
    return 0
}

case $1 in
    freeze)
        # A deadlock with row locks resolves when the lock is requested again.
        for _ in 1 2 3 4 5; do
            rm -rf "$run"
            mkdir "$run" && : >"$run/hold"
            take && end_others && exit 0
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
