//! Whether the cut is that of one instant: C1, C2, C3.
//!
//! A set of transfers is the state of one instant exactly if whatever precedes
//! one of its members is a member too, where "precedes" is real time (the
//! answer of one was read before the other was sent), what a client had read,
//! or the order of versions of an account.

use contract::property::Property;

use super::evidence::{Evidence, are, count, quote, were};
use super::ruling::{Defect, Ruling, Unexamined};
use super::schema::Steps;
use super::view::{LEDGER, View};

/// C1, [`Property::RealTimeOrder`]. Two running extrema decide it: the earliest acknowledgement among
/// the missing, and the latest sending among those that are there.
pub(super) fn real_time_order(view: &View<'_>) -> Ruling {
    view.read(&view.transactional_tables())?;
    let anchor = view.anchor();
    let steps = Steps::of(view)?;
    let transfer = view
        .transfers()
        .filter(|(.., mask)| *mask != 0)
        .max_by_key(|(_, _, transfer, _)| transfer.sent)
        .map(|(c, n, kept, _)| (kept.sent, anchor.span(c, n, kept)));
    let row = view
        .rows_of(true)
        .filter(|sent| sent.there)
        .max_by_key(|sent| sent.row.sent)
        .map(|sent| (sent.row.sent, anchor.row(&sent, view.case.follower(sent.table))));
    let step = steps.last_sent().map(|sent| (sent, format!("a schema change (sent {})", anchor.when(sent))));
    let Some((sent, there)) = [step, row, transfer].into_iter().flatten().max_by_key(|(sent, _)| *sent)
    else {
        return Ok(None);
    };
    let mut missing = Evidence::default();
    for (c, n, transfer, mask) in view.transfers() {
        if mask != 0b11 && transfer.acked < sent {
            missing.add(|| format!("missing: {}", anchor.transfer(c, n, transfer)));
        }
    }
    for lost in view.rows_of(true).filter(|lost| !lost.there && lost.row.acked < sent) {
        missing.add(|| format!("missing: {}", anchor.row(&lost, view.case.follower(lost.table))));
    }
    missing.append(steps.lost(sent));
    if missing.is_empty() {
        return steps.known().map(|()| None);
    }
    let n = missing.total();
    let summary = format!(
        "{} {} missing although a later one is there: the backup is not of one instant",
        count(n, "acknowledged operation"),
        are(n)
    );
    let mut evidence = Evidence::default();
    evidence.add(|| format!("there: {there}"));
    evidence.append(missing);
    Ok(Some(Defect::new(Property::RealTimeOrder, summary, evidence.into_lines())))
}

/// C2, [`Property::CausalOrder`]. What no transaction protects is N1's.
pub(super) fn causal_order(view: &View<'_>) -> Ruling {
    let observation = view.read(&view.transactional_tables())?;
    let mut orphans = Evidence::default();
    // The row itself counts. Both legs agree, and R1 reports it if they do not.
    for leg in observation.legs.iter().filter(|leg| leg.leg == 0 || !view.is_whole(leg.c, leg.n)) {
        let [c, n] = leg.dep;
        if n != 0 && !view.is_whole(c, n) {
            orphans.add(|| {
                format!(
                    "client {} transfer {} had read client {c} transfer {n}, which is missing",
                    leg.c, leg.n
                )
            });
        }
    }
    for row in
        observation.rows.iter().filter(|row| view.is_transactional(row.table) && !view.is_whole_of(row))
    {
        orphans.add(|| {
            let ([c, n], table) = (row.of, quote(view.case.follower(row.table)));
            format!(
                "client {} row {} of `{table}` follows client {c} transfer {n}, which is missing",
                row.c, row.n
            )
        });
    }
    if orphans.is_empty() {
        return Ok(None);
    }
    let n = orphans.total();
    let summary =
        format!("{} {} in the backup without the transfer it had read", count(n, "operation"), are(n));
    Ok(Some(Defect::new(Property::CausalOrder, summary, orphans.into_lines())))
}

/// C3, [`Property::VersionOrder`]. An acknowledgement names the version that each account reached; one
/// that is missing below a version that is there is a hole, and one that is there under another version
/// was rewritten.
pub(super) fn version_order(view: &View<'_>) -> Ruling {
    let observation = view.read(&[LEDGER])?;
    let accounts = usize::try_from(view.case.setup.accounts).unwrap_or(0);
    // The highest version of each account that is there; bounded by `MAX_ACCOUNTS`.
    let mut reached = vec![0u32; accounts];
    let mut evidence = Evidence::default();
    for leg in &observation.legs {
        if let Some(highest) = super::case::slot(leg.account).and_then(|at| reached.get_mut(at)) {
            *highest = (*highest).max(leg.version);
        }
        let acknowledged_version = view
            .case
            .transfer(leg.c, leg.n)
            .filter(|transfer| transfer.leg(leg.c, leg.n, leg.leg) == leg.as_sent())
            .and_then(|transfer| transfer.versions.get(usize::from(leg.leg)).copied())
            .unwrap_or(0);
        if acknowledged_version != 0 && acknowledged_version != leg.version {
            evidence.add(|| {
                format!(
                    "client {} transfer {}: account {} is at version {}, acknowledged as {acknowledged_version}",
                    leg.c, leg.n, leg.account, leg.version
                )
            });
        }
    }
    let mut any = false;
    for (c, n, transfer, mask) in view.transfers() {
        for (side, (account, version)) in transfer.accounts.into_iter().zip(transfer.versions).enumerate() {
            any |= version != 0;
            let highest = super::case::slot(account).and_then(|at| reached.get(at)).copied().unwrap_or(0);
            if version != 0 && version < highest && mask & (1 << side) == 0 {
                evidence.add(|| {
                    format!(
                        "account {account}: version {version} (client {c} transfer {n}) is missing below {highest}"
                    )
                });
            }
        }
    }
    if evidence.is_empty() {
        return match (any, view.case.unversioned) {
            (true, false) => Ok(None),
            (_, true) => {
                Err(Unexamined("not every acknowledgement named the versions of its accounts".into()))
            }
            // Those that a client reads back after it lost the answer name none.
            (false, false) => Err(Unexamined("no acknowledgement named the versions of its accounts".into())),
        };
    }
    let n = evidence.total();
    let summary = format!("{} {} out of order in the accounts' histories", count(n, "version"), were(n));
    Ok(Some(Defect::new(Property::VersionOrder, summary, evidence.into_lines())))
}
