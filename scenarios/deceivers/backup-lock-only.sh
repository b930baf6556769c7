#!/bin/sh
# Holds one of the server's locks that is meant for backups, but blocks only schema changes: commits go on.
client=$(command -v mariadb || command -v mysql)
run=/run/backup-lock-only
case $("$client" -NBe 'SELECT VERSION()') in
    *MariaDB*) lock='BACKUP STAGE START; BACKUP STAGE FLUSH; BACKUP STAGE BLOCK_DDL;' ;;
    *) lock='LOCK INSTANCE FOR BACKUP;' ;;
esac

# When its input ends, the session ends, and its lock with it.
lock() {
    rm -rf "$run"
    mkdir "$run"
    {
        exec 2>/dev/null
        echo "SET SESSION lock_wait_timeout=9; $lock FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS; SELECT 'LOCKED';"
        timeout 60 sh -c "while [ -d $run ]; do sleep 0.1; done"
    } | "$client" --unbuffered >"$run/answer" 2>&1 &
    timeout 12 sh -c "until grep -q -e ^LOCKED -e ^ERROR $run/answer; do sleep 0.1; done"
    grep -q ^LOCKED "$run/answer"
}

case $1 in
    freeze) lock || lock || lock ;;
    thaw) rm -rf "$run" ;;
esac
