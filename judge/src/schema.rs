//! The steps of the client that changes the schema, compared with the tables that
//! are there. D, D*, F, F*, C1 and R5 count them among the operations.

use contract::history::{Nanos, ddl_tables};

use super::case::Span;
use super::evidence::{Anchor, Evidence, quote};
use super::ruling::Unexamined;
use super::view::View;

/// The most tables that evidence names.
const NAMED: usize = 8;

/// The schema changes of a case.
pub(super) struct Steps<'a> {
    sent: &'a [Span],
    /// How many of them the tables hold; `None` when no number of them leaves
    /// these tables.
    held: Option<usize>,
    anchor: Anchor,
}

impl<'a> Steps<'a> {
    /// Compares the steps that were sent with the tables that are there; none of either
    /// when the load changed no schema.
    pub(super) fn of(view: &View<'a>) -> Result<Self, Unexamined> {
        let sent = view.case.schema_changes.as_slice();
        let held = match &view.observed()?.ddl_tables {
            None if sent.is_empty() => Some(0),
            None => return Err(Unexamined("the tables `ddl_*` were not listed".into())),
            Some(tables) => {
                let mut tables = tables.clone();
                tables.sort();
                // Steps beyond those that were sent are searched as well: they are of unknown origin.
                (0..=sent.len() + 1)
                    .find(|steps| u32::try_from(*steps).is_ok_and(|steps| ddl_tables(steps) == tables))
            }
        };
        Ok(Self { sent, held, anchor: view.anchor() })
    }

    /// Whether it is known which steps are there. R5 reports it if not.
    pub(super) fn known(&self) -> Result<(), Unexamined> {
        let why = || Unexamined("the tables `ddl_*` are not those of any number of schema changes".into());
        self.held.map(drop).ok_or_else(why)
    }

    /// The steps acknowledged before a time that are not there.
    pub(super) fn lost(&self, before: Nanos) -> Evidence {
        let held = self.held.unwrap_or(usize::MAX);
        self.lines("lost", |at, step| at >= held && step.acked_before(before))
    }

    /// The steps sent after a time that are there.
    pub(super) fn sent_after(&self, after: Nanos) -> Evidence {
        let held = self.held.unwrap_or(0);
        let mut late = self.lines("there", |at, step| at < held && step.sent > after);
        if held > self.sent.len() {
            late.add(|| format!("schema change {held}: there, but never sent"));
        }
        late
    }

    /// When the last step that is there was sent.
    pub(super) fn last_sent(&self) -> Option<Nanos> {
        let last = self.held?.min(self.sent.len()).checked_sub(1)?;
        self.sent.get(last).map(|step| step.sent)
    }

    fn lines(&self, what: &str, chosen: impl Fn(usize, &Span) -> bool) -> Evidence {
        let mut evidence = Evidence::default();
        for (at, step) in self.sent.iter().enumerate().filter(|(at, step)| chosen(*at, step)) {
            evidence.add(|| {
                let sent = self.anchor.when(step.sent);
                format!("schema change {} (sent {sent}): {what}", at + 1)
            });
        }
        evidence
    }
}

/// What is wrong with the tables when no number of steps leaves them.
pub(super) fn impossible(view: &View<'_>) -> Option<String> {
    let steps = Steps::of(view).ok()?;
    if steps.held.is_some() {
        return None;
    }
    let tables = view.observed().ok()?.ddl_tables.as_ref()?;
    let names: Vec<_> = tables.iter().take(NAMED).map(|table| quote(table)).collect();
    let more = if tables.len() > NAMED { ", ..." } else { "" };
    Some(format!(
        "the tables `ddl_*` are [{}{more}], which no number of schema changes leaves",
        names.join(", ")
    ))
}
