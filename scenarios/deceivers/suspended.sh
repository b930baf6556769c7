#!/bin/sh
# Flushes all tables and logs, and suspends the server's process until the thaw: it stands still wherever it happens to be.
client=$(command -v mariadb || command -v mysql)
run=/run/suspended
case $1 in
    freeze)
        "$client" -e "SET SESSION lock_wait_timeout=3; FLUSH NO_WRITE_TO_BINLOG TABLES;
            FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS"
        file=$("$client" -NBe 'SELECT @@pid_file') && read -r pid <"$file" && echo "$pid" >"$run" && kill -STOP "$pid" ;;
    thaw)
        [ -e "$run" ] || exit 0
        read -r pid <"$run" && kill -CONT "$pid"
        rm -f "$run" ;;
esac
