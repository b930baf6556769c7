//! PostgreSQL's write-ahead log: the server itself replays it, from the snapshot's disks before
//! anything has started from them, because a server that has recovered writes a log of its own. See
//! the manual, "Recovering Using a Continuous Archive Backup".

use std::path::Path;

use crate::error::Result;
use crate::guest::{EXCHANGE, Machine, quote_shell};
use crate::restore::ROOT;
use crate::session::Session;

/// Copies the source's write-ahead log to the exchange disk, from the segment that its hook recorded
/// on; see [`super::save_logs`].
pub(super) fn save(session: &Session<'_>, machine: &Machine, position: &Path) -> Result<bool> {
    let line = SAVE
        .replace("POSITION", &quote_shell(position))
        .replace("UNIT", &quote_shell(&session.plan.image.server.unit))
        .replace("CLIENT", session.dialect().root_client())
        .replace("EXCHANGE", EXCHANGE);
    let printed = machine.agent().script(&line, b"", session.plan.limits.agent)?;
    Ok(printed.is_empty())
}

/// What prepares the disks of a snapshot so that their server replays the log on the exchange disk:
/// a line for the shell of the guest to which they are attached.
pub fn prelude() -> String {
    PREPARE.replace("ROOT", ROOT)
}

/// The segment in use is closed first, so that it is complete. Names of segments sort by age.
const SAVE: &str = r#"set -e
first=$(awk -F '\t' '$1 == "wal_file" { print $2 }' POSITION 2>/dev/null) || true
[ "$first" ] || { echo none; exit 0; }
echo 'SELECT pg_switch_wal()' | CLIENT >/dev/null
pid=$(systemctl show --property MainPID --value UNIT)
cd "/proc/$pid/cwd/pg_wal"
segments=$(ls | awk -v first="$first" 'length($0) == 24 && $0 >= first')
# One word each: names of segments are digits.
tar -cf - $segments | dd of=/dev/disk/by-id/virtio-EXCHANGE bs=64k conv=fsync status=none
"#;

const PREPARE: &str = r#"set -e
read -r target
read -r datadir
tries=0
while set -- /sys/bus/scsi/devices/*:0:"$target":0/block/*; ! true 2>/dev/null <"/dev/${1##*/}"; do
    [ "$((tries += 1))" -lt 200 ] || { echo "the exchange disk does not appear" >&2; exit 1; }
    sleep 0.05
done
data=ROOT$datadir
archive=/var/tmp/freezeframe-wal
mkdir -p "ROOT$archive"
tar -C "ROOT$archive" -xf "/dev/${1##*/}"
chmod -R go+rX "ROOT$archive"
echo "restore_command = 'cp $archive/%f \"%p\"'" >>"$data/postgresql.auto.conf"
touch "$data/recovery.signal"
chown --reference="$data" "$data/recovery.signal"
"#;
