//! Why a database server did not do what it was asked.

use std::io;

use contract::text::{causes_once, quote};
use rustix::io::Errno;

use crate::bounds::SQL_MESSAGE;

/// Why a server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// It said no.
    #[error("{message}")]
    Server {
        /// The number of MariaDB's and MySQL's errors, the SQLSTATE of PostgreSQL's.
        code: String,
        /// Its words.
        message: String,
    },
    /// There was no answer in time.
    #[error("{}", io::Error::from(io::ErrorKind::TimedOut))]
    TimedOut,
    /// The connection was lost, or not made.
    #[error("{0}")]
    Lost(String),
    /// The host could not even try to connect.
    #[error(
        "the host cannot make a connection: {0}. It has no files, ports or memory left: let fewer trials run at once (`--jobs`)"
    )]
    Host(String),
    /// Its answer was not read to its end, which says nothing about what it holds.
    #[error("the server sent more than {0} bytes without a row, and no more was read")]
    Endless(u64),
    /// It answered something else than what was asked.
    #[error("the server's answer is not what was asked for: {0}")]
    Unexpected(String),
}

/// Codes with which a server that is up refuses an account. MariaDB and MySQL: 1044 and 1045 (access
/// denied), 1049 (no such schema), 1130 (not from this host). PostgreSQL: 28000 and 28P01 (no such
/// account, wrong password, not from this host), 3D000 (no such database), 42501 (may not connect).
const ACCESS_DENIED: [&str; 8] = ["1044", "1045", "1049", "1130", "28000", "28P01", "3D000", "42501"];

/// Codes with which a server has no connection left: 1040 and 1203 of MariaDB's and MySQL's, 53300 of PostgreSQL's.
const CROWDED: [&str; 3] = ["1040", "1203", "53300"];

impl SqlError {
    /// The code with which the server refused, if it did.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Server { code, .. } => Some(code),
            Self::TimedOut | Self::Lost(_) | Self::Host(_) | Self::Endless(_) | Self::Unexpected(_) => None,
        }
    }

    /// The host could not connect, or others on it have all of the server's connections: anybody there may connect to a
    /// guest's port.
    pub fn is_of_host(&self) -> bool {
        matches!(self, Self::Host(_)) || self.code().is_some_and(|code| CROWDED.contains(&code))
    }

    /// The server is up, and refuses the account.
    pub fn is_access_denied(&self) -> bool {
        self.code().is_some_and(|code| ACCESS_DENIED.contains(&code))
    }
}

/// The longest code of an error, characters: a SQLSTATE has five.
const CODE: usize = 8;

/// A server's words, which may be long, and name one cause several times.
fn bounded(message: &str) -> String {
    quote(SQL_MESSAGE, &causes_once(message))
}

impl From<mysql_async::Error> for SqlError {
    fn from(error: mysql_async::Error) -> Self {
        let message = bounded(&error.to_string());
        match error {
            mysql_async::Error::Server(error) => Self::Server { code: error.code.to_string(), message },
            mysql_async::Error::Io(mysql_async::IoError::Io(e)) if e.kind() == io::ErrorKind::TimedOut => {
                Self::TimedOut
            }
            mysql_async::Error::Io(mysql_async::IoError::Io(e)) if is_lack(&e) => Self::Host(message),
            _ => Self::Lost(message),
        }
    }
}

/// Whether the host has nothing left to connect with: files, ports, memory. See connect(2) and socket(2).
pub(crate) fn is_lack(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::ADDRINUSE, Errno::NOBUFS, Errno::NOMEM]
        .into_iter()
        .any(|lack| errno == Some(lack))
}

impl From<tokio_postgres::Error> for SqlError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(refused) = error.as_db_error() else { return Self::Lost(bounded(&chain(&error))) };
        let code = quote(CODE, refused.code().code());
        let message = format!("{} {code}: {}", refused.severity(), refused.message());
        Self::Server { code, message: bounded(&message) }
    }
}

/// An error with its causes, which its own text leaves out.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_lacks_is_told_from_a_server_that_is_not_there() {
        for (errno, lacks) in [
            (Errno::MFILE, true),
            (Errno::ADDRNOTAVAIL, true),
            (Errno::CONNREFUSED, false),
            (Errno::CONNRESET, false),
        ] {
            let error = mysql_async::Error::Io(mysql_async::IoError::Io(errno.into()));
            assert_eq!(matches!(SqlError::from(error), SqlError::Host(_)), lacks, "{errno}");
        }
        assert!(!is_lack(&io::Error::other("closed")));
    }

    #[test]
    fn a_lost_connection_names_its_cause_once() {
        let lost = mysql_async::Error::Io(mysql_async::IoError::Io(io::Error::other("connection closed")));
        let said = SqlError::from(lost).to_string();
        assert_eq!(said, "Input/output error: connection closed");
    }
}
