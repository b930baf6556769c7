//! From rulings to a grade, and to the one line that says why.

use contract::figures::Power;
use contract::grade::Grade;
use contract::history::CommandEnd;
use contract::property::Property;

use super::conduct::ended;
use super::dispatch::owes;
use super::evidence::{count, quote};
use super::handed_back::without_end;
use super::power::lacking;
use super::probes::is_stopped;
use super::ruling::{Defect, Ruling, Unexamined};
use super::view::{Freeze, View};

/// The sort key that puts the worst finding first, and the most telling first
/// among equals.
pub(super) fn severity(property: Property, defect: &Defect) -> impl Ord + use<> {
    (std::cmp::Reverse(defect.ceiling), property.rank())
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
    if view.case.setup.tool {
        if let Some(decided) = without_backup(view) {
            return decided;
        }
    } else if marks.freeze_err.is_some() && marks.snap_begin.is_none() {
        let detail = quote(&marks.freeze_detail);
        let detail = if detail.is_empty() { "it gave no reason".into() } else { detail };
        return (Grade::Refused, format!("the freeze failed and no backup was made: {detail}"));
    }
    let mut defects: Vec<(Property, &Defect)> = rulings
        .iter()
        .filter_map(|(property, ruling)| Some((*property, ruling.as_ref().ok()?.as_ref()?)))
        .collect();
    defects.sort_by_key(|(property, defect)| severity(*property, defect));
    if let Err(Unexamined(why)) = view.observed() {
        return match defects.first() {
            // There was nothing to observe.
            Some((Property::WholeRestore, defect)) => (defect.ceiling, because(&defects)),
            _ => (Grade::Unknown, why),
        };
    }
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
    // What a worse grade also needs comes first.
    let grades = [Grade::CrashConsistent, Grade::ApplicationConsistent];
    for grade in grades.into_iter().filter(|grade| *grade >= best) {
        for (property, ruling) in rulings {
            if let Err(Unexamined(why)) = ruling
                && property.needed_for() == Some(grade)
                && owes(view, *property, best)
            {
                return (
                    Grade::Unknown,
                    format!("{property} ({}) could not be examined: {why}", property.id()),
                );
            }
        }
    }

    if best == Grade::ApplicationConsistent
        && let Some(why) = lacking(view, power, stopped)
    {
        return (Grade::Unknown, why);
    }
    let why = match (best, view.freeze()) {
        (Grade::ApplicationConsistent, _) if defects.is_empty() => proof(view, power),
        (Grade::ApplicationConsistent, _) => format!("{}; but {}", proof(view, power), because(&defects)),
        (_, Freeze::Done) => because(&defects),
        (_, Freeze::NotTried) => unfrozen("no freeze took place", &defects),
        (_, Freeze::Failed) => unfrozen("the snapshot was taken although the freeze failed", &defects),
    };
    (best, why)
}

/// What a backup tool's own end decides: there is no backup, or none that is restored.
fn without_backup(view: &View<'_>) -> Option<(Grade, String)> {
    let unknown = |why: String| Some((Grade::Unknown, why));
    let result = match ended(view) {
        Ok((_, _, result)) => result,
        Err(Unexamined(why)) => return unknown(why),
    };
    let last = result.said.last().map(|line| format!(": {}", quote(line))).unwrap_or_default();
    if let Some(why) = without_end(result.how) {
        let by_fault = matches!(result.how, CommandEnd::Fault(_));
        let grade = if by_fault { Grade::Refused } else { Grade::Unknown };
        return Some((grade, format!("the backup command {why}{last}")));
    }
    if result.how != CommandEnd::Exit(0) {
        let why = format!("the tool said with {} that there is no good backup{last}", result.how);
        return Some((Grade::Refused, why));
    }
    if !view.is_last_cycle() {
        return unknown("only the last backup is restored".into());
    }
    let tool = &view.case.tool;
    match &tool.restored {
        None => unknown("the backup was not restored".into()),
        // What comes last shows that nothing is missing.
        Some(_) if tool.image.is_none() => unknown("the history breaks off before its last line".into()),
        Some(restored) => {
            without_end(restored.how).and_then(|why| unknown(format!("the restore command {why}")))
        }
    }
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
    // The summary of Q1 begins with it already.
    if because.starts_with(why) { because } else { format!("{why}; {because}") }
}

/// What was proven, and with what power.
fn proof(view: &View<'_>, power: &Power) -> String {
    let restored = view.transfers().filter(|(.., mask)| *mask == 0b11).count() as u64;
    let ways = count(power.in_flight_by.len() as u64, "way");
    let lock = power.lock.as_deref().unwrap_or("no lock was observed");
    format!(
        "{} of {} restored as one instant inside the freeze window; {} in flight through {ways} to the server, {lock}",
        count(restored, "transfer"),
        count(u64::from(view.case.setup.writers), "writer"),
        count(power.in_flight, "write"),
    )
}
