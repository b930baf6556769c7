//! What differs between the database servers, in one place.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use contract::history::{Follower, Schema, Table};
use contract::image::{Database, Server};
use contract::scenario::{Load, Profile};
use mysql_async::{Conn, IoError, Opts, OptsBuilder};

use crate::error::{Error, Result};
use crate::names::{Account, Names, table};

/// The doors of a server: the ways in, by their names in the history. Their order is fixed.
pub const DOORS: [&str; 4] = ["tcp", "tcp-admin", "socket", "socket-admin"];

/// The ordinary account over the network.
pub const TCP: u8 = 0;
/// The administrator over the network.
pub const TCP_ADMIN: u8 = 1;
/// The administrator through the server's own socket.
pub const SOCKET_ADMIN: u8 = 3;

/// The tables of the quiescence probes on disk, and their engines.
pub(crate) const PROBE_TABLES: [(&str, &str); 4] = [
    (table::PROBE_TX, "InnoDB"),
    (table::PROBE_NT, "MyISAM"),
    (table::SECOND_PROBE_TX, "InnoDB"),
    (table::SECOND_PROBE_NT, "MyISAM"),
];

/// The longest that a running server takes to greet a client, even under TCG.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long the first attempt may take while the server, or its guest's network, is still starting.
const FIRST_ATTEMPT: Duration = Duration::from_millis(500);

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Errors with which a server that is up refuses an account: 1044 and 1045 (access denied), 1049
/// (no such schema), 1130 (not from this host).
const ACCESS_DENIED: [u16; 4] = [1044, 1045, 1049, 1130];

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
        Self { database, doors: doors.map(|(address, account)| Access::new(address, account)), names }
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
            // Closing is a courtesy; the server notices anyway.
            let _ = conn.disconnect().await;
        }
        Ok(())
    }
}

/// How to reach a guest's server.
#[derive(Clone)]
pub struct Access {
    opts: Opts,
}

impl std::fmt::Debug for Access {
    // Derived output would show the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Access({}:{})", self.opts.ip_or_hostname(), self.opts.tcp_port())
    }
}

impl Access {
    /// An account on the server behind this address.
    pub fn new(address: SocketAddr, Account { user, password }: &Account) -> Self {
        let opts = OptsBuilder::default()
            .ip_or_hostname(address.ip().to_string())
            .tcp_port(address.port())
            .user(Some(user))
            .pass(Some(password))
            // Otherwise the client would switch to the server's own socket.
            .prefer_socket(false)
            .into();
        Self { opts }
    }

    /// The account that comes with the image, in its own schema.
    pub fn of_image(address: SocketAddr, server: &Server) -> Result<Self> {
        let password = std::fs::read_to_string(&server.password_file)
            .map_err(Error::io("read", &server.password_file))?;
        let account = Account { user: server.user.clone(), password: password.trim_end().to_owned() };
        let opts = Self::new(address, &account).opts;
        Ok(Self { opts: OptsBuilder::from_opts(opts).db_name(Some(IMAGE_SCHEMA)).into() })
    }

    /// Opens one connection.
    ///
    /// QEMU's user network sometimes loses one of several connections opened at the same time. That
    /// one hangs for ever, so each attempt is bounded.
    pub async fn connect(&self, limit: Duration) -> mysql_async::Result<Conn> {
        match tokio::time::timeout(limit, Conn::new(self.opts.clone())).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    /// Opens one connection, with as many attempts as `limit` has room for.
    pub async fn connect_with_retries(&self, limit: Duration) -> mysql_async::Result<Conn> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            match self.connect(CONNECT_LIMIT).await {
                Err(_) if tokio::time::Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
                connected => return connected,
            }
        }
    }

    /// Connects as soon as the server answers SQL. Fails with the last error after `limit`, or when
    /// `alive`, called after each failed attempt, fails.
    pub async fn connect_within(
        &self,
        limit: Duration,
        mut alive: impl FnMut() -> Result<()>,
    ) -> Result<Conn> {
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
            if matches!(&error, mysql_async::Error::Io(IoError::Io(e)) if e.kind() == io::ErrorKind::TimedOut)
            {
                attempt = (2 * attempt).min(CONNECT_LIMIT);
            }
            if is_access_denied(&error) || tokio::time::Instant::now() > deadline {
                return Err(Error::sql(format!("answer within {} s of the guest's start", limit.as_secs()))(
                    error,
                ));
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
                // Closing is a courtesy; the server notices anyway.
                let _ = conn.disconnect().await;
                Ok(())
            }
            Err(Error::Sql { source, .. }) if is_access_denied(&source) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn is_access_denied(error: &mysql_async::Error) -> bool {
    matches!(error, mysql_async::Error::Server(e) if ACCESS_DENIED.contains(&e.code))
}

/// The schema that comes with an image; nothing is written to it.
const IMAGE_SCHEMA: &str = "freezeframe";

/// The tables whose rows follow transfers.
pub fn followers(database: Database, profile: Profile) -> Vec<Follower> {
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
        if database == Database::Mariadb {
            followers.push(follower("ar", "Aria", Schema::Load));
            followers.push(follower("second_ar", "Aria", Schema::Second));
        }
    }
    if profile == Profile::MixedEngines && database == Database::Mariadb {
        followers.push(follower(TRANSACTIONAL_ARIA, "Aria", Schema::Load));
    }
    followers
}

/// The follower table for which Aria keeps a log.
const TRANSACTIONAL_ARIA: &str = "art";

/// A follower's engine, as its CREATE TABLE statement names it.
pub fn engine_clause(Follower { table, engine, .. }: &Follower) -> &str {
    match engine.as_str() {
        "Aria" if table == TRANSACTIONAL_ARIA => "Aria TRANSACTIONAL=1",
        "Aria" => "Aria TRANSACTIONAL=0",
        other => other,
    }
}

/// The other tables of a load.
pub fn tables(load: &Load) -> Vec<Table> {
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

/// The settings of a profile, as SQL for the server's root account.
pub fn profile_statements(profile: Profile) -> &'static str {
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
