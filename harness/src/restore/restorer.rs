//! What a way to restore has to do.

use contract::image::Server;

use crate::database::Connection;
use crate::error::{Error, Result};
use crate::guest::{Drive, Machine};

/// A way to a server on a snapshot.
pub trait Restorer: Send {
    /// Starts a server on the snapshot's disks.
    ///
    /// An error of the guest or its database says that the snapshot does not come up, which is a
    /// fact about the backup. In any case [`Restorer::release`] comes before the next snapshot.
    fn restore(&mut self, snapshot: &[Drive]) -> Result<Restored>;

    /// The guest in which the server runs, or should; none when that did not boot.
    fn machine(&self) -> Option<&Machine>;

    /// Ends the server, and gives up the disks.
    fn release(&mut self) -> Result<()>;
}

/// A server on a snapshot.
#[derive(Debug)]
pub struct Restored {
    /// A connection to it.
    pub conn: Connection,
    /// How it is set up.
    pub server: Server,
    /// How many times its kernel stalled before it found its disks.
    pub stalled: u32,
    /// Why its guest was started a second time, if it was.
    pub again: Option<String>,
}

/// Restores, and once more from the same snapshot when time ran out. What is wrong with the snapshot shows again; what
/// was wrong with the guest or its host does not. Also says why, if it did.
pub(super) fn once_more_if_late<R, T>(
    restorer: &mut R,
    attempt: impl Fn(&mut R) -> Result<T>,
    release: impl FnOnce(&mut R) -> Result<()>,
) -> Result<(T, Option<String>)> {
    match attempt(restorer) {
        Err(late) if late.is_late_guest() => {
            release(restorer).map_err(|error| Error::NotReleased(Box::new(error)))?;
            let why = late.to_string().lines().next().map(str::to_owned);
            Ok((attempt(restorer)?, why))
        }
        restored => Ok((restored?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::SqlError;

    fn late() -> Result<(), SqlError> {
        Err(SqlError::TimedOut)
    }

    /// What happens, in order, when the attempts end like this.
    fn happens(ends: &[fn() -> Result<(), SqlError>]) -> (Vec<&'static str>, Result<bool>) {
        let mut seen = vec![];
        let attempt = |seen: &mut Vec<_>| {
            let n = seen.iter().filter(|it| **it == "attempt").count();
            seen.push("attempt");
            ends[n]().map_err(Error::sql("answer"))
        };
        let release = |seen: &mut Vec<_>| {
            seen.push("release");
            Ok(())
        };
        let restored = once_more_if_late(&mut seen, attempt, release);
        (seen, restored.map(|((), again)| again.is_some()))
    }

    #[test]
    fn only_what_is_late_is_restored_once_more() {
        let refused = || Err(SqlError::Server { code: "1045".to_owned(), message: "no".to_owned() });
        let (seen, restored) = happens(&[late, || Ok(())]);
        assert_eq!(seen, ["attempt", "release", "attempt"]);
        assert!(restored.unwrap());
        let (seen, restored) = happens(&[late, late]);
        assert_eq!((seen.len(), restored.is_err()), (3, true));
        let (seen, restored) = happens(&[refused]);
        assert_eq!((seen, restored.is_err()), (vec!["attempt"], true));
        assert!(!happens(&[|| Ok(())]).1.unwrap());
    }

    #[test]
    fn what_cannot_be_given_up_is_no_fact_about_a_backup() {
        let attempt = |(): &mut ()| late().map_err(Error::sql("answer"));
        let release = |(): &mut ()| late().map_err(Error::sql("end"));
        let error = once_more_if_late(&mut (), attempt, release).unwrap_err();
        assert!(!error.is_of_guest(), "{error}");
    }
}
