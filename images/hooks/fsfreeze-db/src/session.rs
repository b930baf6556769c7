//! A session with a server of any kind that holds it still; it ends with our process, and what it holds
//! ends with it.

use crate::exit::{Failure, Refusal};
use crate::position::Position;
use crate::servers::{Kind, Server};
use crate::settings::{ServerSettings, Settings};
use crate::{mysql, postgresql};
use tokio::time::{Duration, Instant};

/// Logged in.
pub(crate) enum Session {
    /// With MariaDB or MySQL.
    Mysql(Box<mysql::Session>),
    /// With PostgreSQL.
    Postgresql(Box<postgresql::Session>),
}

/// Does the same with a session of either kind.
macro_rules! either {
    ($self:expr, $session:ident => $does:expr) => {
        match $self {
            Session::Mysql($session) => $does,
            Session::Postgresql($session) => $does,
        }
    };
}

impl Session {
    /// Logs in, and finds out how to hold the server still.
    ///
    /// # Errors
    ///
    /// If no socket leads to this very server, or it does not let us in, or it cannot be held as told.
    pub(crate) async fn open(
        server: &Server,
        own: &ServerSettings,
        settings: &Settings,
    ) -> Result<Self, Failure> {
        let (hold, patience) = (settings.hold_limit(), settings.lock_limit());
        Ok(match server.kind {
            Kind::Mysql => {
                let directory = &settings.run_directory;
                Self::Mysql(mysql::Session::open(server, own, hold, patience, directory).await?.into())
            }
            Kind::Postgresql => {
                Self::Postgresql(postgresql::Session::open(server, own, hold, patience).await?.into())
            }
        })
    }

    /// Does what takes long and keeps nobody waiting.
    ///
    /// # Errors
    ///
    /// If it is not over before the deadline, and cannot be done without.
    pub(crate) async fn prepare(&mut self, deadline: Instant, nonce: &str) -> Result<(), Failure> {
        match self {
            Self::Mysql(_) => Ok(()),
            Self::Postgresql(session) => session.prepare(deadline, nonce).await,
        }
    }

    /// Looks for what would keep the lock, and everybody behind it, waiting.
    ///
    /// # Errors
    ///
    /// If there is something.
    pub(crate) async fn look(&mut self) -> Result<(), Refusal> {
        match self {
            Self::Mysql(session) => session.look().await,
            Self::Postgresql(_) => Ok(()),
        }
    }

    /// Does, in each attempt, what keeps no writer waiting.
    ///
    /// # Errors
    ///
    /// If it is not over before the deadline.
    pub(crate) async fn begin(&mut self, deadline: Instant, nonce: &str) -> Result<(), Refusal> {
        match self {
            Self::Mysql(session) => session.begin(deadline).await,
            Self::Postgresql(session) => session.begin(nonce).await,
        }
    }

    /// Holds the server still, with its log on disk, and says where the log is.
    ///
    /// # Errors
    ///
    /// If that is not so in time.
    pub(crate) async fn take(&mut self) -> Result<Position, Refusal> {
        match self {
            Self::Mysql(session) => session.take().await,
            Self::Postgresql(session) => Ok(session.position()),
        }
    }

    /// Its writers wait while it is held.
    pub(crate) fn stops_writers(&self) -> bool {
        matches!(self, Self::Mysql(_))
    }

    /// Takes back what an attempt has taken.
    pub(crate) async fn unlock(&mut self) {
        either!(self, session => session.unlock().await);
    }

    /// The server lets it go after this much longer, whatever happens to us. It counts from the latest question, and
    /// so would hold on for longer with each.
    pub(crate) async fn last_for(&mut self, limit: Duration) {
        either!(self, session => session.last_for(limit).await);
    }

    /// The session answers still.
    ///
    /// # Errors
    ///
    /// If it does not, or is another one.
    pub(crate) async fn is_alive(&mut self) -> Result<(), Failure> {
        either!(self, session => session.is_alive().await)
    }

    /// Proves that the server was held until now, and lets it go.
    ///
    /// # Errors
    ///
    /// If it was not.
    pub(crate) async fn release(self) -> Result<(), Failure> {
        either!(self, session => session.release().await)
    }

    /// Lets the server go.
    pub(crate) async fn end(self) {
        either!(self, session => session.end().await);
    }

    /// What its messages call it.
    pub(crate) fn describe(&self) -> String {
        either!(self, session => session.describe())
    }

    /// How another connection ends this one.
    pub(crate) fn ending(&self) -> Ending {
        match self {
            Self::Mysql(session) => Ending::Mysql(session.ending()),
            Self::Postgresql(session) => Ending::Postgresql(session.ending()),
        }
    }

    /// Since when it holds the server still.
    pub(crate) fn locked_at(&self) -> Instant {
        either!(self, session => session.locked_at())
    }

    /// Which server it is.
    pub(crate) fn server(&self) -> &Server {
        either!(self, session => session.server())
    }

    /// The version that the server says it is.
    pub(crate) fn version(&self) -> &str {
        either!(self, session => session.version())
    }

    /// How it is held, as the position file and messages call it.
    pub(crate) fn method(&self) -> &'static str {
        either!(self, session => session.method())
    }
}

/// A connection that may have to be ended from outside.
pub(crate) enum Ending {
    /// Of MariaDB or MySQL.
    Mysql(mysql::Ending),
    /// Of PostgreSQL.
    Postgresql(postgresql::Ending),
}

impl Ending {
    /// Ends it, or what it waits for.
    pub(crate) async fn end(&self) {
        match self {
            Self::Mysql(ending) => ending.end().await,
            Self::Postgresql(ending) => ending.end().await,
        }
    }
}
