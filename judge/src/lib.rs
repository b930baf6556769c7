//! The judge: from what was sent and what was restored to a grade.
//!
//! The question is whether the restored state is the state of *one instant*,
//! and whether that instant lies in the freeze window with nothing in flight.
//! Transfers are uniquely keyed, append-only and carry the versions of the
//! accounts they touched, so the order on every object is recorded instead of
//! inferred (the idea of Elle, Kingsbury and Alvaro, VLDB 2020). A set of
//! restored transfers is then the state of one instant exactly if it is closed
//! under real-time, causal and version order, which takes one pass and no
//! search.
//!
//! Everything but [`read`] and [`Judgement::keep_details`] is a pure function: no
//! clock, no files, no order of hashing. One file holds a family of properties:
//!
//! | file | properties | question |
//! |---|---|---|
//! | `boot` | R0, L1, L2, M | what do the disks and the boot show |
//! | `rows` | R1 to R5 | are the rows right in themselves |
//! | `cut` | D, D*, F, F* | is the cut where it must be |
//! | `order` | C1, C2, C3 | is it the cut of one instant |
//! | `quiet`, `probes`, `backup_mode` | Q1 to Q4 | was the guest quiet in the window, and by whose lock or backup mode |
//! | `tables` | N1, N2, N3 | are the non-transactional tables whole |
//! | `binlog`, `wal` | B1, B2, B3 | do the log and the recorded position agree with the tables |
//! | `disks` | X1, X2 | do the disks agree with each other |
//! | `conduct` | T1 to T3, T6, T7, T9, T10 | what did a backup tool do, and was its word true |
//! | `witness` | T4, T5 | did it copy a guest that stood still |
//! | `handed_back` | T8 | does its backup stand on its own |
//!
//! Everything about each property is in one table, [`contract::property`]. The evidence
//! that it must have is in the history's setup: one that lacks it says so and never passes. A grade needs the
//! properties that it rests on (see `grade`), and the top grade a load that was under way (see
//! `power`).

mod assemble;
mod backup_mode;
mod binlog;
mod boot;
mod case;
mod conduct;
mod cut;
mod dishonest;
mod disks;
mod dispatch;
mod evidence;
mod grade;
mod handed_back;
mod judgement;
mod observed;
mod order;
mod owed;
pub mod picture;
mod power;
mod probes;
mod quiet;
mod rows;
mod ruling;
mod schema;
mod stall;
mod tables;
mod tool_log;
mod trial_files;
pub mod verdict;
pub mod verification;
mod view;
mod wal;
mod witness;

use std::collections::BTreeMap;

use contract::figures::Counts;
use contract::finding::{Finding, Status};
use contract::history::Entry;
use contract::observation::Record;
use contract::property::Property;

pub use assemble::{MAX_ACCOUNTS, MAX_FOLLOWERS, MAX_WRITERS};
pub use case::Case;
pub use dishonest::DishonestRecord;
pub use judgement::Judgement;
use ruling::{Defect, Ruling, Unexamined};
pub use trial_files::{TrialFiles, cycle_dir, read};
use view::View;

impl Case {
    /// Makes a case from the records of both logs. The error names what no
    /// honest log contains, with a hint.
    pub fn new(
        history: impl IntoIterator<Item = Entry>,
        observation: Option<impl IntoIterator<Item = Record>>,
    ) -> Result<Self, DishonestRecord> {
        Self::of_cycle(1, history, observation)
    }

    /// The same of one cycle of a trial that has several, counted from 1.
    pub fn of_cycle(
        cycle: u32,
        history: impl IntoIterator<Item = Entry>,
        observation: Option<impl IntoIterator<Item = Record>>,
    ) -> Result<Self, DishonestRecord> {
        let mut builder = assemble::Assembler::default();
        history.into_iter().try_for_each(|entry| builder.entry(entry))?;
        let (mut case, cycles) = builder.finish();
        case.choose(&cycles, cycle);
        if let Some(records) = observation {
            case.observe();
            records.into_iter().try_for_each(|record| case.record(record))?;
        }
        Ok(case)
    }
}

/// Judges a case.
pub fn judge(case: &Case) -> Judgement {
    let view = View::new(case);
    let rulings: Vec<(Property, Ruling)> = Property::ALL
        .into_iter()
        .filter(|it| view.has(*it))
        .map(|it| (it, dispatch::check(it, &view)))
        .collect();
    let power = power::power(&view, &rulings);
    let (grade, reason) = grade::grade(&view, &rulings, &power);
    let mut properties = BTreeMap::new();
    let mut defects = Vec::new();
    for (property, ruling) in rulings {
        let status = match ruling {
            Ok(None) => Status::Holds,
            Ok(Some(defect)) => {
                defects.push((property, defect));
                Status::Broken
            }
            Err(Unexamined(why)) => Status::NotApplicable(why),
        };
        properties.insert(property, status);
    }
    defects.sort_by_key(|(property, defect)| grade::severity(*property, defect));
    let mut details = BTreeMap::new();
    let mut findings = Vec::new();
    for (property, Defect { summary, evidence, .. }) in defects {
        let (evidence, all) = evidence.shown();
        details.extend(all.map(|all| (property, all)));
        findings.push(Finding { property, id: property.id().to_owned(), summary, evidence });
    }
    Judgement {
        grade,
        reason,
        findings,
        details,
        properties,
        power,
        counts: counts(&view),
        backup: conduct::figures(&view),
        timings: stall::timings(&view),
        resumed: stall::resumed(&view),
    }
}

fn counts(view: &View<'_>) -> Counts {
    let mut counts = Counts::default();
    for (_, _, transfer, mask) in view.transfers() {
        counts.acknowledged += u64::from(transfer.is_acked());
        counts.unknown += u64::from(!transfer.is_acked());
        counts.restored += u64::from(mask == 0b11);
    }
    counts
}
