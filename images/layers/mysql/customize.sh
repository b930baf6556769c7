#!/bin/sh
# Runs in the new guest's root once its packages are installed: creates the load's
# database and account.
set -eu

# Debian's file, and that of the RPM family, which keeps the server outside any
# PATH, creates the database at the first start, and starts nothing on its own.
conf=/etc/mysql/my.cnf
if [ -f /etc/my.cnf ] && [ ! -e "$conf" ]; then
    PATH=$PATH:/usr/libexec
    conf=/etc/my.cnf
    chown mysql:mysql /var/lib/mysql
    mysqld --initialize-insecure --user=mysql
    systemctl enable mysqld.service
fi

install -d -o mysql -g mysql -m 0700 /var/lib/mysql-binlog /var/lib/mysql-redo
mv '/var/lib/mysql/#innodb_redo' /var/lib/mysql-redo/
install -d -o mysql -g mysql -m 0755 /run/mysqld
# Only now: the package's own script starts the server before the logs' directories
# exist. At the end of the main file, because files in a directory come in any order.
echo '!include /usr/share/freezeframe/mysql.cnf' >>"$conf"

# MySQL has no bootstrap mode: it starts once, runs these statements and stops.
# The password is in a file that only the server can read, and on no command line.
statements=/run/freezeframe/init.sql
(umask 077 && cat >$statements) <<SQL
CREATE DATABASE freezeframe;
CREATE USER 'freezeframe'@'%' IDENTIFIED BY '$(cat /run/freezeframe/load.secret)';
GRANT ALL PRIVILEGES ON freezeframe.* TO 'freezeframe'@'%';
GRANT RELOAD, PROCESS, REPLICATION CLIENT, CONNECTION_ADMIN, SESSION_VARIABLES_ADMIN ON *.* TO 'freezeframe'@'%';
SHUTDOWN;
SQL
chown mysql $statements
mysqld --user=mysql --skip-networking --skip-log-bin --init-file=$statements
rm $statements

# The package decides where the data are, and that differs between releases.
mysqld --verbose --help 2>/dev/null | awk '$1 == "datadir" { print $2 }' >/run/freezeframe/datadir
