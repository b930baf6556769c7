//! Snapshot: keeps the guest's disks as they are at one instant. Each method is a file beside this one.

mod backup_push;
mod external;
mod host_copy;
mod method;

use std::path::Path;
use std::time::Duration;

use contract::plan::{Accel, Limits};
use contract::scenario::{Snapshot, SnapshotMethod};

pub use self::method::{Completion, Taken};
use self::method::{Method, Request};
use crate::error::Result;
use crate::guest::{Drive, Machine};
use crate::host::Libvirt;
use crate::interrupt;

fn of(method: SnapshotMethod) -> &'static dyn Method {
    match method {
        SnapshotMethod::External => &external::External,
        SnapshotMethod::BackupPush => &backup_push::BackupPush,
        SnapshotMethod::HostCopy => &host_copy::HostCopy,
    }
}

/// Finds out, before any guest runs, whether a method can work here for disks in `dir`.
pub fn probe(method: SnapshotMethod, libvirt: &Libvirt, accel: Accel, dir: &Path) -> Result<()> {
    of(method).probe(libvirt, accel, dir)
}

/// Takes a snapshot of all disks at one instant, or of one after the other when the scenario wants them
/// apart. Its files are in `dir`, or are those of `drives`.
pub fn take(
    snapshot: Snapshot,
    machine: &Machine,
    drives: &[Drive],
    dir: &Path,
    cycle: u32,
    limits: &Limits,
) -> Result<Taken> {
    let method = of(snapshot.method);
    let request = Request { machine, drives, chosen: drives, dir, cycle, limit: limits.copy };
    if snapshot.apart_ms == 0 {
        return method.take(&request);
    }
    let mut taken = Taken::default();
    for (at, chosen) in drives.chunks(1).enumerate() {
        if at > 0 {
            interrupt::pass(Duration::from_millis(snapshot.apart_ms))?;
        }
        taken.append(method.take(&Request { chosen, ..request })?);
    }
    Ok(taken)
}

/// Gives up the files of a snapshot on which nothing leans but, with some methods, the running guest.
pub fn discard(
    method: SnapshotMethod,
    machine: &mut Machine,
    snapshot: &[Drive],
    limits: &Limits,
) -> Result<()> {
    of(method).discard(machine, snapshot, limits.statement)
}
