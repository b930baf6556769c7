#!/bin/sh
# Takes the locks of the servers' own backup tools, stage by stage, in a session whose last answer at the thaw proves
# that it lasted.
client=$(command -v mariadb || command -v mysql)
run=/run/backup-tool-locks

take() {
    case $(timeout 5 "$client" -NBe 'SELECT VERSION()') in
        *MariaDB*)
            lock='BACKUP STAGE START; BACKUP STAGE FLUSH; BACKUP STAGE BLOCK_DDL; BACKUP STAGE BLOCK_COMMIT;'
            unlock='BACKUP STAGE END;' ;;
        ?*) lock='LOCK INSTANCE FOR BACKUP; FLUSH TABLES WITH READ LOCK;' unlock='UNLOCK TABLES; UNLOCK INSTANCE;' ;;
        *) return 1 ;;
    esac
    {
        exec 2>/dev/null
        echo "SET SESSION lock_wait_timeout=2; $lock FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS; SELECT 'LOCKED';"
        timeout 60 sh -c "while [ -e $run/hold ]; do sleep 0.05; done" && echo "SELECT 'HELD'; $unlock"
    } | "$client" --unbuffered --skip-reconnect >"$run/answer" 2>&1 &
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
