//! What the raw disks and the first boot tell: R0, L1, L2, M.

use super::tell::{Evidence, count, quote};
use super::view::{Missing, View};
use super::{Defect, Ruling};
use crate::verdict::Property;

/// R0: the disks pass their file system checks and the server starts from them.
///
/// Source: what any backup is for. Needs the observation's `server` record;
/// file system checks count where they were made.
pub(super) fn starts(view: &View<'_>) -> Ruling {
    let seen = view.observed()?;
    let server = seen
        .server
        .as_ref()
        .ok_or_else(|| Missing("the observation does not tell whether the server started".into()))?;
    let mut evidence = Evidence::default();
    for disk in seen.checked_disks.iter().filter(|disk| !disk.clean) {
        evidence.add(|| format!("disk {}: {}", quote(&disk.disk), quote(&disk.detail)));
    }
    let damaged = evidence.total();
    if !server.started {
        evidence.add(|| quote(&server.detail));
    }
    let summary = match (server.started, damaged) {
        (true, 0) => return Ok(None),
        (true, n) => format!("the file system check found damage on {}", count(n, "disk")),
        (false, 0) => "the server did not start from the restored disks".into(),
        (false, n) => {
            format!(
                "the server did not start, and the file system check found damage on {}",
                count(n, "disk")
            )
        }
    };
    Ok(Some(Defect::new(Property::Starts, summary, evidence.into_lines())))
}

/// L1: recovery found no prepared transaction.
///
/// Source: MySQL's two-phase commit between InnoDB and the binary log. A
/// transaction is acknowledged when its commit record may still wait in memory;
/// the next flush of the engine's log makes it durable. A hook that flushes
/// under its lock leaves none, so one that is left was in flight. Needs the
/// server's recovery log.
pub(super) fn no_prepared_transactions(view: &View<'_>) -> Ruling {
    let prepared = view
        .served()?
        .server
        .as_ref()
        .and_then(|server| server.prepared)
        .ok_or_else(|| Missing("the log of the server's recovery was not readable".into()))?;
    if prepared == 0 {
        return Ok(None);
    }
    let summary = format!(
        "recovery found {} that only the binary log could decide: the engine's log was not flushed under a lock",
        count(prepared, "prepared transaction")
    );
    Ok(Some(Defect::new(Property::NoPreparedTransactions, summary, Vec::new())))
}

/// L2: no file system on the raw snapshot has a journal to replay.
///
/// Source: the kernel's FIFREEZE, which empties the journal and clears ext4's
/// `needs_recovery`. A set flag proves that the freeze skipped this file
/// system. Needs the raw image, read before anything mounts it.
pub(super) fn filesystem_clean(view: &View<'_>) -> Ruling {
    let seen = view.observed()?;
    if seen.filesystems.is_empty() {
        return Err(Missing("no file system was read from the raw snapshot".into()));
    }
    let mut evidence = Evidence::default();
    for system in seen.filesystems.iter().filter(|system| system.dirty) {
        evidence.add(|| format!("{} on disk {}", quote(&system.kind), quote(&system.disk)));
    }
    if evidence.is_empty() {
        return Ok(None);
    }
    let summary = format!("{} had a journal to replay: not frozen", count(evidence.total(), "file system"));
    Ok(Some(Defect::new(Property::FilesystemClean, summary, evidence.into_lines())))
}

/// M: what was observed is a freshly booted guest.
///
/// Source: MySQL's MEMORY engine, whose tables are empty after a server start.
/// A row in it means that the harness looked at the live guest or at a copy of
/// its memory. Needs the row count of that table.
pub(super) fn fresh_boot(view: &View<'_>) -> Ruling {
    let rows = view
        .served()?
        .memory_rows
        .ok_or_else(|| Missing("the rows of the MEMORY table were not counted".into()))?;
    if rows == 0 {
        return Ok(None);
    }
    let summary = format!(
        "the MEMORY table holds {} after the restore: this is the live guest, not its backup",
        count(rows, "row")
    );
    Ok(Some(Defect::new(Property::FreshBoot, summary, Vec::new())))
}
