//! What a server flushes and says of itself while its writers wait: asked in one message, because between two of them
//! they would wait for us, and the server for its turn on a busy processor.

use mysql_async::Row;
use mysql_async::prelude::FromValue;

use super::family::Family;
use crate::position::Position;

/// A statement, and what is said of a server that does not answer it.
pub(super) type Step = (&'static str, &'static str);

const FLUSH: Step = ("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS", NOT_FLUSHED);

/// What is said of a server that fails at a step.
pub(super) const NOT_FLUSHED: &str = "did not flush its redo log";
pub(super) const NO_REDO_LOG: &str = "does not say how far its redo log is flushed";
const NO_BINARY_LOG: &str = "does not say its binary log position";

/// How a server says where its redo log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RedoLogSource {
    /// It has none: there is no InnoDB.
    Absent,
    /// Among its status variables. With WHERE instead of LIKE it would work out all of them.
    Variables,
    /// The same in MySQL, which takes several times as long for SHOW.
    Records,
    /// In prose: those before MariaDB 10.5 and MySQL 8.0.30.
    Prose,
}

impl RedoLogSource {
    /// Of a server that has InnoDB.
    pub(super) fn of(family: Family) -> Self {
        if family == Family::Mysql { Self::Records } else { Self::Variables }
    }

    fn statement(self) -> Option<&'static str> {
        match self {
            Self::Absent => None,
            Self::Variables => Some("SHOW GLOBAL STATUS LIKE 'Innodb\\_lsn\\_%'"),
            Self::Records => Some(
                "SELECT variable_name, variable_value FROM performance_schema.global_status WHERE variable_name IN \
                 ('Innodb_redo_log_current_lsn', 'Innodb_redo_log_flushed_to_disk_lsn')",
            ),
            Self::Prose => Some("SHOW ENGINE INNODB STATUS"),
        }
    }

    /// `None` if the answer does not tell.
    fn read(self, rows: &[Row]) -> Option<RedoLog> {
        if self == Self::Prose {
            return redo_log_in(&value::<String>(rows.first()?, 2)?);
        }
        let number = |names: [&str; 2]| {
            let is = |name: String| names.iter().any(|it| name.eq_ignore_ascii_case(it));
            let row = rows.iter().find(|row| value(row, 0).is_some_and(is))?;
            value::<String>(row, 1)?.parse().ok()
        };
        Some(RedoLog {
            current: number(["Innodb_lsn_current", "Innodb_redo_log_current_lsn"])?,
            flushed: number(["Innodb_lsn_flushed", "Innodb_redo_log_flushed_to_disk_lsn"])?,
        })
    }
}

/// Positions in the redo log, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RedoLog {
    current: u64,
    flushed: u64,
}

/// How far a redo log is, bytes.
pub(super) struct Flushed {
    /// Where it was when it was to be flushed.
    pub(super) needed: u64,
    /// Up to where it was on disk then.
    pub(super) reached: u64,
}

/// What the steps came to.
pub(super) struct Status {
    /// If the server has one.
    pub(super) redo_log: Option<Flushed>,
    /// The position in the binary log, if there is one.
    pub(super) binary_log: Position,
}

/// Flushes the redo log, and asks where it and the binary log are.
pub(super) fn steps(redo_log_source: RedoLogSource, family: Family) -> Vec<Step> {
    let redo_log = redo_log_source.statement().map(|statement| (statement, NO_REDO_LOG));
    let binary_log: &[_] = match family {
        // Without any race.
        Family::Mysql => &["SELECT local FROM performance_schema.log_status"],
        Family::OldMysql => &["SELECT REPLACE(@@global.gtid_executed, CHAR(10), '')", "SHOW MASTER STATUS"],
        Family::Mariadb | Family::OldMariadb => &["SELECT @@global.gtid_binlog_pos", "SHOW MASTER STATUS"],
    };
    let binary_log = binary_log.iter().map(|statement| (*statement, NO_BINARY_LOG));
    redo_log.into_iter().chain([FLUSH]).chain(redo_log).chain(binary_log).collect()
}

/// Reads their answers.
///
/// # Errors
///
/// What a server does that answers, and does not tell.
pub(super) fn read(
    redo_log_source: RedoLogSource,
    family: Family,
    answers: &[Vec<Row>],
) -> Result<Status, &'static str> {
    let rows = |at: usize| answers.get(at).map_or(&[][..], Vec::as_slice);
    let position = |at| redo_log_source.read(rows(at));
    let (redo_log, after) = match redo_log_source {
        RedoLogSource::Absent => (None, 1),
        _ => {
            let (before, after) = position(0).zip(position(2)).ok_or(NO_REDO_LOG)?;
            (Some(Flushed { needed: before.current, reached: after.flushed }), 3)
        }
    };
    if rows(after).is_empty() {
        return Err(NO_BINARY_LOG);
    }
    let text = |at, column| value::<String>(rows(at).first()?, column);
    let (file, place, gtid) = match family {
        Family::Mysql => binary_log_in(&text(after, 0).ok_or(NO_BINARY_LOG)?),
        _ => (text(after + 1, 0), text(after + 1, 1), text(after, 0)),
    };
    let facts = [("binlog_file", file), ("binlog_pos", place), ("gtid", gtid)];
    let said = |value: &String| !value.is_empty();
    let binary_log =
        facts.into_iter().filter_map(|(name, value)| Some((name, value.filter(said)?))).collect();
    Ok(Status { redo_log, binary_log })
}

/// A value that is there, and what it should be.
fn value<T: FromValue>(row: &Row, column: usize) -> Option<T> {
    row.get_opt(column)?.ok()
}

/// File, place and GTIDs, in what MySQL says in JSON.
fn binary_log_in(local: &str) -> (Option<String>, Option<String>, Option<String>) {
    let said: serde_json::Value = serde_json::from_str(local).unwrap_or_default();
    (
        said["binary_log_file"].as_str().map(str::to_owned),
        said["binary_log_position"].as_u64().map(|place| place.to_string()),
        said["gtid_executed"].as_str().map(|gtid| gtid.replace('\n', "")),
    )
}

/// What SHOW ENGINE INNODB STATUS says of the redo log.
fn redo_log_in(prose: &str) -> Option<RedoLog> {
    let number = |name: &str| {
        let line = prose.lines().find_map(|line| line.trim_start().strip_prefix(name))?;
        line.trim().parse().ok()
    };
    Some(RedoLog { current: number("Log sequence number")?, flushed: number("Log flushed up to")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_in_the_redo_log_are_numbers() {
        let prose = "---\nLOG\n---\nLog sequence number          99\nLog buffer assigned up to    99\n\
                     Log flushed up to   100\n";
        let log = redo_log_in(prose).unwrap();
        assert!(log.flushed >= log.current);
        assert_eq!(redo_log_in("Log sequence number 99\n"), None);
    }

    #[test]
    fn a_server_without_a_binary_log_has_no_position() {
        let said =
            r#"{"gtid_executed": "a:1-3,\nb:1", "binary_log_file": "b.02", "binary_log_position": 158}"#;
        let text = |it: &str| Some(it.to_owned());
        assert_eq!(binary_log_in(said), (text("b.02"), text("158"), text("a:1-3,b:1")));
        assert_eq!(binary_log_in(r#"{"gtid_executed": ""}"#), (None, None, text("")));
    }
}
