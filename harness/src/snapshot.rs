//! Disks: the overlay that a guest writes to, and the snapshot that freezes it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use virt::sys;

use crate::error::{Error, Result};
use crate::guest::{Drive, Machine};
use crate::image::{FileSystem, Manifest};
use crate::interrupt;

/// Creates an empty overlay over each disk of an image, in `dir`, named
/// `TARGET.SUFFIX.qcow2`. The image is never written.
pub fn over_image(dir: &Path, suffix: &str, image: &Manifest) -> Result<Vec<Drive>> {
    overlays(dir, suffix, image.disks.iter().map(|disk| (&*disk.target, &*disk.file, "raw")))
}

/// The same over other overlays.
pub fn over(dir: &Path, suffix: &str, drives: &[Drive]) -> Result<Vec<Drive>> {
    overlays(dir, suffix, drives.iter().map(|drive| (&*drive.target, &*drive.file, "qcow2")))
}

fn overlays<'a>(
    dir: &Path,
    suffix: &str,
    bases: impl Iterator<Item = (&'a str, &'a Path, &'static str)>,
) -> Result<Vec<Drive>> {
    bases
        .map(|(target, base, format)| {
            let drive = overlay(dir, target, suffix);
            qemu_img(&["create", "-q", "-f", "qcow2", "-F", format, "-b"], &[base, &drive.file])?;
            Ok(drive)
        })
        .collect()
}

/// The overlay of one disk, there or not.
pub(crate) fn overlay(dir: &Path, target: &str, suffix: &str) -> Drive {
    Drive { target: target.to_owned(), file: dir.join(format!("{target}.{suffix}.qcow2")) }
}

/// Takes an atomic, disk-only, external snapshot of all disks, or one of each
/// disk with a pause between them. From then on the guest writes to the new
/// overlays in `dir` that are returned; the files of `drives` stay as they were
/// at that instant.
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

/// Lets the guest write to these overlays from now on, those of them that are chosen.
fn switch(machine: &Machine, live: &[Drive], chosen: impl Fn(&Drive) -> bool) -> Result<()> {
    let disks: String = live
        .iter()
        .map(|drive| {
            let target = crate::guest::escape(&drive.target);
            if !chosen(drive) {
                return format!("<disk name='{target}' snapshot='no'/>");
            }
            let file = crate::guest::escape(&drive.file.to_string_lossy());
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

/// Merges overlays that are no longer live into those below them, and removes
/// them: a chain may not grow without end. `limit` bounds each disk.
pub fn merge(machine: &mut Machine, overlays: &[Drive], limit: Duration) -> Result<()> {
    for overlay in overlays {
        machine.commit(overlay, limit)?;
        std::fs::remove_file(&overlay.file).map_err(Error::io("remove", &overlay.file))?;
    }
    Ok(())
}

/// Writes one file system of an overlay and its backing chain to a sparse raw file.
///
/// See qemu(1), `-blockdev`, for the options of the raw driver.
pub fn flatten(drive: &Drive, fs: &FileSystem, dir: &Path) -> Result<PathBuf> {
    let raw = dir.join(format!("{}.raw", fs.name));
    // Commas separate options, and are doubled in a value.
    let file = drive.file.to_string_lossy().replace(',', ",,");
    let part = format!(
        "driver=raw,offset={},size={},file.driver=qcow2,file.file.driver=file,file.file.filename={file}",
        fs.start, fs.bytes
    );
    qemu_img(&["convert", "--image-opts", "-O", "raw", &part], &[&raw])?;
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
