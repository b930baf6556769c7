#!/bin/sh
# Begins backup mode in a session that ends at once and takes backup mode with it.
case $1 in
    freeze) runuser -u postgres -- psql -X -q -d postgres -c "SELECT pg_backup_start('hook', true)" >/dev/null ;;
esac
