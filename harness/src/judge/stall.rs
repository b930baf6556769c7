//! Durations that the marks and the acknowledgements tell.

use super::tell::millis;
use super::view::View;
use crate::history::Nanos;
use crate::verdict::Timings;

/// The timings of the freeze window.
pub(super) fn timings(view: &View<'_>) -> Timings {
    let marks = view.marks();
    let answered = marks.thaw_ok.or(marks.thaw_err);
    Timings {
        freeze: between(marks.freeze_call, marks.freeze_ok.or(marks.freeze_err)),
        snapshot: between(marks.snap_begin, marks.snap_end),
        thaw: between(marks.thaw_call, answered),
        window: between(marks.freeze_ok, marks.thaw_call),
        write_stall: marks
            .freeze_call
            .or(marks.snap_begin)
            .zip(answered.or(marks.thaw_call).or(marks.snap_end))
            .and_then(|(from, to)| write_stall(view, from, to)),
        ..Timings::default()
    }
}

/// Whether writes went on after the window.
pub(super) fn resumed(view: &View<'_>) -> Option<bool> {
    let marks = view.marks();
    let since = marks.thaw_ok.or(marks.thaw_err).or(marks.freeze_err).or(marks.snap_end)?;
    Some(view.transfers().any(|(_, _, transfer, _)| transfer.sent > since && transfer.is_acked()))
}

fn between(from: Option<Nanos>, to: Option<Nanos>) -> Option<f64> {
    Some(millis(from?, to?))
}

/// The longest gap between two acknowledgements of transfers that overlaps the
/// interval, in milliseconds. Where none comes before or after, the interval's
/// own end stands in, so that the result is never more than was seen.
fn write_stall(view: &View<'_>, from: Nanos, to: Nanos) -> Option<f64> {
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
    within.windows(2).map(|pair| millis(pair[0], pair[1])).reduce(f64::max)
}
