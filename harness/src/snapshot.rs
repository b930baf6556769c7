//! Snapshot: from one instant on, the guest writes to new files.

use std::path::Path;
use std::time::Duration;

use virt::sys;

use crate::error::{Error, Result};
use crate::guest::{Drive, Machine, escape_xml};
use crate::interrupt;
use crate::overlay::overlay;

/// Takes an atomic, disk-only, external snapshot of all disks, or, when `apart` is not zero, one of
/// each disk with that pause between them. Returns the new overlays in `dir` to which the guest
/// writes from then on; the files of `drives` stay as they were at that instant.
///
/// See <https://libvirt.org/formatsnapshot.html>.
pub fn take(
    machine: &Machine,
    drives: &[Drive],
    dir: &Path,
    cycle: u32,
    apart: Duration,
) -> Result<Vec<Drive>> {
    let suffix = format!("live-{cycle}");
    let live: Vec<_> = drives.iter().map(|drive| overlay(dir, &drive.target, &suffix)).collect();
    if apart.is_zero() {
        switch(machine, &live, |_| true)?;
        return Ok(live);
    }
    for (at, drive) in live.iter().enumerate() {
        if at > 0 {
            interrupt::pass(apart)?;
        }
        switch(machine, &live, |other| other == drive)?;
    }
    Ok(live)
}

/// Switches the guest's writes to the chosen ones of these overlays.
fn switch(machine: &Machine, live: &[Drive], chosen: impl Fn(&Drive) -> bool) -> Result<()> {
    let disks: String = live
        .iter()
        .map(|drive| {
            let target = escape_xml(&drive.target);
            if !chosen(drive) {
                return format!("<disk name='{target}' snapshot='no'/>");
            }
            let file = escape_xml(&drive.file.to_string_lossy());
            format!(
                "<disk name='{target}' snapshot='external'><driver type='qcow2'/><source file='{file}'/></disk>"
            )
        })
        .collect();
    let xml = format!("<domainsnapshot><disks>{disks}</disks></domainsnapshot>");
    let flags = sys::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        | sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
        | sys::VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA;
    machine.domain().create_snapshot_xml(&xml, flags).map_err(Error::libvirt("take the snapshot"))?;
    Ok(())
}

/// Merges overlays that are no longer written to into those below them, and removes them, so that a
/// chain does not grow without end. `limit` bounds the time for each disk.
pub fn merge(machine: &mut Machine, overlays: &[Drive], limit: Duration) -> Result<()> {
    for overlay in overlays {
        machine.commit(overlay, limit)?;
        std::fs::remove_file(&overlay.file).map_err(Error::io("remove", &overlay.file))?;
    }
    Ok(())
}
