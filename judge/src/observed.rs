//! Takes the records of an observation into a [`Case`], and refuses whatever no
//! honest observer could have written.

use contract::history::Quiescence;
use contract::observation::Record;

use super::assemble::follower;
use super::case::{
    BulkRows, Case, Checkpoint, DiskCheckResult, Heartbeats, Index, LogPosition, Observation, RawFileSystem,
    RecoveredTo, RestoredAccount, RestoredLeg, RestoredRow, RestoredServer, RollForward, TableCheckResult,
    TableFile, UnreadablePart, WalPosition,
};
use super::dishonest::Accepted;

impl Case {
    /// Begins the observation.
    pub(super) fn observe(&mut self) {
        self.observation = Some(Observation::default());
    }

    /// Takes the next record of the observation.
    #[expect(clippy::too_many_lines, reason = "one arm for each kind of record")]
    pub(super) fn record(&mut self, record: Record) -> Accepted {
        let observation = self.observation.get_or_insert_default();
        if observation.complete {
            return Err(
                "a record after `end`; two observations were joined, or the lines are out of order".into()
            );
        }
        of_this_server(&record, self.setup.quiescence)?;
        match record {
            Record::FileSystem { disk, fs, dirty } => {
                observation.filesystems.push(RawFileSystem { disk, kind: fs, dirty });
            }
            Record::Fsck { disk, clean, detail } => {
                observation.checked_disks.push(DiskCheckResult { disk, clean, detail });
            }
            Record::TableFile { file, table, open_count } => {
                observation.table_files.push(TableFile { file, table, open_count });
            }
            Record::TableFiles { files } => {
                if observation.table_files_there.replace(files).is_some() {
                    return Err("a second `table_files` record; a server has one data directory".into());
                }
            }
            Record::Unreadable { path, detail } => {
                observation.unreadable.push(UnreadablePart { what: path, why: detail });
            }
            Record::BinlogTransfer { c, n } => observation.logged.push((c, n)),
            Record::BinlogEnd { file, size, in_use } => {
                observation.log_in_use = in_use;
                if observation.log_end.replace(LogPosition { file, byte: size }).is_some() {
                    return Err("a second `binlog_end` record; a snapshot has one last log".into());
                }
            }
            Record::BinlogError { file, error, .. } => {
                observation.cut_logs.push(UnreadablePart { what: file, why: error });
            }
            Record::Position { file, pos, gtid } => {
                observation.position_gtid = gtid;
                if observation.position.replace(LogPosition { file, byte: pos }).is_some() {
                    return Err("a second `position` record; a hook leaves one".into());
                }
            }
            Record::WalPosition { timeline, start, lsn } => {
                if observation.wal_position.replace(WalPosition { timeline, start, lsn }).is_some() {
                    return Err("a second `wal_position` record; a hook leaves one".into());
                }
            }
            Record::Checkpoint { redo, timeline, shut_down } => {
                if observation.checkpoint.replace(Checkpoint { redo, timeline, shut_down }).is_some() {
                    return Err("a second `checkpoint` record; a control file names one".into());
                }
            }
            Record::WalEnd { timeline, lsn } => {
                if observation.recovered_to.replace(RecoveredTo { timeline, lsn }).is_some() {
                    return Err("a second `wal_end` record; an observation is of one boot".into());
                }
            }
            Record::Server { started, detail, prepared, recovered, recovery: _, corruption } => {
                if observation.server.is_some() {
                    return Err("a second `server` record; an observation is of one boot".into());
                }
                observation.server =
                    Some(RestoredServer { started, detail, prepared, recovered, corruption });
            }
            Record::CheckTable { table, engine, clean, usable, messages } => {
                observation.checks.push(TableCheckResult { table, engine, clean, usable, messages });
            }
            Record::Index { table, index, primary, secondary } => {
                observation.indexes.push(Index { table, index, primary, secondary });
            }
            Record::MemoryRows { rows } => {
                if observation.memory_rows.is_some() {
                    return Err("a second `memory_rows` record; an observation is of one boot".into());
                }
                observation.memory_rows = Some(rows);
            }
            Record::ProbeRows { rows } => {
                if observation.probe_rows.replace(rows).is_some() {
                    return Err("a second `probe_rows` record; an observation is of one boot".into());
                }
            }
            Record::Counter { c, n } => observation.counters.push((c, n)),
            Record::Account { id, balance, ver } => {
                observation.accounts.push(RestoredAccount { id, balance, version: ver });
            }
            Record::Leg { c, n, leg, dep, acct, amt, ver, crc, sum } => {
                observation.legs.push(RestoredLeg {
                    c,
                    n,
                    leg,
                    dep,
                    account: acct,
                    amount: amt,
                    version: ver,
                    crc,
                    sum,
                });
            }
            Record::Follow { table, c, n, of, crc, sum } => {
                observation.rows.push(RestoredRow {
                    table: follower(&self.setup, &table)?,
                    c,
                    n,
                    of,
                    crc,
                    sum,
                });
            }
            Record::Heartbeats { disk, count, rest } => {
                let name = super::evidence::quote(&disk);
                if observation.heartbeats.insert(disk, Heartbeats { count, rest }).is_some() {
                    return Err(
                        format!("a second `heartbeats` record of disk `{name}`; it has one file").into()
                    );
                }
            }
            Record::DdlTables { tables } => {
                if observation.ddl_tables.replace(tables).is_some() {
                    return Err("a second `ddl_tables` record; an observation is of one boot".into());
                }
            }
            Record::Bulk { n, rows, torn } => {
                if observation.bulk.insert(n, BulkRows { rows, torn }).is_some() {
                    return Err(format!(
                        "a second `bulk` record of statement {n}; its rows are counted once"
                    )
                    .into());
                }
            }
            Record::Gtid { of, gtid } => {
                if observation.gtids.insert(of, gtid).is_some() {
                    return Err("a second `gtid` record of the same server and moment".into());
                }
            }
            Record::Table { of, table, rows, checksum } => {
                let name = super::evidence::quote(&table);
                if observation.tables.entry(of).or_default().insert(table, (rows, checksum)).is_some() {
                    return Err(
                        format!("a second `table` record of `{name}` of the same server and moment").into()
                    );
                }
            }
            Record::RollForward { applied, detail } => {
                if observation.roll_forward.replace(RollForward { applied, detail }).is_some() {
                    return Err("a second `roll_forward` record; it is tried once".into());
                }
            }
            Record::TableError { table, error, gone } => {
                observation.gone_tables.extend(gone.then(|| table.clone()));
                observation.cut_tables.push(UnreadablePart { what: table, why: error });
            }
            Record::End => observation.complete = true,
        }
        Ok(())
    }
}

/// A server has a binary log or a write-ahead log, and its own records of either.
fn of_this_server(record: &Record, quiescence: Quiescence) -> Accepted {
    let foreign = match (record, quiescence) {
        (
            Record::BinlogTransfer { .. }
            | Record::BinlogEnd { .. }
            | Record::BinlogError { .. }
            | Record::Position { .. }
            | Record::Gtid { .. },
            Quiescence::BackupMode,
        ) => "binary",
        (
            Record::WalPosition { .. } | Record::Checkpoint { .. } | Record::WalEnd { .. },
            Quiescence::Lock,
        ) => "write-ahead",
        _ => return Ok(()),
    };
    Err(format!("a record of a {foreign} log, which the server has not according to the setup").into())
}
