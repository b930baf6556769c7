//! What the restored server holds, read over SQL as a stream.

use std::time::Duration;

use contract::history::{Follower, Setup, Table};
use contract::image::{Database, Server};
use contract::observation::{Record, ServerState};
use contract::text::printable;
use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, Row};

use super::observation_log::ObservationLog;
use super::server_log;
use crate::database::PROBE_TABLES;
use crate::error::{Error, Result};
use crate::guest::{Agent, quote_shell};
use crate::names::{Names, table};

/// The most messages kept of one CHECK TABLE.
const MESSAGES: usize = 10;

/// The most of the server's log that is read, bytes.
const LOG_LIMIT: u32 = 256 * 1024;

/// Errors that say that there is no such schema (1049) or table (1146).
const GONE: [u16; 2] = [1049, 1146];

/// What a server that holds a load's data should have.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Which server.
    pub database: Database,
    /// What the load set up.
    pub setup: &'a Setup,
    /// The names of its tables.
    pub names: &'a Names,
}

/// Observes a server that answers: its log, then its tables.
pub async fn server(
    conn: &mut Conn,
    agent: &Agent,
    server: &Server,
    expected: Expected<'_>,
    limit: Duration,
    out: &mut ObservationLog,
) -> Result<()> {
    let version: Option<String> =
        conn.query_first("SELECT VERSION()").await.map_err(Error::sql("report its version"))?;
    let place: Option<String> =
        conn.query_first("SELECT @@log_error").await.map_err(Error::sql("report where its log is"))?;
    let recovery = match place.as_deref() {
        None | Some("" | "stderr") => server_log::recovery(&journal(agent, server, limit)?),
        Some(file) => server_log::last_start(&log_file(agent, server, file, limit)?)
            .map(server_log::recovery)
            .unwrap_or_default(),
    };
    out.write(&Record::Server {
        started: true,
        detail: printable(&version.unwrap_or_default()),
        prepared: recovery.prepared,
        recovered: recovery.recovered,
        recovery: recovery.lines,
        corruption: recovery.corruption,
    })?;
    let gtid = gtid(conn, server.database).await?;
    out.write(&Record::Gtid { of: ServerState::Restored, gtid })?;
    tables(conn, expected, out).await
}

/// Counts the rows of the MEMORY table. This comes last: the first access to it since the server's
/// start makes the server write to its binary log.
pub async fn memory(conn: &mut Conn, names: &Names, out: &mut ObservationLog) -> Result<()> {
    let count = format!("SELECT COUNT(*) FROM {}", names.table(table::PROBE));
    let record = match conn.query_first::<u64, _>(count).await {
        Ok(rows) => Record::MemoryRows { rows: rows.unwrap_or(0) },
        Err(error) => table_error(table::PROBE, &error),
    };
    Ok(out.write(&record)?)
}

/// The checksum of every table of the load, and the GTIDs, of a server at this moment.
pub async fn state(
    conn: &mut Conn,
    Expected { database, names, .. }: Expected<'_>,
    of: ServerState,
) -> Result<Vec<Record>> {
    let mut records = vec![Record::Gtid { of, gtid: gtid(conn, database).await? }];
    let query = format!(
        "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema IN ('{}', '{}') \
         AND table_type = 'BASE TABLE' AND engine <> 'MEMORY' ORDER BY table_schema, table_name",
        names.load, names.second
    );
    let there: Vec<(String, String)> = conn.query(query).await.map_err(Error::sql("list its tables"))?;
    for (schema, table) in there {
        let named = format!("{schema}.`{}`", table.replace('`', "``"));
        let rows: Option<u64> = conn
            .query_first(format!("SELECT COUNT(*) FROM {named}"))
            .await
            .map_err(Error::sql(format!("count the rows of {named}")))?;
        // The columns are `Table, Checksum`; see the MySQL manual, "CHECKSUM TABLE Statement".
        let checksum: Option<(String, Option<u64>)> = conn
            .query_first(format!("CHECKSUM TABLE {named} EXTENDED"))
            .await
            .map_err(Error::sql(format!("sum up {named}")))?;
        let checksum = checksum.and_then(|(_, checksum)| checksum);
        let table = names.plain(&schema, &table).unwrap_or_else(|| printable(&table));
        records.push(Record::Table { of, table, rows: rows.unwrap_or(0), checksum });
    }
    Ok(records)
}

/// The GTIDs that a server has committed.
async fn gtid(conn: &mut Conn, database: Database) -> Result<String> {
    let variable = match database {
        Database::Mariadb => "@@gtid_binlog_pos",
        Database::Mysql => "@@gtid_executed",
    };
    let gtid: Option<String> =
        conn.query_first(format!("SELECT {variable}")).await.map_err(Error::sql("report its GTIDs"))?;
    Ok(printable(&gtid.unwrap_or_default()))
}

/// Observes every table of the load except the one in memory.
pub async fn tables(
    conn: &mut Conn,
    Expected { setup, names, .. }: Expected<'_>,
    out: &mut ObservationLog,
) -> Result<()> {
    let name = |plain: &str| names.table(plain);
    let others = setup.tables.iter().map(|Table { table, engine, indexes }| (table, engine, indexes));
    let followers =
        setup.followers.iter().map(|Follower { table, engine, indexes, .. }| (table, engine, indexes));
    let all: Vec<_> = others.chain(followers).collect();
    for (table, engine, _) in &all {
        out.write(&check_table(conn, table, &name(table), engine).await)?;
    }
    for (table, _, indexes) in &all {
        for index in *indexes {
            match index_sums(conn, table, &name(table), index).await {
                Ok(record) => out.write(&record)?,
                Err(error) => out.write(&table_error(table, &error))?,
            }
        }
    }

    let sql = format!("SELECT c, seq FROM {} ORDER BY c", name(table::COUNTERS));
    rows(conn, out, table::COUNTERS, &sql, |(c, n)| Record::Counter { c, n }).await?;
    let sql = format!("SELECT id, bal, ver FROM {} ORDER BY id", name(table::ACCOUNTS));
    rows(conn, out, table::ACCOUNTS, &sql, |(id, balance, ver)| Record::Account { id, balance, ver }).await?;
    let sql = format!(
        "SELECT c, seq, leg, dc, dseq, acct, amt, ver, crc, pay FROM {} ORDER BY c, seq, leg",
        name(table::LEDGER)
    );
    rows(
        conn,
        out,
        table::LEDGER,
        &sql,
        |(c, n, leg, dc, dseq, acct, amt, ver, crc, pay): (_, _, _, _, _, _, _, _, _, Vec<u8>)| Record::Leg {
            c,
            n,
            leg,
            dep: [dc, dseq],
            acct,
            amt,
            ver,
            crc,
            sum: crc32fast::hash(&pay),
        },
    )
    .await?;
    for Follower { table, .. } in &setup.followers {
        let sql = format!("SELECT c, n, of_c, of_n, crc, pay FROM {} ORDER BY c, n", name(table));
        rows(conn, out, table, &sql, |(c, n, of_c, of_n, crc, pay): (_, _, _, _, _, Vec<u8>)| {
            Record::Follow { table: table.clone(), c, n, of: [of_c, of_n], crc, sum: crc32fast::hash(&pay) }
        })
        .await?;
    }
    probe_rows(conn, names, out).await?;
    match conn.query::<String, _>(names.ddl_tables_query()).await {
        Ok(there) => {
            let mut tables: Vec<_> =
                there.iter().filter_map(|table| names.plain(&names.load, table)).collect();
            tables.sort();
            out.write(&Record::DdlTables { tables })?;
        }
        Err(error) => out.write(&table_error("information_schema.tables", &error))?,
    }
    if setup.tables.iter().any(|made| made.table == table::BULK) {
        let bulk = name(table::BULK);
        let sql = format!("SELECT n, COUNT(*), SUM(crc <> CRC32(pay)) FROM {bulk} GROUP BY n ORDER BY n");
        let record = |(n, rows, torn)| Record::Bulk { n, rows, torn };
        rows(conn, out, table::BULK, &sql, record).await?;
    }
    Ok(())
}

/// Which rows of the quiescence probes are there.
async fn probe_rows(conn: &mut Conn, names: &Names, out: &mut ObservationLog) -> Result<()> {
    let mut rows = Vec::new();
    for (plain, _) in PROBE_TABLES {
        match conn.query::<u32, _>(format!("SELECT n FROM {}", names.table(plain))).await {
            Ok(there) => rows.extend(there),
            Err(error) => out.write(&table_error(plain, &error))?,
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
fn journal(agent: &Agent, server: &Server, limit: Duration) -> Result<String> {
    let unit = quote_shell(&server.unit);
    let line = format!("journalctl -b -o cat --no-pager -u {unit} | head -c {LOG_LIMIT}");
    Ok(String::from_utf8_lossy(&agent.script(&line, b"", limit)?).into_owned())
}

/// The end of the file that the server logs to, as the server itself sees it: its root may be a
/// snapshot, and a relative path starts in its working directory, the data directory. Empty when
/// there is none.
fn log_file(agent: &Agent, server: &Server, file: &str, limit: Duration) -> Result<String> {
    let line = format!(
        "read -r file; case $file in /*) from=root ;; *) from=cwd ;; esac
        tail -c {LOG_LIMIT} \"/proc/$(systemctl show --property=MainPID --value {})/$from/$file\" || true",
        quote_shell(&server.unit)
    );
    let log = agent.script(&line, format!("{file}\n").as_bytes(), limit)?;
    Ok(String::from_utf8_lossy(&log).into_owned())
}

/// Streams a query's rows into the log. A server that fails on the way is a
/// fact about the table, not an error of the trial.
async fn rows<T: FromRow + Send + 'static>(
    conn: &mut Conn,
    out: &mut ObservationLog,
    table: &str,
    sql: &str,
    record: impl Fn(T) -> Record,
) -> Result<()> {
    let mut result = match conn.query_iter(sql).await {
        Ok(result) => result,
        Err(error) => return Ok(out.write(&table_error(table, &error))?),
    };
    loop {
        match result.next().await {
            Ok(Some(row)) => match mysql_async::from_row_opt(row) {
                Ok(row) => out.write(&record(row))?,
                // The server reports the type of each column, and a damaged table may have another.
                Err(error) => {
                    let error = mysql_async::Error::Other(Box::new(error));
                    return Ok(out.write(&table_error(table, &error))?);
                }
            },
            Ok(None) => return Ok(()),
            Err(error) => return Ok(out.write(&table_error(table, &error))?),
        }
    }
}

fn table_error(table: &str, error: &mysql_async::Error) -> Record {
    let gone = matches!(error, mysql_async::Error::Server(e) if GONE.contains(&e.code));
    Record::TableError { table: table.to_owned(), error: printable(&error.to_string()), gone }
}

/// `CHECK TABLE ... EXTENDED` answers with rows of `Table, Op, Msg_type,
/// Msg_text`; see the MySQL manual, "CHECK TABLE Statement".
async fn check_table(conn: &mut Conn, table: &str, real: &str, engine: &str) -> Record {
    let (mut clean, mut usable, mut messages) = (true, true, Vec::new());
    match conn.query::<Row, _>(format!("CHECK TABLE {real} EXTENDED")).await {
        Ok(answer) => {
            for row in answer {
                let text = |column| row.get::<String, _>(column).unwrap_or_default();
                let (kind, message) = (text(2).to_lowercase(), text(3));
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
        }
        Err(error) => {
            (clean, usable) = (false, false);
            messages.push(printable(&error.to_string()));
        }
    }
    Record::CheckTable { table: table.to_owned(), engine: engine.to_owned(), clean, usable, messages }
}

/// The number of rows and the XOR of what an index has of each, read through the primary key and
/// through the index. The key is part of it, because equal values would cancel each other out.
async fn index_sums(conn: &mut Conn, table: &str, real: &str, index: &str) -> mysql_async::Result<Record> {
    let key = if table == table::LEDGER { "c, seq, leg" } else { "c, n" };
    let mut sums = Vec::new();
    for by in ["PRIMARY", index] {
        // An index has the name of its column.
        let sql = format!(
            "SELECT COUNT(*), BIT_XOR(CRC32(CONCAT_WS(',', {key}, {index}))) FROM {real} FORCE INDEX ({by})"
        );
        let (count, xor): (u64, u64) = conn.query_first(sql).await?.unwrap_or_default();
        sums.push([count, xor]);
    }
    Ok(Record::Index {
        table: table.to_owned(),
        index: index.to_owned(),
        primary: sums[0],
        secondary: sums[1],
    })
}
