//! MariaDB and MySQL.

use std::net::SocketAddr;

use contract::history::{Follower, ProbeAnswer, ProbeKind, Quiescence, Schema, Table, ddl_tables};
use contract::image::Database;
use contract::scenario::{Load, Profile};
use mysql_async::OptsBuilder;

use super::connection::{Route, Row, SqlResult};
use super::dialect::{Activity, By, Dialect, LogLine, Recovery};
use super::doors::{SOCKET_ADMIN, TCP};
use crate::bounds::SQL_PACKET;
use crate::names::{Account, Names, table};

/// One of the two.
#[derive(Debug)]
pub(super) struct Mysql {
    database: Database,
}

/// The tables of the quiescence probes on disk, and their engines.
const PROBES: [(&str, &str); 4] = [
    (table::PROBE_TX, "InnoDB"),
    (table::PROBE_NT, "MyISAM"),
    (table::SECOND_PROBE_TX, "InnoDB"),
    (table::SECOND_PROBE_NT, "MyISAM"),
];

/// The follower table for which Aria keeps a log.
const TRANSACTIONAL_ARIA: &str = "art";

/// Error 1205, ER_LOCK_WAIT_TIMEOUT.
const LOCK_WAIT_TIMEOUT: &str = "1205";

/// Errors with which a server ends a connection: 1053 (shutdown), 1927 and 3169 (killed), 4031 (idle).
const ENDED: [&str; 4] = ["1053", "1927", "3169", "4031"];

/// Errors that say that there is no such schema (1049) or table (1146).
const GONE: [&str; 2] = ["1049", "1146"];

/// The states of a thread that waits for a lock of the whole server; a lock of a table may have any
/// cause.
const SERVER_LOCKS: [&str; 3] =
    ["Waiting for backup lock", "Waiting for commit lock", "Waiting for global read lock"];

/// What a server prints when it has something to recover: InnoDB of both, MySQL's binary log even
/// when its log is quiet, MariaDB's binary log, and Aria. (MySQL mentions crash recovery even when
/// there is none.)
const RECOVERS: [&str; 4] = [
    "Starting crash recovery",
    "Starting XA crash recovery",
    "Recovering after a crash using",
    "Aria engine: starting recovery",
];

/// Words that mark an error as one about corruption, in lowercase.
const CORRUPTION: [&str; 6] =
    ["corrupt", "crashed", "checksum", "was not closed", "page number mismatch", "inconsistent"];

const DIGITS: &str = "(SELECT 0 AS i UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 \
                      UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9)";

/// Accounts are not compared, so they stay out of the binary log and take no GTID.
const WITHOUT_BINLOG: &str = "SET SESSION sql_log_bin = 0;\n";

const EVERYTHING: &str = "ALL PRIVILEGES ON *.*";

impl Mysql {
    pub(super) const MARIADB: Self = Self { database: Database::Mariadb };
    pub(super) const MYSQL: Self = Self { database: Database::Mysql };

    fn is_mariadb(&self) -> bool {
        self.database == Database::Mariadb
    }

    /// The statements that create an account.
    fn create_account(&self, Account { user, password }: &Account, grants: &[String]) -> String {
        // MariaDB prefers an anonymous account at `localhost` to this one at `%`. MySQL no longer has
        // anonymous accounts, and caches logins by user and host: see `Target::log_in_once`.
        let hosts: &[&str] = if self.is_mariadb() { &["%", "localhost"] } else { &["%"] };
        let mut statements = String::new();
        for host in hosts {
            statements.push_str(&format!("CREATE USER '{user}'@'{host}' IDENTIFIED BY '{password}';\n"));
            for grant in grants {
                statements.push_str(&format!("GRANT {grant} TO '{user}'@'{host}';\n"));
            }
        }
        statements
    }
}

impl Dialect for Mysql {
    fn route(&self, address: SocketAddr, account: &Account, schema: Option<&str>) -> Route {
        let opts = OptsBuilder::default()
            .ip_or_hostname(address.ip().to_string())
            .tcp_port(address.port())
            .user(Some(&account.user))
            .pass(Some(&account.password))
            .db_name(schema)
            // Otherwise the client would switch to the server's own socket.
            .prefer_socket(false)
            // Otherwise the server would say what is too long.
            .max_allowed_packet(Some(SQL_PACKET));
        Route::Mysql(address, opts.into())
    }

    fn quiescence(&self) -> Quiescence {
        Quiescence::Lock
    }

    fn root_client(&self) -> &'static str {
        "mysql --batch --raw --skip-column-names"
    }

    fn grant(&self, names: &Names) -> String {
        let Names { load, second, ordinary, administrator, .. } = names;
        // The privilege to keep a statement out of the binary log.
        let binlog_control = if self.is_mariadb() { "BINLOG ADMIN" } else { "SESSION_VARIABLES_ADMIN" };
        let grants = [
            format!("ALL PRIVILEGES ON {load}.*"),
            format!("ALL PRIVILEGES ON {second}.*"),
            format!("{binlog_control} ON *.*"),
        ];
        format!(
            "CREATE DATABASE {load};\nCREATE DATABASE {second};\n{WITHOUT_BINLOG}{}{}",
            self.create_account(ordinary, &grants),
            self.create_account(administrator, &[EVERYTHING.to_owned()]),
        )
    }

    fn grant_observer(&self, names: &Names) -> String {
        format!("{WITHOUT_BINLOG}{}", self.create_account(&names.observer, &[EVERYTHING.to_owned()]))
    }

    fn socket(&self) -> &'static str {
        "SELECT @@socket;\n"
    }

    fn data_directory(&self) -> &'static str {
        "SELECT @@datadir;\n"
    }

    fn directories(&self) -> &'static str {
        "SELECT 'data', @@datadir;
SELECT 'redo', IFNULL(@@innodb_log_group_home_dir, '.');
SELECT 'undo', IFNULL(@@innodb_undo_directory, '.');
SELECT 'binlogs', @@log_bin_basename FROM (SELECT 1) AS one WHERE @@log_bin_basename <> '';
"
    }

    fn profile(&self, profile: Profile) -> &'static str {
        match profile {
            Profile::Durable | Profile::InnodbOnly | Profile::MixedEngines | Profile::Bulk => {
                "SET GLOBAL innodb_flush_log_at_trx_commit = 1;
                 SET GLOBAL sync_binlog = 1;"
            }
            // The timeout widens the hole from one second to ten, so that what the
            // freeze does not flush is really lost.
            Profile::Relaxed => {
                "SET GLOBAL innodb_flush_log_at_trx_commit = 0;
                 SET GLOBAL innodb_flush_log_at_timeout = 10;
                 SET GLOBAL sync_binlog = 0;"
            }
        }
    }

    fn followers(&self, profile: Profile) -> Vec<Follower> {
        let follower = |table: &str, engine: &str, schema| Follower {
            table: table.to_owned(),
            engine: engine.to_owned(),
            transactional: engine == "InnoDB",
            schema,
            door: match schema {
                Schema::Load => TCP,
                Schema::Second => SOCKET_ADMIN,
            },
            indexes: vec!["crc".to_owned()],
        };
        let mut followers = vec![follower("second_tx", "InnoDB", Schema::Second)];
        if profile != Profile::InnodbOnly {
            followers.push(follower("nt", "MyISAM", Schema::Load));
            followers.push(follower("second_nt", "MyISAM", Schema::Second));
            if self.is_mariadb() {
                followers.push(follower("ar", "Aria", Schema::Load));
                followers.push(follower("second_ar", "Aria", Schema::Second));
            }
        }
        if profile == Profile::MixedEngines && self.is_mariadb() {
            followers.push(follower(TRANSACTIONAL_ARIA, "Aria", Schema::Load));
        }
        followers
    }

    fn tables(&self, load: &Load) -> Vec<Table> {
        let made = |table: &str, engine: &str, indexes: &[&str]| Table {
            table: table.to_owned(),
            engine: engine.to_owned(),
            indexes: indexes.iter().map(|index| (*index).to_owned()).collect(),
        };
        let mut tables = vec![
            made(table::COUNTERS, "InnoDB", &[]),
            made(table::ACCOUNTS, "InnoDB", &[]),
            made(table::LEDGER, "InnoDB", &["rnd", "acct"]),
        ];
        if load.profile == Profile::Bulk {
            tables.push(made(table::BULK, "MyISAM", &[]));
        }
        if load.data_mib > 0 {
            tables.push(made(table::BIG, "InnoDB", &[]));
        }
        tables
    }

    fn create(&self, names: &Names, load: &Load, followers: &[Follower]) -> Vec<String> {
        let name = |plain: &str| names.table(plain);
        let [counters, accounts, ledger] = [table::COUNTERS, table::ACCOUNTS, table::LEDGER].map(name);
        let mut statements = vec![
            format!(
                "CREATE TABLE {counters} (c INT UNSIGNED PRIMARY KEY, seq INT UNSIGNED NOT NULL) ENGINE=InnoDB"
            ),
            format!(
                "CREATE TABLE {accounts} (id INT UNSIGNED PRIMARY KEY, bal BIGINT NOT NULL, ver INT UNSIGNED NOT NULL) \
                 ENGINE=InnoDB"
            ),
            // `rnd` makes a secondary index change at random places.
            format!(
                "CREATE TABLE {ledger} (c INT UNSIGNED, seq INT UNSIGNED, leg TINYINT UNSIGNED, \
                 dc INT UNSIGNED NOT NULL, dseq INT UNSIGNED NOT NULL, acct INT UNSIGNED NOT NULL, \
                 amt BIGINT NOT NULL, ver INT UNSIGNED NOT NULL, pay VARBINARY(1024) NOT NULL, \
                 crc INT UNSIGNED NOT NULL, rnd INT UNSIGNED NOT NULL, \
                 PRIMARY KEY (c, seq, leg), KEY rnd (rnd), KEY acct (acct, amt)) ENGINE=InnoDB"
            ),
            format!(
                "CREATE TABLE {} (id INT UNSIGNED PRIMARY KEY, n INT UNSIGNED NOT NULL) ENGINE=MEMORY",
                name(table::PROBE)
            ),
            format!("INSERT INTO {} VALUES (1, 0)", name(table::PROBE)),
        ];
        // The quiescence probes have tables of their own, with AUTO_INCREMENT keys: a row written again
        // with a key of its own may meet the first one while that is rolled back, and the check for a
        // duplicate would lock the gap before the next probe's row, which then waits for that instead
        // of the server's lock.
        for (plain, engine) in PROBES {
            statements.push(format!(
                "CREATE TABLE {} (id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY, n INT UNSIGNED NOT NULL) \
                 ENGINE={engine}",
                name(plain)
            ));
        }
        for plain in ddl_tables(0) {
            statements.push(self.create_small(&name(&plain)));
        }
        for follower in followers {
            // The index covers everything that is compared through it, so only the index is read.
            statements.push(format!(
                "CREATE TABLE {} (c INT UNSIGNED, n INT UNSIGNED, of_c INT UNSIGNED NOT NULL, \
                 of_n INT UNSIGNED NOT NULL, crc INT UNSIGNED NOT NULL, pay VARBINARY(1024) NOT NULL, \
                 PRIMARY KEY (c, n), KEY crc (crc, c, n)) ENGINE={}",
                name(&follower.table),
                engine_clause(follower)
            ));
        }
        if load.profile == Profile::Bulk {
            let [bulk, side] = [table::BULK, table::BULK_SIDE].map(name);
            statements.push(format!(
                "CREATE TABLE {bulk} (n INT UNSIGNED, i INT UNSIGNED, pay CHAR(32) NOT NULL, \
                 crc INT UNSIGNED NOT NULL, PRIMARY KEY (n, i)) ENGINE=MyISAM"
            ));
            statements.push(format!("CREATE TABLE {side} (i INT UNSIGNED PRIMARY KEY) ENGINE=InnoDB"));
        }
        if load.data_mib > 0 {
            statements.push(format!(
                "CREATE TABLE {} (id INT UNSIGNED PRIMARY KEY, ver INT UNSIGNED NOT NULL, \
                 pay VARBINARY(1024) NOT NULL) ENGINE=InnoDB",
                name(table::BIG)
            ));
        }
        statements
    }

    fn create_small(&self, real: &str) -> String {
        format!("CREATE TABLE {real} (n INT UNSIGNED PRIMARY KEY) ENGINE=InnoDB")
    }

    fn fill(&self, real: &str, first: u32, end: u32) -> String {
        // In key order, so that pages fill up one after the other, and bypassing the binary log:
        // these rows are part of what a backup starts from.
        format!(
            "SET SESSION sql_log_bin = 0; \
             INSERT INTO {real} SELECT n, 0, REPEAT(MD5(n), 31) FROM \
             (SELECT {first} + 1000 * a.i + 100 * b.i + 10 * c.i + d.i AS n \
              FROM {DIGITS} a CROSS JOIN {DIGITS} b CROSS JOIN {DIGITS} c CROSS JOIN {DIGITS} d) AS made \
             WHERE n < {end} ORDER BY n; \
             SET SESSION sql_log_bin = 1"
        )
    }

    fn churn(&self, real: &str, first: u32, last: u32) -> String {
        format!(
            "UPDATE {real} SET ver = ver + 1, pay = REPEAT(MD5(id + ver), 31) WHERE id BETWEEN {first} AND {last}"
        )
    }

    fn keeps_binlog(&self) -> Option<&'static str> {
        Some("SELECT @@log_bin")
    }

    fn bytes(&self, digits: &str) -> String {
        format!("x'{digits}'")
    }

    fn rename(&self, from: &str, to: &str) -> String {
        format!("RENAME TABLE {from} TO {to}")
    }

    fn probe_tables(&self) -> &'static [&'static str] {
        &[table::PROBE_TX, table::PROBE_NT, table::SECOND_PROBE_TX, table::SECOND_PROBE_NT]
    }

    fn probes_rows(&self) -> bool {
        true
    }

    fn before_memory_probe(&self) -> &'static [&'static str] {
        // Without the binlog the statement cannot touch a disk.
        &["SET SESSION lock_wait_timeout = 1", "SET SESSION sql_log_bin = 0"]
    }

    /// SHOW PROCESSLIST needs no temporary table, which could lie on a frozen disk; without FULL it
    /// shows the first 100 characters of a statement.
    fn activity(&self) -> &'static str {
        "SHOW FULL PROCESSLIST"
    }

    /// The columns are `Id, User, Host, db, Command, Time, State, Info`, and MariaDB's `Progress`.
    fn read_activity(&self, row: &Row) -> SqlResult<Activity> {
        Ok(Activity { connection: row.get(0)?, state: row.text(6)?, statement: row.text(7)? })
    }

    fn waits_for_lock(&self, kind: ProbeKind, state: &str) -> bool {
        match kind {
            ProbeKind::Commit => SERVER_LOCKS.contains(&state),
            ProbeKind::Row | ProbeKind::Memory => state.starts_with("Waiting for") && state.ends_with("lock"),
        }
    }

    fn waits_for_log(&self, _: &str) -> bool {
        false
    }

    /// The statement may hide behind a comment or in a procedure; one that only begins a backup
    /// blocks nobody.
    fn requests_lock(&self, Activity { state, statement, .. }: &Activity) -> bool {
        let statement = statement.to_ascii_uppercase();
        let statement = statement.split_whitespace().collect::<Vec<_>>().join(" ");
        let has = |all: &[&str]| all.iter().all(|part| statement.contains(part));
        let asks = has(&["FLUSH", "READ LOCK"])
            || has(&["BACKUP STAGE FLUSH"])
            || has(&["BACKUP STAGE BLOCK"])
            || has(&["SET", "GLOBAL", "READ_ONLY"])
            || has(&["SET", "PERSIST", "READ_ONLY"]);
        asks && state.starts_with("Waiting for")
    }

    fn refusal(&self, code: &str) -> ProbeAnswer {
        match code {
            LOCK_WAIT_TIMEOUT => ProbeAnswer::Locked,
            code if ENDED.contains(&code) => ProbeAnswer::Error,
            _ => ProbeAnswer::Refused,
        }
    }

    fn identity(&self) -> &'static str {
        "SELECT VERSION(), @@version_comment, @@datadir, IFNULL(@@log_bin_basename, '')"
    }

    fn version(&self) -> &'static str {
        "SELECT VERSION()"
    }

    fn log_file(&self) -> Option<&'static str> {
        Some("SELECT @@log_error")
    }

    /// MariaDB and MySQL report prepared transactions as `Starting recovery for XA transactions...`
    /// followed by `N transaction(s) in prepared state`, and MariaDB's binlog recovery as `Found N
    /// prepared transaction(s) in InnoDB`.
    fn read_log(&self, line: &str) -> LogLine {
        let lower = line.to_lowercase();
        let notes = line.contains("[Note]") && line.contains("InnoDB");
        let recovery = if RECOVERS.iter().any(|message| line.contains(message)) {
            Recovery::Recovers
        } else if notes {
            Recovery::WouldTell
        } else {
            Recovery::Silent
        };
        LogLine {
            recovery,
            prepared: prepared(line).or(notes.then_some(0)),
            telling: ["recover", "prepared", "crash"].iter().any(|word| lower.contains(word)),
            corruption: line.contains("[ERROR]") && CORRUPTION.iter().any(|word| lower.contains(word)),
        }
    }

    fn prepared(&self) -> Option<&'static str> {
        None
    }

    fn gtids(&self) -> Option<&'static str> {
        Some(if self.is_mariadb() { "SELECT @@gtid_binlog_pos" } else { "SELECT @@gtid_executed" })
    }

    fn wal_end(&self) -> Option<&'static str> {
        None
    }

    fn is_recovering(&self) -> Option<&'static str> {
        None
    }

    /// The MEMORY tables are left out: they are not in the binary log.
    fn list_tables(&self, Names { load, second, .. }: &Names) -> String {
        format!(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema IN ('{load}', '{second}') \
             AND table_type = 'BASE TABLE' AND engine <> 'MEMORY' ORDER BY table_schema, table_name"
        )
    }

    fn quoted(&self, schema: &str, table: &str) -> String {
        format!("{schema}.`{}`", table.replace('`', "``"))
    }

    /// The columns are `Table, Checksum`; see the MySQL manual, "CHECKSUM TABLE Statement".
    fn checksum(&self, real: &str) -> String {
        format!("CHECKSUM TABLE {real} EXTENDED")
    }

    fn read_checksum(&self, row: &Row) -> SqlResult<Option<u64>> {
        row.get(1)
    }

    fn before_observation(&self) -> Option<&'static str> {
        Some("SET SESSION net_write_timeout = 86400, net_read_timeout = 86400, wait_timeout = 86400")
    }

    fn before_checks(&self) -> Option<&'static str> {
        None
    }

    fn check(&self, real: &str) -> String {
        format!("CHECK TABLE {real} EXTENDED")
    }

    /// `CHECK TABLE ... EXTENDED` answers with rows of `Table, Op, Msg_type, Msg_text`; see the
    /// MySQL manual, "CHECK TABLE Statement".
    fn read_check(&self, row: &Row) -> SqlResult<(String, String)> {
        Ok((row.text(2)?, row.text(3)?))
    }

    fn index_sum(&self, real: &str, key: &str, column: &str, by: By) -> String {
        let index = match by {
            By::Table => "PRIMARY",
            By::Index => column,
        };
        format!(
            "SELECT COUNT(*), BIT_XOR(CRC32(CONCAT_WS(',', {key}, {column}))) FROM {real} FORCE INDEX ({index})"
        )
    }

    fn read_sum(&self, row: &Row, column: usize) -> SqlResult<u64> {
        row.get(column)
    }

    fn memory_rows(&self, real: &str) -> String {
        format!("SELECT COUNT(*) FROM {real}")
    }

    fn bulk_rows(&self, real: &str) -> String {
        format!("SELECT n, COUNT(*), SUM(crc <> CRC32(pay)) FROM {real} GROUP BY n ORDER BY n")
    }

    fn is_gone(&self, code: &str) -> bool {
        GONE.contains(&code)
    }
}

/// A follower's engine, as its CREATE TABLE statement names it.
fn engine_clause(Follower { table, engine, .. }: &Follower) -> &str {
    match engine.as_str() {
        "Aria" if table == TRANSACTIONAL_ARIA => "Aria TRANSACTIONAL=1",
        "Aria" => "Aria TRANSACTIONAL=0",
        other => other,
    }
}

/// The number in front of `prepared transaction` or `transaction(s) in prepared state`.
fn prepared(line: &str) -> Option<u64> {
    let at = line
        .find(" prepared transaction")
        .or_else(|| line.contains("in prepared state").then(|| line.find(" transaction")).flatten())?;
    line[..at].rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_asked_for_is_not_one_that_is_held() {
        let requests = |statement: &str, state: &str| {
            let (statement, state) = (statement.into(), state.into());
            Mysql::MARIADB.requests_lock(&Activity { connection: 1, state, statement })
        };
        assert!(requests("flush tables WITH READ LOCK", "Waiting for commit lock"));
        assert!(requests("BACKUP STAGE BLOCK_COMMIT", "Waiting for backup lock"));
        assert!(requests("/* x */  FLUSH\nTABLES  WITH READ LOCK", "Waiting for commit lock"));
        assert!(requests("SET GLOBAL super_read_only = ON", "Waiting for global read lock"));
        assert!(
            !requests("UPDATE notes SET read_only = 1", "Waiting for backup lock"),
            "a column of that name"
        );
        assert!(!requests("BACKUP STAGE START", "Waiting for backup lock"));
        assert!(!requests("LOCK INSTANCE FOR BACKUP", "Waiting for backup lock"));
        assert!(!requests("COMMIT", "Waiting for backup lock"));
        assert!(!requests("", ""));
        assert!(!requests("FLUSH ENGINE LOGS", ""));
    }
}
