//! What a way to restore has to do.

use contract::image::Server;

use crate::database::Connection;
use crate::error::Result;
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
