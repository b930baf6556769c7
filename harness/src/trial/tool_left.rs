//! What a backup command leaves behind in the guest and its libvirt: a freeze, jobs, another disk file, scratch files.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use contract::history::{Leftover, LeftoverKind, Nanos};
use contract::plan::Limits;
use contract::text::quote;
use virt::sys;

use super::tool_host::ToolHost;
use crate::error::{Error, Result};
use crate::guest::Machine;
use crate::guest::agent_proxy::{By, FreezeState};
use crate::guest::qmp::{DiskSource, Qmp};
use crate::interrupt;

/// How long jobs that are ending may take to be gone: libvirt ends them after it has answered.
const GRACE: Duration = Duration::from_secs(2);

/// The pause between two looks at them: their end is an event of no one place.
const LOOK: Duration = Duration::from_millis(50);

/// How long QEMU may take to answer: up to 110 ms on a busy host were observed.
const ANSWER: Duration = Duration::from_secs(10);

/// The longest name that is shown, characters.
const NAME: usize = 200;

/// Thaws the guest if a command has left it frozen, or will have: a freeze that it asked for may still be under way.
/// `None` when it was not, or nobody could tell.
pub(super) fn thaw(host: &ToolHost, begun: Nanos, limits: &Limits) -> Option<Leftover> {
    let proxy = &host.proxy;
    let frozen = match proxy.state() {
        FreezeState::Frozen(_) => true,
        // The agent may know more, and does not answer where it hangs or is gone.
        FreezeState::Thawed => proxy.is_frozen(limits.agent).unwrap_or(false),
        FreezeState::Unsure => proxy.is_frozen(limits.freeze + limits.agent).unwrap_or(true),
    };
    if !frozen {
        return None;
    }
    let thawed = proxy.thaw(limits.thaw * 2);
    let exchanges = proxy.exchanges();
    let since = exchanges.iter().rfind(|it| it.is_freeze() && it.error.is_none() && it.asked >= begun);
    let until = exchanges.iter().rfind(|it| it.is_thaw() && it.by == By::Harness && it.asked >= begun);
    let detail = match &thawed {
        Ok(count) => format!("the harness thawed {count} file systems"),
        Err(error) => format!("the harness could not thaw it: {error}"),
    };
    let (since, until) = (since.and_then(|it| it.answered), until.and_then(|it| it.answered));
    Some(Leftover { kind: LeftoverKind::FrozenGuest, detail, since, until: until.filter(|_| thawed.is_ok()) })
}

/// What else it has left, `before` being the guest's disk files before it.
pub(super) fn find(host: &ToolHost, machine: &Machine, before: &[DiskSource]) -> Result<Vec<Leftover>> {
    let deadline = Instant::now() + GRACE;
    let mut found = loop {
        let found = jobs(host, machine)?;
        if found.is_empty() || Instant::now() > deadline {
            break found;
        }
        interrupt::pass(LOOK)?;
    };
    let now = disk_files(host)?;
    let moved = now.iter().filter(|disk| !before.contains(disk));
    found.extend(moved.map(|DiskSource { disk, file }| {
        thing(LeftoverKind::DiskSource, &format!("{disk} is {} now", file.display()))
    }));
    found.extend(scratch_files(&host.folders.scratch)?);
    Ok(found)
}

/// The files of the guest's disks.
pub(super) fn disk_files(host: &ToolHost) -> Result<Vec<DiskSource>> {
    host.qmp.get().map_or(Ok(vec![]), |qmp| qmp.disk_files(ANSWER))
}

fn jobs(host: &ToolHost, machine: &Machine) -> Result<Vec<Leftover>> {
    let mut found = Vec::new();
    // `job_stats` panics where there is no job.
    let info = machine.domain().job_info().map_err(Error::libvirt("report its jobs"))?;
    if info.r#type != sys::VIR_DOMAIN_JOB_NONE as i32 {
        found.push(thing(LeftoverKind::DomainJob, "virsh domjobinfo shows it"));
    }
    let jobs = host.qmp.get().map_or(Ok(vec![]), |qmp: &Qmp| qmp.jobs(ANSWER))?;
    found.extend(
        jobs.iter()
            .map(|job| thing(LeftoverKind::BlockJob, &format!("{} ({}, {})", job.id, job.kind, job.status))),
    );
    Ok(found)
}

fn scratch_files(scratch: &Path) -> Result<Vec<Leftover>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(scratch).map_err(Error::io("read", scratch))? {
        let name = entry.map_err(Error::io("read", scratch))?.file_name();
        found.push(thing(LeftoverKind::ScratchFile, &name.to_string_lossy()));
    }
    found.sort_by(|a, b| a.detail.cmp(&b.detail));
    Ok(found)
}

fn thing(kind: LeftoverKind, detail: &str) -> Leftover {
    Leftover { kind, detail: quote(NAME, detail), since: None, until: None }
}
