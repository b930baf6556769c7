//! The pipeline: boot, load, freeze, snapshot, thaw, restore, observe.
//!
//! It only gathers facts. What they mean is for the judge, and whether they were expected is for
//! the verdict.

use std::cell::Cell;
use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use contract::binlog::Position;
use contract::events::{self, BOOTED_INSTEAD, Stage};
use contract::history::{Entry, Mark, Nanos, Quiescence, Sender, Setup};
use contract::image::AgentChannel;
use contract::observation::{self, Record, ServerState};
use contract::plan::{Plan, Start};
use contract::scenario::{Point, Restore, Strike};
use tracing::Span;

use super::instruments::{Instruments, agent_command};
use super::progress::{Progress, seconds};
use crate::access;
use crate::bounds;
use crate::clock;
use crate::database::{Connection, TCP_ADMIN, Target};
use crate::directories::{self, Directories};
use crate::error::{Error, LoadError, Result};
use crate::guest::agent_proxy::{AgentProxy, Exchange};
use crate::guest::{Drive, Machine, Spec};
use crate::interrupt;
use crate::load::{Load, Order, heartbeat};
use crate::observe::{self, ObservationLog};
use crate::overlay;
use crate::quiesce::{self, FreezeWindow, OpenError};
use crate::restore::{self, Restored, Restorer, Verifier};
use crate::roll_forward;
use crate::saved_memory::{self, GuestRole, GuestsInUse, MemoryOrigin, SavedGuest};
use crate::session::Session;
use crate::snapshot::{self, Taken};

/// The least time for which the guest is held: time for a lock that does not last to be lost, and
/// for writes that should be blocked to come through.
pub(super) const HOLD: Duration = Duration::from_secs(1);

/// How long the load continues after the thaw, so that a disk which was still written to would hold
/// something from after the snapshot.
pub(super) const AFTERWARDS: Duration = Duration::from_secs(1);

/// How long it may take after the thaw until writes succeed through every door again.
const WRITABLE_WITHIN: Duration = Duration::from_secs(20);

/// How long a freeze waits until writes succeed through every door.
const POWER_WITHIN: Duration = Duration::from_secs(20);

/// A running trial: what its stages share.
pub(super) struct Trial<'a> {
    pub(super) session: Session<'a>,
    /// The trial's span, for threads that outlive the stage that starts them.
    pub(super) span: Span,
    /// Known once the load has started.
    written: OnceLock<Written>,
    /// Where raw disks are copied to.
    scratch: Mutex<PathBuf>,
    /// Where the first guest's sockets are.
    pub(super) sockets: PathBuf,
    /// What its guests stand on that did not boot.
    saved: &'a GuestsInUse,
    /// A witness of what libvirt tells the first guest's agent. Where a backup tool works, it has one of its own;
    /// and libvirt does not speak to an agent on a serial port.
    proxy: Option<Arc<AgentProxy>>,
}

/// Runs a plan to its end. `root` is a short-lived directory for libvirt, whose
/// path must be short. `saved` becomes what its guests stand on.
pub(super) fn run(plan: &Plan, root: &Path, progress: &mut Progress, saved: &GuestsInUse) -> Result<()> {
    let span = Span::current();
    let trial =
        progress.stage(Stage::Prepare, |_| Ok((Trial::prepare(plan, root, span, saved)?, String::new())))?;

    let started = progress.stage(Stage::Boot, |p| trial.boot(p))?;
    if plan.start_only {
        return started.machine.power_off();
    }
    thread::scope(|scope| {
        let mut source = progress.stage(Stage::Install, |p| trial.prepare_guest(started, p))?;
        let made = trial.make_backup(progress, &mut source, scope);
        if made.as_ref().is_err_and(|error| !error.ends_trial_at_once()) {
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
pub(super) struct Started {
    pub(super) machine: Machine,
    pub(super) drives: Vec<Drive>,
    /// The saved guest that it comes from, of which it still has the time and the identity.
    pub(super) saved: Option<Arc<SavedGuest>>,
    /// How it came up.
    pub(super) notes: Vec<String>,
}

/// What the load writes, and where the server keeps it.
struct Written {
    setup: Setup,
    directories: Directories,
}

/// The first guest, whose backup is made.
pub(super) struct Source {
    pub(super) machine: Machine,
    pub(super) drives: Vec<Drive>,
    pub(super) target: Target,
    facts: quiesce::GuestFacts,
    heartbeats: Vec<heartbeat::Channel>,
    /// Whether the agent no longer answers after a thaw, as after a hook that hangs. The backup
    /// exists all the same; what else the guest could report is lost.
    pub(super) agent_lost: Cell<bool>,
}

/// The disks as they were at one moment.
pub(super) struct TakenSnapshot<'scope> {
    pub(super) drives: Vec<Drive>,
    pub(super) completion: snapshot::Completion,
    pub(super) inspection: Inspection<'scope>,
}

/// The inspection of a snapshot's raw disks, in a thread beside the other stages: its observation,
/// and the position that a hook recorded.
type Inspection<'scope> = ScopedJoinHandle<'scope, Result<(ObservationLog, Option<Position>)>>;

/// A snapshot whose raw disks were inspected.
struct Observed {
    out: ObservationLog,
    /// The position in the binary log that a hook recorded.
    position: Option<Position>,
    /// Its server; `None` when it does not come up.
    server: Option<Restored>,
}

impl Observed {
    /// Notes how its server came up, if that was unusual.
    fn noted(self, progress: &mut Progress) -> Result<Self> {
        if let Some(Restored { stalled, again, .. }) = &self.server {
            let again = again.as_ref().map(|why| format!("started once more from the same snapshot: {why}"));
            stalls(*stalled).iter().chain(&again).try_for_each(|note| progress.note(note))?;
        }
        Ok(self)
    }
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
    pub(super) fn prepare(plan: &'a Plan, root: &Path, span: Span, saved: &'a GuestsInUse) -> Result<Self> {
        let session = Session::create(plan, root)?;
        snapshot::probe(plan.snapshot.method, &session.libvirt, plan.accel, &session.disks)?;
        roll_forward::create_exchange(&session.exchange, &plan.image)?;
        let scratch = Mutex::new(session.disks.clone());
        let sockets = root.to_owned();
        let is_ours = plan.backup.is_none() && plan.image.channel == AgentChannel::VirtioSerial;
        // A guest whose memory is saved first has a socket of its own where the agent's usually is.
        let listen = || AgentProxy::listen(GuestRole::Source.name(), &root.join("agent-proxy"));
        // Nobody is told of what passes: it is read when a window is over.
        let proxy = is_ours.then(listen).transpose()?.map(|(proxy, _)| Arc::new(proxy));
        Ok(Self { session, span, written: OnceLock::new(), scratch, sockets, saved, proxy })
    }

    /// Starts the first guest and waits only until its server answers.
    fn boot(&self, progress: &mut Progress) -> Result<(Started, String)> {
        let mut started = self.start(GuestRole::Source)?;
        started.notes.iter().try_for_each(|note| progress.note(note))?;
        if let Err(error) = self.wait_for_server(&mut started) {
            started = self.boot_source_instead(started, error, progress)?;
        }
        Ok((started, String::new()))
    }

    pub(super) fn wait_for_server(&self, started: &mut Started) -> Result<()> {
        let answered = self.session.wait_for_server(&mut started.machine);
        if answered.is_err() {
            // The guest's journal says why it does not serve.
            let _ = self.keep_logs(&started.machine, "source");
        }
        answered
    }

    /// The same as [`Self::boot_instead`] for the first guest, whose server must answer.
    fn boot_source_instead(&self, failed: Started, error: Error, progress: &mut Progress) -> Result<Started> {
        let mut started = self.boot_instead(failed, GuestRole::Source, error)?;
        started.notes.iter().try_for_each(|note| progress.note(note))?;
        self.wait_for_server(&mut started)?;
        Ok(started)
    }

    /// Prepares the first guest with everything that a trial needs besides its server.
    pub(super) fn prepare_guest(
        &self,
        mut started: Started,
        progress: &mut Progress,
    ) -> Result<(Source, String)> {
        if let Err(error) = self.wake(&started) {
            started = self.boot_source_instead(started, error, progress)?;
        }
        let Started { mut machine, drives, .. } = started;
        machine.has_to_live();
        match self.equip(&mut machine, progress) {
            Ok((target, facts, heartbeats)) => Ok((
                Source { machine, drives, target, facts, heartbeats, agent_lost: Cell::new(false) },
                String::new(),
            )),
            Err(error) => {
                if !error.ends_trial_at_once() {
                    // The guest's journal says more, and the guest is about to go.
                    let _ = self.keep_logs(&machine, "source");
                }
                Err(error)
            }
        }
    }

    /// Gives a guest the hook, and the load its ways in.
    fn equip(
        &self,
        machine: &mut Machine,
        progress: &mut Progress,
    ) -> Result<(Target, quiesce::GuestFacts, Vec<heartbeat::Channel>)> {
        let Plan { image, limits, .. } = self.session.plan;
        let xml = self.session.plan.dir.join("domain.xml");
        fs::write(&xml, machine.xml()?).map_err(Error::io("write", &xml))?;
        quiesce::install_hook(machine, self.session.plan)?;
        let target = access::grant(&self.session, machine)?;
        self.session.runtime.block_on(target.log_in_once(limits.statement))?;
        let sockets = heartbeat::sockets(image, &self.sockets);
        let heartbeats = heartbeat::prepare(machine, image, &sockets, limits.agent)?;
        self.inject_faults(Point::AfterBoot, machine)?;
        let agent = machine.agent();
        let facts = quiesce::inspect(agent, || directories::find(agent, image, limits.agent))?;
        progress.note(&format!("hook {}", self.session.plan.hook.name()))?;
        Ok((target, facts, heartbeats))
    }

    /// Brings a guest from a saved memory up to date.
    fn wake(&self, Started { machine, saved, .. }: &Started) -> Result<()> {
        saved.as_ref().map_or(Ok(()), |_| saved_memory::wake(machine, self.session.plan.limits.agent))
    }

    /// Starts a guest from a saved memory if possible, otherwise by a boot.
    fn start(&self, role: GuestRole) -> Result<Started> {
        let mut notes = Vec::new();
        match self.start_from_memory(role, &mut notes) {
            Ok(Some(started)) => return Ok(Started { notes, ..started }),
            Ok(None) => {}
            Err(error) if error.is_of_host() => return Err(error),
            Err(error) => notes.push(format!("{BOOTED_INSTEAD}: {error}")),
        }
        self.start_by_boot(role, notes)
    }

    fn spec(&self, role: GuestRole, drives: &[Drive]) -> Spec {
        let Session { plan, exchange, root, .. } = &self.session;
        let spec = role.spec(plan, drives.to_vec(), exchange, root);
        match self.proxy.clone().filter(|_| role == GuestRole::Source) {
            Some(proxy) => Spec { agent: proxy.socket().to_owned(), proxy: Some(proxy), ..spec },
            None => spec,
        }
    }

    fn start_by_boot(&self, role: GuestRole, mut notes: Vec<String>) -> Result<Started> {
        let Session { plan, disks, .. } = &self.session;
        let drives = overlay::over_image(disks, role.name(), &plan.image)?;
        let spec = self.spec(role, &drives);
        let (machine, stalled) = self.session.boot(&spec, role.name())?;
        notes.extend(stalls(stalled));
        Ok(Started { machine, drives, saved: None, notes })
    }

    /// Starts a guest from a saved memory; `None` when the plan wants a boot.
    fn start_from_memory(&self, role: GuestRole, notes: &mut Vec<String>) -> Result<Option<Started>> {
        if self.session.plan.start == Start::Cold {
            return Ok(None);
        }
        let Session { plan, disks, .. } = &self.session;
        let (saved, origin) = SavedGuest::of(&self.session, role, notes)?;
        let start = || {
            let drives = overlay::over(disks, role.name(), &saved.disks(plan))?;
            let spec = self.spec(role, &drives);
            Ok((saved.start(&self.session, &spec)?, drives))
        };
        let (machine, drives) =
            start().map_err(|error| saved.reject(error).map_or_else(|e| e, Error::from))?;
        notes.extend(origin_notes(origin));
        let saved = Arc::new(saved);
        self.saved.add(&saved);
        Ok(Some(Started { machine, drives, saved: Some(saved), notes: vec![] }))
    }

    /// Boots a guest whose start from a saved memory led to this error, if that speaks against the memory.
    /// Otherwise, as with a guest that did boot, the error is returned.
    fn boot_instead(&self, failed: Started, role: GuestRole, error: Error) -> Result<Started> {
        let Some(saved) = &failed.saved else { return Err(error) };
        let why = saved.reject(error)?;
        // It may be gone already.
        let _ = failed.machine.power_off();
        self.saved.remove(saved);
        self.start_by_boot(role, vec![format!("{BOOTED_INSTEAD}: {why}")])
    }

    /// Starts the guest to which snapshots are attached.
    fn start_verifier(&self) -> Result<(Verifier<'_>, Vec<String>)> {
        let mut started = self.start(GuestRole::Verifier)?;
        let mut notes = std::mem::take(&mut started.notes);
        if let Err(error) = self.wake(&started) {
            started = self.boot_instead(started, GuestRole::Verifier, error)?;
            notes.append(&mut started.notes);
        }
        if started.saved.is_none() {
            restore::prepare(&started.machine, self.session.plan)?;
        }
        Ok((Verifier::new(&self.session, started.machine)?, notes))
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
            let starting = (self.session.plan.restore != Restore::Boot)
                .then(|| scope.spawn(|| self.span.in_scope(|| self.start_verifier())));
            interrupt::pass(Duration::from_secs_f64(self.session.plan.load.seconds))?;
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
        for cycle in 1..=self.session.plan.snapshot.cycles {
            if self.session.plan.snapshot.cycles > 1 {
                progress.begin_cycle(cycle, self.session.plan.snapshot.cycles);
            }
            if cycle > 1 {
                self.session.history.write(&Entry::Cycle { t: clock::now(), n: cycle })?;
            }
            let taken = if self.session.plan.freeze {
                self.quiesced_snapshot(progress, source, &load, &mut drives, cycle)?
            } else {
                progress.stage(Stage::Load, |_| Ok(((), self.make_ready(&source.machine, &load, cycle)?)))?;
                Some(progress.stage(Stage::Snapshot, |_| self.snapshot(source, &mut drives, cycle))?)
            };
            let completion = taken.as_ref().map(|taken| taken.completion.clone()).unwrap_or_default();
            let taken = progress.stage(Stage::Resume, |_| {
                completion.go_on();
                wait_until_writable(&load, &source.machine)?;
                // Not before: the clients would feel what it takes of the host's processors.
                let taken = taken.map(|taken| self.start_inspection(taken, cycle, scope)).transpose()?;
                self.resume(source, cycle)?;
                // Only a guest that runs can be copied from.
                completion.wait()?;
                Ok((taken, String::new()))
            })?;
            match (&mut verifier, taken) {
                (Some(verifier), Some(snapshot)) if cycle < self.session.plan.snapshot.cycles => {
                    let below = snapshot.drives.clone();
                    load.rest_during(|| self.attach_and_observe(progress, verifier, snapshot))?;
                    // The first of the trial's own overlays stays: all trials share the files below
                    // it.
                    if below != source.drives {
                        let Plan { snapshot, limits, .. } = self.session.plan;
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
    pub(super) fn stop(&self, source: Source, load: Load, answers: bool) -> Result<(Vec<Record>, String)> {
        let ended = load.stop(&self.session.runtime, self.session.plan.limits.agent).and_then(|()| {
            self.session.history.finish()?;
            let Plan { freeze, restore, backup, .. } = self.session.plan;
            let compared = answers && *freeze && *restore != Restore::Attach && backup.is_none();
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
    pub(super) fn start_load(&self, source: &mut Source) -> Result<Load> {
        let Plan { load, seed, limits, backup, .. } = self.session.plan;
        let Source { machine, drives, target, facts, .. } = source;
        access::check_room(&self.session, machine)?;
        let order = Order {
            load,
            seed: *seed,
            statement_limit: limits.statement,
            disks: drives.iter().map(|drive| drive.target.clone()).collect(),
            heartbeats: std::mem::take(&mut source.heartbeats),
            tool: backup.is_some(),
        };
        let running = Load::start(&self.session.runtime, target, &self.session.history, order)?;
        facts.write(&self.session.history)?;
        // The load starts once.
        let _ = self
            .written
            .set(Written { setup: running.setup().clone(), directories: facts.directories.clone() });
        // Delayed allocation would leave fresh tables empty on the disk and hide finer defects
        // behind that. The profile is set only now, so that the tables themselves are durable in
        // any profile, and by root over the server's own socket, because the load's accounts lack
        // the privilege.
        let dialect = target.dialect();
        let line = format!("sync && {}", dialect.root_client());
        machine.agent().script(&line, dialect.profile(load.profile).as_bytes(), limits.agent)?;
        Ok(running)
    }

    /// Freeze, snapshot, thaw; `None` when the freeze was refused. `drives` become those that the
    /// guest writes to afterwards.
    fn quiesced_snapshot(
        &self,
        progress: &mut Progress,
        source: &Source,
        load: &Load,
        drives: &mut Vec<Drive>,
        cycle: u32,
    ) -> Result<Option<Taken>> {
        let Source { machine, target, .. } = source;
        let instruments = progress.stage(Stage::Load, |_| {
            Instruments::connect(&self.session, target, cycle, self.session.plan.limits.statement, || {
                self.make_ready(machine, load, cycle)
            })
        })?;
        let (begin, called) = (clock::now(), Instant::now());
        let window = progress.stage(Stage::Freeze, |_| {
            let (agent, opened) = (machine.agent().clone(), &source.facts.opened);
            match FreezeWindow::open(agent, self.session.plan.limits, opened, &self.session.history) {
                Ok(window) => Ok((Some(window), String::new())),
                Err(OpenError::Refused(error)) => {
                    machine.check_host()?;
                    machine.check_answered(called, "it was to be frozen")?;
                    self.record_commands(begin)?;
                    Ok((None, format!("refused: {error}")))
                }
                Err(OpenError::Stopped(error)) => Err(error),
            }
        })?;
        let Some(window) = window else { return Ok(None) };
        let frozen = Instant::now();
        let placed = instruments.place(drives, |disk| machine.written(disk))?;
        let frozen_disks = drives.clone();
        let snapshot = progress.stage(Stage::Snapshot, |_| self.snapshot(source, drives, cycle))?;
        let read = progress.stage(Stage::Hold, |_| {
            // Each step here has a time limit, and the window's guard has one for all of them.
            interrupt::pass(HOLD.saturating_sub(frozen.elapsed()))?;
            Ok((placed.read(&frozen_disks, |disk| machine.written(disk))?, String::new()))
        })?;
        progress.stage(Stage::Thaw, |_| {
            // A reported failure is a fact for the judge; the window makes sure that the guest is
            // thawed.
            let overdue = frozen.elapsed() > self.session.plan.limits.hold;
            let closed = window.close();
            // This process or its host stood still for so long that a hook may rightly have let go.
            if overdue || matches!(closed, Err(Error::WindowExpired(_))) {
                return Err(Error::WindowExpired(self.session.plan.limits.hold));
            }
            if closed.is_err() {
                machine.check_answered(called, "it was frozen or thawed")?;
            }
            let detail = closed.map_or_else(|e| e.to_string(), |_| String::new());
            source.agent_lost.set(!detail.is_empty() && machine.agent().is_frozen().is_err());
            self.record_commands(begin)?;
            read.record(machine, !source.agent_lost.get())?;
            Ok(((), detail))
        })?;
        Ok(Some(snapshot))
    }

    /// Writes down what libvirt told the agent of a window since its `begin`, and what it answered.
    fn record_commands(&self, begin: Nanos) -> Result<()> {
        let all = self.proxy.as_ref().map(|proxy| proxy.exchanges()).unwrap_or_default();
        let of_window = |it: &&Exchange| it.asked >= begin && (it.is_freeze() || it.is_thaw());
        all.iter().filter(of_window).try_for_each(|it| {
            self.session.history.write(&Entry::AgentCommand(agent_command(it, Sender::Harness)))
        })
    }

    /// Injects the faults before the first snapshot, then waits until the load is at work: both
    /// must still hold when the freeze is called.
    pub(super) fn make_ready(&self, machine: &Machine, load: &Load, cycle: u32) -> Result<String> {
        if cycle == 1 {
            self.inject_faults(Point::BeforeFreeze, machine)?;
        }
        load.wait_for_power(POWER_WITHIN)?;
        Ok(format!("{} transfers acknowledged", load.acknowledged()))
    }

    /// Takes the snapshot. `drives` become those that the guest writes to afterwards.
    fn snapshot(&self, source: &Source, drives: &mut Vec<Drive>, cycle: u32) -> Result<(Taken, String)> {
        let Plan { snapshot, limits, .. } = self.session.plan;
        self.session.history.mark(Mark::SnapBegin, "")?;
        let taken = snapshot::take(*snapshot, &source.machine, drives, &self.session.disks, cycle, limits)?;
        self.session.history.mark(Mark::SnapEnd, "")?;
        drives.clone_from(&taken.live);
        Ok((taken, String::new()))
    }

    /// Starts to inspect the raw disks of a snapshot.
    fn start_inspection<'scope>(
        &'scope self,
        Taken { snapshot: drives, completion, .. }: Taken,
        cycle: u32,
        scope: &'scope Scope<'scope, '_>,
    ) -> Result<TakenSnapshot<'scope>> {
        let out = observe::create(&self.cycle_dir(cycle)?.join(observation::FILE))?;
        let (read, complete) = (drives.clone(), completion.clone());
        let inspect = move || complete.wait().and_then(|()| self.inspect(&read, out));
        let inspection = scope.spawn(move || self.span.in_scope(inspect));
        Ok(TakenSnapshot { drives, completion, inspection })
    }

    /// Inspects the raw disks of a snapshot, which nobody writes to any more.
    pub(super) fn inspect(
        &self,
        drives: &[Drive],
        mut out: ObservationLog,
    ) -> Result<(ObservationLog, Option<Position>)> {
        let layout = observe::SnapshotLayout {
            image: &self.session.plan.image,
            directories: &self.written()?.directories,
            names: &self.session.names,
            most_transfers: bounds::rows(self.session.history.entries()),
        };
        // One snapshot at a time, because each inspection copies the disks.
        let scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let position = observe::disks(layout, drives, &scratch, &mut out)?;
        Ok((out, position))
    }

    /// Lets the load, which writes again, continue after the window. Whether writes succeeded is in the history,
    /// for the judge.
    fn resume(&self, source: &Source, cycle: u32) -> Result<()> {
        self.inject_faults(Point::AfterThaw, &source.machine)?;
        let attached = match self.session.plan.restore {
            Restore::Boot => false,
            Restore::Attach => true,
            Restore::AttachAndBoot => cycle < self.session.plan.snapshot.cycles,
        };
        if !attached {
            // Otherwise the load continues while the snapshot is observed.
            interrupt::pass(AFTERWARDS)?;
        }
        Ok(())
    }

    /// Keeps the logs of the source and what its tables hold now that
    /// the load has stopped. Nothing when its hook recorded no position.
    fn live_state(&self, source: &Source) -> Result<Vec<Record>> {
        let position = self.written()?.directories.position_file(&self.session.plan.image);
        if !roll_forward::save_logs(&self.session, &source.machine, &position)? {
            return Ok(vec![]);
        }
        let limits = self.session.plan.limits;
        self.session.runtime.block_on(interrupt::or_stop(async {
            let connected = source.target.door(TCP_ADMIN).connect_with_retries(limits.statement).await;
            let mut conn = connected.map_err(Error::sql("accept a connection after the load"))?;
            observe::state(&mut conn, self.expected()?, ServerState::Live).await
        }))
    }

    /// Boots the snapshot, observes it, rolls it forward to the `live` state, and ends the guest.
    pub(super) fn boot_and_observe(
        &self,
        progress: &mut Progress,
        snapshot: TakenSnapshot<'_>,
        live: &[Record],
    ) -> Result<()> {
        let drives = snapshot.drives.clone();
        let mut restorer = restore::Boot::new(&self.session);
        let mut observed = progress.stage(Stage::Restore, |progress| {
            let (observed, detail) = self.restore(&mut restorer, snapshot)?;
            Ok((observed.noted(progress)?, detail))
        })?;
        progress.stage(Stage::Observe, |_| {
            let replayed = !live.is_empty() && observed.server.is_some();
            self.observe(&restorer, &mut observed, live)?;
            if let Some(machine) = restorer.machine() {
                let kept = self.keep_logs(machine, "restored");
                // A guest whose server did not come up may have other things that do not work.
                if observed.server.is_some() {
                    kept?;
                }
            }
            restorer.release()?;
            if replayed && self.session.dialect().quiescence() == Quiescence::BackupMode {
                self.replay_wal(&drives, live, &mut observed.out)?;
            }
            observe::complete(observed.out)?;
            Ok(((), String::new()))
        })
    }

    /// Restores the snapshot, observes it, and gives it up again.
    fn attach_and_observe(
        &self,
        progress: &mut Progress,
        verifier: &mut Verifier<'_>,
        snapshot: TakenSnapshot<'_>,
    ) -> Result<()> {
        let mut observed = progress.stage(Stage::Restore, |progress| {
            let (observed, detail) = self.restore(verifier, snapshot)?;
            Ok((observed.noted(progress)?, detail))
        })?;
        progress.stage(Stage::Observe, |_| {
            self.observe(verifier, &mut observed, &[])?;
            observe::complete(observed.out)?;
            verifier.release()?;
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
                last.map(|last| scope.spawn(move || self.span.in_scope(|| self.restore(verifier, last))));
            stop(progress)?;
            attaching
                .map(|attaching| {
                    progress.stage(Stage::Restore, |progress| {
                        let (observed, detail) =
                            attaching.join().unwrap_or_else(|panic| resume_unwind(panic))?;
                        Ok((observed.noted(progress)?, detail))
                    })
                })
                .transpose()
        })?;
        progress.stage(Stage::Observe, |_| {
            if let Some(mut observed) = attached {
                self.observe(verifier, &mut observed, &[])?;
                observe::complete(observed.out)?;
            }
            verifier.machine().map_or(Ok(()), |machine| self.keep_logs(machine, "verifier"))?;
            Ok(((), String::new()))
        })
    }

    /// Ends a verifier that is no longer needed, and keeps its logs.
    fn dismiss(&self, verifier: Verifier<'_>) -> Result<()> {
        verifier.machine().map_or(Ok(()), |machine| self.keep_logs(machine, "verifier"))?;
        verifier.power_off()
    }

    /// Restores a snapshot that is complete, and waits for the inspection of its raw disks.
    fn restore(
        &self,
        restorer: &mut dyn Restorer,
        TakenSnapshot { drives, completion, inspection }: TakenSnapshot<'_>,
    ) -> Result<(Observed, String)> {
        let restored = completion.wait().and_then(|()| restorer.restore(&drives));
        let (mut out, position) = inspection.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        match restored {
            Ok(restored) => Ok((Observed { out, position, server: Some(restored) }, String::new())),
            Err(error) if error.is_of_guest() => {
                self.check_host(restorer, &error)?;
                observe::server_failed(&error.to_string(), &mut out)?;
                let detail = "the snapshot does not come up".to_owned();
                Ok((Observed { out, position, server: None }, detail))
            }
            Err(error) => Err(error),
        }
    }

    /// Fails when this error of a restored guest is its host's doing, and so no fact about the backup.
    fn check_host(&self, restorer: &dyn Restorer, error: &Error) -> Result<()> {
        let Some(machine) = restorer.machine() else { return interrupt::check() };
        machine.check_host()?;
        if error.is_late_guest() { machine.check_ran(self.session.plan.limits.server) } else { Ok(()) }
    }

    /// Writes down what the server on a snapshot holds, and, where its binary logs lead to the
    /// `live` state, what it holds then.
    fn observe(&self, restorer: &dyn Restorer, observed: &mut Observed, live: &[Record]) -> Result<()> {
        let Session { plan, runtime, .. } = &self.session;
        let Observed { out, position, server } = observed;
        let (Some(Restored { conn, server, .. }), Some(machine)) = (server, restorer.machine()) else {
            return Ok(());
        };
        let expected = self.expected()?;
        let limits = plan.limits;
        let observed = observe::server(conn, machine.agent(), server, expected, limits.agent, out);
        runtime.block_on(interrupt::or_stop(observed))?;
        if let Some(position) = position.take().filter(|_| !live.is_empty()) {
            live.iter().try_for_each(|record| out.write(record))?;
            out.write(&roll_forward::binlog::replay(machine, &position, limits.statement)?)?;
            self.observe_replayed(conn, out)?;
        }
        runtime.block_on(interrupt::or_stop(observe::memory(conn, expected, out)))?;
        // A table that could not be read says nothing when its guest is gone.
        machine.check_host()
    }

    /// Writes down what a server holds that has replayed its logs.
    fn observe_replayed(&self, conn: &mut Connection, out: &mut ObservationLog) -> Result<()> {
        let reached = observe::state(conn, self.expected()?, ServerState::RolledForward);
        self.session
            .runtime
            .block_on(interrupt::or_stop(reached))?
            .iter()
            .try_for_each(|record| Ok(out.write(record)?))
    }

    /// Replays the source's write-ahead log on the snapshot's disks in a guest of its own, and
    /// writes down what they hold then.
    fn replay_wal(&self, drives: &[Drive], live: &[Record], out: &mut ObservationLog) -> Result<()> {
        live.iter().try_for_each(|record| out.write(record))?;
        let mut verifier = self.start_verifier()?.0.with_prelude(roll_forward::wal::prelude());
        let record = |applied, detail| Record::RollForward { applied, detail };
        match verifier.restore(drives) {
            Ok(mut restored) => {
                out.write(&record(true, String::new()))?;
                self.observe_replayed(&mut restored.conn, out)?;
            }
            Err(error) if error.is_of_guest() => {
                self.check_host(&verifier, &error)?;
                out.write(&record(false, error.to_string()))?;
            }
            Err(error) => return Err(error),
        }
        self.dismiss(verifier)
    }

    fn written(&self) -> Result<&Written> {
        Ok(self.written.get().ok_or(LoadError::NotStarted)?)
    }

    /// What a restored server should hold.
    fn expected(&self) -> Result<observe::Expected<'_>> {
        let database = self.session.plan.image.server.database;
        Ok(observe::Expected {
            database,
            setup: &self.written()?.setup,
            names: &self.session.names,
            most_rows: bounds::rows(self.session.history.entries()),
        })
    }

    /// The directory of a cycle's observation: a trial of one cycle has it beside its history.
    pub(super) fn cycle_dir(&self, cycle: u32) -> Result<PathBuf> {
        if self.session.plan.snapshot.cycles == 1 {
            return Ok(self.session.plan.dir.clone());
        }
        let dir = judge::cycle_dir(&self.session.plan.dir, cycle);
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        Ok(dir)
    }

    /// Runs the faults of this point.
    pub(super) fn inject_faults(&self, point: Point, machine: &Machine) -> Result<()> {
        for fault in self.session.plan.faults.iter().filter(|fault| fault.at == point) {
            if let Strike::Guest(line) = &fault.what {
                machine.agent().script(line, b"", self.session.plan.limits.agent)?;
            }
        }
        Ok(())
    }

    /// Keeps the guest's journal, which has the messages of the server, the agent and the hook.
    fn keep_logs(&self, machine: &Machine, guest: &str) -> Result<()> {
        let line = "journalctl -b -o short-monotonic --no-pager | tail -c 262144";
        let journal = machine.agent().script(line, b"", self.session.plan.limits.agent)?;
        let path = self.session.plan.dir.join("guest").join(format!("{guest}-journal.log"));
        fs::write(&path, journal).map_err(Error::io("write", &path))
    }
}

/// Waits after a window until writes succeed through every door again, for a limited time in which the guest runs.
/// Whether they do is for the judge.
pub(super) fn wait_until_writable(load: &Load, machine: &Machine) -> Result<()> {
    let since = clock::now();
    loop {
        let begin = Instant::now();
        if load.wait_for_all(since, WRITABLE_WITHIN)? || !machine.was_silent_since(begin) {
            return Ok(());
        }
    }
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
