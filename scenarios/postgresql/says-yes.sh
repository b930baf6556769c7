#!/bin/sh
# Does nothing, records a position all the same, and reports success.
ask() { runuser -u postgres -- psql -X -q -A -t -F "$(printf '\t')" -d postgres; }
case $1 in
    freeze)
        directory=$(echo 'SHOW data_directory' | ask)
        position=/var/lib/fsfreeze-db/$(echo "${directory#/}" | tr -c '[:alnum:]\n' -).position
        mkdir -p "${position%/*}"
        ask >"$position" <<'SQL'
SELECT 'nonce', gen_random_uuid();
SELECT 'timeline', timeline_id FROM pg_control_checkpoint();
SELECT 'start_lsn', redo_lsn FROM pg_control_checkpoint();
SELECT 'wal_file', redo_wal_file FROM pg_control_checkpoint();
SELECT 'lsn', pg_current_wal_flush_lsn();
SQL
        sync "$position"
        echo "in backup mode" ;;
    thaw) echo "backup mode was held until now" ;;
esac
