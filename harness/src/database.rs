//! What differs between the database servers, in one place.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mysql_async::{Conn, IoError, Opts, OptsBuilder};

use crate::error::{Error, Result};
use crate::image::{Database, Server};
use crate::scenario::Profile;

/// The schema that the load works in.
pub const SCHEMA: &str = "freezeframe";

/// The table of the bulk writer.
pub const BULK: &str = "bulk";

/// The most that a server that is up needs for its greeting, also under TCG.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long the first attempt may take while the server, or its guest's network, is still starting.
const FIRST_ATTEMPT: Duration = Duration::from_millis(500);

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
    /// The load's account on the server behind this address.
    pub fn new(address: SocketAddr, server: &Server) -> Result<Self> {
        let password = std::fs::read_to_string(&server.password_file)
            .map_err(Error::io("read", &server.password_file))?;
        let opts = OptsBuilder::default()
            .ip_or_hostname(address.ip().to_string())
            .tcp_port(address.port())
            .user(Some(&server.user))
            .pass(Some(password.trim_end()))
            .db_name(Some(SCHEMA))
            // The address stays the only way: no detour over the server's own socket.
            .prefer_socket(false)
            .into();
        Ok(Self { opts })
    }

    /// Opens one connection.
    ///
    /// QEMU's user network now and then loses one of several connections that
    /// are opened at the same time; it then hangs for ever, so each attempt is bounded.
    async fn connect(&self, limit: Duration) -> mysql_async::Result<Conn> {
        match tokio::time::timeout(limit, Conn::new(self.opts.clone())).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    /// Opens one connection, with as many attempts as `limit` has room for.
    pub async fn connect_patiently(&self, limit: Duration) -> mysql_async::Result<Conn> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            match self.connect(CONNECT_LIMIT).await {
                Err(_) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                connected => return connected,
            }
        }
    }

    /// Connects as soon as the server answers SQL; the last error when it does
    /// not within `limit`. `alive` is asked after each attempt that failed.
    pub async fn connect_within(
        &self,
        limit: Duration,
        mut alive: impl FnMut() -> Result<()>,
    ) -> Result<Conn> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut attempt = FIRST_ATTEMPT;
        loop {
            // QEMU accepts the connection long before the server does; only the
            // server's greeting says that it is there.
            let error = match self.connect(attempt).await {
                Ok(conn) => return Ok(conn),
                Err(error) => error,
            };
            // What a guest does not get before its network is up is lost, and is waited for in vain.
            if matches!(&error, mysql_async::Error::Io(IoError::Io(e)) if e.kind() == io::ErrorKind::TimedOut)
            {
                attempt = (2 * attempt).min(CONNECT_LIMIT);
            }
            if tokio::time::Instant::now() > deadline {
                return Err(Error::sql(format!("answer within {} s of the guest's start", limit.as_secs()))(
                    error,
                ));
            }
            alive()?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The non-transactional tables that follow each transfer: name and engine.
pub fn follower_tables(database: Database, profile: Profile) -> &'static [(&'static str, &'static str)] {
    match (profile, database) {
        (Profile::InnodbOnly, _) => &[],
        (Profile::MixedEngines, Database::Mariadb) => {
            &[("nt", "MyISAM"), ("ar", "Aria TRANSACTIONAL=0"), ("art", "Aria TRANSACTIONAL=1")]
        }
        (_, Database::Mariadb) => &[("nt", "MyISAM"), ("ar", "Aria TRANSACTIONAL=0")],
        (_, Database::Mysql) => &[("nt", "MyISAM")],
    }
}

/// The MyISAM tables of a load.
pub fn myisam_tables(database: Database, profile: Profile) -> Vec<&'static str> {
    let followers = follower_tables(database, profile).iter();
    let mut tables: Vec<_> =
        followers.filter(|(_, engine)| *engine == "MyISAM").map(|(table, _)| *table).collect();
    if profile == Profile::Bulk {
        tables.push(BULK);
    }
    tables
}

/// What the profile sets on the server before the load, as SQL for its root account.
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
