//! The pipeline: boot, load, freeze, snapshot, thaw, restore, observe.
//!
//! It only gathers facts. What they mean is for the judge, and whether they were expected is for
//! the verdict.

use std::cell::Cell;
use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use contract::binlog::Position;
use contract::events::{self, BOOTED_INSTEAD, Stage};
use contract::history::{Entry, Mark, Setup};
use contract::image::Server;
use contract::observation::{self, Record, ServerState};
use contract::plan::{Plan, Start};
use contract::scenario::{Point, Restore};
use tokio::runtime::Runtime;
use tracing::Span;

use super::progress::{Progress, seconds};
use crate::access;
use crate::clock;
use crate::database::{self, Access, TCP_ADMIN, Target};
use crate::directories::{self, Directories};
use crate::error::{Error, LoadError, Result};
use crate::guest::{Drive, Machine, Spec, Transcript};
use crate::history_log::HistoryLog;
use crate::host::Libvirt;
use crate::interrupt;
use crate::load::{Load, heartbeat};
use crate::names::Names;
use crate::observe::{self, ObservationLog};
use crate::overlay;
use crate::quiesce::{self, FreezeWindow, OpenError, Probes};
use crate::restore::{self, Verifier};
use crate::roll_forward;
use crate::saved_memory::{self, GuestRole, MemoryOrigin, SavedGuest};
use crate::snapshot;

/// The least time for which the guest is held: time for a lock that does not last to be lost, and
/// for writes that should be blocked to come through.
const HOLD: Duration = Duration::from_secs(1);

/// How long the load continues after the thaw, so that a disk which was still written to would hold
/// something from after the snapshot.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// How long it may take after the thaw until writes succeed through every door again.
const WRITABLE_WITHIN: Duration = Duration::from_secs(20);

/// How long a freeze waits until writes succeed through every door.
const POWER_WITHIN: Duration = Duration::from_secs(20);

/// A running trial: what its stages share.
struct Trial<'a> {
    plan: &'a Plan,
    /// The trial's span, for threads that outlive the stage that starts them.
    span: Span,
    names: Names,
    /// Known once the load has started.
    written: OnceLock<Written>,
    runtime: Runtime,
    libvirt: Libvirt,
    history: HistoryLog,
    transcript: Transcript,
    disks: PathBuf,
    /// Where raw disks are copied to.
    scratch: Mutex<PathBuf>,
    /// A short-lived directory with a short path.
    root: PathBuf,
    /// The exchange disk.
    exchange: PathBuf,
}

/// Runs a plan to its end. `root` is a short-lived directory for libvirt, whose
/// path must be short.
pub(super) fn run(plan: &Plan, root: &Path, progress: &mut Progress) -> Result<()> {
    let span = Span::current();
    let trial = progress.stage(Stage::Prepare, |_| Ok((Trial::prepare(plan, root, span)?, String::new())))?;

    let started = progress.stage(Stage::Boot, |p| trial.boot(p))?;
    if plan.start_only {
        return started.machine.power_off();
    }
    thread::scope(|scope| {
        let mut source = progress.stage(Stage::Install, |p| trial.prepare_guest(started, p))?;
        let made = trial.make_backup(progress, &mut source, scope);
        if made.as_ref().is_err_and(|error| !matches!(error, Error::Interrupted)) {
            // The agent may hang like the rest.
            let _ = trial.keep_logs(&source.machine, "source");
        }
        let Backup { load, mut snapshots, verifier } = made?;
        // After a refused freeze the agent may hang like the rest.
        let answers = !snapshots.is_empty() && !source.agent_lost.get();
        let stop =
            |progress: &mut Progress| progress.stage(Stage::Stop, |_| trial.stop(source, load, answers));
        match verifier {
            Some(mut verifier) if plan.restore == Restore::Attach => {
                trial.attach_last_and_observe(progress, &mut verifier, snapshots.pop(), |progress| {
                    progress.stage(Stage::Resume, |_| Ok((interrupt::pass(AFTERWARDS)?, String::new())))?;
                    stop(progress).map(drop)
                })
            }
            verifier => {
                let live = stop(progress)?;
                verifier.map(|verifier| trial.dismiss(verifier)).transpose()?;
                snapshots.into_iter().try_for_each(|it| trial.boot_and_observe(progress, it, &live))
            }
        }
    })
}

/// A guest that has started.
struct Started {
    machine: Machine,
    drives: Vec<Drive>,
    /// Whether it comes from a saved memory, and still has that one's time and identity.
    saved: bool,
    /// How it came up.
    notes: Vec<String>,
}

/// What the load writes, and where the server keeps it.
struct Written {
    setup: Setup,
    directories: Directories,
}

/// The first guest, whose backup is made.
struct Source {
    machine: Machine,
    drives: Vec<Drive>,
    target: Target,
    facts: quiesce::GuestFacts,
    heartbeats: Vec<heartbeat::Channel>,
    /// Whether the agent no longer answers after a thaw, as after a hook that hangs. The backup
    /// exists all the same; what else the guest could report is lost.
    agent_lost: Cell<bool>,
}

/// The disks as they were at one moment.
struct TakenSnapshot<'scope> {
    drives: Vec<Drive>,
    completion: snapshot::Completion,
    inspection: Inspection<'scope>,
}

/// The inspection of a snapshot's raw disks, in a thread beside the other stages: its observation,
/// and the position that a hook recorded.
type Inspection<'scope> = ScopedJoinHandle<'scope, Result<(ObservationLog, Option<Position>)>>;

/// A snapshot that is attached to the verifier.
struct Attached {
    out: ObservationLog,
    /// A connection to its server, and how that server is set up; `None` when it does not come up.
    server: Option<(mysql_async::Conn, Server)>,
}

/// The result of the stages up to the last thaw.
struct Backup<'scope> {
    /// Still running.
    load: Load,
    /// Those not yet observed: all, or with a verifier the last.
    snapshots: Vec<TakenSnapshot<'scope>>,
    verifier: Option<Verifier<'scope>>,
}

impl<'a> Trial<'a> {
    fn prepare(plan: &'a Plan, root: &Path, span: Span) -> Result<Self> {
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
            .map_err(Error::Runtime)?;
        snapshot::probe(plan.snapshot.method, &libvirt, plan.accel, &disks)?;
        let exchange = disks.join("exchange.raw");
        roll_forward::create_exchange(&exchange)?;
        Ok(Self {
            plan,
            span,
            names: Names::random(),
            written: OnceLock::new(),
            root: root.to_owned(),
            exchange,
            runtime,
            libvirt,
            history: HistoryLog::create(&plan.dir.join("history.jsonl"))?,
            transcript: Transcript::create(&plan.dir.join("agent.jsonl"))?,
            scratch: Mutex::new(disks.clone()),
            disks,
        })
    }

    /// Starts the first guest and waits only until its server answers.
    fn boot(&self, progress: &mut Progress) -> Result<(Started, String)> {
        let Plan { image, limits, .. } = self.plan;
        let mut started = self.start(GuestRole::Source)?;
        started.notes.iter().try_for_each(|note| progress.note(note))?;
        let machine = &mut started.machine;
        let access = Access::of_image(machine.sql_address()?, &image.server)?;
        let unit = &image.server.unit;
        let wait = access.wait_until_it_answers(limits.server, || machine.check_unit(unit, limits.agent));
        if let Err(error) = self.runtime.block_on(wait) {
            // The guest's journal says why it does not serve.
            let _ = self.keep_logs(machine, "source");
            return Err(error);
        }
        Ok((started, String::new()))
    }

    /// Prepares the first guest with everything that a trial needs besides its server.
    fn prepare_guest(&self, started: Started, progress: &mut Progress) -> Result<(Source, String)> {
        let Plan { image, limits, .. } = self.plan;
        let (mut machine, drives) = self.wake(started)?;
        let xml = self.plan.dir.join("domain.xml");
        fs::write(&xml, machine.xml()?).map_err(Error::io("write", &xml))?;
        quiesce::install_hook(&mut machine, self.plan)?;
        let target = access::grant(&machine, image.server.database, self.names.clone(), limits.agent)?;
        self.runtime.block_on(target.log_in_once(limits.statement))?;
        let sockets = heartbeat::sockets(image, &self.root);
        let heartbeats = heartbeat::prepare(&machine, image, &sockets, limits.agent)?;
        self.inject_faults(Point::AfterBoot, &machine)?;
        let agent = machine.agent();
        let facts = quiesce::inspect(agent, || directories::find(agent, image, limits.agent))?;
        progress.note(&format!("hook {}", self.plan.hook.name()))?;
        Ok((
            Source { machine, drives, target, facts, heartbeats, agent_lost: Cell::new(false) },
            String::new(),
        ))
    }

    /// Brings a guest from a saved memory up to date.
    fn wake(&self, Started { machine, drives, saved, .. }: Started) -> Result<(Machine, Vec<Drive>)> {
        if saved {
            saved_memory::wake(&machine, self.plan.limits.agent)?;
        }
        Ok((machine, drives))
    }

    /// Starts a guest from a saved memory if possible, otherwise by a boot.
    fn start(&self, role: GuestRole) -> Result<Started> {
        let Plan { image, limits, .. } = self.plan;
        let mut notes = Vec::new();
        match self.start_from_memory(role) {
            Ok(Some((machine, drives, origin))) => {
                let notes = origin_notes(origin);
                return Ok(Started { machine, drives, saved: true, notes });
            }
            Ok(None) => {}
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => notes.push(format!("{BOOTED_INSTEAD}: {error}")),
        }
        let drives = overlay::over_image(&self.disks, role.name(), image)?;
        let spec = role.spec(self.plan, drives.clone(), &self.exchange, &self.root);
        let (machine, stalled) =
            Machine::boot(&self.libvirt, &spec, role.name(), &self.transcript, limits.boot, limits.agent)?;
        notes.extend(stalls(stalled));
        Ok(Started { machine, drives, saved: false, notes })
    }

    /// Starts a guest from a saved memory; `None` when the plan wants a boot.
    fn start_from_memory(&self, role: GuestRole) -> Result<Option<(Machine, Vec<Drive>, MemoryOrigin)>> {
        if self.plan.start == Start::Cold {
            return Ok(None);
        }
        let (saved, origin) =
            SavedGuest::of(&self.libvirt, &self.runtime, self.plan, role, &self.root, &self.transcript)?;
        let drives = overlay::over(&self.disks, role.name(), &saved.disks(self.plan))?;
        let spec = role.spec(self.plan, drives.clone(), &self.exchange, &self.root);
        let machine = saved.start(&self.libvirt, &spec, self.plan, &self.root, &self.transcript)?;
        Ok(Some((machine, drives, origin)))
    }

    /// Starts the guest to which snapshots are attached.
    fn start_verifier(&self) -> Result<(Verifier<'_>, Vec<String>)> {
        let mut started = self.start(GuestRole::Verifier)?;
        if !started.saved {
            restore::prepare(&started.machine, self.plan)?;
        }
        let notes = std::mem::take(&mut started.notes);
        let (machine, _) = self.wake(started)?;
        Ok((Verifier::new(self.plan, machine, &self.disks)?, notes))
    }

    /// Runs from the load's first write to the last freeze: leaves a running load, and a snapshot
    /// for each freeze that was not refused. With a verifier each snapshot but the last is
    /// observed, and its overlays merged, before the next freeze.
    fn make_backup<'scope>(
        &'scope self,
        progress: &mut Progress,
        source: &mut Source,
        scope: &'scope Scope<'scope, '_>,
    ) -> Result<Backup<'scope>> {
        let (load, starting) = progress.stage(Stage::Load, |_| {
            let load = self.start_load(source)?;
            // Its start costs no time while the load runs.
            let starting = (self.plan.restore != Restore::Boot)
                .then(|| scope.spawn(|| self.span.in_scope(|| self.start_verifier())));
            interrupt::pass(Duration::from_secs_f64(self.plan.load.seconds))?;
            Ok(((load, starting), String::new()))
        })?;
        let mut verifier = match starting {
            None => None,
            Some(starting) => Some(progress.stage(Stage::Restore, |progress| {
                let (verifier, notes) = starting.join().unwrap_or_else(|panic| resume_unwind(panic))?;
                notes.iter().try_for_each(|note| progress.note(note))?;
                Ok((verifier, String::new()))
            })?),
        };
        let mut snapshots = Vec::new();
        let mut drives = source.drives.clone();
        for cycle in 1..=self.plan.snapshot.cycles {
            if self.plan.snapshot.cycles > 1 {
                progress.begin_cycle(cycle, self.plan.snapshot.cycles);
            }
            if cycle > 1 {
                self.history.write(&Entry::Cycle { t: clock::now(), n: cycle })?;
            }
            let taken = if self.plan.freeze {
                self.quiesced_snapshot(progress, source, &load, &mut drives, cycle, scope)?
            } else {
                progress.stage(Stage::Load, |_| Ok(((), self.make_ready(&source.machine, &load, cycle)?)))?;
                Some(progress.stage(Stage::Snapshot, |_| self.snapshot(source, &mut drives, cycle, scope))?)
            };
            let completion = taken.as_ref().map(|taken| taken.completion.clone()).unwrap_or_default();
            progress.stage(Stage::Resume, |_| {
                completion.go_on();
                let resumed = self.resume(source, &load, cycle)?;
                // Only a guest that runs can be copied from.
                completion.wait()?;
                Ok(resumed)
            })?;
            match (&mut verifier, taken) {
                (Some(verifier), Some(snapshot)) if cycle < self.plan.snapshot.cycles => {
                    let below = snapshot.drives.clone();
                    load.rest_during(|| self.attach_and_observe(progress, verifier, snapshot))?;
                    // The first of the trial's own overlays stays: all trials share the files below
                    // it.
                    if below != source.drives {
                        let Plan { snapshot, limits, .. } = self.plan;
                        snapshot::discard(snapshot.method, &mut source.machine, &below, limits)?;
                    }
                }
                (_, taken) => snapshots.extend(taken),
            }
        }
        progress.end_cycle();
        Ok(Backup { load, snapshots, verifier })
    }

    /// Ends the load, keeps the first guest's logs if it still `answers`, and cuts its power.
    /// Returns the state that a roll-forward must reach; nothing when none is possible, as without
    /// a snapshot.
    fn stop(&self, source: Source, load: Load, answers: bool) -> Result<(Vec<Record>, String)> {
        let ended = load.stop(&self.runtime, self.plan.limits.agent).and_then(|()| {
            self.history.finish()?;
            let compared = answers && self.plan.freeze && self.plan.restore != Restore::Attach;
            if compared { self.live_state(&source) } else { Ok(vec![]) }
        });
        let kept = self.keep_logs(&source.machine, "source");
        let live = ended?;
        if answers {
            kept?;
        }
        source.machine.power_off()?;
        Ok((live, String::new()))
    }

    /// Starts the load.
    fn start_load(&self, source: &mut Source) -> Result<Load> {
        let Plan { load, seed, limits, .. } = self.plan;
        let Source { machine, drives, target, facts, .. } = source;
        access::check_room(machine, load.data_mib, limits.agent)?;
        let running = Load::start(
            &self.runtime,
            target,
            load,
            *seed,
            limits.statement,
            &self.history,
            drives.iter().map(|drive| drive.target.clone()).collect(),
            std::mem::take(&mut source.heartbeats),
        )?;
        facts.write(&self.history)?;
        // The load starts once.
        let _ = self
            .written
            .set(Written { setup: running.setup().clone(), directories: facts.directories.clone() });
        // Delayed allocation would leave fresh tables empty on the disk and hide finer defects
        // behind that. The profile is set only now, so that the tables themselves are durable in
        // any profile, and by root over the server's own socket, because the load's accounts lack
        // the privilege.
        let profile = database::profile_statements(load.profile);
        machine.agent().script("sync && mysql", profile.as_bytes(), limits.agent)?;
        Ok(running)
    }

    /// Freeze, snapshot, thaw; `None` when the freeze was refused. `drives` become those that the
    /// guest writes to afterwards.
    fn quiesced_snapshot<'scope>(
        &'scope self,
        progress: &mut Progress,
        source: &Source,
        load: &Load,
        drives: &mut Vec<Drive>,
        cycle: u32,
        scope: &'scope Scope<'scope, '_>,
    ) -> Result<Option<TakenSnapshot<'scope>>> {
        let Source { machine, target, .. } = source;
        let probes = progress.stage(Stage::Load, |_| {
            let probes = Probes::connect(&self.runtime, target, cycle, self.plan.limits.statement)?;
            Ok((probes, self.make_ready(machine, load, cycle)?))
        })?;
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
        let mut sent = probes.send(&self.runtime);
        sent.settle(&self.runtime);
        let frozen_disks = drives.clone();
        let snapshot = progress.stage(Stage::Snapshot, |_| self.snapshot(source, drives, cycle, scope))?;
        let probes = progress.stage(Stage::Hold, |_| {
            // Each step here has a time limit, and the window's guard has one for all of them.
            interrupt::pass(HOLD.saturating_sub(frozen.elapsed()))?;
            self.count_writes(machine, &frozen_disks)?;
            sent.send_again(&self.runtime);
            Ok((sent.results(&self.runtime), String::new()))
        })?;
        progress.stage(Stage::Thaw, |_| {
            // A reported failure is a fact for the judge; the window makes sure that the guest is
            // thawed.
            let detail = window.close().map_or_else(|e| e.to_string(), |_| String::new());
            source.agent_lost.set(!detail.is_empty() && machine.agent().is_frozen().is_err());
            probes.into_iter().try_for_each(|probe| self.history.write(&Entry::Probe(probe)))?;
            Ok(((), detail))
        })?;
        Ok(Some(snapshot))
    }

    /// Injects the faults before the first snapshot, then waits until the load is at work: both
    /// must still hold when the freeze is called.
    fn make_ready(&self, machine: &Machine, load: &Load, cycle: u32) -> Result<String> {
        if cycle == 1 {
            self.inject_faults(Point::BeforeFreeze, machine)?;
        }
        load.wait_for_power(POWER_WITHIN)?;
        Ok(format!("{} transfers acknowledged", load.acknowledged()))
    }

    /// Records how much the guest has written so far, as QEMU counts it.
    fn count_writes(&self, machine: &Machine, drives: &[Drive]) -> Result<()> {
        for Drive { target: disk, .. } in drives {
            let (writes, bytes) = machine.written(disk)?;
            let t = clock::now();
            self.history.write(&Entry::BlockStats { t, disk: disk.clone(), writes, bytes })?;
        }
        Ok(())
    }

    /// Takes the snapshot, and starts to inspect its raw disks. `drives` become those that the
    /// guest writes to afterwards.
    fn snapshot<'scope>(
        &'scope self,
        source: &Source,
        drives: &mut Vec<Drive>,
        cycle: u32,
        scope: &'scope Scope<'scope, '_>,
    ) -> Result<(TakenSnapshot<'scope>, String)> {
        let Plan { snapshot, limits, .. } = self.plan;
        self.history.mark(Mark::SnapBegin, "")?;
        let taken = snapshot::take(*snapshot, &source.machine, drives, &self.disks, cycle, limits)?;
        self.history.mark(Mark::SnapEnd, "")?;
        *drives = taken.live;
        let (snapshot, completion) = (taken.snapshot, taken.completion);
        let out = observe::create(&self.cycle_dir(cycle)?.join(observation::FILE))?;
        let (read, complete) = (snapshot.clone(), completion.clone());
        let inspect = move || complete.wait().and_then(|()| self.inspect(&read, out));
        let inspection = scope.spawn(move || self.span.in_scope(inspect));
        Ok((TakenSnapshot { drives: snapshot, completion, inspection }, String::new()))
    }

    /// Inspects the raw disks of a snapshot, which nobody writes to any more.
    fn inspect(
        &self,
        drives: &[Drive],
        mut out: ObservationLog,
    ) -> Result<(ObservationLog, Option<Position>)> {
        let layout = observe::SnapshotLayout {
            image: &self.plan.image,
            directories: &self.written()?.directories,
            names: &self.names,
        };
        // One snapshot at a time, because each inspection copies the disks.
        let scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let position = observe::disks(layout, drives, &scratch, &mut out)?;
        Ok((out, position))
    }

    /// Lets the load continue after the window. Whether writes succeeded is in the history, for the
    /// judge.
    fn resume(&self, source: &Source, load: &Load, cycle: u32) -> Result<((), String)> {
        load.wait_for_all(clock::now(), WRITABLE_WITHIN)?;
        self.inject_faults(Point::AfterThaw, &source.machine)?;
        let attached = match self.plan.restore {
            Restore::Boot => false,
            Restore::Attach => true,
            Restore::AttachAndBoot => cycle < self.plan.snapshot.cycles,
        };
        if !attached {
            // Otherwise the load continues while the snapshot is observed.
            interrupt::pass(AFTERWARDS)?;
        }
        Ok(((), String::new()))
    }

    /// Keeps the binary logs of the source and what its tables hold now that
    /// the load has stopped. Nothing when its hook recorded no position.
    fn live_state(&self, source: &Source) -> Result<Vec<Record>> {
        let Plan { image, limits, .. } = self.plan;
        if !roll_forward::save_binlogs(&source.machine, &image.server, limits.agent)? {
            return Ok(vec![]);
        }
        self.runtime.block_on(async {
            let connected = source.target.door(TCP_ADMIN).connect_with_retries(limits.statement).await;
            let mut conn = connected.map_err(Error::sql("accept a connection after the load"))?;
            observe::state(&mut conn, self.expected()?, ServerState::Live).await
        })
    }

    /// Boots the snapshot, observes it, and ends the guest.
    fn boot_and_observe(
        &self,
        progress: &mut Progress,
        snapshot: TakenSnapshot<'_>,
        live: &[Record],
    ) -> Result<()> {
        let Plan { image, limits, .. } = self.plan;
        let (mut out, position, booted) = progress.stage(Stage::Restore, |progress| {
            let (out, position, booted) = restored(snapshot, |drives| {
                let drives = overlay::over(&self.disks, "restored", drives)?;
                let spec = Spec {
                    exchange: Some(self.exchange.clone()),
                    ..Spec::of(self.plan, "restored", drives, &self.root)
                };
                restore::boot(&self.libvirt, &self.runtime, self.plan, &self.names, &spec, &self.transcript)
            })?;
            if let Some(note) = booted.as_ref().and_then(|booted| stalls(booted.stalled)) {
                progress.note(&note)?;
            }
            let detail = restore_detail(booted.as_ref());
            Ok(((out, position, booted), detail))
        })?;
        progress.stage(Stage::Observe, |_| {
            if let Some(restore::Booted { machine, mut conn, .. }) = booted {
                self.observe_server(&mut conn, &machine, &image.server, &mut out)?;
                if let Some(position) = position.filter(|_| !live.is_empty()) {
                    live.iter().try_for_each(|record| out.write(record))?;
                    out.write(&roll_forward::replay(&machine, &position, limits.statement)?)?;
                    let reached = observe::state(&mut conn, self.expected()?, ServerState::RolledForward);
                    self.runtime.block_on(reached)?.iter().try_for_each(|record| out.write(record))?;
                }
                self.runtime.block_on(observe::memory(&mut conn, &self.names, &mut out))?;
                self.keep_logs(&machine, "restored")?;
                machine.power_off()?;
            }
            observe::complete(out)?;
            Ok(((), String::new()))
        })
    }

    /// Attaches the snapshot to the verifier, observes it, and detaches it again.
    fn attach_and_observe(
        &self,
        progress: &mut Progress,
        verifier: &mut Verifier<'_>,
        snapshot: TakenSnapshot<'_>,
    ) -> Result<()> {
        let attached = progress.stage(Stage::Restore, |_| self.attach(verifier, snapshot))?;
        progress.stage(Stage::Observe, |_| {
            self.observe_attached(verifier, attached)?;
            verifier.detach()?;
            Ok(((), String::new()))
        })
    }

    /// Attaches the last snapshot to the verifier while `stop` brings the load and the first guest
    /// to their end; then observes it, and keeps the verifier's logs.
    fn attach_last_and_observe(
        &self,
        progress: &mut Progress,
        verifier: &mut Verifier<'_>,
        last: Option<TakenSnapshot<'_>>,
        stop: impl FnOnce(&mut Progress) -> Result<()>,
    ) -> Result<()> {
        let attached = thread::scope(|scope| {
            let verifier = &mut *verifier;
            let attaching =
                last.map(|last| scope.spawn(move || self.span.in_scope(|| self.attach(verifier, last))));
            stop(progress)?;
            attaching
                .map(|attaching| {
                    progress.stage(Stage::Restore, |_| {
                        attaching.join().unwrap_or_else(|panic| resume_unwind(panic))
                    })
                })
                .transpose()
        })?;
        progress.stage(Stage::Observe, |_| {
            if let Some(attached) = attached {
                self.observe_attached(verifier, attached)?;
            }
            self.keep_logs(verifier.machine(), "verifier")?;
            Ok(((), String::new()))
        })
    }

    /// Attaches the snapshot to the verifier.
    fn attach(&self, verifier: &mut Verifier<'_>, snapshot: TakenSnapshot<'_>) -> Result<(Attached, String)> {
        let (out, _, server) =
            restored(snapshot, |drives| verifier.attach(&self.runtime, &self.names, drives))?;
        let detail = restore_detail(server.as_ref());
        Ok((Attached { out, server }, detail))
    }

    /// Ends a verifier that is no longer needed, and keeps its logs.
    fn dismiss(&self, verifier: Verifier<'_>) -> Result<()> {
        self.keep_logs(verifier.machine(), "verifier")?;
        verifier.power_off()
    }

    /// Writes down what the server on an attached snapshot holds.
    fn observe_attached(
        &self,
        verifier: &Verifier<'_>,
        Attached { mut out, server }: Attached,
    ) -> Result<()> {
        if let Some((mut conn, server)) = server {
            self.observe_server(&mut conn, verifier.machine(), &server, &mut out)?;
            self.runtime.block_on(observe::memory(&mut conn, &self.names, &mut out))?;
        }
        observe::complete(out)
    }

    /// Writes down what a restored server holds.
    fn observe_server(
        &self,
        conn: &mut mysql_async::Conn,
        machine: &Machine,
        server: &Server,
        out: &mut ObservationLog,
    ) -> Result<()> {
        let limit = self.plan.limits.agent;
        let observed = observe::server(conn, machine.agent(), server, self.expected()?, limit, out);
        self.runtime.block_on(observed)
    }

    fn written(&self) -> Result<&Written> {
        Ok(self.written.get().ok_or(LoadError::NotStarted)?)
    }

    /// What a restored server should hold.
    fn expected(&self) -> Result<observe::Expected<'_>> {
        let database = self.plan.image.server.database;
        Ok(observe::Expected { database, setup: &self.written()?.setup, names: &self.names })
    }

    /// The directory of a cycle's observation: a trial of one cycle has it beside its history.
    fn cycle_dir(&self, cycle: u32) -> Result<PathBuf> {
        if self.plan.snapshot.cycles == 1 {
            return Ok(self.plan.dir.clone());
        }
        let dir = judge::cycle_dir(&self.plan.dir, cycle);
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        Ok(dir)
    }

    /// Runs the faults of this point.
    fn inject_faults(&self, point: Point, machine: &Machine) -> Result<()> {
        for fault in self.plan.faults.iter().filter(|fault| fault.at == point) {
            machine.agent().script(&fault.guest, b"", self.plan.limits.agent)?;
        }
        Ok(())
    }

    /// Keeps the guest's journal, which has the messages of the server, the agent and the hook.
    fn keep_logs(&self, machine: &Machine, guest: &str) -> Result<()> {
        let line = "journalctl -b -o short-monotonic --no-pager | tail -c 262144";
        let journal = machine.agent().script(line, b"", self.plan.limits.agent)?;
        let path = self.plan.dir.join("guest").join(format!("{guest}-journal.log"));
        fs::write(&path, journal).map_err(Error::io("write", &path))
    }
}

/// Restores a snapshot and waits for the inspection of its raw disks. Returns the observation, the
/// position that a hook recorded, and the restored server; `None` when the snapshot does not come
/// up, which is recorded.
fn restored<T>(
    TakenSnapshot { drives, inspection, .. }: TakenSnapshot<'_>,
    restore: impl FnOnce(&[Drive]) -> Result<T>,
) -> Result<(ObservationLog, Option<Position>, Option<T>)> {
    let restored = restore(&drives);
    let (mut out, position) = inspection.join().unwrap_or_else(|panic| resume_unwind(panic))?;
    match restored {
        Ok(restored) => Ok((out, position, Some(restored))),
        Err(error) if error.is_of_guest() => {
            observe::server_failed(&error.to_string(), &mut out)?;
            Ok((out, position, None))
        }
        Err(error) => Err(error),
    }
}

/// The detail of a stage whose snapshot does not come up.
fn restore_detail<T>(restored: Option<&T>) -> String {
    if restored.is_some() { String::new() } else { "the snapshot does not come up".to_owned() }
}

/// The notes of a start from saved memory. Time spent on saving the memory is not part of a start.
fn origin_notes(origin: MemoryOrigin) -> Vec<String> {
    let from_memory = events::FROM_MEMORY.to_owned();
    match origin {
        MemoryOrigin::Found => vec![from_memory],
        MemoryOrigin::Awaited(time) => {
            vec![format!("waited {} for the memory that another trial was saving", seconds(time))]
        }
        MemoryOrigin::Made(time) => {
            vec![format!("booted and saved its memory for all trials in {}", seconds(time)), from_memory]
        }
    }
}

/// The note of a boot that had to be repeated.
fn stalls(stalled: u32) -> Option<String> {
    let times = if stalled == 1 { "once".to_owned() } else { format!("{stalled} times") };
    (stalled > 0).then(|| format!("its kernel stalled before it found its disks; restarted {times}"))
}
