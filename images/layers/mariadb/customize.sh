#!/bin/sh
# Runs in the new guest's root once its packages are installed: creates the load's
# database and account.
set -eu

# Where Debian reads configuration, and where the RPM family does. The latter keeps
# the server outside any PATH, logs to a file, and starts nothing on its own.
conf=/etc/mysql/mariadb.conf.d/99-freezeframe
if [ -d /etc/my.cnf.d ]; then
    PATH=$PATH:/usr/libexec
    mv "$conf.cnf" /etc/my.cnf.d/zz-freezeframe.cnf
    conf=/etc/my.cnf.d/zz-freezeframe
    printf '[mariadbd]\nskip-log-error\n' >"$conf-log.cnf"
    systemctl enable mariadb.service
fi

# The package decides where the data are, and that differs between releases.
datadir=$(mariadbd --verbose --help 2>/dev/null | awk '$1 == "datadir" { print $2 }')
echo "$datadir" >/run/freezeframe/datadir

install -d -o mysql -g mysql -m 0700 /var/lib/mysql-binlog /var/lib/mysql-redo
# The RPM family creates the database at the first start. Forced, because this is
# not the guest, and the host's name need not resolve.
if [ ! -d "$datadir/mysql" ]; then
    chown mysql:mysql "$datadir"
    mariadb-install-db --force --user=mysql --datadir="$datadir" --auth-root-authentication-method=socket
fi
# The redo log has its own directory as well. Only now: the package's own
# script starts the server before that directory exists.
mv "$datadir"/ib_logfile* /var/lib/mysql-redo/
cat >"$conf-redo.cnf" <<'CNF'
[mariadbd]
innodb_log_group_home_dir = /var/lib/mysql-redo
CNF

secret=$(cat /run/freezeframe/load.secret)

# The bootstrap mode reads statements from standard input, opens no socket and
# skips the grant tables until told to load them. The password goes through a
# pipe: it appears on no command line.
mariadbd --bootstrap --user=mysql <<SQL
FLUSH PRIVILEGES;
CREATE DATABASE freezeframe;
CREATE USER 'freezeframe'@'%' IDENTIFIED BY '$secret';
GRANT ALL PRIVILEGES ON freezeframe.* TO 'freezeframe'@'%';
GRANT BINLOG ADMIN, BINLOG MONITOR, CONNECTION ADMIN, PROCESS, RELOAD ON *.* TO 'freezeframe'@'%';
ALTER USER root@localhost IDENTIFIED VIA unix_socket;
SQL
