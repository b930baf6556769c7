//! Restore by attaching: a guest beside the first one gets the disks of one snapshot after the
//! other, mounts them and starts their server.
//!
//! This does not show whether the snapshot boots, but saves the time of a boot.

use std::path::Path;
use std::time::Duration;

use contract::image::Server;
use contract::plan::Plan;

use super::restorer::{Restored, Restorer, once_more_if_late};
use crate::access;
use crate::database::Access;
use crate::error::{AgentError, Error, Result, SqlError};
use crate::guest::{Drive, Machine, ON_ERROR, escape_xml, quote_shell};
use crate::overlay;
use crate::session::Session;

/// Where the disks of a snapshot are mounted in the guest, as its root will see them.
pub const ROOT: &str = "/run/freezeframe-attached";

/// The letter of the exchange disk, behind those of a snapshot's.
const EXCHANGE_LETTER: char = 'z';

/// The pause before a server is asked again whether it has recovered.
const PAUSE: Duration = Duration::from_millis(100);

/// A guest of the trial's image whose own server is stopped.
#[derive(Debug)]
pub struct Verifier<'a> {
    session: &'a Session<'a>,
    machine: Machine,
    access: Access,
    /// What the guest's root does to the disks, which are mounted below [`ROOT`], before a server
    /// starts from them: a line for its shell. It reads the exchange disk's address on the SCSI
    /// controller and the server's data directory.
    prelude: Option<String>,
    /// The XML elements of the attached disks.
    attached: Vec<String>,
    /// The number of snapshots so far, part of the names of disks and units.
    count: u32,
}

impl<'a> Verifier<'a> {
    /// A verifier from a running guest that was [prepared](prepare).
    pub fn new(session: &'a Session<'a>, machine: Machine) -> Result<Self> {
        let access = Access::of_image(machine.sql_address()?, &session.plan.image.server)?;
        Ok(Self { session, machine, access, prelude: None, attached: Vec::new(), count: 0 })
    }

    /// Attaches the exchange disk as well, and does this to the disks of every snapshot before a
    /// server starts from them. The first guest, which has the exchange disk, must be gone.
    pub fn with_prelude(self, line: String) -> Self {
        Self { prelude: Some(line), ..self }
    }

    /// Attaches a file as the disk of this letter, and returns its address on the SCSI controller. The
    /// guest may still know a disk for some time after its removal, so the next one gets another.
    fn attach(&mut self, file: &Path, format: &str, letter: char) -> Result<u32> {
        let target = self.count * MOST_DISKS % MOST_TARGETS + u32::from(letter) - u32::from('a');
        let xml = format!(
            "<disk type='file' device='disk'><driver name='qemu' type='{format}' cache='writeback' {ON_ERROR}/>\
               <source file='{}'/><target dev='sd{letter}' bus='scsi'/>\
               <address type='drive' controller='0' bus='0' target='{target}' unit='0'/></disk>",
            escape_xml(&file.to_string_lossy())
        );
        self.machine.attach(&xml)?;
        self.attached.push(xml);
        Ok(target)
    }

    /// Runs the prelude. What fails here says nothing about the backup.
    fn prepare_disks(&mut self, line: &str) -> Result<()> {
        let Session { plan, exchange, .. } = self.session;
        let target = self.attach(exchange, "raw", EXCHANGE_LETTER)?;
        let input = format!("{target}\n{}\n", plan.image.server.datadir.display());
        let prepared = self.machine.agent().script(line, input.as_bytes(), plan.limits.server);
        prepared.map(drop).map_err(|error| Error::NotPrepared(Box::new(error)))
    }

    /// Ends the guest as if its power were cut.
    pub fn power_off(self) -> Result<()> {
        self.machine.power_off()
    }

    /// Waits until the server answers and has recovered: PostgreSQL answers while it still replays
    /// its log.
    fn wait_for_server(&mut self, unit: &str) -> Result<()> {
        let Self { session, machine, access, .. } = self;
        let limits = session.plan.limits;
        session.runtime.block_on(async {
            access.wait_until_it_answers(limits.server, || machine.check_unit(unit, limits.agent)).await?;
            let Some(query) = session.dialect().is_recovering() else { return Ok(()) };
            let mut conn = access.connect_within(limits.server, || Ok(())).await?;
            let failed = || Error::sql("end its recovery");
            let recovered = async {
                while conn.query_first(query).await.map_err(failed())?.is_some() {
                    machine.check_unit(unit, limits.agent)?;
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(())
            };
            let ended = tokio::time::timeout(limits.server, recovered).await;
            ended.unwrap_or_else(|_| Err(failed()(SqlError::TimedOut)))
        })
    }

    /// The suffix of the names of the overlays over the current snapshot.
    fn suffix(&self) -> String {
        format!("attached-{}", self.count)
    }

    /// The unit of the current snapshot's server.
    fn unit(&self) -> String {
        format!("freezeframe-attached@{}.service", self.count)
    }

    /// Attaches the snapshot's disks, mounts them and starts their server.
    fn start(&mut self, snapshot: &[Drive]) -> Result<Restored> {
        let Session { plan, disks, .. } = self.session;
        let Plan { image, limits, .. } = plan;
        self.count += 1;
        let drives = overlay::over(disks, &self.suffix(), snapshot)?;
        let mut mounts = Vec::new();
        for ((disk, drive), letter) in image.disks.iter().zip(&drives).zip('a'..='z') {
            let target = self.attach(&drive.file, "qcow2", letter)?;
            mounts.extend(disk.file_systems.iter().map(|fs| (&fs.mount, format!("{target} {}", fs.fs))));
        }
        // Each is mounted after those that contain its mount point.
        mounts.sort();
        let unit = self.unit();
        let lines: String =
            mounts.iter().map(|(mount, disk)| format!("{disk} {}\n", mount.display())).collect();
        let start = START.replace("UNIT", &unit);
        let mut line = MOUNT.replace("NOT_THERE", &NOT_THERE.to_string());
        if self.prelude.is_none() {
            line.push_str(&start);
        }
        let mounted = self.machine.agent().shell(&line, lines.as_bytes(), limits.server);
        // What goes on mounting would be in the way of another try.
        let mounted = mounted.map_err(|error| match error {
            Error::Agent(AgentError::Unfinished { .. }) => Error::NotMounted(Box::new(error)),
            error => error,
        })?;
        if mounted.code == Some(NOT_THERE) {
            return Err(self.machine.disks_not_visible());
        }
        self.machine.agent().check(mounted, &line)?;
        if let Some(line) = self.prelude.clone() {
            self.prepare_disks(&line)?;
            self.machine.agent().script(&start, b"", limits.server)?;
        }
        self.wait_for_server(&unit)?;
        let conn = access::connect_observer(self.session, &self.machine)?;
        Ok(Restored { conn, server: Server { unit, ..image.server.clone() }, stalled: 0, again: None })
    }
}

impl Restorer for Verifier<'_> {
    /// A server that does not come up in time is started once more, from disks that are attached anew.
    fn restore(&mut self, snapshot: &[Drive]) -> Result<Restored> {
        let (restored, again) = once_more_if_late(self, |this| this.start(snapshot), Self::release)?;
        Ok(Restored { again, ..restored })
    }

    fn machine(&self) -> Option<&Machine> {
        Some(&self.machine)
    }

    /// Ends the server and detaches the disks.
    fn release(&mut self) -> Result<()> {
        let Session { plan, disks, .. } = self.session;
        let line = DETACH.replace("UNIT", &self.unit());
        self.machine.agent().script(&line, b"", plan.limits.server)?;
        for xml in self.attached.drain(..) {
            self.machine.detach(&xml, plan.limits.agent)?;
        }
        for disk in &plan.image.disks {
            let overlay = overlay::overlay(disks, &disk.target, &self.suffix());
            std::fs::remove_file(&overlay.file).map_err(Error::io("remove", &overlay.file))?;
        }
        Ok(())
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
const MOUNT: &str = "set -e
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
";

const START: &str = "systemctl --no-block start 'UNIT'";

const DETACH: &str = "set -e
systemctl stop 'UNIT'
systemctl reset-failed 'UNIT' 2>/dev/null || true
! mountpoint -q /run/freezeframe-attached || umount -R /run/freezeframe-attached
";
