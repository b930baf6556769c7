//! Whether the cut through the history lies where it must: D, D*, F, F*.

use std::collections::BTreeSet;

use contract::grade::Grade;
use contract::history::{Nanos, Probe, ProbeKind};
use contract::property::Property;

use super::case::Observation;
use super::evidence::{Evidence, count, quote, were};
use super::probes::name;
use super::ruling::{Defect, Ruling, Unexamined};
use super::schema::Steps;
use super::view::{LEDGER, View};

/// D, [`Property::Durability`]. A transfer with a leg missing is not there. A server that does not know
/// the ledger at all has lost everything: then the disks were not those of the database.
pub(super) fn durability(view: &View<'_>) -> Ruling {
    let begin = view.snapshot()?.begin;
    if let Some(defect) = forgotten(view, begin)? {
        return Ok(Some(defect));
    }
    view.read(&view.transactional_tables())?;
    Ok(lost(view, begin)?.map(|(what, n, lost)| {
        let summary = format!("{what} acknowledged before the snapshot {} lost", were(n));
        Defect::new(Property::Durability, summary, lost.into_lines())
    }))
}

/// The restored server has no such table as the ledger, and it held something.
fn forgotten(view: &View<'_>, begin: Nanos) -> Result<Option<Defect>, Unexamined> {
    let observation = view.served()?;
    let acked = view.transfers().filter(|(_, _, transfer, _)| transfer.acked < begin).count() as u64;
    if acked == 0 || !observation.gone_tables.iter().any(|table| table == LEDGER) {
        return Ok(None);
    }
    let summary = format!(
        "the restored server has no trace of the load: {} acknowledged before the snapshot, and even their table is missing",
        count(acked, "transfer")
    );
    let lines: Vec<_> =
        observation.gone_tables.iter().map(|table| format!("no table `{}`", quote(table))).collect();
    let mut defect = Defect::new(Property::Durability, summary, lines);
    defect.ceiling = Grade::Unusable;
    Ok(Some(defect))
}

/// D*, [`Property::QuiescedDurability`].
pub(super) fn quiesced_durability(view: &View<'_>) -> Ruling {
    view.read(&view.transactional_tables())?;
    let thaw = view.window()?.thaw;
    Ok(lost(view, thaw)?.map(|(what, n, lost)| {
        let summary = format!("{what} acknowledged before the thaw {} not in the backup", were(n));
        Defect::new(Property::QuiescedDurability, summary, lost.into_lines())
    }))
}

/// The transfers, rows and schema changes acknowledged before a time that are
/// missing: a description of how many, their number, and a line for each.
fn lost(view: &View<'_>, before: Nanos) -> Result<Option<(String, u64, Evidence)>, Unexamined> {
    let anchor = view.anchor();
    let mut lost = Evidence::default();
    for (c, n, transfer, mask) in view.transfers() {
        if transfer.acked < before && mask != 0b11 {
            lost.add(|| anchor.transfer(c, n, transfer));
        }
    }
    let mut rows = Evidence::default();
    for sent in view.rows_of(true).filter(|sent| sent.row.acked < before && !sent.there) {
        rows.add(|| anchor.row(&sent, view.case.follower(sent.table)));
    }
    let schema = Steps::of(view)?;
    let steps = schema.lost(before);
    let parts: Vec<_> = [(&lost, "transfer"), (&rows, "row"), (&steps, "schema change")]
        .into_iter()
        .filter(|(evidence, _)| !evidence.is_empty())
        .map(|(evidence, what)| count(evidence.total(), what))
        .collect();
    if parts.is_empty() {
        return schema.known().map(|()| None);
    }
    lost.append(rows);
    lost.append(steps);
    Ok(Some((parts.join(" and "), lost.total(), lost)))
}

/// F, [`Property::NoFuture`]. Rows and counters of every table count.
pub(super) fn no_future(view: &View<'_>) -> Ruling {
    let observation = view.read(&[LEDGER])?;
    let end = view.snapshot()?.end;
    let mut late = sent_after(view, end)?;
    let mut stray = Evidence::default();
    for leg in &view.oddities.stray_legs {
        stray.add(|| format!("client {} transfer {} leg {}: never sent", leg.c, leg.n, leg.leg));
    }
    for row in &view.oddities.stray_rows {
        let table = quote(view.case.follower(row.table));
        stray.add(|| format!("client {} row {} of `{table}`: never sent", row.c, row.n));
    }
    for row in observation.probe_rows.iter().flatten().filter(|row| !view.case.probed.contains(row)) {
        stray.add(|| format!("row {row} of the quiescence probes: none of them had sent it yet"));
    }
    for n in observation.bulk.keys().filter(|n| view.case.bulk_statement(**n).is_none()) {
        stray.add(|| format!("rows of bulk statement {n}: never sent"));
    }
    for &(c, n) in observation.counters.iter().filter(|(c, _)| !(1..=view.case.setup.writers).contains(c)) {
        stray.add(|| format!("a counter of client {c}, at {n}: there is no such client"));
    }
    let summary = match (late.total(), stray.total()) {
        (0, 0) => {
            all_read(observation)?;
            return Steps::of(view)?.known().map(|()| None);
        }
        (n, 0) => format!("{} from after the snapshot {} in the backup", count(n, "write"), were(n)),
        (0, n) => {
            format!(
                "{} of unknown origin: no client sent {}",
                count(n, "row"),
                if n == 1 { "it" } else { "them" }
            )
        }
        (n, m) => {
            format!(
                "{} from after the snapshot, and {} of unknown origin",
                count(n, "write"),
                count(m, "row")
            )
        }
    };
    late.append(stray);
    Ok(Some(Defect::new(Property::NoFuture, summary, late.into_lines())))
}

/// F*, [`Property::NoFutureStrict`].
pub(super) fn no_future_strict(view: &View<'_>) -> Ruling {
    let observation = view.read(&[LEDGER])?;
    let frozen = view.frozen()?;
    let mut late = sent_after(view, frozen)?;
    // Those of a window before, in which a tool only tried to freeze, may be there.
    let writes = |probe: &&Probe| probe.kind != ProbeKind::Memory && probe.t >= frozen;
    let probes: Vec<_> = view.case.cycle.probes.iter().filter(writes).collect();
    if !probes.is_empty() {
        if probes.iter().any(|probe| probe.row.is_none()) {
            return Err(Unexamined("the history does not say which rows the quiescence probes wrote".into()));
        }
        let rows: BTreeSet<_> = probes.iter().filter_map(|probe| probe.row).collect();
        if rows.len() < probes.len() {
            return Err(Unexamined(
                "two quiescence probes wrote the same row, so it is not known which one is in the backup"
                    .into(),
            ));
        }
        let rows = observation.probe_rows.as_ref();
        let rows =
            rows.ok_or_else(|| Unexamined("the rows of the quiescence probes were not read".into()))?;
        for probe in probes.into_iter().filter(|probe| probe.row.is_some_and(|row| rows.contains(&row))) {
            late.add(|| format!("{}, is in the backup", name(view, probe)));
        }
    }
    if late.is_empty() {
        all_read(observation)?;
        return Steps::of(view)?.known().map(|()| None);
    }
    let n = late.total();
    let summary =
        format!("{} sent after the freeze had returned {} in the backup", count(n, "write"), were(n));
    Ok(Some(Defect::new(Property::NoFutureStrict, summary, late.into_lines())))
}

/// Every table was read to its end, those of the probes among them: no write hides in one.
fn all_read(observation: &Observation) -> Result<(), Unexamined> {
    match observation.cut_tables.first() {
        Some(cut) => {
            Err(Unexamined(format!("the table `{}` could not be read to its end", quote(&cut.what))))
        }
        None => Ok(()),
    }
}

/// The writes sent after a time that left a trace.
fn sent_after(view: &View<'_>, after: Nanos) -> Result<Evidence, Unexamined> {
    let anchor = view.anchor();
    let mut late = Evidence::default();
    for (c, n, transfer, mask) in view.transfers() {
        if transfer.sent > after && mask != 0 {
            late.add(|| anchor.span(c, n, transfer));
        }
    }
    for sent in view.rows().filter(|sent| sent.row.sent > after && sent.there) {
        late.add(|| anchor.row(&sent, view.case.follower(sent.table)));
    }
    for (n, bulk, held) in view.bulk() {
        if bulk.span.sent > after && held.rows > 0 {
            late.add(|| format!("bulk statement {n} (sent {})", anchor.when(bulk.span.sent)));
        }
    }
    late.append(Steps::of(view)?.sent_after(after));
    Ok(late)
}
