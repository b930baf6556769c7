//! Backup mode, as the server's own write-ahead log shows it. No view of PostgreSQL tells who holds
//! it. But when the session that began backup mode ends it in order, and only then, the server
//! writes a record that says where it had begun (XLOG_BACKUP_END). Together with where the log ended
//! before the freeze, in the window and before the thaw, this shows whether one lasted throughout.

use std::time::Duration;

use contract::history::{Entry, Lsn, Quiescence};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::clock;
use crate::database::{Connection, SqlResult, TCP_ADMIN, Target, lsn, lsn_text};
use crate::error::{Error, Result, SqlError};
use crate::guest::{Agent, quote_shell};
use crate::history_log::HistoryLog;
use crate::interrupt;

/// How long an answer may take. It needs no disk.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A connection that asks where the log ends.
#[derive(Debug)]
pub struct BackupModeWitness<'a> {
    target: &'a Target,
    history: &'a HistoryLog,
    conn: Connection,
    /// The answer before the freeze.
    from: Lsn,
}

impl<'a> BackupModeWitness<'a> {
    /// Connects before the freeze, and asks for the first time. `None` for a server that has a lock.
    pub fn connect(
        runtime: &Runtime,
        target: &'a Target,
        history: &'a HistoryLog,
        limit: Duration,
    ) -> Result<Option<Self>> {
        if target.dialect().quiescence() == Quiescence::Lock {
            return Ok(None);
        }
        let connect = async {
            let mut conn = target.door(TCP_ADMIN).connect_with_retries(limit).await?;
            let asked = clock::now();
            let from = end_of_log(&mut conn).await?;
            Ok((conn, asked, from))
        };
        let connected = runtime.block_on(async { timeout(limit, connect).await });
        let (conn, t, from) = connected
            .unwrap_or(Err(SqlError::TimedOut))
            .map_err(Error::sql("report where its write-ahead log ends"))?;
        history.write(&Entry::WalEnd { t, end: clock::now(), lsn: from })?;
        Ok(Some(Self { target, history, conn, from }))
    }

    /// Asks again. Without an answer nothing is recorded, and the judge lacks it.
    pub fn ask(&mut self, runtime: &Runtime) -> Result<()> {
        let t = clock::now();
        let asked = async { timeout(ANSWER_LIMIT, end_of_log(&mut self.conn)).await };
        if let Ok(Ok(lsn)) = runtime.block_on(asked) {
            self.history.write(&Entry::WalEnd { t, end: clock::now(), lsn })?;
        }
        Ok(())
    }

    /// Reads, after the thaw, which backup modes the log shows as ended since the first question. Nothing is
    /// recorded when commits still wait then. `unit` is the server's.
    pub fn read(self, runtime: &Runtime, agent: &Agent, unit: &str, limit: Duration) -> Result<()> {
        let asked = async {
            // The hook may have ended the other session.
            let mut conn = self.target.door(TCP_ADMIN).connect_with_retries(limit).await?;
            conn.execute(FLUSH).await?;
            let from = lsn_text(self.from);
            let answer = conn.query_first(&FLUSHED.replace("FROM_HERE", &from)).await?;
            let answer = answer.ok_or_else(|| SqlError::Unexpected("no row".into()))?;
            let segments = format!("{} {}", answer.text(2)?, answer.text(3)?);
            Ok((answer.get::<u32>(0)?, answer.get::<Lsn>(1)?, segments))
        };
        let asked = async { Ok(timeout(2 * limit, asked).await) };
        let Ok(answer) = runtime.block_on(interrupt::or_stop(asked))? else { return Ok(()) };
        let (timeline, to, segments) =
            answer.map_err(Error::sql("report how far its write-ahead log is flushed"))?;
        let input = format!("{timeline} {} {} {segments}\n", lsn_text(self.from), lsn_text(to));
        let printed = agent.script(&READ.replace("UNIT", &quote_shell(unit)), input.as_bytes(), limit)?;
        let printed = String::from_utf8_lossy(&printed);
        let ended = printed.lines().filter_map(backup_mode).collect();
        self.history.write(&Entry::BackupModes { t: clock::now(), from: self.from, to, ended })?;
        Ok(())
    }
}

/// A backup mode from a line of [`READ`].
fn backup_mode(line: &str) -> Option<[Lsn; 2]> {
    let (start, end) = line.split_once(' ')?;
    Some([lsn(start)?, lsn(end)?])
}

async fn end_of_log(conn: &mut Connection) -> SqlResult<Lsn> {
    conn.query_value(INSERT).await?.ok_or_else(|| SqlError::Unexpected("no row".into()))
}

const INSERT: &str = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn";

/// A record of its own, whose commit waits for all of the log before it.
const FLUSH: &str = "SET synchronous_commit = on; SELECT pg_logical_emit_message(true, 'freezeframe', '')";

/// Two positions, and the segments that hold the log between them. A position on the border of two
/// segments is the end of one and the beginning of the next.
const FLUSHED: &str = "SELECT timeline_id, flushed - '0/0'::pg_lsn, pg_walfile_name('FROM_HERE'::pg_lsn + 1), \
                       pg_walfile_name(flushed - 1) FROM pg_control_checkpoint(), pg_current_wal_flush_lsn() AS flushed";

/// Prints where each backup mode began, and where the record of its end lies. Program and log are
/// those of the server that runs: its working directory is its data directory. Told no segment, the
/// program would read the size of one from any, and some are empty yet.
const READ: &str = r#"set -e
read -r timeline from to first last
pid=$(systemctl show --property MainPID --value UNIT)
[ "${pid:-0}" -gt 0 ] || { echo "no process of the unit runs" >&2; exit 1; }
server=$(readlink "/proc/$pid/exe")
records=$("${server%/*}/pg_waldump" --path="/proc/$pid/cwd/pg_wal" --timeline="$timeline" \
    --start="$from" --end="$to" --rmgr=XLOG "$first" "$last")
echo "$records" | sed -n 's/.* lsn: \([0-9A-F/]*\),.* desc: BACKUP_END \([0-9A-F/]*\).*/\2 \1/p'
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_backup_mode() {
        assert_eq!(backup_mode("0/28 0/100"), Some([0x28, 0x100]));
        assert_eq!(backup_mode("0/28"), None);
    }
}
