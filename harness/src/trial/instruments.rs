//! What looks into a freeze window, whoever opens it: the quiescence probes, QEMU's counts of writes, and, where the
//! server has backup mode, the positions of its log.

use std::time::Duration;

use contract::history::{AgentCommand, Entry, Probe, Sender};
use contract::plan::Plan;

use crate::clock;
use crate::database::Target;
use crate::error::Result;
use crate::guest::agent_proxy::{By, Exchange};
use crate::guest::{Drive, Machine};
use crate::quiesce::{BackupModeWitness, Probes, SentProbes};
use crate::session::Session;

/// Instruments that are ready for a window.
#[derive(Debug)]
pub(super) struct Instruments<'a> {
    session: &'a Session<'a>,
    probes: Probes,
    witness: Option<BackupModeWitness<'a>>,
}

/// The same in the window.
#[derive(Debug)]
pub(super) struct Placed<'a> {
    session: &'a Session<'a>,
    probes: SentProbes,
    witness: Option<BackupModeWitness<'a>>,
}

/// The same when the window is about to end.
#[derive(Debug)]
pub(super) struct Read<'a> {
    session: &'a Session<'a>,
    probes: Vec<Probe>,
    /// What is in flight stays so until the thaw is over.
    _sent: SentProbes,
    witness: Option<BackupModeWitness<'a>>,
}

impl<'a> Instruments<'a> {
    /// Opens the connections for the window of this number, each within `limit`. Must be done before the freeze; `ready`
    /// waits until the load is at work.
    pub(super) fn connect(
        session: &'a Session<'a>,
        target: &'a Target,
        number: u32,
        limit: Duration,
        ready: impl FnOnce() -> Result<String>,
    ) -> Result<(Self, String)> {
        let probes = Probes::connect(&session.runtime, target, number, limit)?;
        let ready = ready()?;
        let witness = BackupModeWitness::connect(&session.runtime, target, &session.history, limit)?;
        Ok((Self { session, probes, witness }, ready))
    }

    /// Begins to look: the guest is frozen. `written` is how much it has written to a disk.
    pub(super) fn place(
        mut self,
        drives: &[Drive],
        written: impl Fn(&str) -> Result<(u64, u64)>,
    ) -> Result<Placed<'a>> {
        let session = self.session;
        count_writes(session, drives, written)?;
        self.witness.as_mut().map(|witness| witness.ask(&session.runtime)).transpose()?;
        let probes = self.probes.send(&session.runtime);
        probes.settle(&session.runtime);
        Ok(Placed { session, probes, witness: self.witness })
    }
}

impl<'a> Placed<'a> {
    /// Looks for the last time: the thaw comes next.
    pub(super) fn read(
        mut self,
        drives: &[Drive],
        written: impl Fn(&str) -> Result<(u64, u64)>,
    ) -> Result<Read<'a>> {
        let session = self.session;
        count_writes(session, drives, written)?;
        self.probes.send_again(&session.runtime);
        let probes = self.probes.results(&session.runtime);
        // The last thing before the thaw: what ends backup mode between the two would go unseen.
        self.witness.as_mut().map(|witness| witness.ask(&session.runtime)).transpose()?;
        Ok(Read { session, probes, _sent: self.probes, witness: self.witness })
    }
}

impl Read<'_> {
    /// Writes down what became of the probes.
    pub(super) fn record_probes(&self) -> Result<()> {
        let history = &self.session.history;
        self.probes.iter().try_for_each(|probe| history.write(&Entry::Probe(probe.clone())))
    }

    /// Writes down what was seen. Only where the agent `answers` can the server's log be read.
    pub(super) fn record(self, machine: &Machine, answers: bool) -> Result<()> {
        let session = self.session;
        self.record_probes()?;
        let Plan { image, limits, .. } = session.plan;
        match self.witness.filter(|_| answers) {
            Some(witness) => {
                witness.read(&session.runtime, machine.agent(), &image.server.unit, limits.agent)
            }
            None => Ok(()),
        }
    }
}

/// Records how much the guest has written so far, as QEMU counts it.
fn count_writes(
    session: &Session<'_>,
    drives: &[Drive],
    written: impl Fn(&str) -> Result<(u64, u64)>,
) -> Result<()> {
    for Drive { target: disk, .. } in drives {
        let (writes, bytes) = written(disk)?;
        let t = clock::now();
        session.history.write(&Entry::BlockStats { t, disk: disk.clone(), writes, bytes })?;
    }
    Ok(())
}

/// An exchange with the agent as an entry of the history, where `outside` is who speaks by way of libvirt.
pub(super) fn agent_command(exchange: &Exchange, outside: Sender) -> AgentCommand {
    AgentCommand {
        t: exchange.sent.unwrap_or(exchange.asked),
        end: exchange.answered,
        command: exchange.name.clone(),
        by: match exchange.by {
            By::Outside => outside,
            By::Harness => Sender::Harness,
        },
        error: exchange.error.clone(),
        count: exchange.count,
    }
}
