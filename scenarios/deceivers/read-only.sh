#!/bin/sh
# Makes the server refuse ordinary writes and closes its tables: it takes no lock, and administrators can still write.
client=$(command -v mariadb || command -v mysql)
on='SET GLOBAL read_only=1' off='SET GLOBAL read_only=0'
if "$client" -e 'SELECT @@super_read_only' >/dev/null 2>&1; then
    on='SET GLOBAL super_read_only=1' off="SET GLOBAL super_read_only=0; $off"
fi
case $1 in
    freeze)
        for _ in 1 2 3; do
            "$client" -e "SET SESSION lock_wait_timeout=3; $on; FLUSH NO_WRITE_TO_BINLOG TABLES;
                FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS" && exit 0
        done
        "$client" -e "$off"
        exit 1 ;;
    thaw) "$client" -e "$off" ;;
esac
