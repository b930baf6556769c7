//! What a method of snapshots has to do.

use std::fmt::Debug;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use contract::plan::Accel;

use crate::error::{Error, Result};
use crate::guest::{Drive, Machine};
use crate::host::Libvirt;

/// A method of snapshots.
pub(super) trait Method {
    /// Finds out whether it can work here for disks in `dir`; an error says why not and what to do.
    fn probe(&self, libvirt: &Libvirt, accel: Accel, dir: &Path) -> Result<()>;

    /// Keeps the chosen disks as they are at one instant, which is over when this returns. The guest may be
    /// frozen: what can wait belongs to the [`Completion`].
    fn take(&self, request: &Request<'_>) -> Result<Taken>;

    /// Gives up a snapshot's files. `limit` bounds the time for each disk.
    fn discard(&self, _machine: &mut Machine, snapshot: &[Drive], _limit: Duration) -> Result<()> {
        snapshot.iter().try_for_each(remove)
    }
}

/// Removes the file of a drive.
pub(super) fn remove(drive: &Drive) -> Result<()> {
    fs::remove_file(&drive.file).map_err(Error::io("remove", &drive.file))
}

/// Which disks are to be kept as they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) machine: &'a Machine,
    /// All disks of the guest, and the files that it writes to.
    pub(super) drives: &'a [Drive],
    /// Those of them that are to be of one instant now.
    pub(super) chosen: &'a [Drive],
    /// The directory for new files.
    pub(super) dir: &'a Path,
    /// The cycle, part of the names of new files.
    pub(super) cycle: u32,
    /// How long a copy may go on afterwards.
    pub(super) limit: Duration,
}

/// A snapshot that was taken.
#[derive(Debug, Default)]
pub struct Taken {
    /// The qcow2 files that hold it once it is complete, which nothing writes to then.
    pub snapshot: Vec<Drive>,
    /// The files that the guest writes to from now on.
    pub live: Vec<Drive>,
    /// When those of the snapshot are complete.
    pub completion: Completion,
}

impl Taken {
    /// Adds that of further disks.
    pub(super) fn append(&mut self, other: Self) {
        self.snapshot.extend(other.snapshot);
        self.live.extend(other.live);
        self.completion.0.extend(other.completion.0);
    }
}

/// What must end before the files of a snapshot are complete. Without a copy they are at once.
#[derive(Debug, Clone, Default)]
pub struct Completion(Vec<Arc<dyn Copying>>);

/// A copy that goes on while the guest runs. Dropping it ends it.
pub(super) trait Copying: Debug + Send + Sync {
    /// The guest writes again: the copy need not be held back any more.
    fn go_on(&self);

    /// Waits for its end, in any number of threads.
    fn wait(&self) -> Result<()>;
}

impl Completion {
    pub(super) fn of(copy: impl Copying + 'static) -> Self {
        Self(vec![Arc::new(copy)])
    }

    /// Lets the copies go on, once the guest is thawed. Until then they leave the host to it.
    pub fn go_on(&self) {
        self.0.iter().for_each(|copy| copy.go_on());
    }

    /// Waits until the files are complete.
    pub fn wait(&self) -> Result<()> {
        self.0.iter().try_for_each(|copy| copy.wait())
    }
}
