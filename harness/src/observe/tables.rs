//! What the restored server holds, read over SQL as a stream.

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, Row};
use std::time::Duration;

use super::{ObservationLog, log};
use crate::error::{Error, Result};
use crate::guest::{Agent, printable};
use crate::image::Server;
use crate::observation::Record;

/// The most messages of one CHECK TABLE that are kept.
const MESSAGES: usize = 10;

/// The most of the server's log that is read, bytes.
const LOG_LIMIT: u32 = 256 * 1024;

/// Observes a server that answers: its log, then its tables.
pub async fn server(
    conn: &mut Conn,
    agent: &Agent,
    server: &Server,
    followers: &[(&str, &str)],
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
    tables(conn, followers, out).await
}

/// Observes every table of the load.
pub async fn tables(conn: &mut Conn, followers: &[(&str, &str)], out: &mut ObservationLog) -> Result<()> {
    let memory: Option<u64> =
        conn.query_first("SELECT COUNT(*) FROM probe").await.map_err(Error::sql("read the MEMORY table"))?;
    out.write(&Record::MemoryRows { rows: memory.unwrap_or(0) })?;

    let transactional = ["cl", "acct", "ledger"].map(|table| (table, "InnoDB"));
    for (table, engine) in transactional.iter().chain(followers) {
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
