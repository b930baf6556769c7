//! External snapshots: from one instant on, the guest writes to new overlays, and the files below them
//! are the snapshot.

use std::path::Path;
use std::time::Duration;

use contract::plan::Accel;
use virt::sys;

use super::method::{Completion, Method, Request, Taken, remove};
use crate::error::{Error, Result};
use crate::guest::{Drive, Machine, escape_xml};
use crate::host::Libvirt;
use crate::overlay::{self, overlay};

/// Atomic, disk-only, external snapshots. See <https://libvirt.org/formatsnapshot.html>.
pub(super) struct External;

impl Method for External {
    /// Every libvirt that drives QEMU has them.
    fn probe(&self, _: &Libvirt, _: Accel, _: &Path) -> Result<()> {
        Ok(())
    }

    fn take(&self, request: &Request<'_>) -> Result<Taken> {
        let &Request { machine, drives, chosen, dir, cycle, .. } = request;
        let suffix = format!("live-{cycle}");
        let live: Vec<_> = chosen.iter().map(|drive| overlay(dir, &drive.target, &suffix)).collect();
        for (above, below) in live.iter().zip(chosen) {
            overlay::create(above, machine.disk_bytes(&below.target)?, Some(&below.file))?;
        }
        let disks: String = drives
            .iter()
            .map(|drive| {
                let target = escape_xml(&drive.target);
                let Some(overlay) = live.iter().find(|overlay| overlay.target == drive.target) else {
                    return format!("<disk name='{target}' snapshot='no'/>");
                };
                let file = escape_xml(&overlay.file.to_string_lossy());
                format!(
                    "<disk name='{target}' snapshot='external'><driver type='qcow2'/><source file='{file}'/></disk>"
                )
            })
            .collect();
        let xml = format!("<domainsnapshot><disks>{disks}</disks></domainsnapshot>");
        let flags = sys::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
            | sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
            | sys::VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
            | sys::VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA;
        machine.domain().create_snapshot_xml(&xml, flags).map_err(Error::libvirt("take the snapshot"))?;
        Ok(Taken { snapshot: chosen.to_vec(), live, completion: Completion::default() })
    }

    /// Merges the snapshot's overlays into those below them, so that a chain does not grow without end.
    fn discard(&self, machine: &mut Machine, snapshot: &[Drive], limit: Duration) -> Result<()> {
        for overlay in snapshot {
            machine.commit(overlay, limit)?;
            remove(overlay)?;
        }
        Ok(())
    }
}
