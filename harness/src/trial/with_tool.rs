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
use contract::history::{CommandEnd, Entry, Level, Nanos, ToolStep};
use contract::plan::Plan;
use contract::scenario::{BackupTool, Signal};
use tracing::Span;

use super::instruments::Instruments;
use super::pipeline::{AFTERWARDS, Source, Started, TakenSnapshot, Trial, WRITABLE_WITHIN};
use super::progress::Progress;
use super::tool_host::{Command, ToolHost};
use super::tool_window::Watch;
use crate::backup_tool::{self, Ended, Request};
use crate::clock;
use crate::error::{Error, Result};
use crate::guest::Machine;
use crate::host::guest_user;
use crate::interrupt;
use crate::load::Load;
use crate::saved_memory::GuestsInUse;

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
        let trial = Trial::prepare(plan, root, span, saved)?;
        let host = ToolHost::prepare(&trial.session, tool)?;
        Ok(((trial, host), String::new()))
    })?;
    let backups = Backups { trial: &trial, host: &host, tool };
    let started = progress.stage(Stage::Boot, |_| Ok((backups.boot()?, String::new())))?;
    let source = progress.stage(Stage::Install, |p| trial.prepare_guest(started, p))?;
    let (stopped, last) = backups.make(progress, source)?;
    progress.stage(Stage::Stop, |_| {
        let Stopped { source, load } = stopped;
        let answers = source.machine.agent().is_frozen().is_ok();
        trial.stop(source, load, answers)?;
        host.remove_source()?;
        backups.compare_image()?;
        Ok(((), String::new()))
    })?;
    if last == CommandEnd::Exit(0) { backups.restore(progress) } else { trial.session.history.flush() }
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
                load.wait_for_all(clock::now(), WRITABLE_WITHIN)?;
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
        let Source { machine, drives, target, .. } = source;
        let instruments = progress.stage(Stage::Load, |_| {
            Instruments::connect(session, target, n, || self.trial.make_ready(machine, load, n))
        })?;
        progress.stage(Stage::Snapshot, |_| {
            let (own, previous) = (self.folder(n), n.checked_sub(1).filter(|n| *n > 0).map(|n| self.folder(n)));
            std::fs::create_dir(&own).map_err(Error::io("create", &own))?;
            guest_user::give(&own)?;
            let request = Request { previous: previous.as_deref(), ..self.request(n, &own) };
            let log = session.plan.dir.join(format!("backup-{n}.log"));
            let limit = Duration::from_secs(self.tool.backup_seconds.into());
            let command = Command { request, line: &self.tool.backup, log: &log, limit };
            let before = backup_tool::State::of(machine, self.host)?;
            let begun = clock::now();
            self.step(ToolStep::Began { t: begun, n, level: request.level })?;
            let mut watch = Watch::start(session, self.host, (machine, drives), instruments, command)?;
            let (ended, killed_by) = watch.follow()?;
            let how = end(&ended, killed_by);
            self.step(ToolStep::Ended { t: ended.end, n, how, said: ended.said })?;
            self.look_for_left(machine, n)?;
            watch.conclude(begun, ended.end)?;
            Ok((how, format!("{} backup: {how}", request.level)))
        })
    }
}
