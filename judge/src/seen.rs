//! Takes the records of an observation into a [`Case`], and refuses whatever no
//! honest observer could have written.

use contract::observation::Record;

use super::build::{Checked, follower};
use super::case::{
    Account, BulkRows, Case, CheckedDisk, CheckedTable, FileSystem, Heartbeats, Index, Leg, Observation,
    Place, RollForward, Row, Server, TableFile, Trouble,
};

impl Case {
    /// Begins the observation.
    pub(super) fn observe(&mut self) {
        self.observation = Some(Observation::default());
    }

    /// Takes the next record of the observation.
    #[expect(clippy::too_many_lines, reason = "one arm for each kind of record")]
    pub(super) fn record(&mut self, record: Record) -> Checked {
        let seen = self.observation.get_or_insert_default();
        if seen.complete {
            return Err(
                "a record after `end`; two observations were joined, or the lines are out of order".into()
            );
        }
        match record {
            Record::FileSystem { disk, fs, dirty } => {
                seen.filesystems.push(FileSystem { disk, kind: fs, dirty });
            }
            Record::Fsck { disk, clean, detail } => {
                seen.checked_disks.push(CheckedDisk { disk, clean, detail });
            }
            Record::TableFile { file, table, open_count } => {
                seen.table_files.push(TableFile { file, table, open_count });
            }
            Record::TableFiles { files } => {
                if seen.table_files_there.replace(files).is_some() {
                    return Err("a second `table_files` record; a server has one data directory".into());
                }
            }
            Record::Unreadable { path, detail } => seen.unreadable.push(Trouble { what: path, why: detail }),
            Record::BinlogTransfer { c, n } => seen.logged.push((c, n)),
            Record::BinlogEnd { file, size, in_use } => {
                seen.log_in_use = in_use;
                if seen.log_end.replace(Place { file, byte: size }).is_some() {
                    return Err("a second `binlog_end` record; a snapshot has one last log".into());
                }
            }
            Record::BinlogError { file, error } => seen.cut_logs.push(Trouble { what: file, why: error }),
            Record::Position { file, pos, gtid } => {
                seen.position_gtid = gtid;
                if seen.position.replace(Place { file, byte: pos }).is_some() {
                    return Err("a second `position` record; a hook leaves one".into());
                }
            }
            Record::Server { started, detail, prepared, recovered, recovery: _, corruption } => {
                if seen.server.is_some() {
                    return Err("a second `server` record; an observation is of one boot".into());
                }
                seen.server = Some(Server { started, detail, prepared, recovered, corruption });
            }
            Record::CheckTable { table, engine, clean, usable, messages } => {
                seen.checks.push(CheckedTable { table, engine, clean, usable, messages });
            }
            Record::Index { table, index, primary, secondary } => {
                seen.indexes.push(Index { table, index, primary, secondary });
            }
            Record::MemoryRows { rows } => {
                if seen.memory_rows.is_some() {
                    return Err("a second `memory_rows` record; an observation is of one boot".into());
                }
                seen.memory_rows = Some(rows);
            }
            Record::ProbeRows { rows } => {
                if seen.probe_rows.replace(rows).is_some() {
                    return Err("a second `probe_rows` record; an observation is of one boot".into());
                }
            }
            Record::Counter { c, n } => seen.counters.push((c, n)),
            Record::Account { id, balance, ver } => seen.accounts.push(Account { id, balance, version: ver }),
            Record::Leg { c, n, leg, dep, acct, amt, ver, crc, sum } => {
                seen.legs.push(Leg { c, n, leg, dep, account: acct, amount: amt, version: ver, crc, sum });
            }
            Record::Follow { table, c, n, of, crc, sum } => {
                seen.rows.push(Row { table: follower(&self.setup, &table)?, c, n, of, crc, sum });
            }
            Record::Heartbeats { disk, count, rest } => {
                let name = super::evidence::quote(&disk);
                if seen.heartbeats.insert(disk, Heartbeats { count, rest }).is_some() {
                    return Err(
                        format!("a second `heartbeats` record of disk `{name}`; it has one file").into()
                    );
                }
            }
            Record::DdlTables { tables } => {
                if seen.ddl_tables.replace(tables).is_some() {
                    return Err("a second `ddl_tables` record; an observation is of one boot".into());
                }
            }
            Record::Bulk { n, rows, torn } => {
                if seen.bulk.insert(n, BulkRows { rows, torn }).is_some() {
                    return Err(format!(
                        "a second `bulk` record of statement {n}; its rows are counted once"
                    )
                    .into());
                }
            }
            Record::Gtid { of, gtid } => {
                if seen.gtids.insert(of, gtid).is_some() {
                    return Err("a second `gtid` record of the same server and moment".into());
                }
            }
            Record::Table { of, table, rows, checksum } => {
                let name = super::evidence::quote(&table);
                if seen.tables.entry(of).or_default().insert(table, (rows, checksum)).is_some() {
                    return Err(
                        format!("a second `table` record of `{name}` of the same server and moment").into()
                    );
                }
            }
            Record::RollForward { applied, detail } => {
                if seen.roll_forward.replace(RollForward { applied, detail }).is_some() {
                    return Err("a second `roll_forward` record; it is tried once".into());
                }
            }
            Record::TableError { table, error, gone } => {
                seen.gone_tables.extend(gone.then(|| table.clone()));
                seen.cut_tables.push(Trouble { what: table, why: error });
            }
            Record::End => seen.complete = true,
        }
        Ok(())
    }
}
