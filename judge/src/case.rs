//! What a trial left behind, in the form in which it is judged.
//!
//! One compact struct per operation and per restored row, no strings among
//! them: a million operations fit in well under 1 GiB. Only
//! [`Assembler`](super::assemble::Assembler) makes a [`Case`], and checks that the parts
//! fit together.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use contract::history::{AgentCommand, CopyInstant, DiskWrites, Holds, Lsn, Nanos, Probe, Setup};
use contract::observation::ServerState;

use super::tool_log::ToolLog;

/// The acknowledgement time of an operation whose outcome is not known: it may
/// or may not have taken effect, and nothing is ordered after it.
pub(super) const NEVER: Nanos = Nanos::MAX;

/// The history of a trial and what its restored guest held, checked for form
/// and ready to be judged.
#[derive(Debug)]
pub struct Case {
    pub(super) setup: Setup,
    pub(super) guest: Option<ReportedGuest>,
    /// The server's directories.
    pub(super) directories: Vec<ServerDirectory>,
    /// Client `c` is at `c - 1`; clients that sent nothing may be absent.
    pub(super) clients: Vec<SentByClient>,
    /// The legs of attempts that the server's answer or the client's own reading
    /// proved to be rolled back.
    pub(super) rolled_back: HashSet<SentLeg>,
    /// The cycle that is judged, and that the observation belongs to.
    pub(super) cycle: Cycle,
    /// The rows that the quiescence probes up to that cycle wrote.
    pub(super) probed: BTreeSet<u32>,
    /// An acknowledgement of a transfer named no version of an account.
    pub(super) unversioned: bool,
    /// By disk; record `n` is at `n - 1`.
    pub(super) heartbeats: BTreeMap<String, Vec<Span>>,
    /// Step `n` is at `n - 1`.
    pub(super) schema_changes: Vec<Span>,
    /// Statement `n` is at `n - 1`.
    pub(super) bulk: Vec<Bulk>,
    pub(super) observation: Option<Observation>,
    /// What a backup tool did.
    pub(super) tool: ToolLog,
    /// The number of the cycle that is judged, and of the last one.
    pub(super) place: [u32; 2],
    /// When the load had stopped; [`NEVER`] if the history does not say.
    pub(super) end: Nanos,
}

/// What one client sent, in order.
#[derive(Debug, Default)]
pub(super) struct SentByClient {
    /// Transfer `n` is at `n - 1`. Rolled back attempts are not among them.
    pub(super) transfers: Vec<SentTransfer>,
    /// Row `n` is at `n - 1`; only of a follower's client.
    pub(super) rows: Vec<SentFollowerRow>,
    /// Attempts that were rolled back: when they were sent, and when that was known.
    pub(super) rolled_back: Vec<Span>,
}

/// A transfer that was acknowledged or whose outcome is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SentTransfer {
    pub(super) sent: Nanos,
    /// [`NEVER`] when the outcome is not known.
    pub(super) acked: Nanos,
    /// When anything was heard of it: its outcome, or that its connection was lost.
    pub(super) heard: Nanos,
    pub(super) dep: [u32; 2],
    pub(super) accounts: [u32; 2],
    pub(super) amounts: [i64; 2],
    pub(super) crc: u32,
    /// The versions that the acknowledgement named; 0 when it named none.
    pub(super) versions: [u32; 2],
}

/// What a client sent as one leg of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SentLeg {
    pub(super) c: u32,
    pub(super) n: u32,
    pub(super) leg: u8,
    pub(super) dep: [u32; 2],
    pub(super) account: u32,
    pub(super) amount: i64,
    pub(super) crc: u32,
}

/// A row sent to a follower's table.
#[derive(Debug, Clone, Copy)]
pub(super) struct SentFollowerRow {
    /// The transfer that it follows.
    pub(super) of: [u32; 2],
    pub(super) crc: u32,
    pub(super) sent: Nanos,
    /// [`NEVER`] when it failed or the outcome is not known: most such tables
    /// cannot roll back, so a failure proves nothing.
    pub(super) acked: Nanos,
    /// As of a transfer.
    pub(super) heard: Nanos,
}

/// When an operation was sent and acknowledged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) sent: Nanos,
    /// [`NEVER`] when the outcome is not known.
    pub(super) acked: Nanos,
}

/// A statement of the bulk writer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bulk {
    pub(super) span: Span,
    pub(super) rows: u64,
}

/// What a guest had written to a disk by some moment.
#[derive(Debug, Clone)]
pub(super) struct BlockStats {
    pub(super) t: Nanos,
    pub(super) disk: String,
    pub(super) writes: u64,
    pub(super) bytes: u64,
}

/// What belongs to one cycle of freeze, snapshot and thaw alone.
#[derive(Debug, Clone, Default)]
pub(super) struct Cycle {
    /// The history is complete for it: it has the next cycle's first line, or its own last.
    pub(super) complete: bool,
    /// When it began; 0 for the first.
    pub(super) begin: Nanos,
    /// When the next one began, if there is one.
    pub(super) until: Option<Nanos>,
    pub(super) marks: Marks,
    pub(super) probes: Vec<Probe>,
    pub(super) block_stats: Vec<BlockStats>,
    /// Where the server said its write-ahead log ended, in the order of the history.
    pub(super) wal_ends: Vec<WalEnd>,
    pub(super) backup_modes: Option<BackupModes>,
    /// What went through the agent's channel, as it was answered.
    pub(super) commands: Vec<AgentCommand>,
    pub(super) copies: Vec<CopyInstant>,
    pub(super) traced: Vec<DiskWrites>,
}

/// Where the source's write-ahead log ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct WalEnd {
    pub(super) asked: Nanos,
    pub(super) answered: Nanos,
    pub(super) lsn: Lsn,
}

/// What the source's write-ahead log shows of backup modes.
#[derive(Debug, Clone)]
pub(super) struct BackupModes {
    /// When it had been read.
    pub(super) t: Nanos,
    /// From where, and up to where.
    pub(super) from: Lsn,
    pub(super) to: Lsn,
    /// Those that ended in order.
    pub(super) ended: Vec<BackupMode>,
}

/// A backup mode of PostgreSQL that ended in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BackupMode {
    /// The redo pointer of the checkpoint with which it began.
    pub(super) start: Lsn,
    /// Where the record of its end lies.
    pub(super) end: Lsn,
}

/// What the agent reported about its guest.
#[derive(Debug, Clone, Default)]
pub(super) struct ReportedGuest {
    pub(super) windows: bool,
    /// How many volumes the freeze must reach.
    pub(super) volumes: Option<u32>,
}

/// A directory of the server, as the server sees it.
#[derive(Debug, Clone)]
pub(super) struct ServerDirectory {
    pub(super) holds: Holds,
    pub(super) path: String,
    pub(super) fs: String,
    /// The file system of the image that holds it, which the snapshot has.
    pub(super) on: Option<String>,
    /// The agent's mount table names its device.
    pub(super) reached: bool,
}

/// When the trial crossed the marks of the freeze window.
#[derive(Debug, Clone, Default)]
pub(super) struct Marks {
    /// F0.
    pub(super) freeze_call: Option<Nanos>,
    /// F1.
    pub(super) freeze_ok: Option<Nanos>,
    /// How many file systems or volumes the freeze said it reached.
    pub(super) frozen_volumes: Option<u32>,
    pub(super) freeze_err: Option<Nanos>,
    pub(super) freeze_detail: String,
    /// S0.
    pub(super) snap_begin: Option<Nanos>,
    /// S1.
    pub(super) snap_end: Option<Nanos>,
    /// T0: the first call.
    pub(super) thaw_call: Option<Nanos>,
    /// T1, when the first call was answered with success.
    pub(super) thaw_ok: Option<Nanos>,
    /// When the first call was answered with a failure.
    pub(super) thaw_err: Option<Nanos>,
    pub(super) thaw_detail: String,
    /// How many file systems or volumes the thaw said it thawed.
    pub(super) thawed_volumes: Option<u32>,
}

/// Rows and checksum of tables, by their names.
pub(super) type Tables = BTreeMap<String, (u64, Option<u64>)>;

/// What the snapshot's disks and the restored server held.
#[derive(Debug, Default)]
pub(super) struct Observation {
    /// It has its last line.
    pub(super) complete: bool,
    pub(super) server: Option<RestoredServer>,
    pub(super) filesystems: Vec<RawFileSystem>,
    pub(super) checked_disks: Vec<DiskCheckResult>,
    pub(super) table_files: Vec<TableFile>,
    /// How many index files there are.
    pub(super) table_files_there: Option<u32>,
    pub(super) unreadable: Vec<UnreadablePart>,
    /// Transfers committed in the binary logs, as `(client, number)`.
    pub(super) logged: Vec<(u32, u32)>,
    /// The end of the last binary log.
    pub(super) log_end: Option<LogPosition>,
    /// The server had not closed it.
    pub(super) log_in_use: bool,
    /// Binary logs that could not be read to their end.
    pub(super) cut_logs: Vec<UnreadablePart>,
    /// The recorded position, and the GTIDs beside it.
    pub(super) position: Option<LogPosition>,
    pub(super) position_gtid: String,
    pub(super) gtids: BTreeMap<ServerState, String>,
    /// The same of the write-ahead log.
    pub(super) wal_position: Option<WalPosition>,
    /// The last checkpoint that the control file names.
    pub(super) checkpoint: Option<Checkpoint>,
    /// Up to where the restored server found its write-ahead log.
    pub(super) recovered_to: Option<RecoveredTo>,
    /// Rows and checksum of every table of a server.
    pub(super) tables: BTreeMap<ServerState, Tables>,
    pub(super) roll_forward: Option<RollForward>,
    pub(super) heartbeats: BTreeMap<String, Heartbeats>,
    pub(super) ddl_tables: Option<Vec<String>>,
    pub(super) bulk: BTreeMap<u32, BulkRows>,
    pub(super) checks: Vec<TableCheckResult>,
    pub(super) indexes: Vec<Index>,
    pub(super) memory_rows: Option<u64>,
    /// The rows of the quiescence probes that are there.
    pub(super) probe_rows: Option<Vec<u32>>,
    /// `(client, number)`.
    pub(super) counters: Vec<(u32, u32)>,
    pub(super) accounts: Vec<RestoredAccount>,
    pub(super) legs: Vec<RestoredLeg>,
    pub(super) rows: Vec<RestoredRow>,
    /// Tables that could not be read to their end.
    pub(super) cut_tables: Vec<UnreadablePart>,
    /// Those of them that do not exist according to the server.
    pub(super) gone_tables: Vec<String>,
}

/// The recorded position in a write-ahead log.
#[derive(Debug, Clone, Copy)]
pub(super) struct WalPosition {
    pub(super) timeline: u32,
    /// Where the backup mode began, if the hook recorded any.
    pub(super) start: Option<Lsn>,
    /// Up to where the log was flushed.
    pub(super) lsn: Lsn,
}

/// The last checkpoint on a raw disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checkpoint {
    pub(super) redo: Lsn,
    pub(super) timeline: u32,
    /// The server was stopped cleanly.
    pub(super) shut_down: bool,
}

/// Where the restored server's recovery ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecoveredTo {
    pub(super) timeline: u32,
    pub(super) lsn: Lsn,
}

/// What became of replaying the source's logs.
#[derive(Debug)]
pub(super) struct RollForward {
    pub(super) applied: bool,
    pub(super) detail: String,
}

/// The heartbeats in the file of a disk.
#[derive(Debug)]
pub(super) struct Heartbeats {
    /// Records 1 to this are there.
    pub(super) count: u32,
    /// What follows them.
    pub(super) rest: String,
}

/// The rows of a bulk statement that are there.
#[derive(Debug, Clone, Copy)]
pub(super) struct BulkRows {
    pub(super) rows: u64,
    pub(super) torn: u64,
}

/// Whether the restored server came up.
#[derive(Debug)]
pub(super) struct RestoredServer {
    pub(super) started: bool,
    pub(super) detail: String,
    pub(super) prepared: Option<u64>,
    /// Its engine recovered from a crash.
    pub(super) recovered: Option<bool>,
    /// Errors in its log about corruption.
    pub(super) corruption: Vec<String>,
}

/// A file system on a raw disk.
#[derive(Debug)]
pub(super) struct RawFileSystem {
    pub(super) disk: String,
    pub(super) kind: String,
    pub(super) dirty: bool,
}

/// A disk on which a file system check ran.
#[derive(Debug)]
pub(super) struct DiskCheckResult {
    pub(super) disk: String,
    pub(super) clean: bool,
    pub(super) detail: String,
}

/// The header of an index file of MyISAM or Aria.
#[derive(Debug)]
pub(super) struct TableFile {
    pub(super) file: String,
    /// The table of the load whose file it is.
    pub(super) table: Option<String>,
    pub(super) open_count: u16,
}

/// A place in the binary logs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LogPosition {
    pub(super) file: String,
    pub(super) byte: u64,
}

/// The outcome of `CHECK TABLE`.
#[derive(Debug)]
pub(super) struct TableCheckResult {
    pub(super) table: String,
    pub(super) engine: String,
    pub(super) clean: bool,
    pub(super) usable: bool,
    pub(super) messages: Vec<String>,
}

/// Rows and the XOR of a column, by the primary key and by a secondary index.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) table: String,
    pub(super) index: String,
    pub(super) primary: [u64; 2],
    pub(super) secondary: [u64; 2],
}

/// A file or table that could not be read, and why.
#[derive(Debug)]
pub(super) struct UnreadablePart {
    pub(super) what: String,
    pub(super) why: String,
}

/// A restored account.
#[derive(Debug, Clone, Copy)]
pub(super) struct RestoredAccount {
    pub(super) id: u32,
    pub(super) balance: i64,
    pub(super) version: u32,
}

/// A restored leg of a transfer.
#[derive(Debug, Clone, Copy)]
pub(super) struct RestoredLeg {
    pub(super) c: u32,
    pub(super) n: u32,
    pub(super) leg: u8,
    pub(super) dep: [u32; 2],
    pub(super) account: u32,
    pub(super) amount: i64,
    pub(super) version: u32,
    pub(super) crc: u32,
    pub(super) sum: u32,
}

/// A restored row of a follower's table.
#[derive(Debug, Clone, Copy)]
pub(super) struct RestoredRow {
    /// Its place among the followers.
    pub(super) table: u8,
    pub(super) c: u32,
    pub(super) n: u32,
    /// The transfer that it follows.
    pub(super) of: [u32; 2],
    pub(super) crc: u32,
    pub(super) sum: u32,
}

impl Bulk {
    /// It was executed to its end, and only part of its rows are there.
    pub(super) fn is_torn(&self, held: BulkRows) -> bool {
        self.span.acked != NEVER && 0 < held.rows && held.rows < self.rows
    }
}

impl Span {
    /// It was acknowledged before this time.
    pub(super) fn acked_before(&self, time: Nanos) -> bool {
        self.acked < time
    }
}

impl SentTransfer {
    /// It was acknowledged.
    pub(super) fn is_acked(&self) -> bool {
        self.acked != NEVER
    }

    /// One of the two legs, as the transfer `n` of client `c` sent it. There is
    /// no third.
    pub(super) fn leg(&self, c: u32, n: u32, leg: u8) -> SentLeg {
        let side = usize::from(leg & 1);
        let (account, amount) = (self.accounts[side], self.amounts[side]);
        SentLeg { c, n, leg, dep: self.dep, account, amount, crc: self.crc }
    }
}

impl RestoredLeg {
    /// What a client must have sent for this leg to be there.
    pub(super) fn as_sent(&self) -> SentLeg {
        let Self { c, n, leg, dep, account, amount, crc, .. } = *self;
        SentLeg { c, n, leg, dep, account, amount, crc }
    }
}

impl Case {
    /// Every transfer that was acknowledged or may have taken effect, as
    /// `(client, number, transfer)`.
    pub(super) fn transfers(&self) -> impl Iterator<Item = (u32, u32, &SentTransfer)> {
        (1u32..).zip(&self.clients).flat_map(|(c, client)| {
            (1u32..).zip(&client.transfers).map(move |(n, transfer)| (c, n, transfer))
        })
    }

    /// The client that writes the rows of a follower.
    pub(super) fn client_of(&self, table: u8) -> u32 {
        self.setup.writers + 1 + u32::from(table)
    }

    /// The place of the follower whose rows a client writes; a writer of transfers has none.
    pub(super) fn follower_of(&self, c: u32) -> Option<u8> {
        let at = c.checked_sub(self.setup.writers + 1)?;
        u8::try_from(at).ok().filter(|at| usize::from(*at) < self.setup.followers.len())
    }

    /// A client's way to the server, by its place.
    pub(super) fn door_of(&self, c: u32) -> u8 {
        match self.follower_of(c) {
            Some(table) => self.setup.followers[usize::from(table)].door,
            // The setup has 1 to 16.
            None => (c.saturating_sub(1) % self.setup.doors.len().max(1) as u32) as u8,
        }
    }

    /// Switches to another cycle, counted from 1; a cycle that never began has no marks.
    pub(super) fn choose(&mut self, cycles: &[Cycle], cycle: u32) {
        self.cycle = slot(cycle).and_then(|at| cycles.get(at)).cloned().unwrap_or_default();
        let so_far = cycles.iter().take(cycle as usize);
        self.probed = so_far.flat_map(|cycle| &cycle.probes).filter_map(|probe| probe.row).collect();
        self.observation = None;
        self.place = [cycle, u32::try_from(cycles.len()).unwrap_or(u32::MAX)];
    }

    /// The client with this number, if it sent anything.
    pub(super) fn client(&self, c: u32) -> Option<&SentByClient> {
        self.clients.get(slot(c)?)
    }

    /// The transfer with this number, unless it was never sent or always rolled back.
    pub(super) fn transfer(&self, c: u32, n: u32) -> Option<&SentTransfer> {
        self.client(c)?.transfers.get(slot(n)?)
    }

    /// The bulk statement with this number, if it was sent.
    pub(super) fn bulk_statement(&self, n: u32) -> Option<&Bulk> {
        self.bulk.get(slot(n)?)
    }

    /// The name of a follower table.
    pub(super) fn follower(&self, table: u8) -> &str {
        self.setup.followers.get(usize::from(table)).map_or("?", |follower| follower.table.as_str())
    }

    /// The row with this number that was sent to a follower's table.
    pub(super) fn row(&self, table: u8, n: u32) -> Option<&SentFollowerRow> {
        self.client(self.client_of(table))?.rows.get(slot(n)?)
    }
}

/// Where the thing numbered `n`, counted from 1, stands in its vector.
pub(super) fn slot(n: u32) -> Option<usize> {
    usize::try_from(n.checked_sub(1)?).ok()
}

/// A row sent to a follower's table.
#[derive(Debug, Clone, Copy)]
pub(super) struct SentRow<'a> {
    pub(super) c: u32,
    pub(super) n: u32,
    /// Its follower's place.
    pub(super) table: u8,
    pub(super) row: &'a SentFollowerRow,
    pub(super) there: bool,
}
