//! Whether the binary log, the second witness of what was committed, agrees
//! with the tables and with the recorded position: B1, B2, B3.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use contract::binlog::Key;
use contract::observation::ServerState;
use contract::property::Property;

use super::case::{LogPosition, NEVER, Observation, Tables};
use super::evidence::{Evidence, are, count, quote};
use super::ruling::{Defect, Ruling, Unexamined};
use super::view::{ACCOUNTS, BULK, COUNTERS, LEDGER, View};
use super::wal::{self, no_position};

/// B1, [`Property::BinlogAgreement`]. Both agree after any cut of one instant that kept what the server
/// had flushed. Where they disagree, rolling forward from this backup loses or repeats transfers.
pub(super) fn agreement(view: &View<'_>) -> Ruling {
    let (observation, _) = logs(view)?;
    if let Some(log) = observation.cut_logs.first() {
        let (file, why) = (quote(&log.what), quote(&log.why));
        return Err(Unexamined(format!("`{file}` could not be read to its end: {why}")));
    }
    view.read(&[LEDGER])?;
    let mut stored: Vec<Key> = observation.legs.iter().map(|leg| (leg.c, leg.n)).collect();
    stored.sort_unstable();
    stored.dedup();
    let mut logged = observation.logged.clone();
    logged.sort_unstable();

    let anchor = view.anchor();
    let name = |(c, n): Key| match view.case.transfer(c, n) {
        Some(transfer) => anchor.transfer(c, n, transfer),
        None => format!("client {c} transfer {n} (never sent)"),
    };
    let (mut unlogged, mut unstored, mut twice) =
        (Evidence::default(), Evidence::default(), Evidence::default());
    for pair in logged.chunk_by(PartialEq::eq).filter(|same| same.len() > 1) {
        twice.add(|| format!("{}: in the log {}", name(pair[0]), count(pair.len() as u64, "time")));
    }
    logged.dedup();
    for (key, side) in differences(&stored, &logged) {
        match side {
            Side::Tables => unlogged.add(|| format!("{}: in the tables, not in the log", name(key))),
            Side::Log => unstored.add(|| format!("{}: in the log, not in the tables", name(key))),
        }
    }

    let mut parts = Vec::new();
    for (evidence, what) in [
        (&unlogged, "in the tables and not in the binary log"),
        (&unstored, "in the binary log and not in the tables"),
        (&twice, "in the binary log more than once"),
    ] {
        let n = evidence.total();
        if n > 0 {
            parts.push(format!("{} {} {what}", count(n, "transfer"), are(n)));
        }
    }
    if parts.is_empty() {
        return Ok(None);
    }
    unlogged.append(unstored);
    unlogged.append(twice);
    Ok(Some(Defect::new(Property::BinlogAgreement, parts.join(", "), unlogged.into_lines())))
}

/// B2, [`Property::RecordedPosition`]. A log that goes on shows that the position was taken before the
/// lock, or that the lock did not hold.
pub(super) fn recorded_position(view: &View<'_>) -> Ruling {
    if !view.case.setup.quiescence.is_lock() {
        return wal::recorded_position(view);
    }
    let (observation, end) = logs(view)?;
    // What an earlier or a failed freeze left behind says nothing about this one.
    view.frozen()?;
    let Some(recorded) = &observation.position else {
        return Err(no_position(observation));
    };
    if recorded == end {
        return gtids_differ(observation);
    }
    let summary = if recorded.file == end.file {
        match recorded.byte.cmp(&end.byte) {
            Ordering::Less => {
                format!("the binary log goes on for {} after the recorded position", bytes(end, recorded))
            }
            _ => format!("the binary log ends {} before the recorded position", bytes(recorded, end)),
        }
    } else {
        "the recorded position is not in the last binary log".to_owned()
    };
    let evidence = vec![format!("recorded: {}", place(recorded)), format!("the log ends at: {}", place(end))];
    Ok(Some(Defect::new(Property::RecordedPosition, summary, evidence)))
}

/// The GTIDs beside the position are those of the restored server: B2's other half.
fn gtids_differ(observation: &Observation) -> Ruling {
    let restored = observation.gtids.get(&ServerState::Restored);
    if observation.position_gtid.is_empty() {
        return match restored {
            Some(restored) if !gtids(restored).is_empty() => Err(Unexamined(
                "no GTIDs were recorded beside the position, and the restored server has some".into(),
            )),
            _ => Ok(None),
        };
    }
    let restored = restored.ok_or_else(|| Unexamined("the restored server's GTIDs were not read".into()))?;
    if gtids(restored) == gtids(&observation.position_gtid) {
        return Ok(None);
    }
    let evidence = vec![
        format!("recorded: {}", quote(&observation.position_gtid)),
        format!("the restored server has: {}", quote(restored)),
    ];
    let summary = "the recorded GTIDs are not those of the restored server";
    Ok(Some(Defect::new(Property::RecordedPosition, summary, evidence)))
}

/// A set of GTIDs as it is compared: servers break it into lines at their liking.
fn gtids(text: &str) -> BTreeSet<String> {
    // A log has line breaks escaped.
    let text = text.replace("\\n", "");
    text.split(',')
        .map(|gtid| gtid.split_whitespace().collect())
        .filter(|gtid: &String| !gtid.is_empty())
        .collect()
}

/// B3, [`Property::RollForward`]. A position too early repeats a change, one too late skips it. Rows
/// and checksum of every table decide, MyISAM included, and the GTIDs; and the source's ledger must
/// hold the transfers of the history, so that two empty servers never agree. PostgreSQL has no GTIDs.
pub(super) fn roll_forward(view: &View<'_>) -> Ruling {
    let observation = view.served()?;
    view.frozen()?;
    let Some(replay) = &observation.roll_forward else {
        return Err(Unexamined("nothing was rolled forward: no hook recorded a position".into()));
    };
    let broken = |summary: String, evidence: Evidence| {
        Ok(Some(Defect::new(Property::RollForward, summary, evidence.into_lines())))
    };
    if !replay.applied {
        let mut evidence = Evidence::default();
        evidence.add(|| quote_end(&replay.detail));
        let logs = if view.case.setup.quiescence.is_lock() { "binary logs" } else { "write-ahead log" };
        return broken(format!("the source's {logs} cannot be applied from the recorded position"), evidence);
    }
    let (Some(live), Some(reached)) =
        (observation.tables.get(&ServerState::Live), observation.tables.get(&ServerState::RolledForward))
    else {
        return Err(Unexamined("the tables to compare after the roll-forward were not read".into()));
    };
    let mut different = Evidence::default();
    let mut unsure = None;
    for table in live.keys().chain(reached.keys()).collect::<BTreeSet<_>>() {
        let name = quote(table);
        match (live.get(table), reached.get(table)) {
            (Some((rows, _)), Some((other, _))) if rows != other => {
                different.add(|| format!("`{name}`: {other} rows, the source has {rows}"));
            }
            (Some((_, Some(sum))), Some((_, Some(other)))) if sum != other => {
                different.add(|| format!("`{name}`: other content (checksum {other}, the source {sum})"));
            }
            (Some((_, Some(_))), Some((_, Some(_)))) => {}
            (Some(_), Some(_)) => unsure = Some(name),
            (Some(_), None) => different.add(|| format!("`{name}`: missing, the source has it")),
            (None, _) => different.add(|| format!("`{name}`: the source has no such table")),
        }
    }
    let gtid = |state| observation.gtids.get(&state).map(String::as_str);
    let no_gtids = match (gtid(ServerState::Live), gtid(ServerState::RolledForward)) {
        (Some(live), Some(reached)) if gtids(live) != gtids(reached) => {
            different.add(|| format!("GTIDs: {}, the source has {}", quote(reached), quote(live)));
            false
        }
        (Some(live), Some(_)) => gtids(live).is_empty(),
        _ => true,
    };
    let acked = view.transfers().filter(|(_, _, transfer, _)| transfer.is_acked()).count() as u64;
    let sent = view.transfers().count() as u64;
    let legs = live.get(LEDGER).map_or(0, |(rows, _)| *rows);
    if !(2 * acked..=2 * sent).contains(&legs) {
        different.add(|| format!("the source's ledger has {legs} legs, {acked} transfers were acknowledged"));
    }
    if !different.is_empty() {
        let n = different.total();
        return broken(
            format!("after the roll-forward the data differs from the source's: {}", count(n, "difference")),
            different,
        );
    }
    all_compared(view, observation, live)?;
    if no_gtids && view.case.setup.quiescence.is_lock() {
        return Err(Unexamined("the GTIDs to compare after the roll-forward were not read".into()));
    }
    match unsure {
        Some(name) => Err(Unexamined(format!("the server gave no checksum of `{name}`"))),
        None => Ok(None),
    }
}

/// How many rows the source's tables must hold at least, and at most.
fn bounds<'a>(view: &'a View<'_>) -> Vec<(&'a str, u64, u64)> {
    let setup = &view.case.setup;
    let (accounts, writers) = (u64::from(setup.accounts), u64::from(setup.writers));
    let mut acked: Vec<u64> = vec![0; setup.followers.len()];
    for row in view.rows() {
        let at = usize::from(row.table);
        acked[at] += u64::from(row.row.acked != NEVER);
    }
    let done = view.case.bulk.iter().filter(|it| it.span.acked != NEVER);
    let bulk = done.map(|it| it.rows).sum();
    let followers = setup.followers.iter().zip(acked);
    let followers = followers.map(|(it, acked)| (it.table.as_str(), acked, u64::MAX));
    let others = [(ACCOUNTS, accounts, accounts), (COUNTERS, writers, writers), (BULK, bulk, u64::MAX)];
    followers.chain(others).collect()
}

/// The source's tables hold what was acknowledged, and each was compared, from a position that is known.
fn all_compared(view: &View<'_>, observation: &Observation, live: &Tables) -> Result<(), Unexamined> {
    for (table, least, most) in bounds(view) {
        let Some((held, _)) = live.get(table) else { continue };
        if !(least..=most).contains(held) {
            let table = quote(table);
            return Err(Unexamined(format!(
                "the source's `{table}` was read with {held} rows, and at least {least} must be there"
            )));
        }
    }
    if observation.position.is_none() && observation.wal_position.is_none() {
        return Err(Unexamined("the position from which the logs were replayed is not known".into()));
    }
    if let Some((table, _)) = view.tables().find(|(table, _)| !live.contains_key(*table)) {
        return Err(Unexamined(format!(
            "the table `{}` was not compared after the roll-forward",
            quote(table)
        )));
    }
    Ok(())
}

/// The end of what a program said, where its error is.
fn quote_end(text: &str) -> String {
    let from = text.char_indices().rev().nth(120).map_or(0, |(at, _)| at);
    format!("the client printed: ...{}", quote(&text[from..]))
}

/// What was observed, and the end of its binary logs, if there are any.
fn logs<'a>(view: &View<'a>) -> Result<(&'a Observation, &'a LogPosition), Unexamined> {
    let observation = view.observed()?;
    match (&observation.log_end, observation.cut_logs.first()) {
        (Some(end), _) => Ok((observation, end)),
        (None, Some(log)) => {
            let (file, why) = (quote(&log.what), quote(&log.why));
            Err(Unexamined(format!("`{file}` could not be read: {why}")))
        }
        (None, None) => Err(Unexamined("the server keeps no binary log".into())),
    }
}

fn bytes(later: &LogPosition, earlier: &LogPosition) -> String {
    count(later.byte.saturating_sub(earlier.byte), "byte")
}

fn place(place: &LogPosition) -> String {
    format!("`{}` byte {}", quote(&place.file), place.byte)
}

/// The side that holds what the other does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Tables,
    Log,
}

/// What only one of two sorted lists holds, in order.
fn differences(tables: &[Key], log: &[Key]) -> Vec<(Key, Side)> {
    let (mut tables, mut log) = (tables.iter().copied().peekable(), log.iter().copied().peekable());
    let mut found = Vec::new();
    loop {
        let (next, side) = match (tables.peek(), log.peek()) {
            (None, None) => return found,
            (Some(a), Some(b)) if a == b => {
                tables.next();
                log.next();
                continue;
            }
            (Some(a), Some(b)) if a > b => (log.next(), Side::Log),
            (Some(_), _) => (tables.next(), Side::Tables),
            (None, Some(_)) => (log.next(), Side::Log),
        };
        found.extend(next.map(|key| (key, side)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_their_side() {
        let found = differences(&[(1, 1), (1, 2), (3, 1)], &[(1, 2), (2, 1), (4, 1)]);
        let expected =
            [((1, 1), Side::Tables), ((2, 1), Side::Log), ((3, 1), Side::Tables), ((4, 1), Side::Log)];
        assert_eq!(found, expected);
        assert_eq!(differences(&[], &[]), []);
    }
}
