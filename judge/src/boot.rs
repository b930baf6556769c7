//! What the raw disks and the first boot show: R0, L1, L2, M.

use contract::grade::Grade;
use contract::history::{Holds, Quiescence};
use contract::property::Property;

use super::case::{Observation, ServerDirectory};
use super::evidence::{Evidence, count, quote};
use super::ruling::{Defect, Ruling, Unexamined};
use super::view::View;

/// R0, [`Property::Starts`].
pub(super) fn starts(view: &View<'_>) -> Ruling {
    let observation = view.observed()?;
    let server = observation
        .server
        .as_ref()
        .ok_or_else(|| Unexamined("the observation does not say whether the server started".into()))?;
    let mut outside = Evidence::default();
    let mut grave = false;
    for directory in view.case.directories.iter().filter(|directory| directory.on.is_none()) {
        grave |= directory.holds != Holds::Binlogs;
        outside.add(|| directory_line(view, directory));
    }
    if !outside.is_empty() {
        let what = count(outside.total(), "directory");
        let summary = format!(
            "{what} of the server on none of the snapshot's disks: a backup of these disks does not contain it"
        );
        let mut defect = Defect::new(Property::Starts, summary, outside.into_lines());
        if !grave {
            defect.ceiling = Grade::Inconsistent;
        }
        return Ok(Some(defect));
    }
    let mut evidence = Evidence::default();
    for disk in observation.checked_disks.iter().filter(|disk| !disk.clean) {
        evidence.add(|| format!("disk {}: {}", quote(&disk.disk), quote(&disk.detail)));
    }
    let damaged = evidence.total();
    if !server.started {
        evidence.add(|| quote(&server.detail));
    }
    let summary = match (server.started, damaged) {
        (true, 0) => return all_checked(view, observation),
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

fn all_checked(view: &View<'_>, observation: &Observation) -> Ruling {
    let checked = |fs: &str| observation.checked_disks.iter().any(|disk| disk.disk == fs);
    if let Some(unchecked) = view.case.setup.file_systems.iter().find(|fs| !checked(fs)) {
        return Err(Unexamined(format!("the file system of {} was not checked", quote(unchecked))));
    }
    let owed: &[Holds] = match (view.case.setup.quiescence, view.case.setup.binlog) {
        (Quiescence::BackupMode, _) => &[Holds::Data, Holds::Redo],
        (Quiescence::Lock, false) => &[Holds::Data, Holds::Redo, Holds::Undo],
        (Quiescence::Lock, true) => &[Holds::Data, Holds::Redo, Holds::Undo, Holds::Binlogs],
    };
    for owed in owed {
        if !view.case.directories.iter().any(|directory| directory.holds == *owed) {
            let what = contents(view, *owed);
            return Err(Unexamined(format!("the history does not say where the server keeps its {what}")));
        }
    }
    let known = |fs: &String| view.case.setup.file_systems.contains(fs);
    match view.case.directories.iter().find(|it| it.on.as_ref().is_some_and(|fs| !known(fs))) {
        Some(lost) => {
            Err(Unexamined(format!("{}, lies on a disk that was not examined", directory_line(view, lost))))
        }
        None => Ok(None),
    }
}

/// `data in /var/lib/mysql, on tmpfs`.
pub(super) fn directory_line(view: &View<'_>, directory: &ServerDirectory) -> String {
    let contents = contents(view, directory.holds);
    format!("{contents} in {}, on {}", quote(&directory.path), quote(&directory.fs))
}

fn contents(view: &View<'_>, holds: Holds) -> &'static str {
    match holds {
        Holds::Data => "data",
        Holds::Redo if !view.case.setup.quiescence.is_lock() => "write-ahead log",
        Holds::Redo => "redo log",
        Holds::Undo => "undo log",
        Holds::Binlogs => "binary logs",
    }
}

/// L1, [`Property::NoPreparedTransactions`]. A transaction is acknowledged when its commit record may
/// still wait in memory; the next flush of the engine's log makes it durable. PostgreSQL shows what is
/// prepared in a view, and not in its log.
pub(super) fn no_prepared_transactions(view: &View<'_>) -> Ruling {
    let in_log = view.case.setup.quiescence.is_lock();
    let prepared = view
        .served()?
        .server
        .as_ref()
        .filter(|server| server.recovered.is_some() || !in_log)
        .and_then(|server| server.prepared)
        .ok_or_else(|| {
            Unexamined(
                match in_log {
                    true => "the server's recovery log could not be read, or has no notes",
                    false => "the restored server's prepared transactions were not counted",
                }
                .into(),
            )
        })?;
    if prepared == 0 {
        return Ok(None);
    }
    let prepared = count(prepared, "prepared transaction");
    let summary = match in_log {
        true => format!(
            "recovery found {prepared} that only the binary log could resolve: the engine's log was not flushed under a lock"
        ),
        false => format!(
            "the restored server has {prepared}: they were in flight at the snapshot, and wait until somebody ends them"
        ),
    };
    Ok(Some(Defect::new(Property::NoPreparedTransactions, summary, Vec::new())))
}

/// L2, [`Property::FilesystemClean`].
pub(super) fn filesystem_clean(view: &View<'_>) -> Ruling {
    let observation = view.observed()?;
    let mut evidence = Evidence::default();
    for system in observation.filesystems.iter().filter(|system| system.dirty) {
        evidence.add(|| format!("{} on disk {}", quote(&system.kind), quote(&system.disk)));
    }
    if evidence.is_empty() {
        let read = |fs: &str| observation.filesystems.iter().any(|system| system.disk == fs);
        if let Some(unread) = view.case.setup.file_systems.iter().find(|fs| !read(fs)) {
            return Err(Unexamined(format!("the file system of {} was not read raw", quote(unread))));
        }
        if observation.filesystems.is_empty() {
            return Err(Unexamined("no file system was read from the raw snapshot".into()));
        }
        return Ok(None);
    }
    let why = view.thawed_by_another().unwrap_or_else(|| "not frozen".into());
    let summary = format!("{} had a journal to replay: {why}", count(evidence.total(), "file system"));
    Ok(Some(Defect::new(Property::FilesystemClean, summary, evidence.into_lines())))
}

/// M, [`Property::FreshBoot`].
pub(super) fn fresh_boot(view: &View<'_>) -> Ruling {
    let table = if view.case.setup.quiescence.is_lock() { "MEMORY" } else { "UNLOGGED" };
    let rows = view
        .served()?
        .memory_rows
        .ok_or_else(|| Unexamined(format!("the rows of the {table} table were not counted")))?;
    if rows == 0 {
        return Ok(None);
    }
    let summary = format!(
        "the {table} table holds {} after the restore: this is the live guest, not its backup",
        count(rows, "row")
    );
    Ok(Some(Defect::new(Property::FreshBoot, summary, Vec::new())))
}
