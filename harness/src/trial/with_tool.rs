//! A trial of somebody else's backup tool: its commands take the place of our freeze, snapshot and thaw, and of the
//! way back.
//!
//! Boot, load, and then each backup: its command, while the proxy in the agent's channel, QEMU's second monitor and
//! its trace of writes see what it does. The guest goes, and its disks out of reach; restore, observe. As in the
//! other pipeline, only facts are gathered here.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use contract::events::Stage;
use contract::history::{CommandEnd, Entry, Level, ToolStep};
use contract::observation;
use contract::plan::Plan;
use contract::scenario::{BackupTool, Point, Signal, Strike};
use contract::seal::Depth;
use tracing::Span;

use super::instruments::Instruments;
use super::pipeline::{AFTERWARDS, Source, Started, TakenSnapshot, Trial, wait_until_writable};
use super::progress::Progress;
use super::tool_host::{Command, MONITOR_LIMIT, ToolHost};
use super::tool_window::Watch;
use crate::backup_tool::{self, Before, Ended, HandedBack, Request, handed_back};
use crate::clock;
use crate::error::{Error, Result};
use crate::guest::{Drive, Machine};
use crate::host::guest_user;
use crate::interrupt;
use crate::load::Load;
use crate::observe;
use crate::overlay;
use crate::saved_memory::GuestsInUse;
use crate::snapshot::Completion;

/// How long a fault on the host may take that strikes before a backup.
const FAULT_LIMIT: Duration = Duration::from_secs(60);

/// How long a version command may take.
const VERSION_LIMIT: Duration = Duration::from_secs(60);

/// Runs a plan with a backup tool to its end; see the other pipeline's function for the rest.
pub(super) fn run(
    plan: &Plan,
    tool: &BackupTool,
    root: &Path,
    progress: &mut Progress,
    saved: &GuestsInUse,
) -> Result<()> {
    let span = Span::current();
    let (trial, host) = progress.stage(Stage::Prepare, |_| {
        let mut trial = Trial::prepare(plan, root, span, saved)?;
        let host = ToolHost::prepare(&trial.session, tool)?;
        host.sockets.clone_into(&mut trial.sockets);
        Ok(((trial, host), String::new()))
    })?;
    let backups = Backups { trial: &trial, host: &host, tool };
    let started = progress.stage(Stage::Boot, |_| Ok((backups.boot()?, String::new())))?;
    let source = progress.stage(Stage::Install, |p| {
        let prepared = trial.prepare_guest(started, p)?;
        backups.strike_outside(Point::AfterBoot, 1)?;
        Ok(prepared)
    })?;
    let (stopped, last) = backups.make(progress, source)?;
    progress.stage(Stage::Stop, |_| {
        let Stopped { source, load } = stopped;
        let answers = source.machine.agent().is_frozen().is_ok();
        trial.stop(source, load, answers)?;
        host.remove_source()?;
        Ok(((), String::new()))
    })?;
    if last == CommandEnd::Exit(0) {
        backups.restore(progress)?;
    }
    // Last, so that it covers the restore.
    backups.compare_image()?;
    trial.session.history.flush()
}

/// What ends when the last backup is made.
struct Stopped {
    source: Source,
    load: Load,
}

/// The backups of one trial.
struct Backups<'a> {
    trial: &'a Trial<'a>,
    host: &'a ToolHost,
    tool: &'a BackupTool,
}

impl Backups<'_> {
    fn plan(&self) -> &Plan {
        self.trial.session.plan
    }

    fn step(&self, step: ToolStep) -> Result<()> {
        self.trial.session.history.write(&Entry::Tool { step })
    }

    /// Boots the first guest under the libvirt with which the tool works.
    fn boot(&self) -> Result<Started> {
        let session = &self.trial.session;
        let (spec, drives) = self.host.guest(session)?;
        let limits = session.plan.limits;
        let (machine, _) = Machine::boot(
            &self.host.libvirt,
            &spec,
            "source",
            &session.transcript,
            limits.boot,
            limits.agent,
        )?;
        self.host.watch(&machine, &drives)?;
        let mut started = Started { machine, drives, saved: None, notes: vec![] };
        self.trial.wait_for_server(&mut started)?;
        Ok(started)
    }

    /// Makes all backups under one load, which still runs afterwards, and returns how the last command ended.
    fn make(&self, progress: &mut Progress, mut source: Source) -> Result<(Stopped, CommandEnd)> {
        let plan = self.plan();
        let load = progress.stage(Stage::Load, |_| {
            let load = self.trial.start_load(&mut source)?;
            self.ask_version()?;
            interrupt::pass(Duration::from_secs_f64(plan.load.seconds))?;
            Ok((load, String::new()))
        })?;
        let cycles = plan.snapshot.cycles;
        let mut last = CommandEnd::OutOfTime;
        for n in 1..=cycles {
            if cycles > 1 {
                progress.begin_cycle(n, cycles);
            }
            if n > 1 {
                self.trial.session.history.write(&Entry::Cycle { t: clock::now(), n })?;
            }
            last = self.backup(progress, &source, &load, n)?;
            progress.stage(Stage::Resume, |_| {
                wait_until_writable(&load, &source.machine)?;
                // So that a disk that was still copied would hold something from after the window.
                interrupt::pass(AFTERWARDS)?;
                Ok(((), String::new()))
            })?;
        }
        progress.end_cycle();
        Ok((Stopped { source, load }, last))
    }

    /// Runs the backup command of a cycle.
    fn backup(&self, progress: &mut Progress, source: &Source, load: &Load, n: u32) -> Result<CommandEnd> {
        let session = &self.trial.session;
        let Source { machine, target, .. } = source;
        let instruments = progress.stage(Stage::Load, |_| {
            Instruments::connect(session, target, n, session.plan.limits.statement, || {
                self.trial.make_ready(machine, load, n)
            })
        })?;
        progress.stage(Stage::Snapshot, |_| {
            let (own, previous) = (self.folder(n), self.previous(n));
            std::fs::create_dir(&own).map_err(Error::io("create", &own))?;
            guest_user::give(&own)?;
            let request = Request { previous: previous.as_deref(), ..self.request(n, &own) };
            let log = session.plan.dir.join(format!("backup-{n}.log"));
            let limit = Duration::from_secs(self.tool.backup_seconds.into());
            let command = Command { request, line: &self.tool.backup, log: &log, limit };
            let (monitor, scratch) = (self.host.monitor()?, &self.host.folders.scratch);
            let before = Before::look(monitor, scratch, MONITOR_LIMIT)?;
            if n > 1 {
                self.trial.inject_faults(Point::BeforeFreeze, machine)?;
            }
            self.strike_outside(Point::BeforeFreeze, n)?;
            let begun = clock::now();
            self.step(ToolStep::Began { t: begun, n, level: request.level })?;
            let mut watch = Watch::start(session, self.host, source, instruments, command)?;
            let (ended, killed_by) = watch.follow()?;
            self.host.check()?;
            let how = end(&ended, killed_by);
            self.step(ToolStep::Ended { t: ended.end, n, how, said: ended.said })?;
            // Before anything else: a guest that is frozen is an outage.
            let frozen = backup_tool::thaw(&self.host.proxy, begun, &session.plan.limits);
            let mut things = before.left(machine.domain(), monitor, scratch, MONITOR_LIMIT)?;
            things.extend(frozen);
            self.step(ToolStep::Left { t: clock::now(), n, things })?;
            watch.conclude(begun, ended.end)?;
            Ok((how, format!("{} backup: {how}", request.level)))
        })
    }

    /// The folder of a backup's own.
    fn folder(&self, n: u32) -> PathBuf {
        self.host.folders.chain.join(n.to_string())
    }

    /// That of the backup before it.
    fn previous(&self, n: u32) -> Option<PathBuf> {
        (n > 1).then(|| self.folder(n - 1))
    }

    /// What a command is asked for that makes backup `n`, counted from 1, in its `own` folder.
    fn request<'b>(&self, n: u32, own: &'b Path) -> Request<'b> {
        let level = if n == 1 { Level::Full } else { Level::Incremental };
        Request { number: n - 1, level, previous: None, backup: own, target: None }
    }

    /// Runs the host's faults of a point at which no backup command runs, to their ends.
    fn strike_outside(&self, point: Point, n: u32) -> Result<()> {
        let own = self.folder(n);
        for fault in self.plan().faults.iter().filter(|fault| fault.at == point) {
            let Strike::Host(line) = &fault.what else { continue };
            let log = self.plan().dir.join(format!("backup-{n}.before.log"));
            let command = Command { request: self.request(n, &own), line, log: &log, limit: FAULT_LIMIT };
            self.host.running(&command)?.finish()?;
        }
        Ok(())
    }

    /// Writes down the tool's version, where there is a command for that.
    fn ask_version(&self) -> Result<()> {
        let Some(line) = &self.tool.version else { return Ok(()) };
        let log = self.plan().dir.join("tool-version.log");
        let request = self.request(1, &self.host.folders.chain);
        let command = Command { request, line, log: &log, limit: VERSION_LIMIT };
        let ended = self.host.running(&command)?.finish()?;
        match ended.said.into_iter().next() {
            Some(said) => self.step(ToolStep::Version { t: ended.end, said }),
            None => Ok(()),
        }
    }

    /// Compares the image's files with what they were when it was built.
    fn compare_image(&self) -> Result<()> {
        let image = &self.plan().image;
        let changed = image.check(Depth::Stamps, &interrupt::is_over).err().map(|damage| damage.to_string());
        let files = u32::try_from(image.disks.len()).unwrap_or(u32::MAX);
        self.step(ToolStep::Image { t: clock::now(), files, changed: changed.into_iter().collect() })
    }

    /// The disks that were handed back, below overlays; `None` when some cannot be booted from.
    fn take_back(&self) -> Result<Option<Vec<Drive>>> {
        let session = &self.trial.session;
        let folders = &self.host.folders;
        let sizes = self.host.sizes();
        let sizes: Vec<_> = sizes.iter().map(|(disk, bytes)| (&**disk, *bytes)).collect();
        let found = handed_back(&folders.target, &folders.chain, &sizes)?;
        let mut files = Vec::new();
        for HandedBack { disk, file, problems, .. } in found {
            self.step(ToolStep::HandedBack { t: clock::now(), disk, problems })?;
            files.push(file);
        }
        let Some(files) = files.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
        Ok(Some(overlay::over_files(&session.disks, "handed-back", &files)?))
    }

    /// Lets the tool hand the disks of its last backup back, and observes what comes up from them.
    fn restore(&self, progress: &mut Progress) -> Result<()> {
        let session = &self.trial.session;
        let n = session.plan.snapshot.cycles;
        let drives = progress.stage(Stage::Restore, |_| {
            let (own, previous, target) = (self.folder(n), self.previous(n), &self.host.folders.target);
            let request =
                Request { previous: previous.as_deref(), target: Some(target), ..self.request(n, &own) };
            let log = session.plan.dir.join("restore.log");
            let limit = Duration::from_secs(self.tool.restore_seconds.into());
            let command = Command { request, line: &self.tool.restore, log: &log, limit };
            let ended = self.host.running(&command)?.finish()?;
            self.host.check()?;
            let (how, t) = (ended.how, ended.begin);
            self.step(ToolStep::Restored { t, end: ended.end, how, said: ended.said })?;
            let drives = if how == CommandEnd::Exit(0) { self.take_back()? } else { None };
            Ok((drives, format!("{how}")))
        })?;
        session.history.flush()?;
        let Some(drives) = drives else { return Ok(()) };
        thread::scope(|scope| {
            let out = observe::create(&self.trial.cycle_dir(n)?.join(observation::FILE))?;
            let (read, trial) = (drives.clone(), self.trial);
            let inspection = scope.spawn(move || trial.span.in_scope(|| trial.inspect(&read, out)));
            let snapshot = TakenSnapshot { drives, completion: Completion::default(), inspection };
            self.trial.boot_and_observe(progress, snapshot, &[])
        })
    }
}

/// How a command ended, for whom the scenario's fault is none of its own doing.
fn end(ended: &Ended, killed_by: Option<Signal>) -> CommandEnd {
    match (ended.how, killed_by) {
        (CommandEnd::Exit(0), _) | (_, None) => ended.how,
        (_, Some(Signal::Int)) => CommandEnd::Fault(2),
        (_, Some(Signal::Kill)) => CommandEnd::Fault(9),
        (_, Some(Signal::Term)) => CommandEnd::Fault(15),
    }
}
