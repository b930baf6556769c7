//! Whether the tables that no transaction protects are whole: N1, N2, N3.

use std::collections::BTreeSet;

use contract::grade::Grade;
use contract::observation::is_position_file;
use contract::property::Property;

use super::case::{Observation, RestoredRow, TableCheckResult, TableFile, UnreadablePart};
use super::evidence::{Evidence, count, quote, were};
use super::ruling::{Defect, Ruling, Unexamined};
use super::view::{BULK, Freeze, LEDGER, View};

/// N1, [`Property::NonTransactionalDurability`]. A row lost that was acknowledged inside the window
/// shows a missing lock; one acknowledged before the snapshot, or a row whose transfer is missing,
/// makes the backup inconsistent. So does, where no freeze waited for its end, part of a statement.
pub(super) fn durability(view: &View<'_>) -> Ruling {
    let observation = view.read(&[LEDGER])?;
    let begin = view.snapshot()?.begin;
    // Without a freeze, nothing is owed of what was acknowledged later.
    let owed_until = view.window().map_or(begin, |window| window.thaw);
    let anchor = view.anchor();
    let (mut lost, mut late, mut orphans) = (Evidence::default(), Evidence::default(), Evidence::default());
    let mut torn = Evidence::default();
    let mut heard = BTreeSet::new();
    for sent in view.rows_of(false) {
        let name = view.case.follower(sent.table);
        if view.is_cut(name) {
            continue;
        }
        if sent.row.acked < begin {
            heard.insert(name);
        }
        if !sent.there && sent.row.acked < begin {
            lost.add(|| format!("lost: {}", anchor.row(&sent, name)));
        } else if !sent.there && sent.row.acked < owed_until {
            late.add(|| format!("lost: {}", anchor.row(&sent, name)));
        }
    }
    for (n, bulk, held) in view.bulk().filter(|_| !view.is_cut(BULK)) {
        if bulk.span.acked_before(begin) {
            heard.insert(BULK);
        }
        if held.rows < bulk.rows {
            let line = || {
                let acked = anchor.when(bulk.span.acked);
                format!("lost: {} rows of bulk statement {n} (acked {acked})", bulk.rows - held.rows)
            };
            if bulk.span.acked_before(begin) {
                lost.add(line);
            } else if bulk.span.acked_before(owed_until) {
                late.add(line);
            } else if bulk.is_torn(held) && view.freeze() != Freeze::Done {
                let (held, sent) = (held.rows, bulk.rows);
                torn.add(|| format!("bulk statement {n}: {held} of its {sent} rows are there"));
            }
        }
    }
    let orphaned = |row: &&RestoredRow| !view.is_transactional(row.table) && !view.is_whole_of(row);
    for row in observation.rows.iter().filter(orphaned) {
        let name = quote(view.case.follower(row.table));
        let [c, n] = row.of;
        orphans.add(|| {
            format!("orphan: client {} row {} of `{name}`; client {c} transfer {n} is missing", row.c, row.n)
        });
    }
    for row in &view.oddities.doubled_rows {
        let name = quote(view.case.follower(row.table));
        orphans.add(|| format!("client {} row {} of `{name}`: there twice", row.c, row.n));
    }
    let grave = !lost.is_empty() || !orphans.is_empty() || !torn.is_empty();
    let mut parts = Vec::new();
    if lost.total() + late.total() > 0 {
        let n = lost.total() + late.total();
        parts.push(format!("{} of non-transactional tables {} lost", count(n, "acknowledged row"), were(n)));
    }
    if !orphans.is_empty() {
        parts.push(format!("{} without a transfer", count(orphans.total(), "row")));
    }
    if !torn.is_empty() {
        parts.push(format!("{} only partly there", count(torn.total(), "statement")));
    }
    lost.append(late);
    lost.append(orphans);
    lost.append(torn);
    if !lost.is_empty() {
        let mut defect =
            Defect::new(Property::NonTransactionalDurability, parts.join(", "), lost.into_lines());
        if grave {
            defect.ceiling = Grade::Inconsistent;
        }
        return Ok(Some(defect));
    }
    all_heard(view, observation, &heard)
}

/// Every non-transactional table was read to its end, and had a row acknowledged before the snapshot.
fn all_heard(view: &View<'_>, observation: &Observation, heard: &BTreeSet<&str>) -> Ruling {
    if let Some(cut) = observation.cut_tables.iter().find(|cut| view.is_non_transactional(&cut.what)) {
        return Err(Unexamined(format!("the table `{}` could not be read to its end", quote(&cut.what))));
    }
    let mut others = view.tables().filter(|(table, _)| view.is_non_transactional(table)).peekable();
    if others.peek().is_none() {
        return Err(Unexamined("the load has no non-transactional table".into()));
    }
    match others.find(|(table, _)| !heard.contains(table)) {
        Some((table, _)) => {
            Err(Unexamined(format!("no row of `{}` was acknowledged before the snapshot", quote(table))))
        }
        None => Ok(None),
    }
}

/// N2, [`Property::TablesClosed`]. A lock of the load's tables alone leaves those of others open.
pub(super) fn closed(view: &View<'_>) -> Ruling {
    if !view.case.setup.quiescence.is_lock() {
        return Err(Unexamined("PostgreSQL has no tables that must be closed".into()));
    }
    let observation = view.observed()?;
    let mut open = Evidence::default();
    for file in observation.table_files.iter().filter(|file| file.open_count != 0) {
        open.add(|| format!("`{}`: open count {}", named(file), file.open_count));
    }
    if let Some(first) = observation.table_files.iter().find(|file| file.open_count != 0) {
        let name = named(first);
        let summary = match open.total() {
            1 => format!("the table `{name}` was still open when the disk stopped: no hook flushed it"),
            n => format!(
                "{n} tables of MyISAM or Aria were still open when the disk stopped (first `{name}`): no hook flushed them"
            ),
        };
        return Ok(Some(Defect::new(Property::TablesClosed, summary, open.into_lines())));
    }
    // Any unreadable file may be a table, except the position that a hook leaves.
    let hides = |file: &&UnreadablePart| !is_position_file(&file.what);
    if let Some(file) = observation.unreadable.iter().find(hides) {
        let (path, why) = (quote(&file.what), quote(&file.why));
        return Err(Unexamined(format!("`{path}` could not be read from the raw snapshot: {why}")));
    }
    let read: BTreeSet<&str> =
        observation.table_files.iter().filter_map(|file| file.table.as_deref()).collect();
    let owed = view.tables().filter(|(_, engine)| has_index_file(engine));
    if let Some((table, _)) = owed.into_iter().find(|(table, _)| !read.contains(table)) {
        return Err(Unexamined(format!("the header of `{}` was not read", quote(table))));
    }
    let there = observation
        .table_files_there
        .ok_or_else(|| Unexamined("the data directory's index files were not counted".into()))?;
    let read: BTreeSet<&str> = observation.table_files.iter().map(|file| file.file.as_str()).collect();
    if usize::try_from(there).ok() != Some(read.len()) {
        let read = read.len();
        return Err(Unexamined(format!(
            "the headers of {read} of {} were read",
            count(there.into(), "table")
        )));
    }
    Ok(None)
}

/// A table of the load by its name, another by its file.
fn named(file: &TableFile) -> String {
    quote(file.table.as_ref().unwrap_or(&file.file))
}

fn has_index_file(engine: &str) -> bool {
    ["myisam", "aria"].iter().any(|name| engine.eq_ignore_ascii_case(name))
}

/// N3, [`Property::TableCheck`]. A warning shows that a table was not closed; a non-transactional table
/// that cannot be used makes the backup inconsistent, a transactional one unusable.
pub(super) fn check(view: &View<'_>) -> Ruling {
    let observation = view.served()?;
    let mut ceiling = Property::TableCheck.ceiling();
    let (mut crashed, mut warned, mut logged) =
        (Evidence::default(), Evidence::default(), Evidence::default());
    for line in observation.server.iter().flat_map(|server| &server.corruption) {
        let transactional = line.contains("InnoDB") || !view.case.setup.quiescence.is_lock();
        let worst = if transactional { Grade::Unusable } else { Grade::Inconsistent };
        ceiling = ceiling.max(worst);
        logged.add(|| format!("the server's log: {}", quote(line)));
    }
    for check in &observation.checks {
        let line = || format!("`{}` ({}): {}", quote(&check.table), quote(&check.engine), messages(check));
        if !check.usable {
            let worst =
                if view.is_non_transactional(&check.table) { Grade::Inconsistent } else { Grade::Unusable };
            ceiling = ceiling.max(worst);
            crashed.add(line);
        } else if !check.clean {
            warned.add(line);
        }
    }
    // Those of the probes are none of the load's; a file of their own shows of which kind they are.
    let has_file = |table: &str| observation.table_files.iter().any(|it| it.table.as_deref() == Some(table));
    let non_transactional =
        |cut: &&UnreadablePart| view.is_non_transactional(&cut.what) || has_file(&cut.what);
    for cut in observation.cut_tables.iter().filter(non_transactional) {
        ceiling = ceiling.max(Grade::Inconsistent);
        crashed.add(|| format!("`{}` cannot be read: {}", quote(&cut.what), quote(&cut.why)));
    }
    let summary = match (logged.is_empty(), crashed.is_empty(), warned.is_empty()) {
        (_, false, _) => "a restored table is crashed and cannot be used as it is".to_owned(),
        (false, true, _) => "the restored server's log reports corruption".to_owned(),
        (true, true, false) => format!("the table check warned about {}", count(warned.total(), "table")),
        (true, true, true) => {
            let checked: BTreeSet<&str> =
                observation.checks.iter().map(|check| check.table.as_str()).collect();
            return match view.tables().find(|(table, _)| !checked.contains(table)) {
                Some((table, _)) => Err(Unexamined(format!("the table `{}` was not checked", quote(table)))),
                None if observation.server.as_ref().is_none_or(|server| server.recovered.is_none()) => Err(
                    Unexamined("the restored server's startup log could not be read, or has no notes".into()),
                ),
                None => Ok(None),
            };
        }
    };
    crashed.append(logged);
    crashed.append(warned);
    let mut defect = Defect::new(Property::TableCheck, summary, crashed.into_lines());
    defect.ceiling = ceiling;
    Ok(Some(defect))
}

fn messages(check: &TableCheckResult) -> String {
    if check.messages.is_empty() { "no message".to_owned() } else { quote(&check.messages.join("; ")) }
}
