//! Whether the cut through the history lies where it must: D, D*, F, F*.

use super::schema::Steps;
use super::tell::{Evidence, count, quote, were};
use super::view::{LEDGER, View};
use super::{Defect, Ruling};
use crate::history::Nanos;
use crate::verdict::Property;

/// D: every transfer and every change of the schema that was acknowledged
/// before the snapshot began is there.
///
/// Source: durability of an acknowledged commit. A transfer with a leg missing
/// is not there. Needs S0 and the ledger.
pub(super) fn durability(view: &View<'_>) -> Ruling {
    view.read(&[LEDGER])?;
    let begin = view.snapshot()?.begin;
    Ok(lost(view, begin).map(|(what, n, lost)| {
        let summary = format!("{what} acknowledged before the snapshot {} lost", were(n));
        Defect::new(Property::Durability, summary, lost.into_lines())
    }))
}

/// D*: every transfer acknowledged before the thaw was called is there.
///
/// Source: what a held lock means. Nothing commits under it, so what is
/// acknowledged inside the window was committed before the lock and only its
/// answer travelled late. Needs a window and the ledger.
pub(super) fn quiesced_durability(view: &View<'_>) -> Ruling {
    view.read(&[LEDGER])?;
    let thaw = view.window()?.thaw;
    Ok(lost(view, thaw).map(|(what, n, lost)| {
        let summary = format!("{what} acknowledged before the thaw {} not in the backup", were(n));
        Defect::new(Property::QuiescedDurability, summary, lost.into_lines())
    }))
}

/// The transfers and schema changes acknowledged before a time that are not
/// there: how many in words and as a number, and each.
fn lost(view: &View<'_>, before: Nanos) -> Option<(String, u64, Evidence)> {
    let anchor = view.anchor();
    let mut lost = Evidence::default();
    for (c, n, transfer, mask) in view.transfers() {
        if transfer.acked < before && mask != 0b11 {
            lost.add(|| anchor.transfer(c, n, transfer));
        }
    }
    let steps = Steps::of(view).map(|steps| steps.lost(before)).unwrap_or_default();
    let (transfers, changes) = (lost.total(), steps.total());
    let what = match (transfers, changes) {
        (0, 0) => return None,
        (n, 0) => count(n, "transfer"),
        (0, n) => count(n, "schema change"),
        (n, m) => format!("{} and {}", count(n, "transfer"), count(m, "schema change")),
    };
    lost.append(steps);
    Some((what, transfers + changes, lost))
}

/// F: nothing is there that was sent after the snapshot was complete, or that
/// nobody sent.
///
/// Source: causality. It catches a restore that opened live storage, an image
/// that went on being written, and an observation of another trial. Rows and
/// counters of every table count. Needs S1 and the rows.
pub(super) fn no_future(view: &View<'_>) -> Ruling {
    let seen = view.read(&[LEDGER])?;
    let end = view.snapshot()?.end;
    let mut late = sent_after(view, end);
    let mut stray = Evidence::default();
    for leg in &view.oddities.stray_legs {
        stray.add(|| format!("client {} transfer {} leg {}: nobody sent it", leg.c, leg.n, leg.leg));
    }
    for row in &view.oddities.stray_rows {
        let table = quote(view.case.follower(row.table));
        stray.add(|| format!("client {} row {} of `{table}`: nobody sent it", row.c, row.n));
    }
    for n in seen.bulk.keys().filter(|n| view.case.bulk_statement(**n).is_none()) {
        stray.add(|| format!("rows of bulk statement {n}: nobody sent it"));
    }
    for &(c, n) in seen.counters.iter().filter(|(c, _)| !(1..=view.case.setup.writers).contains(c)) {
        stray.add(|| format!("a counter of client {c}, at {n}: there is no such client"));
    }
    let summary = match (late.total(), stray.total()) {
        (0, 0) => return Ok(None),
        (n, 0) => format!("{} from after the snapshot {} in the backup", count(n, "write"), were(n)),
        (0, n) => {
            format!("{} from nowhere: no client sent {}", count(n, "row"), if n == 1 { "it" } else { "them" })
        }
        (n, m) => {
            format!("{} from after the snapshot, and {} from nowhere", count(n, "write"), count(m, "row"))
        }
    };
    late.append(stray);
    Ok(Some(Defect::new(Property::NoFuture, summary, late.into_lines())))
}

/// F*: nothing is there that was sent after the freeze had returned.
///
/// Source: what a held lock means, seen from the other side. An acknowledgement
/// is not needed: the write is there, so it was executed under the lock. Needs
/// F1 and the rows.
pub(super) fn no_future_strict(view: &View<'_>) -> Ruling {
    view.read(&[LEDGER])?;
    let late = sent_after(view, view.frozen()?);
    if late.is_empty() {
        return Ok(None);
    }
    let n = late.total();
    let summary =
        format!("{} sent after the freeze had returned {} in the backup", count(n, "write"), were(n));
    Ok(Some(Defect::new(Property::NoFutureStrict, summary, late.into_lines())))
}

/// The writes sent after a time that left a trace.
fn sent_after(view: &View<'_>, after: Nanos) -> Evidence {
    let anchor = view.anchor();
    let mut late = Evidence::default();
    for (c, n, transfer, mask) in view.transfers() {
        if transfer.sent > after && mask != 0 {
            late.add(|| anchor.span(c, n, transfer));
        }
    }
    for (c, table, follow, there) in view.follows() {
        if follow.sent > after && there {
            late.add(|| anchor.row(c, view.case.follower(table), follow));
        }
    }
    for (n, bulk, held) in view.bulk() {
        if bulk.span.sent > after && held.rows > 0 {
            late.add(|| format!("bulk statement {n} (sent {})", anchor.when(bulk.span.sent)));
        }
    }
    late.append(Steps::of(view).map(|steps| steps.sent_after(after)).unwrap_or_default());
    late
}
