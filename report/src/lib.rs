//! The report: one self-contained page about the trials of one or more runs.
//!
//! | file | does |
//! |---|---|
//! | `page_data` | what a page shows, as plain data |
//! | `read` | reads runs and trial directories; the only contact with files |
//! | `scale`, `lanes`, `text` | places on an axis; rows of clients; names, times and links for people |
//! | `draw`, `stages` | the pictures |
//! | `badges` | outcomes, grades, names and times, wherever they stand |
//! | `page`, `card`, `cycles`, `power` | the table of trials; one trial; its cycles; what it could see |
//! | `tools` | the table of what backup tools do, a page of Markdown |
//! | `verification` | the page about a backup without a history |
//! | `plot` | the picture of a measurement, which no page shows |
//!
//! The judge decides who wrote when and what was restored: a page draws
//! [`judge::picture`] and reads no log of operations itself.
//!
//! Everything but [`read`] is pure: plain data in, a page out. A trial whose
//! files are missing or damaged gets its place and says so, because that is
//! when a report is needed most.

mod badges;
mod card;
mod cycles;
mod draw;
mod lanes;
mod page;
mod page_data;
pub mod plot;
mod power;
pub mod read;
mod scale;
mod stages;
mod text;
mod tools;
mod verification;

pub use page::render;
pub use page_data::{CyclePage, Drawing, Link, Page, ReadPart, TrialPage, Unreadable};
pub use tools::tools;
pub use verification::render_verification;
