#!/bin/sh
# Lets thaw go through backup mode as a whole, so that the server's log has one.
case $1 in
    thaw) runuser -u postgres -- psql -X -q -d postgres -c "SELECT pg_backup_start('hook', true)" \
        -c "SELECT pg_backup_stop(false)" >/dev/null ;;
esac
