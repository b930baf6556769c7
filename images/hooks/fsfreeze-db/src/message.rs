//! What a call and the process that holds the locks say to each other: one JSON line each way.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};

/// Asked of the holder.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Prove that the locks lasted, and release them.
    Thaw {
        /// The dispatcher's call whose freeze is rolled back; no other freeze is thawed by that.
        rolls_back: Option<String>,
    },
    /// Whether every session still answers.
    Status,
}

/// The holder's answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// How the call ends.
    pub(crate) exit: Exit,
    /// What it says.
    pub(crate) says: String,
}

impl Answer {
    pub(crate) fn done(says: impl Into<String>) -> Self {
        Self { exit: Exit::Done, says: says.into() }
    }

    /// Of a thaw: the locks did not last, for this reason.
    pub(crate) fn not_held(exit: Exit, why: &str) -> Self {
        let says =
            format!("the lock was NOT held until thaw: this backup is not application-consistent: {why}");
        Self { exit, says }
    }
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        Self { exit: failure.exit, says: failure.why }
    }
}

/// The most bytes of a line.
pub(crate) const MOST: usize = 64 << 10;

/// A line to send.
pub(crate) fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

/// What a line says.
pub(crate) fn parse<T: DeserializeOwned>(line: &[u8]) -> io::Result<T> {
    serde_json::from_slice(line).map_err(io::Error::other)
}
