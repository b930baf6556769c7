#!/bin/sh
# Runs in the new guest's root once its packages are installed: creates the cluster, and in it
# the load's database and account.
set -eu

data=/var/lib/postgresql/data wal=/var/lib/postgresql-wal second=/var/lib/postgresql-second

# The server's own programs, first in the PATH and without a version in their names. Debian's
# are wrappers in Perl, which look for a cluster that Debian's tools have made.
ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/
# At every boot it would look for such clusters as well.
mkdir -p /etc/systemd/system-generators
ln -s /dev/null /etc/systemd/system-generators/postgresql-generator
systemctl enable postgresql.service

# WAL and tablespace have directories of their own, so that a layout can put either on its own disk.
install -d -o postgres -g postgres -m 0700 "$data" "$wal" "$second"
runuser -u postgres -- initdb --pgdata="$data" --waldir="$wal" --data-checksums --locale=C.UTF-8 --no-sync
echo "include '/usr/share/freezeframe/postgresql.conf'" >>"$data/postgresql.conf"
echo "$data" >/run/freezeframe/datadir

# In single-user mode the server reads statements from standard input, one a line, and opens no
# socket. The password goes through a pipe: it appears on no command line.
run_in() {
    runuser -u postgres -- postgres --single -D "$data" -c exit_on_error=on "$1" >/dev/null
}

run_in postgres <<SQL
CREATE ROLE freezeframe LOGIN PASSWORD '$(cat /run/freezeframe/load.secret)'
GRANT pg_monitor, pg_signal_backend, pg_checkpoint TO freezeframe
CREATE DATABASE freezeframe OWNER freezeframe
CREATE TABLESPACE second OWNER freezeframe LOCATION '$second'
SQL
run_in freezeframe <<'SQL'
CREATE EXTENSION amcheck
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO freezeframe
SQL

# `postgresql` is a metapackage with a version of its own: the server's is the one that matters.
package=$(dpkg-query --search "$(readlink /usr/local/bin/postgres)")
dpkg-query --show --showformat 'postgresql ${Version}\n' "${package%%:*}" >>/run/freezeframe/versions
