//! The seam for databases: what differs between the servers, and one way to talk to all of them.
//!
//! Everything else in this crate speaks to a server through a [`Connection`], and learns from its
//! [`Dialect`] which statements to send and how to read what comes back.

mod choice;
mod connection;
mod dialect;
mod doors;
mod metered;
mod mysql;
mod postgresql;
mod target;

pub use choice::dialect;
pub use connection::{Connection, FromText, Route, Row, SqlResult};
pub use dialect::{Activity, By, Dialect, LogLine, Recovery};
pub use doors::{DOORS, SOCKET_ADMIN, TCP, TCP_ADMIN};
pub(crate) use postgresql::{lsn, lsn_text};
pub use target::{Access, Target};
