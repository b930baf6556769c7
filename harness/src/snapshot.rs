//! Disks: the overlay that a guest writes to, and the snapshot that freezes it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use virt::sys;

use crate::error::{Error, Result};
use crate::guest::{Drive, Machine};

/// Creates an empty qcow2 overlay for each base, in `dir`, named
/// `TARGET.SUFFIX.qcow2`. The bases are never written.
pub fn overlays<'a>(
    dir: &Path,
    suffix: &str,
    bases: impl Iterator<Item = (&'a str, &'a Path, &'static str)>,
) -> Result<Vec<Drive>> {
    bases
        .map(|(target, base, format)| {
            let file = dir.join(format!("{target}.{suffix}.qcow2"));
            qemu_img(&["create", "-q", "-f", "qcow2", "-F", format, "-b"], &[base, &file])?;
            Ok(Drive { target: target.to_owned(), file })
        })
        .collect()
}

/// Takes an atomic, disk-only, external snapshot of all disks. From then on the
/// guest writes to new overlays in `dir`; the files of `drives` stay as they
/// were at that instant.
///
/// See <https://libvirt.org/formatsnapshot.html>.
pub fn take(machine: &Machine, drives: &[Drive], dir: &Path) -> Result<()> {
    let disks: String = drives
        .iter()
        .map(|drive| {
            let live = dir.join(format!("{}.live.qcow2", drive.target));
            format!(
                "<disk name='{}' snapshot='external'><driver type='qcow2'/><source file='{}'/></disk>",
                crate::guest::escape(&drive.target),
                crate::guest::escape(&live.to_string_lossy())
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

/// Writes the whole content of an overlay and its backing chain to a sparse raw file.
pub fn flatten(drive: &Drive, dir: &Path) -> Result<PathBuf> {
    let raw = dir.join(format!("{}.raw", drive.target));
    qemu_img(&["convert", "-f", "qcow2", "-O", "raw"], &[&drive.file, &raw])?;
    Ok(raw)
}

fn qemu_img(options: &[&str], files: &[&Path]) -> Result<()> {
    let program = Path::new("qemu-img");
    let output = Command::new(program)
        .args(options)
        .args(files)
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io("run", program))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(Error::io("run", program)(std::io::Error::other(format!("{} {}", options.join(" "), reason.trim()))))
}
