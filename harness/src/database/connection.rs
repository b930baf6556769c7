//! One connection to a server, whatever its protocol: statements go there as text, and rows come
//! back as text.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use mysql_async::OptsBuilder;
use mysql_async::prelude::Queryable as _;
use tokio::task::JoinHandle;
use tokio_postgres::SimpleQueryMessage;

use super::metered::{Meter, Metered, relay};
use crate::bounds::{SQL_AHEAD, SQL_BYTES, SQL_ROWS};
use crate::error::SqlError;

/// The result of everything that asks a server.
pub type SqlResult<T> = Result<T, SqlError>;

/// A connection to a server.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
    meter: Meter,
}

#[derive(Debug)]
enum Wire {
    Mysql(Box<mysql_async::Conn>),
    Postgresql(Postgresql),
}

#[derive(Debug)]
struct Postgresql {
    client: tokio_postgres::Client,
    /// Reads and writes the socket.
    task: JoinHandle<()>,
    /// The process that serves it.
    backend: u32,
}

/// The server is to notice at once, also when a statement is in flight.
impl Drop for Postgresql {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How to open a connection: the server's address, and what its client needs.
#[derive(Clone)]
pub enum Route {
    /// MariaDB's and MySQL's protocol.
    Mysql(SocketAddr, mysql_async::Opts),
    /// PostgreSQL's protocol.
    Postgresql(SocketAddr, Box<tokio_postgres::Config>),
}

impl Connection {
    /// Opens one connection, within this limit.
    ///
    /// QEMU's user network sometimes loses one of several connections opened at the same time. That
    /// one hangs for ever, so each attempt is bounded.
    pub(super) async fn open(route: &Route, limit: Duration) -> SqlResult<Self> {
        let meter = Meter::default();
        let opened = async {
            match route {
                Route::Mysql(server, opts) => {
                    let relay = relay(*server, meter.clone()).await.map_err(host)?;
                    let opts = OptsBuilder::from_opts(opts.clone())
                        .ip_or_hostname(relay.ip().to_string())
                        .tcp_port(relay.port());
                    Ok(Wire::Mysql(Box::new(mysql_async::Conn::new(opts).await?)))
                }
                Route::Postgresql(server, config) => {
                    let stream = Metered::connect(*server, meter.clone()).await.map_err(lost)?;
                    Ok(Wire::Postgresql(Postgresql::open(config, stream).await?))
                }
            }
        };
        let opened = tokio::time::timeout(limit, opened).await.unwrap_or(Err(SqlError::TimedOut));
        let wire = opened.map_err(|error| explained(&meter, error))?;
        Ok(Self { wire, meter })
    }

    /// Its number on the server.
    pub fn id(&self) -> u32 {
        match &self.wire {
            Wire::Mysql(conn) => conn.id(),
            Wire::Postgresql(connection) => connection.backend,
        }
    }

    /// Executes statements, separated by semicolons.
    pub async fn execute(&mut self, statements: &str) -> SqlResult<()> {
        self.meter.taken();
        let executed = match &mut self.wire {
            Wire::Mysql(conn) => conn.query_drop(statements).await.map_err(SqlError::from),
            Wire::Postgresql(connection) => {
                connection.client.batch_execute(statements).await.map_err(SqlError::from)
            }
        };
        executed.map_err(|error| explained(&self.meter, error))
    }

    /// Executes statements, and returns the rows of all of them, which must be few.
    pub async fn query(&mut self, statements: &str) -> SqlResult<Vec<Row>> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let take = |row: Row| {
            bytes += row.bytes();
            rows.push(row);
            if rows.len() <= SQL_ROWS && bytes <= SQL_BYTES {
                return Ok(());
            }
            let (count, most) = (rows.len(), SQL_ROWS);
            Err(SqlError::Unexpected(format!(
                "{bytes} bytes in {count} rows, and more; at most {SQL_BYTES} bytes and {most} rows are read"
            )))
        };
        self.stream(statements, take).await??;
        Ok(rows)
    }

    /// The first row, if there is one.
    pub async fn query_first(&mut self, statement: &str) -> SqlResult<Option<Row>> {
        Ok(self.query(statement).await?.into_iter().next())
    }

    /// The first value of the first row, if there is one.
    pub async fn query_value<T: FromText>(&mut self, statement: &str) -> SqlResult<Option<T>> {
        self.query_first(statement).await?.map(|row| row.get(0)).transpose()
    }

    /// Executes statements, and hands every row to `take` as it comes. The inner result is what
    /// `take` failed with, after which nothing more is read.
    pub async fn stream<E>(
        &mut self,
        statements: &str,
        take: impl FnMut(Row) -> Result<(), E>,
    ) -> SqlResult<Result<(), E>> {
        let streamed = self.read_rows(statements, take).await;
        streamed.map_err(|error| explained(&self.meter, error))
    }

    async fn read_rows<E>(
        &mut self,
        statements: &str,
        mut take: impl FnMut(Row) -> Result<(), E>,
    ) -> SqlResult<Result<(), E>> {
        let Self { wire, meter } = self;
        meter.taken();
        match wire {
            Wire::Mysql(conn) => {
                let mut results = conn.query_iter(statements).await?;
                while !results.is_empty() {
                    while let Some(row) = results.next().await? {
                        meter.taken();
                        if let Err(error) = take(Row::of_mysql(row)) {
                            return Ok(Err(error));
                        }
                    }
                }
                // An error of a later statement ends the loop silently; only this call returns it.
                results.drop_result().await?;
            }
            Wire::Postgresql(connection) => {
                let messages = connection.client.simple_query_raw(statements).await?;
                let mut messages = std::pin::pin!(messages);
                while let Some(message) = messages.try_next().await? {
                    meter.taken();
                    if let SimpleQueryMessage::Row(row) = message
                        && let Err(error) = take(Row::of_postgresql(&row))
                    {
                        return Ok(Err(error));
                    }
                }
            }
        }
        Ok(Ok(()))
    }

    /// Takes leave of the server. Only a courtesy: it notices anyway.
    pub async fn close(self) {
        if let Wire::Mysql(conn) = self.wire {
            let _ = conn.disconnect().await;
        }
    }
}

/// The connection was not made.
fn lost(error: std::io::Error) -> SqlError {
    SqlError::Lost(error.to_string())
}

/// The host has nothing left to make one with.
fn host(error: std::io::Error) -> SqlError {
    SqlError::Host(error.to_string())
}

/// The error, or what broke the connection: that the server had sent too much, or the host.
fn explained(meter: &Meter, error: SqlError) -> SqlError {
    if meter.is_exceeded() {
        return SqlError::Endless(SQL_AHEAD);
    }
    meter.lack().map_or(error, SqlError::Host)
}

impl Postgresql {
    async fn open(config: &tokio_postgres::Config, stream: Metered) -> SqlResult<Self> {
        let (client, connection) = config.connect_raw(stream, tokio_postgres::NoTls).await?;
        let task = tokio::spawn(async move {
            // Whoever waits for an answer learns of it.
            let _ = connection.await;
        });
        let mut this = Self { client, task, backend: 0 };
        let answer = this.client.simple_query("SELECT pg_backend_pid()").await?;
        let pid = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        this.backend = pid.ok_or_else(|| SqlError::Unexpected("a connection without a process".into()))?;
        Ok(this)
    }
}

/// A row, each of whose values is text or NULL.
#[derive(Debug, Clone)]
pub struct Row {
    values: Vec<Option<Vec<u8>>>,
    /// Bytes come as `\x` and hexadecimal digits.
    hexadecimal: bool,
}

impl Row {
    fn of_mysql(row: mysql_async::Row) -> Self {
        let text = |value| match value {
            mysql_async::Value::NULL => None,
            mysql_async::Value::Bytes(bytes) => Some(bytes),
            // Not in the protocol for text.
            other => Some(other.as_sql(true).into_bytes()),
        };
        // A row that was just read has all of its values.
        let values = row.unwrap_raw().into_iter().map(|value| value.and_then(text)).collect();
        Self { values, hexadecimal: false }
    }

    fn of_postgresql(row: &tokio_postgres::SimpleQueryRow) -> Self {
        let values = (0..row.len()).map(|at| row.get(at).map(|text| text.as_bytes().to_vec())).collect();
        Self { values, hexadecimal: true }
    }

    /// How much memory it takes, without what the allocator adds.
    fn bytes(&self) -> usize {
        let values = self.values.iter().flatten().map(Vec::len).sum::<usize>();
        values + self.values.len() * size_of::<Option<Vec<u8>>>()
    }

    /// The value of a column, counted from 0.
    pub fn get<T: FromText>(&self, column: usize) -> SqlResult<T> {
        let value = self.values.get(column).and_then(Option::as_deref);
        T::from_text(value, self.hexadecimal).ok_or_else(|| {
            let shown = value.map_or("NULL".into(), |text| {
                String::from_utf8_lossy(&text[..text.len().min(SHOWN)]).into_owned()
            });
            let kind = std::any::type_name::<T>().rsplit("::").next().unwrap_or_default();
            SqlError::Unexpected(format!("column {column} is `{shown}`, and not a {kind}"))
        })
    }

    /// The text of a column; none where it is NULL.
    pub fn text(&self, column: usize) -> SqlResult<String> {
        Ok(self.get::<Option<String>>(column)?.unwrap_or_default())
    }
}

/// How much of a value is shown, bytes.
const SHOWN: usize = 40;

/// What a value of a row can be read as.
pub trait FromText: Sized {
    /// Reads it; `None` when it is something else.
    fn from_text(text: Option<&[u8]>, hexadecimal: bool) -> Option<Self>;
}

macro_rules! numbers {
    ($($number:ty)*) => {
        $(impl FromText for $number {
            fn from_text(text: Option<&[u8]>, _: bool) -> Option<Self> {
                std::str::from_utf8(text?).ok()?.parse().ok()
            }
        })*
    };
}

numbers!(u8 u32 u64 i64);

impl FromText for String {
    fn from_text(text: Option<&[u8]>, _: bool) -> Option<Self> {
        text.map(|text| Self::from_utf8_lossy(text).into_owned())
    }
}

impl FromText for Vec<u8> {
    fn from_text(text: Option<&[u8]>, hexadecimal: bool) -> Option<Self> {
        match text?.strip_prefix(b"\\x") {
            Some(digits) if hexadecimal => hex::decode(digits).ok(),
            _ => text.map(<[u8]>::to_vec),
        }
    }
}

/// NULL is `None`.
impl<T: FromText> FromText for Option<T> {
    fn from_text(text: Option<&[u8]>, hexadecimal: bool) -> Option<Self> {
        match text {
            None => Some(None),
            Some(_) => T::from_text(text, hexadecimal).map(Some),
        }
    }
}
