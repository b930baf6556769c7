#!/bin/sh
# Takes the real lock and holds it, but thaws the database's file system itself as soon as the agent has frozen it.
client=$(command -v mariadb || command -v mysql)
run=/run/unfreezes
take() {
    # When its input ends, the session ends, and its lock with it.
    {
        exec 2>/dev/null
        echo "SET SESSION lock_wait_timeout=3; FLUSH TABLES WITH READ LOCK; FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS;
            SELECT 'LOCKED';"
        timeout 60 sh -c "while [ -d $run ]; do sleep 0.1; done"
    } | "$client" --unbuffered >"$run/answer" 2>&1 &
    timeout 8 sh -c "until grep -q ^LOCKED $run/answer; do sleep 0.1; done"
}
case $1 in
    freeze)
        rm -rf "$run"
        mkdir "$run"
        take || take || take || exit 1
        mount=$(stat -c %m "$("$client" -NBe 'SELECT @@datadir')")
        # Succeeds only on a frozen file system.
        timeout 30 sh -c "while [ -d $run ] && ! fsfreeze -u $mount; do :; done" >/dev/null 2>&1 & ;;
    thaw) rm -rf "$run" ;;
esac
