//! The report: one self-contained page about the trials of one or more runs.
//!
//! | file | does |
//! |---|---|
//! | `read` | reads runs and trial directories; the only contact with files |
//! | `window` | who wrote when around the freeze window, and what came back |
//! | `scale`, `text` | places on an axis; names, times and links for people |
//! | `draw`, `stages` | the pictures |
//! | `page`, `card` | the table of trials; one trial |
//! | `plot` | the picture of a measurement, which no page shows |
//!
//! Everything but [`read`] is pure: plain data in, a page out. A trial whose
//! files are missing or damaged gets its place and says so, because that is
//! when a report is needed most.

mod card;
mod draw;
mod page;
pub mod plot;
pub mod read;
mod scale;
mod stages;
mod text;
mod window;

use crate::events::Event;
use crate::plan::Plan;
use crate::verdict::{Outcome, Verdict};

pub use page::render;
pub use window::Window;

/// Everything that one page shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// The names of the runs.
    pub runs: Vec<String>,
    /// Their trials.
    pub trials: Vec<Trial>,
}

/// One trial.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// `core/no-hook::bookworm-mariadb::none`.
    pub name: String,
    /// Its run, where a page shows several.
    pub run: Option<String>,
    /// `plan.json`; an error is why it cannot be read.
    pub plan: Result<Plan, String>,
    /// `verdict.json`; an error is why there is none.
    pub verdict: Result<Verdict, String>,
    /// What the event log says, as far as it can be read.
    pub events: Partly<Vec<Event>>,
    /// The freeze window; `None` when the trial did not come that far.
    pub window: Partly<Option<Window>>,
    /// Its files.
    pub files: Vec<Link>,
    /// The command that runs it again.
    pub again: Option<String>,
    /// The command that judges it again.
    pub judge: Option<String>,
}

impl Trial {
    /// What became of it; a trial without verdict is one that the harness
    /// could not tell.
    fn outcome(&self) -> Outcome {
        self.verdict.as_ref().map_or(Outcome::Unknown, |verdict| verdict.outcome)
    }
}

/// What could be read of a log, and what stood in the way of the rest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Partly<T> {
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
