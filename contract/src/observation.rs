//! The observation: what the snapshot's disks and the restored server hold.
//!
//! Disk records are read from the raw image before any guest boots from it;
//! the others come from the restored guest.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::history::Lsn;
use crate::jsonl::{self, Scan};

/// The file's name in a trial directory, or in that of a cycle.
pub const FILE: &str = "observation.jsonl";

/// The `kind` in the header of `observation.jsonl`.
pub const KIND: &str = "observation";

/// Where a hook leaves the positions of servers' logs, inside the guest: a file for each.
const POSITIONS: &str = "/var/lib/fsfreeze-db";

/// The ending of their names.
const POSITION: &str = ".position";

/// The most bytes that the hook takes from the end of a data directory's path for such a name.
const MOST_OF_PATH: usize = 100;

/// Where a hook leaves the position of the server with this data directory, which is a path as that server sees it.
pub fn position_file(datadir: &Path) -> PathBuf {
    let path = datadir.to_string_lossy();
    let plain: String = path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let plain = plain.trim_matches('-');
    let end = &plain[plain.len().saturating_sub(MOST_OF_PATH)..];
    Path::new(POSITIONS).join(format!("{end}{POSITION}"))
}

/// Whether a hook leaves a server's position in the file of this path.
pub fn is_position_file(path: &str) -> bool {
    path.strip_prefix(POSITIONS).is_some_and(|name| name.starts_with('/') && name.ends_with(POSITION))
}

/// One line of `observation.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "o", rename_all = "snake_case", deny_unknown_fields)]
pub enum Record {
    /// The raw file system on one disk of the snapshot, before any mount.
    FileSystem {
        /// The disk's target name: `vda`.
        disk: String,
        /// `ext4`, `xfs`, ...
        fs: String,
        /// The journal holds transactions to replay. ext4: the superblock's
        /// `needs_recovery` feature.
        dirty: bool,
    },
    /// The result of a file system check on a scratch copy, journal replayed.
    Fsck {
        /// The disk's target name.
        disk: String,
        /// Nothing wrong was found.
        clean: bool,
        /// What the checker printed, bounded.
        detail: String,
    },
    /// The header of an index file of MyISAM or Aria, read from the raw image.
    TableFile {
        /// The file below the data directory: `shop/orders.MYI`.
        file: String,
        /// The table of the load whose file it is; absent for another's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        table: Option<String>,
        /// How many times the table is open: 16 bits at offset 24 of a `.MYI` or `.MAI`.
        open_count: u16,
    },
    /// How many index files the data directory holds on the raw image; each has a
    /// [`Record::TableFile`] or a [`Record::Unreadable`].
    TableFiles {
        /// How many.
        files: u32,
    },
    /// A file that should have been on the raw image could not be read.
    Unreadable {
        /// The path inside the guest.
        path: String,
        /// Why.
        detail: String,
    },
    /// A transfer that a binary log on the raw image holds, committed.
    BinlogTransfer {
        /// The client.
        c: u32,
        /// The transfer's number.
        n: u32,
    },
    /// Where the binary logs on the raw image end. Absent when the server keeps none.
    BinlogEnd {
        /// The last log of the index, without its directory.
        file: String,
        /// Its size in bytes.
        size: u64,
        /// The server had not closed it: `LOG_EVENT_BINLOG_IN_USE_F` is set.
        in_use: bool,
    },
    /// The binary logs, or one of them, could not be read to their end.
    BinlogError {
        /// The log or the index, without its directory.
        file: String,
        /// Why.
        error: String,
        /// They are damaged or missing. Otherwise nobody knows: they are encrypted, say, or too long.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        damaged: bool,
    },
    /// The position that the hook recorded on the raw image. Absent when none did.
    Position {
        /// The binary log, without its directory.
        file: String,
        /// The byte in it at which the next event begins.
        pos: u64,
        /// The GTIDs committed, as the server wrote them.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        gtid: String,
    },
    /// The position in the write-ahead log that the hook recorded on the raw image. Absent when
    /// none did.
    WalPosition {
        /// The server's timeline.
        timeline: u32,
        /// Where its backup mode began. Absent when the hook only flushed the log.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        start: Option<Lsn>,
        /// Up to where the log was flushed when it was held.
        lsn: Lsn,
    },
    /// The last checkpoint that the control file on the raw image names, `global/pg_control`.
    Checkpoint {
        /// From where recovery reads the write-ahead log.
        redo: Lsn,
        /// The server's timeline.
        timeline: u32,
        /// The server was stopped cleanly.
        shut_down: bool,
    },
    /// Up to where the restored server found its write-ahead log, and recovered from it.
    WalEnd {
        /// The server's timeline.
        timeline: u32,
        /// The place: where the checkpoint at the end of its recovery begins.
        lsn: Lsn,
    },
    /// The heartbeats in the file of one disk, read from the raw image; none
    /// when the file is not there.
    Heartbeats {
        /// The disk's target name.
        disk: String,
        /// Records 1 to this follow each other from the start of the file.
        count: u32,
        /// What comes after them and is no next record, bounded; empty when
        /// nothing does.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        rest: String,
    },
    /// The restored guest came up, and its server answered (or did not).
    Server {
        /// The server answered SQL.
        started: bool,
        /// `VERSION()`, or why the server is not there.
        detail: String,
        /// Transactions found prepared when recovery ran; absent when the log
        /// was not readable.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prepared: Option<u64>,
        /// Whether the engine recovered from a crash, by the server's log: a server
        /// that was stopped cleanly has nothing to recover. Absent when the log was
        /// not readable.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
        /// Lines of the server's log about recovery, bounded.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        recovery: Vec<String>,
        /// Errors in the server's log about corruption, bounded.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        corruption: Vec<String>,
    },
    /// The outcome of `CHECK TABLE ... EXTENDED`, run with automatic repair off.
    CheckTable {
        /// The table.
        table: String,
        /// Its storage engine.
        engine: String,
        /// The server reported `OK` and neither warning nor error.
        clean: bool,
        /// The table can be used; false when it is reported as crashed or corrupt.
        usable: bool,
        /// The server's messages, bounded.
        messages: Vec<String>,
    },
    /// Rows and the XOR of a column, once by the primary key, once by a secondary index.
    Index {
        /// The table.
        table: String,
        /// The secondary index.
        index: String,
        /// `[rows, xor]` by the primary key.
        primary: [u64; 2],
        /// `[rows, xor]` by the index.
        secondary: [u64; 2],
    },
    /// Rows that only the memory of the source's server held: those of a MEMORY table, or of
    /// PostgreSQL's UNLOGGED table, written under the same server process. 0 after a real restore.
    MemoryRows {
        /// How many.
        rows: u64,
    },
    /// The rows of the quiescence probes that are there.
    ProbeRows {
        /// Their numbers.
        rows: Vec<u32>,
    },
    /// A client's counter (table `cl`).
    Counter {
        /// The client.
        c: u32,
        /// Its last transfer.
        n: u32,
    },
    /// An account (table `acct`).
    Account {
        /// The account.
        id: u32,
        /// Its balance.
        balance: i64,
        /// Its version: the number of legs it has received.
        ver: u32,
    },
    /// One leg of a transfer (table `ledger`).
    Leg {
        /// The client.
        c: u32,
        /// The transfer's number.
        n: u32,
        /// 0 or 1.
        leg: u8,
        /// The transfer read before: `[client, number]`.
        dep: [u32; 2],
        /// The account.
        acct: u32,
        /// The amount.
        amt: i64,
        /// The version that the account reached with this leg.
        ver: u32,
        /// The CRC-32 stored beside the payload.
        crc: u32,
        /// The CRC-32 of the payload as read back.
        sum: u32,
    },
    /// One row of a follower's table.
    Follow {
        /// The table.
        table: String,
        /// The client.
        c: u32,
        /// The row's number.
        n: u32,
        /// The transfer that it follows: `[client, number]`.
        of: [u32; 2],
        /// The CRC-32 stored beside the payload.
        crc: u32,
        /// The CRC-32 of the payload as read back.
        sum: u32,
    },
    /// The tables `ddl_*` that the server knows, sorted.
    DdlTables {
        /// Their names.
        tables: Vec<String>,
    },
    /// The rows of one statement of the bulk writer (table `bulk`).
    Bulk {
        /// The statement.
        n: u32,
        /// Its rows that are there.
        rows: u64,
        /// Of these, the rows whose payload does not match the checksum beside it.
        torn: u64,
    },
    /// The GTIDs that a server had committed.
    Gtid {
        /// Which server, and when.
        of: ServerState,
        /// `gtid_binlog_pos` of MariaDB, `gtid_executed` of MySQL.
        gtid: String,
    },
    /// One table of the load as a whole. The MEMORY tables are left out: they
    /// are not in the binary log.
    Table {
        /// Of which server, and when.
        of: ServerState,
        /// The table.
        table: String,
        /// `COUNT(*)`.
        rows: u64,
        /// `CHECKSUM TABLE ... EXTENDED`; absent when the server could not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        checksum: Option<u64>,
    },
    /// The binary logs of the source were replayed on the restored server, from
    /// the recorded position to their end. Absent when that was not tried.
    RollForward {
        /// Everything was applied.
        applied: bool,
        /// What the client said, bounded; the reason when it was not applied.
        detail: String,
    },
    /// A table that could not be read to its end.
    TableError {
        /// The table.
        table: String,
        /// The server's error.
        error: String,
        /// The server says that there is no such table or schema: error 1049 or 1146.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        gone: bool,
    },
    /// The observation is complete. Always the last line; without it the
    /// observer was interrupted and the file proves nothing.
    End,
}

/// A server at a moment: the one whose state a record describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// The source, when the load had stopped: what a roll-forward must reach.
    Live,
    /// The restored server, before anything was done to it.
    Restored,
    /// The restored server after the roll-forward.
    RolledForward,
}

impl jsonl::LogRecord for Record {
    fn quick(line: &[u8]) -> Option<Self> {
        let mut scan = Scan::new(line);
        let record = match scan.name(r#"{"o":""#)? {
            "leg" => Self::Leg {
                c: scan.unsigned(r#","c":"#)?,
                n: scan.unsigned(r#","n":"#)?,
                leg: scan.unsigned(r#","leg":"#)?,
                dep: [scan.unsigned(r#","dep":["#)?, scan.unsigned(",")?],
                acct: scan.unsigned(r#"],"acct":"#)?,
                amt: scan.signed(r#","amt":"#)?,
                ver: scan.unsigned(r#","ver":"#)?,
                crc: scan.unsigned(r#","crc":"#)?,
                sum: scan.unsigned(r#","sum":"#)?,
            },
            "follow" => Self::Follow {
                table: scan.name(r#","table":""#)?.to_owned(),
                c: scan.unsigned(r#","c":"#)?,
                n: scan.unsigned(r#","n":"#)?,
                of: [scan.unsigned(r#","of":["#)?, scan.unsigned(",")?],
                crc: scan.unsigned(r#"],"crc":"#)?,
                sum: scan.unsigned(r#","sum":"#)?,
            },
            "binlog_transfer" => {
                Self::BinlogTransfer { c: scan.unsigned(r#","c":"#)?, n: scan.unsigned(r#","n":"#)? }
            }
            _ => return None,
        };
        scan.end("}\n")?;
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_named_after_its_data_directory() {
        let name = |datadir: &str| position_file(Path::new(datadir)).display().to_string();
        assert_eq!(name("/var/lib/mysql/"), "/var/lib/fsfreeze-db/var-lib-mysql.position");
        let postgresql = name("/var/lib/postgresql/15/main");
        assert_eq!(postgresql, "/var/lib/fsfreeze-db/var-lib-postgresql-15-main.position");
        let long = name(&format!("/{}/end", "d".repeat(200)));
        assert_eq!(long, format!("/var/lib/fsfreeze-db/{}-end.position", "d".repeat(96)));
        assert!(is_position_file(&long));
        assert!(!is_position_file("/var/lib/mysql/a.position"));
        assert!(!is_position_file("/var/lib/fsfreeze-db"));
    }
}
