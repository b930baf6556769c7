//! Whether the tables that no transaction protects are whole: N1, N2, N3.

use std::collections::BTreeSet;

use super::case::{CheckedTable, Trouble};
use super::tell::{Evidence, count, quote, were};
use super::view::{BULK, Freeze, LEDGER, Missing, View};
use super::{Defect, Ruling};
use crate::verdict::{Grade, Property};

/// N1: every acknowledged row is there, and none without its transfer.
///
/// Source: MyISAM's write path, which acknowledges from the page cache, and the
/// order between engines: the client sends the row only after its transfer was
/// acknowledged. A row lost that was acknowledged inside the window tells of a
/// missing lock; one acknowledged before the snapshot, or a row whose transfer
/// is missing, makes the backup inconsistent. So does, where no freeze waited
/// for its end, part of a statement. Needs the rows and an acknowledgement
/// before the snapshot.
pub(super) fn durability(view: &View<'_>) -> Ruling {
    let seen = view.read(&[LEDGER])?;
    let begin = view.snapshot()?.begin;
    // Without a freeze, nothing is owed of what was acknowledged later.
    let owed_until = view.window().map_or(begin, |window| window.thaw);
    let anchor = view.anchor();
    let (mut lost, mut late, mut orphans) = (Evidence::default(), Evidence::default(), Evidence::default());
    let mut torn = Evidence::default();
    let mut any = false;
    for (c, table, follow, there) in view.follows() {
        let name = view.case.follower(table);
        if view.is_cut(name) {
            continue;
        }
        any |= follow.acked < begin;
        if !there && follow.acked < begin {
            lost.add(|| format!("lost: {}", anchor.row(c, name, follow)));
        } else if !there && follow.acked < owed_until {
            late.add(|| format!("lost: {}", anchor.row(c, name, follow)));
        }
    }
    for (n, bulk, held) in view.bulk().filter(|_| !view.is_cut(BULK)) {
        any |= bulk.span.acked_before(begin);
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
    for row in seen.rows.iter().filter(|row| !view.is_whole(row.c, row.n)) {
        let name = quote(view.case.follower(row.table));
        orphans
            .add(|| format!("orphan: client {} row {} of `{name}`; its transfer is missing", row.c, row.n));
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
        parts.push(format!("{} only in part there", count(torn.total(), "statement")));
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
    let followers = view.case.setup.followers.iter().map(String::as_str);
    let mut tables = followers.chain((!view.case.bulk.is_empty()).then_some(BULK));
    if let Some(cut) = tables.find(|name| view.is_cut(name)) {
        return Err(Missing(format!("the table `{}` could not be read to its end", quote(cut))));
    }
    if !any {
        return Err(Missing(
            "no row of a non-transactional table was acknowledged before the snapshot".into(),
        ));
    }
    Ok(None)
}

/// N2: every MyISAM table was closed on the disk.
///
/// Source: the `.MYI` header, whose open count MyISAM writes when a table is
/// first changed and clears when `FLUSH TABLES` closes it. Read from the raw
/// image, it is the cheapest proof that a hook flushed. Needs the header of
/// every MyISAM table of the load.
pub(super) fn closed(view: &View<'_>) -> Ruling {
    let seen = view.observed()?;
    let mut open = Evidence::default();
    for header in seen.headers.iter().filter(|header| header.open_count != 0) {
        open.add(|| format!("`{}`: open count {}", quote(&header.table), header.open_count));
    }
    if let Some(first) = seen.headers.iter().find(|header| header.open_count != 0) {
        let name = quote(&first.table);
        let summary = match open.total() {
            1 => {
                format!("the MyISAM table `{name}` was still open when the disk stopped: no hook flushed it")
            }
            n => format!(
                "{n} MyISAM tables were still open when the disk stopped (first `{name}`): no hook flushed them"
            ),
        };
        return Ok(Some(Defect::new(Property::TablesClosed, summary, open.into_lines())));
    }
    let hides = |file: &&Trouble| file.what.ends_with(".MYI") || file.what.starts_with("/dev/");
    if let Some(file) = seen.unreadable.iter().find(hides) {
        let (path, why) = (quote(&file.what), quote(&file.why));
        return Err(Missing(format!("`{path}` could not be read from the raw snapshot: {why}")));
    }
    let read: BTreeSet<&str> = seen.headers.iter().map(|header| header.table.as_str()).collect();
    let unread = myisam(view, &seen.checks).find(|table| !read.contains(table.table.as_str()));
    if let Some(table) = unread {
        return Err(Missing(format!("the header of `{}` was not read", quote(&table.table))));
    }
    if seen.headers.is_empty() {
        return Err(Missing("the header of no MyISAM table was read".into()));
    }
    Ok(None)
}

/// The follower tables that the server says are MyISAM.
fn myisam<'a>(view: &'a View<'_>, checks: &'a [CheckedTable]) -> impl Iterator<Item = &'a CheckedTable> {
    checks.iter().filter(|check| {
        check.engine.eq_ignore_ascii_case("myisam") && view.is_non_transactional(&check.table)
    })
}

/// N3: the server finds no fault in any table.
///
/// Source: `CHECK TABLE ... EXTENDED`, run with automatic repair off, because
/// the server's default repairs silently and hides the damage. A warning shows
/// that a table was not closed; a non-transactional table that cannot be used
/// makes the backup inconsistent, a transactional one unusable. Needs the check
/// of every non-transactional table.
pub(super) fn check(view: &View<'_>) -> Ruling {
    let seen = view.served()?;
    let mut ceiling = Property::TableCheck.ceiling();
    let (mut crashed, mut warned) = (Evidence::default(), Evidence::default());
    for check in &seen.checks {
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
    for cut in seen.cut_tables.iter().filter(|cut| view.is_non_transactional(&cut.what)) {
        ceiling = ceiling.max(Grade::Inconsistent);
        crashed.add(|| format!("`{}` cannot be read: {}", quote(&cut.what), quote(&cut.why)));
    }
    let summary = match (crashed.is_empty(), warned.is_empty()) {
        (false, _) => "a restored table is crashed and cannot be used as it is".to_owned(),
        (true, false) => format!("the table check warned about {}", count(warned.total(), "table")),
        (true, true) => {
            let unchecked = view
                .case
                .setup
                .followers
                .iter()
                .find(|name| !seen.checks.iter().any(|check| check.table == **name));
            return match unchecked {
                Some(name) => Err(Missing(format!("the table `{}` was not checked", quote(name)))),
                None if seen.checks.is_empty() => Err(Missing("no table was checked".into())),
                None => Ok(None),
            };
        }
    };
    crashed.append(warned);
    let mut defect = Defect::new(Property::TableCheck, summary, crashed.into_lines());
    defect.ceiling = ceiling;
    Ok(Some(defect))
}

fn messages(check: &CheckedTable) -> String {
    if check.messages.is_empty() { "no message".to_owned() } else { quote(&check.messages.join("; ")) }
}
