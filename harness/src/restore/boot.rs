//! Restore by a boot: a new guest from the snapshot alone.

use contract::plan::Plan;
use tokio::runtime::Runtime;

use crate::access;
use crate::database::{Access, Connection};
use crate::error::Result;
use crate::guest::{Machine, Spec, Transcript};
use crate::host::Libvirt;
use crate::names::Names;

/// A restored guest whose server answers.
#[derive(Debug)]
pub struct Booted {
    /// The guest.
    pub machine: Machine,
    /// A connection to its server.
    pub conn: Connection,
    /// How many times its kernel stalled before it found its disks.
    pub stalled: u32,
}

/// Boots a guest from overlays over the snapshot's disks and waits until its server answers. The
/// first guest must be gone: the two share a machine id.
///
/// An error of the guest or its database says that the snapshot does not come up, which is a fact
/// about the backup.
pub fn boot(
    libvirt: &Libvirt,
    runtime: &Runtime,
    plan: &Plan,
    names: &Names,
    spec: &Spec,
    transcript: &Transcript,
) -> Result<Booted> {
    let (mut machine, stalled) =
        Machine::boot(libvirt, spec, "restored", transcript, plan.limits.boot, plan.limits.agent)?;
    let Plan { image, limits, .. } = plan;
    let access = Access::of_image(machine.sql_address()?, &image.server)?;
    let unit = &image.server.unit;
    runtime
        .block_on(access.wait_until_it_answers(limits.server, || machine.check_unit(unit, limits.agent)))?;
    let conn = access::connect_observer(&machine, runtime, image.server.database, names, limits.agent)?;
    Ok(Booted { machine, conn, stalled })
}
