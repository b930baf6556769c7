//! The pipeline: boot, load, freeze, snapshot, thaw, restore, observe.
//!
//! It only gathers facts. What they mean is the judge's business, and whether
//! they were expected is the verdict's.

use std::cell::Cell;
use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;
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
use crate::judge;
use crate::load::{HistoryLog, Load, heartbeat};
use crate::observation::{Record, State};
use crate::observe;
use crate::plan::{Plan, Start};
use crate::quiesce::{self, FreezeWindow, OpenError, Probes};
use crate::restore;
use crate::roll_forward;
use crate::scenario::Point;
use crate::snapshot;
use crate::warm::Warm;

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
    /// A short-lived directory with a short path.
    root: PathBuf,
    /// The exchange disk.
    exchange: PathBuf,
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

    let mut source = progress.stage(Stage::Boot, |p| trial.boot(p))?;
    let backup = trial.make_backup(progress, &mut source);
    if !matches!(backup, Err(Error::Interrupted)) {
        let kept = trial.keep_logs(&source.machine, "source");
        // After a failure the agent may be as stuck as the rest.
        let whole = backup.as_ref().is_ok_and(|backup| !backup.snapshots.is_empty());
        if whole && !source.agent_lost.get() {
            kept?;
        }
    }
    let backup = backup?;
    source.machine.power_off()?;
    for snapshot in &backup.snapshots {
        trial.restore_and_observe(progress, snapshot, &backup.live)?;
    }
    Ok(())
}

/// The first guest, whose backup is made.
struct Source {
    machine: Machine,
    drives: Vec<Drive>,
    access: Access,
    heartbeats: Vec<heartbeat::Channel>,
    /// Whether a thaw has left the agent dead, as a hook that hangs does. The
    /// backup is there all the same; what else the guest could tell is not.
    agent_lost: Cell<bool>,
}

/// What the first guest leaves behind.
struct Backup {
    /// One for each freeze that was not refused.
    snapshots: Vec<Snapshot>,
    /// What a roll-forward must reach; empty when there can be none.
    live: Vec<Record>,
}

/// The disks as they were at one moment.
struct Snapshot {
    cycle: u32,
    drives: Vec<Drive>,
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
        let exchange = disks.join("exchange.raw");
        roll_forward::exchange(&exchange)?;
        Ok(Self {
            plan,
            root: root.to_owned(),
            exchange,
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
        let (mut machine, drives) = self.start(progress)?;
        let xml = self.plan.dir.join("domain.xml");
        fs::write(&xml, machine.xml()?).map_err(Error::io("write", &xml))?;
        quiesce::install_hook(&mut machine, self.plan)?;
        let access = Access::new(machine.sql_address()?, &image.server)?;
        let unit = &image.server.unit;
        let wait = access.connect_within(limits.server, || machine.check_unit(unit, limits.agent));
        if let Err(error) = self.runtime.block_on(wait) {
            // Why it does not serve is in the guest's journal.
            let _ = self.keep_logs(&machine, "source");
            return Err(error);
        }
        let sockets = heartbeat::sockets(image, &self.root);
        let heartbeats = heartbeat::prepare(&machine, image, &sockets, limits.agent)?;
        self.strike(Point::AfterBoot, &machine)?;
        progress.note(&format!("hook {}", self.plan.hook.name()))?;
        Ok((Source { machine, drives, access, heartbeats, agent_lost: Cell::new(false) }, String::new()))
    }

    /// Starts the first guest from a saved memory where it can, or else by a boot;
    /// the guest and its disks.
    fn start(&self, progress: &mut Progress) -> Result<(Machine, Vec<Drive>)> {
        let Plan { image, limits, .. } = self.plan;
        let spec = |drives: &[Drive]| Spec {
            heartbeats: heartbeat::sockets(image, &self.root),
            ..self.spec("source", drives.to_vec())
        };
        match self.warm(&spec) {
            Ok(Some((machine, drives))) => {
                progress.note("started from saved memory")?;
                return Ok((machine, drives));
            }
            Ok(None) => {}
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => {
                progress.note(&format!("booted, because no saved memory could be used: {error}"))?;
            }
        }
        let bases = image.disks.iter().map(|disk| (disk.target.as_str(), disk.file.as_path(), "raw"));
        let drives = snapshot::overlays(&self.disks, "source", bases)?;
        let (machine, stalled) = Machine::boot(
            &self.libvirt,
            &spec(&drives),
            "source",
            &self.transcript,
            limits.boot,
            limits.agent,
        )?;
        note_stalls(progress, stalled)?;
        Ok((machine, drives))
    }

    /// What both guests are made of.
    fn spec(&self, role: &str, drives: Vec<Drive>) -> Spec {
        Spec { exchange: Some(self.exchange.clone()), ..Spec::of(self.plan, role, drives, &self.root) }
    }

    /// Starts the first guest from a saved memory; `None` when the plan wants a boot.
    fn warm(&self, spec: &impl Fn(&[Drive]) -> Spec) -> Result<Option<(Machine, Vec<Drive>)>> {
        if self.plan.start == Start::Cold {
            return Ok(None);
        }
        let warm = Warm::of(&self.libvirt, &self.runtime, self.plan, &self.root, &self.transcript)?;
        let saved = warm.disks(self.plan);
        let bases = saved.iter().map(|drive| (drive.target.as_str(), drive.file.as_path(), "qcow2"));
        let drives = snapshot::overlays(&self.disks, "source", bases)?;
        let machine = warm.start(&self.libvirt, &spec(&drives), self.plan, &self.transcript)?;
        Ok(Some((machine, drives)))
    }

    /// From the load's first write to its last.
    fn make_backup(&self, progress: &mut Progress, source: &mut Source) -> Result<Backup> {
        let load = progress.stage(Stage::Load, |_| self.load(source))?;
        let mut snapshots = Vec::new();
        let mut drives = source.drives.clone();
        for cycle in 1..=self.plan.snapshot.cycles {
            if cycle > 1 {
                self.history.write(&Entry::Cycle { t: clock::now(), n: cycle })?;
            }
            let taken = if self.plan.freeze {
                self.quiesced_snapshot(progress, source, &drives, cycle)?
            } else {
                Some(progress.stage(Stage::Snapshot, |_| self.snapshot(source, &drives, cycle))?)
            };
            if let Some(live) = taken {
                snapshots.push(Snapshot { cycle, drives: std::mem::replace(&mut drives, live) });
            }
            progress.stage(Stage::Resume, |_| self.resume(source, &load))?;
        }
        load.stop(&self.runtime, self.plan.limits.agent)?;
        self.history.finish()?;
        let to_tell = self.plan.freeze && !snapshots.is_empty() && !source.agent_lost.get();
        let live = if to_tell { self.live_state(source)? } else { vec![] };
        Ok(Backup { snapshots, live })
    }

    /// Starts the load and lets it run its time.
    fn load(&self, source: &mut Source) -> Result<(Load, String)> {
        let Plan { image, load, seed, limits, .. } = self.plan;
        let Source { machine, access, .. } = source;
        let running = Load::start(
            &self.runtime,
            access,
            image.server.database,
            load,
            *seed,
            limits.statement,
            &self.history,
            std::mem::take(&mut source.heartbeats),
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

    /// Freeze, snapshot, thaw. The disks that the guest writes to from then on;
    /// `None` when the freeze was refused.
    fn quiesced_snapshot(
        &self,
        progress: &mut Progress,
        source: &Source,
        drives: &[Drive],
        cycle: u32,
    ) -> Result<Option<Vec<Drive>>> {
        let Source { machine, access, .. } = source;
        quiesce::tell(machine.agent(), &self.history)?;
        let probes = Probes::connect(&self.runtime, access, self.plan.limits.statement)?;
        let window = progress.stage(Stage::Freeze, |_| {
            match FreezeWindow::open(machine.agent().clone(), self.plan.limits, &self.history) {
                Ok(window) => Ok((Some(window), String::new())),
                Err(OpenError::Refused(error)) => Ok((None, format!("refused: {error}"))),
                Err(OpenError::Stopped(error)) => Err(error),
            }
        })?;
        let Some(window) = window else { return Ok(None) };
        let frozen = Instant::now();
        self.count_writes(machine, drives)?;
        let answers = probes.send(&self.runtime, &self.history);
        let live = progress.stage(Stage::Snapshot, |_| self.snapshot(source, drives, cycle))?;
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
            source.agent_lost.set(!detail.is_empty() && machine.agent().is_frozen().is_err());
            Ok(((), detail))
        })?;
        Ok(Some(live))
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

    /// Takes the snapshot; the disks that the guest writes to from then on.
    fn snapshot(&self, source: &Source, drives: &[Drive], cycle: u32) -> Result<(Vec<Drive>, String)> {
        let apart = Duration::from_millis(self.plan.snapshot.apart_ms);
        self.history.mark(Mark::SnapBegin, "")?;
        let live = snapshot::take(&source.machine, drives, &self.disks, cycle, apart)?;
        self.history.mark(Mark::SnapEnd, "")?;
        Ok((live, String::new()))
    }

    /// Lets the load go on after the window. Whether writes came through is in
    /// the history; the judge looks there.
    fn resume(&self, source: &Source, load: &Load) -> Result<((), String)> {
        load.wait_for_write(clock::now(), WRITABLE_WITHIN)?;
        self.strike(Point::AfterThaw, &source.machine)?;
        interrupt::pass(AFTERWARDS)?;
        Ok(((), String::new()))
    }

    /// Keeps the binary logs of the source and what its tables hold now that
    /// the load has stopped. Nothing when its hook recorded no position.
    fn live_state(&self, source: &Source) -> Result<Vec<Record>> {
        let Plan { image, limits, .. } = self.plan;
        if !roll_forward::keep_logs(&source.machine, &image.server, limits.agent)? {
            return Ok(vec![]);
        }
        self.runtime.block_on(async {
            let connected = source.access.connect_patiently(limits.statement).await;
            let mut conn = connected.map_err(Error::sql("accept a connection after the load"))?;
            observe::state(&mut conn, image.server.database, State::Live).await
        })
    }

    fn restore_and_observe(
        &self,
        progress: &mut Progress,
        snapshot: &Snapshot,
        live: &[Record],
    ) -> Result<()> {
        let Plan { image, load, limits, .. } = self.plan;
        let myisam = database::myisam_tables(image.server.database, load.profile);
        let dir = self.cycle_dir(snapshot.cycle)?;
        let mut out = observe::create(&dir.join(judge::OBSERVATION))?;
        let (position, restored) = progress.stage(Stage::Restore, |progress| {
            // Side by side: neither writes to the snapshot.
            let (position, booted) = thread::scope(|scope| {
                let raw =
                    scope.spawn(|| observe::disks(image, &snapshot.drives, &myisam, &self.disks, &mut out));
                let booted = restore::overlays(&snapshot.drives, &self.disks).and_then(|drives| {
                    let spec = self.spec("restored", drives);
                    restore::boot(&self.libvirt, &self.runtime, self.plan, &spec, &self.transcript)
                });
                (raw.join().unwrap_or_else(|panic| resume_unwind(panic)), booted)
            });
            let position = position?;
            match booted {
                Ok(restored) => {
                    note_stalls(progress, restored.stalled)?;
                    Ok(((position, Some(restored)), String::new()))
                }
                Err(error @ (Error::Guest(_) | Error::Sql { .. })) => {
                    observe::server_failed(&error.to_string(), &mut out)?;
                    Ok(((None, None), "the snapshot does not come up".to_owned()))
                }
                Err(error) => Err(error),
            }
        })?;
        progress.stage(Stage::Observe, |_| {
            if let Some(restore::Restored { machine, mut conn, .. }) = restored {
                self.runtime.block_on(observe::server(
                    &mut conn,
                    machine.agent(),
                    &image.server,
                    load.profile,
                    limits.agent,
                    &mut out,
                ))?;
                if let Some(position) = position.filter(|_| !live.is_empty()) {
                    live.iter().try_for_each(|record| out.write(record))?;
                    out.write(&roll_forward::replay(&machine, &position, limits.statement)?)?;
                    let reached = observe::state(&mut conn, image.server.database, State::RolledForward);
                    self.runtime.block_on(reached)?.iter().try_for_each(|record| out.write(record))?;
                }
                self.runtime.block_on(observe::memory(&mut conn, &mut out))?;
                self.keep_logs(&machine, "restored")?;
                machine.power_off()?;
            }
            observe::complete(out)?;
            Ok(((), String::new()))
        })
    }

    /// Where the observation of a cycle goes: a trial of one cycle has it beside its history.
    fn cycle_dir(&self, cycle: u32) -> Result<PathBuf> {
        if self.plan.snapshot.cycles == 1 {
            return Ok(self.plan.dir.clone());
        }
        let dir = judge::cycle_dir(&self.plan.dir, cycle);
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        Ok(dir)
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

/// Tells of boots that had to be tried again.
fn note_stalls(progress: &mut Progress, stalled: u32) -> Result<()> {
    match stalled {
        0 => Ok(()),
        n => {
            progress.note(&format!("hung {n} times before its kernel said a word, and was powered on again"))
        }
    }
}
