//! What the restored server holds, read over SQL as a stream.

use std::time::Duration;

use contract::history::{Follower, Setup, Table};
use contract::image::{Database, Server};
use contract::observation::{Record, ServerState};
use contract::text::printable;

use super::observation_log::ObservationLog;
use super::server_log::{self, Recovery};
use crate::database::{By, Connection, Dialect, FromText, Row, SqlResult, dialect};
use crate::error::{Error, Result, SqlError};
use crate::guest::{Agent, quote_shell};
use crate::names::{Names, table};

/// The most messages kept of one CHECK TABLE.
const MESSAGES: usize = 10;

/// The most of the server's log that is read, bytes.
const LOG_LIMIT: u32 = 256 * 1024;

/// What a server that holds a load's data should have.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Which server.
    pub database: Database,
    /// What the load set up.
    pub setup: &'a Setup,
    /// The names of its tables.
    pub names: &'a Names,
    /// The most rows that a table can have.
    pub most_rows: u64,
}

impl Expected<'_> {
    fn dialect(&self) -> &'static dyn Dialect {
        dialect(self.database)
    }
}

/// Observes a server that answers: its log, then its tables.
pub async fn server(
    conn: &mut Connection,
    agent: &Agent,
    server: &Server,
    expected: Expected<'_>,
    limit: Duration,
    out: &mut ObservationLog,
) -> Result<()> {
    let dialect = expected.dialect();
    let wal_end = wal_end(conn, dialect).await?;
    let version: Option<String> = value(conn, dialect.version(), "report its version").await?;
    let place = match dialect.log_file() {
        None => None,
        // NULL when it is the journal.
        Some(query) => value::<Option<String>>(conn, query, "report where its log is").await?.flatten(),
    };
    let recovery = recovery(dialect, agent, &server.unit, place.as_deref(), limit)?;
    let prepared = match dialect.prepared() {
        None => recovery.prepared,
        Some(query) => value(conn, query, "count its prepared transactions").await?,
    };
    out.write(&Record::Server {
        started: true,
        detail: printable(&version.unwrap_or_default()),
        prepared,
        recovered: recovery.recovered,
        recovery: recovery.lines,
        corruption: recovery.corruption,
    })?;
    if let Some(record) = wal_end {
        out.write(&record)?;
    }
    if let Some(record) = gtids(conn, dialect, ServerState::Restored).await? {
        out.write(&record)?;
    }
    tables(conn, expected, out).await
}

/// What a server of this unit says about recovery, in its unit's journal or in the file that it logs to.
pub(crate) fn recovery(
    dialect: &dyn Dialect,
    agent: &Agent,
    unit: &str,
    file: Option<&str>,
    limit: Duration,
) -> Result<Recovery> {
    Ok(match file {
        None | Some("" | "stderr") => server_log::recovery(dialect, &journal(agent, unit, limit)?),
        Some(file) => server_log::last_start(&log_file(agent, unit, file, limit)?)
            .map(|log| server_log::recovery(dialect, log))
            .unwrap_or_default(),
    })
}

/// Where the write-ahead log ended that the server recovered from.
async fn wal_end(conn: &mut Connection, dialect: &dyn Dialect) -> Result<Option<Record>> {
    let Some(query) = dialect.wal_end() else { return Ok(None) };
    let read = |row: Row| Ok(Record::WalEnd { timeline: row.get(0)?, lsn: row.get(1)? });
    let record = conn.query_first(query).await.and_then(|row| row.map(read).transpose());
    record.map_err(Error::sql("report where its write-ahead log ended"))
}

/// The only value of an answer.
async fn value<T: FromText>(conn: &mut Connection, query: &str, what: &str) -> Result<Option<T>> {
    conn.query_value(query).await.map_err(Error::sql(what))
}

/// Counts the rows that only the source's memory had. This comes last: the first access to a MEMORY
/// table since the server's start makes MariaDB and MySQL write to their binary log.
pub async fn memory(
    conn: &mut Connection,
    Expected { database, names, .. }: Expected<'_>,
    out: &mut ObservationLog,
) -> Result<()> {
    let dialect = dialect(database);
    let count = dialect.memory_rows(&names.table(table::PROBE));
    let record = match conn.query_value(&count).await {
        Ok(rows) => Record::MemoryRows { rows: rows.unwrap_or(0) },
        Err(error) => table_error(dialect, table::PROBE, error)?,
    };
    Ok(out.write(&record)?)
}

/// The checksum of every table of the load, and the GTIDs, of a server at this moment.
pub async fn state(
    conn: &mut Connection,
    Expected { database, names, .. }: Expected<'_>,
    of: ServerState,
) -> Result<Vec<Record>> {
    let dialect = dialect(database);
    let mut records: Vec<_> = gtids(conn, dialect, of).await?.into_iter().collect();
    let pair = |row: &Row| Ok((row.get(0)?, row.get(1)?));
    let listed = conn.query(&dialect.list_tables(names)).await;
    let there: SqlResult<Vec<(String, String)>> = listed.and_then(|rows| rows.iter().map(pair).collect());
    for (schema, table) in there.map_err(Error::sql("list its tables"))? {
        let named = dialect.quoted(&schema, &table);
        let count = format!("SELECT COUNT(*) FROM {named}");
        let rows: Option<u64> = value(conn, &count, &format!("count the rows of {named}")).await?;
        let summed = conn.query_first(&dialect.checksum(&named)).await;
        let checksum = summed.and_then(|row| row.map_or(Ok(None), |row| dialect.read_checksum(&row)));
        let checksum = checksum.map_err(Error::sql(format!("sum up {named}")))?;
        let table = names.plain(&schema, &table).unwrap_or_else(|| printable(&table));
        records.push(Record::Table { of, table, rows: rows.unwrap_or(0), checksum });
    }
    Ok(records)
}

/// The GTIDs that a server has committed, if it has any such thing.
async fn gtids(conn: &mut Connection, dialect: &dyn Dialect, of: ServerState) -> Result<Option<Record>> {
    let Some(query) = dialect.gtids() else { return Ok(None) };
    let gtid: Option<Option<String>> = value(conn, query, "report its GTIDs").await?;
    let gtid = printable(&gtid.flatten().unwrap_or_default());
    Ok(Some(Record::Gtid { of, gtid }))
}

/// Observes every table of the load except the one in memory.
pub async fn tables(conn: &mut Connection, expected: Expected<'_>, out: &mut ObservationLog) -> Result<()> {
    let Expected { setup, names, most_rows, .. } = expected;
    let dialect = expected.dialect();
    if let Some(statement) = dialect.before_checks() {
        conn.execute(statement).await.map_err(Error::sql("prepare the checks of its tables"))?;
    }
    let name = |plain: &str| names.table(plain);
    let others = setup.tables.iter().map(|Table { table, engine, indexes }| (table, engine, indexes));
    let followers =
        setup.followers.iter().map(|Follower { table, engine, indexes, .. }| (table, engine, indexes));
    let all: Vec<_> = others.chain(followers).collect();
    for (table, engine, _) in &all {
        out.write(&check_table(conn, dialect, table, &name(table), engine).await?)?;
    }
    for (table, _, indexes) in &all {
        for index in *indexes {
            match index_sums(conn, dialect, table, &name(table), index).await {
                Ok(record) => out.write(&record)?,
                Err(error) => out.write(&table_error(dialect, table, error)?)?,
            }
        }
    }

    let mut read = TableReader { conn, dialect, out, most_rows };
    let sql = format!("SELECT c, seq FROM {} ORDER BY c", name(table::COUNTERS));
    let counter = |row: Row| Ok(Record::Counter { c: row.get(0)?, n: row.get(1)? });
    read.rows(table::COUNTERS, &sql, counter).await?;
    let sql = format!("SELECT id, bal, ver FROM {} ORDER BY id", name(table::ACCOUNTS));
    let account = |row: Row| Ok(Record::Account { id: row.get(0)?, balance: row.get(1)?, ver: row.get(2)? });
    read.rows(table::ACCOUNTS, &sql, account).await?;
    let sql = format!(
        "SELECT c, seq, leg, dc, dseq, acct, amt, ver, crc, pay FROM {} ORDER BY c, seq, leg",
        name(table::LEDGER)
    );
    read.rows(table::LEDGER, &sql, leg).await?;
    for Follower { table, .. } in &setup.followers {
        let sql = format!("SELECT c, n, of_c, of_n, crc, pay FROM {} ORDER BY c, n", name(table));
        read.rows(table, &sql, |row| follow(table, &row)).await?;
    }
    let TableReader { conn, out, .. } = read;
    probe_rows(conn, dialect, names, out).await?;
    let listed = conn.query(&names.ddl_tables_query()).await;
    match listed.and_then(|rows| rows.iter().map(|row| row.get(0)).collect::<SqlResult<Vec<String>>>()) {
        Ok(there) => {
            let mut tables: Vec<_> =
                there.iter().filter_map(|table| names.plain(&names.load, table)).collect();
            tables.sort();
            out.write(&Record::DdlTables { tables })?;
        }
        Err(error) => out.write(&table_error(dialect, "information_schema.tables", error)?)?,
    }
    if setup.tables.iter().any(|made| made.table == table::BULK) {
        let sql = dialect.bulk_rows(&name(table::BULK));
        let bulk = |row: Row| Ok(Record::Bulk { n: row.get(0)?, rows: row.get(1)?, torn: row.get(2)? });
        TableReader { conn, dialect, out, most_rows }.rows(table::BULK, &sql, bulk).await?;
    }
    Ok(())
}

fn leg(row: Row) -> SqlResult<Record> {
    let payload: Vec<u8> = row.get(9)?;
    Ok(Record::Leg {
        c: row.get(0)?,
        n: row.get(1)?,
        leg: row.get(2)?,
        dep: [row.get(3)?, row.get(4)?],
        acct: row.get(5)?,
        amt: row.get(6)?,
        ver: row.get(7)?,
        crc: row.get(8)?,
        sum: crc32fast::hash(&payload),
    })
}

fn follow(table: &str, row: &Row) -> SqlResult<Record> {
    let payload: Vec<u8> = row.get(5)?;
    Ok(Record::Follow {
        table: table.to_owned(),
        c: row.get(0)?,
        n: row.get(1)?,
        of: [row.get(2)?, row.get(3)?],
        crc: row.get(4)?,
        sum: crc32fast::hash(&payload),
    })
}

/// Which rows of the quiescence probes are there.
async fn probe_rows(
    conn: &mut Connection,
    dialect: &dyn Dialect,
    names: &Names,
    out: &mut ObservationLog,
) -> Result<()> {
    let mut rows = Vec::new();
    for plain in dialect.probe_tables() {
        let there = conn.query(&format!("SELECT n FROM {}", names.table(plain))).await;
        match there.and_then(|rows| rows.iter().map(|row| row.get(0)).collect::<SqlResult<Vec<u32>>>()) {
            Ok(there) => rows.extend(there),
            Err(error) => out.write(&table_error(dialect, plain, error)?)?,
        }
    }
    rows.sort_unstable();
    Ok(out.write(&Record::ProbeRows { rows })?)
}

/// Records that the restored guest or its server did not come up.
pub fn server_failed(detail: &str, out: &mut ObservationLog) -> Result<()> {
    Ok(out.write(&Record::Server {
        started: false,
        detail: detail.to_owned(),
        prepared: None,
        recovered: None,
        recovery: vec![],
        corruption: vec![],
    })?)
}

/// The server's log of this boot. The images keep the journal in memory, so it has nothing of
/// earlier boots.
fn journal(agent: &Agent, unit: &str, limit: Duration) -> Result<String> {
    let unit = quote_shell(unit);
    let line = format!("journalctl -b -o cat --no-pager -u {unit} | head -c {LOG_LIMIT}");
    Ok(String::from_utf8_lossy(&agent.script(&line, b"", limit)?).into_owned())
}

/// The end of the file that the server logs to, as the server itself sees it: its root may be a
/// snapshot, and a relative path starts in its working directory, the data directory. Empty when
/// there is none.
fn log_file(agent: &Agent, unit: &str, file: &str, limit: Duration) -> Result<String> {
    let line = format!(
        "read -r file; case $file in /*) from=root ;; *) from=cwd ;; esac
        tail -c {LOG_LIMIT} \"/proc/$(systemctl show --property=MainPID --value {})/$from/$file\" || true",
        quote_shell(unit)
    );
    let log = agent.script(&line, format!("{file}\n").as_bytes(), limit)?;
    Ok(String::from_utf8_lossy(&log).into_owned())
}

/// Reads tables into the log.
struct TableReader<'a> {
    conn: &'a mut Connection,
    dialect: &'static dyn Dialect,
    out: &'a mut ObservationLog,
    most_rows: u64,
}

impl TableReader<'_> {
    /// Streams a query's rows into the log. A server that fails on the way, or a value of another
    /// type than its column should have, is a fact about the table, not an error of the trial.
    async fn rows(
        &mut self,
        table: &str,
        sql: &str,
        record: impl Fn(Row) -> SqlResult<Record>,
    ) -> Result<()> {
        let Self { conn, dialect, out, most_rows } = self;
        let mut count = 0;
        let mut counted = |row| {
            count += 1;
            if count <= *most_rows {
                return Ok(row);
            }
            let more = format!("more than {most_rows} rows, which were never sent");
            Err(RowError::Table(SqlError::Unexpected(more)))
        };
        let write = |row| match record(counted(row)?) {
            Ok(record) => out.write(&record).map_err(|error| RowError::Log(error.into())),
            Err(error) => Err(RowError::Table(error)),
        };
        let error = match conn.stream(sql, write).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(RowError::Log(error))) => return Err(error),
            Ok(Err(RowError::Table(error))) | Err(error) => error,
        };
        Ok(out.write(&table_error(*dialect, table, error)?)?)
    }
}

/// Why a row was not taken.
enum RowError {
    Table(SqlError),
    Log(Error),
}

/// The fact that a table cannot be read. An answer that was not read to its end is none.
fn table_error(dialect: &dyn Dialect, table: &str, error: SqlError) -> Result<Record> {
    if matches!(error, SqlError::Endless(_)) {
        return Err(Error::sql(format!("read `{table}`"))(error));
    }
    let gone = error.code().is_some_and(|code| dialect.is_gone(code));
    Ok(Record::TableError { table: table.to_owned(), error: printable(&error.to_string()), gone })
}

/// Checks a table and its indexes, with automatic repair off.
async fn check_table(
    conn: &mut Connection,
    dialect: &dyn Dialect,
    table: &str,
    real: &str,
    engine: &str,
) -> Result<Record> {
    let answer = conn.query(&dialect.check(real)).await;
    let answer =
        answer.and_then(|rows| rows.iter().map(|row| dialect.read_check(row)).collect::<SqlResult<Vec<_>>>());
    // One that was not read to its end is no fact about the table.
    if let Err(error @ SqlError::Endless(_)) = answer {
        return Err(Error::sql(format!("check `{table}`"))(error));
    }
    let answer = answer.unwrap_or_else(|error| vec![("error".to_owned(), error.to_string())]);
    Ok(read_messages(table, engine, answer))
}

/// How a check of a table ended that had these messages, each with its kind.
pub(crate) fn read_messages(table: &str, engine: &str, answer: Vec<(String, String)>) -> Record {
    let (mut clean, mut usable, mut messages) = (true, true, Vec::new());
    for (kind, message) in answer {
        let kind = kind.to_lowercase();
        match kind.as_str() {
            "status" if message == "OK" || message.contains("already up to date") => continue,
            "note" | "info" => continue,
            "warning" => clean = false,
            _ => (clean, usable) = (false, false),
        }
        if messages.len() < MESSAGES {
            messages.push(printable(&format!("{kind}: {message}")));
        }
    }
    Record::CheckTable { table: table.to_owned(), engine: engine.to_owned(), clean, usable, messages }
}

/// The number of rows and the XOR of what an index has of each, read from the table and through the
/// index.
async fn index_sums(
    conn: &mut Connection,
    dialect: &dyn Dialect,
    table: &str,
    real: &str,
    index: &str,
) -> SqlResult<Record> {
    let key = if table == table::LEDGER { "c, seq, leg" } else { "c, n" };
    let mut sums = [[0; 2]; 2];
    for (by, sum) in [By::Table, By::Index].into_iter().zip(&mut sums) {
        if let Some(row) = conn.query_first(&dialect.index_sum(real, key, index, by)).await? {
            *sum = [row.get(0)?, dialect.read_sum(&row, 1)?];
        }
    }
    let [primary, secondary] = sums;
    Ok(Record::Index { table: table.to_owned(), index: index.to_owned(), primary, secondary })
}
