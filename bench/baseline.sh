#!/bin/bash
# The quiesced trial as an operator would script it with virsh, qemu-img and the
# client: boot, load, freeze, snapshot, thaw, boot the snapshot, check the tables,
# compare row counts. `cargo xtask bench trial` measures it against a trial.
#
# The environment says which image and which load; libvirt has its own
# LIBVIRT_DEFAULT_URI:
#   KERNEL INITRD CMDLINE DISK MEMORY_MIB   the guest
#   DOMAIN_TYPE                             qemu or kvm
#   DB_USER DB_PASSWORD_FILE                an account that owns the schema `freezeframe`
#   WRITERS SECONDS_OF_LOAD                 the load before the freeze
#   DIR                                     an empty directory
#
# It prints when each stage ended; the last stage only when all is well.
set -eu

domain=
cleanup() {
    status=$?
    trap - EXIT
    touch "$DIR/stop"
    [ -z "$domain" ] || virsh -q destroy "$domain" || true
    # The writers' clients end when their server does.
    wait
    rm -rf "$DIR"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

stage() {
    echo "$(($(date +%s%N) / 1000000 - begun)) ms: $1"
}
begun=$(($(date +%s%N) / 1000000))

# start NAME DISK: boots a guest and waits until its server answers.
start() {
    cat >"$DIR/$1.xml" <<XML
<domain type='$DOMAIN_TYPE' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>$1</name>
  <memory unit='MiB'>$MEMORY_MIB</memory><vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>$KERNEL</kernel><initrd>$INITRD</initrd><cmdline>$CMDLINE</cmdline>
  </os>
  <features><acpi/></features>
  <on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='writeback' discard='unmap'/>
      <source file='$2'/><target dev='vda' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/>
    <serial type='file'><source path='$DIR/$1.log'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-netdev'/>
    <qemu:arg value='user,id=sql,restrict=on,hostfwd=tcp:127.0.0.1:0-:3306'/>
    <qemu:arg value='-device'/>
    <qemu:arg value='virtio-net-pci,netdev=sql,bus=pcie.0,addr=0x1e'/>
  </qemu:commandline>
</domain>
XML
    virsh -q create "$DIR/$1.xml" >&2
    domain=$1
    port=$(virsh qemu-monitor-command --hmp "$1" 'info usernet' | awk '/HOST_FORWARD/ { print $4 }')
    for _ in $(seq 3000); do
        if sql -e 'SELECT 1' >/dev/null 2>&1; then
            return
        fi
        sleep 0.1
    done
    echo "the server of $1 does not answer" >&2
    exit 3
}

sql() {
    mariadb --defaults-extra-file="$DIR/client.cnf" --host 127.0.0.1 --port "$port" \
        --connect-timeout 5 --batch --skip-column-names freezeframe "$@"
}

# writer NUMBER: sends a transaction and a MyISAM row, over and over; the number of
# the last acknowledged one goes to a file.
writer() {
    coproc CLIENT { exec mariadb --defaults-extra-file="$DIR/client.cnf" --host 127.0.0.1 --port "$port" \
        --batch --skip-column-names --unbuffered freezeframe; }
    n=0
    while [ ! -e "$DIR/stop" ]; do
        n=$((n + 1))
        echo "BEGIN; UPDATE acct SET bal = bal - 1 WHERE id = $1; UPDATE acct SET bal = bal + 1 WHERE id = 32 + $1;
            INSERT INTO ledger VALUES ($1, $n, REPEAT('x', 200)); COMMIT;
            INSERT INTO nt VALUES ($1, $n, REPEAT('x', 200)); SELECT $n;" >&"${CLIENT[1]}"
        read -r acked <&"${CLIENT[0]}"
        echo "$acked" >"$DIR/acked.$1.new"
        mv "$DIR/acked.$1.new" "$DIR/acked.$1"
    done
}

# acknowledged: the last number of each writer.
acknowledged() {
    for client in $(seq "$WRITERS"); do
        cat "$DIR/acked.$client" 2>/dev/null || echo 0
    done
}

umask 077
printf '[client]\nuser=%s\npassword=%s\n' "$DB_USER" "$(cat "$DB_PASSWORD_FILE")" >"$DIR/client.cnf"
qemu-img create -q -f qcow2 -F raw -b "$DISK" "$DIR/source.qcow2"
start source "$DIR/source.qcow2"
stage 'the guest answers'

sql <<'SQL'
CREATE TABLE acct (id INT PRIMARY KEY, bal BIGINT NOT NULL) ENGINE=InnoDB;
CREATE TABLE ledger (c INT, n INT, pay VARCHAR(256), PRIMARY KEY (c, n)) ENGINE=InnoDB;
CREATE TABLE nt (c INT, n INT, pay VARCHAR(256), PRIMARY KEY (c, n)) ENGINE=MyISAM;
SQL
for id in $(seq 64); do
    echo "INSERT INTO acct VALUES ($id, 1000000);"
done | { echo 'BEGIN;'; cat; echo 'COMMIT;'; } | sql
for client in $(seq "$WRITERS"); do
    writer "$client" &
done
sleep "$SECONDS_OF_LOAD"
stage 'the load has run'

virsh -q domfsfreeze source >&2
before=$(acknowledged)
virsh -q snapshot-create-as source --disk-only --atomic --no-metadata \
    --diskspec "vda,file=$DIR/live.qcow2" >&2
virsh -q domfsthaw source >&2
sleep 1
touch "$DIR/stop"
wait
after=$(acknowledged)
stage 'the snapshot is taken'
virsh -q destroy source >&2
domain=

qemu-img create -q -f qcow2 -F qcow2 -b "$DIR/source.qcow2" "$DIR/restored.qcow2"
start restored "$DIR/restored.qcow2"
stage 'the snapshot answers'

# What was acknowledged before the snapshot must be there, nothing after it, and
# both tables must hold the same.
for table in acct ledger nt; do
    sql -e "CHECK TABLE $table EXTENDED" | awk '$NF != "OK" { print; bad = 1 } END { exit bad }' >&2 ||
        failed="$table is damaged"
done
sum=$(sql -e 'SELECT SUM(bal) FROM acct')
[ "$sum" = 64000000 ] || failed="the balances sum up to $sum"
for client in $(seq "$WRITERS"); do
    least=$(echo "$before" | sed -n "${client}p")
    most=$(echo "$after" | sed -n "${client}p")
    for table in ledger nt; do
        rows=$(sql -e "SELECT COUNT(*) FROM $table WHERE c = $client")
        [ "$least" -le "$rows" ] && [ "$rows" -le "$most" ] ||
            failed="$table holds $rows rows of writer $client, acknowledged were $least to $most"
    done
done
virsh -q destroy restored >&2
domain=
if [ -n "${failed:-}" ]; then
    echo "$failed" >&2
    exit 1
fi
stage 'the tables are checked'
