//! Goes through all tables, some at a time, whatever the server does meanwhile.

use std::time::{Duration, Instant};

use contract::observation::Record;

use crate::error::Result;
use crate::observe::read_messages;

/// How long all checks of a server may take, on hardware.
pub(super) const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Tables that are checked by one client: to start one takes an emulated guest a quarter of a second.
const BATCH: usize = 25;

/// How many tables may end the server before the rest is left alone.
const MOST_LOSSES: u32 = 5;

/// A table to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// What evidence calls it: `shop.orders`.
    pub(super) name: String,
    /// As its server calls it in a statement.
    pub(super) real: String,
    /// Its storage engine.
    pub(super) engine: String,
}

/// The kinds of messages and the messages about a table.
pub(super) type Messages = Vec<(String, String)>;

/// What came back when some tables were to be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// The messages about the first of these tables, as many as were checked to their end; and what else the
    /// client said.
    Answered(Vec<Messages>, String),
    /// The time was over.
    Late,
    /// The server could not be asked, for this reason, which is not the tables'.
    Gone(String),
}

/// How many tables were checked, and why no more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) checked: u32,
    pub(super) stopped: Option<String>,
}

/// Checks these tables, each batch by `ask`, which may take as long as it is told, and `record`s how each
/// check ended. A table whose check alone has no answer has ended the server.
pub(super) fn check_all(
    tables: &[Table],
    limit: Duration,
    mut ask: impl FnMut(&[Table], Duration) -> Result<Asked>,
    mut record: impl FnMut(&Record) -> Result<()>,
) -> Result<Done> {
    let deadline = Instant::now() + limit;
    let (mut rest, mut checked, mut losses, mut size) = (tables, 0, 0, BATCH);
    let stopped = loop {
        let Some(first) = rest.first() else { break None };
        let left = deadline.saturating_duration_since(Instant::now());
        let late =
            || format!("the {} min for checks were over at the table `{}`", limit.as_secs() / 60, first.name);
        if left.is_zero() {
            break Some(late());
        }
        let batch = rest.get(..size).unwrap_or(rest);
        let (answers, said) = match ask(batch, left)? {
            Asked::Answered(answers, said) => (answers, said),
            Asked::Late => break Some(late()),
            Asked::Gone(why) => {
                break Some(format!("the server could not be asked about `{}`: {why}", first.name));
            }
        };
        let answered = answers.len().min(batch.len());
        for (table, messages) in batch.iter().zip(answers) {
            record(&read_messages(&table.name, &table.engine, messages))?;
        }
        checked += answered;
        rest = rest.get(answered..).unwrap_or_default();
        if answered == batch.len() {
            size = BATCH;
        } else if size > 1 {
            // The next one alone, to be sure that it is this one.
            size = 1;
        } else {
            let lost = vec![("error".to_owned(), format!("its check had no answer: {}", said.trim()))];
            record(&read_messages(&first.name, &first.engine, lost))?;
            checked += 1;
            rest = rest.get(1..).unwrap_or_default();
            losses += 1;
            if losses == MOST_LOSSES && !rest.is_empty() {
                break Some(format!("the checks of {MOST_LOSSES} tables ended the server"));
            }
        }
    };
    Ok(Done { checked: u32::try_from(checked).unwrap_or(u32::MAX), stopped })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(count: usize) -> Vec<Table> {
        let table = |n| Table { name: format!("t{n}"), real: format!("`t{n}`"), engine: "InnoDB".to_owned() };
        (0..count).map(table).collect()
    }

    fn fine() -> Messages {
        vec![("status".to_owned(), "OK".to_owned())]
    }

    /// Checks tables on a server that each check of one of these ends. Returns the records' tables that
    /// cannot be used as well.
    fn check(tables: &[Table], deadly: &[&str]) -> (Done, Vec<String>, usize) {
        let (mut broken, mut seen) = (Vec::new(), 0);
        let ask = |batch: &[Table], _| {
            let alive = batch.iter().take_while(|table| !deadly.contains(&&*table.name));
            Ok(Asked::Answered(
                alive.map(|_| fine()).collect(),
                "ERROR 2013 (HY000): Lost connection".to_owned(),
            ))
        };
        let done = check_all(tables, LIMIT, ask, |record| {
            seen += 1;
            match record {
                Record::CheckTable { table, usable: false, messages, .. } => {
                    assert!(messages[0].contains("Lost connection"), "{messages:?}");
                    broken.push(table.clone());
                }
                record => assert!(matches!(record, Record::CheckTable { clean: true, .. }), "{record:?}"),
            }
            Ok(())
        });
        (done.unwrap(), broken, seen)
    }

    #[test]
    fn every_table_is_checked_once() {
        for count in [0, 1, BATCH, BATCH + 1, 3 * BATCH] {
            let (done, broken, seen) = check(&tables(count), &[]);
            assert_eq!((done.checked as usize, done.stopped, seen), (count, None, count));
            assert!(broken.is_empty());
        }
    }

    #[test]
    fn a_table_that_ends_the_server_is_found_among_others() {
        let (done, broken, seen) = check(&tables(60), &["t0", "t30", "t59"]);
        assert_eq!((done.checked, done.stopped, seen), (60, None, 60));
        assert_eq!(broken, ["t0", "t30", "t59"]);
    }

    #[test]
    fn a_server_that_every_table_ends_is_left_alone() {
        let all = tables(60);
        let names: Vec<_> = all.iter().map(|table| &*table.name).collect();
        let (done, broken, _) = check(&all, &names);
        assert_eq!((done.checked, broken.len()), (MOST_LOSSES, MOST_LOSSES as usize));
        assert!(done.stopped.unwrap().contains("ended the server"));
    }

    #[test]
    fn what_was_not_checked_is_said() {
        let says = |asked: Asked| {
            let done =
                check_all(&tables(3), LIMIT, |_, _| Ok(asked.clone()), |_| panic!("nothing was checked"))
                    .unwrap();
            assert_eq!(done.checked, 0);
            done.stopped.unwrap()
        };
        assert_eq!(says(Asked::Late), "the 15 min for checks were over at the table `t0`");
        let gone = says(Asked::Gone("it is out of memory".to_owned()));
        assert_eq!(gone, "the server could not be asked about `t0`: it is out of memory");
        let done =
            check_all(&tables(1), Duration::ZERO, |_, _| panic!("there is no time"), |_| Ok(())).unwrap();
        assert_eq!((done.checked, done.stopped.is_some()), (0, true));
    }
}
