//! What all stages of a trial work with.

use std::fs;
use std::path::{Path, PathBuf};

use contract::plan::Plan;
use tokio::runtime::Runtime;

use crate::database::{Access, Dialect, dialect};
use crate::error::{Error, Result};
use crate::guest::{Machine, Spec, Transcript};
use crate::history_log::HistoryLog;
use crate::host::{Libvirt, guest_user};
use crate::names::Names;

/// One trial's plan, and the means to carry it out.
#[derive(Debug)]
pub struct Session<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The names of its schemas, tables and accounts.
    pub names: Names,
    /// Runs the clients of the database.
    pub runtime: Runtime,
    /// Runs the guests.
    pub libvirt: Libvirt,
    /// Gets every event.
    pub history: HistoryLog,
    /// Gets every command to an agent.
    pub transcript: Transcript,
    /// The directory of the disks' files.
    pub disks: PathBuf,
    /// A short-lived directory with a short path, for sockets.
    pub root: PathBuf,
    /// The exchange disk, a raw file.
    pub exchange: PathBuf,
}

impl<'a> Session<'a> {
    /// Creates what the plan's directory has to hold. `root` is a short-lived directory, whose path
    /// must be short.
    pub fn create(plan: &'a Plan, root: &Path) -> Result<Self> {
        let disks = plan.dir.join("disks");
        for dir in [&disks, &plan.dir.join("guest")] {
            fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        }
        let libvirt = match &plan.connect {
            None => {
                guest_user::let_run(&plan.image, plan.accel, &disks, root)?;
                Libvirt::embedded(root)?
            }
            Some(uri) => Libvirt::connect(uri)?,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
        Ok(Self {
            plan,
            names: Names::random(),
            runtime,
            libvirt,
            history: HistoryLog::create(&plan.dir.join("history.jsonl"), plan.snapshot.cycles)?,
            transcript: Transcript::create(&plan.dir.join("agent.jsonl"))?,
            exchange: disks.join("exchange.raw"),
            disks,
            root: root.to_owned(),
        })
    }

    /// How the image's server is spoken to.
    pub fn dialect(&self) -> &'static dyn Dialect {
        dialect(self.plan.image.server.database)
    }

    /// Boots a guest; see [`Machine::boot`].
    pub(crate) fn boot(&self, spec: &Spec, role: &'static str) -> Result<(Machine, u32)> {
        let limits = self.plan.limits;
        Machine::boot(&self.libvirt, spec, role, &self.transcript, limits.boot, limits.agent)
    }

    /// Waits until the server of a guest that has just booted answers.
    pub(crate) fn wait_for_server(&self, machine: &mut Machine) -> Result<()> {
        let Plan { image, limits, .. } = self.plan;
        let access = Access::of_image(machine.sql_address()?, &image.server)?;
        let alive = || machine.check_unit(&image.server.unit, limits.agent);
        self.runtime.block_on(access.wait_until_it_answers(limits.server, alive))
    }
}
