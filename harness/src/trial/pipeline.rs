//! The pipeline: boot, load, freeze, snapshot, thaw, restore, observe.
//!
//! It only gathers facts. What they mean is the judge's business, and whether
//! they were expected is the verdict's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::progress::Progress;
use crate::clock;
use crate::database::{self, Access};
use crate::error::{Error, Result};
use crate::events::{self, Stage};
use crate::guest::{Drive, Machine, Spec, Transcript};
use crate::history::{Entry, Mark};
use crate::host::Libvirt;
use crate::interrupt;
use crate::load::{HistoryLog, Load};
use crate::observe;
use crate::plan::Plan;
use crate::quiesce::{self, FreezeWindow, OpenError, Probes};
use crate::restore;
use crate::scenario::Point;
use crate::snapshot;

/// How long the guest is held at the least: time for a lock that does not last
/// to be lost, and for writes that should not come through to come.
const HOLD: Duration = Duration::from_secs(1);

/// How long the load goes on after the thaw, so that a restored disk that kept
/// being written would hold something from after the snapshot.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// How long the first write after the thaw may take.
const WRITABLE_WITHIN: Duration = Duration::from_secs(20);

/// A trial under way: what its stages share.
struct Trial<'a> {
    plan: &'a Plan,
    runtime: Runtime,
    libvirt: Libvirt,
    history: HistoryLog,
    transcript: Transcript,
    disks: PathBuf,
}

/// Runs a plan to its end. `root` is a short-lived directory for libvirt, whose
/// path must be short. An error is the sentence of the stage that failed.
pub(super) fn run(plan: &Plan, root: &Path) -> Result<(), String> {
    let mut progress =
        Progress::create(&plan.dir.join(events::FILE), &plan.trial).map_err(|e| e.to_string())?;
    pipeline(plan, root, &mut progress).map_err(|e| progress.failed(&e))
}

fn pipeline(plan: &Plan, root: &Path, progress: &mut Progress) -> Result<()> {
    let trial = progress.stage(Stage::Prepare, |_| Ok((Trial::prepare(plan, root)?, String::new())))?;

    let source = progress.stage(Stage::Boot, |p| trial.boot(p))?;
    let snapshot = trial.make_backup(progress, &source);
    if !matches!(snapshot, Err(Error::Interrupted)) {
        let kept = trial.keep_logs(&source.machine, "source");
        // After a failure the agent may be as stuck as the rest.
        if matches!(snapshot, Ok(true)) {
            kept?;
        }
    }
    let snapshot = snapshot?;
    let Source { machine, drives, .. } = source;
    machine.power_off()?;
    if snapshot {
        trial.restore_and_observe(progress, &drives)?;
    }
    Ok(())
}

/// The first guest, whose backup is made.
struct Source {
    machine: Machine,
    drives: Vec<Drive>,
    access: Access,
}

impl<'a> Trial<'a> {
    fn prepare(plan: &'a Plan, root: &Path) -> Result<Self> {
        let disks = plan.dir.join("disks");
        for dir in [&disks, &plan.dir.join("guest")] {
            fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        }
        let libvirt = match &plan.connect {
            None => Libvirt::embedded(root)?,
            Some(uri) => Libvirt::connect(uri)?,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(Error::io("start", Path::new("tokio")))?;
        Ok(Self {
            plan,
            runtime,
            libvirt,
            history: HistoryLog::create(&plan.dir.join("history.jsonl"))?,
            transcript: Transcript::create(&plan.dir.join("agent.jsonl"))?,
            disks,
        })
    }

    /// Boots the first guest until its server answers, the hook in place.
    fn boot(&self, progress: &mut Progress) -> Result<(Source, String)> {
        let Plan { image, limits, .. } = self.plan;
        let bases = image.disks.iter().map(|disk| (disk.target.as_str(), disk.file.as_path(), "raw"));
        let drives = snapshot::overlays(&self.disks, "source", bases)?;
        let spec = Spec::of(self.plan, "source", drives.clone());
        let mut machine = Machine::power_on(&self.libvirt, &spec, "source", &self.transcript, limits.agent)?;
        let xml = self.plan.dir.join("domain.xml");
        fs::write(&xml, machine.xml()?).map_err(Error::io("write", &xml))?;
        machine.wait_for_agent(limits.boot)?;
        quiesce::install_hook(&mut machine, self.plan)?;
        let access = Access::new(machine.sql_address()?, &image.server)?;
        let wait = access.connect_within(limits.server, || machine.check_alive());
        drop(self.runtime.block_on(wait)?);
        self.strike(Point::AfterBoot, &machine)?;
        progress.note(&format!("hook {}", self.plan.hook.name()))?;
        Ok((Source { machine, drives, access }, String::new()))
    }

    /// From the load's first write to its last. False when the freeze was
    /// refused, so that there is no snapshot.
    fn make_backup(&self, progress: &mut Progress, source: &Source) -> Result<bool> {
        let Source { machine, drives, access } = source;
        let load = progress.stage(Stage::Load, |_| self.load(machine, access))?;
        let snapshot = if self.plan.freeze {
            self.quiesced_snapshot(progress, source)?
        } else {
            progress.stage(Stage::Snapshot, |_| self.snapshot(machine, drives))?;
            true
        };
        progress.stage(Stage::Resume, |_| self.resume(machine, load))?;
        Ok(snapshot)
    }

    /// Starts the load and lets it run its time.
    fn load(&self, machine: &Machine, access: &Access) -> Result<(Load, String)> {
        let Plan { image, load, seed, limits, .. } = self.plan;
        let running = Load::start(
            &self.runtime,
            access,
            image.server.database,
            load,
            *seed,
            limits.statement,
            &self.history,
        )?;
        // Delayed allocation would leave fresh tables empty on the disk and
        // hide finer defects behind that.
        machine.agent().script("sync", b"", limits.agent)?;
        // Only now, so that the tables themselves are safe whatever the profile;
        // as root over the server's own socket, because the load's account may not.
        let profile = database::profile_statements(load.profile);
        machine.agent().script("mysql", profile.as_bytes(), limits.agent)?;
        interrupt::pass(Duration::from_secs_f64(load.seconds))?;
        self.strike(Point::BeforeFreeze, machine)?;
        let detail = format!("{} transfers acknowledged", running.acknowledged());
        Ok((running, detail))
    }

    /// Freeze, snapshot, thaw. False when the freeze was refused.
    fn quiesced_snapshot(&self, progress: &mut Progress, source: &Source) -> Result<bool> {
        let Source { machine, drives, access } = source;
        let probes = Probes::connect(&self.runtime, access, self.plan.limits.statement)?;
        let window = progress.stage(Stage::Freeze, |_| {
            match FreezeWindow::open(machine.agent().clone(), self.plan.limits, &self.history) {
                Ok(window) => Ok((Some(window), String::new())),
                Err(OpenError::Refused(error)) => Ok((None, format!("refused: {error}"))),
                Err(OpenError::Stopped(error)) => Err(error),
            }
        })?;
        let Some(window) = window else { return Ok(false) };
        let frozen = Instant::now();
        self.count_writes(machine, drives)?;
        let answers = probes.send(&self.runtime, &self.history);
        progress.stage(Stage::Snapshot, |_| self.snapshot(machine, drives))?;
        // The probes bound themselves; the window's guard bounds them once more.
        self.runtime
            .block_on(answers)
            .map_err(|e| Error::Guest(format!("the quiescence probes ended: {e}")))??;
        interrupt::pass(HOLD.saturating_sub(frozen.elapsed()))?;
        self.count_writes(machine, drives)?;
        progress.stage(Stage::Thaw, |_| {
            // A thaw that reports a failure is a fact for the judge; the
            // window makes sure that the guest is thawed.
            let detail = window.close().map_or_else(|e| e.to_string(), |_| String::new());
            Ok(((), detail))
        })?;
        Ok(true)
    }

    /// What the guest has written so far, by QEMU's count.
    fn count_writes(&self, machine: &Machine, drives: &[Drive]) -> Result<()> {
        for Drive { target: disk, .. } in drives {
            let (writes, bytes) = machine.written(disk)?;
            let t = clock::now();
            self.history.write(&Entry::BlockStats { t, disk: disk.clone(), writes, bytes })?;
        }
        Ok(())
    }

    fn snapshot(&self, machine: &Machine, drives: &[Drive]) -> Result<((), String)> {
        self.history.mark(Mark::SnapBegin, "")?;
        snapshot::take(machine, drives, &self.disks)?;
        self.history.mark(Mark::SnapEnd, "")?;
        Ok(((), String::new()))
    }

    /// Lets the load go on after the window, and ends it. Whether writes came
    /// through is in the history; the judge looks there.
    fn resume(&self, machine: &Machine, load: Load) -> Result<((), String)> {
        load.wait_for_write(clock::now(), WRITABLE_WITHIN)?;
        self.strike(Point::AfterThaw, machine)?;
        interrupt::pass(AFTERWARDS)?;
        load.stop(&self.runtime, self.plan.limits.agent)?;
        self.history.finish()?;
        Ok(((), String::new()))
    }

    fn restore_and_observe(&self, progress: &mut Progress, drives: &[Drive]) -> Result<()> {
        let Plan { image, limits, .. } = self.plan;
        let followers = database::follower_tables(image.server.database);
        let myisam: Vec<_> =
            followers.iter().filter(|(_, engine)| *engine == "MyISAM").map(|(table, _)| *table).collect();
        let mut observation = observe::create(&self.plan.dir.join("observation.jsonl"))?;
        let restored = progress.stage(Stage::Restore, |_| {
            observe::disks(image, drives, &myisam, &self.disks, &mut observation)?;
            match restore::boot(
                &self.libvirt,
                &self.runtime,
                self.plan,
                drives,
                &self.disks,
                &self.transcript,
            ) {
                Ok(restored) => Ok((Some(restored), String::new())),
                Err(error @ (Error::Guest(_) | Error::Sql { .. })) => {
                    observe::server_failed(&error.to_string(), &mut observation)?;
                    Ok((None, "the snapshot does not come up".to_owned()))
                }
                Err(error) => Err(error),
            }
        })?;
        progress.stage(Stage::Observe, |_| {
            if let Some(restore::Restored { machine, mut conn }) = restored {
                self.runtime.block_on(observe::server(
                    &mut conn,
                    machine.agent(),
                    &image.server,
                    followers,
                    limits.agent,
                    &mut observation,
                ))?;
                self.keep_logs(&machine, "restored")?;
                machine.power_off()?;
            }
            observe::complete(observation)?;
            Ok(((), String::new()))
        })
    }

    /// Runs the faults of this point.
    fn strike(&self, point: Point, machine: &Machine) -> Result<()> {
        for fault in self.plan.faults.iter().filter(|fault| fault.at == point) {
            machine.agent().script(&fault.guest, b"", self.plan.limits.agent)?;
        }
        Ok(())
    }

    /// Keeps the guest's journal, which holds the server's, the agent's and
    /// the hook's words.
    fn keep_logs(&self, machine: &Machine, guest: &str) -> Result<()> {
        let line = "journalctl -b -o short-monotonic --no-pager | tail -c 262144";
        let journal = machine.agent().script(line, b"", self.plan.limits.agent)?;
        let path = self.plan.dir.join("guest").join(format!("{guest}-journal.log"));
        fs::write(&path, journal).map_err(Error::io("write", &path))
    }
}
