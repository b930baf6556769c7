//! What a trial must know about a database: the statements that it sends, and how it reads what
//! comes back. Adding a database is one implementation of [`Dialect`], and one line in `choice.rs`.

use std::fmt::Debug;
use std::net::SocketAddr;

use contract::history::{Follower, ProbeAnswer, ProbeKind, Quiescence, Table};
use contract::scenario::{Load, Profile};

use super::connection::{Route, Row, SqlResult};
use crate::names::{Account, Names};

/// How a database is spoken to. Statements that all of them understand are not in it.
pub trait Dialect: Debug + Sync {
    /// The way to an account behind this address; `schema` is that of the image, which its account
    /// owns.
    fn route(&self, address: SocketAddr, account: &Account, schema: Option<&str>) -> Route;

    /// How the server stands still for a backup.
    fn quiescence(&self) -> Quiescence;

    /// The client of the server's root, as a line for a guest's shell: it reads statements from its
    /// standard input, prints rows without heads, their values separated by tabs, and stops at an
    /// error.
    fn root_client(&self) -> &'static str;

    /// Creates the schemas and accounts of a trial, for the server's root.
    fn grant(&self, names: &Names) -> String;

    /// Creates the observer of a restored server, for its root.
    fn grant_observer(&self, names: &Names) -> String;

    /// Asks for the path of the server's own socket.
    fn socket(&self) -> &'static str;

    /// Asks for its data directory.
    fn data_directory(&self) -> &'static str;

    /// Each answers with what a directory holds, and its path. The data directory comes first,
    /// because the others may be relative to it.
    fn directories(&self) -> &'static str;

    /// The settings of a profile, for the server's root.
    fn profile(&self, profile: Profile) -> &'static str;

    /// The tables whose rows follow transfers.
    fn followers(&self, profile: Profile) -> Vec<Follower>;

    /// The other tables of a load.
    fn tables(&self, load: &Load) -> Vec<Table>;

    /// Creates all of a load's tables, empty.
    fn create(&self, names: &Names, load: &Load, followers: &[Follower]) -> Vec<String>;

    /// Creates a table with one number a row.
    fn create_small(&self, real: &str) -> String;

    /// Fills the table of the bulk data with rows of about a KiB, from `first` to before `end`.
    fn fill(&self, real: &str, first: u32, end: u32) -> String;

    /// Changes the rows of the bulk data between these two.
    fn churn(&self, real: &str, first: u32, last: u32) -> String;

    /// Asks whether the server keeps a binary log: a row with 1. `None` when it has no such thing.
    fn keeps_binlog(&self) -> Option<&'static str>;

    /// A literal of bytes, from hexadecimal digits.
    fn bytes(&self, digits: &str) -> String;

    /// Gives a table another name; both have their schemas.
    fn rename(&self, from: &str, to: &str) -> String;

    /// The tables of the quiescence probes on disk, by their plain names.
    fn probe_tables(&self) -> &'static [&'static str];

    /// Whether the server has non-transactional tables, of which a probe must not get into one.
    fn probes_rows(&self) -> bool;

    /// What the session of the probe that changes a table in memory sends before: with this, its
    /// statement touches no disk, and waits for no lock for longer than a second.
    fn before_memory_probe(&self) -> &'static [&'static str];

    /// Asks what the server's threads do. Must not need a disk, which may be frozen.
    fn activity(&self) -> &'static str;

    /// Reads a row of the answer.
    fn read_activity(&self, row: &Row) -> SqlResult<Activity>;

    /// Whether a thread in this state waits for a lock that blocks such a probe.
    fn waits_for_lock(&self, kind: ProbeKind, state: &str) -> bool;

    /// Whether a thread in this state waits for its log to be written, as a COMMIT does for ever while
    /// the file system is frozen. A server with a lock need not tell.
    fn waits_for_log(&self, state: &str) -> bool;

    /// Whether this thread has requested a lock that would block commits, and does not have it yet.
    fn requests_lock(&self, activity: &Activity) -> bool;

    /// What an error with this code says about a probe; [`ProbeAnswer::Error`] when it ended the
    /// connection.
    fn refusal(&self, code: &str) -> ProbeAnswer;

    /// Asks what the server is, as an image's account may: its version, what it calls itself, its data
    /// directory, and how its binary logs begin; NULL for what it does not have or tell.
    fn identity(&self) -> &'static str;

    /// Asks for the server's version.
    fn version(&self) -> &'static str;

    /// Asks for the file that the server logs to; no file when it is its unit's journal.
    fn log_file(&self) -> Option<&'static str>;

    /// What a line of the server's log says about recovery.
    fn read_log(&self, line: &str) -> LogLine;

    /// Asks for the number of transactions that are prepared and not committed, where the log does
    /// not name it.
    fn prepared(&self) -> Option<&'static str>;

    /// Asks for the GTIDs that the server has committed, if it has any such thing.
    fn gtids(&self) -> Option<&'static str>;

    /// Asks where the write-ahead log ended that the server recovered from: its timeline, and the
    /// position. Before anything else, because the answer is that of the last checkpoint.
    fn wal_end(&self) -> Option<&'static str>;

    /// Asks whether the server still replays a log, while it answers already: a row if it does.
    fn is_recovering(&self) -> Option<&'static str>;

    /// Lists the load's tables on disk: schema and name.
    fn list_tables(&self, names: &Names) -> String;

    /// A table's name in statements, from its parts.
    fn quoted(&self, schema: &str, table: &str) -> String;

    /// Sums up a table.
    fn checksum(&self, real: &str) -> String;

    /// Reads the only row of the answer; `None` when the server cannot say.
    fn read_checksum(&self, row: &Row) -> SqlResult<Option<u64>>;

    /// What the session of an observer sends first: by default the server ends a session that is slow to read, as that
    /// of a process that stands still.
    fn before_observation(&self) -> Option<&'static str>;

    /// What must be sent before the first check of a table.
    fn before_checks(&self) -> Option<&'static str>;

    /// Checks a table and its indexes.
    fn check(&self, real: &str) -> String;

    /// Reads a row of the answer: the kind of the message, and the message.
    fn read_check(&self, row: &Row) -> SqlResult<(String, String)>;

    /// Counts a table's rows, and sums up their key and the column of an index, by the index or not.
    /// The key is part of it, because equal values would cancel each other out. An index is called
    /// as its column.
    fn index_sum(&self, real: &str, key: &str, column: &str, by: By) -> String;

    /// Reads such a sum from a column of the answer.
    fn read_sum(&self, row: &Row, column: usize) -> SqlResult<u64>;

    /// Counts the rows that only the memory of the server has that wrote them.
    fn memory_rows(&self, real: &str) -> String;

    /// Asks for the rows of each statement of the bulk writer: its number, the rows, and those that
    /// are torn.
    fn bulk_rows(&self, real: &str) -> String;

    /// Whether the code says that there is no such schema or table.
    fn is_gone(&self, code: &str) -> bool;
}

/// How rows are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// In the table itself.
    Table,
    /// Through the index.
    Index,
}

/// What a thread of the server does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    /// The number of its connection.
    pub connection: u32,
    /// What it waits for or does, in the server's words.
    pub state: String,
    /// Its statement.
    pub statement: String,
}

/// What a line of a server's log says about recovery.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogLine {
    /// What it says about a recovery from a crash.
    pub recovery: Recovery,
    /// The number of transactions that recovery found prepared.
    pub prepared: Option<u64>,
    /// It is about recovery.
    pub telling: bool,
    /// It is an error about corruption.
    pub corruption: bool,
}

/// What a line of a server's log says about a recovery from a crash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing.
    #[default]
    Silent,
    /// That the server would mention one, if there were any.
    WouldTell,
    /// That there is one.
    Recovers,
}
