//! Verifies a backup that somebody has already: boots its disks once, on overlays and without a network,
//! has its database check itself, and examines the disks from outside, as they were before that.
//!
//! | file | does |
//! |---|---|
//! | `disks` | what is in the files of the disks: damage, partitions, file systems, a kernel |
//! | `signs` | what a console says of a boot that no agent reports |
//! | `servers` | finds, starts and asks the database servers |
//! | `checks` | goes through all tables, within a time, whatever the server does meanwhile |
//! | `mysql`, `postgresql` | what they are asked, and how they answer |
//!
//! It decides nothing: what it finds are [`Facts`] and the records of an observation.

mod checks;
mod disks;
mod mysql;
mod postgresql;
mod servers;
mod signs;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use contract::image::{AgentFacts, Boot, Database, Disk, Manifest, Server};
use contract::observation;
use contract::plan::Limits;
use contract::text::quote_lines;
use contract::verification::{Facts, GuestFate, GuestStart, Request};
use tracing::{error, info};

use crate::directories::Directories;
use crate::error::{Error, GuestError, GuestFailure, Result};
use crate::guest::{Drive, Machine, Spec, Transcript};
use crate::host::{Libvirt, accel, guest_user};
use crate::names::Names;
use crate::observe::{self, SnapshotLayout};
use crate::{inspect, interrupt, overlay};

/// How long a verification may take. Each table and each file system has limits of its own.
pub const LIMIT: Duration = Duration::from_secs(3 * 3600);

/// What a guest is given of a boot's time limit: a server of somebody's takes longer than an image of the
/// project's, whose kernel and services are few.
const BOOT_FACTOR: u32 = 3;

/// The most characters of an error that is kept.
const MAX_WHY: usize = 4000;

/// Kinds of file systems that lie on no disk of their guest.
const ELSEWHERE: [&str; 8] = ["tmpfs", "ramfs", "nfs", "nfs4", "cifs", "ceph", "9p", "virtiofs"];

const ROLE: &str = "verified";

/// The verifying process: reads `request.json` in `dir` and writes `facts.json` and `observation.jsonl`. `root`
/// is a short-lived directory for libvirt, whose path must be short.
pub fn main(dir: &Path, root: &Path) -> ExitCode {
    let run = || -> Result<(), Box<dyn std::error::Error>> {
        interrupt::listen()?;
        interrupt::end_with_parent()?;
        interrupt::end_after(LIMIT);
        let request = Request::read(dir)?;
        let mut facts = Facts::default();
        if let Err(problem) = verify(&request, dir, root, &mut facts) {
            facts.stopped = Some(quote_lines(MAX_WHY, &problem.to_string()));
        }
        Ok(facts.write(dir)?)
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem}");
            ExitCode::from(3)
        }
    }
}

fn verify(request: &Request, dir: &Path, root: &Path, facts: &mut Facts) -> Result<()> {
    let scratch = dir.join("disks");
    std::fs::create_dir_all(&scratch).map_err(Error::io("create", &scratch))?;
    info!("examining the files of the disks");
    disks::check_files(&request.disks, facts)?;
    let base = overlay::over_given(&scratch, "base", &request.disks)?;
    let found = disks::find(&request.disks, &base, &scratch, facts)?;
    let mut image = image(request, found.disks);
    // What it is missing, a guest could only stumble over.
    let is_damaged = !facts.damage.is_empty();
    let start = start(request, found.has_boot_code, &base, &image.disks, &scratch)?;
    let mut out = observe::create(&dir.join(observation::FILE))?;
    let mut directories = Directories::default();
    match start {
        Some(_) if is_damaged => {
            facts.unexamined.push("no guest was started, because the files of the disks are damaged".to_owned());
        }
        Some((start, boot)) => {
            (facts.start, image.boot) = (Some(start), boot);
            let mut guest = Guest { request, dir, root, facts, out: &mut out };
            directories = guest.examine(&mut image, &base, &scratch)?;
        }
        None => facts.unexamined.push(
            "no guest was started: the first disk has no boot code for a BIOS, and no kernel was found on the file \
             systems that can be read from outside"
                .to_owned(),
        ),
    }
    info!("examining the file systems");
    let layout = SnapshotLayout {
        image: &image,
        directories: &directories,
        names: &Names::random(),
        // Whose they are is not known, so none is expected.
        most_transfers: u64::MAX,
    };
    observe::disks(layout, &base, &scratch, &mut out)?;
    observe::complete(out)
}

/// How a guest starts from these disks; `None` when there is no way.
fn start(
    request: &Request,
    has_boot_code: bool,
    base: &[Drive],
    disks: &[Disk],
    scratch: &Path,
) -> Result<Option<(GuestStart, Boot)>> {
    match request.claims.as_ref().map(|claims| &claims.image.boot) {
        Some(given @ Boot::Direct { .. }) => return Ok(Some((GuestStart::ImageKernel, given.clone()))),
        Some(Boot::Firmware) | None if has_boot_code => {
            return Ok(Some((GuestStart::Firmware, Boot::Firmware)));
        }
        Some(Boot::Firmware) | None => {}
    }
    Ok(disks::kernel(base, disks, scratch)?.map(|kernel| (GuestStart::OwnKernel, kernel)))
}

/// The disks as an image of which nothing else is known yet.
fn image(request: &Request, disks: Vec<Disk>) -> Manifest {
    let claimed = request.claims.as_ref().map(|claims| &claims.image);
    Manifest {
        schema: 3,
        name: "verified".to_owned(),
        digest: String::new(),
        distro: String::new(),
        release: String::new(),
        dir: PathBuf::new(),
        boot: Boot::Firmware,
        disks,
        loops: Vec::new(),
        binds: Vec::new(),
        memory_mib: request.memory_mib,
        cpu: request.cpu.clone(),
        agent: AgentFacts { unit: String::new(), hook: PathBuf::new(), enabled_by: PathBuf::new() },
        channel: request.channel,
        server: Server {
            database: claimed.map_or(Database::Mariadb, |image| image.server.database),
            unit: String::new(),
            datadir: PathBuf::new(),
            binlogs: None,
            port: 0,
            user: String::new(),
            password_file: PathBuf::new(),
        },
        versions: Default::default(),
    }
}

/// The only boot of the disks.
struct Guest<'a> {
    request: &'a Request,
    dir: &'a Path,
    root: &'a Path,
    facts: &'a mut Facts,
    out: &'a mut observe::ObservationLog,
}

impl Guest<'_> {
    /// Boots the guest and asks it everything. Returns where its server keeps its files, and completes what
    /// is known of the image.
    fn examine(&mut self, image: &mut Manifest, base: &[Drive], scratch: &Path) -> Result<Directories> {
        let accel = accel::probe(&self.dir.join("accel.json")).accel;
        let limits = Limits::for_accel(accel);
        let layers = self.request.disks.iter().flat_map(|disk| &disk.layers);
        let files: Vec<_> = layers.map(|layer| &*layer.file).collect();
        guest_user::let_run_given(&files, &image.boot, accel, scratch, self.root)?;
        let drives = overlay::over(scratch, ROLE, base)?;
        // With the process number, because two libvirts may share a host.
        let name = format!("freezeframe-verify-{}", std::process::id());
        let console = self.dir.join("console.log");
        let spec = Spec::of_image(image, accel, name, ROLE, drives, console.clone(), self.root);
        // Nobody on the host gets a way to the server of a backup.
        let spec = Spec { forward: None, ..spec };
        let libvirt = Libvirt::embedded(self.root)?;
        let transcript = Transcript::create(&self.dir.join("agent.jsonl"))?;
        info!("booting the guest under {accel}");
        let boot_limit = limits.boot * BOOT_FACTOR;
        let booted = Machine::boot(&libvirt, &spec, ROLE, &transcript, boot_limit, limits.agent);
        let machine = match booted {
            Ok((machine, _)) => machine,
            Err(Error::Guest(GuestError::Failed { failure, console, lines, .. })) => {
                self.facts.guest = Some(self.fate(&failure, &console, &lines));
                return Ok(Directories::default());
            }
            Err(Error::Stalled(..)) if self.facts.start == Some(GuestStart::OwnKernel) => {
                let why = "the kernel of the disks, started from outside, finds none of them: its initial file system \
                           lacks the drivers of virtio disks, or expects the disks to have other names";
                self.facts.guest = Some(GuestFate::Silent { why: why.to_owned() });
                return Ok(Directories::default());
            }
            Err(error) => return Err(error),
        };
        let directories = match self.ask(&machine, image, limits) {
            Err(error) if error.is_of_guest() => {
                machine.check_host()?;
                self.facts.unexamined.push(error.to_string());
                Directories::default()
            }
            answered => answered?,
        };
        machine.power_off()?;
        Ok(directories)
    }

    /// What became of a guest whose agent did not answer.
    fn fate(&self, failure: &GuestFailure, console: &Path, lines: &str) -> GuestFate {
        let text = std::fs::read(console).unwrap_or_default();
        match signs::read(&String::from_utf8_lossy(&text)) {
            Some(signs::Sign::CannotBoot(why)) => GuestFate::Failed { why },
            Some(signs::Sign::Up) => GuestFate::NoAgent,
            None => GuestFate::Silent {
                why: format!(
                    "the guest {failure}, and its console does not show why. It runs on virtio disks, and is reached by \
                     its guest agent only. The console says:\n{lines}"
                ),
            },
        }
    }

    /// Asks a guest that is up.
    fn ask(&mut self, machine: &Machine, image: &mut Manifest, limits: Limits) -> Result<Directories> {
        let agent = machine.agent();
        let version = agent.version()?;
        let system = agent.os().unwrap_or_else(|_| "an unknown system".to_owned());
        // Some distributions forbid their agents to run programs.
        if let Err(error) = agent.shell("true", b"", limits.agent) {
            machine.check_host()?;
            let why = format!(
                "the guest came up, but its agent runs no programs, so nothing in it was checked: {error}"
            );
            self.facts.guest = Some(GuestFate::Silent { why });
            return Ok(Directories::default());
        }
        self.facts.guest = Some(GuestFate::Up { system, agent: version });
        info!("waiting until the guest has started everything");
        servers::settle(agent, limits.boot * BOOT_FACTOR)?;
        if let Some(claims) = &self.request.claims {
            self.facts.unmet = inspect::system(claims, machine, limits)?.differences;
        }
        disks::mounts(agent, &mut image.disks, limits.agent)?;
        let mut directories = Directories::default();
        for (n, found) in servers::find(agent, limits.agent)?.into_iter().enumerate() {
            info!("examining the server {}", found.unit);
            let examined = servers::examine(machine, &found, limits, self.facts, self.out)?;
            if n > 0 {
                let why = format!("the files of {} were not examined from outside", found.unit);
                self.facts.unexamined.push(why);
                continue;
            }
            image.server.unit = found.unit;
            if let Some((database, client)) = examined {
                image.server.database = database;
                directories = self.directories(machine, image, &client, limits)?;
            }
        }
        Ok(directories)
    }

    /// Where the server keeps its files, as far as that can be examined from outside.
    fn directories(
        &mut self,
        machine: &Machine,
        image: &Manifest,
        client: &str,
        limits: Limits,
    ) -> Result<Directories> {
        match crate::directories::find_by(client, machine.agent(), image, limits.agent) {
            Ok((mut directories, _)) => {
                for foreign in directories.take_foreign() {
                    let (path, fs) = (foreign.path.display(), &foreign.fs);
                    match ELSEWHERE.contains(&&**fs) {
                        true => self.facts.damage.push(format!(
                            "{path} of the server lies on {fs}, which is on none of these disks: the backup does not contain \
                             it"
                        )),
                        false => self.facts.unexamined.push(format!(
                            "{path} of the server lies on a file system ({fs}) that is not examined from outside, such as one \
                             on LVM"
                        )),
                    }
                }
                Ok(directories)
            }
            Err(error) if error.is_of_guest() || matches!(error, Error::Directories(_)) => {
                machine.check_host()?;
                self.facts.unexamined.push(error.to_string());
                Ok(Directories::default())
            }
            Err(error) => Err(error),
        }
    }
}
