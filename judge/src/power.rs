//! What a trial had the power to see: how much was under way when the guest
//! was frozen, and what was not examined.
//!
//! The order properties compare what was sent with what is there. With nothing
//! in flight, any snapshot of a server that idles passes them, lock or none.

use std::collections::BTreeMap;

use contract::figures::Power;
use contract::history::{Nanos, Schema};
use contract::property::Property;

use super::case::{NEVER, Span};
use super::evidence::{count, millis, quote};
use super::probes::{Proof, Quiesced};
use super::ruling::{Ruling, Unexamined};
use super::view::View;

/// Anything acknowledged within this time before the call of the freeze shows that
/// the load was still alive.
const RECENTLY: Nanos = 1_000_000_000;

/// A load that was silent for this long before the call of the freeze was not
/// stopped by it: it had stopped earlier. A guest under emulation acknowledges dozens of
/// transfers a second, and the pipeline waits for one through each door before it freezes.
const SILENT: Nanos = 2_000_000_000;

/// A way to the server, or a table, with nothing acknowledged in this time before the call of the freeze
/// is not under load. The pipeline waits for one acknowledgement of each, for 20 s at most.
const HEARD: Nanos = 25_000_000_000;

/// What the trial had the power to see.
pub(super) fn power(view: &View<'_>, rulings: &[(Property, Ruling)]) -> Power {
    let mut power = Power {
        not_examined: rulings
            .iter()
            .filter_map(|(property, ruling)| {
                let Err(Unexamined(why)) = ruling else { return None };
                Some((*property, why.clone()))
            })
            .collect(),
        resolution_ms: super::disks::resolution(view).map(|nanos| nanos as f64 / 1e6),
        ..Power::default()
    };
    let marks = view.marks();
    let Some(from) = marks.freeze_call.or(marks.snap_begin) else { return power };
    let frozen = marks.freeze_ok.or(marks.snap_begin).unwrap_or(from);
    let mut in_flight = BTreeMap::new();
    let mut acknowledged = BTreeMap::new();
    let mut last = 0;
    for (way, transfer, Span { sent, acked }) in operations(view) {
        // An operation that lost its answer long before is not in flight, whatever its outcome.
        let open = if acked == NEVER { sent.saturating_add(SILENT) > from } else { acked > frozen };
        if sent <= frozen && open {
            power.in_flight += 1;
            *in_flight.entry(way.clone()).or_insert(0) += 1;
            power.transfers_in_flight += u64::from(transfer);
        }
        if (view.case.cycle.begin..from).contains(&acked) {
            if transfer {
                last = last.max(acked);
            }
            let recent = acked.saturating_add(RECENTLY) >= from;
            *acknowledged.entry(way).or_insert(0) += u64::from(recent);
        }
    }
    power.in_flight_by = in_flight;
    power.acknowledged_last_second = acknowledged;
    power.silence_ms = (last > 0).then(|| millis(last, from));
    if let Ok(proof) = Proof::of(view) {
        power.probes_over_snapshot = proof.overlapping();
        power.lock = match (proof.quiesced(), proof.held_until_thaw()) {
            (Ok(Quiesced::Locked(waiting)), held) => {
                let until = if held.is_ok() { "the thaw" } else { "the end of the snapshot" };
                Some(format!(
                    "{} waited for the server's lock until {until}",
                    count(waiting as u64, "COMMIT")
                ))
            }
            (Ok(Quiesced::BackupMode(waiting)), held) => {
                let until = if held.is_ok() { "the thaw" } else { "the end of the snapshot" };
                Some(format!(
                    "{} waited for the frozen file system in backup mode until {until}",
                    count(waiting as u64, "COMMIT")
                ))
            }
            (Ok(Quiesced::Stopped), _) => {
                Some("no server ran, and its next start had nothing to recover".into())
            }
            (Err(_), _) => None,
        };
    }
    power
}

/// Every transfer and row: its door and schema, whether it is a transfer, and
/// when it was sent and its outcome known.
fn operations<'a>(view: &'a View<'_>) -> impl Iterator<Item = (String, bool, Span)> + 'a {
    let way = |c: u32, schema: Schema| {
        let door = view.case.setup.doors.get(usize::from(view.case.door_of(c)));
        let schema = if schema == Schema::Load { "load" } else { "second" };
        format!("{} {schema}", door.map_or("?", String::as_str))
    };
    (1u32..).zip(&view.case.clients).flat_map(move |(c, client)| {
        let follower = view.case.follower_of(c).and_then(|at| view.case.setup.followers.get(usize::from(at)));
        let way = way(c, follower.map_or(Schema::Load, |follower| follower.schema));
        let transfers = client.transfers.iter().map(|it| Span { sent: it.sent, acked: it.acked });
        let transfers = transfers.chain(client.rolled_back.iter().copied());
        let rows = client.rows.iter().map(|it| Span { sent: it.sent, acked: it.acked });
        let all = transfers.map(|span| (true, span)).chain(rows.map(|span| (false, span)));
        all.map(move |(transfer, span)| (way.clone(), transfer, span))
    })
}

/// Why a trial could not have seen whether the database was quiesced, if it could not.
pub(super) fn lacking(view: &View<'_>, power: &Power, stopped: bool) -> Option<String> {
    let silence = power.silence_ms.unwrap_or(f64::INFINITY);
    if silence >= SILENT as f64 / 1e6 {
        let seconds = silence / 1e3;
        return Some(format!(
            "no transfer was acknowledged for {seconds:.1} s before the freeze: the load had stopped before the guest was frozen"
        ));
    }
    // A clean stop lets what is under way come to its end.
    if power.transfers_in_flight == 0 && !stopped {
        return Some(
            "no transfer was in flight when the freeze returned, so their order proves nothing".into(),
        );
    }
    let from = view.marks().freeze_call.unwrap_or(0);
    let since = view.case.cycle.begin.max(from.saturating_sub(HEARD));
    let heard = |acked: Nanos| (since..from).contains(&acked);
    let through = |door: u8| {
        view.transfers().any(|(c, _, transfer, _)| view.case.door_of(c) == door && heard(transfer.acked))
    };
    let doors = view.case.setup.doors.iter().zip(0u8..).take(view.case.setup.writers as usize);
    if let Some((door, _)) = doors.into_iter().find(|(_, door)| !through(*door)) {
        let door = quote(door);
        return Some(format!("no transfer was acknowledged through {door} shortly before the freeze"));
    }
    let mut rows = vec![false; view.case.setup.followers.len()];
    for sent in view.rows().filter(|sent| heard(sent.row.acked)) {
        rows[usize::from(sent.table)] = true;
    }
    let deaf = view.case.setup.followers.iter().zip(rows).find(|(_, heard)| !heard);
    deaf.map(|(follower, _)| {
        format!("no row of `{}` was acknowledged shortly before the freeze", quote(&follower.table))
    })
}
