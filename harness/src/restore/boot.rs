//! Restore by a boot: a new guest from the snapshot alone.

use super::restorer::{Restored, Restorer, once_more_if_late};
use crate::access;
use crate::error::Result;
use crate::guest::{Drive, Machine, Spec};
use crate::overlay;
use crate::session::Session;

/// The role of the guest, and part of the names of its files.
const ROLE: &str = "restored";

/// Boots a guest for each snapshot, from overlays over its disks. The first guest must be gone: the
/// two share a machine id.
#[derive(Debug)]
pub struct Boot<'a> {
    session: &'a Session<'a>,
    machine: Option<Machine>,
}

impl<'a> Boot<'a> {
    /// None is booted yet.
    pub fn new(session: &'a Session<'a>) -> Self {
        Self { session, machine: None }
    }
}

impl Boot<'_> {
    fn boot(&mut self, snapshot: &[Drive]) -> Result<Restored> {
        let Session { plan, disks, exchange, root, .. } = self.session;
        let drives = overlay::over(disks, ROLE, snapshot)?;
        let spec = Spec { exchange: Some(exchange.clone()), ..Spec::of(plan, ROLE, drives, root) };
        let (machine, stalled) = self.session.boot(&spec, ROLE)?;
        let machine = self.machine.insert(machine);
        self.session.wait_for_server(machine)?;
        let conn = access::connect_observer(self.session, machine)?;
        Ok(Restored { conn, server: plan.image.server.clone(), stalled, again: None })
    }
}

impl Restorer for Boot<'_> {
    /// A guest that does not come up in time is started once more: an emulated kernel was observed to stand still
    /// for four minutes of a busy host, after it had found its disks.
    fn restore(&mut self, snapshot: &[Drive]) -> Result<Restored> {
        let (restored, again) = once_more_if_late(self, |this| this.boot(snapshot), Self::release)?;
        Ok(Restored { again, ..restored })
    }

    fn machine(&self) -> Option<&Machine> {
        self.machine.as_ref()
    }

    fn release(&mut self) -> Result<()> {
        self.machine.take().map_or(Ok(()), Machine::power_off)
    }
}
