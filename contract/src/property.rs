//! The properties that a verdict rests on: one row of one table each.
//!
//! A row is everything about a property, including the function of the judge that checks it,
//! so that adding one is one place and forgetting a column does not compile. This
//! module makes the vocabulary of the table; the judge makes the call from the last column.

use serde::{Deserialize, Serialize};

use crate::grade::Grade;
use crate::image::Database;

/// Hands the table to a macro. The columns:
///
/// - `id`: the letter of the judge's design; `name`: what explains itself, and how it is serialized
/// - `claim`: what holds when the property holds; `on_postgresql`: what it means there; `source`: why a
///   backup must satisfy it; `needs`: the evidence without which it is not examined
/// - `ceiling`: the best grade of a backup that breaks it; a finding may be worse, never better. The top grade
///   means that it is about the conduct of a backup tool, and lowers no grade
/// - `rank`: its place among the findings with the same ceiling, 1 for the most telling
/// - `needed_for`: the worst grade that is not given while it is unexamined; `None` for no grade
/// - `owed`: the condition, a function of `judge::owed`, on which a trial owes its evidence
/// - `check`: the function of the judge that checks it
#[macro_export]
macro_rules! with_properties {
    ($make:ident) => {
        $make! {
            Starts {
                id: "R0",
                name: "starts",
                claim: "The restored disks pass their file system checks and the server starts \
from them.",
                on_postgresql: "The same; what must be known is where the server keeps its data and its \
write-ahead log.",
                source: "What any backup is for. A directory that lies on none of the snapshot's \
disks, such as a tmpfs, is in no backup, whatever the server starts from.",
                needs: "the server's start, the check of every file system, and where the server \
keeps its directories",
                ceiling: Unusable,
                rank: 3,
                needed_for: CrashConsistent,
                owed: always,
                check: boot::starts,
            }
            Checksums {
                id: "R1",
                name: "checksums",
                claim: "Every restored row matches its own checksum and is the row that a client \
sent.",
                on_postgresql: "The same.",
                source: "End-to-end checksums: the CRC-32 of each payload is computed before it is \
sent and again after it is read back.",
                needs: "at least one row",
                ceiling: Unusable,
                rank: 4,
                needed_for: CrashConsistent,
                owed: always,
                check: rows::checksums,
            }
            Atomicity {
                id: "R2",
                name: "atomicity",
                claim: "Every transfer and every bulk statement is there whole or not at all, and \
nothing that was rolled back is there.",
                on_postgresql: "The same for transfers; there is no bulk statement, because a \
transaction protects every table.",
                source: "Atomicity of a transaction. A statement on a MyISAM table is no \
transaction, but a lock waits for its end, so a freeze that succeeded \
keeps it whole as well, unless it was killed.",
                needs: "the ledger",
                ceiling: Inconsistent,
                rank: 6,
                needed_for: CrashConsistent,
                owed: always,
                check: rows::atomicity,
            }
            Conservation {
                id: "R3",
                name: "conservation",
                claim: "No money appeared or vanished: every account's balance and version are \
exactly those of its legs.",
                on_postgresql: "The same.",
                source: "The bank test of Jepsen, made exact: an account's balance is its opening \
balance plus its legs, its version is their number, and their versions run \
from 1 without a gap.",
                needs: "the ledger and the accounts",
                ceiling: Inconsistent,
                rank: 9,
                needed_for: CrashConsistent,
                owed: always,
                check: rows::conservation,
            }
            IndexAgreement {
                id: "R4",
                name: "index-agreement",
                claim: "Every secondary index holds the same rows as its table.",
                on_postgresql: "The same.",
                source: "InnoDB's change buffer and MyISAM's separate index file can both lag \
behind the rows. Count and checksum are read once by the primary key and \
once by the index.",
                needs: "both readings of every index of the load, over the rows that were read, \
with sums that could have differed",
                ceiling: Unusable,
                rank: 5,
                needed_for: CrashConsistent,
                owed: always,
                check: rows::index_agreement,
            }
            ClientPrefix {
                id: "R5",
                name: "client-prefix",
                claim: "Every client's transfers are there from the first to the one its counter \
names, without a hole, and so are the changes of the schema.",
                on_postgresql: "The same.",
                source: "Numbers are dense, because a transfer that is rolled back passes its \
number on, and the counter is written in the same transaction: the \
restored data certify themselves.",
                needs: "the ledger, the counters, the followers' transactional tables, and the \
list of tables where the schema was changed",
                ceiling: Inconsistent,
                rank: 10,
                needed_for: CrashConsistent,
                owed: always,
                check: rows::client_prefix,
            }
            Durability {
                id: "D",
                name: "durability",
                claim: "Every transfer and schema change acknowledged before the snapshot began is \
there.",
                on_postgresql: "The same, also where the server acknowledges what it has not flushed \
(synchronous_commit off).",
                source: "Durability of an acknowledged commit.",
                needs: "the beginning of the snapshot, the ledger and the followers' transactional \
tables",
                ceiling: Inconsistent,
                rank: 8,
                needed_for: CrashConsistent,
                owed: always,
                check: cut::durability,
            }
            QuiescedDurability {
                id: "D*",
                name: "quiesced-durability",
                claim: "Every transfer and schema change acknowledged before the thaw was called \
is there.",
                on_postgresql: "The same: on a frozen file system a durable commit hangs in the write \
of the log, so what is acknowledged inside the window was flushed before.",
                source: "What a held lock means: nothing commits under it, so what is acknowledged \
inside the window was committed before, and only its answer travelled \
late.",
                needs: "a window, the ledger and the followers' transactional tables",
                ceiling: CrashConsistent,
                rank: 29,
                needed_for: ApplicationConsistent,
                owed: always,
                check: cut::quiesced_durability,
            }
            NoFuture {
                id: "F",
                name: "no-future",
                claim: "Nothing is there that was sent after the snapshot was complete, or that \
nobody sent.",
                on_postgresql: "The same.",
                source: "Causality. It catches a restore that opened live storage, an image that \
went on being written, and an observation of another trial.",
                needs: "the end of the snapshot and the rows",
                ceiling: Inconsistent,
                rank: 7,
                needed_for: CrashConsistent,
                owed: always,
                check: cut::no_future,
            }
            NoFutureStrict {
                id: "F*",
                name: "no-future-strict",
                claim: "Nothing is there that was sent after the freeze had returned.",
                on_postgresql: "The same: a commit that hangs in the write of the log has not reached \
the disk.",
                source: "What a held lock means, from the other side: a write that is there \
was executed under the lock, whether it was acknowledged or not. The \
quiescence probes are such writes.",
                needs: "a freeze that returned, and the rows, those of the probes among them",
                ceiling: CrashConsistent,
                rank: 30,
                needed_for: ApplicationConsistent,
                owed: always,
                check: cut::no_future_strict,
            }
            RealTimeOrder {
                id: "C1",
                name: "real-time-order",
                claim: "No transfer or schema change is missing that was acknowledged before one \
that is there was sent.",
                on_postgresql: "The same.",
                source: "Linearizability (Herlihy and Wing, 1990), applied to a cut instead of a run.",
                needs: "the ledger and the followers' transactional tables",
                ceiling: Inconsistent,
                rank: 11,
                needed_for: CrashConsistent,
                owed: always,
                check: order::real_time_order,
            }
            CausalOrder {
                id: "C2",
                name: "causal-order",
                claim: "Every transfer that another had read as committed is there if that other \
is.",
                on_postgresql: "The same.",
                source: "Lamport's happened-before. Each transfer stores another that its client \
had read first, so the restored rows certify this without a clock, also \
where an outcome is unknown.",
                needs: "the ledger and the followers' transactional tables",
                ceiling: Inconsistent,
                rank: 12,
                needed_for: CrashConsistent,
                owed: always,
                check: order::causal_order,
            }
            VersionOrder {
                id: "C3",
                name: "version-order",
                claim: "The versions of every account that are there are the first of its history, \
without a gap.",
                on_postgresql: "The same.",
                source: "The recoverable version order of Elle (Kingsbury and Alvaro, 2020).",
                needs: "the ledger, and acknowledgements that name versions",
                ceiling: Inconsistent,
                rank: 13,
                needed_for: CrashConsistent,
                owed: always,
                check: order::version_order,
            }
            WindowSilence {
                id: "Q1",
                name: "window-silence",
                claim: "No write was both sent and acknowledged between the freeze's return and \
the call of the thaw.",
                on_postgresql: "The same, although the frozen file system keeps writes out and no lock \
does.",
                source: "What a lock means. Such a write can only have been executed while the \
guest was said to be frozen, so this has no false alarm.",
                needs: "a window; without a freeze, writes sent and acknowledged while the \
snapshot was taken",
                ceiling: CrashConsistent,
                rank: 25,
                needed_for: ApplicationConsistent,
                owed: always,
                check: quiet::window_silence,
            }
            LockProbe {
                id: "Q2",
                name: "lock-probe",
                claim: "A write sent inside the window was refused by a lock of the server.",
                on_postgresql: "A COMMIT sent through every door before the snapshot had no answer when \
it was complete, and the server was in backup mode by its own write-ahead log: one that began between \
the call of the freeze and the snapshot, and ended in order after the last position before the thaw.",
                source: "The thread states in MySQL's and MariaDB's manuals: a COMMIT waits for \
FLUSH TABLES WITH READ LOCK and BACKUP STAGE BLOCK_COMMIT, and for no lock \
of a table. It hangs, and the server names no lock, when only the file \
system is frozen.",
                needs: "through every door, a COMMIT that the server said was waiting from before \
the snapshot until after it; or a server that was stopped cleanly",
                ceiling: CrashConsistent,
                rank: 24,
                needed_for: ApplicationConsistent,
                owed: always,
                check: quiet::lock_probe,
            }
            DiskSilence {
                id: "Q3",
                name: "disk-silence",
                claim: "The freeze reached every volume, and no disk was written between its \
return and the call of the thaw.",
                on_postgresql: "The same.",
                source: "QEMU's own count of the guest's write requests (query-blockstats), which \
neither the guest nor its agent can touch.",
                needs: "the counts of every disk before and after the snapshot, inside the window",
                ceiling: CrashConsistent,
                rank: 26,
                needed_for: ApplicationConsistent,
                owed: always,
                check: quiet::disk_silence,
            }
            LockIdentity {
                id: "Q4",
                name: "lock-identity",
                claim: "The thaw confirms that the lock taken at the freeze was held until then.",
                on_postgresql: "The thaw succeeded, and the session that had begun backup mode at the \
freeze ended it only then.",
                source: "A hook that cannot prove at thaw that the session which took the lock \
still holds it must fail the thaw. Its success counts for nothing without \
a witness: COMMITs that were still waiting just before the thaw.",
                needs: "the thaw's answer and count, and a lock that was observed",
                ceiling: CrashConsistent,
                rank: 22,
                needed_for: ApplicationConsistent,
                owed: unless_stopped,
                check: quiet::lock_identity,
            }
            NonTransactionalDurability {
                id: "N1",
                name: "non-transactional-durability",
                claim: "Every acknowledged row of the non-transactional tables is there, and none \
without its transfer.",
                on_postgresql: "Not applicable: a transaction protects every table that outlives a \
crash.",
                source: "MyISAM acknowledges from the page cache; and the order between engines: \
the client sends the row only after its transfer was acknowledged.",
                needs: "the rows, and an acknowledgement of each table before the snapshot",
                ceiling: CrashConsistent,
                rank: 17,
                needed_for: CrashConsistent,
                owed: with_non_transactional_tables,
                check: tables::durability,
            }
            TablesClosed {
                id: "N2",
                name: "tables-closed",
                claim: "Every MyISAM table was flushed and closed on the disk before the snapshot \
was taken.",
                on_postgresql: "Not applicable: the write-ahead log restores every page, so no table \
must be closed.",
                source: "The header of a .MYI or .MAI file, whose open count the engine writes when \
a table is first changed, and clears when FLUSH TABLES closes it.",
                needs: "the header of every such file below the data directory, read from the raw \
image",
                ceiling: CrashConsistent,
                rank: 23,
                needed_for: ApplicationConsistent,
                owed: with_tables_to_close,
                check: tables::closed,
            }
            TableCheck {
                id: "N3",
                name: "table-check",
                claim: "The server finds no fault in any table, with automatic repair off.",
                on_postgresql: "The same, by amcheck, over every table of the load and its indexes.",
                source: "CHECK TABLE ... EXTENDED, with automatic repair off, because the default \
repairs silently and hides the damage; and what the server logged of \
corruption when it started.",
                needs: "the check of every table of the load, and the log of the server's start",
                ceiling: CrashConsistent,
                rank: 28,
                needed_for: CrashConsistent,
                owed: with_tables_to_check,
                check: tables::check,
            }
            BinlogAgreement {
                id: "B1",
                name: "binlog-agreement",
                claim: "The binary log and the tables hold the same transfers.",
                on_postgresql: "Not applicable: there is no binary log; the tables are recovered from \
the write-ahead log itself.",
                source: "The two-phase commit between engine and binary log: recovery commits what \
the log has and rolls back what it has not.",
                needs: "the binary logs of the raw image, read to their end, and the ledger",
                ceiling: Inconsistent,
                rank: 15,
                needed_for: ApplicationConsistent,
                owed: with_binlog,
                check: binlog::agreement,
            }
            RecordedPosition {
                id: "B2",
                name: "recorded-position",
                claim: "The recorded binary log position is the end of the log in the snapshot, \
and the recorded GTIDs are those of the restored server.",
                on_postgresql: "The snapshot's write-ahead log reaches the recorded position on the \
same timeline, its last checkpoint is not older than the recorded backup mode, and that is the one \
which covered the window.",
                source: "The hook asks the server for the position under its lock, so nothing may \
follow it in the image.",
                needs: "a freeze that succeeded and a recorded position, which a hook does not owe",
                ceiling: CrashConsistent,
                rank: 32,
                needed_for: None,
                owed: always,
                check: binlog::recorded_position,
            }
            RollForward {
                id: "B3",
                name: "roll-forward",
                claim: "Replaying the live binary log from the recorded position leads to the live \
data.",
                on_postgresql: "Replaying the live write-ahead log from the recorded position leads to \
the live data.",
                source: "Point-in-time recovery, the reason why a position is recorded at all.",
                needs: "a freeze that succeeded, the replay, and every table of the load on both \
sides",
                ceiling: Inconsistent,
                rank: 16,
                needed_for: None,
                owed: always,
                check: binlog::roll_forward,
            }
            NoPreparedTransactions {
                id: "L1",
                name: "no-prepared-transactions",
                claim: "Recovery found no transaction that was prepared but not committed in the \
engine's log.",
                on_postgresql: "The restored server lists no prepared transaction; the load prepares \
none.",
                source: "The two-phase commit between InnoDB and the binary log: a hook that \
flushes the engine's log under its lock leaves no prepared transaction, so \
one that is left was in flight.",
                needs: "the server's recovery log",
                ceiling: CrashConsistent,
                rank: 31,
                needed_for: ApplicationConsistent,
                owed: always,
                check: boot::no_prepared_transactions,
            }
            FilesystemClean {
                id: "L2",
                name: "filesystem-clean",
                claim: "The file systems on the raw snapshot have nothing left in their journals \
to replay.",
                on_postgresql: "The same.",
                source: "The kernel's FIFREEZE, which empties the journal. Something left to replay \
proves that the freeze skipped this file system, or that somebody thawed \
it before.",
                needs: "every file system of the raw image, read before anything mounts it",
                ceiling: CrashConsistent,
                rank: 27,
                needed_for: ApplicationConsistent,
                owed: always,
                check: boot::filesystem_clean,
            }
            OutsideFiles {
                id: "X1",
                name: "outside-files",
                claim: "Files outside the database hold every record that was synced before the \
thaw, none that was requested after the freeze, and end whole.",
                on_postgresql: "The same.",
                source: "fsync(2), on a file outside the database, so that a disk that the freeze \
or the snapshot skipped shows.",
                needs: "heartbeats on every file system that were answered shortly before the \
freeze, and the file of each",
                ceiling: CrashConsistent,
                rank: 33,
                needed_for: ApplicationConsistent,
                owed: with_file_systems,
                check: disks::outside_files,
            }
            DiskAgreement {
                id: "X2",
                name: "disk-agreement",
                claim: "All disks of the snapshot show one and the same instant.",
                on_postgresql: "The same.",
                source: "A disk stopped after the last heartbeat that it holds was sent, and before \
the first that it lacks was acknowledged. Intervals that meet in pairs \
meet in a point (Helly).",
                needs: "heartbeats on two disks",
                ceiling: Inconsistent,
                rank: 14,
                needed_for: ApplicationConsistent,
                owed: with_several_file_systems,
                check: disks::agreement,
            }
            FreshBoot {
                id: "M",
                name: "fresh-boot",
                claim: "What was observed is a freshly booted guest and not the live one.",
                on_postgresql: "The same, by rows of an UNLOGGED table that name the server's process: \
after a start there are none of that process.",
                source: "MySQL's MEMORY engine, whose tables are empty after a server start: a row \
in one means that the live guest was observed, or a copy of its memory.",
                needs: "the row count of a MEMORY table",
                ceiling: Unknown,
                rank: 1,
                needed_for: CrashConsistent,
                owed: always,
                check: boot::fresh_boot,
            }
            HeededFreeze {
                id: "T1",
                name: "heeded-freeze",
                claim: "A backup tool that says that its backup is good had asked the agent to freeze the \
guest, and the agent had done so.",
                on_postgresql: "The same.",
                source: "Exit code 0 is the tool's claim of a good backup, and guest-fsfreeze-freeze is the \
only way from outside to quiesce a guest.",
                needs: "the end of the backup command, and the commands in the agent's channel",
                ceiling: CrashConsistent,
                rank: 18,
                needed_for: CrashConsistent,
                owed: always,
                check: conduct::heeded_freeze,
            }
            HeededThaw {
                id: "T2",
                name: "heeded-thaw",
                claim: "A backup tool that says that its backup is good had an answer to its thaw, and that \
was no error.",
                on_postgresql: "The same.",
                source: "A hook that cannot prove that its lock was held until the thaw fails the thaw, and \
that is its only word about the backup.",
                needs: "the end of the backup command, and a thaw in the agent's channel",
                ceiling: CrashConsistent,
                rank: 19,
                needed_for: ApplicationConsistent,
                owed: always,
                check: conduct::heeded_thaw,
            }
            ThawedGuest {
                id: "T3",
                name: "thawed-guest",
                claim: "The guest was not frozen when the backup command had ended, however it ended.",
                on_postgresql: "The same.",
                source: "A frozen guest serves nobody, and nothing but another command ever thaws it.",
                needs: "a look at the guest after the end of the backup command, and the commands in the agent's \
channel",
                ceiling: ApplicationConsistent,
                rank: 34,
                needed_for: None,
                owed: always,
                check: conduct::thawed_guest,
            }
            CopyInstant {
                id: "T4",
                name: "copy-instant",
                claim: "The copy of every disk is of a moment inside the freeze window.",
                on_postgresql: "The same.",
                source: "QEMU's own events: a backup job copies the disk of the moment at which it was created, a \
mirror that of the moment at which it was completed.",
                needs: "a window, and the event of every disk, which an external snapshot does not have",
                ceiling: CrashConsistent,
                rank: 20,
                needed_for: None,
                owed: always,
                check: witness::copy_instant,
            }
            TracedSilence {
                id: "T5",
                name: "traced-silence",
                claim: "QEMU traced no write of the guest between the freeze's answer and the thaw's request.",
                on_postgresql: "The same.",
                source: "QEMU's trace of the guest's requests, which shows each write and its time.",
                needs: "a window, and the trace of it",
                ceiling: CrashConsistent,
                rank: 21,
                needed_for: None,
                owed: always,
                check: witness::traced_silence,
            }
            NothingLeft {
                id: "T6",
                name: "nothing-left",
                claim: "The backup command left no job, no other disk source and no scratch file behind.",
                on_postgresql: "The same.",
                source: "libvirt runs one job at a time on a domain, and a disk that stays on an overlay grows \
beside the backup: what is left makes the next backup fail.",
                needs: "a look at the domain after the end of the backup command",
                ceiling: ApplicationConsistent,
                rank: 36,
                needed_for: None,
                owed: always,
                check: conduct::nothing_left,
            }
            NextBackup {
                id: "T7",
                name: "next-backup",
                claim: "No backup failed after the one before it had left something behind.",
                on_postgresql: "The same.",
                source: "A backup is one of a series, which nobody watches.",
                needs: "a backup before it, and a look at what that left",
                ceiling: ApplicationConsistent,
                rank: 35,
                needed_for: None,
                owed: always,
                check: conduct::next_backup,
            }
            WholeRestore {
                id: "T8",
                name: "whole-restore",
                claim: "The restore command succeeds and hands back every disk, of the size that it had, whole, \
and without leaning on the source's files.",
                on_postgresql: "The same.",
                source: "A backup is for the day on which the source is gone. The source's files are out of reach \
while the restore command runs.",
                needs: "the end of the restore command, and a look at every disk",
                ceiling: Inconsistent,
                rank: 2,
                needed_for: CrashConsistent,
                owed: always,
                check: handed_back::whole_restore,
            }
            UntouchedImage {
                id: "T9",
                name: "untouched-image",
                claim: "The files from which the guest was made are what they were before the backup.",
                on_postgresql: "The same.",
                source: "A tool that merges layers may write into files that other guests lean on.",
                needs: "a comparison of the image's files after the trial",
                ceiling: ApplicationConsistent,
                rank: 37,
                needed_for: None,
                owed: always,
                check: conduct::untouched_image,
            }
            ShortStall {
                id: "T10",
                name: "short-stall",
                claim: "The backup kept writers waiting for no more than a minute.",
                on_postgresql: "The same.",
                source: "The load's acknowledgements. libvirt sets no limit to a freeze, so nothing else bounds \
how long writers wait for a tool.",
                needs: "acknowledged transfers around the backup",
                ceiling: ApplicationConsistent,
                rank: 38,
                needed_for: None,
                owed: always,
                check: conduct::short_stall,
            }
        }
    };
}

/// The enum, and the accessors of each variant.
macro_rules! vocabulary {
    ($($variant:ident {
        id: $id:literal,
        name: $name:literal,
        claim: $claim:literal,
        on_postgresql: $on_postgresql:literal,
        source: $source:literal,
        needs: $needs:literal,
        ceiling: $ceiling:ident,
        rank: $rank:literal,
        needed_for: $needed_for:ident,
        owed: $owed:ident,
        check: $module:ident::$function:ident,
    })*) => {
        /// The properties that a verdict rests on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Property {
            $(#[doc = $claim] #[serde(rename = $name)] $variant,)*
        }

        impl Property {
            /// Every property, in the order of its letter.
            pub const ALL: [Self; [$($id),*].len()] = [$(Self::$variant),*];

            /// The letter of the judge's design: `D*`.
            pub const fn id(self) -> &'static str {
                match self { $(Self::$variant => $id),* }
            }

            /// The name that explains itself: `quiesced-durability`. Also how it is serialized.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// What holds when the property holds, in one sentence.
            pub const fn claim(self) -> &'static str {
                match self { $(Self::$variant => $claim),* }
            }

            /// What the claim means for a backup of PostgreSQL, in one sentence.
            pub const fn on_postgresql(self) -> &'static str {
                match self { $(Self::$variant => $on_postgresql),* }
            }

            /// Why a backup must satisfy the claim.
            pub const fn source(self) -> &'static str {
                match self { $(Self::$variant => $source),* }
            }

            /// The evidence without which it is not examined.
            pub const fn needs(self) -> &'static str {
                match self { $(Self::$variant => $needs),* }
            }

            /// The best grade that a backup can have which breaks this property. A
            /// finding may be worse than that, never better.
            pub const fn ceiling(self) -> Grade {
                match self { $(Self::$variant => Grade::$ceiling),* }
            }

            /// Its place among the findings that allow the same grade: 1 for the most telling.
            pub const fn rank(self) -> u8 {
                match self { $(Self::$variant => $rank),* }
            }

            /// The worst grade that is not given while this property is unexamined.
            pub const fn needed_for(self) -> Option<Grade> {
                match self { $(Self::$variant => needed_for!($needed_for)),* }
            }
        }
    };
}

macro_rules! needed_for {
    (None) => {
        None
    };
    ($grade:ident) => {
        Some(Grade::$grade)
    };
}

with_properties!(vocabulary);

impl Property {
    /// Whether a trial on this database can examine it at all.
    pub fn applies_to(self, database: Database) -> bool {
        let elsewhere =
            matches!(self, Self::NonTransactionalDurability | Self::TablesClosed | Self::BinlogAgreement);
        database != Database::Postgresql || !elsewhere
    }

    /// Whether it is about a backup tool: without one, it is not examined at all.
    pub const fn is_of_tools(self) -> bool {
        matches!(
            self,
            Self::HeededFreeze
                | Self::HeededThaw
                | Self::ThawedGuest
                | Self::CopyInstant
                | Self::TracedSilence
                | Self::NothingLeft
                | Self::NextBackup
                | Self::WholeRestore
                | Self::UntouchedImage
                | Self::ShortStall
        )
    }

    /// Whether it is about the conduct of a backup tool, which says nothing about the backup: no grade is
    /// lower for it.
    pub const fn is_conduct(self) -> bool {
        matches!(self.ceiling(), Grade::ApplicationConsistent)
    }
}

impl std::fmt::Display for Property {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_properties_have_the_same_letter_name_claim_or_rank() {
        for of in [Property::id, Property::name, Property::claim] {
            assert_eq!(Property::ALL.map(of).into_iter().collect::<BTreeSet<_>>().len(), Property::ALL.len());
        }
        assert_eq!(
            Property::ALL.map(Property::rank).into_iter().collect::<BTreeSet<_>>().len(),
            Property::ALL.len()
        );
    }

    #[test]
    fn claims_and_sources_are_sentences() {
        for property in Property::ALL {
            assert!(property.claim().ends_with('.') && property.source().ends_with('.'), "{property}");
            assert!(property.on_postgresql().ends_with('.'), "{property}");
            assert!(!property.needs().ends_with('.'), "{property}");
        }
    }

    #[test]
    fn what_is_about_tools_is_known_by_its_letter_and_conduct_lowers_no_grade() {
        let conduct = ["T3", "T6", "T7", "T9", "T10"];
        for property in Property::ALL {
            assert_eq!(property.is_of_tools(), property.id().starts_with('T'), "{property}");
            assert_eq!(property.is_conduct(), conduct.contains(&property.id()), "{property}");
            assert!(!property.is_conduct() || property.needed_for().is_none(), "{property}");
        }
    }

    #[test]
    fn what_does_not_apply_says_so() {
        for property in Property::ALL {
            let applies = property.applies_to(Database::Postgresql);
            assert_eq!(applies, !property.on_postgresql().starts_with("Not applicable"), "{property}");
            assert!(property.applies_to(Database::Mariadb), "{property}");
        }
    }
}
