//! What the restored server holds, read over SQL as a stream.

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, Row};
use std::time::Duration;

use super::{ObservationLog, log};
use crate::database::{BULK, follower_tables};
use crate::error::{Error, Result};
use crate::guest::Agent;
use crate::image::{Database, Server};
use crate::observation::{Record, State};
use crate::scenario::Profile;
use crate::text::printable;

/// The most messages of one CHECK TABLE that are kept.
const MESSAGES: usize = 10;

/// The most of the server's log that is read, bytes.
const LOG_LIMIT: u32 = 256 * 1024;

/// Observes a server that answers: its log, then its tables.
pub async fn server(
    conn: &mut Conn,
    agent: &Agent,
    server: &Server,
    profile: Profile,
    limit: Duration,
    out: &mut ObservationLog,
) -> Result<()> {
    let version: Option<String> =
        conn.query_first("SELECT VERSION()").await.map_err(Error::sql("tell its version"))?;
    let recovery = log::recovery(&journal(agent, server, limit)?);
    out.write(&Record::Server {
        started: true,
        detail: printable(&version.unwrap_or_default()),
        prepared: Some(recovery.prepared),
        recovery: recovery.lines,
    })?;
    let gtid = gtid(conn, server.database).await?;
    out.write(&Record::Gtid { of: State::Restored, gtid })?;
    tables(conn, server.database, profile, out).await
}

/// Counts the rows of the MEMORY table. Last of all: the first look at it since
/// the server's start makes the server write to its binary log.
pub async fn memory(conn: &mut Conn, out: &mut ObservationLog) -> Result<()> {
    let memory: Option<u64> =
        conn.query_first("SELECT COUNT(*) FROM probe").await.map_err(Error::sql("read the MEMORY table"))?;
    Ok(out.write(&Record::MemoryRows { rows: memory.unwrap_or(0) })?)
}

/// Every table of the load as a whole, and the GTIDs, of a server at this moment.
pub async fn state(conn: &mut Conn, database: Database, of: State) -> Result<Vec<Record>> {
    let mut records = vec![Record::Gtid { of, gtid: gtid(conn, database).await? }];
    let tables: Vec<String> = conn
        .query(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() \
             AND table_type = 'BASE TABLE' AND engine <> 'MEMORY' ORDER BY table_name",
        )
        .await
        .map_err(Error::sql("list its tables"))?;
    for table in tables {
        let named = format!("`{}`", table.replace('`', "``"));
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
        records.push(Record::Table { of, table: printable(&table), rows: rows.unwrap_or(0), checksum });
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
        conn.query_first(format!("SELECT {variable}")).await.map_err(Error::sql("tell its GTIDs"))?;
    Ok(printable(&gtid.unwrap_or_default()))
}

/// Observes every table of the load but the one in memory.
pub async fn tables(
    conn: &mut Conn,
    database: Database,
    profile: Profile,
    out: &mut ObservationLog,
) -> Result<()> {
    let followers = follower_tables(database, profile);
    let transactional = ["cl", "acct", "ledger"].map(|table| (table, "InnoDB"));
    let bulk = (profile == Profile::Bulk).then_some((BULK, "MyISAM"));
    for (table, engine) in transactional.iter().chain(followers).chain(&bulk) {
        out.write(&check_table(conn, table, engine).await)?;
    }
    for (table, index, column) in [("ledger", "rnd", "rnd"), ("ledger", "acct", "acct")] {
        match index_sums(conn, table, index, column).await {
            Ok(record) => out.write(&record)?,
            Err(error) => out.write(&table_error(table, &error))?,
        }
    }

    rows(conn, out, "cl", "SELECT c, seq FROM cl ORDER BY c", |(c, n)| Record::Counter { c, n }).await?;
    rows(conn, out, "acct", "SELECT id, bal, ver FROM acct ORDER BY id", |(id, balance, ver)| {
        Record::Account { id, balance, ver }
    })
    .await?;
    rows(
        conn,
        out,
        "ledger",
        "SELECT c, seq, leg, dc, dseq, acct, amt, ver, crc, pay FROM ledger ORDER BY c, seq, leg",
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
    for (table, _) in followers {
        let sql = format!("SELECT c, seq, crc, pay FROM {table} ORDER BY c, seq");
        rows(conn, out, table, &sql, |(c, n, crc, pay): (_, _, _, Vec<u8>)| Record::Follow {
            table: (*table).to_owned(),
            c,
            n,
            crc,
            sum: crc32fast::hash(&pay),
        })
        .await?;
    }
    let ddl = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() \
               AND table_name LIKE 'ddl\\_%' ORDER BY table_name";
    match conn.query(ddl).await {
        Ok(tables) => out.write(&Record::DdlTables { tables })?,
        Err(error) => out.write(&table_error("information_schema.tables", &error))?,
    }
    if bulk.is_some() {
        let sql = format!("SELECT n, COUNT(*), SUM(crc <> CRC32(pay)) FROM {BULK} GROUP BY n ORDER BY n");
        let record = |(n, rows, torn)| Record::Bulk { n, rows, torn };
        rows(conn, out, BULK, &sql, record).await?;
    }
    Ok(())
}

/// Writes down that the restored guest or its server did not come up.
pub fn server_failed(detail: &str, out: &mut ObservationLog) -> Result<()> {
    Ok(out.write(&Record::Server {
        started: false,
        detail: detail.to_owned(),
        prepared: None,
        recovery: vec![],
    })?)
}

/// The server's log of this boot. The images keep the journal in memory, so it
/// holds nothing of earlier boots.
fn journal(agent: &Agent, server: &Server, limit: Duration) -> Result<String> {
    let line = format!("journalctl -b -o cat --no-pager -u '{}' | head -c {LOG_LIMIT}", server.unit);
    Ok(String::from_utf8_lossy(&agent.script(&line, b"", limit)?).into_owned())
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
                Err(error) => return Ok(out.write(&table_error(table, &error))?),
            },
            Ok(None) => return Ok(()),
            Err(error) => return Ok(out.write(&table_error(table, &error))?),
        }
    }
}

fn table_error(table: &str, error: &dyn std::error::Error) -> Record {
    Record::TableError { table: table.to_owned(), error: printable(&error.to_string()) }
}

/// `CHECK TABLE ... EXTENDED` answers with rows of `Table, Op, Msg_type,
/// Msg_text`; see the MySQL manual, "CHECK TABLE Statement".
async fn check_table(conn: &mut Conn, table: &str, engine: &str) -> Record {
    let engine = engine.split(' ').next().unwrap_or(engine).to_owned();
    let (mut clean, mut usable, mut messages) = (true, true, Vec::new());
    match conn.query::<Row, _>(format!("CHECK TABLE {table} EXTENDED")).await {
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
    Record::CheckTable { table: table.to_owned(), engine, clean, usable, messages }
}

/// Rows and the XOR of a column, by the primary key and by the index.
async fn index_sums(conn: &mut Conn, table: &str, index: &str, column: &str) -> mysql_async::Result<Record> {
    let mut sums = Vec::new();
    for by in ["PRIMARY", index] {
        let sql = format!("SELECT COUNT(*), BIT_XOR({column}) FROM {table} FORCE INDEX ({by})");
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
