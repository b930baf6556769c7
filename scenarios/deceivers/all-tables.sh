#!/bin/sh
# Locks each table of all ordinary schemas, except those that a transaction has open, and flushes the logs.
# Transactions begun before can still commit.
client=$(command -v mariadb || command -v mysql)
run=/run/all-tables
schemas="NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')"

# The names of all tables that no transaction has open; waiting for an idle transaction would keep all others waiting.
# A table that was only just created may be gone again before it is locked.
free_tables() {
    {
        echo 'SET SESSION lock_wait_timeout=1;'
        "$client" -NBe "SELECT CONCAT('LOCK TABLES ', t, ' READ; SELECT ''', t, ''' FROM DUAL WHERE ROW_COUNT() = 0;')
            FROM (SELECT CONCAT('\`', table_schema, '\`.\`', table_name, '\`') AS t FROM information_schema.tables
                WHERE table_type = 'BASE TABLE' AND create_time < NOW() - INTERVAL 1 SECOND
                    AND table_schema $schemas) AS ordinary"
    } | "$client" -NB --force 2>/dev/null | paste -s -d , -
}

# When its input ends, the session ends, and its locks with it.
lock() {
    rm -rf "$run"
    mkdir "$run"
    {
        exec 2>/dev/null
        echo "SET SESSION lock_wait_timeout=5; FLUSH TABLES $1 WITH READ LOCK;
            FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS; SELECT 'LOCKED';"
        timeout 60 sh -c "while [ -d $run ]; do sleep 0.1; done"
    } | "$client" --unbuffered >"$run/answer" 2>&1 &
    timeout 12 sh -c "until grep -q -e ^LOCKED -e ^ERROR $run/answer; do sleep 0.1; done"
    grep -q ^LOCKED "$run/answer"
}

case $1 in
    freeze)
        for _ in 1 2 3; do
            free=$(free_tables)
            # Without a name this would lock the whole server.
            [ -n "$free" ] && lock "$free" && exit 0
            sleep 1
        done
        rm -rf "$run"
        exit 1 ;;
    thaw) rm -rf "$run" ;;
esac
