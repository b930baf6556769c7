#!/bin/sh
# Locks each table of all ordinary schemas, but for those that a transaction has open, and flushes the logs. What
# was begun before can still be committed.
client=$(command -v mariadb || command -v mysql)
run=/run/all-tables
schemas="NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')"

tables() {
    "$client" -NBe "SELECT CONCAT('\`', table_schema, '\`.\`', table_name, '\`') FROM information_schema.tables
        WHERE table_type = 'BASE TABLE' AND table_schema $schemas"
}

case $1 in
    freeze)
        rm -rf "$run"
        mkdir "$run"
        # To wait for an idle transaction would keep all others waiting.
        tables >"$run/tables"
        free=''
        while read -r table; do
            "$client" -e "SET SESSION lock_wait_timeout=1; LOCK TABLES $table READ" && free="$free, $table"
        done <"$run/tables" 2>/dev/null
        # The session ends, and its locks with it, when its input does.
        {
            exec 2>/dev/null
            echo "SET SESSION lock_wait_timeout=9; FLUSH TABLES ${free#, } WITH READ LOCK;
                FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS; SELECT 'LOCKED';"
            timeout 60 sh -c "while [ -d $run ]; do sleep 0.1; done"
        } | "$client" --unbuffered >"$run/answer" 2>&1 &
        timeout 10 sh -c "until grep -q LOCKED $run/answer; do sleep 0.1; done" ;;
    thaw) rm -rf "$run" ;;
esac
