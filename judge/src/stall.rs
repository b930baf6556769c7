//! Durations, from the marks and the acknowledgements.

use std::collections::BTreeMap;

use contract::figures::Timings;
use contract::history::Nanos;

use super::case::NEVER;
use super::evidence::millis;
use super::view::View;

/// The timings of the freeze window.
pub(super) fn timings(view: &View<'_>) -> Timings {
    let marks = view.marks();
    let answered = marks.thaw_ok.or(marks.thaw_err);
    Timings {
        freeze: between(marks.freeze_call, marks.freeze_ok.or(marks.freeze_err)),
        snapshot: between(marks.snap_begin, marks.snap_end),
        thaw: between(marks.thaw_call, answered),
        window: between(marks.freeze_ok, marks.thaw_call),
        write_stall: write_stall(view).map(|stall| millis(stall.from, stall.to)),
        ..Timings::default()
    }
}

/// A client without an answer for this long after the window is blocked.
const BLOCKED: Nanos = 10_000_000_000;

/// Whether writes went on after the window, until the next cycle: transfers did, and no client waits in
/// vain at a door or a follower's table. A load at rest sends nothing.
pub(super) fn resumed(view: &View<'_>) -> Option<bool> {
    let marks = view.marks();
    let since = marks.thaw_ok.or(marks.thaw_err).or(marks.freeze_err).or(marks.snap_end)?;
    let until = view.case.cycle.until.unwrap_or(NEVER);
    if !view.transfers().any(|(_, _, it, _)| it.sent > since && it.acked < until) {
        return Some(false);
    }
    let patient = until.min(view.case.end).saturating_sub(BLOCKED);
    // By door, and by follower: whether a client waits there, and whether one was answered.
    let mut ways: BTreeMap<(bool, u8), [bool; 2]> = BTreeMap::new();
    let mut see = |way, sent: Nanos, heard: Nanos, acked: Nanos| {
        let [waits, answered] = ways.entry(way).or_default();
        *waits |= since.max(sent) < patient && heard >= until;
        *answered |= since < acked && acked < until;
    };
    for (c, _, it, _) in view.transfers() {
        see((true, view.case.door_of(c)), it.sent, it.heard, it.acked);
    }
    for it in view.rows() {
        see((false, it.table), it.row.sent, it.row.heard, it.row.acked);
    }
    Some(!ways.into_values().any(|[waits, answered]| waits && !answered))
}

fn between(from: Option<Nanos>, to: Option<Nanos>) -> Option<f64> {
    Some(millis(from?, to?))
}

/// The longest time without an acknowledged transfer around the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// The acknowledgement before it, or the window's begin where none came before.
    pub from: Nanos,
    /// The acknowledgement after it, or the window's end where none came after.
    pub to: Nanos,
    /// Both ends are acknowledgements. Otherwise it may have been longer.
    pub whole: bool,
}

/// The longest gap between two acknowledgements of transfers that overlaps the
/// time from the first mark to the last. Where none comes before or after, the mark
/// itself stands in, so that the result is never more than was observed.
pub(super) fn write_stall(view: &View<'_>) -> Option<Stall> {
    let marks = view.marks();
    let answered = marks.thaw_ok.or(marks.thaw_err);
    // A backup command that froze and copied nothing may still have kept writers waiting.
    let command = view.backup().and_then(|backup| Some((backup.began, backup.ended.as_ref()?.0)));
    let from = marks.freeze_call.or(marks.snap_begin).or(command.map(|(began, _)| began))?;
    let to = answered.or(marks.thaw_call).or(marks.snap_end).or(command.map(|(_, ended)| ended))?;
    let (mut before, mut after) = (None::<Nanos>, None::<Nanos>);
    let mut within = Vec::new();
    for (_, _, transfer, _) in view.transfers().filter(|(_, _, transfer, _)| transfer.is_acked()) {
        let t = transfer.acked;
        if t < from {
            before = before.max(Some(t));
        } else if t > to {
            after = Some(after.map_or(t, |first| first.min(t)));
        } else {
            within.push(t);
        }
    }
    if within.is_empty() && before.is_none() && after.is_none() {
        return None;
    }
    within.push(before.unwrap_or(from));
    within.push(after.unwrap_or(to));
    within.sort_unstable();
    let (from, to) = within.windows(2).map(|pair| (pair[0], pair[1])).max_by_key(|(from, to)| to - from)?;
    let whole = (before.is_some() || from != within[0]) && (after.is_some() || Some(&to) != within.last());
    Some(Stall { from, to, whole })
}
