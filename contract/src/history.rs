//! The history: every operation of the load and every event of the freeze
//! window, on one clock.
//!
//! Times are host `CLOCK_MONOTONIC` nanoseconds, taken immediately before a
//! request is sent and immediately after its answer is read, so that an
//! operation took effect somewhere between the two.

mod clock;
mod tool;

use serde::{Deserialize, Deserializer, Serialize};

pub use self::clock::Nanos;
pub use self::tool::{
    AgentCommand, COPY_SKEW, CommandEnd, CopyInstant, DiskProblem, DiskProblemKind, DiskWrites, FREEZE,
    FREEZE_LIST, Leftover, LeftoverKind, Level, Sender, THAW, ToolStep,
};
use crate::jsonl::{self, Scan};

/// The file's name in a trial directory.
pub const FILE: &str = "history.jsonl";

/// The `kind` in the header of `history.jsonl`.
pub const KIND: &str = "history";

/// What the guest agent calls Windows in its answer to `guest-get-osinfo`:
/// <https://www.qemu.org/docs/master/interop/qemu-ga-ref.html>.
pub const WINDOWS: &str = "mswindows";

/// A position in PostgreSQL's write-ahead log, bytes from its beginning; see
/// <https://www.postgresql.org/docs/current/wal-internals.html>.
pub type Lsn = u64;

/// One line of `history.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "e", rename_all = "snake_case", deny_unknown_fields)]
pub enum Entry {
    /// What the load set up before its first operation, and with that everything
    /// that the other records owe. Written once, first.
    Setup(Setup),
    /// A client is about to send an operation.
    Invoke {
        /// When, before sending.
        t: Nanos,
        /// The client.
        c: u32,
        /// The client's own count of transfers, from 1, without gaps: a
        /// transfer that was rolled back (`Fail`, or `Resolved` as not present)
        /// gives its number to the next one. The client of a follower counts its
        /// rows, and uses each number once.
        n: u32,
        /// What is written.
        op: Op,
    },
    /// The server acknowledged the operation in flight of this client.
    Ok {
        /// When, after reading the answer.
        t: Nanos,
        /// The client.
        c: u32,
        /// The operation's number.
        n: u32,
        /// For a transfer: the version that each account reached, in leg order.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ver: Option<[u32; 2]>,
    },
    /// The server proved that the operation in flight was rolled back. (A row
    /// of a non-transactional table cannot be: there it may or may not exist.)
    Fail {
        /// When, after reading the answer.
        t: Nanos,
        /// The client.
        c: u32,
        /// The operation's number.
        n: u32,
        /// The server's error.
        error: String,
    },
    /// The outcome of the operation in flight is not known: the connection was
    /// lost or timed out.
    Unknown {
        /// When the client gave up.
        t: Nanos,
        /// The client.
        c: u32,
        /// The operation's number.
        n: u32,
        /// What happened to the connection.
        error: String,
    },
    /// After an `Unknown`, the client read back its own data and learned the
    /// outcome. The read must wait for the lost connection's transaction (lock
    /// the row, or end that connection first), or it proves nothing. A client
    /// sends no transfer while the outcome of its last one is open.
    Resolved {
        /// When, after reading.
        t: Nanos,
        /// The client.
        c: u32,
        /// The operation's number.
        n: u32,
        /// Whether the operation is there.
        present: bool,
    },
    /// What the agent reported about its guest when the load began. Written once; absent
    /// if it reported nothing.
    Guest {
        /// When.
        t: Nanos,
        /// The operating system, as the agent names it: `debian`, [`WINDOWS`].
        os: String,
        /// How many volumes the freeze must reach: on Windows those with a file
        /// system of which VSS makes snapshots; elsewhere the devices that the
        /// agent's mount table names with a file system that the kernel can freeze.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        volumes: Option<u32>,
    },
    /// A directory of the server, as the server itself sees it: through its own
    /// mount table, links resolved. Written before the first freeze.
    Directory {
        /// When.
        t: Nanos,
        /// What the server keeps there.
        holds: Holds,
        /// The directory.
        path: String,
        /// The kind of its file system: `ext4`, `tmpfs`.
        fs: String,
        /// The file system of the image that holds it, which the snapshot has;
        /// absent when it lies elsewhere.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on: Option<String>,
        /// The agent's own mount table names its device, so a freeze reaches it.
        reached: bool,
    },
    /// The pipeline crossed a mark of the freeze window.
    Mark {
        /// When: before the call for a `*Call` or `*Begin`, after it for the rest.
        t: Nanos,
        /// Which mark.
        mark: Mark,
        /// The error's text for `FreezeErr` and `ThawErr`; the number of file
        /// systems for `FreezeOk` and `ThawOk`.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        detail: String,
    },
    /// A quiescence probe: one statement sent inside the window on a
    /// connection opened before the freeze. Written when it is no longer polled.
    Probe(Probe),
    /// How much the guest has written to one disk since it was powered on, as
    /// QEMU counts it. Written when the freeze has returned and before the thaw.
    BlockStats {
        /// When.
        t: Nanos,
        /// The disk's target name: `vda`.
        disk: String,
        /// Write requests.
        writes: u64,
        /// Bytes written.
        bytes: u64,
    },
    /// A heartbeat: one record that a writer in the guest, which knows nothing
    /// of the database, appended to a file of its own on one disk and synced.
    /// Written when it is answered, or when the load ends without an answer.
    /// The heartbeats of a disk are numbered from 1 without gaps, one in flight.
    Heartbeat {
        /// When it was requested.
        t: Nanos,
        /// When the guest had synced it; absent if it was never reported.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end: Option<Nanos>,
        /// The disk's target name: `vda`.
        disk: String,
        /// The record's number.
        n: u32,
    },
    /// One step of the client that changes the schema; see [`ddl_tables`]. A
    /// step that fails is sent again until it is done. Written when it is done,
    /// or when the load ends before that.
    SchemaChange {
        /// When it was first sent.
        t: Nanos,
        /// When it was known to be done; absent when that is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end: Option<Nanos>,
        /// The step, from 1 without gaps.
        n: u32,
    },
    /// One statement of the bulk writer (profile `bulk`): many rows in one
    /// INSERT into the MyISAM table `bulk`. Written when it is answered, or
    /// when the load ends without an answer.
    Bulk {
        /// When it was sent.
        t: Nanos,
        /// When it was acknowledged; absent when it was not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end: Option<Nanos>,
        /// The statement, from 1 without gaps.
        n: u32,
        /// The rows that it inserts.
        rows: u64,
    },
    /// Where the source's write-ahead log ended, as its server said
    /// (`pg_current_wal_insert_lsn`). Asked before the freeze is called, when it has
    /// returned, and before the thaw is called. Of a server with [`Quiescence::BackupMode`].
    WalEnd {
        /// When it was asked.
        t: Nanos,
        /// When it had answered.
        end: Nanos,
        /// The position in the log, bytes from its beginning.
        lsn: Lsn,
    },
    /// The backup modes that ended in order, as the source's write-ahead log shows after the
    /// thaw: the server writes such a record only when the session that began backup mode ends
    /// it. Written once in a cycle, if the log could be read.
    BackupModes {
        /// When it had been read.
        t: Nanos,
        /// From where.
        from: Lsn,
        /// Up to where.
        to: Lsn,
        /// Where each began and where the record of its end lies: XLOG_BACKUP_END.
        ended: Vec<[Lsn; 2]>,
    },
    /// A command that went through the agent's channel, where the harness has a proxy in it.
    AgentCommand(AgentCommand),
    /// The copy of a disk began or was completed, as QEMU said.
    CopyInstant(CopyInstant),
    /// How much the guest wrote between two moments, where QEMU traced its writes.
    DiskWrites(DiskWrites),
    /// What a backup tool did, or what was found of that. Of a trial with [`Setup::tool`].
    Tool {
        /// Which step, or which fact.
        step: ToolStep,
    },
    /// Another cycle of freeze, snapshot and thaw begins under the same load.
    /// The marks, probes and block counts from here to the next `Cycle` are its
    /// own. The first cycle has no such line.
    Cycle {
        /// When.
        t: Nanos,
        /// The cycle, from 2 without gaps.
        n: u32,
    },
    /// The load has stopped and the window is closed. Always the last line, but for what a
    /// restore command did ([`ToolStep::is_after_load`]); without it the run was interrupted and
    /// acknowledgements may be missing.
    End {
        /// When.
        t: Nanos,
    },
}

/// What the load set up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// Number of writers of transfers; their clients are numbered from 1. The
    /// client of the follower at place `i` is `writers + 1 + i`.
    pub writers: u32,
    /// Number of accounts; accounts are numbered from 1.
    pub accounts: u32,
    /// The balance with which every account starts.
    pub opening_balance: i64,
    /// The ways to the server that writers and probes take. Writer `c` takes the
    /// one at place `(c - 1) % doors`.
    pub doors: Vec<String>,
    /// The tables whose rows follow transfers.
    pub followers: Vec<Follower>,
    /// The other tables, all transactional but the bulk writer's, and what else
    /// what must be checked about each on the restored server.
    pub tables: Vec<Table>,
    /// The disks whose writes are counted, by target name: `vda`.
    pub disks: Vec<String>,
    /// The file systems of the disks, by the image's names: each is examined raw
    /// and checked, and has heartbeats.
    pub file_systems: Vec<String>,
    /// The server keeps a binary log.
    pub binlog: bool,
    /// How the server stands still for a backup.
    #[serde(default, skip_serializing_if = "Quiescence::is_lock")]
    pub quiescence: Quiescence,
    /// A backup tool makes the backups, one in each cycle; the last one is restored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tool: bool,
}

/// How a server stands still for a backup, which decides what proves it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quiescence {
    /// A lock of its own keeps commits out: MariaDB and MySQL.
    #[default]
    Lock,
    /// It has no such lock. A session puts it into backup mode, and the frozen file system
    /// keeps commits out: PostgreSQL.
    BackupMode,
}

impl Quiescence {
    /// Whether it is a lock.
    pub fn is_lock(&self) -> bool {
        *self == Self::Lock
    }
}

/// A table whose rows each follow a transfer, written by a client of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Follower {
    /// The name that records use.
    pub table: String,
    /// Its storage engine: `MyISAM`, `Aria`, `InnoDB`.
    pub engine: String,
    /// Whether a transaction protects it.
    pub transactional: bool,
    /// Which schema it is in: that of the transfers, or the second one.
    pub schema: Schema,
    /// Its client's way to the server, by its place among the doors.
    pub door: u8,
    /// The secondary indexes that are compared with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<String>,
}

/// A table of the load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The name that records use.
    pub table: String,
    /// Its storage engine.
    pub engine: String,
    /// The secondary indexes that are compared with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<String>,
}

/// The schemas of a trial. Both have names that nobody in the guest can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schema {
    /// That of the transfers.
    Load,
    /// A second one, which a hook that knows of one schema does not know.
    Second,
}

/// What a server keeps in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// Its tables.
    Data,
    /// The redo log of its engine.
    Redo,
    /// The undo log of its engine.
    Undo,
    /// Its binary logs.
    Binlogs,
}

/// An operation of the load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "k", rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// One transaction: two ledger legs, two account updates, the client's counter.
    Transfer {
        /// A transfer of another client that this one had read as committed:
        /// `[client, number]`; number 0 means none yet.
        dep: [u32; 2],
        /// `[account, amount]` of both legs; the amounts sum to 0.
        legs: [(u32, i64); 2],
        /// CRC-32 (IEEE) of the payload that both legs carry.
        crc: u32,
    },
    /// One row in a follower's table, sent after a transfer was acknowledged.
    Follow {
        /// The table.
        table: String,
        /// The transfer: `[client, number]`.
        of: [u32; 2],
        /// CRC-32 (IEEE) of the payload.
        crc: u32,
    },
}

/// The tables `ddl_*` that exist after `steps` schema changes, sorted. No two
/// neighbouring states are alike, so the tables show how many steps they hold:
/// one table is left from before, then over and over the next is created and
/// renamed, and the one before it dropped.
pub fn ddl_tables(steps: u32) -> Vec<String> {
    let (k, phase) = (steps / 3, steps % 3);
    let (done, next) = (format!("ddl_{k}_renamed"), format!("ddl_{}", k + 1));
    let mut tables = match phase {
        0 => vec![done],
        1 => vec![done, next],
        _ => vec![done, format!("{next}_renamed")],
    };
    tables.sort();
    tables
}

impl jsonl::LogRecord for Entry {
    fn quick(line: &[u8]) -> Option<Self> {
        let mut scan = Scan::new(line);
        match scan.name(r#"{"e":""#)? {
            "invoke" => {
                let (t, c, n) = operation(&mut scan)?;
                let op = match scan.name(r#","op":{"k":""#)? {
                    "transfer" => transfer(&mut scan)?,
                    "follow" => {
                        let table = scan.name(r#","table":""#)?.to_owned();
                        let of = [scan.unsigned(r#","of":["#)?, scan.unsigned(",")?];
                        Op::Follow { table, of, crc: scan.unsigned(r#"],"crc":"#)? }
                    }
                    _ => return None,
                };
                scan.end("}}\n")?;
                Some(Self::Invoke { t, c, n, op })
            }
            "ok" => {
                let (t, c, n) = operation(&mut scan)?;
                let ver = match scan.end("}\n") {
                    Some(()) => None,
                    None => {
                        let ver = Some([scan.unsigned(r#","ver":["#)?, scan.unsigned(",")?]);
                        scan.end("]}\n")?;
                        ver
                    }
                };
                Some(Self::Ok { t, c, n, ver })
            }
            _ => None,
        }
    }
}

fn operation(scan: &mut Scan<'_>) -> Option<(Nanos, u32, u32)> {
    Some((scan.unsigned(r#","t":"#)?, scan.unsigned(r#","c":"#)?, scan.unsigned(r#","n":"#)?))
}

fn transfer(scan: &mut Scan<'_>) -> Option<Op> {
    let dep = [scan.unsigned(r#","dep":["#)?, scan.unsigned(",")?];
    let from = (scan.unsigned(r#"],"legs":[["#)?, scan.signed(",")?);
    let to = (scan.unsigned("],[")?, scan.signed(",")?);
    Some(Op::Transfer { dep, legs: [from, to], crc: scan.unsigned(r#"]],"crc":"#)? })
}

/// The marks of the freeze window, in the order in which a trial crosses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// F0: the freeze is about to be requested.
    FreezeCall,
    /// F1: the freeze was reported as successful.
    FreezeOk,
    /// The freeze failed or timed out.
    FreezeErr,
    /// S0: the snapshot is about to be requested.
    SnapBegin,
    /// S1: the snapshot exists.
    SnapEnd,
    /// T0: the thaw is about to be requested.
    ThawCall,
    /// T1: the thaw was reported as successful.
    ThawOk,
    /// The thaw failed or timed out.
    ThawErr,
}

/// A quiescence probe, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// When it was sent.
    pub t: Nanos,
    /// When it was answered or given up; for one that waits for a lock, when the
    /// server last said so.
    pub end: Nanos,
    /// For one that waits for a lock, when the server first said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Nanos>,
    /// Which of the two that are sent through each door: one before the snapshot,
    /// one after it, just before the thaw.
    pub round: Round,
    /// The way to the server, by its place among the doors.
    pub door: u8,
    /// Which schema it writes to.
    pub schema: Schema,
    /// Which statement.
    pub kind: ProbeKind,
    /// The row that it writes, of which there must be none in the backup; absent
    /// for a table in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<u32>,
    /// What came of it.
    pub answer: ProbeAnswer,
    /// The code of the server's error, where it gave one: the number of MariaDB and MySQL, the
    /// SQLSTATE of PostgreSQL.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "number_or_text")]
    pub code: Option<String>,
}

/// Histories from before there were other codes have numbers.
fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Code {
        Number(u16),
        Text(String),
    }
    Ok(Option::<Code>::deserialize(deserializer)?.map(|code| match code {
        Code::Number(number) => number.to_string(),
        Code::Text(text) => text,
    }))
}

/// When in the window a probe is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Round {
    /// When the freeze has returned. The snapshot begins when it is answered or
    /// observed waiting, and the probe is polled until the thaw.
    Snapshot,
    /// When the snapshot is there and the guest was held, just before the thaw.
    Thaw,
}

/// Which statement a quiescence probe sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// UPDATE of a MEMORY table, not binlogged: it never touches a disk. `FLUSH
    /// TABLES WITH READ LOCK` refuses it, and so does a lock of that table alone;
    /// `BACKUP STAGE BLOCK_COMMIT` does not. On PostgreSQL an UPDATE of an UNLOGGED table.
    Memory,
    /// COMMIT of a transaction whose changes were made before the freeze: the
    /// server's own lock keeps it waiting, whoever asks and whatever it changed,
    /// and no lock of a table does. It hangs in the write when only the file
    /// system is frozen, which is all that keeps it out with [`Quiescence::BackupMode`].
    Commit,
    /// INSERT of a row into a non-transactional table, which only a lock keeps out.
    Row,
}

/// What came of a quiescence probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeAnswer {
    /// The server executed the statement: nothing held it back.
    Done,
    /// A lock is held: the server said at `since` and at `end`, and whenever it
    /// was asked in between, that the statement waits for a lock; or it refused it
    /// with error 1205 (lock wait timeout).
    Locked,
    /// The server said at `since` that the statement waits for a lock, and at
    /// `end` that it does not any more, inside the window.
    Released,
    /// No answer within the client's limit, and the server names no lock that it waits for: the
    /// statement is blocked by the frozen file system, not by a database lock, or never arrived.
    Hung,
    /// The server refused it with another error, see `code`.
    Refused,
    /// The connection was lost, and the server accepts another one, on which nothing came of the
    /// same write.
    Cut,
    /// The connection was lost, and there is no server that accepts another one.
    Gone,
    /// The connection was lost, and whether there still was a server did not show in time.
    Error,
    /// It was sent, or was about to be, and nothing was heard of it in time, as on a host that stands still. That says
    /// nothing of the lock, but its row may be in later backups.
    Unseen,
}
