//! Restore by attaching: a guest beside the first one gets the disks of one snapshot after the
//! other, mounts them and starts their server.
//!
//! This does not show whether the snapshot boots, but saves the time of a boot.

use std::path::{Path, PathBuf};

use contract::image::Server;
use contract::plan::Plan;
use tokio::runtime::Runtime;

use crate::access;
use crate::database::{Access, Connection};
use crate::error::{Error, Result};
use crate::guest::{Drive, Machine, escape_xml, quote_shell};
use crate::names::Names;
use crate::overlay;

/// A guest of the trial's image whose own server is stopped.
#[derive(Debug)]
pub struct Verifier<'a> {
    plan: &'a Plan,
    machine: Machine,
    access: Access,
    /// The directory for overlays over the snapshots.
    dir: PathBuf,
    /// The XML elements of the attached disks.
    attached: Vec<String>,
    /// The number of snapshots so far, part of the names of disks and units.
    count: u32,
}

impl<'a> Verifier<'a> {
    /// A verifier from a running guest that was [prepared](prepare).
    pub fn new(plan: &'a Plan, machine: Machine, dir: &Path) -> Result<Self> {
        let access = Access::of_image(machine.sql_address()?, &plan.image.server)?;
        Ok(Self { plan, machine, access, dir: dir.to_owned(), attached: Vec::new(), count: 0 })
    }

    /// The guest.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Ends the guest as if its power were cut.
    pub fn power_off(self) -> Result<()> {
        self.machine.power_off()
    }

    /// Attaches the snapshot's disks, mounts them and starts their server. Returns a connection to
    /// it, and how it is set up.
    ///
    /// An error of the guest or its database says that the snapshot does not come up, which is a
    /// fact about the backup. In any case [`Self::detach`] must be called before the next snapshot.
    pub fn attach(
        &mut self,
        runtime: &Runtime,
        names: &Names,
        snapshot: &[Drive],
    ) -> Result<(Connection, Server)> {
        let Plan { image, limits, .. } = self.plan;
        self.count += 1;
        let drives = overlay::over(&self.dir, &self.suffix(), snapshot)?;
        let mut mounts = Vec::new();
        for ((disk, drive), letter) in image.disks.iter().zip(&drives).zip('a'..='z') {
            // The guest may still know a disk for some time after its removal, so the next one gets
            // another address.
            let target = self.count * MOST_DISKS % MOST_TARGETS + u32::from(letter) - u32::from('a');
            let xml = format!(
                "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='writeback'/>\
                   <source file='{}'/><target dev='sd{letter}' bus='scsi'/>\
                   <address type='drive' controller='0' bus='0' target='{target}' unit='0'/></disk>",
                escape_xml(&drive.file.to_string_lossy())
            );
            self.machine.attach(&xml)?;
            self.attached.push(xml);
            mounts.extend(disk.file_systems.iter().map(|fs| (&fs.mount, format!("{target} {}", fs.fs))));
        }
        // Each is mounted after those that contain its mount point.
        mounts.sort();
        let unit = self.unit();
        let lines: String =
            mounts.iter().map(|(mount, disk)| format!("{disk} {}\n", mount.display())).collect();
        let line = ATTACH.replace("UNIT", &unit).replace("NOT_THERE", &NOT_THERE.to_string());
        let started = self.machine.agent().shell(&line, lines.as_bytes(), limits.server)?;
        if started.code == Some(NOT_THERE) {
            return Err(self.machine.disks_not_visible());
        }
        self.machine.agent().check(started, &line)?;
        let answers =
            self.access.wait_until_it_answers(limits.server, || self.machine.check_unit(&unit, limits.agent));
        runtime.block_on(answers)?;
        let conn =
            access::connect_observer(&self.machine, runtime, image.server.database, names, limits.agent)?;
        Ok((conn, Server { unit, ..image.server.clone() }))
    }

    /// Ends the server and detaches the disks.
    pub fn detach(&mut self) -> Result<()> {
        let limits = self.plan.limits;
        let line = DETACH.replace("UNIT", &self.unit());
        self.machine.agent().script(&line, b"", limits.server)?;
        for xml in self.attached.drain(..) {
            self.machine.detach(&xml, limits.agent)?;
        }
        for disk in &self.plan.image.disks {
            let overlay = overlay::overlay(&self.dir, &disk.target, &self.suffix());
            std::fs::remove_file(&overlay.file).map_err(Error::io("remove", &overlay.file))?;
        }
        Ok(())
    }

    /// The suffix of the names of the overlays over the current snapshot.
    fn suffix(&self) -> String {
        format!("attached-{}", self.count)
    }

    /// The unit of the current snapshot's server.
    fn unit(&self) -> String {
        format!("freezeframe-attached@{}.service", self.count)
    }
}

/// Prepares a guest to be a [`Verifier`]: stops its server, and creates a unit for the servers of
/// snapshots.
pub fn prepare(machine: &Machine, plan: &Plan) -> Result<()> {
    let line = PREPARE.replace("UNIT", &quote_shell(&plan.image.server.unit));
    machine.agent().script(&line, b"", plan.limits.server).map(drop)
}

/// The most disks of a guest, and the number of addresses that its SCSI controller has for them (0
/// to 255; see virtio-v1.2, 5.6.6.1).
const MOST_DISKS: u32 = 26;
const MOST_TARGETS: u32 = 9 * MOST_DISKS;

/// The exit code of [`ATTACH`] for a disk that does not appear.
const NOT_THERE: i64 = 69;

/// Turns the server's unit into a template with an instance for each snapshot, so that each has a
/// log of its own. `systemctl cat` prints a unit with its drop-ins as one file, and what is added
/// takes precedence: the snapshot is the server's root, nothing runs before the server, and it is
/// killed at the end. Programs are the guest's own, which no trial changes and which are in its
/// page cache already.
const PREPARE: &str = "set -e
systemctl stop UNIT
mkdir -p /run/freezeframe-attached
{
    systemctl cat UNIT
    printf '[Service]\\nRootDirectory=/run/freezeframe-attached\\nMountAPIVFS=yes\\n'
    printf 'BindPaths=/run\\nBindReadOnlyPaths=/usr\\n'
    printf 'ExecStartPre=\\nRestart=no\\nKillSignal=SIGKILL\\n'
} >/run/systemd/system/freezeframe-attached@.service
systemctl daemon-reload
";

/// Reads lines of target, kind and mount point. A disk appears a moment after it was attached, and
/// its device node may still be that of a removed one: it is there when it can be opened.
const ATTACH: &str = "set -e
tries=0
while read -r target fs mount; do
    while set -- /sys/bus/scsi/devices/*:0:\"$target\":0/block/*; ! true 2>/dev/null <\"/dev/${1##*/}\"; do
        [ \"$((tries += 1))\" -lt 200 ] || exit NOT_THERE
        sleep 0.05
    done
    disk=/dev/${1##*/}
    options=rw
    # It has the UUID of this guest's own.
    [ \"$fs\" != xfs ] || options=nouuid
    mount -t \"$fs\" -o \"$options\" \"$disk\" \"/run/freezeframe-attached$mount\"
done
systemctl --no-block start 'UNIT'
";

const DETACH: &str = "set -e
systemctl stop 'UNIT'
systemctl reset-failed 'UNIT' 2>/dev/null || true
! mountpoint -q /run/freezeframe-attached || umount -R /run/freezeframe-attached
";
