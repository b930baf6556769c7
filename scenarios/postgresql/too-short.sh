#!/bin/sh
# Ends backup mode in order, but before the file system is frozen.
case $1 in
    freeze) runuser -u postgres -- psql -X -q -d postgres -c "SELECT pg_backup_start('hook', true)" \
        -c "SELECT pg_backup_stop(false)" >/dev/null ;;
esac
