//! From rulings to a grade, and to the one line that says why.

use super::power::lacking;
use super::probes::is_stopped;
use super::tell::{count, quote};
use super::view::{Freeze, Missing, View};
use super::{Defect, Ruling};
use crate::verdict::{Grade, Power, Property};

/// What must have been examined before a backup is called crash-consistent: all
/// whose violation would make it worse than that, and the proof that a backup
/// was looked at.
const CRASH_CONSISTENT: [Property; 12] = [
    Property::Starts,
    Property::Checksums,
    Property::Atomicity,
    Property::Conservation,
    Property::IndexAgreement,
    Property::ClientPrefix,
    Property::Durability,
    Property::NoFuture,
    Property::RealTimeOrder,
    Property::CausalOrder,
    Property::VersionOrder,
    Property::FreshBoot,
];

/// The same of the non-transactional tables, where the load has any.
const CRASH_CONSISTENT_TABLES: [Property; 2] = [Property::NonTransactionalDurability, Property::TableCheck];

/// What must have been examined besides before it is called application-consistent:
/// everything but what a trial may owe nothing of, see [`owed`].
const APPLICATION_CONSISTENT: [Property; 15] = [
    Property::QuiescedDurability,
    Property::NoFutureStrict,
    Property::WindowSilence,
    Property::LockProbe,
    Property::DiskSilence,
    Property::LockIdentity,
    Property::NonTransactionalDurability,
    Property::TablesClosed,
    Property::TableCheck,
    Property::BinlogAgreement,
    Property::NoPreparedTransactions,
    Property::FilesystemClean,
    Property::OutsideFiles,
    Property::DiskAgreement,
    Property::FreshBoot,
];

/// Whether a trial owes what a property needs. A hook owes no recorded position, and so no
/// roll-forward; what else may be missing is what the setup does not have.
fn owed(view: &View<'_>, property: Property, stopped: bool) -> bool {
    let setup = &view.case.setup;
    match property {
        Property::NonTransactionalDurability => view.has_other_tables(),
        Property::BinlogAgreement => setup.binlog,
        Property::OutsideFiles => !setup.file_systems.is_empty(),
        Property::DiskAgreement => setup.file_systems.len() > 1,
        // A server that was stopped holds no lock.
        Property::LockIdentity => !stopped,
        _ => true,
    }
}

/// Properties from the most to the least telling, among those that allow the
/// same grade.
const MOST_TELLING: [Property; 28] = [
    Property::FreshBoot,
    Property::Starts,
    Property::Checksums,
    Property::IndexAgreement,
    Property::Atomicity,
    Property::NoFuture,
    Property::Durability,
    Property::Conservation,
    Property::ClientPrefix,
    Property::RealTimeOrder,
    Property::CausalOrder,
    Property::VersionOrder,
    Property::DiskAgreement,
    Property::BinlogAgreement,
    Property::RollForward,
    Property::NonTransactionalDurability,
    Property::LockIdentity,
    Property::TablesClosed,
    Property::LockProbe,
    Property::WindowSilence,
    Property::DiskSilence,
    Property::FilesystemClean,
    Property::TableCheck,
    Property::QuiescedDurability,
    Property::NoFutureStrict,
    Property::NoPreparedTransactions,
    Property::RecordedPosition,
    Property::OutsideFiles,
];

/// The sort key that puts the worst finding first, and the most telling first
/// among equals.
pub(super) fn telling(property: Property, defect: &Defect) -> impl Ord + use<> {
    let rank = MOST_TELLING.iter().position(|other| *other == property);
    (std::cmp::Reverse(defect.ceiling), rank)
}

/// The grade, and why.
pub(super) fn grade(view: &View<'_>, rulings: &[(Property, Ruling)], power: &Power) -> (Grade, String) {
    let (grade, why) = decide(view, rulings, power);
    (grade, format!("{grade}: {why}"))
}

fn decide(view: &View<'_>, rulings: &[(Property, Ruling)], power: &Power) -> (Grade, String) {
    let marks = view.marks();
    if !view.case.cycle.complete {
        return (Grade::Unknown, "the history breaks off before its last line".into());
    }
    if marks.freeze_err.is_some() && marks.snap_begin.is_none() {
        let detail = quote(&marks.freeze_detail);
        let detail = if detail.is_empty() { "it gave no reason".into() } else { detail };
        return (Grade::Refused, format!("the freeze failed and no backup was made: {detail}"));
    }
    if let Err(Missing(why)) = view.observed() {
        return (Grade::Unknown, why);
    }

    let mut defects: Vec<(Property, &Defect)> = rulings
        .iter()
        .filter_map(|(property, ruling)| Some((*property, ruling.as_ref().ok()?.as_ref()?)))
        .collect();
    defects.sort_by_key(|(property, defect)| telling(*property, defect));
    let proven = defects.first().map_or(Grade::ApplicationConsistent, |(_, defect)| defect.ceiling);
    if proven > Grade::CrashConsistent {
        return (proven, because(&defects));
    }

    let first = marks.freeze_call.or(marks.snap_begin);
    if !view.transfers().any(|(_, _, transfer, _)| first.is_some_and(|first| transfer.acked < first)) {
        return (
            Grade::Unknown,
            "no transfer was acknowledged before the freeze, so nothing is proven".into(),
        );
    }
    let best = match view.freeze() {
        Freeze::Done => proven,
        Freeze::NotTried | Freeze::Failed => Grade::CrashConsistent,
    };
    let stopped = is_stopped(view);
    let needed = CRASH_CONSISTENT
        .iter()
        .chain(CRASH_CONSISTENT_TABLES.iter().filter(|_| view.has_other_tables()))
        .chain(APPLICATION_CONSISTENT.iter().filter(|_| best == Grade::ApplicationConsistent))
        .filter(|property| owed(view, **property, stopped));
    for property in needed {
        let ruling = rulings.iter().find(|(other, _)| other == property).map(|(_, ruling)| ruling);
        if let Some(Err(Missing(why))) = ruling {
            return (Grade::Unknown, format!("{property} ({}) could not be examined: {why}", property.id()));
        }
    }

    if best == Grade::ApplicationConsistent
        && let Some(why) = lacking(view, power, stopped)
    {
        return (Grade::Unknown, why);
    }
    let why = match (best, view.freeze()) {
        (Grade::ApplicationConsistent, _) => proof(view, power),
        (_, Freeze::Done) => because(&defects),
        (_, Freeze::NotTried) => unfrozen("no freeze took place", &defects),
        (_, Freeze::Failed) => unfrozen("the snapshot was taken although the freeze failed", &defects),
    };
    (best, why)
}

/// The first finding, and how many others there are.
fn because(defects: &[(Property, &Defect)]) -> String {
    let Some(((property, defect), others)) = defects.split_first() else { return "no finding".into() };
    let more = match others.len() as u64 {
        0 => String::new(),
        n => format!("; {}", count(n, "more finding")),
    };
    format!("{} ({}){more}", defect.summary, property.id())
}

fn unfrozen(why: &str, defects: &[(Property, &Defect)]) -> String {
    if defects.is_empty() {
        return why.to_owned();
    }
    let because = because(defects);
    // Q1 says it itself.
    if because.starts_with(why) { because } else { format!("{why}; {because}") }
}

/// What was proven, and with what power.
fn proof(view: &View<'_>, power: &Power) -> String {
    let restored = view.transfers().filter(|(.., mask)| *mask == 0b11).count() as u64;
    let ways = count(power.in_flight_by.len() as u64, "way");
    let lock = power.lock.as_deref().unwrap_or("no lock was seen");
    format!(
        "{} of {} restored as one instant inside the freeze window; {} in flight through {ways} to the server, {lock}",
        count(restored, "transfer"),
        count(u64::from(view.case.setup.writers), "writer"),
        count(power.in_flight, "write"),
    )
}
