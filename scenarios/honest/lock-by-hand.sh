#!/bin/sh
# Takes the global read lock by hand: a client in its own scope sleeps while holding it until the thaw, which proves that.
client=$(command -v mariadb || command -v mysql)
run=/run/lock-by-hand
sleep='DO SLEEP(60)'

case $1 in
    freeze)
        # A deadlock with row locks resolves when the lock is requested again.
        for _ in 1 2 3 4 5; do
            systemd-run --quiet --scope "$client" --batch --skip-column-names --unbuffered -e "
                SET SESSION lock_wait_timeout=2; FLUSH TABLES WITH READ LOCK; FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS;
                SELECT 'LOCKED', CONNECTION_ID(); $sleep" >"$run" 2>&1 &
            timeout 8 sh -c "until grep -q ^LOCKED $run || ! kill -0 $!; do sleep 0.05; done" 2>/dev/null
            if grep -q ^LOCKED "$run"; then exit 0; fi
            kill $! 2>/dev/null
            sleep 0.5
        done
        cat "$run" >&2
        rm -f "$run"
        exit 1 ;;
    thaw)
        [ -e "$run" ] || exit 0
        read -r _ id <"$run"
        held=$(timeout 5 "$client" -NBe "SELECT COUNT(*) FROM information_schema.processlist
            WHERE id = $id AND info = '$sleep'; KILL $id")
        rm -f "$run"
        [ "$held" = 1 ] ;;
esac
