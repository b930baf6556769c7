//! Connections to MariaDB and MySQL: to this very server, with settings that are safe, and bounded in time.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use mysql_async::consts::{CapabilityFlags, StatusFlags};
use mysql_async::prelude::{FromRow, Queryable as _};
use mysql_async::{Conn, DriverError, IoError, OptsBuilder, Row, Value, from_row_opt};
use mysql_common::packets::HandshakePacket;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::exit::{Exit, Failure};
use crate::ours;
use crate::servers::{Server, Socket};
use crate::settings::Login;
use crate::socket;

/// For statements that wait for nothing, however many are sent at once, while writers wait.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

/// The most of an answer, bytes: a list of all threads of a large server is shorter.
const LONGEST_ANSWER: usize = 16 << 20;

/// The pause before a server with a full queue is asked again.
const CROWDED: Duration = Duration::from_millis(20);

/// Compiles the two regular expressions by which the client reads a server's version. In an emulated guest that takes
/// as long as finding the servers, and is to be done meanwhile.
pub(crate) fn get_ready() {
    let version = b"0.0.0".as_slice();
    let flags = (CapabilityFlags::empty(), StatusFlags::empty());
    let greeting =
        HandshakePacket::new(10, version, 0, [0; 8], None::<&[u8]>, flags.0, 0, flags.1, None::<&[u8]>);
    let _ = (greeting.maria_db_server_version_parsed(), greeting.server_version_parsed());
}

/// The server's numbers of errors that mean something here.
mod code {
    pub(super) const ACCESS_DENIED: [u16; 4] = [1044, 1045, 1698, 3118];
    pub(super) const TOO_MANY_CONNECTIONS: [u16; 2] = [1040, 1203];
    pub(super) const NOT_THERE_OR_DENIED: [u16; 2] = [1064, 1227];
    pub(super) const UNKNOWN_VARIABLE: u16 = 1193;
    /// Galera's for whatever a node does not do now.
    pub(super) const UNKNOWN_COMMAND: u16 = 1047;
    pub(super) const LOCK_WAIT_TIMEOUT: u16 = 1205;
}

/// What a server's client reports.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    /// An answer of the server: its number and its words.
    #[error("error {0}: {1}")]
    Server(u16, String),
    /// It asks for a way of logging in that is not known here; MySQL does so at random where there is no
    /// such account.
    #[error("no such account, or one that logs in by {0}")]
    Plugin(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl ServerError {
    /// The same in a sentence about this server, which `what` it does.
    pub(crate) fn of(self, server: &Server, what: &str) -> Failure {
        let name = server.name();
        match &self {
            Self::Server(number, words) if code::ACCESS_DENIED.contains(number) => {
                Failure { exit: Exit::NoLogin, why: format!("{name} does not let us in: {words}") }
            }
            Self::Server(number, words) if code::TOO_MANY_CONNECTIONS.contains(number) => {
                Failure { exit: Exit::NoLogin, why: format!("all connections of {name} are in use: {words}") }
            }
            Self::Plugin(_) => {
                Failure { exit: Exit::NoLogin, why: format!("{name} does not let us in: {self}") }
            }
            error => Failure::refused(format!("{name} {what}: {error}")),
        }
    }

    /// The server does not know this statement, or does not answer it to this account.
    pub(crate) fn is_about_the_statement(&self) -> bool {
        matches!(self, Self::Server(number, _) if code::NOT_THERE_OR_DENIED.contains(number))
    }

    /// A Galera node is paused for a backup lock, and does not even wait for it.
    pub(crate) fn is_galera_pause(&self) -> bool {
        matches!(self, Self::Server(code::UNKNOWN_COMMAND, words) if words.contains("Replication paused on node"))
    }

    /// The server has no such setting.
    pub(crate) fn is_unknown_variable(&self) -> bool {
        matches!(self, Self::Server(code::UNKNOWN_VARIABLE, _))
    }

    /// Somebody else held a lock for longer than it was waited for.
    pub(crate) fn is_lock_wait(&self) -> bool {
        matches!(self, Self::Server(code::LOCK_WAIT_TIMEOUT, _))
    }
}

/// A connection to this very server, whose settings are safe for what is asked here.
pub(crate) struct Connection {
    /// None while a statement is under way.
    conn: Option<Conn>,
    /// Stays when nobody waits for it any more: its answer, when it comes, is not to be taken for the next one's.
    under_way: Option<BoxFuture<'static, Answered>>,
    /// How long it may take to answer a statement that waits for nothing.
    pub(crate) patience: Duration,
}

/// A connection that is free again, the rows of each statement's answer, and whether they were all read; `None` if
/// they do not end.
type Answered = (Conn, Vec<Vec<Row>>, mysql_async::Result<Option<()>>);

/// The settings after which the server ends what is idle for longer.
pub(crate) fn idle_for(limit: Duration) -> String {
    let seconds = limit.as_secs().max(1);
    format!("wait_timeout = {seconds}, interactive_timeout = {seconds}")
}

/// Logs in. The server ends what is idle for longer than `idle`.
pub(crate) async fn log_in(
    server: &Server,
    login: &Login,
    idle: Duration,
    patience: Duration,
) -> Result<Connection, Failure> {
    let sockets = match &login.socket {
        Some(path) => vec![Socket { path: path.clone(), is_only_one: false }],
        // Not the X protocol's.
        None => {
            let classic = |socket: &&Socket| !socket.path.to_string_lossy().contains("mysqlx");
            server.sockets.iter().filter(classic).cloned().collect()
        }
    };
    let mut why = socket::none(server);
    for socket in &sockets {
        match connect(server, socket, login, idle, patience).await {
            Ok(connection) => return Ok(connection),
            Err(failure) => why = failure,
        }
    }
    Err(why)
}

async fn connect(
    server: &Server,
    socket: &Socket,
    login: &Login,
    idle: Duration,
    patience: Duration,
) -> Result<Connection, Failure> {
    let cannot = |why: String| {
        Failure::refused(format!("{} cannot be reached by {}: {why}", server.name(), socket.path.display()))
    };
    let place = socket::place(server, &socket.path).map_err(|error| cannot(error.to_string()))?;
    // A person may put something else in its place at any time.
    let is_theirs = server.user.is_none_or(ours::is_person);
    if !socket.is_only_one || server.in_container || is_theirs {
        let peer = listener(&place.path).await.map_err(&cannot)?;
        // The first process listens for a server that systemd starts by its socket.
        let is_systemd = peer == Some(1) && !server.in_container;
        if peer != Some(server.process.pid) && !is_systemd {
            let other = peer.map_or_else(|| "of another namespace".to_owned(), |pid| pid.to_string());
            return Err(cannot(format!("process {other} listens there")));
        }
    }
    let user = login.user.as_deref().unwrap_or("root");
    let opts = OptsBuilder::default()
        .socket(Some(place.path.display().to_string()))
        .user(Some(user))
        .pass(login.password.clone())
        .max_allowed_packet(Some(4 << 20))
        .wait_timeout(Some(28800))
        .stmt_cache_size(0);
    let is_crowded =
        |error: &_| matches!(error, mysql_async::Error::Io(IoError::Io(error)) if is_full(error));
    let conn = bounded(patience, in_turn(async || Conn::new(opts.clone()).await, is_crowded))
        .await
        .map_err(|error| error.of(server, &format!("does not let {user} in")))?;
    // Whatever the server's defaults are. `max_statement_time` and `max_execution_time` are one setting of two
    // servers, and would end a wait for the lock. Of a witness's wait MariaDB's least is 0 s, and MySQL's 1 s.
    // Each reads only its own of the comments, of its versions.
    let safe = format!(
        "SET SESSION {idle}, autocommit = 1, sql_mode = '', \
         sql_select_limit = {most}, max_join_size = {most}, sql_big_selects = 1, sql_safe_updates = 0, \
         completion_type = 0, lock_wait_timeout = 1 /*!50708 , max_execution_time = 0 */ \
         /*M!100101 , max_statement_time = 0 */ /*M!100300 , lock_wait_timeout = 0 */",
        idle = idle_for(idle),
        most = u64::MAX
    );
    let mut connection = Connection { conn: Some(conn), under_way: None, patience };
    connection.run(&safe).await.map_err(|error| error.of(server, "refuses our settings"))?;
    Ok(connection)
}

/// The values of a row, which come from a server that anybody may have written.
fn read<T: FromRow>(row: Row) -> Result<T, ServerError> {
    from_row_opt(row).map_err(|_| ServerError::Other("its answer has other values than it should".to_owned()))
}

/// How much memory a row takes, about.
fn bytes_of(row: &Row) -> usize {
    let bytes = |column| match row.as_ref(column) {
        Some(Value::Bytes(bytes)) => bytes.len(),
        _ => 0,
    };
    (0..row.len()).map(|column| bytes(column) + size_of::<Value>()).sum()
}

/// Connects, again and again while the server's queue of connections is full: a client that blocks waits as well.
async fn in_turn<T, E>(
    connect: impl AsyncFn() -> Result<T, E>,
    is_crowded: impl Fn(&E) -> bool,
) -> Result<T, E> {
    loop {
        match connect().await {
            Err(error) if is_crowded(&error) => sleep(CROWDED).await,
            connected => return connected,
        }
    }
}

/// What connecting says without waiting when the server's queue is full; see unix(7).
fn is_full(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
}

/// The process that listens on a socket. To a server this is a client that leaves before it has logged in,
/// which many note in their logs.
async fn listener(socket: &Path) -> Result<Option<i32>, String> {
    match timeout(ANSWER, in_turn(async || UnixStream::connect(socket).await, is_full)).await {
        Ok(Ok(stream)) => Ok(stream.peer_cred().map_err(|error| error.to_string())?.pid()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("nobody answers within {} s", ANSWER.as_secs())),
    }
}

impl Connection {
    /// All rows of an answer.
    pub(crate) async fn ask<T: FromRow + Send + 'static>(
        &mut self,
        statement: &str,
    ) -> Result<Vec<T>, ServerError> {
        self.answer(statement, self.patience).await?.into_iter().map(read).collect()
    }

    /// The first row of an answer, which must be there.
    pub(crate) async fn first<T: FromRow + Send + 'static>(
        &mut self,
        statement: &str,
    ) -> Result<T, ServerError> {
        let rows = self.ask(statement).await?;
        rows.into_iter().next().ok_or_else(|| ServerError::Other("it answers with no row".to_owned()))
    }

    /// No answer but that it is done.
    pub(crate) async fn run(&mut self, statement: &str) -> Result<(), ServerError> {
        self.run_within(statement, self.patience).await
    }

    /// The same, of a statement that waits.
    pub(crate) async fn run_within(&mut self, statement: &str, limit: Duration) -> Result<(), ServerError> {
        self.answer(statement, limit).await.map(drop)
    }

    async fn answer(&mut self, statement: &str, limit: Duration) -> Result<Vec<Row>, ServerError> {
        let answers = self.answers(&[statement], limit).await;
        answers.map(|mut all| all.remove(0)).map_err(|(_, error)| error)
    }

    /// The rows of each statement's answer. The server is given all at once, and does one after the other.
    ///
    /// # Errors
    ///
    /// At which of them it stopped, and why.
    pub(crate) async fn answers(
        &mut self,
        statements: &[&str],
        limit: Duration,
    ) -> Result<Vec<Vec<Row>>, (usize, ServerError)> {
        let text = statements.join("; ");
        let begun = Arc::new(AtomicUsize::new(0));
        let answered = async {
            // Nobody waits for that one any more.
            if let Some(earlier) = &mut self.under_way {
                self.conn = Some(earlier.await.0);
                self.under_way = None;
            }
            let conn = self.conn.take().ok_or(DriverError::ConnectionClosed)?;
            let asked = self.under_way.insert(asked(conn, text, statements.len(), begun.clone()).boxed());
            let (conn, all, outcome) = asked.await;
            (self.conn, self.under_way) = (Some(conn), None);
            outcome.map(|ended| ended.map(|()| all))
        };
        let outcome = bounded(limit, answered).await;
        let endless = || ServerError::Other("its answer does not end".to_owned());
        outcome.and_then(|all| all.ok_or_else(endless)).map_err(|error| {
            let begun = begun.load(Ordering::Relaxed);
            // The client meets a server's error where it reads that answer, and any other one as the answer before ends.
            let at = if let ServerError::Server(..) = error { begun.saturating_sub(1) } else { begun };
            (at.min(statements.len() - 1), error)
        })
    }

    /// Says goodbye.
    pub(crate) async fn close(mut self) {
        if let Some(conn) = self.conn.take() {
            let _ = timeout(ANSWER, conn.disconnect()).await;
        }
    }
}

/// Counts the answers that it has begun to read.
async fn asked(mut conn: Conn, text: String, statements: usize, begun: Arc<AtomicUsize>) -> Answered {
    let mut all = Vec::new();
    let outcome = async {
        let mut bytes = 0;
        let mut answer = conn.query_iter(text).await?;
        for at in 0..statements {
            all.push(vec![]);
            begun.store(all.len(), Ordering::Relaxed);
            let is_there = answer.columns().is_some();
            while let Some(row) = answer.next().await? {
                bytes += bytes_of(&row);
                if bytes > LONGEST_ANSWER {
                    return Ok(None);
                }
                all[at].push(row);
            }
            if !is_there {
                return Err(mysql_async::Error::Other("it answers only some of what it is asked".into()));
            }
        }
        Ok(Some(()))
    };
    let outcome = outcome.await;
    (conn, all, outcome)
}

async fn bounded<T>(
    limit: Duration,
    answer: impl Future<Output = mysql_async::Result<T>>,
) -> Result<T, ServerError> {
    match timeout_at(Instant::now() + limit, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(mysql_async::Error::Server(error))) => Err(ServerError::Server(error.code, error.message)),
        Ok(Err(mysql_async::Error::Driver(DriverError::UnknownAuthPlugin { name }))) => {
            Err(ServerError::Plugin(name))
        }
        Ok(Err(error)) => Err(ServerError::Other(error.to_string())),
        Err(_) => Err(ServerError::Other(format!("no answer within {} s", limit.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    /// Otherwise what [`super::get_ready`] compiles is not what the client uses.
    #[test]
    fn there_is_one_version_of_what_the_client_is_made_of() {
        let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../Cargo.lock");
        let lock = std::fs::read_to_string(lock).unwrap();
        assert_eq!(lock.matches("name = \"mysql_common\"").count(), 1);
    }
}
