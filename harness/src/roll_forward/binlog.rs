//! Binary logs: the server's own tools replay them on the server that was restored. See the MySQL
//! manual, "Point-in-Time Recovery Using Event Positions".

use std::path::Path;
use std::time::Duration;

use contract::binlog::Position;
use contract::observation::Record;
use contract::text::printable;

use crate::error::Result;
use crate::guest::{EXCHANGE, Machine, quote_shell};
use crate::session::Session;

/// How much of the end of the client's output is kept, bytes.
const DETAIL: usize = 1000;

/// Copies the source's binary logs to the exchange disk; see [`super::save_logs`].
pub(super) fn save(session: &Session<'_>, machine: &Machine, position: &Path) -> Result<bool> {
    let Some(binlogs) = &session.plan.image.server.binlogs else { return Ok(false) };
    let line = format!(
        "test -f {} || {{ echo none; exit 0; }}; \
         tar -C {} -cf - . | dd of=/dev/disk/by-id/virtio-{EXCHANGE} bs=64k conv=fsync status=none",
        quote_shell(position),
        quote_shell(binlogs)
    );
    Ok(machine.agent().script(&line, b"", session.plan.limits.agent)?.is_empty())
}

/// Replays the logs on the exchange disk from this position to their end.
pub fn replay(machine: &Machine, position: &Position, limit: Duration) -> Result<Record> {
    let input = format!("{}\n{}\n", position.file, position.pos);
    let done = machine.agent().shell(REPLAY, input.as_bytes(), limit)?;
    let printed = String::from_utf8_lossy(&done.stderr);
    // The client prints the statement first, which may be long, and the error last.
    let cut = (0..=printed.len().saturating_sub(DETAIL)).rev().find(|at| printed.is_char_boundary(*at));
    let detail = printable(printed[cut.unwrap_or(0)..].trim());
    Ok(Record::RollForward { applied: done.code == Some(0), detail })
}

/// As in the manual, but with a file between the two programs: a pipe would hide a failure of the
/// first one.
const REPLAY: &str = r#"set -e
read -r file; read -r position
mkdir -p /var/tmp/freezeframe-binlogs
cd /var/tmp/freezeframe-binlogs
tar -xf /dev/disk/by-id/virtio-freezeframe
logs=$(awk -v first="$file" '{ sub(".*/", ""); if ($0 == first) on = 1; if (on) print }' ./*.index)
[ "$logs" ] || { echo "the source has no log $file any more" >&2; exit 1; }
tool=$(command -v mariadb-binlog || command -v mysqlbinlog)
client=$(command -v mariadb || command -v mysql)
{
    # This server is thrown away.
    echo 'SET GLOBAL innodb_flush_log_at_trx_commit = 0; SET GLOBAL sync_binlog = 0;'
    # One word each: names of logs have no spaces.
    $tool --start-position="$position" $logs
} >replay.sql
$client <replay.sql
"#;
