#!/bin/sh
# Locks each table of the schema that has most tables, but for those that a transaction has open, and
# flushes the logs. All other schemas are written on.
client=$(command -v mariadb || command -v mysql)
run=/run/one-schema
largest=$("$client" -NBe "SELECT table_schema FROM information_schema.tables
    WHERE table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')
    GROUP BY table_schema ORDER BY COUNT(*) DESC LIMIT 1")
schemas="= '$largest'"

# The names of all tables that no transaction has open. To wait for an idle one would keep all others waiting.
free_tables() {
    {
        echo 'SET SESSION lock_wait_timeout=1;'
        "$client" -NBe "SELECT CONCAT('LOCK TABLES ', t, ' READ; SELECT ''', t, ''' FROM DUAL WHERE ROW_COUNT() = 0;')
            FROM (SELECT CONCAT('\`', table_schema, '\`.\`', table_name, '\`') AS t FROM information_schema.tables
                WHERE table_type = 'BASE TABLE' AND table_schema $schemas) AS ordinary"
    } | "$client" -NB --force 2>/dev/null | paste -s -d , -
}

case $1 in
    freeze)
        rm -rf "$run"
        mkdir "$run"
        free=$(free_tables)
        # Without a name this would be the lock of the whole server.
        [ -n "$free" ] || exit 1
        # The session ends, and its locks with it, when its input does.
        {
            exec 2>/dev/null
            echo "SET SESSION lock_wait_timeout=25; FLUSH TABLES $free WITH READ LOCK;
                FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS; SELECT 'LOCKED';"
            timeout 60 sh -c "while [ -d $run ]; do sleep 0.1; done"
        } | "$client" --unbuffered >"$run/answer" 2>&1 &
        timeout 30 sh -c "until grep -q ^LOCKED $run/answer; do sleep 0.1; done" ;;
    thaw) rm -rf "$run" ;;
esac
