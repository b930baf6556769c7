//! By attaching: a guest that runs beside the first one gets the snapshot's
//! disks, mounts them and starts their server, over and over again.
//!
//! What a boot would show and this does not: whether the snapshot boots. What
//! it saves is the boot.

use std::path::{Path, PathBuf};

use contract::image::Server;
use contract::plan::Plan;
use tokio::runtime::Runtime;

use crate::access;
use crate::database::Access;
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
    /// Where overlays over the snapshots go.
    dir: PathBuf,
    /// The elements of the disks that are attached now.
    attached: Vec<String>,
    /// How many snapshots there were, which names disks and units.
    count: u32,
}

impl<'a> Verifier<'a> {
    /// Makes a verifier of a running guest that was [prepared](prepare).
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

    /// Attaches the snapshot's disks, mounts them and starts their server: a
    /// connection to it, and the facts of its unit.
    ///
    /// An error of the guest or its database says that the snapshot does not come up, which is a fact
    /// about the backup. Whatever comes out, [`Self::detach`] must come before the next.
    pub fn attach(
        &mut self,
        runtime: &Runtime,
        names: &Names,
        snapshot: &[Drive],
    ) -> Result<(mysql_async::Conn, Server)> {
        let Plan { image, limits, .. } = self.plan;
        self.count += 1;
        let drives = overlay::over(&self.dir, &self.suffix(), snapshot)?;
        let mut mounts = Vec::new();
        for ((disk, drive), letter) in image.disks.iter().zip(&drives).zip('a'..='z') {
            // The guest may forget a disk only some time after it is gone: the next has another address.
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
        // Each after those that hold its mount point.
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

    /// Ends the server and takes the disks away.
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

    /// What the overlays over the present snapshot are called by.
    fn suffix(&self) -> String {
        format!("attached-{}", self.count)
    }

    /// The unit of the present snapshot's server.
    fn unit(&self) -> String {
        format!("freezeframe-attached@{}.service", self.count)
    }
}

/// Makes a guest fit to be a [`Verifier`]: stops its server, and makes a unit for those to come.
pub fn prepare(machine: &Machine, plan: &Plan) -> Result<()> {
    let line = PREPARE.replace("UNIT", &quote_shell(&plan.image.server.unit));
    machine.agent().script(&line, b"", plan.limits.server).map(drop)
}

/// How many disks a guest has at the most, and how many addresses its SCSI controller
/// has for them (0 to 255; see virtio-v1.2, 5.6.6.1).
const MOST_DISKS: u32 = 26;
const MOST_TARGETS: u32 = 9 * MOST_DISKS;

/// The exit code of [`ATTACH`] for a disk that does not appear.
const NOT_THERE: i64 = 69;

/// Makes the server's unit once more, as a template: one for each snapshot, so
/// that its log is its own. `systemctl cat` prints a unit with its drop-ins as one file. What is added
/// wins: the snapshot is the server's root, nothing comes before the server,
/// and its end need not be a clean one. Programs are the guest's own, which no trial
/// changes: these it has read before.
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

/// Lines of target, kind and mount point on its input. A disk appears a moment after it was attached,
/// and its node may still be that of one which is gone: it is there when it can be opened.
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
