#!/bin/sh
# Keeps a client in the background that holds backup mode, and ends it at thaw.
dir=/run/by-hand
case $1 in
    freeze)
        rm -rf "$dir" && mkdir -m 755 "$dir" && mkfifo "$dir/in" && chown -R postgres "$dir" || exit
        # Opened for reading and writing, so that it stays open when this script ends.
        setsid runuser -u postgres -- sh -c "psql -X -q -d postgres <>'$dir/in' >'$dir/out' 2>&1" \
            </dev/null >/dev/null 2>&1 &
        cat >"$dir/in" <<'SQL'
SELECT pg_backup_start('by hand', true);
\echo begun
SQL
        tries=0
        until grep -q begun "$dir/out"; do
            [ $((tries += 1)) -lt 150 ] || exit 1
            sleep 0.1
        done
        ! grep -q ERROR "$dir/out" ;;
    thaw)
        cat >"$dir/in" <<'SQL'
SELECT 'ended' FROM pg_backup_stop(false);
\q
SQL
        tries=0
        until grep -q ended "$dir/out"; do
            [ $((tries += 1)) -lt 100 ] || exit 1
            sleep 0.1
        done ;;
esac
