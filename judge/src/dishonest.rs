//! What no honest writer of a log could have written.

/// What no honest writer could have written, with a hint.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DishonestRecord(String);

impl From<String> for DishonestRecord {
    fn from(problem: String) -> Self {
        Self(problem)
    }
}

impl From<&str> for DishonestRecord {
    fn from(problem: &str) -> Self {
        Self(problem.to_owned())
    }
}

/// A record that was accepted, or why it was not.
pub(super) type Accepted<T = ()> = Result<T, DishonestRecord>;
