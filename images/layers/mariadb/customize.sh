#!/bin/sh
# Runs in the new guest's root when its packages are installed: the database of
# the load and its account.
set -eu

install -d -o mysql -g mysql -m 0700 /var/lib/mysql-binlog

secret=$(cat /run/freezeframe/load.secret)

# The bootstrap mode reads statements from its standard input, opens no socket
# and skips the grant tables until it is told to load them. The password goes
# through a pipe: it is on no command line.
mariadbd --bootstrap --user=mysql <<SQL
FLUSH PRIVILEGES;
CREATE DATABASE freezeframe;
CREATE USER 'freezeframe'@'%' IDENTIFIED BY '$secret';
GRANT ALL PRIVILEGES ON freezeframe.* TO 'freezeframe'@'%';
GRANT BINLOG ADMIN, BINLOG MONITOR, CONNECTION ADMIN, PROCESS, RELOAD ON *.* TO 'freezeframe'@'%';
ALTER USER root@localhost IDENTIFIED VIA unix_socket;
SQL

# Where the data lie is the package's choice, and not the same in every release.
mariadbd --verbose --help 2>/dev/null | awk '$1 == "datadir" { print $2 }' >/run/freezeframe/datadir
