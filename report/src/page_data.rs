//! What a page shows: trials, their cycles, and what could be read of them.

use contract::events::Event;
use contract::grade::Outcome;
use contract::history::Quiescence;
use contract::plan::Plan;
use judge::verdict::Verdict;

/// Everything that one page shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// The names of the runs.
    pub runs: Vec<String>,
    /// Their trials.
    pub trials: Vec<TrialPage>,
}

/// One trial.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialPage {
    /// `core/no-hook::bookworm-mariadb::none`.
    pub name: String,
    /// Its run, where a page shows several.
    pub run: Option<String>,
    /// `plan.json`; an error is why it cannot be read.
    pub plan: Result<Plan, Unreadable>,
    /// `verdict.json`; an error is why there is none.
    pub verdict: Result<Verdict, Unreadable>,
    /// What the event log says, as far as it can be read.
    pub events: ReadPart<Vec<Event>>,
    /// Its cycles of freeze, snapshot and thaw, as far as its history can be read.
    pub cycles: ReadPart<Vec<CyclePage>>,
    /// Its files.
    pub files: Vec<Link>,
    /// The command that runs it again.
    pub again: Option<String>,
    /// The command that judges it again.
    pub judge: Option<String>,
}

impl TrialPage {
    /// How its server stands still for a backup, as far as its history can be read.
    pub(super) fn quiescence(&self) -> Quiescence {
        self.cycles.got.first().map(|cycle| cycle.quiescence).unwrap_or_default()
    }

    /// Its outcome; a trial without a verdict could not be
    /// judged.
    pub(super) fn outcome(&self) -> Outcome {
        self.verdict.as_ref().map_or(Outcome::Unknown, |verdict| verdict.outcome)
    }
}

/// One cycle of freeze, snapshot and thaw.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CyclePage {
    /// Its number, from 1.
    pub number: u32,
    /// How its server stands still for a backup.
    pub quiescence: Quiescence,
    /// Its own verdict, where the trial has several cycles; an error is why there is none.
    pub verdict: Option<Result<Verdict, Unreadable>>,
    /// The guest was frozen, or that was tried.
    pub frozen: bool,
    /// Its picture; `None` when the trial did not come that far, or has too many cycles.
    pub picture: Option<Drawing>,
    /// The same, as large as a word.
    pub small: Option<Drawing>,
    /// Why its observation could not be read.
    pub problem: Option<String>,
}

/// A picture that is drawn, as SVG: what it was drawn from does not fit into memory for every cycle
/// of every trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawing(pub(super) String);

/// Why a file of a trial is not shown, as a sentence for its page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub(super) String);

/// What could be read of a log, and what stood in the way of the rest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReadPart<T> {
    /// What was read.
    pub got: T,
    /// What was wrong, as sentences.
    pub problems: Vec<String>,
}

/// A file of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name in the trial's directory.
    pub name: String,
    /// Relative to the page.
    pub href: String,
    /// Bytes.
    pub size: u64,
}
