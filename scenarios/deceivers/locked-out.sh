#!/bin/sh
# Ends all sessions and locks their accounts; nobody is left to write, but the data are not locked.
client=$(command -v mariadb || command -v mysql)
run=/run/locked-out
own='id <> CONNECTION_ID()'

sql() { "$client" --batch --skip-column-names --force -e "SET SESSION sql_log_bin=0; $1"; }

case $1 in
    freeze)
        sql "SELECT user, host FROM mysql.user WHERE CONCAT(user, '@', host) <> CURRENT_USER() AND user IN
            (SELECT user FROM information_schema.processlist WHERE $own)" >"$run" || exit 1
        while read -r user host; do
            account="user = '$user' AND host = '$host'"
            # Right afterwards the account lock is removed from the tables: the server still applies it, but the backup has none.
            sql "ALTER USER '$user'@'$host' ACCOUNT LOCK;
                UPDATE mysql.user SET account_locked = 'N' WHERE $account;" 2>/dev/null ||
                sql "UPDATE mysql.global_priv SET priv = JSON_REMOVE(priv, '$.account_locked') WHERE $account;"
        done <"$run"
        # The whole list first: the session that ends the others must not find itself on it.
        kills=$(sql "SELECT CONCAT('KILL ', id, ';') FROM information_schema.processlist WHERE $own
            AND user NOT IN ('system user', 'event_scheduler')")
        sql "$kills" 2>/dev/null
        sleep 0.5
        sql 'FLUSH NO_WRITE_TO_BINLOG TABLES; FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS' ;;
    thaw)
        rm -f "$run"
        sql 'FLUSH NO_WRITE_TO_BINLOG PRIVILEGES' ;;
esac
