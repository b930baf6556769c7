//! How a call ends.

use serde::{Deserialize, Serialize};

/// The exit status, which says to scripts what the message says to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Exit {
    /// Everything is as it should be.
    Done = 0,
    /// Nothing is locked; or, for `status`, nothing is held.
    Refused = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Nothing is locked, because a server does not let us in.
    NoLogin = 3,
    /// The lock did not last until the thaw: that backup is not application-consistent.
    LockLost = 4,
    /// The same, because no thaw came in time.
    HeldTooLong = 5,
    /// The same, because somebody else has thawed before.
    ReleasedBefore = 6,
}

/// Why a call ends otherwise than it should.
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
#[error("{why}")]
pub(crate) struct Failure {
    /// How the call ends.
    pub(crate) exit: Exit,
    /// The reason, for people.
    pub(crate) why: String,
}

impl Failure {
    /// Nothing is locked, for this reason.
    pub(crate) fn refused(why: impl Into<String>) -> Self {
        Self { exit: Exit::Refused, why: why.into() }
    }
}

/// An attempt to lock that failed.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The reason.
    pub(crate) why: Failure,
    /// The next one may not: somebody else only had to finish.
    pub(crate) may_succeed: bool,
}

impl From<Failure> for Refusal {
    fn from(why: Failure) -> Self {
        Self { why, may_succeed: false }
    }
}
