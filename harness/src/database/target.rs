//! A server that a trial writes to, and the ways to it.

use std::net::SocketAddr;
use std::time::Duration;

use contract::image::{Database, Server};

use super::choice::dialect;
use super::connection::{Connection, Route, SqlResult};
use super::dialect::Dialect;
use super::doors::{DOORS, IMAGE_SCHEMA, TCP, TCP_ADMIN};
use crate::error::{Error, Result, SqlError};
use crate::names::{Account, Names};

/// The longest that a running server takes to greet a client, even under TCG.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long the first attempt may take while the server, or its guest's network, is still starting.
const FIRST_ATTEMPT: Duration = Duration::from_millis(500);

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// A server that a trial writes to: its doors, and the names used on it.
#[derive(Debug, Clone)]
pub struct Target {
    /// Which server.
    pub database: Database,
    /// Its doors, in the order of [`DOORS`].
    pub doors: [Access; 4],
    /// The names of its schemas, tables and accounts.
    pub names: Names,
}

impl Target {
    /// A server at these two addresses, the second of which leads to its own socket.
    pub fn new(database: Database, names: Names, network: SocketAddr, socket: SocketAddr) -> Self {
        let Names { ordinary, administrator, .. } = &names;
        let doors =
            [(network, ordinary), (network, administrator), (socket, ordinary), (socket, administrator)];
        Self {
            database,
            doors: doors.map(|(address, account)| Access::new(database, address, account)),
            names,
        }
    }

    /// How its server is spoken to.
    pub fn dialect(&self) -> &'static dyn Dialect {
        dialect(self.database)
    }

    /// The door with this index.
    pub fn door(&self, place: u8) -> &Access {
        &self.doors[usize::from(place) % self.doors.len()]
    }

    /// Logs both accounts in over the network once. MySQL's first login of an account takes the
    /// full password exchange, which works there but not through a relay; later logins use the
    /// server's cache.
    pub async fn log_in_once(&self, limit: Duration) -> Result<()> {
        for door in [TCP, TCP_ADMIN] {
            let connected = self.door(door).connect_with_retries(limit).await;
            let conn = connected.map_err(Error::sql(format!(
                "let the account of the door `{}` in",
                DOORS[usize::from(door)]
            )))?;
            conn.close().await;
        }
        Ok(())
    }
}

/// How to reach a guest's server.
#[derive(Clone)]
pub struct Access {
    address: SocketAddr,
    route: Route,
}

impl std::fmt::Debug for Access {
    // Derived output would show the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Access({})", self.address)
    }
}

impl Access {
    /// An account on the server behind this address.
    pub fn new(database: Database, address: SocketAddr, account: &Account) -> Self {
        Self { address, route: dialect(database).route(address, account, None) }
    }

    /// The account that comes with the image, in its own schema.
    pub fn of_image(address: SocketAddr, server: &Server) -> Result<Self> {
        let password = std::fs::read_to_string(&server.password_file)
            .map_err(Error::io("read", &server.password_file))?;
        let account = Account { user: server.user.clone(), password: password.trim_end().to_owned() };
        Ok(Self { address, route: dialect(server.database).route(address, &account, Some(IMAGE_SCHEMA)) })
    }

    /// Opens one connection, within this limit.
    pub async fn connect(&self, limit: Duration) -> SqlResult<Connection> {
        Connection::open(&self.route, limit).await
    }

    /// Opens one connection, with as many attempts as `limit` has room for.
    pub async fn connect_with_retries(&self, limit: Duration) -> SqlResult<Connection> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            match self.connect(CONNECT_LIMIT).await {
                Err(_) if tokio::time::Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
                connected => return connected,
            }
        }
    }

    /// Connects as soon as the server answers SQL. Fails after `limit`, at once when the server refuses the
    /// account, or when `alive`, called after each failed attempt, fails.
    pub async fn connect_within(
        &self,
        limit: Duration,
        mut alive: impl FnMut() -> Result<()>,
    ) -> Result<Connection> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut attempt = FIRST_ATTEMPT;
        loop {
            // QEMU accepts the connection long before the server does: only the server's greeting
            // proves that it is up.
            let error = match self.connect(attempt).await {
                Ok(conn) => return Ok(conn),
                Err(error) => error,
            };
            // Packets sent before the guest's network is up are lost, and so is the time spent
            // waiting for an answer.
            if matches!(error, SqlError::TimedOut) {
                attempt = (2 * attempt).min(CONNECT_LIMIT);
            }
            let what = format!("answer within {} s of the guest's start", limit.as_secs());
            let is_over = tokio::time::Instant::now() > deadline;
            if error.is_access_denied() || is_over && error.is_of_host() {
                return Err(Error::sql(what)(error));
            }
            if is_over {
                // One that still recovers refuses connections, or says so: it is as late as one that is silent.
                let last = match error {
                    SqlError::TimedOut => String::new(),
                    error => format!(" (at last: {error})"),
                };
                return Err(Error::sql(format!("{what}{last}"))(SqlError::TimedOut));
            }
            alive()?;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until the server answers, even if only to refuse the account.
    pub async fn wait_until_it_answers(
        &self,
        limit: Duration,
        alive: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        match self.connect_within(limit, alive).await {
            Ok(conn) => {
                conn.close().await;
                Ok(())
            }
            Err(Error::Sql { source, .. }) if source.is_access_denied() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
