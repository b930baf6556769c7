//! Connections to PostgreSQL: to this very server, as the owner of its data, and bounded in time.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream as Blocking;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use rustix::fs::OFlags;
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;
use tokio::net::UnixStream;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::exit::{Exit, Failure};
use crate::servers::{Server, text_of};
use crate::settings::ServerSettings;
use crate::socket;

/// For a statement that waits for nothing, while others wait.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// For the end of backup mode, which writes to the server's disk: a busy one takes seconds. Less than a thaw
/// waits for all of it.
pub(super) const STOP: Duration = Duration::from_secs(9);

/// The most of a passwd file that is read, bytes.
const ACCOUNTS: u64 = 1 << 20;

/// The name of our sessions in the server's views and log.
const NAME: &str = "fsfreeze-db";

/// Whatever the defaults of the site, the database and the account are, from the first statement on. No
/// function of a user may come before the server's own.
const SAFE: &str = "-c search_path=pg_catalog,pg_temp -c client_min_messages=error -c statement_timeout=10s \
    -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c default_transaction_read_only=off \
    -c default_transaction_deferrable=off -c synchronous_commit=local";

/// What the server's answers mean here: its SQLSTATE codes.
mod code {
    /// All errors of this class: no such account, or not the one that we are, or a wrong password.
    pub(super) const AUTHORIZATION_CLASS: &str = "28";
    pub(super) const TOO_MANY_CONNECTIONS: &str = "53300";
    pub(super) const QUERY_CANCELED: &str = "57014";
    pub(super) const NOT_IN_PREREQUISITE_STATE: &str = "55000";
}

/// What a server's client reports.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServerError {
    /// An answer of the server: its code and its words.
    #[error("{1}")]
    Server(String, String),
    /// It asks for a password that we do not have, or for a way of logging in that is not known here.
    #[error("{0}")]
    Login(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl ServerError {
    /// The same in a sentence about this server, which `what` it does.
    pub(super) fn of(self, server: &Server, what: &str) -> Failure {
        let name = server.name();
        match &self {
            Self::Server(code, words) if code.starts_with(code::AUTHORIZATION_CLASS) => {
                Failure { exit: Exit::NoLogin, why: format!("{name} does not let us in: {words}") }
            }
            Self::Server(code, words) if code == code::TOO_MANY_CONNECTIONS => {
                Failure { exit: Exit::NoLogin, why: format!("all connections of {name} are in use: {words}") }
            }
            Self::Login(_) => {
                Failure { exit: Exit::NoLogin, why: format!("{name} does not let us in: {self}") }
            }
            error => Failure::refused(format!("{name} {what}: {error}")),
        }
    }

    /// A statement took longer than it may.
    pub(super) fn is_timeout(&self) -> bool {
        matches!(self, Self::Server(code, _) if code == code::QUERY_CANCELED)
    }

    /// The server, as it is set up, does not do this.
    pub(super) fn is_about_its_setup(&self) -> bool {
        matches!(self, Self::Server(code, _) if code == code::NOT_IN_PREREQUISITE_STATE)
    }
}

impl From<tokio_postgres::Error> for ServerError {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(said) = error.as_db_error() {
            return Self::Server(said.code().code().to_owned(), said.message().to_owned());
        }
        let what = error.to_string();
        let cause = error.into_source().map(|cause| cause.to_string()).unwrap_or_default();
        match what.as_str() {
            // The client's words for what is not configured, and for a method that it does not know.
            "invalid configuration" | "authentication error" => Self::Login(cause),
            _ if cause.is_empty() => Self::Other(what),
            _ => Self::Other(format!("{what}: {cause}")),
        }
    }
}

async fn bounded<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, ServerError> {
    match timeout(limit, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(ServerError::Other(format!("no answer within {} s", limit.as_secs()))),
    }
}

/// A connection, and what moves its bytes.
pub(super) struct Connection {
    pub(super) client: Client,
    task: JoinHandle<()>,
}

impl Connection {
    /// The first row of the answer to the last of these statements, as text.
    pub(super) async fn ask(&self, statements: &str, limit: Duration) -> Result<Vec<String>, ServerError> {
        // Only the latest is kept of whatever comes.
        let answer = async {
            let mut last = Vec::new();
            let mut messages = pin!(self.client.simple_query_raw(statements).await?);
            while let Some(message) = messages.try_next().await? {
                if let SimpleQueryMessage::Row(row) = message {
                    let text = |column| row.get(column).unwrap_or_default().to_owned();
                    last = (0..row.len()).map(text).collect();
                }
            }
            Ok(last)
        };
        bounded(limit, answer).await
    }

    /// Says goodbye, and waits until the server has closed its end.
    pub(super) async fn close(self) {
        drop(self.client);
        let _ = timeout(ANSWER, self.task).await;
    }
}

/// A connection to this very server, whose settings are safe for what is asked here.
pub(super) async fn log_in(
    server: &Server,
    settings: &ServerSettings,
    patience: Duration,
) -> Result<Connection, Failure> {
    let login = settings.login(server)?;
    let user = login.user.clone().unwrap_or_else(|| owner_name(server));
    let mut config = Config::new();
    config.user(&user).dbname(&settings.database).application_name(NAME).options(SAFE);
    if let Some(password) = &login.password {
        config.password(password);
    }
    let stream = reach(server, settings).await?;
    let (client, connection) = bounded(patience, config.connect_raw(stream, NoTls))
        .await
        .map_err(|error| error.of(server, &format!("does not let {user} in")))?;
    let task = tokio::spawn(async {
        let _ = connection.await;
    });
    let connection = Connection { client, task };
    // Newer versions have it.
    let newer = "SELECT set_config(name, '0', false) FROM pg_settings \
                 WHERE name IN ('transaction_timeout', 'idle_session_timeout')";
    connection.ask(newer, patience).await.map_err(|error| error.of(server, "refuses our settings"))?;
    Ok(connection)
}

/// A stream to this very server, from the owner of its data: as peer authentication expects.
pub(super) async fn reach(server: &Server, settings: &ServerSettings) -> Result<UnixStream, Failure> {
    let login = settings.login(server)?;
    let sockets = match login.socket {
        Some(path) => vec![path],
        None => server.sockets.iter().map(|socket| socket.path.clone()).collect(),
    };
    let mut why = socket::none(server);
    for socket in sockets {
        match connect(server, &socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                let name = server.name();
                why = Failure::refused(format!("{name} cannot be reached by {}: {error}", socket.display()));
            }
        }
    }
    Err(why)
}

async fn connect(server: &Server, seen: &Path) -> io::Result<UnixStream> {
    let place = socket::place(server, seen)?;
    let owner = owner(server)?;
    // Only one thread becomes the owner, and only for this: it may not be the one that all else runs on.
    let connecting = spawn_blocking(move || {
        let us = rustix::process::geteuid();
        let as_owner = us.is_root() && !owner.is_root();
        if as_owner {
            set_thread_res_uid(us, owner, us)?;
        }
        let stream = Blocking::connect(&place.path);
        if as_owner {
            set_thread_res_uid(us, us, us)?;
        }
        stream
    });
    let late = |_| io::Error::other(format!("nobody answers within {} s", ANSWER.as_secs()));
    let stream = timeout(ANSWER, connecting).await.map_err(late)?.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    let stream = UnixStream::from_std(stream)?;
    // Through a proxy we would put some other server into backup mode.
    match stream.peer_cred()?.pid() {
        Some(pid) if pid == server.process.pid => Ok(stream),
        Some(pid) => Err(io::Error::other(format!("process {pid} listens there"))),
        None => Err(io::Error::other("a process of another namespace listens there")),
    }
}

/// Who owns the data directory, as we see it.
fn owner(server: &Server) -> io::Result<Uid> {
    let directory = server.open(&server.data_directory, OFlags::PATH | OFlags::DIRECTORY)?;
    Ok(Uid::from_raw(directory.metadata()?.uid()))
}

/// What the server's own system calls that account.
fn owner_name(server: &Server) -> String {
    let named = || {
        let owner = owner(server).ok()?.as_raw();
        let map = fs::read_to_string(format!("/proc/{}/uid_map", server.process.pid)).ok()?;
        let accounts = server.open(Path::new("/etc/passwd"), OFlags::PATH).ok()?;
        let accounts = text_of(&accounts, ACCOUNTS)?;
        account(&accounts, inner(&map, owner)?)
    };
    named().unwrap_or_else(|| "postgres".to_owned())
}

/// The number of an account inside a user namespace with this map.
fn inner(map: &str, outer: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        let (inside, outside, count) = (next()?, next()?, next()?);
        let above = outer.checked_sub(outside)?;
        (above < count).then(|| inside.checked_add(above))?
    })
}

/// The name of an account in the text of a passwd file.
fn account(accounts: &str, uid: u32) -> Option<String> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_the_name_that_its_own_namespace_gives_it() {
        let accounts = "root:x:0:0:root:/root:/bin/sh\npostgres:x:70:70::/var/lib/postgresql:/bin/sh\n";
        assert_eq!(inner("         0          0 4294967295\n", 70), Some(70));
        assert_eq!(inner("0 100000 65536\n", 100_070), Some(70));
        assert_eq!(inner("0 100000 65536\n", 70), None);
        assert_eq!(account(accounts, 70).as_deref(), Some("postgres"));
        assert_eq!(account(accounts, 71), None);
    }
}
