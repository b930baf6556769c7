//! PostgreSQL.
//!
//! It has no lock that keeps commits out. A hook puts it into backup mode, and the frozen file
//! system keeps commits out: they hang in the write of the write-ahead log. The transactional tables
//! are its only ones; an UNLOGGED table stands for a table in memory, because it touches no disk and
//! no crash leaves it a row.

use std::net::SocketAddr;

use contract::history::{Follower, Lsn, ProbeAnswer, ProbeKind, Quiescence, Schema, Table, ddl_tables};
use contract::scenario::{Load, Profile};

use super::connection::{Route, Row, SqlResult};
use super::dialect::{Activity, By, Dialect, LogLine, Recovery};
use super::doors::{IMAGE_SCHEMA, SOCKET_ADMIN};
use crate::names::{Account, Names, table};

/// PostgreSQL, from 14 on.
#[derive(Debug)]
pub(super) struct Postgresql;

/// How the access method of its tables is called.
const ENGINE: &str = "heap";

/// A tablespace of this name, where there is one, gets everything of the second schema.
const TABLESPACE: &str = "second";

/// SQLSTATE 55P03, `lock_not_available`: `lock_timeout` was over.
const LOCK_TIMEOUT: &str = "55P03";

/// SQLSTATEs with which a server ends a connection: 57P01 to 57P05 (shut down, crash of another
/// process, not ready, database dropped, idle), 25P03 and 25P04 (idle, or long, in a transaction).
const ENDED: [&str; 7] = ["57P01", "57P02", "57P03", "57P04", "57P05", "25P03", "25P04"];

/// SQLSTATEs that say that there is no such schema (3F000) or table (42P01).
const GONE: [&str; 2] = ["3F000", "42P01"];

/// What a server prints when it starts from data that it had not shut down.
const RECOVERS: [&str; 3] = [
    "database system was interrupted",
    "database system was not properly shut down",
    "automatic recovery in progress",
];

/// Words that mark an error as one about corruption.
const CORRUPTION: [&str; 6] = [
    "invalid page",
    "checksum",
    "corrupt",
    "could not read block",
    "could not access status of transaction",
    "invalid primary checkpoint record",
];

impl Postgresql {
    fn create_account(Account { user, password }: &Account, options: &str) -> String {
        format!("CREATE ROLE {user} LOGIN {options} PASSWORD '{password}';\n")
    }
}

impl Dialect for Postgresql {
    fn route(&self, address: SocketAddr, account: &Account, schema: Option<&str>) -> Route {
        let mut config = tokio_postgres::Config::new();
        config
            .host(address.ip().to_string())
            .port(address.port())
            .user(&account.user)
            .password(&account.password)
            .dbname(schema.unwrap_or(IMAGE_SCHEMA))
            .application_name("freezeframe");
        Route::Postgresql(address, Box::new(config))
    }

    fn quiescence(&self) -> Quiescence {
        Quiescence::BackupMode
    }

    fn root_client(&self) -> &'static str {
        "runuser -u postgres -- psql -X -q -A -t -F \"$(printf '\\t')\" -v ON_ERROR_STOP=1 -d freezeframe"
    }

    fn grant(&self, names: &Names) -> String {
        let Names { load, second, ordinary, administrator, .. } = names;
        let user = &ordinary.user;
        format!(
            "{}{}CREATE SCHEMA {load} AUTHORIZATION {user};\nCREATE SCHEMA {second} AUTHORIZATION {user};\n\
             DO $$ BEGIN IF EXISTS (SELECT FROM pg_tablespace WHERE spcname = '{TABLESPACE}') THEN \
             GRANT CREATE ON TABLESPACE {TABLESPACE} TO {user}; END IF; END $$;\n",
            Self::create_account(ordinary, ""),
            Self::create_account(administrator, "SUPERUSER"),
        )
    }

    fn grant_observer(&self, names: &Names) -> String {
        Self::create_account(&names.observer, "SUPERUSER")
    }

    fn socket(&self) -> &'static str {
        "SELECT trim(split_part(current_setting('unix_socket_directories'), ',', 1)) || '/.s.PGSQL.' || \
         current_setting('port');\n"
    }

    fn data_directory(&self) -> &'static str {
        "SHOW data_directory;\n"
    }

    fn directories(&self) -> &'static str {
        "SELECT 'data', current_setting('data_directory');
SELECT 'redo', 'pg_wal';
SELECT 'data', 'pg_tblspc/' || oid FROM pg_tablespace WHERE pg_tablespace_location(oid) <> '';
"
    }

    fn profile(&self, profile: Profile) -> &'static str {
        match profile {
            Profile::Durable | Profile::InnodbOnly | Profile::MixedEngines | Profile::Bulk => "",
            // As long as a commit may take to reach the disk.
            Profile::Relaxed => {
                "ALTER SYSTEM SET synchronous_commit = off;
                 ALTER SYSTEM SET wal_writer_delay = '10s';
                 SELECT pg_reload_conf();"
            }
        }
    }

    fn followers(&self, _: Profile) -> Vec<Follower> {
        vec![Follower {
            table: "second_tx".to_owned(),
            engine: ENGINE.to_owned(),
            transactional: true,
            schema: Schema::Second,
            door: SOCKET_ADMIN,
            indexes: vec!["crc".to_owned()],
        }]
    }

    fn tables(&self, load: &Load) -> Vec<Table> {
        let made = |table: &str, indexes: &[&str]| Table {
            table: table.to_owned(),
            engine: ENGINE.to_owned(),
            indexes: indexes.iter().map(|index| (*index).to_owned()).collect(),
        };
        let mut tables = vec![
            made(table::COUNTERS, &[]),
            made(table::ACCOUNTS, &[]),
            made(table::LEDGER, &["rnd", "acct"]),
        ];
        if load.data_mib > 0 {
            tables.push(made(table::BIG, &[]));
        }
        tables
    }

    /// BIGINT where a number may need 32 bits, of which a PostgreSQL INTEGER has one for the sign.
    fn create(&self, names: &Names, load: &Load, followers: &[Follower]) -> Vec<String> {
        let name = |plain: &str| names.table(plain);
        let index = |plain: &str, column: &str, columns: &str| {
            let called = format!("{}_{column}", names.without_schema(plain));
            format!("CREATE INDEX {called} ON {} ({columns})", name(plain))
        };
        let ledger = table::LEDGER;
        let mut statements = vec![
            format!("CREATE TABLE {} (c BIGINT PRIMARY KEY, seq BIGINT NOT NULL)", name(table::COUNTERS)),
            format!(
                "CREATE TABLE {} (id BIGINT PRIMARY KEY, bal BIGINT NOT NULL, ver BIGINT NOT NULL)",
                name(table::ACCOUNTS)
            ),
            format!(
                "CREATE TABLE {} (c BIGINT, seq BIGINT, leg SMALLINT, dc BIGINT NOT NULL, dseq BIGINT NOT NULL, \
                 acct BIGINT NOT NULL, amt BIGINT NOT NULL, ver BIGINT NOT NULL, pay BYTEA NOT NULL, \
                 crc BIGINT NOT NULL, rnd BIGINT NOT NULL, PRIMARY KEY (c, seq, leg))",
                name(ledger)
            ),
            // `rnd` makes a secondary index change at random places.
            index(ledger, "rnd", "rnd"),
            index(ledger, "acct", "acct, amt"),
            format!(
                "CREATE UNLOGGED TABLE {} (id BIGINT PRIMARY KEY, n BIGINT NOT NULL, \
                 started TIMESTAMPTZ NOT NULL DEFAULT pg_postmaster_start_time())",
                name(table::PROBE)
            ),
            format!("INSERT INTO {} VALUES (1, 0)", name(table::PROBE)),
        ];
        for plain in self.probe_tables() {
            statements.push(format!(
                "CREATE TABLE {} (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n BIGINT NOT NULL)",
                name(plain)
            ));
        }
        for plain in ddl_tables(0) {
            statements.push(self.create_small(&name(&plain)));
        }
        for Follower { table, .. } in followers {
            statements.push(format!(
                "CREATE TABLE {} (c BIGINT, n BIGINT, of_c BIGINT NOT NULL, of_n BIGINT NOT NULL, \
                 crc BIGINT NOT NULL, pay BYTEA NOT NULL, PRIMARY KEY (c, n))",
                name(table)
            ));
            // It covers everything that is compared through it, so only the index is read.
            statements.push(index(table, "crc", "crc, c, n"));
        }
        if load.data_mib > 0 {
            statements.push(format!(
                "CREATE TABLE {} (id BIGINT PRIMARY KEY, ver BIGINT NOT NULL, pay BYTEA NOT NULL)",
                name(table::BIG)
            ));
        }
        statements.push(into_tablespace(&names.second));
        statements
    }

    fn create_small(&self, real: &str) -> String {
        format!("CREATE TABLE {real} (n BIGINT PRIMARY KEY)")
    }

    fn fill(&self, real: &str, first: u32, end: u32) -> String {
        format!(
            "INSERT INTO {real} SELECT n, 0, decode(repeat(md5(n::text), 31), 'hex') || decode(repeat(md5(n::text), 31), 'hex') \
             FROM generate_series({first}, {end} - 1) n"
        )
    }

    fn churn(&self, real: &str, first: u32, last: u32) -> String {
        format!(
            "UPDATE {real} SET ver = ver + 1, pay = decode(repeat(md5((id + ver)::text), 62), 'hex') \
             WHERE id BETWEEN {first} AND {last}"
        )
    }

    fn keeps_binlog(&self) -> Option<&'static str> {
        None
    }

    fn bytes(&self, digits: &str) -> String {
        format!("'\\x{digits}'")
    }

    fn rename(&self, from: &str, to: &str) -> String {
        let without_schema = to.rsplit('.').next().unwrap_or(to);
        format!("ALTER TABLE {from} RENAME TO {without_schema}")
    }

    fn probe_tables(&self) -> &'static [&'static str] {
        &[table::PROBE_TX, table::SECOND_PROBE_TX]
    }

    fn probes_rows(&self) -> bool {
        false
    }

    fn before_memory_probe(&self) -> &'static [&'static str] {
        &["SET lock_timeout = '1s'"]
    }

    fn activity(&self) -> &'static str {
        "SELECT pid, wait_event_type || ': ' || wait_event, query FROM pg_stat_get_activity(NULL)"
    }

    fn read_activity(&self, row: &Row) -> SqlResult<Activity> {
        Ok(Activity { connection: row.get(0)?, state: row.text(1)?, statement: row.text(2)? })
    }

    /// A lock of the heavy kind, which statements such as LOCK TABLE take; see the manual,
    /// "Wait Event Types".
    fn waits_for_lock(&self, _: ProbeKind, state: &str) -> bool {
        state.starts_with("Lock: ")
    }

    /// One process writes, and the others wait for it; `Wal` and `WAL` differ between releases.
    fn waits_for_log(&self, state: &str) -> bool {
        let (kind, event) = state.split_once(": ").unwrap_or_default();
        matches!(kind, "IO" | "LWLock") && event.to_ascii_uppercase().starts_with("WAL")
    }

    /// There is no lock that would block commits.
    fn requests_lock(&self, _: &Activity) -> bool {
        false
    }

    fn refusal(&self, code: &str) -> ProbeAnswer {
        match code {
            LOCK_TIMEOUT => ProbeAnswer::Locked,
            code if ENDED.contains(&code) => ProbeAnswer::Error,
            _ => ProbeAnswer::Refused,
        }
    }

    /// The account of an image may not ask for the data directory.
    fn identity(&self) -> &'static str {
        "SELECT current_setting('server_version'), 'PostgreSQL', NULL, NULL"
    }

    fn version(&self) -> &'static str {
        "SELECT 'PostgreSQL ' || current_setting('server_version')"
    }

    fn log_file(&self) -> Option<&'static str> {
        None
    }

    /// A server mentions every start, after a crash with one of [`RECOVERS`].
    fn read_log(&self, line: &str) -> LogLine {
        let recovery = if RECOVERS.iter().any(|message| line.contains(message)) {
            Recovery::Recovers
        } else if line.contains("database system was shut down") {
            Recovery::WouldTell
        } else {
            Recovery::Silent
        };
        let grave = ["ERROR:", "FATAL:", "PANIC:", "WARNING:"].iter().any(|level| line.contains(level));
        LogLine {
            recovery,
            prepared: None,
            telling: recovery != Recovery::Silent
                || [
                    "redo starts",
                    "redo done",
                    "redo is not required",
                    "invalid record length",
                    "prepared transaction",
                ]
                .iter()
                .any(|message| line.contains(message)),
            corruption: grave && CORRUPTION.iter().any(|word| line.contains(word)),
        }
    }

    fn prepared(&self) -> Option<&'static str> {
        Some("SELECT count(*) FROM pg_prepared_xacts")
    }

    fn gtids(&self) -> Option<&'static str> {
        None
    }

    fn wal_end(&self) -> Option<&'static str> {
        Some("SELECT timeline_id, redo_lsn - '0/0'::pg_lsn FROM pg_control_checkpoint()")
    }

    fn is_recovering(&self) -> Option<&'static str> {
        Some("SELECT 1 WHERE pg_is_in_recovery()")
    }

    fn list_tables(&self, Names { load, second, .. }: &Names) -> String {
        format!(
            "SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
             WHERE nspname IN ('{load}', '{second}') AND relkind = 'r' AND relpersistence = 'p' ORDER BY nspname, relname"
        )
    }

    fn quoted(&self, schema: &str, table: &str) -> String {
        format!("{schema}.\"{}\"", table.replace('"', "\"\""))
    }

    /// A table's rows have no order, and none are alike, because all have a key.
    fn checksum(&self, real: &str) -> String {
        format!("SELECT bit_xor(hashtextextended(t::text, 0)) FROM {real} t")
    }

    fn read_checksum(&self, row: &Row) -> SqlResult<Option<u64>> {
        let sum: Option<i64> = row.get(0)?;
        Ok(Some(sum.unwrap_or(0).cast_unsigned()))
    }

    fn before_observation(&self) -> Option<&'static str> {
        None
    }

    fn before_checks(&self) -> Option<&'static str> {
        Some("CREATE EXTENSION IF NOT EXISTS amcheck")
    }

    /// See the manual, "amcheck". An index that fails is an error of the statement.
    fn check(&self, real: &str) -> String {
        format!(
            "SELECT 'error', format('block %s: %s', blkno, msg) FROM verify_heapam('{real}', check_toast := true); \
             SELECT 'note', count(bt_index_parent_check(indexrelid, true, true)) || ' indexes' FROM pg_index \
             WHERE indrelid = '{real}'::regclass"
        )
    }

    fn read_check(&self, row: &Row) -> SqlResult<(String, String)> {
        Ok((row.get(0)?, row.get(1)?))
    }

    /// The planner is left no other way. Only the index on the column can answer a condition on it.
    fn index_sum(&self, real: &str, key: &str, column: &str, by: By) -> String {
        let (rows, index) = match by {
            By::Table => ("on", "off"),
            By::Index => ("off", "on"),
        };
        format!(
            "SET enable_seqscan = {rows}; SET enable_bitmapscan = off; SET enable_indexscan = {index}; \
             SET enable_indexonlyscan = {index}; \
             SELECT count(*), coalesce(bit_xor(hashtextextended(concat_ws(',', {key}, {column}), 0)), 0) FROM {real} \
             WHERE {column} IS NOT NULL; \
             RESET enable_seqscan; RESET enable_indexscan; RESET enable_indexonlyscan; RESET enable_bitmapscan"
        )
    }

    fn read_sum(&self, row: &Row, column: usize) -> SqlResult<u64> {
        Ok(row.get::<i64>(column)?.cast_unsigned())
    }

    /// A clean stop keeps an unlogged table, but the next server is another process.
    fn memory_rows(&self, real: &str) -> String {
        format!("SELECT count(*) FROM {real} WHERE started = pg_postmaster_start_time()")
    }

    /// It has no bulk writer: none of its statements can be torn.
    fn bulk_rows(&self, real: &str) -> String {
        format!("SELECT n, count(*), 0 FROM {real} GROUP BY n ORDER BY n")
    }

    fn is_gone(&self, code: &str) -> bool {
        GONE.contains(&code)
    }
}

/// Moves all tables and indexes of a schema into [`TABLESPACE`], if it is there.
fn into_tablespace(schema: &str) -> String {
    format!(
        "DO $$ DECLARE it record; BEGIN \
         IF EXISTS (SELECT FROM pg_tablespace WHERE spcname = '{TABLESPACE}') THEN \
         FOR it IN SELECT oid::regclass AS name, CASE relkind WHEN 'i' THEN 'INDEX' ELSE 'TABLE' END AS kind \
         FROM pg_class WHERE relnamespace = '{schema}'::regnamespace AND relkind IN ('r', 'i') LOOP \
         EXECUTE format('ALTER %s %s SET TABLESPACE {TABLESPACE}', it.kind, it.name); \
         END LOOP; END IF; END $$"
    )
}

/// A position in the write-ahead log as the server writes it: two hexadecimal numbers of 32 bits.
pub(crate) fn lsn(text: &str) -> Option<Lsn> {
    let (high, low) = text.split_once('/')?;
    let half = |text| u32::from_str_radix(text, 16).ok().map(Lsn::from);
    Some(half(high)? << 32 | half(low)?)
}

/// The same, written.
pub(crate) fn lsn_text(lsn: Lsn) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_they_are_written() {
        for (text, number) in [("0/0", 0), ("0/2000028", 0x200_0028), ("1A/FF", 0x1a_0000_00ff)] {
            assert_eq!((lsn(text), &*lsn_text(number)), (Some(number), text));
        }
        for text in ["", "0", "/", "0/x", "0/100000000", "-1/0"] {
            assert_eq!(lsn(text), None, "{text}");
        }
    }

    /// Lines of PostgreSQL 15 and 17, shortened.
    #[test]
    fn a_crash_is_told_from_a_clean_end() {
        let says = |line| Postgresql.read_log(line);
        let crash = says("LOG:  database system was interrupted; last known up at 2026-01-01 UTC");
        assert_eq!((crash.recovery, crash.telling, crash.corruption), (Recovery::Recovers, true, false));
        let clean = says("LOG:  database system was shut down at 2026-01-01 UTC");
        assert_eq!((clean.recovery, clean.corruption), (Recovery::WouldTell, false));
        assert_eq!(says("LOG:  listening on IPv4 address").recovery, Recovery::Silent);
        assert!(says("WARNING:  page verification failed, calculated checksum 1 but expected 2").corruption);
        assert!(says("ERROR:  invalid page in block 0 of relation base/5/16384").corruption);
    }
}
