//! What the restored server's own log says about recovery.

use contract::text::printable;

use crate::database::{self, Dialect};

/// The most lines kept.
const LINES: usize = 20;

/// What a server's log of one boot says about recovery.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Recovery {
    /// Transactions that recovery found prepared; `None` as for `recovered`.
    pub(crate) prepared: Option<u64>,
    /// The lines about recovery.
    pub(crate) lines: Vec<String>,
    /// Whether the engine recovered from a crash; `None` when it writes no notes to this log, and
    /// so would not report it.
    pub(crate) recovered: Option<bool>,
    /// The errors about corruption.
    pub(crate) corruption: Vec<String>,
}

/// Reads the log.
pub(crate) fn recovery(dialect: &dyn Dialect, log: &str) -> Recovery {
    let mut found = Recovery::default();
    for line in log.lines() {
        let says = dialect.read_log(line);
        found.prepared = found.prepared.max(says.prepared);
        match says.recovery {
            database::Recovery::Silent => {}
            database::Recovery::WouldTell => {
                found.recovered.get_or_insert(false);
            }
            database::Recovery::Recovers => found.recovered = Some(true),
        }
        if found.corruption.len() < LINES && says.corruption {
            found.corruption.push(printable(line));
        }
        if found.lines.len() < LINES && says.telling {
            found.lines.push(printable(line));
        }
    }
    found
}

/// The current server's part of a log file that is older than the server, from the line that every
/// server begins with; `None` when there is no such line.
pub(super) fn last_start(log: &str) -> Option<&str> {
    let at = log.rfind(" as process ")?;
    Some(&log[log[..at].rfind('\n').map_or(0, |end| end + 1)..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::dialect;
    use contract::image::Database;

    fn recovery(log: &str) -> Recovery {
        super::recovery(dialect(Database::Mariadb), log)
    }

    #[test]
    fn prepared_transactions_are_counted() {
        let log = "2026 0 [Note] Starting table crash recovery...\n\
                   2026 0 [Note] InnoDB: Transaction 57 in prepared state after recovery\n\
                   2026 0 [Note] InnoDB: 3 transaction(s) in prepared state\n\
                   2026 0 [Note] Found 2 prepared transaction(s) in InnoDB\n";
        let found = recovery(log);
        assert_eq!(found.prepared, Some(3));
        assert_eq!(found.lines.len(), 4);
        assert_eq!(recovery("0 [Note] InnoDB: Buffer pool(s) load completed").prepared, Some(0));
        assert_eq!(recovery("Started mysql.service - MySQL Community Server").prepared, None);
    }

    /// Lines of MariaDB 10.11 and MySQL 9.7, shortened.
    #[test]
    fn a_crash_is_told_from_a_clean_end() {
        let recovered = |log: &str| recovery(log).recovered;
        assert_eq!(recovered("Started mariadb.service"), None);
        assert_eq!(recovered("0 [Note] InnoDB: End of log at LSN=44760"), Some(false));
        let crashed = "0 [Note] InnoDB: Using io_uring\n\
                       0 [Note] InnoDB: Starting crash recovery from checkpoint LSN=44744\n\
                       0 [Note] InnoDB: End of log at LSN=501997\n";
        assert_eq!(recovered(crashed), Some(true));
        let clean = "1 [Note] [MY-012532] [InnoDB] Applying a batch of 0 redo log records ...\n\
                     0 [Note] [MY-013911] [Server] Crash recovery finished in InnoDB engine. No attempts to commit.\n";
        assert_eq!(recovered(clean), Some(false));
        let quiet = "1 [System] [MY-013577] [InnoDB] InnoDB initialization has ended.\n\
                     0 [System] [MY-010229] [Server] Starting XA crash recovery...\n";
        assert_eq!(recovered(quiet), Some(true));
        // Without notes, silence proves nothing.
        assert_eq!(recovered("1 [System] [MY-013577] [InnoDB] InnoDB initialization has ended."), None);
    }

    #[test]
    fn a_log_file_tells_of_the_present_server_only() {
        let log = "0 [System] [MY-010116] [Server] mysqld (mysqld 9.7.4-2) starting as process 579\n\
                   0 [System] [MY-010229] [Server] Starting XA crash recovery...\n\
                   0 [System] [MY-010116] [Server] mysqld (mysqld 9.7.4-2) starting as process 3687\n\
                   1 [Note] [MY-012535] [InnoDB] Apply batch completed!\n";
        assert_eq!(recovery(log).recovered, Some(true));
        assert_eq!(recovery(last_start(log).unwrap()).recovered, Some(false));
        assert_eq!(last_start("0 [Note] Starting MariaDB 10.11.6 as process 12").map(str::len), Some(47));
        assert_eq!(last_start("1 [System] [MY-013577] [InnoDB] InnoDB initialization has ended."), None);
    }

    #[test]
    fn errors_that_tell_of_corruption_are_kept() {
        let log = "0 [ERROR] InnoDB: Database page corruption on disk\n\
                   0 [Warning] Checking table: './a/b' is marked as crashed\n\
                   5 [ERROR] mariadbd: Table './a/b' is marked as crashed and should be repaired\n\
                   5 [ERROR] Access denied\n";
        assert_eq!(recovery(log).corruption.len(), 2);
    }
}
