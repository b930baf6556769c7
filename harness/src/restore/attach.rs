//! By attaching: a guest that runs beside the first one gets the snapshot's
//! disks, mounts them and starts their server, over and over again.
//!
//! What a boot would show and this does not: whether the snapshot boots. What
//! it saves is the boot.

use std::path::{Path, PathBuf};

use tokio::runtime::Runtime;

use crate::database::Access;
use crate::error::{Error, Result};
use crate::guest::{Drive, Machine, escape};
use crate::image::Server;
use crate::plan::Plan;
use crate::snapshot;

/// A guest of the trial's image whose own server is stopped.
#[derive(Debug)]
pub struct Verifier<'a> {
    plan: &'a Plan,
    machine: Machine,
    access: Access,
    /// Where overlays over the snapshots go.
    dir: PathBuf,
    /// The elements of the disks that are attached now.
    attached: Vec<String>,
    /// How many snapshots there were, which names disks and units.
    count: u32,
}

impl<'a> Verifier<'a> {
    /// Makes a verifier of a running guest, and stops its server.
    pub fn new(plan: &'a Plan, machine: Machine, dir: &Path) -> Result<Self> {
        let Plan { image, limits, .. } = plan;
        let line = PREPARE.replace("UNIT", &image.server.unit);
        machine.agent().script(&line, b"", limits.server)?;
        let access = Access::new(machine.sql_address()?, &image.server)?;
        Ok(Self { plan, machine, access, dir: dir.to_owned(), attached: Vec::new(), count: 0 })
    }

    /// The guest.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Attaches the snapshot's disks, mounts them and starts their server: a
    /// connection to it, and the facts of its unit.
    ///
    /// An [`Error::Guest`] or [`Error::Sql`] says that the snapshot does not come up,
    /// which is a fact about the backup. Whatever comes out, [`Self::detach`] must follow.
    pub fn attach(&mut self, runtime: &Runtime, snapshot: &[Drive]) -> Result<(mysql_async::Conn, Server)> {
        let Plan { image, limits, .. } = self.plan;
        self.count += 1;
        let drives = snapshot::over(&self.dir, &self.suffix(), snapshot)?;
        let (mut mounts, mut serials) = (Vec::new(), String::new());
        for ((disk, drive), letter) in image.disks.iter().zip(&drives).zip('a'..='z') {
            let serial = format!("{}-{}", disk.target, self.count);
            let xml = format!(
                "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='writeback'/>\
                   <source file='{}'/><target dev='sd{letter}' bus='scsi'/><serial>{serial}</serial></disk>",
                escape(&drive.file.to_string_lossy())
            );
            self.machine.attach(&xml)?;
            self.attached.push(xml);
            serials.push_str(&format!("{serial}\n"));
            mounts.extend(disk.file_systems.iter().map(|fs| (&fs.mount, format!("{serial} {}", fs.fs))));
        }
        // That they do not appear says nothing of the snapshot.
        let appeared = self.machine.agent().shell(APPEAR, serials.as_bytes(), limits.agent)?;
        if appeared.code != Some(0) {
            let disk = Path::new("the snapshot's disks");
            let why = std::io::Error::other("the verifier guest does not see them");
            return Err(Error::io("attach", disk)(why));
        }
        // Each after those that hold its mount point.
        mounts.sort();
        let unit = self.unit();
        let lines: String =
            mounts.iter().map(|(mount, disk)| format!("{disk} {}\n", mount.display())).collect();
        let line = ATTACH.replace("UNIT", &unit);
        self.machine.agent().script(&line, lines.as_bytes(), limits.server)?;
        let conn = self.access.connect_within(limits.server, || self.machine.check_unit(&unit, limits.agent));
        let conn = runtime.block_on(conn)?;
        Ok((conn, Server { unit, ..image.server.clone() }))
    }

    /// Ends the server and takes the disks away.
    pub fn detach(&mut self) -> Result<()> {
        let limits = self.plan.limits;
        let line = DETACH.replace("UNIT", &self.unit());
        self.machine.agent().script(&line, b"", limits.server)?;
        for xml in self.attached.drain(..) {
            self.machine.detach(&xml, limits.agent)?;
        }
        for disk in &self.plan.image.disks {
            let overlay = snapshot::overlay(&self.dir, &disk.target, &self.suffix());
            std::fs::remove_file(&overlay.file).map_err(Error::io("remove", &overlay.file))?;
        }
        Ok(())
    }

    /// What the overlays over the present snapshot are called by.
    fn suffix(&self) -> String {
        format!("attached-{}", self.count)
    }

    /// The unit of the present snapshot's server.
    fn unit(&self) -> String {
        format!("freezeframe-attached@{}.service", self.count)
    }
}

/// Makes the server's unit once more, as a template: one for each snapshot, so
/// that its log is its own. `systemctl cat` prints a unit with its drop-ins as one file. What is added
/// wins: the snapshot is the server's root, nothing comes before the server,
/// and its end need not be a clean one.
const PREPARE: &str = "set -e
systemctl stop 'UNIT'
mkdir -p /run/freezeframe-attached
{
    systemctl cat 'UNIT'
    printf '[Service]\\nRootDirectory=/run/freezeframe-attached\\nMountAPIVFS=yes\\nBindPaths=/run\\n'
    printf 'ExecStartPre=\\nRestart=no\\nKillSignal=SIGKILL\\n'
} >/run/systemd/system/freezeframe-attached@.service
systemctl daemon-reload
";

/// Waits for disks whose serial numbers are lines on its input: the kernel tells
/// udev of each a moment after it was attached.
const APPEAR: &str = "tries=0
while read -r serial; do
    until [ -b \"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_$serial\" ]; do
        [ \"$((tries += 1))\" -lt 200 ] || exit 1
        sleep 0.05
    done
done
";

/// Lines of serial number, kind and mount point on its input.
const ATTACH: &str = "set -e
while read -r serial fs mount; do
    disk=/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_$serial
    options=rw
    # It has the UUID of this guest's own.
    [ \"$fs\" != xfs ] || options=nouuid
    mount -t \"$fs\" -o \"$options\" \"$disk\" \"/run/freezeframe-attached$mount\"
done
systemctl start 'UNIT'
";

const DETACH: &str = "set -e
systemctl stop 'UNIT'
systemctl reset-failed 'UNIT' 2>/dev/null || true
! mountpoint -q /run/freezeframe-attached || umount -R /run/freezeframe-attached
";
